//! Encoders that are told of the inputs: the error of products, not of weights.
mod common;

use common::{Rng, norm};
use cortex::calibration::{Moments, MomentsAccumulator};
use cortex::form::{self, EncodeContext};
use cortex::{Dense, Tensor};

/// Inputs `x = z · A` with a spectrum that falls off, as activations have.
struct Inputs {
    dim: usize,
    x: Vec<f32>,
}

impl Inputs {
    fn correlated(dim: usize, count: usize, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let rank = dim;
        let a: Vec<f32> = (0..rank)
            .flat_map(|k| {
                let size = 1.0 / (1.0 + 0.05 * k as f32);
                (0..dim).map(|_| size * rng.gaussian()).collect::<Vec<_>>()
            })
            .collect();
        let mut x = vec![0.0f32; count * dim];
        for x in x.chunks_mut(dim) {
            for a in a.chunks(dim) {
                let z = rng.gaussian();
                for (x, a) in x.iter_mut().zip(a) {
                    *x += z * a;
                }
            }
        }
        Self { dim, x }
    }

    /// Makes every 16th column `factor` times larger.
    fn with_outliers(mut self, factor: f32) -> Self {
        for x in self.x.chunks_mut(self.dim) {
            x.iter_mut().step_by(16).for_each(|v| *v *= factor);
        }
        self
    }

    fn moments(&self, full: bool) -> Moments {
        let mut sums = MomentsAccumulator::new(self.dim, full).unwrap();
        sums.add(&self.x, self.x.len() / self.dim).unwrap();
        sums.finish().unwrap()
    }

    /// `‖x ΔWᵀ‖² / ‖x Wᵀ‖²`.
    fn loss(&self, w: &[f32], decoded: &[f32]) -> f64 {
        let (mut error, mut size) = (0.0, 0.0);
        for x in self.x.chunks(self.dim) {
            for (w, d) in w.chunks(self.dim).zip(decoded.chunks(self.dim)) {
                let (mut e, mut s) = (0.0f64, 0.0f64);
                for ((x, w), d) in x.iter().zip(w).zip(d) {
                    e += f64::from(*x) * f64::from(w - d);
                    s += f64::from(*x) * f64::from(*w);
                }
                error += e * e;
                size += s * s;
            }
        }
        error / size
    }
}

fn gaussian(n: usize, seed: u64) -> Vec<f32> {
    let mut rng = Rng::new(seed);
    (0..n).map(|_| rng.gaussian() * 0.02).collect()
}

fn encode(w: &[f32], cols: usize, spec: &str, moments: Option<&Moments>) -> Tensor {
    encode_shape(w, &[w.len() / cols, cols], spec, moments)
}

fn encode_shape(w: &[f32], shape: &[usize], spec: &str, moments: Option<&Moments>) -> Tensor {
    let dense = Dense::from_slice(w, shape).unwrap();
    let context = EncodeContext {
        moments,
        ..EncodeContext::default()
    };
    form::encode(&dense.view(), &form::parse(spec).unwrap(), &context).unwrap()
}

fn decoded(t: &Tensor) -> Vec<f32> {
    t.decompress().unwrap().as_slice::<f32>().unwrap().to_vec()
}

const GPTQ: &[&str] = &[
    "int8(search=gptq)",
    "int4(search=gptq)",
    "int4(zero=asymmetric, search=gptq)",
    "int4(group=tensor, search=gptq)",
    "int4(group=tensor, zero=asymmetric, search=gptq)",
    "q(bits=3, group=row, search=gptq)",
    "q(bits=2, group=128, search=gptq)",
];

#[test]
fn inputs_without_correlation_give_least_squares_rounding() {
    let (rows, cols) = (37, 150);
    let w = gaussian(rows * cols, 1);
    let mut identity = vec![0.0f32; cols * cols];
    identity.iter_mut().step_by(cols + 1).for_each(|v| *v = 3.0);
    let full = Moments::from_matrix(cols, identity).unwrap();
    let diagonal = Moments::from_diagonal(vec![0.7; cols]).unwrap();
    for spec in GPTQ {
        let lsq = spec.replace("gptq", "lsq");
        let expected = encode(&w, cols, &lsq, None);
        for moments in [Some(&full), Some(&diagonal), None] {
            let found = encode(&w, cols, spec, moments);
            assert_eq!(decoded(&found), decoded(&expected), "{spec}");
            assert_eq!(found.notes().is_empty(), moments.is_some());
        }
    }
}

#[test]
fn feedback_lowers_the_error_of_products_and_not_the_storage() {
    let (rows, cols) = (64, 512);
    let inputs = Inputs::correlated(cols, 1024, 3);
    let (full, diagonal) = (inputs.moments(true), inputs.moments(false));
    let w = gaussian(rows * cols, 4);
    for (bits, most) in [(4, 0.45), (3, 0.45), (2, 0.5)] {
        for group in ["32", "128", "row"] {
            let spec = |search: &str| format!("q(bits={bits}, group={group}, search={search})");
            let rtn = encode(&w, cols, &spec("absmax"), None);
            let lsq = encode(&w, cols, &spec("lsq"), Some(&full));
            let by_diagonal = encode(&w, cols, &spec("gptq"), Some(&diagonal));
            let gptq = encode(&w, cols, &spec("gptq"), Some(&full));
            let loss = |t: &Tensor| inputs.loss(&w, &decoded(t));
            let [a, b, c, d] = [&rtn, &lsq, &by_diagonal, &gptq].map(loss);
            println!(
                "{bits} bits, group {group}: absmax {a:.5}, lsq {b:.5}, diagonal {c:.5}, gptq {d:.5}"
            );
            assert!(d < most * a && d < 0.6 * b, "{bits} {group}");
            assert!(c < 1.05 * b);
            assert_eq!(gptq.stored_bytes(), lsq.stored_bytes());
            assert!(gptq.error().relative > lsq.error().relative);
        }
    }
}

#[test]
fn columns_that_count_more_are_rounded_more_finely() {
    let (rows, cols) = (64, 256);
    let inputs = Inputs::correlated(cols, 600, 5).with_outliers(12.0);
    let w = gaussian(rows * cols, 6);
    let diagonal = inputs.moments(false);
    for spec in [
        "q(bits=3, group=32, search=gptq)",
        "q(bits=3, zero=asymmetric, search=gptq)",
        "q(bits=4, group=tensor, search=gptq)",
    ] {
        let loss = |moments| inputs.loss(&w, &decoded(&encode(&w, cols, spec, moments)));
        let (with, without) = (loss(Some(&diagonal)), loss(None));
        println!("{spec}: {with:.5} with a diagonal, {without:.5} without");
        assert!(
            with < 0.9 * without || spec.contains("tensor") && with <= without,
            "{spec}"
        );
    }
}

#[test]
fn bytes_do_not_depend_on_threads() {
    let (rows, cols) = (150, 300);
    let inputs = Inputs::correlated(cols, 400, 7);
    let moments = inputs.moments(true);
    let w = gaussian(rows * cols, 8);
    for spec in [
        "int4(search=gptq)",
        "mask(keep=40%, score=wanda)",
        "mask(keep=40%, score=sparsegpt)",
    ] {
        let with = |threads| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            pool.install(|| decoded(&encode(&w, cols, spec, Some(&moments))))
        };
        assert!(with(1) == with(3), "{spec}");
    }
}

#[test]
fn odd_moments_and_shapes_are_encoded_all_the_same() {
    for spec in [
        "int4(search=gptq)",
        "mask(keep=40%, score=wanda)",
        "mask(keep=40%, score=sparsegpt)",
    ] {
        for (rows, cols) in [(0, 5), (5, 0), (1, 1), (3, 1), (1, 70), (17, 129)] {
            let matrix = |f: fn(usize, usize) -> f32| {
                let m = (0..cols * cols).map(|k| f(k / cols, k % cols)).collect();
                Moments::from_matrix(cols, m).unwrap()
            };
            for moments in [
                matrix(|_, _| 0.0),
                // Of rank one.
                matrix(|_, _| 1.0),
                matrix(|i, j| f32::from(u8::from(i == j && i % 3 == 0)) * 1e-38),
                matrix(|i, j| {
                    if i == j {
                        1e30f32 / (i + 1) as f32
                    } else {
                        0.0
                    }
                }),
            ] {
                for size in [1.0, 1e-40, 1e30, 0.0] {
                    let w: Vec<f32> = gaussian(rows * cols, 3).iter().map(|v| v * size).collect();
                    let t = encode_shape(&w, &[rows, cols], spec, Some(&moments));
                    assert!(
                        decoded(&t).iter().all(|v| v.is_finite()),
                        "{spec} {rows}×{cols}"
                    );
                    assert!(t.notes().is_empty());
                }
            }
        }
    }
}

#[test]
fn moments_of_another_size_are_refused() {
    let w = gaussian(60, 1);
    let dense = Dense::from_slice(&w, &[6, 10]).unwrap();
    let moments = Moments::from_diagonal(vec![1.0; 6]).unwrap();
    let context = EncodeContext {
        moments: Some(&moments),
        ..EncodeContext::default()
    };
    let spec = form::parse("int4(search=gptq)").unwrap();
    let e = form::encode(&dense.view(), &spec, &context).unwrap_err();
    assert!(
        e.to_string().contains("6 inputs") && e.to_string().contains("[6, 10]"),
        "{e}"
    );
}

#[test]
fn what_could_not_be_done_is_noted() {
    let w = gaussian(64 * 64, 1);
    let t = encode(&w, 64, "int4(search=gptq) + int4(search=gptq)", None);
    assert_eq!(
        t.notes(),
        ["int4(search=gptq) without calibration: rounded to nearest with search=lsq"]
    );
    let t = encode(&w, 64, "mask(keep=50%, score=sparsegpt)", None);
    assert_eq!(
        t.notes(),
        ["mask(score=sparsegpt) without calibration: the largest in magnitude kept"]
    );
    let magnitude = encode(&w, 64, "mask(keep=50%)", None);
    assert_eq!(decoded(&t), decoded(&magnitude));
    assert!(encode(&w, 64, "int4(search=lsq)", None).notes().is_empty());
}

#[test]
fn pruning_by_the_inputs_beats_pruning_by_magnitude() {
    let (rows, cols) = (64, 512);
    let inputs = Inputs::correlated(cols, 1024, 9).with_outliers(6.0);
    let (full, diagonal) = (inputs.moments(true), inputs.moments(false));
    let w = gaussian(rows * cols, 10);
    for keep in [50, 25] {
        let of = |score: &str, moments| {
            let spec = format!("mask(keep={keep}%, score={score})");
            let t = encode(&w, cols, &spec, moments);
            let values = decoded(&t);
            let kept = values.iter().filter(|v| **v != 0.0).count();
            assert_eq!(kept, rows * cols * keep / 100, "{spec}");
            (inputs.loss(&w, &values), norm(&values))
        };
        let [(m, _), (wanda, _), (s, _), (d, _)] = [
            of("magnitude", None),
            of("wanda", Some(&full)),
            of("sparsegpt", Some(&full)),
            of("sparsegpt", Some(&diagonal)),
        ];
        println!("keep {keep} %: magnitude {m:.4}, wanda {wanda:.4}, sparsegpt {s:.4}");
        assert!(wanda < 0.9 * m && s < 0.7 * wanda);
        assert_eq!(d, wanda);
    }
}
