"""Decomposes a tensor with TensorLy, in f32 and in f64, and prints rows of a Markdown table.

Called by the tensor_decompositions bench, so that both stand in one run:
python3 peer_tensorly_cp.py FILE SHAPE NAME CODEC RANKS
"""

import sys
import time

import numpy as np
import tensorly as tl
from tensorly.decomposition import parafac, tucker


def main() -> None:
    path, shape, name, codec, ranks = sys.argv[1:]
    shape = [int(n) for n in shape.split("x")]
    ranks = [int(n) for n in ranks.split("x")]
    data = np.fromfile(path, dtype=np.float32).reshape(shape)
    for dtype in (np.float32, np.float64):
        x = data.astype(dtype)
        # Without the costs of a first call.
        warm = np.random.default_rng(0).standard_normal([4] * len(shape)).astype(dtype)
        tucker(warm, rank=[2] * len(shape), n_iter_max=2)
        start = time.perf_counter()
        if codec == "tucker":
            found = tucker(x, rank=ranks, init="svd", n_iter_max=100, tol=1e-6)
        else:
            found = parafac(x, rank=ranks[0], init="svd", n_iter_max=200, tol=1e-8, random_state=0)
        ms = (time.perf_counter() - start) * 1e3
        back = tl.tucker_to_tensor(found) if codec == "tucker" else tl.cp_to_tensor(found)
        error = np.linalg.norm(data - back.astype(np.float64)) / np.linalg.norm(data)
        label = f"TensorLy {tl.__version__}, {np.dtype(dtype).name}"
        print(f"| {name} | {codec} {sys.argv[5]} | {label} | {error:.6f} | {ms:.1f} |", flush=True)


if __name__ == "__main__":
    main()
