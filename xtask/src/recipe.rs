//! `cargo xtask recipe`: does what `docs/adding-a-form.md` says, to the letter, in a copy
//! of the source, and runs the tests there. A recipe that no longer works fails here.

use std::fs;
use std::path::Path;
use std::process::Command;

type Result<T> = std::result::Result<T, String>;

/// Follows the recipe.
pub fn run(root: &Path) -> Result<()> {
    let doc = read(&root.join("docs/adding-a-form.md"))?;
    let copy = root.join("target/recipe");
    let _ = fs::remove_dir_all(&copy);
    for part in ["Cargo.toml", "Cargo.lock", "build.rs"] {
        if root.join(part).exists() {
            fs::create_dir_all(&copy).map_err(|e| e.to_string())?;
            fs::copy(root.join(part), copy.join(part)).map_err(|e| format!("{part}: {e}"))?;
        }
    }
    for folder in ["src", "tests", "benches", "examples", "xtask"] {
        copy_tree(&root.join(folder), &copy.join(folder))?;
    }
    // The bindings are not copied: a form is none of their business.
    let manifest = read(&copy.join("Cargo.toml"))?;
    let members = manifest.lines().find(|l| l.starts_with("members = "));
    let members = members.ok_or("Cargo.toml has no line of members")?;
    edit(&copy.join("Cargo.toml"), members, "members = [\"xtask\"]")?;

    // 1. The file: the first Rust block after its name.
    let name = "src/form/sign.rs";
    let after = doc
        .split_once(&format!("\n`{name}`:\n"))
        .ok_or("the recipe names no file")?
        .1;
    let body = blocks(after).next().ok_or("no code for the file")?;
    write(&copy.join(name), body)?;

    // 2. The module line.
    let after = after
        .split_once("after `mod registry;`:")
        .ok_or("no module line")?
        .1;
    let line = blocks(after).next().ok_or("no code for the module line")?;
    edit(
        &copy.join("src/form/mod.rs"),
        "mod registry;\n",
        &format!("mod registry;\n{line}"),
    )?;

    // 3. Each "`old` becomes" in the registry.
    let mut rest = after;
    let mut edits = 0;
    while let Some((before, tail)) = rest.split_once("becomes\n") {
        let old = before
            .trim_end()
            .strip_suffix('`')
            .and_then(|b| b.rsplit_once('`'));
        let old = old.ok_or("'becomes' without the old line before it")?.1;
        let new = blocks(tail)
            .next()
            .ok_or("'becomes' without the new line")?;
        edit(&copy.join("src/form/registry.rs"), old, new.trim_end())?;
        edits += 1;
        rest = tail;
    }
    if edits != 1 {
        return Err(format!("{edits} edits of the registry found, 1 expected"));
    }

    let status = Command::new(env!("CARGO"))
        .args(["test", "--no-default-features", "--test", "conformance"])
        .current_dir(&copy)
        .env("CARGO_TARGET_DIR", root.join("target"))
        .status()
        .map_err(|e| format!("cannot run cargo: {e}"))?;
    if !status.success() {
        return Err("the tests of the form that the recipe adds failed".into());
    }
    println!("docs/adding-a-form.md: followed, and its form passes the suite");
    fs::remove_dir_all(&copy).map_err(|e| e.to_string())
}

/// Contents of the fenced Rust blocks of a text.
fn blocks(text: &str) -> impl Iterator<Item = &str> {
    text.split("```rust\n")
        .skip(1)
        .filter_map(|b| Some(b.split_once("```")?.0))
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))
}

fn edit(path: &Path, old: &str, new: &str) -> Result<()> {
    let text = read(path)?;
    if text.matches(old).count() != 1 {
        return Err(format!("{} does not hold '{old}' once", path.display()));
    }
    write(path, &text.replacen(old, new, 1))
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    let fail = |e: std::io::Error| format!("{}: {e}", from.display());
    fs::create_dir_all(to).map_err(fail)?;
    for entry in fs::read_dir(from).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let target = to.join(entry.file_name());
        if entry.file_type().map_err(fail)?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target).map_err(fail)?;
        }
    }
    Ok(())
}
