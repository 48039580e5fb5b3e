//! Names files that people hand to an importer but that none reads, so that the error
//! can say what the file is instead of only what it is not.

/// What the file is, by bytes that nothing else begins with.
pub(super) fn by_magic(bytes: &[u8]) -> Option<&'static str> {
    // The first pickle of the old torch.save holds this number, as a ten-byte integer.
    const OLD_TORCH: &[u8] = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.";
    const STARTS: &[(&[u8], &str)] = &[
        (OLD_TORCH, "a PyTorch checkpoint (a pickle, not a zip)"),
        (b"GGUF", "a GGUF model"),
        (b"lmgg", "a GGML model from before GGUF"),
        (b"tjgg", "a GGML model from before GGUF"),
        (b"fmgg", "a GGML model from before GGUF"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file (Keras .h5)"),
        (b"\x1f\x8b", "a gzip file (unpack it first)"),
        (b"\x28\xb5\x2f\xfd", "a zstd file (unpack it first)"),
        (b"\xfd7zXZ\0", "an xz file (unpack it first)"),
        (b"7z\xbc\xaf\x27\x1c", "a 7z archive (unpack it first)"),
    ];
    if let Some((_, what)) = STARTS.iter().find(|(magic, _)| bytes.starts_with(magic)) {
        return Some(what);
    }
    if bytes.get(4..8) == Some(b"TFL3") {
        return Some("a TensorFlow Lite model");
    }
    if bytes.get(257..262) == Some(b"ustar") {
        return Some("a tar archive (unpack it first)");
    }
    if bytes[0] == 0x80 && matches!(bytes.get(1), Some(2..=5)) {
        return Some("a Python pickle (which is never executed)");
    }
    None
}

/// What the file may be, by weaker signs and by its extension (lower case).
pub(super) fn by_guess(bytes: &[u8], extension: &str) -> Option<&'static str> {
    // ModelProto: field 1 (ir_version, a small number), then most often field 2
    // (producer_name).
    let onnx = matches!(bytes, [0x08, 1..=20, 0x12, ..]);
    match extension {
        _ if onnx => Some("an ONNX model"),
        "onnx" => Some("an ONNX model"),
        "pb" => Some("a TensorFlow or ONNX protobuf"),
        "pt" | "pth" | "pkl" | "pickle" | "ckpt" => Some("a PyTorch checkpoint or Python pickle"),
        _ => None,
    }
}
