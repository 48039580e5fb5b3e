//! Products with the transpose, `y += g · W` for a window of rows.
//!
//! A row of weights is a word for each of its columns, so that a window is a panel as it lies
//! there, with columns for lanes and rows for words. Every output goes on from the value that
//! it has, row by row, so that it does not matter how rows fall into windows.

use std::marker::PhantomData;

use super::elements::{Float, Terms};
use super::simd::{Simd, Task};
use super::tile::{Ahead, CHUNK, ROWS, Shape, Sizes, Strip, Sums, run, tile_rows};

/// Rows of a block, for which outputs are read and written once.
pub(in crate::kernel) const BLOCK_ROWS: usize = 96;
/// Columns of a block.
const BLOCK_COLS: usize = 768;
/// Values of a block, 288 KiB: the block that is multiplied and the one that is copied fill half
/// of a second cache of 1 MiB.
const BLOCK: usize = BLOCK_ROWS * BLOCK_COLS;
/// Values of working memory.
pub(in crate::kernel) const MEMORY: usize = 2 * BLOCK;
/// Up to this batch, weights are read in the order in which they lie, a few rows at a time.
pub(in crate::kernel) const BY_ROWS: usize = 16;

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
    /// Room for [`MEMORY`] values, or null: then by rows, to the same bits.
    pub(in crate::kernel) memory: *mut f32,
}

/// `y[b][k] += Σ g[b][r] · w[r][k]`.
///
/// # Safety
/// The CPU has the features of `S`, and the operands are where they are said to be.
pub(in crate::kernel) unsafe fn matmul<S: Simd, T: Terms<S, W = Float, X = Float>>(o: Operands) {
    // SAFETY: as the caller grants.
    unsafe {
        if o.memory.is_null() {
            by_rows::<S>(o)
        } else {
            by_blocks::<S, T>(o)
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
/// As for [`matmul`].
unsafe fn by_rows<S: Simd>(o: Operands) {
    let mut row = 0;
    while row < o.rows {
        let rows = if row + ROWS <= o.rows { ROWS } else { 1 };
        let mut b = 0;
        while b < o.batch {
            let some = S::VECTORS.min(o.batch - b);
            macro_rules! rows {
                ($b:literal, $r:expr) => {
                    S::call(Rows::<S, $b, $r> {
                        o: Operands {
                            g: o.g.add(b * o.g_stride),
                            y: o.y.add(b * o.y_stride),
                            ..o
                        },
                        row,
                        set: PhantomData,
                    })
                };
            }
            // SAFETY: rows below `rows`, and outputs below `batch`.
            unsafe {
                match (some, rows) {
                    (1, ROWS) => rows!(1, ROWS),
                    (2, ROWS) => rows!(2, ROWS),
                    (3, ROWS) if S::THREE => rows!(3, ROWS),
                    (4, ROWS) if S::FOUR => rows!(4, ROWS),
                    (1, _) => rows!(1, 1),
                    (2, _) => rows!(2, 1),
                    (3, _) if S::THREE => rows!(3, 1),
                    (4, _) if S::FOUR => rows!(4, 1),
                    _ => unreachable!("at most VECTORS rows at once"),
                }
            }
            b += some;
        }
        row += rows;
    }
}

/// Copies rows of a block to panels, `[panel][rows][columns of the panel]`, with zeros up to
/// whole vectors.
pub(super) struct Copy<S> {
    pub(super) from: *const f32,
    pub(super) stride: usize,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) to: *mut f32,
    pub(super) which: std::ops::Range<usize>,
    pub(super) set: PhantomData<S>,
}

impl<S: Simd> Task for Copy<S> {
    #[inline(always)]
    unsafe fn run(self) {
        let width = S::VECTORS * S::LANES;
        let whole = self.cols / width * width;
        for row in self.which {
            // SAFETY: the maker grants `rows` rows of `cols`, and room for them in whole
            // vectors.
            unsafe {
                let from = self.from.add(row * self.stride);
                let mut to = self.to.add(row * width);
                for col in (0..whole).step_by(width) {
                    for v in 0..S::VECTORS {
                        let value = S::load(from.add(col + v * S::LANES));
                        S::store(to.add(v * S::LANES), value);
                    }
                    to = to.add(self.rows * width);
                }
                let rest = self.cols - whole;
                let to = self
                    .to
                    .add(whole * self.rows + row * rest.next_multiple_of(S::LANES));
                for col in (0..rest).step_by(S::LANES) {
                    let from = from.add(whole + col);
                    let value = match rest - col {
                        n if n >= S::LANES => S::load(from),
                        n => S::load_part(from, n),
                    };
                    S::store(to.add(col), value);
                }
            }
        }
    }
}

/// Panels of some columns: their first vector, and how many they have.
#[inline(always)]
pub(super) fn panels<S: Simd>(cols: usize) -> impl Iterator<Item = (usize, usize)> {
    let vectors = cols.div_ceil(S::LANES);
    let firsts = (0..vectors).step_by(S::VECTORS);
    firsts.map(move |first| (first, S::VECTORS.min(vectors - first)))
}

/// Blocks of weights are copied to the second cache, where all of the batch meets them: the
/// next one piece by piece between the tiles of this one. Read where they lie, rows of a power
/// of two in length would push each other out.
///
/// # Safety
/// As for [`matmul`].
unsafe fn by_blocks<S: Simd, T: Terms<S, W = Float, X = Float>>(o: Operands) {
    // SAFETY: there is room for two blocks.
    let (mut this, mut next) = unsafe { (o.memory, o.memory.add(BLOCK)) };
    for col in (0..o.cols).step_by(BLOCK_COLS) {
        let cols = BLOCK_COLS.min(o.cols - col);
        let tiles = o.batch.div_ceil(ROWS) * panels::<S>(cols).count();
        let lines = (cols * 4).div_ceil(64);
        // Lines that a tile of so many rows asks for at a time, and how many times it does.
        let unit = |m: usize| m * CHUNK * 4 / 64;
        let chunks = BLOCK_ROWS / CHUNK * tiles;
        let times = (BLOCK_ROWS * lines).div_ceil(unit(ROWS) * chunks);
        let copy = |row: usize, which: std::ops::Range<usize>, to: *mut f32| Copy::<S> {
            from: o.w.wrapping_add(row * o.w_stride + col),
            stride: o.w_stride,
            rows: BLOCK_ROWS.min(o.rows - row),
            cols,
            to,
            which,
            set: PhantomData,
        };
        // SAFETY: rows below `rows`, columns below `cols`; a block has room for them.
        unsafe { S::call(copy(0, 0..BLOCK_ROWS.min(o.rows), this)) };
        for row in (0..o.rows).step_by(BLOCK_ROWS) {
            let rows = BLOCK_ROWS.min(o.rows - row);
            let after = row + rows;
            let all = BLOCK_ROWS.min(o.rows - after);
            let (mut copied, mut asked, mut tile) = (0, 0, 0);
            let mut b = 0;
            while b < o.batch {
                let m = tile_rows::<S, Float>(o.batch - b, 1);
                for (first, vectors) in panels::<S>(cols) {
                    let at = first * S::LANES;
                    tile += 1;
                    let to = (all * tile / tiles).min(all);
                    // SAFETY: rows below `rows`, columns below `cols`, outputs below `batch`;
                    // a block has room for what is copied.
                    unsafe {
                        if copied < to {
                            S::call(copy(after, copied..to, next));
                        }
                        let strip = Strip::<S, Float> {
                            rows: o.g.add(b * o.g_stride + row),
                            stride: o.g_stride,
                            numbers: rows,
                            ahead: Ahead {
                                at: o
                                    .w
                                    .wrapping_add(
                                        (after + asked / lines) * o.w_stride
                                            + col
                                            + asked % lines * 16,
                                    )
                                    .cast(),
                                left: (lines - asked % lines) * 64,
                                piece: lines * 64,
                                stride: o.w_stride * 4,
                                times,
                                ..Ahead::NOTHING
                            },
                            panel: this.add(at * rows),
                            panel_stride: vectors * S::LANES,
                            sums: o.y.add(b * o.y_stride + col + at),
                            sums_stride: o.y_stride,
                            lanes: (cols - at).min(vectors * S::LANES),
                            mode: Sums::GoOn,
                        };
                        let shape = Shape {
                            vectors,
                            fold: 1,
                            turns: 1,
                        };
                        run::<S, T, Float>(m, shape, strip);
                    }
                    copied = to;
                    asked += unit(m) * times * (rows / CHUNK);
                }
                b += m;
            }
            (this, next) = (next, this);
        }
    }
}
