//! Products with the transpose, `y += g · W`, of tiles for few rows of `g`.
//!
//! ```text
//! for each run of 4 tiles, each block of 32 columns, each row of g
//!     lane r of sum k = Σ over the tiles of g[r] · s[r] · code[r][k]
//!     y[k] += Σ over the lanes of sum k
//! ```
//!
//! In which order an output's products are added depends on the rows alone, never on which
//! columns are at hand.

use super::{BLOCK_COLS, Quantizer, Rows, TILE_ROWS, each, from_f16, planes};
use crate::kernel::columns::Columns;
use crate::kernel::dense::{Fields, Simd, Task};

/// Tiles that are added lane by lane, so that lanes are added to each other seldom: as many
/// streams of addresses, of which memory gives more than of one. Their codes take no more room
/// than one tile decoded, the least that a window may be.
const RUN: usize = 4;
/// Rows of a window, or a multiple.
pub const RUN_ROWS: usize = RUN * TILE_ROWS;

/// A line of codes, signed: of 16 rows a word of four columns.
type Line = [u32; TILE_ROWS];
/// A block of a tile.
type Block = [Line; BLOCK_COLS / 4];

/// Opens a block of `c` columns of a whole tile.
///
/// # Safety
/// The CPU has the features of `S`.
#[inline(always)]
unsafe fn open<const BITS: u32, S: Simd>(block: &[u8], c: usize, lines: &mut Block) {
    const EACH: u32 = 0x0101_0101;
    // To the bytes of i8: no sum of a byte carries into the next.
    *lines = [[EACH * (128 - (1 << (BITS - 1))); TILE_ROWS]; BLOCK_COLS / 4];
    let (mut low, mut at) = (0, 0);
    for &p in planes(BITS) {
        let n = c.div_ceil(32 / p as usize);
        let from = &block[at..at + 64 * n];
        let flip = if low + p == BITS { EACH * 128 } else { 0 };
        for i in 0..(8 / p) as usize {
            for j in 0..n {
                let to = &mut lines[n * i + j];
                let fields = Fields {
                    shift: i as u32 * p,
                    mask: EACH * ((1 << p) - 1),
                    low,
                    flip,
                };
                for r in (0..TILE_ROWS).step_by(S::LANES) {
                    // SAFETY: vectors of 16 words, within them.
                    unsafe {
                        let from = from[64 * j..64 * j + 64].as_ptr().cast::<u32>();
                        S::add_fields(from.add(r), fields, to.as_mut_ptr().add(r));
                    }
                }
            }
        }
        at += 64 * n;
        low += p;
    }
}

/// Scales and zeros of a whole tile in a group's head, with the multiplier in them.
#[inline(always)]
fn head_rows(q: &Quantizer, head: &[u8]) -> (Rows, Rows) {
    if !q.layout.scales {
        let zero = q.offset * q.multiplier;
        return ([q.multiplier; TILE_ROWS], [zero; TILE_ROWS]);
    }
    let values = |from: &[u8]| -> Rows {
        let bits: [u16; TILE_ROWS] = bytemuck::pod_read_unaligned(&from[..2 * TILE_ROWS]);
        each(|r| from_f16(u16::from_le(bits[r])) * q.multiplier)
    };
    match q.layout.zeros {
        true => (values(head), values(&head[2 * TILE_ROWS..])),
        false => (values(head), [0.0; TILE_ROWS]),
    }
}

/// Adds whole tiles to columns of `y`, from `col` on.
struct Add<'a, 'y, S> {
    q: &'a Quantizer,
    scales: &'a [u8],
    codes: &'a [u8],
    col: usize,
    g: &'a [f32],
    g_stride: usize,
    y: &'a mut Columns<'y>,
    set: std::marker::PhantomData<S>,
}

impl<S: Simd> Add<'_, '_, S> {
    /// # Safety
    /// The CPU has the features of `S`.
    #[inline(always)]
    unsafe fn open(bits: u32, block: &[u8], c: usize, lines: &mut Block) {
        // SAFETY: as the caller grants.
        unsafe {
            match bits {
                2 => open::<2, S>(block, c, lines),
                3 => open::<3, S>(block, c, lines),
                4 => open::<4, S>(block, c, lines),
                5 => open::<5, S>(block, c, lines),
                6 => open::<6, S>(block, c, lines),
                7 => open::<7, S>(block, c, lines),
                _ => open::<8, S>(block, c, lines),
            }
        }
    }
}

impl<S: Simd> Task for Add<'_, '_, S> {
    #[inline(always)]
    unsafe fn run(self) {
        let layout = &self.q.layout;
        let (col, y) = (self.col, self.y);
        let tile_bytes = TILE_ROWS * layout.code_row_bytes();
        let head_bytes = TILE_ROWS * layout.head_row_bytes();
        let block_bytes = TILE_ROWS * layout.block_row_bytes(BLOCK_COLS);
        let tiles = self.codes.len() / tile_bytes;
        assert!(self.codes.len() == tiles * tile_bytes);
        assert!(self.scales.len() == tiles * layout.groups() * head_bytes);
        let end = col + y.cols();
        assert!(col.is_multiple_of(BLOCK_COLS));
        assert!(end == layout.cols || end < layout.cols && end.is_multiple_of(BLOCK_COLS));
        let mut blocks = [[[0; TILE_ROWS]; BLOCK_COLS / 4]; RUN];
        let mut factors: [Rows; RUN] = [[0.0; TILE_ROWS]; RUN];
        for first in (0..tiles).step_by(RUN) {
            let n = RUN.min(tiles - first);
            for at in (col..end).step_by(BLOCK_COLS) {
                let c = BLOCK_COLS.min(layout.cols - at);
                for (i, block) in blocks[..n].iter_mut().enumerate() {
                    let codes = (first + i) * tile_bytes + at / BLOCK_COLS * block_bytes;
                    let codes = &self.codes[codes..];
                    // SAFETY: as the caller grants.
                    unsafe {
                        match c {
                            // Loops of a known length.
                            BLOCK_COLS => Self::open(layout.bits, codes, BLOCK_COLS, block),
                            _ => Self::open(layout.bits, codes, c, block),
                        }
                    }
                }
                for b in 0..y.rows() {
                    let mut zero = [0.0; TILE_ROWS];
                    for (i, factor) in factors[..n].iter_mut().enumerate() {
                        let tile = first + i;
                        let head = (tile * layout.groups() + at / layout.group) * head_bytes;
                        let head = &self.scales[head..head + head_bytes];
                        let g = &self.g[b * self.g_stride + tile * TILE_ROWS..][..TILE_ROWS];
                        let (scale, offset) = head_rows(self.q, head);
                        for r in 0..TILE_ROWS {
                            factor[r] = g[r] * scale[r];
                            // A factor may be infinite, of which no zero makes NaN.
                            if layout.zeros || !layout.scales {
                                zero[r] += g[r] * offset[r];
                            }
                        }
                    }
                    // SAFETY: as the caller grants.
                    let sums = unsafe { sums::<S>(&blocks[..n], &factors[..n], &zero) };
                    let y = &mut y.row_mut(b)[at - col..][..c];
                    for (y, sum) in y.iter_mut().zip(sums) {
                        *y += sum;
                    }
                }
            }
        }
    }
}

/// What blocks of some tiles add to the outputs of their columns.
///
/// # Safety
/// The CPU has the features of `S`.
#[inline(always)]
unsafe fn sums<S: Simd>(blocks: &[Block], factors: &[Rows], zero: &Rows) -> [f32; BLOCK_COLS] {
    // Vectors of a tile's rows, and places for the most that there are.
    let vectors = TILE_ROWS / S::LANES;
    let mut lanes = [[0.0f32; TILE_ROWS]; BLOCK_COLS];
    for line in 0..BLOCK_COLS / 4 {
        for v in 0..vectors {
            let from = v * S::LANES;
            // SAFETY: vectors of 16 values or words, within them.
            unsafe {
                let mut sums = [S::load(zero.as_ptr().add(from)); 4];
                for (block, factor) in blocks.iter().zip(factors) {
                    let words = block[line].as_ptr().add(from);
                    let factor = S::load(factor.as_ptr().add(from));
                    sums[0] = S::mul_add(factor, S::load_byte::<0>(words), sums[0]);
                    sums[1] = S::mul_add(factor, S::load_byte::<1>(words), sums[1]);
                    sums[2] = S::mul_add(factor, S::load_byte::<2>(words), sums[2]);
                    sums[3] = S::mul_add(factor, S::load_byte::<3>(words), sums[3]);
                }
                for k in 0..4 {
                    S::store(lanes[4 * line + k].as_mut_ptr().add(from), sums[k]);
                }
            }
        }
    }
    let mut out = [0.0; BLOCK_COLS];
    let mut turned = [[0.0f32; 16]; 16];
    for first in (0..BLOCK_COLS).step_by(S::LANES) {
        // SAFETY: vectors of 16 values, within them; a square of LANES vectors in one of 16.
        unsafe {
            let mut square = [S::zero(); 16];
            for i in 0..S::LANES {
                for v in 0..vectors {
                    let some = S::load(lanes[first + i].as_ptr().add(v * S::LANES));
                    square[i] = S::add(square[i], some);
                }
            }
            S::store_transposed(&square[..S::LANES], turned.as_mut_ptr().cast(), 16);
            let mut half = S::LANES / 2;
            while half > 0 {
                for i in 0..half {
                    let a = S::load(turned[i].as_ptr());
                    let b = S::load(turned[i + half].as_ptr());
                    S::store(turned[i].as_mut_ptr(), S::add(a, b));
                }
                half /= 2;
            }
            S::store(out.as_mut_ptr().add(first), S::load(turned[0].as_ptr()));
        }
    }
    out
}

/// Adds whole tiles; see [`KernelSet::quant_add`](crate::kernel::KernelSet::quant_add).
///
/// # Safety
/// The CPU has the features of `S`.
pub(in crate::kernel) unsafe fn add<S: Simd>(
    q: &Quantizer,
    scales: &[u8],
    codes: &[u8],
    col: usize,
    g: &[f32],
    g_stride: usize,
    y: &mut Columns<'_>,
) {
    let task = Add::<S> {
        q,
        scales,
        codes,
        col,
        g,
        g_stride,
        y,
        set: std::marker::PhantomData,
    };
    // SAFETY: as the caller grants; the task checks its slices.
    unsafe { S::call(task) }
}
