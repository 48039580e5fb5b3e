//! `cortex inspect`.

use std::path::PathBuf;

use cortex::archive::Archive;
use cortex::form::{Form, Part};
use cortex::import;
use cortex::model::{self, AnyModel};
use serde_json::{Map, Value, json};

use crate::failure::{Done, Failure, Outcome};
use crate::table::{self, Column, Table};
use crate::text;

/// Show what a model file holds
///
/// Of an archive: every tensor with its spec, size and error, read from the index alone. Of
/// any other format: names, types and shapes.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  cortex inspect model.cai
  cortex inspect model.cai --tensor encoder.layer.0.output.dense.weight
  cortex inspect model.safetensors --json")]
pub(crate) struct Args {
    /// Archive, or any model that can be imported
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Show one tensor with the parts that it is stored in
    #[arg(long, value_name = "NAME")]
    tensor: Option<String>,
}

impl Args {
    pub(crate) fn run(self) -> Outcome {
        let model = AnyModel::open(&self.file);
        let done = model.map_err(Failure::of).and_then(|m| match &m {
            AnyModel::Archive(archive) => match &self.tensor {
                Some(name) => archive_tensor(archive, name),
                None => self.archive(archive),
            },
            AnyModel::Import(foreign) => match &self.tensor {
                Some(name) => foreign_tensor(foreign, name),
                None => self.foreign(foreign),
            },
        });
        done.map_err(|f| f.in_file(&self.file, None))
    }

    fn archive(&self, archive: &Archive) -> Outcome {
        let report = model::inspect(archive);
        let metadata: Map<String, Value> = archive
            .metadata()
            .map(|(k, v)| (k.to_owned(), v.into()))
            .collect();
        let mut text = format!(
            "{}: .cai archive by {}\n\n",
            text::printable(&self.file.display().to_string()),
            text::printable(archive.generator()),
        );
        text += &table::of_tensors(&report.tensors).render();
        let aliases = archive.aliases().iter();
        text += &table::aliases(aliases.map(|(a, t)| (a.as_str(), t.as_str())));
        text += &format!(
            "\n{} in the file, {} of it index and header: {}\n",
            text::bytes(report.output_bytes),
            text::bytes(report.index_bytes + report.header_bytes),
            text::ratio(report.input_bytes, report.output_bytes),
        );
        text += &metadata_text(&metadata);
        let mut json = json!({
            "format": "cai",
            "generator": archive.generator(),
            "metadata": metadata,
        });
        extend(&mut json, to_json(&report)?);
        Ok(Done { text, json })
    }

    fn foreign(&self, model: &import::Model) -> Outcome {
        let mut table = Table::new(&[
            Column::left("Tensor").wrap('.'),
            Column::left("Type"),
            Column::right("Shape"),
            Column::right("Raw"),
        ]);
        let mut raw = 0;
        for t in model.tensors() {
            raw += t.byte_len() as u64;
            table.row(vec![
                text::printable(t.name()).into_owned(),
                t.dtype().name().into(),
                text::shape(t.shape()),
                text::bytes(t.byte_len() as u64),
            ]);
        }
        table.total(vec![
            text::count(model.tensors().len(), "tensor"),
            String::new(),
            String::new(),
            text::bytes(raw),
        ]);
        let metadata = model.metadata().iter();
        let metadata: Map<String, Value> = metadata
            .map(|(k, v)| (k.clone(), v.as_str().into()))
            .collect();
        let files = match model.sources().len() {
            1 => String::new(),
            n => format!(" in {n} files"),
        };
        let mut text = format!(
            "{}: {}, {}{files}\n\n",
            text::printable(&self.file.display().to_string()),
            model.format(),
            text::bytes(model.input_bytes()),
        );
        text += &table.render();
        let aliases = model.aliases().iter();
        text += &table::aliases(aliases.map(|(a, t)| (a.as_str(), t.as_str())));
        text += &metadata_text(&metadata);
        let aliases: Map<String, Value> = model
            .aliases()
            .iter()
            .map(|(a, t)| (a.clone(), t.as_str().into()))
            .collect();
        let json = json!({
            "format": model.format(),
            "metadata": metadata,
            "input_bytes": model.input_bytes(),
            "aliases": aliases,
            "tensors": model.tensors().iter().map(foreign_json).collect::<Vec<_>>(),
        });
        Ok(Done { text, json })
    }
}

fn metadata_text(metadata: &Map<String, Value>) -> String {
    /// Longer values (tokenizers, licences) are in `--json`.
    const SHOWN: usize = 100;
    if metadata.is_empty() {
        return String::new();
    }
    let mut text = String::from("\nMetadata\n");
    for (key, value) in metadata {
        let value = value.as_str().unwrap_or_default();
        let mut shown: String = value.chars().take(SHOWN).collect();
        if shown.len() < value.len() {
            shown.push('…');
        }
        text += &format!("  {} = {}\n", text::printable(key), text::printable(&shown));
    }
    text
}

fn foreign_json(t: &import::NamedTensor) -> Value {
    json!({
        "name": t.name(),
        "dtype": t.dtype().name(),
        "shape": t.shape(),
        "raw_bytes": t.byte_len(),
    })
}

fn foreign_tensor(model: &import::Model, name: &str) -> Outcome {
    let tensor = model.get(name).ok_or_else(|| {
        Failure::usage(format!("no tensor '{name}'")).hint("without --tensor all are listed")
    })?;
    let mut json = foreign_json(tensor);
    json["name"] = name.into();
    let mut lines = vec![
        ("tensor", name.to_owned()),
        ("type", tensor.dtype().name().to_owned()),
        ("shape", text::shape(tensor.shape())),
        ("raw", text::bytes(tensor.byte_len() as u64)),
    ];
    if tensor.name() != name {
        json["alias_of"] = tensor.name().into();
        lines.push(("alias of", tensor.name().to_owned()));
    }
    Ok(Done {
        text: fields(&lines),
        json,
    })
}

fn archive_tensor(archive: &Archive, name: &str) -> Outcome {
    let entry = archive.entry(name).map_err(|e| {
        // The nearest name stands in the message.
        Failure::of(e).hint("without --tensor all are listed")
    })?;
    let all = model::inspect(archive).tensors;
    let report = all.into_iter().find(|t| t.name == entry.name());
    let report = report.ok_or_else(|| cortex::Error::internal("an entry that is not listed"))?;
    let tensor = archive.open_entry(entry)?;

    let mut parts = Table::new(&[
        Column::left("Part"),
        Column::right("Raw"),
        Column::right("Stored"),
        Column::right("Chunks"),
        Column::left("Packs").wrap(' '),
        Column::left("Read").rank(1),
    ]);
    let form = parts_of(tensor.form(), "", &mut parts);
    parts.total(vec![
        format!("tensor of {}", tensor.form().kind()),
        text::bytes(report.raw_bytes),
        text::bytes(report.stored_bytes),
        String::new(),
        String::new(),
        String::new(),
    ]);

    let error = match report.sqnr_db {
        None => "exact".to_owned(),
        some => format!(
            "{} ({}), at most {:.3e} a weight",
            text::error(report.relative_error),
            text::decibel(some),
            report.max_abs_error
        ),
    };
    let mut lines = vec![
        ("tensor", name.to_owned()),
        ("type", report.dtype.clone()),
        ("shape", text::shape(&report.shape)),
        ("spec", report.spec.clone()),
        ("raw", text::bytes(report.raw_bytes)),
        (
            "stored",
            format!(
                "{}, {} bits a weight, {}",
                text::bytes(report.stored_bytes),
                (report.bits_per_weight * 100.0).round() / 100.0,
                text::ratio(report.raw_bytes, report.stored_bytes)
            ),
        ),
        ("error", error),
    ];
    let mut json = to_json(&report)?;
    json["name"] = name.into();
    if report.name != name {
        json["alias_of"] = report.name.as_str().into();
        lines.push(("alias of", report.name));
    }
    json["form"] = form;
    Ok(Done {
        text: format!("{}\n{}", fields(&lines), parts.render()),
        json,
    })
}

/// A form as JSON; its buffers also as rows, those of nested forms under a path.
fn parts_of(form: &dyn Form, path: &str, table: &mut Table) -> Value {
    let mut parts = Vec::new();
    for (name, part) in form.parts() {
        let full = format!("{path}{name}");
        parts.push(match part {
            Part::Buffer(b) => {
                let packs = b.chain().text();
                table.row(vec![
                    full,
                    text::bytes(b.len() as u64),
                    text::bytes(b.stored_len()),
                    b.chunk_count().to_string(),
                    packs.clone(),
                    if b.in_place() { "in place" } else { "decoded" }.into(),
                ]);
                json!({
                    "name": name,
                    "raw_bytes": b.len(),
                    "stored_bytes": b.stored_len(),
                    "chunks": b.chunk_count(),
                    "chunk_bytes": b.chunk_len(),
                    "packs": packs,
                    "in_place": b.in_place(),
                })
            }
            Part::Form(f) => json!({
                "name": name,
                "form": parts_of(f, &format!("{full}."), table),
            }),
        });
    }
    json!({
        "kind": form.kind(),
        "dtype": form.meta().dtype.name(),
        "shape": form.meta().shape,
        "params": form.params(),
        "parts": parts,
    })
}

fn fields(lines: &[(&str, String)]) -> String {
    let line = |(label, value): &(&str, String)| format!("{label:<9} {}\n", text::printable(value));
    lines.iter().map(line).collect()
}

fn to_json(value: &impl serde::Serialize) -> Result<Value, Box<Failure>> {
    serde_json::to_value(value)
        .map_err(|e| cortex::Error::internal(format!("cannot print the report: {e}")).into())
}

fn extend(object: &mut Value, more: Value) {
    if let (Value::Object(object), Value::Object(more)) = (object, more) {
        object.extend(more);
    }
}
