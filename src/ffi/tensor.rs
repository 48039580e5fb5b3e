//! Compressed tensors. A tensor seen as a matrix is W[rows, cols], row-major: `rows` is
//! the first dimension, `cols` the product of the others. All of them may be used from
//! several threads at once.

use std::ffi::{CString, c_void};

use safer_ffi::{c_char, derive_ReprC, ffi_export};

use super::error::{cortex_error, cortex_status};
use super::guard::{guard, property, release};
use super::ptr::{self, Options, Out, borrowed, c_text, optional_text};
use super::view::{cortex_view, view};
use crate::error::{Error, Result};
use crate::form::{EncodeContext, Tensor};
use crate::matmul::{Computed, MatmulOptions, Precision};
use crate::plan;

/// A compressed tensor.
#[derive_ReprC]
#[repr(opaque)]
pub struct cortex_tensor {
    tensor: Tensor,
    name: Option<CString>,
    spec: CString,
}

impl cortex_tensor {
    pub(super) fn new(tensor: Tensor) -> Self {
        Self {
            name: tensor.name().map(c_text),
            spec: c_text(&tensor.spec().to_string()),
            tensor,
        }
    }

    pub(super) fn tensor(&self) -> &Tensor {
        &self.tensor
    }
}

/// Compresses a dense tensor of any dtype and strides as `spec` says, on all cores.
/// A spec is followed to the letter. NULL stands for the default: auto(error=1%) for
/// float tensors of at least two dimensions and 4096 elements, lossless for all others.
///
/// CORTEX_INVALID_ARGUMENT: a bad spec (the message names the column), or a value that is
/// not finite under a lossy spec (it names the index).
#[ffi_export]
pub fn cortex_tensor_compress(
    view: *const cortex_view,
    spec: *const c_char,
    tensor: *mut *mut cortex_tensor,
    err: *mut *mut cortex_error,
) -> cortex_status {
    guard(err, || {
        // SAFETY: the caller's promise, see `guard`.
        let (view, spec, out) = unsafe {
            (
                super::view::view(view, "view")?,
                optional_text(spec, "spec")?,
                Out::new(tensor, "tensor")?,
            )
        };
        let tensor = plan::compress_as(&view, spec, &EncodeContext::default())?;
        out.give(cortex_tensor::new(tensor));
        Ok(())
    })
}

/// A second handle on the same tensor: cheap, nothing is copied. Each is freed by itself.
#[ffi_export]
pub fn cortex_tensor_clone(
    tensor: *const cortex_tensor,
    clone: *mut *mut cortex_tensor,
    err: *mut *mut cortex_error,
) -> cortex_status {
    guard(err, || {
        // SAFETY: the caller's promise, see `guard`.
        let (tensor, out) = unsafe { (ptr::shared(tensor, "tensor")?, Out::new(clone, "clone")?) };
        out.give(cortex_tensor::new(tensor.tensor.clone()));
        Ok(())
    })
}

/// Frees a tensor. NULL is allowed.
#[ffi_export]
pub fn cortex_tensor_free(tensor: *mut cortex_tensor) {
    release(tensor);
}

/// The name under which it stands in its archive; NULL if it is from none.
#[ffi_export]
pub fn cortex_tensor_name(tensor: *const cortex_tensor) -> *const c_char {
    property(tensor, std::ptr::null(), |t| {
        t.name.as_deref().map(borrowed)
    })
}

/// The canonical spec that it was stored with; compressing the same dense tensor with it
/// gives the same bytes.
#[ffi_export]
pub fn cortex_tensor_spec(tensor: *const cortex_tensor) -> *const c_char {
    property(tensor, std::ptr::null(), |t| Some(borrowed(&t.spec)))
}

/// The element type that it decodes to, one of CORTEX_DTYPE_*.
#[ffi_export]
pub fn cortex_tensor_dtype(tensor: *const cortex_tensor) -> u32 {
    property(tensor, 0, |t| Some(t.tensor.dtype() as u32))
}

/// Number of dimensions; 0 for a scalar.
#[ffi_export]
pub fn cortex_tensor_ndim(tensor: *const cortex_tensor) -> usize {
    property(tensor, 0, |t| Some(t.tensor.shape().len()))
}

/// The cortex_tensor_ndim() dimensions, outermost first, in elements.
#[ffi_export]
pub fn cortex_tensor_shape(tensor: *const cortex_tensor) -> *const usize {
    property(tensor, std::ptr::null(), |t| {
        Some(t.tensor.shape().as_ptr())
    })
}

/// Rows as a matrix: the first dimension, 1 for a scalar.
#[ffi_export]
pub fn cortex_tensor_rows(tensor: *const cortex_tensor) -> usize {
    property(tensor, 0, |t| Some(t.tensor.rows()))
}

/// Columns as a matrix: the product of all dimensions but the first.
#[ffi_export]
pub fn cortex_tensor_cols(tensor: *const cortex_tensor) -> usize {
    property(tensor, 0, |t| Some(t.tensor.cols()))
}

/// Bytes of the dense tensor: what cortex_tensor_decompress writes.
#[ffi_export]
pub fn cortex_tensor_raw_bytes(tensor: *const cortex_tensor) -> u64 {
    property(tensor, 0, |t| Some(t.tensor.raw_bytes()))
}

/// Bytes that it takes in an archive, everything counted (codes, scales, masks, padding)
/// but its entry in the index.
#[ffi_export]
pub fn cortex_tensor_stored_bytes(tensor: *const cortex_tensor) -> u64 {
    property(tensor, 0, |t| Some(t.tensor.stored_bytes()))
}

/// Stored bits per element; 0 for a tensor without elements.
#[ffi_export]
pub fn cortex_tensor_bits_per_weight(tensor: *const cortex_tensor) -> f64 {
    property(tensor, f64::NAN, |t| Some(t.tensor.bits_per_weight()))
}

/// ‖W − Ŵ‖ / ‖W‖ (Frobenius norm), measured when it was compressed. 0 when every bit came
/// back; infinity for an all-zero tensor that did not.
#[ffi_export]
pub fn cortex_tensor_relative_error(tensor: *const cortex_tensor) -> f64 {
    property(tensor, f64::NAN, |t| Some(t.tensor.error().relative))
}

/// max |w − ŵ|, measured when it was compressed.
#[ffi_export]
pub fn cortex_tensor_max_abs_error(tensor: *const cortex_tensor) -> f64 {
    property(tensor, f64::NAN, |t| Some(t.tensor.error().max_abs))
}

/// Signal to quantisation noise, −20·log10(relative error), in dB; infinity when every
/// bit came back.
#[ffi_export]
pub fn cortex_tensor_sqnr_db(tensor: *const cortex_tensor) -> f64 {
    property(tensor, f64::NAN, |t| {
        Some(t.tensor.error().sqnr_db().unwrap_or(f64::INFINITY))
    })
}

/// Decodes the whole tensor to its dtype, row-major, on all cores. `out_bytes` must be
/// cortex_tensor_raw_bytes(); `out` need not be aligned.
#[ffi_export]
pub fn cortex_tensor_decompress(
    tensor: *const cortex_tensor,
    out: *mut c_void,
    out_bytes: usize,
    err: *mut *mut cortex_error,
) -> cortex_status {
    guard(err, || {
        // SAFETY: the caller's promise, see `guard`.
        let tensor = unsafe { ptr::shared(tensor, "tensor")? };
        let rows = tensor.tensor.rows();
        decode(tensor, 0, rows, out, out_bytes)
    })
}

/// Decodes rows `start` to `start + count` to the tensor's dtype, row-major, on all cores.
/// Only the parts of the file that hold them are read. `out_bytes` must be
/// count · cols · cortex_dtype_bytes(dtype); `out` need not be aligned.
#[ffi_export]
pub fn cortex_tensor_decode_rows(
    tensor: *const cortex_tensor,
    start: usize,
    count: usize,
    out: *mut c_void,
    out_bytes: usize,
    err: *mut *mut cortex_error,
) -> cortex_status {
    guard(err, || {
        // SAFETY: the caller's promise, see `guard`.
        let tensor = unsafe { ptr::shared(tensor, "tensor")? };
        decode(tensor, start, count, out, out_bytes)
    })
}

/// Decodes rows `start` to `start + count` to f32, whatever the dtype: out[count, cols],
/// row-major. `out_len` must be count · cols.
#[ffi_export]
pub fn cortex_tensor_decode_rows_f32(
    tensor: *const cortex_tensor,
    start: usize,
    count: usize,
    out: *mut f32,
    out_len: usize,
    err: *mut *mut cortex_error,
) -> cortex_status {
    guard(err, || {
        // SAFETY: the caller's promise, see `guard`.
        let tensor = unsafe { &ptr::shared(tensor, "tensor")?.tensor };
        let rows = tensor.window(start, count)?;
        expect("out_len", out_len, count, tensor.cols(), "values")?;
        // SAFETY: the caller's promise, see `guard`.
        let out = unsafe { ptr::slice_mut(out, out_len, "out")? };
        tensor.decode_rows_f32(rows, out)
    })
}

fn decode(
    tensor: &cortex_tensor,
    start: usize,
    count: usize,
    out: *mut c_void,
    out_bytes: usize,
) -> Result<()> {
    let tensor = &tensor.tensor;
    let rows = tensor.window(start, count)?;
    let row_bytes = tensor.meta().row_bytes();
    expect("out_bytes", out_bytes, count, row_bytes, "bytes")?;
    // SAFETY: the caller's promise, see `guard`.
    let out = unsafe { ptr::slice_mut(out.cast::<u8>(), out_bytes, "out")? };
    tensor.decode_rows(rows, out)
}

fn expect(name: &str, found: usize, rows: usize, row: usize, what: &str) -> Result<()> {
    if rows.checked_mul(row) == Some(found) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "{name} is {found}; {rows} × {row} {what} are needed"
    )))
}

/// Activations are rounded where what that adds lies at least 10 dB below the tensor's own
/// stored error.
pub const CORTEX_PRECISION_AUTO: u32 = 0;
/// Activations enter as f32: what a product adds is rounding in f32.
pub const CORTEX_PRECISION_EXACT: u32 = 1;
/// Activations are rounded where the form has faster loops for that: to int8 in groups of
/// columns for quantised weights, an error of about -40 dB in the result.
pub const CORTEX_PRECISION_FAST: u32 = 2;

/// How a product is computed. Begin with all zeros and set `struct_size`.
#[derive_ReprC]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct cortex_matmul_options {
    /// sizeof(cortex_matmul_options).
    pub struct_size: usize,
    /// Threads to use at most; 0 for all cores. The result does not depend on it.
    pub threads: usize,
    /// Memory for decoded windows of weights, all threads together, in bytes; 0 for
    /// 32 MiB. One window of the smallest size is used even if it needs more.
    pub scratch_bytes: usize,
    /// How activations enter, one of CORTEX_PRECISION_*.
    pub precision: u32,
    /// 0.
    pub reserved: u32,
    /// Where CORTEX_PRECISION_EXACT or CORTEX_PRECISION_FAST is written: whether
    /// activations were rounded. May be NULL.
    pub computed: *mut u32,
}

// SAFETY: `#[repr(C)]`, no padding (two fields of 32 bits between those of the size of a
// pointer), and zeros are the defaults.
unsafe impl Options for cortex_matmul_options {}

/// The options of a product that C describes, and where to say how it was computed.
pub(super) struct Settings {
    pub(super) matmul: MatmulOptions,
    computed: Option<Out<u32>>,
}

impl Settings {
    /// # Safety
    /// NULL, or options whose first field says how many bytes of them may be read, and
    /// whose pointer is NULL or has room for a number that nobody else uses until
    /// [`tell`](Self::tell).
    pub(super) unsafe fn new(options: *const cortex_matmul_options, name: &str) -> Result<Self> {
        // SAFETY: this function's own condition.
        let (options, computed) = unsafe {
            let options = ptr::options(options, name)?;
            let computed = Out::optional(options.computed, &format!("{name}.computed"))?;
            (options, computed)
        };
        if options.reserved != 0 {
            return Err(Error::invalid(format!(
                "{name}.reserved is {}; it must be 0",
                options.reserved
            )));
        }
        let defaults = MatmulOptions::default();
        Ok(Self {
            matmul: MatmulOptions {
                threads: options.threads,
                scratch_bytes: match options.scratch_bytes {
                    0 => defaults.scratch_bytes,
                    bytes => bytes,
                },
                precision: match options.precision {
                    CORTEX_PRECISION_AUTO => Precision::Auto,
                    CORTEX_PRECISION_EXACT => Precision::Exact,
                    CORTEX_PRECISION_FAST => Precision::Fast,
                    other => {
                        return Err(Error::invalid(format!(
                            "{name}.precision is {other}, which is no precision"
                        )));
                    }
                },
            },
            computed,
        })
    }

    /// Says how a product was computed.
    pub(super) fn tell(self, done: Computed) {
        if let Some(computed) = self.computed {
            computed.set(match done.precision {
                Precision::Fast => CORTEX_PRECISION_FAST,
                _ => CORTEX_PRECISION_EXACT,
            });
        }
    }
}

/// y = x · Wᵀ, computed on the compressed weights: y[b, rows] = Σ x[b, cols] · W[rows, cols].
///
/// `x` has any float dtype and strides, its last dimension is cortex_tensor_cols(), and the
/// product of the others is the batch b (1 if there is none). f32 without gaps is used in
/// place, anything else is converted to f32 first. `y` is f32, row-major, and `y_len`
/// must be b · cortex_tensor_rows(). `x` and `y` must not overlap. Sums are in f32.
/// `options` may be NULL.
#[ffi_export]
pub fn cortex_tensor_matmul(
    tensor: *const cortex_tensor,
    x: *const cortex_view,
    options: *const cortex_matmul_options,
    y: *mut f32,
    y_len: usize,
    err: *mut *mut cortex_error,
) -> cortex_status {
    guard(err, || {
        // SAFETY: the caller's promise, see `guard`.
        let (tensor, x) = unsafe { (&ptr::shared(tensor, "tensor")?.tensor, view(x, "x")?) };
        let batch = tensor.matmul_batch(x.shape())?;
        let sizes = (batch, tensor.rows());
        product((&x, "x"), sizes, options, (y, y_len), |x, y, options| {
            tensor.matmul(x, batch, y, options)
        })
    })
}

/// y = g · W, the product that gradients need: y[b, cols] = Σ g[b, rows] · W[rows, cols].
///
/// As cortex_tensor_matmul, but the last dimension of `g` is cortex_tensor_rows() and
/// `y_len` must be b · cortex_tensor_cols().
#[ffi_export]
pub fn cortex_tensor_matmul_t(
    tensor: *const cortex_tensor,
    g: *const cortex_view,
    options: *const cortex_matmul_options,
    y: *mut f32,
    y_len: usize,
    err: *mut *mut cortex_error,
) -> cortex_status {
    guard(err, || {
        // SAFETY: the caller's promise, see `guard`.
        let (tensor, g) = unsafe { (&ptr::shared(tensor, "tensor")?.tensor, view(g, "g")?) };
        let batch = tensor.matmul_t_batch(g.shape())?;
        let sizes = (batch, tensor.cols());
        product((&g, "g"), sizes, options, (y, y_len), |g, y, options| {
            tensor.matmul_t(g, batch, y, options)
        })
    })
}

/// Checks and converts what both products need, and runs one: `outer` values for each of the batch.
fn product(
    (x, x_name): (&crate::View<'_>, &str),
    (batch, outer): (usize, usize),
    options: *const cortex_matmul_options,
    (y, y_len): (*mut f32, usize),
    run: impl FnOnce(&[f32], &mut [f32], &MatmulOptions) -> Result<Computed>,
) -> Result<()> {
    // SAFETY: the caller's promise, see `guard`.
    let settings = unsafe { Settings::new(options, "options")? };
    expect("y_len", y_len, batch, outer, "values")?;
    let mut scratch = Vec::new();
    let x = x.floats(x_name, &mut scratch)?;
    check_apart(x, x_name, y, y_len, "y")?;
    // SAFETY: the caller's promise, see `guard`; no `x` that is still used lies there.
    let y = unsafe { ptr::slice_mut(y, y_len, "y")? };
    let done = run(x, y, &settings.matmul)?;
    settings.tell(done);
    Ok(())
}

/// Refuses an output that lies on an input which is used in place. One that was converted lies
/// nowhere near.
pub(super) fn check_apart(
    x: &[f32],
    x_name: &str,
    y: *mut f32,
    y_len: usize,
    y_name: &str,
) -> Result<()> {
    let (x, y_start) = (x.as_ptr_range(), y.cast_const());
    let y_end = y_start.wrapping_add(y_len);
    match x.start < y_end && y_start < x.end {
        true => Err(Error::invalid(format!("{y_name} overlaps {x_name}"))),
        false => Ok(()),
    }
}

/// Reads every stored chunk of the tensor and checks it against its checksum.
///
/// CORTEX_CORRUPT: a chunk is damaged; the error names the tensor and the offset.
#[ffi_export]
pub fn cortex_tensor_verify(
    tensor: *const cortex_tensor,
    err: *mut *mut cortex_error,
) -> cortex_status {
    guard(err, || {
        // SAFETY: the caller's promise, see `guard`.
        let tensor = unsafe { ptr::shared(tensor, "tensor")? };
        tensor.tensor.verify()
    })
}
