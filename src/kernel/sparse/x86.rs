//! Registers of AVX2 and AVX-512, and how VBMI2 makes lists.

use std::arch::asm;
use std::arch::x86_64::*;

use super::portable;
use super::{INDEX_COLS, MaskRows, Set, add_line, add_lines, add_row, descents_body, word};

/// AVX2, FMA, BMI.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx2;

/// AVX-512 F, BW, VL, DQ besides.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx512;

/// VBMI2 and VPOPCNTDQ besides.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Vbmi2;

/// Eight values, spread to the places of the set bits of `mask`; lanes of other places hold
/// what they may, and have the sign bit set in the second result.
///
/// # Safety
/// AVX2; `values` holds eight.
#[inline(always)]
unsafe fn spread8(mask: u8, values: *const f32) -> (__m256, __m256) {
    // SAFETY: the caller has AVX2 and eight values; the table has a line for every mask.
    unsafe {
        let from = _mm256_load_si256((&raw const RANKS.0[usize::from(mask)]).cast());
        let v = _mm256_permutevar8x32_ps(_mm256_loadu_ps(values), from);
        (v, _mm256_castsi256_ps(from))
    }
}

/// For each mask byte the rank of each place among the set ones, −1 where none is set. As
/// registers, a quarter of a first cache: bytes would have to be widened first, twice where a
/// compiler sees that signs of bytes are what is asked for.
#[repr(align(32))]
struct Ranks([[i32; 8]; 256]);

static RANKS: Ranks = {
    let mut table = [[-1; 8]; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut bit, mut n) = (0, 0);
        while bit < 8 {
            if byte >> bit & 1 == 1 {
                table[byte][bit] = n;
                n += 1;
            }
            bit += 1;
        }
        byte += 1;
    }
    Ranks(table)
};

/// # Safety
/// AVX.
#[inline(always)]
unsafe fn total_256(v: __m256) -> f32 {
    // SAFETY: the caller has AVX.
    unsafe {
        let h = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
        let h = _mm_add_ps(h, _mm_movehl_ps(h, h));
        _mm_cvtss_f32(_mm_add_ss(h, _mm_movehdup_ps(h)))
    }
}

/// As `portable::list_shorts`, of which compilers make eight insertions for each byte.
///
/// # Safety
/// AVX2; 64 numbers may be written.
#[inline(always)]
unsafe fn list_shorts_256(bits: u64, base: u16, to: *mut u16) {
    let mut n = 0;
    // SAFETY: the caller has AVX2; n ≤ 8 i ≤ 56.
    unsafe {
        let eight = _mm_set1_epi16(8);
        let mut first = _mm_set1_epi16(base as i16);
        for i in 0..8 {
            let byte = (bits >> (8 * i)) as u8;
            let places = &raw const portable::PLACES[usize::from(byte)];
            let line = _mm_cvtepu8_epi16(_mm_loadl_epi64(places.cast()));
            _mm_storeu_si128(to.add(n).cast(), _mm_add_epi16(line, first));
            first = _mm_add_epi16(first, eight);
            n += byte.count_ones() as usize;
        }
    }
}

/// # Safety
/// AVX; eight columns.
#[inline(always)]
unsafe fn pick8(columns: *const u16, x: &[f32; INDEX_COLS]) -> __m256 {
    // SAFETY: the caller has AVX and eight columns.
    unsafe {
        // Two loads of four columns: loads are what this waits for.
        let [a, b] = columns.cast::<[u64; 2]>().read_unaligned();
        let at = |four: u64, i: u32| x[usize::from((four >> (16 * i)) as u16)];
        let four = |c: u64| _mm_setr_ps(at(c, 0), at(c, 1), at(c, 2), at(c, 3));
        _mm256_set_m128(four(b), four(a))
    }
}

// SAFETY: every intrinsic below needs AVX2, FMA or BMI at most, which whoever calls `Set`
// has; loads and stores are of the floats that the trait states.
unsafe impl Set for Avx2 {
    type V = __m256;
    const WIDTH: usize = 8;

    #[inline(always)]
    unsafe fn zero() -> Self::V {
        // SAFETY: see the impl.
        unsafe { _mm256_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn load(at: *const f32) -> Self::V {
        // SAFETY: see the impl.
        unsafe { _mm256_loadu_ps(at) }
    }

    #[inline(always)]
    unsafe fn store(at: *mut f32, v: Self::V) {
        // SAFETY: see the impl.
        unsafe { _mm256_storeu_ps(at, v) }
    }

    #[inline(always)]
    unsafe fn splat(v: f32) -> Self::V {
        // SAFETY: see the impl.
        unsafe { _mm256_set1_ps(v) }
    }

    #[inline(always)]
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // SAFETY: see the impl.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: see the impl.
        unsafe { _mm256_add_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn list_bytes(bits: u64, base: u8, to: *mut u8) {
        // SAFETY: 64 bytes.
        unsafe { portable::list_bytes(bits, base, to) }
    }

    #[inline(always)]
    unsafe fn list_shorts(bits: u64, base: u16, to: *mut u16) {
        // SAFETY: see the impl; 64 numbers.
        unsafe { list_shorts_256(bits, base, to) }
    }

    #[inline(always)]
    unsafe fn below(list: &[u16], limit: usize) -> usize {
        let (lines, rest) = list.as_chunks::<16>();
        let Ok(limit) = u16::try_from(limit) else {
            return list.len();
        };
        for (i, line) in lines.iter().enumerate() {
            // SAFETY: see the impl; a line is 32 bytes. `max(a, limit) = a` says that a is
            // not below.
            let bits = unsafe {
                let a = _mm256_loadu_si256(line.as_ptr().cast());
                let limit = _mm256_set1_epi16(limit as i16);
                _mm256_movemask_epi8(_mm256_cmpeq_epi16(_mm256_max_epu16(a, limit), a)) as u32
            };
            if bits != 0 {
                return i * 16 + bits.trailing_zeros() as usize / 2;
            }
        }
        lines.len() * 16 + rest.iter().take_while(|i| **i < limit).count()
    }

    #[inline(always)]
    unsafe fn pick(columns: *const u16, x: &[f32; INDEX_COLS]) -> Self::V {
        // SAFETY: `WIDTH` columns.
        unsafe { pick8(columns, x) }
    }

    #[inline(always)]
    unsafe fn pick_few(columns: &[u16], values: &[f32], x: &[f32; INDEX_COLS]) -> Self::V {
        let mut out = [0.0; 8];
        for ((out, c), v) in out.iter_mut().zip(columns).zip(values) {
            *out = v * x[usize::from(*c)];
        }
        // SAFETY: eight floats.
        unsafe { _mm256_loadu_ps(out.as_ptr()) }
    }

    #[inline(always)]
    unsafe fn total(v: Self::V) -> f32 {
        // SAFETY: see the impl.
        unsafe { total_256(v) }
    }

    #[inline(always)]
    unsafe fn expand(mask: &[u8], values: &[f32], out: &mut [f32]) -> usize {
        let (mut next, mut done) = (0, 0);
        for (chunk, bits) in out.as_chunks_mut::<8>().0.iter_mut().zip(mask) {
            let Some(source) = values[next..].first_chunk::<8>() else {
                break;
            };
            // SAFETY: see the impl; `source` and `chunk` are eight floats each.
            unsafe {
                let (v, unset) = spread8(*bits, source.as_ptr());
                let v = _mm256_blendv_ps(v, _mm256_setzero_ps(), unset);
                _mm256_storeu_ps(chunk.as_mut_ptr(), v);
            }
            next += bits.count_ones() as usize;
            done += 1;
        }
        // Near the end of the values a whole vector may not be read.
        next + portable::expand(&mask[done..], &values[next..], &mut out[done * 8..])
    }

    #[inline(always)]
    unsafe fn dot(mask: &[u8], values: &[f32], x: &[f32]) -> (f32, usize) {
        assert!(mask.len() == x.len().div_ceil(8));
        let words = x.len() / 64;
        let (mut next, mut done) = (0, 0);
        // SAFETY: see the impl; `x` has 64 floats for every word (asserted), and values
        // are loaded where 64 are left.
        let sum = unsafe {
            let mut sums = [_mm256_setzero_ps(); 4];
            while done < words && next + 64 <= values.len() {
                let x = x.as_ptr().add(done * 64);
                let bytes = &mask[done * 8..][..8];
                for i in 0..8 {
                    let (v, unset) = spread8(bytes[i], values.as_ptr().add(next));
                    // Where nothing is set the sum stays, whatever `x` holds there.
                    let sum = _mm256_fmadd_ps(v, _mm256_loadu_ps(x.add(i * 8)), sums[i % 4]);
                    sums[i % 4] = _mm256_blendv_ps(sum, sums[i % 4], unset);
                    next += bytes[i].count_ones() as usize;
                }
                done += 1;
            }
            let [a, b, c, d] = sums;
            total_256(_mm256_add_ps(_mm256_add_ps(a, b), _mm256_add_ps(c, d)))
        };
        let mut rest = 0.0f32;
        let n = portable::each_bit(&mask[done * 8..], |i, n| {
            rest += values[next + n] * x[done * 64 + i];
        });
        (sum + rest, next + n)
    }

    #[inline(always)]
    unsafe fn add_masked(mask: &[u8], values: &[f32], g: f32, y: &mut [f32]) -> usize {
        assert!(mask.len() == y.len().div_ceil(8));
        let words = y.len() / 64;
        let (mut next, mut done) = (0, 0);
        // SAFETY: as in `dot`.
        unsafe {
            let g = _mm256_set1_ps(g);
            while done < words && next + 64 <= values.len() {
                let bits = word(mask, done * 8);
                let (from, y) = (values.as_ptr().add(next), y.as_mut_ptr().add(done * 64));
                for i in 0..8 {
                    let before = (bits & !(u64::MAX << (8 * i))).count_ones() as usize;
                    let (v, unset) = spread8((bits >> (8 * i)) as u8, from.add(before));
                    let old = _mm256_loadu_ps(y.add(i * 8));
                    let new = _mm256_add_ps(old, _mm256_mul_ps(g, v));
                    _mm256_storeu_ps(y.add(i * 8), _mm256_blendv_ps(new, old, unset));
                }
                next += bits.count_ones() as usize;
                done += 1;
            }
        }
        let rest = (&mask[done * 8..], &values[next..], &mut y[done * 64..]);
        next + portable::add_masked(rest.0, rest.1, g, rest.2)
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
                32 => add_row::<Self, 4, 2, I>(list, values, panel, sums),
                16 => add_row::<Self, 2, 4, I>(list, values, panel, sums),
                _ => add_row::<Self, 1, 4, I>(list, values, panel, sums),
            }
        }
    }
}

/// Sixteen values, spread to the places of the set bits of `mask`; other lanes hold what
/// they may.
///
/// The result goes to the register that was loaded: Zen 4 waits for the old contents of
/// the destination of an expansion even where it zeroes them, and expansions from memory
/// are microcoded.
///
/// # Safety
/// AVX-512; `values` holds sixteen.
#[inline(always)]
unsafe fn spread16(mask: u16, values: *const f32) -> __m512 {
    // SAFETY: the caller has AVX-512 and sixteen values.
    unsafe {
        let v = _mm512_loadu_ps(values);
        _mm512_mask_expand_ps(v, mask, v)
    }
}

/// The same from the first `mask.count_ones()` values, no more being read.
///
/// # Safety
/// AVX-512; `values` holds as many.
#[inline(always)]
unsafe fn spread_few(mask: u16, values: *const f32) -> __m512 {
    // SAFETY: masked lanes are not read.
    unsafe {
        let v = _mm512_maskz_loadu_ps(first_lanes(mask.count_ones()), values);
        _mm512_mask_expand_ps(v, mask, v)
    }
}

/// The mask of the first `n` lanes of 16.
#[inline(always)]
fn first_lanes(n: u32) -> u16 {
    (0xffff_u32 >> (16 - n)) as u16
}

/// What is done with sixteen columns of `R` rows.
///
/// A type and not a closure: compilers do not take the instruction set of a function over
/// to a closure that they do not inline.
trait Sixteen<const R: usize> {
    /// `here` has the lanes that are columns, `masks` those that are set, to which `values`
    /// are spread; other lanes of `values` hold what they may.
    ///
    /// # Safety
    /// AVX-512; lanes of `here` from `column` on are columns.
    unsafe fn take(&mut self, column: usize, here: u16, masks: [u16; R], values: [__m512; R]);
}

/// Hands `each` every sixteen columns of `R` rows. Returns the values taken of each row.
///
/// # Safety
/// AVX-512.
#[inline(always)]
unsafe fn by_sixteen<const R: usize>(
    masks: [&[u8]; R],
    values: [&[f32]; R],
    cols: usize,
    each: &mut impl Sixteen<R>,
) -> [usize; R] {
    for mask in masks {
        assert!(mask.len() == cols.div_ceil(8));
    }
    let mut next = [0; R];
    let mut done = 0;
    // SAFETY: the caller has AVX-512; whole vectors are loaded where 64 values are left, and
    // no more than there are (asserted) where fewer are. A word begins at eight bytes that
    // a mask of so many columns has.
    unsafe {
        'words: for w in 0..cols / 64 {
            let mut bits = [0u64; R];
            for r in 0..R {
                if values[r].len() - next[r] < 64 {
                    break 'words;
                }
                bits[r] = masks[r]
                    .as_ptr()
                    .cast::<[u8; 8]>()
                    .add(w)
                    .cast::<u64>()
                    .read_unaligned();
                super::ask(values[r], next[r] + 256, 32);
            }
            for i in 0..4 {
                let mut here = [0; R];
                let mut v = [_mm512_setzero_ps(); R];
                for r in 0..R {
                    here[r] = (bits[r] >> (16 * i)) as u16;
                    // Counted from the mask alone: no vector waits for the one before.
                    let before = (bits[r] & !(u64::MAX << (16 * i))).count_ones() as usize;
                    v[r] = spread16(here[r], values[r].as_ptr().add(next[r] + before));
                }
                each.take(done + i * 16, u16::MAX, here, v);
            }
            for r in 0..R {
                next[r] += bits[r].count_ones() as usize;
            }
            done += 64;
        }
        while done < cols {
            let inside = first_lanes((cols - done).min(16) as u32);
            let mut here = [0; R];
            let mut v = [_mm512_setzero_ps(); R];
            for r in 0..R {
                here[r] = two_bytes(masks[r], done / 8) & inside;
                assert!(values[r].len() - next[r] >= here[r].count_ones() as usize);
                v[r] = spread_few(here[r], values[r].as_ptr().add(next[r]));
                next[r] += here[r].count_ones() as usize;
            }
            each.take(done, inside, here, v);
            done += 16;
        }
    }
    next
}

/// Two bytes, or the one that there is.
#[inline(always)]
fn two_bytes(mask: &[u8], at: usize) -> u16 {
    let high = mask.get(at + 1).copied().unwrap_or(0);
    u16::from_le_bytes([mask[at], high])
}

/// Opens a row.
struct Expand(*mut f32);

impl Sixteen<1> for Expand {
    #[inline(always)]
    unsafe fn take(&mut self, column: usize, here: u16, [mask]: [u16; 1], [v]: [__m512; 1]) {
        // SAFETY: lanes past the columns are not written.
        unsafe {
            let v = _mm512_maskz_mov_ps(mask, v);
            _mm512_mask_storeu_ps(self.0.add(column), here, v);
        }
    }
}

/// # Safety
/// AVX-512.
#[inline(always)]
unsafe fn expand_512(mask: &[u8], values: &[f32], out: &mut [f32]) -> usize {
    // SAFETY: the caller has AVX-512.
    let [n] = unsafe { by_sixteen([mask], [values], out.len(), &mut Expand(out.as_mut_ptr())) };
    n
}

/// Multiplies a row by a vector, in four sums.
struct Dot {
    x: *const f32,
    sums: [__m512; 4],
}

impl Sixteen<1> for Dot {
    #[inline(always)]
    unsafe fn take(&mut self, column: usize, here: u16, [mask]: [u16; 1], [v]: [__m512; 1]) {
        // SAFETY: lanes past the columns are not read.
        unsafe {
            let x = _mm512_maskz_loadu_ps(here, self.x.add(column));
            let sum = &mut self.sums[column / 16 % 4];
            *sum = _mm512_mask3_fmadd_ps(v, x, *sum, mask);
        }
    }
}

/// # Safety
/// AVX-512.
#[inline(always)]
unsafe fn dot_512(mask: &[u8], values: &[f32], x: &[f32]) -> (f32, usize) {
    // SAFETY: the caller has AVX-512.
    unsafe {
        let sums = [_mm512_setzero_ps(); 4];
        let mut dot = Dot {
            x: x.as_ptr(),
            sums,
        };
        let [n] = by_sixteen([mask], [values], x.len(), &mut dot);
        let [a, b, c, d] = dot.sums;
        let sum = _mm512_add_ps(_mm512_add_ps(a, b), _mm512_add_ps(c, d));
        (_mm512_reduce_add_ps(sum), n)
    }
}

/// Multiplies `R` rows by `B` vectors.
struct Tile<const R: usize, const B: usize> {
    x: *const f32,
    stride: usize,
    sums: [[__m512; B]; R],
}

impl<const R: usize, const B: usize> Sixteen<R> for Tile<R, B> {
    #[inline(always)]
    unsafe fn take(&mut self, column: usize, here: u16, masks: [u16; R], v: [__m512; R]) {
        // SAFETY: lanes past the columns are not read.
        unsafe {
            for b in 0..B {
                let x = _mm512_maskz_loadu_ps(here, self.x.add(b * self.stride + column));
                for r in 0..R {
                    let sum = &mut self.sums[r][b];
                    *sum = _mm512_mask3_fmadd_ps(v[r], x, *sum, masks[r]);
                }
            }
        }
    }
}

/// Products of all rows with `B` vectors, `R` rows at a time, so that a vector is loaded
/// once for them. `out[b · rows + r]`.
///
/// The rows that go together lie far apart: memory is read faster in several streams than in
/// one, if each is longer than a few pages.
///
/// # Safety
/// AVX-512.
#[inline(always)]
unsafe fn tiles_512<const R: usize, const B: usize>(
    m: &MaskRows<'_>,
    x: &[f32],
    stride: usize,
    out: &mut [f32],
) {
    let rows = m.rows();
    assert!(x.len() >= (B - 1) * stride + m.cols && out.len() == B * rows);
    let part = rows / R;
    let mut values = [m.values; R];
    for r in 1..R {
        let before = &m.bits[(r - 1) * part * m.stride()..r * part * m.stride()];
        values[r] = &values[r - 1][super::count_body(before)..];
    }
    // SAFETY: the caller has AVX-512.
    unsafe {
        for row in 0..part {
            let at: [usize; R] = std::array::from_fn(|r| r * part + row);
            let taken = tile_512::<R, B>(m, at, values, x, stride, out);
            for r in 0..R {
                values[r] = &values[r][taken[r]..];
            }
        }
        // The rest follows the last part.
        let mut last = values[R - 1];
        for row in part * R..rows {
            let [taken] = tile_512::<1, B>(m, [row], [last], x, stride, out);
            last = &last[taken..];
        }
    }
}

/// Returns the values taken of each row.
///
/// # Safety
/// AVX-512; `x` and `out` are as `tiles_512` asserts, `values` those from the rows on.
#[inline(always)]
unsafe fn tile_512<const R: usize, const B: usize>(
    m: &MaskRows<'_>,
    rows: [usize; R],
    values: [&[f32]; R],
    x: &[f32],
    stride: usize,
    out: &mut [f32],
) -> [usize; R] {
    // SAFETY: the caller has AVX-512.
    unsafe {
        let mut tile = Tile {
            x: x.as_ptr(),
            stride,
            sums: [[_mm512_setzero_ps(); B]; R],
        };
        let taken = by_sixteen(rows.map(|r| m.row(r)), values, m.cols, &mut tile);
        for (row, sums) in rows.into_iter().zip(tile.sums) {
            for (b, sum) in sums.into_iter().enumerate() {
                out[b * m.rows() + row] = _mm512_reduce_add_ps(sum);
            }
        }
        taken
    }
}

/// # Safety
/// AVX-512.
#[inline(always)]
unsafe fn dots_512(m: &MaskRows<'_>, x: &[f32], stride: usize, out: &mut [f32]) {
    let rows = m.rows();
    let mut b = 0;
    let batch = out.len() / rows.max(1);
    // SAFETY: the caller has AVX-512.
    unsafe {
        while b < batch {
            let n = match batch - b {
                8.. => 8,
                4.. => 4,
                n => n.min(2),
            };
            let (x, out) = (&x[b * stride..], &mut out[b * rows..(b + n) * rows]);
            match n {
                // As many sums as registers leave room for.
                8 => tiles_512::<2, 8>(m, x, stride, out),
                4 => tiles_512::<4, 4>(m, x, stride, out),
                2 => tiles_512::<4, 2>(m, x, stride, out),
                _ => tiles_512::<4, 1>(m, x, stride, out),
            }
            b += n;
        }
    }
}

/// Adds a row times `g` to `y`.
struct AddMasked {
    g: __m512,
    y: *mut f32,
}

impl Sixteen<1> for AddMasked {
    #[inline(always)]
    unsafe fn take(&mut self, column: usize, here: u16, [mask]: [u16; 1], [v]: [__m512; 1]) {
        // SAFETY: lanes past the columns are neither read nor written.
        unsafe {
            let at = self.y.add(column);
            let new = _mm512_mask3_fmadd_ps(self.g, v, _mm512_maskz_loadu_ps(here, at), mask);
            _mm512_mask_storeu_ps(at, here, new);
        }
    }
}

/// # Safety
/// AVX-512.
#[inline(always)]
unsafe fn add_masked_512(mask: &[u8], values: &[f32], g: f32, y: &mut [f32]) -> usize {
    // SAFETY: the caller has AVX-512.
    unsafe {
        let g = _mm512_set1_ps(g);
        let mut add = AddMasked {
            g,
            y: y.as_mut_ptr(),
        };
        let [n] = by_sixteen([mask], [values], y.len(), &mut add);
        n
    }
}

/// # Safety
/// AVX-512 with BW.
#[inline(always)]
unsafe fn descents_512(list: &[u16]) -> usize {
    let last = list.len().saturating_sub(1);
    let full = last / 32 * 32;
    let mut total = 0;
    for i in (0..full).step_by(32) {
        // SAFETY: i + 33 ≤ the length.
        let falls = unsafe {
            let a = _mm512_loadu_si512(list.as_ptr().add(i).cast());
            let b = _mm512_loadu_si512(list.as_ptr().add(i + 1).cast());
            _mm512_cmple_epu16_mask(b, a)
        };
        total += falls.count_ones() as usize;
    }
    total + descents_body(&list[full.min(list.len())..])
}

/// # Safety
/// AVX-512 with BW.
#[inline(always)]
unsafe fn below_512(list: &[u16], limit: usize) -> usize {
    let Ok(limit) = u16::try_from(limit) else {
        return list.len();
    };
    let mut done = 0;
    while done < list.len() {
        let left = (list.len() - done).min(32) as u32;
        // SAFETY: the caller has AVX-512; masked lanes are not read.
        let below = unsafe {
            let have = u32::MAX >> (32 - left);
            let a = _mm512_maskz_loadu_epi16(have, list.as_ptr().add(done).cast());
            _mm512_mask_cmplt_epu16_mask(have, a, _mm512_set1_epi16(limit as i16))
        };
        done += below.count_ones() as usize;
        if below != u32::MAX {
            break;
        }
    }
    done
}

/// # Safety
/// AVX-512; fewer than sixteen columns.
#[inline(always)]
unsafe fn pick_few_512(columns: &[u16], values: &[f32], x: &[f32; INDEX_COLS]) -> __m512 {
    assert!(columns.len() < 16 && values.len() == columns.len());
    // SAFETY: the caller has AVX-512; masked lanes are not read, and every number of 16 bits
    // is an index of `x`.
    unsafe {
        let have = first_lanes(columns.len() as u32);
        let at = _mm256_maskz_loadu_epi16(have, columns.as_ptr().cast());
        let at = _mm512_cvtepu16_epi32(at);
        let x = _mm512_mask_i32gather_ps::<4>(_mm512_setzero_ps(), have, at, x.as_ptr());
        _mm512_mul_ps(_mm512_maskz_loadu_ps(have, values.as_ptr()), x)
    }
}

/// `add_row` with fewer loads, which are what it waits for: four columns and four values
/// come with one each, and values are spread by shuffles.
///
/// # Safety
/// As for `add_row`, with AVX-512; `I` is u8 or u16.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn add_row_512<const Z: usize, const C: usize, I: Copy + Into<usize>>(
    list: &[I],
    values: &[f32],
    panel: &[f32],
    sums: &mut [f32],
) {
    let lanes = Z * 16;
    assert!(values.len() == list.len() && sums.len() == lanes);
    // SAFETY: as in `add_row`; a word holds the four columns of a group.
    unsafe {
        let to = sums.as_mut_ptr();
        let mut acc = [[_mm512_setzero_ps(); Z]; C];
        for (z, acc) in acc[0].iter_mut().enumerate() {
            *acc = _mm512_loadu_ps(to.add(16 * z));
        }
        let (groups, rest) = list.as_chunks::<4>();
        let (value_groups, value_rest) = values.as_chunks::<4>();
        for (group, v) in groups.iter().zip(value_groups) {
            let bits = 8 * size_of::<I>();
            let columns = match size_of::<I>() {
                1 => u64::from(group.as_ptr().cast::<u32>().read_unaligned()),
                _ => group.as_ptr().cast::<u64>().read_unaligned(),
            };
            let mut v = _mm512_broadcast_f32x4(_mm_loadu_ps(v.as_ptr()));
            // Or compilers make four loads of the shuffles below.
            asm!("/* {0} */", inout(zmm_reg) v, options(pure, nomem, nostack, preserves_flags));
            let spread = [
                _mm512_permute_ps::<0x00>(v),
                _mm512_permute_ps::<0x55>(v),
                _mm512_permute_ps::<0xaa>(v),
                _mm512_permute_ps::<0xff>(v),
            ];
            for (i, v) in spread.into_iter().enumerate() {
                let column = columns >> (bits * i) & ((1 << bits) - 1);
                let line = panel.as_ptr().add(column as usize * lanes);
                for (z, acc) in acc[i % C].iter_mut().enumerate() {
                    *acc = _mm512_fmadd_ps(v, _mm512_loadu_ps(line.add(16 * z)), *acc);
                }
            }
        }
        // By constants, so that the sums stay in registers.
        for i in 0..3 {
            if i < rest.len() {
                let line = panel.as_ptr().add(rest[i].into() * lanes);
                add_line::<Avx512, Z>(&mut acc[i % C], line, value_rest[i]);
            }
        }
        for z in 0..Z {
            let mut sum = acc[0][z];
            for acc in &acc[1..] {
                sum = _mm512_add_ps(sum, acc[z]);
            }
            _mm512_storeu_ps(to.add(16 * z), sum);
        }
    }
}

/// The two sets of 512-bit registers, which differ in how they make lists.
macro_rules! avx512 {
    ($set:ty, $list_bytes:path, $list_shorts:path) => {
        // SAFETY: every intrinsic below needs what the set says, which whoever calls `Set`
        // has; loads and stores are of the floats that the trait states.
        unsafe impl Set for $set {
            type V = __m512;
            const WIDTH: usize = 16;

            #[inline(always)]
            unsafe fn zero() -> Self::V {
                // SAFETY: see the impl.
                unsafe { _mm512_setzero_ps() }
            }

            #[inline(always)]
            unsafe fn load(at: *const f32) -> Self::V {
                // SAFETY: see the impl.
                unsafe { _mm512_loadu_ps(at) }
            }

            #[inline(always)]
            unsafe fn store(at: *mut f32, v: Self::V) {
                // SAFETY: see the impl.
                unsafe { _mm512_storeu_ps(at, v) }
            }

            #[inline(always)]
            unsafe fn splat(v: f32) -> Self::V {
                // SAFETY: see the impl.
                unsafe { _mm512_set1_ps(v) }
            }

            #[inline(always)]
            unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
                // SAFETY: see the impl.
                unsafe { _mm512_fmadd_ps(a, b, c) }
            }

            #[inline(always)]
            unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
                // SAFETY: see the impl.
                unsafe { _mm512_add_ps(a, b) }
            }

            #[inline(always)]
            unsafe fn list_bytes(bits: u64, base: u8, to: *mut u8) {
                // SAFETY: see the impl; 64 bytes.
                unsafe { $list_bytes(bits, base, to) }
            }

            #[inline(always)]
            unsafe fn list_shorts(bits: u64, base: u16, to: *mut u16) {
                // SAFETY: see the impl; 64 numbers.
                unsafe { $list_shorts(bits, base, to) }
            }

            #[inline(always)]
            unsafe fn below(list: &[u16], limit: usize) -> usize {
                // SAFETY: see the impl.
                unsafe { below_512(list, limit) }
            }

            #[inline(always)]
            unsafe fn pick(columns: *const u16, x: &[f32; INDEX_COLS]) -> Self::V {
                // SAFETY: see the impl; `WIDTH` columns.
                unsafe {
                    let low = _mm512_castps256_ps512(pick8(columns, x));
                    _mm512_insertf32x8::<1>(low, pick8(columns.add(8), x))
                }
            }

            #[inline(always)]
            unsafe fn pick_few(columns: &[u16], values: &[f32], x: &[f32; INDEX_COLS]) -> Self::V {
                // SAFETY: see the impl.
                unsafe { pick_few_512(columns, values, x) }
            }

            #[inline(always)]
            unsafe fn total(v: Self::V) -> f32 {
                // SAFETY: see the impl.
                unsafe { _mm512_reduce_add_ps(v) }
            }

            #[inline(always)]
            unsafe fn descents(list: &[u16]) -> usize {
                // SAFETY: see the impl.
                unsafe { descents_512(list) }
            }

            #[inline(always)]
            unsafe fn expand(mask: &[u8], values: &[f32], out: &mut [f32]) -> usize {
                // SAFETY: see the impl.
                unsafe { expand_512(mask, values, out) }
            }

            #[inline(always)]
            unsafe fn dot(mask: &[u8], values: &[f32], x: &[f32]) -> (f32, usize) {
                // SAFETY: see the impl.
                unsafe { dot_512(mask, values, x) }
            }

            #[inline(always)]
            unsafe fn dots(m: &MaskRows<'_>, x: &[f32], stride: usize, out: &mut [f32]) {
                // SAFETY: see the impl.
                unsafe { dots_512(m, x, stride, out) }
            }

            #[inline(always)]
            unsafe fn add_masked(mask: &[u8], values: &[f32], g: f32, y: &mut [f32]) -> usize {
                // SAFETY: see the impl.
                unsafe { add_masked_512(mask, values, g, y) }
            }

            #[inline(always)]
            unsafe fn add_row<I: Copy + Into<usize>>(
                list: &[I],
                values: &[f32],
                panel: &[f32],
                sums: &mut [f32],
            ) {
                // SAFETY: as the caller promises; AVX-512 has what AVX2 has.
                unsafe {
                    match sums.len() {
                        64 => add_row_512::<4, 1, I>(list, values, panel, sums),
                        32 => add_row_512::<2, 2, I>(list, values, panel, sums),
                        16 => add_row_512::<1, 4, I>(list, values, panel, sums),
                        _ => add_row::<Avx2, 1, 4, I>(list, values, panel, sums),
                    }
                }
            }

            #[inline(always)]
            unsafe fn add_lines(
                list: &[u16],
                first: usize,
                values: &[f32],
                g: &[f32],
                y: &mut [f32],
            ) {
                // SAFETY: as the caller promises; AVX-512 has what AVX2 has.
                unsafe {
                    match g.len() {
                        64 => add_lines::<Self, 4>(list, first, values, g, y),
                        32 => add_lines::<Self, 2>(list, first, values, g, y),
                        16 => add_lines::<Self, 1>(list, first, values, g, y),
                        _ => add_lines::<Avx2, 1>(list, first, values, g, y),
                    }
                }
            }
        }
    };
}

avx512!(Avx512, portable::list_bytes, list_shorts_256);
avx512!(Vbmi2, list_bytes_vbmi2, list_shorts_vbmi2);

/// The numbers 0, 1, … as bytes.
const BYTES: [u8; 64] = {
    let mut bytes = [0; 64];
    let mut i = 0;
    while i < 64 {
        bytes[i] = i as u8;
        i += 1;
    }
    bytes
};

/// # Safety
/// VBMI2; 64 bytes may be written.
#[inline(always)]
unsafe fn list_bytes_vbmi2(bits: u64, base: u8, to: *mut u8) {
    // SAFETY: the caller has VBMI2 and 64 bytes. Compressed over itself for the reason that
    // `spread16` gives; to memory it would be microcoded.
    unsafe {
        let all = _mm512_loadu_si512(BYTES.as_ptr().cast());
        let all = _mm512_add_epi8(all, _mm512_set1_epi8(base as i8));
        _mm512_storeu_si512(to.cast(), _mm512_mask_compress_epi8(all, bits, all));
    }
}

/// # Safety
/// VBMI2; 64 numbers may be written.
#[inline(always)]
unsafe fn list_shorts_vbmi2(bits: u64, base: u16, to: *mut u16) {
    // SAFETY: as above. Bytes are made and then widened, for half the compressions.
    unsafe {
        let all = _mm512_loadu_si512(BYTES.as_ptr().cast());
        let places = _mm512_mask_compress_epi8(all, bits, all);
        let base = _mm512_set1_epi16(base as i16);
        let low = _mm512_cvtepu8_epi16(_mm512_castsi512_si256(places));
        let high = _mm512_cvtepu8_epi16(_mm512_extracti64x4_epi64::<1>(places));
        _mm512_storeu_si512(to.cast(), _mm512_add_epi16(low, base));
        _mm512_storeu_si512(to.add(32).cast(), _mm512_add_epi16(high, base));
    }
}
