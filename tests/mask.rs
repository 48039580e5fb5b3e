//! What is particular to `mask`: coded positions.
mod common;

use common::Rng;
use cortex::form::Part;
use cortex::{Dense, Tensor};

/// Values at random positions, so that the entropy of a position is that of its share.
fn sparse(rows: usize, cols: usize, density: f64, seed: u64) -> Dense {
    let mut rng = Rng::new(seed);
    let value = |rng: &mut Rng| match rng.uniform() < density {
        true => 1.0 + rng.uniform() as f32,
        false => 0.0,
    };
    let w: Vec<f32> = (0..rows * cols).map(|_| value(&mut rng)).collect();
    Dense::from_slice(&w, &[rows, cols]).unwrap()
}

fn entropy(p: f64) -> f64 {
    -p * p.log2() - (1.0 - p) * (1.0 - p).log2()
}

fn buffers(t: &Tensor) -> Vec<(&'static str, u64, String)> {
    let parts = t.form().parts();
    let buffers = parts.iter().filter_map(|(name, part)| match part {
        Part::Buffer(b) => Some((*name, b.stored_len(), b.chain().text())),
        Part::Form(_) => None,
    });
    buffers.collect()
}

#[test]
fn coded_positions_cost_their_entropy() {
    let side = 4096;
    for density in [0.2, 0.1, 0.05, 0.01] {
        let dense = sparse(side, side, density, 7);
        let bitmap = Tensor::compress(&dense.view(), "mask").unwrap();
        let coded = Tensor::compress(&dense.view(), "mask(positions=coded)").unwrap();
        let bits = |t: &Tensor| {
            let bytes: u64 = buffers(t).iter().map(|(_, n, _)| n).sum();
            bytes as f64 * 8.0 / (side * side) as f64
        };
        let values = dense.as_slice::<f32>().unwrap();
        let p = values.iter().filter(|v| **v != 0.0).count() as f64 / values.len() as f64;
        let (found, least) = (bits(&coded), entropy(p));
        println!(
            "{:.0} % zeros: {found:.4} bits a weight, entropy {least:.4} (+{:.2} %), bitmap {:.4}",
            (1.0 - density) * 100.0,
            (found / least - 1.0) * 100.0,
            bits(&bitmap)
        );
        assert!(
            found < 1.02 * least,
            "{density}: {found} bits, entropy {least}"
        );
        assert!(bits(&bitmap) < 1.001);
        assert!(coded.decompress().unwrap().bytes() == dense.bytes());
    }
}

#[test]
fn coded_positions_keep_their_pack_and_give_the_same_products() {
    for (rows, cols) in [(5000, 40), (300, 1001), (40, 40_000), (1, 3), (3, 70_000)] {
        let dense = sparse(rows, cols, 0.1, 3);
        let encode = |spec| Tensor::compress(&dense.view(), spec).unwrap();
        let [plain, coded, packed] = [
            "mask",
            "mask(positions=coded)",
            "mask(positions=coded) | zstd",
        ]
        .map(encode);
        for t in [&coded, &packed] {
            assert_eq!(buffers(t)[0].2, "rans");
            assert!(t.decompress().unwrap().bytes() == dense.bytes());
            let mut rng = Rng::new(5);
            for _ in 0..5 {
                let a = rng.below(rows + 1);
                let b = a + rng.below(rows - a + 1).min(50);
                let decode = |t: &Tensor| {
                    let mut out = vec![f32::NAN; (b - a) * cols];
                    t.decode_rows_f32(a..b, &mut out).unwrap();
                    out
                };
                assert_eq!(decode(t), decode(&plain), "{rows}×{cols} rows {a}..{b}");
            }
            let x: Vec<f32> = (0..2 * cols).map(|_| rng.gaussian()).collect();
            let multiply = |t: &Tensor| {
                let mut y = vec![f32::NAN; 2 * rows];
                t.matmul(&x, 2, &mut y, &Default::default()).unwrap();
                y
            };
            assert_eq!(multiply(t), multiply(&plain), "{rows}×{cols}");
        }
    }
}

#[test]
fn a_score_needs_a_share_to_keep() {
    for bad in ["mask(score=wanda)", "mask(threshold=0.1, score=sparsegpt)"] {
        let e = cortex::form::parse(bad).unwrap_err();
        assert!(e.to_string().contains("score"), "{bad}: {e}");
    }
    let spec = cortex::form::parse("mask(keep=10%, score=magnitude, positions=bitmap)").unwrap();
    assert_eq!(
        spec.to_string(),
        cortex::form::parse("mask(keep=10%)").unwrap().to_string()
    );
}
