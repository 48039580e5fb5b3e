//! The sign of every element in its lowest bit.
//!
//! *Exploits* that a float's sign is any and stands before its exponent. An element turned
//! left by one bit has the eight exponent bits of f32 and bf16 in its top byte, alone, and
//! the sign with the mantissa, among bits that no coder shortens. Meant for `shuffle` and
//! an entropy coder behind it: without, the exponent's lowest bit is in the next byte, and
//! what the two tell of each other is lost (0.8 % of a bf16 model, 0.3 % of an f32 one).
//!
//! *Layout.* As long as the input. Of each little-endian element of w bytes (option
//! `width`, else the buffer's), the bits moved one place up, the top one to the bottom. The
//! last `len % w` bytes follow as they are.
//!
//! *Loses* nothing but its pass over the bytes; gains nothing on integers, and little on
//! f16, whose exponent has five bits.

use super::shuffle::{WIDTH, element_width};
use crate::error::Result;
use crate::kernel;
use crate::pack::{Pack, PackDef, grow, too_long};
use crate::spec::Codec;

pub(super) const DEF: PackDef = PackDef {
    codec: Codec {
        name: "rotate",
        summary: "the sign bit to the lowest place, so that the exponent fills a byte",
        options: &[WIDTH],
    },
    make: |options, width| {
        Ok(Box::new(Rotate {
            width: element_width(options, width),
        }))
    },
};

#[derive(Debug)]
struct Rotate {
    width: usize,
}

impl Pack for Rotate {
    fn encode(&self, src: &[u8], dst: &mut Vec<u8>) -> Result<()> {
        kernel::best().rotate(src, grow(dst, src.len()), self.width);
        Ok(())
    }

    fn decode(&self, src: &[u8], max_len: usize, dst: &mut Vec<u8>) -> Result<()> {
        if src.len() > max_len {
            return Err(too_long("rotate", max_len));
        }
        kernel::best().unrotate(src, grow(dst, src.len()), self.width);
        Ok(())
    }

    fn keeps_length(&self) -> bool {
        true
    }
}
