//! Products of bf16 with bf16, two to a lane.

use super::elements::{Elements, Terms, part};
use super::simd::Simd;
use super::{Columns, matmul, pack_as, packed_as};

/// A set that multiplies pairs of bf16.
///
/// # Safety
/// As for [`Simd`].
pub(in crate::kernel) trait Bf16Pairs: Simd {
    /// `c[i] + a[2i] · b[2i] + a[2i+1] · b[2i+1]` for vectors of pairs.
    unsafe fn dot_pairs(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The values of `low`, then those of `high`, rounded to nearest.
    unsafe fn round_pairs(low: Self::V, high: Self::V) -> Self::V;
}

/// bf16, two to a lane.
#[derive(Clone, Copy)]
pub(in crate::kernel) struct Pairs;

impl<S: Bf16Pairs> Elements<S> for Pairs {
    type E = u16;
    const DEPTH: usize = 2;
    const AS_STORED: bool = true;

    #[inline(always)]
    unsafe fn load(p: *const u16) -> S::V {
        // SAFETY: as the caller grants; the load needs no alignment.
        unsafe { S::load(p.cast()) }
    }
    #[inline(always)]
    unsafe fn load_part(p: *const u16, n: usize) -> S::V {
        // SAFETY: as the caller grants; a vector's numbers are as many as the copy's.
        unsafe { S::load(part(p, n).as_ptr().cast()) }
    }
}

/// f32, rounded to bf16 two by two: how activations become [`Pairs`].
#[derive(Clone, Copy)]
pub(in crate::kernel) struct RoundedPairs;

impl<S: Bf16Pairs> Elements<S> for RoundedPairs {
    type E = f32;
    const DEPTH: usize = 2;
    const AS_STORED: bool = false;

    #[inline(always)]
    unsafe fn load(p: *const f32) -> S::V {
        // SAFETY: as the caller grants.
        unsafe { S::round_pairs(S::load(p), S::load(p.add(S::LANES))) }
    }
    #[inline(always)]
    unsafe fn load_part(p: *const f32, n: usize) -> S::V {
        // SAFETY: as the caller grants.
        unsafe {
            match n.checked_sub(S::LANES) {
                Some(more) => S::round_pairs(S::load(p), S::load_part(p.add(S::LANES), more)),
                None => S::round_pairs(S::load_part(p, n), S::zero()),
            }
        }
    }
}

/// Weights and activations in bf16.
#[derive(Clone, Copy)]
pub(in crate::kernel) struct Paired;

impl<S: Bf16Pairs> Terms<S> for Paired {
    type W = Pairs;
    type X = Pairs;

    #[inline(always)]
    unsafe fn mul_add(a: S::V, b: S::V, c: S::V) -> S::V {
        // SAFETY: as the caller grants.
        unsafe { S::dot_pairs(a, b, c) }
    }
}

pub(in crate::kernel) fn are_there() -> bool {
    true
}

pub(in crate::kernel) fn packed_len<S: Bf16Pairs>(batch: usize, cols: usize) -> usize {
    matmul::packed_len::<S>(batch, cols.div_ceil(2))
}

/// Packs `x[batch, cols]`, rounded to bf16.
///
/// # Safety
/// The CPU has the features of `S`.
pub(in crate::kernel) unsafe fn pack<S: Bf16Pairs>(x: &[f32], cols: usize, packed: &mut [f32]) {
    // SAFETY: as the caller grants.
    unsafe { pack_as::<S, RoundedPairs>(x, cols, packed) }
}

/// `out[b][r] = Σ x[b][k] · w[r][k]`.
///
/// # Safety
/// The CPU has the features of `S`.
pub(in crate::kernel) unsafe fn matmul_packed<S: Bf16Pairs>(
    w: &[u16],
    packed: &[f32],
    cols: usize,
    out: &mut Columns<'_>,
) {
    // SAFETY: as the caller grants.
    unsafe { packed_as::<S, Paired>(w, packed, cols, out) }
}
