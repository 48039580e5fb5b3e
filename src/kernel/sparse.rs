//! Bitmask rows: making, counting, opening, multiplying.
//!
//! Bit `i % 8` of byte `i / 8` of a row's mask says that column `i` holds a value;
//! values follow each other in row order.

use super::autovec;

/// Reads up to eight mask bytes as a little-endian word.
#[inline(always)]
fn word(mask: &[u8], at: usize) -> u64 {
    let mut bytes = [0u8; 8];
    let n = (mask.len() - at).min(8);
    bytes[..n].copy_from_slice(&mask[at..at + n]);
    u64::from_le_bytes(bytes)
}

#[inline(always)]
fn count_body(mask: &[u8]) -> usize {
    let (words, _) = mask.as_chunks::<8>();
    let full: u32 = words
        .iter()
        .map(|w| u64::from_le_bytes(*w).count_ones())
        .sum();
    let tail: u32 = mask[words.len() * 8..].iter().map(|b| b.count_ones()).sum();
    (full + tail) as usize
}

autovec! {
    /// Number of set bits.
    count = count_body; fn(mask: &[u8]) -> usize
}

/// Opens one row: `out[i]` is the next value where bit `i` is set, else zero.
/// Returns the number of values taken. `values` must hold as many as there are bits.
#[inline(always)]
fn expand_row_body(mask: &[u8], values: &[f32], out: &mut [f32]) -> usize {
    out.fill(0.0);
    let mut next = 0;
    let mut at = 0;
    while at < mask.len() {
        let mut bits = word(mask, at);
        let out = &mut out[at * 8..];
        while bits != 0 {
            let i = bits.trailing_zeros() as usize;
            out[i] = values[next];
            next += 1;
            bits &= bits - 1;
        }
        at += 8;
    }
    next
}

pub(crate) mod expand_row {
    use super::expand_row_body;

    pub(crate) fn portable(mask: &[u8], values: &[f32], out: &mut [f32]) -> usize {
        expand_row_body(mask, values, out)
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,popcnt,lzcnt")]
    pub(crate) fn avx2(mask: &[u8], values: &[f32], out: &mut [f32]) -> usize {
        expand_row_body(mask, values, out)
    }

    /// Sixteen columns at a time: load the next sixteen values, spread them in the
    /// register by the mask. Loading first and spreading after is what keeps this fast:
    /// the forms of the instruction that spread from memory are microcoded on Zen 4.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(
        enable = "avx2,fma,f16c,bmi1,bmi2,popcnt,lzcnt,avx512f,avx512bw,avx512vl,avx512dq,avx512cd"
    )]
    pub(crate) fn avx512(mask: &[u8], values: &[f32], out: &mut [f32]) -> usize {
        use std::arch::x86_64::{_mm512_loadu_ps, _mm512_maskz_expand_ps, _mm512_storeu_ps};
        let mut next = 0;
        let (chunks, _) = out.as_chunks_mut::<16>();
        let mut done = 0;
        for (chunk, bits) in chunks.iter_mut().zip(mask.as_chunks::<2>().0) {
            let bits = u16::from_le_bytes(*bits);
            let Some(source) = values[next..].first_chunk::<16>() else {
                break;
            };
            // SAFETY: `source` is a reference to 16 f32, so all 64 bytes may be read.
            let v = unsafe { _mm512_loadu_ps(source.as_ptr()) };
            let v = _mm512_maskz_expand_ps(bits, v);
            // SAFETY: `chunk` is a reference to 16 f32, so all 64 bytes may be written.
            unsafe { _mm512_storeu_ps(chunk.as_mut_ptr(), v) };
            next += bits.count_ones() as usize;
            done += 16;
        }
        // Near the end of the values a whole vector may not be read.
        next + expand_row_body(
            &mask[(done / 8).min(mask.len())..],
            &values[next..],
            &mut out[done..],
        )
    }
}

/// `Σ v · x[i]` over the set bits of one row, in the order of the columns.
#[inline(always)]
fn dot_row_body(mask: &[u8], values: &[f32], x: &[f32]) -> f32 {
    // Four sums in turn, so that additions do not wait for each other.
    let mut sums = [0.0f32; 4];
    let mut next = 0;
    let mut at = 0;
    while at < mask.len() {
        let mut bits = word(mask, at);
        let x = &x[at * 8..];
        while bits != 0 {
            let i = bits.trailing_zeros() as usize;
            sums[next % 4] += values[next] * x[i];
            next += 1;
            bits &= bits - 1;
        }
        at += 8;
    }
    (sums[0] + sums[1]) + (sums[2] + sums[3])
}

autovec! {
    /// Product of one masked row with one row of `x`, touching set columns only.
    dot_row = dot_row_body; fn(mask: &[u8], values: &[f32], x: &[f32]) -> f32
}
