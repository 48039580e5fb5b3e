//! What goes into a product besides the weights.

use std::ffi::CStr;

use cortex::bytes::{checked_mul, element_count};
use cortex::{Computed, ConvOptions, MatmulOptions, Precision, Tensor};
use napi::Env;
use napi::bindgen_prelude::Unknown;

use crate::error::invalid;
use crate::value::{self, Options};

/// How a product is computed, and where its result goes.
pub(crate) struct Settings<'env> {
    pub(crate) matmul: MatmulOptions,
    pub(crate) out: Option<Unknown<'env>>,
    /// The options, if they have a place for how it was computed.
    pub(crate) computed: Option<Unknown<'env>>,
}

impl<'env> Settings<'env> {
    pub(crate) fn read(options: &Options<'env>) -> napi::Result<Self> {
        let mut matmul = MatmulOptions::default();
        if options.object().is_none() {
            return Ok(Self {
                matmul,
                out: None,
                computed: None,
            });
        }
        if let Some(threads) = options.read(c"threads", value::size)? {
            matmul.threads = threads;
        }
        match options.read(c"scratchBytes", value::size)? {
            None | Some(0) => {}
            Some(bytes) => matmul.scratch_bytes = bytes,
        }
        if let Some(precision) = options.read(c"precision", precision)? {
            matmul.precision = precision;
        }
        let wanted = options.has(c"computed")?;
        Ok(Self {
            matmul,
            out: options.get(c"out")?,
            computed: options.object().filter(|_| wanted),
        })
    }
}

const PRECISIONS: [(&str, Precision); 3] = [
    ("auto", Precision::Auto),
    ("exact", Precision::Exact),
    ("fast", Precision::Fast),
];

fn precision(
    env: &Env,
    value: Unknown<'_>,
    name: impl std::fmt::Display,
) -> napi::Result<Precision> {
    let text = value::text(env, value, &name)?;
    let known = PRECISIONS.iter().find(|(name, _)| *name == text);
    known.map(|(_, precision)| *precision).ok_or_else(|| {
        invalid(
            env,
            format!("{name} is '{text}'; 'auto', 'exact' or 'fast' is needed"),
        )
    })
}

/// Says in the options how a product was computed.
pub(crate) fn tell(options: Option<Unknown<'_>>, done: Computed) -> napi::Result<()> {
    let Some(options) = options else {
        return Ok(());
    };
    let text = match done.precision {
        Precision::Fast => "fast",
        _ => "exact",
    };
    value::set_property(options, "computed", text)
}

/// What is computed of an input: a product or a convolution, or what turns it round.
pub(crate) trait Operation: Send + 'static {
    /// The input's name, for messages.
    fn name(&self) -> &'static str;

    /// Values of the result of an input of this shape.
    fn len(&self, tensor: &Tensor, shape: &[usize]) -> cortex::Result<usize>;

    /// Computes it.
    fn run(
        &self,
        tensor: &Tensor,
        x: &[f32],
        shape: &[usize],
        y: &mut [f32],
    ) -> cortex::Result<Computed>;
}

/// `x · Wᵀ`, or `g · W`.
pub(crate) struct Matmul {
    pub(crate) options: MatmulOptions,
    pub(crate) transposed: bool,
}

impl Matmul {
    /// The batch of an input, and the values that each of it becomes.
    fn sizes(&self, tensor: &Tensor, shape: &[usize]) -> cortex::Result<(usize, usize)> {
        Ok(match self.transposed {
            false => (tensor.matmul_batch(shape)?, tensor.rows()),
            true => (tensor.matmul_t_batch(shape)?, tensor.cols()),
        })
    }
}

impl Operation for Matmul {
    fn name(&self) -> &'static str {
        if self.transposed { "g" } else { "x" }
    }

    fn len(&self, tensor: &Tensor, shape: &[usize]) -> cortex::Result<usize> {
        let (batch, outer) = self.sizes(tensor, shape)?;
        checked_mul(batch, outer)
    }

    fn run(
        &self,
        tensor: &Tensor,
        x: &[f32],
        shape: &[usize],
        y: &mut [f32],
    ) -> cortex::Result<Computed> {
        let (batch, _) = self.sizes(tensor, shape)?;
        match self.transposed {
            false => tensor.matmul(x, batch, y, &self.options),
            true => tensor.matmul_t(x, batch, y, &self.options),
        }
    }
}

/// `W ∗ x`, or its gradient with respect to an x of a shape.
pub(crate) struct Conv {
    pub(crate) options: ConvOptions,
    pub(crate) gradient: Option<Vec<usize>>,
}

impl Operation for Conv {
    fn name(&self) -> &'static str {
        if self.gradient.is_some() { "g" } else { "x" }
    }

    fn len(&self, tensor: &Tensor, shape: &[usize]) -> cortex::Result<usize> {
        let Some(x_shape) = &self.gradient else {
            return element_count(&tensor.conv_output_shape(shape, &self.options)?);
        };
        tensor.check_gradient_shape(shape, x_shape, &self.options)?;
        element_count(x_shape)
    }

    fn run(
        &self,
        tensor: &Tensor,
        x: &[f32],
        shape: &[usize],
        y: &mut [f32],
    ) -> cortex::Result<Computed> {
        match &self.gradient {
            None => tensor.conv(x, shape, y, &self.options),
            Some(x_shape) => tensor.conv_t(x, x_shape, y, &self.options),
        }
    }
}

/// The options of a convolution, and what it takes from those of a product.
pub(crate) fn conv_options<'env>(
    env: &'env Env,
    options: Unknown<'env>,
) -> napi::Result<(ConvOptions, Settings<'env>)> {
    let options = Options::new(env, options, "options")?;
    let settings = Settings::read(&options)?;
    let mut conv = ConvOptions {
        matmul: settings.matmul.clone(),
        ..ConvOptions::default()
    };
    if let Some([height, width]) = tuple(env, &options, c"stride")? {
        conv.stride = [height, width];
    }
    if let Some([top, bottom, left, right]) = tuple(env, &options, c"padding")? {
        conv.padding = [[top, bottom], [left, right]];
    }
    if let Some([height, width]) = tuple(env, &options, c"dilation")? {
        conv.dilation = [height, width];
    }
    if let Some(groups) = options.read(c"groups", value::size)? {
        conv.groups = groups;
    }
    Ok((conv, settings))
}

/// As many sizes as are wanted.
fn tuple<const N: usize>(
    env: &Env,
    options: &Options<'_>,
    key: &'static CStr,
) -> napi::Result<Option<[usize; N]>> {
    options.read(key, |_, value, name| {
        let sizes = value::sizes(env, value, name)?;
        let found = sizes.len();
        sizes
            .try_into()
            .map_err(|_| invalid(env, format!("{name} has {found} items; {N} are needed")))
    })
}
