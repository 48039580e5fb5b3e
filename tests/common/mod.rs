//! Seeded data and naive references shared by the tests.
#![allow(dead_code)]

pub mod cai;
pub mod frozen;
pub mod heap;
mod numbers;
pub mod specs;

pub use numbers::*;

/// Products that add nothing but rounding in f32.
pub fn exact() -> cortex::MatmulOptions {
    cortex::MatmulOptions {
        precision: cortex::Precision::Exact,
        ..cortex::MatmulOptions::default()
    }
}
