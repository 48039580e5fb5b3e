//! The streaming driver: products with a form in bounded memory.
//!
//! The matrix goes by in windows of rows; each thread holds one window at a time. What
//! a window needs beside input and output is known before it starts, and the windows
//! and threads are chosen so that the sum stays under the scratch limit. A single
//! window of the smallest size (one row, or 16 of a quantised tensor, and the packed
//! chunk that they lie in) is always allowed.
//!
//! A form whose product does not go by rows (a transform, factors) brings its own
//! [`Form::matmul`] and calls this driver for the forms that it is made of; what it holds
//! in between grows with the batch, as input and output do, and is not counted.
//!
//! Results do not depend on the number of threads: every output is formed by one thread
//! in one order.

use std::sync::Mutex;

use super::{Form, Scratch};
use crate::error::{Error, Result};
use crate::kernel::KernelSet;
use crate::kernel::columns::Columns;

/// How a product is computed: kernels, threads and the scratch limit.
#[derive(Clone, Copy)]
pub struct Product<'a> {
    /// The inner loops.
    pub kernels: &'a KernelSet,
    /// Threads to use at most; 0 for all of the current pool.
    pub threads: usize,
    /// Memory for decoded windows, all threads together, in bytes.
    pub scratch_bytes: usize,
}

impl std::fmt::Debug for Product<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Product")
            .field("threads", &self.threads)
            .field("scratch_bytes", &self.scratch_bytes)
            .finish_non_exhaustive()
    }
}

/// Below this many multiplications another thread costs more than it brings (about
/// 30 µs of work on one core).
const SMALL_MACS: u64 = 1 << 19;

impl Product<'_> {
    /// `y[b, out] = Σ x[b, k] · W[out, k]` for `x[batch, cols]` and `y[batch, rows]`,
    /// row-major.
    pub fn matmul(&self, form: &dyn Form, x: &[f32], batch: usize, y: &mut [f32]) -> Result<()> {
        let meta = form.meta();
        check(x.len(), batch, meta.cols, "x")?;
        check(y.len(), batch, meta.rows, "y")?;
        if meta.cols == 0 {
            y.fill(0.0);
        }
        if y.is_empty() || meta.cols == 0 {
            return Ok(());
        }
        form.matmul(x, batch, y, self)
    }

    /// `y[b, in] = Σ g[b, r] · W[r, in]` for `g[batch, rows]` and `y[batch, cols]`,
    /// row-major.
    pub fn matmul_t(&self, form: &dyn Form, g: &[f32], batch: usize, y: &mut [f32]) -> Result<()> {
        let meta = form.meta();
        check(g.len(), batch, meta.rows, "g")?;
        check(y.len(), batch, meta.cols, "y")?;
        if meta.rows == 0 {
            y.fill(0.0);
        }
        if y.is_empty() || meta.rows == 0 {
            return Ok(());
        }
        form.matmul_t(g, batch, y, self)
    }

    /// Threads for this many multiplications.
    pub fn workers(&self, macs: u64) -> usize {
        match self.threads {
            _ if macs < SMALL_MACS => 1,
            0 => rayon::current_num_threads(),
            n => n,
        }
    }

    /// `x · Wᵀ` by windows of rows, each by [`Form::matmul_rows`].
    pub fn by_rows<F: Form + ?Sized>(
        &self,
        form: &F,
        x: &[f32],
        batch: usize,
        y: &mut [f32],
    ) -> Result<()> {
        let all = form.meta().rows;
        let (unit, least) = (form.row_unit(), form.least_rows());
        let cost = |rows: usize| form.matmul_scratch_for(rows) + rows * batch * 4;
        let workers = self.workers(form.matmul_macs().saturating_mul(batch as u64));
        let (workers, rows) = plan_windows(all, unit, least, workers, self.scratch_bytes, &cost);

        let panels = Panels::new(y, all, rows);
        run_workers(workers, || {
            let mut scratch = Scratch::default();
            let mut out = Vec::new();
            while let Some((first, mut panel)) = panels.next() {
                let n = panel.cols();
                out.resize(n * batch, 0.0);
                form.matmul_rows(first..first + n, x, &mut out, self.kernels, &mut scratch)?;
                for (b, out) in out.chunks_exact(n).enumerate() {
                    panel.row_mut(b).copy_from_slice(out);
                }
            }
            Ok(())
        })
    }

    /// `g · W` by windows of rows, decoded in parallel and added in order.
    pub fn by_rows_t<F: Form + ?Sized>(
        &self,
        form: &F,
        g: &[f32],
        batch: usize,
        y: &mut [f32],
    ) -> Result<()> {
        y.fill(0.0);
        let (rows, cols) = (form.meta().rows, form.meta().cols);
        let (unit, least) = (form.row_unit(), form.least_rows());
        let cost = |rows: usize| form.scratch_for(rows) + rows * cols * 4;
        let workers = self.workers((rows as u64 * cols as u64).saturating_mul(batch as u64));
        let (workers, step) = plan_windows(rows, unit, least, workers, self.scratch_bytes, &cost);
        let kernels = self.kernels;

        // A round: each worker decodes one window, then all add the round's rows, in
        // order, to the output, split by columns.
        let round = workers * step;
        let mut decoded = vec![0.0f32; round.min(rows) * cols];
        let mut start = 0;
        while start < rows {
            let n = round.min(rows - start);
            let pieces = Mutex::new(decoded[..n * cols].chunks_mut(step * cols).enumerate());
            run_workers(workers, || {
                let mut scratch = Scratch::default();
                loop {
                    let next = pieces.lock().unwrap_or_else(|e| e.into_inner()).next();
                    let Some((i, out)) = next else {
                        return Ok(());
                    };
                    let first = start + i * step;
                    form.decode_f32(first..first + out.len() / cols, out, &mut scratch)?;
                }
            })?;
            // Whole cache lines, and about a second-level cache of output at batch 64.
            let width = cols.div_ceil(workers).next_multiple_of(16).min(4096);
            let panels = Panels::new(y, cols, width);
            run_workers(workers, || {
                while let Some((col, mut panel)) = panels.next() {
                    add_rows(
                        kernels,
                        &decoded[..n * cols],
                        cols,
                        col,
                        g,
                        rows,
                        start,
                        &mut panel,
                    );
                }
                Ok(())
            })?;
            start += n;
        }
        Ok(())
    }
}

fn check(len: usize, batch: usize, width: usize, name: &str) -> Result<()> {
    if batch.checked_mul(width) == Some(len) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "{name} holds {len} values; batch {batch} × {width} are needed"
    )))
}

#[allow(clippy::too_many_arguments)]
fn add_rows(
    kernels: &KernelSet,
    w: &[f32],
    cols: usize,
    col: usize,
    g: &[f32],
    g_stride: usize,
    first: usize,
    panel: &mut Columns<'_>,
) {
    let width = panel.cols();
    for (r, w) in w.chunks_exact(cols).enumerate() {
        for b in 0..panel.rows() {
            let g = g[b * g_stride + first + r];
            kernels.add_scaled(g, &w[col..col + width], panel.row_mut(b));
        }
    }
}

/// Columns of an output, handed out from the left in panels to whoever asks next.
struct Panels<'a> {
    /// The first column that is left, and those that are.
    left: Mutex<(usize, Columns<'a>)>,
    width: usize,
}

impl<'a> Panels<'a> {
    fn new(y: &'a mut [f32], cols: usize, width: usize) -> Self {
        Self {
            left: Mutex::new((0, Columns::new(y, cols))),
            width,
        }
    }

    /// The next panel and its first column; `None` when all are taken.
    fn next(&self) -> Option<(usize, Columns<'a>)> {
        let mut left = self.left.lock().unwrap_or_else(|e| e.into_inner());
        let panel = left.1.take_front(self.width);
        let first = left.0;
        left.0 += panel.cols();
        (panel.cols() > 0).then_some((first, panel))
    }
}

/// How many workers take windows of how many rows, such that `workers × cost(rows)` stays
/// under `limit` where any choice does. Windows are multiples of `unit`, or of what is
/// left of it after halving it towards `least` until one window fits.
fn plan_windows(
    rows: usize,
    mut unit: usize,
    least: usize,
    workers: usize,
    limit: usize,
    cost: &dyn Fn(usize) -> usize,
) -> (usize, usize) {
    let fits = cost(least.min(rows)) <= limit;
    while unit > least && cost(unit.min(rows)) > limit {
        let half = (unit / 2).max(least);
        // Where nothing fits, what does not grow with the window (a packed chunk) soon
        // outweighs it: decoding that for ever fewer rows would save no memory.
        if !fits && cost(half.min(rows)) > cost(unit.min(rows)) / 8 * 7 {
            break;
        }
        unit = half;
    }
    let units = rows.div_ceil(unit);
    let one = cost(unit.min(rows)).max(1);
    let workers = workers.min(limit / one).clamp(1, units);
    // Four windows a worker even out the end; more units while they fit.
    let wanted = units.div_ceil(workers * 4).max(1);
    let (mut low, mut high) = (1, wanted);
    while low < high {
        let middle = (low + high).div_ceil(2);
        if cost(middle * unit).saturating_mul(workers) <= limit {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    (workers, low * unit)
}

/// Runs `work` on `workers` threads of the current pool, the calling one among them.
pub(super) fn run_workers(workers: usize, work: impl Fn() -> Result<()> + Sync) -> Result<()> {
    if workers <= 1 {
        return work();
    }
    let failed = Mutex::new(None);
    rayon::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|_| {
                if let Err(e) = work() {
                    *failed.lock().unwrap_or_else(|e| e.into_inner()) = Some(e);
                }
            });
        }
    });
    match failed.into_inner().unwrap_or_else(|e| e.into_inner()) {
        Some(e) => Err(e),
        None => Ok(()),
    }
}
