//! Products of quantised tiles with quantised activations, in integers.
//!
//! Weights stay in the layout of [`quant`](super::quant): a line of 64 bytes is 16 rows × 4
//! columns, so that one instruction multiplies four columns of 16 rows by four activations
//! and no sum crosses rows. Activations are int8 codes with a scale for each group of
//! columns (f32); a group's sum of code products is exact in i32 and, being below 2^24,
//! in f32 too. It is scaled by both scales and added to the row's f32 sum, group after
//! group, with one fused multiply-add:
//!
//! `y[b][r] = Σ_g fma(Σ_k u[r][k]·q[b][k] − half·Σ_k q[b][k],  s[r][g]·t[b][g],  …)`
//!
//! Integers are exact and the fused multiply-add is one operation everywhere, so every
//! instruction set gives the same bits.
//!
//! * One rounding of the activations (`fast`): `x ≈ t·q`, `|q| ≤ 127`. The error is at most
//!   half a step, `t/2 = max|x|/254`; measured on Gaussian activations −45 dB in groups of
//!   32 and −42 dB in groups of 256.
//! * Three (`exact`): what the first leaves is rounded with a step 254 times finer, and so
//!   once more: `x = t·(q₀ + q₁/254 + q₂/254²)` to `max|x|·2⁻²⁵`, as f32 itself. Each digit
//!   is a row of its own for the loops here; their sums are added at the end.
//!
//! Digits of base 254 rather than 256: half of 1 is then 127 of the next, and all stay
//! within ±127, which `vpmaddubsw` needs.

// Indices stand for batch rows and digits in several arrays at once.
#![allow(clippy::needless_range_loop)]

use std::marker::PhantomData;
use std::ops::Range;

use half::f16;

use super::dense::Task;
use super::quant::{MAGIC, Quantizer, TILE_ROWS, from_f16};
use super::{autovec, prefetch};

#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

pub(crate) use portable::Portable;

/// Digits of an activation that make its product exact.
pub const EXACT_DIGITS: usize = 3;

/// Columns that share a scale where the weights have one scale for more: sums of 512
/// products of 255·127 still fit the 24 bits of f32, and the scales of 256 cost a
/// twentieth of the products.
pub const WIDE_GROUP: usize = 256;

/// Rows of activations as codes, in pieces: of 12, 8, 6, 4, 3, 2 or 1 rows, as many of the
/// largest that the instruction set multiplies at once as there are, then the smaller. A
/// piece lies as the loops read it, so that they need one address for all of its rows.
#[derive(Clone, Copy, Debug)]
pub struct Activations<'a> {
    /// Rows.
    pub rows: usize,
    /// Columns, a multiple of 32: codes past those of the matrix are 0.
    pub cols: usize,
    /// Columns that share a scale, a multiple of 32; the last group may have fewer.
    pub group: usize,
    /// Piece by piece `i8[cols / 4, rows of the piece, 4]`.
    pub codes: &'a [i8],
    /// Piece by piece `f32[groups, rows of the piece]`: what codes are to be multiplied by.
    pub scales: &'a [f32],
    /// Piece by piece `i32[groups, rows of the piece]`: sums of the codes times `−half`,
    /// codes of weights being `half` more than they stand for.
    pub offsets: &'a [i32],
}

/// The piece that a row lies in: its first row, and how many it has; `most` is what the
/// instruction set multiplies at once.
pub fn piece(rows: usize, most: usize, row: usize) -> (usize, usize) {
    let mut first = 0;
    for n in [12, 8, 6, 4, 3, 2, 1] {
        while n <= most && first + n <= rows {
            if row < first + n {
                return (first, n);
            }
            first += n;
        }
    }
    (rows, 0)
}

/// Full tiles of quantised weights, as stored or opened: [`Quantizer`] says how.
#[derive(Clone, Copy, Debug)]
pub struct Tiles<'a> {
    /// Bits of a code as the planes of `codes` hold them: 8 where tiles were opened.
    pub bits: u32,
    /// What is subtracted from a code: `2^(bits − 1)` of the codes before they were opened.
    pub half: i32,
    /// Columns to multiply, a multiple of 32.
    pub cols: usize,
    /// Columns that share a scale, a multiple of 32 or at least `cols`.
    pub group: usize,
    /// Tile by tile.
    pub codes: &'a [u8],
    /// Bytes of codes from one tile to the next.
    pub code_stride: usize,
    /// Tile by tile, group by group: 16 scales (f16), and 16 zeros (f16) if `zeros`. Empty
    /// if the multiplier is the one scale.
    pub scales: &'a [u8],
    /// Bytes of scales from one tile to the next.
    pub scale_stride: usize,
    /// Whether groups carry zeros, or the tensor one.
    pub zeros: bool,
    /// Scales and zeros are in units of it.
    pub multiplier: f32,
    /// Without scales: the zero of all, in units of the multiplier.
    pub offset: f32,
}

impl<'a> Tiles<'a> {
    /// Full tiles as they are stored, without the columns past the last multiple of 32.
    pub fn stored(q: &Quantizer, scales: &'a [u8], codes: &'a [u8]) -> Self {
        let layout = &q.layout;
        Self {
            bits: layout.bits,
            half: layout.half(),
            cols: layout.cols / 32 * 32,
            group: match layout.group {
                g if g < layout.cols => g,
                _ => usize::MAX,
            },
            codes,
            code_stride: TILE_ROWS * layout.code_row_bytes(),
            scales,
            scale_stride: TILE_ROWS * layout.scale_row_bytes(),
            zeros: layout.zeros,
            multiplier: q.multiplier,
            offset: q.offset,
        }
    }

    /// One tile of `cols` columns that
    /// [`quant_open`](super::KernelSet::quant_open) has opened; its heads are `scales`.
    pub fn opened(q: &Quantizer, cols: usize, scales: &'a [u8], lines: &'a [u8]) -> Self {
        Self {
            bits: 8,
            cols,
            codes: lines,
            code_stride: lines.len(),
            scale_stride: scales.len(),
            ..Self::stored(q, scales, lines)
        }
    }

    /// Without the first `tile` tiles.
    #[must_use]
    pub fn from(&self, tile: usize) -> Self {
        Self {
            codes: &self.codes[tile * self.code_stride..],
            scales: &self.scales[(tile * self.scale_stride).min(self.scales.len())..],
            ..*self
        }
    }

    /// One tile as [`dot_narrow`](super::KernelSet::dot_narrow) has made it of this one.
    pub fn narrowed<'b>(&self, scales: &'b [u8], codes: &'b [u8]) -> Tiles<'b> {
        Tiles {
            bits: 8,
            half: 128,
            cols: self.cols,
            group: WIDE_GROUP,
            codes,
            code_stride: codes.len(),
            scales,
            scale_stride: scales.len(),
            zeros: false,
            multiplier: self.multiplier,
            offset: 0.0,
        }
    }

    /// Bytes of one group's scales and zeros.
    fn head_bytes(&self) -> usize {
        2 * TILE_ROWS * (1 + usize::from(self.zeros))
    }

    /// Whether tile `tile` is there.
    fn holds(&self, tile: usize) -> bool {
        let codes = self.cols / 8 * self.bits as usize * TILE_ROWS;
        let heads = self.cols.div_ceil(self.group) * self.head_bytes();
        tile * self.code_stride + codes <= self.codes.len()
            && (self.scales.is_empty() || tile * self.scale_stride + heads <= self.scales.len())
    }
}

/// Registers of codes, a code or fields of several in each byte.
///
/// # Safety
///
/// Methods may be called only where the CPU has the instruction set; pointers must be
/// good for the bytes stated.
pub(crate) unsafe trait Codes: Copy {
    /// A line of 64 bytes, or as many lines as the registers have room for.
    unsafe fn load(at: *const u8) -> Self;
    /// Bits `SHIFT..SHIFT + BITS` of every byte.
    unsafe fn field<const BITS: u32, const SHIFT: u32>(self) -> Self;
    /// `self | high << SHIFT`, bytes being wide enough.
    unsafe fn join<const SHIFT: u32>(self, high: Self) -> Self;
}

/// Loops of sixteen rows: what an instruction set must bring to multiply tiles.
///
/// # Safety
///
/// Methods may be called only where the CPU has the instruction set; pointers must be
/// good for the bytes stated.
pub(crate) unsafe trait Lines: Sized {
    /// A line: 16 rows × 4 codes.
    type Codes: Codes;
    /// Four activations for every row.
    type Four: Copy;
    /// 16 × i32.
    type Sums: Copy;
    /// 16 × f32.
    type Floats: Copy;
    /// Whether `dot8` takes codes as `i8`, 128 less than they are stored.
    const SIGNED_8: bool;
    /// Batch rows that go through one tile at once.
    const BATCH: usize;
    /// Whether there is [`tall`](Self::tall).
    const TALL: bool = false;

    /// Runs a task in a function of its own that is compiled for this set: all widths and
    /// numbers of rows in one function take compilers half as long again.
    unsafe fn call<T: Task>(task: T);

    unsafe fn store_codes(codes: Self::Codes, out: &mut [u8; 64]);
    /// `round((code − half)·2^shift·ratio/2^15) + 128` for every byte, halves up; each row
    /// has its ratio twice.
    unsafe fn rescale(
        codes: Self::Codes,
        half: i32,
        shift: u32,
        ratio: &[i16; 2 * TILE_ROWS],
    ) -> Self::Codes;
    /// Four activations for all rows: those numbered `index` of a block, which has 8 times
    /// the rows of the piece of them.
    unsafe fn four(block: *const i8, index: usize) -> Self::Four;
    unsafe fn splat(v: i32) -> Self::Sums;
    /// `sums + Σ codes·four` for codes of up to 7 bits.
    unsafe fn dot(sums: Self::Sums, codes: Self::Codes, four: Self::Four) -> Self::Sums;
    /// The same for 8 bits; with `SIGNED_8` it subtracts 128 from each code first.
    unsafe fn dot8(sums: Self::Sums, codes: Self::Codes, four: Self::Four) -> Self::Sums;
    unsafe fn to_floats(sums: Self::Sums) -> Self::Floats;
    /// 16 × f16, 32 bytes.
    unsafe fn load_f16(at: *const u8) -> Self::Floats;
    unsafe fn splat_f32(v: f32) -> Self::Floats;
    unsafe fn mul(a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// `a·b + c`, rounded once.
    unsafe fn fma(a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;
    unsafe fn load_f32(from: &[f32; TILE_ROWS]) -> Self::Floats;
    unsafe fn store(v: Self::Floats, out: &mut [f32; TILE_ROWS]);

    /// Adds the products of `blocks` blocks of 32 columns, as they lie one after another in
    /// tiles that are `apart` bytes from each other and in a piece of `NB` rows, if the set has
    /// a way of its own; else they are taken line by line, row by row.
    #[inline(always)]
    unsafe fn add_blocks<const BITS: u32, const NB: usize, const NT: usize>(
        _sums: &mut [[Self::Sums; NB]; NT],
        _codes: *const u8,
        _apart: usize,
        _xs: *const i8,
        _blocks: usize,
    ) -> bool {
        false
    }

    /// Two tiles of 8-bit codes without zeros with a piece of many rows, where the set has
    /// registers for all of their sums ([`TALL`](Self::TALL)): activations are then loaded
    /// once for both. As [`multiply`], bit by bit.
    #[inline(always)]
    unsafe fn tall<const NB: usize>(
        _w: &Tiles<'_>,
        _x: &Activations<'_>,
        _part: &Part,
        _out: &mut [[f32; TILE_ROWS]],
    ) {
        unreachable!("a set without tall pieces")
    }
}

/// One line of a block of 32 columns, columns `4·STEP…`, as codes. Of registers for two
/// lines: that and the next, if `STEP` is even and `BITS` too.
// A plane of one bit has one line, whatever the step.
#[allow(clippy::modulo_one)]
#[inline(always)]
unsafe fn open_line<C: Codes, const BITS: u32, const STEP: u32>(block: *const u8) -> C {
    // SAFETY: the caller's, a block is `8·BITS` lines of 8 bytes each… see the layout:
    // plane by plane, a plane of p bits being p lines of 64 bytes.
    unsafe {
        macro_rules! plane {
            ($p:literal, $first:literal) => {{
                // Line j of the plane holds columns 4j + 4p·i in field i.
                let line = C::load(block.add(64 * ($first + (STEP as usize % $p))));
                match STEP / $p {
                    0 => line.field::<$p, 0>(),
                    1 => line.field::<$p, { $p % 8 }>(),
                    2 => line.field::<$p, { 2 * $p % 8 }>(),
                    3 => line.field::<$p, { 3 * $p % 8 }>(),
                    4 => line.field::<$p, { 4 * $p % 8 }>(),
                    5 => line.field::<$p, { 5 * $p % 8 }>(),
                    6 => line.field::<$p, { 6 * $p % 8 }>(),
                    _ => line.field::<$p, { 7 * $p % 8 }>(),
                }
            }};
        }
        match BITS {
            2 => plane!(2, 0),
            3 => C::join::<2>(plane!(2, 0), plane!(1, 2)),
            4 => plane!(4, 0),
            5 => C::join::<4>(plane!(4, 0), plane!(1, 4)),
            6 => C::join::<4>(plane!(4, 0), plane!(2, 4)),
            7 => C::join::<6>(C::join::<4>(plane!(4, 0), plane!(2, 4)), plane!(1, 6)),
            _ => C::load(block.add(64 * STEP as usize)),
        }
    }
}

/// Bytes ahead of the codes being multiplied that the next are asked for, into the first cache
/// and from memory into the second. A core of Zen 4 has 24 lines under way to the first, too few for
/// DRAM, and 48 to the second: with one distance of 2 to 8 KiB for both, batches of 1 and 8
/// took 1.1 to 1.2 times as long. Half to twice these are alike.
const NEAR: usize = 1024;
const FAR: usize = 8192;

/// Asks for what comes after a line of codes.
#[inline(always)]
fn prefetch_ahead(line: *const u8) {
    prefetch::first(line.wrapping_add(NEAR));
    prefetch::second(line.wrapping_add(FAR));
}

/// What is multiplied in one go: `NT` tiles, the first and every `apart`th after it, with the
/// rows of activations from `row` on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    tile: usize,
    apart: usize,
    row: usize,
}

/// Where a product of `NT` tiles and a piece of `NB` rows stands: a group of columns after the
/// other.
struct Cursor {
    /// Codes of the first tile, and bytes to those of the next.
    codes: *const u8,
    code_apart: usize,
    /// Scales of the first tile's group, if there are any, and bytes to those of the next.
    head: *const u8,
    head_apart: usize,
    head_bytes: usize,
    /// Groups of activations that share a scale of the weights, and how many of them are left.
    per_head: usize,
    heads_left: usize,
    /// Codes, scales and offsets of the piece.
    xs: *const i8,
    scales: *const f32,
    offsets: *const i32,
    /// Sums of the first tile, and how many lie before those of the next.
    out: *mut [f32; TILE_ROWS],
    out_apart: usize,
    /// Blocks of 32 columns of a group, and all that are left.
    group_blocks: usize,
    blocks_left: usize,
}

impl Cursor {
    /// At the first group of `part`. What the pointers are good for until
    /// [`blocks`](Self::blocks) ends: blocks of codes in each tile and in the piece, a scale
    /// and an offset of each row for each group, a head of each tile for each of its groups if
    /// there are scales, and `NB` sums of each tile.
    #[inline(always)]
    fn new<const NB: usize, const NT: usize>(
        w: &Tiles<'_>,
        x: &Activations<'_>,
        part: &Part,
        out: &mut [[f32; TILE_ROWS]],
    ) -> Self {
        let Part { tile, apart, row } = *part;
        let last = tile + (NT - 1) * apart;
        let groups = w.cols.div_ceil(x.group);
        assert!(w.cols == x.cols && w.cols.is_multiple_of(32) && x.group.is_multiple_of(32));
        assert!(w.holds(last) && last * x.rows + row + NB <= out.len());
        assert!((row + NB) * x.cols <= x.codes.len());
        assert!((row + NB) * groups <= x.scales.len() && (row + NB) * groups <= x.offsets.len());
        let per_head = match w.group >= w.cols {
            true => usize::MAX,
            false => w.group / x.group,
        };
        // SAFETY: by the assertions, these are within the slices; scales may be none.
        unsafe {
            Self {
                codes: w.codes.as_ptr().add(tile * w.code_stride),
                code_apart: apart * w.code_stride,
                head: w.scales.as_ptr().wrapping_add(tile * w.scale_stride),
                head_apart: apart * w.scale_stride,
                head_bytes: w.head_bytes(),
                per_head,
                heads_left: per_head,
                xs: x.codes.as_ptr().add(row * x.cols),
                scales: x.scales.as_ptr().add(row * groups),
                offsets: x.offsets.as_ptr().add(row * groups),
                out: out.as_mut_ptr().add(tile * x.rows + row),
                out_apart: apart * x.rows,
                group_blocks: x.group / 32,
                blocks_left: w.cols / 32,
            }
        }
    }

    /// Blocks of this group, 0 after the last.
    #[inline(always)]
    fn blocks(&mut self) -> usize {
        let blocks = self.blocks_left.min(self.group_blocks);
        self.blocks_left -= blocks;
        blocks
    }

    /// Past a number of columns, whose codes take `bytes` in a tile.
    #[inline(always)]
    fn pass<const NB: usize>(&mut self, bytes: usize, cols: usize) {
        self.codes = self.codes.wrapping_add(bytes);
        self.xs = self.xs.wrapping_add(cols * NB);
    }

    /// Past the scales of a group.
    #[inline(always)]
    fn pass_group<const NB: usize>(&mut self) {
        self.heads_left -= 1;
        if self.heads_left == 0 {
            self.head = self.head.wrapping_add(self.head_bytes);
            self.heads_left = self.per_head;
        }
        self.scales = self.scales.wrapping_add(NB);
        self.offsets = self.offsets.wrapping_add(NB);
    }
}

/// Adds the product of `NT` tiles and a piece of `NB` rows to `out[tile · rows + row]`.
#[inline(always)]
unsafe fn multiply<L: Lines, const BITS: u32, const NB: usize, const NT: usize>(
    w: &Tiles<'_>,
    x: &Activations<'_>,
    part: &Part,
    out: &mut [[f32; TILE_ROWS]],
) {
    let signed = BITS == 8 && L::SIGNED_8;
    let block_bytes = 64 * BITS as usize;
    assert!(w.bits == BITS);
    let mut at = Cursor::new::<NB, NT>(w, x, part, out);
    // SAFETY: `Lines` may be used (the caller's); `Cursor` says what its pointers are good for.
    unsafe {
        let unit = L::splat_f32(w.multiplier);
        let mut total = [[unit; NB]; NT];
        for t in 0..NT {
            for b in 0..NB {
                total[t][b] = L::load_f32(&*at.out.add(t * at.out_apart + b));
            }
        }
        loop {
            let mut blocks = at.blocks();
            if blocks == 0 {
                break;
            }
            let mut acc = [[L::splat(0); NB]; NT];
            for b in 0..NB {
                let mut offset = *at.offsets.add(b);
                if signed {
                    // Opened from fewer bits: what `dot8` subtracts is too much.
                    offset -= offset / w.half * 128;
                }
                for t in 0..NT {
                    acc[t][b] = L::splat(offset);
                }
            }
            if L::add_blocks::<BITS, NB, NT>(&mut acc, at.codes, at.code_apart, at.xs, blocks) {
                at.pass::<NB>(blocks * block_bytes, blocks * 32);
                blocks = 0;
            }
            for _ in 0..blocks {
                macro_rules! step {
                    ($($s:literal)*) => {$({
                        let mut lines = [open_line::<L::Codes, BITS, $s>(at.codes); NT];
                        for t in 1..NT {
                            let codes = at.codes.add(t * at.code_apart);
                            lines[t] = open_line::<L::Codes, BITS, $s>(codes);
                        }
                        for b in 0..NB {
                            let four = L::four(at.xs, $s * NB + b);
                            for t in 0..NT {
                                acc[t][b] = match BITS {
                                    8 => L::dot8(acc[t][b], lines[t], four),
                                    _ => L::dot(acc[t][b], lines[t], four),
                                };
                            }
                        }
                    })*};
                }
                for t in 0..NT {
                    for line in 0..BITS as usize {
                        let line = at.codes.wrapping_add(t * at.code_apart + 64 * line);
                        prefetch_ahead(line);
                    }
                }
                step!(0 1 2 3 4 5 6 7);
                at.pass::<NB>(block_bytes, 32);
            }
            for t in 0..NT {
                let head = at.head.wrapping_add(t * at.head_apart);
                let (mut s, mut z) = (unit, L::splat_f32(w.offset));
                if !w.scales.is_empty() {
                    // Scales are read some eight times slower than codes.
                    prefetch::first(head.wrapping_add(NEAR / 8));
                    prefetch::second(head.wrapping_add(FAR / 8));
                    s = L::mul(L::load_f16(head), unit);
                    if w.zeros {
                        z = L::load_f16(head.add(2 * TILE_ROWS));
                    }
                }
                for b in 0..NB {
                    let scale = *at.scales.add(b);
                    let both = L::mul(s, L::splat_f32(scale));
                    total[t][b] = L::fma(L::to_floats(acc[t][b]), both, total[t][b]);
                    if w.zeros {
                        // A power of two: this is the sum itself.
                        let codes = *at.offsets.add(b) as f32 / -(w.half as f32) * scale;
                        total[t][b] = L::fma(L::mul(z, unit), L::splat_f32(codes), total[t][b]);
                    }
                }
            }
            at.pass_group::<NB>();
        }
        for t in 0..NT {
            for b in 0..NB {
                L::store(total[t][b], &mut *at.out.add(t * at.out_apart + b));
            }
        }
    }
}

/// Tiles of so many bytes that are multiplied together by `rows` rows of activations, of which
/// `most` go at once: a quarter of a second-level cache, but for those that meet one piece only.
pub fn tiles_at_once(code_bytes: usize, rows: usize, most: usize) -> usize {
    match piece(rows, most, 0).1 == rows {
        true => usize::MAX,
        false => ((256 << 10) / code_bytes.max(1)).clamp(1, 16),
    }
}

/// Some tiles with the piece of `NB` rows from `row` on.
struct Piece<'a, 'b, L: Lines, const BITS: u32, const NB: usize> {
    w: &'a Tiles<'b>,
    tiles: Range<usize>,
    x: &'a Activations<'b>,
    row: usize,
    out: &'a mut [[f32; TILE_ROWS]],
    set: PhantomData<L>,
}

impl<L: Lines, const BITS: u32, const NB: usize> Piece<'_, '_, L, BITS, NB> {
    /// Multiplies tiles `NT` at a time, which lie as far apart as they can: memory gives several
    /// streams of addresses more than one. Less than `NT` are left.
    #[inline(always)]
    unsafe fn take<const NT: usize>(&mut self) {
        let apart = self.tiles.len() / NT;
        let from = self.tiles.start;
        self.tiles.start += NT * apart;
        for tile in from..from + apart {
            let row = self.row;
            let part = Part { tile, apart, row };
            // SAFETY: the caller's.
            unsafe {
                match const { L::TALL && BITS == 8 && NB >= 8 && NT == 2 } {
                    true => L::tall::<NB>(self.w, self.x, &part, self.out),
                    false => multiply::<L, BITS, NB, NT>(self.w, self.x, &part, self.out),
                }
            }
        }
    }
}

impl<L: Lines, const BITS: u32, const NB: usize> Task for Piece<'_, '_, L, BITS, NB> {
    #[inline(always)]
    unsafe fn run(mut self) {
        let wide = self.x.group >= WIDE_GROUP && !self.w.zeros;
        // SAFETY: the caller's.
        unsafe {
            match NB {
                1..=3 => self.take::<4>(),
                8.. if L::TALL && BITS == 8 && wide => self.take::<2>(),
                _ => {}
            }
            self.take::<1>();
        }
    }
}

/// All tiles of `w` with all rows of `x`: `out[t·rows + b]`.
#[inline(always)]
unsafe fn multiply_all<L: Lines, const BITS: u32>(
    w: &Tiles<'_>,
    x: &Activations<'_>,
    out: &mut [[f32; TILE_ROWS]],
) {
    let (rows, tiles) = (x.rows, out.len() / x.rows);
    // Some tiles at a time, all of which a piece of activations meets before the next.
    let at_once = tiles_at_once(w.code_stride, rows, L::BATCH);
    let mut from = 0;
    while from < tiles {
        let to = tiles.min(from.saturating_add(at_once));
        let mut b = 0;
        macro_rules! pieces {
            ($($n:literal),*) => {$(
                // A constant: compilers make code of what a comparison guards.
                while const { $n <= L::BATCH } && rows - b >= $n {
                    // SAFETY: the caller's.
                    unsafe {
                        L::call(Piece::<L, BITS, $n> {
                            w,
                            tiles: from..to,
                            x,
                            row: b,
                            out: &mut *out,
                            set: PhantomData,
                        });
                    }
                    b += $n;
                }
            )*};
        }
        pieces!(12, 8, 6, 4, 3, 2, 1);
        from = to;
    }
}

/// `multiply_all` for the width of the codes.
#[inline(always)]
unsafe fn tiles_body<L: Lines>(w: &Tiles<'_>, x: &Activations<'_>, out: &mut [[f32; TILE_ROWS]]) {
    assert!(x.rows > 0 && out.len().is_multiple_of(x.rows));
    assert!(w.group.is_multiple_of(x.group) || w.group >= w.cols);
    // SAFETY: the caller's.
    unsafe {
        match w.bits {
            2 => multiply_all::<L, 2>(w, x, out),
            3 => multiply_all::<L, 3>(w, x, out),
            4 => multiply_all::<L, 4>(w, x, out),
            5 => multiply_all::<L, 5>(w, x, out),
            6 => multiply_all::<L, 6>(w, x, out),
            7 => multiply_all::<L, 7>(w, x, out),
            _ => multiply_all::<L, 8>(w, x, out),
        }
    }
}

/// Squared, how much larger than its mean the greatest magnitude of a group may be for
/// groups to be given one scale: for Gaussian weights it is 1.9, and what rounding to
/// `bound/127` adds lies at −42 dB; at 4.3 it lies at −38 dB at the worst.
const NARROW_CREST: f32 = 4.3;

/// Codes of one tile as int8 with one scale for [`WIDE_GROUP`] columns; see
/// [`KernelSet::dot_narrow`](super::KernelSet::dot_narrow).
#[inline(always)]
unsafe fn narrow_body<L: Lines>(w: &Tiles<'_>, codes: &mut [u8], scales: &mut [u8]) -> bool {
    // SAFETY: the caller's.
    unsafe {
        match w.bits {
            2 => narrow_bits::<L, 2>(w, codes, scales),
            3 => narrow_bits::<L, 3>(w, codes, scales),
            4 => narrow_bits::<L, 4>(w, codes, scales),
            5 => narrow_bits::<L, 5>(w, codes, scales),
            6 => narrow_bits::<L, 6>(w, codes, scales),
            7 => narrow_bits::<L, 7>(w, codes, scales),
            _ => narrow_bits::<L, 8>(w, codes, scales),
        }
    }
}

/// Sixteen f16 as f32.
#[inline(always)]
fn scales_of(head: &[u8; 2 * TILE_ROWS]) -> [f32; TILE_ROWS] {
    let mut out = [0.0f32; TILE_ROWS];
    for r in 0..TILE_ROWS {
        out[r] = from_f16(u16::from_le_bytes([head[2 * r], head[2 * r + 1]]));
    }
    out
}

#[inline(always)]
unsafe fn narrow_bits<L: Lines, const BITS: u32>(
    w: &Tiles<'_>,
    codes: &mut [u8],
    scales: &mut [u8],
) -> bool {
    const BLOCK: usize = 32 * TILE_ROWS;
    assert!(w.holds(0) && !w.zeros && !w.scales.is_empty());
    assert!(WIDE_GROUP.is_multiple_of(w.group) && w.cols.is_multiple_of(32));
    assert!(codes.len() == w.cols * TILE_ROWS);
    assert!(scales.len() == w.cols.div_ceil(WIDE_GROUP) * 2 * TILE_ROWS);
    let half = w.half as f32;
    let shift = 7 - w.half.trailing_zeros();
    let heads = w.scales.chunks(WIDE_GROUP / w.group * 2 * TILE_ROWS);
    let out = codes.chunks_mut(WIDE_GROUP * TILE_ROWS);
    let blocks = w.codes.chunks(WIDE_GROUP * BITS as usize / 8 * TILE_ROWS);
    for (((out, scales), heads), blocks) in out
        .zip(scales.chunks_exact_mut(2 * TILE_ROWS))
        .zip(heads)
        .zip(blocks)
    {
        // Groups that there are: the last of a tile may not be whole.
        let groups = (out.len() / TILE_ROWS).div_ceil(w.group);
        let heads = &heads.as_chunks::<{ 2 * TILE_ROWS }>().0[..groups];
        let (mut most, mut squares) = ([0.0f32; TILE_ROWS], [0.0f32; TILE_ROWS]);
        for head in heads {
            let s = scales_of(head);
            for r in 0..TILE_ROWS {
                let s = s[r].abs() * half;
                most[r] = if s > most[r] { s } else { most[r] };
                squares[r] += s * s;
            }
        }
        let mut inverse = [0.0f32; TILE_ROWS];
        for r in 0..TILE_ROWS {
            if most[r] * most[r] * groups as f32 > NARROW_CREST * squares[r] {
                return false;
            }
            let s = f16::from_f32(most[r] * (1.0 / 127.0));
            scales[2 * r..2 * r + 2].copy_from_slice(&s.to_le_bytes());
            let s = from_f16(s.to_bits());
            inverse[r] = if s > 0.0 { half * 256.0 / s } else { 0.0 };
        }
        let per_group = w.group * TILE_ROWS;
        let groups = out
            .chunks_mut(per_group)
            .zip(blocks.chunks(per_group / 8 * BITS as usize));
        for ((out, blocks), head) in groups.zip(heads) {
            // A code c, times 128/half, times this over 2^15, is c in the new step. Less
            // than 2^15, unless the step was rounded down to a subnormal.
            let s = scales_of(head);
            let mut ratio = [0i16; 2 * TILE_ROWS];
            for r in 0..TILE_ROWS {
                let to = (s[r] * inverse[r]).clamp(-32767.0, 32767.0) as i16;
                ratio[2 * r] = to;
                ratio[2 * r + 1] = to;
            }
            let blocks = blocks.chunks_exact(BLOCK / 8 * BITS as usize);
            for (out, block) in out.as_chunks_mut::<BLOCK>().0.iter_mut().zip(blocks) {
                let lines = out.as_chunks_mut::<{ 4 * TILE_ROWS }>().0;
                macro_rules! step {
                    ($($s:literal)*) => {$({
                        // SAFETY: `Lines` may be used (the caller's); a block is there.
                        unsafe {
                            let line = open_line::<L::Codes, BITS, $s>(block.as_ptr());
                            let line = L::rescale(line, w.half, shift, &ratio);
                            L::store_codes(line, &mut lines[$s]);
                        }
                    })*};
                }
                step!(0 1 2 3 4 5 6 7);
            }
        }
    }
    true
}

/// Products of tiles; see [`KernelSet::dot_tiles`](super::KernelSet::dot_tiles).
pub(crate) mod tiles {
    use super::*;

    pub(crate) fn portable(w: &Tiles<'_>, x: &Activations<'_>, out: &mut [[f32; TILE_ROWS]]) {
        // SAFETY: `Portable` needs nothing.
        unsafe { tiles_body::<Portable>(w, x, out) }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,popcnt,lzcnt")]
    pub(crate) fn avx2(w: &Tiles<'_>, x: &Activations<'_>, out: &mut [[f32; TILE_ROWS]]) {
        // SAFETY: the function's features are those of `Avx2`.
        unsafe { tiles_body::<x86::Avx2>(w, x, out) }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(
        enable = "avx2,fma,f16c,bmi1,bmi2,popcnt,lzcnt,avx512f,avx512bw,avx512vl,avx512dq,avx512cd,avx512vnni"
    )]
    pub(crate) fn avx512vnni(w: &Tiles<'_>, x: &Activations<'_>, out: &mut [[f32; TILE_ROWS]]) {
        // SAFETY: the function's features are those of `Vnni`.
        unsafe { tiles_body::<x86::Vnni>(w, x, out) }
    }

    #[cfg(target_arch = "aarch64")]
    #[target_feature(enable = "neon,dotprod")]
    pub(crate) fn neon(w: &Tiles<'_>, x: &Activations<'_>, out: &mut [[f32; TILE_ROWS]]) {
        // SAFETY: the function's features are those of `Neon` without `I8MM`.
        unsafe { tiles_body::<neon::Neon<false>>(w, x, out) }
    }

    #[cfg(target_arch = "aarch64")]
    #[target_feature(enable = "neon,dotprod,i8mm")]
    pub(crate) fn neoni8mm(w: &Tiles<'_>, x: &Activations<'_>, out: &mut [[f32; TILE_ROWS]]) {
        // SAFETY: the function's features are those of `Neon` with `I8MM`.
        unsafe { tiles_body::<neon::Neon<true>>(w, x, out) }
    }
}

/// One scale for many groups; see [`KernelSet::dot_narrow`](super::KernelSet::dot_narrow).
pub(crate) mod narrow {
    use super::*;

    /// Whether codes of `bits` gain by it in large batches.
    pub(crate) fn pays(_bits: u32) -> bool {
        true
    }

    /// With AVX2 codes of few bits are multiplied faster than int8, scales of their groups
    /// included: their sums stay in 16 bits.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn pays_avx2(bits: u32) -> bool {
        bits > 6
    }

    pub(crate) fn portable(w: &Tiles<'_>, codes: &mut [u8], scales: &mut [u8]) -> bool {
        // SAFETY: `Portable` needs nothing.
        unsafe { narrow_body::<Portable>(w, codes, scales) }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,popcnt,lzcnt")]
    pub(crate) fn avx2(w: &Tiles<'_>, codes: &mut [u8], scales: &mut [u8]) -> bool {
        // SAFETY: the function's features are those of `Avx2`.
        unsafe { narrow_body::<x86::Avx2>(w, codes, scales) }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(
        enable = "avx2,fma,f16c,bmi1,bmi2,popcnt,lzcnt,avx512f,avx512bw,avx512vl,avx512dq,avx512cd,avx512vnni"
    )]
    pub(crate) fn avx512vnni(w: &Tiles<'_>, codes: &mut [u8], scales: &mut [u8]) -> bool {
        // SAFETY: the function's features are those of `Vnni`.
        unsafe { narrow_body::<x86::Vnni>(w, codes, scales) }
    }

    #[cfg(target_arch = "aarch64")]
    pub(crate) fn neon(w: &Tiles<'_>, codes: &mut [u8], scales: &mut [u8]) -> bool {
        // SAFETY: NEON without dot products, which every AArch64 CPU has, is enough here.
        unsafe { narrow_body::<neon::Neon<false>>(w, codes, scales) }
    }
}

/// What rounding a row of activations found.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rounded {
    /// Whether all were finite; if not, codes and scales are of no use.
    pub finite: bool,
    /// What the error of the first digit squared is expected to be, `Σ step²/12`; in
    /// groups of [`WIDE_GROUP`] only.
    pub noise: f64,
    /// `Σ x²`; in such groups only.
    pub energy: f64,
}

/// Where the codes of rows go: a whole number of pieces.
#[derive(Debug)]
pub struct Rounding<'a> {
    /// As [`Activations::group`].
    pub group: usize,
    /// Columns of the matrix.
    pub width: usize,
    /// Digits, each a row of the pieces: 1 or [`EXACT_DIGITS`].
    pub digits: usize,
    /// What codes of the weights are above what they stand for.
    pub half: i32,
    /// The most rows of a piece.
    pub most: usize,
    /// As in [`Activations`].
    pub codes: &'a mut [i8],
    /// As in [`Activations`].
    pub scales: &'a mut [f32],
    /// As in [`Activations`].
    pub offsets: &'a mut [i32],
}

/// Sixteen at a time: a register of AVX-512, two of AVX2.
const LANES: usize = 16;

/// Bits of the largest magnitude: those of an infinity or more if a value is not finite.
#[inline(always)]
fn largest(x: &[f32]) -> u32 {
    // Magnitudes as integers are in the order of the floats, with NaN on top. Not in lanes of our
    // own: compilers gather those.
    x.iter()
        .map(|v| v.to_bits() & 0x7fff_ffff)
        .fold(0, u32::max)
}

/// `Σ x²`.
#[inline(always)]
fn energy(x: &[f32]) -> f64 {
    let mut squares = [0.0f32; LANES];
    let (whole, rest) = x.as_chunks::<LANES>();
    for v in whole {
        for l in 0..LANES {
            squares[l] += v[l] * v[l];
        }
    }
    for (l, v) in rest.iter().enumerate() {
        squares[l] += v * v;
    }
    // Halves onto each other: sums in a row would wait for one another.
    let mut step = LANES / 2;
    while step > 0 {
        for l in 0..step {
            squares[l] += squares[l + step];
        }
        step /= 2;
    }
    f64::from(squares[0])
}

/// Rows that are rounded in one call at most.
pub const ROUNDED_AT_ONCE: usize = 48;

/// Rounds rows, which begin every `stride` values of `x`; one `found` each.
#[inline(always)]
fn round_body(x: &[f32], stride: usize, to: &mut Rounding<'_>, found: &mut [Rounded]) {
    match to.digits {
        1 => round_digits::<1>(x, stride, to, found),
        _ => round_digits::<EXACT_DIGITS>(x, stride, to, found),
    }
}

/// Splits sixteen activations, in units of their scale, into digits, and puts those where
/// their rows lie.
#[inline(always)]
fn digits_of<const D: usize>(
    mut left: [f32; LANES],
    places: &[(usize, usize, usize)],
    cols: usize,
    at: usize,
    codes: &mut [i8],
    sums: &mut [[i32; LANES]; D],
) {
    for d in 0..D {
        let mut q = [0i32; LANES];
        for l in 0..LANES {
            let moved = left[l] + MAGIC;
            // The integer stands in the low bits.
            q[l] = moved.to_bits().wrapping_sub(MAGIC.to_bits()) as i32;
            left[l] = (left[l] - (moved - MAGIC)) * 254.0;
            sums[d][l] = sums[d][l].wrapping_add(q[l]);
        }
        let mut bytes = [0i8; LANES];
        for l in 0..LANES {
            bytes[l] = q[l] as i8;
        }
        let (first, n, b) = places[d];
        let from = first * cols + (at / 4 * n + b) * 4;
        let out = &mut codes[from..from + (LANES / 4 - 1) * 4 * n + 4];
        for (k, four) in bytes.as_chunks::<4>().0.iter().enumerate() {
            out[4 * k * n..][..4].copy_from_slice(four);
        }
    }
}

#[inline(always)]
fn round_digits<const D: usize>(
    x: &[f32],
    stride: usize,
    to: &mut Rounding<'_>,
    found: &mut [Rounded],
) {
    let (group, width) = (to.group, to.width);
    let cols = width.next_multiple_of(32);
    let groups = cols.div_ceil(group);
    let rows = found.len() * D;
    assert!(to.digits == D && rows <= ROUNDED_AT_ONCE);
    assert!(to.codes.len() == rows * cols);
    assert!(to.scales.len() == rows * groups && to.offsets.len() == rows * groups);
    let mut places = [(0, 0, 0); ROUNDED_AT_ONCE];
    for (row, place) in places[..rows].iter_mut().enumerate() {
        let (first, n) = piece(rows, to.most, row);
        *place = (first, n, row - first);
    }
    found.fill(Rounded {
        finite: true,
        ..Rounded::default()
    });
    // Columns outside: what rows of a piece write to the same lines stays in the cache.
    for g in 0..groups {
        let (start, end) = (g * group, cols.min((g + 1) * group));
        for (row, found) in found.iter_mut().enumerate() {
            let x = &x[row * stride..][..width][start.min(width)..end.min(width)];
            let most = largest(x);
            found.finite &= most < f32::INFINITY.to_bits();
            let most = f32::from_bits(most);
            if group == WIDE_GROUP {
                found.energy += energy(x);
                found.noise +=
                    f64::from(most) * f64::from(most) * (x.len() as f64 / (12.0 * 127.0 * 127.0));
            }
            // Denormal activations are brought to where their reciprocal is finite.
            let up = if most < 1e-30 {
                1.0 / f32::MIN_POSITIVE
            } else {
                1.0
            };
            let inverse = if most > 0.0 { 127.0 / (most * up) } else { 0.0 };
            let mut sums = [[0i32; LANES]; D];
            let (whole, rest) = x.as_chunks::<LANES>();
            let mut at = start;
            for v in whole {
                let mut left = [0.0f32; LANES];
                for l in 0..LANES {
                    left[l] = (v[l] * up) * inverse;
                }
                digits_of::<D>(left, &places[row * D..], cols, at, to.codes, &mut sums);
                at += LANES;
            }
            // What is left of the row, and zeros up to its end.
            while at < end {
                let mut left = [0.0f32; LANES];
                if at == start + whole.len() * LANES {
                    for (left, v) in left.iter_mut().zip(rest) {
                        *left = (*v * up) * inverse;
                    }
                }
                digits_of::<D>(left, &places[row * D..], cols, at, to.codes, &mut sums);
                at += LANES;
            }
            let mut scale = most * (1.0 / 127.0);
            for d in 0..D {
                let (first, n, b) = places[row * D + d];
                let place = first * groups + g * n + b;
                to.scales[place] = scale;
                // Wrapping: what is not finite gives any number here.
                let sum = sums[d].iter().fold(0i32, |a, b| a.wrapping_add(*b));
                to.offsets[place] = sum.wrapping_mul(-to.half);
                scale *= 1.0 / 254.0;
            }
        }
    }
}

autovec! {
    /// Rounds rows of activations.
    round = round_body; fn(x: &[f32], stride: usize, to: &mut Rounding<'_>, found: &mut [Rounded])
}

/// Rows of activations that are multiplied at once.
pub(crate) mod batch {
    use super::Lines;

    pub(crate) fn portable() -> usize {
        super::Portable::BATCH
    }

    #[cfg(target_arch = "x86_64")]
    pub(crate) fn avx2() -> usize {
        super::x86::Avx2::BATCH
    }

    #[cfg(target_arch = "x86_64")]
    pub(crate) fn avx512vnni() -> usize {
        super::x86::Vnni::BATCH
    }

    #[cfg(target_arch = "aarch64")]
    pub(crate) fn neon() -> usize {
        super::neon::Neon::<false>::BATCH
    }
}
