//! `cortex decompress`.

use std::path::PathBuf;
use std::time::Instant;

use cortex::ErrorKind;
use cortex::archive::Archive;
use cortex::model;
use serde_json::json;

use crate::failure::{Done, Failure, Outcome};
use crate::{progress, text};

/// Write every tensor of an archive, decoded, to a .safetensors file
///
/// Each tensor comes back under its name and in its dtype; aliases become tensors of their
/// own, since safetensors knows none.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  cortex decompress model.cai -o restored.safetensors")]
pub(crate) struct Args {
    /// Archive to read
    #[arg(value_name = "IN.cai")]
    input: PathBuf,

    /// File to write; it appears when it is complete, and what stood there stays until then
    #[arg(short, long, value_name = "OUT.safetensors")]
    output: PathBuf,

    /// Threads, 0 for all cores
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    #[arg(value_parser = clap::value_parser!(u16).range(..=1024))]
    threads: u16,
}

impl Args {
    pub(crate) fn run(self) -> Outcome {
        let start = Instant::now();
        let mut tensors = 0;
        let written = progress::with_bar(|tell| {
            let mut tell = |p: &model::Progress<'_>| {
                tensors = p.total_tensors;
                tell(p)
            };
            model::decompress_file(
                &self.input,
                &self.output,
                self.threads.into(),
                Some(&mut tell),
            )
        });
        let output_bytes = written.map_err(|e| match e.kind() {
            ErrorKind::Cancelled => progress::interrupted(Some(&self.output)),
            _ => Failure::of(e).in_file(&self.input, Some(&self.output)),
        })?;
        let input_bytes = Archive::open(&self.input)?.file_bytes();
        let seconds = start.elapsed().as_secs_f64();
        Ok(Done {
            text: format!(
                "{} {} → {} {}: {} in {}\n",
                text::printable(&self.input.display().to_string()),
                text::bytes(input_bytes),
                text::printable(&self.output.display().to_string()),
                text::bytes(output_bytes),
                text::count(tensors, "tensor"),
                text::seconds(seconds),
            ),
            json: json!({
                "input_bytes": input_bytes,
                "output_bytes": output_bytes,
                "seconds": seconds,
                "tensors": tensors,
            }),
        })
    }
}
