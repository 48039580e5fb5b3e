//! Archives: many compressed tensors in one .cai file, read as they are used.

use std::cell::RefCell;
use std::sync::Arc;

use cortex::{Error, model};
use napi::Env;
use napi::bindgen_prelude::Unknown;
use napi_derive::napi;

use crate::error::{guard, invalid, js};
use crate::spec::json;
use crate::task::{Promise, promise, spawn};
use crate::tensor::Tensor;
use crate::value::{self, Options};

/// An open .cai file.
///
/// Tensors taken from it keep the file open or mapped and may outlive it. It cannot be posted
/// to a worker: open the file in each, which shares the mapped memory.
#[napi]
pub struct Archive {
    archive: RefCell<Option<Arc<cortex::archive::Archive>>>,
}

/// A file to be opened.
struct Open {
    path: std::path::PathBuf,
    mapped: bool,
}

impl Open {
    fn read(env: &Env, path: Unknown<'_>, options: Unknown<'_>) -> napi::Result<Self> {
        let mapped = Options::new(env, options, "options")?.read(c"mapped", value::boolean)?;
        Ok(Self {
            path: value::path(env, path, "path")?,
            mapped: mapped.unwrap_or(true),
        })
    }

    fn run(&self) -> cortex::Result<cortex::archive::Archive> {
        match self.mapped {
            true => cortex::archive::Archive::open(&self.path),
            false => cortex::archive::Archive::open_unmapped(&self.path),
        }
    }
}

impl Archive {
    fn new(archive: cortex::archive::Archive) -> Self {
        Self {
            archive: RefCell::new(Some(Arc::new(archive))),
        }
    }

    fn get(&self, env: &Env) -> napi::Result<Arc<cortex::archive::Archive>> {
        let archive = self.archive.borrow().clone();
        archive.ok_or_else(|| invalid(env, "archive is closed"))
    }
}

#[napi]
impl Archive {
    /// Opens an archive by mapping the file: what is not packed is used in place, and only
    /// what is used is read. The file must not be cut or rewritten while it is open; replacing
    /// it by rename, as Cortex does, is safe. With `mapped: false` nothing is mapped, and
    /// every chunk is read and checked each time it is used: for files that somebody may cut
    /// short, and network drives.
    ///
    /// Rejects with `io`: it cannot be read; `corrupt`: it is no archive, was cut short, or
    /// its index is damaged; `unsupported`: a newer major version of the format.
    #[napi(
        ts_args_type = "path: string | URL, options?: OpenOptions | null",
        ts_return_type = "Promise<Archive>"
    )]
    pub fn open<'env>(
        env: &'env Env,
        path: Unknown<'env>,
        options: Unknown<'env>,
    ) -> napi::Result<Promise<'env>> {
        promise(env, || {
            let open = Open::read(env, path, options)?;
            spawn(
                env,
                &[],
                move || open.run(),
                |env, archive, _| value::from(env, Self::new(archive)),
            )
        })
    }

    /// As `open`, on the calling thread.
    #[napi(ts_args_type = "path: string | URL, options?: OpenOptions | null")]
    pub fn open_sync<'env>(
        env: &'env Env,
        path: Unknown<'env>,
        options: Unknown<'env>,
    ) -> napi::Result<Archive> {
        let open = Open::read(env, path, options)?;
        guard(|| open.run()).map(Self::new).map_err(|e| js(env, e))
    }

    /// Closes the archive; its tensors live on. Closing it again does nothing.
    #[napi]
    pub fn close(&self) {
        self.archive.borrow_mut().take();
    }

    /// `close`, for `using`.
    #[napi(well_known_symbol = "dispose")]
    pub fn dispose(&self) {
        self.close();
    }

    /// Number of tensors; aliases do not count.
    #[napi(getter)]
    pub fn size(&self, env: &Env) -> napi::Result<u32> {
        Ok(self.get(env)?.entries().len() as u32)
    }

    /// Bytes of the whole file.
    #[napi(getter)]
    pub fn file_bytes(&self, env: &Env) -> napi::Result<f64> {
        Ok(self.get(env)?.file_bytes() as f64)
    }

    /// Names of the tensors, in the order of the file; aliases are not among them.
    #[napi]
    pub fn names(&self, env: &Env) -> napi::Result<Vec<String>> {
        let archive = self.get(env)?;
        Ok(archive
            .entries()
            .iter()
            .map(|e| e.name().to_owned())
            .collect())
    }

    /// The place in `names()` of the tensor of this name, or of the one that this alias names;
    /// -1 if there is none.
    #[napi(ts_args_type = "name: string")]
    pub fn find(&self, env: &Env, name: Unknown<'_>) -> napi::Result<i64> {
        let name = value::text(env, name, "name")?;
        Ok(self.get(env)?.position(&name).map_or(-1, |i| i as i64))
    }

    /// Opens the tensor of this name, or the one that this alias names. Its data is read when
    /// it is used.
    ///
    /// Throws `invalid_argument`: there is none of this name; `unsupported`: it is stored in a
    /// way that this version does not know.
    #[napi(ts_args_type = "name: string")]
    pub fn tensor(&self, env: &Env, name: Unknown<'_>) -> napi::Result<Tensor> {
        let name = value::text(env, name, "name")?;
        let archive = self.get(env)?;
        let tensor = guard(|| archive.tensor(&name)).map_err(|e| js(env, e))?;
        Ok(Tensor::of_file(tensor))
    }

    /// Opens the tensor at this place in `names()`; see `tensor`.
    #[napi(ts_args_type = "index: number")]
    pub fn tensor_at(&self, env: &Env, index: Unknown<'_>) -> napi::Result<Tensor> {
        let index = value::size(env, index, "index")?;
        let archive = self.get(env)?;
        let tensor = guard(|| {
            let entries = archive.entries();
            let entry = entries.get(index).ok_or_else(|| {
                let count = entries.len();
                Error::invalid(format!("index is {index}; the archive has {count} tensors"))
            })?;
            archive.open_entry(entry)
        });
        Ok(Tensor::of_file(tensor.map_err(|e| js(env, e))?))
    }

    /// Further names of tensors, as of tied weights: alias to name.
    #[napi(getter, ts_return_type = "Map<string, string>")]
    pub fn aliases<'env>(&self, env: &'env Env) -> napi::Result<Unknown<'env>> {
        let archive = self.get(env)?;
        let aliases = archive.aliases().iter();
        value::map(
            env,
            aliases.map(|(alias, target)| (alias.as_str(), target.as_str())),
        )
    }

    /// Free text about the model.
    #[napi(getter, ts_return_type = "Map<string, string>")]
    pub fn metadata<'env>(&self, env: &'env Env) -> napi::Result<Unknown<'env>> {
        let archive = self.get(env)?;
        value::map(env, archive.metadata())
    }

    /// What the archive holds, the same that `cortex inspect --json` prints: sizes, ratio, and
    /// for each tensor its sizes and measured errors.
    #[napi(ts_return_type = "Report")]
    pub fn inspect<'env>(&self, env: &'env Env) -> napi::Result<Unknown<'env>> {
        let archive = self.get(env)?;
        let text = guard(|| json(&model::inspect(&archive))).map_err(|e| js(env, e))?;
        value::parse_json(env, text)
    }

    /// Reads every byte of the file and checks it. The error is the first that was found; where
    /// there are more its message says how many.
    ///
    /// Rejects with `corrupt`: something is damaged; the error names the tensor and the offset.
    #[napi(ts_return_type = "Promise<void>")]
    pub fn verify<'env>(&self, env: &'env Env) -> napi::Result<Promise<'env>> {
        promise(env, || {
            let archive = self.get(env)?;
            spawn(
                env,
                &[],
                move || archive.check(),
                |env, (), _| value::from(env, ()),
            )
        })
    }

    /// As `verify`, on the calling thread.
    #[napi]
    pub fn verify_sync(&self, env: &Env) -> napi::Result<()> {
        let archive = self.get(env)?;
        guard(|| archive.check()).map_err(|e| js(env, e))
    }
}
