//! From a matrix to the cores.

use super::super::modes::{normalised, part_spec};
use super::super::svd::scale;
use super::super::{EncodeContext, Form, Meta, encode};
use super::Tt;
use super::axes::{Axes, Axis};
use super::chain::{Chain, MAX_MODES, NAMES, factors, mode_count};
use crate::bytes::element_count;
use crate::error::{Error, Result};
use crate::linalg;
use crate::spec::{Codec, Options, Spec};
use crate::tensor::View;

fn modes(options: &Options, key: &str, n: usize, count: usize) -> Result<Vec<usize>> {
    let Some(given) = options.dims(key) else {
        return Ok(factors(n, count));
    };
    if element_count(&given).ok() != Some(n) || given.len() > MAX_MODES {
        return Err(Error::invalid(format!(
            "{key}={} for a matrix with {n} {key}; at most {MAX_MODES} factors of that number are needed",
            options.text(key).unwrap_or_default()
        )));
    }
    Ok(given)
}

#[derive(Clone, Copy, Debug)]
enum Budget {
    Rank(usize),
    Error(f64),
    Params(f64),
}

/// A decomposition: the chain with its ranks, the cores `[ρ_{j−1}, o, i, ρ_j]` and the
/// squared norm that the cuts left.
struct Train {
    chain: Chain,
    cores: Vec<Vec<f32>>,
    left: f64,
}

pub(super) fn encode_form(
    view: &View<'_>,
    codec: &'static Codec,
    options: &Options,
    context: &EncodeContext,
) -> Result<Box<dyn Form>> {
    let meta = Meta::new(view.dtype(), view.shape())?;
    encode::only_floats(codec.name, &meta)?;
    let budget = if let Some(rank) = options.integer("rank") {
        Budget::Rank(rank as usize)
    } else if let Some(error) = options.number("error") {
        Budget::Error(error)
    } else {
        Budget::Params(options.number("params").unwrap_or(0.5))
    };
    let spec = part_spec(options, "factors")?;
    let count = mode_count(meta.rows.max(meta.cols));
    let rows = modes(options, "rows", meta.rows, count)?;
    let cols = modes(options, "cols", meta.cols, count)?;
    let (values, multiplier) = normalised(view, context)?;
    let total = linalg::norm_squared(&values);
    if meta.is_empty() || total == 0.0 {
        let chain = match meta.is_empty() {
            true => Chain::new(vec![meta.rows], vec![meta.cols], false),
            false => Chain::new(rows, cols, options.text("order") == Some("separate")),
        };
        let cores = (0..chain.len()).map(|j| vec![0.0; chain.shape(j).iter().product()]);
        let train = Train {
            cores: cores.collect(),
            chain,
            left: 0.0,
        };
        return Ok(Box::new(train.form(meta, multiplier, &spec, context)?));
    }
    let orders: &[bool] = match options.text("order") {
        Some("interleaved") => &[false],
        Some("separate") => &[true],
        _ => &[false, true],
    };
    let of = |separate: bool, budget: Budget| {
        let chain = Chain::new(rows.clone(), cols.clone(), separate);
        decompose(&values, total, chain, &meta, budget, context)
    };
    let mut best: Option<Train> = None;
    for separate in orders {
        let train = of(*separate, budget)?;
        let better = best.as_ref().is_none_or(|b| match budget {
            Budget::Error(_) => train.chain.params() < b.chain.params(),
            _ => train.left < b.left,
        });
        if better {
            best = Some(train);
        }
    }
    let mut train = best.ok_or_else(|| Error::internal("no order of modes"))?;
    let Budget::Error(error) = budget else {
        return Ok(Box::new(train.form(meta, multiplier, &spec, context)?));
    };
    // The error of the cores' forms comes on top; what it takes is taken from the cuts'.
    for round in 0..6 {
        let (left, separate) = (train.left, train.chain.separate);
        let form = train.form(meta.clone(), multiplier, &spec, context)?;
        let reached = encode::measure(view, &form, context)?.relative;
        if reached <= error {
            return Ok(Box::new(form));
        }
        let noise = (reached * reached - left / total).max(0.0);
        let room = (error * error - noise).max(0.0).sqrt();
        if room < error * 0.05 || round == 5 {
            return Err(Error::invalid(format!(
                "a relative error of {error} cannot be reached with factors=[{spec}]: the cores alone leave {:.3e}",
                noise.sqrt()
            )));
        }
        train = of(
            separate,
            Budget::Error(room * (1.0 - 0.02 * f64::from(round))),
        )?;
    }
    Err(Error::internal(
        "an error bound was neither met nor refused",
    ))
}

/// Sequential singular value decompositions (Oseledets 2011, algorithm 1).
fn decompose(
    values: &[f32],
    total: f64,
    mut chain: Chain,
    meta: &Meta,
    budget: Budget,
    context: &EncodeContext,
) -> Result<Train> {
    match budget {
        Budget::Rank(rank) => chain.cap(rank),
        Budget::Params(share) => {
            // The largest cap that fits.
            let most = share * meta.len() as f64;
            let (mut low, mut high) = (1, (1..chain.len()).map(|j| chain.full_rank(j)).max());
            while let Some(h) = high.filter(|h| *h > low) {
                let middle = low + (h - low).div_ceil(2);
                chain.cap(middle);
                match chain.params() as f64 <= most {
                    true => low = middle,
                    false => high = Some(middle - 1),
                }
            }
            chain.cap(low);
        }
        Budget::Error(_) => {}
    }
    let allowed = match budget {
        Budget::Error(error) => error * error * total,
        _ => 0.0,
    };
    let n = chain.len();
    let mut rest = digits(values, &chain);
    let mut cores = Vec::with_capacity(n);
    let (mut left, mut norm) = (0.0f64, total);
    for j in 0..n - 1 {
        context.check_cancel()?;
        let height = chain.ranks[j] * chain.sites[j].o * chain.sites[j].i;
        let width = rest.len() / height;
        if !matches!(budget, Budget::Error(_)) && chain.ranks[j + 1] == height {
            // Nothing is cut: the site passes its digits on.
            cores.push(
                (0..height * height)
                    .map(|k| f32::from(u8::from(k % (height + 1) == 0)))
                    .collect(),
            );
            continue;
        }
        let unfolded = linalg::by_rows(&rest, height, width);
        let tail = (allowed - left).max(0.0) / (n - 1 - j) as f64;
        let (found, rank) = match budget {
            Budget::Error(_) => {
                let found = linalg::svd_to_tail(unfolded, norm, tail)?;
                let rank = linalg::rank_for_tail(&found.s, norm, tail);
                let rank = rank.unwrap_or(found.s.len());
                (found, rank)
            }
            _ => {
                let found = linalg::truncated_svd(unfolded, chain.ranks[j + 1])?;
                let rank = found.s.len().min(chain.ranks[j + 1]);
                (found, rank)
            }
        };
        // A remainder of zeros, after a rank-deficient cut, still has one row.
        let rank = rank.max(1);
        chain.ranks[j + 1] = rank;
        let kept = rank.min(found.s.len());
        let mut core = vec![0.0f32; height * rank];
        let mut next = vec![0.0f32; rank * width];
        for k in 0..kept {
            for (row, x) in found.u.col_as_slice(k).iter().enumerate() {
                core[row * rank + k] = *x;
            }
            let s = found.s[k] as f32;
            for (y, x) in next[k * width..].iter_mut().zip(found.v.col_as_slice(k)) {
                *y = x * s;
            }
        }
        let held = linalg::norm_squared(&next);
        left += (norm - held).max(0.0);
        norm = held;
        cores.push(core);
        rest = next;
    }
    cores.push(rest);
    spread(&mut cores);
    let backward = Chain {
        reversed: true,
        ..chain.clone()
    };
    if backward.macs() < chain.macs() {
        chain = backward;
    }
    Ok(Train { chain, cores, left })
}

/// Shares the size of the last core, which has the tensor's norm, among all by powers of
/// two.
fn spread(cores: &mut [Vec<f32>]) {
    let Some((last, others)) = cores.split_last_mut() else {
        return;
    };
    let max = last.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    let exponent = linalg::binary_scale(max).log2() as i32 / (others.len() as i32 + 1);
    for core in others.iter_mut() {
        scale(core, 2.0f32.powi(exponent));
    }
    scale(last, 2.0f32.powi(-exponent * others.len() as i32));
}

/// The numbers in order of the sites' digits, `(o_1 i_1)(o_2 i_2)…`.
fn digits(values: &[f32], chain: &Chain) -> Vec<f32> {
    let axes = Axes { chain };
    let from: Vec<Axis> = (0..chain.len())
        .map(Axis::Row)
        .chain((0..chain.len()).map(Axis::Col))
        .collect();
    let to: Vec<Axis> = (0..chain.len())
        .flat_map(|j| [Axis::Row(j), Axis::Col(j)])
        .collect();
    let mut out = vec![0.0; values.len()];
    axes.permute(values, &from, &to, &mut out);
    out
}

impl Train {
    fn form(self, meta: Meta, multiplier: f32, spec: &Spec, context: &EncodeContext) -> Result<Tt> {
        let chain = self.chain;
        let mut cores = Vec::with_capacity(chain.len());
        for (j, core) in self.cores.iter().enumerate() {
            context.check_cancel()?;
            let axes = Axes { chain: &chain };
            let from = [Axis::Rank(j), Axis::Row(j), Axis::Col(j), Axis::Rank(j + 1)];
            let mut values = vec![0.0; core.len()];
            axes.permute(core, &from, &axes.stored(j), &mut values);
            let form = encode::part(&values, &chain.shape(j), spec, context);
            cores.push(form.map_err(|e| e.context(NAMES[j]))?);
        }
        Ok(Tt {
            meta,
            chain,
            multiplier,
            cores,
        })
    }
}
