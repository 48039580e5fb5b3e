//! Sizes and rates of sparse distributed representations: the form `sdr` beside `mask`
//! and `dense`, and the similarity index beside exact cosine.
//!
//! `cargo bench --bench sdr -- [sizes] [matmul] [index]`; without a name, all of it.

use std::io::Write as _;
use std::time::Instant;

use cortex::form::{self, EncodeContext};
use cortex::sdr::{Index, Match, Sdr, Search, TensorEncoder};
use cortex::{Dense, MatmulOptions, Tensor};

fn main() {
    let parts: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| a != "--bench")
        .collect();
    let wanted = |part: &str| parts.is_empty() || parts.iter().any(|p| p == part);
    println!(
        "kernels: {}, cortex {}\n",
        cortex::kernel::best().isa().name(),
        env!("CARGO_PKG_VERSION")
    );
    if wanted("sizes") {
        sizes();
    }
    if wanted("matmul") {
        matmul();
    }
    if wanted("index") {
        index();
    }
}

const SIDE: usize = 4096;
const SPARSITIES: [f64; 5] = [0.5, 0.8, 0.9, 0.95, 0.99];

/// xorshift64*, seeded.
struct Rng(u64);

impl Rng {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn uniform(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) as f64 / (1u64 << 53) as f64
    }

    fn gaussian(&mut self) -> f32 {
        let (u, v) = (self.uniform().max(1e-300), self.uniform());
        ((-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32
    }
}

/// Normals, each zero with the probability `sparsity`.
fn sparse(n: usize, sparsity: f64, seed: u64) -> Vec<f32> {
    let mut rng = Rng::new(seed);
    (0..n)
        .map(|_| match rng.uniform() < sparsity {
            true => 0.0,
            false => rng.gaussian(),
        })
        .collect()
}

fn encode(dense: &Dense, spec: &str) -> Tensor {
    let spec = form::parse(spec).expect("a valid spec");
    form::encode(&dense.view(), &spec, &EncodeContext::default()).expect("encodes")
}

/// Bytes of the parts of this name, over all forms inside each other.
fn part_bytes(form: &dyn form::Form, names: &[&str]) -> u64 {
    form.parts()
        .iter()
        .filter(|(name, _)| names.contains(name))
        .map(|(_, part)| match part {
            form::Part::Buffer(b) => b.stored_len(),
            form::Part::Form(f) => form::stored_bytes(*f),
        })
        .sum()
}

/// Entropy of a coin of this bias, in bits.
fn entropy(p: f64) -> f64 {
    -p * p.log2() - (1.0 - p) * (1.0 - p).log2()
}

/// Bits of Elias–Fano over segments of 65,536: `floor(log2(u / n))` low bits, the high
/// ones in unary.
fn elias_fano_bits(values: &[f32]) -> f64 {
    values
        .chunks(1 << 16)
        .map(|segment| {
            let n = segment.iter().filter(|v| **v != 0.0).count();
            if n == 0 {
                return 0.0;
            }
            let low = (segment.len() / n).ilog2() as usize;
            (n * low + n + (segment.len() >> low)) as f64
        })
        .sum()
}

fn sizes() {
    println!("## Bits per weight, f32 {SIDE}×{SIDE}, active weights at random places\n");
    println!(
        "| sparsity | H(p) | positions | over H(p) | Elias–Fano | `sdr` | `sdr`, binary | `sdr(values=sign)` | `sdr(values=int8)` | `mask` |"
    );
    println!("|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|");
    let n = (SIDE * SIDE) as f64;
    for sparsity in SPARSITIES {
        let values = sparse(SIDE * SIDE, sparsity, 5);
        let dense = Dense::from_slice(&values, &[SIDE, SIDE]).expect("a tensor");
        let binary: Vec<f32> = values.iter().map(|v| f32::from(*v != 0.0)).collect();
        let binary = Dense::from_slice(&binary, &[SIDE, SIDE]).expect("a tensor");
        let bits = |dense: &Dense, spec: &str| encode(dense, spec).stored_bytes() as f64 * 8.0 / n;
        let exact = encode(&dense, "sdr");
        assert_eq!(
            exact.decompress().expect("decodes").bytes(),
            dense.bytes(),
            "sdr is lossless"
        );
        let active = values.iter().filter(|v| **v != 0.0).count() as f64;
        let h = entropy(active / n);
        let positions = part_bytes(exact.form(), &["positions", "directory"]) as f64 * 8.0 / n;
        println!(
            "| {:.0} % | {h:.4} | {positions:.4} | {:+.1} % | {:.4} | {:.3} | {:.4} | {:.4} | {:.3} | {:.3} |",
            sparsity * 100.0,
            (positions / h - 1.0) * 100.0,
            elias_fano_bits(&values) / n,
            exact.stored_bytes() as f64 * 8.0 / n,
            bits(&binary, "sdr"),
            bits(&dense, "sdr(values=sign)"),
            bits(&dense, "sdr(values=int8)"),
            bits(&dense, "mask"),
        );
        flush();
    }
    println!();
}

/// Median milliseconds of each of several calls, taken in turn so that all meet the same
/// disturbance.
fn in_turn(calls: &mut [Box<dyn FnMut() + '_>]) -> Vec<f64> {
    let mut times = vec![Vec::new(); calls.len()];
    for round in 0..8 {
        for (call, times) in calls.iter_mut().zip(&mut times) {
            let start = Instant::now();
            call();
            if round > 0 {
                times.push(start.elapsed().as_secs_f64() * 1e3);
            }
        }
    }
    times
        .into_iter()
        .map(|mut t| {
            t.sort_by(f64::total_cmp);
            t[t.len() / 2]
        })
        .collect()
}

fn matmul() {
    println!(
        "## Product on one thread, f32 {SIDE}×{SIDE}, milliseconds (times as fast as dense)\n"
    );
    let specs = ["dense", "mask", "sdr", "sdr(values=sign)", "sdr, binary"];
    println!("| sparsity | batch | {} |", specs.join(" | "));
    println!("|---:|---:|{}", "---:|".repeat(specs.len()));
    let options = MatmulOptions {
        threads: 1,
        ..MatmulOptions::default()
    };
    for sparsity in [0.8, 0.9, 0.95, 0.99] {
        let values = sparse(SIDE * SIDE, sparsity, 5);
        let binary: Vec<f32> = values.iter().map(|v| f32::from(*v != 0.0)).collect();
        let dense = Dense::from_slice(&values, &[SIDE, SIDE]).expect("a tensor");
        let binary = Dense::from_slice(&binary, &[SIDE, SIDE]).expect("a tensor");
        let tensors: Vec<Tensor> = specs
            .iter()
            .map(|spec| match spec.strip_suffix(", binary") {
                Some(spec) => encode(&binary, spec),
                None => encode(&dense, spec),
            })
            .collect();
        for batch in [1, 8, 64] {
            let x = sparse(batch * SIDE, 0.0, 9);
            let mut ys = vec![vec![0.0f32; batch * SIDE]; specs.len()];
            let mut calls: Vec<Box<dyn FnMut()>> = Vec::new();
            for (tensor, y) in tensors.iter().zip(&mut ys) {
                let (x, options) = (&x, &options);
                calls.push(Box::new(move || {
                    tensor.matmul(x, batch, y, options).expect("multiplies");
                }));
            }
            let times = in_turn(&mut calls);
            let cells: Vec<String> = times
                .iter()
                .map(|t| format!("{t:.3} ({:.1}×)", times[0] / t))
                .collect();
            println!(
                "| {:.0} % | {batch} | {} |",
                sparsity * 100.0,
                cells.join(" | ")
            );
            flush();
        }
    }
    println!();
}

const ITEMS: usize = 20_000;
const WIDTH: usize = 384;
const QUERIES: usize = 200;
const TOP: usize = 10;

/// Unit vectors in clusters of 20: a centre and a third as much noise.
fn clusters(n: usize, seed: u64) -> Vec<f32> {
    let mut rng = Rng::new(seed);
    let mut centre = vec![0.0f32; WIDTH];
    let mut out = Vec::with_capacity(n * WIDTH);
    for i in 0..n {
        if i % 20 == 0 {
            centre.fill_with(|| rng.gaussian());
        }
        let v: Vec<f32> = centre.iter().map(|c| c + rng.gaussian() / 3.0).collect();
        let norm = v.iter().map(|v| v * v).sum::<f32>().sqrt();
        out.extend(v.iter().map(|v| v / norm));
    }
    out
}

/// The nearest of `items` to `query` by cosine, best first.
fn nearest(items: &[f32], query: &[f32], k: usize) -> Vec<u64> {
    let mut all: Vec<(f32, u64)> = items
        .chunks_exact(WIDTH)
        .zip(0..)
        .map(|(v, id)| (v.iter().zip(query).map(|(a, b)| a * b).sum(), id))
        .collect();
    all.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    all.truncate(k);
    all.into_iter().map(|(_, id)| id).collect()
}

fn index() {
    println!("## Index, {ITEMS} Gaussian-cluster vectors of {WIDTH}, top {TOP}, one thread\n");
    println!(
        "Recall against exact cosine; `reranked`: the best {TOP} by cosine of the 100 of largest overlap.\n"
    );
    println!(
        "| n | w | bytes/item: rows | rows and lists | encode, vectors/s | brute force, queries/s | lists, queries/s | `top_k`, queries/s | recall@{TOP} | reranked |"
    );
    println!("|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|");
    let items = clusters(ITEMS, 21);
    // Queries: items with noise of their own, so that none is stored as it is.
    let mut rng = Rng::new(22);
    let queries: Vec<Vec<f32>> = (0..QUERIES)
        .map(|i| {
            let item = &items[i * 97 * WIDTH..][..WIDTH];
            let noise = 0.2 / (WIDTH as f32).sqrt();
            item.iter().map(|v| v + noise * rng.gaussian()).collect()
        })
        .collect();
    let exact: Vec<Vec<u64>> = queries.iter().map(|q| nearest(&items, q, TOP)).collect();
    let recall = |found: &dyn Fn(usize) -> Vec<u64>| -> f64 {
        let hits: usize = (0..QUERIES)
            .map(|q| found(q).iter().filter(|id| exact[q].contains(id)).count())
            .sum();
        hits as f64 / (QUERIES * TOP) as f64
    };
    // All cosines by the dense product, the largest by a sort of what is left above the
    // tenth: what an exact search costs at best.
    let dense = Dense::from_slice(&items, &[ITEMS, WIDTH]).expect("a tensor");
    let dense = encode(&dense, "dense");
    let mut cosines = vec![0.0f32; ITEMS];
    let options = MatmulOptions {
        threads: 1,
        ..MatmulOptions::default()
    };
    let mut call: Vec<Box<dyn FnMut()>> = vec![Box::new(|| {
        for query in &queries {
            dense
                .matmul(query, 1, &mut cosines, &options)
                .expect("multiplies");
            let mut order = cosines.clone();
            std::hint::black_box(order.select_nth_unstable_by(TOP, |a, b| b.total_cmp(a)));
        }
    })];
    let cosine = QUERIES as f64 / in_turn(&mut call)[0] * 1e3;
    for (n, w) in [
        (1024, 32),
        (2048, 40),
        (2048, 128),
        (4096, 128),
        (4096, 256),
        (16384, 64),
        (16384, 512),
    ] {
        let encoder = TensorEncoder::new(WIDTH, n, w, 1).expect("an encoder");
        let start = Instant::now();
        let sets: Vec<Sdr> = items
            .chunks_exact(WIDTH)
            .map(|v| encoder.encode(v).expect("finite"))
            .collect();
        let encode = ITEMS as f64 / start.elapsed().as_secs_f64();
        let mut index = Index::new(n).expect("an index");
        for (id, set) in (0..).zip(&sets) {
            index.add(id, set).expect("new");
        }
        let asked: Vec<Sdr> = queries
            .iter()
            .map(|q| encoder.encode(q).expect("finite"))
            .collect();
        let rate = |f: &dyn Fn(&Sdr) -> Vec<Match>| -> f64 {
            let mut call: Vec<Box<dyn FnMut()>> = vec![Box::new(|| {
                for query in &asked {
                    std::hint::black_box(f(query));
                }
            })];
            QUERIES as f64 / in_turn(&mut call)[0] * 1e3
        };
        let by =
            |s: Search| move |index: &Index, q: &Sdr| index.top_k_by(q, TOP, s).expect("searches");
        let (brute, lists) = (by(Search::BruteForce), by(Search::Lists));
        for query in &asked {
            assert_eq!(brute(&index, query), lists(&index, query));
        }
        let ids = |m: Vec<Match>| -> Vec<u64> { m.iter().map(|m| m.id).collect() };
        let plain = recall(&|q| ids(index.top_k(&asked[q], TOP).expect("searches")));
        let reranked = recall(&|q| {
            let near = ids(index.top_k(&asked[q], 100).expect("searches"));
            let vectors: Vec<f32> = near
                .iter()
                .flat_map(|id| &items[*id as usize * WIDTH..][..WIDTH])
                .copied()
                .collect();
            let best = nearest(&vectors, &queries[q], TOP);
            best.iter().map(|i| near[*i as usize]).collect()
        });
        println!(
            "| {n} | {w} | {} | {} | {encode:.0} | {:.0} | {:.0} | {:.0} | {plain:.3} | {reranked:.3} |",
            n / 8,
            index.memory_bytes() / ITEMS,
            rate(&|q| brute(&index, q)),
            rate(&|q| lists(&index, q)),
            rate(&|q| index.top_k(q, TOP).expect("searches")),
        );
        flush();
    }
    println!(
        "\nExact cosine over f32, {} bytes an item: {cosine:.0} queries/s\n",
        WIDTH * 4
    );
}

fn flush() {
    std::io::stdout().flush().expect("standard output");
}
