//! The door: no panic passes it, and every error becomes a status and an object.
//!
//! The body of every export is one call of [`guard`], [`plain`], [`property`] or
//! [`release`]; `tests/ffi_guard.rs` holds that.
//!
//! Exports are not `unsafe fn`: no Rust code can call them, since the module is private.
//! What a C caller promises stands in the header's preamble, and every `SAFETY` note in
//! this folder that speaks of the caller means that promise: a pointer is NULL or points
//! to as many live values as its documentation says, of which nobody else writes any
//! during the call, and an object pointer came from this library and was not freed.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::error::{CORTEX_OK, cortex_error, cortex_status};
use crate::error::{Error, Result};

/// Runs the body of a function that can fail. Its error, or panic, goes to `err`.
pub(super) fn guard(
    err: *mut *mut cortex_error,
    body: impl FnOnce() -> Result<()>,
) -> cortex_status {
    // A panic leaves nothing behind that could harm: a `const` object is not changed by any
    // call; the writer, which is, closes itself before it works and opens after; an index of
    // sets is safe Rust, and could at worst answer wrongly after a bug.
    let error = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => return CORTEX_OK,
        Ok(Err(error)) => error,
        Err(payload) => from_panic(payload),
    };
    let status = error.kind() as cortex_status;
    if !err.is_null() {
        // Making the object allocates and formats: not even that may unwind into C.
        if let Ok(object) = catch_unwind(AssertUnwindSafe(|| cortex_error::new(&error))) {
            // SAFETY: not NULL, so by the caller's promise it points to a place for one
            // pointer. `write` does not read or free what was there.
            unsafe { err.write(Box::into_raw(object)) };
        }
    }
    let _ = catch_unwind(AssertUnwindSafe(move || drop(error)));
    status
}

/// Runs the body of a function that cannot fail; `absent` should it panic all the same.
pub(super) fn plain<T>(absent: T, body: impl FnOnce() -> T) -> T {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(value) => value,
        Err(payload) => {
            discard(payload);
            absent
        }
    }
}

/// Reads a property of an object; `absent` for NULL.
pub(super) fn property<S, T>(object: *const S, absent: T, get: impl FnOnce(&S) -> Option<T>) -> T {
    // SAFETY: the caller's promise: NULL, or an object of this library that is alive.
    let Some(object) = (unsafe { object.as_ref() }) else {
        return absent;
    };
    match catch_unwind(AssertUnwindSafe(|| get(object))) {
        Ok(value) => value.unwrap_or(absent),
        Err(payload) => {
            discard(payload);
            absent
        }
    }
}

/// Frees an object; NULL is nothing to free.
pub(super) fn release<T>(object: *mut T) {
    if !object.is_null() {
        // SAFETY: the caller's promise: an object that this library made with
        // `Box::into_raw` and that was not freed before.
        let object = unsafe { Box::from_raw(object) };
        if let Err(payload) = catch_unwind(AssertUnwindSafe(move || drop(object))) {
            discard(payload);
        }
    }
}

fn from_panic(payload: Box<dyn Any + Send>) -> Error {
    let text = payload
        .downcast_ref::<&str>()
        .map(|s| (*s).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned());
    discard(payload);
    Error::internal(format!(
        "a bug in Cortex: {}",
        text.as_deref().unwrap_or("panic")
    ))
}

/// Drops a panic's payload, whose own destructor may panic.
fn discard(payload: Box<dyn Any + Send>) {
    if let Err(again) = catch_unwind(AssertUnwindSafe(move || drop(payload))) {
        // One that panics when it is dropped is not worth a third try.
        std::mem::forget(again);
    }
}

#[cfg(test)]
mod tests {
    use std::ptr::null_mut;

    use super::super::error::{CORTEX_INTERNAL, cortex_error_free, cortex_error_message};
    use super::*;

    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("dropping the payload panics too");
        }
    }

    #[test]
    fn panics_become_internal_errors() {
        let mut err = null_mut();
        let status = guard(&mut err, || panic!("the {} broke", "thing"));
        assert_eq!(status, CORTEX_INTERNAL);
        // SAFETY: `guard` made it.
        let message = unsafe { std::ffi::CStr::from_ptr(cortex_error_message(err).cast()) };
        assert_eq!(message.to_str(), Ok("a bug in Cortex: the thing broke"));
        cortex_error_free(err);

        let status = guard(null_mut(), || std::panic::panic_any(Bomb));
        assert_eq!(status, CORTEX_INTERNAL);
        assert_eq!(plain(7, || std::panic::panic_any(Bomb)), 7);
        assert_eq!(property(&1u8, 7, |_| panic!()), 7);
        release(Box::into_raw(Box::new(Bomb)));
    }
}
