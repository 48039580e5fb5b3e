//! The figures that `benches/README.md` reports: sizes and errors on a real model, rates
//! per core, memory bounds, and c-blosc2 beside our packs in the same run.
//!
//! `bash benches/run.sh` prepares the model and the peer and runs this; by itself,
//! `cargo bench --bench figures -- [--model model.safetensors] [--python python3]`
//! runs what it can. A name (`quant`, `mask`, `rates`, `threads`, `memory`, `packs`,
//! `matmul`, `first`) runs that part alone.

mod common;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::gaussian;
use cortex::archive::{Archive, Writer};
use cortex::form::{self, EncodeContext};
use cortex::import::Model;
use cortex::model::{CompressOptions, compress_file};
use cortex::{Dense, MatmulOptions, Tensor, View};

fn main() {
    let all: Vec<String> = std::env::args().skip(1).collect();
    if let [child, verb, spec, path] = all.as_slice()
        && child == "memory-child"
    {
        return memory_child(verb, spec, path);
    }
    let mut model = None;
    let mut python = None;
    let mut parts = Vec::new();
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--model" => model = args.next().map(PathBuf::from),
            "--python" => python = args.next(),
            "--bench" => {}
            part => parts.push(part.to_owned()),
        }
    }
    let wanted = |part: &str| parts.is_empty() || parts.iter().any(|p| p == part);
    println!("# Figures\n");
    machine();
    if wanted("quant") {
        match &model {
            Some(model) => quant(model),
            None => println!("quant: no --model given, not measured\n"),
        }
    }
    if wanted("mask") {
        mask();
    }
    if wanted("rates") {
        rates();
    }
    if wanted("threads") {
        threads();
    }
    if wanted("memory") {
        memory(model.as_deref());
    }
    if wanted("packs") {
        packs(model.as_deref(), python.as_deref());
    }
    if wanted("matmul") {
        matmul();
    }
    if wanted("first") {
        first();
    }
}

fn machine() {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpu.lines().find(|l| l.starts_with("model name"));
    let cpu = cpu
        .and_then(|l| l.split(':').nth(1))
        .unwrap_or("unknown CPU");
    println!(
        "{}, {} threads, kernels: {}, cortex {}\n",
        cpu.trim(),
        std::thread::available_parallelism().map_or(0, usize::from),
        cortex::kernel::best().isa().name(),
        env!("CARGO_PKG_VERSION"),
    );
}

/// Median seconds of `runs` calls after one to warm up.
fn median(runs: usize, mut f: impl FnMut()) -> f64 {
    f();
    let mut times: Vec<f64> = (0..runs)
        .map(|_| {
            let start = Instant::now();
            f();
            start.elapsed().as_secs_f64()
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[runs / 2]
}

fn with_threads<T: Send>(n: usize, f: impl FnOnce() -> T + Send) -> T {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(n).build();
    pool.expect("a thread pool").install(f)
}

fn encode(view: &View<'_>, spec: &str) -> Tensor {
    let spec = form::parse(spec).expect("a valid spec");
    form::encode(view, &spec, &EncodeContext::default()).expect("encodes")
}

/// The 36 attention and feed-forward matrices of MiniLM.
fn is_layer_matrix(name: &str, shape: &[usize]) -> bool {
    shape.len() == 2 && name.contains("encoder.layer")
}

fn quant(path: &Path) {
    println!(
        "## Sizes and errors, {}\n",
        path.file_name().unwrap_or_default().display()
    );
    println!("| spec | whole file: ratio | 36 layer matrices: bits/weight | dB | seconds |");
    println!("|---|---:|---:|---:|---:|");
    let folder = tempfile::tempdir().expect("a temporary folder");
    for spec in [
        "int8",
        "int8(group=row)",
        "int8(search=lsq)",
        "int4",
        "int4(search=lsq)",
        "int4(zero=asymmetric, search=lsq)",
        "int4(group=64, search=lsq)",
        "q(bits=3, search=lsq)",
        "lossless",
        "auto(error=1%)",
        "auto(bits=4.5)",
    ] {
        let out = folder.path().join("m.cai");
        let options = CompressOptions::new(spec).expect("a valid spec");
        let report = compress_file(path, &out, &options, None).expect("compresses");
        let model = Model::open(path).expect("opens");
        let archive = Archive::open(&out).expect("opens");
        let (mut error, mut norm, mut bits, mut count) = (0.0f64, 0.0f64, 0.0, 0usize);
        let mut matrices = 0;
        for named in model
            .tensors()
            .iter()
            .filter(|t| is_layer_matrix(t.name(), t.shape()))
        {
            let original = named.view().to_dense().expect("reads");
            let decoded = archive.tensor(named.name()).and_then(|t| t.decompress());
            let decoded = decoded.expect("decodes");
            let pairs = original.as_slice::<f32>().expect("f32").iter();
            for (a, b) in pairs.zip(decoded.as_slice::<f32>().expect("f32")) {
                error += f64::from(a - b).powi(2);
                norm += f64::from(*a).powi(2);
            }
            let entry = archive.entry(named.name()).expect("is there");
            bits += entry.stored_bytes() as f64 * 8.0;
            count += original.bytes().len() / 4;
            matrices += 1;
        }
        assert_eq!(matrices, 36, "another model than expected");
        let db = if error == 0.0 {
            "exact".to_owned()
        } else {
            format!("{:.2}", 10.0 * (error / norm).log10())
        };
        println!(
            "| `{spec}` | {:.3} | {:.3} | {db} | {:.2} |",
            report.ratio,
            bits / count as f64,
            report.seconds
        );
        flush();
    }
    println!();
}

fn mask() {
    println!("## Mask, f32 4096×4096\n");
    println!("| sparsity | ratio | bits/weight |\n|---:|---:|---:|");
    for sparsity in [0.5, 0.8, 0.9, 0.95, 0.99] {
        let values = sparse(4096 * 4096, sparsity);
        let dense = Dense::from_slice(&values, &[4096, 4096]).expect("a tensor");
        let tensor = encode(&dense.view(), "mask");
        assert_eq!(tensor.decompress().expect("decodes").bytes(), dense.bytes());
        println!(
            "| {:.0} % | {:.2} | {:.3} |",
            sparsity * 100.0,
            tensor.raw_bytes() as f64 / tensor.stored_bytes() as f64,
            tensor.bits_per_weight()
        );
    }
    println!();
}

fn sparse(n: usize, sparsity: f64) -> Vec<f32> {
    // Thresholding a normal keeps exactly the share asked for, to sampling noise.
    let (values, choice) = (gaussian(n, 5), gaussian(n, 6));
    let mut sorted: Vec<f32> = choice.iter().map(|v| v.abs()).collect();
    let k = ((n as f64 * sparsity) as usize).min(n - 1);
    let (_, cut, _) = sorted.select_nth_unstable_by(k, f32::total_cmp);
    let cut = *cut;
    let pairs = values.into_iter().zip(choice);
    pairs
        .map(|(v, c)| if c.abs() > cut { v } else { 0.0 })
        .collect()
}

const SIDE: usize = 4096;

fn rates() {
    println!("## Rates on one thread, f32 {SIDE}×{SIDE}, GB/s of f32\n");
    println!("Encoding includes measuring the error (a decode and a comparison).\n");
    println!("| spec | encode | encode, error not measured | decode |\n|---|---:|---:|---:|");
    let values = gaussian(SIDE * SIDE, 1);
    let dense = Dense::from_slice(&values, &[SIDE, SIDE]).expect("a tensor");
    let bytes = dense.bytes().len() as f64;
    with_threads(1, || {
        for spec in [
            "int8",
            "int8(group=row)",
            "int8(search=lsq)",
            "int4",
            "int4(search=lsq)",
            "int4(zero=asymmetric)",
            "int4(zero=asymmetric, search=lsq)",
            "q(bits=3)",
            "mask(keep=10%)",
            "dense(type=bf16)",
            "dense | shuffle | zstd(1)",
            "dense | shuffle | lz4",
        ] {
            let slow = spec.contains("lsq") || spec.contains("zstd");
            let runs = if slow { 3 } else { 7 };
            let view = dense.view();
            let encode_s = median(runs, || drop(encode(&view, spec)));
            let tensor = encode(&view, spec);
            let mut out = vec![0.0f32; SIDE * SIDE];
            let decode_s = median(runs, || {
                tensor.decode_rows_f32(0..SIDE, &mut out).expect("decodes")
            });
            let parsed = form::parse(spec).expect("valid");
            let bare_s = median(runs, || {
                drop(form::encode_unmeasured(
                    &view,
                    &parsed,
                    &EncodeContext::default(),
                ));
            });
            println!(
                "| `{spec}` | {:.2} | {:.2} | {:.2} |",
                bytes / encode_s / 1e9,
                bytes / bare_s / 1e9,
                bytes / decode_s / 1e9
            );
            flush();
        }
    });
    println!();
}

/// Median of `one / two` over interleaved pairs: neighbours on the machine come and go by
/// the second, and hit both of a pair alike.
fn speedup(pairs: usize, mut run: impl FnMut(usize) -> f64) -> f64 {
    run(2);
    let mut ratios: Vec<f64> = (0..pairs).map(|_| run(1) / run(2)).collect();
    ratios.sort_by(f64::total_cmp);
    ratios[pairs / 2]
}

/// What two threads of this machine bring where nothing of Cortex is at work.
fn probes() {
    use rayon::prelude::*;
    let pools = [1, 2].map(|n| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(n).build();
        pool.expect("a thread pool")
    });
    let arithmetic = speedup(7, |n| {
        let spin =
            |i: u64| (0..40_000_000u64).fold(i, |a, b| a.wrapping_mul(31).rotate_left(7) ^ b);
        let work = || std::hint::black_box((0..4u64).into_par_iter().map(spin).sum::<u64>());
        pools[n - 1].install(|| seconds(|| drop(std::hint::black_box(work()).to_string())))
    });
    let source = vec![1u8; 256 << 20];
    let fresh = speedup(7, |n| {
        let work = || {
            // Fresh memory, as every encoder and decoder of large tensors writes to.
            let mut target = vec![0u8; source.len()];
            let pairs = target
                .par_chunks_mut(1 << 20)
                .zip(source.par_chunks(1 << 20));
            pairs.for_each(|(t, s)| t.copy_from_slice(s));
            std::hint::black_box(&target);
        };
        pools[n - 1].install(|| seconds(work))
    });
    println!("| probe, nothing of Cortex in it | two threads against one |\n|---|---:|");
    println!("| integer arithmetic in registers | {arithmetic:.2}× |");
    println!("| copying 256 MiB to fresh memory | {fresh:.2}× |\n");
    flush();
}

fn seconds(f: impl FnOnce()) -> f64 {
    let start = Instant::now();
    f();
    start.elapsed().as_secs_f64()
}

fn threads() {
    println!("## Two threads against one\n");
    println!("Medians of the ratios of 7 interleaved pairs.\n");
    probes();
    println!("| f32 8192×8192, in memory | encode | decode |\n|---|---:|---:|");
    let side = 8192;
    let values = gaussian(side * side, 2);
    let dense = Dense::from_slice(&values, &[side, side]).expect("a tensor");
    drop(values);
    let pools = [1, 2].map(|n| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(n).build();
        pool.expect("a thread pool")
    });
    for spec in ["int8", "int4(search=lsq)", "dense | shuffle | zstd(1)"] {
        let e = speedup(7, |n| {
            pools[n - 1].install(|| seconds(|| drop(encode(&dense.view(), spec))))
        });
        let tensor = encode(&dense.view(), spec);
        let mut out = vec![0.0f32; side * side];
        let d = speedup(7, |n| {
            let decode = || tensor.decode_rows_f32(0..side, &mut out).expect("decodes");
            pools[n - 1].install(|| seconds(decode))
        });
        println!("| `{spec}` | {e:.2}× | {d:.2}× |");
        flush();
    }
    drop(dense);

    println!("\n| a model of 512 MiB, file to file | compress | decompress |\n|---|---:|---:|");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (input, output) = (
        folder.path().join("m.safetensors"),
        folder.path().join("m.cai"),
    );
    let back = folder.path().join("back.safetensors");
    let infos: Vec<_> = (0..8)
        .map(|i| cortex::export::safetensors::TensorInfo {
            name: format!("layer.{i}.weight"),
            dtype: cortex::DType::F32,
            shape: vec![SIDE, SIDE],
        })
        .collect();
    let mut writer =
        cortex::export::safetensors::Writer::create(&input, &infos, &Default::default())
            .expect("creates");
    for i in 0..8 {
        let values = gaussian(SIDE * SIDE, 20 + i);
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        writer.write(&bytes).expect("writes");
    }
    writer.finish().expect("finishes");
    for spec in ["int8", "int4(search=lsq)", "lossless"] {
        let mut options = CompressOptions::new(spec).expect("valid");
        let e = speedup(5, |n| {
            options.threads = n;
            seconds(|| drop(compress_file(&input, &output, &options, None).expect("compresses")))
        });
        let d = speedup(5, |n| {
            let run = || cortex::model::decompress_file(&output, &back, n, None);
            seconds(|| assert!(run().expect("decompresses") > 0))
        });
        println!("| `{spec}` | {e:.2}× | {d:.2}× |");
        flush();
    }
    println!();
}

/// Highest anonymous resident memory while `f` runs, above what it was before, in bytes.
fn peak_anonymous(f: impl FnOnce()) -> Option<u64> {
    let before = anonymous()?;
    let done = Arc::new(AtomicBool::new(false));
    let watch = {
        let done = done.clone();
        std::thread::spawn(move || {
            let mut peak = 0;
            while !done.load(Ordering::Relaxed) {
                peak = peak.max(anonymous().unwrap_or(0));
                std::thread::sleep(Duration::from_micros(500));
            }
            peak
        })
    };
    f();
    let after = anonymous()?;
    done.store(true, Ordering::Relaxed);
    let peak = watch.join().ok()?.max(after);
    Some(peak.saturating_sub(before))
}

fn anonymous() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("RssAnon:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}

fn memory(model: Option<&Path>) {
    println!("## Memory\n");
    let mib = |b: u64| b as f64 / (1 << 20) as f64;
    let folder = tempfile::tempdir().expect("a temporary folder");
    if let Some(path) = model {
        let opened = Model::open(path).expect("opens");
        let largest = opened
            .tensors()
            .iter()
            .map(|t| t.byte_len() as u64)
            .max()
            .unwrap_or(0);
        drop(opened);
        println!(
            "Largest tensor {:.1} MiB; bound 2 × that + 64 MiB = {:.1} MiB.\n",
            mib(largest),
            mib(2 * largest + (64 << 20))
        );
        println!("| compress, whole model | anonymous memory added, MiB |\n|---|---:|");
        for spec in ["int8", "int4(search=lsq)", "lossless", "auto(error=1%)"] {
            let added = in_child("compress", spec, path);
            println!("| `{spec}` | {:.1} |", mib(added));
        }
        println!();
    }
    println!(
        "| matmul, mapped 8192×8192, scratch limit 1 MiB, batch 1 | `matmul`, MiB | `matmul_t`, MiB |"
    );
    println!("|---|---:|---:|");
    let values = gaussian(8192 * 8192, 3);
    let dense = Dense::from_slice(&values, &[8192, 8192]).expect("a tensor");
    drop(values);
    let path = folder.path().join("w.cai");
    let mut writer = Writer::create(&path).expect("creates");
    let specs = [
        "int8",
        "int8 | zstd(1)",
        "int4",
        "dense(type=bf16)",
        "dense | shuffle | zstd(1)",
        "mask(keep=10%)",
    ];
    for spec in specs {
        writer
            .add(spec, &encode(&dense.view(), spec))
            .expect("writes");
    }
    writer.finish().expect("finishes");
    drop(dense);
    for spec in specs {
        let child = |verb: &str| mib(in_child(verb, spec, &path));
        println!(
            "| `{spec}` | {:.2} | {:.2} |",
            child("matmul"),
            child("matmul_t")
        );
        flush();
    }
    println!();
}

/// Anonymous memory that `verb` added in a process of its own: memory that another part
/// of the bench has freed but that the allocator kept would hide what this one takes.
fn in_child(verb: &str, spec: &str, path: &Path) -> u64 {
    let exe = std::env::current_exe().expect("a path");
    let mut child = std::process::Command::new(exe);
    child.args(["memory-child", verb, spec]).arg(path);
    let out = child.output().expect("runs");
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    let text = String::from_utf8_lossy(&out.stdout);
    text.trim().parse().expect("a number")
}

/// The body of [`in_child`]: one product with a tensor of an archive, or one model
/// compressed; prints the bytes added.
fn memory_child(verb: &str, spec: &str, path: &str) {
    let path = Path::new(path);
    let peak = if verb == "compress" {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let options = CompressOptions::new(spec).expect("valid");
        let out = folder.path().join("m.cai");
        peak_anonymous(|| drop(compress_file(path, &out, &options, None).expect("compresses")))
    } else {
        let archive = Archive::open(path).expect("opens");
        let tensor = archive.tensor(spec).expect("opens");
        let (x, mut y) = (gaussian(8192, 4), vec![1.0f32; 8192]);
        let options = MatmulOptions {
            scratch_bytes: 1 << 20,
            ..Default::default()
        };
        peak_anonymous(|| {
            match verb {
                "matmul" => tensor.matmul(&x, 1, &mut y, &options),
                _ => tensor.matmul_t(&x, 1, &mut y, &options),
            }
            .expect("multiplies");
        })
    };
    println!("{}", peak.unwrap_or(u64::MAX));
}

fn packs(model: Option<&Path>, python: Option<&str>) {
    println!("## Packs beside c-blosc2, one thread, f32 weights\n");
    // The layer matrices of the model, or normals.
    let mut data: Vec<u8> = Vec::new();
    match model {
        Some(path) => {
            for t in Model::open(path).expect("opens").tensors() {
                if is_layer_matrix(t.name(), t.shape()) {
                    data.extend_from_slice(t.view().contiguous_bytes().expect("contiguous"));
                }
            }
        }
        None => data.extend(gaussian(8 << 20, 8).iter().flat_map(|v| v.to_le_bytes())),
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let raw = folder.path().join("weights.f32");
    std::fs::write(&raw, &data).expect("writes");
    println!("{:.1} MB.\n", data.len() as f64 / 1e6);
    println!("| | ratio | encode MB/s | decode MB/s |\n|---|---:|---:|---:|");
    let dense = Dense::from_bytes(cortex::DType::F32, &[data.len() / 4 / 384, 384], &data)
        .expect("a tensor");
    let mb = data.len() as f64 / 1e6;
    let ours = |specs: &[&str]| {
        with_threads(1, || {
            for spec in specs {
                let view = dense.view();
                let e = median(5, || drop(encode(&view, spec)));
                let tensor = encode(&view, spec);
                let mut out = vec![0u8; data.len()];
                let d = median(5, || {
                    tensor
                        .decode_rows(0..tensor.rows(), &mut out)
                        .expect("decodes")
                });
                assert_eq!(out, data);
                let ratio = tensor.raw_bytes() as f64 / tensor.stored_bytes() as f64;
                println!(
                    "| cortex `{spec}` | {ratio:.4} | {:.0} | {:.0} |",
                    mb / e,
                    mb / d
                );
                flush();
            }
        });
    };
    let peer = || {
        let Some(python) = python else {
            println!("| c-blosc2: no --python given, not measured | | | |");
            return;
        };
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peer_blosc2.py");
        let status = std::process::Command::new(python)
            .arg(script)
            .arg(&raw)
            .status();
        assert!(status.is_ok_and(|s| s.success()), "the peer failed");
    };
    // Interleaved: ours, theirs, ours, theirs.
    for _ in 0..2 {
        ours(&[
            "dense | shuffle | zstd(1)",
            "dense | shuffle | zstd(3)",
            "dense | shuffle | lz4",
        ]);
        peer();
    }
    println!();
}

fn matmul() {
    println!("## Matmul, {SIDE}×{SIDE}, one thread, hot; GFLOP/s (2·B·out·in / time)\n");
    println!("| spec | B 1 | B 8 | B 64 |\n|---|---:|---:|---:|");
    let values = gaussian(SIDE * SIDE, 1);
    let dense = Dense::from_slice(&values, &[SIDE, SIDE]).expect("a tensor");
    with_threads(1, || {
        for spec in [
            "dense",
            "dense(type=bf16)",
            "int8",
            "int8(group=row)",
            "int4",
            "int4(group=128)",
            "q(bits=3)",
            "mask(keep=10%)",
            "mask(keep=50%)",
        ] {
            let tensor = encode(&dense.view(), spec);
            print!("| `{spec}` |");
            for batch in [1, 8, 64] {
                let x = gaussian(batch * SIDE, 9);
                let mut y = vec![0.0; batch * SIDE];
                let s = median(if batch == 64 { 3 } else { 9 }, || {
                    tensor
                        .matmul(&x, batch, &mut y, &MatmulOptions::default())
                        .expect("multiplies");
                });
                print!(" {:.1} |", 2.0 * (batch * SIDE * SIDE) as f64 / s / 1e9);
                flush();
            }
            println!();
        }
    });
    println!();
}

/// What the first product with a tensor costs beside those that follow: opening the archive,
/// page faults, checksums. The file is in the system's cache.
fn first() {
    println!("## First product of a mapped {SIDE}×{SIDE}, one thread, batch 1; milliseconds\n");
    println!("| spec | opening | first | second | first/second |\n|---|---:|---:|---:|---:|");
    let values = gaussian(SIDE * SIDE, 1);
    let dense = Dense::from_slice(&values, &[SIDE, SIDE]).expect("a tensor");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("first.cai");
    let x = gaussian(SIDE, 9);
    let mut y = vec![0.0; SIDE];
    with_threads(1, || {
        for spec in ["dense", "int8", "int4", "mask(keep=10%)", "int4 | rans"] {
            let mut writer = Writer::create(&path).expect("creates");
            writer
                .add("w", &encode(&dense.view(), spec))
                .expect("writes");
            writer.finish().expect("finishes");
            // The least of each over several openings.
            let mut best = [f64::INFINITY; 3];
            for _ in 0..9 {
                let mut tensor = None;
                let opening = seconds(|| {
                    let archive = Archive::open(&path).expect("opens");
                    tensor = Some(archive.tensor("w").expect("opens"));
                });
                let tensor = tensor.expect("just opened");
                let mut multiply = || {
                    seconds(|| {
                        tensor
                            .matmul(&x, 1, &mut y, &MatmulOptions::default())
                            .expect("multiplies");
                    })
                };
                for (best, s) in best.iter_mut().zip([opening, multiply(), multiply()]) {
                    *best = best.min(s);
                }
            }
            let [opening, first, second] = best.map(|s| s * 1e3);
            let ratio = first / second;
            println!("| `{spec}` | {opening:.2} | {first:.2} | {second:.2} | {ratio:.1} |");
            flush();
        }
    });
    println!();
}

fn flush() {
    let _ = std::io::stdout().flush();
}
