//! Chooses a form per tensor by measuring candidates.
//!
//! Each candidate encodes a sample of the tensor (or all of a small one); what counts is
//! the bytes that came out and the error that was measured, never a statistic that is
//! thought to predict them. The winner then encodes the whole tensor and is measured
//! again; should it miss the bound there, the next one has its turn. Forms that live on
//! structure (spectral, low rank) would lose it in a sample: they are measured on the
//! whole tensor, if a small square from its middle shows structure at all.
//!
//! Of two candidates that cost the same to multiply with, the one with fewer bytes under
//! a bound on the error (or with less error under a bound on bits) is taken, so none that
//! another one beats in both is ever chosen.

mod candidate;
mod sample;

use serde::Serialize;

use crate::error::{Error, ErrorKind, Result};
use crate::form::{self, EncodeContext, Tensor};
use crate::spec::{Spec, Term};
use crate::tensor::View;

pub use candidate::Candidate;
use candidate::{Bound, lossless_candidates, lossy_candidates};
use sample::Sample;

/// What is done with a tensor when nothing else is said.
pub const DEFAULT_SPEC: &str = "auto(error=1%)";

/// Tensors with fewer elements stay lossless unless named: biases and norms are a
/// thousandth of a model's size and are felt most.
pub const SMALL_ELEMENTS: usize = 4096;

/// What a choice is made for.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Prefer {
    /// Fast products: a form that is decoded for every product must be that much smaller.
    Speed,
    /// The fewest bytes.
    Size,
}

/// A compressed tensor and how it came to its form.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The tensor, encoded.
    pub tensor: Tensor,
    /// Everything that was measured, best first; empty where the spec left no choice.
    pub candidates: Vec<Candidate>,
}

/// What became of a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Taken.
    Chosen,
    /// Another one is smaller.
    Larger,
    /// Another one is closer within the bits allowed.
    LessClose,
    /// Better, but not by as much as its slower products must save.
    SlowerProducts,
    /// Its error is above the bound.
    ErrorAboveBound,
    /// Its bits per weight are above the bound.
    BitsAboveBound,
    /// It kept the bound on the sample and missed it on the whole tensor.
    MissedOnTheWhole,
}

impl Verdict {
    /// A few words for people.
    pub fn text(self) -> &'static str {
        match self {
            Self::Chosen => "chosen",
            Self::Larger => "larger",
            Self::LessClose => "less close",
            Self::SlowerProducts => "saves too little for its slower products",
            Self::ErrorAboveBound => "error above the bound",
            Self::BitsAboveBound => "bits above the bound",
            Self::MissedOnTheWhole => "missed the bound on the whole tensor",
        }
    }
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
    Ok(choose(view, spec, context)?.tensor)
}

/// Encodes `view` as a text says, to the letter; without one as [`spec_for`] the default says.
pub fn compress_as(view: &View<'_>, spec: Option<&str>, context: &EncodeContext) -> Result<Tensor> {
    let spec = match spec {
        Some(text) => form::parse(text)?,
        None => spec_for(view, &form::parse(DEFAULT_SPEC)?)?,
    };
    compress(view, &spec, context)
}

/// [`compress`], with what was measured on the way.
pub fn choose(view: &View<'_>, spec: &Spec, context: &EncodeContext) -> Result<Plan> {
    let as_given = || {
        Ok(Plan {
            tensor: form::encode(view, spec, context)?,
            candidates: Vec::new(),
        })
    };
    let [term] = spec.terms.as_slice() else {
        return as_given();
    };
    let text = |key: &str| {
        let arg = term.args.iter().find(|a| a.key.as_deref() == Some(key));
        arg.and_then(|a| match &a.value {
            crate::spec::Value::Plain(text) => Some(text.as_str()),
            crate::spec::Value::Spec(_) => None,
        })
    };
    let number = |key: &str| text(key).and_then(crate::spec::parse_number);
    let prefer = match text("prefer") {
        Some("size") => Prefer::Size,
        _ => Prefer::Speed,
    };
    match term.name.as_str() {
        "lossless" => lossless(view, prefer, context),
        "auto" if !view.dtype().is_float() => lossless(view, prefer, context),
        "auto" => match number("bits") {
            Some(bits) => under_bits(view, bits, prefer, context),
            None => under_error(view, number("error").unwrap_or(0.01), prefer, context),
        },
        _ => as_given(),
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
fn lossless(view: &View<'_>, prefer: Prefer, context: &EncodeContext) -> Result<Plan> {
    let sample = Sample::of(view)?;
    let mut candidates = lossless_candidates(&sample, context)?;
    // One that is read in place is taken at 1 % more.
    let gain = match prefer {
        Prefer::Speed => 0.99,
        Prefer::Size => 1.0,
    };
    candidates.sort_by_key(|c| (c.bits / if c.in_place { 1.0 } else { gain }, 0.0));
    let best = candidates.0.first().map(|c| c.spec.clone());
    let best = best.ok_or_else(|| Error::internal("no lossless candidate"))?;
    let mut tensor = form::encode(view, &best, context)?;
    // What shrinks a sample may still grow the whole.
    if tensor.stored_bytes() > tensor.raw_bytes().next_multiple_of(64) {
        tensor = form::encode(view, &form::parse("dense")?, context)?;
    }
    Ok(candidates.plan(tensor, false, |_| None))
}

/// The smallest form whose relative error is at most `bound`.
fn under_error(
    view: &View<'_>,
    bound: f64,
    prefer: Prefer,
    context: &EncodeContext,
) -> Result<Plan> {
    let sample = Sample::of(view)?;
    let mut candidates = lossy_candidates(view, &sample, context, Bound::Error(bound))?;
    // What keeps the bound first, smallest first; of equals the closer one.
    candidates.sort_by_key(|c| match c.error.relative <= bound {
        true => (c.weighted_bits(prefer), c.error.relative),
        false => (f64::INFINITY, c.error.relative),
    });
    let why_not = |c: &Candidate| (c.error.relative > bound).then_some(Verdict::ErrorAboveBound);
    let good = |t: &Tensor| t.error().relative <= bound;
    match candidates.first_good(view, context, &why_not, &good)? {
        Some(tensor) => Ok(candidates.plan(tensor, false, why_not)),
        // The lossless forms are among them, and keep any bound.
        None => Err(Error::internal("not even a lossless form keeps the bound")),
    }
}

/// The closest form of at most `bound` bits per weight.
fn under_bits(
    view: &View<'_>,
    bound: f64,
    prefer: Prefer,
    context: &EncodeContext,
) -> Result<Plan> {
    let sample = Sample::of(view)?;
    let mut candidates = lossy_candidates(view, &sample, context, Bound::Bits(bound))?;
    let bits = candidates.0.iter().map(|c| c.bits);
    let least = bits.fold(f64::INFINITY, f64::min);
    // Entropy-coded forms meet any bound and are the closest at most, but their products
    // are slow: where speed counts they stand in only where nothing else fits.
    let fits = |c: &Candidate| c.bits <= bound && !c.entropy_coded();
    let slow = prefer == Prefer::Speed && candidates.0.iter().any(fits);
    let why_not = |c: &Candidate| match c.bits <= bound {
        true => (slow && c.entropy_coded()).then_some(Verdict::SlowerProducts),
        false => Some(Verdict::BitsAboveBound),
    };
    // Closest first; of equals the smaller.
    candidates.sort_by_key(|c| match why_not(c) {
        None => (c.error.relative, c.bits),
        Some(_) => (f64::INFINITY, c.bits),
    });
    let good = |t: &Tensor| t.bits_per_weight() <= bound;
    match candidates.first_good(view, context, &why_not, &good)? {
        Some(tensor) => Ok(candidates.plan(tensor, true, why_not)),
        None => Err(Error::invalid(format!(
            "no form stores this tensor in {bound} bits per weight; the smallest tried takes {least:.2}"
        ))),
    }
}

/// `None` where a form refused the values; other errors stay errors.
fn unless_refused<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) if e.kind() == ErrorKind::InvalidArgument => Ok(None),
        Err(e) => Err(e),
    }
}
