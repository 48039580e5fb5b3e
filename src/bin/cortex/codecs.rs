//! `cortex codecs`.

use cortex::form;
use serde_json::Value;

use crate::failure::{Done, Outcome};

/// List everything that a spec may name, with its options
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A spec is a form, with packs behind it if bytes are to be coded without loss:
  int8                          int4(group=64, search=lsq)
  dense | shuffle | zstd(9)     mask(keep=10%, values=[int8])

The first option may be given without its name: zstd(9) is zstd(level=9).")]
pub(crate) struct Args {}

impl Args {
    pub(crate) fn run(self) -> Outcome {
        let json = form::codecs_json();
        let mut text = String::new();
        for (group, title) in [
            ("directives", "Directives: choose a form by measuring"),
            ("forms", "Forms: how values are represented"),
            (
                "packs",
                "Packs: lossless coding of a form's bytes, after '|'",
            ),
        ] {
            text += title;
            text.push('\n');
            for codec in json[group].as_array().into_iter().flatten() {
                text += &format!(
                    "  {:<12}{}\n",
                    word(&codec["name"]),
                    word(&codec["summary"])
                );
                for option in codec["options"].as_array().into_iter().flatten() {
                    text += &line(option);
                }
            }
            text.push('\n');
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
        Ok(Done { text, json })
    }
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn line(option: &Value) -> String {
    let usage = format!("{}={}", word(&option["key"]), word(&option["values"]));
    let default = match option["default"].as_str() {
        Some(default) => format!(" [{default}]"),
        None => String::new(),
    };
    format!("      {usage:<34}  {}{default}\n", word(&option["doc"]))
}
