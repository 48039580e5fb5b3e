//! Every form of the registry over dtypes, threads, instruction sets and damaged files.
mod common;

#[path = "../fuzz/bodies.rs"]
#[allow(dead_code)]
mod bodies;

use std::process::Command;

use common::{Kind, Rng, specs::specs, weights};
use cortex::archive::Writer;
use cortex::form::{self, EncodeContext};
use cortex::{DType, Dense, ErrorKind, Tensor, View};

fn encode(view: &View<'_>, spec: &str) -> cortex::Result<Tensor> {
    form::encode(view, &form::parse(spec)?, &EncodeContext::default())
}

/// The archive of one tensor.
fn archive(tensor: &Tensor) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.cai");
    let mut writer = Writer::create(&path).unwrap();
    writer.add("w", tensor).unwrap();
    writer.finish().unwrap();
    std::fs::read(&path).unwrap()
}

const FLOATS: [DType; 4] = [DType::F64, DType::F32, DType::F16, DType::BF16];

/// Values of a dtype, rounded to it, and what they are as f64.
fn rounded(dtype: DType, values: &[f32], shape: &[usize]) -> (Dense, Vec<f64>) {
    let mut dense = Dense::zeros(dtype, shape).unwrap();
    match dtype {
        DType::F64 => {
            for (b, v) in dense.bytes_mut().chunks_exact_mut(8).zip(values) {
                b.copy_from_slice(&f64::from(*v).to_le_bytes());
            }
        }
        _ => dtype.from_f32(values, dense.bytes_mut()),
    }
    let exact = as_f64(&dense);
    (dense, exact)
}

fn as_f64(dense: &Dense) -> Vec<f64> {
    if dense.dtype() == DType::F64 {
        let chunks = dense.bytes().chunks_exact(8);
        return chunks
            .map(|b| f64::from_le_bytes(b.try_into().unwrap()))
            .collect();
    }
    let mut out = vec![0.0f32; dense.bytes().len() / dense.dtype().size()];
    dense.dtype().to_f32(dense.bytes(), &mut out);
    out.into_iter().map(f64::from).collect()
}

#[test]
fn every_float_type_comes_back_within_the_stored_error() {
    for spec in specs() {
        for dtype in FLOATS {
            for kind in [Kind::Gaussian, Kind::Sparse, Kind::Smooth, Kind::LowRank] {
                for shape in [&[40, 50][..], &[12, 4, 3, 3], &[9, 64]] {
                    let what = format!("{spec} {dtype} {kind:?} {shape:?}");
                    let cols = shape[1..].iter().product();
                    let values = weights(kind, shape[0], cols, 5);
                    let (dense, exact) = rounded(dtype, &values, shape);
                    let tensor =
                        encode(&dense.view(), &spec).unwrap_or_else(|e| panic!("{what}: {e}"));
                    assert_eq!(tensor.dtype(), dtype, "{what}");
                    let back = tensor.decompress().unwrap();
                    let found = as_f64(&back);
                    let error: f64 = found.iter().zip(&exact).map(|(a, b)| (a - b).powi(2)).sum();
                    let total: f64 = exact.iter().map(|v| v * v).sum();
                    let relative = if error == 0.0 {
                        0.0
                    } else {
                        (error / total).sqrt()
                    };
                    let stored = tensor.error().relative;
                    assert!(
                        (stored - relative).abs() <= 1e-4 * relative + 1e-12,
                        "{what}: stored error {stored}, found {relative}"
                    );
                    // Whatever a form does, leaving everything out would do better.
                    assert!(relative <= 1.0 + 1e-6, "{what}: error {relative}");
                    if form::is_lossless(tensor.spec()).unwrap() {
                        assert_eq!(back.bytes(), dense.bytes(), "{what}");
                    }
                    // Windows in the tensor's own type.
                    let row = cols * dtype.size();
                    let (a, b) = (shape[0] / 3, shape[0] / 3 * 2 + 1);
                    let mut part = vec![1u8; (b - a) * row];
                    tensor.decode_rows(a..b, &mut part).unwrap();
                    assert_eq!(part, back.bytes()[a * row..b * row], "{what}");
                }
            }
        }
    }
}

#[test]
fn an_error_that_is_asked_for_is_kept() {
    for spec in specs().filter(|s| s.contains("error=") && !s.contains(" + ")) {
        let bound = spec.split("error=").nth(1).unwrap();
        let end = bound.find(['%', ')', ',']).unwrap();
        let bound: f64 = bound[..end].parse::<f64>().unwrap() / 100.0;
        for kind in Kind::ALL {
            let w = weights(kind, 48, 72, 8);
            let dense = Dense::from_slice(&w, &[48, 72]).unwrap();
            let error = encode(&dense.view(), &spec).unwrap().error().relative;
            assert!(error <= bound, "{spec} {kind:?}: {error}");
        }
    }
}

#[test]
fn integers_and_bools_stay_exact_or_are_refused_by_name() {
    for spec in specs() {
        let lossless = form::is_lossless(&form::parse(&spec).unwrap()).unwrap();
        for dtype in [DType::I8, DType::U16, DType::I64, DType::Bool] {
            let mut rng = Rng::new(4);
            let mut dense = Dense::zeros(dtype, &[13, 21]).unwrap();
            let size = dtype.size();
            for e in dense.bytes_mut().chunks_exact_mut(size) {
                if rng.below(3) == 0 {
                    let most = if dtype == DType::Bool { 2 } else { 100 };
                    e[0] = rng.below(most) as u8;
                }
            }
            match encode(&dense.view(), &spec) {
                Ok(t) => assert_eq!(t.decompress().unwrap().bytes(), dense.bytes(), "{spec}"),
                Err(e) => {
                    assert!(!lossless, "{spec} {dtype}: {e}");
                    assert_eq!(e.kind(), ErrorKind::InvalidArgument, "{spec} {dtype}");
                    assert!(e.to_string().contains(dtype.name()), "{spec} {dtype}: {e}");
                }
            }
        }
    }
}

/// One line a spec: the checksum of the archive that it makes.
fn fingerprints() -> String {
    let mut out = String::new();
    for spec in specs() {
        let mut crc = 0;
        for kind in [Kind::Gaussian, Kind::Sparse, Kind::Smooth] {
            for shape in [[150, 300], [700, 64]] {
                let w = weights(kind, shape[0], shape[1], 2);
                let dense = Dense::from_slice(&w, &shape).unwrap();
                let bytes = archive(&encode(&dense.view(), &spec).unwrap());
                crc = crc32c::crc32c_append(crc, &bytes);
            }
        }
        out += &format!("bytes of {spec}: {crc:08x}\n");
    }
    out
}

#[test]
fn bytes_do_not_depend_on_threads() {
    let with = |n: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(n).build();
        pool.unwrap().install(fingerprints)
    };
    let one = with(1);
    assert_eq!(one.lines().count(), specs().count());
    for n in [2, 5] {
        let many = with(n);
        for (a, b) in one.lines().zip(many.lines()) {
            assert_eq!(a, b, "{n} threads");
        }
    }
}

/// Not a test by itself: what the next one runs under other instruction sets.
#[test]
#[ignore = "run by bytes_do_not_depend_on_the_instruction_set"]
fn print_fingerprints() {
    print!("{}", fingerprints());
}

#[test]
fn bytes_do_not_depend_on_the_instruction_set() {
    let run = |disabled: &str| {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["print_fingerprints", "--exact", "--ignored", "--nocapture"])
            .env("CORTEX_DISABLE_CPU", disabled)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        let lines = text.lines().filter_map(|l| {
            let at = l.find("bytes of ")?;
            Some(l[at..].to_owned())
        });
        lines.collect::<Vec<_>>()
    };
    let best = run("");
    assert_eq!(best.len(), specs().count());
    for disabled in ["avx512", "avx2"] {
        for (a, b) in best.iter().zip(run(disabled)) {
            assert_eq!(*a, b, "without {disabled}");
        }
    }
}

/// Every form is opened from damaged bytes whose checksums were made right again, decoded
/// and multiplied: right bytes or an error, and no panic.
#[test]
fn damaged_forms_are_refused_or_harmless() {
    let mut rng = Rng::new(9);
    for spec in specs() {
        for (kind, shape) in [(Kind::Sparse, [19, 70]), (Kind::Smooth, [40, 33])] {
            let w = weights(kind, shape[0], shape[1], 3);
            let dense = Dense::from_slice(&w, &shape).unwrap();
            let good = archive(&encode(&dense.view(), &spec).unwrap());
            bodies::archive(&good);
            // Every form of truncation that a few hundred cuts show, then flipped bytes.
            for _ in 0..60 {
                let cut = rng.below(good.len());
                bodies::archive(&good[..cut]);
            }
            for _ in 0..250 {
                let mut bad = good.clone();
                for _ in 0..1 + rng.below(3) {
                    let at = 64 + rng.below(bad.len() - 64);
                    bad[at] = match rng.below(3) {
                        0 => bad[at] ^ 1 << rng.below(8),
                        1 => rng.next() as u8,
                        _ => [0, 0xff, 0x7f, 0x80, b'0', b'9'][rng.below(6)],
                    };
                }
                let outcome = std::panic::catch_unwind(|| bodies::archive(&bad));
                assert!(outcome.is_ok(), "{spec}: {}", bad.escape_ascii());
            }
        }
    }
}

#[test]
fn every_cut_of_a_file_is_refused() {
    let w = weights(Kind::Gaussian, 12, 20, 3);
    let dense = Dense::from_slice(&w, &[12, 20]).unwrap();
    for spec in specs() {
        let good = archive(&encode(&dense.view(), &spec).unwrap());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cut.cai");
        // Every length near the ends and a step in between.
        let step = good.len() / 97 + 1;
        let cuts = (0..64.min(good.len())).chain((64..good.len()).step_by(step));
        for cut in cuts.chain(good.len().saturating_sub(64)..good.len()) {
            std::fs::write(&path, &good[..cut]).unwrap();
            let opened = cortex::archive::Archive::open(&path);
            assert!(opened.is_err(), "{spec}: {cut} of {} bytes", good.len());
        }
    }
}
