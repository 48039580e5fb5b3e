//! The encoder: contexts, the search for the step, and the units.
//!
//! Everything that decides a stored byte is integers or additions, products, quotients and
//! square roots of f64 and f32 in a fixed order, which round alike on every machine.

use std::ops::Range;

use rayon::prelude::*;

use super::head::{CODES, Head, Layout, codes_bits, varied};
use super::{Ecq, OUTLIER, Units};
use crate::bytes::AlignedBytes;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::form::{EncodeContext, Form, Meta, encode, kernels};
use crate::kernel::ecq::{
    CENTRE, CLASSES, Chooser, LANES, MAX_LOW, MAX_PRECISION, MAX_SYMBOL, NEXT, Paths, START,
    TOGETHER,
};
use crate::pack::frequencies::{Frequencies, Histogram, entropy_bits};
use crate::pack::{Buffer, STORED_ALIGN};
use crate::spec::{Codec, Options};
use crate::tensor::View;

/// What the search is for.
#[derive(Clone, Copy, Debug)]
enum Goal {
    /// Bits a weight.
    Bits(f64),
    /// Relative error.
    Error(f64),
}

pub(super) fn encode_form(
    view: &View<'_>,
    codec: &'static Codec,
    options: &Options,
    context: &EncodeContext,
) -> Result<Box<dyn Form>> {
    let meta = Meta::new(view.dtype(), view.shape())?;
    encode::only_floats(codec.name, &meta)?;
    let range = encode::range(view, context)?;
    let goal = match options.number("error") {
        Some(error) => Goal::Error(error),
        None => Goal::Bits(options.number("bits").unwrap_or(4.0)),
    };
    let encoder = Encoder {
        view,
        context,
        units: Units::plan(meta.rows, meta.cols),
        trellis: options.text("trellis") == Some("8"),
        most: f64::from(range.max_abs()),
        meta,
    };
    encoder.search(goal)
}

struct Encoder<'a> {
    view: &'a View<'a>,
    context: &'a EncodeContext<'a>,
    meta: Meta,
    units: Units,
    trellis: bool,
    /// Largest magnitude.
    most: f64,
}

/// Row and column codes, [`CENTRE`] where they say nothing.
#[derive(Clone, Debug)]
struct Codes {
    rows: Vec<u8>,
    cols: Vec<u8>,
    /// Root mean square of weights whose codes are both [`CENTRE`].
    sigma: f64,
}

/// How indices are chosen at one step.
#[derive(Clone, Debug)]
struct Setting {
    /// Distance of neighbouring lattice points: `step · multiplier`.
    delta: f64,
    step: f32,
    multiplier: f32,
    chooser: Chooser,
}

/// What a pass over units counts.
#[derive(Clone, Debug)]
struct Tally {
    trellis: bool,
    low: u32,
    weights: u64,
    /// By class, Q and symbol + 128.
    counts: Vec<[[u64; 256]; 2]>,
    /// `Σ e²`, e being the error in steps towards larger magnitudes, before offsets.
    error: f64,
    /// By offset: Σ e.
    moments: [f64; 16],
    outliers: u64,
}

impl Tally {
    fn new(trellis: bool, low: u32) -> Self {
        Self {
            trellis,
            low,
            weights: 0,
            counts: vec![[[0; 256]; 2]; CLASSES],
            error: 0.0,
            moments: [0.0; 16],
            outliers: 0,
        }
    }

    fn add(&mut self, other: &Self) {
        self.weights += other.weights;
        for (a, b) in self
            .counts
            .iter_mut()
            .flatten()
            .flatten()
            .zip(other.counts.iter().flatten().flatten())
        {
            *a += b;
        }
        self.error += other.error;
        for (a, b) in self.moments.iter_mut().zip(&other.moments) {
            *a += b;
        }
        self.outliers += other.outliers;
    }

    /// Weights that take each offset.
    fn takers(&self) -> [u64; 16] {
        let mut takers = [0; 16];
        for (q, counts) in self.counts.iter().flat_map(|c| c.iter().enumerate()) {
            for (symbol, n) in (-128i32..).zip(counts) {
                let k = symbol.abs();
                let at = if self.trellis {
                    8 * q as i32 + k.min(7)
                } else {
                    k.min(15)
                };
                takers[at as usize & 15] += n;
            }
        }
        takers
    }

    /// Offsets to the centroids, in 128ths. None for 0, which has no sign, and none with
    /// low bits, where they would not matter.
    fn offsets(&self) -> [i8; 16] {
        let takers = self.takers();
        std::array::from_fn(|i| {
            let none = self.low > 0 || i == 0 || (self.trellis && i == 8) || takers[i] == 0;
            if none {
                return 0;
            }
            let offset = self.moments[i] / takers[i] as f64 * 128.0;
            offset.round_ties_even().clamp(-127.0, 127.0) as i8
        })
    }

    /// Squared error in squared steps, with the offsets.
    fn distortion(&self) -> f64 {
        let mut error = self.error;
        let offsets = self.offsets().into_iter().zip(self.takers());
        for (moment, (offset, takers)) in self.moments.iter().zip(offsets) {
            let o = f64::from(offset) / 128.0;
            error += takers as f64 * o * o - 2.0 * o * moment;
        }
        error.max(0.0)
    }
}

/// Tables for the classes, and what codes and tables take.
#[derive(Clone, Debug)]
struct Tables {
    symmetric: bool,
    of_class: [u8; CLASSES],
    tables: Vec<Frequencies>,
    /// By table: the counts that it is made of.
    runs: Vec<[Histogram; 2]>,
    /// Bits of all indices.
    bits: f64,
    /// Bits of the tables.
    size: f64,
}

/// A tensor encoded at one step.
struct Encoded {
    form: Ecq,
    /// Stored bits, padding and all.
    stored: f64,
    /// Bits that indices take by their frequencies.
    information: f64,
}

/// The indices of a tensor at one step.
struct Trial {
    setting: Setting,
    units: Vec<Piece>,
    kept: Option<Vec<Chosen>>,
    model: Model,
}

/// What the choice of indices is based on: counts of an earlier pass.
#[derive(Clone, Debug)]
struct Model {
    tally: Tally,
    tables: Tables,
}

/// The search for the step is content this far below the size asked for, in bits a weight,
/// or the error, in powers of two.
const CONTENT: f64 = 0.006;

/// Weights of the first rounds.
const FEW: usize = 64 << 10;

/// And aims this far below.
const MARGIN: f64 = 0.002;

impl Encoder<'_> {
    fn search(&self, goal: Goal) -> Result<Box<dyn Form>> {
        let (codes, mean_square) = self.scales()?;
        if self.units.is_empty() || self.most == 0.0 {
            let codes = codes.neutral();
            return Ok(Box::new(self.finish(&codes, 1.0, 0, None)?.form));
        }
        let n = self.meta.len() as f64;
        let sigma = mean_square.sqrt();
        let sample = self.sample();
        // Finer steps have indices of more than 23 bits; at coarser ones all are 0.
        let (finest, coarsest) = (self.most / f64::from(1u32 << 22), 4.0 * self.most);
        // The lattice of the trellis is that of two quantisers of twice its step.
        let lattice = if self.trellis { 0.5 } else { 1.0 };
        // A coarser step makes codes shorter and errors larger.
        let (direction, start) = match goal {
            Goal::Bits(bits) => (1.0, 4.13 * exp2(-bits)),
            Goal::Error(error) => (-1.0, 12f64.sqrt() * error),
        };
        let mut delta = (sigma * start * lattice).clamp(finest, coarsest);
        let codes = self.choose_codes(codes, delta, &sample)?;
        let side = codes.bits();

        // How far from the bound a step seems to be: bits a weight too many, or powers of two
        // of the error.
        let estimate = |model: &Model, delta: f64| {
            let Model { tally, tables } = model;
            let whole = n / tally.weights as f64;
            match goal {
                Goal::Bits(bits) => {
                    let information = tables.bits * whole;
                    let outliers = tally.outliers as f64 * whole * 8.0 * OUTLIER as f64;
                    let stored = information + outliers + side + self.fixed_bits() + tables.size;
                    self.excess_bits(bits, stored, information)
                }
                Goal::Error(error) => {
                    let found = tally.distortion() * whole * delta * delta;
                    0.5 * log2((found / (error * error * mean_square * n)).clamp(1e-9, 1e9))
                }
            }
        };
        let towards = |delta: f64, change: f64| {
            let change = change.clamp(-6.0, 6.0);
            (delta * exp2(direction * change)).clamp(finest, coarsest)
        };

        // Some rounds on a part of the tensor. Paths through the trellis depend on costs, and
        // costs on paths: that takes a few to settle.
        let few = self.few();
        let least = if self.trellis { 3 } else { 1 };
        let mut model: Option<Model> = None;
        for round in 0..6 {
            let low = self.low(delta, &sample);
            let setting = self.setting(delta, low, &codes, model.as_ref());
            let (tally, _) = self.pass(&codes, &setting, &few, false)?;
            let tables = Tables::new(&tally, &self.layout(low));
            let seen = Model { tally, tables };
            let change = estimate(&seen, setting.delta) + MARGIN;
            model = Some(seen);
            delta = towards(delta, change);
            if round >= least && change.abs() < 0.02 {
                break;
            }
        }

        // Then the whole. Steps whose result does and does not keep the bound; the model
        // stays as it is from the second round on, so that the result depends on the step
        // alone.
        let (mut good, mut bad): (Option<(f64, Encoded)>, Option<f64>) = (None, None);
        let mut failures = -1.0;
        let (mut low, mut low_at) = (self.low(delta, &sample), delta);
        for round in 0..20 {
            // Not another number of low bits for a few percent.
            if !(0.7..1.4).contains(&(delta / low_at)) {
                (low, low_at) = (self.low(delta, &sample), delta);
            }
            let trial = self.trial(&codes, delta, low, model.as_ref())?;
            if round == 0 {
                model = Some(trial.model.clone());
            }
            // Not coded where that would be in vain.
            let guess = estimate(&trial.model, trial.setting.delta);
            if round < 4 && !(-CONTENT - 0.003..0.003).contains(&guess) {
                delta = towards(delta, guess + MARGIN);
                continue;
            }
            let made = self.code(&codes, trial)?;
            let excess = match goal {
                Goal::Bits(bits) => self.excess_bits(bits, made.stored, made.information),
                Goal::Error(error) => {
                    let found = encode::measure(self.view, &made.form, self.context)?.relative;
                    log2((found / error).clamp(1e-9, 1e9))
                }
            };
            let mut change = excess + MARGIN;
            if excess <= 0.0 {
                if good
                    .as_ref()
                    .is_none_or(|g| direction * (g.0 - delta) > 0.0)
                {
                    good = Some((delta, made));
                }
                if excess >= -CONTENT {
                    break;
                }
            } else {
                bad = Some(bad.map_or(delta, |b| {
                    if direction * (delta - b) > 0.0 {
                        delta
                    } else {
                        b
                    }
                }));
                // The bound must be met in the end.
                change += MARGIN * exp2(failures);
                failures += 1.0;
            }
            let mut next = towards(delta, change);
            if let (Some((good, _)), Some(bad)) = (&good, bad) {
                let (low, high) = if bad < *good {
                    (bad, *good)
                } else {
                    (*good, bad)
                };
                if next <= low || next >= high {
                    next = (low * high).sqrt();
                }
                if high < low * (1.0 + 1e-4) {
                    break;
                }
            }
            if next == delta {
                break;
            }
            delta = next;
        }
        match (good, goal) {
            (Some((_, made)), _) => Ok(Box::new(made.form)),
            // As few as there can be.
            (None, Goal::Bits(_)) => {
                let low = self.low(coarsest, &sample);
                let codes = codes.neutral();
                Ok(Box::new(self.finish(&codes, coarsest, low, None)?.form))
            }
            (None, Goal::Error(error)) => Err(Error::invalid(format!(
                "ecq cannot keep an error of {}% on this {} tensor (use a lossless spec)",
                error * 100.0,
                self.meta.dtype
            ))),
        }
    }

    /// Bits a weight above the bound. What tables, states and padding take is counted as
    /// far as it is an eighth of the bound.
    fn excess_bits(&self, bits: f64, stored: f64, information: f64) -> f64 {
        let n = self.meta.len() as f64;
        let on_top = (stored - information - bits * n / 8.0).max(0.0);
        (stored - on_top) / n - bits
    }

    /// Bits of states, lengths and padding, about.
    fn fixed_bits(&self) -> f64 {
        let lanes = self.units.unit_rows.min(LANES) as f64;
        // Of a state's 32 bits some 8 hold information; of two parts' padding, half.
        self.units.count() as f64 * (24.0 * lanes + 32.0) + 8.0 * STORED_ALIGN as f64
    }

    fn layout(&self, low: u32) -> Layout {
        Layout {
            precision: MAX_PRECISION,
            low,
            trellis: self.trellis,
            rows: self.meta.rows,
            cols: self.meta.cols,
            units: self.units.count(),
        }
    }

    /// Rows for the first rounds, evenly spread: about 64 Ki weights.
    fn few(&self) -> Vec<Piece> {
        let Units {
            rows, unit_cols, ..
        } = self.units;
        let across = self.units.across();
        let groups = rows.div_ceil(TOGETHER);
        let wanted = (FEW / (TOGETHER * unit_cols)).clamp(1, groups);
        let piece = |i: usize| {
            let row = i * groups / wanted * TOGETHER;
            let (_, cols) = self.units.at(i % across);
            (row..(row + TOGETHER).min(rows), cols)
        };
        (0..wanted).map(piece).collect()
    }

    /// Some of the magnitudes, evenly spread.
    fn sample(&self) -> Vec<f32> {
        let (rows, cols) = (self.meta.rows, self.meta.cols);
        let wanted = ((32usize << 10).div_ceil(cols)).min(rows);
        let mut sample = Vec::new();
        let mut floats = Vec::new();
        for i in 0..wanted {
            let row = i * rows / wanted;
            let w = self.view.rows_f32(row..row + 1, &mut floats);
            sample.extend(w.iter().take(32 << 10).map(|w| w.abs()));
        }
        sample
    }

    /// The number of low bits to store as they are under which the sample takes least:
    /// so many that symbols fit, but for a few outliers.
    fn low(&self, delta: f64, sample: &[f32]) -> u32 {
        let unit = if self.trellis { 2.0 * delta } else { delta };
        let mut best = (f64::INFINITY, 0);
        let mut counts: Histogram = [0; 256];
        for low in 0..=MAX_LOW {
            counts.fill(0);
            let mut outliers = 0u64;
            let scale = 1.0 / (unit * f64::from(1u32 << low));
            for a in sample {
                let x = f64::from(*a) * scale;
                if x > f64::from(MAX_SYMBOL) {
                    outliers += 1;
                } else if low > 0 {
                    counts[x as usize] += 1;
                } else {
                    counts[(x + 0.5) as usize] += 1;
                }
            }
            let kept: u64 = counts.iter().sum();
            let signs = kept - if low == 0 { counts[0] } else { 0 };
            let last = counts.iter().rposition(|c| *c > 0).unwrap_or(0);
            let share = sample.len() as f64 / self.meta.len() as f64;
            // A few tables of 7 bits a symbol.
            let tables = 4.0 * 7.0 * last as f64 * share;
            let bits = entropy_bits(&counts)
                + (signs + kept * u64::from(low) + outliers * 8 * OUTLIER as u64) as f64
                + tables;
            if bits < best.0 {
                best = (bits, low);
            }
            if outliers == 0 && last < 16 {
                break;
            }
        }
        best.1
    }

    fn setting(&self, delta: f64, low: u32, codes: &Codes, model: Option<&Model>) -> Setting {
        // The power of two that is at most delta, as far as it and its inverse are normal.
        let exponent = ((delta.to_bits() >> 52) as i32 - 1023).clamp(-126, 126);
        let step = (delta / exp2i(exponent)) as f32;
        let delta = f64::from(step) * exp2i(exponent);
        let greatest = f64::from(MAX_SYMBOL << low) * if self.trellis { 2.0 } else { 1.0 } - 2.0;
        let widest = match self.meta.dtype {
            DType::F16 => 65504.0,
            DType::BF16 => 3.38e38,
            _ => f64::from(f32::MAX),
        };
        // So that no weight is taken past the range of its type.
        let limit = greatest.min(widest / delta - 4.0) as f32;
        let scale = (exp2i(-exponent) as f32, 1.0 / step);
        let mut chooser = Chooser::new(scale, limit, low);
        match model {
            Some(model) => self.costs_of(model, &mut chooser),
            None if self.trellis => self.first_costs(codes, delta, &mut chooser),
            None => {}
        }
        Setting {
            delta,
            step,
            multiplier: exp2i(exponent) as f32,
            chooser,
        }
    }

    /// Thresholds and costs from the counts of an earlier pass, at a step near its own.
    fn costs_of(&self, model: &Model, chooser: &mut Chooser) {
        let Model { tally, tables, .. } = model;
        // At rate R the error is about a·2^(−2R): a bit more is worth 2·ln 2 of it. In squared
        // steps the error hardly depends on the step.
        let error = tally.distortion() / tally.weights.max(1) as f64;
        let slope = 2.0 * std::f64::consts::LN_2 * error;
        let mut costs = [[0.0f32; 256]; CLASSES];
        for (class, costs) in costs.iter_mut().enumerate() {
            for q in 0..if self.trellis { 2 } else { 1 } {
                let bits = tables.bits_of(class, q, chooser.low);
                for (cost, bits) in costs[128 * q..].iter_mut().zip(&bits) {
                    *cost = (slope * bits) as f32;
                }
                if !self.trellis && chooser.low == 0 {
                    for (j, threshold) in chooser.thresholds[class].iter_mut().enumerate() {
                        let shift = 0.5 * slope * (bits[j + 1] - bits[j]);
                        *threshold = 0.5 + shift.clamp(0.0, 0.3) as f32;
                    }
                }
            }
        }
        if self.trellis {
            chooser.set_costs(&costs);
        }
    }

    /// Costs before anything was counted: those of Gaussian classes.
    fn first_costs(&self, codes: &Codes, delta: f64, chooser: &mut Chooser) {
        let slope = 0.36;
        let mut all = [[0.0; 256]; CLASSES];
        for (class, costs) in all.iter_mut().enumerate() {
            let sigma = codes.sigma * exp2((class as f64 - f64::from(CENTRE)) / STEPS);
            for (j, cost) in costs.iter_mut().enumerate() {
                let k = ((j % 128) << chooser.low) as f64;
                let t = 2.0 * k * delta / sigma;
                *cost = (slope * (0.5 * std::f64::consts::LOG2_E * t * t).min(30.0)) as f32;
            }
        }
        chooser.set_costs(&all);
    }

    /// Chooses the indices of units, and counts them; keeps them if asked to.
    fn pass(
        &self,
        codes: &Codes,
        setting: &Setting,
        pieces: &[Piece],
        keep: bool,
    ) -> Result<(Tally, Vec<Chosen>)> {
        // A few units at a time, so that their counts need not be held for all.
        let mut total = Tally::new(self.trellis, setting.chooser.low);
        let mut kept = Vec::new();
        for some in pieces.chunks(64) {
            let done: Vec<(Tally, Chosen)> = some
                .par_iter()
                .map_init(Work::default, |work, piece| {
                    self.context.check_cancel()?;
                    self.choose(codes, setting, piece, work, keep)
                })
                .collect::<Result<_>>()?;
            for (tally, chosen) in done {
                total.add(&tally);
                if keep {
                    kept.push(chosen);
                }
            }
        }
        Ok((total, kept))
    }

    /// The weights of a piece, row-major.
    fn weights<'w>(
        &'w self,
        piece: &Piece,
        floats: &'w mut Vec<f32>,
        copy: &'w mut Vec<f32>,
    ) -> &'w [f32] {
        let (rows, cols) = piece.clone();
        if cols.len() == self.meta.cols {
            return self.view.rows_f32(rows, floats);
        }
        copy.clear();
        for row in rows {
            let w = self.view.rows_f32(row..row + 1, floats);
            copy.extend_from_slice(&w[cols.clone()]);
        }
        copy
    }

    fn choose(
        &self,
        codes: &Codes,
        setting: &Setting,
        piece: &Piece,
        work: &mut Work,
        keep: bool,
    ) -> Result<(Tally, Chosen)> {
        let kernels = kernels();
        let chooser = &setting.chooser;
        let (rows, cols) = piece.clone();
        let n = cols.len();
        let Work {
            floats,
            copy,
            paths,
            x,
            index,
        } = work;
        let w = self.weights(piece, floats, copy);
        let (row_codes, col_codes) = (&codes.rows[rows.clone()], &codes.cols[cols.clone()]);
        x.resize(TOGETHER * n, 0.0);
        index.resize(TOGETHER * n, 0);
        let mut tally = Tally::new(self.trellis, chooser.low);
        tally.weights = w.len() as u64;
        let mut chosen = Chosen::default();
        if keep {
            chosen.index.reserve_exact(w.len());
        }
        let mut counts = vec![[[0u32; 256]; 2]; CLASSES];
        for (g, w) in w.chunks(TOGETHER * n).enumerate() {
            let some = &row_codes[g * TOGETHER..(g * TOGETHER + w.len() / n)];
            let (x, index) = (&mut x[..w.len()], &mut index[..w.len()]);
            if self.trellis {
                kernels.ecq_trellis(chooser, w, some, col_codes, paths, x, index);
            } else {
                let each = w.chunks_exact(n).zip(some);
                let each = each.zip(x.chunks_exact_mut(n).zip(index.chunks_exact_mut(n)));
                for ((w, row), (x, index)) in each {
                    kernels.ecq_round(chooser, w, *row, col_codes, x, index);
                }
            }
            // Outliers were chosen for as if they were 0.
            for (i, (w, x)) in w.iter().zip(&*x).enumerate() {
                if *x == 0.0 && *w != 0.0 && chooser.is_outlier(*w) {
                    let row = rows.start + g * TOGETHER + i / n;
                    let at = row * self.meta.cols + cols.start + i % n;
                    chosen.outliers.push((at as u64, *w));
                }
            }
            let each = x.chunks_exact(n).zip(index.chunks_exact(n)).zip(some);
            for ((x, index), row) in each {
                if self.trellis {
                    tally.count::<true>(x, index, *row, col_codes, chooser.low, &mut counts);
                } else {
                    tally.count::<false>(x, index, *row, col_codes, chooser.low, &mut counts);
                }
            }
            if keep {
                chosen.index.extend_from_slice(index);
            }
        }
        tally.outliers = chosen.outliers.len() as u64;
        for (a, b) in tally
            .counts
            .iter_mut()
            .flatten()
            .flatten()
            .zip(counts.iter().flatten().flatten())
        {
            *a = u64::from(*b);
        }
        Ok((tally, chosen))
    }

    /// Encodes at one step.
    fn finish(
        &self,
        codes: &Codes,
        delta: f64,
        low: u32,
        model: Option<&Model>,
    ) -> Result<Encoded> {
        let trial = self.trial(codes, delta, low, model)?;
        self.code(codes, trial)
    }

    /// Chooses the indices of the whole tensor.
    fn trial(&self, codes: &Codes, delta: f64, low: u32, model: Option<&Model>) -> Result<Trial> {
        let setting = self.setting(delta, low, codes, model);
        let units: Vec<Piece> = (0..self.units.count()).map(|u| self.units.at(u)).collect();
        // Indices are kept for the coder, or chosen again where they would take too much.
        let keep = self.meta.len() <= 1 << 26;
        let (tally, kept) = self.pass(codes, &setting, &units, keep)?;
        let tables = Tables::new(&tally, &self.layout(low));
        Ok(Trial {
            setting,
            units,
            kept: keep.then_some(kept),
            model: Model { tally, tables },
        })
    }

    /// Codes what was chosen.
    fn code(&self, codes: &Codes, trial: Trial) -> Result<Encoded> {
        let Trial {
            setting,
            units: all,
            kept,
            model: Model { tally, tables },
        } = trial;
        let layout = self.layout(tally.low);
        let keep = kept.is_some();
        let mut kept = kept.unwrap_or_default();
        let coder = Coder::new(&tables, &layout);
        kept.resize_with(all.len(), Chosen::default);
        let coded: Vec<Coded> = kept
            .into_par_iter()
            .enumerate()
            .map_init(Work::default, |work, (unit, mut chosen)| {
                self.context.check_cancel()?;
                if !keep {
                    chosen = self.choose(codes, &setting, &all[unit], work, true)?.1;
                }
                let (rows, cols) = all[unit].clone();
                let bytes = coder.encode(&chosen.index, &codes.rows[rows], &codes.cols[cols]);
                Ok::<_, Error>((bytes, chosen.outliers))
            })
            .collect::<Result<_>>()?;

        let mut starts = vec![0u64];
        for (bytes, _) in &coded {
            if u32::try_from(bytes.len()).is_err() {
                return Err(Error::internal("a unit of more than 4 GiB"));
            }
            starts.push(starts[starts.len() - 1] + bytes.len() as u64);
        }
        let total = starts[coded.len()] as usize;
        let mut bytes = AlignedBytes::zeroed(total)?;
        for ((unit, _), at) in coded.iter().zip(&starts) {
            bytes[*at as usize..*at as usize + unit.len()].copy_from_slice(unit);
        }
        let mut outliers: Vec<(u64, f32)> = coded.into_iter().flat_map(|c| c.1).collect();
        outliers.sort_unstable_by_key(|o| o.0);
        let mut outlier_bytes = AlignedBytes::zeroed(outliers.len() * OUTLIER)?;
        for (out, (at, value)) in outlier_bytes
            .as_chunks_mut::<OUTLIER>()
            .0
            .iter_mut()
            .zip(&outliers)
        {
            out[..8].copy_from_slice(&at.to_le_bytes());
            out[8..].copy_from_slice(&value.to_le_bytes());
        }
        let head = Head {
            symmetric: tables.symmetric,
            offsets: tally.offsets(),
            of_class: tables.of_class,
            tables: tables.tables.clone(),
            rows: codes.stored_rows().to_vec(),
            cols: codes.stored_cols().to_vec(),
            starts,
        };
        let buffer = |bytes| Buffer::owned(bytes, 1, 1);
        let parts = [
            buffer(bytes)?,
            buffer(AlignedBytes::copy_of(&head.write(&layout))?)?,
            buffer(outlier_bytes)?,
        ];
        let stored = parts.iter().map(|p| p.stored_len() as f64 * 8.0).sum();
        let step = (setting.step, setting.multiplier);
        Ok(Encoded {
            form: Ecq::new(self.meta.clone(), self.units, step, layout, parts)?,
            stored,
            information: tables.bits,
        })
    }
}

/// The bytes of a unit, and its outliers.
type Coded = (Vec<u8>, Vec<(u64, f32)>);

/// Scales of rows, sums of columns, and the sum of squares.
type Sums = (Vec<f64>, Vec<f64>, f64);

/// A window of rows and one of columns.
type Piece = (Range<usize>, Range<usize>);

/// Working memory of one thread.
#[derive(Debug, Default)]
struct Work {
    floats: Vec<f32>,
    copy: Vec<f32>,
    paths: Paths,
    x: Vec<f32>,
    index: Vec<i32>,
}

/// The indices of a unit, row-major, and its outliers.
#[derive(Debug, Default)]
struct Chosen {
    index: Vec<i32>,
    outliers: Vec<(u64, f32)>,
}

/// Table and class of a weight.
fn class(row: u8, col: u8) -> usize {
    usize::from((row + col).saturating_sub(CENTRE).min(CLASSES as u8 - 1))
}

impl Tally {
    /// Counts a row.
    fn count<const TRELLIS: bool>(
        &mut self,
        x: &[f32],
        index: &[i32],
        row: u8,
        cols: &[u8],
        low: u32,
        counts: &mut [[[u32; 256]; 2]],
    ) {
        let mut state = 0u8;
        // Two sums in turn, so that additions do not wait for each other.
        let mut errors = [0.0; 2];
        let mut moments = [[0.0; 16]; 2];
        for (i, ((x, k), col)) in x.iter().zip(index).zip(cols).enumerate() {
            let q = if TRELLIS { i32::from(state & 1) } else { 0 };
            let symbol = (k >> low) + 128;
            counts[class(row, *col)][q as usize][(symbol & 255) as usize] += 1;
            let (magnitude, at);
            if TRELLIS {
                let k = k.abs();
                magnitude = if k == 0 { 0 } else { 2 * k - q };
                at = 8 * q + k.min(7);
                state = NEXT[usize::from((2 * state) | (k & 1) as u8)];
            } else {
                magnitude = k.abs();
                at = magnitude.min(15);
            }
            let e = f64::from(x.abs() - magnitude as f32);
            errors[i % 2] += e * e;
            moments[i % 2][at as usize & 15] += e;
        }
        let error = errors[0] + errors[1];
        for (moment, (a, b)) in self
            .moments
            .iter_mut()
            .zip(moments[0].iter().zip(moments[1]))
        {
            *moment += a + b;
        }
        self.error += error;
    }
}

/// A run of classes with one table for each Q.
#[derive(Clone, Debug)]
struct Run {
    classes: Range<usize>,
    counts: [Histogram; 2],
    bits: f64,
}

impl Tables {
    /// Joins neighbouring classes as long as their codes get longer by less than a table
    /// takes.
    fn new(tally: &Tally, layout: &Layout) -> Self {
        let symmetric = Self::runs(tally, layout, true);
        let signed = Self::runs(tally, layout, false);
        let total = |runs: &[Run]| runs.iter().map(|r| r.bits).sum::<f64>();
        let (symmetric, runs) = if total(&symmetric) <= total(&signed) {
            (true, symmetric)
        } else {
            (false, signed)
        };
        let mut of_class = [0; CLASSES];
        let mut tables = Vec::new();
        let (mut bits, mut size) = (0.0, 0.0);
        for (t, run) in (0u8..).zip(&runs) {
            of_class[run.classes.clone()].fill(t);
            for counts in &run.counts[..layout.per_class()] {
                let (h, raw) = fold(counts, symmetric, layout.low);
                let table = Frequencies::normalise(&h, layout.table_bits(symmetric));
                bits += table.cost_bits(&h) + raw;
                let mut bytes = Vec::new();
                table.write(&mut bytes);
                size += 8.0 * bytes.len() as f64;
                tables.push(table);
            }
        }
        Self {
            symmetric,
            of_class,
            tables,
            bits,
            size,
            runs: runs.into_iter().map(|r| r.counts).collect(),
        }
    }

    fn runs(tally: &Tally, layout: &Layout, symmetric: bool) -> Vec<Run> {
        let bits = |counts: &[Histogram; 2]| {
            let mut bits = 0.0;
            for counts in &counts[..layout.per_class()] {
                let (h, raw) = fold(counts, symmetric, layout.low);
                let first = h.iter().position(|c| *c > 0).unwrap_or(0);
                let last = h.iter().rposition(|c| *c > 0).unwrap_or(0);
                // Tables take about 7 bits a symbol.
                bits += entropy_bits(&h) + raw + 24.0 + 7.0 * (last - first) as f64;
            }
            bits
        };
        let mut runs: Vec<Run> = Vec::new();
        for (class, counts) in tally.counts.iter().enumerate() {
            if counts.iter().flatten().all(|c| *c == 0) {
                if let Some(run) = runs.last_mut() {
                    run.classes.end = class + 1;
                }
                continue;
            }
            let start = runs.last().map_or(0, |r| r.classes.end);
            runs.push(Run {
                classes: start..class + 1,
                counts: *counts,
                bits: bits(counts),
            });
        }
        if runs.is_empty() {
            let counts = [[0; 256]; 2];
            runs.push(Run {
                classes: 0..CLASSES,
                counts,
                bits: bits(&counts),
            });
        }
        let join = |a: &Run, b: &Run| {
            let mut counts = a.counts;
            for (a, b) in counts.iter_mut().flatten().zip(b.counts.iter().flatten()) {
                *a += b;
            }
            let bits = bits(&counts);
            let run = Run {
                classes: a.classes.start..b.classes.end,
                counts,
                bits,
            };
            (bits - a.bits - b.bits, run)
        };
        let mut joins: Vec<(f64, Run)> = runs.windows(2).map(|p| join(&p[0], &p[1])).collect();
        // The first of equals.
        while let Some(i) =
            (0..joins.len()).reduce(|m, i| if joins[i].0 < joins[m].0 { i } else { m })
        {
            if joins[i].0 >= 0.0 {
                break;
            }
            runs[i] = joins.remove(i).1;
            runs.remove(i + 1);
            if i > 0 {
                joins[i - 1] = join(&runs[i - 1], &runs[i]);
            }
            if i < joins.len() {
                joins[i] = join(&runs[i], &runs[i + 1]);
            }
        }
        runs
    }

    /// Bits of magnitudes 0 … 127 of a class's symbols, and one more.
    fn bits_of(&self, class: usize, q: usize, low: u32) -> [f64; 129] {
        let counts = &self.runs[usize::from(self.of_class[class])][q];
        let (h, _) = fold(counts, true, low);
        let last = h.iter().rposition(|c| *c > 0).unwrap_or(0);
        let total: u64 = h.iter().sum();
        // Those that did not occur might: half an occurrence, falling off.
        let all = log2(total as f64 + 1.0);
        let mut bits = [0.0; 129];
        for (j, bits) in bits.iter_mut().enumerate() {
            let n = (h[j] as f64).max(0.25);
            let beyond = j.saturating_sub(last) as f64;
            let sign = if j > 0 || low > 0 { 1.0 } else { 0.0 };
            *bits = all - log2(n) + sign + beyond;
        }
        bits
    }
}

/// Counts as a table sees them: magnitudes with a bit each for their signs, or symbols.
/// With the bits that are stored as they are.
fn fold(counts: &Histogram, symmetric: bool, low: u32) -> (Histogram, f64) {
    let total: u64 = counts.iter().sum();
    let raw = total as f64 * f64::from(low);
    if !symmetric {
        return (*counts, raw);
    }
    let mut h = [0; 256];
    for (symbol, n) in (-128i32..).zip(counts) {
        let magnitude = match low {
            0 => symbol.unsigned_abs() as usize,
            _ => symbol.max(-1 - symbol) as usize,
        };
        h[magnitude] += n;
    }
    let unsigned = if low == 0 { h[0] } else { 0 };
    (h, raw + (total - unsigned) as f64)
}

/// Encodes units.
struct Coder {
    layout: Layout,
    of_class: [u8; CLASSES],
    /// By table and symbol + 128: frequency and first slot.
    ranges: Vec<[(u16, u16); 256]>,
}

impl Coder {
    fn new(tables: &Tables, layout: &Layout) -> Self {
        let ranges = tables.tables.iter().map(|table| {
            let mut start = 0;
            layout.expand(table, tables.symmetric).map(|f| {
                let range = (f, start);
                start += f;
                range
            })
        });
        Self {
            layout: *layout,
            of_class: tables.of_class,
            ranges: ranges.collect(),
        }
    }

    /// The bytes of a unit.
    fn encode(&self, index: &[i32], rows: &[u8], cols: &[u8]) -> Vec<u8> {
        let Layout {
            precision,
            low,
            trellis,
            ..
        } = self.layout;
        let n = cols.len();
        let first = low.min(16 - precision);
        let second = low - first;
        let mut q = Vec::new();
        if trellis {
            for row in index.chunks_exact(n) {
                let mut state = 0u8;
                for k in row {
                    q.push(state & 1);
                    state = NEXT[usize::from((2 * state) | (k & 1) as u8)];
                }
            }
        }
        let mut x = [START; LANES];
        let mut words: Vec<u16> = Vec::with_capacity(index.len() / 2);
        for first_row in (0..rows.len()).step_by(LANES).rev() {
            let some = &rows[first_row..rows.len().min(first_row + LANES)];
            for (c, col) in cols.iter().enumerate().rev() {
                let at = |lane: usize| (first_row + lane) * n + c;
                if second > 0 {
                    for lane in (0..some.len()).rev() {
                        let bits = index[at(lane)] as u32 & ((1 << second) - 1);
                        if x[lane] >= 1 << (32 - second) {
                            words.push(x[lane] as u16);
                            x[lane] >>= 16;
                        }
                        x[lane] = x[lane] << second | bits;
                    }
                }
                for lane in (0..some.len()).rev() {
                    let at = at(lane);
                    let k = index[at] >> second;
                    let mut table = usize::from(self.of_class[class(some[lane], *col)]);
                    if trellis {
                        table = 2 * table + usize::from(q[at]);
                    }
                    let symbol = ((k >> first) + 128) & 255;
                    let (f, start) = self.ranges[table][symbol as usize];
                    let f = u32::from(f);
                    let mut y = x[lane];
                    if u64::from(y) >= u64::from(f) << (32 - precision - first) {
                        words.push(y as u16);
                        y >>= 16;
                    }
                    y = y << first | (k as u32 & ((1 << first) - 1));
                    x[lane] = (y / f) << precision | (y % f + u32::from(start));
                }
            }
        }
        let mut bytes = Vec::with_capacity(4 * LANES + 2 * words.len());
        for x in &x[..rows.len().min(LANES)] {
            bytes.extend_from_slice(&x.to_le_bytes());
        }
        bytes.extend(words.iter().rev().flat_map(|w| w.to_le_bytes()));
        bytes
    }
}

/// Steps of row and column codes in a factor of two.
const STEPS: f64 = 4.0;

impl Codes {
    /// The same, saying nothing.
    fn neutral(&self) -> Self {
        Self {
            rows: vec![CENTRE; self.rows.len()],
            cols: vec![CENTRE; self.cols.len()],
            sigma: self.sigma,
        }
    }

    /// What is stored of them: nothing where they are all [`CENTRE`].
    fn stored_rows(&self) -> &[u8] {
        if varied(&self.rows) { &self.rows } else { &[] }
    }

    fn stored_cols(&self) -> &[u8] {
        if varied(&self.cols) { &self.cols } else { &[] }
    }

    fn bits(&self) -> f64 {
        [self.stored_rows(), self.stored_cols()]
            .iter()
            .filter(|c| !c.is_empty())
            .map(|c| codes_bits(c))
            .sum()
    }
}

/// Codes of scales: their logarithms, the middle one at [`CENTRE`]. All alike are that.
fn codes_of(scales: &[f64]) -> (Vec<u8>, f64) {
    let logs: Vec<i64> = scales
        .iter()
        .map(|s| (STEPS * log2(s.max(1e-300)) + 0.5).floor() as i64)
        .collect();
    let mut sorted: Vec<i64> = logs
        .iter()
        .zip(scales)
        .filter(|(_, s)| **s > 0.0)
        .map(|(l, _)| *l)
        .collect();
    sorted.sort_unstable();
    let middle = sorted.get(sorted.len() / 2).copied().unwrap_or(0);
    let centre = i64::from(CENTRE);
    let most = i64::from(CODES) - 1;
    let code = |l: &i64| (l - middle + centre).clamp(0, most) as u8;
    (logs.iter().map(code).collect(), exp2(middle as f64 / STEPS))
}

impl Encoder<'_> {
    /// Codes of the scales of rows and columns, and the mean square. Of w ≈ a·b·g, with g
    /// of unit variance, a and b are the roots of mean squares in turn.
    fn scales(&self) -> Result<(Codes, f64)> {
        let (rows, cols) = (self.meta.rows, self.meta.cols);
        let mut a = vec![1.0; rows];
        let mut b = vec![1.0; cols];
        let mut mean_square = 0.0;
        if !self.units.is_empty() {
            for round in 0..2 {
                let first = round == 0;
                self.scale_round(&mut a, &mut b, first, &mut mean_square)?;
            }
        }
        let (row_codes, row_scale) = codes_of(&a);
        let (col_codes, col_scale) = codes_of(&b);
        let codes = Codes {
            rows: row_codes,
            cols: col_codes,
            sigma: row_scale * col_scale,
        };
        Ok((codes, mean_square))
    }

    /// Scales of rows by those of columns, then of columns by those of rows.
    fn scale_round(
        &self,
        a: &mut [f64],
        b: &mut [f64],
        first: bool,
        mean_square: &mut f64,
    ) -> Result<()> {
        let cols = b.len();
        let rows = a.len();
        let window = (64usize << 10).div_ceil(cols);
        let inverse: Vec<f64> = b
            .iter()
            .map(|b| if *b > 0.0 { 1.0 / b } else { 0.0 })
            .collect();
        let mut columns = vec![0.0; cols];
        let mut total = 0.0;
        let windows: Vec<usize> = (0..rows.div_ceil(window)).collect();
        // Sums of a few windows at a time, added in order.
        for some in windows.chunks(64) {
            let done: Vec<Sums> = some
                .par_iter()
                .map_init(Vec::new, |floats: &mut Vec<f32>, i| {
                    self.context.check_cancel()?;
                    let range = i * window..((i + 1) * window).min(rows);
                    let w = self.view.rows_f32(range, floats);
                    let mut scales = Vec::new();
                    let mut columns = vec![0.0; cols];
                    let mut total = 0.0;
                    for row in w.chunks_exact(cols) {
                        let (mut sum, mut plain) = (0.0, 0.0);
                        for (w, inverse) in row.iter().zip(&inverse) {
                            let w = f64::from(*w);
                            plain += w * w;
                            sum += (w * inverse) * (w * inverse);
                        }
                        total += plain;
                        let scale = (sum / cols as f64).sqrt();
                        scales.push(scale);
                        if scale > 0.0 {
                            let inverse = 1.0 / scale;
                            for (w, column) in row.iter().zip(&mut columns) {
                                let w = f64::from(*w) * inverse;
                                *column += w * w;
                            }
                        }
                    }
                    Ok::<_, Error>((scales, columns, total))
                })
                .collect::<Result<_>>()?;
            for (i, (scales, sums, plain)) in some.iter().zip(done) {
                a[i * window..i * window + scales.len()].copy_from_slice(&scales);
                for (c, s) in columns.iter_mut().zip(&sums) {
                    *c += s;
                }
                total += plain;
            }
        }
        for (b, c) in b.iter_mut().zip(&columns) {
            *b = (c / rows as f64).sqrt();
        }
        if first {
            *mean_square = total / (rows as f64 * cols as f64);
        }
        Ok(())
    }

    /// Of no codes, those of rows, of columns, and of both, the ones with which the tensor
    /// takes least at this step, themselves included.
    fn choose_codes(&self, codes: Codes, delta: f64, sample: &[f32]) -> Result<Codes> {
        let low = self.low(delta, sample);
        // Without the trellis, whose tables differ as these do.
        let plain = Encoder {
            trellis: false,
            units: self.units,
            meta: self.meta.clone(),
            ..*self
        };
        let delta = if self.trellis { 2.0 * delta } else { delta };
        let setting = plain.setting(delta, low, &codes, None);
        let layout = plain.layout(low);
        let few = self.few();
        let neutral = codes.neutral();
        let mut best: Option<(f64, Codes)> = None;
        for (by_rows, by_cols) in [(false, false), (true, true), (true, false), (false, true)] {
            let pick = |by, yes: &Vec<u8>, no: &Vec<u8>| if by { yes.clone() } else { no.clone() };
            let these = Codes {
                rows: pick(by_rows, &codes.rows, &neutral.rows),
                cols: pick(by_cols, &codes.cols, &neutral.cols),
                sigma: codes.sigma,
            };
            let (tally, _) = plain.pass(&these, &setting, &few, false)?;
            let tables = Tables::new(&tally, &layout);
            let whole = self.meta.len() as f64 / tally.weights as f64;
            let bits = tables.bits * whole + tables.size + these.bits();
            if best.as_ref().is_none_or(|b| bits < b.0) {
                best = Some((bits, these));
            }
        }
        Ok(best.map_or(neutral, |b| b.1))
    }
}

/// 2^n of a normal number.
fn exp2i(n: i32) -> f64 {
    f64::from_bits(((n.clamp(-1022, 1023) + 1023) as u64) << 52)
}

/// 2^x, by its series; the same on every machine.
fn exp2(x: f64) -> f64 {
    let whole = (x + 0.5).floor();
    let t = (x - whole) * std::f64::consts::LN_2;
    let mut sum = 1.0;
    for k in (1..=14).rev() {
        sum = 1.0 + sum * t / f64::from(k);
    }
    sum * exp2i(whole as i32)
}

/// Of a normal positive number, by its series; the same on every machine.
fn log2(x: f64) -> f64 {
    let bits = x.to_bits();
    let exponent = (bits >> 52) as i32 - 1023;
    let m = f64::from_bits((bits & ((1 << 52) - 1)) | (1023 << 52));
    // 2·artanh(z) = ln m, |z| ≤ 1/3.
    let z = (m - 1.0) / (m + 1.0);
    let s = z * z;
    let mut sum = 1.0 / 23.0;
    for k in [21.0, 19.0, 17.0, 15.0, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0, 1.0] {
        sum = sum * s + 1.0 / k;
    }
    f64::from(exponent) + 2.0 * sum * z * std::f64::consts::LOG2_E
}
