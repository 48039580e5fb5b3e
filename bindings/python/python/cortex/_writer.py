"""Writing an archive, a tensor at a time, in bounded memory."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Optional, Union

import numpy.typing as npt

from cortex._convert import StrPath, encoded_path, fetch, text
from cortex._error import InvalidArgumentError, call
from cortex._native import ffi, lib
from cortex._tensor import Tensor, compress

__all__ = ["Writer", "save"]


class Writer:
    """
    A ``.cai`` file in the making. It appears under its name when it is finished, whole; until
    then, and for ever if the writer is closed or the program is killed, what stood there
    stays.

    As a context manager it finishes at the end of the block, and leaves nothing behind when an
    exception ends it. Calls from several threads take turns.
    """

    __slots__ = ("__weakref__", "_handle", "_lock")

    _handle: Any

    def __init__(self, path: StrPath) -> None:
        """
        Starts an archive that will be ``path``. Its folder must exist and be writable: the file
        is written beside its place and renamed.
        """
        self._handle = None
        # The library wants a writer for itself. A signal handler may come in between.
        self._lock = threading.RLock()
        handle = fetch(lib.cortex_writer_create, "cortex_writer *", encoded_path(path, "path"))
        self._handle = ffi.gc(handle, lib.cortex_writer_free)

    @property
    def _open(self) -> Any:
        """The handle, to be used under the lock."""
        handle = self._handle
        if handle is None:
            raise InvalidArgumentError("the writer is finished or closed")
        return handle

    def add(
        self, name: str, tensor: Union[Tensor, npt.ArrayLike], spec: Optional[str] = None
    ) -> None:
        """
        Writes a tensor under ``name``, which no other tensor or alias of this file may have.

        A :class:`Tensor` is written as it is, and then takes no ``spec``; an array is first
        compressed, as :func:`cortex.compress` does. After any error but
        :class:`InvalidArgumentError` and :class:`LimitExceededError` the writer can only be
        closed.
        """
        encoded = text(name, "name")
        if isinstance(tensor, Tensor):
            if spec is not None:
                raise InvalidArgumentError(f"spec is {spec!r}, but the tensor is compressed already")
            self._add(encoded, tensor._open)
        else:
            with compress(tensor, spec) as compressed:
                self._add(encoded, compressed._open)

    def _add(self, encoded: bytes, tensor: Any) -> None:
        with self._lock:
            call(lib.cortex_writer_add, self._open, encoded, tensor)

    def alias(self, alias: str, target: str) -> None:
        """Makes ``alias`` another name of the tensor ``target``, which was added before."""
        names = text(alias, "alias"), text(target, "target")
        with self._lock:
            call(lib.cortex_writer_alias, self._open, *names)

    def set_metadata(self, key: str, value: str) -> None:
        """Sets free text about the model; a key that is set again has its last value."""
        texts = text(key, "key"), text(value, "value")
        with self._lock:
            call(lib.cortex_writer_set_metadata, self._open, *texts)

    def finish(self) -> int:
        """
        Completes the file, brings it to the disk and gives it its name; the size of the file in
        bytes. Whether it succeeds or raises, the writer is closed then.
        """
        with self._lock:
            handle = self._open
            try:
                return int(fetch(lib.cortex_writer_finish, "uint64_t", handle))
            finally:
                self.close()

    def close(self) -> None:
        """
        Ends it; one that was not finished leaves no file behind. Closing again does nothing;
        anything else raises :class:`InvalidArgumentError` from now on.
        """
        with self._lock:
            handle, self._handle = self._handle, None
            if handle is not None:
                # At once, and not when the last reference goes: files disappear here.
                ffi.release(handle)

    @property
    def closed(self) -> bool:
        """Whether it was finished or closed."""
        return self._handle is None

    def __enter__(self) -> Writer:
        with self._lock:
            self._open  # noqa: B018 - raises if it is closed
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        value: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        with self._lock:
            if kind is None and not self.closed:
                self.finish()
            else:
                self.close()

    def __repr__(self) -> str:
        return f"<cortex.Writer{' closed' if self.closed else ''}>"


def save(
    path: StrPath,
    tensors: Mapping[str, Union[Tensor, npt.ArrayLike]],
    *,
    spec: Optional[str] = None,
    metadata: Optional[Mapping[str, str]] = None,
    aliases: Optional[Mapping[str, str]] = None,
) -> int:
    """
    Writes an archive of named tensors, in their order; the size of the file in bytes.

    Arrays are compressed by ``spec``, as :func:`cortex.compress` does: to the letter, whatever
    their size and dtype. A :class:`Tensor` is written as it is, so that each can have a spec
    of its own. ``metadata`` is free text about the model, ``aliases`` further names: alias to
    name. The file appears when it is complete; after an exception what stood there stays.
    """
    with Writer(path) as writer:
        for key, value in (metadata or {}).items():
            writer.set_metadata(key, value)
        for name, tensor in tensors.items():
            given = None if isinstance(tensor, Tensor) else spec
            writer.add(name, tensor, given)
        for alias, target in (aliases or {}).items():
            writer.alias(alias, target)
        return writer.finish()
