//! Pruning for the least error of products, by second moments of the inputs: Wanda (Sun et
//! al. 2023, arXiv 2306.11695) and SparseGPT (Frantar and Alistarh 2023, arXiv 2301.00774),
//! written from the formulas.

use rayon::prelude::*;

use super::gptq::{self, BLOCK, Feedback};
use super::{EncodeContext, encode};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::spec::{Codec, Options};
use crate::tensor::{Dense, View};

/// The tensor as `keep` and `score` of the options leave it, zero where nothing is kept;
/// `None` where they go by magnitude, for want of moments too, which is noted then.
pub(super) fn by_inputs(
    view: &View<'_>,
    codec: &Codec,
    options: &Options,
    context: &EncodeContext,
) -> Result<Option<Dense>> {
    let score = options.text("score").unwrap_or("magnitude");
    let Some(share) = options.number("keep") else {
        return Ok(None);
    };
    // Integers are refused by name where magnitudes are.
    if score == "magnitude" || !view.dtype().is_float() {
        return Ok(None);
    }
    let Some(moments) = context.moments else {
        context.note(format!(
            "{}(score={score}) without calibration: the largest in magnitude kept",
            codec.name
        ));
        return Ok(None);
    };
    let range = encode::range(view, context)?;
    if view.is_empty() {
        return view.to_dense().map(Some);
    }
    match moments.matrix() {
        Some(matrix) if score == "sparsegpt" => {
            let feedback = Feedback::new(matrix, view.cols(), false, context)?;
            sparse_gpt(view, share, &feedback, range, context).map(Some)
        }
        // Without correlations there is nothing to make up with: the score is the same.
        _ => wanda(view, share, moments.diagonal(), context).map(Some),
    }
}

/// Keeps in each row the values of the largest `|w| · √H_jj`, bit for bit.
fn wanda(view: &View<'_>, share: f64, diagonal: &[f32], context: &EncodeContext) -> Result<Dense> {
    let (cols, size) = (view.cols(), view.dtype().size());
    let k = kept_of(share, cols);
    // Columns that never count still go by magnitude, after all others.
    let root = |h: &f32| f64::from(*h).sqrt().max(1e-60);
    let roots: Vec<f64> = diagonal.iter().map(root).collect();
    let mut out = view.to_dense()?;
    out.bytes_mut()
        .par_chunks_mut(cols * size)
        .enumerate()
        .try_for_each_init(
            || (Vec::new(), Vec::new(), Vec::new(), Vec::new()),
            |(w, scores, indices, kept), (row, out)| {
                context.check_cancel()?;
                let w = view.rows_f32(row..row + 1, w);
                scores.clear();
                scores.extend(w.iter().zip(&roots).map(|(w, r)| f64::from(w.abs()) * r));
                best(scores, k, indices);
                kept.clear();
                kept.resize(cols, false);
                indices.iter().for_each(|i| kept[*i] = w[*i] != 0.0);
                for (out, kept) in out.chunks_exact_mut(size).zip(kept) {
                    if !*kept {
                        out.fill(0);
                    }
                }
                Ok::<_, Error>(())
            },
        )?;
    Ok(out)
}

/// Values that a row keeps.
fn kept_of(share: f64, cols: usize) -> usize {
    (share * cols as f64).round() as usize
}

/// The indices of the `k` largest scores, of equal ones the first, in no order.
fn best(scores: &[f64], k: usize, indices: &mut Vec<usize>) {
    indices.clear();
    indices.extend(0..scores.len());
    if k < scores.len() {
        indices.select_nth_unstable_by(k, |a, b| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b)));
        indices.truncate(k);
    }
}

/// Prunes by the error that each value's loss would leave, block by block of columns, and
/// moves the values that are left.
fn sparse_gpt(
    view: &View<'_>,
    share: f64,
    feedback: &Feedback,
    range: encode::Range,
    context: &EncodeContext,
) -> Result<Dense> {
    let (cols, dtype) = (view.cols(), view.dtype());
    let k = kept_of(share, cols);
    let weight = |place: usize| f64::from(feedback.pivot(place)).powi(-2);
    // Values near 1, so that neither they nor what is added to them leaves f32.
    let unit = encode::power_of_two(range.max_abs());
    let most = match dtype {
        DType::F16 => f32::from(half::f16::MAX),
        DType::BF16 => f32::from(half::bf16::MAX),
        _ => f32::MAX,
    };
    let mut out = Dense::zeros(dtype, view.shape())?;
    let row_bytes = cols * dtype.size();
    out.bytes_mut()
        .par_chunks_mut(gptq::TASK_ROWS * row_bytes)
        .enumerate()
        .try_for_each(|(i, out)| {
            context.check_cancel()?;
            let first = i * gptq::TASK_ROWS;
            let rows = out.len() / row_bytes;
            let mut w = vec![0.0f32; rows * cols];
            view.read_rows_f32(first..first + rows, &mut w);
            w.iter_mut().for_each(|v| *v /= unit);
            let blocks = cols.div_ceil(BLOCK);
            let mut quota = vec![0usize; rows * blocks];
            let (mut scores, mut indices) = (Vec::new(), Vec::new());
            let score = |w: &[f32], place: usize, scores: &mut Vec<f64>| {
                scores.clear();
                let score = |(i, v): (usize, &f32)| f64::from(*v).powi(2) * weight(place + i);
                scores.extend(w.iter().enumerate().map(score));
            };
            for (w, quota) in w.chunks_exact(cols).zip(quota.chunks_exact_mut(blocks)) {
                score(w, 0, &mut scores);
                best(&scores, k, &mut indices);
                indices.iter().for_each(|i| quota[i / BLOCK] += 1);
            }
            let kept = std::cell::RefCell::new(vec![false; rows * cols]);
            feedback.run(
                &mut w,
                |block, w| {
                    let mut kept = kept.borrow_mut();
                    for row in 0..rows {
                        let from = row * cols;
                        score(
                            &w[from + block.start..from + block.end],
                            block.start,
                            &mut scores,
                        );
                        let k = quota[row * blocks + block.start / BLOCK];
                        best(&scores, k, &mut indices);
                        for i in &indices {
                            kept[from + block.start + i] = true;
                        }
                    }
                },
                |row, place, v| {
                    if kept.borrow()[row * cols + place] {
                        v
                    } else {
                        0.0
                    }
                },
            );
            for v in &mut w {
                *v = (*v * unit).clamp(-most, most);
            }
            dtype.from_f32(&w, out);
            Ok::<_, Error>(())
        })?;
    Ok(out)
}
