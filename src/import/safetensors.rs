//! `.safetensors`: u64 header length · JSON header · tensor bytes without gaps.
//!
//! The header is read here rather than with the `safetensors` crate, which keeps the
//! last of two tensors of one name, does not say which tensor has a dtype it does not
//! know, and gives no offsets in its errors. A test holds the two readers against each
//! other.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::{
    DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};

use super::{Contents, Importer, NamedTensor, Order, Storage, check_count, duplicate, shown};
use crate::bytes::Reader;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::limits;
use crate::mmap::Mapping;
use crate::tensor::checked_bytes;

pub(super) const IMPORTER: Importer = Importer {
    name: "safetensors",
    summary: "one .safetensors file",
    extensions: &["safetensors"],
    detect,
    open: read,
};

/// The header length comes first and may lie; the header itself is a JSON object.
fn detect(bytes: &[u8]) -> bool {
    let text = bytes.iter().take(8).all(|b| (0x09..0x7f).contains(b));
    let mut header = bytes.iter().skip(8);
    !text
        && header.next() == Some(&b'{')
        && matches!(
            header.find(|b| !b.is_ascii_whitespace()),
            None | Some(b'"' | b'}')
        )
}

pub(super) fn read(file: &Arc<Mapping>) -> Result<Contents> {
    let mut reader = Reader::new(file);
    let header_len = reader
        .u64()
        .map_err(|_| Error::corrupt("cut short inside the header length").with_offset(0))?;
    let header_start = reader.position();
    if header_len > reader.remaining() as u64 {
        return Err(Error::corrupt(format!(
            "a header of {header_len} bytes in a file of {}",
            file.len()
        ))
        .with_offset(0));
    }
    if header_len > limits::MAX_INDEX_BYTES {
        return Err(Error::limit(format!(
            "a header of {header_len} bytes; at most {} are supported",
            limits::MAX_INDEX_BYTES
        ))
        .with_offset(0));
    }
    let text = reader.take(header_len as usize)?;
    if text.first() != Some(&b'{') {
        return Err(
            Error::corrupt("the header is not a JSON object").with_offset(header_start as u64)
        );
    }
    let mut header = Header::default();
    let mut json = serde_json::Deserializer::from_slice(text);
    let parsed = (&mut header)
        .deserialize(&mut json)
        .and_then(|()| json.end());
    if let Err(e) = parsed {
        return Err(header.error(e, text, header_start));
    }
    tensors(file, header, reader.position())
}

/// Puts the header's tensors in the order of their data, and checks that they cover it
/// from first to last byte, each as long as dtype and shape demand.
fn tensors(file: &Arc<Mapping>, header: Header, data_start: usize) -> Result<Contents> {
    let data_len = file.len() - data_start;
    let mut entries = header.tensors;
    entries.sort_by_key(|(_, e)| e.data_offsets);
    let mut tensors = Vec::with_capacity(entries.len());
    let mut expected = 0u64;
    for (name, entry) in entries {
        let (begin, end) = entry.data_offsets;
        let at = (data_start as u64).saturating_add(begin);
        let fail = |e: Error| e.with_tensor(shown(&name)).with_offset(at);
        let corrupt = |message: String| fail(Error::corrupt(message));
        let dtype = dtype(&entry.dtype).map_err(fail)?;
        let bytes = checked_bytes(dtype, &entry.shape.0).map_err(fail)?;
        if end < begin || end > data_len as u64 {
            return Err(corrupt(format!(
                "data offsets {begin}..{end} do not lie inside the {data_len} bytes of data"
            )));
        }
        if begin != expected {
            let what = if begin < expected {
                "overlap the tensor before"
            } else {
                "leave a gap after the tensor before"
            };
            return Err(corrupt(format!(
                "data offsets {begin}..{end} {what}, which ends at {expected}"
            )));
        }
        if end - begin != bytes as u64 {
            return Err(corrupt(format!(
                "{dtype} {:?} takes {bytes} bytes, the data offsets give it {}",
                entry.shape.0,
                end - begin
            )));
        }
        expected = end;
        let range = data_start + begin as usize..data_start + end as usize;
        let storage = Storage::Mapped(file.clone(), range);
        tensors.push(NamedTensor::new(
            name,
            dtype,
            entry.shape.0,
            Order::RowMajor,
            storage,
        )?);
    }
    if expected != data_len as u64 {
        return Err(Error::corrupt(format!(
            "{} bytes after the last tensor",
            data_len as u64 - expected
        ))
        .with_offset(data_start as u64 + expected));
    }
    Ok(Contents {
        tensors,
        metadata: header.metadata.unwrap_or_default(),
        others: Vec::new(),
    })
}

fn dtype(name: &str) -> Result<DType> {
    Ok(match name {
        "F64" => DType::F64,
        "F32" => DType::F32,
        "F16" => DType::F16,
        "BF16" => DType::BF16,
        "I64" => DType::I64,
        "I32" => DType::I32,
        "I16" => DType::I16,
        "I8" => DType::I8,
        "U64" => DType::U64,
        "U32" => DType::U32,
        "U16" => DType::U16,
        "U8" => DType::U8,
        "BOOL" => DType::Bool,
        _ => {
            return Err(Error::unsupported(format!(
                "dtype '{}' is not supported",
                shown(name)
            )));
        }
    })
}

#[derive(Default)]
struct Header {
    tensors: Vec<(String, Entry)>,
    metadata: Option<BTreeMap<String, String>>,
    /// The key whose value is being read, for errors.
    current: Option<String>,
    /// An error that is not JSON's.
    failure: Option<Error>,
}

#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Dims,
    data_offsets: (u64, u64),
}

impl Header {
    fn error(self, e: serde_json::Error, text: &[u8], text_start: usize) -> Error {
        let e = self
            .failure
            .unwrap_or_else(|| Error::corrupt(format!("bad header: {}", json_message(&e))))
            .with_offset((text_start + json_offset(text, &e)) as u64);
        match self.current {
            Some(name) => e.with_tensor(shown(&name)),
            None => e,
        }
    }
}

impl<'de> DeserializeSeed<'de> for &mut Header {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(
        self,
        deserializer: D,
    ) -> std::result::Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for &mut Header {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        let mut names = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                if self.metadata.is_some() {
                    return Err(A::Error::custom("two __metadata__"));
                }
                let read: Option<UniqueMap> = map.next_value()?;
                self.metadata = Some(read.map(|m| m.0).unwrap_or_default());
                continue;
            }
            self.current = Some(name.clone());
            if !names.insert(name.clone()) {
                self.failure = Some(duplicate(&name));
                return Err(A::Error::custom("duplicate"));
            }
            if let Err(e) = check_count(names.len()) {
                self.failure = Some(e);
                return Err(A::Error::custom("count"));
            }
            let entry = map.next_value()?;
            self.tensors.push((name, entry));
            self.current = None;
        }
        Ok(())
    }
}

/// A shape. Of one that is far too long no more is kept than shows that it is.
struct Dims(Vec<usize>);

impl<'de> Deserialize<'de> for Dims {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct DimsVisitor;
        impl<'de> Visitor<'de> for DimsVisitor {
            type Value = Dims;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of dimensions")
            }
            fn visit_seq<A: SeqAccess<'de>>(
                self,
                mut seq: A,
            ) -> std::result::Result<Dims, A::Error> {
                let mut dims = Vec::new();
                while dims.len() <= limits::MAX_DIMS
                    && let Some(d) = seq.next_element::<usize>()?
                {
                    dims.push(d);
                }
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Dims(dims))
            }
        }
        deserializer.deserialize_seq(DimsVisitor)
    }
}

/// An object of strings in which no key comes twice.
pub(super) struct UniqueMap(pub(super) BTreeMap<String, String>);

impl<'de> Deserialize<'de> for UniqueMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct MapVisitor;
        impl<'de> Visitor<'de> for MapVisitor {
            type Value = UniqueMap;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings")
            }
            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> std::result::Result<UniqueMap, A::Error> {
                let mut out = BTreeMap::new();
                while let Some((key, value)) = map.next_entry::<String, String>()? {
                    if out.contains_key(&key) {
                        let key = shown(&key);
                        return Err(A::Error::custom(format_args!(
                            "the key '{key}' comes twice"
                        )));
                    }
                    out.insert(key, value);
                }
                Ok(UniqueMap(out))
            }
        }
        deserializer.deserialize_map(MapVisitor)
    }
}

/// What serde_json has to say, without line and column: those are given as an offset.
pub(super) fn json_message(e: &serde_json::Error) -> String {
    let mut message = e.to_string();
    if let Some(at) = message.rfind(" at line ") {
        message.truncate(at);
    }
    // It quotes values from the file, however long.
    shown(&message).to_owned()
}

/// Byte offset in `text` of an error that serde_json gives as line and column.
pub(super) fn json_offset(text: &[u8], e: &serde_json::Error) -> usize {
    let line_start = match e.line() {
        0 | 1 => 0,
        line => text
            .iter()
            .enumerate()
            .filter(|(_, b)| **b == b'\n')
            .nth(line - 2)
            .map_or(text.len(), |(at, _)| at + 1),
    };
    (line_start + e.column().saturating_sub(1)).min(text.len())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{open_bytes, refused};
    use super::*;
    use crate::error::ErrorKind;

    /// A file of this header and data, with an honest header length.
    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        let mut out = (header.len() as u64).to_le_bytes().to_vec();
        out.extend(header.as_bytes());
        out.extend(data);
        out
    }

    fn tensor(name: &str, dtype: &str, shape: &str, begin: u64, end: u64) -> String {
        format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{begin},{end}]}}"#)
    }

    fn corrupt(header: &str, data: &[u8]) -> Error {
        refused("m.safetensors", &file(header, data), ErrorKind::Corrupt)
    }

    /// Two tensors whose data is not in the order of the header.
    fn good() -> Vec<u8> {
        let header = format!(
            "{{{},\"__metadata__\":{{\"format\":\"pt\"}},{}}}  ",
            tensor("b", "I16", "[2]", 12, 16),
            tensor("a", "F32", "[3,1]", 0, 12),
        );
        file(&header, &(0..16).collect::<Vec<u8>>())
    }

    #[test]
    fn tensors_come_in_the_order_of_their_data_and_stay_in_the_file() {
        let model = open_bytes("m.safetensors", &good()).unwrap();
        let names: Vec<_> = model.tensors().iter().map(|t| t.name()).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(model.metadata()["format"], "pt");
        assert_eq!(model.format(), "safetensors");
        assert_eq!(model.input_bytes(), good().len() as u64);
        let b = model.get("b").unwrap();
        assert_eq!((b.dtype(), b.shape()), (DType::I16, &[2][..]));
        let view = b.view();
        assert_eq!(view.contiguous_bytes(), Some(&[12, 13, 14, 15][..]));
        let backing = view.backing().unwrap();
        assert_eq!(
            backing.mapping[backing.offset..].as_ptr(),
            view.contiguous_bytes().unwrap().as_ptr()
        );
        // The content is enough, whatever the name.
        assert!(open_bytes("weights.bin", &good()).is_ok());
    }

    #[test]
    fn every_cut_is_corrupt() {
        let whole = good();
        for len in 0..whole.len() {
            refused("m.safetensors", &whole[..len], ErrorKind::Corrupt);
        }
        let mut long = whole;
        long.push(0);
        let e = refused("m.safetensors", &long, ErrorKind::Corrupt);
        assert_eq!(e.offset(), Some(long.len() as u64 - 1));
    }

    #[test]
    fn changed_bytes_never_panic() {
        let whole = good();
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut bytes = whole.clone();
                bytes[at] ^= 1 << bit;
                if let Ok(model) = open_bytes("m.safetensors", &bytes) {
                    for t in model.tensors() {
                        t.view().to_dense().unwrap();
                    }
                }
            }
        }
    }

    #[test]
    fn header_length_lies() {
        for len in [0, 1, u64::MAX, u64::MAX - 7, 1 << 63, 1 << 32, 1000] {
            let mut bytes = good();
            bytes[..8].copy_from_slice(&len.to_le_bytes());
            let e = refused("m.safetensors", &bytes, ErrorKind::Corrupt);
            assert!(e.offset().is_some(), "{e}");
        }
    }

    #[test]
    fn a_header_above_the_limit_is_refused_unread() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.safetensors");
        let len = limits::MAX_INDEX_BYTES + 1;
        let mut start = len.to_le_bytes().to_vec();
        start.extend(b"{\"");
        std::fs::write(&path, start).unwrap();
        // A hole: takes no space.
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(len + 8).unwrap();
        let e = super::super::Model::open(&path).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::LimitExceeded);
    }

    #[test]
    fn offsets_that_lie_are_refused_with_name_and_offset() {
        let a = tensor("a", "U8", "[4]", 0, 4);
        for (b, data) in [
            (tensor("b", "U8", "[4]", 3, 7), 8),   // overlaps
            (tensor("b", "U8", "[4]", 5, 9), 9),   // gap
            (tensor("b", "U8", "[4]", 4, 8), 7),   // past the end
            (tensor("b", "U8", "[4]", 8, 4), 8),   // end before begin
            (tensor("b", "U8", "[5]", 4, 8), 8),   // shape too large
            (tensor("b", "F32", "[4]", 4, 8), 8),  // dtype too large
            (tensor("b", "BOOL", "[4]", 4, 8), 8), // 9 is no bool
            (tensor("b", "U8", "[4]", u64::MAX - 3, u64::MAX), 8),
        ] {
            let e = corrupt(&format!("{{{a},{b}}}"), &vec![9; data]);
            assert_eq!(e.tensor(), Some("b"), "{e}");
            assert!(e.offset().is_some(), "{e}");
        }
        // A hole before the first and bytes after the last.
        corrupt(&format!("{{{}}}", tensor("a", "U8", "[4]", 1, 5)), &[0; 5]);
        corrupt(&format!("{{{a}}}"), &[0; 5]);
        corrupt("{}", &[0; 1]);
    }

    #[test]
    fn shapes_that_overflow_are_refused() {
        for shape in [
            "[9223372036854775807,9]",
            "[4294967296,4294967296,4294967296]",
            "[70368744177665]",
            "[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]",
        ] {
            let header = format!("{{{}}}", tensor("huge", "F64", shape, 0, 8));
            let e = refused(
                "m.safetensors",
                &file(&header, &[0; 8]),
                ErrorKind::LimitExceeded,
            );
            assert_eq!(e.tensor(), Some("huge"));
        }
        for shape in [
            "[-1]",
            "[1.5]",
            "[18446744073709551616]",
            "[[1]]",
            "1",
            "null",
        ] {
            let e = corrupt(&format!("{{{}}}", tensor("x", "F64", shape, 0, 8)), &[0; 8]);
            assert_eq!(e.tensor(), Some("x"), "{e}");
        }
        // A zero beside them does not make immense dimensions fit.
        let header = format!(
            "{{{}}}",
            tensor("e", "F64", "[9223372036854775807,0,9]", 0, 0)
        );
        let e = open_bytes("m.safetensors", &file(&header, &[])).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::LimitExceeded);
        assert_eq!(e.tensor(), Some("e"));
    }

    #[test]
    fn dtypes_that_are_not_ours_are_named() {
        for dtype in ["F8_E4M3", "F4", "C64", "f32", ""] {
            let header = format!("{{{}}}", tensor("w", dtype, "[8]", 0, 8));
            let e = refused(
                "m.safetensors",
                &file(&header, &[0; 8]),
                ErrorKind::Unsupported,
            );
            assert_eq!(e.tensor(), Some("w"));
            assert!(e.message().contains(&format!("'{dtype}'")), "{e}");
        }
    }

    #[test]
    fn bad_json_is_refused_with_its_offset() {
        let a = tensor("a", "U8", "[1]", 0, 1);
        let e = corrupt(&format!("{{{a},{a}}}"), &[0; 2]);
        assert_eq!(e.tensor(), Some("a"));
        assert!(e.message().contains("two tensors have this name"), "{e}");
        for header in [
            "{\"a\":1}",
            "{\"a\":{}}",
            "{\"a\":{\"dtype\":\"U8\",\"shape\":[1]}}",
            "{\"a\":null}",
            "{\"a\"",
            "{}x",
            "{\"__metadata__\":{\"k\":1}}",
            "{\"__metadata__\":{\"k\":\"1\",\"k\":\"2\"}}",
            "{\"__metadata__\":{},\"__metadata__\":{}}",
            "[]",
            "\n\n{}",
        ] {
            assert!(corrupt(header, &[]).offset().is_some(), "{header}");
        }
        // The offset is that of the offending byte: here the x behind eight bytes of
        // length, two of JSON and a new line.
        assert_eq!(corrupt("{}\nx", &[]).offset(), Some(8 + 3));
        let mut bytes = good();
        bytes[8 + 2] = 0xff;
        refused("m.safetensors", &bytes, ErrorKind::Corrupt);
    }

    #[test]
    fn deep_nesting_does_not_reach_the_stack() {
        let deep = "[".repeat(100_000);
        let maps = "{\"a\":".repeat(100_000);
        for header in [
            format!("{{\"a\":{deep}"),
            format!("{{\"a\":{maps}"),
            format!("{{\"a\":{{\"more\":{deep}"),
            format!("{{\"a\":{{\"shape\":{deep}"),
            format!("{{\"__metadata__\":{deep}"),
            maps.clone(),
        ] {
            corrupt(&header, &[]);
        }
        let more = format!("{}{}", deep, "]".repeat(100_000));
        let entry = tensor("a", "U8", "[0]", 0, 0).replace("}", &format!(",\"more\":{more}}}"));
        // Unknown keys are passed over, however deep.
        assert!(open_bytes("m.safetensors", &file(&format!("{{{entry}}}"), &[])).is_ok());
    }

    #[test]
    fn long_names_are_refused_and_not_repeated_whole() {
        let name = "n".repeat(limits::MAX_NAME_BYTES + 1);
        let header = format!("{{{}}}", tensor(&name, "U8", "[0]", 0, 0));
        let e = refused(
            "m.safetensors",
            &file(&header, &[]),
            ErrorKind::LimitExceeded,
        );
        assert!(e.to_string().len() < 1000);
    }

    /// What we accept the format's own reader accepts, with the same tensors; what it
    /// refuses we refuse.
    #[test]
    fn agrees_with_the_safetensors_crate() {
        let whole = good();
        let mut accepted = 0;
        for at in 0..whole.len() - 16 {
            for value in [
                b'0',
                b'1',
                b'2',
                b'"',
                b'}',
                b' ',
                b',',
                0x80,
                whole[at] ^ 1,
            ] {
                let mut bytes = whole.clone();
                bytes[at] = value;
                let ours = open_bytes("m.safetensors", &bytes);
                let theirs = safetensors::SafeTensors::deserialize(&bytes);
                match (&ours, &theirs) {
                    (Ok(ours), Ok(theirs)) => {
                        accepted += 1;
                        assert_eq!(ours.tensors().len(), theirs.len());
                        for t in ours.tensors() {
                            let their = theirs.tensor(t.name()).unwrap();
                            assert_eq!(t.shape(), their.shape());
                            assert_eq!(t.view().contiguous_bytes().unwrap(), their.data());
                        }
                    }
                    (Ok(_), Err(e)) => panic!("only we accept byte {value} at {at}: {e}"),
                    // A second tensor of the same name is where we are stricter.
                    (Err(e), Ok(_)) => assert!(e.message().contains("this name"), "{e}"),
                    (Err(_), Err(_)) => {}
                }
            }
        }
        assert!(accepted > 100);
    }
}
