//! Sparse distributed representations: the kernels, the form and the module.

mod common;

use std::collections::BTreeMap;

use common::{Kind, Rng, assert_close, exact, naive_matmul, norm, weights};
use cortex::archive::{Archive, Writer};
use cortex::form::{self, EncodeContext, Part, REGISTRY, Stored, StoredPart};
use cortex::kernel::{self, KernelSet};
use cortex::sdr::{
    CategoryEncoder, Date, DateEncoder, Index, MAX_INDEX_BITS, RandomScalarEncoder, ScalarEncoder,
    Sdr, Search, TensorEncoder, probability,
};
use cortex::{DType, Dense, ErrorKind, MatmulOptions, Tensor, View};
use proptest::prelude::*;

// ---- kernels ----------------------------------------------------------------------------

fn sets() -> Vec<&'static KernelSet> {
    kernel::available().collect()
}

/// Rice codes as the layout describes them, bit by bit.
fn naive_code(positions: &[u32], k: u32) -> (Vec<u8>, Vec<u8>) {
    let (mut remainders, mut quotients) = (Vec::new(), Vec::new());
    let mut next = 0;
    for p in positions {
        let gap = p - next;
        next = p + 1;
        remainders.extend((0..k).map(|i| gap >> i & 1 == 1));
        quotients.extend((0..gap >> k).map(|_| false));
        quotients.push(true);
    }
    (pack(&remainders), pack(&quotients))
}

fn pack(bits: &[bool]) -> Vec<u8> {
    let mut out = vec![0u8; bits.len().div_ceil(8)];
    for (i, bit) in bits.iter().enumerate() {
        out[i / 8] |= u8::from(*bit) << (i % 8);
    }
    out
}

/// The inverse: `None` for streams that hold anything but `count` positions.
fn naive_decode(k: u32, remainders: &[u8], quotients: &[u8], count: usize) -> Option<Vec<u32>> {
    let bit = |bytes: &[u8], i: usize| bytes.get(i / 8).map(|b| u64::from(b >> (i % 8) & 1));
    if remainders.len() != (count * k as usize).div_ceil(8) {
        return None;
    }
    let (mut at, mut next, mut out) = (0, 0u64, Vec::new());
    for i in 0..count {
        let mut gap = 0u64;
        while bit(quotients, at)? == 0 {
            gap += 1;
            at += 1;
        }
        at += 1;
        gap <<= k;
        for j in 0..k as usize {
            gap |= bit(remainders, i * k as usize + j)? << j;
        }
        let p = next + gap;
        next = p + 1;
        out.push(p);
    }
    let clean = (at..quotients.len() * 8).all(|i| bit(quotients, i) == Some(0));
    let inside = out.iter().all(|p| *p < 1 << 16);
    (clean && inside).then(|| out.iter().map(|p| *p as u32).collect())
}

fn random_positions(rng: &mut Rng, limit: usize, density: f64) -> Vec<u32> {
    (0..limit as u32)
        .filter(|_| rng.uniform() < density)
        .collect()
}

#[test]
fn positions_come_back_for_every_parameter_and_count() {
    let mut rng = Rng::new(1);
    let mut cases: Vec<Vec<u32>> = (0..70)
        .map(|n| random_positions(&mut rng, n, 0.7))
        .collect();
    for density in [0.0001, 0.001, 0.01, 0.05, 0.2, 0.5, 0.9, 0.999] {
        cases.push(random_positions(&mut rng, 1 << 16, density));
    }
    cases.push(vec![65_535]);
    cases.push(vec![0, 65_535]);
    for positions in &cases {
        for k in 0..=15 {
            let (remainders, quotients) = naive_code(positions, k);
            // What a directory would not allow.
            if quotients.len() > (1 << 14) {
                continue;
            }
            assert_eq!(
                naive_decode(k, &remainders, &quotients, positions.len()).as_ref(),
                Some(positions)
            );
            for set in sets() {
                let mut out = vec![7; positions.len()];
                assert!(set.positions_decode(k, &remainders, &quotients, &mut out));
                assert_eq!(&out, positions, "k {k} {:?}", set.isa());
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Any bytes at all: every instruction set says what the naive reader says.
    #[test]
    fn hostile_positions_are_refused_alike(
        k in 0u32..17,
        remainders in prop::collection::vec(any::<u8>(), 0..80),
        quotients in prop::collection::vec(any::<u8>(), 0..80),
        count in 0usize..300,
        fit in any::<bool>(),
    ) {
        let mut remainders = remainders;
        let mut count = count;
        if fit {
            // Lengths that agree, so that the rest is reached.
            count = quotients.iter().map(|b| b.count_ones() as usize).sum();
            remainders.resize((count * k as usize).div_ceil(8), 0x5a);
        }
        let naive = (k <= 15).then(|| naive_decode(k, &remainders, &quotients, count)).flatten();
        for set in sets() {
            let mut out = vec![0; count];
            let right = set.positions_decode(k, &remainders, &quotients, &mut out);
            prop_assert_eq!(right, naive.is_some());
            if let Some(naive) = &naive {
                prop_assert_eq!(&out, naive);
            }
        }
    }
}

#[test]
fn signed_sums_are_the_same_bits_everywhere_and_right() {
    let mut rng = Rng::new(2);
    for n in [0, 1, 5, 15, 16, 17, 31, 64, 100, 1000] {
        let width = n * 3 + 1;
        let base = rng.below(5000) as u32;
        let mut positions: Vec<u32> = (0..width as u32).collect();
        while positions.len() > n {
            positions.remove(rng.below(positions.len()));
        }
        for p in &mut positions {
            *p += base;
        }
        let first = rng.below(20);
        let signs: Vec<u8> = (0..(first + n).div_ceil(8) + 1)
            .map(|_| rng.next() as u8)
            .collect();
        let x: Vec<f32> = (0..width).map(|_| rng.gaussian()).collect();
        let negative = |i: usize| signs[(first + i) / 8] >> ((first + i) % 8) & 1 == 1;
        let terms = positions.iter().enumerate().map(|(i, p)| {
            let x = f64::from(x[(p - base) as usize]);
            if negative(i) { -x } else { x }
        });
        let sum: f64 = terms.clone().sum();
        let size: f64 = terms.map(f64::abs).sum();
        // Fewer than n + 4 additions, each of which rounds by 2⁻²⁴ of what it gives.
        let bound = (n as f64 + 4.0) * 2f64.powi(-24) * size;
        let mut found = Vec::new();
        for set in sets() {
            let limit = base + width as u32 / 2;
            assert_eq!(
                set.positions_below(&positions, limit),
                positions.iter().filter(|p| **p < limit).count()
            );
            let y = set.gather_signed(&positions, base, &signs, first, &x);
            assert!((f64::from(y) - sum).abs() <= bound, "{n} positions");
            found.push(y.to_bits());

            let mut columns = vec![u16::MAX; n];
            set.positions_narrow(&positions, base, &mut columns);
            for (c, p) in columns.iter().zip(&positions) {
                assert_eq!(u32::from(*c), p - base);
            }
            let mut values = vec![f32::NAN; n];
            set.sign_values(&signs, first, 1.5, &mut values);
            for (i, v) in values.iter().enumerate() {
                assert_eq!(*v, if negative(i) { -1.5 } else { 1.5 });
            }
        }
        assert!(found.windows(2).all(|w| w[0] == w[1]), "{n} positions");
    }
}

#[test]
fn panels_are_turned() {
    for rows in (0..=33).chain([63, 64]) {
        for cols in (1..=33).chain([64, 100]) {
            for spare in [0, 3] {
                let src: Vec<f32> = (0..rows * cols).map(|i| i as f32).collect();
                let stride = rows + spare;
                for set in sets() {
                    let mut dst = vec![-1.0; cols * stride];
                    set.transpose(&src, cols, &mut dst, stride);
                    for (i, v) in dst.iter().enumerate() {
                        let (c, r) = (i / stride, i % stride);
                        let expected = if r < rows { src[r * cols + c] } else { -1.0 };
                        assert_eq!(*v, expected, "{:?} {rows}×{cols}", set.isa());
                    }
                }
            }
        }
    }
}

#[test]
fn positions_outside_x_stop_every_kernel() {
    for set in sets() {
        for positions in [[99; 16], [3; 16]] {
            for base in [0, 4] {
                let inside = positions[0] == 3 && base == 0;
                let sum = std::panic::catch_unwind(|| {
                    set.gather_signed(&positions, base, &[0; 2], 0, &[1.0; 50])
                });
                assert_eq!(sum.ok(), inside.then_some(16.0), "{:?}", set.isa());
            }
        }
    }
}

#[test]
fn shared_bits_are_counted() {
    let mut rng = Rng::new(3);
    for words in [0, 1, 2, 3, 7, 8, 9, 32, 33] {
        let query: Vec<u64> = (0..words).map(|_| rng.next()).collect();
        let items: Vec<u64> = (0..words * 13).map(|_| rng.next()).collect();
        for set in sets() {
            let mut out = [9; 13];
            set.bit_overlaps(&query, &items, &mut out);
            for (i, found) in out.iter().enumerate() {
                let row = &items[i * words..(i + 1) * words];
                let expected: u32 = row
                    .iter()
                    .zip(&query)
                    .map(|(a, b)| (a & b).count_ones())
                    .sum();
                assert_eq!(*found, expected);
            }
        }
    }
}

// ---- the form ---------------------------------------------------------------------------

fn encode(view: &View<'_>, spec: &str) -> cortex::Result<Tensor> {
    form::encode(view, &form::parse(spec)?, &EncodeContext::default())
}

fn part(tensor: &Tensor, name: &str) -> Vec<u8> {
    for (found, part) in tensor.form().parts() {
        if let (true, Part::Buffer(buffer)) = (found == name, part) {
            return buffer
                .window(0..buffer.len(), &mut Vec::new())
                .unwrap()
                .to_vec();
        }
    }
    panic!("no part {name}");
}

fn sparse(n: usize, density: f64, seed: u64, value: impl Fn(&mut Rng) -> f32) -> Vec<f32> {
    let mut rng = Rng::new(seed);
    (0..n)
        .map(|_| match rng.uniform() < density {
            true => value(&mut rng),
            false => 0.0,
        })
        .collect()
}

/// What a stranger would write from `docs/format.md`: whether each weight is active.
fn naive_active(tensor: &Tensor) -> Vec<bool> {
    let params = tensor.form().params();
    let get = |name: &str| params[name].as_u64().unwrap() as usize;
    let (per_block, width) = (get("rows_per_block"), get("width"));
    let (rows, cols) = (tensor.rows(), tensor.cols());
    let (directory, positions) = (part(tensor, "directory"), part(tensor, "positions"));
    let mut active = vec![false; rows * cols];
    let (mut entry, mut at) = (0, 0);
    for row in (0..rows).step_by(per_block) {
        for col in (0..cols).step_by(width) {
            let (h, w) = (per_block.min(rows - row), width.min(cols - col));
            let word = |i: usize| {
                let bytes = directory[entry * 8 + i * 4..][..4].try_into().unwrap();
                u32::from_le_bytes(bytes)
            };
            let (len, count, k) = (word(0) as usize, word(1) & 0xff_ffff, word(1) >> 24);
            let list = if count as usize == h * w {
                (0..count).collect()
            } else {
                let cut = (count * k).div_ceil(8) as usize;
                let stream = &positions[at..at + len];
                naive_decode(k, &stream[..cut], &stream[cut..], count as usize).unwrap()
            };
            for p in list {
                let (r, c) = (p as usize / w, p as usize % w);
                active[(row + r) * cols + col + c] = true;
            }
            entry += 1;
            at += len;
        }
    }
    assert_eq!((entry * 8, at), (directory.len(), positions.len()));
    active
}

#[test]
fn a_stranger_reads_the_layout() {
    for (rows, cols, density) in [
        (1, 1, 1.0),
        (40, 70, 0.1),
        (40, 70, 1.0),
        (300, 1000, 0.02),
        (3, 150_001, 0.01),
        (2, 65_536, 0.4),
        (2, 65_537, 0.4),
        (100_000, 1, 0.03),
    ] {
        let w = sparse(rows * cols, density, 4, |r| r.gaussian());
        let dense = Dense::from_slice(&w, &[rows, cols]).unwrap();
        for spec in ["sdr", "sdr(values=sign)", "sdr(values=int8)"] {
            let tensor = encode(&dense.view(), spec).unwrap();
            let expected: Vec<bool> = w.iter().map(|v| *v != 0.0).collect();
            assert!(naive_active(&tensor) == expected, "{spec} {rows}×{cols}");
        }
        let signs = encode(&dense.view(), "sdr(values=sign)").unwrap();
        let bits: Vec<bool> = w.iter().filter(|v| **v != 0.0).map(|v| *v < 0.0).collect();
        if bits.iter().any(|b| *b) {
            assert_eq!(part(&signs, "signs"), pack(&bits));
        }
        let decoded = signs.decompress().unwrap();
        for (row, found) in w
            .chunks(cols)
            .zip(decoded.as_slice::<f32>().unwrap().chunks(cols))
        {
            let active: Vec<f64> = row
                .iter()
                .filter(|v| **v != 0.0)
                .map(|v| f64::from(v.abs()))
                .collect();
            let mean = active.iter().sum::<f64>() / active.len().max(1) as f64;
            for (w, f) in row.iter().zip(found) {
                let expected = if *w == 0.0 {
                    0.0
                } else {
                    mean * f64::from(w.signum())
                };
                // A bf16 has eight bits of mantissa.
                assert!((f64::from(*f) - expected).abs() <= mean / 256.0);
            }
        }
    }
}

#[test]
fn positions_take_little_more_than_their_entropy() {
    for (sparsity, most) in [(0.8f64, 1.03), (0.9, 1.025), (0.95, 1.025), (0.99, 1.03)] {
        let n = 1024 * 4096;
        let w = sparse(n, 1.0 - sparsity, 5, |_| 1.0);
        let dense = Dense::from_slice(&w, &[1024, 4096]).unwrap();
        let tensor = encode(&dense.view(), "sdr").unwrap();
        let bits = tensor.stored_bytes() as f64 * 8.0 / n as f64;
        let p = w.iter().filter(|v| **v != 0.0).count() as f64 / n as f64;
        let entropy = -p * p.log2() - (1.0 - p) * (1.0 - p).log2();
        assert!(
            bits <= entropy * most && bits >= entropy * 0.99,
            "{sparsity}: {bits} of {entropy}"
        );
    }
}

#[test]
fn binary_and_ternary_tensors_store_one_value() {
    let (rows, cols) = (50, 300);
    let binary = sparse(rows * cols, 0.1, 6, |_| 0.7);
    let ternary = sparse(rows * cols, 0.1, 6, |r| {
        if r.uniform() < 0.5 { -0.7 } else { 0.7 }
    });
    let names = |t: &Tensor| t.form().parts().iter().map(|(n, _)| *n).collect::<Vec<_>>();
    let positions = ["directory", "positions"];
    for (values, expected) in [
        (&binary, &positions[..]),
        (&ternary, &["directory", "positions", "signs"]),
        (&vec![0.0; rows * cols], &positions),
        (&vec![-3.0; rows * cols], &positions),
    ] {
        let dense = Dense::from_slice(values, &[rows, cols]).unwrap();
        let tensor = encode(&dense.view(), "sdr").unwrap();
        assert_eq!(names(&tensor), expected);
        assert_eq!(tensor.decompress().unwrap().bytes(), dense.bytes());
        assert_eq!(
            tensor.error(),
            form::encode(&dense.view(), tensor.spec(), &EncodeContext::default())
                .unwrap()
                .error()
        );
        let x = weights(Kind::Gaussian, 5, cols, 1);
        for batch in [1, 5] {
            let mut y = vec![0.0; batch * rows];
            let x = &x[..batch * cols];
            tensor.matmul(x, batch, &mut y, &exact()).unwrap();
            let scale = |i: usize| {
                norm(&x[i / rows * cols..][..cols]) * norm(&values[i % rows * cols..][..cols])
            };
            assert_close(
                &y,
                &naive_matmul(values, x, rows, cols, batch),
                &scale,
                "binary",
            );
        }
    }
    // All full: neither positions nor values, only a directory.
    let full = Dense::from_slice(&vec![1.5f32; 1 << 18], &[512, 512]).unwrap();
    assert_eq!(encode(&full.view(), "sdr").unwrap().stored_bytes(), 64);
}

#[test]
fn every_dtype_keeps_every_bit() {
    let mut rng = Rng::new(7);
    for dtype in [
        DType::F64,
        DType::F32,
        DType::F16,
        DType::BF16,
        DType::I64,
        DType::I32,
        DType::I16,
        DType::I8,
        DType::U64,
        DType::U32,
        DType::U16,
        DType::U8,
        DType::Bool,
    ] {
        for one in [false, true] {
            let size = dtype.size();
            let bytes: Vec<u8> = (0..60 * 70)
                .flat_map(|_| {
                    let zero = rng.uniform() < 0.8;
                    let mut element = vec![0u8; size];
                    if !zero && dtype == DType::Bool {
                        element[0] = 1;
                    } else if !zero && one {
                        // Two values that differ in the sign of a float.
                        element[size - 1] = 0x3c | (rng.next() as u8 & 0x80);
                    } else if !zero {
                        element.fill_with(|| rng.next() as u8);
                    }
                    element
                })
                .collect();
            let view = View::new(dtype, &[60, 70], &bytes).unwrap();
            for spec in [
                "sdr",
                "sdr | zstd",
                "sdr(values=[dense | lz4])",
                "sdr(values=exact)",
            ] {
                let tensor = encode(&view, spec).unwrap();
                assert_eq!(
                    tensor.decompress().unwrap().bytes(),
                    bytes,
                    "{dtype} {spec}"
                );
            }
            if !dtype.is_float() {
                for spec in [
                    "sdr(keep=5%)",
                    "sdr(threshold=1)",
                    "sdr(values=sign)",
                    "sdr(values=int8)",
                ] {
                    let e = encode(&view, spec).unwrap_err();
                    assert_eq!(e.kind(), ErrorKind::InvalidArgument, "{spec}");
                    assert!(e.to_string().contains(dtype.name()), "{spec}: {e}");
                }
            }
        }
    }
    // Zero with a sign and every NaN are kept.
    let odd = [
        0.0,
        -0.0,
        f32::NAN,
        f32::from_bits(0xffc0_1234),
        f32::INFINITY,
        0.0,
    ];
    let dense = Dense::from_slice(&odd, &[2, 3]).unwrap();
    assert_eq!(
        encode(&dense.view(), "sdr")
            .unwrap()
            .decompress()
            .unwrap()
            .bytes(),
        dense.bytes()
    );
    let e = encode(&dense.view(), "sdr(values=sign)")
        .unwrap_err()
        .to_string();
    assert!(e.contains("index 2"), "{e}");
    let zeros = Dense::from_slice(&[0.0f32, -0.0, 2.0, -0.0], &[2, 2]).unwrap();
    let signs = encode(&zeros.view(), "sdr(values=sign)")
        .unwrap()
        .decompress()
        .unwrap();
    assert_eq!(signs.as_slice::<f32>().unwrap(), [0.0, 0.0, 2.0, 0.0]);
}

#[test]
fn specs_have_one_canonical_text() {
    for (given, canonical) in [
        ("sdr", "sdr"),
        ("sdr(5%)", "sdr(keep=5%)"),
        ("sdr(values=exact)", "sdr"),
        ("sdr(values=dense)", "sdr"),
        (
            "sdr(values=[sign], keep=0.1)",
            "sdr(keep=10%, values=[sign])",
        ),
        ("sdr(values=sign)", "sdr(values=[sign])"),
        ("sdr(values=int8)", "sdr(values=[int8])"),
        (
            "sdr(values=[q(bits=4, group=64)]) | zstd",
            "sdr(values=[int4(group=64)]) | zstd",
        ),
    ] {
        let spec = form::parse(given).unwrap().to_string();
        assert_eq!(spec, canonical);
        assert_eq!(form::parse(&spec).unwrap().to_string(), spec);
    }
    // The word for half precision means what it says, however it is written out.
    let w = Dense::from_slice(&sparse(400, 0.3, 1, |r| r.gaussian()), &[20, 20]).unwrap();
    let tensor = encode(&w.view(), "sdr(values=f16)").unwrap();
    let same = encode(&w.view(), "sdr(values=[dense(type=f16)])").unwrap();
    assert_eq!(tensor.spec(), same.spec());
    assert_eq!(
        tensor.decompress().unwrap().bytes(),
        same.decompress().unwrap().bytes()
    );
    for (bad, word) in [
        ("sdr(keep=5%, threshold=1)", "not both"),
        ("sdr(values=signs)", "signs"),
        ("sdr(values=sign | zstd)", "column"),
        ("sdr(values=[sign | zstd])", "sign"),
        ("sign", "sign"),
        ("sdr(keep=0)", "keep"),
    ] {
        let e = form::parse(bad).unwrap_err();
        assert!(
            e.kind() == ErrorKind::InvalidArgument && e.to_string().contains(word),
            "{bad}: {e}"
        );
    }
}

#[test]
fn keep_takes_the_largest_and_signs_lose_what_the_formula_says() {
    let w = weights(Kind::Gaussian, 400, 500, 8);
    let dense = Dense::from_slice(&w, &[400, 500]).unwrap();
    let kept = encode(&dense.view(), "sdr(keep=10%)")
        .unwrap()
        .decompress()
        .unwrap();
    let kept = kept.as_slice::<f32>().unwrap();
    let mut sizes: Vec<f32> = w.iter().map(|v| v.abs()).collect();
    sizes.sort_by(f32::total_cmp);
    let least = sizes[sizes.len() - 20_000];
    for (k, v) in kept.iter().zip(&w) {
        assert_eq!(*k, if v.abs() >= least { *v } else { 0.0 });
    }
    let same = encode(&dense.view(), "mask(keep=10%)")
        .unwrap()
        .decompress()
        .unwrap();
    assert_eq!(same.as_slice::<f32>().unwrap(), kept);
    // The formula's 0.175 for the largest tenth of Gaussian weights.
    let active = Dense::from_slice(kept, &[400, 500]).unwrap();
    let error = encode(&active.view(), "sdr(values=sign)")
        .unwrap()
        .error()
        .relative;
    let (mut sum, mut squares, mut n) = (0.0f64, 0.0, 0.0);
    for v in kept.iter().filter(|v| **v != 0.0) {
        sum += f64::from(v.abs());
        squares += f64::from(*v).powi(2);
        n += 1.0;
    }
    let expected = (1.0 - (sum / n).powi(2) / (squares / n)).sqrt();
    assert!(
        (error - expected).abs() < 0.01,
        "{error}, {expected} for one scale"
    );
    assert!((0.165..0.185).contains(&error), "{error}");
}

#[test]
fn rows_past_a_segment_are_multiplied_in_pieces() {
    for cols in [65_536, 65_537, 150_001] {
        let rows = 5;
        let w = sparse(rows * cols, 0.02, 9, |r| r.gaussian());
        let dense = Dense::from_slice(&w, &[rows, cols]).unwrap();
        let tensor = encode(&dense.view(), "sdr").unwrap();
        for batch in [1, 2, 17] {
            let mut rng = Rng::new(3);
            let x: Vec<f32> = (0..batch * cols).map(|_| rng.gaussian()).collect();
            let expected = naive_matmul(&w, &x, rows, cols, batch);
            let scale = |i: usize| {
                norm(&x[i / rows * cols..][..cols]) * norm(&w[i % rows * cols..][..cols])
            };
            for threads in [1, 2] {
                let mut y = vec![0.0; batch * rows];
                let options = MatmulOptions {
                    threads,
                    scratch_bytes: 1 << 16,
                    ..MatmulOptions::default()
                };
                tensor.matmul(&x, batch, &mut y, &options).unwrap();
                assert_close(&y, &expected, &scale, "wide");
            }
        }
    }
}

#[test]
fn windows_threads_and_scratch_do_not_change_a_product() {
    let (rows, cols) = (700, 900);
    let w = sparse(rows * cols, 0.1, 10, |r| r.gaussian());
    let dense = Dense::from_slice(&w, &[rows, cols]).unwrap();
    for spec in ["sdr", "sdr(values=sign)", "sdr(values=[int8 | zstd]) | lz4"] {
        let tensor = encode(&dense.view(), spec).unwrap();
        for batch in [1, 7, 40, 64, 100] {
            let mut rng = Rng::new(4);
            let x: Vec<f32> = (0..batch * cols).map(|_| rng.gaussian()).collect();
            let products: Vec<Vec<u32>> = [(1, 32 << 20), (2, 32 << 20), (2, 1 << 14)]
                .into_iter()
                .map(|(threads, scratch_bytes)| {
                    let mut y = vec![0.0; batch * rows];
                    tensor
                        .matmul(
                            &x,
                            batch,
                            &mut y,
                            &MatmulOptions {
                                threads,
                                scratch_bytes,
                                ..MatmulOptions::default()
                            },
                        )
                        .unwrap();
                    y.iter().map(|v| v.to_bits()).collect()
                })
                .collect();
            assert!(
                products.windows(2).all(|p| p[0] == p[1]),
                "{spec} batch {batch}"
            );
        }
    }
}

#[test]
fn archives_hold_every_kind_of_values() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.cai");
    let mut writer = Writer::create(&path).unwrap();
    let mut all = Vec::new();
    for (i, spec) in [
        "sdr",
        "sdr(values=sign)",
        "sdr(keep=30%, values=[int8 | lz4]) | zstd",
        "sdr(values=[sdr(values=[int4])])",
        "mask(values=[sdr(values=f16)])",
    ]
    .into_iter()
    .enumerate()
    {
        for (j, shape) in [&[][..], &[0, 3], &[700], &[170, 400], &[3, 100_000]]
            .iter()
            .enumerate()
        {
            let n: usize = shape.iter().product();
            for levels in [1, 2, 100] {
                let w = sparse(n, 0.1, (i + j) as u64, |r| match levels {
                    1 => 2.5,
                    2 => 1.0 - 2.0 * r.below(2) as f32,
                    _ => r.gaussian(),
                });
                let dense = Dense::from_slice(&w, shape).unwrap();
                let tensor = encode(&dense.view(), spec).unwrap();
                let name = format!("{spec} {shape:?} {levels}");
                writer.add(&name, &tensor).unwrap();
                all.push((name, tensor));
            }
        }
    }
    writer.finish().unwrap();
    for archive in [
        Archive::open(&path).unwrap(),
        Archive::open_unmapped(&path).unwrap(),
    ] {
        for (name, tensor) in &all {
            let stored = archive.tensor(name).unwrap();
            assert_eq!(stored.spec(), tensor.spec());
            let (a, b) = (stored.decompress().unwrap(), tensor.decompress().unwrap());
            assert_eq!(a.bytes(), b.bytes(), "{name}");
            let x = vec![0.5; stored.cols() * 3];
            let product = |t: &Tensor| {
                let mut y = vec![0.0; t.rows() * 3];
                t.matmul(&x, 3, &mut y, &exact()).unwrap();
                y
            };
            assert_eq!(product(&stored), product(tensor), "{name}");
        }
    }
}

/// A form taken to pieces, so that pieces can be damaged and put together again.
struct Pieces {
    meta: form::Meta,
    params: serde_json::Map<String, serde_json::Value>,
    parts: BTreeMap<String, Vec<u8>>,
}

impl Pieces {
    fn of(tensor: &Tensor) -> Self {
        let names = tensor.form().parts();
        Self {
            meta: tensor.meta().clone(),
            params: tensor.form().params(),
            parts: names
                .iter()
                .map(|(n, _)| ((*n).to_owned(), part(tensor, n)))
                .collect(),
        }
    }

    /// Opens it and reads everything there is.
    fn read(&self) -> cortex::Result<Vec<f32>> {
        let def = REGISTRY.iter().find(|d| d.kind == "sdr").unwrap();
        let buffer = |bytes: &[u8]| {
            let bytes = cortex::bytes::AlignedBytes::copy_of(bytes).unwrap();
            StoredPart::Buffer(cortex::pack::Buffer::owned(bytes, 1, 1).unwrap())
        };
        let form = (def.open)(Stored {
            meta: self.meta.clone(),
            params: self.params.clone(),
            parts: self
                .parts
                .iter()
                .map(|(n, b)| (n.clone(), buffer(b)))
                .collect(),
        })?;
        let (rows, cols) = (self.meta.rows, self.meta.cols);
        let mut scratch = form::Scratch::default();
        let x = vec![1.0; cols * 2];
        for batch in [1, 2] {
            let mut y = vec![0.0; rows * batch];
            form.matmul_rows(
                0..rows,
                &x[..cols * batch],
                &mut y,
                kernel::best(),
                &mut scratch,
            )?;
        }
        let mut out = vec![0.0; rows * cols];
        form.decode_f32(0..rows, &mut out, &mut scratch)?;
        Ok(out)
    }
}

fn ternary_pieces() -> (Pieces, Vec<f32>) {
    let w = sparse(300 * 500, 0.1, 11, |r| {
        if r.uniform() < 0.5 { -2.0 } else { 2.0 }
    });
    let dense = Dense::from_slice(&w, &[300, 500]).unwrap();
    (Pieces::of(&encode(&dense.view(), "sdr").unwrap()), w)
}

#[test]
fn damaged_directories_streams_and_parameters_are_refused() {
    let (pieces, w) = ternary_pieces();
    assert_eq!(pieces.read().unwrap(), w);
    type Damage = fn(&mut Pieces);
    let cases: &[(&str, Damage)] = &[
        ("a count above the weights", |p| {
            drop(p.params.insert("count".into(), 150_001.into()))
        }),
        ("another count", |p| {
            drop(p.params.insert("count".into(), 1.into()))
        }),
        ("no rows in a block", |p| {
            drop(p.params.insert("rows_per_block".into(), 0.into()))
        }),
        ("blocks past 65,536", |p| {
            drop(p.params.insert("rows_per_block".into(), 200.into()))
        }),
        ("no width", |p| {
            drop(p.params.insert("width".into(), 0.into()))
        }),
        ("cut rows in a block", |p| {
            drop(p.params.insert("width".into(), 250.into()))
        }),
        ("another length", |p| {
            drop(p.params.insert("position_bytes".into(), 1.into()))
        }),
        ("an unknown kind", |p| {
            drop(p.params.insert("values".into(), "other".into()))
        }),
        ("an element too wide", |p| {
            drop(p.params.insert("bits".into(), (1u64 << 32).into()))
        }),
        ("no element", |p| drop(p.params.remove("bits"))),
        ("no scales", |p| {
            drop(p.params.insert("values".into(), "sign-row".into()))
        }),
        ("no form", |p| {
            drop(p.params.insert("values".into(), "form".into()))
        }),
        ("short signs", |p| {
            assert!(p.parts.get_mut("signs").unwrap().pop().is_some())
        }),
        ("a short directory", |p| {
            p.parts.get_mut("directory").unwrap().truncate(16)
        }),
        ("a parameter of 16", |p| {
            p.parts.get_mut("directory").unwrap()[7] = 16
        }),
        ("another parameter", |p| {
            p.parts.get_mut("directory").unwrap()[7] += 1
        }),
        ("a count moved on", |p| {
            let d = p.parts.get_mut("directory").unwrap();
            d[4] += 1;
            d[12] -= 1;
        }),
        ("bytes moved on", |p| {
            let d = p.parts.get_mut("directory").unwrap();
            d[0] -= 1;
            d[8] += 1;
        }),
        ("a one too many", |p| {
            let d = p.parts["directory"].clone();
            let end = u32::from_le_bytes(d[..4].try_into().unwrap()) as usize;
            p.parts.get_mut("positions").unwrap()[end - 1] = 0xff;
        }),
        ("zeros", |p| p.parts.get_mut("positions").unwrap().fill(0)),
    ];
    for (what, damage) in cases {
        let (mut pieces, _) = ternary_pieces();
        damage(&mut pieces);
        let e = pieces.read().expect_err(what);
        assert_eq!(e.kind(), ErrorKind::Corrupt, "{what}: {e}");
    }
    // Signs of integers, and a directory that would take gigabytes.
    let (mut pieces, _) = ternary_pieces();
    pieces.meta = form::Meta::new(DType::I32, &[300, 500]).unwrap();
    assert_eq!(pieces.read().unwrap_err().kind(), ErrorKind::Corrupt);
    let (mut pieces, _) = ternary_pieces();
    pieces.meta = form::Meta::new(DType::F32, &[1 << 30, 500]).unwrap();
    pieces.params.insert("rows_per_block".into(), 1.into());
    assert_eq!(pieces.read().unwrap_err().kind(), ErrorKind::LimitExceeded);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Flipped bytes anywhere: an error or other weights, never a panic.
    #[test]
    fn flipped_bytes_never_panic(flips in prop::collection::vec((any::<u32>(), 1u8..), 1..6)) {
        let (mut pieces, w) = ternary_pieces();
        for (at, mask) in flips {
            let part = if at % 4 == 0 { "directory" } else { "positions" };
            let bytes = pieces.parts.get_mut(part).unwrap();
            let at = at as usize / 4 % bytes.len();
            bytes[at] ^= mask;
        }
        if let Ok(read) = pieces.read() {
            prop_assert_eq!(read.len(), w.len());
        }
    }

    #[test]
    fn any_sparse_matrix_comes_back(
        rows in 1usize..40,
        cols in 1usize..200,
        density in 0.0f64..1.0,
        seed in any::<u64>(),
        levels in 1u32..5,
    ) {
        let w = sparse(rows * cols, density, seed, |r| r.below(levels as usize * 2 + 1) as f32 - levels as f32);
        let dense = Dense::from_slice(&w, &[rows, cols]).unwrap();
        let tensor = encode(&dense.view(), "sdr").unwrap();
        let decoded = tensor.decompress().unwrap();
        prop_assert_eq!(decoded.bytes(), dense.bytes());
    }
}

// ---- sets and probabilities -------------------------------------------------------------

fn random_set(rng: &mut Rng, n: usize, w: usize) -> Sdr {
    let mut active = Vec::new();
    while active.len() < w {
        let i = rng.below(n) as u32;
        if !active.contains(&i) {
            active.push(i);
        }
    }
    Sdr::new(n, active).unwrap()
}

fn near(found: f64, expected: f64, relative: f64) -> bool {
    (found / expected - 1.0).abs() <= relative
}

#[test]
fn probabilities_are_those_of_the_paper_and_of_counting() {
    assert!(near(probability::false_match(2048, 40, 20), 2.5e-26, 0.03));
    assert!(near(probability::false_match(2048, 40, 10), 1.4e-9, 0.03));
    assert!(near(probability::union_density(2048, 40, 20), 0.326, 0.002));
    assert!(near(
        probability::union_false_match(2048, 40, 20, 40),
        3e-20,
        0.2
    ));
    assert!(near(
        probability::union_false_match(2048, 40, 20, 30),
        5e-8,
        0.1
    ));
    // (1 − 40/2048)^m = 1/2.
    assert_eq!(probability::union_capacity(2048, 40, 0.5), 35);
    assert!(probability::union_density(2048, 40, 35) <= 0.5);
    assert!(probability::union_density(2048, 40, 36) > 0.5);
    assert!(near(probability::ln_choose(10, 3), 120f64.ln(), 1e-14));
    assert!(near(
        probability::capacity_bits(52, 5),
        2_598_960f64.log2(),
        1e-14
    ));

    // Every set of w bits of a small n, counted.
    for (n, w_x, w) in [(10usize, 3usize, 3usize), (12, 4, 6), (9, 9, 4), (14, 2, 7)] {
        let fixed = (1u32 << w_x) - 1;
        let all: Vec<u32> = (0..1u32 << n)
            .filter(|s| s.count_ones() as usize == w)
            .collect();
        for theta in 0..=w + 1 {
            let hits = all
                .iter()
                .filter(|s| (*s & fixed).count_ones() as usize >= theta)
                .count();
            let expected = hits as f64 / all.len() as f64;
            let found = probability::ln_overlap_tail(n, w_x, w, theta).exp();
            assert!(
                (found - expected).abs() <= 1e-12,
                "{n} {w_x} {w} {theta}: {found} {expected}"
            );
        }
    }
    // Below what an f64 holds, logarithms still tell.
    assert_eq!(probability::false_match(65_536, 1300, 1200), 0.0);
    let ln = probability::ln_false_match(65_536, 1300, 1200);
    assert!(ln.is_finite() && ln < -3000.0);
    // θ = w: one of C(n, w).
    let one = -probability::ln_choose(65_536, 1300);
    assert!(near(
        probability::ln_false_match(65_536, 1300, 1300),
        one,
        1e-12
    ));

    let advice = probability::advise(2048, 40, 1e-9).unwrap();
    assert!(probability::false_match(2048, 40, advice.theta) <= 1e-9);
    assert!(probability::false_match(2048, 40, advice.theta - 1) > 1e-9);
    assert_eq!((advice.theta, advice.union_capacity), (11, 35));
    assert!(near(advice.noise_tolerance, 29.0 / 40.0, 1e-12));
    assert_eq!(probability::advise(16, 2, 1e-9), None);
    assert_eq!(probability::advise(16, 0, 0.5), None);
}

#[test]
fn chance_overlaps_as_often_as_the_formula_says() {
    // P(overlap ≥ 3) of 20 bits of 256 is about 0.2: often enough to count.
    let (n, w, theta) = (256, 20, 3);
    let p = probability::false_match(n, w, theta);
    let mut rng = Rng::new(12);
    let tries = 20_000;
    let fixed = random_set(&mut rng, n, w);
    let hits = (0..tries)
        .filter(|_| fixed.matches(&random_set(&mut rng, n, w), theta))
        .count();
    let deviation = (p * (1.0 - p) / f64::from(tries)).sqrt();
    assert!((hits as f64 / f64::from(tries) - p).abs() < 5.0 * deviation);
    // The same for a union, whose density is that of the formula.
    let (m, theta) = (5, 8);
    let p = probability::union_false_match(n, w, m, theta);
    let hits = (0..tries)
        .filter(|_| {
            let sets: Vec<Sdr> = (0..m).map(|_| random_set(&mut rng, n, w)).collect();
            let union = Sdr::union_of(n, &sets).unwrap();
            union.matches(&random_set(&mut rng, n, w), theta)
        })
        .count();
    // The binomial stands in for a hypergeometric here: within a tenth.
    assert!(near(hits as f64 / f64::from(tries), p, 0.15), "{hits} {p}");
}

#[test]
fn sets_are_sets() {
    let a = Sdr::new(100, vec![5, 1, 99, 30]).unwrap();
    let b = Sdr::new(100, vec![99, 2, 5]).unwrap();
    assert_eq!(a.active(), [1, 5, 30, 99]);
    assert_eq!((a.overlap(&b), b.overlap(&a), a.overlap(&a)), (2, 2, 4));
    assert!(a.matches(&b, 2) && !a.matches(&b, 3) && a.matches(&b, 0));
    assert_eq!(a.union(&b).unwrap().active(), [1, 2, 5, 30, 99]);
    assert_eq!(a.intersection(&b).unwrap().active(), [5, 99]);
    assert_eq!(
        Sdr::concat([&a, &b]).unwrap().active(),
        [1, 5, 30, 99, 102, 105, 199]
    );
    assert_eq!(Sdr::from_words(100, &a.words()).unwrap(), a);
    assert_eq!((a.weight(), a.bits(), a.density()), (4, 100, 0.04));
    assert!(Sdr::new(100, vec![100]).is_err() && Sdr::new(9, vec![1, 1]).is_err());
    assert!(Sdr::from_sorted(9, vec![3, 2]).is_err());
    assert!(Sdr::from_words(3, &[8]).is_err() && Sdr::from_words(64, &[0, 0]).is_err());
    assert!(a.union(&Sdr::new(99, vec![]).unwrap()).is_err());
    assert_eq!(
        Sdr::new(usize::MAX, vec![]).unwrap_err().kind(),
        ErrorKind::LimitExceeded
    );
    // The last index that there can be.
    let last = Sdr::new(u32::MAX as usize, vec![u32::MAX - 1, 0]).unwrap();
    assert_eq!(last.overlap(&last), 2);
}

proptest! {
    #[test]
    fn set_algebra_holds(a in prop::collection::btree_set(0u32..300, 0..60), b in prop::collection::btree_set(0u32..300, 0..60), flips in 0usize..20, seed in any::<u64>()) {
        let set = |s: &std::collections::BTreeSet<u32>| Sdr::new(300, s.iter().copied().collect()).unwrap();
        let (x, y) = (set(&a), set(&b));
        prop_assert_eq!(x.overlap(&y), a.intersection(&b).count());
        prop_assert_eq!(x.union(&y).unwrap(), set(&a.union(&b).copied().collect()));
        prop_assert_eq!(x.intersection(&y).unwrap(), set(&a.intersection(&b).copied().collect()));
        prop_assert_eq!(Sdr::union_of(300, [&x, &y]).unwrap(), x.union(&y).unwrap());
        prop_assert_eq!(Sdr::from_words(300, &x.words()).unwrap(), x.clone());
        if flips <= x.weight() {
            let noisy = x.with_noise(flips, seed).unwrap();
            prop_assert_eq!(noisy.weight(), x.weight());
            prop_assert_eq!(noisy.overlap(&x), x.weight() - flips);
        } else {
            prop_assert!(x.with_noise(flips, seed).is_err());
        }
    }

    #[test]
    fn scalars_share_what_their_distance_leaves(v in 0.0f64..1.0, d in 0i64..60) {
        let step = 1.0 / 400.0;
        // The middle of a bucket, so that rounding moves none to another.
        let middle = ((v * 300.0).floor() + 0.5) * step;
        let other = middle + d as f64 * step;
        let line = ScalarEncoder::new(0.0, 1.0, 400, 21).unwrap();
        let (a, b) = (line.encode(middle).unwrap(), line.encode(other).unwrap());
        prop_assert_eq!(a.weight(), 21);
        prop_assert_eq!(a.overlap(&b), (21 - d).max(0) as usize);
        prop_assert!((line.decode(&a).unwrap() - middle).abs() < 1e-9);
        let circle = ScalarEncoder::periodic(0.0, 1.0, 400, 21).unwrap();
        let (a, b) = (circle.encode(middle - 3.0).unwrap(), circle.encode(other + 5.0).unwrap());
        prop_assert_eq!(a.overlap(&b), (21 - d).max(0) as usize);
        let random = RandomScalarEncoder::new(step, 2048, 40, 1).unwrap();
        let (a, b) = (random.encode(middle).unwrap(), random.encode(other).unwrap());
        prop_assert_eq!(a.weight(), 40);
        let (shared, ideal) = (a.overlap(&b) as i64, (40 - d).max(0));
        prop_assert!((shared - ideal).abs() <= 8, "{} apart share {}", d, shared);
    }
}

#[test]
fn encoders_keep_their_promises() {
    let line = ScalarEncoder::new(-1.0, 1.0, 100, 5).unwrap();
    assert_eq!(line.bits(), 104);
    assert_eq!(line.encode(-7.0).unwrap(), line.encode(-1.0).unwrap());
    assert_eq!(line.encode(9.0).unwrap().active(), [99, 100, 101, 102, 103]);
    assert!(line.encode(f64::NAN).is_err() && line.encode(f64::INFINITY).is_err());
    assert_eq!(line.decode(&Sdr::new(104, vec![]).unwrap()), None);
    let circle = ScalarEncoder::periodic(0.0, 24.0, 24, 3).unwrap();
    assert_eq!(circle.encode(23.0).unwrap().active(), [0, 1, 23]);
    assert_eq!(circle.encode(-1.0).unwrap(), circle.encode(47.5).unwrap());
    assert!((circle.decode(&circle.encode(23.0).unwrap()).unwrap() - 23.5).abs() < 1e-9);
    for bad in [
        ScalarEncoder::new(1.0, 1.0, 9, 1),
        ScalarEncoder::new(0.0, f64::NAN, 9, 1),
        ScalarEncoder::new(0.0, 1.0, 0, 1),
        ScalarEncoder::new(0.0, 1.0, 9, 0),
        ScalarEncoder::periodic(0.0, 1.0, 3, 4),
        ScalarEncoder::new(0.0, 1.0, usize::MAX, 4),
    ] {
        assert!(bad.is_err());
    }
    // Far numbers share what chance gives: 40²/2048 = 0.78 on average.
    let random = RandomScalarEncoder::new(1.0, 2048, 40, 7)
        .unwrap()
        .with_offset(0.5);
    let all: Vec<Sdr> = (0..200)
        .map(|i| random.encode(f64::from(i) * 1000.0).unwrap())
        .collect();
    let pairs = (0..200).flat_map(|i| (0..i).map(move |j| (i, j)));
    let shared: usize = pairs.map(|(i, j)| all[i].overlap(&all[j])).sum();
    assert!(near(shared as f64 / 19_900.0, 40.0 * 40.0 / 2048.0, 0.05));
    assert!(random.encode(1e300).is_err() && RandomScalarEncoder::new(1.0, 100, 26, 0).is_err());

    let known = CategoryEncoder::known(["red", "green", "blue"], 7).unwrap();
    assert_eq!(known.bits(), 28);
    let colours: Vec<Sdr> = ["red", "green", "blue", "mauve"]
        .iter()
        .map(|c| known.encode(c).unwrap())
        .collect();
    for (i, a) in colours.iter().enumerate() {
        for (j, b) in colours.iter().enumerate() {
            assert_eq!(a.overlap(b), if i == j { 7 } else { 0 });
        }
    }
    assert_eq!(known.encode("unheard of").unwrap(), colours[3]);
    assert!(CategoryEncoder::known(["a", "a"], 3).is_err());
    let hashed = CategoryEncoder::hashed(2048, 40, 3).unwrap();
    let (a, b) = (hashed.encode("a").unwrap(), hashed.encode("a\0").unwrap());
    assert!(a.weight() == 40 && b.weight() == 40 && a.overlap(&b) < 10);
    assert_eq!(a, hashed.encode("a").unwrap());
}

#[test]
fn dates_have_the_right_day_and_near_ones_share_bits() {
    for ((y, m, d), week, year) in [
        ((1970, 1, 1), 3, 0),
        ((2000, 1, 1), 5, 0),
        ((2024, 2, 29), 3, 59),
        ((2023, 12, 31), 6, 364),
        ((2024, 12, 31), 1, 365),
        ((1900, 3, 1), 3, 59),
        ((1, 1, 1), 0, 0),
    ] {
        let date = Date::new(y, m, d, (0, 0, 0)).unwrap();
        assert_eq!(
            (date.day_of_week, date.day_of_year),
            (week, year),
            "{y}-{m}-{d}"
        );
    }
    for (y, m, d, t) in [
        (1900, 2, 29, (0, 0, 0)),
        (2024, 13, 1, (0, 0, 0)),
        (2024, 0, 1, (0, 0, 0)),
        (2024, 4, 31, (0, 0, 0)),
        (2024, 4, 0, (0, 0, 0)),
        (0, 1, 1, (0, 0, 0)),
        (2024, 1, 1, (24, 0, 0)),
    ] {
        assert!(Date::new(y, m, d, t).is_err());
    }
    let encoder = DateEncoder::new(21, 5, 9, 30).unwrap();
    assert_eq!(encoder.bits(), 366 + 35 + 18 + 1440);
    let set = |m, d, t| encoder.encode(&Date::new(2024, m, d, t).unwrap()).unwrap();
    // Monday noon: all its own bits. One hour later 60 minutes, past all 30 of them.
    let monday = set(6, 3, (12, 0, 0));
    assert_eq!(monday.weight(), 21 + 5 + 9 + 30);
    assert_eq!(monday.overlap(&set(6, 3, (12, 10, 0))), 21 + 5 + 9 + 20);
    assert_eq!(monday.overlap(&set(6, 4, (12, 0, 0))), 20 + 9 + 30);
    // A week on: only the season differs.
    assert_eq!(monday.overlap(&set(6, 10, (12, 0, 0))), 14 + 5 + 9 + 30);
    // Saturday: another day and the weekend.
    assert_eq!(monday.overlap(&set(6, 8, (12, 0, 0))), 16 + 30);
    assert!(DateEncoder::new(0, 0, 0, 0).is_err());
    let only_time = DateEncoder::new(0, 0, 0, 30).unwrap();
    let bad = Date {
        day_of_year: 0,
        day_of_week: 7,
        second_of_day: 0,
    };
    assert!(only_time.encode(&bad).is_err());
}

#[test]
fn vectors_share_bits_by_their_angle() {
    let encoder = TensorEncoder::new(200, 2048, 64, 5).unwrap();
    let mut rng = Rng::new(13);
    let mut vector = || -> Vec<f32> { (0..200).map(|_| rng.gaussian()).collect() };
    let (a, noise) = (vector(), vector());
    let set = encoder.encode(&a).unwrap();
    assert_eq!((set.weight(), set.bits()), (64, 2048));
    // Size does not matter, nor how large it is.
    for scale in [2.0, 1e-30, 1e30] {
        let scaled: Vec<f32> = a.iter().map(|v| v * scale).collect();
        assert!(encoder.encode(&scaled).unwrap().overlap(&set) >= 63);
    }
    let mixed = |share: f32| -> usize {
        let x: Vec<f32> = a.iter().zip(&noise).map(|(a, b)| a + share * b).collect();
        encoder.encode(&x).unwrap().overlap(&set)
    };
    let overlaps = [0.0, 0.1, 0.3, 0.6, 1.0, 2.0, 100.0].map(mixed);
    assert_eq!(overlaps[0], 64);
    assert!(overlaps.windows(2).all(|w| w[0] > w[1]), "{overlaps:?}");
    assert!(overlaps[6] < 10, "{overlaps:?}");
    assert_eq!(encoder.encode(&[0.0; 200]).unwrap().weight(), 0);
    assert!(encoder.encode(&[f32::NAN; 200]).is_err() && encoder.encode(&[0.0; 199]).is_err());

    // Rows of a tensor, plain and compressed, one by one and together.
    let w = weights(Kind::Gaussian, 700, 200, 3);
    let dense = Dense::from_slice(&w, &[700, 200]).unwrap();
    let rows = encoder.encode_rows(&dense.view()).unwrap();
    let compressed = encode(&dense.view(), "mask").unwrap();
    assert_eq!(encoder.encode_tensor(&compressed).unwrap(), rows);
    for (row, set) in w.chunks(200).zip(&rows) {
        assert_eq!(&encoder.encode(row).unwrap(), set);
    }
    assert!(
        encoder
            .encode_rows(&Dense::zeros(DType::F32, &[3, 199]).unwrap().view())
            .is_err()
    );
    // A frozen example: encoders give the same bits for ever.
    let small = TensorEncoder::with_taps(5, 16, 4, 2, 1).unwrap();
    let found = small.encode(&[1.0, -2.0, 3.0, -4.0, 5.0]).unwrap();
    assert_eq!(found.active(), FROZEN_TENSOR);
    let found = CategoryEncoder::hashed(64, 4, 1)
        .unwrap()
        .encode("cortex")
        .unwrap();
    assert_eq!(found.active(), FROZEN_NAME);
    let found = RandomScalarEncoder::new(1.0, 64, 4, 1)
        .unwrap()
        .encode(10.0)
        .unwrap();
    assert_eq!(found.active(), FROZEN_SCALAR);
}

const FROZEN_TENSOR: [u32; 4] = [3, 4, 9, 15];
const FROZEN_NAME: [u32; 4] = [13, 21, 22, 59];
const FROZEN_SCALAR: [u32; 4] = [4, 7, 28, 56];

// ---- the index --------------------------------------------------------------------------

fn naive_top(items: &BTreeMap<u64, Sdr>, query: &Sdr, k: usize) -> Vec<(u64, usize)> {
    let mut all: Vec<(u64, usize)> = items
        .iter()
        .map(|(id, set)| (*id, set.overlap(query)))
        .filter(|(_, overlap)| *overlap > 0)
        .collect();
    all.sort_by_key(|(id, overlap)| (std::cmp::Reverse(*overlap), *id));
    all.truncate(k);
    all
}

fn check_index(index: &Index, items: &BTreeMap<u64, Sdr>, rng: &mut Rng, searches: &[Search]) {
    assert_eq!(index.len(), items.len());
    for k in [0, 1, 3, 10, 10_000] {
        let query = random_set(rng, index.bits(), 12);
        let expected = naive_top(items, &query, k);
        let pairs = |m: Vec<cortex::sdr::Match>| -> Vec<(u64, usize)> {
            m.iter().map(|m| (m.id, m.overlap)).collect()
        };
        assert_eq!(pairs(index.top_k(&query, k).unwrap()), expected);
        for search in searches {
            assert_eq!(
                pairs(index.top_k_by(&query, k, *search).unwrap()),
                expected,
                "{search:?}"
            );
        }
    }
}

#[test]
fn both_ways_of_searching_give_the_naive_answer_through_adds_and_removes() {
    let mut rng = Rng::new(14);
    let both = [Search::BruteForce, Search::Lists];
    for bits in [64, 100, 200] {
        let (mut index, mut items) = (Index::new(bits).unwrap(), BTreeMap::new());
        let e = index
            .top_k_by(&random_set(&mut rng, bits, 3), 1, Search::Lists)
            .unwrap_err();
        assert_eq!(e.kind(), ErrorKind::InvalidArgument);
        check_index(&index, &items, &mut rng, &both[..1]);
        for round in 0..600 {
            if round == 100 {
                index.keep_lists();
            }
            let id = rng.below(300) as u64;
            let weight = rng.below(15);
            let set = random_set(&mut rng, bits, weight);
            if let Some(there) = items.get(&id).cloned() {
                assert!(index.add(id, &set).is_err());
                assert_eq!(index.get(id), Some(there));
                if rng.below(2) == 0 {
                    assert!(index.remove(id));
                    items.remove(&id);
                }
            } else {
                assert!(!index.remove(id) && index.get(id).is_none());
                index.add(id, &set).unwrap();
                items.insert(id, set);
            }
            if round % 20 == 0 {
                check_index(
                    &index,
                    &items,
                    &mut rng,
                    &both[..1 + usize::from(round >= 100)],
                );
            }
        }
        let loaded = Index::load(&index.save()).unwrap();
        assert_eq!(loaded.save(), index.save());
        check_index(&loaded, &items, &mut rng, &both[..1]);
        let queries: Vec<Sdr> = (0..30).map(|_| random_set(&mut rng, bits, 9)).collect();
        let many = index.top_k_many(&queries, 4).unwrap();
        for (query, found) in queries.iter().zip(many) {
            assert_eq!(found, index.top_k(query, 4).unwrap());
        }
    }
}

#[test]
fn large_indexes_keep_lists_by_themselves() {
    let mut rng = Rng::new(15);
    let (mut index, mut items) = (Index::new(1024).unwrap(), BTreeMap::new());
    for id in 0..5000 {
        let set = random_set(&mut rng, 1024, 20);
        index.add(id * 7, &set).unwrap();
        items.insert(id * 7, set);
    }
    for id in (0..5000).step_by(3) {
        assert!(index.remove(id * 7));
        items.remove(&(id * 7));
    }
    check_index(
        &index,
        &items,
        &mut rng,
        &[Search::BruteForce, Search::Lists],
    );
    assert!(index.memory_bytes() >= index.len() * (128 + 80));
}

/// Puts a right checksum under changed bytes, so that what is behind it is tried.
fn reseal(bytes: &mut [u8]) {
    let n = bytes.len() - 4;
    let crc = crc32c::crc32c(&bytes[..n]);
    bytes[n..].copy_from_slice(&crc.to_le_bytes());
}

#[test]
fn damaged_indexes_are_refused() {
    let mut index = Index::new(100).unwrap();
    index
        .add(3, &Sdr::new(100, vec![1, 50, 99]).unwrap())
        .unwrap();
    index.add(9, &Sdr::new(100, vec![2]).unwrap()).unwrap();
    let good = index.save();
    assert_eq!(good.len(), 32 + (12 + 12) + (12 + 4) + 4);
    for cut in 0..good.len() {
        assert!(Index::load(&good[..cut]).is_err());
        let mut sealed = good[..cut].to_vec();
        if cut >= 4 {
            reseal(&mut sealed);
            assert!(Index::load(&sealed).is_err(), "cut at {cut}");
        }
    }
    for i in 0..good.len() {
        for bit in 0..8 {
            let mut bad = good.clone();
            bad[i] ^= 1 << bit;
            assert!(Index::load(&bad).is_err(), "bit {bit} of byte {i}");
        }
    }
    type Damage = fn(&mut Vec<u8>);
    let cases: &[(&str, ErrorKind, Damage)] = &[
        ("version", ErrorKind::Unsupported, |b| b[8] = 2),
        ("reserved", ErrorKind::Corrupt, |b| b[12] = 1),
        ("no bits", ErrorKind::LimitExceeded, |b| b[16] = 0),
        ("too many bits", ErrorKind::LimitExceeded, |b| {
            b[16..24].fill(0xff)
        }),
        ("too many items", ErrorKind::Corrupt, |b| {
            b[24..32].fill(0xff)
        }),
        ("one item more", ErrorKind::Corrupt, |b| b[24] = 3),
        ("one item less", ErrorKind::Corrupt, |b| b[24] = 1),
        ("an id twice", ErrorKind::Corrupt, |b| b[32] = 9),
        ("a weight beyond the end", ErrorKind::Corrupt, |b| {
            b[40..44].fill(0xff)
        }),
        ("a bit beyond the set", ErrorKind::Corrupt, |b| b[52] = 100),
        ("bits out of order", ErrorKind::Corrupt, |b| b[44] = 60),
    ];
    for (what, kind, damage) in cases {
        let mut bad = good.clone();
        damage(&mut bad);
        reseal(&mut bad);
        assert_eq!(Index::load(&bad).unwrap_err().kind(), *kind, "{what}");
    }
    // A few bytes that would unpack to gigabytes.
    let mut huge = good[..32].to_vec();
    huge[16..24].copy_from_slice(&(MAX_INDEX_BITS as u64).to_le_bytes());
    huge[24..32].copy_from_slice(&5000u64.to_le_bytes());
    for id in 0..5000u64 {
        huge.extend(id.to_le_bytes());
        huge.extend(0u32.to_le_bytes());
    }
    huge.extend([0; 4]);
    reseal(&mut huge);
    assert_eq!(
        Index::load(&huge).unwrap_err().kind(),
        ErrorKind::LimitExceeded
    );
    assert!(Index::new(0).is_err() && Index::new(MAX_INDEX_BITS + 1).is_err());
    assert!(index.add(1, &Sdr::new(99, vec![]).unwrap()).is_err());
    assert!(index.top_k(&Sdr::new(99, vec![]).unwrap(), 1).is_err());
}

proptest! {
    #[test]
    fn any_bytes_are_an_index_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200), head in any::<bool>()) {
        let mut all = bytes;
        if head && all.len() > 40 {
            let index = Index::new(64).unwrap().save();
            all[..24].copy_from_slice(&index[..24]);
            all[25..32].fill(0);
            reseal(&mut all);
        }
        if let Ok(index) = Index::load(&all) {
            prop_assert_eq!(index.save(), all);
        }
    }
}
