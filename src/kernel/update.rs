//! Products taken from rows, `c −= a · b`: what factorisations and error feedback spend
//! their time in. Each element's products are taken off one by one in the order of k,
//! without `mul_add`, so that every instruction set gives the same bits.

use super::autovec;

/// Most rows of `b`: a strip of them is packed into the first cache.
pub const MAX_DEPTH: usize = 128;

macro_rules! subtract_product {
    ($body:ident, $t:ty, $width:literal) => {
        #[inline(always)]
        fn $body(
            a: &[$t],
            depth: usize,
            b: &[$t],
            b_stride: usize,
            c: &mut [$t],
            c_stride: usize,
            n: usize,
        ) {
            const W: usize = $width;
            const R: usize = 4;
            if n == 0 || depth == 0 || a.is_empty() {
                return;
            }
            assert!(depth <= MAX_DEPTH && n <= b_stride && n <= c_stride);
            let rows = a.len() / depth;
            let b_row = |k: usize| &b[k * b_stride..k * b_stride + n];
            let mut strip = [[0.0 as $t; W]; MAX_DEPTH];
            let mut start = 0;
            while start < n {
                let width = W.min(n - start);
                for (k, s) in strip[..depth].iter_mut().enumerate() {
                    s[..width].copy_from_slice(&b_row(k)[start..start + width]);
                }
                let strip = &strip[..depth];
                let mut r = 0;
                while r < rows {
                    let some = R.min(rows - r);
                    let mut acc = [[0.0 as $t; W]; R];
                    for (i, acc) in acc[..some].iter_mut().enumerate() {
                        let from = (r + i) * c_stride + start;
                        acc[..width].copy_from_slice(&c[from..from + width]);
                    }
                    // Rows past the last are computed again and thrown away.
                    let a: [&[$t]; R] = std::array::from_fn(|i| {
                        let row = (r + i).min(rows - 1);
                        &a[row * depth..(row + 1) * depth]
                    });
                    // Locals of known size, so that the sums stay in registers.
                    let mut sums = acc;
                    for (k, b) in strip.iter().enumerate() {
                        for i in 0..R {
                            let v = a[i][k];
                            for j in 0..W {
                                sums[i][j] -= v * b[j];
                            }
                        }
                    }
                    for (i, sums) in sums[..some].iter().enumerate() {
                        let to = (r + i) * c_stride + start;
                        c[to..to + width].copy_from_slice(&sums[..width]);
                    }
                    r += some;
                }
                start += width;
            }
        }
    };
}

subtract_product!(subtract_product_f32_body, f32, 32);
subtract_product!(subtract_product_f64_body, f64, 16);

autovec! {
    /// `c[r][j] −= Σ a[r][k] · b[k][j]`, in f32.
    subtract_product_f32 = subtract_product_f32_body; fn(a: &[f32], depth: usize, b: &[f32], b_stride: usize, c: &mut [f32], c_stride: usize, n: usize)
}
autovec! {
    /// `c[r][j] −= Σ a[r][k] · b[k][j]`, in f64.
    subtract_product_f64 = subtract_product_f64_body; fn(a: &[f64], depth: usize, b: &[f64], b_stride: usize, c: &mut [f64], c_stride: usize, n: usize)
}
