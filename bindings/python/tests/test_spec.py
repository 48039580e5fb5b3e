"""Specs and versions."""

from __future__ import annotations

from importlib.metadata import version

import pytest

import cortex


def test_parse_spec() -> None:
    assert cortex.parse_spec("int8") == cortex.parse_spec(" int8 ") == "int8"
    assert cortex.parse_spec("int4(group=32)") == cortex.parse_spec("int4")
    with pytest.raises(cortex.InvalidArgumentError, match="column 1.*int9.*int8") as e:
        cortex.parse_spec("int9")
    assert e.value.kind == "invalid_argument"
    with pytest.raises(TypeError):
        cortex.parse_spec(None)  # type: ignore[arg-type]


def test_codecs() -> None:
    found = cortex.codecs()
    assert set(found) == {"directives", "forms", "packs"}
    names = {entry["name"] for entry in found["forms"]}
    assert {"dense", "int8", "mask"} <= names
    assert all(entry["summary"] and "options" in entry for entry in found["packs"])


def test_versions() -> None:
    assert cortex.__version__ == cortex.version() == version("cortex-tensor")
    assert cortex.abi_version() == cortex._native.lib.CORTEX_ABI_VERSION
