//! LZ4 block.
//!
//! *Exploits* repeats of four bytes or more within 64 KiB. The fastest coder to decode
//! that still finds repeats.
//!
//! *Layout.* The raw length as a little-endian u32, then one block of the LZ4 block
//! format.
//!
//! *Loses* wherever there is no repeat but uneven frequencies: it has no entropy
//! coder, so the exponent bytes of random weights stay as large as they are.

use crate::error::{Error, Result};
use crate::pack::{Pack, PackDef, grow, too_long};
use crate::spec::Codec;

pub(super) const DEF: PackDef = PackDef {
    codec: Codec {
        name: "lz4",
        summary: "LZ4 block: repeats only, fastest to decode",
        options: &[],
    },
    make: |_, _| Ok(Box::new(Lz4)),
};

#[derive(Debug)]
struct Lz4;

impl Pack for Lz4 {
    fn encode(&self, src: &[u8], dst: &mut Vec<u8>) -> Result<()> {
        let len = u32::try_from(src.len())
            .map_err(|_| Error::limit(format!("lz4 of {} bytes", src.len())))?;
        dst.extend_from_slice(&len.to_le_bytes());
        let start = dst.len();
        let out = grow(dst, lz4_flex::block::get_maximum_output_size(src.len()));
        let stored = lz4_flex::block::compress_into(src, out)
            .map_err(|e| Error::internal(format!("lz4: {e}")))?;
        dst.truncate(start + stored);
        Ok(())
    }

    fn decode(&self, src: &[u8], max_len: usize, dst: &mut Vec<u8>) -> Result<()> {
        let Some((len, block)) = src.split_first_chunk::<4>() else {
            return Err(Error::corrupt("lz4 without its length"));
        };
        let len = u32::from_le_bytes(*len) as usize;
        if len > max_len {
            return Err(too_long("lz4", max_len));
        }
        let found = lz4_flex::block::decompress_into(block, grow(dst, len))
            .map_err(|e| Error::corrupt(format!("lz4: {e}")))?;
        if found != len {
            return Err(Error::corrupt(format!(
                "lz4 holds {found} bytes and says {len}"
            )));
        }
        Ok(())
    }
}
