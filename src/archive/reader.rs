//! Opens an archive. Opening reads header, footer and index; a tensor's bytes are read
//! when they are used.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};

use super::index::{FormJson, Index, parse_dtype};
use super::{ALIGN, END_MAGIC, FOOTER_BYTES, HEADER_BYTES, MAGIC, MAJOR, check_seal};
use crate::bytes::Reader;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::form::{self, ErrorStats, Meta, Tensor};
use crate::limits;
use crate::mmap::{Mapping, open_file};
use crate::pack::{Store, read_at};

/// An open `.cai` file. May be shared between threads.
#[derive(Debug)]
pub struct Archive {
    source: Source,
    path: PathBuf,
    file_len: u64,
    index_offset: u64,
    index_len: u64,
    entries: Vec<Entry>,
    aliases: Vec<(String, String)>,
    /// Every name, aliases too, to its place in `entries`.
    places: HashMap<String, usize>,
    metadata: Map<String, Value>,
    generator: String,
    /// Used byte ranges of the file, in order, for `verify`.
    used: Vec<(u64, u64)>,
}

#[derive(Debug)]
enum Source {
    Mapped(Arc<Mapping>),
    File(Arc<File>),
}

/// What the index says of a tensor, before anything of it is read.
#[derive(Debug)]
pub struct Entry {
    name: String,
    dtype: String,
    shape: Vec<usize>,
    spec: String,
    error: ErrorStats,
    stored_bytes: u64,
    form: FormJson,
}

impl Entry {
    /// The tensor's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Name of the dtype; one that this version does not know is left as it stands.
    pub fn dtype_name(&self) -> &str {
        &self.dtype
    }

    /// The dtype.
    pub fn dtype(&self) -> Result<DType> {
        parse_dtype(&self.dtype).map_err(|e| e.with_tensor(&self.name))
    }

    /// Dimensions, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Canonical spec.
    pub fn spec(&self) -> &str {
        &self.spec
    }

    /// Error measured when it was encoded.
    pub fn error(&self) -> ErrorStats {
        self.error
    }

    /// Bytes that it takes in the file, with the padding of its chunks.
    pub fn stored_bytes(&self) -> u64 {
        self.stored_bytes
    }

    /// Bytes of the dense tensor; 0 if its dtype is not known.
    pub fn raw_bytes(&self) -> u64 {
        // The shape was checked when the archive was opened.
        self.elements() * self.dtype().map_or(0, |d| d.size() as u64)
    }

    fn elements(&self) -> u64 {
        crate::bytes::element_count(&self.shape).unwrap_or(0) as u64
    }

    /// Stored bits per element; 0 for an empty tensor.
    pub fn bits_per_weight(&self) -> f64 {
        match self.elements() {
            0 => 0.0,
            n => self.stored_bytes as f64 * 8.0 / n as f64,
        }
    }
}

impl Archive {
    /// Opens by mapping the file: unpacked parts are used in place.
    pub fn open(path: &Path) -> Result<Self> {
        let mapping = Mapping::open(path)?;
        let len = mapping.len() as u64;
        Self::load(path, Source::Mapped(mapping), len).map_err(|e| e.context(path.display()))
    }

    /// Opens for plain reads: nothing is mapped, every chunk is read and checked each
    /// time it is used. For file systems where a mapped file may be cut short.
    pub fn open_unmapped(path: &Path) -> Result<Self> {
        let (file, len) = open_file(path)?;
        Self::load(path, Source::File(Arc::new(file)), len).map_err(|e| e.context(path.display()))
    }

    /// Whether the bytes begin like an archive.
    pub fn detect(bytes: &[u8]) -> bool {
        bytes.starts_with(&MAGIC)
    }

    fn load(path: &Path, source: Source, file_len: u64) -> Result<Self> {
        if file_len == 0 {
            return Err(Error::corrupt("the file is empty"));
        }
        let header = source.read(0, HEADER_BYTES.min(file_len))?;
        if !header.starts_with(&MAGIC[..header.len().min(8)]) {
            return Err(Error::corrupt("not a .cai archive: the first bytes differ").with_offset(0));
        }
        if file_len < HEADER_BYTES + FOOTER_BYTES {
            return Err(
                Error::corrupt(format!("an archive of {file_len} bytes was cut short"))
                    .with_offset(file_len),
            );
        }
        let mut r = Reader::new(&header[8..]);
        let (major, minor) = (r.u16()?, r.u16()?);
        check_seal(&header, 60, "header", 0)?;
        if major != MAJOR {
            return Err(Error::unsupported(format!(
                "format version {major}.{minor}; this version of Cortex reads {MAJOR}.x"
            )));
        }

        let footer_at = file_len - FOOTER_BYTES;
        let footer = source.read(footer_at, FOOTER_BYTES)?;
        if footer[56..] != END_MAGIC {
            return Err(Error::corrupt(
                "the end of the file is missing: it was cut short or is still being written",
            )
            .with_offset(footer_at));
        }
        check_seal(&footer, 52, "footer", footer_at)?;
        let mut r = Reader::new(&footer);
        let (index_offset, index_len) = (r.u64()?, r.u64()?);
        let index_crc = r.u32()?;
        r.take(4)?;
        let stated = r.u64()?;
        if stated != file_len {
            return Err(Error::corrupt(format!(
                "the file has {file_len} bytes, its footer says {stated}"
            ))
            .with_offset(footer_at));
        }
        if index_len > limits::MAX_INDEX_BYTES {
            return Err(Error::limit(format!("an index of {index_len} bytes")));
        }
        if index_offset < HEADER_BYTES || index_offset.checked_add(index_len) != Some(footer_at) {
            return Err(
                Error::corrupt("the index is not where the footer says").with_offset(footer_at)
            );
        }
        let bytes = source.read(index_offset, index_len)?;
        if crc32c::crc32c(&bytes) != index_crc {
            return Err(Error::corrupt("the index is damaged").with_offset(index_offset));
        }
        let index: Index = serde_json::from_slice(&bytes).map_err(|e| {
            Error::corrupt(format!("the index cannot be read: {e}")).with_offset(index_offset)
        })?;
        Self::assemble(path, source, file_len, index_offset, index_len, index)
    }

    fn assemble(
        path: &Path,
        source: Source,
        file_len: u64,
        index_offset: u64,
        index_len: u64,
        index: Index,
    ) -> Result<Self> {
        let Index {
            generator,
            metadata,
            tensors,
            aliases,
        } = index;
        if tensors.len().saturating_add(aliases.len()) > limits::MAX_TENSORS {
            return Err(Error::limit(format!("{} tensors", tensors.len())));
        }
        let mut used = vec![(0, HEADER_BYTES), (index_offset, file_len)];
        let mut places = HashMap::with_capacity(tensors.len() + aliases.len());
        let mut entries = Vec::with_capacity(tensors.len());
        for t in tensors {
            let named = |e: Error| e.with_tensor(&t.name);
            check_name(&t.name).map_err(named)?;
            if places.insert(t.name.clone(), entries.len()).is_some() {
                return Err(named(Error::corrupt("two tensors have this name")));
            }
            // Widest dtype: one that this version does not know is refused later, by name.
            crate::tensor::checked_bytes(DType::F64, &t.shape).map_err(named)?;
            let mut stored = 0u64;
            t.form
                .for_buffers(0, &mut |buffer| {
                    for &(offset, len, ..) in &buffer.chunks {
                        let end = offset.checked_add(len).filter(|e| *e <= index_offset);
                        let end = end.filter(|_| offset >= HEADER_BYTES && offset % ALIGN == 0);
                        let Some(end) = end else {
                            return Err(Error::corrupt(format!(
                                "a chunk of {len} bytes lies outside the data"
                            ))
                            .with_offset(offset));
                        };
                        if len > 0 {
                            used.push((offset, end));
                        }
                        stored = stored.saturating_add(len.next_multiple_of(ALIGN));
                    }
                    Ok(())
                })
                .map_err(named)?;
            entries.push(Entry {
                name: t.name,
                dtype: t.dtype,
                shape: t.shape,
                spec: t.spec,
                error: ErrorStats {
                    relative: t.error.relative.unwrap_or(f64::INFINITY),
                    max_abs: t.error.max_abs.unwrap_or(f64::INFINITY),
                },
                stored_bytes: stored,
                form: t.form,
            });
        }
        for (alias, target) in &aliases {
            let named = |e: Error| e.with_tensor(alias);
            check_name(alias).map_err(named)?;
            let Some(place) = places.get(target).copied() else {
                return Err(named(Error::corrupt(format!(
                    "an alias of '{target}', which is not there"
                ))));
            };
            if places.insert(alias.clone(), place).is_some() {
                return Err(named(Error::corrupt("two tensors have this name")));
            }
        }
        used.sort_unstable();
        if let Some(pair) = used.windows(2).find(|p| p[0].1 > p[1].0) {
            return Err(Error::corrupt("chunks overlap").with_offset(pair[1].0));
        }
        Ok(Self {
            source,
            path: path.to_owned(),
            file_len,
            index_offset,
            index_len,
            entries,
            aliases,
            places,
            metadata,
            generator,
            used,
        })
    }

    /// The file's path, as it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of the whole file.
    pub fn file_bytes(&self) -> u64 {
        self.file_len
    }

    /// Bytes of the JSON index.
    pub fn index_bytes(&self) -> u64 {
        self.index_len
    }

    /// Bytes of header and footer.
    pub fn header_bytes(&self) -> u64 {
        HEADER_BYTES + FOOTER_BYTES
    }

    /// What wrote the file.
    pub fn generator(&self) -> &str {
        &self.generator
    }

    /// The tensors, in the order of the file. Aliases are not among them.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Further names of tensors, as `(alias, target)`.
    pub fn aliases(&self) -> &[(String, String)] {
        &self.aliases
    }

    /// Free text about the model.
    pub fn metadata(&self) -> impl Iterator<Item = (&str, &str)> {
        self.metadata
            .iter()
            .filter_map(|(k, v)| Some((k.as_str(), v.as_str()?)))
    }

    /// The entry of this name, through an alias if need be.
    pub fn entry(&self, name: &str) -> Result<&Entry> {
        match self.places.get(name) {
            Some(place) => Ok(&self.entries[*place]),
            None => {
                let names = self.places.keys().map(String::as_str);
                let near = names
                    .map(|n| (strsim::damerau_levenshtein(name, n), n))
                    .min()
                    .filter(|(d, _)| *d <= 3);
                let hint = near.map_or(String::new(), |(_, n)| format!("; did you mean '{n}'?"));
                Err(Error::invalid(format!(
                    "no tensor '{name}' in {}{hint}",
                    self.path.display()
                )))
            }
        }
    }

    /// The place in [`entries`](Self::entries) of the tensor of this name, through an alias
    /// if need be.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.places.get(name).copied()
    }

    /// Opens a tensor. Its bytes are read when they are used; the tensor keeps the file
    /// open or mapped, and may outlive the archive.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        self.open_entry(self.entry(name)?)
    }

    /// Opens the tensor of an entry.
    pub fn open_entry(&self, entry: &Entry) -> Result<Tensor> {
        let open = || -> Result<Tensor> {
            let meta = Meta::new(entry.dtype()?, &entry.shape)?;
            let form = entry
                .form
                .open(meta, &|| self.source.store(), self.index_offset)?;
            let spec = form::parse(&entry.spec).map_err(|e| {
                Error::unsupported(format!("spec '{}': {}", entry.spec, e.message()))
            })?;
            Ok(Tensor::new(spec, form.into(), entry.error).named(&entry.name))
        };
        open().map_err(|e| e.with_tensor(&entry.name))
    }

    /// [`verify`](Self::verify) for those who want to know whether all is well: the first error,
    /// whose message says how many there are.
    pub fn check(&self) -> Result<()> {
        let mut errors = self.verify().into_iter();
        match (errors.next(), errors.len()) {
            (None, _) => Ok(()),
            (Some(first), 0) => Err(first),
            (Some(first), more) => Err(first.context(format!("the first of {} errors", more + 1))),
        }
    }

    /// Reads and checks every byte of the file: all chunks of all tensors, and that
    /// nothing stands between them. Gives every error found; header, footer and index
    /// were checked by opening.
    pub fn verify(&self) -> Vec<Error> {
        let mut errors = Vec::new();
        for entry in &self.entries {
            if let Err(e) = self.open_entry(entry).and_then(|t| t.verify()) {
                errors.push(e);
            }
        }
        for pair in self.used.windows(2) {
            let (start, end) = (pair[0].1, pair[1].0);
            // Padding fills a chunk up to the next boundary, never more.
            if end - start >= ALIGN {
                let text = format!("{} bytes belong to no tensor", end - start);
                errors.push(Error::corrupt(text).with_offset(start));
                continue;
            }
            match self.source.read(start, end - start) {
                Err(e) => errors.push(e),
                Ok(bytes) => {
                    if let Some(at) = bytes.iter().position(|b| *b != 0) {
                        errors.push(
                            Error::corrupt("padding is not zero").with_offset(start + at as u64),
                        );
                    }
                }
            }
        }
        errors
    }
}

fn check_name(name: &str) -> Result<()> {
    if name.len() > limits::MAX_NAME_BYTES {
        return Err(Error::limit(format!(
            "a tensor name of {} bytes",
            name.len()
        )));
    }
    Ok(())
}

impl Source {
    /// Bytes that lie inside the file.
    fn read(&self, offset: u64, len: u64) -> Result<Vec<u8>> {
        match self {
            Self::Mapped(mapping) => usize::try_from(offset)
                .ok()
                .zip(usize::try_from(offset + len).ok())
                .and_then(|(start, end)| mapping.get(start..end))
                .map(<[u8]>::to_vec)
                .ok_or_else(|| Error::internal("a read outside the file")),
            Self::File(file) => {
                let mut out = vec![0; len as usize];
                read_at(file, &mut out, offset).map_err(|e| {
                    Error::io(format!("cannot read {len} bytes"), e).with_offset(offset)
                })?;
                Ok(out)
            }
        }
    }

    fn store(&self) -> Store {
        match self {
            Self::Mapped(mapping) => Store::Mapped(mapping.clone()),
            Self::File(file) => Store::File(file.clone()),
        }
    }
}
