//! Buffers: bytes of a form's part, in memory or in a file, packed or not, that are
//! asked for by window.

use std::fs::File;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rayon::prelude::*;

use crate::bytes::AlignedBytes;
use crate::error::{Error, ErrorKind, Result};
use crate::limits;
use crate::mmap::Mapping;
use crate::pack::Chain;

/// Chunks aim at this many raw bytes: small enough that a chunk and its decoded
/// bytes stay in a 1 MiB L2 cache, large enough that zstd at level 3 loses less than
/// 1 % against one 4 MiB block (measured on f32 weights).
const TARGET_CHUNK_BYTES: usize = 256 << 10;

/// Stored chunks begin at multiples of this many bytes of a file: a cache line, and the
/// widest vector.
pub const STORED_ALIGN: u64 = 64;

/// A part of a compressed tensor. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Buffer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    chain: Chain,
    raw_len: usize,
    chunk_len: usize,
    chunks: Vec<Chunk>,
    store: Store,
    /// Whether the store is one piece of memory that holds the raw bytes without gaps.
    in_place: bool,
}

impl Inner {
    fn new(
        chain: Chain,
        raw_len: usize,
        chunk_len: usize,
        chunks: Vec<Chunk>,
        store: Store,
    ) -> Self {
        let ends = chunks.iter().map(|c| c.offset + c.stored_len as u64);
        let joined = ends
            .zip(chunks.iter().skip(1))
            .all(|(end, next)| end == next.offset);
        let in_memory = matches!(store, Store::Owned(_) | Store::Mapped(_));
        let in_place = joined && in_memory && chunks.iter().all(|c| !c.coded);
        Self {
            chain,
            raw_len,
            chunk_len,
            chunks,
            store,
            in_place,
        }
    }
}

/// Where a buffer's stored bytes are.
#[derive(Debug)]
pub enum Store {
    /// In memory, aligned: what an encoder has just made.
    Owned(AlignedBytes),
    /// In memory: packed chunks, each as the thread that made it left it. A chunk's offset
    /// is its index here.
    Packed(Vec<Vec<u8>>),
    /// In a mapped file.
    Mapped(Arc<Mapping>),
    /// In a file that is read piece by piece.
    File(Arc<File>),
}

#[derive(Debug)]
struct Chunk {
    /// Offset in the store.
    offset: u64,
    stored_len: usize,
    /// Whether the chain was applied.
    coded: bool,
    /// CRC-32C of the stored bytes; `None` for bytes that never left memory.
    crc: Option<u32>,
    /// Whether the checksum was found right once. Bytes read from a file by `read`
    /// are checked every time.
    checked: AtomicBool,
}

/// What an archive's index says of one chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkRecord {
    /// Offset in the file.
    pub offset: u64,
    /// Stored bytes.
    pub stored_len: u64,
    /// CRC-32C (Castagnoli) of the stored bytes.
    pub crc: u32,
    /// Whether the chain was applied; if not, the bytes are stored as they are.
    pub coded: bool,
}

/// What an archive's index says of one buffer.
#[derive(Debug)]
pub struct StoredBuffer {
    /// The packs.
    pub chain: Chain,
    /// Raw bytes of the whole buffer.
    pub raw_len: u64,
    /// Raw bytes of every chunk but the last.
    pub chunk_len: u64,
    /// Chunks in order.
    pub chunks: Vec<ChunkRecord>,
}

impl Buffer {
    /// Bytes in memory, unpacked. `width` is the size of one element and `unit` the
    /// bytes that are usually asked for together (a row, a tile); chunks are cut at
    /// multiples of it where that is possible.
    pub fn owned(bytes: AlignedBytes, width: usize, unit: usize) -> Result<Self> {
        let raw_len = bytes.len();
        Self::raw(Store::Owned(bytes), 0, raw_len, width, chunk_len(unit))
    }

    /// Bytes in memory, unpacked, in chunks of `chunk_len` bytes, a multiple of 64: for a
    /// part whose windows are read along with those of a larger one, so that both are cut
    /// at the same rows and no window decodes more of this one than it needs.
    pub fn owned_in_chunks(bytes: AlignedBytes, width: usize, chunk_len: usize) -> Result<Self> {
        if chunk_len == 0 || !chunk_len.is_multiple_of(64) || chunk_len > limits::MAX_CHUNK_BYTES {
            return Err(Error::internal(format!("chunks of {chunk_len} bytes")));
        }
        let raw_len = bytes.len();
        Self::raw(Store::Owned(bytes), 0, raw_len, width, chunk_len)
    }

    /// Bytes of a mapped file, unpacked and not copied.
    pub fn mapped(
        mapping: Arc<Mapping>,
        range: Range<usize>,
        width: usize,
        unit: usize,
    ) -> Result<Self> {
        if range.end > mapping.len() || range.start > range.end {
            return Err(Error::internal("a buffer outside its mapping"));
        }
        Self::raw(
            Store::Mapped(mapping),
            range.start as u64,
            range.len(),
            width,
            chunk_len(unit),
        )
    }

    fn raw(
        store: Store,
        start: u64,
        raw_len: usize,
        width: usize,
        chunk_len: usize,
    ) -> Result<Self> {
        let chunks = (0..raw_len.div_ceil(chunk_len))
            .map(|i| Chunk {
                offset: start + (i * chunk_len) as u64,
                stored_len: chunk_len.min(raw_len - i * chunk_len),
                coded: false,
                crc: None,
                checked: AtomicBool::new(true),
            })
            .collect();
        Ok(Self(Arc::new(Inner::new(
            Chain::new(&[], width)?,
            raw_len,
            chunk_len,
            chunks,
            store,
        ))))
    }

    /// A buffer in a file of `file_len` bytes, as an index describes it. Nothing of
    /// `stored` is trusted.
    pub fn stored(stored: StoredBuffer, store: Store, file_len: u64) -> Result<Self> {
        let StoredBuffer {
            chain,
            raw_len,
            chunk_len,
            chunks,
        } = stored;
        if raw_len > limits::MAX_TENSOR_BYTES {
            return Err(Error::limit(format!("a buffer of {raw_len} bytes")));
        }
        if chunk_len == 0 || chunk_len > limits::MAX_CHUNK_BYTES as u64 {
            return Err(Error::limit(format!("chunks of {chunk_len} bytes")));
        }
        if chunks.len() as u64 != raw_len.div_ceil(chunk_len) {
            return Err(Error::corrupt(format!(
                "{} chunks of {chunk_len} bytes for a buffer of {raw_len} bytes",
                chunks.len()
            )));
        }
        let mut list = Vec::with_capacity(chunks.len());
        for (i, c) in chunks.iter().enumerate() {
            let raw = chunk_len.min(raw_len - i as u64 * chunk_len);
            let end = c.offset.checked_add(c.stored_len);
            if end.is_none_or(|e| e > file_len) {
                return Err(Error::corrupt(format!(
                    "chunk {i} of {} bytes ends outside the file of {file_len} bytes",
                    c.stored_len
                ))
                .with_offset(c.offset));
            }
            let right = if c.coded {
                !chain.is_empty() && c.stored_len <= raw
            } else {
                c.stored_len == raw
            };
            if !right {
                return Err(Error::corrupt(format!(
                    "chunk {i} stores {} bytes for {raw} raw ones",
                    c.stored_len
                ))
                .with_offset(c.offset));
            }
            list.push(Chunk {
                offset: c.offset,
                stored_len: c.stored_len as usize,
                coded: c.coded,
                crc: Some(c.crc),
                checked: AtomicBool::new(false),
            });
        }
        Ok(Self(Arc::new(Inner::new(
            chain,
            raw_len as usize,
            chunk_len as usize,
            list,
            store,
        ))))
    }

    /// Raw bytes.
    pub fn len(&self) -> usize {
        self.0.raw_len
    }

    /// Whether there is no byte.
    pub fn is_empty(&self) -> bool {
        self.0.raw_len == 0
    }

    /// Bytes in an archive: stored chunks, each filled up to [`STORED_ALIGN`].
    pub fn stored_len(&self) -> u64 {
        let lens = self.0.chunks.iter().map(|c| c.stored_len as u64);
        lens.map(|n| n.next_multiple_of(STORED_ALIGN)).sum()
    }

    /// The packs at rest.
    pub fn chain(&self) -> &Chain {
        &self.0.chain
    }

    /// Raw bytes of every chunk but the last.
    pub fn chunk_len(&self) -> usize {
        self.0.chunk_len
    }

    /// Number of chunks.
    pub fn chunk_count(&self) -> usize {
        self.0.chunks.len()
    }

    /// Whether windows are handed out without a copy: unpacked, gapless, in memory or
    /// mapped.
    pub fn in_place(&self) -> bool {
        self.0.in_place
    }

    /// Bytes that [`window`](Self::window) takes for a window of `len` bytes, in scratch
    /// and besides: whole chunks when packed.
    pub fn scratch_for(&self, len: usize) -> usize {
        if self.in_place() {
            return 0;
        }
        // One more chunk: the window's edges fall inside chunks.
        let window = (len.div_ceil(self.0.chunk_len) + 1).min(self.0.chunks.len());
        let stored = usize::from(matches!(self.0.store, Store::File(_)));
        (window + stored + self.0.chain.temporaries()) * self.0.chunk_len.min(self.0.raw_len)
    }

    /// The raw bytes of `range`. Only the chunks that it touches are read, checked and
    /// decoded; `scratch` holds them where they cannot be handed out in place.
    pub fn window<'a>(&'a self, range: Range<usize>, scratch: &'a mut Vec<u8>) -> Result<&'a [u8]> {
        let inner = &*self.0;
        if range.start > range.end || range.end > inner.raw_len {
            return Err(Error::internal(format!(
                "window {range:?} of a buffer of {} bytes",
                inner.raw_len
            )));
        }
        if range.is_empty() {
            return Ok(&[]);
        }
        let first = range.start / inner.chunk_len;
        let last = (range.end - 1) / inner.chunk_len;
        if self.in_place() {
            for chunk in &inner.chunks[first..=last] {
                if !chunk.checked.load(Ordering::Relaxed) {
                    self.check(chunk, self.resident(chunk)?)?;
                    chunk.checked.store(true, Ordering::Relaxed);
                }
            }
            let start = inner.chunks[0].offset as usize + range.start;
            return self.resident_range(start..start + range.len());
        }
        scratch.clear();
        let total = (last - first) * inner.chunk_len + self.raw_chunk_len(last);
        // Exactly, for the sake of scratch limits.
        scratch.try_reserve_exact(total).map_err(|_| {
            Error::new(
                ErrorKind::OutOfMemory,
                format!("no memory for a window of {total} bytes"),
            )
        })?;
        let mut stored = Vec::new();
        for (i, chunk) in (first..=last).zip(&inner.chunks[first..=last]) {
            let bytes = self.stored_bytes(chunk, &mut stored)?;
            if chunk.coded {
                inner
                    .chain
                    .decode_append(bytes, self.raw_chunk_len(i), scratch)
                    .map_err(|e| e.with_offset(chunk.offset))?;
            } else {
                scratch.extend_from_slice(bytes);
            }
        }
        let start = range.start - first * inner.chunk_len;
        Ok(&scratch[start..start + range.len()])
    }

    fn raw_chunk_len(&self, i: usize) -> usize {
        self.0.chunk_len.min(self.0.raw_len - i * self.0.chunk_len)
    }

    /// Checked stored bytes of a chunk, from memory or read into `scratch`.
    fn stored_bytes<'a>(&'a self, chunk: &Chunk, scratch: &'a mut Vec<u8>) -> Result<&'a [u8]> {
        if let Store::File(file) = &self.0.store {
            scratch.clear();
            scratch.resize(chunk.stored_len, 0);
            read_at(file, scratch, chunk.offset).map_err(|e| {
                Error::io(format!("cannot read {} bytes", chunk.stored_len), e)
                    .with_offset(chunk.offset)
            })?;
            self.check(chunk, scratch)?;
            return Ok(scratch);
        }
        let bytes = self.resident(chunk)?;
        if !chunk.checked.load(Ordering::Relaxed) {
            self.check(chunk, bytes)?;
            chunk.checked.store(true, Ordering::Relaxed);
        }
        Ok(bytes)
    }

    fn resident(&self, chunk: &Chunk) -> Result<&[u8]> {
        if let Store::Packed(chunks) = &self.0.store {
            let bytes = chunks.get(chunk.offset as usize);
            return bytes
                .map(Vec::as_slice)
                .ok_or_else(|| Error::internal("a chunk outside its store"));
        }
        let start = chunk.offset as usize;
        self.resident_range(start..start + chunk.stored_len)
    }

    fn resident_range(&self, range: Range<usize>) -> Result<&[u8]> {
        let all: &[u8] = match &self.0.store {
            Store::Owned(bytes) => bytes,
            Store::Mapped(mapping) => mapping,
            Store::Packed(_) | Store::File(_) => &[],
        };
        all.get(range)
            .ok_or_else(|| Error::internal("a chunk outside its store"))
    }

    fn check(&self, chunk: &Chunk, bytes: &[u8]) -> Result<()> {
        let Some(expected) = chunk.crc else {
            return Ok(());
        };
        let found = crc32c::crc32c(bytes);
        if found != expected {
            return Err(Error::corrupt(format!(
                "checksum {found:08x} of {} stored bytes, {expected:08x} expected",
                bytes.len()
            ))
            .with_offset(chunk.offset));
        }
        Ok(())
    }

    /// The same bytes packed with `chain`, chunks in parallel. The result does not
    /// depend on the number of threads.
    pub fn pack(&self, terms: &[crate::spec::Term]) -> Result<Self> {
        let chain = Chain::new(terms, self.0.chain.width())?;
        if chain.is_empty() {
            return Ok(self.clone());
        }
        let packed: Vec<(bool, Vec<u8>)> = (0..self.0.chunks.len())
            .into_par_iter()
            .map_init(Vec::new, |scratch, i| {
                let start = i * self.0.chunk_len;
                let raw = self.window(start..start + self.raw_chunk_len(i), scratch)?;
                Ok(match chain.encode(raw)? {
                    Some(coded) => (true, coded),
                    None => (false, raw.to_vec()),
                })
            })
            .collect::<Result<_>>()?;
        let chunks = packed
            .iter()
            .enumerate()
            .map(|(i, (coded, bytes))| Chunk {
                offset: i as u64,
                stored_len: bytes.len(),
                coded: *coded,
                crc: None,
                checked: AtomicBool::new(true),
            })
            .collect();
        let store = packed.into_iter().map(|(_, bytes)| bytes).collect();
        Ok(Self(Arc::new(Inner::new(
            chain,
            self.0.raw_len,
            self.0.chunk_len,
            chunks,
            Store::Packed(store),
        ))))
    }

    /// Hands the stored bytes of every chunk to `write`, in order, which returns the
    /// offset that they were written to. The records describe the chunks there.
    pub fn write_chunks(
        &self,
        mut write: impl FnMut(&[u8]) -> Result<u64>,
    ) -> Result<Vec<ChunkRecord>> {
        let mut scratch = Vec::new();
        let mut records = Vec::with_capacity(self.0.chunks.len());
        for chunk in &self.0.chunks {
            let bytes = self.stored_bytes(chunk, &mut scratch)?;
            records.push(ChunkRecord {
                offset: write(bytes)?,
                stored_len: bytes.len() as u64,
                crc: chunk.crc.unwrap_or_else(|| crc32c::crc32c(bytes)),
                coded: chunk.coded,
            });
        }
        Ok(records)
    }

    /// Reads, checks and decodes every chunk, in parallel; the first damaged one in
    /// file order is the error.
    pub fn verify(&self) -> Result<()> {
        let results: Vec<Result<()>> = (0..self.0.chunks.len())
            .into_par_iter()
            .map(|i| {
                let chunk = &self.0.chunks[i];
                let mut stored = Vec::new();
                let bytes = match &self.0.store {
                    Store::File(_) => self.stored_bytes(chunk, &mut stored)?,
                    // Read afresh: the question is what the file holds now.
                    _ => {
                        let bytes = self.resident(chunk)?;
                        self.check(chunk, bytes)?;
                        bytes
                    }
                };
                if chunk.coded {
                    let mut out = Vec::new();
                    self.0
                        .chain
                        .decode(bytes, self.raw_chunk_len(i), &mut out)
                        .map_err(|e| e.with_offset(chunk.offset))?;
                }
                Ok(())
            })
            .collect();
        results.into_iter().collect()
    }
}

/// The multiple of `unit` (a window's natural size) and of 64 (so that raw chunks
/// follow each other without gaps in a file) nearest below the target.
fn chunk_len(unit: usize) -> usize {
    let unit = unit.clamp(1, TARGET_CHUNK_BYTES);
    // unit / gcd(unit, 64) * 64
    let step = (unit >> unit.trailing_zeros().min(6)) * 64;
    if step > TARGET_CHUNK_BYTES {
        return TARGET_CHUNK_BYTES;
    }
    TARGET_CHUNK_BYTES / step * step
}

#[cfg(unix)]
pub(crate) fn read_at(file: &File, out: &mut [u8], offset: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, out, offset)
}

#[cfg(windows)]
pub(crate) fn read_at(file: &File, mut out: &mut [u8], mut offset: u64) -> std::io::Result<()> {
    while !out.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, out, offset)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            n => {
                out = &mut out[n..];
                offset += n as u64;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_fall_on_units_and_cache_lines() {
        for unit in [1, 3, 24, 64, 100, 1536, 4096, 100_000, 1 << 20] {
            let len = chunk_len(unit);
            assert_eq!(len % 64, 0, "{unit}");
            assert!(len <= TARGET_CHUNK_BYTES && len > TARGET_CHUNK_BYTES / 2);
        }
        assert_eq!(chunk_len(1536) % 1536, 0);
        assert_eq!(chunk_len(100) % 100, 0);
    }

    #[test]
    fn windows_equal_the_whole() {
        let raw: Vec<u8> = (0..600_000u32).map(|i| (i / 7) as u8).collect();
        let buffer = Buffer::owned(AlignedBytes::copy_of(&raw).unwrap(), 1, 100).unwrap();
        let mut scratch = Vec::new();
        assert!(buffer.in_place());
        for range in [0..0, 0..1, 5..600_000, 262_000..262_500, 599_999..600_000] {
            assert_eq!(
                buffer.window(range.clone(), &mut scratch).unwrap(),
                &raw[range]
            );
        }
        assert!(buffer.window(0..600_001, &mut scratch).is_err());
    }
}
