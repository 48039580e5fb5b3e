//! What the dense loops ask of an instruction set: vectors of f32, and their transposition.
//!
//! A loop is written once over [`Simd`] and compiled once for each set. What makes that
//! work: methods here are `#[inline(always)]`, and a loop enters through [`Simd::call`],
//! which stands in a function of its own with the set's target features.

/// A piece of work that [`Simd::call`] runs with the features of the set.
pub(crate) trait Task {
    /// # Safety
    /// The CPU has the features of the set that the task is for, and whatever the task's
    /// fields point to is valid for what the task does.
    unsafe fn run(self);
}

/// `sum = (sum + ((word >> shift & mask) << low)) ^ flip`
#[derive(Clone, Copy)]
pub(in crate::kernel) struct Fields {
    pub(in crate::kernel) shift: u32,
    pub(in crate::kernel) mask: u32,
    pub(in crate::kernel) low: u32,
    pub(in crate::kernel) flip: u32,
}

/// Vectors of an instruction set.
///
/// # Safety
/// All functions need a CPU with the set's features. Pointers are valid for a whole vector
/// of elements, or for the number given, and need no alignment.
pub(in crate::kernel) trait Simd: Copy {
    /// A vector of f32, or of pairs of bf16.
    type V: Copy;
    /// Values of f32 in a vector: 16 at most.
    const LANES: usize;
    /// Vectors of a panel at most: with six rows their sums leave registers for the panel's
    /// vectors and a word.
    const VECTORS: usize;
    /// Whether tiles ask for what they will read. Where the machine's own prefetcher keeps more
    /// lines in flight than a core can ask for, that only takes its place.
    const ASKS_AHEAD: bool = true;

    /// Runs a task in a function that is compiled for this set.
    unsafe fn call<T: Task>(task: T);

    unsafe fn zero() -> Self::V;
    /// `F` words over and over; `F` is a power of two, LANES at most.
    unsafe fn spread<const F: usize>(p: *const f32) -> Self::V;
    unsafe fn load(p: *const f32) -> Self::V;
    /// The first `n` < LANES values, then zeros.
    unsafe fn load_part(p: *const f32, n: usize) -> Self::V;
    unsafe fn store(p: *mut f32, v: Self::V);
    /// The first `n` < LANES values.
    unsafe fn store_part(p: *mut f32, v: Self::V, n: usize);
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    /// `a · b + c`, rounded once where the set can.
    unsafe fn mul_add(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// LANES values of bf16, widened.
    unsafe fn load_bf16(p: *const u16) -> Self::V;
    /// LANES values of f16, widened.
    unsafe fn load_f16(p: *const u16) -> Self::V;
    /// Byte `K`, signed, of LANES words.
    unsafe fn load_byte<const K: u32>(p: *const u32) -> Self::V;
    /// Adds fields of LANES words, little-endian, to as many others.
    #[inline(always)]
    unsafe fn add_fields(from: *const u32, fields: Fields, to: *mut u32) {
        for i in 0..Self::LANES {
            // SAFETY: as the caller grants.
            unsafe {
                let word = u32::from_le(from.add(i).read_unaligned());
                let some = ((word >> fields.shift) & fields.mask) << fields.low;
                let sum = to.add(i).read_unaligned() + some;
                to.add(i).write_unaligned(sum ^ fields.flip);
            }
        }
    }
    /// Stores a square: lane `j` of `v[i]` to `p[j · stride + i]`. `v` has LANES vectors.
    unsafe fn store_transposed(v: &[Self::V], p: *mut f32, stride: usize);
    /// Asks for the cache line at `p`, which may point anywhere, for the second cache.
    fn prefetch<T>(_p: *const T) {}
    /// The same for the first cache, if that is better for what is long in coming.
    #[inline(always)]
    fn prefetch_first<T>(p: *const T) {
        Self::prefetch(p);
    }
}

/// Any CPU: lanes that the compiler may put into vectors, or not.
#[derive(Clone, Copy)]
pub(in crate::kernel) struct Portable;

const PORTABLE_LANES: usize = 4;

/// The value of a bf16's bits.
#[inline(always)]
pub(in crate::kernel) fn bf16_value(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// The value of an f16's bits, without branches.
#[inline(always)]
pub(in crate::kernel) fn f16_value(bits: u16) -> f32 {
    let bits = u32::from(bits);
    let magnitude = bits & 0x7fff;
    // The fields where f32 has them, with an exponent that is 112 too small: multiplying
    // mends it, and normalises subnormals.
    let scaled = f32::from_bits(magnitude << 13) * f32::from_bits((254 - 15) << 23);
    let special = f32::from_bits(0x7f80_0000 | (magnitude << 13));
    let value = if magnitude >= 0x7c00 { special } else { scaled };
    f32::from_bits(value.to_bits() | (bits & 0x8000) << 16)
}

impl Simd for Portable {
    type V = [f32; PORTABLE_LANES];
    const LANES: usize = PORTABLE_LANES;
    const VECTORS: usize = 2;

    #[inline(never)]
    unsafe fn call<T: Task>(task: T) {
        // SAFETY: as the caller grants.
        unsafe { task.run() }
    }
    #[inline(always)]
    unsafe fn zero() -> Self::V {
        [0.0; PORTABLE_LANES]
    }
    #[inline(always)]
    unsafe fn spread<const F: usize>(p: *const f32) -> Self::V {
        let mut v = [0.0; PORTABLE_LANES];
        for (i, v) in v.iter_mut().enumerate() {
            // SAFETY: i % F < F, as the caller grants.
            *v = unsafe { p.add(i % F).read_unaligned() };
        }
        v
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self::V {
        // SAFETY: as the caller grants.
        unsafe { p.cast::<Self::V>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn load_part(p: *const f32, n: usize) -> Self::V {
        let mut v = [0.0; PORTABLE_LANES];
        for (i, v) in v.iter_mut().enumerate().take(n) {
            // SAFETY: i < n, as the caller grants.
            *v = unsafe { p.add(i).read_unaligned() };
        }
        v
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: Self::V) {
        // SAFETY: as the caller grants.
        unsafe { p.cast::<Self::V>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn store_part(p: *mut f32, v: Self::V, n: usize) {
        for (i, v) in v.iter().enumerate().take(n) {
            // SAFETY: i < n, as the caller grants.
            unsafe { p.add(i).write_unaligned(*v) }
        }
    }
    #[inline(always)]
    unsafe fn add(mut a: Self::V, b: Self::V) -> Self::V {
        for (a, b) in a.iter_mut().zip(b) {
            *a += b;
        }
        a
    }
    #[inline(always)]
    unsafe fn mul_add(a: Self::V, b: Self::V, mut c: Self::V) -> Self::V {
        // `f32::mul_add` would be a call where the target has no such instruction.
        for i in 0..PORTABLE_LANES {
            c[i] += a[i] * b[i];
        }
        c
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> Self::V {
        // SAFETY: as the caller grants.
        unsafe { p.cast::<[u16; PORTABLE_LANES]>().read_unaligned() }.map(bf16_value)
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> Self::V {
        // SAFETY: as the caller grants.
        unsafe { p.cast::<[u16; PORTABLE_LANES]>().read_unaligned() }.map(f16_value)
    }
    #[inline(always)]
    unsafe fn load_byte<const K: u32>(p: *const u32) -> Self::V {
        // SAFETY: as the caller grants.
        unsafe { p.cast::<[u32; PORTABLE_LANES]>().read_unaligned() }
            .map(|word| f32::from((word >> (8 * K)) as i8))
    }
    #[inline(always)]
    unsafe fn store_transposed(v: &[Self::V], p: *mut f32, stride: usize) {
        for j in 0..PORTABLE_LANES {
            let row = [v[0][j], v[1][j], v[2][j], v[3][j]];
            // SAFETY: as the caller grants.
            unsafe { Self::store(p.add(j * stride), row) }
        }
    }
}
