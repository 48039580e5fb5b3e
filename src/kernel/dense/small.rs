//! Products `A · B` of small matrices, row-major as they lie.
//!
//! A row of B has a word for each of its columns, so that B is a panel as it lies, with columns
//! for lanes, and sums are outputs as they lie: nothing is turned round. Pieces of a few columns
//! of B are copied to the stack, where all rows of A meet them; read in place, rows of a power
//! of two in length would push each other out of the first cache. An output is one sum, word by
//! word, so that it does not matter how rows of A or columns of B are cut.

use std::marker::PhantomData;

use super::elements::{Float, Terms};
use super::matmul::{Floats, SMALL_PANEL};
use super::simd::Simd;
use super::tile::{Ahead, Shape, Strip, Sums, run, tile_rows};
use super::transposed::{Copy, panels};

/// `out[m][n] = Σ a[m][k] · b[k][n]`.
///
/// # Safety
/// The CPU has the features of `S`; `a` is valid for `rows × inner` values, `b` for
/// `inner × cols`, `out` for `rows × cols`. `inner` is not 0.
#[inline(always)]
pub(super) unsafe fn product<S: Simd, T: Terms<S, W = Float, X = Float>>(
    a: *const f32,
    rows: usize,
    inner: usize,
    b: *const f32,
    cols: usize,
    out: *mut f32,
) {
    let mut panel = Floats::<SMALL_PANEL>::new();
    let panel = panel.pointer();
    for (first, vectors) in panels::<S>(cols) {
        let at = first * S::LANES;
        let width = vectors * S::LANES;
        let lanes = width.min(cols - at);
        let block = SMALL_PANEL / width;
        let shape = Shape {
            vectors,
            fold: 1,
            turns: 1,
        };
        for k in (0..inner).step_by(block) {
            let words = block.min(inner - k);
            // SAFETY: rows of B below `inner`, columns below `cols`; the panel has room for a
            // block.
            unsafe {
                S::call(Copy::<S> {
                    from: b.add(k * cols + at),
                    stride: cols,
                    rows: words,
                    cols: lanes,
                    to: panel,
                    which: 0..words,
                    set: PhantomData,
                });
            }
            let mut r = 0;
            while r < rows {
                let m = tile_rows::<S, Float>(rows - r, 1);
                // SAFETY: rows of A below `rows`, their words below `inner`, and outputs of
                // those rows.
                unsafe {
                    let strip = Strip::<S, Float> {
                        rows: a.add(r * inner + k),
                        stride: inner,
                        numbers: words,
                        ahead: Ahead::NOTHING,
                        panel,
                        panel_stride: width,
                        sums: out.add(r * cols + at),
                        sums_stride: cols,
                        lanes,
                        mode: if k == 0 { Sums::Begin } else { Sums::GoOn },
                    };
                    run::<S, T, Float>(m, shape, strip);
                }
                r += m;
            }
        }
    }
}
