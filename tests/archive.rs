//! The archive: what is written comes back, and nothing that a file says is believed.
mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::cai;
use common::{Kind, Rng, weights};
use cortex::archive::{Archive, Writer};
use cortex::{DType, Dense, Error, ErrorKind, MatmulOptions, Tensor};
use serde_json::{Value, json};

/// Specs for floats and, where lossless, for every dtype.
const SPECS: &[&str] = &[
    "dense",
    "dense(type=f16)",
    "dense(type=bf16) | shuffle | zstd(1)",
    "dense | shuffle | zstd",
    "dense | bitshuffle | lz4",
    "dense | delta | gzip",
    "dense | rle",
    "int8",
    "int8 | zstd",
    "int8(group=row)",
    "int4(group=64, search=lsq) | zstd(1)",
    "int4(zero=asymmetric)",
    "q(bits=3, group=tensor, zero=asymmetric)",
    "q(bits=5)",
    "mask",
    "mask | zstd",
    "mask(keep=20%)",
    "mask(threshold=0.01, values=[int4])",
    "mask(values=[int8 | zstd]) | lz4",
    "mask(values=[mask(values=[q(bits=6)])])",
];

const SHAPES: &[&[usize]] = &[
    &[],
    &[0],
    &[3, 0],
    &[0, 4],
    &[1],
    &[9],
    &[1, 33],
    &[33, 1],
    &[17, 70],
    &[4, 3, 5],
];

fn dense(dtype: DType, shape: &[usize], seed: u64) -> Dense {
    let n: usize = shape.iter().product();
    let mut values = weights(Kind::Sparse, 1, n.max(1), seed);
    values.truncate(n);
    if !dtype.is_float() {
        values
            .iter_mut()
            .for_each(|v| *v = (*v * 20.0).abs().round());
    }
    let mut out = Dense::zeros(dtype, shape).unwrap();
    dtype.from_f32(&values, out.bytes_mut());
    out
}

fn compress(dense: &Dense, spec: &str) -> Tensor {
    Tensor::compress(&dense.view(), spec).unwrap_or_else(|e| panic!("{spec}: {e}"))
}

/// Every tensor of the round trips, named.
fn collection() -> Vec<(String, Dense, Tensor)> {
    let mut all = Vec::new();
    for dtype in DType::ALL {
        for spec in SPECS {
            let lossless = cortex::form::is_lossless(&cortex::form::parse(spec).unwrap()).unwrap();
            if !lossless && !dtype.is_float() {
                continue;
            }
            for shape in SHAPES {
                let dense = dense(dtype, shape, all.len() as u64);
                let tensor = compress(&dense, spec);
                all.push((format!("{dtype} {spec} {shape:?}"), dense, tensor));
            }
        }
    }
    all
}

#[test]
fn everything_comes_back_mapped_and_by_plain_reads() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.cai");
    let all = collection();
    let mut writer = Writer::create(&path).unwrap();
    for (name, _, tensor) in &all {
        writer.add(name, tensor).unwrap();
    }
    let (first, last) = (&all[0].0, &all[all.len() - 1].0);
    writer.alias("tied", last).unwrap();
    writer.alias("also \"tied\" ü", first).unwrap();
    let metadata: BTreeMap<String, String> = [("b", "2"), ("a", "ü\n"), ("c", "")]
        .map(|(k, v)| (k.into(), v.into()))
        .into();
    writer.set_metadata(&metadata);
    writer.set_metadata(&[("c".to_owned(), "3".to_owned())].into());
    let summary = writer.finish().unwrap();
    let size = std::fs::metadata(&path).unwrap().len();
    assert_eq!(summary.file_bytes, size);

    for archive in [
        Archive::open(&path).unwrap(),
        Archive::open_unmapped(&path).unwrap(),
    ] {
        assert_eq!(archive.verify().len(), 0);
        assert_eq!(archive.file_bytes(), size);
        assert_eq!(archive.index_bytes(), summary.index_bytes);
        let stored: u64 = archive.entries().iter().map(|e| e.stored_bytes()).sum();
        assert_eq!(
            stored + archive.index_bytes() + archive.header_bytes(),
            size
        );
        let found: BTreeMap<_, _> = archive.metadata().collect();
        assert_eq!(found, [("a", "ü\n"), ("b", "2"), ("c", "3")].into());
        // In the order written.
        let names: Vec<_> = archive.entries().iter().map(|e| e.name()).collect();
        let expected: Vec<_> = all.iter().map(|t| t.0.as_str()).collect();
        assert_eq!(names, expected);
        assert_eq!(archive.entry("tied").unwrap().name(), last);
        assert_eq!(
            archive.tensor("also \"tied\" ü").unwrap().name(),
            Some(&first[..])
        );
        for ((name, dense, tensor), entry) in all.iter().zip(archive.entries()) {
            let back = archive.tensor(name).unwrap();
            assert_eq!(
                (back.dtype(), back.shape()),
                (dense.dtype(), dense.shape()),
                "{name}"
            );
            assert_eq!(back.spec(), tensor.spec(), "{name}");
            assert_eq!(back.error(), tensor.error(), "{name}");
            assert_eq!(back.stored_bytes(), tensor.stored_bytes(), "{name}");
            assert_eq!(entry.stored_bytes(), tensor.stored_bytes(), "{name}");
            assert_eq!(entry.raw_bytes(), dense.bytes().len() as u64, "{name}");
            let decoded = back.decompress().unwrap();
            assert_eq!(
                decoded.bytes(),
                tensor.decompress().unwrap().bytes(),
                "{name}"
            );
            if tensor.error().relative == 0.0 && cortex::form::is_lossless(tensor.spec()).unwrap() {
                assert_eq!(decoded.bytes(), dense.bytes(), "{name}");
            }
            let x = vec![0.5; 2 * back.cols()];
            let g = vec![0.25; 2 * back.rows()];
            let product = |t: &Tensor| {
                let mut y = vec![0.0; 2 * t.rows()];
                t.matmul(&x, 2, &mut y, &MatmulOptions::default()).unwrap();
                let mut z = vec![0.0; 2 * t.cols()];
                t.matmul_t(&g, 2, &mut z, &MatmulOptions::default())
                    .unwrap();
                (y, z)
            };
            // Compared as text: NaN would never come of these, −0 may.
            assert_eq!(
                format!("{:?}", product(&back)),
                format!("{:?}", product(tensor)),
                "{name}"
            );
        }
        let e = archive.tensor("f32 dens []").unwrap_err();
        assert_eq!(e.kind(), ErrorKind::InvalidArgument);
        assert!(e.message().contains("did you mean"), "{e}");
    }
}

#[test]
fn windows_of_rows_read_their_chunks_only() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.cai");
    // Chunks of 256 KiB: a dozen for each.
    let w = weights(Kind::Gaussian, 700, 1100, 4);
    let dense = Dense::from_slice(&w, &[700, 1100]).unwrap();
    let mut writer = Writer::create(&path).unwrap();
    for spec in ["dense", "dense | shuffle | zstd(1)"] {
        writer.add(spec, &compress(&dense, spec)).unwrap();
    }
    writer.finish().unwrap();
    // Damage in the middle is met by the windows that touch it.
    let mut bytes = std::fs::read(&path).unwrap();
    let (_, index, _) = cai::split(&bytes);
    let at = index["tensors"][0]["form"]["parts"][0]["buffer"]["chunks"][6][0]
        .as_u64()
        .unwrap();
    bytes[at as usize + 100] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    for archive in [
        Archive::open(&path).unwrap(),
        Archive::open_unmapped(&path).unwrap(),
    ] {
        let tensor = archive.tensor("dense").unwrap();
        let mut row = vec![0.0f32; 1100];
        let good: Vec<bool> = (0..700)
            .map(|r| tensor.decode_rows_f32(r..r + 1, &mut row).is_ok())
            .collect();
        let bad = good.iter().filter(|g| !**g).count();
        assert!(
            (50..70).contains(&bad),
            "{bad} rows of 700 in one chunk of 256 KiB"
        );
        let e = tensor.decompress().unwrap_err();
        assert_eq!(
            (e.kind(), e.tensor(), e.offset()),
            (ErrorKind::Corrupt, Some("dense"), Some(at))
        );
        let errors = archive.verify();
        assert_eq!(errors.len(), 1);
        assert_eq!(
            (errors[0].tensor(), errors[0].offset()),
            (Some("dense"), Some(at))
        );
    }
}

#[test]
fn an_archive_of_nothing_is_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.cai");
    Writer::create(&path).unwrap().finish().unwrap();
    let archive = Archive::open(&path).unwrap();
    assert!(archive.entries().is_empty() && archive.aliases().is_empty());
    assert!(archive.verify().is_empty());
    assert!(archive.tensor("a").is_err());
}

#[test]
fn writers_refuse_names_that_are_taken_and_targets_that_are_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.cai");
    let tensor = compress(&dense(DType::F32, &[2, 3], 1), "dense");
    let mut writer = Writer::create(&path).unwrap();
    writer.add("a", &tensor).unwrap();
    writer.alias("b", "a").unwrap();
    for e in [
        writer.add("a", &tensor).unwrap_err(),
        writer.add("b", &tensor).unwrap_err(),
        writer.alias("a", "a").unwrap_err(),
        writer.alias("c", "d").unwrap_err(),
        writer.alias("c", "b").unwrap_err(),
    ] {
        assert_eq!(e.kind(), ErrorKind::InvalidArgument, "{e}");
        assert!(e.tensor().is_some(), "{e}");
    }
    assert_eq!(
        writer.add(&"n".repeat(5000), &tensor).unwrap_err().kind(),
        ErrorKind::LimitExceeded
    );
    // What was refused has left no trace.
    writer.finish().unwrap();
    let archive = Archive::open(&path).unwrap();
    assert_eq!(archive.entries().len(), 1);
    assert_eq!(archive.aliases(), [("b".to_owned(), "a".to_owned())]);

    let missing = Writer::create(&folder.path().join("no").join("m.cai")).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::Io);
    let e = Writer::create(folder.path()).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::InvalidArgument);
}

#[test]
fn a_writer_that_is_dropped_leaves_the_old_file_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.cai");
    let tensor = compress(&dense(DType::F32, &[200, 300], 1), "int8");
    for old in [None, Some(b"old".to_vec())] {
        if let Some(old) = &old {
            std::fs::write(&path, old).unwrap();
        }
        let mut writer = Writer::create(&path).unwrap();
        writer.add("a", &tensor).unwrap();
        drop(writer);
        assert_eq!(std::fs::read(&path).ok(), old);
        let files = std::fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(files, usize::from(old.is_some()));
    }
}

/// What the nesting of specs allows, the archive must hold.
#[test]
fn forms_nest_as_deep_as_specs_do() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.cai");
    let dense = dense(DType::F32, &[40, 30], 3);
    for depth in 1..=12 {
        let mut spec = "mask".to_owned();
        for _ in 1..depth {
            spec = format!("mask(values=[{spec}])");
        }
        let tensor = match Tensor::compress(&dense.view(), &spec) {
            Ok(tensor) => tensor,
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::LimitExceeded, "{e}");
                assert!(depth > 6, "{e}");
                continue;
            }
        };
        let mut writer = Writer::create(&path).unwrap();
        writer.add("a", &tensor).unwrap();
        writer.finish().unwrap();
        let back = Archive::open(&path).unwrap().tensor("a").unwrap();
        assert_eq!(back.decompress().unwrap().bytes(), dense.bytes(), "{depth}");
    }
}

fn sample_archive(path: &Path) {
    let mut writer = Writer::create(path).unwrap();
    for (i, spec) in SPECS.iter().enumerate() {
        let w = weights(Kind::ALL[i % 4], 150, 310, i as u64);
        let dense = Dense::from_slice(&w, &[150, 310]).unwrap();
        writer.add(spec, &compress(&dense, spec)).unwrap();
    }
    for spec in ["lossless", "auto(error=1%)", "auto(bits=5)"] {
        let w = weights(Kind::Gaussian, 60, 128, 9);
        let dense = Dense::from_slice(&w, &[60, 128]).unwrap();
        writer.add(spec, &compress(&dense, spec)).unwrap();
    }
    writer.set_metadata(&[("k".to_owned(), "v".to_owned())].into());
    writer.finish().unwrap();
}

/// Where a child process of this test writes its archive.
const CHILD: &str = "CORTEX_TEST_ARCHIVE_CHILD";

#[test]
fn bytes_depend_on_neither_threads_nor_instruction_set() {
    if let Some(path) = std::env::var_os(CHILD) {
        sample_archive(Path::new(&path));
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.cai");
    sample_archive(&path);
    let expected = std::fs::read(&path).unwrap();
    for threads in [1, 2, 4] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        pool.build().unwrap().install(|| sample_archive(&path));
        assert!(
            std::fs::read(&path).unwrap() == expected,
            "{threads} threads"
        );
    }
    for disabled in ["avx512", "avx2"] {
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "bytes_depend_on_neither_threads_nor_instruction_set",
            ])
            .env("CORTEX_DISABLE_CPU", disabled)
            .env(CHILD, &path)
            .stdout(std::process::Stdio::null())
            .status()
            .unwrap();
        assert!(status.success());
        assert!(
            std::fs::read(&path).unwrap() == expected,
            "without {disabled}"
        );
    }
}

/// A small archive with every kind of part: several tensors, packs, an alias.
fn small() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.cai");
    let mut writer = Writer::create(&path).unwrap();
    for spec in ["dense", "dense | shuffle | zstd", "int8 | gzip", "int4"] {
        writer
            .add(spec, &compress(&dense(DType::F32, &[5, 33], 2), spec))
            .unwrap();
    }
    let sparse = dense(DType::F32, &[9, 40], 3);
    writer
        .add(
            "mask",
            &compress(&sparse, "mask(values=[int8 | lz4]) | rle"),
        )
        .unwrap();
    writer.alias("alias", "int4").unwrap();
    writer.finish().unwrap();
    std::fs::read(path).unwrap()
}

/// Writes `bytes` to a file of its own and opens it both ways, with everything in it used.
/// Errors of opening, of verifying and of using; only a panic or a long time is wrong.
struct Tried {
    open: Option<Error>,
    verify: Vec<Error>,
    tensors: Vec<(String, Result<Vec<u8>, Error>)>,
}

struct Bench {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self {
            path: folder.path().join("m.cai"),
            _folder: folder,
        }
    }

    fn try_bytes(&self, bytes: &[u8]) -> Tried {
        std::fs::write(&self.path, bytes).unwrap();
        let begun = Instant::now();
        let tried = Self::try_archive(Archive::open(&self.path));
        let unmapped = Self::try_archive(Archive::open_unmapped(&self.path));
        assert!(
            begun.elapsed() < Duration::from_secs(5),
            "took {:?}",
            begun.elapsed()
        );
        let kind = |t: &Tried| t.open.as_ref().map(Error::kind);
        assert_eq!(kind(&tried), kind(&unmapped));
        assert_eq!(tried.verify.len(), unmapped.verify.len());
        for ((name, a), (_, b)) in tried.tensors.iter().zip(&unmapped.tensors) {
            assert_eq!(a.as_ref().ok(), b.as_ref().ok(), "{name}");
        }
        tried
    }

    fn try_archive(opened: cortex::Result<Archive>) -> Tried {
        let archive = match opened {
            Ok(archive) => archive,
            Err(e) => {
                return Tried {
                    open: Some(e),
                    verify: vec![],
                    tensors: vec![],
                };
            }
        };
        let tensors = archive
            .entries()
            .iter()
            .map(|entry| {
                let used = archive.open_entry(entry).and_then(|t| {
                    // Not what claims to be huge: that is for the tests of limits.
                    let small = t.raw_bytes() < 1 << 24;
                    if small && t.rows() < 1 << 20 && t.cols() < 1 << 20 {
                        let x = vec![1.0; t.cols()];
                        let mut y = vec![0.0; t.rows()];
                        t.matmul(&x, 1, &mut y, &MatmulOptions::default())?;
                        let mut z = vec![0.0; t.cols()];
                        t.matmul_t(&y, 1, &mut z, &MatmulOptions::default())?;
                    }
                    t.decompress().map(|d| d.bytes().to_vec())
                });
                (entry.name().to_owned(), used)
            })
            .collect();
        Tried {
            open: None,
            verify: archive.verify(),
            tensors,
        }
    }
}

/// What damage may be called.
fn is_refusal(e: &Error) -> bool {
    matches!(
        e.kind(),
        ErrorKind::Corrupt
            | ErrorKind::LimitExceeded
            | ErrorKind::Unsupported
            | ErrorKind::OutOfMemory
    )
}

#[test]
fn a_cut_at_every_length_is_an_error() {
    let bytes = small();
    let bench = Bench::new();
    for len in 0..bytes.len() {
        let e = bench.try_bytes(&bytes[..len]).open.expect("cut short");
        assert_eq!(e.kind(), ErrorKind::Corrupt, "{len}: {e}");
        assert!(e.message().contains("m.cai"), "{e}");
    }
    // And a byte too many.
    let longer = [&bytes[..], &[0]].concat();
    assert!(bench.try_bytes(&longer).open.is_some());
    assert!(bench.try_bytes(&bytes).open.is_none());
}

#[test]
fn a_flipped_byte_anywhere_is_found() {
    let good = small();
    let bench = Bench::new();
    let originals: Vec<_> = bench
        .try_bytes(&good)
        .tensors
        .into_iter()
        .map(|(n, t)| (n, t.unwrap()))
        .collect();
    let mut rng = Rng::new(7);
    for at in 0..good.len() {
        for change in [0xff, 1 << rng.below(8)] {
            let mut bytes = good.clone();
            bytes[at] ^= change;
            let tried = bench.try_bytes(&bytes);
            if let Some(e) = &tried.open {
                assert!(is_refusal(e), "{at}: {e}");
                continue;
            }
            assert!(
                !tried.verify.is_empty(),
                "byte {at} ^ {change:#x} goes unnoticed"
            );
            for e in &tried.verify {
                assert_eq!(e.kind(), ErrorKind::Corrupt, "{e}");
                assert!(e.offset().is_some(), "{e}");
            }
            // What decodes all the same is what was stored.
            for ((name, found), (_, original)) in tried.tensors.iter().zip(&originals) {
                match found {
                    Ok(found) => assert!(found == original, "{name} changed with byte {at}"),
                    Err(e) => assert_eq!(e.tensor(), Some(&name[..]), "{e}"),
                }
            }
        }
    }
}

/// Lies that are put into an index, everything around it right.
fn forge(change: impl Fn(&mut Value)) -> Tried {
    let (body, mut index, _) = cai::split(&small());
    change(&mut index);
    Bench::new().try_bytes(&cai::join(&body, index.to_string().as_bytes()))
}

/// The index of a tensor in `small`.
const DENSE: usize = 0;
const ZSTD: usize = 1;
const GZIP: usize = 2;
const INT4: usize = 3;
const MASK: usize = 4;

fn buffer(index: &mut Value, tensor: usize) -> &mut Value {
    &mut index["tensors"][tensor]["form"]["parts"][0]["buffer"]
}

/// The one error that a lie leads to: at opening, or else of the tensor with the lie,
/// while the others still decode.
fn the_error(tried: Tried, tensor: usize, what: &str) -> Error {
    if let Some(e) = tried.open {
        return e;
    }
    let mut found = None;
    for (i, (name, result)) in tried.tensors.into_iter().enumerate() {
        match result {
            Ok(_) => assert_ne!(i, tensor, "{what}: '{name}' decodes"),
            Err(e) => {
                assert_eq!(i, tensor, "{what}: {e}");
                assert_eq!(e.tensor(), Some(&name[..]), "{what}: {e}");
                found = Some(e);
            }
        }
    }
    assert!(!tried.verify.is_empty(), "{what}: verify finds nothing");
    found.unwrap_or_else(|| panic!("{what}: no error"))
}

fn refused(kind: ErrorKind, tensor: usize, what: &str, change: impl Fn(&mut Value)) -> Error {
    let e = the_error(forge(change), tensor, what);
    assert_eq!(e.kind(), kind, "{what}: {e}");
    e
}

const CORRUPT: ErrorKind = ErrorKind::Corrupt;
const LIMIT: ErrorKind = ErrorKind::LimitExceeded;
const UNSUPPORTED: ErrorKind = ErrorKind::Unsupported;

#[test]
fn the_forger_itself_makes_good_files() {
    let tried = forge(|_| {});
    assert!(tried.open.is_none() && tried.verify.is_empty());
    assert!(tried.tensors.iter().all(|(_, t)| t.is_ok()));
    // Fields of a newer minor version are passed over.
    let tried = forge(|i| {
        i["new"] = json!({"x": [1, {}]});
        i["tensors"][0]["new"] = json!(1);
        i["tensors"][0]["form"]["new"] = json!(1);
        buffer(i, INT4)["new"] = json!("x");
        i["metadata"] = json!({"text": "t", "number": 1, "list": []});
    });
    assert!(tried.open.is_none() && tried.verify.is_empty());
}

#[test]
fn lengths_and_offsets_that_lie_are_refused() {
    let named = |e: &Error| assert!(e.tensor().is_some(), "{e}");
    for bytes in [u64::MAX, (1 << 46) + 1, u64::MAX / 2, 1 << 63] {
        for tensor in [DENSE, GZIP, MASK] {
            let e = refused(LIMIT, tensor, "raw length", |i| {
                buffer(i, tensor)["bytes"] = bytes.into()
            });
            named(&e);
        }
    }
    for bytes in [0, 1, 659, 661, 1u64 << 40] {
        let e = refused(CORRUPT, DENSE, "raw length", |i| {
            buffer(i, DENSE)["bytes"] = bytes.into()
        });
        named(&e);
    }
    for chunk in [0u64, 1, 659, (64 << 20) + 1, u64::MAX] {
        let kind = match chunk {
            1 | 659 => CORRUPT,
            _ => LIMIT,
        };
        named(&refused(kind, DENSE, "chunk length", |i| {
            buffer(i, DENSE)["chunk"] = chunk.into()
        }));
    }
    for width in [0u64, 3, 16, u64::MAX] {
        named(&refused(CORRUPT, ZSTD, "width", |i| {
            buffer(i, ZSTD)["width"] = width.into()
        }));
    }
    // The number of chunks.
    refused(CORRUPT, DENSE, "no chunk", |i| {
        buffer(i, DENSE)["chunks"] = json!([])
    });
    refused(CORRUPT, DENSE, "a chunk more", |i| {
        let chunks = buffer(i, DENSE)["chunks"].as_array_mut().unwrap();
        let mut more = chunks[0].clone();
        more[1] = 0.into();
        chunks.push(more);
    });
    // Where chunks lie. The data begins at 64 and ends at the index.
    let data_end = cai::split(&small()).0.len() as u64;
    let total = small().len() as u64;
    for offset in [
        0,
        1,
        63,
        65,
        100,
        data_end,
        data_end - 64,
        total - 64,
        total,
        u64::MAX,
        u64::MAX - 63,
    ] {
        let e = refused(CORRUPT, DENSE, "offset", |i| {
            buffer(i, DENSE)["chunks"][0][0] = offset.into()
        });
        assert!(e.offset().is_some(), "{e}");
    }
    for len in [0, 1, 659, 661, data_end, total, u64::MAX, u64::MAX - 63] {
        refused(CORRUPT, DENSE, "stored length", |i| {
            buffer(i, DENSE)["chunks"][0][1] = len.into()
        });
        refused(CORRUPT, ZSTD, "stored length", |i| {
            buffer(i, ZSTD)["chunks"][0][1] = len.into()
        });
    }
    // Two tensors over the same bytes.
    let e = refused(CORRUPT, DENSE, "overlap", |i| {
        let other = buffer(i, DENSE)["chunks"][0].clone();
        let mut chunk = buffer(i, INT4)["chunks"][0].clone();
        chunk[0] = other[0].clone();
        buffer(i, INT4)["chunks"][0] = chunk;
    });
    assert!(e.message().contains("overlap"), "{e}");
    // A gap: bytes that belong to no tensor are found by verify.
    let tried = forge(|i| {
        i["tensors"].as_array_mut().unwrap().remove(INT4);
        i["aliases"] = json!([]);
    });
    assert!(tried.open.is_none() && tried.verify.len() == 1);
    assert!(tried.verify[0].message().contains("belong to no tensor"));
    // Raw for coded and coded for raw; a wrong checksum.
    refused(CORRUPT, DENSE, "coded without packs", |i| {
        buffer(i, DENSE)["chunks"][0][3] = 1.into()
    });
    refused(CORRUPT, ZSTD, "coded called raw", |i| {
        buffer(i, ZSTD)["chunks"][0][3] = 0.into()
    });
    let e = refused(CORRUPT, GZIP, "checksum", |i| {
        let crc = &mut buffer(i, GZIP)["chunks"][0][2];
        *crc = (crc.as_u64().unwrap() ^ 1).into();
    });
    assert!(
        e.message().contains("checksum") && e.offset().is_some(),
        "{e}"
    );
}

#[test]
fn names_of_a_newer_version_refuse_their_tensor_only() {
    for (what, e) in [
        (
            "kind",
            refused(UNSUPPORTED, INT4, "kind", |i| {
                i["tensors"][INT4]["form"]["kind"] = "hologram".into()
            }),
        ),
        (
            "dtype",
            refused(UNSUPPORTED, DENSE, "dtype", |i| {
                i["tensors"][DENSE]["dtype"] = "f8".into()
            }),
        ),
        (
            "pack",
            refused(UNSUPPORTED, ZSTD, "pack", |i| {
                buffer(i, ZSTD)["packs"] = "shuffle | brotli".into()
            }),
        ),
        (
            "option",
            refused(UNSUPPORTED, ZSTD, "option", |i| {
                buffer(i, ZSTD)["packs"] = "zstd(window=9)".into()
            }),
        ),
        (
            "spec",
            refused(UNSUPPORTED, INT4, "spec", |i| {
                i["tensors"][INT4]["spec"] = "int4(new=1)".into()
            }),
        ),
    ] {
        let word = match what {
            "kind" => "hologram",
            "dtype" => "f8",
            "pack" => "brotli",
            "option" => "window",
            _ => "int4(new=1)",
        };
        assert!(e.message().contains(word), "{e}");
        assert!(e.tensor().is_some(), "{e}");
    }
    refused(UNSUPPORTED, MASK, "nested kind", |i| {
        i["tensors"][MASK]["form"]["parts"][2]["form"]["kind"] = "x".into();
    });
    refused(UNSUPPORTED, ZSTD, "many packs", |i| {
        buffer(i, ZSTD)["packs"] = ["delta"; 9].join(" | ").into();
    });
    refused(UNSUPPORTED, ZSTD, "no packs at all", |i| {
        buffer(i, ZSTD)["packs"] = "|||".into()
    });
}

#[test]
fn shapes_that_lie_are_refused() {
    for shape in [
        json!([1u64 << 40, 1u64 << 40]),
        json!([u64::MAX, 2]),
        json!([u64::MAX]),
        json!(vec![1; 17]),
        json!([1u64 << 46]),
    ] {
        let e = refused(LIMIT, DENSE, "shape", |i| {
            i["tensors"][DENSE]["shape"] = shape.clone()
        });
        assert_eq!(e.tensor(), Some("dense"));
    }
    for tensor in [DENSE, ZSTD, GZIP, INT4, MASK] {
        for shape in [
            json!([]),
            json!([0]),
            json!([4, 33]),
            json!([33, 5, 2]),
            json!([1u64 << 40]),
        ] {
            refused(CORRUPT, tensor, "other shape", |i| {
                i["tensors"][tensor]["shape"] = shape.clone();
            });
        }
    }
    // Nothing beside something immense has rows or columns that fit no size.
    for shape in [
        json!([0, u64::MAX]),
        json!([u64::MAX, 0]),
        json!([0, u64::MAX, u64::MAX]),
    ] {
        for tensor in [DENSE, GZIP, INT4, MASK] {
            refused(LIMIT, tensor, "empty and immense", |i| {
                i["tensors"][tensor]["shape"] = shape.clone();
            });
        }
    }
    for shape in [
        json!([-1]),
        json!([1.5]),
        json!("x"),
        json!(null),
        json!([1e30]),
    ] {
        refused(CORRUPT, DENSE, "no shape", |i| {
            i["tensors"][DENSE]["shape"] = shape.clone()
        });
    }
}

#[test]
fn parameters_that_lie_are_refused() {
    let q = |key: &str, value: Value| {
        let e = refused(CORRUPT, INT4, key, |i| {
            i["tensors"][INT4]["form"]["params"][key] = value.clone()
        });
        assert!(e.message().contains(key), "{key} {value}: {e}");
    };
    for bits in [
        json!(0),
        json!(1),
        json!(9),
        json!(-4),
        json!(4.5),
        json!(u64::MAX),
        json!("4"),
        json!(null),
    ] {
        q("bits", bits);
    }
    for group in [
        json!(1),
        json!(7),
        json!(31),
        json!(34),
        json!(256),
        json!(u64::MAX),
        json!(-32),
    ] {
        q("group", group);
    }
    // Right in themselves, wrong for the bytes there.
    for (key, value) in [
        ("bits", json!(5)),
        ("group", json!(0)),
        ("group", json!(33)),
        ("zeros", json!(true)),
    ] {
        refused(CORRUPT, INT4, key, |i| {
            i["tensors"][INT4]["form"]["params"][key] = value.clone()
        });
    }
    for bad in [
        json!(null),
        json!("NaN"),
        json!(1e300),
        json!(-1e39),
        json!([]),
    ] {
        q("multiplier", bad.clone());
        q("offset", bad);
    }
    q("zeros", json!(1));
    let gone = |key: &str| {
        let e = refused(CORRUPT, INT4, key, |i| {
            i["tensors"][INT4]["form"]["params"]
                .as_object_mut()
                .unwrap()
                .remove(key);
        });
        assert!(e.message().contains("missing"), "{e}");
    };
    ["bits", "group", "zeros", "multiplier", "offset"]
        .into_iter()
        .for_each(gone);
    // Numbers that JSON can write and f64 cannot hold.
    let (body, index, _) = cai::split(&small());
    let text = index.to_string();
    let at = text.find("\"multiplier\":").unwrap() + "\"multiplier\":".len();
    let end = at + text[at..].find(',').unwrap();
    for bad in ["1e400", "-1e400", "NaN", "Infinity", "1e99999999999"] {
        let text = format!("{}{bad}{}", &text[..at], &text[end..]);
        let tried = Bench::new().try_bytes(&cai::join(&body, text.as_bytes()));
        assert_eq!(tried.open.expect(bad).kind(), CORRUPT);
    }
    // Multipliers that are absurd and finite give absurd numbers, no more.
    for odd in [0.0, -1.0, 1e-45, 3e38] {
        let tried = forge(|i| i["tensors"][INT4]["form"]["params"]["multiplier"] = odd.into());
        assert!(tried.tensors.iter().all(|(_, t)| t.is_ok()));
    }
    for bad in [json!("f32"), json!("i8"), json!("x"), json!(1)] {
        refused(CORRUPT, DENSE, "type", |i| {
            i["tensors"][DENSE]["form"]["params"]["type"] = bad.clone()
        });
    }
    // Quantised integers.
    refused(CORRUPT, INT4, "dtype", |i| {
        i["tensors"][INT4]["dtype"] = "i32".into()
    });
}

#[test]
fn parts_that_are_wrong_are_refused() {
    let at = |tensor: usize| format!("/tensors/{tensor}/form/parts");
    refused(CORRUPT, DENSE, "no parts", |i| {
        *i.pointer_mut(&at(DENSE)).unwrap() = json!([])
    });
    refused(CORRUPT, DENSE, "another name", |i| {
        i.pointer_mut(&at(DENSE)).unwrap()[0]["name"] = "tiles".into();
    });
    let e = refused(CORRUPT, DENSE, "buffer and form", |i| {
        let form = i["tensors"][INT4]["form"].clone();
        i.pointer_mut(&at(DENSE)).unwrap()[0]["form"] = form;
    });
    assert_eq!(e.tensor(), Some("dense"));
    refused(CORRUPT, DENSE, "neither", |i| {
        i.pointer_mut(&at(DENSE)).unwrap()[0]
            .as_object_mut()
            .unwrap()
            .remove("buffer");
    });
    refused(CORRUPT, MASK, "a form for a buffer", |i| {
        let parts = i.pointer_mut(&at(MASK)).unwrap();
        let form = parts[2]["form"].clone();
        parts[0] = json!({"name": "mask", "form": form});
    });
    refused(CORRUPT, MASK, "a buffer for a form", |i| {
        let parts = i.pointer_mut(&at(MASK)).unwrap();
        let buffer = parts[1]["buffer"].clone();
        parts[2] = json!({"name": "values", "buffer": buffer});
        // Not twice the same bytes.
        parts.as_array_mut().unwrap().remove(1);
    });
    refused(UNSUPPORTED, MASK, "nested without dtype", |i| {
        let parts = i.pointer_mut(&at(MASK)).unwrap();
        parts[2]["form"].as_object_mut().unwrap().remove("dtype");
    });
    refused(CORRUPT, MASK, "nested of another dtype", |i| {
        i.pointer_mut(&at(MASK)).unwrap()[2]["form"]["dtype"] = "f16".into();
    });
    for shape in [json!([]), json!([256]), json!([2, 256]), json!([1, 255])] {
        refused(CORRUPT, MASK, "nested of another shape", |i| {
            i.pointer_mut(&at(MASK)).unwrap()[2]["form"]["shape"] = shape.clone();
        });
    }
}

#[test]
fn names_and_aliases_that_lie_are_refused() {
    let e = refused(CORRUPT, DENSE, "same name", |i| {
        i["tensors"][INT4]["name"] = "dense".into()
    });
    assert_eq!(e.tensor(), Some("dense"));
    for (aliases, name) in [
        (json!([["a", "nothing"]]), "a"),
        (json!([["a", "a"]]), "a"),
        (json!([["a", "b"], ["b", "a"]]), "a"),
        (json!([["a", "int4"], ["a", "dense"]]), "a"),
        (json!([["dense", "int4"]]), "dense"),
    ] {
        let e = refused(CORRUPT, DENSE, "alias", |i| i["aliases"] = aliases.clone());
        assert_eq!(e.tensor(), Some(name), "{e}");
    }
    let long = "n".repeat(4097);
    refused(LIMIT, DENSE, "long name", |i| {
        i["tensors"][DENSE]["name"] = long.clone().into()
    });
    refused(LIMIT, DENSE, "long alias", |i| {
        i["aliases"] = json!([[long, "int4"]])
    });
}

#[test]
fn depth_is_bounded() {
    // Forms inside forms.
    for depth in [9, 20, 40, 100, 10_000] {
        let (body, index, _) = cai::split(&small());
        let leaf = index["tensors"][DENSE]["form"].to_string();
        let open = r#"{"kind":"mask","dtype":"f32","shape":[1],"parts":[{"name":"values","form":"#;
        let form = format!("{}{leaf}{}", open.repeat(depth), "}]}".repeat(depth));
        let text = index.to_string().replacen(&leaf, &form, 1);
        let tried = Bench::new().try_bytes(&cai::join(&body, text.as_bytes()));
        let e = tried.open.expect("too deep");
        assert!(matches!(e.kind(), CORRUPT | LIMIT), "{depth}: {e}");
        if depth == 9 {
            assert_eq!((e.kind(), e.tensor()), (LIMIT, Some("dense")));
        }
    }
    // JSON inside JSON, where the reader looks and where it does not.
    let (body, index, _) = cai::split(&small());
    let text = index.to_string();
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let deep = format!("{}1{}", open.repeat(100_000), close.repeat(100_000));
        for forged in [
            deep.clone(),
            text.replacen(
                "\"metadata\":{}",
                &format!("\"metadata\":{{\"k\":{deep}}}"),
                1,
            ),
            text.replacen(
                "\"generator\":",
                &format!("\"new\":{deep},\"generator\":"),
                1,
            ),
            text.replacen("\"params\":{}", &format!("\"params\":{{\"k\":{deep}}}"), 1),
        ] {
            assert_ne!(forged, text);
            let tried = Bench::new().try_bytes(&cai::join(&body, forged.as_bytes()));
            if let Some(e) = tried.open {
                assert_eq!(e.kind(), CORRUPT, "{e}");
            }
        }
    }
    for text in [
        "",
        "{",
        "null",
        "[]",
        "{}",
        "{\"tensors\":1}",
        "\u{0}",
        "\"\\ud800\"",
    ] {
        let tried = Bench::new().try_bytes(&cai::join(&body, text.as_bytes()));
        assert_eq!(tried.open.expect(text).kind(), CORRUPT, "{text}");
    }
    let tried = Bench::new().try_bytes(&cai::join(&body, &[0xff, 0xfe]));
    assert_eq!(tried.open.expect("no UTF-8").kind(), CORRUPT);
}

/// An archive of one sparse tensor with a mask of plain values, some of its parts replaced.
fn forge_mask(
    rows: usize,
    cols: usize,
    change: impl Fn(&mut BTreeMap<&str, Vec<u8>>, &mut Value),
) -> Tried {
    let w = weights(Kind::Sparse, rows, cols, 8);
    let tensor = compress(&Dense::from_slice(&w, &[rows, cols]).unwrap(), "mask");
    let mut parts = BTreeMap::new();
    for (name, part) in tensor.form().parts() {
        let (name, buffer) = match part {
            cortex::form::Part::Buffer(b) => (name, b.clone()),
            cortex::form::Part::Form(f) => match &f.parts()[0].1 {
                cortex::form::Part::Buffer(b) => (name, (*b).clone()),
                cortex::form::Part::Form(_) => unreachable!("plain values"),
            },
        };
        let mut scratch = Vec::new();
        parts.insert(
            name,
            buffer
                .window(0..buffer.len(), &mut scratch)
                .unwrap()
                .to_vec(),
        );
    }
    let mut params = Value::Object(tensor.form().params());
    change(&mut parts, &mut params);
    let mut body = cai::Body::new();
    let mask = body.raw(&parts["mask"], 1);
    let counts = body.raw(&parts["counts"], 4);
    let values = body.raw(&parts["values"], 4);
    let count = parts["values"].len() / 4;
    let index = json!({
        "generator": "test",
        "tensors": [{
            "name": "m", "dtype": "f32", "shape": [rows, cols], "spec": "mask",
            "error": {"relative": 0.0, "max_abs": 0.0},
            "form": {"kind": "mask", "params": params, "parts": [
                {"name": "mask", "buffer": mask},
                {"name": "counts", "buffer": counts},
                {"name": "values", "form": {
                    "kind": "dense", "dtype": "f32", "shape": [count], "params": {},
                    "parts": [{"name": "data", "buffer": values}],
                }},
            ]},
        }],
        "aliases": [],
    });
    Bench::new().try_bytes(&cai::join(&body.bytes, index.to_string().as_bytes()))
}

#[test]
fn masks_that_do_not_fit_their_values_are_refused() {
    let tried = forge_mask(300, 100, |_, _| {});
    assert!(tried.open.is_none() && tried.verify.is_empty() && tried.tensors[0].1.is_ok());
    type Change<'a> = &'a dyn Fn(&mut BTreeMap<&str, Vec<u8>>, &mut Value);
    let bad = |what: &str, change: Change<'_>| {
        let tried = forge_mask(300, 100, change);
        assert!(tried.open.is_none());
        let e = tried.tensors[0].1.as_ref().map(Vec::len).expect_err(what);
        assert_eq!((e.kind(), e.tensor()), (CORRUPT, Some("m")), "{what}: {e}");
    };
    bad("a bit more", &|p, _| {
        let byte = p
            .get_mut("mask")
            .unwrap()
            .iter_mut()
            .find(|b| **b == 0)
            .unwrap();
        *byte = 0xff;
    });
    bad("all bits", &|p, _| {
        p.get_mut("mask")
            .unwrap()
            .iter_mut()
            .for_each(|b| *b = 0xff)
    });
    // The last byte of a row of 100 columns has four bits to spare.
    for row in [0, 47, 48, 299] {
        for bit in 4..8 {
            bad("a bit past the last column", &|p, _| {
                p.get_mut("mask").unwrap()[row * 13 + 12] |= 1 << bit
            });
        }
    }
    // The spare bit stands for one that was dropped: the count stays right.
    bad("a bit moved past the last column", &|p, _| {
        let mask = p.get_mut("mask").unwrap();
        let byte = mask.iter_mut().find(|b| **b != 0).unwrap();
        *byte &= *byte - 1;
        mask[12] |= 0x80;
    });
    for n in [0u32, 5000, 100_000, u32::MAX] {
        bad("a count", &|p, _| {
            p.get_mut("counts").unwrap()[4..8].copy_from_slice(&n.to_le_bytes());
        });
    }
    bad("counts that the bits deny", &|p, _| {
        let counts = p.get_mut("counts").unwrap();
        // The sum stays right.
        for (at, by) in [(0, 1u32), (4, 1u32.wrapping_neg())] {
            let n = u32::from_le_bytes(counts[at..at + 4].try_into().unwrap());
            counts[at..at + 4].copy_from_slice(&n.wrapping_add(by).to_le_bytes());
        }
    });
    bad("a bit less", &|p, _| {
        let byte = p
            .get_mut("mask")
            .unwrap()
            .iter_mut()
            .find(|b| **b != 0)
            .unwrap();
        *byte &= *byte - 1;
    });
    bad("count", &|_, params| params["count"] = 5.into());
    bad("count", &|_, params| params["count"] = 30_001.into());
    bad("count", &|_, params| params["count"] = u64::MAX.into());
    bad("count", &|_, params| params["count"] = (-1).into());
    for n in [0u64, 1, 47, 49, 1 << 20, u64::MAX] {
        bad("rows per block", &|_, params| {
            params["rows_per_block"] = n.into()
        });
    }
    bad("whole", &|_, params| params["whole"] = 1.into());
    bad("fewer values", &|p, _| {
        p.get_mut("values").unwrap().truncate(400)
    });
}

/// A chunk of a coder that decodes to less, more, or a thousand times more than it may.
#[test]
fn chunks_that_lie_under_a_right_checksum_are_refused() {
    let raw = vec![7u8; 5 * 33 * 4];
    let make = |packs: &str, chunk: Vec<u8>, raw_len: usize| {
        let mut body = cai::Body::new();
        let mut buffer = body.raw(&chunk, 4);
        buffer["bytes"] = raw_len.into();
        buffer["chunk"] = (64 << 20).into();
        buffer["packs"] = packs.into();
        buffer["chunks"][0][3] = 1.into();
        let index = json!({
            "generator": "test",
            "tensors": [{
                "name": "t", "dtype": "u8", "shape": [raw_len], "spec": "dense",
                "error": {"relative": 0.0, "max_abs": 0.0},
                "form": {"kind": "dense", "params": {}, "parts": [{"name": "data", "buffer": buffer}]},
            }],
        });
        Bench::new().try_bytes(&cai::join(&body.bytes, index.to_string().as_bytes()))
    };
    let mut rng = Rng::new(1);
    for packs in [
        "delta",
        "shuffle",
        "bitshuffle",
        "rle",
        "gzip",
        "zstd",
        "lz4",
        "shuffle | zstd",
        "rle | rle",
        "zstd | rle | gzip",
    ] {
        let terms = cortex::form::parse(&format!("dense | {packs}"))
            .unwrap()
            .packs;
        let chain = cortex::pack::Chain::new(&terms, 4).unwrap();
        let coded = chain.encode(&raw).unwrap();
        if let Some(coded) = &coded {
            let tried = make(packs, coded.clone(), raw.len());
            assert_eq!(tried.tensors[0].1.as_ref().unwrap(), &raw, "{packs}");
        }
        for raw_len in [raw.len() - 1, raw.len() + 1, 60 << 20] {
            let tried = make(packs, coded.clone().unwrap_or(raw.clone()), raw_len);
            if tried.open.is_none() {
                let e = tried.tensors[0].1.as_ref().expect_err(packs);
                assert_eq!(e.kind(), CORRUPT, "{packs} {raw_len}: {e}");
                assert_eq!(tried.verify.len(), 1, "{packs}");
            }
        }
        for _ in 0..40 {
            let noise: Vec<u8> = (0..1 + rng.below(300)).map(|_| rng.next() as u8).collect();
            let tried = make(packs, noise, raw.len());
            for (_, t) in tried.tensors {
                if let Err(e) = t {
                    assert_eq!(e.kind(), CORRUPT, "{packs}: {e}");
                }
            }
        }
    }
}

#[test]
fn versions_magic_and_empty_files_are_told_apart() {
    let bench = Bench::new();
    let good = small();
    let open = |bytes: &[u8]| bench.try_bytes(bytes).open;
    let version = |major: u16, minor: u16| {
        let mut bytes = good.clone();
        bytes[8..10].copy_from_slice(&major.to_le_bytes());
        bytes[10..12].copy_from_slice(&minor.to_le_bytes());
        cai::seal(&mut bytes[..64], 60);
        bytes
    };
    assert!(open(&version(1, 0)).is_none());
    assert!(open(&version(1, 7)).is_none());
    assert!(open(&version(1, u16::MAX)).is_none());
    for (major, minor) in [(0, 9), (2, 0), (2, 5), (u16::MAX, 1)] {
        let e = open(&version(major, minor)).unwrap();
        assert_eq!(e.kind(), UNSUPPORTED);
        assert!(e.message().contains(&format!("{major}.{minor}")), "{e}");
    }
    let e = open(b"").unwrap();
    assert_eq!(e.kind(), CORRUPT);
    assert!(e.message().contains("empty"), "{e}");
    for other in [
        &b"GGUF\x03\0\0\0"[..],
        b"PK\x03\x04",
        b"\0",
        &[0; 200],
        b"\x89PNG\r\n\x1a\n",
    ] {
        let e = open(other).unwrap();
        assert_eq!(e.kind(), CORRUPT);
        assert!(e.message().contains("not a .cai"), "{e}");
    }
    // A transfer that translated line ends.
    let mut text = good.clone();
    text.remove(4);
    assert!(open(&text).unwrap().message().contains("not a .cai"));

    // Footers that are sealed and lie.
    let (body, index, _) = cai::split(&good);
    let index = index.to_string();
    let whole = cai::join(&body, index.as_bytes());
    let at = whole.len() - 64;
    let lie = |field: std::ops::Range<usize>, value: u64| {
        let mut bytes = whole.clone();
        let width = field.len();
        bytes[at..][field].copy_from_slice(&value.to_le_bytes()[..width]);
        cai::seal(&mut bytes[at..], 52);
        let e = open(&bytes).expect("a lie");
        assert!(matches!(e.kind(), CORRUPT | LIMIT), "{e}");
        assert!(e.offset().is_some() || e.kind() == LIMIT, "{e}");
    };
    let len = index.len() as u64;
    for offset in [
        0,
        63,
        64,
        body.len() as u64 - 1,
        body.len() as u64 + 1,
        whole.len() as u64,
        u64::MAX,
        u64::MAX - len,
    ] {
        lie(0..8, offset);
    }
    for wrong in [0, len - 1, len + 1, 256 << 20, (256 << 20) + 1, u64::MAX] {
        lie(8..16, wrong);
    }
    lie(16..20, 12345);
    for wrong in [0, whole.len() as u64 - 1, whole.len() as u64 + 1, u64::MAX] {
        lie(24..32, wrong);
    }
    assert!(open(&whole).is_none());
}

/// A row that takes more memory than there is must be an error, not the end of the process.
#[test]
fn what_cannot_be_held_is_an_error() {
    // One row of 2^43 bytes in chunks of 64 MiB that claim to be stored in no bytes.
    let chunk = 64u64 << 20;
    let chunks = vec![json!([64, 0, 0, 1]); (1 << 43) / chunk as usize];
    let index = json!({
        "generator": "test",
        "tensors": [{
            "name": "t", "dtype": "u8", "shape": [1, 1u64 << 43], "spec": "dense",
            "error": {"relative": 0.0, "max_abs": 0.0},
            "form": {"kind": "dense", "params": {}, "parts": [{"name": "data", "buffer": {
                "bytes": 1u64 << 43, "chunk": chunk, "width": 1, "packs": "rle",
                "chunks": chunks,
            }}]},
        }],
    });
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.cai");
    std::fs::write(
        &path,
        cai::join(&cai::Body::new().bytes, index.to_string().as_bytes()),
    )
    .unwrap();
    let archive = Archive::open(&path).unwrap();
    let tensor = archive.tensor("t").unwrap();
    assert!(is_refusal(&tensor.decompress().unwrap_err()));
    assert!(is_refusal(&archive.verify()[0]));
    let out = folder.path().join("m.safetensors");
    let e = cortex::model::decompress_file(&path, &out, 1, None).unwrap_err();
    assert!(is_refusal(&e), "{e}");
    assert!(!out.exists());
    let e = cortex::model::diff(&path, &path).unwrap_err();
    assert!(is_refusal(&e), "{e}");
}

/// Offsets of a mask are read when it is opened: a few bytes must not become hundreds of
/// gigabytes there.
#[test]
fn a_mask_of_countless_rows_is_refused() {
    let chunk = 64usize << 20;
    let mut body = cai::Body::new();
    // 64 MiB of zeros as one run.
    let terms = cortex::form::parse("dense | rle").unwrap().packs;
    let chain = cortex::pack::Chain::new(&terms, 1).unwrap();
    let run = chain.encode(&vec![0; chunk]).unwrap().unwrap();
    let mut zeros = |bytes: usize| {
        let mut chunks = Vec::new();
        for _ in 0..bytes / chunk {
            chunks.push(body.raw(&run, 1)["chunks"][0].clone());
            chunks.last_mut().unwrap()[3] = 1.into();
        }
        json!({"bytes": bytes, "chunk": chunk, "width": 1, "packs": "rle", "chunks": chunks})
    };
    let rows = 1usize << 35;
    let (mask, counts) = (zeros(rows), zeros(rows * 4));
    let empty = json!({"bytes": 0, "chunk": 1, "width": 1, "chunks": []});
    let index = json!({
        "generator": "test",
        "tensors": [{
            "name": "t", "dtype": "u8", "shape": [rows, 1], "spec": "mask",
            "error": {"relative": 0.0, "max_abs": 0.0},
            "form": {"kind": "mask", "params": {"count": 0, "rows_per_block": 1, "whole": true}, "parts": [
                {"name": "mask", "buffer": mask},
                {"name": "counts", "buffer": counts},
                {"name": "values", "form": {"kind": "dense", "dtype": "u8", "shape": [0], "parts": [
                    {"name": "data", "buffer": empty},
                ]}},
            ]},
        }],
    });
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.cai");
    std::fs::write(&path, cai::join(&body.bytes, index.to_string().as_bytes())).unwrap();
    let begun = Instant::now();
    let e = Archive::open(&path).unwrap().tensor("t").unwrap_err();
    assert_eq!((e.kind(), e.tensor()), (LIMIT, Some("t")), "{e}");
    assert!(begun.elapsed() < Duration::from_secs(2));
}
