//! Which forms there are, and the meaning of a spec.

use serde_json::{Value as Json, json};

use super::{EncodeContext, Form, Stored};
use crate::error::{Error, Result};
use crate::limits;
use crate::pack;
use crate::spec::{self, Codec, Kind, OptionDef, Options, Spec, Term};
use crate::tensor::View;

/// Encodes a view by a codec and its checked options.
pub type EncodeFn =
    fn(&View<'_>, &'static Codec, &Options, &EncodeContext<'_>) -> Result<Box<dyn Form>>;

/// One line of the registry: what one file of this folder brings.
#[derive(Debug)]
pub struct FormDef {
    /// The form's name in the file format.
    pub kind: &'static str,
    /// Names in the spec language that encode to it.
    pub codecs: &'static [Codec],
    /// The canonical term of checked options (`q(bits=8)` is `int8`).
    pub canonical: fn(&'static Codec, &Options) -> Result<Term>,
    /// Whether every tensor comes back bit for bit.
    pub lossless: fn(&'static Codec, &Options) -> bool,
    /// Encodes a view.
    pub encode: EncodeFn,
    /// Opens what [`Form::params`] and [`Form::parts`] stored. Trusts nothing.
    pub open: fn(Stored) -> Result<Box<dyn Form>>,
}

/// Every form there is.
pub static REGISTRY: &[&FormDef] = &[
    // One a line.
    &super::dense::DEF,
    &super::quant::DEF,
    &super::mask::DEF,
    &super::sdr::DEF,
    &super::sum::DEF,
];

/// Names that stand for a choice to be made: `plan` resolves them to a form.
pub(crate) static DIRECTIVES: &[Codec] = &[
    Codec {
        name: "lossless",
        summary: "the smallest lossless form and pack, found by measuring",
        options: &[],
    },
    Codec {
        name: "auto",
        summary: "the best form under a bound on error or on bits per weight, found by measuring",
        options: &[
            OptionDef {
                key: "error",
                aliases: &[],
                kind: Kind::Share,
                default: None,
                doc: "largest relative error, ‖W−Ŵ‖/‖W‖; smallest size under it (default 1%)",
            },
            OptionDef {
                key: "bits",
                aliases: &[],
                kind: Kind::Positive,
                default: None,
                doc: "most bits per weight, everything counted; smallest error under it",
            },
            OptionDef {
                key: "prefer",
                aliases: &[],
                kind: Kind::Choice(&["speed", "size"]),
                default: Some("speed"),
                doc: "whether a form with slower products must save that much more, or bytes alone count",
            },
        ],
    },
];

/// What a name stands for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Found {
    /// A form.
    Form(&'static FormDef, &'static Codec),
    /// A directive for `plan`.
    Directive(&'static Codec),
}

pub(crate) fn find(term: &Term) -> Result<Found> {
    for def in REGISTRY {
        if let Some(codec) = def.codecs.iter().find(|c| c.name == term.name) {
            return Ok(Found::Form(def, codec));
        }
    }
    if let Some(codec) = DIRECTIVES.iter().find(|c| c.name == term.name) {
        return Ok(Found::Directive(codec));
    }
    if pack::REGISTRY.iter().any(|p| p.codec.name == term.name) {
        return Err(spec::at(
            term.column,
            format!(
                "expected a form, found the pack '{0}'; write 'dense | {0}'",
                term.name
            ),
        ));
    }
    let forms = REGISTRY.iter().flat_map(|d| d.codecs).map(|c| c.name);
    let known = forms.chain(DIRECTIVES.iter().map(|c| c.name));
    Err(spec::at(
        term.column,
        spec::unknown("form", &term.name, known),
    ))
}

/// The form of this name in a file.
pub(crate) fn find_kind(kind: &str) -> Result<&'static FormDef> {
    let def = REGISTRY.iter().copied().find(|d| d.kind == kind);
    def.ok_or_else(|| Error::unsupported(format!("the form '{kind}' is not known to this version")))
}

/// Reads a spec, looks every name up, checks every option, and gives it in canonical
/// form: options in a fixed order, defaults left out. Directives may stand at the top.
pub fn parse(text: &str) -> Result<Spec> {
    resolve(&Spec::parse_syntax(text)?, true)
}

/// Checks a spec against the registries and makes it canonical.
pub fn resolve(spec: &Spec, directives: bool) -> Result<Spec> {
    let sum = spec.terms.len() > 1;
    let resolve_term = |term: &Term| match find(term)? {
        Found::Form(def, codec) => (def.canonical)(codec, &term.options(codec)?),
        Found::Directive(codec) => {
            if sum || !directives {
                let place = if sum { "a sum" } else { "another spec" };
                return Err(spec::at(
                    term.column,
                    format!("'{}' cannot stand inside {place}", term.name),
                ));
            }
            if let Some(pack) = spec.packs.first() {
                return Err(spec::at(
                    pack.column,
                    format!("'{}' chooses its packs itself", term.name),
                ));
            }
            let options = term.options(codec)?;
            if codec.name == "auto" && options.given("error") && options.given("bits") {
                return Err(spec::at(
                    term.column,
                    "auto takes error or bits, not both".into(),
                ));
            }
            options.canonical(&|s| Ok(s.clone()))
        }
    };
    if spec.terms.len() > limits::MAX_SUM_TERMS {
        return Err(Error::limit(format!(
            "a sum of {} forms; at most {} are supported",
            spec.terms.len(),
            limits::MAX_SUM_TERMS
        )));
    }
    Ok(Spec {
        terms: spec.terms.iter().map(resolve_term).collect::<Result<_>>()?,
        packs: pack::resolve(&spec.packs)?,
    })
}

/// A nested spec, canonical; directives are refused.
pub(crate) fn nested(spec: &Spec) -> Result<Spec> {
    resolve(spec, false)
}

/// Whether a canonical spec gives every tensor back bit for bit.
pub fn is_lossless(spec: &Spec) -> Result<bool> {
    // What a sum leaves is rounded to f32 between its terms.
    let [term] = spec.terms.as_slice() else {
        return Ok(false);
    };
    Ok(match find(term)? {
        Found::Form(def, codec) => (def.lossless)(codec, &term.options(codec)?),
        Found::Directive(codec) => codec.name == "lossless",
    })
}

/// Everything that a spec may name, with its options, as JSON: what
/// `cortex codecs --json` and `cortex_codecs_json` print.
pub fn codecs_json() -> Json {
    fn list<'a>(codecs: impl Iterator<Item = &'a Codec>) -> Vec<Json> {
        codecs
            .map(|c| {
                let options: Vec<Json> = c
                    .options
                    .iter()
                    .map(|o| {
                        json!({
                            "key": o.key,
                            "aliases": o.aliases,
                            "values": o.values(),
                            "default": o.default,
                            "doc": o.doc,
                        })
                    })
                    .collect();
                json!({"name": c.name, "summary": c.summary, "options": options})
            })
            .collect()
    }
    json!({
        "directives": list(DIRECTIVES.iter()),
        "forms": list(REGISTRY.iter().flat_map(|d| d.codecs)),
        "packs": list(pack::REGISTRY.iter().map(|p| &p.codec)),
    })
}
