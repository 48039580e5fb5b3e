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
//! * Positions: 1 bit per weight, or (`positions=indices`) 16 bits per value, which short
//!   lists multiply faster from; `auto` takes these where the tensor is at most 15 % larger
//!   for it. With `positions=coded` the mask is packed
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
use std::sync::atomic::{AtomicBool, Ordering};

use rayon::prelude::*;
use serde_json::{Map, Value};

use super::lists::{self, ListRoom, Sparse, WindowRoom};
use super::product::{Product, run_workers};
use super::select::{
    self, Keep, block_rows, fill_mask, for_set_bits, gather, value_rows, values_shape,
};
use super::{EncodeContext, Form, FormDef, Meta, Part, Scratch, Stored, kernels, prune};
use crate::bytes::{AlignedBytes, checked_mul};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::kernel::sparse::{INDEX_COLS, IndexRows, MaskRows, PANEL_ROWS};
use crate::kernel::{Isa, KernelSet};
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
                kind: Kind::Choice(&["auto", "bitmap", "indices", "coded"]),
                default: Some("auto"),
                doc: "a bit per weight; 16 bits per value; bits entropy-coded (smaller, decoded before use); auto: bitmap or indices",
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
    positions: Positions,
    counts: Buffer,
    values: Box<dyn Form>,
    /// The values as they lie, if they are stored as f32.
    plain: Option<Buffer>,
    /// Whether every value that is not zero was kept.
    whole: bool,
    /// Number of values.
    count: usize,
    /// 1 with indices.
    rows_per_block: usize,
    /// Values before each block, from `counts`, and `count` at the end.
    starts: Vec<usize>,
    /// Most values of a block.
    most: usize,
}

/// Where values stand.
#[derive(Debug)]
enum Positions {
    /// A bit a weight, rows padded to bytes.
    Bitmap(Buffer),
    /// The columns, 16 bits each.
    Indices {
        columns: Buffer,
        /// For each [`CHECKED_ROWS`] rows whether their columns were found to rise, once,
        /// if the buffer is in memory: as with checksums, a product pays for that once.
        checked: Vec<AtomicBool>,
    },
}

/// Rows whose columns are checked together.
const CHECKED_ROWS: usize = 64;

impl Positions {
    fn indices(columns: Buffer, rows: usize) -> Self {
        let blocks = rows.div_ceil(CHECKED_ROWS);
        Self::Indices {
            columns,
            checked: (0..blocks).map(|_| AtomicBool::new(false)).collect(),
        }
    }

    fn buffer(&self) -> &Buffer {
        match self {
            Self::Bitmap(mask) => mask,
            Self::Indices { columns, .. } => columns,
        }
    }
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
    let bitmap_bytes = bits.len() + blocks * count_width(block, &meta);
    let indices = match options.text("positions") {
        Some("indices") => fit_indices(&meta),
        Some("auto") | None => {
            fit_indices(&meta)
                && (index_bytes(&meta, count) + super::stored_bytes(&*values)) as f64
                    <= MOST_FOR_SPEED * (bitmap_bytes as u64 + super::stored_bytes(&*values)) as f64
        }
        _ => false,
    };
    if indices {
        return with_indices(meta, &bits, count, values, whole);
    }
    let width = count_width(block, &meta);
    let written = write_counts(&counts, width)?;
    let mask = Buffer::owned(bits, 1, block.saturating_mul(stride))?;
    let mask = match coded {
        true => mask.pack(&[Term::bare("rans")])?,
        false => mask,
    };
    Ok(Box::new(Mask {
        positions: Positions::Bitmap(mask),
        counts: Buffer::owned(written, width, width)?,
        plain: plain(&*values),
        values,
        whole,
        count,
        rows_per_block: block,
        most: most(&starts),
        starts,
        meta,
    }))
}

/// How much larger than with a bitmap a tensor may become by indices, which make its
/// product with one row of `x` faster by half or more: at 90 % sparsity and f32 values 14 %.
const MOST_FOR_SPEED: f64 = 1.15;

/// Whether a matrix can have indices: 16 bits name its columns, and a count a row is no
/// more than an archive may make a reader hold.
fn fit_indices(meta: &Meta) -> bool {
    meta.cols <= INDEX_COLS && meta.rows as u64 * 4 <= limits::MAX_INDEX_BYTES
}

fn index_bytes(meta: &Meta, count: usize) -> u64 {
    count as u64 * 2 + meta.rows as u64 * 4
}

/// Counts of blocks as `width` bytes each.
fn write_counts(counts: &[usize], width: usize) -> Result<AlignedBytes> {
    let mut written = AlignedBytes::zeroed(counts.len() * width)?;
    for (out, n) in written.chunks_exact_mut(width).zip(counts) {
        out.copy_from_slice(&(*n as u64).to_le_bytes()[..width]);
    }
    Ok(written)
}

/// The form with the columns of the set bits in place of the bits.
fn with_indices(
    meta: Meta,
    bits: &[u8],
    count: usize,
    values: Box<dyn Form>,
    whole: bool,
) -> Result<Box<dyn Form>> {
    let stride = meta.cols.div_ceil(8).max(1);
    let counts: Vec<usize> = match meta.is_empty() {
        true => Vec::new(),
        false => bits
            .par_chunks(stride)
            .map(|row| kernels().mask_count(row))
            .collect(),
    };
    let mut columns = AlignedBytes::zeroed(count * 2)?;
    let mut starts = vec![0usize];
    let (mut rest, mut rows) = (&mut columns[..], Vec::with_capacity(counts.len()));
    for (n, bits) in counts.iter().zip(bits.chunks_exact(stride)) {
        let (row, tail) = rest.split_at_mut(n * 2);
        rows.push((bits, row));
        rest = tail;
        starts.push(starts[starts.len() - 1] + n);
    }
    rows.into_par_iter().for_each(|(bits, out)| {
        let mut row = vec![0u16; out.len() / 2];
        kernels().mask_list(bits, &mut row);
        for (out, column) in out.as_chunks_mut::<2>().0.iter_mut().zip(row) {
            *out = column.to_le_bytes();
        }
    });
    let width = count_width(1, &meta);
    // A window of a row's mean is the unit: rows differ.
    let unit = (columns.len() / counts.len().max(1)).next_multiple_of(2);
    Ok(Box::new(Mask {
        positions: Positions::indices(Buffer::owned(columns, 2, unit)?, counts.len()),
        counts: Buffer::owned(write_counts(&counts, width)?, width, width)?,
        plain: plain(&*values),
        values,
        whole,
        count,
        rows_per_block: 1,
        most: most(&starts),
        starts,
        meta,
    }))
}

/// The buffer of values that are stored as f32.
fn plain(values: &dyn Form) -> Option<Buffer> {
    let dense = values.kind() == "dense" && values.is_exact();
    match values.parts().as_slice() {
        [(_, Part::Buffer(data))] if dense && values.meta().dtype == DType::F32 => {
            Some((*data).clone())
        }
        _ => None,
    }
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
    let indices = match stored.params.contains_key("positions") {
        true if stored.text("positions")? == "indices" => true,
        true if stored.text("positions")? == "mask" => false,
        true => {
            return Err(Error::corrupt(
                "parameter 'positions' names neither mask nor indices",
            ));
        }
        false => false,
    };
    let positions = if indices {
        if meta.cols > INDEX_COLS || rows_per_block != 1 {
            return Err(Error::corrupt(format!(
                "indices of {} columns in blocks of {rows_per_block} rows",
                meta.cols
            )));
        }
        Positions::indices(stored.buffer("indices", checked_mul(count, 2)?)?, blocks)
    } else {
        Positions::Bitmap(stored.buffer("mask", checked_mul(meta.rows, stride)?)?)
    };
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
        positions,
        counts,
        plain: plain(&*values),
        values,
        whole: stored.flag("whole")?,
        count,
        rows_per_block,
        most: most(&starts),
        starts,
    }))
}

/// Most values of a block. Products ask for it often: on small tensors the search took a third
/// of their time.
fn most(starts: &[usize]) -> usize {
    starts.windows(2).map(|w| w[1] - w[0]).max().unwrap_or(0)
}

/// A window of positions.
#[derive(Clone, Copy)]
enum At<'a> {
    /// The rows' bits.
    Bits(&'a [u8]),
    /// Their columns, two bytes each.
    Columns(&'a [u8]),
}

/// A window with its values.
struct Opened<'a> {
    rows: Range<usize>,
    at: At<'a>,
    /// The first of the values among all.
    first: usize,
    values: &'a [f32],
}

impl Mask {
    fn stride(&self) -> usize {
        self.meta.cols.div_ceil(8)
    }

    fn density(&self) -> f64 {
        self.count as f64 / (self.meta.rows as f64 * self.meta.cols as f64)
    }

    /// The positions of a window and the range of its values, checked against each other.
    fn locate<'a>(
        &'a self,
        rows: &Range<usize>,
        kernels: &KernelSet,
        scratch: &'a mut Vec<u8>,
    ) -> Result<(At<'a>, Range<usize>)> {
        match &self.positions {
            Positions::Bitmap(mask) => self.locate_bits(mask, rows, kernels, scratch),
            Positions::Indices { columns, checked } => {
                let values = self.starts[rows.start]..self.starts[rows.end];
                let fault = || {
                    Error::corrupt(format!(
                        "the columns of rows {}..{} do not rise below {}",
                        rows.start, rows.end, self.meta.cols
                    ))
                };
                if columns.in_place() {
                    let blocks = rows.start / CHECKED_ROWS..rows.end.div_ceil(CHECKED_ROWS);
                    for block in blocks {
                        if checked[block].load(Ordering::Relaxed) {
                            continue;
                        }
                        let rows = block_rows(block, CHECKED_ROWS, self.meta.rows);
                        if !self.rises(columns, &rows, kernels, scratch)? {
                            return Err(fault());
                        }
                        checked[block].store(true, Ordering::Relaxed);
                    }
                } else if !self.rises(columns, rows, kernels, scratch)? {
                    return Err(fault());
                }
                let bytes = columns.window(values.start * 2..values.end * 2, scratch)?;
                Ok((At::Columns(bytes), values))
            }
        }
    }

    /// Whether the columns of rows rise and exist.
    fn rises(
        &self,
        columns: &Buffer,
        rows: &Range<usize>,
        kernels: &KernelSet,
        scratch: &mut Vec<u8>,
    ) -> Result<bool> {
        let values = self.starts[rows.start]..self.starts[rows.end];
        let bytes = columns.window(values.start * 2..values.end * 2, scratch)?;
        let (mut bounds, mut copy) = ([0; CHECKED_ROWS + 1], Vec::new());
        let mut from = rows.start;
        let mut right = true;
        while from < rows.end {
            let to = (from + CHECKED_ROWS).min(rows.end);
            let start = self.starts[from];
            let bounds = &mut bounds[..=to - from];
            for (bound, at) in bounds.iter_mut().zip(&self.starts[from..]) {
                // A row has at most 65,536 values, if its columns rise.
                *bound = u32::try_from(at - start).unwrap_or(u32::MAX);
            }
            let piece = &bytes[(start - values.start) * 2..(self.starts[to] - values.start) * 2];
            right &= kernels.index_ascend(bounds, columns_of(piece, &mut copy), self.meta.cols);
            from = to;
        }
        Ok(right)
    }

    fn locate_bits<'a>(
        &'a self,
        mask: &'a Buffer,
        rows: &Range<usize>,
        kernels: &KernelSet,
        scratch: &'a mut Vec<u8>,
    ) -> Result<(At<'a>, Range<usize>)> {
        let stride = self.stride();
        let block = rows.start / self.rows_per_block;
        let block_start = block * self.rows_per_block;
        let bits = mask.window(block_start * stride..rows.end * stride, scratch)?;
        let (before, bits) = bits.split_at((rows.start - block_start) * stride);
        let start = self.starts[block] + kernels.mask_count(before);
        let end = self.count_to(rows, start, bits, kernels);
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
        Ok((At::Bits(bits), start..end))
    }

    /// Where the values of a window end that begin at `start`, if bits and offsets agree:
    /// else a row would have other values in another window.
    fn count_to(
        &self,
        rows: &Range<usize>,
        start: usize,
        mut bits: &[u8],
        kernels: &KernelSet,
    ) -> Option<usize> {
        let (mut row, mut at) = (rows.start, start);
        while row < rows.end {
            let block = row / self.rows_per_block;
            let stop = (block + 1)
                .saturating_mul(self.rows_per_block)
                .min(self.meta.rows);
            let here = stop.min(rows.end);
            let (these, rest) = bits.split_at((here - row) * self.stride());
            at += kernels.mask_count(these);
            let next = self.starts[block + 1];
            if at > next || (here == stop && at != next) {
                return None;
            }
            (row, bits) = (here, rest);
        }
        Some(at)
    }

    fn most_values(&self, rows: usize) -> usize {
        let blocks = rows / self.rows_per_block + 2;
        self.most
            .saturating_mul(blocks)
            .min(self.count)
            .min(rows.saturating_mul(self.meta.cols))
    }

    /// Bytes that the positions of a window take.
    fn positions_scratch(&self, rows: usize) -> usize {
        match &self.positions {
            // Bits are counted from the start of the row block.
            Positions::Bitmap(mask) => {
                let rows = rows.saturating_add(self.rows_per_block).min(self.meta.rows);
                mask.scratch_for(rows * self.stride())
            }
            Positions::Indices { columns, .. } => columns.scratch_for(self.most_values(rows) * 2),
        }
    }

    /// Values of a range as f32, where they lie if they do.
    fn read_values<'a>(
        &'a self,
        range: &Range<usize>,
        bytes: &'a mut Vec<u8>,
        floats: &'a mut Vec<f32>,
        nested: &mut Scratch,
    ) -> Result<&'a [f32]> {
        if let Some(data) = &self.plain
            && data.in_place()
        {
            let bytes = data.window(range.start * 4..range.end * 4, bytes)?;
            if let Ok(values) = bytemuck::try_cast_slice(bytes) {
                return Ok(values);
            }
        }
        let (rows, skip) = value_rows(&*self.values, range);
        let n = rows.len() * self.values.meta().cols;
        if floats.capacity() < n {
            // Windows differ; growing by doubling would pass the scratch limit.
            *floats = Vec::new();
            floats.reserve_exact(n);
        }
        floats.resize(n, 0.0);
        self.values.decode_f32(rows, floats, nested)?;
        Ok(&floats[skip..skip + range.len()])
    }

    /// Where the values of `row` begin among those of an open window.
    fn value_at(&self, opened: &Opened<'_>, row: usize, kernels: &KernelSet) -> usize {
        let block = row / self.rows_per_block;
        let block_start = block * self.rows_per_block;
        let (from, before) = match block_start.checked_sub(opened.rows.start) {
            Some(_) => (block_start, self.starts[block] - opened.first),
            None => (opened.rows.start, 0),
        };
        match opened.at {
            At::Bits(bits) => {
                let stride = self.stride();
                let first = opened.rows.start;
                before + kernels.mask_count(&bits[(from - first) * stride..(row - first) * stride])
            }
            At::Columns(_) => before,
        }
    }

    /// Some rows of an open window of bits.
    fn mask_rows<'a>(
        &self,
        opened: &'a Opened<'_>,
        bits: &'a [u8],
        rows: &Range<usize>,
        kernels: &KernelSet,
    ) -> MaskRows<'a> {
        let stride = self.stride();
        let first = opened.rows.start;
        MaskRows {
            bits: &bits[(rows.start - first) * stride..(rows.end - first) * stride],
            cols: self.meta.cols,
            values: &opened.values[self.value_at(opened, rows.start, kernels)..],
        }
    }

    /// The way of a product with so many rows of `x`.
    fn way(&self, batch: usize, kernels: &KernelSet) -> Way {
        let Positions::Bitmap(_) = &self.positions else {
            return Way::Lists;
        };
        let share = self.density();
        let wide = kernels.isa() >= Isa::Avx512 && kernels.isa() != Isa::Neon;
        // Cycles that 16 columns of a row take, measured on Zen 4 and, without AVX-512, on
        // Zen 3: opened in a register, by eight, four, two vectors and one at a time …
        let dots = match wide {
            true => {
                let [eight, four, two] = [batch / 8, batch % 8 / 4, batch % 4 / 2];
                let few = four as f64 * 6.1 + two as f64 * 4.2 + (batch % 2) as f64 * 3.4;
                eight as f64 * 11.3 + few
            }
            false => batch as f64 * 6.6,
        };
        // … as lists made of the mask, and by panels: for each value, and for making lists
        // and loading and storing sums in each block.
        let lists = match (batch, wide) {
            (1, true) => 2.1 + 16.0 * share * 0.8,
            (1, false) => 4.9 + 16.0 * share * 0.65,
            _ => f64::INFINITY,
        };
        let panels: f64 = lists::groups(batch)
            .map(|g| match g.lanes {
                64 => 16.0 * share * 5.3 + 5.6,
                32 => 16.0 * share * 3.0 + 2.8,
                16 => 16.0 * share * 2.4 + 1.4,
                _ => 16.0 * share * 1.9 + 1.7,
            })
            .sum();
        let fits = self.meta.cols <= INDEX_COLS;
        if dots <= panels && dots <= lists {
            Way::Dots
        } else if fits && (batch == 1 || share < FEW) {
            Way::Lists
        } else if batch == 1 {
            Way::Dots
        } else {
            Way::Panels
        }
    }

    /// Products in which rows are opened in registers.
    fn dots(&self, x: &[f32], batch: usize, y: &mut [f32], product: &Product<'_>) -> Result<()> {
        let cols = self.meta.cols;
        let stride = cols.next_multiple_of(16);
        let mut lease = Scratch::lease();
        let all = lists::aligned(&mut lease.panel, batch * stride);
        for (all, x) in all.chunks_exact_mut(stride).zip(x.chunks_exact(cols)) {
            all[..cols].copy_from_slice(x);
        }
        let workers = product.workers(self.matmul_macs().saturating_mul(batch as u64));
        let product = lists::within(product, lists::aligned_bytes(batch * stride), workers);
        let cost = |rows: usize| {
            self.window_bytes(rows) + lists::aligned_bytes(rows.min(PANEL_ROWS) * batch)
        };
        let x = &*all;
        product.windows(
            self,
            self.matmul_macs().saturating_mul(batch as u64),
            usize::MAX,
            y,
            &cost,
            |rows, y, scratch| {
                let kernels = product.kernels;
                let (window, _, room) = lists::rooms(scratch);
                let opened = self.open(&rows, kernels, window)?;
                let At::Bits(bits) = opened.at else {
                    return Err(Error::internal("a mask of lists opened as bits"));
                };
                for start in rows.clone().step_by(PANEL_ROWS) {
                    let piece = start..(start + PANEL_ROWS).min(rows.end);
                    let m = self.mask_rows(&opened, bits, &piece, kernels);
                    let (from, n) = (start - rows.start, piece.len());
                    let sums = lists::aligned(room.sums, batch * n);
                    kernels.mask_dot(&m, x, stride, sums);
                    for (b, sums) in sums.chunks_exact(n).enumerate() {
                        y.row_mut(b)[from..from + n].copy_from_slice(sums);
                    }
                }
                Ok(())
            },
        )
    }

    /// Products by panels of `x`.
    fn panels(&self, x: &[f32], batch: usize, y: &mut [f32], product: &Product<'_>) -> Result<()> {
        let cols = self.meta.cols;
        let mut lease = Scratch::lease();
        let lanes = lists::all_lanes(batch);
        let panels = lists::turn(x, cols, &mut lease.panel, product)?;
        let workers = product.workers(self.matmul_macs().saturating_mul(batch as u64));
        let product = lists::within(product, lists::aligned_bytes(lanes * cols), workers);
        let most = lists::groups(batch).map(|g| g.lanes).max().unwrap_or(0);
        let cost = |rows: usize| {
            self.window_bytes(rows) + lists::aligned_bytes(rows.min(PANEL_ROWS) * most * 2)
        };
        product.windows(
            self,
            self.matmul_macs().saturating_mul(batch as u64),
            usize::MAX,
            y,
            &cost,
            |rows, y, scratch| {
                let kernels = product.kernels;
                let (window, _, room) = lists::rooms(scratch);
                let opened = self.open(&rows, kernels, window)?;
                let At::Bits(bits) = opened.at else {
                    return Err(Error::internal("a mask of lists opened as bits"));
                };
                for start in rows.clone().step_by(PANEL_ROWS) {
                    let piece = start..(start + PANEL_ROWS).min(rows.end);
                    let m = self.mask_rows(&opened, bits, &piece, kernels);
                    for group in lists::groups(batch) {
                        let n = piece.len() * group.lanes;
                        let (sums, turned) = lists::aligned(room.sums, 2 * n).split_at_mut(n);
                        let panel = &panels[group.before * cols..][..group.lanes * cols];
                        kernels.mask_panel(&m, panel, group.lanes, sums);
                        lists::store(sums, &group, turned, start - rows.start, y, kernels);
                    }
                }
                Ok(())
            },
        )
    }

    /// The transposed product with one vector: threads divide the columns.
    fn add_rows(&self, g: &[f32], y: &mut [f32], product: &Product<'_>) -> Result<()> {
        let (rows, cols) = (self.meta.rows, self.meta.cols);
        let workers = product.workers(self.matmul_macs());
        let width = cols.div_ceil(workers).next_multiple_of(64);
        let workers = workers.min(cols.div_ceil(width));
        let step = lists::transposed_rows(self, product.scratch_bytes, workers);
        y.fill(0.0);
        let parts = std::sync::Mutex::new(y.chunks_mut(width).enumerate());
        run_workers(workers, || {
            let mut scratch = Scratch::lease();
            loop {
                let part = parts.lock().unwrap_or_else(|e| e.into_inner()).next();
                let Some((w, y)) = part else {
                    return Ok(());
                };
                for start in (0..rows).step_by(step) {
                    let window = start..(start + step).min(rows);
                    let kernels = product.kernels;
                    let (room, _, _) = lists::rooms(&mut scratch);
                    let opened = self.open(&window, kernels, room)?;
                    let At::Bits(bits) = opened.at else {
                        return Err(Error::internal("a mask of lists opened as bits"));
                    };
                    let m = self.mask_rows(&opened, bits, &window, kernels);
                    kernels.mask_add(&m, &g[window], w * width, y);
                }
            }
        })
    }
}

/// Below this share of values the lists of a mask are worth making for a batch: blocks whose
/// panel stays in a first cache would have too few.
const FEW: f64 = 0.12;

/// Ways to a product.
enum Way {
    /// Rows opened in registers.
    Dots,
    /// Values times lines of `x`, blocks of the mask listed on the way.
    Panels,
    /// The same, or one vector fetched column by column, from lists of whole rows.
    Lists,
}

/// Columns as numbers, copied if they lie at an odd address.
fn columns_of<'a>(bytes: &'a [u8], copy: &'a mut Vec<u16>) -> &'a [u16] {
    match bytemuck::try_cast_slice(bytes) {
        Ok(columns) => columns,
        Err(_) => {
            copy.clear();
            copy.extend(
                bytes
                    .as_chunks::<2>()
                    .0
                    .iter()
                    .map(|c| u16::from_le_bytes(*c)),
            );
            copy
        }
    }
}

impl Sparse for Mask {
    type Opened<'a> = Opened<'a>;

    fn open<'a>(
        &'a self,
        rows: &Range<usize>,
        kernels: &KernelSet,
        room: WindowRoom<'a>,
    ) -> Result<Opened<'a>> {
        let (at, values) = self.locate(rows, kernels, room.bytes)?;
        Ok(Opened {
            rows: rows.clone(),
            at,
            first: values.start,
            values: self.read_values(&values, room.more_bytes, room.floats, room.nested)?,
        })
    }

    fn strip_cols(&self) -> usize {
        INDEX_COLS
    }

    fn lists<'a>(
        &self,
        opened: &'a Opened<'_>,
        rows: Range<usize>,
        strip: usize,
        kernels: &KernelSet,
        room: ListRoom<'a>,
    ) -> Result<IndexRows<'a>> {
        let from = self.value_at(opened, rows.start, kernels);
        let n = rows.len();
        let first = opened.rows.start;
        match opened.at {
            At::Columns(bytes) => {
                let count = self.starts[rows.end] - self.starts[rows.start];
                let bytes = &bytes[from * 2..(from + count) * 2];
                let (bounds, copy) = lists::split_room(room.positions, n, count);
                for (bound, at) in bounds.iter_mut().zip(&self.starts[rows.start..]) {
                    *bound = (at - self.starts[rows.start]) as u32;
                }
                let indices = match bytemuck::try_cast_slice(bytes) {
                    Ok(indices) => indices,
                    Err(_) => {
                        for (to, c) in copy.iter_mut().zip(bytes.as_chunks::<2>().0) {
                            *to = u16::from_le_bytes(*c);
                        }
                        copy
                    }
                };
                Ok(IndexRows {
                    bounds,
                    indices,
                    cols: self.meta.cols,
                    values: &opened.values[from..from + count],
                })
            }
            At::Bits(bits) => {
                let stride = self.stride();
                let bits = &bits[(rows.start - first) * stride..(rows.end - first) * stride];
                // Rows of several strips come one by one.
                let (skipped, bits) = bits.split_at((strip * INDEX_COLS / 8).min(bits.len()));
                let bits = match self.meta.cols > INDEX_COLS {
                    true => &bits[..bits.len().min(INDEX_COLS / 8)],
                    false => bits,
                };
                let from = from + kernels.mask_count(skipped);
                let count = kernels.mask_count(bits);
                let (bounds, indices) = lists::split_room(room.positions, n, count);
                bounds[0] = 0;
                let mut at = 0;
                for (bound, row) in bounds[1..]
                    .iter_mut()
                    .zip(bits.chunks(stride.min(bits.len())))
                {
                    at += kernels.mask_list(row, &mut indices[at..]);
                    *bound = at as u32;
                }
                let left = self.meta.cols - strip * INDEX_COLS;
                Ok(IndexRows {
                    bounds,
                    indices,
                    cols: left.min(INDEX_COLS),
                    values: &opened.values[from..from + count],
                })
            }
        }
    }

    fn count(&self) -> usize {
        self.count
    }

    fn window_bytes(&self, rows: usize) -> usize {
        let values = match &self.plain {
            Some(data) if data.in_place() => 0,
            _ => {
                let values = self.most_values(rows);
                let cols = self.values.meta().cols;
                values * 4 + self.values.scratch_for(values.div_ceil(cols.max(1)))
            }
        };
        self.positions_scratch(rows) + values
    }

    fn list_bytes(&self, rows: usize) -> usize {
        let rows = rows.min(PANEL_ROWS);
        rows * 4 + self.most_values(rows) * 2
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
        if let Positions::Indices { .. } = &self.positions {
            params.insert("positions".into(), "indices".into());
        }
        params
    }

    fn parts(&self) -> Vec<(&'static str, Part<'_>)> {
        let name = match &self.positions {
            Positions::Bitmap(_) => "mask",
            Positions::Indices { .. } => "indices",
        };
        vec![
            (name, Part::Buffer(self.positions.buffer())),
            ("counts", Part::Buffer(&self.counts)),
            ("values", Part::Form(&*self.values)),
        ]
    }

    fn map_buffers(&self, f: &mut dyn FnMut(&Buffer) -> Result<Buffer>) -> Result<Box<dyn Form>> {
        let positions = f(self.positions.buffer())?;
        let counts = f(&self.counts)?;
        let values = self.values.map_buffers(f)?;
        Ok(Box::new(Self {
            meta: self.meta.clone(),
            positions: match &self.positions {
                Positions::Bitmap(_) => Positions::Bitmap(positions),
                Positions::Indices { checked, .. } => {
                    Positions::indices(positions, checked.len() * CHECKED_ROWS)
                }
            },
            counts,
            plain: plain(&*values),
            values,
            whole: self.whole,
            count: self.count,
            rows_per_block: self.rows_per_block,
            starts: self.starts.clone(),
            most: self.most,
        }))
    }

    fn is_exact(&self) -> bool {
        self.whole && self.values.is_exact()
    }

    fn row_unit(&self) -> usize {
        match &self.positions {
            Positions::Bitmap(_) => self.rows_per_block,
            // Rows that are checked together.
            Positions::Indices { .. } => CHECKED_ROWS,
        }
    }

    fn least_rows(&self) -> usize {
        1
    }

    fn scratch_for(&self, rows: usize) -> usize {
        let values = self.most_values(rows);
        let cols = self.values.meta().cols;
        self.positions_scratch(rows)
            + values * 4
            + self.values.scratch_for(values.div_ceil(cols.max(1)))
    }

    fn decode_f32(&self, rows: Range<usize>, out: &mut [f32], scratch: &mut Scratch) -> Result<()> {
        if out.is_empty() {
            return Ok(());
        }
        let (room, _, _) = lists::rooms(scratch);
        let opened = self.open(&rows, kernels(), room)?;
        let mut values = opened.values;
        let out = out.chunks_exact_mut(self.meta.cols);
        match opened.at {
            At::Bits(bits) => {
                for (out, bits) in out.zip(bits.chunks_exact(self.stride())) {
                    values = &values[kernels().mask_expand_row(bits, values, out)..];
                }
            }
            At::Columns(bytes) => {
                let mut columns = bytes.as_chunks::<2>().0;
                for (out, row) in out.zip(rows) {
                    let n = self.starts[row + 1] - self.starts[row];
                    out.fill(0.0);
                    for (column, v) in columns[..n].iter().zip(values) {
                        out[usize::from(u16::from_le_bytes(*column))] = *v;
                    }
                    (columns, values) = (&columns[n..], &values[n..]);
                }
            }
        }
        Ok(())
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
        let (at, values) = self.locate(&rows, kernels(), &mut scratch.bytes)?;
        let (value_rows, skip) = value_rows(&*self.values, &values);
        let raw = &mut scratch.more_bytes;
        raw.resize(value_rows.len() * self.values.meta().row_bytes(), 0);
        let nested = scratch.nested.get_or_insert_default();
        self.values.decode_native(value_rows, raw, nested)?;
        let mut raw = &raw[skip * size..(skip + values.len()) * size];
        out.fill(0);
        let out = out.chunks_exact_mut(self.meta.row_bytes());
        match at {
            At::Bits(bits) => {
                for (out, bits) in out.zip(bits.chunks_exact(self.stride())) {
                    for_set_bits(bits, |i| put(i, out, &mut raw, size));
                }
            }
            At::Columns(bytes) => {
                let mut columns = bytes.as_chunks::<2>().0;
                for (out, row) in out.zip(rows) {
                    let n = self.starts[row + 1] - self.starts[row];
                    for column in &columns[..n] {
                        put(u16::from_le_bytes(*column).into(), out, &mut raw, size);
                    }
                    columns = &columns[n..];
                }
            }
        }
        Ok(())
    }

    fn matmul(&self, x: &[f32], batch: usize, y: &mut [f32], product: &Product<'_>) -> Result<()> {
        match self.way(batch, product.kernels) {
            Way::Dots => self.dots(x, batch, y, product),
            Way::Panels => self.panels(x, batch, y, product),
            Way::Lists => lists::matmul(self, x, batch, y, product),
        }
    }

    fn matmul_t(
        &self,
        g: &[f32],
        batch: usize,
        y: &mut [f32],
        product: &Product<'_>,
    ) -> Result<()> {
        match &self.positions {
            Positions::Bitmap(_) if batch == 1 && self.density() >= FEW => {
                self.add_rows(g, y, product)
            }
            _ => lists::matmul_t(self, g, batch, y, product),
        }
    }

    fn matmul_macs(&self) -> u64 {
        self.count as u64
    }
}

/// Puts the next element of `raw` to its column.
fn put(column: usize, out: &mut [u8], raw: &mut &[u8], size: usize) {
    let (element, rest) = raw.split_at(size);
    out[column * size..(column + 1) * size].copy_from_slice(element);
    *raw = rest;
}
