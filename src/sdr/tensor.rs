//! Vectors and rows of tensors as sets: near directions share bits.

use std::ops::Range;

use rayon::prelude::*;

use super::hash;
use super::scalar::check_active;
use super::set::Sdr;
use crate::bytes::checked_mul;
use crate::error::{Error, Result};
use crate::form::Tensor;
use crate::kernel;
use crate::tensor::View;

/// A vector as the `w` winners among `n` sums of a few of its elements, signs and
/// elements chosen by a seed:
///
/// `y_i = Σ_{j ∈ S_i} ±x_j`, |S_i| = taps; active are the w largest y.
///
/// The fruit fly hashes odours so (Dasgupta, Stevens and Navlakha 2017, there without
/// signs, after the mean was taken off). Scaling a vector changes nothing; two vectors
/// share the more bits the smaller their angle is. More active bits tell angles finer: the
/// overlap of w bits is a sample whose relative spread falls as 1/√w.
///
/// Cost: n · taps additions a vector. Memory: 4 · n · taps bytes. Sets are the same on
/// every machine: sums are kept in sixteen lanes and added in one order.
#[derive(Clone, Debug)]
pub struct TensorEncoder {
    inputs: usize,
    active: usize,
    taps: usize,
    /// Sorted elements of each sum.
    elements: Vec<u32>,
    /// A bit for each of them, set for minus.
    signs: Vec<u8>,
}

impl TensorEncoder {
    /// For vectors of `inputs` elements: `active` of `bits` bits, each a sum of a tenth of
    /// the elements, from 8 to 64 of them (all if there are fewer).
    pub fn new(inputs: usize, bits: usize, active: usize, seed: u64) -> Result<Self> {
        let taps = (inputs / 10).clamp(8, 64).min(inputs);
        Self::with_taps(inputs, bits, active, taps, seed)
    }

    /// As [`new`](Self::new), with this many elements in each sum.
    pub fn with_taps(
        inputs: usize,
        bits: usize,
        active: usize,
        taps: usize,
        seed: u64,
    ) -> Result<Self> {
        check_active(bits, active)?;
        if taps == 0 || taps > inputs || inputs > i32::MAX as usize {
            return Err(Error::invalid(format!(
                "sums of {taps} of {inputs} elements"
            )));
        }
        let all = checked_mul(bits, taps)?;
        let mut elements = Vec::new();
        elements
            .try_reserve_exact(all)
            .map_err(|_| Error::limit(format!("{bits} sums of {taps} elements")))?;
        for i in 0..bits {
            let own = hash::mix(seed, i as u64);
            match taps == inputs {
                true => elements.extend(0..inputs as u32),
                false => elements.extend(hash::distinct(own, inputs as u32, 0..taps as u64)),
            }
        }
        let signs = (0..all.div_ceil(8))
            .map(|i| (hash::mix(!seed, i as u64) >> 56) as u8)
            .collect();
        Ok(Self {
            inputs,
            active,
            taps,
            elements,
            signs,
        })
    }

    /// n.
    pub fn bits(&self) -> usize {
        self.elements.len() / self.taps
    }

    /// Elements of a vector.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// The set of a vector: `w` bits, or none for a vector of zeros, which has no
    /// direction. NaN and infinity are refused.
    pub fn encode(&self, x: &[f32]) -> Result<Sdr> {
        if x.len() != self.inputs {
            return Err(Error::invalid(format!(
                "{} elements for an encoder of {}",
                x.len(),
                self.inputs
            )));
        }
        let kernels = kernel::best();
        let (min, max) = kernels
            .min_max(x)
            .map_err(|i| Error::invalid(format!("{} at index {i} has no set", x[i])))?;
        let size = max.max(-min);
        if size == 0.0 {
            return Sdr::from_sorted(self.bits(), Vec::new());
        }
        // To size one, so that no sum overflows.
        let x: Vec<f32> = x.iter().map(|v| v / size).collect();
        let mut sums: Vec<(f32, u32)> = self
            .elements
            .chunks_exact(self.taps)
            .enumerate()
            .map(|(i, elements)| {
                let sum = kernels.gather_signed(elements, 0, &self.signs, i * self.taps, &x);
                (sum, i as u32)
            })
            .collect();
        // The larger sum first, the earlier bit of equal ones; −0 is 0.
        let order = |a: &(f32, u32), b: &(f32, u32)| {
            (b.0 + 0.0).total_cmp(&(a.0 + 0.0)).then(a.1.cmp(&b.1))
        };
        sums.select_nth_unstable_by(self.active - 1, order);
        let winners = sums[..self.active].iter().map(|s| s.1).collect();
        Sdr::new(self.bits(), winners)
    }

    /// The sets of all rows of a matrix, in parallel.
    pub fn encode_rows(&self, view: &View<'_>) -> Result<Vec<Sdr>> {
        self.windows(view.rows(), view.cols(), |rows, out| {
            view.read_rows_f32(rows, out);
            Ok(())
        })
    }

    /// The sets of all rows of a compressed tensor, a window of them decoded at a time.
    pub fn encode_tensor(&self, tensor: &Tensor) -> Result<Vec<Sdr>> {
        self.windows(tensor.rows(), tensor.cols(), |rows, out| {
            tensor.decode_rows_f32(rows, out)
        })
    }

    fn windows(
        &self,
        rows: usize,
        cols: usize,
        read: impl Fn(Range<usize>, &mut [f32]) -> Result<()> + Sync,
    ) -> Result<Vec<Sdr>> {
        if cols != self.inputs {
            return Err(Error::invalid(format!(
                "rows of {cols} elements for an encoder of {}",
                self.inputs
            )));
        }
        // Blocks of compressed rows are decoded once if a window holds whole ones.
        let step = ((64 << 10) / cols).max(16);
        let windows: Vec<Vec<Sdr>> = (0..rows.div_ceil(step))
            .into_par_iter()
            .map(|i| {
                let range = i * step..((i + 1) * step).min(rows);
                let mut values = vec![0.0f32; range.len() * cols];
                read(range.clone(), &mut values)?;
                let rows = values.chunks_exact(cols).zip(range);
                rows.map(|(x, row)| self.encode(x).map_err(|e| e.context(format!("row {row}"))))
                    .collect()
            })
            .collect::<Result<_>>()?;
        Ok(windows.into_iter().flatten().collect())
    }
}
