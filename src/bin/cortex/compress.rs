//! `cortex compress`.

use std::path::PathBuf;

use cortex::model::{self, CompressOptions, Report};
use cortex::{ErrorKind, Spec, form, plan, spec};
use regex::Regex;
use serde_json::Value;

use crate::failure::{Done, Failure, Outcome};
use crate::{output, progress, table, text};

/// Compress a model file into a .cai archive
///
/// Without a spec every tensor becomes as small as it gets with at most 1 % relative error,
/// which is found by measuring. Specs that lose precision leave integers, bools, vectors and
/// tensors under 4096 elements lossless; --tensor names any of them all the same.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  cortex compress model.safetensors -o model.cai
  cortex compress model/ -o model.cai --target-bits 4.5
  cortex compress model.safetensors -o model.cai --spec int8 --exclude 'embed|lm_head'
  cortex compress model.safetensors --dry-run --tensor 'attn=int8' --tensor 'mlp=int4'
  cortex compress model.safetensors --dry-run --explain

Specs: 'cortex codecs' lists every form, pack and option.")]
pub(crate) struct Args {
    /// Model file, index of shards, or folder with either; the format is found by content
    #[arg(value_name = "IN")]
    input: PathBuf,

    /// Archive to write; it appears when it is complete, and what stood there stays until then
    #[arg(
        short,
        long,
        value_name = "OUT.cai",
        required_unless_present = "dry_run"
    )]
    output: Option<PathBuf>,

    #[command(flatten)]
    how: How,

    /// How to store the tensors whose name matches, to the letter; the first match counts
    ///
    /// The text before the first '=' is a regular expression that may match anywhere in the
    /// name (write \x3d for a '=' in it), the text after it a spec.
    #[arg(long = "tensor", value_name = "REGEX=SPEC")]
    tensors: Vec<String>,

    /// Tensors whose name matches stay lossless, whatever else is said; may be repeated
    #[arg(long, value_name = "REGEX")]
    exclude: Vec<String>,

    /// Second moments of the inputs of tensors, for search=gptq and score=wanda or sparsegpt
    ///
    /// A model file of any format (safetensors, npy, npz) whose entries have the names of the
    /// tensors: [in], the mean square of each input, or [in, in], the means of the products of
    /// inputs, for a tensor of shape [out, in]. Tensors without an entry do without.
    #[arg(long, value_name = "FILE")]
    calibration: Option<PathBuf>,

    /// Threads, 0 for all cores; the bytes written do not depend on it
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    #[arg(value_parser = clap::value_parser!(u16).range(..=1024))]
    threads: u16,

    /// Encode and report, to the byte, without writing a file
    #[arg(long)]
    dry_run: bool,

    /// Show what was measured for each tensor, and why each candidate was taken or not
    #[arg(long)]
    explain: bool,
}

#[derive(Debug, clap::Args)]
#[group(multiple = false)]
struct How {
    /// How to store every tensor that nothing else names, such as 'int8' or 'dense | zstd'
    #[arg(short, long, value_name = "SPEC")]
    spec: Option<String>,

    /// Smallest size with at most this relative error a tensor, such as 1%, the default
    #[arg(long, value_name = "PERCENT", allow_negative_numbers = true)]
    max_error: Option<String>,

    /// Smallest error with at most this many bits per weight a tensor, all counted
    #[arg(long, value_name = "BITS", allow_negative_numbers = true)]
    target_bits: Option<String>,

    /// Smallest size that gives every bit back
    #[arg(long)]
    lossless: bool,
}

impl Args {
    pub(crate) fn run(self) -> Outcome {
        let options = CompressOptions {
            spec: self.how.spec()?,
            tensors: self
                .tensors
                .iter()
                .map(|t| by_name(t))
                .collect::<Result<_, _>>()?,
            exclude: exclude(&self.exclude)?,
            threads: self.threads.into(),
            calibration: self.calibration.clone(),
            explain: self.explain,
        };
        let output = self.output.as_deref().filter(|_| !self.dry_run);
        let report = progress::with_bar(|tell| match output {
            Some(output) => model::compress_file(&self.input, output, &options, Some(tell)),
            None => model::measure_file(&self.input, &options, Some(tell)),
        });
        let report = report.map_err(|e| self.explain(e))?;
        self.warn_of_no_match(&options, &report);

        let mut json = serde_json::to_value(&report)
            .map_err(|e| cortex::Error::internal(format!("cannot print the report: {e}")))?;
        if let (true, Value::Object(object)) = (self.dry_run, &mut json) {
            object.insert("dry_run".into(), true.into());
        }
        Ok(Done {
            text: self.text(&report),
            json,
        })
    }

    fn text(&self, report: &Report) -> String {
        let mut out = table::candidates(&report.tensors);
        out += &table::of_tensors(&report.tensors).render();
        let aliases = report.aliases.iter();
        out += &table::aliases(aliases.map(|(a, t)| (a.as_str(), t.as_str())));
        out += &notes(report);
        let to = match &self.output {
            Some(path) if !self.dry_run => {
                text::printable(&path.display().to_string()).into_owned()
            }
            _ => "an archive of".into(),
        };
        out += &format!(
            "\n{} {} → {to} {} ({} of it index and header): {} in {}\n",
            text::printable(&self.input.display().to_string()),
            text::bytes(report.input_bytes),
            text::bytes(report.output_bytes),
            text::bytes(report.index_bytes + report.header_bytes),
            text::ratio(report.input_bytes, report.output_bytes),
            text::seconds(report.seconds),
        );
        if self.dry_run {
            out += "Dry run: nothing was written.\n";
        }
        out
    }

    fn explain(&self, error: cortex::Error) -> Box<Failure> {
        let stopped = error.kind() == ErrorKind::Cancelled;
        let not_stored = error.kind() == ErrorKind::InvalidArgument && error.tensor().is_some();
        let is_archive = error.kind() == ErrorKind::Unsupported && is_archive(&self.input);
        if stopped {
            return progress::interrupted(self.output.as_deref());
        }
        let failure = Failure::of(error).in_file(&self.input, self.output.as_deref());
        if is_archive {
            return failure.hint("this is an archive already; 'cortex decompress' it first");
        }
        if not_stored {
            return failure.hint(
                "leave such tensors lossless with --exclude, or name another spec for them with --tensor",
            );
        }
        failure
    }

    /// A regex with a slip in it would otherwise pass unseen.
    fn warn_of_no_match(&self, options: &CompressOptions, report: &Report) {
        let unused = |r: &Regex| !report.tensors.iter().any(|t| r.is_match(&t.name));
        for (text, (regex, _)) in self.tensors.iter().zip(&options.tensors) {
            if unused(regex) {
                output::warn(&format!("--tensor '{text}' matches no tensor"));
            }
        }
        if let Some(path) = &self.calibration
            && !report.tensors.iter().any(|t| t.calibrated)
        {
            output::warn(&format!(
                "--calibration '{}' has no entry with the name of a tensor",
                path.display()
            ));
        }
        for text in &self.exclude {
            if Regex::new(text).is_ok_and(|r| unused(&r)) {
                output::warn(&format!("--exclude '{text}' matches no tensor"));
            }
        }
    }
}

/// Notes on tensors below the table, a line for each that is said, with the tensors that
/// it is said of.
fn notes(report: &Report) -> String {
    /// Names that stand in a line before the rest is counted.
    const NAMES: usize = 3;
    let mut all: Vec<(&str, Vec<&str>)> = Vec::new();
    for tensor in &report.tensors {
        for note in &tensor.notes {
            match all.iter_mut().find(|(n, _)| n == note) {
                Some((_, names)) => names.push(&tensor.name),
                None => all.push((note, vec![&tensor.name])),
            }
        }
    }
    let line = |(note, names): (&str, Vec<&str>)| {
        let shown: Vec<_> = names
            .iter()
            .take(NAMES)
            .map(|n| text::printable(n))
            .collect();
        let more = match names.len() - shown.len() {
            0 => String::new(),
            n => format!(" and {n} more"),
        };
        format!("note: {note}: {}{more}\n", shown.join(", "))
    };
    all.into_iter().map(line).collect()
}

fn is_archive(path: &std::path::Path) -> bool {
    matches!(model::AnyModel::open(path), Ok(model::AnyModel::Archive(_)))
}

impl How {
    fn spec(&self) -> Result<Spec, Box<Failure>> {
        let fixed = |text: &str| form::parse(text).map_err(Failure::of);
        let number = |flag: &str, text: &str, expected: &str, good: fn(f64) -> bool| {
            let n = spec::parse_number(text).filter(|n| good(*n));
            n.map(|_| ()).ok_or_else(|| {
                Failure::usage(format!("{flag}: expected {expected}, found '{text}'"))
            })
        };
        if let Some(text) = &self.spec {
            return parse_spec("--spec", text);
        }
        if let Some(text) = &self.max_error {
            let share = "a share above 0 and up to 100%, such as 1% or 0.01";
            number("--max-error", text, share, |n| n > 0.0 && n <= 1.0)?;
            return fixed(&format!("auto(error={text})"));
        }
        if let Some(text) = &self.target_bits {
            let bits = "a number above 0, such as 4.5";
            number("--target-bits", text, bits, |n| n > 0.0)?;
            return fixed(&format!("auto(bits={text})"));
        }
        fixed(if self.lossless {
            "lossless"
        } else {
            plan::DEFAULT_SPEC
        })
    }
}

/// Reads a spec; an error shows it with a caret under the column.
pub(crate) fn parse_spec(flag: &str, text: &str) -> Result<Spec, Box<Failure>> {
    form::parse(text).map_err(|e| {
        // "spec, column N: what is wrong"
        let message = e.message().strip_prefix("spec, ").unwrap_or(e.message());
        let failure = Failure::usage(format!("{flag}, {message}"))
            .hint("'cortex codecs' lists every form, pack and option");
        let column = message.strip_prefix("column ");
        let column = column.and_then(|m| m.split(':').next()?.parse::<usize>().ok());
        match column {
            // Longer ones fit no line, and escaped characters would move the caret.
            Some(column) if text.len() <= 200 && text::printable(text) == text => {
                let before = text.get(..column - 1).unwrap_or(text).chars().count();
                failure.detail(format!("{text}\n{}^", " ".repeat(before)))
            }
            _ => failure,
        }
    })
}

fn parse_regex(flag: &str, text: &str) -> Result<Regex, Box<Failure>> {
    Regex::new(text).map_err(|e| {
        // The first lines show the place with a caret, the last says what is wrong.
        let all = e.to_string();
        let (place, what) = match all.rsplit_once("\nerror: ") {
            Some((place, what)) => (place.split_once('\n').map(|(_, p)| p), what),
            None => (None, all.as_str()),
        };
        let failure = Failure::usage(format!("{flag}: '{text}' is no regular expression: {what}"));
        match place {
            Some(place) => {
                let lines: Vec<_> = place.lines().map(|l| l.get(4..).unwrap_or(l)).collect();
                failure.detail(lines.join("\n"))
            }
            None => failure,
        }
    })
}

/// `regex=spec`.
fn by_name(text: &str) -> Result<(Regex, Spec), Box<Failure>> {
    let (regex, spec) = text.split_once('=').ok_or_else(|| {
        Failure::usage(format!("--tensor: expected REGEX=SPEC, found '{text}'"))
            .hint("for example --tensor 'lm_head=int8'")
    })?;
    Ok((
        parse_regex("--tensor", regex)?,
        parse_spec(&format!("--tensor '{regex}'"), spec)?,
    ))
}

fn exclude(texts: &[String]) -> Result<Option<Regex>, Box<Failure>> {
    if texts.is_empty() {
        return Ok(None);
    }
    let mut all = Vec::with_capacity(texts.len());
    for text in texts {
        parse_regex("--exclude", text)?;
        all.push(format!("(?:{text})"));
    }
    parse_regex("--exclude", &all.join("|")).map(Some)
}
