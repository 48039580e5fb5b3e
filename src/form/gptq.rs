//! Rounding and pruning with error feedback: what GPTQ and SparseGPT have in common.
//!
//! With `H = E[x xᵀ]` of the inputs, the error that a row's change `δ` makes in the product
//! is `δ H δᵀ`. Columns are fixed one after the other; after each the columns that are
//! left are moved to make up for it as well as they can. With `H⁻¹ = Uᵀ U`, U upper
//! triangular, that is: for column i fixed at q, `e = (w_i − q) / U_ii`, and
//! `w_j −= e · U_ij` for `j > i`. Row by row `δ H δᵀ = Σ e²` then, exactly.
//!
//! Sources: Frantar, Ashkboos, Hoefler, Alistarh, "GPTQ" (2022, arXiv 2210.17323);
//! Frantar, Alistarh, "SparseGPT" (2023, arXiv 2301.00774); written from the formulas.
//! With `A = J H J` of the columns turned round and `A = L Lᵀ`, `U = J L⁻¹ J`: one
//! factorisation and one triangular inverse.
//!
//! Everything here is the same to the bit on every instruction set and thread count, as
//! its results are stored. It takes about `10 n²` bytes and, for an `m × n` matrix,
//! `n³/3 + m n²/2` multiplications.

use std::ops::Range;

use rayon::prelude::*;

use super::{EncodeContext, kernels};
use crate::calibration::Moments;
use crate::error::{Error, Result};
use crate::kernel::update::MAX_DEPTH;

/// Columns that are fixed before the columns after them are moved.
pub(super) const BLOCK: usize = 128;

/// Rows that go through the feedback together: enough that U is read from memory seldom.
pub(super) const TASK_ROWS: usize = 64;

/// Added to the diagonal, as a share of its mean.
const DAMPING: f64 = 0.01;

/// How much errors of each column count: the diagonal of the moments with 1 for the
/// largest. `None` where no column counts.
pub(super) fn column_weights(moments: &Moments) -> Option<Vec<f32>> {
    let diagonal = moments.diagonal();
    let most = diagonal.iter().copied().fold(0.0, f32::max);
    let share = |v: &f32| (f64::from(*v) / f64::from(most)) as f32;
    (most > 0.0).then(|| diagonal.iter().map(share).collect())
}

/// The order in which columns are fixed, and U in that order.
#[derive(Debug)]
pub(super) struct Feedback {
    order: Vec<usize>,
    /// Row-major; zero below the diagonal.
    u: Vec<f32>,
}

impl Feedback {
    /// From the moments' full matrix. `largest_first`: columns in descending order of
    /// `H_jj`, so that those that matter most are fixed while others can still make up
    /// for it; else in their own order.
    pub(super) fn new(
        matrix: &[f32],
        dim: usize,
        largest_first: bool,
        context: &EncodeContext,
    ) -> Result<Self> {
        let at = |i: usize, j: usize| f64::from(matrix[i * dim + j]);
        let mut order: Vec<usize> = (0..dim).collect();
        if largest_first {
            order.sort_by(|a, b| at(*b, *b).total_cmp(&at(*a, *a)));
        }
        let sum: f64 = (0..dim).map(|i| at(i, i)).sum();
        let mean = if sum > 0.0 { sum / dim as f64 } else { 1.0 };
        let mut damping = DAMPING;
        // Rounded moments, and those of fewer inputs than columns, may need more.
        for _ in 0..16 {
            context.check_cancel()?;
            let mut a = vec![0.0f64; dim * dim];
            a.par_chunks_mut(dim).enumerate().for_each(|(i, row)| {
                let from = order[dim - 1 - i];
                for (j, v) in row.iter_mut().enumerate().skip(i) {
                    *v = at(from, order[dim - 1 - j]) / mean;
                }
                // A column that is always zero is rounded as if alone.
                let diagonal = if row[i] > 0.0 { row[i] } else { 1.0 };
                row[i] = diagonal + damping;
            });
            if cholesky(&mut a, dim, context)? {
                let u = inverse_turned(&a, dim, context)?;
                return Ok(Self { order, u });
            }
            damping *= 10.0;
        }
        Err(Error::invalid(
            "the calibration's matrix is not one of second moments: it has large negative eigenvalues",
        ))
    }

    /// The column at each place of the order.
    pub(super) fn order(&self) -> &[usize] {
        &self.order
    }

    /// `U_ii` at a place of the order.
    pub(super) fn pivot(&self, place: usize) -> f32 {
        self.u[place * self.order.len() + place]
    }

    /// Fixes the rows of `w[rows, columns in order]` at what `fix` says of row, place and
    /// value, and gives `Σ e²`. `start` sees the rows before each block of places.
    pub(super) fn run(
        &self,
        w: &mut [f32],
        mut start: impl FnMut(Range<usize>, &[f32]),
        mut fix: impl FnMut(usize, usize, f32) -> f32,
    ) -> f64 {
        let n = self.order.len();
        let rows = w.len() / n;
        let mut errors = vec![0.0f32; rows * BLOCK];
        let mut loss = 0.0;
        for from in (0..n).step_by(BLOCK) {
            let to = n.min(from + BLOCK);
            let depth = to - from;
            start(from..to, w);
            let errors = &mut errors[..rows * depth];
            for (row, errors) in errors.chunks_exact_mut(depth).enumerate() {
                let w = &mut w[row * n + from..row * n + to];
                for (i, error) in errors.iter_mut().enumerate() {
                    let u = &self.u[(from + i) * n + from..(from + i) * n + to];
                    let fixed = fix(row, from + i, w[i]);
                    let e = (w[i] - fixed) / u[i];
                    w[i] = fixed;
                    for (w, u) in w[i + 1..].iter_mut().zip(&u[i + 1..]) {
                        *w -= e * u;
                    }
                    loss += f64::from(e) * f64::from(e);
                    *error = e;
                }
            }
            if to < n {
                let u = &self.u[from * n + to..];
                kernels().subtract_product_f32(errors, depth, u, n, &mut w[to..], n, n - to);
            }
        }
        loss
    }
}

/// Rows of a block of the factorisation.
const PANEL: usize = 64;
const _: () = assert!(PANEL <= MAX_DEPTH && BLOCK <= MAX_DEPTH);

/// Replaces the upper triangle of `a[n, n]` by R with `RᵀR = A`; false if A is not
/// positive definite.
fn cholesky(a: &mut [f64], n: usize, context: &EncodeContext) -> Result<bool> {
    for from in (0..n).step_by(PANEL) {
        context.check_cancel()?;
        let to = n.min(from + PANEL);
        let depth = to - from;
        let (done, rest) = a.split_at_mut(to * n);
        let panel = &mut done[from * n..];
        for k in 0..depth {
            let (above, row) = panel.split_at_mut(k * n);
            let row = &mut row[from + k..n];
            for above in above.chunks_exact(n) {
                let f = above[from + k];
                for (v, above) in row.iter_mut().zip(&above[from + k..]) {
                    *v -= f * above;
                }
            }
            // The damping alone leaves more than this.
            let pivot = row[0];
            if !(pivot > 1e-9 && pivot.is_finite()) {
                return Ok(false);
            }
            let root = pivot.sqrt();
            for v in row {
                *v /= root;
            }
        }
        let panel = &*panel;
        rest.par_chunks_mut(PANEL * n)
            .enumerate()
            .for_each(|(i, rows)| {
                let first = to + i * PANEL;
                let count = rows.len() / n;
                let factors: Vec<f64> = (0..count)
                    .flat_map(|r| panel.chunks_exact(n).map(move |p| p[first + r]))
                    .collect();
                // What falls below the diagonal is never read.
                let (b, c) = (&panel[first..], &mut rows[first..]);
                kernels().subtract_product_f64(&factors, depth, b, n, c, n, n - first);
            });
    }
    Ok(true)
}

/// `U = J L⁻¹ J` with `L = Rᵀ`, row-major in f32.
fn inverse_turned(r: &[f64], n: usize, context: &EncodeContext) -> Result<Vec<f32>> {
    /// Columns of the inverse that are solved for together.
    const STRIP: usize = 256;
    let strips: Vec<Vec<f32>> = (0..n.div_ceil(STRIP))
        .into_par_iter()
        .map(|s| {
            let first = s * STRIP;
            let width = STRIP.min(n - first);
            // Rows of L⁻¹ from `first` on; those before are zero in these columns.
            let mut x = vec![0.0f64; (n - first) * width];
            for i in 0..width {
                x[i * width + i] = 1.0;
            }
            for from in (first..n).step_by(PANEL) {
                context.check_cancel()?;
                let to = n.min(from + PANEL);
                let (known, rest) = x.split_at_mut((from - first) * width);
                let block = &mut rest[..(to - from) * width];
                for k in (first..from).step_by(MAX_DEPTH) {
                    let end = from.min(k + MAX_DEPTH);
                    let factors: Vec<f64> = (from..to)
                        .flat_map(|i| (k..end).map(move |k| r[k * n + i]))
                        .collect();
                    let b = &known[(k - first) * width..];
                    kernels().subtract_product_f64(
                        &factors,
                        end - k,
                        b,
                        width,
                        block,
                        width,
                        width,
                    );
                }
                for i in from..to {
                    let (known, row) = block.split_at_mut((i - from) * width);
                    let row = &mut row[..width];
                    for (k, known) in known.chunks_exact(width).enumerate() {
                        let f = r[(from + k) * n + i];
                        for (v, known) in row.iter_mut().zip(known) {
                            *v -= f * known;
                        }
                    }
                    let pivot = r[i * n + i];
                    for v in row {
                        *v /= pivot;
                    }
                }
            }
            Ok(x.iter().map(|v| *v as f32).collect())
        })
        .collect::<Result<_>>()?;
    let mut u = vec![0.0f32; n * n];
    u.par_chunks_mut(n).enumerate().for_each(|(i, row)| {
        let from = n - 1 - i;
        for (j, v) in row.iter_mut().enumerate().skip(i) {
            let col = n - 1 - j;
            let (strip, first) = (&strips[col / STRIP], col / STRIP * STRIP);
            let width = STRIP.min(n - first);
            *v = strip[(from - first) * width + col - first];
        }
    });
    Ok(u)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uniform(state: &mut u64) -> f64 {
        *state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (*state >> 11) as f64 / (1u64 << 53) as f64 - 0.5
    }

    /// `E[x xᵀ]` of `x = A z`.
    fn moments(n: usize, seed: u64) -> Vec<f32> {
        let mut state = seed;
        let a: Vec<f64> = (0..n * n).map(|_| uniform(&mut state)).collect();
        let row = |i: usize| &a[i * n..(i + 1) * n];
        let dot =
            |i: usize, j: usize| -> f64 { row(i).iter().zip(row(j)).map(|(a, b)| a * b).sum() };
        (0..n * n).map(|i| dot(i / n, i % n) as f32).collect()
    }

    /// H with the damping that `Feedback` adds, in its order and unit.
    fn damped(h: &[f32], f: &Feedback) -> Vec<f64> {
        let n = f.order.len();
        let at = |i: usize, j: usize| f64::from(h[f.order[i] * n + f.order[j]]);
        let mean = (0..n).map(|i| at(i, i)).sum::<f64>() / n as f64;
        (0..n * n)
            .map(|k| at(k / n, k % n) / mean + if k / n == k % n { DAMPING } else { 0.0 })
            .collect()
    }

    #[test]
    fn u_is_a_root_of_the_inverse() {
        for n in [1, 2, 63, 64, 65, 130, 300] {
            for largest_first in [false, true] {
                let h = moments(n, 5);
                let f = Feedback::new(&h, n, largest_first, &EncodeContext::default()).unwrap();
                let h = damped(&h, &f);
                // H · (Uᵀ U) = 1.
                let u = |i: usize, j: usize| f64::from(f.u[i * n + j]);
                let product =
                    |i: usize, j: usize| -> f64 { (0..=i.min(j)).map(|k| u(k, i) * u(k, j)).sum() };
                let inverse: Vec<f64> = (0..n * n).map(|k| product(k / n, k % n)).collect();
                for i in 0..n {
                    for j in 0..n {
                        let v: f64 = (0..n).map(|k| h[i * n + k] * inverse[k * n + j]).sum();
                        let expected = f64::from(u8::from(i == j));
                        assert!((v - expected).abs() < 1e-3, "{n}: ({i}, {j}) is {v}");
                    }
                    assert!((0..i).all(|j| u(i, j) == 0.0) && u(i, i) > 0.0);
                }
            }
        }
    }

    #[test]
    fn the_loss_is_the_sum_of_squared_errors() {
        let n = 200;
        let h = moments(n, 9);
        let f = Feedback::new(&h, n, true, &EncodeContext::default()).unwrap();
        let h = damped(&h, &f);
        let mut state = 3;
        let w: Vec<f32> = (0..5 * n).map(|_| uniform(&mut state) as f32).collect();
        let mut fixed = w.clone();
        let mut blocks = Vec::new();
        let sum = f.run(
            &mut fixed,
            |block, _| blocks.push(block),
            |_, _, v| (v * 8.0).round() / 8.0,
        );
        assert_eq!(blocks, [0..128, 128..200]);
        let mut loss = 0.0;
        for (w, fixed) in w.chunks(n).zip(fixed.chunks(n)) {
            assert!(fixed.iter().all(|v| (v * 8.0).fract() == 0.0));
            let d: Vec<f64> = w.iter().zip(fixed).map(|(w, q)| f64::from(w - q)).collect();
            for i in 0..n {
                for j in 0..n {
                    loss += d[i] * h[i * n + j] * d[j];
                }
            }
        }
        assert!((loss / sum - 1.0).abs() < 1e-4, "{loss} {sum}");
    }

    #[test]
    fn damping_grows_until_the_matrix_is_positive() {
        // One eigenvalue of about −1, as rounding or a wrong file leaves it.
        let h = [1.0f32, 2.0, 2.0, 1.0];
        let f = Feedback::new(&h, 2, false, &EncodeContext::default()).unwrap();
        assert!(f.u.iter().all(|v| v.is_finite()));
        // Columns that are always zero, all of them, and infinities of products.
        for h in [[0.0; 4], [1.0, 0.0, 0.0, 0.0], [1e38, 0.0, 0.0, 1e-38]] {
            let f = Feedback::new(&h, 2, true, &EncodeContext::default()).unwrap();
            assert!(f.u.iter().all(|v| v.is_finite()), "{h:?}");
            assert!(f.pivot(0) > 0.0 && f.pivot(1) > 0.0);
        }
        let far = [0.0f32, 1e38, 1e38, 1e-38];
        assert!(Feedback::new(&far, 2, false, &EncodeContext::default()).is_err());
    }
}
