//! The one file mapping. Whoever holds a [`Mapping`] keeps the pages alive.

use std::fs::File;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Result};

/// Tells the kernel that memory of a large buffer may be of huge pages, which no program would
/// notice but by its speed. A hint: failure is ignored, and so is a smaller buffer.
pub fn prefer_huge_pages(memory: &mut [u8]) {
    #[cfg(all(target_os = "linux", not(miri)))]
    if memory.len() >= HUGE_FROM {
        // Whole pages inside: those of 4 KiB, or of more, where the kernel refuses.
        let start = memory.as_ptr().align_offset(4096);
        let len = (memory.len() - start) / 4096 * 4096;
        // SAFETY: the range lies within `memory`. The advice changes which pages the kernel
        // takes, not what is in them.
        unsafe {
            let at = memory.as_mut_ptr().add(start);
            libc::madvise(at.cast(), len, libc::MADV_HUGEPAGE);
        }
    }
    #[cfg(not(all(target_os = "linux", not(miri))))]
    let _ = memory;
}

/// Two huge pages of x86-64, as NumPy has it: a smaller buffer may hold no whole one.
#[cfg(all(target_os = "linux", not(miri)))]
const HUGE_FROM: usize = 4 << 20;

/// A read-only mapping of a whole file.
///
/// The bytes are those of the file as it is: cutting the file short while it is
/// mapped makes later reads fail with SIGBUS, as for every program that maps
/// files. Archives are replaced by rename, never rewritten in place, so a mapped
/// archive does not change under its reader; a reader that cannot trust the file
/// system opens by plain reads instead.
#[derive(Debug)]
pub struct Mapping {
    map: Option<memmap2::Mmap>,
    path: PathBuf,
}

impl Mapping {
    /// Maps the file at `path`. An empty file gives an empty mapping.
    pub fn open(path: &Path) -> Result<Arc<Self>> {
        let (file, len) = open_file(path)?;
        let map = if len == 0 {
            None
        } else {
            // SAFETY: the mapping is private and read-only, and is only handed out as
            // `&[u8]`. The one thing Rust cannot rule out, another process writing to
            // or cutting the file, is stated in the type's documentation; every value
            // read through it is checked before it is used as a length or offset.
            let map = unsafe { memmap2::Mmap::map(&file) }
                .map_err(|e| Error::io(format!("cannot map {}", path.display()), e))?;
            Some(map)
        };
        Ok(Arc::new(Self {
            map,
            path: path.to_owned(),
        }))
    }

    /// The file's path, as it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Tells the kernel that `range` will not be needed again soon, so that reading a
    /// model larger than memory leaves no trace in it. A hint: failure is ignored.
    pub fn forget(&self, range: std::ops::Range<usize>) {
        #[cfg(unix)]
        if let Some(map) = &self.map
            && range.start < range.end
            && range.end <= map.len()
        {
            // Whole pages inside the range only: a neighbour may still be in use.
            let start = range.start.next_multiple_of(4096);
            let end = range.end / 4096 * 4096;
            if start < end {
                // SAFETY: the mapping is a read-only view of a file, so dropped pages
                // come back from the file with the same bytes at the next access.
                let _ = unsafe {
                    map.unchecked_advise_range(
                        memmap2::UncheckedAdvice::DontNeed,
                        start,
                        end - start,
                    )
                };
            }
        }
        #[cfg(not(unix))]
        let _ = range;
    }
}

/// Opens an ordinary file for reading and tells its length. Folders, pipes and devices
/// are refused before they are opened: opening a pipe would wait for a writer.
pub fn open_file(path: &Path) -> Result<(File, u64)> {
    let fail = |e| Error::io(format!("cannot open {}", path.display()), e);
    if !std::fs::metadata(path).map_err(fail)?.is_file() {
        return Err(Error::invalid(format!("{} is not a file", path.display())));
    }
    let file = File::open(path).map_err(fail)?;
    let len = file.metadata().map_err(fail)?.len();
    Ok((file, len))
}

impl Deref for Mapping {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.map.as_deref().unwrap_or(&[])
    }
}
