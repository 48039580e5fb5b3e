"""tests/golden/v1: files of format version 1, which open for ever."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from test_vectors import DTYPES

import cortex

FOLDER = ROOT / "tests/golden/v1"
MANIFEST = json.loads((FOLDER / "manifest.json").read_text(encoding="utf-8"))
ARCHIVES, REFUSED = MANIFEST["archives"], MANIFEST["refused"]


@pytest.mark.parametrize("mapped", [True, False])
@pytest.mark.parametrize("entry", [pytest.param(a, id=a["file"]) for a in ARCHIVES])
def test_opens(entry: dict[str, Any], mapped: bool) -> None:
    with cortex.open(FOLDER / entry["file"], mapped=mapped) as archive:
        assert archive.metadata == entry["metadata"]
        assert archive.aliases == entry["aliases"]
        assert list(archive) == [t["name"] for t in entry["tensors"]]
        archive.verify()
        for expected in entry["tensors"]:
            tensor = archive[expected["name"]]
            assert tensor.name == expected["name"] and tensor.spec == expected["spec"]
            assert list(tensor.shape) == expected["shape"]
            assert tensor.dtype == np.dtype(DTYPES[expected["dtype"]])
            assert np.asarray(tensor).tobytes() == base64.b64decode(expected["decoded"])
        for alias, target in entry["aliases"].items():
            assert np.asarray(archive[alias]).tobytes() == np.asarray(archive[target]).tobytes()


@pytest.mark.parametrize("entry", [pytest.param(a, id=a["file"]) for a in REFUSED])
def test_what_no_version_knows_is_refused_by_name(entry: dict[str, Any]) -> None:
    with cortex.open(FOLDER / entry["file"]) as archive:
        refused = [name for name in archive if not name.startswith("known")]
        assert refused
        for name in archive:
            if name in refused:
                with pytest.raises(cortex.UnsupportedError, match=name) as e:
                    archive[name]  # noqa: B018
                assert e.value.kind == "unsupported" and e.value.tensor == name
            else:
                archive[name].decompress()


@pytest.mark.parametrize("entry", [pytest.param(a, id=a["file"]) for a in ARCHIVES])
def test_damage_is_told_and_nothing_worse(entry: dict[str, Any], tmp_path: Path) -> None:
    whole = (FOLDER / entry["file"]).read_bytes()
    path = tmp_path / "damaged.cai"
    kinds = set()
    for position in range(0, len(whole), max(len(whole) // 60, 1)):
        data = bytearray(whole)
        data[position] ^= 0x10
        path.write_bytes(data)
        try:
            with cortex.open(path) as archive:
                for tensor in archive.values():
                    tensor.decompress()
                archive.verify()
        except cortex.CortexError as error:
            kinds.add(error.kind)
    assert "corrupt" in kinds
    assert kinds <= {"corrupt", "unsupported", "limit_exceeded", "invalid_argument"}
