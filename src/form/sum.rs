//! Sums of forms, `A + B`: B encodes what A left of the tensor.
//!
//! * Exploits: that what one form leaves is fit for another. A few outliers and a fine
//!   quantiser of the rest (`outliers(keep=0.5%) + q(bits=3)`), a smooth or low-rank part
//!   and codes for what is left (`svd(rank=16) + int4`).
//! * Layout: parts `term0`, `term1`, …: forms of their own, of the same shape. The first
//!   was made of the tensor, each other one of the f32 residual `W − Ŵ` of those before.
//! * Error: that of the last term, relative to the norm of what was left for it.
//! * Matmul: the products of the terms, added in order.
//! * Loses: low rank + quantised residual costs more bits for the same error than more
//!   bits in the quantiser on weights without low-rank structure (transformer matrices);
//!   0.5 % outliers help only quantisers with large groups.

use std::ops::Range;

use serde_json::{Map, Value};

use super::{EncodeContext, Form, FormDef, Meta, Part, Product, Scratch, Stored, encode};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::limits::MAX_SUM_TERMS;
use crate::pack::Buffer;
use crate::spec::{Options, Term};
use crate::tensor::View;

/// Has no name in the spec language: `+` makes it.
pub(super) static DEF: FormDef = FormDef {
    kind: "sum",
    codecs: &[],
    canonical: |_, options: &Options| options.canonical(&super::registry::nested),
    lossless: |_, _| false,
    encode: |_, _, _, _| Err(Error::internal("a sum is encoded by its terms")),
    open,
};

const NAMES: [&str; MAX_SUM_TERMS] = [
    "term0", "term1", "term2", "term3", "term4", "term5", "term6", "term7",
];

#[derive(Debug)]
struct Sum {
    meta: Meta,
    terms: Vec<Box<dyn Form>>,
}

/// Encodes `view` by the first term and what each leaves by the next.
pub(super) fn encode_terms(
    view: &View<'_>,
    terms: &[Term],
    context: &EncodeContext,
) -> Result<Box<dyn Form>> {
    let meta = Meta::new(view.dtype(), view.shape())?;
    encode::only_floats("a sum of forms", &meta)?;
    encode::range(view, context)?;
    let mut left = vec![0.0f32; meta.len()];
    view.read_rows_f32(0..meta.rows, &mut left);
    let mut sum = Sum {
        meta,
        terms: Vec::with_capacity(terms.len()),
    };
    for (i, term) in terms.iter().enumerate() {
        let residual = View::new(DType::F32, &sum.meta.shape, bytemuck::cast_slice(&left))?;
        let form = match i {
            0 => encode::encode_term(view, term, context)?,
            _ => encode::encode_term(&residual, term, context)
                .map_err(|e| e.context(format!("what '{}' left", terms[i - 1])))?,
        };
        if i + 1 < terms.len() {
            encode::subtract(&*form, &mut left, context)?;
        }
        sum.terms.push(form);
    }
    Ok(Box::new(sum))
}

fn open(mut stored: Stored) -> Result<Box<dyn Form>> {
    let meta = stored.meta.clone();
    if !meta.dtype.is_float() {
        return Err(Error::corrupt(format!("a sum of a {} tensor", meta.dtype)));
    }
    let count = stored.integer("terms", 2..=MAX_SUM_TERMS as u64)? as usize;
    let mut terms = Vec::with_capacity(count);
    for name in &NAMES[..count] {
        let form = stored.form(name)?;
        if form.meta().shape != meta.shape || !form.meta().dtype.is_float() {
            return Err(Error::corrupt(format!(
                "part '{name}' of a sum is {} {:?}, the tensor {} {:?}",
                form.meta().dtype,
                form.meta().shape,
                meta.dtype,
                meta.shape
            )));
        }
        terms.push(form);
    }
    Ok(Box::new(Sum { meta, terms }))
}

impl Sum {
    /// Adds the products of the terms up.
    fn add_up(
        &self,
        y: &mut [f32],
        product: &Product<'_>,
        mut multiply: impl FnMut(&dyn Form, &mut [f32]) -> Result<()>,
    ) -> Result<()> {
        let mut more = Vec::new();
        for (i, term) in self.terms.iter().enumerate() {
            if i == 0 {
                multiply(&**term, y)?;
                continue;
            }
            more.resize(y.len(), 0.0);
            multiply(&**term, &mut more)?;
            product.kernels.add_scaled(1.0, &more, y);
        }
        Ok(())
    }
}

impl Form for Sum {
    fn kind(&self) -> &'static str {
        DEF.kind
    }

    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn params(&self) -> Map<String, Value> {
        let mut params = Map::new();
        params.insert("terms".into(), self.terms.len().into());
        params
    }

    fn parts(&self) -> Vec<(&'static str, Part<'_>)> {
        let forms = self.terms.iter().map(|t| Part::Form(&**t));
        NAMES.into_iter().zip(forms).collect()
    }

    fn map_buffers(&self, f: &mut dyn FnMut(&Buffer) -> Result<Buffer>) -> Result<Box<dyn Form>> {
        let terms = self.terms.iter().map(|t| t.map_buffers(f));
        Ok(Box::new(Self {
            meta: self.meta.clone(),
            terms: terms.collect::<Result<_>>()?,
        }))
    }

    fn is_exact(&self) -> bool {
        false
    }

    fn row_unit(&self) -> usize {
        let units = self.terms.iter().map(|t| t.row_unit());
        units.fold(1, lcm).min(self.meta.rows.max(1))
    }

    fn least_rows(&self) -> usize {
        let least = self.terms.iter().map(|t| t.least_rows());
        least.max().unwrap_or(1).min(self.row_unit())
    }

    fn scratch_for(&self, rows: usize) -> usize {
        // The terms take turns.
        let most = self.terms.iter().map(|t| t.scratch_for(rows)).max();
        most.unwrap_or(0)
            .saturating_add(rows.saturating_mul(self.meta.cols * 4))
    }

    fn decode_f32(&self, rows: Range<usize>, out: &mut [f32], scratch: &mut Scratch) -> Result<()> {
        let mut floats = std::mem::take(&mut scratch.floats);
        let mut run = || -> Result<()> {
            for (i, term) in self.terms.iter().enumerate() {
                if i == 0 {
                    term.decode_f32(rows.clone(), out, scratch.nested())?;
                    continue;
                }
                floats.resize(out.len(), 0.0);
                term.decode_f32(rows.clone(), &mut floats, scratch.nested())?;
                super::kernels().add_scaled(1.0, &floats, out);
            }
            Ok(())
        };
        let result = run();
        scratch.floats = floats;
        result
    }

    fn matmul(&self, x: &[f32], batch: usize, y: &mut [f32], product: &Product<'_>) -> Result<()> {
        self.add_up(y, product, |term, y| product.matmul(term, x, batch, y))
    }

    fn matmul_t(
        &self,
        g: &[f32],
        batch: usize,
        y: &mut [f32],
        product: &Product<'_>,
    ) -> Result<()> {
        self.add_up(y, product, |term, y| product.matmul_t(term, g, batch, y))
    }

    fn matmul_macs(&self) -> u64 {
        let macs = self.terms.iter().map(|t| t.matmul_macs());
        macs.fold(0, u64::saturating_add)
    }

    fn decode_macs(&self) -> u64 {
        let macs = self.terms.iter().map(|t| t.decode_macs());
        macs.fold(0, u64::saturating_add)
    }
}

fn lcm(a: usize, b: usize) -> usize {
    let (mut x, mut y) = (a, b);
    while y > 0 {
        (x, y) = (y, x % y);
    }
    (a / x.max(1)).saturating_mul(b)
}
