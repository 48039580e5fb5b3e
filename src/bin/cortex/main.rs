//! The command line: one file a command, all on the library's public Rust API.
//!
//! What every command keeps to: results on stdout and everything else on stderr; with
//! `--json` exactly one object on stdout, also when the command fails; exit codes as
//! [`failure`] has them.

mod bench;
mod codecs;
mod compress;
mod decompress;
mod diff;
mod doctor;
mod failure;
mod inspect;
mod output;
mod progress;
mod table;
mod text;
mod verify;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use failure::{Failure, Outcome};

/// Keeps neural-network tensors compressed and computes on them.
#[derive(Debug, Parser)]
#[command(
    name = "cortex",
    version,
    about,
    after_help = EXAMPLES,
    arg_required_else_help = true,
    max_term_width = 100,
    disable_help_subcommand = true
)]
struct Cli {
    /// Print one JSON object instead of text, also for errors: {"error": {...}}
    #[arg(long, global = true, display_order = 100)]
    json: bool,

    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  cortex compress model.safetensors -o model.cai
      every tensor as small as it gets with at most 1 % error
  cortex compress model.safetensors -o model.cai --spec 'int4(group=32, search=lsq)'
      matrices as 4-bit integers; small tensors, vectors and integers stay lossless
  cortex compress model.safetensors -o model.cai --lossless --tensor 'mlp=int8'
      bit for bit, except the tensors whose name contains 'mlp'
  cortex inspect model.cai
  cortex verify model.cai
  cortex diff model.safetensors model.cai
  cortex decompress model.cai -o restored.safetensors

Exit codes:
  0  fine
  1  the work failed: a file cannot be read or written, a tensor cannot be stored as
     asked, interrupted
  2  wrong usage: an unknown option, a spec or regex that cannot be read, an output that
     is the input
  3  the input is corrupt: cut short, damaged, or asks for more than the limits allow";

#[derive(Debug, Subcommand)]
enum Command {
    Compress(compress::Args),
    Decompress(decompress::Args),
    Inspect(inspect::Args),
    Verify(verify::Args),
    Diff(diff::Args),
    Codecs(codecs::Args),
    Bench(bench::Args),
    Doctor(doctor::Args),
}

impl Command {
    fn run(self) -> Outcome {
        match self {
            Self::Compress(args) => args.run(),
            Self::Decompress(args) => args.run(),
            Self::Inspect(args) => args.run(),
            Self::Verify(args) => args.run(),
            Self::Diff(args) => args.run(),
            Self::Codecs(args) => args.run(),
            Self::Bench(args) => args.run(),
            Self::Doctor(args) => args.run(),
        }
    }
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return not_parsed(&error),
    };
    let json = cli.json;
    // A panic is a bug, and says so on stderr by itself; callers still get a known code.
    let outcome = std::panic::catch_unwind(|| cli.command.run())
        .unwrap_or_else(|_| Err(cortex::Error::internal("a bug in cortex; see above").into()));
    output::finish(outcome, json)
}

/// Help and version, which clap treats as errors, and wrong usage.
fn not_parsed(error: &clap::Error) -> ExitCode {
    // Nobody is left to tell if that fails.
    let _ = error.print();
    if !error.use_stderr() {
        return ExitCode::SUCCESS;
    }
    if std::env::args_os().any(|a| a == "--json") {
        let text = error.render().to_string();
        let line = text.lines().next().unwrap_or_default();
        let message = line.strip_prefix("error: ").unwrap_or(line);
        output::print_json(&Failure::usage(message).json());
    }
    ExitCode::from(failure::WRONG_USAGE)
}
