//! `.npy`: one NumPy array. Magic · version · header length · a Python dict in text ·
//! the elements.
//!
//! The dict has three keys and no freedom, so it is read here by a few lines that
//! accept nothing else; a general parser of Python literals would recurse on input
//! that cannot be trusted.

use std::sync::Arc;

use super::{Contents, Importer, NamedTensor, Order, Storage, shown};
use crate::bytes::{AlignedBytes, Reader};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::mmap::Mapping;
use crate::tensor::checked_bytes;

pub(super) const IMPORTER: Importer = Importer {
    name: "npy",
    summary: "one NumPy array, named by the file",
    extensions: &["npy"],
    detect,
    open,
};

const MAGIC: &[u8] = b"\x93NUMPY";

/// Bytes up to and with the longest header length field.
pub(super) const PREAMBLE_BYTES: usize = 12;

/// Bytes of header text. A plain array takes about 80, one of 64 dimensions 1500;
/// NumPy itself stops at 10,000.
const MAX_HEADER_BYTES: usize = 1 << 16;

fn detect(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

fn open(file: &Arc<Mapping>) -> Result<Contents> {
    let stem = file.path().file_stem().unwrap_or_default();
    let tensor = mapped(stem.to_string_lossy().into_owned(), file, 0, file.len())?;
    Ok(Contents {
        tensors: vec![tensor],
        ..Contents::default()
    })
}

/// The array in bytes `start..end` of a file.
pub(super) fn mapped(
    name: String,
    file: &Arc<Mapping>,
    start: usize,
    end: usize,
) -> Result<NamedTensor> {
    let bytes = &file[start..end];
    let in_file = |e: Error| match e.offset() {
        Some(at) => Error::new(e.kind(), e.message()).with_offset(start as u64 + at),
        None => e,
    };
    let header = preamble(bytes)
        .and_then(|text| Header::parse(bytes, text))
        .and_then(|h| h.check_len(bytes.len()).map(|()| h))
        .map_err(|e| in_file(e).with_tensor(shown(&name)))?;
    if header.swapped() {
        let copy = AlignedBytes::copy_of(&bytes[header.data_start..])
            .map_err(|e| e.with_tensor(shown(&name)))?;
        return header.owned(name, copy);
    }
    let storage = Storage::Mapped(file.clone(), start + header.data_start..end);
    NamedTensor::new(name, header.dtype, header.shape, header.order, storage)
}

/// The place of the header text, from the first [`PREAMBLE_BYTES`] bytes of the file or
/// as many as it has.
pub(super) fn preamble(bytes: &[u8]) -> Result<std::ops::Range<usize>> {
    let mut reader = Reader::new(bytes);
    if reader.take(MAGIC.len()).ok() != Some(MAGIC) {
        return Err(Error::corrupt("not an .npy file").with_offset(0));
    }
    let len = match (reader.u8()?, reader.u8()?) {
        (1, 0) => usize::from(reader.u16()?),
        (2 | 3, 0) => reader.u32()? as usize,
        (major, minor) => {
            return Err(Error::unsupported(format!(".npy version {major}.{minor}")).with_offset(6));
        }
    };
    let start = reader.position();
    Ok(start..start.saturating_add(len))
}

/// What an `.npy` header says, checked.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) dtype: DType,
    big_endian: bool,
    order: Order,
    shape: Vec<usize>,
    /// Where the elements begin, from the file's first byte.
    pub(super) data_start: usize,
    /// Their bytes.
    pub(super) data_len: usize,
}

impl Header {
    /// Reads the header text, which is `bytes[text]`.
    pub(super) fn parse(bytes: &[u8], text: std::ops::Range<usize>) -> Result<Self> {
        if text.end > bytes.len() {
            return Err(Error::corrupt(format!(
                "a header of {} bytes, {} are left",
                text.len(),
                bytes.len().saturating_sub(text.start)
            ))
            .with_offset(8));
        }
        check_header_len(text.len())?;
        let mut p = Parser {
            bytes: &bytes[..text.end],
            at: text.start,
        };
        let (mut descr, mut fortran, mut shape) = (None, None, None);
        p.expect(b'{')?;
        while !p.take(b'}') {
            let start = p.at;
            let twice = match p.string()? {
                b"descr" => descr.replace(p.value(Parser::dtype)?).is_some(),
                b"fortran_order" => fortran.replace(p.value(Parser::boolean)?).is_some(),
                b"shape" => shape.replace(p.value(Parser::shape)?).is_some(),
                _ => return Err(p.error_at(start, "'descr', 'fortran_order' or 'shape'")),
            };
            if twice {
                return Err(Error::corrupt("a key comes twice").with_offset(start as u64));
            }
            if !p.take(b',') {
                p.expect(b'}')?;
                break;
            }
        }
        p.skip_space();
        if p.at != p.bytes.len() {
            return Err(p.error("the end of the header"));
        }
        let missing = |key| Error::corrupt(format!("the header has no '{key}'"));
        let (dtype, big_endian) = descr.ok_or_else(|| missing("descr"))?;
        let fortran = fortran.ok_or_else(|| missing("fortran_order"))?;
        let shape = shape.ok_or_else(|| missing("shape"))?;
        Ok(Self {
            data_len: checked_bytes(dtype, &shape)?,
            data_start: text.end,
            // One dimension is the same in both orders.
            order: if fortran && shape.len() > 1 {
                Order::ColumnMajor
            } else {
                Order::RowMajor
            },
            dtype,
            big_endian,
            shape,
        })
    }

    /// Whether a file of `len` bytes holds the elements and nothing else.
    pub(super) fn check_len(&self, len: usize) -> Result<()> {
        let found = len.saturating_sub(self.data_start);
        if found != self.data_len {
            return Err(Error::corrupt(format!(
                "{} {:?} takes {} bytes, the file gives it {found}",
                self.dtype, self.shape, self.data_len
            ))
            .with_offset(self.data_start as u64));
        }
        Ok(())
    }

    fn swapped(&self) -> bool {
        self.big_endian && self.dtype.size() > 1
    }

    /// The tensor of these elements, as they stood in the file.
    pub(super) fn owned(self, name: String, mut data: AlignedBytes) -> Result<NamedTensor> {
        if self.swapped() {
            for element in data.chunks_exact_mut(self.dtype.size()) {
                element.reverse();
            }
        }
        let storage = Storage::Owned(Arc::new(data));
        NamedTensor::new(name, self.dtype, self.shape, self.order, storage)
    }
}

pub(super) fn check_header_len(len: usize) -> Result<()> {
    if len > MAX_HEADER_BYTES {
        return Err(Error::limit(format!(
            "a header of {len} bytes; at most {MAX_HEADER_BYTES} are supported"
        ))
        .with_offset(8));
    }
    Ok(())
}

/// Reads the one kind of Python dict that stands in a header.
struct Parser<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Parser<'a> {
    fn error(&self, expected: &str) -> Error {
        self.error_at(self.at, expected)
    }

    fn error_at(&self, at: usize, expected: &str) -> Error {
        let found = match self.bytes.get(at) {
            Some(b) => format!("'{}'", b.escape_ascii()),
            None => "the end".to_owned(),
        };
        Error::corrupt(format!("bad header: {expected} expected, {found} found"))
            .with_offset(at as u64)
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while self.peek().is_some_and(|b| b.is_ascii_whitespace()) {
            self.at += 1;
        }
    }

    fn take(&mut self, byte: u8) -> bool {
        self.skip_space();
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, byte: u8) -> Result<()> {
        if self.take(byte) {
            return Ok(());
        }
        Err(self.error(&format!("'{}'", char::from(byte))))
    }

    /// What stands after a colon.
    fn value<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.expect(b':')?;
        self.skip_space();
        read(self)
    }

    fn string(&mut self) -> Result<&'a [u8]> {
        self.skip_space();
        let quote = match self.peek() {
            Some(q @ (b'\'' | b'"')) => q,
            _ => return Err(self.error("a string")),
        };
        let rest = &self.bytes[self.at + 1..];
        match rest.iter().position(|b| *b == quote || *b == b'\\') {
            Some(end) if rest[end] == quote => {
                self.at += end + 2;
                Ok(&rest[..end])
            }
            _ => Err(self.error("a plain string")),
        }
    }

    fn boolean(&mut self) -> Result<bool> {
        for (word, value) in [(&b"True"[..], true), (b"False", false)] {
            if self.bytes[self.at..].starts_with(word) {
                self.at += word.len();
                return Ok(value);
            }
        }
        Err(self.error("True or False"))
    }

    fn shape(&mut self) -> Result<Vec<usize>> {
        self.expect(b'(')?;
        let mut shape = Vec::new();
        while !self.take(b')') {
            shape.push(self.dimension()?);
            if !self.take(b',') {
                // In Python `(3)` is a number and not a shape.
                if shape.len() == 1 {
                    return Err(self.error("','"));
                }
                self.expect(b')')?;
                break;
            }
        }
        Ok(shape)
    }

    fn dimension(&mut self) -> Result<usize> {
        let start = self.at;
        while self.peek().is_some_and(|b| b.is_ascii_digit()) {
            self.at += 1;
        }
        let digits = &self.bytes[start..self.at];
        if digits.is_empty() {
            return Err(self.error("a dimension"));
        }
        // Python 2 wrote long integers with a letter.
        if self.peek() == Some(b'L') {
            self.at += 1;
        }
        let text = str::from_utf8(digits).unwrap_or_default();
        text.parse().map_err(|_| {
            Error::limit(format!("the dimension {} is too large", shown(text)))
                .with_offset(start as u64)
        })
    }

    /// An element type and whether it is big-endian.
    fn dtype(&mut self) -> Result<(DType, bool)> {
        let start = self.at;
        let unsupported = |what: String| Error::unsupported(what).with_offset(start as u64);
        if matches!(self.peek(), Some(b'[' | b'(')) {
            return Err(unsupported(
                "structured arrays are not supported; save each field as an array".to_owned(),
            ));
        }
        let text = self.string()?;
        let (order, kind) = text.split_at_checked(1).unwrap_or_default();
        let dtype = match kind {
            b"f8" => DType::F64,
            b"f4" => DType::F32,
            b"f2" => DType::F16,
            b"i8" => DType::I64,
            b"i4" => DType::I32,
            b"i2" => DType::I16,
            b"i1" => DType::I8,
            b"u8" => DType::U64,
            b"u4" => DType::U32,
            b"u2" => DType::U16,
            b"u1" => DType::U8,
            b"b1" => DType::Bool,
            _ => {
                let hint = match kind.first() {
                    Some(b'O') => ": Python objects, stored as a pickle, which is never executed",
                    Some(b'V') if kind == b"V2" => {
                        ": two bytes of no stated type, as NumPy stores bfloat16; save it as \
                         float32, or as bfloat16 in a safetensors file"
                    }
                    Some(b'c') => ": complex numbers",
                    Some(b'U' | b'S') => ": text",
                    Some(b'M' | b'm') => ": dates",
                    _ => "",
                };
                return Err(unsupported(format!(
                    "element type '{}' is not supported{hint}",
                    text[..text.len().min(64)].escape_ascii()
                )));
            }
        };
        match order {
            b"<" => Ok((dtype, false)),
            b">" => Ok((dtype, true)),
            b"|" if dtype.size() == 1 => Ok((dtype, false)),
            _ => Err(Error::corrupt(format!(
                "element type '{}' does not state its byte order",
                text.escape_ascii()
            ))
            .with_offset(start as u64)),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::tests::{open_bytes, refused};
    use super::*;
    use crate::error::ErrorKind;

    /// An `.npy` file as NumPy writes it.
    pub(in super::super) fn npy(version: u8, dict: &str, data: &[u8]) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend([version, 0]);
        let preamble = if version == 1 { 10 } else { 12 };
        let len = (preamble + dict.len() + 1).next_multiple_of(64) - preamble;
        match version {
            1 => out.extend((len as u16).to_le_bytes()),
            _ => out.extend((len as u32).to_le_bytes()),
        }
        let end = out.len() + len - 1;
        out.extend(dict.as_bytes());
        out.resize(end, b' ');
        out.push(b'\n');
        out.extend(data);
        out
    }

    pub(in super::super) fn dict(descr: &str, fortran: bool, shape: &str) -> String {
        let fortran = if fortran { "True" } else { "False" };
        format!("{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}")
    }

    fn values(bytes: &[u8]) -> (Vec<usize>, Vec<f32>) {
        let model = open_bytes("weights.npy", bytes).unwrap();
        assert_eq!(model.format(), "npy");
        let tensor = &model.tensors()[0];
        assert_eq!(tensor.name(), "weights");
        let view = tensor.view();
        let mut out = vec![0.0; view.len()];
        view.read_rows_f32(0..view.rows(), &mut out);
        (tensor.shape().to_vec(), out)
    }

    #[test]
    fn every_version_order_and_byte_order_reads_the_same() {
        let expected: Vec<f32> = (0..6).map(|v| v as f32).collect();
        // Column-major order of [[0, 1, 2], [3, 4, 5]].
        let columns = [0.0f32, 3.0, 1.0, 4.0, 2.0, 5.0];
        for version in [1, 2, 3] {
            for (fortran, order) in [(false, expected.as_slice()), (true, &columns)] {
                for (descr, dtype) in [
                    ("f8", DType::F64),
                    ("f4", DType::F32),
                    ("f2", DType::F16),
                    ("i8", DType::I64),
                    ("i4", DType::I32),
                    ("i2", DType::I16),
                    ("i1", DType::I8),
                    ("u8", DType::U64),
                    ("u4", DType::U32),
                    ("u2", DType::U16),
                    ("u1", DType::U8),
                ] {
                    let mut data = vec![0; 6 * dtype.size()];
                    dtype.from_f32(order, &mut data);
                    let file = |descr: &str, data: &[u8]| {
                        values(&npy(version, &dict(descr, fortran, "(2, 3)"), data))
                    };
                    let little = file(&format!("<{descr}"), &data);
                    for element in data.chunks_exact_mut(dtype.size()) {
                        element.reverse();
                    }
                    let big = file(&format!(">{descr}"), &data);
                    assert_eq!(little, (vec![2, 3], expected.clone()), "{descr}");
                    assert_eq!(big, little, "{descr}");
                    if dtype.size() == 1 {
                        assert_eq!(file(&format!("|{descr}"), &data), little);
                    }
                }
            }
        }
    }

    #[test]
    fn scalars_empty_arrays_bools_and_python_2_shapes() {
        let two = 2.0f32.to_le_bytes();
        assert_eq!(
            values(&npy(1, &dict("<f4", false, "()"), &two)),
            (vec![], vec![2.0])
        );
        assert_eq!(
            values(&npy(1, &dict("<f4", true, "(1L,)"), &two)),
            (vec![1], vec![2.0])
        );
        assert_eq!(
            values(&npy(1, &dict("<f4", true, "(0, 3)"), &[])),
            (vec![0, 3], vec![])
        );
        assert_eq!(
            values(&npy(1, &dict("|b1", false, "(2,)"), &[0, 1])),
            (vec![2], vec![0.0, 1.0])
        );
        let other = r#"{"shape":(2,1,),"fortran_order":False,"descr":"|u1"}"#;
        assert_eq!(
            values(&npy(1, other, &[7, 8])),
            (vec![2, 1], vec![7.0, 8.0])
        );
    }

    #[test]
    fn contiguous_arrays_stay_in_the_file() {
        let bytes = npy(1, &dict("<i2", true, "(2,)"), &[1, 0, 2, 0]);
        let model = open_bytes("a.npy", &bytes).unwrap();
        assert_eq!(model.tensors()[0].view().backing().unwrap().offset, 128);
        let bytes = npy(1, &dict(">i2", false, "(2,)"), &[0, 1, 0, 2]);
        let model = open_bytes("a.npy", &bytes).unwrap();
        assert!(model.tensors()[0].view().backing().is_none());
    }

    #[test]
    fn every_cut_and_every_addition_is_corrupt() {
        let mut whole = npy(1, &dict("<f4", false, "(2,)"), &[0; 8]);
        for len in 0..whole.len() {
            refused("a.npy", &whole[..len], ErrorKind::Corrupt);
        }
        whole.push(0);
        let e = refused("a.npy", &whole, ErrorKind::Corrupt);
        assert_eq!((e.tensor(), e.offset()), (Some("a"), Some(128)));
    }

    #[test]
    fn changed_bytes_never_panic() {
        let whole = npy(1, &dict("<f4", true, "(1, 2)"), &[0; 8]);
        for at in 0..80 {
            for value in 0..=255 {
                let mut bytes = whole.clone();
                bytes[at] = value;
                if let Ok(model) = open_bytes("a.npy", &bytes) {
                    for t in model.tensors() {
                        t.view().to_dense().unwrap();
                    }
                }
            }
        }
    }

    #[test]
    fn header_lies_are_refused() {
        let corrupt = |text: &str| {
            let e = refused("a.npy", &npy(1, text, &[0; 8]), ErrorKind::Corrupt);
            assert_eq!(e.tensor(), Some("a"), "{e}");
        };
        for shape in [
            "(-2,)", "(2)", "(2.0,)", "2", "[2]", "(2,,)", "(,)", "(2", "(2,) ()", "((2,),)",
            "('2',)", "(3,)", "(1,)",
        ] {
            corrupt(&dict("<f4", false, shape));
        }
        for text in [
            "",
            "{}",
            "{'descr': '<f4'}",
            "{'descr': '<f4', 'shape': (2,)}",
            "{'fortran_order': False, 'shape': (2,)}",
            "{'descr': '<f4', 'fortran_order': False}",
            "{'descr': '<f4', 'fortran_order': 0, 'shape': (2,)}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), 'more': 1}",
            "{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (2,)}",
            "{'descr': '<f\\x34', 'fortran_order': False, 'shape': (2,)}",
            "{'descr: <f4",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (2,)} {}",
            "import os",
        ] {
            corrupt(text);
        }
        corrupt(&dict("=f4", false, "(2,)"));
        corrupt(&dict("|f4", false, "(2,)"));
        corrupt(&format!(
            "{{'descr': '<f4', 'shape': {}",
            "(".repeat(60_000)
        ));
        for shape in [
            "(99999999999999999999999,)",
            "(18446744073709551615, 3)",
            "(4294967296, 4294967296, 1)",
            "(1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2)",
        ] {
            let text = dict("<f4", false, shape);
            refused("a.npy", &npy(1, &text, &[0; 8]), ErrorKind::LimitExceeded);
        }
        let bools = npy(1, &dict("|b1", false, "(3,)"), &[0, 1, 2]);
        let e = refused("a.npy", &bools, ErrorKind::Corrupt);
        assert_eq!(e.offset(), Some(128 + 2));
    }

    #[test]
    fn header_length_lies_are_refused() {
        let mut bytes = npy(2, &dict("<f4", false, "(2,)"), &[0; 8]);
        for len in [0u32, 1, 117, 1 << 20, u32::MAX] {
            bytes[8..12].copy_from_slice(&len.to_le_bytes());
            let e = refused("a.npy", &bytes, ErrorKind::Corrupt);
            assert!(e.offset().is_some(), "{e}");
        }
        let padded = dict("<f4", false, "(2,)") + &" ".repeat(MAX_HEADER_BYTES);
        let e = npy(2, &padded, &[0; 8]);
        refused("a.npy", &e, ErrorKind::LimitExceeded);
        bytes[6] = 9;
        refused("a.npy", &bytes, ErrorKind::Unsupported);
    }

    #[test]
    fn element_types_that_are_not_ours_are_named() {
        for (descr, hint) in [
            ("|O", "pickle"),
            ("|V2", "bfloat16"),
            ("|V3", "'|V3'"),
            ("<c8", "complex"),
            ("<U5", "text"),
            ("<M8[ns]", "dates"),
            ("<f16", "'<f16'"),
            ("<f3", "'<f3'"),
            ("f4", "'f4'"),
        ] {
            let bytes = npy(1, &dict(descr, false, "(2,)"), &[0; 8]);
            let e = refused("a.npy", &bytes, ErrorKind::Unsupported);
            assert!(e.message().contains(hint), "{e}");
            assert_eq!(e.tensor(), Some("a"));
        }
        for descr in ["[('x', '<f4')]", "('<f4', (2,))"] {
            let text = format!("{{'descr': {descr}, 'fortran_order': False, 'shape': (1,)}}");
            refused("a.npy", &npy(1, &text, &[0; 8]), ErrorKind::Unsupported);
        }
    }
}
