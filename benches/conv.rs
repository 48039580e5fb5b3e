//! Convolutions beside the product of the same size, and what they hold.
//!
//! `cargo bench --bench conv -- [PART…]`: `layers` (3×3, 1×1, strided, first layer),
//! `depthwise`, `long` and `taps` (kernels of one dimension), `gradient`, `few` (few
//! positions), `forms`. `--threads N` for other than one and two.

mod common;
#[path = "../tests/common/heap.rs"]
#[allow(dead_code)]
mod heap;

use std::time::Instant;

use common::{gaussian, thread_seconds};
use cortex::form::{self, EncodeContext};
use cortex::{ConvMethod, ConvOptions, Dense, MatmulOptions, Precision, Tensor};

#[global_allocator]
static HEAP: heap::Counting = heap::Counting;

fn encode(shape: &[usize], spec: &str) -> Tensor {
    let n = shape.iter().product();
    let dense = Dense::from_slice(&gaussian(n, 1), shape).expect("a tensor");
    let spec = form::parse(spec).expect("a valid spec");
    form::encode(&dense.view(), &spec, &EncodeContext::default()).expect("encodes")
}

/// The least seconds of one call of each, taken in turns: of the thread, if it is the only one.
fn least(seconds: f64, threads: usize, work: &mut [Box<dyn FnMut() + '_>]) -> Vec<f64> {
    let origin = Instant::now();
    let now = || match threads {
        1 => thread_seconds(),
        _ => origin.elapsed().as_secs_f64(),
    };
    let mut best = vec![f64::INFINITY; work.len()];
    work.iter_mut().for_each(|w| w());
    let start = Instant::now();
    let mut rounds = 0;
    while rounds < 5 || start.elapsed().as_secs_f64() < seconds {
        for (best, work) in best.iter_mut().zip(work.iter_mut()) {
            let start = now();
            work();
            *best = best.min(now() - start);
        }
        rounds += 1;
    }
    best
}

struct Layer {
    name: &'static str,
    w: &'static [usize],
    x: &'static [usize],
    options: ConvOptions,
}

fn layer(
    name: &'static str,
    w: &'static [usize],
    x: &'static [usize],
    stride: usize,
    pad: usize,
    groups: usize,
) -> Layer {
    let tall = w.len() == 4;
    let up = |v: usize, neutral: usize| if tall { v } else { neutral };
    Layer {
        name,
        w,
        x,
        options: ConvOptions {
            stride: [up(stride, 1), stride],
            padding: [[up(pad, 0); 2], [pad; 2]],
            groups,
            ..ConvOptions::default()
        },
    }
}

const SPECS: &[&str] = &[
    "dense",
    "int8",
    "int8(group=row)",
    "int4",
    "mask(keep=50%)",
    "mask(keep=10%)",
];

const FORMS: &[&str] = &[
    "svd(rank=8)",
    "svd(rank=32)",
    "svd(rank=64)",
    "svd(rank=96)",
    "fft(keep=1%)",
    "fft(keep=5%)",
    "dct2(keep=1%)",
    "dct2(keep=5%)",
    "sdr(keep=10%)",
    "mask(keep=30%)",
    "mask(keep=5%)",
    "mask(keep=2%)",
    "tt(rank=16)",
    "tucker(params=20%)",
    "bf16",
    "ecq(bits=4)",
    "int8 | zstd(1)",
];

/// One line a spec: milliseconds of each method, of `Auto` beside the best of them, and of the
/// matmul of the same size. Gives the largest ratio of `Auto` to the best.
fn table(layer: &Layer, specs: &[&str], threads: usize, gradient: bool) -> f64 {
    let Layer {
        name,
        w,
        x,
        options,
    } = layer;
    println!(
        "\n## {name}{}: W {w:?}, x {x:?}, {threads} thread{}\n",
        if gradient { ", gradient" } else { "" },
        if threads == 1 { "" } else { "s" }
    );
    println!("Milliseconds; in the last column bytes held beside input and output (Auto, MiB)\n");
    println!(
        "| spec | direct | fourier | patches | auto | ÷ best | patches, fast | auto, fast | ÷ best | matmul | matmul, fast | held |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|");
    let mut worst = 1.0f64;
    for spec in specs {
        let tensor = encode(w, spec);
        let y_shape = tensor.conv_output_shape(x, options).expect("fits");
        let (n_x, n_y) = (x.iter().product(), y_shape.iter().product());
        let positions = n_y / w[0];
        let data = gaussian(if gradient { n_y } else { n_x }, 2);
        let one = |method, precision| ConvOptions {
            method,
            matmul: MatmulOptions {
                threads,
                precision,
                ..MatmulOptions::default()
            },
            ..options.clone()
        };
        let run = |o: &ConvOptions, out: &mut [f32]| match gradient {
            true => tensor.conv_t(&data, x, out, o).expect("runs"),
            false => tensor.conv(&data, x, out, o).expect("runs"),
        };
        let n_out = if gradient { n_x } else { n_y };
        let o = one(ConvMethod::Auto, Precision::Exact);
        let mut out = vec![0.0; n_out];
        let (held, _) = heap::peak_of(|| run(&o, &mut out));
        let mut cells: Vec<Option<Box<dyn FnMut()>>> = Vec::new();
        let methods = [
            Some((ConvMethod::Direct, Precision::Exact)),
            (w.len() == 3).then_some((ConvMethod::Fourier, Precision::Exact)),
            (options.groups == 1).then_some((ConvMethod::Patches, Precision::Exact)),
            Some((ConvMethod::Auto, Precision::Exact)),
            (options.groups == 1 && !gradient).then_some((ConvMethod::Patches, Precision::Fast)),
            (!gradient).then_some((ConvMethod::Auto, Precision::Fast)),
        ];
        for method in methods {
            cells.push(method.map(|(method, precision)| {
                let (o, mut out) = (one(method, precision), vec![0.0; n_out]);
                let run = &run;
                Box::new(move || {
                    run(&o, &mut out);
                }) as Box<dyn FnMut()>
            }));
        }
        if options.groups == 1 {
            let (from, to) = match gradient {
                true => (tensor.rows(), tensor.cols()),
                false => (tensor.cols(), tensor.rows()),
            };
            let inputs = gaussian(positions * from, 3);
            for precision in [Precision::Exact, Precision::Fast] {
                let o = one(ConvMethod::Auto, precision).matmul;
                let (inputs, tensor) = (inputs.clone(), tensor.clone());
                let mut out = vec![0.0; positions * to];
                cells.push(Some(Box::new(move || {
                    let done = match gradient {
                        true => tensor.matmul_t(&inputs, positions, &mut out, &o),
                        false => tensor.matmul(&inputs, positions, &mut out, &o),
                    };
                    done.expect("runs");
                })));
            }
        } else {
            cells.extend([None, None]);
        }
        let given: Vec<bool> = cells.iter().map(Option::is_some).collect();
        let mut work: Vec<_> = cells.into_iter().flatten().collect();
        let mut times = least(0.5, threads, &mut work).into_iter();
        let times: Vec<Option<f64>> = given
            .into_iter()
            .map(|given| given.then(|| times.next()).flatten())
            .collect();
        let best = |of: &[usize]| {
            let times = of.iter().filter_map(|i| times[*i]);
            times.fold(f64::INFINITY, f64::min)
        };
        let [exact, fast] = [&[0, 1, 2][..], &[0, 1, 4]].map(best);
        let ratios = [(3, exact), (5, fast)].map(|(i, best)| times[i].map(|t| t / best));
        print!("| `{spec}` |");
        for (i, time) in times.iter().enumerate() {
            match time {
                Some(t) => print!(" {:.3} |", t * 1e3),
                None => print!(" |"),
            }
            if let Some(place) = [3, 5].iter().position(|p| *p == i) {
                match ratios[place] {
                    Some(r) => print!(" {r:.2} |"),
                    None => print!(" |"),
                }
            }
        }
        println!(" {:.2} |", held as f64 / (1 << 20) as f64);
        worst = ratios.into_iter().flatten().fold(worst, f64::max);
    }
    worst
}

fn main() {
    let mut parts: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| a != "--bench")
        .collect();
    let mut threads = vec![1, 2];
    if let Some(at) = parts.iter().position(|p| p == "--threads") {
        threads = vec![parts[at + 1].parse().expect("a number")];
        parts.drain(at..at + 2);
    }
    let wanted = |part: &str| parts.is_empty() || parts.iter().any(|p| p == part);
    println!("# Convolution, kernels: {}", kernel_name());
    let mut worst = 1.0f64;
    let mut table = |layer: &Layer, specs: &[&str], threads: usize, gradient: bool| {
        worst = worst.max(table(layer, specs, threads, gradient));
    };
    for threads in threads {
        if wanted("layers") {
            for layer in [
                layer("3×3", &[256, 256, 3, 3], &[1, 256, 56, 56], 1, 1, 1),
                layer("1×1", &[256, 256, 1, 1], &[1, 256, 56, 56], 1, 0, 1),
                layer(
                    "3×3, stride 2",
                    &[256, 128, 3, 3],
                    &[1, 128, 56, 56],
                    2,
                    1,
                    1,
                ),
                layer("first layer", &[64, 3, 7, 7], &[1, 3, 224, 224], 2, 3, 1),
            ] {
                table(&layer, SPECS, threads, false);
            }
        }
        if wanted("few") {
            for layer in [
                layer("7×7 images", &[512, 512, 3, 3], &[1, 512, 7, 7], 1, 1, 1),
                layer(
                    "14×14 images",
                    &[256, 256, 3, 3],
                    &[1, 256, 14, 14],
                    1,
                    1,
                    1,
                ),
                layer("4×4 images", &[512, 512, 3, 3], &[1, 512, 4, 4], 1, 1, 1),
            ] {
                table(&layer, SPECS, threads, false);
            }
        }
        if wanted("depthwise") {
            for layer in [
                layer(
                    "depthwise 3×3",
                    &[256, 1, 3, 3],
                    &[1, 256, 56, 56],
                    1,
                    1,
                    256,
                ),
                layer(
                    "depthwise 3×3, stride 2",
                    &[256, 1, 3, 3],
                    &[1, 256, 56, 56],
                    2,
                    1,
                    256,
                ),
                layer(
                    "32 groups 3×3",
                    &[256, 8, 3, 3],
                    &[1, 256, 56, 56],
                    1,
                    1,
                    32,
                ),
            ] {
                table(&layer, &["dense", "int8", "int4"], threads, false);
            }
        }
        if wanted("long") {
            for layer in [
                layer("65 taps", &[64, 64, 65], &[1, 64, 4096], 1, 32, 1),
                layer("257 taps", &[64, 64, 257], &[1, 64, 4096], 1, 128, 1),
                layer(
                    "depthwise 129 taps",
                    &[64, 1, 129],
                    &[1, 64, 16384],
                    1,
                    64,
                    64,
                ),
                layer(
                    "depthwise 1025 taps",
                    &[64, 1, 1025],
                    &[1, 64, 16384],
                    1,
                    512,
                    64,
                ),
            ] {
                table(&layer, &["dense", "int8", "fft(keep=5%)"], threads, false);
            }
        }
        if wanted("taps") {
            for layer in [
                layer("5 taps", &[64, 64, 5], &[1, 64, 4096], 1, 2, 1),
                layer("9 taps", &[64, 64, 9], &[1, 64, 4096], 1, 4, 1),
                layer("17 taps", &[64, 64, 17], &[1, 64, 4096], 1, 8, 1),
                layer("33 taps", &[64, 64, 33], &[1, 64, 4096], 1, 16, 1),
                layer("65 taps", &[64, 64, 65], &[1, 64, 512], 1, 32, 1),
                layer("depthwise 17 taps", &[64, 1, 17], &[1, 64, 16384], 1, 8, 64),
                layer(
                    "depthwise 33 taps",
                    &[64, 1, 33],
                    &[1, 64, 16384],
                    1,
                    16,
                    64,
                ),
                layer(
                    "depthwise 65 taps",
                    &[64, 1, 65],
                    &[1, 64, 16384],
                    1,
                    32,
                    64,
                ),
            ] {
                table(&layer, &["dense"], threads, false);
            }
        }
        if wanted("forms") {
            let layer = layer("3×3", &[256, 256, 3, 3], &[1, 256, 28, 28], 1, 1, 1);
            table(&layer, FORMS, threads, false);
        }
        if wanted("gradient") {
            for layer in [
                layer("3×3", &[256, 256, 3, 3], &[1, 256, 56, 56], 1, 1, 1),
                layer(
                    "3×3, stride 2",
                    &[256, 128, 3, 3],
                    &[1, 128, 56, 56],
                    2,
                    1,
                    1,
                ),
                layer(
                    "depthwise 3×3",
                    &[256, 1, 3, 3],
                    &[1, 256, 56, 56],
                    1,
                    1,
                    256,
                ),
            ] {
                table(&layer, &["dense", "int8", "mask(keep=10%)"], threads, true);
            }
        }
    }
    println!("\nAuto ÷ best method, at most: {worst:.2}");
}

fn kernel_name() -> &'static str {
    cortex::kernel::best().isa().name()
}
