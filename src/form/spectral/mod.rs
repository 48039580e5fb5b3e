//! `fft`, `fft2`, `dct`, `dct2`: the largest coefficients of a Fourier or cosine transform
//! of rows, or of rows and columns.
//!
//! * Exploits: smoothness and periodicity: convolution kernels, positional embeddings,
//!   sampled functions, their differences. The weights of trained transformer layers are
//!   neither.
//! * Layout: the matrix `W[rows, cols]` is cut into blocks of `block_rows` × `block_cols`,
//!   the last ones shorter, and each is transformed; `fft` and `dct` have
//!   `block_rows = 1`. A row of n columns makes n coefficients of one number (`dct`) or
//!   `m = ceil(n / 2)` of two (`fft`), and transforming columns leaves their number as it
//!   is, so that a row of the matrix has as many coefficients, its slots, as the blocks
//!   beside each other make. Every transform is orthonormal:
//!   * `dct`: `C_0 = Σ x_j / √n`, `C_k = √(2/n) · Σ x_j cos(π (2j + 1) k / 2n)`; `dct2`
//!     does the same down every column of coefficients.
//!   * `fft`: with `X_k = Σ x_j e^(−2πijk/n)`, coefficient k > 0 is `√(2/n) · X_k`; it
//!     stands for `X_(n−k)` as well. Coefficient 0 is `(X_0 + i·X_(n/2)) / √n`, both being
//!     real; the second is absent for odd n. `fft2` transforms every column of these
//!     complex numbers: `S_p = Σ_r u_r e^(−2πipr/N) / √N` for N rows.
//!
//!   Parts: `counts`: for each row of coefficients the number kept, u16, or u32 if a row
//!   has more than 65,535 slots. `positions`: with parameter `positions` = `indices` the
//!   slots of the kept coefficients, ascending in each row, of the width of a count; with
//!   `mask` one bit a slot, bit `i % 8` of byte `i / 8`, each row padded to a byte;
//!   whichever is smaller. `values`: a form of its own of f32: the kept numbers divided by
//!   `2^exponent`, row by row, a complex one as real and imaginary part, as a vector when
//!   dense, else folded into rows of 256, the last filled up with zeros. Parameters:
//!   `transform` (the name in a spec), `block_rows`, `block_cols`, `count` (coefficients
//!   kept), `positions`, `exponent` (a signed integer, such that the largest number is
//!   from 2^14 to 2^15, where f16 has room on both sides).
//! * Error: that of the coefficients left out, `√(Σ left out² / Σ all²)`, and of the
//!   values'. `error=` keeps the fewest that hold it. `keep=` counts numbers, so that `fft`
//!   and `dct` cost the same. Columns 0 of `fft2` with an odd number of columns store both
//!   of a conjugate pair: keeping one of them leaves less than its energy suggests.
//! * Matmul: `y = W x` is `S · T x` and, in two dimensions, an inverse transform of the
//!   result: `5/2 n log₂ n` for each vector that is transformed and one multiplication a
//!   stored number. `W` is never transformed back. The values are opened anew for every
//!   product.
//! * Decoding in two dimensions transforms the columns of the whole band of blocks that a
//!   window touches, a few at a time, whatever the window: the same bits, at the cost of
//!   the band. Encoder and decoder run in f64 on operations that are the same on every
//!   instruction set; products use the fastest.
//! * Loses: on anything not smooth, Gaussian weights above all: keeping 5 % of `fft2` has
//!   a relative error of 0.9, pruning does better, and so does `q` at 2 bits; on narrow
//!   matrices, where each row's count costs 16 bits.
//! * Source: Ahmed, Natarajan and Rao, Discrete Cosine Transform, 1974; Makhoul, A fast
//!   cosine transform in one and two dimensions, 1980.

mod encode;
mod layout;
mod product;
mod select;
#[cfg(test)]
mod tests;
mod transform;

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use rayon::prelude::*;
use rustfft::{FftPlanner, FftPlannerScalar};
use serde_json::{Map, Value as Json};

use self::layout::{Entries, Geometry, Positions, index_bytes, indices};
use self::transform::{Basis, Planner, Plans, Work};
use super::select::{folded, value_rows};
use super::{Form, FormDef, Meta, Part, Product, Scratch, Stored};
use crate::bytes::checked_mul;
use crate::error::{Error, Result};
use crate::kernel::{Isa, KernelSet};
use crate::limits;
use crate::pack::Buffer;
use crate::spec::{self, Codec, Kind, OptionDef, Options, Term, Value};

pub(super) static DEF: FormDef = FormDef {
    kind: "spectral",
    codecs: &[
        Codec {
            name: "fft",
            summary: "the largest Fourier coefficients of each row",
            options: OPTIONS,
        },
        Codec {
            name: "fft2",
            summary: "the largest Fourier coefficients of the matrix",
            options: OPTIONS,
        },
        Codec {
            name: "dct",
            summary: "the largest cosine coefficients of each row",
            options: OPTIONS,
        },
        Codec {
            name: "dct2",
            summary: "the largest cosine coefficients of the matrix",
            options: OPTIONS,
        },
    ],
    canonical,
    lossless: |_, _| false,
    encode: encode::encode_form,
    open,
};

const OPTIONS: &[OptionDef] = &[
    OptionDef {
        key: "keep",
        aliases: &[],
        kind: Kind::Keep,
        default: Some("10%"),
        doc: "numbers to keep, relative to the number of weights, or the error to keep under",
    },
    OptionDef {
        key: "error",
        aliases: &[],
        kind: Kind::Share,
        default: None,
        doc: "largest relative error; short for keep=auto(error=…)",
    },
    OptionDef {
        key: "block",
        aliases: &[],
        kind: Kind::Dims(&[]),
        default: None,
        doc: "transform blocks of this size (64, or 64x64 in two dimensions), not the whole",
    },
    OptionDef {
        key: "values",
        aliases: &[],
        kind: Kind::Spec,
        default: Some("dense"),
        doc: "how the coefficients are stored; dense is f32",
    },
];

/// Names of transforms and what they are.
const TRANSFORMS: [(&str, Basis, bool); 4] = [
    ("fft", Basis::Fft, false),
    ("fft2", Basis::Fft, true),
    ("dct", Basis::Dct, false),
    ("dct2", Basis::Dct, true),
];

fn transform(name: &str) -> Option<(Basis, bool)> {
    let found = TRANSFORMS.iter().find(|t| t.0 == name)?;
    Some((found.1, found.2))
}

/// Rows and columns of a block as written: `None` for all there are.
fn block(codec: &Codec, options: &Options) -> Result<[Option<usize>; 2]> {
    let two_dims = transform(codec.name).is_some_and(|t| t.1);
    Ok(match (options.dims("block").as_deref(), two_dims) {
        (None, true) => [None, None],
        (None, false) => [Some(1), None],
        (Some([n]), true) => [Some(*n), Some(*n)],
        (Some([n]), false) => [Some(1), Some(*n)],
        (Some([rows, cols]), true) => [Some(*rows), Some(*cols)],
        (Some(dims), _) => {
            let (dims, most) = (dims.len(), if two_dims { "two" } else { "one" });
            return Err(spec::at(
                options.column(),
                format!(
                    "block: {} takes at most {most} sizes, found {dims}",
                    codec.name
                ),
            ));
        }
    })
}

fn canonical(codec: &'static Codec, options: &Options) -> Result<Term> {
    if options.given("keep") && options.given("error") {
        return Err(spec::at(
            options.column(),
            format!("{} takes keep or error, not both", codec.name),
        ));
    }
    let size = block(codec, options)?;
    let mut term = options.canonical(&super::registry::nested)?;
    for arg in &mut term.args {
        let Value::Plain(text) = &mut arg.value else {
            continue;
        };
        match arg.key.as_deref() {
            Some("keep") => {
                let error = text.strip_prefix("auto(error=");
                if let Some(error) = error.and_then(|e| e.strip_suffix(')')) {
                    *text = error.to_owned();
                    arg.key = Some("error".to_owned());
                }
            }
            Some("block") => {
                if let ([Some(rows), Some(cols)], Some((_, true))) = (size, transform(codec.name)) {
                    *text = format!("{rows}x{cols}");
                }
            }
            _ => {}
        }
    }
    Ok(term)
}

#[derive(Debug)]
struct Spectral {
    meta: Meta,
    geometry: Geometry,
    /// Coefficients kept.
    count: usize,
    /// Values are divided by two to this power.
    exponent: i32,
    how: Positions,
    counts: Buffer,
    positions: Buffer,
    values: Box<dyn Form>,
    /// Coefficients before each row, from `counts`; `count` at the end.
    starts: Arc<[usize]>,
    /// Plans are made when first used, and shared by copies of the form.
    exact: Arc<OnceLock<Plans<f64>>>,
    fast: Arc<OnceLock<Plans<f32>>>,
}

/// Exponents of any tensor of finite f32 lie within.
const EXPONENTS: std::ops::RangeInclusive<i64> = -400..=400;

/// Two to the power `e`, |e| < 1000.
fn power(e: i32) -> f64 {
    f64::from_bits(((1023 + i64::from(e)) as u64) << 52)
}

fn open(mut stored: Stored) -> Result<Box<dyn Form>> {
    let meta = stored.meta.clone();
    let name = stored.text("transform")?;
    let Some((basis, two_dims)) = transform(name) else {
        return Err(Error::unsupported(format!(
            "the transform '{name}' is not known to this version"
        )));
    };
    if !meta.dtype.is_float() {
        return Err(Error::corrupt(format!("{name} of a {} tensor", meta.dtype)));
    }
    let most_rows = if two_dims { meta.rows.max(1) } else { 1 };
    let geometry = Geometry {
        basis,
        two_dims,
        rows: meta.rows,
        cols: meta.cols,
        block_rows: stored.integer("block_rows", 1..=most_rows as u64)? as usize,
        block_cols: stored.integer("block_cols", 1..=meta.cols.max(1) as u64)? as usize,
    };
    geometry.check()?;
    let slots = geometry.slots();
    let all = checked_mul(meta.rows, slots)?;
    let count = stored.integer("count", 0..=all as u64)? as usize;
    let exponent = match stored.params.get("exponent").and_then(Json::as_i64) {
        Some(e) if EXPONENTS.contains(&e) => e as i32,
        _ => return Err(Error::corrupt("the exponent of a spectrum is out of range")),
    };
    let how = match stored.text("positions")? {
        "mask" => Positions::Mask,
        "indices" => Positions::Indices,
        other => {
            return Err(Error::unsupported(format!(
                "positions written as '{other}' are not known to this version"
            )));
        }
    };
    // Read as a whole, so held against the limit first.
    let size = index_bytes(slots);
    let count_bytes = checked_mul(meta.rows, size)?;
    if count_bytes as u64 > limits::MAX_INDEX_BYTES {
        return Err(Error::limit(format!("{} rows of coefficients", meta.rows)));
    }
    let counts = stored.buffer("counts", count_bytes)?;
    let position_bytes = how.bytes(meta.rows, slots, count);
    let position_bytes = position_bytes.ok_or_else(|| Error::limit("positions of a spectrum"))?;
    let positions = stored.buffer("positions", position_bytes)?;
    let values = stored.form("values")?;
    let numbers = checked_mul(count, geometry.values())?;
    let plain = values.meta().shape.len() == 1;
    if values.meta().dtype != crate::dtype::DType::F32
        || values.meta().shape != folded(plain, numbers)
    {
        return Err(Error::corrupt(format!(
            "values of {} {:?} for {numbers} of f32",
            values.meta().dtype,
            values.meta().shape,
        )));
    }
    let mut scratch = Vec::new();
    let bytes = counts.window(0..count_bytes, &mut scratch)?;
    let mut starts = Vec::with_capacity(meta.rows + 1);
    let mut total = 0usize;
    starts.push(0);
    for n in indices(bytes, size) {
        total += n as usize;
        if n as usize > slots || total > count {
            break;
        }
        starts.push(total);
    }
    if starts.len() != meta.rows + 1 || total != count {
        return Err(Error::corrupt(format!(
            "the counts of rows do not add up to {count}"
        )));
    }
    Ok(Box::new(Spectral {
        meta,
        geometry,
        count,
        exponent,
        how,
        counts,
        positions,
        values,
        starts: starts.into(),
        exact: Arc::default(),
        fast: Arc::default(),
    }))
}

/// Numbers of a batch of columns that are transformed between two passes over the rows.
const BATCH_NUMBERS: usize = 1 << 18;

/// Between columns of a batch, so that they do not fall into the same cache sets.
const COLUMN_GAP: usize = 8;

/// Coefficients' numbers of the rows that are read at once.
const CHUNK_NUMBERS: usize = 1 << 16;

impl Spectral {
    fn exact(&self) -> &Plans<f64> {
        self.exact
            .get_or_init(|| Plans::new(&self.geometry, Planner::Scalar(FftPlannerScalar::new())))
    }

    fn fast(&self, kernels: &KernelSet) -> &Plans<f32> {
        self.fast.get_or_init(|| {
            let planner = match kernels.isa() {
                Isa::Portable => Planner::Scalar(FftPlannerScalar::new()),
                _ => Planner::Fast(FftPlanner::new()),
            };
            Plans::new(&self.geometry, planner)
        })
    }

    /// Reads the coefficients of some rows, and checks them.
    fn load(&self, rows: Range<usize>, entries: &mut Entries, scratch: &mut Scratch) -> Result<()> {
        let (slots, numbers) = (self.geometry.slots(), self.geometry.values());
        let span = self.starts[rows.start]..self.starts[rows.end];
        entries.starts.clear();
        let starts = self.starts[rows.start..=rows.end].iter();
        entries.starts.extend(starts.map(|s| s - span.start));
        let bytes = match self.how {
            Positions::Mask => slots.div_ceil(8) * rows.start..slots.div_ceil(8) * rows.end,
            Positions::Indices => index_bytes(slots) * span.start..index_bytes(slots) * span.end,
        };
        let bytes = self.positions.window(bytes, &mut scratch.bytes)?;
        entries.read(self.how, slots, bytes)?;
        let values = numbers * span.start..numbers * span.end;
        entries.values.clear();
        entries.skip = 0;
        if values.is_empty() {
            return Ok(());
        }
        let (rows, skip) = value_rows(&*self.values, &values);
        let n = rows.len() * self.values.meta().cols;
        entries.values.reserve_exact(n);
        entries.values.resize(n, 0.0);
        entries.skip = skip;
        self.values
            .decode_f32(rows, &mut entries.values, scratch.nested())
    }

    /// Bytes that the coefficients of `rows` rows take when read.
    fn entries_bytes(&self, rows: usize, most: usize) -> usize {
        let slots = self.geometry.slots();
        let numbers = most.saturating_mul(self.geometry.values());
        let cols = self.values.meta().cols.max(1);
        let positions = match self.how {
            Positions::Mask => slots.div_ceil(8).saturating_mul(rows),
            Positions::Indices => index_bytes(slots).saturating_mul(most),
        };
        (rows * 8)
            .saturating_add(most.saturating_mul(4))
            .saturating_add(numbers.saturating_mul(4))
            .saturating_add(cols * 8)
            .saturating_add(self.positions.scratch_for(positions))
            .saturating_add(self.values.scratch_for(numbers.div_ceil(cols) + 1))
    }

    /// Most coefficients of `block` rows from a multiple of it.
    fn most(&self, block: usize) -> usize {
        let rows = self.meta.rows;
        let counts = (0..rows.div_ceil(block))
            .map(|b| self.starts[rows.min((b + 1) * block)] - self.starts[b * block]);
        counts.max().unwrap_or(0)
    }

    /// A decoded number.
    fn settle(v: f64, scale: f64) -> f32 {
        let most = f64::from(f32::MAX);
        (v * scale).clamp(-most, most) as f32
    }

    /// Rows that are transformed alone.
    fn decode_rows(
        &self,
        rows: Range<usize>,
        out: &mut [f32],
        scratch: &mut Scratch,
    ) -> Result<()> {
        let (plans, scale) = (self.exact(), power(self.exponent));
        let (cols, width, numbers) = (
            self.meta.cols,
            self.geometry.width(),
            self.geometry.values(),
        );
        let (mut entries, mut work) = (Entries::default(), Work::default());
        let (mut line, mut row) = (vec![0.0; width], vec![0.0; cols]);
        let step = (CHUNK_NUMBERS / width).max(1);
        for (i, out) in out.chunks_mut(step * cols).enumerate() {
            let first = rows.start + i * step;
            self.load(first..first + out.len() / cols, &mut entries, scratch)?;
            for (i, out) in out.chunks_exact_mut(cols).enumerate() {
                let kept = entries.starts[i]..entries.starts[i + 1];
                if kept.is_empty() {
                    out.fill(0.0);
                    continue;
                }
                line.fill(0.0);
                for at in kept {
                    let to = entries.slots[at] as usize * numbers;
                    let from = entries.skip + at * numbers;
                    for (v, c) in line[to..to + numbers]
                        .iter_mut()
                        .zip(&entries.values[from..])
                    {
                        *v = f64::from(*c);
                    }
                }
                plans.inverse_row(&line, &mut row, &mut work);
                for (out, v) in out.iter_mut().zip(&row) {
                    *out = Self::settle(*v, scale);
                }
            }
        }
        Ok(())
    }

    /// Rows of a band whose columns are transformed too: the columns of the whole band, a
    /// batch at a time, then the rows that are asked for.
    fn decode_band(
        &self,
        band: Range<usize>,
        rows: Range<usize>,
        out: &mut [f32],
        scratch: &mut Scratch,
    ) -> Result<()> {
        let (plans, scale) = (self.exact(), power(self.exponent));
        let Some(columns) = &plans.columns else {
            return Err(Error::internal("columns are not transformed"));
        };
        let (cols, slots, numbers) = (
            self.meta.cols,
            self.geometry.slots(),
            self.geometry.values(),
        );
        let n = band.len();
        let column = columns.of(n);
        let window = rows.start - band.start..rows.end - band.start;
        let mut entries = Entries::default();
        self.load(band, &mut entries, scratch)?;

        let height = n * numbers;
        let stride = height + COLUMN_GAP;
        let batch = (BATCH_NUMBERS / height).clamp(1, slots);
        let mut buffer = vec![0.0f64; batch * stride];
        let mut touched = vec![false; batch];
        let mut next = entries.starts[..n].to_vec();
        for first in (0..slots).step_by(batch) {
            let end = (first + batch).min(slots);
            buffer.fill(0.0);
            touched.fill(false);
            for (row, next) in next.iter_mut().enumerate() {
                while *next < entries.starts[row + 1] && (entries.slots[*next] as usize) < end {
                    let slot = entries.slots[*next] as usize - first;
                    touched[slot] = true;
                    let to = slot * stride + row * numbers;
                    let from = entries.skip + *next * numbers;
                    for (v, c) in buffer[to..to + numbers]
                        .iter_mut()
                        .zip(&entries.values[from..])
                    {
                        *v = f64::from(*c);
                    }
                    *next += 1;
                }
            }
            buffer
                .par_chunks_mut(stride)
                .zip(&touched)
                .with_min_len((8192 / height).max(1))
                .for_each_init(Work::default, |work, (values, touched)| {
                    if *touched {
                        column.inverse(&mut values[..height], work);
                    }
                });
            let places: Vec<_> = (first..end).map(|s| self.geometry.columns(s)).collect();
            let step = (8192 / cols).max(8);
            out.par_chunks_mut(cols * step)
                .enumerate()
                .for_each(|(i, out)| {
                    for (j, out) in out.chunks_exact_mut(cols).enumerate() {
                        let row = (window.start + i * step + j) * numbers;
                        for (slot, (to, n)) in places.iter().enumerate() {
                            for k in 0..*n {
                                out[to + k] = buffer[slot * stride + row + k] as f32;
                            }
                        }
                    }
                });
        }
        out.par_chunks_mut(cols)
            .with_min_len((8192 / cols).max(1))
            .for_each_init(
                || {
                    let (line, row) = (vec![0.0; self.geometry.width()], vec![0.0; cols]);
                    (Work::default(), line, row)
                },
                |(work, line, row), out| {
                    self.geometry.unfold(out, line);
                    plans.inverse_row(line, row, work);
                    for (out, v) in out.iter_mut().zip(row) {
                        *out = Self::settle(*v, scale);
                    }
                },
            );
        Ok(())
    }
}

impl Form for Spectral {
    fn kind(&self) -> &'static str {
        DEF.kind
    }

    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn params(&self) -> Map<String, Json> {
        let g = &self.geometry;
        let name = TRANSFORMS
            .iter()
            .find(|t| (t.1, t.2) == (g.basis, g.two_dims));
        let mut params = Map::new();
        params.insert("transform".into(), name.map_or("", |t| t.0).into());
        params.insert("block_rows".into(), g.block_rows.into());
        params.insert("block_cols".into(), g.block_cols.into());
        params.insert("count".into(), self.count.into());
        params.insert("positions".into(), self.how.name().into());
        params.insert("exponent".into(), self.exponent.into());
        params
    }

    fn parts(&self) -> Vec<(&'static str, Part<'_>)> {
        vec![
            ("counts", Part::Buffer(&self.counts)),
            ("positions", Part::Buffer(&self.positions)),
            ("values", Part::Form(&*self.values)),
        ]
    }

    fn map_buffers(&self, f: &mut dyn FnMut(&Buffer) -> Result<Buffer>) -> Result<Box<dyn Form>> {
        Ok(Box::new(Self {
            meta: self.meta.clone(),
            counts: f(&self.counts)?,
            positions: f(&self.positions)?,
            values: self.values.map_buffers(f)?,
            starts: self.starts.clone(),
            exact: self.exact.clone(),
            fast: self.fast.clone(),
            ..*self
        }))
    }

    fn is_exact(&self) -> bool {
        false
    }

    fn row_unit(&self) -> usize {
        self.geometry.block_rows
    }

    fn least_rows(&self) -> usize {
        1
    }

    fn scratch_for(&self, rows: usize) -> usize {
        let g = &self.geometry;
        // A transform's line, its work and the row, of each thread.
        let line = (g.width() + g.cols) * 8 + g.block_cols.max(g.block_rows) * 32;
        if !g.two_dims {
            let rows = rows.min(CHUNK_NUMBERS / g.width().max(1) + 1);
            let most = self.most(1).saturating_mul(rows).min(self.count);
            return line + self.entries_bytes(rows, most);
        }
        let height = g.block_rows * g.values();
        let batch = BATCH_NUMBERS.max(height).min(height * g.slots());
        let gaps = batch / height.max(1) * COLUMN_GAP;
        let threads = rayon::current_num_threads();
        (batch + gaps) * 8
            + g.block_rows * 8
            + line * threads
            + self.entries_bytes(g.block_rows, self.most(g.block_rows))
    }

    fn decode_f32(&self, rows: Range<usize>, out: &mut [f32], scratch: &mut Scratch) -> Result<()> {
        if out.is_empty() {
            return Ok(());
        }
        if !self.geometry.two_dims {
            return self.decode_rows(rows, out, scratch);
        }
        let cols = self.meta.cols;
        for band in self.geometry.bands(&rows) {
            let part = rows.start.max(band.start)..rows.end.min(band.end);
            let out = &mut out[(part.start - rows.start) * cols..(part.end - rows.start) * cols];
            self.decode_band(band, part, out, scratch)?;
        }
        Ok(())
    }

    fn matmul(&self, x: &[f32], batch: usize, y: &mut [f32], product: &Product<'_>) -> Result<()> {
        self.multiply(x, batch, y, product)
    }

    fn matmul_t(
        &self,
        g: &[f32],
        batch: usize,
        y: &mut [f32],
        product: &Product<'_>,
    ) -> Result<()> {
        self.multiply_t(g, batch, y, product)
    }

    fn matmul_macs(&self) -> u64 {
        let g = &self.geometry;
        let transform = |n: usize, block: usize| 2.5 * n as f64 * (block as f64).log2().max(1.0);
        let mut macs = transform(g.cols, g.block_cols);
        if g.two_dims {
            macs += transform(g.rows, g.block_rows);
        }
        macs as u64 + self.count as u64 * (g.values() * g.results()) as u64
    }

    fn decode_macs(&self) -> u64 {
        // A transform of rows, in f64; down columns it goes through several at once.
        let number = if self.geometry.two_dims { 60 } else { 130 };
        (self.meta.len() as u64).saturating_mul(number)
    }
}
