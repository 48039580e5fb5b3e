//! Products with the transpose, `y += g · W` for a window of rows.
//!
//! A row of weights is a word for each of its columns, so that a window is a panel as it lies
//! there, with columns for lanes and rows for words. Every output goes on from the value that
//! it has, row by row, so that it does not matter how rows fall into windows.

use std::marker::PhantomData;

use super::elements::{Float, Terms};
use super::matmul::Floats;
use super::simd::{Simd, Task};
use super::tile::{Ahead, ROWS, Shape, Strip, Sums, run, tile_rows};

/// Rows of a block that is copied, so that rows of a power of two in length do not push each
/// other out of the first cache: 32 KiB with 64 columns.
const BLOCK: usize = 128;
/// Columns of the widest panel of any set.
const LANES: usize = 64;

/// Where the operands are, for all rows of the window.
#[derive(Clone, Copy)]
pub(in crate::kernel) struct Operands {
    /// The window: rows `w_stride` values apart, of which `cols` count.
    pub(in crate::kernel) w: *const f32,
    pub(in crate::kernel) w_stride: usize,
    pub(in crate::kernel) rows: usize,
    pub(in crate::kernel) cols: usize,
    /// For each of the batch a value for every row, `g_stride` values apart.
    pub(in crate::kernel) g: *const f32,
    pub(in crate::kernel) g_stride: usize,
    pub(in crate::kernel) batch: usize,
    /// Outputs, `y_stride` values apart.
    pub(in crate::kernel) y: *mut f32,
    pub(in crate::kernel) y_stride: usize,
}

/// `y[b][k] += Σ g[b][r] · w[r][k]`.
///
/// # Safety
/// The CPU has the features of `S`, and the operands are where they are said to be.
pub(in crate::kernel) unsafe fn matmul<S: Simd, T: Terms<S, W = Float, X = Float>>(o: Operands) {
    // SAFETY: as the caller grants.
    unsafe {
        match o.batch {
            0 => {}
            1 => by_rows::<S, 1>(o),
            2 => by_rows::<S, 2>(o),
            3 if S::VECTORS >= 3 => by_rows::<S, 3>(o),
            4 if S::VECTORS >= 4 => by_rows::<S, 4>(o),
            _ => by_panels::<S, T>(o),
        }
    }
}

/// Some rows of the window for `B` of the batch: weights are read once, in the order in which
/// they lie, and outputs are in cache.
struct Rows<S, const B: usize, const R: usize> {
    o: Operands,
    /// The first row.
    row: usize,
    set: PhantomData<S>,
}

impl<S: Simd, const B: usize, const R: usize> Task for Rows<S, B, R> {
    #[inline(always)]
    unsafe fn run(self) {
        let o = self.o;
        // SAFETY: the maker grants R rows from `row` on, of `cols` columns, and B outputs.
        unsafe {
            let mut g = [[S::zero(); R]; B];
            for b in 0..B {
                for r in 0..R {
                    g[b][r] = S::spread::<1>(o.g.add(b * o.g_stride + self.row + r));
                }
            }
            let mut w = o.w.add(self.row * o.w_stride);
            let mut ahead = w.wrapping_add(R * o.w_stride);
            let mut y = o.y;
            for _ in 0..o.cols / S::LANES {
                let mut sums = [S::zero(); B];
                for b in 0..B {
                    sums[b] = S::load(y.add(b * o.y_stride));
                }
                for r in 0..R {
                    S::prefetch(ahead.wrapping_add(r * o.w_stride));
                    let w = S::load(w.add(r * o.w_stride));
                    for b in 0..B {
                        sums[b] = S::mul_add(g[b][r], w, sums[b]);
                    }
                }
                for b in 0..B {
                    S::store(y.add(b * o.y_stride), sums[b]);
                }
                w = w.add(S::LANES);
                ahead = ahead.wrapping_add(S::LANES);
                y = y.add(S::LANES);
            }
            let rest = o.cols % S::LANES;
            if rest > 0 {
                for b in 0..B {
                    let mut sum = S::load_part(y.add(b * o.y_stride), rest);
                    for r in 0..R {
                        let w = S::load_part(w.add(r * o.w_stride), rest);
                        sum = S::mul_add(g[b][r], w, sum);
                    }
                    S::store_part(y.add(b * o.y_stride), sum, rest);
                }
            }
        }
    }
}

/// # Safety
/// As for [`matmul`], with a batch of `B`.
unsafe fn by_rows<S: Simd, const B: usize>(o: Operands) {
    let set = PhantomData;
    let mut row = 0;
    while row < o.rows {
        // SAFETY: rows below `rows`.
        unsafe {
            if row + ROWS <= o.rows {
                S::call(Rows::<S, B, ROWS> { o, row, set });
                row += ROWS;
            } else {
                S::call(Rows::<S, B, 1> { o, row, set });
                row += 1;
            }
        }
    }
}

/// Copies a block of rows to a panel, with zeros past the last column.
struct Copy<S> {
    from: *const f32,
    stride: usize,
    rows: usize,
    cols: usize,
    to: *mut f32,
    set: PhantomData<S>,
}

impl<S: Simd> Task for Copy<S> {
    #[inline(always)]
    unsafe fn run(self) {
        let width = self.cols.next_multiple_of(S::LANES);
        // What is read next lies to the right of this.
        let ahead = self.from.wrapping_add(width);
        for r in 0..self.rows {
            // SAFETY: the maker grants `rows` rows of `cols`, and room for whole vectors.
            unsafe {
                let (from, to) = (self.from.add(r * self.stride), self.to.add(r * width));
                for k in (0..self.cols).step_by(S::LANES) {
                    S::prefetch(ahead.wrapping_add(r * self.stride + k));
                    let v = match self.cols - k {
                        n if n >= S::LANES => S::load(from.add(k)),
                        n => S::load_part(from.add(k), n),
                    };
                    S::store(to.add(k), v);
                }
            }
        }
    }
}

/// # Safety
/// As for [`matmul`].
unsafe fn by_panels<S: Simd, T: Terms<S, W = Float, X = Float>>(o: Operands) {
    let mut panel = Floats::<{ BLOCK * LANES }>::new();
    let panel = panel.pointer();
    let vectors = o.cols.div_ceil(S::LANES);
    let panels = vectors.div_ceil(S::VECTORS);
    for row in (0..o.rows).step_by(BLOCK) {
        let rows = BLOCK.min(o.rows - row);
        let mut col = 0;
        for i in 0..panels {
            let vectors = vectors / panels + usize::from(i < vectors % panels);
            let cols = (vectors * S::LANES).min(o.cols - col);
            // SAFETY: rows below `rows`, columns below `cols`, outputs below `batch`; the
            // panel has room for a block of them.
            unsafe {
                S::call(Copy::<S> {
                    from: o.w.add(row * o.w_stride + col),
                    stride: o.w_stride,
                    rows,
                    cols,
                    to: panel,
                    set: PhantomData,
                });
                let mut b = 0;
                while b < o.batch {
                    let m = tile_rows(o.batch - b);
                    let strip = Strip::<S, Float> {
                        rows: o.g.add(b * o.g_stride + row),
                        stride: o.g_stride,
                        numbers: rows,
                        ahead: Ahead::NOTHING,
                        panel,
                        panel_stride: vectors * S::LANES,
                        sums: o.y.add(b * o.y_stride + col),
                        sums_stride: o.y_stride,
                        lanes: cols,
                        mode: Sums::GoOn,
                    };
                    let shape = Shape {
                        vectors,
                        fold: 1,
                        turns: 1,
                    };
                    run::<S, T, Float>(m, shape, strip);
                    b += m;
                }
            }
            col += cols;
        }
    }
}
