"""Factorises a file of f32 with TensorLy, one thread, and prints rows of a Markdown table.

Called by the lowrank bench, so that both stand in one run:
python3 peer_tensorly.py FILE ROWS COLS RANK ROW_MODES COL_MODES NAME, modes as 16x16x16.
"""

import sys
import time

import numpy as np
import tensorly as tl
from tensorly.decomposition import tensor_train, tensor_train_matrix
from tensorly.tenalg import svd_interface


def main() -> None:
    path, rows, cols, rank = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    row_modes = [int(n) for n in sys.argv[5].split("x")]
    col_modes = [int(n) for n in sys.argv[6].split("x")]
    name = sys.argv[7]
    w = np.fromfile(path, dtype=np.float32).reshape(rows, cols)
    norm = np.linalg.norm(w)

    def report(what: str, call, rebuild) -> None:
        start = time.perf_counter()
        found = call()
        seconds = time.perf_counter() - start
        error = np.linalg.norm(rebuild(found).reshape(rows, cols) - w) / norm
        print(f"| {name} | {what} | TensorLy {tl.__version__} | {error:.5f} | {seconds:.3f} |", flush=True)

    for method in ["truncated_svd", "randomized_svd"]:
        report(
            "svd",
            lambda: svd_interface(w, n_eigenvecs=rank, method=method, random_state=0),
            lambda usv: (usv[0] * usv[1]) @ usv[2],
        )
    shape = row_modes + col_modes
    sites = len(row_modes)
    report(
        "tt, interleaved",
        lambda: tensor_train_matrix(w.reshape(shape), [1] + [rank] * (sites - 1) + [1]),
        lambda train: train.to_tensor(),
    )
    report(
        "tt, separate",
        lambda: tensor_train(w.reshape(shape), [1] + [rank] * (len(shape) - 1) + [1]),
        lambda train: train.to_tensor(),
    )


if __name__ == "__main__":
    main()
