//! Convolution on every form, against the definition in f64.
mod common;

use common::heap::{Counting, alone, peak_of};
use common::specs::specs;
use common::{Kind, Rng, norm, weights};
use cortex::form::{self, EncodeContext};
use cortex::kernel::conv::{Tap, Weights};
use cortex::{
    ConvMethod, ConvOptions, Dense, ErrorKind, MatmulOptions, Precision, Tensor, kernel,
};

#[global_allocator]
static HEAP: Counting = Counting;

/// A convolution: weights, input, and how.
#[derive(Clone, Debug)]
struct Case {
    w: Vec<usize>,
    x: Vec<usize>,
    options: ConvOptions,
}

/// Sizes with a height, which weights of one dimension have 1 of.
fn four(shape: &[usize]) -> [usize; 4] {
    match *shape {
        [a, b, w] => [a, b, 1, w],
        [a, b, h, w] => [a, b, h, w],
        _ => panic!("{shape:?}"),
    }
}

impl Case {
    fn new(w: &[usize], x: &[usize], options: ConvOptions) -> Self {
        Self {
            w: w.to_vec(),
            x: x.to_vec(),
            options,
        }
    }

    /// Height and width of the output, by the definition.
    fn out(&self) -> [usize; 2] {
        let (w, x, o) = (four(&self.w), four(&self.x), &self.options);
        [0, 1].map(|i| {
            let padded = x[2 + i] + o.padding[i][0] + o.padding[i][1];
            (padded - o.dilation[i] * (w[2 + i] - 1) - 1) / o.stride[i] + 1
        })
    }

    fn y_shape(&self) -> Vec<usize> {
        let [h, w] = self.out();
        match self.w.len() {
            3 => vec![self.x[0], self.w[0], w],
            _ => vec![self.x[0], self.w[0], h, w],
        }
    }

    /// Calls `f` with the places in y, W and x of every product of the definition.
    fn products(&self, mut f: impl FnMut(usize, usize, usize)) {
        let ([batch, channels, height, width], o) = (four(&self.x), &self.options);
        let [outs, ins, kh, kw] = four(&self.w);
        let [oh, ow] = self.out();
        let place = |i: usize, out: usize, tap: usize, len: usize| {
            let at = out * o.stride[i] + tap * o.dilation[i];
            at.checked_sub(o.padding[i][0]).filter(|at| *at < len)
        };
        for b in 0..batch {
            for out in 0..outs {
                for y in 0..oh {
                    for x in 0..ow {
                        for c in 0..ins {
                            for u in 0..kh {
                                for v in 0..kw {
                                    let (Some(i), Some(j)) =
                                        (place(0, y, u, height), place(1, x, v, width))
                                    else {
                                        continue;
                                    };
                                    let channel = out / (outs / o.groups) * ins + c;
                                    f(
                                        ((b * outs + out) * oh + y) * ow + x,
                                        ((out * ins + c) * kh + u) * kw + v,
                                        ((b * channels + channel) * height + i) * width + j,
                                    );
                                }
                            }
                        }
                    }
                }
            }
        }
    }

    /// y = W ∗ x, and the gradients of x: sums, and sums of magnitudes, in f64.
    fn naive(&self, w: &[f32], x: &[f32], g: &[f32]) -> [Vec<(f64, f64)>; 2] {
        let mut y = vec![(0.0, 0.0); self.y_shape().iter().product()];
        let mut dx = vec![(0.0, 0.0); x.len()];
        let mut add = |sum: &mut (f64, f64), a: f32, b: f32| {
            let product = f64::from(a) * f64::from(b);
            sum.0 += product;
            sum.1 += product.abs();
        };
        self.products(|yi, wi, xi| {
            add(&mut y[yi], w[wi], x[xi]);
            add(&mut dx[xi], w[wi], g[yi]);
        });
        [y, dx]
    }
}

fn options(method: ConvMethod) -> ConvOptions {
    ConvOptions {
        method,
        matmul: MatmulOptions {
            precision: Precision::Exact,
            ..MatmulOptions::default()
        },
        ..ConvOptions::default()
    }
}

fn with(stride: [usize; 2], padding: [[usize; 2]; 2], dilation: [usize; 2], groups: usize) -> ConvOptions {
    ConvOptions {
        stride,
        padding,
        dilation,
        groups,
        ..options(ConvMethod::Auto)
    }
}

/// Strides, paddings, dilations, groups and odd sizes, each with a reason to be wrong.
fn cases() -> Vec<Case> {
    let plain = || with([1; 2], [[0; 2]; 2], [1; 2], 1);
    let same = || with([1; 2], [[1; 2]; 2], [1; 2], 1);
    vec![
        // 1×1: nothing to gather.
        Case::new(&[5, 7, 1, 1], &[2, 7, 5, 3], plain()),
        Case::new(&[5, 7, 1], &[3, 7, 11], plain()),
        Case::new(&[4, 3, 1, 1], &[1, 3, 7, 7], with([2, 3], [[0; 2]; 2], [1; 2], 1)),
        // 3×3, odd sizes, and one position.
        Case::new(&[6, 5, 3, 3], &[2, 5, 9, 7], same()),
        Case::new(&[6, 5, 3, 3], &[1, 5, 3, 3], plain()),
        Case::new(&[17, 3, 3, 3], &[1, 3, 20, 33], same()),
        Case::new(&[3, 2, 3, 3], &[1, 2, 1, 1], same()),
        // Steps wider than the kernel: samples that count nowhere.
        Case::new(&[4, 3, 2, 3], &[2, 3, 13, 17], with([3, 5], [[1, 0], [2, 3]], [1; 2], 1)),
        Case::new(&[5, 2, 7, 7], &[1, 2, 23, 19], with([2, 2], [[3; 2]; 2], [1; 2], 1)),
        // Kernels that are not square, dilated, padded on one side.
        Case::new(&[3, 4, 1, 5], &[1, 4, 6, 12], with([1, 2], [[0, 2], [4, 0]], [1, 2], 1)),
        Case::new(&[3, 4, 5, 1], &[1, 4, 12, 6], with([2, 1], [[4, 0], [0, 2]], [2, 1], 1)),
        Case::new(&[4, 2, 3, 3], &[2, 2, 15, 15], with([2, 1], [[2; 2], [5; 2]], [3, 4], 1)),
        // More padding than input, taps beyond it on both sides.
        Case::new(&[2, 3, 3, 3], &[1, 3, 2, 2], with([1, 3], [[9, 8], [11, 10]], [4, 7], 1)),
        // Groups, and one channel a group.
        Case::new(&[6, 2, 3, 3], &[2, 6, 7, 6], with([1; 2], [[1; 2]; 2], [1; 2], 3)),
        Case::new(&[12, 1, 3, 3], &[1, 12, 10, 9], with([1; 2], [[1; 2]; 2], [1; 2], 12)),
        Case::new(&[12, 1, 5, 5], &[2, 4, 9, 9], with([2; 2], [[2; 2]; 2], [1; 2], 4)),
        Case::new(&[40, 3, 2, 2], &[1, 6, 5, 8], with([2, 1], [[0; 2]; 2], [1; 2], 2)),
        // One dimension, short and long.
        Case::new(&[5, 3, 4], &[2, 3, 29], with([1, 1], [[0; 2], [3, 2]], [1; 2], 1)),
        Case::new(&[4, 3, 9], &[1, 3, 500], with([1, 4], [[0; 2], [4; 2]], [1, 3], 1)),
        Case::new(&[8, 1, 65], &[1, 8, 300], with([1, 1], [[0; 2], [64, 0]], [1; 2], 8)),
        Case::new(&[3, 2, 200], &[2, 2, 210], plain()),
    ]
}

fn encode(w: &[f32], shape: &[usize], spec: &str) -> Tensor {
    let dense = Dense::from_slice(w, shape).unwrap();
    let spec = form::parse(spec).unwrap();
    form::encode(&dense.view(), &spec, &EncodeContext::default()).unwrap()
}

fn values(n: usize, seed: u64) -> Vec<f32> {
    let mut rng = Rng::new(seed);
    (0..n).map(|_| rng.gaussian()).collect()
}

fn decoded(tensor: &Tensor) -> Vec<f32> {
    tensor.decompress().unwrap().as_slice::<f32>().unwrap().to_vec()
}

/// Runs both directions.
fn run(tensor: &Tensor, case: &Case, x: &[f32], g: &[f32]) -> [Vec<f32>; 2] {
    let mut y = vec![f32::NAN; g.len()];
    let done = tensor.conv(x, &case.x, &mut y, &case.options).unwrap();
    assert_eq!(done.precision, Precision::Exact);
    let mut dx = vec![f32::NAN; x.len()];
    tensor.conv_t(g, &case.x, &mut dx, &case.options).unwrap();
    [y, dx]
}

/// Decoded weights and f32 sums: each of n terms is rounded once when multiplied and at most
/// n times when added, so that a sum is off by at most `(n + 1)·2⁻²⁴` of its magnitudes, to
/// first order; one more allows for the second. A form's own product may also round what it
/// decodes differently (scales after sums, factors one after another, transforms): its bound
/// is the suite's for products, `1e-5 · ‖patch‖ · ‖W‖`, by which rows of small norm are held
/// to the whole.
fn bound(case: &Case, tensor: &Tensor, i: usize, (magnitude, terms): (f64, usize), rough: f64) -> f64 {
    let _ = (case, tensor, i);
    (terms as f64 + 2.0) * 2f64.powi(-24) * magnitude + rough + 1e-37
}

fn check(case: &Case, spec: &str, seed: u64) {
    let n: usize = case.w.iter().product();
    let cols: usize = case.w[1..].iter().product();
    let tensor = encode(&weights(Kind::Gaussian, case.w[0], cols, seed)[..n], &case.w, spec);
    let w = decoded(&tensor);
    let y_shape = tensor.conv_output_shape(&case.x, &case.options).unwrap();
    assert_eq!(y_shape, case.y_shape(), "{spec} {case:?}");
    let x = values(case.x.iter().product(), seed + 1);
    let g = values(y_shape.iter().product(), seed + 2);
    let [y, dx] = case.naive(&w, &x, &g);
    let methods = match case.options.groups {
        1 => vec![ConvMethod::Auto, ConvMethod::Direct, ConvMethod::Patches],
        _ => vec![ConvMethod::Auto],
    };
    for method in methods {
        let mut case = case.clone();
        case.options.method = method;
        let found = run(&tensor, &case, &x, &g);
        let direct = method == ConvMethod::Direct || case.options.groups > 1;
        // The largest patch has no larger norm than the largest values of x.
        let largest = |v: &[f32]| v.iter().fold(0.0f64, |a, b| a.max(f64::from(b.abs())));
        for (direction, (found, expected)) in found.iter().zip([&y, &dx]).enumerate() {
            let (terms, input) = match direction {
                0 => (cols, &x),
                _ => (n / case.w[1] / case.options.groups, &g),
            };
            let rough = match direct {
                true => 0.0,
                false => 1e-5 * largest(input) * (terms as f64).sqrt() * norm(&w),
            };
            for (i, (f, e)) in found.iter().zip(expected).enumerate() {
                let bound = bound(&case, &tensor, i, (e.1, terms), rough);
                assert!(
                    (f64::from(*f) - e.0).abs() <= bound,
                    "{spec} {case:?}, direction {direction}: value {i} is {f}, expected {} within {bound:e}",
                    e.0
                );
            }
        }
    }
}

#[test]
fn every_case_is_what_the_definition_says() {
    let _alone = alone();
    for (i, case) in cases().iter().enumerate() {
        for spec in ["dense", "int8", "int4(group=64)", "mask(keep=20%)", "svd(rank=2)"] {
            check(case, spec, i as u64);
        }
    }
}
