//! Group-quantised tiles: layout, encode, decode, multiply.
//!
//! A matrix is cut into tiles of 16 rows (the last one shorter, not padded). Codes and
//! scales lie apart, each tile by tile, so that either is read and packed by itself. A
//! tile of `R` rows holds, for each group of columns:
//!
//! * in the scales: `R` scales (f16) and, when asymmetric, `R` zeros (f16); neither when
//!   the one group is the whole tensor;
//! * in the codes: for each block of up to 32 columns, the codes as bit planes. Codes are
//!   offset-binary, `u = c + 2^(bits-1)`; planes take the low bits of `u` first:
//!   8 → 8 · 7 → 4,2,1 · 6 → 4,2 · 5 → 4,1 · 4 → 4 · 3 → 2,1 · 2 → 2.
//!   A plane of `p` bits of a block of `c` columns is `n = ceil(c / (32/p))` lines
//!   of `R × 4` bytes. Byte `k` of row `r` in line `j` holds the fields of columns
//!   `4j + k + 4n·i` for `i = 0 … 8/p-1`, lowest bits first. Columns past `c` hold
//!   the code of zero.
//!
//! A full line is 64 bytes: 16 rows × 4 columns. One AVX-512 register reads it
//! whole, lane = row, so a product needs no horizontal sum; AVX2 reads half a line.
//! For 4 bits the high nibbles are the line 16 columns on.
//!
//! `w = multiplier · (s·c + z)`. The multiplier is a power of two that puts the
//! scales into the middle of the normal range of f16 (with weights below 1e-6 they
//! would otherwise be subnormal), or the scale itself when the group is the tensor.

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::autovec;

/// Rows of a tile.
pub const TILE_ROWS: usize = 16;
/// Columns of a block.
pub const BLOCK_COLS: usize = 32;

/// Geometry of a quantised matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Bits of a code, 2 to 8.
    pub bits: u32,
    /// Columns of the matrix.
    pub cols: usize,
    /// Columns that share a scale: a multiple of 32, or all of them.
    pub group: usize,
    /// Whether groups carry scales (not when the tensor has one).
    pub scales: bool,
    /// Whether groups carry zeros.
    pub zeros: bool,
}

/// Widths of the bit planes, low bits first.
pub const fn planes(bits: u32) -> &'static [u32] {
    match bits {
        2 => &[2],
        3 => &[2, 1],
        4 => &[4],
        5 => &[4, 1],
        6 => &[4, 2],
        7 => &[4, 2, 1],
        _ => &[8],
    }
}

/// Bytes that one row takes in a plane of `p` bits of a block of `c` columns.
const fn plane_row_bytes(p: usize, c: usize) -> usize {
    4 * c.div_ceil(32 / p)
}

impl Layout {
    /// Bytes that one row takes in a block of `c` columns.
    fn block_row_bytes(&self, c: usize) -> usize {
        planes(self.bits)
            .iter()
            .map(|p| plane_row_bytes(*p as usize, c))
            .sum()
    }

    /// Bytes of scales and zeros of one row of a group.
    fn head_row_bytes(&self) -> usize {
        2 * (usize::from(self.scales) + usize::from(self.zeros && self.scales))
    }

    /// Bytes of codes of one row of a group of `c` columns.
    fn group_row_bytes(&self, c: usize) -> usize {
        let tail = c % BLOCK_COLS;
        let full = (c / BLOCK_COLS) * self.block_row_bytes(BLOCK_COLS);
        let tail = if tail > 0 {
            self.block_row_bytes(tail)
        } else {
            0
        };
        full + tail
    }

    /// Groups of columns.
    pub fn groups(&self) -> usize {
        self.cols.div_ceil(self.group)
    }

    /// Bytes that the codes of one row take.
    pub fn code_row_bytes(&self) -> usize {
        if self.cols == 0 {
            return 0;
        }
        let tail = self.cols % self.group;
        let full = (self.cols / self.group) * self.group_row_bytes(self.group);
        full + if tail > 0 {
            self.group_row_bytes(tail)
        } else {
            0
        }
    }

    /// Bytes that the scales and zeros of one row take.
    pub fn scale_row_bytes(&self) -> usize {
        self.groups() * self.head_row_bytes()
    }

    /// The code range, `-half ..= half - 1`.
    pub fn half(&self) -> i32 {
        1 << (self.bits - 1)
    }
}

/// How scales are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Search {
    /// From the extreme value: signed (the extreme lands on the extra negative code)
    /// when symmetric, from minimum and maximum when asymmetric.
    AbsMax,
    /// Least squares over a grid of starts, `algorithms` of the field call it MSE
    /// search: for each start the codes are fixed and the best scale is
    /// `Σwq / Σq²`, which leaves `Σw² − (Σwq)²/Σq²`.
    LeastSquares,
}

/// What holds for every group of a tensor.
#[derive(Clone, Copy, Debug)]
pub struct Quantizer {
    /// Geometry.
    pub layout: Layout,
    /// Scale search.
    pub search: Search,
    /// See the [module](self); for `!layout.scales` the scale of the tensor.
    pub multiplier: f32,
    /// For `!layout.scales`: the zero of the tensor, in units of the multiplier.
    pub offset: f32,
}

/// One value of each row of a tile. Encoder and multiplier work on rows side by side:
/// lane = row, so that no sum crosses lanes and every instruction set adds in the same
/// order and stores the same bytes.
type Rows = [f32; TILE_ROWS];

#[inline(always)]
fn each(f: impl Fn(usize) -> f32) -> Rows {
    let mut out = [0.0; TILE_ROWS];
    for (r, out) in out.iter_mut().enumerate() {
        *out = f(r);
    }
    out
}

/// 1.5 · 2^23: adding it rounds |v| < 2^22 to the nearest integer, ties to even, and
/// leaves that integer in the low bits. Every instruction set vectorises it alike.
const MAGIC: f32 = 12_582_912.0;

#[inline(always)]
fn clamp(v: f32, low: f32, high: f32) -> f32 {
    // Comparisons, because the NaN rules of `max` and `min` cost instructions and there
    // is no NaN here.
    let v = if v < low { low } else { v };
    if v > high { high } else { v }
}

#[inline(always)]
fn clamp_round(v: f32, low: f32, high: f32) -> f32 {
    // Clamping first keeps the rounding in its range.
    (clamp(v, low, high) + MAGIC) - MAGIC
}

#[inline(always)]
fn reciprocal(s: f32) -> f32 {
    let r = 1.0 / s;
    // A scale of zero (an all-zero group) or one too small to invert gives codes of 0.
    if r.abs() <= f32::MAX { r } else { 0.0 }
}

/// The offset-binary code nearest to `w`, `inv` being the reciprocal of the scale.
#[inline(always)]
fn nearest(w: f32, inv: f32, z: f32, bits: u32) -> u32 {
    let half = (1u32 << (bits - 1)) as f32;
    let v = clamp((w - z) * inv, -half, half - 1.0) + MAGIC;
    // The integer in the low bits, made offset-binary.
    v.to_bits()
        .wrapping_sub(MAGIC.to_bits())
        .wrapping_add(1 << (bits - 1))
}

/// The values that codes of one group of a row stand for, for an encoder that chooses its
/// codes itself; in units of [`Quantizer::unit`].
#[derive(Clone, Copy, Debug)]
pub struct Grid {
    scale: f32,
    inverse: f32,
    zero: f32,
    bits: u32,
}

impl Grid {
    /// The nearest code, as [`KernelSet::quant_encode`](super::KernelSet::quant_encode)
    /// rounds.
    #[inline(always)]
    pub fn code(&self, w: f32) -> u8 {
        nearest(w, self.inverse, self.zero, self.bits) as u8
    }

    /// The value of a code.
    #[inline(always)]
    pub fn value(&self, code: u8) -> f32 {
        (i32::from(code) - (1 << (self.bits - 1))) as f32 * self.scale + self.zero
    }
}

impl Quantizer {
    /// What weights are multiplied by before they are rounded: groups with scales are
    /// encoded in units of the multiplier. That is a power of two, so no code changes by
    /// it, and sums of squares of very large or small weights stay in range.
    pub fn unit(&self) -> f32 {
        self.units().0
    }

    /// The unit, and the tensor's scale and zero where groups have none.
    #[inline(always)]
    fn units(&self) -> (f32, f32, f32) {
        if self.layout.scales {
            (1.0 / self.multiplier, 0.0, 0.0)
        } else {
            (1.0, self.multiplier, self.offset * self.multiplier)
        }
    }

    /// The grid of group `group` of row `row` in the scales of a tile of `rows` rows.
    pub fn grid(&self, scales: &[u8], rows: usize, group: usize, row: usize) -> Grid {
        let layout = &self.layout;
        let (_, mut scale, mut zero) = self.units();
        if layout.scales {
            let bytes = layout.head_row_bytes() * rows;
            let head = &scales[group * bytes..(group + 1) * bytes];
            scale = read_f16(head, row);
            zero = match layout.zeros {
                true => read_f16(head, rows + row),
                false => 0.0,
            };
        }
        Grid {
            scale,
            inverse: reciprocal(scale),
            zero,
            bits: layout.bits,
        }
    }
}

/// Calls `f` with the bits as a constant, so that the loops over planes unroll.
macro_rules! for_bits {
    ($bits:expr, $f:ident, $($arg:expr),*) => {
        match $bits {
            2 => $f::<2>($($arg),*),
            3 => $f::<3>($($arg),*),
            4 => $f::<4>($($arg),*),
            5 => $f::<5>($($arg),*),
            6 => $f::<6>($($arg),*),
            7 => $f::<7>($($arg),*),
            _ => $f::<8>($($arg),*),
        }
    };
}

/// Lays codes, `u8[rows, cols]`, out as a tile: the encoder's last step alone.
pub fn store_codes(layout: &Layout, codes: &[u8], rows: usize, tile: &mut [u8]) {
    for_bits!(layout.bits, store_bits, layout, codes, rows, tile)
}

fn store_bits<const BITS: u32>(layout: &Layout, codes: &[u8], rows: usize, tile: &mut [u8]) {
    assert!(codes.len() == rows * layout.cols && rows <= TILE_ROWS);
    assert!(tile.len() == rows * layout.code_row_bytes());
    let (mut at, mut start) = (0, 0);
    while start < layout.cols {
        // Blocks do not cross groups.
        let group_end = layout.cols.min((start / layout.group + 1) * layout.group);
        let c = BLOCK_COLS.min(group_end - start);
        let mut u = [[1u32 << (BITS - 1); TILE_ROWS]; 64];
        for (i, u) in u[..c].iter_mut().enumerate() {
            for r in 0..rows {
                u[r] = u32::from(codes[r * layout.cols + start + i]);
            }
        }
        let bytes = layout.block_row_bytes(c) * rows;
        store_block::<BITS>(&u, c, rows, &mut tile[at..at + bytes]);
        at += bytes;
        start += c;
    }
}

/// Least and largest value of each row, and no less than zero wide.
#[inline(always)]
fn extent(w: &[Rows]) -> (Rows, Rows) {
    let (mut lo, mut hi) = (w[0], w[0]);
    for w in w {
        for r in 0..TILE_ROWS {
            lo[r] = if w[r] < lo[r] { w[r] } else { lo[r] };
            hi[r] = if w[r] > hi[r] { w[r] } else { hi[r] };
        }
    }
    (lo, hi)
}

/// Best symmetric scales by least squares, from the starts `s0`; errors of column i count
/// `h[i]` times if `WEIGHTED`.
#[inline(always)]
fn search_symmetric<const WEIGHTED: bool>(w: &[Rows], h: &[f32], half: f32, s0: &Rows) -> Rows {
    // 24 starts from 0.35 to 1.1 of the signed-max scale, both signs, as the field's
    // encoders do; measured on Gaussian weights a finer grid gains < 0.02 dB. The start
    // itself is tried first, so that the search never loses.
    const STARTS: usize = 24;
    let (mut best_gain, mut best) = ([f32::NEG_INFINITY; TILE_ROWS], *s0);
    for i in 0..=STARTS {
        let k = match i {
            0 => 1.0,
            i => 0.35 + (i - 1) as f32 * (0.75 / (STARTS - 1) as f32),
        };
        let inv = each(|r| reciprocal(k * s0[r]));
        // Codes of both signs from one rounding: those of −k are `−clamp(t, 1−half, half)`.
        // |t| ≤ half / 0.35, far inside the rounding's range.
        let (mut wq, mut qq) = ([[0.0f32; TILE_ROWS]; 2], [[0.0f32; TILE_ROWS]; 2]);
        for (col, w) in w.iter().enumerate() {
            for r in 0..TILE_ROWS {
                let t = (w[r] * inv[r] + MAGIC) - MAGIC;
                let q = [clamp(t, -half, half - 1.0), clamp(t, 1.0 - half, half)];
                for i in 0..2 {
                    let hq = if WEIGHTED { h[col] * q[i] } else { q[i] };
                    wq[i][r] += w[r] * hq;
                    qq[i][r] += q[i] * hq;
                }
            }
        }
        for i in 0..2 {
            for r in 0..TILE_ROWS {
                // Σw² is the same for every start: the largest (Σwq)²/Σq² leaves least.
                let some = qq[i][r] > 0.0;
                let s = if some { wq[i][r] / qq[i][r] } else { s0[r] };
                let gain = if some { wq[i][r] * s } else { 0.0 };
                let better = gain > best_gain[r];
                best_gain[r] = if better { gain } else { best_gain[r] };
                let s = if i == 0 { s } else { -s };
                best[r] = if better { s } else { best[r] };
            }
        }
    }
    best
}

/// Scales and minima of asymmetric groups: from their range, or refined by least squares;
/// errors of column i count `h[i]` times if `WEIGHTED`.
#[inline(always)]
fn search_asymmetric<const WEIGHTED: bool>(
    w: &[Rows],
    h: &[f32],
    levels: f32,
    search: Search,
) -> (Rows, Rows) {
    let (lo, hi) = extent(w);
    let s0 = each(|r| (hi[r] - lo[r]) / levels);
    if search == Search::AbsMax {
        return (s0, lo);
    }
    let weight = |col: usize| if WEIGHTED { h[col] } else { 1.0 };
    let n = if WEIGHTED {
        h[..w.len()].iter().sum()
    } else {
        w.len() as f32
    };
    let mut w_sum = [0.0f32; TILE_ROWS];
    for (col, w) in w.iter().enumerate() {
        let h = weight(col);
        for r in 0..TILE_ROWS {
            w_sum[r] += h * w[r];
        }
    }
    let (mut best_error, mut best_s, mut best_m) = ([f32::INFINITY; TILE_ROWS], s0, lo);
    // Starts: the full range and seven shrunken about its middle; each gets three
    // alternations of codes and two-parameter least squares.
    for start in 0..8 {
        let k = 1.0 - start as f32 * 0.06;
        let mut s = each(|r| s0[r] * k);
        let mut m = each(|r| 0.5 * (lo[r] + hi[r]) - 0.5 * levels * s0[r] * k);
        for _ in 0..4 {
            let inv = each(|r| reciprocal(s[r]));
            let mut q1 = [0.0f32; TILE_ROWS];
            let mut q2 = [0.0f32; TILE_ROWS];
            let mut wq = [0.0f32; TILE_ROWS];
            let mut error = [0.0f32; TILE_ROWS];
            for (col, w) in w.iter().enumerate() {
                let h = weight(col);
                for r in 0..TILE_ROWS {
                    let q = clamp_round((w[r] - m[r]) * inv[r], 0.0, levels);
                    let e = w[r] - (m[r] + s[r] * q);
                    let hq = h * q;
                    q1[r] += hq;
                    q2[r] += q * hq;
                    wq[r] += w[r] * hq;
                    error[r] += h * e * e;
                }
            }
            for r in 0..TILE_ROWS {
                let better = error[r] < best_error[r];
                best_error[r] = if better { error[r] } else { best_error[r] };
                best_s[r] = if better { s[r] } else { best_s[r] };
                best_m[r] = if better { m[r] } else { best_m[r] };
                // All codes alike: nothing to fit, and the next round changes nothing.
                let det = n * q2[r] - q1[r] * q1[r];
                let fit = (n * wq[r] - q1[r] * w_sum[r]) / det;
                s[r] = if det > 0.0 { fit } else { s[r] };
                m[r] = if det > 0.0 {
                    (w_sum[r] - fit * q1[r]) / n
                } else {
                    m[r]
                };
            }
        }
    }
    (best_s, best_m)
}

#[inline(always)]
fn to_f16(v: &Rows) -> [f16; TILE_ROWS] {
    let mut out = [f16::ZERO; TILE_ROWS];
    out.convert_from_f32_slice(v);
    out
}

/// Lays the codes of a block of `c` columns out in planes; `u` holds the code of zero in
/// the columns past `c`.
#[inline(always)]
fn store_block<const BITS: u32>(u: &[[u32; TILE_ROWS]; 64], c: usize, rows: usize, out: &mut [u8]) {
    let mut low = 0;
    let mut lines = out.chunks_exact_mut(4 * rows);
    for &p in planes(BITS) {
        let n = plane_row_bytes(p as usize, c);
        let mask = (1u32 << p) - 1;
        for j in 0..n / 4 {
            let mut line = [0u32; TILE_ROWS];
            for i in 0..(8 / p) as usize {
                for k in 0..4 {
                    let u = &u[i * n + 4 * j + k];
                    let shift = 8 * k as u32 + i as u32 * p;
                    for r in 0..TILE_ROWS {
                        line[r] |= ((u[r] >> low) & mask) << shift;
                    }
                }
            }
            let Some(out) = lines.next() else { return };
            for (out, line) in out.as_chunks_mut::<4>().0.iter_mut().zip(line) {
                *out = line.to_le_bytes();
            }
        }
        low += p;
    }
}

/// The codes of one row of a block of `c` columns.
#[inline(always)]
fn load_block(bits: u32, tile: &[u8], c: usize, rows: usize, row: usize) -> [u8; 64] {
    let mut codes = [0u8; 64];
    let (mut low, mut at) = (0, 0);
    for &p in planes(bits) {
        let n = plane_row_bytes(p as usize, c);
        let mask = ((1u32 << p) - 1) as u8;
        let mut packed = [0u8; 32];
        for j in 0..n / 4 {
            let from = at + (j * rows + row) * 4;
            packed[4 * j..4 * j + 4].copy_from_slice(&tile[from..from + 4]);
        }
        for i in 0..8 / p as usize {
            for t in 0..n {
                codes[i * n + t] |= ((packed[t] >> (i as u32 * p)) & mask) << low;
            }
        }
        at += n * rows;
        low += p;
    }
    codes
}

#[inline(always)]
fn encode_body(
    q: &Quantizer,
    w: &[f32],
    weights: &[f32],
    rows: usize,
    scales: &mut [u8],
    codes: &mut [u8],
) {
    for_bits!(
        q.layout.bits,
        encode_bits,
        q,
        w,
        weights,
        rows,
        scales,
        codes
    )
}

#[inline(always)]
fn encode_bits<const BITS: u32>(
    q: &Quantizer,
    w: &[f32],
    weights: &[f32],
    rows: usize,
    scales: &mut [u8],
    codes: &mut [u8],
) {
    let layout = &q.layout;
    assert!(w.len() == rows * layout.cols && rows <= TILE_ROWS);
    assert!(codes.len() == rows * layout.code_row_bytes());
    assert!(scales.len() == rows * layout.scale_row_bytes());
    assert!(weights.is_empty() || weights.len() == layout.cols);
    let half = (1 << (BITS - 1)) as f32;
    let (unit, tensor_s, tensor_z) = q.units();
    // The group turned: one entry a column, lanes past `rows` zero.
    let mut group = vec![[0.0f32; TILE_ROWS]; layout.group.min(layout.cols)];
    let (mut at, mut head_at, mut start) = (0, 0, 0);
    while start < layout.cols {
        let c = layout.group.min(layout.cols - start);
        for row in 0..rows {
            let from = row * layout.cols + start;
            for (g, w) in group.iter_mut().zip(&w[from..from + c]) {
                g[row] = *w * unit;
            }
        }
        let group = &group[..c];
        let h = match weights {
            [] => weights,
            all => &all[start..start + c],
        };
        let head = &mut scales[head_at..head_at + layout.head_row_bytes() * rows];
        head_at += head.len();
        let (s, z) = if !layout.scales {
            ([tensor_s; TILE_ROWS], [tensor_z; TILE_ROWS])
        } else if layout.zeros {
            let levels = 2.0 * half - 1.0;
            let (s, m) = if h.is_empty() {
                search_asymmetric::<false>(group, h, levels, q.search)
            } else {
                search_asymmetric::<true>(group, h, levels, q.search)
            };
            let s16 = to_f16(&s);
            let s = each(|r| from_f16(s16[r].to_bits()));
            // Codes are signed: the zero is the value of code 0, not of the lowest.
            let z16 = to_f16(&each(|r| m[r] + half * s[r]));
            let (s_out, z_out) = head.split_at_mut(2 * rows);
            s_out.copy_from_slice(bytemuck::cast_slice(&s16[..rows]));
            z_out.copy_from_slice(bytemuck::cast_slice(&z16[..rows]));
            (s, each(|r| from_f16(z16[r].to_bits())))
        } else {
            let (lo, hi) = extent(group);
            // The extreme value lands on the extra negative code; the negative one of a tie.
            let s0 = each(|r| if -lo[r] >= hi[r] { lo[r] } else { hi[r] } / -half);
            let s = match q.search {
                Search::AbsMax => s0,
                Search::LeastSquares if h.is_empty() => {
                    search_symmetric::<false>(group, h, half, &s0)
                }
                Search::LeastSquares => search_symmetric::<true>(group, h, half, &s0),
            };
            let s16 = to_f16(&s);
            head.copy_from_slice(bytemuck::cast_slice(&s16[..rows]));
            (each(|r| from_f16(s16[r].to_bits())), [0.0; TILE_ROWS])
        };
        let inv = each(|r| reciprocal(s[r]));
        let mut u = [[1u32 << (BITS - 1); TILE_ROWS]; 64];
        for block in group.chunks(BLOCK_COLS) {
            for (u, w) in u.iter_mut().zip(block) {
                for r in 0..TILE_ROWS {
                    u[r] = nearest(w[r], inv[r], z[r], BITS);
                }
            }
            let n = block.len();
            for u in &mut u[n..BLOCK_COLS] {
                *u = [1 << (BITS - 1); TILE_ROWS];
            }
            let bytes = layout.block_row_bytes(n) * rows;
            store_block::<BITS>(&u, n, rows, &mut codes[at..at + bytes]);
            at += bytes;
        }
        start += c;
    }
}

/// The value of an f16, without branches, so that sixteen are turned at once. Exact, and
/// the same on every instruction set.
#[inline(always)]
fn from_f16(bits: u16) -> f32 {
    let magnitude = u32::from(bits & 0x7fff) << 13;
    // 2^112 moves the exponent's bias from 15 to 127, subnormals included.
    let value = f32::from_bits(magnitude) * f32::from_bits((127 + 112) << 23);
    let special = if magnitude >= 0x0f80_0000 {
        0x7f80_0000
    } else {
        0
    };
    f32::from_bits(value.to_bits() | special | u32::from(bits & 0x8000) << 16)
}

#[inline(always)]
fn read_f16(bytes: &[u8], i: usize) -> f32 {
    from_f16(u16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]]))
}

/// Scale and zero of a row in a group's head, with the multiplier in them.
#[inline(always)]
fn head_values(q: &Quantizer, head: &[u8], rows: usize, row: usize) -> (f32, f32) {
    if !q.layout.scales {
        return (q.multiplier, q.offset * q.multiplier);
    }
    let s = read_f16(head, row) * q.multiplier;
    let z = if q.layout.zeros {
        read_f16(head, rows + row) * q.multiplier
    } else {
        0.0
    };
    (s, z)
}

/// All rows of a group's head at once; lanes past `rows` are zero.
#[inline(always)]
fn head_rows(q: &Quantizer, head: &[u8], rows: usize) -> (Rows, Rows) {
    if !q.layout.scales {
        return (
            [q.multiplier; TILE_ROWS],
            [q.offset * q.multiplier; TILE_ROWS],
        );
    }
    let s = head_row(&head[..2 * rows], q.multiplier);
    if q.layout.zeros {
        (s, head_row(&head[2 * rows..4 * rows], q.multiplier))
    } else {
        (s, [0.0; TILE_ROWS])
    }
}

/// Scales or zeros of all rows, with the multiplier in them. No closure: those are not
/// always inlined, and out of line they lose the instruction set.
#[inline(always)]
fn head_row(bytes: &[u8], multiplier: f32) -> Rows {
    let mut raw = [0u8; 2 * TILE_ROWS];
    match bytes.first_chunk() {
        // A copy of known length stays in a register.
        Some(full) => raw = *full,
        None => raw[..bytes.len()].copy_from_slice(bytes),
    }
    let bits: [u16; TILE_ROWS] = bytemuck::cast(raw);
    let mut out = [0.0; TILE_ROWS];
    for r in 0..TILE_ROWS {
        out[r] = from_f16(bits[r]) * multiplier;
    }
    out
}

#[inline(always)]
fn decode_body(q: &Quantizer, scales: &[u8], codes: &[u8], rows: usize, out: &mut [f32]) {
    for_bits!(q.layout.bits, decode_bits, q, scales, codes, rows, out)
}

#[inline(always)]
fn decode_bits<const BITS: u32>(
    q: &Quantizer,
    scales: &[u8],
    codes: &[u8],
    rows: usize,
    out: &mut [f32],
) {
    let layout = &q.layout;
    assert!(out.len() == rows * layout.cols && codes.len() == rows * layout.code_row_bytes());
    assert!(scales.len() == rows * layout.scale_row_bytes());
    let half = 1i32 << (BITS - 1);
    let head_bytes = layout.head_row_bytes() * rows;
    let (mut at, mut head_at, mut start) = (0, 0, 0);
    while start < layout.cols {
        let c = layout.group.min(layout.cols - start);
        let group_bytes = layout.group_row_bytes(c) * rows;
        let body = &codes[at..at + group_bytes];
        let head = &scales[head_at..head_at + head_bytes];
        head_at += head_bytes;
        for row in 0..rows {
            let (s, z) = head_values(q, head, rows, row);
            let to = row * layout.cols + start;
            let out = &mut out[to..to + c];
            let mut block_at = 0;
            let (full, tail) = out.as_chunks_mut::<BLOCK_COLS>();
            let bytes = layout.block_row_bytes(BLOCK_COLS) * rows;
            for out in full {
                let block = load_block(
                    BITS,
                    &body[block_at..block_at + bytes],
                    BLOCK_COLS,
                    rows,
                    row,
                );
                for i in 0..BLOCK_COLS {
                    out[i] = (i32::from(block[i]) - half) as f32 * s + z;
                }
                block_at += bytes;
            }
            if !tail.is_empty() {
                let block = load_block(BITS, &body[block_at..], tail.len(), rows, row);
                for (o, u) in tail.iter_mut().zip(block) {
                    *o = (i32::from(u) - half) as f32 * s + z;
                }
            }
        }
        at += group_bytes;
        start += c;
    }
}

/// Opens a block to `w[col][row] = c`, lane = row.
#[inline(always)]
fn expand_block<const BITS: u32>(
    body: &[u8],
    c: usize,
    rows: usize,
    w: &mut [[f32; TILE_ROWS]; 64],
) {
    let half = 1i32 << (BITS - 1);
    let line_bytes = 4 * rows;
    let mut line = [0u32; TILE_ROWS];
    let fetch = |line: &mut [u32; TILE_ROWS], at: usize| {
        let bytes = &body[at..at + line_bytes];
        let (words, _) = bytes.as_chunks::<4>();
        for (l, w) in line.iter_mut().zip(words) {
            *l = u32::from_le_bytes(*w);
        }
    };
    let mut u = [[0u32; TILE_ROWS]; 64];
    let (mut at, mut low) = (0, 0);
    for &p in planes(BITS) {
        let n = plane_row_bytes(p as usize, c);
        let mask = (1u32 << p) - 1;
        for j in 0..n / 4 {
            fetch(&mut line, at);
            at += line_bytes;
            for i in 0..(8 / p) as usize {
                for k in 0..4 {
                    let shift = 8 * k as u32 + i as u32 * p;
                    let out = &mut u[i * n + 4 * j + k];
                    for r in 0..TILE_ROWS {
                        out[r] |= ((line[r] >> shift) & mask) << low;
                    }
                }
            }
        }
        low += p;
    }
    for (w, u) in w.iter_mut().zip(&u).take(c) {
        for r in 0..TILE_ROWS {
            w[r] = (u[r] as i32 - half) as f32;
        }
    }
}

#[inline(always)]
fn multiply_add<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    // `mul_add` without the instruction is a library call.
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// `acc[b][r] += Σ w[col][r] · x[b][col]` over `c` columns, `NB` batch rows.
#[inline(always)]
fn multiply_block<const NB: usize, const FMA: bool>(
    w: &[[f32; TILE_ROWS]; 64],
    c: usize,
    x: &[&[f32]; NB],
    acc: &mut [[f32; TILE_ROWS]; NB],
) {
    // Locals, so that the sums stay in registers over the loop.
    let mut sums = *acc;
    let x: [&[f32]; NB] = std::array::from_fn(|b| &x[b][..c]);
    for (col, w) in w[..c].iter().enumerate() {
        for b in 0..NB {
            let v = x[b][col];
            for r in 0..TILE_ROWS {
                sums[b][r] = multiply_add::<FMA>(w[r], v, sums[b][r]);
            }
        }
    }
    *acc = sums;
}

/// One batch row: four sums, so that additions do not wait for each other.
#[inline(always)]
fn multiply_block_single<const FMA: bool>(
    w: &[[f32; TILE_ROWS]; 64],
    c: usize,
    x: &[f32],
    acc: &mut [f32; TILE_ROWS],
) {
    let mut sums = [[0.0f32; TILE_ROWS]; 4];
    let x = &x[..c];
    let (quads, rest) = w[..c].as_chunks::<4>();
    let (x_quads, x_rest) = x.as_chunks::<4>();
    for (w, x) in quads.iter().zip(x_quads) {
        for k in 0..4 {
            for r in 0..TILE_ROWS {
                sums[k][r] = multiply_add::<FMA>(w[k][r], x[k], sums[k][r]);
            }
        }
    }
    for (w, x) in rest.iter().zip(x_rest) {
        for r in 0..TILE_ROWS {
            sums[0][r] = multiply_add::<FMA>(w[r], *x, sums[0][r]);
        }
    }
    for r in 0..TILE_ROWS {
        acc[r] += (sums[0][r] + sums[1][r]) + (sums[2][r] + sums[3][r]);
    }
}

/// An opened block, on whole cache lines: stores and loads of a register never cross one.
/// Without this the rate hangs on where the stack happens to lie (measured: −30 to −50 %).
#[repr(align(64))]
struct Opened([Rows; 64]);

#[inline(always)]
fn matmul_tile<const BITS: u32, const NB: usize, const FMA: bool>(
    q: &Quantizer,
    scales: &[u8],
    codes: &[u8],
    rows: usize,
    x: &[&[f32]; NB],
    expand: impl Fn(&[u8], &mut [Rows; 64]),
    out: &mut [[f32; TILE_ROWS]],
) {
    let layout = &q.layout;
    let mut total = [[0.0f32; TILE_ROWS]; NB];
    let mut w = Opened([[0.0f32; TILE_ROWS]; 64]);
    let w = &mut w.0;
    let head_bytes = layout.head_row_bytes() * rows;
    let (mut at, mut head_at, mut start) = (0, 0, 0);
    while start < layout.cols {
        let c = layout.group.min(layout.cols - start);
        let head = &scales[head_at..head_at + head_bytes];
        head_at += head_bytes;
        // Read before the codes where the sums of several batch rows would wait for it.
        let (mut s, mut z) = ([0.0; TILE_ROWS], [0.0; TILE_ROWS]);
        if NB > 1 {
            (s, z) = head_rows(q, head, rows);
        }
        let mut acc = [[0.0f32; TILE_ROWS]; NB];
        let mut col = 0;
        while col < c {
            let n = BLOCK_COLS.min(c - col);
            let bytes = layout.block_row_bytes(n) * rows;
            let body = &codes[at..at + bytes];
            if n == BLOCK_COLS && rows == TILE_ROWS {
                expand(body, w);
            } else {
                expand_block::<BITS>(body, n, rows, w);
            }
            if NB == 1 {
                multiply_block_single::<FMA>(w, n, &x[0][start + col..], &mut acc[0]);
            } else {
                let x: [&[f32]; NB] = std::array::from_fn(|b| &x[b][start + col..]);
                multiply_block::<NB, FMA>(w, n, &x, &mut acc);
            }
            at += bytes;
            col += n;
        }
        if NB == 1 {
            (s, z) = head_rows(q, head, rows);
        }
        for b in 0..NB {
            for r in 0..TILE_ROWS {
                total[b][r] = multiply_add::<FMA>(s[r], acc[b][r], total[b][r]);
            }
        }
        if layout.zeros {
            for b in 0..NB {
                let sum: f32 = x[b][start..start + c].iter().sum();
                for r in 0..TILE_ROWS {
                    total[b][r] = multiply_add::<FMA>(z[r], sum, total[b][r]);
                }
            }
        }
        start += c;
    }
    out[..NB].copy_from_slice(&total);
}

/// Batch rows that go through an opened block together. With eight the compiler no longer
/// keeps their sums in registers, AVX-512's thirty-two included: measured at half the rate.
const BATCH_ROWS: usize = 4;

#[inline(always)]
fn matmul_bits<const BITS: u32, const FMA: bool>(
    q: &Quantizer,
    scales: &[u8],
    codes: &[u8],
    rows: usize,
    x: &[f32],
    expand: impl Fn(&[u8], &mut [Rows; 64]) + Copy,
    out: &mut [[f32; TILE_ROWS]],
) {
    let cols = q.layout.cols;
    assert!(codes.len() == rows * q.layout.code_row_bytes() && x.len() == out.len() * cols);
    assert!(scales.len() == rows * q.layout.scale_row_bytes());
    let row = |b: usize| &x[b * cols..(b + 1) * cols];
    let mut b = 0;
    while b + BATCH_ROWS <= out.len() {
        let x: [&[f32]; BATCH_ROWS] = std::array::from_fn(|i| row(b + i));
        matmul_tile::<BITS, BATCH_ROWS, FMA>(q, scales, codes, rows, &x, expand, &mut out[b..]);
        b += BATCH_ROWS;
    }
    while b < out.len() {
        matmul_tile::<BITS, 1, FMA>(q, scales, codes, rows, &[row(b)], expand, &mut out[b..]);
        b += 1;
    }
}

macro_rules! matmul_variant {
    ($(#[$attr:meta])* $name:ident, $fma:literal, $e8:expr, $e4:expr) => {
        $(#[$attr])*
        pub(crate) fn $name(
            q: &Quantizer,
            scales: &[u8],
            codes: &[u8],
            rows: usize,
            x: &[f32],
            out: &mut [[f32; TILE_ROWS]],
        ) {
            macro_rules! any {
                ($bits:literal) => {{
                    let expand = |b: &[u8], w: &mut [Rows; 64]| {
                        expand_block::<$bits>(b, BLOCK_COLS, TILE_ROWS, w)
                    };
                    matmul_bits::<$bits, $fma>(q, scales, codes, rows, x, expand, out)
                }};
            }
            match q.layout.bits {
                2 => any!(2),
                3 => any!(3),
                4 => matmul_bits::<4, $fma>(q, scales, codes, rows, x, $e4, out),
                5 => any!(5),
                6 => any!(6),
                7 => any!(7),
                _ => matmul_bits::<8, $fma>(q, scales, codes, rows, x, $e8, out),
            }
        }
    };
}

/// `y[b][r] = Σ x[b][col] · w[r][col]` for one tile. Full blocks of 8 and 4 bits are opened by hand.
pub(crate) mod matmul {
    use super::{BLOCK_COLS, Quantizer, Rows, TILE_ROWS, expand_block, matmul_bits};
    matmul_variant!(
        portable,
        false,
        |b: &[u8], w: &mut [Rows; 64]| expand_block::<8>(b, BLOCK_COLS, TILE_ROWS, w),
        |b: &[u8], w: &mut [Rows; 64]| expand_block::<4>(b, BLOCK_COLS, TILE_ROWS, w)
    );
    #[cfg(target_arch = "x86_64")]
    pub(crate) use x86::{avx2, avx512};

    #[cfg(target_arch = "x86_64")]
    mod x86 {
        use std::arch::x86_64::*;

        use super::*;

        matmul_variant!(
            #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,popcnt,lzcnt")]
            avx2,
            true,
            |b: &[u8], w: &mut [Rows; 64]| expand8_avx2(b, w),
            |b: &[u8], w: &mut [Rows; 64]| expand4_avx2(b, w)
        );
        matmul_variant!(
            #[target_feature(
                enable = "avx2,fma,f16c,bmi1,bmi2,popcnt,lzcnt,avx512f,avx512bw,avx512vl,avx512dq,avx512cd"
            )]
            avx512,
            true,
            |b: &[u8], w: &mut [Rows; 64]| expand8_avx512(b, w),
            |b: &[u8], w: &mut [Rows; 64]| expand4_avx512(b, w)
        );

        /// The sixteen values that a 4-bit code stands for, less the zero point.
        const NIBBLES: [f32; 16] = [
            -8.0, -7.0, -6.0, -5.0, -4.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0,
        ];

        /// One line is one register, lane = row: byte `k` of each lane, sign-extended, is
        /// column `4j + k`.
        #[inline]
        #[target_feature(enable = "avx512f")]
        fn expand8_avx512(body: &[u8], w: &mut [Rows; 64]) {
            let flip = _mm512_set1_epi32(0x8080_8080u32 as i32);
            let lines = body
                .as_chunks::<64>()
                .0
                .iter()
                .zip(w.as_chunks_mut::<4>().0);
            for (line, w) in lines {
                // SAFETY: `line` is 64 bytes.
                let v = unsafe { _mm512_loadu_si512(line.as_ptr().cast()) };
                // Offset-binary to two's complement.
                let v = _mm512_xor_si512(v, flip);
                let c = [
                    _mm512_srai_epi32::<24>(_mm512_slli_epi32::<24>(v)),
                    _mm512_srai_epi32::<24>(_mm512_slli_epi32::<16>(v)),
                    _mm512_srai_epi32::<24>(_mm512_slli_epi32::<8>(v)),
                    _mm512_srai_epi32::<24>(v),
                ];
                for (w, c) in w.iter_mut().zip(c) {
                    // SAFETY: `w` is 64 bytes.
                    unsafe { _mm512_storeu_ps(w.as_mut_ptr(), _mm512_cvtepi32_ps(c)) };
                }
            }
        }

        /// A permute by the low four bits of each lane turns codes into values; the bits
        /// above them are ignored, so a shift is all that selects a code.
        #[inline]
        #[target_feature(enable = "avx512f")]
        fn expand4_avx512(body: &[u8], w: &mut [Rows; 64]) {
            // SAFETY: the table is 64 bytes.
            let table = unsafe { _mm512_loadu_ps(NIBBLES.as_ptr()) };
            let (low, high) = w.split_at_mut(16);
            let pairs = low
                .as_chunks_mut::<4>()
                .0
                .iter_mut()
                .zip(high.as_chunks_mut::<4>().0);
            for (line, (low, high)) in body.as_chunks::<64>().0.iter().zip(pairs) {
                // SAFETY: `line` is 64 bytes.
                let v = unsafe { _mm512_loadu_si512(line.as_ptr().cast()) };
                macro_rules! column {
                    ($w:expr, $shift:literal) => {{
                        let v = _mm512_srli_epi32::<$shift>(v);
                        // SAFETY: a column is 64 bytes.
                        unsafe {
                            _mm512_storeu_ps($w.as_mut_ptr(), _mm512_permutexvar_ps(v, table))
                        };
                    }};
                }
                column!(low[0], 0);
                column!(high[0], 4);
                column!(low[1], 8);
                column!(high[1], 12);
                column!(low[2], 16);
                column!(high[2], 20);
                column!(low[3], 24);
                column!(high[3], 28);
            }
        }

        #[inline]
        #[target_feature(enable = "avx2")]
        fn expand8_avx2(body: &[u8], w: &mut [Rows; 64]) {
            let flip = _mm256_set1_epi32(0x8080_8080u32 as i32);
            let lines = body
                .as_chunks::<64>()
                .0
                .iter()
                .zip(w.as_chunks_mut::<4>().0);
            for (line, w) in lines {
                for (h, half) in line.as_chunks::<32>().0.iter().enumerate() {
                    // SAFETY: `half` is 32 bytes.
                    let v = unsafe { _mm256_loadu_si256(half.as_ptr().cast()) };
                    let v = _mm256_xor_si256(v, flip);
                    let c = [
                        _mm256_srai_epi32::<24>(_mm256_slli_epi32::<24>(v)),
                        _mm256_srai_epi32::<24>(_mm256_slli_epi32::<16>(v)),
                        _mm256_srai_epi32::<24>(_mm256_slli_epi32::<8>(v)),
                        _mm256_srai_epi32::<24>(v),
                    ];
                    for (w, c) in w.iter_mut().zip(c) {
                        let out = &mut w.as_chunks_mut::<8>().0[h];
                        // SAFETY: `out` is 32 bytes.
                        unsafe { _mm256_storeu_ps(out.as_mut_ptr(), _mm256_cvtepi32_ps(c)) };
                    }
                }
            }
        }

        #[inline]
        #[target_feature(enable = "avx2")]
        fn expand4_avx2(body: &[u8], w: &mut [Rows; 64]) {
            let (mask, eight) = (_mm256_set1_epi32(15), _mm256_set1_epi32(8));
            let (low, high) = w.split_at_mut(16);
            let pairs = low
                .as_chunks_mut::<4>()
                .0
                .iter_mut()
                .zip(high.as_chunks_mut::<4>().0);
            for (line, (low, high)) in body.as_chunks::<64>().0.iter().zip(pairs) {
                for (h, half) in line.as_chunks::<32>().0.iter().enumerate() {
                    // SAFETY: `half` is 32 bytes.
                    let v = unsafe { _mm256_loadu_si256(half.as_ptr().cast()) };
                    macro_rules! column {
                        ($w:expr, $shift:literal) => {{
                            let c = _mm256_and_si256(_mm256_srli_epi32::<$shift>(v), mask);
                            let c = _mm256_cvtepi32_ps(_mm256_sub_epi32(c, eight));
                            let out = &mut $w.as_chunks_mut::<8>().0[h];
                            // SAFETY: `out` is 32 bytes.
                            unsafe { _mm256_storeu_ps(out.as_mut_ptr(), c) };
                        }};
                    }
                    column!(low[0], 0);
                    column!(high[0], 4);
                    column!(low[1], 8);
                    column!(high[1], 12);
                    column!(low[2], 16);
                    column!(high[2], 20);
                    column!(low[3], 24);
                    column!(high[3], 28);
                }
            }
        }
    }
}

autovec! {
    /// Encodes one tile of `rows` rows of `w` (row-major, all columns). `weights`: how much
    /// errors of each column count in a least-squares search, or empty.
    encode = encode_body; fn(q: &Quantizer, w: &[f32], weights: &[f32], rows: usize, scales: &mut [u8], codes: &mut [u8])
}
autovec! {
    /// Decodes one tile to row-major f32.
    decode = decode_body; fn(q: &Quantizer, scales: &[u8], codes: &[u8], rows: usize, out: &mut [f32])
}

/// Least and largest value, or the index of the first value that is not finite.
#[inline(always)]
fn min_max_body(w: &[f32]) -> Result<(f32, f32), usize> {
    const LANES: usize = 16;
    let (mut lo, mut hi) = ([f32::INFINITY; LANES], [f32::NEG_INFINITY; LANES]);
    // `v · 0` is 0 for finite values and NaN for all others.
    let mut odd = [0.0f32; LANES];
    let (chunks, rest) = w.as_chunks::<LANES>();
    for c in chunks {
        for i in 0..LANES {
            lo[i] = if c[i] < lo[i] { c[i] } else { lo[i] };
            hi[i] = if c[i] > hi[i] { c[i] } else { hi[i] };
            odd[i] += c[i] * 0.0;
        }
    }
    let (mut min, mut max, mut sum) = (f32::INFINITY, f32::NEG_INFINITY, 0.0);
    for i in 0..LANES {
        (min, max, sum) = (min.min(lo[i]), max.max(hi[i]), sum + odd[i]);
    }
    for v in rest {
        (min, max, sum) = (min.min(*v), max.max(*v), sum + v * 0.0);
    }
    if sum == 0.0 {
        return Ok((min, max));
    }
    Err(w.iter().position(|v| !v.is_finite()).unwrap_or(0))
}

autovec! {
    /// Least and largest value, or the index of the first value that is not finite.
    min_max = min_max_body; fn(w: &[f32]) -> Result<(f32, f32), usize>
}
