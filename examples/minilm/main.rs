//! A sentence transformer, compressed, and run on its compressed weights.
//!
//! `examples/minilm/run.sh` fetches all-MiniLM-L6-v2 and runs this on its folder. Fails
//! if the default spec changes what the model says of the sentences below.

mod bert;
mod tokenizer;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use cortex::archive::Archive;
use cortex::model::{CompressOptions, Report, TensorReport, compress_file};

use bert::{Bert, Config};
use tokenizer::Tokenizer;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// The uncompressed weights, as an archive; everything else is held against it.
const REFERENCE: &str = "dense";

/// The first is what `cortex compress` does when nothing else is said.
const SPECS: [&str; 3] = ["auto(error=1%)", "int8", "int4(search=lsq)"];

/// What the default spec must reach on average.
const LEAST_COSINE: f64 = 0.999;

/// The model was trained on at most so many tokens.
const MAX_TOKENS: usize = 256;

/// Each pair says one thing twice: its other half is a sentence's nearest neighbour.
const PAIRS: [[&str; 2]; 6] = [
    [
        "The cat slept on the warm windowsill all afternoon.",
        "A kitten was napping in the sun by the window.",
    ],
    [
        "How do I reset the password of my account?",
        "I can't log in because I forgot my login credentials.",
    ],
    [
        "Heavy rain flooded several streets in the city centre.",
        "Downtown roads were under water after the storm.",
    ],
    [
        "The café around the corner serves excellent espresso.",
        "You can get a really good coffee at the small bar nearby!",
    ],
    [
        "Quantising a neural network's weights makes the model smaller.",
        "Storing the parameters in fewer bits compresses a deep-learning model.",
    ],
    [
        "She finished the marathon in under three hours.",
        "The runner completed the 42-kilometre race in 2:55.",
    ],
];

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let (Some(folder), None) = (args.next(), args.next()) else {
        eprintln!("usage: minilm <folder with model.safetensors, config.json and vocab.txt>");
        return ExitCode::FAILURE;
    };
    match run(&PathBuf::from(folder)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("minilm: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(folder: &Path) -> Result<()> {
    let weights = folder.join("model.safetensors");
    let config = Config::open(&folder.join("config.json"))?;
    let tokenizer = Tokenizer::open(&folder.join("vocab.txt"))?;
    let ids: Vec<_> = PAIRS
        .as_flattened()
        .iter()
        .map(|text| tokenizer.encode(text, MAX_TOKENS))
        .collect();
    let scratch = tempfile::tempdir()?;
    let archive = |i: usize| scratch.path().join(format!("{i}.cai"));

    println!("Compressing {}\n", weights.display());
    let mut lines = Vec::new();
    for (i, spec) in [REFERENCE].iter().chain(&SPECS).enumerate() {
        let report = compress_file(&weights, &archive(i), &CompressOptions::new(spec)?, None)?;
        if *spec == SPECS[0] {
            print_tensors(&report);
        }
        lines.push(format!(
            "{spec:<18} {:>8.2} MB {:>7.2} {:>8.2} s",
            report.output_bytes as f64 / 1e6,
            report.ratio,
            report.seconds
        ));
    }
    println!(
        "{:<18} {:>11} {:>7} {:>10}",
        "spec", "file", "ratio", "time"
    );
    println!("{}\n", lines.join("\n"));

    println!("Embedding {} sentences with the archives\n", ids.len());
    println!(
        "{:<18} {:>12} {:>11} {:>11} {:>15}",
        "spec", "per sentence", "mean cosine", "min cosine", "same neighbour"
    );
    let mut reference = None;
    let mut failure = None;
    for (i, spec) in [REFERENCE].iter().chain(&SPECS).enumerate() {
        let bert = Bert::open(&Archive::open(&archive(i))?, &config)?;
        bert.embed(&ids[0])?; // brings the mapped pages in
        let start = Instant::now();
        let found: Vec<_> = ids
            .iter()
            .map(|ids| bert.embed(ids))
            .collect::<Result<_>>()?;
        let ms = start.elapsed().as_secs_f64() * 1e3 / ids.len() as f64;

        let expected = reference.get_or_insert_with(|| found.clone());
        let cosines = expected.iter().zip(&found).map(|(a, b)| cosine(a, b));
        let (sum, min) = cosines.fold((0.0, 1.0f64), |(sum, min), c| (sum + c, min.min(c)));
        let mean = sum / ids.len() as f64;
        let (before, after) = (nearest(expected), nearest(&found));
        let same = before.iter().zip(&after).filter(|(a, b)| a == b).count();
        println!(
            "{spec:<18} {ms:>9.2} ms {mean:>11.5} {min:>11.5} {:>15}",
            format!("{same} of {}", ids.len())
        );
        if *spec == REFERENCE && before.iter().enumerate().any(|(i, &n)| n != i ^ 1) {
            failure = Some("the uncompressed model does not find the pairs".to_owned());
        }
        if *spec == SPECS[0] && (mean < LEAST_COSINE || same < ids.len()) {
            failure = Some(format!(
                "{spec} must reach a mean cosine of {LEAST_COSINE} and keep all neighbours"
            ));
        }
    }
    failure.map_or(Ok(()), |f| Err(f.into()))
}

/// A line for each matrix, one for all the biases, norms and integers.
fn print_tensors(report: &Report) {
    println!(
        "{:<45} {:>9}  {:<31} {:>6} {:>8} {:>6} {:>6}",
        "tensor", "shape", "spec", "ratio", "error %", "dB", "ms"
    );
    let line = |name: &str, shape: &str, spec: &str, of: &[&TensorReport]| {
        let raw: u64 = of.iter().map(|t| t.raw_bytes).sum();
        let stored: u64 = of.iter().map(|t| t.stored_bytes).sum();
        let seconds: f64 = of.iter().filter_map(|t| t.seconds).sum();
        let error = of.iter().map(|t| t.relative_error).fold(0.0, f64::max);
        let db = if error > 0.0 {
            format!("{:.1}", -20.0 * error.log10())
        } else {
            "exact".to_owned()
        };
        println!(
            "{name:<45} {shape:>9}  {spec:<31} {:>6.2} {:>8.3} {db:>6} {:>6.0}",
            raw as f64 / stored as f64,
            error * 100.0,
            seconds * 1e3,
        );
    };
    let is_matrix = |t: &&TensorReport| t.dtype == "f32" && t.shape.len() == 2;
    let (matrices, others): (Vec<_>, Vec<_>) = report.tensors.iter().partition(is_matrix);
    for t in matrices {
        let shape = format!("{}x{}", t.shape[0], t.shape[1]);
        line(&t.name, &shape, &t.spec, &[t]);
    }
    let name = format!("{} biases, norms and ids", others.len());
    line(&name, "", "lossless", &others);
    println!();
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter()
            .zip(b)
            .map(|(a, b)| f64::from(*a) * f64::from(*b))
            .sum()
    };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// For each vector, which other one is closest.
fn nearest(vectors: &[Vec<f32>]) -> Vec<usize> {
    let closest = |i: usize| {
        let others = (0..vectors.len()).filter(|&j| j != i);
        let by_cosine = |&a: &usize, &b: &usize| {
            let [a, b] = [a, b].map(|j| cosine(&vectors[i], &vectors[j]));
            a.total_cmp(&b)
        };
        others.max_by(by_cosine).unwrap_or(i)
    };
    (0..vectors.len()).map(closest).collect()
}
