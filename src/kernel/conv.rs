//! Inner loops of convolutions.
//!
//! The input lies in *lines*: samples that were padded and cut into phases beforehand, so
//! that what one tap of the kernel sees at neighbouring outputs is a run of neighbouring
//! samples. A tap is then an offset, and a vector of the machine holds neighbouring
//! outputs: nothing is gathered, and no sum crosses lanes. Sums are formed tap by tap in
//! the order given, so that results do not depend on how outputs are cut into pieces.

// Indices stand for rows and vectors in several arrays at once.
#![allow(clippy::needless_range_loop)]

/// One product of a sum: which weight of a row, and the sample that output 0 multiplies
/// with it.
#[derive(Clone, Copy, Debug)]
pub struct Tap {
    /// Place of the weight from the row's first.
    pub weight: usize,
    /// Place of the sample from the line's first.
    pub sample: usize,
}

/// Some rows of weights that see the same samples.
#[derive(Clone, Copy, Debug)]
pub struct Weights<'a> {
    /// The weights; the first is that of place 0 of row 0.
    pub data: &'a [f32],
    /// Number of rows.
    pub rows: usize,
    /// Elements from one row to the next.
    pub stride: usize,
}

/// Checks what the loops below rely on; false if there is nothing to do.
fn checked_sum(
    w: &Weights<'_>,
    taps: &[Tap],
    x: &[f32],
    out: &[f32],
    out_stride: usize,
    n: usize,
) -> bool {
    if n == 0 || w.rows == 0 {
        return false;
    }
    assert!(!taps.is_empty());
    let weight = taps.iter().map(|t| t.weight).fold(0, usize::max);
    let sample = taps.iter().map(|t| t.sample).fold(0, usize::max);
    let last = w.rows - 1;
    assert!(n <= x.len() && sample <= x.len() - n);
    assert!(last * w.stride + weight < w.data.len());
    assert!(n <= out_stride && last * out_stride + n <= out.len());
    true
}

/// The largest of the row counts `sizes`, descending to 1, that `left` allows.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn step(left: usize, sizes: &[usize]) -> usize {
    sizes.iter().copied().find(|s| *s <= left).unwrap_or(1)
}

/// `out[r][i] = Σ w[r][tap.weight] · x[tap.sample + i]`, added to what was there or not.
pub(crate) mod sum {
    use super::{Tap, Weights, checked_sum};
    #[cfg(target_arch = "x86_64")]
    pub(crate) use x86::{avx2, avx512};

    pub(crate) fn portable(
        w: &Weights<'_>,
        taps: &[Tap],
        x: &[f32],
        out: &mut [f32],
        out_stride: usize,
        n: usize,
        add: bool,
    ) {
        const L: usize = 16;
        if !checked_sum(w, taps, x, out, out_stride, n) {
            return;
        }
        for (r, out) in out.chunks_mut(out_stride).take(w.rows).enumerate() {
            let w = &w.data[r * w.stride..];
            let (whole, rest) = out[..n].as_chunks_mut::<L>();
            for (i, out) in whole.iter_mut().enumerate() {
                let mut acc = if add { *out } else { [0.0; L] };
                for tap in taps {
                    let w = w[tap.weight];
                    let x = &x[tap.sample + i * L..tap.sample + i * L + L];
                    for (a, x) in acc.iter_mut().zip(x) {
                        *a += w * x;
                    }
                }
                *out = acc;
            }
            let done = n - rest.len();
            for (i, out) in rest.iter_mut().enumerate() {
                let mut acc = if add { *out } else { 0.0 };
                for tap in taps {
                    acc += w[tap.weight] * x[tap.sample + done + i];
                }
                *out = acc;
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    mod x86 {
        use std::arch::x86_64::*;

        use super::super::{Tap, Weights, checked_sum, step};

        /// `R` rows × `V` vectors of outputs, the last vector under `mask`.
        ///
        /// # Safety
        /// For each tap and r < R: `w[r · w_stride + tap.weight]` can be read, and at
        /// `x[tap.sample]` and `out[r · out_stride]` there are as many elements as `V − 1`
        /// vectors and the mask have.
        #[inline]
        #[target_feature(enable = "avx512f")]
        unsafe fn tile_512<const R: usize, const V: usize>(
            (w, w_stride): (*const f32, usize),
            taps: &[Tap],
            x: *const f32,
            (out, out_stride): (*mut f32, usize),
            mask: __mmask16,
            add: bool,
        ) {
            // SAFETY: all within what the caller promised; lanes outside the mask are not
            // touched.
            unsafe {
                let load = |p: *const f32, v: usize| match v + 1 < V {
                    true => _mm512_loadu_ps(p.add(16 * v)),
                    false => _mm512_maskz_loadu_ps(mask, p.add(16 * v)),
                };
                let mut acc = [[_mm512_setzero_ps(); V]; R];
                if add {
                    for r in 0..R {
                        for v in 0..V {
                            acc[r][v] = load(out.add(r * out_stride), v);
                        }
                    }
                }
                for tap in taps {
                    let mut samples = [_mm512_setzero_ps(); V];
                    for v in 0..V {
                        samples[v] = load(x.add(tap.sample), v);
                    }
                    for r in 0..R {
                        let w = _mm512_set1_ps(*w.add(r * w_stride + tap.weight));
                        for v in 0..V {
                            acc[r][v] = _mm512_fmadd_ps(w, samples[v], acc[r][v]);
                        }
                    }
                }
                for r in 0..R {
                    for v in 0..V {
                        let to = out.add(r * out_stride + 16 * v);
                        match v + 1 < V {
                            true => _mm512_storeu_ps(to, acc[r][v]),
                            false => _mm512_mask_storeu_ps(to, mask, acc[r][v]),
                        }
                    }
                }
            }
        }

        #[target_feature(
            enable = "avx2,fma,f16c,bmi1,bmi2,popcnt,lzcnt,avx512f,avx512bw,avx512vl,avx512dq,avx512cd"
        )]
        pub(crate) fn avx512(
            w: &Weights<'_>,
            taps: &[Tap],
            x: &[f32],
            out: &mut [f32],
            out_stride: usize,
            n: usize,
            add: bool,
        ) {
            if !checked_sum(w, taps, x, out, out_stride, n) {
                return;
            }
            let rows = w.rows;
            // Positions outside: a tile's samples stay in the first cache for all rows.
            let most = step(rows, &[8, 4, 2, 1]);
            let wide = match most {
                8 => 3,
                4 => 6,
                _ => 8,
            };
            let mut i = 0;
            while i < n {
                let vectors = (n - i).div_ceil(16).min(wide);
                let lanes = (n - i).min(16 * vectors) - 16 * (vectors - 1);
                let mask = (0xffffu32 >> (16 - lanes)) as __mmask16;
                let mut r = 0;
                while r < rows {
                    let some = step(rows - r, &[8, 4, 2, 1]);
                    // Few rows leave room for more vectors than many do.
                    let from = (w.data[r * w.stride..].as_ptr(), w.stride);
                    let to = (out[r * out_stride + i..].as_mut_ptr(), out_stride);
                    let x = x[i..].as_ptr();
                    macro_rules! go {
                        ($r:literal, $v:literal) => {
                            // SAFETY: `checked_sum` held rows, taps and n against the slices;
                            // i + 16 · (vectors − 1) + lanes ≤ n.
                            unsafe { tile_512::<$r, $v>(from, taps, x, to, mask, add) }
                        };
                    }
                    match (some, vectors) {
                        (8, 1) => go!(8, 1),
                        (8, 2) => go!(8, 2),
                        (8, _) => go!(8, 3),
                        (4, 1) => go!(4, 1),
                        (4, 2) => go!(4, 2),
                        (4, 3) => go!(4, 3),
                        (4, 4) => go!(4, 4),
                        (4, 5) => go!(4, 5),
                        (4, _) => go!(4, 6),
                        (2, 1) => go!(2, 1),
                        (2, 2) => go!(2, 2),
                        (2, 3) => go!(2, 3),
                        (2, 4) => go!(2, 4),
                        (2, 5) => go!(2, 5),
                        (2, 6) => go!(2, 6),
                        (2, 7) => go!(2, 7),
                        (2, _) => go!(2, 8),
                        (_, 1) => go!(1, 1),
                        (_, 2) => go!(1, 2),
                        (_, 3) => go!(1, 3),
                        (_, 4) => go!(1, 4),
                        (_, 5) => go!(1, 5),
                        (_, 6) => go!(1, 6),
                        (_, 7) => go!(1, 7),
                        (_, _) => go!(1, 8),
                    }
                    r += some;
                }
                i += 16 * vectors;
            }
        }

        /// As [`tile_512`], with vectors of eight.
        ///
        /// # Safety
        /// As [`tile_512`].
        #[inline]
        #[target_feature(enable = "avx2,fma")]
        unsafe fn tile_256<const R: usize, const V: usize>(
            (w, w_stride): (*const f32, usize),
            taps: &[Tap],
            x: *const f32,
            (out, out_stride): (*mut f32, usize),
            mask: __m256i,
            add: bool,
        ) {
            // SAFETY: all within what the caller promised; lanes outside the mask are not
            // touched.
            unsafe {
                let load = |p: *const f32, v: usize| match v + 1 < V {
                    true => _mm256_loadu_ps(p.add(8 * v)),
                    false => _mm256_maskload_ps(p.add(8 * v), mask),
                };
                let mut acc = [[_mm256_setzero_ps(); V]; R];
                if add {
                    for r in 0..R {
                        for v in 0..V {
                            acc[r][v] = load(out.add(r * out_stride), v);
                        }
                    }
                }
                for tap in taps {
                    let mut samples = [_mm256_setzero_ps(); V];
                    for v in 0..V {
                        samples[v] = load(x.add(tap.sample), v);
                    }
                    for r in 0..R {
                        let w = _mm256_set1_ps(*w.add(r * w_stride + tap.weight));
                        for v in 0..V {
                            acc[r][v] = _mm256_fmadd_ps(w, samples[v], acc[r][v]);
                        }
                    }
                }
                for r in 0..R {
                    for v in 0..V {
                        let to = out.add(r * out_stride + 8 * v);
                        match v + 1 < V {
                            true => _mm256_storeu_ps(to, acc[r][v]),
                            false => _mm256_maskstore_ps(to, mask, acc[r][v]),
                        }
                    }
                }
            }
        }

        #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,popcnt,lzcnt")]
        pub(crate) fn avx2(
            w: &Weights<'_>,
            taps: &[Tap],
            x: &[f32],
            out: &mut [f32],
            out_stride: usize,
            n: usize,
            add: bool,
        ) {
            if !checked_sum(w, taps, x, out, out_stride, n) {
                return;
            }
            let rows = w.rows;
            let wide = if rows >= 4 { 2 } else { 4 };
            let mut i = 0;
            while i < n {
                let vectors = (n - i).div_ceil(8).min(wide);
                let lanes = (n - i).min(8 * vectors) - 8 * (vectors - 1);
                let mask: [i32; 8] = std::array::from_fn(|l| -i32::from(l < lanes));
                // SAFETY: eight numbers of 32 bits.
                let mask = unsafe { _mm256_loadu_si256(mask.as_ptr().cast()) };
                let mut r = 0;
                while r < rows {
                    let some = step(rows - r, &[6, 4, 2, 1]);
                    let from = (w.data[r * w.stride..].as_ptr(), w.stride);
                    let to = (out[r * out_stride + i..].as_mut_ptr(), out_stride);
                    let x = x[i..].as_ptr();
                    macro_rules! go {
                        ($r:literal, $v:literal) => {
                            // SAFETY: `checked_sum` held rows, taps and n against the slices;
                            // i + 8 · (vectors − 1) + lanes ≤ n.
                            unsafe { tile_256::<$r, $v>(from, taps, x, to, mask, add) }
                        };
                    }
                    match (some, vectors) {
                        (6, 1) => go!(6, 1),
                        (6, _) => go!(6, 2),
                        (4, 1) => go!(4, 1),
                        (4, _) => go!(4, 2),
                        (2, 1) => go!(2, 1),
                        (2, 2) => go!(2, 2),
                        (2, 3) => go!(2, 3),
                        (2, _) => go!(2, 4),
                        (_, 1) => go!(1, 1),
                        (_, 2) => go!(1, 2),
                        (_, 3) => go!(1, 3),
                        (_, _) => go!(1, 4),
                    }
                    r += some;
                }
                i += 8 * vectors;
            }
        }
    }
}

/// Checks what the loops below rely on; false if there is nothing to do.
fn checked_patches(x: &[f32], offsets: &[usize], n: usize, dst: &[f32], stride: usize) -> bool {
    let taps = offsets.len();
    if n == 0 || taps == 0 {
        return false;
    }
    let most = offsets.iter().copied().fold(0, usize::max);
    assert!(n <= x.len() && most <= x.len() - n);
    assert!(taps <= stride && (n - 1) * stride + taps <= dst.len());
    true
}

/// `dst[i · stride + k] = x[offsets[k] + i]`.
pub(crate) mod patches {
    use super::checked_patches;
    #[cfg(target_arch = "x86_64")]
    pub(crate) use x86::{avx2, avx512};

    pub(crate) fn portable(x: &[f32], offsets: &[usize], n: usize, dst: &mut [f32], stride: usize) {
        if !checked_patches(x, offsets, n, dst, stride) {
            return;
        }
        for (i, dst) in dst.chunks_mut(stride).take(n).enumerate() {
            for (d, at) in dst.iter_mut().zip(offsets) {
                *d = x[at + i];
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    mod x86 {
        use std::arch::x86_64::*;

        use super::super::checked_patches;

        /// Up to 16 taps × 16 outputs.
        ///
        /// # Safety
        /// At `x[offsets[k]]` `n` elements can be read for all of `offsets`, and `taps`
        /// written at `dst[i · stride]` for i < n; `n` and `taps` are 1 to 16.
        #[inline]
        #[target_feature(enable = "avx512f,avx512dq")]
        unsafe fn square_512(
            x: *const f32,
            offsets: &[usize; 16],
            (taps, n): (usize, usize),
            dst: *mut f32,
            stride: usize,
        ) {
            // SAFETY: as promised; lanes outside the masks are not touched.
            unsafe {
                let read = (0xffffu32 >> (16 - n)) as __mmask16;
                let write = (0xffffu32 >> (16 - taps)) as __mmask16;
                let mut a = [_mm512_setzero_ps(); 16];
                for k in 0..16 {
                    a[k] = _mm512_maskz_loadu_ps(read, x.add(offsets[k]));
                }
                // Squares of 4 × 4 within 128 bits, then squares of these.
                let mut b = [_mm512_setzero_ps(); 16];
                for q in 0..4 {
                    let [a0, a1, a2, a3] = [a[4 * q], a[4 * q + 1], a[4 * q + 2], a[4 * q + 3]];
                    let (l0, h0) = (_mm512_unpacklo_ps(a0, a1), _mm512_unpackhi_ps(a0, a1));
                    let (l1, h1) = (_mm512_unpacklo_ps(a2, a3), _mm512_unpackhi_ps(a2, a3));
                    let pd = |v| _mm512_castps_pd(v);
                    let ps = |v| _mm512_castpd_ps(v);
                    b[4 * q] = ps(_mm512_unpacklo_pd(pd(l0), pd(l1)));
                    b[4 * q + 1] = ps(_mm512_unpackhi_pd(pd(l0), pd(l1)));
                    b[4 * q + 2] = ps(_mm512_unpacklo_pd(pd(h0), pd(h1)));
                    b[4 * q + 3] = ps(_mm512_unpackhi_pd(pd(h0), pd(h1)));
                }
                let mut c = [_mm512_setzero_ps(); 16];
                for j in 0..4 {
                    let (even_lo, odd_lo) = (
                        _mm512_shuffle_f32x4::<0x88>(b[j], b[4 + j]),
                        _mm512_shuffle_f32x4::<0xdd>(b[j], b[4 + j]),
                    );
                    let (even_hi, odd_hi) = (
                        _mm512_shuffle_f32x4::<0x88>(b[8 + j], b[12 + j]),
                        _mm512_shuffle_f32x4::<0xdd>(b[8 + j], b[12 + j]),
                    );
                    c[j] = _mm512_shuffle_f32x4::<0x88>(even_lo, even_hi);
                    c[4 + j] = _mm512_shuffle_f32x4::<0x88>(odd_lo, odd_hi);
                    c[8 + j] = _mm512_shuffle_f32x4::<0xdd>(even_lo, even_hi);
                    c[12 + j] = _mm512_shuffle_f32x4::<0xdd>(odd_lo, odd_hi);
                }
                if n == 16 && taps == 16 {
                    for i in 0..16 {
                        _mm512_storeu_ps(dst.add(i * stride), c[i]);
                    }
                } else {
                    for i in 0..16 {
                        if i < n {
                            _mm512_mask_storeu_ps(dst.add(i * stride), write, c[i]);
                        }
                    }
                }
            }
        }

        #[target_feature(
            enable = "avx2,fma,f16c,bmi1,bmi2,popcnt,lzcnt,avx512f,avx512bw,avx512vl,avx512dq,avx512cd"
        )]
        pub(crate) fn avx512(
            x: &[f32],
            offsets: &[usize],
            n: usize,
            dst: &mut [f32],
            stride: usize,
        ) {
            if !checked_patches(x, offsets, n, dst, stride) {
                return;
            }
            for (k, some) in offsets.chunks(16).enumerate() {
                // Where there are fewer, the first is read again.
                let mut offsets = [some[0]; 16];
                offsets[..some.len()].copy_from_slice(some);
                for i in (0..n).step_by(16) {
                    let size = (some.len(), 16.min(n - i));
                    let to = dst[i * stride + 16 * k..].as_mut_ptr();
                    // SAFETY: `checked_patches` held offsets and n against the slices.
                    unsafe { square_512(x[i..].as_ptr(), &offsets, size, to, stride) };
                }
            }
        }

        /// 8 taps × 8 outputs.
        ///
        /// # Safety
        /// At `x[offsets[k]]` 8 elements can be read, at `dst[i · stride]` 8 written for i < 8.
        #[inline]
        #[target_feature(enable = "avx2")]
        unsafe fn square_256(x: *const f32, offsets: &[usize; 8], dst: *mut f32, stride: usize) {
            // SAFETY: as promised.
            unsafe {
                let mut a = [_mm256_setzero_ps(); 8];
                for (a, at) in a.iter_mut().zip(offsets) {
                    *a = _mm256_loadu_ps(x.add(*at));
                }
                let mut b = [_mm256_setzero_ps(); 8];
                for q in 0..2 {
                    let [a0, a1, a2, a3] = [a[4 * q], a[4 * q + 1], a[4 * q + 2], a[4 * q + 3]];
                    let (l0, h0) = (_mm256_unpacklo_ps(a0, a1), _mm256_unpackhi_ps(a0, a1));
                    let (l1, h1) = (_mm256_unpacklo_ps(a2, a3), _mm256_unpackhi_ps(a2, a3));
                    let pd = |v| _mm256_castps_pd(v);
                    let ps = |v| _mm256_castpd_ps(v);
                    b[4 * q] = ps(_mm256_unpacklo_pd(pd(l0), pd(l1)));
                    b[4 * q + 1] = ps(_mm256_unpackhi_pd(pd(l0), pd(l1)));
                    b[4 * q + 2] = ps(_mm256_unpacklo_pd(pd(h0), pd(h1)));
                    b[4 * q + 3] = ps(_mm256_unpackhi_pd(pd(h0), pd(h1)));
                }
                for j in 0..4 {
                    let low = _mm256_permute2f128_ps::<0x20>(b[j], b[4 + j]);
                    let high = _mm256_permute2f128_ps::<0x31>(b[j], b[4 + j]);
                    _mm256_storeu_ps(dst.add(j * stride), low);
                    _mm256_storeu_ps(dst.add((4 + j) * stride), high);
                }
            }
        }

        #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,popcnt,lzcnt")]
        pub(crate) fn avx2(x: &[f32], offsets: &[usize], n: usize, dst: &mut [f32], stride: usize) {
            if !checked_patches(x, offsets, n, dst, stride) {
                return;
            }
            let (eights, rest) = offsets.as_chunks::<8>();
            let whole = n / 8 * 8;
            for i in (0..whole).step_by(8) {
                for (k, offsets) in eights.iter().enumerate() {
                    let to = dst[i * stride + 8 * k..].as_mut_ptr();
                    // SAFETY: `checked_patches` held offsets and n against the slices.
                    unsafe { square_256(x[i..].as_ptr(), offsets, to, stride) };
                }
            }
            for (i, dst) in dst.chunks_mut(stride).take(n).enumerate() {
                let (from, left) = match i < whole {
                    true => (8 * eights.len(), rest),
                    false => (0, offsets),
                };
                for (d, at) in dst[from..].iter_mut().zip(left) {
                    *d = x[at + i];
                }
            }
        }
    }
}

/// Frequencies that lie side by side in a block of a spectrum.
pub const BINS: usize = 16;

/// Numbers of a block: real parts, then imaginary parts.
pub const BLOCK: usize = 2 * BINS;

/// Blocks of several spectra at the same frequencies: of each row and plane one, or of each
/// vector and plane.
#[derive(Clone, Copy, Debug)]
pub struct Spectra<'a> {
    /// The numbers; the first are those of row 0, plane 0.
    pub data: &'a [f32],
    /// Number of rows.
    pub rows: usize,
    /// Elements from one row to the next.
    pub stride: usize,
    /// Elements from one plane to the next.
    pub plane: usize,
}

/// Checks what the loops below rely on; false if there is nothing to do.
fn checked_spectra(w: &Spectra<'_>, x: &Spectra<'_>, planes: usize, out: &[f32]) -> bool {
    if planes == 0 || w.rows == 0 || x.rows == 0 {
        return false;
    }
    for s in [w, x] {
        let last = (s.rows - 1) * s.stride + (planes - 1) * s.plane;
        assert!(last + BLOCK <= s.data.len());
    }
    assert!(w.rows * x.rows * BLOCK <= out.len());
    true
}

/// `out[r][v] = Σ w[r][p] · x[v][p]`, complex, for one block of frequencies.
pub(crate) mod spectra {
    use super::{BINS, BLOCK, Spectra, checked_spectra};
    #[cfg(target_arch = "x86_64")]
    pub(crate) use x86::{avx2, avx512};

    pub(crate) fn portable(w: &Spectra<'_>, x: &Spectra<'_>, planes: usize, out: &mut [f32]) {
        if !checked_spectra(w, x, planes, out) {
            return;
        }
        for (i, out) in out
            .chunks_exact_mut(BLOCK)
            .take(w.rows * x.rows)
            .enumerate()
        {
            let (r, v) = (i / x.rows, i % x.rows);
            let mut acc = [[0.0f32; BINS]; 2];
            for p in 0..planes {
                let block = |s: &Spectra<'_>, row: usize| -> [[f32; BINS]; 2] {
                    let at = row * s.stride + p * s.plane;
                    let (re, im) = s.data[at..at + BLOCK].split_at(BINS);
                    std::array::from_fn(|i| {
                        let part = if i == 0 { re } else { im };
                        std::array::from_fn(|i| part[i])
                    })
                };
                let ([a, b], [c, d]) = (block(w, r), block(x, v));
                for i in 0..BINS {
                    acc[0][i] += a[i] * c[i] - b[i] * d[i];
                    acc[1][i] += a[i] * d[i] + b[i] * c[i];
                }
            }
            let (re, im) = out.split_at_mut(BINS);
            re.copy_from_slice(&acc[0]);
            im.copy_from_slice(&acc[1]);
        }
    }

    #[cfg(target_arch = "x86_64")]
    mod x86 {
        use std::arch::x86_64::*;

        use super::super::{BINS, BLOCK, Spectra, checked_spectra, step};

        macro_rules! spectra {
            ($name:ident, $tile:ident, $features:literal, $lanes:literal, $most:literal,
             [$zero:ident, $load:ident, $store:ident, $fmadd:ident, $fnmadd:ident]) => {
                /// `R` rows × `V` vectors, one register's frequencies.
                ///
                /// # Safety
                /// The rows and planes are within `w` and `x`, and `out` has a block for
                /// each pair, `x_rows` of them a row.
                #[inline]
                #[target_feature(enable = $features)]
                unsafe fn $tile<const R: usize, const V: usize>(
                    (w, w_stride, w_plane): (*const f32, usize, usize),
                    (x, x_stride, x_plane): (*const f32, usize, usize),
                    planes: usize,
                    (out, x_rows): (*mut f32, usize),
                ) {
                    // SAFETY: as promised.
                    unsafe {
                        let mut re = [[$zero(); V]; R];
                        let mut im = [[$zero(); V]; R];
                        for p in 0..planes {
                            let mut c = [$zero(); V];
                            let mut d = [$zero(); V];
                            for v in 0..V {
                                let at = x.add(v * x_stride + p * x_plane);
                                c[v] = $load(at);
                                d[v] = $load(at.add(BINS));
                            }
                            for r in 0..R {
                                let at = w.add(r * w_stride + p * w_plane);
                                let (a, b) = ($load(at), $load(at.add(BINS)));
                                for v in 0..V {
                                    re[r][v] = $fmadd(a, c[v], re[r][v]);
                                    im[r][v] = $fmadd(a, d[v], im[r][v]);
                                    re[r][v] = $fnmadd(b, d[v], re[r][v]);
                                    im[r][v] = $fmadd(b, c[v], im[r][v]);
                                }
                            }
                        }
                        for r in 0..R {
                            for v in 0..V {
                                let to = out.add((r * x_rows + v) * BLOCK);
                                $store(to, re[r][v]);
                                $store(to.add(BINS), im[r][v]);
                            }
                        }
                    }
                }

                #[target_feature(enable = $features)]
                pub(crate) fn $name(
                    w: &Spectra<'_>,
                    x: &Spectra<'_>,
                    planes: usize,
                    out: &mut [f32],
                ) {
                    if !checked_spectra(w, x, planes, out) {
                        return;
                    }
                    let mut r = 0;
                    while r < w.rows {
                        let rows = step(w.rows - r, &[$most, 2, 1]);
                        let mut v = 0;
                        while v < x.rows {
                            let vectors = step(x.rows - v, &[2, 1]);
                            for lane in (0..BINS).step_by($lanes) {
                                let w = (w.data[r * w.stride + lane..].as_ptr(), w.stride, w.plane);
                                let from =
                                    (x.data[v * x.stride + lane..].as_ptr(), x.stride, x.plane);
                                let at = (r * x.rows + v) * BLOCK + lane;
                                let to = (out[at..].as_mut_ptr(), x.rows);
                                // SAFETY: `checked_spectra` held rows, vectors and planes
                                // against the slices.
                                unsafe {
                                    match (rows, vectors) {
                                        (4, 2) => $tile::<4, 2>(w, from, planes, to),
                                        (4, _) => $tile::<4, 1>(w, from, planes, to),
                                        (2, 2) => $tile::<2, 2>(w, from, planes, to),
                                        (2, _) => $tile::<2, 1>(w, from, planes, to),
                                        (_, 2) => $tile::<1, 2>(w, from, planes, to),
                                        (_, _) => $tile::<1, 1>(w, from, planes, to),
                                    }
                                }
                            }
                            v += vectors;
                        }
                        r += rows;
                    }
                }
            };
        }

        spectra!(
            avx512,
            tile_512,
            "avx2,fma,f16c,bmi1,bmi2,popcnt,lzcnt,avx512f,avx512bw,avx512vl,avx512dq,avx512cd",
            16,
            4,
            [
                _mm512_setzero_ps,
                _mm512_loadu_ps,
                _mm512_storeu_ps,
                _mm512_fmadd_ps,
                _mm512_fnmadd_ps
            ]
        );
        spectra!(
            avx2,
            tile_256,
            "avx2,fma,f16c,bmi1,bmi2,popcnt,lzcnt",
            8,
            2,
            [
                _mm256_setzero_ps,
                _mm256_loadu_ps,
                _mm256_storeu_ps,
                _mm256_fmadd_ps,
                _mm256_fnmadd_ps
            ]
        );
    }
}
