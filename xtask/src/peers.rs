//! `cargo xtask bench-peers`: products of Cortex and of the best peers, side by side.
//!
//! Everybody who takes part in a cell (a weight class, a shape, a number of threads, a batch,
//! weights cold or hot) is a process of its own that holds its weights and answers requests. They
//! take turns for short slices, several rounds, so that a slow minute of the machine hits all
//! alike; who has no turn is stopped, so that no idle thread spins beside another's. The least
//! time of all rounds counts.

mod report;
mod runner;
mod venv;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{Result, root};
use runner::Runner;
use venv::Pythons;

pub const USAGE: &str = "\
cargo xtask bench-peers [OPTION…]
    --only NAME,…       classes: int8row int8g32 int4g32 2bit 3bit bf16 f32 mask, and mask50 …
    --shapes OUTxIN,…   4096x4096,11008x4096; masks are measured on the first
    --batches B,…       1,8,64,512; masks at 1 and 64 of these
    --threads T,…       1,2
    --hot B,…           batches that are measured with hot weights too; 1
    --seconds S         length of a slice; 0.3
    --rounds N          turns that each has in a cell; 3
    --quick             one round of 0.05 s, batches 1 and 64, the first shape
    --out FOLDER        where RESULTS.md, results.svg and results.json go; benches
    --program FILE      measures this build of `cortex` instead of building one
    --report FILE       writes the page again from a results.json, and measures nothing";

/// What is measured, and how.
#[derive(Clone, Debug)]
struct Settings {
    only: Vec<String>,
    shapes: Vec<(usize, usize)>,
    batches: Vec<usize>,
    threads: Vec<usize>,
    hot: Vec<usize>,
    seconds: f64,
    rounds: usize,
    out: PathBuf,
    program: Option<PathBuf>,
    report: Option<PathBuf>,
}

impl Settings {
    fn parse(args: &[&str]) -> Result<Self> {
        let mut s = Self {
            only: Vec::new(),
            shapes: vec![(4096, 4096), (11_008, 4096)],
            batches: vec![1, 8, 64, 512],
            threads: vec![1, 2],
            hot: vec![1],
            seconds: 0.3,
            rounds: 3,
            out: root().join("benches"),
            program: None,
            report: None,
        };
        if args.contains(&"--quick") {
            s.shapes.truncate(1);
            s.batches = vec![1, 64];
            (s.seconds, s.rounds) = (0.05, 1);
        }
        let mut args = args.iter();
        while let Some(flag) = args.next() {
            if *flag == "--quick" {
                continue;
            }
            let value = args
                .next()
                .ok_or(format!("{flag} needs a value\n{USAGE}"))?;
            let wrong = |_| format!("{flag}: cannot read '{value}'");
            let numbers = || value.split(',').map(|n| n.parse::<usize>()).collect();
            match *flag {
                "--only" => s.only = value.split(',').map(str::to_owned).collect(),
                "--shapes" => s.shapes = value.split(',').map(shape).collect::<Result<_>>()?,
                "--batches" => s.batches = std::result::Result::map_err(numbers(), wrong)?,
                "--threads" => s.threads = std::result::Result::map_err(numbers(), wrong)?,
                "--hot" => s.hot = std::result::Result::map_err(numbers(), wrong)?,
                "--seconds" => s.seconds = value.parse().map_err(|e| format!("{flag}: {e}"))?,
                "--rounds" => s.rounds = value.parse::<usize>().map_err(wrong)?.max(1),
                "--out" => s.out = PathBuf::from(value),
                "--program" => s.program = Some(PathBuf::from(value)),
                "--report" => s.report = Some(PathBuf::from(value)),
                _ => return Err(format!("unknown option {flag}\n{USAGE}").into()),
            }
        }
        Ok(s)
    }
}

fn shape(text: &str) -> Result<(usize, usize)> {
    let dims = text.split_once('x');
    dims.and_then(|(out, inn)| Some((out.parse().ok()?, inn.parse().ok()?)))
        .ok_or(format!("--shapes: expected OUTxIN, found '{text}'").into())
}

/// Who takes part: which program with which spec.
#[derive(Clone, Copy, Debug)]
struct Entry {
    who: Who,
    spec: &'static str,
    /// Arguments besides.
    more: &'static [&'static str],
}

/// A program that speaks the protocol of `benches/peers/protocol.py`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Cortex,
    Ggml,
    OnnxRuntime,
    Torch,
    OpenBlas,
    MklCsr,
    DeepSparse,
}

impl Who {
    const PEERS: [Self; 6] = [
        Self::Ggml,
        Self::OnnxRuntime,
        Self::Torch,
        Self::OpenBlas,
        Self::MklCsr,
        Self::DeepSparse,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Cortex => "cortex",
            Self::Ggml => "ggml",
            Self::OnnxRuntime => "onnxruntime",
            Self::Torch => "torch",
            Self::OpenBlas => "openblas",
            Self::MklCsr => "mkl-csr",
            Self::DeepSparse => "deepsparse",
        }
    }

    /// Its file in `benches/peers`.
    fn file(self) -> &'static str {
        match self {
            Self::Cortex => "",
            Self::Ggml => "ggml.py",
            Self::OnnxRuntime => "onnx_runtime.py",
            Self::Torch => "pytorch.py",
            Self::OpenBlas => "openblas.py",
            Self::MklCsr => "mkl_sparse.py",
            Self::DeepSparse => "deepsparse_engine.py",
        }
    }
}

const fn ours(spec: &'static str, more: &'static [&'static str]) -> Entry {
    Entry {
        who: Who::Cortex,
        spec,
        more,
    }
}

const fn peer(who: Who, spec: &'static str) -> Entry {
    Entry {
        who,
        spec,
        more: &[],
    }
}

/// Activations rounded, as the peers of the class do in every call.
const FAST: &[&str] = &["--precision", "fast"];

/// Weights of about the same size, and what Cortex must reach beside the best of the others.
#[derive(Debug)]
struct Class {
    key: &'static str,
    title: &'static str,
    /// The first is ours, that the ratios are told of.
    entries: &'static [Entry],
    /// By batch: the least ratio of speeds.
    aims: &'static [(usize, f64)],
    /// The least share of the bandwidth probe at batch 1 with cold weights.
    bandwidth: Option<f64>,
    /// What the multiply-adds are, for the share of the peak.
    unit: &'static str,
    /// Share of zeros.
    sparsity: Option<&'static str>,
}

impl Class {
    fn aim(&self, batch: usize) -> Option<f64> {
        self.aims.iter().find(|(b, _)| *b == batch).map(|a| a.1)
    }
}

const MASK: [Entry; 5] = [
    ours("mask", &[]),
    peer(Who::MklCsr, "f32"),
    peer(Who::DeepSparse, "f32"),
    // The products that sparsity is to be faster than.
    peer(Who::OpenBlas, "f32"),
    ours("dense", &[]),
];

/// A class of masks; `aims` as for [`Class`].
const fn mask(
    key: &'static str,
    title: &'static str,
    sparsity: &'static str,
    aims: &'static [(usize, f64)],
) -> Class {
    Class {
        key,
        title,
        entries: &MASK,
        aims,
        bandwidth: None,
        unit: "f32",
        sparsity: Some(sparsity),
    }
}

const CLASSES: &[Class] = &[
    Class {
        key: "int8row",
        title: "int8, a scale a row",
        entries: &[
            ours("int8(group=row)", FAST),
            peer(Who::Torch, "int8-fbgemm"),
            peer(Who::Torch, "int8-onednn"),
            peer(Who::OnnxRuntime, "int8"),
        ],
        aims: &[(1, 1.0), (8, 1.0), (64, 0.95), (512, 0.95)],
        bandwidth: Some(0.9),
        unit: "int8",
        sparsity: None,
    },
    Class {
        key: "int8g32",
        title: "int8, groups of 32",
        entries: &[
            ours("int8(group=32)", FAST),
            peer(Who::OnnxRuntime, "int8-32"),
            peer(Who::Ggml, "Q8_0"),
        ],
        aims: &[(1, 1.3), (8, 1.5), (64, 2.0), (512, 2.0)],
        bandwidth: None,
        unit: "int8",
        sparsity: None,
    },
    Class {
        key: "int4g32",
        title: "int4, groups of 32",
        entries: &[
            ours("int4(group=32)", FAST),
            peer(Who::OnnxRuntime, "int4-32"),
            peer(Who::OnnxRuntime, "int4-128"),
            peer(Who::Ggml, "Q4_0"),
            peer(Who::Ggml, "Q4_K"),
        ],
        aims: &[(1, 1.3), (8, 1.4), (64, 1.3), (512, 1.3)],
        bandwidth: Some(0.85),
        unit: "int8",
        sparsity: None,
    },
    Class {
        key: "2bit",
        title: "2 bits",
        entries: &[
            ours("q(bits=2, group=32)", FAST),
            peer(Who::Ggml, "Q2_K"),
            peer(Who::OnnxRuntime, "int2-32"),
        ],
        aims: &[(1, 1.3), (8, 1.3), (64, 1.3), (512, 1.3)],
        bandwidth: None,
        unit: "int8",
        sparsity: None,
    },
    Class {
        key: "3bit",
        title: "3 bits",
        entries: &[ours("q(bits=3, group=32)", FAST), peer(Who::Ggml, "Q3_K")],
        aims: &[(1, 1.3), (8, 1.3), (64, 1.3), (512, 1.3)],
        bandwidth: None,
        unit: "int8",
        sparsity: None,
    },
    Class {
        key: "bf16",
        title: "bf16",
        entries: &[
            ours("dense(type=bf16)", FAST),
            peer(Who::Torch, "bf16"),
            peer(Who::Ggml, "BF16"),
        ],
        aims: &[(1, 1.0), (8, 1.0), (64, 0.95), (512, 0.95)],
        bandwidth: None,
        unit: "bf16",
        sparsity: None,
    },
    Class {
        key: "f32",
        title: "f32",
        entries: &[
            ours("dense", &[]),
            peer(Who::OpenBlas, "f32"),
            peer(Who::OnnxRuntime, "f32"),
            peer(Who::Torch, "f32"),
            peer(Who::Ggml, "F32"),
        ],
        aims: &[(1, 1.0), (8, 1.5), (64, 1.0), (512, 1.0)],
        bandwidth: None,
        unit: "f32",
        sparsity: None,
    },
    mask("mask50", "Mask, 50 % zeros", "50%", &[(1, 1.3), (64, 1.1)]),
    mask("mask80", "Mask, 80 % zeros", "80%", &[(1, 1.3), (64, 1.1)]),
    mask("mask90", "Mask, 90 % zeros", "90%", &[(1, 1.3), (64, 1.1)]),
    mask("mask95", "Mask, 95 % zeros", "95%", &[(1, 1.3), (64, 1.1)]),
    mask("mask99", "Mask, 99 % zeros", "99%", &[]),
];

/// One class, shape and number of threads: those who take part keep their weights for all its
/// cells.
struct Group {
    class: &'static Class,
    shape: (usize, usize),
    threads: usize,
    /// Batch, and whether weights are cold.
    cells: Vec<(usize, bool)>,
}

impl Group {
    fn title(&self) -> String {
        let (out, inn) = self.shape;
        let s = if self.threads == 1 { "" } else { "s" };
        format!(
            "{}, {out}×{inn}, {} thread{s}",
            self.class.title, self.threads
        )
    }

    /// Seconds that it will take, roughly: starting and encoding, then the slices, which hold
    /// three calls at least.
    fn estimate(&self, s: &Settings) -> f64 {
        let entries = self.class.entries.len() as f64;
        let weights = self.shape.0 as f64 * self.shape.1 as f64;
        let cell = |(batch, _): &(usize, bool)| {
            let call = 2.0 * *batch as f64 * weights / (90e9 * self.threads as f64);
            let slice = s.seconds.max(4.0 * call) + 0.05;
            entries * (s.rounds as f64 * slice + 2.0 * call + 0.2)
        };
        8.0 + 0.15 * entries * weights / 1e6 / 10.0 + self.cells.iter().map(cell).sum::<f64>()
    }
}

fn groups(s: &Settings) -> Result<Vec<Group>> {
    let wanted =
        |key: &str| s.only.is_empty() || s.only.iter().any(|o| key.starts_with(o.as_str()));
    for only in &s.only {
        if !CLASSES.iter().any(|c| c.key.starts_with(only.as_str())) {
            return Err(format!("--only: no class '{only}'\n{USAGE}").into());
        }
    }
    let mut all = Vec::new();
    for class in CLASSES.iter().filter(|c| wanted(c.key)) {
        let masked = class.sparsity.is_some();
        let shapes = if masked { &s.shapes[..1] } else { &s.shapes };
        for &shape in shapes {
            for &threads in &s.threads {
                let batches = s.batches.iter().filter(|b| !masked || [1, 64].contains(*b));
                let cells = batches.flat_map(|&b| {
                    let hot = s.hot.contains(&b).then_some((b, false));
                    [Some((b, true)), hot].into_iter().flatten()
                });
                all.push(Group {
                    class,
                    shape,
                    threads,
                    cells: cells.collect(),
                });
            }
        }
    }
    Ok(all)
}

/// Measures as the arguments say and writes the results.
pub fn run(args: &[&str]) -> Result<()> {
    let settings = Settings::parse(args)?;
    if let Some(file) = &settings.report {
        let results = serde_json::from_str(&fs::read_to_string(file)?)?;
        let home = root().join("target/bench/peers");
        return report::write(&results, &settings.out, &venv::main_python(&home));
    }
    let groups = groups(&settings)?;
    let seconds: f64 = groups.iter().map(|g| g.estimate(&settings)).sum();
    println!(
        "{} groups of cells: about {:.0} min once the peers are installed",
        groups.len(),
        (seconds / 60.0).ceil()
    );
    let cortex = match &settings.program {
        Some(program) => program.clone(),
        None => build()?,
    };
    let entries = groups.iter().flat_map(|g| g.class.entries);
    let mut needed: Vec<Who> = Vec::new();
    for entry in entries.filter(|e| e.who != Who::Cortex) {
        if !needed.contains(&entry.who) {
            needed.push(entry.who);
        }
    }
    let pythons = venv::install(&root().join("target/bench/peers"), &needed)?;
    let programs = Programs { cortex, pythons };

    let mut results = Results::new(&settings, &programs);
    let (start, used) = (Instant::now(), CpuTime::now());
    let mut expected = 0.0;
    for (i, group) in groups.iter().enumerate() {
        println!(
            "[{}/{}] {} ({:.0} of about {:.0} s)",
            i + 1,
            groups.len(),
            group.title(),
            start.elapsed().as_secs_f64(),
            seconds.max(start.elapsed().as_secs_f64() + seconds - expected),
        );
        measure(group, &settings, &programs, &mut results)?;
        expected += group.estimate(&settings);
        // What is there stays, should the rest fail.
        results.save(&settings.out)?;
    }
    let results = results.into_json(start.elapsed(), CpuTime::now().zip(used));
    save(&settings.out, &results)?;
    report::write(
        &results,
        &settings.out,
        &venv::main_python(&root().join("target/bench/peers")),
    )
}

/// The programs that take part.
struct Programs {
    cortex: PathBuf,
    pythons: Pythons,
}

fn build() -> Result<PathBuf> {
    println!("building cortex");
    let status = Command::new(env!("CARGO"))
        .args(["build", "--release", "--quiet", "--bin", "cortex"])
        .current_dir(root())
        .status()?;
    if !status.success() {
        return Err("cortex does not build".into());
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let target = target.unwrap_or_else(|| root().join("target"));
    Ok(target
        .join("release")
        .join(format!("cortex{}", std::env::consts::EXE_SUFFIX)))
}

/// What was measured so far.
struct Results {
    head: Value,
    lines: Vec<Value>,
    probes: Vec<Value>,
    missing: Vec<Value>,
}

impl Results {
    fn new(settings: &Settings, programs: &Programs) -> Self {
        let mut versions = json!({"cortex": cortex_version(&programs.cortex)});
        let mut missing = Vec::new();
        for (who, state) in &programs.pythons.states {
            match state {
                Ok(version) => versions[who.name()] = version.as_str().into(),
                Err(why) => {
                    println!("{} takes no part: {why}", who.name());
                    missing.push(json!({"peer": who.name(), "why": why}));
                }
            }
        }
        Self {
            head: json!({
                "date": date(),
                "machine": machine(),
                "settings": {
                    "seconds": settings.seconds,
                    "rounds": settings.rounds,
                    "batches": settings.batches,
                    "shapes": settings.shapes.iter().map(|(o, i)| format!("{o}x{i}")).collect::<Vec<_>>(),
                    "threads": settings.threads,
                    "only": settings.only,
                },
                "versions": versions,
            }),
            lines: Vec::new(),
            probes: Vec::new(),
            missing,
        }
    }

    fn json(&self) -> Value {
        let mut all = self.head.clone();
        all["missing"] = self.missing.clone().into();
        all["probes"] = self.probes.clone().into();
        all["lines"] = self.lines.clone().into();
        all
    }

    fn save(&self, out: &Path) -> Result<()> {
        save(out, &self.json())
    }

    fn into_json(self, elapsed: Duration, used: Option<(CpuTime, CpuTime)>) -> Value {
        let mut all = self.json();
        all["settings"]["elapsed_s"] = elapsed.as_secs().into();
        if let Some((now, then)) = used {
            let total = (now.total - then.total).max(1.0);
            let others = (now.busy - then.busy) - (now.ours - then.ours);
            all["disturbed"] = json!({
                "other_programs": (others / total).max(0.0),
                "stolen_by_the_host": (now.stolen - then.stolen) / total,
            });
        }
        all
    }
}

/// Writes `results.json`, a line for each entry of a list.
fn save(out: &Path, results: &Value) -> Result<()> {
    let mut text = String::from("{\n");
    let object = results.as_object().ok_or("results are no object")?;
    for (i, (key, value)) in object.iter().enumerate() {
        let comma = if i + 1 < object.len() { "," } else { "" };
        let value = match value.as_array() {
            Some(list) if !list.is_empty() => {
                let lines: Vec<String> = list.iter().map(Value::to_string).collect();
                format!("[\n{}\n]", lines.join(",\n"))
            }
            _ => value.to_string(),
        };
        text += &format!("\"{key}\": {value}{comma}\n");
    }
    text += "}\n";
    fs::create_dir_all(out)?;
    fs::write(out.join("results.json"), text)?;
    Ok(())
}

/// All cells of a group.
fn measure(
    group: &Group,
    settings: &Settings,
    programs: &Programs,
    results: &mut Results,
) -> Result<()> {
    let mut runners = Vec::new();
    for entry in group.class.entries {
        match Runner::start(entry, group, programs) {
            Ok(runner) => runners.push(runner),
            // Told of once, when the peers were installed.
            Err(None) => {}
            Err(Some(why)) => results.missing.push(missing(entry, group, &why)),
        }
    }
    // All make their weights at once; nobody is timed yet.
    let Some(&(batch, cold)) = group.cells.first() else {
        return Ok(());
    };
    runners.iter_mut().for_each(|r| r.ask(batch, cold, 0.001));
    runners.retain_mut(|runner| match runner.answer(SETUP) {
        Ok(_) => {
            runner.stop();
            true
        }
        Err(why) => {
            results.missing.push(missing(&runner.entry, group, &why));
            false
        }
    });
    for &(batch, cold) in &group.cells {
        let probe = probe(&programs.cortex, group);
        results.probes.extend(probe);
        for round in 0..settings.rounds {
            // There and back: nobody always follows the same neighbour.
            if round > 0 {
                runners.reverse();
            }
            runners.retain_mut(|runner| {
                runner.resume();
                runner.ask(batch, cold, settings.seconds);
                match runner.answer(CELL) {
                    Ok(mut line) => {
                        runner.stop();
                        line["class"] = group.class.key.into();
                        line["entry"] = runner.entry.spec.into();
                        line["sparsity"] = group.class.sparsity.into();
                        line["asked_cold"] = u8::from(cold).into();
                        line["round"] = round.into();
                        results.lines.push(line);
                        true
                    }
                    Err(why) => {
                        results.missing.push(missing(&runner.entry, group, &why));
                        false
                    }
                }
            });
        }
    }
    Ok(())
}

/// How long making weights may take, of everybody at once.
const SETUP: Duration = Duration::from_secs(300);
/// How long the slice of a cell may take, with the check before the first.
const CELL: Duration = Duration::from_secs(180);

fn missing(entry: &Entry, group: &Group, why: &str) -> Value {
    println!("  {} {} drops out: {why}", entry.who.name(), entry.spec);
    json!({
        "peer": entry.who.name(),
        "spec": entry.spec,
        "group": group.title(),
        "why": why,
    })
}

/// The machine's limits in this minute.
fn probe(cortex: &Path, group: &Group) -> Option<Value> {
    let mut command = runner::pinned(cortex, group.threads);
    command.args(["bench", "probe", "--json", "--seconds", "0.4", "--threads"]);
    command.arg(group.threads.to_string());
    let output = command.output().ok()?;
    let mut probe: Value = serde_json::from_slice(&output.stdout).ok()?;
    let (out, inn) = group.shape;
    probe["class"] = group.class.key.into();
    probe["shape"] = format!("{out}x{inn}").into();
    Some(probe)
}

/// Ticks of all cores since the start of the system, as Linux tells them.
#[derive(Clone, Copy, Debug)]
struct CpuTime {
    total: f64,
    busy: f64,
    stolen: f64,
    /// Of this process and of those that it has waited for: all who took part.
    ours: f64,
}

impl CpuTime {
    fn now() -> Option<Self> {
        let stat = fs::read_to_string("/proc/stat").ok()?;
        // user nice system idle iowait irq softirq steal
        let ticks = stat.lines().next()?.split_whitespace().skip(1).take(8);
        let ticks: Vec<f64> = ticks.map(|n| n.parse().ok()).collect::<Option<_>>()?;
        let own = fs::read_to_string("/proc/self/stat").ok()?;
        // After the name: utime stime cutime cstime are fields 14 to 17 of all.
        let own = own.rsplit_once(')')?.1.split_whitespace().skip(11).take(4);
        let own: Vec<f64> = own.map(|n| n.parse().ok()).collect::<Option<_>>()?;
        let stolen = *ticks.get(7)?;
        let total: f64 = ticks.iter().sum();
        Some(Self {
            total,
            busy: total - ticks[3] - ticks[4] - stolen,
            stolen,
            ours: own.iter().sum(),
        })
    }
}

fn cortex_version(cortex: &Path) -> String {
    let text = |command: &mut Command| {
        let output = command.output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        Some(text.trim().to_owned()).filter(|t| !t.is_empty())
    };
    let version = text(Command::new(cortex).arg("--version")).unwrap_or_default();
    let commit = Command::new("git")
        .args(["describe", "--always", "--dirty", "--exclude=*"])
        .current_dir(root())
        .output();
    let commit = commit
        .ok()
        .map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned());
    let version = version.trim_start_matches("cortex ");
    match commit.filter(|c| !c.is_empty()) {
        Some(commit) => format!("{version} ({commit})"),
        None => version.to_owned(),
    }
}

fn machine() -> Value {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = info.lines().find(|l| l.starts_with(name));
        let value = line.and_then(|l| l.split_once(':'));
        value.map(|(_, v)| v.trim().to_owned())
    };
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = memory.lines().find_map(|l| l.strip_prefix("MemTotal:"));
    let kib = memory.and_then(|m| m.trim().trim_end_matches(" kB").parse::<u64>().ok());
    json!({
        "cpu": field("model name"),
        "family": field("cpu family"),
        "model": field("model\t"),
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "l3": field("cache size"),
        "memory_gib": kib.map(|k| (k + (1 << 19)) >> 20),
        "system": std::env::consts::OS,
    })
}

/// The day in UTC, `2026-01-31`.
fn date() -> String {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    // Howard Hinnant's civil_from_days.
    let days = since.map_or(0, |d| d.as_secs() / 86_400) as i64 + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (d, m) = (day - (153 * month + 2) / 5 + 1, (month + 2) % 12 + 1);
    let year = year + era * 400 + i64::from(m <= 2);
    format!("{year:04}-{m:02}-{d:02}")
}
