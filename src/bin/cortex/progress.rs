//! The progress bar and the Ctrl-C that stops the work it shows.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use cortex::model::{Progress, ProgressFn};
use cortex::{ErrorKind, Result};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::failure::Failure;
use crate::text;

/// Runs `work` with a callback that draws a bar, if stderr is a terminal, and that stops
/// it when the program was asked to end.
pub(crate) fn with_bar<T>(work: impl FnOnce(&mut ProgressFn<'_>) -> Result<T>) -> Result<T> {
    let stop = stop_flag();
    // Hides itself where stderr is no terminal.
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template(
        "{bar:24} {percent:>3} %  {bytes} of {total_bytes}  {bytes_per_sec}  {eta} left  {wide_msg}",
    );
    if let Ok(style) = style {
        bar.set_style(style.progress_chars("━━─"));
    }
    let mut tell = |p: &Progress<'_>| {
        bar.set_length(p.total_bytes);
        bar.set_position(p.done_bytes);
        bar.set_message(text::printable(p.tensor).into_owned());
        !stop.load(Ordering::Relaxed)
    };
    let result = work(&mut tell);
    bar.finish_and_clear();
    result
}

/// Set by the first request to end; the second ends the program at once.
fn stop_flag() -> Arc<AtomicBool> {
    static FLAG: OnceLock<Arc<AtomicBool>> = OnceLock::new();
    let flag = FLAG.get_or_init(|| {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            // In this order, so that the first signal finds the flag unset. Without
            // handlers a signal ends the program, which loses nothing either.
            let _ = signal_hook::flag::register_conditional_default(signal, flag.clone());
            let _ = signal_hook::flag::register(signal, flag.clone());
        }
        flag
    });
    flag.clone()
}

/// What a command says that was asked to end.
pub(crate) fn interrupted(output: Option<&Path>) -> Box<Failure> {
    let left = match output {
        Some(path) => format!("; nothing was written, {} is as it was", path.display()),
        None => String::new(),
    };
    let error = cortex::Error::new(ErrorKind::Cancelled, format!("interrupted{left}"));
    Failure::of(error)
}
