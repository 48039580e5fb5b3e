//! Foreign model files, opened as named tensor views.
//!
//! One file a format, one line in [`IMPORTERS`]. The content of a file decides which
//! importer reads it; its extension only serves to tell a damaged file of a known
//! format from an unknown one. Tensors stay in the mapped file: a [`View`] of one
//! points there, and bytes are copied only where they must be changed (inflated,
//! or turned from big-endian to little-endian).
//!
//! Nothing here knows how tensors are compressed, and nothing here runs code from a
//! file: pickles are refused by name.

mod foreign;
mod npy;
mod npz;
mod safetensors;
mod sharded;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::bytes::AlignedBytes;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::limits;
use crate::mmap::Mapping;
use crate::tensor::{View, checked_bytes};

/// Every importer. The first whose `detect` says yes opens the file.
pub const IMPORTERS: &[Importer] = &[
    sharded::IMPORTER,
    safetensors::IMPORTER,
    npy::IMPORTER,
    npz::IMPORTER,
];

/// A line of the registry: one foreign format.
#[derive(Debug)]
pub struct Importer {
    /// Short name of the format.
    pub name: &'static str,
    /// What it reads, in one line.
    pub summary: &'static str,
    /// Extensions, lower case, without the dot. A file that nothing recognises but that
    /// is named like this is opened all the same, so that the error says what is wrong.
    pub extensions: &'static [&'static str],
    /// Whether the whole file looks like this format. Must be quick and sure.
    detect: fn(&[u8]) -> bool,
    /// Reads it. Errors need not name the file.
    open: fn(&Arc<Mapping>) -> Result<Contents>,
}

/// What an importer found. Tensors are in the order of their data.
#[derive(Debug, Default)]
struct Contents {
    tensors: Vec<NamedTensor>,
    metadata: BTreeMap<String, String>,
    /// Files read besides the one that was opened.
    others: Vec<Arc<Mapping>>,
}

/// A model file, or several that make one model, open for reading.
#[derive(Debug)]
pub struct Model {
    format: &'static str,
    tensors: Vec<NamedTensor>,
    metadata: BTreeMap<String, String>,
    aliases: Vec<(String, String)>,
    /// Every name, aliases too, to its place in `tensors`.
    index: HashMap<String, usize>,
    sources: Vec<Arc<Mapping>>,
}

impl Model {
    /// Opens a model file, an index of shards, or a folder that holds either.
    ///
    /// Of several tensors with equal dtype, shape and bytes (and at least 4096 elements)
    /// only the first stays in [`tensors`](Self::tensors); the others, usually tied
    /// weights, become [`aliases`](Self::aliases) of it.
    pub fn open(path: &Path) -> Result<Self> {
        if stat(path)?.is_dir() {
            return Self::open_file(&sharded::model_in_folder(path)?);
        }
        Self::open_file(path)
    }

    fn open_file(path: &Path) -> Result<Self> {
        let mapping = map(path)?;
        let named = |e: Error| e.context(path.display());
        let importer = importer_for(&mapping).map_err(named)?;
        let contents = (importer.open)(&mapping).map_err(named)?;
        let mut sources = vec![mapping];
        sources.extend(contents.others);
        Self::assemble(importer.name, contents.tensors, contents.metadata, sources).map_err(named)
    }

    fn assemble(
        format: &'static str,
        tensors: Vec<NamedTensor>,
        metadata: BTreeMap<String, String>,
        sources: Vec<Arc<Mapping>>,
    ) -> Result<Self> {
        check_count(tensors.len())?;
        let metadata_bytes: usize = metadata.iter().map(|(k, v)| k.len() + v.len()).sum();
        if metadata_bytes > limits::MAX_METADATA_BYTES {
            return Err(Error::limit(format!(
                "{metadata_bytes} bytes of metadata; at most {} are supported",
                limits::MAX_METADATA_BYTES
            )));
        }
        let first_of = ties(&tensors);
        let mut model = Self {
            format,
            tensors: Vec::with_capacity(tensors.len()),
            metadata,
            aliases: Vec::new(),
            index: HashMap::with_capacity(tensors.len()),
            sources,
        };
        // Where each input tensor, or the one it is tied to, ended up.
        let mut places: Vec<usize> = Vec::with_capacity(tensors.len());
        for (i, tensor) in tensors.into_iter().enumerate() {
            let name = tensor.name.clone();
            let place = if first_of[i] == i {
                model.tensors.push(tensor);
                model.tensors.len() - 1
            } else {
                let place = places[first_of[i]];
                let target = &model.tensors[place].name;
                model.aliases.push((name.clone(), target.clone()));
                place
            };
            places.push(place);
            if model.index.insert(name.clone(), place).is_some() {
                return Err(duplicate(&name));
            }
        }
        Ok(model)
    }

    /// The format's name in [`IMPORTERS`].
    pub fn format(&self) -> &'static str {
        self.format
    }

    /// The tensors, in the order of their data in the file (shards by name), so that
    /// reading one after the other reads the file from front to back.
    pub fn tensors(&self) -> &[NamedTensor] {
        &self.tensors
    }

    /// The tensor of this name, through an alias if need be.
    pub fn get(&self, name: &str) -> Option<&NamedTensor> {
        Some(&self.tensors[*self.index.get(name)?])
    }

    /// Names of tensors that equal another, and the name of that other.
    pub fn aliases(&self) -> &[(String, String)] {
        &self.aliases
    }

    /// The file's free text.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The files read, the one that was opened first.
    pub fn sources(&self) -> impl ExactSizeIterator<Item = &Path> {
        self.sources.iter().map(|m| m.path())
    }

    /// Total size of the files read.
    pub fn input_bytes(&self) -> u64 {
        self.sources.iter().map(|m| m.len() as u64).sum()
    }
}

/// A tensor of a [`Model`].
#[derive(Clone, Debug)]
pub struct NamedTensor {
    name: String,
    dtype: DType,
    shape: Vec<usize>,
    /// In elements; `None` is row-major without gaps.
    strides: Option<Vec<isize>>,
    storage: Storage,
}

#[derive(Clone, Debug)]
enum Storage {
    Mapped(Arc<Mapping>, Range<usize>),
    Owned(Arc<AlignedBytes>),
}

impl Storage {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Mapped(mapping, range) => &mapping[range.clone()],
            Self::Owned(bytes) => bytes,
        }
    }
}

/// In which order the elements of a file's array lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    RowMajor,
    ColumnMajor,
}

impl NamedTensor {
    /// Checks everything that [`view`](Self::view) relies on.
    fn new(
        name: String,
        dtype: DType,
        shape: Vec<usize>,
        order: Order,
        storage: Storage,
    ) -> Result<Self> {
        let tensor = Self {
            strides: (order == Order::ColumnMajor).then(|| column_major(&shape)),
            name,
            dtype,
            shape,
            storage,
        };
        tensor
            .check()
            .map_err(|e| e.with_tensor(shown(&tensor.name)))?;
        Ok(tensor)
    }

    fn check(&self) -> Result<()> {
        if self.name.len() > limits::MAX_NAME_BYTES {
            return Err(Error::limit(format!(
                "a tensor name of {} bytes; at most {} are supported",
                self.name.len(),
                limits::MAX_NAME_BYTES
            )));
        }
        let expected = checked_bytes(self.dtype, &self.shape)?;
        let start = match &self.storage {
            Storage::Mapped(mapping, range) => {
                if range.start > range.end || range.end > mapping.len() {
                    return Err(Error::corrupt(format!(
                        "data from byte {} to {} in a file of {} bytes",
                        range.start,
                        range.end,
                        mapping.len()
                    )));
                }
                range.start as u64
            }
            Storage::Owned(_) => 0,
        };
        let bytes = self.storage.bytes();
        if bytes.len() != expected {
            return Err(Error::corrupt(format!(
                "{} {:?} takes {expected} bytes, the file gives it {}",
                self.dtype,
                self.shape,
                bytes.len()
            ))
            .with_offset(start));
        }
        if self.dtype == DType::Bool
            && let Some(at) = bytes.iter().position(|b| *b > 1)
        {
            return Err(
                Error::corrupt(format!("a bool with the value {}", bytes[at]))
                    .with_offset(start + at as u64),
            );
        }
        Ok(())
    }

    /// The tensor's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Dimensions, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Bytes of all elements.
    pub fn byte_len(&self) -> usize {
        self.storage.bytes().len()
    }

    /// The elements: in the mapped file where it holds them as they are, else in memory.
    pub fn view(&self) -> View<'_> {
        let bytes = self.storage.bytes();
        let view = match &self.strides {
            None => View::new(self.dtype, &self.shape, bytes),
            Some(strides) => View::strided(self.dtype, &self.shape, strides, bytes, 0),
        }
        .expect("dtype, shape and length were checked when the tensor was made");
        match &self.storage {
            Storage::Mapped(mapping, range) => view.with_backing(mapping.clone(), range.start),
            Storage::Owned(_) => view,
        }
    }

    /// Tells the system that the tensor's part of the file will not be needed again soon.
    /// Reading it again still works.
    pub fn forget(&self) {
        if let Storage::Mapped(mapping, range) = &self.storage {
            mapping.forget(range.clone());
        }
    }
}

fn stat(path: &Path) -> Result<fs::Metadata> {
    fs::metadata(path).map_err(|e| Error::io(format!("cannot open {}", path.display()), e))
}

/// Maps a file. Asks for its kind first: opening a named pipe would wait for a writer.
fn map(path: &Path) -> Result<Arc<Mapping>> {
    if !stat(path)?.is_file() {
        return Err(Error::invalid(format!("{} is not a file", path.display())));
    }
    Mapping::open(path)
}

fn importer_for(file: &Mapping) -> Result<&'static Importer> {
    if file.is_empty() {
        return Err(Error::corrupt("the file is empty"));
    }
    if let Some(importer) = IMPORTERS.iter().find(|i| (i.detect)(file)) {
        return Ok(importer);
    }
    let cannot = |what: &str| {
        Error::unsupported(format!(
            "this seems to be {what}, which cannot be imported; known are {}",
            known_formats()
        ))
    };
    if let Some(what) = foreign::by_magic(file) {
        return Err(cannot(what));
    }
    let extension = file.path().extension().unwrap_or_default();
    let extension = extension.to_string_lossy().to_lowercase();
    if let Some(importer) = IMPORTERS
        .iter()
        .find(|i| i.extensions.contains(&extension.as_str()))
    {
        return Ok(importer);
    }
    Err(match foreign::by_guess(file, &extension) {
        Some(what) => cannot(what),
        None => Error::unsupported(format!(
            "not a model file of a known format; known are {}",
            known_formats()
        )),
    })
}

fn known_formats() -> String {
    let names: Vec<_> = IMPORTERS.iter().map(|i| i.name).collect();
    names.join(", ")
}

fn check_count(tensors: usize) -> Result<()> {
    if tensors > limits::MAX_TENSORS {
        return Err(Error::limit(format!(
            "more than {} tensors in one model",
            limits::MAX_TENSORS
        )));
    }
    Ok(())
}

fn duplicate(name: &str) -> Error {
    Error::corrupt("two tensors have this name").with_tensor(shown(name))
}

/// The part of a name that an error shows: names from outside may be megabytes long.
fn shown(name: &str) -> &str {
    let mut end = name.len().min(256);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    &name[..end]
}

fn column_major(shape: &[usize]) -> Vec<isize> {
    let mut step = 1isize;
    shape
        .iter()
        .map(|d| {
            let stride = step;
            // Can only saturate beside a dimension of zero, where no stride is ever used.
            step = step.saturating_mul(*d as isize);
            stride
        })
        .collect()
}

/// Tensors below this many elements are not looked at for ties: equal biases and
/// norms are common and cost nothing.
const TIE_MIN_ELEMENTS: usize = 4096;

/// For each tensor the first one that is equal to it, or itself.
///
/// Tensors are first told apart by a sample of their bytes, so that only probable ties
/// are read whole. The hash is keyed afresh each time: a file cannot be made to collide.
fn ties(tensors: &[NamedTensor]) -> Vec<usize> {
    let hasher = RandomState::new();
    let mut first_of: Vec<usize> = (0..tensors.len()).collect();
    let mut alike: HashMap<u64, Vec<usize>> = HashMap::new();
    for (i, t) in tensors.iter().enumerate() {
        let bytes = t.storage.bytes();
        if bytes.len() / t.dtype.size() < TIE_MIN_ELEMENTS {
            continue;
        }
        let middle = bytes.len() / 2;
        let key = hasher.hash_one((
            (t.dtype, &t.shape, &t.strides),
            &bytes[..64],
            &bytes[middle..middle + 64],
            &bytes[bytes.len() - 64..],
        ));
        alike.entry(key).or_default().push(i);
    }
    for group in alike.into_values().filter(|g| g.len() > 1) {
        let mut seen: HashMap<u64, usize> = HashMap::new();
        for i in group {
            let (t, bytes) = (&tensors[i], tensors[i].storage.bytes());
            let first = *seen.entry(hasher.hash_one(bytes)).or_insert(i);
            let f = &tensors[first];
            if (f.dtype, &f.shape, &f.strides) == (t.dtype, &t.shape, &t.strides)
                && f.storage.bytes() == bytes
            {
                first_of[i] = first;
            }
        }
    }
    first_of
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    /// Opens `bytes` as a file of this name.
    pub(super) fn open_bytes(name: &str, bytes: &[u8]) -> Result<Model> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        Model::open(&path)
    }

    pub(super) fn refused(name: &str, bytes: &[u8], kind: ErrorKind) -> Error {
        let e = open_bytes(name, bytes).expect_err("must be refused");
        assert_eq!(e.kind(), kind, "{e}");
        assert!(e.message().contains(name), "{e}");
        e
    }

    #[test]
    fn registry_names_and_extensions_are_unique() {
        for (i, a) in IMPORTERS.iter().enumerate() {
            for b in &IMPORTERS[i + 1..] {
                assert_ne!(a.name, b.name);
                assert!(a.extensions.iter().all(|e| !b.extensions.contains(e)));
            }
        }
    }

    #[test]
    fn empty_unknown_and_foreign_files_are_named_for_what_they_are() {
        let e = refused("a.safetensors", b"", ErrorKind::Corrupt);
        assert!(e.message().ends_with("the file is empty"), "{e}");
        let e = refused("a.txt", b"hello world", ErrorKind::Unsupported);
        assert!(e.message().contains("safetensors, npy, npz"), "{e}");
        for (bytes, what) in [
            (&b"GGUF\x03\0\0\0\0\0\0\0"[..], "GGUF"),
            (b"\x80\x02}q\0.", "pickle"),
            (b"\x89HDF\r\n\x1a\n\0\0\0", "HDF5"),
            (b"\x1c\0\0\0TFL3\x14\0\x20\0", "TensorFlow Lite"),
            (b"\x1f\x8b\x08\0\0\0\0\0", "gzip"),
            (b"\x08\x07\x12\x07pytorch", "ONNX"),
        ] {
            // Content goes before the name.
            for name in ["model", "model.safetensors"] {
                if what == "ONNX" && name != "model" {
                    continue;
                }
                let e = refused(name, bytes, ErrorKind::Unsupported);
                assert!(e.message().contains(what), "{e}");
            }
        }
    }

    #[test]
    fn what_is_not_a_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let e = Model::open(&folder.path().join("nothing")).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Io);
        let e = Model::open(folder.path()).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::InvalidArgument);
        #[cfg(target_os = "linux")]
        assert!(Model::open(Path::new("/dev/null")).is_err());
    }

    #[test]
    fn only_whole_equals_are_tied() {
        let make = |name: &str, shape: &[usize], change: Option<usize>| {
            let len = shape.iter().product::<usize>();
            let mut bytes: Vec<u8> = (0..len).map(|i| (i * 7 % 251) as u8).collect();
            if let Some(at) = change {
                bytes[at] ^= 1;
            }
            let storage = Storage::Owned(Arc::new(AlignedBytes::copy_of(&bytes).unwrap()));
            NamedTensor::new(
                name.into(),
                DType::U8,
                shape.into(),
                Order::RowMajor,
                storage,
            )
            .unwrap()
        };
        let tensors = vec![
            make("a", &[64, 64], None),
            make("other shape", &[4096], None),
            make("unsampled byte differs", &[64, 64], Some(1000)),
            make("b", &[64, 64], None),
            make("b of the second", &[64, 64], Some(1000)),
            make("small", &[63, 64], None),
            make("small too", &[63, 64], None),
            make("c", &[64, 64], None),
        ];
        assert_eq!(ties(&tensors), [0, 1, 2, 0, 2, 5, 6, 0]);
        let model = Model::assemble("test", tensors, BTreeMap::new(), vec![]).unwrap();
        assert_eq!(model.tensors().len(), 5);
        assert_eq!(model.get("c").unwrap().name(), "a");
        assert_eq!(
            model.get("b of the second").unwrap().name(),
            "unsampled byte differs"
        );
        assert_eq!(model.get("small too").unwrap().name(), "small too");
        assert!(model.get("d").is_none());
    }
}
