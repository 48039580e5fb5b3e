//! Sparse distributed representations: sets of a few active bits among many, whose shared
//! bits say how alike two things are.
//!
//! * [`Sdr`]: the set, with overlap, union and match.
//! * [`probability`]: how likely a match by chance is, how many sets a union holds, what
//!   threshold to choose.
//! * Encoders make sets of numbers ([`ScalarEncoder`], [`RandomScalarEncoder`]), names
//!   ([`CategoryEncoder`]), dates ([`DateEncoder`]) and vectors or rows of tensors
//!   ([`TensorEncoder`]), such that what is alike shares bits.
//! * [`Index`]: finds the stored sets that share most bits with one asked for, exactly.
//!
//! ```
//! use cortex::sdr::{Index, ScalarEncoder};
//!
//! let encoder = ScalarEncoder::new(0.0, 100.0, 400, 21)?;
//! let mut index = Index::new(encoder.bits())?;
//! for celsius in [3, 20, 22, 90] {
//!     index.add(celsius, &encoder.encode(celsius as f64)?)?;
//! }
//! let near = index.top_k(&encoder.encode(21.0)?, 2)?;
//! assert_eq!([near[0].id, near[1].id], [20, 22]);
//! # Ok::<(), cortex::Error>(())
//! ```
//!
//! The compressed tensor form of the same name is a matter of `form`: it stores *weights*
//! as active positions. The two meet in [`TensorEncoder`], which reads compressed tensors.
//!
//! Sources: S. Ahmad and J. Hawkins, "Properties of Sparse Distributed Representations and
//! their Application to Hierarchical Temporal Memory" (2015); S. Purdy, "Encoding Data for
//! HTM Systems" (2016); S. Dasgupta, C. Stevens and S. Navlakha, "A neural algorithm for a
//! fundamental computing problem" (2017).

mod category;
mod date;
mod hash;
mod index;
pub mod probability;
mod scalar;
mod set;
mod tensor;

pub use category::CategoryEncoder;
pub use date::{Date, DateEncoder};
pub use index::{Index, MAX_INDEX_BITS, Match, Search};
pub use scalar::{RandomScalarEncoder, ScalarEncoder};
pub use set::Sdr;
pub use tensor::TensorEncoder;
