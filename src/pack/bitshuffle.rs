//! Bits of one place together.
//!
//! *Exploits* what [`shuffle`](super::shuffle) does, one level down: bits that are
//! constant or rare inside a byte (a sign, unused high bits of small codes, a float's
//! exponent that falls across two bytes) become long runs of equal bytes.
//!
//! *Layout.* As long as the input. With w the element width (option `width`, else the
//! buffer's) and n = ⌊len / 8w⌋ · 8 elements: 8·w planes of n / 8 bytes each, plane p
//! for bit p of the little-endian element, bit 0 the lowest. Bit i of byte k of a plane
//! belongs to element 8k + i. The `len − n·w` bytes left follow as they are.
//!
//! *Loses* to `shuffle` before a coder that finds byte repeats: equal elements are
//! equal bytes only where eight in a row fall on a multiple of eight.

use crate::error::Result;
use crate::kernel;
use crate::pack::shuffle::{WIDTH, element_width};
use crate::pack::{Pack, PackDef, grow, too_long};
use crate::spec::Codec;

pub(super) const DEF: PackDef = PackDef {
    codec: Codec {
        name: "bitshuffle",
        summary: "bits of one place in the element together",
        options: &[WIDTH],
    },
    make: |options, width| {
        Ok(Box::new(Bitshuffle {
            width: element_width(options, width),
        }))
    },
};

#[derive(Debug)]
struct Bitshuffle {
    width: usize,
}

/// Elements transposed at a time, first to byte planes, then those to bit planes: the
/// byte planes in between, at most 16 KiB, stay in L1.
const BLOCK: usize = 2048;

impl Bitshuffle {
    /// Bytes of one plane, and bytes before the tail.
    fn split(&self, len: usize) -> (usize, usize) {
        let plane = len / (8 * self.width);
        (plane, plane * 8 * self.width)
    }
}

impl Pack for Bitshuffle {
    fn encode(&self, src: &[u8], dst: &mut Vec<u8>) -> Result<()> {
        let kernels = kernel::best();
        let (stride, whole) = self.split(src.len());
        let (src, tail) = src.split_at(whole);
        let (out, rest) = grow(dst, whole + tail.len()).split_at_mut(whole);
        rest.copy_from_slice(tail);
        let mut bytes = vec![0; (BLOCK * self.width).min(whole)];
        for (i, block) in src.chunks(BLOCK * self.width).enumerate() {
            let bytes = &mut bytes[..block.len()];
            kernels.shuffle(block, bytes, self.width);
            let elements = block.len() / self.width;
            for (j, plane) in bytes.chunks_exact(elements).enumerate() {
                let at = 8 * j * stride + i * BLOCK / 8;
                kernels.bit_split(plane, &mut out[at..], stride);
            }
        }
        Ok(())
    }

    fn decode(&self, src: &[u8], max_len: usize, dst: &mut Vec<u8>) -> Result<()> {
        if src.len() > max_len {
            return Err(too_long("bitshuffle", max_len));
        }
        let kernels = kernel::best();
        let (stride, whole) = self.split(src.len());
        let (src, tail) = src.split_at(whole);
        let (out, rest) = grow(dst, whole + tail.len()).split_at_mut(whole);
        rest.copy_from_slice(tail);
        let mut bytes = vec![0; (BLOCK * self.width).min(whole)];
        for (i, block) in out.chunks_mut(BLOCK * self.width).enumerate() {
            let bytes = &mut bytes[..block.len()];
            let elements = block.len() / self.width;
            for (j, plane) in bytes.chunks_exact_mut(elements).enumerate() {
                let at = 8 * j * stride + i * BLOCK / 8;
                kernels.bit_join(&src[at..], plane, stride);
            }
            kernels.unshuffle(bytes, block, self.width);
        }
        Ok(())
    }

    fn keeps_length(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout_is_as_written() {
        // Past one block and not a multiple of it, with a tail of a group and a byte.
        for (width, len) in [(1, 5003), (2, 8203), (4, 17_027), (8, 33_333)] {
            let src: Vec<u8> = (0..len).map(|i| (i * i / 7 + i) as u8).collect();
            let pack = Bitshuffle { width };
            let mut coded = vec![9, 9];
            pack.encode(&src, &mut coded).unwrap();
            let coded = &coded[2..];
            let n = len / (8 * width) * 8;
            let mut expected = src.clone();
            expected[..n * width].fill(0);
            for i in 0..n {
                for p in 0..8 * width {
                    let bit = src[i * width + p / 8] >> (p % 8) & 1;
                    expected[p * n / 8 + i / 8] |= bit << (i % 8);
                }
            }
            assert_eq!(coded, expected, "{width}");
            let mut back = vec![9];
            pack.decode(coded, len, &mut back).unwrap();
            assert_eq!(back[1..], src, "{width}");
        }
    }
}
