"""MKL's inspector-executor sparse BLAS on f32 in CSR, through ctypes."""

import ctypes as c
import glob
import os
import sys

import protocol
from protocol import Variant

# Values of mkl_spblas.h.
NON_TRANSPOSE = 10
GENERAL = 20
ROW_MAJOR, COLUMN_MAJOR = 101, 102
AGGRESSIVE = 81
# More calls than will be made, so that every preparation seems worth it.
CALLS = 100_000


class Description(c.Structure):
    _fields_ = [("type", c.c_int), ("mode", c.c_int), ("diag", c.c_int)]


PLAIN = Description(GENERAL, 0, 0)


class Mkl:
    __doc__ = __doc__
    NAME = "mkl-csr"
    SPECS = {"f32": "mkl_sparse_s_mv and mkl_sparse_s_mm, optimised with hints"}

    def __init__(self, spec, out, inn, threads, sparsity):
        import numpy as np

        self.np, self.out, self.inn = np, out, inn
        self.mkl = load()
        self.mkl.MKL_Set_Num_Threads(threads)
        self.block = protocol.weights(out, inn, sparsity)
        counts = protocol.tiled((self.block != 0).sum(axis=1), out)
        starts = np.zeros(out + 1, dtype=np.int32)
        np.cumsum(counts, out=starts[1:])
        columns = np.nonzero(self.block)[1].astype(np.int32)
        values = self.block[self.block != 0]
        nnz = starts[-1]
        times = -(-nnz // len(values))
        self.csr = (starts, np.tile(columns, times)[:nnz], np.tile(values, times)[:nnz])
        self.wbytes = sum(part.nbytes for part in self.csr)
        # (handle, arrays) of each copy, for a product of vectors or of so many columns.
        self.copies = {}

    @staticmethod
    def version():
        from importlib.metadata import version

        return version("mkl")

    def copy(self, layout, batch):
        arrays = [part.copy() for part in self.csr]
        starts, columns, values = (a.ctypes.data for a in arrays)
        handle = c.c_void_p()
        check(
            self.mkl.mkl_sparse_s_create_csr(
                c.byref(handle), 0, self.out, self.inn,
                c.c_void_p(starts), c.c_void_p(starts + 4), c.c_void_p(columns), c.c_void_p(values),
            )
        )
        if layout is None:
            check(self.mkl.mkl_sparse_set_mv_hint(handle, NON_TRANSPOSE, PLAIN, CALLS))
        else:
            check(self.mkl.mkl_sparse_set_mm_hint(handle, NON_TRANSPOSE, PLAIN, layout, batch, CALLS))
        check(self.mkl.mkl_sparse_set_memory_hint(handle, AGGRESSIVE))
        check(self.mkl.mkl_sparse_optimize(handle))
        return handle, arrays

    def bind(self, x, copies):
        np, mkl, batch = self.np, self.mkl, len(x)
        one, zero = c.c_float(1), c.c_float(0)
        for layout in [None] if batch == 1 else [COLUMN_MAJOR, ROW_MAJOR]:
            key = (layout, batch)
            self.free({k for k in self.copies if k[0] == layout and k != key})
            weights = self.copies.setdefault(key, [])
            while len(weights) < copies:
                weights.append(self.copy(layout, batch))
            # Row-major wants x and y the other way round; that they come so is a gift to it.
            side = x if layout != ROW_MAJOR else np.ascontiguousarray(x.T)
            y = np.empty((batch, self.out) if layout != ROW_MAJOR else (self.out, batch), dtype=np.float32)
            x_at, y_at = c.c_void_p(side.ctypes.data), c.c_void_p(y.ctypes.data)
            if layout is None:
                def call(handle):
                    return mkl.mkl_sparse_s_mv(NON_TRANSPOSE, one, handle, PLAIN, x_at, zero, y_at)
            else:
                x_stride = self.inn if layout == COLUMN_MAJOR else batch
                y_stride = self.out if layout == COLUMN_MAJOR else batch

                def call(handle, layout=layout, x_at=x_at, y_at=y_at, x_stride=x_stride, y_stride=y_stride):
                    return mkl.mkl_sparse_s_mm(
                        NON_TRANSPOSE, one, handle, PLAIN, layout,
                        x_at, batch, x_stride, zero, y_at, y_stride,
                    )

            calls = [lambda h=h, f=call, keep=(side, y): f(h) for h, _ in weights[:copies]]
            name = {None: "mv", COLUMN_MAJOR: "mm", ROW_MAJOR: "mm, x and y transposed"}[layout]
            result = (lambda y=y: y) if layout != ROW_MAJOR else (lambda y=y: y.T)
            yield Variant(name, calls, 1, result)

    def free(self, keys):
        for key in keys:
            for handle, _ in self.copies.pop(key):
                self.mkl.mkl_sparse_destroy(handle)


def load():
    """The one library that loads the others, as the wheel puts it."""
    os.environ.setdefault("MKL_THREADING_LAYER", "INTEL")
    found = sorted(glob.glob(os.path.join(sys.prefix, "lib", "libmkl_rt.so*")))
    if not found:
        raise RuntimeError("the wheel of mkl has no libmkl_rt.so")
    mkl = c.CDLL(found[-1], c.RTLD_GLOBAL)
    for name in ["mv_hint", "mm_hint"]:
        getattr(mkl, f"mkl_sparse_set_{name}").restype = c.c_int
    mkl.mkl_sparse_set_mv_hint.argtypes = [c.c_void_p, c.c_int, Description, c.c_int]
    mkl.mkl_sparse_set_mm_hint.argtypes = [c.c_void_p, c.c_int, Description, c.c_int, c.c_int, c.c_int]
    mkl.mkl_sparse_set_memory_hint.argtypes = [c.c_void_p, c.c_int]
    mkl.mkl_sparse_optimize.argtypes = [c.c_void_p]
    mkl.mkl_sparse_destroy.argtypes = [c.c_void_p]
    pointer = c.c_void_p
    mkl.mkl_sparse_s_mv.argtypes = [
        c.c_int, c.c_float, pointer, Description, pointer, c.c_float, pointer,
    ]
    mkl.mkl_sparse_s_mm.argtypes = [
        c.c_int, c.c_float, pointer, Description, c.c_int,
        pointer, c.c_int, c.c_int, c.c_float, pointer, c.c_int,
    ]
    return mkl


def check(status):
    if status != 0:
        raise RuntimeError(f"MKL says {status}")


if __name__ == "__main__":
    protocol.main(Mkl)
