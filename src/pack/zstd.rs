//! Zstandard frame.
//!
//! *Exploits* repeats over the whole chunk and uneven byte frequencies, the latter with
//! an entropy coder of nearly ideal rate. The coder of choice behind `shuffle`.
//!
//! *Layout.* One Zstandard frame (RFC 8878) with its content size, without checksum
//! and dictionary. Nothing follows it. Any decoder reads it; how the encoder cuts
//! blocks and which matches it takes is its own affair:
//!
//! * A block ends where a byte plane of `shuffle` ends. Left alone zstd cuts at 128 KiB,
//!   mixes planes and codes both with one table. On shuffled f32 weights in chunks of
//!   256 KiB and less that costs 2 to 15 % of the size and half the decoding speed;
//!   where there are no planes the cuts cost nothing that can be measured.
//! * Matches are seven bytes or longer. Shorter ones are chance in weights, and cost more
//!   than the entropy coder needs for the bytes. Shuffled weights, masks and positions
//!   get 0.2 to 4 % smaller at every level, and are coded faster; text and unshuffled
//!   sparse floats get up to 4 % larger.
//!
//! *Loses* to `lz4` in decoding speed where there are only repeats, and to `rans` where
//! there are none. Levels past 1 gain little on weights.

use std::cell::RefCell;

use zstd::zstd_safe::zstd_sys::ZSTD_EndDirective;
use zstd::zstd_safe::{self, CCtx, CParameter, DCtx, InBuffer, OutBuffer, ResetDirective};

use crate::error::{Error, Result};
use crate::pack::{Pack, PackDef, too_long};
use crate::spec::{Codec, Kind, OptionDef};

pub(super) const DEF: PackDef = PackDef {
    codec: Codec {
        name: "zstd",
        summary: "Zstandard frame",
        options: &[OptionDef {
            key: "level",
            aliases: &[],
            kind: Kind::Integer(1, 19),
            default: Some("3"),
            doc: "1 is fastest, 19 smallest",
        }],
    },
    make: |options, width| {
        let level = options.integer("level").unwrap_or(3);
        Ok(Box::new(Zstd {
            level: level as i32,
            width,
        }))
    },
};

/// Planes shorter than this are not worth a block of their own, which costs three
/// bytes and, where it has a table, some fifty.
const MIN_PIECE: usize = 512;

const MIN_MATCH: u32 = 7;

#[derive(Debug)]
struct Zstd {
    level: i32,
    width: usize,
}

thread_local! {
    // One of each a thread: making one takes as long as coding some 10 KiB. Nothing
    // that a context saw before shows in what it makes next (tested below).
    static ENCODER: RefCell<Option<CCtx<'static>>> = const { RefCell::new(None) };
    static DECODER: RefCell<Option<DCtx<'static>>> = const { RefCell::new(None) };
}

impl Zstd {
    fn encode_with(&self, context: &mut CCtx<'_>, src: &[u8], dst: &mut Vec<u8>) -> Result<()> {
        let bad = |code| Error::internal(format!("zstd: {}", zstd_safe::get_error_name(code)));
        context
            .reset(ResetDirective::SessionAndParameters)
            .map_err(bad)?;
        for parameter in [
            CParameter::CompressionLevel(self.level),
            CParameter::MinMatch(MIN_MATCH),
        ] {
            context.set_parameter(parameter).map_err(bad)?;
        }
        context
            .set_pledged_src_size(Some(src.len() as u64))
            .map_err(bad)?;
        let piece = src.len().div_ceil(self.width).max(MIN_PIECE);
        // A block that does not shrink is stored behind a header of three bytes.
        let room = zstd_safe::compress_bound(src.len()) + 3 * (src.len() / piece + 1);
        let start = dst.len();
        dst.reserve(room);
        let mut out = OutBuffer::around_pos(dst, start);
        let mut read = 0;
        loop {
            let end = src.len().min(read + piece);
            let directive = if end == src.len() {
                ZSTD_EndDirective::ZSTD_e_end
            } else {
                ZSTD_EndDirective::ZSTD_e_flush
            };
            let mut input = InBuffer::around(&src[read..end]);
            while context
                .compress_stream2(&mut out, &mut input, directive)
                .map_err(bad)?
                != 0
            {
                if out.pos() - start >= room {
                    return Err(Error::internal("zstd outgrew its bound"));
                }
            }
            if end == src.len() {
                return Ok(());
            }
            read = end;
        }
    }
}

impl Pack for Zstd {
    fn encode(&self, src: &[u8], dst: &mut Vec<u8>) -> Result<()> {
        ENCODER.with_borrow_mut(|slot| {
            let context = match slot {
                Some(context) => context,
                None => slot.insert(CCtx::try_create().ok_or_else(no_memory)?),
            };
            self.encode_with(context, src, dst)
        })
    }

    fn decode(&self, src: &[u8], max_len: usize, dst: &mut Vec<u8>) -> Result<()> {
        // Both before anything is allocated: the frame's own word for its size, and
        // that it is the only one.
        let len = match zstd_safe::get_frame_content_size(src) {
            Ok(Some(len)) => len,
            _ => return Err(Error::corrupt("zstd frame without its content size")),
        };
        let Some(len) = usize::try_from(len).ok().filter(|n| *n <= max_len) else {
            return Err(too_long("zstd", max_len));
        };
        if zstd_safe::find_frame_compressed_size(src) != Ok(src.len()) {
            return Err(Error::corrupt("zstd frame cut, or bytes after it"));
        }
        let start = dst.len();
        dst.reserve(len);
        let mut out = std::io::Cursor::new(&mut *dst);
        out.set_position(start as u64);
        let found = DECODER.with_borrow_mut(|slot| {
            let context = match slot {
                Some(context) => context,
                None => slot.insert(DCtx::try_create().ok_or_else(no_memory)?),
            };
            context.decompress(&mut out, src).map_err(|code| {
                Error::corrupt(format!("zstd: {}", zstd_safe::get_error_name(code)))
            })
        })?;
        if found != len {
            dst.truncate(start);
            return Err(Error::corrupt(format!(
                "zstd frame of {found} bytes says {len}"
            )));
        }
        Ok(())
    }
}

fn no_memory() -> Error {
    Error::new(
        crate::error::ErrorKind::OutOfMemory,
        "no memory for a zstd context",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A used context must give the bytes of a new one, or the bytes of a chunk would
    /// depend on what its thread did before.
    #[test]
    fn contexts_keep_nothing() {
        let mut used = CCtx::create();
        let mut x = 1u32;
        for round in 0..3 {
            for level in 1..=19 {
                let pack = Zstd { level, width: 4 };
                // Repeats of all lengths and distances, different every time.
                let mut raw: Vec<u8> = Vec::new();
                while raw.len() < 150_000 {
                    x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    let len = (x >> 24) as usize % 60;
                    let back = (x >> 4) as usize % (raw.len() + 1);
                    let at = raw.len() - back;
                    raw.extend_from_within(at..(at + len).min(raw.len()));
                    raw.push((x >> 16) as u8);
                }
                let (mut a, mut b) = (Vec::new(), Vec::new());
                pack.encode_with(&mut used, &raw, &mut a).unwrap();
                pack.encode_with(&mut CCtx::create(), &raw, &mut b).unwrap();
                assert!(a == b, "round {round} level {level}");
                let mut back = Vec::new();
                pack.decode(&a, raw.len(), &mut back).unwrap();
                assert!(back == raw);
            }
        }
    }

    #[test]
    fn a_frame_without_its_size_is_refused() {
        let mut context = CCtx::create();
        context
            .set_parameter(CParameter::ContentSizeFlag(false))
            .unwrap();
        let mut frame = vec![0; 1000];
        let len = context.compress2(&mut frame[..], &[7; 500]).unwrap();
        let pack = Zstd { level: 3, width: 1 };
        let e = pack.decode(&frame[..len], 500, &mut Vec::new());
        assert!(e.unwrap_err().message().contains("content size"));
    }

    #[test]
    fn foreign_frames_are_read() {
        let frame = zstd::bulk::compress(&[7; 500], 19).unwrap();
        let pack = Zstd { level: 3, width: 1 };
        let mut out = Vec::new();
        pack.decode(&frame, 500, &mut out).unwrap();
        assert_eq!(out, [7; 500]);
        let two = [&frame[..], &frame].concat();
        assert!(pack.decode(&two, 1000, &mut Vec::new()).is_err());
    }
}
