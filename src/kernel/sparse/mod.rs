//! Sparse rows, as a bitmask or as lists of columns: opening, listing, multiplying.
//!
//! Bit `i % 8` of byte `i / 8` of a row's mask says that column `i` holds a value; values
//! follow each other in row order. Or a row is the list of the columns that hold one,
//! rising, 16 bits each. Products touch those columns only: what stands elsewhere in `x`,
//! be it NaN or infinite, is never read into a result.
//!
//! * One vector, mask (`mask_dot`): sixteen values at a time are spread in a register as the
//!   mask says and multiplied where it says so. How many values a stretch takes is counted
//!   from the mask alone, so that nothing waits for what came before.
//! * One vector, list (`index_dot`): columns are fetched one by one. Gather instructions
//!   take 1.1 cycles a column on Zen 4, loads put together 0.7.
//! * Many vectors (`mask_panel`, `index_panel`): they lie side by side, `panel[column][lane]`,
//!   so that a value is multiplied by a whole line of them: nothing is spread or gathered,
//!   and a value costs one broadcast and as many multiplications from memory as its line
//!   has registers. Columns are taken in blocks whose panel stays in the first or second
//!   cache while the rows go by; a mask is opened to the columns of a row in a block before
//!   they are used, those of the next row while this one is multiplied.
//!
//! The sum of an output is formed in an order that depends on its row, the number of lanes
//! and the block, not on the rows beside it.

#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

use portable::Portable;

use super::prefetch;

/// Most rows that a panel product takes at once: their sums should stay in the second
/// cache together with a block of the panel.
pub const PANEL_ROWS: usize = 128;

/// Most columns of a list: a column is 16 bits.
pub const INDEX_COLS: usize = 1 << 16;

/// Vectors that can lie side by side.
pub const LANES: [usize; 4] = [8, 16, 32, 64];

/// Some rows of a matrix as a bitmask and values.
#[derive(Clone, Copy, Debug)]
pub struct MaskRows<'a> {
    /// `cols.div_ceil(8)` bytes a row; bits past the last column are zero.
    pub bits: &'a [u8],
    /// Columns, at least one.
    pub cols: usize,
    /// Values of the first row and those that follow, at least as many as bits are set.
    pub values: &'a [f32],
}

impl MaskRows<'_> {
    fn stride(&self) -> usize {
        self.cols.div_ceil(8)
    }

    fn rows(&self) -> usize {
        self.bits.len() / self.stride()
    }

    fn row(&self, row: usize) -> &[u8] {
        &self.bits[row * self.stride()..(row + 1) * self.stride()]
    }
}

/// Some rows of a matrix as lists of columns and values.
#[derive(Clone, Copy, Debug)]
pub struct IndexRows<'a> {
    /// Where the list of each row begins, and where the last one ends.
    pub bounds: &'a [u32],
    /// Columns of all rows, rising in each and below `cols`.
    pub indices: &'a [u16],
    /// Columns, at most [`INDEX_COLS`].
    pub cols: usize,
    /// A value for each index.
    pub values: &'a [f32],
}

impl<'a> IndexRows<'a> {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.bounds.len().saturating_sub(1)
    }

    /// Some of the rows.
    pub fn some(&self, rows: std::ops::Range<usize>) -> Self {
        Self {
            bounds: &self.bounds[rows.start..=rows.end],
            ..*self
        }
    }

    fn range(&self, row: usize) -> std::ops::Range<usize> {
        self.bounds[row] as usize..self.bounds[row + 1] as usize
    }

    fn row(&self, row: usize) -> (&'a [u16], &'a [f32]) {
        let range = self.range(row);
        (&self.indices[range.clone()], &self.values[range])
    }
}

/// Reads up to eight mask bytes as a little-endian word.
#[inline(always)]
fn word(mask: &[u8], at: usize) -> u64 {
    match mask[at..].first_chunk::<8>() {
        Some(word) => u64::from_le_bytes(*word),
        None => {
            let mut bytes = [0u8; 8];
            bytes[..mask.len() - at].copy_from_slice(&mask[at..]);
            u64::from_le_bytes(bytes)
        }
    }
}

/// Asks for the cache lines of `data[from..from + n]`, which may end past the data.
#[inline(always)]
fn ask<T>(data: &[T], from: usize, n: usize) {
    for line in 0..(n * size_of::<T>()).div_ceil(64) {
        let at = data.as_ptr().wrapping_add(from).cast::<u8>();
        prefetch::first(at.wrapping_add(line * 64));
    }
}

/// What the loops below need of an instruction set.
///
/// # Safety
/// Whoever calls a method runs on a CPU that has the set. Loads and stores are of `WIDTH`
/// floats, or what the method states.
unsafe trait Set: Copy {
    /// A register of floats.
    type V: Copy;
    const WIDTH: usize;

    unsafe fn zero() -> Self::V;
    unsafe fn load(at: *const f32) -> Self::V;
    unsafe fn store(at: *mut f32, v: Self::V);
    unsafe fn splat(v: f32) -> Self::V;
    /// `a · b + c`, fused where the set has that.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;

    /// Writes `base + i` for each set bit i of `bits`, in order; 64 bytes may be written.
    unsafe fn list_bytes(bits: u64, base: u8, to: *mut u8);
    /// The same in 16 bits; 64 numbers may be written.
    unsafe fn list_shorts(bits: u64, base: u16, to: *mut u16);
    /// How many of the rising `list` come before the first that is `limit` or more.
    unsafe fn below(list: &[u16], limit: usize) -> usize;

    /// The numbers of `x` that `WIDTH` columns name.
    unsafe fn pick(columns: *const u16, x: &[f32; INDEX_COLS]) -> Self::V;
    /// The products of fewer than `WIDTH` values with the numbers that columns name.
    unsafe fn pick_few(columns: &[u16], values: &[f32], x: &[f32; INDEX_COLS]) -> Self::V;
    /// The sum of a register.
    unsafe fn total(v: Self::V) -> f32;

    /// Number of set bits.
    #[inline(always)]
    unsafe fn count(mask: &[u8]) -> usize {
        count_body(mask)
    }

    /// Places where a list does not rise.
    #[inline(always)]
    unsafe fn descents(list: &[u16]) -> usize {
        descents_body(list)
    }

    /// Opens one row: `out[i]` is the next value where bit i is set, else zero. Returns
    /// the values taken.
    unsafe fn expand(mask: &[u8], values: &[f32], out: &mut [f32]) -> usize;
    /// Product of a row with `x`; the values that it took.
    unsafe fn dot(mask: &[u8], values: &[f32], x: &[f32]) -> (f32, usize);
    /// Products of rows with vectors: see `mask_dot`. By default one by one.
    #[inline(always)]
    unsafe fn dots(m: &MaskRows<'_>, x: &[f32], stride: usize, out: &mut [f32]) {
        for (b, out) in out.chunks_exact_mut(m.rows().max(1)).enumerate() {
            // SAFETY: the caller has the set.
            unsafe { dot_rows::<Self>(m, &x[b * stride..][..m.cols], out) };
        }
    }
    /// `y[j] += g · w[j]` where bit j is set; the values that it took.
    unsafe fn add_masked(mask: &[u8], values: &[f32], g: f32, y: &mut [f32]) -> usize;

    /// Adds the products of a row's values with lines of `panel` to its `sums`: see
    /// [`add_row`]. `sums.len()` is one of [`LANES`].
    unsafe fn add_row<I: Copy + Into<usize>>(
        list: &[I],
        values: &[f32],
        panel: &[f32],
        sums: &mut [f32],
    );
    /// Adds the products of a row's values with `g` to lines of `y`: see [`add_lines`]. By
    /// default for registers of eight.
    #[inline(always)]
    unsafe fn add_lines(list: &[u16], first: usize, values: &[f32], g: &[f32], y: &mut [f32]) {
        // SAFETY: as the caller promises.
        unsafe {
            match g.len() {
                64 => add_lines::<Self, 8>(list, first, values, g, y),
                32 => add_lines::<Self, 4>(list, first, values, g, y),
                16 => add_lines::<Self, 2>(list, first, values, g, y),
                _ => add_lines::<Self, 1>(list, first, values, g, y),
            }
        }
    }
}

/// `sums[l] += Σᵢ values[i] · panel[list[i]][l]` for `Z` registers of lanes, in `C` chains:
/// the i-th product goes to chain `i mod C`, and the chains are added at the end.
///
/// # Safety
/// The CPU has the set, and every number of `list` is below the lines of `panel`.
#[inline(always)]
unsafe fn add_row<S: Set, const Z: usize, const C: usize, I: Copy + Into<usize>>(
    list: &[I],
    values: &[f32],
    panel: &[f32],
    sums: &mut [f32],
) {
    let lanes = Z * S::WIDTH;
    assert!(values.len() == list.len() && sums.len() == lanes);
    // SAFETY: lines begin below `panel.len() - lanes` (the caller's promise), `sums` has
    // `lanes` floats (asserted), and the caller has the set.
    unsafe {
        let mut acc = [[S::zero(); Z]; C];
        for (z, acc) in acc[0].iter_mut().enumerate() {
            *acc = S::load(sums.as_ptr().add(z * S::WIDTH));
        }
        let (groups, rest) = list.as_chunks::<C>();
        let (value_groups, value_rest) = values.as_chunks::<C>();
        for (group, v) in groups.iter().zip(value_groups) {
            for c in 0..C {
                let line = panel.as_ptr().add(group[c].into() * lanes);
                add_line::<S, Z>(&mut acc[c], line, v[c]);
            }
        }
        // By constants, so that the sums stay in registers.
        for c in 0..C {
            if c < rest.len() {
                let line = panel.as_ptr().add(rest[c].into() * lanes);
                add_line::<S, Z>(&mut acc[c], line, value_rest[c]);
            }
        }
        for z in 0..Z {
            let mut sum = acc[0][z];
            for acc in &acc[1..] {
                sum = S::add(sum, acc[z]);
            }
            S::store(sums.as_mut_ptr().add(z * S::WIDTH), sum);
        }
    }
}

/// `acc += v · line`.
///
/// # Safety
/// The CPU has the set, and `line` is `Z` registers.
#[inline(always)]
unsafe fn add_line<S: Set, const Z: usize>(acc: &mut [S::V; Z], line: *const f32, v: f32) {
    // SAFETY: as the caller promises.
    unsafe {
        let v = S::splat(v);
        for (z, acc) in acc.iter_mut().enumerate() {
            *acc = S::fma(v, S::load(line.add(z * S::WIDTH)), *acc);
        }
    }
}

/// `y[list[i] − first][l] += values[i] · g[l]` for `Z` registers of lanes.
///
/// # Safety
/// The CPU has the set, and every number of `list` is `first` plus a line of `y`.
#[inline(always)]
unsafe fn add_lines<S: Set, const Z: usize>(
    list: &[u16],
    first: usize,
    values: &[f32],
    g: &[f32],
    y: &mut [f32],
) {
    let lanes = Z * S::WIDTH;
    assert!(values.len() == list.len() && g.len() == lanes);
    // SAFETY: as in `add_row`, with lines of `y`.
    unsafe {
        let mut lanes_of_g = [S::zero(); Z];
        for (z, lanes) in lanes_of_g.iter_mut().enumerate() {
            *lanes = S::load(g.as_ptr().add(z * S::WIDTH));
        }
        for (i, v) in list.iter().zip(values) {
            let line = y.as_mut_ptr().add((usize::from(*i) - first) * lanes);
            let v = S::splat(*v);
            for (z, g) in lanes_of_g.iter().enumerate() {
                let at = line.add(z * S::WIDTH);
                S::store(at, S::fma(v, *g, S::load(at)));
            }
        }
    }
}

/// Numbers of columns in a block of a mask.
trait Number: Copy + Default + Into<usize> {
    /// Writes `base + i` for each set bit i; 64 numbers may be written.
    ///
    /// # Safety
    /// The CPU has the set.
    unsafe fn list<S: Set>(bits: u64, base: usize, to: &mut [Self; 64]);
}

impl Number for u8 {
    #[inline(always)]
    unsafe fn list<S: Set>(bits: u64, base: usize, to: &mut [Self; 64]) {
        // SAFETY: the caller has the set; 64 bytes.
        unsafe { S::list_bytes(bits, base as u8, to.as_mut_ptr()) }
    }
}

impl Number for u16 {
    #[inline(always)]
    unsafe fn list<S: Set>(bits: u64, base: usize, to: &mut [Self; 64]) {
        // SAFETY: the caller has the set; 64 numbers.
        unsafe { S::list_shorts(bits, base as u16, to.as_mut_ptr()) }
    }
}

/// Numbers of the set bits of `mask` below `width`. Bits that are not set leave room in
/// `list`, which has 64 numbers more than there are columns.
///
/// # Safety
/// The CPU has the set.
#[inline(always)]
unsafe fn list_block<S: Set, N: Number>(mask: &[u8], width: usize, list: &mut [N]) -> usize {
    let mut n = 0;
    for first in (0..width).step_by(64) {
        let mut bits = word(mask, first / 8);
        if width - first < 64 {
            bits &= (1 << (width - first)) - 1;
        }
        let to = list[n..].first_chunk_mut().expect("64 numbers more");
        // SAFETY: the caller has the set.
        unsafe { N::list::<S>(bits, first, to) };
        n += bits.count_ones() as usize;
    }
    n
}

/// # Safety
/// The CPU has the set.
#[inline(always)]
unsafe fn mask_panel_body<S: Set>(m: &MaskRows<'_>, panel: &[f32], lanes: usize, sums: &mut [f32]) {
    let rows = m.rows();
    assert!(LANES.contains(&lanes) && rows <= PANEL_ROWS);
    assert!(panel.len() >= m.cols * lanes && sums.len() == rows * lanes);
    // Blocks whose panel is 32 KiB, a first cache: smaller ones leave too few values a row
    // between loading and storing its sums, larger ones come from the second cache at
    // half the speed.
    // SAFETY: the caller has the set.
    unsafe {
        match lanes {
            64 => mask_blocks::<S, u8, 128, 192>(m, panel, lanes, sums),
            32 => mask_blocks::<S, u8, 256, 320>(m, panel, lanes, sums),
            16 => mask_blocks::<S, u16, 512, 576>(m, panel, lanes, sums),
            _ => mask_blocks::<S, u16, 1024, 1088>(m, panel, lanes, sums),
        }
    }
}

/// `mask_panel` in blocks of `B` columns, 256 at most where their numbers are bytes; `ROOM`
/// is 64 more.
///
/// # Safety
/// The CPU has the set.
#[inline(always)]
unsafe fn mask_blocks<S: Set, N: Number, const B: usize, const ROOM: usize>(
    m: &MaskRows<'_>,
    panel: &[f32],
    lanes: usize,
    sums: &mut [f32],
) {
    let rows = m.rows();
    sums.fill(0.0);
    if rows == 0 {
        return;
    }
    // Where the values of each row go on.
    let mut next = [0usize; PANEL_ROWS];
    let mut at = 0;
    for (row, next) in next[..rows].iter_mut().enumerate() {
        *next = at;
        // SAFETY: the caller has the set.
        at += unsafe { S::count(m.row(row)) };
    }
    let mut lists = [[N::default(); ROOM]; 2];
    for first in (0..m.cols).step_by(B) {
        let width = B.min(m.cols - first);
        let panel = &panel[first * lanes..(first + width) * lanes];
        let bits = |row: usize| &m.row(row)[first / 8..(first + width).div_ceil(8)];
        // SAFETY: the caller has the set. The list of the next row is made before this one
        // is multiplied, so that its stores are done when they are read.
        let mut n = unsafe { list_block::<S, N>(bits(0), width, &mut lists[0]) };
        for (row, sums) in sums.chunks_exact_mut(lanes).enumerate() {
            let [even, odd] = &mut lists;
            let (this, other) = if row % 2 == 0 {
                (even, odd)
            } else {
                (odd, even)
            };
            let following = match row + 1 < rows {
                // SAFETY: as above.
                true => unsafe { list_block::<S, N>(bits(row + 1), width, other) },
                false => 0,
            };
            let from = next[row];
            next[row] += n;
            ask(m.values, next[(row + AHEAD).min(rows - 1)], n + 16);
            // SAFETY: the list holds numbers below `width`, the lines of `panel`.
            unsafe { S::add_row(&this[..n], &m.values[from..from + n], panel, sums) };
            n = following;
        }
    }
}

/// Rows ahead for which values are asked: at 30 values a row and 5 cycles a value these
/// are 150 ns.
const AHEAD: usize = 4;

/// Whether every row's columns rise and are below `cols`, and the bounds fit the list.
///
/// # Safety
/// The CPU has the set.
#[inline(always)]
unsafe fn ascend_body<S: Set>(bounds: &[u32], indices: &[u16], cols: usize) -> bool {
    let (Some(first), Some(last)) = (bounds.first(), bounds.last()) else {
        return true;
    };
    let (first, last) = (*first as usize, *last as usize);
    // From one row to the next numbers may fall: what falls elsewhere is wrong.
    let mut between = 0;
    for row in bounds.windows(2) {
        let (start, end) = (row[0] as usize, row[1] as usize);
        if end < start || end > indices.len() {
            return false;
        }
        if end > start {
            if usize::from(indices[end - 1]) >= cols {
                return false;
            }
            if start > first {
                between += usize::from(indices[start] <= indices[start - 1]);
            }
        }
    }
    // SAFETY: the caller has the set.
    last <= indices.len() && between == unsafe { S::descents(&indices[first..last]) }
}

/// Places where a list does not rise.
#[inline(always)]
fn descents_body(list: &[u16]) -> usize {
    // Sums of 16 bits, which a few thousand steps cannot overflow, as many at once as an
    // AVX2 register holds.
    const L: usize = 16;
    const STEPS: usize = 4096;
    let mut total = 0usize;
    let last = list.len().saturating_sub(1);
    for start in (0..last).step_by(L * STEPS) {
        let piece = &list[start..(start + L * STEPS + 1).min(list.len())];
        let (now, next) = (&piece[..piece.len() - 1], &piece[1..]);
        let (lines, rest) = now.as_chunks::<L>();
        let (next_lines, next_rest) = next.as_chunks::<L>();
        let mut sums = [0u16; L];
        for (a, b) in lines.iter().zip(next_lines) {
            for i in 0..L {
                sums[i] += u16::from(b[i] <= a[i]);
            }
        }
        total += sums.iter().map(|n| usize::from(*n)).sum::<usize>();
        let rest = rest.iter().zip(next_rest);
        total += rest.map(|(a, b)| usize::from(b <= a)).sum::<usize>();
    }
    total
}

/// # Safety
/// The CPU has the set.
#[inline(always)]
unsafe fn list_mask_body<S: Set>(mask: &[u8], indices: &mut [u16]) -> usize {
    assert!(mask.len() <= INDEX_COLS / 8);
    let mut n = 0;
    for first in (0..mask.len() * 8).step_by(64) {
        let bits = word(mask, first / 8);
        let count = bits.count_ones() as usize;
        if let Some(to) = indices.get_mut(n..).and_then(|o| o.first_chunk_mut::<64>()) {
            // SAFETY: the caller has the set; `to` is 64 numbers.
            unsafe { S::list_shorts(bits, first as u16, to.as_mut_ptr()) };
        } else {
            let mut line = [0; 64];
            // SAFETY: as above.
            unsafe { S::list_shorts(bits, first as u16, line.as_mut_ptr()) };
            indices[n..n + count].copy_from_slice(&line[..count]);
        }
        n += count;
    }
    n
}

/// What is done with the part of a row's list that lies in a block of columns.
///
/// Loops get these as types and not as closures: compilers do not take the instruction set
/// of a function over to a closure that they do not inline.
trait Part<S: Set> {
    /// # Safety
    /// The CPU has the set; columns of the list are those of the rows that were promised.
    unsafe fn take(&mut self, row: usize, list: &[u16], values: &[f32]);
}

/// Columns of a row from index `from` on that are below `limit`.
///
/// # Safety
/// The CPU has the set.
#[inline(always)]
unsafe fn below<S: Set>(m: &IndexRows<'_>, row: usize, from: usize, limit: usize) -> usize {
    let list = &m.indices[from..m.bounds[row + 1] as usize];
    if limit >= m.cols {
        return list.len();
    }
    // SAFETY: the caller has the set.
    unsafe { S::below(list, limit) }
}

/// Walks the columns of rows block by block.
///
/// # Safety
/// The CPU has the set.
#[inline(always)]
unsafe fn by_blocks<S: Set>(
    m: &IndexRows<'_>,
    columns: std::ops::Range<usize>,
    block: usize,
    part: &mut impl Part<S>,
) {
    let rows = m.rows();
    assert!(rows <= PANEL_ROWS && block > 0 && m.values.len() >= m.indices.len());
    if rows == 0 {
        return;
    }
    let mut next = [0usize; PANEL_ROWS];
    for (row, next) in next[..rows].iter_mut().enumerate() {
        let range = m.range(row);
        *next = range.start;
        if columns.start > 0 {
            let list = &m.indices[range];
            *next += list.partition_point(|i| usize::from(*i) < columns.start);
        }
    }
    for first in columns.clone().step_by(block) {
        let limit = (first + block).min(columns.end);
        // SAFETY: the caller has the set.
        let mut n = unsafe { below::<S>(m, 0, next[0], limit) };
        for row in 0..rows {
            let from = next[row];
            let following = match row + 1 < rows {
                // SAFETY: the caller has the set.
                true => unsafe { below::<S>(m, row + 1, next[row + 1], limit) },
                false => 0,
            };
            next[row] += n;
            let ahead = next[(row + AHEAD).min(rows - 1)];
            ask(m.values, ahead, n + 16);
            ask(m.indices, ahead, n + 32);
            let here = from..from + n;
            // SAFETY: the caller has the set.
            unsafe { part.take(row, &m.indices[here.clone()], &m.values[here]) };
            n = following;
        }
    }
}

/// Adds products with lines of a panel.
struct PanelSums<'a> {
    panel: &'a [f32],
    lanes: usize,
    sums: &'a mut [f32],
}

impl<S: Set> Part<S> for PanelSums<'_> {
    #[inline(always)]
    unsafe fn take(&mut self, row: usize, list: &[u16], values: &[f32]) {
        let sums = &mut self.sums[row * self.lanes..(row + 1) * self.lanes];
        // SAFETY: columns are lines of the panel.
        unsafe { S::add_row(list, values, self.panel, sums) };
    }
}

/// Adds products to lines of `y`, which begin with column `first`.
struct LineSums<'a> {
    g: &'a [f32],
    lanes: usize,
    first: usize,
    y: &'a mut [f32],
}

impl<S: Set> Part<S> for LineSums<'_> {
    #[inline(always)]
    unsafe fn take(&mut self, row: usize, list: &[u16], values: &[f32]) {
        let g = &self.g[row * self.lanes..(row + 1) * self.lanes];
        // SAFETY: columns are lines of `y`.
        unsafe { S::add_lines(list, self.first, values, g, self.y) };
    }
}

/// # Safety
/// The CPU has the set.
#[inline(always)]
unsafe fn index_panel_body<S: Set>(
    m: &IndexRows<'_>,
    panel: &[f32],
    lanes: usize,
    block: usize,
    sums: &mut [f32],
) {
    assert!(LANES.contains(&lanes) && sums.len() == m.rows() * lanes);
    assert!(panel.len() >= m.cols * lanes);
    sums.fill(0.0);
    let mut part = PanelSums { panel, lanes, sums };
    // SAFETY: the caller has the set; columns are below those of the panel (asserted).
    unsafe {
        assert!(ascend_body::<S>(m.bounds, m.indices, m.cols));
        by_blocks::<S>(m, 0..m.cols, block, &mut part);
    }
}

/// # Safety
/// The CPU has the set.
#[inline(always)]
unsafe fn index_add_body<S: Set>(
    m: &IndexRows<'_>,
    g: &[f32],
    lanes: usize,
    first: usize,
    y: &mut [f32],
) {
    let end = first + y.len() / lanes;
    assert!(g.len() == m.rows() * lanes && y.len().is_multiple_of(lanes) && end <= m.cols);
    // SAFETY: the caller has the set.
    assert!(unsafe { ascend_body::<S>(m.bounds, m.indices, m.cols) });
    if lanes == 1 {
        for (row, g) in g.iter().enumerate() {
            let (mut list, mut values) = m.row(row);
            if first > 0 || end < m.cols {
                let from = list.partition_point(|i| usize::from(*i) < first);
                let to = list.partition_point(|i| usize::from(*i) < end);
                (list, values) = (&list[from..to], &values[from..to]);
            }
            for (i, v) in list.iter().zip(values) {
                y[usize::from(*i) - first] += g * v;
            }
        }
        return;
    }
    assert!(LANES.contains(&lanes));
    // Lines of 64 lanes in half a first cache.
    let block = 4096 / lanes;
    let mut part = LineSums { g, lanes, first, y };
    // SAFETY: the caller has the set; columns of a block are lines of `y`.
    unsafe { by_blocks::<S>(m, first..end, block, &mut part) };
}

#[inline(always)]
fn count_body(mask: &[u8]) -> usize {
    let (words, _) = mask.as_chunks::<8>();
    let full: u32 = words
        .iter()
        .map(|w| u64::from_le_bytes(*w).count_ones())
        .sum();
    let tail: u32 = mask[words.len() * 8..].iter().map(|b| b.count_ones()).sum();
    (full + tail) as usize
}

/// # Safety
/// The CPU has the set.
#[inline(always)]
unsafe fn mask_dot_body<S: Set>(m: &MaskRows<'_>, x: &[f32], stride: usize, out: &mut [f32]) {
    let (rows, batch) = (m.rows(), out.len() / m.rows().max(1));
    assert!(out.len() == rows * batch && stride >= m.cols);
    assert!(batch == 0 || x.len() >= (batch - 1) * stride + m.cols);
    // SAFETY: the caller has the set.
    unsafe { S::dots(m, x, stride, out) };
}

/// Products of rows with one vector.
///
/// # Safety
/// The CPU has the set.
#[inline(always)]
unsafe fn dot_rows<S: Set>(m: &MaskRows<'_>, x: &[f32], out: &mut [f32]) {
    let mut at = 0;
    for (row, out) in out.iter_mut().enumerate() {
        // The same row of the next window, if windows have as many rows as this one.
        ask(m.bits, m.bits.len() + row * m.stride(), m.stride());
        // SAFETY: the caller has the set.
        let (sum, n) = unsafe { S::dot(m.row(row), &m.values[at..], x) };
        *out = sum;
        at += n;
    }
}

/// # Safety
/// The CPU has the set.
#[inline(always)]
unsafe fn mask_add_body<S: Set>(m: &MaskRows<'_>, g: &[f32], first: usize, y: &mut [f32]) {
    let end = first + y.len();
    assert!(g.len() == m.rows() && first.is_multiple_of(64) && end <= m.cols);
    assert!(end == m.cols || end.is_multiple_of(64));
    let mut at = 0;
    for (row, g) in g.iter().enumerate() {
        let (before, rest) = m.row(row).split_at(first / 8);
        let (here, after) = rest.split_at(y.len().div_ceil(8));
        // SAFETY: the caller has the set.
        unsafe {
            at += S::count(before);
            at += S::add_masked(here, &m.values[at..], *g, y);
            at += S::count(after);
        }
    }
}

/// # Safety
/// The CPU has the set.
#[inline(always)]
unsafe fn index_dot_body<S: Set>(m: &IndexRows<'_>, x: &[f32; INDEX_COLS], out: &mut [f32]) {
    assert!(out.len() == m.rows());
    for (row, out) in out.iter_mut().enumerate() {
        let (list, values) = m.row(row);
        let pairs = list.chunks_exact(2 * S::WIDTH);
        let value_pairs = values.chunks_exact(2 * S::WIDTH);
        let (rest, value_rest) = (pairs.remainder(), value_pairs.remainder());
        // SAFETY: the caller has the set; chunks have two registers each.
        unsafe {
            let mut sums = [S::zero(); 2];
            for (list, v) in pairs.zip(value_pairs) {
                ask(list, 1024, 2 * S::WIDTH);
                ask(v, 512, 2 * S::WIDTH);
                for (i, sum) in sums.iter_mut().enumerate() {
                    let x = S::pick(list.as_ptr().add(i * S::WIDTH), x);
                    *sum = S::fma(S::load(v.as_ptr().add(i * S::WIDTH)), x, *sum);
                }
            }
            let (one, few) = rest.split_at(rest.len() / S::WIDTH * S::WIDTH);
            let (value_one, value_few) = value_rest.split_at(one.len());
            if !one.is_empty() {
                let x = S::pick(one.as_ptr(), x);
                sums[0] = S::fma(S::load(value_one.as_ptr()), x, sums[0]);
            }
            if !few.is_empty() {
                sums[1] = S::add(S::pick_few(few, value_few, x), sums[1]);
            }
            *out = S::total(S::add(sums[0], sums[1]));
        }
    }
}

/// Makes a variant of each kernel for each instruction set: `$body` with the set's type.
macro_rules! variants {
    ($($(#[$doc:meta])* $name:ident = $body:ident; fn($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)?)*) => {$(
        $(#[$doc])*
        pub(crate) mod $name {
            use super::*;

            pub(crate) fn portable($($arg: $ty),*) $(-> $ret)? {
                // SAFETY: every CPU has what the portable set needs.
                unsafe { $body::<Portable>($($arg),*) }
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,popcnt,lzcnt")]
            pub(crate) fn avx2($($arg: $ty),*) $(-> $ret)? {
                // SAFETY: these are the features of the set.
                unsafe { $body::<x86::Avx2>($($arg),*) }
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,popcnt,lzcnt,avx512f,avx512bw,avx512vl,avx512dq,avx512cd")]
            pub(crate) fn avx512($($arg: $ty),*) $(-> $ret)? {
                // SAFETY: these are the features of the set.
                unsafe { $body::<x86::Avx512>($($arg),*) }
            }

            #[cfg(target_arch = "aarch64")]
            pub(crate) fn neon($($arg: $ty),*) $(-> $ret)? {
                // SAFETY: every CPU of the target has NEON.
                unsafe { $body::<neon::Neon>($($arg),*) }
            }
        }
    )*};
}

/// # Safety
/// The CPU has the set.
#[inline(always)]
unsafe fn mask_count_body<S: Set>(mask: &[u8]) -> usize {
    // SAFETY: the caller has the set.
    unsafe { S::count(mask) }
}

/// # Safety
/// The CPU has the set.
#[inline(always)]
unsafe fn expand_row_body<S: Set>(mask: &[u8], values: &[f32], out: &mut [f32]) -> usize {
    // SAFETY: the caller has the set.
    unsafe { S::expand(mask, values, out) }
}

variants! {
    /// Number of set bits.
    count = mask_count_body; fn(mask: &[u8]) -> usize
    /// Opens one row into `out`, zeros elsewhere; returns the values taken.
    expand_row = expand_row_body; fn(mask: &[u8], values: &[f32], out: &mut [f32]) -> usize
    /// Columns of one row's set bits.
    list_mask = list_mask_body; fn(mask: &[u8], indices: &mut [u16]) -> usize
    /// Whether lists rise below `cols`.
    ascend = ascend_body; fn(bounds: &[u32], indices: &[u16], cols: usize) -> bool
    /// `out[b][r] = Σ w[r][k] · x[b][k]` for vectors that begin `stride` apart.
    mask_dot = mask_dot_body; fn(m: &MaskRows<'_>, x: &[f32], stride: usize, out: &mut [f32])
    /// `sums[r][l] = Σ w[r][k] · panel[k][l]`.
    mask_panel = mask_panel_body; fn(m: &MaskRows<'_>, panel: &[f32], lanes: usize, sums: &mut [f32])
    /// `y[j] += Σ g[r] · w[r][first + j]`.
    mask_add = mask_add_body; fn(m: &MaskRows<'_>, g: &[f32], first: usize, y: &mut [f32])
    /// `out[r] = Σ w[r][k] · x[k]`.
    index_dot = index_dot_body; fn(m: &IndexRows<'_>, x: &[f32; INDEX_COLS], out: &mut [f32])
    /// `sums[r][l] = Σ w[r][k] · panel[k][l]`.
    index_panel = index_panel_body;
    fn(m: &IndexRows<'_>, panel: &[f32], lanes: usize, block: usize, sums: &mut [f32])
    /// `y[j][l] += Σ g[r][l] · w[r][first + j]`.
    index_add = index_add_body;
    fn(m: &IndexRows<'_>, g: &[f32], lanes: usize, first: usize, y: &mut [f32])
}

/// The kernels for which VBMI2 and VPOPCNTDQ make a difference.
#[cfg(target_arch = "x86_64")]
pub(crate) mod vbmi2 {
    use super::*;

    /// Number of set bits.
    #[target_feature(
        enable = "avx2,fma,f16c,bmi1,bmi2,popcnt,lzcnt,avx512f,avx512bw,avx512vl,avx512dq,avx512cd,avx512vpopcntdq"
    )]
    pub(crate) fn count(mask: &[u8]) -> usize {
        count_body(mask)
    }

    /// Columns of one row's set bits.
    #[target_feature(
        enable = "avx2,fma,f16c,bmi1,bmi2,popcnt,lzcnt,avx512f,avx512bw,avx512vl,avx512dq,avx512cd,avx512vbmi,avx512vbmi2,avx512vpopcntdq"
    )]
    pub(crate) fn list_mask(mask: &[u8], indices: &mut [u16]) -> usize {
        // SAFETY: these are the features of the set.
        unsafe { list_mask_body::<x86::Vbmi2>(mask, indices) }
    }

    /// `sums[r][l] = Σ w[r][k] · panel[k][l]`.
    #[target_feature(
        enable = "avx2,fma,f16c,bmi1,bmi2,popcnt,lzcnt,avx512f,avx512bw,avx512vl,avx512dq,avx512cd,avx512vbmi,avx512vbmi2,avx512vpopcntdq"
    )]
    pub(crate) fn mask_panel(m: &MaskRows<'_>, panel: &[f32], lanes: usize, sums: &mut [f32]) {
        // SAFETY: these are the features of the set.
        unsafe { mask_panel_body::<x86::Vbmi2>(m, panel, lanes, sums) }
    }
}
