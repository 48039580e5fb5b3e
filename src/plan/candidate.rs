//! What is tried, and what it came to.

use super::sample::{Sample, crop};
use super::{Plan, Prefer, Verdict, unless_refused};
use crate::dtype::DType;
use crate::error::Result;
use crate::form::{self, EncodeContext, ErrorStats, Part, Tensor};
use crate::spec::Spec;
use crate::tensor::View;

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

/// A packed candidate must be a tenth smaller than an unpacked one to be taken: unpacked
/// parts are multiplied in place, straight from the mapped file, while packed ones are
/// decoded for every product (int8 at batch 10: five times slower packed with zstd).
const PACK_GAIN: f64 = 0.9;

/// So must codes of several bit planes be (widths other than 8, 4 and 2): opening two or
/// three planes takes two to five times as long as opening one.
const PLANES_GAIN: f64 = 0.97;

/// Decoding entropy-coded weights takes five to twenty times as long as opening codes of
/// a fixed width.
const ENTROPY_GAIN: f64 = 0.8;

/// A form that multiplies more often than `dense`.
const COSTLY_GAIN: f64 = 0.9;

/// Below this many bits per weight a trellis gains the 0.8 dB that its slower encoder and
/// decoder are worth.
const TRELLIS_BITS: f64 = 5.5;

/// A measured candidate.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The canonical spec.
    pub spec: Spec,
    /// Bits per weight, everything counted.
    pub bits: f64,
    /// Its error.
    pub error: ErrorStats,
    /// Multiplications per weight and row of `x`; 1 for `dense`.
    pub cost: f64,
    /// Whether products read its parts as they lie, without decoding them first.
    pub in_place: bool,
    /// Whether bits, error and cost are those of the whole tensor, not of a sample.
    pub whole: bool,
    /// What became of it.
    pub verdict: Verdict,
}

impl Candidate {
    fn of(tensor: &Tensor, whole: bool) -> Self {
        let form = tensor.form();
        Self {
            spec: tensor.spec().clone(),
            bits: tensor.bits_per_weight(),
            error: tensor.error(),
            cost: form.matmul_macs() as f64 / tensor.meta().len().max(1) as f64,
            in_place: is_in_place(form),
            whole,
            verdict: Verdict::Larger,
        }
    }

    /// Whether its codes are entropy-coded: decoded symbol by symbol for every product.
    pub(super) fn entropy_coded(&self) -> bool {
        self.spec.terms.iter().any(|t| t.name == "ecq")
    }

    /// What its size is divided by when speed counts.
    fn gain(&self) -> f64 {
        let [term] = self.spec.terms.as_slice() else {
            return PACK_GAIN;
        };
        let text = term.to_string();
        // Two bits are one plane too.
        let planes = text.starts_with("q(") && !text.starts_with("q(bits=2");
        let mut gain = match () {
            () if self.entropy_coded() => ENTROPY_GAIN,
            () if !self.in_place => PACK_GAIN,
            () => 1.0,
        };
        if planes {
            gain *= PLANES_GAIN;
        }
        if self.cost > 1.0 {
            gain *= COSTLY_GAIN;
        }
        gain
    }

    /// Bits per weight, counting what slower products must save.
    pub(super) fn weighted_bits(&self, prefer: Prefer) -> f64 {
        match prefer {
            Prefer::Speed => self.bits / self.gain(),
            Prefer::Size => self.bits,
        }
    }
}

/// Whether no buffer of the form is packed and its codes are of fixed width.
fn is_in_place(form: &dyn form::Form) -> bool {
    form.kind() != "ecq"
        && form.parts().iter().all(|(_, part)| match part {
            Part::Buffer(b) => b.chain().is_empty(),
            Part::Form(f) => is_in_place(*f),
        })
}

/// Candidates in some order.
#[derive(Debug)]
pub(super) struct Measured(pub(super) Vec<Candidate>);

impl Measured {
    pub(super) fn sort_by_key(&mut self, key: impl Fn(&Candidate) -> (f64, f64)) {
        self.0.sort_by(|a, b| {
            let order = key(a).partial_cmp(&key(b));
            order.unwrap_or(std::cmp::Ordering::Equal)
        });
    }

    /// The first candidate without a reason against it that is good on the whole tensor:
    /// the sample may have been kinder, or may not have shown values that no lossy form
    /// takes.
    pub(super) fn first_good(
        &mut self,
        view: &View<'_>,
        context: &EncodeContext,
        why_not: &dyn Fn(&Candidate) -> Option<Verdict>,
        good: &dyn Fn(&Tensor) -> bool,
    ) -> Result<Option<Tensor>> {
        for candidate in &mut self.0 {
            if why_not(candidate).is_some() {
                continue;
            }
            match unless_refused(form::encode(view, &candidate.spec, context))? {
                Some(tensor) if good(&tensor) => return Ok(Some(tensor)),
                _ => candidate.verdict = Verdict::MissedOnTheWhole,
            }
        }
        Ok(None)
    }

    /// The plan that ends in `tensor`, every candidate with its verdict.
    pub(super) fn plan(
        mut self,
        tensor: Tensor,
        by_error: bool,
        why_not: impl Fn(&Candidate) -> Option<Verdict>,
    ) -> Plan {
        let at = self.0.iter().position(|c| c.spec == *tensor.spec());
        let chosen = at.map(|at| self.0[at].clone());
        for (i, c) in self.0.iter_mut().enumerate() {
            if Some(i) == at {
                *c = Candidate {
                    verdict: Verdict::Chosen,
                    ..Candidate::of(&tensor, true)
                };
            } else if c.verdict != Verdict::MissedOnTheWhole {
                let smaller = chosen.as_ref().is_some_and(|chosen| c.bits < chosen.bits);
                let closer = chosen
                    .as_ref()
                    .is_some_and(|chosen| c.error.relative < chosen.error.relative);
                c.verdict = why_not(c).unwrap_or(match by_error {
                    true if closer => Verdict::SlowerProducts,
                    true => Verdict::LessClose,
                    false if smaller => Verdict::SlowerProducts,
                    false => Verdict::Larger,
                });
            }
        }
        if at.is_none() {
            self.0.insert(
                0,
                Candidate {
                    verdict: Verdict::Chosen,
                    ..Candidate::of(&tensor, true)
                },
            );
        }
        Plan {
            tensor,
            candidates: self.0,
        }
    }
}

/// What a lossy form must keep.
#[derive(Clone, Copy, Debug)]
pub(super) enum Bound {
    /// Relative error.
    Error(f64),
    /// Bits per weight.
    Bits(f64),
}

/// The lossless forms, measured.
pub(super) fn lossless_candidates(
    sample: &Sample<'_>,
    context: &EncodeContext,
) -> Result<Measured> {
    let mut all = Vec::new();
    for spec in LOSSLESS {
        all.extend(unless_refused(measure(sample, spec, context))?);
    }
    Ok(Measured(all))
}

/// Everything that is tried under a bound: the lossless forms, and, unless the tensor
/// holds values that no lossy form takes, half precision, each family of quantisers with
/// its variants, entropy-coded quantisers, and forms for structure where there is some.
pub(super) fn lossy_candidates(
    view: &View<'_>,
    sample: &Sample<'_>,
    context: &EncodeContext,
    bound: Bound,
) -> Result<Measured> {
    let mut all = lossless_candidates(sample, context)?.0;
    let lossy = || -> Result<Vec<Candidate>> {
        let mut found = Vec::new();
        for half in ["dense(type=f16)", "dense(type=bf16)"] {
            found.extend(unless_refused(measure(sample, half, context))?);
        }
        for family in FAMILIES {
            found.extend(of_family(family, sample, context, bound)?);
        }
        let mut found = with_variants(sample, found, context)?;
        found.extend(entropy_coded(sample, context, bound)?);
        found.extend(structured(view, &found, context, bound)?);
        Ok(found)
    };
    all.extend(unless_refused(lossy())?.unwrap_or_default());
    Ok(Measured(all))
}

/// Quantisers that differ in everything but bits.
const FAMILIES: &[&str] = &[
    "group=32",
    "group=64",
    "group=128",
    "group=row",
    "group=32, zero=asymmetric",
    "group=64, zero=asymmetric",
];

fn of_family(
    options: &str,
    sample: &Sample<'_>,
    context: &EncodeContext,
    bound: Bound,
) -> Result<Vec<Candidate>> {
    let measure_bits = |bits: u32| {
        // Above 6 bits the search gains under 0.1 dB and costs ten times the time.
        let search = if bits <= 6 { ", search=lsq" } else { "" };
        measure(
            sample,
            &format!("q(bits={bits}, {options}{search})"),
            context,
        )
    };
    match bound {
        Bound::Error(bound) => {
            // Error falls with bits: the fewest that suffice are found by halving.
            let (mut low, mut high) = (2, 9);
            let mut best = None;
            while low < high {
                let bits = (low + high) / 2;
                let candidate = measure_bits(bits)?;
                if candidate.error.relative <= bound {
                    best = Some(candidate);
                    high = bits;
                } else {
                    low = bits + 1;
                }
            }
            Ok(best.into_iter().collect())
        }
        Bound::Bits(bound) => {
            // Codes may pack to one bit less than they have, and are at most 8 bits wide
            // however many are allowed.
            let least = (bound - 2.0).min(7.0);
            (2..=8)
                .filter(|bits| (least..=bound + 1.0).contains(&f64::from(*bits)))
                .map(measure_bits)
                .collect()
        }
    }
}

/// Adds to each candidate its packed self, and a mask where there are zeros.
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

/// Uniform and trellis-coded quantisers with entropy-coded codes, at the bound itself.
fn entropy_coded(
    sample: &Sample<'_>,
    context: &EncodeContext,
    bound: Bound,
) -> Result<Vec<Candidate>> {
    let option = match bound {
        Bound::Error(error) => format!("error={error}"),
        Bound::Bits(bits) if bits <= 10.0 => format!("bits={bits}"),
        Bound::Bits(_) => return Ok(Vec::new()),
    };
    let mut all = Vec::new();
    let plain = unless_refused(measure(sample, &format!("ecq({option})"), context))?;
    if plain.as_ref().is_some_and(|c| c.bits <= TRELLIS_BITS) {
        let trellis = format!("ecq({option}, trellis=8)");
        all.extend(unless_refused(measure(sample, &trellis, context))?);
    }
    all.extend(plain);
    Ok(all)
}

/// Forms that live on structure, measured on the whole tensor where a square from its
/// middle shows that they may beat the best of `others`.
fn structured(
    view: &View<'_>,
    others: &[Candidate],
    context: &EncodeContext,
    bound: Bound,
) -> Result<Vec<Candidate>> {
    let (values, shape) = crop(view);
    let square = View::new(DType::F32, &shape, bytemuck::cast_slice(&values))?;
    let try_on = |view: &View<'_>, spec: &str| -> Result<Option<Tensor>> {
        unless_refused(form::parse(spec).and_then(|s| form::encode(view, &s, context)))
    };
    let mut all = Vec::new();
    let specs: Vec<[String; 2]> = match bound {
        Bound::Error(error) => {
            // Codes of 8 bits are 45 dB, 0.6 %, from what they stand for.
            let part = if error >= 0.02 { "int8" } else { "f16" };
            vec![
                spectral(&format!("error={error}"), part),
                low_rank(&format!("error={error}"), part),
            ]
        }
        Bound::Bits(bits) => {
            // An 8-bit coefficient with its scale and position, and a factor's element.
            let (keep, params) = ((bits / 14.0).min(1.0), (bits / 8.6).min(1.0));
            vec![
                spectral(&format!("keep={keep}"), "int8"),
                low_rank(&format!("params={params}"), "int8"),
            ]
        }
    };
    let best_error = others
        .iter()
        .map(|c| c.error.relative)
        .fold(f64::INFINITY, f64::min);
    for [on_square, on_whole] in specs {
        let Some(tensor) = try_on(&square, &on_square)? else {
            continue;
        };
        let promising = match bound {
            // A factor's side is much longer than the square's, so its rank weighs less.
            Bound::Error(_) => tensor.form().matmul_macs() <= square.len() as u64 / 2,
            Bound::Bits(bits) => {
                others.iter().all(|c| c.bits > bits) || tensor.error().relative < 1.5 * best_error
            }
        };
        if promising && let Some(tensor) = try_on(view, &on_whole)? {
            all.push(Candidate::of(&tensor, true));
        }
    }
    Ok(all)
}

/// The spectral form for the square and for the whole.
fn spectral(options: &str, values: &str) -> [String; 2] {
    let spec = format!("dct2({options}, values=[{values}])");
    [spec.clone(), spec]
}

fn low_rank(options: &str, factors: &str) -> [String; 2] {
    let spec = format!("svd({options}, factors=[{factors}])");
    [spec.clone(), spec]
}

fn measure(sample: &Sample<'_>, spec: &str, context: &EncodeContext) -> Result<Candidate> {
    let spec = form::parse(spec)?;
    let tensor = form::encode(&sample.view()?, &spec, context)?;
    Ok(Candidate::of(&tensor, sample.is_whole()))
}
