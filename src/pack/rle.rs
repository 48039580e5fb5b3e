//! Byte runs.
//!
//! *Exploits* the same byte many times in a row: zeros of sparse data, constant planes
//! after `shuffle` or `bitshuffle`. Decodes at the speed of memory.
//!
//! *Layout.* A sequence of items up to the end. Each begins with a number v in LEB128
//! (seven bits a byte, lowest first, the top bit set on all but the last byte, at most
//! five bytes):
//!
//! ```text
//! v even   v/2 + 1 literal bytes follow
//! v odd    the one byte that follows, (v−1)/2 + 4 times
//! ```
//!
//! The encoder makes every run of four or more equal bytes a run item and what lies
//! between one literal item, so data without runs grows by at most five bytes.
//!
//! *Loses* to any coder wherever there is more to find than equal neighbours.

use crate::error::{Error, Result};
use crate::pack::{Pack, PackDef, too_long};
use crate::spec::Codec;

pub(super) const DEF: PackDef = PackDef {
    codec: Codec {
        name: "rle",
        summary: "runs of equal bytes",
        options: &[],
    },
    make: |_, _| Ok(Box::new(Rle)),
};

/// The shortest run: an item of two bytes, and one more for the literal item that may
/// have to begin anew behind it, are then still a gain.
const MIN_RUN: usize = 4;

#[derive(Debug)]
struct Rle;

impl Pack for Rle {
    fn encode(&self, src: &[u8], dst: &mut Vec<u8>) -> Result<()> {
        if src.len() > u32::MAX as usize / 2 {
            return Err(Error::limit(format!("rle of {} bytes", src.len())));
        }
        let mut at = 0;
        while at < src.len() {
            let start = next_run(src, at);
            if start > at {
                put_number(dst, (start - at - 1) as u32 * 2);
                dst.extend_from_slice(&src[at..start]);
            }
            if start == src.len() {
                break;
            }
            let len = run_len(&src[start..]);
            put_number(dst, (len - MIN_RUN) as u32 * 2 + 1);
            dst.push(src[start]);
            at = start + len;
        }
        Ok(())
    }

    fn decode(&self, src: &[u8], max_len: usize, dst: &mut Vec<u8>) -> Result<()> {
        let cut = || Error::corrupt("rle ends inside an item");
        let mut left = max_len;
        let mut src = src;
        while !src.is_empty() {
            let v = take_number(&mut src)?;
            let (half, run) = (v as usize / 2, v % 2 == 1);
            let len = half + if run { MIN_RUN } else { 1 };
            left = left
                .checked_sub(len)
                .ok_or_else(|| too_long("rle", max_len))?;
            if run {
                let (byte, rest) = src.split_first().ok_or_else(cut)?;
                dst.resize(dst.len() + len, *byte);
                src = rest;
            } else {
                let (literals, rest) = src.split_at_checked(len).ok_or_else(cut)?;
                dst.extend_from_slice(literals);
                src = rest;
            }
        }
        Ok(())
    }
}

/// Where the next run of [`MIN_RUN`] or more begins, or the end.
fn next_run(src: &[u8], mut at: usize) -> usize {
    while let Some(&[a, b, c, d]) = src[at..].first_chunk::<MIN_RUN>() {
        // A run cannot begin before the last place where neighbours differ.
        if c != d {
            at += 3;
        } else if b != c {
            at += 2;
        } else if a != b {
            at += 1;
        } else {
            return at;
        }
    }
    src.len()
}

/// Length of the run that `src` begins with.
fn run_len(src: &[u8]) -> usize {
    let equal = [src[0]; 32];
    let blocks = src.as_chunks::<32>().0;
    let whole = 32 * blocks.iter().take_while(|b| **b == equal).count();
    let rest = src[whole..].iter().take_while(|b| **b == src[0]).count();
    whole + rest
}

fn put_number(dst: &mut Vec<u8>, mut v: u32) {
    while v >= 0x80 {
        dst.push(v as u8 | 0x80);
        v >>= 7;
    }
    dst.push(v as u8);
}

fn take_number(src: &mut &[u8]) -> Result<u32> {
    let mut v = 0u64;
    for shift in [0, 7, 14, 21, 28] {
        let Some((byte, rest)) = src.split_first() else {
            return Err(Error::corrupt("rle ends inside a number"));
        };
        *src = rest;
        v |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return u32::try_from(v).map_err(|_| Error::corrupt("rle number past 32 bits"));
        }
    }
    Err(Error::corrupt("rle number of more than five bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(src: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        Rle.encode(src, &mut out).unwrap();
        out
    }

    fn decode(src: &[u8], max_len: usize) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        Rle.decode(src, max_len, &mut out)?;
        Ok(out)
    }

    #[test]
    fn items_are_as_written() {
        assert!(encode(&[]).is_empty());
        assert_eq!(encode(&[5]), [0, 5]);
        assert_eq!(encode(&[5, 5, 5]), [4, 5, 5, 5]);
        assert_eq!(encode(&[5; 4]), [1, 5]);
        assert_eq!(encode(&[1, 2, 2, 2, 2, 2, 3]), [0, 1, 3, 2, 0, 3]);
        assert_eq!(encode(&[0; 100]), [0x80 | 65, 1, 0]);
    }

    #[test]
    fn runs_of_every_length_at_every_place() {
        for before in 0..6 {
            for len in 0..70 {
                let mut raw: Vec<u8> = (0..before).collect();
                raw.extend(vec![7; len]);
                raw.extend([1, 1, 2]);
                assert_eq!(decode(&encode(&raw), raw.len()).unwrap(), raw);
            }
        }
    }

    #[test]
    fn lies_are_errors() {
        assert!(decode(&[1], 10).is_err());
        assert!(decode(&[4, 1, 2], 10).is_err());
        assert!(decode(&[0x80], 10).is_err());
        assert!(decode(&[0xff, 0xff, 0xff, 0xff, 0xff, 0], usize::MAX).is_err());
        assert!(decode(&[0xff, 0xff, 0xff, 0xff, 0x7f, 0], usize::MAX).is_err());
        assert!(decode(&[0xff, 0xff, 0xff, 0xff, 0x0f, 0], 1 << 20).is_err());
        assert!(decode(&[1, 0], 3).is_err());
        assert!(decode(&[1, 0], 4).is_ok());
    }
}
