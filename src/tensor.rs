//! Dense tensors: owned ([`Dense`]) and borrowed ([`View`]).

use std::ops::Range;
use std::sync::Arc;

use crate::bytes::{AlignedBytes, element_count};
use crate::dtype::DType;
use crate::error::{Error, ErrorKind, Result};
use crate::limits;
use crate::mmap::Mapping;

/// Elements that are gathered at a time, to be converted.
const GATHERED: usize = 64 << 10;

/// An owned, contiguous, row-major tensor.
#[derive(Clone, Debug)]
pub struct Dense {
    dtype: DType,
    shape: Vec<usize>,
    data: AlignedBytes,
}

impl Dense {
    /// A tensor of zeros.
    pub fn zeros(dtype: DType, shape: &[usize]) -> Result<Self> {
        let bytes = checked_bytes(dtype, shape)?;
        Ok(Self {
            dtype,
            shape: shape.to_vec(),
            data: AlignedBytes::zeroed(bytes)?,
        })
    }

    /// A copy of row-major `values`, whose number must be the product of `shape`.
    pub fn from_slice<T: Element>(values: &[T], shape: &[usize]) -> Result<Self> {
        Self::from_bytes(T::DTYPE, shape, bytemuck::cast_slice(values))
    }

    /// A copy of row-major little-endian `bytes`.
    pub fn from_bytes(dtype: DType, shape: &[usize], bytes: &[u8]) -> Result<Self> {
        let expected = checked_bytes(dtype, shape)?;
        if bytes.len() != expected {
            return Err(length_error(dtype, shape, expected, bytes.len()));
        }
        Ok(Self {
            dtype,
            shape: shape.to_vec(),
            data: AlignedBytes::copy_of(bytes)?,
        })
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Dimensions, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Little-endian elements, row-major.
    pub fn bytes(&self) -> &[u8] {
        &self.data
    }

    /// Mutable little-endian elements, row-major.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.data
    }

    /// The elements as `T`, if that is the dtype.
    pub fn as_slice<T: Element>(&self) -> Option<&[T]> {
        (T::DTYPE == self.dtype).then(|| bytemuck::cast_slice(&self.data))
    }

    /// The tensor as an ndarray of `T`, if that is the dtype.
    pub fn as_ndarray<T: Element>(&self) -> Option<ndarray::ArrayViewD<'_, T>> {
        ndarray::ArrayViewD::from_shape(self.shape(), self.as_slice()?).ok()
    }

    /// A view of the whole tensor.
    pub fn view(&self) -> View<'_> {
        View {
            dtype: self.dtype,
            shape: self.shape.clone(),
            strides: row_major(&self.shape),
            data: &self.data,
            origin: 0,
            backing: None,
        }
    }
}

/// A Rust type that is one of the dtypes.
pub trait Element: bytemuck::Pod {
    /// Its dtype.
    const DTYPE: DType;
}

macro_rules! elements {
    ($($t:ty => $d:ident),*) => { $(impl Element for $t { const DTYPE: DType = DType::$d; })* };
}
elements!(f64 => F64, f32 => F32, half::f16 => F16, half::bf16 => BF16, i64 => I64, i32 => I32,
    i16 => I16, i8 => I8, u64 => U64, u32 => U32, u16 => U16, u8 => U8);

/// A borrowed tensor: any strides in, windows of rows out.
///
/// For everything that works on matrices, a tensor of shape `[d0, d1, …]` is a
/// matrix of `d0` rows and `d1·d2·…` columns; a vector of `n` is `n × 1`, a scalar
/// `1 × 1`.
#[derive(Clone, Debug)]
pub struct View<'a> {
    dtype: DType,
    shape: Vec<usize>,
    /// In elements.
    strides: Vec<isize>,
    data: &'a [u8],
    /// Byte offset of element (0, 0, …).
    origin: usize,
    backing: Option<Backing>,
}

/// Where in a mapped file a view's bytes lie, so that they can be shared without a copy.
#[derive(Clone, Debug)]
pub struct Backing {
    /// The mapping that holds the bytes.
    pub mapping: Arc<Mapping>,
    /// Offset of the view's first byte in the mapping.
    pub offset: usize,
}

impl<'a> View<'a> {
    /// A contiguous row-major view of little-endian `data`, which need not be aligned.
    pub fn new(dtype: DType, shape: &[usize], data: &'a [u8]) -> Result<Self> {
        let expected = checked_bytes(dtype, shape)?;
        if data.len() != expected {
            return Err(length_error(dtype, shape, expected, data.len()));
        }
        Ok(Self {
            dtype,
            shape: shape.to_vec(),
            strides: row_major(shape),
            data,
            origin: 0,
            backing: None,
        })
    }

    /// A view with strides in elements, which may be zero or negative. `origin` is the
    /// byte offset of the first element in `data`; every element must lie inside.
    pub fn strided(
        dtype: DType,
        shape: &[usize],
        strides: &[isize],
        data: &'a [u8],
        origin: usize,
    ) -> Result<Self> {
        checked_bytes(dtype, shape)?;
        if strides.len() != shape.len() {
            return Err(Error::invalid(format!(
                "{} strides for {} dimensions",
                strides.len(),
                shape.len()
            )));
        }
        if !shape.contains(&0) {
            let outside = || Error::invalid("strides reach outside the data");
            let size = dtype.size() as i128;
            let (mut low, mut high) = (origin as i128, origin as i128 + size);
            for (&d, &s) in shape.iter().zip(strides) {
                let reach = (d as i128 - 1) * s as i128 * size;
                if reach < 0 {
                    low += reach;
                } else {
                    high += reach;
                }
            }
            if low < 0 || high > data.len() as i128 {
                return Err(outside());
            }
        }
        Ok(Self {
            dtype,
            shape: shape.to_vec(),
            strides: strides.to_vec(),
            data,
            origin,
            backing: None,
        })
    }

    /// A view of an ndarray of any rank and memory order without gaps: row-major, Fortran
    /// order, transposed, with reversed axes. One that was sliced with gaps has to be
    /// copied first (`as_standard_layout`).
    pub fn from_ndarray<T: Element, D: ndarray::Dimension>(
        array: &'a ndarray::ArrayRef<T, D>,
    ) -> Result<Self> {
        let data = array.as_slice_memory_order().ok_or_else(|| {
            Error::invalid("the array has gaps; copy it with as_standard_layout() first")
        })?;
        // The slice begins at the lowest address; reversed axes begin at their far end.
        let axes = array.shape().iter().zip(array.strides());
        let first: isize = axes.map(|(d, s)| (*d as isize - 1) * (-*s).max(0)).sum();
        let bytes = bytemuck::cast_slice(data);
        let origin = if data.is_empty() {
            0
        } else {
            first as usize * T::DTYPE.size()
        };
        Self::strided(T::DTYPE, array.shape(), array.strides(), bytes, origin)
    }

    /// Says that the view's data is this part of a mapped file.
    #[must_use]
    pub fn with_backing(mut self, mapping: Arc<Mapping>, offset: usize) -> Self {
        debug_assert!(offset + self.data.len() <= mapping.len());
        self.backing = Some(Backing { mapping, offset });
        self
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Dimensions, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The same elements under another shape of as many elements. Contiguous views only.
    pub fn reshape(mut self, shape: &[usize]) -> Result<Self> {
        if element_count(shape)? != self.len() || !self.is_contiguous() {
            return Err(Error::invalid(format!(
                "cannot see {:?} as {shape:?}",
                self.shape
            )));
        }
        self.strides = row_major(shape);
        self.shape = shape.to_vec();
        Ok(self)
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        // Checked when the view was made.
        self.shape.iter().product()
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.shape.contains(&0)
    }

    /// Bytes of all elements.
    pub fn byte_len(&self) -> usize {
        self.len() * self.dtype.size()
    }

    /// Rows as a matrix.
    pub fn rows(&self) -> usize {
        matrix_dims(&self.shape).0
    }

    /// Columns as a matrix.
    pub fn cols(&self) -> usize {
        matrix_dims(&self.shape).1
    }

    /// Whether the elements lie in row-major order without gaps.
    pub fn is_contiguous(&self) -> bool {
        if self.is_empty() {
            return true;
        }
        let mut expected = 1isize;
        for (&d, &s) in self.shape.iter().zip(&self.strides).rev() {
            if d != 1 && s != expected {
                return false;
            }
            expected *= d as isize;
        }
        true
    }

    /// The elements' bytes, if contiguous.
    pub fn contiguous_bytes(&self) -> Option<&'a [u8]> {
        if self.is_empty() {
            return Some(&[]);
        }
        self.is_contiguous()
            .then(|| &self.data[self.origin..self.origin + self.byte_len()])
    }

    /// The mapped file and the offset of the first element there, if the view is a
    /// contiguous part of one.
    pub fn backing(&self) -> Option<Backing> {
        let backing = self.backing.clone()?;
        self.is_contiguous().then(|| Backing {
            offset: backing.offset + self.origin,
            mapping: backing.mapping,
        })
    }

    /// Copies rows as little-endian elements, row-major, into `out`, which must have
    /// exactly their size.
    pub fn read_rows(&self, rows: Range<usize>, out: &mut [u8]) {
        let row_bytes = self.cols() * self.dtype.size();
        assert!(rows.end <= self.rows() && out.len() == rows.len() * row_bytes);
        if out.is_empty() {
            return;
        }
        if let Some(bytes) = self.contiguous_bytes() {
            out.copy_from_slice(&bytes[rows.start * row_bytes..rows.end * row_bytes]);
            return;
        }
        let size = self.dtype.size();
        let row_stride = self.strides.first().copied().unwrap_or(0) * size as isize;
        for (row, out) in rows.zip(out.chunks_exact_mut(row_bytes)) {
            let start = self.origin as isize + row as isize * row_stride;
            let (shape, strides) = match self.shape.split_first() {
                Some((_, rest)) => (rest, &self.strides[1..]),
                None => (&[][..], &[][..]),
            };
            gather(self.data, start, shape, strides, size, out);
        }
    }

    /// Rows converted to f32, row-major, into `out` (`rows.len() * self.cols()` values).
    pub fn read_rows_f32(&self, rows: Range<usize>, out: &mut [f32]) {
        let row_bytes = self.cols() * self.dtype.size();
        assert!(rows.end <= self.rows() && out.len() == rows.len() * self.cols());
        match self.contiguous_bytes() {
            Some(bytes) => self
                .dtype
                .to_f32(&bytes[rows.start * row_bytes..rows.end * row_bytes], out),
            None => {
                let mut raw = vec![0u8; rows.len() * row_bytes];
                self.read_rows(rows, &mut raw);
                self.dtype.to_f32(&raw, out);
            }
        }
    }

    /// All elements, if they are aligned f32 without gaps.
    fn as_f32(&self) -> Option<&[f32]> {
        match self.dtype {
            DType::F32 => bytemuck::try_cast_slice(self.contiguous_bytes()?).ok(),
            _ => None,
        }
    }

    /// All elements of a view of any float dtype as f32, row-major: in place where they are
    /// aligned f32 already, else converted into `scratch`. Errors call the view `name`.
    pub fn floats<'s>(&'s self, name: &str, scratch: &'s mut Vec<f32>) -> Result<&'s [f32]> {
        if !self.dtype.is_float() {
            return Err(Error::invalid(format!(
                "{name}.dtype is {}; a float dtype is needed",
                self.dtype
            )));
        }
        if let Some(values) = self.as_f32() {
            return Ok(values);
        }
        // Fails, where memory is short, instead of ending the program.
        scratch.clear();
        scratch.try_reserve_exact(self.len()).map_err(|_| {
            let what = format!("cannot allocate {} values for {name}", self.len());
            Error::new(ErrorKind::OutOfMemory, what)
        })?;
        scratch.resize(self.len(), 0.0);
        let cols = self.cols().max(1);
        let step = (GATHERED / cols).max(1);
        for (i, out) in scratch.chunks_mut(step * cols).enumerate() {
            let start = i * step;
            self.read_rows_f32(start..start + out.len() / cols, out);
        }
        Ok(scratch)
    }

    /// Rows as f32, row-major: in place where they are aligned f32 already, else converted
    /// into `scratch`.
    pub fn rows_f32<'s>(&'s self, rows: Range<usize>, scratch: &'s mut Vec<f32>) -> &'s [f32] {
        let cols = self.cols();
        if let Some(values) = self.as_f32() {
            return &values[rows.start * cols..rows.end * cols];
        }
        scratch.resize(rows.len() * cols, 0.0);
        self.read_rows_f32(rows, scratch);
        scratch
    }

    /// An owned, contiguous copy.
    pub fn to_dense(&self) -> Result<Dense> {
        let mut dense = Dense::zeros(self.dtype, &self.shape)?;
        self.read_rows(0..self.rows(), dense.bytes_mut());
        Ok(dense)
    }
}

/// Rows and columns of a shape seen as a matrix. The shape's product must fit a usize.
pub fn matrix_dims(shape: &[usize]) -> (usize, usize) {
    match shape.split_first() {
        None => (1, 1),
        // With no row there is nothing to multiply; the product of the rest may not fit.
        Some((0, _)) => (0, element_count(&shape[1..]).unwrap_or(0)),
        Some((rows, rest)) => (*rows, element_count(rest).unwrap_or(0)),
    }
}

/// Bytes of a tensor of this dtype and shape, held against [`limits`].
pub fn checked_bytes(dtype: DType, shape: &[usize]) -> Result<usize> {
    if shape.len() > limits::MAX_DIMS {
        return Err(Error::limit(format!(
            "{} dimensions; at most {} are supported",
            shape.len(),
            limits::MAX_DIMS
        )));
    }
    // A shape with a zero in it is held to the size that it would have without: whatever
    // is computed from its rows and columns then stays in range too.
    let reach = shape
        .iter()
        .filter(|d| **d != 0)
        .try_fold(dtype.size(), |n, d| n.checked_mul(*d));
    match reach {
        Some(bytes) if bytes as u64 <= limits::MAX_TENSOR_BYTES => {
            Ok(element_count(shape)? * dtype.size())
        }
        _ => Err(Error::limit(format!(
            "a tensor of {dtype} {shape:?} is larger than 2^46 bytes"
        ))),
    }
}

fn length_error(dtype: DType, shape: &[usize], expected: usize, found: usize) -> Error {
    Error::invalid(format!(
        "{dtype} {shape:?} takes {expected} bytes, {found} given"
    ))
}

fn row_major(shape: &[usize]) -> Vec<isize> {
    let mut strides = vec![1isize; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i].saturating_mul(shape[i] as isize);
    }
    strides
}

/// Copies one strided block of `shape` elements to contiguous `out`.
fn gather(
    data: &[u8],
    start: isize,
    shape: &[usize],
    strides: &[isize],
    size: usize,
    out: &mut [u8],
) {
    match (shape.split_first(), strides.split_first()) {
        (Some((&n, shape)), Some((&stride, strides))) => {
            if shape.is_empty() && stride == 1 {
                let start = start as usize;
                out.copy_from_slice(&data[start..start + n * size]);
                return;
            }
            let step = out.len() / n;
            for (i, out) in out.chunks_exact_mut(step).enumerate() {
                let start = start + i as isize * stride * size as isize;
                gather(data, start, shape, strides, size, out);
            }
        }
        _ => out.copy_from_slice(&data[start as usize..start as usize + size]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strided_views_read_like_their_contiguous_copy() {
        let values: Vec<i16> = (0..24).collect();
        let bytes = bytemuck::cast_slice(&values);
        // The transpose of [4, 6], every other column of it, and a reversed one.
        let t = View::strided(DType::I16, &[6, 4], &[1, 6], bytes, 0).unwrap();
        assert!(!t.is_contiguous());
        let d = t.to_dense().unwrap();
        assert_eq!(
            &d.as_slice::<i16>().unwrap()[..8],
            [0, 6, 12, 18, 1, 7, 13, 19]
        );
        let r = View::strided(DType::I16, &[2, 3], &[-6, -2], bytes, 23 * 2).unwrap();
        assert_eq!(
            r.to_dense().unwrap().as_slice::<i16>().unwrap(),
            [23, 21, 19, 17, 15, 13]
        );
        let mut row = [0.0; 3];
        r.read_rows_f32(1..2, &mut row);
        assert_eq!(row, [17.0, 15.0, 13.0]);
    }

    #[test]
    fn ndarrays_of_any_order_are_read_in_theirs() {
        use ndarray::{Array, ArrayD, s};
        let a = Array::from_shape_fn((3, 4, 2), |(i, j, k)| (i * 100 + j * 10 + k) as i32);
        let mut turned = a.clone();
        turned.invert_axis(ndarray::Axis(1));
        for array in [
            a.clone().into_dyn(),
            a.reversed_axes().into_dyn(),
            turned.into_dyn(),
        ] {
            let dense = View::from_ndarray(&array).unwrap().to_dense().unwrap();
            let back: ArrayD<i32> = dense.as_ndarray().unwrap().to_owned();
            assert_eq!(back, array);
            assert!(dense.as_ndarray::<f32>().is_none());
        }
        let gaps = Array::<f32, _>::zeros((4, 4));
        assert!(View::from_ndarray(&gaps.slice(s![.., ..;2])).is_err());
        let empty = Array::<f32, _>::zeros((0, 4));
        assert!(View::from_ndarray(&empty).unwrap().is_empty());
    }

    #[test]
    fn views_that_reach_outside_are_refused() {
        let bytes = [0u8; 24];
        assert!(View::strided(DType::F32, &[2, 3], &[3, 1], &bytes, 0).is_ok());
        assert!(View::strided(DType::F32, &[2, 3], &[4, 1], &bytes, 0).is_err());
        assert!(View::strided(DType::F32, &[2], &[-1], &bytes, 0).is_err());
        assert!(View::strided(DType::F32, &[3], &[isize::MAX], &bytes, 0).is_err());
        assert!(View::new(DType::F32, &[7], &bytes).is_err());
        assert!(View::new(DType::F32, &[usize::MAX, 3], &bytes).is_err());
        assert!(View::new(DType::F32, &[1; 17], &bytes[..4]).is_err());
    }

    #[test]
    fn empty_scalar_and_vector_are_matrices() {
        assert_eq!(matrix_dims(&[]), (1, 1));
        assert_eq!(matrix_dims(&[5]), (5, 1));
        assert_eq!(matrix_dims(&[2, 3, 4]), (2, 12));
        assert_eq!(matrix_dims(&[0, 3]), (0, 3));
        assert_eq!(matrix_dims(&[3, 0]), (3, 0));
        let v = View::new(DType::F64, &[3, 0], &[]).unwrap();
        assert!(v.is_empty() && v.to_dense().unwrap().bytes().is_empty());
        let mut one = [0.0];
        let seven = 7.0f64.to_le_bytes();
        View::new(DType::F64, &[], &seven)
            .unwrap()
            .read_rows_f32(0..1, &mut one);
        assert_eq!(one, [7.0]);
    }
}
