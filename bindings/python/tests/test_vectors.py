"""tests/vectors, which run in every language."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from conftest import ROOT

import cortex

DTYPES = {
    "f64": np.float64, "f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16,
    "i64": np.int64, "i32": np.int32, "i16": np.int16, "i8": np.int8,
    "u64": np.uint64, "u32": np.uint32, "u16": np.uint16, "u8": np.uint8, "bool": np.bool_,
}  # fmt: skip


def cases(file: str) -> list[Any]:
    path = ROOT / "tests/vectors" / file
    found = json.loads(path.read_text(encoding="utf-8"))["cases"]
    assert found, file
    return [pytest.param(c, id=str(c.get("name") or c.get("spec") or i)) for i, c in enumerate(found)]


def array(data: str, dtype: str, shape: list[int]) -> np.ndarray:
    return np.frombuffer(base64.b64decode(data), DTYPES[dtype]).reshape(shape)


def tensor(case: dict[str, Any]) -> cortex.Tensor:
    return cortex.compress(array(case["data"], case["dtype"], case["shape"]), case["spec"])


def refused(error: cortex.CortexError, expected: dict[str, Any]) -> None:
    assert error.kind == expected["kind"], error
    for text in expected["contains"]:
        assert text in str(error)


@pytest.mark.parametrize("case", cases("spec.json"))
def test_spec(case: dict[str, Any]) -> None:
    if "error" in case:
        with pytest.raises(cortex.CortexError) as e:
            cortex.parse_spec(case["spec"])
        refused(e.value, case["error"])
    else:
        assert cortex.parse_spec(case["spec"]) == case["canonical"]


@pytest.mark.parametrize("case", cases("tensor.json"))
def test_tensor(case: dict[str, Any]) -> None:
    t = tensor(case)
    assert t.spec == case["canonical"]
    assert list(t.shape) == case["shape"] and t.dtype == np.dtype(DTYPES[case["dtype"]])
    assert t.decompress().tobytes() == base64.b64decode(case["decoded"])
    assert t.nbytes == case["stored_bytes"]
    close = {"rel": 1e-12, "abs": 0.0}
    assert t.bits_per_weight == pytest.approx(case["bits_per_weight"], **close)
    assert t.error.relative == pytest.approx(case["relative_error"], **close)
    assert t.error.max_abs == pytest.approx(case["max_abs_error"], **close)
    sqnr = np.inf if case["sqnr_db"] is None else case["sqnr_db"]
    assert t.error.sqnr_db == pytest.approx(sqnr, **close)
    rows = case["rows"]
    window = rows["start"], rows["count"]
    assert t.decode_rows(*window).tobytes() == base64.b64decode(rows["decoded"])
    assert t.decode_rows_f32(*window).tobytes() == base64.b64decode(rows["decoded_f32"])
    if t.ndim:
        sliced = t[rows["start"] : rows["start"] + rows["count"]]
        assert sliced.tobytes() == base64.b64decode(rows["decoded"])


@pytest.mark.parametrize("case", cases("matmul.json"))
def test_matmul(case: dict[str, Any]) -> None:
    t = tensor(case)
    x = array(case["x"], case["x_dtype"], case["x_shape"])
    product = getattr(t, case["op"])
    y, computed = product(x, precision=case["precision"], return_precision=True)
    if case["computed"] is not None:
        assert computed == case["computed"]
    expected = array(case["y"], "f32", list(y.shape))
    assert np.all(np.abs(y - expected) <= case["tolerance"])
    assert np.array_equal(product(x, precision=case["precision"], out=np.empty_like(y)), y)


@pytest.mark.parametrize("case", cases("conv.json"))
def test_conv(case: dict[str, Any]) -> None:
    t = tensor(case)
    x = array(case["x"], "f32", case["x_shape"])
    # Weights of three dimensions have no height.
    flat = t.ndim == 3
    top, bottom, left, right = case["padding"]
    options: dict[str, Any] = {
        "stride": case["stride"][flat:],
        "dilation": case["dilation"][flat:],
        "padding": [(top, bottom), (left, right)][flat:],
        "groups": case["groups"],
    }
    if case["op"] == "conv":
        assert list(t.conv_output_shape(x.shape, **options)) == case["y_shape"]
        y = t.conv(x, **options)
    else:
        y = t.conv_t(x, case["y_shape"], **options)
    assert list(y.shape) == case["y_shape"]
    expected = array(case["y"], "f32", case["y_shape"])
    assert np.all(np.abs(y - expected) <= case["tolerance"])


@pytest.mark.parametrize("case", cases("sdr.json"))
def test_sdr(case: dict[str, Any], tmp_path: Path) -> None:
    index = cortex.SdrIndex(case["bits"])
    for item in case["items"]:
        index.add(item["id"], item["active"])

    def check(index: cortex.SdrIndex, queries: list[Any]) -> None:
        for query in queries:
            found = index.top_k(query["active"], query["k"])
            assert [m._asdict() for m in found] == query["matches"]

    assert len(index) == len(case["items"]) and index.bits == case["bits"]
    check(index, case["queries"])
    for item in case["items"]:
        assert index.get(item["id"]).tolist() == sorted(item["active"])
    for number in case["removed"]:
        assert index.remove(number)
    check(index, case["after"])
    index.save(tmp_path / "index")
    check(cortex.SdrIndex.load(tmp_path / "index"), case["after"])


@pytest.mark.parametrize("case", cases("errors.json"))
def test_errors(case: dict[str, Any], tmp_path: Path) -> None:
    def compress() -> cortex.Tensor:
        return tensor(case)

    def matmul() -> None:
        x = np.zeros(case["x_shape"], np.float32)
        compressed.matmul(x)

    def decode_rows() -> None:
        compressed.decode_rows(case["start"], case["count"])

    def open_bytes() -> None:
        path = tmp_path / "file.cai"
        path.write_bytes(base64.b64decode(case["file"]))
        cortex.open(path)

    def open_tensor() -> None:
        archive[case["tensor"]]  # noqa: B018

    def sdr_add() -> None:
        index.add(1, case["active"])

    calls = {
        "compress": compress,
        "matmul": matmul,
        "decode_rows": decode_rows,
        "open": open_bytes,
        "tensor": open_tensor,
        "sdr_add": sdr_add,
    }
    # What must succeed before.
    if case["call"] in ("matmul", "decode_rows"):
        compressed = tensor(case)
    elif case["call"] == "tensor":
        archive = cortex.open(ROOT / "tests/golden/v1" / case["file"])
    elif case["call"] == "sdr_add":
        index = cortex.SdrIndex(case["bits"])
    with pytest.raises(cortex.CortexError) as e:
        calls[case["call"]]()
    refused(e.value, case["error"])
