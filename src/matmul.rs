//! Products with a compressed tensor, in bounded memory.
//!
//! The work is done by the form and by the streaming driver ([`Product`]); this module
//! holds what a caller chooses.

use crate::error::Result;
use crate::form::{Product, Tensor};
use crate::kernel;

/// How a product is computed.
#[derive(Clone, Debug)]
pub struct MatmulOptions {
    /// Threads to use at most; 0 for all of the current pool.
    pub threads: usize,
    /// Memory for decoded windows, all threads together, in bytes.
    pub scratch_bytes: usize,
}

/// Default scratch: two windows of 16 rows × 16,384 columns of f32 for each of 16 threads.
pub const DEFAULT_SCRATCH_BYTES: usize = 32 << 20;

impl Default for MatmulOptions {
    fn default() -> Self {
        Self {
            threads: 0,
            scratch_bytes: DEFAULT_SCRATCH_BYTES,
        }
    }
}

impl MatmulOptions {
    fn product(&self) -> Product<'static> {
        Product {
            kernels: kernel::best(),
            threads: self.threads,
            scratch_bytes: self.scratch_bytes,
        }
    }
}

impl Tensor {
    /// `y = x · Wᵀ`: `y[b, out] = Σ x[b, k] · W[out, k]` with `x[batch, cols]` and
    /// `y[batch, rows]`, row-major, computed on the compressed form.
    ///
    /// Sums are in f32. On an error `y` holds no useful values.
    pub fn matmul(
        &self,
        x: &[f32],
        batch: usize,
        y: &mut [f32],
        options: &MatmulOptions,
    ) -> Result<()> {
        let product = options.product();
        let result = product.matmul(self.form(), x, batch, y);
        result.map_err(|e| self.blame(e))
    }

    /// `y = g · W`: `y[b, in] = Σ g[b, r] · W[r, in]` with `g[batch, rows]` and
    /// `y[batch, cols]`, row-major: the product that gradients need.
    pub fn matmul_t(
        &self,
        g: &[f32],
        batch: usize,
        y: &mut [f32],
        options: &MatmulOptions,
    ) -> Result<()> {
        let product = options.product();
        let result = product.matmul_t(self.form(), g, batch, y);
        result.map_err(|e| self.blame(e))
    }
}
