//! Register tiles of outer products.
//!
//! One side of a product is a panel: for every word of columns a few vectors, whose lanes
//! are rows of that side. Of the other side a tile takes up to [`ROWS`] rows where they lie:
//! a word of theirs is spread over the lanes and multiplied with the panel's vectors. A word
//! is one f32, or two bf16.
//!
//! A panel of few rows is *folded*: `F` words of each row lie side by side, so that no lane is
//! idle, and `F` words of the other side are read at once. With as many words as lanes that is
//! a dot product, whose lanes are added at the end.

use std::marker::PhantomData;

use super::elements::{Elements, Terms};
use super::simd::{Simd, Task};

/// Rows of a tile at most. More would fill the ways of the first cache where rows are a
/// power of two long, as all of them then fall into the same set.
pub(super) const ROWS: usize = 6;

/// Words that a tile takes between two looks at the prefetcher, a multiple of all folds.
/// Folded panels are filled up with zeros to a multiple of this.
pub(super) const CHUNK: usize = 32;

/// Vectors of a panel from which tiles ask for lines for the first cache. On Zen 4 that takes f32
/// at batch 512 from 104 to 111 GFLOP/s; where memory is the limit, it costs a third (batch 8).
const FIRST_VECTORS: usize = 3;

/// Values of a cache line.
pub(super) const LINE: usize = 16;

/// Memory that will be read after what a tile reads: asked for in
/// the order of addresses, which is what the machine's own prefetcher follows.
#[derive(Clone, Copy)]
pub(super) struct Ahead {
    pub(super) at: *const u8,
    /// Bytes that are left of a piece, which is a row or a part of one.
    pub(super) left: usize,
    /// Bytes of a piece, and from the begin of one to the next.
    pub(super) piece: usize,
    pub(super) stride: usize,
    /// How many times as much as the tile's rows hold.
    pub(super) times: usize,
    /// Words of panels that follow, and how many lines of them each chunk asks for.
    pub(super) panel: *const f32,
    pub(super) panel_lines: usize,
}

impl Ahead {
    /// Nothing: what will be read is in cache.
    pub(super) const NOTHING: Self = Self {
        at: std::ptr::null(),
        left: 0,
        piece: 0,
        stride: 0,
        times: 0,
        panel: std::ptr::null(),
        panel_lines: 0,
    };
}

/// What becomes of sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sums {
    /// They are stored.
    Begin,
    /// They are added to those that are there.
    Add,
    /// They go on from those that are there, product by product.
    GoOn,
}

/// A tile: `M` rows times `N` vectors of a panel that is folded `F` times. Sums of the same
/// lane are kept in `U` turns, so that additions need not wait for each other.
struct Tile<S, T, A, const M: usize, const N: usize, const F: usize, const U: usize>
where
    S: Simd,
    A: Elements<S>,
{
    /// Rows of numbers, `stride` numbers apart.
    rows: *const A::E,
    stride: usize,
    numbers: usize,
    ahead: Ahead,
    /// The panel, `panel_stride` values from a vector's words to the next.
    panel: *const f32,
    panel_stride: usize,
    /// Sums, rows `sums_stride` values apart; `last` lanes of the last vector count.
    sums: *mut f32,
    sums_stride: usize,
    last: usize,
    mode: Sums,
    /// CHUNK / (F · U), which the compiler must not know: it would unroll the loop, load
    /// ahead, and run out of registers.
    turns: usize,
    terms: PhantomData<(S, T)>,
}

impl<S, T, A, const M: usize, const N: usize, const F: usize, const U: usize> Task
    for Tile<S, T, A, M, N, F, U>
where
    S: Simd,
    T: Terms<S>,
    A: Elements<S>,
{
    #[inline(always)]
    unsafe fn run(self) {
        // SAFETY: the maker grants M rows of `numbers`, a panel of as many words (filled up
        // to a multiple of CHUNK where F or U is above 1), and M rows of sums.
        unsafe {
            let mut acc = [[[S::zero(); N]; M]; U];
            if self.mode == Sums::GoOn {
                for m in 0..M {
                    for n in 0..N {
                        let from = self.sums.add(m * self.sums_stride + n * S::LANES);
                        acc[0][m][n] = match n + 1 < N || self.last == S::LANES {
                            true => S::load(from),
                            false => S::load_part(from, self.last),
                        };
                    }
                }
            }
            let mut panel = self.panel;
            let mut rows = self.rows;
            let mut opened = [[0.0f32; CHUNK]; M];
            // Macros, not closures, which would be compiled without the set's features.
            macro_rules! prefetch {
                ($p:expr) => {
                    match F == 1 && N >= FIRST_VECTORS {
                        true => S::prefetch_first($p),
                        false => S::prefetch($p),
                    }
                };
            }
            macro_rules! step {
                ($turn:expr, $words:expr, $stride:expr) => {
                    let mut lanes = [S::zero(); N];
                    for n in 0..N {
                        lanes[n] = S::load(panel.add(n * S::LANES));
                    }
                    for m in 0..M {
                        let word = S::spread::<F>($words.add(m * $stride).cast());
                        for n in 0..N {
                            acc[$turn][m][n] = T::mul_add(word, lanes[n], acc[$turn][m][n]);
                        }
                    }
                    panel = panel.add(self.panel_stride);
                };
            }
            macro_rules! whole_chunk {
                ($words:expr, $depth:expr, $stride:expr) => {
                    let mut words = $words;
                    for _ in 0..self.turns {
                        for u in 0..U {
                            step!(u, words.add(u * F * $depth), $stride);
                        }
                        words = words.add(U * F * $depth);
                    }
                };
            }
            let mut ahead = self.ahead.at;
            let mut end = ahead.wrapping_add(self.ahead.left);
            let mut panel_ahead = self.ahead.panel;
            let (times, panel_lines) = match S::ASKS_AHEAD {
                true => (self.ahead.times, self.ahead.panel_lines),
                false => (0, 0),
            };
            let chunk = CHUNK * A::DEPTH;
            for _ in 0..self.numbers / chunk {
                for _ in 0..panel_lines {
                    prefetch!(panel_ahead);
                    panel_ahead = panel_ahead.wrapping_add(LINE);
                }
                for _ in 0..times {
                    for _ in 0..(M * chunk * size_of::<A::E>()).div_ceil(64) {
                        prefetch!(ahead);
                        ahead = ahead.wrapping_add(64);
                    }
                    if ahead >= end {
                        end = end.wrapping_add(self.ahead.stride);
                        ahead = end.wrapping_sub(self.ahead.piece);
                    }
                }
                if A::AS_STORED {
                    whole_chunk!(rows, A::DEPTH, self.stride);
                } else {
                    for m in 0..M {
                        for i in (0..CHUNK).step_by(S::LANES) {
                            let v = A::load(rows.add(m * self.stride + i * A::DEPTH));
                            S::store(opened[m].as_mut_ptr().add(i), v);
                        }
                    }
                    whole_chunk!(opened.as_ptr().cast::<f32>(), 1, CHUNK);
                }
                rows = rows.add(chunk);
            }
            let rest = self.numbers % chunk;
            if rest > 0 && F * U == 1 && A::AS_STORED && A::DEPTH == 1 {
                for i in 0..rest {
                    step!(0, rows.add(i), self.stride);
                }
            } else if rest > 0 {
                for m in 0..M {
                    for i in (0..CHUNK).step_by(S::LANES) {
                        let row = rows.add(m * self.stride);
                        let some = rest.saturating_sub(i * A::DEPTH);
                        let v = match some >= S::LANES * A::DEPTH {
                            true => A::load(row.add(i * A::DEPTH)),
                            false => A::load_part(row.add(rest - some), some),
                        };
                        S::store(opened[m].as_mut_ptr().add(i), v);
                    }
                }
                if F * U == 1 {
                    for i in 0..rest.div_ceil(A::DEPTH) {
                        step!(0, opened.as_ptr().cast::<f32>().add(i), CHUNK);
                    }
                } else {
                    whole_chunk!(opened.as_ptr().cast::<f32>(), 1, CHUNK);
                }
            }
            for m in 0..M {
                for n in 0..N {
                    let to = self.sums.add(m * self.sums_stride + n * S::LANES);
                    let mut sum = acc[0][m][n];
                    for u in 1..U {
                        sum = S::add(sum, acc[u][m][n]);
                    }
                    let whole = n + 1 < N || self.last == S::LANES;
                    if self.mode == Sums::Add {
                        let before = match whole {
                            true => S::load(to),
                            false => S::load_part(to, self.last),
                        };
                        sum = S::add(before, sum);
                    }
                    match whole {
                        true => S::store(to, sum),
                        false => S::store_part(to, sum, self.last),
                    }
                }
            }
        }
    }
}

/// Rows that tiles run over, and what they run with; see [`Tile`].
pub(super) struct Strip<S: Simd, A: Elements<S>> {
    pub(super) rows: *const A::E,
    pub(super) stride: usize,
    pub(super) numbers: usize,
    pub(super) ahead: Ahead,
    pub(super) panel: *const f32,
    pub(super) panel_stride: usize,
    pub(super) sums: *mut f32,
    pub(super) sums_stride: usize,
    /// Lanes that count.
    pub(super) lanes: usize,
    pub(super) mode: Sums,
}

/// How a panel is laid out and added up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// Vectors of a word, or of `fold` words.
    pub(super) vectors: usize,
    /// Words side by side.
    pub(super) fold: usize,
    /// Sums of each lane, which words take turns with.
    pub(super) turns: usize,
}

impl Shape {
    /// Values of `words` columns of a panel: filled up with zeros to a multiple of [`CHUNK`],
    /// unless words go one by one.
    pub(super) fn len<S: Simd>(self, words: usize) -> usize {
        let words = match self.fold * self.turns {
            1 => words,
            _ => words.next_multiple_of(CHUNK),
        };
        words / self.fold * self.vectors * S::LANES
    }
}

/// What there are tiles for: as constants, since a compiler makes code of what a comparison
/// guards, which would be more than half of all tiles.
pub(super) trait Sizes: Simd {
    const FOUR_LANES: bool = Self::LANES == 4;
    const EIGHT_LANES: bool = Self::LANES == 8;
    const SIXTEEN_LANES: bool = Self::LANES == 16;
    /// Three vectors, or four, at most.
    const THREE: bool = Self::VECTORS >= 3;
    const FOUR: bool = Self::VECTORS >= 4;
}

impl<S: Simd> Sizes for S {}

/// Runs the tile of `m` rows, which are what [`tile_rows`] gave.
///
/// # Safety
/// As for [`Tile`].
#[inline(always)]
pub(super) unsafe fn run<S, T, A>(m: usize, shape: Shape, strip: Strip<S, A>)
where
    S: Simd,
    T: Terms<S>,
    A: Elements<S>,
{
    macro_rules! tile {
        ($m:literal, $n:literal, $f:literal, $u:literal) => {
            // SAFETY: as the caller grants.
            unsafe {
                S::call(Tile::<S, T, A, $m, $n, $f, $u> {
                    rows: strip.rows,
                    stride: strip.stride,
                    numbers: strip.numbers,
                    ahead: strip.ahead,
                    panel: strip.panel,
                    panel_stride: strip.panel_stride,
                    sums: strip.sums,
                    sums_stride: strip.sums_stride,
                    last: strip.lanes - ($n - 1) * S::LANES,
                    mode: strip.mode,
                    turns: CHUNK / ($f * $u),
                    terms: PhantomData,
                })
            }
        };
    }
    macro_rules! tiles {
        ($n:literal, $f:literal, $u:literal) => {
            match m {
                1 => tile!(1, $n, $f, $u),
                2 => tile!(2, $n, $f, $u),
                3 if $f == 1 && A::OFTEN_FEW => tile!(3, $n, $f, $u),
                4 if $f == 1 && A::OFTEN_FEW => tile!(4, $n, $f, $u),
                5 if $f == 1 && A::OFTEN_FEW => tile!(5, $n, $f, $u),
                ROWS => tile!(6, $n, $f, $u),
                _ => unreachable!("no tile has {m} rows"),
            }
        };
    }
    match (shape.vectors, shape.fold, shape.turns) {
        (1, 1, 1) if A::OFTEN_FEW => tiles!(1, 1, 1),
        (1, 1, 2) => tiles!(1, 1, 2),
        (1, 2, 2) => tiles!(1, 2, 2),
        (2, 1, 1) => tiles!(2, 1, 1),
        (3, 1, 1) if S::THREE => tiles!(3, 1, 1),
        (4, 1, 1) if S::FOUR => tiles!(4, 1, 1),
        (1, 4, 1) if S::FOUR_LANES => tiles!(1, 4, 1),
        (2, 4, 1) if S::FOUR_LANES => tiles!(2, 4, 1),
        (3, 4, 1) if S::FOUR_LANES && S::THREE => tiles!(3, 4, 1),
        (4, 4, 1) if S::FOUR_LANES && S::FOUR => tiles!(4, 4, 1),
        (1, 8, 1) if S::EIGHT_LANES => tiles!(1, 8, 1),
        (2, 8, 1) if S::EIGHT_LANES => tiles!(2, 8, 1),
        (1, 16, 1) if S::SIXTEEN_LANES => tiles!(1, 16, 1),
        (2, 16, 1) if S::SIXTEEN_LANES => tiles!(2, 16, 1),
        (3, 16, 1) if S::SIXTEEN_LANES => tiles!(3, 16, 1),
        (4, 16, 1) if S::SIXTEEN_LANES => tiles!(4, 16, 1),
        _ => unreachable!("no panel is laid out as {shape:?}"),
    }
}

/// Rows of the next tile of `left` rows. There are tiles of every height where rows are often
/// few; elsewhere the last of a window go by two and one, which saves half of the code.
#[inline(always)]
pub(super) fn tile_rows<S: Simd, A: Elements<S>>(left: usize, fold: usize) -> usize {
    match (left, fold == 1 && A::OFTEN_FEW) {
        (0..=ROWS, true) => left,
        // Like ones at the end.
        (n, true) if n < 2 * ROWS => n.div_ceil(2),
        (0..=1, false) => left,
        (2..ROWS, false) => 2,
        _ => ROWS,
    }
}
