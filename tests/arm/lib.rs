//! The kernels of the library, by themselves.
#![allow(dead_code)]

#[path = "../../src/kernel/mod.rs"]
pub mod kernel;
