//! Convolution as a product of the form with patches.
//!
//! What a block of output positions sees is gathered into a panel, a row for each position,
//! multiplied by the form, and put where the outputs stand, channels first. The gradient
//! with respect to the input goes the other way: a product with the transposed form gives
//! rows of patches, which are added where they overlap.

use std::ops::Range;
use std::sync::Mutex;

use super::direct::cut;
use super::lines::{Lines, Sight, inside};
use super::shape::{Axis, Shape};
use super::{each, room};
use crate::error::Result;
use crate::form::{Form, Product, Scratch};
use crate::kernel::columns::Columns;

/// Bytes of a block's patches and results, at most. Larger ones do not pay for the rows
/// being read less often: kernels open a window of rows once for a few hundred positions.
const PANEL_BYTES: usize = 8 << 20;

/// Positions that a thread gathers or puts back at once.
const PART: usize = 128;

/// Elements that a thread lays out at once: half a first cache.
const LINE_FLOATS: usize = 4096;

/// Products with patches of one group.
struct Patches<'a> {
    product: &'a Product<'a>,
    shape: &'a Shape,
    sights: [Sight; 2],
    lines: Lines,
    /// Rows and columns of a part of a block.
    part: [usize; 2],
    workers: usize,
}

/// Neighbouring output positions of neighbouring images: whole rows of them, or part of
/// one.
struct Block {
    images: Range<usize>,
    rows: Range<usize>,
    cols: Range<usize>,
}

impl Block {
    /// Positions of an image.
    fn positions(&self) -> usize {
        self.rows.len() * self.cols.len()
    }
}

/// Part of a block, in one image.
#[derive(Clone, Debug)]
struct Part {
    image: usize,
    rows: Range<usize>,
    cols: Range<usize>,
    /// Its first row in the block's panel.
    at: usize,
}

impl Part {
    fn positions(&self) -> usize {
        self.rows.len() * self.cols.len()
    }
}

fn sight(axis: &Axis) -> Sight {
    Sight {
        len: axis.input,
        step: axis.stride,
        starts: (0..axis.taps).map(|t| axis.start(t)).collect(),
    }
}

/// Positions whose patches are multiplied together, about.
pub(super) fn most_positions(scratch_bytes: usize, shape: &Shape) -> usize {
    // Twice the patches: the form may pack them anew.
    let bytes = (2 * shape.channels * shape.taps() + shape.out_channels) * 4;
    ((scratch_bytes / 2).min(PANEL_BYTES) / bytes).max(1)
}

impl<'a> Patches<'a> {
    fn new(product: &'a Product<'a>, shape: &'a Shape) -> Self {
        let sights = [sight(&shape.height), sight(&shape.width)];
        let all = [shape.height.output, shape.width.output];
        let mut positions = PART;
        let mut part = cut(all, positions);
        let mut lines;
        loop {
            lines = Lines::new(sights.clone(), all, part);
            let held = lines.layout(part).plane;
            if lines.in_place || held <= LINE_FLOATS || positions == 1 {
                break;
            }
            positions /= 2;
            part = cut(all, positions);
        }
        Self {
            product,
            shape,
            sights,
            lines,
            part,
            workers: product.workers(shape.macs()),
        }
    }

    /// Columns of the weights.
    fn cols(&self) -> usize {
        self.shape.channels * self.shape.taps()
    }

    /// Blocks whose patches and results take half of the scratch limit at most, or one
    /// position. They depend on the limit and the shape alone: a form may multiply blocks
    /// of other sizes otherwise.
    fn blocks(&self) -> impl Iterator<Item = Block> {
        let most = most_positions(self.product.scratch_bytes, self.shape);
        let all = [self.shape.height.output, self.shape.width.output];
        let tile = cut(all, most);
        let images = (most / self.shape.output_plane()).max(1);
        let parts =
            |all: usize, step: usize| (0..all).step_by(step).map(move |i| i..all.min(i + step));
        parts(self.shape.batch, images).flat_map(move |images| {
            parts(all[0], tile[0]).flat_map(move |rows| {
                let images = images.clone();
                parts(all[1], tile[1]).map(move |cols| Block {
                    images: images.clone(),
                    rows: rows.clone(),
                    cols,
                })
            })
        })
    }

    /// The most rows of a block's panel.
    fn most(&self) -> usize {
        let sizes = self.blocks().map(|b| b.images.len() * b.positions());
        // Blocks only get smaller at the ends.
        sizes.take(1).max().unwrap_or(0)
    }

    /// The parts of a block in the order of its panel.
    fn parts(&self, block: &Block) -> impl Iterator<Item = Part> + use<> {
        let step = [0, 1].map(|i| self.part[i]);
        let cut = |range: Range<usize>, step: usize| {
            range
                .clone()
                .step_by(step)
                .map(move |i| i..range.end.min(i + step))
        };
        let (rows, cols, images) = (block.rows.clone(), block.cols.clone(), block.images.clone());
        // Parts of whole rows, unless rows have to be cut.
        let step = match cols.len() <= step[1] {
            true => step,
            false => [1, step[1]],
        };
        let mut at = 0;
        images
            .flat_map(move |image| {
                let cols = cols.clone();
                cut(rows.clone(), step[0]).flat_map(move |rows| {
                    cut(cols.clone(), step[1]).map(move |cols| (image, rows.clone(), cols))
                })
            })
            .map(move |(image, rows, cols)| {
                let part = Part {
                    image,
                    rows,
                    cols,
                    at,
                };
                at += part.positions();
                part
            })
    }

    /// Fills rows of a panel with what a part sees.
    fn gather(&self, x: &[f32], part: &Part, panel: &mut [f32], scratch: &mut Scratch) {
        let (taps, cols) = (self.shape.taps(), self.cols());
        let plane = self.shape.input_plane();
        let image = self.shape.channels * plane;
        let image = &x[part.image * image..(part.image + 1) * image];
        let layout = self.lines.layout([part.rows.len(), part.cols.len()]);
        let origin = [part.rows.start, part.cols.start];
        let width = part.cols.len();
        let block = (512 / taps)
            .max(1)
            .min((4 * LINE_FLOATS) / layout.plane.max(1));
        let block = block.clamp(1, self.shape.channels);
        let mut offsets: Vec<usize> = Vec::new();
        if !self.lines.in_place {
            room(&mut scratch.floats, block * layout.plane).fill(0.0);
        }
        for first in (0..self.shape.channels).step_by(block) {
            let some = block.min(self.shape.channels - first);
            let planes = &image[first * plane..(first + some) * plane];
            let samples = match self.lines.in_place {
                true => &planes[layout.base(origin)..],
                false => {
                    let lines = room(&mut scratch.floats, some * layout.plane);
                    let pairs = planes.chunks_exact(plane);
                    for (plane, lines) in pairs.zip(lines.chunks_exact_mut(layout.plane)) {
                        layout.fill(plane, origin, lines);
                    }
                    &*lines
                }
            };
            let all = some * taps;
            for from in (0..all).step_by(512) {
                let n = (all - from).min(512);
                if offsets.len() < n || taps > 512 {
                    let place = |t: usize| t / taps * layout.plane + layout.sample(t % taps);
                    offsets.clear();
                    offsets.extend((from..from + n).map(place));
                }
                for (row, panel) in panel.chunks_mut(width * cols).enumerate() {
                    self.product.kernels.conv_patches(
                        &samples[row * layout.pitch..],
                        &offsets[..n],
                        width,
                        &mut panel[first * taps + from..],
                        cols,
                    );
                }
            }
        }
    }

    /// Puts the results of a part, a row for each position, where `panel` has a row for
    /// each channel.
    fn put(&self, results: &[f32], panel: &mut Columns<'_>, scratch: &mut Scratch) {
        let (channels, n) = (self.shape.out_channels, panel.cols());
        let offsets: Vec<usize> = (0..n).map(|i| i * channels).collect();
        let block = (2 * LINE_FLOATS / n).clamp(1, channels);
        let lines = room(&mut scratch.out, block * n);
        for first in (0..channels).step_by(block) {
            let some = block.min(channels - first);
            let lines = &mut lines[..some * n];
            let kernels = self.product.kernels;
            kernels.conv_patches(&results[first..], &offsets, some, lines, n);
            for (c, line) in lines.chunks_exact(n).enumerate() {
                panel.row_mut(first + c).copy_from_slice(line);
            }
        }
    }

    /// Adds patches to planes of an image of which `first` is the first; `patches` are the
    /// rows of a part.
    fn add(
        &self,
        patches: &[f32],
        part: &Part,
        first: usize,
        planes: &mut [f32],
        scratch: &mut Scratch,
    ) {
        let (taps, cols) = (self.shape.taps(), self.cols());
        let (plane, across) = (self.shape.input_plane(), self.shape.width.taps);
        let n = part.positions();
        let [y, x] = &self.sights;
        let offsets: Vec<usize> = (0..n).map(|i| i * cols).collect();
        let all = planes.len() / plane * taps;
        let block = (4 * LINE_FLOATS / n).clamp(1, all);
        let lines = room(&mut scratch.out, block * n);
        for from in (0..all).step_by(block) {
            let some = block.min(all - from);
            let lines = &mut lines[..some * n];
            let patches = &patches[first * taps + from..];
            let kernels = self.product.kernels;
            kernels.conv_patches(patches, &offsets, some, lines, n);
            for (t, line) in lines.chunks_exact(n).enumerate() {
                let (c, t) = ((from + t) / taps, (from + t) % taps);
                let plane = &mut planes[c * plane..(c + 1) * plane];
                let left = (part.cols.start * x.step) as isize + x.starts[t % across];
                let (before, end) = inside(left, x.step, part.cols.len(), x.len);
                if before == end {
                    continue;
                }
                let left = (left + (before * x.step) as isize) as usize;
                for (row, line) in part.rows.clone().zip(line.chunks_exact(part.cols.len())) {
                    let row = (row * y.step) as isize + y.starts[t / across];
                    let Some(row) = usize::try_from(row).ok().filter(|r| *r < y.len) else {
                        continue;
                    };
                    let out = &mut plane[row * x.len + left..(row + 1) * x.len];
                    let line = &line[before..end];
                    match x.step {
                        1 => kernels.add_scaled(1.0, line, &mut out[..line.len()]),
                        step => {
                            let out = out.iter_mut().step_by(step);
                            out.zip(line).for_each(|(o, l)| *o += *l);
                        }
                    }
                }
            }
        }
    }
}

/// `y` from `x`; neither is empty.
pub(super) fn forward(
    form: &dyn Form,
    product: &Product<'_>,
    shape: &Shape,
    x: &[f32],
    y: &mut [f32],
) -> Result<()> {
    let patches = Patches::new(product, shape);
    let mut inner = *product;
    inner.scratch_bytes /= 2;
    let (cols, channels) = (patches.cols(), shape.out_channels);
    let (plane, most) = (shape.output_plane(), patches.most());
    let mut store = Scratch::lease();
    let Scratch { floats, out, .. } = &mut *store;
    let (panel, results) = (room(floats, most * cols), room(out, most * channels));
    for block in patches.blocks() {
        let n = block.images.len() * block.positions();
        let (panel, results) = (&mut panel[..n * cols], &mut results[..n * channels]);
        let mut left = &mut *panel;
        let parts = patches.parts(&block).map(move |part| {
            let rows = left.split_off_mut(..part.positions() * cols);
            (part, rows.unwrap_or_default())
        });
        let parts = Mutex::new(parts);
        each(
            patches.workers,
            || parts.lock().unwrap_or_else(|e| e.into_inner()).next(),
            |scratch, (part, rows)| {
                patches.gather(x, &part, rows, scratch);
                Ok(())
            },
        )?;
        inner.matmul(form, panel, n, results)?;
        let results = &*results;
        let first = block.rows.start * shape.width.output + block.cols.start;
        let image = channels * plane;
        let images = &mut y[block.images.start * image..block.images.end * image];
        let mut images = images.chunks_exact_mut(image);
        let mut columns = Columns::new(&mut [], plane);
        let mut now = None;
        let parts = patches.parts(&block).map(move |part| {
            if now != Some(part.image) {
                now = Some(part.image);
                columns = Columns::new(images.next().unwrap_or_default(), plane);
                columns.take_front(first);
            }
            let panel = columns.take_front(part.positions());
            (part, panel)
        });
        let parts = Mutex::new(parts);
        each(
            patches.workers,
            || parts.lock().unwrap_or_else(|e| e.into_inner()).next(),
            |scratch, (part, mut panel)| {
                let rows = part.at..part.at + part.positions();
                let results = &results[rows.start * channels..rows.end * channels];
                patches.put(results, &mut panel, scratch);
                Ok(())
            },
        )?;
    }
    Ok(())
}

/// The gradient of x from that of y, `g`; neither is empty.
pub(super) fn backward(
    form: &dyn Form,
    product: &Product<'_>,
    shape: &Shape,
    g: &[f32],
    x: &mut [f32],
) -> Result<()> {
    let patches = Patches::new(product, shape);
    let mut inner = *product;
    inner.scratch_bytes /= 2;
    let (cols, channels) = (patches.cols(), shape.out_channels);
    let (plane, most) = (shape.output_plane(), patches.most());
    let x_plane = shape.input_plane();
    // Planes that a thread adds to: few enough that all have some.
    let planes = shape.channels.div_ceil(4 * patches.workers).max(1);
    x.fill(0.0);
    let mut store = Scratch::lease();
    let Scratch { floats, out, .. } = &mut *store;
    let (panel, grads) = (room(out, most * channels), room(floats, most * cols));
    let places: Vec<usize> = (0..channels).map(|o| o * plane).collect();
    for block in patches.blocks() {
        let n = block.images.len() * block.positions();
        let (panel, grads) = (&mut panel[..n * channels], &mut grads[..n * cols]);
        let mut left = &mut *panel;
        let parts = patches.parts(&block).map(move |part| {
            let rows = left.split_off_mut(..part.positions() * channels);
            (part, rows.unwrap_or_default())
        });
        let parts = Mutex::new(parts);
        each(
            patches.workers,
            || parts.lock().unwrap_or_else(|e| e.into_inner()).next(),
            |_, (part, rows)| {
                let at = part.rows.start * shape.width.output + part.cols.start;
                let image = &g[part.image * channels * plane..(part.image + 1) * channels * plane];
                let n = part.positions();
                let kernels = product.kernels;
                kernels.conv_patches(&image[at..], &places, n, rows, channels);
                Ok(())
            },
        )?;
        inner.matmul_t(form, panel, n, grads)?;
        let grads = &*grads;
        let image = shape.channels * x_plane;
        let images = &mut x[block.images.start * image..block.images.end * image];
        let images = block.images.clone().zip(images.chunks_exact_mut(image));
        let tasks = images.flat_map(|(image, x)| {
            let pieces = x.chunks_mut(planes * x_plane).enumerate();
            pieces.map(move |(i, x)| (image, i * planes, x))
        });
        let tasks = Mutex::new(tasks);
        each(
            patches.workers,
            || tasks.lock().unwrap_or_else(|e| e.into_inner()).next(),
            |scratch, (image, first, x)| {
                for part in patches.parts(&block).filter(|p| p.image == image) {
                    let rows = &grads[part.at * cols..(part.at + part.positions()) * cols];
                    patches.add(rows, &part, first, x, scratch);
                }
                Ok(())
            },
        )?;
    }
    Ok(())
}
