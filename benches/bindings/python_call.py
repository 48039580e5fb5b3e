"""Times a matmul through the Python binding: python benches/bindings/python_call.py

Prints a JSON line a case, as call.c does, whose data and samples these are. With `--parts` it also
prints what the pieces of a call cost, the product included in those that are calls.
"""

import gc
import json
import sys
import time

import numpy as np

import cortex

CASES = [
    {"name": "call_64x64_int8", "spec": "int8", "n": 64, "batch": 1, "samples": 500, "calls": 1000},
    {"name": "matmul_4096_b8", "spec": "int4(group=32)", "n": 4096, "batch": 8, "samples": 100, "calls": 1},
]


def values(count):
    """Elements of the weights, and of x."""
    hashes = np.arange(count, dtype=np.uint32) * np.uint32(2654435761)
    return (hashes / 4294967296.0 - 0.5).astype(np.float32)


def measure(samples, calls, f, *arguments, **options):
    """Least and median of `samples` means of `calls` calls each, in µs."""
    times = []
    repeat = [None] * calls
    # The first tenth is not counted.
    for sample in range(-samples // 10, samples):
        start = time.perf_counter_ns()
        for _ in repeat:
            f(*arguments, **options)
        mean = (time.perf_counter_ns() - start) / 1e3 / calls
        if sample >= 0:
            times.append(mean)
    times.sort()
    return times[0], times[len(times) // 2]


def show(name, least, median, calls):
    figures = {"min_us": round(least, 4), "median_us": round(median, 4), "calls": calls}
    print(json.dumps({"language": "python", "case": name, **figures}), flush=True)


def parts():
    """What a call of 64×64 is made of."""
    from cortex._native import ffi, lib

    tensor = cortex.compress(values(64 * 64).reshape(64, 64), "int8")
    x, y = values(64).reshape(1, 64), np.empty((1, 64), np.float32)
    handle = tensor._handle
    shape = ffi.new("size_t[]", [1, 64])
    view = ffi.new("cortex_view *", [ffi.from_buffer(x), lib.CORTEX_DTYPE_F32, 2, shape])
    options = ffi.new("cortex_matmul_options *", [ffi.sizeof("cortex_matmul_options"), 1])
    error = ffi.new("cortex_error **")
    floats = ffi.typeof("float[]")
    lent = ffi.from_buffer(floats, y)
    for name, call in {
        "nothing": lambda: None,
        "cffi, a property": lambda: lib.cortex_tensor_rows(handle),
        "cffi, the call alone": lambda: lib.cortex_tensor_matmul(
            handle, view, options, lent, 64, error
        ),
        "cffi, a call that is refused at once": lambda: lib.cortex_tensor_matmul(
            handle, view, options, lent, 0, ffi.NULL
        ),
        "from_buffer twice": lambda: (ffi.from_buffer(x), ffi.from_buffer(floats, y, True)),
        "address by __array_interface__": lambda: x.__array_interface__["data"][0],
        "address by ctypes": lambda: x.ctypes.data,
        "out": lambda: tensor.matmul(x, out=y),
        "out and threads": lambda: tensor.matmul(x, out=y, threads=1),
        "a new array": lambda: tensor.matmul(x, threads=1),
    }.items():
        show(name, *measure(200, 1000, call), 200_000)


def main():
    gc.disable()
    for case in CASES:
        n, batch = case["n"], case["batch"]
        tensor = cortex.compress(values(n * n).reshape(n, n), case["spec"])
        x = values(batch * n).reshape(batch, n)
        out = np.empty((batch, n), np.float32)
        times = measure(case["samples"], case["calls"], tensor.matmul, x, out=out, threads=1)
        show(case["name"], *times, case["samples"] * case["calls"])
    if "--parts" in sys.argv:
        parts()


if __name__ == "__main__":
    main()
