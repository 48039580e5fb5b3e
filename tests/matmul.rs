//! The streaming driver: one result whatever the threads and the scratch, in bounded memory.
mod common;

use std::path::Path;

use common::heap::{Counting, alone, peak_of};
use common::{Kind, Rng, weights};
use cortex::archive::{Archive, Writer};
use cortex::{Computed, DType, Dense, ErrorKind, MatmulOptions, Tensor};

#[global_allocator]
static HEAP: Counting = Counting;

const SPECS: &[&str] = &[
    "dense",
    "dense | shuffle | zstd(1)",
    "dense(type=f16)",
    "dense(type=bf16) | lz4",
    "int8",
    "int8 | zstd(1)",
    "int8(group=tensor, zero=asymmetric)",
    "int4",
    "int4(group=64, zero=asymmetric) | zstd(1)",
    "q(bits=3)",
    "q(bits=5, group=row) | rle",
    "q(bits=6)",
    "q(bits=7, group=128)",
    "mask",
    "mask(keep=30%) | zstd(1)",
    "mask(values=[int8]) | lz4",
    "mask(values=[mask(values=[int4 | gzip])])",
];

fn archive(path: &Path, dense: &Dense, specs: &[&str]) {
    let mut writer = Writer::create(path).unwrap();
    for spec in specs {
        let tensor = Tensor::compress(&dense.view(), spec).unwrap();
        writer.add(spec, &tensor).unwrap();
    }
    writer.finish().unwrap();
}

fn options(threads: usize, scratch_bytes: usize) -> MatmulOptions {
    MatmulOptions {
        threads,
        scratch_bytes,
        ..MatmulOptions::default()
    }
}

fn products(
    tensor: &Tensor,
    x: &[f32],
    g: &[f32],
    batch: usize,
    o: &MatmulOptions,
) -> [Vec<u32>; 2] {
    let mut y = vec![f32::NAN; batch * tensor.rows()];
    tensor.matmul(x, batch, &mut y, o).unwrap();
    let mut z = vec![f32::NAN; batch * tensor.cols()];
    tensor.matmul_t(g, batch, &mut z, o).unwrap();
    [y, z].map(|v| v.iter().map(|v| v.to_bits()).collect())
}

#[test]
fn threads_and_scratch_change_no_bit() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.cai");
    // Enough multiplications for threads to be used at batch 1 and 5, and odd sizes.
    let (rows, cols) = (1003, 601);
    let w = weights(Kind::Sparse, rows, cols, 1);
    let dense = Dense::from_slice(&w, &[rows, cols]).unwrap();
    archive(&path, &dense, SPECS);
    let pools: Vec<_> = [1, 2, 4]
        .map(|n| {
            rayon::ThreadPoolBuilder::new()
                .num_threads(n)
                .build()
                .unwrap()
        })
        .into();
    let mut rng = Rng::new(2);
    let mapped = Archive::open(&path).unwrap();
    let read = Archive::open_unmapped(&path).unwrap();
    for spec in SPECS {
        let owned = Tensor::compress(&dense.view(), spec).unwrap();
        let tensors = [
            mapped.tensor(spec).unwrap(),
            read.tensor(spec).unwrap(),
            owned,
        ];
        for batch in [1, 5] {
            let x: Vec<f32> = (0..batch * cols).map(|_| rng.gaussian()).collect();
            let g: Vec<f32> = (0..batch * rows).map(|_| rng.gaussian()).collect();
            let expected = products(&tensors[0], &x, &g, batch, &options(1, 32 << 20));
            for (pool, threads) in pools.iter().zip([1, 2, 4]) {
                for scratch in [1, 300_000, usize::MAX] {
                    let o = options(threads, scratch);
                    let found = pool.install(|| products(&tensors[0], &x, &g, batch, &o));
                    assert!(found == expected, "{spec} batch {batch} {o:?}");
                }
            }
            for tensor in &tensors[1..] {
                let found = products(tensor, &x, &g, batch, &MatmulOptions::default());
                assert!(found == expected, "{spec} batch {batch}");
            }
        }
    }
}

/// Besides the limit: what does not grow with the matrix. Queues and tasks of rayon take a
/// few KiB; allocators of coders in C are not counted here (zstd holds 160 KiB a thread).
const CONSTANT: usize = 64 << 10;

#[test]
fn products_keep_to_the_scratch_limit() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.cai");
    let n = 2048;
    let specs = [
        "dense",
        "int8",
        "int8 | zstd",
        "int4",
        "dense(type=f16) | shuffle | zstd",
        "mask",
        "mask(values=[int8]) | zstd",
    ];
    let w = weights(Kind::Sparse, n, n, 1);
    archive(&path, &Dense::from_slice(&w, &[n, n]).unwrap(), &specs);
    let mut half = Dense::zeros(DType::BF16, &[n, n]).unwrap();
    DType::BF16.from_f32(&w, half.bytes_mut());
    let half_path = folder.path().join("h.cai");
    archive(&half_path, &half, &["dense", "dense | shuffle | zstd"]);
    drop((w, half));

    let archives = [
        Archive::open(&path).unwrap(),
        Archive::open(&half_path).unwrap(),
    ];
    let limit = 1 << 20;
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(2)
        .build()
        .unwrap();
    for archive in &archives {
        for entry in archive.entries() {
            let tensor = archive.open_entry(entry).unwrap();
            for batch in [1, 8] {
                let x = vec![0.5f32; batch * n];
                let mut y = vec![0.0f32; batch * n];
                let o = options(0, limit);
                type Product = fn(
                    &Tensor,
                    &[f32],
                    usize,
                    &mut [f32],
                    &MatmulOptions,
                ) -> cortex::Result<Computed>;
                let all: [(&str, Product); 2] =
                    [("matmul", Tensor::matmul), ("matmul_t", Tensor::matmul_t)];
                for (name, product) in all {
                    let (peak, done) =
                        peak_of(|| pool.install(|| product(&tensor, &x, batch, &mut y, &o)));
                    done.unwrap();
                    let what = format!(
                        "{name} of {} {}, batch {batch}",
                        entry.dtype_name(),
                        entry.spec()
                    );
                    println!("{what}: {} KiB", peak >> 10);
                    assert!(peak <= limit + CONSTANT, "{what}: {peak} bytes");
                }
            }
        }
    }
}

#[test]
fn wrong_lengths_name_the_argument() {
    let _alone = alone();
    let w = weights(Kind::Gaussian, 6, 10, 1);
    let dense = Dense::from_slice(&w, &[6, 10]).unwrap();
    let o = MatmulOptions::default();
    for spec in SPECS {
        let tensor = Tensor::compress(&dense.view(), spec).unwrap().named("w");
        let try_it = |x: usize, batch: usize, y: usize, transposed: bool| {
            let (x, mut y) = (vec![1.0; x], vec![7.0; y]);
            let e = match transposed {
                false => tensor.matmul(&x, batch, &mut y, &o),
                true => tensor.matmul_t(&x, batch, &mut y, &o),
            };
            (e.err(), y)
        };
        for (x, batch, y, transposed, name) in [
            (19, 2, 12, false, "x"),
            (21, 2, 12, false, "x"),
            (0, 1, 6, false, "x"),
            (20, 2, 11, false, "y"),
            (20, 2, 0, false, "y"),
            (10, usize::MAX, 6, false, "x"),
            (10, usize::MAX / 4 + 1, 6, false, "x"),
            (20, 2, 20, true, "g"),
            (12, 2, 12, true, "y"),
            (12, 2, 21, true, "y"),
        ] {
            let (e, y) = try_it(x, batch, y, transposed);
            let e = e.unwrap_or_else(|| panic!("{spec}: {x} {batch} {name}"));
            assert_eq!(
                (e.kind(), e.tensor()),
                (ErrorKind::InvalidArgument, Some("w"))
            );
            assert!(e.message().starts_with(&format!("{name} holds ")), "{e}");
            assert!(y.iter().all(|v| *v == 7.0), "{spec}: outputs are untouched");
        }
        let (e, y) = try_it(0, 0, 0, false);
        assert!(e.is_none() && y.is_empty());
        // Windows of rows say what they want, too.
        let mut out = [0.0; 10];
        for rows in [0..2, 6..7, 5..7, 1..1] {
            let e = tensor.decode_rows_f32(rows, &mut out).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::InvalidArgument, "{e}");
        }
        #[allow(clippy::reversed_empty_ranges)]
        let backwards = tensor.decode_rows_f32(3..2, &mut []);
        assert_eq!(backwards.unwrap_err().kind(), ErrorKind::InvalidArgument);
        tensor.decode_rows_f32(5..6, &mut out).unwrap();
    }
}

#[test]
fn threads_share_a_tensor() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.cai");
    let w = weights(Kind::Sparse, 400, 300, 6);
    archive(&path, &Dense::from_slice(&w, &[400, 300]).unwrap(), SPECS);
    let archive = Archive::open(&path).unwrap();
    let tensors: Vec<Tensor> = SPECS.iter().map(|s| archive.tensor(s).unwrap()).collect();
    // A tensor outlives the archive that it came from.
    drop(archive);
    std::fs::remove_file(&path).unwrap();
    let x = vec![0.25f32; 300];
    let g = vec![0.5f32; 400];
    let run = || -> Vec<[Vec<u32>; 2]> {
        let o = MatmulOptions::default();
        tensors.iter().map(|t| products(t, &x, &g, 1, &o)).collect()
    };
    let expected = run();
    std::thread::scope(|scope| {
        let others: Vec<_> = (0..4).map(|_| scope.spawn(run)).collect();
        for other in others {
            assert!(other.join().unwrap() == expected);
        }
    });
}
