//! Packs: lossless chains of byte filters and coders for a buffer at rest.
//!
//! A *filter* (delta, shuffle, bitshuffle, rotate) reorders or changes bytes and keeps
//! their number; a *coder* (rle, gzip, zstd, lz4, rans) makes them fewer. A [`Chain`] applies several in
//! order. A [`Buffer`] is cut into independent chunks, each with its own checksum,
//! so that a window is read, checked and decoded alone, and chunks in parallel.
//!
//! A new pack is one file and one line in [`REGISTRY`]; `docs/adding-a-form.md` says
//! how. Names are forever: a file that uses one must open with every later version.

mod bitshuffle;
mod buffer;
mod delta;
pub(crate) mod frequencies;
mod gzip;
mod lz4;
mod rans;
mod rle;
mod rotate;
mod shuffle;
mod zstd;

pub(crate) use buffer::read_at;
pub use buffer::{Buffer, ChunkRecord, STORED_ALIGN, Store, StoredBuffer};

use std::cell::Cell;

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
pub static REGISTRY: &[PackDef] = &[
    delta::DEF,
    shuffle::DEF,
    bitshuffle::DEF,
    rle::DEF,
    gzip::DEF,
    zstd::DEF,
    lz4::DEF,
    rotate::DEF,
    rans::DEF,
];

/// Appends `len` bytes to `dst`, for the caller to fill.
fn grow(dst: &mut Vec<u8>, len: usize) -> &mut [u8] {
    let start = dst.len();
    dst.resize(start + len, 0);
    &mut dst[start..]
}

/// The error of a pack whose input would decode to more than it may.
fn too_long(name: &str, max_len: usize) -> Error {
    Error::corrupt(format!("{name} decodes to more than {max_len} bytes"))
}

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
        // Kept from chunk to chunk: fresh pages for every filter cost as much as it does.
        thread_local! {
            static BUFFERS: Cell<(Vec<u8>, Vec<u8>)> = const { Cell::new((Vec::new(), Vec::new())) };
        }
        let (mut current, mut next) = BUFFERS.take();
        let mut run = || -> Result<Option<Vec<u8>>> {
            current.clear();
            first.encode(raw, &mut current)?;
            for pack in rest {
                next.clear();
                pack.encode(&current, &mut next)?;
                std::mem::swap(&mut current, &mut next);
            }
            let reorders_only = self.packs.iter().all(|p| p.keeps_length());
            let coded = current.len() < raw.len() || reorders_only;
            Ok(coded.then(|| current.clone()))
        };
        let result = run();
        BUFFERS.set((current, next));
        result
    }

    /// Decodes one chunk to exactly `raw_len` bytes, replacing what `out` held.
    pub fn decode(&self, stored: &[u8], raw_len: usize, out: &mut Vec<u8>) -> Result<()> {
        out.clear();
        self.decode_append(stored, raw_len, out)
    }

    /// Decodes one chunk to exactly `raw_len` bytes behind what `out` holds. On an error
    /// what was added is of no use.
    pub fn decode_append(&self, stored: &[u8], raw_len: usize, out: &mut Vec<u8>) -> Result<()> {
        let Some((first, rest)) = self.packs.split_first() else {
            out.extend_from_slice(stored);
            return Ok(());
        };
        // Between coders the length is not known; no pack grows its input by more
        // than a small part, so twice the chunk is a generous ceiling.
        let ceiling = raw_len.saturating_mul(2).saturating_add(1024);
        let (mut current, mut next) = (Vec::new(), Vec::new());
        for (i, pack) in rest.iter().rev().enumerate() {
            let src = if i == 0 { stored } else { &current[..] };
            next.clear();
            pack.decode(src, ceiling, &mut next)?;
            std::mem::swap(&mut current, &mut next);
        }
        let src = if rest.is_empty() {
            stored
        } else {
            &current[..]
        };
        let start = out.len();
        first.decode(src, raw_len, out)?;
        if out.len() - start != raw_len {
            return Err(Error::corrupt(format!(
                "a chunk decodes to {} bytes, {raw_len} expected",
                out.len() - start
            )));
        }
        Ok(())
    }

    /// Chunks that decoding one holds beside its result, about.
    fn temporaries(&self) -> usize {
        self.packs.len().saturating_sub(1).min(2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bytes::AlignedBytes;
    use crate::error::ErrorKind;
    use crate::spec::Spec;

    /// Terms of `text`, written as the packs of a spec.
    fn terms(text: &str) -> Vec<Term> {
        Spec::parse_syntax(&format!("dense | {text}"))
            .unwrap()
            .packs
    }

    fn chain(text: &str, width: usize) -> Chain {
        Chain::new(&terms(text), width).unwrap()
    }

    /// Every pack alone, at its default and at the ends of its level, and some chains.
    fn chains() -> Vec<String> {
        let mut all: Vec<String> = REGISTRY.iter().map(|d| d.codec.name.to_owned()).collect();
        for text in [
            "gzip(1)",
            "gzip(9)",
            "zstd(1)",
            "zstd(19)",
            "shuffle(2)",
            "bitshuffle(width=8)",
            "shuffle | zstd(9)",
            "delta | shuffle | lz4",
            "bitshuffle | rle | gzip",
            "shuffle | rans",
            "rotate | shuffle | rans",
        ] {
            all.push(text.to_owned());
        }
        all
    }

    struct XorShift(u64);

    impl XorShift {
        fn next(&mut self) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0
        }

        fn below(&mut self, n: usize) -> usize {
            (self.next() >> 16) as usize % n
        }

        /// Near enough to a normal distribution: the sum of twelve uniform ones.
        fn gaussian(&mut self) -> f32 {
            let sum: f32 = (0..12).map(|_| (self.next() >> 40) as f32).sum();
            sum / (1 << 24) as f32 - 6.0
        }
    }

    /// Named data of every kind, cut to `len` bytes.
    fn data(len: usize) -> Vec<(&'static str, Vec<u8>)> {
        let mut x = XorShift(0x9e37_79b9_7f4a_7c15);
        let words = len / 4 + 1;
        let weights: Vec<f32> = (0..words).map(|_| x.gaussian() * 0.02).collect();
        let sparse = |x: &mut XorShift| if x.below(10) == 0 { x.gaussian() } else { 0.0 };
        let sparse: Vec<f32> = (0..words).map(|_| sparse(&mut x)).collect();
        let floats = |v: &[f32]| v.iter().flat_map(|f| f.to_le_bytes()).collect();
        let mut all = vec![
            ("random", (0..len).map(|_| x.next() as u8).collect()),
            ("constant", vec![0x5a; len]),
            ("byte ramp", (0..len).map(|i| i as u8).collect()),
            (
                "word ramp",
                (0..words as u32)
                    .flat_map(|i| (i * 3).to_le_bytes())
                    .collect(),
            ),
            ("weights", floats(&weights)),
            ("sparse", floats(&sparse)),
        ];
        for (_, bytes) in &mut all {
            let bytes: &mut Vec<u8> = bytes;
            bytes.truncate(len);
        }
        all
    }

    #[test]
    fn names_are_frozen() {
        let names: Vec<_> = REGISTRY.iter().map(|d| d.codec.name).collect();
        let frozen = [
            "delta",
            "shuffle",
            "bitshuffle",
            "rle",
            "gzip",
            "zstd",
            "lz4",
            "rotate",
            "rans",
        ];
        // New ones may come; these may not go, and their order is that of listings.
        assert_eq!(&names[..frozen.len()], frozen);
        let mut unique = names.clone();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(unique.len(), names.len());
    }

    #[test]
    fn options_are_checked_and_canonical() {
        let text = "shuffle(4) | zstd(level=3) | gzip(level=9)";
        assert_eq!(
            chain(text, 2).text(),
            "shuffle(width=4) | zstd | gzip(level=9)"
        );
        for bad in [
            "zstd(0)",
            "zstd(20)",
            "gzip(10)",
            "shuffle(3)",
            "rle(1)",
            "zsdt",
        ] {
            let e = Chain::new(&terms(bad), 4).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::InvalidArgument, "{bad}");
        }
        assert!(Chain::new(&terms("zstd"), 3).is_err());
    }

    /// Straight through the packs, also where a chain would rather store raw.
    #[test]
    fn every_pack_round_trips_and_appends() {
        for def in REGISTRY {
            for width in [1, 2, 4, 8] {
                let options = Term::bare(def.codec.name).options(&def.codec).unwrap();
                let pack = (def.make)(&options, width).unwrap();
                for len in [0, 1, 2, 7, 8, 9, 63, 64, 65, 4099, 70_001] {
                    for (kind, raw) in data(len) {
                        let what = format!("{} width {width}, {len} {kind}", def.codec.name);
                        let mut coded = b"before".to_vec();
                        pack.encode(&raw, &mut coded).unwrap();
                        let coded = &coded[6..];
                        if pack.keeps_length() {
                            assert_eq!(coded.len(), len, "{what}");
                        }
                        assert!(coded.len() <= len + len / 100 + 64, "{what}");
                        let mut back = b"before".to_vec();
                        pack.decode(coded, len, &mut back).unwrap();
                        assert_eq!(&back[..6], b"before", "{what}");
                        assert!(back[6..] == raw, "{what}");
                        // A byte less than it needs is an error, and nothing is appended
                        // past the limit on the way to it.
                        if len > 0 {
                            let mut back = b"before".to_vec();
                            let short = pack.decode(coded, len - 1, &mut back);
                            assert_eq!(short.unwrap_err().kind(), ErrorKind::Corrupt, "{what}");
                            assert!(back.len() < 6 + len, "{what}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn chains_round_trip_or_decline() {
        for text in chains() {
            for width in [1, 2, 4, 8] {
                let chain = chain(&text, width);
                for len in [0, 1, 3, 64, 1023, 40_000] {
                    for (kind, raw) in data(len) {
                        let what = format!("{text} width {width}, {len} {kind}");
                        let Some(coded) = chain.encode(&raw).unwrap() else {
                            continue;
                        };
                        assert!(coded.len() <= len, "{what}");
                        assert_eq!(chain.encode(&raw).unwrap().unwrap(), coded, "{what}");
                        let mut out = Vec::new();
                        chain.decode(&coded, len, &mut out).unwrap();
                        assert!(out == raw, "{what}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_chunk_that_would_grow_is_declined() {
        let (_, random) = data(5000).swap_remove(0);
        for text in [
            "rle",
            "gzip",
            "zstd",
            "lz4",
            "rans",
            "shuffle | zstd",
            "bitshuffle | rle | gzip",
        ] {
            assert!(chain(text, 4).encode(&random).unwrap().is_none(), "{text}");
            assert!(chain(text, 4).encode(&[]).unwrap().is_none(), "{text}");
        }
    }

    /// Either an error or exactly the raw length, and no panic.
    #[test]
    fn damage_is_an_error_or_keeps_the_length() {
        let mut x = XorShift(99);
        let mut seen = 0;
        for text in chains() {
            let chain = chain(&text, 4);
            for (kind, raw) in data(1203) {
                let Some(coded) = chain.encode(&raw).unwrap() else {
                    continue;
                };
                let mut out = Vec::new();
                let mut check = |damaged: &[u8]| {
                    seen += 1;
                    match chain.decode(damaged, raw.len(), &mut out) {
                        Ok(()) => assert_eq!(out.len(), raw.len(), "{text} {kind}"),
                        Err(e) => assert_eq!(e.kind(), ErrorKind::Corrupt, "{text} {kind}: {e}"),
                    }
                };
                for cut in 0..coded.len() {
                    check(&coded[..cut]);
                }
                for _ in 0..300 {
                    let mut damaged = coded.clone();
                    for _ in 0..=x.below(3) {
                        let at = x.below(damaged.len());
                        damaged[at] ^= 1 << x.below(8);
                    }
                    check(&damaged);
                }
                for extra in [vec![0], vec![0xff; 9], coded.clone()] {
                    check(&[&coded[..], &extra].concat());
                }
            }
            // Bytes that never were a chunk.
            for len in 0..200 {
                let noise: Vec<u8> = (0..len).map(|_| x.next() as u8).collect();
                let mut out = Vec::new();
                if chain.decode(&noise, 1000, &mut out).is_ok() {
                    assert_eq!(out.len(), 1000);
                }
            }
        }
        assert!(seen > 10_000);
    }

    #[test]
    fn zstd_cuts_its_blocks_at_byte_planes() {
        let (_, raw) = data(64 << 10).swap_remove(4);
        let shuffled = chain("shuffle", 4).encode(&raw).unwrap().unwrap();
        let size = |width| {
            let coded = chain("zstd(1)", width).encode(&shuffled).unwrap();
            coded.map_or(raw.len(), |c| c.len())
        };
        let (planes, whole) = (size(4), size(1));
        assert!(planes * 100 < whole * 97, "{planes} {whole}");
    }

    /// Sizes that a damaged chunk claims are refused before memory is asked for.
    #[test]
    fn claims_are_held_against_the_limit() {
        let zeros = vec![0; 1 << 20];
        for text in ["rle", "gzip", "zstd", "lz4", "rans"] {
            let chain = chain(text, 1);
            let coded = chain.encode(&zeros).unwrap().unwrap();
            let mut out = Vec::new();
            let e = chain.decode(&coded, 1000, &mut out).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Corrupt, "{text}");
            assert!(out.capacity() <= 4096, "{text}: {}", out.capacity());
        }
    }

    #[test]
    fn packed_windows_equal_raw_ones() {
        let (_, raw) = data(700_003).swap_remove(4);
        let buffer = Buffer::owned(AlignedBytes::copy_of(&raw).unwrap(), 4, 1536).unwrap();
        let mut scratch = Vec::new();
        for text in [
            "delta",
            "shuffle | zstd(1)",
            "bitshuffle | rle",
            "lz4",
            "rotate | shuffle | rans",
        ] {
            let packed = buffer.pack(&terms(text)).unwrap();
            assert_eq!(packed.len(), raw.len());
            assert_eq!(packed.chunk_count(), 3);
            for range in [0..0, 0..1, 0..700_003, 262_000..262_500, 700_002..700_003] {
                let window = packed.window(range.clone(), &mut scratch).unwrap();
                assert!(window == &raw[range], "{text}");
            }
            packed.verify().unwrap();
        }
    }

    #[test]
    fn threads_change_no_byte() {
        let (_, raw) = data(1_500_000).swap_remove(4);
        let buffer = Buffer::owned(AlignedBytes::copy_of(&raw).unwrap(), 4, 64).unwrap();
        // Level 9: its match finder is one whose tables outlive a chunk if let.
        let terms = terms("shuffle | zstd(9)");
        let stored = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            let pool = pool.build().unwrap();
            let packed = pool.install(|| buffer.pack(&terms)).unwrap();
            let mut all = Vec::new();
            let records = packed.write_chunks(|bytes| {
                all.extend_from_slice(bytes);
                Ok(all.len() as u64)
            });
            (all, records.unwrap())
        };
        let one = stored(1);
        assert!(one.0.len() < raw.len());
        assert!(one == stored(2));
    }
}
