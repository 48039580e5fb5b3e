//! No export of `src/ffi` may let a panic through: each body is one call of a function of
//! `src/ffi/guard.rs`.

use std::fs;
use std::path::Path;

/// What an export's body may begin with.
const DOORS: [&str; 4] = ["guard(err, ", "plain(", "property(", "release("];

#[test]
fn every_export_is_one_guarded_call() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/ffi");
    let mut exports = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let source = fs::read_to_string(&path).unwrap();
        let mut rest = source.as_str();
        while let Some(at) = rest.find("#[ffi_export]\n") {
            rest = &rest[at + 1..];
            exports += 1;
            let function = &rest[..rest.find("\n}\n").expect("an end")];
            let (signature, body) = function.split_once(" {\n").expect("a body");
            let name = signature.split(['(', ' ']).nth(2).unwrap_or_default();
            let place = format!("{}: {name}", path.display());
            assert!(name.starts_with("cortex_"), "{place}: not a cortex_ name");
            assert!(
                signature.contains("\npub fn "),
                "{place}: not a plain pub fn"
            );
            let fails = signature.contains("err: *mut *mut cortex_error");
            assert_eq!(
                fails,
                signature.ends_with("-> cortex_status") && fails,
                "{place}"
            );

            let body = body.trim();
            assert!(
                DOORS.iter().any(|d| body.starts_with(d)),
                "{place} has no guard"
            );
            assert_eq!(
                body.starts_with(DOORS[0]),
                fails,
                "{place}: err goes to no guard"
            );
            // One call: what it opens is closed by the last character.
            let mut depth = 0;
            let body = body.trim_end_matches(';');
            for (at, c) in body.char_indices() {
                match c {
                    '(' => depth += 1,
                    ')' => depth -= 1,
                    _ => continue,
                }
                assert!(
                    depth > 0 || at + 1 == body.len(),
                    "{place} does more than one call"
                );
            }
        }
    }
    assert!(exports >= 50, "only {exports} exports found");
}
