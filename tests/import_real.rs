//! Every real file under the folder that `CORTEX_DATA` names is opened: models, files of
//! formats that are not read, damaged and malicious ones. None may bring the reader down.

use std::fs;
use std::path::{Path, PathBuf};

use cortex::import::Model;
use cortex::{DType, ErrorKind};

fn data() -> Option<PathBuf> {
    let folder = std::env::var_os("CORTEX_DATA").map(PathBuf::from);
    if folder.is_none() {
        eprintln!("skipped: CORTEX_DATA names no folder of test data");
    }
    folder
}

fn files(folder: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, out);
        } else {
            out.push(path);
        }
    }
}

fn f32s(model: &Model, name: &str) -> Vec<f32> {
    let view = model.get(name).unwrap().view();
    let mut out = vec![0.0; view.len()];
    view.read_rows_f32(0..view.rows(), &mut out);
    out
}

#[test]
fn every_file_opens_or_is_refused() {
    let Some(folder) = data() else { return };
    let mut all = Vec::new();
    files(&folder, &mut all);
    all.sort();
    let mut opened = Vec::new();
    for path in &all {
        let shown = path.strip_prefix(&folder).unwrap().display().to_string();
        match Model::open(path) {
            Ok(model) => {
                for tensor in model.tensors() {
                    assert_eq!(
                        tensor.view().to_dense().unwrap().bytes().len(),
                        tensor.byte_len()
                    );
                }
                println!("{shown}: {} tensors", model.tensors().len());
                opened.push(shown);
            }
            Err(e) => {
                println!("{shown}: {}: {e}", e.kind().name());
                assert!(
                    matches!(e.kind(), ErrorKind::Unsupported | ErrorKind::Corrupt),
                    "{shown}: {e}"
                );
                assert!(e.message().contains(path.to_str().unwrap()), "{e}");
                // Formats that are known but not read are named.
                let extension = path.extension().unwrap_or_default().to_str().unwrap();
                let named = match extension {
                    "gguf" => "GGUF",
                    "onnx" => "ONNX",
                    "tflite" => "TensorFlow Lite",
                    "hdf5" => "HDF5",
                    "th" => "PyTorch",
                    _ => continue,
                };
                assert!(e.message().contains(named), "{e}");
            }
        }
    }
    for expected in [
        "cnn/cifar_resnet/cifar10_test_first500.npz",
        "cnn/silero_vad/silero_vad_16k.safetensors",
        "formats/candle/test.npy",
        "formats/candle/test.npz",
        "formats/safetensors_local/model-00001-of-00003.safetensors",
        "formats/safetensors_local/model.safetensors.index.json",
    ] {
        assert!(opened.iter().any(|o| o == expected), "{expected}");
    }
    assert!(!opened.iter().any(|o| o.contains("malicious")));
}

#[test]
fn shards_hold_the_language_model() {
    let Some(folder) = data() else { return };
    let model = Model::open(&folder.join("formats/safetensors_local")).unwrap();
    assert_eq!(model.format(), "sharded-safetensors");
    // The embedding, the last norm, and nine for each of five layers.
    assert_eq!(model.tensors().len() + model.aliases().len(), 2 + 5 * 9);
    assert_eq!(model.sources().len(), 4);
    let bytes: usize = model.tensors().iter().map(|t| t.byte_len()).sum();
    assert_eq!(bytes, 1_040_128);
    assert!(model.tensors().iter().all(|t| t.view().backing().is_some()));

    // The same weights in one flat file: seven header words, the embedding, then for all
    // layers the first norm, then the query weights …
    let flat = fs::read(folder.join("lm/stories260K/stories260K.bin")).unwrap();
    let embedding = model.get("model.embed_tokens.weight").unwrap();
    assert_eq!(
        (embedding.dtype(), embedding.shape()),
        (DType::F32, &[512, 64][..])
    );
    let (head, rest) = flat[28..].split_at(embedding.byte_len());
    assert_eq!(embedding.view().contiguous_bytes(), Some(head));
    let norm = model.get("model.layers.0.input_layernorm.weight").unwrap();
    assert_eq!(
        norm.view().contiguous_bytes(),
        Some(&rest[..norm.byte_len()])
    );
}

#[test]
fn arrays_hold_what_numpy_put_there() {
    let Some(folder) = data() else { return };
    let x = Model::open(&folder.join("formats/candle/test.npy")).unwrap();
    let both = Model::open(&folder.join("formats/candle/test.npz")).unwrap();
    let x = f32s(&x, "test");
    assert_eq!(f32s(&both, "x"), x);
    let plus_one: Vec<f32> = x.iter().map(|v| v + 1.0).collect();
    assert_eq!(f32s(&both, "x_plus_one"), plus_one);

    let images = Model::open(&folder.join("cnn/cifar_resnet/cifar10_test_first500.npz")).unwrap();
    assert_eq!(images.get("images").unwrap().shape(), [500, 32, 32, 3]);
    let labels = f32s(&images, "labels");
    assert_eq!(labels.len(), 500);
    assert!(labels.iter().all(|l| (0.0..10.0).contains(l)));
}
