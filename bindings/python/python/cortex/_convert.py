"""Values on their way to the library and back: texts, paths, sizes and arrays."""

from __future__ import annotations

import operator
import os
from collections.abc import Sequence
from typing import Any, NoReturn, Optional, Union

import numpy as np
import numpy.typing as npt

from cortex._error import InvalidArgumentError, call, string
from cortex._native import ffi, lib

StrPath = Union[str, bytes, "os.PathLike[str]", "os.PathLike[bytes]"]
"""A path in any of the forms that ``open`` takes."""

Array = npt.NDArray[Any]

F32 = np.dtype(np.float32)

_MAX_SIZE = (1 << 8 * ffi.sizeof("size_t")) - 1

# Element types by NumPy's kind and bytes, which are the same for "long" and "long long".
_CODES = {
    ("f", 8): lib.CORTEX_DTYPE_F64,
    ("f", 4): lib.CORTEX_DTYPE_F32,
    ("f", 2): lib.CORTEX_DTYPE_F16,
    ("i", 8): lib.CORTEX_DTYPE_I64,
    ("i", 4): lib.CORTEX_DTYPE_I32,
    ("i", 2): lib.CORTEX_DTYPE_I16,
    ("i", 1): lib.CORTEX_DTYPE_I8,
    ("u", 8): lib.CORTEX_DTYPE_U64,
    ("u", 4): lib.CORTEX_DTYPE_U32,
    ("u", 2): lib.CORTEX_DTYPE_U16,
    ("u", 1): lib.CORTEX_DTYPE_U8,
    ("b", 1): lib.CORTEX_DTYPE_BOOL,
}
_DTYPES: dict[int, np.dtype[Any]] = {
    code: np.dtype(f"{kind}{size}") for (kind, size), code in _CODES.items()
}


def text(value: str, name: str) -> bytes:
    """A text as the library takes it, which ends at the first NUL."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {type(value).__name__}")
    return _without_nul(value.encode(), name)


def optional_text(value: Optional[str], name: str) -> Any:
    """A text, or NULL for ``None``."""
    return ffi.NULL if value is None else text(value, name)


def encoded_path(value: StrPath, name: str) -> bytes:
    """A path as the library takes it: UTF-8, whatever the locale says."""
    found = os.fspath(value)
    encoded = found.encode("utf-8", "surrogateescape") if isinstance(found, str) else found
    return _without_nul(encoded, name)


def _without_nul(encoded: bytes, name: str) -> bytes:
    if b"\0" in encoded:
        raise InvalidArgumentError(f"{name} has a NUL at byte {encoded.index(0)}")
    return encoded


def owned_string(pointer: Any) -> str:
    """The text in a ``char **`` that the library filled, which is freed."""
    try:
        return string(pointer[0]) or ""
    finally:
        lib.cortex_string_free(pointer[0])


def size(value: Any, name: str) -> int:
    """A number for a ``size_t``."""
    number = operator.index(value)
    if not 0 <= number <= _MAX_SIZE:
        raise InvalidArgumentError(f"{name} is {number}; it must be 0 to {_MAX_SIZE}")
    return number


def sizes(values: Sequence[int], name: str) -> Any:
    """A ``size_t[]`` of a shape."""
    return ffi.new("size_t[]", [size(v, f"{name}[{i}]") for i, v in enumerate(values)])


def dtype(code: int) -> np.dtype[Any]:
    """The NumPy dtype of an element type."""
    if code == lib.CORTEX_DTYPE_BF16:
        return _bfloat16()
    return _DTYPES[code]


def _bfloat16() -> np.dtype[Any]:
    try:
        import ml_dtypes
    except ImportError as error:
        raise ImportError(
            "NumPy has no bfloat16 of its own: install ml_dtypes (pip install "
            "'cortex-tensor[bf16]'), or use decode_rows_f32, which needs no such dtype"
        ) from error
    found: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return found


def _code(given: np.dtype[Any], name: str) -> int:
    code = _CODES.get((given.kind, given.itemsize))
    if code is None and given.name == "bfloat16":
        code = lib.CORTEX_DTYPE_BF16
    if code is None:
        names = [string(lib.cortex_dtype_name(c)) for c in sorted([*_DTYPES, lib.CORTEX_DTYPE_BF16])]
        known = ", ".join(n for n in names if n)
        raise InvalidArgumentError(f"{name}.dtype is {given}; one of {known} is needed")
    return int(code)


class View:
    """
    An array, lent to the library: ``pointer`` is the ``cortex_view *``, and this object keeps
    what it points to.

    Strides are passed on. An array is copied only where the library has no words for how it
    lies: in another byte order, or with strides that are no multiple of an element.
    """

    __slots__ = ("array", "pointer", "_shape", "_strides")

    def __init__(self, given: npt.ArrayLike, name: str) -> None:
        array = np.asarray(given)
        code = _code(array.dtype, name)
        if not array.dtype.isnative:
            array = array.astype(array.dtype.newbyteorder("="))
        contiguous = array.flags.c_contiguous
        if not contiguous and any(s % array.itemsize for s in array.strides):
            array = np.ascontiguousarray(array)
            contiguous = True
        self.array = array
        self._shape = ffi.new("size_t[]", array.shape)
        self.pointer = ffi.new("cortex_view *")
        self.pointer.data = address(array)
        self.pointer.dtype = code
        self.pointer.ndim = array.ndim
        self.pointer.shape = self._shape
        if not contiguous:
            steps = [s // array.itemsize for s in array.strides]
            self._strides = ffi.new("ptrdiff_t[]", steps)
            self.pointer.strides = self._strides


def address(array: Array) -> Any:
    """The first element as a ``void *``; the array must be kept."""
    # Not `from_buffer`: NumPy lends no buffer of a dtype that is not its own, as bfloat16 is.
    return ffi.cast("void *", array.__array_interface__["data"][0])


def output(
    out: Optional[Array], needed: np.dtype[Any], shape: tuple[int, ...], name: str
) -> Array:
    """The caller's array, if it is fit for a result, or a new one."""
    if out is None:
        return np.empty(shape, needed)
    if not isinstance(out, np.ndarray):
        raise TypeError(f"{name} must be a numpy.ndarray, not {type(out).__name__}")

    def refuse(what: str) -> NoReturn:
        raise InvalidArgumentError(f"{name} {what}")

    if out.dtype != needed:
        refuse(f"has dtype {out.dtype}; {needed} is needed")
    if out.shape != shape:
        refuse(f"has shape {out.shape}; {shape} is needed")
    if not out.flags.c_contiguous:
        refuse("is not C-contiguous")
    if not out.flags.writeable:
        refuse("is read-only")
    return out


def fetch(function: Any, kind: str, *arguments: Any) -> Any:
    """What a function of the library writes through its last pointer but the error's."""
    result = ffi.new(f"{kind} *")
    call(function, *arguments, result)
    return result[0]
