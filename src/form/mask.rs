//! `mask`: a bitmask of the positions that hold a value, and the values.
//!
//! * Exploits: zeros. 1 bit per weight and the values that remain; against CSR with
//!   16-bit columns it is smaller at densities above 6.25 %.
//! * Layout: `mask`: one bit per column, row by row, each row padded to a byte; bit
//!   `i % 8` of byte `i / 8` is column `i`. `counts`: for each block of `rows_per_block`
//!   rows the number of its values, u32, or u64 if a block has 2³² weights or more.
//!   `values`: a form of its own, over a vector of the `count` values in row order when
//!   dense, else over a matrix of 256 columns whose last row is filled up with zeros.
//!   Parameters `count`, `rows_per_block`, and `whole`: whether every non-zero value was
//!   kept.
//! * Positions: as they are, 1 bit per weight; with `positions=coded` the mask is packed
//!   with `rans` whatever packs follow, and costs within 2 % of the entropy of positions
//!   without a pattern: 0.72 bits a weight at 80 % sparsity, 0.47 at 90, 0.29 at 95, 0.08
//!   at 99. Blocks are then as large as chunks: a window decodes one at least.
//! * Error: none as it stands: only +0 (all bits zero) is left out, so −0 and NaN keep
//!   their bits. With `threshold` or `keep` the values left out are lost; with
//!   `values=[…]` the values have that form's error.
//! * Pruning: `keep` keeps the largest values of the tensor. With second moments of the
//!   inputs, `score=wanda` keeps in each row those of the largest `|w_ij|·√H_jj` (Sun et
//!   al. 2023, arXiv 2306.11695), and `score=sparsegpt` those of the largest `w²/U_jj²`,
//!   block by block of 128 columns, the others being moved to make up for what is left out
//!   (Frantar and Alistarh 2023; see `src/form/gptq.rs`). A block keeps as many as it has
//!   of the row's best at the outset, so that blocks of large inputs keep more. Values
//!   are quantised, if at all, after that. Without moments both are `magnitude`.
//! * Matmul: sparse rows touch their values only; fuller ones are opened into a row of
//!   f32 in cache and multiplied densely.
//! * Loses: to `dense` at densities above 97 % (f32), to `q` on weights that are not
//!   sparse by nature; at 99 % sparsity the mask itself, if not coded, is most of the size.

use std::ops::Range;

use rayon::prelude::*;
use serde_json::{Map, Value};

use super::select::{
    self, Keep, block_rows, fill_mask, for_set_bits, gather, value_rows, values_shape,
};
use super::{EncodeContext, Form, FormDef, Meta, Part, Scratch, Stored, kernels, prune};
use crate::bytes::{AlignedBytes, checked_mul};
use crate::error::{Error, Result};
use crate::kernel::KernelSet;
use crate::limits;
use crate::pack::Buffer;
use crate::spec::{self, Codec, Kind, OptionDef, Options, Spec, Term};
use crate::tensor::{Dense, View};

pub(super) static DEF: FormDef = FormDef {
    kind: "mask",
    codecs: &[Codec {
        name: "mask",
        summary: "bitmask of the non-zero positions and their values",
        options: &[
            OptionDef {
                key: "threshold",
                aliases: &[],
                kind: Kind::Positive,
                default: None,
                doc: "leave out values of a smaller magnitude",
            },
            OptionDef {
                key: "keep",
                aliases: &[],
                kind: Kind::Share,
                default: None,
                doc: "keep this share of the values, the largest by score",
            },
            OptionDef {
                key: "score",
                aliases: &[],
                kind: Kind::Choice(&["magnitude", "wanda", "sparsegpt"]),
                default: Some("magnitude"),
                doc: "what keep goes by; wanda and sparsegpt: the error of products with the calibration's inputs",
            },
            OptionDef {
                key: "positions",
                aliases: &[],
                kind: Kind::Choice(&["bitmap", "coded"]),
                default: Some("bitmap"),
                doc: "a bit per weight, or those bits entropy-coded (smaller, decoded before use)",
            },
            OptionDef {
                key: "values",
                aliases: &[],
                kind: Kind::Spec,
                default: Some("dense"),
                doc: "how the values are stored",
            },
        ],
    }],
    canonical: |_, options| {
        if options.given("threshold") && options.given("keep") {
            return Err(spec::at(
                options.column(),
                "mask takes threshold or keep, not both".into(),
            ));
        }
        if options.text("score") != Some("magnitude") && !options.given("keep") {
            return Err(spec::at(
                options.column(),
                "mask takes score with keep only".into(),
            ));
        }
        options.canonical(&super::registry::nested)
    },
    lossless: |_, options| {
        let values = options.spec("values").map(super::registry::is_lossless);
        !options.given("threshold")
            && !options.given("keep")
            && values.is_none_or(|v| v.unwrap_or(false))
    },
    encode: encode_form,
    open,
};

#[derive(Debug)]
struct Mask {
    meta: Meta,
    mask: Buffer,
    counts: Buffer,
    values: Box<dyn Form>,
    /// Whether every value that is not zero was kept.
    whole: bool,
    /// Number of values.
    count: usize,
    rows_per_block: usize,
    /// Values before each block, from `counts`, and `count` at the end.
    starts: Vec<usize>,
}

/// Bytes of a mask that are coded together: the frequencies and states of the coder are
/// then 1 % of what 99 % sparsity leaves.
const CODED_BYTES: usize = 256 << 10;

/// Rows of a block. At least 4,096 weights share a count, so that it costs at most 1/128
/// bit a weight; of a coded mask as many as are coded together.
fn rows_per_block(cols: usize, coded: bool) -> usize {
    let rows = (4096usize.div_ceil(cols.max(1))).next_multiple_of(16);
    if coded {
        // Multiples of 64 rows are multiples of 64 bytes.
        rows.max(CODED_BYTES / cols.div_ceil(8).max(1) / 64 * 64)
    } else {
        rows
    }
}

/// Bytes of a count of values, for blocks of `rows` of a matrix.
fn count_width(rows_per_block: usize, meta: &Meta) -> usize {
    let weights = rows_per_block.min(meta.rows).saturating_mul(meta.cols);
    if weights > u32::MAX as usize { 8 } else { 4 }
}

fn encode_form(
    view: &View<'_>,
    codec: &'static Codec,
    options: &Options,
    context: &EncodeContext,
) -> Result<Box<dyn Form>> {
    let meta = Meta::new(view.dtype(), view.shape())?;
    let values_spec = match options.spec("values") {
        Some(spec) => super::registry::nested(spec)?,
        None => Spec::form(Term::bare("dense")),
    };
    let pruned = prune::by_inputs(view, codec, options, context)?;
    let pruned = pruned.as_ref().map(Dense::view);
    let (view, keep) = match &pruned {
        Some(pruned) => (pruned, Keep::NonZero),
        None => (view, Keep::chosen(view, codec, options, context)?),
    };
    let whole = !options.given("threshold") && !options.given("keep");
    let coded = options.text("positions") == Some("coded");
    let block = rows_per_block(meta.cols, coded);
    let stride = meta.cols.div_ceil(8);
    let blocks = if meta.is_empty() {
        0
    } else {
        meta.rows.div_ceil(block)
    };

    // First pass: the mask and each block's count. Ties of `Largest` are given out in
    // order, so blocks first say how many they have.
    let mut bits = AlignedBytes::zeroed(checked_mul(meta.rows, stride)?)?;
    let ties = select::ties(view, keep, block, blocks);
    let counts: Vec<usize> = if blocks == 0 {
        Vec::new()
    } else {
        bits.par_chunks_mut(block * stride)
            .zip(&ties)
            .enumerate()
            .map(|(b, (bits, ties))| {
                context.check_cancel()?;
                let rows = block_rows(b, block, meta.rows);
                fill_mask(view, rows, keep, *ties, bits);
                Ok(kernels().mask_count(bits))
            })
            .collect::<Result<_>>()?
    };
    let mut starts = vec![0usize];
    for n in &counts {
        starts.push(starts[starts.len() - 1] + n);
    }
    let count = starts[blocks];

    // Second pass: the values.
    let size = meta.dtype.size();
    let shape = values_shape(&values_spec, count);
    let mut values = AlignedBytes::zeroed(shape.iter().product::<usize>() * size)?;
    let mut rest = &mut values[..count * size];
    let mut jobs = Vec::with_capacity(blocks);
    for (b, n) in counts.iter().enumerate() {
        let (out, tail) = rest.split_at_mut(n * size);
        jobs.push((b, out));
        rest = tail;
    }
    jobs.into_par_iter().try_for_each(|(b, out)| {
        context.check_cancel()?;
        let rows = block_rows(b, block, meta.rows);
        gather(
            view,
            rows.clone(),
            &bits[rows.start * stride..rows.end * stride],
            out,
        );
        Ok::<_, Error>(())
    })?;
    let values = select::encode_values(meta.dtype, &shape, values, &values_spec, context)?;
    let width = count_width(block, &meta);
    let mut written = AlignedBytes::zeroed(blocks * width)?;
    for (out, n) in written.chunks_exact_mut(width).zip(&counts) {
        out.copy_from_slice(&(*n as u64).to_le_bytes()[..width]);
    }
    let mask = Buffer::owned(bits, 1, block.saturating_mul(stride))?;
    Ok(Box::new(Mask {
        mask: match coded {
            true => mask.pack(&[Term::bare("rans")])?,
            false => mask,
        },
        counts: Buffer::owned(written, width, width)?,
        values,
        whole,
        count,
        rows_per_block: block,
        starts,
        meta,
    }))
}

fn open(mut stored: Stored) -> Result<Box<dyn Form>> {
    let meta = stored.meta.clone();
    let count = stored.integer("count", 0..=meta.len() as u64)? as usize;
    let rows_per_block = stored.integer("rows_per_block", 1..=1 << 20)? as usize;
    let stride = meta.cols.div_ceil(8);
    let blocks = if meta.is_empty() {
        0
    } else {
        meta.rows.div_ceil(rows_per_block)
    };
    let mask = stored.buffer("mask", checked_mul(meta.rows, stride)?)?;
    // Read as a whole, so held against the limit first.
    let width = count_width(rows_per_block, &meta);
    let count_bytes = checked_mul(blocks, width)?;
    if count_bytes as u64 > limits::MAX_INDEX_BYTES {
        return Err(Error::limit(format!("{blocks} row blocks of a mask")));
    }
    let counts = stored.buffer("counts", count_bytes)?;
    let values = stored.form("values")?;
    select::check_values(&*values, &meta, count)?;
    let mut scratch = Vec::new();
    let bytes = counts.window(0..counts.len(), &mut scratch)?;
    let mut starts = vec![0usize];
    for n in bytes.chunks_exact(width) {
        let mut whole = [0u8; 8];
        whole[..width].copy_from_slice(n);
        let n = u64::from_le_bytes(whole);
        let start = starts[starts.len() - 1];
        if n > (count - start) as u64 {
            return Err(Error::corrupt(format!(
                "row block {} has {n} values; {} of {count} are left",
                starts.len() - 1,
                count - start
            )));
        }
        starts.push(start + n as usize);
    }
    if starts[blocks] != count {
        return Err(Error::corrupt(format!(
            "the row blocks of a mask have {} values, {count} are there",
            starts[blocks]
        )));
    }
    Ok(Box::new(Mask {
        meta,
        mask,
        counts,
        values,
        whole: stored.flag("whole")?,
        count,
        rows_per_block,
        starts,
    }))
}

impl Mask {
    fn stride(&self) -> usize {
        self.meta.cols.div_ceil(8)
    }

    /// The mask bytes of a window and the range of its values, checked against each other.
    fn locate<'a>(
        &'a self,
        rows: &Range<usize>,
        scratch: &'a mut Vec<u8>,
    ) -> Result<(&'a [u8], Range<usize>)> {
        let stride = self.stride();
        let block = rows.start / self.rows_per_block;
        let block_start = block * self.rows_per_block;
        let bits = self
            .mask
            .window(block_start * stride..rows.end * stride, scratch)?;
        let (before, bits) = bits.split_at((rows.start - block_start) * stride);
        let start = self.starts[block] + kernels().mask_count(before);
        let end = self.count_to(rows, start, bits);
        // Bits past the last column would index past the row.
        let spare = (stride * 8 - self.meta.cols) as u32;
        let clean = spare == 0
            || bits
                .chunks_exact(stride)
                .all(|row| row[stride - 1].leading_zeros() >= spare);
        let Some(end) = end.filter(|_| clean) else {
            return Err(Error::corrupt(format!(
                "the mask of rows {}..{} does not fit its {} values",
                rows.start, rows.end, self.count
            )));
        };
        Ok((bits, start..end))
    }

    /// Where the values of a window end that begin at `start`, if bits and offsets agree:
    /// else a row would have other values in another window.
    fn count_to(&self, rows: &Range<usize>, start: usize, mut bits: &[u8]) -> Option<usize> {
        let (mut row, mut at) = (rows.start, start);
        while row < rows.end {
            let block = row / self.rows_per_block;
            let stop = (block + 1)
                .saturating_mul(self.rows_per_block)
                .min(self.meta.rows);
            let here = stop.min(rows.end);
            let (these, rest) = bits.split_at((here - row) * self.stride());
            at += kernels().mask_count(these);
            let next = self.starts[block + 1];
            if at > next || (here == stop && at != next) {
                return None;
            }
            (row, bits) = (here, rest);
        }
        Some(at)
    }

    fn most_values(&self, rows: usize) -> usize {
        let most = self.starts.windows(2).map(|w| w[1] - w[0]).max();
        let blocks = rows / self.rows_per_block + 2;
        let most = most.unwrap_or(0).saturating_mul(blocks);
        most.min(self.count)
            .min(rows.saturating_mul(self.meta.cols))
    }

    /// Calls `f` with each row of the window: index in it, mask bytes, values as f32.
    fn for_rows(
        &self,
        rows: Range<usize>,
        scratch: &mut Scratch,
        mut f: impl FnMut(usize, &[u8], &[f32]),
    ) -> Result<()> {
        if rows.is_empty() || self.meta.cols == 0 {
            return Ok(());
        }
        let mut bytes = std::mem::take(&mut scratch.bytes);
        let mut floats = std::mem::take(&mut scratch.floats);
        let mut run = || -> Result<()> {
            let (bits, values) = self.locate(&rows, &mut bytes)?;
            let (value_rows, skip) = value_rows(&*self.values, &values);
            let n = value_rows.len() * self.values.meta().cols;
            if floats.capacity() < n {
                // Windows differ; growing by doubling would pass the scratch limit.
                floats = Vec::new();
                floats.reserve_exact(n);
            }
            floats.resize(n, 0.0);
            self.values
                .decode_f32(value_rows, &mut floats, scratch.nested())?;
            let mut rest = &floats[skip..skip + values.len()];
            for (row, bits) in bits.chunks_exact(self.stride()).enumerate() {
                let n = kernels().mask_count(bits);
                let (values, tail) = rest.split_at(n);
                f(row, bits, values);
                rest = tail;
            }
            Ok(())
        };
        let result = run();
        scratch.bytes = bytes;
        scratch.floats = floats;
        result
    }
}

impl Form for Mask {
    fn kind(&self) -> &'static str {
        DEF.kind
    }

    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn params(&self) -> Map<String, Value> {
        let mut params = Map::new();
        params.insert("count".into(), self.count.into());
        params.insert("rows_per_block".into(), self.rows_per_block.into());
        params.insert("whole".into(), self.whole.into());
        params
    }

    fn parts(&self) -> Vec<(&'static str, Part<'_>)> {
        vec![
            ("mask", Part::Buffer(&self.mask)),
            ("counts", Part::Buffer(&self.counts)),
            ("values", Part::Form(&*self.values)),
        ]
    }

    fn map_buffers(&self, f: &mut dyn FnMut(&Buffer) -> Result<Buffer>) -> Result<Box<dyn Form>> {
        Ok(Box::new(Self {
            meta: self.meta.clone(),
            mask: f(&self.mask)?,
            counts: f(&self.counts)?,
            values: self.values.map_buffers(f)?,
            whole: self.whole,
            count: self.count,
            rows_per_block: self.rows_per_block,
            starts: self.starts.clone(),
        }))
    }

    fn is_exact(&self) -> bool {
        self.whole && self.values.is_exact()
    }

    fn row_unit(&self) -> usize {
        self.rows_per_block
    }

    fn least_rows(&self) -> usize {
        1
    }

    fn scratch_for(&self, rows: usize) -> usize {
        let values = self.most_values(rows);
        let cols = self.values.meta().cols;
        // Bits are counted from the start of the row block.
        let rows = rows.saturating_add(self.rows_per_block).min(self.meta.rows);
        self.mask.scratch_for(rows * self.stride())
            + values * 4
            + self.values.scratch_for(values.div_ceil(cols.max(1)))
    }

    fn decode_f32(&self, rows: Range<usize>, out: &mut [f32], scratch: &mut Scratch) -> Result<()> {
        let cols = self.meta.cols;
        self.for_rows(rows, scratch, |row, bits, values| {
            let out = &mut out[row * cols..(row + 1) * cols];
            kernels().mask_expand_row(bits, values, out);
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
        let size = self.meta.dtype.size();
        let (bits, values) = self.locate(&rows, &mut scratch.bytes)?;
        let (value_rows, skip) = value_rows(&*self.values, &values);
        let raw = &mut scratch.more_bytes;
        raw.resize(value_rows.len() * self.values.meta().row_bytes(), 0);
        let nested = scratch.nested.get_or_insert_default();
        self.values.decode_native(value_rows, raw, nested)?;
        let raw = &raw[skip * size..(skip + values.len()) * size];
        let stride = self.stride();
        match size {
            1 => scatter::<1>(bits, stride, raw, out),
            2 => scatter::<2>(bits, stride, raw, out),
            4 => scatter::<4>(bits, stride, raw, out),
            _ => scatter::<8>(bits, stride, raw, out),
        }
        Ok(())
    }

    fn matmul_scratch_for(&self, rows: usize) -> usize {
        self.scratch_for(rows) + self.meta.cols * 4
    }

    fn matmul_rows(
        &self,
        rows: Range<usize>,
        x: &[f32],
        out: &mut [f32],
        kernels: &KernelSet,
        scratch: &mut Scratch,
    ) -> Result<()> {
        let (cols, n) = (self.meta.cols, rows.len());
        if cols == 0 || n == 0 {
            out.fill(0.0);
            return Ok(());
        }
        let batch = x.len() / cols;
        let mut opened = vec![0.0f32; cols];
        let mut sums = vec![0.0f32; batch];
        self.for_rows(rows, scratch, |row, bits, values| {
            // A value touched alone costs about 1.5 cycles per batch row; a column of an
            // opened row 1/32 per batch row and 1/8 for the opening.
            if 48 * values.len() * batch < cols * (batch + 4) {
                for (b, x) in x.chunks_exact(cols).enumerate() {
                    out[b * n + row] = kernels.mask_dot_row(bits, values, x);
                }
                return;
            }
            kernels.mask_expand_row(bits, values, &mut opened);
            kernels.dense_matmul(&opened, x, cols, &mut sums);
            for (b, sum) in sums.iter().enumerate() {
                out[b * n + row] = *sum;
            }
        })
    }

    fn matmul_macs(&self) -> u64 {
        self.count as u64
    }
}

fn scatter<const N: usize>(bits: &[u8], stride: usize, values: &[u8], out: &mut [u8]) {
    out.fill(0);
    let cols = out.len() / N / (bits.len() / stride);
    let out = out.as_chunks_mut::<N>().0;
    let mut values = values.as_chunks::<N>().0.iter();
    for (bits, out) in bits.chunks_exact(stride).zip(out.chunks_exact_mut(cols)) {
        for_set_bits(bits, |i| {
            if let Some(v) = values.next() {
                out[i] = *v;
            }
        });
    }
}
