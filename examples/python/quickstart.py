"""Opens an archive, lists its tensors, and multiplies the first matrix by a vector, on the
compressed weights: quickstart.py MODEL.cai"""

import sys

import numpy as np

import cortex


def main(path: str) -> None:
    matrix = None
    with cortex.open(path) as model:
        for name, w in model.items():
            print(
                f"{name:32} {w.dtype.name}[{w.rows} x {w.cols}]  {w.spec:24} "
                f"{w.bits_per_weight:5.2f} bits, error {w.error.relative:.4f}"
            )
            if matrix is None and w.ndim == 2:
                matrix = w
    if matrix is not None:
        # y = W x with x all ones: the sum of each row of W.
        y = matrix.matmul(np.ones((1, matrix.cols), np.float32))[0]
        shown = " ".join(f"{value:g}" for value in y[:8])
        print(f"\ny = W x for {matrix.name}, x all ones: {shown}{' ...' if len(y) > 8 else ''}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: quickstart.py MODEL.cai")
    try:
        main(sys.argv[1])
    except cortex.CortexError as error:
        sys.exit(f"{error.kind}: {error}")
