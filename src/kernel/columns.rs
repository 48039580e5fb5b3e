//! Disjoint column panels of a row-major output, so that threads can fill them at once.

use std::marker::PhantomData;

/// Some columns of a row-major matrix, exclusively borrowed.
#[derive(Debug)]
pub struct Columns<'a> {
    first: *mut f32,
    rows: usize,
    cols: usize,
    /// Elements from one row to the next.
    stride: usize,
    owner: PhantomData<&'a mut [f32]>,
}

// SAFETY: a panel is an exclusive borrow of f32 elements that no other panel reaches
// (`take_front` is the only way to make two of one, and it divides the columns).
unsafe impl Send for Columns<'_> {}

impl<'a> Columns<'a> {
    /// All columns of `data[data.len() / cols, cols]`.
    pub fn new(data: &'a mut [f32], cols: usize) -> Self {
        let rows = data.len().checked_div(cols).unwrap_or(0);
        Self {
            first: data.as_mut_ptr(),
            rows,
            cols,
            stride: cols,
            owner: PhantomData,
        }
    }

    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Splits off the first `n` columns, or as many as there are.
    pub fn take_front(&mut self, n: usize) -> Columns<'a> {
        let n = n.min(self.cols);
        let front = Columns {
            first: self.first,
            cols: n,
            ..*self
        };
        // SAFETY: n ≤ cols, so the pointer stays inside the first row or at its end.
        self.first = unsafe { self.first.add(n) };
        self.cols -= n;
        front
    }

    /// Where the first row begins, and elements from one row to the next.
    pub(super) fn as_mut_ptr(&mut self) -> (*mut f32, usize) {
        (self.first, self.stride)
    }

    /// One row of the panel.
    pub fn row_mut(&mut self, row: usize) -> &mut [f32] {
        assert!(row < self.rows);
        // SAFETY: row < rows, and a panel's columns lie within the stride, so the range
        // is inside the borrowed data; `&mut self` keeps it unique.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(row * self.stride), self.cols) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panels_cover_the_matrix_once() {
        let mut data = vec![0.0f32; 3 * 10];
        let mut all = Columns::new(&mut data, 10);
        let mut next = 1.0;
        while all.cols() > 0 {
            let mut panel = all.take_front(4);
            for r in 0..panel.rows() {
                for v in panel.row_mut(r) {
                    *v += next;
                }
            }
            next += 1.0;
        }
        let row = [1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0, 3.0, 3.0];
        assert_eq!(data, [row, row, row].concat());
    }
}
