//! The order of the layers, and where `unsafe` may stand, read from the source.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Modules of the library, first to last; those of one line are one layer. A module may
/// name modules of its own layer and of those before.
const LAYERS: &[&[&str]] = &[
    &["error", "limits", "dtype", "bytes", "mmap", "atomic"],
    &["kernel"],
    &["tensor", "calibration", "linalg"],
    &["spec"],
    &["pack"],
    &["form"],
    &["matmul", "conv"],
    &["archive"],
    &["import", "export"],
    &["plan"],
    &["model"],
    &["sdr"],
    &["ffi"],
    &["bin"],
];

/// What `lib.rs` exports at the root, and the module that it comes from.
const AT_ROOT: &[(&str, &str)] = &[
    ("DType", "dtype"),
    ("Error", "error"),
    ("ErrorKind", "error"),
    ("Result", "error"),
    ("ErrorStats", "form"),
    ("Tensor", "form"),
    ("ConvMethod", "conv"),
    ("ConvOptions", "conv"),
    ("Computed", "matmul"),
    ("MatmulOptions", "matmul"),
    ("Precision", "matmul"),
    ("Spec", "spec"),
    ("Dense", "tensor"),
    ("View", "tensor"),
];

/// Folders and files that may hold `unsafe`.
const UNSAFE: &[&str] = &["kernel", "mmap", "ffi", "accel"];

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|l| l.contains(&module))
}

/// The source with comments and the insides of literals blanked out, lines kept.
fn code_of(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut blank = |range: std::ops::Range<usize>| {
        for b in &mut out[range] {
            if *b != b'\n' {
                *b = b' ';
            }
        }
    };
    let find = |from: usize, what: &[u8]| {
        let at = bytes[from..].windows(what.len()).position(|w| w == what);
        at.map_or(bytes.len(), |p| from + p + what.len())
    };
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let word_before =
            at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
        let end = if rest.starts_with(b"//") {
            find(at, b"\n")
        } else if rest.starts_with(b"/*") {
            let (mut depth, mut end) = (1, at + 2);
            while depth > 0 && end < bytes.len() {
                if bytes[end..].starts_with(b"/*") {
                    (depth, end) = (depth + 1, end + 2);
                } else if bytes[end..].starts_with(b"*/") {
                    (depth, end) = (depth - 1, end + 2);
                } else {
                    end += 1;
                }
            }
            end
        } else if !word_before && (rest.starts_with(b"r\"") || rest.starts_with(b"r#")) {
            let hashes = rest[1..].iter().take_while(|b| **b == b'#').count();
            if rest.get(1 + hashes) == Some(&b'"') {
                let close = [&b"\""[..], &vec![b'#'; hashes]].concat();
                find(at + 2 + hashes, &close)
            } else {
                at + 1
            }
        } else if rest[0] == b'"' {
            let mut end = at + 1;
            while end < bytes.len() && bytes[end] != b'"' {
                end += if bytes[end] == b'\\' { 2 } else { 1 };
            }
            end + 1
        } else if rest[0] == b'\'' {
            // A character, or a lifetime.
            let text = &text[at + 1..];
            let mut chars = text.char_indices();
            match (chars.next(), chars.next()) {
                (Some((_, '\\')), _) => find(at + 3, b"'"),
                (Some(_), Some((next, '\''))) => at + 1 + next + 1,
                _ => at + 1,
            }
        } else {
            at += 1;
            continue;
        };
        let end = end.min(bytes.len());
        if end > at + 1 {
            blank(at..end);
        }
        at = end;
    }
    String::from_utf8(out).expect("only whole characters are blanked")
}

fn ident(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_');
    &text[..end.unwrap_or(text.len())]
}

/// First names of a path's continuation: of `a::b`, `{a, b::{c, d}}`, `*`.
fn heads(text: &str) -> Vec<String> {
    let text = text.trim_start();
    let Some(list) = text.strip_prefix('{') else {
        return vec![ident(text).to_owned()];
    };
    let (mut depth, mut all, mut start) = (0, Vec::new(), 0);
    for (i, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                all.push(&list[start..i]);
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                all.push(&list[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    all.iter()
        .map(|part| ident(part.trim_start()).to_owned())
        .collect()
}

/// The top module that a file of `src` belongs to; `None` for `lib.rs`, which names all.
fn module_of(file: &Path) -> Option<String> {
    let first = file.components().next()?.as_os_str().to_str()?;
    let name = first.strip_suffix(".rs").unwrap_or(first);
    (name != "lib").then(|| name.to_owned())
}

/// Names of the crate's root that a file uses, with their lines.
fn names_used(file: &Path, code: &str) -> Vec<(usize, String)> {
    let module = module_of(file).unwrap_or_default();
    let mut roots = vec!["crate::"];
    if module == "bin" {
        roots.push("cortex::");
    }
    // From a file at the top of a module, `super` is the root.
    let file_name = file.file_name().and_then(|n| n.to_str());
    let depth = file.components().count() - usize::from(file_name == Some("mod.rs"));
    let up = "super::".repeat(depth);
    roots.push(&up);
    let mut found = Vec::new();
    for root in roots {
        for (at, _) in code.match_indices(root) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            let line = code[..at].matches('\n').count() + 1;
            for name in heads(&code[at + root.len()..]) {
                // `super` in a test module is its file, whose names are not modules'.
                if root.starts_with("super") && layer(&name).is_none() {
                    continue;
                }
                found.push((line, name));
            }
        }
    }
    found
}

/// Every import of a file that points to a later layer, or to nothing that is known.
fn violations(file: &Path, text: &str) -> Vec<String> {
    let Some(module) = module_of(file) else {
        return Vec::new();
    };
    let Some(mine) = layer(&module) else {
        return vec![format!("{}: '{module}' stands in no layer", file.display())];
    };
    let mut all = Vec::new();
    for (line, name) in names_used(file, &code_of(text)) {
        // Inside a binary, `crate` is the binary.
        if module == "bin" && layer(&name).is_none() {
            continue;
        }
        let known = AT_ROOT
            .iter()
            .find(|(n, _)| *n == name)
            .map_or(&name[..], |(_, m)| m);
        match layer(known) {
            Some(theirs) if theirs <= mine => {}
            Some(_) => all.push(format!(
                "{}:{line}: {module} must not know {known}, a later layer",
                file.display()
            )),
            None => all.push(format!("{}:{line}: what is crate::{name}?", file.display())),
        }
    }
    all
}

/// `unsafe` where it may not stand, and blocks without a word on why they are sound.
fn unsafe_findings(file: &Path, text: &str) -> Vec<String> {
    let module = module_of(file).unwrap_or_default();
    let code = code_of(text);
    let lines: Vec<&str> = text.lines().collect();
    let mut all = Vec::new();
    for (at, word) in code.match_indices("unsafe") {
        let before = code[..at].chars().next_back();
        let after = &code[at + word.len()..];
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        if before.is_some_and(is_word) || after.starts_with(is_word) {
            continue;
        }
        let line = code[..at].matches('\n').count();
        let place = format!("{}:{}", file.display(), line + 1);
        if !UNSAFE.contains(&module.as_str()) {
            all.push(format!("{place}: unsafe outside {}", UNSAFE.join(", ")));
            continue;
        }
        let after = after.trim_start();
        let claims = after.starts_with('{') || after.starts_with("impl");
        // A comment of a few lines, and the statement that the block is part of.
        let near = &lines[line.saturating_sub(8)..=line];
        if claims && !near.iter().any(|l| l.contains("SAFETY:")) {
            all.push(format!("{place}: no SAFETY comment"));
        }
    }
    all
}

fn sources(folder: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

fn each_source(check: fn(&Path, &str) -> Vec<String>) -> Vec<String> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    files.sort();
    assert!(files.len() > 30);
    let mut all = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        all.extend(check(file.strip_prefix(&src).unwrap(), &text));
    }
    all
}

#[test]
fn imports_point_to_earlier_layers() {
    let found = each_source(violations);
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn unsafe_stands_where_it_may_and_says_why() {
    let found = each_source(unsafe_findings);
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn every_module_is_in_a_layer_once_and_exported_names_are_known() {
    let listed: Vec<&str> = LAYERS.concat();
    let unique: BTreeSet<&str> = listed.iter().copied().collect();
    assert_eq!(listed.len(), unique.len());
    let lib =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    for line in code_of(&lib).lines() {
        if let Some(name) = line.strip_prefix("pub mod ").or(line.strip_prefix("mod ")) {
            assert!(unique.contains(ident(name)), "{name} stands in no layer");
        }
        if let Some(path) = line.strip_prefix("pub use ") {
            let (module, names) = path.split_once("::").unwrap();
            for name in heads(names) {
                assert!(
                    AT_ROOT.contains(&(&name, module)),
                    "{name} of {module} is not listed"
                );
            }
        }
    }
}

/// A checker that sees nothing would pass everything.
#[test]
fn the_checkers_see_what_they_look_for() {
    let check = |file: &str, text: &str| violations(Path::new(file), text).len();
    for (file, text, expected) in [
        ("kernel/quant.rs", "use crate::form::Tensor;", 1),
        (
            "kernel/quant.rs",
            "use crate::{error::Error, form::{self, Tensor}, pack};",
            2,
        ),
        ("error.rs", "fn f() { crate::kernel::best(); }", 1),
        ("error.rs", "use super::kernel;", 1),
        ("form/mod.rs", "use super::archive::Archive;", 1),
        ("form/mask.rs", "use super::super::archive::Archive;", 1),
        ("spec.rs", "use crate::Tensor;", 1),
        ("tensor.rs", "use crate::\n    spec::Spec;", 1),
        ("model.rs", "use crate::ffi;", 1),
        ("unheard_of.rs", "", 1),
        ("form/mod.rs", "use crate::unheard_of;", 1),
        // What is allowed, and what only looks like an import.
        (
            "form/mask.rs",
            "use crate::{error::{Error, Result}, pack, spec::Spec};",
            0,
        ),
        ("form/mask.rs", "use super::archive; use self::x;", 0),
        (
            "kernel/mod.rs",
            "pub(crate) fn f() {} mod tests { use super::*; }",
            0,
        ),
        (
            "error.rs",
            "// crate::form\n/* crate::form /* */ crate::form */ /// [`crate::form`]\n",
            0,
        ),
        (
            "error.rs",
            "const A: &str = \"\\\"crate::form\"; const B: &str = r#\"\"crate::form\"#;",
            0,
        ),
        (
            "error.rs",
            "fn f<'a>(c: &'a char) { let q = '\"'; let _ = '\\''; } // crate::form",
            0,
        ),
        (
            "error.rs",
            "fn f() { let q = '\"'; crate::form::parse(\"\"); }",
            1,
        ),
        (
            "error.rs",
            "fn f() { other_crate::form(); $crate::form(); }",
            1,
        ),
        (
            "bin/cortex/main.rs",
            "use cortex::model; mod report; use crate::report;",
            0,
        ),
        (
            "ffi/tensor.rs",
            "use crate::Tensor; use crate::ffi::error;",
            0,
        ),
        ("lib.rs", "pub use form::Tensor;", 0),
    ] {
        assert_eq!(check(file, text), expected, "{file}: {text}");
    }
    let check = |file: &str, text: &str| unsafe_findings(Path::new(file), text).len();
    let block = "fn f() {\n    unsafe { g() }\n}\n";
    for (file, text, expected) in [
        ("form/mask.rs", block, 1),
        ("form/mask.rs", "// SAFETY: none\nunsafe fn f() {}", 1),
        (
            "form/mask.rs",
            "// unsafe\n#![allow(unsafe_code)] const A: &str = \"unsafe {\";",
            0,
        ),
        ("mmap.rs", block, 1),
        (
            "mmap.rs",
            "fn f() {\n    // SAFETY: it is.\n    unsafe { g() }\n}\n",
            0,
        ),
        ("kernel/x.rs", "unsafe impl Send for X {}", 1),
        (
            "kernel/x.rs",
            "// SAFETY: it is.\nunsafe impl Send for X {}",
            0,
        ),
        ("kernel/x.rs", "struct S { f: unsafe fn(u8) }", 0),
    ] {
        assert_eq!(check(file, text), expected, "{file}: {text}");
    }
}
