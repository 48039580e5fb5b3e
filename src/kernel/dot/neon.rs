//! Lines of sixteen rows in four registers of NEON.
//!
//! The instructions for sums of products came after NEON itself, and their intrinsics are
//! not stable in Rust, nor are those for f16 in the oldest Rust that this crate builds
//! with: each stands here as one line of assembly.

use std::arch::aarch64::*;
use std::arch::asm;

use super::{Lines, TILE_ROWS};

/// Dot products (Armv8.4, and many cores of Armv8.2), with `I8MM` those of unsigned by
/// signed numbers besides (Armv8.6). Without, codes of 8 bits go as signed ones.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Neon<const I8MM: bool>;

/// `sums[i] + Σ a[4i + k] · b[4i + k]`, both signed.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn sdot(mut sums: int32x4_t, a: uint8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: registers only; the function's features have the instruction.
    unsafe {
        asm!("sdot {:v}.4s, {:v}.16b, {:v}.16b", inout(vreg) sums, in(vreg) a, in(vreg) b,
            options(pure, nomem, nostack, preserves_flags));
    }
    sums
}

/// `sums[i] + Σ a[4i + k] · b[4i + k]`, `a` unsigned and `b` signed.
#[inline]
#[target_feature(enable = "neon,i8mm")]
fn usdot(mut sums: int32x4_t, a: uint8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: registers only; the function's features have the instruction.
    unsafe {
        asm!("usdot {:v}.4s, {:v}.16b, {:v}.16b", inout(vreg) sums, in(vreg) a, in(vreg) b,
            options(pure, nomem, nostack, preserves_flags));
    }
    sums
}

/// The values of f16 numbers.
#[inline]
#[target_feature(enable = "neon")]
fn from_f16(bits: uint16x8_t) -> [float32x4_t; 2] {
    let (low, high): (float32x4_t, float32x4_t);
    // SAFETY: registers only; NEON has the conversion since Armv8.0.
    unsafe {
        asm!("fcvtl {:v}.4s, {:v}.4h", lateout(vreg) low, in(vreg) bits,
            options(pure, nomem, nostack, preserves_flags));
        asm!("fcvtl2 {:v}.4s, {:v}.8h", lateout(vreg) high, in(vreg) bits,
            options(pure, nomem, nostack, preserves_flags));
    }
    [low, high]
}

// SAFETY: every instruction below needs NEON, `dotprod` or, with `I8MM`, `i8mm`, which
// whoever calls `Lines` has; loads and stores are of the bytes that the trait states.
unsafe impl<const I8MM: bool> Lines for Neon<I8MM> {
    type Codes = [uint8x16_t; 4];
    type Four = int8x16_t;
    type Sums = [int32x4_t; 4];
    type Floats = [float32x4_t; 4];
    const SIGNED_8: bool = !I8MM;
    // Integer sums of four rows fill half of the 32 registers.
    const BATCH: usize = 4;

    #[inline(always)]
    unsafe fn load(at: *const u8) -> Self::Codes {
        // SAFETY: 64 bytes.
        unsafe { std::array::from_fn(|i| vld1q_u8(at.add(16 * i))) }
    }

    #[inline(always)]
    unsafe fn field<const BITS: u32, const SHIFT: u32>(codes: Self::Codes) -> Self::Codes {
        // SAFETY: see the impl.
        unsafe {
            let down = codes.map(|c| match SHIFT {
                0 => c,
                1 => vshrq_n_u8::<1>(c),
                2 => vshrq_n_u8::<2>(c),
                3 => vshrq_n_u8::<3>(c),
                4 => vshrq_n_u8::<4>(c),
                5 => vshrq_n_u8::<5>(c),
                6 => vshrq_n_u8::<6>(c),
                _ => vshrq_n_u8::<7>(c),
            });
            if BITS + SHIFT == 8 {
                return down;
            }
            let mask = vdupq_n_u8((1u8 << BITS).wrapping_sub(1));
            down.map(|c| vandq_u8(c, mask))
        }
    }

    #[inline(always)]
    unsafe fn join<const SHIFT: u32>(low: Self::Codes, high: Self::Codes) -> Self::Codes {
        // SAFETY: see the impl. The bits of `low` are below SHIFT, where they stay.
        unsafe {
            std::array::from_fn(|i| match SHIFT {
                2 => vsliq_n_u8::<2>(low[i], high[i]),
                4 => vsliq_n_u8::<4>(low[i], high[i]),
                6 => vsliq_n_u8::<6>(low[i], high[i]),
                _ => vorrq_u8(low[i], vshlq_u8(high[i], vdupq_n_s8(SHIFT as i8))),
            })
        }
    }

    #[inline(always)]
    unsafe fn four(at: *const i8) -> int8x16_t {
        // SAFETY: 4 bytes; the load needs no alignment.
        unsafe { vreinterpretq_s8_s32(vdupq_n_s32(at.cast::<i32>().read_unaligned())) }
    }

    #[inline(always)]
    unsafe fn splat(v: i32) -> Self::Sums {
        // SAFETY: see the impl.
        unsafe { [vdupq_n_s32(v); 4] }
    }

    #[inline(always)]
    unsafe fn dot(sums: Self::Sums, codes: Self::Codes, four: int8x16_t) -> Self::Sums {
        // SAFETY: see the impl. Codes of 7 bits are the same signed and unsigned.
        unsafe { std::array::from_fn(|i| sdot(sums[i], codes[i], four)) }
    }

    #[inline(always)]
    unsafe fn dot8(sums: Self::Sums, codes: Self::Codes, four: int8x16_t) -> Self::Sums {
        // SAFETY: see the impl.
        unsafe {
            if I8MM {
                return std::array::from_fn(|i| usdot(sums[i], codes[i], four));
            }
            let flip = vdupq_n_u8(128);
            std::array::from_fn(|i| sdot(sums[i], veorq_u8(codes[i], flip), four))
        }
    }

    #[inline(always)]
    unsafe fn to_floats(sums: Self::Sums) -> Self::Floats {
        // SAFETY: see the impl.
        unsafe { sums.map(|s| vcvtq_f32_s32(s)) }
    }

    #[inline(always)]
    unsafe fn load_f16(at: *const u8) -> Self::Floats {
        // SAFETY: 32 bytes.
        unsafe {
            let [a, b] = from_f16(vreinterpretq_u16_u8(vld1q_u8(at)));
            let [c, d] = from_f16(vreinterpretq_u16_u8(vld1q_u8(at.add(16))));
            [a, b, c, d]
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
        unsafe { std::array::from_fn(|i| vmulq_f32(a[i], b[i])) }
    }

    #[inline(always)]
    unsafe fn fma(a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats {
        // SAFETY: see the impl.
        unsafe { std::array::from_fn(|i| vfmaq_f32(c[i], a[i], b[i])) }
    }

    #[inline(always)]
    unsafe fn load_f32(from: &[f32; TILE_ROWS]) -> Self::Floats {
        // SAFETY: `from` is 64 bytes.
        unsafe { std::array::from_fn(|i| vld1q_f32(from.as_ptr().add(4 * i))) }
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
    unsafe fn prefetch(at: *const u8) {
        // SAFETY: a prefetch of any address is allowed, and changes nothing. Its intrinsic
        // is not stable.
        unsafe { asm!("prfm pldl1keep, [{}]", in(reg) at, options(nomem, nostack, preserves_flags)) }
    }
}
