//! `svd`: a product of two thin matrices, `W ≈ m · U · V`.
//!
//! * Exploits: low rank. `rank · (rows + cols)` numbers instead of `rows · cols`.
//! * Layout: parts `u`, a form of f32 `[rows, rank]`, and `v`, one of f32 `[rank, cols]`;
//!   parameters `rank` and `multiplier` m, a power of two. The singular values are shared
//!   evenly, `U = U_r·√Σ`, `V = √Σ·V_rᵀ`, so that a quantiser meets rows and columns of
//!   like size in both. A tensor of zeros, or an empty one, has rank 1.
//! * Error: the least that a matrix of that rank can have (Eckart and Young),
//!   `√(Σ_{i>r} σ_i²)`, where the decomposition is exact; within a percent of it where
//!   large matrices are sketched. The error of the factors' own forms is added to it.
//! * With the second moments H of the inputs, `W·L` is decomposed instead, where
//!   `H + εI = L·Lᵀ`, and V is divided by L: the error of the product,
//!   `tr(ΔW·(H + εI)·ΔWᵀ)`, is then exactly the tail `Σ_{i>r} σ_i²` of that matrix
//!   (SVD-LLM, Wang et al. 2024). Of moments known on the diagonal only, L is their roots.
//! * Matmul: `rank · (rows + cols)` multiplications, through the products of the two
//!   factors. Where decoding windows of W costs fewer (large batches of a rank above
//!   `rows·cols / (rows + cols)`), that is done instead.
//! * Loses: on weights without low-rank structure: transformer matrices keep a relative
//!   error above a half at a quarter of the numbers, where 4-bit codes keep a tenth.

use std::ops::Range;

use rayon::prelude::*;
use serde_json::{Map, Value};

use super::modes::{normalised, part_spec};
use super::{
    ADDED_MACS, EncodeContext, Form, FormDef, Meta, Part, Product, Scratch, Stored, encode,
    kernels, window_rows,
};
use crate::calibration::Moments;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::linalg::{self, Mat};
use crate::pack::Buffer;
use crate::spec::{self, Codec, Kind, OptionDef, Options, Spec};
use crate::tensor::View;

pub(super) const FACTORS: OptionDef = OptionDef {
    key: "factors",
    aliases: &[],
    kind: Kind::Spec,
    default: Some("dense"),
    doc: "how the factors, f32 matrices, are stored",
};

pub(super) static DEF: FormDef = FormDef {
    kind: "svd",
    codecs: &[Codec {
        name: "svd",
        summary: "a product of two thin matrices (by default params=50%)",
        options: &[
            OptionDef {
                key: "rank",
                aliases: &[],
                kind: Kind::Integer(1, 1 << 20),
                default: None,
                doc: "columns of the first factor, rows of the second",
            },
            OptionDef {
                key: "error",
                aliases: &[],
                kind: Kind::Share,
                default: None,
                doc: "least rank with at most this relative error, that of the factors' forms included",
            },
            OptionDef {
                key: "energy",
                aliases: &[],
                kind: Kind::Share,
                default: None,
                doc: "least rank that holds this share of the sum of squared singular values",
            },
            OptionDef {
                key: "params",
                aliases: &[],
                kind: Kind::Share,
                default: None,
                doc: "largest rank whose factors have at most this share of the tensor's numbers",
            },
            OptionDef {
                key: "whiten",
                aliases: &[],
                kind: Kind::Choice(&["auto", "yes", "none"]),
                default: Some("auto"),
                doc: "minimise the error of the product where the inputs' moments are known; yes tells if they are not",
            },
            FACTORS,
        ],
    }],
    canonical: |_, options| {
        one_of(options, &["rank", "error", "energy", "params"])?;
        options.canonical(&super::registry::nested)
    },
    lossless: |_, _| false,
    encode: encode_form,
    open,
};

/// Refuses more than one of options that exclude each other.
pub(super) fn one_of(options: &Options, keys: &[&str]) -> Result<()> {
    let given: Vec<&str> = keys.iter().copied().filter(|k| options.given(k)).collect();
    match given.as_slice() {
        [one, other, ..] => Err(spec::at(
            options.column(),
            format!("{one} and {other} exclude each other"),
        )),
        _ => Ok(()),
    }
}

/// How many numbers may be spent.
#[derive(Clone, Copy, Debug)]
enum Budget {
    Rank(usize),
    /// Relative error, that of the stored form.
    Error(f64),
    /// Share of the squared norm that the factorisation may leave.
    Tail(f64),
    /// Share of the tensor's numbers.
    Params(f64),
}

impl Budget {
    fn of(options: &Options) -> Self {
        if let Some(rank) = options.integer("rank") {
            Self::Rank(rank as usize)
        } else if let Some(error) = options.number("error") {
            Self::Error(error)
        } else if let Some(share) = options.number("energy") {
            Self::Tail(1.0 - share)
        } else {
            Self::Params(options.number("params").unwrap_or(0.5))
        }
    }
}

/// What the matrix is multiplied by from the right before it is decomposed.
enum Whitening {
    None,
    Diagonal(Vec<f64>),
    Lower(Mat<f64>),
}

/// Damping in shares of the mean second moment: directions that the calibration did not
/// see keep a little weight.
const DAMPING: f64 = 1e-4;

impl Whitening {
    fn of(moments: &Moments, cols: usize) -> Result<Self> {
        if moments.dim() != cols {
            return Err(Error::invalid(format!(
                "second moments of {} columns for a tensor of {cols}",
                moments.dim()
            )));
        }
        let diagonal = moments.diagonal();
        let mean = diagonal.iter().map(|v| f64::from(*v)).sum::<f64>() / cols.max(1) as f64;
        if mean <= 0.0 {
            return Ok(Self::None);
        }
        // Only ratios matter.
        Ok(match moments.matrix() {
            Some(matrix) => {
                let h = Mat::from_fn(cols, cols, |i, j| f64::from(matrix[i * cols + j]) / mean);
                Self::Lower(linalg::cholesky(h.as_ref(), DAMPING)?.0)
            }
            None => Self::Diagonal(
                diagonal
                    .iter()
                    .map(|v| (f64::from(*v) / mean + DAMPING).sqrt())
                    .collect(),
            ),
        })
    }

    /// `W · L`.
    fn apply(&self, w: Vec<f32>, rows: usize, cols: usize) -> Vec<f32> {
        match self {
            Self::None => w,
            Self::Diagonal(l) => {
                let mut w = w;
                w.par_chunks_mut(cols).for_each(|row| {
                    for (v, l) in row.iter_mut().zip(l) {
                        *v = (f64::from(*v) * l) as f32;
                    }
                });
                w
            }
            Self::Lower(l) => {
                let l = Mat::from_fn(cols, cols, |i, j| l[(i, j)] as f32);
                let product = linalg::product(linalg::by_rows(&w, rows, cols), l.as_ref());
                linalg::to_rows(product.as_ref())
            }
        }
    }

    /// `L⁻ᵀ · V` for the columns of V.
    fn undo(&self, v: linalg::MatRef<'_, f32>) -> Mat<f32> {
        match self {
            Self::None => v.to_owned(),
            Self::Diagonal(l) => Mat::from_fn(v.nrows(), v.ncols(), |i, j| {
                (f64::from(v[(i, j)]) / l[i]) as f32
            }),
            Self::Lower(l) => linalg::solve_transposed(l.as_ref(), v),
        }
    }
}

/// A matrix to be factorised and what is known of its decomposition.
struct Source<'a> {
    view: &'a View<'a>,
    meta: Meta,
    multiplier: f32,
    /// Normalised and whitened.
    values: Vec<f32>,
    whitening: Whitening,
    /// Squared norm of `values`.
    total: f64,
    found: linalg::Svd,
    spec: Spec,
    context: &'a EncodeContext<'a>,
}

fn encode_form(
    view: &View<'_>,
    codec: &'static Codec,
    options: &Options,
    context: &EncodeContext,
) -> Result<Box<dyn Form>> {
    let meta = Meta::new(view.dtype(), view.shape())?;
    encode::only_floats(codec.name, &meta)?;
    let budget = Budget::of(options);
    let spec = part_spec(options, "factors")?;
    let (values, multiplier) = normalised(view, context)?;
    let whitening = match (options.text("whiten"), context.moments) {
        (Some("none"), _) | (Some("auto"), None) => Whitening::None,
        (_, Some(moments)) => Whitening::of(moments, meta.cols)?,
        (_, None) => {
            context.note("svd(whiten=yes) without the inputs' second moments: plain SVD".into());
            Whitening::None
        }
    };
    let (rows, cols) = (meta.rows, meta.cols);
    let values = match meta.is_empty() {
        true => values,
        false => whitening.apply(values, rows, cols),
    };
    context.check_cancel()?;
    let total = linalg::norm_squared(&values);
    let matrix = linalg::by_rows(&values, rows, cols);
    let rank = match budget {
        Budget::Rank(rank) => rank,
        Budget::Params(share) => {
            let most = share * meta.len() as f64 / (rows + cols).max(1) as f64;
            (most as usize).max(1)
        }
        Budget::Error(_) | Budget::Tail(_) => 1,
    };
    let found = match budget {
        _ if total == 0.0 => linalg::Svd {
            u: Mat::zeros(rows, 0),
            s: Vec::new(),
            v: Mat::zeros(cols, 0),
        },
        Budget::Error(e) => linalg::svd_to_tail(matrix, total, e * e * total)?,
        Budget::Tail(share) => linalg::svd_to_tail(matrix, total, share * total)?,
        Budget::Rank(_) | Budget::Params(_) => linalg::truncated_svd(matrix, rank)?,
    };
    let mut source = Source {
        view,
        meta,
        multiplier,
        values,
        whitening,
        total,
        found,
        spec,
        context,
    };
    match budget {
        Budget::Rank(_) | Budget::Params(_) => Ok(Box::new(source.form(rank)?)),
        Budget::Tail(share) => {
            let rank = linalg::rank_for_tail(&source.found.s, total, share * total);
            // What rounding leaves of a tail of zero is left.
            Ok(Box::new(source.form(rank.unwrap_or(usize::MAX))?))
        }
        Budget::Error(error) => source.within(error),
    }
}

impl Source<'_> {
    /// The form of this rank, or of the highest there is.
    fn form(&mut self, rank: usize) -> Result<Svd> {
        self.context.check_cancel()?;
        let (rows, cols) = (self.meta.rows, self.meta.cols);
        let rank = rank.clamp(1, rows.min(cols).max(1));
        if rank > self.found.s.len() && self.found.s.len() < self.found_at_most() {
            let matrix = linalg::by_rows(&self.values, rows, cols);
            self.found = linalg::truncated_svd(matrix, rank.saturating_add(rank / 2))?;
        }
        let known = rank.min(self.found.s.len());
        let right = self.whitening.undo(self.found.v.as_ref().subcols(0, known));
        let rank = known.max(1);
        let mut u = vec![0.0f32; rows * rank];
        let mut v = vec![0.0f32; rank * cols];
        for (k, s) in self.found.s[..known].iter().enumerate() {
            let root = s.sqrt() as f32;
            for (i, x) in self.found.u.col_as_slice(k).iter().enumerate() {
                u[i * rank + k] = x * root;
            }
            for (j, x) in right.col_as_slice(k).iter().enumerate() {
                v[k * cols + j] = x * root;
            }
        }
        Ok(Svd {
            rank,
            multiplier: self.multiplier,
            u: encode::part(&u, &[rows, rank], &self.spec, self.context)
                .map_err(|e| e.context("factor u"))?,
            v: encode::part(&v, &[rank, cols], &self.spec, self.context)
                .map_err(|e| e.context("factor v"))?,
            meta: self.meta.clone(),
        })
    }

    /// Singular values that there may be: fewer known ones than that may be added to.
    fn found_at_most(&self) -> usize {
        let left: f64 = self.total - self.found.s.iter().map(|s| s * s).sum::<f64>();
        match left > self.total * 1e-12 {
            true => self.meta.rows.min(self.meta.cols),
            false => self.found.s.len(),
        }
    }

    fn error_of(&self, form: &Svd) -> Result<f64> {
        Ok(encode::measure(self.view, form, self.context)?.relative)
    }

    /// The form of the least rank whose measured error is within the bound.
    fn within(&mut self, error: f64) -> Result<Box<dyn Form>> {
        let tail = error * error * self.total;
        let all = self.meta.rows.min(self.meta.cols).max(1);
        let first = linalg::rank_for_tail(&self.found.s, self.total, tail);
        let first = first.unwrap_or(all).clamp(1, all);
        let form = self.form(first)?;
        let mut reached = self.error_of(&form)?;
        if reached <= error {
            return Ok(Box::new(form));
        }
        // Noise of the factors' forms is there at every rank: only what the tail leaves
        // of the bound can be won back. (A whitened tail is not one of the tensor.)
        if matches!(self.whitening, Whitening::None) && self.total > 0.0 {
            let kept: f64 = self.found.s[..first.min(self.found.s.len())]
                .iter()
                .map(|s| s * s)
                .sum();
            let noise = reached * reached - (1.0 - kept / self.total).max(0.0);
            if noise.max(0.0).sqrt() > error * 1.05 {
                return Err(self.unreached(error, reached, first));
            }
        }
        // Doubling steps up, then halving ones between the last that failed and the first
        // that did not.
        let (mut low, mut step) = (first, 1);
        let (mut high, mut best) = loop {
            if low >= all {
                return Err(self.unreached(error, reached, low));
            }
            let rank = (low + step).min(all);
            let form = self.form(rank)?;
            reached = self.error_of(&form)?;
            if reached <= error {
                break (rank, form);
            }
            (low, step) = (rank, step * 2);
        };
        while high - low > 1 {
            let rank = low + (high - low) / 2;
            let form = self.form(rank)?;
            if self.error_of(&form)? <= error {
                (high, best) = (rank, form);
            } else {
                low = rank;
            }
        }
        Ok(Box::new(best))
    }

    fn unreached(&self, error: f64, reached: f64, rank: usize) -> Error {
        Error::invalid(format!(
            "a relative error of {error} cannot be reached with factors=[{}]: {reached:.3e} at rank {rank}",
            self.spec
        ))
    }
}

#[derive(Debug)]
struct Svd {
    meta: Meta,
    rank: usize,
    multiplier: f32,
    u: Box<dyn Form>,
    v: Box<dyn Form>,
}

/// Refuses a factor that is not f32 of this shape.
pub(super) fn check_factor(name: &str, form: &dyn Form, shape: [usize; 2]) -> Result<()> {
    let meta = form.meta();
    if meta.dtype == DType::F32 && meta.shape == shape {
        return Ok(());
    }
    Err(Error::corrupt(format!(
        "part '{name}' is {} {:?}; f32 {shape:?} is needed",
        meta.dtype, meta.shape
    )))
}

fn open(mut stored: Stored) -> Result<Box<dyn Form>> {
    let meta = stored.meta.clone();
    if !meta.dtype.is_float() {
        return Err(Error::corrupt(format!(
            "factors of a {} tensor",
            meta.dtype
        )));
    }
    let most = meta.rows.min(meta.cols).max(1) as u64;
    let rank = stored.integer("rank", 1..=most)? as usize;
    let multiplier = stored.float("multiplier")?;
    let (u, v) = (stored.form("u")?, stored.form("v")?);
    check_factor("u", &*u, [meta.rows, rank])?;
    check_factor("v", &*v, [rank, meta.cols])?;
    Ok(Box::new(Svd {
        meta,
        rank,
        multiplier,
        u,
        v,
    }))
}

/// Multiplies by the form's power of two.
pub(super) fn scale(values: &mut [f32], multiplier: f32) {
    if multiplier != 1.0 {
        values.iter_mut().for_each(|v| *v *= multiplier);
    }
}

impl Svd {
    /// Rows of V that are decoded at once.
    fn block(&self) -> usize {
        window_rows(&*self.v, 64 << 10).min(self.rank)
    }

    /// Whether a product goes through the factors: else W is decoded by windows.
    fn by_factors(&self, batch: usize) -> bool {
        let (rows, cols) = (self.meta.rows as u128, self.meta.cols as u128);
        let (rank, batch) = (self.rank as u128, batch as u128);
        batch * rank * (rows + cols) <= rows * cols * (rank + batch)
    }

    /// Multiplies by one factor, then by the other.
    fn in_turn(
        &self,
        y: &mut [f32],
        batch: usize,
        first: impl FnOnce(&mut [f32]) -> Result<()>,
        second: impl FnOnce(&[f32], &mut [f32]) -> Result<()>,
    ) -> Result<()> {
        let mut lease = Scratch::lease();
        let inner = &mut lease.floats;
        inner.resize(batch * self.rank, 0.0);
        first(inner)?;
        // The power of two goes where there are fewer numbers, unless they might then leave
        // the range of f32, which the results do not.
        let near = (NEAR.recip()..=NEAR).contains(&self.multiplier);
        let early = near && inner.len() < y.len();
        if early {
            scale(inner, self.multiplier);
        }
        second(inner, y)?;
        if !early {
            scale(y, self.multiplier);
        }
        Ok(())
    }
}

impl Form for Svd {
    fn kind(&self) -> &'static str {
        DEF.kind
    }

    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn params(&self) -> Map<String, Value> {
        let mut params = Map::new();
        params.insert("rank".into(), self.rank.into());
        params.insert("multiplier".into(), f64::from(self.multiplier).into());
        params
    }

    fn parts(&self) -> Vec<(&'static str, Part<'_>)> {
        vec![("u", Part::Form(&*self.u)), ("v", Part::Form(&*self.v))]
    }

    fn map_buffers(&self, f: &mut dyn FnMut(&Buffer) -> Result<Buffer>) -> Result<Box<dyn Form>> {
        Ok(Box::new(Self {
            meta: self.meta.clone(),
            u: self.u.map_buffers(f)?,
            v: self.v.map_buffers(f)?,
            ..*self
        }))
    }

    fn is_exact(&self) -> bool {
        false
    }

    fn row_unit(&self) -> usize {
        // V is decoded once for that many rows.
        let unit = self.u.row_unit();
        64usize.next_multiple_of(unit).min(self.meta.rows.max(1))
    }

    fn least_rows(&self) -> usize {
        self.u.least_rows().min(self.row_unit())
    }

    fn scratch_for(&self, rows: usize) -> usize {
        let block = self.block();
        let floats = rows.saturating_mul(self.rank) + block.saturating_mul(self.meta.cols);
        // The factors take turns.
        let factors = self.u.scratch_for(rows).max(self.v.scratch_for(block));
        floats.saturating_mul(4).saturating_add(factors)
    }

    fn decode_f32(&self, rows: Range<usize>, out: &mut [f32], scratch: &mut Scratch) -> Result<()> {
        if out.is_empty() {
            return Ok(());
        }
        let (rank, cols, block) = (self.rank, self.meta.cols, self.block());
        let mut floats = std::mem::take(&mut scratch.floats);
        floats.resize(rows.len() * rank + block * cols, 0.0);
        let (left, right) = floats.split_at_mut(rows.len() * rank);
        let mut run = || -> Result<()> {
            self.u.decode_f32(rows.clone(), left, scratch.nested())?;
            out.fill(0.0);
            for first in (0..rank).step_by(block) {
                let n = block.min(rank - first);
                let right = &mut right[..n * cols];
                self.v
                    .decode_f32(first..first + n, right, scratch.nested())?;
                // A piece of an output row stays in the first cache for all of the block.
                for at in (0..cols).step_by(COLUMNS) {
                    let end = (at + COLUMNS).min(cols);
                    for (left, out) in left.chunks_exact(rank).zip(out.chunks_exact_mut(cols)) {
                        for (g, right) in left[first..].iter().zip(right.chunks_exact(cols)) {
                            kernels().add_scaled(*g, &right[at..end], &mut out[at..end]);
                        }
                    }
                }
            }
            scale(out, self.multiplier);
            Ok(())
        };
        let result = run();
        scratch.floats = floats;
        result
    }

    fn matmul(&self, x: &[f32], batch: usize, y: &mut [f32], product: &Product<'_>) -> Result<()> {
        if !self.by_factors(batch) {
            return product.by_rows(self, x, batch, y);
        }
        self.in_turn(
            y,
            batch,
            |inner| product.matmul(&*self.v, x, batch, inner),
            |inner, y| product.matmul(&*self.u, inner, batch, y),
        )
    }

    fn matmul_t(
        &self,
        g: &[f32],
        batch: usize,
        y: &mut [f32],
        product: &Product<'_>,
    ) -> Result<()> {
        if !self.by_factors(batch) {
            return product.by_rows_t(self, g, batch, y);
        }
        self.in_turn(
            y,
            batch,
            |inner| product.matmul_t(&*self.u, g, batch, inner),
            |inner, y| product.matmul_t(&*self.v, inner, batch, y),
        )
    }

    fn matmul_macs(&self) -> u64 {
        let (rows, cols) = (self.meta.rows as u64, self.meta.cols as u64);
        let factors = (self.rank as u64).saturating_mul(rows + cols);
        factors.min(rows * cols)
    }

    fn decode_macs(&self) -> u64 {
        let numbers = (self.meta.len() as u64).saturating_mul(self.rank as u64);
        numbers.saturating_mul(ADDED_MACS)
    }
}

/// A power of two that numbers of usual size can be multiplied with or divided by.
const NEAR: f32 = (1u64 << 32) as f32;

/// Columns of the output that are summed up at once.
const COLUMNS: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::form::{Tensor, parse};

    /// Seeded numbers in −1 … 1 with a decaying spectrum: sums of a few smooth waves and
    /// noise of the given size.
    pub(crate) fn waves(rows: usize, cols: usize, noise: f32) -> Vec<f32> {
        let mut state = 0x9E37_79B9u64;
        let mut next = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..rows * cols)
            .map(|i| {
                let (r, c) = ((i / cols) as f32, (i % cols) as f32);
                let smooth = (r * 0.11).sin() * (c * 0.07).cos()
                    + 0.3 * (r * 0.31 + 1.0).sin() * (c * 0.5).sin()
                    + 0.1 * (r * c * 0.003).sin();
                smooth + noise * next()
            })
            .collect()
    }

    fn tensor(values: &[f32], shape: &[usize], spec: &str) -> Result<Tensor> {
        with(values, shape, spec, &EncodeContext::default())
    }

    fn with(v: &[f32], shape: &[usize], spec: &str, context: &EncodeContext) -> Result<Tensor> {
        let view = View::new(DType::F32, shape, bytemuck::cast_slice(v))?;
        encode::encode(&view, &parse(spec)?, context)
    }

    fn rank(t: &Tensor) -> usize {
        t.form().params()["rank"].as_u64().unwrap() as usize
    }

    #[test]
    fn budgets_choose_the_rank() {
        let (rows, cols) = (96, 80);
        let w = waves(rows, cols, 0.05);
        assert_eq!(rank(&tensor(&w, &[rows, cols], "svd(rank=7)").unwrap()), 7);
        // More than there are.
        assert_eq!(
            rank(&tensor(&w, &[rows, cols], "svd(rank=999)").unwrap()),
            80
        );
        let half = tensor(&w, &[rows, cols], "svd(params=50%)").unwrap();
        assert_eq!(rank(&half), rows * cols / 2 / (rows + cols));
        let bare = tensor(&w, &[rows, cols], "svd").unwrap();
        assert_eq!(rank(&bare), rank(&half));
        for error in [0.2, 0.1, 0.04, 0.01] {
            let found = tensor(&w, &[rows, cols], &format!("svd(error={error})")).unwrap();
            assert!(found.error().relative <= error);
            let less = format!("svd(rank={})", rank(&found) - 1);
            if rank(&found) > 1 {
                let less = tensor(&w, &[rows, cols], &less).unwrap();
                assert!(less.error().relative > error);
            }
            let energy = 1.0 - error * error;
            let same = tensor(&w, &[rows, cols], &format!("svd(energy={energy})")).unwrap();
            assert!(rank(&same).abs_diff(rank(&found)) <= 1);
        }
        assert!(tensor(&w, &[rows, cols], "svd(rank=3, error=10%)").is_err());
    }

    #[test]
    fn the_error_of_quantised_factors_counts() {
        let w = waves(128, 160, 0.08);
        let exact = tensor(&w, &[128, 160], "svd(error=6%)").unwrap();
        let codes = tensor(&w, &[128, 160], "svd(error=6%, factors=[q(bits=6)])").unwrap();
        assert!(codes.error().relative <= 0.06);
        assert!(rank(&codes) > rank(&exact));
        let error = tensor(&w, &[128, 160], "svd(error=1%, factors=[int4])").unwrap_err();
        assert!(error.to_string().contains("cannot be reached"), "{error}");
    }

    #[test]
    fn a_matrix_of_the_rank_comes_back_at_any_scale() {
        for scale in [1.0f32, 1e-40, 1e30] {
            let w: Vec<f32> = (0..50 * 30)
                .map(|i| {
                    let (r, c) = ((i / 30) as f32, (i % 30) as f32);
                    ((r * 0.3).sin() * (c + 1.0) + (r + 2.0) * (c * 0.7).cos()) / 64.0 * scale
                })
                .collect();
            let t = tensor(&w, &[50, 30], "svd(rank=2)").unwrap();
            // A denormal of 1e-40 has 17 bits.
            let bound = if scale < 1e-30 { 1e-4 } else { 1e-6 };
            assert!(
                t.error().relative < bound,
                "{scale}: {}",
                t.error().relative
            );
        }
    }

    #[test]
    fn whitening_leaves_the_tail_and_less_of_the_product_than_plain() {
        let (rows, cols, kept) = (40, 24, 6);
        let w = waves(rows, cols, 0.3);
        // Correlated inputs of very different sizes.
        let mix = waves(cols, cols, 0.5);
        let size = |i: usize| 0.7f32.powi(i as i32);
        let mut h = vec![0.0f32; cols * cols];
        for i in 0..cols {
            for j in 0..cols {
                let dot: f32 = (0..cols)
                    .map(|k| mix[i * cols + k] * mix[j * cols + k])
                    .sum();
                h[i * cols + j] = dot * size(i) * size(j);
            }
        }
        let loss = |t: &Tensor, damping: f64| {
            let mut decoded = vec![0.0f32; rows * cols];
            t.decode_rows_f32(0..rows, &mut decoded).unwrap();
            let d: Vec<f64> = w
                .iter()
                .zip(&decoded)
                .map(|(a, b)| f64::from(a - b))
                .collect();
            let mut sum = 0.0;
            for d in d.chunks(cols) {
                for i in 0..cols {
                    for j in 0..cols {
                        let eye = if i == j { damping } else { 0.0 };
                        sum += d[i] * d[j] * (f64::from(h[i * cols + j]) + eye);
                    }
                }
            }
            sum
        };
        let moments = Moments::from_matrix(cols, h.clone()).unwrap();
        let context = EncodeContext {
            moments: Some(&moments),
            ..EncodeContext::default()
        };
        let spec = format!("svd(rank={kept})");
        let white = with(&w, &[rows, cols], &spec, &context).unwrap();

        // The tail of W·L, from this test's own L.
        let mean = (0..cols).map(|i| f64::from(h[i * cols + i])).sum::<f64>() / cols as f64;
        let wide = Mat::from_fn(cols, cols, |i, j| f64::from(h[i * cols + j]));
        let (l, damping) = linalg::cholesky(wide.as_ref(), DAMPING).unwrap();
        assert!((damping / mean / DAMPING - 1.0).abs() < 1e-6);
        let l = Mat::from_fn(cols, cols, |i, j| l[(i, j)] as f32);
        let product = linalg::product(linalg::by_rows(&w, rows, cols), l.as_ref());
        let s = linalg::svd(product.as_ref()).unwrap().s;
        let tail: f64 = s[kept..].iter().map(|s| s * s).sum();
        let found = loss(&white, damping);
        assert!((found / tail - 1.0).abs() < 1e-3, "{found} {tail}");

        let plain = tensor(&w, &[rows, cols], &spec).unwrap();
        let diagonal = Moments::from_diagonal(moments.diagonal().to_vec()).unwrap();
        let context = EncodeContext {
            moments: Some(&diagonal),
            ..EncodeContext::default()
        };
        let rooted = with(&w, &[rows, cols], &spec, &context).unwrap();
        assert!(found < loss(&rooted, damping) && loss(&rooted, damping) < loss(&plain, damping));

        // Asked not to, it does not; asked to without moments, it says so.
        let none = format!("svd(rank={kept}, whiten=none)");
        let none = with(&w, &[rows, cols], &none, &context).unwrap();
        assert_eq!(loss(&none, 0.0), loss(&plain, 0.0));
        let notes = std::sync::Mutex::new(Vec::new());
        let note = |text: String| notes.lock().unwrap().push(text);
        let context = EncodeContext {
            notes: Some(&note),
            ..EncodeContext::default()
        };
        with(&w, &[rows, cols], "svd(rank=2, whiten=yes)", &context).unwrap();
        assert!(notes.lock().unwrap()[0].contains("plain SVD"));
        with(&w, &[rows, cols], "svd(rank=2)", &context).unwrap();
        assert_eq!(notes.lock().unwrap().len(), 1);
        let other = Moments::from_diagonal(vec![1.0; cols + 1]).unwrap();
        let context = EncodeContext {
            moments: Some(&other),
            ..EncodeContext::default()
        };
        assert!(with(&w, &[rows, cols], "svd", &context).is_err());
    }

    #[test]
    fn what_is_stored_is_checked() {
        let w = waves(20, 30, 0.1);
        let open_with = |rank: u64, factor: [usize; 2], dtype: DType| {
            let of = |shape: [usize; 2]| {
                let values = vec![0.5f32; shape[0] * shape[1]];
                let spec = parse("dense").unwrap();
                encode::part(&values, &shape, &spec, &EncodeContext::default()).unwrap()
            };
            let mut params = Map::new();
            params.insert("rank".into(), rank.into());
            params.insert("multiplier".into(), 1.0.into());
            open(Stored {
                meta: Meta::new(dtype, &[20, 30]).unwrap(),
                params,
                parts: vec![
                    ("u".into(), super::super::StoredPart::Form(of([20, 3]))),
                    ("v".into(), super::super::StoredPart::Form(of(factor))),
                ],
            })
        };
        assert!(open_with(3, [3, 30], DType::F32).is_ok());
        assert!(open_with(3, [3, 29], DType::F32).is_err());
        assert!(open_with(2, [3, 30], DType::F32).is_err());
        assert!(open_with(21, [21, 30], DType::F32).is_err());
        assert!(open_with(3, [3, 30], DType::I32).is_err());
        let view = View::new(DType::I32, &[20, 30], bytemuck::cast_slice(&w)).unwrap();
        let error = encode::encode(&view, &parse("svd").unwrap(), &EncodeContext::default());
        assert!(error.unwrap_err().to_string().contains("i32"));
    }
}
