//! The spec language: one string says how a tensor is stored.
//!
//! ```text
//! spec  = term { "+" term } [ "|" pack { "|" pack } ]
//! term  = name [ "(" arg { "," arg } ")" ]
//! arg   = [ key "=" ] value        the key may be left out for the first option
//! value = number | percent | word | term | "[" spec "]"
//! ```
//!
//! This module knows the grammar and how options are described and checked
//! ([`Codec`], [`OptionDef`]); which names exist is the matter of the registries of
//! `pack` and `form`. Every error names the column (from 1), what stood there and
//! what was expected; an unknown name lists the nearest known ones.

use std::fmt;

use crate::error::{Error, Result};
use crate::limits;

/// A parsed spec. Printing it gives the canonical text only after the registry has
/// resolved it (`form::resolve`).
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// Forms; more than one make a sum.
    pub terms: Vec<Term>,
    /// Packs for the buffers at rest, first applied first.
    pub packs: Vec<Term>,
}

/// A name with its arguments.
#[derive(Clone, Debug)]
pub struct Term {
    /// Lower-case name.
    pub name: String,
    /// Arguments in the order written.
    pub args: Vec<Arg>,
    /// Column of the name in the text, from 1.
    pub column: usize,
}

impl PartialEq for Term {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.args == other.args
    }
}

/// One argument of a term.
#[derive(Clone, Debug)]
pub struct Arg {
    /// The option's name; `None` for a leading value without one.
    pub key: Option<String>,
    /// Its value.
    pub value: Value,
    /// Column of the argument in the text, from 1.
    pub column: usize,
}

impl PartialEq for Arg {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key && self.value == other.value
    }
}

/// An option's value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A number, percentage or word, as written.
    Plain(String),
    /// A spec in brackets.
    Spec(Spec),
}

impl Spec {
    /// A spec of one form and no pack.
    pub fn form(term: Term) -> Self {
        Self {
            terms: vec![term],
            packs: Vec::new(),
        }
    }

    /// Reads the text by the grammar. Names and options are not looked up.
    pub fn parse_syntax(text: &str) -> Result<Self> {
        if text.len() > limits::MAX_SPEC_CHARS {
            return Err(Error::limit(format!(
                "a spec of {} characters; at most {} are read",
                text.len(),
                limits::MAX_SPEC_CHARS
            )));
        }
        let mut parser = Parser {
            text: text.as_bytes(),
            at: 0,
            depth: 0,
        };
        let spec = parser.spec()?;
        match parser.peek() {
            None => Ok(spec),
            Some(_) => Err(parser.expected("'+', '|' or the end")),
        }
    }
}

impl Term {
    /// A name without arguments.
    pub fn bare(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            args: Vec::new(),
            column: 1,
        }
    }

    /// Adds an option.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl fmt::Display) -> Self {
        self.args.push(Arg {
            key: Some(key.to_owned()),
            value: Value::Plain(value.to_string()),
            column: 1,
        });
        self
    }

    /// Checks the arguments against `codec` and fills in the defaults.
    pub fn options(&self, codec: &'static Codec) -> Result<Options> {
        let mut values: Vec<Option<Value>> = vec![None; codec.options.len()];
        for (position, arg) in self.args.iter().enumerate() {
            let index = match &arg.key {
                Some(key) => codec
                    .options
                    .iter()
                    .position(|o| o.key == key || o.aliases.contains(&key.as_str())),
                None if position == 0 && !codec.options.is_empty() => Some(0),
                None if codec.options.is_empty() => {
                    return Err(at(arg.column, format!("{} takes no options", self.name)));
                }
                None => {
                    return Err(at(
                        arg.column,
                        "only the first option may be given without its name".into(),
                    ));
                }
            };
            let Some(index) = index else {
                let key = arg.key.as_deref().unwrap_or_default();
                let known = codec.options.iter().map(|o| o.key);
                return Err(at(
                    arg.column,
                    unknown(&format!("option of {}", self.name), key, known),
                ));
            };
            let option = &codec.options[index];
            if values[index].is_some() {
                return Err(at(arg.column, format!("{} is given twice", option.key)));
            }
            values[index] = Some(option.check(&arg.value, arg.column)?);
        }
        Ok(Options {
            codec,
            values,
            column: self.column,
        })
    }
}

/// What a registry says of one name: enough to check, print and explain it.
#[derive(Debug)]
pub struct Codec {
    /// Name in the spec language.
    pub name: &'static str,
    /// One line for people.
    pub summary: &'static str,
    /// Options; the first may be given without its key.
    pub options: &'static [OptionDef],
}

/// One option of a codec.
#[derive(Debug)]
pub struct OptionDef {
    /// Its name.
    pub key: &'static str,
    /// Other names it answers to.
    pub aliases: &'static [&'static str],
    /// What its value may be.
    pub kind: Kind,
    /// Value when not given; `None` for an option that is simply absent.
    pub default: Option<&'static str>,
    /// One line for people.
    pub doc: &'static str,
}

/// What an option's value may be.
#[derive(Debug)]
pub enum Kind {
    /// A whole number in a closed range.
    Integer(i64, i64),
    /// A positive real number.
    Positive,
    /// A share in (0, 1], as `0.1` or `10%`.
    Share,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Whole numbers from 1 joined by `x`, such as `8x4x3`, or one of these words.
    Dims(&'static [&'static str]),
    /// A share in (0, 1], or `auto(error=…)` for the least that keeps the relative error
    /// at or below a share.
    Keep,
    /// A spec in brackets.
    Spec,
}

impl OptionDef {
    fn check(&self, value: &Value, column: usize) -> Result<Value> {
        let fail = |expected: String| {
            let found = match value {
                Value::Plain(text) => format!("'{text}'"),
                Value::Spec(_) => "a spec in brackets".to_owned(),
            };
            Err(at(
                column,
                format!("{}: expected {expected}, found {found}", self.key),
            ))
        };
        match (&self.kind, value) {
            (Kind::Spec, Value::Spec(_)) => Ok(value.clone()),
            (Kind::Keep, Value::Spec(spec)) => match auto_error(spec) {
                Some(error) => Ok(Value::Plain(format!(
                    "auto(error={})",
                    print_percent(error)
                ))),
                None => fail(KEEP.into()),
            },
            (Kind::Keep, Value::Plain(text)) => match parse_number(text) {
                Some(n) if n > 0.0 && n <= 1.0 => Ok(Value::Plain(print_percent(n))),
                _ => fail(KEEP.into()),
            },
            (Kind::Dims(words), Value::Plain(text))
                if words.contains(&text.as_str()) || parse_dims(text).is_some() =>
            {
                Ok(value.clone())
            }
            (Kind::Dims(words), _) => fail(match words {
                [] => "whole numbers such as 8x4x3".into(),
                words => format!("whole numbers such as 8x4x3, or {}", words.join(", ")),
            }),
            // One word needs no brackets to be read without doubt.
            (Kind::Spec, Value::Plain(name)) => Ok(Value::Spec(Spec::form(Term {
                name: name.clone(),
                args: Vec::new(),
                column,
            }))),
            (Kind::Integer(min, max), Value::Plain(text)) => match text.parse::<i64>() {
                Ok(n) if (*min..=*max).contains(&n) => Ok(Value::Plain(n.to_string())),
                _ => fail(format!("a whole number from {min} to {max}")),
            },
            (Kind::Positive, Value::Plain(text)) => match parse_number(text) {
                Some(n) if n > 0.0 => Ok(Value::Plain(print_number(n))),
                _ => fail("a number above 0".into()),
            },
            (Kind::Share, Value::Plain(text)) => match parse_number(text) {
                Some(n) if n > 0.0 && n <= 1.0 => Ok(Value::Plain(print_percent(n))),
                _ => fail("a share such as 10% or 0.1".into()),
            },
            (Kind::Choice(words), Value::Plain(text)) if words.contains(&text.as_str()) => {
                Ok(value.clone())
            }
            (Kind::Choice(words), _) => fail(one_of(words)),
            (Kind::Integer(min, max), _) => fail(format!("a whole number from {min} to {max}")),
            (Kind::Positive, _) => fail("a number".into()),
            (Kind::Share, _) => fail("a share such as 10%".into()),
        }
    }

    /// What the value may be, for people.
    pub fn values(&self) -> String {
        match &self.kind {
            Kind::Integer(min, max) => format!("{min}..{max}"),
            Kind::Positive => "number".into(),
            Kind::Share => "percent".into(),
            Kind::Choice(words) => words.join("|"),
            Kind::Dims(words) => [&["8x4x3"], *words].concat().join("|"),
            Kind::Keep => "percent|auto(error=percent)".into(),
            Kind::Spec => "[spec]".into(),
        }
    }
}

/// Checked options of one term, defaults filled in.
#[derive(Clone, Debug)]
pub struct Options {
    codec: &'static Codec,
    values: Vec<Option<Value>>,
    column: usize,
}

impl Options {
    fn get(&self, key: &str) -> Option<&Value> {
        let index = self.codec.options.iter().position(|o| o.key == key);
        let index = index.expect("codecs ask only for options they declare");
        self.values[index].as_ref()
    }

    /// Column of the term in the text, for errors about several options at once.
    pub fn column(&self) -> usize {
        self.column
    }

    /// Whether the option was written by hand.
    pub fn given(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// A word or number as text: the one given, or the default.
    pub fn text(&self, key: &str) -> Option<&str> {
        match self.get(key) {
            Some(Value::Plain(text)) => Some(text),
            Some(Value::Spec(_)) => None,
            None => {
                let def = self.codec.options.iter().find(|o| o.key == key);
                def.and_then(|o| o.default)
            }
        }
    }

    /// A whole number.
    pub fn integer(&self, key: &str) -> Option<i64> {
        self.text(key)?.parse().ok()
    }

    /// A real number; `10%` is 0.1.
    pub fn number(&self, key: &str) -> Option<f64> {
        parse_number(self.text(key)?)
    }

    /// Whole numbers; `None` when absent or a word.
    pub fn dims(&self, key: &str) -> Option<Vec<usize>> {
        parse_dims(self.text(key)?)
    }

    /// The error of `keep=auto(error=…)`.
    pub fn auto_error(&self, key: &str) -> Option<f64> {
        parse_auto_error(self.text(key)?)
    }

    /// A nested spec, if given.
    pub fn spec(&self, key: &str) -> Option<&Spec> {
        match self.get(key) {
            Some(Value::Spec(spec)) => Some(spec),
            _ => None,
        }
    }

    /// The canonical term: options in the order declared, those at their default left
    /// out, nested specs passed through `nested`.
    pub fn canonical(&self, nested: &dyn Fn(&Spec) -> Result<Spec>) -> Result<Term> {
        let mut term = Term::bare(self.codec.name);
        for (option, value) in self.codec.options.iter().zip(&self.values) {
            let value = match value {
                None => continue,
                Some(Value::Plain(text)) if Some(text.as_str()) == option.default => continue,
                Some(Value::Plain(text)) => Value::Plain(text.clone()),
                Some(Value::Spec(spec)) => {
                    let spec = nested(spec)?;
                    if option.default.is_some_and(|d| spec.to_string() == d) {
                        continue;
                    }
                    Value::Spec(spec)
                }
            };
            term.args.push(Arg {
                key: Some(option.key.to_owned()),
                value,
                column: 1,
            });
        }
        Ok(term)
    }
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, term) in self.terms.iter().enumerate() {
            if i > 0 {
                f.write_str(" + ")?;
            }
            term.fmt(f)?;
        }
        for pack in &self.packs {
            write!(f, " | {pack}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        for (i, arg) in self.args.iter().enumerate() {
            f.write_str(if i == 0 { "(" } else { ", " })?;
            if let Some(key) = &arg.key {
                write!(f, "{key}=")?;
            }
            match &arg.value {
                Value::Plain(text) => f.write_str(text)?,
                Value::Spec(spec) => write!(f, "[{spec}]")?,
            }
        }
        if !self.args.is_empty() {
            f.write_str(")")?;
        }
        Ok(())
    }
}

/// An `InvalidArgument` error at a column of the spec.
pub fn at(column: usize, message: String) -> Error {
    Error::invalid(format!("spec, column {column}: {message}"))
}

/// "unknown X 'name'; did you mean …" with the nearest of `known`, or all of them.
pub fn unknown<'a>(what: &str, name: &str, known: impl Iterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.collect();
    let mut near: Vec<_> = known
        .iter()
        .map(|k| (strsim::damerau_levenshtein(name, k), *k))
        // Two slips, or one in a name of three letters, still read as that name.
        .filter(|(d, k)| *d <= 2 && *d < k.len().min(name.len().max(1)))
        .collect();
    near.sort();
    let hint = if near.is_empty() {
        format!("known are {}", known.join(", "))
    } else {
        let names: Vec<_> = near.into_iter().take(3).map(|(_, k)| k).collect();
        format!("did you mean {}?", names.join(" or "))
    };
    if known.is_empty() {
        return format!("unknown {what} '{name}'");
    }
    format!("unknown {what} '{name}'; {hint}")
}

fn one_of(words: &[&str]) -> String {
    match words {
        [one] => (*one).to_owned(),
        words => format!("one of {}", words.join(", ")),
    }
}

/// A number, or a percentage as a share.
pub fn parse_number(text: &str) -> Option<f64> {
    let n = match text.strip_suffix('%') {
        Some(percent) => percent.parse::<f64>().ok()? / 100.0,
        None => text.parse::<f64>().ok()?,
    };
    n.is_finite().then_some(n)
}

const KEEP: &str = "a share such as 10%, or auto(error=5%)";

/// Whole numbers from 1 joined by `x`, no more than a tensor may have dimensions.
fn parse_dims(text: &str) -> Option<Vec<usize>> {
    let parse = |part: &str| match part.parse::<usize>() {
        // Without leading zeros or a sign, so that the text is canonical.
        Ok(n) if n > 0 && n.to_string() == part => Some(n),
        _ => None,
    };
    let dims: Vec<usize> = text.split('x').map(parse).collect::<Option<_>>()?;
    (dims.len() <= limits::MAX_DIMS).then_some(dims)
}

/// The error of the term `auto(error=…)`.
fn auto_error(spec: &Spec) -> Option<f64> {
    let ([term], []) = (spec.terms.as_slice(), spec.packs.as_slice()) else {
        return None;
    };
    let [arg] = term.args.as_slice() else {
        return None;
    };
    let key = arg.key.as_deref().unwrap_or("error");
    match &arg.value {
        Value::Plain(text) if term.name == "auto" && key == "error" => {
            parse_number(text).filter(|n| *n > 0.0 && *n <= 1.0)
        }
        _ => None,
    }
}

fn parse_auto_error(text: &str) -> Option<f64> {
    parse_number(text.strip_prefix("auto(error=")?.strip_suffix(')')?)
}

fn print_number(n: f64) -> String {
    n.to_string()
}

/// A share as a percentage; trailing noise of the division by 100 is rounded away.
pub fn print_percent(n: f64) -> String {
    let percent = n * 100.0;
    let rounded = (percent * 1e9).round() / 1e9;
    if rounded > 0.0 && rounded / 100.0 == n {
        format!("{rounded}%")
    } else {
        n.to_string()
    }
}

struct Parser<'a> {
    text: &'a [u8],
    at: usize,
    depth: usize,
}

impl Parser<'_> {
    fn peek(&mut self) -> Option<u8> {
        while self.text.get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
        }
        self.text.get(self.at).copied()
    }

    fn eat(&mut self, c: u8) -> bool {
        let hit = self.peek() == Some(c);
        self.at += usize::from(hit);
        hit
    }

    fn expected(&mut self, what: &str) -> Error {
        let found = match self.peek() {
            None => "the end".to_owned(),
            Some(_) => {
                let word = self.word();
                let c = if word.is_empty() {
                    // A whole character, so that the message stays valid UTF-8.
                    let rest = std::str::from_utf8(&self.text[self.at..]).unwrap_or("?");
                    rest.chars().next().unwrap_or('?').to_string()
                } else {
                    self.at -= word.len();
                    word
                };
                format!("'{c}'")
            }
        };
        at(self.at + 1, format!("expected {what}, found {found}"))
    }

    fn word(&mut self) -> String {
        self.peek();
        let start = self.at;
        while self
            .text
            .get(self.at)
            .is_some_and(|c| c.is_ascii_alphanumeric() || b"_.-%".contains(c))
        {
            self.at += 1;
        }
        String::from_utf8_lossy(&self.text[start..self.at]).into_owned()
    }

    fn enter(&mut self) -> Result<()> {
        if self.depth >= limits::MAX_SPEC_DEPTH {
            return Err(Error::limit(format!(
                "spec, column {}: more than {} specs inside each other",
                self.at + 1,
                limits::MAX_SPEC_DEPTH
            )));
        }
        self.depth += 1;
        Ok(())
    }

    fn spec(&mut self) -> Result<Spec> {
        self.enter()?;
        let mut terms = vec![self.term("the name of a form")?];
        while self.eat(b'+') {
            terms.push(self.term("the name of a form")?);
        }
        let mut packs = Vec::new();
        while self.eat(b'|') {
            packs.push(self.term("the name of a pack")?);
        }
        self.depth -= 1;
        Ok(Spec { terms, packs })
    }

    fn term(&mut self, what: &str) -> Result<Term> {
        self.peek();
        let column = self.at + 1;
        let name = self.word();
        if !name.starts_with(|c: char| c.is_ascii_alphabetic()) {
            self.at = column - 1;
            return Err(self.expected(what));
        }
        let mut args = Vec::new();
        if self.eat(b'(') && !self.eat(b')') {
            loop {
                args.push(self.arg()?);
                if self.eat(b')') {
                    break;
                }
                if !self.eat(b',') {
                    return Err(self.expected("',' or ')'"));
                }
            }
        }
        Ok(Term { name, args, column })
    }

    fn arg(&mut self) -> Result<Arg> {
        self.peek();
        let column = self.at + 1;
        if self.peek() == Some(b'[') {
            let value = self.value()?;
            return Ok(Arg {
                key: None,
                value,
                column,
            });
        }
        let word = self.word();
        if word.is_empty() {
            return Err(self.expected("an option or a value"));
        }
        let (key, value) = if self.eat(b'=') {
            (Some(word), self.value()?)
        } else {
            (None, self.value_from(word, column)?)
        };
        Ok(Arg { key, value, column })
    }

    fn value(&mut self) -> Result<Value> {
        if self.eat(b'[') {
            let spec = self.spec()?;
            if !self.eat(b']') {
                return Err(self.expected("']'"));
            }
            return Ok(Value::Spec(spec));
        }
        self.peek();
        let column = self.at + 1;
        let word = self.word();
        if word.is_empty() {
            return Err(self.expected("a value"));
        }
        self.value_from(word, column)
    }

    /// A word, or the term that begins with it: `int8(group=64)` needs no brackets.
    fn value_from(&mut self, word: String, column: usize) -> Result<Value> {
        if self.peek() != Some(b'(') {
            return Ok(Value::Plain(word));
        }
        self.enter()?;
        self.at = column - 1;
        let term = self.term("a value")?;
        self.depth -= 1;
        Ok(Value::Spec(Spec::form(term)))
    }
}
