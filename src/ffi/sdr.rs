//! Sparse distributed representations: sets of a few active bits among many, whose shared
//! bits say how alike two things are. An index keeps sets under numbers and finds those
//! that share most bits with one asked for.

use safer_ffi::{c_char, derive_ReprC, ffi_export};

use super::error::{cortex_error, cortex_status};
use super::guard::{guard, property, release};
use super::ptr::{self, Out};
use crate::error::{Error, Result};
use crate::sdr::{Index, Sdr};

/// Sets under numbers, searched by the bits that they share.
#[derive_ReprC]
#[repr(opaque)]
pub struct cortex_sdr_index {
    index: Index,
}

/// A stored set and how many active bits it shares with the one asked for.
#[derive_ReprC]
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Zeroable, bytemuck::Pod)]
pub struct cortex_sdr_match {
    /// The number it was added under.
    pub id: u64,
    /// Shared active bits, at least one.
    pub overlap: u64,
}

/// An empty index of sets of `bits` bits each, 1 to 1048576.
#[ffi_export]
pub fn cortex_sdr_index_create(
    bits: usize,
    index: *mut *mut cortex_sdr_index,
    err: *mut *mut cortex_error,
) -> cortex_status {
    guard(err, || {
        // SAFETY: the caller's promise, see `guard`.
        let out = unsafe { Out::new(index, "index")? };
        let index = Index::new(bits)?;
        out.give(cortex_sdr_index { index });
        Ok(())
    })
}

/// Reads an index that cortex_sdr_index_save wrote, and checks it. Nothing of the file is
/// used afterwards.
///
/// CORTEX_IO: it cannot be read. CORTEX_CORRUPT: it is no index, was cut short, or is
/// damaged. CORTEX_LIMIT_EXCEEDED: it would take far more memory than the file has bytes.
/// CORTEX_UNSUPPORTED: a newer version.
#[ffi_export]
pub fn cortex_sdr_index_load(
    path: *const c_char,
    index: *mut *mut cortex_sdr_index,
    err: *mut *mut cortex_error,
) -> cortex_status {
    guard(err, || {
        // SAFETY: the caller's promise, see `guard`.
        let (path, out) = unsafe { (ptr::path(path, "path")?, Out::new(index, "index")?) };
        let index = Index::load_file(path)?;
        out.give(cortex_sdr_index { index });
        Ok(())
    })
}

/// Writes the index to a file, the same bytes for the same sets in whatever order they
/// came. The file appears when it is complete; what stood there is replaced then.
#[ffi_export]
pub fn cortex_sdr_index_save(
    index: *const cortex_sdr_index,
    path: *const c_char,
    err: *mut *mut cortex_error,
) -> cortex_status {
    guard(err, || {
        // SAFETY: the caller's promise, see `guard`.
        let (index, path) = unsafe { (ptr::shared(index, "index")?, ptr::path(path, "path")?) };
        index.index.save_file(path)
    })
}

/// Frees an index. NULL is allowed.
#[ffi_export]
pub fn cortex_sdr_index_free(index: *mut cortex_sdr_index) {
    release(index);
}

/// Bits of every set, active or not.
#[ffi_export]
pub fn cortex_sdr_index_bits(index: *const cortex_sdr_index) -> usize {
    property(index, 0, |i| Some(i.index.bits()))
}

/// Number of stored sets.
#[ffi_export]
pub fn cortex_sdr_index_len(index: *const cortex_sdr_index) -> usize {
    property(index, 0, |i| Some(i.index.len()))
}

/// Bytes of memory that the sets and what finds them take, without what the allocator adds.
#[ffi_export]
pub fn cortex_sdr_index_memory_bytes(index: *const cortex_sdr_index) -> u64 {
    property(index, 0, |i| Some(i.index.memory_bytes() as u64))
}

/// Stores the set of the `active_len` active bits `active`, in any order, under `id`.
///
/// CORTEX_INVALID_ARGUMENT: a bit is not below cortex_sdr_index_bits() or is given twice,
/// or the number is in use.
#[ffi_export]
pub fn cortex_sdr_index_add(
    index: *mut cortex_sdr_index,
    id: u64,
    active: *const u32,
    active_len: usize,
    err: *mut *mut cortex_error,
) -> cortex_status {
    guard(err, || {
        // SAFETY: the caller's promise, see `guard`.
        let (index, active) = unsafe {
            (
                ptr::exclusive(index, "index")?,
                ptr::slice(active, active_len, "active")?,
            )
        };
        let set = set(&index.index, active)?;
        index.index.add(id, &set)
    })
}

/// The set that `active` describes, of as many bits as the index has.
fn set(index: &Index, active: &[u32]) -> Result<Sdr> {
    Sdr::new(index.bits(), active.to_vec()).map_err(|e| e.context("active"))
}

/// The active bits of the set stored under `id`, in increasing order. `active_len` takes
/// how many there are; `active` has room for `active_cap`, which must be enough. With NULL
/// for `active`, and 0 for `active_cap`, they are only counted.
///
/// CORTEX_INVALID_ARGUMENT: nothing is stored under `id`.
#[ffi_export]
pub fn cortex_sdr_index_get(
    index: *const cortex_sdr_index,
    id: u64,
    active: *mut u32,
    active_cap: usize,
    active_len: *mut usize,
    err: *mut *mut cortex_error,
) -> cortex_status {
    guard(err, || {
        let only_counted = active.is_null() && active_cap == 0;
        // SAFETY: the caller's promise, see `guard`.
        let (index, active, out) = unsafe {
            (
                ptr::shared(index, "index")?,
                ptr::slice_mut(active, active_cap, "active")?,
                Out::new(active_len, "active_len")?,
            )
        };
        let set = index.index.get(id);
        let set = set.ok_or_else(|| Error::invalid(format!("nothing is stored under id {id}")))?;
        if !only_counted {
            let room = active.get_mut(..set.weight()).ok_or_else(|| {
                Error::invalid(format!(
                    "active_cap is {active_cap}, but {} bits are active",
                    set.weight()
                ))
            })?;
            room.copy_from_slice(set.active());
        }
        out.set(set.weight());
        Ok(())
    })
}

/// Removes the set stored under `id`, if there is one. `removed` takes 1 if there was and 0
/// if not, and may be NULL.
#[ffi_export]
pub fn cortex_sdr_index_remove(
    index: *mut cortex_sdr_index,
    id: u64,
    removed: *mut i32,
    err: *mut *mut cortex_error,
) -> cortex_status {
    guard(err, || {
        // SAFETY: the caller's promise, see `guard`.
        let (index, out) = unsafe {
            (
                ptr::exclusive(index, "index")?,
                Out::optional(removed, "removed")?,
            )
        };
        let found = index.index.remove(id);
        if let Some(out) = out {
            out.set(i32::from(found));
        }
        Ok(())
    })
}

/// The `k` stored sets that share most active bits with the set `active`, largest overlap
/// first, the smaller number first among equals; exact, and without those that share none.
/// `matches` has room for `k`; `matches_len` takes how many there are. `active` is as in
/// cortex_sdr_index_add.
#[ffi_export]
pub fn cortex_sdr_index_top_k(
    index: *const cortex_sdr_index,
    active: *const u32,
    active_len: usize,
    k: usize,
    matches: *mut cortex_sdr_match,
    matches_len: *mut usize,
    err: *mut *mut cortex_error,
) -> cortex_status {
    guard(err, || {
        // SAFETY: the caller's promise, see `guard`.
        let (index, active, matches, out) = unsafe {
            (
                ptr::shared(index, "index")?,
                ptr::slice(active, active_len, "active")?,
                ptr::slice_mut(matches, k, "matches")?,
                Out::new(matches_len, "matches_len")?,
            )
        };
        let found = index.index.top_k(&set(&index.index, active)?, k)?;
        for (place, found) in matches.iter_mut().zip(&found) {
            *place = cortex_sdr_match {
                id: found.id,
                overlap: found.overlap as u64,
            };
        }
        out.set(found.len());
        Ok(())
    })
}
