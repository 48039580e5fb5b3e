//! The figures of `svd` and `tt`: error and time beside TensorLy in the same run, the
//! products of `svd` beside two dense ones, and the ranks up to which a tensor train is
//! smaller and faster than the dense matrix.
//!
//! `cargo bench --bench lowrank -- [--python python3] [--model model.safetensors]`; the
//! python needs numpy and tensorly. A name (`peer`, `pairs`, `trains`) runs that part alone.

mod common;

use std::path::{Path, PathBuf};
use std::time::Instant;

use common::{gaussian, thread_seconds};
use cortex::form::{self, EncodeContext};
use cortex::import::Model;
use cortex::{Dense, MatmulOptions, Tensor, View};

fn main() {
    let (mut model, mut python, mut parts) = (None, None, Vec::new());
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--model" => model = args.next().map(PathBuf::from),
            "--python" => python = args.next(),
            "--bench" => {}
            part => parts.push(part.to_owned()),
        }
    }
    let wanted = |part: &str| parts.is_empty() || parts.iter().any(|p| p == part);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
    pool.expect("a thread pool").install(|| {
        if wanted("peer") {
            peer(model.as_deref(), python.as_deref());
        }
        if wanted("pairs") {
            pairs();
        }
        if wanted("trains") {
            trains();
        }
    });
}

fn encode(view: &View<'_>, spec: &str) -> Tensor {
    let spec = form::parse(spec).expect("a valid spec");
    form::encode(view, &spec, &EncodeContext::default()).expect("encodes")
}

const RANK: usize = 64;

fn peer(model: Option<&Path>, python: Option<&str>) {
    println!("## Rank {RANK} beside TensorLy, one thread\n");
    println!("| matrix | what | by | relative error | seconds |");
    println!("|---|---|---|---:|---:|");
    let n = 4096;
    let noise = Dense::from_slice(&gaussian(n * n, 1), &[n, n]).expect("a matrix");
    beside(&noise, "16x16x16", "16x16x16", "4096×4096 Gaussian", python);
    let Some(model) = model else {
        println!("\nno --model given, its matrices are not measured\n");
        return;
    };
    let model = Model::open(model).expect("a model");
    for layer in [0, 3, 5] {
        let name = format!("encoder.layer.{layer}.intermediate.dense.weight");
        let found = model
            .tensors()
            .iter()
            .find(|t| t.name().ends_with(&name))
            .expect("the matrix");
        let view = found.view();
        let dense = view.to_dense().expect("its values");
        beside(
            &dense,
            "8x12x16",
            "6x8x8",
            &format!("MiniLM {layer}, 1536×384"),
            python,
        );
    }
    println!();
}

/// Our rows and the peer's for one matrix.
fn beside(dense: &Dense, rows: &str, cols: &str, name: &str, python: Option<&str>) {
    let tt = |order: &str| format!("tt(rank={RANK}, rows={rows}, cols={cols}, order={order})");
    for (what, spec) in [
        ("svd", format!("svd(rank={RANK})")),
        ("tt, interleaved", tt("interleaved")),
        ("tt, separate", tt("separate")),
    ] {
        let parsed = form::parse(&spec).expect("a valid spec");
        let view = dense.view();
        let start = Instant::now();
        form::encode_unmeasured(&view, &parsed, &EncodeContext::default()).expect("encodes");
        let seconds = start.elapsed().as_secs_f64();
        let error = encode(&view, &spec).error().relative;
        println!("| {name} | {what} | cortex | {error:.5} | {seconds:.3} |");
    }
    let Some(python) = python else {
        println!("| {name} | TensorLy: no --python given, not measured | | | |");
        return;
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("w.f32");
    std::fs::write(&file, dense.bytes()).expect("the raw matrix");
    let view = dense.view();
    let status = std::process::Command::new(python)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peer_tensorly.py"))
        .arg(&file)
        .args([
            view.rows().to_string(),
            view.cols().to_string(),
            RANK.to_string(),
        ])
        .args([rows, cols, name])
        .env("OPENBLAS_NUM_THREADS", "1")
        .env("OMP_NUM_THREADS", "1")
        .env_remove("OPENBLAS_CORETYPE")
        .status();
    assert!(status.is_ok_and(|s| s.success()), "the peer failed");
}

/// Least seconds of a product of each tensor, by turns.
fn least<const N: usize>(tensors: [&[&Tensor]; N], batch: usize) -> [f64; N] {
    let options = MatmulOptions {
        threads: 1,
        ..MatmulOptions::default()
    };
    let x = gaussian(batch * tensors[0][0].cols(), 5);
    let results = |t: &&Tensor| vec![0.0f32; batch * t.rows()];
    let mut ys = tensors.map(|t| t.iter().map(results).collect::<Vec<_>>());
    let mut best = [f64::INFINITY; N];
    let begin = Instant::now();
    let mut rounds = 0;
    while rounds < 7 || begin.elapsed().as_secs_f64() < 0.5 {
        for ((best, tensors), ys) in best.iter_mut().zip(tensors).zip(&mut ys) {
            let mut x = &x;
            let start = thread_seconds();
            for (tensor, y) in tensors.iter().zip(ys) {
                let done = tensor.matmul(x, batch, y, &options);
                done.expect("multiplies");
                x = y;
            }
            *best = best.min(thread_seconds() - start);
        }
        rounds += 1;
    }
    best
}

fn pairs() {
    println!("## `svd` beside its two factors multiplied apart, 4096×4096 f32, one thread\n");
    println!("| rank | batch | `svd`, ms | factors, ms | ratio |");
    println!("|---:|---:|---:|---:|---:|");
    let n = 4096;
    let dense = Dense::from_slice(&gaussian(n * n, 1), &[n, n]).expect("a matrix");
    for rank in [16, 64, 256] {
        let svd = encode(&dense.view(), &format!("svd(rank={rank})"));
        let factor = |shape: [usize; 2]| {
            let values = gaussian(n * rank, 2);
            let dense = Dense::from_slice(&values, &shape).expect("a matrix");
            encode(&dense.view(), "dense")
        };
        let (v, u) = (factor([rank, n]), factor([n, rank]));
        for batch in [1, 8, 64, 512] {
            let [one, two] = least([&[&svd], &[&v, &u]], batch);
            println!(
                "| {rank} | {batch} | {:.3} | {:.3} | {:.2} |",
                one * 1e3,
                two * 1e3,
                one / two
            );
        }
    }
    println!();
}

/// A matrix that is a train of this rank over sites of `mode × mode`, and 1 % of noise.
fn train(mode: usize, sites: usize, rank: usize) -> Vec<f32> {
    let pair = mode * mode;
    let mut w = gaussian(pair * rank, 11);
    for site in 1..sites {
        let after = if site + 1 == sites { 1 } else { rank };
        let core = gaussian(rank * pair * after, 11 + site as u64);
        let mut next = vec![0.0f32; w.len() / rank * pair * after];
        for (next, w) in next
            .chunks_exact_mut(pair * after)
            .zip(w.chunks_exact(rank))
        {
            for (g, core) in w.iter().zip(core.chunks_exact(pair * after)) {
                next.iter_mut().zip(core).for_each(|(n, c)| *n += g * c);
            }
        }
        w = next;
    }
    // (o1 i1)(o2 i2)… to (o1 o2 …), (i1 i2 …).
    let n = mode.pow(sites as u32);
    let noise = gaussian(n * n, 99);
    let size = (w.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / (n * n) as f64).sqrt();
    let mut out = vec![0.0; n * n];
    for (at, v) in w.iter().enumerate() {
        let (mut rest, mut row, mut col, mut place) = (at, 0, 0, 1);
        for _ in 0..sites {
            col += rest % mode * place;
            row += rest / mode % mode * place;
            rest /= pair;
            place *= mode;
        }
        out[row * n + col] = *v + 0.01 * size as f32 * noise[at];
    }
    out
}

fn trains() {
    println!("## Matrices that are trains, 4096×4096 f32, one thread\n");
    println!("Times against the dense f32 matrix's: above 1 is faster.\n");
    println!("| sites | rank | factors | numbers | bytes saved | error | batch 1 | batch 64 |");
    println!("|---|---:|---|---:|---:|---:|---:|---:|");
    let n = 4096;
    for (modes, mode, sites, ranks) in [
        ("64x64", 64, 2, &[4, 16, 32, 48, 64, 128][..]),
        ("16x16x16", 16, 3, &[4, 8, 12, 16, 24, 32][..]),
    ] {
        for rank in ranks {
            let dense = Dense::from_slice(&train(mode, sites, *rank), &[n, n]).expect("a matrix");
            let plain = encode(&dense.view(), "dense");
            for factors in ["dense", "int8"] {
                let spec = format!(
                    "tt(rank={rank}, rows={modes}, cols={modes}, order=interleaved, factors=[{factors}])"
                );
                let tensor = encode(&dense.view(), &spec);
                let ends = 2 * mode * mode * rank;
                let numbers = ends + (sites - 2) * mode * mode * rank * rank;
                let faster = |batch: usize| {
                    let [dense, ours] = least([&[&plain], &[&tensor]], batch);
                    dense / ours
                };
                println!(
                    "| {modes} | {rank} | {factors} | {:.2} % | {:.2} % | {:.4} | {:.2}× | {:.2}× |",
                    100.0 * numbers as f64 / (n * n) as f64,
                    100.0 * (1.0 - tensor.stored_bytes() as f64 / plain.stored_bytes() as f64),
                    tensor.error().relative,
                    faster(1),
                    faster(64),
                );
            }
        }
    }
    println!();
}
