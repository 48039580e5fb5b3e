//! Sets of active bits under numbers, searched by the bits that they share.

use std::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use cortex::Error;
use cortex::sdr::{Index, Sdr};
use jni::Env;
use jni::objects::{JByteArray, JClass, JIntArray, JLongArray};
use jni::sys::{jboolean, jlong};

use crate::error::{Failure, Result, invalid, long, size};
use crate::handle::{Handle, IndexHandle};
use crate::memory::{long_array, words};
use crate::native;
use crate::text::path;

native!("io.cortex.SdrIndex": fn native_create(bits: jlong) -> IndexHandle);

fn native_create<'local>(
    _env: &mut Env<'local>,
    _class: JClass<'local>,
    bits: jlong,
) -> Result<IndexHandle> {
    Ok(Handle::give(RwLock::new(Index::new(size(bits, "bits")?)?)))
}

native!("io.cortex.SdrIndex": fn native_load(path: [jbyte]) -> IndexHandle);

fn native_load<'local>(
    env: &mut Env<'local>,
    _class: JClass<'local>,
    file: JByteArray<'local>,
) -> Result<IndexHandle> {
    let file = path(env, &file, "path")?;
    Ok(Handle::give(RwLock::new(Index::load_file(&file)?)))
}

/// What a panic in the midst of a change left is not used again.
fn broken<E>(_: E) -> Failure {
    Error::internal("the index was broken by an earlier bug").into()
}

fn shared(index: &IndexHandle) -> Result<RwLockReadGuard<'_, Index>> {
    index.get().read().map_err(broken)
}

fn exclusive(index: &IndexHandle) -> Result<RwLockWriteGuard<'_, Index>> {
    index.get().write().map_err(broken)
}

native!("io.cortex.SdrIndex": fn native_save(index: IndexHandle, path: [jbyte]));

fn native_save<'local>(
    env: &mut Env<'local>,
    _class: JClass<'local>,
    index: IndexHandle,
    file: JByteArray<'local>,
) -> Result<()> {
    let file = path(env, &file, "path")?;
    Ok(shared(&index)?.save_file(&file)?)
}

native!("io.cortex.SdrIndex": fn native_free(index: IndexHandle));

fn native_free<'local>(
    _env: &mut Env<'local>,
    _class: JClass<'local>,
    index: IndexHandle,
) -> Result<()> {
    index.free();
    Ok(())
}

native!("io.cortex.SdrIndex": fn native_bits(index: IndexHandle) -> jlong);

fn native_bits<'local>(
    _env: &mut Env<'local>,
    _class: JClass<'local>,
    index: IndexHandle,
) -> Result<jlong> {
    Ok(long(shared(&index)?.bits()))
}

native!("io.cortex.SdrIndex": fn native_size(index: IndexHandle) -> jlong);

fn native_size<'local>(
    _env: &mut Env<'local>,
    _class: JClass<'local>,
    index: IndexHandle,
) -> Result<jlong> {
    Ok(long(shared(&index)?.len()))
}

native!("io.cortex.SdrIndex": fn native_memory_bytes(index: IndexHandle) -> jlong);

fn native_memory_bytes<'local>(
    _env: &mut Env<'local>,
    _class: JClass<'local>,
    index: IndexHandle,
) -> Result<jlong> {
    Ok(long(shared(&index)?.memory_bytes()))
}

/// The set that Java describes, of as many bits as the index has.
fn set(env: &Env<'_>, index: &Index, active: &JIntArray<'_>) -> Result<Sdr> {
    let active = words(env, active, "active")?;
    Ok(Sdr::new(index.bits(), active).map_err(|e| e.context("active"))?)
}

native!("io.cortex.SdrIndex": fn native_add(index: IndexHandle, id: jlong, active: [jint]));

fn native_add<'local>(
    env: &mut Env<'local>,
    _class: JClass<'local>,
    index: IndexHandle,
    id: jlong,
    active: JIntArray<'local>,
) -> Result<()> {
    let mut index = exclusive(&index)?;
    let set = set(env, &index, &active)?;
    Ok(index.add(id as u64, &set)?)
}

native!("io.cortex.SdrIndex": fn native_get(index: IndexHandle, id: jlong) -> [jint]);

fn native_get<'local>(
    env: &mut Env<'local>,
    _class: JClass<'local>,
    index: IndexHandle,
    id: jlong,
) -> Result<JIntArray<'local>> {
    let id = id as u64;
    let set = shared(&index)?.get(id);
    let set = set.ok_or_else(|| invalid(format!("nothing is stored under id {id}")))?;
    let array = JIntArray::new(env, set.weight())?;
    array.set_region(env, 0, bytemuck::cast_slice(set.active()))?;
    Ok(array)
}

native!("io.cortex.SdrIndex": fn native_remove(index: IndexHandle, id: jlong) -> jboolean);

fn native_remove<'local>(
    _env: &mut Env<'local>,
    _class: JClass<'local>,
    index: IndexHandle,
    id: jlong,
) -> Result<jboolean> {
    Ok(exclusive(&index)?.remove(id as u64))
}

native!("io.cortex.SdrIndex": fn native_top_k(
    index: IndexHandle, active: [jint], k: jlong
) -> [jlong]);

/// Numbers and overlaps by turns.
fn native_top_k<'local>(
    env: &mut Env<'local>,
    _class: JClass<'local>,
    index: IndexHandle,
    active: JIntArray<'local>,
    k: jlong,
) -> Result<JLongArray<'local>> {
    let index = shared(&index)?;
    let found = index.top_k(&set(env, &index, &active)?, size(k, "k")?)?;
    let pairs = found.iter().flat_map(|m| [m.id as jlong, long(m.overlap)]);
    long_array(env, &pairs.collect::<Vec<_>>())
}
