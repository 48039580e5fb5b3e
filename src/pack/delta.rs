//! Differences of neighbours.
//!
//! *Exploits* elements that differ little from the one before: indices, offsets,
//! positions in ascending order, codes of smooth data. Small differences repeat, and
//! their high bytes are constant, which `shuffle` then brings together.
//!
//! *Layout.* As long as the input. With w the buffer's element width, the elements are
//! unsigned little-endian integers e₀, e₁, …; stored are e₀, e₁ − e₀, e₂ − e₁, …, each
//! modulo 2^(8w), little-endian. The last `len % w` bytes follow as they are. Decoding
//! is the running sum.
//!
//! *Loses* on data without order: the difference of two independent values has more
//! entropy than either. Weights are such data.

use crate::error::Result;
use crate::kernel;
use crate::pack::{Pack, PackDef, grow, too_long};
use crate::spec::Codec;

pub(super) const DEF: PackDef = PackDef {
    codec: Codec {
        name: "delta",
        summary: "differences of neighbouring elements",
        options: &[],
    },
    make: |_, width| Ok(Box::new(Delta { width })),
};

#[derive(Debug)]
struct Delta {
    width: usize,
}

impl Pack for Delta {
    fn encode(&self, src: &[u8], dst: &mut Vec<u8>) -> Result<()> {
        kernel::best().delta(src, grow(dst, src.len()), self.width);
        Ok(())
    }

    fn decode(&self, src: &[u8], max_len: usize, dst: &mut Vec<u8>) -> Result<()> {
        if src.len() > max_len {
            return Err(too_long("delta", max_len));
        }
        kernel::best().undelta(src, grow(dst, src.len()), self.width);
        Ok(())
    }

    fn keeps_length(&self) -> bool {
        true
    }
}
