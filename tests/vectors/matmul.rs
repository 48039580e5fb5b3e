//! `matmul.json`: products with a compressed tensor, against naive ones in f64 with its
//! decoded weights.

use cortex::DType::{self, BF16, F16, F32, F64, I8, U8};
use cortex::{Computed, MatmulOptions, Precision, Tensor};
use serde_json::Value;

use super::frozen::Fill::{LowRank, Normal, Smooth, Sparse};
use super::frozen::{self, Fill, as_f32, as_f64, base64, bytes_of, dtype_of, sizes_of, text_of};
use super::{Input, assert_within, compress, floats_base64, object};

/// A product: the tensor, its op, and x: dtype, dimensions but the last, precision.
struct Product {
    input: Input,
    op: &'static str,
    x_dtype: DType,
    lead: Vec<usize>,
    precision: &'static str,
    /// Products by parts that may be larger than their sum, see [`tolerance`].
    parts: f64,
}

fn products() -> Vec<Product> {
    let mut all = Vec::new();
    let mut add =
        |spec, shape: &[usize], fill: Fill, op, x_dtype, lead: &[usize], precision, parts| {
            all.push(Product {
                input: Input::new(spec, F32, shape, fill),
                op,
                x_dtype,
                lead: lead.to_vec(),
                precision,
                parts,
            });
        };
    const N: &str = "matmul";
    const T: &str = "matmul_t";
    // Batches, as the leading dimensions say; dtypes of x.
    for lead in [&[][..], &[0], &[1], &[3], &[17], &[2, 3], &[2, 1, 2]] {
        add("int8", &[19, 40], Normal, N, F32, lead, "exact", 1.0);
        add("int8", &[19, 40], Normal, T, F32, lead, "exact", 1.0);
    }
    for x_dtype in [F64, F16, BF16] {
        for op in [N, T] {
            add("dense", &[7, 12], Normal, op, x_dtype, &[3], "auto", 1.0);
            add("int4", &[7, 12], Normal, op, x_dtype, &[2], "exact", 1.0);
        }
    }
    // Forms, both ways.
    for (spec, shape, fill, parts) in [
        ("dense", &[17, 33][..], Normal, 1.0),
        ("dense | shuffle | rans", &[6, 20], Normal, 1.0),
        ("f16", &[9, 21], Normal, 1.0),
        ("bf16", &[9, 21], Normal, 1.0),
        ("int8(group=row)", &[16, 32], Normal, 1.0),
        ("int8(group=tensor, zero=asymmetric)", &[6, 20], Smooth, 1.0),
        (
            "int4(group=64, zero=asymmetric, search=lsq) | rans",
            &[5, 70],
            Smooth,
            1.0,
        ),
        ("q(bits=2)", &[18, 33], Normal, 1.0),
        ("q(bits=3)", &[5, 35], Normal, 1.0),
        ("q(bits=5, group=row)", &[5, 35], Normal, 1.0),
        ("q(bits=6)", &[5, 35], Normal, 1.0),
        ("q(bits=7, group=tensor)", &[5, 35], Normal, 1.0),
        ("ecq(bits=3)", &[12, 30], Normal, 1.0),
        ("mask", &[11, 40], Sparse(5), 1.0),
        ("mask(keep=20%, values=[int8])", &[11, 40], Normal, 1.0),
        ("mask(positions=coded)", &[11, 40], Sparse(5), 1.0),
        ("sdr", &[11, 40], Sparse(8), 1.0),
        ("sdr(keep=10%, values=sign)", &[11, 40], Normal, 1.0),
        ("int4 + int4", &[6, 40], Normal, PARTS),
        ("outliers(keep=2%) + q(bits=3)", &[6, 40], Normal, PARTS),
        ("fft(keep=50%)", &[6, 24], Smooth, PARTS),
        ("fft2(keep=50%)", &[6, 24], Smooth, PARTS),
        ("dct(keep=50%, block=8)", &[6, 24], Smooth, PARTS),
        ("dct2(keep=auto(error=5%))", &[6, 24], Smooth, PARTS),
        ("svd(rank=2)", &[9, 14], LowRank, PARTS),
        ("tt(rank=3)", &[8, 12], LowRank, PARTS),
        ("tucker(ranks=3x2x2)", &[5, 3, 4], Normal, PARTS),
        ("cp(rank=2)", &[6, 8], LowRank, PARTS),
    ] {
        add(spec, shape, fill, N, F32, &[2], "exact", parts);
        add(spec, shape, fill, T, F32, &[2], "exact", parts);
    }
    // Edges.
    for shape in [
        &[][..],
        &[1],
        &[1, 1],
        &[1, 30],
        &[30, 1],
        &[7],
        &[0, 5],
        &[5, 0],
        &[0],
    ] {
        for op in [N, T] {
            add("dense", shape, Normal, op, F32, &[2], "auto", 1.0);
            add("int4", shape, Normal, op, F32, &[2], "exact", 1.0);
        }
    }
    add("int8", &[3, 2, 3, 3], Normal, N, F32, &[2], "exact", 1.0);
    // Activations rounded, where the form has loops for that.
    for (spec, lead) in [
        ("int8", 1),
        ("int4", 1),
        ("int4(group=row)", 3),
        ("q(bits=3)", 17),
    ] {
        add(spec, &[16, 40], Normal, N, F32, &[lead], "fast", 1.0);
        add(spec, &[16, 40], Normal, N, F32, &[lead], "auto", 1.0);
    }
    add("dense", &[8, 32], Normal, N, F32, &[2], "fast", 1.0);
    add("bf16", &[8, 32], Normal, N, F32, &[2], "fast", 1.0);
    add("int8", &[8, 32], Normal, T, F32, &[2], "fast", 1.0);
    for dtype in [I8, U8, F16, BF16, F64] {
        all.push(Product {
            input: Input::new("dense", dtype, &[4, 9], Normal),
            op: N,
            x_dtype: F32,
            lead: vec![2],
            precision: "auto",
            parts: 1.0,
        });
    }
    all
}

/// How much larger than the weights the parts of sums, spectra and factors may be.
const PARTS: f64 = 8.0;

/// Bound on `|y − x·Ŵ|` for every element.
///
/// A sum of k products in f32, in whatever order and with weights that are themselves
/// computed in f32 by a few operations, is off by at most `(k + 16) · 2⁻²⁴ · Σ |x_j| · m_j`
/// where m_j are the magnitudes that are added: |w_j|, or those of the parts that a form
/// multiplies apart (a code and a zero, terms, factors). They are at most `parts` times the
/// largest |w|, and Σ |x_j| is at most that of the row of x where it is largest. y itself is
/// rounded to f32 once more, which the 16 cover.
///
/// Where activations may be rounded, to int8 in groups of columns or to bf16, each of them moves
/// by at most half a step of the largest of its group over 127, and so by max |x| / 254 of its
/// row: that much times the largest Σ |w| of a row comes on top.
fn tolerance(w: &[f64], x: &[f64], k: usize, parts: f64, rounds: bool) -> f64 {
    let most = |values: &[f64]| values.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    let sum = |values: &[f64]| {
        let rows = values.chunks(k.max(1));
        let sums = rows.map(|row| row.iter().map(|v| v.abs()).sum::<f64>());
        sums.fold(0.0, f64::max)
    };
    let exact = (k + 16) as f64 * 2f64.powi(-24) * parts * most(w) * sum(x);
    exact
        + if rounds {
            most(x) / 254.0 * sum(w)
        } else {
            0.0
        }
}

/// Whether a product with rows of W may round activations: if that is asked for, or the
/// tensor is coarse, and the form has loops for it, as codes and bf16 have.
fn rounds(tensor: &Tensor, precision: &str) -> bool {
    let asked = match precision {
        "auto" => Precision::Auto.rounds(tensor.error().relative),
        precision => precision == "fast",
    };
    let loops = tensor.form().kind() == "q" || tensor.spec().to_string().contains("bf16");
    asked && loops
}

/// `y[b][i] = Σ x[b][k] · w[i][k]`, or with rows for columns.
fn naive(
    w: &[f64],
    (rows, cols): (usize, usize),
    transposed: bool,
    x: &[f64],
    batch: usize,
) -> Vec<f32> {
    let (inner, outer) = if transposed {
        (rows, cols)
    } else {
        (cols, rows)
    };
    let mut y = Vec::with_capacity(batch * outer);
    for b in 0..batch {
        for o in 0..outer {
            let weight = |k: usize| {
                if transposed {
                    w[k * cols + o]
                } else {
                    w[o * cols + k]
                }
            };
            let sum: f64 = (0..inner).map(|k| x[b * inner + k] * weight(k)).sum();
            y.push(sum as f32);
        }
    }
    y
}

pub fn cases() -> Vec<Value> {
    products().iter().map(case).collect()
}

fn case(product: &Product) -> Value {
    let Product {
        input,
        op,
        x_dtype,
        lead,
        precision,
        parts,
    } = product;
    let tensor = input.tensor();
    let decoded = tensor.decompress().unwrap();
    let w = as_f64(input.dtype, decoded.bytes());
    let transposed = *op == "matmul_t";
    let (rows, cols) = (tensor.rows(), tensor.cols());
    let (inner, batch) = (if transposed { rows } else { cols }, lead.iter().product());
    let x_shape = [&lead[..], &[inner]].concat();
    let x_bytes = frozen::fill(Normal, *x_dtype, &x_shape, 7 + batch as u64);
    // As f32, which f64 is rounded to first.
    let x: Vec<f64> = as_f32(*x_dtype, &x_bytes)
        .into_iter()
        .map(f64::from)
        .collect();
    let rounds = !transposed && rounds(&tensor, precision);
    let y = naive(&w, (rows, cols), transposed, &x, batch);
    let bound = tolerance(&w, &x, inner, *parts, rounds);
    let computed = match (rounds, *precision) {
        (false, _) => Value::from("exact"),
        (true, "fast") if tensor.form().kind() == "q" => "fast".into(),
        (true, _) => Value::Null,
    };
    let mut members = input.json();
    members[0].1 = format!("{op}, {precision}, x {x_dtype} {x_shape:?}: {}", input.name).into();
    members.extend([
        ("op", (*op).into()),
        ("x_dtype", x_dtype.name().into()),
        ("x_shape", x_shape.into()),
        ("x", base64(&x_bytes).into()),
        ("precision", (*precision).into()),
        ("computed", computed),
        ("y", floats_base64(&y).into()),
        ("tolerance", bound.into()),
    ]);
    object(members)
}

pub fn run(cases: &[Value]) {
    for case in cases {
        let what = text_of(case, "name");
        let tensor = compress(case).unwrap_or_else(|e| panic!("{what}: {e}"));
        let x = as_f32(dtype_of(case, "x_dtype"), &bytes_of(case, "x"));
        let shape = sizes_of(case, "x_shape");
        let batch = shape[..shape.len() - 1].iter().product();
        let options = MatmulOptions {
            precision: match text_of(case, "precision") {
                "auto" => Precision::Auto,
                "exact" => Precision::Exact,
                "fast" => Precision::Fast,
                other => panic!("{what}: precision {other}"),
            },
            ..MatmulOptions::default()
        };
        let (outer, run): (usize, Run) = match text_of(case, "op") {
            "matmul" => (tensor.rows(), Tensor::matmul),
            "matmul_t" => (tensor.cols(), Tensor::matmul_t),
            other => panic!("{what}: op {other}"),
        };
        let mut y = vec![f32::NAN; batch * outer];
        let done =
            run(&tensor, &x, batch, &mut y, &options).unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_within(&y, case, what);
        if let Some(expected) = case["computed"].as_str() {
            let found = match done.precision {
                Precision::Fast => "fast",
                _ => "exact",
            };
            assert_eq!(found, expected, "{what}");
        }
    }
}

type Run = fn(&Tensor, &[f32], usize, &mut [f32], &MatmulOptions) -> cortex::Result<Computed>;
