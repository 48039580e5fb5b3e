//! Convolution on every form, against the definition in f64.
mod common;

use common::heap::{Counting, alone, peak_of};
use common::specs::specs;
use common::{Kind, Rng, norm, weights};
use cortex::form::{self, EncodeContext};
use cortex::kernel::conv::{Tap, Weights};
use cortex::{ConvMethod, ConvOptions, Dense, ErrorKind, MatmulOptions, Precision, Tensor, kernel};

#[global_allocator]
static HEAP: Counting = Counting;

/// A convolution: weights, input, and how.
#[derive(Clone, Debug)]
struct Case {
    w: Vec<usize>,
    x: Vec<usize>,
    options: ConvOptions,
}

const METHODS: [ConvMethod; 4] = [
    ConvMethod::Auto,
    ConvMethod::Direct,
    ConvMethod::Patches,
    ConvMethod::Fourier,
];

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

    fn takes(&self, method: ConvMethod) -> bool {
        match method {
            ConvMethod::Patches => self.options.groups == 1,
            ConvMethod::Fourier => self.w.len() == 3,
            _ => true,
        }
    }

    /// Samples that a kernel reaches over along the width.
    fn reach(&self) -> usize {
        self.options.dilation[1] * (self.w[self.w.len() - 1] - 1) + 1
    }

    /// What transforms in f32 may be off. One of N samples is off by at most
    /// `7·log₂(N)·2⁻²⁴` of the norm of its result (Higham, Accuracy and Stability, theorem
    /// 24.2, with roots of unity that are rounded once), there are three, and the products
    /// and sums of p planes add p + 4 roundings. A circular convolution's norm is at most that
    /// of the kernel in absolute values times that of the samples, of which two segments are
    /// transformed together.
    fn fourier_bound(&self, w: &[f32], input: &[f32], direction: usize) -> f64 {
        let [outs, ins, _, taps] = four(&self.w);
        let [_, _, _, width] = four(&self.x);
        let longest = 2 * (width + self.options.padding[1][0] + self.reach()).max(64);
        let length = match direction {
            0 => width,
            _ => self.out()[1],
        };
        let sample_norm = input.chunks(length).map(norm).fold(0.0, f64::max);
        let kernel = |k: usize| -> f64 {
            w[k * taps..(k + 1) * taps]
                .iter()
                .map(|w| f64::from(w.abs()))
                .sum()
        };
        let group = outs / self.options.groups;
        let (planes, most) = match direction {
            0 => {
                let sums = (0..outs).map(|o| (0..ins).map(|c| kernel(o * ins + c)).sum());
                (ins, sums.fold(0.0, f64::max))
            }
            _ => {
                let sums = (0..self.options.groups * ins).map(|c| {
                    let first = c / ins * group;
                    (first..first + group)
                        .map(|o| kernel(o * ins + c % ins))
                        .sum()
                });
                (group, sums.fold(0.0, f64::max))
            }
        };
        let roundings = 21.0 * (longest as f64).log2() + planes as f64 + 4.0;
        roundings * 2f64.powi(-24) * most * sample_norm * 2f64.sqrt()
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
        let add = |sum: &mut (f64, f64), a: f32, b: f32| {
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

fn with(
    stride: [usize; 2],
    padding: [[usize; 2]; 2],
    dilation: [usize; 2],
    groups: usize,
) -> ConvOptions {
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
        Case::new(
            &[4, 3, 1, 1],
            &[1, 3, 7, 7],
            with([2, 3], [[0; 2]; 2], [1; 2], 1),
        ),
        // 3×3, odd sizes, and one position.
        Case::new(&[6, 5, 3, 3], &[2, 5, 9, 7], same()),
        Case::new(&[6, 5, 3, 3], &[1, 5, 3, 3], plain()),
        Case::new(&[17, 3, 3, 3], &[1, 3, 20, 33], same()),
        Case::new(&[3, 2, 3, 3], &[1, 2, 1, 1], same()),
        // Steps wider than the kernel: samples that count nowhere.
        Case::new(
            &[4, 3, 2, 3],
            &[2, 3, 13, 17],
            with([3, 5], [[1, 0], [2, 3]], [1; 2], 1),
        ),
        Case::new(
            &[5, 2, 7, 7],
            &[1, 2, 23, 19],
            with([2, 2], [[3; 2]; 2], [1; 2], 1),
        ),
        // Kernels that are not square, dilated, padded on one side.
        Case::new(
            &[3, 4, 1, 5],
            &[1, 4, 6, 12],
            with([1, 2], [[0, 2], [4, 0]], [1, 2], 1),
        ),
        Case::new(
            &[3, 4, 5, 1],
            &[1, 4, 12, 6],
            with([2, 1], [[4, 0], [0, 2]], [2, 1], 1),
        ),
        Case::new(
            &[4, 2, 3, 3],
            &[2, 2, 15, 15],
            with([2, 1], [[2; 2], [5; 2]], [3, 4], 1),
        ),
        // More padding than input, taps beyond it on both sides.
        Case::new(
            &[2, 3, 3, 3],
            &[1, 3, 2, 2],
            with([1, 3], [[9, 8], [11, 10]], [4, 7], 1),
        ),
        // Groups, and one channel a group.
        Case::new(
            &[6, 2, 3, 3],
            &[2, 6, 7, 6],
            with([1; 2], [[1; 2]; 2], [1; 2], 3),
        ),
        Case::new(
            &[12, 1, 3, 3],
            &[1, 12, 10, 9],
            with([1; 2], [[1; 2]; 2], [1; 2], 12),
        ),
        Case::new(
            &[12, 1, 5, 5],
            &[2, 4, 9, 9],
            with([2; 2], [[2; 2]; 2], [1; 2], 4),
        ),
        Case::new(
            &[40, 3, 2, 2],
            &[1, 6, 5, 8],
            with([2, 1], [[0; 2]; 2], [1; 2], 2),
        ),
        // One dimension, short and long.
        Case::new(
            &[5, 3, 4],
            &[2, 3, 29],
            with([1, 1], [[0; 2], [3, 2]], [1; 2], 1),
        ),
        Case::new(
            &[4, 3, 9],
            &[1, 3, 500],
            with([1, 4], [[0; 2], [4; 2]], [1, 3], 1),
        ),
        Case::new(
            &[8, 1, 65],
            &[1, 8, 300],
            with([1, 1], [[0; 2], [64, 0]], [1; 2], 8),
        ),
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
    tensor
        .decompress()
        .unwrap()
        .as_slice::<f32>()
        .unwrap()
        .to_vec()
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

/// How far a sum of `terms` products may be off whose magnitudes add up to `magnitude`.
///
/// By decoded weights in f32: each product is rounded once and each of at most `terms`
/// additions once, 2⁻²⁴ of what has been summed up, which is at most `magnitude`; to first
/// order that is `(terms + 1)·2⁻²⁴·magnitude`, and one more allows for the second.
fn bound(terms: usize, magnitude: f64) -> f64 {
    (terms as f64 + 2.0) * 2f64.powi(-24) * magnitude + 1e-37
}

fn check(case: &Case, spec: &str, seed: u64) {
    let n: usize = case.w.iter().product();
    let cols: usize = case.w[1..].iter().product();
    let tensor = encode(
        &weights(Kind::Gaussian, case.w[0], cols, seed)[..n],
        &case.w,
        spec,
    );
    let w = decoded(&tensor);
    let y_shape = tensor.conv_output_shape(&case.x, &case.options).unwrap();
    assert_eq!(y_shape, case.y_shape(), "{spec} {case:?}");
    let x = values(case.x.iter().product(), seed + 1);
    let g = values(y_shape.iter().product(), seed + 2);
    let [y, dx] = case.naive(&w, &x, &g);
    let mut methods = vec![ConvMethod::Auto, ConvMethod::Direct];
    if case.options.groups == 1 {
        methods.push(ConvMethod::Patches);
    }
    if case.w.len() == 3 && case.reach() < 1 << 20 {
        methods.push(ConvMethod::Fourier);
    }
    for method in methods {
        let mut case = case.clone();
        case.options.method = method;
        if method == ConvMethod::Fourier {
            // Spectra of one row need more than the smallest limits.
            let limit = &mut case.options.matmul.scratch_bytes;
            *limit = (*limit).max(4 << 20);
        }
        let found = run(&tensor, &case, &x, &g);
        let largest = |v: &[f32]| v.iter().fold(0.0f64, |a, b| a.max(f64::from(b.abs())));
        for (direction, (found, expected)) in found.iter().zip([&y, &dx]).enumerate() {
            let (terms, input) = match direction {
                0 => (cols, &x),
                _ => (n / case.w[1] / case.options.groups, &g),
            };
            // A form's own product rounds elsewhere (factors one after another, scales
            // after sums, transforms), of which the suite of products allows 1e-5 of the
            // norms. A patch's is at most that of as many of the largest values.
            let forms = 1e-5 * largest(input) * (terms as f64).sqrt() * norm(&w);
            let own = match method {
                ConvMethod::Patches => forms,
                ConvMethod::Direct => 0.0,
                ConvMethod::Fourier => case.fourier_bound(&w, input, direction),
                ConvMethod::Auto if case.w.len() == 3 => {
                    forms.max(case.fourier_bound(&w, input, direction))
                }
                ConvMethod::Auto => forms,
            };
            for (i, (f, (e, magnitude))) in found.iter().zip(expected).enumerate() {
                let bound = bound(terms, *magnitude) + own;
                assert!(
                    (f64::from(*f) - e).abs() <= bound,
                    "{spec} {case:?}, direction {direction}: value {i} is {f}, {e} expected \
                     within {bound:e}"
                );
            }
        }
    }
}

#[test]
fn every_case_is_what_the_definition_says() {
    let _alone = alone();
    for (i, case) in cases().iter().enumerate() {
        for spec in [
            "dense",
            "int8",
            "int4(group=64)",
            "mask(keep=20%)",
            "svd(rank=2)",
        ] {
            check(case, spec, i as u64);
        }
    }
}

#[test]
fn every_form_is_what_the_definition_says() {
    let _alone = alone();
    let all = cases();
    for spec in specs() {
        // Two dimensions, one, groups, channels apart.
        for i in [3, 7, 13, 14, 17] {
            check(&all[i], &spec, 40 + i as u64);
        }
    }
}

/// A case of random sizes, with few multiplications.
fn random(rng: &mut Rng) -> Case {
    loop {
        let one = |rng: &mut Rng, n: usize| 1 + rng.below(n);
        let two = rng.below(3) > 0;
        let groups = [1, 1, 2, 3, 5][rng.below(5)];
        let (ins, outs) = (one(rng, 4), groups * one(rng, 5));
        let mut pair =
            |n: usize, neutral: usize| [if two { one(rng, n) } else { neutral }, one(rng, n)];
        let (taps, stride, dilation) = (pair(5, 1), pair(4, 1), pair(3, 1));
        let size = pair(17, 1);
        let padding = [0, 1].map(|i| match i == 0 && !two {
            true => [0; 2],
            false => [rng.below(6), rng.below(6)],
        });
        let fits =
            (0..2).all(|i| dilation[i] * (taps[i] - 1) < size[i] + padding[i][0] + padding[i][1]);
        if !fits {
            continue;
        }
        let batch = one(rng, 3);
        let (mut w, mut x) = (vec![outs, ins], vec![batch, ins * groups]);
        w.extend(&taps[usize::from(!two)..]);
        x.extend(&size[usize::from(!two)..]);
        return Case::new(&w, &x, with(stride, padding, dilation, groups));
    }
}

#[test]
fn random_cases_are_what_the_definition_says() {
    let _alone = alone();
    let mut rng = Rng::new(77);
    for seed in 0..400 {
        let mut case = random(&mut rng);
        // Windows, blocks and tiles of every size.
        case.options.matmul.scratch_bytes = [1, 3_000, 20_000, 1 << 20][rng.below(4)];
        let spec = [
            "dense",
            "int8",
            "mask(keep=30%)",
            "q(bits=3) | zstd(1)",
            "mask(keep=8%)",
        ][rng.below(5)];
        check(&case, spec, seed);
    }
}

fn bits(v: &[f32]) -> Vec<u32> {
    v.iter().map(|v| v.to_bits()).collect()
}

#[test]
fn threads_change_no_bit_and_scratch_only_a_forms_own_products() {
    let _alone = alone();
    let pools = [1, 2, 4].map(|n| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(n).build();
        pool.unwrap()
    });
    let same = || with([1; 2], [[1; 2]; 2], [1; 2], 1);
    let cases = [
        // Several windows of rows, several blocks, parts that end in the middle.
        Case::new(&[83, 21, 3, 3], &[2, 21, 19, 23], same()),
        Case::new(
            &[64, 16, 5, 3],
            &[1, 16, 31, 17],
            with([2, 3], [[2, 1], [0, 2]], [1, 2], 1),
        ),
        Case::new(
            &[96, 8, 3, 3],
            &[2, 48, 13, 13],
            with([1; 2], [[1; 2]; 2], [1; 2], 6),
        ),
        Case::new(
            &[300, 1, 3, 3],
            &[3, 300, 14, 15],
            with([1; 2], [[1; 2]; 2], [1; 2], 300),
        ),
        Case::new(
            &[40, 10, 31],
            &[3, 10, 401],
            with([1, 1], [[0; 2], [15; 2]], [1; 2], 1),
        ),
        Case::new(
            &[6, 2, 700],
            &[2, 4, 5000],
            with([1, 2], [[0; 2], [15; 2]], [1; 2], 2),
        ),
    ];
    for (seed, case) in cases.iter().enumerate() {
        let cols: usize = case.w[1..].iter().product();
        let w = weights(Kind::Gaussian, case.w[0], cols, seed as u64);
        let x = values(case.x.iter().product(), 1);
        let g = values(case.y_shape().iter().product(), 2);
        for spec in [
            "dense",
            "int8 | zstd(1)",
            "int4",
            "mask(keep=15%)",
            "svd(rank=3)",
            "dct2(keep=30%)",
        ] {
            let tensor = encode(&w, &case.w, spec);
            for method in METHODS {
                if !case.takes(method) {
                    continue;
                }
                let mut direct = None;
                for scratch in [1, 40_000, 1 << 20, usize::MAX] {
                    if method == ConvMethod::Fourier && scratch < 1 << 20 {
                        continue;
                    }
                    let run = |threads: usize| {
                        let mut case = case.clone();
                        case.options.method = method;
                        case.options.matmul.threads = threads;
                        case.options.matmul.scratch_bytes = scratch;
                        run(&tensor, &case, &x, &g).map(|v| bits(&v))
                    };
                    let expected = pools[0].install(|| run(1));
                    for (pool, threads) in pools.iter().zip([1, 2, 4]).skip(1) {
                        let found = pool.install(|| run(threads));
                        assert!(
                            found == expected,
                            "{spec} {case:?} {method:?} {threads} {scratch}"
                        );
                    }
                    if method == ConvMethod::Direct {
                        let first = direct.get_or_insert_with(|| expected.clone());
                        assert!(*first == expected, "{spec} {case:?} {scratch}");
                    }
                }
            }
        }
    }
}

/// Besides the limit: queues, tasks, lists of taps.
const CONSTANT: usize = 64 << 10;

#[test]
fn convolutions_keep_to_the_scratch_limit() {
    let _alone = alone();
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(2)
        .build()
        .unwrap();
    let cases = [
        Case::new(
            &[128, 96, 3, 3],
            &[1, 96, 40, 41],
            with([1; 2], [[1; 2]; 2], [1; 2], 1),
        ),
        Case::new(
            &[64, 64, 1, 1],
            &[4, 64, 32, 32],
            with([1; 2], [[0; 2]; 2], [1; 2], 1),
        ),
        Case::new(
            &[256, 8, 3, 3],
            &[1, 256, 30, 30],
            with([2; 2], [[1; 2]; 2], [1; 2], 32),
        ),
        Case::new(
            &[256, 1, 3, 3],
            &[2, 256, 64, 64],
            with([1; 2], [[1; 2]; 2], [1; 2], 256),
        ),
        Case::new(
            &[32, 4, 255],
            &[1, 4, 30_000],
            with([1, 1], [[0; 2], [127; 2]], [1; 2], 1),
        ),
    ];
    for case in &cases {
        let cols: usize = case.w[1..].iter().product();
        let w = weights(Kind::Gaussian, case.w[0], cols, 3);
        let x = values(case.x.iter().product(), 1);
        let g = values(case.y_shape().iter().product(), 2);
        for spec in [
            "dense",
            "int8",
            "int4 | zstd",
            "mask(keep=10%)",
            "mask(keep=50%, values=[int8])",
        ] {
            let tensor = encode(&w, &case.w, spec);
            for limit in [200 << 10, 1 << 20, 8 << 20] {
                for method in METHODS {
                    if !case.takes(method) || (method == ConvMethod::Fourier && limit < 1 << 20) {
                        continue;
                    }
                    let mut case = case.clone();
                    case.options.method = method;
                    case.options.matmul.scratch_bytes = limit;
                    let (mut y, mut dx) = (vec![0.0; g.len()], vec![0.0; x.len()]);
                    for direction in 0..2 {
                        let (peak, done) = peak_of(|| {
                            pool.install(|| match direction {
                                0 => tensor.conv(&x, &case.x, &mut y, &case.options),
                                _ => tensor.conv_t(&g, &case.x, &mut dx, &case.options),
                            })
                        });
                        done.unwrap();
                        let what = format!("{spec} {:?} {method:?} {direction} {limit}", case.w);
                        println!("{what}: {} KiB", peak >> 10);
                        assert!(peak <= limit + CONSTANT, "{what}: {peak} bytes");
                    }
                }
            }
        }
    }
}

#[test]
fn rounded_activations_are_told_and_near() {
    let _alone = alone();
    // 256 columns are one group of scales by row, and one of rounded activations.
    for (w_shape, x_shape) in [
        (vec![64, 32, 3, 3], vec![1, 32, 24, 24]),
        (vec![64, 256, 1, 1], vec![1, 256, 24, 24]),
    ] {
        let pad = w_shape[3] / 2;
        let mut case = Case::new(&w_shape, &x_shape, with([1; 2], [[pad; 2]; 2], [1; 2], 1));
        let w = weights(Kind::Gaussian, 64, w_shape[1..].iter().product(), 5);
        let x = values(x_shape.iter().product(), 6);
        for spec in [
            "int8",
            "int8(group=row)",
            "int4",
            "bf16",
            "dense",
            "mask(keep=50%)",
        ] {
            let tensor = encode(&w, &case.w, spec);
            let mut exact = vec![0.0; 64 * 24 * 24];
            case.options.matmul.precision = Precision::Exact;
            let done = tensor.conv(&x, &case.x, &mut exact, &case.options).unwrap();
            assert_eq!(done.precision, Precision::Exact);
            case.options.matmul.precision = Precision::Fast;
            for method in [ConvMethod::Auto, ConvMethod::Patches] {
                case.options.method = method;
                let mut y = vec![0.0; exact.len()];
                let done = tensor.conv(&x, &case.x, &mut y, &case.options).unwrap();
                let error: Vec<f32> = y.iter().zip(&exact).map(|(a, b)| a - b).collect();
                let relative = norm(&error) / norm(&exact);
                println!("{spec} {method:?}: {:?}, {relative:e}", done.precision);
                // Ways to sum differ by rounding in f32; int8 activations by −40 dB, see
                // `Precision`.
                let most = if done.precision == Precision::Fast {
                    0.02
                } else {
                    1e-5
                };
                assert!(relative < most, "{spec}: {relative}");
            }
        }
    }
}

/// Convolutions that one way computes in clearly less time than the others, and which: forward,
/// back, and forward with rounded activations.
fn clear_cases() -> Vec<(Case, &'static str, [Option<ConvMethod>; 3])> {
    let [direct, fourier, patches] =
        [ConvMethod::Direct, ConvMethod::Fourier, ConvMethod::Patches].map(|m| [Some(m); 3]);
    let rounded = [None, None, Some(ConvMethod::Patches)];
    let same = || with([1; 2], [[1; 2]; 2], [1; 2], 1);
    let line = |pad: usize, groups| with([1; 2], [[0; 2], [pad; 2]], [1; 2], groups);
    // An odd number of positions, which patches sum up in another order.
    let wide = Case::new(&[64, 64, 3, 3], &[1, 64, 27, 27], same());
    let small = Case::new(&[256, 256, 3, 3], &[1, 256, 4, 4], same());
    let thin = Case::new(&[128, 64, 3, 3], &[1, 64, 14, 14], same());
    vec![
        (wide.clone(), "dense", direct),
        (wide, "mask(keep=60%)", direct),
        (small.clone(), "int8", rounded),
        (small.clone(), "int4(group=64)", rounded),
        (small, "mask(keep=10%)", patches),
        (thin, "svd(rank=4)", patches),
        (
            Case::new(&[16, 16, 129], &[2, 16, 2048], line(64, 1)),
            "dense",
            fourier,
        ),
        (
            Case::new(&[32, 1, 1025], &[1, 32, 8192], line(512, 32)),
            "int8",
            fourier,
        ),
        (
            Case::new(&[32, 1, 5], &[2, 32, 3000], line(2, 32)),
            "dense",
            direct,
        ),
    ]
}

/// Whatever is taken, it is what the definition says.
#[test]
fn the_way_that_is_taken_holds_the_bounds() {
    let _alone = alone();
    for (i, (case, spec, _)) in clear_cases().iter().enumerate() {
        check(case, spec, 60 + i as u64);
    }
}

#[test]
fn the_clearly_fastest_way_is_taken_by_any_number_of_threads() {
    let _alone = alone();
    let pools = [1, 2].map(|n| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(n).build();
        pool.unwrap()
    });
    for (case, spec, expected) in clear_cases() {
        let cols: usize = case.w[1..].iter().product();
        let tensor = encode(&weights(Kind::Gaussian, case.w[0], cols, 7), &case.w, spec);
        let x = values(case.x.iter().product(), 1);
        let g = values(case.y_shape().iter().product(), 2);
        // Forward, back, and forward with rounded activations.
        let run = |which: usize, method: ConvMethod, threads: usize| {
            let mut o = case.options.clone();
            (o.method, o.matmul.threads) = (method, threads);
            if which == 2 {
                o.matmul.precision = Precision::Fast;
            }
            let mut out = vec![0.0; if which == 1 { x.len() } else { g.len() }];
            let done = match which {
                1 => tensor.conv_t(&g, &case.x, &mut out, &o),
                _ => tensor.conv(&x, &case.x, &mut out, &o),
            };
            (bits(&out), done.unwrap().precision)
        };
        for (which, expected) in expected.into_iter().enumerate() {
            let Some(expected) = expected else {
                continue;
            };
            let what = format!("{spec} {:?} {:?} {which}", case.w, case.x);
            let by_name = run(which, expected, 1);
            for (pool, threads) in pools.iter().zip([1, 2]) {
                let mut options = case.options.clone();
                options.matmul.threads = threads;
                if which == 2 {
                    options.matmul.precision = Precision::Fast;
                }
                let way = pool.install(|| tensor.conv_way(&case.x, which == 1, &options));
                assert_eq!(way.unwrap(), expected, "{what}");
                let found = pool.install(|| run(which, ConvMethod::Auto, threads));
                assert!(found == by_name, "{what}: {expected:?} was not taken");
            }
            let rounds = which == 2 && expected == ConvMethod::Patches && spec.starts_with("int");
            let precision = [Precision::Exact, Precision::Fast][usize::from(rounds)];
            assert_eq!(by_name.1, precision, "{what}");
        }
    }
}

#[test]
fn what_does_not_fit_is_named() {
    let _alone = alone();
    let tensor = |shape: &[usize]| {
        let n = shape.iter().product();
        encode(&values(n, 1), shape, "dense").named("w")
    };
    let flat = with([1; 2], [[0; 2]; 2], [1; 2], 1);
    let square = |f: &dyn Fn(&mut ConvOptions)| {
        let mut o = flat.clone();
        f(&mut o);
        o
    };
    let (w1, w2) = (vec![4, 3, 5], vec![4, 3, 5, 5]);
    let (x1, x2) = (vec![2, 3, 9], vec![2, 3, 9, 9]);
    let max = usize::MAX;
    let cases: Vec<(Vec<usize>, Vec<usize>, ConvOptions, &str)> = vec![
        (
            vec![4, 3],
            x2.clone(),
            flat.clone(),
            "the tensor has shape [4, 3]",
        ),
        (
            vec![4, 3, 1, 1, 1],
            x2.clone(),
            flat.clone(),
            "the tensor has shape [4, 3, 1, 1, 1]",
        ),
        (
            w2.clone(),
            x1.clone(),
            flat.clone(),
            "x has shape [2, 3, 9]; weights [4, 3, 5, 5] take [batch, channels, height, width]",
        ),
        (
            w1.clone(),
            x2.clone(),
            flat.clone(),
            "take [batch, channels, width]",
        ),
        (w1.clone(), vec![], flat.clone(), "x has shape []"),
        (
            w2.clone(),
            vec![2, 4, 9, 9],
            flat.clone(),
            "x has 4 channels; weights [4, 3, 5, 5] in 1 groups take 3 × 1",
        ),
        (
            w2.clone(),
            vec![2, max, 9, 9],
            flat.clone(),
            "channels; weights",
        ),
        (
            w2.clone(),
            x2.clone(),
            square(&|o| o.groups = 0),
            "groups is 0, which does not divide the 4 output channels",
        ),
        (
            w2.clone(),
            x2.clone(),
            square(&|o| o.groups = 3),
            "groups is 3",
        ),
        (
            w2.clone(),
            x2.clone(),
            square(&|o| o.groups = max),
            "groups is 18446744073709551615",
        ),
        (
            vec![0, 3, 5, 5],
            x2.clone(),
            square(&|o| o.groups = max),
            "in 18446744073709551615 groups",
        ),
        (
            w2.clone(),
            x2.clone(),
            square(&|o| o.stride[0] = 0),
            "stride along the height is 0; it must be at least 1",
        ),
        (
            w1.clone(),
            x1.clone(),
            square(&|o| o.stride[1] = 0),
            "stride along the width is 0",
        ),
        (
            w2.clone(),
            x2.clone(),
            square(&|o| o.dilation[1] = 0),
            "dilation along the width is 0",
        ),
        (
            w1.clone(),
            x1.clone(),
            square(&|o| o.stride[0] = 2),
            "stride along the height is 2; weights [4, 3, 5] have only a width",
        ),
        (
            w1.clone(),
            x1.clone(),
            square(&|o| o.padding[0][1] = 7),
            "padding along the height is 7",
        ),
        (
            w1.clone(),
            x1.clone(),
            square(&|o| o.dilation[0] = 3),
            "dilation along the height is 3",
        ),
        (
            w2.clone(),
            vec![2, 3, 4, 9],
            flat.clone(),
            "the kernel spans 5 samples along the height; the padded input has 4",
        ),
        (
            w2.clone(),
            x2.clone(),
            square(&|o| o.dilation[1] = 3),
            "the kernel spans 13 samples along the width; the padded input has 9",
        ),
        (
            w2.clone(),
            x2.clone(),
            square(&|o| o.dilation[1] = max),
            "dilation along the width: 5 taps, 18446744073709551615 apart, reach too far",
        ),
        (
            w2.clone(),
            x2.clone(),
            square(&|o| o.padding[0] = [max, 1]),
            "padding along the height: 18446744073709551615 + 9 + 1 samples are too many",
        ),
        (
            w2.clone(),
            x2.clone(),
            square(&|o| o.padding[1] = [max / 2, 0]),
            "samples are too many",
        ),
        (
            w2.clone(),
            vec![2, 3, max, 9],
            flat.clone(),
            "padding along the height",
        ),
        (
            vec![4, 3, 0, 5],
            x2.clone(),
            flat.clone(),
            "the kernel has no taps along the height",
        ),
    ];
    for (w, x, o, text) in cases {
        let t = tensor(&w);
        let e = t.conv_output_shape(&x, &o).unwrap_err();
        assert_eq!(
            (e.kind(), e.tensor()),
            (ErrorKind::InvalidArgument, Some("w")),
            "{e}"
        );
        assert!(
            e.message().contains(text),
            "'{}' has no '{text}'",
            e.message()
        );
        for e in [
            t.conv(&[], &x, &mut [], &o).unwrap_err(),
            t.conv_t(&[], &x, &mut [], &o).unwrap_err(),
        ] {
            assert_eq!(e.kind(), ErrorKind::InvalidArgument, "{e}");
        }
    }
    // Lengths, and outputs that are not touched.
    let t = tensor(&w2);
    let (n_x, n_y) = (2 * 3 * 81, 2 * 4 * 25);
    for (x, y, text) in [
        (
            n_x - 1,
            n_y,
            "x holds 485 values; shape [2, 3, 9, 9] has 486",
        ),
        (
            n_x,
            n_y + 1,
            "y holds 201 values; shape [2, 4, 5, 5] has 200",
        ),
        (0, n_y, "x holds 0"),
    ] {
        let mut out = vec![7.0; y];
        let e = t.conv(&vec![1.0; x], &x2, &mut out, &flat).unwrap_err();
        assert!(e.message().contains(text), "{e}");
        assert!(out.iter().all(|v| *v == 7.0));
    }
    for (g, dx, text) in [
        (
            n_y - 1,
            n_x,
            "g holds 199 values; shape [2, 4, 5, 5] has 200",
        ),
        (
            n_y,
            n_x + 1,
            "x_gradient holds 487 values; shape [2, 3, 9, 9] has 486",
        ),
    ] {
        let mut out = vec![7.0; dx];
        let e = t.conv_t(&vec![1.0; g], &x2, &mut out, &flat).unwrap_err();
        assert!(e.message().contains(text), "{e}");
        assert!(out.iter().all(|v| *v == 7.0));
    }
    // One way does not know groups; shapes whose product does not fit are refused.
    let grouped = tensor(&[4, 1, 5, 5]);
    let mut o = square(&|o| o.groups = 2);
    o.method = ConvMethod::Patches;
    let e = grouped
        .conv(&[0.0; 162], &[1, 2, 9, 9], &mut [0.0; 100], &o)
        .unwrap_err();
    assert!(e.message().contains("2 groups"), "{e}");
    let huge = square(&|o| o.padding = [[1 << 62, 0], [1 << 62, 0]]);
    let e = t.conv(&vec![0.0; n_x], &x2, &mut [], &huge).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::LimitExceeded, "{e}");
}

#[test]
fn nothing_in_nothing_out() {
    let _alone = alone();
    let o = with([1; 2], [[1; 2]; 2], [1; 2], 1);
    let t = |shape: &[usize]| encode(&values(shape.iter().product(), 1), shape, "dense");
    // No image, no output channel.
    let (w, none) = (t(&[4, 3, 3, 3]), t(&[0, 3, 3, 3]));
    assert_eq!(
        w.conv_output_shape(&[0, 3, 5, 5], &o).unwrap(),
        [0, 4, 5, 5]
    );
    w.conv(&[], &[0, 3, 5, 5], &mut [], &o).unwrap();
    w.conv_t(&[], &[0, 3, 5, 5], &mut [], &o).unwrap();
    none.conv(&[1.0; 75], &[1, 3, 5, 5], &mut [], &o).unwrap();
    let mut dx = [7.0; 75];
    none.conv_t(&[], &[1, 3, 5, 5], &mut dx, &o).unwrap();
    assert_eq!(dx, [0.0; 75]);
    // No input channel, and an input of padding alone: sums of nothing.
    let mut y = [7.0; 100];
    t(&[4, 0, 3, 3])
        .conv(&[], &[1, 0, 5, 5], &mut y, &o)
        .unwrap();
    assert_eq!(y, [0.0; 100]);
    let mut y = [7.0; 4 * 5 * 2];
    let tall = with([1; 2], [[2; 2], [1; 2]], [1; 2], 1);
    assert_eq!(
        w.conv_output_shape(&[1, 3, 0, 5], &tall).unwrap(),
        [1, 4, 2, 5]
    );
    w.conv(&[], &[1, 3, 0, 5], &mut y, &tall).unwrap();
    assert_eq!(y, [0.0; 40]);
    w.conv_t(&[1.0; 40], &[1, 3, 0, 5], &mut [], &tall).unwrap();
}

#[test]
fn steps_and_paddings_beyond_reason_cost_nothing() {
    let _alone = alone();
    // The only output is at the front, or the padding is as long as addresses go.
    let far = isize::MAX as usize;
    let cases = [
        Case::new(
            &[2, 2, 3, 3],
            &[1, 2, 5, 5],
            with([usize::MAX, far], [[1; 2]; 2], [1; 2], 1),
        ),
        Case::new(
            &[2, 2, 2, 2],
            &[1, 2, 5, 5],
            with([far - 9, 1], [[0, far - 7], [0; 2]], [3, 1], 1),
        ),
        Case::new(
            &[2, 2, 2],
            &[1, 2, 5],
            with([1, 1 << 40], [[0; 2], [1 << 41, 1 << 41]], [1, 1 << 41], 1),
        ),
        Case::new(
            &[4, 1, 2],
            &[1, 4, 5],
            with([1, 1], [[0; 2], [1 << 41, 0]], [1, (1 << 41) + 2], 4),
        ),
    ];
    for case in &cases {
        for spec in ["dense", "int8"] {
            check(case, spec, 9);
        }
    }
}

/// The kernels of every instruction set, around the widths of vectors and tiles.
#[test]
fn kernels_are_what_they_say_on_every_instruction_set() {
    let _alone = alone();
    let mut rng = Rng::new(5);
    let x = values(3000, 1);
    spectra_are_summed(&mut rng);
    let mut lengths = vec![100, 130, 200, 385];
    lengths.extend(1..70);
    for set in kernel::available() {
        for rows in [1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 17] {
            for n in lengths.clone() {
                let taps = [1, 2, 9, 15, 16, 17, 33][rng.below(7)];
                let (stride, width) = (taps + rng.below(4), n + rng.below(4));
                let w = values((rows - 1) * stride + taps, 2);
                let list: Vec<Tap> = (0..taps)
                    .map(|_| Tap {
                        weight: rng.below(taps),
                        sample: rng.below(x.len() - n + 1),
                    })
                    .collect();
                let before = values((rows - 1) * width + n, 3);
                for add in [false, true] {
                    let mut out = before.clone();
                    let weights = Weights {
                        data: &w,
                        rows,
                        stride,
                    };
                    set.conv_sum(&weights, &list, &x, &mut out, width, n, add);
                    for (at, (found, old)) in out.iter().zip(&before).enumerate() {
                        let (r, i) = (at / width, at % width);
                        if i >= n {
                            assert_eq!(found.to_bits(), old.to_bits(), "between rows");
                            continue;
                        }
                        let start = if add { f64::from(*old) } else { 0.0 };
                        let (mut sum, mut magnitude) = (start, start.abs());
                        for tap in &list {
                            let p = f64::from(w[r * stride + tap.weight])
                                * f64::from(x[tap.sample + i]);
                            sum += p;
                            magnitude += p.abs();
                        }
                        assert!(
                            (f64::from(*found) - sum).abs() <= bound(taps + 1, magnitude),
                            "{:?} rows {rows} n {n} taps {taps}: {found}, {sum} expected",
                            set.isa()
                        );
                    }
                }
                let offsets: Vec<usize> = list.iter().map(|t| t.sample).collect();
                let mut out = vec![7.0; (n - 1) * stride + taps];
                set.conv_patches(&x, &offsets, n, &mut out, stride);
                for (at, found) in out.iter().enumerate() {
                    let (i, k) = (at / stride, at % stride);
                    let expected = if k < taps { x[offsets[k] + i] } else { 7.0 };
                    assert_eq!(
                        found.to_bits(),
                        expected.to_bits(),
                        "{:?} {n} {taps}",
                        set.isa()
                    );
                }
            }
        }
    }
}

fn spectra_are_summed(rng: &mut Rng) {
    use cortex::kernel::conv::{BINS, BLOCK, Spectra};
    for set in kernel::available() {
        for (rows, vectors) in (1..10).flat_map(|r| (1..6).map(move |v| (r, v))) {
            let planes = 1 + rng.below(9);
            let mut side = |rows: usize, seed: u64| {
                let (plane, gap) = (BLOCK + 3 * rng.below(3), rng.below(40));
                let stride = planes * plane + gap;
                (values(rows * stride, seed), stride, plane)
            };
            let (w, w_stride, w_plane) = side(rows, 1);
            let (x, x_stride, x_plane) = side(vectors, 2);
            let spectra = |data, rows, stride, plane| Spectra {
                data,
                rows,
                stride,
                plane,
            };
            let mut out = vec![7.0; rows * vectors * BLOCK + 1];
            set.conv_spectra(
                &spectra(&w, rows, w_stride, w_plane),
                &spectra(&x, vectors, x_stride, x_plane),
                planes,
                &mut out,
            );
            assert_eq!(out.pop(), Some(7.0));
            for (at, found) in out.iter().enumerate() {
                let (block, i) = (at / BLOCK, at % BLOCK);
                let (r, v) = (block / vectors, block % vectors);
                let (mut sum, mut magnitude) = (0.0, 0.0f64);
                for p in 0..planes {
                    let complex = |s: &[f32], at: usize| {
                        let at = at + i % BINS;
                        (f64::from(s[at]), f64::from(s[at + BINS]))
                    };
                    let (a, b) = complex(&w, r * w_stride + p * w_plane);
                    let (c, d) = complex(&x, v * x_stride + p * x_plane);
                    let two = if i < BINS {
                        [a * c, -b * d]
                    } else {
                        [a * d, b * c]
                    };
                    sum += two[0] + two[1];
                    magnitude += two[0].abs() + two[1].abs();
                }
                assert!(
                    (f64::from(*found) - sum).abs() <= bound(2 * planes, magnitude),
                    "{:?} {rows} × {vectors}, {planes} planes: {found}, {sum} expected",
                    set.isa()
                );
            }
        }
    }
}
