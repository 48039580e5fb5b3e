//! Products with a compressed tensor, in bounded memory.
//!
//! The work is done by the form and by the streaming driver ([`Product`]); this module
//! holds what a caller chooses.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::bytes::element_count;
use crate::error::{Error, Result};
pub use crate::form::Precision;
use crate::form::{Product, Tensor};
use crate::kernel;

/// How a product is computed.
#[derive(Clone, Debug)]
pub struct MatmulOptions {
    /// Threads to use at most; 0 for all of the current pool.
    pub threads: usize,
    /// Memory for decoded windows, all threads together, in bytes.
    pub scratch_bytes: usize,
    /// How activations enter.
    pub precision: Precision,
}

/// How a product was computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Computed {
    /// `Fast` if activations were rounded, `Exact` if not.
    pub precision: Precision,
}

/// Default scratch: two windows of 16 rows × 16,384 columns of f32 for each of 16 threads.
pub const DEFAULT_SCRATCH_BYTES: usize = 32 << 20;

impl Default for MatmulOptions {
    fn default() -> Self {
        Self {
            threads: 0,
            scratch_bytes: DEFAULT_SCRATCH_BYTES,
            precision: Precision::Auto,
        }
    }
}

impl MatmulOptions {
    pub(crate) fn product(&self) -> Product<'static> {
        Product::exact(kernel::best(), self.threads, self.scratch_bytes)
    }

    /// A product that may round activations, if the precision allows it beside a stored error,
    /// and then says so in `rounded`.
    pub(crate) fn rounding_product<'a>(
        &self,
        stored_error: f64,
        rounded: &'a AtomicBool,
    ) -> Product<'a> {
        match self.precision.rounds(stored_error) {
            true => self.product().fast(rounded),
            false => self.product(),
        }
    }
}

impl Tensor {
    /// The batch of an `x` of this shape, whose last dimension must be the tensor's columns: the
    /// product of the others, 1 if there are none.
    pub fn matmul_batch(&self, x_shape: &[usize]) -> Result<usize> {
        batch(x_shape, "x", self.cols(), "columns")
    }

    /// The batch of a `g` of this shape, whose last dimension must be the tensor's rows.
    pub fn matmul_t_batch(&self, g_shape: &[usize]) -> Result<usize> {
        batch(g_shape, "g", self.rows(), "rows")
    }

    /// `y = x · Wᵀ`: `y[b, out] = Σ x[b, k] · W[out, k]` with `x[batch, cols]` and
    /// `y[batch, rows]`, row-major, computed on the compressed form.
    ///
    /// Sums are in f32. The result says whether activations were rounded, see
    /// [`Precision`]. On an error `y` holds no useful values.
    pub fn matmul(
        &self,
        x: &[f32],
        batch: usize,
        y: &mut [f32],
        options: &MatmulOptions,
    ) -> Result<Computed> {
        let rounded = AtomicBool::new(false);
        let product = options.rounding_product(self.error().relative, &rounded);
        let result = product.matmul(self.form(), x, batch, y);
        let precision = match rounded.load(Ordering::Relaxed) {
            true => Precision::Fast,
            false => Precision::Exact,
        };
        result
            .map(|()| Computed { precision })
            .map_err(|e| self.blame(e))
    }

    /// `y = g · W`: `y[b, in] = Σ g[b, r] · W[r, in]` with `g[batch, rows]` and
    /// `y[batch, cols]`, row-major: the product that gradients need. Always exact.
    pub fn matmul_t(
        &self,
        g: &[f32],
        batch: usize,
        y: &mut [f32],
        options: &MatmulOptions,
    ) -> Result<Computed> {
        let product = options.product();
        let result = product.matmul_t(self.form(), g, batch, y);
        result
            .map(|()| Computed {
                precision: Precision::Exact,
            })
            .map_err(|e| self.blame(e))
    }
}

fn batch(shape: &[usize], name: &str, inner: usize, inner_name: &str) -> Result<usize> {
    match shape.split_last() {
        Some((&last, others)) if last == inner => element_count(others),
        _ => Err(Error::invalid(format!(
            "{name} has shape {shape:?}; its last dimension must be {inner}, the {inner_name} of \
             the tensor"
        ))),
    }
}
