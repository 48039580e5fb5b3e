use super::*;
use crate::bytes::AlignedBytes;
use crate::dtype::DType;
use crate::error::ErrorKind;
use crate::form::{EncodeContext, StoredPart, encode, parse};
use crate::form::{Tensor, stored_bytes};
use crate::tensor::{Dense, View};

struct XorShift(u64);

impl XorShift {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// A sum of uniform numbers, near enough to normal: unit variance.
    fn bell(&mut self) -> f32 {
        let sum: f64 = (0..12).map(|_| (self.next() >> 11) as f64).sum();
        (sum / (1u64 << 53) as f64 - 6.0) as f32
    }

    fn bells(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| 0.02 * self.bell()).collect()
    }
}

fn made(values: &[f32], shape: &[usize], spec: &str) -> Tensor {
    let dense = Dense::from_slice(values, shape).unwrap();
    encode(
        &dense.view(),
        &parse(spec).unwrap(),
        &EncodeContext::default(),
    )
    .unwrap()
}

fn bytes_of(form: &dyn Form) -> Vec<Vec<u8>> {
    let parts = form.parts().into_iter().map(|(_, part)| match part {
        Part::Buffer(b) => b.window(0..b.len(), &mut Vec::new()).unwrap().to_vec(),
        Part::Form(_) => Vec::new(),
    });
    parts.collect()
}

#[test]
fn sizes_are_those_asked_for_and_errors_near_the_limit() {
    let values = XorShift(3).bells(256 * 600);
    for (spec, bits, most) in [
        ("ecq(bits=1.5)", 1.5, 1.65),
        ("ecq(bits=2)", 2.0, 1.65),
        ("ecq(bits=3.3)", 3.3, 1.65),
        ("ecq", 4.0, 1.65),
        ("ecq(bits=6)", 6.0, 1.65),
        ("ecq(bits=8)", 8.0, 1.7),
        ("ecq(bits=14)", 14.0, 1.75),
        ("ecq(bits=2, trellis=8)", 2.0, 0.8),
        ("ecq(bits=4, trellis=8)", 4.0, 0.8),
        ("ecq(bits=8, trellis=8)", 8.0, 0.8),
    ] {
        let tensor = made(&values, &[256, 600], spec);
        let found = tensor.bits_per_weight();
        let db = -tensor.error().sqnr_db().unwrap();
        let g = db + 20.0 * 2f64.log10() * found;
        println!("{spec}: {found:.4} bits, {db:.2} dB, G {g:.3}");
        assert!(found <= bits && found > bits - 0.012, "{spec}: {found}");
        assert!(g > 0.0 && g < most, "{spec}: G {g}");
    }
}

#[test]
fn errors_are_kept_and_not_by_much_more_than_asked() {
    let values = XorShift(5).bells(200 * 300);
    for trellis in ["", ", trellis=8"] {
        for error in [1.0, 0.5, 0.05, 0.01, 0.001, 0.00001] {
            let spec = format!("ecq(error={error}{trellis})");
            let found = made(&values, &[200, 300], &spec).error().relative;
            assert!(found <= error, "{spec}: {found}");
            assert!(found > 0.98 * error || error == 1.0, "{spec}: {found}");
        }
    }
    let dense = Dense::from_slice(&values, &[200, 300]).unwrap();
    let spec = parse("ecq(error=0.000000001)").unwrap();
    let e = encode(&dense.view(), &spec, &EncodeContext::default()).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::InvalidArgument);
}

#[test]
fn scales_of_rows_and_columns_are_worth_bits() {
    let mut rng = XorShift(7);
    let plain = rng.bells(256 * 400);
    let rows: Vec<f32> = (0..256).map(|_| 2f32.powf(rng.bell())).collect();
    let cols: Vec<f32> = (0..400).map(|_| 2f32.powf(rng.bell())).collect();
    let scaled: Vec<f32> = (0..plain.len())
        .map(|i| plain[i] * rows[i / 400] * cols[i % 400])
        .collect();
    let db = |w: &[f32]| {
        made(w, &[256, 400], "ecq(bits=3)")
            .error()
            .sqnr_db()
            .unwrap()
    };
    let gain = db(&scaled) - db(&plain);
    // The geometric against the arithmetic mean of squares: 2·(ln 2)² nepers each, 8.3 dB
    // less what large scales lose to rates below those of the limit.
    assert!(gain > 6.0, "{gain}");
}

#[test]
fn bytes_do_not_depend_on_threads() {
    let values = XorShift(11).bells(1000 * 700);
    for spec in ["ecq(bits=2.2)", "ecq(bits=3, trellis=8)", "ecq(error=2%)"] {
        let with = |n: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(n).build();
            pool.unwrap().install(|| {
                let t = made(&values, &[1000, 700], spec);
                (bytes_of(t.form()), t.form().params())
            })
        };
        assert!(with(1) == with(2), "{spec}");
    }
}

#[test]
fn outliers_stand_as_they_were() {
    let mut rng = XorShift(13);
    let mut values = rng.bells(300 * 200);
    for at in [0, 777, 40_000, 59_999] {
        values[at] = 1e4 * (at as f32 + 1.0);
    }
    let tensor = made(&values, &[300, 200], "ecq(bits=6, trellis=8)");
    assert!(tensor.form().params()["outliers"].as_u64() > Some(0));
    let mut out = vec![0.0; 200];
    for row in [0, 3, 200, 299] {
        tensor.decode_rows_f32(row..row + 1, &mut out).unwrap();
        for (i, v) in out.iter().enumerate() {
            let w = values[row * 200 + i];
            assert!((v - w).abs() <= 1e-3 * w.abs() + 1.0, "{w} became {v}");
        }
    }
    // What a half cannot hold is not made of what it can.
    let half: Vec<u8> = (0..64 * 64)
        .flat_map(|i| {
            half::f16::from_f32(if i % 2 == 0 { 65504.0 } else { -65000.0 }).to_le_bytes()
        })
        .collect();
    let view = View::new(DType::F16, &[64, 64], &half).unwrap();
    let spec = parse("ecq(bits=2)").unwrap();
    let tensor = encode(&view, &spec, &EncodeContext::default()).unwrap();
    let whole = tensor.decompress().unwrap();
    let back = whole.as_slice::<half::f16>().unwrap();
    assert!(back.iter().all(|v| v.is_finite()));
}

#[test]
fn wide_and_long_matrices_are_cut_into_units() {
    for shape in [[3, 70_000], [40, 33_000], [200_000, 1], [5000, 90]] {
        let [rows, cols] = shape;
        let values = XorShift(17).bells(rows * cols);
        for spec in ["ecq(bits=3)", "ecq(bits=7, trellis=8)"] {
            let tensor = made(&values, &shape, spec);
            assert!(tensor.bits_per_weight() < 7.01);
            let whole = tensor.decompress().unwrap();
            let whole = whole.as_slice::<f32>().unwrap();
            let row = rows / 2;
            let mut out = vec![0.0; cols];
            tensor.decode_rows_f32(row..row + 1, &mut out).unwrap();
            assert_eq!(out, whole[row * cols..(row + 1) * cols]);
            assert!(tensor.error().relative < 0.2, "{spec} {shape:?}");
        }
    }
}

fn stored(form: &dyn Form) -> Stored {
    let parts = form.parts().into_iter().zip(bytes_of(form));
    let parts = parts.map(|((name, _), bytes)| {
        let bytes = AlignedBytes::copy_of(&bytes).unwrap();
        (
            name.into(),
            StoredPart::Buffer(Buffer::owned(bytes, 1, 1).unwrap()),
        )
    });
    Stored {
        meta: form.meta().clone(),
        params: form.params(),
        parts: parts.collect(),
    }
}

#[test]
fn damaged_parts_are_errors_or_weights_and_never_a_panic() {
    let mut rng = XorShift(19);
    let mut values = rng.bells(70 * 50);
    values[99] = 1e9;
    for (i, v) in values.iter_mut().enumerate() {
        *v *= 1.0 + (i % 50) as f32 * 0.2;
    }
    for spec in [
        "ecq(bits=9)",
        "ecq(bits=3, trellis=8)",
        "ecq(bits=15, trellis=8)",
    ] {
        let tensor = made(&values, &[70, 50], spec);
        let form = tensor.form();
        let good = open(stored(form)).unwrap();
        assert_eq!(stored_bytes(&*good), tensor.stored_bytes());
        let mut expected = vec![0.0; values.len()];
        form.decode_f32(0..70, &mut expected, &mut Scratch::default())
            .unwrap();
        let (mut refused, mut undecoded) = (0, 0);
        for _ in 0..3000 {
            let mut bad = stored(form);
            let part = rng.below(bad.parts.len());
            let mut bytes = bytes_of(form).swap_remove(part);
            if bytes.is_empty() {
                continue;
            }
            for _ in 0..1 + rng.below(3) {
                let at = rng.below(bytes.len());
                bytes[at] = match rng.below(3) {
                    0 => rng.next() as u8,
                    _ => bytes[at] ^ 1 << rng.below(8),
                };
            }
            let bytes = AlignedBytes::copy_of(&bytes).unwrap();
            bad.parts[part].1 = StoredPart::Buffer(Buffer::owned(bytes, 1, 1).unwrap());
            let result = open(bad).and_then(|form| {
                let mut out = vec![0.0; values.len()];
                let first = rng.below(70);
                let out = &mut out[..(70 - first) * 50];
                form.decode_f32(first..70, out, &mut Scratch::default())
                    .inspect_err(|_| undecoded += 1)
            });
            if let Err(e) = result {
                assert!(
                    matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::LimitExceeded),
                    "{e}"
                );
                refused += 1;
            }
        }
        // Codes are checked by where their states end.
        assert!(refused > 1000 && undecoded > 300, "{refused} {undecoded}");
        for (key, value) in form.params() {
            for odd in [0u64, 1, 3, 9, 17, 1 << 20, u64::MAX] {
                let mut bad = stored(form);
                bad.params.insert(key.clone(), odd.into());
                if let Ok(form) = open(bad) {
                    let mut out = vec![0.0; values.len()];
                    let _ = form.decode_f32(0..70, &mut out, &mut Scratch::default());
                }
            }
            let mut bad = stored(form);
            bad.params.remove(&key);
            assert!(open(bad).is_err(), "{spec} without {key}: {value}");
        }
    }
}

#[test]
fn options_that_contradict_each_other_are_refused() {
    for spec in [
        "ecq(bits=4, error=5%)",
        "ecq(bits=17)",
        "ecq(bits=0)",
        "ecq(trellis=4)",
    ] {
        assert_eq!(
            parse(spec).unwrap_err().kind(),
            ErrorKind::InvalidArgument,
            "{spec}"
        );
    }
    assert_eq!(parse("ecq(4, trellis=none)").unwrap().to_string(), "ecq");
    assert_eq!(parse("ecq(0.05)").unwrap().to_string(), "ecq(bits=0.05)");
}
