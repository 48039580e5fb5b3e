//! What the fuzz targets do with their bytes. `tests/minifuzz.rs` runs the same bodies on
//! seeded damage, so that they hold without a fuzzer too. A body may get any answer but a
//! panic, a wrong length or an error that blames Cortex itself.

use std::path::Path;

use cortex::archive::Archive;
use cortex::import::Model;
use cortex::pack::Chain;
use cortex::sdr::{Index, Sdr};
use cortex::{Dense, Error, ErrorKind, MatmulOptions, Tensor, form};
use serde_json::Value;

/// Larger tensors are opened and not decoded: a claim of much is not a bug.
const MOST_BYTES: u64 = 1 << 22;

fn fair(e: &Error) {
    assert_ne!(e.kind(), ErrorKind::Internal, "{e}");
}

fn with_file(name: &str, bytes: &[u8], f: impl FnOnce(&Path)) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).expect("a temporary file");
    f(&path);
}

/// Opens, verifies, decodes and multiplies, with the checksums as they are and, since
/// they hide nearly everything behind them, once more with all of them right.
pub fn archive(bytes: &[u8]) {
    with_file("a.cai", bytes, use_archive);
    if let Some(repaired) = repaired(bytes) {
        with_file("a.cai", &repaired, use_archive);
    }
}

fn use_archive(path: &Path) {
    let mapped = Archive::open(path);
    let read = Archive::open_unmapped(path);
    assert_eq!(mapped.is_ok(), read.is_ok());
    let (Ok(mapped), Ok(read)) = (&mapped, &read) else {
        mapped.as_ref().err().into_iter().for_each(fair);
        return;
    };
    for entry in mapped.entries() {
        let both = [mapped, read].map(|archive| {
            let tensor = archive.open_entry(entry)?;
            if tensor.raw_bytes() > MOST_BYTES || tensor.rows() > 1 << 20 || tensor.cols() > 1 << 20
            {
                return Ok(None);
            }
            let x = vec![1.0; tensor.cols()];
            let mut y = vec![0.0; tensor.rows()];
            let options = MatmulOptions::default();
            let product = tensor.matmul(&x, 1, &mut y, &options);
            let mut z = vec![0.0; tensor.cols()];
            let _ = tensor.matmul_t(&y, 1, &mut z, &options);
            for row in 0..tensor.rows().min(40) {
                let mut out = vec![0.0; tensor.cols()];
                let _ = tensor.decode_rows_f32(row..row + 1, &mut out);
            }
            let whole = tensor.decompress()?;
            // What decodes as a whole multiplies, too.
            product.map(|_| Some(whole.bytes().to_vec()))
        });
        for e in both.iter().filter_map(|b| b.as_ref().err()) {
            fair(e);
            assert_eq!(e.tensor(), Some(entry.name()));
        }
        let [a, b] = both.map(Result::ok);
        assert_eq!(a, b, "mapped and read differ");
    }
    mapped.verify().iter().for_each(fair);
}

fn seal(block: &mut [u8], at: usize) {
    let crc = crc32c::crc32c(&block[..at]);
    block[at..at + 4].copy_from_slice(&crc.to_le_bytes());
}

/// The archive with the checksums that its bytes should have. `None` where header, footer
/// or index cannot even be found.
pub fn repaired(bytes: &[u8]) -> Option<Vec<u8>> {
    let footer_at = bytes.len().checked_sub(64).filter(|at| *at >= 64)?;
    let index_at = usize::try_from(u64::from_le_bytes(*bytes[footer_at..].first_chunk()?)).ok()?;
    let index = bytes.get(index_at..footer_at)?;
    let mut body = bytes[..index_at].to_vec();
    if body.len() < 64 {
        return None;
    }
    body[..8].copy_from_slice(b"\x89CAI\r\n\x1a\n");
    seal(&mut body[..64], 60);
    let index = match serde_json::from_slice::<Value>(index) {
        Ok(mut value) => {
            repair_chunks(&mut value, &body);
            serde_json::to_vec(&value).ok()?
        }
        Err(_) => index.to_vec(),
    };
    let mut footer = [0u8; 64];
    footer[..8].copy_from_slice(&(body.len() as u64).to_le_bytes());
    footer[8..16].copy_from_slice(&(index.len() as u64).to_le_bytes());
    footer[16..20].copy_from_slice(&crc32c::crc32c(&index).to_le_bytes());
    footer[24..32].copy_from_slice(&((body.len() + index.len() + 64) as u64).to_le_bytes());
    seal(&mut footer, 52);
    footer[56..].copy_from_slice(b"\nEND\x89CAI");
    Some([&body[..], &index, &footer].concat())
}

fn repair_chunks(value: &mut Value, body: &[u8]) {
    match value {
        Value::Array(list) => {
            if let [offset, len, crc, _] = list.as_mut_slice()
                && let (Some(start), Some(len)) = (offset.as_u64(), len.as_u64())
                && let Some(end) = start.checked_add(len)
                && let Some(chunk) = body.get(start as usize..end as usize)
            {
                *crc = crc32c::crc32c(chunk).into();
            }
            list.iter_mut().for_each(|v| repair_chunks(v, body));
        }
        Value::Object(map) => map.values_mut().for_each(|v| repair_chunks(v, body)),
        _ => {}
    }
}

/// Opens a model of any format and reads every tensor, in its shape and as f32.
pub fn import(bytes: &[u8]) {
    with_file("m.safetensors", bytes, |path| match Model::open(path) {
        Err(e) => fair(&e),
        Ok(model) => {
            for tensor in model.tensors() {
                let view = tensor.view();
                assert_eq!(view.byte_len(), tensor.byte_len());
                if view.byte_len() as u64 <= MOST_BYTES {
                    view.to_dense().expect("an open tensor can be read");
                    let mut out = vec![0.0; view.len()];
                    view.read_rows_f32(0..view.rows(), &mut out);
                }
            }
            for (alias, _) in model.aliases() {
                assert!(model.get(alias).is_some());
            }
        }
    });
}

/// Reads a spec; what is one prints as one, and does what it says.
pub fn spec(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let spec = match form::parse(&text) {
        Ok(spec) => spec,
        Err(e) => return fair(&e),
    };
    let printed = spec.to_string();
    let again = form::parse(&printed).expect("a printed spec is one");
    assert_eq!(again, spec);
    assert_eq!(again.to_string(), printed);
    let values: Vec<f32> = (0..5 * 37)
        .map(|i| (i * 7919 % 1000) as f32 / 500.0 - 1.0)
        .collect();
    let dense = Dense::from_slice(&values, &[5, 37]).expect("a small tensor");
    match Tensor::compress(&dense.view(), &printed) {
        Ok(tensor) => assert_eq!(tensor.decompress().expect("decodes").shape(), dense.shape()),
        Err(e) => fair(&e),
    }
}

/// Chains that `pack` chooses from by the first byte.
pub const CHAINS: &[&str] = &[
    "delta",
    "shuffle",
    "bitshuffle",
    "rle",
    "gzip",
    "zstd",
    "lz4",
    "shuffle | zstd",
    "delta | bitshuffle | rle | lz4",
    "rle | rle | gzip",
    "rans",
    "rotate | shuffle | rans",
];

/// Decodes bytes that never were a chunk, and codes and decodes them as one.
pub fn pack(bytes: &[u8]) {
    let [which, wanted, rest @ ..] = bytes else {
        return;
    };
    let text = CHAINS[usize::from(*which) % CHAINS.len()];
    let width = 1 << (which >> 6);
    let terms = form::parse(&format!("dense | {text}"))
        .expect("a chain")
        .packs;
    let chain = Chain::new(&terms, width).expect("a chain");
    let len = match wanted {
        255 => 1 << 20,
        n => usize::from(*n) * 8,
    };
    let mut out = Vec::new();
    match chain.decode(rest, len, &mut out) {
        Ok(()) => assert_eq!(out.len(), len),
        Err(e) => assert_eq!(e.kind(), ErrorKind::Corrupt, "{e}"),
    }
    if let Some(coded) = chain.encode(rest).expect("bytes can be coded") {
        chain
            .decode(&coded, rest.len(), &mut out)
            .expect("and decoded");
        assert_eq!(out, rest);
    }
}

/// Loads an index of sets, as it is and with its checksum made right, and asks it.
pub fn index(bytes: &[u8]) {
    let mut repaired = bytes.to_vec();
    if let Some((body, crc)) = repaired.split_last_chunk_mut::<4>() {
        *crc = crc32c::crc32c(body).to_le_bytes();
    }
    for bytes in [bytes, &repaired] {
        let index = match Index::load(bytes) {
            Ok(index) => index,
            Err(e) => {
                fair(&e);
                continue;
            }
        };
        assert_eq!(index.save(), bytes, "what loads is what was saved");
        let active = (0..index.bits().min(9) as u32).step_by(2).collect();
        let query = Sdr::from_sorted(index.bits(), active).expect("a set");
        let found = index.top_k(&query, 3).expect("a query of the right size");
        assert!(found.len() <= index.len().min(3));
    }
}
