//! Every pointer that C hands over is looked at here, and nowhere else. A NULL or
//! misaligned one is an error that names the argument.

use std::ffi::{CStr, CString};
use std::mem::{MaybeUninit, size_of};
use std::path::Path;
use std::ptr::NonNull;

use safer_ffi::c_char;

use crate::error::{Error, Result};

fn check<T>(pointer: *const T, name: &str) -> Result<()> {
    if pointer.is_null() {
        return Err(Error::invalid(format!("{name} is NULL")));
    }
    if !pointer.is_aligned() {
        return Err(Error::invalid(format!(
            "{name} is not aligned to {} bytes",
            align_of::<T>()
        )));
    }
    Ok(())
}

/// An object that is only read.
///
/// # Safety
/// NULL, or a live `T` that nobody writes to during `'a`.
pub(super) unsafe fn shared<'a, T>(pointer: *const T, name: &str) -> Result<&'a T> {
    check(pointer, name)?;
    // SAFETY: not NULL, aligned, and the rest is this function's own condition.
    Ok(unsafe { &*pointer })
}

/// An object that is changed.
///
/// # Safety
/// NULL, or a live `T` that nobody else uses during `'a`.
pub(super) unsafe fn exclusive<'a, T>(pointer: *mut T, name: &str) -> Result<&'a mut T> {
    check(pointer, name)?;
    // SAFETY: not NULL, aligned, and the rest is this function's own condition.
    Ok(unsafe { &mut *pointer })
}

/// `len` values that are only read; NULL will do for none.
///
/// # Safety
/// NULL, or `len` live values that nobody writes to during `'a`.
pub(super) unsafe fn slice<'a, T>(pointer: *const T, len: usize, name: &str) -> Result<&'a [T]> {
    if len == 0 {
        return Ok(&[]);
    }
    check(pointer, name)?;
    check_len::<T>(len, name)?;
    // SAFETY: not NULL, aligned, no longer than an object can be; the rest is this
    // function's own condition.
    Ok(unsafe { std::slice::from_raw_parts(pointer, len) })
}

/// `len` numbers to be written; NULL will do for none.
///
/// # Safety
/// NULL, or memory of `len` values that nobody else uses during `'a`. It may be
/// uninitialised as far as C is concerned, since every bit pattern is a number.
pub(super) unsafe fn slice_mut<'a, T: bytemuck::Pod>(
    pointer: *mut T,
    len: usize,
    name: &str,
) -> Result<&'a mut [T]> {
    if len == 0 {
        return Ok(&mut []);
    }
    check(pointer, name)?;
    check_len::<T>(len, name)?;
    // SAFETY: as in `slice`, and every bit pattern is a `T`.
    Ok(unsafe { std::slice::from_raw_parts_mut(pointer, len) })
}

fn check_len<T>(len: usize, name: &str) -> Result<()> {
    match len.checked_mul(size_of::<T>()) {
        Some(bytes) if isize::try_from(bytes).is_ok() => Ok(()),
        _ => Err(Error::invalid(format!(
            "{name}: {len} values do not fit the memory"
        ))),
    }
}

/// A text.
///
/// # Safety
/// NULL, or bytes up to a NUL that nobody writes to during `'a`.
pub(super) unsafe fn text<'a>(pointer: *const c_char, name: &str) -> Result<&'a str> {
    check(pointer, name)?;
    // SAFETY: not NULL, and the rest is this function's own condition.
    let text = unsafe { CStr::from_ptr(pointer.cast()) };
    text.to_str().map_err(|e| {
        let at = e.valid_up_to();
        Error::invalid(format!("{name} is not UTF-8 at byte {at}"))
    })
}

/// A text, or `None` for NULL.
///
/// # Safety
/// As for [`text`].
pub(super) unsafe fn optional_text<'a>(
    pointer: *const c_char,
    name: &str,
) -> Result<Option<&'a str>> {
    if pointer.is_null() {
        return Ok(None);
    }
    // SAFETY: this function's own condition.
    unsafe { text(pointer, name) }.map(Some)
}

/// A path.
///
/// # Safety
/// As for [`text`].
pub(super) unsafe fn path<'a>(pointer: *const c_char, name: &str) -> Result<&'a Path> {
    // SAFETY: this function's own condition.
    let text = unsafe { text(pointer, name) }?;
    if text.is_empty() {
        return Err(Error::invalid(format!("{name} is empty")));
    }
    Ok(Path::new(text))
}

/// A place for one result, known to be writable before the work begins.
pub(super) struct Out<T>(NonNull<T>);

impl<T> Out<T> {
    /// The place; NULL is an error.
    ///
    /// # Safety
    /// NULL, or memory for one `T` that nobody else uses until `set`.
    pub(super) unsafe fn new(pointer: *mut T, name: &str) -> Result<Self> {
        check(pointer, name)?;
        NonNull::new(pointer)
            .map(Self)
            .ok_or_else(|| Error::invalid(format!("{name} is NULL")))
    }

    /// The place; `None` for NULL.
    ///
    /// # Safety
    /// As for [`new`](Self::new).
    pub(super) unsafe fn optional(pointer: *mut T, name: &str) -> Result<Option<Self>> {
        if pointer.is_null() {
            return Ok(None);
        }
        // SAFETY: this function's own condition.
        unsafe { Self::new(pointer, name) }.map(Some)
    }

    /// Writes the result. What stood there is not read.
    pub(super) fn set(self, value: T) {
        // SAFETY: `new` was promised memory for one `T` and found it aligned.
        unsafe { self.0.write(value) }
    }
}

impl<T> Out<*mut T> {
    /// Hands a new object to the caller.
    pub(super) fn give(self, object: T) {
        self.set(Box::into_raw(Box::new(object)));
    }
}

/// Options that begin with `struct_size` and may be longer or shorter than ours.
///
/// # Safety
/// `#[repr(C)]`, the first field a `usize`, no padding, and all zeros is a valid value
/// that stands for the defaults.
pub(super) unsafe trait Options: Copy {}

/// No options struct will ever be this long; a size above it was never set.
const MAX_OPTIONS_BYTES: usize = 4096;

/// Reads as many bytes as both sides know; all defaults for NULL.
///
/// # Safety
/// NULL, or a struct whose first field says how many bytes of it may be read.
pub(super) unsafe fn options<T: Options>(pointer: *const T, name: &str) -> Result<T> {
    let mut out = MaybeUninit::<T>::zeroed();
    if !pointer.is_null() {
        check(pointer, name)?;
        // SAFETY: aligned, and the first field is a usize by the trait's condition.
        let size = unsafe { pointer.cast::<usize>().read() };
        if !(size_of::<usize>()..=MAX_OPTIONS_BYTES).contains(&size) {
            return Err(Error::invalid(format!(
                "{name}.struct_size is {size}; set it to sizeof *{name}, which is {} here",
                size_of::<T>()
            )));
        }
        let known = size.min(size_of::<T>());
        // SAFETY: the struct has `size` bytes, of which `known` fit `out`; bytes have no
        // alignment.
        let rest = unsafe {
            let bytes = pointer.cast::<u8>();
            bytes.copy_to_nonoverlapping(out.as_mut_ptr().cast(), known);
            std::slice::from_raw_parts(bytes.add(known), size - known)
        };
        if rest.iter().any(|b| *b != 0) {
            return Err(Error::unsupported(format!(
                "{name} sets a field that Cortex {} does not know",
                env!("CARGO_PKG_VERSION")
            )));
        }
    }
    // SAFETY: zeroed, which is a valid `T` by the trait's condition, and then overwritten
    // from the front with the bytes of one.
    Ok(unsafe { out.assume_init() })
}

/// A text for C. A NUL inside becomes U+2400, its picture.
pub(super) fn c_text(text: &str) -> CString {
    CString::new(text.replace('\0', "\u{2400}")).unwrap_or_default()
}

/// The pointer of a text that an object keeps.
pub(super) fn borrowed(text: &CStr) -> *const c_char {
    text.as_ptr().cast()
}

/// A text that the caller frees with `cortex_string_free`.
pub(super) fn owned(text: &str) -> *mut c_char {
    c_text(text).into_raw().cast()
}
