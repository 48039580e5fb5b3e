//! Compresses the digits model in several ways and checks that it still reads digits.
//!
//! The accuracy is computed by [`Tensor::matmul`] on the compressed weights, straight
//! from the mapped archive: no weight matrix is ever decoded.
//!
//! `bash examples/digits/run.sh`, or `cargo run --release --example digits`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use cortex::archive::Archive;
use cortex::import::Model;
use cortex::model::{CompressOptions, Report, compress_file};
use cortex::{MatmulOptions, Result, Tensor};

/// The first is what `cortex compress` does when no spec is given.
const SPECS: [&str; 5] = [
    "auto(error=1%)",
    "lossless",
    "int8",
    "int4(search=lsq)",
    "mask(keep=50%, values=[int8])",
];

/// Accuracy that the default spec may lose, as a share of the test images.
const TOLERANCE: f64 = 0.005;

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!(
                "the compressed model lost more than {} % accuracy",
                TOLERANCE * 100.0
            );
            ExitCode::FAILURE
        }
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<bool> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/digits");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/digits");
    std::fs::create_dir_all(&folder)
        .map_err(|e| cortex::Error::io(format!("cannot make {}", folder.display()), e))?;
    let model = here.join("digits.safetensors");
    let test = TestSet::open(&here.join("digits_test.safetensors"))?;

    let plain = archive(&model, &folder, "dense")?.1;
    let before = test.accuracy(&plain)?;
    println!(
        "digits.safetensors: an MLP of {} weights; {} test images, accuracy {:.2} % uncompressed\n",
        plain
            .entries()
            .iter()
            .map(|e| e.shape().iter().product::<usize>())
            .sum::<usize>(),
        test.labels.len(),
        before * 100.0
    );

    let mut summary = Vec::new();
    let mut kept = true;
    for (i, spec) in SPECS.into_iter().enumerate() {
        let (report, archive) = archive(&model, &folder, spec)?;
        if i == 0 {
            print_tensors(&report);
        }
        let after = test.accuracy(&archive)?;
        kept &= i != 0 || before - after <= TOLERANCE;
        summary.push((spec, report, after));
    }
    println!(
        "{:<32} {:>10} {:>7} {:>9} {:>9} {:>8}",
        "spec", "bytes", "ratio", "accuracy", "change", "ms"
    );
    for (spec, report, after) in &summary {
        println!(
            "{spec:<32} {:>10} {:>6.2}× {:>7.2} % {:>+7.2} % {:>8.1}",
            report.output_bytes,
            report.ratio,
            after * 100.0,
            (after - before) * 100.0,
            report.seconds * 1e3
        );
    }
    if kept {
        println!(
            "\nok: compressed {:.2}×, accuracy {:.2} % before and {:.2} % after, by matmul on the compressed weights",
            summary[0].1.ratio,
            before * 100.0,
            summary[0].2 * 100.0
        );
    }
    Ok(kept)
}

/// Compresses the model with `spec` and opens the result.
fn archive(model: &Path, folder: &Path, spec: &str) -> Result<(Report, Archive)> {
    let name: String = spec.chars().filter(char::is_ascii_alphanumeric).collect();
    let path: PathBuf = folder.join(format!("{name}.cai"));
    let report = compress_file(model, &path, &CompressOptions::new(spec)?, None)?;
    Ok((report, Archive::open(&path)?))
}

fn print_tensors(report: &Report) {
    println!(
        "{:<12} {:>9} {:<40} {:>7} {:>9} {:>7}",
        "tensor", "shape", "spec", "ratio", "error", "ms"
    );
    for t in &report.tensors {
        let shape: Vec<_> = t.shape.iter().map(usize::to_string).collect();
        println!(
            "{:<12} {:>9} {:<40} {:>6.2}× {:>7.3} % {:>7.1}",
            t.name,
            shape.join("×"),
            t.spec,
            t.raw_bytes as f64 / t.stored_bytes as f64,
            t.relative_error * 100.0,
            t.seconds.unwrap_or(0.0) * 1e3
        );
    }
    println!();
}

struct TestSet {
    /// `[images, 64]`, 0 to 1.
    images: Vec<f32>,
    labels: Vec<u8>,
}

impl TestSet {
    fn open(path: &Path) -> Result<Self> {
        let model = Model::open(path)?;
        let tensor = |name: &str| {
            let found = model.get(name);
            let found =
                found.ok_or_else(|| cortex::Error::invalid(format!("no tensor '{name}'")))?;
            found.view().to_dense()
        };
        Ok(Self {
            images: tensor("images")?
                .bytes()
                .iter()
                .map(|p| f32::from(*p) / 16.0)
                .collect(),
            labels: tensor("labels")?.bytes().to_vec(),
        })
    }

    /// Share of test images that the model reads right.
    fn accuracy(&self, archive: &Archive) -> Result<f64> {
        let batch = self.labels.len();
        let mut x = self.images.clone();
        for layer in ["fc1", "fc2", "fc3"] {
            let weight = archive.tensor(&format!("{layer}.weight"))?;
            let bias = archive.tensor(&format!("{layer}.bias"))?;
            x = linear(&weight, &bias, &x, batch)?;
            if layer != "fc3" {
                x.iter_mut().for_each(|v| *v = v.max(0.0));
            }
        }
        let classes = x.len() / batch;
        let right = x
            .chunks(classes)
            .zip(&self.labels)
            .filter(|(scores, label)| {
                let best = (0..classes).max_by(|a, b| scores[*a].total_cmp(&scores[*b]));
                best == Some(usize::from(**label))
            });
        Ok(right.count() as f64 / batch as f64)
    }
}

/// `y[batch, out] = x[batch, in] · Wᵀ + b`, on the compressed `W`.
fn linear(weight: &Tensor, bias: &Tensor, x: &[f32], batch: usize) -> Result<Vec<f32>> {
    let mut y = vec![0.0; batch * weight.rows()];
    weight.matmul(x, batch, &mut y, &MatmulOptions::default())?;
    let mut b = vec![0.0; bias.rows()];
    bias.decode_rows_f32(0..bias.rows(), &mut b)?;
    for row in y.chunks_exact_mut(b.len()) {
        row.iter_mut().zip(&b).for_each(|(y, b)| *y += b);
    }
    Ok(y)
}
