//! Specs: what there is, and what a text means.

use std::ffi::CString;
use std::sync::OnceLock;

use safer_ffi::{c_char, ffi_export};

use super::error::{cortex_error, cortex_status};
use super::guard::{guard, plain};
use super::ptr::{self, Out, borrowed, c_text, owned};
use crate::error::{Error, Result};
use crate::form;

/// A value as JSON text.
pub(super) fn json(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|e| Error::internal(format!("cannot write JSON: {e}")))
}

/// Every name that a spec may hold, as JSON: {"directives": […], "forms": […], "packs": […]},
/// each entry with "name", "summary" and "options", each option with "key", "values", "default"
/// and "doc". Never NULL; lives for ever.
#[ffi_export]
pub fn cortex_codecs_json() -> *const c_char {
    plain(std::ptr::null(), || {
        static TEXT: OnceLock<CString> = OnceLock::new();
        borrowed(TEXT.get_or_init(|| c_text(&form::codecs_json().to_string())))
    })
}

/// Checks a spec and gives it in canonical form: options in a fixed order, defaults left
/// out. Two specs that mean the same have the same canonical form. Free `canonical` with
/// cortex_string_free.
///
/// CORTEX_INVALID_ARGUMENT: the message names the column, what stood there and what was
/// expected.
#[ffi_export]
pub fn cortex_spec_parse(
    spec: *const c_char,
    canonical: *mut *mut c_char,
    err: *mut *mut cortex_error,
) -> cortex_status {
    guard(err, || {
        // SAFETY: the caller's promise, see `guard`.
        let (spec, out) = unsafe { (ptr::text(spec, "spec")?, Out::new(canonical, "canonical")?) };
        out.set(owned(&form::parse(spec)?.to_string()));
        Ok(())
    })
}

/// Frees a text that came out through `char **`. NULL is allowed.
#[ffi_export]
pub fn cortex_string_free(string: *mut c_char) {
    plain((), || {
        if !string.is_null() {
            // SAFETY: the caller's promise: a text of this library, made by
            // `CString::into_raw` in `ptr::owned`, whose length it still has.
            drop(unsafe { CString::from_raw(string.cast()) });
        }
    });
}
