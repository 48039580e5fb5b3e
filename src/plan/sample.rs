//! The part of a tensor that candidates are measured on.

use crate::bytes::AlignedBytes;
use crate::dtype::DType;
use crate::error::Result;
use crate::tensor::View;

/// Elements of the sample that candidates are measured on: error and size of 256 Ki
/// weights are within 1 % of the whole tensor's on all matrices of the test models.
const SAMPLE_ELEMENTS: usize = 256 << 10;

/// Places that the sample is taken from, spread evenly.
const SAMPLE_WINDOWS: usize = 8;

/// Sides of the square that is asked whether a tensor has structure.
const CROP: usize = 128;

/// Rows from all over a tensor, or all of a small one.
pub(super) struct Sample<'a> {
    whole: Option<View<'a>>,
    bytes: AlignedBytes,
    shape: [usize; 2],
    dtype: DType,
    /// Share of zeros.
    pub(super) zeros: f64,
}

impl<'a> Sample<'a> {
    pub(super) fn of(view: &View<'a>) -> Result<Self> {
        let (rows, cols) = (view.rows(), view.cols());
        let row_bytes = cols * view.dtype().size();
        // Windows of whole tiles.
        let per_window = (SAMPLE_ELEMENTS / SAMPLE_WINDOWS / cols.max(1)).next_multiple_of(16);
        if view.len() <= SAMPLE_ELEMENTS || per_window.saturating_mul(SAMPLE_WINDOWS) >= rows {
            let zeros = zero_share(view);
            return Ok(Self {
                whole: Some(view.clone()),
                bytes: AlignedBytes::default(),
                shape: [rows, cols],
                dtype: view.dtype(),
                zeros,
            });
        }
        let mut bytes = AlignedBytes::zeroed(per_window * SAMPLE_WINDOWS * row_bytes)?;
        for (i, out) in bytes.chunks_exact_mut(per_window * row_bytes).enumerate() {
            let start = (rows - per_window) * i / (SAMPLE_WINDOWS - 1);
            view.read_rows(start..start + per_window, out);
        }
        let mut sample = Self {
            whole: None,
            bytes,
            shape: [per_window * SAMPLE_WINDOWS, cols],
            dtype: view.dtype(),
            zeros: 0.0,
        };
        sample.zeros = zero_share(&sample.view()?);
        Ok(sample)
    }

    /// Whether it is all of the tensor.
    pub(super) fn is_whole(&self) -> bool {
        self.whole.is_some()
    }

    pub(super) fn view(&self) -> Result<View<'_>> {
        match &self.whole {
            Some(view) => Ok(view.clone()),
            None => View::new(self.dtype, &self.shape, &self.bytes),
        }
    }
}

fn zero_share(view: &View<'_>) -> f64 {
    let mut row = vec![0u8; view.cols() * view.dtype().size()];
    let mut zeros = 0usize;
    for r in 0..view.rows() {
        if row.is_empty() {
            break;
        }
        view.read_rows(r..r + 1, &mut row);
        let elements = row.chunks_exact(view.dtype().size());
        zeros += elements.filter(|e| e.iter().all(|b| *b == 0)).count();
    }
    zeros as f64 / view.len().max(1) as f64
}

/// A square from the middle of a tensor as a matrix, neighbours left neighbours: f32
/// values and the shape.
pub(super) fn crop(view: &View<'_>) -> (Vec<f32>, [usize; 2]) {
    let (rows, cols) = (view.rows().min(CROP), view.cols().min(CROP));
    let (top, left) = ((view.rows() - rows) / 2, (view.cols() - cols) / 2);
    let mut row = vec![0.0; view.cols()];
    let mut out = Vec::with_capacity(rows * cols);
    for r in top..top + rows {
        view.read_rows_f32(r..r + 1, &mut row);
        out.extend_from_slice(&row[left..left + cols]);
    }
    (out, [rows, cols])
}
