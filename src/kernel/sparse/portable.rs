//! Loops without a particular instruction set.

use super::{INDEX_COLS, Set, add_row, word};

/// Arrays, which compilers turn into whatever registers there are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Portable;

/// The places of the set bits of each byte, a byte each, the first one lowest.
pub(super) static PLACES: [u64; 256] = {
    let mut table = [0u64; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut bit, mut n) = (0, 0);
        while bit < 8 {
            if byte >> bit & 1 == 1 {
                table[byte] |= bit << (8 * n);
                n += 1;
            }
            bit += 1;
        }
        byte += 1;
    }
    table
};

/// Writes `base + i` for each set bit, eight bytes for each byte of `bits`.
///
/// # Safety
/// 64 bytes may be written.
#[inline(always)]
pub(super) unsafe fn list_bytes(bits: u64, base: u8, to: *mut u8) {
    let mut n = 0;
    for i in 0..8u8 {
        let byte = (bits >> (8 * i)) as u8;
        // No byte overflows: `base + 8 i + 7 ≤ 255`; those past the places are of no use.
        let first = u64::from(base.wrapping_add(8 * i)).wrapping_mul(0x0101_0101_0101_0101);
        let places = PLACES[usize::from(byte)].wrapping_add(first);
        // SAFETY: n ≤ 8 i ≤ 56, so the last of eight bytes is the 64th at most.
        unsafe { to.add(n).cast::<[u8; 8]>().write(places.to_le_bytes()) };
        n += byte.count_ones() as usize;
    }
}

/// Writes `base + i` for each set bit, eight numbers for each byte of `bits`.
///
/// # Safety
/// 64 numbers may be written.
#[inline(always)]
pub(super) unsafe fn list_shorts(bits: u64, base: u16, to: *mut u16) {
    let mut n = 0;
    for i in 0..8u16 {
        let byte = (bits >> (8 * i)) as u8;
        let places = PLACES[usize::from(byte)].to_le_bytes();
        let first = base.wrapping_add(8 * i);
        let line = places.map(|p| first.wrapping_add(u16::from(p)));
        // SAFETY: n ≤ 8 i ≤ 56.
        unsafe { to.add(n).cast::<[u16; 8]>().write_unaligned(line) };
        n += byte.count_ones() as usize;
    }
}

/// Calls `f` with the place of each set bit and the index of its value; how many there are.
#[inline(always)]
pub(super) fn each_bit(mask: &[u8], mut f: impl FnMut(usize, usize)) -> usize {
    let mut next = 0;
    for at in (0..mask.len()).step_by(8) {
        let mut bits = word(mask, at);
        while bits != 0 {
            f(at * 8 + bits.trailing_zeros() as usize, next);
            next += 1;
            bits &= bits - 1;
        }
    }
    next
}

#[inline(always)]
pub(super) fn expand(mask: &[u8], values: &[f32], out: &mut [f32]) -> usize {
    out.fill(0.0);
    each_bit(mask, |i, n| out[i] = values[n])
}

#[inline(always)]
pub(super) fn add_masked(mask: &[u8], values: &[f32], g: f32, y: &mut [f32]) -> usize {
    each_bit(mask, |i, n| y[i] += g * values[n])
}

// SAFETY: needs nothing of the CPU; loads and stores are of the floats that the trait states.
unsafe impl Set for Portable {
    type V = [f32; 8];
    const WIDTH: usize = 8;

    #[inline(always)]
    unsafe fn zero() -> Self::V {
        [0.0; 8]
    }

    #[inline(always)]
    unsafe fn load(at: *const f32) -> Self::V {
        // SAFETY: `WIDTH` floats.
        unsafe { at.cast::<Self::V>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store(at: *mut f32, v: Self::V) {
        // SAFETY: `WIDTH` floats.
        unsafe { at.cast::<Self::V>().write_unaligned(v) }
    }

    #[inline(always)]
    unsafe fn splat(v: f32) -> Self::V {
        [v; 8]
    }

    #[inline(always)]
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }

    #[inline(always)]
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] + b[i])
    }

    #[inline(always)]
    unsafe fn list_bytes(bits: u64, base: u8, to: *mut u8) {
        // SAFETY: 64 bytes.
        unsafe { list_bytes(bits, base, to) }
    }

    #[inline(always)]
    unsafe fn list_shorts(bits: u64, base: u16, to: *mut u16) {
        // SAFETY: 64 numbers.
        unsafe { list_shorts(bits, base, to) }
    }

    #[inline(always)]
    unsafe fn below(list: &[u16], limit: usize) -> usize {
        list.iter().take_while(|i| usize::from(**i) < limit).count()
    }

    #[inline(always)]
    unsafe fn pick(columns: *const u16, x: &[f32; INDEX_COLS]) -> Self::V {
        // SAFETY: `WIDTH` columns.
        let columns = unsafe { columns.cast::<[u16; 8]>().read_unaligned() };
        columns.map(|c| x[usize::from(c)])
    }

    #[inline(always)]
    unsafe fn pick_few(columns: &[u16], values: &[f32], x: &[f32; INDEX_COLS]) -> Self::V {
        let mut out = [0.0; 8];
        for ((out, c), v) in out.iter_mut().zip(columns).zip(values) {
            *out = v * x[usize::from(*c)];
        }
        out
    }

    #[inline(always)]
    unsafe fn total(v: Self::V) -> f32 {
        ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]))
    }

    #[inline(always)]
    unsafe fn expand(mask: &[u8], values: &[f32], out: &mut [f32]) -> usize {
        expand(mask, values, out)
    }

    #[inline(always)]
    unsafe fn dot(mask: &[u8], values: &[f32], x: &[f32]) -> (f32, usize) {
        // Four sums in turn, so that additions do not wait for each other.
        let mut sums = [0.0f32; 4];
        let n = each_bit(mask, |i, n| sums[n % 4] += values[n] * x[i]);
        ((sums[0] + sums[1]) + (sums[2] + sums[3]), n)
    }

    #[inline(always)]
    unsafe fn add_masked(mask: &[u8], values: &[f32], g: f32, y: &mut [f32]) -> usize {
        add_masked(mask, values, g, y)
    }

    #[inline(always)]
    unsafe fn add_row<I: Copy + Into<usize>>(
        list: &[I],
        values: &[f32],
        panel: &[f32],
        sums: &mut [f32],
    ) {
        // SAFETY: as the caller promises.
        unsafe {
            match sums.len() {
                64 => add_row::<Self, 8, 1, I>(list, values, panel, sums),
                32 => add_row::<Self, 4, 1, I>(list, values, panel, sums),
                16 => add_row::<Self, 2, 1, I>(list, values, panel, sums),
                _ => add_row::<Self, 1, 2, I>(list, values, panel, sums),
            }
        }
    }
}
