//! Convolution with a compressed tensor, in bounded memory.
//!
//! The weights are W[out, in / groups, taps] or W[out, in / groups, taps of the height, taps
//! of the width], any form; x is [batch, in, width] or [batch, in, height, width]. As the
//! field's frameworks have it, the kernel is not turned round (a cross-correlation):
//!
//! `y[b, o, i, j] = Σ W[o, c, u, v] · x[b, g·in/groups + c, i·s + u·d − p, j·s′ + v·d′ − p′]`
//!
//! over c, u, v, where g is the group of o and x is 0 in the padding.
//!
//! There are three ways to compute it; see [`ConvMethod`]. In none of them do the patches of
//! all positions together (im2col) exist.

mod choice;
mod direct;
mod fourier;
mod lines;
mod patches;
mod shape;

use std::sync::atomic::{AtomicBool, Ordering};

use direct::Direction;
use fourier::Fourier;
use shape::Shape;

use crate::error::{Error, Result};
use crate::form::{Precision, Product, Scratch, Tensor, run_workers};
use crate::matmul::{Computed, MatmulOptions};

/// How a convolution is computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConvMethod {
    /// Whichever is expected to be fastest, from what each would decode, move and multiply: by
    /// patches only if the product is then worth the gathering, which it often is where
    /// activations may be rounded or positions are few, and for forms that multiply by fewer
    /// products than their decoded weights.
    #[default]
    Auto,
    /// Patches of a block of positions are gathered and multiplied by the form
    /// ([`Tensor::matmul`]), which is never decoded where it can be multiplied as it is.
    /// Half of the scratch limit is for the patches and results of a block, half for the
    /// product; a form that does not go by rows also holds what grows with the block.
    /// For one group.
    Patches,
    /// Windows of rows are decoded, each once for all positions, and multiplied by runs of
    /// neighbouring samples; nothing is gathered. Half of the scratch limit is for decoded
    /// weights, a quarter for decoding, a quarter for sums and padded samples.
    /// Always exact.
    Direct,
    /// Windows of rows are decoded and transformed, and multiplied by the spectra of
    /// overlapping segments of x, for kernels of one dimension: what an output costs hardly
    /// depends on the number of taps. Half of the scratch limit is for spectra of weights, a
    /// quarter for decoding, a quarter for those of x. Rounding errors are relative to the
    /// norms of kernel and segment, and a sample that is not finite spoils its segment.
    Fourier,
}

/// Strides, padding and the like of a convolution. Pairs stand for height and width;
/// weights of one dimension have a width only, and take the height's defaults.
#[derive(Clone, Debug)]
pub struct ConvOptions {
    /// Samples from one output to the next, at least 1.
    pub stride: [usize; 2],
    /// Zeros before the first and after the last sample.
    pub padding: [[usize; 2]; 2],
    /// Samples from one tap to the next, at least 1.
    pub dilation: [usize; 2],
    /// Parts of the channels that are convolved apart; it divides input and output channels.
    pub groups: usize,
    /// How it is computed.
    pub method: ConvMethod,
    /// Threads, scratch and precision.
    pub matmul: MatmulOptions,
}

impl Default for ConvOptions {
    fn default() -> Self {
        Self {
            stride: [1; 2],
            padding: [[0; 2]; 2],
            dilation: [1; 2],
            groups: 1,
            method: ConvMethod::Auto,
            matmul: MatmulOptions::default(),
        }
    }
}

impl Tensor {
    /// The shape of what [`conv`](Self::conv) makes of an x of shape `x_shape`:
    /// [batch, out, width] or [batch, out, height, width].
    pub fn conv_output_shape(
        &self,
        x_shape: &[usize],
        options: &ConvOptions,
    ) -> Result<Vec<usize>> {
        self.conv_shape(x_shape, "x", options).map(|s| s.output())
    }

    /// Checks that `g_shape` is that of what [`conv`](Self::conv) makes of an x of shape `x_shape`,
    /// as [`conv_t`](Self::conv_t) needs.
    pub fn check_gradient_shape(
        &self,
        g_shape: &[usize],
        x_shape: &[usize],
        options: &ConvOptions,
    ) -> Result<()> {
        let expected = self.conv_output_shape(x_shape, options)?;
        match g_shape == expected {
            true => Ok(()),
            false => Err(Error::invalid(format!(
                "g has shape {g_shape:?}; an x of shape {x_shape:?} makes {expected:?}"
            ))),
        }
    }

    fn conv_shape(&self, x_shape: &[usize], name: &str, options: &ConvOptions) -> Result<Shape> {
        Shape::new(self.shape(), x_shape, name, options).map_err(|e| self.blame(e))
    }

    /// Convolves x of shape `x_shape`, row-major, to `y` of shape
    /// [`conv_output_shape`](Self::conv_output_shape), on the compressed form; see the
    /// [module](crate::conv).
    ///
    /// Sums are in f32. The result says whether activations were rounded. It does not
    /// depend on the number of threads. On an error `y` holds no useful values.
    pub fn conv(
        &self,
        x: &[f32],
        x_shape: &[usize],
        y: &mut [f32],
        options: &ConvOptions,
    ) -> Result<Computed> {
        let shape = self.conv_shape(x_shape, "x", options)?;
        shape.check_input(x.len(), "x").map_err(|e| self.blame(e))?;
        shape
            .check_output(y.len(), "y")
            .map_err(|e| self.blame(e))?;
        if x.is_empty() || y.is_empty() {
            y.fill(0.0);
            return Ok(EXACT);
        }
        let rounded = AtomicBool::new(false);
        let product = options
            .matmul
            .rounding_product(self.error().relative, &rounded);
        let form = self.form();
        let done = match self.conv_method(&shape, Direction::Forward, options, &product)? {
            Method::Patches => patches::forward(form, &product, &shape, x, y),
            Method::Direct => direct::run(form, &product, &shape, Direction::Forward, x, y),
            Method::Fourier(way) => way.run(form, &product, x, y),
        };
        let precision = match rounded.load(Ordering::Relaxed) {
            true => Precision::Fast,
            false => Precision::Exact,
        };
        done.map(|()| Computed { precision })
            .map_err(|e| self.blame(e))
    }

    /// The gradient of a convolution with respect to its input, also known as a transposed
    /// convolution: from `g` of the shape of y to `x_gradient` of shape `x_shape`, both
    /// row-major:
    ///
    /// `dx[b, c, k, l] = Σ W[o, c, u, v] · g[b, o, i, j]` over all o, i, j, u, v for which
    /// x[b, c, k, l] counts in y[b, o, i, j] with tap u, v. Always exact.
    pub fn conv_t(
        &self,
        g: &[f32],
        x_shape: &[usize],
        x_gradient: &mut [f32],
        options: &ConvOptions,
    ) -> Result<Computed> {
        let shape = self.conv_shape(x_shape, "x_gradient", options)?;
        shape
            .check_input(x_gradient.len(), "x_gradient")
            .and_then(|()| shape.check_output(g.len(), "g"))
            .map_err(|e| self.blame(e))?;
        if x_gradient.is_empty() || g.is_empty() {
            x_gradient.fill(0.0);
            return Ok(EXACT);
        }
        let product = options.matmul.product();
        let (form, to) = (self.form(), x_gradient);
        let done = match self.conv_method(&shape, Direction::Backward, options, &product)? {
            Method::Patches => patches::backward(form, &product, &shape, g, to),
            Method::Direct => direct::run(form, &product, &shape, Direction::Backward, g, to),
            Method::Fourier(way) => way.run(form, &product, g, to),
        };
        done.map(|()| EXACT).map_err(|e| self.blame(e))
    }

    /// The way that [`conv`](Self::conv) takes for an x of shape `x_shape`, or
    /// [`conv_t`](Self::conv_t) to such an x: what [`ConvMethod::Auto`] stands for.
    pub fn conv_way(
        &self,
        x_shape: &[usize],
        transposed: bool,
        options: &ConvOptions,
    ) -> Result<ConvMethod> {
        let shape = self.conv_shape(x_shape, "x", options)?;
        let rounded = AtomicBool::new(false);
        let (direction, product) = match transposed {
            false => {
                let product = options
                    .matmul
                    .rounding_product(self.error().relative, &rounded);
                (Direction::Forward, product)
            }
            true => (Direction::Backward, options.matmul.product()),
        };
        let method = self.conv_method(&shape, direction, options, &product)?;
        Ok(match method {
            Method::Patches => ConvMethod::Patches,
            Method::Direct => ConvMethod::Direct,
            Method::Fourier(_) => ConvMethod::Fourier,
        })
    }

    /// How to compute it. The choice depends on the tensor, the shape and the options, but
    /// not on the number of threads.
    fn conv_method<'a>(
        &self,
        shape: &'a Shape,
        direction: Direction,
        options: &ConvOptions,
        product: &Product<'_>,
    ) -> Result<Method<'a>> {
        let form = self.form();
        let fourier = || Fourier::new(form, shape, direction, product.scratch_bytes);
        let refuse = |why: String| Err(self.blame(Error::invalid(why)));
        match options.method {
            ConvMethod::Patches if shape.groups > 1 => refuse(format!(
                "patches are of one group; the convolution has {} groups",
                shape.groups
            )),
            ConvMethod::Patches => Ok(Method::Patches),
            ConvMethod::Direct => Ok(Method::Direct),
            ConvMethod::Fourier => match fourier() {
                Some(way) => Ok(Method::Fourier(way)),
                None => refuse(format!(
                    "transforms are of kernels of one dimension whose spectra fit {} bytes",
                    product.scratch_bytes
                )),
            },
            ConvMethod::Auto => Ok(choice::fastest(form, shape, direction, product)),
        }
    }
}

/// A [`ConvMethod`] that was decided on.
enum Method<'a> {
    Patches,
    Direct,
    Fourier(Fourier<'a>),
}

const EXACT: Computed = Computed {
    precision: Precision::Exact,
};

/// Runs `work` on whatever `next` gives, until that is nothing, on `workers` threads.
fn each<T>(
    workers: usize,
    next: impl Fn() -> Option<T> + Sync,
    work: impl Fn(&mut Scratch, T) -> Result<()> + Sync,
) -> Result<()> {
    run_workers(workers, || {
        let mut scratch = Scratch::lease();
        while let Some(item) = next() {
            work(&mut scratch, item)?;
        }
        Ok(())
    })
}

/// The first `n` of a buffer, which grows by no more than it has to; what they hold is of
/// no use.
fn room(buffer: &mut Vec<f32>, n: usize) -> &mut [f32] {
    if buffer.capacity() < n {
        *buffer = Vec::new();
        buffer.reserve_exact(n);
    }
    if buffer.len() < n {
        buffer.resize(n, 0.0);
    }
    &mut buffer[..n]
}
