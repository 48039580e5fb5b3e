//! Registers of NEON, two at a time, and tables for masks of four columns.

use std::arch::aarch64::*;

use super::portable::{self, PLACES};
use super::{INDEX_COLS, Set, add_row, word};

/// NEON, which every AArch64 CPU has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Neon;

/// Lines of a table that one load takes, none of them across cache lines.
#[repr(align(64))]
struct Lines([[u8; 16]; 16]);

/// For each mask of four columns, where each of them finds the bytes of its value among four
/// values; 255, which is outside, for columns that are not set.
static SOURCES: Lines = {
    let mut table = [[255; 16]; 16];
    let mut mask = 0;
    while mask < 16 {
        let (mut bit, mut n) = (0, 0);
        while bit < 4 {
            if mask >> bit & 1 == 1 {
                let mut byte = 0;
                while byte < 4 {
                    table[mask][4 * bit + byte] = (4 * n + byte) as u8;
                    byte += 1;
                }
                n += 1;
            }
            bit += 1;
        }
        mask += 1;
    }
    Lines(table)
};

/// Four columns: the values of those that are set, zero in the others' lanes, which have all
/// bits set in the second register.
///
/// # Safety
/// `mask` is below 16, and `values` holds four.
#[inline(always)]
unsafe fn spread4(mask: u64, values: *const f32) -> (float32x4_t, uint32x4_t) {
    // SAFETY: the caller has four values; the table has a line for every mask.
    unsafe {
        let from = vld1q_u8(SOURCES.0.as_ptr().add(mask as usize).cast());
        let v = vqtbl1q_u8(vreinterpretq_u8_f32(vld1q_f32(values)), from);
        let unset = vcltzq_s32(vreinterpretq_s32_u8(from));
        (vreinterpretq_f32_u8(v), unset)
    }
}

/// How many bits are set before each byte of `bits`, and before its upper half: a byte each.
///
/// The CPU counts bits in vector registers only, and it takes long from there and back.
#[inline(always)]
fn ranks(bits: u64) -> (u64, u64) {
    let pairs = bits - (bits >> 1 & 0x5555_5555_5555_5555);
    let low = 0x3333_3333_3333_3333;
    let halves = (pairs & low) + (pairs >> 2 & low);
    let low = 0x0f0f_0f0f_0f0f_0f0f;
    let (first, second) = (halves & low, halves >> 4 & low);
    // The multiplication adds to each byte those below it: 64 at most, which no carry leaves.
    let before = (first + second).wrapping_mul(0x0101_0101_0101_0101) << 8;
    (before, before + first)
}

/// Hands `each` four columns after the other, `(column, values, unset)` as [`spread4`] gives
/// them, in whole bytes of the mask, until fewer than 64 values are left. Returns the values
/// taken and the bytes done.
///
/// # Safety
/// `mask` has a bit for every one of `cols`.
#[inline(always)]
unsafe fn by_fours(
    mask: &[u8],
    values: &[f32],
    cols: usize,
    mut each: impl FnMut(usize, float32x4_t, uint32x4_t),
) -> (usize, usize) {
    let (mut next, mut done) = (0, 0);
    let bytes = cols / 8;
    while done < bytes && values.len() - next >= 64 {
        let bits = word(mask, done);
        let count = (bytes - done).min(8);
        let (mut before, mut middle) = ranks(bits);
        let mut left = bits;
        // SAFETY: at most 60 values are before those of four columns, so that four from there
        // on are among the 64 that there are.
        unsafe {
            let from = values.as_ptr().add(next);
            for i in done..done + count {
                let (v, unset) = spread4(left & 15, from.add((before & 255) as usize));
                each(8 * i, v, unset);
                let (v, unset) = spread4(left >> 4 & 15, from.add((middle & 255) as usize));
                each(8 * i + 4, v, unset);
                (left, before, middle) = (left >> 8, before >> 8, middle >> 8);
            }
        }
        next += (bits & u64::MAX >> (64 - 8 * count)).count_ones() as usize;
        done += count;
    }
    (next, done)
}

/// The numbers of `x` that four columns name.
#[inline(always)]
fn pick4(columns: u64, x: &[f32; INDEX_COLS]) -> float32x4_t {
    let at = |i: u32| x[usize::from((columns >> (16 * i)) as u16)];
    // SAFETY: NEON, which the target has; four floats.
    unsafe { vld1q_f32([at(0), at(1), at(2), at(3)].as_ptr()) }
}

// SAFETY: every intrinsic below needs NEON, which the target has; loads and stores are of the
// floats that the trait states.
unsafe impl Set for Neon {
    type V = [float32x4_t; 2];
    const WIDTH: usize = 8;

    #[inline(always)]
    unsafe fn zero() -> Self::V {
        // SAFETY: see the impl.
        unsafe { [vdupq_n_f32(0.0); 2] }
    }

    #[inline(always)]
    unsafe fn load(at: *const f32) -> Self::V {
        // SAFETY: see the impl.
        unsafe { [vld1q_f32(at), vld1q_f32(at.add(4))] }
    }

    #[inline(always)]
    unsafe fn store(at: *mut f32, [low, high]: Self::V) {
        // SAFETY: see the impl.
        unsafe {
            vst1q_f32(at, low);
            vst1q_f32(at.add(4), high);
        }
    }

    #[inline(always)]
    unsafe fn splat(v: f32) -> Self::V {
        // SAFETY: see the impl.
        unsafe { [vdupq_n_f32(v); 2] }
    }

    #[inline(always)]
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // SAFETY: see the impl.
        unsafe { [vfmaq_f32(c[0], a[0], b[0]), vfmaq_f32(c[1], a[1], b[1])] }
    }

    #[inline(always)]
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: see the impl.
        unsafe { [vaddq_f32(a[0], b[0]), vaddq_f32(a[1], b[1])] }
    }

    #[inline(always)]
    unsafe fn list_bytes(bits: u64, base: u8, to: *mut u8) {
        let (mut before, _) = ranks(bits);
        for i in 0..8u8 {
            let places = PLACES[usize::from((bits >> (8 * i)) as u8)];
            // No byte overflows: `base + 8 i + 7 ≤ 255`; those past the places are of no use.
            let first = u64::from(base.wrapping_add(8 * i)).wrapping_mul(0x0101_0101_0101_0101);
            let line = places.wrapping_add(first).to_le_bytes();
            // SAFETY: at most 8 i ≤ 56 are before, so the last of eight bytes is the 64th at
            // most.
            unsafe {
                to.add((before & 255) as usize)
                    .cast::<[u8; 8]>()
                    .write(line)
            };
            before >>= 8;
        }
    }

    #[inline(always)]
    unsafe fn list_shorts(bits: u64, base: u16, to: *mut u16) {
        let (mut before, _) = ranks(bits);
        for i in 0..8u16 {
            let places = PLACES[usize::from((bits >> (8 * i)) as u8)];
            // SAFETY: see the impl; at most 8 i ≤ 56 are before.
            unsafe {
                let places = vmovl_u8(vcreate_u8(places));
                let line = vaddq_u16(places, vdupq_n_u16(base.wrapping_add(8 * i)));
                vst1q_u16(to.add((before & 255) as usize), line);
            }
            before >>= 8;
        }
    }

    #[inline(always)]
    unsafe fn below(list: &[u16], limit: usize) -> usize {
        let (lines, rest) = list.as_chunks::<8>();
        let Ok(limit) = u16::try_from(limit) else {
            return list.len();
        };
        for (i, line) in lines.iter().enumerate() {
            // SAFETY: see the impl; a line is 16 bytes. A byte for each number, set where it
            // is not below.
            let bits = unsafe {
                let not_below = vcgeq_u16(vld1q_u16(line.as_ptr()), vdupq_n_u16(limit));
                vget_lane_u64::<0>(vreinterpret_u64_u8(vmovn_u16(not_below)))
            };
            if bits != 0 {
                return i * 8 + bits.trailing_zeros() as usize / 8;
            }
        }
        lines.len() * 8 + rest.iter().take_while(|i| **i < limit).count()
    }

    #[inline(always)]
    unsafe fn pick(columns: *const u16, x: &[f32; INDEX_COLS]) -> Self::V {
        // SAFETY: `WIDTH` columns.
        unsafe {
            // Two loads of four columns: loads are what this waits for.
            let [a, b] = columns.cast::<[u64; 2]>().read_unaligned();
            [pick4(a, x), pick4(b, x)]
        }
    }

    #[inline(always)]
    unsafe fn pick_few(columns: &[u16], values: &[f32], x: &[f32; INDEX_COLS]) -> Self::V {
        let mut out = [0.0; 8];
        for ((out, c), v) in out.iter_mut().zip(columns).zip(values) {
            *out = v * x[usize::from(*c)];
        }
        // SAFETY: eight floats.
        unsafe { Self::load(out.as_ptr()) }
    }

    #[inline(always)]
    unsafe fn total([low, high]: Self::V) -> f32 {
        // SAFETY: see the impl.
        unsafe { vaddvq_f32(vaddq_f32(low, high)) }
    }

    #[inline(always)]
    unsafe fn expand(mask: &[u8], values: &[f32], out: &mut [f32]) -> usize {
        assert!(mask.len() == out.len().div_ceil(8));
        let to = out.as_mut_ptr();
        // SAFETY: see the impl; `out` has eight floats for every whole byte.
        let (next, done) = unsafe {
            by_fours(mask, values, out.len(), |column, v, _| {
                vst1q_f32(to.add(column), v);
            })
        };
        next + portable::expand(&mask[done..], &values[next..], &mut out[done * 8..])
    }

    #[inline(always)]
    unsafe fn dot(mask: &[u8], values: &[f32], x: &[f32]) -> (f32, usize) {
        assert!(mask.len() == x.len().div_ceil(8));
        // SAFETY: see the impl; `x` has eight floats for every whole byte.
        let (sum, next, done) = unsafe {
            let mut sums = [vdupq_n_f32(0.0); 2];
            let (next, done) = by_fours(mask, values, x.len(), |column, v, unset| {
                // What is not set must not count, whatever `x` holds there.
                let x = vreinterpretq_u32_f32(vld1q_f32(x.as_ptr().add(column)));
                let x = vreinterpretq_f32_u32(vbicq_u32(x, unset));
                let sum = &mut sums[column / 4 % 2];
                *sum = vfmaq_f32(*sum, v, x);
            });
            (vaddvq_f32(vaddq_f32(sums[0], sums[1])), next, done)
        };
        let mut rest = 0.0f32;
        let n = portable::each_bit(&mask[done..], |i, n| {
            rest += values[next + n] * x[done * 8 + i];
        });
        (sum + rest, next + n)
    }

    #[inline(always)]
    unsafe fn add_masked(mask: &[u8], values: &[f32], g: f32, y: &mut [f32]) -> usize {
        assert!(mask.len() == y.len().div_ceil(8));
        let to = y.as_mut_ptr();
        // SAFETY: see the impl; `y` has eight floats for every whole byte.
        let (next, done) = unsafe {
            let g = vdupq_n_f32(g);
            by_fours(mask, values, y.len(), |column, v, unset| {
                let old = vld1q_f32(to.add(column));
                let new = vfmaq_f32(old, g, v);
                vst1q_f32(to.add(column), vbslq_f32(unset, old, new));
            })
        };
        let rest = (&mask[done..], &values[next..], &mut y[done * 8..]);
        next + portable::add_masked(rest.0, rest.1, g, rest.2)
    }

    #[inline(always)]
    unsafe fn add_row<I: Copy + Into<usize>>(
        list: &[I],
        values: &[f32],
        panel: &[f32],
        sums: &mut [f32],
    ) {
        // SAFETY: as the caller promises. Sums take half of the 32 registers.
        unsafe {
            match sums.len() {
                64 => add_row::<Self, 8, 1, I>(list, values, panel, sums),
                32 => add_row::<Self, 4, 2, I>(list, values, panel, sums),
                16 => add_row::<Self, 2, 4, I>(list, values, panel, sums),
                _ => add_row::<Self, 1, 4, I>(list, values, panel, sums),
            }
        }
    }
}
