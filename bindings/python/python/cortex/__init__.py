"""
Cortex: neural-network tensors that stay compressed, and that you can multiply by.

    import cortex, numpy as np

    cortex.compress_model("model.safetensors", "model.cai", spec="int8")
    with cortex.open("model.cai") as model:
        w = model["fc1.weight"]
        y = w.matmul(np.ones((1, w.cols), np.float32))    # [1, rows] = x · Wᵀ
        first = w[0:10]                                   # ten rows, decoded

    cortex.save("mine.cai", {"w": np.random.rand(512, 512)}, spec="int4(group=32)")

Everything that goes wrong in the library is a :class:`CortexError`.
"""

from cortex._archive import Archive, open
from cortex._error import (
    CancelledError,
    CorruptError,
    CortexError,
    InternalError,
    InvalidArgumentError,
    IoError,
    LimitExceededError,
    OutOfMemoryError,
    UnknownNameError,
    UnsupportedError,
)
from cortex._model import CompressionStats, compress_model, decompress_model
from cortex._progress import Progress
from cortex._sdr import Match, SdrIndex
from cortex._spec import codecs, parse_spec
from cortex._tensor import ErrorStats, Tensor, compress
from cortex._version import abi_version, version
from cortex._writer import Writer, save

__version__ = version()

__all__ = [
    "Archive",
    "CancelledError",
    "CompressionStats",
    "CorruptError",
    "CortexError",
    "ErrorStats",
    "InternalError",
    "InvalidArgumentError",
    "IoError",
    "LimitExceededError",
    "Match",
    "OutOfMemoryError",
    "Progress",
    "SdrIndex",
    "Tensor",
    "UnknownNameError",
    "UnsupportedError",
    "Writer",
    "abi_version",
    "codecs",
    "compress",
    "compress_model",
    "decompress_model",
    "open",
    "parse_spec",
    "save",
    "version",
]

# Shown, documented and pickled under the name by which they are used.
for _name in __all__:
    globals()[_name].__module__ = __name__
del _name
