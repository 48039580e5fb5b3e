//! Writing an archive, a tensor at a time, in bounded memory.

use std::collections::BTreeMap;
use std::sync::Mutex;

use cortex::archive::Writer;
use cortex::{Error, ErrorKind};
use jni::Env;
use jni::objects::{JByteArray, JClass};
use jni::sys::jlong;

use crate::error::{Result, invalid};
use crate::handle::{Handle, TensorHandle, WriterHandle};
use crate::native;
use crate::text::{path, text};

native!("io.cortex.Writer": fn native_create(path: [jbyte]) -> WriterHandle);

fn native_create<'local>(
    env: &mut Env<'local>,
    _class: JClass<'local>,
    file: JByteArray<'local>,
) -> Result<WriterHandle> {
    let file = path(env, &file, "path")?;
    Ok(Handle::give(Mutex::new(Some(Writer::create(&file)?))))
}

native!("io.cortex.Writer": fn native_free(writer: WriterHandle));

fn native_free<'local>(
    _env: &mut Env<'local>,
    _class: JClass<'local>,
    writer: WriterHandle,
) -> Result<()> {
    writer.free();
    Ok(())
}

/// Runs `work` on the writer, which stays closed should it fail for anything but an
/// argument, or panic: some bytes of the tensor may be out.
fn with(writer: &WriterHandle, work: impl FnOnce(&mut Writer) -> cortex::Result<()>) -> Result<()> {
    // A panic leaves `None`, which is in order.
    let mut place = writer.get().lock().unwrap_or_else(|e| e.into_inner());
    let mut writer = take(&mut place)?;
    let result = work(&mut writer);
    let unharmed = |e: &Error| {
        matches!(
            e.kind(),
            ErrorKind::InvalidArgument | ErrorKind::LimitExceeded
        )
    };
    if result.as_ref().err().is_none_or(unharmed) {
        *place = Some(writer);
    }
    Ok(result?)
}

fn take(place: &mut Option<Writer>) -> Result<Writer> {
    place
        .take()
        .ok_or_else(|| invalid("writer is finished, or broken by an earlier error"))
}

native!("io.cortex.Writer": fn native_add(
    writer: WriterHandle, name: [jbyte], tensor: TensorHandle
));

fn native_add<'local>(
    env: &mut Env<'local>,
    _class: JClass<'local>,
    writer: WriterHandle,
    name: JByteArray<'local>,
    tensor: TensorHandle,
) -> Result<()> {
    let name = text(env, &name, "name")?;
    with(&writer, |w| w.add(&name, tensor.get()))
}

native!("io.cortex.Writer": fn native_alias(
    writer: WriterHandle, alias: [jbyte], target: [jbyte]
));

fn native_alias<'local>(
    env: &mut Env<'local>,
    _class: JClass<'local>,
    writer: WriterHandle,
    alias: JByteArray<'local>,
    target: JByteArray<'local>,
) -> Result<()> {
    let (alias, target) = (text(env, &alias, "alias")?, text(env, &target, "target")?);
    with(&writer, |w| w.alias(&alias, &target))
}

native!("io.cortex.Writer": fn native_set_metadata(
    writer: WriterHandle, key: [jbyte], value: [jbyte]
));

fn native_set_metadata<'local>(
    env: &mut Env<'local>,
    _class: JClass<'local>,
    writer: WriterHandle,
    key: JByteArray<'local>,
    value: JByteArray<'local>,
) -> Result<()> {
    let entry = (text(env, &key, "key")?, text(env, &value, "value")?);
    with(&writer, |w| {
        w.set_metadata(&BTreeMap::from([entry]));
        Ok(())
    })
}

native!("io.cortex.Writer": fn native_finish(writer: WriterHandle) -> jlong);

fn native_finish<'local>(
    _env: &mut Env<'local>,
    _class: JClass<'local>,
    writer: WriterHandle,
) -> Result<jlong> {
    let mut place = writer.get().lock().unwrap_or_else(|e| e.into_inner());
    Ok(take(&mut place)?.finish()?.file_bytes as jlong)
}
