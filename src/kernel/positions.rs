//! Lists of active positions: decoding their gaps, and sums over the columns they name.
//!
//! A segment's positions are strictly increasing numbers `p₀ < p₁ < …` below 65,536. The
//! gaps `g₀ = p₀`, `gᵢ = pᵢ − pᵢ₋₁ − 1` are Rice codes of parameter `k`, quotients and
//! remainders apart:
//!
//! * remainders: the low `k` bits of every gap, one after the other, lowest bit of the
//!   lowest byte first;
//! * quotients: `gᵢ >> k` zero bits, then a one bit, gap after gap, lowest bit first. The
//!   i-th one bit, at `eᵢ`, says that the quotients up to i add up to `eᵢ − i`.
//!
//! So `pᵢ = ((eᵢ − i) << k) + r₀ + … + rᵢ + i`, which has no chain through the quotients:
//! one bits are found sixteen bits at a time, remainders opened sixteen at a time, and
//! only the sum of remainders runs along.
//!
//! Signed sums are kept in sixteen lanes, lane = index in the row mod 16, which are added in
//! one order: every instruction set gives the same bits.

use super::autovec;

/// Largest Rice parameter: gaps are below 65,536, so that 15 bits leave a quotient of 1.
pub const MAX_RICE: u32 = 15;
/// Most positions of a segment, and the number that they all are below.
pub const SEGMENT: usize = 1 << 16;

/// Up to 32 bits from bit `at` on; bits past the end are zero.
#[inline(always)]
fn bits_at(bytes: &[u8], at: usize) -> u64 {
    let byte = at / 8;
    let word = match bytes.get(byte..byte + 8).and_then(|b| b.first_chunk::<8>()) {
        Some(word) => u64::from_le_bytes(*word),
        None => {
            let mut word = [0u8; 8];
            let rest = bytes.get(byte..).unwrap_or_default();
            let n = rest.len().min(8);
            word[..n].copy_from_slice(&rest[..n]);
            u64::from_le_bytes(word)
        }
    };
    word >> (at % 8)
}

/// Places of the one bits from `from` on, into `out[n..]`; how many there are now, or
/// `None` if they are more than `out` holds.
#[inline(always)]
fn ones(bits: &[u8], from: usize, out: &mut [u32], mut n: usize) -> Option<usize> {
    for (i, piece) in bits[from..].chunks(8).enumerate() {
        let mut word = [0u8; 8];
        word[..piece.len()].copy_from_slice(piece);
        let mut word = u64::from_le_bytes(word);
        while word != 0 {
            *out.get_mut(n)? = ((from + i * 8) * 8) as u32 + word.trailing_zeros();
            n += 1;
            word &= word - 1;
        }
    }
    Some(n)
}

/// From places of one bits to positions, for `out[from..]`; `sum` is that of the
/// remainders before.
#[inline(always)]
fn join(k: u32, remainders: &[u8], out: &mut [u32], from: usize, mut sum: u32) {
    let mask = (1u64 << k) - 1;
    for (i, p) in out.iter_mut().enumerate().skip(from) {
        sum = sum.wrapping_add((bits_at(remainders, i * k as usize) & mask) as u32);
        let index = i as u32;
        *p = (p.wrapping_sub(index) << k)
            .wrapping_add(sum)
            .wrapping_add(index);
    }
}

/// Whether the streams are as long as they must be.
#[inline(always)]
fn lengths_agree(k: u32, remainders: &[u8], quotients: &[u8], count: usize) -> bool {
    k <= MAX_RICE
        && count < SEGMENT
        && remainders.len() == (count * k as usize).div_ceil(8)
        && quotients.len() <= SEGMENT / 4
}

/// Whether the quotients alone stay in a segment. Then no sum wraps: 65,535 remainders
/// of 15 bits are below 2^31.
#[inline(always)]
fn fits(k: u32, out: &[u32]) -> bool {
    let Some(last) = out.last() else { return true };
    let zeros = u64::from(*last) + 1 - out.len() as u64;
    zeros << k < SEGMENT as u64
}

#[inline(always)]
fn rice_body(k: u32, remainders: &[u8], quotients: &[u8], out: &mut [u32]) -> bool {
    if !lengths_agree(k, remainders, quotients, out.len())
        || ones(quotients, 0, out, 0) != Some(out.len())
        || !fits(k, out)
    {
        return false;
    }
    join(k, remainders, out, 0, 0);
    out.last().is_none_or(|p| (*p as usize) < SEGMENT)
}

pub(crate) mod rice {
    use super::rice_body;

    pub(crate) fn portable(k: u32, remainders: &[u8], quotients: &[u8], out: &mut [u32]) -> bool {
        rice_body(k, remainders, quotients, out)
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,popcnt,lzcnt")]
    pub(crate) fn avx2(k: u32, remainders: &[u8], quotients: &[u8], out: &mut [u32]) -> bool {
        rice_body(k, remainders, quotients, out)
    }

    /// Sixteen bits of the quotients at a time become the places of their ones by one
    /// compress in the register; sixteen remainders are opened by two permutations and
    /// shifts, and summed in four steps.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(
        enable = "avx2,fma,f16c,bmi1,bmi2,popcnt,lzcnt,avx512f,avx512bw,avx512vl,avx512dq,avx512cd"
    )]
    pub(crate) fn avx512(k: u32, remainders: &[u8], quotients: &[u8], out: &mut [u32]) -> bool {
        use std::arch::x86_64::*;

        use super::{SEGMENT, fits, join, lengths_agree, ones};
        if !lengths_agree(k, remainders, quotients, out.len()) {
            return false;
        }
        let lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        let (mut n, mut done) = (0, 0);
        let mut places = lanes;
        for bits in quotients.as_chunks::<2>().0 {
            let Some(to) = out.get_mut(n..).and_then(|o| o.first_chunk_mut::<16>()) else {
                break;
            };
            let bits = u16::from_le_bytes(*bits);
            let found = _mm512_maskz_compress_epi32(bits, places);
            // SAFETY: `to` is a reference to 16 u32, so all 64 bytes may be written.
            unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), found) };
            places = _mm512_add_epi32(places, _mm512_set1_epi32(16));
            n += bits.count_ones() as usize;
            done += 2;
        }
        // Near the end of the output a whole vector may not be written.
        if ones(quotients, done, out, n) != Some(out.len()) || !fits(k, out) {
            return false;
        }

        let zero = _mm512_setzero_si512();
        // Lane j: bits j·k … of a line of 16 remainders, which begins at a byte.
        let at = _mm512_mullo_epi32(lanes, _mm512_set1_epi32(k as i32));
        let low = _mm512_srli_epi32::<5>(at);
        let high = _mm512_add_epi32(low, _mm512_set1_epi32(1));
        let shift = _mm512_and_si512(at, _mm512_set1_epi32(31));
        let back = _mm512_sub_epi32(_mm512_set1_epi32(32), shift);
        let mask = _mm512_set1_epi32((1 << k) - 1);
        let count = _mm_cvtsi32_si128(k as i32);
        let mut sum = zero;
        let mut index = lanes;
        let mut full = 0;
        for (i, line) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            let from = &remainders[(i * 2 * k as usize).min(remainders.len())..];
            let have = u64::MAX >> (64 - from.len().clamp(1, 64));
            let have = if from.is_empty() { 0 } else { have };
            // SAFETY: lanes past the end of `from` are masked off and not read; `line` is
            // a reference to 16 u32.
            let (bits, e) = unsafe {
                (
                    _mm512_maskz_loadu_epi8(have, from.as_ptr().cast()),
                    _mm512_loadu_si512(line.as_ptr().cast()),
                )
            };
            let a = _mm512_srlv_epi32(_mm512_permutexvar_epi32(low, bits), shift);
            let b = _mm512_sllv_epi32(_mm512_permutexvar_epi32(high, bits), back);
            let mut r = _mm512_and_si512(_mm512_or_si512(a, b), mask);
            r = _mm512_add_epi32(r, _mm512_alignr_epi32::<15>(r, zero));
            r = _mm512_add_epi32(r, _mm512_alignr_epi32::<14>(r, zero));
            r = _mm512_add_epi32(r, _mm512_alignr_epi32::<12>(r, zero));
            r = _mm512_add_epi32(r, _mm512_alignr_epi32::<8>(r, zero));
            let q = _mm512_sll_epi32(_mm512_sub_epi32(e, index), count);
            r = _mm512_add_epi32(r, sum);
            sum = _mm512_permutexvar_epi32(_mm512_set1_epi32(15), r);
            let p = _mm512_add_epi32(_mm512_add_epi32(q, r), index);
            // SAFETY: `line` is a reference to 16 u32.
            unsafe { _mm512_storeu_si512(line.as_mut_ptr().cast(), p) };
            index = _mm512_add_epi32(index, _mm512_set1_epi32(16));
            full += 16;
        }
        join(k, remainders, out, full, _mm512_cvtsi512_si32(sum) as u32);
        out.last().is_none_or(|p| (*p as usize) < SEGMENT)
    }
}

/// Number of positions below `limit`, which are the first ones.
#[inline(always)]
fn below_body(positions: &[u32], limit: u32) -> usize {
    let (lines, rest) = positions.as_chunks::<16>();
    for (i, line) in lines.iter().enumerate() {
        let n: u32 = line.iter().map(|p| u32::from(*p < limit)).sum();
        if n < 16 {
            return i * 16 + n as usize;
        }
    }
    lines.len() * 16 + rest.iter().take_while(|p| **p < limit).count()
}

/// Not by `autovec!`: from the AVX-512 features the compiler makes sums of masks that take
/// ten times as long as those of AVX2 (measured with rustc 1.95).
pub(crate) mod below {
    use super::below_body;

    pub(crate) fn portable(positions: &[u32], limit: u32) -> usize {
        below_body(positions, limit)
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,popcnt,lzcnt")]
    pub(crate) fn avx2(positions: &[u32], limit: u32) -> usize {
        below_body(positions, limit)
    }
}

const L: usize = 16;

/// Sixteen sums to one: halves, quarters, eighths, pairs.
#[inline(always)]
fn total(mut sums: [f32; L]) -> f32 {
    let mut n = L / 2;
    while n > 0 {
        for i in 0..n {
            sums[i] += sums[i + n];
        }
        n /= 2;
    }
    sums[0]
}

/// Sixteen numbers, negated where the bits from `first` on are set.
#[inline(always)]
fn negate(x: [f32; L], signs: &[u8], first: usize) -> [f32; L] {
    let bits = bits_at(signs, first) as u32;
    std::array::from_fn(|j| f32::from_bits(x[j].to_bits() ^ (bits >> j & 1) << 31))
}

/// Whether bit `at` is set, as a sign.
#[inline(always)]
fn sign_at(signs: &[u8], at: usize) -> u32 {
    u32::from(signs[at / 8] >> (at % 8) & 1) << 31
}

/// `Σᵢ ± x[positions[i] − base]`; `load` reads sixteen columns.
#[inline(always)]
fn signed_body(
    positions: &[u32],
    base: u32,
    signs: &[u8],
    first: usize,
    x: &[f32],
    load: impl Fn(&[u32; L], u32, &[f32]) -> [f32; L],
) -> f32 {
    let mut sums = [0.0f32; L];
    let (lines, rest) = positions.as_chunks::<L>();
    for (i, line) in lines.iter().enumerate() {
        let t = negate(load(line, base, x), signs, first + i * L);
        for j in 0..L {
            sums[j] += t[j];
        }
    }
    for (j, p) in rest.iter().enumerate() {
        let x = x[p.wrapping_sub(base) as usize];
        let sign = sign_at(signs, first + lines.len() * L + j);
        sums[j] += f32::from_bits(x.to_bits() ^ sign);
    }
    total(sums)
}

#[inline(always)]
fn load_scalar(line: &[u32; L], base: u32, x: &[f32]) -> [f32; L] {
    std::array::from_fn(|j| x[line[j].wrapping_sub(base) as usize])
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f")]
fn load_512(line: &[u32; L], base: u32, x: &[f32]) -> [f32; L] {
    use std::arch::x86_64::*;
    // SAFETY: `line` is a reference to 16 u32.
    let p = unsafe { _mm512_loadu_si512(line.as_ptr().cast()) };
    let p = _mm512_sub_epi32(p, _mm512_set1_epi32(base as i32));
    let limit = x.len().min(i32::MAX as usize) as i32;
    let inside = _mm512_cmplt_epu32_mask(p, _mm512_set1_epi32(limit));
    assert!(inside == u16::MAX, "a position outside x");
    // SAFETY: every index was found to be below the length of `x` and 2^31.
    let v = unsafe { _mm512_i32gather_ps::<4>(p, x.as_ptr()) };
    let mut out = [0.0; L];
    // SAFETY: `out` is 16 f32.
    unsafe { _mm512_storeu_ps(out.as_mut_ptr(), v) };
    out
}

/// `Σ ± x[p − base]`, minus where bit `first + i` of `signs` is set.
pub(crate) mod signed {
    use super::*;

    pub(crate) fn portable(p: &[u32], base: u32, signs: &[u8], first: usize, x: &[f32]) -> f32 {
        signed_body(p, base, signs, first, x, load_scalar)
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,popcnt,lzcnt")]
    pub(crate) fn avx2(p: &[u32], base: u32, signs: &[u8], first: usize, x: &[f32]) -> f32 {
        signed_body(p, base, signs, first, x, load_scalar)
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(
        enable = "avx2,fma,f16c,bmi1,bmi2,popcnt,lzcnt,avx512f,avx512bw,avx512vl,avx512dq,avx512cd"
    )]
    pub(crate) fn avx512(p: &[u32], base: u32, signs: &[u8], first: usize, x: &[f32]) -> f32 {
        signed_body(p, base, signs, first, x, |p, b, x| load_512(p, b, x))
    }
}

#[inline(always)]
fn narrow_body(positions: &[u32], base: u32, out: &mut [u16]) {
    for (out, p) in out.iter_mut().zip(positions) {
        *out = p.wrapping_sub(base) as u16;
    }
}

autovec! {
    /// `p − base` in 16 bits.
    narrow = narrow_body; fn(positions: &[u32], base: u32, out: &mut [u16])
}

#[inline(always)]
fn sign_values_body(signs: &[u8], first: usize, scale: f32, out: &mut [f32]) {
    let (lines, rest) = out.as_chunks_mut::<L>();
    let full = lines.len() * L;
    for (i, line) in lines.iter_mut().enumerate() {
        *line = negate([scale; L], signs, first + i * L);
    }
    for (j, out) in rest.iter_mut().enumerate() {
        *out = f32::from_bits(scale.to_bits() ^ sign_at(signs, first + full + j));
    }
}

autovec! {
    /// `± scale`, minus where bit `first + i` of `signs` is set.
    sign_values = sign_values_body; fn(signs: &[u8], first: usize, scale: f32, out: &mut [f32])
}

/// `dst[c · stride + r] = src[r · cols + c]` for rows and columns of the ranges.
#[inline(always)]
fn transpose_part(
    src: &[f32],
    cols: usize,
    dst: &mut [f32],
    stride: usize,
    rows: std::ops::Range<usize>,
    columns: std::ops::Range<usize>,
) {
    for r in rows {
        for c in columns.clone() {
            dst[c * stride + r] = src[r * cols + c];
        }
    }
}

/// `dst[c][r] = src[r][c]`, in blocks of 16 × 16, which `block` does by 8 × 8: whole cache
/// lines of both are used up while they are there. Rows are often a power of two apart and
/// compete for the same places of the first cache, which has eight of each: so eight rows,
/// then the other eight.
#[inline(always)]
fn transpose_body(
    src: &[f32],
    cols: usize,
    dst: &mut [f32],
    stride: usize,
    block: impl Fn(&[f32], usize, &mut [f32], usize),
) {
    if cols == 0 {
        return;
    }
    let rows = src.len() / cols;
    assert!(src.len() == rows * cols && rows <= stride && dst.len() >= cols * stride);
    let (full_rows, full_cols) = (rows / 8 * 8, cols / 8 * 8);
    for r in (0..full_rows).step_by(16) {
        for c in (0..full_cols).step_by(16) {
            for r in (r..full_rows.min(r + 16)).step_by(8) {
                for c in (c..full_cols.min(c + 16)).step_by(8) {
                    let to = &mut dst[c * stride + r..];
                    block(&src[r * cols + c..], cols, to, stride);
                }
            }
        }
    }
    transpose_part(src, cols, dst, stride, 0..full_rows, full_cols..cols);
    transpose_part(src, cols, dst, stride, full_rows..rows, 0..cols);
}

pub(crate) mod transpose {
    use super::transpose_body;

    fn block(src: &[f32], cols: usize, dst: &mut [f32], stride: usize) {
        for (r, row) in src.chunks(cols).take(8).enumerate() {
            for (c, v) in row[..8].iter().enumerate() {
                dst[c * stride + r] = *v;
            }
        }
    }

    pub(crate) fn portable(src: &[f32], cols: usize, dst: &mut [f32], stride: usize) {
        transpose_body(src, cols, dst, stride, block);
    }

    #[cfg(target_arch = "x86_64")]
    pub(crate) use x86::avx2;

    #[cfg(target_arch = "x86_64")]
    mod x86 {
        use std::arch::x86_64::*;

        use super::transpose_body;

        /// 8 × 8 in registers: pairs of rows, then of pairs, then halves.
        #[inline]
        #[target_feature(enable = "avx2")]
        fn eight(src: &[f32], cols: usize, dst: &mut [f32], stride: usize) {
            assert!(src.len() >= 7 * cols + 8 && dst.len() >= 7 * stride + 8);
            // SAFETY: rows of eight begin 7 · cols (7 · stride) apart at most (asserted).
            unsafe {
                let mut a = [_mm256_setzero_ps(); 8];
                for (r, a) in a.iter_mut().enumerate() {
                    *a = _mm256_loadu_ps(src.as_ptr().add(r * cols));
                }
                let mut b = a;
                for i in 0..4 {
                    b[2 * i] = _mm256_unpacklo_ps(a[2 * i], a[2 * i + 1]);
                    b[2 * i + 1] = _mm256_unpackhi_ps(a[2 * i], a[2 * i + 1]);
                }
                let mut c = b;
                for i in 0..2 {
                    let [p, q, r, s] = [b[4 * i], b[4 * i + 1], b[4 * i + 2], b[4 * i + 3]];
                    c[4 * i] = _mm256_shuffle_ps::<0x44>(p, r);
                    c[4 * i + 1] = _mm256_shuffle_ps::<0xee>(p, r);
                    c[4 * i + 2] = _mm256_shuffle_ps::<0x44>(q, s);
                    c[4 * i + 3] = _mm256_shuffle_ps::<0xee>(q, s);
                }
                for i in 0..4 {
                    let low = _mm256_permute2f128_ps::<0x20>(c[i], c[i + 4]);
                    let high = _mm256_permute2f128_ps::<0x31>(c[i], c[i + 4]);
                    _mm256_storeu_ps(dst.as_mut_ptr().add(i * stride), low);
                    _mm256_storeu_ps(dst.as_mut_ptr().add((i + 4) * stride), high);
                }
            }
        }

        /// For AVX-512 too: its registers would need as many steps for each number.
        #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,popcnt,lzcnt")]
        pub(crate) fn avx2(src: &[f32], cols: usize, dst: &mut [f32], stride: usize) {
            transpose_body(src, cols, dst, stride, |src, cols, dst, stride| {
                eight(src, cols, dst, stride);
            });
        }
    }
}
