"""What the tests share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import cortex

ROOT = Path(__file__).resolve().parents[3]


def weights(rows: int, cols: int) -> np.ndarray:
    """Weights that look random and are the same everywhere."""
    i = np.arange(rows * cols, dtype=np.uint64)
    return (((i * 2654435761) % 2**32) / 2**32 - 0.5).astype(np.float32).reshape(rows, cols)


@pytest.fixture(scope="session")
def digits() -> Path:
    """A small model."""
    return ROOT / "examples/digits/digits.safetensors"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """An archive of a few tensors, with metadata and an alias."""
    path = tmp_path / "model.cai"
    cortex.save(
        path,
        {
            "w": cortex.compress(weights(64, 48), "int8"),
            "packed": cortex.compress(weights(96, 32), "dense | shuffle | zstd"),
            "b": np.arange(5, dtype=np.int32),
        },
        spec="lossless",
        metadata={"who": "tests", "μ": "ñ"},
        aliases={"tied": "w"},
    )
    return path
