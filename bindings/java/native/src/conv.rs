//! Convolution with compressed tensors.

use cortex::ConvOptions;
use jni::Env;
use jni::objects::{JClass, JLongArray, JObject};
use jni::sys::{jboolean, jint, jlong};

use crate::error::{Result, invalid, long, size};
use crate::handle::TensorHandle;
use crate::memory::{Lent, long_array, longs};
use crate::native;
use crate::tensor::{computed, matmul_options};
use crate::view::{Dense, dims, expect};

/// The options in the order of `io.cortex.ConvOptions`; 0 stands for the default.
fn conv_options(env: &Env<'_>, numbers: &JLongArray<'_>) -> Result<ConvOptions> {
    const NAMES: [&str; 11] = [
        "strideHeight",
        "strideWidth",
        "paddingTop",
        "paddingBottom",
        "paddingLeft",
        "paddingRight",
        "dilationHeight",
        "dilationWidth",
        "groups",
        "threads",
        "scratchBytes",
    ];
    let numbers = longs(env, numbers)?.unwrap_or_default();
    let [rest @ .., precision] = numbers.as_slice() else {
        return Err(invalid("options are missing"));
    };
    let mut sizes = [0; NAMES.len()];
    for ((size_, name), number) in sizes.iter_mut().zip(NAMES).zip(rest) {
        *size_ = size(*number, &format!("options.{name}"))?;
    }
    let [
        sh,
        sw,
        top,
        bottom,
        left,
        right,
        dh,
        dw,
        groups,
        threads,
        scratch,
    ] = sizes;
    let one = |n: usize| n.max(1);
    Ok(ConvOptions {
        stride: [one(sh), one(sw)],
        padding: [[top, bottom], [left, right]],
        dilation: [one(dh), one(dw)],
        groups: one(groups),
        matmul: matmul_options(long(threads), long(scratch), *precision as jint)?,
        ..ConvOptions::default()
    })
}

native!("io.cortex.Tensor": fn native_conv_output_shape(
    tensor: TensorHandle, x_shape: [jlong], options: [jlong]
) -> [jlong]);

fn native_conv_output_shape<'local>(
    env: &mut Env<'local>,
    _class: JClass<'local>,
    tensor: TensorHandle,
    x_shape: JLongArray<'local>,
    options: JLongArray<'local>,
) -> Result<JLongArray<'local>> {
    let options = conv_options(env, &options)?;
    let x_shape = dims(env, "x_shape", &x_shape)?.unwrap_or_default();
    let found = tensor.get().conv_output_shape(&x_shape, &options)?;
    let found: Vec<_> = found.into_iter().map(long).collect();
    long_array(env, &found)
}

native!("io.cortex.Tensor": fn native_conv(
    tensor: TensorHandle,
    x: JObject, x_kind: jint, x_start: jlong, x_len: jlong,
    dtype: jint, shape: [jlong], strides: [jlong], origin: jlong,
    options: [jlong], backward: jboolean, x_shape: [jlong],
    y: JObject, y_kind: jint, y_start: jlong, y_len: jlong
) -> jint);

/// `backward`: x is the gradient g, and y that of an x of the shape `x_shape`.
fn native_conv<'local>(
    env: &mut Env<'local>,
    _class: JClass<'local>,
    tensor: TensorHandle,
    x: JObject<'local>,
    x_kind: jint,
    x_start: jlong,
    x_len: jlong,
    dtype: jint,
    shape: JLongArray<'local>,
    strides: JLongArray<'local>,
    origin: jlong,
    options: JLongArray<'local>,
    backward: jboolean,
    x_shape: JLongArray<'local>,
    y: JObject<'local>,
    y_kind: jint,
    y_start: jlong,
    y_len: jlong,
) -> Result<jint> {
    let tensor = tensor.get();
    let options = conv_options(env, &options)?;
    let (x_name, y_name) = match backward {
        false => ("x", "y"),
        true => ("g", "xGradient"),
    };
    let x = (&x, x_kind, x_start, x_len);
    let dense = Dense::new(env, x_name, x, dtype, &shape, &strides, origin)?;
    let view = dense.view(x_name, 1)?;
    let y = Lent::new(&y, y_kind, y_start, y_len)?;
    let x_shape = match backward {
        false => view.shape().to_vec(),
        true => dims(env, "x_shape", &x_shape)?.unwrap_or_default(),
    };
    if backward {
        tensor.check_gradient_shape(view.shape(), &x_shape, &options)?;
        expect(y_name, y.len() / 4, &x_shape)?;
    } else {
        let y_shape = tensor.conv_output_shape(&x_shape, &options)?;
        expect(y_name, y.len() / 4, &y_shape)?;
    }
    if y.overlaps(env, dense.in_place())? {
        return Err(invalid(format!("{y_name} overlaps {x_name}")));
    }
    let mut scratch = Vec::new();
    let x = view.floats(x_name, &mut scratch)?;
    let mut y = y.output(env)?;
    let out = y.floats(y_name)?;
    let done = match backward {
        false => tensor.conv(x, &x_shape, out, &options)?,
        true => tensor.conv_t(x, &x_shape, out, &options)?,
    };
    y.finish(env)?;
    Ok(computed(done))
}
