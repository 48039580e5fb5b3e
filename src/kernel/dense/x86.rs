//! AVX2 and AVX-512.

use std::arch::x86_64::*;

use super::pairs::Bf16Pairs;
use super::simd::{Fields, Simd, Task};
use crate::kernel::prefetch;

/// 256-bit vectors, with FMA and F16C.
#[derive(Clone, Copy)]
pub(in crate::kernel) struct Avx2;

/// 512-bit vectors, masks in registers.
#[derive(Clone, Copy)]
pub(in crate::kernel) struct Avx512;

/// The same with products of bf16.
#[derive(Clone, Copy)]
pub(in crate::kernel) struct Avx512Bf16;

/// Lanes below `n` have their sign bit set.
#[inline(always)]
unsafe fn mask_256(n: usize) -> __m256i {
    // SAFETY: the caller has AVX2.
    unsafe {
        let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        _mm256_cmpgt_epi32(_mm256_set1_epi32(n as i32), lanes)
    }
}

// SAFETY, for the functions below: the intrinsics need the features of the set, and valid
// pointers where they take them; both are what the trait asks of its callers.
impl Simd for Avx2 {
    type V = __m256;
    const LANES: usize = 8;
    const VECTORS: usize = 2;
    // Zen 3 reads six rows at 17 GB/s by itself, and at 12 where it is asked for them.
    const ASKS_AHEAD: bool = false;

    #[inline(never)]
    unsafe fn call<T: Task>(task: T) {
        #[inline]
        #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,popcnt,lzcnt")]
        unsafe fn with<T: Task>(task: T) {
            // SAFETY: as the impl says.
            unsafe { task.run() }
        }
        // SAFETY: as the impl says.
        unsafe { with(task) }
    }
    #[inline(always)]
    unsafe fn zero() -> __m256 {
        // SAFETY: as the impl says.
        unsafe { _mm256_setzero_ps() }
    }
    #[inline(always)]
    unsafe fn spread<const F: usize>(p: *const f32) -> __m256 {
        // SAFETY: as the impl says.
        unsafe {
            match F {
                1 => _mm256_set1_ps(p.read_unaligned()),
                2 => _mm256_castpd_ps(_mm256_set1_pd(p.cast::<f64>().read_unaligned())),
                4 => _mm256_broadcast_ps(&p.cast::<__m128>().read_unaligned()),
                _ => _mm256_loadu_ps(p),
            }
        }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> __m256 {
        // SAFETY: as the impl says.
        unsafe { _mm256_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn load_part(p: *const f32, n: usize) -> __m256 {
        // SAFETY: as the impl says.
        unsafe { _mm256_maskload_ps(p, mask_256(n)) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: __m256) {
        // SAFETY: as the impl says.
        unsafe { _mm256_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn store_part(p: *mut f32, v: __m256, n: usize) {
        // SAFETY: as the impl says.
        unsafe { _mm256_maskstore_ps(p, mask_256(n), v) }
    }
    #[inline(always)]
    unsafe fn add(a: __m256, b: __m256) -> __m256 {
        // SAFETY: as the impl says.
        unsafe { _mm256_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul_add(a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: as the impl says.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> __m256 {
        // SAFETY: as the impl says.
        unsafe {
            let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
        }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> __m256 {
        // SAFETY: as the impl says.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(p.cast())) }
    }
    #[inline(always)]
    unsafe fn load_byte<const K: u32>(p: *const u32) -> __m256 {
        // SAFETY: as the impl says.
        unsafe {
            let place = _mm256_set1_epi32(24 - 8 * K as i32);
            let high = _mm256_sllv_epi32(_mm256_loadu_si256(p.cast()), place);
            _mm256_cvtepi32_ps(_mm256_srai_epi32::<24>(high))
        }
    }
    #[inline(always)]
    unsafe fn store_transposed(v: &[__m256], p: *mut f32, stride: usize) {
        // SAFETY: as the impl says.
        unsafe {
            // Pairs, then quarters, of lanes within the halves; then the halves.
            let mut q = [_mm256_setzero_ps(); 8];
            for half in 0..2 {
                let v = &v[4 * half..];
                let a = _mm256_unpacklo_ps(v[0], v[1]);
                let b = _mm256_unpackhi_ps(v[0], v[1]);
                let c = _mm256_unpacklo_ps(v[2], v[3]);
                let d = _mm256_unpackhi_ps(v[2], v[3]);
                q[4 * half] = _mm256_shuffle_ps::<0x44>(a, c);
                q[4 * half + 1] = _mm256_shuffle_ps::<0xee>(a, c);
                q[4 * half + 2] = _mm256_shuffle_ps::<0x44>(b, d);
                q[4 * half + 3] = _mm256_shuffle_ps::<0xee>(b, d);
            }
            for i in 0..4 {
                let low = _mm256_permute2f128_ps::<0x20>(q[i], q[4 + i]);
                let high = _mm256_permute2f128_ps::<0x31>(q[i], q[4 + i]);
                _mm256_storeu_ps(p.add(i * stride), low);
                _mm256_storeu_ps(p.add((4 + i) * stride), high);
            }
        }
    }
    #[inline(always)]
    fn prefetch<T>(p: *const T) {
        prefetch::second(p.cast());
    }
}

/// [`Simd`] of the sets with 512-bit vectors, which differ in the features of a task.
macro_rules! avx512 {
    ($set:ident, $features:literal) => {
        // SAFETY: as above.
        impl Simd for $set {
            type V = __m512;
            const LANES: usize = 16;
            const VECTORS: usize = 4;

            #[inline(never)]
            unsafe fn call<T: Task>(task: T) {
                #[inline]
                #[target_feature(enable = $features)]
                unsafe fn with<T: Task>(task: T) {
                    // SAFETY: as the impl says.
                    unsafe { task.run() }
                }
                // SAFETY: as the impl says.
                unsafe { with(task) }
            }
            #[inline(always)]
            unsafe fn zero() -> __m512 {
                // SAFETY: as the impl says.
                unsafe { _mm512_setzero_ps() }
            }
            #[inline(always)]
            unsafe fn spread<const F: usize>(p: *const f32) -> __m512 {
                // SAFETY: as the impl says.
                unsafe {
                    match F {
                        1 => _mm512_set1_ps(p.read_unaligned()),
                        2 => pairs_512(p),
                        4 => _mm512_broadcast_f32x4(_mm_loadu_ps(p)),
                        8 => _mm512_broadcast_f32x8(_mm256_loadu_ps(p)),
                        _ => _mm512_loadu_ps(p),
                    }
                }
            }
            #[inline(always)]
            unsafe fn load(p: *const f32) -> __m512 {
                // SAFETY: as the impl says.
                unsafe { _mm512_loadu_ps(p) }
            }
            #[inline(always)]
            unsafe fn load_part(p: *const f32, n: usize) -> __m512 {
                // SAFETY: as the impl says.
                unsafe { _mm512_maskz_loadu_ps(!(!0 << n), p) }
            }
            #[inline(always)]
            unsafe fn store(p: *mut f32, v: __m512) {
                // SAFETY: as the impl says.
                unsafe { _mm512_storeu_ps(p, v) }
            }
            #[inline(always)]
            unsafe fn store_part(p: *mut f32, v: __m512, n: usize) {
                // SAFETY: as the impl says.
                unsafe { _mm512_mask_storeu_ps(p, !(!0 << n), v) }
            }
            #[inline(always)]
            unsafe fn add(a: __m512, b: __m512) -> __m512 {
                // SAFETY: as the impl says.
                unsafe { _mm512_add_ps(a, b) }
            }
            #[inline(always)]
            unsafe fn mul_add(a: __m512, b: __m512, c: __m512) -> __m512 {
                // SAFETY: as the impl says.
                unsafe { _mm512_fmadd_ps(a, b, c) }
            }
            #[inline(always)]
            unsafe fn load_bf16(p: *const u16) -> __m512 {
                // SAFETY: as the impl says.
                unsafe {
                    let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast()));
                    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
                }
            }
            #[inline(always)]
            unsafe fn load_f16(p: *const u16) -> __m512 {
                // SAFETY: as the impl says.
                unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
            }
            #[inline(always)]
            unsafe fn load_byte<const K: u32>(p: *const u32) -> __m512 {
                // SAFETY: as the impl says.
                unsafe {
                    let place = _mm512_set1_epi32(24 - 8 * K as i32);
                    let high = _mm512_sllv_epi32(_mm512_loadu_si512(p.cast()), place);
                    _mm512_cvtepi32_ps(_mm512_srai_epi32::<24>(high))
                }
            }
            // By hand: a compiler makes gathers of the plain loop.
            #[inline(always)]
            unsafe fn add_fields(from: *const u32, fields: Fields, to: *mut u32) {
                // SAFETY: as the impl says.
                unsafe {
                    let each = |word: u32| _mm512_set1_epi32(word as i32);
                    let word = _mm512_loadu_si512(from.cast());
                    let some = _mm512_srlv_epi32(word, each(fields.shift));
                    let some = _mm512_and_si512(some, each(fields.mask));
                    let some = _mm512_sllv_epi32(some, each(fields.low));
                    let sum = _mm512_add_epi32(_mm512_loadu_si512(to.cast()), some);
                    let sum = _mm512_xor_si512(sum, each(fields.flip));
                    _mm512_storeu_si512(to.cast(), sum);
                }
            }
            #[inline(always)]
            unsafe fn store_transposed(v: &[__m512], p: *mut f32, stride: usize) {
                // SAFETY: as the impl says.
                unsafe { transposed_512(v, p, stride) }
            }
            #[inline(always)]
            fn prefetch<T>(p: *const T) {
                prefetch::second(p.cast());
            }
            #[inline(always)]
            fn prefetch_first<T>(p: *const T) {
                prefetch::first(p.cast());
            }
        }
    };
}

avx512!(
    Avx512,
    "avx2,fma,f16c,bmi1,bmi2,popcnt,lzcnt,avx512f,avx512bw,avx512vl,avx512dq,avx512cd"
);
avx512!(
    Avx512Bf16,
    "avx2,fma,f16c,bmi1,bmi2,popcnt,lzcnt,avx512f,avx512bw,avx512vl,avx512dq,avx512cd,avx512bf16"
);

impl Bf16Pairs for Avx512Bf16 {
    #[inline(always)]
    unsafe fn dot_pairs(a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: the types have one size and take any bits; the caller has the feature.
        unsafe {
            let a = std::mem::transmute::<__m512, __m512bh>(a);
            let b = std::mem::transmute::<__m512, __m512bh>(b);
            _mm512_dpbf16_ps(c, a, b)
        }
    }
    #[inline(always)]
    unsafe fn round_pairs(low: __m512, high: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe { std::mem::transmute::<__m512bh, __m512>(_mm512_cvtne2ps_pbh(high, low)) }
    }
}

/// Two words over and over.
///
/// Zen 4 spends a shuffle on `vbroadcastsd`, which takes its place from a multiplication, and
/// none on `vpbroadcastq`. Compilers hold the two for the same.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn pairs_512(p: *const f32) -> __m512 {
    let v: __m512;
    // SAFETY: reads 8 bytes, which the caller grants.
    unsafe {
        std::arch::asm!(
            "vpbroadcastq {v}, qword ptr [{p}]",
            v = lateout(zmm_reg) v,
            p = in(reg) p,
            options(pure, readonly, nostack, preserves_flags),
        );
    }
    v
}

#[inline(always)]
unsafe fn transposed_512(v: &[__m512], p: *mut f32, stride: usize) {
    // SAFETY: the caller has AVX-512, sixteen vectors, and sixteen rows at `p`.
    unsafe {
        // Within the quarters of the registers: q[4g + i] has of the rows 4g..4g + 4 the
        // columns i, 4 + i, 8 + i, 12 + i.
        let mut q = [_mm512_setzero_ps(); 16];
        for g in 0..4 {
            let v = &v[4 * g..];
            let a = _mm512_unpacklo_ps(v[0], v[1]);
            let b = _mm512_unpackhi_ps(v[0], v[1]);
            let c = _mm512_unpacklo_ps(v[2], v[3]);
            let d = _mm512_unpackhi_ps(v[2], v[3]);
            q[4 * g] = _mm512_shuffle_ps::<0x44>(a, c);
            q[4 * g + 1] = _mm512_shuffle_ps::<0xee>(a, c);
            q[4 * g + 2] = _mm512_shuffle_ps::<0x44>(b, d);
            q[4 * g + 3] = _mm512_shuffle_ps::<0xee>(b, d);
        }
        for i in 0..4 {
            let a = _mm512_shuffle_f32x4::<0x88>(q[i], q[4 + i]);
            let b = _mm512_shuffle_f32x4::<0xdd>(q[i], q[4 + i]);
            let c = _mm512_shuffle_f32x4::<0x88>(q[8 + i], q[12 + i]);
            let d = _mm512_shuffle_f32x4::<0xdd>(q[8 + i], q[12 + i]);
            _mm512_storeu_ps(p.add(i * stride), _mm512_shuffle_f32x4::<0x88>(a, c));
            _mm512_storeu_ps(p.add((4 + i) * stride), _mm512_shuffle_f32x4::<0x88>(b, d));
            _mm512_storeu_ps(p.add((8 + i) * stride), _mm512_shuffle_f32x4::<0xdd>(a, c));
            _mm512_storeu_ps(p.add((12 + i) * stride), _mm512_shuffle_f32x4::<0xdd>(b, d));
        }
    }
}
