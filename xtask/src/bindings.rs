//! `cargo xtask bench-bindings`: what a call costs from each language.
//!
//! The same two products from C and from every binding, one after another, several rounds, so
//! that a slow minute hits all alike. The least time of all rounds counts, and the median of the
//! rounds' medians.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::{Result, root};

/// Turns that each language has.
const ROUNDS: usize = 5;

/// A language and the command that prints its JSON lines.
struct Language {
    name: &'static str,
    command: Vec<String>,
}

/// What is built before anything is timed.
const BUILD: &[&str] = &[
    "sh benches/bindings/native.sh build",
    "cd bindings/python && bash test.sh -q -k parity",
    "cd bindings/node && npm ci --silent && npm run --silent build",
    "mvn -q -B -f bindings/java/pom.xml package -DskipTests",
];

fn languages() -> Result<Vec<Language>> {
    let words = |line: &str| line.split(' ').map(str::to_owned).collect();
    let mut all = vec![
        Language {
            name: "c",
            command: words("sh benches/bindings/native.sh c"),
        },
        Language {
            name: "cpp",
            command: words("sh benches/bindings/native.sh cpp"),
        },
        Language {
            name: "node",
            command: words("node benches/bindings/node.mjs"),
        },
    ];
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let target = target.unwrap_or_else(|| root().join("target"));
    let venvs = fs::read_dir(target.join("python"))?;
    let venv = venvs.filter_map(|e| e.ok()).map(|e| e.path()).next();
    let python = venv.ok_or("no virtual environment")?.join("bin/python");
    all.push(Language {
        name: "python",
        command: vec![
            python.display().to_string(),
            "benches/bindings/python_call.py".to_owned(),
        ],
    });
    all.push(Language {
        name: "java",
        command: vec![
            "java".to_owned(),
            "-cp".to_owned(),
            "bindings/java/target/classes".to_owned(),
            "benches/bindings/java/Call.java".to_owned(),
        ],
    });
    Ok(all)
}

/// Times of a case in a language, in µs: the least of each round, and its median.
#[derive(Default)]
struct Times(Vec<(f64, f64)>);

impl Times {
    fn least(&self) -> f64 {
        self.0.iter().map(|t| t.0).fold(f64::INFINITY, f64::min)
    }

    fn median(&self) -> f64 {
        let mut medians: Vec<f64> = self.0.iter().map(|t| t.1).collect();
        medians.sort_by(f64::total_cmp);
        medians[medians.len() / 2]
    }
}

/// Builds, measures and prints the table in Markdown.
pub fn run() -> Result<()> {
    for line in BUILD {
        eprintln!("{line}");
        let status = Command::new("sh")
            .args(["-c", line])
            .current_dir(root())
            .stdout(std::process::Stdio::null())
            .status()?;
        if !status.success() {
            return Err(format!("failed: {line}").into());
        }
    }
    let languages = languages()?;
    let mut found: Vec<(String, &str, Times)> = Vec::new();
    for round in 1..=ROUNDS {
        for language in &languages {
            eprintln!("round {round} of {ROUNDS}: {}", language.name);
            let (program, args) = language.command.split_first().ok_or("no command")?;
            let output = Command::new(program)
                .args(args)
                .current_dir(root())
                .stderr(std::process::Stdio::inherit())
                .output()?;
            if !output.status.success() {
                return Err(format!("{} failed", language.command.join(" ")).into());
            }
            for line in String::from_utf8(output.stdout)?.lines() {
                let line: Value = serde_json::from_str(line)?;
                let number = |key: &str| line[key].as_f64().ok_or(format!("no {key}"));
                let case = line["case"].as_str().ok_or("no case")?;
                let times = (number("min_us")?, number("median_us")?);
                let known = found
                    .iter_mut()
                    .find(|(c, l, _)| c == case && *l == language.name);
                match known {
                    Some((_, _, all)) => all.0.push(times),
                    None => {
                        found.push((case.to_owned(), language.name, Times(vec![times])));
                    }
                }
            }
        }
    }
    let of = |case: &str, language: &str| {
        let entry = found.iter().find(|(c, l, _)| c == case && *l == language);
        entry.map(|(_, _, times)| times)
    };
    println!("| case | language | least, µs | over C, µs | × C | median, µs |");
    println!("|---|---|---:|---:|---:|---:|");
    for (case, language, times) in &found {
        // A language may have cases besides, named after one of C's.
        let same = found
            .iter()
            .find(|(c, l, _)| *l == "c" && case.starts_with(c.as_str()));
        let Some(c) = same.and_then(|(c, _, _)| of(c, "c")) else {
            continue;
        };
        println!(
            "| `{case}` | {language} | {:.2} | {:.2} | {:.3} | {:.2} |",
            times.least(),
            times.least() - c.least(),
            times.least() / c.least(),
            times.median(),
        );
    }
    Ok(())
}
