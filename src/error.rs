//! One error type with a closed kind, for programs, and an open message, for people.

use std::fmt;

/// What a caller may branch on. Numbers are the status codes of the C ABI: they
/// come in tens, are never renumbered, and new ones are only added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(i32)]
pub enum ErrorKind {
    /// An argument, spec, shape or dtype that the caller got wrong.
    InvalidArgument = 10,
    /// Valid, but not something this build or version can do.
    Unsupported = 20,
    /// Bytes from outside that are not what they claim to be.
    Corrupt = 30,
    /// Bytes from outside that ask for more than [`crate::limits`] allows.
    LimitExceeded = 40,
    /// The operating system refused a read, write, map or rename.
    Io = 50,
    /// Memory could not be had.
    OutOfMemory = 60,
    /// The progress callback asked to stop.
    Cancelled = 70,
    /// A bug in Cortex.
    Internal = 90,
}

impl ErrorKind {
    /// The kind's stable name in snake case, as bindings and `--json` show it.
    pub fn name(self) -> &'static str {
        match self {
            Self::InvalidArgument => "invalid_argument",
            Self::Unsupported => "unsupported",
            Self::Corrupt => "corrupt",
            Self::LimitExceeded => "limit_exceeded",
            Self::Io => "io",
            Self::OutOfMemory => "out_of_memory",
            Self::Cancelled => "cancelled",
            Self::Internal => "internal",
        }
    }
}

/// Result of every fallible call in this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// An error: a kind, a message, and where known the tensor and the file offset.
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: ErrorKind,
    message: String,
    tensor: Option<String>,
    offset: Option<u64>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error of `kind`.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            message: message.into(),
            tensor: None,
            offset: None,
            source: None,
        }))
    }

    /// The caller got an argument wrong.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidArgument, message)
    }

    /// Valid, but not possible here.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, message)
    }

    /// Outside bytes are damaged.
    pub fn corrupt(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Corrupt, message)
    }

    /// Outside bytes ask for too much.
    pub fn limit(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::LimitExceeded, message)
    }

    /// The operating system refused; `what` says which operation on what.
    pub fn io(what: impl fmt::Display, source: std::io::Error) -> Self {
        let kind = match source.kind() {
            std::io::ErrorKind::OutOfMemory => ErrorKind::OutOfMemory,
            _ => ErrorKind::Io,
        };
        let mut error = Self::new(kind, format!("{what}: {source}"));
        error.0.source = Some(Box::new(source));
        error
    }

    /// The caller asked to stop.
    pub fn cancelled() -> Self {
        Self::new(ErrorKind::Cancelled, "cancelled by the caller")
    }

    /// A bug in Cortex.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    /// Names the tensor, unless one is already named.
    #[must_use]
    pub fn with_tensor(mut self, name: &str) -> Self {
        self.0.tensor.get_or_insert_with(|| name.to_owned());
        self
    }

    /// Gives the byte offset in the file, unless one is already given.
    #[must_use]
    pub fn with_offset(mut self, offset: u64) -> Self {
        self.0.offset.get_or_insert(offset);
        self
    }

    /// Puts `context: ` before the message.
    #[must_use]
    pub fn context(mut self, context: impl fmt::Display) -> Self {
        self.0.message = format!("{context}: {}", self.0.message);
        self
    }

    /// What a caller may branch on.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The message without tensor and offset.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The tensor in question, if one is known.
    pub fn tensor(&self) -> Option<&str> {
        self.0.tensor.as_deref()
    }

    /// The byte offset in the file, if one is known.
    pub fn offset(&self) -> Option<u64> {
        self.0.offset
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(tensor) = &self.0.tensor {
            write!(f, "tensor '{tensor}': ")?;
        }
        f.write_str(&self.0.message)?;
        if let Some(offset) = self.0.offset {
            write!(f, " (at byte {offset})")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|e| e as _)
    }
}
