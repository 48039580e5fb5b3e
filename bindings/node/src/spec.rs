//! Specs: what there is, and what a text means.

use cortex::{Error, form};
use napi::Env;
use napi::bindgen_prelude::Unknown;
use napi_derive::napi;

use crate::error::{guard, js};
use crate::value;

/// A value as JSON text.
pub(crate) fn json(value: &impl serde::Serialize) -> cortex::Result<String> {
    serde_json::to_string(value).map_err(|e| Error::internal(format!("cannot write JSON: {e}")))
}

/// Every name that a spec may hold, with its options.
#[napi(ts_return_type = "Codecs")]
pub fn codecs(env: &Env) -> napi::Result<Unknown<'_>> {
    let text = guard(|| Ok(form::codecs_json().to_string())).map_err(|e| js(env, e))?;
    value::parse_json(env, text)
}

/// Checks a spec and gives it in canonical form: options in a fixed order, defaults left out.
/// Two specs that mean the same have the same canonical form.
///
/// Throws `invalid_argument`: the message names the column, what stood there and what was
/// expected.
#[napi(ts_args_type = "spec: string")]
pub fn spec_parse(env: &Env, spec: Unknown<'_>) -> napi::Result<String> {
    let spec = value::text(env, spec, "spec")?;
    guard(|| Ok(form::parse(&spec)?.to_string())).map_err(|e| js(env, e))
}
