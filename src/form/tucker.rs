//! `tucker`: a small core tensor and a factor per mode.
//!
//! * Exploits: correlation along each dimension of a tensor: channels of a convolution
//!   that are near combinations of a few. `W = multiplier · C ×₀ U₀ ×₁ U₁ …`, with a core
//!   `C[r_0, r_1, …]` and orthonormal `U_m[n_m, r_m]`. A mode of full rank has no factor:
//!   the core keeps it as it is, which is Tucker-2 where those are the kernel's.
//! * Layout: the modes are the tensor's dimensions (those past the eighth merged into
//!   one), or rows and columns with `modes=matrix`. `core`: a form of f32
//!   `[r_0, r_1·r_2·…]`. `factor0`: one of f32 `[n_0, r_0]`; `factor1` … `factor7`: of
//!   `[r_m, n_m]`, which is `U_mᵀ`; a factor is there if `r_m < n_m`. Parameters `modes`
//!   (the n), `ranks` (the r), `multiplier`, a power of two.
//! * Error: with `error` (10 % if nothing is asked for) at most that before core and
//!   factors are rounded by forms of their own; a core is fitted again to rounded factors.
//!   `‖W−Ŵ‖² = ‖W‖² − ‖C‖²`.
//! * Matmul: `x` is contracted with the factors of its modes, cheapest order first, then
//!   with the core and with `U₀`; where that costs more than a dense product the rows are
//!   decoded. A convolution `[o, i, k, k]` of ranks `[r, s, k, k]` costs
//!   `k²·s·(i + r) + r·o` multiplications.
//! * Loses: on weights without such structure: of transformer matrices (MiniLM) 30 % of
//!   the values leave an error of 61 – 64 %, where `int8` leaves 0.6 % in less. Encoding
//!   decomposes every unfolding: minutes for modes of several thousands.
//!
//! De Lathauwer, De Moor and Vandewalle 2000: the higher-order SVD and, from there,
//! alternating least squares (HOOI). For given ranks the start is the sequentially
//! truncated one (Vannieuwenhoven, Vandebril and Meerbergen 2012). Ranks for an error or
//! a size are searched on the core of the whole higher-order SVD, whose leading blocks
//! hold what each choice of ranks keeps.

use std::borrow::Cow;
use std::ops::Range;

use serde_json::{Map, Value};

use super::modes::{self, NAMES};
use super::{
    ADDED_MACS, EncodeContext, Form, FormDef, Meta, Part, Product, Scratch, Stored, encode, kernels,
};
use crate::error::{Error, Result};
use crate::linalg::{self, Mat, MatRef};
use crate::pack::Buffer;
use crate::spec::{self, Codec, Kind, OptionDef, Options};
use crate::tensor::View;

pub(super) static DEF: FormDef = FormDef {
    kind: "tucker",
    codecs: &[Codec {
        name: "tucker",
        summary: "a small core tensor and a factor for each mode",
        options: &[
            OptionDef {
                key: "ranks",
                aliases: &[],
                kind: Kind::Dims(&["auto"]),
                default: Some("auto"),
                doc: "rank of each mode, those not listed whole; auto: by error, 10% if none is given",
            },
            OptionDef {
                key: "rank",
                aliases: &[],
                kind: Kind::Integer(1, 1 << 20),
                default: None,
                doc: "largest rank of every mode",
            },
            OptionDef {
                key: "error",
                aliases: &[],
                kind: Kind::Share,
                default: None,
                doc: "largest relative error, with as few values as keep it",
            },
            OptionDef {
                key: "params",
                aliases: &[],
                kind: Kind::Share,
                default: None,
                doc: "share of the tensor's values that core and factors may hold",
            },
            OptionDef {
                key: "modes",
                aliases: &[],
                kind: Kind::Choice(&["shape", "matrix"]),
                default: Some("shape"),
                doc: "the tensor's dimensions, or rows and columns",
            },
            OptionDef {
                key: "factors",
                aliases: &[],
                kind: Kind::Spec,
                default: Some("dense"),
                doc: "how the factors are stored",
            },
            OptionDef {
                key: "core",
                aliases: &[],
                kind: Kind::Spec,
                default: Some("dense"),
                doc: "how the core is stored",
            },
        ],
    }],
    canonical: |_, options| {
        let listed = options.dims("ranks").is_some();
        let others = ["rank", "error", "params"].map(|key| options.given(key));
        let given = others.iter().filter(|g| **g).count() + usize::from(listed);
        if given > 1 {
            return Err(spec::at(
                options.column(),
                "tucker takes one of ranks, rank, error and params".into(),
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

/// Sweeps of the alternating least squares at most, and the change of the fit that ends
/// them.
const SWEEPS: usize = 10;
const LEAST_GAIN: f64 = 1e-6;

#[derive(Debug)]
struct Tucker {
    meta: Meta,
    modes: Vec<usize>,
    ranks: Vec<usize>,
    multiplier: f32,
    core: Box<dyn Form>,
    /// One per mode; `None` where the rank is full.
    factors: Vec<Option<Box<dyn Form>>>,
    /// Modes of `x` that have a factor, in the order in which they are contracted.
    order: Vec<usize>,
}

/// What the ranks are to reach.
#[derive(Clone, Copy, Debug)]
enum Goal {
    /// The fewest values that leave at most this share of the squared norm.
    Tail(f64),
    /// The least error with at most so many values.
    Values(usize),
}

/// Orthonormal columns for each mode of lower rank.
type Bases = Vec<Option<Mat<f32>>>;

fn encode_form(
    view: &View<'_>,
    codec: &'static Codec,
    options: &Options,
    context: &EncodeContext,
) -> Result<Box<dyn Form>> {
    let meta = Meta::new(view.dtype(), view.shape())?;
    encode::only_floats(codec.name, &meta)?;
    let factor_spec = modes::part_spec(options, "factors")?;
    let core_spec = modes::part_spec(options, "core")?;
    let (x, multiplier) = modes::normalised(view, context)?;
    let sizes = modes::of(&meta, options.text("modes") == Some("matrix"));

    let (ranks, start) = if meta.is_empty() {
        (sizes.clone(), None)
    } else if let Some(asked) = asked_ranks(options, &sizes) {
        (asked, None)
    } else {
        let goal = match options.number("params") {
            Some(share) => Goal::Values((share * meta.len() as f64) as usize),
            None => Goal::Tail(options.number("error").unwrap_or(DEFAULT_ERROR).powi(2)),
        };
        search(&x, &sizes, goal, context)?
    };
    let bases = match start {
        Some(start) => start,
        None => sequential(&x, &sizes, &ranks, context)?,
    };
    let mut bases = refine(&x, &sizes, &ranks, bases, context)?;

    let mut factors = Vec::with_capacity(sizes.len());
    for (mode, basis) in bases.iter_mut().enumerate() {
        let Some(u) = basis else {
            factors.push(None);
            continue;
        };
        let (n, r) = (sizes[mode], ranks[mode]);
        let (values, shape) = match mode {
            0 => (linalg::to_rows(u.as_ref()), [n, r]),
            _ => (linalg::to_rows(u.transpose()), [r, n]),
        };
        let form = encode::part(&values, &shape, &factor_spec, context)?;
        let stored = modes::decoded(&*form)?;
        if stored != values {
            // The core then is the least-squares one for the factor as it is stored.
            let stored = linalg::by_rows(&stored, shape[0], shape[1]);
            let stored = if mode == 0 {
                stored
            } else {
                stored.transpose()
            };
            *u = dual(stored)?;
        }
        factors.push(Some(form));
    }
    let core = core_of(&x, &sizes, &bases);
    let inner = ranks[1..].iter().product();
    let core = encode::part(&core, &[ranks[0], inner], &core_spec, context)?;
    Ok(Box::new(Tucker::new(
        meta, sizes, ranks, multiplier, core, factors,
    )))
}

/// The ranks of `ranks=` or `rank=`, cut to what can differ from zero.
fn asked_ranks(options: &Options, sizes: &[usize]) -> Option<Vec<usize>> {
    let listed = options.dims("ranks");
    let all = options.integer("rank");
    if listed.is_none() && all.is_none() {
        return None;
    }
    let asked = |mode: usize| match (&listed, all) {
        (Some(listed), _) => listed.get(mode).copied(),
        (None, all) => all.map(|n| n as usize),
    };
    let mut ranks: Vec<usize> = (0..sizes.len())
        .map(|m| asked(m).map_or(sizes[m], |r| r.min(sizes[m])))
        .collect();
    cut(&mut ranks, sizes);
    Some(ranks)
}

/// No mode's rank exceeds the product of the others'; whole modes stay whole.
fn cut(ranks: &mut [usize], sizes: &[usize]) {
    loop {
        let before = ranks.to_vec();
        for m in 0..ranks.len() {
            let (left, right) = modes::around(ranks, m);
            if ranks[m] < sizes[m] {
                ranks[m] = ranks[m].min(left.saturating_mul(right));
            }
        }
        if before == ranks {
            return;
        }
    }
}

/// Values of core and factors.
fn count(ranks: &[usize], sizes: &[usize]) -> usize {
    let core: usize = ranks.iter().product();
    let pairs = ranks.iter().zip(sizes);
    let factors = pairs.map(|(r, n)| if r < n { r * n } else { 0 });
    core + factors.sum::<usize>()
}

/// The ranks for a goal, and bases of that many columns where they were found on the way.
fn search(
    x: &[f32],
    sizes: &[usize],
    goal: Goal,
    context: &EncodeContext,
) -> Result<(Vec<usize>, Option<Bases>)> {
    if sizes[1..].iter().filter(|n| **n > 1).count() <= 1 {
        return matrix_search(x, sizes, goal).map(|ranks| (ranks, None));
    }
    // The whole higher-order SVD.
    let mut core = x.to_vec();
    let mut caps = sizes.to_vec();
    let mut bases = Vec::with_capacity(sizes.len());
    for mode in 0..sizes.len() {
        context.check_cancel()?;
        if sizes[mode] == 1 {
            bases.push(None);
            continue;
        }
        let unfolded = modes::unfold(x, sizes, mode);
        let n = sizes[mode];
        let u = linalg::left_singular(linalg::by_rows(&unfolded, n, x.len() / n), n)?;
        core = modes::project(&core, &mut caps, mode, u.as_ref());
        bases.push(Some(u));
    }
    let kept = Kept::new(&core, &caps);
    let ranks = choose(sizes, &caps, &kept, goal);
    let bases = bases.into_iter().zip(&ranks).zip(sizes);
    let bases = bases.map(|((u, r), n)| {
        let u = u.filter(|_| r < n)?;
        Some(u.as_ref().subcols(0, *r).to_owned())
    });
    let bases = bases.collect();
    Ok((ranks, Some(bases)))
}

/// Of a matrix: the rows have a factor and the core is the rest, or there is no factor.
fn matrix_search(x: &[f32], sizes: &[usize], goal: Goal) -> Result<Vec<usize>> {
    let (rows, cols) = (sizes[0], x.len() / sizes[0]);
    let rank = match goal {
        Goal::Values(most) if most >= x.len() => rows,
        Goal::Values(most) => most / (rows + cols),
        Goal::Tail(tail) => {
            let total = linalg::norm_squared(x);
            let found = linalg::svd_to_tail(linalg::by_rows(x, rows, cols), total, tail * total)?;
            let rank = linalg::rank_for_tail(&found.s, total, tail * total);
            rank.unwrap_or(found.s.len())
        }
    };
    let mut ranks = sizes.to_vec();
    ranks[0] = rank.clamp(1, rows);
    if matches!(goal, Goal::Tail(_)) && count(&ranks, sizes) >= x.len() {
        ranks[0] = rows;
    }
    cut(&mut ranks, sizes);
    Ok(ranks)
}

/// What the leading blocks of a core hold of the squared norm.
#[derive(Debug)]
struct Kept {
    dims: Vec<usize>,
    /// `Σ c²` over all indices up to the given one, in each mode.
    sums: Vec<f64>,
}

impl Kept {
    fn new(core: &[f32], dims: &[usize]) -> Self {
        let mut sums: Vec<f64> = core.iter().map(|v| f64::from(*v) * f64::from(*v)).collect();
        for mode in 0..dims.len() {
            let (_, after) = modes::around(dims, mode);
            for block in sums.chunks_exact_mut(dims[mode] * after) {
                for i in after..block.len() {
                    block[i] += block[i - after];
                }
            }
        }
        Self {
            dims: dims.to_vec(),
            sums,
        }
    }

    fn of(&self, ranks: &[usize]) -> f64 {
        let pairs = self.dims.iter().zip(ranks);
        let at = pairs.fold(0, |at, (n, r)| at * n + (*r).min(*n) - 1);
        self.sums[at]
    }
}

/// A choice of ranks, weighed against a goal.
struct Choice<'a> {
    sizes: &'a [usize],
    kept: &'a Kept,
    goal: Goal,
    total: f64,
}

impl Choice<'_> {
    /// Smaller is better; `None` if the goal is missed.
    fn weigh(&self, ranks: &[usize]) -> Option<(f64, f64)> {
        let tail = (self.total - self.kept.of(ranks)).max(0.0);
        let values = count(ranks, self.sizes);
        match self.goal {
            Goal::Tail(share) => (tail <= share * self.total).then_some((values as f64, tail)),
            Goal::Values(most) => (values <= most).then_some((tail, values as f64)),
        }
    }
}

/// Walks from full ranks down, each step giving up the least for each value saved, keeps
/// the best place on the way, and then tries its neighbours.
fn choose(sizes: &[usize], caps: &[usize], kept: &Kept, goal: Goal) -> Vec<usize> {
    let choice = Choice {
        sizes,
        kept,
        goal,
        total: kept.of(caps),
    };
    let mut ranks = sizes.to_vec();
    let mut best: Option<((f64, f64), Vec<usize>)> = None;
    let consider = |ranks: &[usize], best: &mut Option<((f64, f64), Vec<usize>)>| {
        let Some(weight) = choice.weigh(ranks) else {
            return false;
        };
        let better = best.as_ref().is_none_or(|(b, _)| weight < *b);
        if better {
            *best = Some((weight, ranks.to_vec()));
        }
        better
    };
    consider(&ranks, &mut best);
    loop {
        let here = kept.of(&ranks);
        let mut step: Option<(f64, usize, usize)> = None;
        for m in 0..ranks.len() {
            if ranks[m] == 1 {
                continue;
            }
            let next = (ranks[m] - 1).min(caps[m]);
            let (left, right) = modes::around(&ranks, m);
            let saved = (ranks[m] - next) as f64 * (sizes[m] as f64 + (left * right) as f64);
            let old = std::mem::replace(&mut ranks[m], next);
            let price = (here - kept.of(&ranks)) / saved;
            ranks[m] = old;
            if step.is_none_or(|(p, ..)| price < p) {
                step = Some((price, m, next));
            }
        }
        let Some((_, m, next)) = step else {
            break;
        };
        ranks[m] = next;
        consider(&ranks, &mut best);
    }
    // With `Goal::Values` below the least size there is no choice: all ranks are 1.
    let Some((_, mut ranks)) = best.clone() else {
        return ranks;
    };
    // A mode one up, one down or whole, alone or with one other: each gain is a step, and
    // there are finitely many.
    let moves = |m: usize, r: usize| {
        let steps = [r + 1, r.saturating_sub(1), sizes[m], caps[m]];
        steps.map(|r| r.clamp(1, sizes[m]))
    };
    for _ in 0..1000 {
        let start = ranks.clone();
        for a in 0..start.len() {
            for ra in moves(a, start[a]) {
                for b in a..start.len() {
                    for rb in moves(b, start[b]) {
                        let mut near = start.clone();
                        near[b] = rb;
                        near[a] = ra;
                        if consider(&near, &mut best)
                            && let Some((_, found)) = &best
                        {
                            ranks.clone_from(found);
                        }
                    }
                }
            }
        }
        if ranks == start {
            break;
        }
    }
    cut(&mut ranks, sizes);
    ranks
}

/// The sequentially truncated higher-order SVD for these ranks.
fn sequential(
    x: &[f32],
    sizes: &[usize],
    ranks: &[usize],
    context: &EncodeContext,
) -> Result<Bases> {
    let mut bases = Vec::with_capacity(sizes.len());
    let mut dims = sizes.to_vec();
    let mut left = Cow::Borrowed(x);
    for mode in 0..sizes.len() {
        context.check_cancel()?;
        let (n, r) = (sizes[mode], ranks[mode]);
        if r == n {
            bases.push(None);
            continue;
        }
        let unfolded = modes::unfold(&left, &dims, mode);
        let u = linalg::left_singular(linalg::by_rows(&unfolded, n, left.len() / n), r)?;
        let small = modes::project(&left, &mut dims, mode, u.as_ref());
        left = small.into();
        bases.push(Some(u));
    }
    Ok(bases)
}

/// The order in which a product along modes costs least: by `r·n / (n − r)`, as swapping
/// two neighbours shows.
fn cheapest(modes: &mut [usize], sizes: &[usize], ranks: &[usize]) {
    let key = |m: usize| {
        let (n, r) = (sizes[m] as f64, ranks[m] as f64);
        r * n / (n - r)
    };
    modes.sort_by(|a, b| key(*a).total_cmp(&key(*b)));
}

/// Alternating least squares: each basis in turn is the best for the others.
fn refine(
    x: &[f32],
    sizes: &[usize],
    ranks: &[usize],
    mut bases: Bases,
    context: &EncodeContext,
) -> Result<Bases> {
    let mut cut: Vec<usize> = (0..sizes.len()).filter(|m| bases[*m].is_some()).collect();
    let total = linalg::norm_squared(x);
    // With one basis there is nothing to alternate: it is the best.
    if cut.len() < 2 || total == 0.0 {
        return Ok(bases);
    }
    // While the modes of one half are fitted those of the other stand still: the products
    // with them are shared.
    let halves = cut.split_at(cut.len() / 2);
    let halves = [halves.0.to_vec(), halves.1.to_vec()];
    cheapest(&mut cut, sizes, ranks);
    let onto = |y: &[f32], dims: &mut [usize], bases: &Bases, wanted: &dyn Fn(usize) -> bool| {
        let mut y = Cow::Borrowed(y);
        for m in cut.iter().filter(|m| wanted(**m)) {
            if let Some(u) = &bases[*m] {
                y = modes::project(&y, dims, *m, u.as_ref()).into();
            }
        }
        y.into_owned()
    };
    let mut fit = f64::NEG_INFINITY;
    for _ in 0..SWEEPS {
        let mut kept = 0.0;
        for half in &halves {
            let mut half_dims = sizes.to_vec();
            let shared = onto(x, &mut half_dims, &bases, &|m| !half.contains(&m));
            for mode in half {
                context.check_cancel()?;
                let mut dims = half_dims.clone();
                let others = |m: usize| m != *mode && half.contains(&m);
                let y = onto(&shared, &mut dims, &bases, &others);
                let n = sizes[*mode];
                let unfolded = modes::unfold(&y, &dims, *mode);
                let unfolded = linalg::by_rows(&unfolded, n, y.len() / n);
                let u = linalg::left_singular(unfolded, ranks[*mode])?;
                let core = linalg::product(u.transpose(), unfolded);
                kept = linalg::norm_squared(&linalg::to_rows(core.as_ref()));
                bases[*mode] = Some(u);
            }
        }
        let now = 1.0 - ((total - kept).max(0.0) / total).sqrt();
        if (now - fit).abs() < LEAST_GAIN {
            break;
        }
        fit = now;
    }
    Ok(bases)
}

/// `U · (Uᵀ·U)⁻¹`: projecting with it is least squares for a basis that is not
/// orthonormal.
fn dual(u: MatRef<'_, f32>) -> Result<Mat<f32>> {
    let (n, r) = (u.nrows(), u.ncols());
    let gram = Mat::from_fn(r, r, |i, j| {
        let products = (0..n).map(|k| f64::from(u[(k, i)]) * f64::from(u[(k, j)]));
        products.sum::<f64>()
    });
    linalg::solve_gram(u, gram.as_ref())
}

/// `X` projected on all bases.
fn core_of(x: &[f32], sizes: &[usize], bases: &Bases) -> Vec<f32> {
    let mut dims = sizes.to_vec();
    let mut core = Cow::Borrowed(x);
    for (mode, u) in bases.iter().enumerate() {
        if let Some(u) = u {
            core = modes::project(&core, &mut dims, mode, u.as_ref()).into();
        }
    }
    core.into_owned()
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
    let ranks = modes::list(&stored, "ranks")?;
    let multiplier = stored.float("multiplier")?;
    // Not above the modes, so that no product of them overflows.
    let fits = ranks.len() == sizes.len() && ranks.iter().zip(&sizes).all(|(r, n)| r <= n);
    let some = meta.is_empty() || ranks.iter().all(|r| *r > 0);
    if !fits || !some || (meta.is_empty() && ranks != sizes) {
        return Err(Error::corrupt(format!(
            "ranks {ranks:?} of modes {sizes:?}"
        )));
    }
    let inner = ranks[1..].iter().product();
    let core = modes::stored_part(&mut stored, "core", ranks[0], inner)?;
    let mut factors = Vec::with_capacity(sizes.len());
    for (mode, (n, r)) in sizes.iter().zip(&ranks).enumerate() {
        let (rows, cols) = if mode == 0 { (*n, *r) } else { (*r, *n) };
        factors.push(match r < n {
            true => Some(modes::stored_part(&mut stored, NAMES[mode], rows, cols)?),
            false => None,
        });
    }
    Ok(Box::new(Tucker::new(
        meta, sizes, ranks, multiplier, core, factors,
    )))
}

impl Tucker {
    fn new(
        meta: Meta,
        modes: Vec<usize>,
        ranks: Vec<usize>,
        multiplier: f32,
        core: Box<dyn Form>,
        factors: Vec<Option<Box<dyn Form>>>,
    ) -> Self {
        let mut order: Vec<usize> = (1..modes.len()).filter(|m| factors[*m].is_some()).collect();
        cheapest(&mut order, &modes, &ranks);
        Self {
            meta,
            modes,
            ranks,
            multiplier,
            core,
            factors,
            order,
        }
    }

    /// Values per row between the core and each factor of the other modes, in the order of
    /// contraction: first `cols`, last the core's columns.
    fn sizes(&self) -> Vec<usize> {
        let mut size = self.meta.cols;
        let mut sizes = vec![size];
        for m in &self.order {
            size = size / self.modes[*m] * self.ranks[*m];
            sizes.push(size);
        }
        sizes
    }

    /// Multiplications of the chain of factors for one row of `x`.
    fn chain_macs(&self) -> u64 {
        let (rows, r) = (self.meta.rows as u64, self.ranks[0] as u64);
        let core = self.core.meta().len() as u64;
        let last = if r < rows { rows * r } else { 0 };
        self.modes_macs().saturating_add(core).saturating_add(last)
    }

    /// Multiplications of the factors of the modes of `x` for one row of it, or for one
    /// row of the tensor that is decoded.
    fn modes_macs(&self) -> u64 {
        let sizes = self.sizes();
        let steps = sizes.iter().zip(&self.order);
        let macs = steps.map(|(size, m)| (*size as u64).saturating_mul(self.ranks[*m] as u64));
        macs.fold(0, u64::saturating_add)
    }

    fn dense_macs(&self) -> u64 {
        self.meta.rows as u64 * self.meta.cols as u64
    }

    /// Multiplications that decode all rows.
    fn decoding(&self) -> u64 {
        let core = match self.factors[0] {
            Some(_) => self.core.meta().len() as u64,
            None => 0,
        };
        let row = self.modes_macs().saturating_add(core);
        (self.meta.rows as u64).saturating_mul(row)
    }

    /// Whether decoding the rows costs less than the chain for this batch.
    fn rather_dense(&self, batch: usize) -> bool {
        let batch = batch as u64;
        let decode = self.decoding().saturating_mul(ADDED_MACS);
        let dense = self.dense_macs().saturating_mul(batch);
        self.chain_macs().saturating_mul(batch) >= dense.saturating_add(decode)
    }

    /// Rows of `x` or `g` that go through the chain at a time.
    fn piece(&self, batch: usize, product: &Product<'_>) -> usize {
        let most = self
            .sizes()
            .into_iter()
            .max()
            .unwrap_or(0)
            .max(self.ranks[0]);
        let row = most.saturating_mul(3 * 4).max(1);
        (product.scratch_bytes / row).clamp(1, batch.max(1))
    }

    fn part(&self, mode: usize) -> Option<&dyn Form> {
        self.factors[mode].as_deref()
    }

    /// `y = x · Wᵀ` without the multiplier.
    fn forward(&self, x: &[f32], batch: usize, y: &mut [f32], product: &Product<'_>) -> Result<()> {
        let mut axes = Axes::new(batch, &self.modes[1..]);
        let mut t = Cow::Borrowed(x);
        for m in &self.order {
            let Some(factor) = self.part(*m) else {
                continue;
            };
            axes.bring_last(*m, &mut t);
            let outer = t.len() / self.modes[*m];
            let mut out = vec![0.0; outer * self.ranks[*m]];
            product.matmul(factor, &t, outer, &mut out)?;
            axes.resize_last(self.ranks[*m]);
            t = out.into();
        }
        axes.sort(&mut t);
        match self.part(0) {
            None => product.matmul(&*self.core, &t, batch, y),
            Some(factor) => {
                let mut out = vec![0.0; batch * self.ranks[0]];
                product.matmul(&*self.core, &t, batch, &mut out)?;
                product.matmul(factor, &out, batch, y)
            }
        }
    }

    /// `y = g · W` without the multiplier.
    fn backward(
        &self,
        g: &[f32],
        batch: usize,
        y: &mut [f32],
        product: &Product<'_>,
    ) -> Result<()> {
        let mut first = Cow::Borrowed(g);
        if let Some(factor) = self.part(0) {
            let mut out = vec![0.0; batch * self.ranks[0]];
            product.matmul_t(factor, g, batch, &mut out)?;
            first = out.into();
        }
        if self.order.is_empty() {
            return product.matmul_t(&*self.core, &first, batch, y);
        }
        let mut t = vec![0.0; batch * self.core.meta().cols];
        product.matmul_t(&*self.core, &first, batch, &mut t)?;
        let mut t = Cow::Owned(t);
        let mut axes = Axes::new(batch, &self.ranks[1..]);
        for m in self.order.iter().rev() {
            let Some(factor) = self.part(*m) else {
                continue;
            };
            axes.bring_last(*m, &mut t);
            let outer = t.len() / self.ranks[*m];
            let mut out = vec![0.0; outer * self.modes[*m]];
            product.matmul_t(factor, &t, outer, &mut out)?;
            axes.resize_last(self.modes[*m]);
            t = out.into();
        }
        axes.sort(&mut t);
        y.copy_from_slice(&t);
        Ok(())
    }

    /// Cuts the batch so that what lies between the factors stays under the scratch limit.
    fn in_pieces(
        &self,
        x: &[f32],
        y: &mut [f32],
        widths: (usize, usize),
        product: &Product<'_>,
        step: impl Fn(&[f32], usize, &mut [f32]) -> Result<()>,
    ) -> Result<()> {
        let piece = self.piece(x.len() / widths.0, product);
        let pieces = x.chunks(piece * widths.0);
        for (x, y) in pieces.zip(y.chunks_mut(piece * widths.1)) {
            step(x, x.len() / widths.0, y)?;
        }
        if self.multiplier != 1.0 {
            y.iter_mut().for_each(|v| *v *= self.multiplier);
        }
        Ok(())
    }

    /// Rows decoded at a time that the core is gone through once for.
    const WINDOW: usize = 64;

    /// Values of scratch per row while decoding: two of the largest intermediate, and one
    /// row of the first factor.
    fn row_values(&self) -> (usize, usize) {
        let most = self.sizes().into_iter().max().unwrap_or(0);
        let first = if self.factors[0].is_some() {
            self.ranks[0]
        } else {
            0
        };
        (most, first)
    }

    /// Values of the largest piece of a part that decoding goes through.
    fn piece_values(&self) -> usize {
        let of = |form: &dyn Form| modes::piece_rows(form) * form.meta().cols;
        let core = if self.factors[0].is_some() {
            of(&*self.core)
        } else {
            0
        };
        let factors = self.order.iter().filter_map(|m| self.part(*m)).map(of);
        factors.max().unwrap_or(0).max(core)
    }
}

/// The axes of an intermediate `[batch, …]`, which products move about.
struct Axes {
    batch: usize,
    /// Mode and size of each axis after the batch.
    axes: Vec<(usize, usize)>,
}

impl Axes {
    fn new(batch: usize, sizes: &[usize]) -> Self {
        let axes = sizes.iter().enumerate().map(|(i, n)| (i + 1, *n));
        Self {
            batch,
            axes: axes.collect(),
        }
    }

    /// Brings the axes of `t` into this order of places.
    fn permute(&mut self, places: &[usize], t: &mut Cow<'_, [f32]>) {
        let mut dims = vec![self.batch];
        dims.extend(self.axes.iter().map(|a| a.1));
        let mut order = vec![0];
        order.extend(places.iter().map(|p| p + 1));
        let mut out = vec![0.0; t.len()];
        modes::permute(t, &dims, &order, &mut out);
        *t = out.into();
        self.axes = places.iter().map(|p| self.axes[*p]).collect();
    }

    /// Makes a mode's axis the last.
    fn bring_last(&mut self, mode: usize, t: &mut Cow<'_, [f32]>) {
        let Some(at) = self.axes.iter().position(|a| a.0 == mode) else {
            return;
        };
        if self.axes[at + 1..].iter().all(|a| a.1 == 1) {
            let axis = self.axes.remove(at);
            self.axes.push(axis);
            return;
        }
        let mut places: Vec<usize> = (0..self.axes.len()).filter(|p| *p != at).collect();
        places.push(at);
        self.permute(&places, t);
    }

    fn resize_last(&mut self, size: usize) {
        if let Some(last) = self.axes.last_mut() {
            last.1 = size;
        }
    }

    /// Brings the modes into their order.
    fn sort(&mut self, t: &mut Cow<'_, [f32]>) {
        let mut places: Vec<usize> = (0..self.axes.len()).collect();
        places.sort_by_key(|p| self.axes[*p].0);
        if !places.is_sorted() {
            self.permute(&places, t);
        }
    }
}

impl Form for Tucker {
    fn kind(&self) -> &'static str {
        DEF.kind
    }

    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn params(&self) -> Map<String, Value> {
        let mut params = Map::new();
        params.insert("modes".into(), self.modes.clone().into());
        params.insert("ranks".into(), self.ranks.clone().into());
        params.insert("multiplier".into(), f64::from(self.multiplier).into());
        params
    }

    fn parts(&self) -> Vec<(&'static str, Part<'_>)> {
        let mut parts = vec![("core", Part::Form(&*self.core))];
        for (name, factor) in NAMES.into_iter().zip(&self.factors) {
            if let Some(factor) = factor {
                parts.push((name, Part::Form(&**factor)));
            }
        }
        parts
    }

    fn map_buffers(&self, f: &mut dyn FnMut(&Buffer) -> Result<Buffer>) -> Result<Box<dyn Form>> {
        let core = self.core.map_buffers(f)?;
        let factors = self.factors.iter();
        let factors = factors.map(|u| u.as_ref().map(|u| u.map_buffers(f)).transpose());
        Ok(Box::new(Self {
            meta: self.meta.clone(),
            modes: self.modes.clone(),
            ranks: self.ranks.clone(),
            multiplier: self.multiplier,
            core,
            factors: factors.collect::<Result<_>>()?,
            order: self.order.clone(),
        }))
    }

    fn is_exact(&self) -> bool {
        false
    }

    fn row_unit(&self) -> usize {
        match &self.factors[0] {
            None => self.core.row_unit(),
            Some(factor) => Self::WINDOW
                .next_multiple_of(factor.row_unit().max(1))
                .min(self.meta.rows.max(1)),
        }
    }

    fn least_rows(&self) -> usize {
        let least = self.part(0).unwrap_or(&*self.core).least_rows();
        least.min(self.row_unit())
    }

    fn scratch_for(&self, rows: usize) -> usize {
        let (most, first) = self.row_values();
        let values = rows
            .saturating_mul(2 * most + first)
            .saturating_add(self.piece_values());
        let through = |form: &dyn Form| form.scratch_for(modes::piece_rows(form));
        let head = match self.part(0) {
            None => self.core.scratch_for(rows),
            Some(factor) => factor.scratch_for(rows).max(through(&*self.core)),
        };
        let factors = self.order.iter().filter_map(|m| self.part(*m));
        let nested = factors.map(through).max().unwrap_or(0).max(head);
        values.saturating_mul(4).saturating_add(nested)
    }

    fn decode_f32(&self, rows: Range<usize>, out: &mut [f32], scratch: &mut Scratch) -> Result<()> {
        if out.is_empty() {
            return Ok(());
        }
        let count = rows.len();
        let (most, first) = self.row_values();
        let size = count * (2 * most + first) + self.piece_values();
        let mut floats = std::mem::take(&mut scratch.floats);
        if floats.capacity() < size {
            // Growing by doubling would pass the scratch limit.
            floats = Vec::new();
            floats.reserve_exact(size);
        }
        floats.resize(size, 0.0);
        let (t, rest) = floats.split_at_mut(count * most);
        let (other, rest) = rest.split_at_mut(count * most);
        let (row, piece) = rest.split_at_mut(count * first);
        let result = self.decode_into(rows, out, [t, other, row, piece], scratch.nested());
        scratch.floats = floats;
        result
    }

    fn matmul(&self, x: &[f32], batch: usize, y: &mut [f32], product: &Product<'_>) -> Result<()> {
        if self.rather_dense(batch) {
            return product.by_rows(self, x, batch, y);
        }
        let widths = (self.meta.cols, self.meta.rows);
        self.in_pieces(x, y, widths, product, |x, batch, y| {
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
        if self.rather_dense(batch) {
            return product.by_rows_t(self, g, batch, y);
        }
        let widths = (self.meta.rows, self.meta.cols);
        self.in_pieces(g, y, widths, product, |g, batch, y| {
            self.backward(g, batch, y, product)
        })
    }

    fn matmul_macs(&self) -> u64 {
        self.chain_macs().min(self.dense_macs())
    }

    fn decode_macs(&self) -> u64 {
        self.decoding().saturating_mul(ADDED_MACS)
    }
}

impl Tucker {
    /// Rows of the first factor times the core, then each mode opened, in a fixed order of
    /// sums.
    fn decode_into(
        &self,
        rows: Range<usize>,
        out: &mut [f32],
        [mut t, mut other, row, piece]: [&mut [f32]; 4],
        scratch: &mut Scratch,
    ) -> Result<()> {
        let (count, kernels) = (rows.len(), kernels());
        let inner = self.core.meta().cols;
        match self.part(0) {
            None => self
                .core
                .decode_f32(rows, &mut t[..count * inner], scratch)?,
            Some(factor) => {
                factor.decode_f32(rows, row, scratch)?;
                let t = &mut t[..count * inner];
                modes::expand(&*self.core, row, t, kernels, piece, scratch)?;
            }
        }
        let mut dims = self.ranks.clone();
        dims[0] = count;
        for m in self.order.iter().rev() {
            let Some(factor) = self.part(*m) else {
                continue;
            };
            let (n, r) = (self.modes[*m], self.ranks[*m]);
            let (before, after) = modes::around(&dims, *m);
            let (small, large) = (before * after * r, before * after * n);
            if after > 1 {
                modes::swap(&t[..small], r, after, &mut other[..small]);
                std::mem::swap(&mut t, &mut other);
            }
            let opened = &mut other[..large];
            modes::expand(factor, &t[..small], opened, kernels, piece, scratch)?;
            if after > 1 {
                modes::swap(&other[..large], after, n, &mut t[..large]);
            } else {
                std::mem::swap(&mut t, &mut other);
            }
            dims[*m] = n;
        }
        for (out, t) in out.iter_mut().zip(&*t) {
            *out = t * self.multiplier;
        }
        Ok(())
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

    /// A core of random values times random factors.
    fn planted(shape: &[usize], ranks: &[usize], share_of_noise: f32) -> Vec<f32> {
        let mut dims = ranks.to_vec();
        let mut x = noise(ranks.iter().product(), 1);
        for (m, n) in shape.iter().enumerate() {
            let u = noise(n * ranks[m], 10 + m as u64);
            let u = linalg::by_rows(&u, *n, ranks[m]);
            x = modes::project(&x, &mut dims, m, u.transpose());
        }
        let rough = noise(x.len(), 3);
        let scale = linalg::norm_squared(&x) / linalg::norm_squared(&rough);
        let scale = share_of_noise * scale.sqrt() as f32;
        x.iter().zip(rough).map(|(x, r)| x + scale * r).collect()
    }

    fn ranks_of(tensor: &Tensor) -> Vec<u64> {
        let params = tensor.form().params();
        let ranks = params["ranks"].as_array().unwrap().iter();
        ranks.map(|r| r.as_u64().unwrap()).collect()
    }

    #[test]
    fn planted_ranks_are_found_and_errors_kept() {
        let shape = [20, 16, 3, 3];
        let w = planted(&shape, &[4, 3, 3, 2], 0.0);
        let found = tensor(&shape, &w, "tucker(error=0.01%)");
        assert!(found.error().relative < 1e-5);
        assert_eq!(ranks_of(&found)[..2], [4, 3]);
        for share in [0.02f32, 0.3, 3.0] {
            let w = planted(&shape, &[4, 3, 3, 2], share);
            for error in [0.01, 0.1, 0.4, 0.9] {
                let found = tensor(&shape, &w, &format!("tucker(error={error})"));
                assert!(found.error().relative <= error + 1e-6);
                // Where no ranks pay, the core is the tensor.
                let values: usize = found.stored_bytes() as usize / 4;
                assert!(values <= w.len() + 5 * 16, "{values}");
            }
            for share in [0.02, 0.2, 0.7, 1.0] {
                let found = tensor(&shape, &w, &format!("tucker(params={share})"));
                let ranks: Vec<usize> = ranks_of(&found).iter().map(|r| *r as usize).collect();
                assert!(count(&ranks, &shape) as f64 <= share * w.len() as f64);
            }
        }
    }

    #[test]
    fn the_search_is_near_the_best_of_all_ranks() {
        let shape = [7, 6, 5];
        for (seed, share) in [(1, 0.1), (2, 0.5)] {
            let mut w = planted(&shape, &[3, 2, 3], share);
            w[seed] += 1.0;
            let mut core = w.clone();
            let mut caps = shape;
            for m in 0..3 {
                let unfolded = modes::unfold(&w, &shape, m);
                let rows = linalg::by_rows(&unfolded, shape[m], w.len() / shape[m]);
                let u = linalg::left_singular(rows, shape[m]).unwrap();
                core = modes::project(&core, &mut caps, m, u.as_ref());
            }
            let kept = Kept::new(&core, &caps);
            for tail in [0.001, 0.03, 0.1, 0.4] {
                let goal = Goal::Tail(tail);
                let choice = Choice {
                    sizes: &shape,
                    kept: &kept,
                    goal,
                    total: kept.of(&caps),
                };
                let mut best = usize::MAX;
                for a in 1..=7 {
                    for b in 1..=6 {
                        for c in 1..=5 {
                            if choice.weigh(&[a, b, c]).is_some() {
                                best = best.min(count(&[a, b, c], &shape));
                            }
                        }
                    }
                }
                let ranks = choose(&shape, &caps, &kept, goal);
                assert!(choice.weigh(&ranks).is_some());
                let found = count(&ranks, &shape);
                assert!(found * 20 <= best * 21, "{found} values, {best} are enough");
            }
        }
    }

    #[test]
    fn alternating_improves_on_the_start() {
        let shape = [12, 11, 10];
        let w = planted(&shape, &[5, 5, 5], 1.0);
        let ranks = [3, 3, 3];
        let context = EncodeContext::default();
        let start = sequential(&w, &shape, &ranks, &context).unwrap();
        let kept = |bases: &Bases| linalg::norm_squared(&core_of(&w, &shape, bases));
        let before = kept(&start);
        let after = kept(&refine(&w, &shape, &ranks, start, &context).unwrap());
        assert!(after > before * 1.001, "{before} {after}");
    }

    #[test]
    fn a_core_is_fitted_to_rounded_factors() {
        let shape = [24, 20, 18];
        let w = planted(&shape, &[3, 3, 3], 0.0);
        let rough = tensor(&shape, &w, "tucker(ranks=3x3x3, factors=[int4])");
        // Unfitted, three factors of 21 dB each leave 15 %.
        let exact = tensor(&shape, &w, "tucker(ranks=3x3x3)");
        assert!(exact.error().relative < 1e-5);
        let error = rough.error().relative;
        assert!(error > 0.01 && error < 0.2, "{error}");
        let mut worse = 0.0;
        for (name, part) in rough.form().parts() {
            if let (Part::Form(part), true) = (part, name != "core") {
                // What lies outside the span of a rounded factor is lost in any case.
                let values = modes::decoded(part).unwrap();
                let (rows, cols) = (part.meta().rows, part.meta().cols);
                let u = linalg::by_rows(&values, rows, cols);
                let u = if name == "factor0" { u } else { u.transpose() };
                let q = linalg::qr(u).0;
                let mut dims = shape;
                let mode = NAMES.iter().position(|n| *n == name).unwrap();
                let inside = modes::project(&w, &mut dims, mode, q.as_ref());
                worse += 1.0 - linalg::norm_squared(&inside) / linalg::norm_squared(&w);
            }
        }
        assert!(error * error <= worse * 1.01, "{error} {worse}");
    }

    #[test]
    fn products_go_through_the_factors() {
        let shape = [40, 30, 3, 4];
        let w = planted(&shape, &[5, 4, 3, 4], 0.1);
        for spec in [
            "tucker(ranks=5x4)",
            "tucker(ranks=5x4x2x2)",
            "tucker(ranks=40x4x2x4)",
            "tucker(ranks=6x30x3x1, core=[int8])",
            "tucker(ranks=5x4x3x4, factors=[int8 | zstd])",
            "tucker(rank=3, modes=matrix)",
        ] {
            let found = tensor(&shape, &w, spec);
            let chain = found.form().matmul_macs();
            assert!(chain < 40 * 360, "{spec} costs {chain}");
            products_hold(&found);
        }
    }

    #[test]
    fn the_chain_is_ordered_by_what_it_costs() {
        let (sizes, ranks) = ([1, 9, 30, 8], [1, 8, 3, 2]);
        let mut order = vec![1, 2, 3];
        cheapest(&mut order, &sizes, &ranks);
        let cost = |order: [usize; 3]| {
            let mut size = 9.0 * 30.0 * 8.0;
            let mut total = 0.0;
            for m in order {
                total += size * ranks[m] as f64;
                size *= ranks[m] as f64 / sizes[m] as f64;
            }
            total
        };
        let found = cost([order[0], order[1], order[2]]);
        for other in [
            [1, 2, 3],
            [1, 3, 2],
            [2, 1, 3],
            [2, 3, 1],
            [3, 1, 2],
            [3, 2, 1],
        ] {
            assert!(found <= cost(other), "{order:?} {other:?}");
        }
    }

    #[test]
    fn damaged_parameters_are_refused() {
        let shape = [6, 5, 4];
        let w = planted(&shape, &[2, 2, 2], 0.1);
        let found = tensor(&shape, &w, "tucker(ranks=2x2x2)");
        assert!(open(stored(found.form())).is_ok());
        for (name, value) in [
            ("modes", serde_json::json!([6, 5, 5])),
            ("modes", serde_json::json!([6, 20])),
            ("modes", serde_json::json!([6, 5, u64::MAX, 4])),
            ("modes", serde_json::json!("6x5x4")),
            ("ranks", serde_json::json!([2, 2])),
            ("ranks", serde_json::json!([2, 2, 5])),
            ("ranks", serde_json::json!([2, 0, 2])),
            ("ranks", serde_json::json!([2, 2, 3])),
            ("ranks", serde_json::json!([2, 2, -1])),
            ("multiplier", serde_json::json!(null)),
        ] {
            let mut bad = stored(found.form());
            bad.params.insert(name.into(), value);
            refused(bad);
        }
        let mut bad = stored(found.form());
        bad.parts.retain(|p| p.0 != "factor1");
        refused(bad);
        let mut bad = stored(found.form());
        bad.meta = Meta::new(DType::I32, &shape).unwrap();
        refused(bad);
    }
}
