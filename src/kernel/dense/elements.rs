//! What weights and activations are stored as, and how a lane multiplies them.

use std::marker::PhantomData;

use super::simd::Simd;

/// Stored numbers that a lane takes one or two of.
///
/// # Safety
/// As for [`Simd`]: the CPU has its features, and pointers are valid for what is read.
pub(in crate::kernel) trait Elements<S: Simd>: Copy {
    /// One stored number.
    type E: Copy;
    /// Numbers that go into one lane.
    const DEPTH: usize;
    /// Whether a word of 32 bits is as it is stored.
    const AS_STORED: bool;
    /// Whether products often have but a few rows of them: activations, small factors.
    const OFTEN_FEW: bool = false;

    /// A vector of LANES · DEPTH numbers.
    unsafe fn load(p: *const Self::E) -> S::V;
    /// The same of `n` numbers, fewer than that, followed by zeros.
    unsafe fn load_part(p: *const Self::E, n: usize) -> S::V;
}

/// Copies `n` numbers of 16 bits in front of zeros.
///
/// # Safety
/// `p` is valid for `n` ≤ 32 reads.
#[inline(always)]
pub(super) unsafe fn part(p: *const u16, n: usize) -> [u16; 32] {
    let mut v = [0; 32];
    for (i, v) in v.iter_mut().enumerate().take(n) {
        // SAFETY: i < n.
        *v = unsafe { p.add(i).read() };
    }
    v
}

/// f32.
#[derive(Clone, Copy)]
pub(in crate::kernel) struct Float;

impl<S: Simd> Elements<S> for Float {
    type E = f32;
    const DEPTH: usize = 1;
    const AS_STORED: bool = true;
    const OFTEN_FEW: bool = true;

    #[inline(always)]
    unsafe fn load(p: *const f32) -> S::V {
        // SAFETY: as the caller grants.
        unsafe { S::load(p) }
    }
    #[inline(always)]
    unsafe fn load_part(p: *const f32, n: usize) -> S::V {
        // SAFETY: as the caller grants.
        unsafe { S::load_part(p, n) }
    }
}

/// bf16, widened to f32.
#[derive(Clone, Copy)]
pub(in crate::kernel) struct Bf16;

impl<S: Simd> Elements<S> for Bf16 {
    type E = u16;
    const DEPTH: usize = 1;
    const AS_STORED: bool = false;

    #[inline(always)]
    unsafe fn load(p: *const u16) -> S::V {
        // SAFETY: as the caller grants.
        unsafe { S::load_bf16(p) }
    }
    #[inline(always)]
    unsafe fn load_part(p: *const u16, n: usize) -> S::V {
        // SAFETY: as the caller grants; a vector's numbers are fewer than the copy's.
        unsafe { S::load_bf16(part(p, n).as_ptr()) }
    }
}

/// f16, widened to f32.
#[derive(Clone, Copy)]
pub(in crate::kernel) struct F16;

impl<S: Simd> Elements<S> for F16 {
    type E = u16;
    const DEPTH: usize = 1;
    const AS_STORED: bool = false;

    #[inline(always)]
    unsafe fn load(p: *const u16) -> S::V {
        // SAFETY: as the caller grants.
        unsafe { S::load_f16(p) }
    }
    #[inline(always)]
    unsafe fn load_part(p: *const u16, n: usize) -> S::V {
        // SAFETY: as the caller grants; a vector's numbers are fewer than the copy's.
        unsafe { S::load_f16(part(p, n).as_ptr()) }
    }
}

/// f32, rounded to bf16 and widened again: what pairs of bf16 stand for, on sets that have
/// no products of bf16.
#[derive(Clone, Copy)]
pub(in crate::kernel) struct Rounded;

impl Rounded {
    #[inline(always)]
    unsafe fn round<S: Simd>(v: S::V) -> S::V {
        let mut values = [0.0f32; 16];
        // SAFETY: a vector has 16 values at most.
        unsafe {
            S::store(values.as_mut_ptr(), v);
            for v in &mut values {
                *v = half::bf16::from_f32(*v).to_f32();
            }
            S::load(values.as_ptr())
        }
    }
}

impl<S: Simd> Elements<S> for Rounded {
    type E = f32;
    const DEPTH: usize = 1;
    const AS_STORED: bool = false;

    #[inline(always)]
    unsafe fn load(p: *const f32) -> S::V {
        // SAFETY: as the caller grants.
        unsafe { Self::round::<S>(S::load(p)) }
    }
    #[inline(always)]
    unsafe fn load_part(p: *const f32, n: usize) -> S::V {
        // SAFETY: as the caller grants.
        unsafe { Self::round::<S>(S::load_part(p, n)) }
    }
}

/// What is multiplied with what.
///
/// # Safety
/// As for [`Simd`].
pub(in crate::kernel) trait Terms<S: Simd>: Copy {
    /// Weights.
    type W: Elements<S>;
    /// Activations.
    type X: Elements<S>;

    /// `c + w · x` in every lane, or `c` and the sum of two products. Either of `a` and `b`
    /// may be the weights.
    unsafe fn mul_add(a: S::V, b: S::V, c: S::V) -> S::V;
}

/// Weights widened to f32, with activations in f32.
#[derive(Clone, Copy)]
pub(in crate::kernel) struct Widened<W>(PhantomData<W>);

impl<S: Simd, W: Elements<S>> Terms<S> for Widened<W> {
    type W = W;
    type X = Float;

    #[inline(always)]
    unsafe fn mul_add(a: S::V, b: S::V, c: S::V) -> S::V {
        // SAFETY: as the caller grants.
        unsafe { S::mul_add(a, b, c) }
    }
}
