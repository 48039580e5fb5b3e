//! Bytes of one place together.
//!
//! *Exploits* that the bytes of an element differ in kind: the sign and exponent of a
//! float take few values, its low mantissa bytes any. Kept apart, the former compress
//! and the latter no longer stand in the way.
//!
//! *Layout.* As long as the input. With w the element width (option `width`, else the
//! buffer's) and n = len / w: byte j of element i stands at j·n + i. The last `len % w`
//! bytes follow as they are. At width 1 nothing changes.
//!
//! *Loses* on elements that repeat whole, or records of several elements: a coder finds
//! the repeats better unshuffled.

use crate::error::Result;
use crate::kernel;
use crate::pack::{Pack, PackDef, grow, too_long};
use crate::spec::{Codec, Kind, OptionDef, Options};

pub(super) const DEF: PackDef = PackDef {
    codec: Codec {
        name: "shuffle",
        summary: "bytes of one place in the element together",
        options: &[WIDTH],
    },
    make: |options, width| {
        Ok(Box::new(Shuffle {
            width: element_width(options, width),
        }))
    },
};

/// The option of the transposing filters.
pub(super) const WIDTH: OptionDef = OptionDef {
    key: "width",
    aliases: &[],
    kind: Kind::Choice(&["1", "2", "4", "8"]),
    default: None,
    doc: "bytes of one element, instead of the buffer's own width",
};

/// The width that `options` name, or the buffer's.
pub(super) fn element_width(options: &Options, width: usize) -> usize {
    let given = options.integer(WIDTH.key);
    given.map_or(width, |w| w as usize)
}

#[derive(Debug)]
struct Shuffle {
    width: usize,
}

impl Pack for Shuffle {
    fn encode(&self, src: &[u8], dst: &mut Vec<u8>) -> Result<()> {
        kernel::best().shuffle(src, grow(dst, src.len()), self.width);
        Ok(())
    }

    fn decode(&self, src: &[u8], max_len: usize, dst: &mut Vec<u8>) -> Result<()> {
        if src.len() > max_len {
            return Err(too_long("shuffle", max_len));
        }
        kernel::best().unshuffle(src, grow(dst, src.len()), self.width);
        Ok(())
    }

    fn keeps_length(&self) -> bool {
        true
    }
}
