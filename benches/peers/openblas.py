"""OpenBLAS through numpy: sgemv and sgemm on dense f32."""

import protocol
from protocol import Variant


class OpenBlas:
    __doc__ = __doc__
    NAME = "openblas"
    SPECS = {"f32": "numpy.dot; with --sparsity the zeros are multiplied too"}

    def __init__(self, spec, out, inn, threads, sparsity):
        self.block = protocol.weights(out, inn, sparsity)
        self.copies = [protocol.tiled(self.block, out)]
        self.wbytes = self.copies[0].nbytes

    @staticmethod
    def version():
        import numpy as np

        blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
        return f"{blas['version']} (numpy {np.__version__})"

    def bind(self, x, copies):
        import numpy as np

        while len(self.copies) < copies:
            self.copies.append(self.copies[0].copy())
        y = np.empty((len(x), len(self.copies[0])), dtype=np.float32)
        if len(x) == 1:
            calls = [lambda w=w: np.dot(w, x[0], out=y[0]) for w in self.copies[:copies]]
        else:
            calls = [lambda w=w: np.dot(x, w.T, out=y) for w in self.copies[:copies]]
        yield Variant("sgemv" if len(x) == 1 else "sgemm", calls, 1, lambda: y)


if __name__ == "__main__":
    protocol.main(OpenBlas)
