//! Sparse rows times dense vectors, and their transpose.
//!
//! A row is a list of slots with one value each, or with a pair of values that is read as
//! a complex number. The dense side has one vector (`_one`), or [`LANES`] of them side by
//! side (`_lanes`), so that a vector of the machine holds one slot of sixteen batch rows
//! and nothing is gathered.

use std::ops::Range;

use super::autovec;

/// Batch rows that lie side by side.
pub const LANES: usize = 16;

/// Some rows of a sparse matrix.
#[derive(Clone, Copy, Debug)]
pub struct SparseRows<'a> {
    /// Where each row's slots begin, and where the last row's end.
    pub starts: &'a [usize],
    /// Slots of all rows, ascending within a row.
    pub slots: &'a [u32],
    /// One value a slot, or two.
    pub values: &'a [f32],
    /// Whether slots have two values, the real and the imaginary part.
    pub pairs: bool,
}

impl SparseRows<'_> {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.starts.len().saturating_sub(1)
    }

    #[inline(always)]
    fn row(&self, row: usize) -> (&[u32], &[f32]) {
        let (from, to) = (self.starts[row], self.starts[row + 1]);
        let values = match self.pairs {
            true => &self.values[2 * from..2 * to],
            false => &self.values[from..to],
        };
        (&self.slots[from..to], values)
    }
}

#[inline(always)]
fn add<const L: usize>(sum: &mut [f32; L], v: f32, x: &[f32; L]) {
    for (s, x) in sum.iter_mut().zip(x) {
        *s += v * x;
    }
}

/// The sums of `A` accumulators, which take turns so that additions do not wait for each
/// other.
#[inline(always)]
fn total<const L: usize, const A: usize>(sums: &[[f32; L]; A]) -> [f32; L] {
    std::array::from_fn(|l| sums.iter().map(|s| s[l]).fold(0.0, |a, b| a + b))
}

#[inline(always)]
fn dots<const L: usize, const A: usize>(m: &SparseRows<'_>, x: &[f32], out: &mut [f32]) {
    let x = x.as_chunks::<L>().0;
    let out = out.as_chunks_mut::<L>().0;
    for row in 0..m.rows() {
        let (slots, values) = m.row(row);
        if m.pairs {
            let values = values.as_chunks::<2>().0;
            let (mut re, mut im) = ([[0.0; L]; A], [[0.0; L]; A]);
            let (head, tail) = slots.as_chunks::<A>();
            let (value_head, value_tail) = values.as_chunks::<A>();
            for (slots, values) in head.iter().zip(value_head) {
                for a in 0..A {
                    let [c, d] = [&x[2 * slots[a] as usize], &x[2 * slots[a] as usize + 1]];
                    let [v, w] = values[a];
                    add(&mut re[a], v, c);
                    add(&mut im[a], w, c);
                    add(&mut re[a], w, d);
                    add(&mut im[a], -v, d);
                }
            }
            for (slot, [v, w]) in tail.iter().zip(value_tail) {
                let [c, d] = [&x[2 * *slot as usize], &x[2 * *slot as usize + 1]];
                add(&mut re[0], *v, c);
                add(&mut im[0], *w, c);
                add(&mut re[0], *w, d);
                add(&mut im[0], -*v, d);
            }
            (out[2 * row], out[2 * row + 1]) = (total(&re), total(&im));
        } else {
            let mut sums = [[0.0; L]; A];
            let (head, tail) = slots.as_chunks::<A>();
            let (value_head, value_tail) = values.as_chunks::<A>();
            for (slots, values) in head.iter().zip(value_head) {
                for a in 0..A {
                    add(&mut sums[a], values[a], &x[slots[a] as usize]);
                }
            }
            for (slot, v) in tail.iter().zip(value_tail) {
                add(&mut sums[0], *v, &x[*slot as usize]);
            }
            out[row] = total(&sums);
        }
    }
}

#[inline(always)]
fn scatter<const L: usize>(m: &SparseRows<'_>, g: &[f32], range: Range<u32>, y: &mut [f32]) {
    let g = g.as_chunks::<L>().0;
    let y = y.as_chunks_mut::<L>().0;
    for row in 0..m.rows() {
        let (slots, values) = m.row(row);
        let from = slots.partition_point(|s| *s < range.start);
        let to = from + slots[from..].partition_point(|s| *s < range.end);
        let entries = slots[from..to].iter().map(|s| (*s - range.start) as usize);
        if m.pairs {
            let (c, d) = (&g[2 * row], &g[2 * row + 1]);
            let values = &values.as_chunks::<2>().0[from..to];
            for (slot, [v, w]) in entries.zip(values) {
                let [re, im] = y[2 * slot..].first_chunk_mut::<2>().expect("a pair a slot");
                add(re, *v, c);
                add(re, *w, d);
                add(im, *w, c);
                add(im, -*v, d);
            }
        } else {
            for (slot, v) in entries.zip(&values[from..to]) {
                add(&mut y[slot], *v, &g[row]);
            }
        }
    }
}

#[inline(always)]
fn one_body(m: &SparseRows<'_>, x: &[f32], out: &mut [f32]) {
    dots::<1, 4>(m, x, out);
}

#[inline(always)]
fn lanes_body(m: &SparseRows<'_>, x: &[f32], out: &mut [f32]) {
    dots::<LANES, 4>(m, x, out);
}

#[inline(always)]
fn add_one_body(m: &SparseRows<'_>, g: &[f32], range: Range<u32>, y: &mut [f32]) {
    scatter::<1>(m, g, range, y);
}

#[inline(always)]
fn add_lanes_body(m: &SparseRows<'_>, g: &[f32], range: Range<u32>, y: &mut [f32]) {
    scatter::<LANES>(m, g, range, y);
}

autovec! {
    /// Products with one vector.
    one = one_body; fn(m: &SparseRows<'_>, x: &[f32], out: &mut [f32])
}

autovec! {
    /// Products with sixteen vectors.
    lanes = lanes_body; fn(m: &SparseRows<'_>, x: &[f32], out: &mut [f32])
}

autovec! {
    /// Transposed products with one vector.
    add_one = add_one_body; fn(m: &SparseRows<'_>, g: &[f32], range: Range<u32>, y: &mut [f32])
}

autovec! {
    /// Transposed products with sixteen vectors.
    add_lanes = add_lanes_body; fn(m: &SparseRows<'_>, g: &[f32], range: Range<u32>, y: &mut [f32])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::available;

    fn number(i: usize) -> f32 {
        (i * 2654435761 % 1009) as f32 / 504.0 - 1.0
    }

    #[test]
    fn every_set_agrees_with_the_definition() {
        // Rows of 0 to 12 slots of 40.
        let (mut starts, mut slots) = (vec![0], Vec::new());
        for row in 0..13usize {
            slots.extend((0..row).map(|i| (i * 3 + row % 4) as u32));
            starts.push(slots.len());
        }
        let rows = starts.len() - 1;
        for pairs in [false, true] {
            let numbers = if pairs { 2 } else { 1 };
            let values: Vec<f32> = (0..slots.len() * numbers).map(number).collect();
            let m = SparseRows {
                starts: &starts,
                slots: &slots,
                values: &values,
                pairs,
            };
            for lanes in [1, LANES] {
                let x: Vec<f32> = (0..40 * numbers * lanes).map(|i| number(i + 7)).collect();
                let g: Vec<f32> = (0..rows * numbers * lanes).map(|i| number(i + 9)).collect();
                let range = 5..31u32;
                let mut y = vec![0.0f64; rows * numbers * lanes];
                let mut z = vec![1.0f64; range.len() * numbers * lanes];
                for row in 0..rows {
                    for at in starts[row]..starts[row + 1] {
                        let slot = slots[at] as usize;
                        for lane in 0..lanes {
                            let f = |v: &[f32], i: usize| f64::from(v[i * lanes + lane]);
                            // v · conj(x) of numbers (v, w) and (c, d).
                            let times = |c: f64, d: f64| match pairs {
                                false => [f64::from(values[at]) * c, 0.0],
                                true => {
                                    let v = f64::from(values[2 * at]);
                                    let w = f64::from(values[2 * at + 1]);
                                    [v * c + w * d, w * c - v * d]
                                }
                            };
                            let imaginary = |v: &[f32], i: usize| match pairs {
                                true => f(v, i + 1),
                                false => 0.0,
                            };
                            let p = times(f(&x, slot * numbers), imaginary(&x, slot * numbers));
                            let q = times(f(&g, row * numbers), imaginary(&g, row * numbers));
                            for i in 0..numbers {
                                y[(row * numbers + i) * lanes + lane] += p[i];
                                if range.contains(&(slot as u32)) {
                                    let slot = slot - range.start as usize;
                                    z[(slot * numbers + i) * lanes + lane] += q[i];
                                }
                            }
                        }
                    }
                }
                let close = |a: &[f32], b: &[f64]| {
                    a.iter()
                        .zip(b)
                        .all(|(a, b)| (f64::from(*a) - b).abs() < 1e-5)
                };
                for set in available() {
                    let mut found = vec![9.0; y.len()];
                    let mut added = vec![1.0; z.len()];
                    if lanes == 1 {
                        set.spmm_one(&m, &x, &mut found);
                        set.spmm_add_one(&m, &g, range.clone(), &mut added);
                    } else {
                        set.spmm_lanes(&m, &x, &mut found);
                        set.spmm_add_lanes(&m, &g, range.clone(), &mut added);
                    }
                    assert!(close(&found, &y), "{:?} {pairs} {lanes}", set.isa());
                    assert!(close(&added, &z), "{:?} {pairs} {lanes}", set.isa());
                }
            }
        }
    }
}
