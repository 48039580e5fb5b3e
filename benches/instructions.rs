//! Fixed small products and decodes, whose instructions `cargo xtask instructions` counts under
//! callgrind; prints the name of each, in order.
//!
//! By itself, `cargo bench --bench instructions` runs each once and measures nothing.

mod common;

use std::hint::black_box;

use common::gaussian;
use cortex::matmul::Precision;
use cortex::{Dense, MatmulOptions, Tensor};

/// Rows: a few tiles. Columns: whole blocks and groups of every size, and a tail of none.
const ROWS: usize = 64;
const COLS: usize = 1024;

/// What is multiplied, with batches of 1, 8 and 64, and decoded.
const SPECS: &[&str] = &[
    "dense",
    "dense(type=bf16)",
    "dense(type=f16)",
    "int8",
    "int8(group=row)",
    "int4",
    "int4(group=128)",
    "int4(zero=asymmetric)",
    "q(bits=2)",
    "q(bits=3)",
    "q(bits=5)",
    "q(bits=6)",
    "mask(keep=50%)",
    "mask(keep=10%)",
    "mask(keep=10%, values=[int8])",
    "mask(keep=10%, positions=coded)",
    "sdr(keep=10%)",
    "ecq(bits=4)",
    "ecq(bits=4, trellis=8)",
    "svd(rank=16)",
    "dct2(keep=5%)",
    "dense | rotate | shuffle | rans",
];

/// The one function that callgrind collects in, and ends a count with.
#[inline(never)]
fn measured(work: &mut dyn FnMut()) {
    work();
    // Or the call would be a jump, and `work` its own.
    black_box(());
}

/// Runs `work` twice: what the first run allocates is not counted.
fn case(name: &str, mut work: impl FnMut()) {
    work();
    println!("{name}");
    measured(&mut work);
}

fn main() {
    println!("{}", cortex::kernel::best().isa().name());
    // Callgrind counts one thread: everything runs on it.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
    pool.expect("a thread").install(cases);
}

fn cases() {
    let w = Dense::from_slice(&gaussian(ROWS * COLS, 1), &[ROWS, COLS]).expect("a tensor");
    let x = gaussian(64 * COLS, 2);
    for spec in SPECS {
        let tensor = Tensor::compress(&w.view(), spec).expect("compresses");
        let mut values = vec![0.0f32; ROWS * COLS];
        case(&format!("{spec}: decode"), || {
            tensor
                .decode_rows_f32(0..ROWS, &mut values)
                .expect("decodes");
        });
        for precision in [Precision::Exact, Precision::Fast] {
            let options = MatmulOptions {
                threads: 1,
                precision,
                ..MatmulOptions::default()
            };
            let mut y = vec![0.0f32; 64 * ROWS];
            for batch in [1, 8, 64] {
                let (x, y) = (&x[..batch * COLS], &mut y[..batch * ROWS]);
                let used = tensor.matmul(x, batch, y, &options).expect("multiplies");
                // The same loops as exact ones, where there is nothing to round.
                if used.precision != precision {
                    continue;
                }
                let word = if precision == Precision::Fast {
                    "fast"
                } else {
                    "exact"
                };
                case(&format!("{spec}: batch {batch}, {word}"), || {
                    tensor.matmul(x, batch, y, &options).expect("multiplies");
                });
            }
        }
    }
}
