//! `sdr`: a sparse distributed representation, the positions of the active weights and
//! what stands there.
//!
//! * Exploits: that few weights are active, and that often all of them are alike: a
//!   binary or ternary tensor costs its positions, one value, and a sign bit each.
//! * Positions: the tensor is cut into blocks of `rows_per_block` rows (so many that a
//!   block has at most 65,536 weights); rows longer than that are blocks of their own and
//!   cut into segments of `width` columns. A segment's positions are the flat indices of
//!   its active weights, row by row; it stores the gaps between them as Rice codes with a
//!   parameter `k` of its own, remainders and quotients apart
//!   ([`crate::kernel::positions`] has the layout to the bit). Gaps of randomly placed
//!   weights are geometric, for which codes of this family are the best prefix code
//!   (Golomb 1966, Rice 1979).
//! * Size: measured bits per weight of positions and directory at 80, 90, 95 and 99 %
//!   sparsity 0.740, 0.476, 0.291, 0.083, against an entropy of 0.722, 0.469, 0.287,
//!   0.081. Elias–Fano (Elias 1974, Fano 1971), which stores high bits in unary and low
//!   bits plainly just so, but of the positions themselves, takes 0.850, 0.525, 0.313,
//!   0.086: a third to half a bit more for each active weight, in exchange for random
//!   access inside a segment, which no product needs. A full segment stores nothing, a
//!   half full one a bitmask (k = 0).
//! * Layout: `directory`: for each segment 8 bytes: u32, the bytes of its streams; u32,
//!   its active weights in the low 24 bits and `k` in the high 8. `positions`: for each
//!   segment the remainders, then the quotients, each padded to a byte with zeros. A
//!   segment whose weights are all active has no bytes. Values stand in the same order:
//!   * `values` = `equal`: every active weight is the element of `bits`;
//!   * `sign-equal`: that element, its top bit flipped where bit `i % 8` of byte `i / 8`
//!     of the part `signs` is set;
//!   * `sign-row`: plus or minus, by `signs` likewise, the scale of its row: `scales`, one
//!     bf16 a row;
//!   * `form`: the form `values`, as in `mask`: a vector when dense, else a matrix of 256
//!     columns.
//!
//!   Parameters: those named, `count` (all active weights), `position_bytes`, `whole`
//!   (whether every weight with any bit set is active).
//! * Error: none as it stands: all zero bits are inactive, so −0 and NaN keep their bits.
//!   With `threshold` or `keep` the weights left out are lost. `values=sign` keeps the
//!   mean magnitude of a row, the least squares scale for signs: its relative error on
//!   the active weights is `sqrt(1 − (mean |w|)² / mean w²)`, 0.18 for the tenth of
//!   Gaussian weights that are largest.
//! * Matmul: positions become lists of columns, a block at a time, and `count` products a row
//!   of `x` are made of them as of the indices of a `mask`.
//! * Loses: in speed to `dense` above some 10 % density for one row of `x`, above some 30 %
//!   for 64; in size to `dense` above 97 % (f32), and to `q` on weights that are not
//!   sparse.

use std::ops::Range;

use half::bf16;
use rayon::prelude::*;
use serde_json::{Map, Value};

use super::lists::{self, ListRoom, Sparse, WindowRoom};
use super::product::Product;
use super::select::{self, Keep, block_rows, for_set_bits, value_rows, values_shape};
use super::{EncodeContext, Form, FormDef, Meta, Part, Scratch, Stored, encode, kernels};
use crate::bytes::{AlignedBytes, checked_mul};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::kernel::KernelSet;
use crate::kernel::positions::{MAX_RICE, SEGMENT};
use crate::kernel::sparse::{IndexRows, PANEL_ROWS};
use crate::limits;
use crate::pack::Buffer;
use crate::spec::{self, Codec, Kind, OptionDef, Options, Spec, Term};
use crate::tensor::View;

const OPTIONS: &[OptionDef] = &[
    OptionDef {
        key: "keep",
        aliases: &[],
        kind: Kind::Share,
        default: None,
        doc: "keep this share of the values, the largest in magnitude",
    },
    OptionDef {
        key: "threshold",
        aliases: &[],
        kind: Kind::Positive,
        default: None,
        doc: "leave out values of a smaller magnitude",
    },
    OptionDef {
        key: "values",
        aliases: &[],
        kind: Kind::Spec,
        default: Some("exact"),
        doc: "exact; sign: a sign and a scale per row; or a spec: f16, int8, [int4(group=64)]",
    },
];

pub(super) static DEF: FormDef = FormDef {
    kind: "sdr",
    codecs: &[
        Codec {
            name: "sdr",
            summary: "positions of the active weights near their entropy, and their values",
            options: OPTIONS,
        },
        Codec {
            name: "outliers",
            summary: "the 0.5 % largest weights, for a sum: short for sdr(keep=0.5%)",
            options: OPTIONS,
        },
    ],
    canonical: |codec, options| {
        let (keep, threshold) = (options.given("keep"), options.given("threshold"));
        if keep && threshold {
            return Err(spec::at(
                options.column(),
                format!("{} takes threshold or keep, not both", codec.name),
            ));
        }
        let mut term = options.canonical(&|spec| Ok(Choice::of(spec)?.spec()))?;
        if codec.name == "outliers" {
            if !keep && !threshold {
                let values = std::mem::take(&mut term.args);
                term = term.with("keep", "0.5%");
                term.args.extend(values);
            }
            term.name = "sdr".into();
        }
        Ok(term)
    },
    lossless: |codec, options| {
        codec.name == "sdr"
            && !options.given("threshold")
            && !options.given("keep")
            && Choice::chosen(options).is_ok_and(|c| c.is_lossless())
    },
    encode: encode_form,
    open,
};

/// What the option `values` asks for.
enum Choice {
    Exact,
    Sign,
    Spec(Spec),
}

impl Choice {
    fn chosen(options: &Options) -> Result<Self> {
        options.spec("values").map_or(Ok(Self::Exact), Self::of)
    }

    fn of(spec: &Spec) -> Result<Self> {
        if let ([term], []) = (spec.terms.as_slice(), spec.packs.as_slice())
            && term.args.is_empty()
        {
            match term.name.as_str() {
                "exact" | "dense" => return Ok(Self::Exact),
                "sign" => return Ok(Self::Sign),
                _ => {}
            }
        }
        Ok(Self::Spec(super::registry::nested(spec)?))
    }

    fn spec(self) -> Spec {
        match self {
            Self::Exact => Spec::form(Term::bare("exact")),
            Self::Sign => Spec::form(Term::bare("sign")),
            Self::Spec(spec) => spec,
        }
    }

    fn is_lossless(&self) -> bool {
        match self {
            Self::Exact => true,
            Self::Sign => false,
            Self::Spec(spec) => super::registry::is_lossless(spec).unwrap_or(false),
        }
    }
}

/// How a matrix is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cut {
    rows: usize,
    cols: usize,
    /// Rows of a block: 1 where rows are cut.
    rows_per_block: usize,
    /// Columns of a segment.
    width: usize,
}

impl Cut {
    fn new(meta: &Meta) -> Self {
        let cols = meta.cols;
        let width = cols.div_ceil(cols.div_ceil(SEGMENT).max(1));
        let rows_per_block = match width == cols {
            true => SEGMENT / cols.max(1),
            false => 1,
        };
        Self::of(meta, rows_per_block, width)
    }

    fn of(meta: &Meta, rows_per_block: usize, width: usize) -> Self {
        let (rows, cols) = match meta.is_empty() {
            true => (0, 0),
            false => (meta.rows, meta.cols),
        };
        Self {
            rows,
            cols,
            rows_per_block,
            width,
        }
    }

    /// Whether no segment passes 65,536 weights and only whole rows share one.
    fn is_right(&self) -> bool {
        let area = self.rows_per_block.checked_mul(self.width);
        let whole = self.width >= self.cols;
        self.rows_per_block > 0
            && self.width > 0
            && area.is_some_and(|a| a <= SEGMENT)
            && (whole || self.rows_per_block == 1)
    }

    fn blocks(&self) -> usize {
        self.rows.div_ceil(self.rows_per_block.max(1))
    }

    /// Segments of a block.
    fn across(&self) -> usize {
        self.cols.div_ceil(self.width.max(1))
    }

    fn block(&self, b: usize) -> Range<usize> {
        block_rows(b, self.rows_per_block, self.rows)
    }

    fn columns(&self, j: usize) -> Range<usize> {
        j * self.width..((j + 1) * self.width).min(self.cols)
    }

    /// Blocks that a window of rows touches.
    fn blocks_of(&self, rows: &Range<usize>) -> Range<usize> {
        rows.start / self.rows_per_block..rows.end.div_ceil(self.rows_per_block)
    }
}

/// Where a segment's streams and values begin; the next one says where they end.
#[derive(Clone, Copy, Debug)]
struct Segment {
    byte: usize,
    value: usize,
    k: u32,
}

/// One element that stands for all.
#[derive(Clone, Copy, Debug)]
struct One {
    bits: u64,
    value: f32,
}

impl One {
    fn new(dtype: DType, bits: u64) -> Self {
        let mut value = [0.0];
        dtype.to_f32(&bits.to_le_bytes()[..dtype.size()], &mut value);
        Self {
            bits,
            value: value[0],
        }
    }
}

#[derive(Debug)]
enum Values {
    Equal(One),
    SignEqual { one: One, signs: Buffer },
    SignRow { signs: Buffer, scales: Buffer },
    Form(Box<dyn Form>),
}

#[derive(Debug)]
struct Sdr {
    meta: Meta,
    cut: Cut,
    directory: Buffer,
    positions: Buffer,
    values: Values,
    whole: bool,
    count: usize,
    /// The directory, read, checked and added up, with one past the end.
    segments: Vec<Segment>,
    /// Most stream bytes and most values of a block.
    most: (usize, usize),
}

/// One block as its encoder leaves it.
struct Coded {
    directory: Vec<u8>,
    stream: Vec<u8>,
    values: Vec<u8>,
    /// Active weights of each row.
    counts: Vec<u32>,
}

fn encode_form(
    view: &View<'_>,
    codec: &'static Codec,
    options: &Options,
    context: &EncodeContext,
) -> Result<Box<dyn Form>> {
    let meta = Meta::new(view.dtype(), view.shape())?;
    let choice = Choice::chosen(options)?;
    let mut keep = Keep::chosen(view, codec, options, context)?;
    if matches!(choice, Choice::Sign) && !meta.dtype.is_float() {
        return Err(Error::invalid(format!(
            "{} with values=sign takes floats; the tensor is {}, which is always stored losslessly",
            codec.name, meta.dtype
        )));
    }
    let whole = matches!(keep, Keep::NonZero);
    if whole && meta.dtype.is_float() && !choice.is_lossless() {
        encode::range(view, context)?;
        // A −0 has a bit set, but no sign to keep.
        keep = Keep::AtLeast(0.0);
    }
    let cut = Cut::new(&meta);
    let ties = select::ties(view, keep, cut.rows_per_block, cut.blocks());
    let coded: Vec<Coded> = ties
        .par_iter()
        .enumerate()
        .map(|(b, ties)| {
            context.check_cancel()?;
            Ok(code_block(view, &cut, cut.block(b), keep, *ties))
        })
        .collect::<Result<_>>()?;

    let size = meta.dtype.size();
    let count = coded.iter().map(|c| c.values.len()).sum::<usize>() / size;
    let directory = join(coded.iter().map(|c| c.directory.as_slice()), 0)?;
    let positions = join(coded.iter().map(|c| c.stream.as_slice()), 0)?;
    let values = |len: usize| join(coded.iter().map(|c| c.values.as_slice()), len);
    let values = match choice {
        Choice::Exact => {
            let values = values(count * size)?;
            exact_values(meta.dtype, count, values, context)?
        }
        Choice::Sign => sign_values(&meta, &values(count * size)?, &coded)?,
        Choice::Spec(spec) => {
            let shape = values_shape(&spec, count);
            let values = values(checked_mul(shape.iter().product(), size)?)?;
            let form = select::encode_values(meta.dtype, &shape, values, &spec, context)?;
            Values::Form(form)
        }
    };
    let stored = directory.len() / 8;
    let segments = read_directory(&cut, &directory, positions.len(), count)?;
    let unit = positions.len().div_ceil(stored.max(1));
    Ok(Box::new(Sdr {
        most: most(&cut, &segments),
        directory: Buffer::owned(directory, 4, 8)?,
        positions: Buffer::owned(positions, 1, unit)?,
        values,
        whole,
        count,
        segments,
        cut,
        meta,
    }))
}

/// Puts pieces together; zeros fill the result up to `len` bytes.
fn join<'a>(pieces: impl Iterator<Item = &'a [u8]> + Clone, len: usize) -> Result<AlignedBytes> {
    let total: usize = pieces.clone().map(<[u8]>::len).sum();
    let mut out = AlignedBytes::zeroed(total.max(len))?;
    let mut at = 0;
    for piece in pieces {
        out[at..at + piece.len()].copy_from_slice(piece);
        at += piece.len();
    }
    Ok(out)
}

fn code_block(view: &View<'_>, cut: &Cut, rows: Range<usize>, keep: Keep, ties: usize) -> Coded {
    let stride = cut.cols.div_ceil(8);
    let mut bits = vec![0u8; rows.len() * stride];
    select::fill_mask(view, rows.clone(), keep, ties, &mut bits);
    let counts: Vec<u32> = bits
        .chunks_exact(stride)
        .map(|row| kernels().mask_count(row) as u32)
        .collect();
    let active: usize = counts.iter().map(|n| *n as usize).sum();
    let mut values = vec![0u8; active * view.dtype().size()];
    select::gather(view, rows.clone(), &bits, &mut values);

    let (mut directory, mut stream, mut list) = (Vec::new(), Vec::new(), Vec::new());
    for j in 0..cut.across() {
        let columns = cut.columns(j);
        list.clear();
        for (r, row) in bits.chunks_exact(stride).enumerate() {
            let base = r * columns.len();
            let from = columns.start / 8;
            for_set_bits(&row[from..columns.end.div_ceil(8)], |i| {
                let col = from * 8 + i;
                if columns.contains(&col) {
                    list.push((base + col - columns.start) as u32);
                }
            });
        }
        let start = stream.len();
        let k = code_segment(&list, rows.len() * columns.len(), &mut stream);
        directory.extend(((stream.len() - start) as u32).to_le_bytes());
        directory.extend((list.len() as u32 | k << 24).to_le_bytes());
    }
    Coded {
        directory,
        stream,
        values,
        counts,
    }
}

/// Appends the streams of one segment and gives its Rice parameter.
fn code_segment(positions: &[u32], elements: usize, out: &mut Vec<u8>) -> u32 {
    if positions.is_empty() || positions.len() == elements {
        return 0;
    }
    let gaps = || {
        let before = std::iter::once(None).chain(positions.iter().map(Some));
        positions
            .iter()
            .zip(before)
            .map(|(p, b)| b.map_or(*p, |b| p - b - 1))
    };
    let size = |k: u32| -> u64 {
        let quotients: u64 = gaps().map(|g| u64::from(g >> k)).sum();
        quotients + positions.len() as u64 * u64::from(k + 1)
    };
    // The best parameter is within one of the logarithm of the mean gap.
    let total: u64 = gaps().map(u64::from).sum();
    let near = (total / positions.len() as u64).max(1).ilog2();
    let k = (near.saturating_sub(1)..=(near + 1).min(MAX_RICE))
        .min_by_key(|k| size(*k))
        .unwrap_or(0);
    let mut at = 0;
    let first = out.len();
    out.resize(first + (positions.len() * k as usize).div_ceil(8), 0);
    for gap in gaps() {
        put(&mut out[first..], at, u64::from(gap & ((1 << k) - 1)));
        at += k as usize;
    }
    let first = out.len();
    let ones: Vec<usize> = gaps()
        .enumerate()
        .scan(0, |sum, (i, g)| {
            *sum += (g >> k) as usize;
            Some(*sum + i)
        })
        .collect();
    out.resize(first + ones.last().map_or(0, |e| e / 8 + 1), 0);
    for e in ones {
        out[first + e / 8] |= 1 << (e % 8);
    }
    k
}

/// Sets bits of `value` (at most 15) from bit `at` on.
fn put(out: &mut [u8], at: usize, value: u64) {
    for (byte, v) in out[at / 8..]
        .iter_mut()
        .zip((value << (at % 8)).to_le_bytes())
        .take(3)
    {
        *byte |= v;
    }
}

/// The element's bits as an integer.
fn element(bytes: &[u8]) -> u64 {
    let mut word = [0u8; 8];
    word[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(word)
}

/// Values as they are, in the smallest way that keeps every bit.
fn exact_values(
    dtype: DType,
    count: usize,
    values: AlignedBytes,
    context: &EncodeContext,
) -> Result<Values> {
    let size = dtype.size();
    let elements = || values.chunks_exact(size).map(element);
    let first = elements().next().unwrap_or(0);
    if elements().all(|e| e == first) {
        return Ok(Values::Equal(One::new(dtype, first)));
    }
    let sign = 1u64 << (size * 8 - 1);
    if dtype.is_float() && elements().all(|e| (e ^ first) & !sign == 0) {
        let signs = sign_bits(elements().map(|e| e & sign != 0), count)?;
        let one = One::new(dtype, first & !sign);
        return Ok(Values::SignEqual { one, signs });
    }
    let spec = Spec::form(Term::bare("dense"));
    let form = select::encode_values(dtype, &[count], values, &spec, context)?;
    Ok(Values::Form(form))
}

fn sign_bits(negative: impl Iterator<Item = bool>, count: usize) -> Result<Buffer> {
    let mut bits = AlignedBytes::zeroed(count.div_ceil(8))?;
    for (i, negative) in negative.enumerate() {
        bits[i / 8] |= u8::from(negative) << (i % 8);
    }
    Buffer::owned(bits, 1, 1)
}

/// Signs, and the mean magnitude of each row.
fn sign_values(meta: &Meta, values: &[u8], coded: &[Coded]) -> Result<Values> {
    let size = meta.dtype.size();
    let mut scales = AlignedBytes::zeroed(checked_mul(meta.rows, 2)?)?;
    let counts = coded.iter().flat_map(|c| &c.counts).map(|n| *n as usize);
    let (mut rest, mut floats) = (values, Vec::new());
    for (n, scale) in counts.zip(scales.as_chunks_mut::<2>().0) {
        let (row, tail) = rest.split_at(n * size);
        rest = tail;
        floats.resize(n, 0.0f32);
        meta.dtype.to_f32(row, &mut floats);
        let sum: f64 = floats.iter().map(|v| f64::from(v.abs())).sum();
        let mean = sum / n.max(1) as f64;
        // The mean may round past the largest finite value.
        let mean = bf16::from_f32((mean as f32).min(bf16::MAX.to_f32()));
        *scale = mean.to_le_bytes();
    }
    let negative = values.chunks_exact(size).map(|e| e[size - 1] & 0x80 != 0);
    Ok(Values::SignRow {
        signs: sign_bits(negative, values.len() / size)?,
        scales: Buffer::owned(scales, 2, 2)?,
    })
}

/// Reads and checks the directory of `count` values and `bytes` bytes of positions.
fn read_directory(cut: &Cut, directory: &[u8], bytes: usize, count: usize) -> Result<Vec<Segment>> {
    let mut segments = Vec::with_capacity(directory.len() / 8 + 1);
    let (mut byte, mut value) = (0usize, 0usize);
    for (s, entry) in directory.as_chunks::<8>().0.iter().enumerate() {
        let entry = u64::from_le_bytes(*entry);
        let (len, n) = (entry as u32 as usize, (entry >> 32) as usize & 0xff_ffff);
        let k = (entry >> 56) as u32;
        let (rows, columns) = (cut.block(s / cut.across()), cut.columns(s % cut.across()));
        let elements = rows.len() * columns.len();
        segments.push(Segment { byte, value, k });
        // At most two bits a weight are ever needed: a segment of many takes k = 0.
        let least = (n * k as usize).div_ceil(8) + n.div_ceil(8);
        let right = match n {
            0 => len == 0,
            _ if n == elements => len == 0,
            _ => n < elements && k <= MAX_RICE && len >= least && len <= SEGMENT / 4 + least,
        };
        if !right {
            return Err(Error::corrupt(format!(
                "segment {s} of {elements} weights says {n} active ones in {len} bytes of parameter {k}"
            )));
        }
        // Sums of fewer than 2^23 entries of 32 bits.
        byte += len;
        value += n;
    }
    segments.push(Segment { byte, value, k: 0 });
    if byte != bytes || value != count {
        return Err(Error::corrupt(format!(
            "a directory of {value} active weights in {byte} bytes for {count} in {bytes}"
        )));
    }
    Ok(segments)
}

fn most(cut: &Cut, segments: &[Segment]) -> (usize, usize) {
    let ends = segments.iter().step_by(cut.across().max(1));
    let pairs = ends.clone().zip(ends.skip(1));
    pairs.fold((0, 0), |(bytes, values), (a, b)| {
        (bytes.max(b.byte - a.byte), values.max(b.value - a.value))
    })
}

/// Most bytes of a directory: what is made of it takes three times as much.
const MAX_DIRECTORY: u64 = limits::MAX_INDEX_BYTES / 4;

fn open(mut stored: Stored) -> Result<Box<dyn Form>> {
    let meta = stored.meta.clone();
    let count = stored.integer("count", 0..=meta.len() as u64)? as usize;
    let cut = Cut::of(
        &meta,
        stored.integer("rows_per_block", 0..=SEGMENT as u64)? as usize,
        stored.integer("width", 0..=SEGMENT as u64)? as usize,
    );
    if !meta.is_empty() && !cut.is_right() {
        return Err(Error::corrupt(format!(
            "segments of {} rows × {} columns in {} × {}",
            cut.rows_per_block, cut.width, cut.rows, cut.cols
        )));
    }
    let bytes = stored.integer("position_bytes", 0..=limits::MAX_TENSOR_BYTES)? as usize;
    let directory_bytes = checked_mul(checked_mul(cut.blocks(), cut.across())?, 8)?;
    if directory_bytes as u64 > MAX_DIRECTORY {
        return Err(Error::limit(format!(
            "a directory of {directory_bytes} bytes"
        )));
    }
    let directory = stored.buffer("directory", directory_bytes)?;
    let positions = stored.buffer("positions", bytes)?;
    let one = |stored: &Stored| {
        let most = u64::MAX >> (64 - meta.dtype.size() * 8);
        Ok::<_, Error>(One::new(meta.dtype, stored.integer("bits", 0..=most)?))
    };
    let float = || match meta.dtype.is_float() {
        true => Ok(()),
        false => Err(Error::corrupt(format!("signs of a {} tensor", meta.dtype))),
    };
    let values = match stored.text("values")?.to_owned().as_str() {
        "equal" => Values::Equal(one(&stored)?),
        "sign-equal" => {
            float()?;
            Values::SignEqual {
                one: one(&stored)?,
                signs: stored.buffer("signs", count.div_ceil(8))?,
            }
        }
        "sign-row" => {
            float()?;
            Values::SignRow {
                signs: stored.buffer("signs", count.div_ceil(8))?,
                scales: stored.buffer("scales", checked_mul(meta.rows, 2)?)?,
            }
        }
        "form" => {
            let form = stored.form("values")?;
            select::check_values(&*form, &meta, count)?;
            Values::Form(form)
        }
        other => return Err(Error::corrupt(format!("values of the kind '{other}'"))),
    };
    let mut scratch = Vec::new();
    let entries = directory.window(0..directory.len(), &mut scratch)?;
    let segments = read_directory(&cut, entries, bytes, count)?;
    Ok(Box::new(Sdr {
        whole: stored.flag("whole")?,
        most: most(&cut, &segments),
        meta,
        cut,
        directory,
        positions,
        values,
        count,
        segments,
    }))
}

/// The active weights of one row in one segment.
struct Line<'a> {
    row: usize,
    /// Columns of the segment.
    columns: Range<usize>,
    /// What stands for its first column in `positions`.
    base: u32,
    positions: &'a [u32],
    /// Index of its first value among all.
    first: usize,
}

/// Values of a window.
enum Loaded<'a> {
    Equal(f32),
    /// The bit of value `first` is the lowest of the first byte.
    Signs {
        signs: &'a [u8],
        first: usize,
        scales: Scales<'a>,
    },
    Floats {
        values: &'a [f32],
        first: usize,
    },
}

#[derive(Clone, Copy)]
enum Scales<'a> {
    One(f32),
    Rows(&'a [u8], usize),
}

impl Scales<'_> {
    fn of(self, row: usize) -> f32 {
        match self {
            Self::One(v) => v,
            Self::Rows(bytes, first) => {
                let at = (row - first) * 2;
                bf16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
            }
        }
    }
}

impl Sdr {
    /// The values that the blocks of a window hold.
    fn value_range(&self, blocks: &Range<usize>) -> Range<usize> {
        let across = self.cut.across();
        self.segments[blocks.start * across].value..self.segments[blocks.end * across].value
    }

    fn load<'a>(
        &'a self,
        rows: &Range<usize>,
        bytes: &'a mut Vec<u8>,
        floats: &'a mut Vec<f32>,
        nested: &'a mut Scratch,
    ) -> Result<Loaded<'a>> {
        let values = self.value_range(&self.cut.blocks_of(rows));
        let signs_of = |signs: &'a Buffer, bytes: &'a mut Vec<u8>| {
            signs.window(values.start / 8..values.end.div_ceil(8), bytes)
        };
        let first = values.start / 8 * 8;
        Ok(match &self.values {
            Values::Equal(one) => Loaded::Equal(one.value),
            Values::SignEqual { one, signs } => Loaded::Signs {
                signs: signs_of(signs, bytes)?,
                first,
                scales: Scales::One(one.value),
            },
            Values::SignRow { signs, scales } => {
                let range = rows.start * 2..rows.end * 2;
                let scales = scales.window(range, &mut nested.bytes)?;
                Loaded::Signs {
                    signs: signs_of(signs, bytes)?,
                    first,
                    scales: Scales::Rows(scales, rows.start),
                }
            }
            Values::Form(form) => {
                let (value_rows, skip) = value_rows(&**form, &values);
                let n = value_rows.len() * form.meta().cols;
                if floats.capacity() < n {
                    // Windows differ; growing by doubling would pass the scratch limit.
                    *floats = Vec::new();
                    floats.reserve_exact(n);
                }
                floats.resize(n, 0.0);
                form.decode_f32(value_rows, floats, nested)?;
                Loaded::Floats {
                    values: &floats[skip..skip + values.len()],
                    first: values.start,
                }
            }
        })
    }

    /// Decodes the positions of a window and calls `f` with each row, left to right.
    fn walk(
        &self,
        rows: &Range<usize>,
        kernels: &KernelSet,
        bytes: &mut Vec<u8>,
        positions: &mut Vec<u32>,
        mut f: impl FnMut(Line<'_>),
    ) -> Result<()> {
        let cut = &self.cut;
        let across = cut.across();
        let blocks = cut.blocks_of(rows);
        let start = self.segments[blocks.start * across].byte;
        let end = self.segments[blocks.end * across].byte;
        let bytes = self.positions.window(start..end, bytes)?;
        for s in blocks.start * across..blocks.end * across {
            let (segment, next) = (self.segments[s], self.segments[s + 1]);
            let (block, columns) = (cut.block(s / across), cut.columns(s % across));
            let elements = block.len() * columns.len();
            let stream = &bytes[segment.byte - start..next.byte - start];
            let count = next.value - segment.value;
            positions.resize(count, 0);
            decode_segment(kernels, segment.k, stream, elements, positions).ok_or_else(|| {
                Error::corrupt(format!(
                    "the positions of segment {s} do not fit its {count}"
                ))
            })?;
            let mut done = 0;
            for row in block.clone() {
                if row >= rows.end {
                    break;
                }
                let base = ((row - block.start) * columns.len()) as u32;
                let n = match row + 1 == block.end {
                    true => count - done,
                    false => {
                        kernels.positions_below(&positions[done..], base + columns.len() as u32)
                    }
                };
                if row >= rows.start {
                    f(Line {
                        row,
                        columns: columns.clone(),
                        base,
                        positions: &positions[done..done + n],
                        first: segment.value + done,
                    });
                }
                done += n;
            }
        }
        Ok(())
    }
}

/// A window whose streams and values are at hand.
struct Opened<'a> {
    /// Stream bytes from `start` on.
    bytes: &'a [u8],
    start: usize,
    loaded: Loaded<'a>,
}

impl Sparse for Sdr {
    type Opened<'a> = Opened<'a>;

    fn open<'a>(
        &'a self,
        rows: &Range<usize>,
        _: &KernelSet,
        room: WindowRoom<'a>,
    ) -> Result<Opened<'a>> {
        let across = self.cut.across();
        let blocks = self.cut.blocks_of(rows);
        let start = self.segments[blocks.start * across].byte;
        let end = self.segments[blocks.end * across].byte;
        Ok(Opened {
            bytes: self.positions.window(start..end, room.bytes)?,
            start,
            loaded: self.load(rows, room.more_bytes, room.floats, room.nested)?,
        })
    }

    fn strip_cols(&self) -> usize {
        self.cut.width
    }

    fn list_rows(&self) -> usize {
        // Whole blocks.
        let unit = self.row_unit();
        unit * PANEL_ROWS.div_ceil(unit)
    }

    fn lists<'a>(
        &self,
        opened: &'a Opened<'_>,
        rows: Range<usize>,
        strip: usize,
        kernels: &KernelSet,
        room: ListRoom<'a>,
    ) -> Result<IndexRows<'a>> {
        let (cut, across) = (&self.cut, self.cut.across());
        let columns = cut.columns(strip);
        // Where there are several strips a block is a row.
        let blocks = cut.blocks_of(&rows);
        let segment = |block: usize| {
            let s = block * across + strip;
            (self.segments[s], self.segments[s + 1])
        };
        let counts = blocks
            .clone()
            .map(|b| segment(b).1.value - segment(b).0.value);
        let (all, most) = counts.fold((0, 0), |(all, most), n| (all + n, most.max(n)));
        let first = segment(blocks.start).0.value;

        let listed = all.div_ceil(2);
        room.positions.resize(rows.len() + 1 + listed + most, 0);
        let (bounds, rest) = room.positions.split_at_mut(rows.len() + 1);
        let (list, positions) = rest.split_at_mut(listed);
        let indices: &mut [u16] = bytemuck::cast_slice_mut(list);
        let made = match &opened.loaded {
            Loaded::Floats { .. } => &mut [],
            _ => {
                room.floats.resize(all, 0.0);
                &mut room.floats[..]
            }
        };
        let mut at = 0;
        for block in blocks {
            let (here, next) = segment(block);
            let count = next.value - here.value;
            let stream = &opened.bytes[here.byte - opened.start..next.byte - opened.start];
            let block = cut.block(block);
            let elements = block.len() * columns.len();
            let positions = &mut positions[..count];
            decode_segment(kernels, here.k, stream, elements, positions).ok_or_else(|| {
                Error::corrupt(format!(
                    "the positions of rows {}..{} do not fit their {count}",
                    block.start, block.end
                ))
            })?;
            let mut done = 0;
            for row in block.clone() {
                if rows.contains(&row) {
                    bounds[row - rows.start] = at as u32;
                }
                let base = ((row - block.start) * columns.len()) as u32;
                let n = match row + 1 == block.end {
                    true => count - done,
                    false => {
                        kernels.positions_below(&positions[done..], base + columns.len() as u32)
                    }
                };
                if rows.contains(&row) {
                    let positions = &positions[done..done + n];
                    kernels.positions_narrow(positions, base, &mut indices[at..at + n]);
                    match &opened.loaded {
                        Loaded::Equal(v) => made[at..at + n].fill(*v),
                        Loaded::Signs {
                            signs,
                            first: bit,
                            scales,
                        } => {
                            let made = &mut made[at..at + n];
                            kernels.sign_values(signs, first + at - bit, scales.of(row), made);
                        }
                        Loaded::Floats { .. } => {}
                    }
                }
                (done, at) = (done + n, at + n);
                if row + 1 == rows.end {
                    break;
                }
            }
            bounds[rows.len()] = at as u32;
        }
        let values = match &opened.loaded {
            Loaded::Floats { values, first: of } => &values[first - of..],
            _ => &*made,
        };
        Ok(IndexRows {
            bounds,
            indices: &indices[..at],
            cols: columns.len(),
            values: &values[..at],
        })
    }

    fn count(&self) -> usize {
        self.count
    }

    fn window_bytes(&self, rows: usize) -> usize {
        let positions = self.most.1.min(SEGMENT) * 4;
        self.scratch_for(rows).saturating_sub(positions)
    }

    fn list_bytes(&self, rows: usize) -> usize {
        let rows = rows.min(self.list_rows());
        let blocks = (rows.div_ceil(self.row_unit()) + 1).min(self.cut.blocks());
        let values = self.most.1.saturating_mul(blocks).min(self.count);
        let made = match &self.values {
            Values::Form(_) => 0,
            _ => values * 4,
        };
        (rows + 2) * 4 + values * 2 + self.most.1.min(SEGMENT) * 4 + made
    }
}

/// Positions of one segment, or `None` if its streams hold anything else.
fn decode_segment(
    kernels: &KernelSet,
    k: u32,
    stream: &[u8],
    elements: usize,
    positions: &mut [u32],
) -> Option<()> {
    let count = positions.len();
    if count == elements {
        for (i, p) in positions.iter_mut().enumerate() {
            *p = i as u32;
        }
        return Some(());
    }
    let (remainders, quotients) = stream.split_at_checked((count * k as usize).div_ceil(8))?;
    let right = kernels.positions_decode(k, remainders, quotients, positions);
    let inside = positions.last().is_none_or(|p| (*p as usize) < elements);
    (right && inside).then_some(())
}

impl Form for Sdr {
    fn kind(&self) -> &'static str {
        DEF.kind
    }

    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn params(&self) -> Map<String, Value> {
        let (values, one) = match &self.values {
            Values::Equal(one) => ("equal", Some(one)),
            Values::SignEqual { one, .. } => ("sign-equal", Some(one)),
            Values::SignRow { .. } => ("sign-row", None),
            Values::Form(_) => ("form", None),
        };
        let mut params = Map::new();
        params.insert("count".into(), self.count.into());
        params.insert("rows_per_block".into(), self.cut.rows_per_block.into());
        params.insert("width".into(), self.cut.width.into());
        params.insert("position_bytes".into(), self.positions.len().into());
        params.insert("whole".into(), self.whole.into());
        params.insert("values".into(), values.into());
        if let Some(one) = one {
            params.insert("bits".into(), one.bits.into());
        }
        params
    }

    fn parts(&self) -> Vec<(&'static str, Part<'_>)> {
        let mut parts = vec![
            ("directory", Part::Buffer(&self.directory)),
            ("positions", Part::Buffer(&self.positions)),
        ];
        match &self.values {
            Values::Equal(_) => {}
            Values::SignEqual { signs, .. } => parts.push(("signs", Part::Buffer(signs))),
            Values::SignRow { signs, scales } => {
                parts.push(("signs", Part::Buffer(signs)));
                parts.push(("scales", Part::Buffer(scales)));
            }
            Values::Form(form) => parts.push(("values", Part::Form(&**form))),
        }
        parts
    }

    fn map_buffers(&self, f: &mut dyn FnMut(&Buffer) -> Result<Buffer>) -> Result<Box<dyn Form>> {
        Ok(Box::new(Self {
            meta: self.meta.clone(),
            cut: self.cut,
            directory: f(&self.directory)?,
            positions: f(&self.positions)?,
            values: match &self.values {
                Values::Equal(one) => Values::Equal(*one),
                Values::SignEqual { one, signs } => Values::SignEqual {
                    one: *one,
                    signs: f(signs)?,
                },
                Values::SignRow { signs, scales } => Values::SignRow {
                    signs: f(signs)?,
                    scales: f(scales)?,
                },
                Values::Form(form) => Values::Form(form.map_buffers(f)?),
            },
            whole: self.whole,
            count: self.count,
            segments: self.segments.clone(),
            most: self.most,
        }))
    }

    fn is_exact(&self) -> bool {
        self.whole
            && match &self.values {
                Values::Equal(_) | Values::SignEqual { .. } => true,
                Values::SignRow { .. } => false,
                Values::Form(form) => form.is_exact(),
            }
    }

    fn row_unit(&self) -> usize {
        self.cut.rows_per_block.max(1)
    }

    fn least_rows(&self) -> usize {
        1
    }

    fn scratch_for(&self, rows: usize) -> usize {
        let blocks = rows.div_ceil(self.row_unit()) + 1;
        let blocks = blocks.min(self.cut.blocks());
        let bytes = self.most.0.saturating_mul(blocks).min(self.positions.len());
        let values = self.most.1.saturating_mul(blocks).min(self.count);
        let positions = self.most.1.min(SEGMENT) * 4;
        positions
            + self.positions.scratch_for(bytes)
            + match &self.values {
                Values::Equal(_) => 0,
                Values::SignEqual { signs, .. } => signs.scratch_for(values / 8 + 2),
                Values::SignRow { signs, scales } => {
                    signs.scratch_for(values / 8 + 2) + scales.scratch_for(rows * 2)
                }
                Values::Form(form) => {
                    values * 4 + form.scratch_for(values.div_ceil(form.meta().cols.max(1)))
                }
            }
    }

    fn decode_f32(&self, rows: Range<usize>, out: &mut [f32], scratch: &mut Scratch) -> Result<()> {
        out.fill(0.0);
        if out.is_empty() {
            return Ok(());
        }
        let Scratch {
            bytes,
            more_bytes,
            floats,
            positions,
            nested,
            ..
        } = scratch;
        let loaded = self.load(&rows, more_bytes, floats, nested.get_or_insert_default())?;
        let cols = self.meta.cols;
        self.walk(&rows, kernels(), bytes, positions, |line| {
            let row = (line.row - rows.start) * cols;
            let out = &mut out[row + line.columns.start..row + line.columns.end];
            let at = line.positions.iter().map(|p| (p - line.base) as usize);
            match &loaded {
                Loaded::Equal(v) => at.for_each(|p| out[p] = *v),
                Loaded::Signs {
                    signs,
                    first,
                    scales,
                } => {
                    let (first, scale) = (line.first - first, scales.of(line.row));
                    for (i, p) in at.enumerate() {
                        let negative = signs[(first + i) / 8] >> ((first + i) % 8) & 1 == 1;
                        out[p] = if negative { -scale } else { scale };
                    }
                }
                Loaded::Floats { values, first } => {
                    for (v, p) in values[line.first - first..].iter().zip(at) {
                        out[p] = *v;
                    }
                }
            }
        })
    }

    fn decode_native(
        &self,
        rows: Range<usize>,
        out: &mut [u8],
        scratch: &mut Scratch,
    ) -> Result<()> {
        if out.is_empty() {
            return Ok(());
        }
        let values = self.value_range(&self.cut.blocks_of(&rows));
        // All values of the window, as elements, then each to its place.
        let size = self.meta.dtype.size();
        let raw = match &self.values {
            Values::SignRow { .. } => return super::decode_by_f32(self, rows, out, scratch),
            Values::Equal(one) => RawValues::One(one.bits.to_le_bytes()),
            Values::SignEqual { one, signs } => {
                let range = values.start / 8..values.end.div_ceil(8);
                let signs = signs.window(range, &mut scratch.more_bytes)?;
                RawValues::Signs(one.bits.to_le_bytes(), signs, values.start / 8 * 8)
            }
            Values::Form(form) => {
                let (value_rows, skip) = value_rows(&**form, &values);
                let raw = &mut scratch.more_bytes;
                raw.resize(value_rows.len() * form.meta().row_bytes(), 0);
                let nested = scratch.nested.get_or_insert_default();
                form.decode_native(value_rows, raw, nested)?;
                RawValues::All(&raw[skip * size..], values.start)
            }
        };
        out.fill(0);
        let row_bytes = self.meta.row_bytes();
        let (bytes, positions) = (&mut scratch.bytes, &mut scratch.positions);
        self.walk(&rows, kernels(), bytes, positions, |line| {
            let row = &mut out[(line.row - rows.start) * row_bytes..][..row_bytes];
            for (i, p) in line.positions.iter().enumerate() {
                let at = (line.columns.start + (p - line.base) as usize) * size;
                raw.put(line.first + i, &mut row[at..at + size]);
            }
        })
    }

    fn matmul(&self, x: &[f32], batch: usize, y: &mut [f32], product: &Product<'_>) -> Result<()> {
        lists::matmul(self, x, batch, y, product)
    }

    fn matmul_t(
        &self,
        g: &[f32],
        batch: usize,
        y: &mut [f32],
        product: &Product<'_>,
    ) -> Result<()> {
        lists::matmul_t(self, g, batch, y, product)
    }

    fn matmul_macs(&self) -> u64 {
        self.count as u64
    }
}

/// Elements of a window's values.
enum RawValues<'a> {
    One([u8; 8]),
    /// The element without sign, the signs, and the value of the first bit.
    Signs([u8; 8], &'a [u8], usize),
    /// Elements and the index of the first.
    All(&'a [u8], usize),
}

impl RawValues<'_> {
    fn put(&self, index: usize, out: &mut [u8]) {
        let size = out.len();
        match self {
            Self::One(one) => out.copy_from_slice(&one[..size]),
            Self::Signs(one, signs, first) => {
                let bit = index - first;
                out.copy_from_slice(&one[..size]);
                out[size - 1] ^= (signs[bit / 8] >> (bit % 8) & 1) << 7;
            }
            Self::All(bytes, first) => {
                let at = (index - first) * size;
                out.copy_from_slice(&bytes[at..at + size]);
            }
        }
    }
}
