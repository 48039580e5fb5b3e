//! `tests/golden/v1`: archives that every later version must open, in every language, and
//! decode to the bytes of the manifest. A file that was written is never written again: it
//! stands for the files that users have.
//!
//! The table of [`archives`] says what there must be. `CORTEX_WRITE_GOLDEN=1 cargo test
//! --test golden` writes the files of it that do not exist yet, and their lines of the
//! manifest, and changes no other.

mod common;
#[path = "golden/table.rs"]
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use common::cai;
use common::frozen::{self, base64, bytes_of, sizes_of, text_of};
use cortex::archive::{Archive, Writer};
use cortex::form::{self, REGISTRY};
use cortex::spec::{self, Codec, Spec, Term};
use cortex::{DType, ErrorKind, Tensor, View, pack};
use serde_json::{Map, Value, json};
use table::{Content, Golden, archives};

const WRITE: &str = "CORTEX_WRITE_GOLDEN";
const HINT: &str = "add a file to tests/golden/table.rs, and \
                    `CORTEX_WRITE_GOLDEN=1 cargo test --test golden` writes it";

/// Largest size of the folder, in bytes: it is in every clone for ever.
const MOST_BYTES: u64 = 1 << 20;

fn path(file: &str) -> PathBuf {
    frozen::folder("golden/v1").join(file)
}

/// The bytes of an archive as this version writes it.
fn bytes(golden: &Golden) -> Vec<u8> {
    let tensors = match &golden.content {
        Content::Bytes(bytes) => return bytes.clone(),
        Content::Tensors(tensors) => tensors,
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("golden.cai");
    let mut writer = Writer::create(&path).unwrap();
    let metadata: BTreeMap<String, String> = golden
        .metadata
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect();
    writer.set_metadata(&metadata);
    for t in tensors {
        let what = format!("{}: {}", golden.file, t.name);
        let view = View::new(t.dtype, &t.shape, &t.data).unwrap();
        let tensor = Tensor::compress(&view, &t.spec).unwrap_or_else(|e| panic!("{what}: {e}"));
        writer.add(&t.name, &tensor).unwrap();
    }
    for (alias, target) in &golden.aliases {
        writer.alias(alias, target).unwrap();
    }
    writer.finish().unwrap();
    fs::read(&path).unwrap()
}

/// The line of the manifest for a file that was just written.
fn entry(golden: &Golden) -> Value {
    let bytes = fs::read(path(&golden.file)).unwrap();
    let mut entry = json!({
        "file": golden.file,
        "bytes": bytes.len(),
        "crc32c": format!("{:08x}", crc32c::crc32c(&bytes)),
    });
    if golden.refused {
        return entry;
    }
    let archive = Archive::open(&path(&golden.file)).unwrap();
    let texts = |pairs: Vec<(&str, &str)>| -> Value {
        let pairs = pairs
            .into_iter()
            .map(|(k, v)| (k.to_owned(), Value::from(v)));
        Value::Object(pairs.collect())
    };
    entry["metadata"] = texts(archive.metadata().collect());
    let aliases = archive.aliases().iter();
    entry["aliases"] = texts(aliases.map(|(a, t)| (a.as_str(), t.as_str())).collect());
    let tensors = archive.entries().iter().map(|e| {
        let tensor = archive.open_entry(e).unwrap();
        json!({
            "name": e.name(),
            "dtype": tensor.dtype().name(),
            "shape": tensor.shape(),
            "spec": tensor.spec().to_string(),
            "decoded": base64(tensor.decompress().unwrap().bytes()),
        })
    });
    entry["tensors"] = tensors.collect();
    entry
}

/// `archives` and `refused` of the manifest. Writes what is missing, if that was asked for.
fn manifest() -> [Vec<Value>; 2] {
    let at = path("manifest.json");
    let read = || -> Value {
        let text = fs::read_to_string(&at).unwrap_or_else(|e| panic!("manifest.json: {e}; {HINT}"));
        serde_json::from_str(&text).unwrap()
    };
    let list = |all: &Value, key: &str| all[key].as_array().unwrap().clone();
    if std::env::var_os(WRITE).is_none() {
        let all = read();
        return [list(&all, "archives"), list(&all, "refused")];
    }
    let mut all = match at.exists() {
        true => read(),
        false => json!({"archives": [], "refused": []}),
    };
    for golden in archives() {
        let key = if golden.refused {
            "refused"
        } else {
            "archives"
        };
        let known = list(&all, key).iter().any(|e| e["file"] == golden.file);
        match (path(&golden.file).exists(), known) {
            (true, true) => continue,
            (false, false) => {}
            _ => panic!(
                "{}: either the file or its line of the manifest is gone",
                golden.file
            ),
        }
        fs::write(path(&golden.file), bytes(&golden)).unwrap();
        all[key].as_array_mut().unwrap().push(entry(&golden));
    }
    let part = |key: &str| {
        let text = frozen::lines(key, &list(&all, key));
        text[1..text.len() - 2].to_owned()
    };
    fs::write(
        &at,
        format!("{{{},\n{}}}\n", part("archives"), part("refused")),
    )
    .unwrap();
    [list(&all, "archives"), list(&all, "refused")]
}

/// One at a time: the first writes.
fn manifest_once() -> &'static [Vec<Value>; 2] {
    static ONCE: std::sync::OnceLock<[Vec<Value>; 2]> = std::sync::OnceLock::new();
    ONCE.get_or_init(manifest)
}

#[test]
fn every_file_is_as_it_was_written() {
    let [archives, refused] = manifest_once();
    let mut names = BTreeSet::from(["manifest.json".to_owned()]);
    let mut total = fs::metadata(path("manifest.json")).unwrap().len();
    for entry in archives.iter().chain(refused) {
        let file = text_of(entry, "file");
        let bytes = fs::read(path(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
        assert_eq!(json!(bytes.len()), entry["bytes"], "{file} was changed");
        let crc = format!("{:08x}", crc32c::crc32c(&bytes));
        assert_eq!(crc, text_of(entry, "crc32c"), "{file} was changed");
        assert!(
            names.insert(file.to_owned()),
            "{file} stands twice in the manifest"
        );
        total += bytes.len() as u64;
    }
    for file in fs::read_dir(frozen::folder("golden/v1")).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        assert!(names.remove(&name), "{name} does not stand in the manifest");
    }
    assert!(names.is_empty());
    assert!(total < MOST_BYTES, "{total} bytes");
}

fn open(file: &str, mapped: bool) -> Archive {
    let open = if mapped {
        Archive::open
    } else {
        Archive::open_unmapped
    };
    open(&path(file)).unwrap_or_else(|e| panic!("{e}"))
}

fn check(file: &str, entry: &Value, mapped: bool) {
    let archive = open(file, mapped);
    let texts = |key: &str| -> BTreeMap<String, String> {
        let map = entry[key].as_object().unwrap().iter();
        map.map(|(k, v)| (k.clone(), v.as_str().unwrap().to_owned()))
            .collect()
    };
    let metadata: BTreeMap<String, String> = archive
        .metadata()
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .collect();
    assert_eq!(metadata, texts("metadata"), "{file}");
    assert_eq!(
        BTreeMap::from_iter(archive.aliases().iter().cloned()),
        texts("aliases"),
        "{file}"
    );
    let tensors = entry["tensors"].as_array().unwrap();
    assert_eq!(archive.entries().len(), tensors.len(), "{file}");
    for (e, stored) in archive.entries().iter().zip(tensors) {
        let name = text_of(stored, "name");
        let what = format!("{file}: {name}");
        assert_eq!(e.name(), name, "{what}");
        let tensor = archive
            .tensor(name)
            .unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_eq!(tensor.dtype().name(), text_of(stored, "dtype"), "{what}");
        assert_eq!(tensor.shape(), sizes_of(stored, "shape"), "{what}");
        assert_eq!(tensor.spec().to_string(), text_of(stored, "spec"), "{what}");
        let decoded = tensor
            .decompress()
            .unwrap_or_else(|e| panic!("{what}: {e}"));
        let expected = bytes_of(stored, "decoded");
        assert!(decoded.bytes() == expected, "{what}: decoded otherwise");
        // Rows that begin and end inside a tile.
        let (rows, row) = (tensor.rows(), tensor.meta().row_bytes());
        let window = rows / 3..rows.div_ceil(2).max(rows / 3);
        let mut part = vec![0u8; window.len() * row];
        tensor.decode_rows(window.clone(), &mut part).unwrap();
        assert!(
            part == expected[window.start * row..window.end * row],
            "{what}: {window:?}"
        );
        tensor.verify().unwrap_or_else(|e| panic!("{what}: {e}"));
    }
    for (alias, target) in archive.aliases() {
        let (a, b) = (
            archive.tensor(alias).unwrap(),
            archive.tensor(target).unwrap(),
        );
        assert_eq!(a.name(), b.name(), "{file}: {alias}");
    }
    let damage = archive.verify();
    assert!(damage.is_empty(), "{file}: {damage:?}");
}

#[test]
fn every_file_decodes_as_it_did() {
    for entry in &manifest_once()[0] {
        for mapped in [true, false] {
            check(text_of(entry, "file"), entry, mapped);
        }
    }
}

#[test]
fn every_file_decodes_so_with_every_instruction_set() {
    manifest_once();
    for disabled in ["avx512", "avx2"] {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["every_file_decodes_as_it_did", "--exact"])
            .env("CORTEX_DISABLE_CPU", disabled)
            .env_remove(WRITE)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && text.contains("1 passed"),
            "without {disabled}: {text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

/// Files of a later version: what is new in them is refused by name, the rest opens.
#[test]
fn what_is_newer_is_refused_by_name_and_the_rest_opens() {
    for entry in &manifest_once()[1] {
        let file = text_of(entry, "file");
        let archive = open(file, true);
        let (mut known, mut refused) = (0, 0);
        for e in archive.entries() {
            match archive.open_entry(e) {
                Ok(tensor) => {
                    assert!(e.name().starts_with("known"), "{file}: {}", e.name());
                    tensor.decompress().unwrap();
                    known += 1;
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Unsupported, "{file}: {error}");
                    assert_eq!(error.tensor(), Some(e.name()), "{file}: {error}");
                    refused += 1;
                }
            }
        }
        assert!(known > 0 && refused > 0, "{file}");
    }
}

/// Coders whose encoders are other people's, and may find fewer bytes with their next
/// version; what they wrote is decoded all the same.
const FOREIGN_CODERS: [&str; 3] = ["gzip", "zstd", "lz4"];

/// Forms whose factors differ in their last bits between instruction sets.
const ITERATED: [&str; 4] = ["tucker", "cp", "svd", "tt"];

/// An index by tensors, with what cannot differ by the version that wrote it.
fn comparable(bytes: &[u8]) -> Vec<Value> {
    let (body, index, _) = cai::split(bytes);
    let mut tensors = Vec::new();
    for tensor in index["tensors"].as_array().unwrap() {
        if is_ours(text_of(tensor, "spec")) {
            let mut tensor = tensor.clone();
            inline(&mut tensor["form"], &body);
            tensors.push(tensor);
        }
    }
    tensors
}

/// Puts the bytes of chunks in the place of their offsets.
fn inline(form: &mut Value, body: &[u8]) {
    for part in form["parts"].as_array_mut().unwrap() {
        if let Some(chunks) = part.pointer_mut("/buffer/chunks") {
            for chunk in chunks.as_array_mut().unwrap() {
                let at = chunk[0].as_u64().unwrap() as usize;
                let len = chunk[1].as_u64().unwrap() as usize;
                chunk[0] = base64(&body[at..at + len]).into();
            }
        }
        if let Some(form) = part.get_mut("form") {
            inline(form, body);
        }
    }
}

#[test]
fn this_version_writes_the_same_bytes() {
    let mut count = 0;
    for golden in archives() {
        let stored =
            fs::read(path(&golden.file)).unwrap_or_else(|e| panic!("{}: {e}; {HINT}", golden.file));
        let (now, then) = (comparable(&bytes(&golden)), comparable(&stored));
        for (now, then) in now.iter().zip(&then) {
            assert!(
                now == then,
                "{}: {} is written otherwise",
                golden.file,
                then["name"]
            );
        }
        assert_eq!(now.len(), then.len(), "{}", golden.file);
        count += now.len();
    }
    assert!(count > 100, "{count} tensors compared");
}

/// Whether the spec has none of the names whose bytes may differ.
fn is_ours(spec: &str) -> bool {
    let mut words = spec.split(|c: char| !c.is_ascii_alphanumeric());
    !words.any(|w| FOREIGN_CODERS.contains(&w) || ITERATED.contains(&w))
}

/// What the golden files hold.
#[derive(Default)]
struct Found {
    /// Kinds of forms of tensors, and of forms inside other forms.
    kinds: BTreeSet<String>,
    nested: BTreeSet<String>,
    dtypes: BTreeSet<String>,
    /// Kinds of lossy forms with the dtype of their tensor.
    pairs: BTreeSet<(String, String)>,
    /// `codec.option` and `codec.option=word` of specs, and codecs and packs by themselves.
    options: BTreeSet<String>,
    /// Buffers of more than one chunk, and of coded and raw ones.
    chunked: bool,
    mixed: bool,
}

impl Found {
    fn form(&mut self, form: &Value, nested: bool) {
        let kind = text_of(form, "kind").to_owned();
        let kinds = if nested {
            &mut self.nested
        } else {
            &mut self.kinds
        };
        kinds.insert(kind);
        for part in form["parts"].as_array().unwrap() {
            if let Some(form) = part.get("form") {
                self.form(form, true);
            }
            if let Some(buffer) = part.get("buffer") {
                let packs = buffer
                    .get("packs")
                    .and_then(Value::as_str)
                    .unwrap_or_default();
                if !packs.is_empty() {
                    self.spec(&Spec::parse_syntax(&format!("dense | {packs}")).unwrap());
                }
                let coded = buffer["chunks"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|c| c[3] == 1);
                let coded: Vec<bool> = coded.collect();
                self.chunked |= coded.len() > 1;
                self.mixed |= coded.contains(&true) && coded.contains(&false);
            }
        }
    }

    fn spec(&mut self, spec: &Spec) {
        for term in spec.terms.iter().chain(&spec.packs) {
            self.term(term);
        }
    }

    fn term(&mut self, term: &Term) {
        self.options.insert(term.name.clone());
        for arg in &term.args {
            let option = format!("{}.{}", term.name, arg.key.as_deref().unwrap());
            self.options.insert(option.clone());
            match &arg.value {
                spec::Value::Plain(word) => drop(self.options.insert(format!("{option}={word}"))),
                spec::Value::Spec(spec) => self.spec(spec),
            }
        }
    }
}

/// What a codec's options may be and are not by default.
fn expected(codec: &Codec) -> Vec<String> {
    let mut all = vec![codec.name.to_owned()];
    for option in codec.options {
        let name = format!("{}.{}", codec.name, option.key);
        all.push(name.clone());
        if let spec::Kind::Choice(words) = option.kind {
            let words = words.iter().filter(|w| Some(**w) != option.default);
            all.extend(words.map(|w| format!("{name}={w}")));
        }
    }
    all
}

/// A new form, pack, dtype or option without a golden file fails here.
#[test]
fn everything_that_the_registries_know_is_there() {
    let mut found = Found::default();
    for entry in &manifest_once()[0] {
        let bytes = fs::read(path(text_of(entry, "file"))).unwrap();
        let (_, index, _) = cai::split(&bytes);
        for tensor in index["tensors"].as_array().unwrap() {
            let kind = text_of(&tensor["form"], "kind").to_owned();
            found
                .pairs
                .insert((kind, text_of(tensor, "dtype").to_owned()));
            found.dtypes.insert(text_of(tensor, "dtype").to_owned());
            found.form(&tensor["form"], false);
            found.spec(&form::parse(text_of(tensor, "spec")).unwrap());
        }
    }
    let mut missing = Vec::new();
    let mut need = |there: bool, what: String| {
        if !there {
            missing.push(what);
        }
    };
    for def in REGISTRY {
        need(
            found.kinds.contains(def.kind),
            format!("the form {}", def.kind),
        );
        need(
            found.nested.contains(def.kind),
            format!("the form {} inside another", def.kind),
        );
        for dtype in DType::ALL.into_iter().filter(|d| d.is_float()) {
            let pair = (def.kind.to_owned(), dtype.name().to_owned());
            need(
                found.pairs.contains(&pair),
                format!("the form {} of {dtype}", def.kind),
            );
        }
        for codec in def.codecs {
            // No canonical spec has the short names, such as `f16`; others stand for them.
            let canonical = form::parse(codec.name).unwrap().terms[0].name.clone();
            for what in expected(codec) {
                let options = what.strip_prefix(codec.name).unwrap_or_default();
                let other = format!("{canonical}{options}");
                let there = found.options.contains(&what) || found.options.contains(&other);
                need(there, format!("the spec option {what}"));
            }
        }
    }
    for def in pack::REGISTRY {
        for what in expected(&def.codec) {
            need(
                found.options.contains(&what),
                format!("the pack option {what}"),
            );
        }
    }
    for dtype in DType::ALL {
        need(
            found.dtypes.contains(dtype.name()),
            format!("the dtype {dtype}"),
        );
    }
    need(found.chunked, "a buffer of several chunks".into());
    need(found.mixed, "a buffer of coded and raw chunks".into());
    assert!(
        missing.is_empty(),
        "no golden file holds {}; {HINT}",
        missing.join(", ")
    );
}

/// The manifest has no member that its readers would not expect.
#[test]
fn the_manifest_has_its_members() {
    let keys = |v: &Value| -> Vec<String> {
        let map: &Map<String, Value> = v.as_object().unwrap();
        map.keys().cloned().collect()
    };
    for entry in &manifest_once()[0] {
        assert_eq!(
            keys(entry),
            ["file", "bytes", "crc32c", "metadata", "aliases", "tensors"]
        );
        for tensor in entry["tensors"].as_array().unwrap() {
            assert_eq!(keys(tensor), ["name", "dtype", "shape", "spec", "decoded"]);
        }
    }
    for entry in &manifest_once()[1] {
        assert_eq!(keys(entry), ["file", "bytes", "crc32c"]);
    }
}
