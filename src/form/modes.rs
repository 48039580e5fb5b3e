//! Tensor algebra that `tucker` and `cp` share: modes, unfoldings, permutations, and the
//! common half of their options.
//!
//! A tensor `X[n_0, n_1, …]` is row-major. Its unfolding along mode m is the matrix
//! `X_(m)[n_m, Π others]`, the other modes in their order (Kolda and Bader 2009).

use std::borrow::Cow;
use std::ops::Range;

use rayon::prelude::*;
use serde_json::Value;

use super::{EncodeContext, Form, Meta, Scratch, Stored, encode, window_rows};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::kernel::KernelSet;
use crate::linalg::{self, MatRef};
use crate::spec::{Options, Spec, Term};
use crate::tensor::View;

/// Modes at most; the dimensions past them are merged into the last.
pub(super) const MAX_MODES: usize = 8;

/// Names of the factors as parts.
pub(super) const NAMES: [&str; MAX_MODES] = [
    "factor0", "factor1", "factor2", "factor3", "factor4", "factor5", "factor6", "factor7",
];

/// The rows, and the dimensions after the first: as one mode, or each its own.
pub(super) fn of(meta: &Meta, matrix: bool) -> Vec<usize> {
    if matrix || meta.shape.len() < 3 {
        return vec![meta.rows, meta.cols];
    }
    let mut modes = meta.shape.clone();
    if modes.len() > MAX_MODES {
        let last = modes[MAX_MODES - 1..].iter().product();
        modes.truncate(MAX_MODES - 1);
        modes.push(last);
    }
    modes
}

/// The numbers as f32 of magnitude below 2, and the power of two that they were divided
/// by: squares of them fit f32 whatever the tensor's range. Refuses what is not finite.
pub(super) fn normalised(view: &View<'_>, context: &EncodeContext) -> Result<(Vec<f32>, f32)> {
    let range = encode::range(view, context)?;
    let multiplier = linalg::binary_scale(range.max_abs());
    let mut values = vec![0.0f32; view.len()];
    if !values.is_empty() {
        let cols = view.cols();
        let window = (64usize << 10).div_ceil(cols);
        values
            .par_chunks_mut(window * cols)
            .enumerate()
            .for_each(|(i, out)| {
                let first = i * window;
                view.read_rows_f32(first..first + out.len() / cols, out);
                out.iter_mut().for_each(|v| *v /= multiplier);
            });
    }
    Ok((values, multiplier))
}

/// The spec of an option such as `factors`.
pub(super) fn part_spec(options: &Options, key: &str) -> Result<Spec> {
    match options.spec(key) {
        Some(spec) => super::registry::nested(spec),
        None => Ok(Spec::form(Term::bare("dense"))),
    }
}

/// `[a, b, c]` to `[a, c, b]`.
pub(super) fn swap(src: &[f32], b: usize, c: usize, dst: &mut [f32]) {
    // Squares that fit the first cache, whichever side has the far strides.
    const SIDE: usize = 32;
    let size = b * c;
    if size == 0 {
        return;
    }
    for (src, dst) in src.chunks_exact(size).zip(dst.chunks_exact_mut(size)) {
        if b == 1 || c == 1 {
            dst.copy_from_slice(src);
            continue;
        }
        for i0 in (0..b).step_by(SIDE) {
            for j0 in (0..c).step_by(SIDE) {
                for i in i0..(i0 + SIDE).min(b) {
                    for j in j0..(j0 + SIDE).min(c) {
                        dst[j * b + i] = src[i * c + j];
                    }
                }
            }
        }
    }
}

/// Permutes the axes of `src[dims]`: axis k of the result is axis `order[k]` of `src`.
pub(super) fn permute(src: &[f32], dims: &[usize], order: &[usize], dst: &mut [f32]) {
    let mut strides = vec![1usize; dims.len()];
    for i in (1..dims.len()).rev() {
        strides[i - 1] = strides[i] * dims[i];
    }
    let Some((last, outer)) = order.split_last() else {
        dst.copy_from_slice(src);
        return;
    };
    let (inner, step) = (dims[*last], strides[*last]);
    if inner == 0 {
        return;
    }
    let mut counts = vec![0usize; outer.len()];
    let mut at = 0;
    for out in dst.chunks_exact_mut(inner) {
        for (i, out) in out.iter_mut().enumerate() {
            *out = src[at + i * step];
        }
        for (count, axis) in counts.iter_mut().zip(outer).rev() {
            *count += 1;
            at += strides[*axis];
            if *count < dims[*axis] {
                break;
            }
            at -= *count * strides[*axis];
            *count = 0;
        }
    }
}

/// The product of the dimensions before a mode, and of those after it.
pub(super) fn around(dims: &[usize], mode: usize) -> (usize, usize) {
    let before = dims[..mode].iter().product();
    (before, dims[mode + 1..].iter().product())
}

/// The unfolding along `mode`, row-major.
pub(super) fn unfold<'a>(x: &'a [f32], dims: &[usize], mode: usize) -> Cow<'a, [f32]> {
    let (before, after) = around(dims, mode);
    if before == 1 {
        return Cow::Borrowed(x);
    }
    let mut out = vec![0.0; x.len()];
    permute(x, &[before, dims[mode], after], &[1, 0, 2], &mut out);
    Cow::Owned(out)
}

/// The product along `mode` with `uᵀ`, for `u[n, r]`; `dims` becomes that of the result.
pub(super) fn project(x: &[f32], dims: &mut [usize], mode: usize, u: MatRef<'_, f32>) -> Vec<f32> {
    let (n, r) = (dims[mode], u.ncols());
    let (before, after) = around(dims, mode);
    let unfolded = unfold(x, dims, mode);
    let product = linalg::product(u.transpose(), linalg::by_rows(&unfolded, n, before * after));
    dims[mode] = r;
    let rows = linalg::to_rows(product.as_ref());
    if before == 1 {
        return rows;
    }
    let mut out = vec![0.0; rows.len()];
    permute(&rows, &[r, before, after], &[1, 0, 2], &mut out);
    out
}

/// A list of whole numbers among the parameters.
pub(super) fn list(stored: &Stored, name: &str) -> Result<Vec<usize>> {
    let values = stored.params.get(name).and_then(Value::as_array);
    let values = values.filter(|v| (2..=MAX_MODES).contains(&v.len()));
    let numbers = values.and_then(|v| {
        let number = |v: &Value| usize::try_from(v.as_u64()?).ok();
        v.iter().map(number).collect::<Option<Vec<_>>>()
    });
    numbers.ok_or_else(|| Error::corrupt(format!("parameter '{name}' is not a list of sizes")))
}

/// The parameter `modes`, which must be those of the matrix with its columns split.
pub(super) fn stored_modes(stored: &Stored) -> Result<Vec<usize>> {
    let modes = list(stored, "modes")?;
    let cols = modes[1..].iter().try_fold(1usize, |a, n| a.checked_mul(*n));
    if modes[0] != stored.meta.rows || cols != Some(stored.meta.cols) {
        return Err(Error::corrupt(format!(
            "modes {modes:?} of a {}×{} matrix",
            stored.meta.rows, stored.meta.cols
        )));
    }
    Ok(modes)
}

/// Takes the form of this name, which must be f32 of this shape.
pub(super) fn stored_part(
    stored: &mut Stored,
    name: &str,
    rows: usize,
    cols: usize,
) -> Result<Box<dyn Form>> {
    let form = stored.form(name)?;
    let meta = form.meta();
    if meta.dtype != DType::F32 || meta.shape != [rows, cols] {
        return Err(Error::corrupt(format!(
            "part '{name}' is {} {:?}, f32 [{rows}, {cols}] expected",
            meta.dtype, meta.shape
        )));
    }
    Ok(form)
}

/// All values of a part.
pub(super) fn decoded(form: &dyn Form) -> Result<Vec<f32>> {
    let mut values = vec![0.0; form.meta().len()];
    if !values.is_empty() {
        let mut scratch = Scratch::default();
        form.decode_f32(0..form.meta().rows, &mut values, &mut scratch)?;
    }
    Ok(values)
}

/// Values of a part that are decoded at a time: a quarter of a second-level cache.
const PIECE_VALUES: usize = 32 << 10;

/// Rows of a part that are decoded at a time.
pub(super) fn piece_rows(form: &dyn Form) -> usize {
    window_rows(form, PIECE_VALUES).min(form.meta().rows).max(1)
}

/// Calls `f` with the rows of a part as f32, piece after piece.
pub(super) fn for_pieces(
    form: &dyn Form,
    floats: &mut [f32],
    scratch: &mut Scratch,
    mut f: impl FnMut(Range<usize>, &[f32]),
) -> Result<()> {
    let (rows, cols) = (form.meta().rows, form.meta().cols);
    let step = piece_rows(form);
    let mut start = 0;
    while start < rows {
        let end = (start + step).min(rows);
        let piece = &mut floats[..(end - start) * cols];
        form.decode_f32(start..end, piece, scratch)?;
        f(start..end, piece);
        start = end;
    }
    Ok(())
}

/// `out[p, n] = Σ_r t[p, r] · F[r, n]`, each sum in the order of r with product and sum
/// rounded apart: the same bits for every window and instruction set.
pub(super) fn expand(
    form: &dyn Form,
    t: &[f32],
    out: &mut [f32],
    kernels: &KernelSet,
    floats: &mut [f32],
    scratch: &mut Scratch,
) -> Result<()> {
    let (inner, n) = (form.meta().rows, form.meta().cols);
    out.fill(0.0);
    for_pieces(form, floats, scratch, |rows, piece| {
        for (t, out) in t.chunks_exact(inner).zip(out.chunks_exact_mut(n)) {
            for (t, f) in t[rows.clone()].iter().zip(piece.chunks_exact(n)) {
                kernels.add_scaled(*t, f, out);
            }
        }
    })
}

/// Uniform numbers in [−1, 1), the same everywhere (splitmix64).
#[derive(Debug)]
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        (z >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }
}

/// What the tests of both forms need.
#[cfg(test)]
pub(super) mod testing {
    use super::*;
    use crate::form::{Part, Product, StoredPart, Tensor, parse};
    use crate::kernel;
    use crate::tensor::Dense;

    pub(in super::super) fn tensor(shape: &[usize], values: &[f32], spec: &str) -> Tensor {
        let dense = Dense::from_slice(values, shape).unwrap();
        let spec = parse(spec).unwrap();
        crate::form::encode(&dense.view(), &spec, &EncodeContext::default()).unwrap()
    }

    pub(in super::super) fn noise(n: usize, seed: u64) -> Vec<f32> {
        let mut random = Random(seed);
        (0..n).map(|_| random.uniform() as f32).collect()
    }

    /// Products in pieces and with few threads or many, against the decoded matrix.
    pub(in super::super) fn products_hold(tensor: &Tensor) {
        let (rows, cols) = (tensor.rows(), tensor.cols());
        let mut w = vec![0.0; rows * cols];
        tensor.decode_rows_f32(0..rows, &mut w).unwrap();
        let norm = |v: &[f32]| v.iter().map(|v| v * v).sum::<f32>().sqrt();
        let batch = 7;
        let x = noise(batch * cols, 5);
        let g = noise(batch * rows, 6);
        let mut results = Vec::new();
        for (threads, scratch_bytes) in [(1, 1 << 25), (3, 1 << 25), (2, 1)] {
            let product = Product::exact(kernel::best(), threads, scratch_bytes);
            let mut y = vec![f32::NAN; batch * rows];
            product.matmul(tensor.form(), &x, batch, &mut y).unwrap();
            let mut z = vec![f32::NAN; batch * cols];
            product.matmul_t(tensor.form(), &g, batch, &mut z).unwrap();
            results.push((y, z));
        }
        assert_eq!(results[0], results[1]);
        for (y, z) in &results {
            for b in 0..batch {
                let (x, g) = (&x[b * cols..][..cols], &g[b * rows..][..rows]);
                for r in 0..rows {
                    let sum: f32 = w[r * cols..][..cols]
                        .iter()
                        .zip(x)
                        .map(|(w, x)| w * x)
                        .sum();
                    let bound = 1e-5 * norm(x) * norm(&w);
                    assert!((y[b * rows + r] - sum).abs() <= bound, "{r} {sum}");
                }
                for c in 0..cols {
                    let sum: f32 = (0..rows).map(|r| w[r * cols + c] * g[r]).sum();
                    let bound = 1e-5 * norm(g) * norm(&w);
                    assert!((z[b * cols + c] - sum).abs() <= bound, "{c} {sum}");
                }
            }
        }
    }

    /// The form as an index would describe it.
    pub(in super::super) fn stored(form: &dyn Form) -> Stored {
        let parts = form.parts().into_iter().map(|(name, part)| {
            let part = match part {
                Part::Buffer(b) => StoredPart::Buffer(b.clone()),
                Part::Form(f) => StoredPart::Form(f.map_buffers(&mut |b| Ok(b.clone())).unwrap()),
            };
            (name.to_owned(), part)
        });
        Stored {
            meta: form.meta().clone(),
            params: form.params(),
            parts: parts.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permutations_and_unfoldings_put_every_value_where_its_index_says() {
        let dims = [2, 3, 4, 5];
        let at = |i: [usize; 4]| ((i[0] * 3 + i[1]) * 4 + i[2]) * 5 + i[3];
        let x: Vec<f32> = (0..120).map(|i| i as f32).collect();
        let mut y = vec![0.0; 120];
        permute(&x, &dims, &[2, 0, 3, 1], &mut y);
        let unfolded = unfold(&x, &dims, 2);
        for i in 0..2 {
            for j in 0..3 {
                for k in 0..4 {
                    for l in 0..5 {
                        let value = x[at([i, j, k, l])];
                        assert_eq!(y[((k * 2 + i) * 5 + l) * 3 + j], value);
                        assert_eq!(unfolded[k * 30 + (i * 3 + j) * 5 + l], value);
                    }
                }
            }
        }
        let mut y = vec![0.0; 120];
        swap(&x, 12, 5, &mut y);
        assert_eq!(y[60 + 3 * 12 + 7], x[60 + 7 * 5 + 3]);
    }

    #[test]
    fn projecting_is_the_product_along_a_mode() {
        let dims = [3, 4, 2];
        let x: Vec<f32> = (0..24).map(|i| (i * i % 17) as f32).collect();
        let u: Vec<f32> = (0..8).map(|i| i as f32 - 3.0).collect();
        let mut small = dims;
        let y = project(&x, &mut small, 1, linalg::by_rows(&u, 4, 2));
        assert_eq!(small, [3, 2, 2]);
        for i in 0..3 {
            for r in 0..2 {
                for k in 0..2 {
                    let sum: f32 = (0..4).map(|j| x[(i * 4 + j) * 2 + k] * u[j * 2 + r]).sum();
                    assert_eq!(y[(i * 2 + r) * 2 + k], sum);
                }
            }
        }
    }

    #[test]
    fn expanding_gives_the_same_bits_on_every_instruction_set_in_any_pieces() {
        let mut random = Random(4);
        let mut values =
            |n: usize| -> Vec<f32> { (0..n).map(|_| random.uniform() as f32).collect() };
        let (f, t) = (values(50 * 37), values(3 * 50));
        let part = |spec: &str| {
            let spec = super::super::parse(spec).unwrap();
            encode::part(&f, &[50, 37], &spec, &EncodeContext::default()).unwrap()
        };
        let (whole, packed) = (part("dense"), part("dense | zstd"));
        let mut expected = vec![0.0f32; 3 * 37];
        for r in 0..50 {
            for p in 0..3 {
                for n in 0..37 {
                    expected[p * 37 + n] += t[p * 50 + r] * f[r * 37 + n];
                }
            }
        }
        for kernels in crate::kernel::available() {
            for form in [&whole, &packed] {
                let mut out = vec![f32::NAN; 3 * 37];
                let mut floats = vec![0.0; piece_rows(&**form) * 37];
                let mut scratch = Scratch::default();
                expand(&**form, &t, &mut out, kernels, &mut floats, &mut scratch).unwrap();
                assert_eq!(out, expected, "{:?}", kernels.isa());
            }
        }
    }

    #[test]
    fn modes_are_the_dimensions_and_the_last_ones_merged() {
        let modes = |shape: &[usize]| of(&Meta::new(DType::F32, shape).unwrap(), false);
        assert_eq!(modes(&[]), [1, 1]);
        assert_eq!(modes(&[7]), [7, 1]);
        assert_eq!(modes(&[4, 5]), [4, 5]);
        assert_eq!(modes(&[4, 5, 3, 3]), [4, 5, 3, 3]);
        assert_eq!(
            modes(&[1, 2, 1, 2, 1, 2, 3, 4, 5, 6]),
            [1, 2, 1, 2, 1, 2, 3, 120]
        );
        let meta = Meta::new(DType::F32, &[4, 5, 3]).unwrap();
        assert_eq!(of(&meta, true), [4, 15]);
    }
}
