//! Errors: each becomes a `CortexException`, and no panic passes.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use cortex::{Error, ErrorKind};
use jni::errors::{Error as JavaError, ErrorPolicy, JniError, Result as JavaResult};
use jni::objects::{JString, JThrowable, JValue};
use jni::sys::jlong;
use jni::{Env, jni_sig, jni_str};

/// Why a native method has no result.
pub(crate) enum Failure {
    /// To be thrown as a `CortexException`.
    Cortex(Error),
    /// A call into the virtual machine failed.
    Java(JavaError),
}

pub(crate) type Result<T> = std::result::Result<T, Failure>;

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Cortex(error)
    }
}

impl From<JavaError> for Failure {
    fn from(error: JavaError) -> Self {
        Self::Java(error)
    }
}

/// An argument that the caller got wrong.
pub(crate) fn invalid(message: impl Into<String>) -> Failure {
    Failure::Cortex(Error::invalid(message))
}

/// A count or size from Java, where they are signed.
pub(crate) fn size(value: jlong, name: &str) -> Result<usize> {
    usize::try_from(value).map_err(|_| invalid(format!("{name} is {value}")))
}

/// A count or size for Java.
pub(crate) fn long(value: usize) -> jlong {
    // No object has more bytes than that.
    value as jlong
}

/// Throws what went wrong. The value that is returned then is never seen.
pub(crate) struct Throw;

impl<T: Default> ErrorPolicy<T, Failure> for Throw {
    type Captures<'local: 'method, 'method> = ();

    fn on_error<'local: 'method, 'method>(
        env: &mut Env<'local>,
        (): &mut (),
        failure: Failure,
    ) -> JavaResult<T> {
        let error = match failure {
            Failure::Cortex(error) => error,
            Failure::Java(JavaError::JavaException) => return Ok(T::default()),
            Failure::Java(JavaError::JniCall(JniError::NoMemory)) => {
                Error::new(ErrorKind::OutOfMemory, "the Java heap is full")
            }
            Failure::Java(other) => Error::internal(format!("a call into Java failed: {other}")),
        };
        throw(env, &error);
        Ok(T::default())
    }

    fn on_panic<'local: 'method, 'method>(
        env: &mut Env<'local>,
        (): &mut (),
        payload: Box<dyn Any + Send>,
    ) -> JavaResult<T> {
        let text = payload
            .downcast_ref::<&str>()
            .map(|s| (*s).to_owned())
            .or_else(|| payload.downcast_ref::<String>().cloned());
        discard(payload);
        let text = text.as_deref().unwrap_or("panic");
        throw(env, &Error::internal(format!("a bug in Cortex: {text}")));
        Ok(T::default())
    }
}

fn throw(env: &mut Env<'_>, error: &Error) {
    let done = throw_exception(env, error);
    // The result that Java is given means nothing, so something must be thrown.
    if !env.exception_check() {
        let reason = match done {
            Ok(()) | Err(JavaError::JavaException) => String::new(),
            Err(e) => format!(" ({e})"),
        };
        let text = jni::strings::JNIString::new(format!("{error}{reason}"));
        let _ = env.throw_new(jni_str!("java/lang/InternalError"), text);
    }
}

fn throw_exception(env: &mut Env<'_>, error: &Error) -> JavaResult<()> {
    // `find_class` sees what the class of the native method sees.
    let class = env.find_class(jni_str!("io/cortex/CortexException"))?;
    let message = JString::from_str(env, error.to_string())?;
    let tensor = match error.tensor() {
        Some(name) => JString::from_str(env, name)?,
        None => JString::null(),
    };
    let offset = error.offset().and_then(|o| jlong::try_from(o).ok());
    let exception = env.new_object(
        &class,
        jni_sig!((jint, JString, JString, jlong)),
        &[
            JValue::Int(error.kind() as i32),
            (&message).into(),
            (&tensor).into(),
            JValue::Long(offset.unwrap_or(-1)),
        ],
    )?;
    let exception = env.cast_local::<JThrowable>(exception)?;
    env.throw(exception)
}

/// Drops a panic's payload, whose own destructor may panic.
fn discard(payload: Box<dyn Any + Send>) {
    if let Err(again) = catch_unwind(AssertUnwindSafe(move || drop(payload))) {
        // One that panics when it is dropped is not worth a third try.
        std::mem::forget(again);
    }
}
