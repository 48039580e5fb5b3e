"""Archives: mappings of names to tensors."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from conftest import weights

import cortex


@pytest.mark.parametrize("mapped", [True, False])
def test_a_mapping_of_names(model: Path, mapped: bool) -> None:
    with cortex.open(model, mapped=mapped) as archive:
        assert isinstance(archive, Mapping)
        assert list(archive) == list(archive.keys()) == ["w", "packed", "b"]
        assert len(archive) == 3
        assert "w" in archive and "tied" in archive
        assert "x" not in archive and 3 not in archive and "w\0" not in archive
        assert archive["w"].name == "w" and archive["tied"].name == "w"
        assert {n: t.shape for n, t in archive.items()} == {
            "w": (64, 48),
            "packed": (96, 32),
            "b": (5,),
        }
        assert np.array_equal(np.asarray(archive["b"]), np.arange(5))
        assert np.array_equal(archive["packed"].decompress(), weights(96, 32))
        assert archive.get("x") is None
        assert archive.aliases == {"tied": "w"}
        assert archive.metadata == {"who": "tests", "μ": "ñ"}
        assert archive.file_bytes == model.stat().st_size
        archive.verify()
        archive["w"].verify()
        assert "3 tensors" in repr(archive)


def test_inspect(model: Path) -> None:
    with cortex.open(model) as archive:
        found = archive.inspect()
        assert [t["name"] for t in found["tensors"]] == list(archive)
        assert found["output_bytes"] == archive.file_bytes
        for entry, tensor in zip(found["tensors"], archive.values()):
            assert tuple(entry["shape"]) == tensor.shape
            assert entry["stored_bytes"] == tensor.nbytes
            assert entry["spec"] == tensor.spec
            assert entry["relative_error"] == tensor.error.relative


def test_unknown_names(model: Path) -> None:
    with cortex.open(model) as archive:
        with pytest.raises(KeyError) as e:
            archive["pack"]
        assert isinstance(e.value, cortex.UnknownNameError)
        assert e.value.kind == "invalid_argument" and "pack" in str(e.value)
        assert not str(e.value).startswith(("'", '"'))
        with pytest.raises(TypeError):
            archive[0]  # type: ignore[index]
        with pytest.raises(cortex.InvalidArgumentError, match="NUL at byte 1"):
            archive["w\0"]


def test_tensors_outlive_it(model: Path) -> None:
    archive = cortex.open(model)
    tensor = archive["w"]
    dense = tensor.decompress()
    archive.close()
    assert archive.closed
    del archive
    model.unlink()
    assert np.array_equal(tensor.decompress(), dense)


def test_closing(model: Path) -> None:
    archive = cortex.open(model)
    archive.close()
    archive.close()
    assert "closed" in repr(archive)
    attempts = [
        lambda: len(archive), lambda: list(archive), lambda: archive["w"], lambda: "w" in archive,
        lambda: archive.metadata, lambda: archive.aliases, lambda: archive.file_bytes,
        archive.inspect, archive.verify, archive.__enter__,
    ]  # fmt: skip
    for attempt in attempts:
        with pytest.raises(cortex.InvalidArgumentError, match="the archive is closed"):
            attempt()


@pytest.mark.parametrize("name", ["mo̊del-模型-ñ.cai", "a b.cai"])
def test_any_path(model: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    os.rename(model, path)
    for given in (path, str(path), os.fsencode(path)):
        assert len(cortex.open(given)) == 3
    with pytest.raises(TypeError):
        cortex.open(3)  # type: ignore[arg-type]
    with pytest.raises(cortex.InvalidArgumentError, match="NUL"):
        cortex.open("a\0b")
    with pytest.raises(cortex.InvalidArgumentError, match="empty"):
        cortex.open("")
    with pytest.raises(cortex.InvalidArgumentError, match="UTF-8"):
        cortex.open(b"\xff.cai")


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="missing.cai") as e:
        cortex.open(tmp_path / "missing.cai")
    assert isinstance(e.value, cortex.IoError) and e.value.kind == "io"
    text = tmp_path / "text.cai"
    text.write_text("not an archive " * 100)
    for mapped in (True, False):
        with pytest.raises(cortex.CorruptError) as c:
            cortex.open(text, mapped=mapped)
        assert c.value.kind == "corrupt"


@pytest.mark.parametrize("mapped", [True, False])
def test_damage_is_told_and_nothing_worse(model: Path, tmp_path: Path, mapped: bool) -> None:
    whole = model.read_bytes()
    with cortex.open(model) as archive:
        expected = {n: t.decompress().tobytes() for n, t in archive.items()}
    path = tmp_path / "damaged.cai"
    found = 0
    for position in range(0, len(whole), 29):
        data = bytearray(whole)
        data[position] ^= 0x41
        path.write_bytes(data)
        try:
            with cortex.open(path, mapped=mapped) as archive:
                archive.verify()
                for name, tensor in archive.items():
                    assert tensor.decompress().tobytes() == expected[name]
        except cortex.CortexError as error:
            assert error.kind in ("corrupt", "unsupported", "limit_exceeded", "invalid_argument")
            found += 1
    # Padding may be flipped unseen.
    assert found > len(whole) / 29 * 0.9
    for cut in range(0, len(whole), 997):
        path.write_bytes(whole[:cut])
        with pytest.raises(cortex.CortexError):
            cortex.open(path, mapped=mapped)
