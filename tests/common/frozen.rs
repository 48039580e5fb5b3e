//! What the frozen files of `tests/vectors` and `tests/golden` are made of: numbers that are
//! the same on every machine, base64, and JSON with a case a line.

use std::path::{Path, PathBuf};

use cortex::DType;
use half::{bf16, f16};
use serde_json::Value;

use super::Rng;

/// A folder below `tests`.
pub fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests")
        .join(name)
}

/// Kinds of elements. All are made by additions and multiplications alone, which IEEE 754
/// fixes to the bit; the logarithms of a mathematics library are not the same everywhere.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fill {
    /// Near enough to a normal distribution: the sum of twelve uniform ones. Integers are
    /// rounded from 40 times that; bools say whether it is above 0.
    Normal,
    /// One in so many is as `Normal`, the others are 0.
    Sparse(usize),
    /// A polynomial of row and column.
    Smooth,
    /// Two products of a column and a row of small whole numbers, over 64.
    LowRank,
    /// The same value everywhere.
    Constant(f64),
    /// Bits at random, NaN and denormals of floats among them; bools are 0 or 1.
    Bits,
    /// NaN of either sign with payloads, infinities, zeros of either sign, the least and the
    /// largest of the dtype, in turn.
    Extremes,
}

/// Little-endian elements of the shape, a matrix of its first dimension and the others.
pub fn fill(fill: Fill, dtype: DType, shape: &[usize], seed: u64) -> Vec<u8> {
    let count: usize = shape.iter().product();
    let cols: usize = shape.iter().skip(1).product();
    let mut rng = Rng::new(seed);
    let small = |rng: &mut Rng| rng.below(9) as f64 - 4.0;
    let rows = count.checked_div(cols).unwrap_or(0);
    let left: Vec<f64> = (0..2 * rows).map(|_| small(&mut rng)).collect();
    let right: Vec<f64> = (0..2 * cols).map(|_| small(&mut rng)).collect();
    let mut out = Vec::with_capacity(count * dtype.size());
    for i in 0..count {
        let (r, c) = (i / cols, i % cols);
        let value = match fill {
            Fill::Normal => normal(&mut rng),
            Fill::Sparse(one_in) => match rng.below(one_in) {
                0 => normal(&mut rng),
                _ => 0.0,
            },
            Fill::Smooth => {
                let at = |i: usize, n: usize| (i as f64 + 0.5) / n as f64 - 0.5;
                let (u, v) = (at(r, rows), at(c, cols));
                1.0 + u * (2.0 - 3.0 * v) + 4.0 * v * v * (0.5 - u)
            }
            Fill::LowRank => {
                (left[2 * r] * right[2 * c] + left[2 * r + 1] * right[2 * c + 1]) / 64.0
            }
            Fill::Constant(value) => value,
            Fill::Bits => {
                let bits = rng.next().to_le_bytes();
                match dtype {
                    DType::Bool => out.push(bits[5] & 1),
                    _ => out.extend(&bits[..dtype.size()]),
                }
                continue;
            }
            Fill::Extremes => {
                let list = extremes(dtype);
                out.extend(&list[i % list.len()]);
                continue;
            }
        };
        push(dtype, value, &mut out);
    }
    out
}

fn normal(rng: &mut Rng) -> f64 {
    (0..12).map(|_| rng.uniform()).sum::<f64>() - 6.0
}

/// The element nearest to a value; integers to 40 times it.
fn push(dtype: DType, value: f64, out: &mut Vec<u8>) {
    let whole = value * 40.0;
    match dtype {
        DType::F64 => out.extend(value.to_le_bytes()),
        DType::F32 => out.extend((value as f32).to_le_bytes()),
        DType::F16 => out.extend(f16::from_f64(value).to_le_bytes()),
        DType::BF16 => out.extend(bf16::from_f64(value).to_le_bytes()),
        DType::I64 => out.extend((whole as i64).to_le_bytes()),
        DType::I32 => out.extend((whole as i32).to_le_bytes()),
        DType::I16 => out.extend((whole as i16).to_le_bytes()),
        DType::I8 => out.extend((whole as i8).to_le_bytes()),
        DType::U64 => out.extend((whole.abs() as u64).to_le_bytes()),
        DType::U32 => out.extend((whole.abs() as u32).to_le_bytes()),
        DType::U16 => out.extend((whole.abs() as u16).to_le_bytes()),
        DType::U8 => out.push(whole.abs() as u8),
        DType::Bool => out.push(u8::from(value > 0.0)),
    }
}

fn extremes(dtype: DType) -> Vec<Vec<u8>> {
    // Bit patterns of floats: the same list for each, from its widths.
    let floats = |exponent: u32, mantissa: u32| -> Vec<u64> {
        let sign = 1u64 << (exponent + mantissa);
        let infinity = ((1u64 << exponent) - 1) << mantissa;
        let quiet = infinity | 1 << (mantissa - 1);
        let one = ((1u64 << (exponent - 1)) - 1) << mantissa;
        vec![
            0,
            sign,
            one,
            sign | one,
            infinity,
            sign | infinity,
            quiet,
            quiet | 5,
            sign | quiet | 3,
            // A signalling NaN.
            infinity | 1,
            // The largest, the least that is normal, and the least of all.
            infinity - 1,
            1 << mantissa,
            1,
            sign | 1,
        ]
    };
    let cut = |list: Vec<u64>, size: usize| -> Vec<Vec<u8>> {
        let bytes = list.into_iter().map(|b| b.to_le_bytes()[..size].to_vec());
        bytes.collect()
    };
    let top = |bits: u32| 1u64 << (bits - 1);
    let size = dtype.size();
    match dtype {
        DType::F64 => cut(floats(11, 52), size),
        DType::F32 => cut(floats(8, 23), size),
        DType::F16 => cut(floats(5, 10), size),
        DType::BF16 => cut(floats(8, 7), size),
        DType::Bool => cut(vec![0, 1, 1], size),
        _ => {
            let top = top(8 * size as u32);
            cut(vec![0, 1, u64::MAX, top, top - 1, top + 1, 2], size)
        }
    }
}

/// The elements as f64; integers of 64 bits to the nearest.
pub fn as_f64(dtype: DType, bytes: &[u8]) -> Vec<f64> {
    if dtype == DType::F64 {
        let (chunks, _) = bytes.as_chunks::<8>();
        return chunks.iter().map(|b| f64::from_le_bytes(*b)).collect();
    }
    as_f32(dtype, bytes).into_iter().map(f64::from).collect()
}

/// The elements as f32, to the nearest.
pub fn as_f32(dtype: DType, bytes: &[u8]) -> Vec<f32> {
    let mut out = vec![0.0f32; bytes.len() / dtype.size()];
    dtype.to_f32(bytes, &mut out);
    out
}

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Base64 of RFC 4648, padded.
pub fn base64(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let mut word = [0u8; 4];
        word[1..=chunk.len()].copy_from_slice(chunk);
        let word = u32::from_be_bytes(word);
        for i in 0..4 {
            match i <= chunk.len() {
                true => out.push(DIGITS[(word >> (18 - 6 * i)) as usize & 63] as char),
                false => out.push('='),
            }
        }
    }
    out
}

/// The bytes of a base64 text.
pub fn unbase64(text: &str) -> Vec<u8> {
    assert!(text.len().is_multiple_of(4), "base64 comes in fours");
    let text = text.trim_end_matches('=').as_bytes();
    let mut out = Vec::with_capacity(text.len() * 3 / 4);
    for chunk in text.chunks(4) {
        let mut word = 0u32;
        for c in chunk {
            let digit = DIGITS.iter().position(|d| d == c).expect("a base64 digit");
            word = word << 6 | digit as u32;
        }
        word <<= 6 * (4 - chunk.len());
        out.extend(&word.to_be_bytes()[1..chunk.len()]);
    }
    out
}

/// The bytes of a base64 member.
pub fn bytes_of(case: &Value, key: &str) -> Vec<u8> {
    unbase64(text_of(case, key))
}

/// The f32 values of a base64 member.
pub fn floats_of(case: &Value, key: &str) -> Vec<f32> {
    as_f32(DType::F32, &bytes_of(case, key))
}

/// A text member.
pub fn text_of<'a>(case: &'a Value, key: &str) -> &'a str {
    case[key]
        .as_str()
        .unwrap_or_else(|| panic!("no text '{key}' in {case}"))
}

/// A member that is a whole number.
pub fn number_of(case: &Value, key: &str) -> usize {
    let number = case[key].as_u64();
    number.unwrap_or_else(|| panic!("no number '{key}' in {case}")) as usize
}

/// A member that is a list of sizes.
pub fn sizes_of(case: &Value, key: &str) -> Vec<usize> {
    let list = case[key].as_array();
    let list = list.unwrap_or_else(|| panic!("no list '{key}' in {case}"));
    list.iter().map(|n| n.as_u64().unwrap() as usize).collect()
}

/// The dtype that a member names.
pub fn dtype_of(case: &Value, key: &str) -> DType {
    text_of(case, key).parse().unwrap()
}

/// `{"name": […]}` with an item a line.
pub fn lines(name: &str, items: &[Value]) -> String {
    let items: Vec<String> = items.iter().map(Value::to_string).collect();
    format!("{{\"{name}\": [\n{}\n]}}\n", items.join(",\n"))
}
