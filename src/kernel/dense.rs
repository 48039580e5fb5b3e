//! Dense f32 products and comparisons.

use super::autovec;

/// The last `n % lanes` products, one by one.
#[inline(always)]
fn tail(w: &[f32], x: &[f32], from: usize) -> f32 {
    let mut sum = 0.0f32;
    for (w, x) in w[from..].iter().zip(&x[from..]) {
        sum += w * x;
    }
    sum
}

/// Walks the output in tiles of `R` rows × `B` batch rows. `full`, `column`, `row` and
/// `one` are the same dot product: of a whole tile, with one batch row, of one row, and of
/// one with one. Each sum must be formed in the same order in all four, so that a row's
/// result does not depend on which window or thread it fell to.
#[allow(clippy::too_many_arguments)]
#[inline(always)]
fn matmul_body<const R: usize, const B: usize>(
    w: &[f32],
    x: &[f32],
    cols: usize,
    out: &mut [f32],
    full: impl Fn([&[f32]; R], [&[f32]; B]) -> [[f32; B]; R],
    column: impl Fn([&[f32]; R], [&[f32]; 1]) -> [[f32; 1]; R],
    row: impl Fn([&[f32]; 1], [&[f32]; B]) -> [[f32; B]; 1],
    one: impl Fn([&[f32]; 1], [&[f32]; 1]) -> [[f32; 1]; 1],
) {
    if cols == 0 {
        out.fill(0.0);
        return;
    }
    let (rows, batch) = (w.len() / cols, x.len() / cols);
    assert!(w.len() == rows * cols && x.len() == batch * cols && out.len() == rows * batch);
    let w_row = |r: usize| &w[r * cols..(r + 1) * cols];
    let x_row = |b: usize| &x[b * cols..(b + 1) * cols];
    // Rows outside, batch inside: a tile's weights are read from memory once.
    let mut r = 0;
    while r < rows {
        let nr = if r + R <= rows { R } else { 1 };
        let mut b = 0;
        while b < batch {
            let nb = if b + B <= batch { B } else { 1 };
            let mut put = |i: usize, sums: &[f32]| {
                for (j, sum) in sums.iter().enumerate() {
                    out[(b + j) * rows + r + i] = *sum;
                }
            };
            match (nr == R, nb == B) {
                (true, true) => {
                    let w = std::array::from_fn(|i| w_row(r + i));
                    let x = std::array::from_fn(|i| x_row(b + i));
                    full(w, x).iter().enumerate().for_each(|(i, s)| put(i, s));
                }
                (true, false) => {
                    let w = std::array::from_fn(|i| w_row(r + i));
                    let sums = column(w, [x_row(b)]);
                    sums.iter().enumerate().for_each(|(i, s)| put(i, s));
                }
                (false, true) => {
                    let x = std::array::from_fn(|i| x_row(b + i));
                    put(0, &row([w_row(r)], x)[0]);
                }
                (false, false) => put(0, &one([w_row(r)], [x_row(b)])[0]),
            }
            b += nb;
        }
        r += nr;
    }
}

/// `out[b][r] = Σ x[b][k] · w[r][k]` in register tiles: 4 rows × 4 batch rows of 512-bit
/// sums fill half the registers of AVX-512, 2 × 4 of 256-bit ones those of AVX2.
pub(crate) mod matmul {
    use super::{matmul_body, tail};

    #[inline(always)]
    fn dots<const R: usize, const B: usize>(w: [&[f32]; R], x: [&[f32]; B]) -> [[f32; B]; R] {
        const L: usize = 4;
        let n = w[0].len();
        let mut acc = [[[0.0f32; L]; B]; R];
        for k in (0..n / L * L).step_by(L) {
            for r in 0..R {
                for b in 0..B {
                    for i in 0..L {
                        acc[r][b][i] += w[r][k + i] * x[b][k + i];
                    }
                }
            }
        }
        std::array::from_fn(|r| {
            std::array::from_fn(|b| {
                let a = acc[r][b];
                (a[0] + a[2]) + (a[1] + a[3]) + tail(w[r], x[b], n / L * L)
            })
        })
    }

    pub(crate) fn portable(w: &[f32], x: &[f32], cols: usize, out: &mut [f32]) {
        matmul_body::<2, 2>(w, x, cols, out, dots, dots, dots, dots);
    }

    #[cfg(target_arch = "x86_64")]
    pub(crate) use x86::{avx2, avx512};

    #[cfg(target_arch = "x86_64")]
    mod x86 {
        use std::arch::x86_64::*;

        use super::{matmul_body, tail};

        #[inline]
        #[target_feature(enable = "avx512f")]
        fn dots_512<const R: usize, const B: usize>(
            w: [&[f32]; R],
            x: [&[f32]; B],
        ) -> [[f32; B]; R] {
            let n = w[0].len();
            assert!(w.iter().chain(&x).all(|s| s.len() == n));
            let mut acc = [[_mm512_setzero_ps(); B]; R];
            let full = n / 16 * 16;
            let mut k = 0;
            while k < full {
                // SAFETY: k + 16 ≤ n, the length of every slice (asserted above).
                let x: [__m512; B] =
                    std::array::from_fn(|b| unsafe { _mm512_loadu_ps(x[b].as_ptr().add(k)) });
                for r in 0..R {
                    // SAFETY: as above.
                    let w = unsafe { _mm512_loadu_ps(w[r].as_ptr().add(k)) };
                    for b in 0..B {
                        acc[r][b] = _mm512_fmadd_ps(w, x[b], acc[r][b]);
                    }
                }
                k += 16;
            }
            std::array::from_fn(|r| {
                std::array::from_fn(|b| _mm512_reduce_add_ps(acc[r][b]) + tail(w[r], x[b], full))
            })
        }

        #[target_feature(
            enable = "avx2,fma,f16c,bmi1,bmi2,popcnt,lzcnt,avx512f,avx512bw,avx512vl,avx512dq,avx512cd"
        )]
        pub(crate) fn avx512(w: &[f32], x: &[f32], cols: usize, out: &mut [f32]) {
            matmul_body::<4, 4>(
                w,
                x,
                cols,
                out,
                |w, x| dots_512(w, x),
                |w, x| dots_512(w, x),
                |w, x| dots_512(w, x),
                |w, x| dots_512(w, x),
            );
        }

        #[inline]
        #[target_feature(enable = "avx2,fma")]
        fn dots_256<const R: usize, const B: usize>(
            w: [&[f32]; R],
            x: [&[f32]; B],
        ) -> [[f32; B]; R] {
            let n = w[0].len();
            assert!(w.iter().chain(&x).all(|s| s.len() == n));
            let mut acc = [[_mm256_setzero_ps(); B]; R];
            let full = n / 8 * 8;
            let mut k = 0;
            while k < full {
                // SAFETY: k + 8 ≤ n, the length of every slice (asserted above).
                let x: [__m256; B] =
                    std::array::from_fn(|b| unsafe { _mm256_loadu_ps(x[b].as_ptr().add(k)) });
                for r in 0..R {
                    // SAFETY: as above.
                    let w = unsafe { _mm256_loadu_ps(w[r].as_ptr().add(k)) };
                    for b in 0..B {
                        acc[r][b] = _mm256_fmadd_ps(w, x[b], acc[r][b]);
                    }
                }
                k += 8;
            }
            std::array::from_fn(|r| {
                std::array::from_fn(|b| {
                    let v = acc[r][b];
                    let h = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
                    let h = _mm_add_ps(h, _mm_movehl_ps(h, h));
                    let h = _mm_add_ss(h, _mm_movehdup_ps(h));
                    _mm_cvtss_f32(h) + tail(w[r], x[b], full)
                })
            })
        }

        #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,popcnt,lzcnt")]
        pub(crate) fn avx2(w: &[f32], x: &[f32], cols: usize, out: &mut [f32]) {
            matmul_body::<2, 4>(
                w,
                x,
                cols,
                out,
                |w, x| dots_256(w, x),
                |w, x| dots_256(w, x),
                |w, x| dots_256(w, x),
                |w, x| dots_256(w, x),
            );
        }
    }
}

/// `y += g · w` for one row of `w`.
#[inline(always)]
fn add_scaled_body(g: f32, w: &[f32], y: &mut [f32]) {
    // Product and sum rounded apart on every instruction set: one result everywhere.
    for (y, w) in y.iter_mut().zip(w) {
        *y += g * *w;
    }
}

autovec! {
    /// `y[i] += g · w[i]`.
    add_scaled = add_scaled_body; fn(g: f32, w: &[f32], y: &mut [f32])
}

/// Sums that tell how far a decoded window is from the original.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Difference {
    /// `Σ (a − b)²`
    pub error: f64,
    /// `Σ a²`
    pub norm: f64,
    /// `max |a − b|`
    pub max_abs: f64,
}

#[inline(always)]
fn difference_body(a: &[f32], b: &[f32]) -> Difference {
    const L: usize = 8;
    let (mut error, mut norm, mut max) = ([0.0f64; L], [0.0f64; L], [0.0f64; L]);
    let n = a.len().min(b.len());
    let (a_chunks, a_rest) = a[..n].as_chunks::<L>();
    let (b_chunks, b_rest) = b[..n].as_chunks::<L>();
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for i in 0..L {
            let d = f64::from(a[i]) - f64::from(b[i]);
            error[i] += d * d;
            norm[i] += f64::from(a[i]) * f64::from(a[i]);
            let d = d.abs();
            max[i] = if d > max[i] { d } else { max[i] };
        }
    }
    for (i, (a, b)) in a_rest.iter().zip(b_rest).enumerate() {
        let d = f64::from(*a) - f64::from(*b);
        error[i] += d * d;
        norm[i] += f64::from(*a) * f64::from(*a);
        max[i] = max[i].max(d.abs());
    }
    Difference {
        error: error.iter().sum(),
        norm: norm.iter().sum(),
        max_abs: max.into_iter().fold(0.0, f64::max),
    }
}

autovec! {
    /// Squared error, squared norm and largest error of `b` against `a`.
    difference = difference_body; fn(a: &[f32], b: &[f32]) -> Difference
}
