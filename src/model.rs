//! Whole models: import → plan → encode → archive, and back.

mod calibration;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use regex::Regex;
use serde::Serialize;

use crate::archive::{Archive, Entry, Writer};
use crate::bytes::AlignedBytes;
use crate::dtype::DType;
use crate::error::{Error, ErrorKind, Result};
use crate::export;
use crate::form::{self, EncodeContext, ErrorStats, Tensor};
use crate::import::{self, NamedTensor};
use crate::limits;
use crate::mmap::open_file;
use crate::plan::{self, Plan};
use crate::spec::Spec;

pub use calibration::{Calibration, write_calibration};

/// How a model is compressed.
#[derive(Clone, Debug)]
pub struct CompressOptions {
    /// For every tensor that nothing else names. Lossy specs leave integers, bools,
    /// vectors and small tensors lossless ([`plan::spec_for`]).
    pub spec: Spec,
    /// For tensors whose name matches, to the letter; the first match counts.
    pub tensors: Vec<(Regex, Spec)>,
    /// Tensors whose name matches stay lossless.
    pub exclude: Option<Regex>,
    /// Threads; 0 for all cores. Bytes do not depend on it.
    pub threads: usize,
    /// A file with second moments of the inputs of tensors, for encoders that make the
    /// error of products small; see [`Calibration`].
    pub calibration: Option<PathBuf>,
    /// Whether reports list what was measured for each tensor.
    pub explain: bool,
}

impl CompressOptions {
    /// Options for one spec text; empty for the default, `auto(error=1%)`.
    pub fn new(spec: &str) -> Result<Self> {
        let spec = if spec.is_empty() {
            plan::DEFAULT_SPEC
        } else {
            spec
        };
        Ok(Self {
            spec: form::parse(spec)?,
            tensors: Vec::new(),
            exclude: None,
            threads: 0,
            calibration: None,
            explain: false,
        })
    }
}

/// How far a long call has come.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// Dense bytes done.
    pub done_bytes: u64,
    /// Dense bytes of all tensors.
    pub total_bytes: u64,
    /// Tensors done.
    pub done_tensors: usize,
    /// All tensors.
    pub total_tensors: usize,
    /// The tensor at work.
    pub tensor: &'a str,
}

/// Told now and then how far a call has come; false stops it. Called from any thread,
/// one call at a time.
pub type ProgressFn<'a> = dyn FnMut(&Progress<'_>) -> bool + Send + 'a;

/// What became of a tensor.
#[derive(Clone, Debug, Serialize)]
pub struct TensorReport {
    /// Its name.
    pub name: String,
    /// Name of its dtype.
    pub dtype: String,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Canonical spec.
    pub spec: String,
    /// Dense bytes.
    pub raw_bytes: u64,
    /// Bytes in the file, padding counted.
    pub stored_bytes: u64,
    /// Stored bits per element.
    pub bits_per_weight: f64,
    /// `‖W − Ŵ‖ / ‖W‖`; 0 when exact.
    pub relative_error: f64,
    /// `−20·log10(relative_error)`; `None` when exact.
    pub sqnr_db: Option<f64>,
    /// `max |w − ŵ|`.
    pub max_abs_error: f64,
    /// Whether the calibration file had an entry for it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub calibrated: bool,
    /// What was done otherwise than asked.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// Seconds that it took to encode and write; absent when only looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// What was measured before the choice, best first, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub candidates: Option<Vec<CandidateReport>>,
}

/// One form that was measured for a tensor.
#[derive(Clone, Debug, Serialize)]
pub struct CandidateReport {
    /// Canonical spec.
    pub spec: String,
    /// Bits per weight, everything counted.
    pub bits_per_weight: f64,
    /// `‖W − Ŵ‖ / ‖W‖`; 0 when exact.
    pub relative_error: f64,
    /// `−20·log10(relative_error)`; `None` when exact.
    pub sqnr_db: Option<f64>,
    /// Multiplications of a product per weight and row of `x`; 1 for `dense`.
    pub cost: f64,
    /// Whether products read the stored parts as they lie, without decoding them first.
    pub in_place: bool,
    /// Whether size and error are those of the whole tensor, not of a sample.
    pub whole: bool,
    /// What became of it.
    pub verdict: plan::Verdict,
}

impl CandidateReport {
    fn new(c: &plan::Candidate) -> Self {
        Self {
            spec: c.spec.to_string(),
            bits_per_weight: c.bits,
            relative_error: c.error.relative,
            sqnr_db: c.error.sqnr_db(),
            cost: c.cost,
            in_place: c.in_place,
            whole: c.whole,
            verdict: c.verdict,
        }
    }
}

/// What became of a model.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Bytes of the input files; of the dense tensors when only looked at.
    pub input_bytes: u64,
    /// Bytes of the archive: all `stored_bytes`, `index_bytes` and `header_bytes`.
    pub output_bytes: u64,
    /// `input_bytes / output_bytes`.
    pub ratio: f64,
    /// Wall seconds.
    pub seconds: f64,
    /// Bytes of the JSON index.
    pub index_bytes: u64,
    /// Bytes of header and footer.
    pub header_bytes: u64,
    /// Further names of tensors: alias to target.
    pub aliases: BTreeMap<String, String>,
    /// Tensors in the order of the file.
    pub tensors: Vec<TensorReport>,
}

impl TensorReport {
    fn new(name: &str, tensor: &Tensor, calibrated: bool, seconds: f64) -> Self {
        Self {
            name: name.to_owned(),
            dtype: tensor.dtype().name().to_owned(),
            shape: tensor.shape().to_vec(),
            spec: tensor.spec().to_string(),
            raw_bytes: tensor.raw_bytes(),
            stored_bytes: tensor.stored_bytes(),
            bits_per_weight: tensor.bits_per_weight(),
            relative_error: tensor.error().relative,
            sqnr_db: tensor.error().sqnr_db(),
            max_abs_error: tensor.error().max_abs,
            calibrated,
            notes: tensor.notes().to_vec(),
            seconds: Some(seconds),
            candidates: None,
        }
    }

    fn from_entry(entry: &Entry) -> Self {
        Self {
            name: entry.name().to_owned(),
            dtype: entry.dtype_name().to_owned(),
            shape: entry.shape().to_vec(),
            spec: entry.spec().to_owned(),
            raw_bytes: entry.raw_bytes(),
            stored_bytes: entry.stored_bytes(),
            bits_per_weight: entry.bits_per_weight(),
            relative_error: entry.error().relative,
            sqnr_db: entry.error().sqnr_db(),
            max_abs_error: entry.error().max_abs,
            calibrated: false,
            notes: Vec::new(),
            seconds: None,
            candidates: None,
        }
    }
}

/// What an archive holds, as a report.
pub fn inspect(archive: &Archive) -> Report {
    let start = Instant::now();
    let tensors: Vec<_> = archive
        .entries()
        .iter()
        .map(TensorReport::from_entry)
        .collect();
    let raw = tensors.iter().map(|t| t.raw_bytes).sum::<u64>();
    Report {
        input_bytes: raw,
        output_bytes: archive.file_bytes(),
        ratio: raw as f64 / archive.file_bytes() as f64,
        seconds: start.elapsed().as_secs_f64(),
        index_bytes: archive.index_bytes(),
        header_bytes: archive.header_bytes(),
        aliases: archive.aliases().iter().cloned().collect(),
        tensors,
    }
}

/// Compresses the model at `input` into the archive `output`, which appears only when
/// it is complete. Holds one tensor at a time: its encoded form and, while it is packed,
/// the packed one.
pub fn compress_file(
    input: &Path,
    output: &Path,
    options: &CompressOptions,
    progress: Option<&mut ProgressFn<'_>>,
) -> Result<Report> {
    compress_model(input, Some(output), options, progress)
}

/// What [`compress_file`] would report, to the byte, without writing a file.
pub fn measure_file(
    input: &Path,
    options: &CompressOptions,
    progress: Option<&mut ProgressFn<'_>>,
) -> Result<Report> {
    compress_model(input, None, options, progress)
}

fn compress_model(
    input: &Path,
    output: Option<&Path>,
    options: &CompressOptions,
    progress: Option<&mut ProgressFn<'_>>,
) -> Result<Report> {
    let start = Instant::now();
    let model = import::Model::open(input)?;
    if let Some(output) = output {
        let sources: Vec<PathBuf> = model.sources().map(Path::to_owned).collect();
        refuse_same_file(&sources, output)?;
    }
    let calibration = options.calibration.as_deref().map(Calibration::open);
    let calibration = calibration.transpose()?;
    let total = model.tensors().iter().map(|t| t.byte_len() as u64).sum();
    let watch = Watch::new(progress, total, model.tensors().len());
    let mut writer = match output {
        Some(path) => Writer::create(path)?,
        None => Writer::nowhere()?,
    };
    writer.set_metadata(model.metadata());

    let mut tensors = Vec::with_capacity(model.tensors().len());
    in_pool(options.threads, || {
        for named in model.tensors() {
            let begun = Instant::now();
            let plan = compress_tensor(named, options, calibration.as_ref(), &watch)?;
            writer.add(named.name(), &plan.tensor)?;
            named.forget();
            let seconds = begun.elapsed().as_secs_f64();
            let calibrated = calibration.as_ref().is_some_and(|c| c.has(named.name()));
            let candidates = || plan.candidates.iter().map(CandidateReport::new).collect();
            tensors.push(TensorReport {
                candidates: options.explain.then(candidates),
                ..TensorReport::new(named.name(), &plan.tensor, calibrated, seconds)
            });
            watch.finish_tensor(named.name(), named.byte_len() as u64)?;
        }
        Ok(())
    })?;
    for (alias, target) in model.aliases() {
        writer.alias(alias, target)?;
    }
    let summary = writer.finish()?;
    Ok(Report {
        input_bytes: model.input_bytes(),
        output_bytes: summary.file_bytes,
        ratio: model.input_bytes() as f64 / summary.file_bytes as f64,
        seconds: start.elapsed().as_secs_f64(),
        index_bytes: summary.index_bytes,
        header_bytes: summary.header_bytes,
        aliases: model.aliases().iter().cloned().collect(),
        tensors,
    })
}

fn compress_tensor(
    named: &NamedTensor,
    options: &CompressOptions,
    calibration: Option<&Calibration>,
    watch: &Watch<'_, '_>,
) -> Result<Plan> {
    let view = named.view();
    let cancelled = || watch.tick(named.name());
    let work = || {
        let name = named.name();
        let moments = match calibration {
            Some(file) => file.moments(name, view.shape(), view.cols())?,
            None => None,
        };
        let context = EncodeContext {
            cancelled: Some(&cancelled),
            moments: moments.as_ref(),
            ..EncodeContext::default()
        };
        let by_name = options.tensors.iter().find(|(r, _)| r.is_match(name));
        let excluded = options.exclude.as_ref().is_some_and(|r| r.is_match(name));
        let spec = match by_name {
            _ if excluded => form::parse("lossless")?,
            Some((_, spec)) => spec.clone(),
            None => plan::spec_for(&view, &options.spec)?,
        };
        let plan = plan::choose(&view, &spec, &context)?;
        // Where every bit is kept there is nothing that an entry would change.
        let without = calibration.is_some() && moments.is_none();
        let lossy = !form::is_lossless(plan.tensor.spec())?;
        let note = (without && lossy).then(|| "no entry in the calibration file".to_owned());
        Ok(Plan {
            tensor: plan.tensor.with_notes(note),
            ..plan
        })
    };
    work().map_err(|e: Error| e.with_tensor(named.name()))
}

/// Writes every tensor of an archive, decoded, to a safetensors file. Returns its size.
pub fn decompress_file(
    input: &Path,
    output: &Path,
    threads: usize,
    progress: Option<&mut ProgressFn<'_>>,
) -> Result<u64> {
    let archive = Archive::open(input)?;
    refuse_same_file(&[input.to_owned()], output)?;
    let mut infos = Vec::new();
    let mut entries = Vec::new();
    let names = archive.entries().iter().map(|e| (e.name(), e));
    let aliases = archive.aliases().iter();
    let aliases = aliases.map(|(alias, target)| Ok((alias.as_str(), archive.entry(target)?)));
    for item in names.map(Ok).chain(aliases) {
        let (name, entry) = item?;
        infos.push(export::safetensors::TensorInfo {
            name: name.to_owned(),
            dtype: entry.dtype()?,
            shape: entry.shape().to_vec(),
        });
        entries.push(entry);
    }
    let metadata = archive
        .metadata()
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .collect();
    let total = entries.iter().map(|e| e.raw_bytes()).sum();
    let watch = Watch::new(progress, total, entries.len());
    let mut writer = export::safetensors::Writer::create(output, &infos, &metadata)?;
    in_pool(threads, || {
        for (info, entry) in infos.iter().zip(&entries) {
            let tensor = archive.open_entry(entry)?;
            for_windows(&tensor, &mut |bytes| {
                if watch.tick(&info.name) {
                    return Err(Error::cancelled());
                }
                writer.write(bytes)
            })?;
            watch.finish_tensor(&info.name, entry.raw_bytes())?;
        }
        Ok(())
    })?;
    writer.finish()
}

/// Bytes that are decoded at a time when a whole tensor streams by.
const STREAM_BYTES: usize = 8 << 20;

/// Decodes a tensor window by window.
fn for_windows(tensor: &Tensor, f: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let row_bytes = tensor.meta().row_bytes();
    if row_bytes == 0 || tensor.rows() == 0 {
        return Ok(());
    }
    let unit = tensor.form().row_unit();
    let step = (STREAM_BYTES / row_bytes / unit * unit).max(unit);
    // A row may be larger than memory: an archive can claim anything.
    let mut out = AlignedBytes::zeroed(step.min(tensor.rows()) * row_bytes)?;
    let mut start = 0;
    while start < tensor.rows() {
        let rows = start..(start + step).min(tensor.rows());
        let out = &mut out[..rows.len() * row_bytes];
        tensor.decode_rows(rows.clone(), out)?;
        f(out)?;
        start = rows.end;
    }
    Ok(())
}

/// How one tensor differs between two models.
#[derive(Clone, Debug, Serialize)]
pub struct TensorDiff {
    /// Its name.
    pub name: String,
    /// `same` (bit for bit), `differs`, `shape` (shape or dtype), `only_a`, `only_b`.
    pub status: &'static str,
    /// `‖A − B‖ / ‖A‖`, where both have the same shape.
    pub relative_error: Option<f64>,
    /// In dB.
    pub sqnr_db: Option<f64>,
    /// `max |a − b|`.
    pub max_abs_error: Option<f64>,
}

/// A model of any format that can be read, archives too.
#[derive(Debug)]
pub enum AnyModel {
    /// A `.cai` archive.
    Archive(Archive),
    /// A foreign model.
    Import(import::Model),
}

impl AnyModel {
    /// Opens an archive or any format of `import`, by content. A file of no known format
    /// that is named `.cai` is opened as an archive all the same, so that the error says
    /// what is wrong with it.
    pub fn open(path: &Path) -> Result<Self> {
        let mut head = [0u8; 8];
        // A folder may hold a sharded model; what else cannot be opened, the importers say.
        let is_archive = open_file(path).is_ok_and(|(mut file, _)| {
            std::io::Read::read_exact(&mut file, &mut head).is_ok() && Archive::detect(&head)
        });
        if is_archive {
            return Ok(Self::Archive(Archive::open(path)?));
        }
        match import::Model::open(path) {
            Err(e)
                if e.kind() == ErrorKind::Unsupported
                    && path.extension().is_some_and(|e| e == "cai") =>
            {
                Ok(Self::Archive(Archive::open(path)?))
            }
            model => Ok(Self::Import(model?)),
        }
    }

    /// All names in order, aliases at the end.
    pub fn names(&self) -> Vec<String> {
        let (names, aliases): (Vec<_>, _) = match self {
            Self::Archive(a) => (
                a.entries().iter().map(|e| e.name().to_owned()).collect(),
                a.aliases(),
            ),
            Self::Import(m) => (
                m.tensors().iter().map(|t| t.name().to_owned()).collect(),
                m.aliases(),
            ),
        };
        let aliases = aliases.iter().map(|(a, _)| a.clone());
        names.into_iter().chain(aliases).collect()
    }

    /// A tensor that can be read by windows; foreign ones as `dense`, in place.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        match self {
            Self::Archive(a) => a.tensor(name),
            Self::Import(m) => {
                let named = m
                    .get(name)
                    .ok_or_else(|| Error::invalid(format!("no tensor '{name}'")))?;
                let spec = form::parse("dense")?;
                let tensor = form::encode(&named.view(), &spec, &EncodeContext::default())?;
                Ok(tensor.named(name))
            }
        }
    }
}

/// Compares two models tensor by tensor, window by window.
pub fn diff(a: &Path, b: &Path) -> Result<Vec<TensorDiff>> {
    let (a, b) = (AnyModel::open(a)?, AnyModel::open(b)?);
    let (names, others) = (a.names(), b.names());
    let mut out = Vec::new();
    let one_sided = |name: &str, status| TensorDiff {
        name: name.to_owned(),
        status,
        relative_error: None,
        sqnr_db: None,
        max_abs_error: None,
    };
    let in_b: std::collections::HashSet<&str> = others.iter().map(String::as_str).collect();
    let in_a: std::collections::HashSet<&str> = names.iter().map(String::as_str).collect();
    for name in &names {
        if !in_b.contains(name.as_str()) {
            out.push(one_sided(name, "only_a"));
            continue;
        }
        let (x, y) = (a.tensor(name)?, b.tensor(name)?);
        if x.dtype() != y.dtype() || x.shape() != y.shape() {
            out.push(one_sided(name, "shape"));
            continue;
        }
        out.push(diff_tensor(name, &x, &y)?);
    }
    for name in others.iter().filter(|n| !in_a.contains(n.as_str())) {
        out.push(one_sided(name, "only_b"));
    }
    Ok(out)
}

fn diff_tensor(name: &str, a: &Tensor, b: &Tensor) -> Result<TensorDiff> {
    let row_bytes = a.meta().row_bytes();
    let dtype = a.dtype();
    let (mut error, mut norm, mut max, mut same) = (0.0f64, 0.0f64, 0.0f64, true);
    let mut other = AlignedBytes::default();
    let mut row = 0;
    for_windows(a, &mut |bytes| {
        let rows = row..row + bytes.len() / row_bytes;
        row = rows.end;
        if other.len() != bytes.len() {
            other = AlignedBytes::zeroed(bytes.len())?;
        }
        b.decode_rows(rows, &mut other)?;
        if *bytes == *other {
            for v in values(dtype, bytes) {
                norm += v * v;
            }
            return Ok(());
        }
        same = false;
        for (x, y) in values(dtype, bytes).zip(values(dtype, &other)) {
            error += (x - y) * (x - y);
            norm += x * x;
            max = max.max((x - y).abs());
        }
        Ok(())
    })?;
    let stats = ErrorStats::from_sums(error, norm, max);
    Ok(TensorDiff {
        name: name.to_owned(),
        status: if same { "same" } else { "differs" },
        relative_error: Some(stats.relative),
        sqnr_db: stats.sqnr_db(),
        max_abs_error: Some(stats.max_abs),
    })
}

fn values(dtype: DType, bytes: &[u8]) -> impl Iterator<Item = f64> + '_ {
    bytes.chunks_exact(dtype.size()).map(move |e| {
        if let (DType::F64, Some(b)) = (dtype, e.first_chunk()) {
            return f64::from_le_bytes(*b);
        }
        let mut one = [0.0];
        dtype.to_f32(e, &mut one);
        f64::from(one[0])
    })
}

fn in_pool<T: Send>(threads: usize, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    if threads > limits::MAX_THREADS {
        return Err(Error::invalid(format!(
            "options.threads is {threads}; at most {} are possible",
            limits::MAX_THREADS
        )));
    }
    if threads == 0 || threads == rayon::current_num_threads() {
        return work();
    }
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .map_err(|e| Error::new(ErrorKind::OutOfMemory, format!("cannot start threads: {e}")))?;
    pool.install(work)
}

/// The output is written beside its place and renamed, so writing it would not destroy a
/// mapped input before it is read; but it would take its place, which nobody wants.
fn refuse_same_file(inputs: &[PathBuf], output: &Path) -> Result<()> {
    let Ok(target) = output.canonicalize() else {
        return Ok(());
    };
    for input in inputs {
        if input.canonicalize().is_ok_and(|i| i == target) {
            return Err(Error::invalid(format!(
                "{} is both input and output",
                output.display()
            )));
        }
    }
    Ok(())
}

/// Tells a progress callback, from whichever thread, at most every 50 ms.
struct Watch<'a, 'f> {
    state: Mutex<WatchState<'a, 'f>>,
    total_bytes: u64,
    total_tensors: usize,
}

struct WatchState<'a, 'f> {
    call: Option<&'a mut ProgressFn<'f>>,
    done_bytes: u64,
    done_tensors: usize,
    last: Instant,
    stop: bool,
}

impl<'a, 'f> Watch<'a, 'f> {
    fn new(call: Option<&'a mut ProgressFn<'f>>, total_bytes: u64, total_tensors: usize) -> Self {
        let state = WatchState {
            call,
            done_bytes: 0,
            done_tensors: 0,
            last: Instant::now(),
            stop: false,
        };
        Self {
            state: Mutex::new(state),
            total_bytes,
            total_tensors,
        }
    }

    /// Whether to stop.
    fn tick(&self, tensor: &str) -> bool {
        // A thread that finds another one at it has nothing to add.
        let Ok(mut state) = self.state.try_lock() else {
            return false;
        };
        if state.last.elapsed() >= Duration::from_millis(50) {
            self.call(&mut state, tensor);
        }
        state.stop
    }

    fn finish_tensor(&self, tensor: &str, bytes: u64) -> Result<()> {
        let mut state = self.state.lock().unwrap_or_else(|e| e.into_inner());
        state.done_bytes += bytes;
        state.done_tensors += 1;
        self.call(&mut state, tensor);
        if state.stop {
            Err(Error::cancelled())
        } else {
            Ok(())
        }
    }

    fn call(&self, state: &mut WatchState<'_, '_>, tensor: &str) {
        state.last = Instant::now();
        let progress = Progress {
            done_bytes: state.done_bytes,
            total_bytes: self.total_bytes,
            done_tensors: state.done_tensors,
            total_tensors: self.total_tensors,
            tensor,
        };
        if let Some(call) = &mut state.call
            && !call(&progress)
        {
            state.stop = true;
        }
    }
}
