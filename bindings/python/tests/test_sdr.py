"""Sets of active bits, and the index that finds them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import cortex


def small() -> cortex.SdrIndex:
    index = cortex.SdrIndex(64)
    index.add(7, [3, 1, 2])
    index.add(2**64 - 1, np.array([1, 2, 60], np.int64))
    index.add(5, {9})
    return index


def test_an_index() -> None:
    index = small()
    assert (index.bits, len(index)) == (64, 3) and index.memory_bytes > 0
    found = index.get(7)
    assert found.dtype == np.uint32 and found.tolist() == [1, 2, 3]
    assert index.top_k([2, 1, 60], 10) == [(2**64 - 1, 3), (7, 2)]
    assert index.top_k(iter([1]), 1) == [cortex.Match(id=7, overlap=1)]
    assert index.top_k(np.array([1], np.uint8), 2**60)[1].id == 2**64 - 1
    assert index.top_k([], 3) == [] and index.top_k([1], 0) == []
    assert index.remove(7) and not index.remove(7)
    assert len(index) == 2 and "2 sets of 64 bits" in repr(index)
    index.add(8, [])
    assert index.get(8).size == 0


def test_saved_and_loaded(tmp_path: Path) -> None:
    path = tmp_path / "ñ.sdr"
    small().save(path)
    index = cortex.SdrIndex.load(path)
    assert index.bits == 64 and index.top_k([2, 1, 60], 10) == small().top_k([2, 1, 60], 10)
    data = bytearray(path.read_bytes())
    for position in range(len(data)):
        changed = data.copy()
        changed[position] ^= 0x41
        path.write_bytes(changed)
        try:
            cortex.SdrIndex.load(path).top_k([1], 3)
        except cortex.CortexError as error:
            assert error.kind in ("corrupt", "unsupported", "limit_exceeded")
    path.write_bytes(data[:-1])
    with pytest.raises(cortex.CorruptError):
        cortex.SdrIndex.load(path)
    with pytest.raises(cortex.IoError):
        cortex.SdrIndex.load(tmp_path / "none")
    with pytest.raises(cortex.IoError):
        index.save(tmp_path / "none" / "a.sdr")


def test_bad_input() -> None:
    index = small()
    for bits in (0, 2**30):
        with pytest.raises(cortex.InvalidArgumentError):
            cortex.SdrIndex(bits)
    for active, message in (
        ([64], "64"),
        ([1, 1], "given twice"),
        ([-1], "the bit -1"),
        ([2**32 + 1], f"the bit {2**32 + 1}"),
        ([1.0], "active.dtype is float64"),
        (np.zeros(64, bool), "active.dtype is bool"),
        (np.array([[1]]), "2 dimensions"),
    ):
        for call in (lambda a: index.add(9, a), lambda a: index.top_k(a, 1)):
            with pytest.raises(cortex.InvalidArgumentError, match=message):
                call(active)
    with pytest.raises(cortex.InvalidArgumentError, match="7"):
        index.add(7, [1])
    with pytest.raises(cortex.InvalidArgumentError, match="nothing is stored under id 9"):
        index.get(9)
    for number in (-1, 2**64):
        with pytest.raises(cortex.InvalidArgumentError, match="id is"):
            index.get(number)
    with pytest.raises(cortex.InvalidArgumentError, match="k is -1"):
        index.top_k([1], -1)
    with pytest.raises(TypeError):
        index.add("a", [1])  # type: ignore[arg-type]
    assert len(index) == 3


def test_closing(tmp_path: Path) -> None:
    with small() as index:
        assert not index.closed
    index.close()
    assert index.closed and "closed" in repr(index)
    for attempt in (
        lambda: index.bits, lambda: len(index), lambda: index.memory_bytes, index.__enter__,
        lambda: index.add(1, [1]), lambda: index.get(1), lambda: index.remove(1),
        lambda: index.top_k([1], 1), lambda: index.save(tmp_path / "a"),
    ):  # fmt: skip
        with pytest.raises(cortex.InvalidArgumentError, match="the index is closed"):
            attempt()
