//! Versions.

use napi_derive::napi;

/// The version of the library, such as "1.2.3".
#[napi]
pub fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

/// The ABI of the library: the number in the SONAME of `libcortex.so` of the same version.
#[napi]
pub fn abi_version() -> u32 {
    cortex::ABI_VERSION
}
