//! Leaves the C header where maturin looks for what cffi is to declare: `header.h` in the
//! target directory. cffi reads declarations and `#define NAME NUMBER`, and knows no other
//! directive.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

const HEADER: &str = "../../include/cortex.h";

fn main() -> Result<(), Box<dyn Error>> {
    let written = target_dir()?.join("header.h");
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed={HEADER}");
    println!("cargo:rerun-if-changed={}", written.display());
    let declarations = declarations(&fs::read_to_string(HEADER)?);
    // A file that is written again makes cargo run this again.
    if fs::read_to_string(&written).ok().as_ref() != Some(&declarations) {
        fs::write(written, declarations)?;
    }
    Ok(())
}

/// The folder that cargo marks as a cache, which is the target directory; `OUT_DIR` lies in it,
/// one folder deeper when compiling for another machine.
fn target_dir() -> Result<PathBuf, Box<dyn Error>> {
    let out = env::var("OUT_DIR")?;
    let found = Path::new(&out)
        .ancestors()
        .find(|folder| folder.join("CACHEDIR.TAG").is_file());
    Ok(found.ok_or("no target directory above OUT_DIR")?.to_owned())
}

/// The header without what is for C++ and without directives, but for numbers.
fn declarations(header: &str) -> String {
    let mut out = String::new();
    let mut cplusplus = false;
    for line in header.lines() {
        match line {
            "#ifdef __cplusplus" => cplusplus = true,
            "#endif" => cplusplus = false,
            _ if cplusplus => {}
            _ if !line.starts_with('#') || is_number(line) => {
                out.push_str(line);
                out.push('\n');
            }
            _ => {}
        }
    }
    out
}

/// Whether a line is `#define NAME NUMBER`.
fn is_number(line: &str) -> bool {
    let value = line
        .strip_prefix("#define ")
        .and_then(|rest| rest.split_once(' '))
        .map(|(_, value)| value);
    value.is_some_and(|value| value.parse::<i64>().is_ok())
}
