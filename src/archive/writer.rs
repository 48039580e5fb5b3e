//! Writes an archive: tensors one after another, the index last.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use serde_json::{Map, Value};

use super::index::{BufferJson, ErrorJson, FormJson, Index, PartJson, TensorJson};
use super::{ALIGN, FOOTER_BYTES, HEADER_BYTES, footer, header};
use crate::atomic::AtomicFile;
use crate::error::{Error, Result};
use crate::form::{Form, Part, Tensor};
use crate::limits;
use crate::pack::Buffer;

/// Writes a `.cai` file in one pass and bounded memory: each tensor's bytes go out when
/// it is added. The file appears under its name only when [`finish`](Self::finish)
/// returns; until then, and for ever if the writer is dropped, what stood there stays.
#[derive(Debug)]
pub struct Writer {
    file: AtomicFile,
    index: Index,
    names: HashSet<String>,
}

/// Sizes of a finished archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The whole file.
    pub file_bytes: u64,
    /// The JSON index.
    pub index_bytes: u64,
    /// Header and footer.
    pub header_bytes: u64,
}

impl Writer {
    /// Starts an archive that will be `path`.
    pub fn create(path: &Path) -> Result<Self> {
        Self::begin(AtomicFile::create(path)?)
    }

    /// Starts an archive that is written nowhere, to learn what it would weigh.
    pub fn nowhere() -> Result<Self> {
        Self::begin(AtomicFile::nowhere())
    }

    fn begin(mut file: AtomicFile) -> Result<Self> {
        file.write(&header())?;
        Ok(Self {
            file,
            index: Index {
                generator: concat!("cortex ", env!("CARGO_PKG_VERSION")).to_owned(),
                metadata: Map::new(),
                tensors: Vec::new(),
                aliases: Vec::new(),
            },
            names: HashSet::new(),
        })
    }

    /// Adds free text about the model; a key given again replaces the old value.
    pub fn set_metadata(&mut self, metadata: &BTreeMap<String, String>) {
        for (key, value) in metadata {
            let value = Value::String(value.clone());
            self.index.metadata.insert(key.clone(), value);
        }
    }

    /// Writes a tensor under `name`.
    pub fn add(&mut self, name: &str, tensor: &Tensor) -> Result<()> {
        self.claim(name)?;
        let form = self
            .write_form(tensor.form(), true)
            .map_err(|e| e.with_tensor(name))?;
        let error = tensor.error();
        let finite = |v: f64| v.is_finite().then_some(v);
        self.index.tensors.push(TensorJson {
            name: name.to_owned(),
            dtype: tensor.dtype().name().to_owned(),
            shape: tensor.shape().to_vec(),
            spec: tensor.spec().to_string(),
            error: ErrorJson {
                relative: finite(error.relative),
                max_abs: finite(error.max_abs),
            },
            form,
        });
        Ok(())
    }

    /// Makes `alias` another name of the tensor `target`, which was added before.
    pub fn alias(&mut self, alias: &str, target: &str) -> Result<()> {
        if !self.index.tensors.iter().any(|t| t.name == target) {
            return Err(
                Error::invalid(format!("no tensor '{target}' for this alias to name"))
                    .with_tensor(alias),
            );
        }
        self.claim(alias)?;
        let pair = (alias.to_owned(), target.to_owned());
        self.index.aliases.push(pair);
        Ok(())
    }

    /// Writes index and footer and gives the file its name.
    pub fn finish(mut self) -> Result<Summary> {
        let index = serde_json::to_vec(&self.index)
            .map_err(|e| Error::internal(format!("cannot write the index: {e}")))?;
        if index.len() as u64 > limits::MAX_INDEX_BYTES {
            return Err(Error::limit(format!(
                "an index of {} bytes; readers take at most {}",
                index.len(),
                limits::MAX_INDEX_BYTES
            )));
        }
        let offset = self.file.written();
        self.file.write(&index)?;
        self.file.write(&footer(offset, &index))?;
        Ok(Summary {
            file_bytes: self.file.finish()?,
            index_bytes: index.len() as u64,
            header_bytes: HEADER_BYTES + FOOTER_BYTES,
        })
    }

    fn claim(&mut self, name: &str) -> Result<()> {
        if name.len() > limits::MAX_NAME_BYTES {
            return Err(Error::limit(format!(
                "a tensor name of {} bytes; at most {} are supported",
                name.len(),
                limits::MAX_NAME_BYTES
            )));
        }
        if self.names.len() >= limits::MAX_TENSORS {
            return Err(Error::limit(format!(
                "more than {} tensors",
                limits::MAX_TENSORS
            )));
        }
        if !self.names.insert(name.to_owned()) {
            return Err(Error::invalid("two tensors have this name").with_tensor(name));
        }
        Ok(())
    }

    fn write_form(&mut self, form: &dyn Form, top: bool) -> Result<FormJson> {
        let mut parts = Vec::new();
        for (name, part) in form.parts() {
            let (buffer, form) = match part {
                Part::Buffer(b) => (Some(self.write_buffer(b)?), None),
                Part::Form(f) => (None, Some(self.write_form(f, false)?)),
            };
            parts.push(PartJson {
                name: name.to_owned(),
                buffer,
                form,
            });
        }
        let meta = form.meta();
        Ok(FormJson {
            kind: form.kind().to_owned(),
            dtype: (!top).then(|| meta.dtype.name().to_owned()),
            shape: (!top).then(|| meta.shape.clone()),
            params: form.params(),
            parts,
        })
    }

    fn write_buffer(&mut self, buffer: &Buffer) -> Result<BufferJson> {
        let file = &mut self.file;
        let records = buffer.write_chunks(|bytes| {
            let offset = file.written();
            file.write(bytes)?;
            let pad = file.written().next_multiple_of(ALIGN) - file.written();
            file.write(&[0; ALIGN as usize][..pad as usize])?;
            Ok(offset)
        })?;
        Ok(BufferJson {
            bytes: buffer.len() as u64,
            chunk: buffer.chunk_len() as u64,
            width: buffer.chain().width() as u64,
            packs: buffer.chain().text(),
            chunks: records
                .into_iter()
                .map(|r| (r.offset, r.stored_len, r.crc, u8::from(r.coded)))
                .collect(),
        })
    }
}
