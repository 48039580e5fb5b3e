//! `cortex verify`.

use std::path::PathBuf;
use std::time::Instant;

use cortex::archive::Archive;
use cortex::import;
use serde_json::json;

use crate::failure::{CORRUPT, Done, Failure, Outcome, WRONG_USAGE};
use crate::text;

/// Read every byte of an archive and check it
///
/// Exits with 0 if the file is as it was written, with 3 if it is damaged, naming the tensor
/// and the offset of each place.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  cortex verify model.cai && echo whole")]
pub(crate) struct Args {
    /// Archive to check
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Errors printed as text; one a tensor would fill the screen.
const SHOWN: usize = 20;

impl Args {
    pub(crate) fn run(self) -> Outcome {
        let start = Instant::now();
        let archive = match Archive::open(&self.file) {
            Ok(archive) => archive,
            Err(error) => return Err(self.refused(error)),
        };
        let errors: Vec<Failure> = archive
            .verify()
            .into_iter()
            .map(|e| *Failure::of(e).in_file(&self.file, None))
            .collect();
        let seconds = start.elapsed().as_secs_f64();
        let fields = json!({
            "ok": errors.is_empty(),
            "file_bytes": archive.file_bytes(),
            "tensors": archive.entries().len(),
            "seconds": seconds,
            "errors": list(&errors),
        });
        let Some(mut first) = first(errors) else {
            return Ok(Done {
                text: format!(
                    "{}: good; {} and {} checked in {}\n",
                    text::printable(&self.file.display().to_string()),
                    text::count(archive.entries().len(), "tensor"),
                    text::bytes(archive.file_bytes()),
                    text::seconds(seconds),
                ),
                json: fields,
            });
        };
        if first.more.len() >= SHOWN {
            let rest = first.more.len() - (SHOWN - 1);
            first.more.truncate(SHOWN - 1);
            first.more.push(format!("and {rest} more"));
        }
        Err(first.with_fields(fields))
    }

    /// A file that does not even open.
    fn refused(&self, error: cortex::Error) -> Box<Failure> {
        let failure = Failure::of(error).in_file(&self.file, None);
        if failure.code != CORRUPT {
            return failure;
        }
        if let Ok(model) = import::Model::open(&self.file) {
            let mut failure = failure.hint(format!(
                "this is a {} file, which holds no checksums; only archives can be verified",
                model.format()
            ));
            failure.code = WRONG_USAGE;
            return failure;
        }
        let fields = json!({"ok": false, "errors": list(std::slice::from_ref(&*failure))});
        failure.with_fields(fields)
    }
}

fn list(errors: &[Failure]) -> Vec<serde_json::Value> {
    errors.iter().map(|e| e.json()["error"].clone()).collect()
}

/// The first error with the others behind it; damage comes before a form that this version
/// does not know.
fn first(mut errors: Vec<Failure>) -> Option<Box<Failure>> {
    let worst = errors.iter().map(|e| e.code).max()?;
    let first = errors.iter().position(|e| e.code == worst)?;
    let mut first = errors.remove(first);
    first.more = errors.iter().map(|e| e.message().to_owned()).collect();
    Some(Box::new(first))
}
