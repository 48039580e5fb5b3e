//! [`Tensor`]: a compressed tensor, the noun of the public API.

use std::sync::Arc;

use rayon::prelude::*;

use super::{Form, Meta, Scratch, stored_bytes, window_rows};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::pack::Buffer;
use crate::spec::Spec;
use crate::tensor::Dense;

/// How far the decoded tensor is from the original, measured when it was encoded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ErrorStats {
    /// `‖W − Ŵ‖ / ‖W‖`, Frobenius norm. 0 when exact; infinite for an all-zero tensor
    /// that does not come back all zero.
    pub relative: f64,
    /// `max |w − ŵ|`.
    pub max_abs: f64,
}

impl ErrorStats {
    /// Bit for bit.
    pub const EXACT: Self = Self {
        relative: 0.0,
        max_abs: 0.0,
    };

    /// From `Σ (w − ŵ)²`, `Σ w²` and the largest error.
    pub fn from_sums(error: f64, norm: f64, max_abs: f64) -> Self {
        let relative = if error == 0.0 {
            0.0
        } else {
            (error / norm).sqrt()
        };
        Self { relative, max_abs }
    }

    /// Signal to quantisation noise, `−20·log10(relative)`, in dB; `None` when exact.
    pub fn sqnr_db(&self) -> Option<f64> {
        (self.relative > 0.0).then(|| -20.0 * self.relative.log10())
    }
}

/// A compressed tensor: a form, the canonical spec that made it, and its measured error.
///
/// Cheap to clone: clones share the form. All methods take `&self` and may be called
/// from several threads at once.
#[derive(Clone, Debug)]
pub struct Tensor {
    name: Option<Arc<str>>,
    spec: Arc<Spec>,
    form: Arc<dyn Form>,
    error: ErrorStats,
    notes: Arc<[String]>,
}

impl Tensor {
    pub(crate) fn new(spec: Spec, form: Arc<dyn Form>, error: ErrorStats) -> Self {
        Self {
            name: None,
            spec: Arc::new(spec),
            form,
            error,
            notes: Arc::default(),
        }
    }

    /// Adds what its making is to be told with.
    #[must_use]
    pub(crate) fn with_notes(mut self, notes: impl IntoIterator<Item = String>) -> Self {
        self.notes = self.notes.iter().cloned().chain(notes).collect();
        self
    }

    /// Gives the name that errors will mention.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Its name in the archive or model that it came from.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Dtype and shape.
    pub fn meta(&self) -> &Meta {
        self.form.meta()
    }

    /// Element type that it decodes to.
    pub fn dtype(&self) -> DType {
        self.meta().dtype
    }

    /// Dimensions, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.meta().shape
    }

    /// Rows as a matrix: the first dimension.
    pub fn rows(&self) -> usize {
        self.meta().rows
    }

    /// Columns as a matrix: the product of the other dimensions.
    pub fn cols(&self) -> usize {
        self.meta().cols
    }

    /// The canonical spec; encoding the same tensor with it gives the same bytes.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// The form.
    pub fn form(&self) -> &dyn Form {
        &*self.form
    }

    /// The error measured at encode time.
    pub fn error(&self) -> ErrorStats {
        self.error
    }

    /// What the encoder did otherwise than its spec asks, such as a calibrated search
    /// without calibration. Known where the tensor was encoded; files do not hold it.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Bytes of the dense tensor.
    pub fn raw_bytes(&self) -> u64 {
        self.meta().byte_len() as u64
    }

    /// Bytes that it takes in an archive: codes, scales, masks, indices, packed chunks,
    /// with the padding of chunks to 64 bytes; the index's JSON is not counted.
    pub fn stored_bytes(&self) -> u64 {
        stored_bytes(&*self.form)
    }

    /// Stored bits per element; 0 for an empty tensor.
    pub fn bits_per_weight(&self) -> f64 {
        match self.meta().len() {
            0 => 0.0,
            n => self.stored_bytes() as f64 * 8.0 / n as f64,
        }
    }

    /// The same tensor with each buffer replaced by `f` of it, which must hold the same
    /// bytes: moved to other memory, packed otherwise. Fails as `f` does.
    pub fn map_buffers(&self, f: &mut dyn FnMut(&Buffer) -> Result<Buffer>) -> Result<Self> {
        let form = self.form.map_buffers(f).map_err(|e| self.blame(e))?;
        Ok(Self {
            form: form.into(),
            ..self.clone()
        })
    }

    /// Adds the tensor's name to an error.
    pub(crate) fn blame(&self, error: Error) -> Error {
        match &self.name {
            Some(name) => error.with_tensor(name),
            None => error,
        }
    }

    /// Decodes everything.
    pub fn decompress(&self) -> Result<Dense> {
        let mut dense = Dense::zeros(self.dtype(), self.shape())?;
        self.decode_rows(0..self.rows(), dense.bytes_mut())?;
        Ok(dense)
    }

    /// Decodes a window of rows to little-endian elements of the tensor's dtype, in
    /// parallel; `out` must have exactly `rows.len() * cols * dtype.size()` bytes. Only
    /// the chunks that the window touches are read.
    pub fn decode_rows(&self, rows: std::ops::Range<usize>, out: &mut [u8]) -> Result<()> {
        self.check_window(&rows, out.len(), self.meta().row_bytes(), "bytes")?;
        self.windows(rows, out, |form, rows, out, scratch| {
            form.decode_native(rows, out, scratch)
        })
    }

    /// The window of `count` rows from `start` on, which must be there.
    pub fn window(&self, start: usize, count: usize) -> Result<std::ops::Range<usize>> {
        match start.checked_add(count) {
            Some(end) if end <= self.rows() => Ok(start..end),
            _ => Err(self.blame(Error::invalid(format!(
                "start {start} and count {count} reach past the {} rows",
                self.rows()
            )))),
        }
    }

    /// Decodes a window of rows to f32; `out` must have exactly `rows.len() * cols` values.
    pub fn decode_rows_f32(&self, rows: std::ops::Range<usize>, out: &mut [f32]) -> Result<()> {
        self.check_window(&rows, out.len(), self.cols(), "values")?;
        self.windows(rows, out, |form, rows, out, scratch| {
            form.decode_f32(rows, out, scratch)
        })
    }

    fn check_window(
        &self,
        rows: &std::ops::Range<usize>,
        len: usize,
        row: usize,
        what: &str,
    ) -> Result<()> {
        if rows.start > rows.end || rows.end > self.rows() {
            return Err(self.blame(Error::invalid(format!(
                "rows {}..{} of a tensor with {} rows",
                rows.start,
                rows.end,
                self.rows()
            ))));
        }
        let expected = rows.len() * row;
        if len != expected {
            return Err(self.blame(Error::invalid(format!(
                "{} rows decode to {expected} {what}, the output holds {len}",
                rows.len()
            ))));
        }
        Ok(())
    }

    /// Cuts a window into pieces on the form's row unit and runs them in parallel.
    fn windows<T: Send>(
        &self,
        rows: std::ops::Range<usize>,
        out: &mut [T],
        decode: impl Fn(&dyn Form, std::ops::Range<usize>, &mut [T], &mut Scratch) -> Result<()> + Sync,
    ) -> Result<()> {
        if out.is_empty() {
            return Ok(());
        }
        let row = out.len() / rows.len();
        // Half a megabyte of f32 a piece: enough to outweigh the hand-over.
        let step = window_rows(&*self.form, 128 << 10);
        // The first piece ends where the step's grid does.
        let head = (rows.start.next_multiple_of(step) - rows.start).min(rows.len());
        let (first, rest) = out.split_at_mut(head * row);
        let mut pieces = Vec::new();
        if !first.is_empty() {
            pieces.push((rows.start..rows.start + head, first));
        }
        for (i, piece) in rest.chunks_mut(step * row).enumerate() {
            let start = rows.start + head + i * step;
            pieces.push((start..start + piece.len() / row, piece));
        }
        let form = &*self.form;
        pieces
            .into_par_iter()
            .try_for_each_init(Scratch::default, |scratch, (rows, out)| {
                decode(form, rows, out, scratch)
            })
            .map_err(|e| self.blame(e))
    }

    /// Reads and checks every stored chunk.
    pub fn verify(&self) -> Result<()> {
        verify(&*self.form).map_err(|e| self.blame(e))
    }
}

fn verify(form: &dyn Form) -> Result<()> {
    form.parts().iter().try_for_each(|(name, part)| match part {
        super::Part::Buffer(b) => b.verify().map_err(|e| e.context(format!("part '{name}'"))),
        super::Part::Form(f) => verify(*f).map_err(|e| e.context(format!("part '{name}'"))),
    })
}
