//! Writing an archive, a tensor at a time, in bounded memory. The file appears under its
//! name when it is finished, whole; until then, and for ever if the writer is freed or
//! the program is killed, what stood there stays.

use std::collections::BTreeMap;

use safer_ffi::{c_char, derive_ReprC, ffi_export};

use super::error::{cortex_error, cortex_status};
use super::guard::{guard, release};
use super::ptr::{self, Out};
use super::tensor::cortex_tensor;
use crate::archive::Writer;
use crate::error::{Error, ErrorKind, Result};

/// A .cai file in the making.
#[derive_ReprC]
#[repr(opaque)]
pub struct cortex_writer {
    /// None once it is finished, or broken by a write that failed half way.
    writer: Option<Writer>,
}

impl cortex_writer {
    /// Runs `work` on the writer, which stays closed should it fail for anything but an
    /// argument, or panic: some bytes of the tensor may be out.
    fn with<T>(&mut self, work: impl FnOnce(&mut Writer) -> Result<T>) -> Result<T> {
        let mut writer = self.take()?;
        let result = work(&mut writer);
        let unharmed = |e: &Error| {
            matches!(
                e.kind(),
                ErrorKind::InvalidArgument | ErrorKind::LimitExceeded
            )
        };
        if result.as_ref().err().is_none_or(unharmed) {
            self.writer = Some(writer);
        }
        result
    }

    fn take(&mut self) -> Result<Writer> {
        self.writer
            .take()
            .ok_or_else(|| Error::invalid("writer is finished, or broken by an earlier error"))
    }
}

/// Starts an archive that will be `path`. Its folder must exist and be writable: the file
/// is written beside its place and renamed.
#[ffi_export]
pub fn cortex_writer_create(
    path: *const c_char,
    writer: *mut *mut cortex_writer,
    err: *mut *mut cortex_error,
) -> cortex_status {
    guard(err, || {
        // SAFETY: the caller's promise, see `guard`.
        let (path, out) = unsafe { (ptr::path(path, "path")?, Out::new(writer, "writer")?) };
        let writer = Some(Writer::create(path)?);
        out.give(cortex_writer { writer });
        Ok(())
    })
}

/// Writes a tensor under `name`, which no other tensor or alias of this file may have.
/// The tensor may be freed afterwards. After any error but CORTEX_INVALID_ARGUMENT and
/// CORTEX_LIMIT_EXCEEDED the writer can only be freed.
#[ffi_export]
pub fn cortex_writer_add(
    writer: *mut cortex_writer,
    name: *const c_char,
    tensor: *const cortex_tensor,
    err: *mut *mut cortex_error,
) -> cortex_status {
    guard(err, || {
        // SAFETY: the caller's promise, see `guard`.
        let (writer, name, tensor) = unsafe {
            (
                ptr::exclusive(writer, "writer")?,
                ptr::text(name, "name")?,
                ptr::shared(tensor, "tensor")?,
            )
        };
        writer.with(|w| w.add(name, tensor.tensor()))
    })
}

/// Makes `alias` another name of the tensor `target`, which was added before.
#[ffi_export]
pub fn cortex_writer_alias(
    writer: *mut cortex_writer,
    alias: *const c_char,
    target: *const c_char,
    err: *mut *mut cortex_error,
) -> cortex_status {
    guard(err, || {
        // SAFETY: the caller's promise, see `guard`.
        let (writer, alias, target) = unsafe {
            (
                ptr::exclusive(writer, "writer")?,
                ptr::text(alias, "alias")?,
                ptr::text(target, "target")?,
            )
        };
        writer.with(|w| w.alias(alias, target))
    })
}

/// Sets free text about the model; a key that is set again has its last value.
#[ffi_export]
pub fn cortex_writer_set_metadata(
    writer: *mut cortex_writer,
    key: *const c_char,
    value: *const c_char,
    err: *mut *mut cortex_error,
) -> cortex_status {
    guard(err, || {
        // SAFETY: the caller's promise, see `guard`.
        let (writer, key, value) = unsafe {
            (
                ptr::exclusive(writer, "writer")?,
                ptr::text(key, "key")?,
                ptr::text(value, "value")?,
            )
        };
        let entry = BTreeMap::from([(key.to_owned(), value.to_owned())]);
        writer.with(|w| {
            w.set_metadata(&entry);
            Ok(())
        })
    })
}

/// Completes the file, brings it to the disk and gives it its name. `file_bytes` takes its
/// size and may be NULL. Whatever the status, the writer can then only be freed.
#[ffi_export]
pub fn cortex_writer_finish(
    writer: *mut cortex_writer,
    file_bytes: *mut u64,
    err: *mut *mut cortex_error,
) -> cortex_status {
    guard(err, || {
        // SAFETY: the caller's promise, see `guard`.
        let (writer, out) = unsafe {
            (
                ptr::exclusive(writer, "writer")?,
                Out::optional(file_bytes, "file_bytes")?,
            )
        };
        let summary = writer.take()?.finish()?;
        if let Some(out) = out {
            out.set(summary.file_bytes);
        }
        Ok(())
    })
}

/// Frees a writer; one that was not finished leaves no file behind. NULL is allowed.
#[ffi_export]
pub fn cortex_writer_free(writer: *mut cortex_writer) {
    release(writer);
}
