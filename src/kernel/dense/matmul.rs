//! Products `x · Wᵀ`, made of [tiles](super::tile).
//!
//! There are two ways, which differ in who packs panels:
//!
//! * [`packed`]: the activations were packed once for the product. All windows of weights, on
//!   all threads, read the same panels; weights are read once, in the order in which they lie.
//! * [`plain`]: activations come as they are. Weights are a window that is in cache, as it has
//!   just been decoded, or a small matrix for many activations. Blocks of columns are packed
//!   as they come, of activations or of weights, whichever costs less.
//!
//! In what order an output's products are added depends on the columns and the batch (with
//! [`packed`] also on the place in the batch), never on the rows that are at hand nor on which
//! side is packed: block by block, the blocks' sums one after the other; within a block word
//! by word, in one sum, two that take turns, or one for each lane of a folded panel.

use std::marker::PhantomData;
use std::mem::MaybeUninit;

use super::elements::{Elements, Terms};
use super::simd::{Simd, Task};
use super::tile::{Ahead, CHUNK, LINE, ROWS, Shape, Strip, Sums, run, tile_rows};

/// Values of a panel that one block of columns covers: 256 KiB, which leave room in a second
/// cache of 1 MiB for the rows of two tiles, the one that is read and the one that is ahead.
const PANEL: usize = 1 << 16;
/// Values of a panel that is packed as it comes, on the stack: 32 KiB.
pub(super) const SMALL_PANEL: usize = 1 << 13;
/// Bytes of rows that several panels meet one after another: they should still be in a cache when
/// the next panel comes, and be so many that panels are read few times. On Zen 3 batch 64 runs
/// at 46 GFLOP/s where rows come from memory for every panel, and at 65 to 78 with 100 KiB to
/// 2 MiB; larger batches have more panels, for which more rows are better.
const GROUP: usize = 4 << 20;
/// Sums of rows that wait until they are turned round: of the widest panels as many as a window
/// of 256 rows has, in whole tiles.
const SUMS: usize = 258 * LANES;
/// Lanes of the widest panel of any set.
const LANES: usize = 64;
/// Words of a block that is packed as it comes: of the widest panels, and of folded ones.
const BLOCK: usize = SMALL_PANEL / LANES;
const FOLDED_BLOCK: usize = 1024;

/// Working memory on the stack, aligned to lines and not initialised.
#[repr(C, align(64))]
pub(super) struct Floats<const N: usize>(MaybeUninit<[f32; N]>);

impl<const N: usize> Floats<N> {
    #[inline(always)]
    pub(super) const fn new() -> Self {
        Self(MaybeUninit::uninit())
    }

    #[inline(always)]
    pub(super) fn pointer(&mut self) -> *mut f32 {
        self.0.as_mut_ptr().cast()
    }
}

/// Some rows that make up a panel.
#[derive(Clone, Copy, Debug)]
struct Part {
    first: usize,
    rows: usize,
    shape: Shape,
}

impl Part {
    fn lanes<S: Simd>(&self) -> usize {
        self.shape.vectors * S::LANES
    }
}

/// Panels of like width whose lanes are rows.
fn wide<S: Simd>(rows: usize, turns: usize) -> impl Iterator<Item = Part> {
    let vectors = rows.div_ceil(S::LANES);
    let panels = vectors.div_ceil(S::VECTORS);
    let mut first = 0;
    (0..panels).map(move |i| {
        let vectors = vectors / panels + usize::from(i < vectors % panels);
        let rows = (vectors * S::LANES).min(rows - first);
        first += rows;
        Part {
            first: first - rows,
            rows,
            shape: Shape {
                vectors,
                fold: 1,
                turns: if vectors == 1 { turns } else { 1 },
            },
        }
    })
}

/// Panels with a vector for each row.
fn dots<S: Simd>(rows: usize) -> impl Iterator<Item = Part> {
    (0..rows).step_by(S::VECTORS).map(move |first| {
        let rows = S::VECTORS.min(rows - first);
        Part {
            first,
            rows,
            shape: Shape {
                vectors: rows,
                fold: S::LANES,
                turns: 1,
            },
        }
    })
}

/// The panels of packed activations: wide ones, and a folded one for what would leave half
/// of a vector idle.
fn parts<S: Simd>(batch: usize) -> impl Iterator<Item = Part> {
    let rest = match batch % S::LANES {
        n if n <= S::LANES / 2 => n,
        _ => 0,
    };
    let whole = batch - rest;
    let shape = match rest <= S::VECTORS {
        true => Shape {
            vectors: rest,
            fold: S::LANES,
            turns: 1,
        },
        false => Shape {
            vectors: 1,
            fold: 2,
            turns: 2,
        },
    };
    let rest = (rest > 0).then_some(Part {
        first: whole,
        rows: rest,
        shape,
    });
    wide::<S>(whole, 2).chain(rest)
}

/// Packs rows of a panel.
struct Pack<S: Simd, E: Elements<S>> {
    /// Rows `stride` numbers apart.
    from: *const E::E,
    stride: usize,
    rows: usize,
    numbers: usize,
    shape: Shape,
    /// `Shape::len` values, in rows of whole vectors. A panel whose words go one by one is
    /// written to the next multiple of LANES words.
    to: *mut f32,
}

impl<S: Simd, E: Elements<S>> Pack<S, E> {
    /// # Safety
    /// `from` has `n` numbers, a vector of them or fewer.
    #[inline(always)]
    unsafe fn load(from: *const E::E, n: usize) -> S::V {
        // SAFETY: as the caller grants.
        unsafe {
            match n == S::LANES * E::DEPTH {
                true => E::load(from),
                false => E::load_part(from, n),
            }
        }
    }
}

impl<S: Simd, E: Elements<S>> Task for Pack<S, E> {
    #[inline(always)]
    unsafe fn run(self) {
        let width = self.shape.vectors * S::LANES;
        let step = S::LANES * E::DEPTH;
        let end = match self.shape.fold * self.shape.turns {
            1 => self.numbers,
            _ => self.numbers.next_multiple_of(CHUNK * E::DEPTH),
        };
        // SAFETY: the caller has the features of `S`.
        let mut square = [unsafe { S::zero() }; 16];
        for k in (0..end).step_by(step) {
            let n = step.min(self.numbers.saturating_sub(k));
            for lane in (0..width / self.shape.fold).step_by(S::LANES) {
                let rows = S::LANES.min(self.rows.saturating_sub(lane));
                // SAFETY: the maker grants `rows` rows of `numbers`, and room for what the
                // shape tells.
                unsafe {
                    let from = self.from.add(lane * self.stride + k.min(self.numbers));
                    let to = self.to.add(k / E::DEPTH / self.shape.fold * width);
                    if self.shape.fold == S::LANES {
                        for i in 0..rows {
                            let v = Self::load(from.add(i * self.stride), n);
                            S::store(to.add(i * S::LANES), v);
                        }
                        continue;
                    }
                    if rows == S::LANES && n == step {
                        for i in 0..S::LANES {
                            square[i] = E::load(from.add(i * self.stride));
                        }
                    } else {
                        for i in 0..S::LANES {
                            square[i] = match i < rows {
                                true => Self::load(from.add(i * self.stride), n),
                                false => S::zero(),
                            };
                        }
                    }
                    if self.shape.fold == 1 {
                        S::store_transposed(&square[..S::LANES], to.add(lane), width);
                        continue;
                    }
                    // Two words of each of the LANES / 2 rows there are.
                    let mut words = Floats::<256>::new();
                    let words = words.pointer();
                    for i in 0..S::LANES / 2 {
                        S::store(words.add(i * S::LANES), square[i]);
                    }
                    for pair in 0..S::LANES / 2 {
                        for i in 0..S::LANES / 2 {
                            let word = words.add(i * S::LANES + 2 * pair).cast::<u64>();
                            let to = to.add(pair * width + 2 * i).cast::<u64>();
                            to.write_unaligned(word.read_unaligned());
                        }
                    }
                }
            }
        }
    }
}

/// Adds what was folded, and writes sums where they belong.
struct Turn<S> {
    /// Rows of `vectors` vectors.
    from: *const f32,
    rows: usize,
    shape: Shape,
    /// Lanes that count, folded ones as one.
    lanes: usize,
    /// Outputs of a lane, and of a row, are so many values apart.
    to: *mut f32,
    lane_stride: usize,
    row_stride: usize,
    set: PhantomData<S>,
}

impl<S: Simd> Task for Turn<S> {
    #[inline(always)]
    unsafe fn run(self) {
        let width = self.shape.vectors * S::LANES;
        let fold = self.shape.fold;
        // SAFETY: the maker grants `rows` rows of `width` sums, and an output for each of
        // `lanes` of them.
        unsafe {
            let mut square = [S::zero(); 16];
            let mut turned = Floats::<256>::new();
            let turned = turned.pointer();
            // Few rows of outputs at a time, which lie in as many pages.
            for vector in (0..width).step_by(S::LANES) {
                for r in (0..self.rows).step_by(S::LANES) {
                    let rows = S::LANES.min(self.rows - r);
                    for i in 0..S::LANES {
                        let row = r + i.min(rows - 1);
                        square[i] = S::load(self.from.add(row * width + vector));
                    }
                    let first = vector / fold;
                    let lanes = (S::LANES / fold).min(self.lanes - first);
                    let to = self.to.add(first * self.lane_stride + r * self.row_stride);
                    let whole = rows == S::LANES && lanes == S::LANES;
                    if whole && self.row_stride == 1 {
                        S::store_transposed(&square[..S::LANES], to, self.lane_stride);
                        continue;
                    }
                    S::store_transposed(&square[..S::LANES], turned, S::LANES);
                    for lane in 0..lanes {
                        let at = turned.add(lane * fold * S::LANES);
                        // Halves are added to halves.
                        let mut half = fold / 2;
                        while half > 0 {
                            for i in 0..half {
                                let a = S::load(at.add(i * S::LANES));
                                let b = S::load(at.add((i + half) * S::LANES));
                                S::store(at.add(i * S::LANES), S::add(a, b));
                            }
                            half /= 2;
                        }
                        let to = to.add(lane * self.lane_stride);
                        if self.row_stride != 1 {
                            for i in 0..rows {
                                to.add(i * self.row_stride).write(at.add(i).read());
                            }
                        } else if rows == S::LANES {
                            S::store(to, S::load(at));
                        } else {
                            S::store_part(to, S::load(at), rows);
                        }
                    }
                }
            }
        }
    }
}

/// Values that [`pack`] writes.
pub(super) fn packed_len<S: Simd>(batch: usize, words: usize) -> usize {
    parts::<S>(batch).map(|p| p.shape.len::<S>(words)).sum()
}

/// Packs `x[batch, cols]` for [`packed`].
///
/// # Safety
/// The CPU has the features of `S`; `x` is valid for `batch × cols` numbers and `to` for
/// [`packed_len`] values.
#[inline(always)]
pub(super) unsafe fn pack<S: Simd, E: Elements<S>>(
    x: *const E::E,
    batch: usize,
    cols: usize,
    to: *mut f32,
) {
    let words = cols.div_ceil(E::DEPTH);
    // Squares of a panel whose words go one by one may end past it: the last columns are
    // packed apart and copied.
    let whole = cols / (S::LANES * E::DEPTH) * S::LANES;
    let mut last = Floats::<{ 16 * LANES }>::new();
    let mut at = 0;
    for part in parts::<S>(batch) {
        let len = part.shape.len::<S>(words);
        // SAFETY: rows of `x` below `batch`; the panel's length is that of its shape.
        unsafe {
            let job = |k: usize, numbers: usize, to: *mut f32| Pack::<S, E> {
                from: x.add(part.first * cols + k),
                stride: cols,
                rows: part.rows,
                numbers,
                shape: part.shape,
                to,
            };
            let to = to.add(at);
            if part.shape.fold * part.shape.turns > 1 {
                S::call(job(0, cols, to));
            } else {
                S::call(job(0, whole * E::DEPTH, to));
                let done = whole * part.lanes::<S>();
                if done < len {
                    let rest = cols - whole * E::DEPTH;
                    S::call(job(whole * E::DEPTH, rest, last.pointer()));
                    to.add(done)
                        .copy_from_nonoverlapping(last.pointer(), len - done);
                }
            }
        }
        at += len;
    }
}

/// `out[b][r] = Σ x[b][k] · w[r][k]` with activations from [`pack`], rows of `out` beginning
/// `stride` values apart.
///
/// # Safety
/// The CPU has the features of `S`; `w` is valid for `rows × cols` numbers, `x` is what
/// [`pack`] wrote for `batch` and `cols`, `out` is valid for `batch` rows of `rows` values.
/// `cols` is not 0.
#[inline(always)]
pub(super) unsafe fn packed<S: Simd, T: Terms<S>>(
    w: *const <T::W as Elements<S>>::E,
    rows: usize,
    x: *const f32,
    batch: usize,
    cols: usize,
    out: *mut f32,
    stride: usize,
) {
    let mut sums = Floats::<SUMS>::new();
    let sums = sums.pointer();
    let depth = <T::W as Elements<S>>::DEPTH;
    let number = size_of::<<T::W as Elements<S>>::E>();
    let words = cols.div_ceil(depth);
    let widest = parts::<S>(batch).map(|p| p.lanes::<S>()).max();
    let most = match parts::<S>(batch).count() {
        1 => SUMS,
        _ => (GROUP / (cols * number)).next_multiple_of(ROWS).max(ROWS),
    };
    let most = most.min(SUMS / widest.unwrap_or(1)) / ROWS * ROWS;
    // Groups of like size.
    let groups = rows.div_ceil(most);
    let group = rows.div_ceil(groups).next_multiple_of(ROWS);
    let x_len = packed_len::<S>(batch, words);
    for start in (0..rows).step_by(group) {
        let n = group.min(rows - start);
        let mut panel = x;
        for part in parts::<S>(batch) {
            let lanes = part.lanes::<S>();
            let fold = part.shape.fold;
            // Blocks of like length.
            let blocks = (words * lanes / fold).div_ceil(PANEL).max(1);
            let block = words.div_ceil(blocks).next_multiple_of(CHUNK) * depth;
            for k in (0..cols).step_by(block) {
                let numbers = block.min(cols - k);
                // Whole rows lie one after the other.
                let piece = match numbers == cols {
                    true => rows * cols * number,
                    false => numbers * number,
                };
                // SAFETY: the panel's words for these columns.
                let block_of_panel = unsafe { panel.add(k / depth / fold * lanes) };
                // What follows in the panels is asked for by all tiles in turn, unless it is
                // there already.
                let block_len = block / depth / fold * lanes;
                let after = match k + block < cols {
                    true => block_of_panel.wrapping_add(block_len),
                    false => panel.wrapping_add(part.shape.len::<S>(words)),
                };
                let after = match after == x.wrapping_add(x_len) {
                    true => x,
                    false => after,
                };
                let chunks = numbers / (CHUNK * depth);
                let asking = (n.div_ceil(ROWS) * chunks).max(1);
                let panel_lines = match x_len > PANEL {
                    true => (block_len / LINE).div_ceil(asking),
                    false => 0,
                };
                let mut r = 0;
                while r < n {
                    let m = tile_rows::<S, T::W>(n - r, fold);
                    // What follows: the next rows, or this group's first in the next block,
                    // or the next group.
                    let next = match (r + m < n, k + block < cols) {
                        (true, _) => (start + r + m) * cols + k,
                        (false, true) => start * cols + k + block,
                        (false, false) => (start + n) * cols,
                    };
                    // SAFETY: rows of `w` below `rows`, columns below `cols` and the panel's
                    // words for them, sums of `group` rows.
                    unsafe {
                        let strip = Strip::<S, T::W> {
                            rows: w.add((start + r) * cols + k),
                            stride: cols,
                            numbers,
                            ahead: Ahead {
                                at: w.wrapping_add(next).cast(),
                                left: piece,
                                piece,
                                stride: cols * number,
                                times: 1,
                                panel: after.wrapping_add(r / ROWS * chunks * panel_lines * LINE),
                                panel_lines,
                            },
                            panel: block_of_panel,
                            panel_stride: lanes,
                            sums: sums.add(r * lanes),
                            sums_stride: lanes,
                            lanes,
                            mode: if k == 0 { Sums::Begin } else { Sums::Add },
                        };
                        run::<S, T, T::W>(m, part.shape, strip);
                    }
                    r += m;
                }
            }
            // SAFETY: the sums of `n` rows, and the outputs of the part's rows; the next
            // panel begins where this one ends.
            unsafe {
                S::call(Turn::<S> {
                    from: sums,
                    rows: n,
                    shape: part.shape,
                    lanes: part.rows,
                    to: out.add(part.first * stride + start),
                    lane_stride: stride,
                    row_stride: 1,
                    set: PhantomData,
                });
                panel = panel.add(part.shape.len::<S>(words));
            }
        }
    }
}

/// `out[b][r] = Σ x[b][k] · w[r][k]`, rows of `out` beginning `stride` values apart.
///
/// # Safety
/// The CPU has the features of `S`; `w` is valid for `rows × cols` numbers, `x` for
/// `batch × cols` and `out` for `batch` rows of `rows` values. None of them is 0.
#[inline(always)]
pub(super) unsafe fn plain<S: Simd, T: Terms<S>>(
    w: *const <T::W as Elements<S>>::E,
    rows: usize,
    x: *const <T::X as Elements<S>>::E,
    batch: usize,
    cols: usize,
    out: *mut f32,
    stride: usize,
) {
    let (weights, activations) = (
        Side::<S, T::W> {
            numbers: w,
            rows,
            out_stride: 1,
        },
        Side::<S, T::X> {
            numbers: x,
            rows: batch,
            out_stride: stride,
        },
    );
    // SAFETY: as the caller grants.
    unsafe {
        if !fills_lanes::<S>(batch) {
            match rows < batch {
                true => folded::<S, T, T::W, T::X>(weights, activations, cols, out),
                false => folded::<S, T, T::X, T::W>(activations, weights, cols, out),
            }
            return;
        }
        // What each way costs in vectors of multiplications, twice: lanes that are filled
        // up, and about half of one for each vector that is packed or turned round.
        let vectors = |lanes: usize| lanes.div_ceil(S::LANES);
        let groups = rows.div_ceil(SUMS / LANES);
        let pack_w = vectors(rows) * cols * (2 * batch + 1);
        let pack_x = vectors(batch) * (cols * (2 * rows + groups) + rows);
        match pack_w <= pack_x {
            true => weights_packed::<S, T>(weights, activations, cols, out),
            false => activations_packed::<S, T>(weights, activations, cols, out),
        }
    }
}

/// Whether a batch goes by wide panels: several vectors, of whose lanes an eighth is idle at
/// most (dot products reach 85 to 90 % of what wide panels do), or an odd one of four.
fn fills_lanes<S: Simd>(batch: usize) -> bool {
    let lanes = batch.next_multiple_of(S::LANES);
    batch >= 4 * S::LANES || (lanes > S::LANES && 8 * batch >= 7 * lanes)
}

/// One side of a product: row-major numbers, and how far apart the outputs of two rows are.
struct Side<S: Simd, E: Elements<S>> {
    numbers: *const E::E,
    rows: usize,
    out_stride: usize,
}

/// Dot products: the columns go by in blocks of [`FOLDED_BLOCK`] words, of which the panel's
/// rows are copied line by line as the tiles read them. Where they lie, rows of a power of
/// two in length would push each other out of the first cache.
///
/// # Safety
/// The CPU has the features of `S`; the sides' rows have `cols` numbers, and `out` an output
/// for each pair of rows.
#[inline(always)]
unsafe fn folded<S, T, P, A>(lanes: Side<S, P>, rows: Side<S, A>, cols: usize, out: *mut f32)
where
    S: Simd,
    T: Terms<S>,
    P: Elements<S>,
    A: Elements<S>,
{
    let mut panel = Floats::<SMALL_PANEL>::new();
    let mut sums = Floats::<SUMS>::new();
    let (panel, sums) = (panel.pointer(), sums.pointer());
    let block = FOLDED_BLOCK * P::DEPTH;
    for part in dots::<S>(lanes.rows) {
        let width = part.lanes::<S>();
        let group = SUMS / width / ROWS * ROWS;
        for start in (0..rows.rows).step_by(group) {
            let n = group.min(rows.rows - start);
            for k in (0..cols).step_by(block) {
                let numbers = block.min(cols - k);
                // SAFETY: rows of both sides, columns below `cols`; a panel of four vectors
                // has room for a block, as have the sums for a group.
                unsafe {
                    S::call(Pack::<S, P> {
                        from: lanes.numbers.add(part.first * cols + k),
                        stride: cols,
                        rows: part.rows,
                        numbers,
                        shape: part.shape,
                        to: panel,
                    });
                    let mut r = 0;
                    while r < n {
                        let m = tile_rows::<S, A>(n - r, S::LANES);
                        let from = rows.numbers.add((start + r) * cols + k);
                        let strip = Strip::<S, A> {
                            rows: from,
                            stride: cols,
                            numbers,
                            ahead: Ahead::NOTHING,
                            panel,
                            panel_stride: width,
                            sums: sums.add(r * width),
                            sums_stride: width,
                            lanes: width,
                            mode: if k == 0 { Sums::Begin } else { Sums::Add },
                        };
                        run::<S, T, A>(m, part.shape, strip);
                        r += m;
                    }
                }
            }
            // SAFETY: the sums of `n` rows, and the outputs of the part's.
            unsafe {
                S::call(Turn::<S> {
                    from: sums,
                    rows: n,
                    shape: part.shape,
                    lanes: part.rows,
                    to: out.add(part.first * lanes.out_stride + start * rows.out_stride),
                    lane_stride: lanes.out_stride,
                    row_stride: rows.out_stride,
                    set: PhantomData,
                });
            }
        }
    }
}

/// # Safety
/// As for [`folded`].
#[inline(always)]
unsafe fn weights_packed<S: Simd, T: Terms<S>>(
    w: Side<S, T::W>,
    x: Side<S, T::X>,
    cols: usize,
    out: *mut f32,
) {
    let mut panel = Floats::<SMALL_PANEL>::new();
    let panel = panel.pointer();
    let block = BLOCK * <T::X as Elements<S>>::DEPTH;
    for k in (0..cols).step_by(block) {
        let numbers = block.min(cols - k);
        for part in wide::<S>(w.rows, 1) {
            // SAFETY: rows of both sides, columns below `cols`; the panel has room for a
            // block of 64 lanes.
            unsafe {
                S::call(Pack::<S, T::W> {
                    from: w.numbers.add(part.first * cols + k),
                    stride: cols,
                    rows: part.rows,
                    numbers,
                    shape: part.shape,
                    to: panel,
                });
                let mut b = 0;
                while b < x.rows {
                    let m = tile_rows::<S, T::X>(x.rows - b, 1);
                    let from = x.numbers.add(b * cols + k);
                    let strip = Strip::<S, T::X> {
                        rows: from,
                        stride: cols,
                        numbers,
                        ahead: Ahead::NOTHING,
                        panel,
                        panel_stride: part.lanes::<S>(),
                        sums: out.add(b * x.out_stride + part.first),
                        sums_stride: x.out_stride,
                        lanes: part.rows,
                        mode: if k == 0 { Sums::Begin } else { Sums::Add },
                    };
                    run::<S, T, T::X>(m, part.shape, strip);
                    b += m;
                }
            }
        }
    }
}

/// # Safety
/// As for [`folded`].
#[inline(always)]
unsafe fn activations_packed<S: Simd, T: Terms<S>>(
    w: Side<S, T::W>,
    x: Side<S, T::X>,
    cols: usize,
    out: *mut f32,
) {
    let mut panel = Floats::<SMALL_PANEL>::new();
    let mut sums = Floats::<SUMS>::new();
    let (panel, sums) = (panel.pointer(), sums.pointer());
    let block = BLOCK * <T::X as Elements<S>>::DEPTH;
    for part in wide::<S>(x.rows, 1) {
        let lanes = part.lanes::<S>();
        let group = SUMS / lanes / ROWS * ROWS;
        for start in (0..w.rows).step_by(group) {
            let n = group.min(w.rows - start);
            for k in (0..cols).step_by(block) {
                let numbers = block.min(cols - k);
                // SAFETY: rows of both sides, columns below `cols`; the panel has room for a
                // block of 64 lanes, and the sums for a group.
                unsafe {
                    S::call(Pack::<S, T::X> {
                        from: x.numbers.add(part.first * cols + k),
                        stride: cols,
                        rows: part.rows,
                        numbers,
                        shape: part.shape,
                        to: panel,
                    });
                    let mut r = 0;
                    while r < n {
                        let m = tile_rows::<S, T::W>(n - r, 1);
                        let from = w.numbers.add((start + r) * cols + k);
                        let strip = Strip::<S, T::W> {
                            rows: from,
                            stride: cols,
                            numbers,
                            ahead: Ahead::NOTHING,
                            panel,
                            panel_stride: lanes,
                            sums: sums.add(r * lanes),
                            sums_stride: lanes,
                            lanes,
                            mode: if k == 0 { Sums::Begin } else { Sums::Add },
                        };
                        run::<S, T, T::W>(m, part.shape, strip);
                        r += m;
                    }
                }
            }
            // SAFETY: the sums of `n` rows, and the outputs of the part's.
            unsafe {
                S::call(Turn::<S> {
                    from: sums,
                    rows: n,
                    shape: part.shape,
                    lanes: part.rows,
                    to: out.add(part.first * x.out_stride + start),
                    lane_stride: x.out_stride,
                    row_stride: 1,
                    set: PhantomData,
                });
            }
        }
    }
}
