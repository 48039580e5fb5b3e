//! Deflate in a gzip member.
//!
//! *Exploits* repeats within 32 KiB and uneven byte frequencies. It is here because
//! every language can read it without a further library.
//!
//! *Layout.* One gzip member (RFC 1952): no name, time 0, system 255, then the deflate
//! stream, CRC-32 and length. Nothing follows it.
//!
//! *Loses* to `zstd` in size and in speed both ways.

use std::io::{Read, Write};

use flate2::Compression;
use flate2::bufread::GzDecoder;
use flate2::write::GzEncoder;

use crate::error::{Error, Result};
use crate::pack::{Pack, PackDef, too_long};
use crate::spec::{Codec, Kind, OptionDef};

pub(super) const DEF: PackDef = PackDef {
    codec: Codec {
        name: "gzip",
        summary: "deflate in a gzip member",
        options: &[OptionDef {
            key: "level",
            aliases: &[],
            kind: Kind::Integer(1, 9),
            default: Some("6"),
            doc: "1 is fastest, 9 smallest",
        }],
    },
    make: |options, _| {
        let level = options.integer("level").unwrap_or(6);
        Ok(Box::new(Gzip {
            level: Compression::new(level as u32),
        }))
    },
};

#[derive(Debug)]
struct Gzip {
    level: Compression,
}

impl Pack for Gzip {
    fn encode(&self, src: &[u8], dst: &mut Vec<u8>) -> Result<()> {
        let mut encoder = GzEncoder::new(dst, self.level);
        encoder
            .write_all(src)
            .and_then(|()| encoder.finish())
            .map_err(|e| Error::internal(format!("gzip: {e}")))?;
        Ok(())
    }

    fn decode(&self, src: &[u8], max_len: usize, dst: &mut Vec<u8>) -> Result<()> {
        let bad = |e: std::io::Error| Error::corrupt(format!("gzip: {e}"));
        // The last four bytes hold the length; a lie there costs no more than
        // `max_len`, and deflate cannot reach beyond 1032 : 1.
        if let Some(len) = src.last_chunk::<4>() {
            let len = u32::from_le_bytes(*len) as usize;
            dst.reserve(len.min(max_len).min(src.len().saturating_mul(1032)));
        }
        let mut decoder = GzDecoder::new(src);
        (&mut decoder)
            .take(max_len as u64)
            .read_to_end(dst)
            .map_err(bad)?;
        // One read more: it must find the end, and is what checks the CRC when the
        // limit was reached exactly.
        if decoder.read(&mut [0]).map_err(bad)? != 0 {
            return Err(too_long("gzip", max_len));
        }
        if !decoder.into_inner().is_empty() {
            return Err(Error::corrupt("bytes after the gzip member"));
        }
        Ok(())
    }
}
