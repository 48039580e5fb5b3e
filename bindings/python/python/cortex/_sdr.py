"""Sparse distributed representations: sets of a few active bits among many."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, NamedTuple, Optional, Union

import numpy as np
import numpy.typing as npt

from cortex._convert import Array, StrPath, address, encoded_path, fetch, size
from cortex._error import InvalidArgumentError, call
from cortex._native import ffi, lib

__all__ = ["Match", "SdrIndex"]

Active = Union[Iterable[int], npt.NDArray[Any]]

_MAX_U32 = (1 << 32) - 1


class Match(NamedTuple):
    """A stored set and how many active bits it shares with the one asked for."""

    id: int
    """The number it was added under."""

    overlap: int
    """Shared active bits, at least one."""


class _Turns:
    """Readers together, a writer alone."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._readers = 0
        self._writing = False

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Together with other readers."""
        with self._changed:
            self._changed.wait_for(lambda: not self._writing)
            self._readers += 1
        try:
            yield
        finally:
            with self._changed:
                self._readers -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """With nobody else."""
        with self._changed:
            self._changed.wait_for(lambda: not self._writing and not self._readers)
            self._writing = True
        try:
            yield
        finally:
            with self._changed:
                self._writing = False
                self._changed.notify_all()


class SdrIndex:
    """
    Sets of active bits under numbers, searched by the bits that they share.

    ``active`` is any iterable or array of different bit numbers, in any order. The index may be
    used from several threads: searches run together, changes alone.
    """

    __slots__ = ("__weakref__", "_handle", "_turns")

    _handle: Any

    def __init__(self, bits: int) -> None:
        """An empty index of sets of ``bits`` bits each, 1 to 1048576."""
        self._handle = None
        self._turns = _Turns()
        handle = fetch(lib.cortex_sdr_index_create, "cortex_sdr_index *", size(bits, "bits"))
        self._handle = ffi.gc(handle, lib.cortex_sdr_index_free)

    @classmethod
    def load(cls, path: StrPath) -> SdrIndex:
        """
        Reads an index that :meth:`save` wrote, and checks it. Nothing of the file is used
        afterwards.

        Raises :class:`IoError` if it cannot be read, :class:`CorruptError` if it is no index,
        was cut short, or is damaged, :class:`LimitExceededError` if it would take far more
        memory than the file has bytes, :class:`UnsupportedError` for a newer version.
        """
        handle = fetch(
            lib.cortex_sdr_index_load, "cortex_sdr_index *", encoded_path(path, "path")
        )
        index = object.__new__(cls)
        index._turns = _Turns()
        index._handle = ffi.gc(handle, lib.cortex_sdr_index_free)
        return index

    @property
    def _open(self) -> Any:
        """The handle. Who uses it keeps it in a variable, which keeps it alive."""
        handle = self._handle
        if handle is None:
            raise InvalidArgumentError("the index is closed")
        return handle

    def close(self) -> None:
        """
        Frees it; calls at work in other threads finish. Closing again does nothing; anything
        else raises :class:`InvalidArgumentError` from now on.
        """
        # The handle frees the index when the last call that holds it has returned.
        self._handle = None

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._handle is None

    def __enter__(self) -> SdrIndex:
        self._open  # noqa: B018 - raises if it is closed
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        value: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        self.close()

    def save(self, path: StrPath) -> None:
        """
        Writes the index to a file, the same bytes for the same sets in whatever order they
        came. The file appears when it is complete; what stood there is replaced then.
        """
        handle = self._open
        with self._turns.shared():
            call(lib.cortex_sdr_index_save, handle, encoded_path(path, "path"))

    @property
    def bits(self) -> int:
        """Bits of every set, active or not."""
        return int(lib.cortex_sdr_index_bits(self._open))

    def __len__(self) -> int:
        """Number of stored sets."""
        handle = self._open
        with self._turns.shared():
            return int(lib.cortex_sdr_index_len(handle))

    @property
    def memory_bytes(self) -> int:
        """Bytes of memory that the sets and what finds them take, without what the allocator
        adds."""
        handle = self._open
        with self._turns.shared():
            return int(lib.cortex_sdr_index_memory_bytes(handle))

    def add(self, id: int, active: Active) -> None:  # noqa: A002 - what it is called everywhere
        """
        Stores a set under ``id``, 0 to 2⁶⁴ − 1.

        Raises :class:`InvalidArgumentError` if a bit is not below :attr:`bits` or is given
        twice, or the number is in use.
        """
        handle, number, values = self._open, _id(id), _bits(active)
        with self._turns.alone():
            call(lib.cortex_sdr_index_add, handle, number, _pointer(values), values.size)

    def get(self, id: int) -> npt.NDArray[np.uint32]:  # noqa: A002
        """
        The active bits of the set stored under ``id``, uint32, in increasing order.

        Raises :class:`InvalidArgumentError` if nothing is stored under it.
        """
        handle, number = self._open, _id(id)
        with self._turns.shared():
            count = fetch(
                lambda *rest: lib.cortex_sdr_index_get(handle, number, ffi.NULL, 0, *rest),
                "size_t",
            )
            values = np.empty(count, np.uint32)
            pointer, written = _pointer(values), ffi.new("size_t *")
            call(lib.cortex_sdr_index_get, handle, number, pointer, count, written)
        return values

    def remove(self, id: int) -> bool:  # noqa: A002
        """Removes the set stored under ``id``; whether there was one."""
        handle, number = self._open, _id(id)
        with self._turns.alone():
            return bool(fetch(lib.cortex_sdr_index_remove, "int32_t", handle, number))

    def top_k(self, active: Active, k: int) -> list[Match]:
        """
        The ``k`` stored sets that share most active bits with the set ``active``, largest
        overlap first, the smaller number first among equals; exact, and without those that
        share none.
        """
        handle, values, wanted = self._open, _bits(active), size(k, "k")
        with self._turns.shared():
            # No more can come, and room for all that was asked for may not be there.
            room = min(wanted, lib.cortex_sdr_index_len(handle))
            matches = ffi.new("cortex_sdr_match[]", room)
            found = fetch(
                lambda *rest: lib.cortex_sdr_index_top_k(
                    handle, _pointer(values), values.size, room, matches, *rest
                ),
                "size_t",
            )
        return [Match(m.id, m.overlap) for m in matches[0:found]]

    def __repr__(self) -> str:
        if self._handle is None:
            return "<cortex.SdrIndex closed>"
        return f"<cortex.SdrIndex {len(self)} sets of {self.bits} bits>"


def _id(number: int) -> int:
    # A size_t may be narrower than the library's numbers, but not where wheels are made for.
    return size(number, "id")


def _bits(active: Active) -> Array:
    """Bit numbers as uint32; those that are none are refused, not wrapped round."""
    array = np.asarray(active if isinstance(active, np.ndarray) else list(active))
    if array.ndim != 1:
        raise InvalidArgumentError(f"active has {array.ndim} dimensions; 1 is needed")
    if array.size == 0:
        return np.empty(0, np.uint32)
    if array.dtype.kind not in "iu":
        raise InvalidArgumentError(f"active.dtype is {array.dtype}; integers are needed")
    for value in (array.min(), array.max()):
        if not 0 <= value <= _MAX_U32:
            raise InvalidArgumentError(f"active has the bit {value}; it must be 0 to {_MAX_U32}")
    return np.ascontiguousarray(array, np.uint32)


def _pointer(values: Array) -> Any:
    return ffi.cast("uint32_t *", address(values))
