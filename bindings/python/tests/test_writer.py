"""Writing archives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import weights

import cortex


def test_a_writer(tmp_path: Path) -> None:
    path = tmp_path / "a.cai"
    compressed = cortex.compress(weights(64, 48), "int8")
    with cortex.Writer(path) as writer:
        writer.set_metadata("key", "old")
        writer.set_metadata("key", "value")
        writer.add("w", compressed)
        writer.add("v", weights(8, 8), "int4")
        writer.add("i", np.arange(4))
        writer.alias("tied", "w")
        assert not path.exists()
        assert writer.finish() == path.stat().st_size
    assert writer.closed and "closed" in repr(writer)
    with cortex.open(path) as archive:
        assert {n: t.spec for n, t in archive.items()}["w"] == compressed.spec
        assert archive["v"].spec == cortex.parse_spec("int4")
        assert archive["i"].dtype == np.int64
        assert archive.aliases == {"tied": "w"} and archive.metadata == {"key": "value"}
    assert [p.name for p in tmp_path.iterdir()] == ["a.cai"]


def test_the_end_of_the_block_finishes(tmp_path: Path) -> None:
    path = tmp_path / "a.cai"
    with cortex.Writer(path) as writer:
        writer.add("w", weights(8, 8))
    assert list(cortex.open(path)) == ["w"]


def test_an_exception_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "a.cai"
    with pytest.raises(RuntimeError, match="mine"):
        with cortex.Writer(path) as writer:
            writer.add("w", weights(8, 8))
            raise RuntimeError("mine")
    assert writer.closed and list(tmp_path.iterdir()) == []


def test_closed_and_forgotten_writers_leave_nothing_behind(tmp_path: Path) -> None:
    old = cortex.save(tmp_path / "a.cai", {"w": weights(8, 8)})
    writer = cortex.Writer(tmp_path / "a.cai")
    writer.add("x", weights(8, 8))
    writer.close()
    writer.close()
    forgotten = cortex.Writer(tmp_path / "a.cai")
    forgotten.add("x", weights(8, 8))
    del forgotten
    assert [p.name for p in tmp_path.iterdir()] == ["a.cai"]
    assert (tmp_path / "a.cai").stat().st_size == old
    for attempt in (
        writer.finish,
        writer.__enter__,
        lambda: writer.add("w", weights(2, 2)),
        lambda: writer.alias("a", "b"),
        lambda: writer.set_metadata("a", "b"),
    ):
        with pytest.raises(cortex.InvalidArgumentError, match="finished or closed"):
            attempt()


def test_names(tmp_path: Path) -> None:
    with cortex.Writer(tmp_path / "a.cai") as writer:
        writer.add("w", weights(8, 8))
        with pytest.raises(cortex.InvalidArgumentError, match="w"):
            writer.add("w", weights(8, 8))
        with pytest.raises(cortex.InvalidArgumentError, match="nothing"):
            writer.alias("a", "nothing")
        with pytest.raises(cortex.InvalidArgumentError, match="name has a NUL at byte 1"):
            writer.add("a\0", weights(8, 8))
        with pytest.raises(TypeError, match="name must be a str"):
            writer.add(3, weights(8, 8))  # type: ignore[arg-type]
        with pytest.raises(cortex.InvalidArgumentError, match="compressed already"):
            writer.add("v", cortex.compress(weights(8, 8)), "int8")
        writer.add("v", weights(8, 8))
    assert list(cortex.open(tmp_path / "a.cai")) == ["w", "v"]


def test_folders_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(cortex.IoError) as e:
        cortex.Writer(tmp_path / "none" / "a.cai")
    assert e.value.kind == "io"


def test_save(tmp_path: Path) -> None:
    path = tmp_path / "ñ.cai"
    arrays = {"w": weights(64, 64), "v": weights(2, 3)}
    written = cortex.save(path, arrays, spec="int8", metadata={"a": "b"})
    assert written == path.stat().st_size
    with cortex.open(path) as archive:
        assert [t.spec for t in archive.values()] == [cortex.parse_spec("int8")] * 2
        assert archive.metadata == {"a": "b"}
        # Tensors of an archive go into another as they are.
        cortex.save(tmp_path / "again.cai", dict(archive), spec="lossless")
        again = cortex.open(tmp_path / "again.cai")
        assert np.array_equal(again["w"].decompress(), archive["w"].decompress())
        assert again["w"].spec == archive["w"].spec


def test_save_is_all_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.cai"
    cortex.save(path, {"w": weights(8, 8)})
    before = path.read_bytes()
    with pytest.raises(cortex.InvalidArgumentError, match="NaN at index 0"):
        cortex.save(path, {"w": weights(8, 8), "bad": np.full((8, 8), np.nan)}, spec="int8")
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(cortex.InvalidArgumentError, match="the tensor is closed"):
        closed = cortex.compress(weights(2, 2))
        closed.close()
        cortex.save(path, {"w": closed})
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1
