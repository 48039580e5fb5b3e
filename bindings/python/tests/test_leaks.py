"""Nothing stays behind: memory, files and mappings are counted."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import Callable

import numpy as np
import pytest
from conftest import weights

import cortex

pytestmark = pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="counts in /proc")


def resident() -> int:
    """Bytes of memory in use."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")


def counts(path: Path) -> tuple[int, int]:
    """Open files, and mappings of `path`."""
    maps = Path("/proc/self/maps").read_text()
    return len(os.listdir("/proc/self/fd")), maps.count(str(path))


def stays_even(work: Callable[[], None], path: Path, times: int, most: int) -> None:
    """Runs `work` as often again as it took to warm up: memory may not grow by `most` bytes."""
    for _ in range(times):
        work()
    gc.collect()
    before, files = resident(), counts(path)
    for _ in range(times):
        work()
    gc.collect()
    assert counts(path) == files
    assert resident() - before < most


def test_ten_thousand_archives(model: Path) -> None:
    def work() -> None:
        with cortex.open(model) as archive, archive["w"] as tensor:
            tensor.matmul(x, out=y)

    x, y = weights(1, 48), np.empty((1, 64), np.float32)
    stays_even(work, model, 5_000, 2 << 20)


def test_a_thousand_that_nobody_closes(model: Path) -> None:
    kept = []

    def work() -> None:
        archive = cortex.open(model)
        kept.append((archive, archive["w"], cortex.compress(weights(8, 8)), cortex.SdrIndex(64)))
        if len(kept) == 1000:
            kept.clear()

    stays_even(work, model, 1_000, 2 << 20)
    assert counts(model)[1] == 0


def test_errors_and_results(model: Path, tmp_path: Path) -> None:
    tensor = cortex.open(model)["w"]

    def work() -> None:
        with pytest.raises(cortex.CortexError):
            cortex.parse_spec("int9")
        with pytest.raises(cortex.CortexError):
            cortex.open(tmp_path / "none")
        with pytest.raises(cortex.CortexError):
            tensor.matmul(weights(2, 47))
        tensor.matmul(weights(2, 48)[::-1])
        np.asarray(tensor)
        cortex.parse_spec("int8")
        cortex.open(model).inspect()

    stays_even(work, model, 500, 2 << 20)


def test_long_calls(digits: Path, tmp_path: Path) -> None:
    def work() -> None:
        cortex.compress_model(digits, tmp_path / "a.cai", spec="dense", progress=lambda p: None)
        with pytest.raises(cortex.CancelledError):
            cortex.compress_model(digits, tmp_path / "b.cai", progress=lambda p: False)

    # Threads that start and end move the allocators' arenas about.
    stays_even(work, tmp_path / "a.cai", 60, 16 << 20)
