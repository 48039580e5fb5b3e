//! `tt`: a tensor train (matrix product operator): a chain of small cores.
//!
//! * Exploits: that a matrix whose row and column numbers are written in mixed digits,
//!   `W[(o_1 o_2 …), (i_1 i_2 …)]`, depends little across a cut between digits: Kronecker
//!   and convolution-like structure, smooth tables, what compresses by far more than its
//!   rank as a matrix says. Two cores of digit pairs are a sum of Kronecker products.
//! * Layout: `rows` and `cols` (parameters) are cut into modes, most significant digit
//!   first. With `order` = `interleaved` site j holds the digits `(o_j, i_j)`, the shorter
//!   list being filled up with ones; with `separate` the row modes come first, then the
//!   column modes, each a site with 1 for the other digit. Sites of two ones are left out,
//!   but for the last. Site j has a core `G_j[ρ_{j−1}, o_j, i_j, ρ_j]`, with
//!   `ρ_0 = ρ_n = 1` and the others listed in `ranks`, and
//!   `W = m · Σ G_1 · G_2 ⋯ G_n` over the ranks; m is `multiplier`, a power of two.
//!   Part `core{k}`, k from 0, is a form of f32 `[o·s, t·i]` that holds the core of site
//!   k + 1 as rows `(o, ρ_j)` and columns `(ρ_{j−1}, i)`, so that a step of the product is
//!   a product with it as it lies; if `reversed`, as rows `(o, ρ_{j−1})` and columns
//!   `(ρ_j, i)`.
//! * Error: with `error`, at most that (Oseledets 2011: each cut may leave its share of
//!   the squared norm; what a cut leaves of its share goes to the next ones). At given
//!   ranks at most `√(n − 1)` times the least.
//! * Matmul: x goes through the chain from the first site to the last, or, `reversed`,
//!   from the last to the first, whichever takes fewer multiplications:
//!   `Σ_k (Π_{j≤k} o_j)·(Π_{j≥k} i_j)·r_{k−1}·r_k` in order of the chain. For two cores of
//!   64·64 each way that is 2¹⁹·r against 2²⁴ of the dense matrix: 32 is where they meet.
//!   Beyond that, windows of rows are decoded and multiplied densely, if that costs less.
//! * Loses: on weights without such structure: at the ranks where a trained matrix keeps a
//!   useful error, the chain costs more than the matrix.

use std::ops::Range;

use rayon::prelude::*;
use serde_json::{Map, Value};

use super::svd::{FACTORS, check_factor, factors_spec, floats_only, normalised, one_of, scale};
use super::{EncodeContext, Form, FormDef, Meta, Part, Product, Scratch, Stored, encode, kernels};
use crate::bytes::element_count;
use crate::error::{Error, ErrorKind, Result};
use crate::linalg;
use crate::pack::Buffer;
use crate::spec::{Codec, Kind, OptionDef, Options, Spec};
use crate::tensor::View;

pub(super) static DEF: FormDef = FormDef {
    kind: "tt",
    codecs: &[Codec {
        name: "tt",
        summary: "a tensor train of small cores (by default params=50%)",
        options: &[
            OptionDef {
                key: "rank",
                aliases: &[],
                kind: Kind::Integer(1, 1 << 20),
                default: None,
                doc: "largest rank between two cores",
            },
            OptionDef {
                key: "error",
                aliases: &[],
                kind: Kind::Share,
                default: None,
                doc: "least ranks with at most this relative error, that of the cores' forms included",
            },
            OptionDef {
                key: "params",
                aliases: &[],
                kind: Kind::Share,
                default: None,
                doc: "largest ranks whose cores have at most this share of the tensor's numbers",
            },
            MODES_OF_ROWS,
            OptionDef {
                key: "cols",
                doc: "factors of the number of columns; auto: two to four of like size",
                ..MODES_OF_ROWS
            },
            OptionDef {
                key: "order",
                aliases: &[],
                kind: Kind::Choice(&["auto", "interleaved", "separate"]),
                default: Some("auto"),
                doc: "pairs of a row and a column mode, or row modes before column modes; auto: the better",
            },
            FACTORS,
        ],
    }],
    canonical: |_, options| {
        one_of(options, &["rank", "error", "params"])?;
        options.canonical(&super::registry::nested)
    },
    lossless: |_, _| false,
    encode: encode_form,
    open,
};

const MODES_OF_ROWS: OptionDef = OptionDef {
    key: "rows",
    aliases: &[],
    kind: Kind::Dims(&["auto"]),
    default: Some("auto"),
    doc: "factors of the number of rows; auto: two to four of like size",
};

/// Modes of rows, and of columns: more would be of size 1 or of a tensor beyond limits.
const MAX_MODES: usize = 16;

const NAMES: [&str; 2 * MAX_MODES] = [
    "core0", "core1", "core2", "core3", "core4", "core5", "core6", "core7", "core8", "core9",
    "core10", "core11", "core12", "core13", "core14", "core15", "core16", "core17", "core18",
    "core19", "core20", "core21", "core22", "core23", "core24", "core25", "core26", "core27",
    "core28", "core29", "core30", "core31",
];

/// A pair of digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Site {
    o: usize,
    i: usize,
}

/// How the matrix is cut into digits, and the ranks between sites.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Chain {
    rows: Vec<usize>,
    cols: Vec<usize>,
    separate: bool,
    /// Whether products run from the last site to the first.
    reversed: bool,
    sites: Vec<Site>,
    /// One more than sites, the outer ones 1.
    ranks: Vec<usize>,
}

impl Chain {
    /// All ranks 1.
    fn new(rows: Vec<usize>, cols: Vec<usize>, separate: bool) -> Self {
        let mut sites: Vec<Site> = if separate {
            let rows = rows.iter().map(|o| Site { o: *o, i: 1 });
            rows.chain(cols.iter().map(|i| Site { o: 1, i: *i }))
                .collect()
        } else {
            (0..rows.len().max(cols.len()))
                .map(|j| Site {
                    o: rows.get(j).copied().unwrap_or(1),
                    i: cols.get(j).copied().unwrap_or(1),
                })
                .collect()
        };
        sites.retain(|s| s.o * s.i != 1);
        if sites.is_empty() {
            sites.push(Site { o: 1, i: 1 });
        }
        Self {
            ranks: vec![1; sites.len() + 1],
            rows,
            cols,
            separate,
            reversed: false,
            sites,
        }
    }

    fn len(&self) -> usize {
        self.sites.len()
    }

    /// The rank that a cut before site `j` can have at most.
    fn full_rank(&self, j: usize) -> usize {
        let numbers = |s: &[Site]| s.iter().fold(1, |n: usize, s| n.saturating_mul(s.o * s.i));
        numbers(&self.sites[..j]).min(numbers(&self.sites[j..]))
    }

    fn cap(&mut self, rank: usize) {
        for j in 1..self.len() {
            self.ranks[j] = rank.clamp(1, self.full_rank(j));
        }
    }

    /// Numbers in all cores.
    fn params(&self) -> usize {
        let sites = self.sites.iter().enumerate();
        sites.fold(0, |n, (j, s)| {
            let core = self.ranks[j].saturating_mul(self.ranks[j + 1]);
            core.saturating_mul(s.o * s.i).saturating_add(n)
        })
    }

    /// Sites in the order of the product.
    fn order(&self) -> Vec<usize> {
        match self.reversed {
            false => (0..self.len()).collect(),
            true => (0..self.len()).rev().collect(),
        }
    }

    /// Multiplications for one row of x.
    fn macs(&self) -> u64 {
        let order = self.order();
        let mut done = 1u64;
        let mut left: u64 = self.sites.iter().map(|s| s.i as u64).product();
        let mut macs = 0u64;
        for j in order {
            let Site { o, i } = self.sites[j];
            done = done.saturating_mul(o as u64);
            let ranks = self.ranks[j] as u64 * self.ranks[j + 1] as u64;
            macs = macs.saturating_add(done.saturating_mul(left).saturating_mul(ranks));
            left /= (i as u64).max(1);
        }
        macs
    }

    /// Shape of the part that holds a site's core.
    fn shape(&self, j: usize) -> [usize; 2] {
        let (before, after) = (self.ranks[j], self.ranks[j + 1]);
        let Site { o, i } = self.sites[j];
        match self.reversed {
            false => [o * after, before * i],
            true => [o * before, after * i],
        }
    }

    /// Sites up to the last with a row digit: the others are the same for every row.
    fn head(&self) -> usize {
        let last = self.sites.iter().rposition(|s| s.o != 1);
        last.map_or(0, |j| j + 1)
    }

    /// Multiplications for decoding all rows in windows of [`WINDOW`].
    fn decode_macs(&self) -> u128 {
        let (mut rows, mut cols, mut macs) = (1u128, 1u128, 0u128);
        let ranks = |j: usize| self.ranks[j] as u128 * self.ranks[j + 1] as u128;
        let head = self.head();
        for (j, s) in self.sites[..head].iter().enumerate() {
            rows *= s.o as u128;
            cols *= s.i as u128;
            macs = macs.saturating_add((rows * cols).saturating_mul(ranks(j)));
        }
        let mut tail = 1u128;
        let windows = rows.div_ceil(WINDOW as u128);
        for j in (head..self.len()).rev() {
            tail *= self.sites[j].i as u128;
            macs = macs.saturating_add((tail * windows).saturating_mul(ranks(j)));
        }
        if head < self.len() {
            macs = macs.saturating_add(rows * cols * tail * self.ranks[head] as u128);
        }
        macs
    }
}

/// Rows decoded at once: what does not depend on the row is made once for them.
const WINDOW: usize = 64;

/// `n` as factors of like size: as many as make them about 16, at most four.
fn factors(n: usize, count: usize) -> Vec<usize> {
    let mut primes = Vec::new();
    let (mut rest, mut p) = (n, 2);
    while p * p <= rest {
        while rest % p == 0 {
            primes.push(p);
            rest /= p;
        }
        p += 1;
    }
    if rest > 1 || primes.is_empty() {
        primes.push(rest);
    }
    let mut factors = vec![1usize; count.min(primes.len())];
    // The largest prime to the smallest factor.
    for p in primes.into_iter().rev() {
        if let Some(least) = factors.iter_mut().min() {
            *least *= p;
        }
    }
    factors.sort_unstable();
    factors
}

/// How many modes a side of this length is cut into.
fn mode_count(n: usize) -> usize {
    ((n.max(1) as f64).log2() / 4.0).round().clamp(2.0, 4.0) as usize
}

fn modes(options: &Options, key: &str, n: usize, count: usize) -> Result<Vec<usize>> {
    let Some(given) = options.dims(key) else {
        return Ok(factors(n, count));
    };
    if element_count(&given).ok() != Some(n) || given.len() > MAX_MODES {
        return Err(Error::invalid(format!(
            "{key}={} for a matrix with {n} {key}; at most {MAX_MODES} factors of that number are needed",
            options.text(key).unwrap_or_default()
        )));
    }
    Ok(given)
}

#[derive(Clone, Copy, Debug)]
enum Budget {
    Rank(usize),
    Error(f64),
    Params(f64),
}

/// A decomposition: the chain with its ranks, the cores `[ρ_{j−1}, o, i, ρ_j]` and the
/// squared norm that the cuts left.
struct Train {
    chain: Chain,
    cores: Vec<Vec<f32>>,
    left: f64,
}

fn encode_form(
    view: &View<'_>,
    codec: &'static Codec,
    options: &Options,
    context: &EncodeContext,
) -> Result<Box<dyn Form>> {
    let meta = Meta::new(view.dtype(), view.shape())?;
    floats_only(codec, &meta)?;
    let budget = if let Some(rank) = options.integer("rank") {
        Budget::Rank(rank as usize)
    } else if let Some(error) = options.number("error") {
        Budget::Error(error)
    } else {
        Budget::Params(options.number("params").unwrap_or(0.5))
    };
    let spec = factors_spec(options)?;
    let count = mode_count(meta.rows.max(meta.cols));
    let rows = modes(options, "rows", meta.rows, count)?;
    let cols = modes(options, "cols", meta.cols, count)?;
    let (values, multiplier) = normalised(view, context)?;
    let total = linalg::norm_squared(&values);
    if meta.is_empty() || total == 0.0 {
        let chain = match meta.is_empty() {
            true => Chain::new(vec![meta.rows], vec![meta.cols], false),
            false => Chain::new(rows, cols, options.text("order") == Some("separate")),
        };
        let cores = (0..chain.len()).map(|j| vec![0.0; chain.shape(j).iter().product()]);
        let train = Train {
            cores: cores.collect(),
            chain,
            left: 0.0,
        };
        return Ok(Box::new(train.form(meta, multiplier, &spec, context)?));
    }
    let orders: &[bool] = match options.text("order") {
        Some("interleaved") => &[false],
        Some("separate") => &[true],
        _ => &[false, true],
    };
    let of = |separate: bool, budget: Budget| {
        let chain = Chain::new(rows.clone(), cols.clone(), separate);
        decompose(&values, total, chain, &meta, budget, context)
    };
    let mut best: Option<Train> = None;
    for separate in orders {
        let train = of(*separate, budget)?;
        let better = best.as_ref().is_none_or(|b| match budget {
            Budget::Error(_) => train.chain.params() < b.chain.params(),
            _ => train.left < b.left,
        });
        if better {
            best = Some(train);
        }
    }
    let mut train = best.ok_or_else(|| Error::internal("no order of modes"))?;
    let Budget::Error(error) = budget else {
        return Ok(Box::new(train.form(meta, multiplier, &spec, context)?));
    };
    // The error of the cores' forms comes on top; what it takes is taken from the cuts'.
    for round in 0..6 {
        let (left, separate) = (train.left, train.chain.separate);
        let form = train.form(meta.clone(), multiplier, &spec, context)?;
        let reached = encode::measure(view, &form, context)?.relative;
        if reached <= error {
            return Ok(Box::new(form));
        }
        let noise = (reached * reached - left / total).max(0.0);
        let room = (error * error - noise).max(0.0).sqrt();
        if room < error * 0.05 || round == 5 {
            return Err(Error::invalid(format!(
                "a relative error of {error} cannot be reached with factors=[{spec}]: the cores alone leave {:.3e}",
                noise.sqrt()
            )));
        }
        train = of(
            separate,
            Budget::Error(room * (1.0 - 0.02 * f64::from(round))),
        )?;
    }
    Err(Error::internal(
        "an error bound was neither met nor refused",
    ))
}

/// Sequential singular value decompositions (Oseledets 2011, algorithm 1).
fn decompose(
    values: &[f32],
    total: f64,
    mut chain: Chain,
    meta: &Meta,
    budget: Budget,
    context: &EncodeContext,
) -> Result<Train> {
    match budget {
        Budget::Rank(rank) => chain.cap(rank),
        Budget::Params(share) => {
            // The largest cap that fits.
            let most = share * meta.len() as f64;
            let (mut low, mut high) = (1, (1..chain.len()).map(|j| chain.full_rank(j)).max());
            while let Some(h) = high.filter(|h| *h > low) {
                let middle = low + (h - low).div_ceil(2);
                chain.cap(middle);
                match chain.params() as f64 <= most {
                    true => low = middle,
                    false => high = Some(middle - 1),
                }
            }
            chain.cap(low);
        }
        Budget::Error(_) => {}
    }
    let allowed = match budget {
        Budget::Error(error) => error * error * total,
        _ => 0.0,
    };
    let n = chain.len();
    let mut rest = digits(values, &chain);
    let mut cores = Vec::with_capacity(n);
    let (mut left, mut norm) = (0.0f64, total);
    for j in 0..n - 1 {
        context.check_cancel()?;
        let height = chain.ranks[j] * chain.sites[j].o * chain.sites[j].i;
        let width = rest.len() / height;
        if !matches!(budget, Budget::Error(_)) && chain.ranks[j + 1] == height {
            // Nothing is cut: the site passes its digits on.
            cores.push(
                (0..height * height)
                    .map(|k| f32::from(u8::from(k % (height + 1) == 0)))
                    .collect(),
            );
            continue;
        }
        let unfolded = linalg::by_rows(&rest, height, width);
        let tail = (allowed - left).max(0.0) / (n - 1 - j) as f64;
        let (found, rank) = match budget {
            Budget::Error(_) => {
                let found = linalg::svd_to_tail(unfolded, norm, tail)?;
                let rank = linalg::rank_for_tail(&found.s, norm, tail);
                let rank = rank.unwrap_or(found.s.len());
                (found, rank)
            }
            _ => {
                let found = linalg::truncated_svd(unfolded, chain.ranks[j + 1])?;
                let rank = found.s.len().min(chain.ranks[j + 1]);
                (found, rank)
            }
        };
        // A remainder of zeros, after a rank-deficient cut, still has one row.
        let rank = rank.max(1);
        chain.ranks[j + 1] = rank;
        let kept = rank.min(found.s.len());
        let mut core = vec![0.0f32; height * rank];
        let mut next = vec![0.0f32; rank * width];
        for k in 0..kept {
            for (row, x) in found.u.col_as_slice(k).iter().enumerate() {
                core[row * rank + k] = *x;
            }
            let s = found.s[k] as f32;
            for (y, x) in next[k * width..].iter_mut().zip(found.v.col_as_slice(k)) {
                *y = x * s;
            }
        }
        let held = linalg::norm_squared(&next);
        left += (norm - held).max(0.0);
        norm = held;
        cores.push(core);
        rest = next;
    }
    cores.push(rest);
    spread(&mut cores);
    let backward = Chain {
        reversed: true,
        ..chain.clone()
    };
    if backward.macs() < chain.macs() {
        chain = backward;
    }
    Ok(Train { chain, cores, left })
}

/// Shares the size of the last core, which has the tensor's norm, among all by powers of
/// two.
fn spread(cores: &mut [Vec<f32>]) {
    let Some((last, others)) = cores.split_last_mut() else {
        return;
    };
    let max = last.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    let exponent = linalg::binary_scale(max).log2() as i32 / (others.len() as i32 + 1);
    for core in others.iter_mut() {
        scale(core, 2.0f32.powi(exponent));
    }
    scale(last, 2.0f32.powi(-exponent * others.len() as i32));
}

/// The numbers in order of the sites' digits, `(o_1 i_1)(o_2 i_2)…`.
fn digits(values: &[f32], chain: &Chain) -> Vec<f32> {
    let axes = Axes { chain, batch: 1 };
    let from: Vec<Axis> = (0..chain.len())
        .map(Axis::Row)
        .chain((0..chain.len()).map(Axis::Col))
        .collect();
    let to: Vec<Axis> = (0..chain.len())
        .flat_map(|j| [Axis::Row(j), Axis::Col(j)])
        .collect();
    let mut out = vec![0.0; values.len()];
    axes.permute(values, &from, &to, &mut out);
    out
}

impl Train {
    fn form(self, meta: Meta, multiplier: f32, spec: &Spec, context: &EncodeContext) -> Result<Tt> {
        let chain = self.chain;
        let mut cores = Vec::with_capacity(chain.len());
        for (j, core) in self.cores.iter().enumerate() {
            context.check_cancel()?;
            let axes = Axes {
                chain: &chain,
                batch: 1,
            };
            let (first, second) = match chain.reversed {
                false => (Axis::Rank(j + 1), Axis::Rank(j)),
                true => (Axis::Rank(j), Axis::Rank(j + 1)),
            };
            let from = [Axis::Rank(j), Axis::Row(j), Axis::Col(j), Axis::Rank(j + 1)];
            let to = [Axis::Row(j), first, second, Axis::Col(j)];
            let mut values = vec![0.0; core.len()];
            axes.permute(core, &from, &to, &mut values);
            let form = encode::part(&values, &chain.shape(j), spec, context);
            cores.push(form.map_err(|e| e.context(NAMES[j]))?);
        }
        Ok(Tt {
            meta,
            chain,
            multiplier,
            cores,
        })
    }
}

/// An index of an array that is on its way through the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Axis {
    Batch,
    Row(usize),
    Col(usize),
    /// The bond before this site.
    Rank(usize),
}

struct Axes<'a> {
    chain: &'a Chain,
    batch: usize,
}

impl Axes<'_> {
    fn size(&self, axis: Axis) -> usize {
        match axis {
            Axis::Batch => self.batch,
            Axis::Row(j) => self.chain.sites[j].o,
            Axis::Col(j) => self.chain.sites[j].i,
            Axis::Rank(j) => self.chain.ranks[j],
        }
    }

    fn len(&self, axes: &[Axis]) -> usize {
        let sizes = axes.iter().map(|a| self.size(*a));
        sizes.fold(1, |n: usize, size| n.saturating_mul(size))
    }

    /// Copies `src`, row-major in the axes `from`, to `dst`, row-major in `to`.
    fn permute(&self, src: &[f32], from: &[Axis], to: &[Axis], dst: &mut [f32]) {
        // Size and stride in the source of each axis of the result; those that lie
        // together in both are one.
        let mut dims: Vec<(usize, usize)> = Vec::new();
        for axis in to {
            let size = self.size(*axis);
            if size == 1 {
                continue;
            }
            let after = from
                .iter()
                .position(|a| a == axis)
                .map_or(&[][..], |p| &from[p + 1..]);
            let stride = self.len(after);
            match dims.last_mut() {
                Some((n, s)) if *s == size * stride => (*n, *s) = (*n * size, stride),
                _ => dims.push((size, stride)),
            }
        }
        copy_strided(src, &dims, dst);
    }

    /// What enters the site: everything that it does not touch, and its columns.
    fn before(&self, j: usize) -> Vec<Axis> {
        let mut axes = self.untouched(j);
        axes.extend([Axis::Rank(self.entry(j)), Axis::Col(j)]);
        axes
    }

    /// What leaves it.
    fn after(&self, j: usize) -> Vec<Axis> {
        let mut axes = self.untouched(j);
        axes.extend([Axis::Row(j), Axis::Rank(self.exit(j))]);
        axes
    }

    fn untouched(&self, j: usize) -> Vec<Axis> {
        let n = self.chain.len();
        let (done, left) = match self.chain.reversed {
            false => (0..j, j + 1..n),
            true => (j + 1..n, 0..j),
        };
        let mut axes = vec![Axis::Batch];
        axes.extend(done.map(Axis::Row));
        axes.extend(left.map(Axis::Col));
        axes
    }

    /// The bond over which the product comes to a site, and the one over which it leaves.
    fn entry(&self, j: usize) -> usize {
        j + usize::from(self.chain.reversed)
    }

    fn exit(&self, j: usize) -> usize {
        j + usize::from(!self.chain.reversed)
    }

    fn inputs(&self) -> Vec<Axis> {
        let cols = (0..self.chain.len()).map(Axis::Col);
        std::iter::once(Axis::Batch).chain(cols).collect()
    }

    fn outputs(&self) -> Vec<Axis> {
        let rows = (0..self.chain.len()).map(Axis::Row);
        std::iter::once(Axis::Batch).chain(rows).collect()
    }

    /// Numbers of the largest array on the way.
    fn largest(&self) -> usize {
        let sites = 0..self.chain.len();
        let sizes = sites.flat_map(|j| [self.len(&self.before(j)), self.len(&self.after(j))]);
        sizes.max().unwrap_or(1)
    }
}

/// Fills `dst` in order from `src` at the strides given with each size.
fn copy_strided(src: &[f32], dims: &[(usize, usize)], dst: &mut [f32]) {
    match *dims {
        [] => {
            if let (Some(d), Some(s)) = (dst.first_mut(), src.first()) {
                *d = *s;
            }
        }
        [(n, 1)] => dst.copy_from_slice(&src[..n]),
        [(_, stride)] => {
            for (d, s) in dst.iter_mut().zip(src.iter().step_by(stride)) {
                *d = *s;
            }
        }
        // Columns to rows: in squares, so that lines of either side are used up.
        [(rows, 1), (cols, stride)] => {
            const SQUARE: usize = 16;
            for r0 in (0..rows).step_by(SQUARE) {
                let r1 = (r0 + SQUARE).min(rows);
                for c0 in (0..cols).step_by(SQUARE) {
                    let c1 = (c0 + SQUARE).min(cols);
                    for r in r0..r1 {
                        let out = &mut dst[r * cols + c0..r * cols + c1];
                        for (k, d) in out.iter_mut().enumerate() {
                            *d = src[r + (c0 + k) * stride];
                        }
                    }
                }
            }
        }
        [(n, stride), ..] => {
            let each = dst.len() / n;
            for (i, d) in dst.chunks_exact_mut(each).enumerate() {
                copy_strided(&src[i * stride..], &dims[1..], d);
            }
        }
    }
}

#[derive(Debug)]
struct Tt {
    meta: Meta,
    chain: Chain,
    multiplier: f32,
    cores: Vec<Box<dyn Form>>,
}

fn open(mut stored: Stored) -> Result<Box<dyn Form>> {
    let meta = stored.meta.clone();
    if !meta.dtype.is_float() {
        return Err(Error::corrupt(format!("cores of a {} tensor", meta.dtype)));
    }
    let list = |name: &str, most: usize| -> Result<Vec<usize>> {
        let bad = || Error::corrupt(format!("parameter '{name}' is not a list of sizes"));
        let values = stored.params.get(name).and_then(Value::as_array);
        let values = values.filter(|v| v.len() <= most).ok_or_else(bad)?;
        let sizes = values
            .iter()
            .map(|v| v.as_u64().and_then(|v| v.try_into().ok()));
        sizes.collect::<Option<_>>().ok_or_else(bad)
    };
    let rows = list("rows", MAX_MODES)?;
    let cols = list("cols", MAX_MODES)?;
    let ranks = list("ranks", 2 * MAX_MODES)?;
    let whole = !meta.is_empty() || (rows.len() == 1 && cols.len() == 1);
    let fits = |modes: &[usize], n: usize| element_count(modes).ok() == Some(n);
    if !fits(&rows, meta.rows) || !fits(&cols, meta.cols) || !whole {
        return Err(Error::corrupt(format!(
            "modes {rows:?} and {cols:?} of a {} × {} matrix",
            meta.rows, meta.cols
        )));
    }
    let separate = match stored.text("order")? {
        "interleaved" => false,
        "separate" => true,
        other => return Err(Error::corrupt(format!("'{other}' is no order of modes"))),
    };
    let mut chain = Chain::new(rows, cols, separate);
    chain.reversed = stored.flag("reversed")?;
    if ranks.len() + 1 != chain.len() {
        return Err(Error::corrupt(format!(
            "{} ranks between {} cores",
            ranks.len(),
            chain.len()
        )));
    }
    for (j, rank) in ranks.into_iter().enumerate() {
        if !(1..=chain.full_rank(j + 1)).contains(&rank) {
            return Err(Error::corrupt(format!("a rank of {rank} after core {j}")));
        }
        chain.ranks[j + 1] = rank;
    }
    let multiplier = stored.float("multiplier")?;
    let mut cores = Vec::with_capacity(chain.len());
    for (j, name) in NAMES[..chain.len()].iter().enumerate() {
        let core = stored.form(name)?;
        check_factor(name, &*core, chain.shape(j))?;
        cores.push(core);
    }
    Ok(Box::new(Tt {
        meta,
        chain,
        multiplier,
        cores,
    }))
}

/// Bytes of an array on its way through the chain that stay in the second cache.
const CACHED: usize = 1 << 20;

impl Tt {
    /// Whether a product goes through the chain: else W is decoded by windows.
    fn by_cores(&self, batch: usize, product: &Product<'_>) -> bool {
        let dense = self.meta.rows as u128 * self.meta.cols as u128;
        let (chain, batch) = (u128::from(self.chain.macs()), batch as u128);
        self.between() <= product.scratch_bytes
            && batch * chain <= self.chain.decode_macs().saturating_add(batch * dense)
    }

    /// Bytes of the largest array between two cores, for one row of x.
    fn between(&self) -> usize {
        let one = Axes {
            chain: &self.chain,
            batch: 1,
        };
        one.largest().saturating_mul(4)
    }

    /// Cuts the batch so that what is between two cores stays in cache and under the
    /// scratch limit, and runs the pieces side by side.
    fn in_pieces(
        &self,
        (x, width_in): (&[f32], usize),
        (y, width_out): (&mut [f32], usize),
        product: &Product<'_>,
        run: impl Fn(&[f32], usize, &mut [f32], &Product<'_>) -> Result<()> + Sync,
    ) -> Result<()> {
        let batch = x.len() / width_in;
        let bytes = self.between();
        let workers = product.workers(self.chain.macs().saturating_mul(batch as u64));
        // Two arrays a worker, and room for the cores' own windows.
        let fits = (product.scratch_bytes / 2 / bytes.saturating_mul(2)).max(1);
        let workers = workers.min(fits).max(1);
        let piece = (CACHED / bytes).min(fits / workers).clamp(1, batch);
        let pieces = batch.div_ceil(piece);
        if workers == 1 || pieces == 1 {
            let pieces = x
                .chunks(piece * width_in)
                .zip(y.chunks_mut(piece * width_out));
            return pieces
                .into_iter()
                .try_for_each(|(x, y)| run(x, x.len() / width_in, y, product));
        }
        let inner = Product {
            threads: 1,
            scratch_bytes: product.scratch_bytes / 2 / workers,
            ..*product
        };
        x.par_chunks(piece * width_in)
            .zip(y.par_chunks_mut(piece * width_out))
            .with_min_len(pieces.div_ceil(workers))
            .try_for_each(|(x, y)| run(x, x.len() / width_in, y, &inner))
    }

    fn forward(&self, x: &[f32], batch: usize, y: &mut [f32], product: &Product<'_>) -> Result<()> {
        let axes = Axes {
            chain: &self.chain,
            batch,
        };
        let (mut state, mut other) = (Vec::new(), Vec::new());
        let mut at = axes.inputs();
        for (step, j) in self.chain.order().into_iter().enumerate() {
            let (before, after) = (axes.before(j), axes.after(j));
            resize(&mut other, axes.len(&before))?;
            axes.permute(if step == 0 { x } else { &state }, &at, &before, &mut other);
            resize(&mut state, axes.len(&after))?;
            let wide = self.cores[j].meta().cols;
            product.matmul(&*self.cores[j], &other, other.len() / wide, &mut state)?;
            at = after;
        }
        axes.permute(&state, &at, &axes.outputs(), y);
        scale(y, self.multiplier);
        Ok(())
    }

    fn backward(
        &self,
        g: &[f32],
        batch: usize,
        y: &mut [f32],
        product: &Product<'_>,
    ) -> Result<()> {
        let axes = Axes {
            chain: &self.chain,
            batch,
        };
        let (mut state, mut other) = (Vec::new(), Vec::new());
        let mut at = axes.outputs();
        for (step, j) in self.chain.order().into_iter().rev().enumerate() {
            let (before, after) = (axes.before(j), axes.after(j));
            resize(&mut other, axes.len(&after))?;
            axes.permute(if step == 0 { g } else { &state }, &at, &after, &mut other);
            resize(&mut state, axes.len(&before))?;
            let tall = self.cores[j].meta().rows;
            product.matmul_t(&*self.cores[j], &other, other.len() / tall, &mut state)?;
            at = before;
        }
        axes.permute(&state, &at, &axes.inputs(), y);
        scale(y, self.multiplier);
        Ok(())
    }

    /// The first of the digits of site `j` that rows of a window have, and how many follow
    /// it, the highest being followed by 0.
    fn digits_of(&self, j: usize, rows: &Range<usize>) -> (usize, usize) {
        let stride: usize = self.chain.sites[j + 1..].iter().map(|s| s.o).product();
        let o = self.chain.sites[j].o;
        let (first, last) = (rows.start / stride, (rows.end - 1) / stride);
        (first % o, (last - first + 1).min(o))
    }

    /// Rows of a core's part for one digit.
    fn rows_per_digit(&self, j: usize) -> usize {
        self.chain.shape(j)[0] / self.chain.sites[j].o
    }

    /// Numbers of the arrays that decoding takes: opened cores at most, what stands
    /// before each site of the head, what the tail comes to, twice, and one row.
    fn decode_sizes(&self, rows: usize) -> [usize; 4] {
        let chain = &self.chain;
        let (head, n) = (chain.head(), chain.len());
        let mut sizes = [0usize, 1, 0, 1];
        let (mut stride, mut cols) = (1usize, 1usize);
        for j in (0..n).rev() {
            let [tall, wide] = chain.shape(j);
            let o = chain.sites[j].o;
            let digits = rows.div_ceil(stride).saturating_add(1).min(o);
            sizes[0] = sizes[0].saturating_add((tall / o.max(1) * digits).saturating_mul(wide));
            stride = stride.saturating_mul(o.max(1));
        }
        for j in 0..head {
            cols = cols.saturating_mul(chain.sites[j].i);
            sizes[1] = sizes[1].saturating_add(cols.saturating_mul(chain.ranks[j + 1]));
            sizes[3] = cols.saturating_mul(chain.ranks[j + 1]);
        }
        let mut tail = 1usize;
        for j in (head..n).rev() {
            tail = tail.saturating_mul(chain.sites[j].i);
            sizes[2] = sizes[2].max(tail.saturating_mul(chain.ranks[j]));
        }
        sizes[2] = sizes[2].saturating_mul(2);
        sizes
    }

    /// Coefficients of a core's slice: `new[a][c][p] = Σ_b G(a, b, c)·old[b][p]`, where b
    /// is the bond before the site in the head and the one after it in the tail.
    fn extend(&self, j: usize, head: bool, slice: &[f32], old: &[f32], new: &mut [f32]) {
        let chain = &self.chain;
        let i = chain.sites[j].i;
        let (na, nb) = match head {
            true => (chain.ranks[j + 1], chain.ranks[j]),
            false => (chain.ranks[j], chain.ranks[j + 1]),
        };
        // Rows of the part are the bond after the site, or before it if reversed.
        let rows_are_new = head != chain.reversed;
        let p = old.len() / nb;
        new.fill(0.0);
        for (a, new) in new.chunks_exact_mut(i * p).enumerate() {
            for (b, old) in old.chunks_exact(p).enumerate() {
                let at = match rows_are_new {
                    true => a * nb + b,
                    false => b * na + a,
                };
                let slice = &slice[at * i..(at + 1) * i];
                if i * p == 1 {
                    new[0] += slice[0] * old[0];
                    continue;
                }
                if p == 1 {
                    kernels().add_scaled(old[0], slice, new);
                    continue;
                }
                for (g, new) in slice.iter().zip(new.chunks_exact_mut(p)) {
                    kernels().add_scaled(*g, old, new);
                }
            }
        }
    }

    fn decode(
        &self,
        rows: Range<usize>,
        out: &mut [f32],
        floats: &mut [f32],
        scratch: &mut Scratch,
    ) -> Result<()> {
        let chain = &self.chain;
        let (n, head, cols) = (chain.len(), chain.head(), self.meta.cols);
        let [cores_len, stack_len, tail_len, _] = self.decode_sizes(rows.len());
        let (opened, rest) = floats.split_at_mut(cores_len);
        let (stack, rest) = rest.split_at_mut(stack_len);
        let (tail, natural) = rest.split_at_mut(tail_len);

        // Open the cores, for the digits of the window only.
        let mut slices = Vec::with_capacity(n);
        let mut rest = opened;
        for (j, core) in self.cores.iter().enumerate() {
            let (first, count) = self.digits_of(j, &rows);
            let (o, each) = (chain.sites[j].o, self.rows_per_digit(j));
            let len = each * core.meta().cols;
            let (slice, more) = rest.split_at_mut(count * len);
            let high = count.min(o - first);
            let (above, below) = slice.split_at_mut(high * len);
            core.decode_f32(first * each..(first + high) * each, above, scratch.nested())?;
            core.decode_f32(0..(count - high) * each, below, scratch.nested())?;
            slices.push((first, len, &*slice));
            rest = more;
        }

        // The tail, the same for every row: S[rank][columns of the tail].
        let (mut new, mut old) = tail.split_at_mut(tail_len / 2);
        let mut len = 1;
        if head < n {
            old[0] = 1.0;
            for j in (head..n).rev() {
                let next = len / chain.ranks[j + 1] * chain.ranks[j] * chain.sites[j].i;
                self.extend(j, false, slices[j].2, &old[..len], &mut new[..next]);
                (new, old, len) = (old, new, next);
            }
        }
        let tail = &old[..if head < n { len } else { 0 }];

        // The head: one array a site, kept while the row's digits up to it stay.
        stack[0] = 1.0;
        let mut places = vec![0..1usize];
        for j in 0..head {
            let last = &places[j];
            let len = last.len() / chain.ranks[j] * chain.ranks[j + 1] * chain.sites[j].i;
            places.push(last.end..last.end + len);
        }
        let axes = Axes { chain, batch: 1 };
        let bond = Axis::Rank(head);
        let from: Vec<Axis> = std::iter::once(bond)
            .chain((0..head).rev().map(Axis::Col))
            .collect();
        let to: Vec<Axis> = std::iter::once(bond)
            .chain((0..head).map(Axis::Col))
            .collect();
        let mut before: Option<usize> = None;
        for (row, out) in rows.zip(out.chunks_exact_mut(cols)) {
            let mut stride: usize = self.meta.rows;
            for j in 0..head {
                let o = chain.sites[j].o;
                stride /= o;
                if before.is_some_and(|b| b / stride == row / stride) {
                    continue;
                }
                let (first, len, slice) = slices[j];
                let digit = (row / stride % o + o - first) % o;
                let (done, rest) = stack.split_at_mut(places[j + 1].start);
                let new = &mut rest[..places[j + 1].len()];
                let slice = &slice[digit * len..(digit + 1) * len];
                self.extend(j, true, slice, &done[places[j].clone()], new);
            }
            before = Some(row);
            let made = &stack[places[head].clone()];
            if tail.is_empty() {
                axes.permute(made, &from, &to, out);
            } else {
                let bonds = chain.ranks[head];
                let (columns, wide) = (made.len() / bonds, tail.len() / bonds);
                let natural = &mut natural[..made.len()];
                axes.permute(made, &from, &to, natural);
                out.fill(0.0);
                for (p, out) in out.chunks_exact_mut(wide).enumerate() {
                    for (r, tail) in tail.chunks_exact(wide).enumerate() {
                        kernels().add_scaled(natural[r * columns + p], tail, out);
                    }
                }
            }
            scale(out, self.multiplier);
        }
        Ok(())
    }
}

/// The right length, without room to spare.
fn resize(values: &mut Vec<f32>, len: usize) -> Result<()> {
    if values.capacity() < len {
        *values = Vec::new();
        values.try_reserve_exact(len).map_err(|_| {
            let text = format!("{len} numbers between the cores of a tensor train");
            Error::new(ErrorKind::OutOfMemory, text)
        })?;
    }
    values.resize(len, 0.0);
    Ok(())
}

impl Form for Tt {
    fn kind(&self) -> &'static str {
        DEF.kind
    }

    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn params(&self) -> Map<String, Value> {
        let chain = &self.chain;
        let ranks = &chain.ranks[1..chain.len()];
        let order = if chain.separate {
            "separate"
        } else {
            "interleaved"
        };
        let mut params = Map::new();
        params.insert("rows".into(), chain.rows.clone().into());
        params.insert("cols".into(), chain.cols.clone().into());
        params.insert("order".into(), order.into());
        params.insert("reversed".into(), chain.reversed.into());
        params.insert("ranks".into(), ranks.to_vec().into());
        params.insert("multiplier".into(), f64::from(self.multiplier).into());
        params
    }

    fn parts(&self) -> Vec<(&'static str, Part<'_>)> {
        let cores = self.cores.iter().map(|c| Part::Form(&**c));
        NAMES.into_iter().zip(cores).collect()
    }

    fn map_buffers(&self, f: &mut dyn FnMut(&Buffer) -> Result<Buffer>) -> Result<Box<dyn Form>> {
        let cores = self.cores.iter().map(|c| c.map_buffers(f));
        Ok(Box::new(Self {
            meta: self.meta.clone(),
            chain: self.chain.clone(),
            multiplier: self.multiplier,
            cores: cores.collect::<Result<_>>()?,
        }))
    }

    fn is_exact(&self) -> bool {
        false
    }

    fn row_unit(&self) -> usize {
        WINDOW.min(self.meta.rows.max(1))
    }

    fn least_rows(&self) -> usize {
        1
    }

    fn scratch_for(&self, rows: usize) -> usize {
        let floats = self
            .decode_sizes(rows)
            .iter()
            .fold(0, |a: usize, b| a.saturating_add(*b));
        let cores = self.cores.iter().map(|c| c.scratch_for(c.meta().rows));
        let cores = cores.max().unwrap_or(0);
        floats.saturating_mul(4).saturating_add(cores)
    }

    fn decode_f32(&self, rows: Range<usize>, out: &mut [f32], scratch: &mut Scratch) -> Result<()> {
        if out.is_empty() {
            return Ok(());
        }
        let mut floats = std::mem::take(&mut scratch.floats);
        let sizes = self.decode_sizes(rows.len());
        let len = sizes.iter().fold(0, |a: usize, b| a.saturating_add(*b));
        let result = resize(&mut floats, len)
            .and_then(|()| self.decode(rows, out, &mut floats[..len], scratch));
        scratch.floats = floats;
        result
    }

    fn matmul(&self, x: &[f32], batch: usize, y: &mut [f32], product: &Product<'_>) -> Result<()> {
        if !self.by_cores(batch, product) {
            return product.by_rows(self, x, batch, y);
        }
        let (rows, cols) = (self.meta.rows, self.meta.cols);
        self.in_pieces((x, cols), (y, rows), product, |x, batch, y, product| {
            self.forward(x, batch, y, product)
        })
    }

    fn matmul_t(
        &self,
        g: &[f32],
        batch: usize,
        y: &mut [f32],
        product: &Product<'_>,
    ) -> Result<()> {
        if !self.by_cores(batch, product) {
            return product.by_rows_t(self, g, batch, y);
        }
        let (rows, cols) = (self.meta.rows, self.meta.cols);
        self.in_pieces((g, rows), (y, cols), product, |g, batch, y, product| {
            self.backward(g, batch, y, product)
        })
    }

    fn matmul_macs(&self) -> u64 {
        let dense = self.meta.rows as u64 * self.meta.cols as u64;
        self.chain.macs().min(dense)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calibration::Moments;
    use crate::dtype::DType;
    use crate::form::{StoredPart, Tensor, parse};
    use crate::matmul::MatmulOptions;

    fn numbers(n: usize, seed: u64) -> Vec<f32> {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        (0..n)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 40) as f32 / (1 << 23) as f32 - 1.0
            })
            .collect()
    }

    fn tensor(values: &[f32], shape: &[usize], spec: &str) -> Result<Tensor> {
        let view = View::new(DType::F32, shape, bytemuck::cast_slice(values))?;
        encode::encode(&view, &parse(spec)?, &EncodeContext::default())
    }

    fn param(t: &Tensor, name: &str) -> String {
        t.form().params()[name].to_string()
    }

    /// The Kronecker product of `a[m, n]` and `b[p, q]`.
    fn kronecker(a: &[f32], [m, n]: [usize; 2], b: &[f32], [p, q]: [usize; 2]) -> Vec<f32> {
        let mut w = Vec::with_capacity(a.len() * b.len());
        for r in 0..m * p {
            for c in 0..n * q {
                w.push(a[r / p * n + c / q] * b[r % p * q + c % q]);
            }
        }
        w
    }

    #[test]
    fn sizes_are_cut_into_like_factors() {
        assert_eq!(factors(4096, 3), [16, 16, 16]);
        assert_eq!(factors(384, 3), [6, 8, 8]);
        assert_eq!(factors(1536, 3), [8, 12, 16]);
        assert_eq!(factors(97, 3), [97]);
        assert_eq!(factors(194, 2), [2, 97]);
        assert_eq!(factors(1, 2), [1]);
        for n in 1..200 {
            assert_eq!(factors(n, 4).iter().product::<usize>(), n);
        }
        assert_eq!([1, 300, 4096, 1 << 20].map(mode_count), [2, 2, 3, 4]);
    }

    #[test]
    fn at_full_rank_every_order_is_exact_and_products_agree() {
        for (rows, cols, modes) in [
            (24, 60, "rows=2x3x4, cols=5x4x3"),
            (60, 24, "rows=5x4x3, cols=2x3x4"),
            (30, 8, "rows=30, cols=2x2x2"),
            (8, 30, "rows=2x2x2, cols=30"),
            (36, 35, "rows=6x6, cols=auto"),
            (1, 48, "cols=4x12"),
            (48, 1, "rows=4x12"),
        ] {
            let w = numbers(rows * cols, 5);
            for order in ["interleaved", "separate", "auto"] {
                let spec = format!("tt(rank=9999, {modes}, order={order})");
                let t = tensor(&w, &[rows, cols], &spec).unwrap();
                assert!(t.error().relative < 1e-6, "{spec}: {:?}", t.error());
                for spec in [spec.replace("9999", "5"), spec] {
                    let t = tensor(&w, &[rows, cols], &spec).unwrap();
                    let mut decoded = vec![0.0f32; rows * cols];
                    t.decode_rows_f32(0..rows, &mut decoded).unwrap();
                    for batch in [1, 5] {
                        let x = numbers(batch * cols, 7);
                        let mut y = vec![f32::NAN; batch * rows];
                        let options = MatmulOptions::default();
                        t.matmul(&x, batch, &mut y, &options).unwrap();
                        let mut by_rows = vec![f32::NAN; batch * rows];
                        kernels().dense_matmul(&decoded, &x, cols, &mut by_rows);
                        for (a, b) in y.iter().zip(&by_rows) {
                            assert!((a - b).abs() < 1e-4, "{spec} {batch}: {a} {b}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn the_chain_runs_the_cheaper_way() {
        let w = numbers(64 * 64, 1);
        // Column modes first: x gets smaller before it gets larger.
        let t = tensor(&w, &[64, 64], "tt(rank=3, order=separate)").unwrap();
        assert_eq!(param(&t, "reversed"), "true");
        for (modes, reversed) in [
            ("rows=2x32, cols=32x2", "false"),
            ("rows=32x2, cols=2x32", "true"),
        ] {
            let t = tensor(
                &w,
                &[64, 64],
                &format!("tt(rank=3, {modes}, order=interleaved)"),
            );
            assert_eq!(param(&t.unwrap(), "reversed"), reversed);
        }
        let mut chain = Chain::new(vec![64, 64], vec![64, 64], false);
        chain.cap(1);
        assert_eq!(chain.macs(), 1 << 19);
        assert_eq!(chain.params(), 8192);
        chain.cap(32);
        assert_eq!(chain.macs(), 4096 * 4096);
    }

    #[test]
    fn error_bounds_hold_and_structure_is_found() {
        // Two Kronecker products and a little noise.
        let (a, b) = (numbers(64, 1), numbers(12 * 15, 2));
        let (c, d) = (numbers(64, 3), numbers(12 * 15, 4));
        let mut w = kronecker(&a, [8, 8], &b, [12, 15]);
        let more = kronecker(&c, [8, 8], &d, [12, 15]);
        let noise = numbers(w.len(), 9);
        for ((w, m), n) in w.iter_mut().zip(&more).zip(&noise) {
            *w += 0.5 * m + 0.01 * n;
        }
        let modes = "rows=8x12, cols=8x15";
        let t = tensor(&w, &[96, 120], &format!("tt(error=5%, {modes})")).unwrap();
        assert_eq!(param(&t, "order"), "\"interleaved\"");
        assert_eq!(param(&t, "ranks"), "[2]");
        assert!(t.error().relative < 0.04);
        for error in [0.5, 0.1, 0.02, 0.001] {
            for order in ["auto", "interleaved", "separate"] {
                let spec = format!("tt(error={error}, order={order})");
                let t = tensor(&w, &[96, 120], &spec).unwrap();
                assert!(t.error().relative <= error, "{spec}");
            }
        }
        let spec = format!("tt(error=4%, {modes}, factors=[int8])");
        assert!(tensor(&w, &[96, 120], &spec).unwrap().error().relative <= 0.04);
        let spec = format!("tt(error=4%, {modes}, factors=[q(bits=3)])");
        let error = tensor(&w, &[96, 120], &spec).unwrap_err().to_string();
        assert!(error.contains("cannot be reached"), "{error}");

        let half = tensor(&w, &[96, 120], "tt(params=25%, factors=[f32])").unwrap();
        assert!(half.stored_bytes() <= (96 * 120 + 3 * 64) as u64);
        assert!(half.stored_bytes() > 96 * 120 * 3 / 4);
        assert!(tensor(&w, &[96, 120], "tt(rank=2, params=3%)").is_err());
        assert!(tensor(&w, &[96, 120], "tt(rows=8x8)").is_err());
    }

    #[test]
    fn moments_do_not_matter_and_scale_neither() {
        let w: Vec<f32> = kronecker(&numbers(16, 1), [4, 4], &numbers(30, 2), [6, 5]);
        let moments = Moments::from_diagonal(vec![1.0; 20]).unwrap();
        let context = EncodeContext {
            moments: Some(&moments),
            ..EncodeContext::default()
        };
        for scale in [1.0f32, 1e-38, 1e30] {
            let w: Vec<f32> = w.iter().map(|v| v * scale).collect();
            let view = View::new(DType::F32, &[24, 20], bytemuck::cast_slice(&w)).unwrap();
            let spec = parse("tt(rank=1, rows=4x6, cols=4x5, order=interleaved)").unwrap();
            let t = encode::encode(&view, &spec, &context).unwrap();
            assert!(t.error().relative < 1e-5, "{scale}: {:?}", t.error());
        }
    }

    #[test]
    fn what_is_stored_is_checked() {
        let open_with = |change: &dyn Fn(&mut Map<String, Value>), shape: [usize; 2]| {
            let of = |shape: [usize; 2]| {
                let values = vec![0.5f32; shape[0] * shape[1]];
                let spec = parse("dense").unwrap();
                let form = encode::part(&values, &shape, &spec, &EncodeContext::default());
                StoredPart::Form(form.unwrap())
            };
            let mut params = Map::new();
            params.insert("rows".into(), vec![4, 6].into());
            params.insert("cols".into(), vec![5, 2].into());
            params.insert("order".into(), "interleaved".into());
            params.insert("reversed".into(), false.into());
            params.insert("ranks".into(), vec![3].into());
            params.insert("multiplier".into(), 1.0.into());
            change(&mut params);
            open(Stored {
                meta: Meta::new(DType::F32, &[24, 10]).unwrap(),
                params,
                parts: vec![("core0".into(), of([12, 5])), ("core1".into(), of(shape))],
            })
        };
        let set = |name: &'static str, value: Value| {
            move |p: &mut Map<String, Value>| {
                p.insert(name.into(), value.clone());
            }
        };
        assert!(open_with(&|_| {}, [6, 6]).is_ok());
        assert!(open_with(&|_| {}, [6, 5]).is_err());
        for (name, value) in [
            ("rows", vec![4, 5].into()),
            ("rows", vec![4, 6, 1].into()),
            ("rows", vec![1u64 << 40, 1 << 40].into()),
            ("rows", "24".into()),
            ("cols", vec![1; 17].into()),
            ("cols", vec![10].into()),
            ("ranks", vec![0].into()),
            ("ranks", vec![4].into()),
            ("ranks", vec![13].into()),
            ("ranks", vec![3, 1].into()),
            ("reversed", true.into()),
            ("order", "separate".into()),
            ("order", "other".into()),
            ("multiplier", Value::Null),
        ] {
            let shown = format!("{name} {value}");
            let opened = open_with(&set(name, value), [6, 6]);
            // A row mode of one more changes nothing.
            assert_eq!(opened.is_ok(), shown == "rows [4,6,1]", "{shown}");
        }
    }
}
