"""Errors as exceptions."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import pytest
from conftest import weights

import cortex
from cortex._error import exception, string
from cortex._native import lib

EXPECTED = {
    "invalid_argument": (cortex.InvalidArgumentError, ValueError),
    "unsupported": (cortex.UnsupportedError, NotImplementedError),
    "corrupt": (cortex.CorruptError, ValueError),
    "limit_exceeded": (cortex.LimitExceededError, ValueError),
    "io": (cortex.IoError, OSError),
    "out_of_memory": (cortex.OutOfMemoryError, MemoryError),
    "cancelled": (cortex.CancelledError, Exception),
    "internal": (cortex.InternalError, RuntimeError),
}


def test_every_status_has_its_exception() -> None:
    constants = [n for n in dir(lib) if n.startswith("CORTEX_")]
    others = ("CORTEX_DTYPE_", "CORTEX_PRECISION_", "CORTEX_VERSION_", "CORTEX_ABI_")
    statuses = [n for n in constants if not n.startswith(others) and n != "CORTEX_OK"]
    assert {string(lib.cortex_status_name(getattr(lib, n))) for n in statuses} == set(EXPECTED)
    for kind, (own, common) in EXPECTED.items():
        error = own("what")
        assert error.kind == kind and str(error) == "what"
        assert isinstance(error, cortex.CortexError) and isinstance(error, common)
        assert (error.tensor, error.offset) == (None, None)


@pytest.mark.parametrize("kind", [own for own, _ in EXPECTED.values()] + [cortex.UnknownNameError])
def test_they_travel(kind: type[cortex.CortexError]) -> None:
    twin = pickle.loads(pickle.dumps(kind("what", tensor="w", offset=64)))
    assert type(twin) is kind and str(twin) == "what"
    assert (twin.kind, twin.tensor, twin.offset) == (kind.kind, "w", 64)


def test_what_went_wrong_and_where(tmp_path: Path) -> None:
    path = tmp_path / "a.cai"
    cortex.save(path, {"w": weights(64, 64)}, spec="int8")
    data = bytearray(path.read_bytes())
    data[64 + 500] ^= 1
    path.write_bytes(data)
    with pytest.raises(cortex.CorruptError) as e:
        cortex.open(path).verify()
    assert e.value.tensor == "w" and e.value.offset is not None and e.value.offset >= 64
    assert "w" in str(e.value) and str(e.value.offset) in str(e.value)


def test_a_kind_of_a_newer_library(monkeypatch: pytest.MonkeyPatch) -> None:
    from cortex import _error
    from cortex._native import ffi

    class Newer:
        cortex_error_kind_name = staticmethod(lambda error: ffi.new("char[]", b"tired"))
        cortex_error_message = staticmethod(lambda error: ffi.new("char[]", b"no more"))
        cortex_error_tensor = staticmethod(lambda error: ffi.NULL)
        cortex_error_offset = staticmethod(lambda error: -1)
        cortex_error_free = staticmethod(lambda error: None)

    monkeypatch.setattr(_error, "lib", Newer)
    error = exception(ffi.NULL)
    assert type(error) is cortex.CortexError and error.kind == "tired" and str(error) == "no more"


def test_names_are_those_of_the_package() -> None:
    for name in cortex.__all__:
        assert getattr(cortex, name).__module__ == "cortex", name
        assert getattr(cortex, name).__doc__, name
    assert "cortex.Tensor" in repr(cortex.Tensor)
    assert sys.modules[cortex.CortexError.__module__] is cortex
