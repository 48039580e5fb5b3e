//! Lines of sixteen rows in four registers of NEON.
//!
//! The instructions for sums of products came after NEON itself, and their intrinsics are
//! not stable in Rust: each stands here as one line of assembly.
//!
//! * Dot products take four columns at a time. Activations are loaded for four steps or
//!   rows at once and picked by the instruction itself: a load that copies a number to
//!   every lane takes a vector unit's time on most cores.
//! * Matrix products take two rows of the tile, eight columns, and two rows of activations:
//!   twice the products for the same time. Lines of four columns are zipped for them.

use std::arch::aarch64::*;
use std::arch::asm;

use super::{Codes, Lines, TILE_ROWS, Task, open_line, prefetch_ahead};
use crate::kernel::neon::widen_f16;

/// Dot products (Armv8.4, and many cores of Armv8.2), with `I8MM` those of unsigned by
/// signed numbers besides (Armv8.6). Without, codes of 8 bits go as signed ones.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Neon<const I8MM: bool>;

/// `sums[i] + Σ a[4i + k] · b[4 LANE + k]`, both signed.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn sdot<const LANE: usize>(mut sums: int32x4_t, a: uint8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: registers only; the function's features have the instruction.
    unsafe {
        asm!("sdot {:v}.4s, {:v}.16b, {:v}.4b[{}]",
            inout(vreg) sums, in(vreg) a, in(vreg) b, const LANE,
            options(pure, nomem, nostack, preserves_flags));
    }
    sums
}

/// `sums[i] + Σ a[4i + k] · b[4 LANE + k]`, `a` unsigned and `b` signed.
#[inline]
#[target_feature(enable = "neon,i8mm")]
fn usdot<const LANE: usize>(mut sums: int32x4_t, a: uint8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: registers only; the function's features have the instruction.
    unsafe {
        asm!("usdot {:v}.4s, {:v}.16b, {:v}.4b[{}]",
            inout(vreg) sums, in(vreg) a, in(vreg) b, const LANE,
            options(pure, nomem, nostack, preserves_flags));
    }
    sums
}

/// `sums[2i + j] + Σ a[8i + k] · b[8j + k]`, `a` unsigned and `b` signed.
#[inline]
#[target_feature(enable = "neon,i8mm")]
fn usmmla(mut sums: int32x4_t, a: uint8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: registers only; the function's features have the instruction.
    unsafe {
        asm!("usmmla {:v}.4s, {:v}.16b, {:v}.16b",
            inout(vreg) sums, in(vreg) a, in(vreg) b,
            options(pure, nomem, nostack, preserves_flags));
    }
    sums
}

/// Four registers by the lane of `x`, which is a constant once all is inlined.
macro_rules! with_lane {
    ($dot:ident, $lane:expr, $sums:expr, $codes:expr, $x:expr) => {{
        let ([a, b, c, d], [e, f, g, h], x) = ($sums, $codes, $x);
        macro_rules! four {
            ($i:literal) => {
                [
                    $dot::<$i>(a, e, x),
                    $dot::<$i>(b, f, x),
                    $dot::<$i>(c, g, x),
                    $dot::<$i>(d, h, x),
                ]
            };
        }
        match $lane {
            0 => four!(0),
            1 => four!(1),
            2 => four!(2),
            _ => four!(3),
        }
    }};
}

/// A line, or two of them zipped: in each register eight columns of two rows.
type Line<const N: usize> = [uint8x16_t; N];

// SAFETY: every instruction below needs NEON at most, which every AArch64 CPU has; of the
// bytes that the trait states a line is loaded, or two where there are two.
unsafe impl<const N: usize> Codes for Line<N> {
    #[inline(always)]
    unsafe fn load(at: *const u8) -> Self {
        // SAFETY: 64 bytes, or 128.
        unsafe {
            // Loops, not closures: those are not always inlined.
            let mut out = [vdupq_n_u8(0); N];
            if N == 4 {
                for i in 0..4 {
                    out[i] = vld1q_u8(at.add(16 * i));
                }
            } else {
                for i in 0..4 {
                    let a = vld1q_u32(at.add(16 * i).cast());
                    let b = vld1q_u32(at.add(64 + 16 * i).cast());
                    out[2 * i] = vreinterpretq_u8_u32(vzip1q_u32(a, b));
                    out[2 * i + 1] = vreinterpretq_u8_u32(vzip2q_u32(a, b));
                }
            }
            out
        }
    }

    #[inline(always)]
    unsafe fn field<const BITS: u32, const SHIFT: u32>(self) -> Self {
        // SAFETY: see the impl.
        unsafe {
            let mask = vdupq_n_u8((1u8 << BITS).wrapping_sub(1));
            let mut out = self;
            for c in &mut out {
                let down = match SHIFT {
                    0 => *c,
                    1 => vshrq_n_u8::<1>(*c),
                    2 => vshrq_n_u8::<2>(*c),
                    3 => vshrq_n_u8::<3>(*c),
                    4 => vshrq_n_u8::<4>(*c),
                    5 => vshrq_n_u8::<5>(*c),
                    6 => vshrq_n_u8::<6>(*c),
                    _ => vshrq_n_u8::<7>(*c),
                };
                *c = match BITS + SHIFT {
                    8 => down,
                    _ => vandq_u8(down, mask),
                };
            }
            out
        }
    }

    #[inline(always)]
    unsafe fn join<const SHIFT: u32>(self, high: Self) -> Self {
        // SAFETY: see the impl. The bits of `self` are below SHIFT, where they stay.
        unsafe {
            let mut out = self;
            for (low, high) in out.iter_mut().zip(high) {
                *low = match SHIFT {
                    2 => vsliq_n_u8::<2>(*low, high),
                    4 => vsliq_n_u8::<4>(*low, high),
                    6 => vsliq_n_u8::<6>(*low, high),
                    _ => vorrq_u8(*low, vshlq_u8(high, vdupq_n_s8(SHIFT as i8))),
                };
            }
            out
        }
    }
}

// SAFETY: every instruction below needs NEON, `dotprod` or, with `I8MM`, `i8mm`, which
// whoever calls `Lines` has; loads and stores are of the bytes that the trait states.
unsafe impl<const I8MM: bool> Lines for Neon<I8MM> {
    type Codes = Line<4>;
    /// Those of four steps or rows, and which are meant.
    type Four = (int8x16_t, usize);
    type Sums = [int32x4_t; 4];
    type Floats = [float32x4_t; 4];
    const SIGNED_8: bool = !I8MM;
    // Integer sums of four rows fill half of the 32 registers.
    const BATCH: usize = 4;

    #[inline(never)]
    unsafe fn call<T: Task>(task: T) {
        #[inline]
        #[target_feature(enable = "neon,dotprod")]
        unsafe fn dotprod<T: Task>(task: T) {
            // SAFETY: the caller's.
            unsafe { task.run() }
        }
        #[inline]
        #[target_feature(enable = "neon,dotprod,i8mm")]
        unsafe fn i8mm<T: Task>(task: T) {
            // SAFETY: the caller's.
            unsafe { task.run() }
        }
        // SAFETY: the caller has the features of this set.
        unsafe {
            match I8MM {
                true => i8mm(task),
                false => dotprod(task),
            }
        }
    }

    #[inline(always)]
    unsafe fn store_codes(codes: Self::Codes, out: &mut [u8; 64]) {
        // SAFETY: `out` is 64 bytes.
        unsafe {
            for i in 0..4 {
                vst1q_u8(out.as_mut_ptr().add(16 * i), codes[i]);
            }
        }
    }

    #[inline(always)]
    unsafe fn rescale(
        codes: Self::Codes,
        half: i32,
        shift: u32,
        ratio: &[i16; 2 * TILE_ROWS],
    ) -> Self::Codes {
        // SAFETY: see the impl. Two rows at a time as 16-bit numbers: a register of ratios
        // has each row's twice, and is doubled again.
        unsafe {
            let (half, shift) = (vdupq_n_u8(half as u8), vdupq_n_s16(shift as i16));
            let flip = vdupq_n_u8(128);
            let mut out = codes;
            for i in 0..4 {
                let ratio = vld1q_s16(ratio.as_ptr().add(8 * i));
                let c = vreinterpretq_s8_u8(vsubq_u8(codes[i], half));
                let low = vshlq_s16(vmovl_s8(vget_low_s8(c)), shift);
                let high = vshlq_s16(vmovl_high_s8(c), shift);
                let low = vqrdmulhq_s16(low, vzip1q_s16(ratio, ratio));
                let high = vqrdmulhq_s16(high, vzip2q_s16(ratio, ratio));
                let both = vcombine_s8(vmovn_s16(low), vmovn_s16(high));
                out[i] = veorq_u8(vreinterpretq_u8_s8(both), flip);
            }
            out
        }
    }

    #[inline(always)]
    unsafe fn four(block: *const i8, index: usize) -> Self::Four {
        // SAFETY: a block has `8 NB` times 4 bytes, which is so many times 16.
        unsafe { (vld1q_s8(block.add(index / 4 * 16)), index % 4) }
    }

    #[inline(always)]
    unsafe fn splat(v: i32) -> Self::Sums {
        // SAFETY: see the impl.
        unsafe { [vdupq_n_s32(v); 4] }
    }

    #[inline(always)]
    unsafe fn dot(sums: Self::Sums, codes: Self::Codes, (x, lane): Self::Four) -> Self::Sums {
        // SAFETY: see the impl. Codes of 7 bits are the same signed and unsigned.
        unsafe { with_lane!(sdot, lane, sums, codes, x) }
    }

    #[inline(always)]
    unsafe fn dot8(sums: Self::Sums, codes: Self::Codes, (x, lane): Self::Four) -> Self::Sums {
        // SAFETY: see the impl.
        unsafe {
            if I8MM {
                return with_lane!(usdot, lane, sums, codes, x);
            }
            let mut signed = codes;
            for c in &mut signed {
                *c = veorq_u8(*c, vdupq_n_u8(128));
            }
            Self::dot(sums, signed, (x, lane))
        }
    }

    #[inline(always)]
    unsafe fn to_floats(sums: Self::Sums) -> Self::Floats {
        // SAFETY: see the impl.
        unsafe {
            let mut out = [vdupq_n_f32(0.0); 4];
            for i in 0..4 {
                out[i] = vcvtq_f32_s32(sums[i]);
            }
            out
        }
    }

    #[inline(always)]
    unsafe fn load_f16(at: *const u8) -> Self::Floats {
        // SAFETY: 32 bytes.
        unsafe {
            let mut out = [vdupq_n_f32(0.0); 4];
            for i in 0..4 {
                out[i] = widen_f16(vreinterpret_u16_u8(vld1_u8(at.add(8 * i))));
            }
            out
        }
    }

    #[inline(always)]
    unsafe fn splat_f32(v: f32) -> Self::Floats {
        // SAFETY: see the impl.
        unsafe { [vdupq_n_f32(v); 4] }
    }

    #[inline(always)]
    unsafe fn mul(a: Self::Floats, b: Self::Floats) -> Self::Floats {
        // SAFETY: see the impl.
        unsafe {
            let mut out = a;
            for i in 0..4 {
                out[i] = vmulq_f32(a[i], b[i]);
            }
            out
        }
    }

    #[inline(always)]
    unsafe fn fma(a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats {
        // SAFETY: see the impl.
        unsafe {
            let mut out = c;
            for i in 0..4 {
                out[i] = vfmaq_f32(c[i], a[i], b[i]);
            }
            out
        }
    }

    #[inline(always)]
    unsafe fn load_f32(from: &[f32; TILE_ROWS]) -> Self::Floats {
        // SAFETY: `from` is 64 bytes.
        unsafe {
            let mut out = [vdupq_n_f32(0.0); 4];
            for i in 0..4 {
                out[i] = vld1q_f32(from.as_ptr().add(4 * i));
            }
            out
        }
    }

    #[inline(always)]
    unsafe fn store(v: Self::Floats, out: &mut [f32; TILE_ROWS]) {
        // SAFETY: `out` is 64 bytes.
        unsafe {
            for i in 0..4 {
                vst1q_f32(out.as_mut_ptr().add(4 * i), v[i]);
            }
        }
    }

    #[inline(always)]
    unsafe fn add_blocks<const BITS: u32, const NB: usize, const NT: usize>(
        sums: &mut [[Self::Sums; NB]; NT],
        codes: *const u8,
        apart: usize,
        xs: *const i8,
        blocks: usize,
    ) -> bool {
        for (t, sums) in sums.iter_mut().enumerate() {
            // SAFETY: the caller's.
            *sums = unsafe {
                let codes = codes.add(t * apart);
                if Way::<I8MM, BITS, NB>::MATRICES {
                    by_matrices::<BITS, NB>(*sums, codes, xs, blocks)
                } else {
                    by_lines::<I8MM, BITS, NB>(*sums, codes, xs, blocks)
                }
            };
        }
        true
    }
}

/// How blocks are added: a constant, so that only that way is compiled.
struct Way<const I8MM: bool, const BITS: u32, const NB: usize>;

impl<const I8MM: bool, const BITS: u32, const NB: usize> Way<I8MM, BITS, NB> {
    // Two rows are as fast by dot products, zipping being as much work as it saves; so are
    // 6 bits, which leave too few registers. The planes of one bit of odd widths do not open
    // to two lines.
    const MATRICES: bool = I8MM && NB == 4 && matches!(BITS, 2 | 4 | 8);
}

/// Four columns at a time by dot products.
#[inline(always)]
unsafe fn by_lines<const I8MM: bool, const BITS: u32, const NB: usize>(
    mut sums: [[int32x4_t; 4]; NB],
    mut codes: *const u8,
    mut xs: *const i8,
    blocks: usize,
) -> [[int32x4_t; 4]; NB] {
    assert!(NB <= 4, "the rows that a step has");
    // SAFETY: `Lines` may be used, and so many blocks are there (the caller's).
    unsafe {
        for _ in 0..blocks {
            // No loop over rows: it would not be unrolled before lanes must be constants.
            macro_rules! rows {
                ($s:literal, $line:ident, $($b:literal)*) => {$(
                    if $b < NB {
                        let four = Neon::<I8MM>::four(xs, $s * NB + $b);
                        sums[$b] = match BITS {
                            8 => Neon::<I8MM>::dot8(sums[$b], $line, four),
                            _ => Neon::<I8MM>::dot(sums[$b], $line, four),
                        };
                    }
                )*};
            }
            macro_rules! steps {
                ($($s:literal)*) => {$({
                    let line = open_line::<Line<4>, BITS, $s>(codes);
                    rows!($s, line, 0 1 2 3);
                })*};
            }
            for line in 0..BITS as usize {
                prefetch_ahead(codes.wrapping_add(64 * line));
            }
            steps!(0 1 2 3 4 5 6 7);
            codes = codes.add(64 * BITS as usize);
            xs = xs.add(32 * NB);
        }
    }
    sums
}

/// Eight columns at a time by matrix products: of two rows of the tile and two of the four
/// of the piece.
#[inline(always)]
unsafe fn by_matrices<const BITS: u32, const NB: usize>(
    mut sums: [[int32x4_t; 4]; NB],
    mut codes: *const u8,
    mut xs: *const i8,
    blocks: usize,
) -> [[int32x4_t; 4]; NB] {
    // SAFETY: the CPU has `i8mm`, and so many blocks are there (the caller's): of
    // activations 128 bytes each.
    unsafe {
        // Sums of two rows of the piece as the products leave them: row r of the tile with
        // both, then row r + 1.
        let mut pairs = [[vdupq_n_s32(0); 8]; 2];
        for (p, pair) in pairs.iter_mut().enumerate() {
            for i in 0..4 {
                pair[2 * i] = vzip1q_s32(sums[2 * p][i], sums[2 * p + 1][i]);
                pair[2 * i + 1] = vzip2q_s32(sums[2 * p][i], sums[2 * p + 1][i]);
            }
        }
        for _ in 0..blocks {
            macro_rules! step {
                ($s:literal) => {{
                    let lines = open_line::<Line<8>, BITS, $s>(codes);
                    let a = vld1q_s32(xs.add(16 * $s).cast());
                    let b = vld1q_s32(xs.add(16 * $s + 16).cast());
                    let first = vreinterpretq_s8_s32(vzip1q_s32(a, b));
                    let second = vreinterpretq_s8_s32(vzip2q_s32(a, b));
                    for i in 0..8 {
                        pairs[0][i] = usmmla(pairs[0][i], lines[i], first);
                        pairs[1][i] = usmmla(pairs[1][i], lines[i], second);
                    }
                }};
            }
            for line in 0..BITS as usize {
                prefetch_ahead(codes.wrapping_add(64 * line));
            }
            step!(0);
            step!(2);
            step!(4);
            step!(6);
            codes = codes.add(64 * BITS as usize);
            xs = xs.add(128);
        }
        for (p, pair) in pairs.iter().enumerate() {
            for i in 0..4 {
                sums[2 * p][i] = vuzp1q_s32(pair[2 * i], pair[2 * i + 1]);
                sums[2 * p + 1][i] = vuzp2q_s32(pair[2 * i], pair[2 * i + 1]);
            }
        }
    }
    sums
}
