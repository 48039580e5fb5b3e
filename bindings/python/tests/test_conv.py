"""Convolution on compressed weights."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import weights

import cortex


def by_hand(w, x, stride=(1, 1), padding=((0, 0), (0, 0)), dilation=(1, 1), groups=1):
    """The formula of the header, in float64."""
    x = np.pad(x.astype(np.float64), ((0, 0), (0, 0), *padding))
    out, inn, kh, kw = w.shape
    h = (x.shape[2] - dilation[0] * (kh - 1) - 1) // stride[0] + 1
    v = (x.shape[3] - dilation[1] * (kw - 1) - 1) // stride[1] + 1
    y = np.zeros((x.shape[0], out, h, v))
    for o in range(out):
        first = o // (out // groups) * inn
        for i in range(h):
            for j in range(v):
                top, left = i * stride[0], j * stride[1]
                patch = x[
                    :, first : first + inn,
                    top : top + dilation[0] * (kh - 1) + 1 : dilation[0],
                    left : left + dilation[1] * (kw - 1) + 1 : dilation[1],
                ]  # fmt: skip
                y[:, o, i, j] = (patch * w[o].astype(np.float64)).sum((1, 2, 3))
    return y


CASES = [
    {},
    {"padding": 1},
    {"stride": 2, "padding": (1, 2)},
    {"stride": (1, 2), "dilation": (2, 1), "padding": ((0, 1), (2, 0))},
]


def spread(given, count=2):
    values = list(given) if isinstance(given, tuple) else [given] * count
    return [v or 1 for v in values]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("groups", [1, 2])
def test_two_dimensions(case: dict, groups: int) -> None:
    w = weights(4, 2 * 9).reshape(4, 2, 3, 3)
    x = weights(2, 2 * groups * 42).reshape(2, 2 * groups, 6, 7)
    t = cortex.compress(w, "dense")
    pads = case.get("padding", 0)
    pads = pads if isinstance(pads, tuple) else (pads, pads)
    pads = tuple(p if isinstance(p, tuple) else (p, p) for p in pads)
    expected = by_hand(
        w, x, spread(case.get("stride", 1)), pads, spread(case.get("dilation", 1)), groups
    )
    y = t.conv(x, groups=groups, precision="exact", **case)
    assert y.shape == expected.shape == t.conv_output_shape(x.shape, groups=groups, **case)
    assert np.allclose(y, expected, atol=1e-5)
    out = np.empty_like(y)
    assert t.conv(x, out=out, groups=groups, precision="exact", **case) is out
    assert np.array_equal(out, y)
    # ⟨g, conv(x)⟩ = ⟨conv_t(g), x⟩
    g = weights(1, y.size).reshape(y.shape)
    back = t.conv_t(g, x.shape, groups=groups, **case)
    assert back.shape == x.shape and back.dtype == np.float32
    assert np.vdot(g.astype(float), expected) == pytest.approx(np.vdot(back.astype(float), x), abs=1e-4)
    assert np.array_equal(t.conv_t(g, x.shape, groups=groups, out=np.empty_like(back), **case), back)


def test_one_dimension() -> None:
    w = weights(4, 2 * 3).reshape(4, 2, 3)
    x = weights(2, 2 * 9).reshape(2, 2, 9)
    t = cortex.compress(w, "dense")
    for stride, padding, pair in ((1, 0, (0, 0)), (2, 1, (1, 1)), ((2,), ((2, 0),), (2, 0))):
        step = stride if isinstance(stride, int) else stride[0]
        expected = by_hand(w[:, :, None], x[:, :, None], (1, step), ((0, 0), pair))[:, :, 0]
        y = t.conv(x, stride=stride, padding=padding, precision="exact")
        assert y.shape == t.conv_output_shape(x.shape, stride=stride, padding=padding)
        assert np.allclose(y, expected, atol=1e-5)
    y, computed = t.conv(x, precision="exact", return_precision=True, threads=1)
    assert computed == "exact" and y.shape == (2, 4, 7)


def test_what_does_not_fit() -> None:
    t = cortex.compress(weights(4, 2 * 9).reshape(4, 2, 3, 3), "dense")
    x = weights(2, 2 * 42).reshape(2, 2, 6, 7)
    for bad in (x[:, :1], x[0], x[..., :2], x.astype(np.int32)):
        with pytest.raises(cortex.InvalidArgumentError):
            t.conv(bad)
    with pytest.raises(cortex.InvalidArgumentError, match="stride has 3 entries; 2 are needed"):
        t.conv(x, stride=(1, 1, 1))
    with pytest.raises(cortex.InvalidArgumentError, match="padding of a direction has 3 entries"):
        t.conv(x, padding=((1, 1, 1), 0))  # type: ignore[arg-type]
    with pytest.raises(cortex.InvalidArgumentError, match="padding is -1"):
        t.conv(x, padding=-1)
    with pytest.raises(cortex.InvalidArgumentError, match="out has shape"):
        t.conv(x, out=np.empty((2, 4, 4, 4), np.float32))
    with pytest.raises(cortex.InvalidArgumentError):
        t.conv_t(x, x.shape)
    with pytest.raises(cortex.InvalidArgumentError):
        t.conv_t(x, (1, 2**40, 2**40, 1))
    with pytest.raises(cortex.InvalidArgumentError):
        cortex.compress(weights(4, 4), "dense").conv(x)
