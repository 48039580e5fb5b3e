//! From a dense view and a resolved spec to a compressed tensor.

use std::sync::Mutex;

use rayon::prelude::*;

use super::registry::{Found, find};
use super::{ErrorStats, Form, Meta, Scratch, Tensor, kernels, sum, window_rows};
use crate::calibration::Moments;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::kernel::dense::Difference;
use crate::spec::{Spec, Term};
use crate::tensor::View;

/// What an encoder is told besides the view and the options.
#[derive(Clone, Copy, Default)]
pub struct EncodeContext<'a> {
    /// Asked now and then; true stops the work with a `Cancelled` error.
    pub cancelled: Option<&'a (dyn Fn() -> bool + Sync)>,
    /// Second moments of the activations that the tensor will be multiplied by.
    pub moments: Option<&'a Moments>,
    /// Told what an encoder did otherwise than asked, such as a search without the
    /// moments that it needs.
    pub notes: Option<&'a (dyn Fn(String) + Sync)>,
}

impl std::fmt::Debug for EncodeContext<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EncodeContext")
    }
}

impl EncodeContext<'_> {
    /// A `Cancelled` error if the caller asked to stop.
    pub fn check_cancel(&self) -> Result<()> {
        match self.cancelled {
            Some(cancelled) if cancelled() => Err(Error::cancelled()),
            _ => Ok(()),
        }
    }
}

impl EncodeContext<'_> {
    /// Tells of something done otherwise than asked.
    pub(super) fn note(&self, text: String) {
        if let Some(notes) = self.notes {
            notes(text);
        }
    }
}

/// Encodes a form's own values, `f32[rows, cols]`, as its option says (`factors=[int8]`):
/// without the moments, which are those of the whole tensor.
pub(super) fn part(
    values: &[f32],
    shape: &[usize],
    spec: &Spec,
    context: &EncodeContext,
) -> Result<Box<dyn Form>> {
    let view = View::new(DType::F32, shape, bytemuck::cast_slice(values))?;
    let inner = EncodeContext {
        moments: None,
        ..*context
    };
    encode_unmeasured(&view, spec, &inner)
}

/// Encodes `view` as a canonical spec without directives says, and measures the error. What
/// encoders note goes to [`Tensor::notes`] as well.
pub fn encode(view: &View<'_>, spec: &Spec, context: &EncodeContext) -> Result<Tensor> {
    if let Some(moments) = context.moments
        && moments.dim() != view.cols()
    {
        return Err(Error::invalid(format!(
            "second moments of {} inputs for a tensor of shape {:?}, whose rows have {}",
            moments.dim(),
            view.shape(),
            view.cols()
        )));
    }
    let notes = Mutex::new(Vec::new());
    let keep = |text: String| {
        context.note(text.clone());
        let mut notes = notes.lock().unwrap_or_else(|e| e.into_inner());
        // Terms of a sum say the same.
        if !notes.contains(&text) {
            notes.push(text);
        }
    };
    let telling = EncodeContext {
        notes: Some(&keep),
        ..*context
    };
    let form = encode_unmeasured(view, spec, &telling)?;
    let notes = notes.into_inner().unwrap_or_else(|e| e.into_inner());
    let error = if form.is_exact() {
        ErrorStats::EXACT
    } else {
        measure(view, &*form, context)?
    };
    Ok(Tensor::new(spec.clone(), form.into(), error).with_notes(notes))
}

/// The form alone, packed, its error not measured: for parts of another form, and for
/// benches of the encoder by itself.
pub fn encode_unmeasured(
    view: &View<'_>,
    spec: &Spec,
    context: &EncodeContext,
) -> Result<Box<dyn Form>> {
    context.check_cancel()?;
    let form = match spec.terms.as_slice() {
        [term] => encode_term(view, term, context)?,
        terms => sum::encode_terms(view, terms, context)?,
    };
    if spec.packs.is_empty() {
        return Ok(form);
    }
    form.map_buffers(&mut |buffer| {
        context.check_cancel()?;
        // A nested spec with packs of its own keeps them.
        if buffer.chain().is_empty() {
            buffer.pack(&spec.packs)
        } else {
            Ok(buffer.clone())
        }
    })
}

/// The form of one term, without packs of its own.
pub(super) fn encode_term(
    view: &View<'_>,
    term: &Term,
    context: &EncodeContext,
) -> Result<Box<dyn Form>> {
    let Found::Form(def, codec) = find(term)? else {
        return Err(Error::internal(format!("'{term}' was not resolved")));
    };
    (def.encode)(view, codec, &term.options(codec)?, context)
}

/// Takes the decoded form from `left`, which has its shape.
pub(super) fn subtract(form: &dyn Form, left: &mut [f32], context: &EncodeContext) -> Result<()> {
    let cols = form.meta().cols;
    if left.is_empty() {
        return Ok(());
    }
    let window = window_rows(form, TASK_VALUES);
    left.par_chunks_mut(window * cols)
        .enumerate()
        .try_for_each_init(
            || (Scratch::default(), Vec::new()),
            |(scratch, decoded), (i, left)| {
                context.check_cancel()?;
                let first = i * window;
                decoded.resize(left.len(), 0.0);
                form.decode_f32(first..first + left.len() / cols, decoded, scratch)?;
                for (l, d) in left.iter_mut().zip(decoded) {
                    *l -= *d;
                }
                Ok(())
            },
        )
}

/// Refuses tensors of other types than floats, for a codec that loses precision.
pub(super) fn only_floats(name: &str, meta: &Meta) -> Result<()> {
    if meta.dtype.is_float() {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "{name} takes floats; the tensor is {}, which is always stored losslessly",
        meta.dtype
    )))
}

/// Least and largest value of a tensor.
#[derive(Clone, Copy, Debug)]
pub(super) struct Range {
    pub(super) min: f32,
    pub(super) max: f32,
}

impl Range {
    pub(super) fn max_abs(self) -> f32 {
        self.max.max(-self.min).max(0.0)
    }

    /// The value of largest magnitude; the negative one of a tie.
    pub(super) fn extreme(self) -> f32 {
        if -self.min >= self.max {
            self.min
        } else {
            self.max
        }
    }
}

/// The power of two at most `max_abs` and above its half, and no denormal: what values are
/// divided by, exactly, so that they are near 1.
pub(super) fn power_of_two(max_abs: f32) -> f32 {
    if max_abs == 0.0 {
        return 1.0;
    }
    2.0f32.powi((max_abs.log2().floor() as i32).max(-126))
}

/// Values read by one task of a pass over a view.
const TASK_VALUES: usize = 64 << 10;

/// Least and largest value, or an error that names the first value that is not finite.
/// (0, 0) for an empty view.
pub(super) fn range(view: &View<'_>, context: &EncodeContext) -> Result<Range> {
    let cols = view.cols();
    if view.is_empty() {
        return Ok(Range { min: 0.0, max: 0.0 });
    }
    let window = (TASK_VALUES / cols).max(1);
    let ranges: Vec<Result<Range>> = (0..view.rows().div_ceil(window))
        .into_par_iter()
        .map_init(Vec::new, |floats: &mut Vec<f32>, i| {
            context.check_cancel()?;
            let rows = i * window..((i + 1) * window).min(view.rows());
            match kernels().min_max(view.rows_f32(rows.clone(), floats)) {
                Ok((min, max)) => Ok(Range { min, max }),
                Err(at) => Err(not_finite(view, rows.start * cols + at)),
            }
        })
        .collect();
    ranges.into_iter().try_fold(
        Range {
            min: f32::INFINITY,
            max: f32::NEG_INFINITY,
        },
        |a, b| {
            let b = b?;
            Ok(Range {
                min: a.min.min(b.min),
                max: a.max.max(b.max),
            })
        },
    )
}

/// The error for a value that a lossy form cannot take. `index` is flat, row-major.
pub(super) fn not_finite(view: &View<'_>, index: usize) -> Error {
    let cols = view.cols();
    let row = index / cols;
    let mut raw = vec![0u8; cols * view.dtype().size()];
    view.read_rows(row..row + 1, &mut raw);
    let at = (index % cols) * view.dtype().size();
    let wide = match view.dtype() {
        DType::F64 => raw[at..].first_chunk().map(|b| f64::from_le_bytes(*b)),
        _ => None,
    };
    let value = wide.unwrap_or_else(|| {
        let mut one = [0.0];
        let size = view.dtype().size();
        view.dtype().to_f32(&raw[at..at + size], &mut one);
        f64::from(one[0])
    });
    let why = if value.is_finite() {
        "is outside the range of f32"
    } else {
        "is not finite"
    };
    Error::invalid(format!(
        "{value} at index {index} {why}; a lossy form cannot hold it (use a lossless spec for this tensor)"
    ))
}

/// The error of a form against the tensor that it was made from, over the elements that
/// decoding gives back. The same on every machine and thread count.
pub(super) fn measure(
    view: &View<'_>,
    form: &dyn Form,
    context: &EncodeContext,
) -> Result<ErrorStats> {
    let meta = form.meta();
    if meta.is_empty() {
        return Ok(ErrorStats::EXACT);
    }
    let window = window_rows(form, TASK_VALUES);
    let sums: Vec<Difference> = (0..meta.rows.div_ceil(window))
        .into_par_iter()
        .map_init(
            || (Scratch::default(), Vec::new(), Vec::new(), Vec::new()),
            |(scratch, a, b, raw), i| {
                context.check_cancel()?;
                let rows = i * window..((i + 1) * window).min(meta.rows);
                let n = rows.len() * meta.cols;
                if meta.dtype == DType::F64 {
                    return measure_f64(view, form, rows, scratch);
                }
                let (a, b): (&mut Vec<f32>, &mut Vec<f32>) = (a, b);
                let a = view.rows_f32(rows.clone(), a);
                b.resize(n, 0.0);
                if meta.dtype == DType::F32 {
                    form.decode_f32(rows, b, scratch)?;
                } else {
                    let raw: &mut Vec<u8> = raw;
                    raw.resize(n * meta.dtype.size(), 0);
                    form.decode_native(rows, raw, scratch)?;
                    meta.dtype.to_f32(raw, b);
                }
                Ok(kernels().difference(a, b))
            },
        )
        .collect::<Result<_>>()?;
    let total = sums.iter().fold(Difference::default(), |a, b| Difference {
        error: a.error + b.error,
        norm: a.norm + b.norm,
        max_abs: a.max_abs.max(b.max_abs),
    });
    Ok(ErrorStats::from_sums(
        total.error,
        total.norm,
        total.max_abs,
    ))
}

fn measure_f64(
    view: &View<'_>,
    form: &dyn Form,
    rows: std::ops::Range<usize>,
    scratch: &mut Scratch,
) -> Result<Difference> {
    let mut a = vec![0u8; rows.len() * form.meta().row_bytes()];
    let mut b = a.clone();
    view.read_rows(rows.clone(), &mut a);
    form.decode_native(rows, &mut b, scratch)?;
    let mut sums = Difference::default();
    let (a, b) = (a.as_chunks::<8>().0, b.as_chunks::<8>().0);
    for (a, b) in a.iter().zip(b) {
        let (a, b) = (f64::from_le_bytes(*a), f64::from_le_bytes(*b));
        sums.error += (a - b) * (a - b);
        sums.norm += a * a;
        sums.max_abs = sums.max_abs.max((a - b).abs());
    }
    Ok(sums)
}
