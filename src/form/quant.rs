//! `q`, `int8`, `int4`: group-wise scalar quantisation to 2 … 8 bits.
//!
//! * Exploits: neighbouring weights are of like size and about evenly spread, so a few
//!   bits and a shared scale hold them. `w = multiplier · (s·c + z)`.
//! * Layout: parts `codes` and `scales` (empty if one scale serves the whole tensor), both
//!   tile by tile in the order that the kernels read; see [`crate::kernel::quant`].
//!   Parameters `bits`, `group` (columns; 0 for the whole tensor), `zeros`, `multiplier`,
//!   `offset`.
//! * Error: at most half a step per weight where nothing is clipped; a step is the
//!   group's largest magnitude over 2^(bits−1). Measured on Gaussian weights with groups
//!   of 32: 45 dB at 8 bits, 21.3 at 4 (21.8 with `search=lsq`), 8.8 at 2 (9.6).
//!   With `search=gptq` and second moments of the inputs the error of the product,
//!   `tr(ΔW H ΔWᵀ)`, is what is made small: scales by least squares weighted with `H_jj`,
//!   codes with error feedback between columns. Strongly correlated inputs leave it a
//!   third of what rounding to nearest does; `‖ΔW‖` grows. A diagonal of moments alone
//!   weights the scales. Storage is the same: scales are found before the columns are
//!   taken in order of size. Without moments it is `search=lsq`.
//! * Matmul: codes are opened in registers and multiplied in integers by activations
//!   rounded to int8 (`fast`) or to three such digits (`exact`, as good as f32), one scale
//!   per group and row; nothing is decoded to memory. See [`crate::kernel::dot`]. Exact
//!   products of larger batches decode a window to f32. Products with the transpose open
//!   codes in registers too, in f32, for up to six rows.
//! * Loses: on natively sparse tensors (`mask`), on heavy-tailed ones with large groups,
//!   and wherever exactness is asked for.
//!
//! The signed-max start, `s = w_ext / −2^(bits−1)`, and the least-squares search are
//! those of the field's group quantisers (llama.cpp's Q4_0 and `make_qx_quants` use the
//! same ideas); written here from the formulas. GPTQ: Frantar et al. 2022, see
//! `src/form/gptq.rs`.

use std::ops::Range;
use std::sync::{Mutex, OnceLock};

use rayon::prelude::*;
use serde_json::{Map, Value};

use super::activations::Rounder;
use super::gptq::{self, Feedback};
use super::product::{Added, plan_windows, run_workers};
use super::{EncodeContext, Form, FormDef, Meta, Part, Product, Scratch, Stored, encode, kernels};
use crate::bytes::{AlignedBytes, checked_mul};
use crate::calibration::Moments;
use crate::error::{Error, Result};
use crate::kernel::dot::{EXACT_DIGITS, Rounded, Tiles, WIDE_GROUP, tiles_at_once};
use crate::kernel::quant::{
    BLOCK_COLS, Grid, Layout, Quantizer, RUN_ROWS, Search, TILE_ROWS, store_codes,
};
use crate::pack::Buffer;
use crate::spec::{Codec, Kind, OptionDef, Options, Term};
use crate::tensor::View;

const GROUP: OptionDef = OptionDef {
    key: "group",
    aliases: &["scale"],
    kind: Kind::Choice(&["32", "64", "128", "row", "tensor"]),
    default: Some("32"),
    doc: "weights that share a scale",
};
const ZERO: OptionDef = OptionDef {
    key: "zero",
    aliases: &[],
    kind: Kind::Choice(&["symmetric", "asymmetric"]),
    default: Some("symmetric"),
    doc: "whether a group stores a zero point beside its scale",
};
const SEARCH: OptionDef = OptionDef {
    key: "search",
    aliases: &[],
    kind: Kind::Choice(&["absmax", "lsq", "gptq"]),
    default: Some("absmax"),
    doc: "scale from the extreme value, or by least squares (slower, closer); gptq: for the least error of products with the calibration's inputs",
};
const BITS: OptionDef = OptionDef {
    key: "bits",
    aliases: &[],
    kind: Kind::Integer(2, 8),
    default: Some("4"),
    doc: "bits of a code",
};

pub(super) static DEF: FormDef = FormDef {
    kind: "q",
    codecs: &[
        Codec {
            name: "int8",
            summary: "8-bit codes with group scales",
            options: &[GROUP, ZERO, SEARCH],
        },
        Codec {
            name: "int4",
            summary: "4-bit codes with group scales",
            options: &[GROUP, ZERO, SEARCH],
        },
        Codec {
            name: "q",
            summary: "2- to 8-bit codes with group scales",
            options: &[BITS, GROUP, ZERO, SEARCH],
        },
    ],
    canonical,
    lossless: |_, _| false,
    encode: encode_form,
    open,
};

fn bits(codec: &Codec, options: &Options) -> u32 {
    match codec.name {
        "int8" => 8,
        "int4" => 4,
        _ => options.integer("bits").unwrap_or(4) as u32,
    }
}

/// `q(bits=8)` and `q(bits=4)` have shorter names.
fn canonical(codec: &'static Codec, options: &Options) -> Result<Term> {
    let mut term = options.canonical(&super::registry::nested)?;
    match bits(codec, options) {
        8 => term.name = "int8".into(),
        4 => term.name = "int4".into(),
        _ => return Ok(term),
    }
    term.args.retain(|a| a.key.as_deref() != Some("bits"));
    Ok(term)
}

#[derive(Debug, Clone)]
struct Quant {
    meta: Meta,
    quantizer: Quantizer,
    codes: Buffer,
    scales: Buffer,
}

/// Rows read, converted and encoded by one task: a few tiles, about 256 KiB of f32.
fn task_rows(cols: usize) -> usize {
    let rows = (64 << 10) / cols.max(1);
    rows.max(1).next_multiple_of(TILE_ROWS)
}

fn encode_form(
    view: &View<'_>,
    codec: &'static Codec,
    options: &Options,
    context: &EncodeContext,
) -> Result<Box<dyn Form>> {
    let meta = Meta::new(view.dtype(), view.shape())?;
    encode::only_floats(codec.name, &meta)?;
    let group = options.text("group").unwrap_or("32");
    let zeros = options.text("zero") == Some("asymmetric");
    let layout = Layout {
        bits: bits(codec, options),
        cols: meta.cols,
        group: group.parse().unwrap_or(meta.cols).max(1),
        scales: group != "tensor",
        zeros,
    };
    let calibrated = options.text("search") == Some("gptq");
    let search = match options.text("search") {
        Some("lsq" | "gptq") => Search::LeastSquares,
        _ => Search::AbsMax,
    };
    let range = encode::range(view, context)?;
    let moments = context.moments.filter(|_| calibrated);
    if calibrated && moments.is_none() {
        context.note(format!(
            "{}(search=gptq) without calibration: rounded to nearest with search=lsq",
            codec.name
        ));
    }
    let weights = moments.and_then(gptq::column_weights).unwrap_or_default();
    let feedback = match moments.and_then(Moments::matrix) {
        Some(matrix) if !meta.is_empty() => Some(Feedback::new(matrix, meta.cols, true, context)?),
        _ => None,
    };
    let (multiplier, offset) = if layout.scales {
        (scale_multiplier(range.max_abs()), 0.0)
    } else {
        tensor_scale(view, &layout, search, range, &weights)
    };
    let quantizer = Quantizer {
        layout,
        search,
        multiplier,
        offset,
    };
    let (code_bytes, scale_bytes) = (layout.code_row_bytes(), layout.scale_row_bytes());
    let mut codes = AlignedBytes::zeroed(checked_mul(meta.rows, code_bytes)?)?;
    let mut scales = AlignedBytes::zeroed(checked_mul(meta.rows, scale_bytes)?)?;
    if !meta.is_empty() {
        let rows = match feedback {
            Some(_) => gptq::TASK_ROWS,
            None => task_rows(meta.cols),
        };
        let kernels = kernels();
        // Without scales there is nothing to cut into pieces: each task gets an empty one.
        let mut pieces = scales.chunks_mut((rows * scale_bytes).max(1));
        let tasks: Vec<_> = codes
            .chunks_mut(rows * code_bytes)
            .map(|codes| (codes, pieces.next().unwrap_or_default()))
            .collect();
        tasks.into_par_iter().enumerate().try_for_each_init(
            Vec::new,
            |floats: &mut Vec<f32>, (i, (codes, scales))| {
                context.check_cancel()?;
                let first = i * rows;
                let n = codes.len() / code_bytes;
                let floats = view.rows_f32(first..first + n, floats);
                let mut left = &mut *scales;
                let tiles = codes.chunks_mut(TILE_ROWS * code_bytes);
                for (w, codes) in floats.chunks(TILE_ROWS * meta.cols).zip(tiles) {
                    let rows = w.len() / meta.cols;
                    let (scales, rest) = left.split_at_mut(rows * scale_bytes);
                    left = rest;
                    kernels.quant_encode(&quantizer, w, &weights, rows, scales, codes);
                }
                if let Some(feedback) = &feedback {
                    round_with_feedback(&quantizer, feedback, floats, scales, codes);
                }
                Ok::<_, Error>(())
            },
        )?;
    }
    let codes = Buffer::owned(codes, 1, TILE_ROWS * code_bytes)?;
    let scales = Buffer::owned_in_chunks(scales, 2, scale_chunk(&layout, codes.chunk_len()))?;
    Ok(Box::new(Quant {
        meta,
        quantizer,
        codes,
        scales,
    }))
}

/// Rounds rows anew with the scales that they have, errors being fed back.
fn round_with_feedback(
    q: &Quantizer,
    feedback: &Feedback,
    w: &[f32],
    scales: &[u8],
    codes: &mut [u8],
) {
    let layout = &q.layout;
    let (cols, groups, order) = (layout.cols, layout.groups(), feedback.order());
    let rows = w.len() / cols;
    // In units of the multiplier, columns in the order in which they are fixed.
    let mut moved = vec![0.0f32; w.len()];
    for (moved, w) in moved.chunks_exact_mut(cols).zip(w.chunks_exact(cols)) {
        for (m, col) in moved.iter_mut().zip(order) {
            *m = w[*col] * q.unit();
        }
    }
    let mut grids: Vec<Grid> = Vec::with_capacity(rows * groups);
    for row in 0..rows {
        let tile = row / TILE_ROWS * TILE_ROWS;
        let in_tile = TILE_ROWS.min(rows - tile);
        let scales = &scales[tile * layout.scale_row_bytes()..];
        grids.extend((0..groups).map(|g| q.grid(scales, in_tile, g, row - tile)));
    }
    let mut chosen = vec![0u8; w.len()];
    feedback.run(
        &mut moved,
        |_, _| {},
        |row, place, v| {
            let col = order[place];
            let grid = &grids[row * groups + col / layout.group];
            let code = grid.code(v);
            chosen[row * cols + col] = code;
            grid.value(code)
        },
    );
    let tiles = codes.chunks_mut(TILE_ROWS * layout.code_row_bytes());
    for (chosen, tile) in chosen.chunks(TILE_ROWS * cols).zip(tiles) {
        store_codes(layout, chosen, chosen.len() / cols, tile);
    }
}

/// Bytes of the scales of the rows whose codes take a chunk, or of the fewest rows that
/// are whole tiles and whole cache lines.
fn scale_chunk(layout: &Layout, code_chunk: usize) -> usize {
    let step = 2 * TILE_ROWS;
    let steps = code_chunk / (layout.code_row_bytes() * step).max(1);
    let chunk = (steps.max(1) * step).saturating_mul(layout.scale_row_bytes());
    // Codes take more room than scales, but for rows of a few columns.
    chunk.clamp(64, code_chunk)
}

/// The power of two that brings the largest magnitude into [2^14, 2^15): scales are then
/// at most 2^14 and stay normal in f16 for groups 2^21 times smaller at 8 bits.
fn scale_multiplier(max_abs: f32) -> f32 {
    if max_abs == 0.0 {
        return 1.0;
    }
    let exponent = max_abs.log2().floor() as i32 - 14;
    // The least normal power of two: for denormal tensors precision is lost, not range.
    2.0f32.powi(exponent.max(-126))
}

/// One scale (and zero) for the whole tensor, in full f32.
fn tensor_scale(
    view: &View<'_>,
    layout: &Layout,
    search: Search,
    range: encode::Range,
    weights: &[f32],
) -> (f32, f32) {
    let half = layout.half() as f32;
    if range.max_abs() == 0.0 {
        return (1.0, 0.0);
    }
    if layout.zeros {
        // In f64: the width of the range may not fit f32.
        let width = f64::from(range.max) - f64::from(range.min);
        let s = (width / (2.0 * f64::from(half) - 1.0)) as f32;
        if s <= 0.0 || !s.is_normal() {
            // A constant: the zero alone holds it.
            let m = range.max_abs();
            return (m, range.max / m);
        }
        let fit = |s: f32| (s, (range.min + half * s) / s);
        return match search {
            Search::AbsMax => fit(s),
            Search::LeastSquares => best_by(view, weights, half, &SHRINKS.map(|k| fit(s * k))),
        };
    }
    let s0 = range.extreme() / -half;
    match search {
        Search::AbsMax => (s0, 0.0),
        Search::LeastSquares => best_by(view, weights, half, &SHRINKS.map(|k| (s0 * k, 0.0))),
    }
}

/// Starts of the search for a tensor's one scale: each costs a pass over the tensor.
const SHRINKS: [f32; 8] = [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.42, 0.35];

/// The start of least error; errors of column j count `weights[j]` times, if there are any.
fn best_by(view: &View<'_>, weights: &[f32], half: f32, starts: &[(f32, f32)]) -> (f32, f32) {
    let error = |(s, z): (f32, f32)| -> f64 {
        let window = task_rows(view.cols());
        let count = view.rows().div_ceil(window);
        let sums: Vec<f64> = (0..count)
            .into_par_iter()
            .map(|i| {
                let rows = i * window..((i + 1) * window).min(view.rows());
                let mut w = vec![0.0; rows.len() * view.cols()];
                view.read_rows_f32(rows, &mut w);
                let error = |v: &f32| {
                    let c = (v / s - z).round_ties_even().clamp(-half, half - 1.0);
                    f64::from(v - (c + z) * s).powi(2)
                };
                if weights.is_empty() {
                    return w.iter().map(error).sum();
                }
                let weights = weights.iter().cycle();
                w.iter()
                    .zip(weights)
                    .map(|(v, h)| f64::from(*h) * error(v))
                    .sum()
            })
            .collect();
        sums.iter().sum()
    };
    let mut best = (f64::INFINITY, starts[0]);
    for start in starts {
        let e = error(*start);
        if e < best.0 {
            best = (e, *start);
        }
    }
    best.1
}

fn open(mut stored: Stored) -> Result<Box<dyn Form>> {
    let meta = stored.meta.clone();
    if !meta.dtype.is_float() {
        return Err(Error::corrupt(format!("a quantised {} tensor", meta.dtype)));
    }
    let group = stored.integer("group", 0..=u64::from(u32::MAX))? as usize;
    if !matches!(group, 0 | 32 | 64 | 128) && group != meta.cols.max(1) {
        return Err(Error::corrupt(format!("a group of {group} columns")));
    }
    let layout = Layout {
        bits: stored.integer("bits", 2..=8)? as u32,
        cols: meta.cols,
        group: if group == 0 { meta.cols.max(1) } else { group },
        scales: group != 0,
        zeros: stored.flag("zeros")?,
    };
    let quantizer = Quantizer {
        layout,
        search: Search::AbsMax,
        multiplier: stored.float("multiplier")?,
        offset: stored.float("offset")?,
    };
    let codes = stored.buffer("codes", checked_mul(meta.rows, layout.code_row_bytes())?)?;
    let scales = stored.buffer("scales", checked_mul(meta.rows, layout.scale_row_bytes())?)?;
    Ok(Box::new(Quant {
        meta,
        quantizer,
        codes,
        scales,
    }))
}

impl Quant {
    /// Calls `f` with up to `most` tiles of the window at a time, or the last one that is
    /// not whole: their rows, scales, codes.
    fn for_tiles(
        &self,
        rows: Range<usize>,
        most: usize,
        code_scratch: &mut Vec<u8>,
        scale_scratch: &mut Vec<u8>,
        mut f: impl FnMut(Range<usize>, &[u8], &[u8]),
    ) -> Result<()> {
        let layout = &self.quantizer.layout;
        let first = rows.start / TILE_ROWS * TILE_ROWS;
        let last = rows.end.next_multiple_of(TILE_ROWS).min(self.meta.rows);
        let bytes_of = |row_bytes: usize| first * row_bytes..last * row_bytes;
        let (code_bytes, scale_bytes) = (layout.code_row_bytes(), layout.scale_row_bytes());
        let codes = self.codes.window(bytes_of(code_bytes), code_scratch)?;
        let scales = self.scales.window(bytes_of(scale_bytes), scale_scratch)?;
        let mut at = first;
        while at < last {
            let n = match last - at {
                left if left < TILE_ROWS => left,
                left => (left / TILE_ROWS).min(most) * TILE_ROWS,
            };
            let from = at - first;
            f(
                at..at + n,
                &scales[from * scale_bytes..(from + n) * scale_bytes],
                &codes[from * code_bytes..(from + n) * code_bytes],
            );
            at += n;
        }
        Ok(())
    }
}

impl Form for Quant {
    fn kind(&self) -> &'static str {
        DEF.kind
    }

    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn params(&self) -> Map<String, Value> {
        let q = &self.quantizer;
        let group = if q.layout.scales { q.layout.group } else { 0 };
        let mut params = Map::new();
        params.insert("bits".into(), q.layout.bits.into());
        params.insert("group".into(), group.into());
        params.insert("zeros".into(), q.layout.zeros.into());
        params.insert("multiplier".into(), f64::from(q.multiplier).into());
        params.insert("offset".into(), f64::from(q.offset).into());
        params
    }

    fn parts(&self) -> Vec<(&'static str, Part<'_>)> {
        vec![
            ("codes", Part::Buffer(&self.codes)),
            ("scales", Part::Buffer(&self.scales)),
        ]
    }

    fn map_buffers(&self, f: &mut dyn FnMut(&Buffer) -> Result<Buffer>) -> Result<Box<dyn Form>> {
        Ok(Box::new(Self {
            meta: self.meta.clone(),
            quantizer: self.quantizer,
            codes: f(&self.codes)?,
            scales: f(&self.scales)?,
        }))
    }

    fn is_exact(&self) -> bool {
        false
    }

    fn row_unit(&self) -> usize {
        TILE_ROWS
    }

    fn scratch_for(&self, rows: usize) -> usize {
        let layout = &self.quantizer.layout;
        self.codes.scratch_for(rows * layout.code_row_bytes())
            + self.scales.scratch_for(rows * layout.scale_row_bytes())
    }

    fn decode_f32(&self, rows: Range<usize>, out: &mut [f32], scratch: &mut Scratch) -> Result<()> {
        if out.is_empty() {
            return Ok(());
        }
        let cols = self.meta.cols;
        let kernels = kernels();
        let Scratch {
            bytes,
            more_bytes,
            floats,
            ..
        } = scratch;
        self.for_tiles(rows.clone(), 1, bytes, more_bytes, |tile, scales, codes| {
            if rows.start <= tile.start && tile.end <= rows.end {
                let to = (tile.start - rows.start) * cols;
                let out = &mut out[to..to + tile.len() * cols];
                kernels.quant_decode(&self.quantizer, scales, codes, tile.len(), out);
                return;
            }
            // The window cuts the tile: decode all of it, keep a part.
            floats.resize(tile.len() * cols, 0.0);
            kernels.quant_decode(&self.quantizer, scales, codes, tile.len(), floats);
            let keep = tile.start.max(rows.start)..tile.end.min(rows.end);
            out[(keep.start - rows.start) * cols..(keep.end - rows.start) * cols].copy_from_slice(
                &floats[(keep.start - tile.start) * cols..(keep.end - tile.start) * cols],
            );
        })
    }

    /// Where the loops for integers serve; else by windows decoded to f32.
    fn matmul(&self, x: &[f32], batch: usize, y: &mut [f32], product: &Product<'_>) -> Result<()> {
        if !product.fast && batch * EXACT_DIGITS > 4 * product.kernels.dot_batch() {
            // Three products in integers cost what one in f32 does; that one needs every
            // window decoded, which is little for so many rows.
            return product.by_rows(self, x, batch, y);
        }
        let digits = if product.fast { 1 } else { EXACT_DIGITS };
        let mut lease = Scratch::lease();
        let mut rounders = std::mem::take(&mut lease.rounded);
        let done = self.by_integers(x, batch, y, digits, &mut rounders, product);
        lease.rounded = rounders;
        if done? {
            if product.fast {
                product.round_activations();
            }
            return Ok(());
        }
        product.by_rows(self, x, batch, y)
    }

    fn matmul_t(
        &self,
        g: &[f32],
        batch: usize,
        y: &mut [f32],
        product: &Product<'_>,
    ) -> Result<()> {
        match batch <= FEW_ROWS {
            true => self.add_tiles(g, batch, y, product),
            false => product.by_rows_t(self, g, batch, y),
        }
    }
}

/// Rows of g up to which tiles are added as they lie: each costs an eighth of what decoding
/// them to f32 does.
const FEW_ROWS: usize = 6;

impl Quant {
    /// `g · W` for few rows of g: tiles are opened in registers. Windows that are not in memory
    /// are loaded in rounds, one by each thread, and then added by columns.
    fn add_tiles(
        &self,
        g: &[f32],
        batch: usize,
        y: &mut [f32],
        product: &Product<'_>,
    ) -> Result<()> {
        let (rows, cols) = (self.meta.rows, self.meta.cols);
        let layout = &self.quantizer.layout;
        let whole = rows / TILE_ROWS * TILE_ROWS;
        let workers = product.workers(self.matmul_macs().saturating_mul(batch as u64));
        let cost = |rows: usize| self.scratch_for(rows);
        let last_bytes = (rows - whole) * cols * 4;
        let limit = product.scratch_bytes.saturating_sub(last_bytes);
        let (loaders, step) = match whole == 0 || cost(whole) == 0 {
            true => (1, whole),
            false => plan_windows(whole, RUN_ROWS, RUN_ROWS, workers, limit, &cost),
        };
        y.fill(0.0);
        let mut leases: Vec<_> = (0..loaders).map(|_| Scratch::lease()).collect();
        for first in (0..whole).step_by((loaders * step).max(1)) {
            let end = whole.min(first + loaders * step);
            let windows = (first..end).step_by(step.max(1));
            let windows = windows.map(|at| at..end.min(at + step));
            let loaded: Vec<_> = windows.clone().map(|_| OnceLock::new()).collect();
            let left = Mutex::new(windows.zip(&mut leases).zip(&loaded));
            run_workers(loaders, || {
                loop {
                    let next = left.lock().unwrap_or_else(|e| e.into_inner()).next();
                    let Some(((window, lease), slot)) = next else {
                        return Ok(());
                    };
                    let of = |bytes: usize| window.start * bytes..window.end * bytes;
                    let Scratch {
                        bytes, more_bytes, ..
                    } = &mut **lease;
                    let codes = self.codes.window(of(layout.code_row_bytes()), bytes)?;
                    let scales = self
                        .scales
                        .window(of(layout.scale_row_bytes()), more_bytes)?;
                    // Each slot is met once.
                    let _ = slot.set((window, scales, codes));
                }
            })?;
            let panels = product.panels(y, cols, workers);
            run_workers(workers, || {
                while let Some((col, mut panel)) = panels.next() {
                    for (window, scales, codes) in loaded.iter().filter_map(OnceLock::get) {
                        let g = &g[window.start..];
                        let q = &self.quantizer;
                        let kernels = product.kernels;
                        kernels.quant_add(q, scales, codes, col, g, rows, &mut panel);
                    }
                }
                Ok(())
            })?;
        }
        if whole < rows {
            let mut last = Scratch::lease();
            let mut w = std::mem::take(&mut last.floats);
            w.resize((rows - whole) * cols, 0.0);
            self.decode_f32(whole..rows, &mut w, &mut last)?;
            let added = Added {
                w: &w,
                cols,
                g: &g[whole..],
                g_stride: rows,
            };
            product.add_rows(&added, 0, y)?;
            last.floats = w;
        }
        Ok(())
    }
}

/// Activations are rounded in groups of [`WIDE_GROUP`] columns if that leaves them an
/// error of −40 dB at most: outliers may ask for smaller groups.
const WIDE_NOISE: f64 = 1e-4;

/// Batch rows from which tiles are given wide groups first: that takes the time of the
/// products of some 20 rows, and saves a fifth to a quarter of the time of all.
const NARROW_BATCH: usize = 96;

/// Sums of tiles that are kept before they go to the output, at most, but for one tile's:
/// 256 KiB.
const SUMS: usize = 4096;

impl Quant {
    /// The product by rounded activations; false where they are not finite.
    fn by_integers(
        &self,
        x: &[f32],
        batch: usize,
        y: &mut [f32],
        digits: usize,
        rounders: &mut [Rounder; 3],
        product: &Product<'_>,
    ) -> Result<bool> {
        let q = &self.quantizer;
        let layout = &q.layout;
        let (cols, half) = (layout.cols, layout.half());
        let (most, tail) = (cols / BLOCK_COLS * BLOCK_COLS, cols % BLOCK_COLS);
        let wide = layout.group >= cols && cols > BLOCK_COLS;
        let narrow = batch >= NARROW_BATCH
            && product.kernels.dot_narrow_pays(layout.bits)
            && digits == 1
            && layout.scales
            && !layout.zeros
            && !wide
            && WIDE_GROUP.is_multiple_of(layout.group)
            && most >= WIDE_GROUP;
        let [main, rest, narrowed] = rounders;
        let round = |rounder: &mut Rounder, from, n, group, half| {
            rounder.round(x, cols, from, n, group, digits, half, product)
        };
        let noisy = |found: Rounded| found.noise > WIDE_NOISE * found.energy;
        let mut x_narrow = None;
        if narrow {
            match round(narrowed, 0, most, WIDE_GROUP, 128) {
                None => return Ok(false),
                Some(found) if noisy(found) => {}
                Some(_) => x_narrow = Some(narrowed.activations()),
            }
        }
        // With narrowed tiles only those that cannot be need the activations so.
        let fine_of = |rounder: &mut Rounder| {
            let group = if wide { WIDE_GROUP } else { layout.group };
            match round(rounder, 0, most, group, half) {
                Some(found) if digits == 1 && wide && noisy(found) => {
                    round(rounder, 0, most, BLOCK_COLS, half)
                }
                found => found,
            }
        };
        let fine_later = OnceLock::new();
        if most > 0 && x_narrow.is_none() && fine_of(main).is_none() {
            return Ok(false);
        }
        if tail > 0 && round(rest, most, tail, BLOCK_COLS, half).is_none() {
            return Ok(false);
        }
        let x_tail = (tail > 0).then(|| rest.activations());
        let blocks = cols.div_ceil(BLOCK_COLS);
        let block_bytes = BLOCK_COLS * TILE_ROWS;
        let rows_of_x = batch * digits;
        // Sums that go to the output together.
        let code_bytes = TILE_ROWS * layout.code_row_bytes();
        let at_once = tiles_at_once(code_bytes, rows_of_x, product.kernels.dot_batch());
        let at_once = at_once.min(SUMS.div_ceil(rows_of_x));
        let beside =
            2 * blocks * block_bytes + (at_once * rows_of_x) * size_of::<[f32; TILE_ROWS]>();
        let cost = |rows: usize| self.scratch_for(rows) + beside;
        let kernels = product.kernels;
        // Each digit takes an eighth of the time of f32, in and out of the cache.
        let macs = self.matmul_macs().saturating_mul(rows_of_x as u64) / 8;
        product.windows(self, macs, usize::MAX, y, &cost, |rows, panel, scratch| {
            let Scratch {
                bytes,
                more_bytes,
                sums,
                opened: [lines, heads],
                narrowed: [narrow_codes, narrow_scales],
                ..
            } = scratch;
            self.for_tiles(
                rows.clone(),
                at_once,
                bytes,
                more_bytes,
                |run, scales, codes| {
                    let tiles = run.len().div_ceil(TILE_ROWS);
                    let whole = run.len() % TILE_ROWS == 0;
                    sums.clear();
                    sums.resize(tiles * rows_of_x, [0.0; TILE_ROWS]);
                    if !whole {
                        // The last rows of the matrix.
                        lines.resize(blocks * block_bytes, 0);
                        kernels.quant_open(layout, codes, run.len(), 0, lines);
                        q.pad_heads(scales, run.len(), heads);
                    }
                    if most > 0 {
                        let w = match whole {
                            true => Tiles::stored(q, scales, codes),
                            false => Tiles::opened(q, most, heads, &lines[..most * TILE_ROWS]),
                        };
                        match &x_narrow {
                            Some(x_narrow) => {
                                let n = most.div_ceil(WIDE_GROUP) * 2 * TILE_ROWS;
                                narrow_scales.resize(n, 0);
                                narrow_codes.resize(most * TILE_ROWS, 0);
                                for (tile, sums) in sums.chunks_exact_mut(rows_of_x).enumerate() {
                                    let w = w.from(tile);
                                    if kernels.dot_narrow(&w, narrow_codes, narrow_scales) {
                                        let w = w.narrowed(narrow_scales, narrow_codes);
                                        kernels.dot_tiles(&w, x_narrow, sums);
                                    } else {
                                        let fine = fine_later.get_or_init(|| {
                                            let mut rounder = Rounder::default();
                                            // All are finite, as the wider groups were.
                                            fine_of(&mut rounder);
                                            rounder
                                        });
                                        kernels.dot_tiles(&w, &fine.activations(), sums);
                                    }
                                }
                            }
                            None => kernels.dot_tiles(&w, &main.activations(), sums),
                        }
                    }
                    if let Some(x) = &x_tail {
                        let code_bytes = layout.code_row_bytes() * TILE_ROWS;
                        let head_bytes = layout.scale_row_bytes() * TILE_ROWS;
                        let last =
                            layout.groups().saturating_sub(1) * (head_bytes / layout.groups());
                        for (tile, sums) in sums.chunks_exact_mut(rows_of_x).enumerate() {
                            let heads = match whole {
                                true => &scales[tile * head_bytes..(tile + 1) * head_bytes],
                                false => &heads[..],
                            };
                            if whole {
                                let codes = &codes[tile * code_bytes..(tile + 1) * code_bytes];
                                lines.resize(block_bytes, 0);
                                kernels.quant_open(layout, codes, TILE_ROWS, blocks - 1, lines);
                            }
                            let lines = &lines[lines.len() - block_bytes..];
                            let w = Tiles::opened(q, BLOCK_COLS, &heads[last..], lines);
                            kernels.dot_tiles(&w, x, sums);
                        }
                    }
                    for b in 0..batch {
                        let row =
                            &mut panel.row_mut(b)[run.start - rows.start..run.end - rows.start];
                        for (t, out) in row.chunks_mut(TILE_ROWS).enumerate() {
                            let digits_of = &sums[t * rows_of_x + b * digits..][..digits];
                            let (last, before) = digits_of.split_last().expect("a digit");
                            out.copy_from_slice(&last[..out.len()]);
                            // The smallest first.
                            for sums in before.iter().rev() {
                                for (out, sum) in out.iter_mut().zip(sums) {
                                    *out += sum;
                                }
                            }
                        }
                    }
                },
            )
        })?;
        Ok(true)
    }
}
