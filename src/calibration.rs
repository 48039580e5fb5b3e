//! Calibration: what is known of the activations that a tensor will be multiplied by.
//!
//! [`MomentsAccumulator`] makes [`Moments`] of activations; `model::write_calibration` puts
//! those of a model's tensors into a file, which `cortex compress --calibration` takes.

use rayon::prelude::*;

use crate::error::{Error, Result};

/// Second moments of the input activations of one tensor, `H = E[x xᵀ]`, or only its
/// diagonal `E[x_j²]`. With them an encoder minimises `tr(ΔW H ΔWᵀ) = E‖ΔW x‖²`, the
/// error of the product, instead of `‖ΔW‖²`.
#[derive(Clone, Debug, PartialEq)]
pub struct Moments {
    diagonal: Vec<f32>,
    full: Option<Vec<f32>>,
}

impl Moments {
    /// From `E[x_j²]` of each input column j; none negative, all finite.
    pub fn from_diagonal(diagonal: Vec<f32>) -> Result<Self> {
        match diagonal.iter().position(|v| !v.is_finite() || *v < 0.0) {
            Some(at) => Err(Error::invalid(format!(
                "second moment {} of column {at}; finite values from 0 are needed",
                diagonal[at]
            ))),
            None => Ok(Self {
                diagonal,
                full: None,
            }),
        }
    }

    /// From the symmetric matrix `E[x_i x_j]`, `dim × dim`, row-major.
    pub fn from_matrix(dim: usize, matrix: Vec<f32>) -> Result<Self> {
        if dim.checked_mul(dim) != Some(matrix.len()) {
            return Err(Error::invalid(format!(
                "{} second moments for {dim} columns; {dim} × {dim} are needed",
                matrix.len()
            )));
        }
        if let Some(at) = matrix.iter().position(|v| !v.is_finite()) {
            return Err(Error::invalid(format!(
                "second moment {} of columns {} and {}; finite values are needed",
                matrix[at],
                at / dim,
                at % dim
            )));
        }
        let diagonal: Vec<f32> = (0..dim).map(|i| matrix[i * dim + i]).collect();
        // |E[x_i x_j]| ≤ √(E[x_i²] E[x_j²]): what is far from symmetric on that scale is no
        // matrix of moments, a weight matrix taken for one by mistake above all.
        let root = |i: usize| f64::from(diagonal[i]).max(0.0).sqrt();
        for i in 0..dim {
            for j in 0..i {
                let (a, b) = (matrix[i * dim + j], matrix[j * dim + i]);
                if (f64::from(a) - f64::from(b)).abs() > 0.01 * root(i) * root(j) {
                    return Err(Error::invalid(format!(
                        "second moment {a} of columns {i} and {j}, {b} of {j} and {i}; a symmetric matrix is needed"
                    )));
                }
            }
        }
        Ok(Self {
            full: Some(matrix),
            ..Self::from_diagonal(diagonal)?
        })
    }

    /// Number of input columns.
    pub fn dim(&self) -> usize {
        self.diagonal.len()
    }

    /// `E[x_j²]` of each column.
    pub fn diagonal(&self) -> &[f32] {
        &self.diagonal
    }

    /// `E[x_i x_j]`, row-major, where known.
    pub fn matrix(&self) -> Option<&[f32]> {
        self.full.as_deref()
    }
}

/// Sums moments of activations up, in f64.
///
/// ```
/// use cortex::calibration::MomentsAccumulator;
///
/// // Inputs of a layer with three columns: two rows, then one.
/// let mut moments = MomentsAccumulator::new(3, true)?;
/// moments.add(&[1.0, 0.0, 2.0, 1.0, 0.0, -2.0], 2)?;
/// moments.add(&[4.0, 3.0, 0.0], 1)?;
/// let moments = moments.finish()?;
/// assert_eq!(moments.diagonal(), [6.0, 3.0, 8.0 / 3.0]);
/// assert_eq!(moments.matrix().unwrap()[..3], [6.0, 4.0, 0.0]);
/// # Ok::<(), cortex::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct MomentsAccumulator {
    dim: usize,
    /// `Σ x_j²`, or the upper triangle of `Σ x_i x_j`, row-major.
    sums: Vec<f64>,
    full: bool,
    count: u64,
}

impl MomentsAccumulator {
    /// For inputs of `dim` columns; `full` for the whole matrix, which takes `8 · dim²`
    /// bytes, else its diagonal.
    pub fn new(dim: usize, full: bool) -> Result<Self> {
        let len = if full {
            dim.checked_mul(dim)
        } else {
            Some(dim)
        };
        let mut sums = Vec::new();
        let room = len.map(|len| sums.try_reserve_exact(len));
        let Some((len, Ok(()))) = len.zip(room) else {
            return Err(Error::limit(format!("second moments of {dim} columns")));
        };
        sums.resize(len, 0.0);
        Ok(Self {
            dim,
            sums,
            full,
            count: 0,
        })
    }

    /// Adds `x[batch, dim]`, row-major: every row that the layer was given (a token each).
    /// Sums do not depend on the number of threads.
    pub fn add(&mut self, x: &[f32], batch: usize) -> Result<()> {
        let dim = self.dim;
        if dim.checked_mul(batch) != Some(x.len()) {
            return Err(Error::invalid(format!(
                "{} activations for {batch} rows of {dim}",
                x.len()
            )));
        }
        if let Some(at) = x.iter().position(|v| !v.is_finite()) {
            return Err(Error::invalid(format!(
                "activation {} of row {}, column {}; finite values are needed",
                x[at],
                at / dim,
                at % dim
            )));
        }
        self.count += batch as u64;
        if dim == 0 {
            return Ok(());
        }
        if !self.full {
            for x in x.chunks_exact(dim) {
                for (sum, x) in self.sums.iter_mut().zip(x) {
                    *sum += f64::from(*x) * f64::from(*x);
                }
            }
            return Ok(());
        }
        self.sums
            .par_chunks_exact_mut(dim)
            .enumerate()
            .for_each(|(i, sums)| {
                for x in x.chunks_exact(dim) {
                    let v = f64::from(x[i]);
                    for (sum, x) in sums[i..].iter_mut().zip(&x[i..]) {
                        *sum += v * f64::from(*x);
                    }
                }
            });
        Ok(())
    }

    /// Rows added so far.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The means; an error if nothing was added.
    pub fn finish(&self) -> Result<Moments> {
        if self.count == 0 {
            return Err(Error::invalid("no activations were added"));
        }
        let mean = |sum: f64| (sum / self.count as f64) as f32;
        if !self.full {
            return Moments::from_diagonal(self.sums.iter().copied().map(mean).collect());
        }
        let dim = self.dim;
        let entry = |k: usize| {
            let (i, j) = (k / dim, k % dim);
            mean(self.sums[i.min(j) * dim + i.max(j)])
        };
        Moments::from_matrix(dim, (0..dim * dim).map(entry).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_checked() {
        assert!(Moments::from_diagonal(vec![0.0, 1.0]).is_ok());
        assert!(Moments::from_diagonal(vec![0.0, -1.0]).is_err());
        assert!(Moments::from_diagonal(vec![f32::NAN]).is_err());
        let matrix = |m: [f32; 4]| Moments::from_matrix(2, m.to_vec());
        assert_eq!(matrix([2.0, 1.0, 1.0, 3.0]).unwrap().diagonal(), [2.0, 3.0]);
        assert!(matrix([2.0, 1.0, -1.0, 3.0]).is_err());
        assert!(matrix([2.0, f32::INFINITY, 1.0, 3.0]).is_err());
        assert!(matrix([-2.0, 0.0, 0.0, 3.0]).is_err());
        assert!(Moments::from_matrix(3, vec![0.0; 4]).is_err());
        assert!(Moments::from_matrix(usize::MAX, vec![]).is_err());
        assert!(Moments::from_matrix(0, vec![]).is_ok());
    }

    #[test]
    fn the_accumulator_gives_means() {
        let x: Vec<f32> = (0..60).map(|i| ((i * 37) % 23) as f32 - 9.0).collect();
        for full in [false, true] {
            let mut all = MomentsAccumulator::new(6, full).unwrap();
            assert!(all.finish().is_err());
            all.add(&x[..24], 4).unwrap();
            all.add(&[], 0).unwrap();
            all.add(&x[24..], 6).unwrap();
            assert_eq!(all.count(), 10);
            let moments = all.finish().unwrap();
            let mean = |i: usize, j: usize| {
                let sum: f64 = x.chunks(6).map(|x| f64::from(x[i]) * f64::from(x[j])).sum();
                (sum / 10.0) as f32
            };
            for i in 0..6 {
                assert_eq!(moments.diagonal()[i], mean(i, i));
                for j in 0..6 {
                    let found = moments.matrix().map(|m| m[i * 6 + j]);
                    assert_eq!(found, full.then(|| mean(i, j)));
                }
            }
            assert!(all.add(&x[..5], 1).is_err());
            assert!(all.add(&[f32::NAN; 6], 1).is_err());
        }
        assert!(MomentsAccumulator::new(usize::MAX, true).is_err());
        assert!(MomentsAccumulator::new(1 << 50, false).is_err());
    }
}
