//! Group-quantised tiles: layout, encode, decode. Their products: [`dot`](super::dot).
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

pub(super) mod transposed;

pub use transposed::RUN_ROWS;

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
pub(super) const MAGIC: f32 = 12_582_912.0;

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

    /// The scales and zeros of a tile of `rows` rows as those of a full one, in which the
    /// rows that are not there are zero.
    pub fn pad_heads(&self, scales: &[u8], rows: usize, out: &mut Vec<u8>) {
        out.clear();
        for values in scales.chunks_exact(2 * rows) {
            let end = out.len() + 2 * TILE_ROWS;
            out.extend_from_slice(values);
            out.resize(end, 0);
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
pub(super) fn from_f16(bits: u16) -> f32 {
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

/// Opens the blocks of a tile of `rows` rows from block `from` on to lines of 16 rows × 4
/// columns, a code a byte; see [`KernelSet::quant_open`](super::KernelSet::quant_open).
#[inline(always)]
fn open_body(layout: &Layout, codes: &[u8], rows: usize, from: usize, lines: &mut [u8]) {
    for_bits!(layout.bits, open_bits, layout, codes, rows, from, lines)
}

#[inline(always)]
fn open_bits<const BITS: u32>(
    layout: &Layout,
    codes: &[u8],
    rows: usize,
    from: usize,
    lines: &mut [u8],
) {
    assert!(codes.len() == rows * layout.code_row_bytes() && rows <= TILE_ROWS);
    let blocks = layout.cols.div_ceil(BLOCK_COLS);
    assert!(lines.len() == (blocks - from) * BLOCK_COLS * TILE_ROWS);
    // Only the last block is shorter: groups are multiples of blocks, or one.
    let full = layout.block_row_bytes(BLOCK_COLS) * rows;
    lines.fill(1 << (BITS - 1));
    for (i, lines) in lines.chunks_exact_mut(BLOCK_COLS * TILE_ROWS).enumerate() {
        let block = from + i;
        let c = BLOCK_COLS.min(layout.cols - block * BLOCK_COLS);
        let body = &codes[block * full..];
        let body = &body[..body.len().min(full)];
        for row in 0..rows {
            let row_codes = load_block(BITS, body, c, rows, row);
            for (col, code) in row_codes[..c].iter().enumerate() {
                lines[(col / 4 * TILE_ROWS + row) * 4 + col % 4] = *code;
            }
        }
    }
}

autovec! {
    /// Opens blocks of a tile to lines of bytes.
    open = open_body; fn(layout: &Layout, codes: &[u8], rows: usize, from: usize, lines: &mut [u8])
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
