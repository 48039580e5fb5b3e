//! A `.safetensors` writer that streams: the header first, from the list of tensors,
//! then their bytes in pieces of any size. No tensor need be in memory whole.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use crate::atomic::AtomicFile;
use crate::bytes::checked_mul;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::limits;
use crate::tensor::{View, checked_bytes};

/// Header bytes that the format's own reader accepts.
const MAX_HEADER_BYTES: usize = 100_000_000;

/// Bytes of rows that [`Writer::write_view`] gathers at a time.
const WINDOW_BYTES: usize = 1 << 20;

/// A tensor that is to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name, which no other may have.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
}

/// Writes one file. It appears under its name, whole, when [`finish`](Self::finish) has
/// returned; a writer that is dropped before leaves nothing behind, and an older file
/// of that name as it was.
#[derive(Debug)]
pub struct Writer {
    out: AtomicFile,
    tensors: Vec<(TensorInfo, usize)>,
    /// The tensor that the next byte belongs to, and how many it has got.
    current: usize,
    filled: usize,
}

impl Writer {
    /// Begins the file at `path`.
    ///
    /// The tensors' data stands in the order given, without gaps: readers that want
    /// aligned elements are served when wide dtypes come first. The same list and
    /// metadata give the same bytes.
    pub fn create(
        path: &Path,
        tensors: &[TensorInfo],
        metadata: &BTreeMap<String, String>,
    ) -> Result<Self> {
        let mut sized = Vec::with_capacity(tensors.len());
        let mut names = HashSet::new();
        for tensor in tensors {
            let named = |e: Error| e.with_tensor(&tensor.name);
            if tensor.name == "__metadata__" || tensor.name.len() > limits::MAX_NAME_BYTES {
                return Err(named(Error::invalid("safetensors cannot hold this name")));
            }
            if !names.insert(&tensor.name) {
                return Err(named(Error::invalid("two tensors have this name")));
            }
            let bytes = checked_bytes(tensor.dtype, &tensor.shape).map_err(named)?;
            sized.push((tensor.clone(), bytes));
        }
        let header = header(&sized, metadata)?;

        let mut writer = Self {
            out: AtomicFile::create(path)?,
            tensors: sized,
            current: 0,
            filled: 0,
        };
        writer.out.write(&(header.len() as u64).to_le_bytes())?;
        writer.out.write(&header)?;
        writer.skip_complete();
        Ok(writer)
    }

    /// The tensor that the next bytes belong to; `None` when all are complete.
    pub fn expected(&self) -> Option<&TensorInfo> {
        self.tensors.get(self.current).map(|(tensor, _)| tensor)
    }

    /// Adds little-endian, row-major bytes of the tensor whose turn it is. A piece may be
    /// of any size but may not reach into the next tensor. Empty tensors take none.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let Some((tensor, size)) = self.tensors.get(self.current) else {
            return Err(Error::invalid(format!(
                "{} bytes given after the last tensor was complete",
                bytes.len()
            )));
        };
        let left = size - self.filled;
        if bytes.len() > left {
            return Err(
                Error::invalid(format!("{} bytes given, {left} are missing", bytes.len()))
                    .with_tensor(&tensor.name),
            );
        }
        self.out.write(bytes)?;
        self.filled += bytes.len();
        self.skip_complete();
        Ok(())
    }

    /// Writes the whole of the tensor whose turn it is. Empty tensors have no turn and may
    /// be passed or left out.
    pub fn write_view(&mut self, view: &View<'_>) -> Result<()> {
        if view.is_empty() {
            return Ok(());
        }
        if let Some(tensor) = self.expected()
            && (tensor.dtype != view.dtype() || tensor.shape != view.shape() || self.filled > 0)
        {
            return Err(Error::invalid(format!(
                "{} {:?} given, {} {:?} is expected, of which {} bytes are written",
                view.dtype(),
                view.shape(),
                tensor.dtype,
                tensor.shape,
                self.filled
            ))
            .with_tensor(&tensor.name));
        }
        if let Some(bytes) = view.contiguous_bytes() {
            return self.write(bytes);
        }
        let row_bytes = checked_mul(view.cols(), view.dtype().size())?;
        let step = (WINDOW_BYTES / row_bytes).clamp(1, view.rows());
        let mut window = vec![0; step * row_bytes];
        for start in (0..view.rows()).step_by(step) {
            let rows = start..(start + step).min(view.rows());
            let out = &mut window[..rows.len() * row_bytes];
            view.read_rows(rows, out);
            self.write(out)?;
        }
        Ok(())
    }

    /// Brings the file to the disk and gives it its name. Returns its size in bytes.
    pub fn finish(self) -> Result<u64> {
        if let Some((tensor, size)) = self.tensors.get(self.current) {
            return Err(
                Error::invalid(format!("{} of {size} bytes written", self.filled))
                    .with_tensor(&tensor.name),
            );
        }
        self.out.finish()
    }

    fn skip_complete(&mut self) {
        while self
            .tensors
            .get(self.current)
            .is_some_and(|(_, size)| *size == self.filled)
        {
            self.current += 1;
            self.filled = 0;
        }
    }
}

/// The JSON header, padded with spaces so that the data begins at a multiple of 8.
fn header(tensors: &[(TensorInfo, usize)], metadata: &BTreeMap<String, String>) -> Result<Vec<u8>> {
    let quoted = |s: &str| {
        serde_json::to_string(s).map_err(|e| Error::internal(format!("cannot quote a name: {e}")))
    };
    let mut parts = Vec::with_capacity(tensors.len() + 1);
    if !metadata.is_empty() {
        let mut pairs = Vec::with_capacity(metadata.len());
        for (key, value) in metadata {
            pairs.push(format!("{}:{}", quoted(key)?, quoted(value)?));
        }
        parts.push(format!("\"__metadata__\":{{{}}}", pairs.join(",")));
    }
    let mut begin = 0u64;
    for (tensor, bytes) in tensors {
        let end = begin + *bytes as u64;
        let shape: Vec<_> = tensor.shape.iter().map(usize::to_string).collect();
        parts.push(format!(
            "{}:{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{begin},{end}]}}",
            quoted(&tensor.name)?,
            tensor.dtype.name().to_uppercase(),
            shape.join(","),
        ));
        begin = end;
    }
    let mut header = format!("{{{}}}", parts.join(",")).into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    if header.len() > MAX_HEADER_BYTES {
        return Err(Error::limit(format!(
            "names and metadata take a header of {} bytes; safetensors allows {MAX_HEADER_BYTES}",
            header.len()
        )));
    }
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::import::Model;
    use crate::tensor::Dense;

    fn info(name: &str, dtype: DType, shape: &[usize]) -> TensorInfo {
        TensorInfo {
            name: name.to_owned(),
            dtype,
            shape: shape.to_vec(),
        }
    }

    /// Values that are the same in every dtype.
    fn dense(dtype: DType, shape: &[usize]) -> Dense {
        let mut out = Dense::zeros(dtype, shape).unwrap();
        let values: Vec<f32> = (0..shape.iter().product::<usize>())
            .map(|i| (i * 5 % 7 % 2) as f32)
            .collect();
        dtype.from_f32(&values, out.bytes_mut());
        out
    }

    #[test]
    fn every_dtype_and_shape_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.safetensors");
        let mut list = Vec::new();
        let mut data = Vec::new();
        for dtype in DType::ALL {
            for shape in [&[][..], &[0], &[5], &[3, 0, 2], &[2, 3], &[1, 2, 3]] {
                list.push(info(&format!("{dtype} {shape:?} \"ä\\\n"), dtype, shape));
                data.push(dense(dtype, shape));
            }
        }
        let metadata =
            BTreeMap::from([("z", "1"), ("a\"", "ü\u{1}")].map(|(k, v)| (k.into(), v.into())));
        let mut writer = Writer::create(&path, &list, &metadata).unwrap();
        for (i, dense) in data.iter().enumerate() {
            if i % 2 == 0 {
                writer.write_view(&dense.view()).unwrap();
            } else {
                for piece in dense.bytes().chunks(3) {
                    writer.write(piece).unwrap();
                }
            }
        }
        let size = writer.finish().unwrap();
        assert_eq!(size, std::fs::metadata(&path).unwrap().len());

        let bytes = std::fs::read(&path).unwrap();
        let theirs = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let header_len = u64::from_le_bytes(bytes[..8].try_into().unwrap());
        assert_eq!(header_len % 8, 0);
        let model = Model::open(&path).unwrap();
        assert_eq!(model.metadata(), &metadata);
        assert_eq!(model.tensors().len(), list.len());
        for (info, dense) in list.iter().zip(&data) {
            let t = model.get(&info.name).unwrap();
            assert_eq!((t.dtype(), t.shape()), (info.dtype, info.shape.as_slice()));
            assert_eq!(t.view().to_dense().unwrap().bytes(), dense.bytes());
            assert_eq!(theirs.tensor(&info.name).unwrap().data(), dense.bytes());
        }
        // Tensors with data come in the order given.
        let names = |empty| {
            let given: Vec<_> = list
                .iter()
                .filter(|t| t.shape.contains(&0) == empty)
                .collect();
            given.iter().map(|t| t.name.clone()).collect::<Vec<_>>()
        };
        let found: Vec<_> = model
            .tensors()
            .iter()
            .filter(|t| !t.view().is_empty())
            .map(|t| t.name().to_owned())
            .collect();
        assert_eq!(found, names(false));
    }

    #[test]
    fn tied_tensors_come_back_as_an_alias() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.safetensors");
        let list = ["embed", "head", "other"].map(|n| info(n, DType::F32, &[64, 64]));
        let data = dense(DType::F32, &[64, 64]);
        let mut other = data.clone();
        other.bytes_mut()[5000] ^= 1;
        let mut writer = Writer::create(&path, &list, &BTreeMap::new()).unwrap();
        for d in [&data, &data, &other] {
            writer.write_view(&d.view()).unwrap();
        }
        writer.finish().unwrap();
        let model = Model::open(&path).unwrap();
        assert_eq!(model.tensors().len(), 2);
        assert_eq!(model.aliases(), [("head".to_owned(), "embed".to_owned())]);
        assert_eq!(model.get("head").unwrap().name(), "embed");
    }

    #[test]
    fn strided_views_are_written_row_major() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.safetensors");
        let (rows, cols) = (3000, 101);
        let values: Vec<i32> = (0..rows * cols).collect();
        let shape = [cols as usize, rows as usize];
        let view = View::strided(
            DType::I32,
            &shape,
            &[1, cols as isize],
            bytemuck::cast_slice(&values),
            0,
        )
        .unwrap();
        let list = [info("t", DType::I32, &shape)];
        let mut writer = Writer::create(&path, &list, &BTreeMap::new()).unwrap();
        writer.write_view(&view).unwrap();
        writer.finish().unwrap();
        let model = Model::open(&path).unwrap();
        let back = model.tensors()[0].view().to_dense().unwrap();
        assert_eq!(back.bytes(), view.to_dense().unwrap().bytes());
    }

    #[test]
    fn wrong_lengths_are_named_and_leave_the_old_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.safetensors");
        std::fs::write(&path, b"old").unwrap();
        let list = [info("a", DType::U8, &[3]), info("b", DType::U8, &[2])];
        let create = || Writer::create(&path, &list, &BTreeMap::new()).unwrap();

        let mut writer = create();
        writer.write(&[1, 2]).unwrap();
        let e = writer.write(&[3, 4]).unwrap_err();
        assert_eq!(
            (e.kind(), e.tensor()),
            (ErrorKind::InvalidArgument, Some("a"))
        );
        writer.write(&[3]).unwrap();
        assert_eq!(writer.expected().unwrap().name, "b");
        let wrong = Dense::from_slice(&[1i8, 2], &[2]).unwrap();
        assert_eq!(
            writer.write_view(&wrong.view()).unwrap_err().tensor(),
            Some("b")
        );
        let e = writer.finish().unwrap_err();
        assert_eq!(e.tensor(), Some("b"));

        let mut writer = create();
        writer.write(&[1, 2, 3]).unwrap();
        writer.write(&[4, 5]).unwrap();
        assert!(writer.expected().is_none());
        assert!(writer.write(&[6]).is_err());
        drop(writer);
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn bad_lists_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let create = |list: &[TensorInfo]| {
            let path = folder.path().join("m.safetensors");
            Writer::create(&path, list, &BTreeMap::new()).unwrap_err()
        };
        let a = info("a", DType::U8, &[1]);
        assert_eq!(create(&[a.clone(), a]).kind(), ErrorKind::InvalidArgument);
        let e = create(&[info("__metadata__", DType::U8, &[1])]);
        assert_eq!(e.kind(), ErrorKind::InvalidArgument);
        let e = create(&[info("a", DType::F64, &[usize::MAX, 2])]);
        assert_eq!(e.kind(), ErrorKind::LimitExceeded);
        let missing = folder.path().join("no such folder").join("m.safetensors");
        let e = Writer::create(&missing, &[], &BTreeMap::new()).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Io);
    }

    #[test]
    fn no_tensors_make_a_file_too_and_bytes_are_the_same_each_time() {
        let folder = tempfile::tempdir().unwrap();
        let mut files = Vec::new();
        for i in 0..2 {
            let path = folder.path().join(format!("{i}.safetensors"));
            let metadata = (0..20).map(|i| (format!("k{i}"), "v".to_owned())).collect();
            let list = [info("e", DType::F32, &[0])];
            Writer::create(&path, &list, &metadata)
                .unwrap()
                .finish()
                .unwrap();
            files.push(std::fs::read(&path).unwrap());
            assert!(Model::open(&path).is_ok());
        }
        assert_eq!(files[0], files[1]);
        let path = folder.path().join("none");
        Writer::create(&path, &[], &BTreeMap::new())
            .unwrap()
            .finish()
            .unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"\x08\0\0\0\0\0\0\0{}      ");
    }
}
