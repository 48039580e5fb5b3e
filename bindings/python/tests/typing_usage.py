"""What the types say of common programs; read by mypy --strict, never run."""

from __future__ import annotations

from typing import Any, Optional

import numpy as np
import numpy.typing as npt

import cortex

F32 = npt.NDArray[np.float32]


def tensors(array: F32) -> None:
    tensor: cortex.Tensor = cortex.compress(array, "int8")
    y: F32 = tensor.matmul(array)
    y = tensor.matmul(array, out=y, threads=1, precision="exact")
    y = tensor.matmul_t(y)
    y = tensor.conv(array, stride=(1, 2), padding=((0, 1), 2))
    y = array @ tensor
    shape: tuple[int, ...] = tensor.shape
    name: Optional[str] = tensor.name
    relative: float = tensor.error.relative
    dense: npt.NDArray[Any] = np.asarray(tensor)
    same: F32 = tensor.decode_rows_f32(0, 2)
    tensor.shape = (1, 2)  # type: ignore[misc]
    cortex.compress(array, spec=8)  # type: ignore[arg-type]
    print(shape, name, relative, dense, same)


def archives() -> None:
    with cortex.open("a.cai", mapped=False) as archive:
        tensor: cortex.Tensor = archive["w"]
        names: list[str] = list(archive)
        texts: dict[str, str] = archive.metadata
        archive[0]  # type: ignore[index]
    with cortex.Writer("b.cai") as writer:
        writer.add("w", tensor)
        size: int = writer.finish()
    size = cortex.save("c.cai", {"w": tensor, "v": np.zeros(3)}, metadata=texts)
    print(names, size)


def models() -> None:
    def tell(progress: cortex.Progress) -> bool:
        return progress.done_bytes < progress.total_bytes

    stats = cortex.compress_model("a", "b", rules={"w": "int8"}, progress=tell)
    ratio: float = stats.compression_ratio
    size: int = cortex.decompress_model("b", "c", progress=True)
    matches: list[cortex.Match] = cortex.SdrIndex(64).top_k([1, 2], 3)
    try:
        cortex.parse_spec("int9")
    except cortex.CortexError as error:
        kind: str = error.kind
        offset: Optional[int] = error.offset
        print(kind, offset)
    print(ratio, size, matches[0].overlap)
