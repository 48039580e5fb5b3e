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
//!
//! Working memory is leased from a pool of the process and given back, so that only the
//! first product allocates; see [`Scratch::lease`].

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Form, Scratch};
use crate::error::{Error, Result};
use crate::kernel::KernelSet;
use crate::kernel::columns::Columns;
use crate::kernel::dense::{TRANSPOSED_BY_ROWS, TRANSPOSED_BYTES, TRANSPOSED_ROWS};

/// How activations enter a product.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// `Fast` where what it adds lies at least 10 dB below the tensor's own stored error,
    /// `Exact` elsewhere.
    #[default]
    Auto,
    /// As f32: what the product adds is rounding in f32.
    Exact,
    /// Rounded, where the form has faster loops for that: to int8 in groups of columns for
    /// quantised weights (an error of about −40 dB in the result, less for activations
    /// without outliers), to bf16 for weights stored as bf16 (−55 dB).
    Fast,
}

/// The stored error, as a share of the norm, from which `Auto` rounds activations: −30 dB,
/// 10 dB above what int8 activations add.
const AUTO_FAST: f64 = 0.031_6;

impl Precision {
    /// Whether activations may be rounded for a tensor of this relative error.
    pub fn rounds(self, stored_error: f64) -> bool {
        match self {
            Self::Auto => stored_error >= AUTO_FAST,
            Self::Exact => false,
            Self::Fast => true,
        }
    }
}

/// How a product is computed: kernels, threads, the scratch limit, precision.
#[derive(Clone, Copy)]
pub struct Product<'a> {
    /// The inner loops.
    pub kernels: &'a KernelSet,
    /// Threads to use at most; 0 for all of the current pool.
    pub threads: usize,
    /// Memory for decoded windows, all threads together, in bytes.
    pub scratch_bytes: usize,
    /// Whether activations may be rounded; see [`Precision::Fast`].
    pub(super) fast: bool,
    /// Set by whoever did so.
    pub(super) rounded: &'a AtomicBool,
}

impl std::fmt::Debug for Product<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Product")
            .field("threads", &self.threads)
            .field("scratch_bytes", &self.scratch_bytes)
            .field("fast", &self.fast)
            .finish_non_exhaustive()
    }
}

/// Below this many multiplications another thread costs more than it brings (about
/// 30 µs of work on one core).
const SMALL_MACS: u64 = 1 << 19;

/// Windows for each worker: one that is woken late, or held up, keeps the others waiting for a
/// window at most. Taking one costs less than a microsecond.
const WINDOWS: usize = 16;

/// Decoded values that a window holds at most: half of a second-level cache.
const CACHED_BYTES: usize = 512 << 10;

/// Decoded values of a round of a transposed product, of which there are two, at least: they
/// stay in the last cache.
const ROUND_BYTES: usize = 2 << 20;

impl<'a> Product<'a> {
    /// A product with exact activations.
    pub fn exact(kernels: &'a KernelSet, threads: usize, scratch_bytes: usize) -> Self {
        static NOBODY_ASKS: AtomicBool = AtomicBool::new(false);
        Self {
            kernels,
            threads,
            scratch_bytes,
            fast: false,
            rounded: &NOBODY_ASKS,
        }
    }

    /// The same with activations rounded where a form can make use of it, which `rounded`
    /// then tells.
    #[must_use]
    pub fn fast(self, rounded: &'a AtomicBool) -> Self {
        Self {
            fast: true,
            rounded,
            ..self
        }
    }

    /// Whether activations may be rounded, for plans.
    pub fn may_round(&self) -> bool {
        self.fast
    }

    /// Whether activations may be rounded. Who asks does so if the answer is yes.
    pub fn round_activations(&self) -> bool {
        if self.fast {
            self.rounded.store(true, Ordering::Relaxed);
        }
        self.fast
    }

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
        let cost = |rows: usize| form.matmul_scratch_for(rows) + rows * batch * 4;
        // What is decoded for a window is read again at once: from the cache.
        let most = match form.matmul_scratch_for(1) {
            0 => usize::MAX,
            _ => CACHED_BYTES / (form.meta().cols * 4),
        };
        let macs = form.matmul_macs().saturating_mul(batch as u64);
        self.windows(form, macs, most, y, &cost, |rows, panel, scratch| {
            let mut out = std::mem::take(&mut scratch.out);
            out.resize(rows.len() * batch, 0.0);
            let n = rows.len();
            let result = form.matmul_rows(rows, x, &mut out, self.kernels, scratch);
            if result.is_ok() {
                for (b, out) in out.chunks_exact(n).enumerate() {
                    panel.row_mut(b).copy_from_slice(out);
                }
            }
            scratch.out = out;
            result
        })
    }

    /// Hands the rows of `form` out in windows, to as many threads as the work is worth:
    /// `work` fills the columns of `y[batch, rows]` that belong to the window. Windows have
    /// at most `most` rows, or the form's unit. `macs` is how many multiplications in f32
    /// take as long as all of it. `cost` is what a window of so many rows
    /// takes of the scratch limit, in bytes.
    pub fn windows<F: Form + ?Sized>(
        &self,
        form: &F,
        macs: u64,
        most: usize,
        y: &mut [f32],
        cost: &dyn Fn(usize) -> usize,
        work: impl Fn(Range<usize>, &mut Columns<'_>, &mut Scratch) -> Result<()> + Sync,
    ) -> Result<()> {
        let all = form.meta().rows;
        let (unit, least) = (form.row_unit(), form.least_rows());
        let workers = self.workers(macs);
        let (workers, rows) = plan_windows(all, unit, least, workers, self.scratch_bytes, cost);
        let even = all.div_ceil(unit).div_ceil(workers * WINDOWS);
        let rows = rows.min(even.min(most / unit).max(1) * unit);
        let panels = Panels::new(y, all, rows);
        run_workers(workers, || {
            let mut scratch = Scratch::lease();
            while let Some((first, mut panel)) = panels.next() {
                work(first..first + panel.cols(), &mut panel, &mut scratch)?;
            }
            Ok(())
        })
    }

    /// `g · W` by rounds of rows. While those of one round are added, in order, to panels of
    /// columns, those of the next are decoded.
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
        let limit = match self.scratch_bytes / 2 {
            half if half >= TRANSPOSED_BYTES && batch > TRANSPOSED_BY_ROWS => half,
            _ => self.scratch_bytes,
        };
        let workers = self.workers((rows as u64 * cols as u64).saturating_mul(batch as u64));
        let workers = self.adders(workers);
        let buffers = if workers == 1 { 1 } else { 2 };
        let cost = |rows: usize| form.scratch_for(rows) + buffers * rows * cols * 4;
        let (workers, step) = plan_windows(rows, unit, least, workers, limit, &cost);
        let most = match batch > TRANSPOSED_BY_ROWS {
            true => (ROUND_BYTES / (cols * 4)).next_multiple_of(TRANSPOSED_ROWS) / workers,
            false => CACHED_BYTES / (cols * 4),
        };
        let step = step.min((most / unit).max(1) * unit);
        let round = workers * step;
        let one = round.min(rows) * cols;
        let mut store = Scratch::lease();
        let decoded = &mut store.floats;
        let two = workers > 1 && round < rows;
        decoded.resize(if two { 2 * one } else { one }, 0.0);
        let (mut this, mut next) = decoded.split_at_mut(one);
        let run = |to: (Range<usize>, &mut [f32]), from: (Range<usize>, &[f32]), y: &mut [f32]| {
            self.round(form, (workers, step), to, from, g, y)
        };
        let mut ready = 0..0;
        while ready.start < rows {
            let rest = ready.end..rows.min(ready.end.saturating_add(round));
            if two {
                run((rest.clone(), &mut *next), (ready, &*this), y)?;
                (this, next) = (next, this);
            } else {
                run((rest.clone(), &mut *this), (0..0, &[]), y)?;
                run((0..0, &mut []), (rest.clone(), &*this), y)?;
            }
            ready = match rest.is_empty() || !two && rest.end == rows {
                true => rows..rows,
                false => rest,
            };
        }
        Ok(())
    }

    /// Adds rows that were decoded, and decodes others, `step` at a time.
    fn round<F: Form + ?Sized>(
        &self,
        form: &F,
        (workers, step): (usize, usize),
        (decode, to): (Range<usize>, &mut [f32]),
        (add, from): (Range<usize>, &[f32]),
        g: &[f32],
        y: &mut [f32],
    ) -> Result<()> {
        let (rows, cols) = (form.meta().rows, form.meta().cols);
        let added = Added {
            w: &from[..add.len() * cols],
            cols,
            g: &g[add.start..],
            g_stride: rows,
        };
        let some = if add.is_empty() { &mut [] } else { y };
        let panels = self.panels(some, cols, workers);
        let pieces = to[..decode.len() * cols].chunks_mut(step * cols);
        let pieces = Mutex::new(pieces.enumerate());
        run_workers(workers, || {
            let mut scratch = Scratch::lease();
            self.add_panels(&added, &panels, &mut scratch);
            loop {
                let next = pieces.lock().unwrap_or_else(|e| e.into_inner()).next();
                let Some((i, out)) = next else {
                    return Ok(());
                };
                let first = decode.start + i * step;
                form.decode_f32(first..first + out.len() / cols, out, &mut scratch)?;
            }
        })
    }

    /// `y[b][k] += Σ g[b · g_stride + r] · w[r][k]`, split by columns.
    pub(super) fn add_rows(&self, added: &Added<'_>, macs: u64, y: &mut [f32]) -> Result<()> {
        let workers = self.adders(self.workers(macs));
        let panels = self.panels(y, added.cols, workers);
        run_workers(workers, || {
            self.add_panels(added, &panels, &mut Scratch::lease());
            Ok(())
        })
    }

    /// Whether the memory of transposed products is within half of the limit; the other is
    /// for what was decoded.
    fn is_roomy(&self) -> bool {
        self.scratch_bytes / 2 >= TRANSPOSED_BYTES
    }

    /// Threads that have such memory, if any has.
    fn adders(&self, workers: usize) -> usize {
        match self.is_roomy() {
            true => workers.min(self.scratch_bytes / 2 / TRANSPOSED_BYTES),
            false => workers,
        }
    }

    /// Panels of columns, each of which begins at a multiple of 32.
    pub(super) fn panels<'y>(&self, y: &'y mut [f32], cols: usize, workers: usize) -> Panels<'y> {
        // Whole cache lines and blocks of tiles, and about a second-level cache of output at
        // batch 64.
        let width = cols.div_ceil(workers).next_multiple_of(32).min(4096);
        Panels::new(y, cols, width)
    }

    fn add_panels(&self, added: &Added<'_>, panels: &Panels<'_>, scratch: &mut Scratch) {
        let Added {
            w,
            cols,
            g,
            g_stride,
        } = *added;
        while let Some((col, mut panel)) = panels.next() {
            let memory = self.is_roomy().then_some(&mut scratch.panel);
            self.kernels
                .dense_matmul_t(w, cols, col, g, g_stride, &mut panel, memory);
        }
    }
}

/// Rows `w[rows, cols]` that are added, the first `g[b · g_stride]` times to output b.
#[derive(Clone, Copy, Debug)]
pub(super) struct Added<'a> {
    pub(super) w: &'a [f32],
    pub(super) cols: usize,
    pub(super) g: &'a [f32],
    pub(super) g_stride: usize,
}

fn check(len: usize, batch: usize, width: usize, name: &str) -> Result<()> {
    if batch.checked_mul(width) == Some(len) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "{name} holds {len} values; batch {batch} × {width} are needed"
    )))
}

/// Columns of an output, handed out from the left in panels to whoever asks next.
pub(super) struct Panels<'a> {
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
    pub(super) fn next(&self) -> Option<(usize, Columns<'a>)> {
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
pub(crate) fn plan_windows(
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
pub(crate) fn run_workers(workers: usize, work: impl Fn() -> Result<()> + Sync) -> Result<()> {
    if workers <= 1 {
        return work();
    }
    let failed = Mutex::new(None);
    let run = || {
        if let Err(e) = work() {
            *failed.lock().unwrap_or_else(|e| e.into_inner()) = Some(e);
        }
    };
    // The calling thread begins at once, while the others are still being woken.
    rayon::in_place_scope(|scope| {
        for _ in 1..workers {
            scope.spawn(|_| run());
        }
        run();
    });
    match failed.into_inner().unwrap_or_else(|e| e.into_inner()) {
        Some(e) => Err(e),
        None => Ok(()),
    }
}
