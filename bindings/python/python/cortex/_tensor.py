"""Compressed tensors."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from functools import lru_cache
from types import TracebackType
from typing import Any, NamedTuple, Optional, Union, overload

import numpy as np
import numpy.typing as npt

from cortex._convert import (
    F32,
    Array,
    View,
    address,
    dtype,
    fetch,
    optional_text,
    output,
    size,
    sizes,
)
from cortex._error import InvalidArgumentError, call, exception, string
from cortex._native import ffi, lib

__all__ = ["ErrorStats", "Tensor", "compress"]

Floats = npt.NDArray[np.float32]

Size = Union[int, Sequence[int]]
Padding = Union[int, Sequence[Union[int, tuple[int, int]]]]

_PRECISIONS = {
    "auto": lib.CORTEX_PRECISION_AUTO,
    "exact": lib.CORTEX_PRECISION_EXACT,
    "fast": lib.CORTEX_PRECISION_FAST,
}
_COMPUTED = {
    lib.CORTEX_PRECISION_EXACT: "exact",
    lib.CORTEX_PRECISION_FAST: "fast",
}


class ErrorStats(NamedTuple):
    """How far a tensor is from what was compressed, measured at that time."""

    relative: float
    """‖W − Ŵ‖ / ‖W‖ (Frobenius norm). 0 when every bit came back; infinity for an all-zero
    tensor that did not."""

    max_abs: float
    """max |w − ŵ|."""

    sqnr_db: float
    """Signal to quantisation noise, −20·log10(relative), in dB; infinity when every bit came
    back."""


def compress(array: npt.ArrayLike, spec: Optional[str] = None) -> Tensor:
    """
    Compresses an array of any supported dtype and strides as ``spec`` says, on all cores.

    Supported are the floats of 16, 32 and 64 bits, ``bfloat16`` of ml_dtypes, the integers of
    8 to 64 bits, and bool. The array may be read-only; it is read in place unless it is in
    another byte order, or its strides are no multiple of an element, and then copied.

    A spec is followed to the letter. ``None`` stands for the default: ``auto(error=1%)`` for
    float tensors of at least two dimensions and 4096 elements, ``lossless`` for all others.

    Raises :class:`InvalidArgumentError` for another dtype, a bad spec (the message names the
    column), and a value that is not finite under a lossy spec (it names the index).
    """
    view = View(array, "array")
    spec_text = optional_text(spec, "spec")
    return Tensor._own(
        fetch(lib.cortex_tensor_compress, "cortex_tensor *", view.pointer, spec_text)
    )


# A view [n, m] of float32, its shape, and a place for an error. A product takes one out and puts
# it back, so that no two share one, be they in two threads or one inside the other in a signal
# handler; one that an exception keeps from being put back is made again.
_pool: list[tuple[Any, Any, Any]] = []

_FLOATS = ffi.typeof("float[]")
_MATMUL = lib.cortex_tensor_matmul
_MATMUL_T = lib.cortex_tensor_matmul_t
_from_buffer = ffi.from_buffer
_ndarray = np.ndarray


def _pooled() -> tuple[Any, Any, Any]:
    """One for the pool."""
    shape = ffi.new("size_t[2]")
    # The structure does not keep its shape alive; the tuple does.
    view = ffi.new("cortex_view *")
    view.dtype = lib.CORTEX_DTYPE_F32
    view.ndim = 2
    view.shape = shape
    return view, shape, ffi.new("cortex_error **")


class Tensor:
    """
    A compressed tensor, which can be multiplied by without unpacking it.

    Seen as a matrix it is W[rows, cols], row-major: ``rows`` is the first dimension, ``cols``
    the product of the others; a vector [n] is the matrix [n, 1], a scalar [1, 1].

    It comes from :func:`cortex.compress` or from an archive, which it may outlive. It does not
    change, and may be used from several threads at once; a call lets other threads run. Its
    memory is freed when it is closed or no longer referred to, but never under a call that is
    at work. :func:`copy.copy` gives a second one on the same data, to be closed by itself.

    ``np.asarray(tensor)`` decodes it, and so does any NumPy function that it is given to.
    """

    __slots__ = ("__weakref__", "_cols", "_handle", "_rows")

    # `array @ tensor` asks the tensor, instead of decoding it.
    __array_priority__ = 1000.0

    _handle: Any
    _rows: int
    _cols: int

    def __init__(self) -> None:
        raise TypeError("a Tensor comes from cortex.compress or from an archive")

    @classmethod
    def _own(cls, pointer: Any) -> Tensor:
        """A tensor for a ``cortex_tensor *``, which is now its own."""
        tensor = object.__new__(cls)
        tensor._handle = ffi.gc(pointer, lib.cortex_tensor_free)
        tensor._rows = lib.cortex_tensor_rows(pointer)
        tensor._cols = lib.cortex_tensor_cols(pointer)
        return tensor

    @property
    def _open(self) -> Any:
        """The handle. Who uses it keeps it in a variable, which keeps it alive."""
        handle = self._handle
        if handle is None:
            raise InvalidArgumentError("the tensor is closed")
        return handle

    # Lifetime.

    def close(self) -> None:
        """
        Lets go of its memory, or of its part in the archive's file. Calls at work in other
        threads finish. Closing again does nothing; anything else raises
        :class:`InvalidArgumentError` from now on.
        """
        # The handle frees the tensor when the last call that holds it has returned.
        self._handle = None

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._handle is None

    def __enter__(self) -> Tensor:
        self._open  # noqa: B018 - raises if it is closed
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        value: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        self.close()

    def __copy__(self) -> Tensor:
        return Tensor._own(fetch(lib.cortex_tensor_clone, "cortex_tensor *", self._open))

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        return self.__copy__()

    # Properties.

    @property
    def shape(self) -> tuple[int, ...]:
        """Its dimensions, outermost first, in elements."""
        handle = self._open
        ndim = lib.cortex_tensor_ndim(handle)
        return tuple(ffi.unpack(lib.cortex_tensor_shape(handle), ndim)) if ndim else ()

    @property
    def ndim(self) -> int:
        """Number of dimensions; 0 for a scalar."""
        return int(lib.cortex_tensor_ndim(self._open))

    @property
    def dtype(self) -> np.dtype[Any]:
        """
        The dtype that it decodes to. That of a bfloat16 tensor is ml_dtypes' own: raises
        ``ImportError`` if that package is missing.
        """
        return dtype(lib.cortex_tensor_dtype(self._open))

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def rows(self) -> int:
        """Rows as a matrix: the first dimension, 1 for a scalar."""
        return int(lib.cortex_tensor_rows(self._open))

    @property
    def cols(self) -> int:
        """Columns as a matrix: the product of all dimensions but the first."""
        return int(lib.cortex_tensor_cols(self._open))

    @property
    def nbytes(self) -> int:
        """
        Bytes that it takes in an archive, everything counted (codes, scales, masks, padding)
        but its entry in the index.
        """
        return int(lib.cortex_tensor_stored_bytes(self._open))

    @property
    def raw_nbytes(self) -> int:
        """Bytes of the dense tensor: what :meth:`decompress` gives."""
        return int(lib.cortex_tensor_raw_bytes(self._open))

    @property
    def bits_per_weight(self) -> float:
        """Stored bits per element; 0 for a tensor without elements."""
        return float(lib.cortex_tensor_bits_per_weight(self._open))

    @property
    def spec(self) -> str:
        """
        The canonical spec that it was stored with; compressing the same array with it gives
        the same bytes.
        """
        handle = self._open
        return string(lib.cortex_tensor_spec(handle)) or ""

    @property
    def name(self) -> Optional[str]:
        """The name under which it stands in its archive; ``None`` if it is from none."""
        handle = self._open
        return string(lib.cortex_tensor_name(handle))

    @property
    def error(self) -> ErrorStats:
        """What compressing it lost, measured when that was done."""
        handle = self._open
        return ErrorStats(
            relative=lib.cortex_tensor_relative_error(handle),
            max_abs=lib.cortex_tensor_max_abs_error(handle),
            sqnr_db=lib.cortex_tensor_sqnr_db(handle),
        )

    def __repr__(self) -> str:
        handle = self._handle
        if handle is None:
            return "<cortex.Tensor closed>"
        name = self.name
        shown = "" if name is None else f" {name!r}"
        element = string(lib.cortex_dtype_name(lib.cortex_tensor_dtype(handle)))
        return (
            f"<cortex.Tensor{shown} {element}{list(self.shape)} {self.spec!r}, "
            f"{self.nbytes} bytes, error {self.error.relative:.2g}>"
        )

    # Decoding.

    def decompress(self, *, out: Optional[Array] = None) -> Array:
        """
        Decodes the whole tensor to its shape and dtype, on all cores.

        ``out``, if given, is filled and returned: an array of that shape and dtype,
        C-contiguous and writable. Where a damaged file is found on the way it may hold part of
        a result.
        """
        handle = self._open
        array = output(out, self.dtype, self.shape, "out")
        call(lib.cortex_tensor_decompress, handle, address(array), array.nbytes)
        return array

    def decode_rows(self, start: int, count: int, *, out: Optional[Array] = None) -> Array:
        """
        Decodes rows ``start`` to ``start + count`` to [count, …] of the tensor's dtype; the
        other dimensions are the tensor's own. Only the parts of the file that hold them are
        read. ``out`` is as in :meth:`decompress`.

        Raises :class:`InvalidArgumentError` if there are no such rows.
        """
        handle = self._open
        start, count = size(start, "start"), size(count, "count")
        array = self._rows_output(handle, start, count, self.dtype, out)
        call(lib.cortex_tensor_decode_rows, handle, start, count, address(array), array.nbytes)
        return array

    def decode_rows_f32(
        self, start: int, count: int, *, out: Optional[Floats] = None
    ) -> Floats:
        """:meth:`decode_rows` to float32, whatever the tensor's dtype."""
        handle = self._open
        start, count = size(start, "start"), size(count, "count")
        array = self._rows_output(handle, start, count, F32, out)
        values = ffi.cast("float *", address(array))
        call(lib.cortex_tensor_decode_rows_f32, handle, start, count, values, array.size)
        return array

    def _rows_output(
        self, handle: Any, start: int, count: int, kind: np.dtype[Any], out: Optional[Array]
    ) -> Array:
        # Rows that are not there are the library's to refuse, before memory is asked for them.
        fits = start + count <= self._rows
        shape = (count if fits else 0, *self.shape[1:])
        return output(out if fits else None, kind, shape, "out")

    def __array__(
        self, dtype: Optional[npt.DTypeLike] = None, copy: Optional[bool] = None
    ) -> Array:
        """
        Decodes the whole tensor for ``np.asarray``, to ``dtype`` if one is given. It is always
        a new array: ``copy=False`` raises ``ValueError``.
        """
        if copy is False:
            raise ValueError("a compressed tensor has no array to share: decoding it makes one")
        if dtype is not None and np.dtype(dtype) == F32:
            rows = self.decode_rows_f32(0, self.rows)
            return rows.reshape(self.shape)
        array = self.decompress()
        return array if dtype is None else array.astype(dtype, copy=False)

    def __len__(self) -> int:
        if self.ndim == 0:
            raise TypeError("len() of a scalar")
        return self._rows

    def __getitem__(self, index: Any) -> Any:
        """
        Decodes rows: ``t[i]`` one of them, ``t[a:b]`` a window, of which nothing else is read.
        ``t[...]`` and ``t[()]`` are the whole.

        In ``t[a:b, …]`` what follows the first index is applied by NumPy to the decoded rows.
        Raises ``IndexError`` for a row that is not there and a slice with a step, and
        ``TypeError`` for other first indices: decode with ``np.asarray`` first.
        """
        first, rest = index, ()
        if isinstance(index, tuple):
            first, rest = (index[0], index[1:]) if index else (..., ())
        if first is ...:
            whole = self.decompress()
            return whole[(..., *rest)] if rest else whole[()]
        if self.ndim == 0:
            raise IndexError("a scalar has no rows")
        if isinstance(first, slice):
            start, stop, step = first.indices(self._rows)
            if step != 1:
                raise IndexError(
                    "rows are decoded in windows without a step: np.asarray(tensor)[…]"
                )
            rows = self.decode_rows(start, max(stop - start, 0))
            return rows[(slice(None), *rest)] if rest else rows
        if isinstance(first, (bool, np.bool_)):
            raise TypeError("rows are numbered: use an int or a slice, not a bool")
        try:
            row = operator.index(first)
        except TypeError:
            raise TypeError(
                f"rows are taken by an int or a slice, not by {type(first).__name__}: "
                "np.asarray(tensor)[…]"
            ) from None
        if not -self._rows <= row < self._rows:
            raise IndexError(f"row {row} of a tensor of {self._rows} rows")
        found = self.decode_rows(row % self._rows, 1)[0]
        return found[rest] if rest else found

    # Products.

    @overload
    def matmul(
        self,
        x: npt.ArrayLike,
        *,
        out: Optional[Floats] = ...,
        threads: int = ...,
        scratch_bytes: int = ...,
        precision: Optional[str] = ...,
    ) -> Floats: ...

    @overload
    def matmul(
        self,
        x: npt.ArrayLike,
        *,
        out: Optional[Floats] = ...,
        threads: int = ...,
        scratch_bytes: int = ...,
        precision: Optional[str] = ...,
        return_precision: bool,
    ) -> Any: ...

    def matmul(
        self,
        x: npt.ArrayLike,
        *,
        out: Optional[Floats] = None,
        threads: int = 0,
        scratch_bytes: int = 0,
        precision: Optional[str] = None,
        return_precision: bool = False,
    ) -> Any:
        """
        y = x · Wᵀ, computed on the compressed weights.

        ``x`` is [..., cols] of any float dtype and strides; float32 without gaps is used in
        place. The result is float32 [..., rows]; sums are in float32. ``out``, if given, is
        filled and returned: such an array, C-contiguous, writable, and apart from ``x``.

        ``threads`` are used at most, 0 for all cores; the result does not depend on it.
        ``scratch_bytes`` is the memory for decoded windows of weights, all threads together, 0
        for the library's default. ``precision`` says how activations enter: ``"exact"``, as
        float32; ``"fast"``, rounded where that makes faster loops; ``"auto"`` (the default),
        rounded where what that adds lies at least 10 dB below the tensor's own error. With
        ``return_precision=True`` the result is ``(y, "exact")`` or ``(y, "fast")``.

        Raises :class:`InvalidArgumentError` if shapes do not fit, and
        :class:`CorruptError` if the archive is damaged where it is read.
        """
        return self._product(
            _MATMUL, self._cols, self._rows, "x",
            x, out, threads, scratch_bytes, precision, return_precision,
        )  # fmt: skip

    @overload
    def matmul_t(
        self,
        g: npt.ArrayLike,
        *,
        out: Optional[Floats] = ...,
        threads: int = ...,
        scratch_bytes: int = ...,
        precision: Optional[str] = ...,
    ) -> Floats: ...

    @overload
    def matmul_t(
        self,
        g: npt.ArrayLike,
        *,
        out: Optional[Floats] = ...,
        threads: int = ...,
        scratch_bytes: int = ...,
        precision: Optional[str] = ...,
        return_precision: bool,
    ) -> Any: ...

    def matmul_t(
        self,
        g: npt.ArrayLike,
        *,
        out: Optional[Floats] = None,
        threads: int = 0,
        scratch_bytes: int = 0,
        precision: Optional[str] = None,
        return_precision: bool = False,
    ) -> Any:
        """
        y = g · W, the product that gradients need: ``g`` is [..., rows], the result float32
        [..., cols]. All else is as in :meth:`matmul`.
        """
        return self._product(
            _MATMUL_T, self._rows, self._cols, "g",
            g, out, threads, scratch_bytes, precision, return_precision,
        )  # fmt: skip

    def _product(
        self,
        function: Any,
        inner: int,
        outer: int,
        name: str,
        x: npt.ArrayLike,
        out: Optional[Floats],
        threads: int,
        scratch_bytes: int,
        precision: Optional[str],
        return_precision: bool,
    ) -> Any:
        # What a network does all the time, without anything that is not needed: float32 arrays
        # without gaps, which are the only ones that NumPy lends out as plain buffers. All
        # dimensions but the last are one to the library; how many there may be it says below.
        if (
            type(x) is _ndarray
            and x.dtype is F32
            and not return_precision
            and (handle := self._handle) is not None
            and 0 < len(shape := x.shape) <= 4
            and shape[-1] == inner
            and (
                out is None
                or type(out) is _ndarray
                and out.dtype is F32
                and out.shape == (*shape[:-1], outer)
            )
        ):
            options = _shared_options(threads, scratch_bytes, precision)
            try:
                data = _from_buffer(x)
                result = np.empty((*shape[:-1], outer), F32) if out is None else out
                y = _from_buffer(_FLOATS, result, True)
            except (ValueError, BufferError):
                pass  # Gaps, or a read-only `out`: all below is for them.
            else:
                try:
                    pooled = _pool.pop()
                except IndexError:
                    pooled = _pooled()
                view, sizes, error = pooled
                view.data = data
                y_len = len(y)
                sizes[0] = y_len // outer if outer else 0
                sizes[1] = inner
                if function(handle, view, options, y, y_len, error):
                    raise exception(error[0])
                _pool.append(pooled)
                return result
        handle = self._open
        options, computed = _matmul_options(threads, scratch_bytes, precision)
        view = View(x, name)
        x_shape = view.array.shape
        # A shape that does not fit is the library's to refuse; `out` is then not looked at.
        fits = bool(x_shape) and x_shape[-1] == inner
        y_shape = (*x_shape[:-1], outer) if fits else (0,)
        y = output(out if fits else None, F32, y_shape, "out")
        call(function, handle, view.pointer, options, _floats(y), y.size)
        return (y, _COMPUTED[computed[0]]) if return_precision else y

    def __matmul__(self, other: Any) -> Floats:
        """W · v, for a matrix W and a vector [cols] or a matrix [cols, n], as in NumPy."""
        array = self._operand(other)
        return self.matmul(array) if array.ndim == 1 else self.matmul(array.T).T

    def __rmatmul__(self, other: Any) -> Floats:
        """v · W, for a matrix W and a vector [rows] or a matrix [n, rows], as in NumPy."""
        return self.matmul_t(self._operand(other))

    def _operand(self, other: Any) -> Array:
        """The other side of an @, whose meaning NumPy and the library must agree on."""
        if isinstance(other, Tensor):
            raise TypeError("@ of two compressed tensors: decode one, np.asarray(tensor)")
        array = np.asarray(other)
        if self.ndim != 2 or array.ndim not in (1, 2):
            raise TypeError(
                f"@ is for matrices and vectors, not for {self.ndim} and {array.ndim} "
                "dimensions: use matmul or np.asarray(tensor)"
            )
        return array

    # Convolution.

    def conv_output_shape(
        self,
        x_shape: Sequence[int],
        *,
        stride: Size = 0,
        padding: Padding = 0,
        dilation: Size = 0,
        groups: int = 0,
    ) -> tuple[int, ...]:
        """
        The shape of what :meth:`conv` makes of an x of the shape ``x_shape``.

        Raises :class:`InvalidArgumentError` if the shapes do not fit each other, or the kernel
        is larger than the padded x.
        """
        handle = self._open
        options = self._conv_options(stride, padding, dilation, groups)
        return self._conv_shape(handle, x_shape, options)

    @overload
    def conv(
        self,
        x: npt.ArrayLike,
        *,
        stride: Size = ...,
        padding: Padding = ...,
        dilation: Size = ...,
        groups: int = ...,
        out: Optional[Floats] = ...,
        threads: int = ...,
        scratch_bytes: int = ...,
        precision: Optional[str] = ...,
    ) -> Floats: ...

    @overload
    def conv(
        self,
        x: npt.ArrayLike,
        *,
        stride: Size = ...,
        padding: Padding = ...,
        dilation: Size = ...,
        groups: int = ...,
        out: Optional[Floats] = ...,
        threads: int = ...,
        scratch_bytes: int = ...,
        precision: Optional[str] = ...,
        return_precision: bool,
    ) -> Any: ...

    def conv(
        self,
        x: npt.ArrayLike,
        *,
        stride: Size = 0,
        padding: Padding = 0,
        dilation: Size = 0,
        groups: int = 0,
        out: Optional[Floats] = None,
        threads: int = 0,
        scratch_bytes: int = 0,
        precision: Optional[str] = None,
        return_precision: bool = False,
    ) -> Any:
        """
        y = W ∗ x, computed on the compressed weights W[out, in / groups, width] or
        W[out, in / groups, height, width]; the kernel is not turned round.

        ``x`` is [batch, in, width] or [batch, in, height, width] of any float dtype and
        strides. ``stride`` and ``dilation`` are one number for all directions or one for each,
        0 for 1; ``padding`` is the number of zeros put around x: one number for all sides, or
        for each direction a number or a pair ``(before, after)``; ``groups`` is the number of
        parts of the channels that are convolved apart, 0 for 1. The result is float32, of the
        shape that :meth:`conv_output_shape` tells. The rest is as in :meth:`matmul`;
        ``scratch_bytes`` is for decoded weights, patches, padded samples and sums alike.
        """
        handle = self._open
        options = self._conv_options(stride, padding, dilation, groups)
        products, computed = _matmul_options(threads, scratch_bytes, precision)
        options.matmul = products
        view = View(x, "x")
        shape = self._conv_shape(handle, view.array.shape, options)
        y = output(out, F32, shape, "out")
        call(lib.cortex_tensor_conv, handle, view.pointer, options, _floats(y), y.size)
        return (y, _COMPUTED[computed[0]]) if return_precision else y

    def conv_t(
        self,
        g: npt.ArrayLike,
        x_shape: Sequence[int],
        *,
        stride: Size = 0,
        padding: Padding = 0,
        dilation: Size = 0,
        groups: int = 0,
        out: Optional[Floats] = None,
        threads: int = 0,
        scratch_bytes: int = 0,
    ) -> Floats:
        """
        The gradient of :meth:`conv` with respect to x, a transposed convolution: what ``g``, of
        the shape of y, makes of each element of an x of the shape ``x_shape``. Always exact.
        """
        handle = self._open
        options = self._conv_options(stride, padding, dilation, groups)
        products, _ = _matmul_options(threads, scratch_bytes, None)
        options.matmul = products
        view = View(g, "g")
        # A shape that does not fit is refused before memory is asked for it.
        self._conv_shape(handle, x_shape, options)
        shape = tuple(operator.index(d) for d in x_shape)
        y = output(out, F32, shape, "out")
        call(
            lib.cortex_tensor_conv_t, handle, view.pointer, sizes(shape, "x_shape"), len(shape),
            options, _floats(y), y.size,
        )  # fmt: skip
        return y

    def _conv_options(
        self, stride: Size, padding: Padding, dilation: Size, groups: int
    ) -> Any:
        options = ffi.new("cortex_conv_options *")
        options.struct_size = ffi.sizeof("cortex_conv_options")
        directions = ("height", "width")[-max(self.ndim - 2, 1) :]
        sides = (("padding_top", "padding_bottom"), ("padding_left", "padding_right"))
        for name, given in (("stride", stride), ("dilation", dilation)):
            for direction, value in zip(directions, _each(given, len(directions), name)):
                setattr(options, f"{name}_{direction}", size(value, name))
        pads = _each(padding, len(directions), "padding")
        for side, value in zip(sides[-len(directions) :], pads):
            both = _each(value, 2, "padding of a direction")
            for field, zeros in zip(side, both):
                setattr(options, field, size(zeros, "padding"))
        options.groups = size(groups, "groups")
        return options

    @staticmethod
    def _conv_shape(handle: Any, x_shape: Sequence[int], options: Any) -> tuple[int, ...]:
        given = sizes(x_shape, "x_shape")
        shape = ffi.new("size_t[]", len(given))
        call(
            lib.cortex_tensor_conv_output_shape, handle, given, len(given), options, shape
        )
        return tuple(shape)

    def verify(self) -> None:
        """
        Reads every stored chunk of the tensor and checks it against its checksum.

        Raises :class:`CorruptError` if one is damaged; it names the tensor and the offset.
        """
        call(lib.cortex_tensor_verify, self._open)


def _floats(array: Floats) -> Any:
    return ffi.cast("float *", address(array))


def _matmul_options(
    threads: int, scratch_bytes: int, precision: Optional[str]
) -> tuple[Any, Any]:
    """Options, and where the library writes what it computed with; keep both."""
    options = ffi.new("cortex_matmul_options *")
    computed = ffi.new("uint32_t *")
    options.struct_size = ffi.sizeof("cortex_matmul_options")
    options.threads = size(threads, "threads")
    options.scratch_bytes = size(scratch_bytes, "scratch_bytes")
    if precision is not None:
        if precision not in _PRECISIONS:
            known = ", ".join(_PRECISIONS)
            raise InvalidArgumentError(f"precision is {precision!r}; it must be one of {known}")
        options.precision = _PRECISIONS[precision]
    options.computed = computed
    return options, computed


@lru_cache(maxsize=64, typed=True)
def _shared_options(threads: int, scratch_bytes: int, precision: Optional[str]) -> Any:
    """Options that nobody writes to, neither here nor in the library."""
    options, _ = _matmul_options(threads, scratch_bytes, precision)
    options.computed = ffi.NULL
    return options


def _each(given: Any, count: int, name: str) -> list[Any]:
    """One value for each of ``count`` things, of which a number is for all."""
    if isinstance(given, Sequence):
        if len(given) != count:
            raise InvalidArgumentError(f"{name} has {len(given)} entries; {count} are needed")
        return list(given)
    return [given] * count

