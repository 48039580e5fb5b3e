//! The peers from PyPI, in virtual environments under `target/bench/peers`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::Who;
use crate::{Result, root};

/// What each peer needs, as last tested together; where such a version cannot be had, the newest
/// is taken.
const PACKAGES: &[(Who, &[&str])] = &[
    (Who::OpenBlas, &["numpy==2.4.6"]),
    (Who::OnnxRuntime, &["onnxruntime==1.31.1", "onnx==1.23.2"]),
    (Who::MklCsr, &["mkl==2026.2.0"]),
    // With the CUDA libraries that its wheel cannot be loaded without.
    (Who::Torch, &["torch==2.15.0"]),
    // Built from source for this CPU, which takes some minutes.
    (Who::Ggml, &["llama-cpp-python==0.3.36"]),
    // Its last release, which knows neither newer Pythons nor newer ONNX.
    (
        Who::DeepSparse,
        &["deepsparse==1.8.0", "onnx<1.15", "numpy<2"],
    ),
];

/// What the chart is drawn with.
const CHART: &[&str] = &["numpy==2.4.6", "matplotlib==3.11.2"];

/// Pythons that DeepSparse has wheels for, and then any.
const DEEPSPARSE_PYTHONS: &[&str] = &["python3.11", "python3.10", "python3.9", "python3.8"];

/// Which peers there are.
pub(super) struct Pythons {
    home: PathBuf,
    /// The version of each peer that was asked for, or why it takes no part.
    pub(super) states: Vec<(Who, std::result::Result<String, String>)>,
}

impl Pythons {
    /// The interpreter that has the peer; `None` if it could not be installed.
    pub(super) fn of(&self, who: Who) -> Option<PathBuf> {
        let state = self.states.iter().find(|(w, _)| *w == who)?;
        state.1.is_ok().then(|| python(&self.home, who))
    }
}

/// The interpreter that draws the chart.
pub(super) fn main_python(home: &Path) -> PathBuf {
    home.join("venv/bin/python")
}

fn python(home: &Path, who: Who) -> PathBuf {
    match who {
        Who::DeepSparse => home.join("deepsparse/bin/python"),
        _ => main_python(home),
    }
}

/// Installs what is not there yet. A peer that cannot be had is left out, and says why.
pub(super) fn install(home: &Path, needed: &[Who]) -> Result<Pythons> {
    fs::create_dir_all(home)?;
    let fresh = !main_python(home).exists();
    make_venv(&["python3.11", "python3"], &home.join("venv"))?;
    if fresh {
        println!(
            "installing the peers from PyPI into {}; this takes some minutes",
            home.display()
        );
    }
    if let Err(why) = packages(home, &main_python(home), "chart", CHART) {
        println!("no chart: {why}");
    }
    let states = Who::PEERS
        .into_iter()
        .filter(|who| needed.contains(who))
        .map(|who| (who, peer(home, who)))
        .collect();
    Ok(Pythons {
        home: home.to_owned(),
        states,
    })
}

/// Installs one peer; its version.
fn peer(home: &Path, who: Who) -> std::result::Result<String, String> {
    let wanted = PACKAGES.iter().find(|(w, _)| *w == who);
    let wanted = wanted.map(|w| w.1).unwrap_or_default();
    let python = python(home, who);
    if who == Who::DeepSparse {
        make_venv(DEEPSPARSE_PYTHONS, &home.join("deepsparse")).map_err(|e| e.to_string())?;
    }
    packages(home, &python, who.name(), wanted)?;
    let file = root().join("benches/peers").join(who.file());
    let output = Command::new(python).arg(file).arg("--version").output();
    let output = output.map_err(|e| e.to_string())?;
    let line = String::from_utf8_lossy(&output.stdout);
    let answer: Value = serde_json::from_str(&line).map_err(|_| {
        let log = String::from_utf8_lossy(&output.stderr);
        let last = log
            .trim_end()
            .lines()
            .next_back()
            .unwrap_or_default()
            .to_owned();
        format!("it does not load: {last}")
    })?;
    match (&answer["version"], &answer["error"]) {
        (Value::String(version), _) => Ok(version.clone()),
        (_, why) => Err(format!("it does not load: {why}")),
    }
}

fn make_venv(pythons: &[&str], folder: &Path) -> Result<()> {
    if folder.join("bin/python").exists() {
        return Ok(());
    }
    for python in pythons {
        let made = Command::new(python)
            .args(["-m", "venv"])
            .arg(folder)
            .stderr(Stdio::null())
            .stdout(Stdio::null())
            .status();
        if made.is_ok_and(|s| s.success()) {
            return Ok(());
        }
    }
    Err(format!("no virtual environment with {}", pythons.join(", ")).into())
}

/// Installs packages once; `home/NAME.installed` says which.
fn packages(
    home: &Path,
    python: &Path,
    name: &str,
    wanted: &[&str],
) -> std::result::Result<(), String> {
    let stamp = home.join(format!("{name}.installed"));
    let list = wanted.join("\n");
    if fs::read_to_string(&stamp).is_ok_and(|s| s == list) {
        return Ok(());
    }
    println!("installing {}", wanted.join(" "));
    let log = home.join(format!("{name}.log"));
    let loose: Vec<&str> = wanted
        .iter()
        .map(|w| w.split_once("==").map_or(*w, |(name, _)| name))
        .collect();
    // The second try takes whatever version there is for this Python.
    for wanted in [wanted, &loose] {
        let file = fs::File::create(&log).map_err(|e| e.to_string())?;
        let copy = file.try_clone().map_err(|e| e.to_string())?;
        let status = Command::new(python)
            .args(["-m", "pip", "install", "--disable-pip-version-check"])
            .args(wanted)
            // ggml for this very CPU, without what is not needed here.
            .env(
                "CMAKE_ARGS",
                "-DGGML_NATIVE=ON -DGGML_LLAMAFILE=ON -DLLAVA_BUILD=OFF",
            )
            .stdout(file)
            .stderr(copy)
            .status()
            .map_err(|e| format!("pip does not start: {e}"))?;
        if status.success() {
            return fs::write(&stamp, &list).map_err(|e| e.to_string());
        }
    }
    let text = fs::read_to_string(&log).unwrap_or_default();
    let error = text.lines().rev().find(|l| l.starts_with("ERROR"));
    Err(format!(
        "pip cannot install it ({}; {} has the rest)",
        error.unwrap_or("no reason given"),
        log.display()
    ))
}
