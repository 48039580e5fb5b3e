//! Packs: lossless chains of byte filters and coders for a buffer at rest.
//!
//! A *filter* (delta, shuffle, bitshuffle) reorders bytes and keeps their number; a
//! *coder* (rle, gzip, zstd, lz4) makes them fewer. A [`Chain`] applies several in
//! order. A [`Buffer`] is cut into independent chunks, each with its own checksum,
//! so that a window is read, checked and decoded alone, and chunks in parallel.
//!
//! A new pack is one file and one line in [`REGISTRY`]; `docs/adding-a-form.md` says
//! how. Names are forever: a file that uses one must open with every later version.

mod buffer;

pub use buffer::{Buffer, ChunkRecord, Store, StoredBuffer};

use crate::error::{Error, Result};
use crate::limits;
use crate::spec::{self, Codec, Options, Term};

/// A filter or coder, made for one buffer.
pub trait Pack: Send + Sync + std::fmt::Debug {
    /// Encodes `src`, appending to `dst`. Deterministic: the same bytes on every
    /// machine, instruction set and thread count.
    fn encode(&self, src: &[u8], dst: &mut Vec<u8>) -> Result<()>;

    /// Decodes `src`, appending to `dst`. `src` is hostile: any input gives the right
    /// bytes or a `Corrupt` error, never a panic, and never appends more than
    /// `max_len` bytes.
    fn decode(&self, src: &[u8], max_len: usize, dst: &mut Vec<u8>) -> Result<()>;

    /// Whether the output is always as long as the input.
    fn keeps_length(&self) -> bool {
        false
    }
}

/// One line of the registry.
#[derive(Debug)]
pub struct PackDef {
    /// Name, summary and options.
    pub codec: Codec,
    /// Makes the pack for a buffer whose elements are `width` bytes wide (1, 2, 4, 8).
    pub make: fn(&Options, width: usize) -> Result<Box<dyn Pack>>,
}

/// Every pack there is.
pub static REGISTRY: &[PackDef] = &[];

/// The pack of this name.
pub fn find(term: &Term) -> Result<&'static PackDef> {
    REGISTRY
        .iter()
        .find(|d| d.codec.name == term.name)
        .ok_or_else(|| {
            let known = REGISTRY.iter().map(|d| d.codec.name);
            spec::at(term.column, spec::unknown("pack", &term.name, known))
        })
}

/// The canonical terms of a chain, every name and option checked.
pub fn resolve(terms: &[Term]) -> Result<Vec<Term>> {
    if terms.len() > limits::MAX_PACKS {
        return Err(Error::limit(format!(
            "{} packs in a chain; at most {} are supported",
            terms.len(),
            limits::MAX_PACKS
        )));
    }
    terms
        .iter()
        .map(|term| {
            let def = find(term)?;
            let options = term.options(&def.codec)?;
            options.canonical(&|spec| Ok(spec.clone()))
        })
        .collect()
}

/// Packs in order, made for one buffer's element width.
#[derive(Debug)]
pub struct Chain {
    packs: Vec<Box<dyn Pack>>,
    terms: Vec<Term>,
    width: usize,
}

impl Chain {
    /// Makes the chain that `terms` name. An empty chain stores bytes as they are.
    pub fn new(terms: &[Term], width: usize) -> Result<Self> {
        if !matches!(width, 1 | 2 | 4 | 8) {
            return Err(Error::corrupt(format!("element width of {width} bytes")));
        }
        let terms = resolve(terms)?;
        let packs = terms
            .iter()
            .map(|term| {
                let def = find(term)?;
                (def.make)(&term.options(&def.codec)?, width)
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            packs,
            terms,
            width,
        })
    }

    /// Whether bytes are stored as they are.
    pub fn is_empty(&self) -> bool {
        self.packs.is_empty()
    }

    /// The canonical terms.
    pub fn terms(&self) -> &[Term] {
        &self.terms
    }

    /// Bytes of one element.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The canonical text, `shuffle | zstd(9)`; empty for an empty chain.
    pub fn text(&self) -> String {
        let terms: Vec<_> = self.terms.iter().map(Term::to_string).collect();
        terms.join(" | ")
    }

    /// Encodes one chunk. `None` when it would not get smaller and is to be stored raw.
    pub fn encode(&self, raw: &[u8]) -> Result<Option<Vec<u8>>> {
        let Some((first, rest)) = self.packs.split_first() else {
            return Ok(None);
        };
        let mut current = Vec::with_capacity(raw.len());
        first.encode(raw, &mut current)?;
        let mut next = Vec::new();
        for pack in rest {
            next.clear();
            pack.encode(&current, &mut next)?;
            std::mem::swap(&mut current, &mut next);
        }
        let reorders_only = self.packs.iter().all(|p| p.keeps_length());
        Ok((current.len() < raw.len() || reorders_only).then_some(current))
    }

    /// Decodes one chunk to exactly `raw_len` bytes, replacing what `out` held.
    pub fn decode(&self, stored: &[u8], raw_len: usize, out: &mut Vec<u8>) -> Result<()> {
        out.clear();
        let Some((last, rest)) = self.packs.split_last() else {
            out.extend_from_slice(stored);
            return Ok(());
        };
        // Between coders the length is not known; no pack grows its input by more
        // than a small part, so twice the chunk is a generous ceiling.
        let ceiling = raw_len.saturating_mul(2).saturating_add(1024);
        let max = if rest.is_empty() { raw_len } else { ceiling };
        last.decode(stored, max, out)?;
        let mut next = Vec::new();
        for (i, pack) in rest.iter().enumerate().rev() {
            next.clear();
            pack.decode(out, if i == 0 { raw_len } else { ceiling }, &mut next)?;
            std::mem::swap(out, &mut next);
        }
        if out.len() != raw_len {
            return Err(Error::corrupt(format!(
                "a chunk decodes to {} bytes, {raw_len} expected",
                out.len()
            )));
        }
        Ok(())
    }
}
