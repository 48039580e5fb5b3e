//! `tucker` and `cp` beside TensorLy at the same ranks, one thread each in one run, and
//! their products beside the dense one.
//!
//! `OPENBLAS_NUM_THREADS=1 cargo bench --bench tensor_decompositions -- \
//!  [--model minilm.safetensors] [--python python-with-tensorly]`; the layer matrix is
//! measured if there is a model, the peer if there is a Python.

mod common;

use std::path::{Path, PathBuf};
use std::time::Instant;

use common::gaussian;
use cortex::form::{self, EncodeContext};
use cortex::import::Model;
use cortex::{Dense, MatmulOptions, Tensor};

fn main() {
    let (mut model, mut python) = (None::<PathBuf>, None::<String>);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--model" => model = args.next().map(PathBuf::from),
            "--python" => python = args.next(),
            _ => {}
        }
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
    pool.expect("a thread pool").install(|| {
        errors(model.as_deref(), python.as_deref());
        products();
    });
}

/// A tensor of `rank` products whose weights fall by `fall`, and noise of `noise` times
/// its norm. Vectors of kernel modes (below 8) are smooth, the others random.
fn planted(shape: &[usize], rank: usize, fall: f32, noise: f32, seed: u64) -> Vec<f32> {
    let n: usize = shape.iter().product();
    let mut out = vec![0.0f32; n];
    for r in 0..rank {
        let mut product = vec![fall.powi(r as i32)];
        for (m, size) in shape.iter().enumerate() {
            let random = gaussian(*size + 2, seed + (r * 8 + m) as u64);
            let vector = (0..*size).map(|i| match *size < 8 {
                true => (random[0] + i as f32 * random[1] / *size as f32).cos(),
                false => random[i],
            });
            let vector: Vec<f32> = vector.collect();
            product = product
                .iter()
                .flat_map(|a| vector.iter().map(move |b| a * b))
                .collect();
        }
        out.iter_mut().zip(product).for_each(|(o, p)| *o += p);
    }
    let norm = |v: &[f32]| v.iter().map(|v| v * v).sum::<f32>().sqrt();
    let random = gaussian(n, seed + 1000);
    let scale = noise * norm(&out) / norm(&random);
    out.iter_mut()
        .zip(random)
        .for_each(|(o, g)| *o += scale * g);
    out
}

/// A 256 × 256 corner of the first feed-forward matrix.
fn layer_matrix(path: &Path) -> Option<Vec<f32>> {
    let model = Model::open(path).ok()?;
    let name = "encoder.layer.0.intermediate.dense.weight";
    let dense = model.get(name)?.view().to_dense().ok()?;
    let cols = dense.shape()[1];
    let w = dense.as_slice::<f32>()?;
    Some(
        (0..256)
            .flat_map(|r| w[r * cols..r * cols + 256].to_vec())
            .collect(),
    )
}

fn errors(model: Option<&Path>, python: Option<&str>) {
    let mut tensors = vec![
        (
            "conv 64×64×3×3",
            vec![64, 64, 3, 3],
            planted(&[64, 64, 3, 3], 24, 0.85, 0.2, 1),
        ),
        (
            "conv 128×64×5×5",
            vec![128, 64, 5, 5],
            planted(&[128, 64, 5, 5], 40, 0.9, 0.2, 2),
        ),
        (
            "rank 10, 40×30×20",
            vec![40, 30, 20],
            planted(&[40, 30, 20], 10, 1.0, 0.01, 3),
        ),
        (
            "rank 10, no noise",
            vec![40, 30, 20],
            planted(&[40, 30, 20], 10, 1.0, 0.0, 4),
        ),
    ];
    match model.and_then(layer_matrix) {
        Some(w) => tensors.push(("MiniLM 256×256", vec![256, 256], w)),
        None => println!("no --model: the layer matrix is not measured\n"),
    }
    let ranks: [&[&str]; 5] = [
        &["tucker 16x16x3x3", "tucker 16x16x2x2", "cp 8", "cp 24"],
        &["tucker 32x16x5x5", "tucker 32x16x3x3", "cp 16", "cp 40"],
        &["tucker 8x8x8", "cp 10"],
        &["cp 10"],
        &["tucker 32x32", "cp 32"],
    ];
    println!("| tensor | decomposition | by | relative error | ms |");
    println!("|---|---|---|---:|---:|");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("tensor.f32");
    for ((name, shape, values), ranks) in tensors.iter().zip(ranks) {
        let dense = Dense::from_slice(values, shape).expect("a tensor");
        std::fs::write(&file, dense.bytes()).expect("writes");
        for what in ranks {
            let (codec, rank) = what.split_once(' ').expect("codec and rank");
            let key = if codec == "cp" { "rank" } else { "ranks" };
            let spec = form::parse(&format!("{codec}({key}={rank})")).expect("a spec");
            let context = EncodeContext::default();
            let start = Instant::now();
            form::encode_unmeasured(&dense.view(), &spec, &context).expect("encodes");
            let ms = start.elapsed().as_secs_f64() * 1e3;
            let tensor = form::encode(&dense.view(), &spec, &context).expect("encodes");
            let error = tensor.error().relative;
            println!("| {name} | {what} | cortex | {error:.6} | {ms:.1} |");
            let Some(python) = python else {
                continue;
            };
            let shape: Vec<String> = shape.iter().map(usize::to_string).collect();
            let peer = std::process::Command::new(python)
                .arg(concat!(
                    env!("CARGO_MANIFEST_DIR"),
                    "/benches/peer_tensorly_cp.py"
                ))
                .args([file.as_os_str(), shape.join("x").as_ref()])
                .args([name, codec, rank])
                .status();
            assert!(peer.expect("runs").success(), "the peer failed");
        }
    }
    println!();
}

fn products() {
    println!("Products with a 256×256×3×3 convolution as a 256×2304 matrix, µs per row of x:\n");
    println!("| spec | values | batch 1 | batch 64 | transposed, batch 64 |");
    println!("|---|---:|---:|---:|---:|");
    let shape = [256, 256, 3, 3];
    let dense = Dense::from_slice(&planted(&shape, 20, 0.9, 0.1, 5), &shape).expect("a tensor");
    for spec in [
        "dense",
        "tucker(ranks=64x64)",
        "tucker(ranks=32x32)",
        "tucker(ranks=32x32, factors=[int8], core=[int8])",
        "cp(rank=16, restarts=1)",
    ] {
        let tensor = Tensor::compress(&dense.view(), spec).expect("encodes");
        let share = tensor.stored_bytes() as f64 / tensor.raw_bytes() as f64;
        let options = MatmulOptions {
            threads: 1,
            ..MatmulOptions::default()
        };
        let time = |batch: usize, transposed: bool| {
            let (rows, cols) = (tensor.rows(), tensor.cols());
            let x = gaussian(batch * cols.max(rows), 9);
            let mut y = vec![0.0; batch * cols.max(rows)];
            let mut times: Vec<f64> = (0..9)
                .map(|_| {
                    let start = Instant::now();
                    match transposed {
                        false => {
                            let y = &mut y[..batch * rows];
                            tensor.matmul(&x[..batch * cols], batch, y, &options)
                        }
                        true => {
                            let y = &mut y[..batch * cols];
                            tensor.matmul_t(&x[..batch * rows], batch, y, &options)
                        }
                    }
                    .expect("multiplies");
                    start.elapsed().as_secs_f64() * 1e6 / batch as f64
                })
                .collect();
            times.sort_by(f64::total_cmp);
            times[4]
        };
        println!(
            "| `{spec}` | {:.1} % | {:.1} | {:.1} | {:.1} |",
            share * 100.0,
            time(1, false),
            time(64, false),
            time(64, true)
        );
    }
}
