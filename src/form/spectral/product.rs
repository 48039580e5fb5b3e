//! Products in the frequency domain.
//!
//! Input rows are transformed, multiplied by the sparse coefficients, and, where columns
//! are transformed too, transformed back: `y = T₂ᵀ (S (T₁ x))`, transposed
//! `y = T₁ᵀ (Sᵀ (T₂ g))`. A batch is laid in tiles of sixteen vectors side by side, so
//! that a coefficient multiplies a machine vector; one or two vectors are taken singly.

use std::ops::Range;
use std::sync::Mutex;

use super::layout::Entries;
use super::transform::{Plans, Work};
use super::{CHUNK_NUMBERS, Spectral, power};
use crate::error::Result;
use crate::form::product::run_workers;
use crate::form::{Form, Product, Scratch};
use crate::kernel::columns::Columns;
use crate::kernel::spmm::LANES;

/// Vectors that are worked on at once, so that memory is bounded.
const GROUP: usize = 256;

/// Up to here vectors are taken singly.
const SINGLE: usize = 2;

/// Runs `f` on every item, each on one of `workers` threads.
fn each<T: Send, S>(
    workers: usize,
    items: impl Iterator<Item = T> + Send,
    start: impl Fn() -> S + Sync,
    f: impl Fn(&mut S, T) -> Result<()> + Sync,
) -> Result<()> {
    let items = Mutex::new(items);
    run_workers(workers, || {
        let mut state = start();
        loop {
            let next = items.lock().unwrap_or_else(|e| e.into_inner()).next();
            match next {
                Some(item) => f(&mut state, item)?,
                None => return Ok(()),
            }
        }
    })
}

/// Vectors of `width` numbers one after the other, or in tiles of [`LANES`] side by side.
struct Vectors {
    data: Vec<f32>,
    width: usize,
    lanes: usize,
}

impl Vectors {
    fn zeros(count: usize, width: usize) -> Self {
        let lanes = if count <= SINGLE { 1 } else { LANES };
        Self {
            data: vec![0.0; count.next_multiple_of(lanes) * width],
            width,
            lanes,
        }
    }

    /// Numbers of a tile.
    fn tile(&self) -> usize {
        self.width * self.lanes
    }

    fn tiles(&self) -> impl Iterator<Item = &[f32]> {
        self.data.chunks_exact(self.tile())
    }

    /// Fills every tile from `fill(index of the vector, its numbers)`.
    fn fill(
        &mut self,
        workers: usize,
        count: usize,
        fill: impl Fn(usize, &mut [f32], &mut Work<f32>) + Sync,
    ) -> Result<()> {
        let (tile, width, lanes) = (self.tile(), self.width, self.lanes);
        let tiles = self.data.chunks_exact_mut(tile).enumerate();
        each(
            workers,
            tiles,
            || (Work::default(), vec![0.0; tile]),
            |(work, rows), (i, tile)| {
                let n = lanes.min(count - i * lanes);
                if lanes == 1 {
                    fill(i, tile, work);
                    return Ok(());
                }
                for (lane, row) in rows.chunks_exact_mut(width).take(n).enumerate() {
                    fill(i * lanes + lane, row, work);
                }
                rows[n * width..].fill(0.0);
                transpose(rows, lanes, width, tile);
                Ok(())
            },
        )
    }
}

/// `to[col][row] = from[row][col]`.
fn transpose(from: &[f32], rows: usize, cols: usize, to: &mut [f32]) {
    // Squares of a cache line's side.
    for col in (0..cols).step_by(16) {
        for row in (0..rows).step_by(16) {
            for c in col..cols.min(col + 16) {
                for r in row..rows.min(row + 16) {
                    to[c * rows + r] = from[r * cols + c];
                }
            }
        }
    }
}

impl Spectral {
    /// Cuts the rows so that each piece holds few numbers, and at least one row. A row
    /// also costs its sums, one of each lane.
    fn pieces(&self, most: usize) -> Vec<Range<usize>> {
        let numbers = self.geometry.values();
        let (mut out, mut first) = (Vec::new(), 0);
        for row in 0..self.meta.rows {
            let held = (self.starts[row + 1] - self.starts[first]) * numbers;
            if row > first && (held > most || (row - first) * LANES >= most) {
                out.push(first..row);
                first = row;
            }
        }
        out.push(first..self.meta.rows);
        out
    }

    fn workers(&self, batch: usize, product: &Product<'_>) -> usize {
        product.workers(self.matmul_macs().saturating_mul(batch as u64))
    }

    /// Numbers of the pieces that `workers` threads hold at once.
    fn piece_numbers(&self, workers: usize, product: &Product<'_>) -> usize {
        // A number takes four bytes, its slot as many.
        let most = product.scratch_bytes / (8 * workers);
        // Four pieces a worker even out the end.
        let share = (self.count * self.geometry.values()).div_ceil(4 * workers);
        share.clamp(1 << 10, CHUNK_NUMBERS).min(most.max(1))
    }

    fn rescale(&self, y: &mut [f32]) {
        let scale = power(self.exponent);
        for y in y {
            *y = (f64::from(*y) * scale) as f32;
        }
    }

    pub(super) fn multiply(
        &self,
        x: &[f32],
        batch: usize,
        y: &mut [f32],
        product: &Product<'_>,
    ) -> Result<()> {
        let (rows, cols) = (self.meta.rows, self.meta.cols);
        let plans = self.fast(product.kernels);
        let workers = self.workers(batch, product);
        let pieces = self.pieces(self.piece_numbers(workers, product));
        for (x, y) in x.chunks(GROUP * cols).zip(y.chunks_mut(GROUP * rows)) {
            let batch = x.len() / cols;
            let mut spectra = Vectors::zeros(batch, self.geometry.width());
            spectra.fill(workers, batch, |b, out, work| {
                plans.forward_row(&x[b * cols..(b + 1) * cols], out, work);
            })?;
            if self.geometry.results() == 1 {
                self.sparse(&spectra, batch, &pieces, workers, y, product)?;
                each(
                    workers,
                    y.chunks_exact_mut(rows),
                    Work::default,
                    |work, y| {
                        plans.inverse_column(y, 1, work);
                        self.rescale(y);
                        Ok(())
                    },
                )?;
                continue;
            }
            let mut complex = vec![0.0f32; batch * rows * 2];
            self.sparse(&spectra, batch, &pieces, workers, &mut complex, product)?;
            let both = complex.chunks_exact_mut(rows * 2);
            each(
                workers,
                both.zip(y.chunks_exact_mut(rows)),
                Work::default,
                |work, (complex, y)| {
                    plans.inverse_column(complex, 2, work);
                    for (y, c) in y.iter_mut().zip(complex.as_chunks::<2>().0) {
                        *y = c[0];
                    }
                    self.rescale(y);
                    Ok(())
                },
            )?;
        }
        Ok(())
    }

    /// `out[batch, rows · results]`: the coefficients times the spectra.
    fn sparse(
        &self,
        spectra: &Vectors,
        batch: usize,
        pieces: &[Range<usize>],
        workers: usize,
        out: &mut [f32],
        product: &Product<'_>,
    ) -> Result<()> {
        let kernels = product.kernels;
        let (numbers, results) = (self.geometry.values(), self.geometry.results());
        let panels = Columns::new(out, self.meta.rows * results);
        let panels = pieces.iter().scan(panels, |left, rows| {
            Some((rows.clone(), left.take_front(rows.len() * results)))
        });
        each(
            workers,
            panels,
            || (Entries::default(), Scratch::default(), Vec::new()),
            |(entries, scratch, sums), (rows, mut panel)| {
                self.load(rows.clone(), entries, scratch)?;
                let lanes = spectra.lanes;
                sums.resize(rows.len() * numbers * lanes, 0.0);
                for (tile, x) in spectra.tiles().enumerate() {
                    let m = entries.rows(numbers == 2);
                    match lanes {
                        1 => kernels.spmm_one(&m, x, sums),
                        _ => kernels.spmm_lanes(&m, x, sums),
                    }
                    for lane in 0..lanes.min(batch - tile * lanes) {
                        let out = panel.row_mut(tile * lanes + lane).chunks_exact_mut(results);
                        let sums = sums.chunks_exact(numbers * lanes);
                        for (out, sums) in out.zip(sums) {
                            for (i, out) in out.iter_mut().enumerate() {
                                *out = sums[i * lanes + lane];
                            }
                        }
                    }
                }
                Ok(())
            },
        )
    }

    pub(super) fn multiply_t(
        &self,
        g: &[f32],
        batch: usize,
        y: &mut [f32],
        product: &Product<'_>,
    ) -> Result<()> {
        let (rows, cols, width) = (self.meta.rows, self.meta.cols, self.geometry.width());
        let plans = self.fast(product.kernels);
        let workers = self.workers(batch, product);
        let pieces = self.pieces(self.piece_numbers(workers, product));
        for (g, y) in g.chunks(GROUP * rows).zip(y.chunks_mut(GROUP * cols)) {
            let batch = g.len() / rows;
            let inputs = self.column_spectra(plans, g, batch, workers)?;
            let mut sums = Vectors::zeros(batch, width);
            self.sparse_t(&inputs, &mut sums, &pieces, workers, product)?;
            let lanes = sums.lanes;
            let tiles = sums.tiles().zip(y.chunks_mut(lanes * cols));
            each(
                workers,
                tiles,
                || (Work::default(), vec![0.0; width * lanes]),
                |(work, lines), (tile, y)| {
                    transpose(tile, width, lanes, lines);
                    for (line, y) in lines.chunks_exact(width).zip(y.chunks_exact_mut(cols)) {
                        plans.inverse_row(line, y, work);
                        self.rescale(y);
                    }
                    Ok(())
                },
            )?;
        }
        Ok(())
    }

    /// The vectors `g`, transformed where columns are, as complex numbers where
    /// coefficients are.
    fn column_spectra(
        &self,
        plans: &Plans<f32>,
        g: &[f32],
        batch: usize,
        workers: usize,
    ) -> Result<Vectors> {
        let (rows, numbers) = (self.meta.rows, self.geometry.values());
        let mut inputs = Vectors::zeros(batch, rows * numbers);
        inputs.fill(workers, batch, |b, out, work| {
            let g = &g[b * rows..(b + 1) * rows];
            out.fill(0.0);
            for (out, g) in out.iter_mut().step_by(numbers).zip(g) {
                *out = *g;
            }
            plans.forward_column(out, numbers, work);
        })?;
        Ok(inputs)
    }

    /// Adds the transposed coefficients times `inputs` to `sums`: pieces are read in
    /// parallel, then added in order by whoever has the tile and the slots.
    fn sparse_t(
        &self,
        inputs: &Vectors,
        sums: &mut Vectors,
        pieces: &[Range<usize>],
        workers: usize,
        product: &Product<'_>,
    ) -> Result<()> {
        let kernels = product.kernels;
        let numbers = self.geometry.values();
        let (slots, lanes, tile) = (self.geometry.slots(), sums.lanes, sums.tile());
        let cuts = workers.div_ceil(sums.data.len() / tile).min(slots);
        let step = slots.div_ceil(cuts);
        let mut round: Vec<Entries> = Vec::new();
        round.resize_with(workers.min(pieces.len()), Entries::default);
        for rows in pieces.chunks(round.len()) {
            let load = round.iter_mut().zip(rows);
            each(
                workers,
                load,
                Scratch::default,
                |scratch, (entries, rows)| self.load(rows.clone(), entries, scratch),
            )?;
            let tasks = sums.data.chunks_exact_mut(tile).zip(inputs.tiles());
            let tasks = tasks.flat_map(|(sums, g)| {
                let parts = sums.chunks_mut(step * numbers * lanes).enumerate();
                parts.map(move |(i, sums)| (i * step, sums, g))
            });
            each(
                workers,
                tasks,
                || (),
                |(), (first, sums, g)| {
                    let range = first as u32..(first + sums.len() / (numbers * lanes)) as u32;
                    for (entries, rows) in round.iter().zip(rows) {
                        let at = rows.start * numbers * lanes..rows.end * numbers * lanes;
                        let m = entries.rows(numbers == 2);
                        match lanes {
                            1 => kernels.spmm_add_one(&m, &g[at], range.clone(), sums),
                            _ => kernels.spmm_add_lanes(&m, &g[at], range.clone(), sums),
                        }
                    }
                    Ok(())
                },
            )?;
        }
        Ok(())
    }
}
