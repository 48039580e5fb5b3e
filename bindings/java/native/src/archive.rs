//! Archives: many compressed tensors in one .cai file, read as they are used.

use cortex::Error;
use cortex::archive::Archive;
use jni::Env;
use jni::objects::{JByteArray, JClass, JObjectArray, JString};
use jni::sys::{jboolean, jint, jlong};

use crate::error::{Result, invalid};
use crate::handle::{ArchiveHandle, Handle, TensorHandle};
use crate::native;
use crate::text::{path, strings, text};

native!("io.cortex.Archive": fn native_open(path: [jbyte], mapped: jboolean) -> ArchiveHandle);

fn native_open<'local>(
    env: &mut Env<'local>,
    _class: JClass<'local>,
    file: JByteArray<'local>,
    mapped: jboolean,
) -> Result<ArchiveHandle> {
    let file = path(env, &file, "path")?;
    let open = if mapped {
        Archive::open
    } else {
        Archive::open_unmapped
    };
    Ok(Handle::give(open(&file)?))
}

native!("io.cortex.Archive": fn native_free(archive: ArchiveHandle));

fn native_free<'local>(
    _env: &mut Env<'local>,
    _class: JClass<'local>,
    archive: ArchiveHandle,
) -> Result<()> {
    archive.free();
    Ok(())
}

native!("io.cortex.Archive": fn native_size(archive: ArchiveHandle) -> jint);

fn native_size<'local>(
    _env: &mut Env<'local>,
    _class: JClass<'local>,
    archive: ArchiveHandle,
) -> Result<jint> {
    // `limits::MAX_TENSORS` is less.
    Ok(archive.get().entries().len() as jint)
}

native!("io.cortex.Archive": fn native_file_bytes(archive: ArchiveHandle) -> jlong);

fn native_file_bytes<'local>(
    _env: &mut Env<'local>,
    _class: JClass<'local>,
    archive: ArchiveHandle,
) -> Result<jlong> {
    Ok(archive.get().file_bytes() as jlong)
}

native!("io.cortex.Archive": fn native_names(archive: ArchiveHandle) -> [JString]);

fn native_names<'local>(
    env: &mut Env<'local>,
    _class: JClass<'local>,
    archive: ArchiveHandle,
) -> Result<JObjectArray<'local, JString<'local>>> {
    strings(env, archive.get().entries().iter().map(|e| e.name()))
}

native!("io.cortex.Archive": fn native_find(archive: ArchiveHandle, name: [jbyte]) -> jint);

fn native_find<'local>(
    env: &mut Env<'local>,
    _class: JClass<'local>,
    archive: ArchiveHandle,
    name: JByteArray<'local>,
) -> Result<jint> {
    let name = text(env, &name, "name")?;
    Ok(archive.get().position(&name).map_or(-1, |i| i as jint))
}

native!("io.cortex.Archive": fn native_tensor(
    archive: ArchiveHandle, name: [jbyte]
) -> TensorHandle);

fn native_tensor<'local>(
    env: &mut Env<'local>,
    _class: JClass<'local>,
    archive: ArchiveHandle,
    name: JByteArray<'local>,
) -> Result<TensorHandle> {
    let name = text(env, &name, "name")?;
    Ok(Handle::give(archive.get().tensor(&name)?))
}

native!("io.cortex.Archive": fn native_tensor_at(
    archive: ArchiveHandle, index: jint
) -> TensorHandle);

fn native_tensor_at<'local>(
    _env: &mut Env<'local>,
    _class: JClass<'local>,
    archive: ArchiveHandle,
    index: jint,
) -> Result<TensorHandle> {
    let (archive, entries) = (archive.get(), archive.get().entries());
    let entry = usize::try_from(index).ok().and_then(|i| entries.get(i));
    let entry = entry.ok_or_else(|| {
        let count = entries.len();
        invalid(format!("index is {index}; the archive has {count} tensors"))
    })?;
    Ok(Handle::give(archive.open_entry(entry)?))
}

native!("io.cortex.Archive": fn native_aliases(archive: ArchiveHandle) -> [JString]);

/// Aliases and targets by turns.
fn native_aliases<'local>(
    env: &mut Env<'local>,
    _class: JClass<'local>,
    archive: ArchiveHandle,
) -> Result<JObjectArray<'local, JString<'local>>> {
    let pairs = archive.get().aliases().iter();
    let texts: Vec<_> = pairs.flat_map(|(a, t)| [a.as_str(), t.as_str()]).collect();
    strings(env, texts.into_iter())
}

native!("io.cortex.Archive": fn native_metadata(archive: ArchiveHandle) -> [JString]);

/// Keys and values by turns.
fn native_metadata<'local>(
    env: &mut Env<'local>,
    _class: JClass<'local>,
    archive: ArchiveHandle,
) -> Result<JObjectArray<'local, JString<'local>>> {
    let pairs = archive.get().metadata();
    let texts: Vec<_> = pairs.flat_map(|(k, v)| [k, v]).collect();
    strings(env, texts.into_iter())
}

native!("io.cortex.Archive": fn native_inspect(archive: ArchiveHandle) -> JString);

fn native_inspect<'local>(
    env: &mut Env<'local>,
    _class: JClass<'local>,
    archive: ArchiveHandle,
) -> Result<JString<'local>> {
    let report = json(&cortex::model::inspect(archive.get()))?;
    Ok(JString::from_str(env, report)?)
}

/// A report as JSON text.
pub(crate) fn json(report: &cortex::model::Report) -> Result<String> {
    let text = serde_json::to_string(report);
    Ok(text.map_err(|e| Error::internal(format!("cannot write JSON: {e}")))?)
}

native!("io.cortex.Archive": fn native_verify(archive: ArchiveHandle));

fn native_verify<'local>(
    _env: &mut Env<'local>,
    _class: JClass<'local>,
    archive: ArchiveHandle,
) -> Result<()> {
    Ok(archive.get().check()?)
}
