//! The Node.js binding of Cortex.
//!
//! It converts values, keeps handles alive and turns errors into `CortexError`; everything
//! else is the library's. One noun, one file: `tensor`, `archive`, `writer`,
//! `sdr_index`, `error`, and the free functions in `model`, `spec`, `version`.
//! What they share: `value` reads arguments, `array` typed arrays, `product` the
//! inputs of products, `task` runs work off the event loop, `call` tells it to stop.
//!
//! Two rules keep JavaScript's memory safe. Getters and proxies run code, so every property
//! is read before the first address of a typed array is asked for. And no other thread ever
//! sees that memory while JavaScript runs: what a promise works on is copied first, and its
//! result is written when it is settled.

#![deny(unsafe_code)]

#[allow(unsafe_code)] // the memory of typed arrays
mod array;

mod archive;
mod call;
mod error;
mod model;
mod product;
mod sdr_index;
mod spec;
mod task;
mod tensor;
#[allow(unsafe_code)] // properties by name without a copy of the name
mod value;
mod version;
mod writer;
