//! Choices that are measured: bounds hold, nothing better was passed over, memory is bounded.
mod common;

use std::path::{Path, PathBuf};

use common::heap::{Counting, alone, peak_of};
use common::{Kind, Rng, weights};
use cortex::export::safetensors::{TensorInfo, Writer};
use cortex::model::{self, CompressOptions, Progress};
use cortex::{DType, Dense, ErrorKind, Tensor, View, form, plan};

#[global_allocator]
static HEAP: Counting = Counting;

fn compress(view: &View<'_>, spec: &str) -> Tensor {
    Tensor::compress(view, spec).unwrap_or_else(|e| panic!("{spec}: {e}"))
}

#[test]
fn an_error_bound_holds_and_nothing_smaller_keeps_it() {
    let _alone = alone();
    for kind in Kind::ALL {
        let w = weights(kind, 100, 320, 3);
        let dense = Dense::from_slice(&w, &[100, 320]).unwrap();
        let mut others = vec![
            compress(&dense.view(), "dense"),
            compress(&dense.view(), "mask"),
        ];
        for options in [
            "group=32",
            "group=64",
            "group=128",
            "group=row",
            "group=32, zero=asymmetric",
            "group=64, zero=asymmetric",
        ] {
            for bits in 2..=8 {
                let search = if bits <= 6 { ", search=lsq" } else { "" };
                others.push(compress(
                    &dense.view(),
                    &format!("q(bits={bits}, {options}{search})"),
                ));
            }
        }
        for bound in [0.2, 0.05, 0.01, 1e-3, 1e-5] {
            let tensor = compress(&dense.view(), &format!("auto(error={bound})"));
            let what = format!("{kind:?} {bound}: {}", tensor.spec());
            assert!(tensor.error().relative <= bound, "{what}");
            let w = tensor.decompress().unwrap();
            let w = w.as_slice::<f32>().unwrap();
            let diff: Vec<f32> = w
                .iter()
                .zip(dense.as_slice::<f32>().unwrap())
                .map(|(a, b)| a - b)
                .collect();
            let norm = common::norm(dense.as_slice::<f32>().unwrap());
            assert!(common::norm(&diff) <= bound * norm * 1.001, "{what}");
            for other in others.iter().filter(|o| o.error().relative <= bound) {
                // Codes of several bit planes must save 3 % to be taken.
                let planes = other.spec().to_string().starts_with("q(");
                let most = match planes {
                    true => (other.stored_bytes() as f64 / 0.97) as u64,
                    false => other.stored_bytes(),
                };
                assert!(
                    tensor.stored_bytes() <= most,
                    "{what} takes {} bytes, {} would take {}",
                    tensor.stored_bytes(),
                    other.spec(),
                    other.stored_bytes()
                );
            }
        }
    }
}

#[test]
fn a_bound_on_bits_holds_and_more_bits_are_never_worse() {
    let _alone = alone();
    for kind in Kind::ALL {
        let w = weights(kind, 128, 512, 4);
        let dense = Dense::from_slice(&w, &[128, 512]).unwrap();
        let mut last = f64::INFINITY;
        for bound in [2.6, 3.6, 4.5, 5.5, 6.6, 8.6, 9.0, 16.1, 33.0] {
            let tensor = compress(&dense.view(), &format!("auto(bits={bound})"));
            let what = format!("{kind:?} {bound}: {}", tensor.spec());
            assert!(tensor.bits_per_weight() <= bound, "{what}");
            let error = tensor.error().relative;
            assert!(error <= last, "{what}: {error} after {last}");
            last = error;
        }
        assert_eq!(last, 0.0, "{kind:?}");
    }
    let w = weights(Kind::Gaussian, 64, 64, 4);
    let dense = Dense::from_slice(&w, &[64, 64]).unwrap();
    let e = Tensor::compress(&dense.view(), "auto(bits=0.5)").unwrap_err();
    assert_eq!(e.kind(), ErrorKind::InvalidArgument);
    assert!(e.message().contains("0.5 bits"), "{e}");
}

/// Large tensors are judged by a sample; the bound is held by the whole.
#[test]
fn what_the_sample_does_not_show_is_still_bounded() {
    let _alone = alone();
    let (rows, cols) = (3000, 512);
    let mut w = weights(Kind::Gaussian, rows, cols, 5);
    // Rows between the windows of the sample that no quantiser of few bits holds.
    for v in &mut w[200 * cols..210 * cols] {
        *v = if *v > 0.03 { *v * 1e4 } else { *v };
    }
    let dense = Dense::from_slice(&w, &[rows, cols]).unwrap();
    for bound in [0.05, 0.01] {
        let tensor = compress(&dense.view(), &format!("auto(error={bound})"));
        assert!(tensor.error().relative <= bound, "{}", tensor.spec());
    }
    let tensor = compress(&dense.view(), "auto(bits=4.6)");
    assert!(tensor.bits_per_weight() <= 4.6);
    // A NaN that the sample does not show.
    w[205 * cols + 3] = f32::NAN;
    let dense = Dense::from_slice(&w, &[rows, cols]).unwrap();
    let tensor = compress(&dense.view(), "auto");
    assert!(
        form::is_lossless(tensor.spec()).unwrap(),
        "{}",
        tensor.spec()
    );
    assert_eq!(tensor.decompress().unwrap().bytes(), dense.bytes());
}

/// Bytes of every kind that a dtype can hold: noise, NaN with payloads, zeros of both signs.
fn odd_bytes(dtype: DType, count: usize, seed: u64) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    let mut out: Vec<u8> = (0..count * dtype.size())
        .map(|_| rng.next() as u8)
        .collect();
    match dtype {
        DType::Bool => out.iter_mut().for_each(|b| *b &= 1),
        _ if dtype.is_float() => {
            for e in out.chunks_exact_mut(dtype.size()) {
                match rng.below(6) {
                    0 => e.fill(0),
                    1 => {
                        e.fill(0);
                        *e.last_mut().unwrap() = 0x80;
                    }
                    2 => *e.last_mut().unwrap() |= 0x7f,
                    _ => {}
                }
            }
        }
        _ => {
            for e in out.chunks_exact_mut(dtype.size()) {
                if rng.below(2) == 0 {
                    e[1.min(dtype.size() - 1)..].fill(0);
                }
            }
        }
    }
    out
}

#[test]
fn lossless_keeps_every_bit_of_every_dtype() {
    let _alone = alone();
    for dtype in DType::ALL {
        for shape in [
            &[][..],
            &[0],
            &[1],
            &[70],
            &[1, 513],
            &[90, 100],
            &[700, 431],
            &[4, 5, 6],
        ] {
            let n = shape.iter().product();
            let bytes = odd_bytes(dtype, n, n as u64);
            let dense = Dense::from_bytes(dtype, shape, &bytes).unwrap();
            // Integers are lossless whatever `auto` is asked for, and so is NaN.
            for spec in ["lossless", "auto", "auto(error=50%)"] {
                if spec != "lossless" && dtype.is_float() && n < 90 {
                    continue;
                }
                let tensor = compress(&dense.view(), spec);
                let what = format!("{dtype} {shape:?} {spec} → {}", tensor.spec());
                assert_eq!(tensor.decompress().unwrap().bytes(), bytes, "{what}");
                assert!(form::is_lossless(tensor.spec()).unwrap(), "{what}");
                assert_eq!(tensor.error(), cortex::ErrorStats::EXACT, "{what}");
                assert!(
                    tensor.stored_bytes() <= tensor.raw_bytes().next_multiple_of(64),
                    "{what}"
                );
            }
        }
    }
}

#[test]
fn directives_never_stand_in_a_stored_spec() {
    let _alone = alone();
    for kind in Kind::ALL {
        let dense = Dense::from_slice(&weights(kind, 40, 200, 1), &[40, 200]).unwrap();
        for spec in ["lossless", "auto", "auto(error=3%)", "auto(bits=12)"] {
            let text = compress(&dense.view(), spec).spec().to_string();
            assert!(
                !text.contains("auto") && !text.contains("lossless"),
                "{text}"
            );
            // And it is canonical.
            assert_eq!(form::parse(&text).unwrap().to_string(), text);
        }
    }
}

#[test]
fn small_and_whole_tensors_are_exempt_unless_named() {
    let _alone = alone();
    let spec = |text: &str| form::parse(text).unwrap();
    let view_spec = |dtype: DType, shape: &[usize], text: &str| {
        let dense = Dense::zeros(dtype, shape).unwrap();
        plan::spec_for(&dense.view(), &spec(text))
            .unwrap()
            .to_string()
    };
    for lossy in [
        "int8",
        "auto(error=1%)",
        "mask(keep=10%)",
        "dense(type=f16)",
    ] {
        for (dtype, shape, exempt) in [
            (DType::F32, &[64, 64][..], false),
            (DType::BF16, &[4, 32, 32], false),
            (DType::F32, &[64, 63], true),
            (DType::F32, &[100_000], true),
            (DType::F32, &[], true),
            (DType::F32, &[0, 9], true),
            (DType::I64, &[64, 64], true),
            (DType::U8, &[100, 100], true),
            (DType::Bool, &[100, 100], true),
        ] {
            let expected = if exempt {
                "lossless".to_owned()
            } else {
                spec(lossy).to_string()
            };
            assert_eq!(
                view_spec(dtype, shape, lossy),
                expected,
                "{dtype} {shape:?}"
            );
        }
    }
    // What loses nothing is followed to the letter.
    for exact in [
        "mask",
        "dense | zstd",
        "lossless",
        "mask(values=[mask]) | lz4",
    ] {
        assert_eq!(view_spec(DType::I8, &[3], exact), spec(exact).to_string());
    }
}

/// A model of `count` matrices of `n × n` f32.
fn model_file(folder: &Path, count: usize, n: usize) -> PathBuf {
    let path = folder.join("model.safetensors");
    let infos: Vec<_> = (0..count)
        .map(|i| TensorInfo {
            name: format!("w{i}"),
            dtype: DType::F32,
            shape: vec![n, n],
        })
        .collect();
    let mut writer = Writer::create(&path, &infos, &Default::default()).unwrap();
    for i in 0..count {
        let w = weights(Kind::ALL[i % 3], n, n, i as u64);
        writer.write(bytemuck::cast_slice(&w)).unwrap();
    }
    writer.finish().unwrap();
    path
}

#[test]
fn compressing_a_model_takes_memory_for_a_tensor_not_for_the_model() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    // 64 MiB in tensors of 4 MiB: held as a whole it would not pass.
    let n = 1024;
    let input = model_file(folder.path(), 16, n);
    let output = folder.path().join("model.cai");
    for spec in [
        "int8",
        "int4(search=lsq) | zstd",
        "lossless",
        "mask | zstd",
        "",
    ] {
        let options = CompressOptions::new(spec).unwrap();
        let (peak, report) = peak_of(|| model::compress_file(&input, &output, &options, None));
        let report = report.unwrap();
        println!(
            "'{spec}': {:.1} MiB, ratio {:.2}",
            peak as f64 / (1 << 20) as f64,
            report.ratio
        );
        // The issue allows 64 MiB more; what is needed beside the tensors is less.
        assert!(peak <= 2 * n * n * 4 + (16 << 20), "'{spec}': {peak} bytes");
        assert_eq!(
            report.output_bytes,
            std::fs::metadata(&output).unwrap().len()
        );
        let stored: u64 = report.tensors.iter().map(|t| t.stored_bytes).sum();
        assert_eq!(
            stored + report.index_bytes + report.header_bytes,
            report.output_bytes
        );
        let back = folder.path().join("back.safetensors");
        let (peak, done) = peak_of(|| model::decompress_file(&output, &back, 0, None));
        done.unwrap();
        assert!(peak <= 48 << 20, "decompressing '{spec}': {peak} bytes");
        let diff = model::diff(&input, &back).unwrap();
        assert_eq!(diff.len(), 16);
        for (d, t) in diff.iter().zip(&report.tensors) {
            let found = d.relative_error.unwrap();
            assert!(
                (found - t.relative_error).abs() <= 1e-6 * found,
                "{spec} {}",
                d.name
            );
            assert!(spec != "lossless" || d.status == "same");
            assert!(!spec.is_empty() || found <= 0.01);
        }
    }
}

#[test]
fn cancelling_leaves_no_file_and_the_old_one() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let input = model_file(folder.path(), 6, 600);
    let output = folder.path().join("model.cai");
    let options = CompressOptions::new("auto").unwrap();
    for old in [None, Some(b"old".to_vec())] {
        if let Some(old) = &old {
            std::fs::write(&output, old).unwrap();
        }
        for stop_at in [1, 2, 5] {
            let mut calls = 0;
            let mut progress = |p: &Progress<'_>| {
                assert!(p.done_bytes <= p.total_bytes && p.done_tensors <= p.total_tensors);
                assert!(p.tensor.starts_with('w'));
                calls += 1;
                calls < stop_at
            };
            let e =
                model::compress_file(&input, &output, &options, Some(&mut progress)).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Cancelled);
            assert_eq!(calls, stop_at, "asked again after it had said no");
            assert_eq!(std::fs::read(&output).ok(), old);
            let files = std::fs::read_dir(folder.path()).unwrap().count();
            assert_eq!(files, 1 + usize::from(old.is_some()));
        }
    }
    let mut last = (0, 0);
    let mut progress = |p: &Progress<'_>| {
        assert!((p.done_bytes, p.done_tensors) >= last);
        last = (p.done_bytes, p.done_tensors);
        true
    };
    model::compress_file(&input, &output, &options, Some(&mut progress)).unwrap();
    assert_eq!(last, (6 * 600 * 600 * 4, 6));
    // The other way.
    let back = folder.path().join("back.safetensors");
    let e = model::decompress_file(&output, &back, 0, Some(&mut |_| false)).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Cancelled);
    assert!(!back.exists());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
}

#[test]
fn input_and_output_must_differ() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let input = model_file(folder.path(), 1, 40);
    let before = std::fs::read(&input).unwrap();
    let options = CompressOptions::new("int8").unwrap();
    let roundabout = folder.path().join(".").join("model.safetensors");
    for output in [&input, &roundabout] {
        let e = model::compress_file(&input, output, &options, None).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::InvalidArgument, "{e}");
        assert!(e.message().contains("both input and output"), "{e}");
    }
    #[cfg(unix)]
    {
        let link = folder.path().join("link.cai");
        std::os::unix::fs::symlink(&input, &link).unwrap();
        assert!(model::compress_file(&input, &link, &options, None).is_err());
    }
    assert_eq!(std::fs::read(&input).unwrap(), before);
}

/// Whatever beats the choice in bytes and error alike was passed over for its slower
/// products, or failed on the whole tensor.
#[test]
fn nothing_that_was_measured_dominates_the_choice() {
    let _alone = alone();
    for kind in Kind::ALL {
        let w = weights(kind, 96, 256, 6);
        let dense = Dense::from_slice(&w, &[96, 256]).unwrap();
        for spec in [
            "auto",
            "auto(error=10%)",
            "auto(bits=4.6)",
            "auto(error=3%, prefer=size)",
            "auto(bits=6, prefer=size)",
        ] {
            let spec = form::parse(spec).unwrap();
            let plan = plan::choose(&dense.view(), &spec, &Default::default()).unwrap();
            let what = format!("{kind:?} {spec}: {}", plan.tensor.spec());
            let chosen = |c: &&plan::Candidate| c.verdict == plan::Verdict::Chosen;
            assert_eq!(plan.candidates.iter().filter(chosen).count(), 1, "{what}");
            let chosen = plan.candidates.iter().find(chosen).unwrap();
            assert_eq!(chosen.spec, *plan.tensor.spec(), "{what}");
            assert_eq!(chosen.error, plan.tensor.error(), "{what}");
            for c in &plan.candidates {
                let dominates = c.bits < chosen.bits && c.error.relative < chosen.error.relative;
                let known = matches!(
                    c.verdict,
                    plan::Verdict::MissedOnTheWhole | plan::Verdict::SlowerProducts
                );
                assert!(!dominates || known, "{what}: {c:?}");
                if spec.to_string().contains("size") {
                    assert_ne!(c.verdict, plan::Verdict::SlowerProducts, "{what}: {c:?}");
                }
            }
        }
    }
}
