"""Errors: what the library says, as exceptions."""

from __future__ import annotations

from typing import Any, ClassVar, Optional

from cortex._native import ffi, lib

__all__ = [
    "CancelledError",
    "CorruptError",
    "CortexError",
    "InternalError",
    "InvalidArgumentError",
    "IoError",
    "LimitExceededError",
    "OutOfMemoryError",
    "UnknownNameError",
    "UnsupportedError",
]


class CortexError(Exception):
    """
    Anything that the library refuses or cannot do.

    Every one that is raised is of the subclass that belongs to its kind, which also derives
    from the exception that Python programs expect for such a thing, such as ``ValueError`` or
    ``OSError``.
    """

    kind: str = "internal"
    """What went wrong, for programs: ``"invalid_argument"``, ``"unsupported"``, ``"corrupt"``,
    ``"limit_exceeded"``, ``"io"``, ``"out_of_memory"``, ``"cancelled"``, ``"internal"``.
    Further kinds may come."""

    tensor: Optional[str] = None
    """The name of the tensor in question, where there is one."""

    offset: Optional[int] = None
    """The offset in the file, in bytes, of what is wrong, where there is one."""

    def __init__(
        self, message: str, *, tensor: Optional[str] = None, offset: Optional[int] = None
    ) -> None:
        super().__init__(message)
        self.tensor = tensor
        self.offset = offset

    def __str__(self) -> str:
        # KeyError would show it quoted.
        return str(self.args[0])


class InvalidArgumentError(CortexError, ValueError):
    """An argument, spec, shape or dtype is wrong, or an object is closed; the message names it."""

    kind = "invalid_argument"


class UnknownNameError(InvalidArgumentError, KeyError):
    """An archive has no tensor of this name."""


class UnsupportedError(CortexError, NotImplementedError):
    """Valid, but not something that this build or version can do."""

    kind = "unsupported"


class CorruptError(CortexError, ValueError):
    """A file is damaged or is not what it claims to be; see ``tensor`` and ``offset``."""

    kind = "corrupt"


class LimitExceededError(CortexError, ValueError):
    """A file, or a shape, asks for more than the limits allow."""

    kind = "limit_exceeded"


class IoError(CortexError, OSError):
    """The operating system refused a read, write, map or rename. ``errno`` is not known."""

    kind = "io"


class OutOfMemoryError(CortexError, MemoryError):
    """Memory could not be had."""

    kind = "out_of_memory"


class CancelledError(CortexError):
    """A progress callback asked to stop."""

    kind = "cancelled"


class InternalError(CortexError, RuntimeError):
    """A bug in Cortex."""

    kind = "internal"


class _Kinds:
    """The exception for each status."""

    of: ClassVar[dict[str, type[CortexError]]] = {
        kind.kind: kind
        for kind in (
            InvalidArgumentError,
            UnsupportedError,
            CorruptError,
            LimitExceededError,
            IoError,
            OutOfMemoryError,
            CancelledError,
            InternalError,
        )
    }


def string(pointer: Any) -> Optional[str]:
    """The text that a ``const char *`` points to; ``None`` for NULL."""
    return None if pointer == ffi.NULL else ffi.string(pointer).decode("utf-8", "replace")


def exception(error: Any) -> CortexError:
    """The exception for a ``cortex_error *``, which is freed."""
    try:
        name = string(lib.cortex_error_kind_name(error)) or "internal"
        message = string(lib.cortex_error_message(error)) or name
        tensor = string(lib.cortex_error_tensor(error))
        offset = lib.cortex_error_offset(error)
    finally:
        lib.cortex_error_free(error)
    kind = _Kinds.of.get(name, CortexError)
    made = kind(message, tensor=tensor, offset=None if offset < 0 else offset)
    # A kind of a newer library, which has no class here.
    made.kind = name
    return made


def call(function: Any, *arguments: Any) -> None:
    """Calls a function of the library that takes ``cortex_error **`` last."""
    error = ffi.new("cortex_error **")
    if function(*arguments, error):
        raise exception(error[0])
