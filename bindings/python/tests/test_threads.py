"""Several threads, and the lock of the interpreter."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest
from conftest import weights

import cortex


def test_eight_threads_share_a_tensor(model: Path) -> None:
    with cortex.open(model) as archive:
        for tensor in (archive["w"], archive["packed"], cortex.compress(weights(64, 48), "int4")):
            inputs = [weights(1, tensor.cols) + i for i in range(8)]
            expected = [tensor.matmul(x) for x in inputs]
            dense = tensor.decompress()
            start = threading.Barrier(8)

            def work(i: int) -> None:
                y = np.empty_like(expected[i])  # noqa: B023
                start.wait()  # noqa: B023
                for k in range(200):
                    tensor.matmul(inputs[i], out=y)  # noqa: B023
                    assert np.array_equal(y, expected[i])  # noqa: B023
                    if k % 20 == i:
                        assert np.array_equal(tensor[i : i + 3], dense[i : i + 3])  # noqa: B023

            with ThreadPoolExecutor(8) as pool:
                list(pool.map(work, range(8)))


def test_the_interpreter_is_free_during_a_call(tmp_path: Path) -> None:
    """Two calls wait for each other, each in the middle of its work: with one lock none ends."""
    source = tmp_path / "in.npy"
    np.save(source, weights(64, 64))
    meet = threading.Barrier(2, timeout=60)
    met = []

    def work(name: str) -> None:
        def tell(progress: cortex.Progress) -> None:
            if name not in met:
                meet.wait()
                met.append(name)

        cortex.compress_model(source, tmp_path / f"{name}.cai", progress=tell)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, ("a", "b")))
    assert sorted(met) == ["a", "b"]


@pytest.mark.parametrize("verb", ["compress", "decompress", "decode_rows", "matmul", "verify"])
def test_every_function_lets_the_interpreter_go(verb: str) -> None:
    """Where threads never have to give way, another one runs only if the library lets it."""
    array = weights(512, 512)
    tensor = cortex.compress(array, "dense | zstd")
    x = weights(8, 512)
    calls: dict[str, Callable[[], Any]] = {
        "compress": lambda: cortex.compress(array, "dense | zstd"),
        "decompress": tensor.decompress,
        "decode_rows": lambda: tensor.decode_rows(0, 512),
        "matmul": lambda: tensor.matmul(x),
        "verify": tensor.verify,
    }

    def free_after_one() -> bool:
        calls[verb]()
        return bool(ran)

    ran = []
    before = sys.getswitchinterval()
    held = threading.Lock()
    held.acquire()

    def body() -> None:
        with held:
            ran.append(True)

    other = threading.Thread(target=body)
    other.start()
    try:
        sys.setswitchinterval(1000)
        held.release()
        free = any(free_after_one() for _ in range(10_000))
    finally:
        sys.setswitchinterval(before)
    other.join()
    assert free


def test_closing_under_a_call() -> None:
    """Nothing is freed that a call still uses."""
    array = weights(512, 512)
    x = weights(4, 512)
    expected = cortex.compress(array, "int8").matmul(x)
    for _ in range(50):
        tensor = cortex.compress(array, "int8")
        start = threading.Barrier(5)

        def multiply() -> None:
            start.wait()  # noqa: B023
            try:
                while True:
                    assert np.array_equal(tensor.matmul(x), expected)  # noqa: B023
            except cortex.InvalidArgumentError as error:
                assert "closed" in str(error)

        with ThreadPoolExecutor(4) as pool:
            done = [pool.submit(multiply) for _ in range(4)]
            start.wait()
            tensor.close()
            for future in done:
                future.result()


def test_a_writer_takes_turns(tmp_path: Path) -> None:
    with cortex.Writer(tmp_path / "a.cai") as writer, ThreadPoolExecutor(8) as pool:
        tensors = [cortex.compress(weights(16, 16) + i, "dense") for i in range(64)]
        list(pool.map(lambda i: writer.add(f"w{i}", tensors[i]), range(64)))
    with cortex.open(tmp_path / "a.cai") as archive:
        assert len(archive) == 64
        archive.verify()
        for i in range(64):
            assert np.array_equal(np.asarray(archive[f"w{i}"]), weights(16, 16) + i)


def test_an_index_takes_turns() -> None:
    index = cortex.SdrIndex(256)

    def work(i: int) -> None:
        for k in range(50):
            number = i * 50 + k
            active = [number % 256, (number * 7 + 1) % 256 | 1, 254]
            index.add(number, set(active))
            assert number in {m.id for m in index.top_k(set(active), 400)}
            if k % 2:
                assert index.remove(number)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert len(index) == 8 * 25
