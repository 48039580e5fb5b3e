use super::*;
use crate::form::{self, EncodeContext, Product, StoredPart, Tensor};
use crate::kernel;
use crate::tensor::Dense;

const NAMES: [&str; 4] = ["fft", "fft2", "dct", "dct2"];

fn noise(n: usize) -> Vec<f32> {
    let mut state = 88172645463325252u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    // Sums of uniforms are near enough to Gaussian.
    (0..n).map(|_| (0..6).map(|_| next()).sum()).collect()
}

/// Waves in both directions and some noise.
fn smooth(rows: usize, cols: usize, noise_share: f32) -> Vec<f32> {
    let mut w = noise(rows * cols);
    for (i, v) in w.iter_mut().enumerate() {
        let (r, c) = ((i / cols) as f32, (i % cols) as f32);
        *v = *v * noise_share
            + (0.031 * r + 0.052 * c).cos()
            + (0.11 * r - 0.024 * c + 1.0).cos()
            + 0.5 * (0.013 * c).cos();
    }
    w
}

fn encode(values: &[f32], shape: &[usize], spec: &str) -> Result<Tensor> {
    let dense = Dense::from_slice(values, shape)?;
    form::encode(
        &dense.view(),
        &form::parse(spec)?,
        &EncodeContext::default(),
    )
}

fn decoded(t: &Tensor) -> Vec<f32> {
    t.decompress().unwrap().as_slice::<f32>().unwrap().to_vec()
}

#[test]
fn everything_kept_gives_everything_back() {
    for name in NAMES {
        for shape in [[1, 1], [5, 1], [1, 5], [16, 16], [7, 12], [12, 7], [13, 31]] {
            for block in ["", ", block=4", ", block=5"] {
                let w = noise(shape[0] * shape[1]);
                let spec = format!("{name}(error=0.0001%{block})");
                let t = encode(&w, &shape, &spec).unwrap();
                let error = t.error().relative;
                assert!(error <= 1e-6, "{spec} {shape:?}: {error}");
            }
        }
    }
}

#[test]
fn the_error_is_what_was_left_out() {
    // The square of the error and the share of energy kept add up to one.
    let w = noise(64 * 48);
    for name in NAMES {
        let t = encode(&w, &[64, 48], &format!("{name}(keep=25%)")).unwrap();
        let norm = |v: &[f32]| v.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
        let kept = norm(&decoded(&t)) / norm(&w);
        let error = t.error().relative;
        assert!((kept + error * error - 1.0).abs() < 1e-5, "{name}");
        assert!((0.5..0.75).contains(&error), "{name}: {error}");
        let bits = t.bits_per_weight();
        assert!(bits < 0.25 * 32.0 + 1.0 + 1.2, "{name}: {bits}");
    }
}

#[test]
fn an_error_that_is_asked_for_is_met_with_few_coefficients_or_refused() {
    let w = smooth(60, 90, 0.05);
    for name in NAMES {
        let mut last = u64::MAX;
        for error in [1.0, 3.0, 10.0, 40.0] {
            for values in ["dense", "f16", "int8"] {
                // What int8 leaves of a few large coefficients is 1 % already.
                if values == "int8" && error < 3.0 {
                    continue;
                }
                let spec = format!("{name}(error={error}%, values=[{values}])");
                let t = encode(&w, &[60, 90], &spec).unwrap();
                assert!(t.error().relative * 100.0 <= error, "{spec}");
                if values == "dense" {
                    assert!(t.stored_bytes() <= last);
                    last = t.stored_bytes();
                    // One coefficient less does not do.
                    let count = t.form().params()["count"].as_u64().unwrap() - 1;
                    let numbers = if name.starts_with("fft") { 2.0 } else { 1.0 };
                    let share = count as f64 * numbers / 5400.0;
                    if count > 0 {
                        let less = format!("{name}(keep={share})");
                        let less = encode(&w, &[60, 90], &less).unwrap();
                        assert_eq!(less.form().params()["count"], count);
                        assert!(less.error().relative * 100.0 > error * 0.99999, "{spec}");
                    }
                }
            }
        }
        let spec = format!("{name}(error=1%, values=[q(bits=2)])");
        let text = encode(&w, &[60, 90], &spec).unwrap_err().to_string();
        assert!(
            text.contains("every coefficient") && text.contains("q(bits=2)"),
            "{text}"
        );
    }
}

#[test]
fn specs_have_one_form() {
    for (text, canonical) in [
        ("dct", "dct"),
        ("dct(10%)", "dct"),
        ("dct(0.05)", "dct(keep=5%)"),
        ("fft(keep=auto(error=5%))", "fft(error=5%)"),
        ("fft2(error=0.02, block=8)", "fft2(error=2%, block=8x8)"),
        ("dct2(block=8x4, values=[dense])", "dct2(block=8x4)"),
        ("dct(block=8)", "dct(block=8)"),
        ("dct(values=int8)", "dct(values=[int8])"),
    ] {
        assert_eq!(form::parse(text).unwrap().to_string(), canonical);
    }
    for (text, word) in [
        ("dct(keep=5%, error=5%)", "not both"),
        ("dct(block=8x8)", "at most one"),
        ("fft2(block=2x3x4)", "at most two"),
        ("fft(keep=0)", "keep"),
    ] {
        let error = form::parse(text).unwrap_err().to_string();
        assert!(error.contains(word), "{text}: {error}");
    }
}

#[test]
fn smooth_weights_beat_int4_in_fewer_bits() {
    let w = smooth(256, 256, 0.02);
    let int4 = encode(&w, &[256, 256], "int4").unwrap();
    for values in ["f16", "int8"] {
        let t = encode(
            &w,
            &[256, 256],
            &format!("dct2(keep=5%, values=[{values}])"),
        )
        .unwrap();
        assert!(t.stored_bytes() < int4.stored_bytes() / 2);
        assert!(t.error().relative < int4.error().relative / 2.0);
    }
}

#[test]
fn extreme_values_survive() {
    for scale in [1e38f32, 3e38, 1e-38, 1e-44] {
        let w: Vec<f32> = smooth(20, 30, 0.0)
            .iter()
            .map(|v| v / 3.0 * scale)
            .collect();
        for name in NAMES {
            for values in ["dense", "f16", "int8"] {
                let spec = format!("{name}(keep=60%, values=[{values}])");
                let t = encode(&w, &[20, 30], &spec).unwrap();
                assert!(decoded(&t).iter().all(|v| v.is_finite()));
                // Below f32's normal range what is left is rounded to its last bits.
                let most = if scale < 1e-43 { 0.2 } else { 0.07 };
                assert!(
                    t.error().relative < most,
                    "{spec} {scale}: {}",
                    t.error().relative
                );
            }
        }
    }
}

/// Products of every thread count, batch and scratch against the decoded matrix in f64.
#[test]
fn products_are_those_of_the_decoded_matrix() {
    let shape = [150, 223];
    let [rows, cols] = shape;
    let w = smooth(rows, cols, 0.3);
    for spec in [
        "fft(keep=20%)",
        "fft(keep=30%, block=32)",
        "fft2(keep=20%)",
        "fft2(keep=70%, block=31x50)",
        "dct(keep=3%, values=[int8])",
        "dct2(keep=20%)",
        "dct2(keep=30%, block=64x17) | zstd",
    ] {
        let t = encode(&w, &shape, spec).unwrap();
        let d: Vec<f64> = decoded(&t).iter().map(|v| f64::from(*v)).collect();
        let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|v| v * v).sum::<f64>().sqrt();
        let total = norm(&mut d.iter().copied());
        for batch in [1, 2, 3, 16, 19, 260] {
            let x = noise(batch * cols);
            let g = noise(batch * rows);
            let run = |threads: usize, scratch_bytes: usize| {
                let product = Product::exact(kernel::best(), threads, scratch_bytes);
                let (mut y, mut z) = (vec![f32::NAN; batch * rows], vec![f32::NAN; batch * cols]);
                product.matmul(t.form(), &x, batch, &mut y).unwrap();
                product.matmul_t(t.form(), &g, batch, &mut z).unwrap();
                (y, z)
            };
            let (y, z) = run(1, 32 << 20);
            for (threads, scratch) in [(3, 32 << 20), (2, 4096), (1, 0)] {
                assert!(
                    run(threads, scratch) == (y.clone(), z.clone()),
                    "{spec} {batch}"
                );
            }
            for b in 0..batch {
                let x = &x[b * cols..(b + 1) * cols];
                let g = &g[b * rows..(b + 1) * rows];
                let bound = |v: &[f32]| 1e-5 * total * norm(&mut v.iter().map(|v| f64::from(*v)));
                for r in 0..rows {
                    let row = &d[r * cols..(r + 1) * cols];
                    let sum: f64 = row.iter().zip(x).map(|(w, x)| w * f64::from(*x)).sum();
                    let found = f64::from(y[b * rows + r]);
                    assert!((found - sum).abs() <= bound(x), "{spec} {batch} row {r}");
                }
                for c in 0..cols {
                    let sum: f64 = (0..rows).map(|r| d[r * cols + c] * f64::from(g[r])).sum();
                    let found = f64::from(z[b * cols + c]);
                    assert!((found - sum).abs() <= bound(g), "{spec} {batch} column {c}");
                }
            }
        }
    }
}

#[test]
fn the_layout_is_the_documented_one() {
    // A wave of two periods: one complex coefficient in each of two rows.
    let row: Vec<f32> = (0..8)
        .map(|j| (std::f32::consts::TAU * 2.0 * j as f32 / 8.0).cos())
        .collect();
    let w: Vec<f32> = [row.clone(), row.iter().map(|v| v * 0.5).collect()].concat();
    let t = encode(&w, &[2, 8], "fft(keep=25%)").unwrap();
    let parts = t.form().parts();
    let bytes = |i: usize| match &parts[i].1 {
        Part::Buffer(b) => b.window(0..b.len(), &mut Vec::new()).unwrap().to_vec(),
        Part::Form(f) => {
            let mut out = vec![0.0; f.meta().len()];
            f.decode_f32(0..f.meta().rows, &mut out, &mut Scratch::default())
                .unwrap();
            bytemuck::cast_slice(&out).to_vec()
        }
    };
    assert_eq!(bytes(0), [1, 0, 1, 0]);
    // Four slots a row: half a byte of mask is less than an index.
    assert_eq!(t.form().params()["positions"], "mask");
    assert_eq!(bytes(1), [0b100, 0b100]);
    let values: Vec<f32> = bytemuck::pod_collect_to_vec(&bytes(2));
    // √(2/8) · 4 = 2 and half of it, over 2^exponent.
    assert_eq!(t.form().params()["exponent"], 1 - 14);
    for (v, e) in values.iter().zip([16384.0, 0.0, 8192.0, 0.0]) {
        assert!((v - e).abs() < 1e-2, "{values:?}");
    }
}

#[test]
fn damaged_parameters_are_refused() {
    let w = smooth(30, 40, 0.1);
    for spec in [
        "dct2(keep=20%)",
        "fft(keep=2%)",
        "fft2(keep=40%, values=[int8])",
    ] {
        let t = encode(&w, &[30, 40], spec).unwrap();
        let stored = |name: &str, value: Json| {
            let mut params = t.form().params();
            params.insert(name.into(), value);
            // A second encoding gives the parts, which have no copy.
            let again = encode(&w, &[30, 40], spec).unwrap();
            let parts = again.form().map_buffers(&mut |b| Ok(b.clone())).unwrap();
            let parts = parts.parts();
            let open = |p: &Part<'_>| match p {
                Part::Buffer(b) => StoredPart::Buffer((*b).clone()),
                Part::Form(f) => StoredPart::Form(f.map_buffers(&mut |b| Ok(b.clone())).unwrap()),
            };
            super::open(Stored {
                meta: t.meta().clone(),
                params,
                parts: parts
                    .iter()
                    .map(|(n, p)| ((*n).to_owned(), open(p)))
                    .collect(),
            })
        };
        assert!(stored("spare", 0.into()).is_ok());
        for (name, value) in [
            ("transform", "dct9".into()),
            ("block_rows", 0.into()),
            ("block_rows", 31.into()),
            ("block_cols", 41.into()),
            ("count", 0.into()),
            ("count", u64::MAX.into()),
            ("positions", "list".into()),
            ("exponent", 4000.into()),
            ("exponent", Json::Null),
        ] {
            let text = format!("{spec} {name} {value}");
            assert!(stored(name, value).is_err(), "{text}");
        }
    }
    let meta = |shape: &[usize]| Meta::new(crate::dtype::DType::F32, shape).unwrap();
    let long = Geometry {
        basis: Basis::Fft,
        two_dims: true,
        rows: 1 << 30,
        cols: 1,
        block_rows: 1 << 30,
        block_cols: 1,
    };
    assert_eq!(meta(&[1 << 30]).rows, long.rows);
    assert!(long.check().is_err());
}
