//! What `tests/golden/v1` holds. Lines are added at the end and never changed: each stands
//! for a file that was written once.

use cortex::DType::{self, BF16, Bool, F16, F32, F64, I8, I16, I32, I64, U8, U16};
use cortex::pack::Chain;
use cortex::spec::Spec;
use serde_json::{Value, json};

use super::cai;
use super::frozen::Fill::{Bits, Constant, Extremes, LowRank, Normal, Smooth, Sparse};
use super::frozen::{Fill, fill};

/// An archive.
pub struct Golden {
    pub file: String,
    pub metadata: Vec<(&'static str, &'static str)>,
    pub content: Content,
    pub aliases: Vec<(&'static str, &'static str)>,
    /// It holds what no version knows yet, and tensors named `known…`.
    pub refused: bool,
}

pub enum Content {
    /// Written by this version.
    Tensors(Vec<Dense>),
    /// Put together by hand.
    Bytes(Vec<u8>),
}

/// A tensor of an archive, before it is compressed.
pub struct Dense {
    pub name: String,
    pub dtype: DType,
    pub shape: Vec<usize>,
    pub data: Vec<u8>,
    pub spec: String,
}

/// Tensors under names that count up.
#[derive(Default)]
struct Tensors(Vec<Dense>);

impl Tensors {
    fn add(&mut self, spec: &str, dtype: DType, shape: &[usize], what: Fill) {
        let name = format!("{:02}", self.0.len());
        self.named(&name, spec, dtype, shape, what);
    }

    fn named(&mut self, name: &str, spec: &str, dtype: DType, shape: &[usize], what: Fill) {
        self.0.push(Dense {
            name: name.to_owned(),
            dtype,
            shape: shape.to_vec(),
            // What stands before a tensor in the table does not change it.
            data: fill(
                what,
                dtype,
                shape,
                u64::from(crc32c::crc32c(spec.as_bytes())),
            ),
            spec: spec.to_owned(),
        });
    }

    /// The spec with every float dtype and at every odd shape.
    fn shapes(&mut self, spec: &str, what: Fill) {
        for dtype in [F64, F32, F16, BF16] {
            self.add(spec, dtype, &[5, 11], what);
        }
        for shape in [
            &[][..],
            &[0],
            &[0, 3],
            &[3, 0],
            &[1],
            &[7],
            &[1, 9],
            &[9, 1],
            &[17, 3],
            &[2, 3, 2],
            &[3, 2, 3, 3],
        ] {
            self.add(spec, F32, shape, what);
        }
    }
}

fn tensors(file: &str, list: Tensors) -> Golden {
    Golden {
        file: file.to_owned(),
        metadata: Vec::new(),
        content: Content::Tensors(list.0),
        aliases: Vec::new(),
        refused: false,
    }
}

fn by_hand(file: &str, bytes: Vec<u8>) -> Golden {
    Golden {
        content: Content::Bytes(bytes),
        ..tensors(file, Tensors::default())
    }
}

/// Every file there must be: what there was at first, then what was added, in that order.
pub fn archives() -> Vec<Golden> {
    let mut all = vec![
        dense(),
        quant(),
        mask(),
        sdr(),
        ecq(),
        spectral(),
        svd(),
        tucker(),
        cp(),
        tt(),
        sum(),
    ];
    all.extend(DType::ALL.into_iter().take(13).map(dtype));
    all.extend(PACKS.map(pack));
    all.extend([pack_chains(), nesting(), nesting_others(), names()]);
    all.push(tensors("empty.cai", Tensors::default()));
    all.extend([chunks(), minor(), newer()]);
    all
}

fn dense() -> Golden {
    let mut t = Tensors::default();
    t.shapes("dense", Extremes);
    for to in ["f32", "f16", "bf16"] {
        for dtype in [F64, F32, F16, BF16] {
            t.add(&format!("dense(type={to})"), dtype, &[3, 7], Normal);
        }
    }
    t.add("lossless", F32, &[9, 15], Normal);
    t.add("lossless", F32, &[9, 15], Sparse(20));
    tensors("form-dense.cai", t)
}

fn quant() -> Golden {
    let mut t = Tensors::default();
    t.shapes("int8", Normal);
    for name in ["int8", "int4", "q(bits=3)"] {
        let with = |options: &str| match name.strip_suffix(')') {
            Some(open) => format!("{open}, {options})"),
            None => format!("{name}({options})"),
        };
        t.add(&with("group=32"), F32, &[19, 45], Normal);
        t.add(&with("group=64, search=lsq"), F32, &[3, 70], Normal);
        t.add(&with("group=128, zero=asymmetric"), F32, &[2, 131], Smooth);
        t.add(&with("group=row, search=gptq"), F32, &[17, 13], Normal);
        t.add(&with("group=tensor"), F32, &[4, 13], Normal);
        t.add(
            &with("group=tensor, zero=asymmetric, search=lsq"),
            F32,
            &[4, 13],
            Smooth,
        );
    }
    for bits in [2, 5, 6, 7] {
        t.add(&format!("q(bits={bits})"), F32, &[18, 34], Normal);
        t.add(
            &format!("q(bits={bits}, zero=asymmetric)"),
            F32,
            &[3, 33],
            Smooth,
        );
    }
    t.add("int4", F32, &[4, 40], Constant(0.37));
    t.add("int4", F32, &[4, 40], Constant(0.0));
    tensors("form-q.cai", t)
}

fn mask() -> Golden {
    let mut t = Tensors::default();
    t.shapes("mask", Sparse(3));
    for dtype in [I8, U16, I32, I64, Bool] {
        t.add("mask", dtype, &[4, 19], Sparse(5));
    }
    t.add("mask(positions=bitmap)", F32, &[6, 37], Sparse(10));
    t.add("mask(positions=indices)", F32, &[6, 37], Sparse(10));
    t.add("mask(positions=coded)", F32, &[6, 37], Sparse(10));
    t.add("mask(keep=25%)", F32, &[6, 37], Normal);
    t.add("mask(threshold=1.25)", BF16, &[6, 37], Normal);
    t.add("mask(keep=30%, score=wanda)", F32, &[6, 37], Normal);
    t.add("mask(keep=30%, score=sparsegpt)", F32, &[6, 37], Normal);
    t.add(
        "mask(keep=50%, values=[int4(group=64)])",
        F32,
        &[8, 37],
        Normal,
    );
    // More values than a row of 256 holds.
    t.add("mask(values=[int8])", F32, &[20, 37], Sparse(2));
    t.add("mask", F32, &[4, 9], Constant(0.0));
    t.add("mask", F32, &[4, 9], Extremes);
    tensors("form-mask.cai", t)
}

fn sdr() -> Golden {
    let mut t = Tensors::default();
    t.shapes("sdr", Sparse(4));
    for dtype in [I16, U8, I64, Bool] {
        t.add("sdr", dtype, &[6, 29], Sparse(9));
    }
    t.add("sdr(keep=5%)", F32, &[9, 41], Normal);
    t.add("sdr(threshold=1.75)", F32, &[9, 41], Normal);
    t.add("sdr(keep=10%, values=sign)", F32, &[9, 41], Normal);
    t.add("sdr(values=sign)", F16, &[9, 41], Sparse(12));
    t.add("sdr(keep=20%, values=[int8])", F32, &[9, 41], Normal);
    t.add("sdr(keep=20%, values=[bf16])", F32, &[9, 41], Normal);
    t.add("outliers(keep=1%)", F32, &[9, 41], Normal);
    // All alike, alike up to the sign, none and all active.
    t.add("sdr", Bool, &[11, 13], Sparse(6));
    t.add("sdr", F32, &[5, 6], Constant(0.5));
    t.add("sdr", F32, &[5, 6], Constant(0.0));
    t.add("sdr", F32, &[5, 6], Extremes);
    tensors("form-sdr.cai", t)
}

fn ecq() -> Golden {
    let mut t = Tensors::default();
    t.shapes("ecq", Normal);
    t.add("ecq(bits=2.5)", F32, &[13, 37], Normal);
    t.add("ecq(bits=6)", F32, &[13, 37], Normal);
    t.add("ecq(error=5%)", F32, &[13, 37], Normal);
    t.add("ecq(bits=3, trellis=8)", F32, &[13, 37], Normal);
    t.add("ecq(error=10%, trellis=8)", BF16, &[13, 37], Normal);
    t.add("ecq", F32, &[5, 7], Constant(0.25));
    t.add("ecq", F32, &[5, 7], Constant(0.0));
    tensors("form-ecq.cai", t)
}

fn spectral() -> Golden {
    let mut t = Tensors::default();
    t.shapes("dct2(keep=50%)", Smooth);
    for name in ["fft", "dct"] {
        t.add(&format!("{name}(keep=25%)"), F32, &[5, 21], Smooth);
        t.add(&format!("{name}(error=5%, block=8)"), F32, &[5, 21], Normal);
        t.add(
            &format!("{name}(keep=50%, values=[f16])"),
            F32,
            &[5, 21],
            Normal,
        );
    }
    for name in ["fft2", "dct2"] {
        t.add(&format!("{name}(keep=25%)"), F32, &[7, 18], Smooth);
        t.add(
            &format!("{name}(error=5%, block=4x8)"),
            F32,
            &[7, 18],
            Normal,
        );
        t.add(
            &format!("{name}(keep=50%, values=[int8])"),
            F32,
            &[7, 18],
            Normal,
        );
    }
    tensors("form-spectral.cai", t)
}

fn svd() -> Golden {
    let mut t = Tensors::default();
    t.shapes("svd(rank=1)", LowRank);
    t.add("svd(rank=2, factors=[bf16])", F32, &[9, 14], LowRank);
    t.add("svd(error=20%, factors=[f16])", F32, &[9, 14], LowRank);
    t.add(
        "svd(energy=50%, whiten=yes, factors=[bf16])",
        F32,
        &[9, 14],
        LowRank,
    );
    t.add("svd(params=20%, whiten=none)", F32, &[9, 14], LowRank);
    tensors("form-svd.cai", t)
}

fn tucker() -> Golden {
    let mut t = Tensors::default();
    t.shapes("tucker(rank=1)", LowRank);
    t.add("tucker(ranks=1x1x1, core=[bf16])", F32, &[4, 3, 5], Normal);
    t.add("tucker(error=90%, factors=[bf16])", F32, &[4, 3, 5], Normal);
    t.add("tucker(params=10%)", F32, &[4, 3, 5], Normal);
    t.add("tucker(rank=1, modes=matrix)", F32, &[4, 3, 5], Normal);
    tensors("form-tucker.cai", t)
}

fn cp() -> Golden {
    let mut t = Tensors::default();
    t.shapes("cp(rank=1)", LowRank);
    t.add(
        "cp(rank=1, restarts=1, factors=[bf16])",
        F32,
        &[4, 3, 5],
        Normal,
    );
    t.add("cp(error=95%)", F32, &[4, 3, 5], Normal);
    tensors("form-cp.cai", t)
}

fn tt() -> Golden {
    let mut t = Tensors::default();
    t.shapes("tt(rank=1)", LowRank);
    t.add(
        "tt(rank=1, rows=2x4, cols=3x4, order=interleaved)",
        F32,
        &[8, 12],
        LowRank,
    );
    t.add(
        "tt(rank=1, order=separate, factors=[bf16])",
        F32,
        &[8, 12],
        LowRank,
    );
    t.add("tt(error=95%)", F32, &[8, 12], Normal);
    t.add("tt(params=20%)", F32, &[8, 12], Normal);
    tensors("form-tt.cai", t)
}

fn sum() -> Golden {
    let mut t = Tensors::default();
    t.shapes("int4 + q(bits=2)", Normal);
    t.add("outliers(keep=2%) + q(bits=3)", F32, &[8, 37], Normal);
    t.add("svd(rank=1) + int4 | zstd", F32, &[8, 37], Normal);
    t.add("dct2(keep=10%) + int8", F32, &[8, 37], Smooth);
    t.add(&["q(bits=2)"; 8].join(" + "), F32, &[4, 33], Normal);
    tensors("form-sum.cai", t)
}

fn dtype(dtype: DType) -> Golden {
    let mut t = Tensors::default();
    for what in [Extremes, Bits] {
        for spec in ["dense", "dense | shuffle | rans", "mask", "sdr"] {
            t.add(spec, dtype, &[4, 6], what);
        }
    }
    t.add("lossless", dtype, &[30], Normal);
    t.add("dense", dtype, &[], Normal);
    t.add("mask", dtype, &[0, 2], Normal);
    tensors(&format!("dtype-{dtype}.cai"), t)
}

/// Packs with options to try.
const PACKS: [(&str, &[&str]); 9] = [
    ("delta", &[]),
    ("shuffle", WIDTHS),
    ("bitshuffle", WIDTHS),
    ("rle", &[]),
    ("gzip", &["level=1", "level=9"]),
    ("zstd", &["level=1", "level=19"]),
    ("lz4", &[]),
    ("rotate", WIDTHS),
    ("rans", &[]),
];

const WIDTHS: &[&str] = &["width=1", "width=2", "width=4", "width=8"];

fn pack((name, options): (&str, &[&str])) -> Golden {
    let mut t = Tensors::default();
    let plain = format!("dense | {name}");
    for dtype in [U8, BF16, F32, F64] {
        t.add(&plain, dtype, &[7, 23], Normal);
    }
    t.add(&plain, U8, &[300], Constant(3.0));
    t.add(&plain, F32, &[0, 3], Normal);
    t.add(&plain, F32, &[], Normal);
    t.add(&plain, I32, &[7, 23], Sparse(9));
    t.add(&format!("int8 | {name}"), F32, &[7, 23], Normal);
    for option in options {
        t.add(&format!("dense | {name}({option})"), I32, &[90], Sparse(2));
    }
    tensors(&format!("pack-{name}.cai"), t)
}

fn pack_chains() -> Golden {
    let mut t = Tensors::default();
    for chain in [
        "shuffle | zstd(level=9)",
        "delta | shuffle | lz4",
        "bitshuffle | rle | gzip",
        "rotate | shuffle | rans",
        "delta | delta | rotate | bitshuffle | shuffle | rle | rans | zstd",
    ] {
        for form in ["dense", "int4(zero=asymmetric)", "mask", "sdr", "ecq"] {
            t.add(&format!("{form} | {chain}"), F32, &[9, 40], Sparse(3));
        }
    }
    tensors("pack-chains.cai", t)
}

fn nesting() -> Golden {
    let mut t = Tensors::default();
    // Factors of one term, whose products are the same with every instruction set.
    for inner in [
        "dense",
        "f32",
        "f16",
        "bf16",
        "int8",
        "int4",
        "q(bits=3)",
        "mask",
        "sdr",
        "outliers(keep=20%)",
        "ecq",
        "fft(keep=50%)",
        "fft2(keep=50%)",
        "dct(keep=50%)",
        "dct2(keep=50%)",
        "svd(rank=1)",
        "tucker(rank=1)",
        "cp(rank=1)",
        "tt(rank=1)",
        "int4 + q(bits=2)",
    ] {
        t.add(
            &format!("mask(keep=60%, values=[{inner}])"),
            F32,
            &[9, 41],
            Normal,
        );
    }
    tensors("nesting-in-mask.cai", t)
}

fn nesting_others() -> Golden {
    let mut t = Tensors::default();
    for spec in [
        "sdr(keep=50%, values=[mask(keep=50%)])",
        "sdr(keep=50%, values=[int4 + q(bits=2)])",
        "dct(keep=60%, values=[int8 | zstd])",
        "svd(rank=1, factors=[int8])",
        "svd(rank=1, factors=[mask(values=[int8])]) + int4(search=lsq) | rans",
        "tucker(rank=1, factors=[int8(group=row)], core=[f16])",
        "cp(rank=1, factors=[int8])",
        "tt(rank=1, factors=[int8])",
        "mask(values=[sdr(values=[ecq(bits=5)])])",
        "sdr(keep=60%, values=[mask(keep=80%, values=[int8 | rans])]) + int4 | rans",
    ] {
        t.add(spec, F32, &[9, 41], Normal);
    }
    // As deep as specs go.
    let deep = format!("{}int8{}", "mask(values=[".repeat(7), "])".repeat(7));
    t.add(&deep, F32, &[9, 41], Normal);
    tensors("nesting.cai", t)
}

fn names() -> Golden {
    let mut t = Tensors::default();
    for name in [
        "model/encoder.layer.0/attention.weight",
        "a name with spaces, \"quotes\" and a \\",
        "größe",
        "重み",
        "🦀",
        "e\u{301} and \u{e9}",
        "line\nbreak\ttab",
        ".",
        "..",
        "__proto__",
        "constructor",
        "0",
    ] {
        t.named(name, "dense", F32, &[2, 3], Normal);
    }
    Golden {
        metadata: vec![
            ("format", "pt"),
            ("empty", ""),
            ("", "an empty key"),
            ("Übersetzung", "größer als 1 µs: 翻訳"),
            ("quote", "\"{\\n}\"\n"),
            ("__proto__", "a name that JavaScript has a use for"),
        ],
        aliases: vec![
            ("tied", "重み"),
            ("gebunden/größe", "größe"),
            ("also tied", "重み"),
        ],
        ..tensors("names.cai", t)
    }
}

/// A tensor of an index that is put together by hand.
fn stored(name: &str, dtype: &str, shape: &[usize], form: Value) -> Value {
    json!({
        "name": name,
        "dtype": dtype,
        "shape": shape,
        "spec": "dense",
        "error": {"relative": 0.0, "max_abs": 0.0},
        "form": form,
    })
}

fn dense_form(buffer: &Value) -> Value {
    json!({"kind": "dense", "params": {}, "parts": [{"name": "data", "buffer": buffer}]})
}

fn index(tensors: Vec<Value>) -> Value {
    json!({"generator": "by hand", "metadata": {}, "tensors": tensors, "aliases": []})
}

/// Buffers of many small chunks: some coded and some raw in one buffer, as a writer stores
/// what coding would make longer; and with a last chunk of one element.
fn chunks() -> Golden {
    let mut body = cai::Body::new();
    let mut tensors = Vec::new();
    for (name, packs, chunk) in [
        ("raw", "", 64),
        ("shuffle", "shuffle", 64),
        ("mixed", "shuffle | rans", 128),
        ("zstd", "zstd", 192),
        ("runs", "delta | rle", 64),
    ] {
        // Every other stretch of chunks repeats itself.
        let mut data = fill(Bits, I32, &[257], 3);
        for (i, b) in data.iter_mut().enumerate() {
            if i / 256 % 2 == 1 {
                *b = 7;
            }
        }
        let terms = match packs {
            "" => Vec::new(),
            packs => {
                Spec::parse_syntax(&format!("dense | {packs}"))
                    .unwrap()
                    .packs
            }
        };
        let chain = Chain::new(&terms, 4).unwrap();
        let records: Vec<Value> = data
            .chunks(chunk)
            .map(|raw| {
                let coded = chain.encode(raw).unwrap();
                let bytes = coded.as_deref().unwrap_or(raw);
                let record = body.raw(bytes, 4)["chunks"][0].clone();
                json!([record[0], record[1], record[2], u8::from(coded.is_some())])
            })
            .collect();
        let mut buffer = json!({"bytes": data.len(), "chunk": chunk, "width": 4});
        if !packs.is_empty() {
            buffer["packs"] = chain.text().into();
        }
        buffer["chunks"] = records.into();
        let mut tensor = stored(name, "i32", &[257], dense_form(&buffer));
        if !packs.is_empty() {
            tensor["spec"] = format!("dense | {}", chain.text()).into();
        }
        tensors.push(tensor);
    }
    by_hand(
        "chunks.cai",
        cai::join(&body.bytes, index(tensors).to_string().as_bytes()),
    )
}

/// A later minor version, with members of the index that no reader knows yet.
fn minor() -> Golden {
    let mut body = cai::Body::new();
    body.bytes[10] = 7;
    cai::seal(&mut body.bytes[..64], 60);
    let buffer = body.raw(&fill(Normal, F32, &[2, 3], 5), 4);
    let mut form = dense_form(&buffer);
    form["since"] = 7.into();
    form["parts"][0]["layout"] = "as before".into();
    form["parts"][0]["buffer"]["hint"] = json!([1, 2]);
    let mut tensor = stored("known", "f32", &[2, 3], form);
    tensor["importance"] = json!({"layer": 0.5});
    let mut index = index(vec![tensor]);
    index["signature"] = "none".into();
    index["metadata"] = json!({"text": "is read", "number": 4, "list": []});
    by_hand(
        "minor.cai",
        cai::join(&body.bytes, index.to_string().as_bytes()),
    )
}

/// A later minor version, with a form, a pack and a dtype that no reader knows yet.
fn newer() -> Golden {
    let mut body = cai::Body::new();
    body.bytes[10] = 9;
    cai::seal(&mut body.bytes[..64], 60);
    let data = fill(Normal, F32, &[2, 3], 6);
    let mut buffer = || body.raw(&data, 4);
    let known = stored("known", "f32", &[2, 3], dense_form(&buffer()));
    let also = stored("known too", "f32", &[2, 3], dense_form(&buffer()));
    let wavelet = json!({"kind": "wavelet", "params": {"levels": 2}, "parts": [{"name": "bands", "buffer": buffer()}]});
    let mut inner = wavelet.clone();
    inner["parts"][0]["buffer"] = buffer();
    inner["dtype"] = "f32".into();
    inner["shape"] = json!([2, 3]);
    let outer = json!({
        "kind": "sum",
        "params": {"terms": 2},
        "parts": [{"name": "term0", "form": inner.clone()}, {"name": "term1", "form": {
            "kind": "dense", "dtype": "f32", "shape": [2, 3], "params": {},
            "parts": [{"name": "data", "buffer": buffer()}],
        }}],
    });
    let mut packed = buffer();
    packed["packs"] = "shuffle | brotli(quality=5)".into();
    let eight =
        json!({"kind": "dense", "params": {}, "parts": [{"name": "data", "buffer": buffer()}]});
    let tensors = vec![
        known,
        stored("form", "f32", &[2, 3], wavelet),
        stored("nested form", "f32", &[2, 3], outer),
        stored("pack", "f32", &[2, 3], dense_form(&packed)),
        stored("dtype", "f8", &[24], eight),
        also,
    ];
    Golden {
        refused: true,
        ..by_hand(
            "refused-newer.cai",
            cai::join(&body.bytes, index(tensors).to_string().as_bytes()),
        )
    }
}
