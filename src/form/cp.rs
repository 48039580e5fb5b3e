//! `cp`: a sum of products of one vector per mode (canonical polyadic decomposition).
//!
//! * Exploits: tensors that are nearly of low rank as tensors, not only along each mode:
//!   `W[i, j, k, …] = multiplier · Σ_r λ_r a_r[i] b_r[j] c_r[k] …`, rank · Σ n_m values. A
//!   matrix gets its singular value decomposition.
//! * Layout: the modes are the tensor's dimensions, without those of size 1 after the
//!   first and those past the eighth merged into one. `weights`: λ, f32 `[rank]`.
//!   `factor0`: a form of f32 `[n_0, rank]`; `factor1` … `factor7`: of `[rank, n_m]`.
//!   Columns of `factor0` and rows of the others have norm 1 before they are stored.
//!   Parameters `modes` (the n), `rank`, `multiplier`, a power of two.
//! * Error: with `error` (10 % if nothing is asked for) at most that before the factors are
//!   rounded by forms of their own; λ is fitted again to rounded factors.
//! * Matmul: `x` is contracted with the largest of its modes for all r at once, then with
//!   the others elementwise, weighted, and multiplied by `factor0`:
//!   `rank·(cols·(1 + 1/n) + rows)` multiplications; where that costs more than a dense
//!   product the rows are decoded.
//! * Loses: to `tucker` on most convolutions, whose kernels need several vectors per
//!   channel, and to `q` on weights without low rank. The best rank is not known to be
//!   found: encoding is a search, slow at large ranks. `error` that fewer values than the
//!   tensor's do not reach gives the exact decomposition, which is larger than the tensor.
//!
//! Alternating least squares (Carroll and Chang 1970, Harshman 1970; Kolda and Bader
//! 2009, figure 3.3), products with the unfoldings shared between two halves of the modes
//! (Phan, Tichavský and Cichocki 2013), with Bro's line search (1998) every fifth sweep.
//! Starts: the leading singular vectors of the unfoldings, then seeded random ones.

use std::ops::Range;

use faer::linalg::{matmul, triangular_solve};
use faer::{Accum, MatMut, Par};
use rayon::prelude::*;
use serde_json::{Map, Value};

use super::modes::{self, NAMES, Random};
use super::{
    ADDED_MACS, EncodeContext, Form, FormDef, Meta, Part, Product, Scratch, Stored, encode, kernels,
};
use crate::bytes::{AlignedBytes, checked_mul};
use crate::error::{Error, Result};
use crate::limits;
use crate::linalg::{self, Mat, MatRef};
use crate::pack::Buffer;
use crate::spec::{self, Codec, Kind, OptionDef, Options};
use crate::tensor::View;

pub(super) static DEF: FormDef = FormDef {
    kind: "cp",
    codecs: &[Codec {
        name: "cp",
        summary: "a sum of products of one vector per mode",
        options: &[
            OptionDef {
                key: "rank",
                aliases: &[],
                kind: Kind::Integer(1, 1 << 20),
                default: None,
                doc: "number of products",
            },
            OptionDef {
                key: "error",
                aliases: &[],
                kind: Kind::Share,
                default: None,
                doc: "largest relative error, with the least rank found to keep it (default 10%)",
            },
            OptionDef {
                key: "restarts",
                aliases: &[],
                kind: Kind::Integer(1, 64),
                default: Some("3"),
                doc: "starts of the search, of which the best is kept",
            },
            OptionDef {
                key: "factors",
                aliases: &[],
                kind: Kind::Spec,
                default: Some("dense"),
                doc: "how the factors are stored",
            },
        ],
    }],
    canonical: |_, options| {
        if options.given("rank") && options.given("error") {
            return Err(spec::at(
                options.column(),
                "cp takes rank or error, not both".into(),
            ));
        }
        options.canonical(&super::registry::nested)
    },
    lossless: |_, _| false,
    encode: encode_form,
    open,
};

/// The relative error when nothing is asked for.
const DEFAULT_ERROR: f64 = 0.1;

/// Sweeps of a fit, and of one that only asks whether a rank suffices.
const SWEEPS: usize = 200;
const SEARCH_SWEEPS: usize = 60;

/// The change of the relative error that ends a fit.
const LEAST_GAIN: f64 = 1e-7;

/// Ridge of the least squares problems, relative to the mean diagonal (Tikhonov).
const RIDGE: f64 = 1e-8;

#[derive(Debug)]
struct Cp {
    meta: Meta,
    modes: Vec<usize>,
    rank: usize,
    multiplier: f32,
    weights: Buffer,
    /// `weights`, read.
    lambda: Vec<f32>,
    factors: Vec<Box<dyn Form>>,
}

/// A decomposition: for each mode `[n, rank]`, row-major, columns of norm 1 or 0.
#[derive(Clone, Debug)]
struct Fit {
    factors: Vec<Vec<f64>>,
    lambda: Vec<f64>,
    /// `‖X − X̂‖ / ‖X‖`.
    error: f64,
}

fn encode_form(
    view: &View<'_>,
    codec: &'static Codec,
    options: &Options,
    context: &EncodeContext,
) -> Result<Box<dyn Form>> {
    let meta = Meta::new(view.dtype(), view.shape())?;
    encode::only_floats(codec.name, &meta)?;
    let factor_spec = modes::part_spec(options, "factors")?;
    let (values, multiplier) = modes::normalised(view, context)?;
    let sizes = without_ones(modes::of(&meta, false));
    let asked = options.integer("rank").map(|n| n as usize);
    let error = options.number("error").unwrap_or(DEFAULT_ERROR);

    let x: Vec<f64> = values.iter().map(|v| f64::from(*v)).collect();
    let als = Als::new(&x, &sizes, context);
    let fit = if meta.is_empty() {
        Fit {
            factors: vec![Vec::new(); sizes.len()],
            lambda: Vec::new(),
            error: 0.0,
        }
    } else if sizes.len() == 2 {
        singular(&values, &sizes, asked, error)?
    } else {
        let restarts = options.integer("restarts").unwrap_or(3) as usize;
        match asked {
            Some(rank) if rank >= most_rank(&sizes) => exact(&x, &sizes),
            Some(rank) => als.best(&values, rank, restarts, SWEEPS, 0.0)?,
            None => search(&als, &values, error, restarts)?,
        }
    };

    let rank = fit.lambda.len();
    let mut stored = Vec::with_capacity(sizes.len());
    let mut factors = Vec::with_capacity(sizes.len());
    let mut rounded = false;
    for (mode, (factor, n)) in fit.factors.iter().zip(&sizes).enumerate() {
        let (values, shape) = match mode {
            0 => (factor.clone(), [*n, rank]),
            _ => (transposed(factor, *n, rank), [rank, *n]),
        };
        let values: Vec<f32> = values.iter().map(|v| *v as f32).collect();
        let form = encode::part(&values, &shape, &factor_spec, context)?;
        let back = modes::decoded(&*form)?;
        rounded |= back != values;
        let back: Vec<f64> = back.iter().map(|v| f64::from(*v)).collect();
        stored.push(match mode {
            0 => back,
            _ => transposed(&back, rank, *n),
        });
        factors.push(form);
    }
    let lambda = match rounded {
        true => als.weights(&stored, rank)?,
        false => fit.lambda,
    };
    let lambda: Vec<f32> = lambda.iter().map(|v| *v as f32).collect();
    let mut bytes = AlignedBytes::zeroed(checked_mul(rank, 4)?)?;
    for (out, v) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(&lambda) {
        *out = v.to_le_bytes();
    }
    Ok(Box::new(Cp {
        meta,
        modes: sizes,
        rank,
        multiplier,
        weights: Buffer::owned(bytes, 4, 4)?,
        lambda,
        factors,
    }))
}

/// The modes after the first without those of size 1, at least two in all.
fn without_ones(mut sizes: Vec<usize>) -> Vec<usize> {
    let mut first = true;
    sizes.retain(|n| std::mem::take(&mut first) || *n != 1);
    if sizes.len() < 2 {
        sizes.push(1);
    }
    sizes
}

/// The rank of the exact decomposition: one product for each fibre of the largest mode.
fn most_rank(sizes: &[usize]) -> usize {
    let most = sizes.iter().max().copied().unwrap_or(0);
    let others = sizes.iter().product::<usize>().checked_div(most);
    others.unwrap_or(0)
}

/// `[rows, cols]` to `[cols, rows]`.
fn transposed(values: &[f64], rows: usize, cols: usize) -> Vec<f64> {
    let mut out = vec![0.0; values.len()];
    for i in 0..rows {
        for j in 0..cols {
            out[j * rows + i] = values[i * cols + j];
        }
    }
    out
}

/// A matrix: its leading singular values.
fn singular(x: &[f32], sizes: &[usize], asked: Option<usize>, error: f64) -> Result<Fit> {
    let a = linalg::by_rows(x, sizes[0], sizes[1]);
    let total = linalg::norm_squared(x);
    let tail = error * error * total;
    let (found, rank) = match asked {
        Some(rank) => (linalg::truncated_svd(a, rank)?, rank),
        None => {
            let found = linalg::svd_to_tail(a, total, tail)?;
            let rank = linalg::rank_for_tail(&found.s, total, tail);
            let rank = rank.unwrap_or(found.s.len());
            (found, rank)
        }
    };
    // Values of zero have no vectors; there is always one product.
    let known = rank.min(found.s.len());
    let rank = known.max(1);
    let columns = |a: &Mat<f32>, n: usize| {
        let mut out = vec![0.0; n * rank];
        for r in 0..known {
            for i in 0..n {
                out[i * rank + r] = f64::from(a[(i, r)]);
            }
        }
        out
    };
    let mut lambda = found.s[..known].to_vec();
    lambda.resize(rank, 0.0);
    let left: f64 = total - lambda.iter().map(|s| s * s).sum::<f64>();
    Ok(Fit {
        factors: vec![columns(&found.u, sizes[0]), columns(&found.v, sizes[1])],
        lambda,
        error: relative(left, total),
    })
}

fn relative(left: f64, total: f64) -> f64 {
    if total == 0.0 {
        return 0.0;
    }
    (left.max(0.0) / total).sqrt()
}

/// Every fibre of the largest mode, with unit vectors of the others.
fn exact(x: &[f64], sizes: &[usize]) -> Fit {
    let mut long = 0;
    for (m, n) in sizes.iter().enumerate() {
        if *n > sizes[long] {
            long = m;
        }
    }
    let rank = x.len() / sizes[long];
    let (_, after) = modes::around(sizes, long);
    let mut factors: Vec<Vec<f64>> = sizes.iter().map(|n| vec![0.0; n * rank]).collect();
    for r in 0..rank {
        let start = r / after * after * sizes[long] + r % after;
        for i in 0..sizes[long] {
            factors[long][i * rank + r] = x[start + i * after];
        }
        let mut rest = r;
        for m in (0..sizes.len()).rev().filter(|m| *m != long) {
            factors[m][rest % sizes[m] * rank + r] = 1.0;
            rest /= sizes[m];
        }
    }
    let lambda = normalize(&mut factors[long], rank);
    Fit {
        factors,
        lambda,
        error: 0.0,
    }
}

/// Divides the columns by their norms, and gives those.
fn normalize(factor: &mut [f64], rank: usize) -> Vec<f64> {
    let mut norms = vec![0.0; rank];
    for row in factor.chunks_exact(rank) {
        for (n, v) in norms.iter_mut().zip(row) {
            *n += v * v;
        }
    }
    norms.iter_mut().for_each(|n| *n = n.sqrt());
    for row in factor.chunks_exact_mut(rank) {
        for (v, n) in row.iter_mut().zip(&norms) {
            *v = if *n > 0.0 { *v / n } else { 0.0 };
        }
    }
    norms
}

/// The least rank found that keeps the error: doubling, then bisecting.
fn search(als: &Als<'_>, values: &[f32], error: f64, restarts: usize) -> Result<Fit> {
    let sizes = als.sizes;
    let most = most_rank(sizes);
    // From here on the factors hold as many values as the tensor.
    let limit = (als.x.len() / sizes.iter().sum::<usize>()).min(most);
    // A tensor of rank r has unfoldings of rank r at most.
    let total = linalg::norm_squared(values);
    let mut least = 1;
    for (mode, n) in sizes.iter().enumerate() {
        als.context.check_cancel()?;
        let unfolded = modes::unfold(values, sizes, mode);
        let unfolded = linalg::by_rows(&unfolded, *n, values.len() / n);
        let tail = error * error * total;
        let found = linalg::svd_to_tail(unfolded, total, tail)?;
        let rank = linalg::rank_for_tail(&found.s, total, tail);
        least = least.max(rank.unwrap_or(found.s.len()));
    }
    let (mut low, mut rank) = (least - 1, least);
    let mut fit = loop {
        if rank > limit {
            als.context.note(format!(
                "cp: an error of {} takes more values than the tensor has; stored exactly",
                spec::print_percent(error)
            ));
            return Ok(exact(als.x, sizes));
        }
        let fit = als.best(values, rank, 1, SEARCH_SWEEPS, error)?;
        if fit.error <= error {
            break fit;
        }
        low = rank;
        rank = match rank {
            _ if rank == limit => limit + 1,
            _ => (rank * 2).min(limit),
        };
    };
    while rank - low > 1 {
        let middle = low + (rank - low) / 2;
        let found = als.best(values, middle, 1, SEARCH_SWEEPS, error)?;
        if found.error <= error {
            (rank, fit) = (middle, found);
        } else {
            low = middle;
        }
    }
    let better = als.best(values, rank, restarts, SWEEPS, 0.0)?;
    Ok(if better.error <= fit.error {
        better
    } else {
        fit
    })
}

/// `dst = a · b`, row-major.
fn multiply(dst: &mut [f64], a: MatRef<'_, f64>, b: MatRef<'_, f64>) {
    if dst.is_empty() {
        return;
    }
    let dst = MatMut::from_row_major_slice_mut(dst, a.nrows(), b.ncols());
    matmul::matmul(dst, Accum::Replace, a, b, 1.0, Par::Seq);
}

/// The Khatri–Rao product: `[Π sizes, rank]`, the first mode outermost.
fn khatri_rao(factors: &[Vec<f64>], rank: usize) -> Vec<f64> {
    let mut product = factors[0].clone();
    for factor in &factors[1..] {
        let mut next = Vec::with_capacity(product.len() / rank * factor.len());
        for a in product.chunks_exact(rank) {
            for b in factor.chunks_exact(rank) {
                next.extend(a.iter().zip(b).map(|(a, b)| a * b));
            }
        }
        product = next;
    }
    product
}

/// Contracts all modes but one of `t[sizes…, rank]`, for each r with that column of the
/// factors.
fn contract(
    mut t: Vec<f64>,
    sizes: &[usize],
    keep: usize,
    factors: &[Vec<f64>],
    rank: usize,
) -> Vec<f64> {
    for m in (keep + 1..sizes.len()).rev() {
        let mut out = vec![0.0; t.len() / sizes[m]];
        for (t, out) in t
            .chunks_exact(sizes[m] * rank)
            .zip(out.chunks_exact_mut(rank))
        {
            for (t, f) in t.chunks_exact(rank).zip(factors[m].chunks_exact(rank)) {
                for ((o, t), f) in out.iter_mut().zip(t).zip(f) {
                    *o += t * f;
                }
            }
        }
        t = out;
    }
    for m in 0..keep {
        let size = t.len() / sizes[m];
        let mut out = vec![0.0; size];
        for (t, f) in t.chunks_exact(size).zip(factors[m].chunks_exact(rank)) {
            for (t, out) in t.chunks_exact(rank).zip(out.chunks_exact_mut(rank)) {
                for ((o, t), f) in out.iter_mut().zip(t).zip(f) {
                    *o += t * f;
                }
            }
        }
        t = out;
    }
    t
}

/// `Fᵀ·F`, `[rank, rank]`.
fn gram(factor: &[f64], rank: usize) -> Vec<f64> {
    let mut out = vec![0.0; rank * rank];
    let f = MatRef::from_row_major_slice(factor, factor.len() / rank, rank);
    multiply(&mut out, f.transpose(), f);
    out
}

/// The elementwise product of all Gram matrices but one.
fn hadamard(grams: &[Vec<f64>], but: Option<usize>, rank: usize) -> Vec<f64> {
    let mut out = vec![1.0; rank * rank];
    for (_, gram) in grams.iter().enumerate().filter(|(m, _)| Some(*m) != but) {
        for (o, g) in out.iter_mut().zip(gram) {
            *o *= g;
        }
    }
    out
}

/// `m · (gram + ridge)⁻¹` for `m[n, rank]`.
fn solve(m: &[f64], gram: &[f64], rank: usize) -> Result<Vec<f64>> {
    let gram = MatRef::from_row_major_slice(gram, rank, rank);
    let (l, _) = linalg::cholesky(gram, RIDGE)?;
    let n = m.len() / rank;
    // Row-major [n, rank] is column-major [rank, n].
    let mut out = m.to_vec();
    let mut columns = MatMut::from_column_major_slice_mut(&mut out, rank, n);
    triangular_solve::solve_lower_triangular_in_place(l.as_ref(), columns.as_mut(), Par::Seq);
    triangular_solve::solve_upper_triangular_in_place(l.transpose(), columns, Par::Seq);
    Ok(out)
}

/// The root by Newton's method: the same bits everywhere, which `powf` is not.
fn root(x: f64, power: i32) -> f64 {
    let mut root = x.sqrt();
    for _ in 0..16 {
        let slope = f64::from(power) * root.powi(power - 1);
        root -= (root.powi(power) - x) / slope;
    }
    root
}

/// Alternating least squares on one tensor. The modes before `split` and those from there
/// on share a product with the tensor each.
struct Als<'a> {
    x: &'a [f64],
    sizes: &'a [usize],
    split: usize,
    norm: f64,
    context: &'a EncodeContext<'a>,
}

impl<'a> Als<'a> {
    fn new(x: &'a [f64], sizes: &'a [usize], context: &'a EncodeContext<'a>) -> Self {
        let larger = |split: &usize| {
            let left: usize = sizes[..*split].iter().product();
            left.max(x.len() / left.max(1))
        };
        Self {
            x,
            sizes,
            split: (1..sizes.len()).min_by_key(larger).unwrap_or(1),
            norm: x.iter().map(|v| v * v).sum(),
            context,
        }
    }

    /// The tensor times the Khatri–Rao product of the other half: `[half…, rank]`.
    fn half(&self, left: bool, factors: &[Vec<f64>], rank: usize) -> Vec<f64> {
        let rows: usize = self.sizes[..self.split].iter().product();
        let x = MatRef::from_row_major_slice(self.x, rows, self.x.len() / rows);
        let (x, others) = match left {
            true => (x, &factors[self.split..]),
            false => (x.transpose(), &factors[..self.split]),
        };
        let others = khatri_rao(others, rank);
        let others = MatRef::from_row_major_slice(&others, x.ncols(), rank);
        let mut out = vec![0.0; x.nrows() * rank];
        multiply(&mut out, x, others);
        out
    }

    /// `‖X − X̂‖²` from the last mode's product with the others.
    fn left_over(&self, product: &[f64], last: &[f64], grams: &[Vec<f64>], lambda: &[f64]) -> f64 {
        let rank = lambda.len();
        let mut inner = 0.0;
        for (p, f) in product.chunks_exact(rank).zip(last.chunks_exact(rank)) {
            for ((p, f), l) in p.iter().zip(f).zip(lambda) {
                inner += p * f * l;
            }
        }
        let all = hadamard(grams, None, rank);
        let mut norm = 0.0;
        for (row, a) in all.chunks_exact(rank).zip(lambda) {
            let sum: f64 = row.iter().zip(lambda).map(|(g, b)| g * b).sum();
            norm += sum * a;
        }
        self.norm - 2.0 * inner + norm
    }

    /// One pass over the modes; gives the squared error.
    fn sweep(&self, fit: &mut Fit, grams: &mut [Vec<f64>]) -> Result<f64> {
        let rank = fit.lambda.len();
        let mut left = 0.0;
        for (half, modes) in [(true, 0..self.split), (false, self.split..self.sizes.len())] {
            let t = self.half(half, &fit.factors, rank);
            let sizes = &self.sizes[modes.clone()];
            for m in modes.clone() {
                self.context.check_cancel()?;
                let factors = &fit.factors[modes.clone()];
                let product = contract(t.clone(), sizes, m - modes.start, factors, rank);
                let others = hadamard(grams, Some(m), rank);
                fit.factors[m] = solve(&product, &others, rank)?;
                fit.lambda = normalize(&mut fit.factors[m], rank);
                grams[m] = gram(&fit.factors[m], rank);
                if m + 1 == self.sizes.len() {
                    left = self.left_over(&product, &fit.factors[m], grams, &fit.lambda);
                }
            }
        }
        Ok(left)
    }

    /// Goes on in the direction from `before` to `fit`, if the error is less there.
    fn leap(&self, before: &Fit, fit: &mut Fit, grams: &mut Vec<Vec<f64>>, jump: f64) -> bool {
        let rank = fit.lambda.len();
        let mut far = fit.clone();
        for (m, factor) in far.factors.iter_mut().enumerate() {
            let rows = before.factors[m].chunks_exact(rank);
            for (b, f) in rows.zip(factor.chunks_exact_mut(rank)) {
                for (r, (b, f)) in b.iter().zip(f).enumerate() {
                    let weights = match m {
                        0 => (before.lambda[r], fit.lambda[r]),
                        _ => (1.0, 1.0),
                    };
                    let (b, now) = (b * weights.0, *f * weights.1);
                    *f = b + (now - b) * jump;
                }
            }
        }
        far.lambda.fill(1.0);
        for factor in &mut far.factors {
            let norms = normalize(factor, rank);
            for (l, n) in far.lambda.iter_mut().zip(norms) {
                *l *= n;
            }
        }
        let far_grams: Vec<_> = far.factors.iter().map(|f| gram(f, rank)).collect();
        let t = self.half(false, &far.factors, rank);
        let sizes = &self.sizes[self.split..];
        let factors = &far.factors[self.split..];
        let product = contract(t, sizes, sizes.len() - 1, factors, rank);
        let last = &far.factors[self.sizes.len() - 1];
        let left = self.left_over(&product, last, &far_grams, &far.lambda);
        far.error = relative(left, self.norm);
        // Not for an error of NaN either.
        let better = far.error < fit.error;
        if better {
            *fit = far;
            *grams = far_grams;
        }
        better
    }

    /// Sweeps until the error stands still or is low enough.
    fn run(&self, mut fit: Fit, sweeps: usize, enough: f64) -> Result<Fit> {
        let rank = fit.lambda.len();
        let mut grams: Vec<_> = fit.factors.iter().map(|f| gram(f, rank)).collect();
        let mut power = 2;
        let mut failed = 0;
        for i in 0..sweeps {
            let before = fit.clone();
            fit.error = relative(self.sweep(&mut fit, &mut grams)?, self.norm);
            if fit.error <= enough || (before.error - fit.error).abs() < LEAST_GAIN {
                break;
            }
            if i % 5 == 4 {
                // A root of the number of sweeps, a higher one after four leaps too far.
                let jump = root((i + 1) as f64, power);
                if self.leap(&before, &mut fit, &mut grams, jump) {
                    failed = 0;
                } else {
                    failed += 1;
                    if failed == 4 {
                        (power, failed) = (power + 1, 0);
                    }
                }
            }
        }
        Ok(fit)
    }

    /// The best of so many starts.
    fn best(
        &self,
        values: &[f32],
        rank: usize,
        restarts: usize,
        sweeps: usize,
        enough: f64,
    ) -> Result<Fit> {
        let first = self.singular_start(values, rank)?;
        let fits = (0..restarts)
            .into_par_iter()
            .map(|i| {
                let start = match i {
                    0 => first.clone(),
                    _ => self.random_start(rank, i as u64),
                };
                self.run(start, sweeps, enough)
            })
            .collect::<Result<Vec<_>>>()?;
        let best = fits.into_iter().reduce(|a, b| match b.error < a.error {
            true => b,
            false => a,
        });
        best.ok_or_else(|| Error::internal("a search without a start"))
    }

    fn start(&self, mut factors: Vec<Vec<f64>>, rank: usize) -> Fit {
        for factor in &mut factors {
            normalize(factor, rank);
        }
        Fit {
            factors,
            lambda: vec![1.0; rank],
            error: f64::INFINITY,
        }
    }

    fn random_start(&self, rank: usize, seed: u64) -> Fit {
        let mut random = Random(seed);
        let factors = self.sizes.iter();
        let factors = factors.map(|n| (0..n * rank).map(|_| random.uniform()).collect());
        self.start(factors.collect(), rank)
    }

    /// The leading singular vectors of the unfoldings, and random ones past their number.
    fn singular_start(&self, values: &[f32], rank: usize) -> Result<Fit> {
        let mut random = Random(0);
        let mut factors = Vec::with_capacity(self.sizes.len());
        for (mode, n) in self.sizes.iter().enumerate() {
            self.context.check_cancel()?;
            let unfolded = modes::unfold(values, self.sizes, mode);
            let unfolded = linalg::by_rows(&unfolded, *n, values.len() / n);
            let u = linalg::left_singular(unfolded, rank)?;
            let mut factor = Vec::with_capacity(n * rank);
            for i in 0..*n {
                for r in 0..rank {
                    factor.push(match r < u.ncols() {
                        true => f64::from(u[(i, r)]),
                        false => random.uniform(),
                    });
                }
            }
            factors.push(factor);
        }
        Ok(self.start(factors, rank))
    }

    /// The best weights for given factors.
    fn weights(&self, factors: &[Vec<f64>], rank: usize) -> Result<Vec<f64>> {
        if self.x.is_empty() {
            return Ok(Vec::new());
        }
        let grams: Vec<_> = factors.iter().map(|f| gram(f, rank)).collect();
        let t = self.half(false, factors, rank);
        let sizes = &self.sizes[self.split..];
        let product = contract(t, sizes, sizes.len() - 1, &factors[self.split..], rank);
        let mut inner = vec![0.0; rank];
        let last = &factors[self.sizes.len() - 1];
        for (p, f) in product.chunks_exact(rank).zip(last.chunks_exact(rank)) {
            for ((o, p), f) in inner.iter_mut().zip(p).zip(f) {
                *o += p * f;
            }
        }
        solve(&inner, &hadamard(&grams, None, rank), rank)
    }
}

fn open(mut stored: Stored) -> Result<Box<dyn Form>> {
    let meta = stored.meta.clone();
    if !meta.dtype.is_float() {
        return Err(Error::corrupt(format!(
            "a decomposed {} tensor",
            meta.dtype
        )));
    }
    let sizes = modes::stored_modes(&stored)?;
    let least = u64::from(!meta.is_empty());
    let rank = stored.integer("rank", least..=most_rank(&sizes) as u64)? as usize;
    if meta.is_empty() && rank > 0 {
        return Err(Error::corrupt(format!("rank {rank} of an empty tensor")));
    }
    let multiplier = stored.float("multiplier")?;
    // Read as a whole, so held against the limit first.
    let bytes = checked_mul(rank, 4)?;
    if bytes as u64 > limits::MAX_INDEX_BYTES {
        return Err(Error::limit(format!("{rank} weights of a decomposition")));
    }
    let weights = stored.buffer("weights", bytes)?;
    let mut scratch = Vec::new();
    let lambda = weights.window(0..bytes, &mut scratch)?;
    let lambda = lambda.as_chunks::<4>().0.iter();
    let lambda = lambda.map(|b| f32::from_le_bytes(*b)).collect();
    let mut factors = Vec::with_capacity(sizes.len());
    for (mode, n) in sizes.iter().enumerate() {
        let (rows, cols) = if mode == 0 { (*n, rank) } else { (rank, *n) };
        factors.push(modes::stored_part(&mut stored, NAMES[mode], rows, cols)?);
    }
    Ok(Box::new(Cp {
        meta,
        modes: sizes,
        rank,
        multiplier,
        weights,
        lambda,
        factors,
    }))
}

impl Cp {
    /// The largest mode of `x`: contracted first.
    fn largest(&self) -> usize {
        let modes = 1..self.modes.len();
        modes.fold(1, |best, m| match self.modes[m] > self.modes[best] {
            true => m,
            false => best,
        })
    }

    /// Multiplications of the chain of factors for one row of `x`.
    fn chain_macs(&self) -> u64 {
        let largest = self.largest();
        let rank = self.rank as u64;
        let mut size = self.meta.cols as u64;
        let mut total = size.saturating_mul(rank);
        size /= (self.modes[largest] as u64).max(1);
        for m in (1..self.modes.len()).rev().filter(|m| *m != largest) {
            total = total.saturating_add(size.saturating_mul(rank));
            size /= (self.modes[m] as u64).max(1);
        }
        total.saturating_add(rank.saturating_mul(1 + self.meta.rows as u64))
    }

    fn dense_macs(&self) -> u64 {
        self.meta.rows as u64 * self.meta.cols as u64
    }

    /// Whether decoding the rows costs less than the chain for this batch.
    fn rather_dense(&self, batch: usize) -> bool {
        let batch = batch as u64;
        let decode = self.decode_macs();
        let dense = self.dense_macs().saturating_mul(batch);
        self.chain_macs().saturating_mul(batch) >= dense.saturating_add(decode)
    }

    /// Factors of the modes of `x` but the largest, `[n, rank]`, the last mode first.
    fn tables(&self) -> Result<Vec<Vec<f32>>> {
        let largest = self.largest();
        let modes = (1..self.modes.len()).rev().filter(|m| *m != largest);
        modes
            .map(|m| {
                let values = modes::decoded(&*self.factors[m])?;
                let mut table = vec![0.0; values.len()];
                modes::swap(&values, self.rank, self.modes[m], &mut table);
                Ok(table)
            })
            .collect()
    }

    /// Rows of `x` or `g` that go through the chain at a time.
    fn piece(&self, batch: usize, product: &Product<'_>) -> usize {
        let rest = self.meta.cols / self.modes[self.largest()].max(1);
        let row = rest.saturating_mul(self.rank).saturating_mul(2);
        let row = row.saturating_add(self.meta.cols).saturating_mul(4);
        (product.scratch_bytes / row.max(1)).clamp(1, batch.max(1))
    }

    /// `y = x · Wᵀ`.
    fn forward(
        &self,
        x: &[f32],
        batch: usize,
        y: &mut [f32],
        tables: &[Vec<f32>],
        product: &Product<'_>,
    ) -> Result<()> {
        let largest = self.largest();
        let n = self.modes[largest];
        let after: usize = self.modes[largest + 1..].iter().product();
        let outer = x.len() / n;
        let mut t = vec![0.0; outer * self.rank];
        if after == 1 {
            product.matmul(&*self.factors[largest], x, outer, &mut t)?;
        } else {
            let mut last = vec![0.0; x.len()];
            modes::swap(x, n, after, &mut last);
            product.matmul(&*self.factors[largest], &last, outer, &mut t)?;
        }
        let rank = self.rank;
        for table in tables {
            let mut out = vec![0.0f32; t.len() / table.len() * rank];
            for (t, out) in t.chunks_exact(table.len()).zip(out.chunks_exact_mut(rank)) {
                for (t, f) in t.chunks_exact(rank).zip(table.chunks_exact(rank)) {
                    for ((o, t), f) in out.iter_mut().zip(t).zip(f) {
                        *o += t * f;
                    }
                }
            }
            t = out;
        }
        self.weigh(&mut t);
        product.matmul(&*self.factors[0], &t, batch, y)
    }

    /// `y = g · W`.
    fn backward(
        &self,
        g: &[f32],
        batch: usize,
        y: &mut [f32],
        tables: &[Vec<f32>],
        product: &Product<'_>,
    ) -> Result<()> {
        let largest = self.largest();
        let n = self.modes[largest];
        let after: usize = self.modes[largest + 1..].iter().product();
        let rank = self.rank;
        let mut t = vec![0.0f32; batch * rank];
        product.matmul_t(&*self.factors[0], g, batch, &mut t)?;
        self.weigh(&mut t);
        for table in tables.iter().rev() {
            let mut out = Vec::with_capacity(t.len() / rank * table.len());
            for t in t.chunks_exact(rank) {
                for f in table.chunks_exact(rank) {
                    out.extend(t.iter().zip(f).map(|(t, f)| t * f));
                }
            }
            t = out;
        }
        let outer = y.len() / n;
        if after == 1 {
            return product.matmul_t(&*self.factors[largest], &t, outer, y);
        }
        let mut last = vec![0.0; y.len()];
        product.matmul_t(&*self.factors[largest], &t, outer, &mut last)?;
        modes::swap(&last, after, n, y);
        Ok(())
    }

    fn weigh(&self, t: &mut [f32]) {
        for t in t.chunks_exact_mut(self.rank) {
            for (t, l) in t.iter_mut().zip(&self.lambda) {
                *t *= l;
            }
        }
    }

    fn scale(&self, values: &mut [f32]) {
        if self.multiplier != 1.0 {
            values.iter_mut().for_each(|v| *v *= self.multiplier);
        }
    }

    /// Rows decoded at a time that the products of the other modes are formed once for.
    const WINDOW: usize = 64;

    /// Products of the other modes that are decoded at a time.
    fn piece_rows(&self) -> usize {
        let row: usize = self.modes[1..].iter().sum();
        ((32 << 10) / row.max(1)).clamp(16, 1024).min(self.rank)
    }

    /// Values of scratch for so many rows: the first factor, a piece of the others, and a
    /// row of the Khatri–Rao product in the making.
    fn values(&self, rows: usize) -> [usize; 3] {
        let row: usize = self.modes[1..].iter().sum();
        [
            rows.saturating_mul(self.rank),
            self.piece_rows().saturating_mul(row),
            self.meta.cols.saturating_mul(2),
        ]
    }
}

/// `out = a ⊗ b`.
fn outer(a: &[f32], b: &[f32], out: &mut [f32]) {
    for (a, out) in a.iter().zip(out.chunks_exact_mut(b.len())) {
        for (o, b) in out.iter_mut().zip(b) {
            *o = a * b;
        }
    }
}

impl Form for Cp {
    fn kind(&self) -> &'static str {
        DEF.kind
    }

    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn params(&self) -> Map<String, Value> {
        let mut params = Map::new();
        params.insert("modes".into(), self.modes.clone().into());
        params.insert("rank".into(), self.rank.into());
        params.insert("multiplier".into(), f64::from(self.multiplier).into());
        params
    }

    fn parts(&self) -> Vec<(&'static str, Part<'_>)> {
        let forms = self.factors.iter().map(|f| Part::Form(&**f));
        let mut parts = vec![("weights", Part::Buffer(&self.weights))];
        parts.extend(NAMES.into_iter().zip(forms));
        parts
    }

    fn map_buffers(&self, f: &mut dyn FnMut(&Buffer) -> Result<Buffer>) -> Result<Box<dyn Form>> {
        let weights = f(&self.weights)?;
        let factors = self.factors.iter().map(|u| u.map_buffers(f));
        Ok(Box::new(Self {
            meta: self.meta.clone(),
            modes: self.modes.clone(),
            rank: self.rank,
            multiplier: self.multiplier,
            weights,
            lambda: self.lambda.clone(),
            factors: factors.collect::<Result<_>>()?,
        }))
    }

    fn is_exact(&self) -> bool {
        false
    }

    fn row_unit(&self) -> usize {
        Self::WINDOW
            .next_multiple_of(self.factors[0].row_unit().max(1))
            .min(self.meta.rows.max(1))
    }

    fn least_rows(&self) -> usize {
        self.factors[0].least_rows().min(self.row_unit())
    }

    fn scratch_for(&self, rows: usize) -> usize {
        let values = self.values(rows).into_iter().fold(0, usize::saturating_add);
        let piece = self.piece_rows();
        let others = self.factors[1..].iter().map(|f| f.scratch_for(piece));
        let nested = others.max().unwrap_or(0);
        let nested = nested.max(self.factors[0].scratch_for(rows));
        values.saturating_mul(4).saturating_add(nested)
    }

    fn decode_f32(&self, rows: Range<usize>, out: &mut [f32], scratch: &mut Scratch) -> Result<()> {
        if out.is_empty() {
            return Ok(());
        }
        let (count, cols, rank) = (rows.len(), self.meta.cols, self.rank);
        let [first, others, _] = self.values(count);
        let size = first + others + 2 * cols;
        let mut floats = std::mem::take(&mut scratch.floats);
        if floats.capacity() < size {
            // Growing by doubling would pass the scratch limit.
            floats = Vec::new();
            floats.reserve_exact(size);
        }
        floats.resize(size, 0.0);
        let mut run = || -> Result<()> {
            let (a, rest) = floats.split_at_mut(first);
            let (pieces, rest) = rest.split_at_mut(others);
            let (mut row, mut next) = rest.split_at_mut(cols);
            let nested = scratch.nested();
            self.factors[0].decode_f32(rows.clone(), a, nested)?;
            self.weigh(a);
            out.fill(0.0);
            let step = self.piece_rows();
            for start in (0..rank).step_by(step) {
                let end = (start + step).min(rank);
                let mut at = 0;
                for (factor, n) in self.factors.iter().zip(&self.modes).skip(1) {
                    let piece = &mut pieces[at..at + (end - start) * n];
                    factor.decode_f32(start..end, piece, nested)?;
                    at += (end - start) * n;
                }
                // Each sum goes in the order of r, product and sum rounded apart.
                for r in start..end {
                    let mut at = 0;
                    let mut made = 1;
                    row[0] = 1.0;
                    for n in &self.modes[1..] {
                        let from = at + (r - start) * n;
                        outer(&row[..made], &pieces[from..from + n], &mut next[..made * n]);
                        std::mem::swap(&mut row, &mut next);
                        made *= n;
                        at += (end - start) * n;
                    }
                    for (a, out) in a.chunks_exact(rank).zip(out.chunks_exact_mut(cols)) {
                        kernels().add_scaled(a[r], row, out);
                    }
                }
            }
            Ok(())
        };
        let result = run();
        scratch.floats = floats;
        self.scale(out);
        result
    }

    fn matmul(&self, x: &[f32], batch: usize, y: &mut [f32], product: &Product<'_>) -> Result<()> {
        if self.rather_dense(batch) {
            return product.by_rows(self, x, batch, y);
        }
        let tables = self.tables()?;
        let (rows, cols) = (self.meta.rows, self.meta.cols);
        let piece = self.piece(batch, product);
        for (x, y) in x.chunks(piece * cols).zip(y.chunks_mut(piece * rows)) {
            self.forward(x, x.len() / cols, y, &tables, product)?;
        }
        self.scale(y);
        Ok(())
    }

    fn matmul_t(
        &self,
        g: &[f32],
        batch: usize,
        y: &mut [f32],
        product: &Product<'_>,
    ) -> Result<()> {
        if self.rather_dense(batch) {
            return product.by_rows_t(self, g, batch, y);
        }
        let tables = self.tables()?;
        let (rows, cols) = (self.meta.rows, self.meta.cols);
        let piece = self.piece(batch, product);
        for (g, y) in g.chunks(piece * rows).zip(y.chunks_mut(piece * cols)) {
            self.backward(g, g.len() / rows, y, &tables, product)?;
        }
        self.scale(y);
        Ok(())
    }

    fn matmul_macs(&self) -> u64 {
        self.chain_macs().min(self.dense_macs())
    }

    fn decode_macs(&self) -> u64 {
        let rank = (self.rank as u64).saturating_mul(ADDED_MACS);
        self.dense_macs().saturating_mul(rank)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::DType;
    use crate::error::ErrorKind;
    use crate::form::Tensor;
    use crate::form::modes::testing::{noise, products_hold, stored, tensor};

    fn refused(stored: Stored) {
        assert_eq!(open(stored).unwrap_err().kind(), ErrorKind::Corrupt);
    }

    fn planted(shape: &[usize], rank: usize, share_of_noise: f32) -> Vec<f32> {
        let factors = shape.iter().enumerate();
        let factors = factors.map(|(m, n)| {
            let values = noise(n * rank, 10 + m as u64);
            values.iter().map(|v| f64::from(*v)).collect::<Vec<_>>()
        });
        let product = khatri_rao(&factors.collect::<Vec<_>>(), rank);
        let rows = product.chunks_exact(rank);
        let x: Vec<f32> = rows.map(|r| r.iter().sum::<f64>() as f32).collect();
        let rough = noise(x.len(), 3);
        let scale = linalg::norm_squared(&x) / linalg::norm_squared(&rough);
        let scale = share_of_noise * scale.sqrt() as f32;
        x.iter().zip(rough).map(|(x, r)| x + scale * r).collect()
    }

    fn rank_of(tensor: &Tensor) -> u64 {
        tensor.form().params()["rank"].as_u64().unwrap()
    }

    #[test]
    fn planted_products_are_found() {
        for shape in [&[14, 12, 10][..], &[9, 8, 3, 3]] {
            let w = planted(shape, 4, 0.0);
            let found = tensor(shape, &w, "cp(rank=4)");
            assert!(found.error().relative < 1e-4, "{:?}", found.error());
            let found = tensor(shape, &w, "cp(error=1%)");
            assert!(found.error().relative <= 0.01);
            assert_eq!(rank_of(&found), 4);
            // Noise of 5 % stays, and no more.
            let w = planted(shape, 4, 0.05);
            let error = tensor(shape, &w, "cp(rank=4)").error().relative;
            assert!(error > 0.03 && error < 0.0501, "{error}");
        }
    }

    #[test]
    fn a_matrix_gets_its_singular_values() {
        let w = planted(&[30, 22], 9, 0.3);
        let s = linalg::svd(linalg::by_rows(&w, 30, 22)).unwrap().s;
        let total: f64 = s.iter().map(|s| s * s).sum();
        for shape in [&[30, 22][..], &[30, 22, 1, 1]] {
            let found = tensor(shape, &w, "cp(rank=5)");
            let tail: f64 = s[5..].iter().map(|s| s * s).sum();
            assert!((found.error().relative - (tail / total).sqrt()).abs() < 1e-6);
            let found = tensor(shape, &w, "cp(error=30%)");
            let rank = rank_of(&found) as usize;
            let tail = |r: usize| s[r..].iter().map(|s| s * s).sum::<f64>() / total;
            assert!(tail(rank) <= 0.09 && tail(rank - 1) > 0.09);
        }
    }

    #[test]
    fn what_no_low_rank_reaches_is_exact() {
        let w = noise(6 * 5 * 4, 1);
        let found = tensor(&[6, 5, 4], &w, "cp(error=0.1%)");
        assert_eq!(rank_of(&found), 20);
        assert!(found.error().relative < 1e-6);
        let capped = tensor(&[6, 5, 4], &w, "cp(rank=1000)");
        assert_eq!(rank_of(&capped), 20);
    }

    #[test]
    fn sweeps_and_leaps_lower_the_error_that_they_state() {
        let shape = [10, 9, 8];
        let w = planted(&shape, 6, 0.5);
        let x: Vec<f64> = w.iter().map(|v| f64::from(*v)).collect();
        let context = EncodeContext::default();
        let als = Als::new(&x, &shape, &context);
        let mut last = f64::INFINITY;
        for sweeps in [1, 2, 4, 8, 16, 32] {
            let fit = als.run(als.random_start(5, 1), sweeps, 0.0).unwrap();
            let mut first = fit.factors.clone();
            for row in first[0].chunks_exact_mut(5) {
                row.iter_mut().zip(&fit.lambda).for_each(|(v, l)| *v *= l);
            }
            let back = khatri_rao(&first, 5);
            let left: f64 = back
                .chunks_exact(5)
                .zip(&x)
                .map(|(p, x)| (p.iter().sum::<f64>() - x).powi(2))
                .sum();
            assert!((relative(left, als.norm) - fit.error).abs() < 1e-9);
            assert!(fit.error <= last + 1e-9, "{sweeps}: {} {last}", fit.error);
            last = fit.error;
        }
        assert!((root(30.0, 3).powi(3) - 30.0).abs() < 1e-9);
    }

    #[test]
    fn products_go_through_the_factors() {
        for (shape, spec) in [
            (&[40, 30, 3, 4][..], "cp(rank=4)"),
            (&[40, 3, 30, 4], "cp(rank=4)"),
            (&[40, 4, 30], "cp(rank=5, factors=[int8 | zstd])"),
            (&[40, 90], "cp(rank=5, factors=[f16])"),
        ] {
            let w = planted(shape, 4, 0.1);
            let found = tensor(shape, &w, spec);
            assert!(found.form().matmul_macs() < w.len() as u64 / 3);
            products_hold(&found);
        }
    }

    #[test]
    fn damaged_parameters_are_refused() {
        let w = planted(&[6, 5, 4], 3, 0.1);
        let found = tensor(&[6, 5, 4], &w, "cp(rank=3)");
        assert!(open(stored(found.form())).is_ok());
        for (name, value) in [
            ("modes", serde_json::json!([6, 5, 5])),
            ("modes", serde_json::json!([30, 4])),
            ("rank", serde_json::json!(0)),
            ("rank", serde_json::json!(4)),
            ("rank", serde_json::json!(21)),
            ("rank", serde_json::json!(u64::MAX)),
            ("multiplier", serde_json::json!("1")),
        ] {
            let mut bad = stored(found.form());
            bad.params.insert(name.into(), value);
            refused(bad);
        }
        let mut bad = stored(found.form());
        bad.parts.retain(|p| p.0 != "weights");
        refused(bad);
        let mut bad = stored(found.form());
        bad.meta = Meta::new(DType::I32, &[6, 5, 4]).unwrap();
        refused(bad);
    }
}
