//! Convolution by decoded weights, without patches.
//!
//! A window of rows is decoded once and serves every position; a vector of the machine
//! holds neighbouring outputs, so that each weight is multiplied by runs of samples as they
//! lie (see [`super::lines`]). The sum of an output runs over input channels, then taps,
//! in one order, wherever rows, positions and threads are cut: results depend on nothing
//! but the tensor and x.
//!
//! The gradient with respect to the input is the same computation with the roles of input
//! and output channels exchanged, once for each phase of the stride: samples of x whose
//! places differ by whole strides are reached by the same taps.

use std::ops::Range;
use std::sync::Mutex;

use super::lines::{Layout, Lines, Sight};
use super::shape::{Axis, Shape};
use super::{each, room};
use crate::error::Result;
use crate::form::{Form, Product, Scratch, plan_windows};
use crate::kernel::columns::Columns;
use crate::kernel::conv::{Tap, Weights};

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// From x to y.
    Forward,
    /// From the gradient of y to that of x.
    Backward,
}

/// Products of one sum that are formed between two visits of it: with three vectors of
/// samples each they fill most of a first cache of 32 KiB.
const TAPS: usize = 144;

/// Positions that are computed at once, at most: two such lines fill a first cache.
const POSITIONS: usize = 4096;

/// Positions that are worth a visit of the weights.
const FEW_POSITIONS: usize = 192;

/// Bytes of sums and samples of one thread, at most: most of a second cache.
const WORKER_BYTES: usize = 768 << 10;

/// Bytes of sums and samples of one thread below which fewer threads are used.
const LEAST_BYTES: usize = 64 << 10;

/// One weight in so many: from there on those that are 0 are left out. A row by itself is
/// multiplied at not quite half the rate of eight.
const FEW: u64 = 3;

/// Multiplications that are worth the hand-over of a task.
const TASK_MACS: usize = 1 << 18;

/// The outputs of one axis that are reached by the same taps: `first`, `first + every`, ….
#[derive(Debug)]
pub(super) struct AxisPhase {
    first: usize,
    every: usize,
    pub(super) outputs: usize,
    pub(super) taps: Vec<usize>,
    pub(super) sight: Sight,
}

pub(super) fn axis_phases(axis: &Axis, direction: Direction) -> Vec<AxisPhase> {
    if direction == Direction::Forward {
        return vec![AxisPhase {
            first: 0,
            every: 1,
            outputs: axis.output,
            taps: (0..axis.taps).collect(),
            sight: Sight {
                len: axis.input,
                step: axis.stride,
                starts: (0..axis.taps).map(|t| axis.start(t)).collect(),
            },
        }];
    }
    // Input i is reached by tap t of output j = (i − start(t)) / stride.
    let stride = axis.stride as isize;
    let phase = |t: usize| axis.start(t).rem_euclid(stride) as usize;
    let mut order: Vec<usize> = (0..axis.taps).filter(|t| phase(*t) < axis.input).collect();
    order.sort_by_key(|t| (phase(*t), *t));
    order
        .chunk_by(|a, b| phase(*a) == phase(*b))
        .map(|taps| {
            let first = phase(taps[0]);
            let start = |t: &usize| (first as isize - axis.start(*t)) / stride;
            AxisPhase {
                first,
                every: axis.stride,
                outputs: (axis.input - first).div_ceil(axis.stride),
                taps: taps.to_vec(),
                sight: Sight {
                    len: axis.output,
                    step: 1,
                    starts: taps.iter().map(start).collect(),
                },
            }
        })
        .collect()
}

/// Outputs that are reached by the same taps.
#[derive(Debug)]
struct Phase {
    first: [usize; 2],
    every: [usize; 2],
    outputs: [usize; 2],
    /// Places of the taps in a kernel.
    taps: Vec<usize>,
    lines: Lines,
}

/// A convolution seen from its outputs, which are planes of x in the backward direction.
struct Direct<'a> {
    product: &'a Product<'a>,
    direction: Direction,
    shape: &'a Shape,
    phases: Vec<Phase>,
    /// Whether every output is in some phase.
    covered: bool,
    /// What is read: planes, and their rows and columns.
    x: &'a [f32],
    x_planes: usize,
    x_plane: [usize; 2],
    /// What is written.
    y_planes: usize,
    y_plane: [usize; 2],
    /// Planes of a group.
    group_x: usize,
    group_y: usize,
    plan: Plan,
    workers: usize,
}

/// How the work is cut. None of it changes a result.
#[derive(Clone, Copy, Debug)]
struct Plan {
    /// Output planes of a task: part of a group, or whole groups.
    rows: usize,
    /// Rows and columns of a task's outputs, in its phase.
    tile: [usize; 2],
    /// Input planes that are laid out at once.
    planes: usize,
}

/// Weights that have been decoded.
struct Window<'a> {
    weights: &'a [f32],
    rows: Range<usize>,
    /// The weights that are not 0, if few are.
    few: Option<Few<'a>>,
    /// Whether other windows add to the same outputs.
    shared: bool,
}

/// Columns of the weights that are not 0, row by row.
struct Few<'a> {
    starts: Vec<usize>,
    cols: &'a [u32],
}

/// What a thread keeps from one group to the next in one phase of a task.
#[derive(Default)]
struct Held {
    /// Taps of a block of planes.
    taps: Vec<Tap>,
    /// Whether the lines are 0 where padding is.
    clean: bool,
    /// Taps of a row whose weights are not 0, and how far each row has come.
    some: Vec<Tap>,
    nexts: Vec<Range<usize>>,
}

/// Part of an output: some planes of one image, and neighbouring positions of them.
pub(super) struct Task<'a> {
    pub(super) image: usize,
    pub(super) planes: Range<usize>,
    /// The first position.
    pub(super) at: usize,
    pub(super) panel: Columns<'a>,
}

/// Whether the form has few weights that are not 0, or other ways to multiply: what it counts
/// of products is little.
pub(super) fn counts_few(form: &dyn Form) -> bool {
    let meta = form.meta();
    let all = (meta.rows as u64).saturating_mul(meta.cols as u64);
    form.matmul_macs() < all / FEW && u32::try_from(meta.cols).is_ok()
}

/// Writes `y`: the convolution of `x`, or the gradient of x from that of y. Neither is
/// empty.
pub(super) fn run(
    form: &dyn Form,
    product: &Product<'_>,
    shape: &Shape,
    direction: Direction,
    x: &[f32],
    y: &mut [f32],
) -> Result<()> {
    let (inputs, outputs) = (shape.group_inputs(), shape.group_outputs());
    let input = (
        shape.channels,
        [shape.height.input, shape.width.input],
        inputs,
    );
    let output = (
        shape.out_channels,
        [shape.height.output, shape.width.output],
        outputs,
    );
    let (from, to) = match direction {
        Direction::Forward => (input, output),
        Direction::Backward => (output, input),
    };
    let workers = product.workers(shape.macs());
    let most = product.scratch_bytes / 4 / LEAST_BYTES;
    let workers = workers.min(most).max(1);
    let mut direct = Direct {
        product,
        direction,
        shape,
        phases: Vec::new(),
        covered: true,
        x,
        x_planes: from.0,
        x_plane: from.1,
        y_planes: to.0,
        y_plane: to.1,
        group_x: from.2,
        group_y: to.2,
        plan: Plan {
            rows: 1,
            tile: [1, 1],
            planes: 1,
        },
        workers,
    };
    direct.prepare();
    direct.run(form, y)
}

impl Direct<'_> {
    /// Finds the phases and how to cut them.
    fn prepare(&mut self) {
        let axes = [&self.shape.height, &self.shape.width];
        let across = axes[1].taps;
        let [ys, xs] = axes.map(|a| axis_phases(a, self.direction));
        let reached = |phases: &[AxisPhase]| phases.iter().map(|p| p.outputs).sum::<usize>();
        self.covered = [reached(&ys), reached(&xs)] == self.y_plane;
        let largest = |phases: &[AxisPhase]| phases.iter().map(|p| p.outputs).max().unwrap_or(0);
        let grid = [largest(&ys), largest(&xs)];
        let worker = (self.product.scratch_bytes / 4 / self.workers).min(WORKER_BYTES);
        let floats = worker / 8;

        // Sums: few enough rows that positions fill some vectors.
        let mut rows = self.group_y.min(256);
        while rows > 8 && floats / rows < FEW_POSITIONS {
            rows = rows.div_ceil(2);
        }
        let mut positions = (floats / rows).clamp(1, POSITIONS);
        let mut tile = cut(grid, positions);
        loop {
            self.phases.clear();
            for y in &ys {
                for x in &xs {
                    let outputs = [y.outputs, x.outputs];
                    let size = [0, 1].map(|i| tile[i].min(outputs[i]));
                    let taps = |t: &usize| {
                        x.taps.iter().map({
                            let row = t * across;
                            move |u| row + u
                        })
                    };
                    self.phases.push(Phase {
                        first: [y.first, x.first],
                        every: [y.every, x.every],
                        outputs,
                        taps: y.taps.iter().flat_map(taps).collect(),
                        lines: Lines::new([y.sight.clone(), x.sight.clone()], outputs, size),
                    });
                }
            }
            let size = |p: &Phase| {
                let layout = p.lines.layout([0, 1].map(|i| tile[i].min(p.outputs[i])));
                let lines = if p.lines.in_place { 0 } else { layout.plane };
                lines.max(Runs::new(&layout).len.saturating_mul(rows))
            };
            let held = self.phases.iter().map(size).max().unwrap_or(0);
            if held <= floats || positions == 1 {
                break;
            }
            positions /= 2;
            tile = cut(grid, positions);
        }

        let images = self.shape.batch;
        let bands = |tile: [usize; 2]| {
            let bands = grid[0].div_ceil(tile[0].max(1)) * grid[1].div_ceil(tile[1].max(1));
            bands.saturating_mul(images)
        };
        // Enough tasks to even out the end.
        let enough = if self.workers == 1 {
            1
        } else {
            4 * self.workers
        };
        while bands(tile).saturating_mul(self.y_planes.div_ceil(rows)) < enough {
            if rows > 64 {
                rows = rows.div_ceil(2);
            } else if tile[0] > 1 && tile[0] * tile[1] > FEW_POSITIONS {
                tile[0] = tile[0].div_ceil(2);
            } else {
                break;
            }
        }
        let taps = self.phases.iter().map(|p| p.taps.len()).max().unwrap_or(0);
        if rows == self.group_y {
            let macs = [self.group_x, taps, tile[0] * tile[1]];
            let macs = macs.into_iter().fold(rows, usize::saturating_mul);
            let groups = (TASK_MACS / macs.max(1)).max(1);
            let share = (bands(tile) * self.shape.groups / enough).max(1);
            rows *= groups.min(share).min(self.shape.groups);
        }
        let plane = |p: &Phase| {
            let layout = p.lines.layout([0, 1].map(|i| tile[i].min(p.outputs[i])));
            layout.plane
        };
        let plane = self.phases.iter().map(plane).max().unwrap_or(1);
        let planes = (TAPS / taps.max(1)).min(floats / plane.max(1));
        self.plan = Plan {
            rows,
            tile,
            planes: planes.clamp(1, self.group_x),
        };
    }

    fn run(&self, form: &dyn Form, y: &mut [f32]) -> Result<()> {
        let (all, cols) = (form.meta().rows, form.meta().cols);
        let share = self.product.scratch_bytes / 2;
        let cost = |rows: usize| form.scratch_for(rows);
        let least = form.least_rows().clamp(1, all);
        let mut unit = form.row_unit().clamp(least, all);
        let sparse = self.direction == Direction::Forward && counts_few(form);
        let row = cols * 4 + if sparse { cols * 4 / FEW as usize } else { 0 };
        while unit > least && (unit * row > share || cost(unit) > share / 2) {
            unit = (unit / 2).max(least);
        }
        let window = (share / (unit * row)).max(1).saturating_mul(unit);
        let shared = self.direction == Direction::Backward && window < all;
        if shared || !self.covered {
            y.fill(0.0);
        }
        let mut store = Scratch::lease();
        let Scratch {
            floats, positions, ..
        } = &mut *store;
        for first in (0..all).step_by(window) {
            let rows = first..all.min(first.saturating_add(window));
            let weights = room(floats, rows.len() * cols);
            let product = self.product;
            decode(form, product, self.workers, unit, rows.clone(), weights)?;
            let window = Window {
                weights,
                rows,
                few: match sparse {
                    true => find_few(weights, cols, positions, self.workers)?,
                    false => None,
                },
                shared,
            };
            self.window(&window, y)?;
        }
        Ok(())
    }

    /// Adds what a window of weights contributes.
    fn window(&self, window: &Window<'_>, y: &mut [f32]) -> Result<()> {
        let planes = match self.direction {
            Direction::Forward => window.rows.clone(),
            Direction::Backward => {
                let group = self.shape.group_outputs();
                let groups = window.rows.start / group..window.rows.end.div_ceil(group);
                groups.start * self.group_y..groups.end * self.group_y
            }
        };
        let [height, width] = self.y_plane;
        let tile = self.plan.tile;
        // Positions of a band: whole rows, or part of one.
        let every = |i: usize| self.phases.iter().map(|p| p.every[i]).max().unwrap_or(1);
        let whole = self.phases.iter().all(|p| p.outputs[1] <= tile[1]);
        let band = match whole {
            true => tile[0].saturating_mul(every(0)).min(height) * width,
            false => tile[1].saturating_mul(every(1)).min(width),
        };
        let tasks = Tasks {
            images: y
                .chunks_exact_mut(self.y_planes * height * width)
                .enumerate(),
            image: 0,
            planes,
            left: &mut [],
            next: 0,
            group: self.group_y,
            step: self.plan.rows,
            columns: None,
            plane: height * width,
            width,
            band,
        };
        let tasks = Mutex::new(tasks);
        each(
            self.workers,
            || tasks.lock().unwrap_or_else(|e| e.into_inner()).next(),
            |scratch, task| self.task(window, task, scratch),
        )
    }

    fn task(&self, window: &Window<'_>, mut task: Task<'_>, scratch: &mut Scratch) -> Result<()> {
        let width = self.y_plane[1];
        // The band as rows and columns.
        let (top, left) = (task.at / width, task.at % width);
        let rows = match task.panel.cols() {
            part if part < width => top..top + 1,
            whole => top..top + whole / width,
        };
        let cols = match task.panel.cols() {
            part if part < width => left..left + part,
            _ => 0..width,
        };
        let mut held = Held::default();
        for phase in &self.phases {
            let [y, x] = [(0, &rows), (1, &cols)].map(|(i, range)| {
                let place = |n: usize| n.saturating_sub(phase.first[i]).div_ceil(phase.every[i]);
                place(range.start)..place(range.end)
            });
            if y.is_empty() || x.is_empty() {
                continue;
            }
            let layout = phase.lines.layout([y.len(), x.len()]);
            let area = Area {
                phase,
                layout,
                runs: Runs::new(&layout),
                origin: [y.start, x.start],
            };
            held.taps.clear();
            held.clean = false;
            let mut first = task.planes.start;
            while first < task.planes.end {
                let group = first / self.group_y;
                let end = task.planes.end.min((group + 1) * self.group_y);
                self.group(window, &area, &mut task, first..end, &mut held, scratch);
                first = end;
            }
        }
        Ok(())
    }

    /// The output planes `planes`, all of one group.
    fn group(
        &self,
        window: &Window<'_>,
        area: &Area<'_>,
        task: &mut Task<'_>,
        planes: Range<usize>,
        held: &mut Held,
        scratch: &mut Scratch,
    ) {
        let (layout, runs) = (&area.layout, area.runs);
        let (group, kernel) = (planes.start / self.group_y, self.shape.taps());
        let cols = self.shape.group_inputs() * kernel;
        // Weights of an output plane and an input plane lie these far apart.
        let (first, y_step, x_step, inputs) = match self.direction {
            Direction::Forward => {
                let inputs = group * self.group_x..(group + 1) * self.group_x;
                (
                    (planes.start - window.rows.start) * cols,
                    cols,
                    kernel,
                    inputs,
                )
            }
            Direction::Backward => {
                let inputs = (group * self.group_x).max(window.rows.start)
                    ..((group + 1) * self.group_x).min(window.rows.end);
                let row = (inputs.start - window.rows.start) * cols;
                let plane = (planes.start - group * self.group_y) * kernel;
                (row + plane, kernel, cols, inputs)
            }
        };
        let Scratch { floats, out, .. } = scratch;
        let sums = room(out, planes.len() * runs.len);
        let local = planes.start - task.planes.start;
        if window.shared {
            for (r, sums) in sums.chunks_exact_mut(runs.len).enumerate() {
                self.read(area, task.at, task.panel.row_mut(local + r), sums);
            }
        }
        if let Some(few) = &window.few {
            held.nexts.clear();
            let rows = planes.start - window.rows.start..planes.end - window.rows.start;
            held.nexts
                .extend(rows.map(|r| few.starts[r]..few.starts[r + 1]));
        }
        let x_len = self.x_plane[0] * self.x_plane[1];
        let image = &self.x[task.image * self.x_planes * x_len..][..self.x_planes * x_len];
        let in_place = area.phase.lines.in_place;
        let block = self.plan.planes;
        if !in_place && !held.clean {
            room(floats, block * layout.plane).fill(0.0);
            held.clean = true;
        }
        let mut add = window.shared;
        for start in inputs.clone().step_by(block) {
            let some = block.min(inputs.end - start);
            let image = &image[start * x_len..(start + some) * x_len];
            let samples = match in_place {
                true => &image[layout.base(area.origin)..],
                false => {
                    let lines = room(floats, some * layout.plane);
                    let planes = image.chunks_exact(x_len);
                    for (plane, lines) in planes.zip(lines.chunks_exact_mut(layout.plane)) {
                        layout.fill(plane, area.origin, lines);
                    }
                    &*lines
                }
            };
            let before = (start - inputs.start) * x_step;
            let weights = Weights {
                data: &window.weights[first + before..],
                rows: planes.len(),
                stride: y_step,
            };
            // A kernel of many taps is taken in parts; of few, all blocks have the same.
            let kernel = area.phase.taps.len();
            for from in (0..some * kernel).step_by(2 * TAPS) {
                let n = (some * kernel - from).min(2 * TAPS);
                if held.taps.len() < n || kernel > 2 * TAPS {
                    held.taps.clear();
                    held.taps.extend((from..from + n).map(|t| Tap {
                        weight: t / kernel * x_step + area.phase.taps[t % kernel],
                        sample: t / kernel * layout.plane + layout.sample(t % kernel),
                    }));
                }
                match &window.few {
                    None => self.sum(&weights, &held.taps[..n], area, samples, sums, add),
                    Some(few) => {
                        let block = before + from..before + from + n;
                        self.sum_few(few, block, &weights, held, area, samples, sums, add);
                    }
                }
                add = true;
            }
        }
        for (r, sums) in sums.chunks_exact(runs.len).enumerate() {
            self.write(area, task.at, sums, task.panel.row_mut(local + r));
        }
    }

    fn sum(
        &self,
        weights: &Weights<'_>,
        taps: &[Tap],
        area: &Area<'_>,
        samples: &[f32],
        sums: &mut [f32],
        add: bool,
    ) {
        let runs = area.runs;
        for run in 0..runs.count {
            self.product.kernels.conv_sum(
                weights,
                taps,
                &samples[run * area.layout.pitch..],
                &mut sums[run * runs.width..],
                runs.len,
                runs.width,
                add,
            );
        }
    }

    /// As [`sum`](Self::sum) for `block`, columns of the weights whose taps are held, but
    /// row by row and of the weights that are not 0 alone: what they leave out adds 0.
    #[allow(clippy::too_many_arguments)]
    fn sum_few(
        &self,
        few: &Few<'_>,
        block: Range<usize>,
        weights: &Weights<'_>,
        held: &mut Held,
        area: &Area<'_>,
        samples: &[f32],
        sums: &mut [f32],
        add: bool,
    ) {
        let Held {
            taps, some, nexts, ..
        } = held;
        let sums = sums.chunks_exact_mut(area.runs.len);
        for ((row, next), sums) in nexts.iter_mut().enumerate().zip(sums) {
            let cols = few.cols[next.clone()].iter().map(|c| *c as usize);
            some.clear();
            some.extend(
                cols.take_while(|c| *c < block.end)
                    .map(|c| taps[c - block.start]),
            );
            next.start += some.len();
            let weights = Weights {
                data: &weights.data[row * weights.stride..],
                rows: 1,
                stride: 0,
            };
            match (some.is_empty(), add) {
                (false, _) => self.sum(&weights, some, area, samples, sums, add),
                (true, false) => sums.fill(0.0),
                (true, true) => {}
            }
        }
    }

    /// The places of a band's row of outputs: of the first, and how far apart.
    fn places(&self, area: &Area<'_>, at: usize, row: usize) -> (usize, usize) {
        let place =
            |i: usize, n: usize| (area.origin[i] + n) * area.phase.every[i] + area.phase.first[i];
        let first = place(0, row) * self.y_plane[1] + place(1, 0);
        (first - at, area.phase.every[1])
    }

    fn write(&self, area: &Area<'_>, at: usize, sums: &[f32], out: &mut [f32]) {
        let cols = area.layout.size[1];
        for (row, sums) in sums.chunks(area.runs.pitch).enumerate() {
            let (first, every) = self.places(area, at, row);
            match every {
                1 => out[first..first + cols].copy_from_slice(&sums[..cols]),
                _ => {
                    let out = out[first..].iter_mut().step_by(every);
                    out.zip(&sums[..cols]).for_each(|(o, s)| *o = *s);
                }
            }
        }
    }

    fn read(&self, area: &Area<'_>, at: usize, out: &[f32], sums: &mut [f32]) {
        let cols = area.layout.size[1];
        for (row, sums) in sums.chunks_mut(area.runs.pitch).enumerate() {
            let (first, every) = self.places(area, at, row);
            let out = out[first..].iter().step_by(every);
            sums[cols..].fill(0.0);
            sums.iter_mut()
                .take(cols)
                .zip(out)
                .for_each(|(s, o)| *s = *o);
        }
    }
}

/// Positions of a task in one phase.
struct Area<'a> {
    phase: &'a Phase,
    layout: Layout<'a>,
    runs: Runs,
    /// Row and column of the first, in the phase.
    origin: [usize; 2],
}

/// Sums of a rectangle of outputs: row by row, or as one run through all rows, with what
/// lies between them, where that takes fewer vectors.
#[derive(Clone, Copy, Debug)]
struct Runs {
    count: usize,
    /// Sums of a run.
    width: usize,
    /// Sums from one row of outputs to the next.
    pitch: usize,
    /// All sums.
    len: usize,
}

impl Runs {
    fn new(layout: &Layout<'_>) -> Self {
        let ([rows, cols], pitch) = (layout.size, layout.pitch);
        let one = pitch.saturating_mul(rows - 1).saturating_add(cols);
        if one.div_ceil(16) <= cols.div_ceil(16).saturating_mul(rows) {
            return Self {
                count: 1,
                width: one,
                pitch,
                len: one,
            };
        }
        Self {
            count: rows,
            width: cols,
            pitch: cols,
            len: rows.saturating_mul(cols),
        }
    }
}

/// Rows and columns of about `positions` outputs of a grid: whole rows, or part of one.
pub(super) fn cut(grid: [usize; 2], positions: usize) -> [usize; 2] {
    let even = |all: usize, most: usize| all.div_ceil(all.div_ceil(most.max(1)).max(1)).max(1);
    if grid[1] > positions {
        return [
            1,
            even(grid[1], positions).next_multiple_of(16).min(grid[1]),
        ];
    }
    [even(grid[0], positions / grid[1].max(1)), grid[1].max(1)]
}

/// Hands out an output in tasks: image by image, planes by planes, band by band.
pub(super) struct Tasks<'a, I> {
    pub(super) images: I,
    pub(super) image: usize,
    /// Planes that are written.
    pub(super) planes: Range<usize>,
    /// Planes of the image that are left, and the first of them.
    pub(super) left: &'a mut [f32],
    pub(super) next: usize,
    /// Planes of a group, and of a task.
    pub(super) group: usize,
    pub(super) step: usize,
    pub(super) columns: Option<(Range<usize>, Columns<'a>)>,
    /// Positions of a plane, of a row, and of a band.
    pub(super) plane: usize,
    pub(super) width: usize,
    pub(super) band: usize,
}

impl<'a, I: Iterator<Item = (usize, &'a mut [f32])>> Tasks<'a, I> {
    pub(super) fn next(&mut self) -> Option<Task<'a>> {
        loop {
            if let Some((planes, columns)) = &mut self.columns
                && columns.cols() > 0
            {
                let at = self.plane - columns.cols();
                // A part of a row ends with the row.
                let room = self.width - at % self.width;
                let band = if self.band < self.width {
                    self.band.min(room)
                } else {
                    self.band
                };
                return Some(Task {
                    image: self.image,
                    planes: planes.clone(),
                    at,
                    panel: columns.take_front(band),
                });
            }
            if self.left.is_empty() {
                let (image, y) = self.images.next()?;
                self.image = image;
                self.left = &mut y[self.planes.start * self.plane..self.planes.end * self.plane];
                self.next = self.planes.start;
            }
            // Part of a group, or whole ones.
            let first = self.next;
            let end = match self.step < self.group {
                true => (first + self.step).min((first / self.group + 1) * self.group),
                false => (first / self.group + self.step / self.group) * self.group,
            };
            let end = end.min(self.planes.end);
            let left = std::mem::take(&mut self.left);
            let (head, rest) = left.split_at_mut((end - first) * self.plane);
            self.left = rest;
            self.next = end;
            self.columns = Some((first..end, Columns::new(head, self.plane)));
        }
    }
}

/// Decodes a window of rows in pieces, as many at a time as a quarter of the scratch limit
/// has room for.
pub(super) fn decode(
    form: &dyn Form,
    product: &Product<'_>,
    workers: usize,
    unit: usize,
    rows: Range<usize>,
    out: &mut [f32],
) -> Result<()> {
    let cols = form.meta().cols;
    let least = form.least_rows().min(unit);
    let cost = |rows: usize| form.scratch_for(rows);
    let limit = product.scratch_bytes / 4;
    let (workers, step) = plan_windows(rows.len(), unit, least, workers, limit, &cost);
    let pieces = Mutex::new(out.chunks_mut(step * cols).enumerate());
    each(
        workers,
        || pieces.lock().unwrap_or_else(|e| e.into_inner()).next(),
        |scratch, (i, out)| {
            let first = rows.start + i * step;
            form.decode_f32(first..first + out.len() / cols, out, scratch)
        },
    )
}

/// Finds the weights that are not 0, row by row; `None` if they are not few.
fn find_few<'a>(
    weights: &[f32],
    cols: usize,
    found: &'a mut Vec<u32>,
    workers: usize,
) -> Result<Option<Few<'a>>> {
    // About as much as a thread decodes at once.
    let step = (1usize << 16).div_ceil(cols);
    let mut starts = vec![0usize; weights.len() / cols + 1];
    let pieces = starts[1..]
        .chunks_mut(step)
        .zip(weights.chunks(step * cols));
    let pieces = Mutex::new(pieces);
    each(
        workers,
        || pieces.lock().unwrap_or_else(|e| e.into_inner()).next(),
        |_, (counts, weights)| {
            for (n, row) in counts.iter_mut().zip(weights.chunks_exact(cols)) {
                *n = row.iter().filter(|w| **w != 0.0).count();
            }
            Ok(())
        },
    )?;
    for i in 1..starts.len() {
        starts[i] += starts[i - 1];
    }
    let count = starts[starts.len() - 1];
    if count as u64 > weights.len() as u64 / FEW {
        return Ok(None);
    }
    if found.capacity() < count {
        *found = Vec::new();
        found.reserve_exact(count);
    }
    found.resize(count, 0);
    let mut left = &mut found[..];
    let bounds = &starts;
    let pieces = weights
        .chunks(step * cols)
        .enumerate()
        .map(move |(i, weights)| {
            let rows = i * step..i * step + weights.len() / cols;
            let n = bounds[rows.end] - bounds[rows.start];
            (weights, left.split_off_mut(..n).unwrap_or_default())
        });
    let pieces = Mutex::new(pieces);
    each(
        workers,
        || pieces.lock().unwrap_or_else(|e| e.into_inner()).next(),
        |_, (weights, mut out)| {
            for row in weights.chunks_exact(cols) {
                let n = row.iter().filter(|w| **w != 0.0).count();
                let (these, rest) = std::mem::take(&mut out).split_at_mut(n);
                out = rest;
                let cols = (0..).zip(row).filter(|(_, w)| **w != 0.0);
                these
                    .iter_mut()
                    .zip(cols)
                    .for_each(|(to, (col, _))| *to = col);
            }
            Ok(())
        },
    )?;
    Ok(Some(Few {
        starts,
        cols: found,
    }))
}
