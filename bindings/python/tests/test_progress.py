"""Progress, and calls that are stopped."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import weights

import cortex
from cortex._native import ffi
from cortex._progress import run


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A model of a few tensors."""
    path = tmp_path / "in.npz"
    np.savez(path, **{f"w{i}": weights(64, 64) + i for i in range(8)})
    return path


def calls(source: Path, out: Path):
    """Both long calls, each with a function of what `progress` is."""
    archive = source.parent / "source.cai"
    cortex.compress_model(source, archive)
    yield lambda progress: cortex.compress_model(source, out, progress=progress)
    yield lambda progress: cortex.decompress_model(archive, out, progress=progress)


def test_progress_is_told_where_the_call_was_made(source: Path, tmp_path: Path) -> None:
    for call in calls(source, tmp_path / "out"):
        told: list[cortex.Progress] = []
        threads = set()

        def tell(progress: cortex.Progress) -> None:
            threads.add(threading.current_thread())  # noqa: B023
            told.append(progress)  # noqa: B023

        call(tell)
        assert threads == {threading.current_thread()}
        assert told[-1].done_tensors == told[-1].total_tensors == 8
        assert told[-1].done_bytes == told[-1].total_bytes == 8 * 64 * 64 * 4
        assert {p.tensor for p in told} <= {f"w{i}" for i in range(8)}
        assert [p.done_tensors for p in told] == sorted(p.done_tensors for p in told)


def test_false_stops(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for call in calls(source, out):
        with pytest.raises(cortex.CancelledError) as e:
            call(lambda p: p.done_tensors < 3)
        assert e.value.kind == "cancelled" and not out.exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.npz", "source.cai"]


@pytest.mark.parametrize("kind", [ZeroDivisionError, KeyboardInterrupt, SystemExit])
def test_exceptions_come_out(source: Path, tmp_path: Path, kind: type[BaseException]) -> None:
    out = tmp_path / "out"

    def fail(progress: cortex.Progress) -> None:
        if progress.done_tensors == 2:
            raise kind("mine")

    for call in calls(source, out):
        with pytest.raises(kind, match="mine") as e:
            call(fail)
        assert [entry.name for entry in e.traceback][-1] == "fail"
        assert not out.exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.npz", "source.cai"]


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Python's own handler, also where whoever runs the tests ignores the signal, as shells have
    jobs in the background do."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_stops(source: Path, tmp_path: Path) -> None:
    """In the thread of the call, at a moment at which nothing of it is under way."""
    out = tmp_path / "out"

    def interrupt(progress: cortex.Progress) -> None:
        signal.raise_signal(signal.SIGINT)

    before = threading.active_count()
    for call in calls(source, out):
        with pytest.raises(KeyboardInterrupt):
            call(interrupt)
        assert not out.exists()
    assert threading.active_count() == before


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_stops_a_call_that_tells_nobody() -> None:
    """The thread of the call waits where it hears of signals, and has the library stopped."""
    told = ffi.new("cortex_progress *")
    ended = []

    def work(tell: Any) -> None:
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        # As the library does it, until it is told to stop.
        ended.append(any(tell(told, ffi.NULL) for _ in range(1_000_000)))

    with pytest.raises(KeyboardInterrupt):
        run(work, None, "compress")
    assert ended == [True]


def test_a_bar(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cortex.compress_model(source, tmp_path / "out.cai", progress=True)
    shown = capsys.readouterr()
    assert "compress" in shown.err and "100%" in shown.err and "131k/131k" in shown.err
    assert shown.out == ""


def test_a_bar_without_tqdm(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with pytest.raises(ImportError, match="tqdm.*cortex-tensor\\[progress\\]"):
        cortex.compress_model(source, tmp_path / "out.cai", progress=True)
    assert not (tmp_path / "out.cai").exists()
