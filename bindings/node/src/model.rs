//! Whole model files, in and out.

use std::path::PathBuf;
use std::sync::Arc;

use cortex::model::{self, CompressOptions};
use cortex::{Error, form};
use napi::Env;
use napi::bindgen_prelude::Unknown;
use napi_derive::napi;
use regex::Regex;

use crate::call::{Call, CallState};
use crate::error::{guard, invalid, js};
use crate::spec::json;
use crate::task::{Promise, promise, spawn};
use crate::value::{self, Options};

/// Most rules for one model: a bound for lists that are no lists.
const MAX_RULES: usize = 1 << 20;

struct Compress {
    input: PathBuf,
    output: PathBuf,
    options: CompressOptions,
}

impl Compress {
    fn read(
        env: &Env,
        input: Unknown<'_>,
        output: Unknown<'_>,
        options: Unknown<'_>,
    ) -> napi::Result<Self> {
        Ok(Self {
            input: value::path(env, input, "input")?,
            output: value::path(env, output, "output")?,
            options: compress_options(env, &Options::new(env, options, "options")?)?,
        })
    }

    /// The report, as JSON.
    fn run(&self, call: Option<&CallState>) -> cortex::Result<String> {
        let mut progress = |p: &model::Progress<'_>| call.is_none_or(|call| call.tell(p));
        call.map_or(Ok(()), CallState::check)?;
        let (input, output) = (&self.input, &self.output);
        json(&model::compress_file(
            input,
            output,
            &self.options,
            Some(&mut progress),
        )?)
    }
}

fn compress_options(env: &Env, given: &Options<'_>) -> napi::Result<CompressOptions> {
    let failed = |e| js(env, e);
    let in_field = |name: &str, text: &str| form::parse(text).map_err(|e| e.context(name));
    let mut options = CompressOptions::new("").map_err(failed)?;
    if let Some(text) = given.read(c"spec", value::text)? {
        options.spec = in_field("options.spec", &text).map_err(failed)?;
    }
    if let Some(pattern) = given.read(c"exclude", value::text)? {
        options.exclude = Some(regex(&pattern, "options.exclude").map_err(failed)?);
    }
    let rules = given.get(c"rules")?.map(|rules| {
        value::list(env, rules, "options.rules", MAX_RULES, |env, rule, name| {
            let rule = Options::new(env, rule, "rule")?;
            let text = |key| match rule.get(key)? {
                Some(text) => value::text(env, text, format!("{name}.{}", key.to_string_lossy())),
                None => Err(invalid(
                    env,
                    format!("{name}.{} is missing", key.to_string_lossy()),
                )),
            };
            let (pattern, spec) = (text(c"pattern")?, text(c"spec")?);
            let pattern = regex(&pattern, &format!("{name}.pattern"));
            let spec = in_field(&format!("{name}.spec"), &spec);
            Ok((
                pattern.map_err(|e| js(env, e))?,
                spec.map_err(|e| js(env, e))?,
            ))
        })
    });
    options.tensors = rules.transpose()?.unwrap_or_default();
    options.threads = given.read(c"threads", value::size)?.unwrap_or(0);
    options.calibration = given.read(c"calibration", value::path)?;
    options.explain = given.read(c"explain", value::boolean)?.unwrap_or(false);
    Ok(options)
}

fn regex(pattern: &str, name: &str) -> cortex::Result<Regex> {
    Regex::new(pattern).map_err(|e| Error::invalid(format!("{name}: {e}")))
}

struct Decompress {
    input: PathBuf,
    output: PathBuf,
    threads: usize,
}

impl Decompress {
    fn read(
        env: &Env,
        input: Unknown<'_>,
        output: Unknown<'_>,
        options: Unknown<'_>,
    ) -> napi::Result<Self> {
        let threads = Options::new(env, options, "options")?.read(c"threads", value::size)?;
        Ok(Self {
            input: value::path(env, input, "input")?,
            output: value::path(env, output, "output")?,
            threads: threads.unwrap_or(0),
        })
    }

    /// Bytes of the file.
    fn run(&self, call: Option<&CallState>) -> cortex::Result<u64> {
        let mut progress = |p: &model::Progress<'_>| call.is_none_or(|call| call.tell(p));
        call.map_or(Ok(()), CallState::check)?;
        let (input, output) = (&self.input, &self.output);
        model::decompress_file(input, output, self.threads, Some(&mut progress))
    }
}

fn state(call: Option<&Call>) -> Option<Arc<CallState>> {
    call.map(|call| Arc::clone(call))
}

/// Compresses the model at `input` (safetensors, a sharded one's index.json, npy, npz; found
/// by content) into the archive `output`, holding one tensor in memory at a time. The file
/// appears when it is complete; what stood there is replaced then.
///
/// Resolves to the report that `cortex compress --json` prints. Rejects with
/// `invalid_argument`: a bad spec or pattern, `output` is an input, or a value that is not
/// finite under a lossy spec; `corrupt`, `limit_exceeded`: the model is damaged; `io`: reading
/// or writing failed; `cancelled`: the signal said so, and no file is left behind.
#[napi(
    ts_args_type = "input: string | URL, output: string | URL, options?: CompressFileOptions & LongCallOptions | null",
    ts_return_type = "Promise<Report>"
)]
pub fn compress_file<'env>(
    env: &'env Env,
    input: Unknown<'env>,
    output: Unknown<'env>,
    options: Unknown<'env>,
    call: Option<&'env Call>,
) -> napi::Result<Promise<'env>> {
    promise(env, || {
        let job = Compress::read(env, input, output, options)?;
        let call = state(call);
        spawn(
            env,
            &[],
            move || job.run(call.as_deref()),
            |env, report, _| value::parse_json(env, report),
        )
    })
}

/// As `compressFile`, on the calling thread, which nothing can stop.
#[napi(
    ts_args_type = "input: string | URL, output: string | URL, options?: CompressFileOptions | null",
    ts_return_type = "Report"
)]
pub fn compress_file_sync<'env>(
    env: &'env Env,
    input: Unknown<'env>,
    output: Unknown<'env>,
    options: Unknown<'env>,
) -> napi::Result<Unknown<'env>> {
    let job = Compress::read(env, input, output, options)?;
    let report = guard(|| job.run(None)).map_err(|e| js(env, e))?;
    value::parse_json(env, report)
}

/// Decodes every tensor of the archive `input` into the safetensors file `output`, under its
/// name and in its dtype, in bounded memory. The file appears when it is complete.
///
/// Resolves to the size of the file in bytes. Rejects with `corrupt`: the archive is damaged,
/// and the error names the tensor and the offset; `cancelled`: the signal said so, and no file
/// is left behind.
#[napi(
    ts_args_type = "input: string | URL, output: string | URL, options?: DecompressFileOptions & LongCallOptions | null",
    ts_return_type = "Promise<number>"
)]
pub fn decompress_file<'env>(
    env: &'env Env,
    input: Unknown<'env>,
    output: Unknown<'env>,
    options: Unknown<'env>,
    call: Option<&'env Call>,
) -> napi::Result<Promise<'env>> {
    promise(env, || {
        let job = Decompress::read(env, input, output, options)?;
        let call = state(call);
        spawn(
            env,
            &[],
            move || job.run(call.as_deref()),
            |env, bytes, _| value::from(env, bytes as f64),
        )
    })
}

/// As `decompressFile`, on the calling thread, which nothing can stop.
#[napi(
    ts_args_type = "input: string | URL, output: string | URL, options?: DecompressFileOptions | null"
)]
pub fn decompress_file_sync<'env>(
    env: &'env Env,
    input: Unknown<'env>,
    output: Unknown<'env>,
    options: Unknown<'env>,
) -> napi::Result<f64> {
    let job = Decompress::read(env, input, output, options)?;
    let bytes = guard(|| job.run(None)).map_err(|e| js(env, e))?;
    Ok(bytes as f64)
}
