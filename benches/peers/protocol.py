"""What every peer does alike: arguments, checks, timing, and the line that is printed.

A peer is a class with a constructor `Peer(spec, out, inn, threads, sparsity)`, which makes its
weights, and

    NAME          what it is called in results
    SPECS         the specs it knows, each with a word about it
    version()     of the library, as text
    wbytes        bytes of one copy of the weights that a product reads
    bind(x, copies)
                  a list of variants, ways of computing the same product with `copies` copies of
                  the weights, each a `Variant`

Run by hand as `python ggml.py --spec Q4_0 --shape 4096x4096 --batch 1 --threads 1 --cold`; the
line has the fields of `cortex bench matmul --json`. With `--serve` it answers each line of
stdin, {"B": 8, "cold": 1, "seconds": 0.5}, with one line.

Weights are Gaussian, made of the same `BLOCK` rows over and over (what is multiplied does not
change the time, and making it does): each copy in memory of its own.
"""

import argparse
import gc
import json
import os
import sys
import time
import traceback
from dataclasses import dataclass
from typing import Callable

# As in `cortex bench matmul`.
COLD_BYTES = 256_000_000
SAMPLE = 50e-6
LEAST_SAMPLES = 3
WRONG = 0.25

BLOCK = 256


@dataclass
class Variant:
    """One way to compute."""

    name: str
    # Each computes `products` products; called one after another, round and round.
    calls: list[Callable[[], object]]
    products: int
    # What the first copy's product was, [batch, out], after a call of `calls[0]`.
    result: Callable[[], "numpy.ndarray"]


def weights(out, inn, sparsity=0.0):
    """The block of rows that weights repeat, f32; how often; zeros at random places."""
    import numpy as np

    rng = np.random.default_rng(1)
    block = rng.standard_normal((min(BLOCK, out), inn), dtype=np.float32)
    if sparsity:
        block[rng.random(block.shape) < sparsity] = 0
    return block


def tiled(block, out):
    """`out` rows of whatever there is for each row of the block."""
    import numpy as np

    times = -(-out // len(block))
    return np.ascontiguousarray(np.concatenate([block] * times)[:out])


def largest_error(x, block, y):
    """max |y − ref| / (‖x‖·‖w‖/√inn), see `cortex bench matmul --help`."""
    import numpy as np

    x, block = x.astype(np.float64), block.astype(np.float64)
    reference = x @ block.T
    size = np.linalg.norm(x, axis=1)[:, None] * np.linalg.norm(block, axis=1) / np.sqrt(x.shape[1])
    worst = 0.0
    for first in range(0, y.shape[1], len(block)):
        part = y[:, first : first + len(block)]
        n = part.shape[1]
        error = np.abs(part - reference[:, :n]) / size[:, :n]
        worst = max(worst, float(error.max())) if np.isfinite(part).all() else float("nan")
    return worst


def measure(variant, seconds, least_samples=LEAST_SAMPLES):
    """(least, median, products, least CPU seconds) of one product."""
    calls, turn = variant.calls, 0
    start = time.perf_counter()
    calls[0]()
    one = max(time.perf_counter() - start, 20e-9)
    repeat = -(-int(SAMPLE * 1e9) // int(one * 1e9 + 1))
    products = repeat * variant.products
    walls, cpus = [], []
    gc.collect()
    gc.disable()
    start = time.perf_counter()
    while len(walls) < least_samples or time.perf_counter() - start < seconds:
        cpu, wall = time.process_time_ns(), time.perf_counter_ns()
        for _ in range(repeat):
            calls[turn]()
            turn = (turn + 1) % len(calls)
        walls.append((time.perf_counter_ns() - wall) / products / 1e9)
        cpus.append((time.process_time_ns() - cpu) / products / 1e9)
    gc.enable()
    walls.sort()
    return walls[0], walls[len(walls) // 2], len(walls) * products, min(cpus)


class Bench:
    def __init__(self, args, make):
        self.args = args
        self.out, self.inn = (int(n) for n in args.shape.split("x"))
        self.peer = make(args.spec, self.out, self.inn, args.threads, share(args.sparsity))
        # The variants of the last batch and number of copies, each with its error.
        self.bound = (None, [])

    def time(self, batch, cold, seconds):
        import numpy as np

        copies = int(COLD_BYTES // self.peer.wbytes + 1) if cold else 1
        # Variants of other batches give their memory back first.
        if self.bound[0] != (batch, copies):
            self.bound = (None, [])
            gc.collect()
            self.bound = ((batch, copies), self.bind(np, batch, copies))
        variants = self.bound[1]
        if len(variants) > 1:
            # The best of the ways that there are is what counts.
            trials = [measure(v, seconds / 10, 2)[0] for v, _ in variants]
            variant, error = variants[trials.index(min(trials))]
        else:
            variant, error = variants[0]
        least, median, n, cpu = measure(variant, seconds)
        return {
            "peer": self.peer.NAME,
            "spec": self.args.spec,
            "out": self.out,
            "inn": self.inn,
            "B": batch,
            "threads": self.args.threads,
            "cold": int(cold and len(variant.calls) * variant.products >= copies),
            "wbytes": self.peer.wbytes,
            "min_s": least,
            "med_s": median,
            "n": n,
            "cpu_s": cpu,
            "kernel": variant.name,
            "max_rel_error": error,
        }

    def bind(self, np, batch, copies):
        x = np.random.default_rng(3).standard_normal((batch, self.inn), dtype=np.float32)
        checked = []
        for variant in self.peer.bind(x, copies):
            # A first call may set up what later ones use.
            for call in variant.calls if batch <= 8 else []:
                call()
            variant.calls[0]()
            error = largest_error(x, self.peer.block, variant.result())
            if not error <= WRONG:
                raise RuntimeError(f"{variant.name}: wrong by {error} of an output's size")
            checked.append((variant, error))
        return checked


def share(text):
    return float(text[:-1]) / 100 if text.endswith("%") else float(text)


def main(make):
    """Parses the command line and does what it says; `make` is the peer's class."""
    parser = argparse.ArgumentParser(description=make.__doc__)
    parser.add_argument("--spec", choices=list(make.SPECS), help="how the weights are stored")
    parser.add_argument("--shape", default="4096x4096", help="OUTxIN")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cold", action="store_true", help="the default")
    parser.add_argument("--hot", action="store_true")
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--sparsity", default="0", help="share of zeros, such as 90%%")
    parser.add_argument("--serve", action="store_true", help="answer lines of stdin")
    parser.add_argument("--version", action="store_true", help="print the library's version")
    parser.add_argument("--json", action="store_true", help="always so")
    args = parser.parse_args()
    # Whatever libraries print is not for stdout.
    stdout = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(line):
        print(json.dumps(line), file=stdout, flush=True)

    # Each library's threads, before it is loaded.
    for name in ["OMP", "OPENBLAS", "MKL"]:
        os.environ[f"{name}_NUM_THREADS"] = str(args.threads)
    os.environ.pop("OPENBLAS_CORETYPE", None)
    try:
        if args.version:
            return answer({"peer": make.NAME, "version": make.version()})
        if args.spec is None:
            parser.error("--spec is needed")
        bench = Bench(args, make)
        if not args.serve:
            return answer(bench.time(args.batch, not args.hot, args.seconds))
        for line in sys.stdin:
            request = json.loads(line)
            answer(
                bench.time(
                    request.get("B", args.batch),
                    bool(request.get("cold", not args.hot)),
                    request.get("seconds", args.seconds),
                )
            )
    except Exception as error:
        traceback.print_exc()
        answer({"error": f"{type(error).__name__}: {error}"})
        sys.exit(1)
