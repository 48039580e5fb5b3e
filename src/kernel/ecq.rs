//! Entropy-coded quantisation indices: opening one unit of codes to weights, and choosing
//! the indices.
//!
//! A unit is `rows × cols` indices. Lane l of 32 holds rows l, l + 32, …; of each group of
//! 32 rows the lanes take the columns in step, so that at any time all lanes are at the
//! same column. Each lane is a range-ANS state ([`rans`](super::rans)); the bytes of a
//! unit are the lanes' first states, u32 (as many as there are rows, at most 32), and then
//! 16-bit words, taken in the order of columns, and of lanes within a column. All states
//! end at [`START`].
//!
//! ```text
//! class = clamp(row code + column code − 16, 0, 31)          picks a table, with the state
//! slot  = x mod 2^p;  s = the table's symbol of that slot
//! y     = f · (x div 2^p) + slot − c
//! a     = min(low, 16 − p);  K = s · 2^a + y mod 2^a;  y = y div 2^a
//! x     = y · 2^16 + next word                               if y < 2^16, else y
//! b     = low − a;  if b > 0:  K = K · 2^b + x mod 2^b;  x = x div 2^b, and a word as above
//! ```
//!
//! Without a trellis the weight is `(K + o) · step · multiplier`, where o is the offset of
//! magnitude min(|K|, 15) with the sign of K. With one, every row starts in state 0; bit 0
//! of the state is Q: the table is that of (class, Q), the weight is
//! `(2K − sgn(K)·Q + o) · step · multiplier` with the offset of 8·Q + min(|K|, 7), and the
//! next state is [`NEXT`]`[2·state + K mod 2]`.

use super::autovec;
pub use super::rans::START;

/// Rows that are coded side by side, a state each.
pub const LANES: usize = 32;

/// Tables that row and column codes can pick.
pub const CLASSES: usize = 32;

/// The row or column code that changes nothing.
pub const CENTRE: u8 = 16;

/// Greatest p.
pub const MAX_PRECISION: u32 = 12;

/// Greatest number of low bits that are stored as they are.
pub const MAX_LOW: u32 = 16;

/// Greatest magnitude of a symbol.
pub const MAX_SYMBOL: i32 = 127;

/// The trellis of 8 states: with the state's bits r1 (lowest), r2, r3 and the parity p of
/// an index, the next has r1 + r2, p + r3, r1 (sums mod 2): the feedback form of the parity
/// checks 13 and 4 (octal), those of Ungerboeck's 8-state code for amplitudes.
pub const NEXT: [u8; 16] = {
    let mut next = [0; 16];
    let mut i = 0;
    while i < 16 {
        let (p, r1, r2, r3) = (i & 1, i >> 1 & 1, i >> 2 & 1, i >> 3 & 1);
        next[i] = (r1 ^ r2 | (p ^ r3) << 1 | r1 << 2) as u8;
        i += 1;
    }
    next
};

/// What a unit is decoded by.
#[derive(Clone, Debug)]
pub struct Decoder {
    precision: u32,
    low: u32,
    trellis: bool,
    /// 2^p entries a table: `slot − c`, `(f − 1) << 12`, symbol `<< 24`.
    entries: Vec<u32>,
    /// By class: the first entry of its table.
    base: [u32; CLASSES],
    offsets: [f32; 16],
    step: f32,
    multiplier: f32,
}

impl Decoder {
    /// `tables` hold the frequencies of symbols −128 … 127, each `2^precision` together,
    /// two of them (Q = 0, Q = 1) for every number in `of_class` with a trellis.
    pub fn new(
        precision: u32,
        low: u32,
        trellis: bool,
        tables: &[[u16; 256]],
        of_class: &[u8; CLASSES],
        offsets: [f32; 16],
        (step, multiplier): (f32, f32),
    ) -> Self {
        assert!((8..=MAX_PRECISION).contains(&precision) && low <= MAX_LOW);
        let per = if trellis { 2 } else { 1 };
        assert!(
            of_class
                .iter()
                .all(|t| (usize::from(*t) + 1) * per <= tables.len())
        );
        let mut entries = Vec::with_capacity(tables.len() << precision);
        for table in tables {
            let end = entries.len() + (1 << precision);
            for (symbol, f) in (-128i32..).zip(table) {
                let f = u32::from(*f);
                let entry = ((symbol as u32) << 24) | f.wrapping_sub(1) << 12;
                entries.extend((0..f).map(|i| entry | i));
            }
            assert_eq!(entries.len(), end, "frequencies of another sum");
        }
        Self {
            precision,
            low,
            trellis,
            base: of_class.map(|t| (u32::from(t) * per as u32) << precision),
            entries,
            offsets,
            step,
            multiplier,
        }
    }

    /// Bits of an index taken with the symbol, and after it.
    fn low_bits(&self) -> (u32, u32) {
        let first = self.low.min(16 - self.precision);
        (first, self.low - first)
    }

    /// The weight of an index in a state.
    #[inline(always)]
    fn weight(&self, index: i32, q: i32) -> f32 {
        let (lattice, at) = if self.trellis {
            (2 * index - index.signum() * q, 8 * q + index.abs().min(7))
        } else {
            (index, index.abs().min(15))
        };
        let offset = self.offsets[at as usize & 15];
        let offset = if index < 0 { -offset } else { offset };
        (lattice as f32 + offset) * self.step * self.multiplier
    }
}

/// The words of a unit, with zeros behind them, so that many can be loaded at once.
struct Words<'a> {
    bytes: &'a [u8],
    at: usize,
    tail_start: usize,
    tail: [u8; 2 * LOAD],
}

/// Bytes that one column may take: a word for the symbol and one for the low bits of every
/// lane.
const LOAD: usize = 2 * 2 * LANES;

impl<'a> Words<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        let tail_start = bytes.len().saturating_sub(LOAD);
        let mut tail = [0; 2 * LOAD];
        tail[..bytes.len() - tail_start].copy_from_slice(&bytes[tail_start..]);
        Self {
            bytes,
            at: 0,
            tail_start,
            tail,
        }
    }

    /// The next words; `None` if more were taken than there are.
    #[inline(always)]
    fn next(&self) -> Option<&[u8; LOAD]> {
        match self.bytes.get(self.at..).unwrap_or(&[]).first_chunk() {
            Some(words) => Some(words),
            None if self.at <= self.bytes.len() => {
                self.tail[self.at - self.tail_start..].first_chunk()
            }
            None => None,
        }
    }

    fn all_taken(&self) -> bool {
        self.at == self.bytes.len()
    }
}

/// First states and words of a unit of `rows` rows.
fn split(bytes: &[u8], rows: usize) -> Option<([u32; LANES], Words<'_>)> {
    let lanes = rows.min(LANES);
    let (states, words) = bytes.split_at_checked(4 * lanes)?;
    let mut x = [START; LANES];
    for (x, state) in x.iter_mut().zip(states.as_chunks::<4>().0) {
        *x = u32::from_le_bytes(*state);
    }
    Some((x, Words::new(words)))
}

/// Columns that are decoded before they are turned into rows.
const STRIP: usize = 16;

#[inline(always)]
fn decode_body(
    d: &Decoder,
    rows: &[u8],
    cols: &[u8],
    bytes: &[u8],
    out: &mut [f32],
    stride: usize,
) -> bool {
    let Some((mut x, mut words)) = split(bytes, rows.len()) else {
        return false;
    };
    let (first, second) = d.low_bits();
    let mask = (1u32 << d.precision) - 1;
    for (group, rows) in rows.chunks(LANES).enumerate() {
        let mut state = [0u8; LANES];
        for (strip, cols) in cols.chunks(STRIP).enumerate() {
            let mut tile = [[0.0f32; LANES]; STRIP];
            for (tile, col) in tile.iter_mut().zip(cols) {
                let Some(next) = words.next() else {
                    return false;
                };
                let next = next.as_chunks::<2>().0;
                let mut taken = 0;
                let mut take = |y: u32| {
                    let word = u32::from(u16::from_le_bytes(next[taken % (LOAD / 2)]));
                    let wants = y < START;
                    taken += usize::from(wants);
                    if wants { y << 16 | word } else { y }
                };
                let mut index = [0i32; LANES];
                let lanes = index.iter_mut().zip(&mut x).zip(&state).zip(rows);
                for (((index, x), state), row) in lanes {
                    let class = row
                        .saturating_add(*col)
                        .saturating_sub(CENTRE)
                        .min(CLASSES as u8 - 1);
                    let q = if d.trellis { u32::from(*state & 1) } else { 0 };
                    let base = d.base[usize::from(class)] + (q << d.precision);
                    let entry = d.entries[(base + (*x & mask)) as usize];
                    let high = *x >> d.precision;
                    let y = (entry >> 12 & 0xfff) * high + high + (entry & 0xfff);
                    *index = (entry as i32 >> 24) << first | (y & ((1 << first) - 1)) as i32;
                    *x = take(y >> first);
                }
                if second > 0 {
                    for (index, x) in index.iter_mut().zip(&mut x).take(rows.len()) {
                        *index = *index << second | (*x & ((1 << second) - 1)) as i32;
                        *x = take(*x >> second);
                    }
                }
                words.at += 2 * taken;
                for ((v, index), state) in tile.iter_mut().zip(&index).zip(&mut state) {
                    let q = i32::from(*state & 1);
                    *v = d.weight(*index, q);
                    *state = NEXT[usize::from(((2 * *state) & 14) | (index & 1) as u8)];
                }
            }
            for lane in 0..rows.len() {
                let at = (group * LANES + lane) * stride + strip * STRIP;
                for (out, tile) in out[at..at + cols.len()].iter_mut().zip(&tile) {
                    *out = tile[lane];
                }
            }
        }
    }
    words.all_taken() && x == [START; LANES]
}

pub(crate) mod decode {
    use super::{Decoder, decode_body};

    pub(crate) fn portable(
        d: &Decoder,
        rows: &[u8],
        cols: &[u8],
        bytes: &[u8],
        out: &mut [f32],
        stride: usize,
    ) -> bool {
        decode_body(d, rows, cols, bytes, out, stride)
    }

    #[cfg(target_arch = "x86_64")]
    pub(crate) use super::x86::{decode_avx2 as avx2, decode_avx512 as avx512};
}

/// How indices are chosen.
#[derive(Clone, Debug)]
pub struct Chooser {
    /// A weight over the step is `w · scale.0 · scale.1`.
    pub scale: (f32, f32),
    /// Greatest magnitude of that: more is an outlier, and chosen for as 0.
    pub limit: f32,
    /// Low bits of an index that no table is asked about.
    pub low: u32,
    /// By class and whole part of the magnitude: from which fraction on to round up.
    pub thresholds: [[f32; 16]; CLASSES],
    /// By class and whole part of a magnitude: costs of the branches. For the trellis.
    costs: Vec<[f32; 4]>,
    /// By class: cost of index 0 of Q = 1.
    zeros: [f32; CLASSES],
}

impl Chooser {
    /// For weights times `scale`, `low` low bits and magnitudes up to `limit`: rounds to
    /// the nearest, and knows no costs.
    pub fn new(scale: (f32, f32), limit: f32, low: u32) -> Self {
        Self {
            scale,
            limit,
            low,
            thresholds: [[0.5; 16]; CLASSES],
            costs: Vec::new(),
            zeros: [0.0; CLASSES],
        }
    }

    /// Sets the costs for the trellis, in squared steps: by class and symbol's magnitude,
    /// 128 of Q = 0 and 128 of Q = 1.
    pub fn set_costs(&mut self, costs: &[[f32; 256]; CLASSES]) {
        self.costs.clear();
        for of_class in costs {
            self.costs.extend((0..WHOLES as i32).map(|whole| {
                std::array::from_fn(|b| {
                    // With low bits, a whole part stands for 2^low of them, and all points
                    // near a magnitude have one symbol, but at its edges.
                    let magnitude = match self.low {
                        0 => (point(whole, RESIDUE[b]) + 1) >> 1,
                        _ => whole >> 1,
                    };
                    of_class[(b & 2) * 64 + magnitude.min(MAX_SYMBOL) as usize]
                })
            }));
        }
        self.zeros = std::array::from_fn(|class| costs[class][128]);
    }

    /// Whether a weight is chosen for as 0 because it is too large.
    pub fn is_outlier(&self, w: f32) -> bool {
        (w * self.scale.0 * self.scale.1).abs() > self.limit
    }

    #[inline(always)]
    fn scaled(&self, w: f32) -> f32 {
        let x = w * self.scale.0 * self.scale.1;
        if x.abs() <= self.limit { x } else { 0.0 }
    }
}

/// Weights that are rounded together: what a compiler makes vectors of.
const TOGETHER_ROUNDED: usize = 16;

/// Indices of one row, `w.len()` of them, without a trellis; `x` becomes the weights over
/// the step, outliers 0.
#[inline(always)]
fn round_body(c: &Chooser, w: &[f32], row: u8, cols: &[u8], x: &mut [f32], out: &mut [i32]) {
    const N: usize = TOGETHER_ROUNDED;
    assert!(w.len() == cols.len() && w.len() == out.len() && w.len() == x.len());
    let mut thresholds = [0.0f32; N];
    let chunks = w.chunks(N).zip(cols.chunks(N));
    let outputs = x.chunks_mut(N).zip(out.chunks_mut(N));
    for ((w, cols), (x, out)) in chunks.zip(outputs) {
        for ((w, x), out) in w.iter().zip(&mut *x).zip(&mut *out) {
            *x = c.scaled(*w);
            *out = x.abs() as i32;
        }
        for ((threshold, col), out) in thresholds.iter_mut().zip(cols).zip(&*out) {
            let class = row.saturating_add(*col).saturating_sub(CENTRE);
            let class = usize::from(class.min(CLASSES as u8 - 1));
            *threshold = c.thresholds[class][(*out).min(15) as usize & 15];
        }
        for ((threshold, x), out) in thresholds.iter().zip(&*x).zip(&mut *out) {
            let up = i32::from(x.abs() - *out as f32 >= *threshold);
            let magnitude = *out + up;
            *out = if *x < 0.0 { -magnitude } else { magnitude };
        }
    }
}

autovec! {
    /// Rounds one row.
    round = round_body; fn(
        c: &Chooser, w: &[f32], row: u8, cols: &[u8], x: &mut [f32], out: &mut [i32],
    )
}

/// Rows that go through the trellis together.
pub const TOGETHER: usize = 16;

/// Working memory of the trellis.
#[derive(Debug, Default)]
pub struct Paths {
    /// By column: magnitudes over the step.
    a: Vec<[f32; TOGETHER]>,
    /// By column and row: for each state, which of its two predecessors; bit 8: whether
    /// the index of Q = 1 and even parity is 0 though there is a nearer one.
    choice: Vec<[u16; TOGETHER]>,
    /// By column: magnitudes of the indices.
    k: Vec<[i32; TOGETHER]>,
}

/// Whole parts of magnitudes that have costs of their own.
const WHOLES: usize = 256;

/// The lattice point of residue r mod 4 nearest to a magnitude in [whole, whole + 1), or 0
/// where that is −1.
#[inline(always)]
fn point(whole: i32, r: i32) -> i32 {
    (whole - 1 + ((r + 1 - whole) & 3)).max(0)
}

/// Residues mod 4 of lattice points, by 2·Q + parity of their index.
const RESIDUE: [i32; 4] = [0, 2, 3, 1];

/// By state + 8 · which of its two predecessors: 2·Q + parity of the branch, and 4 times
/// the predecessor.
const BACK: [u8; 16] = {
    let mut back = [0; 16];
    let mut from = 0;
    while from < 8 {
        let mut parity = 0;
        while parity < 2 {
            let s = NEXT[2 * from + parity] as usize;
            back[s | (from >> 2) << 3] = (4 * from + 2 * (from & 1) + parity) as u8;
            parity += 1;
        }
        from += 1;
    }
    back
};

/// Indices of up to [`TOGETHER`] rows through the trellis of 8 states: those with the least
/// sum of squared errors and costs. `w` holds the rows one after another, as `x` and `out`
/// do. `x` becomes the weights over the step, outliers 0.
///
/// Per state the four lattice points around a magnitude are weighed, one of each residue
/// mod 4, of which two belong to Q = 0 and two to Q = 1, and index 0 of Q = 1 besides.
#[inline(always)]
fn trellis_body(
    c: &Chooser,
    w: &[f32],
    rows: &[u8],
    cols: &[u8],
    paths: &mut Paths,
    x: &mut [f32],
    out: &mut [i32],
) {
    const N: usize = TOGETHER;
    let n = cols.len();
    assert!(rows.len() <= N && w.len() == rows.len() * n);
    assert!(out.len() == w.len() && x.len() == w.len());
    if w.is_empty() {
        return;
    }
    let Paths { a, choice, k } = paths;
    let costs: &[[f32; 4]; CLASSES * WHOLES] = c.costs.first_chunk().expect("costs of all classes");
    a.clear();
    a.resize(n, [0.0; N]);
    choice.resize(n, [0; N]);
    k.resize(n, [0; N]);
    for (r, (w, x)) in w.chunks_exact(n).zip(x.chunks_exact_mut(n)).enumerate() {
        for ((a, w), x) in a.iter_mut().zip(w).zip(x) {
            *x = c.scaled(*w);
            a[r] = x.abs();
        }
    }
    let mut codes = [CENTRE; N];
    codes[..rows.len()].copy_from_slice(rows);

    const FAR: f32 = 1e30;
    let mut sums = [[FAR; N]; 8];
    sums[0] = [0.0; N];
    for (i, ((a, col), choice)) in a.iter().zip(cols).zip(choice.iter_mut()).enumerate() {
        let mut whole = [0i32; N];
        let mut at = [0i32; N];
        let mut class = [0u8; N];
        for r in 0..N {
            let code = codes[r].saturating_add(*col).saturating_sub(CENTRE);
            class[r] = code.min(CLASSES as u8 - 1);
            whole[r] = a[r] as i32;
            at[r] =
                i32::from(class[r]) * WHOLES as i32 + (whole[r] >> c.low).min(WHOLES as i32 - 1);
        }
        // Cost of each branch, by 2·Q + parity.
        let mut branch = [[0.0f32; N]; 4];
        let mut zero = [0.0f32; N];
        for r in 0..N {
            let cost = costs[at[r] as usize & (CLASSES * WHOLES - 1)];
            for b in 0..4 {
                branch[b][r] = cost[b];
            }
            zero[r] = c.zeros[usize::from(class[r]) & (CLASSES - 1)];
        }
        for b in 0..4 {
            for r in 0..N {
                let d = a[r] - point(whole[r], RESIDUE[b]) as f32;
                branch[b][r] += d * d;
            }
        }
        let mut chosen = [0i32; N];
        for r in 0..N {
            let other = a[r] * a[r] + zero[r];
            let better = other < branch[2][r];
            branch[2][r] = if better { other } else { branch[2][r] };
            chosen[r] = i32::from(better) << 8;
        }
        let mut next = [[0.0f32; N]; 8];
        for (s, next) in next.iter_mut().enumerate() {
            let r1 = s >> 2;
            let from = r1 | ((s & 1) ^ r1) << 1;
            let parity = s >> 1 & 1;
            for r in 0..N {
                let first = sums[from][r] + branch[2 * r1 + parity][r];
                let second = sums[from | 4][r] + branch[2 * r1 + (parity ^ 1)][r];
                let better = second < first;
                next[r] = if better { second } else { first };
                chosen[r] |= i32::from(better) << s;
            }
        }
        for r in 0..N {
            choice[r] = chosen[r] as u16;
        }
        sums = next;
        if i % 64 == 63 {
            // Small sums are exact ones.
            for r in 0..N {
                let least = (1..8).fold(sums[0][r], |m, s| m.min(sums[s][r]));
                for sum in &mut sums {
                    sum[r] -= least;
                }
            }
        }
    }
    let mut s: [u16; N] = std::array::from_fn(|r| {
        (1..8).fold(0, |m, s| if sums[s][r] < sums[m][r] { s } else { m }) as u16
    });
    for (choice, k) in choice.iter().zip(k.iter_mut()).rev() {
        for r in 0..N {
            let second = choice[r] >> (s[r] & 7) & 1;
            let back = BACK[usize::from((s[r] | second << 3) & 15)];
            s[r] = u16::from(back >> 2);
            // The branch, for now.
            k[r] = i32::from(back & 3);
        }
    }
    for ((a, choice), k) in a.iter().zip(choice.iter()).zip(k.iter_mut()) {
        for r in 0..N {
            let (q, parity) = (k[r] >> 1, k[r] & 1);
            // As in RESIDUE.
            let residue = q + 2 * (parity ^ q);
            let magnitude = (point(a[r] as i32, residue) + 1) >> 1;
            let zero = i32::from(choice[r] >> 8) & q & (parity ^ 1);
            k[r] = if zero == 1 { 0 } else { magnitude };
        }
    }
    for (r, (x, out)) in x.chunks_exact(n).zip(out.chunks_exact_mut(n)).enumerate() {
        for ((x, out), k) in x.iter().zip(out).zip(k.iter()) {
            *out = if *x < 0.0 { -k[r] } else { k[r] };
        }
    }
}

autovec! {
    /// Rows through the trellis.
    trellis = trellis_body; fn(
        c: &Chooser, w: &[f32], rows: &[u8], cols: &[u8], paths: &mut Paths,
        x: &mut [f32], out: &mut [i32],
    )
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{CENTRE, CLASSES, Decoder, LANES, LOAD, NEXT, START, STRIP, decode_body, split};

    #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,popcnt,lzcnt")]
    pub(crate) fn decode_avx2(
        d: &Decoder,
        rows: &[u8],
        cols: &[u8],
        bytes: &[u8],
        out: &mut [f32],
        stride: usize,
    ) -> bool {
        decode_body(d, rows, cols, bytes, out, stride)
    }

    #[target_feature(
        enable = "avx2,fma,f16c,bmi1,bmi2,popcnt,lzcnt,avx512f,avx512bw,avx512vl,avx512dq,avx512cd"
    )]
    pub(crate) fn decode_avx512(
        d: &Decoder,
        rows: &[u8],
        cols: &[u8],
        bytes: &[u8],
        out: &mut [f32],
        stride: usize,
    ) -> bool {
        match (d.trellis, d.low > 0) {
            (false, false) => wide::<false, false>(d, rows, cols, bytes, out, stride),
            (false, true) => wide::<false, true>(d, rows, cols, bytes, out, stride),
            (true, false) => wide::<true, false>(d, rows, cols, bytes, out, stride),
            (true, true) => wide::<true, true>(d, rows, cols, bytes, out, stride),
        }
    }

    /// Sixteen lanes of a vector: row codes, range-ANS states, trellis states.
    #[derive(Clone, Copy)]
    struct Half {
        active: __mmask16,
        rows: __m512i,
        x: __m512i,
        state: __m512i,
    }

    /// Rows of 16 become columns.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn transpose(r: &[__m512; 16]) -> [__m512; 16] {
        let zero = _mm512_setzero_ps();
        let (mut t, mut u, mut out) = ([zero; 16], [zero; 16], [zero; 16]);
        for i in 0..8 {
            t[2 * i] = _mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]);
            t[2 * i + 1] = _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]);
        }
        let pd = |v: __m512| _mm512_castps_pd(v);
        for i in (0..16).step_by(4) {
            for j in 0..2 {
                let (a, b) = (pd(t[i + j]), pd(t[i + 2 + j]));
                u[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
                u[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
            }
        }
        for j in 0..4 {
            let even = |a, b| _mm512_shuffle_f32x4::<0x88>(a, b);
            let odd = |a, b| _mm512_shuffle_f32x4::<0xdd>(a, b);
            let (a, b) = (even(u[j], u[4 + j]), even(u[8 + j], u[12 + j]));
            let (c, d) = (odd(u[j], u[4 + j]), odd(u[8 + j], u[12 + j]));
            out[j] = even(a, b);
            out[4 + j] = even(c, d);
            out[8 + j] = odd(a, b);
            out[12 + j] = odd(c, d);
        }
        out
    }

    #[inline]
    #[target_feature(
        enable = "avx2,fma,f16c,bmi1,bmi2,popcnt,lzcnt,avx512f,avx512bw,avx512vl,avx512dq,avx512cd"
    )]
    fn wide<const TRELLIS: bool, const LOW: bool>(
        d: &Decoder,
        rows: &[u8],
        cols: &[u8],
        bytes: &[u8],
        out: &mut [f32],
        stride: usize,
    ) -> bool {
        let Some((states, mut words)) = split(bytes, rows.len()) else {
            return false;
        };
        assert!(d.trellis == TRELLIS && (d.low > 0) == LOW);
        let (first, second) = d.low_bits();
        let tables = if TRELLIS { 2 } else { 1 } << d.precision;
        // What the gathers below rely on.
        assert!(
            d.base
                .iter()
                .all(|b| *b as usize + tables <= d.entries.len())
        );
        let entries: *const i32 = d.entries.as_ptr().cast();

        // SAFETY: each reads 64 bytes through a reference to 16 words of 32 bits.
        let load = |v: &[u32; 16]| unsafe { _mm512_loadu_si512(v.as_ptr().cast()) };
        let [base_low, base_high] = *d.base.as_chunks::<16>().0 else {
            return false;
        };
        let (base_low, base_high) = (load(&base_low), load(&base_high));
        let next_state = load(&NEXT.map(u32::from));
        // SAFETY: reads 64 bytes through a reference to 16 f32.
        let offsets = unsafe { _mm512_loadu_ps(d.offsets.as_ptr()) };
        let (step, multiplier) = (_mm512_set1_ps(d.step), _mm512_set1_ps(d.multiplier));
        let slots = _mm512_set1_epi32((1 << d.precision) - 1);
        let precision = _mm_cvtsi32_si128(d.precision as i32);
        let (first_mask, second_mask) = (
            _mm512_set1_epi32((1 << first) - 1),
            _mm512_set1_epi32((1 << second) - 1),
        );
        let (first, second_shift) = (
            _mm_cvtsi32_si128(first as i32),
            _mm_cvtsi32_si128(second as i32),
        );
        let (one, zero) = (_mm512_set1_epi32(1), _mm512_setzero_si512());
        let twelve = _mm512_set1_epi32(0xfff);

        let mut halves = [0, 1].map(|h| Half {
            active: 0,
            rows: zero,
            x: load(states[16 * h..].first_chunk().expect("32 states")),
            state: zero,
        });
        for (group, rows) in rows.chunks(LANES).enumerate() {
            let mut codes = [u32::from(CENTRE); LANES];
            for (code, row) in codes.iter_mut().zip(rows) {
                *code = u32::from(*row);
            }
            for (h, half) in halves.iter_mut().enumerate() {
                let lanes = rows.len().saturating_sub(16 * h).min(16);
                half.active = ((1u32 << lanes) - 1) as u16;
                let codes = load(codes[16 * h..].first_chunk().expect("32 codes"));
                half.rows = _mm512_sub_epi32(codes, _mm512_set1_epi32(CENTRE.into()));
                half.state = zero;
            }
            for (strip, cols) in cols.chunks(STRIP).enumerate() {
                let mut tiles = [[_mm512_setzero_ps(); STRIP]; 2];
                for (i, col) in cols.iter().enumerate() {
                    let Some(next) = words.next() else {
                        return false;
                    };
                    let mut taken = 0usize;
                    let mut indices = [zero; 2];
                    for (half, index) in halves.iter_mut().zip(&mut indices) {
                        let class = _mm512_add_epi32(half.rows, _mm512_set1_epi32((*col).into()));
                        let class = _mm512_max_epi32(class, zero);
                        let class = _mm512_min_epi32(class, _mm512_set1_epi32(CLASSES as i32 - 1));
                        let mut at = _mm512_permutex2var_epi32(base_low, class, base_high);
                        if TRELLIS {
                            let q = _mm512_and_si512(half.state, one);
                            at = _mm512_add_epi32(at, _mm512_sll_epi32(q, precision));
                        }
                        at = _mm512_add_epi32(at, _mm512_and_si512(half.x, slots));
                        // SAFETY: a base, with the second table of a trellis, leaves room
                        // for all slots (asserted above).
                        let entry = unsafe { _mm512_i32gather_epi32::<4>(at, entries) };
                        let high = _mm512_srl_epi32(half.x, precision);
                        let f = _mm512_and_si512(_mm512_srli_epi32::<12>(entry), twelve);
                        let place = _mm512_add_epi32(high, _mm512_and_si512(entry, twelve));
                        let mut y = _mm512_add_epi32(_mm512_mullo_epi32(f, high), place);
                        *index = _mm512_srai_epi32::<24>(entry);
                        if LOW {
                            let low = _mm512_and_si512(y, first_mask);
                            *index = _mm512_or_si512(_mm512_sll_epi32(*index, first), low);
                            y = _mm512_srl_epi32(y, first);
                        }
                        (half.x, taken) = renew(half.x, y, half.active, next, taken);
                    }
                    if LOW && second > 0 {
                        for (half, index) in halves.iter_mut().zip(&mut indices) {
                            let low = _mm512_and_si512(half.x, second_mask);
                            let low = _mm512_maskz_mov_epi32(half.active, low);
                            *index = _mm512_or_si512(_mm512_sll_epi32(*index, second_shift), low);
                            let y = _mm512_srl_epi32(half.x, second_shift);
                            (half.x, taken) = renew(half.x, y, half.active, next, taken);
                        }
                    }
                    words.at += taken;
                    for ((half, index), tile) in halves.iter_mut().zip(indices).zip(&mut tiles) {
                        let magnitude = _mm512_abs_epi32(index);
                        let sign = _mm512_and_si512(index, _mm512_set1_epi32(i32::MIN));
                        let (lattice, at);
                        if TRELLIS {
                            let q = _mm512_and_si512(half.state, one);
                            // |2K − sgn(K)·Q|, then the sign again.
                            let some = _mm512_test_epi32_mask(index, index);
                            let twice = _mm512_add_epi32(magnitude, magnitude);
                            lattice = _mm512_mask_sub_epi32(twice, some, twice, q);
                            let near = _mm512_min_epi32(magnitude, _mm512_set1_epi32(7));
                            at = _mm512_add_epi32(near, _mm512_slli_epi32::<3>(q));
                            let parity = _mm512_and_si512(index, one);
                            let from = _mm512_add_epi32(half.state, half.state);
                            let from = _mm512_or_si512(from, parity);
                            half.state = _mm512_permutexvar_epi32(from, next_state);
                        } else {
                            lattice = magnitude;
                            at = _mm512_min_epi32(magnitude, _mm512_set1_epi32(15));
                        }
                        let offset = _mm512_permutexvar_ps(at, offsets);
                        let v = _mm512_add_ps(_mm512_cvtepi32_ps(lattice), offset);
                        let v = _mm512_mul_ps(_mm512_mul_ps(v, step), multiplier);
                        let v = _mm512_castps_si512(v);
                        tile[i] = _mm512_castsi512_ps(_mm512_xor_si512(v, sign));
                    }
                }
                for (h, tile) in tiles.iter().enumerate() {
                    let lanes = rows.len().saturating_sub(16 * h).min(16);
                    if lanes == 0 {
                        continue;
                    }
                    let keep = ((1u32 << cols.len()) - 1) as u16;
                    for (lane, v) in transpose(tile).into_iter().enumerate().take(lanes) {
                        let row = group * LANES + 16 * h + lane;
                        let at = row * stride + strip * STRIP;
                        let out = &mut out[at..at + cols.len()];
                        // SAFETY: writes as many f32 as `out` has.
                        unsafe { _mm512_mask_storeu_ps(out.as_mut_ptr(), keep, v) };
                    }
                }
            }
        }
        words.all_taken()
            && halves
                .iter()
                .all(|half| _mm512_cmpneq_epi32_mask(half.x, _mm512_set1_epi32(START as i32)) == 0)
    }

    /// The states after a step: y, with a word where it is less than 2^16, in the lanes
    /// that are active, and the bytes of words taken.
    #[inline]
    #[target_feature(
        enable = "avx2,fma,f16c,bmi1,bmi2,popcnt,lzcnt,avx512f,avx512bw,avx512vl,avx512dq,avx512cd"
    )]
    fn renew(
        x: __m512i,
        y: __m512i,
        active: __mmask16,
        next: &[u8; LOAD],
        taken: usize,
    ) -> (__m512i, usize) {
        let wants = _mm512_mask_cmplt_epu32_mask(active, y, _mm512_set1_epi32(1 << 16));
        debug_assert!(taken + 32 <= LOAD);
        // SAFETY: reads 32 bytes from `taken`, at most 32 for each of the at most three
        // calls before this one in a column: inside `next`.
        let word = unsafe { _mm256_loadu_si256(next.as_ptr().add(taken).cast()) };
        let word = _mm512_maskz_expand_epi32(wants, _mm512_cvtepu16_epi32(word));
        let longer = _mm512_or_si512(_mm512_slli_epi32::<16>(y), word);
        let y = _mm512_mask_mov_epi32(y, wants, longer);
        (
            _mm512_mask_mov_epi32(x, active, y),
            taken + 2 * wants.count_ones() as usize,
        )
    }
}
