//! Whole model files, in and out.

use std::ffi::c_void;

use regex::Regex;
use safer_ffi::{c_char, derive_ReprC, ffi_export};

use super::error::{cortex_error, cortex_status};
use super::guard::guard;
use super::ptr::{self, Options, Out, borrowed, c_text, optional_text, owned};
use crate::error::{Error, Result};
use crate::form;
use crate::model::{self, CompressOptions, Progress};

/// How far a long call has come.
#[derive_ReprC]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct cortex_progress {
    /// Bytes of this struct in the library that is running.
    pub struct_size: usize,
    /// Dense bytes of the tensors that are done.
    pub done_bytes: u64,
    /// Dense bytes of all tensors.
    pub total_bytes: u64,
    /// Tensors that are done.
    pub done_tensors: u64,
    /// All tensors.
    pub total_tensors: u64,
    /// Name of the tensor at work; valid during the callback.
    pub tensor: *const c_char,
}

/// Told at most every 50 ms, and after each tensor, how far a call has come. Any value but
/// 0 stops the call, which then returns CORTEX_CANCELLED and leaves no file behind. Called
/// from any thread, one call at a time.
pub type cortex_progress_fn =
    Option<unsafe extern "C" fn(progress: *const cortex_progress, user_data: *mut c_void) -> i32>;

/// A spec for some tensors of a model.
#[derive_ReprC]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct cortex_rule {
    /// Regular expression; found anywhere in a tensor's name, unless it has ^ and $.
    pub pattern: *const c_char,
    /// Spec for the tensors of such names, followed to the letter.
    pub spec: *const c_char,
}

/// How a model is compressed. Begin with all zeros and set `struct_size`.
#[derive_ReprC]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct cortex_compress_options {
    /// sizeof(cortex_compress_options).
    pub struct_size: usize,
    /// For every tensor that no rule names; NULL for auto(error=1%). A lossy one leaves
    /// integers, bools, vectors and tensors of under 4096 elements lossless.
    pub spec: *const c_char,
    /// Regular expression: tensors with such a name stay lossless, rules or not. May be NULL.
    pub exclude: *const c_char,
    /// `rules_len` rules, of which the first that matches counts. May be NULL if there are none.
    pub rules: *const cortex_rule,
    /// Number of rules.
    pub rules_len: usize,
    /// Threads, at most 4096; 0 for all cores. The file does not depend on it.
    pub threads: usize,
    /// May be NULL.
    pub progress: cortex_progress_fn,
    /// Passed to `progress`.
    pub user_data: *mut c_void,
    /// File (safetensors, npy, npz) of second moments of the activations, an entry for each
    /// tensor by its name: [in] for their diagonal, [in, in] for all. May be NULL.
    pub calibration: *const c_char,
    /// Not 0: the report lists for each tensor what was measured and why it was taken or not.
    pub explain: usize,
}

// SAFETY: `#[repr(C)]`, ten fields of the size of a pointer, and zeros are the defaults.
unsafe impl Options for cortex_compress_options {}

/// How a model is decompressed. Begin with all zeros and set `struct_size`.
#[derive_ReprC]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct cortex_decompress_options {
    /// sizeof(cortex_decompress_options).
    pub struct_size: usize,
    /// Threads, at most 4096; 0 for all cores.
    pub threads: usize,
    /// May be NULL.
    pub progress: cortex_progress_fn,
    /// Passed to `progress`.
    pub user_data: *mut c_void,
}

// SAFETY: `#[repr(C)]`, four fields of the size of a pointer, and zeros are the defaults.
unsafe impl Options for cortex_decompress_options {}

/// Compresses the model at `input` (safetensors, a sharded one's index.json, npy, npz; found
/// by content) into the archive `output`, holding one tensor in memory at a time. The file
/// appears when it is complete; what stood there is replaced then.
///
/// `options` may be NULL. `report` takes one JSON object, the same that
/// `cortex compress --json` prints, and may be NULL; free it with cortex_string_free.
///
/// CORTEX_INVALID_ARGUMENT: a bad spec or pattern, `output` is an input, or a value that is
/// not finite under a lossy spec. CORTEX_CORRUPT, CORTEX_LIMIT_EXCEEDED: the model is damaged.
/// CORTEX_IO: reading or writing failed. CORTEX_CANCELLED: the callback said so.
#[ffi_export]
pub fn cortex_compress_file(
    input: *const c_char,
    output: *const c_char,
    options: *const cortex_compress_options,
    report: *mut *mut c_char,
    err: *mut *mut cortex_error,
) -> cortex_status {
    guard(err, || {
        // SAFETY: the caller's promise, see `guard`.
        let (input, output, given, out) = unsafe {
            (
                ptr::path(input, "input")?,
                ptr::path(output, "output")?,
                ptr::options(options, "options")?,
                Out::optional(report, "report")?,
            )
        };
        let options = compress_options(&given)?;
        let callback = Callback(given.progress, given.user_data);
        let mut progress = |p: &Progress<'_>| callback.call(p);
        let report = model::compress_file(input, output, &options, Some(&mut progress))?;
        if let Some(out) = out {
            out.set(owned(&super::codecs::json(&report)?));
        }
        Ok(())
    })
}

fn compress_options(given: &cortex_compress_options) -> Result<CompressOptions> {
    // SAFETY: the caller's promise, see `guard`.
    let (spec, exclude, rules) = unsafe {
        (
            optional_text(given.spec, "options.spec")?,
            optional_text(given.exclude, "options.exclude")?,
            ptr::slice(given.rules, given.rules_len, "options.rules")?,
        )
    };
    let in_field = |name: &str, text: &str| form::parse(text).map_err(|e| e.context(name));
    let mut options = CompressOptions::new("")?;
    if let Some(text) = spec {
        options.spec = in_field("options.spec", text)?;
    }
    options.exclude = exclude.map(|p| regex(p, "options.exclude")).transpose()?;
    for (i, rule) in rules.iter().enumerate() {
        let (pattern_name, spec_name) = (
            format!("options.rules[{i}].pattern"),
            format!("options.rules[{i}].spec"),
        );
        // SAFETY: the caller's promise, see `guard`.
        let (pattern, spec) = unsafe {
            (
                ptr::text(rule.pattern, &pattern_name)?,
                ptr::text(rule.spec, &spec_name)?,
            )
        };
        let rule = (regex(pattern, &pattern_name)?, in_field(&spec_name, spec)?);
        options.tensors.push(rule);
    }
    options.threads = given.threads;
    if !given.calibration.is_null() {
        // SAFETY: the caller's promise, see `guard`.
        let path = unsafe { ptr::path(given.calibration, "options.calibration")? };
        options.calibration = Some(path.to_owned());
    }
    options.explain = given.explain != 0;
    Ok(options)
}

fn regex(pattern: &str, name: &str) -> Result<Regex> {
    Regex::new(pattern).map_err(|e| Error::invalid(format!("{name}: {e}")))
}

/// Decodes every tensor of the archive `input` into the safetensors file `output`, under its
/// name and in its dtype, in bounded memory. The file appears when it is complete.
///
/// `options` may be NULL. `file_bytes` takes the size of the file and may be NULL.
/// CORTEX_CORRUPT: the archive is damaged; the error names the tensor and the offset.
#[ffi_export]
pub fn cortex_decompress_file(
    input: *const c_char,
    output: *const c_char,
    options: *const cortex_decompress_options,
    file_bytes: *mut u64,
    err: *mut *mut cortex_error,
) -> cortex_status {
    guard(err, || {
        // SAFETY: the caller's promise, see `guard`.
        let (input, output, given, out) = unsafe {
            (
                ptr::path(input, "input")?,
                ptr::path(output, "output")?,
                ptr::options(options, "options")?,
                Out::optional(file_bytes, "file_bytes")?,
            )
        };
        let callback = Callback(given.progress, given.user_data);
        let mut progress = |p: &Progress<'_>| callback.call(p);
        let bytes = model::decompress_file(input, output, given.threads, Some(&mut progress))?;
        if let Some(out) = out {
            out.set(bytes);
        }
        Ok(())
    })
}

/// The caller's function and what it is to be called with.
struct Callback(cortex_progress_fn, *mut c_void);

// SAFETY: the header says that the callback is called from any thread, one call at a time;
// the caller's data must bear that, and nothing here looks into it.
unsafe impl Send for Callback {}
// SAFETY: as for `Send`; `model` calls it under a lock.
unsafe impl Sync for Callback {}

impl Callback {
    /// Whether to go on.
    fn call(&self, progress: &Progress<'_>) -> bool {
        let Some(function) = self.0 else {
            return true;
        };
        let tensor = c_text(progress.tensor);
        let progress = cortex_progress {
            struct_size: size_of::<cortex_progress>(),
            done_bytes: progress.done_bytes,
            total_bytes: progress.total_bytes,
            done_tensors: progress.done_tensors as u64,
            total_tensors: progress.total_tensors as u64,
            tensor: borrowed(&tensor),
        };
        // SAFETY: the caller's function, with an argument that lives during the call and
        // the pointer that came with it.
        unsafe { function(&progress, self.1) == 0 }
    }
}
