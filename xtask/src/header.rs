//! The C header, made from the Rust sources.
//!
//! cbindgen does not see through `#[ffi_export]`, so it is given a copy of `src/ffi` in
//! which `#[ffi_export] pub fn` reads `#[unsafe(no_mangle)] pub extern "C" fn`. It sorts
//! what it finds by kind (constants, types, functions); a reader wants it by subject, as
//! in the source, so its declarations are put back into that order, and the module
//! documentation of each file stands above them.

use std::collections::HashMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Result, root};

/// Files of `src/ffi` with something for C, in the order of the header: each uses only
/// what stands before it.
const FILES: [&str; 11] = [
    "version", "error", "dtype", "view", "tensor", "conv", "archive", "writer", "compress",
    "codecs", "sdr",
];

fn path() -> PathBuf {
    root().join("include/cortex.h")
}

/// Writes the header.
pub fn write() -> Result<()> {
    let text = generate()?;
    fs::create_dir_all(root().join("include"))?;
    // An unchanged file keeps its time, so that nothing is built again for it.
    if fs::read_to_string(path()).ok().as_deref() != Some(&text) {
        fs::write(path(), text)?;
    }
    Ok(())
}

/// Fails if the header in the repository is not the one that would be written.
pub fn check() -> Result<()> {
    let text = generate()?;
    let found = fs::read_to_string(path())
        .map_err(|e| format!("include/cortex.h: {e}; run `cargo xtask header`"))?;
    if found == text {
        return Ok(());
    }
    let line = found.lines().zip(text.lines()).position(|(a, b)| a != b);
    let line = line.unwrap_or_else(|| found.lines().count().min(text.lines().count())) + 1;
    Err(format!("include/cortex.h is out of date at line {line}; run `cargo xtask header`").into())
}

/// Writes the header that safer-ffi makes of the same functions, through the compiler.
pub fn safer(file: &Path) -> Result<()> {
    let file = std::path::absolute(file)?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["test", "--quiet", "--profile", "unoptimised", "--lib"])
        .args(["--no-default-features", "--features", "headers"])
        .args(["--", "--exact", "ffi::safer_header"])
        .env("CORTEX_SAFER_HEADER", &file)
        .current_dir(root())
        .stdout(std::process::Stdio::null())
        .status()?;
    if !status.success() {
        return Err("safer-ffi's header could not be made".into());
    }
    Ok(())
}

/// Writes a C file that defines every function which `header` declares, so that a library
/// with debug information can be made of a header alone.
pub fn stub(header: &Path, file: &Path) -> Result<()> {
    let text = fs::read_to_string(header)?;
    let mut out = format!("#include \"{}\"\n", std::path::absolute(header)?.display());
    for statement in without_comments(&text).split_inclusive(';') {
        let declaration = statement.trim().trim_end_matches(';').trim();
        // The last line that is not the preprocessor's or a brace begins the declaration.
        let start = declaration.rfind(['}', '{']).map_or(0, |at| at + 1);
        let declaration: Vec<&str> = declaration[start..]
            .lines()
            .filter(|l| !l.trim_start().starts_with('#'))
            .collect();
        let declaration = declaration.join(" ");
        let declaration = declaration.trim();
        let is_function = declaration.contains('(') && !declaration.starts_with("typedef");
        if is_function && declaration.contains("cortex_") && !declaration.contains("(*") {
            writeln!(out, "{declaration} {{ __builtin_trap(); }}")?;
        }
    }
    fs::write(file, out)?;
    Ok(())
}

fn without_comments(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(start) = rest.find("/*") {
        out.push_str(&rest[..start]);
        rest = rest[start..]
            .find("*/")
            .map_or("", |end| &rest[start + end + 2..]);
    }
    out.push_str(rest);
    out
}

fn generate() -> Result<String> {
    let folder = root().join("src/ffi");
    let mut code = String::new();
    let mut sections = Vec::new();
    for name in FILES {
        let source = fs::read_to_string(folder.join(format!("{name}.rs")))?;
        let body = source.split("#[cfg(test)]").next().unwrap_or_default();
        sections.push((module_doc(&source), declared(body)));
        code.push_str(&for_cbindgen(body));
    }
    let declarations = cbindgen(&code)?;
    let preamble = module_doc(&fs::read_to_string(folder.join("mod.rs"))?);
    assemble(&preamble, &sections, declarations)
}

/// The text of the `//!` lines, code fences as indentation.
fn module_doc(source: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut code = false;
    for line in source.lines().take_while(|l| l.starts_with("//!")) {
        let line = line.trim_start_matches("//!");
        let line = line.strip_prefix(' ').unwrap_or(line);
        if line.starts_with("```") {
            code = !code;
        } else if code {
            // `//` comments and the end of this one are the only things C could trip over.
            lines.push(format!("    {line}").trim_end().to_owned());
        } else {
            lines.push(line.to_owned());
        }
    }
    lines
}

/// Names of the public items of a file, in order.
fn declared(source: &str) -> Vec<String> {
    let mut names = Vec::new();
    for line in source.lines().filter_map(|l| l.strip_prefix("pub ")) {
        let mut words = line.split([' ', '(', ':', ';', '=', '<']);
        if let (Some("fn" | "const" | "type" | "struct"), Some(name)) = (words.next(), words.next())
        {
            names.push(name.to_owned());
        }
    }
    names
}

fn for_cbindgen(source: &str) -> String {
    let lines = source.lines().filter(|line| {
        let line = line.trim();
        !line.starts_with("//!") && line != "#[derive_ReprC]" && line != "#[repr(opaque)]"
    });
    let text: String = lines.flat_map(|line| [line, "\n"]).collect();
    text.replace(
        "#[ffi_export]\npub fn",
        "#[unsafe(no_mangle)]\npub extern \"C\" fn",
    )
}

/// Declarations with their comments, by name.
fn cbindgen(code: &str) -> Result<HashMap<String, String>> {
    let file = root().join("target/cortex_ffi.rs");
    fs::create_dir_all(root().join("target"))?;
    fs::write(&file, code)?;
    let config = cbindgen::Config {
        language: cbindgen::Language::C,
        usize_is_size_t: true,
        no_includes: true,
        line_length: 90,
        documentation: true,
        documentation_style: cbindgen::DocumentationStyle::Doxy,
        ..cbindgen::Config::default()
    };
    let bindings = cbindgen::Builder::new()
        .with_config(config)
        .with_src(&file)
        .generate()?;
    let mut text = Vec::new();
    bindings.write(&mut text);
    let text = String::from_utf8(text)?;
    let mut found = HashMap::new();
    for block in text.split("\n\n").map(str::trim).filter(|b| !b.is_empty()) {
        let name = name_of(block).ok_or_else(|| format!("what does this declare?\n{block}"))?;
        if !block.starts_with("/*") {
            return Err(format!("{name} has no documentation").into());
        }
        found.insert(name, tidy(block));
    }
    Ok(found)
}

/// Types by their short names, and comments of one line on one line.
fn tidy(block: &str) -> String {
    let block = block
        .replace("struct cortex_", "cortex_")
        .replace("typedef cortex_", "typedef struct cortex_");
    let mut out: Vec<String> = Vec::new();
    for line in block.lines() {
        let opening = out.iter().rev().nth(1).filter(|l| l.trim() == "/**");
        if let (" */" | "   */", Some(opening)) = (line, opening) {
            let indent = opening.len() - opening.trim_start().len();
            let text = out.pop().unwrap_or_default();
            let text = text.trim_start().trim_start_matches("* ");
            out.pop();
            out.push(format!("{:indent$}/** {text} */", ""));
        } else {
            out.push(line.to_owned());
        }
    }
    out.join("\n")
}

/// The name that a declaration is for.
fn name_of(block: &str) -> Option<String> {
    let code = without_comments(block);
    let code = code.trim();
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let first_word = |s: &str| -> String { s.chars().take_while(|c| is_word(*c)).collect() };
    let last_word = |s: &str| -> String {
        let start = s.rfind(|c| !is_word(c)).map_or(0, |at| at + 1);
        s[start..].to_owned()
    };
    if let Some(rest) = code.strip_prefix("#define ") {
        return Some(first_word(rest));
    }
    let code = code.strip_suffix(';')?;
    if code.starts_with("typedef") {
        return match code.split_once("(*") {
            Some((_, rest)) if !code.contains('{') => Some(first_word(rest)),
            _ => Some(last_word(code)),
        };
    }
    Some(last_word(code.split_once('(')?.0))
}

fn assemble(
    preamble: &[String],
    sections: &[(Vec<String>, Vec<String>)],
    mut declarations: HashMap<String, String>,
) -> Result<String> {
    let version = package_version()?;
    let mut numbers = version.split(['.', '-', '+']);
    let mut out = String::from("/*\n");
    for line in preamble {
        comment_line(&mut out, line)?;
    }
    out.push_str(" *\n * Made by `cargo xtask header` from src/ffi; changes are lost.\n */\n\n");
    out.push_str("#ifndef CORTEX_H\n#define CORTEX_H\n\n");
    out.push_str("#include <stddef.h>\n#include <stdint.h>\n\n");
    out.push_str("#ifdef __cplusplus\nextern \"C\" {\n#endif\n\n");
    out.push_str("/** The version of this header. */\n");
    for part in ["MAJOR", "MINOR", "PATCH"] {
        let number: u32 = numbers.next().unwrap_or_default().parse()?;
        writeln!(out, "#define CORTEX_VERSION_{part} {number}")?;
    }
    writeln!(out, "#define CORTEX_VERSION_STRING \"{version}\"\n")?;
    for (doc, names) in sections {
        writeln!(out, "/* {}", "-".repeat(74))?;
        for line in doc {
            comment_line(&mut out, line)?;
        }
        out.push_str(" */\n\n");
        for name in names {
            let block = declarations.remove(name);
            let block = block.ok_or_else(|| format!("cbindgen left out {name}"))?;
            writeln!(out, "{block}\n")?;
        }
    }
    if let Some(name) = declarations.keys().next() {
        return Err(format!("{name} stands in no file of the list").into());
    }
    out.push_str("#ifdef __cplusplus\n}\n#endif\n\n#endif /* CORTEX_H */\n");
    Ok(out)
}

/// The version in the root package's `Cargo.toml`.
fn package_version() -> Result<String> {
    let manifest = fs::read_to_string(root().join("Cargo.toml"))?;
    let line = manifest
        .lines()
        .find_map(|l| l.strip_prefix("version = \""));
    let version = line.and_then(|l| l.strip_suffix('"'));
    Ok(version.ok_or("no version in Cargo.toml")?.to_owned())
}

fn comment_line(out: &mut String, line: &str) -> Result<()> {
    if line.contains("*/") || line.contains("/*") {
        return Err(format!("a comment inside the comment: {line}").into());
    }
    writeln!(out, "{}", format!(" * {line}").trim_end())?;
    Ok(())
}
