//! `tests/vectors/*.json`: cases that every language runs. This test makes them, holds the
//! files against what it makes, and runs each file against the Rust API and the C ABI.
//! `tests/vectors/README.md` says what stands in them.
//!
//! `CORTEX_WRITE_VECTORS=1 cargo test --test vectors` writes the files.
#![allow(unsafe_code)] // the C ABI is called as C does

mod common;
#[path = "vectors/conv.rs"]
mod conv;
#[path = "vectors/errors.rs"]
mod errors;
#[path = "vectors/matmul.rs"]
mod matmul;
#[path = "vectors/sdr.rs"]
mod sdr;
#[path = "vectors/spec.rs"]
mod spec;
#[path = "vectors/tensor.rs"]
mod tensor;

use std::fs;
use std::process::Command;

use common::frozen::{self, base64, bytes_of, dtype_of, lines, sizes_of, text_of, unbase64};
use cortex::{DType, Tensor, View};
use serde_json::Value;

const WRITE: &str = "CORTEX_WRITE_VECTORS";

/// Largest file, in bytes: all of them are read by every language's tests, and by people.
const MOST_BYTES: usize = 300_000;

/// Writes the cases to the file if that was asked for, or holds the file against them; its
/// cases.
fn cases(file: &str, made: &[Value]) -> Vec<Value> {
    let path = frozen::folder("vectors").join(file);
    let text = lines("cases", made);
    assert!(text.len() < MOST_BYTES, "{file}: {} bytes", text.len());
    if std::env::var_os(WRITE).is_some() {
        fs::write(&path, text).unwrap();
    }
    let hint = format!("`{WRITE}=1 cargo test --test vectors` writes it");
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{file}: {e}; {hint}"));
    let stored: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{file}: {e}"));
    let stored = stored["cases"].as_array().unwrap().clone();
    assert_eq!(stored.len(), made.len(), "{file}: cases; {hint}");
    for (found, expected) in stored.iter().zip(made) {
        let keys = |case: &Value| {
            case.as_object()
                .unwrap()
                .keys()
                .cloned()
                .collect::<Vec<_>>()
        };
        let what = format!(
            "{file}: {}",
            &expected.to_string()[..60.min(expected.to_string().len())]
        );
        assert_eq!(keys(found), keys(expected), "{what}; {hint}");
        for (key, expected) in expected.as_object().unwrap() {
            let found = &found[key];
            let same = match key.as_str() {
                // Naive sums over decoded factors, whose last bits are not the same on every
                // CPU; held against the library in the run below.
                "y" => {
                    unbase64(found.as_str().unwrap()).len()
                        == unbase64(expected.as_str().unwrap()).len()
                }
                "tolerance" => near(found, expected, 1e-3),
                _ => near(found, expected, 1e-12),
            };
            assert!(
                same,
                "{what}: {key}: {found} in the file, {expected} now; {hint}"
            );
        }
    }
    stored
}

/// Whether two values are the same, numbers up to a share of them.
fn near(a: &Value, b: &Value, share: f64) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(x), Some(y)) => (x - y).abs() <= share * x.abs(),
        _ => a == b,
    }
}

/// The dense tensor of a case, compressed as the case says.
fn compress(case: &Value) -> cortex::Result<Tensor> {
    let (shape, data) = (sizes_of(case, "shape"), bytes_of(case, "data"));
    let view = View::new(dtype_of(case, "dtype"), &shape, &data)?;
    Tensor::compress(&view, text_of(case, "spec"))
}

/// A dense tensor and how it is compressed, before anything is computed.
struct Input {
    name: String,
    dtype: DType,
    shape: Vec<usize>,
    data: Vec<u8>,
    spec: &'static str,
}

impl Input {
    fn new(spec: &'static str, dtype: DType, shape: &[usize], fill: frozen::Fill) -> Self {
        // A seed of its own for every case, whichever stand before it.
        let name = format!("{spec} of {dtype} {shape:?}, {fill:?}");
        let seed = crc32c::crc32c(name.as_bytes());
        Self {
            dtype,
            shape: shape.to_vec(),
            data: frozen::fill(fill, dtype, shape, u64::from(seed)),
            spec,
            name,
        }
    }

    fn tensor(&self) -> Tensor {
        let view = View::new(self.dtype, &self.shape, &self.data).unwrap();
        Tensor::compress(&view, self.spec).unwrap_or_else(|e| panic!("{}: {e}", self.name))
    }

    /// The members that begin a case.
    fn json(&self) -> Vec<(&'static str, Value)> {
        vec![
            ("name", self.name.clone().into()),
            ("dtype", self.dtype.name().into()),
            ("shape", self.shape.clone().into()),
            ("data", base64(&self.data).into()),
            ("spec", self.spec.into()),
        ]
    }
}

fn object(members: Vec<(&str, Value)>) -> Value {
    let members = members.into_iter().map(|(k, v)| (k.to_owned(), v));
    Value::Object(members.collect())
}

fn floats_base64(values: &[f32]) -> String {
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    base64(&bytes)
}

/// Holds f32 results against those of a case.
fn assert_within(found: &[f32], case: &Value, what: &str) {
    let expected = frozen::floats_of(case, "y");
    let tolerance = case["tolerance"].as_f64().unwrap();
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (f, e)) in found.iter().zip(&expected).enumerate() {
        let off = (f64::from(*f) - f64::from(*e)).abs();
        assert!(
            off <= tolerance,
            "{what}: value {i} is {f}, expected {e} within {tolerance:e}"
        );
    }
}

/// What the results are compared with must not depend on the machine that made them: every
/// file is run with other instruction sets too.
#[test]
fn vectors_hold_with_every_instruction_set() {
    if std::env::var_os(WRITE).is_some() {
        // The other tests are still writing.
        return;
    }
    for disabled in ["avx512", "avx2"] {
        for run in ["tensors", "products", "convolutions"] {
            let output = Command::new(std::env::current_exe().unwrap())
                .args([&format!("{run}_are_as_the_file_says"), "--exact"])
                .env("CORTEX_DISABLE_CPU", disabled)
                .env_remove(WRITE)
                .output()
                .unwrap();
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(
                output.status.success() && text.contains("1 passed"),
                "{run} without {disabled}: {text}"
            );
        }
    }
}

#[test]
fn specs_are_as_the_file_says() {
    spec::run(&cases("spec.json", &spec::cases()));
}

#[test]
fn tensors_are_as_the_file_says() {
    tensor::run(&cases("tensor.json", &tensor::cases()));
}

#[test]
fn products_are_as_the_file_says() {
    matmul::run(&cases("matmul.json", &matmul::cases()));
}

#[test]
fn convolutions_are_as_the_file_says() {
    conv::run(&cases("conv.json", &conv::cases()));
}

#[test]
fn sets_are_as_the_file_says() {
    sdr::run(&cases("sdr.json", &sdr::cases()));
}

#[test]
fn errors_are_as_the_file_says() {
    errors::run(&cases("errors.json", &errors::cases()));
}

#[test]
fn base64_is_that_of_the_rfc() {
    for (text, coded) in [
        ("", ""),
        ("f", "Zg=="),
        ("fo", "Zm8="),
        ("foo", "Zm9v"),
        ("foob", "Zm9vYg=="),
        ("fooba", "Zm9vYmE="),
        ("foobar", "Zm9vYmFy"),
    ] {
        assert_eq!(base64(text.as_bytes()), coded);
        assert_eq!(unbase64(coded), text.as_bytes());
    }
    let all: Vec<u8> = (0..=255).collect();
    assert_eq!(unbase64(&base64(&all)), all);
}
