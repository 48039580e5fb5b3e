//! Byte and bit transposes and differences: the inner loops of the byte filters.
//!
//! Layouts, with `n = src.len() / width` whole elements and a tail of fewer than
//! `width` bytes that every loop here copies as it is:
//!
//! ```text
//! shuffle    dst[j·n + i]           = byte j of element i
//! delta      element i of dst       = element i − element i−1, element −1 being 0
//! bit_split  bit i of plane b [k]   = bit b of src[8·k + i]
//! ```
//!
//! A 16 × W byte matrix in W vector registers is transposed in log2(W) rounds of
//! unpacks. The two lanes of a 256-bit register work on two such matrices, loaded
//! from and stored to places 16 elements apart, so that nothing has to cross lanes.
//! The 512-bit set takes the same code for bytes, which is already as fast as L2, and
//! its mask registers for bits, which doubles their speed.

use super::autovec;

/// Elements that the portable transposes take at a time: arrays of known size, which a
/// compiler turns into interleaved loads and stores where the target has them.
const BLOCK: usize = 32;

pub(crate) fn shuffle(src: &[u8], dst: &mut [u8], width: usize) {
    match width {
        2 => shuffle_from::<2>(src, dst, 0),
        4 => shuffle_from::<4>(src, dst, 0),
        8 => shuffle_from::<8>(src, dst, 0),
        _ => dst.copy_from_slice(src),
    }
}

/// Elements from `start` on, and the tail.
#[inline(always)]
fn shuffle_from<const W: usize>(src: &[u8], dst: &mut [u8], start: usize) {
    assert_eq!(src.len(), dst.len());
    let (elements, tail) = src.as_chunks::<W>();
    let n = elements.len();
    let (planes, rest) = dst.split_at_mut(n * W);
    rest.copy_from_slice(tail);
    let (blocks, last) = elements[start..].as_chunks::<BLOCK>();
    for (b, block) in blocks.iter().enumerate() {
        let mut bytes = [[0; BLOCK]; W];
        for (i, element) in block.iter().enumerate() {
            for j in 0..W {
                bytes[j][i] = element[j];
            }
        }
        for (j, bytes) in bytes.iter().enumerate() {
            planes[j * n + start + b * BLOCK..][..BLOCK].copy_from_slice(bytes);
        }
    }
    for (i, element) in (n - last.len()..).zip(last) {
        for (j, byte) in element.iter().enumerate() {
            planes[j * n + i] = *byte;
        }
    }
}

pub(crate) fn unshuffle(src: &[u8], dst: &mut [u8], width: usize) {
    match width {
        2 => unshuffle_from::<2>(src, dst, 0),
        4 => unshuffle_from::<4>(src, dst, 0),
        8 => unshuffle_from::<8>(src, dst, 0),
        _ => dst.copy_from_slice(src),
    }
}

#[inline(always)]
fn unshuffle_from<const W: usize>(src: &[u8], dst: &mut [u8], start: usize) {
    assert_eq!(src.len(), dst.len());
    let (elements, rest) = dst.as_chunks_mut::<W>();
    let n = elements.len();
    rest.copy_from_slice(&src[n * W..]);
    let (blocks, last) = elements[start..].as_chunks_mut::<BLOCK>();
    for (b, block) in blocks.iter_mut().enumerate() {
        let mut bytes = [[0; BLOCK]; W];
        for (j, bytes) in bytes.iter_mut().enumerate() {
            bytes.copy_from_slice(&src[j * n + start + b * BLOCK..][..BLOCK]);
        }
        for (i, element) in block.iter_mut().enumerate() {
            *element = std::array::from_fn(|j| bytes[j][i]);
        }
    }
    for (i, element) in (n - last.len()..).zip(last) {
        *element = std::array::from_fn(|j| src[j * n + i]);
    }
}

/// The 8 × 8 bit matrix whose row r is byte r, transposed: three swaps of ever larger
/// off-diagonal blocks.
#[inline(always)]
fn transpose8(mut x: u64) -> u64 {
    let t = (x ^ (x >> 7)) & 0x00aa_00aa_00aa_00aa;
    x ^= t ^ (t << 7);
    let t = (x ^ (x >> 14)) & 0x0000_cccc_0000_cccc;
    x ^= t ^ (t << 14);
    let t = (x ^ (x >> 28)) & 0x0000_0000_f0f0_f0f0;
    x ^ t ^ (t << 28)
}

/// `len` bytes of each of eight planes that begin `stride` bytes apart.
#[inline(always)]
fn planes(src: &[u8], stride: usize, len: usize) -> [&[u8]; 8] {
    std::array::from_fn(|b| &src[b * stride..][..len])
}

#[inline(always)]
fn planes_mut(dst: &mut [u8], stride: usize, len: usize) -> [&mut [u8]; 8] {
    let mut rest = dst.chunks_mut(stride);
    std::array::from_fn(|_| &mut rest.next().expect("eight planes")[..len])
}

pub(crate) fn bit_split(src: &[u8], dst: &mut [u8], stride: usize) {
    if !src.is_empty() {
        bit_split_from(src, planes_mut(dst, stride, src.len() / 8), 0);
    }
}

/// Groups of eight bytes from `start` on.
#[inline(always)]
fn bit_split_from(src: &[u8], mut planes: [&mut [u8]; 8], start: usize) {
    for (k, group) in src.as_chunks::<8>().0.iter().enumerate().skip(start) {
        let bits = transpose8(u64::from_le_bytes(*group)).to_le_bytes();
        for (plane, byte) in planes.iter_mut().zip(bits) {
            plane[k] = byte;
        }
    }
}

pub(crate) fn bit_join(src: &[u8], dst: &mut [u8], stride: usize) {
    if !dst.is_empty() {
        let len = dst.len() / 8;
        bit_join_from(planes(src, stride, len), dst, 0);
    }
}

#[inline(always)]
fn bit_join_from(planes: [&[u8]; 8], dst: &mut [u8], start: usize) {
    for (k, group) in dst
        .as_chunks_mut::<8>()
        .0
        .iter_mut()
        .enumerate()
        .skip(start)
    {
        let bits = u64::from_le_bytes(std::array::from_fn(|b| planes[b][k]));
        *group = transpose8(bits).to_le_bytes();
    }
}

macro_rules! differences {
    ($encode:ident, $decode:ident, $int:ty) => {
        #[inline(always)]
        fn $encode(src: &[u8], dst: &mut [u8]) {
            const W: usize = size_of::<$int>();
            let (x, tail) = src.as_chunks::<W>();
            let (y, rest) = dst.as_chunks_mut::<W>();
            rest.copy_from_slice(tail);
            y[..x.len().min(1)].copy_from_slice(&x[..x.len().min(1)]);
            for ((y, a), b) in y.iter_mut().skip(1).zip(x).zip(x.iter().skip(1)) {
                let step = <$int>::from_le_bytes(*b).wrapping_sub(<$int>::from_le_bytes(*a));
                *y = step.to_le_bytes();
            }
        }

        #[inline(always)]
        fn $decode(src: &[u8], dst: &mut [u8]) {
            const W: usize = size_of::<$int>();
            let (x, tail) = src.as_chunks::<W>();
            let (y, rest) = dst.as_chunks_mut::<W>();
            rest.copy_from_slice(tail);
            let mut sum: $int = 0;
            for (y, x) in y.iter_mut().zip(x) {
                sum = sum.wrapping_add(<$int>::from_le_bytes(*x));
                *y = sum.to_le_bytes();
            }
        }
    };
}
differences!(delta1, undelta1, u8);
differences!(delta2, undelta2, u16);
differences!(delta4, undelta4, u32);
differences!(delta8, undelta8, u64);

#[inline(always)]
fn delta_body(src: &[u8], dst: &mut [u8], width: usize) {
    assert_eq!(src.len(), dst.len());
    match width {
        1 => delta1(src, dst),
        2 => delta2(src, dst),
        4 => delta4(src, dst),
        8 => delta8(src, dst),
        _ => dst.copy_from_slice(src),
    }
}

#[inline(always)]
fn undelta_body(src: &[u8], dst: &mut [u8], width: usize) {
    assert_eq!(src.len(), dst.len());
    match width {
        1 => undelta1(src, dst),
        2 => undelta2(src, dst),
        4 => undelta4(src, dst),
        8 => undelta8(src, dst),
        _ => dst.copy_from_slice(src),
    }
}

autovec!(delta = delta_body; fn(src: &[u8], dst: &mut [u8], width: usize));
autovec!(undelta = undelta_body; fn(src: &[u8], dst: &mut [u8], width: usize));

#[cfg(target_arch = "x86_64")]
pub(crate) mod x86 {
    use std::arch::x86_64::*;

    use super::{bit_join_from, bit_split_from, planes, planes_mut};
    use super::{shuffle_from, unshuffle_from};

    #[inline]
    #[target_feature(enable = "avx2")]
    fn load(from: &[u8; 32]) -> __m256i {
        // SAFETY: reads 32 bytes through a reference to 32 bytes, at any alignment.
        unsafe { _mm256_loadu_si256(from.as_ptr().cast()) }
    }

    /// Two pieces as the two lanes of a vector.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn load2(low: &[u8; 16], high: &[u8; 16]) -> __m256i {
        // SAFETY: reads 16 bytes through each reference to 16 bytes, at any alignment.
        unsafe { _mm256_loadu2_m128i(high.as_ptr().cast(), low.as_ptr().cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn store2(v: __m256i, low: &mut [u8; 16], high: &mut [u8; 16]) {
        // SAFETY: writes 16 bytes through each reference to 16 bytes, at any alignment.
        unsafe { _mm256_storeu2_m128i(high.as_mut_ptr().cast(), low.as_mut_ptr().cast(), v) }
    }

    /// Unpacks neighbours in units of `B` bytes; low halves come first. After all
    /// rounds the registers stand in bit-reversed order.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn round<const W: usize, const B: usize>(v: [__m256i; W]) -> [__m256i; W] {
        let mut out = v;
        for i in 0..W / 2 {
            let (a, b) = (v[2 * i], v[2 * i + 1]);
            (out[i], out[W / 2 + i]) = match B {
                1 => (_mm256_unpacklo_epi8(a, b), _mm256_unpackhi_epi8(a, b)),
                2 => (_mm256_unpacklo_epi16(a, b), _mm256_unpackhi_epi16(a, b)),
                4 => (_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b)),
                _ => (_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b)),
            };
        }
        out
    }

    /// Where register `i` belongs after the rounds.
    const fn reversed<const W: usize>(i: usize) -> usize {
        i.reverse_bits() >> (usize::BITS - W.trailing_zeros())
    }

    /// W planes of 16 bytes in each lane, to 16 elements of W bytes.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn interleave<const W: usize>(mut v: [__m256i; W]) -> [__m256i; W] {
        v = round::<W, 1>(v);
        if W >= 4 {
            v = round::<W, 2>(v);
        }
        if W == 8 {
            v = round::<W, 4>(v);
        }
        v
    }

    /// The inverse: bytes of one place together first, then the rounds.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn deinterleave<const W: usize>(mut v: [__m256i; W]) -> [__m256i; W] {
        let order: [u8; 32] = const {
            let mut order = [0; 32];
            let mut p = 0;
            while p < 32 {
                let (place, element) = (p % 16 / (16 / W), p % (16 / W));
                order[p] = (element * W + place) as u8;
                p += 1;
            }
            order
        };
        let order = load(&order);
        for v in &mut v {
            *v = _mm256_shuffle_epi8(*v, order);
        }
        if W == 8 {
            v = round::<W, 2>(v);
        }
        if W >= 4 {
            v = round::<W, 4>(v);
        }
        round::<W, 8>(v)
    }

    #[target_feature(enable = "avx2")]
    fn shuffle_n<const W: usize>(src: &[u8], dst: &mut [u8]) {
        assert_eq!(src.len(), dst.len());
        let n = src.len() / W;
        if n >= 32 {
            let mut rest = dst.chunks_exact_mut(n);
            let planes: [&mut [[u8; 16]]; W] =
                std::array::from_fn(|_| rest.next().expect("W planes").as_chunks_mut().0);
            for (k, block) in src.as_chunks::<16>().0.chunks_exact(2 * W).enumerate() {
                let mut v = [_mm256_setzero_si256(); W];
                for i in 0..W {
                    v[i] = load2(&block[i], &block[W + i]);
                }
                v = deinterleave(v);
                for i in 0..W {
                    let [low, high] = &mut planes[reversed::<W>(i)].as_chunks_mut::<2>().0[k];
                    store2(v[i], low, high);
                }
            }
        }
        shuffle_from::<W>(src, dst, n / 32 * 32);
    }

    #[target_feature(enable = "avx2")]
    pub(crate) fn shuffle(src: &[u8], dst: &mut [u8], width: usize) {
        match width {
            2 => shuffle_n::<2>(src, dst),
            4 => shuffle_n::<4>(src, dst),
            8 => shuffle_n::<8>(src, dst),
            _ => dst.copy_from_slice(src),
        }
    }

    #[target_feature(enable = "avx2")]
    fn unshuffle_n<const W: usize>(src: &[u8], dst: &mut [u8]) {
        assert_eq!(src.len(), dst.len());
        let n = src.len() / W;
        if n >= 32 {
            let planes: [&[[u8; 16]]; W] = std::array::from_fn(|j| src[j * n..][..n].as_chunks().0);
            let blocks = dst.as_chunks_mut::<16>().0.chunks_exact_mut(2 * W);
            for (k, block) in blocks.enumerate() {
                let mut v = [_mm256_setzero_si256(); W];
                for (v, plane) in v.iter_mut().zip(&planes) {
                    let [low, high] = &plane.as_chunks::<2>().0[k];
                    *v = load2(low, high);
                }
                v = interleave(v);
                let (low, high) = block.split_at_mut(W);
                for (i, v) in v.into_iter().enumerate() {
                    let at = reversed::<W>(i);
                    store2(v, &mut low[at], &mut high[at]);
                }
            }
        }
        unshuffle_from::<W>(src, dst, n / 32 * 32);
    }

    #[target_feature(enable = "avx2")]
    pub(crate) fn unshuffle(src: &[u8], dst: &mut [u8], width: usize) {
        match width {
            2 => unshuffle_n::<2>(src, dst),
            4 => unshuffle_n::<4>(src, dst),
            8 => unshuffle_n::<8>(src, dst),
            _ => dst.copy_from_slice(src),
        }
    }

    /// The top bits of 32 bytes at a time, eight times.
    #[target_feature(enable = "avx2")]
    pub(crate) fn bit_split(src: &[u8], dst: &mut [u8], stride: usize) {
        if src.is_empty() {
            return;
        }
        let mut planes = planes_mut(dst, stride, src.len() / 8);
        for (k, bytes) in src.as_chunks::<32>().0.iter().enumerate() {
            let mut x = load(bytes);
            for plane in planes.iter_mut().rev() {
                let top = _mm256_movemask_epi8(x) as u32;
                plane.as_chunks_mut::<4>().0[k] = top.to_le_bytes();
                x = _mm256_add_epi8(x, x);
            }
        }
        bit_split_from(src, planes, src.len() / 32 * 4);
    }

    /// [`transpose8`](super::transpose8) in four places at once.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn transpose8(mut x: __m256i) -> __m256i {
        macro_rules! swap {
            ($shift:literal, $mask:literal) => {
                let mask = _mm256_set1_epi64x($mask);
                let t = _mm256_and_si256(_mm256_xor_si256(x, _mm256_srli_epi64::<$shift>(x)), mask);
                x = _mm256_xor_si256(x, _mm256_xor_si256(t, _mm256_slli_epi64::<$shift>(t)));
            };
        }
        swap!(7, 0x00aa_00aa_00aa_00aa);
        swap!(14, 0x0000_cccc_0000_cccc);
        swap!(28, 0x0000_0000_f0f0_f0f0);
        x
    }

    /// 32 bytes of each plane interleaved to eight-byte groups, each then transposed.
    #[target_feature(enable = "avx2")]
    pub(crate) fn bit_join(src: &[u8], dst: &mut [u8], stride: usize) {
        if dst.is_empty() {
            return;
        }
        let planes = planes(src, stride, dst.len() / 8);
        let whole = dst.len() / 256;
        for (k, block) in dst.as_chunks_mut::<256>().0.iter_mut().enumerate() {
            let mut v = [_mm256_setzero_si256(); 8];
            for (v, plane) in v.iter_mut().zip(&planes) {
                *v = load(&plane.as_chunks::<32>().0[k]);
            }
            v = interleave(v);
            let (low, high) = block.as_chunks_mut::<16>().0.split_at_mut(8);
            for (i, v) in v.into_iter().enumerate() {
                let at = reversed::<8>(i);
                store2(transpose8(v), &mut low[at], &mut high[at]);
            }
        }
        bit_join_from(planes, dst, whole * 32);
    }

    /// As the AVX2 one, with 64 bits of a plane from each vector.
    #[target_feature(enable = "avx2,avx512f,avx512bw")]
    pub(crate) fn bit_split_512(src: &[u8], dst: &mut [u8], stride: usize) {
        if src.is_empty() {
            return;
        }
        let mut planes = planes_mut(dst, stride, src.len() / 8);
        for (k, bytes) in src.as_chunks::<64>().0.iter().enumerate() {
            // SAFETY: reads 64 bytes through a reference to 64 bytes, at any alignment.
            let mut x = unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) };
            for plane in planes.iter_mut().rev() {
                plane.as_chunks_mut::<8>().0[k] = _mm512_movepi8_mask(x).to_le_bytes();
                x = _mm512_add_epi8(x, x);
            }
        }
        bit_split_from(src, planes, src.len() / 64 * 8);
    }

    /// 64 bits of a plane are the mask that says which bytes get its bit.
    #[target_feature(enable = "avx2,avx512f,avx512bw")]
    pub(crate) fn bit_join_512(src: &[u8], dst: &mut [u8], stride: usize) {
        if dst.is_empty() {
            return;
        }
        let planes = planes(src, stride, dst.len() / 8);
        let whole = dst.len() / 64;
        for (k, bytes) in dst.as_chunks_mut::<64>().0.iter_mut().enumerate() {
            let mut x = _mm512_setzero_si512();
            for (b, plane) in planes.iter().enumerate() {
                let mask = u64::from_le_bytes(plane.as_chunks::<8>().0[k]);
                let bit = _mm512_maskz_set1_epi8(mask, (1u8 << b) as i8);
                x = _mm512_or_si512(x, bit);
            }
            // SAFETY: writes 64 bytes through a reference to 64 bytes, at any alignment.
            unsafe { _mm512_storeu_si512(bytes.as_mut_ptr().cast(), x) };
        }
        bit_join_from(planes, dst, whole * 8);
    }
}

#[cfg(test)]
mod tests {
    use crate::kernel::available;

    /// A fixed sequence of bytes without visible order.
    fn bytes(len: usize, seed: u64) -> Vec<u8> {
        let mut x = seed | 1;
        let mut next = || {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            (x >> 32) as u8
        };
        (0..len).map(|_| next()).collect()
    }

    /// Runs `check(src, dst)` for every length to 600 (past two of the largest
    /// blocks, 256 bytes) and every start within a vector's worth of odd alignments.
    fn every_length(mut check: impl FnMut(&[u8], &mut [u8])) {
        let src = bytes(700, 7);
        let mut dst = vec![0; 700];
        for len in 0..=600 {
            for at in [0, 1, 3, 8, 31] {
                dst.fill(0xa5);
                check(&src[at..at + len], &mut dst[at / 2..at / 2 + len]);
                let outside = dst[..at / 2].iter().chain(&dst[at / 2 + len..]);
                assert!(outside.copied().all(|b| b == 0xa5));
            }
        }
    }

    fn naive_shuffle(src: &[u8], width: usize) -> Vec<u8> {
        let n = src.len() / width;
        let mut out = src.to_vec();
        for i in 0..n {
            for j in 0..width {
                out[j * n + i] = src[i * width + j];
            }
        }
        out
    }

    #[test]
    fn shuffle_is_the_byte_transpose() {
        for set in available() {
            for width in [1, 2, 4, 8] {
                every_length(|src, dst| {
                    let expected = naive_shuffle(src, width);
                    set.shuffle(src, dst, width);
                    assert_eq!(dst, expected, "{} {width}", set.isa().name());
                    set.unshuffle(&expected, dst, width);
                    assert_eq!(dst, src, "{} {width}", set.isa().name());
                });
            }
        }
    }

    fn naive_delta(src: &[u8], width: usize) -> Vec<u8> {
        let mut out = src.to_vec();
        for i in 1..src.len() / width {
            let mut borrow = 0;
            for j in i * width..(i + 1) * width {
                let d = i16::from(src[j]) - i16::from(src[j - width]) - borrow;
                borrow = i16::from(d < 0);
                out[j] = d as u8;
            }
        }
        out
    }

    #[test]
    fn delta_is_the_difference() {
        for set in available() {
            for width in [1, 2, 4, 8] {
                every_length(|src, dst| {
                    let expected = naive_delta(src, width);
                    set.delta(src, dst, width);
                    assert_eq!(dst, expected, "{} {width}", set.isa().name());
                    set.undelta(&expected, dst, width);
                    assert_eq!(dst, src, "{} {width}", set.isa().name());
                });
            }
        }
    }

    #[test]
    fn bit_split_is_the_bit_transpose() {
        for set in available() {
            for gap in [0, 1, 5] {
                every_length(|src, dst| {
                    let src = &src[..src.len() / 8 * 8];
                    let dst = &mut dst[..src.len()];
                    let stride = src.len() / 8 + gap;
                    let mut expected = vec![0; stride * 8];
                    for (i, byte) in src.iter().enumerate() {
                        for b in 0..8 {
                            expected[b * stride + i / 8] |= (byte >> b & 1) << (i % 8);
                        }
                    }
                    let mut planes = vec![0; stride * 8];
                    set.bit_split(src, &mut planes, stride);
                    assert_eq!(planes, expected, "{}", set.isa().name());
                    set.bit_join(&planes, dst, stride);
                    assert_eq!(dst, src, "{}", set.isa().name());
                });
            }
        }
    }
}
