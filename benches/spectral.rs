//! The spectral forms: products beside dense ones, rates of encoding and decoding, and a
//! smooth matrix beside `int4`. `cargo bench --bench spectral`, on one thread.

mod common;

use std::time::Instant;

use common::gaussian;
use cortex::form::{self, EncodeContext};
use cortex::{Dense, MatmulOptions, Tensor};

const N: usize = 4096;

/// Twelve plane waves of random frequencies and phases, and noise of `noise` of their
/// root mean square.
fn smooth(noise: f32) -> Vec<f32> {
    let parameters = gaussian(48, 5);
    let waves: Vec<[f32; 4]> = parameters.as_chunks::<4>().0.to_vec();
    let mut w = gaussian(N * N, 6);
    let rms = (waves.iter().map(|p| p[0] * p[0] / 2.0).sum::<f32>()).sqrt();
    for (i, v) in w.iter_mut().enumerate() {
        let (r, c) = ((i / N) as f32 / N as f32, (i % N) as f32 / N as f32);
        let wave = |p: &[f32; 4]| p[0] * (40.0 * (p[1] * r + p[2] * c) + 3.0 * p[3]).cos();
        *v = *v * noise * rms + waves.iter().map(wave).sum::<f32>();
    }
    w
}

/// Seconds of the fastest of some runs after one to warm up.
fn fastest(f: &mut dyn FnMut()) -> f64 {
    f();
    let time = |f: &mut dyn FnMut()| {
        let start = Instant::now();
        f();
        start.elapsed().as_secs_f64()
    };
    (0..7).map(|_| time(f)).fold(f64::INFINITY, f64::min)
}

fn product(tensor: &Tensor, x: &[f32], batch: usize, transposed: bool) -> f64 {
    let mut y = vec![0.0; batch * N];
    let options = MatmulOptions {
        threads: 1,
        ..MatmulOptions::default()
    };
    fastest(&mut || {
        let result = match transposed {
            false => tensor.matmul(x, batch, &mut y, &options),
            true => tensor.matmul_t(x, batch, &mut y, &options),
        };
        result.expect("a product");
    })
}

fn main() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
    pool.expect("a thread pool").install(|| {
        println!(
            "kernels: {}, one thread, f32 {N}×{N}\n",
            cortex::kernel::best().isa().name()
        );
        let gaussian = Dense::from_slice(&gaussian(N * N, 1), &[N, N]).expect("a tensor");
        products(&gaussian);
        rates(&gaussian);
        drop(gaussian);
        sizes();
    });
}

fn compress(dense: &Dense, spec: &str) -> Tensor {
    Tensor::compress(&dense.view(), spec).unwrap_or_else(|e| panic!("{spec}: {e}"))
}

fn products(dense: &Dense) {
    println!("Milliseconds of a product, and the dense one's time over it; ᵀ transposed\n");
    let plain = compress(dense, "dense");
    let batches = [1usize, 8, 64];
    let mut head = "| spec |".to_owned();
    for b in batches {
        head += &format!(" {b} | {b}ᵀ |");
    }
    println!("{head}\n|---|---:|---:|---:|---:|---:|---:|");
    let mut specs = vec!["dense".to_owned()];
    for name in ["dct", "dct2", "fft", "fft2"] {
        specs.extend(["1%", "5%"].map(|keep| format!("{name}(keep={keep})")));
    }
    for spec in specs {
        let tensor = compress(dense, &spec);
        let mut line = format!("| `{spec}` |");
        for batch in batches {
            let x = self::gaussian(batch * N, 2);
            for transposed in [false, true] {
                let time = product(&tensor, &x, batch, transposed);
                let base = product(&plain, &x, batch, transposed);
                line += &format!(" {:.2}, {:.1}× |", time * 1e3, base / time);
            }
        }
        println!("{line}");
    }
    println!();
}

fn rates(dense: &Dense) {
    println!("GB/s of f32\n\n| spec | encode, error not measured | decode |\n|---|---:|---:|");
    let bytes = dense.bytes().len() as f64 / 1e9;
    let mut out = vec![0.0f32; N * N];
    for spec in [
        "dct(keep=5%)",
        "dct2(keep=5%)",
        "fft(keep=5%)",
        "fft2(keep=5%)",
    ] {
        let parsed = form::parse(spec).expect("a spec");
        let encode = fastest(&mut || {
            let context = EncodeContext::default();
            form::encode_unmeasured(&dense.view(), &parsed, &context).expect("a form");
        });
        let tensor = compress(dense, spec);
        let decode = fastest(&mut || {
            tensor.decode_rows_f32(0..N, &mut out).expect("the rows");
        });
        println!(
            "| `{spec}` | {:.2} | {:.2} |",
            bytes / encode,
            bytes / decode
        );
    }
    println!();
}

fn sizes() {
    println!("Twelve plane waves and noise\n");
    println!("| noise | spec | bits/weight | relative error |\n|---:|---|---:|---:|");
    for noise in [0.001, 0.01, 0.03] {
        let dense = Dense::from_slice(&smooth(noise), &[N, N]).expect("a tensor");
        for spec in [
            "int4",
            "int4(search=lsq)",
            "dct2(keep=5%, values=[f16])",
            "dct2(keep=5%, values=[int8])",
            "fft2(keep=5%, values=[f16])",
            "dct(keep=5%, values=[f16])",
        ] {
            let tensor = compress(&dense, spec);
            println!(
                "| {noise} | `{spec}` | {:.3} | {:.5} |",
                tensor.bits_per_weight(),
                tensor.error().relative
            );
        }
    }
}
