//! Dense f32 products and comparisons.

use super::autovec;

/// Dot products of `R` rows of `w` with `B` rows of `x`, in `L` lanes each.
///
/// Each sum is formed in the same order whatever `R` and `B` are, so that a row's
/// result does not depend on which window or thread it fell to.
#[inline(always)]
fn dots<const R: usize, const B: usize, const L: usize, const FMA: bool>(
    w: [&[f32]; R],
    x: [&[f32]; B],
) -> [[f32; B]; R] {
    let mut acc = [[[0.0f32; L]; B]; R];
    let n = w[0].len();
    let w = w.map(|w| &w[..n]);
    let x = x.map(|x| &x[..n]);
    let full = n / L * L;
    let mut k = 0;
    while k < full {
        for r in 0..R {
            let wv: [f32; L] = std::array::from_fn(|i| w[r][k + i]);
            for b in 0..B {
                for i in 0..L {
                    let xv = x[b][k + i];
                    acc[r][b][i] = if FMA {
                        wv[i].mul_add(xv, acc[r][b][i])
                    } else {
                        acc[r][b][i] + wv[i] * xv
                    };
                }
            }
        }
        k += L;
    }
    let mut out = [[0.0; B]; R];
    for r in 0..R {
        for b in 0..B {
            let mut sum = acc[r][b];
            let mut half = L / 2;
            while half > 0 {
                for i in 0..half {
                    sum[i] += sum[i + half];
                }
                half /= 2;
            }
            let mut tail = 0.0f32;
            for i in full..n {
                tail += w[r][i] * x[b][i];
            }
            out[r][b] = sum[0] + tail;
        }
    }
    out
}

#[inline(always)]
fn matmul_body<const R: usize, const B: usize, const L: usize, const FMA: bool>(
    w: &[f32],
    x: &[f32],
    cols: usize,
    out: &mut [f32],
) {
    if cols == 0 {
        out.fill(0.0);
        return;
    }
    let (rows, batch) = (w.len() / cols, x.len() / cols);
    assert!(w.len() == rows * cols && x.len() == batch * cols && out.len() == rows * batch);
    let w_row = |r: usize| &w[r * cols..(r + 1) * cols];
    let x_row = |b: usize| &x[b * cols..(b + 1) * cols];
    let mut b = 0;
    while b < batch {
        let nb = if b + B <= batch { B } else { 1 };
        let mut r = 0;
        while r < rows {
            if nb == B && r + R <= rows {
                let d = dots::<R, B, L, FMA>(
                    std::array::from_fn(|i| w_row(r + i)),
                    std::array::from_fn(|i| x_row(b + i)),
                );
                for (i, d) in d.iter().enumerate() {
                    for (j, d) in d.iter().enumerate() {
                        out[(b + j) * rows + r + i] = *d;
                    }
                }
                r += R;
            } else if nb == B {
                let [d] = dots::<1, B, L, FMA>([w_row(r)], std::array::from_fn(|i| x_row(b + i)));
                for (j, d) in d.iter().enumerate() {
                    out[(b + j) * rows + r] = *d;
                }
                r += 1;
            } else if r + R <= rows {
                let d = dots::<R, 1, L, FMA>(std::array::from_fn(|i| w_row(r + i)), [x_row(b)]);
                for (i, [d]) in d.iter().enumerate() {
                    out[b * rows + r + i] = *d;
                }
                r += R;
            } else {
                let [[d]] = dots::<1, 1, L, FMA>([w_row(r)], [x_row(b)]);
                out[b * rows + r] = d;
                r += 1;
            }
        }
        b += nb;
    }
}

macro_rules! variant {
    ($(#[$attr:meta])* $name:ident, $r:literal, $b:literal, $l:literal, $fma:literal) => {
        $(#[$attr])*
        pub(crate) fn $name(w: &[f32], x: &[f32], cols: usize, out: &mut [f32]) {
            matmul_body::<$r, $b, $l, $fma>(w, x, cols, out)
        }
    };
}

/// `out[b][r] = Σ x[b][k] · w[r][k]`: register tiles of rows × batch × lanes that fill
/// the registers of each instruction set (16 of 512 bits, 8 of 256, 4 of 128).
pub(crate) mod matmul {
    use super::matmul_body;
    variant!(portable, 2, 2, 4, false);
    variant!(
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,popcnt,lzcnt")]
        avx2,
        2,
        4,
        8,
        true
    );
    variant!(
        #[cfg(target_arch = "x86_64")]
        #[target_feature(
            enable = "avx2,fma,f16c,bmi1,bmi2,popcnt,lzcnt,avx512f,avx512bw,avx512vl,avx512dq,avx512cd"
        )]
        avx512,
        4,
        4,
        16,
        true
    );
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
