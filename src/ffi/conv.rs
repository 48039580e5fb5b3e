//! Convolution, computed on the compressed weights W[out, in / groups, width] or
//! W[out, in / groups, height, width], with x[batch, in, width] or x[batch, in, height,
//! width] and y likewise. The kernel is not turned round:
//!
//! ```text
//! y[b, o, i, j] = Σ W[o, c, u, v] · x[b, first + c, i·s + u·d − top, j·s′ + v·d′ − left]
//! ```
//!
//! over c, u, v, where x is 0 in the padding and `first` is the first channel of o's group.
//! A 3×3 convolution that keeps the size of its input:
//!
//! ```c
//! cortex_conv_options options = {0};
//! options.struct_size = sizeof options;
//! options.padding_top = options.padding_bottom = 1;
//! options.padding_left = options.padding_right = 1;
//! size_t shape[] = {1, in, height, width};
//! cortex_view x = {x_data, CORTEX_DTYPE_F32, 4, shape, NULL};
//! cortex_tensor_conv(w, &x, &options, y, out * height * width, &err);
//! ```

use safer_ffi::{derive_ReprC, ffi_export};

use super::error::{cortex_error, cortex_status};
use super::guard::guard;
use super::ptr::{self, Options};
use super::tensor::{Settings, check_apart, cortex_matmul_options, cortex_tensor};
use super::view::{cortex_view, view};
use crate::conv::ConvOptions;
use crate::error::{Error, Result};
use crate::limits;

/// How a convolution is computed. Begin with all zeros and set `struct_size`. Weights of
/// three dimensions have no height: what belongs to it stays 0.
#[derive_ReprC]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct cortex_conv_options {
    /// sizeof(cortex_conv_options).
    pub struct_size: usize,
    /// Samples from one output to the one below it; 0 for 1.
    pub stride_height: usize,
    /// Samples from one output to the next; 0 for 1.
    pub stride_width: usize,
    /// Rows of zeros above x.
    pub padding_top: usize,
    /// Rows of zeros below x.
    pub padding_bottom: usize,
    /// Zeros before each row of x.
    pub padding_left: usize,
    /// Zeros after each row of x.
    pub padding_right: usize,
    /// Samples from one tap to the one below it; 0 for 1.
    pub dilation_height: usize,
    /// Samples from one tap to the next; 0 for 1.
    pub dilation_width: usize,
    /// Parts of the channels that are convolved apart; 0 for 1.
    pub groups: usize,
    /// Threads, memory and precision; NULL for the defaults. The memory is for decoded
    /// weights, patches, padded samples and sums alike.
    pub matmul: *const cortex_matmul_options,
}

// SAFETY: `#[repr(C)]`, eleven fields of the size of a pointer, and zeros are the defaults.
unsafe impl Options for cortex_conv_options {}

/// The options that C describes.
///
/// # Safety
/// NULL, or options whose first field says how many bytes of them may be read, and whose
/// pointer is as [`Settings::new`] asks.
unsafe fn settings(options: *const cortex_conv_options) -> Result<(ConvOptions, Settings)> {
    // SAFETY: this function's own condition.
    let (options, settings) = unsafe {
        let options = ptr::options(options, "options")?;
        (options, Settings::new(options.matmul, "options.matmul")?)
    };
    let one = |n: usize| n.max(1);
    let convolution = ConvOptions {
        stride: [one(options.stride_height), one(options.stride_width)],
        padding: [
            [options.padding_top, options.padding_bottom],
            [options.padding_left, options.padding_right],
        ],
        dilation: [one(options.dilation_height), one(options.dilation_width)],
        groups: one(options.groups),
        matmul: settings.matmul.clone(),
        ..ConvOptions::default()
    };
    Ok((convolution, settings))
}

/// The shape that C describes.
///
/// # Safety
/// NULL, or `ndim` values that nobody writes to during `'a`.
unsafe fn shape<'a>(shape: *const usize, ndim: usize) -> Result<&'a [usize]> {
    if ndim > limits::MAX_DIMS {
        return Err(Error::invalid(format!(
            "x_ndim is {ndim}; at most {} are supported",
            limits::MAX_DIMS
        )));
    }
    // SAFETY: this function's own condition.
    unsafe { ptr::slice(shape, ndim, "x_shape") }
}

/// The shape of what cortex_tensor_conv makes of an x of the shape `x_shape`, `x_ndim` sizes:
/// as many are written to `y_shape`. `options` may be NULL.
///
/// CORTEX_INVALID_ARGUMENT: the shapes do not fit each other, or the kernel is larger than
/// the padded x.
#[ffi_export]
pub fn cortex_tensor_conv_output_shape(
    tensor: *const cortex_tensor,
    x_shape: *const usize,
    x_ndim: usize,
    options: *const cortex_conv_options,
    y_shape: *mut usize,
    err: *mut *mut cortex_error,
) -> cortex_status {
    guard(err, || {
        // SAFETY: the caller's promise, see `guard`.
        let (tensor, x_shape, options) = unsafe {
            (
                ptr::shared(tensor, "tensor")?.tensor(),
                shape(x_shape, x_ndim)?,
                settings(options)?.0,
            )
        };
        let found = tensor.conv_output_shape(x_shape, &options)?;
        // SAFETY: the caller's promise, see `guard`.
        let y_shape = unsafe { ptr::slice_mut(y_shape, found.len(), "y_shape")? };
        y_shape.copy_from_slice(&found);
        Ok(())
    })
}

/// y = W ∗ x, computed on the compressed weights.
///
/// `x` has any float dtype and strides and the shape [batch, in, width], or [batch, in,
/// height, width] for weights of four dimensions. f32 without gaps is used in place,
/// anything else is converted to f32 first. `y` is f32, row-major, has the shape that
/// cortex_tensor_conv_output_shape tells, and `y_len` values. `x` and `y` must not overlap.
/// Sums are in f32. `options` may be NULL.
#[ffi_export]
pub fn cortex_tensor_conv(
    tensor: *const cortex_tensor,
    x: *const cortex_view,
    options: *const cortex_conv_options,
    y: *mut f32,
    y_len: usize,
    err: *mut *mut cortex_error,
) -> cortex_status {
    guard(err, || {
        // SAFETY: the caller's promise, see `guard`.
        let (tensor, x, (options, settings)) = unsafe {
            (
                ptr::shared(tensor, "tensor")?.tensor(),
                view(x, "x")?,
                settings(options)?,
            )
        };
        let shape = tensor.conv_output_shape(x.shape(), &options)?;
        expect("y_len", y_len, &shape)?;
        let mut scratch = Vec::new();
        let values = x.floats("x", &mut scratch)?;
        check_apart(values, "x", y, y_len, "y")?;
        // SAFETY: the caller's promise, see `guard`; no `x` that is still used lies there.
        let y = unsafe { ptr::slice_mut(y, y_len, "y")? };
        settings.tell(tensor.conv(values, x.shape(), y, &options)?);
        Ok(())
    })
}

/// The gradient of a convolution with respect to x, a transposed convolution: what `g`, of
/// the shape of y, makes of each element of an x of the shape `x_shape`, `x_ndim` sizes.
///
/// `g` has any float dtype and strides. `x_gradient` is f32, row-major, and has
/// `x_gradient_len` values, as many as `x_shape` says. They must not overlap. `options` may
/// be NULL; precision is always exact.
#[ffi_export]
pub fn cortex_tensor_conv_t(
    tensor: *const cortex_tensor,
    g: *const cortex_view,
    x_shape: *const usize,
    x_ndim: usize,
    options: *const cortex_conv_options,
    x_gradient: *mut f32,
    x_gradient_len: usize,
    err: *mut *mut cortex_error,
) -> cortex_status {
    guard(err, || {
        // SAFETY: the caller's promise, see `guard`.
        let (tensor, g, x_shape, (options, settings)) = unsafe {
            (
                ptr::shared(tensor, "tensor")?.tensor(),
                view(g, "g")?,
                shape(x_shape, x_ndim)?,
                settings(options)?,
            )
        };
        tensor.check_gradient_shape(g.shape(), x_shape, &options)?;
        expect("x_gradient_len", x_gradient_len, x_shape)?;
        let mut scratch = Vec::new();
        let values = g.floats("g", &mut scratch)?;
        check_apart(values, "g", x_gradient, x_gradient_len, "x_gradient")?;
        // SAFETY: the caller's promise, see `guard`; no `g` that is still used lies there.
        let out = unsafe { ptr::slice_mut(x_gradient, x_gradient_len, "x_gradient")? };
        settings.tell(tensor.conv_t(values, x_shape, out, &options)?);
        Ok(())
    })
}

fn expect(name: &str, found: usize, shape: &[usize]) -> Result<()> {
    let expected = crate::bytes::element_count(shape)?;
    if found == expected {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "{name} is {found}; shape {shape:?} has {expected} values"
    )))
}
