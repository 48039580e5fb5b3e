//! Calibration: what is known of the activations that a tensor will be multiplied by.

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
        let diagonal = (0..dim).map(|i| matrix[i * dim + i]).collect();
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
