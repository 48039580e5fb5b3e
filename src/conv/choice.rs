//! Which method is expected to be fastest.
//!
//! What a method does is counted from the shape and the form: products, numbers that are
//! decoded, moved or transformed. Each count is weighed with the time that `benches/conv.rs`
//! found for it, on one core with AVX2 (Zen 3). Only the ratios of these matter, and methods
//! that are near each other may be taken for one another. Threads are not counted: all
//! methods share their work out, and the choice must not depend on them.

use super::Method;
use super::direct::{self, Direction, axis_phases};
use super::fourier::Fourier;
use super::patches::most_positions;
use super::shape::Shape;
use crate::form::{Form, Part, Product};
use crate::kernel::Isa;

/// Picoseconds of a product of decoded weights with neighbouring samples, or of a dense
/// product: 3×3 convolutions of 256 channels run at 31 to 34 products a nanosecond.
const DENSE: f64 = 31.0;

/// As many times that where one, two or three rows of weights meet a plane: kernels of 1025
/// taps, one channel a group, run at 21 a nanosecond.
const NARROW: f64 = 1.5;

/// Of a product of a code with a rounded activation: 17 to 20 on images of 14×14 and more,
/// `int8` and `int4`.
const INTEGER: f64 = 18.0;

/// Of a product with a value of a mask or of a list of positions: 90 to 210.
const KEPT: f64 = 160.0;

/// Of a product by factors, whose matrices are small: 31 to 60 with `svd` of rank 8 to 96.
const FACTORS: f64 = 47.0;

/// Of a multiplication that a spectral form counts, mostly of transforms: 115 to 300.
const SPECTRAL: f64 = 190.0;

/// Of a weight that is not 0 meeting a sample, row by row: 75 from 2 to 30 % of them.
const FEW: f64 = 75.0;

/// Of looking at a weight for whether it is 0, and at the row's part that it is in: a tenth of
/// the weights of a 3×3 convolution of 512 channels takes 14 ms for 16 positions.
const FIND: f64 = 5_000.0;

/// Of a weight that is decoded to memory and read from there: for all positions by decoded
/// weights, and in a product, whose windows stay in cache.
const WEIGHT: f64 = 1_300.0;
const WINDOW: f64 = 400.0;

/// Of a weight that a product reads where it lies.
const READ: f64 = 400.0;

/// Of a byte that a pack is opened for.
const PACKED: f64 = 1_000.0;

/// Of a number of a patch that is gathered, or added to where it belongs.
const GATHER: f64 = 1_300.0;

/// Of an output of a product with patches, which is turned round twice and put in its place,
/// and of one that is summed where it stands.
const RESULT: f64 = 4_500.0;
const SUM: f64 = 1_200.0;

/// Of a sample that a kernel of one tap visits: samples of one position lie a plane apart.
const VISIT: f64 = 5_000.0;

/// The method that is expected to be fastest.
pub(super) fn fastest<'a>(
    form: &dyn Form,
    shape: &'a Shape,
    direction: Direction,
    product: &Product<'_>,
) -> Method<'a> {
    let mut best = (direct(form, shape, direction, product), Method::Direct);
    if shape.groups == 1 {
        let cost = patches(form, shape, direction, product);
        if cost < best.0 {
            best = (cost, Method::Patches);
        }
    }
    if let Some(way) = Fourier::new(form, shape, direction, product.scratch_bytes) {
        let cost = way.cost * 1e3 + decoding(form);
        if cost < best.0 {
            best = (cost, Method::Fourier(way));
        }
    }
    best.1
}

fn numbers(form: &dyn Form) -> f64 {
    form.meta().len() as f64
}

/// Picoseconds of decoding all rows once.
fn decoding(form: &dyn Form) -> f64 {
    form.decode_macs() as f64 * DENSE + packed_bytes(form) * PACKED
}

/// Bytes behind packs.
fn packed_bytes(form: &dyn Form) -> f64 {
    let parts = form.parts();
    let bytes = parts.iter().map(|(_, part)| match part {
        Part::Buffer(b) if b.in_place() => 0.0,
        Part::Buffer(b) => b.len() as f64,
        Part::Form(f) => packed_bytes(*f),
    });
    bytes.sum()
}

/// Lanes of vectors that outputs of a plane take: row by row, or in one run through all rows
/// whose pitch is `pitch`.
fn lanes([rows, cols]: [usize; 2], pitch: usize, vector: usize) -> f64 {
    let by_rows = rows as f64 * cols.next_multiple_of(vector) as f64;
    let run = pitch as f64 * (rows as f64 - 1.0) + cols as f64;
    by_rows.min((run / vector as f64).ceil() * vector as f64)
}

fn direct(form: &dyn Form, shape: &Shape, direction: Direction, product: &Product<'_>) -> f64 {
    let vector = match product.kernels.isa().includes(Isa::Avx512) {
        true => 16,
        false => 8,
    };
    let [ys, xs] = [&shape.height, &shape.width].map(|a| axis_phases(a, direction));
    // Lanes that meet the weights of a kernel, and outputs.
    let (mut met, mut outputs) = (0.0, 0.0);
    for y in &ys {
        for x in &xs {
            let starts = x.sight.starts.iter();
            let ends = starts.clone().min().zip(starts.max());
            let reach = ends.map_or(0, |(low, high)| high.abs_diff(*low) / x.sight.step);
            // Taps that are further apart than outputs have lines of their own.
            let pitch = x.outputs + reach.min(x.outputs);
            let taps = (y.taps.len() * x.taps.len()) as f64;
            met += taps * lanes([y.outputs, x.outputs], pitch, vector);
            outputs += y.outputs as f64 * x.outputs as f64;
        }
    }
    let (read, written, rows) = match direction {
        Direction::Forward => (shape.channels, shape.out_channels, shape.group_outputs()),
        Direction::Backward => (shape.out_channels, shape.channels, shape.group_inputs()),
    };
    let images = shape.batch as f64;
    let kernels = shape.out_channels as f64 * shape.group_inputs() as f64;
    let macs = met * kernels * images;
    let numbers = numbers(form);
    let few = direction == Direction::Forward
        && matches!(form.kind(), "mask" | "sdr")
        && direct::counts_few(form);
    let products = match (few, rows) {
        (true, _) => numbers * FIND + macs * FEW * form.matmul_macs() as f64 / numbers,
        (false, 0..4) => macs * DENSE * NARROW,
        (false, _) => macs * DENSE,
    };
    let visits = match shape.taps() {
        1 => read as f64 * outputs * images * VISIT,
        _ => 0.0,
    };
    decoding(form) + numbers * WEIGHT + products + visits + written as f64 * outputs * images * SUM
}

fn patches(form: &dyn Form, shape: &Shape, direction: Direction, product: &Product<'_>) -> f64 {
    let positions = shape.batch as f64 * shape.output_plane() as f64;
    let most = most_positions(product.scratch_bytes, shape) as f64;
    let blocks = (positions / most).ceil();
    let gathered = positions * form.meta().cols as f64 * GATHER;
    let outputs = positions * shape.out_channels as f64;
    match direction {
        Direction::Forward => {
            let product = multiplying(form, positions / blocks, product.may_round());
            blocks * product + gathered + outputs * RESULT
        }
        Direction::Backward => {
            let product = multiplying(form, positions / blocks, false);
            blocks * product + 2.0 * gathered + outputs * GATHER
        }
    }
}

/// Picoseconds of the product of the form, or of its transpose, with so many rows.
fn multiplying(form: &dyn Form, rows: f64, rounds: bool) -> f64 {
    let (numbers, macs) = (numbers(form), form.matmul_macs() as f64);
    let dense = rows * numbers * DENSE;
    let decoded = decoding(form) + numbers * WINDOW + dense;
    let read = packed_bytes(form) * PACKED + numbers * READ;
    match form.kind() {
        "dense" => read + dense,
        "q" if rounds => read + rows * numbers * INTEGER,
        "mask" | "sdr" => decoded.min(read + rows * macs * KEPT),
        "svd" | "tt" | "tucker" | "cp" => decoded.min(rows * macs * FACTORS),
        "spectral" => rows * macs * SPECTRAL,
        "sum" => {
            let parts = form.parts();
            let terms = parts.iter().filter_map(|(_, part)| match part {
                Part::Form(term) => Some(multiplying(*term, rows, rounds)),
                Part::Buffer(_) => None,
            });
            terms.sum()
        }
        _ => decoded,
    }
}
