//! The bodies of the fuzz targets on seeded damage of good files: the part of fuzzing that
//! needs no fuzzer.
mod common;

#[path = "../fuzz/bodies.rs"]
mod bodies;

use std::io::Write;
use std::path::Path;

use common::{Kind, Rng, weights};
use cortex::archive::Writer;
use cortex::export::safetensors;
use cortex::sdr::{Index, Sdr};
use cortex::{DType, Dense, Tensor, form};

/// Small archives of all forms and packs.
fn archives() -> Vec<Vec<u8>> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.cai");
    let groups: &[&[&str]] = &[
        &["dense", "int4", "mask"],
        &[
            "dense | shuffle | zstd",
            "int8 | gzip",
            "q(bits=3, zero=asymmetric) | lz4",
        ],
        &[
            "mask(values=[int8 | zstd]) | rle",
            "dense(type=bf16) | bitshuffle | rle",
        ],
        &[
            "mask(values=[mask(keep=40%)])",
            "q(bits=5, group=tensor) | delta",
        ],
        &["sdr(keep=20%, values=sign)", "sdr | rans", "ecq(bits=3)"],
        &["ecq(bits=5, trellis=8)", "mask(positions=coded) | rans"],
        &["dct2(keep=20%, values=[int8])", "fft(keep=30%, block=32)"],
        &["svd(rank=3, factors=[int8])", "tt(rank=3)", "cp(rank=2)"],
        &["tucker(rank=3)", "svd(rank=2) + outliers(keep=2%) + int4"],
        &[],
    ];
    let mut all = Vec::new();
    for (i, specs) in groups.iter().enumerate() {
        let mut writer = Writer::create(&path).unwrap();
        for spec in specs.iter() {
            let w = weights(Kind::Sparse, 19, 70, i as u64);
            let dense = Dense::from_slice(&w, &[19, 70]).unwrap();
            writer
                .add(spec, &Tensor::compress(&dense.view(), spec).unwrap())
                .unwrap();
        }
        if let Some(first) = specs.first() {
            writer.alias("tied", first).unwrap();
            writer.set_metadata(&[("k".to_owned(), "v".to_owned())].into());
        }
        writer.finish().unwrap();
        all.push(std::fs::read(&path).unwrap());
    }
    all
}

fn models() -> Vec<Vec<u8>> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.safetensors");
    let info = |name: &str, dtype, shape: &[usize]| safetensors::TensorInfo {
        name: name.to_owned(),
        dtype,
        shape: shape.to_vec(),
    };
    let list = [
        info("w", DType::F32, &[5, 7]),
        info("h", DType::F16, &[3]),
        info("b", DType::Bool, &[2, 2]),
        info("e", DType::I64, &[0, 4]),
    ];
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    let mut writer = safetensors::Writer::create(&path, &list, &metadata).unwrap();
    for info in &list {
        writer
            .write_view(&Dense::zeros(info.dtype, &info.shape).unwrap().view())
            .unwrap();
    }
    writer.finish().unwrap();
    let mut all = vec![std::fs::read(&path).unwrap()];

    let npy = |descr: &str, fortran: &str, shape: &str, data: &[u8]| {
        let mut header =
            format!("{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}");
        while (header.len() + 11) % 64 != 0 {
            header.push(' ');
        }
        header.push('\n');
        let len = (header.len() as u16).to_le_bytes();
        [&b"\x93NUMPY\x01\x00"[..], &len, header.as_bytes(), data].concat()
    };
    let arrays = [
        npy("<f4", "False", "(3, 4)", &[1; 48]),
        npy(">f8", "True", "(2, 3)", &[2; 48]),
        npy("|b1", "False", "()", &[1]),
    ];
    for deflated in [false, true] {
        let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
        let method = match deflated {
            true => zip::CompressionMethod::Deflated,
            false => zip::CompressionMethod::Stored,
        };
        let options = zip::write::SimpleFileOptions::default().compression_method(method);
        for (i, array) in arrays.iter().enumerate() {
            zip.start_file(format!("a{i}.npy"), options).unwrap();
            zip.write_all(array).unwrap();
        }
        all.push(zip.finish().unwrap().into_inner());
    }
    all.extend(arrays);
    all.push(
        br#"{"metadata": {}, "weight_map": {"a": "x.safetensors", "b": "y.safetensors"}}"#.to_vec(),
    );
    all
}

fn specs() -> Vec<Vec<u8>> {
    [
        "int8",
        "int4(group=64, search=lsq) | zstd(9)",
        "mask(keep=10%, values=[q(bits=3, zero=asymmetric) | lz4]) | rle",
        "dense(type=bf16) | delta | shuffle(width=4) | bitshuffle | gzip(1)",
        "auto(error=1%)",
        "auto(bits=4.5)",
        "mask(threshold=1e-3, values=mask)",
        "lossless + int8",
        "sdr(threshold=0.1, values=[ecq(error=5%)])",
        "ecq(bits=3.5, trellis=8) + outliers",
        "dct2(keep=auto(error=5%), block=4x8, values=int8)",
        "fft2(keep=30%, values=[f16]) | rotate | shuffle | rans",
        "svd(energy=90%, factors=[int8]) + tt(rank=3, rows=5, cols=37)",
        "tucker(ranks=2x5, core=[int8])",
        "cp(rank=3, restarts=2)",
        "int4(search=gptq)",
        "mask(keep=20%, score=wanda, positions=coded)",
    ]
    .map(|s| s.as_bytes().to_vec())
    .into()
}

fn chunks() -> Vec<Vec<u8>> {
    // As long as the second byte can say: 8 × 254.
    let raw: Vec<u8> = (0..508u32).flat_map(|i| (i / 5).to_le_bytes()).collect();
    let mut all = Vec::new();
    for (i, text) in bodies::CHAINS.iter().enumerate() {
        let terms = form::parse(&format!("dense | {text}")).unwrap().packs;
        let chain = cortex::pack::Chain::new(&terms, 4).unwrap();
        let coded = chain.encode(&raw).unwrap().unwrap_or(raw.clone());
        // The first byte whose top bits say four-byte elements and that chooses this chain.
        let which = (128..192).find(|b| b % bodies::CHAINS.len() == i).unwrap() as u8;
        all.push([&[which, 254][..], &coded].concat());
    }
    all
}

/// One to four small changes, of the kinds that fuzzers make.
fn damaged(seeds: &[Vec<u8>], rng: &mut Rng) -> Vec<u8> {
    let mut bytes = seeds[rng.below(seeds.len())].clone();
    for _ in 0..1 + rng.below(4) {
        let at = rng.below(bytes.len().max(1));
        if bytes.is_empty() {
            bytes.push(0);
        }
        match rng.below(10) {
            0 => bytes[at] ^= 1 << rng.below(8),
            1 => bytes[at] = rng.next() as u8,
            2 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff, b'0', b'9', b'"'][rng.below(8)],
            3 => bytes.truncate(at),
            4 => {
                let n = rng.below(16).min(bytes.len() - at);
                bytes.drain(at..at + n);
            }
            5 => bytes.insert(at, rng.next() as u8),
            // A piece repeated, or taken from another place or another file.
            6 | 7 => {
                let other = &seeds[rng.below(seeds.len())];
                if !other.is_empty() {
                    let from = rng.below(other.len());
                    let piece = &other[from..(from + rng.below(40)).min(other.len())];
                    bytes.splice(
                        at..(at + rng.below(2) * piece.len()).min(bytes.len()),
                        piece.iter().copied(),
                    );
                }
            }
            // A number where one may be.
            8 => {
                let odd = [
                    0,
                    1,
                    63,
                    64,
                    65,
                    1 << 31,
                    u64::MAX,
                    u64::MAX - 63,
                    1 << 46,
                    1 << 63,
                ];
                let word = odd[rng.below(odd.len())].to_le_bytes();
                let n = [2, 4, 8][rng.below(3)].min(bytes.len() - at);
                bytes[at..at + n].copy_from_slice(&word[..n]);
            }
            _ => change_digits(&mut bytes, at, rng),
        }
    }
    bytes
}

/// The next number in text after `at` becomes another.
fn change_digits(bytes: &mut Vec<u8>, at: usize, rng: &mut Rng) {
    let Some(start) = bytes[at..].iter().position(u8::is_ascii_digit) else {
        return;
    };
    let start = at + start;
    let len = bytes[start..]
        .iter()
        .take_while(|b| b.is_ascii_digit())
        .count();
    let odd = [
        "0",
        "1",
        "-1",
        "2",
        "7",
        "8",
        "9",
        "31",
        "33",
        "64",
        "4096",
        "1e400",
        "0.5",
        "18446744073709551615",
        "70368744177664",
    ];
    let new = odd[rng.below(odd.len())];
    bytes.splice(start..start + len, new.bytes());
}

fn run(seeds: &[Vec<u8>], rounds: usize, body: fn(&[u8])) {
    for seed in seeds {
        body(seed);
    }
    let mut rng = Rng::new(1);
    for round in 0..rounds {
        let bytes = damaged(seeds, &mut rng);
        let outcome = std::panic::catch_unwind(|| body(&bytes));
        assert!(outcome.is_ok(), "round {round}: {}", bytes.escape_ascii());
    }
}

#[test]
fn archives_survive_damage() {
    run(&archives(), 4000, bodies::archive);
}

#[test]
fn repaired_archives_are_the_archives() {
    for bytes in archives() {
        let again = bodies::repaired(&bytes).unwrap();
        assert!(bodies::repaired(&again).unwrap() == again);
        let mut flipped = bytes.clone();
        flipped[61] ^= 1;
        assert!(bodies::repaired(&flipped).unwrap() == again);
    }
}

#[test]
fn importers_survive_damage() {
    run(&models(), 12_000, bodies::import);
}

#[test]
fn specs_survive_damage() {
    run(&specs(), 6000, bodies::spec);
}

#[test]
fn packs_survive_damage() {
    run(&chunks(), 12_000, bodies::pack);
}

fn indexes() -> Vec<Vec<u8>> {
    let mut rng = Rng::new(5);
    let mut index = Index::new(130).unwrap();
    for id in 0..6 {
        let mut active: Vec<u32> = (0..9).map(|_| rng.below(130) as u32).collect();
        active.sort_unstable();
        active.dedup();
        index
            .add(id * 7, &Sdr::from_sorted(130, active).unwrap())
            .unwrap();
    }
    vec![index.save(), Index::new(1).unwrap().save()]
}

#[test]
fn indexes_survive_damage() {
    run(&indexes(), 6000, bodies::index);
}

/// Writes what a fuzzer starts from. Not a test: run it by name.
#[test]
#[ignore = "writes fuzz/corpus"]
fn seeds() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (target, seeds) in [
        ("archive", archives()),
        ("import", models()),
        ("spec", specs()),
        ("pack", chunks()),
        ("index", indexes()),
    ] {
        std::fs::create_dir_all(corpus.join(target)).unwrap();
        for (i, seed) in seeds.iter().enumerate() {
            std::fs::write(corpus.join(target).join(format!("seed-{i}")), seed).unwrap();
        }
    }
}
