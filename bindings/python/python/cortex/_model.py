"""Whole model files, in and out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Optional, Union

from cortex._convert import StrPath, encoded_path, owned_string, size, text
from cortex._error import call
from cortex._native import ffi, lib
from cortex._progress import ProgressFn, run

__all__ = ["CompressionStats", "compress_model", "decompress_model"]

# Names of the library's report that go by another one here.
_RENAMED = {
    "input_bytes": "original_bytes",
    "output_bytes": "compressed_bytes",
    "ratio": "compression_ratio",
}


class CompressionStats(Mapping[str, Any]):
    """
    What became of a model: the library's report, by attributes and as a mapping,
    ``stats.compression_ratio`` or ``stats["compression_ratio"]``.
    """

    __slots__ = ("_found",)

    _found: dict[str, Any]

    original_bytes: int
    """Bytes of the input files."""
    compressed_bytes: int
    """Bytes of the archive: all ``stored_bytes``, ``index_bytes`` and ``header_bytes``."""
    compression_ratio: float
    """``original_bytes / compressed_bytes``."""
    compression_time_ms: float
    """Milliseconds by the clock on the wall."""
    index_bytes: int
    """Bytes of the archive's index."""
    header_bytes: int
    """Bytes of the archive's header and footer."""
    aliases: dict[str, str]
    """Further names of tensors: alias to name."""
    tensors: list[dict[str, Any]]
    """For each tensor, in the order of the file: name, dtype, shape, spec, raw_bytes,
    stored_bytes, bits_per_weight, relative_error, sqnr_db (``None`` for infinity),
    max_abs_error, seconds; where there is something to tell, calibrated and notes (what was
    done otherwise than asked); candidates, if ``explain`` asked for them."""

    def __init__(self, report: Mapping[str, Any]) -> None:
        found = {_RENAMED.get(key, key): value for key, value in report.items()}
        found["compression_time_ms"] = found.pop("seconds") * 1000.0
        self._found = found

    def __getitem__(self, key: str) -> Any:
        return self._found[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def __getattr__(self, name: str) -> Any:
        # Not by `self._found`: a copy in the making has none yet.
        try:
            return object.__getattribute__(self, "_found")[name]
        except KeyError:
            raise AttributeError(f"CompressionStats has no attribute {name!r}") from None

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._found})

    def __repr__(self) -> str:
        return (
            f"<cortex.CompressionStats {self.original_bytes} to {self.compressed_bytes} bytes, "
            f"{self.compression_ratio:.2f}×, {self.compression_time_ms:.0f} ms, "
            f"{len(self.tensors)} tensors>"
        )


def compress_model(
    src: StrPath,
    dst: StrPath,
    *,
    spec: Optional[str] = None,
    rules: Union[Mapping[str, str], Iterable[tuple[str, str]], None] = None,
    exclude: Optional[str] = None,
    calibration: Optional[StrPath] = None,
    threads: int = 0,
    explain: bool = False,
    progress: Union[ProgressFn, bool, None] = None,
) -> CompressionStats:
    """
    Compresses the model at ``src`` (safetensors, a sharded one's index.json, npy, npz; found by
    content) into the archive ``dst``, holding one tensor in memory at a time. The file appears
    when it is complete; what stood there is replaced then.

    ``spec`` is for every tensor that no rule names, ``None`` for ``auto(error=1%)``. A lossy
    one leaves integers, bools, vectors and tensors of under 4096 elements lossless. ``rules``
    are pairs of a regular expression, found anywhere in a name unless it has ^ and $, and a
    spec, which is followed to the letter; the first that matches counts. Tensors whose name
    matches ``exclude`` stay lossless, rules or not.

    ``calibration`` is a file (safetensors, npy, npz) of second moments of the activations, an
    entry for each tensor by its name: [in] for their diagonal, [in, in] for all. ``threads``
    may be at most 4096, 0 for all cores; the file does not depend on it. With ``explain`` the
    stats list for each tensor what was measured and why it was taken or not.

    ``progress=True`` shows a bar of tqdm. A function is called with a :class:`Progress`, in the
    thread of the call, at most every 50 ms and after each tensor, while the work waits for it;
    it must not compute with the library, whose threads may be waiting too. An exception that it
    raises stops the call and comes out of it, ``return False`` raises :class:`CancelledError`.
    So does Ctrl-C, with or without a function. A call that is stopped leaves no file behind.

    Raises :class:`InvalidArgumentError` for a bad spec or pattern, a ``dst`` that is an input,
    and a value that is not finite under a lossy spec; :class:`CorruptError` and
    :class:`LimitExceededError` for a damaged model; :class:`IoError`.
    """
    options = ffi.new("cortex_compress_options *")
    options.struct_size = ffi.sizeof("cortex_compress_options")
    keep: list[Any] = []

    def lend(given: bytes) -> Any:
        """A text that lives until this function ends."""
        keep.append(ffi.new("char[]", given))
        return keep[-1]

    if spec is not None:
        options.spec = lend(text(spec, "spec"))
    if exclude is not None:
        options.exclude = lend(text(exclude, "exclude"))
    if calibration is not None:
        options.calibration = lend(encoded_path(calibration, "calibration"))
    pairs = list(rules.items() if isinstance(rules, Mapping) else rules or ())
    listed = ffi.new("cortex_rule[]", len(pairs))
    for i, (pattern, rule_spec) in enumerate(pairs):
        listed[i].pattern = lend(text(pattern, f"rules[{i}].pattern"))
        listed[i].spec = lend(text(rule_spec, f"rules[{i}].spec"))
    options.rules = listed
    options.rules_len = len(pairs)
    options.threads = size(threads, "threads")
    options.explain = bool(explain)
    paths = encoded_path(src, "src"), encoded_path(dst, "dst")
    report = ffi.new("char **")

    def work(tell: Any) -> None:
        options.progress = tell
        call(lib.cortex_compress_file, *paths, options, report)

    run(work, progress, "compress")
    return CompressionStats(json.loads(owned_string(report)))


def decompress_model(
    src: StrPath,
    dst: StrPath,
    *,
    threads: int = 0,
    progress: Union[ProgressFn, bool, None] = None,
) -> int:
    """
    Decodes every tensor of the archive ``src`` into the safetensors file ``dst``, under its
    name and in its dtype, in bounded memory; the size of the file in bytes. The file appears
    when it is complete. ``threads`` and ``progress`` are as in :func:`compress_model`.

    Raises :class:`CorruptError` if the archive is damaged; it names the tensor and the offset.
    """
    options = ffi.new("cortex_decompress_options *")
    options.struct_size = ffi.sizeof("cortex_decompress_options")
    options.threads = size(threads, "threads")
    paths = encoded_path(src, "src"), encoded_path(dst, "dst")
    written = ffi.new("uint64_t *")

    def work(tell: Any) -> None:
        options.progress = tell
        call(lib.cortex_decompress_file, *paths, options, written)

    run(work, progress, "decompress")
    return int(written[0])
