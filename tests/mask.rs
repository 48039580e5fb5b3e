//! What is particular to `mask`: coded positions.
mod common;

use std::collections::BTreeMap;

use common::{Rng, cai};
use cortex::archive::Archive;
use cortex::form::Part;
use cortex::{Dense, ErrorKind, MatmulOptions, Tensor};
use serde_json::{Value, json};

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
        let bitmap = Tensor::compress(&dense.view(), "mask(positions=bitmap)").unwrap();
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
            "mask(positions=bitmap)",
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
    let spec = cortex::form::parse("mask(keep=10%, score=magnitude, positions=auto)").unwrap();
    assert_eq!(
        spec.to_string(),
        cortex::form::parse("mask(keep=10%)").unwrap().to_string()
    );
}

fn part_names(t: &Tensor) -> Vec<&'static str> {
    t.form().parts().iter().map(|(name, _)| *name).collect()
}

fn stored(t: &Tensor) -> f64 {
    cortex::form::stored_bytes(t.form()) as f64
}

#[test]
fn positions_are_bits_or_columns_by_what_they_cost() {
    let side = 1024;
    for (density, values, indices) in [
        (0.5, "dense", false),
        (0.2, "dense", false),
        (0.11, "dense", false),
        (0.09, "dense", true),
        (0.01, "dense", true),
        (0.0, "dense", true),
        (0.09, "int8", false),
        (0.05, "int8", true),
    ] {
        let dense = sparse(side, side, density, 11);
        let encode = |positions: &str| {
            let spec = format!("mask(positions={positions}, values=[{values}])");
            Tensor::compress(&dense.view(), &spec).unwrap()
        };
        let [auto, bitmap, columns] = ["auto", "bitmap", "indices"].map(encode);
        let expected = if indices { "indices" } else { "mask" };
        assert_eq!(part_names(&auto)[0], expected, "{density} {values}");
        assert_eq!(part_names(&bitmap)[0], "mask");
        assert_eq!(part_names(&columns)[0], "indices");
        assert_eq!(
            stored(&auto),
            stored(if indices { &columns } else { &bitmap })
        );
        // Never more than 15 % above the smaller.
        let least = stored(&bitmap).min(stored(&columns));
        assert!(stored(&auto) <= 1.16 * least, "{density} {values}");
    }
    // 16 bits do not name more columns.
    let wide = sparse(3, 70_000, 0.01, 2);
    let t = Tensor::compress(&wide.view(), "mask(positions=indices)").unwrap();
    assert_eq!(part_names(&t)[0], "mask");
    assert!(t.decompress().unwrap().bytes() == wide.bytes());
}

/// `Σ x · w` in f64, and how far a sum in f32 may be.
fn reference(w: &[f32], x: &[f32]) -> (f64, f64) {
    let terms = w.iter().zip(x).filter(|(w, _)| **w != 0.0);
    let products = terms.map(|(w, x)| f64::from(*w) * f64::from(*x));
    let (sum, size, n) = products.fold((0.0, 0.0, 0), |(s, a, n), p| (s + p, a + p.abs(), n + 1));
    (sum, f64::from(n + 9) * 2f64.powi(-24) * size)
}

#[test]
fn every_way_gives_the_product_of_the_decoded_weights() {
    // Batches of one vector, of each number of lanes, of lanes left empty, of several groups.
    let batches = [1usize, 2, 3, 5, 8, 9, 20, 33, 64, 65, 150];
    for (rows, cols) in [(70, 301), (300, 64), (5, 1), (1, 500), (3, 70_000)] {
        for density in [0.0, 0.02, 0.1, 0.3, 0.6, 1.0] {
            for spec in [
                "mask(positions=bitmap)",
                "mask(positions=indices)",
                "mask(positions=coded)",
                "mask(values=[f16])",
                "mask | zstd(1)",
            ] {
                let dense = sparse(rows, cols, density, 13);
                let tensor = Tensor::compress(&dense.view(), spec).unwrap();
                let decoded = tensor.decompress().unwrap();
                let w = decoded.as_slice::<f32>().unwrap();
                let mut rng = Rng::new(17);
                for batch in batches {
                    if batch * rows * cols > 3_000_000 {
                        continue;
                    }
                    let what = format!("{rows}×{cols} {spec} at {density}, batch {batch}");
                    let x: Vec<f32> = (0..batch * cols).map(|_| rng.gaussian()).collect();
                    let mut y = vec![f32::NAN; batch * rows];
                    let o = MatmulOptions::default();
                    tensor.matmul(&x, batch, &mut y, &o).unwrap();
                    for (i, y) in y.iter().enumerate() {
                        let (b, r) = (i / rows, i % rows);
                        let (sum, bound) =
                            reference(&w[r * cols..(r + 1) * cols], &x[b * cols..(b + 1) * cols]);
                        assert!(
                            (f64::from(*y) - sum).abs() <= bound,
                            "{what}: {y} for {sum}"
                        );
                    }
                    let g: Vec<f32> = (0..batch * rows).map(|_| rng.gaussian()).collect();
                    let mut z = vec![f32::NAN; batch * cols];
                    tensor.matmul_t(&g, batch, &mut z, &o).unwrap();
                    for c in (0..cols).step_by(1 + cols / 300) {
                        let column: Vec<f32> = (0..rows).map(|r| w[r * cols + c]).collect();
                        for b in 0..batch {
                            let (sum, bound) = reference(&column, &g[b * rows..(b + 1) * rows]);
                            let z = z[b * cols + c];
                            assert!(
                                (f64::from(z) - sum).abs() <= bound,
                                "{what} transposed: {z} for {sum}"
                            );
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn columns_without_a_value_are_not_touched() {
    let (rows, cols) = (40, 200);
    for density in [0.05, 0.3, 0.7] {
        let mut dense = sparse(rows, cols, density, 19);
        let w: Vec<f32> = (0..rows * cols)
            .map(|i| match i % cols % 5 {
                0 => 0.0,
                _ => dense.as_slice::<f32>().unwrap()[i],
            })
            .collect();
        dense = Dense::from_slice(&w, &[rows, cols]).unwrap();
        for spec in ["mask(positions=bitmap)", "mask(positions=indices)", "sdr"] {
            let tensor = Tensor::compress(&dense.view(), spec).unwrap();
            for batch in [1, 2, 4, 8, 30, 64] {
                let x: Vec<f32> = (0..batch * cols)
                    .map(|i| match i % cols % 5 {
                        0 => [f32::NAN, f32::INFINITY][i / cols % 2],
                        n => n as f32,
                    })
                    .collect();
                let mut y = vec![0.0; batch * rows];
                tensor
                    .matmul(&x, batch, &mut y, &MatmulOptions::default())
                    .unwrap();
                assert!(
                    y.iter().all(|y| y.is_finite()),
                    "{spec} {density} batch {batch}"
                );
            }
        }
    }
}

/// An archive of a tensor with indices, its parts changed; what opening and decoding it and
/// multiplying by it say.
fn forge(change: impl Fn(&mut BTreeMap<&str, Vec<u8>>, &mut Value)) -> Result<(), ErrorKind> {
    let (rows, cols) = (150, 100);
    let dense = sparse(rows, cols, 0.1, 23);
    let tensor = Tensor::compress(&dense.view(), "mask(positions=indices)").unwrap();
    let mut parts = BTreeMap::new();
    for (name, part) in tensor.form().parts() {
        let buffer = match part {
            Part::Buffer(b) => b.clone(),
            Part::Form(f) => match f.parts()[0].1 {
                Part::Buffer(b) => b.clone(),
                Part::Form(_) => unreachable!("plain values"),
            },
        };
        let mut scratch = Vec::new();
        let bytes = buffer.window(0..buffer.len(), &mut scratch).unwrap();
        parts.insert(name, bytes.to_vec());
    }
    let mut params = Value::Object(tensor.form().params());
    change(&mut parts, &mut params);
    let mut body = cai::Body::new();
    let indices = body.raw(&parts["indices"], 2);
    let counts = body.raw(&parts["counts"], 4);
    let values = body.raw(&parts["values"], 4);
    let count = parts["values"].len() / 4;
    let index = json!({
        "generator": "test",
        "tensors": [{
            "name": "m", "dtype": "f32", "shape": [rows, cols], "spec": "mask",
            "error": {"relative": 0.0, "max_abs": 0.0},
            "form": {"kind": "mask", "params": params, "parts": [
                {"name": "indices", "buffer": indices},
                {"name": "counts", "buffer": counts},
                {"name": "values", "form": {
                    "kind": "dense", "dtype": "f32", "shape": [count], "params": {},
                    "parts": [{"name": "data", "buffer": values}],
                }},
            ]},
        }],
        "aliases": [],
    });
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.cai");
    std::fs::write(&path, cai::join(&body.bytes, index.to_string().as_bytes())).unwrap();
    let mut results = Vec::new();
    for archive in [Archive::open(&path), Archive::open_unmapped(&path)] {
        let tensor = || archive.as_ref().unwrap().tensor("m").map_err(|e| e.kind());
        let run = |f: &dyn Fn(&Tensor) -> cortex::Result<()>| {
            tensor().and_then(|t| f(&t).map_err(|e| e.kind()))
        };
        results.push(run(&|t| {
            let w = t.decompress()?;
            assert!(w.bytes() == dense.bytes());
            Ok(())
        }));
        for batch in [1, 2, 64] {
            results.push(run(&|t| {
                let (x, mut y) = (vec![1.0; batch * cols], vec![0.0; batch * rows]);
                t.matmul(&x, batch, &mut y, &MatmulOptions::default())
                    .map(|_| ())
            }));
            results.push(run(&|t| {
                let (g, mut z) = (vec![1.0; batch * rows], vec![0.0; batch * cols]);
                t.matmul_t(&g, batch, &mut z, &MatmulOptions::default())
                    .map(|_| ())
            }));
        }
    }
    let first = results[0];
    assert!(results.iter().all(|r| *r == first), "{results:?}");
    first
}

#[test]
fn columns_that_do_not_fit_are_refused() {
    assert_eq!(forge(|_, _| {}), Ok(()));
    type Change<'a> = &'a dyn Fn(&mut BTreeMap<&str, Vec<u8>>, &mut Value);
    let bad = |what: &str, change: Change<'_>| {
        assert_eq!(forge(change), Err(ErrorKind::Corrupt), "{what}");
    };
    for (what, at, value) in [
        ("a column past the last", 2, 100u16),
        ("the largest number", 40, u16::MAX),
        ("a column that is there already", 7, 0),
    ] {
        bad(what, &|p, _| {
            let indices = p.get_mut("indices").unwrap();
            let value = match value {
                0 => u16::from_le_bytes([indices[at * 2 - 2], indices[at * 2 - 1]]),
                v => v,
            };
            indices[at * 2..at * 2 + 2].copy_from_slice(&value.to_le_bytes());
        });
    }
    bad("columns that fall", &|p, _| {
        let indices = p.get_mut("indices").unwrap();
        let last = indices.len() - 4;
        indices[last..].rotate_left(2);
    });
    bad("too few columns", &|p, _| {
        let indices = p.get_mut("indices").unwrap();
        indices.truncate(indices.len() - 2);
    });
    bad("an odd number of bytes", &|p, _| {
        p.get_mut("indices").unwrap().push(0)
    });
    bad("a count moved to the next row", &|p, _| {
        let counts = p.get_mut("counts").unwrap();
        // All columns of the first row, which then rise in the second no more.
        let n = u32::from_le_bytes(counts[..4].try_into().unwrap());
        let m = u32::from_le_bytes(counts[4..8].try_into().unwrap());
        counts[..4].copy_from_slice(&0u32.to_le_bytes());
        counts[4..8].copy_from_slice(&(n + m).to_le_bytes());
    });
    bad("counts beyond the values", &|p, _| {
        p.get_mut("counts").unwrap()[..4].copy_from_slice(&u32::MAX.to_le_bytes());
    });
    bad("blocks of rows", &|_, params| {
        params["rows_per_block"] = 2.into()
    });
    bad("positions of another kind", &|_, params| {
        params["positions"] = "else".into()
    });
    bad("positions as bits", &|_, params| {
        params["positions"] = "mask".into()
    });
}
