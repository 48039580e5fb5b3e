//! Forms: representations of a tensor that can be computed with.
//!
//! A form sees its tensor as a matrix `W[rows, cols]` (see [`View`](crate::View)). Its
//! parts are [`Buffer`]s or, recursively, other forms. A new form is one file and one
//! line in [`REGISTRY`]; `docs/adding-a-form.md` walks through it.

mod activations;
mod cp;
mod dense;
mod ecq;
mod encode;
mod gptq;
mod lists;
mod mask;
mod modes;
mod product;
mod prune;
mod quant;
mod registry;
mod scratch;
mod sdr;
mod select;
mod spectral;
mod sum;
mod svd;
mod tensor;
mod tt;
mod tucker;

use std::ops::Range;

use serde_json::{Map, Value};

use crate::bytes::element_count;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::kernel::{self, KernelSet};
use crate::pack::Buffer;
use crate::tensor::{checked_bytes, matrix_dims};

pub use encode::{EncodeContext, encode, encode_unmeasured};
pub use product::{Precision, Product};
pub(crate) use product::{plan_windows, run_workers};
pub(crate) use registry::find_kind;
pub use registry::{EncodeFn, FormDef, REGISTRY, codecs_json, is_lossless, parse, resolve};
pub use scratch::Scratch;
pub use tensor::{ErrorStats, Tensor};

/// Dtype and shape of the tensor that a form stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Element type that the tensor decodes to.
    pub dtype: DType,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Rows as a matrix.
    pub rows: usize,
    /// Columns as a matrix.
    pub cols: usize,
}

impl Meta {
    /// Checks the shape against the limits.
    pub fn new(dtype: DType, shape: &[usize]) -> Result<Self> {
        checked_bytes(dtype, shape)?;
        let (rows, cols) = matrix_dims(shape);
        Ok(Self {
            dtype,
            shape: shape.to_vec(),
            rows,
            cols,
        })
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        // Checked when made.
        element_count(&self.shape).unwrap_or(0)
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of the dense tensor.
    pub fn byte_len(&self) -> usize {
        self.len() * self.dtype.size()
    }

    /// Bytes of one dense row.
    pub fn row_bytes(&self) -> usize {
        self.cols * self.dtype.size()
    }
}

/// A part of a form: bytes, or another form.
#[derive(Debug)]
pub enum Part<'a> {
    /// Bytes.
    Buffer(&'a Buffer),
    /// A form of its own.
    Form(&'a dyn Form),
}

/// What a form promises. `rows` are always within the matrix and outputs have exactly
/// the size stated: callers check; forms index.
pub trait Form: Send + Sync + std::fmt::Debug {
    /// The form's name in the file format.
    fn kind(&self) -> &'static str;

    /// Dtype and shape.
    fn meta(&self) -> &Meta;

    /// What besides the parts is needed to open it again.
    fn params(&self) -> Map<String, Value>;

    /// Named parts in a fixed order.
    fn parts(&self) -> Vec<(&'static str, Part<'_>)>;

    /// The same form with each of its own and nested buffers replaced by `f` of it.
    fn map_buffers(&self, f: &mut dyn FnMut(&Buffer) -> Result<Buffer>) -> Result<Box<dyn Form>>;

    /// Whether `decode_native` gives the original bits.
    fn is_exact(&self) -> bool;

    /// Windows of rows should start at multiples of this and be multiples of it.
    fn row_unit(&self) -> usize {
        1
    }

    /// How far windows may fall below [`row_unit`](Self::row_unit) where the scratch limit
    /// asks for it: chunks may then be decoded several times.
    fn least_rows(&self) -> usize {
        self.row_unit()
    }

    /// Bytes of scratch that decoding `rows` rows takes, beside the output.
    fn scratch_for(&self, rows: usize) -> usize;

    /// Decodes rows to f32, row-major, `rows.len() * cols` values.
    fn decode_f32(&self, rows: Range<usize>, out: &mut [f32], scratch: &mut Scratch) -> Result<()>;

    /// Decodes rows to little-endian elements of the tensor's dtype.
    fn decode_native(
        &self,
        rows: Range<usize>,
        out: &mut [u8],
        scratch: &mut Scratch,
    ) -> Result<()> {
        decode_by_f32(self, rows, out, scratch)
    }

    /// Bytes of scratch that [`matmul_rows`](Self::matmul_rows) takes for `rows` rows,
    /// beside input and output.
    fn matmul_scratch_for(&self, rows: usize) -> usize {
        self.scratch_for(rows) + rows * self.meta().cols * 4
    }

    /// `out[b][i] = Σ x[b][k] · W[rows.start + i][k]` for `x[batch, cols]` and
    /// `out[batch, rows.len()]`, computed on the form. The default decodes the window
    /// and multiplies it densely.
    fn matmul_rows(
        &self,
        rows: Range<usize>,
        x: &[f32],
        out: &mut [f32],
        kernels: &KernelSet,
        scratch: &mut Scratch,
    ) -> Result<()> {
        let cols = self.meta().cols;
        let mut floats = std::mem::take(&mut scratch.floats);
        floats.resize(rows.len() * cols, 0.0);
        let result = self.decode_f32(rows, &mut floats, scratch);
        if result.is_ok() {
            kernels.dense_matmul(&floats, x, cols, out);
        }
        scratch.floats = floats;
        result
    }

    /// `y[b][i] = Σ x[b][k] · W[i][k]` for `x[batch, cols]` and `y[batch, rows]`, none of
    /// them empty. The default goes by windows of rows; a form whose mathematics does not
    /// (a transform of `x`, a chain of factors) brings its own.
    fn matmul(&self, x: &[f32], batch: usize, y: &mut [f32], product: &Product<'_>) -> Result<()> {
        product.by_rows(self, x, batch, y)
    }

    /// `y[b][k] = Σ g[b][i] · W[i][k]` for `g[batch, rows]` and `y[batch, cols]`, none of
    /// them empty.
    fn matmul_t(
        &self,
        g: &[f32],
        batch: usize,
        y: &mut [f32],
        product: &Product<'_>,
    ) -> Result<()> {
        product.by_rows_t(self, g, batch, y)
    }

    /// Multiplications that one row of `x` costs, for plans; dense is rows × cols.
    fn matmul_macs(&self) -> u64 {
        self.meta().rows as u64 * self.meta().cols as u64
    }

    /// How many multiplications of a dense product take as long as decoding all rows, for
    /// plans; opening packs comes on top.
    fn decode_macs(&self) -> u64 {
        (self.meta().len() as u64).saturating_mul(DECODE_MACS)
    }
}

/// What decoding a number takes where it is opened and scaled, or copied: about half a
/// nanosecond.
const DECODE_MACS: u64 = 20;

/// How much slower additions of scaled rows, which decode factors, are than a dense product.
const ADDED_MACS: u64 = 3;

/// Decodes rows to f32 and rounds them to the tensor's dtype.
fn decode_by_f32<F: Form + ?Sized>(
    form: &F,
    rows: Range<usize>,
    out: &mut [u8],
    scratch: &mut Scratch,
) -> Result<()> {
    let dtype = form.meta().dtype;
    if dtype == DType::F32
        && let Ok(out) = bytemuck::try_cast_slice_mut(out)
    {
        return form.decode_f32(rows, out, scratch);
    }
    let mut floats = vec![0.0; out.len() / dtype.size()];
    form.decode_f32(rows, &mut floats, scratch)?;
    dtype.from_f32(&floats, out);
    Ok(())
}

/// A form as an archive's index describes it, parts already found.
#[derive(Debug)]
pub struct Stored {
    /// Dtype and shape.
    pub meta: Meta,
    /// What [`Form::params`] gave.
    pub params: Map<String, Value>,
    /// Parts by name.
    pub parts: Vec<(String, StoredPart)>,
}

/// A part of a [`Stored`] form.
#[derive(Debug)]
pub enum StoredPart {
    /// Bytes.
    Buffer(Buffer),
    /// An opened form.
    Form(Box<dyn Form>),
}

impl Stored {
    /// Takes the buffer of this name, which must have `len` bytes.
    pub fn buffer(&mut self, name: &str, len: usize) -> Result<Buffer> {
        match self.take(name)? {
            StoredPart::Buffer(buffer) if buffer.len() == len => Ok(buffer),
            StoredPart::Buffer(buffer) => Err(Error::corrupt(format!(
                "part '{name}' has {} bytes, {len} expected",
                buffer.len()
            ))),
            StoredPart::Form(_) => Err(Error::corrupt(format!("part '{name}' is not a buffer"))),
        }
    }

    /// Takes the form of this name.
    pub fn form(&mut self, name: &str) -> Result<Box<dyn Form>> {
        match self.take(name)? {
            StoredPart::Form(form) => Ok(form),
            StoredPart::Buffer(_) => Err(Error::corrupt(format!("part '{name}' is not a form"))),
        }
    }

    fn take(&mut self, name: &str) -> Result<StoredPart> {
        let index = self.parts.iter().position(|(n, _)| n == name);
        let index = index.ok_or_else(|| Error::corrupt(format!("part '{name}' is missing")))?;
        Ok(self.parts.swap_remove(index).1)
    }

    /// A whole-number parameter in `range`.
    pub fn integer(&self, name: &str, range: std::ops::RangeInclusive<u64>) -> Result<u64> {
        match self.params.get(name).and_then(Value::as_u64) {
            Some(n) if range.contains(&n) => Ok(n),
            _ => Err(self.bad(name)),
        }
    }

    /// A finite f32 parameter.
    pub fn float(&self, name: &str) -> Result<f32> {
        match self.params.get(name).and_then(Value::as_f64) {
            Some(n) if (n as f32).is_finite() => Ok(n as f32),
            _ => Err(self.bad(name)),
        }
    }

    /// A yes-or-no parameter.
    pub fn flag(&self, name: &str) -> Result<bool> {
        let value = self.params.get(name).and_then(Value::as_bool);
        value.ok_or_else(|| self.bad(name))
    }

    /// A text parameter.
    pub fn text(&self, name: &str) -> Result<&str> {
        let value = self.params.get(name).and_then(Value::as_str);
        value.ok_or_else(|| self.bad(name))
    }

    fn bad(&self, name: &str) -> Error {
        match self.params.get(name) {
            None => Error::corrupt(format!("parameter '{name}' is missing")),
            Some(value) => Error::corrupt(format!("parameter '{name}' cannot be {value}")),
        }
    }
}

/// Bytes of a form in an archive: all parts, chunks padded; without the index.
pub fn stored_bytes(form: &dyn Form) -> u64 {
    let parts = form.parts();
    parts
        .iter()
        .map(|(_, part)| match part {
            Part::Buffer(b) => b.stored_len(),
            Part::Form(f) => stored_bytes(*f),
        })
        .sum()
}

/// Rows per window such that windows of rows are multiples of the form's unit and hold
/// about `values` elements.
pub fn window_rows(form: &dyn Form, values: usize) -> usize {
    let unit = form.row_unit();
    let rows = values / form.meta().cols.max(1);
    (rows / unit * unit).max(unit)
}

/// The kernels that forms use.
pub(crate) fn kernels() -> &'static KernelSet {
    kernel::best()
}
