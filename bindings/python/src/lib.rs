//! The shared library inside the Python package: the functions of `include/cortex.h` and
//! nothing else. A crate of its own, so that the library is compiled once for the whole
//! workspace and only linked here.

use cortex as _;
