//! Compressed tensors.

use cortex::form::EncodeContext;
use cortex::{Computed, MatmulOptions, Precision, Tensor, plan};
use jni::Env;
use jni::objects::{JByteArray, JClass, JLongArray, JObject, JString};
use jni::sys::{jboolean, jdouble, jint, jlong};

use crate::error::{Result, invalid, long, size};
use crate::handle::{Handle, TensorHandle};
use crate::memory::{Lent, long_array};
use crate::native;
use crate::text::optional_text;
use crate::view::Dense;

native!("io.cortex.Tensor": fn native_compress(
    data: JObject, kind: jint, start: jlong, len: jlong,
    dtype: jint, shape: [jlong], strides: [jlong], origin: jlong,
    spec: [jbyte]
) -> TensorHandle);

fn native_compress<'local>(
    env: &mut Env<'local>,
    _class: JClass<'local>,
    data: JObject<'local>,
    kind: jint,
    start: jlong,
    len: jlong,
    dtype: jint,
    shape: JLongArray<'local>,
    strides: JLongArray<'local>,
    origin: jlong,
    spec: JByteArray<'local>,
) -> Result<TensorHandle> {
    let data = (&data, kind, start, len);
    let dense = Dense::new(env, "view", data, dtype, &shape, &strides, origin)?;
    let view = dense.view("view", 1)?;
    let spec = optional_text(env, &spec, "spec")?;
    let tensor = plan::compress_as(&view, spec.as_deref(), &EncodeContext::default())?;
    Ok(Handle::give(tensor))
}

native!("io.cortex.Tensor": fn native_duplicate(tensor: TensorHandle) -> TensorHandle);

fn native_duplicate<'local>(
    _env: &mut Env<'local>,
    _class: JClass<'local>,
    tensor: TensorHandle,
) -> Result<TensorHandle> {
    Ok(Handle::give(tensor.get().clone()))
}

native!("io.cortex.Tensor": fn native_free(tensor: TensorHandle));

fn native_free<'local>(
    _env: &mut Env<'local>,
    _class: JClass<'local>,
    tensor: TensorHandle,
) -> Result<()> {
    tensor.free();
    Ok(())
}

native!("io.cortex.Tensor": fn native_name(tensor: TensorHandle) -> JString);

fn native_name<'local>(
    env: &mut Env<'local>,
    _class: JClass<'local>,
    tensor: TensorHandle,
) -> Result<JString<'local>> {
    match tensor.get().name() {
        Some(name) => Ok(JString::from_str(env, name)?),
        None => Ok(JString::null()),
    }
}

native!("io.cortex.Tensor": fn native_spec(tensor: TensorHandle) -> JString);

fn native_spec<'local>(
    env: &mut Env<'local>,
    _class: JClass<'local>,
    tensor: TensorHandle,
) -> Result<JString<'local>> {
    Ok(JString::from_str(env, tensor.get().spec().to_string())?)
}

native!("io.cortex.Tensor": fn native_shape(tensor: TensorHandle) -> [jlong]);

fn native_shape<'local>(
    env: &mut Env<'local>,
    _class: JClass<'local>,
    tensor: TensorHandle,
) -> Result<JLongArray<'local>> {
    let shape: Vec<_> = tensor.get().shape().iter().map(|d| long(*d)).collect();
    long_array(env, &shape)
}

/// A native method for a number that a tensor has.
macro_rules! property {
    ($name:ident, $type:ident, $get:expr) => {
        native!("io.cortex.Tensor": fn $name(tensor: TensorHandle) -> $type);

        fn $name<'local>(
            _env: &mut Env<'local>,
            _class: JClass<'local>,
            tensor: TensorHandle,
        ) -> Result<$type> {
            let get: fn(&Tensor) -> $type = $get;
            Ok(get(tensor.get()))
        }
    };
}

property!(native_dtype, jint, |t| t.dtype() as jint);
property!(native_rows, jlong, |t| long(t.rows()));
property!(native_cols, jlong, |t| long(t.cols()));
property!(native_raw_bytes, jlong, |t| t.raw_bytes() as jlong);
property!(native_stored_bytes, jlong, |t| t.stored_bytes() as jlong);
property!(native_bits_per_weight, jdouble, |t| t.bits_per_weight());
property!(native_relative_error, jdouble, |t| t.error().relative);
property!(native_max_abs_error, jdouble, |t| t.error().max_abs);
property!(native_sqnr_db, jdouble, |t| t
    .error()
    .sqnr_db()
    .unwrap_or(f64::INFINITY));

native!("io.cortex.Tensor": fn native_decode_rows(
    tensor: TensorHandle, first: jlong, count: jlong,
    out: JObject, kind: jint, start: jlong, len: jlong
));

fn native_decode_rows<'local>(
    env: &mut Env<'local>,
    _class: JClass<'local>,
    tensor: TensorHandle,
    first: jlong,
    count: jlong,
    out: JObject<'local>,
    kind: jint,
    start: jlong,
    len: jlong,
) -> Result<()> {
    let tensor = tensor.get();
    let rows = window(tensor, first, count)?;
    let lent = Lent::new(&out, kind, start, len)?;
    room(lent.len(), rows.len(), tensor.meta().row_bytes(), "bytes")?;
    let mut out = lent.output(env)?;
    tensor.decode_rows(rows, out.bytes())?;
    out.finish(env)
}

native!("io.cortex.Tensor": fn native_decode_rows_f32(
    tensor: TensorHandle, first: jlong, count: jlong,
    out: JObject, kind: jint, start: jlong, len: jlong
));

fn native_decode_rows_f32<'local>(
    env: &mut Env<'local>,
    _class: JClass<'local>,
    tensor: TensorHandle,
    first: jlong,
    count: jlong,
    out: JObject<'local>,
    kind: jint,
    start: jlong,
    len: jlong,
) -> Result<()> {
    let tensor = tensor.get();
    let rows = window(tensor, first, count)?;
    let lent = Lent::new(&out, kind, start, len)?;
    room(lent.len() / 4, rows.len(), tensor.cols(), "values")?;
    let mut out = lent.output(env)?;
    tensor.decode_rows_f32(rows, out.floats("out")?)?;
    out.finish(env)
}

fn window(tensor: &Tensor, start: jlong, count: jlong) -> Result<std::ops::Range<usize>> {
    Ok(tensor.window(size(start, "start")?, size(count, "count")?)?)
}

fn room(found: usize, rows: usize, row: usize, what: &str) -> Result<()> {
    match rows.checked_mul(row) == Some(found) {
        true => Ok(()),
        false => Err(invalid(format!(
            "out has room for {found} {what}; {rows} × {row} are needed"
        ))),
    }
}

/// The options of a product.
pub(crate) fn matmul_options(
    threads: jlong,
    scratch_bytes: jlong,
    precision: jint,
) -> Result<MatmulOptions> {
    let defaults = MatmulOptions::default();
    Ok(MatmulOptions {
        threads: size(threads, "options.threads")?,
        scratch_bytes: match size(scratch_bytes, "options.scratchBytes")? {
            0 => defaults.scratch_bytes,
            bytes => bytes,
        },
        precision: match precision {
            AUTO => Precision::Auto,
            EXACT => Precision::Exact,
            FAST => Precision::Fast,
            other => return Err(invalid(format!("options.precision is {other}"))),
        },
    })
}

/// The numbers of `io.cortex.Precision`.
const AUTO: jint = 0;
const EXACT: jint = 1;
const FAST: jint = 2;

/// The number of how a product was computed.
pub(crate) fn computed(done: Computed) -> jint {
    match done.precision {
        Precision::Fast => FAST,
        _ => EXACT,
    }
}

native!("io.cortex.Tensor": fn native_matmul(
    tensor: TensorHandle, transposed: jboolean,
    x: JObject, x_kind: jint, x_start: jlong, x_len: jlong,
    dtype: jint, shape: [jlong], strides: [jlong], origin: jlong,
    y: JObject, y_kind: jint, y_start: jlong, y_len: jlong,
    threads: jlong, scratch_bytes: jlong, precision: jint
) -> jint);

fn native_matmul<'local>(
    env: &mut Env<'local>,
    _class: JClass<'local>,
    tensor: TensorHandle,
    transposed: jboolean,
    x: JObject<'local>,
    x_kind: jint,
    x_start: jlong,
    x_len: jlong,
    dtype: jint,
    shape: JLongArray<'local>,
    strides: JLongArray<'local>,
    origin: jlong,
    y: JObject<'local>,
    y_kind: jint,
    y_start: jlong,
    y_len: jlong,
    threads: jlong,
    scratch_bytes: jlong,
    precision: jint,
) -> Result<jint> {
    let tensor = tensor.get();
    let (name, inner, outer) = match transposed {
        false => ("x", tensor.cols(), tensor.rows()),
        true => ("g", tensor.rows(), tensor.cols()),
    };
    let options = matmul_options(threads, scratch_bytes, precision)?;
    let x = (&x, x_kind, x_start, x_len);
    let dense = Dense::new(env, name, x, dtype, &shape, &strides, origin)?;
    let view = dense.view(name, inner)?;
    let batch = match transposed {
        false => tensor.matmul_batch(view.shape())?,
        true => tensor.matmul_t_batch(view.shape())?,
    };
    let y = Lent::new(&y, y_kind, y_start, y_len)?;
    if batch.checked_mul(outer) != Some(y.len() / 4) {
        let len = y.len() / 4;
        let what = format!("y has room for {len} values; {batch} × {outer} are needed");
        return Err(invalid(what));
    }
    if y.overlaps(env, dense.in_place())? {
        return Err(invalid(format!("y overlaps {name}")));
    }
    let mut scratch = Vec::new();
    let x = view.floats(name, &mut scratch)?;
    let mut y = y.output(env)?;
    let product = if transposed {
        Tensor::matmul_t
    } else {
        Tensor::matmul
    };
    let done = product(tensor, x, batch, y.floats("y")?, &options)?;
    y.finish(env)?;
    Ok(computed(done))
}

native!("io.cortex.Tensor": fn native_verify(tensor: TensorHandle));

fn native_verify<'local>(
    _env: &mut Env<'local>,
    _class: JClass<'local>,
    tensor: TensorHandle,
) -> Result<()> {
    Ok(tensor.get().verify()?)
}
