//! The JSON index: what stands where. Parsed into these structs and then checked; no
//! field is trusted.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::form::{self, Form, Meta, Stored, StoredPart};
use crate::limits;
use crate::pack::{Buffer, Chain, ChunkRecord, Store, StoredBuffer};
use crate::spec::{Spec, Term};

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Index {
    pub(super) generator: String,
    #[serde(default)]
    pub(super) metadata: Map<String, Value>,
    pub(super) tensors: Vec<TensorJson>,
    /// `[alias, target]`.
    #[serde(default)]
    pub(super) aliases: Vec<(String, String)>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct TensorJson {
    pub(super) name: String,
    pub(super) dtype: String,
    pub(super) shape: Vec<usize>,
    pub(super) spec: String,
    pub(super) error: ErrorJson,
    pub(super) form: FormJson,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ErrorJson {
    /// `null` stands for infinity.
    pub(super) relative: Option<f64>,
    pub(super) max_abs: Option<f64>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct FormJson {
    pub(super) kind: String,
    /// Dtype and shape of a nested form; the tensor's own stand with the tensor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) dtype: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) shape: Option<Vec<usize>>,
    #[serde(default)]
    pub(super) params: Map<String, Value>,
    pub(super) parts: Vec<PartJson>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct PartJson {
    pub(super) name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) buffer: Option<BufferJson>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) form: Option<FormJson>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct BufferJson {
    /// Raw bytes.
    pub(super) bytes: u64,
    /// Raw bytes of a chunk.
    pub(super) chunk: u64,
    /// Bytes of an element.
    pub(super) width: u64,
    /// `shuffle | zstd(9)`, or absent.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) packs: String,
    /// `[offset, stored bytes, crc32c, coded 0|1]`.
    pub(super) chunks: Vec<(u64, u64, u32, u8)>,
}

impl FormJson {
    /// Calls `f` with every buffer, nested ones too.
    pub(super) fn for_buffers(
        &self,
        depth: usize,
        f: &mut dyn FnMut(&BufferJson) -> Result<()>,
    ) -> Result<()> {
        if depth >= limits::MAX_FORM_DEPTH {
            return Err(Error::limit(format!(
                "more than {} forms inside each other",
                limits::MAX_FORM_DEPTH
            )));
        }
        for part in &self.parts {
            match (&part.buffer, &part.form) {
                (Some(buffer), None) => f(buffer)?,
                (None, Some(form)) => form.for_buffers(depth + 1, f)?,
                _ => {
                    return Err(Error::corrupt(format!(
                        "part '{}' is neither a buffer nor a form",
                        part.name
                    )));
                }
            }
        }
        Ok(())
    }

    /// Opens the form over `store`. Depth was checked by [`for_buffers`](Self::for_buffers).
    pub(super) fn open(
        &self,
        meta: Meta,
        store: &dyn Fn() -> Store,
        file_len: u64,
    ) -> Result<Box<dyn Form>> {
        let def = form::find_kind(&self.kind)?;
        let mut parts = Vec::with_capacity(self.parts.len());
        for part in &self.parts {
            let in_part = |e: Error| e.context(format!("part '{}'", part.name));
            let opened = match (&part.buffer, &part.form) {
                (Some(buffer), _) => {
                    StoredPart::Buffer(buffer.open(store(), file_len).map_err(in_part)?)
                }
                (None, Some(form)) => {
                    let dtype = form.dtype.as_deref().unwrap_or_default();
                    let dtype = parse_dtype(dtype).map_err(in_part)?;
                    let shape = form.shape.as_deref().unwrap_or_default();
                    let meta = Meta::new(dtype, shape).map_err(in_part)?;
                    StoredPart::Form(form.open(meta, store, file_len).map_err(in_part)?)
                }
                (None, None) => return Err(in_part(Error::corrupt("no content"))),
            };
            parts.push((part.name.clone(), opened));
        }
        (def.open)(Stored {
            meta,
            params: self.params.clone(),
            parts,
        })
    }
}

impl BufferJson {
    fn open(&self, store: Store, file_len: u64) -> Result<Buffer> {
        let width = usize::try_from(self.width).unwrap_or(0);
        let chunks = self.chunks.iter();
        Buffer::stored(
            StoredBuffer {
                chain: Chain::new(&parse_packs(&self.packs)?, width)?,
                raw_len: self.bytes,
                chunk_len: self.chunk,
                chunks: chunks
                    .map(|&(offset, stored_len, crc, coded)| ChunkRecord {
                        offset,
                        stored_len,
                        crc,
                        coded: coded != 0,
                    })
                    .collect(),
            },
            store,
            file_len,
        )
    }
}

/// The terms of `shuffle | zstd(9)`. A name that is not known comes from a newer version.
fn parse_packs(text: &str) -> Result<Vec<Term>> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    // The grammar has packs only after a form.
    let spec = Spec::parse_syntax(&format!("dense | {text}"));
    spec.and_then(|s| crate::pack::resolve(&s.packs))
        .map_err(|e| Error::unsupported(format!("packs '{text}': {}", e.message())))
}

pub(super) fn parse_dtype(name: &str) -> Result<crate::dtype::DType> {
    crate::dtype::DType::from_name(name)
        .ok_or_else(|| Error::unsupported(format!("the dtype '{name}' is not known")))
}
