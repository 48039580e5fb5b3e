//! Cortex keeps neural-network tensors compressed and computes on them without
//! unpacking them. This is its C interface.
//!
//! A tour, simplest call first. Multiply by a weight of an archive, on the
//! compressed weight, in place in the mapped file:
//!
//! ```c
//! cortex_error *err = NULL;
//! cortex_archive *model = NULL;
//! cortex_tensor *w = NULL;
//! if (cortex_archive_open("model.cai", &model, &err) != CORTEX_OK ||
//!     cortex_archive_tensor(model, "layer.0.weight", &w, &err) != CORTEX_OK)
//!   return fail(err);                               // cortex_error_message(err)
//! size_t shape[] = {1, cortex_tensor_cols(w)};      // x[1, in]
//! cortex_view x = {x_data, CORTEX_DTYPE_F32, 2, shape, NULL};
//! if (cortex_tensor_matmul(w, &x, NULL, y, cortex_tensor_rows(w), &err) != CORTEX_OK)
//!   return fail(err);                               // y[1, out] = x · Wᵀ
//! cortex_tensor_free(w);
//! cortex_archive_free(model);
//! ```
//!
//! Compress a whole model file, or one tensor, and write an archive of your own:
//!
//! ```c
//! cortex_compress_file("model.safetensors", "model.cai", NULL, NULL, &err);
//!
//! cortex_tensor_compress(&view, "int4(group=64)", &tensor, &err);
//! cortex_writer_create("mine.cai", &writer, &err);
//! cortex_writer_add(writer, "layer.0.weight", tensor, &err);
//! cortex_writer_finish(writer, NULL, &err);
//! cortex_writer_free(writer);
//! ```
//!
//! Find what shares most active bits with a set, of many that are kept:
//!
//! ```c
//! cortex_sdr_index_create(2048, &index, &err);
//! cortex_sdr_index_add(index, 17, active, active_len, &err);
//! cortex_sdr_index_top_k(index, query, query_len, 10, matches, &matches_len, &err);
//! cortex_sdr_index_free(index);
//! ```
//!
//! What holds for every function:
//!
//! * Specs. One text says how a tensor is stored: "int8", "int4(group=32, search=lsq)",
//!   "mask(keep=10%) | zstd", "lossless", "auto(error=1%)". cortex_codecs_json() lists
//!   every name and option.
//! * Order. cortex_noun_verb(self, inputs…, outputs…, cortex_error **err).
//! * Errors. A function that can fail returns a cortex_status and takes `err` last.
//!   `err` may be NULL. If it is not, *err is set to a new error when, and only when,
//!   the status is not CORTEX_OK; what it held before is overwritten, not freed. Free
//!   it with cortex_error_free. A NULL argument, a wrong shape, an unknown number or a
//!   short buffer is CORTEX_INVALID_ARGUMENT and the message names the argument.
//! * Outputs are untouched unless the status is CORTEX_OK. Only a data buffer (`out` of
//!   decode and decompress, `y` of matmul and conv, `x_gradient`) that was long enough may
//!   hold part of a result when a damaged or unreadable file is found on the way.
//! * Properties. A function without `err` cannot fail. Given NULL for its object it
//!   returns 0, NULL, or NaN for a double.
//! * Ownership. What comes out through `T **` belongs to the caller, who frees it with
//!   cortex_T_free; char * goes to cortex_string_free. Every free function takes NULL.
//!   `const char *` and other const pointers that are returned belong to the object
//!   asked and live as long as it does. Inputs are borrowed for the call. Objects may
//!   be freed in any order: a tensor keeps the archive's file open or mapped.
//! * Threads. A const pointer may be used from several threads at once; any other needs
//!   exclusive access. Every object may be made in one thread and freed in another.
//! * Units. `_bytes` counts bytes; `_len` counts elements of the array that it belongs
//!   to. Tensors are row-major; a tensor [d0, d1, …] is the matrix of d0 rows and
//!   d1·d2·… columns, a vector [n] the matrix [n, 1], a scalar [1, 1].
//! * Text is UTF-8 and ends in NUL; paths too. A NUL inside a name or value from a
//!   file is shown as U+2400.
//! * Options structs begin with `struct_size`, which the caller sets to their sizeof;
//!   zero in any other field means the default, NULL for the struct all defaults.
//!   Fields are only ever added at the end of a struct with a `struct_size`; numbers
//!   and functions are only ever added; all else stays as it is.
//! * Callbacks are called from any thread, one call at a time. They must return: no
//!   C++ exception, no longjmp.

// The names are C's. What is `pub` here is public to C, not to Rust.
#![allow(non_camel_case_types, unreachable_pub)]
#![warn(clippy::undocumented_unsafe_blocks)]

mod archive;
mod codecs;
mod compress;
mod conv;
mod dtype;
mod error;
mod guard;
mod ptr;
mod sdr;
mod tensor;
pub(crate) mod version;
mod view;
mod writer;

/// What the header promises of threads.
const _: () = {
    const fn shared<T: Send + Sync>() {}
    const fn moved<T: Send>() {}
    shared::<archive::cortex_archive>();
    shared::<tensor::cortex_tensor>();
    shared::<error::cortex_error>();
    shared::<sdr::cortex_sdr_index>();
    moved::<writer::cortex_writer>();
};

/// safer-ffi's own header of the same functions, which `cargo xtask header --safer FILE`
/// asks for by naming the file in `CORTEX_SAFER_HEADER`.
#[cfg(all(test, feature = "headers"))]
#[test]
fn safer_header() -> std::io::Result<()> {
    match std::env::var_os("CORTEX_SAFER_HEADER") {
        Some(path) => safer_ffi::headers::builder().to_file(path)?.generate(),
        None => Ok(()),
    }
}
