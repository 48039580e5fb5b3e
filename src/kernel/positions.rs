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
//! Sums are kept in sixteen lanes, lane = index in the row mod 16, which are added in one
//! order, product and sum rounded apart: every instruction set gives the same bits.

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

/// What is added for each active column.
trait Term {
    /// Of 16 columns from index `i` on.
    fn line(&self, i: usize, x: [f32; L]) -> [f32; L];
    /// Of the column of index `i`.
    fn one(&self, i: usize, x: f32) -> f32;
    /// A factor that `one` applies, in the form that suits a vector of lanes.
    fn across<const N: usize>(&self, i: usize, x: &[f32; N], sums: &mut [f32; N]);
}

struct Plain;
struct Scaled<'a>(&'a [f32]);
struct Signed<'a> {
    signs: &'a [u8],
    first: usize,
}

impl Term for Plain {
    #[inline(always)]
    fn line(&self, _: usize, x: [f32; L]) -> [f32; L] {
        x
    }
    #[inline(always)]
    fn one(&self, _: usize, x: f32) -> f32 {
        x
    }
    #[inline(always)]
    fn across<const N: usize>(&self, _: usize, x: &[f32; N], sums: &mut [f32; N]) {
        for (s, x) in sums.iter_mut().zip(x) {
            *s += x;
        }
    }
}

impl Term for Scaled<'_> {
    #[inline(always)]
    fn line(&self, i: usize, x: [f32; L]) -> [f32; L] {
        let v: &[f32; L] = self.0[i..].first_chunk().expect("a value a position");
        std::array::from_fn(|j| v[j] * x[j])
    }
    #[inline(always)]
    fn one(&self, i: usize, x: f32) -> f32 {
        self.0[i] * x
    }
    #[inline(always)]
    fn across<const N: usize>(&self, i: usize, x: &[f32; N], sums: &mut [f32; N]) {
        let v = self.0[i];
        for (s, x) in sums.iter_mut().zip(x) {
            *s += v * x;
        }
    }
}

impl Term for Signed<'_> {
    #[inline(always)]
    fn line(&self, i: usize, x: [f32; L]) -> [f32; L] {
        let bits = bits_at(self.signs, self.first + i) as u32;
        std::array::from_fn(|j| f32::from_bits(x[j].to_bits() ^ (bits >> j & 1) << 31))
    }
    #[inline(always)]
    fn one(&self, i: usize, x: f32) -> f32 {
        let bit = self.first + i;
        let negative = u32::from(self.signs[bit / 8] >> (bit % 8) & 1);
        f32::from_bits(x.to_bits() ^ negative << 31)
    }
    #[inline(always)]
    fn across<const N: usize>(&self, i: usize, x: &[f32; N], sums: &mut [f32; N]) {
        let bit = self.first + i;
        let negative = u32::from(self.signs[bit / 8] >> (bit % 8) & 1) << 31;
        for (s, x) in sums.iter_mut().zip(x) {
            *s += f32::from_bits(x.to_bits() ^ negative);
        }
    }
}

/// `Σᵢ term(i, x[positions[i] − base])`; `load` reads sixteen columns.
#[inline(always)]
fn gather_body(
    positions: &[u32],
    base: u32,
    x: &[f32],
    term: &impl Term,
    load: impl Fn(&[u32; L], u32, &[f32]) -> [f32; L],
) -> f32 {
    let mut sums = [0.0f32; L];
    let (lines, rest) = positions.as_chunks::<L>();
    for (i, line) in lines.iter().enumerate() {
        let t = term.line(i * L, load(line, base, x));
        for j in 0..L {
            sums[j] += t[j];
        }
    }
    for (j, p) in rest.iter().enumerate() {
        sums[j] += term.one(lines.len() * L + j, x[p.wrapping_sub(base) as usize]);
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

/// `sums[l] = Σᵢ term(i, panel[(positions[i] − base)·N + l])`.
#[inline(always)]
fn panel_lanes<const N: usize>(
    positions: &[u32],
    base: u32,
    panel: &[f32],
    term: &impl Term,
    sums: &mut [f32],
) {
    let panel = panel.as_chunks::<N>().0;
    let mut acc = [0.0f32; N];
    for (i, p) in positions.iter().enumerate() {
        term.across(i, &panel[p.wrapping_sub(base) as usize], &mut acc);
    }
    sums.copy_from_slice(&acc);
}

#[inline(always)]
fn panel_body(positions: &[u32], base: u32, panel: &[f32], term: &impl Term, sums: &mut [f32]) {
    match sums.len() {
        16 => panel_lanes::<16>(positions, base, panel, term, sums),
        32 => panel_lanes::<32>(positions, base, panel, term, sums),
        64 => panel_lanes::<64>(positions, base, panel, term, sums),
        n => panic!("a panel of {n} lanes"),
    }
}

/// Makes the three variants of a gathered sum.
macro_rules! gather {
    ($(#[$doc:meta])* $name:ident($($arg:ident: $ty:ty),*) = $term:expr) => {
        $(#[$doc])*
        pub(crate) mod $name {
            use super::*;
            pub(crate) fn portable(positions: &[u32], base: u32, $($arg: $ty,)* x: &[f32]) -> f32 {
                gather_body(positions, base, x, &$term, load_scalar)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,popcnt,lzcnt")]
            pub(crate) fn avx2(positions: &[u32], base: u32, $($arg: $ty,)* x: &[f32]) -> f32 {
                gather_body(positions, base, x, &$term, load_scalar)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,popcnt,lzcnt,avx512f,avx512bw,avx512vl,avx512dq,avx512cd")]
            pub(crate) fn avx512(positions: &[u32], base: u32, $($arg: $ty,)* x: &[f32]) -> f32 {
                gather_body(positions, base, x, &$term, |p, b, x| load_512(p, b, x))
            }
        }
    };
}

gather! {
    /// `Σ x[p − base]`.
    sum() = Plain
}
gather! {
    /// `Σ v · x[p − base]`.
    dot(values: &[f32]) = Scaled(values)
}
gather! {
    /// `Σ ± x[p − base]`, minus where bit `first + i` of `signs` is set.
    signed(signs: &[u8], first: usize) = Signed { signs, first }
}

#[inline(always)]
fn panel_sum_body(positions: &[u32], base: u32, panel: &[f32], sums: &mut [f32]) {
    panel_body(positions, base, panel, &Plain, sums);
}

autovec! {
    /// `sums[l] = Σ panel[p − base][l]`.
    panel_sum = panel_sum_body; fn(positions: &[u32], base: u32, panel: &[f32], sums: &mut [f32])
}

#[inline(always)]
fn panel_dot_body(positions: &[u32], base: u32, values: &[f32], panel: &[f32], sums: &mut [f32]) {
    panel_body(
        positions,
        base,
        panel,
        &Scaled(&values[..positions.len()]),
        sums,
    );
}

autovec! {
    /// `sums[l] = Σ v · panel[p − base][l]`.
    panel_dot = panel_dot_body;
    fn(positions: &[u32], base: u32, values: &[f32], panel: &[f32], sums: &mut [f32])
}

#[inline(always)]
fn panel_signed_body(
    positions: &[u32],
    base: u32,
    signs: &[u8],
    first: usize,
    panel: &[f32],
    sums: &mut [f32],
) {
    panel_body(positions, base, panel, &Signed { signs, first }, sums);
}

autovec! {
    /// `sums[l] = Σ ± panel[p − base][l]`.
    panel_signed = panel_signed_body;
    fn(positions: &[u32], base: u32, signs: &[u8], first: usize, panel: &[f32], sums: &mut [f32])
}

/// `dst[c][r] = src[r][c]`, in blocks of 16 × 16 that stay in registers and first cache.
#[inline(always)]
fn transpose_body(src: &[f32], cols: usize, dst: &mut [f32], stride: usize) {
    if cols == 0 {
        return;
    }
    let rows = src.len() / cols;
    assert!(src.len() == rows * cols && rows <= stride && dst.len() >= cols * stride);
    for r0 in (0..rows).step_by(16) {
        let nr = 16.min(rows - r0);
        for c0 in (0..cols).step_by(16) {
            let nc = 16.min(cols - c0);
            if nr == 16 && nc == 16 {
                let mut block = [[0.0f32; 16]; 16];
                for (r, block) in block.iter_mut().enumerate() {
                    let from = (r0 + r) * cols + c0;
                    block.copy_from_slice(&src[from..from + 16]);
                }
                let lines = dst[c0 * stride..].chunks_mut(stride).take(16);
                for (c, line) in lines.enumerate() {
                    let column: [f32; 16] = std::array::from_fn(|r| block[r][c]);
                    line[r0..r0 + 16].copy_from_slice(&column);
                }
                continue;
            }
            for r in r0..r0 + nr {
                for c in c0..c0 + nc {
                    dst[c * stride + r] = src[r * cols + c];
                }
            }
        }
    }
}

autovec! {
    /// `dst[c · stride + r] = src[r · cols + c]` for every row of `src`.
    transpose = transpose_body; fn(src: &[f32], cols: usize, dst: &mut [f32], stride: usize)
}
