//! Calibration files: second moments of the inputs of a model's tensors.
//!
//! A calibration file is a model file of any format that can be imported (safetensors, npy,
//! npz). The entry for a tensor has the tensor's own name and is of floats: `[in]`, the
//! mean of each input's square, or `[in, in]`, the means of the products of inputs, where
//! `in` is the number of columns of the tensor as a matrix (all dimensions but the first).
//! Only ratios matter, so sums do as well as means. Tensors without an entry are encoded
//! without one, and entries without a tensor are passed over.

use std::collections::BTreeMap;
use std::path::Path;

use crate::calibration::Moments;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::export::safetensors::{TensorInfo, Writer};
use crate::import::Model;

/// An opened calibration file. Entries are read when they are asked for.
#[derive(Debug)]
pub struct Calibration {
    file: Model,
}

impl Calibration {
    /// Opens a file of any format of `import`.
    pub fn open(path: &Path) -> Result<Self> {
        let file = Model::open(path).map_err(|e| e.context("calibration"))?;
        Ok(Self { file })
    }

    /// Whether there is an entry for the tensor of this name.
    pub fn has(&self, name: &str) -> bool {
        self.file.get(name).is_some()
    }

    /// The moments of the inputs of a tensor whose rows have `cols` columns; `None` where
    /// the file has no entry of its name.
    pub fn moments(&self, name: &str, shape: &[usize], cols: usize) -> Result<Option<Moments>> {
        let Some(entry) = self.file.get(name) else {
            return Ok(None);
        };
        let read = || -> Result<Moments> {
            if !entry.dtype().is_float() {
                return Err(Error::invalid(format!(
                    "the calibration entry is {}; floats are needed",
                    entry.dtype()
                )));
            }
            let full = entry.shape() == [cols, cols];
            if !full && entry.shape() != [cols] {
                return Err(Error::invalid(format!(
                    "the calibration entry has shape {:?}; [{cols}] or [{cols}, {cols}] is needed for a tensor of shape {shape:?}",
                    entry.shape()
                )));
            }
            let view = entry.view();
            let mut values = vec![0.0f32; view.len()];
            view.read_rows_f32(0..view.rows(), &mut values);
            let moments = match full {
                true => Moments::from_matrix(cols, values),
                false => Moments::from_diagonal(values),
            };
            entry.forget();
            moments.map_err(|e| e.context("calibration"))
        };
        read().map(Some).map_err(|e| e.with_tensor(name))
    }
}

/// Writes moments by the names of the tensors whose inputs they are of, as a calibration
/// file in safetensors, f32. Returns its size.
pub fn write_calibration(path: &Path, moments: &BTreeMap<String, Moments>) -> Result<u64> {
    let info = |(name, m): (&String, &Moments)| TensorInfo {
        name: name.clone(),
        dtype: DType::F32,
        shape: vec![m.dim(); if m.matrix().is_some() { 2 } else { 1 }],
    };
    let infos: Vec<_> = moments.iter().map(info).collect();
    let mut writer = Writer::create(path, &infos, &BTreeMap::new())?;
    for m in moments.values() {
        for v in m.matrix().unwrap_or(m.diagonal()).chunks(1 << 16) {
            let bytes: Vec<u8> = v.iter().flat_map(|v| v.to_le_bytes()).collect();
            writer.write(&bytes)?;
        }
    }
    writer.finish()
}
