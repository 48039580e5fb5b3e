//! What a command gives back: its result in both shapes, or why there is none.

use std::path::Path;

use cortex::{Error, ErrorKind};
use serde_json::{Map, Value, json};

/// The work failed.
pub(crate) const FAILED: u8 = 1;
/// The arguments are wrong.
pub(crate) const WRONG_USAGE: u8 = 2;
/// An input is damaged.
pub(crate) const CORRUPT: u8 = 3;

/// A command's result, for people and for programs.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) text: String,
    pub(crate) json: Value,
}

/// What every command returns.
pub(crate) type Outcome = Result<Done, Box<Failure>>;

/// Why a command failed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: u8,
    kind: ErrorKind,
    /// One line.
    message: String,
    tensor: Option<String>,
    offset: Option<u64>,
    /// Indented lines below the message (a spec with a caret).
    pub(crate) detail: Option<String>,
    /// What to do about it, one line.
    pub(crate) hint: Option<String>,
    /// Further errors, a line each.
    pub(crate) more: Vec<String>,
    /// What the JSON object holds beside `error`.
    fields: Map<String, Value>,
}

impl Failure {
    /// Why the library failed.
    pub(crate) fn of(error: Error) -> Box<Self> {
        let code = match error.kind() {
            ErrorKind::Corrupt | ErrorKind::LimitExceeded => CORRUPT,
            // Without a tensor it was an argument that the library refused; with one, a
            // tensor that cannot be stored as asked.
            ErrorKind::InvalidArgument if error.tensor().is_none() => WRONG_USAGE,
            _ => FAILED,
        };
        Box::new(Self {
            code,
            kind: error.kind(),
            message: error.to_string(),
            tensor: error.tensor().map(str::to_owned),
            offset: error.offset(),
            detail: None,
            hint: None,
            more: Vec::new(),
            fields: Map::new(),
        })
    }

    /// Arguments that cannot be right.
    pub(crate) fn usage(message: impl Into<String>) -> Box<Self> {
        let mut failure = Self::of(Error::invalid(message));
        failure.code = WRONG_USAGE;
        failure
    }

    /// Puts the input's name before the message, unless that names it or the output.
    #[must_use]
    pub(crate) fn in_file(mut self: Box<Self>, input: &Path, output: Option<&Path>) -> Box<Self> {
        let mut paths = [Some(input), output].into_iter().flatten();
        if !paths.any(|p| self.message.contains(&p.display().to_string())) {
            self.message = format!("{}: {}", input.display(), self.message);
        }
        if let Some(folder) = output.and_then(Path::parent)
            && self.kind == ErrorKind::Io
            && folder != Path::new("")
            && !folder.exists()
        {
            self.hint = Some(format!("the folder {} does not exist", folder.display()));
        }
        self
    }

    #[must_use]
    pub(crate) fn hint(mut self: Box<Self>, hint: impl Into<String>) -> Box<Self> {
        self.hint = Some(hint.into());
        self
    }

    #[must_use]
    pub(crate) fn detail(mut self: Box<Self>, detail: impl Into<String>) -> Box<Self> {
        self.detail = Some(detail.into());
        self
    }

    /// Adds fields to the JSON object.
    #[must_use]
    pub(crate) fn with_fields(mut self: Box<Self>, fields: Value) -> Box<Self> {
        if let Value::Object(fields) = fields {
            self.fields.extend(fields);
        }
        self
    }

    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// The object that `--json` prints.
    pub(crate) fn json(&self) -> Value {
        let mut object = self.fields.clone();
        object.insert(
            "error".into(),
            json!({
                "kind": self.kind.name(),
                "message": self.message,
                "tensor": self.tensor,
                "offset": self.offset,
                "exit_code": self.code,
            }),
        );
        Value::Object(object)
    }
}

impl From<Error> for Box<Failure> {
    fn from(error: Error) -> Self {
        Failure::of(error)
    }
}
