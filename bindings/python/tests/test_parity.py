"""Every function of the C library has its place here, and nothing is here without one."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping

from conftest import ROOT

import cortex
from cortex._native import ffi, lib

TABLE = json.loads((ROOT / "bindings/python/parity.json").read_text(encoding="utf-8"))
SYMBOLS = [
    line
    for line in (ROOT / "tests/abi/symbols.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
]

# What a user of a class meets though its name has underscores.
SPECIAL = {
    "__array__", "__contains__", "__copy__", "__deepcopy__", "__enter__", "__exit__",
    "__getattr__", "__getitem__", "__init__", "__iter__", "__len__", "__matmul__", "__rmatmul__",
}  # fmt: skip


def exposed() -> set[str]:
    found = set()
    for name, value in vars(cortex).items():
        if name.startswith("_") and name != "__version__" or inspect.ismodule(value):
            continue
        found.add(name)
        if not inspect.isclass(value):
            continue
        for base in value.__mro__:
            # Of other classes only what makes a mapping of it counts, and that by its name.
            if base.__module__ != "cortex":
                continue
            fields = set(getattr(base, "_fields", ())) | set(base.__dict__.get("__annotations__", {}))
            members = {m for m in vars(base) if not m.startswith("_") or m in SPECIAL} | fields
            owner = base.__name__
            found |= {f"{owner}.{m}" for m in members if not m.startswith("_") or m in SPECIAL}
    return found


def test_the_table_is_complete() -> None:
    assert list(TABLE["symbols"]) == SYMBOLS
    assert all(TABLE["symbols"].values()), "an empty list"
    listed = {m for members in TABLE["symbols"].values() for m in members} | set(TABLE["extra"])
    assert listed - exposed() == set()
    assert exposed() - listed == set()
    assert all(isinstance(why, str) and why for why in TABLE["extra"].values())


def test_all_lists_what_is_there() -> None:
    public = {n for n, v in vars(cortex).items() if not n.startswith("_") and not inspect.ismodule(v)}
    assert set(cortex.__all__) == public
    assert issubclass(cortex.Archive, Mapping) and issubclass(cortex.CompressionStats, Mapping)


def test_the_declarations_are_those_of_the_library() -> None:
    declared = [n for n in dir(lib) if n.startswith("cortex_")]
    assert sorted(declared) == sorted(SYMBOLS)
    assert ffi.typeof(lib.cortex_tensor_matmul).args[0] is ffi.typeof("cortex_tensor *")
