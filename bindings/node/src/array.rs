//! Typed arrays in and out.
//!
//! An address is good until JavaScript runs again: then a buffer may be detached, resized or
//! freed. So an address is asked for after everything else was read, used, and forgotten
//! before the call returns; only copies go to other threads.

use std::ops::Range;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU8, Ordering};

use cortex::bytes::AlignedBytes;
use cortex::{DType, Dense, Error, View};
use napi::bindgen_prelude::{ArrayBuffer, Unknown};
use napi::{Env, JsValue, Status, ValueType, sys};

use crate::error::{guard, invalid, js};
use crate::value::{self, Options, wrong};

/// Float16Array, which Node-API's own list does not name yet.
const FLOAT16: sys::napi_typedarray_type = 11;

/// The kinds of typed arrays: the number in Node-API, the name, and what the elements are.
const KINDS: [(sys::napi_typedarray_type, &str, DType); 12] = [
    (sys::TypedarrayType::int8_array, "Int8Array", DType::I8),
    (sys::TypedarrayType::uint8_array, "Uint8Array", DType::U8),
    (
        sys::TypedarrayType::uint8_clamped_array,
        "Uint8ClampedArray",
        DType::U8,
    ),
    (sys::TypedarrayType::int16_array, "Int16Array", DType::I16),
    (sys::TypedarrayType::uint16_array, "Uint16Array", DType::U16),
    (sys::TypedarrayType::int32_array, "Int32Array", DType::I32),
    (sys::TypedarrayType::uint32_array, "Uint32Array", DType::U32),
    (
        sys::TypedarrayType::float32_array,
        "Float32Array",
        DType::F32,
    ),
    (
        sys::TypedarrayType::float64_array,
        "Float64Array",
        DType::F64,
    ),
    (
        sys::TypedarrayType::bigint64_array,
        "BigInt64Array",
        DType::I64,
    ),
    (
        sys::TypedarrayType::biguint64_array,
        "BigUint64Array",
        DType::U64,
    ),
    (FLOAT16, "Float16Array", DType::F16),
];

/// The typed array that elements of a dtype come out in. There is none for bf16, none for
/// f16 in every Node, and none for bool: those come out as the integers that have their bits.
fn kind_of(dtype: DType) -> sys::napi_typedarray_type {
    match dtype {
        DType::F64 => sys::TypedarrayType::float64_array,
        DType::F32 => sys::TypedarrayType::float32_array,
        DType::F16 | DType::BF16 | DType::U16 => sys::TypedarrayType::uint16_array,
        DType::I64 => sys::TypedarrayType::bigint64_array,
        DType::I32 => sys::TypedarrayType::int32_array,
        DType::I16 => sys::TypedarrayType::int16_array,
        DType::I8 => sys::TypedarrayType::int8_array,
        DType::U64 => sys::TypedarrayType::biguint64_array,
        DType::U32 => sys::TypedarrayType::uint32_array,
        DType::U8 | DType::Bool => sys::TypedarrayType::uint8_array,
    }
}

/// Whether elements of `dtype` may lie in an array whose elements are `own`: integers as wide
/// hold the bits of f16, bf16 and bool, and a Uint8Array holds any bytes.
fn holds(own: DType, dtype: DType) -> bool {
    own == dtype
        || own == DType::U8
        || (own == DType::U16 && matches!(dtype, DType::F16 | DType::BF16))
}

/// Where a typed array lies, until JavaScript runs again.
struct Memory {
    data: *mut u8,
    bytes: usize,
    dtype: DType,
    kind: &'static str,
    /// Other threads may write to it at any time.
    shared: bool,
}

impl Memory {
    /// Asks for the address. What is no typed array, or was detached, is refused.
    fn of(env: &Env, array: Unknown<'_>, name: &str) -> napi::Result<Self> {
        // A kind that Node-API does not know stays unset.
        let (mut kind, mut len, mut data) = (-1, 0, null_mut());
        let (mut buffer, mut offset) = (null_mut(), 0);
        // SAFETY: environment and value are those of the running call.
        let status = unsafe {
            sys::napi_get_typedarray_info(
                env.raw(),
                array.raw(),
                &mut kind,
                &mut len,
                &mut data,
                &mut buffer,
                &mut offset,
            )
        };
        if status != sys::Status::napi_ok {
            return Err(wrong(env, array, name, "a typed array"));
        }
        let Some((_, kind, dtype)) = KINDS.iter().find(|(n, ..)| *n == kind) else {
            return Err(invalid(env, format!("{name} is an array of unknown type")));
        };
        let (mut plain, mut detached) = (false, false);
        // SAFETY: as above; the buffer is the value that was just given.
        let status = unsafe { sys::napi_is_arraybuffer(env.raw(), buffer, &mut plain) };
        check(env, status)?;
        if len == 0 && plain {
            // SAFETY: as above.
            let status =
                unsafe { sys::napi_is_detached_arraybuffer(env.raw(), buffer, &mut detached) };
            check(env, status)?;
        }
        if detached {
            return Err(invalid(env, format!("{name} is detached")));
        }
        Ok(Self {
            data: data.cast(),
            bytes: len * dtype.size(),
            dtype: *dtype,
            kind,
            shared: !plain,
        })
    }

    fn range(&self) -> Range<*const u8> {
        let start = self.data.cast_const();
        start..start.wrapping_add(self.bytes)
    }

    /// The bytes in place.
    ///
    /// # Safety
    /// Not shared; no JavaScript runs during `'a`, and nothing writes there.
    unsafe fn lend<'a>(&self) -> &'a [u8] {
        match self.bytes {
            0 => &[],
            // SAFETY: this function's own condition; V8 said how long it is.
            bytes => unsafe { std::slice::from_raw_parts(self.data, bytes) },
        }
    }

    /// The bytes in place, to be written.
    ///
    /// # Safety
    /// Not shared; no JavaScript runs during `'a`, and nothing else reads or writes there.
    unsafe fn lend_mut<'a>(&self) -> &'a mut [u8] {
        match self.bytes {
            0 => &mut [],
            // SAFETY: this function's own condition.
            bytes => unsafe { std::slice::from_raw_parts_mut(self.data, bytes) },
        }
    }

    /// Bytes that other threads may be at, each read and written by itself.
    fn atoms(&self) -> &[AtomicU8] {
        match self.bytes {
            0 => &[],
            // SAFETY: V8 said how long it is, and keeps it while `self`, which lives in one
            // call, is used; an `AtomicU8` is a byte.
            bytes => unsafe { std::slice::from_raw_parts(self.data.cast(), bytes) },
        }
    }

    /// A copy of the bytes.
    fn copy(&self) -> cortex::Result<AlignedBytes> {
        if !self.shared {
            // SAFETY: not shared, and only this function runs.
            return AlignedBytes::copy_of(unsafe { self.lend() });
        }
        let mut out = AlignedBytes::zeroed(self.bytes)?;
        for (to, from) in out.iter_mut().zip(self.atoms()) {
            *to = from.load(Ordering::Relaxed);
        }
        Ok(out)
    }

    /// Overwrites all bytes; there must be as many.
    fn fill(&self, bytes: &[u8]) {
        if !self.shared {
            // SAFETY: not shared, only this function runs, and `bytes` are the library's own.
            return unsafe { self.lend_mut() }.copy_from_slice(bytes);
        }
        for (to, from) in self.atoms().iter().zip(bytes) {
            to.store(*from, Ordering::Relaxed);
        }
    }
}

/// The bytes of an input.
enum Bytes {
    /// In place: not before [`Input::lend`]'s caller returns does JavaScript run again.
    Lent(&'static [u8]),
    Copied(AlignedBytes),
}

/// What describes dense data, its properties read and its address not yet asked for.
pub(crate) struct Source<'env> {
    array: Unknown<'env>,
    name: &'static str,
    dtype: Option<DType>,
    shape: Option<Vec<usize>>,
    strides: Option<Vec<isize>>,
    offset: usize,
}

impl<'env> Source<'env> {
    /// Reads a typed array, or `{ data, shape, dtype, strides, offset }`.
    pub(crate) fn read(
        env: &'env Env,
        value: Unknown<'env>,
        name: &'static str,
    ) -> napi::Result<Self> {
        let plain = Self {
            array: value,
            name,
            dtype: None,
            shape: None,
            strides: None,
            offset: 0,
        };
        if value.is_typedarray()? {
            return Ok(plain);
        }
        let wanted = "a typed array or { data, shape }";
        if value.get_type()? != ValueType::Object {
            return Err(wrong(env, value, name, wanted));
        }
        let object = Options::new(env, value, name)?;
        let Some(array) = object.get(c"data")? else {
            return Err(invalid(
                env,
                format!("{name}.data is missing; {wanted} is needed"),
            ));
        };
        Ok(Self {
            array,
            dtype: object.read(c"dtype", |env, value, name| {
                let dtype = value::text(env, value, name)?.parse::<DType>();
                dtype.map_err(|e| js(env, e.context(name)))
            })?,
            shape: object.read(c"shape", |e, v, n| value::sizes(e, v, n))?,
            strides: object.read(c"strides", |e, v, n| value::distances(e, v, n))?,
            offset: object
                .read(c"offset", |e, v, n| value::size(e, v, n))?
                .unwrap_or(0),
            ..plain
        })
    }

    /// Asks for the address. JavaScript must not run again before the input is dropped.
    pub(crate) fn lend(self, env: &Env) -> napi::Result<Input> {
        let name = self.name;
        let memory = Memory::of(env, self.array, name)?;
        let dtype = self.dtype.unwrap_or(memory.dtype);
        if !holds(memory.dtype, dtype) {
            return Err(invalid(
                env,
                format!("{name}.dtype is {dtype}, {name}.data a {}", memory.kind),
            ));
        }
        let shape = match self.shape {
            Some(shape) => shape,
            None => vec![memory.bytes / dtype.size()],
        };
        let range = memory.range();
        let bytes = match memory.shared {
            true => Bytes::Copied(memory.copy().map_err(|e| js(env, e))?),
            // SAFETY: not shared; the caller lets no JavaScript run, and whoever writes to
            // memory of JavaScript (`Target::fill`) makes sure that it is other memory.
            false => Bytes::Lent(unsafe { memory.lend() }),
        };
        Ok(Input {
            name,
            dtype,
            shape,
            strides: self.strides,
            offset: self.offset,
            range,
            bytes,
        })
    }
}

/// Dense data of JavaScript, lent for the rest of a call.
pub(crate) struct Input {
    name: &'static str,
    dtype: DType,
    shape: Vec<usize>,
    strides: Option<Vec<isize>>,
    offset: usize,
    range: Range<*const u8>,
    bytes: Bytes,
}

impl Input {
    /// The data as the library sees it.
    pub(crate) fn view(&self) -> cortex::Result<View<'_>> {
        let bytes: &[u8] = match &self.bytes {
            Bytes::Lent(bytes) => bytes,
            Bytes::Copied(bytes) => bytes,
        };
        let origin = self.offset.checked_mul(self.dtype.size());
        let outside = || {
            let (len, name) = (bytes.len() / self.dtype.size(), self.name);
            let offset = self.offset;
            Error::invalid(format!(
                "{name}.offset is {offset}; {name}.data has {len} elements"
            ))
        };
        let rest = origin
            .and_then(|origin| bytes.get(origin..))
            .ok_or_else(outside)?;
        let view = match &self.strides {
            None => View::new(self.dtype, &self.shape, rest),
            Some(strides) => {
                let origin = bytes.len() - rest.len();
                View::strided(self.dtype, &self.shape, strides, bytes, origin)
            }
        };
        view.map_err(|e| e.context(self.name))
    }

    /// A copy of the elements, row-major, for another thread.
    pub(crate) fn to_dense(&self) -> cortex::Result<Dense> {
        self.view()?.to_dense()
    }
}

/// Elements up to this many bytes are written straight into memory of V8. V8 ends the process
/// where it cannot have memory, and the library does not; so what may be large, being what a
/// file claims, is allocated by the library and handed over.
const SMALL_BYTES: usize = 1 << 20;

/// The longest typed array that every V8 makes.
const MAX_LEN: usize = u32::MAX as usize;

/// Where a result goes: a typed array of the caller, or a new one.
pub(crate) struct Target<'env> {
    out: Option<Unknown<'env>>,
    dtype: DType,
    len: usize,
}

impl<'env> Target<'env> {
    /// `len` elements of `dtype`, into `out` if that was given.
    pub(crate) fn new(
        env: &Env,
        out: Option<Unknown<'env>>,
        dtype: DType,
        len: usize,
    ) -> napi::Result<Self> {
        if len > MAX_LEN {
            let message = format!("{len} elements; an array takes {MAX_LEN} at most");
            return Err(js(env, Error::limit(message)));
        }
        Ok(Self { out, dtype, len })
    }

    fn byte_len(&self) -> usize {
        self.len * self.dtype.size()
    }

    fn memory(&self, env: &Env, out: Unknown<'_>) -> napi::Result<Memory> {
        let memory = Memory::of(env, out, "out")?;
        if !holds(memory.dtype, self.dtype) {
            let (kind, dtype) = (memory.kind, self.dtype);
            return Err(invalid(
                env,
                format!("out is a {kind}; the result is {dtype}"),
            ));
        }
        if memory.bytes != self.byte_len() {
            let (len, wanted) = (memory.bytes / self.dtype.size(), self.len);
            return Err(invalid(
                env,
                format!("out has {len} elements; {wanted} are needed"),
            ));
        }
        Ok(memory)
    }

    /// Refuses an `out` that does not fit, before work is done for it on another thread.
    pub(crate) fn check(&self, env: &Env) -> napi::Result<()> {
        self.out
            .map_or(Ok(()), |out| self.memory(env, out).map(drop))
    }

    /// Runs `work` on the bytes of the result. `inputs` are what it reads.
    pub(crate) fn fill<R>(
        self,
        env: &'env Env,
        inputs: Option<&Input>,
        work: impl FnOnce(&mut [u8]) -> cortex::Result<R>,
    ) -> napi::Result<(Unknown<'env>, R)> {
        let failed = |e| js(env, e);
        let Some(out) = self.out else {
            let bytes = self.byte_len();
            if bytes > SMALL_BYTES {
                let mut room = guard(|| AlignedBytes::zeroed(bytes)).map_err(failed)?;
                let done = guard(|| work(&mut room)).map_err(failed)?;
                return Ok((hand_over(env, room, self.dtype, self.len)?, done));
            }
            let (buffer, memory) = new_buffer(env, bytes)?;
            // SAFETY: the buffer is new: nobody else knows of it, and no JavaScript runs.
            let done = guard(|| work(unsafe { memory.lend_mut() })).map_err(failed)?;
            return Ok((new_array(env, self.dtype, self.len, buffer)?, done));
        };
        let memory = self.memory(env, out)?;
        if let Some(input) = inputs {
            let (x, y) = (&input.range, memory.range());
            if x.start < y.end && y.start < x.end && !x.is_empty() {
                return Err(invalid(env, format!("out overlaps {}", input.name)));
            }
        }
        let aligned = memory.data.addr().is_multiple_of(self.dtype.size());
        if memory.shared || !aligned {
            let mut room = guard(|| AlignedBytes::zeroed(memory.bytes)).map_err(failed)?;
            let done = guard(|| work(&mut room)).map_err(failed)?;
            memory.fill(&room);
            return Ok((out, done));
        }
        // SAFETY: not shared; `work` is the library's and runs no JavaScript; what it reads
        // lies elsewhere, as was checked.
        let done = guard(|| work(unsafe { memory.lend_mut() })).map_err(failed)?;
        Ok((out, done))
    }
}

/// Room for a result that is made on another thread.
pub(crate) fn room(dtype: DType, len: usize) -> cortex::Result<AlignedBytes> {
    AlignedBytes::zeroed(len * dtype.size())
}

/// A result that was made on another thread, copied into `out` if that was given.
pub(crate) fn settle<'env>(
    env: &'env Env,
    bytes: AlignedBytes,
    dtype: DType,
    out: Option<Unknown<'env>>,
) -> napi::Result<Unknown<'env>> {
    let target = Target::new(env, out, dtype, bytes.len() / dtype.size())?;
    match out {
        None if bytes.len() > SMALL_BYTES => hand_over(env, bytes, dtype, target.len),
        None => target
            .fill(env, None, |to| {
                to.copy_from_slice(&bytes);
                Ok(())
            })
            .map(|(array, ())| array),
        Some(out) => {
            target.memory(env, out)?.fill(&bytes);
            Ok(out)
        }
    }
}

/// A typed array on memory of the library, which is freed with the array.
fn hand_over<'env>(
    env: &'env Env,
    mut bytes: AlignedBytes,
    dtype: DType,
    len: usize,
) -> napi::Result<Unknown<'env>> {
    let (data, byte_len) = (bytes.as_mut_ptr(), bytes.len());
    // SAFETY: the memory does not move with `bytes`, which is dropped with the buffer.
    let buffer =
        unsafe { ArrayBuffer::from_external(env, data, byte_len, bytes, |_, bytes| drop(bytes))? };
    new_array(env, dtype, len, buffer.raw())
}

fn new_buffer(env: &Env, bytes: usize) -> napi::Result<(sys::napi_value, Memory)> {
    let (mut data, mut buffer) = (null_mut(), null_mut());
    // SAFETY: the environment is that of the running call.
    let status = unsafe { sys::napi_create_arraybuffer(env.raw(), bytes, &mut data, &mut buffer) };
    check(env, status)?;
    let memory = Memory {
        data: data.cast(),
        bytes,
        dtype: DType::U8,
        kind: "ArrayBuffer",
        shared: false,
    };
    Ok((buffer, memory))
}

fn new_array<'env>(
    env: &'env Env,
    dtype: DType,
    len: usize,
    buffer: sys::napi_value,
) -> napi::Result<Unknown<'env>> {
    let mut array = null_mut();
    // SAFETY: the environment is that of the running call, the buffer a value of it; on
    // success the result is one too.
    unsafe {
        let kind = kind_of(dtype);
        let status = sys::napi_create_typedarray(env.raw(), kind, len, buffer, 0, &mut array);
        check(env, status)?;
        Ok(Unknown::from_raw_unchecked(env.raw(), array))
    }
}

/// Numbers of 32 bits from a Uint32Array, or `None` for what is none.
pub(crate) fn numbers(env: &Env, value: Unknown<'_>, name: &str) -> napi::Result<Option<Vec<u32>>> {
    if !value.is_typedarray()? {
        return Ok(None);
    }
    let memory = Memory::of(env, value, name)?;
    if memory.dtype != DType::U32 {
        let message = format!(
            "{name} is a {}; a Uint32Array or an array is needed",
            memory.kind
        );
        return Err(invalid(env, message));
    }
    let bytes = memory.copy().map_err(|e| js(env, e))?;
    Ok(Some(bytemuck::cast_slice(&bytes).to_vec()))
}

fn check(env: &Env, status: sys::napi_status) -> napi::Result<()> {
    match status {
        sys::Status::napi_ok => Ok(()),
        status => Err(value::caught(
            env,
            napi::Error::from_status(Status::from(status)),
        )),
    }
}
