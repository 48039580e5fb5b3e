//! Ceilings for untrusted input. Every count, length and depth read from a file is
//! held against one of these before anything is allocated or looped over.

/// Dimensions of a tensor. NumPy stops at 64, ONNX and safetensors state no limit;
/// real weights have at most six.
pub const MAX_DIMS: usize = 16;

/// Threads of a pool of its own: asking for more is a mistake, and starting them may bring the
/// machine down.
pub const MAX_THREADS: usize = 4096;

/// Tensors in one file.
pub const MAX_TENSORS: usize = 1 << 20;

/// Bytes of a tensor's name.
pub const MAX_NAME_BYTES: usize = 4096;

/// Bytes of the JSON index of an archive, and of a safetensors header.
pub const MAX_INDEX_BYTES: u64 = 256 << 20;

/// Forms inside forms (a mask of a quantiser of …): as many as specs, and below the
/// innermost the form that it takes when none is named.
pub const MAX_FORM_DEPTH: usize = MAX_SPEC_DEPTH + 1;

/// Filters and coders in one pack chain.
pub const MAX_PACKS: usize = 8;

/// Raw bytes of one packed chunk: a reader must hold one whole to decode it.
pub const MAX_CHUNK_BYTES: usize = 64 << 20;

/// Characters of a spec string.
pub const MAX_SPEC_CHARS: usize = 4096;

/// Specs inside specs, in brackets.
pub const MAX_SPEC_DEPTH: usize = 8;

/// Bytes of one tensor, raw: what `isize` can address with room to spare.
pub const MAX_TENSOR_BYTES: u64 = 1 << 46;

/// Files of a sharded model.
pub const MAX_SHARDS: usize = 4096;

/// Bytes of free text metadata (one file, keys and values together).
pub const MAX_METADATA_BYTES: usize = 64 << 20;

/// Forms in a sum.
pub const MAX_SUM_TERMS: usize = 8;
