//! Sparse distributed representations: sets of a few active bits among many, whose shared bits
//! say how alike two things are.

use std::cell::RefCell;
use std::path::PathBuf;
use std::sync::Arc;

use cortex::sdr::{Index, Sdr};
use napi::Env;
use napi::bindgen_prelude::{Uint32Array, Unknown};
use napi_derive::napi;

use crate::array;
use crate::error::{guard, invalid, js};
use crate::task::{Promise, promise, spawn};
use crate::value;

/// Sets under numbers, searched by the bits that they share.
///
/// Numbers have 64 bits: up to `Number.MAX_SAFE_INTEGER` they are numbers, above it bigints;
/// both are taken everywhere. What a promise works on is the index as it was when the call was
/// made; changing it meanwhile copies it once.
#[napi]
pub struct SdrIndex {
    index: RefCell<Option<Arc<Index>>>,
}

/// The set that `active` describes, of as many bits as the index has.
fn set(index: &Index, active: Vec<u32>) -> cortex::Result<Sdr> {
    Sdr::new(index.bits(), active).map_err(|e| e.context("active"))
}

fn top_k(index: &Index, active: Vec<u32>, k: usize) -> cortex::Result<Vec<SdrMatch>> {
    let found = index.top_k(&set(index, active)?, k)?;
    let found = found.into_iter().map(|m| SdrMatch {
        id: m.id,
        overlap: m.overlap,
    });
    Ok(found.collect())
}

/// A stored set and how many active bits it shares with the one asked for.
struct SdrMatch {
    id: u64,
    overlap: usize,
}

/// Matches as objects.
fn matches(env: &Env, found: Vec<SdrMatch>) -> napi::Result<Unknown<'_>> {
    let objects = found.into_iter().map(|m| {
        let mut object = napi::bindgen_prelude::Object::new(env)?;
        object.set("id", value::from_id(env, m.id)?)?;
        object.set("overlap", m.overlap as f64)?;
        Ok(object)
    });
    value::from(env, objects.collect::<napi::Result<Vec<_>>>()?)
}

/// Active bits: a Uint32Array or an array of numbers.
fn active(env: &Env, value: Unknown<'_>, bits: usize) -> napi::Result<Vec<u32>> {
    if let Some(numbers) = array::numbers(env, value, "active")? {
        return Ok(numbers);
    }
    value::list(env, value, "active", bits, |env, bit, name| {
        let bit = value::size(env, bit, name)?;
        u32::try_from(bit).map_err(|_| invalid(env, format!("active: active bit {bit} of {bits}")))
    })
}

impl SdrIndex {
    fn new(index: Index) -> Self {
        Self {
            index: RefCell::new(Some(Arc::new(index))),
        }
    }

    fn get(&self, env: &Env) -> napi::Result<Arc<Index>> {
        let index = self.index.borrow().clone();
        index.ok_or_else(|| invalid(env, "index is closed"))
    }

    fn change<T>(
        &self,
        env: &Env,
        f: impl FnOnce(&mut Index) -> cortex::Result<T>,
    ) -> napi::Result<T> {
        // Given back before an error is made, which runs JavaScript.
        let mut index = self.index.borrow_mut();
        let done = index.as_mut().map(|i| guard(|| f(Arc::make_mut(i))));
        drop(index);
        match done {
            Some(done) => done.map_err(|e| js(env, e)),
            None => Err(invalid(env, "index is closed")),
        }
    }
}

#[napi]
impl SdrIndex {
    /// An empty index of sets of `bits` bits each, 1 to 1048576.
    #[napi(constructor, ts_args_type = "bits: number")]
    pub fn create(env: &Env, bits: Unknown<'_>) -> napi::Result<Self> {
        let bits = value::size(env, bits, "bits")?;
        guard(|| Index::new(bits))
            .map(Self::new)
            .map_err(|e| js(env, e))
    }

    /// Reads an index that `save` wrote, and checks it. Nothing of the file is used afterwards.
    ///
    /// Rejects with `io`: it cannot be read; `corrupt`: it is no index, was cut short, or is
    /// damaged; `limit_exceeded`: it would take far more memory than the file has bytes;
    /// `unsupported`: a newer version.
    #[napi(
        ts_args_type = "path: string | URL",
        ts_return_type = "Promise<SdrIndex>"
    )]
    pub fn load<'env>(env: &'env Env, path: Unknown<'env>) -> napi::Result<Promise<'env>> {
        promise(env, || {
            let path: PathBuf = value::path(env, path, "path")?;
            spawn(
                env,
                &[],
                move || Index::load_file(&path),
                |env, index, _| value::from(env, Self::new(index)),
            )
        })
    }

    /// As `load`, on the calling thread.
    #[napi(ts_args_type = "path: string | URL")]
    pub fn load_sync<'env>(env: &'env Env, path: Unknown<'env>) -> napi::Result<SdrIndex> {
        let path = value::path(env, path, "path")?;
        guard(|| Index::load_file(&path))
            .map(Self::new)
            .map_err(|e| js(env, e))
    }

    /// Writes the index to a file, the same bytes for the same sets in whatever order they
    /// came. The file appears when it is complete; what stood there is replaced then.
    #[napi(ts_args_type = "path: string | URL", ts_return_type = "Promise<void>")]
    pub fn save<'env>(&self, env: &'env Env, path: Unknown<'env>) -> napi::Result<Promise<'env>> {
        promise(env, || {
            let path: PathBuf = value::path(env, path, "path")?;
            let index = self.get(env)?;
            spawn(
                env,
                &[],
                move || index.save_file(&path),
                |env, (), _| value::from(env, ()),
            )
        })
    }

    /// As `save`, on the calling thread.
    #[napi(ts_args_type = "path: string | URL")]
    pub fn save_sync<'env>(&self, env: &'env Env, path: Unknown<'env>) -> napi::Result<()> {
        let path = value::path(env, path, "path")?;
        let index = self.get(env)?;
        guard(|| index.save_file(&path)).map_err(|e| js(env, e))
    }

    /// Frees the index. Closing it again does nothing.
    #[napi]
    pub fn close(&self) {
        self.index.borrow_mut().take();
    }

    /// `close`, for `using`.
    #[napi(well_known_symbol = "dispose")]
    pub fn dispose(&self) {
        self.close();
    }

    /// Bits of every set, active or not.
    #[napi(getter)]
    pub fn bits(&self, env: &Env) -> napi::Result<u32> {
        Ok(self.get(env)?.bits() as u32)
    }

    /// Number of stored sets.
    #[napi(getter)]
    pub fn size(&self, env: &Env) -> napi::Result<f64> {
        Ok(self.get(env)?.len() as f64)
    }

    /// Bytes of memory that the sets and what finds them take, without what the allocator adds.
    #[napi(getter)]
    pub fn memory_bytes(&self, env: &Env) -> napi::Result<f64> {
        Ok(self.get(env)?.memory_bytes() as f64)
    }

    /// Stores the set of the active bits `active`, in any order, under `id`.
    ///
    /// Throws `invalid_argument`: a bit is not below `bits` or is given twice, or the number is
    /// in use.
    #[napi(ts_args_type = "id: number | bigint, active: ActiveBits")]
    pub fn add<'env>(
        &self,
        env: &'env Env,
        id: Unknown<'env>,
        active: Unknown<'env>,
    ) -> napi::Result<()> {
        let id = value::id(env, id, "id")?;
        let bits = self.get(env)?.bits();
        let active = self::active(env, active, bits)?;
        self.change(env, |index| {
            let set = set(index, active)?;
            index.add(id, &set)
        })
    }

    /// The active bits of the set stored under `id`, in increasing order.
    ///
    /// Throws `invalid_argument`: nothing is stored under `id`.
    #[napi(
        js_name = "get",
        ts_args_type = "id: number | bigint",
        ts_return_type = "Uint32Array"
    )]
    pub fn get_set(&self, env: &Env, id: Unknown<'_>) -> napi::Result<Uint32Array> {
        let id = value::id(env, id, "id")?;
        let set = self.get(env)?.get(id);
        match set {
            Some(set) => Ok(set.active().to_vec().into()),
            None => Err(invalid(env, format!("nothing is stored under id {id}"))),
        }
    }

    /// Removes the set stored under `id`; whether there was one.
    #[napi(ts_args_type = "id: number | bigint")]
    pub fn remove(&self, env: &Env, id: Unknown<'_>) -> napi::Result<bool> {
        let id = value::id(env, id, "id")?;
        self.change(env, |index| Ok(index.remove(id)))
    }

    /// The `k` stored sets that share most active bits with the set `active`, largest overlap
    /// first, the smaller number first among equals; exact, and without those that share none.
    #[napi(
        ts_args_type = "active: ActiveBits, k: number",
        ts_return_type = "Promise<SdrMatch[]>"
    )]
    pub fn top_k<'env>(
        &self,
        env: &'env Env,
        active: Unknown<'env>,
        k: Unknown<'env>,
    ) -> napi::Result<Promise<'env>> {
        promise(env, || {
            let k = value::size(env, k, "k")?;
            let bits = self.get(env)?.bits();
            let active = self::active(env, active, bits)?;
            let index = self.get(env)?;
            spawn(
                env,
                &[],
                move || top_k(&index, active, k),
                |env, found, _| matches(env, found),
            )
        })
    }

    /// As `topK`, on the calling thread.
    #[napi(
        js_name = "topKSync",
        ts_args_type = "active: ActiveBits, k: number",
        ts_return_type = "SdrMatch[]"
    )]
    pub fn top_k_sync<'env>(
        &self,
        env: &'env Env,
        active: Unknown<'env>,
        k: Unknown<'env>,
    ) -> napi::Result<Unknown<'env>> {
        let k = value::size(env, k, "k")?;
        let bits = self.get(env)?.bits();
        let active = self::active(env, active, bits)?;
        let index = self.get(env)?;
        let found = guard(|| top_k(&index, active, k)).map_err(|e| js(env, e))?;
        matches(env, found)
    }
}
