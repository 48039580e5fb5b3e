//! Aligned byte storage and checked little-endian reads.

use std::fmt;

use bytemuck::{Pod, Zeroable};

use crate::error::{Error, ErrorKind, Result};
use crate::mmap::prefer_huge_pages;

/// One cache line, the unit that gives [`AlignedBytes`] its alignment.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Bytes on a 64-byte boundary, so that they can be seen as any element type and
/// read by whole vectors. Zeroed when made.
#[derive(Clone, Default)]
pub struct AlignedBytes {
    lines: Vec<Line>,
    len: usize,
}

impl AlignedBytes {
    /// `len` zero bytes. Fails, rather than aborts, when memory cannot be had.
    pub fn zeroed(len: usize) -> Result<Self> {
        // Straight from the zeroing allocator: large buffers cost no write.
        let mut lines: Vec<Line> =
            bytemuck::allocation::try_zeroed_vec(len.div_ceil(64)).map_err(|()| {
                Error::new(
                    ErrorKind::OutOfMemory,
                    format!("cannot allocate {len} bytes"),
                )
            })?;
        // A product with one vector reads weights once: with pages of 4 KiB it waits for their
        // tables up to a fifth of its time.
        prefer_huge_pages(bytemuck::cast_slice_mut(&mut lines));
        Ok(Self { lines, len })
    }

    /// A copy of `bytes`.
    pub fn copy_of(bytes: &[u8]) -> Result<Self> {
        let mut out = Self::zeroed(bytes.len())?;
        out.copy_from_slice(bytes);
        Ok(out)
    }
}

impl std::ops::Deref for AlignedBytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.lines)[..self.len]
    }
}

impl std::ops::DerefMut for AlignedBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.len]
    }
}

impl fmt::Debug for AlignedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AlignedBytes({} bytes)", self.len)
    }
}

/// Reads fields off the front of a byte slice; every read is checked.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// Starts at the first byte.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Bytes read so far.
    pub fn position(&self) -> usize {
        self.at
    }

    /// Bytes still unread.
    pub fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// The next `n` bytes.
    pub fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let end = self.at.checked_add(n).filter(|e| *e <= self.bytes.len());
        let Some(end) = end else {
            return Err(
                Error::corrupt(format!("{n} bytes expected, {} left", self.remaining()))
                    .with_offset(self.at as u64),
            );
        };
        let out = &self.bytes[self.at..end];
        self.at = end;
        Ok(out)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    /// The next byte.
    pub fn u8(&mut self) -> Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    /// The next little-endian u16.
    pub fn u16(&mut self) -> Result<u16> {
        self.array().map(u16::from_le_bytes)
    }

    /// The next little-endian u32.
    pub fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    /// The next little-endian u64.
    pub fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }
}

/// `a * b` for sizes that came from outside, or a `LimitExceeded` error.
pub fn checked_mul(a: usize, b: usize) -> Result<usize> {
    a.checked_mul(b)
        .ok_or_else(|| Error::limit(format!("{a} × {b} does not fit a size")))
}

/// Product of a shape in elements, or a `LimitExceeded` error. 1 for a scalar.
pub fn element_count(shape: &[usize]) -> Result<usize> {
    // A zero anywhere makes the product zero, whatever overflows beside it.
    if shape.contains(&0) {
        return Ok(0);
    }
    shape.iter().try_fold(1, |n, d| checked_mul(n, *d))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aligned_and_zeroed() {
        for len in [0, 1, 63, 64, 65, 1000] {
            let b = AlignedBytes::zeroed(len).unwrap();
            assert_eq!(b.len(), len);
            assert_eq!(b.as_ptr() as usize % 64, 0);
            assert!(b.iter().all(|v| *v == 0));
        }
    }

    #[test]
    fn impossible_allocation_is_an_error() {
        let e = AlignedBytes::zeroed(usize::MAX / 2).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::OutOfMemory);
    }

    #[test]
    fn reader_never_passes_the_end() {
        let mut r = Reader::new(&[1, 0, 2, 0, 0]);
        assert_eq!(r.u16().unwrap(), 1);
        assert_eq!(r.u16().unwrap(), 2);
        assert!(r.u16().is_err());
        assert!(r.take(usize::MAX).is_err());
        assert_eq!(r.u8().unwrap(), 0);
    }

    #[test]
    fn counts_are_checked() {
        assert_eq!(element_count(&[]).unwrap(), 1);
        assert_eq!(element_count(&[0, usize::MAX, 2]).unwrap(), 0);
        assert!(element_count(&[usize::MAX, 2]).is_err());
    }
}
