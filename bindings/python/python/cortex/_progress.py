"""Long calls: how far they have come, and how they are stopped."""

from __future__ import annotations

import queue
import threading
from contextlib import ExitStack
from typing import Any, Callable, NamedTuple, Optional, Union

from cortex._error import string
from cortex._native import ffi

__all__ = ["Progress"]


class Progress(NamedTuple):
    """How far a long call has come."""

    done_bytes: int
    """Dense bytes of the tensors that are done."""

    total_bytes: int
    """Dense bytes of all tensors."""

    done_tensors: int
    """Tensors that are done."""

    total_tensors: int
    """All tensors."""

    tensor: str
    """Name of the tensor at work."""


ProgressFn = Callable[[Progress], Any]
"""Called in the thread of the call. ``False`` stops the call, which then raises
:class:`CancelledError`; an exception stops it and comes out of it."""


def run(
    work: Callable[[Any], None], progress: Union[ProgressFn, bool, None], title: str
) -> None:
    """
    Runs ``work``, given a ``cortex_progress_fn``, in a thread of its own.

    The library calls from any of its threads; what it tells is handed over to this one and
    answered here. So the caller's function runs where the caller expects it, and this thread,
    which waits in Python, still answers to Ctrl-C.
    """
    told: queue.SimpleQueue[Optional[Progress]] = queue.SimpleQueue()
    answers: queue.SimpleQueue[bool] = queue.SimpleQueue()
    stop = threading.Event()
    failed: list[BaseException] = []

    def tell(progress: Any, _user_data: Any) -> int:
        if stop.is_set():
            return 1
        told.put(
            Progress(
                progress.done_bytes,
                progress.total_bytes,
                progress.done_tensors,
                progress.total_tensors,
                string(progress.tensor) or "",
            )
        )
        return 0 if answers.get() else 1

    def body() -> None:
        try:
            # What goes wrong in `tell` itself stops the call.
            work(ffi.callback("cortex_progress_fn", tell, error=1))
        except BaseException as error:
            failed.append(error)
        finally:
            told.put(None)

    with ExitStack() as stack:
        function = _function(progress, title, stack)
        thread = threading.Thread(target=body, name=f"cortex {title}")
        try:
            thread.start()
            while True:
                now = told.get()
                if now is None:
                    break
                answers.put(function is None or function(now) is not False)
        except BaseException:
            # Also Ctrl-C, which may come anywhere above.
            stop.set()
            answers.put(False)
            if thread.is_alive():
                thread.join()
            raise
        thread.join()
    if failed:
        raise failed[0]


def _function(
    progress: Union[ProgressFn, bool, None], title: str, stack: ExitStack
) -> Optional[ProgressFn]:
    if progress is None or progress is False:
        return None
    if progress is True:
        return _bar(title, stack)
    if not callable(progress):
        raise TypeError(f"progress must be a bool or callable, not {type(progress).__name__}")
    return progress


def _bar(title: str, stack: ExitStack) -> ProgressFn:
    """A bar of tqdm, which is closed with the call."""
    try:
        from tqdm.auto import tqdm
    except ImportError as error:
        raise ImportError(
            "progress=True shows a bar of tqdm: install it (pip install "
            "'cortex-tensor[progress]'), or pass a function"
        ) from error
    bar = stack.enter_context(tqdm(desc=title, unit="B", unit_scale=True))

    def show(progress: Progress) -> None:
        bar.total = progress.total_bytes
        bar.set_postfix_str(progress.tensor, refresh=False)
        bar.update(progress.done_bytes - bar.n)

    return show
