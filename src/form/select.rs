//! What the sparse forms share: which values stay, and the form that holds them.

use std::ops::Range;

use rayon::prelude::*;

use super::{EncodeContext, Form, Meta, encode};
use crate::bytes::AlignedBytes;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::spec::{Codec, Options, Spec, Term};
use crate::tensor::View;

/// Columns of the matrix that values of a form other than `dense` are folded into: a
/// multiple of every group size, small enough that a window decodes little too much.
const FOLD: usize = 256;

/// The shape of the form that holds `count` values: a vector when dense.
pub(super) fn values_shape(spec: &Spec, count: usize) -> Vec<usize> {
    folded(*spec == Spec::form(Term::bare("dense")), count)
}

/// A vector, or the folded matrix.
pub(super) fn folded(plain: bool, count: usize) -> Vec<usize> {
    if plain {
        vec![count]
    } else {
        vec![count.div_ceil(FOLD), FOLD]
    }
}

/// Makes the form that holds the values, already in the shape of [`values_shape`].
pub(super) fn encode_values(
    dtype: DType,
    shape: &[usize],
    values: AlignedBytes,
    spec: &Spec,
    context: &EncodeContext,
) -> Result<Box<dyn Form>> {
    if shape.len() == 1 {
        return super::dense::from_owned(Meta::new(dtype, shape)?, values);
    }
    // The moments are of the tensor's columns, not of those of the values.
    let inner = EncodeContext {
        moments: None,
        ..*context
    };
    encode::encode_unmeasured(&View::new(dtype, shape, &values)?, spec, &inner)
}

/// Refuses a form of values that cannot be that of `count` values of the tensor.
pub(super) fn check_values(values: &dyn Form, meta: &Meta, count: usize) -> Result<()> {
    let found = values.meta();
    if found.dtype == meta.dtype && found.shape == folded(found.shape.len() == 1, count) {
        return Ok(());
    }
    Err(Error::corrupt(format!(
        "values of {} {:?} for {count} of {}",
        found.dtype, found.shape, meta.dtype
    )))
}

/// The rows of the values' form that hold these values, and where they begin there.
pub(super) fn value_rows(form: &dyn Form, values: &Range<usize>) -> (Range<usize>, usize) {
    let cols = form.meta().cols;
    let rows = values.start / cols..values.end.div_ceil(cols);
    let skip = values.start - rows.start * cols;
    (rows, skip)
}

/// Which values stay.
#[derive(Clone, Copy)]
pub(super) enum Keep {
    /// Those with any bit set.
    NonZero,
    /// Those of at least this magnitude.
    AtLeast(f32),
    /// Those whose magnitude's bits are above the first, and the given number of those
    /// equal to it.
    Largest { key: u32, ties: usize },
}

impl Keep {
    /// What the options `threshold` and `keep` ask for.
    pub(super) fn chosen(
        view: &View<'_>,
        codec: &Codec,
        options: &Options,
        context: &EncodeContext,
    ) -> Result<Self> {
        let dtype = view.dtype();
        match (options.number("threshold"), options.number("keep")) {
            (None, None) => Ok(Self::NonZero),
            _ if !dtype.is_float() => Err(Error::invalid(format!(
                "{} with threshold or keep prunes floats; the tensor is {dtype}, which is always stored losslessly",
                codec.name
            ))),
            (Some(t), _) => {
                encode::range(view, context)?;
                Ok(Self::AtLeast(t as f32))
            }
            (_, Some(share)) => {
                encode::range(view, context)?;
                Ok(largest(view, (share * view.len() as f64).round() as usize))
            }
        }
    }
}

/// How many of its values of the least magnitude that stays each block of rows keeps:
/// they are given out in order.
pub(super) fn ties(view: &View<'_>, keep: Keep, block: usize, blocks: usize) -> Vec<usize> {
    let Keep::Largest { key, ties } = keep else {
        return vec![0; blocks];
    };
    let counts: Vec<usize> = (0..blocks)
        .into_par_iter()
        .map(|b| count_key(view, block_rows(b, block, view.rows()), key))
        .collect();
    let mut left = ties;
    counts
        .into_iter()
        .map(|n| {
            let take = n.min(left);
            left -= take;
            take
        })
        .collect()
}

pub(super) fn block_rows(b: usize, block: usize, rows: usize) -> Range<usize> {
    b * block..((b + 1) * block).min(rows)
}

/// Magnitude as an integer of the same order.
fn key(v: f32) -> u32 {
    v.to_bits() & 0x7fff_ffff
}

/// Runs `f` over pieces of the view's rows as f32, in parallel, and adds the results up.
fn histogram(view: &View<'_>, f: impl Fn(&[f32], &mut [u64]) + Sync, bins: usize) -> Vec<u64> {
    let cols = view.cols().max(1);
    let window = (256usize << 10).div_ceil(cols);
    (0..view.rows().div_ceil(window))
        .into_par_iter()
        .fold(
            || (vec![0u64; bins], Vec::new()),
            |(mut h, mut w): (Vec<u64>, Vec<f32>), i| {
                let rows = block_rows(i, window, view.rows());
                f(view.rows_f32(rows, &mut w), &mut h);
                (h, w)
            },
        )
        .map(|(h, _)| h)
        .reduce(
            || vec![0; bins],
            |a, b| a.into_iter().zip(b).map(|(a, b)| a + b).collect(),
        )
}

/// Selects the `k` largest magnitudes by a radix search of two passes: bounded memory,
/// whatever the tensor.
fn largest(view: &View<'_>, k: usize) -> Keep {
    let high = histogram(
        view,
        |w, h| w.iter().for_each(|v| h[(key(*v) >> 16) as usize] += 1),
        1 << 15,
    );
    let (bin, above) = select(&high, k as u64);
    let low = histogram(
        view,
        |w, h| {
            for v in w {
                let key = key(*v);
                if (key >> 16) as usize == bin {
                    h[(key & 0xffff) as usize] += 1;
                }
            }
        },
        1 << 16,
    );
    let (rest, above_low) = select(&low, k as u64 - above);
    Keep::Largest {
        key: (bin as u32) << 16 | rest as u32,
        ties: (k as u64 - above - above_low) as usize,
    }
}

/// The highest bin such that it and those above hold at least `k`, and how many those
/// above hold alone.
fn select(histogram: &[u64], k: u64) -> (usize, u64) {
    let mut above = 0;
    for (bin, n) in histogram.iter().enumerate().rev() {
        if above + n >= k {
            return (bin, above);
        }
        above += n;
    }
    (0, above - histogram[0])
}

fn read_f32(view: &View<'_>, rows: Range<usize>) -> Vec<f32> {
    let mut w = vec![0.0; rows.len() * view.cols()];
    view.read_rows_f32(rows, &mut w);
    w
}

fn count_key(view: &View<'_>, rows: Range<usize>, wanted: u32) -> usize {
    let w = read_f32(view, rows);
    w.iter().filter(|v| key(**v) == wanted).count()
}

/// Sets the bits of one row whose flat index `stays`.
fn set_bits(row: usize, cols: usize, out: &mut [u8], mut stays: impl FnMut(usize) -> bool) {
    for (byte, out) in out.iter_mut().enumerate() {
        let first = byte * 8;
        for i in 0..8.min(cols - first) {
            *out |= u8::from(stays(row * cols + first + i)) << i;
        }
    }
}

pub(super) fn fill_mask(
    view: &View<'_>,
    rows: Range<usize>,
    keep: Keep,
    mut ties: usize,
    bits: &mut [u8],
) {
    let cols = view.cols();
    let stride = cols.div_ceil(8);
    let rows_of = bits.chunks_exact_mut(stride).enumerate();
    match keep {
        Keep::NonZero => {
            let size = view.dtype().size();
            let mut raw = vec![0u8; rows.len() * cols * size];
            view.read_rows(rows, &mut raw);
            for (row, out) in rows_of {
                set_bits(row, cols, out, |i| {
                    raw[i * size..(i + 1) * size].iter().any(|b| *b != 0)
                });
            }
        }
        Keep::AtLeast(t) => {
            let w = read_f32(view, rows);
            for (row, out) in rows_of {
                set_bits(row, cols, out, |i| w[i] != 0.0 && w[i].abs() >= t);
            }
        }
        Keep::Largest { key: k, .. } => {
            let w = read_f32(view, rows);
            for (row, out) in rows_of {
                set_bits(row, cols, out, |i| {
                    let key = key(w[i]);
                    if key == k && key != 0 && ties > 0 {
                        ties -= 1;
                        return true;
                    }
                    key > k
                });
            }
        }
    }
}

/// Copies the elements whose bit is set.
pub(super) fn gather(view: &View<'_>, rows: Range<usize>, bits: &[u8], out: &mut [u8]) {
    match view.dtype().size() {
        1 => gather_sized::<1>(view, rows, bits, out),
        2 => gather_sized::<2>(view, rows, bits, out),
        4 => gather_sized::<4>(view, rows, bits, out),
        _ => gather_sized::<8>(view, rows, bits, out),
    }
}

fn gather_sized<const N: usize>(view: &View<'_>, rows: Range<usize>, bits: &[u8], out: &mut [u8]) {
    let cols = view.cols();
    let mut raw = vec![0u8; rows.len() * cols * N];
    view.read_rows(rows, &mut raw);
    let mut out = out.as_chunks_mut::<N>().0.iter_mut();
    let raw = raw.as_chunks::<N>().0;
    for (bits, raw) in bits
        .chunks_exact(cols.div_ceil(8))
        .zip(raw.chunks_exact(cols))
    {
        for_set_bits(bits, |i| {
            if let Some(out) = out.next() {
                *out = raw[i];
            }
        });
    }
}

/// Calls `f` with the index of each set bit.
pub(super) fn for_set_bits(bits: &[u8], mut f: impl FnMut(usize)) {
    for (at, byte) in bits.iter().enumerate() {
        let mut byte = *byte;
        while byte != 0 {
            f(at * 8 + byte.trailing_zeros() as usize);
            byte &= byte - 1;
        }
    }
}
