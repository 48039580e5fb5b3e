//! One who takes part, as a process that answers requests.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use serde_json::{Value, json};

use super::{Entry, Group, Programs, Who};
use crate::root;

pub(super) struct Runner {
    pub(super) entry: Entry,
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
}

impl Runner {
    /// Starts it; it makes its weights with the first request. `Err(None)` for a peer that could
    /// not be installed.
    pub(super) fn start(
        entry: &Entry,
        group: &Group,
        programs: &Programs,
    ) -> Result<Self, Option<String>> {
        let mut command = match entry.who {
            Who::Cortex => {
                let mut command = pinned(&programs.cortex, group.threads);
                command.args(["bench", "matmul"]);
                command
            }
            who => {
                let python = programs.pythons.of(who).ok_or(None)?;
                let mut command = pinned(python, group.threads);
                command.arg(root().join("benches/peers").join(who.file()));
                command
            }
        };
        let (out, inn) = group.shape;
        command
            .args(["--spec", entry.spec, "--json", "--serve"])
            .args(["--shape", &format!("{out}x{inn}")])
            .args(["--threads", &group.threads.to_string()])
            .args(entry.more);
        // What is there to be faster than a mask is dense.
        if let Some(sparsity) = group.class.sparsity.filter(|_| entry.spec != "dense") {
            command.args(["--sparsity", sparsity]);
        }
        let log = log(entry);
        let stderr = File::create(&log).map_err(|e| Some(format!("{}: {e}", log.display())))?;
        let mut child = command
            .env_remove("OPENBLAS_CORETYPE")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .map_err(|e| Some(format!("cannot start: {e}")))?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (stdin, stdout) = pipes.ok_or(Some("no pipes".to_owned()))?;
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self {
            entry: *entry,
            child,
            stdin,
            lines,
        })
    }

    /// Sends a request; that nobody reads it shows when the answer is waited for.
    pub(super) fn ask(&mut self, batch: usize, cold: bool, seconds: f64) {
        let request = json!({"B": batch, "cold": u8::from(cold), "seconds": seconds});
        let _ = writeln!(self.stdin, "{request}").and_then(|()| self.stdin.flush());
    }

    /// The line that answers the last request.
    pub(super) fn answer(&mut self, limit: Duration) -> Result<Value, String> {
        let line = self.lines.recv_timeout(limit).map_err(|e| match e {
            RecvTimeoutError::Timeout => format!("no answer for {} s", limit.as_secs()),
            RecvTimeoutError::Disconnected => match self.child.wait() {
                Ok(status) => format!("ended with {status}, see {}", log(&self.entry).display()),
                Err(e) => e.to_string(),
            },
        })?;
        let value: Value = serde_json::from_str(&line).map_err(|e| format!("{e}: {line}"))?;
        match &value["error"] {
            Value::Null => Ok(value),
            Value::String(why) => Err(why.clone()),
            error => Err(error["message"].as_str().unwrap_or(&line).to_owned()),
        }
    }

    /// Holds all its threads, idle ones that spin among them, until [`resume`](Self::resume).
    pub(super) fn stop(&self) {
        self.signal("STOP");
    }

    pub(super) fn resume(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        // A shell has it built in. Where there is none, idle peers are merely not held.
        let kill = format!("kill -{name} {}", self.child.id());
        let _ = Command::new("sh").args(["-c", &kill]).status();
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        // Ends stopped processes too.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where its stderr goes.
fn log(entry: &Entry) -> PathBuf {
    let name = format!("run-{}-{}.log", entry.who.name(), entry.spec);
    root().join("target/bench/peers").join(name)
}

/// The program, on one core if it is to use one thread.
pub(super) fn pinned(program: impl AsRef<OsStr>, threads: usize) -> Command {
    if threads > 1 || !taskset_works() {
        return Command::new(program);
    }
    let mut command = Command::new("taskset");
    command.args(["--cpu-list", &last_core().to_string()]);
    command.arg(program);
    command
}

fn taskset_works() -> bool {
    static WORKS: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *WORKS.get_or_init(|| {
        let core = last_core().to_string();
        let test = Command::new("taskset")
            .args(["--cpu-list", &core, "true"])
            .stderr(Stdio::null())
            .status();
        let works = test.is_ok_and(|s| s.success());
        if !works {
            println!("taskset does not work here: one thread may move between cores");
        }
        works
    })
}

/// The last core that this process may use: the first has the system's interrupts.
fn last_core() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let list = status
        .lines()
        .find_map(|l| l.strip_prefix("Cpus_allowed_list:"));
    let last = list.and_then(|l| l.trim().rsplit([',', '-']).next()?.parse().ok());
    last.unwrap_or(0)
}
