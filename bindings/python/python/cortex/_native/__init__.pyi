"""Made by maturin: the declarations of cortex.h and the library they belong to."""

from typing import Any

ffi: Any
lib: Any
