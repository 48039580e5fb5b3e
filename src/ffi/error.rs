//! Statuses and errors. A status is for programs to branch on, an error's message for
//! people to read.

use std::ffi::{CStr, CString};

use safer_ffi::{c_char, derive_ReprC, ffi_export};

use super::guard::{plain, property, release};
use super::ptr::{borrowed, c_text};
use crate::error::{Error, ErrorKind};

/// What became of a call: CORTEX_OK or one of the errors below. Further numbers may
/// come; treat one that you do not know as a failure.
pub type cortex_status = i32;

/// Done.
pub const CORTEX_OK: cortex_status = 0;
/// An argument, spec, shape or dtype is wrong; the message names it.
pub const CORTEX_INVALID_ARGUMENT: cortex_status = 10;
/// Valid, but not something that this build or version can do.
pub const CORTEX_UNSUPPORTED: cortex_status = 20;
/// A file is damaged or is not what it claims to be; see cortex_error_tensor and
/// cortex_error_offset.
pub const CORTEX_CORRUPT: cortex_status = 30;
/// A file, or a shape, asks for more than the limits allow.
pub const CORTEX_LIMIT_EXCEEDED: cortex_status = 40;
/// The operating system refused a read, write, map or rename.
pub const CORTEX_IO: cortex_status = 50;
/// Memory could not be had.
pub const CORTEX_OUT_OF_MEMORY: cortex_status = 60;
/// The progress callback asked to stop.
pub const CORTEX_CANCELLED: cortex_status = 70;
/// A bug in Cortex.
pub const CORTEX_INTERNAL: cortex_status = 90;

/// What went wrong, and where.
#[derive_ReprC]
#[repr(opaque)]
pub struct cortex_error {
    kind: ErrorKind,
    message: CString,
    tensor: Option<CString>,
    offset: Option<u64>,
}

impl cortex_error {
    pub(super) fn new(error: &Error) -> Box<Self> {
        Box::new(Self {
            kind: error.kind(),
            message: c_text(&error.to_string()),
            tensor: error.tensor().map(c_text),
            offset: error.offset(),
        })
    }
}

/// Every kind, with its number in the ABI.
const KINDS: [(cortex_status, ErrorKind, &CStr); 8] = [
    (
        CORTEX_INVALID_ARGUMENT,
        ErrorKind::InvalidArgument,
        c"invalid_argument",
    ),
    (CORTEX_UNSUPPORTED, ErrorKind::Unsupported, c"unsupported"),
    (CORTEX_CORRUPT, ErrorKind::Corrupt, c"corrupt"),
    (
        CORTEX_LIMIT_EXCEEDED,
        ErrorKind::LimitExceeded,
        c"limit_exceeded",
    ),
    (CORTEX_IO, ErrorKind::Io, c"io"),
    (
        CORTEX_OUT_OF_MEMORY,
        ErrorKind::OutOfMemory,
        c"out_of_memory",
    ),
    (CORTEX_CANCELLED, ErrorKind::Cancelled, c"cancelled"),
    (CORTEX_INTERNAL, ErrorKind::Internal, c"internal"),
];

fn kind_name(status: cortex_status) -> &'static CStr {
    let known = KINDS.iter().find(|(number, ..)| *number == status);
    match known {
        Some((.., name)) => name,
        None if status == CORTEX_OK => c"ok",
        None => c"unknown",
    }
}

/// The name of a status: "ok", "invalid_argument", "unsupported", "corrupt",
/// "limit_exceeded", "io", "out_of_memory", "cancelled", "internal"; "unknown" for any
/// other number. Never NULL; lives for ever.
#[ffi_export]
pub fn cortex_status_name(status: cortex_status) -> *const c_char {
    plain(std::ptr::null(), || borrowed(kind_name(status)))
}

/// The status that came with the error; CORTEX_OK for NULL.
#[ffi_export]
pub fn cortex_error_kind(error: *const cortex_error) -> cortex_status {
    property(error, CORTEX_OK, |e| Some(e.kind as cortex_status))
}

/// The name of that status. Lives for ever.
#[ffi_export]
pub fn cortex_error_kind_name(error: *const cortex_error) -> *const c_char {
    property(error, std::ptr::null(), |e| {
        Some(borrowed(kind_name(e.kind as cortex_status)))
    })
}

/// The whole message for people, in English, without a line end. Tensor and offset, where
/// known, are part of it.
#[ffi_export]
pub fn cortex_error_message(error: *const cortex_error) -> *const c_char {
    property(error, std::ptr::null(), |e| Some(borrowed(&e.message)))
}

/// The name of the tensor in question, or NULL.
#[ffi_export]
pub fn cortex_error_tensor(error: *const cortex_error) -> *const c_char {
    property(error, std::ptr::null(), |e| {
        e.tensor.as_deref().map(borrowed)
    })
}

/// The offset in the file, in bytes, of what is wrong; -1 if there is none, and for NULL.
#[ffi_export]
pub fn cortex_error_offset(error: *const cortex_error) -> i64 {
    property(error, -1, |e| e.offset.and_then(|o| i64::try_from(o).ok()))
}

/// Frees an error. NULL is allowed.
#[ffi_export]
pub fn cortex_error_free(error: *mut cortex_error) {
    release(error);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_those_of_the_core() {
        for (number, kind, name) in KINDS {
            assert_eq!(number, kind as cortex_status);
            assert_eq!(name.to_str(), Ok(kind.name()));
        }
    }
}
