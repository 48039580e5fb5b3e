//! Rate and distortion of `ecq` on a real model, and its rates per core.
//!
//! `cargo bench --bench rate -- [--model model.safetensors] [spec …]`. dB is
//! `10·log10(‖W−Ŵ‖² / ‖W‖²)` over all attention and feed-forward matrices together,
//! G = dB + 6.02 · bits per weight: 0 is the rate–distortion limit of Gaussian weights.
//! Without a model, seeded Gaussian weights are taken.

mod common;

use std::path::Path;
use std::sync::OnceLock;
use std::time::Instant;

use cortex::form::{self, EncodeContext};
use cortex::import::Model;
use cortex::{Dense, Tensor};

fn main() {
    let mut model = None;
    let mut specs = Vec::new();
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--model" => model = args.next(),
            "--bench" => {}
            spec => specs.push(spec.to_owned()),
        }
    }
    if specs.is_empty() {
        let plain = ["8", "6", "5", "4", "3", "2"].map(|b| format!("ecq(bits={b})"));
        let trellis = ["5", "4", "3", "2"].map(|b| format!("ecq(bits={b}, trellis=8)"));
        specs.extend(plain.into_iter().chain(trellis));
    }
    let matrices = match &model {
        Some(path) => layer_matrices(Path::new(path)),
        None => vec![gaussian(1024, 4096)],
    };
    let weights: usize = matrices.iter().map(|m| m.view().len()).sum();
    println!(
        "{} matrices, {weights} weights, one thread, kernels: {}\n",
        matrices.len(),
        cortex::kernel::best().isa().name()
    );
    println!("| spec | bits/weight | dB | G | encode Mw/s | decode Mw/s |");
    println!("|---|---:|---:|---:|---:|---:|");
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
    pool.expect("a thread pool").install(|| {
        for spec in &specs {
            measure(&matrices, weights, spec);
        }
    });
}

/// Seconds that this thread has run: on a machine shared with others, time on the clock
/// says little.
fn seconds() -> f64 {
    static START: OnceLock<Instant> = OnceLock::new();
    let run = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let run = run.and_then(|text| text.split(' ').next()?.parse::<f64>().ok());
    match run {
        Some(nanoseconds) => nanoseconds * 1e-9,
        None => START.get_or_init(Instant::now).elapsed().as_secs_f64(),
    }
}

fn measure(matrices: &[Dense], weights: usize, text: &str) {
    let spec = form::parse(text).expect("a valid spec");
    let context = EncodeContext::default();
    let start = seconds();
    let encoded: Vec<Tensor> = matrices
        .iter()
        .map(|m| form::encode(&m.view(), &spec, &context).expect("encodes"))
        .collect();
    let encode = seconds() - start;
    let (mut error, mut norm, mut bytes) = (0.0f64, 0.0f64, 0u64);
    for (tensor, matrix) in encoded.iter().zip(matrices) {
        let decoded = tensor.decompress().expect("decodes");
        let decoded = decoded.as_slice::<f32>().expect("f32");
        for (a, b) in matrix.as_slice::<f32>().expect("f32").iter().zip(decoded) {
            error += f64::from(a - b).powi(2);
            norm += f64::from(*a).powi(2);
        }
        bytes += tensor.stored_bytes();
    }
    let most = matrices.iter().map(|m| m.view().len()).max().unwrap_or(0);
    let mut out = vec![0.0f32; most];
    // The clock of a thread may tick every 4 ms only: many rounds are timed as one.
    const ROUNDS: usize = 40;
    let start = seconds();
    for _ in 0..ROUNDS {
        for tensor in &encoded {
            let out = &mut out[..tensor.rows() * tensor.cols()];
            tensor
                .decode_rows_f32(0..tensor.rows(), out)
                .expect("decodes");
        }
    }
    let decode = (seconds() - start) / ROUNDS as f64;
    let bits = bytes as f64 * 8.0 / weights as f64;
    let db = 10.0 * (error / norm).log10();
    println!(
        "| {text} | {bits:.4} | {db:.2} | {:.3} | {:.1} | {:.0} |",
        db + 20.0 * 2f64.log10() * bits,
        weights as f64 / encode / 1e6,
        weights as f64 / decode / 1e6,
    );
}

/// Attention and feed-forward matrices.
fn layer_matrices(path: &Path) -> Vec<Dense> {
    let model = Model::open(path).expect("opens");
    model
        .tensors()
        .iter()
        .filter(|t| t.shape().len() == 2 && t.name().contains("encoder.layer"))
        .map(|t| t.view().to_dense().expect("reads"))
        .collect()
}

fn gaussian(rows: usize, cols: usize) -> Dense {
    let mut values = common::gaussian(rows * cols, 1);
    values.iter_mut().for_each(|v| *v *= 0.02);
    Dense::from_slice(&values, &[rows, cols]).expect("a matrix")
}
