//! Chooses a form per tensor by measuring candidates.
//!
//! Each candidate encodes a sample of the tensor (or all of a small one); what counts is
//! the bytes that came out and the error that was measured, never a statistic that is
//! thought to predict them. The winner then encodes the whole tensor and is measured
//! again; should it miss the bound there, the next one has its turn.

use crate::bytes::AlignedBytes;
use crate::error::{Error, ErrorKind, Result};
use crate::form::{self, EncodeContext, ErrorStats, Tensor};
use crate::spec::{Spec, Term};
use crate::tensor::View;

/// What is done with a tensor when nothing else is said.
pub const DEFAULT_SPEC: &str = "auto(error=1%)";

/// Tensors with fewer elements stay lossless unless named: biases and norms are a
/// thousandth of a model's size and are felt most.
pub const SMALL_ELEMENTS: usize = 4096;

/// A packed candidate must be a tenth smaller than an unpacked one to be taken: unpacked
/// parts are multiplied in place, straight from the mapped file, while packed ones are
/// decoded for every product (int8 at batch 10: five times slower packed with zstd).
const PACK_GAIN: f64 = 0.9;

/// So must codes of several bit planes be (widths other than 8 and 4): opening two or
/// three planes takes two to five times as long as opening one.
const PLANES_GAIN: f64 = 0.97;

/// Elements of the sample that candidates are measured on: error and size of 256 Ki
/// weights are within 1 % of the whole tensor's on all matrices of the test models.
const SAMPLE_ELEMENTS: usize = 256 << 10;

/// Places that the sample is taken from, spread evenly.
const SAMPLE_WINDOWS: usize = 8;

/// Lossless candidates. Level 1 of zstd is no larger than 3 on shuffled weights
/// (measured on f32, bf16 and f16) and faster.
const LOSSLESS: &[&str] = &[
    "dense",
    "dense | shuffle | zstd(1)",
    "dense | bitshuffle | zstd(1)",
    "dense | delta | shuffle | zstd(1)",
    "dense | zstd(3)",
    "mask",
    "mask | shuffle | zstd(1)",
];

/// A measured candidate.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The canonical spec.
    pub spec: Spec,
    /// Bits per weight on the sample.
    pub bits: f64,
    /// Error on the sample.
    pub error: ErrorStats,
}

impl Tensor {
    /// Compresses a dense view as `spec` says; `auto` and `lossless` are resolved by
    /// measuring. The spec is followed to the letter: the rule that leaves small
    /// tensors lossless holds for whole models ([`spec_for`]), not here.
    pub fn compress(view: &View<'_>, spec: &str) -> Result<Self> {
        compress(view, &form::parse(spec)?, &EncodeContext::default())
    }
}

/// Encodes `view` as a canonical spec says, directives resolved.
pub fn compress(view: &View<'_>, spec: &Spec, context: &EncodeContext) -> Result<Tensor> {
    let [term] = spec.terms.as_slice() else {
        return form::encode(view, spec, context);
    };
    let number = |key: &str| {
        let arg = term.args.iter().find(|a| a.key.as_deref() == Some(key));
        arg.and_then(|a| match &a.value {
            crate::spec::Value::Plain(text) => crate::spec::parse_number(text),
            crate::spec::Value::Spec(_) => None,
        })
    };
    match term.name.as_str() {
        "lossless" => lossless(view, context),
        "auto" if !view.dtype().is_float() => lossless(view, context),
        "auto" => match number("bits") {
            Some(bits) => under_bits(view, bits, context),
            None => under_error(view, number("error").unwrap_or(0.01), context),
        },
        _ => form::encode(view, spec, context),
    }
}

/// The spec for a tensor of a model whose weights are to be stored as `spec`: lossy specs
/// leave integers, bools, vectors and tensors under [`SMALL_ELEMENTS`] lossless.
pub fn spec_for(view: &View<'_>, spec: &Spec) -> Result<Spec> {
    let exempt = !view.dtype().is_float() || view.shape().len() < 2 || view.len() < SMALL_ELEMENTS;
    if exempt && !form::is_lossless(spec)? {
        return Ok(Spec::form(Term::bare("lossless")));
    }
    Ok(spec.clone())
}

/// The smallest lossless form and pack.
fn lossless(view: &View<'_>, context: &EncodeContext) -> Result<Tensor> {
    let sample = Sample::of(view)?;
    let mut candidates = measure_all(&sample, LOSSLESS.iter().copied(), context)?;
    rank_by_size(&mut candidates, 0.99);
    let best = candidates.first().map(|c| c.spec.clone());
    let best = best.ok_or_else(|| Error::internal("no lossless candidate"))?;
    let tensor = form::encode(view, &best, context)?;
    // What shrinks a sample may still grow the whole.
    if tensor.stored_bytes() > tensor.raw_bytes().next_multiple_of(64) {
        return form::encode(view, &form::parse("dense")?, context);
    }
    Ok(tensor)
}

/// The smallest form whose relative error is at most `bound`.
fn under_error(view: &View<'_>, bound: f64, context: &EncodeContext) -> Result<Tensor> {
    let sample = Sample::of(view)?;
    let mut candidates = candidates(&sample, context, &|family| {
        // Error falls with bits: the fewest that suffice are found by halving.
        let (mut low, mut high) = (2, 9);
        let mut best = None;
        while low < high {
            let bits = (low + high) / 2;
            let candidate = measure(&sample, &family.spec(bits), context)?;
            if candidate.error.relative <= bound {
                best = Some(candidate);
                high = bits;
            } else {
                low = bits + 1;
            }
        }
        Ok(best.into_iter().collect())
    })?;
    candidates.retain(|c| c.error.relative <= bound);
    rank_by_size(&mut candidates, PACK_GAIN);
    let good = |t: &Tensor| t.error().relative <= bound;
    match first_good(view, &candidates, context, &good)? {
        Some(tensor) => Ok(tensor),
        None => lossless(view, context),
    }
}

/// The closest form of at most `bound` bits per weight.
fn under_bits(view: &View<'_>, bound: f64, context: &EncodeContext) -> Result<Tensor> {
    let sample = Sample::of(view)?;
    let mut candidates = candidates(&sample, context, &|family| {
        // Codes may pack to one bit less than they have, and are at most 8 bits wide
        // however many are allowed.
        let least = (bound - 2.0).min(7.0);
        (2..=8)
            .filter(|bits| (least..=bound + 1.0).contains(&f64::from(*bits)))
            .map(|bits| measure(&sample, &family.spec(bits), context))
            .collect()
    })?;
    let bits = candidates.iter().map(|c| c.bits);
    let least = bits.fold(f64::INFINITY, f64::min);
    candidates.retain(|c| c.bits <= bound);
    // Closest first; of equals the smaller.
    sort_by_key(&mut candidates, |c| (c.error.relative, c.bits));
    let good = |t: &Tensor| t.bits_per_weight() <= bound;
    first_good(view, &candidates, context, &good)?.ok_or_else(|| {
        Error::invalid(format!(
            "no form stores this tensor in {bound} bits per weight; the smallest tried takes {least:.2}"
        ))
    })
}

/// Everything that is tried on a sample: the lossless forms, and, unless it holds values
/// that no lossy form takes, half-precision and what `of_family` picks of each family of
/// quantisers, with their variants.
fn candidates(
    sample: &Sample<'_>,
    context: &EncodeContext,
    of_family: &dyn Fn(&Family) -> Result<Vec<Candidate>>,
) -> Result<Vec<Candidate>> {
    let mut all = measure_all(sample, LOSSLESS.iter().copied(), context)?;
    let lossy = || -> Result<Vec<Candidate>> {
        let halves = ["dense(type=f16)", "dense(type=bf16)"].into_iter();
        let mut found = measure_all(sample, halves, context)?;
        for family in &FAMILIES {
            found.extend(of_family(family)?);
        }
        with_variants(sample, found, context)
    };
    all.extend(unless_refused(lossy())?.unwrap_or_default());
    Ok(all)
}

/// The first candidate that is good on the whole tensor: the sample may have been kinder,
/// or may not have shown values that no lossy form takes.
fn first_good(
    view: &View<'_>,
    candidates: &[Candidate],
    context: &EncodeContext,
    good: &dyn Fn(&Tensor) -> bool,
) -> Result<Option<Tensor>> {
    for candidate in candidates {
        match unless_refused(form::encode(view, &candidate.spec, context))? {
            Some(tensor) if good(&tensor) => return Ok(Some(tensor)),
            _ => {}
        }
    }
    Ok(None)
}

/// `None` where a form refused the values; other errors stay errors.
fn unless_refused<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) if e.kind() == ErrorKind::InvalidArgument => Ok(None),
        Err(e) => Err(e),
    }
}

/// Quantisers that differ in everything but bits.
struct Family {
    options: &'static str,
}

const FAMILIES: [Family; 6] = [
    Family {
        options: "group=32",
    },
    Family {
        options: "group=64",
    },
    Family {
        options: "group=128",
    },
    Family {
        options: "group=row",
    },
    Family {
        options: "group=32, zero=asymmetric",
    },
    Family {
        options: "group=64, zero=asymmetric",
    },
];

impl Family {
    fn spec(&self, bits: u32) -> String {
        // Above 6 bits the search gains under 0.1 dB and costs ten times the time.
        let search = if bits <= 6 { ", search=lsq" } else { "" };
        format!("q(bits={bits}, {}{search})", self.options)
    }
}

/// Adds to each lossy candidate its packed self, and a mask where there are zeros.
fn with_variants(
    sample: &Sample<'_>,
    found: Vec<Candidate>,
    context: &EncodeContext,
) -> Result<Vec<Candidate>> {
    let mut all = Vec::new();
    for candidate in found {
        let text = candidate.spec.to_string();
        let packed = if text.starts_with("dense") {
            format!("{text} | shuffle | zstd(1)")
        } else {
            format!("{text} | zstd(1)")
        };
        all.push(measure(sample, &packed, context)?);
        if sample.zeros > 0.1 {
            all.push(measure(sample, &format!("mask(values=[{text}])"), context)?);
        }
        all.push(candidate);
    }
    Ok(all)
}

fn measure_all<'s>(
    sample: &Sample<'_>,
    specs: impl Iterator<Item = &'s str>,
    context: &EncodeContext,
) -> Result<Vec<Candidate>> {
    let mut all = Vec::new();
    for spec in specs {
        all.extend(unless_refused(measure(sample, spec, context))?);
    }
    Ok(all)
}

fn measure(sample: &Sample<'_>, spec: &str, context: &EncodeContext) -> Result<Candidate> {
    let spec = form::parse(spec)?;
    let tensor = form::encode(&sample.view()?, &spec, context)?;
    Ok(Candidate {
        spec,
        bits: tensor.bits_per_weight(),
        error: tensor.error(),
    })
}

/// Smallest first, where a packed candidate counts as `1 / gain` of its size and one of
/// several bit planes as `1 / PLANES_GAIN`, and of equals the closer one.
fn rank_by_size(candidates: &mut [Candidate], gain: f64) {
    sort_by_key(candidates, |c| {
        let packed = if c.spec.packs.is_empty() { 1.0 } else { gain };
        let text = c.spec.terms[0].to_string();
        // Two bits are one plane too.
        let planes = match text.starts_with("q(") && !text.starts_with("q(bits=2") {
            true => PLANES_GAIN,
            false => 1.0,
        };
        (c.bits / packed / planes, c.error.relative)
    });
}

fn sort_by_key(candidates: &mut [Candidate], key: impl Fn(&Candidate) -> (f64, f64)) {
    candidates.sort_by(|a, b| {
        let order = key(a).partial_cmp(&key(b));
        order.unwrap_or(std::cmp::Ordering::Equal)
    });
}

/// Rows from all over a tensor, or all of a small one.
struct Sample<'a> {
    whole: Option<View<'a>>,
    bytes: AlignedBytes,
    shape: [usize; 2],
    dtype: crate::dtype::DType,
    /// Share of zeros.
    zeros: f64,
}

impl<'a> Sample<'a> {
    fn of(view: &View<'a>) -> Result<Self> {
        let (rows, cols) = (view.rows(), view.cols());
        let row_bytes = cols * view.dtype().size();
        // Windows of whole tiles.
        let per_window = (SAMPLE_ELEMENTS / SAMPLE_WINDOWS / cols.max(1)).next_multiple_of(16);
        if view.len() <= SAMPLE_ELEMENTS || per_window.saturating_mul(SAMPLE_WINDOWS) >= rows {
            let zeros = zero_share(view);
            return Ok(Self {
                whole: Some(view.clone()),
                bytes: AlignedBytes::default(),
                shape: [rows, cols],
                dtype: view.dtype(),
                zeros,
            });
        }
        let mut bytes = AlignedBytes::zeroed(per_window * SAMPLE_WINDOWS * row_bytes)?;
        for (i, out) in bytes.chunks_exact_mut(per_window * row_bytes).enumerate() {
            let start = (rows - per_window) * i / (SAMPLE_WINDOWS - 1);
            view.read_rows(start..start + per_window, out);
        }
        let mut sample = Self {
            whole: None,
            bytes,
            shape: [per_window * SAMPLE_WINDOWS, cols],
            dtype: view.dtype(),
            zeros: 0.0,
        };
        sample.zeros = zero_share(&sample.view()?);
        Ok(sample)
    }

    fn view(&self) -> Result<View<'_>> {
        match &self.whole {
            Some(view) => Ok(view.clone()),
            None => View::new(self.dtype, &self.shape, &self.bytes),
        }
    }
}

fn zero_share(view: &View<'_>) -> f64 {
    let mut row = vec![0u8; view.cols() * view.dtype().size()];
    let mut zeros = 0usize;
    for r in 0..view.rows() {
        if row.is_empty() {
            break;
        }
        view.read_rows(r..r + 1, &mut row);
        let elements = row.chunks_exact(view.dtype().size());
        zeros += elements.filter(|e| e.iter().all(|b| *b == 0)).count();
    }
    zeros as f64 / view.len().max(1) as f64
}
