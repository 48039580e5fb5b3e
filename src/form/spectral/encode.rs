//! From weights to the coefficients that stay.

use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;
use rustfft::FftPlannerScalar;

use super::layout::{Geometry, Positions, index_bytes, put_index};
use super::select::{Goal, Kept, key, select};
use super::transform::{Planner, Plans, Work};
use super::{BATCH_NUMBERS, COLUMN_GAP, Spectral, power};
use crate::bytes::{AlignedBytes, checked_mul};
use crate::error::{Error, Result};
use crate::form::select::values_shape;
use crate::form::{EncodeContext, Form, Meta, encode, registry};
use crate::pack::Buffer;
use crate::spec::{Codec, Options, Spec, Term};
use crate::tensor::View;

/// Rows whose coefficients one task gathers.
const TASK_ROWS: usize = 64;

pub(super) fn encode_form(
    view: &View<'_>,
    codec: &'static Codec,
    options: &Options,
    context: &EncodeContext,
) -> Result<Box<dyn Form>> {
    let meta = Meta::new(view.dtype(), view.shape())?;
    encode::only_floats(codec.name, &meta)?;
    encode::range(view, context)?;
    let (basis, two_dims) = super::transform(codec.name)
        .ok_or_else(|| Error::internal("a transform that has no name"))?;
    let [block_rows, block_cols] = super::block(codec, options)?;
    let geometry = Geometry {
        basis,
        two_dims,
        rows: meta.rows,
        cols: meta.cols,
        block_rows: block_rows.unwrap_or(meta.rows).min(meta.rows).max(1),
        block_cols: block_cols.unwrap_or(meta.cols).min(meta.cols).max(1),
    };
    if !meta.is_empty() {
        geometry.check()?;
    }
    let spectrum = transform(view, &geometry, context)?;
    let encoder = Encoder {
        codec,
        exponent: exponent(&spectrum),
        values: match options.spec("values") {
            Some(spec) => registry::nested(spec)?,
            None => Spec::form(Term::bare("dense")),
        },
        meta,
        geometry,
        spectrum,
        context,
    };
    let error = options.auto_error("keep").or(options.number("error"));
    match (error, options.number("keep")) {
        (Some(error), _) => encoder.under(error, view),
        (None, share) => {
            let numbers = share.unwrap_or(1.0) * encoder.meta.len() as f64;
            let count = numbers / geometry.values() as f64;
            let kept = encoder.select(Goal::Count((count.round() as usize).max(1)));
            Ok(Box::new(encoder.build(kept)?))
        }
    }
}

/// All coefficients of the tensor.
fn transform(view: &View<'_>, geometry: &Geometry, context: &EncodeContext) -> Result<Vec<f64>> {
    let (cols, width) = (geometry.cols, geometry.width());
    if view.is_empty() {
        return Ok(Vec::new());
    }
    let mut spectrum = vec![0.0f64; checked_mul(geometry.rows, width)?];
    let plans = Plans::new(geometry, Planner::Scalar(FftPlannerScalar::new()));
    let step = (8192 / cols).max(1);
    spectrum
        .par_chunks_mut(width * step)
        .enumerate()
        .try_for_each_init(
            || (Work::default(), Vec::new(), Vec::new()),
            |(work, floats, row), (i, out)| {
                context.check_cancel()?;
                let rows = i * step..i * step + out.len() / width;
                let w = view.rows_f32(rows, floats);
                for (w, out) in w.chunks_exact(cols).zip(out.chunks_exact_mut(width)) {
                    row.clear();
                    row.extend(w.iter().map(|v| f64::from(*v)));
                    plans.forward_row(row, out, work);
                }
                Ok::<_, Error>(())
            },
        )?;
    let Some(columns) = &plans.columns else {
        return Ok(spectrum);
    };
    let numbers = geometry.values();
    for band in geometry.bands(&(0..geometry.rows)) {
        let column = columns.of(band.len());
        let spectrum = &mut spectrum[band.start * width..band.end * width];
        let height = band.len() * numbers;
        let stride = height + COLUMN_GAP;
        let slots = geometry.slots();
        let batch = (BATCH_NUMBERS / height).clamp(1, slots);
        let mut buffer = vec![0.0f64; batch * stride];
        // A cache line of the spectrum is eight numbers.
        let group = 8 / numbers;
        for first in (0..slots).step_by(batch) {
            context.check_cancel()?;
            let these = batch.min(slots - first);
            buffer[..these * stride]
                .par_chunks_mut(stride * group)
                .enumerate()
                .with_min_len((8192 / (height * group)).max(1))
                .for_each_init(Work::default, |work, (i, out)| {
                    let first = (first + i * group) * numbers;
                    for (r, row) in spectrum.chunks_exact(width).enumerate() {
                        for (out, v) in out
                            .chunks_exact_mut(stride)
                            .zip(row[first..].chunks_exact(numbers))
                        {
                            out[r * numbers..(r + 1) * numbers].copy_from_slice(v);
                        }
                    }
                    for out in out.chunks_exact_mut(stride) {
                        column.forward(&mut out[..height], work);
                    }
                });
            let step = (8192 / width).max(8);
            spectrum
                .par_chunks_mut(width * step)
                .enumerate()
                .for_each(|(i, out)| {
                    for (j, out) in out.chunks_exact_mut(width).enumerate() {
                        let at = (i * step + j) * numbers;
                        let out = &mut out[first * numbers..(first + these) * numbers];
                        for (slot, out) in out.chunks_exact_mut(numbers).enumerate() {
                            let from = slot * stride + at;
                            out.copy_from_slice(&buffer[from..from + numbers]);
                        }
                    }
                });
        }
    }
    Ok(spectrum)
}

/// The power of two that brings the largest number to between 2^14 and 2^15.
fn exponent(spectrum: &[f64]) -> i32 {
    let largest = spectrum.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    if largest == 0.0 {
        return 0;
    }
    // Normal: f32 denormals are far above f64's.
    (largest.to_bits() >> 52) as i32 - 1023 - 14
}

struct Encoder<'a> {
    codec: &'static Codec,
    meta: Meta,
    geometry: Geometry,
    spectrum: Vec<f64>,
    exponent: i32,
    values: Spec,
    context: &'a EncodeContext<'a>,
}

impl Encoder<'_> {
    fn select(&self, goal: Goal) -> Kept {
        select(&self.spectrum, self.geometry.values(), goal)
    }

    /// The fewest coefficients whose error, that of the values among it, is at most `most`.
    fn under(&self, most: f64, view: &View<'_>) -> Result<Box<dyn Form>> {
        let all = self.select(Goal::Count(usize::MAX)).count;
        let nothing = self.select(Goal::Count(0));
        let total = nothing.tail;
        // Sums of energies and the measured error are rounded differently.
        let room = 1.0 - 1e-6;
        let mut kept = self.select(Goal::Tail(most * most * total * room));
        let mut growth = 1.02;
        loop {
            let form = self.build(kept)?;
            let error = encode::measure(view, &form, self.context)?.relative;
            if error <= most {
                return Ok(Box::new(form));
            }
            if kept.count >= all {
                return Err(Error::invalid(format!(
                    "{}(error={}): with every coefficient kept, values=[{}] leave an error of {error:.3}",
                    self.codec.name,
                    crate::spec::print_percent(most),
                    self.values
                )));
            }
            // What the values leave, as if it stayed the same with more of them.
            let left = most * most - (error * error - kept.tail / total).max(0.0);
            let goal = match left > 0.0 {
                true => Goal::Tail(left * total * room),
                false => Goal::Count(all),
            };
            let last = kept.count;
            kept = self.select(goal);
            let least = ((last as f64 * growth) as usize).max(last + 1);
            if kept.count < least {
                kept = self.select(Goal::Count(least));
            }
            growth *= growth;
        }
    }

    /// The form of the kept coefficients.
    fn build(&self, kept: Kept) -> Result<Spectral> {
        let (slots, numbers, width) = (
            self.geometry.slots(),
            self.geometry.values(),
            self.geometry.width(),
        );
        let rows = self.meta.rows;
        // How many of each row are above the key, and how many equal to it.
        let found: Vec<(usize, usize)> = if self.spectrum.is_empty() {
            vec![(0, 0); rows]
        } else {
            self.spectrum
                .par_chunks_exact(width)
                .map(|row| {
                    let keys = row.chunks_exact(numbers).map(key);
                    keys.fold((0, 0), |(above, equal), k| {
                        (
                            above + usize::from(k > kept.key),
                            equal + usize::from(k == kept.key),
                        )
                    })
                })
                .collect()
        };
        // Ties are given out in order.
        let (mut left, mut total) = (kept.ties, 0);
        let mut starts = Vec::with_capacity(rows + 1);
        let mut ties = Vec::with_capacity(rows);
        starts.push(0);
        for (above, equal) in found {
            let take = equal.min(left);
            left -= take;
            ties.push(take);
            total += above + take;
            starts.push(total);
        }

        let how = Positions::smaller(rows, slots, total);
        let size = index_bytes(slots);
        let stride = slots.div_ceil(8);
        let mut counts = AlignedBytes::zeroed(checked_mul(rows, size)?)?;
        for (out, s) in counts.chunks_exact_mut(size).zip(starts.windows(2)) {
            put_index(out, s[1] - s[0]);
        }
        let bytes = how.bytes(rows, slots, total);
        let bytes = bytes.ok_or_else(|| Error::limit("positions of a spectrum"))?;
        let mut positions = AlignedBytes::zeroed(bytes)?;
        let shape = values_shape(&self.values, checked_mul(total, numbers)?);
        let mut values = vec![0.0f32; shape.iter().product()];
        if total > 0 {
            let mut jobs = Vec::new();
            let (mut places, mut rest) = (&mut positions[..], &mut values[..]);
            for first in (0..rows).step_by(TASK_ROWS) {
                let rows = first..(first + TASK_ROWS).min(rows);
                let n = starts[rows.end] - starts[rows.start];
                let bytes = match how {
                    Positions::Mask => rows.len() * stride,
                    Positions::Indices => n * size,
                };
                let (p, v);
                (p, places) = std::mem::take(&mut places).split_at_mut(bytes);
                (v, rest) = std::mem::take(&mut rest).split_at_mut(n * numbers);
                jobs.push((rows, p, v));
            }
            jobs.into_par_iter().try_for_each(|(rows, p, v)| {
                self.context.check_cancel()?;
                self.gather(rows, kept.key, &ties, how, p, v);
                Ok::<_, Error>(())
            })?;
        }
        Ok(Spectral {
            meta: self.meta.clone(),
            geometry: self.geometry,
            count: total,
            exponent: self.exponent,
            how,
            counts: Buffer::owned(counts, size, size)?,
            positions: match how {
                Positions::Mask => Buffer::owned(positions, 1, stride.max(1))?,
                Positions::Indices => Buffer::owned(positions, size, size)?,
            },
            values: encode::part(&values, &shape, &self.values, self.context)?,
            starts: starts.into(),
            exact: Arc::default(),
            fast: Arc::default(),
        })
    }

    /// Positions and values of some rows.
    fn gather(
        &self,
        rows: Range<usize>,
        threshold: u64,
        ties: &[usize],
        how: Positions,
        positions: &mut [u8],
        values: &mut [f32],
    ) {
        let (slots, numbers, width) = (
            self.geometry.slots(),
            self.geometry.values(),
            self.geometry.width(),
        );
        let (size, stride) = (index_bytes(slots), slots.div_ceil(8));
        let scale = power(-self.exponent);
        let mut values = values.chunks_exact_mut(numbers);
        let mut at = 0;
        for row in rows.clone() {
            let mut left = ties[row];
            let spectrum = &self.spectrum[row * width..(row + 1) * width];
            for (slot, c) in spectrum.chunks_exact(numbers).enumerate() {
                let key = key(c);
                if key < threshold || (key == threshold && left == 0) {
                    continue;
                }
                left -= usize::from(key == threshold);
                match how {
                    Positions::Mask => {
                        positions[(row - rows.start) * stride + slot / 8] |= 1 << (slot % 8);
                    }
                    Positions::Indices => put_index(&mut positions[at..at + size], slot),
                }
                at += size;
                for (out, v) in values.next().into_iter().flatten().zip(c) {
                    *out = (v * scale) as f32;
                }
            }
        }
    }
}
