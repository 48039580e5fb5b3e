//! Takes archives apart and puts them together with right checksums, so that the lies in
//! them are reached. Written from `docs/format.md`, not from the library.

use serde_json::{Value, json};

/// Puts the checksum of the bytes before `at` there.
pub fn seal(block: &mut [u8], at: usize) {
    let crc = crc32c::crc32c(&block[..at]);
    block[at..at + 4].copy_from_slice(&crc.to_le_bytes());
}

/// Everything before the index, the index, and the footer.
pub fn split(bytes: &[u8]) -> (Vec<u8>, Value, Vec<u8>) {
    let (rest, footer) = bytes.split_at(bytes.len() - 64);
    let at = u64::from_le_bytes(footer[..8].try_into().unwrap()) as usize;
    let index = serde_json::from_slice(&rest[at..]).unwrap();
    (rest[..at].to_vec(), index, footer.to_vec())
}

/// A whole archive of a body (header and chunks) and an index.
pub fn join(body: &[u8], index: &[u8]) -> Vec<u8> {
    let mut out = body.to_vec();
    out.extend_from_slice(index);
    let mut footer = [0u8; 64];
    footer[..8].copy_from_slice(&(body.len() as u64).to_le_bytes());
    footer[8..16].copy_from_slice(&(index.len() as u64).to_le_bytes());
    footer[16..20].copy_from_slice(&crc32c::crc32c(index).to_le_bytes());
    footer[24..32].copy_from_slice(&(out.len() as u64 + 64).to_le_bytes());
    seal(&mut footer, 52);
    footer[56..].copy_from_slice(b"\nEND\x89CAI");
    out.extend_from_slice(&footer);
    out
}

/// A header and chunks after it.
pub struct Body {
    pub bytes: Vec<u8>,
}

impl Body {
    pub fn new() -> Self {
        let mut bytes = vec![0u8; 64];
        bytes[..8].copy_from_slice(b"\x89CAI\r\n\x1a\n");
        bytes[8] = 1;
        seal(&mut bytes, 60);
        Self { bytes }
    }

    /// Adds a chunk and gives the index's words for a buffer of that one raw chunk.
    pub fn raw(&mut self, chunk: &[u8], width: usize) -> Value {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(chunk);
        self.bytes.resize(self.bytes.len().next_multiple_of(64), 0);
        let chunks = match chunk.len() {
            0 => json!([]),
            n => json!([[at, n, crc32c::crc32c(chunk), 0]]),
        };
        json!({"bytes": chunk.len(), "chunk": chunk.len().max(1), "width": width, "chunks": chunks})
    }
}
