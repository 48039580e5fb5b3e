//! Chores that are too long for a shell line: `cargo xtask` lists them.

mod bindings;
mod header;
mod instructions;
mod peers;
mod recipe;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// What a chore that failed says.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const USAGE: &str = "\
cargo xtask bench-bindings      times a call from each language beside C
cargo xtask bench-peers [OPTION…]
                                times products beside the best peers and writes
                                benches/RESULTS.md; --help lists the options
cargo xtask header              writes include/cortex.h from src/ffi
cargo xtask header --check      fails if include/cortex.h is not what would be written
cargo xtask header --safer FILE writes the header that safer-ffi makes, to compare
cargo xtask instructions        counts instructions under callgrind and fails where there are
                                more than benches/instructions.json says
cargo xtask instructions --update
                                writes that table
cargo xtask recipe              follows docs/adding-a-form.md in a copy and tests it
cargo xtask stub HEADER FILE    writes a C file that defines every function of a header";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match args.as_slice() {
        ["bench-peers", "--help"] => {
            println!("{}", peers::USAGE);
            Ok(())
        }
        ["bench-bindings"] => bindings::run(),
        ["bench-peers", options @ ..] => peers::run(options),
        ["header"] => header::write(),
        ["header", "--check"] => header::check(),
        ["header", "--safer", file] => header::safer(Path::new(file)),
        ["instructions"] => instructions::run(false),
        ["instructions", "--update"] => instructions::run(true),
        ["recipe"] => recipe::run(&root()).map_err(Into::into),
        ["stub", header, file] => header::stub(Path::new(header), Path::new(file)),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The root of the repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}
