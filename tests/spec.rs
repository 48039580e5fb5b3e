//! The spec language: what its errors say, what it prints, and that nothing brings it down.

use cortex::{DType, Dense, ErrorKind, Tensor, form};
use proptest::prelude::*;

#[test]
fn errors_name_the_column_what_stood_there_and_what_was_expected() {
    for (text, column, found, expected) in [
        ("", 1, "found the end", "expected the name of a form"),
        ("  ", 3, "found the end", "expected the name of a form"),
        ("1nt8", 1, "found '1nt8'", "expected the name of a form"),
        ("(", 1, "found '('", "expected the name of a form"),
        ("ünt8", 1, "found 'ü'", "expected the name of a form"),
        ("| zstd", 1, "found '|'", "expected the name of a form"),
        (
            "int8 zstd",
            6,
            "found 'zstd'",
            "expected '+', '|' or the end",
        ),
        ("int8)", 5, "found ')'", "expected '+', '|' or the end"),
        ("int8 ☃", 6, "found '☃'", "expected '+', '|' or the end"),
        ("int8 |", 7, "found the end", "expected the name of a pack"),
        ("int8 | ", 8, "found the end", "expected the name of a pack"),
        ("int8 | 9", 8, "found '9'", "expected the name of a pack"),
        ("int8 | ☃", 8, "found '☃'", "expected the name of a pack"),
        ("int8 +", 7, "found the end", "expected the name of a form"),
        ("int8(", 6, "found the end", "expected an option or a value"),
        ("int8(,)", 6, "found ','", "expected an option or a value"),
        ("int8(group", 11, "found the end", "expected ',' or ')'"),
        ("int8(group=", 12, "found the end", "expected a value"),
        ("int8(group=)", 12, "found ')'", "expected a value"),
        ("int8(group=☃)", 12, "found '☃'", "expected a value"),
        ("int8(group=32", 14, "found the end", "expected ',' or ')'"),
        (
            "int8(group=32;zero=x)",
            14,
            "found ';'",
            "expected ',' or ')'",
        ),
        (
            "int8(group=32,)",
            15,
            "found ')'",
            "expected an option or a value",
        ),
        ("mask(values=[int8)", 18, "found ')'", "expected ']'"),
        ("mask(values=[int8", 18, "found the end", "expected ']'"),
        (
            "mask(values=[])",
            14,
            "found ']'",
            "expected the name of a form",
        ),
        (
            "int8(group=7)",
            6,
            "found '7'",
            "expected one of 32, 64, 128, row, tensor",
        ),
        (
            "int8(zero=none)",
            6,
            "found 'none'",
            "expected one of symmetric, asymmetric",
        ),
        (
            "int8(search=lsq, group=[int8])",
            18,
            "found a spec in brackets",
            "expected one of",
        ),
        (
            "q(bits=9)",
            3,
            "found '9'",
            "expected a whole number from 2 to 8",
        ),
        (
            "q(bits=4.5)",
            3,
            "found '4.5'",
            "expected a whole number from 2 to 8",
        ),
        (
            "q(99999999999999999999)",
            3,
            "found '999",
            "expected a whole number",
        ),
        (
            "dense | zstd(99)",
            14,
            "found '99'",
            "expected a whole number from 1 to 19",
        ),
        (
            "dense | shuffle(3)",
            17,
            "found '3'",
            "expected one of 1, 2, 4, 8",
        ),
        ("mask(keep=0%)", 6, "found '0%'", "expected a share"),
        ("mask(keep=101%)", 6, "found '101%'", "expected a share"),
        ("mask(keep=nan)", 6, "found 'nan'", "expected a share"),
        ("mask(keep=%)", 6, "found '%'", "expected a share"),
        (
            "mask(threshold=-1)",
            6,
            "found '-1'",
            "expected a number above 0",
        ),
        (
            "mask(threshold=inf)",
            6,
            "found 'inf'",
            "expected a number above 0",
        ),
        (
            "mask(threshold=1e999)",
            6,
            "found '1e999'",
            "expected a number above 0",
        ),
        (
            "mask([int8])",
            6,
            "found a spec in brackets",
            "expected a number",
        ),
        // What is known, but not here.
        ("zstd", 1, "found the pack 'zstd'", "expected a form"),
        ("int8 | int4", 8, "unknown pack 'int4'", "known are delta"),
        (
            "wavelet9000",
            1,
            "unknown form 'wavelet9000'",
            "known are dense",
        ),
        ("int8 + auto", 8, "'auto'", "cannot stand inside a sum"),
        (
            "lossless + int8",
            1,
            "'lossless'",
            "cannot stand inside a sum",
        ),
        (
            "int8 + int9",
            8,
            "unknown form 'int9'",
            "did you mean int4 or int8",
        ),
        (
            "lossless | zstd",
            12,
            "'lossless'",
            "chooses its packs itself",
        ),
        (
            "mask(values=[auto])",
            14,
            "'auto'",
            "cannot stand inside another spec",
        ),
        (
            "mask(values=lossless)",
            6,
            "'lossless'",
            "cannot stand inside another spec",
        ),
        ("auto(error=1%, bits=4)", 1, "error or bits", "not both"),
        (
            "mask(threshold=0.1, keep=5%)",
            1,
            "threshold or keep",
            "not both",
        ),
        (
            "mask(values=[mask(threshold=0.1, keep=5%)])",
            14,
            "threshold or keep",
            "not both",
        ),
        ("int8(group=32, group=64)", 16, "group", "given twice"),
        ("int8(32, group=64)", 10, "group", "given twice"),
        (
            "int8(32, asymmetric)",
            10,
            "only the first option",
            "without its name",
        ),
        ("dense | delta(3)", 15, "delta", "takes no options"),
        ("lossless(1)", 10, "lossless", "takes no options"),
    ] {
        let e = form::parse(text).expect_err(text);
        assert_eq!(e.kind(), ErrorKind::InvalidArgument, "{text}: {e}");
        let message = e.message();
        let start = format!("spec, column {column}: ");
        assert!(
            message.starts_with(&start),
            "'{text}' column {column}: {message}"
        );
        assert!(message.contains(found), "'{text}' {found}: {message}");
        assert!(message.contains(expected), "'{text}' {expected}: {message}");
    }
}

#[test]
fn names_that_are_nearly_right_are_guessed() {
    for (text, column, guess) in [
        ("itn8", 1, "did you mean int8"),
        ("int5", 1, "int4 or int8"),
        ("dens", 1, "did you mean dense"),
        ("Dense", 1, "did you mean dense"),
        ("loseless", 1, "did you mean lossless"),
        ("maks(keep=1%)", 1, "did you mean mask"),
        ("int8 | zsdt", 8, "did you mean zstd"),
        ("dense | shufle | zstd", 9, "did you mean shuffle"),
        ("dense | bitshufle", 9, "did you mean bitshuffle"),
        ("int8(gruop=32)", 6, "did you mean group"),
        ("int8(serach=lsq)", 6, "did you mean search"),
        ("dense | zstd(lvel=3)", 14, "did you mean level"),
        ("mask(values=[itn4])", 14, "did you mean int4"),
        ("auto(eror=1%)", 6, "did you mean error"),
    ] {
        let e = form::parse(text).expect_err(text);
        let message = e.message();
        assert!(
            message.starts_with(&format!("spec, column {column}: unknown ")),
            "{message}"
        );
        assert!(message.contains(guess), "'{text}': {message}");
    }
}

#[test]
fn specs_print_in_one_way() {
    for (text, canonical) in [
        ("int8", "int8"),
        ("int8()", "int8"),
        (" int8 ( group = row , search=absmax ) ", "int8(group=row)"),
        ("int8(search=lsq, group=64)", "int8(group=64, search=lsq)"),
        ("int8(group=32, zero=symmetric)", "int8"),
        ("int4(128)", "int4(group=128)"),
        ("q", "int4"),
        ("q(8)", "int8"),
        ("q(bits=4, zero=asymmetric)", "int4(zero=asymmetric)"),
        ("q(bits=05)", "q(bits=5)"),
        ("dense(f16)", "dense(type=f16)"),
        ("dense|zstd(3)", "dense | zstd"),
        ("dense | zstd(9)|lz4", "dense | zstd(level=9) | lz4"),
        ("dense | shuffle(4)", "dense | shuffle(width=4)"),
        ("mask(values=dense)", "mask"),
        ("mask(values=[dense])", "mask"),
        (
            "mask(values=[q(bits=8)|zstd(3)])|lz4",
            "mask(values=[int8 | zstd]) | lz4",
        ),
        ("mask(keep=0.1)", "mask(keep=10%)"),
        ("mask(keep=1e-3)", "mask(keep=0.1%)"),
        ("mask(keep=33.3%)", "mask(keep=33.3%)"),
        ("mask(keep=1)", "mask(keep=100%)"),
        ("mask(0.5)", "mask(threshold=0.5)"),
        ("mask(threshold=50%)", "mask(threshold=0.5)"),
        ("mask(threshold=1e-3)", "mask(threshold=0.001)"),
        ("auto", "auto"),
        ("auto(1%)", "auto(error=1%)"),
        ("auto(bits=4.50)", "auto(bits=4.5)"),
        ("lossless", "lossless"),
    ] {
        let spec = form::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(spec.to_string(), canonical, "{text}");
        assert_eq!(form::parse(canonical).unwrap(), spec);
    }
}

#[test]
fn length_depth_and_chains_are_bounded() {
    let deep = |n: usize| format!("{}dense{}", "mask(values=[".repeat(n), "])".repeat(n));
    assert!(form::parse(&deep(7)).is_ok());
    for text in [
        deep(8),
        deep(300),
        "mask(values=[".repeat(300),
        "x".repeat(4097),
        format!("dense{}", " | delta".repeat(9)),
    ] {
        let e = form::parse(&text).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::LimitExceeded, "{e}");
        assert!(e.message().len() < 300, "{e}");
    }
    assert!(form::parse(&format!("dense{}", " | delta".repeat(8))).is_ok());
}

/// Specs of every codec and option, deep and shallow.
fn specs() -> impl Strategy<Value = String> {
    let option = |key: &'static str, values: Vec<&'static str>| {
        proptest::option::of(
            proptest::sample::select(values).prop_map(move |v| format!("{key}={v}")),
        )
    };
    let quant = (
        proptest::sample::select(vec!["int8", "int4", "q"]),
        option("group", vec!["32", "64", "128", "row", "tensor"]),
        option("zero", vec!["symmetric", "asymmetric"]),
        option("search", vec!["absmax", "lsq"]),
        2..=8,
    )
        .prop_map(|(name, group, zero, search, bits)| {
            let bits = (name == "q").then(|| format!("bits={bits}"));
            term(name, [zero, group, search, bits])
        });
    let dense = option("type", vec!["f16", "bf16"]).prop_map(|t| term("dense", [t]));
    let leaf = prop_oneof![quant, dense];
    let form = leaf.prop_recursive(4, 8, 2, |inner| {
        let keep = prop_oneof![
            Just(None),
            (1e-6f64..=1.0).prop_map(|k| Some(format!("keep={k}"))),
            (0.001f64..100.0).prop_map(|k| Some(format!("keep={k}%"))),
            any::<f64>().prop_map(|t| Some(format!("threshold={:e}", t.abs()))),
        ];
        (keep, proptest::option::of(packed(inner))).prop_map(|(keep, values)| {
            term("mask", [keep, values.map(|v| format!("values=[{v}]"))])
        })
    });
    packed(form)
}

fn packed(form: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
    let pack = prop_oneof![
        Just("delta".to_owned()),
        Just("rle".to_owned()),
        Just("lz4".to_owned()),
        Just("shuffle(width=2)".to_owned()),
        Just("bitshuffle".to_owned()),
        (1..=9).prop_map(|l| format!("gzip({l})")),
        (1..=19).prop_map(|l| format!("zstd(level={l})")),
    ];
    (form, proptest::collection::vec(pack, 0..4)).prop_map(|(form, packs)| {
        let packs: Vec<String> = packs.iter().map(|p| format!(" | {p}")).collect();
        format!("{form}{}", packs.concat())
    })
}

fn term<const N: usize>(name: &str, args: [Option<String>; N]) -> String {
    let args: Vec<String> = args.into_iter().flatten().collect();
    format!("{name}({})", args.join(", "))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_read_or_refused(text in any::<String>()) {
        if let Err(e) = form::parse(&text) {
            prop_assert!(matches!(e.kind(), ErrorKind::InvalidArgument | ErrorKind::LimitExceeded));
        }
    }

    #[test]
    fn text_of_the_right_letters_is_read_or_refused(
        words in proptest::collection::vec(proptest::sample::select(vec![
            "int8", "q", "mask", "dense", "auto", "zstd", "values", "keep", "group", "threshold",
            "(", ")", "[", "]", "=", ",", "|", "+", "%", "1", "32", "0.5", "1e308", "-", " ", "\t", "é",
        ]), 0..30)
    ) {
        let text = words.concat();
        match form::parse(&text) {
            Ok(spec) => prop_assert_eq!(form::parse(&spec.to_string()).unwrap(), spec),
            Err(e) => prop_assert!(e.message().contains("column") || e.kind() == ErrorKind::LimitExceeded),
        }
    }

    #[test]
    fn printing_is_a_fixed_point(text in specs()) {
        match form::parse(&text) {
            Ok(spec) => {
                let printed = spec.to_string();
                let again = form::parse(&printed);
                prop_assert!(again.is_ok(), "{} prints as {}: {:?}", text, printed, again);
                prop_assert_eq!(again.unwrap().to_string(), printed);
            }
            // A threshold of 0, NaN or infinity.
            Err(e) => prop_assert!(text.contains("threshold="), "{}: {}", text, e),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 150, ..ProptestConfig::default() })]

    /// What prints the same encodes the same.
    #[test]
    fn canonical_specs_encode_the_same(text in specs()) {
        let Ok(spec) = form::parse(&text) else { return Ok(()) };
        let values: Vec<f32> = (0..20 * 37).map(|i| ((i * 7919 % 1000) as f32 - 500.0) / 1000.0).collect();
        let dense = Dense::from_slice(&values, &[20, 37]).unwrap();
        let a = Tensor::compress(&dense.view(), &text).unwrap();
        let b = Tensor::compress(&dense.view(), &spec.to_string()).unwrap();
        prop_assert_eq!(a.spec(), b.spec());
        prop_assert_eq!(a.stored_bytes(), b.stored_bytes());
        let (a, b) = (a.decompress().unwrap(), b.decompress().unwrap());
        prop_assert_eq!(a.dtype(), DType::F32);
        prop_assert_eq!(a.bytes(), b.bytes());
    }
}
