//! Cortex keeps neural-network tensors compressed and computes on them without
//! unpacking them.
//!
//! ```text
//!  model file ──import──▶ dense view ──encode(spec)──▶ form ──pack──▶ .cai archive
//!                                                       ▲               │ mmap
//!                                                       └───────────────┘
//!                              x ──▶ matmul on the form ──▶ y
//! ```
//!
//! * [`Tensor`] is a compressed tensor: a *form* (a representation that can be
//!   computed with) whose buffers may be *packed* (lossless byte coding at rest).
//! * A [`Spec`] is the one string that says how a tensor is stored: `int8`,
//!   `int4(group=64, search=lsq)`, `mask(keep=10%) | zstd`, `auto(error=1%)`.
//! * [`archive`] writes and reads `.cai` files; [`model::compress_file`] does the
//!   whole way from a model file to an archive.
//!
//! ```
//! use cortex::{DType, Dense, Tensor};
//!
//! let weights: Vec<f32> = (0..64 * 128).map(|i| ((i * 37 % 101) as f32 - 50.0) / 500.0).collect();
//! let dense = Dense::from_slice(&weights, &[64, 128])?;
//! let tensor = Tensor::compress(&dense.view(), "int8")?;
//! assert_eq!(tensor.dtype(), DType::F32);
//! assert!(tensor.error().relative < 0.01);
//!
//! let x = vec![1.0f32; 128]; // x[1, 128]
//! let mut y = vec![0.0f32; 64]; // y[1, 64] = x · Wᵀ
//! tensor.matmul(&x, 1, &mut y, &Default::default())?;
//! # Ok::<(), cortex::Error>(())
//! ```
//!
//! Layers, each importing only from those before it: [`error`], [`limits`],
//! [`dtype`], [`bytes`], [`mmap`] · [`kernel`] · [`tensor`] · [`pack`] · [`form`] ·
//! [`matmul`], [`conv`] · [`archive`] · [`import`], [`export`] · [`plan`] · [`model`] · [`sdr`] ·
//! `ffi`.
//! `docs/architecture.md` tells the whole story; `tests/layers.rs` holds it.

#![deny(unsafe_code)]
#![warn(missing_docs, unreachable_pub)]

pub mod atomic;
pub mod bytes;
pub mod dtype;
pub mod error;
pub mod limits;
#[allow(unsafe_code)] // the one file mapping
pub mod mmap;

#[allow(unsafe_code)] // vector instructions and disjoint output panels
pub mod kernel;

pub mod tensor;

pub mod calibration;

mod linalg;

pub mod spec;

pub mod pack;

pub mod form;

pub mod matmul;

pub mod conv;

pub mod archive;

pub mod import;

pub mod export;

pub mod plan;

pub mod model;

pub mod sdr;

#[allow(unsafe_code)] // the pointers of C
mod ffi;

/// Version of the C ABI: the number in the SONAME of `libcortex.so`.
pub const ABI_VERSION: u32 = ffi::version::CORTEX_ABI_VERSION;

pub use conv::{ConvMethod, ConvOptions};
pub use dtype::DType;
pub use error::{Error, ErrorKind, Result};
pub use form::{ErrorStats, Tensor};
pub use matmul::{Computed, MatmulOptions, Precision};
pub use spec::Spec;
pub use tensor::{Dense, View};
