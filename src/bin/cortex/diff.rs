//! `cortex diff`.

use std::path::PathBuf;

use cortex::model::{self, TensorDiff};
use serde_json::json;

use crate::failure::{Done, Failure, Outcome};
use crate::table::{Column, Table};
use crate::text;

/// Compare two models tensor by tensor
///
/// Either may be an archive or any format that can be imported. Errors are relative to A:
/// ‖A − B‖ / ‖A‖. Exits with 0 whether or not the models differ.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  cortex diff model.safetensors model.cai")]
pub(crate) struct Args {
    /// The model to compare with
    #[arg(value_name = "A")]
    a: PathBuf,

    /// The model that is compared
    #[arg(value_name = "B")]
    b: PathBuf,
}

impl Args {
    pub(crate) fn run(self) -> Outcome {
        let tensors = model::diff(&self.a, &self.b).map_err(|e| {
            let failure = Failure::of(e);
            // Errors of opening name the file; damage found later could be in either.
            let named = [&self.a, &self.b]
                .iter()
                .any(|p| failure.message().contains(&p.display().to_string()));
            if named {
                failure
            } else {
                failure.hint("'cortex verify' tells which of the files is damaged")
            }
        })?;
        let count = |status: &str| tensors.iter().filter(|t| t.status == status).count();
        let worst = tensors.iter().filter_map(|t| t.relative_error);
        let worst = worst.fold(0.0f64, f64::max);
        let statuses = ["same", "differs", "shape", "only_a", "only_b"].map(|s| (s, count(s)));

        let words = [
            "the same bit for bit",
            "different",
            "of another shape or type",
        ];
        let mut parts: Vec<String> = statuses
            .iter()
            .zip(words)
            .filter(|((_, n), _)| *n > 0)
            .map(|((_, n), word)| format!("{n} {word}"))
            .collect();
        for ((_, n), path) in statuses[3..].iter().zip([&self.a, &self.b]) {
            if *n > 0 {
                let path = path.display().to_string();
                parts.push(format!("{n} only in {}", text::printable(&path)));
            }
        }
        let summary = match parts.is_empty() {
            true => "no tensors in either".to_owned(),
            false => parts.join(", "),
        };
        let worst_text = match count("differs") {
            0 => String::new(),
            _ => format!("; largest error {}", text::error(worst)),
        };
        let mut json = json!({
            "identical": statuses[1..].iter().all(|(_, n)| *n == 0),
            "largest_relative_error": worst,
        });
        for (status, n) in statuses {
            json[status] = n.into();
        }
        json["tensors"] = serde_json::to_value(&tensors)
            .map_err(|e| cortex::Error::internal(format!("cannot print the differences: {e}")))?;
        Ok(Done {
            text: format!(
                "{}\n{}: {summary}{worst_text}\n",
                table(&tensors).render(),
                text::count(tensors.len(), "tensor"),
            ),
            json,
        })
    }
}

fn table(tensors: &[TensorDiff]) -> Table {
    let mut table = Table::new(&[
        Column::left("Tensor").wrap('.'),
        Column::left("Status"),
        Column::right("Error"),
        Column::right("SQNR").rank(2),
        Column::right("Max abs").rank(1),
    ]);
    for t in tensors {
        let status = match t.status {
            "same" => "same",
            "differs" => "differs",
            "shape" => "other shape or type",
            "only_a" => "only in A",
            _ => "only in B",
        };
        let differs = t.status == "differs";
        table.row(vec![
            text::printable(&t.name).into_owned(),
            status.into(),
            t.relative_error
                .filter(|_| differs)
                .map_or(String::new(), text::error),
            text::decibel(t.sqnr_db),
            t.max_abs_error
                .filter(|_| differs)
                .map_or(String::new(), |m| format!("{m:.3e}")),
        ]);
    }
    table
}
