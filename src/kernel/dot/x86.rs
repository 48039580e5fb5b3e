//! Lines of sixteen rows in two AVX2 registers, or one of AVX-512.

use std::arch::asm;
use std::arch::x86_64::*;

use super::{Activations, Codes, Cursor, Lines, Part, TILE_ROWS, Task, Tiles, prefetch_ahead};
use crate::kernel::dense::{self, Simd};

// SAFETY: every intrinsic below needs AVX2 at most, which whoever calls has.
unsafe impl Codes for [__m256i; 2] {
    #[inline(always)]
    unsafe fn load(at: *const u8) -> Self {
        // SAFETY: 64 bytes.
        unsafe {
            [
                _mm256_loadu_si256(at.cast()),
                _mm256_loadu_si256(at.add(32).cast()),
            ]
        }
    }

    #[inline(always)]
    unsafe fn field<const BITS: u32, const SHIFT: u32>(self) -> Self {
        // SAFETY: see the impl. A shift by a register: its count is a constant here, too.
        unsafe {
            let mask = _mm256_set1_epi8((1u8 << BITS).wrapping_sub(1) as i8);
            let shift = _mm_cvtsi32_si128(SHIFT as i32);
            [
                _mm256_and_si256(_mm256_srl_epi16(self[0], shift), mask),
                _mm256_and_si256(_mm256_srl_epi16(self[1], shift), mask),
            ]
        }
    }

    #[inline(always)]
    unsafe fn join<const SHIFT: u32>(self, high: Self) -> Self {
        // SAFETY: see the impl. Bits do not cross bytes: those of `high` are few.
        unsafe {
            let shift = _mm_cvtsi32_si128(SHIFT as i32);
            [
                _mm256_or_si256(self[0], _mm256_sll_epi16(high[0], shift)),
                _mm256_or_si256(self[1], _mm256_sll_epi16(high[1], shift)),
            ]
        }
    }
}

/// AVX2, FMA, F16C.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx2;

// SAFETY: every intrinsic below needs AVX2, FMA or F16C at most, which whoever calls
// `Lines` has; loads and stores are of the bytes that the trait states.
unsafe impl Lines for Avx2 {
    type Codes = [__m256i; 2];
    type Four = __m256i;
    type Sums = [__m256i; 2];
    type Floats = [__m256; 2];
    const SIGNED_8: bool = true;
    const BATCH: usize = 4;

    #[inline(always)]
    unsafe fn call<T: Task>(task: T) {
        // SAFETY: the caller's; the features are the same.
        unsafe { <dense::Avx2 as Simd>::call(task) }
    }

    #[inline(always)]
    unsafe fn store_codes(codes: Self::Codes, out: &mut [u8; 64]) {
        // SAFETY: `out` is 64 bytes.
        unsafe {
            _mm256_storeu_si256(out.as_mut_ptr().cast(), codes[0]);
            _mm256_storeu_si256(out.as_mut_ptr().add(32).cast(), codes[1]);
        }
    }

    #[inline(always)]
    unsafe fn rescale(
        codes: Self::Codes,
        half: i32,
        shift: u32,
        ratio: &[i16; 2 * TILE_ROWS],
    ) -> Self::Codes {
        // SAFETY: see the impl. Bytes of even and odd places as 16-bit numbers, the code in
        // the high byte, moved down to where it stands shifted by `shift`.
        unsafe {
            let down = _mm_cvtsi32_si128(8 - shift as i32);
            let (half, flip) = (_mm256_set1_epi8(half as i8), _mm256_set1_epi8(-128));
            let high = _mm256_set1_epi16(0xff00u16 as i16);
            // Loops, not closures: those are not always inlined, and out of line they lose
            // the instruction set.
            let mut out = codes;
            for i in 0..2 {
                let ratio = _mm256_loadu_si256(ratio.as_ptr().add(16 * i).cast());
                let c = _mm256_sub_epi8(codes[i], half);
                let even = _mm256_sra_epi16(_mm256_slli_epi16::<8>(c), down);
                let odd = _mm256_sra_epi16(_mm256_and_si256(c, high), down);
                let even = _mm256_mulhrs_epi16(even, ratio);
                let odd = _mm256_slli_epi16::<8>(_mm256_mulhrs_epi16(odd, ratio));
                let both = _mm256_or_si256(_mm256_andnot_si256(high, even), odd);
                out[i] = _mm256_xor_si256(both, flip);
            }
            out
        }
    }

    #[inline(always)]
    unsafe fn four(block: *const i8, index: usize) -> Self::Four {
        // SAFETY: 4 bytes.
        unsafe { _mm256_set1_epi32(block.add(4 * index).cast::<i32>().read_unaligned()) }
    }

    #[inline(always)]
    unsafe fn splat(v: i32) -> Self::Sums {
        // SAFETY: see the impl.
        unsafe { [_mm256_set1_epi32(v); 2] }
    }

    #[inline(always)]
    unsafe fn dot(mut sums: Self::Sums, codes: Self::Codes, four: Self::Four) -> Self::Sums {
        // SAFETY: see the impl.
        unsafe { step::longs(&mut sums, codes, four, _mm256_set1_epi16(1)) }
        sums
    }

    #[inline(always)]
    unsafe fn dot8(mut sums: Self::Sums, codes: Self::Codes, four: Self::Four) -> Self::Sums {
        // SAFETY: see the impl.
        unsafe {
            let flip = _mm256_set1_epi8(-128);
            let codes = [
                _mm256_xor_si256(codes[0], flip),
                _mm256_xor_si256(codes[1], flip),
            ];
            let sizes = [_mm256_abs_epi8(codes[0]), _mm256_abs_epi8(codes[1])];
            step::signed(&mut sums, codes, sizes, four, _mm256_set1_epi16(1));
        }
        sums
    }

    #[inline(always)]
    unsafe fn to_floats(sums: Self::Sums) -> Self::Floats {
        // SAFETY: see the impl.
        unsafe { [_mm256_cvtepi32_ps(sums[0]), _mm256_cvtepi32_ps(sums[1])] }
    }

    #[inline(always)]
    unsafe fn load_f16(at: *const u8) -> Self::Floats {
        // SAFETY: 32 bytes.
        unsafe {
            [
                _mm256_cvtph_ps(_mm_loadu_si128(at.cast())),
                _mm256_cvtph_ps(_mm_loadu_si128(at.add(16).cast())),
            ]
        }
    }

    #[inline(always)]
    unsafe fn splat_f32(v: f32) -> Self::Floats {
        // SAFETY: see the impl.
        unsafe { [_mm256_set1_ps(v); 2] }
    }

    #[inline(always)]
    unsafe fn mul(a: Self::Floats, b: Self::Floats) -> Self::Floats {
        // SAFETY: see the impl.
        unsafe { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
    }

    #[inline(always)]
    unsafe fn fma(a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats {
        // SAFETY: see the impl.
        unsafe {
            [
                _mm256_fmadd_ps(a[0], b[0], c[0]),
                _mm256_fmadd_ps(a[1], b[1], c[1]),
            ]
        }
    }

    #[inline(always)]
    unsafe fn load_f32(from: &[f32; TILE_ROWS]) -> Self::Floats {
        // SAFETY: `from` is 64 bytes.
        unsafe {
            [
                _mm256_loadu_ps(from.as_ptr()),
                _mm256_loadu_ps(from.as_ptr().add(8)),
            ]
        }
    }

    #[inline(always)]
    unsafe fn store(v: Self::Floats, out: &mut [f32; TILE_ROWS]) {
        // SAFETY: `out` is 64 bytes.
        unsafe {
            _mm256_storeu_ps(out.as_mut_ptr(), v[0]);
            _mm256_storeu_ps(out.as_mut_ptr().add(8), v[1]);
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
        let shorts = matches!(BITS, 2..=5);
        if shorts {
            for (t, sums) in sums.iter_mut().enumerate() {
                // SAFETY: the caller's.
                *sums = unsafe { in_shorts::<BITS, NB>(sums, codes.add(t * apart), xs, blocks) };
            }
        }
        shorts
    }
}

/// Steps of a product, two registers of rows each, as instructions that the compiler neither
/// reorders nor regroups: it would add up lines in pairs, for which there are no registers, and
/// spill half of the sums.
mod step {
    use super::*;

    /// `sums += codes·four` in 16 bits, pair by pair.
    ///
    /// # Safety
    /// AVX2.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn shorts(sums: &mut [__m256i; 2], codes: [__m256i; 2], four: __m256i) {
        // SAFETY: registers only.
        unsafe {
            asm!(
                "vpmaddubsw {t}, {c0}, {four}",
                "vpmaddubsw {four}, {c1}, {four}",
                "vpaddw {s0}, {s0}, {t}",
                "vpaddw {s1}, {s1}, {four}",
                s0 = inout(ymm_reg) sums[0],
                s1 = inout(ymm_reg) sums[1],
                c0 = in(ymm_reg) codes[0],
                c1 = in(ymm_reg) codes[1],
                four = inout(ymm_reg) four => _,
                t = out(ymm_reg) _,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
    }

    /// The same in 32 bits, for codes of up to 7 bits; `ones` are of 16.
    ///
    /// # Safety
    /// AVX2.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn longs(
        sums: &mut [__m256i; 2],
        codes: [__m256i; 2],
        four: __m256i,
        ones: __m256i,
    ) {
        // SAFETY: registers only. Pairs reach 2·127·127 < 2^15: nothing saturates.
        unsafe {
            asm!(
                "vpmaddubsw {t}, {c0}, {four}",
                "vpmaddubsw {four}, {c1}, {four}",
                "vpmaddwd {t}, {t}, {ones}",
                "vpmaddwd {four}, {four}, {ones}",
                "vpaddd {s0}, {s0}, {t}",
                "vpaddd {s1}, {s1}, {four}",
                s0 = inout(ymm_reg) sums[0],
                s1 = inout(ymm_reg) sums[1],
                c0 = in(ymm_reg) codes[0],
                c1 = in(ymm_reg) codes[1],
                ones = in(ymm_reg) ones,
                four = inout(ymm_reg) four => _,
                t = out(ymm_reg) _,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
    }

    /// The same for codes from −128 to 127, whose `sizes` are multiplied by activations that
    /// carry the sign. Unsigned codes of 8 bits would saturate; pairs reach 2·128·127 < 2^15.
    ///
    /// # Safety
    /// AVX2.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn signed(
        sums: &mut [__m256i; 2],
        codes: [__m256i; 2],
        sizes: [__m256i; 2],
        four: __m256i,
        ones: __m256i,
    ) {
        // SAFETY: registers only.
        unsafe {
            asm!(
                "vpsignb {t}, {four}, {c0}",
                "vpsignb {four}, {four}, {c1}",
                "vpmaddubsw {t}, {a0}, {t}",
                "vpmaddubsw {four}, {a1}, {four}",
                "vpmaddwd {t}, {t}, {ones}",
                "vpmaddwd {four}, {four}, {ones}",
                "vpaddd {s0}, {s0}, {t}",
                "vpaddd {s1}, {s1}, {four}",
                s0 = inout(ymm_reg) sums[0],
                s1 = inout(ymm_reg) sums[1],
                c0 = in(ymm_reg) codes[0],
                c1 = in(ymm_reg) codes[1],
                a0 = in(ymm_reg) sizes[0],
                a1 = in(ymm_reg) sizes[1],
                ones = in(ymm_reg) ones,
                four = inout(ymm_reg) four => _,
                t = out(ymm_reg) _,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
    }
}

/// [`Lines::add_blocks`] for codes of few bits: products stay in 16 bits for as many lines as
/// fit, which spares half of the instructions.
///
/// # Safety
/// AVX2; `blocks` blocks of codes, and a piece of `NB` rows of as many activations.
#[inline(always)]
unsafe fn in_shorts<const BITS: u32, const NB: usize>(
    sums: &[[__m256i; 2]; NB],
    mut codes: *const u8,
    mut xs: *const i8,
    mut blocks: usize,
) -> [[__m256i; 2]; NB] {
    // A line adds 2·127·(2^BITS − 1) at most, so that 2^15 holds 43, 18, 8, 4 lines. Two, as of
    // 6 bits, would save nothing.
    let (at_once, in_block) = match BITS {
        2 => (5, 8),
        3 => (2, 8),
        4 => (1, 8),
        _ => (1, 4),
    };
    // SAFETY: as the caller promises.
    unsafe {
        let ones = _mm256_set1_epi16(1);
        let mut out = *sums;
        while blocks > 0 {
            let run = blocks.min(at_once);
            blocks -= run;
            let mut shorts = [[_mm256_setzero_si256(); 2]; NB];
            for _ in 0..run {
                macro_rules! step {
                    ($($s:literal)*) => {$({
                        let line = super::open_line::<[__m256i; 2], BITS, $s>(codes);
                        for b in 0..NB {
                            step::shorts(&mut shorts[b], line, Avx2::four(xs, $s * NB + b));
                        }
                        if ($s + 1) % in_block == 0 && in_block < 8 {
                            for b in 0..NB {
                                for i in 0..2 {
                                    let pairs = _mm256_madd_epi16(shorts[b][i], ones);
                                    out[b][i] = _mm256_add_epi32(out[b][i], pairs);
                                    shorts[b][i] = _mm256_setzero_si256();
                                }
                            }
                        }
                    })*};
                }
                for line in 0..BITS as usize {
                    prefetch_ahead(codes.wrapping_add(64 * line));
                }
                step!(0 1 2 3 4 5 6 7);
                codes = codes.add(64 * BITS as usize);
                xs = xs.add(32 * NB);
            }
            if in_block == 8 {
                for b in 0..NB {
                    for i in 0..2 {
                        let pairs = _mm256_madd_epi16(shorts[b][i], ones);
                        out[b][i] = _mm256_add_epi32(out[b][i], pairs);
                    }
                }
            }
        }
        out
    }
}

// SAFETY: every intrinsic below needs AVX-512 F or BW at most, which whoever calls has.
unsafe impl Codes for __m512i {
    #[inline(always)]
    unsafe fn load(at: *const u8) -> Self {
        // SAFETY: 64 bytes.
        unsafe { _mm512_loadu_si512(at.cast()) }
    }

    #[inline(always)]
    unsafe fn field<const BITS: u32, const SHIFT: u32>(self) -> Self {
        // SAFETY: see the impl. A shift by a register: its count is a constant here, too.
        unsafe {
            let mask = _mm512_set1_epi8((1u8 << BITS).wrapping_sub(1) as i8);
            let shift = _mm_cvtsi32_si128(SHIFT as i32);
            _mm512_and_si512(_mm512_srl_epi16(self, shift), mask)
        }
    }

    #[inline(always)]
    unsafe fn join<const SHIFT: u32>(self, high: Self) -> Self {
        // SAFETY: see the impl. Bits do not cross bytes: those of `high` are few.
        unsafe {
            let shift = _mm_cvtsi32_si128(SHIFT as i32);
            _mm512_or_si512(self, _mm512_sll_epi16(high, shift))
        }
    }
}

/// AVX-512 F, BW and VNNI.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Vnni;

// SAFETY: every intrinsic below needs AVX-512 F, BW or VNNI at most, which whoever calls
// `Lines` has; loads and stores are of the bytes that the trait states.
unsafe impl Lines for Vnni {
    type Codes = __m512i;
    type Four = __m512i;
    type Sums = __m512i;
    type Floats = __m512;
    const SIGNED_8: bool = false;
    const BATCH: usize = 12;
    const TALL: bool = true;

    #[inline(never)]
    unsafe fn call<T: Task>(task: T) {
        #[inline]
        #[target_feature(
            enable = "avx2,fma,f16c,bmi1,bmi2,popcnt,lzcnt,avx512f,avx512bw,avx512vl,avx512dq,avx512cd,avx512vnni"
        )]
        unsafe fn with<T: Task>(task: T) {
            // SAFETY: the caller's.
            unsafe { task.run() }
        }
        // SAFETY: the caller has the features.
        unsafe { with(task) }
    }

    #[inline(always)]
    unsafe fn store_codes(codes: __m512i, out: &mut [u8; 64]) {
        // SAFETY: `out` is 64 bytes.
        unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), codes) }
    }

    #[inline(always)]
    unsafe fn rescale(
        codes: __m512i,
        half: i32,
        shift: u32,
        ratio: &[i16; 2 * TILE_ROWS],
    ) -> __m512i {
        // SAFETY: see the impl. As for AVX2.
        unsafe {
            let down = _mm_cvtsi32_si128(8 - shift as i32);
            let high = _mm512_set1_epi16(0xff00u16 as i16);
            let ratio = _mm512_loadu_si512(ratio.as_ptr().cast());
            let c = _mm512_sub_epi8(codes, _mm512_set1_epi8(half as i8));
            let even = _mm512_sra_epi16(_mm512_slli_epi16::<8>(c), down);
            let odd = _mm512_sra_epi16(_mm512_and_si512(c, high), down);
            let even = _mm512_mulhrs_epi16(even, ratio);
            let odd = _mm512_slli_epi16::<8>(_mm512_mulhrs_epi16(odd, ratio));
            let both = _mm512_or_si512(_mm512_andnot_si512(high, even), odd);
            _mm512_xor_si512(both, _mm512_set1_epi8(-128))
        }
    }

    #[inline(always)]
    unsafe fn four(block: *const i8, index: usize) -> __m512i {
        // SAFETY: 4 bytes.
        unsafe { _mm512_set1_epi32(block.add(4 * index).cast::<i32>().read_unaligned()) }
    }

    #[inline(always)]
    unsafe fn splat(v: i32) -> __m512i {
        // SAFETY: see the impl.
        unsafe { _mm512_set1_epi32(v) }
    }

    #[inline(always)]
    unsafe fn dot(sums: __m512i, codes: __m512i, four: __m512i) -> __m512i {
        // SAFETY: see the impl.
        unsafe { _mm512_dpbusd_epi32(sums, codes, four) }
    }

    #[inline(always)]
    unsafe fn dot8(sums: __m512i, codes: __m512i, four: __m512i) -> __m512i {
        // SAFETY: see the impl.
        unsafe { _mm512_dpbusd_epi32(sums, codes, four) }
    }

    #[inline(always)]
    unsafe fn to_floats(sums: __m512i) -> __m512 {
        // SAFETY: see the impl.
        unsafe { _mm512_cvtepi32_ps(sums) }
    }

    #[inline(always)]
    unsafe fn load_f16(at: *const u8) -> __m512 {
        // SAFETY: 32 bytes.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(at.cast())) }
    }

    #[inline(always)]
    unsafe fn splat_f32(v: f32) -> __m512 {
        // SAFETY: see the impl.
        unsafe { _mm512_set1_ps(v) }
    }

    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        // SAFETY: see the impl.
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: see the impl.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn load_f32(from: &[f32; TILE_ROWS]) -> __m512 {
        // SAFETY: `from` is 64 bytes.
        unsafe { _mm512_loadu_ps(from.as_ptr()) }
    }

    #[inline(always)]
    unsafe fn store(v: __m512, out: &mut [f32; TILE_ROWS]) {
        // SAFETY: `out` is 64 bytes.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), v) }
    }

    #[inline(always)]
    unsafe fn tall<const NB: usize>(
        w: &Tiles<'_>,
        x: &Activations<'_>,
        part: &Part,
        out: &mut [[f32; TILE_ROWS]],
    ) {
        // Rows by name: arrays of so many registers, indexed by loops, compilers keep in memory.
        macro_rules! rows {
            ($do:ident) => { $do!(0 1 2 3 4 5 6 7 8 9 10 11) };
        }
        let mut at = Cursor::new::<NB, 2>(w, x, part, out);
        // SAFETY: the caller's; `Cursor` has checked that what `part` names is there.
        unsafe {
            let unit = _mm512_set1_ps(w.multiplier);
            loop {
                let blocks = at.blocks();
                if blocks == 0 {
                    break;
                }
                let mut a = [_mm512_setzero_si512(); 12];
                let mut b = a;
                macro_rules! begin {
                    ($($i:literal)*) => {$(
                        if $i < NB {
                            a[$i] = _mm512_set1_epi32(*at.offsets.add($i));
                            b[$i] = a[$i];
                        }
                    )*};
                }
                rows!(begin);
                for _ in 0..blocks {
                    for t in 0..2 {
                        for line in 0..8 {
                            let line = at.codes.wrapping_add(t * at.code_apart + 64 * line);
                            prefetch_ahead(line);
                        }
                    }
                    for _ in 0..8 {
                        let u = __m512i::load(at.codes);
                        let v = __m512i::load(at.codes.add(at.code_apart));
                        macro_rules! dot {
                            ($($i:literal)*) => {$(
                                if $i < NB {
                                    let four = Self::four(at.xs, $i);
                                    a[$i] = _mm512_dpbusd_epi32(a[$i], u, four);
                                    b[$i] = _mm512_dpbusd_epi32(b[$i], v, four);
                                }
                            )*};
                        }
                        rows!(dot);
                        at.pass::<NB>(64, 4);
                    }
                }
                for (t, sums) in [&a, &b].into_iter().enumerate() {
                    let head = at.head.wrapping_add(t * at.head_apart);
                    let s = match w.scales.is_empty() {
                        true => unit,
                        false => _mm512_mul_ps(Self::load_f16(head), unit),
                    };
                    macro_rules! end {
                        ($($i:literal)*) => {$(
                            if $i < NB {
                                let both = _mm512_mul_ps(s, _mm512_set1_ps(*at.scales.add($i)));
                                let to = &mut *at.out.add(t * at.out_apart + $i);
                                let sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[$i]), both, Self::load_f32(to));
                                Self::store(sum, to);
                            }
                        )*};
                    }
                    rows!(end);
                }
                at.pass_group::<NB>();
            }
        }
    }
}
