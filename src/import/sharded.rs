//! A model in several safetensors files with a `model.safetensors.index.json`, or the
//! one file of a folder.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

use super::safetensors::{UniqueMap, json_message, json_offset};
use super::{Contents, Importer, check_count, map, safetensors, shown};
use crate::error::{Error, Result};
use crate::limits;
use crate::mmap::Mapping;

pub(super) const IMPORTER: Importer = Importer {
    name: "sharded-safetensors",
    summary: "a model.safetensors.index.json with its shards, or the folder that holds them",
    extensions: &["json"],
    detect,
    open,
};

const INDEX_SUFFIX: &str = ".safetensors.index.json";

/// JSON that mentions a weight map.
fn detect(bytes: &[u8]) -> bool {
    const KEY: &[u8] = b"\"weight_map\"";
    let bytes = &bytes[..bytes.len().min(limits::MAX_INDEX_BYTES as usize)];
    let text = bytes.iter().take(8).all(|b| (0x09..0x7f).contains(b));
    text && bytes.trim_ascii_start().starts_with(b"{") && bytes.windows(KEY.len()).any(|w| w == KEY)
}

#[derive(Deserialize)]
struct Index {
    weight_map: Option<UniqueMap>,
}

fn open(file: &Arc<Mapping>) -> Result<Contents> {
    if file.len() as u64 > limits::MAX_INDEX_BYTES {
        return Err(Error::limit(format!(
            "an index of {} bytes; at most {} are supported",
            file.len(),
            limits::MAX_INDEX_BYTES
        )));
    }
    let index: Index = serde_json::from_slice(file).map_err(|e| {
        Error::corrupt(format!("bad index: {}", json_message(&e)))
            .with_offset(json_offset(file, &e) as u64)
    })?;
    let weights = index
        .weight_map
        .ok_or_else(|| Error::unsupported("JSON without a weight_map is not a model index"))?
        .0;
    check_count(weights.len())?;

    // Sorted by file name, so that shards are read in their order.
    let mut shards: BTreeMap<&str, usize> = BTreeMap::new();
    for (tensor, shard) in &weights {
        check_plain(shard).map_err(|e| e.with_tensor(shown(tensor)))?;
        *shards.entry(shard).or_default() += 1;
    }
    if shards.len() > limits::MAX_SHARDS {
        return Err(Error::limit(format!(
            "{} shards; at most {} are supported",
            shards.len(),
            limits::MAX_SHARDS
        )));
    }
    let folder = file.path().parent().unwrap_or(Path::new(""));
    let mut out = Contents::default();
    for (shard, expected) in shards {
        let path = folder.join(shard);
        let mapping = map(&path)?;
        let found = safetensors::read(&mapping).map_err(|e| e.context(path.display()))?;
        let before = out.tensors.len();
        // What the index does not place in this shard is not part of the model.
        let listed = |name: &str| weights.get(name).is_some_and(|s| s == shard);
        out.tensors
            .extend(found.tensors.into_iter().filter(|t| listed(t.name())));
        if out.tensors.len() - before != expected {
            let held: HashSet<&str> = out.tensors[before..].iter().map(|t| t.name()).collect();
            let missing = weights
                .iter()
                .find(|(name, s)| *s == shard && !held.contains(name.as_str()))
                .map_or("", |(name, _)| name);
            return Err(Error::corrupt(format!(
                "the index places it in {}, which does not hold it",
                path.display()
            ))
            .with_tensor(shown(missing)));
        }
        // Shards repeat the same notes; where they differ the first one's stays.
        for (key, value) in found.metadata {
            out.metadata.entry(key).or_insert(value);
        }
        out.others.push(mapping);
    }
    Ok(out)
}

/// A shard is named by a plain file name: an index cannot reach outside its folder.
fn check_plain(name: &str) -> Result<()> {
    let mut parts = Path::new(name).components();
    let plain = matches!(
        (parts.next(), parts.next()),
        (Some(Component::Normal(_)), None)
    );
    // On every system alike, whatever it takes for a separator.
    if plain && !name.contains(['/', '\\', ':', '\0']) {
        return Ok(());
    }
    Err(Error::corrupt(format!(
        "the index names the shard '{}', which is not a plain file name",
        shown(name)
    )))
}

/// The file that stands for the model in this folder.
pub(super) fn model_in_folder(folder: &Path) -> Result<PathBuf> {
    let fail = |e| Error::io(format!("cannot list {}", folder.display()), e);
    let mut indexes = Vec::new();
    let mut singles = Vec::new();
    for entry in fs::read_dir(folder).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.ends_with(INDEX_SUFFIX) {
            indexes.push(path);
        } else if name.ends_with(".safetensors") {
            singles.push(path);
        }
    }
    for (mut found, usual) in [
        (indexes, "model.safetensors.index.json"),
        (singles, "model.safetensors"),
    ] {
        found.sort();
        if let Some(at) = found.iter().position(|p| p.ends_with(usual)) {
            return Ok(found.swap_remove(at));
        }
        match found.len() {
            0 => {}
            1 => return Ok(found.remove(0)),
            n => {
                return Err(Error::invalid(format!(
                    "{} holds {n} files that could be the model, among them {}; name one",
                    folder.display(),
                    found[0].display()
                )));
            }
        }
    }
    Err(Error::invalid(format!(
        "{} holds neither a *{INDEX_SUFFIX} nor a *.safetensors",
        folder.display()
    )))
}

#[cfg(test)]
mod tests {
    use super::super::Model;
    use super::super::tests::refused;
    use super::*;
    use crate::error::ErrorKind;

    fn shard(tensors: &[(&str, u8)]) -> Vec<u8> {
        let entries: Vec<_> = tensors
            .iter()
            .enumerate()
            .map(|(i, (name, _))| {
                format!(
                    r#""{name}":{{"dtype":"U8","shape":[2],"data_offsets":[{},{}]}}"#,
                    2 * i,
                    2 * i + 2
                )
            })
            .collect();
        let header = format!(
            "{{\"__metadata__\":{{\"format\":\"pt\"}},{}}}",
            entries.join(",")
        );
        let mut out = (header.len() as u64).to_le_bytes().to_vec();
        out.extend(header.as_bytes());
        out.extend(tensors.iter().flat_map(|(_, v)| [*v; 2]));
        out
    }

    fn index(pairs: &[(&str, &str)]) -> String {
        let map: Vec<_> = pairs
            .iter()
            .map(|(name, file)| format!("{name:?}: {file:?}"))
            .collect();
        format!(
            "{{\"metadata\": {{\"total_size\": 6}}, \"weight_map\": {{{}}}}}",
            map.join(", ")
        )
    }

    fn folder(index: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).unwrap();
        put("model.safetensors.index.json", index.as_bytes());
        put("s1.safetensors", &shard(&[("z", 1), ("y", 2)]));
        put(
            "s2.safetensors",
            &shard(&[("a", 3), ("unlisted", 4), ("z", 5)]),
        );
        folder
    }

    fn open_index(index: &str) -> Result<Model> {
        Model::open(&folder(index).path().join("model.safetensors.index.json"))
    }

    #[test]
    fn shards_make_one_model() {
        let text = index(&[
            ("a", "s2.safetensors"),
            ("y", "s1.safetensors"),
            ("z", "s1.safetensors"),
        ]);
        let folder = folder(&text);
        let model = Model::open(folder.path()).unwrap();
        let names: Vec<_> = model.tensors().iter().map(|t| t.name()).collect();
        assert_eq!(names, ["z", "y", "a"]);
        let z = model.get("z").unwrap().view();
        assert_eq!(z.contiguous_bytes(), Some(&[1, 1][..]));
        assert_eq!(model.metadata()["format"], "pt");
        assert_eq!(model.sources().len(), 3);
        let total: u64 = fs::read_dir(folder.path())
            .unwrap()
            .map(|f| f.unwrap().metadata().unwrap().len())
            .sum();
        assert_eq!(model.input_bytes(), total);
    }

    #[test]
    fn shard_names_cannot_leave_the_folder() {
        for name in [
            "../s1.safetensors",
            "/etc/passwd",
            "sub/s1.safetensors",
            "sub\\s1.safetensors",
            "C:s1.safetensors",
            "./s1.safetensors",
            "..",
            ".",
            "",
        ] {
            let e = open_index(&index(&[("z", name)])).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Corrupt, "{name}: {e}");
            assert_eq!(e.tensor(), Some("z"));
        }
    }

    #[test]
    fn missing_shards_and_tensors_are_named() {
        let e = open_index(&index(&[("z", "s9.safetensors")])).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Io);
        assert!(e.message().contains("s9.safetensors"), "{e}");
        let e = open_index(&index(&[("z", "s1.safetensors"), ("q", "s1.safetensors")]));
        let e = e.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Corrupt);
        assert_eq!(e.tensor(), Some("q"));
        assert!(e.message().contains("s1.safetensors"), "{e}");
        // A shard that is none: the index itself.
        let e = open_index(&index(&[("z", "model.safetensors.index.json")])).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn bad_indexes_are_refused() {
        let name = "model.safetensors.index.json";
        let twice = index(&[("z", "s1.safetensors"), ("z", "s2.safetensors")]);
        for text in [
            twice.as_str(),
            "{\"weight_map\": {\"a\": 1}}",
            "{\"weight_map\": [\"a\"]}",
            "{\"weight_map\": {}, \"weight_map\": {}}",
            "{\"weight_map\": {",
            "{",
            "not json",
        ] {
            refused(name, text.as_bytes(), ErrorKind::Corrupt);
        }
        let deep = format!("{{\"weight_map\": {}", "[".repeat(100_000));
        refused(name, deep.as_bytes(), ErrorKind::Corrupt);
        let deep = format!("{{\"x\": {}", "[".repeat(100_000));
        refused(name, deep.as_bytes(), ErrorKind::Corrupt);
        refused("config.json", b"{\"layers\": 3}", ErrorKind::Unsupported);
        let many: Vec<_> = (0..=limits::MAX_SHARDS)
            .map(|i| (format!("t{i}"), format!("s{i}")))
            .collect();
        let many: Vec<_> = many.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        refused(name, index(&many).as_bytes(), ErrorKind::LimitExceeded);
        let whole = index(&[("z", "s1.safetensors")]);
        for len in 0..whole.len() {
            refused(name, &whole.as_bytes()[..len], ErrorKind::Corrupt);
        }
    }

    #[test]
    fn a_folder_stands_for_its_one_model() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, value: u8| {
            fs::write(folder.path().join(name), shard(&[("w", value)])).unwrap();
        };
        put("b.safetensors", 1);
        assert!(Model::open(folder.path()).is_ok());
        put("c.safetensors", 2);
        let e = Model::open(folder.path()).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::InvalidArgument);
        put("model.safetensors", 3);
        let model = Model::open(folder.path()).unwrap();
        let w = model.get("w").unwrap().view();
        assert_eq!(w.contiguous_bytes(), Some(&[3, 3][..]));
    }
}
