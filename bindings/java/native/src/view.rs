//! Dense data of the caller as the library sees it.

use cortex::bytes::element_count;
use cortex::{DType, View, limits};
use jni::Env;
use jni::objects::{JLongArray, JObject};
use jni::sys::{jint, jlong};

use crate::error::{Result, invalid, size};
use crate::memory::{Input, Lent, longs};

/// What an `io.cortex.View` describes.
pub(crate) struct Dense<'a> {
    bytes: Input<'a>,
    dtype: DType,
    shape: Option<Vec<usize>>,
    strides: Option<Vec<isize>>,
    origin: usize,
}

impl<'a> Dense<'a> {
    /// `origin` is the place of element [0, 0, …], in elements. Errors call it `name`.
    pub(crate) fn new<'local>(
        env: &Env<'_>,
        name: &str,
        (data, kind, start, len): (&'a JObject<'local>, jint, jlong, jlong),
        dtype: jint,
        shape: &JLongArray<'_>,
        strides: &JLongArray<'_>,
        origin: jlong,
    ) -> Result<Self> {
        let dtype = u8::try_from(dtype).ok().and_then(DType::from_code);
        let dtype = dtype.ok_or_else(|| invalid(format!("{name}.dtype is no dtype")))?;
        let strides = longs(env, strides)?;
        let origin = size(origin, &format!("{name}.origin"))?.checked_mul(dtype.size());
        Ok(Self {
            dtype,
            shape: dims(env, name, shape)?,
            strides: strides.map(|s| s.into_iter().map(|s| s as isize).collect()),
            origin: origin.ok_or_else(|| invalid(format!("{name}.origin is too large")))?,
            bytes: Lent::new(data, kind, start, len)?.input(env)?,
        })
    }

    /// The view. Without a shape it is the matrix of all rows of `cols` elements, if it
    /// consists of such.
    pub(crate) fn view(&self, name: &str, cols: usize) -> Result<View<'_>> {
        let elements = self.bytes.len() / self.dtype.size();
        let rows = elements.checked_div(cols).unwrap_or(0);
        let guessed = match rows * cols == elements {
            true => [rows, cols],
            false => [1, elements],
        };
        let shape = self.shape.as_deref().unwrap_or(&guessed);
        let view = match &self.strides {
            None => View::new(self.dtype, shape, &self.bytes),
            Some(s) => View::strided(self.dtype, shape, s, &self.bytes, self.origin),
        };
        Ok(view.map_err(|e| e.context(name))?)
    }

    /// The bytes, if products read them in place.
    pub(crate) fn in_place(&self) -> &[u8] {
        match &self.bytes {
            Input::Lent(bytes) => bytes,
            Input::Copied(_) => &[],
        }
    }
}

/// A shape; nothing for null.
pub(crate) fn dims(
    env: &Env<'_>,
    name: &str,
    shape: &JLongArray<'_>,
) -> Result<Option<Vec<usize>>> {
    let Some(dims) = longs(env, shape)? else {
        return Ok(None);
    };
    if dims.len() > limits::MAX_DIMS {
        return Err(invalid(format!(
            "{name} has {} dimensions; at most {} are supported",
            dims.len(),
            limits::MAX_DIMS
        )));
    }
    let each = dims
        .iter()
        .map(|d| size(*d, &format!("a dimension of {name}")));
    each.collect::<Result<_>>().map(Some)
}

/// Holds the room for a result against its shape.
pub(crate) fn expect(name: &str, found: usize, shape: &[usize]) -> Result<()> {
    let expected = element_count(shape)?;
    match found == expected {
        true => Ok(()),
        false => Err(invalid(format!(
            "{name} holds {found} values; shape {shape:?} has {expected}"
        ))),
    }
}
