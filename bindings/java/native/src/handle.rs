//! Objects that Java holds by their address.

use std::marker::PhantomData;
use std::sync::{Mutex, RwLock};

use cortex::Tensor;
use cortex::archive::{Archive, Writer};
use cortex::sdr::Index;
use jni::sys::jlong;

/// The address of a `T` on the heap; a `long` in Java.
///
/// Java keeps each in a `Handle`, made from what [`Handle::give`] returned to the class of
/// the same noun, passes it to native methods of that class only, and counts the calls that
/// use it: it is freed once, when it was closed and no call uses it any more.
#[repr(transparent)]
pub(crate) struct Handle<T>(jlong, PhantomData<*mut T>);

pub(crate) type TensorHandle = Handle<Tensor>;
pub(crate) type ArchiveHandle = Handle<Archive>;
/// `None` once it is finished, or broken by a write that failed half way. Calls of several
/// threads wait for each other.
pub(crate) type WriterHandle = Handle<Mutex<Option<Writer>>>;
/// Searches run beside each other, changes alone.
pub(crate) type IndexHandle = Handle<RwLock<Index>>;

impl<T: Send + Sync> Handle<T> {
    /// Hands an object to Java.
    pub(crate) fn give(object: T) -> Self {
        Self(Box::into_raw(Box::new(object)) as jlong, PhantomData)
    }

    /// The object, for the length of the call that was given the handle.
    pub(crate) fn get(&self) -> &T {
        // SAFETY: Java passes what `give` made, and does not free it before the call ends.
        unsafe { &*(self.0 as *const T) }
    }

    /// Takes the object back from Java.
    pub(crate) fn free(self) {
        // SAFETY: as in `get`, and Java frees once, when no call uses the object.
        drop(unsafe { Box::from_raw(self.0 as *mut T) });
    }
}

/// What Java sees beside an exception.
impl<T> Default for Handle<T> {
    fn default() -> Self {
        Self(0, PhantomData)
    }
}

impl<T> From<Handle<T>> for jlong {
    fn from(handle: Handle<T>) -> Self {
        handle.0
    }
}
