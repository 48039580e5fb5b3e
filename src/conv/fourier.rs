//! Convolution of one dimension by transforms: overlap-save.
//!
//! A segment of N samples and a kernel that reaches over R of them are transformed,
//! multiplied frequency by frequency, and transformed back: N − R + 1 outputs are then free
//! of what wrapped around. Two segments are the real and the imaginary part of one complex
//! transform; the kernel is real, so they stay apart. Spectra lie in blocks of a few
//! frequencies, input planes side by side, in the order in which they are summed.
//!
//! An output costs about two multiplications for each input channel, however many taps
//! there are, besides the transforms. Its rounding error is relative to the norms of
//! segment and kernel, not to the sum of its own products; a sample that is not finite
//! spoils the outputs of two segments.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use rustfft::num_complex::Complex;
use rustfft::{Fft, FftPlanner};

use super::direct::{Direction, Task, Tasks};
use super::room;
use super::shape::Shape;
use crate::error::Result;
use crate::form::{Form, Product, Scratch, plan_windows, run_workers};
use crate::kernel::conv::{BINS, BLOCK, Spectra};

/// Rows whose sums are transformed back together.
const ROWS: usize = 4;

/// Pairs of segments that are multiplied together at most.
const PAIRS: usize = 4;

/// Samples of a transform at most.
const MAX_SAMPLES: usize = 1 << 20;

/// Nanoseconds on one core with AVX2 (Zen 3) of a thousand steps n · log₂ n of a transform, of
/// a thousand samples brought in and out of one, of a thousand complex products, and of a
/// thousand numbers of kernels' spectra, which do not stay in cache. From the times of
/// `benches/conv.rs`: one channel a group has transforms alone, few taps mostly products.
const STEP: f64 = 150.0;
const SAMPLE: f64 = 1800.0;
const PRODUCT: f64 = 250.0;
const SPECTRUM: f64 = 3000.0;

/// A convolution by transforms, seen from its outputs.
pub(super) struct Fourier<'a> {
    shape: &'a Shape,
    direction: Direction,
    /// Samples of a transform.
    samples: usize,
    /// Outputs of a segment.
    outputs: usize,
    /// Rows whose spectra are held at once.
    window: usize,
    /// Planes read and written of a group.
    group_x: usize,
    group_y: usize,
    /// Samples from one output to the next, and from one input to the next.
    every: usize,
    apart: usize,
    /// Place of an output's first tap, from that of the output.
    start: isize,
    /// Estimated nanoseconds.
    pub(super) cost: f64,
}

impl<'a> Fourier<'a> {
    /// The best way to do it, if there is one: it depends on the shape, the form and the
    /// scratch limit alone. Half of the limit is for the spectra of weights, a quarter for
    /// decoding them, a quarter for those of samples.
    pub(super) fn new(
        form: &dyn Form,
        shape: &'a Shape,
        direction: Direction,
        scratch_bytes: usize,
    ) -> Option<Self> {
        let axis = &shape.width;
        if shape.height.taps * shape.height.input != 1 {
            return None;
        }
        let reach = (axis.taps - 1) * axis.dilation + 1;
        let (inputs, outputs) = (shape.group_inputs(), shape.group_outputs());
        let (group_x, group_y, every, apart, length) = match direction {
            Direction::Forward => (inputs, outputs, axis.stride, 1, axis.output),
            Direction::Backward => (outputs, inputs, 1, axis.stride, axis.input),
        };
        let start = match direction {
            Direction::Forward => axis.start(0),
            Direction::Backward => -axis.start(axis.taps - 1),
        };
        let rows = shape.out_channels;
        let mut best: Option<Self> = None;
        let mut samples = reach.max(2 * BINS).checked_next_power_of_two()?;
        while samples <= MAX_SAMPLES {
            let free = samples - reach;
            let outputs = free / every + 1;
            let row = row_len(samples, inputs).saturating_mul(4);
            let held = row_len(samples, group_x).saturating_mul(4) + samples * (ROWS + 2) * 8;
            let window = (scratch_bytes / 2 / row).min(rows);
            // Rows of a unit are decoded together.
            if held > scratch_bytes / 4 || window < form.row_unit().clamp(1, rows) {
                break;
            }
            let window = match form.row_unit().max(1) {
                unit if window < rows => window / unit * unit,
                _ => window,
            };
            let segments = length.div_ceil(outputs);
            let pairs = segments.div_ceil(2) as f64 * shape.batch as f64;
            let one = samples as f64 * (f64::from(samples.ilog2()) * STEP + SAMPLE) / 1e6;
            let kernels = shape.out_channels as f64 * inputs as f64;
            let passes = rows.div_ceil(window) as f64;
            let all_y = (group_y * shape.groups) as f64;
            let all_x = (group_x * shape.groups) as f64;
            let cost = 1e3
                * (one * (kernels / 2.0 + pairs * (all_x * passes + all_y))
                    + kernels * samples as f64 * (pairs * PRODUCT + SPECTRUM) / 1e6);
            if best.as_ref().is_none_or(|b| cost < b.cost) {
                best = Some(Self {
                    shape,
                    direction,
                    samples,
                    outputs,
                    window,
                    group_x,
                    group_y,
                    every,
                    apart,
                    start,
                    cost,
                });
            }
            if segments <= 2 {
                break;
            }
            samples *= 2;
        }
        best
    }

    /// Writes `y`: the convolution of `x`, or the gradient of x from that of y. Neither is
    /// empty.
    pub(super) fn run(
        &self,
        form: &dyn Form,
        product: &Product<'_>,
        x: &[f32],
        y: &mut [f32],
    ) -> Result<()> {
        let mut planner = FftPlanner::new();
        let plans = Plans {
            forward: planner.plan_fft_forward(self.samples),
            inverse: planner.plan_fft_inverse(self.samples),
        };
        let rows = self.shape.out_channels;
        let shared = self.direction == Direction::Backward && self.window < rows;
        if shared {
            y.fill(0.0);
        }
        // The kernels alone are worth other threads.
        let work = self.shape.macs().max(1 << 20);
        let workers = product.workers(work);
        let row = row_len(self.samples, self.shape.group_inputs());
        let mut store = Scratch::lease();
        for first in (0..rows).step_by(self.window) {
            let rows = first..rows.min(first + self.window);
            let spectra = room(&mut store.floats, rows.len() * row);
            self.transform_weights(form, product, workers, &plans, rows.clone(), spectra)?;
            self.window(product, workers, &plans, rows, spectra, shared, x, y)?;
        }
        Ok(())
    }

    /// Decodes rows of weights and transforms them: the conjugates of their spectra, over N.
    fn transform_weights(
        &self,
        form: &dyn Form,
        product: &Product<'_>,
        workers: usize,
        plans: &Plans,
        rows: Range<usize>,
        out: &mut [f32],
    ) -> Result<()> {
        let cols = form.meta().cols;
        let (inputs, taps) = (self.shape.group_inputs(), self.shape.width.taps);
        let row = row_len(self.samples, inputs);
        let unit = form.row_unit().clamp(1, rows.len());
        let least = form.least_rows().clamp(1, unit);
        let cost = |rows: usize| form.scratch_for(rows) + rows * cols * 4;
        let limit = product.scratch_bytes / 4;
        let (workers, step) = plan_windows(rows.len(), unit, least, workers, limit, &cost);
        let pieces = Mutex::new(out.chunks_mut(step * row).enumerate());
        run_workers(workers, || {
            let mut scratch = Scratch::lease();
            let mut lines = Transform::new(plans, 1);
            let mut weights = std::mem::take(&mut scratch.panel);
            loop {
                let next = pieces.lock().unwrap_or_else(|e| e.into_inner()).next();
                let Some((i, out)) = next else {
                    break;
                };
                let first = rows.start + i * step;
                let n = out.len() / row;
                let weights = room(&mut weights, n * cols);
                form.decode_f32(first..first + n, weights, &mut scratch)?;
                // Two kernels are one complex line.
                for pair in (0..n * inputs).step_by(2) {
                    let two = &weights[pair * taps..weights.len().min((pair + 2) * taps)];
                    self.transform_pair(two, plans, &mut lines);
                    for (part, at) in (pair..n * inputs).take(2).enumerate() {
                        let (r, c) = (at / inputs, at % inputs);
                        let out = &mut out[r * row..(r + 1) * row];
                        self.store_kernel(&lines.lines, part, c, out);
                    }
                }
            }
            scratch.panel = weights;
            Ok(())
        })
    }

    /// The spectrum of one or two kernels, the second as imaginary part.
    fn transform_pair(&self, weights: &[f32], plans: &Plans, to: &mut Transform) {
        let axis = &self.shape.width;
        let line = &mut to.lines;
        line.fill(Complex::default());
        for (t, at) in weights.iter().enumerate() {
            let (part, tap) = (t / axis.taps, t % axis.taps);
            let place = match self.direction {
                Direction::Forward => tap,
                Direction::Backward => axis.taps - 1 - tap,
            } * axis.dilation;
            match part {
                0 => line[place].re = *at,
                _ => line[place].im = *at,
            }
        }
        plans.forward.process_with_scratch(line, &mut to.scratch);
    }

    /// The conjugate of one of two real lines' spectra, over N, where plane `c` of a row has
    /// its blocks.
    fn store_kernel(&self, line: &[Complex<f32>], part: usize, c: usize, out: &mut [f32]) {
        let n = self.samples;
        let scale = 0.5 / n as f32;
        let blocks = out.chunks_exact_mut(self.shape.group_inputs() * BLOCK);
        for (b, block) in blocks.take(n / BINS).enumerate() {
            let (re, im) = block[c * BLOCK..(c + 1) * BLOCK].split_at_mut(BINS);
            for i in 0..BINS {
                let k = b * BINS + i;
                let (z, mirror) = (line[k].conj(), line[(n - k) % n]);
                let v = match part {
                    0 => z + mirror,
                    _ => (z - mirror) * Complex::i(),
                } * scale;
                (re[i], im[i]) = (v.re, v.im);
            }
        }
    }

    /// Adds what a window of weights contributes.
    #[allow(clippy::too_many_arguments)]
    fn window(
        &self,
        product: &Product<'_>,
        workers: usize,
        plans: &Plans,
        rows: Range<usize>,
        weights: &[f32],
        shared: bool,
        x: &[f32],
        y: &mut [f32],
    ) -> Result<()> {
        let axis = &self.shape.width;
        let groups = {
            let group = self.shape.group_outputs();
            rows.start / group..rows.end.div_ceil(group)
        };
        let (planes, plane) = match self.direction {
            Direction::Forward => (rows.clone(), axis.output),
            Direction::Backward => (
                groups.start * self.group_y..groups.end * self.group_y,
                axis.input,
            ),
        };
        let all = self.group_y * self.shape.groups;
        let pairs = plane.div_ceil(self.outputs).div_ceil(2);
        let bytes = |pairs: usize| {
            let spectra = pairs.saturating_mul(row_len(self.samples, self.group_x)) * 4;
            spectra + self.samples * (ROWS * pairs + 2) * 8
        };
        let limit = product.scratch_bytes / 4;
        let workers = workers.min(limit / bytes(1)).max(1);
        let enough = if workers == 1 { 1 } else { 2 * workers };
        let mut together = PAIRS.min(pairs);
        let tasks = |together: usize| self.shape.batch * groups.len() * pairs.div_ceil(together);
        while together > 1 && (bytes(together) > limit / workers || tasks(together) < enough) {
            together -= 1;
        }
        // Few tasks share the rows of a group, and each transforms the samples anew.
        let step = match tasks(together) {
            n if n < enough => self.group_y.div_ceil(enough.div_ceil(n.max(1))).max(ROWS),
            _ => self.group_y,
        };
        let tasks = Tasks {
            images: y.chunks_exact_mut(all * plane).enumerate(),
            image: 0,
            planes,
            left: &mut [],
            next: 0,
            group: self.group_y,
            step: step.min(self.group_y),
            columns: None,
            plane,
            width: plane,
            band: self.outputs.saturating_mul(2 * together).min(plane),
        };
        let tasks = Mutex::new(tasks);
        run_workers(workers, || {
            let mut scratch = Scratch::lease();
            let mut lines = Transform::new(plans, ROWS * together);
            loop {
                let next = tasks.lock().unwrap_or_else(|e| e.into_inner()).next();
                let Some(mut task) = next else {
                    return Ok(());
                };
                let group = task.planes.start / self.group_y;
                let inputs = match self.direction {
                    Direction::Forward => group * self.group_x..(group + 1) * self.group_x,
                    Direction::Backward => {
                        let all = group * self.group_x..(group + 1) * self.group_x;
                        all.start.max(rows.start)..all.end.min(rows.end)
                    }
                };
                let first = match self.direction {
                    Direction::Forward => task.planes.start - rows.start,
                    Direction::Backward => inputs.start - rows.start,
                };
                let row = row_len(self.samples, self.shape.group_inputs());
                let weights = match self.direction {
                    Direction::Forward => Spectra {
                        data: &weights[first * row..],
                        rows: task.planes.len(),
                        stride: row,
                        plane: BLOCK,
                    },
                    Direction::Backward => Spectra {
                        data: &weights[first * row..]
                            [(task.planes.start - group * self.group_y) * BLOCK..],
                        rows: task.planes.len(),
                        stride: BLOCK,
                        plane: row,
                    },
                };
                self.task(
                    product,
                    plans,
                    &mut task,
                    inputs,
                    &weights,
                    shared,
                    x,
                    &mut scratch,
                    &mut lines,
                );
            }
        })
    }

    /// A few pairs of segments of some planes of one group.
    #[allow(clippy::too_many_arguments)]
    fn task(
        &self,
        product: &Product<'_>,
        plans: &Plans,
        task: &mut Task<'_>,
        inputs: Range<usize>,
        weights: &Spectra<'_>,
        shared: bool,
        x: &[f32],
        scratch: &mut Scratch,
        lines: &mut Transform,
    ) {
        let (planes, n) = (inputs.len(), self.samples);
        let positions = task.panel.cols();
        let pairs = positions.div_ceil(2 * self.outputs);
        let (x_len, x_planes) = match self.direction {
            Direction::Forward => (self.shape.width.input, self.shape.channels),
            Direction::Backward => (self.shape.width.output, self.shape.out_channels),
        };
        let image = &x[task.image * x_planes * x_len..][inputs.start * x_len..];
        let row = row_len(n, planes);
        let spectra = room(&mut scratch.floats, pairs * row);
        for (pair, out) in spectra.chunks_exact_mut(row).enumerate() {
            for (p, samples) in image.chunks_exact(x_len).take(planes).enumerate() {
                let line = &mut lines.lines[..n];
                line.fill(Complex::default());
                for part in 0..2 {
                    let at = task.at + (2 * pair + part) * self.outputs;
                    self.load(samples, at, part, line);
                }
                plans.forward.process_with_scratch(line, &mut lines.scratch);
                let blocks = out.chunks_exact_mut(planes * BLOCK);
                for (block, line) in blocks.zip(line.chunks_exact(BINS)) {
                    let (re, im) = block[p * BLOCK..(p + 1) * BLOCK].split_at_mut(BINS);
                    for ((re, im), z) in re.iter_mut().zip(im).zip(line) {
                        (*re, *im) = (z.re, z.im);
                    }
                }
            }
        }
        let inner = self.shape.group_inputs();
        let mut sums = [0.0f32; ROWS * PAIRS * BLOCK];
        for first in (0..weights.rows).step_by(ROWS) {
            let rows = ROWS.min(weights.rows - first);
            for b in 0..n / BINS {
                let at = first * weights.stride + b * inner * BLOCK;
                let w = Spectra {
                    data: &weights.data[at..],
                    rows,
                    ..*weights
                };
                let x = Spectra {
                    data: &spectra[b * planes * BLOCK..],
                    rows: pairs,
                    stride: row,
                    plane: BLOCK,
                };
                product.kernels.conv_spectra(&w, &x, planes, &mut sums);
                let lines = lines.lines.chunks_exact_mut(n);
                for (sums, line) in sums.chunks_exact(BLOCK).zip(lines).take(rows * pairs) {
                    let line = &mut line[b * BINS..(b + 1) * BINS];
                    let (re, im) = sums.split_at(BINS);
                    for ((z, re), im) in line.iter_mut().zip(re).zip(im) {
                        *z = Complex::new(*re, *im);
                    }
                }
            }
            let each = lines
                .lines
                .chunks_exact_mut(n)
                .take(rows * pairs)
                .enumerate();
            for (i, line) in each {
                plans.inverse.process_with_scratch(line, &mut lines.scratch);
                let out = task.panel.row_mut(first + i / pairs);
                let out = &mut out[2 * (i % pairs) * self.outputs..];
                let both = out.chunks_mut(self.outputs).take(2).enumerate();
                for (part, out) in both {
                    let line = line.iter().step_by(self.every);
                    let values = line.map(|z| if part == 0 { z.re } else { z.im });
                    match shared {
                        false => out.iter_mut().zip(values).for_each(|(o, v)| *o = v),
                        true => out.iter_mut().zip(values).for_each(|(o, v)| *o += v),
                    }
                }
            }
        }
    }

    /// The samples that the outputs from `at` on see, as real or imaginary part.
    fn load(&self, samples: &[f32], at: usize, part: usize, line: &mut [Complex<f32>]) {
        let first = (at * self.every) as isize + self.start;
        let apart = self.apart as isize;
        // Sample k stands at k · apart − first.
        let k = first.div_euclid(apart) + isize::from(first.rem_euclid(apart) != 0);
        let k = k.max(0) as usize;
        let Some(samples) = samples.get(k..) else {
            return;
        };
        let place = (k as isize * apart - first) as usize;
        let Some(line) = line.get_mut(place..) else {
            return;
        };
        let line = line.iter_mut().step_by(self.apart);
        match part {
            0 => line.zip(samples).for_each(|(z, s)| z.re = *s),
            _ => line.zip(samples).for_each(|(z, s)| z.im = *s),
        }
    }
}

/// Elements of a row of spectra of so many planes, which do not all begin in the same set
/// of the caches.
fn row_len(samples: usize, planes: usize) -> usize {
    samples
        .saturating_mul(2)
        .saturating_mul(planes)
        .saturating_add(BLOCK)
}

struct Plans {
    forward: Arc<dyn Fft<f32>>,
    inverse: Arc<dyn Fft<f32>>,
}

/// Lines that a thread transforms.
struct Transform {
    lines: Vec<Complex<f32>>,
    scratch: Vec<Complex<f32>>,
}

impl Transform {
    fn new(plans: &Plans, lines: usize) -> Self {
        let n = plans.forward.len();
        let scratch = plans.forward.get_inplace_scratch_len();
        let scratch = scratch.max(plans.inverse.get_inplace_scratch_len());
        Self {
            lines: vec![Complex::default(); n * lines],
            scratch: vec![Complex::default(); scratch],
        }
    }
}
