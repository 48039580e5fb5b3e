//! Versions.

use std::ffi::CStr;

use safer_ffi::{c_char, ffi_export};

use super::guard::plain;
use super::ptr::borrowed;

/// The ABI that the functions below belong to: the number in the library's SONAME.
/// It changes when a program that was linked before would break, never when something
/// is added.
pub const CORTEX_ABI_VERSION: u32 = 1;

/// The package's version with a NUL.
const VERSION: &CStr =
    match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
        Ok(text) => text,
        Err(_) => panic!("a version has no NUL"),
    };

/// The version of the library that is running, such as "1.2.3". Compare
/// CORTEX_VERSION_STRING, the version of the header that the program was compiled with.
#[ffi_export]
pub fn cortex_version() -> *const c_char {
    plain(std::ptr::null(), || borrowed(VERSION))
}

/// The ABI of the library that is running; CORTEX_ABI_VERSION of its header.
#[ffi_export]
pub fn cortex_abi_version() -> u32 {
    plain(0, || CORTEX_ABI_VERSION)
}
