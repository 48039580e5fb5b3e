//! Activations rounded to integers, for the forms whose products are made of them.

use std::sync::Mutex;

use super::product::{Product, run_workers};
use crate::kernel::dot::{Activations, Rounded, Rounding};

/// Memory of rounded activations, kept with the scratch.
#[derive(Debug, Default)]
pub struct Rounder {
    codes: Vec<i8>,
    scales: Vec<f32>,
    offsets: Vec<i32>,
    found: Vec<Rounded>,
    rows: usize,
    cols: usize,
    group: usize,
}

/// Below this many activations one thread rounds them all.
const SMALL: usize = 1 << 17;

impl Rounder {
    /// Bytes held.
    pub(super) fn held_bytes(&self) -> usize {
        self.codes.capacity()
            + 4 * (self.scales.capacity() + self.offsets.capacity())
            + size_of::<Rounded>() * self.found.capacity()
    }

    /// Rounds columns `from .. from + cols` of `x[batch, width]`, in groups of `group`
    /// columns (a multiple of 32), to `digits` digits; `half` is what codes of the weights
    /// are above what they stand for. `None` if a value is not finite.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn round(
        &mut self,
        x: &[f32],
        width: usize,
        from: usize,
        cols: usize,
        group: usize,
        digits: usize,
        half: i32,
        product: &Product<'_>,
    ) -> Option<Rounded> {
        let kernels = product.kernels;
        let (batch, most) = (x.len() / width, kernels.dot_batch());
        let rows = batch * digits;
        let padded = cols.next_multiple_of(32);
        let groups = padded.div_ceil(group);
        self.codes.resize(rows * padded, 0);
        self.scales.resize(rows * groups, 0.0);
        self.offsets.resize(rows * groups, 0);
        self.found.resize(batch, Rounded::default());
        // Digits of a row lie side by side, across pieces; without them each piece can be
        // written on its own.
        let at_once = if digits == 1 { most } else { rows };
        let pieces = self.codes.chunks_mut(at_once * padded);
        let pieces = pieces.zip(self.scales.chunks_mut(at_once * groups));
        let pieces = pieces.zip(self.offsets.chunks_mut(at_once * groups));
        let pieces = pieces.zip(self.found.chunks_mut(at_once / digits));
        let pieces = Mutex::new(pieces.enumerate());
        let workers = match batch * cols {
            n if n < SMALL || digits > 1 => 1,
            n => product.workers(n as u64 * 64).min(rows.div_ceil(at_once)),
        };
        let done = run_workers(workers, || {
            loop {
                let next = pieces.lock().unwrap_or_else(|e| e.into_inner()).next();
                let Some((i, (((codes, scales), offsets), found))) = next else {
                    return Ok(());
                };
                let mut to = Rounding {
                    group,
                    width: cols,
                    digits,
                    half,
                    most,
                    codes,
                    scales,
                    offsets,
                };
                let x = &x[i * at_once / digits * width + from..];
                kernels.round_activations(x, width, &mut to, found);
            }
        });
        let mut all = Rounded {
            finite: true,
            ..Rounded::default()
        };
        for found in &self.found {
            all.finite &= found.finite;
            all.noise += found.noise;
            all.energy += found.energy;
        }
        (self.rows, self.cols, self.group) = (rows, padded, group);
        (done.is_ok() && all.finite).then_some(all)
    }

    /// What was rounded last.
    pub(super) fn activations(&self) -> Activations<'_> {
        Activations {
            rows: self.rows,
            cols: self.cols,
            group: self.group,
            codes: &self.codes,
            scales: &self.scales,
            offsets: &self.offsets,
        }
    }
}
