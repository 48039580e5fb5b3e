"""Times c-blosc2 on a file of f32, one thread, and prints rows of a Markdown table.

Called by the figures bench, so that both stand in one run: python3 peer_blosc2.py FILE
"""

import statistics
import sys
import time

import blosc2
import numpy as np


def median(runs: int, call) -> float:
    call()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    data = np.fromfile(sys.argv[1], dtype=np.float32)
    blosc2.set_nthreads(1)
    for codec, name, level in [
        (blosc2.Codec.ZSTD, "zstd", 1),
        (blosc2.Codec.ZSTD, "zstd", 3),
        (blosc2.Codec.LZ4, "lz4", 5),
    ]:
        # Blocks in one contiguous super-chunk; blosc2 chooses the block size.
        params = blosc2.CParams(
            codec=codec, clevel=level, typesize=4, nthreads=1, filters=[blosc2.Filter.SHUFFLE]
        )
        raw = data.tobytes()
        chunk = 8 << 20
        pieces = [raw[i : i + chunk] for i in range(0, len(raw), chunk)]

        def compress():
            return [
                blosc2.compress2(p, cparams=params)
                for p in pieces
            ]

        coded = compress()
        decode = blosc2.DParams(nthreads=1)

        def decompress():
            return [blosc2.decompress2(c, dparams=decode) for c in coded]

        assert b"".join(decompress()) == raw
        size = sum(len(c) for c in coded)
        mb = len(raw) / 1e6
        print(
            f"| c-blosc2 {blosc2.blosclib_version.split()[0]} shuffle, {name} {level} "
            f"| {len(raw) / size:.4f} | {mb / median(5, compress):.0f} "
            f"| {mb / median(5, decompress):.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
