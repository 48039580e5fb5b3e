//! Errors of the library as `CortexError`, whose class is written in JavaScript.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use cortex::Error;
use napi::bindgen_prelude::{FnArgs, Function, FunctionRef, Unknown};
use napi::{Env, Status};
use napi_derive::napi;

/// Message, kind, tensor, offset.
type ErrorArgs = FnArgs<(String, String, Option<String>, Option<f64>)>;

/// What an environment (the main thread, or a worker) was given by its JavaScript half.
struct Setup {
    error: FunctionRef<ErrorArgs, Unknown<'static>>,
    file_path: FunctionRef<FnArgs<(Unknown<'static>,)>, String>,
}

/// Takes the class `CortexError` and the function that turns a `file:` URL into a path.
#[napi(skip_typescript)]
pub fn setup(
    env: &Env,
    error: Function<'_, ErrorArgs, Unknown<'static>>,
    file_path: Function<'_, FnArgs<(Unknown<'static>,)>, String>,
) -> napi::Result<()> {
    let setup = Setup {
        error: error.create_ref()?,
        file_path: file_path.create_ref()?,
    };
    env.set_instance_data(setup, (), |_| {})
}

fn setup_of(env: &Env) -> napi::Result<&Setup> {
    match env.get_instance_data::<Setup>()? {
        Some(setup) => Ok(setup),
        None => Err(napi::Error::new(
            Status::GenericFailure,
            "the native half of cortex-tensor was loaded by itself",
        )),
    }
}

/// The `CortexError` that tells of an error of the library.
pub(crate) fn js(env: &Env, error: Error) -> napi::Error {
    let args = (
        error.to_string(),
        error.kind().name().to_owned(),
        error.tensor().map(str::to_owned),
        error.offset().map(|offset| offset as f64),
    );
    let class = setup_of(env).and_then(|setup| setup.error.borrow_back(env));
    match class.and_then(|class| class.new_instance(args.into())) {
        Ok(object) => napi::Error::from_unknown_without_coercion(object),
        Err(_) => napi::Error::new(Status::GenericFailure, error.to_string()),
    }
}

/// A `CortexError` of kind "invalid_argument".
pub(crate) fn invalid(env: &Env, message: impl Into<String>) -> napi::Error {
    js(env, Error::invalid(message))
}

/// The path that a `URL` object stands for.
pub(crate) fn url_path(env: &Env, url: Unknown<'static>) -> napi::Result<String> {
    let file_path = setup_of(env)?.file_path.borrow_back(env)?;
    file_path.call((url,).into())
}

/// Runs work of the library. A panic, which is a bug, becomes an error: one that unwinds
/// into Node would end the process.
pub(crate) fn guard<T>(work: impl FnOnce() -> cortex::Result<T>) -> cortex::Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|payload| Err(from_panic(payload)))
}

fn from_panic(payload: Box<dyn Any + Send>) -> Error {
    let text = payload
        .downcast_ref::<&str>()
        .map(|s| (*s).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned());
    // Its destructor may panic as well.
    std::mem::forget(payload);
    Error::internal(format!(
        "a bug in Cortex: {}",
        text.as_deref().unwrap_or("panic")
    ))
}
