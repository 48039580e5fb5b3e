//! Decompositions of dense matrices, through `faer`.
//!
//! Matrices are f32 and are cut into panels by their shape alone, each panel being worked
//! on by one thread: results do not depend on the number of threads. They may differ in
//! the last bits between instruction sets, as `faer`'s products do.
//!
//! Singular vectors come from one of two ways:
//!
//! * **Gram**: eigenvectors of the smaller of `A·Aᵀ` and `Aᵀ·A`, formed and decomposed in
//!   f64. Squares of f32 values are exact in f64, so singular values are right to about
//!   1e-8 of the largest, which is as far as f32 tells them apart.
//! * **Randomised block Krylov iteration** (Musco and Musco 2015) with a fixed seed, for
//!   few singular values of large matrices: a random sketch, refined by power iterations
//!   with an orthonormalisation after each product (Halko, Martinsson and Tropp 2011,
//!   algorithm 4.4), where what each iteration spans is kept: far closer on flat spectra
//!   for the same passes over the matrix.
//!
//! Squares must fit f32: callers bring values near 1 by a power of two
//! ([`binary_scale`]), which costs no precision.

use faer::linalg::matmul::triangular::BlockStructure;
use faer::linalg::matmul::{self, triangular};
use faer::linalg::triangular_solve;
use faer::{Accum, MatMut, Par, Side};
use rayon::prelude::*;

use crate::error::{Error, Result};

pub(crate) use faer::{Mat, MatRef};

/// A thin singular value decomposition, `A ≈ U · diag(s) · Vᵀ`, largest value first.
/// Values that cannot be told from zero in f32 are left out.
#[derive(Debug)]
pub(crate) struct Svd {
    /// Orthonormal columns, one per singular value.
    pub(crate) u: Mat<f32>,
    pub(crate) s: Vec<f64>,
    /// `s`-normalised columns of `Aᵀ·U`, one per singular value.
    pub(crate) v: Mat<f32>,
}

/// How many of the values leave at most `tail` of the squared norm `total` behind them;
/// `None` if all of them leave more.
pub(crate) fn rank_for_tail(s: &[f64], total: f64, tail: f64) -> Option<usize> {
    let mut left = total;
    for (i, s) in s.iter().enumerate() {
        if left <= tail {
            return Some(i);
        }
        left -= s * s;
    }
    (left <= tail).then_some(s.len())
}

/// A row-major slice as a matrix.
pub(crate) fn by_rows(data: &[f32], rows: usize, cols: usize) -> MatRef<'_, f32> {
    MatRef::from_row_major_slice(data, rows, cols)
}

/// The matrix as a row-major vector.
pub(crate) fn to_rows(a: MatRef<'_, f32>) -> Vec<f32> {
    let (rows, cols) = (a.nrows(), a.ncols());
    let mut out = vec![0.0; rows * cols];
    if !out.is_empty() {
        MatMut::from_row_major_slice_mut(&mut out, rows, cols).copy_from(a);
    }
    out
}

/// The power of two at or below a magnitude; 1 for zero. Values divided by it are exact
/// and of magnitude below 2.
pub(crate) fn binary_scale(max_abs: f32) -> f32 {
    if max_abs == 0.0 {
        return 1.0;
    }
    if max_abs.is_normal() {
        return f32::from_bits(max_abs.to_bits() & 0x7f80_0000);
    }
    // A denormal: its highest bit.
    f32::from_bits(1 << (31 - max_abs.to_bits().leading_zeros()))
}

/// `Σ a²`, in f64.
pub(crate) fn norm_squared(values: &[f32]) -> f64 {
    let pieces: Vec<f64> = values
        .par_chunks(1 << 16)
        .map(|piece| {
            let mut sums = [0.0f64; 8];
            for eight in piece.chunks(8) {
                for (s, v) in sums.iter_mut().zip(eight) {
                    *s += f64::from(*v) * f64::from(*v);
                }
            }
            sums.iter().sum()
        })
        .collect();
    pieces.iter().sum()
}

/// Multiplications from which a product is split into panels.
const LARGE_MACS: usize = 1 << 23;

/// `A · B`.
pub(crate) fn product(a: MatRef<'_, f32>, b: MatRef<'_, f32>) -> Mat<f32> {
    let (rows, inner, cols) = (a.nrows(), a.ncols(), b.ncols());
    let mut out = Mat::zeros(rows, cols);
    let one = |out: MatMut<'_, f32>, a: MatRef<'_, f32>, b: MatRef<'_, f32>| {
        matmul::matmul(out, Accum::Replace, a, b, 1.0, Par::Seq);
    };
    if rows.saturating_mul(inner).saturating_mul(cols) < LARGE_MACS {
        one(out.as_mut(), a, b);
        return out;
    }
    let panel = rows.max(cols).div_ceil(16).max(64);
    let mut jobs = Vec::new();
    let mut rest = out.as_mut();
    let mut at = 0;
    if rows >= cols {
        while at < rows {
            let n = panel.min(rows - at);
            let (head, tail) = rest.split_at_row_mut(n);
            jobs.push((head, a.subrows(at, n), b));
            (rest, at) = (tail, at + n);
        }
    } else {
        while at < cols {
            let n = panel.min(cols - at);
            let (head, tail) = rest.split_at_col_mut(n);
            jobs.push((head, a, b.subcols(at, n)));
            (rest, at) = (tail, at + n);
        }
    }
    jobs.into_par_iter().for_each(|(out, a, b)| one(out, a, b));
    out
}

/// `A · Aᵀ` in f64.
fn gram(a: MatRef<'_, f32>) -> Mat<f64> {
    let (n, long) = (a.nrows(), a.ncols());
    // Columns are opened to f64 a block at a time; a few groups of blocks run side by
    // side, fewer where each one's sums are large.
    const BLOCK: usize = 512;
    let groups = ((4usize << 20) / (n * n).max(1)).clamp(1, 8);
    let group = long.div_ceil(groups).next_multiple_of(BLOCK).max(BLOCK);
    let sums: Vec<Mat<f64>> = (0..long.div_ceil(group))
        .into_par_iter()
        .map(|g| {
            let mut sum = Mat::<f64>::zeros(n, n);
            let mut wide = Mat::<f64>::zeros(n, BLOCK);
            let end = ((g + 1) * group).min(long);
            for start in (g * group..end).step_by(BLOCK) {
                let width = BLOCK.min(end - start);
                widen(a.subcols(start, width), wide.as_mut().subcols_mut(0, width));
                let block = wide.as_ref().subcols(0, width);
                triangular::matmul(
                    sum.as_mut(),
                    BlockStructure::TriangularLower,
                    Accum::Add,
                    block,
                    BlockStructure::Rectangular,
                    block.transpose(),
                    BlockStructure::Rectangular,
                    1.0,
                    Par::Seq,
                );
            }
            sum
        })
        .collect();
    let mut total = Mat::zeros(n, n);
    for sum in &sums {
        total += sum;
    }
    for j in 0..n {
        for i in j + 1..n {
            total[(j, i)] = total[(i, j)];
        }
    }
    total
}

/// Copies to f64, in small squares: either side may be the one with far strides.
fn widen(from: MatRef<'_, f32>, mut to: MatMut<'_, f64>) {
    const SQUARE: usize = 32;
    for j0 in (0..from.ncols()).step_by(SQUARE) {
        let cols = SQUARE.min(from.ncols() - j0);
        for i0 in (0..from.nrows()).step_by(SQUARE) {
            let rows = SQUARE.min(from.nrows() - i0);
            let from = from.submatrix(i0, j0, rows, cols);
            let mut to = to.as_mut().submatrix_mut(i0, j0, rows, cols);
            for j in 0..cols {
                for i in 0..rows {
                    to[(i, j)] = f64::from(from[(i, j)]);
                }
            }
        }
    }
}

/// Eigenvalues, largest first, and eigenvectors as columns of a symmetric matrix.
pub(crate) fn symmetric_eigen(a: MatRef<'_, f64>) -> Result<(Vec<f64>, Mat<f64>)> {
    let n = a.nrows();
    let eigen = a
        .self_adjoint_eigen(Side::Lower)
        .map_err(|_| Error::internal(format!("the eigenvalues of a {n}×{n} matrix diverged")))?;
    let values = eigen.S().column_vector().iter().rev().copied().collect();
    Ok((values, eigen.U().reverse_cols().to_owned()))
}

/// `A = Q·R` with orthonormal columns in Q, `min(rows, cols)` of them, whatever A's rank.
pub(crate) fn qr(a: MatRef<'_, f32>) -> (Mat<f32>, Mat<f32>) {
    let qr = a.qr();
    (qr.compute_thin_Q(), qr.thin_R().to_owned())
}

/// The first `count` columns as f32.
fn narrow(a: &Mat<f64>, count: usize) -> Mat<f32> {
    Mat::from_fn(a.nrows(), count, |i, j| a[(i, j)] as f32)
}

/// Divides the columns by `s`.
fn divide_columns(a: &mut Mat<f32>, s: &[f64]) {
    for (j, s) in s.iter().enumerate() {
        for v in a.col_as_slice_mut(j) {
            *v = (f64::from(*v) / s) as f32;
        }
    }
}

/// All singular values and vectors, from the Gram matrix of the smaller side.
#[cfg(test)]
pub(crate) fn svd(a: MatRef<'_, f32>) -> Result<Svd> {
    leading(a, |s| s.len())
}

/// Singular values and vectors from the Gram matrix of the smaller side, of which only as
/// many vectors are formed as `count` says of the values.
fn leading(a: MatRef<'_, f32>, count: impl Fn(&[f64]) -> usize) -> Result<Svd> {
    let wide = a.nrows() <= a.ncols();
    let short = if wide { a } else { a.transpose() };
    let (values, vectors) = symmetric_eigen(gram(short).as_ref())?;
    // Rounding of f64 sums leaves eigenvalues of zero at a few ulps of the largest.
    let floor = values.first().copied().unwrap_or(0.0) * 1e-15 * (short.nrows() as f64).sqrt();
    let kept = values.iter().take_while(|v| **v > floor && **v > 0.0);
    let mut s: Vec<f64> = kept.map(|v| v.sqrt()).collect();
    s.truncate(count(&s));
    let near = narrow(&vectors, s.len());
    let mut far = product(short.transpose(), near.as_ref());
    divide_columns(&mut far, &s);
    let (u, v) = if wide { (near, far) } else { (far, near) };
    Ok(Svd { u, s, v })
}

/// Columns of the sketch for this rank.
fn sketch_columns(rank: usize) -> usize {
    rank.saturating_add(8)
}

/// With two, and what all of them span kept, the error on noise, the flattest spectrum
/// there is, comes within a percent of the least.
const POWER_ITERATIONS: usize = 2;

/// Smaller matrices are decomposed exactly: it takes no longer.
const SMALL_SIDE: usize = 512;

/// Whether a sketch of this many columns pays.
fn sketch_pays(a: MatRef<'_, f32>, columns: usize) -> bool {
    let side = a.nrows().min(a.ncols());
    side > SMALL_SIDE && columns.saturating_mul(2 * (POWER_ITERATIONS + 1)) <= side
}

/// An approximately normal random matrix, the same for the same size.
fn random(rows: usize, cols: usize) -> Mat<f32> {
    let mut state = 0x5EED_u64;
    Mat::from_fn(rows, cols, |_, _| {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        // The sum of four uniform numbers.
        let sum = (z & 0xffff) + (z >> 16 & 0xffff) + (z >> 32 & 0xffff) + (z >> 48);
        sum as f32 / 65536.0 - 2.0
    })
}

/// The leading singular values by a sketch of so many columns.
fn sketched(a: MatRef<'_, f32>, rank: usize, columns: usize) -> Result<Svd> {
    let mut all = Mat::zeros(a.nrows(), columns * (POWER_ITERATIONS + 1));
    let mut q = qr(product(a, random(a.ncols(), columns).as_ref()).as_ref()).0;
    for i in 0..=POWER_ITERATIONS {
        if i > 0 {
            let back = qr(product(a.transpose(), q.as_ref()).as_ref()).0;
            q = qr(product(a, back.as_ref()).as_ref()).0;
        }
        let mut place = all.as_mut().subcols_mut(i * columns, columns);
        place.copy_from(&q);
    }
    let q = qr(all.as_ref()).0;
    // A ≈ Q·(Aᵀ·Q)ᵀ; the small side of that is decomposed exactly.
    let right = product(a.transpose(), q.as_ref());
    let small = leading(right.transpose(), |_| rank)?;
    Ok(Svd {
        u: product(q.as_ref(), small.u.as_ref()),
        s: small.s,
        v: small.v,
    })
}

/// The `rank` largest singular values, or as many as there are: exactly, or by a sketch
/// where that pays.
pub(crate) fn truncated_svd(a: MatRef<'_, f32>, rank: usize) -> Result<Svd> {
    let columns = sketch_columns(rank);
    if sketch_pays(a, columns) {
        return sketched(a, rank, columns);
    }
    leading(a, |_| rank)
}

/// As many singular values as leave at most `tail` of the squared norm `total`, and
/// perhaps some more: by sketches of growing size while those pay, then exactly. What a
/// sketch leaves is known exactly: `‖A‖² − Σ s²`.
pub(crate) fn svd_to_tail(a: MatRef<'_, f32>, total: f64, tail: f64) -> Result<Svd> {
    // Below that, rounding of f32 products would pass for a tail.
    if tail > total * 1e-6 {
        let mut rank = 48;
        while sketch_pays(a, sketch_columns(rank)) {
            let found = sketched(a, sketch_columns(rank), sketch_columns(rank))?;
            if rank_for_tail(&found.s, total, tail).is_some() {
                return Ok(found);
            }
            rank *= 2;
        }
    }
    leading(a, |s| rank_for_tail(s, total, tail).unwrap_or(s.len()))
}

/// The left singular vectors of the `rank` largest values: `min(rank, rows, cols)`
/// orthonormal columns, also where A's rank is lower.
pub(crate) fn left_singular(a: MatRef<'_, f32>, rank: usize) -> Result<Mat<f32>> {
    let rank = rank.min(a.nrows()).min(a.ncols());
    let columns = sketch_columns(rank);
    if sketch_pays(a, columns) {
        let found = sketched(a, rank, columns)?.u;
        if found.ncols() == rank {
            return Ok(found);
        }
    }
    if a.nrows() <= a.ncols() {
        let (_, vectors) = symmetric_eigen(gram(a).as_ref())?;
        return Ok(narrow(&vectors, rank));
    }
    let (values, vectors) = symmetric_eigen(gram(a.transpose()).as_ref())?;
    let mut u = product(a, narrow(&vectors, rank).as_ref());
    let floor = values.first().copied().unwrap_or(0.0) * 1e-15;
    let s = values[..rank].iter().map(|v| match *v > floor {
        true => v.sqrt(),
        false => f64::INFINITY,
    });
    divide_columns(&mut u, &s.collect::<Vec<_>>());
    // Orthonormal already but for columns that were zero.
    Ok(qr(u.as_ref()).0)
}

/// The lower triangle `L` with `A + d·I = L·Lᵀ`, and `d`: the least of `damping`,
/// 10 · `damping`, … of the mean diagonal for which there is one. A is symmetric.
pub(crate) fn cholesky(a: MatRef<'_, f64>, damping: f64) -> Result<(Mat<f64>, f64)> {
    let n = a.nrows();
    let mean = (0..n).map(|i| a[(i, i)]).sum::<f64>() / n.max(1) as f64;
    let mean = if mean > 0.0 { mean } else { 1.0 };
    let mut share = damping;
    while share <= 1e3 {
        let mut damped = a.to_owned();
        for i in 0..n {
            damped[(i, i)] += share * mean;
        }
        if let Ok(found) = damped.llt(Side::Lower) {
            let l = found.L().to_owned();
            if (0..n).all(|i| l[(i, i)].is_finite() && l[(i, i)] > 0.0) {
                return Ok((l, share * mean));
            }
        }
        share *= 10.0;
    }
    Err(Error::invalid(
        "the second moments are far from positive definite",
    ))
}

/// `X` with `Lᵀ · X = B` for a lower triangle L.
pub(crate) fn solve_transposed(l: MatRef<'_, f64>, b: MatRef<'_, f32>) -> Mat<f32> {
    let mut x = Mat::<f64>::zeros(b.nrows(), b.ncols());
    widen(b, x.as_mut());
    triangular_solve::solve_upper_triangular_in_place(l.transpose(), x.as_mut(), Par::Seq);
    narrow(&x, x.ncols())
}

/// The pseudo-inverse of a small symmetric positive semi-definite matrix: eigenvalues
/// below `floor` of the largest count as zero.
pub(crate) fn pseudo_inverse(gram: MatRef<'_, f64>, floor: f64) -> Result<Mat<f64>> {
    let n = gram.nrows();
    let (values, vectors) = symmetric_eigen(gram)?;
    let least = values.first().copied().unwrap_or(0.0) * floor;
    let mut scaled = vectors.clone();
    for (j, value) in values.iter().enumerate() {
        let factor = match *value > least && *value > 0.0 {
            true => 1.0 / value,
            false => 0.0,
        };
        scaled
            .col_as_slice_mut(j)
            .iter_mut()
            .for_each(|v| *v *= factor);
    }
    let mut out = Mat::zeros(n, n);
    let right = vectors.transpose();
    matmul::matmul(&mut out, Accum::Replace, &scaled, right, 1.0, Par::Seq);
    Ok(out)
}

/// Least squares by normal equations: the `X` that minimises `‖X·F − Y‖` for
/// `gram = F·Fᵀ` and `rhs = Y·Fᵀ`, as alternating least squares needs it.
pub(crate) fn solve_gram(rhs: MatRef<'_, f32>, gram: MatRef<'_, f64>) -> Result<Mat<f32>> {
    let inverse = pseudo_inverse(gram, 1e-12)?;
    let mut wide = Mat::<f64>::zeros(rhs.nrows(), rhs.ncols());
    widen(rhs, wide.as_mut());
    let mut out = Mat::<f64>::zeros(rhs.nrows(), inverse.ncols());
    matmul::matmul(&mut out, Accum::Replace, &wide, &inverse, 1.0, Par::Seq);
    Ok(narrow(&out, out.ncols()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `rows × cols` of the given singular values, with random singular vectors.
    fn with_values(rows: usize, cols: usize, s: &[f64]) -> Mat<f32> {
        let u = qr(random(rows, s.len()).as_ref()).0;
        let v = qr(random(cols + 1, s.len()).as_ref().subrows(1, cols)).0;
        let scaled = Mat::from_fn(rows, s.len(), |i, j| (f64::from(u[(i, j)]) * s[j]) as f32);
        product(scaled.as_ref(), v.transpose())
    }

    fn rebuilt(found: &Svd) -> Mat<f32> {
        let mut u = found.u.clone();
        let inverse: Vec<f64> = found.s.iter().map(|s| 1.0 / s).collect();
        divide_columns(&mut u, &inverse);
        product(u.as_ref(), found.v.transpose())
    }

    fn distance(a: &Mat<f32>, b: &Mat<f32>) -> f64 {
        let d = a - b;
        norm_squared(&to_rows(d.as_ref())).sqrt()
    }

    fn off_orthonormal(q: &Mat<f32>) -> f32 {
        let g = product(q.transpose(), q.as_ref());
        let mut worst = 0.0f32;
        for i in 0..g.nrows() {
            for j in 0..g.ncols() {
                worst = worst.max((g[(i, j)] - f32::from(u8::from(i == j))).abs());
            }
        }
        worst
    }

    #[test]
    fn exact_decompositions_find_the_values_and_give_the_matrix_back() {
        let s: Vec<f64> = (0..12).map(|i| 0.5f64.powi(i)).collect();
        for (rows, cols) in [(40, 33), (33, 40), (12, 900), (700, 12)] {
            let a = with_values(rows, cols, &s);
            let found = svd(a.as_ref()).unwrap();
            for (f, e) in found.s.iter().zip(&s) {
                assert!((f - e).abs() < 3e-7, "{f} {e}");
            }
            assert!(distance(&rebuilt(&found), &a) < 1e-6);
            let first = left_singular(a.as_ref(), 5).unwrap();
            assert_eq!((first.nrows(), first.ncols()), (rows, 5));
            assert!(off_orthonormal(&first) < 1e-5);
            let inside = product(first.transpose(), a.as_ref());
            let kept = norm_squared(&to_rows(inside.as_ref()));
            let expected: f64 = s[..5].iter().map(|s| s * s).sum();
            assert!((kept - expected).abs() < 1e-5);
        }
    }

    #[test]
    fn sketches_come_within_a_percent_of_the_least_error_on_noise() {
        // The flattest spectrum that weights have: noise.
        let a = random(900, 1100);
        let total = norm_squared(&to_rows(a.as_ref()));
        let error = |s: &Svd| (1.0 - s.s.iter().map(|s| s * s).sum::<f64>() / total).sqrt();
        let best = leading(a.as_ref(), |_| 60).unwrap();
        let found = truncated_svd(a.as_ref(), 60).unwrap();
        assert_eq!(found.s.len(), 60);
        assert!(
            error(&found) < error(&best) * 1.01,
            "{} {}",
            error(&found),
            error(&best)
        );
        assert!(off_orthonormal(&found.u) < 1e-5);
        // What was promised of the error is what the product leaves.
        let left = distance(&rebuilt(&found), &a) / total.sqrt();
        assert!((left - error(&found)).abs() < 1e-5);
    }

    #[test]
    fn a_tail_is_met_by_as_few_values_as_it_takes() {
        let s: Vec<f64> = (0..200).map(|i| 0.97f64.powi(i)).collect();
        let a = with_values(700, 800, &s);
        let total = norm_squared(&to_rows(a.as_ref()));
        for error in [0.3, 0.1, 0.01] {
            let tail = total * error * error;
            let found = svd_to_tail(a.as_ref(), total, tail).unwrap();
            let rank = rank_for_tail(&found.s, total, tail).unwrap();
            let mut left: f64 = s.iter().map(|s| s * s).sum();
            let expected = s.iter().take_while(|s| {
                let more = left > tail;
                left -= *s * *s;
                more
            });
            assert!(rank.abs_diff(expected.count()) <= 1, "{error}: {rank}");
        }
    }

    #[test]
    fn rank_deficient_zero_and_tiny_matrices_decompose() {
        for (rows, cols) in [(1, 1), (1, 9), (9, 1), (5, 4)] {
            let zero = Mat::<f32>::zeros(rows, cols);
            assert!(svd(zero.as_ref()).unwrap().s.is_empty());
            let q = left_singular(zero.as_ref(), 3).unwrap();
            assert_eq!(q.ncols(), 3.min(rows).min(cols));
            assert!(off_orthonormal(&q) < 1e-6);
        }
        let one = with_values(30, 20, &[2.0]);
        assert_eq!(svd(one.as_ref()).unwrap().s.len(), 1);
        let q = left_singular(one.as_ref(), 4).unwrap();
        assert!(q.ncols() == 4 && off_orthonormal(&q) < 1e-5);
        for v in [1e-40f32, 1e-45, 1.0, 1.99, 3e38] {
            let scale = binary_scale(v);
            assert!((1.0..2.0).contains(&(v / scale)) && v / scale * scale == v);
        }
    }

    #[test]
    fn cholesky_damps_until_it_can_and_triangles_are_solved() {
        let a = random(30, 8);
        let h = gram(a.as_ref());
        let (l, damping) = cholesky(h.as_ref(), 1e-6).unwrap();
        let mut back = Mat::<f64>::zeros(30, 30);
        matmul::matmul(&mut back, Accum::Replace, &l, l.transpose(), 1.0, Par::Seq);
        for i in 0..30 {
            for j in 0..30 {
                let d = if i == j { damping } else { 0.0 };
                assert!((back[(i, j)] - h[(i, j)] - d).abs() < 1e-9);
            }
        }
        let b = random(30, 3);
        let x = solve_transposed(l.as_ref(), b.as_ref());
        for j in 0..3 {
            for i in 0..30 {
                let found: f64 = (i..30).map(|k| l[(k, i)] * f64::from(x[(k, j)])).sum();
                let scale: f64 = (i..30)
                    .map(|k| (l[(k, i)] * f64::from(x[(k, j)])).abs())
                    .sum();
                assert!((found - f64::from(b[(i, j)])).abs() < 1e-6 * scale.max(1.0));
            }
        }
        let negative = Mat::from_fn(2, 2, |i, j| if i == j { -1.0 } else { 0.0 });
        assert!(cholesky(negative.as_ref(), 1e-6).is_ok());
    }

    #[test]
    fn gram_solutions_are_least_squares_also_without_full_rank() {
        // F has a row that is twice another: the solution of least norm.
        let mut f = random(4, 50);
        for j in 0..50 {
            f[(3, j)] = 2.0 * f[(1, j)];
        }
        let x = random(7, 4);
        let y = product(x.as_ref(), f.as_ref());
        let rhs = product(y.as_ref(), f.transpose());
        let found = solve_gram(rhs.as_ref(), gram(f.as_ref()).as_ref()).unwrap();
        let again = product(found.as_ref(), f.as_ref());
        assert!(distance(&again, &y) < 1e-3);
        for i in 0..7 {
            assert!((found[(i, 3)] - 2.0 * found[(i, 1)]).abs() < 1e-3);
        }
    }
}
