//! The only place that writes to stdout and stderr.

use std::io::{ErrorKind, Write, stderr, stdout};
use std::process::ExitCode;

use serde_json::Value;

use crate::failure::{FAILED, Outcome};
use crate::text;

/// Prints what a command gave back; the program's exit code.
pub(crate) fn finish(outcome: Outcome, json: bool) -> ExitCode {
    match outcome {
        Ok(done) if json => print_json(&done.json),
        Ok(done) => print(&done.text),
        Err(failure) => {
            line("error", failure.message());
            for detail in failure.detail.iter().flat_map(|d| d.lines()) {
                let _ = writeln!(stderr(), "  {}", text::printable(detail));
            }
            for more in &failure.more {
                line("error", more);
            }
            if let Some(hint) = &failure.hint {
                line("hint", hint);
            }
            if json {
                print_json(&failure.json());
            }
            ExitCode::from(failure.code)
        }
    }
}

/// Prints one line of JSON.
pub(crate) fn print_json(value: &Value) -> ExitCode {
    print(&format!("{value}\n"))
}

/// Something that the user should know although the work goes on.
pub(crate) fn warn(message: &str) {
    line("warning", message);
}

fn line(label: &str, message: &str) {
    // Where stderr cannot be written there is no one to tell.
    let _ = writeln!(stderr(), "{label}: {}", text::printable(message));
}

fn print(text: &str) -> ExitCode {
    let mut out = stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        // `cortex inspect model.cai | head` has read enough.
        Err(e) if e.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(e) => {
            line("error", &format!("cannot write to stdout: {e}"));
            ExitCode::from(FAILED)
        }
    }
}
