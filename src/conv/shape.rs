//! The sizes of a convolution, checked.

use super::ConvOptions;
use crate::bytes::element_count;
use crate::error::{Error, Result};

/// One spatial axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Axis {
    /// Samples of the input.
    pub(super) input: usize,
    /// Samples of the output.
    pub(super) output: usize,
    pub(super) taps: usize,
    pub(super) stride: usize,
    pub(super) dilation: usize,
    /// Zeros before the input's first sample.
    pub(super) before: usize,
}

impl Axis {
    fn new(
        name: &str,
        input: usize,
        taps: usize,
        [stride, dilation]: [usize; 2],
        [before, after]: [usize; 2],
    ) -> Result<Self> {
        for (what, v) in [("stride", stride), ("dilation", dilation)] {
            if v == 0 {
                return Err(Error::invalid(format!(
                    "{what} along the {name} is 0; it must be at least 1"
                )));
            }
        }
        if taps == 0 {
            return Err(Error::invalid(format!(
                "the kernel has no taps along the {name}"
            )));
        }
        // Places in the padded input are computed with as signed numbers.
        let within = |n: &usize| isize::try_from(*n).is_ok();
        let padded = input.checked_add(before).and_then(|n| n.checked_add(after));
        let Some(padded) = padded.filter(within) else {
            return Err(Error::invalid(format!(
                "padding along the {name}: {before} + {input} + {after} samples are too many"
            )));
        };
        let reach = (taps - 1).checked_mul(dilation).map(|n| n + 1);
        match reach.filter(within) {
            Some(reach) if reach <= padded => Ok(Self {
                input,
                output: (padded - reach) / stride + 1,
                taps,
                // A step past the end is as good as any longer one, and a signed number.
                stride: stride.min(padded),
                dilation,
                before,
            }),
            Some(reach) => Err(Error::invalid(format!(
                "the kernel spans {reach} samples along the {name}; the padded input has {padded}"
            ))),
            None => Err(Error::invalid(format!(
                "dilation along the {name}: {taps} taps, {dilation} apart, reach too far"
            ))),
        }
    }

    /// The place of a tap in the input, from that of its output: negative in the padding.
    pub(super) fn start(&self, tap: usize) -> isize {
        // Both lie within the padded input, whose length is a signed number.
        (tap * self.dilation) as isize - self.before as isize
    }
}

/// A whole convolution: x[batch, channels, height, width] with
/// W[out_channels, channels / groups, taps of the height, taps of the width].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) batch: usize,
    pub(super) groups: usize,
    pub(super) channels: usize,
    pub(super) out_channels: usize,
    pub(super) height: Axis,
    pub(super) width: Axis,
    /// Dimensions of x: 3 or 4.
    ndim: usize,
}

impl Shape {
    /// `x_name` is the argument that has `x_shape`.
    pub(super) fn new(
        weights: &[usize],
        x_shape: &[usize],
        x_name: &str,
        options: &ConvOptions,
    ) -> Result<Self> {
        let (taps, two) = match *weights {
            [_, _, w] => ([1, w], false),
            [_, _, h, w] => ([h, w], true),
            _ => {
                return Err(Error::invalid(format!(
                    "a convolution takes weights [out, in, width] or [out, in, height, width]; \
                     the tensor has shape {weights:?}"
                )));
            }
        };
        let (batch, channels, size) = match *x_shape {
            [b, c, w] if !two => (b, c, [1, w]),
            [b, c, h, w] if two => (b, c, [h, w]),
            _ => {
                return Err(Error::invalid(format!(
                    "{x_name} has shape {x_shape:?}; weights {weights:?} take \
                     [batch, channels, {}width]",
                    if two { "height, " } else { "" }
                )));
            }
        };
        let [tops, sides] = options.padding;
        if !two {
            let given = [options.stride[0], options.dilation[0], tops[0], tops[1]];
            let names = ["stride", "dilation", "padding", "padding"];
            for ((found, neutral), what) in given.into_iter().zip([1, 1, 0, 0]).zip(names) {
                if found != neutral {
                    return Err(Error::invalid(format!(
                        "{what} along the height is {found}; weights {weights:?} have only a width"
                    )));
                }
            }
        }
        let (out_channels, groups) = (weights[0], options.groups);
        if groups == 0 || !out_channels.is_multiple_of(groups) {
            return Err(Error::invalid(format!(
                "groups is {groups}, which does not divide the {out_channels} output channels"
            )));
        }
        if weights[1].checked_mul(groups) != Some(channels) {
            return Err(Error::invalid(format!(
                "{x_name} has {channels} channels; weights {weights:?} in {groups} groups take \
                 {} × {groups}",
                weights[1]
            )));
        }
        let axis = |name, i: usize, padding| {
            let steps = [options.stride[i], options.dilation[i]];
            Axis::new(name, size[i], taps[i], steps, padding)
        };
        Ok(Self {
            batch,
            groups,
            channels,
            out_channels,
            height: axis("height", 0, tops)?,
            width: axis("width", 1, sides)?,
            ndim: x_shape.len(),
        })
    }

    /// [batch, out_channels, (height,) width] of the output.
    pub(super) fn output(&self) -> Vec<usize> {
        let all = [
            self.batch,
            self.out_channels,
            self.height.output,
            self.width.output,
        ];
        self.dims(all)
    }

    fn dims(&self, all: [usize; 4]) -> Vec<usize> {
        match self.ndim {
            3 => vec![all[0], all[1], all[3]],
            _ => all.to_vec(),
        }
    }

    /// Holds the length of x, or of its gradient, against its shape.
    pub(super) fn check_input(&self, len: usize, name: &str) -> Result<()> {
        let all = [
            self.batch,
            self.channels,
            self.height.input,
            self.width.input,
        ];
        check(len, &self.dims(all), name)
    }

    /// Holds the length of y, or of its gradient, against its shape.
    pub(super) fn check_output(&self, len: usize, name: &str) -> Result<()> {
        check(len, &self.output(), name)
    }

    /// Taps of a kernel.
    pub(super) fn taps(&self) -> usize {
        self.height.taps * self.width.taps
    }

    /// Input channels of a group.
    pub(super) fn group_inputs(&self) -> usize {
        self.channels / self.groups
    }

    /// Output channels of a group.
    pub(super) fn group_outputs(&self) -> usize {
        self.out_channels / self.groups
    }

    /// Samples of a plane of the input.
    pub(super) fn input_plane(&self) -> usize {
        self.height.input * self.width.input
    }

    /// Positions of a plane of the output.
    pub(super) fn output_plane(&self) -> usize {
        self.height.output * self.width.output
    }

    /// Multiplications of a convolution by decoded weights, padding included.
    pub(super) fn macs(&self) -> u64 {
        [
            self.batch,
            self.out_channels,
            self.group_inputs(),
            self.taps(),
            self.output_plane(),
        ]
        .into_iter()
        .fold(1u64, |n, d| n.saturating_mul(d as u64))
    }
}

fn check(len: usize, shape: &[usize], name: &str) -> Result<()> {
    let expected = element_count(shape)?;
    if len == expected {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "{name} holds {len} values; shape {shape:?} has {expected}"
    )))
}
