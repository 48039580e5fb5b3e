//! `tensor.json`: what compressing gives, and what comes out again.
//!
//! Forms whose factors come from iterations (`svd`, `tucker`, `cp`, `tt`) are not here: their
//! last bits are not the same on every CPU. `tests/golden` decodes stored ones.

use cortex::DType::{self, BF16, Bool, F16, F32, F64, I8, I16, I32, I64, U8, U16, U32, U64};
use cortex::{Tensor, form};
use serde_json::{Value, json};

use super::frozen::Fill::{Bits, Constant, Extremes, Normal, Smooth, Sparse};
use super::frozen::{base64, bytes_of, number_of, sizes_of, text_of};
use super::{Input, compress, floats_base64, near, object};

fn inputs() -> Vec<Input> {
    let mut all = Vec::new();
    let mut add =
        |spec, dtype, shape: &[usize], fill| all.push(Input::new(spec, dtype, shape, fill));
    // Every dtype as it is, with every bit; and packed.
    for dtype in DType::ALL {
        add("dense", dtype, &[3, 5], Extremes);
        add("lossless", dtype, &[6, 7], Normal);
    }
    add("dense | shuffle | zstd", F64, &[8, 4], Smooth);
    add("dense | rotate | shuffle | rans", F32, &[9, 8], Normal);
    add("dense | rotate | shuffle | rans", BF16, &[9, 16], Normal);
    add("dense | delta | lz4", I32, &[40], Smooth);
    add("dense | delta | rle", U8, &[5, 13], Constant(1.0));
    add("dense | bitshuffle | gzip(9)", U16, &[7, 9], Normal);
    add("dense | shuffle(2) | zstd(19)", I64, &[4, 4, 4], Normal);
    add("mask", Bool, &[9, 7], Sparse(5));
    add("mask", I16, &[5, 70], Sparse(9));
    add("mask | zstd", I8, &[16, 17], Sparse(6));
    add("sdr", U32, &[12, 12], Sparse(20));
    add("sdr", U64, &[30, 5], Sparse(12));
    add("sdr", F32, &[4, 33], Sparse(8));
    // Shapes.
    for shape in [&[][..], &[0], &[0, 5], &[5, 0], &[1], &[1, 1], &[2, 0, 3]] {
        add("dense", F32, shape, Normal);
        add("int8", F32, shape, Normal);
        add("mask", F16, shape, Normal);
    }
    add("dense | zstd", F64, &[], Normal);
    add("int4", F32, &[1, 50], Normal);
    add("int4", F32, &[50, 1], Normal);
    add("int4", F32, &[50], Normal);
    add("int8", F32, &[3, 2, 3, 3], Normal);
    // Quantised: every width, group, zero, search; rows past a tile, columns past a group.
    add("int8", F32, &[17, 33], Normal);
    add("int8(group=row)", BF16, &[5, 40], Normal);
    add("int8(group=tensor, zero=asymmetric)", F32, &[6, 20], Smooth);
    add("int8(group=128)", F16, &[2, 150], Normal);
    add("int4(group=64, search=lsq)", F32, &[4, 70], Normal);
    add("int4(zero=asymmetric) | rans", F32, &[7, 64], Smooth);
    add("int4(search=gptq)", F64, &[3, 40], Normal);
    add("q(bits=2)", F32, &[18, 12], Normal);
    add(
        "q(bits=3, zero=asymmetric, search=lsq)",
        F32,
        &[5, 35],
        Normal,
    );
    add("q(bits=5)", F32, &[5, 35], Normal);
    add("q(bits=6, group=row)", F32, &[5, 35], Normal);
    add("q(bits=7, group=tensor)", F32, &[5, 35], Normal);
    add("ecq", F32, &[16, 24], Normal);
    add("ecq(bits=2.5)", F32, &[12, 30], Normal);
    add("ecq(error=5%)", BF16, &[10, 33], Normal);
    add("ecq(bits=3, trellis=8)", F32, &[9, 40], Normal);
    // Pruned and rounded.
    add("f16", F32, &[4, 9], Normal);
    add("bf16", F64, &[4, 9], Normal);
    add("f32", F64, &[4, 9], Normal);
    add("mask(keep=25%)", F32, &[6, 20], Normal);
    add("mask(threshold=1.5)", F32, &[6, 20], Normal);
    add("mask(positions=coded)", F32, &[6, 40], Sparse(10));
    add("mask(positions=indices)", F32, &[6, 40], Sparse(10));
    add("mask(values=[int8])", F32, &[6, 40], Sparse(4));
    add("sdr(keep=10%, values=sign)", F32, &[8, 25], Normal);
    add(
        "sdr(keep=20%, values=[int4(group=64)])",
        F32,
        &[8, 25],
        Normal,
    );
    add("sdr(values=sign)", F32, &[8, 25], Sparse(10));
    add("outliers(keep=5%) + q(bits=3)", F32, &[8, 30], Normal);
    add("int4 + int4", F32, &[6, 32], Normal);
    add(
        "int4(group=row) + mask(keep=5%, values=[f16]) + q(bits=2)",
        F32,
        &[6, 32],
        Normal,
    );
    add("fft(keep=50%)", F32, &[5, 21], Smooth);
    add("fft2(keep=30%, block=4)", F32, &[6, 18], Normal);
    add("dct(error=5%, values=[f16])", F16, &[5, 21], Smooth);
    add("dct2(keep=30%, values=[int8])", F32, &[6, 18], Smooth);
    // Chosen by measuring.
    add("auto", F32, &[24, 32], Normal);
    add("auto(error=5%)", F32, &[24, 32], Sparse(20));
    add("auto(bits=6, prefer=size)", F32, &[24, 32], Normal);
    add("lossless", F32, &[20, 20], Sparse(15));
    add("lossless", F32, &[8, 8], Bits);
    all
}

pub fn cases() -> Vec<Value> {
    inputs().iter().map(case).collect()
}

fn case(input: &Input) -> Value {
    let tensor = input.tensor();
    let decoded = tensor.decompress().unwrap();
    if form::is_lossless(tensor.spec()).unwrap() {
        assert_eq!(decoded.bytes(), input.data, "{}", input.name);
    }
    let rows = tensor.rows();
    let (start, count) = (rows / 3, rows.div_ceil(2).min(rows - rows / 3));
    let (row, row_f32) = window(&tensor, start, count);
    let error = tensor.error();
    let mut members = input.json();
    members.extend([
        ("canonical", tensor.spec().to_string().into()),
        ("decoded", base64(decoded.bytes()).into()),
        ("stored_bytes", tensor.stored_bytes().into()),
        ("bits_per_weight", tensor.bits_per_weight().into()),
        ("relative_error", error.relative.into()),
        ("max_abs_error", error.max_abs.into()),
        ("sqnr_db", error.sqnr_db().into()),
        (
            "rows",
            json!({
                "start": start,
                "count": count,
                "decoded": base64(&row),
                "decoded_f32": floats_base64(&row_f32),
            }),
        ),
    ]);
    object(members)
}

/// Rows in the tensor's dtype and as f32.
fn window(tensor: &Tensor, start: usize, count: usize) -> (Vec<u8>, Vec<f32>) {
    let rows = start..start + count;
    let mut bytes = vec![0u8; count * tensor.cols() * tensor.dtype().size()];
    tensor.decode_rows(rows.clone(), &mut bytes).unwrap();
    let mut floats = vec![0.0; count * tensor.cols()];
    tensor.decode_rows_f32(rows, &mut floats).unwrap();
    (bytes, floats)
}

pub fn run(cases: &[Value]) {
    for case in cases {
        let what = text_of(case, "name");
        let tensor = compress(case).unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_eq!(tensor.dtype().name(), text_of(case, "dtype"), "{what}");
        assert_eq!(tensor.shape(), sizes_of(case, "shape"), "{what}");
        assert_eq!(
            tensor.spec().to_string(),
            text_of(case, "canonical"),
            "{what}"
        );
        let decoded = tensor.decompress().unwrap();
        assert!(
            decoded.bytes() == bytes_of(case, "decoded"),
            "{what}: decoded"
        );
        assert_eq!(
            tensor.stored_bytes() as usize,
            number_of(case, "stored_bytes"),
            "{what}"
        );
        let error = tensor.error();
        for (key, found) in [
            ("bits_per_weight", Value::from(tensor.bits_per_weight())),
            ("relative_error", error.relative.into()),
            ("max_abs_error", error.max_abs.into()),
            ("sqnr_db", error.sqnr_db().into()),
        ] {
            let expected = &case[key];
            assert!(
                near(&found, expected, 1e-12),
                "{what}: {key} {found}, expected {expected}"
            );
        }
        let rows = &case["rows"];
        let (bytes, floats) = window(&tensor, number_of(rows, "start"), number_of(rows, "count"));
        assert!(bytes == bytes_of(rows, "decoded"), "{what}: rows");
        // Compared by their text, so that NaN is what it was.
        assert_eq!(
            floats_base64(&floats),
            text_of(rows, "decoded_f32"),
            "{what}: rows as f32"
        );
    }
}
