//! Group-quantised tiles: layout, encode, decode, multiply.
//!
//! A matrix is cut into tiles of 16 rows (the last one shorter, not padded). In a
//! tile of `R` rows, for each group of columns:
//!
//! 1. `R` scales (f16) and, when asymmetric, `R` zeros (f16); neither when the one
//!    group is the whole tensor;
//! 2. for each block of up to 32 columns, the codes as bit planes. Codes are
//!    offset-binary, `u = c + 2^(bits-1)`; planes take the low bits of `u` first:
//!    8 → 8 · 7 → 4,2,1 · 6 → 4,2 · 5 → 4,1 · 4 → 4 · 3 → 2,1 · 2 → 2.
//!    A plane of `p` bits of a block of `c` columns is `n = ceil(c / (32/p))` lines
//!    of `R × 4` bytes. Byte `k` of row `r` in line `j` holds the fields of columns
//!    `4j + k + 4n·i` for `i = 0 … 8/p-1`, lowest bits first. Columns past `c` hold
//!    the code of zero.
//!
//! A full line is 64 bytes: 16 rows × 4 columns. One AVX-512 register reads it
//! whole, lane = row, so a product needs no horizontal sum; AVX2 reads half a line.
//! For 4 bits the high nibbles are the line 16 columns on.
//!
//! `w = multiplier · (s·c + z)`. The multiplier is a power of two that puts the
//! scales into the middle of the normal range of f16 (with weights below 1e-6 they
//! would otherwise be subnormal), or the scale itself when the group is the tensor.

use half::f16;

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

    fn group_row_bytes(&self, c: usize) -> usize {
        let tail = c % BLOCK_COLS;
        let full = (c / BLOCK_COLS) * self.block_row_bytes(BLOCK_COLS);
        let tail = if tail > 0 {
            self.block_row_bytes(tail)
        } else {
            0
        };
        self.head_row_bytes() + full + tail
    }

    /// Bytes that one row takes.
    pub fn row_bytes(&self) -> usize {
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

    /// Groups of a row.
    pub fn groups(&self) -> usize {
        self.cols.div_ceil(self.group.max(1))
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

/// Lanes of every sum in the encoder: fixed, so that each instruction set adds in the
/// same order and stores the same bytes.
const LANES: usize = 16;

#[inline(always)]
fn lane_sum(acc: [f32; LANES]) -> f32 {
    let mut a = acc;
    let mut n = LANES / 2;
    while n > 0 {
        for i in 0..n {
            a[i] += a[i + n];
        }
        n /= 2;
    }
    a[0]
}

/// Round to nearest, ties to even, for |v| < 2^22, in two additions that every
/// instruction set vectorises alike.
#[inline(always)]
fn round(v: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.0; // 1.5 · 2^23
    (v + MAGIC) - MAGIC
}

#[inline(always)]
fn clamp_round(v: f32, low: f32, high: f32) -> f32 {
    // Clamping first keeps `round` in its range. `max`/`min` as comparisons: the
    // library functions' NaN rules cost instructions, and there is no NaN here.
    let v = if v < low { low } else { v };
    let v = if v > high { high } else { v };
    round(v)
}

/// The extreme value (largest magnitude, with its sign; the negative one of a tie).
#[inline(always)]
fn extreme(w: &[f32]) -> f32 {
    let (mut lo, mut hi) = ([0.0f32; LANES], [0.0f32; LANES]);
    let (chunks, _) = w.as_chunks::<LANES>();
    for c in chunks {
        for i in 0..LANES {
            lo[i] = if c[i] < lo[i] { c[i] } else { lo[i] };
            hi[i] = if c[i] > hi[i] { c[i] } else { hi[i] };
        }
    }
    let lo = lo.iter().fold(0.0f32, |a, b| a.min(*b));
    let hi = hi.iter().fold(0.0f32, |a, b| a.max(*b));
    if -lo >= hi { lo } else { hi }
}

#[inline(always)]
fn reciprocal(s: f32) -> f32 {
    let r = 1.0 / s;
    // A scale of zero (an all-zero group) or one too small to invert gives codes of 0.
    if r.is_finite() { r } else { 0.0 }
}

/// Best symmetric scale of a group by least squares; `w` is padded with zeros to a
/// multiple of [`LANES`].
#[inline(always)]
fn search_symmetric(w: &[f32], half: f32, s0: f32) -> f32 {
    // 24 starts from 0.35 to 1.1 of the signed-max scale, both signs, as the field's
    // encoders do; measured on Gaussian weights a finer grid gains < 0.02 dB.
    const STARTS: usize = 24;
    let (chunks, _) = w.as_chunks::<LANES>();
    let (mut best_gain, mut best) = (f32::NEG_INFINITY, s0);
    for i in 0..=2 * STARTS {
        // The last candidate is the start itself, so that the search never loses.
        let k = match i {
            n if n == 2 * STARTS => 1.0,
            n => {
                let k = 0.35 + (n / 2) as f32 * (0.75 / (STARTS - 1) as f32);
                if n % 2 == 0 { k } else { -k }
            }
        };
        let inv = reciprocal(k * s0);
        let (mut wq, mut qq) = ([0.0f32; LANES], [0.0f32; LANES]);
        for c in chunks {
            for i in 0..LANES {
                let q = clamp_round(c[i] * inv, -half, half - 1.0);
                wq[i] += c[i] * q;
                qq[i] += q * q;
            }
        }
        let (wq, qq) = (lane_sum(wq), lane_sum(qq));
        // Σw² is the same for every start: the largest (Σwq)²/Σq² leaves least.
        let gain = if qq > 0.0 { wq * wq / qq } else { 0.0 };
        if gain > best_gain {
            best_gain = gain;
            best = if qq > 0.0 { wq / qq } else { s0 };
        }
    }
    best
}

/// Scale and minimum of an asymmetric group from its range, refined by least squares.
/// `w` is the group padded to a multiple of [`LANES`]; only `n` values count.
#[inline(always)]
fn search_asymmetric(w: &[f32], n: usize, levels: f32, search: Search) -> (f32, f32) {
    let (lo, hi) = w[..n]
        .iter()
        .fold((f32::INFINITY, f32::NEG_INFINITY), |(a, b), v| {
            (a.min(*v), b.max(*v))
        });
    let s0 = (hi - lo) / levels;
    if search == Search::AbsMax || s0 <= 0.0 || !s0.is_finite() {
        return (s0, lo);
    }
    let middle = 0.5 * (lo + hi);
    let mut best = (f32::INFINITY, s0, lo);
    // Starts: the full range and seven shrunken about its middle; each gets three
    // alternations of codes and two-parameter least squares.
    for start in 0..8 {
        let k = 1.0 - start as f32 * 0.06;
        let (mut s, mut m) = (s0 * k, middle - 0.5 * levels * s0 * k);
        for _ in 0..4 {
            let inv = reciprocal(s);
            let mut q_sum = [0.0f32; LANES];
            let mut qq_sum = [0.0f32; LANES];
            let mut wq_sum = [0.0f32; LANES];
            let mut w_sum = [0.0f32; LANES];
            let mut e_sum = [0.0f32; LANES];
            for (j, c) in w.chunks_exact(LANES).enumerate() {
                for i in 0..LANES {
                    let live = if j * LANES + i < n { 1.0 } else { 0.0 };
                    let q = live * clamp_round((c[i] - m) * inv, 0.0, levels);
                    let e = live * (c[i] - (m + s * q));
                    q_sum[i] += q;
                    qq_sum[i] += q * q;
                    wq_sum[i] += c[i] * q;
                    w_sum[i] += live * c[i];
                    e_sum[i] += e * e;
                }
            }
            let error = lane_sum(e_sum);
            if error < best.0 {
                best = (error, s, m);
            }
            let (q1, q2) = (lane_sum(q_sum), lane_sum(qq_sum));
            let (wq, w1) = (lane_sum(wq_sum), lane_sum(w_sum));
            let n = n as f32;
            let det = n * q2 - q1 * q1;
            if det <= 0.0 {
                break;
            }
            s = (n * wq - q1 * w1) / det;
            m = (w1 - s * q1) / n;
        }
    }
    (best.1, best.2)
}

/// Codes of one group as offset-binary bytes; `out` and `w` have the same padded length.
#[inline(always)]
fn codes(w: &[f32], s: f32, z: f32, half: f32, out: &mut [u8]) {
    let inv = reciprocal(s);
    for (o, v) in out.iter_mut().zip(w) {
        let q = clamp_round((*v - z) * inv, -half, half - 1.0);
        *o = (q + half) as i32 as u8;
    }
}

/// Puts the codes of one row of a block of `c` columns in their place in the planes.
#[inline(always)]
fn store_block(bits: u32, codes: &[u8; 64], c: usize, rows: usize, row: usize, out: &mut [u8]) {
    let (mut low, mut at) = (0, 0);
    for &p in planes(bits) {
        let n = plane_row_bytes(p as usize, c);
        let mask = ((1u32 << p) - 1) as u8;
        let mut packed = [0u8; 32];
        for i in 0..8 / p as usize {
            for t in 0..n {
                packed[t] |= ((codes[i * n + t] >> low) & mask) << (i as u32 * p);
            }
        }
        for j in 0..n / 4 {
            let to = at + (j * rows + row) * 4;
            out[to..to + 4].copy_from_slice(&packed[4 * j..4 * j + 4]);
        }
        at += n * rows;
        low += p;
    }
}

/// The inverse of [`store_block`].
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

#[inline(always)]
fn encode_body(q: &Quantizer, w: &[f32], rows: usize, tile: &mut [u8]) {
    for_bits!(q.layout.bits, encode_bits, q, w, rows, tile)
}

#[inline(always)]
fn encode_bits<const BITS: u32>(q: &Quantizer, w: &[f32], rows: usize, tile: &mut [u8]) {
    let layout = &q.layout;
    assert!(w.len() == rows * layout.cols && tile.len() == rows * layout.row_bytes());
    let half = (1 << (BITS - 1)) as f32;
    let padded = layout.group.min(layout.cols).next_multiple_of(BLOCK_COLS) + BLOCK_COLS;
    let mut values = vec![0.0f32; padded];
    let mut code = vec![0u8; padded];
    // Groups with scales are encoded in units of the multiplier: a power of two, so no
    // code changes by it, and sums of squares of very large or small weights stay in range.
    let unit = if layout.scales {
        1.0 / q.multiplier
    } else {
        1.0
    };
    let mut at = 0;
    let mut start = 0;
    while start < layout.cols {
        let c = layout.group.min(layout.cols - start);
        let group_bytes = layout.group_row_bytes(c) * rows;
        let (head, body) = tile[at..at + group_bytes].split_at_mut(layout.head_row_bytes() * rows);
        // Zero beyond the group: a whole block of lanes past its end.
        values[c..].fill(0.0);
        let lanes = c.next_multiple_of(LANES);
        for row in 0..rows {
            let from = row * layout.cols + start;
            for (v, w) in values[..c].iter_mut().zip(&w[from..from + c]) {
                *v = w * unit;
            }
            let group = &values[..lanes];
            let (s, z) = if !layout.scales {
                (q.multiplier, q.offset * q.multiplier)
            } else if layout.zeros {
                let (s, m) = search_asymmetric(group, c, 2.0 * half - 1.0, q.search);
                let s = f16::from_f32(s);
                // Codes are signed: the zero is the value of code 0, not of the lowest.
                let z = f16::from_f32(m + half * s.to_f32());
                head[2 * row..2 * row + 2].copy_from_slice(&s.to_le_bytes());
                let to = 2 * (rows + row);
                head[to..to + 2].copy_from_slice(&z.to_le_bytes());
                (s.to_f32(), z.to_f32())
            } else {
                let s0 = extreme(group) / -half;
                let s = match q.search {
                    Search::AbsMax => s0,
                    Search::LeastSquares if s0 == 0.0 => s0,
                    Search::LeastSquares => search_symmetric(group, half, s0),
                };
                let s = f16::from_f32(s);
                head[2 * row..2 * row + 2].copy_from_slice(&s.to_le_bytes());
                (s.to_f32(), 0.0)
            };
            codes(&values[..lanes], s, z, half, &mut code[..lanes]);
            code[c..].fill(half as u8);
            let mut block_at = 0;
            let mut col = 0;
            while col < c {
                let n = BLOCK_COLS.min(c - col);
                let mut block = [half as u8; 64];
                block[..BLOCK_COLS].copy_from_slice(&code[col..col + BLOCK_COLS]);
                if n < BLOCK_COLS {
                    block[n..].fill(half as u8);
                }
                let bytes = layout.block_row_bytes(n) * rows;
                let out = &mut body[block_at..block_at + bytes];
                if n == BLOCK_COLS {
                    store_block(BITS, &block, BLOCK_COLS, rows, row, out);
                } else {
                    store_block(BITS, &block, n, rows, row, out);
                }
                block_at += bytes;
                col += n;
            }
        }
        at += group_bytes;
        start += c;
    }
}

#[inline(always)]
fn read_f16(bytes: &[u8], i: usize) -> f32 {
    f16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]]).to_f32()
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
fn decode_body(q: &Quantizer, tile: &[u8], rows: usize, out: &mut [f32]) {
    for_bits!(q.layout.bits, decode_bits, q, tile, rows, out)
}

#[inline(always)]
fn decode_bits<const BITS: u32>(q: &Quantizer, tile: &[u8], rows: usize, out: &mut [f32]) {
    let layout = &q.layout;
    assert!(out.len() == rows * layout.cols && tile.len() == rows * layout.row_bytes());
    let half = 1i32 << (BITS - 1);
    let mut at = 0;
    let mut start = 0;
    while start < layout.cols {
        let c = layout.group.min(layout.cols - start);
        let group_bytes = layout.group_row_bytes(c) * rows;
        let (head, body) = tile[at..at + group_bytes].split_at(layout.head_row_bytes() * rows);
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
    let mut at = 0;
    let single = planes(BITS).len() == 1;
    if single {
        let p = BITS;
        let n = plane_row_bytes(p as usize, c);
        let mask = (1u32 << p) - 1;
        for j in 0..n / 4 {
            fetch(&mut line, at);
            at += line_bytes;
            for i in 0..(8 / p) as usize {
                for k in 0..4 {
                    let shift = 8 * k as u32 + i as u32 * p;
                    let out = &mut w[i * n + 4 * j + k];
                    for r in 0..TILE_ROWS {
                        out[r] = (((line[r] >> shift) & mask) as i32 - half) as f32;
                    }
                }
            }
        }
        return;
    }
    let mut u = [[0u32; TILE_ROWS]; 64];
    let mut low = 0;
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

#[inline(always)]
fn matmul_tile<const BITS: u32, const NB: usize, const FMA: bool>(
    q: &Quantizer,
    tile: &[u8],
    rows: usize,
    x: &[&[f32]; NB],
    out: &mut [[f32; TILE_ROWS]],
) {
    let layout = &q.layout;
    let mut total = [[0.0f32; TILE_ROWS]; NB];
    let mut w = [[0.0f32; TILE_ROWS]; 64];
    let (mut at, mut start) = (0, 0);
    while start < layout.cols {
        let c = layout.group.min(layout.cols - start);
        let head_bytes = layout.head_row_bytes() * rows;
        let head = &tile[at..at + head_bytes];
        at += head_bytes;
        let mut acc = [[0.0f32; TILE_ROWS]; NB];
        let mut col = 0;
        while col < c {
            let n = BLOCK_COLS.min(c - col);
            let bytes = layout.block_row_bytes(n) * rows;
            let body = &tile[at..at + bytes];
            if n == BLOCK_COLS && rows == TILE_ROWS {
                expand_block::<BITS>(body, BLOCK_COLS, TILE_ROWS, &mut w);
            } else {
                expand_block::<BITS>(body, n, rows, &mut w);
            }
            if NB == 1 {
                multiply_block_single::<FMA>(&w, n, &x[0][start + col..], &mut acc[0]);
            } else {
                let x: [&[f32]; NB] = std::array::from_fn(|b| &x[b][start + col..]);
                multiply_block::<NB, FMA>(&w, n, &x, &mut acc);
            }
            at += bytes;
            col += n;
        }
        let (mut s, mut z) = ([0.0f32; TILE_ROWS], [0.0f32; TILE_ROWS]);
        for r in 0..rows {
            (s[r], z[r]) = head_values(q, head, rows, r);
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

#[inline(always)]
fn matmul_bits<const BITS: u32, const NB: usize, const FMA: bool>(
    q: &Quantizer,
    tile: &[u8],
    rows: usize,
    x: &[f32],
    out: &mut [[f32; TILE_ROWS]],
) {
    let cols = q.layout.cols;
    assert!(tile.len() == rows * q.layout.row_bytes() && x.len() == out.len() * cols);
    let row = |b: usize| &x[b * cols..(b + 1) * cols];
    let mut b = 0;
    while b + NB <= out.len() {
        let x: [&[f32]; NB] = std::array::from_fn(|i| row(b + i));
        matmul_tile::<BITS, NB, FMA>(q, tile, rows, &x, &mut out[b..]);
        b += NB;
    }
    while b + 4 <= out.len() {
        let x: [&[f32]; 4] = std::array::from_fn(|i| row(b + i));
        matmul_tile::<BITS, 4, FMA>(q, tile, rows, &x, &mut out[b..]);
        b += 4;
    }
    while b < out.len() {
        matmul_tile::<BITS, 1, FMA>(q, tile, rows, &[row(b)], &mut out[b..]);
        b += 1;
    }
}

macro_rules! matmul_variant {
    ($(#[$attr:meta])* $name:ident, $nb:literal, $fma:literal) => {
        $(#[$attr])*
        pub(crate) fn $name(
            q: &Quantizer,
            tile: &[u8],
            rows: usize,
            x: &[f32],
            out: &mut [[f32; TILE_ROWS]],
        ) {
            match q.layout.bits {
                2 => matmul_bits::<2, $nb, $fma>(q, tile, rows, x, out),
                3 => matmul_bits::<3, $nb, $fma>(q, tile, rows, x, out),
                4 => matmul_bits::<4, $nb, $fma>(q, tile, rows, x, out),
                5 => matmul_bits::<5, $nb, $fma>(q, tile, rows, x, out),
                6 => matmul_bits::<6, $nb, $fma>(q, tile, rows, x, out),
                7 => matmul_bits::<7, $nb, $fma>(q, tile, rows, x, out),
                _ => matmul_bits::<8, $nb, $fma>(q, tile, rows, x, out),
            }
        }
    };
}

/// `y[b][r] = Σ x[b][col] · w[r][col]` for one tile; batch rows in steps of as many as
/// there are registers for their sums.
pub(crate) mod matmul {
    use super::{Quantizer, TILE_ROWS, matmul_bits};
    matmul_variant!(portable, 4, false);
    matmul_variant!(
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,popcnt,lzcnt")]
        avx2,
        4,
        true
    );
    matmul_variant!(
        #[cfg(target_arch = "x86_64")]
        #[target_feature(
            enable = "avx2,fma,f16c,bmi1,bmi2,popcnt,lzcnt,avx512f,avx512bw,avx512vl,avx512dq,avx512cd"
        )]
        avx512,
        8,
        true
    );
}

autovec! {
    /// Encodes one tile of `rows` rows of `w` (row-major, all columns).
    encode = encode_body; fn(q: &Quantizer, w: &[f32], rows: usize, tile: &mut [u8])
}
autovec! {
    /// Decodes one tile to row-major f32.
    decode = decode_body; fn(q: &Quantizer, tile: &[u8], rows: usize, out: &mut [f32])
}

/// Least and largest value, or the index of the first value that is not finite.
#[inline(always)]
fn min_max_body(w: &[f32]) -> Result<(f32, f32), usize> {
    let (mut lo, mut hi) = ([f32::INFINITY; LANES], [f32::NEG_INFINITY; LANES]);
    // `v - v` is 0 for finite values and NaN for all others.
    let mut odd = [0.0f32; LANES];
    let (chunks, rest) = w.as_chunks::<LANES>();
    for c in chunks {
        for i in 0..LANES {
            lo[i] = if c[i] < lo[i] { c[i] } else { lo[i] };
            hi[i] = if c[i] > hi[i] { c[i] } else { hi[i] };
            odd[i] += c[i] - c[i];
        }
    }
    let (mut min, mut max, mut sum) = (f32::INFINITY, f32::NEG_INFINITY, 0.0);
    for i in 0..LANES {
        (min, max, sum) = (min.min(lo[i]), max.max(hi[i]), sum + odd[i]);
    }
    for v in rest {
        (min, max, sum) = (min.min(*v), max.max(*v), sum + (v - v));
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
