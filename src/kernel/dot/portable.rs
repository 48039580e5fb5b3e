//! Lines of sixteen rows without vector instructions of its own.

use super::{Codes, Lines, TILE_ROWS, Task};
use crate::kernel::dense::{self, Simd};
use crate::kernel::quant::from_f16;

type Bytes = [u8; 4 * TILE_ROWS];

// SAFETY: no instruction set is needed.
unsafe impl Codes for Bytes {
    #[inline(always)]
    unsafe fn load(at: *const u8) -> Self {
        // SAFETY: 64 bytes are there (the trait's rule).
        unsafe { at.cast::<Bytes>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn field<const BITS: u32, const SHIFT: u32>(self) -> Self {
        self.map(|c| (c >> SHIFT) & ((1 << BITS) - 1))
    }

    #[inline(always)]
    unsafe fn join<const SHIFT: u32>(self, high: Self) -> Self {
        std::array::from_fn(|i| self[i] | high[i] << SHIFT)
    }
}

/// What every target can do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Portable;

// SAFETY: no instruction set is needed.
unsafe impl Lines for Portable {
    type Codes = Bytes;
    type Four = [i8; 4];
    type Sums = [i32; TILE_ROWS];
    type Floats = [f32; TILE_ROWS];
    const SIGNED_8: bool = false;
    const BATCH: usize = 4;

    #[inline(always)]
    unsafe fn call<T: Task>(task: T) {
        // SAFETY: the caller's; the features are the same.
        unsafe { <dense::Portable as Simd>::call(task) }
    }

    #[inline(always)]
    unsafe fn store_codes(codes: Bytes, out: &mut [u8; 64]) {
        *out = codes;
    }

    #[inline(always)]
    unsafe fn rescale(codes: Bytes, half: i32, shift: u32, ratio: &[i16; 2 * TILE_ROWS]) -> Bytes {
        std::array::from_fn(|i| {
            let c = (i32::from(codes[i]) - half) << shift;
            let product = c * i32::from(ratio[i / 2]);
            ((((product >> 14) + 1) >> 1) + 128) as u8
        })
    }

    #[inline(always)]
    unsafe fn four(block: *const i8, index: usize) -> [i8; 4] {
        // SAFETY: 4 bytes are there (the trait's rule).
        unsafe { block.add(4 * index).cast::<[i8; 4]>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn splat(v: i32) -> Self::Sums {
        [v; TILE_ROWS]
    }

    #[inline(always)]
    unsafe fn dot(mut sums: Self::Sums, codes: Bytes, four: [i8; 4]) -> Self::Sums {
        for r in 0..TILE_ROWS {
            for k in 0..4 {
                sums[r] += i32::from(codes[4 * r + k]) * i32::from(four[k]);
            }
        }
        sums
    }

    #[inline(always)]
    unsafe fn dot8(sums: Self::Sums, codes: Bytes, four: [i8; 4]) -> Self::Sums {
        // SAFETY: nothing is needed.
        unsafe { Self::dot(sums, codes, four) }
    }

    #[inline(always)]
    unsafe fn to_floats(sums: Self::Sums) -> Self::Floats {
        sums.map(|v| v as f32)
    }

    #[inline(always)]
    unsafe fn load_f16(at: *const u8) -> Self::Floats {
        // SAFETY: 32 bytes are there (the trait's rule).
        let bytes = unsafe { at.cast::<[[u8; 2]; TILE_ROWS]>().read_unaligned() };
        bytes.map(|b| from_f16(u16::from_le_bytes(b)))
    }

    #[inline(always)]
    unsafe fn splat_f32(v: f32) -> Self::Floats {
        [v; TILE_ROWS]
    }

    #[inline(always)]
    unsafe fn mul(a: Self::Floats, b: Self::Floats) -> Self::Floats {
        std::array::from_fn(|i| a[i] * b[i])
    }

    #[inline(always)]
    unsafe fn fma(a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }

    #[inline(always)]
    unsafe fn load_f32(from: &[f32; TILE_ROWS]) -> Self::Floats {
        *from
    }

    #[inline(always)]
    unsafe fn store(v: Self::Floats, out: &mut [f32; TILE_ROWS]) {
        *out = v;
    }
}
