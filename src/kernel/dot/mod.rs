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

use super::autovec;
use super::quant::{MAGIC, Quantizer, TILE_ROWS};

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

/// Rows of activations as codes, in pieces: of 12, 8, 4, 2 or 1 rows, as many of the
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
    for n in [12, 8, 4, 2, 1] {
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
    /// Batch rows that go through one tile at once, and through two.
    const BATCH: usize;

    /// Four activations for all rows: those numbered `index` of a block, which has `8` times
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
    unsafe fn prefetch(at: *const u8);

    /// Adds the products of `blocks` blocks of 32 columns, as they lie one after another in
    /// a tile and in a piece of `NB` rows.
    #[inline(always)]
    unsafe fn add_blocks<const BITS: u32, const NB: usize>(
        sums: [Self::Sums; NB],
        codes: *const u8,
        xs: *const i8,
        blocks: usize,
    ) -> [Self::Sums; NB] {
        // SAFETY: the caller's.
        unsafe { by_steps::<Self, BITS, NB>(sums, codes, xs, blocks) }
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

/// Bytes ahead of the codes being multiplied that the next ones are asked for: with less,
/// one core does not keep enough lines of DRAM in flight; measured 2 to 8 KiB alike.
const AHEAD: usize = 4096;

/// Four columns at a time: a line with the activations of each row of the piece.
#[inline(always)]
unsafe fn by_steps<L: Lines, const BITS: u32, const NB: usize>(
    mut sums: [L::Sums; NB],
    mut codes: *const u8,
    mut xs: *const i8,
    blocks: usize,
) -> [L::Sums; NB] {
    // SAFETY: `Lines` may be used, and so many blocks are there (the caller's).
    unsafe {
        for _ in 0..blocks {
            macro_rules! rows {
                ($s:literal, $line:ident, $($b:literal)*) => {$(
                    if $b < NB {
                        let four = L::four(xs, $s * NB + $b);
                        sums[$b] = match BITS {
                            8 => L::dot8(sums[$b], $line, four),
                            _ => L::dot(sums[$b], $line, four),
                        };
                    }
                )*};
            }
            macro_rules! step {
                ($s:literal) => {{
                    let line = open_line::<L::Codes, BITS, $s>(codes);
                    rows!($s, line, 0 1 2 3 4 5 6 7 8 9 10 11);
                }};
            }
            for line in 0..BITS as usize {
                L::prefetch(codes.wrapping_add(AHEAD + 64 * line));
            }
            step!(0);
            step!(1);
            step!(2);
            step!(3);
            step!(4);
            step!(5);
            step!(6);
            step!(7);
            codes = codes.add(64 * BITS as usize);
            xs = xs.add(32 * NB);
        }
    }
    sums
}

/// One tile with the piece of `NB` rows of activations from `first` on. Two tiles at once
/// would load activations half as often, and spill: measured at less than half the rate.
#[inline(always)]
unsafe fn multiply<L: Lines, const BITS: u32, const NB: usize>(
    w: &Tiles<'_>,
    tile: usize,
    x: &Activations<'_>,
    first: usize,
    out: &mut [[f32; TILE_ROWS]],
) {
    let groups = w.cols.div_ceil(x.group);
    let signed = BITS == 8 && L::SIGNED_8;
    let block_bytes = 64 * BITS as usize;
    assert!(w.cols == x.cols && w.cols.is_multiple_of(32) && x.group.is_multiple_of(32));
    assert!(w.holds(tile));
    assert!((first + NB) * x.cols <= x.codes.len());
    assert!((first + NB) * groups <= x.scales.len() && (first + NB) * groups <= x.offsets.len());
    assert!(out.len() >= NB);
    // Groups of activations that share a scale of the weights.
    let per_head = if w.group >= w.cols {
        usize::MAX
    } else {
        w.group / x.group
    };
    // SAFETY: `Lines` may be used (the caller's); every offset below stays within the
    // slices by the assertions above: codes are read by blocks of 32 columns up to `cols`
    // of each tile and of the piece, scales up to `groups` of each, heads up to that of the
    // last group. A prefetch reads nothing.
    unsafe {
        let mut codes = w.codes.as_ptr().add(tile * w.code_stride);
        let mut head = w.scales.as_ptr().wrapping_add(tile * w.scale_stride);
        let head_bytes = w.head_bytes();
        let mut heads_left = per_head;
        let mut xs = x.codes.as_ptr().add(first * x.cols);
        let mut scales = x.scales.as_ptr().add(first * groups);
        let mut offsets = x.offsets.as_ptr().add(first * groups);
        let unit = L::splat_f32(w.multiplier);
        let mut total = [unit; NB];
        for b in 0..NB {
            total[b] = L::load_f32(&out[b]);
        }
        let mut left = w.cols / 32;
        while left > 0 {
            let blocks = left.min(x.group / 32);
            left -= blocks;
            let mut acc = [L::splat(0); NB];
            if !signed {
                for b in 0..NB {
                    acc[b] = L::splat(*offsets.add(b));
                }
            } else if w.half != 128 {
                // Opened from fewer bits: what `dot8` subtracts is too much.
                for b in 0..NB {
                    acc[b] = L::splat(*offsets.add(b) - *offsets.add(b) / w.half * 128);
                }
            }
            acc = L::add_blocks::<BITS, NB>(acc, codes, xs, blocks);
            codes = codes.add(blocks * block_bytes);
            xs = xs.add(blocks * 32 * NB);
            let (mut s, mut z) = (unit, L::splat_f32(w.offset));
            if !w.scales.is_empty() {
                L::prefetch(head.wrapping_add(AHEAD / 8));
                s = L::mul(L::load_f16(head), unit);
                if w.zeros {
                    z = L::load_f16(head.add(2 * TILE_ROWS));
                }
            }
            for b in 0..NB {
                let both = L::mul(s, L::splat_f32(*scales.add(b)));
                total[b] = L::fma(L::to_floats(acc[b]), both, total[b]);
            }
            if w.zeros {
                let z = L::mul(z, unit);
                for b in 0..NB {
                    // A power of two: this is the sum itself.
                    let sum = *offsets.add(b) as f32 / -(w.half as f32) * *scales.add(b);
                    total[b] = L::fma(z, L::splat_f32(sum), total[b]);
                }
            }
            heads_left -= 1;
            if heads_left == 0 {
                head = head.wrapping_add(head_bytes);
                heads_left = per_head;
            }
            scales = scales.add(NB);
            offsets = offsets.add(NB);
        }
        for b in 0..NB {
            L::store(total[b], &mut out[b]);
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
    for tile in 0..tiles {
        let mut b = 0;
        macro_rules! pieces {
            ($($n:literal),*) => {$(
                while $n <= L::BATCH && rows - b >= $n {
                    let out = &mut out[tile * rows + b..];
                    // SAFETY: the caller's; `multiply` checks every length.
                    unsafe { multiply::<L, BITS, $n>(w, tile, x, b, out) };
                    b += $n;
                }
            )*};
        }
        pieces!(12, 8, 4, 2, 1);
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

/// What rounding a row of activations found.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rounded {
    /// Whether all were finite; if not, codes and scales are of no use.
    pub finite: bool,
    /// What the error of the first digit squared is expected to be, `Σ step²/12`.
    pub noise: f64,
    /// `Σ x²`.
    pub energy: f64,
}

/// Where the codes of a row go.
#[derive(Debug)]
pub struct Rounding<'a> {
    /// As [`Activations::group`].
    pub group: usize,
    /// As [`Activations::cols`].
    pub cols: usize,
    /// Digits, each a row.
    pub digits: usize,
    /// What the sums are multiplied by for the offsets is `−half`.
    pub half: i32,
    /// Rows of the pieces together that the digits lie in.
    pub rows: usize,
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

/// Largest magnitude, whether all are finite, sum of squares.
#[inline(always)]
fn measure(x: &[f32]) -> (f32, bool, f64) {
    let (mut max, mut odd, mut squares) = ([0.0f32; LANES], [0.0f32; LANES], [0.0f32; LANES]);
    let (whole, rest) = x.as_chunks::<LANES>();
    let mut last = [0.0f32; LANES];
    last[..rest.len()].copy_from_slice(rest);
    for i in 0..=whole.len() {
        let v = if i < whole.len() { &whole[i] } else { &last };
        for l in 0..LANES {
            let a = v[l].abs();
            max[l] = if a > max[l] { a } else { max[l] };
            // Zero for finite values, NaN for others.
            odd[l] += v[l] * 0.0;
            squares[l] += v[l] * v[l];
        }
    }
    let (mut most, mut sum, mut energy) = (0.0f32, 0.0f32, 0.0f64);
    for l in 0..LANES {
        most = if max[l] > most { max[l] } else { most };
        sum += odd[l];
        energy += f64::from(squares[l]);
    }
    (most, sum == 0.0, energy)
}

/// Rounds one row; its first digit is row `row` of `to`.
#[inline(always)]
fn round_body(x: &[f32], row: usize, to: &mut Rounding<'_>) -> Rounded {
    let (group, cols) = (to.group, to.cols);
    let groups = cols.div_ceil(group);
    assert!(x.len() <= cols && cols - x.len() < 32 && cols.is_multiple_of(32));
    assert!(to.digits <= EXACT_DIGITS && row + to.digits <= to.rows);
    assert!(to.codes.len() == to.rows * cols);
    assert!(to.scales.len() == to.rows * groups && to.offsets.len() == to.rows * groups);
    let mut found = Rounded {
        finite: true,
        ..Rounded::default()
    };
    let mut places = [(0, 0, 0); EXACT_DIGITS];
    for d in 0..to.digits {
        let (first, n) = piece(to.rows, to.most, row + d);
        places[d] = (first, n, row + d - first);
    }
    for g in 0..groups {
        let x = &x[(g * group).min(x.len())..((g + 1) * group).min(x.len())];
        let (most, finite, energy) = measure(x);
        found.finite &= finite;
        found.energy += energy;
        found.noise += f64::from(most) * f64::from(most) * x.len() as f64 / (12.0 * 127.0 * 127.0);
        // Denormal activations are brought to where their reciprocal is finite.
        let up = if most < 1e-30 {
            1.0 / f32::MIN_POSITIVE
        } else {
            1.0
        };
        let inverse = if most > 0.0 { 127.0 / (most * up) } else { 0.0 };
        let mut sums = [[0i32; LANES]; EXACT_DIGITS];
        let end = cols.min((g + 1) * group);
        let mut at = g * group;
        while at < end {
            let mut left = [0.0f32; LANES];
            let have = &x[(at - g * group).min(x.len())..];
            match have.first_chunk::<LANES>() {
                Some(all) => left = *all,
                None => left[..have.len()].copy_from_slice(have),
            }
            for v in &mut left {
                *v = (*v * up) * inverse;
            }
            for d in 0..to.digits {
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
                for (k, four) in bytes.as_chunks::<4>().0.iter().enumerate() {
                    let place = first * cols + ((at / 4 + k) * n + b) * 4;
                    to.codes[place..place + 4].copy_from_slice(four);
                }
            }
            at += LANES;
        }
        let mut scale = most / 127.0;
        for d in 0..to.digits {
            let (first, n, b) = places[d];
            let place = first * groups + g * n + b;
            to.scales[place] = scale;
            // Wrapping: what is not finite gives any number here.
            let sum = sums[d].iter().fold(0i32, |a, b| a.wrapping_add(*b));
            to.offsets[place] = sum.wrapping_mul(-to.half);
            scale /= 254.0;
        }
    }
    found
}

autovec! {
    /// Rounds one row of activations.
    round = round_body; fn(x: &[f32], row: usize, to: &mut Rounding<'_>) -> Rounded
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
