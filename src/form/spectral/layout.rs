//! Where coefficients stand, in the mathematics and in the bytes.

use std::ops::Range;

use super::transform::Basis;
use crate::error::{Error, Result};
use crate::kernel::spmm::SparseRows;

/// Samples of one transform: what a hostile file may make a reader plan.
pub(super) const MAX_LINE: usize = 1 << 22;

/// A tensor's matrix and the blocks that are transformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Geometry {
    pub(super) basis: Basis,
    /// Whether columns are transformed as well as rows.
    pub(super) two_dims: bool,
    pub(super) rows: usize,
    pub(super) cols: usize,
    /// Rows that are transformed together; 1 if rows are transformed alone.
    pub(super) block_rows: usize,
    pub(super) block_cols: usize,
}

impl Geometry {
    /// Coefficients of a row.
    pub(super) fn slots(&self) -> usize {
        if self.cols == 0 {
            return 0;
        }
        let (full, left) = (self.cols / self.block_cols, self.cols % self.block_cols);
        full * self.basis.slots(self.block_cols) + self.basis.slots(left)
    }

    /// Numbers of a coefficient.
    pub(super) fn values(&self) -> usize {
        self.basis.values()
    }

    /// Numbers of a row of coefficients.
    pub(super) fn width(&self) -> usize {
        self.slots() * self.values()
    }

    /// Numbers that a row of coefficients makes of one vector: two in transforms of two
    /// dimensions by exponentials, whose columns are complex.
    pub(super) fn results(&self) -> usize {
        if self.two_dims { self.values() } else { 1 }
    }

    /// The columns of a row that hold a coefficient's numbers while only its columns are
    /// transformed: the first, and how many.
    pub(super) fn columns(&self, slot: usize) -> (usize, usize) {
        if self.basis == Basis::Dct {
            return (slot, 1);
        }
        let per_block = self.basis.slots(self.block_cols);
        let (start, slot) = (slot / per_block * self.block_cols, slot % per_block);
        let n = self.block_cols.min(self.cols - start);
        // The first coefficient of an odd block is real.
        match (n % 2, slot) {
            (0, _) => (start + 2 * slot, 2),
            (_, 0) => (start, 1),
            _ => (start + 2 * slot - 1, 2),
        }
    }

    /// The numbers of a row of coefficients from the columns that hold them.
    pub(super) fn unfold(&self, row: &[f32], line: &mut [f64]) {
        let width = self.basis.slots(self.block_cols) * self.values();
        for (row, line) in row.chunks(self.block_cols).zip(line.chunks_mut(width)) {
            // The second number of an odd block is absent.
            let head = if line.len() > row.len() { 1 } else { 0 };
            line[..head].fill(f64::from(row[0]));
            line[head..2 * head].fill(0.0);
            for (out, v) in line[2 * head..].iter_mut().zip(&row[head..]) {
                *out = f64::from(*v);
            }
        }
    }

    /// Refuses transforms that are longer than any reader plans.
    pub(super) fn check(&self) -> Result<()> {
        let longest = self.block_cols.max(self.block_rows);
        if longest > MAX_LINE {
            return Err(Error::limit(format!(
                "a transform of {longest} samples; at most {MAX_LINE} are supported (set block=)"
            )));
        }
        Ok(())
    }

    /// The bands of rows that are transformed together and touch `rows`.
    pub(super) fn bands(&self, rows: &Range<usize>) -> impl Iterator<Item = Range<usize>> {
        let (block, all) = (self.block_rows, self.rows);
        let bands = rows.start / block..rows.end.div_ceil(block);
        bands.map(move |b| b * block..((b + 1) * block).min(all))
    }
}

/// How the kept positions of a row are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Positions {
    /// A bit a slot, each row padded to a byte.
    Mask,
    /// The slots, ascending, as u16, or u32 if a row has more than 65,535.
    Indices,
}

/// Bytes of a count or an index.
pub(super) fn index_bytes(slots: usize) -> usize {
    if slots <= usize::from(u16::MAX) { 2 } else { 4 }
}

/// Appends an index.
pub(super) fn put_index(out: &mut [u8], v: usize) {
    // Fits: an index is below the number of slots.
    let n = out.len();
    out.copy_from_slice(&(v as u32).to_le_bytes()[..n]);
}

/// The indices in `bytes`.
pub(super) fn indices(bytes: &[u8], size: usize) -> impl Iterator<Item = u32> {
    bytes.chunks_exact(size).map(|b| match *b {
        [a, b] => u32::from(u16::from_le_bytes([a, b])),
        [a, b, c, d] => u32::from_le_bytes([a, b, c, d]),
        _ => 0,
    })
}

impl Positions {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Mask => "mask",
            Self::Indices => "indices",
        }
    }

    /// Bytes of `count` positions in `rows` rows.
    pub(super) fn bytes(self, rows: usize, slots: usize, count: usize) -> Option<usize> {
        match self {
            Self::Mask => rows.checked_mul(slots.div_ceil(8)),
            Self::Indices => count.checked_mul(index_bytes(slots)),
        }
    }

    /// The smaller of the two.
    pub(super) fn smaller(rows: usize, slots: usize, count: usize) -> Self {
        let mask = Self::Mask.bytes(rows, slots, count);
        let indices = Self::Indices.bytes(rows, slots, count);
        if mask.unwrap_or(usize::MAX) < indices.unwrap_or(usize::MAX) {
            Self::Mask
        } else {
            Self::Indices
        }
    }
}

/// The kept coefficients of some rows, read and checked.
#[derive(Debug, Default)]
pub(super) struct Entries {
    /// Where each row begins in `slots`, and the last ends.
    pub(super) starts: Vec<usize>,
    pub(super) slots: Vec<u32>,
    /// Numbers of the coefficients, after `skip` others.
    pub(super) values: Vec<f32>,
    pub(super) skip: usize,
}

impl Entries {
    pub(super) fn rows(&self, pairs: bool) -> SparseRows<'_> {
        SparseRows {
            starts: &self.starts,
            slots: &self.slots,
            values: &self.values[self.skip..],
            pairs,
        }
    }

    /// The slots of rows whose bytes these are, `starts` being set.
    pub(super) fn read(&mut self, how: Positions, slots: usize, bytes: &[u8]) -> Result<()> {
        self.slots.clear();
        let damaged = || Error::corrupt("kept positions do not fit their counts");
        match how {
            Positions::Indices => {
                self.slots.extend(indices(bytes, index_bytes(slots)));
                for row in self.starts.windows(2) {
                    let row = &self.slots[row[0]..row[1]];
                    let ascending = row.is_sorted_by(|a, b| a < b);
                    if !ascending || row.last().is_some_and(|s| *s as usize >= slots) {
                        return Err(damaged());
                    }
                }
            }
            Positions::Mask => {
                let stride = slots.div_ceil(8);
                for (row, bits) in bytes.chunks_exact(stride.max(1)).enumerate() {
                    let found: u32 = bits.iter().map(|b| b.count_ones()).sum();
                    let spare = (stride * 8 - slots) as u32;
                    let clean = bits.last().is_none_or(|b| b.leading_zeros() >= spare);
                    if !clean || found as usize != self.starts[row + 1] - self.starts[row] {
                        return Err(damaged());
                    }
                    crate::form::select::for_set_bits(bits, |i| self.slots.push(i as u32));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coefficients_cover_the_columns_once() {
        for basis in [Basis::Dct, Basis::Fft] {
            for (cols, block) in [(1, 1), (2, 2), (7, 7), (12, 5), (12, 4), (13, 6), (30, 7)] {
                let g = Geometry {
                    basis,
                    two_dims: true,
                    rows: 3,
                    cols,
                    block_rows: 2,
                    block_cols: block,
                };
                let mut next = 0;
                for slot in 0..g.slots() {
                    let (first, n) = g.columns(slot);
                    assert_eq!(first, next, "{basis:?} {cols} {block} {slot}");
                    next += n;
                }
                assert_eq!(next, cols);
                let bands: Vec<_> = g.bands(&(0..3)).collect();
                assert_eq!(bands, [0..2, 2..3]);
            }
        }
    }

    #[test]
    fn positions_are_read_as_written_and_checked() {
        let starts = vec![0, 2, 2, 5];
        let mut entries = Entries {
            starts: starts.clone(),
            ..Entries::default()
        };
        let mask = [0b10, 0b1, 0, 0, 0b111, 0];
        entries.read(Positions::Mask, 9, &mask).unwrap();
        assert_eq!(entries.slots, [1, 8, 0, 1, 2]);
        let mut bytes = [0u8; 10];
        for (b, s) in bytes.chunks_mut(2).zip([1, 8, 0, 1, 2]) {
            put_index(b, s);
        }
        entries.read(Positions::Indices, 9, &bytes).unwrap();
        assert_eq!(entries.slots, [1, 8, 0, 1, 2]);
        assert!(entries.read(Positions::Indices, 8, &bytes).is_err());
        bytes[6] = 0;
        assert!(entries.read(Positions::Indices, 9, &bytes).is_err());
        for (at, byte) in [(0, 0b11), (1, 0b11), (3, 1), (1, 0b10)] {
            let mut mask = mask;
            mask[at] = byte;
            assert!(entries.read(Positions::Mask, 9, &mask).is_err(), "{at}");
        }
    }
}
