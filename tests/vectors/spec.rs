//! `spec.json`: what specs mean, written down by hand.

use cortex::form;
use serde_json::{Value, json};

use super::frozen::text_of;

/// A spec and its canonical form.
const GOOD: &[(&str, &str)] = &[
    ("dense", "dense"),
    (" dense ", "dense"),
    ("f16", "dense(type=f16)"),
    ("bf16", "dense(type=bf16)"),
    ("f32", "dense(type=f32)"),
    ("dense(f16)", "dense(type=f16)"),
    ("int8", "int8"),
    ("int8()", "int8"),
    ("int8(group=32)", "int8"),
    ("int8(scale=row)", "int8(group=row)"),
    (" int8 ( group = row , search=absmax ) ", "int8(group=row)"),
    ("int8(search=lsq, group=64)", "int8(group=64, search=lsq)"),
    ("int4(128)", "int4(group=128)"),
    ("int4(search=gptq)", "int4(search=gptq)"),
    ("q", "int4"),
    ("q(8)", "int8"),
    ("q(bits=05)", "q(bits=5)"),
    ("q(zero=asymmetric,bits=4)", "int4(zero=asymmetric)"),
    ("q(bits=3, group=tensor)", "q(bits=3, group=tensor)"),
    ("ecq", "ecq"),
    ("ecq(bits=3.50)", "ecq(bits=3.5)"),
    ("ecq(error=0.02)", "ecq(error=2%)"),
    ("ecq(bits=3, trellis=8)", "ecq(bits=3, trellis=8)"),
    ("mask", "mask"),
    ("mask(values=dense)", "mask"),
    ("mask(keep=0.1)", "mask(keep=10%)"),
    ("mask(keep=1e-3)", "mask(keep=0.1%)"),
    ("mask(threshold=50%)", "mask(threshold=0.5)"),
    ("mask(0.01)", "mask(threshold=0.01)"),
    (
        "mask(values=int8(group=64))",
        "mask(values=[int8(group=64)])",
    ),
    ("mask(positions=coded)", "mask(positions=coded)"),
    ("mask(keep=20%, score=wanda)", "mask(keep=20%, score=wanda)"),
    (
        "mask(values=[q(bits=8)|zstd(3)])|lz4",
        "mask(values=[int8 | zstd]) | lz4",
    ),
    ("sdr", "sdr"),
    ("sdr(values=exact)", "sdr"),
    ("sdr(keep=2%, values=sign)", "sdr(keep=2%, values=[sign])"),
    ("outliers", "sdr(keep=0.5%)"),
    ("outliers(keep=1%) + q(bits=3)", "sdr(keep=1%) + q(bits=3)"),
    ("fft(keep=10%)", "fft"),
    ("fft2(keep=5%)", "fft2(keep=5%)"),
    (
        "dct(keep=25%, block=8, values=f16)",
        "dct(keep=25%, block=8, values=[dense(type=f16)])",
    ),
    ("dct2(keep=auto(error=0.05))", "dct2(error=5%)"),
    ("fft2(block=16)", "fft2(block=16x16)"),
    ("svd(64)", "svd(rank=64)"),
    (
        "svd(factors=int8, error=10%)",
        "svd(error=10%, factors=[int8])",
    ),
    ("tucker", "tucker"),
    ("tucker(ranks=8x4x3x3)", "tucker(ranks=8x4x3x3)"),
    ("cp(rank=16, restarts=3)", "cp(rank=16)"),
    (
        "tt(rank=8, order=interleaved)",
        "tt(rank=8, order=interleaved)",
    ),
    (
        "svd(rank=16)+int4(group=64)|rans",
        "svd(rank=16) + int4(group=64) | rans",
    ),
    ("int4 + int4 + int4", "int4 + int4 + int4"),
    ("dense|shuffle|zstd(9)", "dense | shuffle | zstd(level=9)"),
    ("dense | zstd(3) | gzip(6)", "dense | zstd | gzip"),
    (
        "dense | delta | shuffle(4) | bitshuffle(width=2) | rle | lz4",
        "dense | delta | shuffle(width=4) | bitshuffle(width=2) | rle | lz4",
    ),
    (
        "dense | rotate | shuffle | rans",
        "dense | rotate | shuffle | rans",
    ),
    ("lossless", "lossless"),
    ("auto", "auto"),
    ("auto(1%)", "auto(error=1%)"),
    (
        "auto(error=0.01, prefer=size)",
        "auto(error=1%, prefer=size)",
    ),
    ("auto(bits=4.50, prefer=speed)", "auto(bits=4.5)"),
];

/// A spec and what its error says.
const BAD: &[(&str, &[&str])] = &[
    (
        "",
        &["column 1", "expected the name of a form", "found the end"],
    ),
    ("1nt8", &["column 1", "found '1nt8'"]),
    ("ünt8", &["column 1", "found 'ü'"]),
    (
        "int8 ☃",
        &["column 6", "found '☃'", "expected '+', '|' or the end"],
    ),
    ("int8 zstd", &["column 6", "found 'zstd'"]),
    ("int8 |", &["column 7", "expected the name of a pack"]),
    (
        "int8(group=",
        &["column 12", "expected a value", "found the end"],
    ),
    (
        "int8(group=7)",
        &["column 6", "group", "found '7'", "32, 64, 128, row, tensor"],
    ),
    (
        "int8(32, asymmetric)",
        &["column 10", "only the first option"],
    ),
    (
        "int8(group=32, group=64)",
        &["column 16", "group is given twice"],
    ),
    ("q(bits=9)", &["column 3", "a whole number from 2 to 8"]),
    ("mask(keep=0%)", &["column 6", "a share"]),
    ("mask(threshold=-1)", &["column 6", "a number above 0"]),
    ("mask(values=[int8)", &["column 18", "expected ']'"]),
    (
        "mask(values=[itn4])",
        &["column 14", "unknown form 'itn4'", "did you mean int4"],
    ),
    (
        "itn8",
        &["column 1", "unknown form 'itn8'", "did you mean int8"],
    ),
    (
        "int8 | zsdt",
        &["column 8", "unknown pack 'zsdt'", "did you mean zstd"],
    ),
    (
        "int8(gruop=32)",
        &[
            "column 6",
            "unknown option of int8 'gruop'",
            "did you mean group",
        ],
    ),
    ("zstd", &["column 1", "the pack 'zstd'", "dense | zstd"]),
    ("int8 + auto", &["column 8", "'auto'", "a sum"]),
    (
        "lossless | zstd",
        &["column 12", "chooses its packs itself"],
    ),
    ("auto(error=1%, bits=4)", &["column 1", "error or bits"]),
    ("dense | zstd(99)", &["column 14", "from 1 to 19"]),
];

/// Specs that ask for more than there may be, and what the error says.
fn too_much() -> Vec<(String, &'static str)> {
    vec![
        (
            format!("{}dense{}", "mask(values=[".repeat(8), "])".repeat(8)),
            "inside each other",
        ),
        (format!("dense{}", " | delta".repeat(9)), "9 packs"),
        (["int4"; 9].join(" + "), "9 forms"),
        ("x".repeat(4097), "4097 characters"),
    ]
}

pub fn cases() -> Vec<Value> {
    let mut all = Vec::new();
    for (spec, canonical) in GOOD {
        all.push(json!({"spec": spec, "canonical": canonical}));
    }
    for (spec, contains) in BAD {
        let error = json!({"kind": "invalid_argument", "contains": contains});
        all.push(json!({"spec": spec, "error": error}));
    }
    for (spec, text) in too_much() {
        let error = json!({"kind": "limit_exceeded", "contains": [text]});
        all.push(json!({"spec": spec, "error": error}));
    }
    all
}

pub fn run(cases: &[Value]) {
    for case in cases {
        let spec = text_of(case, "spec");
        match (form::parse(spec), case.get("canonical")) {
            (Ok(found), Some(canonical)) => {
                assert_eq!(found.to_string(), canonical.as_str().unwrap(), "{spec}");
                assert_eq!(form::parse(&found.to_string()).unwrap(), found, "{spec}");
            }
            (Err(e), None) => super::errors::assert_says(&e, &case["error"], spec),
            (found, _) => panic!("{spec}: {found:?}"),
        }
    }
}
