//! The `.cai` archive, version 1: many compressed tensors in one file that is mapped
//! and read in part. `docs/format.md` tells a stranger how to read it.
//!
//! 64-byte header · chunks, each on a 64-byte boundary · JSON index · 64-byte footer.

mod index;
mod reader;
mod writer;

pub use reader::{Archive, Entry};
pub use writer::{Summary, Writer};

use crate::error::{Error, Result};

/// First bytes of an archive: the high bit stops 7-bit transfers, the line ends stop
/// those that translate them, 0x1a ends a listing (the idea is PNG's).
pub const MAGIC: [u8; 8] = *b"\x89CAI\r\n\x1a\n";
/// Last bytes of an archive.
pub const END_MAGIC: [u8; 8] = *b"\nEND\x89CAI";
/// Major version that is written, and the only one that is read.
pub const MAJOR: u16 = 1;
/// Minor version that is written; any is read.
pub const MINOR: u16 = 0;
/// Bytes of the header.
pub const HEADER_BYTES: u64 = 64;
/// Bytes of the footer.
pub const FOOTER_BYTES: u64 = 64;
/// Chunks and the index begin at multiples of this.
pub const ALIGN: u64 = crate::pack::STORED_ALIGN;

fn header() -> [u8; 64] {
    let mut out = [0u8; 64];
    out[..8].copy_from_slice(&MAGIC);
    out[8..10].copy_from_slice(&MAJOR.to_le_bytes());
    out[10..12].copy_from_slice(&MINOR.to_le_bytes());
    seal(&mut out, 60);
    out
}

fn footer(index_offset: u64, index: &[u8]) -> [u8; 64] {
    let mut out = [0u8; 64];
    out[..8].copy_from_slice(&index_offset.to_le_bytes());
    out[8..16].copy_from_slice(&(index.len() as u64).to_le_bytes());
    out[16..20].copy_from_slice(&crc32c::crc32c(index).to_le_bytes());
    let file_len = index_offset + index.len() as u64 + FOOTER_BYTES;
    out[24..32].copy_from_slice(&file_len.to_le_bytes());
    seal(&mut out, 52);
    out[56..].copy_from_slice(&END_MAGIC);
    out
}

/// Puts the checksum of all bytes before `at` there.
fn seal(block: &mut [u8; 64], at: usize) {
    let crc = crc32c::crc32c(&block[..at]);
    block[at..at + 4].copy_from_slice(&crc.to_le_bytes());
}

fn check_seal(block: &[u8], at: usize, what: &str, offset: u64) -> Result<()> {
    let crc = crc32c::crc32c(&block[..at]);
    if block[at..at + 4] != crc.to_le_bytes() {
        return Err(Error::corrupt(format!("the {what} is damaged")).with_offset(offset));
    }
    Ok(())
}
