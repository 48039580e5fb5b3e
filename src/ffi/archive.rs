//! Archives: many compressed tensors in one .cai file, read as they are used.

use std::ffi::CString;

use safer_ffi::{c_char, derive_ReprC, ffi_export};

use super::error::{cortex_error, cortex_status};
use super::guard::{guard, property, release};
use super::ptr::{self, Out, borrowed, c_text, owned};
use super::tensor::cortex_tensor;
use crate::archive::Archive;
use crate::error::{Error, Result};

/// An open .cai file. May be used from several threads at once.
#[derive_ReprC]
#[repr(opaque)]
pub struct cortex_archive {
    archive: Archive,
    names: Vec<CString>,
    aliases: Vec<(CString, CString)>,
    metadata: Vec<(CString, CString)>,
}

impl cortex_archive {
    fn new(archive: Archive) -> Self {
        let pair = |a: &str, b: &str| (c_text(a), c_text(b));
        let aliases = archive.aliases().iter();
        Self {
            names: archive.entries().iter().map(|e| c_text(e.name())).collect(),
            aliases: aliases.map(|(a, t)| pair(a, t)).collect(),
            metadata: archive.metadata().map(|(k, v)| pair(k, v)).collect(),
            archive,
        }
    }
}

/// Opens an archive by mapping the file: what is not packed is used in place, and only
/// what is used is read. The file must not be cut or rewritten while it is open; replacing
/// it by rename, as Cortex does, is safe.
///
/// CORTEX_IO: it cannot be read. CORTEX_CORRUPT: it is no archive, was cut short, or its
/// index is damaged. CORTEX_UNSUPPORTED: a newer major version of the format.
#[ffi_export]
pub fn cortex_archive_open(
    path: *const c_char,
    archive: *mut *mut cortex_archive,
    err: *mut *mut cortex_error,
) -> cortex_status {
    guard(err, || open(path, archive, Archive::open))
}

/// Opens an archive for plain reads: nothing is mapped, every chunk is read and checked
/// each time it is used. For files that somebody may cut short, and network drives.
#[ffi_export]
pub fn cortex_archive_open_unmapped(
    path: *const c_char,
    archive: *mut *mut cortex_archive,
    err: *mut *mut cortex_error,
) -> cortex_status {
    guard(err, || open(path, archive, Archive::open_unmapped))
}

fn open(
    path: *const c_char,
    archive: *mut *mut cortex_archive,
    open: fn(&std::path::Path) -> Result<Archive>,
) -> Result<()> {
    // SAFETY: the caller's promise, see `guard`.
    let (path, out) = unsafe { (ptr::path(path, "path")?, Out::new(archive, "archive")?) };
    out.give(cortex_archive::new(open(path)?));
    Ok(())
}

/// Frees an archive. NULL is allowed; its tensors live on.
#[ffi_export]
pub fn cortex_archive_free(archive: *mut cortex_archive) {
    release(archive);
}

/// Number of tensors; aliases do not count.
#[ffi_export]
pub fn cortex_archive_len(archive: *const cortex_archive) -> usize {
    property(archive, 0, |a| Some(a.names.len()))
}

/// Bytes of the whole file.
#[ffi_export]
pub fn cortex_archive_file_bytes(archive: *const cortex_archive) -> u64 {
    property(archive, 0, |a| Some(a.archive.file_bytes()))
}

/// The name of the tensor at `index`, in the order of the file; NULL past the end.
#[ffi_export]
pub fn cortex_archive_name(archive: *const cortex_archive, index: usize) -> *const c_char {
    property(archive, std::ptr::null(), |a| {
        a.names.get(index).map(|n| borrowed(n))
    })
}

/// The index of the tensor of this name, or of the one that this alias names; -1 if there
/// is none, and for a NULL name.
#[ffi_export]
pub fn cortex_archive_find(archive: *const cortex_archive, name: *const c_char) -> isize {
    property(archive, -1, |a| {
        // SAFETY: the caller's promise, see `guard`.
        let name = unsafe { ptr::text(name, "name") }.ok()?;
        a.archive.position(name).map(|i| i as isize)
    })
}

/// Opens the tensor of this name, or the one that this alias names. Its data is read when
/// it is used. The tensor keeps the file open or mapped and may outlive the archive.
///
/// CORTEX_INVALID_ARGUMENT: there is none of this name. CORTEX_UNSUPPORTED: it is stored in
/// a way that this version does not know.
#[ffi_export]
pub fn cortex_archive_tensor(
    archive: *const cortex_archive,
    name: *const c_char,
    tensor: *mut *mut cortex_tensor,
    err: *mut *mut cortex_error,
) -> cortex_status {
    guard(err, || {
        // SAFETY: the caller's promise, see `guard`.
        let (archive, name, out) = unsafe {
            (
                ptr::shared(archive, "archive")?,
                ptr::text(name, "name")?,
                Out::new(tensor, "tensor")?,
            )
        };
        out.give(cortex_tensor::new(archive.archive.tensor(name)?));
        Ok(())
    })
}

/// Opens the tensor at `index`, in the order of the file; see cortex_archive_tensor.
#[ffi_export]
pub fn cortex_archive_tensor_at(
    archive: *const cortex_archive,
    index: usize,
    tensor: *mut *mut cortex_tensor,
    err: *mut *mut cortex_error,
) -> cortex_status {
    guard(err, || {
        // SAFETY: the caller's promise, see `guard`.
        let (archive, out) = unsafe {
            (
                &ptr::shared(archive, "archive")?.archive,
                Out::new(tensor, "tensor")?,
            )
        };
        let entries = archive.entries();
        let entry = entries.get(index).ok_or_else(|| {
            let count = entries.len();
            Error::invalid(format!("index is {index}; the archive has {count} tensors"))
        })?;
        out.give(cortex_tensor::new(archive.open_entry(entry)?));
        Ok(())
    })
}

/// Number of aliases: further names of tensors, as of tied weights.
#[ffi_export]
pub fn cortex_archive_alias_len(archive: *const cortex_archive) -> usize {
    property(archive, 0, |a| Some(a.aliases.len()))
}

/// The alias at `index`; NULL past the end.
#[ffi_export]
pub fn cortex_archive_alias(archive: *const cortex_archive, index: usize) -> *const c_char {
    property(archive, std::ptr::null(), |a| {
        a.aliases.get(index).map(|(alias, _)| borrowed(alias))
    })
}

/// The name of the tensor that the alias at `index` stands for; NULL past the end.
#[ffi_export]
pub fn cortex_archive_alias_target(archive: *const cortex_archive, index: usize) -> *const c_char {
    property(archive, std::ptr::null(), |a| {
        a.aliases.get(index).map(|(_, target)| borrowed(target))
    })
}

/// Number of entries of free text about the model.
#[ffi_export]
pub fn cortex_archive_metadata_len(archive: *const cortex_archive) -> usize {
    property(archive, 0, |a| Some(a.metadata.len()))
}

/// The key of the entry at `index`; NULL past the end.
#[ffi_export]
pub fn cortex_archive_metadata_key(archive: *const cortex_archive, index: usize) -> *const c_char {
    property(archive, std::ptr::null(), |a| {
        a.metadata.get(index).map(|(key, _)| borrowed(key))
    })
}

/// The text under `key`; NULL if there is none.
#[ffi_export]
pub fn cortex_archive_metadata(
    archive: *const cortex_archive,
    key: *const c_char,
) -> *const c_char {
    property(archive, std::ptr::null(), |a| {
        // SAFETY: the caller's promise, see `guard`.
        let key = unsafe { ptr::text(key, "key") }.ok()?;
        let entry = a
            .metadata
            .iter()
            .find(|(k, _)| k.to_bytes() == key.as_bytes());
        entry.map(|(_, value)| borrowed(value))
    })
}

/// What the archive holds, as one JSON object, the same that `cortex inspect --json` prints:
/// sizes, ratio, and for each tensor name, dtype, shape, spec, raw_bytes, stored_bytes,
/// bits_per_weight, relative_error, sqnr_db and max_abs_error. Free it with
/// cortex_string_free.
#[ffi_export]
pub fn cortex_archive_inspect(
    archive: *const cortex_archive,
    json: *mut *mut c_char,
    err: *mut *mut cortex_error,
) -> cortex_status {
    guard(err, || {
        // SAFETY: the caller's promise, see `guard`.
        let (archive, out) = unsafe { (ptr::shared(archive, "archive")?, Out::new(json, "json")?) };
        let report = crate::model::inspect(&archive.archive);
        out.set(owned(&super::codecs::json(&report)?));
        Ok(())
    })
}

/// Reads every byte of the file and checks it. The error is the first that was found; where
/// there are more its message says how many.
///
/// CORTEX_CORRUPT: something is damaged; the error names the tensor and the offset.
#[ffi_export]
pub fn cortex_archive_verify(
    archive: *const cortex_archive,
    err: *mut *mut cortex_error,
) -> cortex_status {
    guard(err, || {
        // SAFETY: the caller's promise, see `guard`.
        let archive = unsafe { ptr::shared(archive, "archive")? };
        archive.archive.check()
    })
}
