//! The command line as other programs rely on it: what is printed, what is written, the
//! exit codes, and that nothing is lost when something goes wrong. Runs the built binary.
#![cfg(feature = "cli")]

mod common;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::{Kind, Rng, weights};
use cortex::archive::Archive;
use cortex::calibration::Moments;
use cortex::export::safetensors::{TensorInfo, Writer};
use cortex::import::Model;
use cortex::model::write_calibration;
use cortex::{DType, Dense};
use serde_json::Value;

// ---------------------------------------------------------------- helpers

/// A folder for one test, with a model in it.
struct Bench {
    folder: tempfile::TempDir,
}

/// What a run of the program gave.
struct Run {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Run {
    fn of(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("stdout is UTF-8"),
            stderr: String::from_utf8(output.stderr).expect("stderr is UTF-8"),
        }
    }

    #[track_caller]
    fn exits(self, code: i32) -> Self {
        assert_eq!(
            self.code,
            Some(code),
            "stdout:\n{}\nstderr:\n{}",
            self.stdout,
            self.stderr
        );
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        self
    }

    /// stdout as exactly one JSON object.
    #[track_caller]
    fn json(&self) -> Value {
        let value: Value = serde_json::from_str(&self.stdout)
            .unwrap_or_else(|e| panic!("{e}: {}\n{}", self.stdout, self.stderr));
        assert!(value.is_object(), "{value}");
        value
    }

    #[track_caller]
    fn says(self, text: &str) -> Self {
        assert!(
            self.stderr.contains(text),
            "'{text}' is not in:\n{}",
            self.stderr
        );
        self
    }
}

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cortex"));
    command.env_remove("CORTEX_DISABLE_CPU");
    command.stdin(Stdio::null());
    command
}

fn cortex<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Run {
    Run::of(program().args(args).output().expect("the program starts"))
}

/// Runs a line of words; `{}` stands for the bench's folder.
fn run_in(folder: &Path, line: &str) -> Run {
    let folder = folder.to_str().unwrap();
    cortex(line.split_whitespace().map(|w| w.replace("{}", folder)))
}

type Tensors = Vec<(String, Dense)>;

fn write_model(path: &Path, tensors: &[(String, Dense)]) {
    let infos: Vec<TensorInfo> = tensors
        .iter()
        .map(|(name, dense)| TensorInfo {
            name: name.clone(),
            dtype: dense.dtype(),
            shape: dense.shape().to_vec(),
        })
        .collect();
    let metadata = BTreeMap::from([("format".to_owned(), "test".to_owned())]);
    let mut writer = Writer::create(path, &infos, &metadata).unwrap();
    for (_, dense) in tensors {
        writer.write_view(&dense.view()).unwrap();
    }
    writer.finish().unwrap();
}

fn float(name: &str, kind: Kind, shape: &[usize], dtype: DType) -> (String, Dense) {
    let cols = shape[1..].iter().product();
    let values = weights(kind, shape[0], cols, name.len() as u64);
    let mut bytes = vec![0; values.len() * dtype.size()];
    dtype.from_f32(&values, &mut bytes);
    let dense = Dense::from_bytes(dtype, shape, &bytes).unwrap();
    (name.to_owned(), dense)
}

/// A bit of everything: matrices of several dtypes, a sparse one, a vector, integers of
/// every type, a scalar, an empty tensor, a tied pair, odd names.
fn tensors() -> Tensors {
    let mut all = vec![
        float("layer.0.weight", Kind::Gaussian, &[96, 160], DType::F32),
        float("layer.0.bias", Kind::Gaussian, &[96], DType::F32),
        float("layer.1.weight", Kind::Sparse, &[64, 96], DType::F32),
        float("conv.weight", Kind::Laplace, &[16, 8, 7, 7], DType::F32),
        float("half", Kind::Gaussian, &[64, 100], DType::F16),
        float("brain", Kind::Gaussian, &[70, 64], DType::BF16),
        float("double", Kind::Smooth, &[65, 64], DType::F64),
        float("größe 重み/μ", Kind::Gaussian, &[64, 80], DType::F32),
        float(
            " leading and  double blanks ",
            Kind::Gaussian,
            &[4, 4],
            DType::F32,
        ),
        float("one.row", Kind::Gaussian, &[1, 5000], DType::F32),
    ];
    let tied = all[0].1.clone();
    all.push(("lm_head.weight".into(), tied));
    for dtype in DType::ALL.into_iter().filter(|d| !d.is_float()) {
        let n = 300 * dtype.size();
        let bytes: Vec<u8> = (0..n)
            .map(|i| match dtype {
                DType::Bool => (i % 3 == 0).into(),
                _ => (i * 7) as u8,
            })
            .collect();
        let dense = Dense::from_bytes(dtype, &[30, 10], &bytes).unwrap();
        all.push((format!("ids.{dtype}"), dense));
    }
    all.push(("scalar".into(), Dense::from_slice(&[2.5f32], &[]).unwrap()));
    let none: [f32; 0] = [];
    all.push(("empty".into(), Dense::from_slice(&none, &[0, 12]).unwrap()));
    all
}

impl Bench {
    fn new() -> Self {
        let bench = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        write_model(&bench.path("model.safetensors"), &tensors());
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, line: &str) -> Run {
        run_in(self.folder.path(), line)
    }

    /// Files that lie in the folder.
    fn files(&self) -> Vec<String> {
        files(self.folder.path())
    }
}

fn files(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Every tensor of a safetensors file, bytes and all, by name.
fn contents(path: &Path) -> BTreeMap<String, (DType, Vec<usize>, Vec<u8>)> {
    let model = Model::open(path).unwrap();
    let names = model.tensors().iter().map(|t| t.name().to_owned());
    let aliases = model.aliases().iter().map(|(a, _)| a.clone());
    names
        .chain(aliases)
        .map(|name| {
            let view = model.get(&name).unwrap().view();
            let dense = view.to_dense().unwrap();
            let value = (
                view.dtype(),
                view.shape().to_vec(),
                dense.bytes().to_owned(),
            );
            (name, value)
        })
        .collect()
}

fn number(value: &Value) -> f64 {
    value
        .as_f64()
        .unwrap_or_else(|| panic!("{value} is no number"))
}

fn whole(value: &Value) -> u64 {
    value
        .as_u64()
        .unwrap_or_else(|| panic!("{value} is no whole number"))
}

fn listed(report: &Value) -> &Vec<Value> {
    report["tensors"].as_array().expect("a list of tensors")
}

fn tensor<'v>(report: &'v Value, name: &str) -> &'v Value {
    let found = listed(report).iter().find(|t| t["name"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {report}"))
}

// ---------------------------------------------------------------- the contract

#[test]
fn compress_reports_what_it_wrote() {
    let b = Bench::new();
    for spec in [
        "",
        "--spec int8",
        "--spec int4(group=64)|zstd",
        "--lossless",
    ] {
        let line = format!("compress {{}}/model.safetensors -o {{}}/m.cai {spec} --json");
        let run = b.run(&line).exits(0);
        assert_eq!(run.stderr, "");
        let report = run.json();
        let input = fs::metadata(b.path("model.safetensors")).unwrap().len();
        let output = fs::metadata(b.path("m.cai")).unwrap().len();
        assert_eq!(whole(&report["input_bytes"]), input);
        assert_eq!(whole(&report["output_bytes"]), output);
        let ratio = input as f64 / output as f64;
        assert!((number(&report["ratio"]) - ratio).abs() < 1e-9);
        assert!(number(&report["seconds"]) > 0.0);
        let stored: u64 = listed(&report)
            .iter()
            .map(|t| whole(&t["stored_bytes"]))
            .sum();
        assert_eq!(
            stored + whole(&report["index_bytes"]) + whole(&report["header_bytes"]),
            output,
            "{spec}: every byte of the file is accounted for"
        );

        let mut names = Vec::new();
        for t in listed(&report) {
            names.push(t["name"].as_str().unwrap().to_owned());
            let shape: Vec<u64> = t["shape"].as_array().unwrap().iter().map(whole).collect();
            let n: u64 = shape.iter().product();
            let dtype: DType = t["dtype"].as_str().unwrap().parse().unwrap();
            assert_eq!(whole(&t["raw_bytes"]), n * dtype.size() as u64, "{t}");
            assert!(!t["spec"].as_str().unwrap().contains("auto"), "{t}");
            if n > 0 {
                let bits = whole(&t["stored_bytes"]) as f64 * 8.0 / n as f64;
                assert!((number(&t["bits_per_weight"]) - bits).abs() < 1e-9, "{t}");
            }
            let error = number(&t["relative_error"]);
            assert_eq!(t["sqnr_db"].is_null(), error == 0.0, "{t}");
            if error > 0.0 {
                let db = -20.0 * error.log10();
                assert!((number(&t["sqnr_db"]) - db).abs() < 1e-6, "{t}");
            }
            if spec.is_empty() {
                assert!(error <= 0.01, "{t}");
            }
            let small = shape.len() < 2 || n < 4096 || !dtype.is_float();
            if small || spec == "--lossless" {
                assert_eq!(error, 0.0, "{spec}: {t}");
            }
        }
        // The tied pair is stored once; everything else is there.
        let mut expected: Vec<String> = tensors().into_iter().map(|(n, _)| n).collect();
        let aliases = report["aliases"].as_object().unwrap();
        assert_eq!(aliases.len(), 1, "{aliases:?}");
        let (alias, target) = aliases.iter().next().unwrap();
        let mut pair = [alias.as_str(), target.as_str().unwrap()];
        pair.sort_unstable();
        assert_eq!(pair, ["layer.0.weight", "lm_head.weight"]);
        expected.retain(|n| n != alias);
        names.sort();
        expected.sort();
        assert_eq!(names, expected);
        b.run("verify {}/m.cai").exits(0);
    }
}

#[test]
fn inspect_lists_what_compress_listed() {
    let b = Bench::new();
    let compressed = b
        .run("compress {}/model.safetensors -o {}/m.cai --spec int8 --json")
        .exits(0)
        .json();
    let inspected = b.run("inspect {}/m.cai --json").exits(0).json();
    assert_eq!(inspected["format"], "cai");
    assert_eq!(inspected["metadata"]["format"], "test");
    assert_eq!(inspected["output_bytes"], compressed["output_bytes"]);
    assert_eq!(inspected["aliases"], compressed["aliases"]);
    assert_eq!(listed(&inspected).len(), listed(&compressed).len());
    for (i, c) in listed(&inspected).iter().zip(listed(&compressed)) {
        let mut c = c.as_object().unwrap().clone();
        c.remove("seconds");
        assert_eq!(i.as_object().unwrap(), &c);
    }
}

#[test]
fn lossless_comes_back_bit_for_bit_under_every_name() {
    let b = Bench::new();
    b.run("compress {}/model.safetensors -o {}/m.cai --lossless")
        .exits(0);
    let run = b
        .run("decompress {}/m.cai -o {}/back.safetensors --json")
        .exits(0);
    let report = run.json();
    let size = |name: &str| fs::metadata(b.path(name)).unwrap().len();
    assert_eq!(whole(&report["input_bytes"]), size("m.cai"));
    assert_eq!(whole(&report["output_bytes"]), size("back.safetensors"));
    assert_eq!(whole(&report["tensors"]), tensors().len() as u64);

    let (before, after) = (
        contents(&b.path("model.safetensors")),
        contents(&b.path("back.safetensors")),
    );
    assert_eq!(before.len(), tensors().len());
    assert_eq!(before, after);
    let model = Model::open(&b.path("back.safetensors")).unwrap();
    assert_eq!(
        model.metadata().get("format").map(String::as_str),
        Some("test")
    );

    let diff = b
        .run("diff {}/model.safetensors {}/m.cai --json")
        .exits(0)
        .json();
    assert_eq!(diff["identical"], true);
    assert_eq!(whole(&diff["same"]), tensors().len() as u64);
    // The other way round, and of the file that came back.
    let diff = b
        .run("diff {}/m.cai {}/back.safetensors --json")
        .exits(0)
        .json();
    assert_eq!(diff["identical"], true);
}

#[test]
fn a_lossy_model_keeps_names_dtypes_and_shapes() {
    let b = Bench::new();
    let report = b
        .run("compress {}/model.safetensors -o {}/m.cai --spec int4 --json")
        .exits(0)
        .json();
    b.run("decompress {}/m.cai -o {}/back.safetensors").exits(0);
    let before = contents(&b.path("model.safetensors"));
    let after = contents(&b.path("back.safetensors"));
    let head = |m: &BTreeMap<String, (DType, Vec<usize>, Vec<u8>)>| {
        let all = m.iter().map(|(n, (d, s, _))| (n.clone(), *d, s.clone()));
        all.collect::<Vec<_>>()
    };
    assert_eq!(head(&before), head(&after));

    // What diff measures is what compress reported.
    let diff = b
        .run("diff {}/model.safetensors {}/m.cai --json")
        .exits(0)
        .json();
    assert_eq!(diff["identical"], false);
    assert!(whole(&diff["differs"]) > 3);
    for t in listed(&report) {
        let d = tensor(&diff, t["name"].as_str().unwrap());
        let (reported, measured) = (number(&t["relative_error"]), number(&d["relative_error"]));
        // f64 tensors are measured through f32 when they are encoded.
        assert!((reported - measured).abs() <= 1e-5 * reported, "{t}\n{d}");
    }
}

#[test]
fn bytes_do_not_depend_on_threads_or_instruction_set() {
    let b = Bench::new();
    for spec in ["auto(error=1%)", "int4(search=lsq)", "lossless"] {
        let mut outputs = Vec::new();
        for (threads, off) in [
            ("1", ""),
            ("2", ""),
            ("0", ""),
            ("2", "avx512"),
            ("1", "avx2"),
        ] {
            let out = b.path("m.cai");
            let run = program()
                .args(["compress", "--spec", spec, "--threads", threads, "-o"])
                .args([&out, &b.path("model.safetensors")])
                .env("CORTEX_DISABLE_CPU", off)
                .output()
                .unwrap();
            Run::of(run).exits(0);
            outputs.push(fs::read(&out).unwrap());
        }
        assert!(outputs.windows(2).all(|w| w[0] == w[1]), "{spec}");
    }
}

#[test]
fn a_dry_run_reports_to_the_byte_and_writes_nothing() {
    let b = Bench::new();
    let before = b.files();
    let dry = b
        .run("compress {}/model.safetensors -o {}/m.cai --spec int8 --dry-run --json")
        .exits(0)
        .json();
    assert_eq!(dry["dry_run"], true);
    // The output may be left out.
    let text = b
        .run("compress {}/model.safetensors --spec int8 --dry-run")
        .exits(0);
    assert!(text.stdout.contains("nothing was written"));
    assert_eq!(b.files(), before);
    let wet = b
        .run("compress {}/model.safetensors -o {}/m.cai --spec int8 --json")
        .exits(0)
        .json();
    assert_eq!(dry["output_bytes"], wet["output_bytes"]);
    assert_eq!(dry["index_bytes"], wet["index_bytes"]);
}

// ---------------------------------------------------------------- options

#[test]
fn ways_to_say_how() {
    let b = Bench::new();
    let compress = |how: &str| {
        b.run(&format!(
            "compress {{}}/model.safetensors --dry-run --json {how}"
        ))
        .exits(0)
        .json()
    };
    let default = compress("");
    let mut one_percent = compress("--max-error 1%");
    let mut hundredth = compress("--max-error 0.01");
    for other in [&mut one_percent, &mut hundredth] {
        assert_eq!(other["output_bytes"], default["output_bytes"]);
    }
    let coarse = compress("--max-error 10%");
    assert!(number(&coarse["ratio"]) > number(&default["ratio"]));
    for t in listed(&coarse) {
        assert!(number(&t["relative_error"]) <= 0.1, "{t}");
    }
    let bits = compress("--target-bits 5 --exclude ^half$ --exclude ^brain$");
    for t in listed(&bits)
        .iter()
        .filter(|t| t["name"] == "layer.0.weight")
    {
        assert!(number(&t["bits_per_weight"]) <= 5.0, "{t}");
    }
    let lossless = compress("--lossless");
    let spec = compress("--spec lossless");
    assert_eq!(lossless["output_bytes"], spec["output_bytes"]);
}

#[test]
fn tensors_are_named_and_excluded_by_regex() {
    let b = Bench::new();
    let report = b
        .run(
            "compress {}/model.safetensors -o {}/m.cai --spec int8 --json \
             --tensor ^layer\\.0\\.weight$=int4(group=64) --tensor layer=dense(type=f16) \
             --tensor brain=int4 --exclude brain|half",
        )
        .exits(0)
        .json();
    let spec = |name: &str| tensor(&report, name)["spec"].as_str().unwrap().to_owned();
    // The first match counts, and named tensors follow to the letter though they are small.
    assert_eq!(spec("layer.0.weight"), "int4(group=64)");
    assert_eq!(spec("layer.1.weight"), "dense(type=f16)");
    assert_eq!(spec("layer.0.bias"), "dense(type=f16)");
    assert_eq!(spec("conv.weight"), "int8");
    // Excluded ones stay lossless, named or not.
    for name in ["brain", "half"] {
        assert_eq!(number(&tensor(&report, name)["relative_error"]), 0.0);
    }

    let run = b
        .run("compress {}/model.safetensors --dry-run --tensor nothing=int8 --exclude zzz")
        .exits(0);
    run.says("warning: --tensor 'nothing=int8' matches no tensor")
        .says("warning: --exclude 'zzz' matches no tensor");

    // An integer tensor cannot be quantised: named, and what to do.
    b.run("compress {}/model.safetensors -o {}/n.cai --tensor ids=int8")
        .exits(1)
        .says("tensor 'ids.")
        .says("hint: ");
    assert!(!b.path("n.cai").exists());
}

#[test]
fn a_calibration_file_is_used_by_name_and_its_gaps_are_told() {
    let b = Bench::new();
    let matrix = |n: usize| {
        let at = |k: usize| 0.9f32.powi((k / n).abs_diff(k % n) as i32);
        Moments::from_matrix(n, (0..n * n).map(at).collect()).unwrap()
    };
    let ramp = |n: usize| Moments::from_diagonal((0..n).map(|i| i as f32).collect()).unwrap();
    let moments = BTreeMap::from([
        ("layer.0.weight".to_owned(), matrix(160)),
        ("conv.weight".to_owned(), ramp(8 * 7 * 7)),
        ("of no tensor".to_owned(), ramp(3)),
    ]);
    write_calibration(&b.path("c.safetensors"), &moments).unwrap();

    let how = "compress {}/model.safetensors --spec int4(search=gptq)";
    let plain = b.run(&format!("{how} --dry-run --json")).exits(0).json();
    let run = b.run(&format!(
        "{how} -o {{}}/m.cai --calibration {{}}/c.safetensors --json"
    ));
    let report = run.exits(0).json();
    for name in ["layer.0.weight", "conv.weight", "layer.1.weight"] {
        let (with, without) = (tensor(&report, name), tensor(&plain, name));
        assert_eq!(
            whole(&with["stored_bytes"]),
            whole(&without["stored_bytes"])
        );
        assert_eq!(with["spec"], "int4(search=gptq)");
        let fell_back = "int4(search=gptq) without calibration: rounded to nearest with search=lsq";
        assert_eq!(without["notes"], serde_json::json!([fell_back]), "{name}");
        if name == "layer.1.weight" {
            let gap = "no entry in the calibration file";
            assert_eq!(with["notes"], serde_json::json!([fell_back, gap]));
            assert_eq!(with["relative_error"], without["relative_error"]);
            assert!(with.get("calibrated").is_none());
        } else {
            assert!(
                with.get("notes").is_none() && with["calibrated"] == true,
                "{name}"
            );
            assert_ne!(with["relative_error"], without["relative_error"], "{name}");
        }
    }
    // Lossless tensors need no entry.
    assert!(tensor(&report, "layer.0.bias").get("notes").is_none());
    // A list below the table, each note once.
    let text = b
        .run(&format!("{how} --dry-run --calibration {{}}/c.safetensors"))
        .exits(0)
        .stdout;
    let notes: Vec<&str> = text.lines().filter(|l| l.starts_with("note: ")).collect();
    assert_eq!(notes.len(), 2, "{text}");
    assert!(notes[1].starts_with("note: no entry in the calibration file: "));
    assert!(
        notes[1].contains("layer.1.weight") && notes[1].contains(" more"),
        "{text}"
    );

    // An entry of another shape.
    let wrong = BTreeMap::from([("layer.0.weight".to_owned(), ramp(96))]);
    write_calibration(&b.path("w.safetensors"), &wrong).unwrap();
    b.run(&format!(
        "{how} -o {{}}/n.cai --calibration {{}}/w.safetensors"
    ))
    .exits(1)
    .says("tensor 'layer.0.weight'")
    .says("[96]")
    .says("[160] or [160, 160]")
    .says("[96, 160]");
    // Another file altogether: integers, no name in common, none at all.
    b.run("compress {}/model.safetensors --dry-run --spec int8 --tensor ids=dense --calibration {}/model.safetensors")
        .exits(1)
        .says("calibration");
    let other = BTreeMap::from([("x".to_owned(), ramp(2))]);
    write_calibration(&b.path("o.safetensors"), &other).unwrap();
    b.run(&format!("{how} --dry-run --calibration {{}}/o.safetensors"))
        .exits(0)
        .says("has no entry with the name of a tensor");
    b.run(&format!(
        "{how} --dry-run --calibration {{}}/none.safetensors"
    ))
    .exits(1)
    .says("none.safetensors");
    assert!(!b.path("n.cai").exists());
}

#[test]
fn one_tensor_with_its_parts() {
    let b = Bench::new();
    b.run("compress {}/model.safetensors -o {}/m.cai --spec mask(values=[int8])")
        .exits(0);
    let run = b.run("inspect {}/m.cai --tensor layer.1.weight").exits(0);
    for word in ["64×96", "mask(values=[int8])", "Part", "Stored"] {
        assert!(run.stdout.contains(word), "{word}: {}", run.stdout);
    }
    let t = b
        .run("inspect {}/m.cai --tensor layer.1.weight --json")
        .exits(0)
        .json();
    fn stored(form: &Value) -> u64 {
        let parts = form["parts"].as_array().unwrap();
        let one = |p: &Value| match p.get("form") {
            Some(form) => stored(form),
            None => whole(&p["stored_bytes"]),
        };
        parts.iter().map(one).sum()
    }
    assert_eq!(t["form"]["kind"], "mask");
    assert_eq!(stored(&t["form"]), whole(&t["stored_bytes"]));

    let listing = b.run("inspect {}/m.cai --json").exits(0).json();
    let (alias, target) = listing["aliases"]
        .as_object()
        .and_then(|a| a.iter().next())
        .unwrap();
    let t = b
        .run(&format!("inspect {{}}/m.cai --tensor {alias} --json"))
        .exits(0)
        .json();
    assert_eq!(t["name"], *alias);
    assert_eq!(&t["alias_of"], target);

    b.run("inspect {}/m.cai --tensor layer.1.weigth")
        .exits(2)
        .says("did you mean 'layer.1.weight'?");
    b.run("inspect {}/model.safetensors --tensor nothing")
        .exits(2)
        .says("nothing");
    let t = b
        .run("inspect {}/model.safetensors --tensor half --json")
        .exits(0)
        .json();
    assert_eq!(t["dtype"], "f16");
}

#[test]
fn foreign_models_are_inspected_and_compared() {
    let b = Bench::new();
    let report = b.run("inspect {}/model.safetensors --json").exits(0).json();
    assert_eq!(report["format"], "safetensors");
    assert_eq!(report["metadata"]["format"], "test");
    assert_eq!(listed(&report).len(), tensors().len() - 1);
    assert_eq!(
        tensor(&report, "conv.weight")["shape"].to_string(),
        "[16,8,7,7]"
    );
    let text = b.run("inspect {}/model.safetensors").exits(0).stdout;
    assert!(
        text.contains("16×8×7×7") && text.contains("größe 重み/μ"),
        "{text}"
    );

    let mut other = tensors();
    other[0] = float("layer.0.weight", Kind::Laplace, &[96, 160], DType::F32);
    other[1] = float("layer.0.bias", Kind::Gaussian, &[97], DType::F32);
    other[2].0 = "renamed".into();
    write_model(&b.path("other.safetensors"), &other);
    let diff = b
        .run("diff {}/model.safetensors {}/other.safetensors --json")
        .exits(0)
        .json();
    let status = |name: &str| tensor(&diff, name)["status"].clone();
    assert_eq!(status("layer.0.weight"), "differs");
    assert_eq!(status("layer.0.bias"), "shape");
    assert_eq!(status("layer.1.weight"), "only_a");
    assert_eq!(status("renamed"), "only_b");
    assert_eq!(status("half"), "same");
    assert_eq!(diff["identical"], false);
    for (key, n) in [("differs", 1), ("shape", 1), ("only_a", 1), ("only_b", 1)] {
        assert_eq!(whole(&diff[key]), n, "{key}");
    }
    let text = b
        .run("diff {}/model.safetensors {}/other.safetensors")
        .exits(0)
        .stdout;
    assert!(text.contains("only in A") && text.contains("other shape or type"));
}

#[test]
fn codecs_and_doctor_tell_what_there_is() {
    let codecs = cortex(["codecs", "--json"]).exits(0).json();
    assert_eq!(codecs, cortex::form::codecs_json());
    let text = cortex(["codecs"]).exits(0).stdout;
    for name in ["auto", "int8", "mask", "zstd", "group="] {
        assert!(text.contains(name), "{name}");
    }

    let doctor = cortex(["doctor", "--json"]).exits(0).json();
    assert_eq!(doctor["version"], env!("CARGO_PKG_VERSION"));
    assert!(whole(&doctor["abi_version"]) >= 1);
    assert!(whole(&doctor["threads"]) >= 1);
    assert_eq!(
        doctor["kernels"]["chosen"],
        cortex::kernel::best().isa().name()
    );
    assert!(doctor["importers"].as_array().unwrap().len() >= 4);

    let run = program()
        .args(["doctor", "--json"])
        .env("CORTEX_DISABLE_CPU", "avx2,nonsense")
        .output();
    let run = Run::of(run.unwrap()).exits(0).says("'nonsense'");
    let doctor = run.json();
    assert_eq!(doctor["kernels"]["chosen"], "portable");
    assert_eq!(doctor["disable_cpu"]["unknown"][0], "nonsense");
    assert_eq!(doctor["disable_cpu"]["disabled"][0], "avx2");
    let text = cortex(["doctor"]).exits(0).stdout;
    assert!(text.contains("safetensors") && text.contains("kernels"));
}

/// Runs `cortex bench matmul` with a line of words more.
fn bench_matmul(line: &str) -> Run {
    cortex(
        ["bench", "matmul"]
            .into_iter()
            .chain(line.split_whitespace()),
    )
}

#[test]
fn bench_matmul_checks_and_times_a_product() {
    const KEYS: [&str; 14] = [
        "peer",
        "spec",
        "out",
        "inn",
        "B",
        "threads",
        "cold",
        "wbytes",
        "min_s",
        "med_s",
        "n",
        "cpu_s",
        "kernel",
        "max_rel_error",
    ];
    let small = "--shape 48x96 --batch 3 --seconds 0.01 --json";
    for (spec, bytes, cold) in [("int8", 48 * 96 + 320, "--hot"), ("mask", 3456, "--cold")] {
        let line =
            format!("--spec {spec} {small} {cold} --threads 2 --precision exact --sparsity 90%");
        let json = bench_matmul(&line).exits(0).json();
        let keys: Vec<&String> = json.as_object().unwrap().keys().collect();
        assert_eq!(keys, KEYS);
        assert_eq!(json["peer"], "cortex");
        assert_eq!(json["spec"], spec);
        let counts = ["out", "inn", "B", "threads"].map(|k| json[k].as_u64().unwrap());
        assert_eq!(counts, [48, 96, 3, 2]);
        assert_eq!(json["cold"], u8::from(cold == "--cold"));
        assert!(json["wbytes"].as_u64().unwrap() <= bytes, "{json}");
        let [least, median] = ["min_s", "med_s"].map(|k| json[k].as_f64().unwrap());
        assert!(0.0 < least && least <= median && median < 1.0, "{json}");
        assert!(json["n"].as_u64().unwrap() >= 3);
        assert!(json["kernel"].as_str().unwrap().ends_with("/exact"));
        // f32 sums of 96 products: 1e-7 of the size, and some.
        assert!(json["max_rel_error"].as_f64().unwrap() < 1e-5, "{json}");
    }
    let line = format!("--spec int8 {small} --hot --transposed");
    let json = bench_matmul(&line).exits(0).json();
    let keys: Vec<&String> = json.as_object().unwrap().keys().collect();
    assert_eq!(keys, KEYS);
    assert!(json["max_rel_error"].as_f64().unwrap() < 1e-5, "{json}");
    // What the activations are rounded to may be left open, and shows in the error at most.
    let json = bench_matmul(&format!("--spec int4 {small} --hot"))
        .exits(0)
        .json();
    assert!(json["max_rel_error"].as_f64().unwrap() < 0.05, "{json}");
    let text = bench_matmul("--spec int4 --shape 48x96 --seconds 0.01 --hot")
        .exits(0)
        .stdout;
    assert!(
        text.contains("GFLOP/s") && text.contains("int4, 48×96"),
        "{text}"
    );

    bench_matmul("--spec int9 --json")
        .exits(2)
        .says("--spec, column 1: unknown form 'int9'");
    for wrong in [
        "--shape 48",
        "--sparsity 90",
        "--batch 0",
        "--threads 0",
        "--seconds 0",
        "--cold --hot",
    ] {
        bench_matmul(&format!("--spec int8 --shape 8x8 {wrong}")).exits(2);
    }
}

#[test]
fn bench_probe_tells_the_limits_of_the_machine() {
    let json = cortex("bench probe --threads 2 --seconds 0.1 --json".split(' '))
        .exits(0)
        .json();
    assert_eq!(json["threads"], 2);
    assert!(json["read_gbs"].as_f64().unwrap() > 0.1, "{json}");
    for unit in ["f32", "bf16", "int8"] {
        let rate = &json[format!("{unit}_gflops")];
        assert!(rate.is_null() || rate.as_f64().unwrap() > 0.1, "{json}");
    }
    let text = cortex("bench probe --seconds 0.01".split(' '))
        .exits(0)
        .stdout;
    assert!(text.contains("read") && text.contains("GB/s"), "{text}");
}

#[test]
fn bench_matmul_answers_requests() {
    let mut child = program()
        .args([
            "bench",
            "matmul",
            "--spec",
            "int8",
            "--shape",
            "40x64",
            "--json",
            "--serve",
            "--seconds",
            "0.01",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    writeln!(
        stdin,
        "{{\"B\": 5, \"cold\": 0}}\n{{\"B\": 2, \"cold\": 0}}"
    )
    .unwrap();
    drop(stdin);
    let run = Run::of(child.wait_with_output().unwrap()).exits(0);
    let lines: Vec<Value> = run
        .stdout
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    let batches: Vec<&Value> = lines.iter().map(|l| &l["B"]).collect();
    assert_eq!(batches, [&Value::from(5), &Value::from(2), &Value::Null]);
    assert_eq!(lines[2]["answered"], 2);
}

#[test]
fn help_and_version() {
    let run = cortex(["--version"]).exits(0);
    assert_eq!(
        run.stdout,
        format!("cortex {}\n", env!("CARGO_PKG_VERSION"))
    );
    let help = cortex(["--help"]).exits(0).stdout;
    for text in ["Examples:", "Exit codes:", "cortex verify model.cai"] {
        assert!(help.contains(text), "{help}");
    }
    for command in [
        "compress",
        "decompress",
        "inspect",
        "verify",
        "diff",
        "codecs",
        "bench",
        "doctor",
    ] {
        assert!(help.contains(command));
        let help = cortex([command, "--help"]).exits(0).stdout;
        assert!(help.contains("Usage:") && help.contains("--json"), "{help}");
        assert!(!help.contains('\x1b'), "no colours in a pipe");
    }
    // Nothing asked is wrong usage, and tells what there is.
    let nothing: [&str; 0] = [];
    cortex(nothing).exits(2).says("Usage:");
}

// ---------------------------------------------------------------- exit codes

#[test]
fn wrong_usage_is_2() {
    let b = Bench::new();
    for (line, says) in [
        ("bogus", "unrecognized subcommand"),
        ("compress {}/model.safetensors", "--output"),
        (
            "compress {}/model.safetensors -o {}/m.cai --bogus",
            "--bogus",
        ),
        (
            "compress {}/model.safetensors -o {}/m.cai --spec int8 --lossless",
            "cannot be used",
        ),
        (
            "compress {}/model.safetensors -o {}/m.cai --threads x",
            "--threads",
        ),
        (
            "compress {}/model.safetensors -o {}/m.cai --spec int8(grop=32)",
            "column 6",
        ),
        (
            "compress {}/model.safetensors -o {}/m.cai --spec int8(group=33)",
            "32, 64, 128",
        ),
        (
            "compress {}/model.safetensors -o {}/m.cai --spec zstd",
            "dense | zstd",
        ),
        (
            "compress {}/model.safetensors -o {}/m.cai --tensor a=int9",
            "column 1",
        ),
        (
            "compress {}/model.safetensors -o {}/m.cai --tensor int8",
            "REGEX=SPEC",
        ),
        (
            "compress {}/model.safetensors -o {}/m.cai --tensor (=int8",
            "unclosed group",
        ),
        (
            "compress {}/model.safetensors -o {}/m.cai --exclude [",
            "unclosed character class",
        ),
        (
            "compress {}/model.safetensors -o {}/m.cai --max-error much",
            "1% or 0.01",
        ),
        (
            "compress {}/model.safetensors -o {}/m.cai --max-error 0",
            "1% or 0.01",
        ),
        (
            "compress {}/model.safetensors -o {}/m.cai --target-bits -1",
            "--target-bits",
        ),
        (
            "compress {}/model.safetensors -o {}/m.cai --target-bits 0",
            "4.5",
        ),
        (
            "compress {}/model.safetensors -o {}/model.safetensors",
            "both input and output",
        ),
        (
            "compress {}/model.safetensors -o {}/./model.safetensors",
            "both input and output",
        ),
        ("compress {}/model.safetensors -o {}", "it is a folder"),
        ("verify {}/model.safetensors", "safetensors file"),
    ] {
        let run = b.run(line).exits(2).says(says);
        assert_eq!(run.stdout, "", "{line}");
        assert!(run.stderr.starts_with("error: "), "{line}: {}", run.stderr);

        // The same as an object; stderr tells people still.
        let run = b.run(&format!("{line} --json")).exits(2).says(says);
        let error = &run.json()["error"];
        assert!(error["message"].is_string(), "{line}: {error}");
        assert_eq!(whole(&error["exit_code"]), 2, "{line}");
    }
    assert_eq!(b.files(), ["model.safetensors"]);
}

#[test]
fn a_bad_spec_is_shown_with_a_caret() {
    let b = Bench::new();
    let model = b.path("model.safetensors");
    let args = |spec: &'static str| {
        vec![
            OsStr::new("compress"),
            model.as_os_str(),
            OsStr::new("--dry-run"),
            OsStr::new("--spec"),
            OsStr::new(spec),
        ]
    };
    let run = cortex(args("dense | zsdt(9)")).exits(2);
    let lines: Vec<&str> = run.stderr.lines().collect();
    assert_eq!(
        lines[0],
        "error: --spec, column 9: unknown pack 'zsdt'; did you mean zstd?"
    );
    assert_eq!(lines[1], "  dense | zsdt(9)");
    assert_eq!(lines[2], "          ^");
    assert!(lines[3].starts_with("hint: "));
    // At the end, past letters of several bytes, very long, and not printable.
    for spec in ["int8(", "ä", "int8 ö", "int8(group=\u{1b}[31m)", "", "   "] {
        let run = cortex(args(spec)).exits(2);
        assert!(!run.stderr.contains('\u{1b}'), "{}", run.stderr);
    }
    let long: &'static str = Box::leak("int8|".repeat(2000).into_boxed_str());
    let run = cortex(args(long)).exits(2);
    assert!(run.stderr.len() < 1000, "{}", run.stderr);
}

#[test]
fn failed_work_is_1() {
    let b = Bench::new();
    fs::write(b.path("note.txt"), "not a model, just a text").unwrap();
    let before = b.files();
    for (line, says) in [
        ("compress {}/missing -o {}/m.cai", "missing"),
        ("compress {}/note.txt -o {}/m.cai", "note.txt"),
        ("compress {}/model.safetensors -o {}/no/m.cai", "no/m.cai"),
        (
            "compress {}/model.safetensors -o {}/note.txt/m.cai",
            "note.txt/m.cai",
        ),
        (
            "compress {}/model.safetensors -o {}/m.cai --target-bits 0.001",
            "bits per weight",
        ),
        ("decompress {}/missing -o {}/m.safetensors", "missing"),
        ("inspect {}/missing", "missing"),
        ("inspect {}/note.txt", "note.txt"),
        ("verify {}/missing", "missing"),
        ("diff {}/model.safetensors {}/missing", "missing"),
    ] {
        let run = b.run(line).exits(1).says(says);
        assert_eq!(run.stdout, "", "{line}");
        let json = b.run(&format!("{line} --json")).exits(1).json();
        assert_eq!(whole(&json["error"]["exit_code"]), 1, "{line}");
    }
    assert_eq!(b.files(), before, "nothing is left behind");
}

#[test]
fn values_that_a_lossy_spec_refuses_are_named() {
    let b = Bench::new();
    let mut values = weights(Kind::Gaussian, 80, 80, 1);
    values[81] = f32::NAN;
    let bad = Dense::from_slice(&values, &[80, 80]).unwrap();
    write_model(&b.path("nan.safetensors"), &[("bad".into(), bad)]);
    let run = b
        .run("compress {}/nan.safetensors -o {}/m.cai --spec int8 --json")
        .exits(1)
        .says("nan.safetensors")
        .says("tensor 'bad'")
        .says("hint: ");
    assert_eq!(run.json()["error"]["tensor"], "bad");
    assert!(!b.path("m.cai").exists());
    // The default stores it without loss.
    b.run("compress {}/nan.safetensors -o {}/m.cai").exits(0);
    b.run("decompress {}/m.cai -o {}/back.safetensors").exits(0);
    assert_eq!(
        contents(&b.path("nan.safetensors")),
        contents(&b.path("back.safetensors"))
    );
}

#[test]
fn an_archive_is_not_compressed_again() {
    let b = Bench::new();
    b.run("compress {}/model.safetensors -o {}/m.cai --spec int8")
        .exits(0);
    b.run("compress {}/m.cai -o {}/n.cai")
        .exits(1)
        .says("hint: this is an archive already");
    b.run("decompress {}/m.cai -o {}/m.cai")
        .exits(2)
        .says("both input and output");
    b.run("verify {}/m.cai").exits(0);
}

// ---------------------------------------------------------------- damage

#[test]
fn cut_files_are_3() {
    let b = Bench::new();
    b.run("compress {}/model.safetensors -o {}/m.cai --spec int8")
        .exits(0);
    let whole_file = fs::read(b.path("m.cai")).unwrap();
    let n = whole_file.len();
    let places = [
        0,
        1,
        7,
        8,
        63,
        64,
        100,
        127,
        128,
        n / 3,
        n / 2,
        n - 64,
        n - 1,
    ];
    for at in places {
        fs::write(b.path("cut.cai"), &whole_file[..at]).unwrap();
        for line in [
            "verify {}/cut.cai",
            "inspect {}/cut.cai",
            "decompress {}/cut.cai -o {}/x.safetensors",
            "diff {}/m.cai {}/cut.cai",
        ] {
            b.run(line).exits(3).says("cut.cai");
        }
        let json = b.run("verify {}/cut.cai --json").exits(3).json();
        assert_eq!(json["ok"], false);
        assert_eq!(json["error"]["kind"], "corrupt");
        assert_eq!(json["errors"][0], json["error"]);
    }
    // Longer than it says it is.
    let mut longer = whole_file.clone();
    longer.extend_from_slice(&[0; 64]);
    fs::write(b.path("cut.cai"), &longer).unwrap();
    b.run("verify {}/cut.cai").exits(3);
    assert!(!b.path("x.safetensors").exists());

    let model = fs::read(b.path("model.safetensors")).unwrap();
    fs::write(b.path("cut.safetensors"), &model[..model.len() / 2]).unwrap();
    b.run("compress {}/cut.safetensors -o {}/x.cai")
        .exits(3)
        .says("cut.safetensors");
    fs::write(b.path("empty.safetensors"), "").unwrap();
    b.run("compress {}/empty.safetensors -o {}/x.cai")
        .exits(3)
        .says("empty");
}

#[test]
fn verify_sees_every_flipped_byte() {
    let b = Bench::new();
    b.run("compress {}/model.safetensors -o {}/m.cai --spec int8|zstd")
        .exits(0);
    let good = fs::read(b.path("m.cai")).unwrap();
    let archive = Archive::open(&b.path("m.cai")).unwrap();
    let data_end = good.len() as u64 - 64 - archive.index_bytes();
    let mut rng = Rng::new(7);
    let mut places: Vec<usize> = (0..200).map(|_| rng.below(good.len())).collect();
    // And some where seeds seldom fall: header, index, footer.
    places.extend([0, 8, 10, 20, 59, 60, 63, 64]);
    places.extend((0..64).step_by(7).map(|i| good.len() - 1 - i));
    let mut named = 0;
    for at in places {
        let mut bad = good.clone();
        bad[at] ^= 1 << rng.below(8);
        fs::write(b.path("bad.cai"), &bad).unwrap();
        let run = b.run("verify {}/bad.cai --json");
        assert_eq!(run.code, Some(3), "byte {at}: {}", run.stderr);
        let json = run.json();
        assert!(json["error"]["message"].is_string(), "byte {at}: {json}");
        // Data lies behind the header; a damaged chunk names its tensor and offset.
        if (64..data_end).contains(&(at as u64)) {
            let offset = whole(&json["error"]["offset"]);
            assert!(offset <= at as u64, "byte {at}: {json}");
            named += usize::from(json["error"]["tensor"].is_string());
        }
    }
    assert!(named > 100, "{named}");
}

#[test]
fn verify_names_each_damaged_tensor() {
    let b = Bench::new();
    b.run("compress {}/model.safetensors -o {}/m.cai --spec dense")
        .exits(0);
    let mut bytes = fs::read(b.path("m.cai")).unwrap();
    // One bit of every 64-byte block of the first kilobytes.
    for at in (64..4096).step_by(64) {
        bytes[at] ^= 1;
    }
    let last = bytes.len() / 2;
    bytes[last] ^= 0x80;
    fs::write(b.path("m.cai"), &bytes).unwrap();
    let run = b.run("verify {}/m.cai --json").exits(3);
    let json = run.json();
    let errors = json["errors"].as_array().unwrap();
    assert!(errors.len() >= 2, "{json}");
    for e in errors {
        assert!(e["tensor"].is_string() && e["offset"].is_u64(), "{e}");
    }
    let text = b.run("verify {}/m.cai").exits(3).says("at byte");
    assert!(text.stderr.lines().count() >= 2);
    // Damage in one tensor is no reason not to list them.
    b.run("inspect {}/m.cai").exits(0);
    // What is damaged is not written out.
    b.run("decompress {}/m.cai -o {}/x.safetensors").exits(3);
    assert_eq!(b.files(), ["m.cai", "model.safetensors"]);
}

// ---------------------------------------------------------------- odd models

#[test]
fn models_without_tensors_or_elements() {
    let b = Bench::new();
    write_model(&b.path("none.safetensors"), &[]);
    let none: [f32; 0] = [];
    let empty = |shape: &[usize]| Dense::from_slice(&none, shape).unwrap();
    let tensors = [
        ("a".to_owned(), empty(&[0])),
        ("b".to_owned(), empty(&[0, 5000])),
        ("c".to_owned(), empty(&[5000, 0])),
        ("d".to_owned(), empty(&[2, 0, 3])),
    ];
    write_model(&b.path("hollow.safetensors"), &tensors);
    for name in ["none", "hollow"] {
        for how in ["", "--spec int8", "--spec int4|zstd", "--lossless"] {
            let line = format!("compress {{}}/{name}.safetensors -o {{}}/m.cai --json {how}");
            let report = b.run(&line).exits(0).json();
            for t in listed(&report) {
                assert_eq!(number(&t["bits_per_weight"]), 0.0);
                assert_eq!(number(&t["relative_error"]), 0.0);
            }
            b.run("verify {}/m.cai").exits(0);
            let text = b.run("inspect {}/m.cai").exits(0).stdout;
            assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
            b.run("decompress {}/m.cai -o {}/back.safetensors").exits(0);
            assert_eq!(
                contents(&b.path("back.safetensors")),
                contents(&b.path(&format!("{name}.safetensors")))
            );
            b.run(&format!("diff {{}}/{name}.safetensors {{}}/m.cai"))
                .exits(0);
        }
    }
}

#[test]
fn names_cannot_fool_a_terminal() {
    let b = Bench::new();
    let evil = "a\u{1b}[2Jb\nrow\tx\u{202e}y";
    let mut model = vec![float("plain", Kind::Gaussian, &[4, 4], DType::F32)];
    model.push((
        evil.into(),
        Dense::from_slice(&[f32::NAN], &[1, 1]).unwrap(),
    ));
    write_model(&b.path("evil.safetensors"), &model);
    b.run("compress {}/evil.safetensors -o {}/m.cai").exits(0);
    for line in [
        "inspect {}/m.cai",
        "inspect {}/evil.safetensors",
        "diff {}/evil.safetensors {}/m.cai",
    ] {
        let out = b.run(line).exits(0).stdout;
        assert!(out.contains("a\\u{1b}[2Jb\\nrow"), "{out}");
        assert!(!out.contains(['\u{1b}', '\u{202e}', '\t']), "{out}");
    }
    let run = b
        .run("compress {}/evil.safetensors -o {}/n.cai --tensor row=int8")
        .exits(1);
    assert!(!run.stderr.contains('\u{1b}'), "{}", run.stderr);
    // Programs get the name as it is.
    let json = b.run("inspect {}/m.cai --json").exits(0).json();
    tensor(&json, evil);
}

#[test]
fn names_given_twice_are_refused() {
    let b = Bench::new();
    let one = r#""w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#;
    let two = r#""w":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}"#;
    let mut header = format!("{{{one},{two}}}");
    while header.len() % 8 != 0 {
        header.push(' ');
    }
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(&[0; 8]);
    fs::write(b.path("twice.safetensors"), &bytes).unwrap();
    b.run("compress {}/twice.safetensors -o {}/m.cai")
        .exits(3)
        .says("'w'");
}

// ---------------------------------------------------------------- pipes, disks, signals

#[test]
#[cfg(unix)]
fn a_reader_that_leaves_is_no_error() {
    let b = Bench::new();
    let many: Tensors = (0..3000)
        .map(|i| {
            (
                format!("tensor.{i}"),
                Dense::from_slice(&[i as f32], &[1]).unwrap(),
            )
        })
        .collect();
    write_model(&b.path("many.safetensors"), &many);
    let mut child = program()
        .args(["inspect", "--json"])
        .arg(b.path("many.safetensors"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let run = Run::of(child.wait_with_output().unwrap()).exits(0);
    assert_eq!(run.stderr, "");
}

#[test]
#[cfg(target_os = "linux")]
fn a_stdout_that_is_full_is_an_error() {
    let full = fs::OpenOptions::new().write(true).open("/dev/full");
    let Ok(full) = full else {
        println!("skipped: no /dev/full");
        return;
    };
    let run = program().arg("codecs").stdout(full).output().unwrap();
    Run::of(run).exits(1).says("cannot write to stdout");
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_loses_nothing() {
    let b = Bench::new();
    let disk = b.path("disk");
    fs::create_dir(&disk).unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"])
        .arg(&disk)
        .output();
    if !mounted.is_ok_and(|o| o.status.success()) {
        println!("skipped: a file system cannot be mounted here");
        return;
    }
    struct Unmount(PathBuf);
    impl Drop for Unmount {
        fn drop(&mut self) {
            let _ = Command::new("umount").arg(&self.0).output();
        }
    }
    let _unmount = Unmount(disk.clone());
    fs::write(disk.join("m.cai"), "old").unwrap();
    let weights = float("w", Kind::Gaussian, &[512, 512], DType::F32);
    write_model(&b.path("big.safetensors"), &[weights]);
    b.run("compress {}/big.safetensors -o {}/disk/m.cai --lossless")
        .exits(1)
        .says("disk/m.cai");
    b.run("compress {}/big.safetensors -o {}/m.cai --spec int8")
        .exits(0);
    b.run("decompress {}/m.cai -o {}/disk/m.safetensors")
        .exits(1)
        .says("disk/m.safetensors");
    assert_eq!(files(&disk), ["m.cai"], "no temporary file is left");
    assert_eq!(fs::read(disk.join("m.cai")).unwrap(), b"old");
}

/// A model that takes seconds to compress as [`SLOW`] says.
#[cfg(unix)]
fn slow_model(b: &Bench) {
    let mut rng = Rng::new(3);
    let values: Vec<f32> = (0..1 << 20).map(|_| rng.gaussian()).collect();
    let model: Tensors = (0..12)
        .map(|i| {
            let mut values = values.clone();
            values.rotate_left(i * 1000);
            let dense = Dense::from_slice(&values, &[1024, 1024]).unwrap();
            (format!("layer.{i}"), dense)
        })
        .collect();
    write_model(&b.path("slow.safetensors"), &model);
    fs::write(b.path("m.cai"), "old").unwrap();
}

/// Starts the slow work and waits until it writes.
#[cfg(unix)]
fn start_slow(b: &Bench) -> std::process::Child {
    let mut child = program()
        .args([
            "compress",
            "--threads",
            "1",
            "--spec",
            "dense|zstd(19)",
            "-o",
        ])
        .args([b.path("m.cai"), b.path("slow.safetensors")])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    while !b.files().iter().any(|f| f.starts_with(".cortex-")) {
        assert!(child.try_wait().unwrap().is_none(), "it ended too soon");
        assert!(begun.elapsed() < Duration::from_secs(60), "it never wrote");
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(100));
    child
}

#[cfg(unix)]
fn signal(child: &std::process::Child, name: &str) {
    let sent = Command::new("kill")
        .args(["-s", name, &child.id().to_string()])
        .status();
    assert!(sent.unwrap().success());
}

#[test]
#[cfg(unix)]
fn an_interrupt_leaves_the_old_output_and_nothing_else() {
    let b = Bench::new();
    slow_model(&b);
    for name in ["INT", "TERM"] {
        let child = start_slow(&b);
        signal(&child, name);
        let run = Run::of(child.wait_with_output().unwrap())
            .exits(1)
            .says("error: interrupted; nothing was written");
        assert_eq!(run.stdout, "");
        assert_eq!(fs::read(b.path("m.cai")).unwrap(), b"old");
        assert_eq!(
            b.files(),
            ["m.cai", "model.safetensors", "slow.safetensors"]
        );
    }
}

#[test]
#[cfg(unix)]
fn a_kill_leaves_the_old_output_whole() {
    let b = Bench::new();
    slow_model(&b);
    let mut child = start_slow(&b);
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().code(), None, "ended by the signal");
    assert_eq!(fs::read(b.path("m.cai")).unwrap(), b"old");
    // The output folder still works.
    b.run("compress {}/model.safetensors -o {}/m.cai").exits(0);
    b.run("verify {}/m.cai").exits(0);
}

#[test]
#[cfg(unix)]
fn paths_need_not_be_utf8() {
    use std::os::unix::ffi::OsStrExt;
    let b = Bench::new();
    let out = b.folder.path().join(OsStr::from_bytes(b"m\xff\n.cai"));
    let input = b.path("model.safetensors");
    let args: [&OsStr; 4] = [
        "compress".as_ref(),
        input.as_ref(),
        "-o".as_ref(),
        out.as_ref(),
    ];
    let run = cortex(args).exits(0);
    assert!(!run.stdout.contains('\u{ff}'));
    cortex(["verify".as_ref(), out.as_os_str()]).exits(0);
}
