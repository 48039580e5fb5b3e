//! The JNI side of the Java binding of Cortex: conversion, lifetime and errors, one file a
//! noun. Every function here is a private native method of the Java class of its noun.
//!
//! Every export is made by `native!`, which catches panics and throws a
//! `CortexException` for an error. Java checks its arguments for null, and hands over
//! texts as UTF-8, memory as `memory::Lent`, and objects as `handle::Handle`.

#![deny(unsafe_op_in_unsafe_fn)]
#![warn(missing_docs, clippy::undocumented_unsafe_blocks)]
// JNI passes no structs: what belongs together crosses as single numbers.
#![allow(clippy::too_many_arguments)]

mod archive;
mod conv;
mod error;
mod files;
mod handle;
mod memory;
mod sdr;
mod tensor;
mod text;
mod view;
mod writer;

/// A private static native method of a Java class: `native!("io.cortex.Tensor": fn
/// native_rows(tensor: TensorHandle) -> jlong)` exports the function `native_rows` of the
/// module as `nativeRows`.
macro_rules! native {
    ($class:literal: fn $name:ident ($($args:tt)*) $(-> $result:tt)?) => {
        const _: () = {
            #[allow(unused_imports)]
            use crate::handle::{ArchiveHandle, IndexHandle, TensorHandle, WriterHandle};
            use crate::error::Throw;
            const _: jni::NativeMethod<'static> = jni::native_method! {
                java_type = $class,
                type_map = {
                    unsafe TensorHandle => long,
                    unsafe ArchiveHandle => long,
                    unsafe WriterHandle => long,
                    unsafe IndexHandle => long,
                },
                error_policy = Throw,
                static extern fn $name($($args)*) $(-> $result)?,
            };
        };
    };
}
use native;
