//! Files that appear whole or not at all.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::error::{Error, Result};

/// A file written beside its target and renamed to it when complete. Dropped before
/// that, or killed, it leaves the target as it was; a killed writer leaves at most a
/// hidden `.cortex-….tmp` behind.
#[derive(Debug)]
pub struct AtomicFile {
    /// `None` counts the bytes and drops them.
    out: Option<BufWriter<NamedTempFile>>,
    target: PathBuf,
    written: u64,
}

impl AtomicFile {
    /// Starts a file that will be `target`.
    pub fn create(target: &Path) -> Result<Self> {
        let mut builder = tempfile::Builder::new();
        builder.prefix(".cortex-").suffix(".tmp");
        #[cfg(unix)]
        {
            // Temporary files are private by default; this one becomes an ordinary file,
            // with what the user's mask allows.
            use std::os::unix::fs::PermissionsExt;
            builder.permissions(std::fs::Permissions::from_mode(0o666));
        }
        if target.is_dir() {
            return Err(Error::invalid(format!(
                "cannot write {}: it is a folder",
                target.display()
            )));
        }
        let temporary = builder
            .tempfile_in(folder_of(target))
            .map_err(|e| Error::io(format!("cannot write {}", target.display()), e))?;
        Ok(Self {
            out: Some(BufWriter::with_capacity(1 << 18, temporary)),
            target: target.to_owned(),
            written: 0,
        })
    }

    /// A file that is only counted: nothing is written anywhere.
    pub fn nowhere() -> Self {
        Self {
            out: None,
            target: PathBuf::new(),
            written: 0,
        }
    }

    /// Bytes written so far: the offset of the next one.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Appends bytes.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        if let Some(out) = &mut self.out {
            out.write_all(bytes)
                .map_err(|e| Error::io(format!("cannot write {}", self.target.display()), e))?;
        }
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Brings the bytes to the disk and gives the file its name. Returns its size.
    pub fn finish(self) -> Result<u64> {
        let fail = |e| Error::io(format!("cannot write {}", self.target.display()), e);
        let Some(out) = self.out else {
            return Ok(self.written);
        };
        let temporary = out.into_inner().map_err(|e| fail(e.into_error()))?;
        temporary.as_file().sync_all().map_err(fail)?;
        temporary.persist(&self.target).map_err(|e| fail(e.error))?;
        // The new name is on the disk when the folder is. Not every system can do that,
        // and the file itself is whole either way.
        if let Ok(folder) = File::open(folder_of(&self.target)) {
            let _ = folder.sync_all();
        }
        Ok(self.written)
    }
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}
