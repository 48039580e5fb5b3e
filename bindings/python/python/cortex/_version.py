"""Versions."""

from __future__ import annotations

from cortex._error import string
from cortex._native import lib

__all__ = ["abi_version", "version"]


def version() -> str:
    """The version of the library inside the package, such as "1.2.3"."""
    return string(lib.cortex_version()) or ""


def abi_version() -> int:
    """The C ABI of the library inside the package."""
    return int(lib.cortex_abi_version())
