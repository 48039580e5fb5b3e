//! One suite for every form: what `docs/architecture.md` says a form promises.
mod common;

use common::specs::specs;
use common::{Kind, Rng, assert_close, exact, naive_matmul, naive_matmul_t, norm, weights};
use cortex::form::{self, EncodeContext};
use cortex::{Dense, ErrorKind, MatmulOptions, Precision, Tensor, View};

fn encode(view: &View<'_>, spec: &str) -> cortex::Result<Tensor> {
    form::encode(view, &form::parse(spec)?, &EncodeContext::default())
}

const SHAPES: &[&[usize]] = &[
    &[],
    &[0],
    &[0, 5],
    &[5, 0],
    &[1],
    &[7],
    &[1, 1],
    &[1, 100],
    &[100, 1],
    &[3, 31],
    &[16, 32],
    &[17, 33],
    &[33, 129],
    &[2, 3, 5],
    &[6, 3, 3, 3],
    &[70, 300],
];

/// f16 and bf16 hold neither denormals nor 1e30.
fn fits(spec: &str, kind: Kind) -> bool {
    !(spec.contains("f16") && matches!(kind, Kind::Denormal | Kind::HugeRange))
}

#[test]
fn windows_equal_the_whole_and_products_equal_the_decoded_matrix() {
    for spec in specs() {
        for kind in Kind::ALL {
            if !fits(&spec, kind) {
                continue;
            }
            for shape in SHAPES {
                let what = format!("{spec} {kind:?} {shape:?}");
                let n: usize = shape.iter().product();
                let rows = shape.first().copied().unwrap_or(1);
                let cols = shape.iter().skip(1).product::<usize>();
                let values = weights(kind, rows.max(1), cols.max(1), 7);
                let dense = Dense::from_slice(&values[..n], shape).unwrap();
                let tensor = encode(&dense.view(), &spec).unwrap_or_else(|e| panic!("{what}: {e}"));
                check(&tensor, &dense, &what);
            }
        }
    }
}

fn check(tensor: &Tensor, dense: &Dense, what: &str) {
    let (rows, cols) = (tensor.rows(), tensor.cols());
    let whole = tensor.decompress().unwrap();
    assert_eq!(whole.shape(), dense.shape(), "{what}");
    let w = whole.as_slice::<f32>().unwrap().to_vec();
    let original = dense.as_slice::<f32>().unwrap();

    // The stored error is the true one.
    let error: Vec<f32> = w.iter().zip(original).map(|(a, b)| a - b).collect();
    let relative = match norm(&error) {
        0.0 => 0.0,
        e => e / norm(original),
    };
    let stored = tensor.error().relative;
    assert!(
        (stored - relative).abs() <= 1e-4 * relative.abs() + 1e-12 || stored == relative,
        "{what}: stored error {stored}, found {relative}"
    );
    if form::is_lossless(tensor.spec()).unwrap() {
        assert_eq!(whole.bytes(), dense.bytes(), "{what}");
    }

    // Windows equal the whole.
    let mut rng = Rng::new(3);
    for _ in 0..4 {
        let a = rng.below(rows + 1);
        let b = a + rng.below(rows - a + 1);
        let mut part = vec![9.0f32; (b - a) * cols];
        tensor.decode_rows_f32(a..b, &mut part).unwrap();
        assert_eq!(part, w[a * cols..b * cols], "{what} rows {a}..{b}");
    }

    // Products equal those of the decoded matrix, for every batch around the kernels' steps.
    for batch in [1, 3, 9] {
        let x: Vec<f32> = (0..batch * cols).map(|_| rng.gaussian()).collect();
        let mut y = vec![f32::NAN; batch * rows];
        tensor.matmul(&x, batch, &mut y, &exact()).unwrap();
        let expected = naive_matmul(&w, &x, rows, cols, batch);
        let scale = |i: usize| {
            let (b, r) = (i / rows, i % rows);
            norm(&x[b * cols..(b + 1) * cols]) * norm(&w[r * cols..(r + 1) * cols])
                // An asymmetric group sums codes and zero apart: its scale is that of both.
                + norm(&x[b * cols..(b + 1) * cols]) * norm(original) * 0.05
        };
        assert_close(
            &y,
            &expected,
            &scale,
            &format!("{what} matmul batch {batch}"),
        );

        // Rounded activations add little, in whatever form the product goes through.
        let fast = MatmulOptions {
            precision: Precision::Fast,
            ..MatmulOptions::default()
        };
        let done = tensor.matmul(&x, batch, &mut y, &fast).unwrap();
        let off: Vec<f32> = y
            .iter()
            .zip(&expected)
            .map(|(y, e)| y - *e as f32)
            .collect();
        let limit = match done.precision {
            Precision::Fast => 0.02,
            _ => 1e-5,
        };
        let size = norm(&x) * (norm(&w) + 0.05 * norm(original));
        assert!(
            norm(&off) <= limit * size + 1e-30,
            "{what} fast, batch {batch}"
        );

        let g: Vec<f32> = (0..batch * rows).map(|_| rng.gaussian()).collect();
        let mut y = vec![f32::NAN; batch * cols];
        tensor.matmul_t(&g, batch, &mut y, &exact()).unwrap();
        let expected = naive_matmul_t(&w, &g, rows, cols, batch);
        let scale = |i: usize| norm(&g[i / cols * rows..(i / cols + 1) * rows]) * norm(&w);
        assert_close(
            &y,
            &expected,
            &scale,
            &format!("{what} matmul_t batch {batch}"),
        );
    }
}

#[test]
fn canonical_specs_are_fixed_points_and_encode_the_same() {
    let values = weights(Kind::Gaussian, 40, 70, 1);
    let dense = Dense::from_slice(&values, &[40, 70]).unwrap();
    for spec in specs() {
        let tensor = encode(&dense.view(), &spec).unwrap();
        let canonical = tensor.spec().to_string();
        assert_eq!(form::parse(&canonical).unwrap().to_string(), canonical);
        let again = encode(&dense.view(), &canonical).unwrap();
        assert_eq!(
            again.decompress().unwrap().bytes(),
            tensor.decompress().unwrap().bytes()
        );
        assert_eq!(again.stored_bytes(), tensor.stored_bytes());
    }
}

#[test]
fn the_quantisers_reach_the_published_signal_to_noise() {
    // dB on seeded Gaussian weights: algorithm tables of the field, ± 0.15 dB.
    let values = weights(Kind::Gaussian, 256, 1024, 11);
    let dense = Dense::from_slice(&values, &[256, 1024]).unwrap();
    for (spec, expected) in [
        ("int4", 21.3),
        ("q(bits=3)", 15.2),
        ("q(bits=2)", 8.8),
        ("int4(search=lsq)", 21.8),
        ("q(bits=3, search=lsq)", 15.8),
        ("q(bits=2, search=lsq)", 9.6),
        ("int4(group=128, search=lsq)", 20.3),
        ("q(bits=3, group=128, search=lsq)", 14.6),
        ("q(bits=2, group=128, search=lsq)", 8.8),
        ("int4(group=64, zero=asymmetric)", 20.9),
        ("q(bits=3, group=64, zero=asymmetric)", 14.3),
        ("int4(group=64, zero=asymmetric, search=lsq)", 21.7),
        ("q(bits=3, group=64, zero=asymmetric, search=lsq)", 15.5),
        ("q(bits=2, group=64, zero=asymmetric, search=lsq)", 9.8),
    ] {
        let db = encode(&dense.view(), spec)
            .unwrap()
            .error()
            .sqnr_db()
            .unwrap();
        println!("{spec}: {db:.2} dB, table {expected}");
        assert!(
            (db - expected).abs() < 0.15,
            "{spec}: {db:.2} dB, {expected} expected"
        );
    }
}

#[test]
fn lossy_forms_refuse_what_they_cannot_hold_and_name_it() {
    for (value, word) in [
        (f32::NAN, "NaN"),
        (f32::INFINITY, "inf"),
        (f32::NEG_INFINITY, "-inf"),
    ] {
        let mut values = weights(Kind::Gaussian, 20, 30, 2);
        values[333] = value;
        values[444] = value;
        let dense = Dense::from_slice(&values, &[20, 30]).unwrap();
        for spec in specs() {
            let lossless = form::is_lossless(&form::parse(&spec).unwrap()).unwrap();
            match encode(&dense.view(), &spec) {
                Ok(t) => {
                    assert!(t.form().is_exact(), "{spec} took {word}");
                    assert_eq!(t.decompress().unwrap().bytes(), dense.bytes());
                }
                Err(e) => {
                    assert!(!lossless, "{spec}: {e}");
                    assert_eq!(e.kind(), ErrorKind::InvalidArgument);
                    // A mask of quantised values sees the value at its place among the values.
                    if !spec.contains("values=") {
                        let text = e.to_string();
                        assert!(
                            text.contains("index 333") && text.contains(word),
                            "{spec}: {text}"
                        );
                    }
                }
            }
        }
    }
}
