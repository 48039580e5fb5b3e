"""Archives: many compressed tensors in one .cai file, read as they are used."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Optional

from cortex._convert import StrPath, encoded_path, fetch, owned_string, text
from cortex._error import InvalidArgumentError, UnknownNameError, call, string
from cortex._native import ffi, lib
from cortex._tensor import Tensor

__all__ = ["Archive", "open"]


def open(path: StrPath, mapped: bool = True) -> Archive:  # noqa: A001 - as `gzip.open` is named
    """
    Opens a ``.cai`` archive.

    ``mapped=True`` maps the file: what is not packed is used in place, and only what is used
    is read. The file must not be cut or rewritten while it is open; replacing it by rename, as
    Cortex does, is safe. ``mapped=False`` maps nothing: every chunk is read and checked each
    time it is used. For files that somebody may cut short, and network drives.

    Raises :class:`IoError` if it cannot be read, :class:`CorruptError` if it is no archive,
    was cut short, or its index is damaged, :class:`UnsupportedError` for a newer major version
    of the format.
    """
    return Archive(path, mapped)


class Archive(Mapping[str, Tensor]):
    """
    An open ``.cai`` file: a mapping of the names of its tensors, in the order of the file, to
    :class:`Tensor`. Each look-up opens the tensor anew; its data is read when it is used.

    Aliases, further names of tensors as of tied weights, are found by ``archive[alias]`` and
    ``alias in archive``, but are not counted or gone through, so that every tensor comes once;
    :attr:`aliases` has them.

    It may be used from several threads at once. Tensors keep the file open and may outlive it.
    """

    __slots__ = ("__weakref__", "_handle", "_names")

    _handle: Any
    _names: Optional[tuple[str, ...]]

    def __init__(self, path: StrPath, mapped: bool = True) -> None:
        """As :func:`cortex.open`."""
        self._handle = None
        self._names = None
        encoded = encoded_path(path, "path")
        function = lib.cortex_archive_open if mapped else lib.cortex_archive_open_unmapped
        handle = fetch(function, "cortex_archive *", encoded)
        self._handle = ffi.gc(handle, lib.cortex_archive_free)

    @property
    def _open(self) -> Any:
        """The handle. Who uses it keeps it in a variable, which keeps it alive."""
        handle = self._handle
        if handle is None:
            raise InvalidArgumentError("the archive is closed")
        return handle

    def close(self) -> None:
        """
        Closes it; tensors that were taken from it live on, and calls at work in other threads
        finish. Closing again does nothing; anything else raises
        :class:`InvalidArgumentError` from now on.
        """
        # The handle frees the archive when the last call that holds it has returned.
        self._handle = None

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._handle is None

    def __enter__(self) -> Archive:
        self._open  # noqa: B018 - raises if it is closed
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        value: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        self.close()

    def _all_names(self) -> tuple[str, ...]:
        handle = self._open
        if self._names is None:
            count = lib.cortex_archive_len(handle)
            found = (string(lib.cortex_archive_name(handle, i)) for i in range(count))
            self._names = tuple(name or "" for name in found)
        return self._names

    def __len__(self) -> int:
        """Number of tensors; aliases do not count."""
        return int(lib.cortex_archive_len(self._open))

    def __iter__(self) -> Iterator[str]:
        """The names of the tensors, in the order of the file."""
        return iter(self._all_names())

    def __contains__(self, name: object) -> bool:
        """Whether there is a tensor or an alias of this name."""
        handle = self._open
        if not isinstance(name, str) or "\0" in name:
            return False
        return bool(lib.cortex_archive_find(handle, text(name, "name")) >= 0)

    def __getitem__(self, name: str) -> Tensor:
        """
        Opens the tensor of this name, or the one that this alias names.

        Raises :class:`UnknownNameError`, a ``KeyError``, if there is none, and
        :class:`UnsupportedError` if it is stored in a way that this version does not know.
        """
        handle = self._open
        try:
            pointer = fetch(
                lib.cortex_archive_tensor, "cortex_tensor *", handle, text(name, "name")
            )
        except InvalidArgumentError as error:
            if name in self:
                raise
            raise UnknownNameError(str(error), tensor=error.tensor, offset=error.offset) from None
        return Tensor._own(pointer)

    @property
    def aliases(self) -> dict[str, str]:
        """Further names of tensors: alias to name."""
        handle = self._open
        found = {}
        for i in range(lib.cortex_archive_alias_len(handle)):
            alias = string(lib.cortex_archive_alias(handle, i))
            target = string(lib.cortex_archive_alias_target(handle, i))
            found[alias or ""] = target or ""
        return found

    @property
    def metadata(self) -> dict[str, str]:
        """Free text about the model, by key."""
        handle = self._open
        found = {}
        for i in range(lib.cortex_archive_metadata_len(handle)):
            key = lib.cortex_archive_metadata_key(handle, i)
            found[string(key) or ""] = string(lib.cortex_archive_metadata(handle, key)) or ""
        return found

    @property
    def file_bytes(self) -> int:
        """Bytes of the whole file."""
        return int(lib.cortex_archive_file_bytes(self._open))

    def inspect(self) -> dict[str, Any]:
        """
        What the archive holds, the same that ``cortex inspect --json`` prints: sizes, ratio,
        and for each tensor name, dtype, shape, spec, raw_bytes, stored_bytes, bits_per_weight,
        relative_error, sqnr_db (``None`` for infinity) and max_abs_error.
        """
        handle = self._open
        json_text = ffi.new("char **")
        call(lib.cortex_archive_inspect, handle, json_text)
        found: dict[str, Any] = json.loads(owned_string(json_text))
        return found

    def verify(self) -> None:
        """
        Reads every byte of the file and checks it.

        Raises :class:`CorruptError` if something is damaged; it names the tensor and the
        offset of the first, and its message says how many there are.
        """
        call(lib.cortex_archive_verify, self._open)

    def __repr__(self) -> str:
        if self._handle is None:
            return "<cortex.Archive closed>"
        return f"<cortex.Archive {len(self)} tensors, {self.file_bytes} bytes>"
