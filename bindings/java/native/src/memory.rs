//! Memory of Java, lent for the length of a call. Direct buffers are used in place; arrays
//! are copied, because pinning one may stop the garbage collector for as long as the call
//! takes.

use cortex::bytes::AlignedBytes;
use jni::Env;
use jni::objects::{JByteArray, JByteBuffer, JFloatArray, JIntArray, JLongArray, JObject};
use jni::sys::{jint, jlong, jsize};

use crate::error::{Result, invalid, size};

/// The kinds of `io.cortex.Memory`.
const DIRECT: jint = 0;
const FLOATS: jint = 1;
const BYTES: jint = 2;

/// What an `io.cortex.Memory` describes: bytes `start` to `start + len` of a direct buffer,
/// a `float[]` or a `byte[]`, all of them within it.
pub(crate) struct Lent<'a, 'local> {
    object: &'a JObject<'local>,
    kind: jint,
    start: usize,
    len: usize,
}

impl<'a, 'local> Lent<'a, 'local> {
    pub(crate) fn new(
        object: &'a JObject<'local>,
        kind: jint,
        start: jlong,
        len: jlong,
    ) -> Result<Self> {
        Ok(Self {
            object,
            kind,
            start: size(start, "start")?,
            len: size(len, "length")?,
        })
    }

    /// The bytes, to be read.
    pub(crate) fn input(&self, env: &Env<'_>) -> Result<Input<'a>> {
        if self.len == 0 {
            return Ok(Input::Lent(&[]));
        }
        if self.kind == DIRECT {
            let first = self.address(env)?;
            // SAFETY: `Memory` took the range from the buffer's position and limit; the
            // buffer is an argument of the call, so it lives. The caller is told not to
            // write to it meanwhile.
            let bytes = unsafe { std::slice::from_raw_parts(first, self.len) };
            return Ok(Input::Lent(bytes));
        }
        let mut bytes = AlignedBytes::zeroed(self.len)?;
        match self.array(env)? {
            (Array::Floats(array), start) => {
                array.get_region(env, start, bytemuck::cast_slice_mut(&mut bytes))?;
            }
            (Array::Bytes(array), start) => {
                array.get_region(env, start, bytemuck::cast_slice_mut(&mut bytes))?;
            }
        }
        Ok(Input::Copied(bytes))
    }

    /// The bytes, to be written.
    pub(crate) fn output(self, env: &Env<'_>) -> Result<Output<'a, 'local>> {
        let room = if self.len == 0 {
            Room::Lent(&mut [])
        } else if self.kind == DIRECT {
            let first = self.address(env)?;
            // SAFETY: as in `input`. The caller is told that nobody else may use it
            // meanwhile; what is read in place by the same call is held against it first.
            Room::Lent(unsafe { std::slice::from_raw_parts_mut(first, self.len) })
        } else {
            Room::Copied(AlignedBytes::zeroed(self.len)?)
        };
        Ok(Output { lent: self, room })
    }

    /// Whether an output would lie on bytes that are read in place.
    pub(crate) fn overlaps(&self, env: &Env<'_>, input: &[u8]) -> Result<bool> {
        if self.kind != DIRECT || self.len == 0 {
            return Ok(false);
        }
        let (start, input) = (self.address(env)?.cast_const(), input.as_ptr_range());
        Ok(input.start < start.wrapping_add(self.len) && start < input.end)
    }

    /// The number of bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    fn address(&self, env: &Env<'_>) -> Result<*mut u8> {
        // SAFETY: `Memory` says that it is a direct buffer. The one function that is called
        // with it takes any of those, whatever its elements.
        let buffer = unsafe { env.as_cast_unchecked::<JByteBuffer>(self.object) };
        let first = env.get_direct_buffer_address(&buffer)?;
        Ok(first.wrapping_add(self.start))
    }

    /// The array, and the index of the first element.
    fn array(&self, env: &Env<'_>) -> Result<(Array<'_, 'local>, jsize)> {
        // SAFETY: `Memory` says which array it is.
        let array = unsafe {
            match self.kind {
                FLOATS => Array::Floats(env.as_cast_unchecked(self.object)),
                BYTES => Array::Bytes(env.as_cast_unchecked(self.object)),
                other => return Err(invalid(format!("memory of kind {other}"))),
            }
        };
        let element = if self.kind == FLOATS { 4 } else { 1 };
        // An array has no more elements than that.
        Ok((array, (self.start / element) as jsize))
    }
}

enum Array<'a, 'local> {
    Floats(jni::refs::Cast<'a, 'local, JFloatArray<'local>>),
    Bytes(jni::refs::Cast<'a, 'local, JByteArray<'local>>),
}

/// Bytes to read.
pub(crate) enum Input<'a> {
    Lent(&'a [u8]),
    Copied(AlignedBytes),
}

impl std::ops::Deref for Input<'_> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Self::Lent(bytes) => bytes,
            Self::Copied(bytes) => bytes,
        }
    }
}

/// Bytes to write.
pub(crate) struct Output<'a, 'local> {
    lent: Lent<'a, 'local>,
    room: Room<'a>,
}

enum Room<'a> {
    Lent(&'a mut [u8]),
    Copied(AlignedBytes),
}

impl Output<'_, '_> {
    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        match &mut self.room {
            Room::Lent(bytes) => bytes,
            Room::Copied(bytes) => bytes,
        }
    }

    /// The bytes as f32.
    pub(crate) fn floats(&mut self, name: &str) -> Result<&mut [f32]> {
        let bytes = self.bytes();
        if bytes.is_empty() {
            return Ok(&mut []);
        }
        bytemuck::try_cast_slice_mut(bytes)
            .map_err(|_| invalid(format!("{name} is not aligned to 4 bytes")))
    }

    /// Brings what was written to where it belongs.
    pub(crate) fn finish(self, env: &Env<'_>) -> Result<()> {
        if let Room::Copied(bytes) = &self.room {
            match self.lent.array(env)? {
                (Array::Floats(array), start) => {
                    array.set_region(env, start, bytemuck::cast_slice(bytes))?;
                }
                (Array::Bytes(array), start) => {
                    array.set_region(env, start, bytemuck::cast_slice(bytes))?;
                }
            }
        }
        Ok(())
    }
}

/// The values of a `long[]`; nothing for null.
pub(crate) fn longs(env: &Env<'_>, array: &JLongArray<'_>) -> Result<Option<Vec<jlong>>> {
    if array.is_null() {
        return Ok(None);
    }
    let mut values = vec![0; array.len(env)?];
    array.get_region(env, 0, &mut values)?;
    Ok(Some(values))
}

/// A `long[]`.
pub(crate) fn long_array<'local>(
    env: &mut Env<'local>,
    values: &[jlong],
) -> Result<JLongArray<'local>> {
    let array = JLongArray::new(env, values.len())?;
    array.set_region(env, 0, values)?;
    Ok(array)
}

/// The values of an `int[]` as numbers without a sign.
pub(crate) fn words(env: &Env<'_>, array: &JIntArray<'_>, name: &str) -> Result<Vec<u32>> {
    if array.is_null() {
        return Err(invalid(format!("{name} is null")));
    }
    let mut values = vec![0u32; array.len(env)?];
    array.get_region(env, 0, bytemuck::cast_slice_mut(&mut values))?;
    Ok(values)
}
