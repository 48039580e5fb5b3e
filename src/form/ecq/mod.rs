//! `ecq`: an entropy-coded scalar quantiser, and its trellis-coded variant.
//!
//! * Exploits: that weights are nearly Gaussian and so take few bits where the frequent
//!   indices get short codes; and that rows and columns are of unlike scale. One uniform
//!   step for the whole tensor gives the least squared error for its size; the scale of row
//!   × column picks the table that an index is coded by.
//! * Layout: `codes`: range-ANS units, one after another; see [`crate::kernel::ecq`]. Unit
//!   i is rows `unit_rows · (i / w) …` and columns `unit_cols · (i mod w) …`, where
//!   `w = ceil(cols / unit_cols)`. `head`: tables, row and column codes, lengths of the
//!   units; see [`head`]. `outliers`, if there are any: u64 of the index in row-major
//!   order, rising, and the f32 that stands there. Parameters `step`, `multiplier`, `low`,
//!   `trellis`, `precision`, `unit_rows`, `unit_cols`, `head`, `codes`, `outliers` (bytes
//!   of the first two, number of the last).
//! * Error: as asked, by `error`; by `bits`, on Gaussian weights, 1.5 dB above the
//!   rate-distortion limit of −6.02 dB per bit, and with `trellis=8` 0.6; on the matrices of
//!   MiniLM, whose rows and columns differ in scale, 1.2 and 0.2 to 0.35.
//! * Size: `bits` counts every stored byte. What tables, states and padding take beyond an
//!   eighth of the size asked for comes on top: that is so below a few thousand weights.
//! * Matmul: decodes a unit to scratch and multiplies densely.
//! * Loses: to `q` in speed at small batches; on natively sparse tensors to `mask` with
//!   values of this form; on tensors of a few thousand weights, whose tables and states
//!   are as large as their codes.
//!
//! Indices are chosen for the least of squared error plus λ times bits, λ being the slope
//! of the rate-distortion curve: for the plain quantiser thresholds that lie above the
//! middle, for the trellis a Viterbi search (entropy-coded trellis-coded quantisation,
//! Fischer and Wang 1992; two quantisers driven by parity as in JPEG 2000 part 2 and VVC).

mod encode;
mod head;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use serde_json::{Map, Value};

use super::{Form, FormDef, Meta, Part, Scratch, Stored, kernels};
use crate::bytes::checked_mul;
use crate::error::{Error, Result};
use crate::kernel::ecq::{CENTRE, Decoder, MAX_LOW, MAX_PRECISION};
use crate::pack::Buffer;
use crate::spec::{self, Codec, Kind, OptionDef, Options, Term};
use head::{Head, Layout};

pub(super) static DEF: FormDef = FormDef {
    kind: "ecq",
    codecs: &[Codec {
        name: "ecq",
        summary: "entropy-coded quantisation to a size or an error",
        options: &[
            OptionDef {
                key: "bits",
                aliases: &[],
                kind: Kind::Positive,
                default: Some("4"),
                doc: "most bits per weight, everything counted; at most 16",
            },
            OptionDef {
                key: "error",
                aliases: &[],
                kind: Kind::Share,
                default: None,
                doc: "largest relative error, ‖W−Ŵ‖/‖W‖, instead of bits",
            },
            OptionDef {
                key: "trellis",
                aliases: &[],
                kind: Kind::Choice(&["none", "8"]),
                default: Some("none"),
                doc: "states of a trellis: 0.9 dB less error at the same size, slower",
            },
        ],
    }],
    canonical,
    lossless: |_, _| false,
    encode: encode::encode_form,
    open,
};

/// Most bits a weight that can be asked for.
const MAX_BITS: f64 = 16.0;

fn canonical(_: &'static Codec, options: &Options) -> Result<Term> {
    let fail = |text: &str| Err(spec::at(options.column(), text.into()));
    if options.given("bits") && options.given("error") {
        return fail("ecq takes bits or error, not both");
    }
    if options.number("bits").is_some_and(|b| b > MAX_BITS) {
        return fail("ecq takes at most 16 bits");
    }
    options.canonical(&super::registry::nested)
}

/// How a matrix is cut into units.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Units {
    rows: usize,
    cols: usize,
    unit_rows: usize,
    unit_cols: usize,
}

/// Weights of a unit at most, whatever a file says: scratch is bounded by it.
const MAX_UNIT: usize = 1 << 22;

impl Units {
    /// Units of 128 Ki to 256 Ki weights where the tensor has them: 32 states and a
    /// length then cost less than 0.01 bit a weight.
    fn plan(rows: usize, cols: usize) -> Self {
        const WEIGHTS: usize = 128 << 10;
        const COLS: usize = 32 << 10;
        let unit_cols = cols.div_ceil(cols.div_ceil(COLS).max(1)).max(1);
        let blocks = (rows.saturating_mul(unit_cols) / WEIGHTS).max(1);
        let unit_rows = rows.div_ceil(blocks).max(1);
        Self {
            rows,
            cols,
            unit_rows: unit_rows.next_multiple_of(32).min(rows.max(1)),
            unit_cols,
        }
    }

    fn is_empty(&self) -> bool {
        self.rows == 0 || self.cols == 0
    }

    /// Windows of columns.
    fn across(&self) -> usize {
        self.cols.div_ceil(self.unit_cols)
    }

    fn count(&self) -> usize {
        if self.is_empty() {
            return 0;
        }
        self.rows.div_ceil(self.unit_rows) * self.across()
    }

    /// Rows and columns of a unit.
    fn at(&self, unit: usize) -> (Range<usize>, Range<usize>) {
        let (r, c) = (unit / self.across(), unit % self.across());
        let row = r * self.unit_rows;
        let col = c * self.unit_cols;
        (
            row..(row + self.unit_rows).min(self.rows),
            col..(col + self.unit_cols).min(self.cols),
        )
    }
}

#[derive(Clone, Debug)]
struct Ecq {
    meta: Meta,
    units: Units,
    step: f32,
    multiplier: f32,
    layout: Layout,
    content: Arc<Content>,
    codes: Buffer,
    head_bytes: Buffer,
    outlier_bytes: Buffer,
}

/// What was read of the small parts.
#[derive(Debug)]
struct Content {
    head: Head,
    /// Row-major index and value, rising.
    outliers: Vec<(u64, f32)>,
    /// Most bytes of a unit.
    longest: usize,
    /// Made when first needed: some 16 KiB a table.
    decoder: OnceLock<Decoder>,
}

/// Bytes of an outlier.
const OUTLIER: usize = 12;

fn open(mut stored: Stored) -> Result<Box<dyn Form>> {
    let meta = stored.meta.clone();
    if !meta.dtype.is_float() {
        return Err(Error::corrupt(format!("a quantised {} tensor", meta.dtype)));
    }
    let size = |stored: &Stored, name, most: usize| -> Result<usize> {
        Ok(stored.integer(name, 1..=most.max(1) as u64)? as usize)
    };
    let units = Units {
        rows: meta.rows,
        cols: meta.cols,
        unit_rows: size(&stored, "unit_rows", meta.rows)?,
        unit_cols: size(&stored, "unit_cols", meta.cols)?,
    };
    if checked_mul(units.unit_rows, units.unit_cols)? > MAX_UNIT {
        return Err(Error::limit(format!(
            "units of {} × {} weights",
            units.unit_rows, units.unit_cols
        )));
    }
    let most = crate::limits::MAX_TENSOR_BYTES;
    let length = |stored: &Stored, name| Ok::<_, Error>(stored.integer(name, 0..=most)? as usize);
    let (head, codes, outliers) = (
        length(&stored, "head")?,
        length(&stored, "codes")?,
        length(&stored, "outliers")?,
    );
    let layout = Layout {
        precision: stored.integer("precision", 10..=u64::from(MAX_PRECISION))? as u32,
        low: stored.integer("low", 0..=u64::from(MAX_LOW))? as u32,
        trellis: stored.integer("trellis", 0..=8)? == 8,
        rows: meta.rows,
        cols: meta.cols,
        units: units.count(),
    };
    if !layout.trellis && stored.integer("trellis", 0..=8)? != 0 {
        return Err(Error::corrupt(
            "a trellis of another number of states than 8",
        ));
    }
    let (step, multiplier) = (stored.float("step")?, stored.float("multiplier")?);
    let head_bytes = stored.buffer("head", head)?;
    let codes = stored.buffer("codes", codes)?;
    let outlier_bytes = stored.buffer("outliers", checked_mul(outliers, OUTLIER)?)?;
    Ok(Box::new(Ecq::new(
        meta,
        units,
        (step, multiplier),
        layout,
        [codes, head_bytes, outlier_bytes],
    )?))
}

impl Ecq {
    /// Reads the small parts, which are not trusted.
    fn new(
        meta: Meta,
        units: Units,
        (step, multiplier): (f32, f32),
        layout: Layout,
        [codes, head_bytes, outlier_bytes]: [Buffer; 3],
    ) -> Result<Self> {
        let mut scratch = Vec::new();
        let head = Head::read(
            head_bytes.window(0..head_bytes.len(), &mut scratch)?,
            &layout,
        )?;
        if head.starts.last() != Some(&(codes.len() as u64)) {
            return Err(Error::corrupt(format!(
                "units of other lengths than the {} bytes there are",
                codes.len()
            )));
        }
        let longest = head.starts.windows(2).map(|p| p[1] - p[0]).max();
        let bytes = outlier_bytes.window(0..outlier_bytes.len(), &mut scratch)?;
        let outliers: Vec<(u64, f32)> = bytes
            .as_chunks::<OUTLIER>()
            .0
            .iter()
            .map(|b| {
                let (at, value) = b.split_at(8);
                let at = at.first_chunk().map_or(0, |b| u64::from_le_bytes(*b));
                let value = value.first_chunk().map_or(0.0, |b| f32::from_le_bytes(*b));
                (at, value)
            })
            .collect();
        let rising = outliers.windows(2).all(|p| p[0].0 < p[1].0);
        if !rising || outliers.last().is_some_and(|o| o.0 >= meta.len() as u64) {
            return Err(Error::corrupt("outliers out of order or out of the tensor"));
        }
        Ok(Self {
            content: Arc::new(Content {
                head,
                outliers,
                longest: longest.unwrap_or(0) as usize,
                decoder: OnceLock::new(),
            }),
            meta,
            units,
            step,
            multiplier,
            layout,
            codes,
            head_bytes,
            outlier_bytes,
        })
    }

    fn decoder(&self) -> &Decoder {
        self.content.decoder.get_or_init(|| {
            let head = &self.content.head;
            let tables: Vec<[u16; 256]> = head
                .tables
                .iter()
                .map(|t| self.layout.expand(t, head.symmetric))
                .collect();
            Decoder::new(
                self.layout.precision,
                self.layout.low,
                self.layout.trellis,
                &tables,
                &head.of_class,
                head.offsets.map(|o| f32::from(o) / 128.0),
                (self.step, self.multiplier),
            )
        })
    }

    /// Decodes a unit to rows that begin every `stride` values of `out`.
    fn decode_unit(
        &self,
        unit: usize,
        out: &mut [f32],
        stride: usize,
        bytes: &mut Vec<u8>,
        neutral: &mut Vec<u8>,
    ) -> Result<()> {
        let head = &self.content.head;
        let (rows, cols) = self.units.at(unit);
        let range = head.starts[unit] as usize..head.starts[unit + 1] as usize;
        let start = range.start;
        let bytes = self.codes.window(range, bytes)?;
        neutral.resize(rows.len().max(cols.len()), CENTRE);
        let pick = |codes: &'_ [u8], range: Range<usize>| match codes.is_empty() {
            true => 0..range.len(),
            false => range,
        };
        let row_codes = if head.rows.is_empty() {
            &neutral[..]
        } else {
            &head.rows
        };
        let row_codes = &row_codes[pick(&head.rows, rows)];
        let col_codes = if head.cols.is_empty() {
            &neutral[..]
        } else {
            &head.cols
        };
        let col_codes = &col_codes[pick(&head.cols, cols)];
        if kernels().ecq_decode(self.decoder(), row_codes, col_codes, bytes, out, stride) {
            return Ok(());
        }
        Err(
            Error::corrupt(format!("unit {unit} of entropy codes does not decode"))
                .with_offset(start as u64),
        )
    }

    /// Puts the outliers of a window in.
    fn put_outliers(&self, rows: &Range<usize>, out: &mut [f32]) {
        let outliers = &self.content.outliers;
        let first = (rows.start * self.meta.cols) as u64;
        let from = outliers.partition_point(|o| o.0 < first);
        for (at, value) in &outliers[from..] {
            match out.get_mut((at - first) as usize) {
                Some(v) => *v = *value,
                None => break,
            }
        }
    }
}

impl Form for Ecq {
    fn kind(&self) -> &'static str {
        DEF.kind
    }

    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn params(&self) -> Map<String, Value> {
        let mut params = Map::new();
        params.insert("step".into(), f64::from(self.step).into());
        params.insert("multiplier".into(), f64::from(self.multiplier).into());
        params.insert("low".into(), self.layout.low.into());
        let states = if self.layout.trellis { 8 } else { 0 };
        params.insert("trellis".into(), states.into());
        params.insert("precision".into(), self.layout.precision.into());
        params.insert("unit_rows".into(), self.units.unit_rows.into());
        params.insert("unit_cols".into(), self.units.unit_cols.into());
        params.insert("head".into(), self.head_bytes.len().into());
        params.insert("codes".into(), self.codes.len().into());
        params.insert("outliers".into(), self.content.outliers.len().into());
        params
    }

    fn parts(&self) -> Vec<(&'static str, Part<'_>)> {
        vec![
            ("head", Part::Buffer(&self.head_bytes)),
            ("codes", Part::Buffer(&self.codes)),
            ("outliers", Part::Buffer(&self.outlier_bytes)),
        ]
    }

    fn map_buffers(&self, f: &mut dyn FnMut(&Buffer) -> Result<Buffer>) -> Result<Box<dyn Form>> {
        Ok(Box::new(Self {
            head_bytes: f(&self.head_bytes)?,
            codes: f(&self.codes)?,
            outlier_bytes: f(&self.outlier_bytes)?,
            ..self.clone()
        }))
    }

    fn decode_macs(&self) -> u64 {
        // Symbol by symbol: some ten nanoseconds.
        (self.meta.len() as u64).saturating_mul(400)
    }

    fn is_exact(&self) -> bool {
        false
    }

    fn row_unit(&self) -> usize {
        self.units.unit_rows
    }

    fn least_rows(&self) -> usize {
        1
    }

    fn scratch_for(&self, rows: usize) -> usize {
        let unit = self.units.unit_rows;
        let tile = match rows % unit {
            0 => 0,
            _ => unit * self.units.unit_cols * 4,
        };
        tile + self.codes.scratch_for(self.content.longest) + unit + self.units.unit_cols
    }

    fn decode_f32(&self, rows: Range<usize>, out: &mut [f32], scratch: &mut Scratch) -> Result<()> {
        if out.is_empty() {
            return Ok(());
        }
        let all = self.meta.cols;
        let unit_rows = self.units.unit_rows;
        let across = self.units.across();
        let Scratch {
            bytes,
            more_bytes,
            nested,
            ..
        } = scratch;
        let blocks = rows.start / unit_rows..rows.end.div_ceil(unit_rows);
        for unit in blocks.start * across..blocks.end * across {
            let (r, c) = self.units.at(unit);
            if rows.start <= r.start && r.end <= rows.end {
                let to = (r.start - rows.start) * all + c.start;
                self.decode_unit(unit, &mut out[to..], all, bytes, more_bytes)?;
                continue;
            }
            // The window cuts the unit: decode all of it, keep a part.
            let tile = &mut nested.get_or_insert_default().floats;
            tile.resize(r.len() * c.len(), 0.0);
            self.decode_unit(unit, tile, c.len(), bytes, more_bytes)?;
            for row in r.start.max(rows.start)..r.end.min(rows.end) {
                let to = (row - rows.start) * all + c.start;
                let from = (row - r.start) * c.len();
                out[to..to + c.len()].copy_from_slice(&tile[from..from + c.len()]);
            }
        }
        self.put_outliers(&rows, out);
        Ok(())
    }
}
