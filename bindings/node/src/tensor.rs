//! Compressed tensors.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use cortex::form::EncodeContext;
use cortex::{DType, Error, plan};
use napi::Env;
use napi::bindgen_prelude::{ObjectFinalize, Unknown};
use napi_derive::napi;

use crate::array::{self, Source, Target};
use crate::call::Call;
use crate::error::{guard, invalid, js};
use crate::product::{self, Conv, Matmul, Operation, Settings, conv_options};
use crate::task::{Promise, promise, spawn};
use crate::value::{self, Options};

/// A compressed tensor. Seen as a matrix it is W[rows, cols], row-major: `rows` is the first
/// dimension, `cols` the product of the others; a vector [n] is [n, 1], a scalar [1, 1].
///
/// Made by `Tensor.compress` and `Archive.tensor`. What it holds is freed by `close`, by
/// `using`, or when it is collected as garbage; one from an archive keeps the file open.
#[napi(custom_finalize)]
pub struct Tensor {
    tensor: RefCell<Option<cortex::Tensor>>,
    /// Bytes that V8 was told of.
    told_bytes: Cell<i64>,
}

impl ObjectFinalize for Tensor {
    fn finalize(mut self, env: Env) -> napi::Result<()> {
        self.tensor.get_mut().take();
        tell_bytes(&env, -self.told_bytes.get())
    }
}

/// Tells V8 how much memory stands behind an object that looks small to it.
fn tell_bytes(env: &Env, bytes: i64) -> napi::Result<()> {
    match bytes {
        0 => Ok(()),
        bytes => env.adjust_external_memory(bytes).map(drop),
    }
}

impl Tensor {
    /// A tensor whose bytes lie in a file.
    pub(crate) fn of_file(tensor: cortex::Tensor) -> Self {
        Self {
            tensor: RefCell::new(Some(tensor)),
            told_bytes: Cell::new(0),
        }
    }

    /// A tensor whose bytes lie in memory.
    fn in_memory(env: &Env, tensor: cortex::Tensor) -> napi::Result<Self> {
        let told_bytes = i64::try_from(tensor.stored_bytes()).unwrap_or(0);
        tell_bytes(env, told_bytes)?;
        Ok(Self {
            tensor: RefCell::new(Some(tensor)),
            told_bytes: Cell::new(told_bytes),
        })
    }

    /// Another handle of the library's on the tensor: for another thread, and for calls during
    /// which JavaScript, be it that of an error's making, may close this one.
    pub(crate) fn get(&self, env: &Env) -> napi::Result<cortex::Tensor> {
        self.with(env, Clone::clone)
    }

    /// Reads from the tensor.
    fn with<T>(&self, env: &Env, f: impl FnOnce(&cortex::Tensor) -> T) -> napi::Result<T> {
        let found = self.tensor.borrow().as_ref().map(f);
        found.ok_or_else(|| invalid(env, "tensor is closed"))
    }
}

/// Rows and where they go.
struct Window<'env> {
    start: usize,
    count: usize,
    out: Option<Unknown<'env>>,
}

impl<'env> Window<'env> {
    fn read(
        env: &'env Env,
        start: Unknown<'env>,
        count: Unknown<'env>,
        options: Unknown<'env>,
    ) -> napi::Result<Self> {
        Ok(Self {
            start: value::size(env, start, "start")?,
            count: value::size(env, count, "count")?,
            out: Options::new(env, options, "options")?.get(c"out")?,
        })
    }

    /// The rows, which must be there, and the elements that they have.
    fn rows(
        &self,
        env: &Env,
        tensor: &cortex::Tensor,
    ) -> napi::Result<(std::ops::Range<usize>, usize)> {
        let rows = tensor.window(self.start, self.count);
        let rows = rows.map_err(|e| js(env, e))?;
        Ok((rows, self.count * tensor.cols()))
    }
}

/// How rows are decoded.
#[derive(Clone, Copy)]
enum Decode {
    Native,
    F32,
}

impl Decode {
    fn dtype(self, tensor: &cortex::Tensor) -> DType {
        match self {
            Self::Native => tensor.dtype(),
            Self::F32 => DType::F32,
        }
    }

    fn run(
        self,
        tensor: &cortex::Tensor,
        rows: std::ops::Range<usize>,
        out: &mut [u8],
    ) -> cortex::Result<()> {
        match self {
            Self::Native => tensor.decode_rows(rows, out),
            Self::F32 => tensor.decode_rows_f32(rows, values(out)?),
        }
    }
}

/// Room for f32 as such.
fn values(out: &mut [u8]) -> cortex::Result<&mut [f32]> {
    // That of no elements may lie anywhere.
    if out.is_empty() {
        return Ok(&mut []);
    }
    bytemuck::try_cast_slice_mut(out)
        .map_err(|e| Error::internal(format!("room for a result: {e}")))
}

impl Tensor {
    fn decode_now<'env>(
        &self,
        env: &'env Env,
        window: &Window<'env>,
        how: Decode,
    ) -> napi::Result<Unknown<'env>> {
        let tensor = self.get(env)?;
        let (rows, len) = window.rows(env, &tensor)?;
        let target = Target::new(env, window.out, how.dtype(&tensor), len)?;
        let (out, ()) = target.fill(env, None, |out| how.run(&tensor, rows, out))?;
        Ok(out)
    }

    fn decode_later<'env>(
        &self,
        env: &'env Env,
        window: &Window<'env>,
        how: Decode,
    ) -> napi::Result<Promise<'env>> {
        let tensor = self.get(env)?;
        let (rows, len) = window.rows(env, &tensor)?;
        let dtype = how.dtype(&tensor);
        Target::new(env, window.out, dtype, len)?.check(env)?;
        let work = move || {
            let mut room = array::room(dtype, len)?;
            how.run(&tensor, rows, &mut room)?;
            Ok(room)
        };
        let out = window.out.as_slice();
        spawn(env, out, work, move |env, room, kept| {
            array::settle(env, room, dtype, kept.first().copied())
        })
    }

    fn whole<'env>(&self, env: &'env Env, options: Unknown<'env>) -> napi::Result<Window<'env>> {
        let out = Options::new(env, options, "options")?.get(c"out")?;
        Ok(Window {
            start: 0,
            count: self.with(env, cortex::Tensor::rows)?,
            out,
        })
    }

    fn run_now<'env>(
        &self,
        env: &'env Env,
        operation: &impl Operation,
        x: Unknown<'env>,
        settings: &Settings<'env>,
    ) -> napi::Result<Unknown<'env>> {
        let name = operation.name();
        let source = Source::read(env, x, name)?;
        let tensor = self.get(env)?;
        let input = source.lend(env)?;
        let failed = |e| js(env, e);
        let x = input.view().map_err(failed)?;
        let len = operation.len(&tensor, x.shape()).map_err(failed)?;
        let mut scratch = Vec::new();
        let values_of_x = guard(|| x.floats(name, &mut scratch)).map_err(failed)?;
        let target = Target::new(env, settings.out, DType::F32, len)?;
        let (y, done) = target.fill(env, Some(&input), |y| {
            operation.run(&tensor, values_of_x, x.shape(), values(y)?)
        })?;
        product::tell(settings.computed, done)?;
        Ok(y)
    }

    fn run_later<'env>(
        &self,
        env: &'env Env,
        operation: impl Operation,
        x: Unknown<'env>,
        settings: &Settings<'env>,
    ) -> napi::Result<Promise<'env>> {
        let name = operation.name();
        let source = Source::read(env, x, name)?;
        let tensor = self.get(env)?;
        let input = source.lend(env)?;
        let failed = |e| js(env, e);
        let x = guard(|| input.to_dense()).map_err(failed)?;
        let len = operation.len(&tensor, x.shape()).map_err(failed)?;
        Target::new(env, settings.out, DType::F32, len)?.check(env)?;
        let work = move || {
            let view = x.view();
            let mut scratch = Vec::new();
            let values_of_x = view.floats(name, &mut scratch)?;
            let mut y = array::room(DType::F32, len)?;
            let done = operation.run(&tensor, values_of_x, x.shape(), values(&mut y)?)?;
            Ok((y, done))
        };
        let (has_out, tells) = (settings.out.is_some(), settings.computed.is_some());
        let keep: Vec<_> = settings.out.into_iter().chain(settings.computed).collect();
        spawn(env, &keep, work, move |env, (y, done), kept| {
            let out = kept.first().copied().filter(|_| has_out);
            let computed = kept.last().copied().filter(|_| tells);
            let y = array::settle(env, y, DType::F32, out)?;
            product::tell(computed, done)?;
            Ok(y)
        })
    }

    fn matmul_of<'env>(
        env: &'env Env,
        options: Unknown<'env>,
        transposed: bool,
    ) -> napi::Result<(Matmul, Settings<'env>)> {
        let settings = Settings::read(&Options::new(env, options, "options")?)?;
        let matmul = Matmul {
            options: settings.matmul.clone(),
            transposed,
        };
        Ok((matmul, settings))
    }

    fn conv_of<'env>(
        env: &'env Env,
        options: Unknown<'env>,
        x_shape: Option<Unknown<'env>>,
    ) -> napi::Result<(Conv, Settings<'env>)> {
        let (options, settings) = conv_options(env, options)?;
        let gradient = x_shape.map(|shape| value::sizes(env, shape, "xShape"));
        let conv = Conv {
            options,
            gradient: gradient.transpose()?,
        };
        Ok((conv, settings))
    }
}

/// `Tensor.compress`, which the JavaScript half makes of it; types.d.ts describes it.
#[napi(skip_typescript)]
pub fn compress_tensor<'env>(
    env: &'env Env,
    view: Unknown<'env>,
    spec: Unknown<'env>,
    call: &Call,
) -> napi::Result<Promise<'env>> {
    promise(env, || {
        let spec = value::given(spec)?.map(|s| value::text(env, s, "spec"));
        let spec = spec.transpose()?;
        let input = Source::read(env, view, "view")?.lend(env)?;
        let dense = guard(|| input.to_dense()).map_err(|e| js(env, e))?;
        let state = Arc::clone(call);
        let work = move || {
            let cancelled = || state.cancelled();
            let context = EncodeContext {
                cancelled: Some(&cancelled),
                ..EncodeContext::default()
            };
            state.check()?;
            plan::compress_as(&dense.view(), spec.as_deref(), &context)
        };
        spawn(env, &[], work, |env, tensor, _| {
            value::from(env, Tensor::in_memory(env, tensor)?)
        })
    })
}

#[napi]
impl Tensor {
    /// As `compress`, on the calling thread.
    #[napi(ts_args_type = "view: DenseInput, spec?: string | null")]
    pub fn compress_sync<'env>(
        env: &'env Env,
        view: Unknown<'env>,
        spec: Unknown<'env>,
    ) -> napi::Result<Tensor> {
        let spec = value::given(spec)?
            .map(|s| value::text(env, s, "spec"))
            .transpose()?;
        let input = Source::read(env, view, "view")?.lend(env)?;
        let context = EncodeContext::default();
        let tensor = guard(|| plan::compress_as(&input.view()?, spec.as_deref(), &context));
        Self::in_memory(env, tensor.map_err(|e| js(env, e))?)
    }

    /// A second handle on the same tensor: cheap, nothing is copied. Each is closed by itself.
    #[napi(js_name = "clone")]
    pub fn second(&self, env: &Env) -> napi::Result<Tensor> {
        Ok(Self::of_file(self.get(env)?))
    }

    /// Frees what the tensor holds, at once. Calls that are under way end as they would have;
    /// later ones throw. Closing it again does nothing.
    #[napi]
    pub fn close(&self, env: &Env) -> napi::Result<()> {
        self.tensor.borrow_mut().take();
        tell_bytes(env, -self.told_bytes.take())
    }

    /// `close`, for `using`.
    #[napi(well_known_symbol = "dispose")]
    pub fn dispose(&self, env: &Env) -> napi::Result<()> {
        self.close(env)
    }

    /// The name under which it stands in its archive; null if it is from none.
    #[napi(getter)]
    pub fn name(&self, env: &Env) -> napi::Result<Option<String>> {
        self.with(env, |t| t.name().map(str::to_owned))
    }

    /// The canonical spec that it was stored with; compressing the same dense tensor with it
    /// gives the same bytes.
    #[napi(getter)]
    pub fn spec(&self, env: &Env) -> napi::Result<String> {
        self.with(env, |t| t.spec().to_string())
    }

    /// The element type that it decodes to.
    #[napi(getter, ts_return_type = "DType")]
    pub fn dtype(&self, env: &Env) -> napi::Result<&'static str> {
        self.with(env, |t| t.dtype().name())
    }

    /// Dimensions, outermost first, in elements; empty for a scalar.
    #[napi(getter, ts_return_type = "number[]")]
    pub fn shape(&self, env: &Env) -> napi::Result<Vec<f64>> {
        self.with(env, |t| t.shape().iter().map(|d| *d as f64).collect())
    }

    /// Number of dimensions; 0 for a scalar.
    #[napi(getter)]
    pub fn ndim(&self, env: &Env) -> napi::Result<u32> {
        self.with(env, |t| t.shape().len() as u32)
    }

    /// Rows as a matrix: the first dimension, 1 for a scalar.
    #[napi(getter)]
    pub fn rows(&self, env: &Env) -> napi::Result<f64> {
        self.with(env, |t| t.rows() as f64)
    }

    /// Columns as a matrix: the product of all dimensions but the first.
    #[napi(getter)]
    pub fn cols(&self, env: &Env) -> napi::Result<f64> {
        self.with(env, |t| t.cols() as f64)
    }

    /// Bytes of the dense tensor.
    #[napi(getter)]
    pub fn raw_bytes(&self, env: &Env) -> napi::Result<f64> {
        self.with(env, |t| t.raw_bytes() as f64)
    }

    /// Bytes that it takes in an archive, everything counted (codes, scales, masks, padding)
    /// but its entry in the index.
    #[napi(getter)]
    pub fn stored_bytes(&self, env: &Env) -> napi::Result<f64> {
        self.with(env, |t| t.stored_bytes() as f64)
    }

    /// Stored bits per element; 0 for a tensor without elements.
    #[napi(getter)]
    pub fn bits_per_weight(&self, env: &Env) -> napi::Result<f64> {
        self.with(env, |t| t.bits_per_weight())
    }

    /// ‖W − Ŵ‖ / ‖W‖ (Frobenius norm), measured when it was compressed. 0 when every bit came
    /// back; Infinity for an all-zero tensor that did not.
    #[napi(getter)]
    pub fn relative_error(&self, env: &Env) -> napi::Result<f64> {
        self.with(env, |t| t.error().relative)
    }

    /// max |w − ŵ|, measured when it was compressed.
    #[napi(getter)]
    pub fn max_abs_error(&self, env: &Env) -> napi::Result<f64> {
        self.with(env, |t| t.error().max_abs)
    }

    /// Signal to quantisation noise, −20·log10(relativeError), in dB; Infinity when every bit
    /// came back.
    #[napi(getter)]
    pub fn sqnr_db(&self, env: &Env) -> napi::Result<f64> {
        self.with(env, |t| t.error().sqnr_db().unwrap_or(f64::INFINITY))
    }

    /// Decodes the whole tensor to its dtype, row-major, on all cores. f16 and bf16 come as
    /// the Uint16Array, bool as the Uint8Array that has their bits. `out` is filled and
    /// returned, if given: an array of that kind, or a Uint8Array, of exactly the size.
    #[napi(
        ts_args_type = "options?: OutOptions | null",
        ts_return_type = "Promise<TypedArray>"
    )]
    pub fn decompress<'env>(
        &self,
        env: &'env Env,
        options: Unknown<'env>,
    ) -> napi::Result<Promise<'env>> {
        promise(env, || {
            self.decode_later(env, &self.whole(env, options)?, Decode::Native)
        })
    }

    /// As `decompress`, on the calling thread, straight into `out`.
    #[napi(
        ts_args_type = "options?: OutOptions | null",
        ts_return_type = "TypedArray"
    )]
    pub fn decompress_sync<'env>(
        &self,
        env: &'env Env,
        options: Unknown<'env>,
    ) -> napi::Result<Unknown<'env>> {
        self.decode_now(env, &self.whole(env, options)?, Decode::Native)
    }

    /// Decodes rows `start` to `start + count` to the tensor's dtype, row-major, on all cores:
    /// out[count, cols]. Only the parts of the file that hold them are read. Arrays as in
    /// `decompress`.
    #[napi(
        ts_args_type = "start: number, count: number, options?: OutOptions | null",
        ts_return_type = "Promise<TypedArray>"
    )]
    pub fn decode_rows<'env>(
        &self,
        env: &'env Env,
        start: Unknown<'env>,
        count: Unknown<'env>,
        options: Unknown<'env>,
    ) -> napi::Result<Promise<'env>> {
        promise(env, || {
            let window = Window::read(env, start, count, options)?;
            self.decode_later(env, &window, Decode::Native)
        })
    }

    /// As `decodeRows`, on the calling thread, straight into `out`.
    #[napi(
        ts_args_type = "start: number, count: number, options?: OutOptions | null",
        ts_return_type = "TypedArray"
    )]
    pub fn decode_rows_sync<'env>(
        &self,
        env: &'env Env,
        start: Unknown<'env>,
        count: Unknown<'env>,
        options: Unknown<'env>,
    ) -> napi::Result<Unknown<'env>> {
        let window = Window::read(env, start, count, options)?;
        self.decode_now(env, &window, Decode::Native)
    }

    /// Decodes rows `start` to `start + count` to f32, whatever the dtype: out[count, cols],
    /// row-major.
    #[napi(
        js_name = "decodeRowsF32",
        ts_args_type = "start: number, count: number, options?: FloatOutOptions | null",
        ts_return_type = "Promise<Float32Array>"
    )]
    pub fn decode_rows_f32<'env>(
        &self,
        env: &'env Env,
        start: Unknown<'env>,
        count: Unknown<'env>,
        options: Unknown<'env>,
    ) -> napi::Result<Promise<'env>> {
        promise(env, || {
            let window = Window::read(env, start, count, options)?;
            self.decode_later(env, &window, Decode::F32)
        })
    }

    /// As `decodeRowsF32`, on the calling thread, straight into `out`.
    #[napi(
        js_name = "decodeRowsF32Sync",
        ts_args_type = "start: number, count: number, options?: FloatOutOptions | null",
        ts_return_type = "Float32Array"
    )]
    pub fn decode_rows_f32_sync<'env>(
        &self,
        env: &'env Env,
        start: Unknown<'env>,
        count: Unknown<'env>,
        options: Unknown<'env>,
    ) -> napi::Result<Unknown<'env>> {
        let window = Window::read(env, start, count, options)?;
        self.decode_now(env, &window, Decode::F32)
    }

    /// y = x · Wᵀ, computed on the compressed weights: y[b, rows] = Σ x[b, cols] · W[rows, cols].
    ///
    /// `x` has any float dtype and strides, its last dimension is `cols`, and the product of
    /// the others is the batch b (1 if there is none). Sums are in f32. The result is
    /// row-major. `x` is copied before the call returns; `out`, if given, is written just
    /// before the promise resolves to it, and must still be there.
    #[napi(
        ts_args_type = "x: DenseInput, options?: MatmulOptions | null",
        ts_return_type = "Promise<Float32Array>"
    )]
    pub fn matmul<'env>(
        &self,
        env: &'env Env,
        x: Unknown<'env>,
        options: Unknown<'env>,
    ) -> napi::Result<Promise<'env>> {
        promise(env, || {
            let (operation, settings) = Self::matmul_of(env, options, false)?;
            self.run_later(env, operation, x, &settings)
        })
    }

    /// As `matmul`, on the calling thread. f32 without gaps is used in place, anything else is
    /// converted to f32 first; `out` is written in place and must not overlap `x`.
    #[napi(
        ts_args_type = "x: DenseInput, options?: MatmulOptions | null",
        ts_return_type = "Float32Array"
    )]
    pub fn matmul_sync<'env>(
        &self,
        env: &'env Env,
        x: Unknown<'env>,
        options: Unknown<'env>,
    ) -> napi::Result<Unknown<'env>> {
        let (operation, settings) = Self::matmul_of(env, options, false)?;
        self.run_now(env, &operation, x, &settings)
    }

    /// y = g · W, the product that gradients need: y[b, cols] = Σ g[b, rows] · W[rows, cols].
    /// As `matmul`, but the last dimension of `g` is `rows`.
    #[napi(
        ts_args_type = "g: DenseInput, options?: MatmulOptions | null",
        ts_return_type = "Promise<Float32Array>"
    )]
    pub fn matmul_t<'env>(
        &self,
        env: &'env Env,
        g: Unknown<'env>,
        options: Unknown<'env>,
    ) -> napi::Result<Promise<'env>> {
        promise(env, || {
            let (operation, settings) = Self::matmul_of(env, options, true)?;
            self.run_later(env, operation, g, &settings)
        })
    }

    /// As `matmulT`, on the calling thread, in place as in `matmulSync`.
    #[napi(
        js_name = "matmulTSync",
        ts_args_type = "g: DenseInput, options?: MatmulOptions | null",
        ts_return_type = "Float32Array"
    )]
    pub fn matmul_t_sync<'env>(
        &self,
        env: &'env Env,
        g: Unknown<'env>,
        options: Unknown<'env>,
    ) -> napi::Result<Unknown<'env>> {
        let (operation, settings) = Self::matmul_of(env, options, true)?;
        self.run_now(env, &operation, g, &settings)
    }

    /// The shape of what `conv` makes of an x of the shape `xShape`.
    ///
    /// Throws `invalid_argument`: the shapes do not fit each other, or the kernel is larger
    /// than the padded x.
    #[napi(
        ts_args_type = "xShape: readonly number[], options?: ConvOptions | null",
        ts_return_type = "number[]"
    )]
    pub fn conv_output_shape<'env>(
        &self,
        env: &'env Env,
        x_shape: Unknown<'env>,
        options: Unknown<'env>,
    ) -> napi::Result<Vec<f64>> {
        let (conv, _) = conv_options(env, options)?;
        let x_shape = value::sizes(env, x_shape, "xShape")?;
        let tensor = self.get(env)?;
        let shape = guard(|| tensor.conv_output_shape(&x_shape, &conv));
        let shape = shape.map_err(|e| js(env, e))?;
        Ok(shape.into_iter().map(|d| d as f64).collect())
    }

    /// y = W ∗ x, a convolution computed on the compressed weights W[out, in / groups, width]
    /// or W[out, in / groups, height, width], with x[batch, in, width] or x[batch, in, height,
    /// width] and y likewise, row-major. The kernel is not turned round, as the field has it.
    /// Arrays as in `matmul`.
    #[napi(
        ts_args_type = "x: DenseInput, options?: ConvOptions | null",
        ts_return_type = "Promise<Float32Array>"
    )]
    pub fn conv<'env>(
        &self,
        env: &'env Env,
        x: Unknown<'env>,
        options: Unknown<'env>,
    ) -> napi::Result<Promise<'env>> {
        promise(env, || {
            let (operation, settings) = Self::conv_of(env, options, None)?;
            self.run_later(env, operation, x, &settings)
        })
    }

    /// As `conv`, on the calling thread, in place as in `matmulSync`.
    #[napi(
        ts_args_type = "x: DenseInput, options?: ConvOptions | null",
        ts_return_type = "Float32Array"
    )]
    pub fn conv_sync<'env>(
        &self,
        env: &'env Env,
        x: Unknown<'env>,
        options: Unknown<'env>,
    ) -> napi::Result<Unknown<'env>> {
        let (operation, settings) = Self::conv_of(env, options, None)?;
        self.run_now(env, &operation, x, &settings)
    }

    /// The gradient of a convolution with respect to x, a transposed convolution: what `g`, of
    /// the shape of y, makes of each element of an x of the shape `xShape`. Always exact.
    #[napi(
        ts_args_type = "g: DenseInput, xShape: readonly number[], options?: ConvOptions | null",
        ts_return_type = "Promise<Float32Array>"
    )]
    pub fn conv_t<'env>(
        &self,
        env: &'env Env,
        g: Unknown<'env>,
        x_shape: Unknown<'env>,
        options: Unknown<'env>,
    ) -> napi::Result<Promise<'env>> {
        promise(env, || {
            let (operation, settings) = Self::conv_of(env, options, Some(x_shape))?;
            self.run_later(env, operation, g, &settings)
        })
    }

    /// As `convT`, on the calling thread, in place as in `matmulSync`.
    #[napi(
        js_name = "convTSync",
        ts_args_type = "g: DenseInput, xShape: readonly number[], options?: ConvOptions | null",
        ts_return_type = "Float32Array"
    )]
    pub fn conv_t_sync<'env>(
        &self,
        env: &'env Env,
        g: Unknown<'env>,
        x_shape: Unknown<'env>,
        options: Unknown<'env>,
    ) -> napi::Result<Unknown<'env>> {
        let (operation, settings) = Self::conv_of(env, options, Some(x_shape))?;
        self.run_now(env, &operation, g, &settings)
    }

    /// Reads every stored chunk of the tensor and checks it against its checksum.
    ///
    /// Rejects with `corrupt`: a chunk is damaged; the error names the tensor and the offset.
    #[napi(ts_return_type = "Promise<void>")]
    pub fn verify<'env>(&self, env: &'env Env) -> napi::Result<Promise<'env>> {
        promise(env, || {
            let tensor = self.get(env)?;
            spawn(
                env,
                &[],
                move || tensor.verify(),
                |env, (), _| value::from(env, ()),
            )
        })
    }

    /// As `verify`, on the calling thread.
    #[napi]
    pub fn verify_sync(&self, env: &Env) -> napi::Result<()> {
        let tensor = self.get(env)?;
        guard(|| tensor.verify()).map_err(|e| js(env, e))
    }
}
