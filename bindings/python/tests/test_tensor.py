"""Tensors: compressed, looked at, decoded, multiplied by."""

from __future__ import annotations

import copy
import math

import ml_dtypes
import numpy as np
import pytest
from conftest import weights

import cortex

DTYPES = [
    np.float64, np.float32, np.float16, ml_dtypes.bfloat16,
    np.int64, np.int32, np.int16, np.int8,
    np.uint64, np.uint32, np.uint16, np.uint8, np.bool_,
]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: np.dtype(d).name)
def test_every_dtype_comes_back(dtype: type) -> None:
    array = (np.arange(60).reshape(5, 4, 3) % 7).astype(dtype)
    tensor = cortex.compress(array, "lossless")
    assert tensor.dtype == array.dtype
    back = tensor.decompress()
    assert back.dtype == array.dtype and back.shape == (5, 4, 3)
    assert back.tobytes() == array.tobytes()
    assert tensor.decode_rows(1, 2).tobytes() == array[1:3].tobytes()
    assert np.array_equal(tensor.decode_rows_f32(1, 2), array[1:3].astype(np.float32))


def test_properties() -> None:
    array = weights(64, 48)
    t = cortex.compress(array, "int8")
    assert (t.shape, t.ndim, t.size, t.rows, t.cols) == ((64, 48), 2, 64 * 48, 64, 48)
    assert t.dtype == np.float32
    assert t.raw_nbytes == array.nbytes
    assert t.nbytes < array.nbytes / 3
    assert t.bits_per_weight == t.nbytes * 8 / t.size
    assert cortex.parse_spec(t.spec) == t.spec == cortex.parse_spec("int8")
    assert t.name is None
    lost = np.linalg.norm(array - t.decompress()) / np.linalg.norm(array)
    assert t.error.relative == pytest.approx(lost, rel=1e-4)
    assert t.error.max_abs == pytest.approx(np.abs(array - t.decompress()).max(), rel=1e-4)
    assert t.error.sqnr_db == pytest.approx(-20 * math.log10(t.error.relative))
    assert "int8" in repr(t) and "f32[64, 48]" in repr(t)
    exact = cortex.compress(array, "lossless")
    assert exact.error == cortex.ErrorStats(relative=0.0, max_abs=0.0, sqnr_db=math.inf)


def test_the_default_spec_is_the_librarys() -> None:
    assert cortex.compress(np.arange(10)).error.relative == 0
    assert 0 < cortex.compress(weights(128, 64)).error.relative <= 0.01


def test_scalars_vectors_and_nothing() -> None:
    scalar = cortex.compress(np.float32(2.5), "dense")
    assert (scalar.shape, scalar.ndim, scalar.size, scalar.rows, scalar.cols) == ((), 0, 1, 1, 1)
    assert scalar.decompress() == 2.5 and scalar[()] == 2.5 and float(np.asarray(scalar)) == 2.5
    assert np.asarray(scalar, np.float32).shape == ()
    with pytest.raises(TypeError, match="scalar"):
        len(scalar)
    with pytest.raises(IndexError, match="scalar"):
        scalar[0]
    vector = cortex.compress(np.arange(7, dtype=np.float32), "dense")
    assert (vector.rows, vector.cols, len(vector)) == (7, 1, 7)
    assert vector[2] == 2 and np.array_equal(vector[1:3], [1, 2])
    nothing = cortex.compress(np.empty((0, 4), np.float32))
    assert nothing.decompress().shape == (0, 4) and nothing[0:0].shape == (0, 4)
    assert nothing.size == 0 and nothing.bits_per_weight == 0


def test_strides_are_passed_on() -> None:
    base = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)
    for view in (base.transpose(2, 0, 1), base[::-1, :, ::2], np.broadcast_to(base[0], (5, 3, 4))):
        assert np.array_equal(cortex.compress(view, "dense").decompress(), view)


def test_what_has_no_strides_in_elements_is_copied() -> None:
    records = np.zeros(6, dtype=[("a", "<f4"), ("b", "u1")])
    records["a"] = np.arange(6)
    assert records["a"].strides[0] % 4
    assert np.array_equal(cortex.compress(records["a"], "dense").decompress(), np.arange(6))
    w = cortex.compress(weights(4, 6), "dense")
    assert np.array_equal(w.matmul(records["a"]), w.matmul(np.arange(6, dtype=np.float32)))


def test_other_byte_orders_are_converted() -> None:
    big = np.arange(12, dtype=">f4").reshape(3, 4)
    t = cortex.compress(big, "dense")
    assert t.dtype == np.dtype("<f4") and np.array_equal(t.decompress(), big)


def test_unaligned_and_read_only_input() -> None:
    raw = bytearray(1 + 4 * 12)
    array = np.frombuffer(memoryview(raw)[1:], np.float32).reshape(3, 4)
    array[:] = weights(3, 4)
    array.flags.writeable = False
    assert not array.flags.aligned
    assert np.array_equal(cortex.compress(array, "dense").decompress(), array)
    w = cortex.compress(weights(5, 4), "dense")
    assert np.array_equal(w.matmul(array), w.matmul(array.copy()))


def test_the_data_is_read_in_place() -> None:
    array = weights(256, 256)
    given: list[int] = []
    real = cortex._convert.address

    def spy(a: np.ndarray) -> object:
        given.append(a.__array_interface__["data"][0])
        return real(a)

    cortex._convert.address = spy
    try:
        cortex.compress(array[::2, ::-1], "dense")
    finally:
        cortex._convert.address = real
    assert given == [array[::2, ::-1].__array_interface__["data"][0]]


@pytest.mark.parametrize(
    "array",
    [
        np.array([None, 1]),
        np.zeros(3, np.complex64),
        np.array(["a"]),
        np.zeros(2, "datetime64[s]"),
        np.zeros(2, np.longdouble),
    ],
    ids=lambda a: str(a.dtype),
)
def test_other_dtypes_are_refused(array: np.ndarray) -> None:
    with pytest.raises(cortex.InvalidArgumentError, match="array.dtype is .* f32, .* is needed") as e:
        cortex.compress(array)
    assert e.value.kind == "invalid_argument"


def test_array_protocol() -> None:
    t = cortex.compress(weights(8, 6), "int8")
    dense = t.decompress()
    assert np.array_equal(np.asarray(t), dense) and np.asarray(t).dtype == np.float32
    assert np.asarray(t, dtype=np.float64).dtype == np.float64
    assert np.array_equal(np.asarray(t, np.float32), dense)
    assert np.array_equal(np.array(t, copy=True), dense)
    assert np.array_equal(t.__array__(), dense)
    assert np.sum(np.asarray(t)) == np.add.reduce(t, axis=None)
    with pytest.raises(ValueError, match="share"):
        t.__array__(copy=False)
    half = cortex.compress(np.arange(6, dtype=np.float16).reshape(2, 3), "dense")
    assert np.array_equal(np.asarray(half, np.float32), half.decompress().astype(np.float32))
    assert np.asarray(half, np.float32).shape == (2, 3)


def test_rows() -> None:
    array = np.arange(5 * 4 * 3, dtype=np.float32).reshape(5, 4, 3)
    t = cortex.compress(array, "dense")
    assert len(t) == 5
    for index in (
        0, -1, np.int64(2), slice(1, 3), slice(None), slice(-2, None), slice(3, 1), slice(4, 99),
        (1,), (slice(1, 3), 2), (slice(0, 2), slice(1, 3), 0), (2, 3), (-1, ..., 1), ...,
        (..., 0), (slice(0, 2), None), (slice(0, 4), [0, 2]), (),
    ):  # fmt: skip
        assert np.array_equal(t[index], array[index]), index
        assert t[index].shape == array[index].shape, index
    assert [row.tolist() for row in t] == array.tolist()
    for bad in (5, -6, slice(None, None, 2), slice(None, None, -1)):
        with pytest.raises(IndexError):
            t[bad]
    for bad in ("a", 1.0, None, True, [0, 1], np.array([0, 1])):
        with pytest.raises(TypeError):
            t[bad]


def test_a_window_reads_nothing_else(tmp_path) -> None:
    path = tmp_path / "m.cai"
    array = weights(4096, 64)
    cortex.save(path, {"w": array}, spec="dense | zstd")
    data = bytearray(path.read_bytes())
    with cortex.open(path) as archive:
        found = archive["w"]
        whole = found[4000:4010]
    assert np.array_equal(whole, array[4000:4010])
    # Somewhere in the first chunk.
    data[64 + 100] ^= 0xFF
    path.write_bytes(data)
    with cortex.open(path, mapped=False) as archive:
        found = archive["w"]
        assert np.array_equal(found[4000:4010], array[4000:4010])
        with pytest.raises(cortex.CorruptError) as e:
            found[0:10]
    assert e.value.tensor == "w" and e.value.kind == "corrupt" and e.value.offset is not None


def test_out() -> None:
    t = cortex.compress(weights(8, 6), "int8")
    dense = t.decompress()
    out = np.empty((8, 6), np.float32)
    assert t.decompress(out=out) is out and np.array_equal(out, dense)
    rows = np.empty((2, 6), np.float32)
    assert t.decode_rows(3, 2, out=rows) is rows and np.array_equal(rows, dense[3:5])
    assert t.decode_rows_f32(0, 2, out=rows) is rows and np.array_equal(rows, dense[:2])
    read_only = np.empty((8, 6), np.float32)
    read_only.flags.writeable = False
    for bad, message in (
        (np.empty((8, 6)), "dtype float64"),
        (np.empty((6, 8), np.float32), "shape"),
        (np.empty((6, 8), np.float32).T, "contiguous"),
        (np.empty((8, 6), ">f4"), "dtype >f4"),
        (read_only, "read-only"),
    ):
        with pytest.raises(cortex.InvalidArgumentError, match=message):
            t.decompress(out=bad)
    with pytest.raises(TypeError, match="list"):
        t.decompress(out=[0.0])  # type: ignore[arg-type]


def test_rows_that_are_not_there() -> None:
    t = cortex.compress(weights(8, 6), "int8")
    for start, count in ((0, 9), (8, 1), (2**63, 1), (0, 2**40)):
        for decode in (t.decode_rows, t.decode_rows_f32):
            with pytest.raises(cortex.InvalidArgumentError, match="8"):
                decode(start, count)
    for bad in (-1, 2**64):
        with pytest.raises(cortex.InvalidArgumentError, match="start is"):
            t.decode_rows(bad, 1)
    with pytest.raises(TypeError):
        t.decode_rows(0.5, 1)  # type: ignore[arg-type]


def test_matmul() -> None:
    t = cortex.compress(weights(64, 48), "int8")
    dense = t.decompress().astype(np.float64)
    x = weights(6, 48).reshape(2, 3, 48)
    y = t.matmul(x, precision="exact")
    assert y.dtype == np.float32 and y.shape == (2, 3, 64)
    assert np.allclose(y, x @ dense.T, atol=1e-5)
    assert np.allclose(t.matmul(x[0, 0], precision="exact"), dense @ x[0, 0], atol=1e-5)
    g = weights(3, 64)
    assert np.allclose(t.matmul_t(g, precision="exact"), g @ dense, atol=1e-5)
    assert t.matmul_t(g[0]).shape == (48,)
    assert t.matmul(np.empty((0, 48), np.float32)).shape == (0, 64)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
def test_x_of_any_float_and_strides(dtype: type) -> None:
    t = cortex.compress(weights(16, 12), "int8")
    x = weights(12, 10).astype(dtype).T[::2]
    expected = t.matmul(np.ascontiguousarray(x.astype(np.float32)), precision="exact")
    assert np.array_equal(t.matmul(x, precision="exact"), expected)
    assert np.array_equal(t.matmul(x.tolist(), precision="exact"), expected)


def test_matmul_into_an_array() -> None:
    t = cortex.compress(weights(64, 48), "int8")
    for shape in ((48,), (1, 48), (4, 48), (2, 2, 48)):
        x = weights(1, math.prod(shape)).reshape(shape)
        y = np.full((*shape[:-1], 64), np.nan, np.float32)
        assert t.matmul(x, out=y) is y
        assert np.array_equal(y, t.matmul(x))
        assert np.array_equal(y, t.matmul(x, out=np.empty_like(y), threads=1))
    gaps = weights(48, 4).T
    assert np.array_equal(t.matmul(gaps, out=np.empty((4, 64), np.float32)), t.matmul(gaps.copy()))
    assert np.array_equal(t.matmul_t(weights(4, 64), out=np.empty((4, 48), np.float32)).shape, (4, 48))
    nothing = cortex.compress(np.empty((0, 48), np.float32))
    assert nothing.matmul(weights(4, 48), out=np.empty((4, 0), np.float32)).shape == (4, 0)
    raw = np.zeros(4 * 64 * 4 + 1, np.uint8)[1:].view(np.float32).reshape(4, 64)
    with pytest.raises(cortex.InvalidArgumentError, match="y is not aligned"):
        t.matmul(weights(4, 48), out=raw)
    for bad in (np.empty((4, 63), np.float32), np.empty(4 * 64, np.float32)):
        with pytest.raises(cortex.InvalidArgumentError, match="out has shape"):
            t.matmul(weights(4, 48), out=bad)
    with pytest.raises(cortex.InvalidArgumentError, match="out has dtype float64"):
        t.matmul(weights(4, 48), out=np.empty((4, 64)))  # type: ignore[call-overload]
    with pytest.raises(cortex.InvalidArgumentError, match="contiguous"):
        t.matmul(weights(4, 48), out=np.empty((64, 4), np.float32).T)
    frozen = np.empty((4, 64), np.float32)
    frozen.flags.writeable = False
    with pytest.raises(cortex.InvalidArgumentError, match="read-only"):
        t.matmul(weights(4, 48), out=frozen)
    square = cortex.compress(weights(32, 32), "int8")
    x = weights(1, 32)
    with pytest.raises(cortex.InvalidArgumentError, match="y overlaps x"):
        square.matmul(x, out=x)


def test_precision() -> None:
    t = cortex.compress(weights(64, 64), "int8")
    x = weights(2, 64)
    for asked in ("exact", "fast"):
        y, computed = t.matmul(x, precision=asked, return_precision=True)
        assert computed == asked and y.shape == (2, 64)
    assert t.matmul_t(x, return_precision=True)[1] in ("exact", "fast")
    assert np.array_equal(t.matmul(x, threads=1, scratch_bytes=1), t.matmul(x))
    with pytest.raises(cortex.InvalidArgumentError, match="precision is 'slow'.*auto, exact, fast"):
        t.matmul(x, precision="slow")
    for option in ("threads", "scratch_bytes"):
        with pytest.raises(cortex.InvalidArgumentError, match=f"{option} is -1"):
            t.matmul(x, **{option: -1})


def test_shapes_that_do_not_fit() -> None:
    t = cortex.compress(weights(64, 48), "int8")
    for x in (weights(2, 47), np.float32(1), np.empty((3, 0), np.float32)):
        for out in (None, np.empty((2, 64), np.float32)):
            with pytest.raises(cortex.InvalidArgumentError, match="x has shape .* 48"):
                t.matmul(x, out=out)
    with pytest.raises(cortex.InvalidArgumentError, match="g has shape .* 64"):
        t.matmul_t(weights(2, 48))
    with pytest.raises(cortex.InvalidArgumentError, match="float dtype is needed"):
        t.matmul(np.zeros((2, 48), np.int32))
    with pytest.raises(cortex.InvalidArgumentError, match="x.dtype is object"):
        t.matmul([object()])  # type: ignore[list-item]
    with pytest.raises(cortex.InvalidArgumentError, match="16"):
        t.matmul(np.zeros((1,) * 20 + (48,), np.float32))


def test_the_operator_is_that_of_matrices() -> None:
    t = cortex.compress(weights(6, 4), "dense")
    w = t.decompress()
    for right in (weights(1, 4)[0], weights(4, 3)):
        assert np.allclose(t @ right, w @ right, atol=1e-6)
    for left in (weights(1, 6)[0], weights(3, 6)):
        assert np.allclose(left @ t, left @ w, atol=1e-6)
        assert type(left @ t) is np.ndarray
    with pytest.raises(TypeError):
        t @ t
    with pytest.raises(TypeError):
        cortex.compress(np.zeros((2, 3, 4), np.float32)) @ weights(4, 2)
    with pytest.raises(cortex.InvalidArgumentError):
        t @ weights(5, 2)


def test_closing() -> None:
    t = cortex.compress(weights(64, 48), "int8")
    second = copy.copy(t)
    with t as same:
        assert same is t and not t.closed
    assert t.closed and "closed" in repr(t)
    t.close()
    x, y = weights(1, 48), np.empty((1, 64), np.float32)
    attempts = [
        t.decompress, t.verify, t.__array__, t.__enter__, t.__copy__,
        lambda: t.decode_rows(0, 1), lambda: t.decode_rows_f32(0, 1), lambda: t[0], lambda: len(t),
        lambda: t.matmul(x), lambda: t.matmul(x, out=y), lambda: t.matmul_t(y),
        lambda: t.conv(x), lambda: t.conv_t(x, (1,)), lambda: t.conv_output_shape((1,)),
    ]  # fmt: skip
    names = [n for n, v in vars(cortex.Tensor).items() if isinstance(v, property)]
    public = [n for n in names if not n.startswith("_") and n != "closed"]
    assert len(public) >= 12
    attempts += [lambda n=n: getattr(t, n) for n in public]
    for attempt in attempts:
        with pytest.raises(cortex.InvalidArgumentError, match="the tensor is closed") as e:
            attempt()
        assert e.value.kind == "invalid_argument" and isinstance(e.value, ValueError)
    assert np.array_equal(second.matmul(x).shape, (1, 64))
    assert copy.deepcopy(second).spec == second.spec


def test_not_made_by_hand() -> None:
    with pytest.raises(TypeError, match="compress"):
        cortex.Tensor()


def test_values_that_are_not_finite() -> None:
    array = weights(8, 8)
    array[2, 3] = np.nan
    with pytest.raises(cortex.InvalidArgumentError, match="NaN at index 19"):
        cortex.compress(array, "int8")
    assert np.isnan(cortex.compress(array, "lossless").decompress()[2, 3])


def test_verify() -> None:
    cortex.compress(weights(8, 8), "int8").verify()


def test_bfloat16_without_ml_dtypes(monkeypatch: pytest.MonkeyPatch) -> None:
    array = weights(4, 4).astype(ml_dtypes.bfloat16)
    t = cortex.compress(array, "dense")
    monkeypatch.setitem(__import__("sys").modules, "ml_dtypes", None)
    for attempt in (lambda: t.dtype, t.decompress, lambda: t[0]):
        with pytest.raises(ImportError, match="install ml_dtypes"):
            attempt()
    assert "bf16[4, 4]" in repr(t)
    assert np.array_equal(t.decode_rows_f32(0, 4), array.astype(np.float32))
    assert np.array_equal(np.asarray(t, np.float32), array.astype(np.float32))
    assert cortex.compress(np.arange(3.0)).dtype == np.float64
