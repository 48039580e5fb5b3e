//! `conv.json`: convolutions with a compressed tensor and their gradients, against naive ones
//! in f64 with its decoded weights.

use cortex::DType::F32;
use cortex::{ConvOptions, Precision};
use serde_json::Value;

use super::frozen::Fill::{LowRank, Normal, Sparse};
use super::frozen::{self, Fill, as_f32, as_f64, base64, floats_of, number_of, sizes_of, text_of};
use super::{Input, assert_within, compress, floats_base64, object};

/// The numbers of a convolution, for height and width; of one dimension it has a height of 1.
#[derive(Clone, Copy)]
struct Steps {
    stride: [usize; 2],
    /// Top, bottom, left, right.
    padding: [usize; 4],
    dilation: [usize; 2],
    groups: usize,
}

const PLAIN: Steps = Steps {
    stride: [1; 2],
    padding: [0; 4],
    dilation: [1; 2],
    groups: 1,
};

struct Convolution {
    input: Input,
    x_shape: Vec<usize>,
    steps: Steps,
}

fn convolutions() -> Vec<Convolution> {
    let mut all = Vec::new();
    let mut add = |spec, shape: &[usize], fill: Fill, x_shape: &[usize], steps| {
        all.push(Convolution {
            input: Input::new(spec, F32, shape, fill),
            x_shape: x_shape.to_vec(),
            steps,
        });
    };
    // Two dimensions.
    let same = Steps {
        padding: [1; 4],
        ..PLAIN
    };
    add("dense", &[4, 3, 3, 3], Normal, &[2, 3, 6, 7], PLAIN);
    add("dense", &[4, 3, 3, 3], Normal, &[1, 3, 6, 7], same);
    add("int8", &[5, 3, 3, 3], Normal, &[2, 3, 7, 5], same);
    add(
        "int4(group=row)",
        &[17, 2, 3, 3],
        Normal,
        &[1, 2, 5, 5],
        same,
    );
    add("q(bits=3)", &[4, 5, 2, 4], Normal, &[1, 5, 6, 6], PLAIN);
    add("ecq", &[6, 2, 3, 3], Normal, &[1, 2, 5, 6], same);
    add("mask", &[6, 4, 3, 3], Sparse(5), &[1, 4, 6, 6], same);
    add("sdr", &[6, 4, 3, 3], Sparse(8), &[1, 4, 6, 6], same);
    add(
        "tucker(ranks=3x2x2x2)",
        &[6, 4, 3, 3],
        Normal,
        &[1, 4, 5, 5],
        same,
    );
    add("svd(rank=2)", &[6, 4, 3, 3], LowRank, &[1, 4, 5, 5], PLAIN);
    add("int4 + int4", &[4, 3, 3, 3], Normal, &[1, 3, 5, 5], same);
    add("dense | zstd", &[4, 3, 1, 1], Normal, &[3, 3, 4, 5], PLAIN);
    add(
        "int8",
        &[4, 2, 3, 3],
        Normal,
        &[1, 2, 8, 9],
        Steps {
            stride: [2, 3],
            padding: [0, 1, 2, 3],
            ..PLAIN
        },
    );
    add(
        "int8",
        &[4, 2, 3, 2],
        Normal,
        &[1, 2, 9, 8],
        Steps {
            dilation: [2, 3],
            padding: [1, 0, 0, 2],
            ..PLAIN
        },
    );
    add(
        "dense",
        &[6, 2, 3, 3],
        Normal,
        &[1, 4, 6, 6],
        Steps { groups: 2, ..same },
    );
    // Depthwise.
    add(
        "int8",
        &[6, 1, 3, 3],
        Normal,
        &[2, 6, 5, 5],
        Steps {
            groups: 6,
            stride: [2, 2],
            ..same
        },
    );
    add(
        "mask(keep=50%)",
        &[4, 3, 2, 3],
        Normal,
        &[1, 6, 7, 7],
        Steps {
            groups: 2,
            stride: [1, 2],
            dilation: [2, 1],
            padding: [2, 0, 1, 1],
        },
    );
    // Without samples.
    add("dense", &[4, 3, 3, 3], Normal, &[0, 3, 6, 7], PLAIN);
    add("dense", &[0, 3, 3, 3], Normal, &[1, 3, 6, 7], PLAIN);
    // One dimension.
    add("dense", &[4, 3, 5], Normal, &[2, 3, 17], PLAIN);
    add(
        "int8",
        &[4, 3, 4],
        Normal,
        &[1, 3, 12],
        Steps {
            padding: [0, 0, 3, 0],
            ..PLAIN
        },
    );
    add(
        "int4",
        &[3, 2, 40],
        Normal,
        &[1, 2, 64],
        Steps {
            padding: [0, 0, 20, 19],
            ..PLAIN
        },
    );
    add(
        "dense | shuffle | rans",
        &[4, 1, 3],
        Normal,
        &[3, 4, 11],
        Steps {
            groups: 4,
            stride: [1, 2],
            dilation: [1, 2],
            padding: [0, 0, 2, 1],
        },
    );
    add(
        "bf16",
        &[5, 2, 1],
        Normal,
        &[1, 2, 9],
        Steps {
            stride: [1, 4],
            ..PLAIN
        },
    );
    all
}

pub fn cases() -> Vec<Value> {
    let all = convolutions();
    all.iter()
        .flat_map(|c| [case(c, false), case(c, true)])
        .collect()
}

fn four(shape: &[usize]) -> [usize; 4] {
    match *shape {
        [a, b, w] => [a, b, 1, w],
        [a, b, h, w] => [a, b, h, w],
        _ => panic!("a convolution of {shape:?}"),
    }
}

fn case(convolution: &Convolution, transposed: bool) -> Value {
    let Convolution {
        input,
        x_shape,
        steps,
    } = convolution;
    let tensor = input.tensor();
    let w = as_f64(F32, tensor.decompress().unwrap().bytes());
    let Steps {
        stride,
        padding,
        dilation,
        groups,
    } = *steps;
    let [out, per_group, kh, kw] = four(&input.shape);
    let [batch, channels, height, width] = four(x_shape);
    assert_eq!(per_group * groups, channels);
    let outputs = |size: usize, pad: usize, taps: usize, axis: usize| {
        (size + pad - dilation[axis] * (taps - 1) - 1) / stride[axis] + 1
    };
    let oh = outputs(height, padding[0] + padding[1], kh, 0);
    let ow = outputs(width, padding[2] + padding[3], kw, 1);
    let y_shape = match x_shape.len() {
        3 => vec![batch, out, ow],
        _ => vec![batch, out, oh, ow],
    };
    let (from, to) = match transposed {
        true => (&y_shape, x_shape),
        false => (x_shape, &y_shape),
    };
    let bytes = frozen::fill(Normal, F32, from, 11);
    let x: Vec<f64> = as_f32(F32, &bytes).into_iter().map(f64::from).collect();
    let mut y = vec![0.0f64; to.iter().product()];
    // Every pair of an output and an input that it takes, once.
    for b in 0..batch {
        for o in 0..out {
            let first = o / (out / groups) * per_group;
            for (i, j) in (0..oh * ow).map(|p| (p / ow, p % ow)) {
                for c in 0..per_group {
                    for (u, v) in (0..kh * kw).map(|t| (t / kw, t % kw)) {
                        let row = (i * stride[0] + u * dilation[0]).checked_sub(padding[0]);
                        let col = (j * stride[1] + v * dilation[1]).checked_sub(padding[2]);
                        let (Some(row), Some(col)) = (row, col) else {
                            continue;
                        };
                        if row >= height || col >= width {
                            continue;
                        }
                        let at_x = ((b * channels + first + c) * height + row) * width + col;
                        let at_y = ((b * out + o) * oh + i) * ow + j;
                        let weight = w[((o * per_group + c) * kh + u) * kw + v];
                        match transposed {
                            true => y[at_x] += weight * x[at_y],
                            false => y[at_y] += weight * x[at_x],
                        }
                    }
                }
            }
        }
    }
    let y: Vec<f32> = y.into_iter().map(|v| v as f32).collect();
    let terms = match transposed {
        true => out / groups.min(out.max(1)) * kh * kw,
        false => per_group * kh * kw,
    };
    let rounds = !transposed && Precision::Auto.rounds(tensor.error().relative);
    let plain = ["dense", "q", "ecq", "mask", "sdr"].contains(&tensor.form().kind());
    let parts = if plain && x_shape.len() == 4 {
        1.0
    } else {
        8.0
    };
    let mut members = input.json();
    let op = if transposed { "conv_t" } else { "conv" };
    members[0].1 = format!(
        "{op} {x_shape:?}, stride {stride:?}, padding {padding:?}, dilation {dilation:?}, \
         groups {groups}: {}",
        input.name
    )
    .into();
    members.extend([
        ("op", op.into()),
        ("x_shape", from.clone().into()),
        ("x", base64(&bytes).into()),
        ("stride", stride.to_vec().into()),
        ("padding", padding.to_vec().into()),
        ("dilation", dilation.to_vec().into()),
        ("groups", groups.into()),
        ("y_shape", to.clone().into()),
        ("y", floats_base64(&y).into()),
        ("tolerance", tolerance(&w, &x, terms, parts, rounds).into()),
    ]);
    object(members)
}

/// Bound on the error of every element. A sum of `terms` products in f32, and the weights'
/// and parts' own few operations, as in `matmul.json`: `(terms + 16) · 2⁻²⁴ · parts · terms ·
/// max |w| · max |x|`, where `parts` is how much larger than their sum the parts may be that are
/// added: terms, factors, or the spectra by which kernels of one dimension may be multiplied.
/// Where activations may be rounded each of them moves by at most max |x| / 254.
fn tolerance(w: &[f64], x: &[f64], terms: usize, parts: f64, rounds: bool) -> f64 {
    let most = |values: &[f64]| values.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    let whole = terms as f64 * most(w) * most(x);
    let exact = (terms + 16) as f64 * 2f64.powi(-24) * parts * whole;
    let sums = w.chunks(terms.max(1));
    let sums = sums.map(|row| row.iter().map(|v| v.abs()).sum::<f64>());
    let rounded = most(x) / 254.0 * sums.fold(0.0, f64::max);
    exact + if rounds { rounded } else { 0.0 }
}

pub fn run(cases: &[Value]) {
    for case in cases {
        let what = text_of(case, "name");
        let tensor = compress(case).unwrap_or_else(|e| panic!("{what}: {e}"));
        let pair = |key: &str| -> [usize; 2] { sizes_of(case, key).try_into().unwrap() };
        let [top, bottom, left, right]: [usize; 4] = sizes_of(case, "padding").try_into().unwrap();
        let options = ConvOptions {
            stride: pair("stride"),
            padding: [[top, bottom], [left, right]],
            dilation: pair("dilation"),
            groups: number_of(case, "groups"),
            ..ConvOptions::default()
        };
        let (x, x_shape, y_shape) = (
            floats_of(case, "x"),
            sizes_of(case, "x_shape"),
            sizes_of(case, "y_shape"),
        );
        let mut y = vec![f32::NAN; y_shape.iter().product()];
        let done = match text_of(case, "op") {
            "conv" => {
                assert_eq!(
                    tensor.conv_output_shape(&x_shape, &options).unwrap(),
                    y_shape,
                    "{what}"
                );
                tensor.conv(&x, &x_shape, &mut y, &options)
            }
            "conv_t" => {
                assert_eq!(
                    tensor.conv_output_shape(&y_shape, &options).unwrap(),
                    x_shape,
                    "{what}"
                );
                tensor.conv_t(&x, &y_shape, &mut y, &options)
            }
            other => panic!("{what}: op {other}"),
        };
        done.unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_within(&y, case, what);
    }
}
