//! Arrays between two cores, and the moving of their axes.

use super::chain::Chain;

/// An index of an array that is on its way through the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Axis {
    Batch,
    Row(usize),
    Col(usize),
    /// The bond before this site.
    Rank(usize),
}

pub(super) struct Axes<'a> {
    pub(super) chain: &'a Chain,
    pub(super) batch: usize,
}

impl Axes<'_> {
    fn size(&self, axis: Axis) -> usize {
        match axis {
            Axis::Batch => self.batch,
            Axis::Row(j) => self.chain.sites[j].o,
            Axis::Col(j) => self.chain.sites[j].i,
            Axis::Rank(j) => self.chain.ranks[j],
        }
    }

    pub(super) fn len(&self, axes: &[Axis]) -> usize {
        let sizes = axes.iter().map(|a| self.size(*a));
        sizes.fold(1, |n: usize, size| n.saturating_mul(size))
    }

    /// Copies `src`, row-major in the axes `from`, to `dst`, row-major in `to`.
    pub(super) fn permute(&self, src: &[f32], from: &[Axis], to: &[Axis], dst: &mut [f32]) {
        // Size and stride in the source of each axis of the result; those that lie
        // together in both are one.
        let mut dims: Vec<(usize, usize)> = Vec::new();
        for axis in to {
            let size = self.size(*axis);
            if size == 1 {
                continue;
            }
            let after = from
                .iter()
                .position(|a| a == axis)
                .map_or(&[][..], |p| &from[p + 1..]);
            let stride = self.len(after);
            match dims.last_mut() {
                Some((n, s)) if *s == size * stride => (*n, *s) = (*n * size, stride),
                _ => dims.push((size, stride)),
            }
        }
        copy_strided(src, &dims, dst);
    }

    /// What enters the site: everything that it does not touch, and its columns.
    pub(super) fn before(&self, j: usize) -> Vec<Axis> {
        let mut axes = self.untouched(j);
        axes.extend([Axis::Rank(self.entry(j)), Axis::Col(j)]);
        axes
    }

    /// What leaves it.
    pub(super) fn after(&self, j: usize) -> Vec<Axis> {
        let mut axes = self.untouched(j);
        axes.extend([Axis::Row(j), Axis::Rank(self.exit(j))]);
        axes
    }

    fn untouched(&self, j: usize) -> Vec<Axis> {
        let n = self.chain.len();
        let (done, left) = match self.chain.reversed {
            false => (0..j, j + 1..n),
            true => (j + 1..n, 0..j),
        };
        let mut axes = vec![Axis::Batch];
        axes.extend(done.map(Axis::Row));
        axes.extend(left.map(Axis::Col));
        axes
    }

    /// The bond over which the product comes to a site, and the one over which it leaves.
    fn entry(&self, j: usize) -> usize {
        j + usize::from(self.chain.reversed)
    }

    fn exit(&self, j: usize) -> usize {
        j + usize::from(!self.chain.reversed)
    }

    pub(super) fn inputs(&self) -> Vec<Axis> {
        let cols = (0..self.chain.len()).map(Axis::Col);
        std::iter::once(Axis::Batch).chain(cols).collect()
    }

    pub(super) fn outputs(&self) -> Vec<Axis> {
        let rows = (0..self.chain.len()).map(Axis::Row);
        std::iter::once(Axis::Batch).chain(rows).collect()
    }

    /// Numbers of the largest array on the way.
    pub(super) fn largest(&self) -> usize {
        let sites = 0..self.chain.len();
        let sizes = sites.flat_map(|j| [self.len(&self.before(j)), self.len(&self.after(j))]);
        sizes.max().unwrap_or(1)
    }
}

/// Fills `dst` in order from `src` at the strides given with each size.
fn copy_strided(src: &[f32], dims: &[(usize, usize)], dst: &mut [f32]) {
    match *dims {
        [] => {
            if let (Some(d), Some(s)) = (dst.first_mut(), src.first()) {
                *d = *s;
            }
        }
        [(n, 1)] => dst.copy_from_slice(&src[..n]),
        [(_, stride)] => {
            for (d, s) in dst.iter_mut().zip(src.iter().step_by(stride)) {
                *d = *s;
            }
        }
        // Columns to rows: in squares, so that lines of either side are used up.
        [(rows, 1), (cols, stride)] => {
            const SQUARE: usize = 16;
            for r0 in (0..rows).step_by(SQUARE) {
                let r1 = (r0 + SQUARE).min(rows);
                for c0 in (0..cols).step_by(SQUARE) {
                    let c1 = (c0 + SQUARE).min(cols);
                    for r in r0..r1 {
                        let out = &mut dst[r * cols + c0..r * cols + c1];
                        for (k, d) in out.iter_mut().enumerate() {
                            *d = src[r + (c0 + k) * stride];
                        }
                    }
                }
            }
        }
        [(n, stride), ..] => {
            let each = dst.len() / n;
            for (i, d) in dst.chunks_exact_mut(each).enumerate() {
                copy_strided(&src[i * stride..], &dims[1..], d);
            }
        }
    }
}
