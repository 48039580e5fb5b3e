//! Products by the chain.
//!
//! A site takes an array `[panels, inner, width]` to one `[panels, tall, width]`, row-major:
//! each panel is multiplied by the core from the left. In order of the sites a panel is a row
//! of x and row digits that are done, `inner` the bond before the site and its column digit,
//! `tall` its row digit and the bond after it, and `width` the column digits that are left; in
//! the reverse order panels have the column digits that are left, `width` is the row digits
//! that are done, and bonds stand behind digits where they stood before them, and the other way
//! round. What leaves a site is then what enters the next as it lies: nothing is moved but the
//! axes of cores, when they are opened. The transposed product goes back through the same
//! arrays with the cores transposed.
//!
//! Every number is one sum in order of `inner`: it does not matter how the work is cut.

use std::ops::Range;
use std::sync::Mutex;

use super::super::{Form, Product, Scratch, run_workers};
use super::axes::{Axes, Axis};
use super::chain::Chain;
use super::{Tt, resize, scale};
use crate::error::Result;

/// What a site does to the array of one row of x.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stage {
    site: usize,
    panels: usize,
    inner: usize,
    tall: usize,
    width: usize,
}

impl Stage {
    pub(super) fn all(chain: &Chain, transposed: bool) -> Vec<Self> {
        let mut done = 1usize;
        let mut left = chain.sites.iter().fold(1usize, |n, s| n * s.i);
        let stage = |j: usize| {
            let site = chain.sites[j];
            left /= site.i;
            let (panels, width) = match chain.reversed {
                false => (done, left),
                true => (left, done),
            };
            done *= site.o;
            let (columns, rows) = (
                chain.ranks[chain.entry(j)] * site.i,
                chain.ranks[chain.exit(j)] * site.o,
            );
            let (inner, tall) = match transposed {
                false => (columns, rows),
                true => (rows, columns),
            };
            Self {
                site: j,
                panels,
                inner,
                tall,
                width,
            }
        };
        let mut stages: Vec<Self> = chain.order().into_iter().map(stage).collect();
        if transposed {
            stages.reverse();
        }
        stages
    }

    /// Numbers of the larger of the two arrays.
    fn largest(&self) -> usize {
        let sizes = [self.panels, self.width, self.inner.max(self.tall)];
        sizes.into_iter().fold(1, usize::saturating_mul)
    }

    /// Axes of the core, those of rows first.
    fn core(&self, chain: &Chain, transposed: bool) -> Vec<Axis> {
        let j = self.site;
        let mut rows = [Axis::Row(j), Axis::Rank(chain.exit(j))];
        let mut columns = [Axis::Rank(chain.entry(j)), Axis::Col(j)];
        if chain.reversed {
            rows.reverse();
            columns.reverse();
        }
        // The core is the right factor where panels are rows.
        match transposed == (self.width == 1) {
            true => [rows, columns].concat(),
            false => [columns, rows].concat(),
        }
    }

    /// Fills `to` from `from`, for a batch whose rows of `from` follow each other.
    fn run(&self, core: &[f32], from: &[f32], to: &mut [f32], product: &Product<'_>) -> Result<()> {
        let Self {
            inner, tall, width, ..
        } = *self;
        let kernels = product.kernels;
        let macs = (to.len() as u64).saturating_mul(inner as u64);
        let workers = product.workers(macs);
        // Rows of the result.
        let row = if width == 1 { tall } else { width };
        let each = match workers {
            1 => to.len() / row,
            n => (to.len() / row).div_ceil(4 * n),
        };
        let pieces = Mutex::new(to.chunks_mut(each * row).enumerate());
        run_workers(workers, || {
            loop {
                let next = pieces.lock().unwrap_or_else(|e| e.into_inner()).next();
                let Some((i, mut to)) = next else {
                    return Ok(());
                };
                let mut at = i * each;
                if width == 1 {
                    let from = &from[at * inner..][..to.len() / row * inner];
                    kernels.dense_product(from, inner, core, tall, to);
                    continue;
                }
                while !to.is_empty() {
                    let (panel, first) = (at / tall, at % tall);
                    let rows = (tall - first).min(to.len() / row);
                    let (head, rest) = to.split_at_mut(rows * width);
                    let core = &core[first * inner..(first + rows) * inner];
                    let from = &from[panel * inner * width..][..inner * width];
                    kernels.dense_product(core, inner, from, width, head);
                    (at, to) = (at + rows, rest);
                }
            }
        })
    }
}

/// Bytes of the arrays before and after a site that stay in a second cache of 512 KiB, beside
/// a core.
const CACHED: usize = 256 << 10;

impl Tt {
    /// Bytes of the largest array between two cores, for one row of x.
    fn between(&self) -> usize {
        let stages = Stage::all(&self.chain, false);
        let largest = stages.iter().map(Stage::largest).max();
        largest.unwrap_or(1).saturating_mul(4)
    }

    /// Bytes of all cores, opened, and of what opening them takes.
    fn opened(&self) -> usize {
        let opening = self.cores.iter().map(|core| {
            let numbers = core.meta().len().saturating_mul(4);
            numbers.saturating_add(core.scratch_for(core.meta().rows))
        });
        let numbers = self.chain.params().saturating_mul(4);
        numbers.saturating_add(opening.max().unwrap_or(0))
    }

    /// Whether a product goes through the chain: else W is decoded by windows.
    pub(super) fn by_cores(&self, batch: usize, product: &Product<'_>) -> bool {
        let dense = self.meta.rows as u128 * self.meta.cols as u128;
        let (chain, batch) = (u128::from(self.chain.macs()), batch as u128);
        let held = self
            .opened()
            .saturating_add(self.between().saturating_mul(2));
        held <= product.scratch_bytes
            && batch * chain <= u128::from(self.decode_macs()).saturating_add(batch * dense)
    }

    /// Decodes the cores of all stages to `floats`, as the stages take them.
    fn open(
        &self,
        stages: &[Stage],
        transposed: bool,
        floats: &mut Vec<f32>,
    ) -> Result<Vec<Range<usize>>> {
        let axes = Axes { chain: &self.chain };
        let mut lease = Scratch::lease();
        let mut stored = std::mem::take(&mut lease.out);
        resize(floats, self.chain.params())?;
        let mut opened = Vec::with_capacity(stages.len());
        let mut end = 0;
        for stage in stages {
            let (j, core) = (stage.site, &self.cores[stage.site]);
            let range = end..end + core.meta().len();
            end = range.end;
            let (from, to) = (axes.stored(j), stage.core(&self.chain, transposed));
            if axes.same(&from, &to) {
                core.decode_f32(0..core.meta().rows, &mut floats[range.clone()], &mut lease)?;
            } else {
                resize(&mut stored, range.len())?;
                core.decode_f32(0..core.meta().rows, &mut stored, &mut lease)?;
                axes.permute(&stored, &from, &to, &mut floats[range.clone()]);
            }
            opened.push(range);
        }
        lease.out = stored;
        Ok(opened)
    }

    /// `y = x · Wᵀ` for rows of `width_in` and of `width_out` numbers, or `y = x · W`. The batch
    /// is cut so that what is between two cores stays in cache and under the scratch limit.
    pub(super) fn by_chain(
        &self,
        (x, width_in): (&[f32], usize),
        (y, width_out): (&mut [f32], usize),
        transposed: bool,
        product: &Product<'_>,
    ) -> Result<()> {
        let batch = x.len() / width_in;
        let stages = Stage::all(&self.chain, transposed);
        let mut store = Scratch::lease();
        let opened = self.open(&stages, transposed, &mut store.floats)?;
        let cores: Vec<&[f32]> = opened.into_iter().map(|r| &store.floats[r]).collect();

        let bytes = self.between();
        let left = product.scratch_bytes.saturating_sub(self.opened());
        let fits = (left / bytes.saturating_mul(2)).max(1);
        let workers = product.workers(self.chain.macs().saturating_mul(batch as u64));
        let workers = workers.min(fits);
        let piece = (CACHED / bytes).min(fits / workers).clamp(1, batch);
        let pieces = x
            .chunks(piece * width_in)
            .zip(y.chunks_mut(piece * width_out));
        // Pieces side by side where there are enough, else the stages of each.
        let (workers, threads) = match pieces.len() >= workers {
            true => (workers, 1),
            false => (1, workers),
        };
        let inner = Product {
            threads,
            ..*product
        };
        let pieces = Mutex::new(pieces);
        run_workers(workers, || {
            let mut lease = Scratch::lease();
            let Scratch { floats, out, .. } = &mut *lease;
            loop {
                let next = pieces.lock().unwrap_or_else(|e| e.into_inner()).next();
                let Some((x, y)) = next else {
                    return Ok(());
                };
                let (mut from, mut to) = (&mut *floats, &mut *out);
                let batch = x.len() / width_in;
                for (i, (stage, core)) in stages.iter().zip(&cores).enumerate() {
                    let x = if i == 0 { x } else { &from[..] };
                    if i + 1 == stages.len() {
                        stage.run(core, x, y, &inner)?;
                    } else {
                        resize(to, batch * stage.panels * stage.tall * stage.width)?;
                        stage.run(core, x, to, &inner)?;
                    }
                    (from, to) = (to, from);
                }
                scale(y, self.multiplier);
            }
        })
    }
}
