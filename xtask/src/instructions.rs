//! `cargo xtask instructions`: counts the instructions of fixed small products under callgrind
//! and compares them with `benches/instructions.json`, so that a slower kernel shows on a busy
//! machine too.
//!
//! valgrind does not know AVX-512, so the portable and the AVX2 kernels are counted. The numbers
//! are those of one compiler and one C library: after a change of either, `--update`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::{Result, root};

/// A set of kernels, and what `CORTEX_DISABLE_CPU` must say for it to be the best.
const SETS: [(&str, &str); 2] = [("portable", "avx2"), ("avx2", "avx512")];
/// More than this share above the table is a regression.
const TOLERANCE: f64 = 0.03;
/// The function of `benches/instructions.rs` that each case runs in.
const FUNCTION: &str = "instructions::measured";

/// Counts of the cases of one set, in their order.
type Counts = Vec<(String, u64)>;

/// Counts and compares, or writes the table.
pub fn run(update: bool) -> Result<()> {
    let program = build()?;
    let table_path = root().join("benches/instructions.json");
    let old: Value = match fs::read_to_string(&table_path) {
        Ok(text) => serde_json::from_str(&text)?,
        Err(_) if update => Value::Null,
        Err(e) => return Err(format!("{}: {e}", table_path.display()).into()),
    };
    let compiler = compiler()?;
    let mut table = json!({"compiler": compiler});
    let mut worse = Vec::new();
    for (set, disable) in SETS {
        println!("counting the {set} kernels");
        let counts = match count(&program, set, disable) {
            Ok(counts) => counts,
            Err(why) => {
                println!("{set}: not counted here: {why}");
                table[set] = old[set].clone();
                continue;
            }
        };
        if !update {
            compare(set, &counts, &old[set], &mut worse);
        }
        let counts = counts.into_iter().map(|(name, n)| (name, n.into()));
        table[set] = Value::Object(counts.collect());
    }
    if update {
        fs::write(&table_path, serde_json::to_string_pretty(&table)? + "\n")?;
        println!("written: {}", table_path.display());
        return Ok(());
    }
    if worse.is_empty() {
        println!("no more instructions than benches/instructions.json allows");
        return Ok(());
    }
    if old["compiler"] != compiler.as_str() {
        println!(
            "the table was made with {}, this is {compiler}: that alone may be the reason",
            old["compiler"]
        );
    }
    Err(format!(
        "{}\nif that is meant to be: cargo xtask instructions --update",
        worse.join("\n")
    )
    .into())
}

fn compare(set: &str, counts: &Counts, old: &Value, worse: &mut Vec<String>) {
    let mut gone: BTreeMap<&str, ()> = old
        .as_object()
        .map(|o| o.keys().map(|k| (k.as_str(), ())).collect())
        .unwrap_or_default();
    for (name, now) in counts {
        gone.remove(name.as_str());
        let Some(before) = old[name].as_u64() else {
            worse.push(format!("{set}, {name}: {now}, not in the table"));
            continue;
        };
        let change = *now as f64 / before as f64 - 1.0;
        let line = format!("{set}, {name}: {before} → {now}, {:+.1} %", change * 100.0);
        if change > TOLERANCE {
            worse.push(line);
        } else if change < -TOLERANCE {
            println!("fewer: {line}");
        }
    }
    worse.extend(
        gone.keys()
            .map(|name| format!("{set}, {name}: in the table, not counted any more")),
    );
}

/// Builds `benches/instructions.rs`; the program's path.
fn build() -> Result<PathBuf> {
    let output = Command::new(env!("CARGO"))
        .args(["bench", "--no-run", "--quiet", "--bench", "instructions"])
        .args(["--message-format", "json"])
        .current_dir(root())
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        return Err("benches/instructions.rs does not build".into());
    }
    let text = String::from_utf8(output.stdout)?;
    let mut lines = text
        .lines()
        .filter_map(|l| serde_json::from_str::<Value>(l).ok());
    let program = lines.find_map(|line| {
        let ours = line["target"]["name"] == "instructions";
        line["executable"]
            .as_str()
            .filter(|_| ours)
            .map(PathBuf::from)
    });
    program.ok_or_else(|| "cargo names no program for benches/instructions.rs".into())
}

/// Runs the cases under callgrind, which writes the count of each to a file of its own.
fn count(program: &Path, set: &str, disable: &str) -> Result<Counts> {
    let folder = root().join("target/instructions");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder)?;
    let counts = folder.join("counts");
    let output = Command::new("valgrind")
        .arg("--tool=callgrind")
        .arg(format!("--callgrind-out-file={}", counts.display()))
        .arg("--collect-atstart=no")
        .arg(format!("--toggle-collect={FUNCTION}"))
        .arg(format!("--dump-after={FUNCTION}"))
        .arg(program)
        .env("CORTEX_DISABLE_CPU", disable)
        .output()
        .map_err(|e| format!("valgrind: {e}"))?;
    if !output.status.success() {
        let log = String::from_utf8_lossy(&output.stderr);
        let why = log
            .lines()
            .find(|l| l.contains("unhandled") || l.contains("Illegal"));
        return Err(format!("{} {}", output.status, why.unwrap_or_default()).into());
    }
    let text = String::from_utf8(output.stdout)?;
    let mut names = text.lines();
    let found = names.next().unwrap_or_default();
    if found != set {
        return Err(format!("under valgrind this machine has the {found} kernels").into());
    }
    names
        .enumerate()
        .map(|(i, name)| {
            let file = folder.join(format!("counts.{}", i + 1));
            let text = fs::read_to_string(&file).map_err(|e| format!("{}: {e}", file.display()))?;
            let total = text.lines().find_map(|l| l.strip_prefix("totals: "));
            let total = total.and_then(|t| t.trim().parse().ok());
            Ok((name.to_owned(), total.ok_or("callgrind wrote no total")?))
        })
        .collect()
}

/// The compiler and the C library, which the counts depend on.
fn compiler() -> Result<String> {
    let rustc = Command::new("rustc").arg("--version").output()?;
    let libc = Command::new("ldd").arg("--version").output();
    let rustc = String::from_utf8(rustc.stdout)?;
    let libc = libc.map(|o| String::from_utf8_lossy(&o.stdout).into_owned());
    let libc = libc.unwrap_or_default();
    let libc = libc.lines().next().unwrap_or("C library unknown");
    Ok(format!("{}, {libc}", rustc.trim()))
}
