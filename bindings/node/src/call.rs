//! A long call seen from JavaScript: told to stop, and asked how far it has come.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use napi::bindgen_prelude::{External, Function};
use napi::threadsafe_function::{ThreadsafeFunction, ThreadsafeFunctionCallMode};
use napi_derive::napi;

/// How far a long call has come.
#[napi(object, object_from_js = false)]
pub struct Progress {
    /// Dense bytes of the tensors that are done.
    pub done_bytes: f64,
    /// Dense bytes of all tensors.
    pub total_bytes: f64,
    /// Tensors that are done.
    pub done_tensors: f64,
    /// All tensors.
    pub total_tensors: f64,
    /// Name of the tensor at work.
    pub tensor: String,
}

/// Wakes the event loop; it does not keep the process alive, which the work itself does.
type Wake = ThreadsafeFunction<(), (), (), napi::Status, false, true>;

/// What the thread at work and JavaScript share.
pub struct CallState {
    cancelled: AtomicBool,
    /// Told, and not yet fetched.
    events: Mutex<Vec<Progress>>,
    wake: Option<Wake>,
}

impl CallState {
    /// Whether the caller asked to stop.
    pub(crate) fn cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// A `Cancelled` error if the caller asked to stop.
    pub(crate) fn check(&self) -> cortex::Result<()> {
        match self.cancelled() {
            true => Err(cortex::Error::cancelled()),
            false => Ok(()),
        }
    }

    /// Tells how far the work is. Whether to go on.
    pub(crate) fn tell(&self, progress: &cortex::model::Progress<'_>) -> bool {
        if let Some(wake) = &self.wake {
            let first = {
                let mut events = self.events();
                events.push(Progress {
                    done_bytes: progress.done_bytes as f64,
                    total_bytes: progress.total_bytes as f64,
                    done_tensors: progress.done_tensors as f64,
                    total_tensors: progress.total_tensors as f64,
                    tensor: progress.tensor.to_owned(),
                });
                events.len() == 1
            };
            // Later ones are fetched with the first.
            if first {
                wake.call((), ThreadsafeFunctionCallMode::NonBlocking);
            }
        }
        !self.cancelled()
    }

    fn events(&self) -> MutexGuard<'_, Vec<Progress>> {
        self.events.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// What the JavaScript half holds of a call that can be stopped.
pub type Call = External<Arc<CallState>>;

/// Makes one. `wake` is called on the event loop whenever there is something to take.
#[napi(skip_typescript)]
pub fn new_call(wake: Option<Function<'_, (), ()>>) -> napi::Result<Call> {
    let wake = match wake {
        Some(wake) => Some(
            wake.build_threadsafe_function::<()>()
                .weak::<true>()
                .build()?,
        ),
        None => None,
    };
    Ok(External::new(Arc::new(CallState {
        cancelled: AtomicBool::new(false),
        events: Mutex::new(Vec::new()),
        wake,
    })))
}

/// Asks the work to stop.
#[napi(skip_typescript)]
pub fn cancel_call(call: &Call) {
    call.cancelled.store(true, Ordering::Relaxed);
}

/// What was told since the last time.
#[napi(skip_typescript)]
pub fn take_progress(call: &Call) -> Vec<Progress> {
    std::mem::take(&mut *call.events())
}
