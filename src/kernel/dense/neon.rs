//! Vectors of NEON, which every AArch64 CPU has.

use std::arch::aarch64::*;

use super::simd::{Simd, Task};
use crate::kernel::neon::widen_f16;
use crate::kernel::prefetch;

/// Vectors of 128 bits, of which there are 32.
#[derive(Clone, Copy)]
pub(in crate::kernel) struct Neon;

// SAFETY: every intrinsic below needs NEON, which the target has; loads and stores are of
// the values that the trait states.
impl Simd for Neon {
    type V = float32x4_t;
    const LANES: usize = 4;
    // Sums of six rows in 24 registers, the panel in four, a word in one.
    const VECTORS: usize = 4;

    #[inline(never)]
    unsafe fn call<T: Task>(task: T) {
        // SAFETY: as the caller grants.
        unsafe { task.run() }
    }
    #[inline(always)]
    unsafe fn zero() -> float32x4_t {
        // SAFETY: as the impl says.
        unsafe { vdupq_n_f32(0.0) }
    }
    #[inline(always)]
    unsafe fn spread<const F: usize>(p: *const f32) -> float32x4_t {
        // SAFETY: as the impl says.
        unsafe {
            match F {
                1 => vdupq_n_f32(p.read_unaligned()),
                2 => vreinterpretq_f32_u64(vdupq_n_u64(p.cast::<u64>().read_unaligned())),
                _ => vld1q_f32(p),
            }
        }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> float32x4_t {
        // SAFETY: as the impl says.
        unsafe { vld1q_f32(p) }
    }
    #[inline(always)]
    unsafe fn load_part(p: *const f32, n: usize) -> float32x4_t {
        let mut v = [0.0; 4];
        for (i, v) in v.iter_mut().enumerate().take(n) {
            // SAFETY: i < n, as the caller grants.
            *v = unsafe { p.add(i).read_unaligned() };
        }
        // SAFETY: as the impl says; four values.
        unsafe { vld1q_f32(v.as_ptr()) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: float32x4_t) {
        // SAFETY: as the impl says.
        unsafe { vst1q_f32(p, v) }
    }
    #[inline(always)]
    unsafe fn store_part(p: *mut f32, v: float32x4_t, n: usize) {
        let mut values = [0.0; 4];
        // SAFETY: as the impl says; four values, and i < n.
        unsafe {
            vst1q_f32(values.as_mut_ptr(), v);
            for (i, v) in values.iter().enumerate().take(n) {
                p.add(i).write_unaligned(*v);
            }
        }
    }
    #[inline(always)]
    unsafe fn add(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: as the impl says.
        unsafe { vaddq_f32(a, b) }
    }
    #[inline(always)]
    unsafe fn mul_add(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        // SAFETY: as the impl says.
        unsafe { vfmaq_f32(c, a, b) }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> float32x4_t {
        // SAFETY: as the impl says.
        unsafe {
            let wide = vmovl_u16(vld1_u16(p));
            vreinterpretq_f32_u32(vshlq_n_u32::<16>(wide))
        }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> float32x4_t {
        // SAFETY: as the impl says.
        unsafe { widen_f16(vld1_u16(p)) }
    }
    #[inline(always)]
    unsafe fn load_byte<const K: u32>(p: *const u32) -> float32x4_t {
        // SAFETY: as the impl says.
        unsafe {
            let place = vdupq_n_s32(24 - 8 * K as i32);
            let high = vshlq_s32(vreinterpretq_s32_u32(vld1q_u32(p)), place);
            vcvtq_f32_s32(vshrq_n_s32::<24>(high))
        }
    }
    #[inline(always)]
    unsafe fn store_transposed(v: &[float32x4_t], p: *mut f32, stride: usize) {
        // SAFETY: as the impl says.
        unsafe {
            // Lanes of two vectors side by side, then of four.
            let pair = |i: usize| {
                let even = vtrn1q_f32(v[i], v[i + 1]);
                let odd = vtrn2q_f32(v[i], v[i + 1]);
                [vreinterpretq_f64_f32(even), vreinterpretq_f64_f32(odd)]
            };
            let (a, b) = (pair(0), pair(2));
            for i in 0..2 {
                let low = vreinterpretq_f32_f64(vtrn1q_f64(a[i], b[i]));
                let high = vreinterpretq_f32_f64(vtrn2q_f64(a[i], b[i]));
                vst1q_f32(p.add(i * stride), low);
                vst1q_f32(p.add((i + 2) * stride), high);
            }
        }
    }
    #[inline(always)]
    fn prefetch<T>(p: *const T) {
        prefetch::second(p.cast());
    }
}
