//! `.npz`: a zip of `.npy` files, stored or deflated.
//!
//! Stored arrays stay in the mapped file; deflated ones are inflated into memory of the
//! size that their own header demands, never more. Each array's CRC is checked. What
//! does not end in `.npy` is left alone.

use std::collections::HashSet;
use std::io::{Cursor, Read};
use std::ops::Range;
use std::sync::Arc;

use zip::CompressionMethod;
use zip::read::ZipArchive;
use zip::result::ZipError;

use super::{Contents, Importer, NamedTensor, check_count, duplicate, npy, shown};
use crate::bytes::AlignedBytes;
use crate::error::{Error, Result};
use crate::limits;
use crate::mmap::Mapping;

pub(super) const IMPORTER: Importer = Importer {
    name: "npz",
    summary: "a zip of NumPy arrays",
    extensions: &["npz"],
    detect,
    open,
};

/// A local header, or the end record of an empty archive.
fn detect(bytes: &[u8]) -> bool {
    bytes.starts_with(b"PK\x03\x04") || bytes.starts_with(b"PK\x05\x06")
}

/// One array's place in the archive.
struct Entry {
    index: usize,
    name: String,
    header_start: u64,
    compressed: u64,
    size: u64,
    crc32: u32,
    stored: bool,
}

fn open(file: &Arc<Mapping>) -> Result<Contents> {
    let bytes: &[u8] = file;
    let mut zip = ZipArchive::new(Cursor::new(bytes)).map_err(zip_error)?;
    let entries = entries(&zip)?;
    if zip.has_duplicate_names() {
        return Err(Error::corrupt("the zip holds two files of one name"));
    }
    // Also keeps a small file from claiming the same bytes for ever more arrays.
    if zip.has_overlapping_entries().map_err(zip_error)? {
        return Err(Error::corrupt("files overlap in the zip"));
    }
    let mut tensors = Vec::with_capacity(entries.len());
    for entry in entries {
        let name = entry.name.clone();
        let read = if entry.stored {
            stored(file, &mut zip, entry)
        } else {
            inflate(&mut zip, entry)
        };
        tensors.push(read.map_err(|e| e.with_tensor(shown(&name)))?);
    }
    Ok(Contents {
        tensors,
        ..Contents::default()
    })
}

/// The arrays, in the order of their data.
fn entries(zip: &ZipArchive<Cursor<&[u8]>>) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    let mut names = HashSet::new();
    check_count(zip.len())?;
    for index in 0..zip.len() {
        let file = zip.by_index_data(index).map_err(zip_error)?;
        let full = file.name().map_err(zip_error)?;
        if full == "data.pkl" || full.ends_with("/data.pkl") {
            return Err(Error::unsupported(
                "this is a PyTorch checkpoint (a zip around a pickle, which is never \
                 executed), which cannot be imported; save its tensors as safetensors",
            ));
        }
        let Some(name) = full.strip_suffix(".npy") else {
            continue;
        };
        let fail = |e: Error| e.with_tensor(shown(name)).with_offset(file.header_start());
        if file.encrypted() {
            return Err(fail(Error::unsupported("the array is encrypted")));
        }
        let stored = match file.compression() {
            CompressionMethod::Stored => true,
            CompressionMethod::Deflated => false,
            other => {
                return Err(fail(Error::unsupported(format!(
                    "the array is compressed by {other:?}; stored and deflated are supported"
                ))));
            }
        };
        if !names.insert(name.to_owned()) {
            return Err(duplicate(name));
        }
        entries.push(Entry {
            index,
            name: name.to_owned(),
            header_start: file.header_start(),
            compressed: file.compressed_size(),
            size: file.size(),
            crc32: file.crc32(),
            stored,
        });
    }
    if entries.is_empty() && !zip.is_empty() {
        return Err(Error::unsupported("a zip archive that holds no .npy array"));
    }
    entries.sort_by_key(|e| e.header_start);
    Ok(entries)
}

/// An array that stands in the zip as it is.
fn stored(
    file: &Arc<Mapping>,
    zip: &mut ZipArchive<Cursor<&[u8]>>,
    entry: Entry,
) -> Result<NamedTensor> {
    let raw = zip.by_index_raw(entry.index).map_err(zip_error)?;
    let start = raw.data_start().unwrap_or(u64::MAX);
    let range = data_range(start, entry.compressed, file.len())?;
    if entry.size != entry.compressed {
        return Err(Error::corrupt(format!(
            "{} bytes are stored for {}",
            entry.compressed, entry.size
        ))
        .with_offset(entry.header_start));
    }
    let mut crc = flate2::Crc::new();
    crc.update(&file[range.clone()]);
    if crc.sum() != entry.crc32 {
        return Err(Error::corrupt("the checksum does not match").with_offset(start));
    }
    npy::mapped(entry.name, file, range.start, range.end)
}

fn data_range(start: u64, len: u64, file_len: usize) -> Result<Range<usize>> {
    match start.checked_add(len) {
        Some(end) if end <= file_len as u64 => Ok(start as usize..end as usize),
        _ => Err(Error::corrupt(format!(
            "{len} bytes of data from byte {start} in a file of {file_len}"
        ))),
    }
}

/// Most bytes that one byte of deflate can stand for: a match of 258 bytes takes at
/// least two bits.
const DEFLATE_RATIO: u64 = 1032;

fn inflate(zip: &mut ZipArchive<Cursor<&[u8]>>, entry: Entry) -> Result<NamedTensor> {
    let at_entry = |e: Error| e.with_offset(entry.header_start);
    if entry.size > limits::MAX_TENSOR_BYTES {
        return Err(at_entry(Error::limit(format!(
            "an array of {} bytes",
            entry.size
        ))));
    }
    if entry.size / DEFLATE_RATIO > entry.compressed {
        return Err(at_entry(Error::corrupt(format!(
            "{} bytes cannot be deflated to {}",
            entry.size, entry.compressed
        ))));
    }
    let mut reader = zip.by_index(entry.index).map_err(zip_error)?;
    let mut read = |out: &mut [u8]| {
        reader.read_exact(out).map_err(|e| {
            at_entry(Error::corrupt(format!(
                "the deflated array is damaged: {e}"
            )))
        })
    };
    let size = usize::try_from(entry.size).unwrap_or(usize::MAX);
    let mut head = vec![0; npy::PREAMBLE_BYTES.min(size)];
    read(&mut head)?;
    // Offsets in errors about the header mean nothing to one who sees the zip.
    let in_zip = |e: Error| at_entry(Error::new(e.kind(), e.message()));
    let text = npy::preamble(&head).map_err(in_zip)?;
    npy::check_header_len(text.len()).map_err(in_zip)?;
    let have = head.len();
    head.resize(text.end.clamp(have, size.max(have)), 0);
    read(&mut head[have..])?;
    let header = npy::Header::parse(&head, text).map_err(in_zip)?;
    header.check_len(size).map_err(in_zip)?;

    let mut data = AlignedBytes::zeroed(header.data_len)?;
    let early = &head[header.data_start..];
    // A header shorter than the preamble's longest form has brought some elements along.
    data[..early.len()].copy_from_slice(early);
    read(&mut data[early.len()..])?;
    // The checksum is compared when the end is reached.
    match reader.read(&mut [0]) {
        Ok(0) => header.owned(entry.name, data),
        Ok(_) => Err(at_entry(Error::corrupt(format!(
            "more than the {} bytes that the zip declares",
            entry.size
        )))),
        Err(e) => Err(at_entry(Error::corrupt(format!(
            "the deflated array is damaged: {e}"
        )))),
    }
}

fn zip_error(e: ZipError) -> Error {
    match e {
        ZipError::Io(e) => Error::corrupt(format!("bad zip: {e}")),
        ZipError::UnsupportedArchive(what) => Error::unsupported(format!("zip: {what}")),
        ZipError::CompressionMethodNotSupported(n) => {
            Error::unsupported(format!("zip: compression method {n}"))
        }
        e => Error::corrupt(format!("bad zip: {e}")),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use zip::write::{SimpleFileOptions, ZipWriter};

    use super::super::npy::tests::{dict, npy};
    use super::super::tests::{open_bytes, refused};
    use super::*;
    use crate::dtype::DType;
    use crate::error::ErrorKind;

    const STORED: CompressionMethod = CompressionMethod::Stored;
    const DEFLATED: CompressionMethod = CompressionMethod::Deflated;

    fn npz(files: &[(&str, CompressionMethod, &[u8])]) -> Vec<u8> {
        let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
        for (name, method, bytes) in files {
            let options = SimpleFileOptions::default().compression_method(*method);
            zip.start_file(*name, options).unwrap();
            zip.write_all(bytes).unwrap();
        }
        zip.finish().unwrap().into_inner()
    }

    fn ramp() -> Vec<u8> {
        let data: Vec<u8> = (0..600u16).flat_map(|v| (v / 3).to_le_bytes()).collect();
        npy(1, &dict("<u2", false, "(20, 30)"), &data)
    }

    /// Both ways of storing, other files beside.
    fn good() -> Vec<u8> {
        npz(&[
            ("w/stored.npy", STORED, &ramp()),
            ("notes.txt", DEFLATED, b"not an array"),
            ("deflated.npy", DEFLATED, &ramp()),
            (
                "big.npy",
                DEFLATED,
                &npy(3, &dict(">i2", true, "(2, 2)"), &[0, 1, 0, 2, 0, 3, 0, 4]),
            ),
        ])
    }

    /// Puts `value` over the field at `at` in the central record of file `name`.
    fn lie(zip: &mut [u8], name: &str, at: usize, value: &[u8]) {
        let record = zip
            .windows(46 + name.len())
            .rposition(|w| w.starts_with(b"PK\x01\x02") && w.ends_with(name.as_bytes()))
            .unwrap();
        zip[record + at..][..value.len()].copy_from_slice(value);
    }
    // Fields of the central record.
    const FLAGS: usize = 8;
    const METHOD: usize = 10;
    const COMPRESSED: usize = 20;
    const SIZE: usize = 24;
    const HEADER: usize = 42;

    #[test]
    fn stored_arrays_stay_in_the_file_and_deflated_ones_are_inflated() {
        let model = open_bytes("m.npz", &good()).unwrap();
        let names: Vec<_> = model.tensors().iter().map(|t| t.name()).collect();
        assert_eq!(names, ["w/stored", "deflated", "big"]);
        let [stored, deflated, big] = model.tensors() else {
            panic!()
        };
        assert!(stored.view().backing().is_some());
        assert!(deflated.view().backing().is_none());
        for t in [stored, deflated] {
            assert_eq!((t.dtype(), t.shape()), (DType::U16, &[20, 30][..]));
            assert_eq!(t.view().contiguous_bytes(), Some(&ramp()[128..]));
        }
        let big = big.view().to_dense().unwrap();
        assert_eq!(big.as_slice::<i16>().unwrap(), [1, 3, 2, 4]);
    }

    #[test]
    fn empty_archives_and_empty_arrays() {
        assert!(open_bytes("m.npz", &npz(&[])).unwrap().tensors().is_empty());
        for method in [STORED, DEFLATED] {
            let scalar = npy(1, &dict("<f4", false, "()"), &1.5f32.to_le_bytes());
            let empty = npy(1, &dict("<f4", false, "(0, 3)"), &[]);
            let zip = npz(&[("s.npy", method, &scalar), ("e.npy", method, &empty)]);
            let model = open_bytes("m.npz", &zip).unwrap();
            assert!(model.get("s").unwrap().shape().is_empty());
            assert_eq!(model.get("e").unwrap().shape(), [0, 3]);
        }
    }

    #[test]
    fn every_cut_is_corrupt() {
        let whole = good();
        for len in 0..whole.len() {
            refused("m.npz", &whole[..len], ErrorKind::Corrupt);
        }
    }

    #[test]
    fn changed_bytes_never_panic_and_changed_elements_are_found() {
        let whole = good();
        for at in 0..whole.len() {
            for change in [0x01, 0x80, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] ^= change;
                if let Ok(model) = open_bytes("m.npz", &bytes) {
                    for t in model.tensors() {
                        t.view().to_dense().unwrap();
                    }
                }
            }
        }
        let mut bytes = whole;
        let at = open_bytes("m.npz", &bytes).unwrap().tensors()[0]
            .view()
            .backing()
            .unwrap()
            .offset;
        bytes[at] ^= 1;
        let e = refused("m.npz", &bytes, ErrorKind::Corrupt);
        assert_eq!(e.tensor(), Some("w/stored"));
        assert!(e.message().contains("checksum"), "{e}");
    }

    #[test]
    fn sizes_that_lie_are_refused() {
        for method in [STORED, DEFLATED] {
            for field in [SIZE, COMPRESSED] {
                for size in [0u32, 1, 100, 1327, 1329, 1 << 20, u32::MAX - 1] {
                    let mut zip = npz(&[("a.npy", method, &ramp())]);
                    lie(&mut zip, "a.npy", field, &size.to_le_bytes());
                    let e = refused("m.npz", &zip, ErrorKind::Corrupt);
                    assert!(!e.message().is_empty());
                }
            }
        }
    }

    #[test]
    fn bombs_take_no_more_than_they_declare() {
        // A real array of zeros that deflates a thousandfold: fine.
        let zeros = npy(1, &dict("|u1", false, "(4000000,)"), &vec![0; 4_000_000]);
        let honest = npz(&[("z.npy", DEFLATED, &zeros)]);
        assert!(honest.len() < 10_000);
        assert!(open_bytes("m.npz", &honest).is_ok());
        // One that inflates to more, or less, than its header or the zip says.
        for count in ["10", "3999999", "4000001", "4000000000"] {
            let mut lying = zeros.clone();
            let text = dict("|u1", false, &format!("({count},)"));
            lying[10..128].copy_from_slice(&npy(1, &text, &[])[10..]);
            let zip = npz(&[("z.npy", DEFLATED, &lying)]);
            let e = refused("m.npz", &zip, ErrorKind::Corrupt);
            assert_eq!(e.tensor(), Some("z"));
        }
        let text = dict("|u1", false, "(1000,)");
        let mut small = zeros;
        small[10..128].copy_from_slice(&npy(1, &text, &[])[10..]);
        let mut zip = npz(&[("z.npy", DEFLATED, &small)]);
        lie(&mut zip, "z.npy", SIZE, &(1000 + 128u32).to_le_bytes());
        refused("m.npz", &zip, ErrorKind::Corrupt);
    }

    #[test]
    fn two_arrays_cannot_share_bytes_or_names() {
        let mut zip = npz(&[("a.npy", STORED, &ramp()), ("b.npy", STORED, &ramp())]);
        lie(&mut zip, "b.npy", HEADER, &0u32.to_le_bytes());
        refused("m.npz", &zip, ErrorKind::Corrupt);
        let mut zip = npz(&[("a.npy", STORED, &ramp()), ("b.npy", STORED, &ramp())]);
        lie(&mut zip, "b.npy", 46, b"a");
        refused("m.npz", &zip, ErrorKind::Corrupt);
    }

    #[test]
    fn what_is_not_for_us_is_named() {
        let mut zip = npz(&[("secret.npy", STORED, &ramp())]);
        lie(&mut zip, "secret.npy", FLAGS, &[1, 0]);
        let e = refused("m.npz", &zip, ErrorKind::Unsupported);
        assert_eq!(e.tensor(), Some("secret"));
        assert!(e.message().contains("encrypted"), "{e}");

        let mut zip = npz(&[("bz.npy", STORED, &ramp())]);
        lie(&mut zip, "bz.npy", METHOD, &[12, 0]);
        let e = refused("m.npz", &zip, ErrorKind::Unsupported);
        assert_eq!(e.tensor(), Some("bz"));

        for method in [STORED, DEFLATED] {
            let objects = npy(1, &dict("|O", false, "(1,)"), b"\x80\x02]q\0.");
            let e = refused(
                "m.npz",
                &npz(&[("o.npy", method, &objects)]),
                ErrorKind::Unsupported,
            );
            assert_eq!(e.tensor(), Some("o"));
            assert!(e.message().contains("pickle"), "{e}");
        }
        let torch = npz(&[("archive/data.pkl", STORED, b"\x80\x02}q\0.")]);
        let e = refused("m.pt", &torch, ErrorKind::Unsupported);
        assert!(e.message().contains("PyTorch"), "{e}");
        let other = npz(&[("readme.md", STORED, b"hello")]);
        refused("m.zip", &other, ErrorKind::Unsupported);
    }

    #[test]
    fn lies_of_a_deflated_header_are_refused() {
        for len in [0u32, 1, 100, 60_000, 1 << 20, u32::MAX] {
            let mut array = npy(2, &dict("<u2", false, "(2,)"), &[0; 4]);
            array[8..12].copy_from_slice(&len.to_le_bytes());
            let zip = npz(&[("a.npy", DEFLATED, &array)]);
            let e = open_bytes("m.npz", &zip).unwrap_err();
            assert!(
                matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::LimitExceeded),
                "{e}"
            );
            assert_eq!(e.tensor(), Some("a"));
        }
        for bytes in [
            &b""[..],
            b"\x93NUMPY",
            b"\x93NUMPY\x01\0",
            b"12345678901234567890",
        ] {
            let e = refused(
                "m.npz",
                &npz(&[("a.npy", DEFLATED, bytes)]),
                ErrorKind::Corrupt,
            );
            assert_eq!(e.tensor(), Some("a"));
        }
    }
}
