//! Products of forms that hold few values: their rows as lists of columns.
//!
//! A form opens a window of rows once, whatever chunks that takes, and then gives its rows
//! as lists, [`PANEL_ROWS`] at a time. `x` is prepared once for the whole product: a vector
//! is copied to where every 16-bit column is an index, several are turned so that they lie
//! side by side, in groups of 64, 32, 16 or 8 lanes. What that takes is as large as `x`, or
//! 256 KiB if that is more, and is taken from the scratch limit.
//!
//! A row's sum is formed in an order that depends on the batch and on the instruction set,
//! not on windows or threads.

use std::ops::Range;
use std::sync::Mutex;

use super::product::{Product, run_workers};
use super::{Form, Scratch};
use crate::error::Result;
use crate::kernel::KernelSet;
use crate::kernel::columns::Columns;
use crate::kernel::sparse::{INDEX_COLS, IndexRows, PANEL_ROWS};

/// A form that gives its rows as lists.
pub(super) trait Sparse: Form {
    /// A window whose bytes are at hand and checked.
    type Opened<'a>
    where
        Self: 'a;

    /// Reads a window of rows.
    fn open<'a>(
        &'a self,
        rows: &Range<usize>,
        kernels: &KernelSet,
        room: WindowRoom<'a>,
    ) -> Result<Self::Opened<'a>>;

    /// Columns of a strip: a row's list is made for each strip of it. [`INDEX_COLS`] at most.
    fn strip_cols(&self) -> usize;

    /// Rows whose lists are made at once.
    fn list_rows(&self) -> usize {
        PANEL_ROWS
    }

    /// The lists of some rows of an open window in one strip: as many as
    /// [`list_rows`](Self::list_rows), and one only where there are several strips.
    fn lists<'a>(
        &self,
        opened: &'a Self::Opened<'_>,
        rows: Range<usize>,
        strip: usize,
        kernels: &KernelSet,
        room: ListRoom<'a>,
    ) -> Result<IndexRows<'a>>;

    /// Number of values.
    fn count(&self) -> usize;

    /// Bytes that a window of so many rows takes in its room.
    fn window_bytes(&self, rows: usize) -> usize;

    /// Bytes that lists take in theirs, those of a window of so many rows not being made at
    /// once.
    fn list_bytes(&self, rows: usize) -> usize;
}

/// Memory for a window.
pub(super) struct WindowRoom<'a> {
    pub(super) bytes: &'a mut Vec<u8>,
    pub(super) more_bytes: &'a mut Vec<u8>,
    pub(super) floats: &'a mut Vec<f32>,
    pub(super) nested: &'a mut Scratch,
}

/// Memory for lists.
pub(super) struct ListRoom<'a> {
    pub(super) positions: &'a mut Vec<u32>,
    pub(super) floats: &'a mut Vec<f32>,
}

/// Memory for sums of panels.
pub(super) struct SumRoom<'a> {
    pub(super) sums: &'a mut Vec<f32>,
}

/// Divides scratch into the three.
pub(super) fn rooms(scratch: &mut Scratch) -> (WindowRoom<'_>, ListRoom<'_>, SumRoom<'_>) {
    let Scratch {
        bytes,
        more_bytes,
        floats,
        out,
        panel,
        positions,
        nested,
        ..
    } = scratch;
    let window = WindowRoom {
        bytes,
        more_bytes,
        floats,
        nested: nested.get_or_insert_default(),
    };
    let list = ListRoom {
        positions,
        floats: out,
    };
    (window, list, SumRoom { sums: panel })
}

/// The `n` floats of `memory` from a cache line on: vectors that cross lines take half as
/// long again to load. What they held is of no use.
pub(super) fn aligned(memory: &mut Vec<f32>, n: usize) -> &mut [f32] {
    let room = n + 15;
    if memory.len() < room {
        // Growing by doubling would pass the scratch limit.
        memory.reserve_exact(room - memory.len());
        memory.resize(room, 0.0);
    }
    let start = memory.as_ptr().align_offset(64).min(15);
    &mut memory[start..start + n]
}

/// Room for the bounds of `rows` rows and a list of `count` columns.
pub(super) fn split_room(
    memory: &mut Vec<u32>,
    rows: usize,
    count: usize,
) -> (&mut [u32], &mut [u16]) {
    let all = rows + 1 + count.div_ceil(2);
    if memory.capacity() < all {
        *memory = Vec::new();
        memory.reserve_exact(all);
    }
    memory.resize(all, 0);
    let (bounds, list) = memory.split_at_mut(rows + 1);
    (bounds, &mut bytemuck::cast_slice_mut(list)[..count])
}

/// What `aligned` takes for `n` floats.
pub(super) fn aligned_bytes(n: usize) -> usize {
    (n + 15) * 4
}

/// Rows of a batch that lie side by side.
#[derive(Clone, Copy, Debug)]
pub(super) struct Group {
    /// Rows of the batch.
    pub(super) first: usize,
    pub(super) count: usize,
    /// Room for them.
    pub(super) lanes: usize,
    /// Lanes of the groups before.
    pub(super) before: usize,
}

/// A batch in groups: as many of the widest as there are, then what holds the rest, which
/// is two groups where one would be more than a quarter empty.
pub(super) fn groups(batch: usize) -> impl Iterator<Item = Group> + Clone {
    let (mut first, mut before) = (0, 0);
    std::iter::from_fn(move || {
        let left = batch - first;
        let lanes = match left {
            0 => return None,
            49.. => 64,
            25.. => 32,
            9.. => 16,
            _ => 8,
        };
        let group = Group {
            first,
            count: left.min(lanes),
            lanes,
            before,
        };
        first += group.count;
        before += lanes;
        Some(group)
    })
}

/// Lanes of all groups of a batch.
pub(super) fn all_lanes(batch: usize) -> usize {
    groups(batch).map(|g| g.lanes).sum()
}

/// A batch turned: `x[batch, cols]` to a panel `[cols, lanes]` for each group, one after the
/// other. Lanes without a row are zero.
pub(super) fn turn<'a>(
    x: &[f32],
    cols: usize,
    memory: &'a mut Vec<f32>,
    product: &Product<'_>,
) -> Result<&'a [f32]> {
    let batch = x.len() / cols;
    let all = aligned(memory, all_lanes(batch) * cols);
    let mut rest = &mut *all;
    let panels = groups(batch).map(|g| {
        let (panel, tail) = std::mem::take(&mut rest).split_at_mut(g.lanes * cols);
        rest = tail;
        (g, panel)
    });
    let panels = Mutex::new(panels);
    // A few microseconds a group.
    let workers = product.workers(x.len() as u64 * 4).min(batch.div_ceil(64));
    run_workers(workers, || {
        loop {
            let panel = panels.lock().unwrap_or_else(|e| e.into_inner()).next();
            let Some((g, panel)) = panel else {
                return Ok(());
            };
            if g.count < g.lanes {
                panel.fill(0.0);
            }
            let x = &x[g.first * cols..(g.first + g.count) * cols];
            product.kernels.transpose(x, cols, panel, g.lanes);
        }
    })?;
    Ok(all)
}

/// Writes sums `[rows, lanes]` of a group to the columns `from ..` of its rows of `y`; `turned`
/// has as much room as `sums`.
pub(super) fn store(
    sums: &[f32],
    group: &Group,
    turned: &mut [f32],
    from: usize,
    y: &mut Columns<'_>,
    kernels: &KernelSet,
) {
    let rows = sums.len() / group.lanes;
    kernels.transpose(sums, group.lanes, turned, rows);
    for (b, sums) in turned.chunks_exact(rows).take(group.count).enumerate() {
        y.row_mut(group.first + b)[from..from + rows].copy_from_slice(sums);
    }
}

/// Columns of a list whose panel is gone through at once: such that a row has sixteen values
/// or more in each, and a first cache's at least. What a row costs in a block besides, finding
/// its end and loading and storing the sums, takes as long as six or eight values.
fn block_cols(form: &impl Sparse, lanes: usize) -> usize {
    let meta = form.meta();
    let weights = meta.rows as u64 * meta.cols as u64;
    let cols = (weights * 16).div_ceil((form.count() as u64).max(1));
    (cols as usize).clamp(128, INDEX_COLS).next_multiple_of(64) * 64 / lanes
}

fn strips(form: &impl Sparse) -> usize {
    form.meta().cols.div_ceil(form.strip_cols())
}

/// Windows that are decoded stay in the second cache for whoever multiplies them, unless a
/// chunk is larger.
const WINDOW_BYTES: usize = 1 << 20;

/// What the time of a product with one vector is worth in dense products, for each value: its
/// factor is gathered, which takes a cycle, and rows are short.
const GATHERED_MACS: u64 = 8;

/// The same product with less scratch, `taken` bytes being used already, and windows no
/// larger than the second cache.
pub(super) fn within<'a>(product: &Product<'a>, taken: usize, workers: usize) -> Product<'a> {
    let left = product.scratch_bytes.saturating_sub(taken);
    Product {
        scratch_bytes: left.min(WINDOW_BYTES.saturating_mul(workers)),
        ..*product
    }
}

/// `y[b][i] = Σ x[b][k] · W[i][k]`.
pub(super) fn matmul(
    form: &impl Sparse,
    x: &[f32],
    batch: usize,
    y: &mut [f32],
    product: &Product<'_>,
) -> Result<()> {
    let mut lease = Scratch::lease();
    if batch == 1 {
        return by_columns(form, x, y, &mut lease.panel, product);
    }
    let workers = product.workers(form.matmul_macs().saturating_mul(batch as u64));
    let cols = form.meta().cols;
    let lanes = all_lanes(batch);
    let panels = turn(x, cols, &mut lease.panel, product)?;
    let product = within(product, aligned_bytes(lanes * cols), workers);
    let most = groups(batch).map(|g| g.lanes).max().unwrap_or(0);
    let cost = |rows: usize| {
        let sums = aligned_bytes(rows.min(PANEL_ROWS) * most * 2);
        form.window_bytes(rows) + form.list_bytes(rows) + sums
    };
    product.windows(
        form,
        form.matmul_macs().saturating_mul(batch as u64),
        usize::MAX,
        y,
        &cost,
        |rows, y, scratch| {
            let kernels = product.kernels;
            let (window, mut list, sums) = rooms(scratch);
            let opened = form.open(&rows, kernels, window)?;
            for_lists(
                form,
                &opened,
                &rows,
                kernels,
                &mut list,
                |piece, strip, m| {
                    for group in groups(batch) {
                        let n = piece.len() * group.lanes;
                        let (sums, turned) = aligned(sums.sums, 2 * n).split_at_mut(n);
                        let first = (group.before * cols) + strip * form.strip_cols() * group.lanes;
                        let panel = &panels[first..first + m.cols * group.lanes];
                        let block = block_cols(form, group.lanes);
                        kernels.index_panel(m, panel, group.lanes, block, sums);
                        let from = piece.start - rows.start;
                        if strip == 0 {
                            store(sums, &group, turned, from, y, kernels);
                        } else {
                            // Of one row: several strips are those of long rows.
                            for (b, sum) in sums.iter().take(group.count).enumerate() {
                                y.row_mut(group.first + b)[from] += sum;
                            }
                        }
                    }
                    Ok(())
                },
            )
        },
    )
}

/// The product with one vector.
fn by_columns(
    form: &impl Sparse,
    x: &[f32],
    y: &mut [f32],
    memory: &mut Vec<f32>,
    product: &Product<'_>,
) -> Result<()> {
    let macs = form.matmul_macs().saturating_mul(GATHERED_MACS);
    let workers = product.workers(macs);
    let (cols, strips) = (form.meta().cols, strips(form));
    let all = aligned(memory, strips * INDEX_COLS);
    let pieces = x.chunks(form.strip_cols().min(cols));
    for (all, x) in all.chunks_exact_mut(INDEX_COLS).zip(pieces) {
        all[..x.len()].copy_from_slice(x);
    }
    let x = all.as_chunks::<INDEX_COLS>().0;
    let product = within(product, aligned_bytes(strips * INDEX_COLS), workers);
    let cost =
        |rows: usize| form.window_bytes(rows) + form.list_bytes(rows) + rows.min(PANEL_ROWS) * 4;
    product.windows(form, macs, usize::MAX, y, &cost, |rows, y, scratch| {
        let kernels = product.kernels;
        let (window, mut list, _) = rooms(scratch);
        let opened = form.open(&rows, kernels, window)?;
        let y = y.row_mut(0);
        for_lists(
            form,
            &opened,
            &rows,
            kernels,
            &mut list,
            |piece, strip, m| {
                let y = &mut y[piece.start - rows.start..piece.end - rows.start];
                if strip == 0 {
                    kernels.index_dot(m, &x[0], y);
                } else {
                    let mut sum = [0.0];
                    kernels.index_dot(m, &x[strip], &mut sum);
                    y[0] += sum[0];
                }
                Ok(())
            },
        )
    })
}

/// Calls `f` with the lists of all rows of a window, [`PANEL_ROWS`] at most: rows, strip,
/// lists.
fn for_lists<F: Sparse>(
    form: &F,
    opened: &F::Opened<'_>,
    rows: &Range<usize>,
    kernels: &KernelSet,
    room: &mut ListRoom<'_>,
    mut f: impl FnMut(Range<usize>, usize, &IndexRows<'_>) -> Result<()>,
) -> Result<()> {
    let strips = strips(form);
    let step = if strips == 1 { form.list_rows() } else { 1 };
    for start in rows.clone().step_by(step) {
        let piece = start..(start + step).min(rows.end);
        for strip in 0..strips {
            let room = ListRoom {
                positions: &mut *room.positions,
                floats: &mut *room.floats,
            };
            let all = form.lists(opened, piece.clone(), strip, kernels, room)?;
            for from in (0..piece.len()).step_by(PANEL_ROWS) {
                let some = from..(from + PANEL_ROWS).min(piece.len());
                let rows = start + some.start..start + some.end;
                f(rows, strip, &all.some(some))?;
            }
        }
    }
    Ok(())
}

/// Rows of a window of a transposed product: as many as fit.
pub(super) fn transposed_rows(form: &impl Sparse, limit: usize, workers: usize) -> usize {
    let (unit, least) = (form.row_unit(), form.least_rows());
    let cost = |rows: usize| form.window_bytes(rows) + form.list_bytes(rows);
    let mut rows = form.meta().rows;
    while rows > least && cost(rows).saturating_mul(workers) > limit {
        rows = rows.div_ceil(2);
    }
    match rows / unit * unit {
        0 => rows,
        whole => whole,
    }
}

/// `y[b][k] = Σ g[b][i] · W[i][k]`, for forms of one strip.
///
/// Threads divide the columns, so that an output is formed by one of them, over the rows in
/// order. Each makes the lists of all rows: what is read in place costs little twice, and what
/// is decoded is a small part of a batch.
pub(super) fn matmul_t(
    form: &impl Sparse,
    g: &[f32],
    batch: usize,
    y: &mut [f32],
    product: &Product<'_>,
) -> Result<()> {
    let (rows, cols) = (form.meta().rows, form.meta().cols);
    if strips(form) > 1 {
        return product.by_rows_t(form, g, batch, y);
    }
    let workers = product.workers(form.matmul_macs().saturating_mul(batch as u64));
    let width = cols.div_ceil(workers).next_multiple_of(64);
    let workers = workers.min(cols.div_ceil(width));
    let (mut g_lease, mut y_lease) = (Scratch::lease(), Scratch::lease());
    let lanes: usize = lines(batch).map(|g| g.lanes).sum();
    let (g, taken) = match batch {
        1 => (g, 0),
        _ => {
            let taken = aligned_bytes(lanes * (rows + cols));
            (turn(g, rows, &mut g_lease.panel, product)?, taken)
        }
    };
    let product = within(product, taken, workers);
    let step = transposed_rows(form, product.scratch_bytes, workers);
    // Each worker's columns, and of them each group's.
    let sums = match batch {
        1 => &mut *y,
        _ => aligned(&mut y_lease.panel, lanes * cols),
    };
    sums.fill(0.0);
    let parts = Mutex::new(sums.chunks_mut(width * lanes).enumerate());
    run_workers(workers, || {
        let mut scratch = Scratch::lease();
        loop {
            let part = parts.lock().unwrap_or_else(|e| e.into_inner()).next();
            let Some((w, sums)) = part else {
                return Ok(());
            };
            let here = sums.len() / lanes;
            for start in (0..rows).step_by(step) {
                let window = start..(start + step).min(rows);
                let kernels = product.kernels;
                let (room, mut list, _) = rooms(&mut scratch);
                let opened = form.open(&window, kernels, room)?;
                for_lists(form, &opened, &window, kernels, &mut list, |piece, _, m| {
                    for group in lines(batch) {
                        let from = group.before * rows + piece.start * group.lanes;
                        let g = &g[from..from + piece.len() * group.lanes];
                        let sums = &mut sums[group.before * here..][..group.lanes * here];
                        kernels.index_add(m, g, group.lanes, w * width, sums);
                    }
                    Ok(())
                })?;
            }
        }
    })?;
    if batch > 1 {
        let sums = aligned(&mut y_lease.panel, lanes * cols);
        let mut y = Columns::new(y, cols);
        for (w, sums) in sums.chunks(width * lanes).enumerate() {
            let here = sums.len() / lanes;
            for group in lines(batch) {
                let sums = &sums[group.before * here..][..group.lanes * here];
                for (i, sums) in sums.chunks(PANEL_ROWS * group.lanes).enumerate() {
                    let turned = aligned(&mut g_lease.panel, sums.len());
                    let from = w * width + i * PANEL_ROWS;
                    store(sums, &group, turned, from, &mut y, product.kernels);
                }
            }
        }
    }
    Ok(())
}

/// The groups of a transposed product: one vector stays as it is.
fn lines(batch: usize) -> impl Iterator<Item = Group> + Clone {
    groups(batch).map(move |g| Group {
        lanes: if batch == 1 { 1 } else { g.lanes },
        ..g
    })
}
