//! Dense data of the caller, lent for the length of a call.

use std::ffi::c_void;

use safer_ffi::derive_ReprC;

use super::dtype::dtype;
use super::ptr::{shared, slice};
use crate::error::{Error, Result};
use crate::limits;
use crate::tensor::View;

/// A dense tensor in the caller's memory. `data` need not be aligned.
#[derive_ReprC]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct cortex_view {
    /// Element [0, 0, …]. NULL will do for a tensor without elements.
    pub data: *const c_void,
    /// One of CORTEX_DTYPE_*.
    pub dtype: u32,
    /// Number of dimensions, at most 16; 0 for a scalar.
    pub ndim: u32,
    /// `ndim` dimensions, outermost first, in elements. NULL will do for a scalar.
    pub shape: *const usize,
    /// `ndim` distances from one element to the next along a dimension, in elements;
    /// they may be 0 or negative. NULL for row-major without gaps.
    pub strides: *const isize,
}

/// The view that C describes.
///
/// # Safety
/// NULL, or a view whose pointers are NULL or point to what the struct says, which
/// nobody writes to during `'a`.
pub(super) unsafe fn view<'a>(pointer: *const cortex_view, name: &str) -> Result<View<'a>> {
    // SAFETY: this function's own condition.
    let view = unsafe { shared(pointer, name) }?;
    let dtype = dtype(view.dtype, &format!("{name}.dtype"))?;
    let ndim = view.ndim as usize;
    if ndim > limits::MAX_DIMS {
        return Err(Error::invalid(format!(
            "{name}.ndim is {ndim}; at most {} are supported",
            limits::MAX_DIMS
        )));
    }
    // SAFETY: this function's own condition: `ndim` values each.
    let (shape, strides) = unsafe {
        let shape = slice(view.shape, ndim, &format!("{name}.shape"))?;
        let strides = match view.strides.is_null() {
            true => None,
            false => Some(slice(view.strides, ndim, &format!("{name}.strides"))?),
        };
        (shape, strides)
    };
    let in_view = |e: Error| e.context(name);
    let bytes = crate::tensor::checked_bytes(dtype, shape).map_err(in_view)?;
    if bytes == 0 {
        return View::new(dtype, shape, &[]).map_err(in_view);
    }
    let (origin, len) = match strides {
        None => (0, bytes),
        Some(strides) => extent(shape, strides, dtype.size()).ok_or_else(|| {
            in_view(Error::invalid(format!(
                "strides {strides:?} reach further than memory does"
            )))
        })?,
    };
    // `wrapping_sub` so that a NULL or absurd pointer is refused below, not computed with.
    let first = view.data.cast::<u8>().wrapping_sub(origin);
    if view.data.is_null() || first.is_null() {
        return Err(Error::invalid(format!("{name}.data is NULL")));
    }
    // SAFETY: this function's own condition: all elements that shape and strides name are
    // there, and these are the bytes from the first to the last of them.
    let data = unsafe { slice(first, len, &format!("{name}.data")) }?;
    match strides {
        None => View::new(dtype, shape, data),
        Some(strides) => View::strided(dtype, shape, strides, data, origin),
    }
    .map_err(in_view)
}

/// Bytes from the lowest to element [0, 0, …], and from the lowest to the end of the
/// highest. No dimension is 0.
fn extent(shape: &[usize], strides: &[isize], size: usize) -> Option<(usize, usize)> {
    let (mut below, mut above) = (0usize, size);
    for (&d, &s) in shape.iter().zip(strides) {
        let reach = (d - 1).checked_mul(s.unsigned_abs())?.checked_mul(size)?;
        let side = if s < 0 { &mut below } else { &mut above };
        *side = side.checked_add(reach)?;
    }
    Some((below, below.checked_add(above)?))
}
