//! Dense tensors written as foreign model files, one file a format.

pub mod safetensors;
