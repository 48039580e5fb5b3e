//! Products of quantised tensors with rounded activations, on every kernel set.
// Reads best beside the layout's text, which speaks of rows and columns by number.
#![allow(clippy::needless_range_loop)]

mod common;

use common::{Kind, Rng, norm, weights};
use cortex::kernel::{self, KernelSet};

fn sets() -> Vec<&'static KernelSet> {
    kernel::available().collect()
}

fn bits_of(v: &[f32]) -> Vec<u32> {
    v.iter().map(|v| v.to_bits()).collect()
}

/// Activations with groups of very different size, and some that are all zero.
fn activations(batch: usize, cols: usize, rng: &mut Rng) -> Vec<f32> {
    (0..batch * cols)
        .map(|i| match i % cols / 32 % 4 {
            0 => rng.gaussian(),
            1 => rng.gaussian() * 1e3,
            2 => 0.0,
            _ => rng.gaussian() * 1e-3,
        })
        .collect()
}

/// Products with rounded activations: the same bits from every kernel set, and as far from
/// the exact product as the rounding allows.
#[test]
fn quantised_products_are_those_of_the_decoded_matrix() {
    use cortex::form::Product;
    use cortex::{Dense, Tensor};
    use std::sync::atomic::AtomicBool;

    let mut rng = Rng::new(17);
    for cols in [1usize, 4, 31, 32, 33, 70, 128, 300, 520] {
        for bits in 2..=8 {
            for group in ["32", "64", "128", "row", "tensor"] {
                for zero in ["symmetric", "asymmetric"] {
                    let spec = format!("q(bits={bits}, group={group}, zero={zero})");
                    let rows = [1, 7, 16, 37][rng.below(4)];
                    let w = weights(Kind::Gaussian, rows, cols, rng.next());
                    let dense = Dense::from_slice(&w, &[rows, cols]).unwrap();
                    let tensor = Tensor::compress(&dense.view(), &spec).unwrap();
                    let mut decoded = vec![0.0f32; rows * cols];
                    tensor.decode_rows_f32(0..rows, &mut decoded).unwrap();
                    // An asymmetric group sums codes and zero apart: both count.
                    let apart = match zero {
                        "asymmetric" => 3.0 * w.iter().fold(0.0f32, |a, b| a.max(b.abs())),
                        _ => 0.0,
                    };
                    for batch in [1, 2, 3, 4, 5, 8, 11, 12, 13, 25, 97] {
                        if batch > 25 && cols < 300 && !(cols == 33 && bits == 4) {
                            continue;
                        }
                        let x = activations(batch, cols, &mut rng);
                        // Exact products of larger batches are of floats, and then differ.
                        for fast in [false, true].into_iter().filter(|f| *f || batch <= 5) {
                            let mut first: Option<Vec<f32>> = None;
                            for set in sets() {
                                let what =
                                    format!("{spec} [{rows}, {cols}] × {batch} {:?}", set.isa());
                                let rounded = AtomicBool::new(false);
                                let mut product = Product::exact(set, 1, 1 << 20);
                                if fast {
                                    product = product.fast(&rounded);
                                }
                                let mut y = vec![f32::NAN; batch * rows];
                                product.matmul(tensor.form(), &x, batch, &mut y).unwrap();
                                assert_eq!(rounded.into_inner(), fast, "{what}");
                                match &first {
                                    Some(first) => {
                                        assert_eq!(bits_of(first), bits_of(&y), "{what}")
                                    }
                                    None => first = Some(y),
                                }
                            }
                            let y = first.unwrap();
                            for b in 0..batch {
                                let x = &x[b * cols..(b + 1) * cols];
                                for r in 0..rows {
                                    let w = &decoded[r * cols..(r + 1) * cols];
                                    let (expected, mut bound) = product_bound(w, x, apart, fast);
                                    if batch >= 96 && fast {
                                        // Codes may have been rounded anew, for less than
                                        // −38 dB.
                                        bound += 0.0126 * norm(w) * norm(x);
                                    }
                                    let found = f64::from(y[b * rows + r]);
                                    assert!(
                                        (found - expected).abs() <= bound,
                                        "{spec} [{rows}, {cols}] × {batch}, fast {fast}: \
                                         {found} for {expected} ± {bound}"
                                    );
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The product of a row, and how far it may be off. Rounding an activation moves it by half
/// a step at most, `max/254` of its group (`max/254³` with three digits); groups are of 256
/// columns at most. What is summed in f32 (a sum for each 32 columns and digit, each of
/// three roundings) is off by `n·2⁻²⁴` of the magnitudes.
fn product_bound(w: &[f32], x: &[f32], apart: f32, fast: bool) -> (f64, f64) {
    let (mut expected, mut bound) = (0.0, 0.0);
    let step = if fast {
        1.0 / 254.0
    } else {
        1.0 / 254f64.powi(3)
    };
    let n = 9.0 + x.len().div_ceil(32) as f64;
    for (w, x) in w.chunks(256).zip(x.chunks(256)) {
        let most = f64::from(x.iter().fold(0.0f32, |a, b| a.max(b.abs())));
        for (w, x) in w.iter().zip(x) {
            expected += f64::from(*w) * f64::from(*x);
            let size = f64::from(w.abs()) + f64::from(apart);
            bound += size * most * (step * 1.001 + n * 2f64.powi(-24));
        }
    }
    (expected, bound + 1e-30)
}

#[test]
fn activations_that_are_not_finite_are_not_rounded() {
    use cortex::{Dense, MatmulOptions, Precision, Tensor};
    let w = weights(Kind::Gaussian, 40, 70, 3);
    let dense = Dense::from_slice(&w, &[40, 70]).unwrap();
    for spec in ["int8", "int4(group=row)", "q(bits=3)"] {
        let tensor = Tensor::compress(&dense.view(), spec).unwrap();
        for (odd, at) in [(f32::INFINITY, 3), (f32::NEG_INFINITY, 69), (f32::NAN, 40)] {
            let mut x = vec![1.0f32; 2 * 70];
            x[70 + at] = odd;
            let mut y = vec![0.0f32; 2 * 40];
            let options = MatmulOptions {
                precision: Precision::Fast,
                ..MatmulOptions::default()
            };
            let done = tensor.matmul(&x, 2, &mut y, &options).unwrap();
            assert_eq!(done.precision, Precision::Exact, "{spec}");
            assert!(y[..40].iter().all(|v| v.is_finite()), "{spec}");
            assert!(y[40..].iter().all(|v| !v.is_finite()), "{spec} {odd}");
        }
    }
}

/// Weights times a power of two have the same codes, and scales times that power: neither
/// overflow nor underflow may decide what an encoder picks.
#[test]
fn codes_do_not_depend_on_the_size_of_the_weights() {
    use cortex::{Dense, Tensor};
    let w = weights(Kind::Gaussian, 17, 100, 3);
    for spec in [
        "int8",
        "int4(search=lsq)",
        "int8(search=lsq)",
        "int4(zero=asymmetric)",
        "int4(zero=asymmetric, search=lsq)",
        "int8(group=row)",
        "int8(group=tensor)",
        "int4(group=tensor, zero=asymmetric)",
    ] {
        let decode = |w: &[f32]| {
            let dense = Dense::from_slice(w, &[17, 100]).unwrap();
            let t = Tensor::compress(&dense.view(), spec).unwrap();
            t.decompress().unwrap().as_slice::<f32>().unwrap().to_vec()
        };
        let expected = decode(&w);
        // 2^±100 puts squares far outside f32, and the range of 2^131 · 0.02 near its end.
        for power in [-100, -70, -40, 40, 70, 100, 127] {
            let k = 2f32.powi(power);
            let scaled: Vec<f32> = w.iter().map(|v| v * k).collect();
            let k = f64::from(k);
            for (found, expected) in decode(&scaled).iter().zip(&expected) {
                assert_eq!(
                    f64::from(*found),
                    f64::from(*expected) * k,
                    "{spec} at 2^{power}"
                );
            }
        }
        // The widest range that there is: no step may become infinite.
        let mut wide = w.clone();
        wide[0] = 2e38;
        wide[1] = -2e38;
        let found = decode(&wide);
        assert!(found.iter().all(|v| v.is_finite()), "{spec}");
        for (a, b) in wide.iter().zip(&found).take(2) {
            assert!(((a - b) / a).abs() < 0.2, "{spec}: {a} became {b}");
        }
    }
}
