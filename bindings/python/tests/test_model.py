"""Whole model files, in and out."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

import cortex


def test_compress_model(digits: Path, tmp_path: Path) -> None:
    out = tmp_path / "digits.cai"
    stats = cortex.compress_model(
        digits, out, spec="int8", rules={"fc1": "int4"}, exclude="fc3", threads=1
    )
    assert isinstance(stats, Mapping)
    assert stats.compressed_bytes == stats["compressed_bytes"] == out.stat().st_size
    assert stats.original_bytes == digits.stat().st_size
    assert stats.compression_ratio == stats.original_bytes / stats.compressed_bytes
    assert stats.compression_time_ms > 0
    assert {t["name"]: t["spec"] for t in stats.tensors}["fc1.weight"] == cortex.parse_spec("int4")
    assert set(stats) == {
        "original_bytes", "compressed_bytes", "compression_ratio", "compression_time_ms",
        "index_bytes", "header_bytes", "aliases", "tensors",
    }  # fmt: skip
    assert set(stats) <= set(dir(stats)) and len(stats) == 8
    assert set(cortex.CompressionStats.__annotations__) - {"_found"} == set(stats)
    assert "6 tensors" in repr(stats)
    assert json.loads(json.dumps(dict(stats)))["tensors"] == stats.tensors
    for twin in (copy.copy(stats), pickle.loads(pickle.dumps(stats))):
        assert dict(twin) == dict(stats)
    with pytest.raises(AttributeError, match="nothing"):
        stats.nothing  # noqa: B018
    with cortex.open(out) as archive:
        assert archive["fc2.weight"].spec == cortex.parse_spec("int8")
        assert archive["fc3.weight"].error.relative == 0
        assert archive["fc1.bias"].spec == cortex.parse_spec("int4")


def test_the_first_rule_counts(digits: Path, tmp_path: Path) -> None:
    rules = [("fc[12].weight", "int8"), ("fc1", "int4")]
    stats = cortex.compress_model(digits, tmp_path / "a.cai", rules=rules, explain=True)
    specs = {t["name"]: t["spec"] for t in stats.tensors}
    assert specs["fc1.weight"] == specs["fc2.weight"] == cortex.parse_spec("int8")
    assert specs["fc1.bias"] == cortex.parse_spec("int4")
    assert any("candidates" in t for t in stats.tensors)


def test_calibration(digits: Path, tmp_path: Path) -> None:
    moments = tmp_path / "moments.npz"
    np.savez(moments, **{"fc1.weight": np.linspace(0.1, 2, 64, dtype=np.float32)})
    stats = cortex.compress_model(
        digits, tmp_path / "a.cai", spec="int4(search=gptq)", calibration=moments
    )
    assert [t["name"] for t in stats.tensors if t.get("calibrated")] == ["fc1.weight"]


def test_decompress_model(digits: Path, tmp_path: Path) -> None:
    cortex.compress_model(digits, tmp_path / "a.cai", spec="lossless")
    written = cortex.decompress_model(tmp_path / "a.cai", tmp_path / "b.safetensors", threads=2)
    assert written == (tmp_path / "b.safetensors").stat().st_size
    cortex.compress_model(tmp_path / "b.safetensors", tmp_path / "b.cai", spec="lossless")
    first, second = cortex.open(tmp_path / "a.cai"), cortex.open(tmp_path / "b.cai")
    assert sorted(first) == sorted(second)
    for name, tensor in first.items():
        assert np.asarray(tensor).tobytes() == np.asarray(second[name]).tobytes()


def test_bad_input(digits: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.cai"
    for options, message in (
        ({"spec": "int9"}, "spec.*int9"),
        ({"exclude": "("}, "exclude"),
        ({"rules": {"(": "int8"}}, r"rules\[0\].pattern"),
        ({"rules": [("a", "int8"), ("b", "?")]}, r"rules\[1\].spec"),
        ({"threads": 5000}, "threads is 5000"),
        ({"threads": -1}, "threads is -1"),
        ({"spec": "int8\0"}, "spec has a NUL at byte 4"),
    ):
        with pytest.raises(cortex.InvalidArgumentError, match=message):
            cortex.compress_model(digits, out, **options)
    with pytest.raises(cortex.IoError):
        cortex.compress_model(tmp_path / "none", out)
    with pytest.raises(cortex.IoError):
        cortex.compress_model(digits, out, calibration=tmp_path / "none.npz")
    with pytest.raises(TypeError, match="progress"):
        cortex.compress_model(digits, out, progress="yes")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="spec must be a str"):
        cortex.compress_model(digits, out, spec=8)  # type: ignore[arg-type]
    bad = tmp_path / "nan.npy"
    np.save(bad, np.full((64, 64), np.nan, np.float32))
    with pytest.raises(cortex.InvalidArgumentError, match="NaN at index 0"):
        cortex.compress_model(bad, out, spec="int8")
    damaged = tmp_path / "cut.safetensors"
    damaged.write_bytes(digits.read_bytes()[:1000])
    with pytest.raises(cortex.CorruptError):
        cortex.compress_model(damaged, out)
    with pytest.raises(cortex.CorruptError):
        cortex.decompress_model(digits, out)
    assert not out.exists()
