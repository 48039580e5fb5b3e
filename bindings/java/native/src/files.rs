//! Whole model files, specs and versions: the functions of `io.cortex.Cortex`.

use cortex::form;
use cortex::model::{self, CompressOptions, Progress};
use jni::objects::{JByteArray, JClass, JObject, JObjectArray, JString, JValue};
use jni::refs::{Global, IntoAuto};
use jni::sys::{jboolean, jint, jlong};
use jni::{Env, JavaVM, jni_sig, jni_str};
use regex::Regex;

use crate::archive::json;
use crate::error::{Result, invalid, size};
use crate::native;
use crate::text::{optional_text, path, text};

native!("io.cortex.Cortex": fn native_compress_file(
    input: [jbyte], output: [jbyte], spec: [jbyte], exclude: [jbyte], rules: jbyte[][],
    threads: jlong, calibration: [jbyte], explain: jboolean, progress: JObject
) -> JString);

fn native_compress_file<'local>(
    env: &mut Env<'local>,
    _class: JClass<'local>,
    input: JByteArray<'local>,
    output: JByteArray<'local>,
    spec: JByteArray<'local>,
    exclude: JByteArray<'local>,
    rules: JObjectArray<'local, JByteArray<'local>>,
    threads: jlong,
    calibration: JByteArray<'local>,
    explain: jboolean,
    progress: JObject<'local>,
) -> Result<JString<'local>> {
    let (input, output) = (path(env, &input, "input")?, path(env, &output, "output")?);
    let in_field = |name: &str, text: &str| form::parse(text).map_err(|e| e.context(name));
    let mut options = CompressOptions::new("")?;
    if let Some(text) = optional_text(env, &spec, "options.spec")? {
        options.spec = in_field("options.spec", &text)?;
    }
    let exclude = optional_text(env, &exclude, "options.exclude")?;
    options.exclude = exclude.map(|p| regex(&p, "options.exclude")).transpose()?;
    // Patterns and specs by turns.
    for i in 0..rules.len(env)? / 2 {
        let pattern_name = format!("options.rules[{i}].pattern");
        let spec_name = format!("options.rules[{i}].spec");
        let pattern = rules.get_element(env, 2 * i)?.auto();
        let spec = rules.get_element(env, 2 * i + 1)?.auto();
        let pattern = text(env, &pattern, &pattern_name)?;
        let spec = text(env, &spec, &spec_name)?;
        let rule = (
            regex(&pattern, &pattern_name)?,
            in_field(&spec_name, &spec)?,
        );
        options.tensors.push(rule);
    }
    options.threads = size(threads, "options.threads")?;
    if !calibration.is_null() {
        options.calibration = Some(path(env, &calibration, "options.calibration")?);
    }
    options.explain = explain;
    let report = Listener::run(env, &progress, |call| {
        model::compress_file(&input, &output, &options, call)
    })?;
    Ok(JString::from_str(env, json(&report)?)?)
}

fn regex(pattern: &str, name: &str) -> Result<Regex> {
    Regex::new(pattern).map_err(|e| invalid(format!("{name}: {e}")))
}

native!("io.cortex.Cortex": fn native_decompress_file(
    input: [jbyte], output: [jbyte], threads: jlong, progress: JObject
) -> jlong);

fn native_decompress_file<'local>(
    env: &mut Env<'local>,
    _class: JClass<'local>,
    input: JByteArray<'local>,
    output: JByteArray<'local>,
    threads: jlong,
    progress: JObject<'local>,
) -> Result<jlong> {
    let (input, output) = (path(env, &input, "input")?, path(env, &output, "output")?);
    let threads = size(threads, "options.threads")?;
    let bytes = Listener::run(env, &progress, |call| {
        model::decompress_file(&input, &output, threads, call)
    })?;
    Ok(bytes as jlong)
}

/// The `io.cortex.ProgressCall` of a long call, which any thread may call. It throws
/// nothing: what the caller's listener throws it keeps for the end of the call.
struct Listener(Global<JObject<'static>>);

impl Listener {
    /// Runs `work` with what tells the listener, or with nothing for null.
    fn run<T>(
        env: &Env<'_>,
        object: &JObject<'_>,
        work: impl FnOnce(Option<&mut model::ProgressFn<'_>>) -> cortex::Result<T>,
    ) -> Result<T> {
        if object.is_null() {
            return Ok(work(None)?);
        }
        let listener = Self(env.new_global_ref(object)?);
        let mut failure = None;
        let mut call = |progress: &Progress<'_>| {
            listener.call(progress).unwrap_or_else(|e| {
                failure = Some(e);
                false
            })
        };
        let result = work(Some(&mut call));
        match failure {
            Some(failure) => Err(failure.into()),
            None => Ok(result?),
        }
    }

    /// Whether to go on.
    fn call(&self, progress: &Progress<'_>) -> jni::errors::Result<bool> {
        // For this call only: a thread of the pool that stayed attached would keep the
        // virtual machine from ending.
        JavaVM::singleton()?.attach_current_thread_for_scope(|env| {
            let tensor = JString::from_str(env, progress.tensor)?;
            let go_on = env.call_method(
                &self.0,
                jni_str!("call"),
                jni_sig!((jlong, jlong, jlong, jlong, JString) -> jboolean),
                &[
                    JValue::Long(progress.done_bytes as jlong),
                    JValue::Long(progress.total_bytes as jlong),
                    JValue::Long(progress.done_tensors as jlong),
                    JValue::Long(progress.total_tensors as jlong),
                    (&tensor).into(),
                ],
            )?;
            go_on.z()
        })
    }
}

native!("io.cortex.Cortex": fn native_codecs() -> JString);

fn native_codecs<'local>(env: &mut Env<'local>, _class: JClass<'local>) -> Result<JString<'local>> {
    Ok(JString::from_str(env, form::codecs_json().to_string())?)
}

native!("io.cortex.Cortex": fn native_spec_parse(spec: [jbyte]) -> JString);

fn native_spec_parse<'local>(
    env: &mut Env<'local>,
    _class: JClass<'local>,
    spec: JByteArray<'local>,
) -> Result<JString<'local>> {
    let spec = form::parse(&text(env, &spec, "spec")?)?;
    Ok(JString::from_str(env, spec.to_string())?)
}

native!("io.cortex.Cortex": fn native_version() -> JString);

fn native_version<'local>(
    env: &mut Env<'local>,
    _class: JClass<'local>,
) -> Result<JString<'local>> {
    Ok(JString::from_str(env, env!("CARGO_PKG_VERSION"))?)
}

native!("io.cortex.Cortex": fn native_abi_version() -> jint);

fn native_abi_version<'local>(_env: &mut Env<'local>, _class: JClass<'local>) -> Result<jint> {
    Ok(cortex::ABI_VERSION as jint)
}
