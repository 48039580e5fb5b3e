//! The moving of axes: of digits in a matrix, and of a core's.

use super::super::kernels;
use super::chain::Chain;

/// An index of an array of digits and ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Axis {
    Row(usize),
    Col(usize),
    /// The bond before this site.
    Rank(usize),
}

pub(super) struct Axes<'a> {
    pub(super) chain: &'a Chain,
}

impl Axes<'_> {
    fn size(&self, axis: Axis) -> usize {
        match axis {
            Axis::Row(j) => self.chain.sites[j].o,
            Axis::Col(j) => self.chain.sites[j].i,
            Axis::Rank(j) => self.chain.ranks[j],
        }
    }

    fn len(&self, axes: &[Axis]) -> usize {
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

    /// Axes of a core as its part holds it.
    pub(super) fn stored(&self, j: usize) -> [Axis; 4] {
        let (exit, entry) = (self.chain.exit(j), self.chain.entry(j));
        [
            Axis::Row(j),
            Axis::Rank(exit),
            Axis::Rank(entry),
            Axis::Col(j),
        ]
    }

    /// Whether arrays in these axes hold their numbers in the same order.
    pub(super) fn same(&self, from: &[Axis], to: &[Axis]) -> bool {
        let long = |axes: &[Axis]| {
            let axes = axes.iter().filter(|a| self.size(**a) > 1);
            axes.copied().collect::<Vec<_>>()
        };
        long(from) == long(to)
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
        // Columns to rows, some at a time.
        [(rows, 1), (cols, stride)] => {
            let mut places = [0; 64];
            for first in (0..cols).step_by(places.len()) {
                let some = (cols - first).min(places.len());
                let places = &mut places[..some];
                for (k, place) in places.iter_mut().enumerate() {
                    *place = (first + k) * stride;
                }
                kernels().conv_patches(src, places, rows, &mut dst[first..], cols);
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
