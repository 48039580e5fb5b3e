//! The streaming driver: products with a compressed tensor in bounded memory.
//!
//! The matrix goes by in windows of rows; each thread holds one window at a time. What
//! a window needs beside input and output is known before it starts, and the windows
//! and threads are chosen so that the sum stays under the scratch limit. A single
//! window of the smallest size (one row, or 16 of a quantised tensor, and the packed
//! chunk that they lie in) is always allowed.
//!
//! Results do not depend on the number of threads: every output is formed by one thread
//! in one order.

use std::sync::Mutex;

use crate::error::{Error, Result};
use crate::form::{Scratch, Tensor};
use crate::kernel::columns::Columns;
use crate::kernel::{self, KernelSet};

/// How a product is computed.
#[derive(Clone, Debug)]
pub struct MatmulOptions {
    /// Threads to use at most; 0 for all of the current pool.
    pub threads: usize,
    /// Memory for decoded windows, all threads together, in bytes.
    pub scratch_bytes: usize,
}

/// Default scratch: two windows of 16 rows × 16,384 columns of f32 for each of 16 threads.
pub const DEFAULT_SCRATCH_BYTES: usize = 32 << 20;

impl Default for MatmulOptions {
    fn default() -> Self {
        Self {
            threads: 0,
            scratch_bytes: DEFAULT_SCRATCH_BYTES,
        }
    }
}

/// Below this many multiplications another thread costs more than it brings (about
/// 30 µs of work on one core).
const SMALL_MACS: u64 = 1 << 19;

impl Tensor {
    /// `y = x · Wᵀ`: `y[b, out] = Σ x[b, k] · W[out, k]` with `x[batch, cols]` and
    /// `y[batch, rows]`, row-major, computed on the compressed form.
    ///
    /// Sums are in f32. On an error `y` holds no useful values.
    pub fn matmul(
        &self,
        x: &[f32],
        batch: usize,
        y: &mut [f32],
        options: &MatmulOptions,
    ) -> Result<()> {
        let (rows, cols) = (self.rows(), self.cols());
        self.check(x.len(), batch, cols, "x")?;
        self.check(y.len(), batch, rows, "y")?;
        if y.is_empty() {
            return Ok(());
        }
        if cols == 0 {
            y.fill(0.0);
            return Ok(());
        }
        self.multiply(x, batch, y, options)
            .map_err(|e| self.blame(e))
    }

    fn multiply(
        &self,
        x: &[f32],
        batch: usize,
        y: &mut [f32],
        options: &MatmulOptions,
    ) -> Result<()> {
        let form = self.form();
        let (unit, least) = (form.row_unit(), form.least_rows());
        let cost = |rows: usize| form.matmul_scratch_for(rows) + rows * batch * 4;
        let work = form.matmul_macs().saturating_mul(batch as u64);
        let workers = threads(options, work);
        let (workers, rows) = plan_windows(
            self.rows(),
            unit,
            least,
            workers,
            options.scratch_bytes,
            &cost,
        );

        let kernels = kernel::best();
        let panels = Panels::new(y, self.rows(), rows);
        run_workers(workers, || {
            let mut scratch = Scratch::default();
            let mut out = Vec::new();
            while let Some((first, mut panel)) = panels.next() {
                let n = panel.cols();
                out.resize(n * batch, 0.0);
                form.matmul_rows(first..first + n, x, &mut out, kernels, &mut scratch)?;
                for (b, out) in out.chunks_exact(n).enumerate() {
                    panel.row_mut(b).copy_from_slice(out);
                }
            }
            Ok(())
        })
    }

    /// `y = g · W`: `y[b, in] = Σ g[b, r] · W[r, in]` with `g[batch, rows]` and
    /// `y[batch, cols]`, row-major: the product that gradients need.
    pub fn matmul_t(
        &self,
        g: &[f32],
        batch: usize,
        y: &mut [f32],
        options: &MatmulOptions,
    ) -> Result<()> {
        let (rows, cols) = (self.rows(), self.cols());
        self.check(g.len(), batch, rows, "g")?;
        self.check(y.len(), batch, cols, "y")?;
        y.fill(0.0);
        if y.is_empty() || rows == 0 {
            return Ok(());
        }
        self.multiply_t(g, batch, y, options)
            .map_err(|e| self.blame(e))
    }

    fn multiply_t(
        &self,
        g: &[f32],
        batch: usize,
        y: &mut [f32],
        options: &MatmulOptions,
    ) -> Result<()> {
        let form = self.form();
        let (rows, cols) = (self.rows(), self.cols());
        let (unit, least) = (form.row_unit(), form.least_rows());
        let cost = |rows: usize| form.scratch_for(rows) + rows * cols * 4;
        let work = (rows as u64 * cols as u64).saturating_mul(batch as u64);
        let workers = threads(options, work);
        let (workers, step) =
            plan_windows(rows, unit, least, workers, options.scratch_bytes, &cost);
        let kernels = kernel::best();

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

    fn check(&self, len: usize, batch: usize, width: usize, name: &str) -> Result<()> {
        if batch.checked_mul(width) == Some(len) {
            return Ok(());
        }
        Err(self.blame(Error::invalid(format!(
            "{name} holds {len} values; batch {batch} × {width} are needed"
        ))))
    }
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

/// Threads for this many multiplications.
fn threads(options: &MatmulOptions, macs: u64) -> usize {
    match options.threads {
        _ if macs < SMALL_MACS => 1,
        0 => rayon::current_num_threads(),
        n => n,
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
fn run_workers(workers: usize, work: impl Fn() -> Result<()> + Sync) -> Result<()> {
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
