//! Instructions of NEON whose intrinsics are not stable in Rust, or not in the oldest Rust
//! that this crate builds with: one line of assembly each.

use std::arch::aarch64::*;
use std::arch::asm;

/// The values of four f16 numbers.
#[inline(always)]
pub(super) fn widen_f16(bits: uint16x4_t) -> float32x4_t {
    let values: float32x4_t;
    // SAFETY: registers only; NEON has the conversion since Armv8.0.
    unsafe {
        asm!("fcvtl {:v}.4s, {:v}.4h", lateout(vreg) values, in(vreg) bits,
            options(pure, nomem, nostack, preserves_flags));
    }
    values
}
