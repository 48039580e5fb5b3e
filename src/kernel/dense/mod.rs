//! Dense products and comparisons.
//!
//! Products are register tiles over several kinds of vectors (`Portable`, on x86-64 `Avx2`,
//! `Avx512` and `Avx512Bf16`, on AArch64 `Neon`), written once for all of them. A new
//! instruction set is one more implementation of `simd::Simd`.
//!
//! Weights are f32, bf16 or f16, read as they are stored; sums are f32. Products with the same
//! columns and the same batch add in the same order, whatever rows are at hand.

// Indices stand for rows, vectors and lanes in several arrays at once.
#![allow(clippy::needless_range_loop)]

use super::autovec;
use super::columns::Columns;

mod elements;
mod matmul;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "x86_64")]
pub(super) mod pairs;
mod simd;
mod small;
mod tile;
mod transposed;
#[cfg(target_arch = "x86_64")]
mod x86;

use elements::{Bf16, Elements, F16, Float, Rounded, Terms, Widened};
#[cfg(target_arch = "aarch64")]
pub(super) use neon::Neon;
pub(super) use simd::{Fields, Portable, Simd, Task};
#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Avx2, Avx512, Avx512Bf16};

/// Rows of `w` and of `x` for which there are outputs; `None` if there is nothing to add up.
fn sizes(w: usize, x: Option<usize>, cols: usize, out: &mut Columns<'_>) -> Option<(usize, usize)> {
    let (rows, batch) = (out.cols(), out.rows());
    if cols == 0 {
        for b in 0..batch {
            out.row_mut(b).fill(0.0);
        }
        return None;
    }
    assert!(rows.checked_mul(cols) == Some(w), "weights of every output");
    if let Some(x) = x {
        assert!(
            batch.checked_mul(cols) == Some(x),
            "activations of every output"
        );
    }
    (rows > 0 && batch > 0).then_some((rows, batch))
}

/// `out[b][r] = Σ x[b][k] · w[r][k]`.
///
/// # Safety
/// The CPU has the features of `S`.
pub(super) unsafe fn matmul_into<S: Simd>(
    w: &[f32],
    x: &[f32],
    cols: usize,
    out: &mut Columns<'_>,
) {
    let Some((rows, batch)) = sizes(w.len(), Some(x.len()), cols, out) else {
        return;
    };
    let (to, stride) = out.as_mut_ptr();
    // SAFETY: the slices hold what their lengths, checked above, say; `out` is exclusive.
    unsafe {
        matmul::plain::<S, Widened<Float>>(w.as_ptr(), rows, x.as_ptr(), batch, cols, to, stride);
    }
}

/// The same for contiguous `out[batch, rows]`.
///
/// # Safety
/// The CPU has the features of `S`.
pub(super) unsafe fn matmul<S: Simd>(w: &[f32], x: &[f32], cols: usize, out: &mut [f32]) {
    if cols == 0 {
        out.fill(0.0);
        return;
    }
    let rows = w.len() / cols;
    assert!(
        out.len().checked_mul(cols) == rows.checked_mul(x.len()),
        "an output for each pair"
    );
    // SAFETY: as the caller grants.
    unsafe { matmul_into::<S>(w, x, cols, &mut Columns::new(out, rows)) }
}

/// `out[m][n] = Σ a[m][k] · b[k][n]` for row-major `a[rows, inner]` and `b[inner, cols]`.
///
/// # Safety
/// The CPU has the features of `S`.
pub(super) unsafe fn product<S: Simd>(
    a: &[f32],
    inner: usize,
    b: &[f32],
    cols: usize,
    out: &mut [f32],
) {
    if inner == 0 || out.is_empty() {
        out.fill(0.0);
        return;
    }
    let rows = a.len() / inner;
    assert!(a.len() == rows * inner, "whole rows");
    assert!(inner.checked_mul(cols) == Some(b.len()), "whole columns");
    assert!(
        rows.checked_mul(cols) == Some(out.len()),
        "an output for each pair"
    );
    let to = out.as_mut_ptr();
    // SAFETY: the slices hold what their lengths, checked above, say; `out` is exclusive.
    unsafe { small::product::<S, Widened<Float>>(a.as_ptr(), rows, inner, b.as_ptr(), cols, to) }
}

/// Values that [`pack`] writes.
pub(super) fn packed_len<S: Simd>(batch: usize, cols: usize) -> usize {
    matmul::packed_len::<S>(batch, cols)
}

/// # Safety
/// The CPU has the features of `S`, of which `E` makes words.
unsafe fn pack_as<S: Simd, E: Elements<S, E = f32>>(x: &[f32], cols: usize, packed: &mut [f32]) {
    let batch = x.len().checked_div(cols).unwrap_or(0);
    assert!(x.len() == batch * cols, "whole rows");
    assert!(packed.len() == matmul::packed_len::<S>(batch, cols.div_ceil(E::DEPTH)));
    // SAFETY: the slices hold what their lengths say.
    unsafe { matmul::pack::<S, E>(x.as_ptr(), batch, cols, packed.as_mut_ptr()) }
}

/// # Safety
/// The CPU has the features of `S`.
unsafe fn packed_as<S: Simd, T: Terms<S>>(
    w: &[<T::W as Elements<S>>::E],
    packed: &[f32],
    cols: usize,
    out: &mut Columns<'_>,
) {
    let Some((rows, batch)) = sizes(w.len(), None, cols, out) else {
        return;
    };
    let words = cols.div_ceil(<T::W as Elements<S>>::DEPTH);
    assert!(
        packed.len() == matmul::packed_len::<S>(batch, words),
        "activations packed"
    );
    let (to, stride) = out.as_mut_ptr();
    // SAFETY: the slices hold what their lengths, checked above, say; `out` is exclusive.
    unsafe { matmul::packed::<S, T>(w.as_ptr(), rows, packed.as_ptr(), batch, cols, to, stride) }
}

/// Packs `x[batch, cols]` for [`matmul_packed`] and its like.
///
/// # Safety
/// The CPU has the features of `S`.
pub(super) unsafe fn pack<S: Simd>(x: &[f32], cols: usize, packed: &mut [f32]) {
    // SAFETY: as the caller grants.
    unsafe { pack_as::<S, Float>(x, cols, packed) }
}

/// `out[b][r] = Σ x[b][k] · w[r][k]` with packed activations.
///
/// # Safety
/// The CPU has the features of `S`.
pub(super) unsafe fn matmul_packed<S: Simd>(
    w: &[f32],
    packed: &[f32],
    cols: usize,
    out: &mut Columns<'_>,
) {
    // SAFETY: as the caller grants.
    unsafe { packed_as::<S, Widened<Float>>(w, packed, cols, out) }
}

/// The same for weights in bf16.
///
/// # Safety
/// The CPU has the features of `S`.
pub(super) unsafe fn bf16_matmul_packed<S: Simd>(
    w: &[u16],
    packed: &[f32],
    cols: usize,
    out: &mut Columns<'_>,
) {
    // SAFETY: as the caller grants.
    unsafe { packed_as::<S, Widened<Bf16>>(w, packed, cols, out) }
}

/// The same for weights in f16.
///
/// # Safety
/// The CPU has the features of `S`.
pub(super) unsafe fn f16_matmul_packed<S: Simd>(
    w: &[u16],
    packed: &[f32],
    cols: usize,
    out: &mut Columns<'_>,
) {
    // SAFETY: as the caller grants.
    unsafe { packed_as::<S, Widened<F16>>(w, packed, cols, out) }
}

/// Packs `x[batch, cols]`, rounded to bf16, on sets without products of bf16.
///
/// # Safety
/// The CPU has the features of `S`.
pub(super) unsafe fn pack_rounded<S: Simd>(x: &[f32], cols: usize, packed: &mut [f32]) {
    // SAFETY: as the caller grants.
    unsafe { pack_as::<S, Rounded>(x, cols, packed) }
}

/// What a set without products of bf16 answers to whether it has them.
pub(super) fn no_pairs() -> bool {
    false
}

/// Bytes that [`KernelSet::dense_matmul_t`](super::KernelSet::dense_matmul_t) works with.
pub const TRANSPOSED_BYTES: usize = 4 * transposed::MEMORY;

/// Batches up to this do without that memory.
pub const TRANSPOSED_BY_ROWS: usize = transposed::BY_ROWS;

/// Rows of a window, or a multiple, for each of which larger batches read and write outputs once.
pub const TRANSPOSED_ROWS: usize = transposed::BLOCK_ROWS;

/// `y[b][k] += Σ g[b · g_stride + r] · w[r][col + k]` for `w[rows, cols]` and the columns that
/// `y` has. `memory`, which batches above 16 are faster with, becomes 576 KiB.
///
/// # Safety
/// The CPU has the features of `S`.
pub(super) unsafe fn matmul_t<S: Simd>(
    w: &[f32],
    cols: usize,
    col: usize,
    g: &[f32],
    g_stride: usize,
    y: &mut Columns<'_>,
    memory: Option<&mut Vec<f32>>,
) {
    let (batch, width) = (y.rows(), y.cols());
    if batch == 0 || width == 0 || w.is_empty() {
        return;
    }
    assert!(
        width <= cols && col <= cols - width,
        "columns of the window"
    );
    let rows = w.len() / cols;
    assert!(w.len() == rows * cols, "whole rows");
    let last = (batch - 1)
        .checked_mul(g_stride)
        .and_then(|n| n.checked_add(rows));
    assert!(last.is_some_and(|n| n <= g.len()), "a factor for every row");
    let memory = match memory {
        Some(memory) if batch > transposed::BY_ROWS => {
            memory.clear();
            memory.reserve_exact(transposed::MEMORY);
            memory.resize(transposed::MEMORY, 0.0);
            memory.as_mut_ptr()
        }
        _ => std::ptr::null_mut(),
    };
    let (to, y_stride) = y.as_mut_ptr();
    // SAFETY: the operands are within their slices, as checked above; `y` is exclusive.
    unsafe {
        transposed::matmul::<S, Widened<Float>>(transposed::Operands {
            w: w.as_ptr().add(col),
            w_stride: cols,
            rows,
            cols: width,
            g: g.as_ptr(),
            g_stride,
            batch,
            y: to,
            y_stride,
            memory,
        });
    }
}

/// `y += g · w` for one row of `w`.
#[inline(always)]
fn add_scaled_body(g: f32, w: &[f32], y: &mut [f32]) {
    // Product and sum rounded apart on every instruction set: one result everywhere.
    for (y, w) in y.iter_mut().zip(w) {
        *y += g * *w;
    }
}

autovec! {
    /// `y[i] += g · w[i]`.
    add_scaled = add_scaled_body; fn(g: f32, w: &[f32], y: &mut [f32])
}

/// Sums that tell how far a decoded window is from the original.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Difference {
    /// `Σ (a − b)²`
    pub error: f64,
    /// `Σ a²`
    pub norm: f64,
    /// `max |a − b|`
    pub max_abs: f64,
}

#[inline(always)]
fn difference_body(a: &[f32], b: &[f32]) -> Difference {
    const L: usize = 8;
    let (mut error, mut norm, mut max) = ([0.0f64; L], [0.0f64; L], [0.0f64; L]);
    let n = a.len().min(b.len());
    let (a_chunks, a_rest) = a[..n].as_chunks::<L>();
    let (b_chunks, b_rest) = b[..n].as_chunks::<L>();
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for i in 0..L {
            let d = f64::from(a[i]) - f64::from(b[i]);
            error[i] += d * d;
            norm[i] += f64::from(a[i]) * f64::from(a[i]);
            let d = d.abs();
            max[i] = if d > max[i] { d } else { max[i] };
        }
    }
    for (i, (a, b)) in a_rest.iter().zip(b_rest).enumerate() {
        let d = f64::from(*a) - f64::from(*b);
        error[i] += d * d;
        norm[i] += f64::from(*a) * f64::from(*a);
        max[i] = max[i].max(d.abs());
    }
    Difference {
        error: error.iter().sum(),
        norm: norm.iter().sum(),
        max_abs: max.into_iter().fold(0.0, f64::max),
    }
}

autovec! {
    /// Squared error, squared norm and largest error of `b` against `a`.
    difference = difference_body; fn(a: &[f32], b: &[f32]) -> Difference
}
