//! What the machine gives at most: multiply-adds in registers and bytes read in a row.
//!
//! Nothing here takes part in a product. The benches run these loops beside it, so that a
//! rate can be told as a share of the machine's limit in the same minute.

use std::hint::black_box;

use super::{Isa, KernelSet};

/// A kind of multiply-add.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// f32 by f32, added in f32.
    F32,
    /// Pairs of bf16, added in f32.
    Bf16,
    /// Fours of unsigned by signed bytes, added in i32.
    Int8,
}

/// Runs `rounds` rounds of independent multiply-adds in registers and returns how many
/// operations that were, two for each multiply-add of numbers. `None` where the set has no
/// instructions for this unit.
pub fn compute(set: &KernelSet, unit: Unit, rounds: u32) -> Option<u64> {
    let (isa, run) = loops(unit)
        .iter()
        .rev()
        .find(|(isa, _)| builds_on(set.isa(), *isa))?;
    debug_assert!(isa.detected());
    // SAFETY: the function needs the CPU features of `isa` alone; `set` has them, because
    // its own set of features includes them, and exists only where they were detected.
    Some(unsafe { run(rounds) } * u64::from(rounds))
}

/// Reads all bytes once, in four streams, by the widest loads of the set; the value has no meaning
/// but that it depends on each of them.
pub fn read(set: &KernelSet, words: &[u64]) -> u64 {
    let run = match set.isa() {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => x86::read_avx2,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 | Isa::Avx512Vnni | Isa::Avx512Bf16 => x86::read_avx512,
        _ => read_portable as unsafe fn(&[u64]) -> u64,
    };
    // SAFETY: the function needs nothing but CPU features that the set has, as above.
    unsafe { run(words) }
}

/// Whether a set for `isa` has what `other` needs.
fn builds_on(isa: Isa, other: Isa) -> bool {
    match (isa, other) {
        (Isa::Neon, _) | (_, Isa::Neon) => isa == other,
        _ => isa >= other,
    }
}

/// Runs so many rounds and returns the operations of one.
type Loop = unsafe fn(u32) -> u64;

/// The loops of a unit, the best last.
fn loops(unit: Unit) -> &'static [(Isa, Loop)] {
    #[cfg(target_arch = "x86_64")]
    return match unit {
        Unit::F32 => &[(Isa::Avx2, x86::f32_avx2), (Isa::Avx512, x86::f32_avx512)],
        Unit::Bf16 => &[(Isa::Avx512Bf16, x86::bf16_avx512)],
        Unit::Int8 => &[
            (Isa::Avx2, x86::int8_avx2),
            (Isa::Avx512Vnni, x86::int8_avx512),
        ],
    };
    #[cfg(target_arch = "aarch64")]
    return match unit {
        Unit::F32 => &[(Isa::Neon, neon::f32)],
        // The instructions have no stable intrinsics.
        Unit::Bf16 | Unit::Int8 => &[],
    };
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        let _ = unit;
        &[]
    }
}

/// Words that are read in four streams, a quarter of them in each: memory gives four more than
/// one, by up to a half, if each goes on for a while.
const WINDOW: usize = (1 << 20) / 8;

/// The streams of a window, in cache lines, and the words that are left.
#[inline(always)]
fn streams(window: &[u64]) -> ([&[[u64; 8]]; 4], &[u64]) {
    let lines = window.as_chunks::<8>().0;
    let n = lines.len() / 4;
    let streams = std::array::from_fn(|s| &lines[s * n..(s + 1) * n]);
    (streams, &window[4 * n * 8..])
}

#[inline(always)]
fn add_all(words: &[u64]) -> u64 {
    let mut sums = [[0u64; 8]; 4];
    let mut rest = 0u64;
    for window in words.chunks(WINDOW) {
        let ([a, b, c, d], left) = streams(window);
        for (((a, b), c), d) in a.iter().zip(b).zip(c).zip(d) {
            for (sums, line) in sums.iter_mut().zip([a, b, c, d]) {
                for (sum, word) in sums.iter_mut().zip(line) {
                    *sum = sum.wrapping_add(*word);
                }
            }
        }
        rest = left.iter().fold(rest, |a, b| a.wrapping_add(*b));
    }
    sums.iter().flatten().fold(rest, |a, b| a.wrapping_add(*b))
}

fn read_portable(words: &[u64]) -> u64 {
    add_all(words)
}

/// Keeps the accumulators from being left out.
fn used<T>(accumulators: T) {
    let _ = black_box(accumulators);
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{WINDOW, add_all, black_box, streams, used};

    #[target_feature(enable = "avx2")]
    pub(super) fn read_avx2(words: &[u64]) -> u64 {
        // As it stands it becomes what would be written by hand.
        add_all(words)
    }

    // By hand: a compiler makes gathers of the plain loop.
    #[target_feature(enable = "avx512f")]
    pub(super) fn read_avx512(words: &[u64]) -> u64 {
        let mut sums = [_mm512_setzero_si512(); 4];
        let mut rest = 0u64;
        for window in words.chunks(WINDOW) {
            let ([a, b, c, d], left) = streams(window);
            for (((a, b), c), d) in a.iter().zip(b).zip(c).zip(d) {
                for (sum, line) in sums.iter_mut().zip([a, b, c, d]) {
                    // SAFETY: `line` is 64 bytes that may be read; no alignment is needed.
                    let line = unsafe { _mm512_loadu_si512(line.as_ptr().cast()) };
                    *sum = _mm512_add_epi64(*sum, line);
                }
            }
            rest = left.iter().fold(rest, |a, b| a.wrapping_add(*b));
        }
        let sums = sums.into_iter().map(|s| _mm512_reduce_add_epi64(s) as u64);
        sums.fold(rest, u64::wrapping_add)
    }

    /// A probe whose loop has `$n` accumulators of `$zero` and steps `$step(sum, a, b)`, an
    /// operation on `$lanes` lanes of `$per_lane` multiply-adds.
    macro_rules! probe {
        ($name:ident, $features:literal, $n:literal * $lanes:literal * $per_lane:literal,
         $zero:expr, $a:expr, $b:expr, $step:expr) => {
            #[target_feature(enable = $features)]
            pub(super) fn $name(rounds: u32) -> u64 {
                let (a, b) = (black_box($a), black_box($b));
                let mut sums = [$zero; $n];
                for _ in 0..rounds {
                    for sum in &mut sums {
                        *sum = $step(*sum, a, b);
                    }
                }
                used(sums);
                2 * $n * $lanes * $per_lane
            }
        };
    }

    // Enough accumulators for two units of a latency of five, and for the registers there are.
    probe!(
        f32_avx2,
        "avx2,fma",
        12 * 8 * 1,
        _mm256_setzero_ps(),
        _mm256_set1_ps(1.5),
        _mm256_set1_ps(0.5),
        |s, a, b| _mm256_fmadd_ps(a, b, s)
    );
    probe!(
        int8_avx2,
        "avx2,fma",
        12 * 8 * 4,
        _mm256_setzero_si256(),
        _mm256_set1_epi8(3),
        _mm256_set1_epi8(5),
        |s, a, b| {
            // The operand depends on the sum, or the products would be formed once.
            let pairs = _mm256_maddubs_epi16(_mm256_xor_si256(a, s), b);
            _mm256_add_epi32(s, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
        }
    );
    probe!(
        f32_avx512,
        "avx512f",
        16 * 16 * 1,
        _mm512_setzero_ps(),
        _mm512_set1_ps(1.5),
        _mm512_set1_ps(0.5),
        |s, a, b| _mm512_fmadd_ps(a, b, s)
    );
    probe!(
        int8_avx512,
        "avx512f,avx512bw,avx512vnni",
        16 * 16 * 4,
        _mm512_setzero_si512(),
        _mm512_set1_epi8(3),
        _mm512_set1_epi8(5),
        |s, a, b| _mm512_dpbusd_epi32(s, a, b)
    );
    probe!(
        bf16_avx512,
        "avx512f,avx512bw,avx512bf16",
        16 * 16 * 2,
        _mm512_setzero_ps(),
        _mm512_cvtne2ps_pbh(_mm512_set1_ps(1.5), _mm512_set1_ps(1.5)),
        _mm512_cvtne2ps_pbh(_mm512_set1_ps(0.5), _mm512_set1_ps(0.5)),
        |s, a, b| _mm512_dpbf16_ps(s, a, b)
    );
}

#[cfg(target_arch = "aarch64")]
mod neon {
    use std::arch::aarch64::*;

    use super::{black_box, used};

    #[target_feature(enable = "neon")]
    pub(super) fn f32(rounds: u32) -> u64 {
        let (a, b) = (black_box(vdupq_n_f32(1.5)), black_box(vdupq_n_f32(0.5)));
        let mut sums = [vdupq_n_f32(0.0); 16];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = vfmaq_f32(*sum, a, b);
            }
        }
        used(sums);
        2 * 16 * 4
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel;

    #[test]
    fn every_set_probes_what_it_has() {
        let words: Vec<u64> = (0..1003u64)
            .map(|i| i.wrapping_mul(0x9E37_79B9_7F4A_7C15))
            .collect();
        let expected = words.iter().fold(0u64, |a, b| a.wrapping_add(*b));
        for set in kernel::available() {
            assert_eq!(read(set, &words), expected, "{}", set.isa().name());
            for unit in [Unit::F32, Unit::Bf16, Unit::Int8] {
                let one = compute(set, unit, 1);
                assert_eq!(compute(set, unit, 10), one.map(|n| 10 * n));
                let has = match (set.isa(), unit) {
                    (Isa::Portable, _) => false,
                    (Isa::Neon | Isa::NeonI8mm, unit) => unit == Unit::F32,
                    (isa, Unit::Bf16) => isa == Isa::Avx512Bf16,
                    _ => true,
                };
                assert_eq!(one.is_some(), has, "{} {unit:?}", set.isa().name());
            }
        }
    }
}
