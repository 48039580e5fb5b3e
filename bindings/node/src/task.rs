//! Work off the event loop, on the threads that Node keeps for that.

use napi::bindgen_prelude::{PromiseRaw, Unknown};
use napi::{Env, ScopedTask, UnknownRef};

use crate::error::{guard, js};
use crate::value;

/// A promise of anything.
pub(crate) type Promise<'env> = PromiseRaw<'env, Unknown<'env>>;

type Work<T> = Box<dyn FnOnce() -> cortex::Result<T> + Send>;
type Settle<T> =
    Box<dyn for<'env> FnOnce(&'env Env, T, &[Unknown<'env>]) -> napi::Result<Unknown<'env>> + Send>;

/// `work` on another thread, then `settle` with its result on the thread of JavaScript.
struct Job<T> {
    work: Option<Work<T>>,
    settle: Option<Settle<T>>,
    /// What `settle` will need, kept from being collected.
    kept: Vec<UnknownRef<false>>,
}

impl<'env, T: Send + 'static> ScopedTask<'env> for Job<T> {
    type Output = cortex::Result<T>;
    type JsValue = Unknown<'env>;

    fn compute(&mut self) -> napi::Result<Self::Output> {
        // Taken, so that all it holds goes here and not on the event loop.
        let work = self.work.take();
        Ok(guard(|| match work {
            Some(work) => work(),
            None => Err(cortex::Error::internal("a task ran twice")),
        }))
    }

    fn resolve(&mut self, env: &'env Env, output: Self::Output) -> napi::Result<Unknown<'env>> {
        let value = output.map_err(|e| js(env, e))?;
        let kept = self.kept.iter().map(|kept| kept.get_value(env));
        let kept = kept.collect::<napi::Result<Vec<_>>>()?;
        match self.settle.take() {
            Some(settle) => settle(env, value, &kept).map_err(|e| value::caught(env, e)),
            None => Err(js(env, cortex::Error::internal("a task was settled twice"))),
        }
    }

    fn finally(self, env: Env) -> napi::Result<()> {
        self.kept.into_iter().try_for_each(|kept| kept.unref(&env))
    }
}

/// Starts work. It may not touch JavaScript; `settle` may, and is given the values of `keep`.
pub(crate) fn spawn<'env, T: Send + 'static>(
    env: &'env Env,
    keep: &[Unknown<'env>],
    work: impl FnOnce() -> cortex::Result<T> + Send + 'static,
    settle: impl for<'a> FnOnce(&'a Env, T, &[Unknown<'a>]) -> napi::Result<Unknown<'a>>
    + Send
    + 'static,
) -> napi::Result<Promise<'env>> {
    let kept = keep.iter().map(|value| value::keep(*value));
    let job = Job {
        work: Some(Box::new(work)),
        settle: Some(Box::new(settle)),
        kept: kept.collect::<napi::Result<_>>()?,
    };
    Ok(env.spawn(job)?.promise_object())
}

/// What a function that returns a promise does before the work starts: its errors reject the
/// promise too.
pub(crate) fn promise<'env>(
    env: &'env Env,
    start: impl FnOnce() -> napi::Result<Promise<'env>>,
) -> napi::Result<Promise<'env>> {
    match start() {
        Ok(promise) => Ok(promise),
        Err(error) => PromiseRaw::<Unknown<'env>>::reject(env, error),
    }
}
