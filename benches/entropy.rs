//! The pack `rans` beside order-0 entropies and zstd: sizes, and rates of one thread on
//! every kernel set, on codes such as forms make; and chains for whole models of floats.
//!
//! `cargo bench --bench entropy -- [--model model.safetensors]`. A name (`codes`,
//! `models`) runs that part alone. zstd's own Huffman coder, huff0, is not exported by
//! `zstd-sys`; it is what zstd(1) codes literals with, and on these data literals are
//! all that there is.

use std::hint::black_box;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use cortex::DType;
use cortex::import::Model;
use cortex::kernel::{self, Isa};
use cortex::pack::Chain;
use cortex::spec::Spec;
use half::{bf16, f16};

/// As archives cut their buffers.
const CHUNK: usize = 256 << 10;

fn main() {
    let mut model = None;
    let mut parts = Vec::new();
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--model" => model = args.next().map(PathBuf::from),
            "--bench" => {}
            "rates-child" => return rates_child(),
            part => parts.push(part.to_owned()),
        }
    }
    let wanted = |part: &str| parts.is_empty() || parts.iter().any(|p| p == part);
    println!("# Entropy coding\n");
    if wanted("codes") {
        codes();
    }
    if wanted("models") {
        match model {
            Some(model) => models(&model),
            None => println!("models: no --model given, not measured"),
        }
    }
}

struct Random(u64);

impl Random {
    fn uniform(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) as f64 / (1u64 << 53) as f64
    }

    fn gaussian(&mut self) -> f64 {
        let (u, v) = (self.uniform().max(1e-300), self.uniform());
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }
}

/// Bits per symbol by its own frequencies, in the data as a whole.
fn entropy(symbols: impl Iterator<Item = u8>) -> f64 {
    let mut counts = [0u64; 256];
    symbols.for_each(|s| counts[usize::from(s)] += 1);
    let total: u64 = counts.iter().sum();
    let share = |n: &u64| *n as f64 / total as f64;
    let present = counts.iter().filter(|n| **n > 0);
    present.map(|n| -share(n) * share(n).log2()).sum()
}

struct Data {
    name: String,
    bytes: Vec<u8>,
    /// Bits per byte of an ideal coder of the symbols that the bytes are made of.
    entropy: f64,
}

/// Codes of normal weights: `round(w / s)` with s such that the largest of a group of 32
/// becomes `most`, plus `most`.
fn group_codes(n: usize, most: f64) -> Vec<u8> {
    let mut random = Random(7);
    let mut codes = Vec::with_capacity(n);
    for _ in 0..n / 32 {
        let group: [f64; 32] = std::array::from_fn(|_| random.gaussian());
        let scale = group.iter().fold(0f64, |m, v| m.max(v.abs())) / most;
        codes.extend(group.map(|w| ((w / scale).round() + most) as u8));
    }
    codes
}

fn data() -> Vec<Data> {
    let n = 4 << 20;
    let mut all = Vec::new();
    let bytes = group_codes(n, 127.0);
    let h = entropy(bytes.iter().copied());
    all.push(("int8 group 32".into(), bytes, h));
    let nibbles = group_codes(2 * n, 7.0);
    let pairs = nibbles.as_chunks::<2>().0.iter();
    let bytes = pairs.map(|[low, high]| low | high << 4).collect();
    all.push((
        "int4 group 32, pairs".into(),
        bytes,
        2.0 * entropy(nibbles.iter().copied()),
    ));
    let fields = group_codes(4 * n, 1.0);
    let quads = fields.as_chunks::<4>().0.iter();
    let bytes = quads
        .map(|f| f[0] | f[1] << 2 | f[2] << 4 | f[3] << 6)
        .collect();
    all.push((
        "2 bits group 32, fours".into(),
        bytes,
        4.0 * entropy(fields.iter().copied()),
    ));
    // Steps that give 2, 3, 4 and 5 bits of entropy.
    for (bits, step) in [(2, 1.0356), (3, 0.5163), (4, 0.2582), (5, 0.1291)] {
        let mut random = Random(9 + bits);
        let code = |w: f64| ((w / step).round() + 128.0) as u8;
        let bytes: Vec<u8> = (0..n).map(|_| code(random.gaussian())).collect();
        let h = entropy(bytes.iter().copied());
        all.push((format!("uniform steps, {bits} bits"), bytes, h));
    }
    for percent in [1u32, 5, 10, 20] {
        let p = f64::from(percent) / 100.0;
        let mut random = Random(11 + u64::from(percent));
        let mut bit = |i: u8| u8::from(random.uniform() < p) << i;
        let bytes = (0..n).map(|_| (0..8).map(&mut bit).sum()).collect();
        let h = -p * p.log2() - (1.0 - p) * (1.0 - p).log2();
        all.push((format!("bitmask {percent} %"), bytes, 8.0 * h));
    }
    let mut random = Random(13);
    let exponent = |w: f64| ((w as f32 * 0.05).to_bits() << 1 >> 24) as u8;
    let bytes: Vec<u8> = (0..n).map(|_| exponent(random.gaussian())).collect();
    let h = entropy(bytes.iter().copied());
    all.push(("exponents of f32".into(), bytes, h));
    all.into_iter()
        .map(|(name, bytes, entropy)| Data {
            name,
            bytes,
            entropy,
        })
        .collect()
}

fn chain(text: &str, width: usize) -> Chain {
    let spec = Spec::parse_syntax(&format!("dense | {text}")).expect("a spec");
    Chain::new(&spec.packs, width).expect("a chain")
}

struct Measured {
    bytes: usize,
    /// Raw bytes per nanosecond.
    encode: f64,
    decode: f64,
}

/// Chunk by chunk, as a buffer packs; the best of `runs`, for others share the machine.
fn measure(chain: &Chain, parts: &[&[u8]], runs: usize) -> Measured {
    let chunks: Vec<&[u8]> = parts.iter().flat_map(|p| p.chunks(CHUNK)).collect();
    let raw: usize = chunks.iter().map(|c| c.len()).sum();
    let encode = || -> Vec<Option<Vec<u8>>> {
        let all = chunks.iter().map(|c| chain.encode(c).expect("encodes"));
        all.collect()
    };
    let coded = encode();
    let mut out = Vec::new();
    let mut decode = |check: bool| {
        for (coded, chunk) in coded.iter().zip(&chunks) {
            out.clear();
            match coded {
                Some(coded) => chain.decode(coded, chunk.len(), &mut out).expect("decodes"),
                None => out.extend_from_slice(chunk),
            }
            assert!(!check || out == *chunk);
            black_box(&out);
        }
    };
    decode(true);
    let best = |f: &mut dyn FnMut()| {
        let times = (0..runs).map(|_| {
            let start = Instant::now();
            f();
            start.elapsed().as_secs_f64()
        });
        raw as f64 / times.fold(f64::INFINITY, f64::min) / 1e9
    };
    let decode = best(&mut || decode(false));
    let encode = best(&mut || {
        black_box(encode());
    });
    let stored = coded.iter().zip(&chunks);
    let stored = stored.map(|(coded, raw)| coded.as_ref().map_or(raw.len(), Vec::len));
    Measured {
        bytes: stored.sum(),
        encode,
        decode,
    }
}

/// Prints the rates of `rans` on all data, for a parent that chose the kernels.
fn rates_child() {
    let chain = chain("rans", 1);
    for data in data() {
        let m = measure(&chain, &[&data.bytes], 9);
        println!("{} {}", m.encode, m.decode);
    }
}

fn codes() {
    println!("Chunks of 256 KiB; rates in Gsymbols (bytes) a second, encode / decode.\n");
    let sets: Vec<&str> = kernel::available().map(|s| s.isa().name()).collect();
    print!("| data | entropy, bits | rans | over | zstd(1) | over | zstd(1) rates |");
    sets.iter().for_each(|s| print!(" {s} |"));
    println!();
    println!(
        "|---|---:|---:|---:|---:|---:|---:|{}",
        "---:|".repeat(sets.len())
    );
    let rates: Vec<Vec<String>> = kernel::available()
        .map(|set| {
            let above = Isa::ALL.into_iter().filter(|i| *i > set.isa());
            let off: Vec<&str> = above.map(Isa::name).collect();
            let out = Command::new(std::env::current_exe().expect("this program"))
                .arg("rates-child")
                .env("CORTEX_DISABLE_CPU", off.join(","))
                .output()
                .expect("runs itself");
            let text = String::from_utf8(out.stdout).expect("text");
            text.lines().map(str::to_owned).collect()
        })
        .collect();
    for (i, data) in data().iter().enumerate() {
        let rans = measure(&chain("rans", 1), &[&data.bytes], 1);
        let zstd = measure(&chain("zstd(1)", 1), &[&data.bytes], 5);
        let bits = |m: &Measured| m.bytes as f64 * 8.0 / data.bytes.len() as f64;
        let over = |m: &Measured| (bits(m) / data.entropy - 1.0) * 100.0;
        print!(
            "| {} | {:.4} | {:.4} | {:.2} % | {:.4} | {:.2} % | {:.2} / {:.2} |",
            data.name,
            data.entropy,
            bits(&rans),
            over(&rans),
            bits(&zstd),
            over(&zstd),
            zstd.encode,
            zstd.decode,
        );
        for set in &rates {
            let pair = set.get(i).and_then(|line| line.split_once(' '));
            let number = |s: &str| s.parse::<f64>().unwrap_or(f64::NAN);
            let (encode, decode) = pair.unwrap_or_default();
            print!(" {:.2} / {:.2} |", number(encode), number(decode));
        }
        println!();
    }
    println!();
}

fn models(path: &std::path::Path) {
    let model = Model::open(path).expect("a model");
    let floats: Vec<Vec<f32>> = model
        .tensors()
        .iter()
        .filter(|t| t.view().dtype() == DType::F32)
        .map(|t| {
            let view = t.view();
            let mut all = vec![0.0; view.len()];
            view.read_rows_f32(0..view.rows(), &mut all);
            all
        })
        .collect();
    let bytes = |f: &dyn Fn(&f32) -> Vec<u8>| -> Vec<Vec<u8>> {
        floats
            .iter()
            .map(|t| t.iter().flat_map(f).collect())
            .collect()
    };
    println!("Whole models, tensor by tensor in chunks of 256 KiB; GB/s of raw bytes.\n");
    println!("| dtype | chain | ratio | encode | decode |");
    println!("|---|---|---:|---:|---:|");
    for (name, width, tensors) in [
        ("f32", 4, bytes(&|v| v.to_le_bytes().to_vec())),
        (
            "bf16",
            2,
            bytes(&|v| bf16::from_f32(*v).to_le_bytes().to_vec()),
        ),
        (
            "f16",
            2,
            bytes(&|v| f16::from_f32(*v).to_le_bytes().to_vec()),
        ),
    ] {
        let parts: Vec<&[u8]> = tensors.iter().map(Vec::as_slice).collect();
        let raw: usize = parts.iter().map(|p| p.len()).sum();
        for text in [
            "shuffle | zstd(1)",
            "bitshuffle | zstd(1)",
            "shuffle | rans",
            "rotate | shuffle | rans",
            "rotate | shuffle | zstd(1)",
        ] {
            let m = measure(&chain(text, width), &parts, 5);
            println!(
                "| {name} | `{text}` | {:.4} | {:.2} | {:.2} |",
                raw as f64 / m.bytes as f64,
                m.encode,
                m.decode
            );
        }
    }
    println!();
}
