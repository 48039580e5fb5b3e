//! Similarity search with sparse distributed representations: rows of a compressed tensor
//! become sets of bits, and the sets that share most bits are the nearest rows.
//!
//! `cargo run --release --example sdr`

use cortex::sdr::{Index, TensorEncoder, probability};
use cortex::{Dense, Result, Tensor};

const ROWS: usize = 5000;
const COLS: usize = 256;

fn main() -> Result<()> {
    // Five thousand rows, every ten of them alike, stored in 4 bits.
    let mut state = 1u64;
    let mut noise = || {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    let mut centre = vec![0.0; COLS];
    let mut values = Vec::with_capacity(ROWS * COLS);
    for row in 0..ROWS {
        if row % 10 == 0 {
            centre.fill_with(&mut noise);
        }
        values.extend(centre.iter().map(|c| c + 0.3 * noise()));
    }
    let dense = Dense::from_slice(&values, &[ROWS, COLS])?;
    let tensor = Tensor::compress(&dense.view(), "int4")?;

    // 64 of 2,048 bits: what does a match mean?
    let encoder = TensorEncoder::new(COLS, 2048, 64, 7)?;
    let advice = probability::advise(2048, 64, 1e-9).expect("enough bits");
    println!(
        "64 of 2048 bits: {} shared bits are chance once in 10^9, at {:.0} % noise; a union holds {}",
        advice.theta,
        100.0 * advice.noise_tolerance,
        advice.union_capacity
    );

    let sets = encoder.encode_tensor(&tensor)?;
    let mut index = Index::new(encoder.bits())?;
    for (row, set) in (0..).zip(&sets) {
        index.add(row, set)?;
    }
    // Saved, loaded, asked for the rows like row 1234.
    let bytes = index.save();
    let index = Index::load(&bytes)?;
    println!("{} sets in {} bytes", index.len(), bytes.len());
    for found in index.top_k(&sets[1234], 11)? {
        let sure = found.overlap >= advice.theta;
        println!(
            "row {} shares {} bits{}",
            found.id,
            found.overlap,
            if sure { "" } else { ", perhaps by chance" }
        );
    }
    Ok(())
}
