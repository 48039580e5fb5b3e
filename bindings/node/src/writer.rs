//! Writing an archive, a tensor at a time, in bounded memory.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use cortex::{Error, ErrorKind};
use napi::Env;
use napi::bindgen_prelude::{ClassInstance, Unknown};
use napi_derive::napi;

use crate::error::{guard, js};
use crate::task::{Promise, promise, spawn};
use crate::tensor::Tensor;
use crate::value;

/// A .cai file in the making. It appears under its name when it is finished, whole; until
/// then, and for ever if the writer is closed or collected or the program is killed, what
/// stood there stays.
///
/// One call at a time: a call before the promise of the last one is settled throws.
#[napi]
pub struct Writer {
    state: Arc<Mutex<State>>,
}

enum State {
    Ready(Box<cortex::archive::Writer>),
    /// A call has it, which is at an end when JavaScript knows.
    AtWork,
    /// Finished, or broken by a write that failed half way.
    Done,
    Closed,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(|e| e.into_inner())
}

/// Takes the writer for a call.
fn take(state: &Mutex<State>) -> cortex::Result<Box<cortex::archive::Writer>> {
    let mut state = lock(state);
    match std::mem::replace(&mut *state, State::AtWork) {
        State::Ready(writer) => Ok(writer),
        other => {
            let message = match other {
                State::AtWork => "writer is at work; await its last call first",
                State::Closed => "writer is closed",
                _ => "writer is finished, or broken by an earlier error",
            };
            *state = other;
            Err(Error::invalid(message))
        }
    }
}

/// What became of a call: the writer for the next one, if there may be one, and the result.
type Outcome<T> = (State, cortex::Result<T>);

/// Runs a call on the writer that it took. After an error that is not an argument's, or a
/// panic, some bytes of the tensor may be out: the writer is then no longer of use.
fn run<T>(
    mut writer: Box<cortex::archive::Writer>,
    work: impl FnOnce(&mut cortex::archive::Writer) -> cortex::Result<T>,
) -> Outcome<T> {
    let result = guard(|| work(&mut writer));
    let unharmed = |e: &Error| {
        matches!(
            e.kind(),
            ErrorKind::InvalidArgument | ErrorKind::LimitExceeded
        )
    };
    match result.as_ref().err().is_none_or(unharmed) {
        true => (State::Ready(writer), result),
        false => (State::Done, result),
    }
}

fn finish(writer: Box<cortex::archive::Writer>) -> Outcome<u64> {
    let result = guard(|| writer.finish());
    (State::Done, result.map(|summary| summary.file_bytes))
}

/// Ends a call. A writer that was closed while it ran stays so.
fn end<T>(state: &Mutex<State>, (next, result): Outcome<T>) -> cortex::Result<T> {
    let mut state = lock(state);
    if matches!(*state, State::AtWork) {
        *state = next;
    }
    result
}

impl Writer {
    fn new(writer: cortex::archive::Writer) -> Self {
        Self {
            state: Arc::new(Mutex::new(State::Ready(Box::new(writer)))),
        }
    }

    fn now<T>(
        &self,
        env: &Env,
        work: impl FnOnce(&mut cortex::archive::Writer) -> cortex::Result<T>,
    ) -> napi::Result<T> {
        let done = take(&self.state).and_then(|writer| end(&self.state, run(writer, work)));
        done.map_err(|e| js(env, e))
    }

    /// A call on another thread. It is at an end when its promise is settled, not before.
    fn later<'env, T: Send + 'static>(
        &self,
        env: &'env Env,
        work: impl FnOnce(Box<cortex::archive::Writer>) -> Outcome<T> + Send + 'static,
        settle: impl for<'a> FnOnce(&'a Env, T) -> napi::Result<Unknown<'a>> + Send + 'static,
    ) -> napi::Result<Promise<'env>> {
        let writer = take(&self.state).map_err(|e| js(env, e))?;
        let state = self.state.clone();
        spawn(
            env,
            &[],
            move || Ok(work(writer)),
            move |env, outcome, _| {
                let result = end(&state, outcome).map_err(|e| js(env, e))?;
                settle(env, result)
            },
        )
    }
}

/// What `add` is given.
fn added<'env>(
    env: &'env Env,
    name: Unknown<'env>,
    tensor: Unknown<'env>,
) -> napi::Result<(String, cortex::Tensor)> {
    let name = value::text(env, name, "name")?;
    let tensor: ClassInstance<'env, Tensor> = value::instance(env, tensor, "tensor", "a Tensor")?;
    Ok((name, tensor.get(env)?))
}

#[napi]
impl Writer {
    /// Starts an archive that will be `path`. Its folder must exist and be writable: the file
    /// is written beside its place and renamed.
    #[napi(
        ts_args_type = "path: string | URL",
        ts_return_type = "Promise<Writer>"
    )]
    pub fn create<'env>(env: &'env Env, path: Unknown<'env>) -> napi::Result<Promise<'env>> {
        promise(env, || {
            let path: PathBuf = value::path(env, path, "path")?;
            let work = move || cortex::archive::Writer::create(&path);
            spawn(env, &[], work, |env, writer, _| {
                value::from(env, Self::new(writer))
            })
        })
    }

    /// As `create`, on the calling thread.
    #[napi(ts_args_type = "path: string | URL")]
    pub fn create_sync<'env>(env: &'env Env, path: Unknown<'env>) -> napi::Result<Writer> {
        let path = value::path(env, path, "path")?;
        let writer = guard(|| cortex::archive::Writer::create(&path));
        Ok(Self::new(writer.map_err(|e| js(env, e))?))
    }

    /// Writes a tensor under `name`, which no other tensor or alias of this file may have. The
    /// tensor may be closed afterwards. After any error but `invalid_argument` and
    /// `limit_exceeded` the writer can only be closed.
    #[napi(
        ts_args_type = "name: string, tensor: Tensor",
        ts_return_type = "Promise<void>"
    )]
    pub fn add<'env>(
        &self,
        env: &'env Env,
        name: Unknown<'env>,
        tensor: Unknown<'env>,
    ) -> napi::Result<Promise<'env>> {
        promise(env, || {
            let (name, tensor) = added(env, name, tensor)?;
            let work = move |writer| run(writer, |w| w.add(&name, &tensor));
            self.later(env, work, |env, ()| value::from(env, ()))
        })
    }

    /// As `add`, on the calling thread.
    #[napi(ts_args_type = "name: string, tensor: Tensor")]
    pub fn add_sync<'env>(
        &self,
        env: &'env Env,
        name: Unknown<'env>,
        tensor: Unknown<'env>,
    ) -> napi::Result<()> {
        let (name, tensor) = added(env, name, tensor)?;
        self.now(env, |w| w.add(&name, &tensor))
    }

    /// Makes `alias` another name of the tensor `target`, which was added before.
    #[napi(ts_args_type = "alias: string, target: string")]
    pub fn alias<'env>(
        &self,
        env: &'env Env,
        alias: Unknown<'env>,
        target: Unknown<'env>,
    ) -> napi::Result<()> {
        let alias = value::text(env, alias, "alias")?;
        let target = value::text(env, target, "target")?;
        self.now(env, |w| w.alias(&alias, &target))
    }

    /// Sets free text about the model; a key that is set again has its last value.
    #[napi(ts_args_type = "key: string, value: string")]
    pub fn set_metadata<'env>(
        &self,
        env: &'env Env,
        key: Unknown<'env>,
        value: Unknown<'env>,
    ) -> napi::Result<()> {
        let key = value::text(env, key, "key")?;
        let value = value::text(env, value, "value")?;
        let entry = BTreeMap::from([(key, value)]);
        self.now(env, |w| {
            w.set_metadata(&entry);
            Ok(())
        })
    }

    /// Completes the file, brings it to the disk and gives it its name. Resolves to its size in
    /// bytes. Whatever comes of it, the writer can then only be closed.
    #[napi(ts_return_type = "Promise<number>")]
    pub fn finish<'env>(&self, env: &'env Env) -> napi::Result<Promise<'env>> {
        promise(env, || {
            self.later(env, finish, |env, bytes| value::from(env, bytes as f64))
        })
    }

    /// As `finish`, on the calling thread.
    #[napi]
    pub fn finish_sync(&self, env: &Env) -> napi::Result<f64> {
        let bytes = take(&self.state).and_then(|writer| end(&self.state, finish(writer)));
        Ok(bytes.map_err(|e| js(env, e))? as f64)
    }

    /// Gives the file up, unless it is finished: nothing is left behind. A call that is under
    /// way ends as it would have; after `finish` that is a file. Closing again does nothing.
    #[napi]
    pub fn close(&self) {
        *lock(&self.state) = State::Closed;
    }

    /// `close`, for `using`.
    #[napi(well_known_symbol = "dispose")]
    pub fn dispose(&self) {
        self.close();
    }
}
