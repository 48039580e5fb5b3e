//! `dense`, `f32`, `f16`, `bf16`: the elements themselves, or rounded to a smaller type.
//!
//! * Exploits: nothing; it is what everything else is measured against, and the form
//!   that packs (`dense | shuffle | zstd`) are put on for lossless storage.
//! * Layout: one part, `data`: little-endian elements, row-major. With `type=` the
//!   elements are of that type, and parameter `type` names it.
//! * Error: none; with `type=f32` of an f64 tensor 2⁻²⁴; with `type=f16` a relative 2⁻¹¹ per element inside ±65504 (values
//!   beyond are refused), with `type=bf16` 2⁻⁹.
//! * Matmul: rows × cols multiplications per row of `x`, f32 sums; f32, f16 and bf16 are
//!   read as they are stored, other types converted a window at a time. `fast` rounds
//!   activations to bf16 for weights in bf16 where the CPU multiplies those.
//! * Loses: to `q` at any error above 0.5 %, to `mask` on anything with many zeros.

use std::ops::Range;

use rayon::prelude::*;
use serde_json::{Map, Value};

use super::product::Added;
use super::{EncodeContext, Form, FormDef, Meta, Part, Product, Scratch, Stored, kernels};
use crate::bytes::AlignedBytes;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::pack::Buffer;
use crate::spec::{Codec, Kind, OptionDef, Options, Term};
use crate::tensor::View;

pub(super) static DEF: FormDef = FormDef {
    kind: "dense",
    codecs: &[
        Codec {
            name: "dense",
            summary: "the elements as they are, or rounded to a smaller type",
            options: &[OptionDef {
                key: "type",
                aliases: &[],
                kind: Kind::Choice(&["f32", "f16", "bf16"]),
                default: None,
                doc: "round floats to this type",
            }],
        },
        Codec {
            name: "f32",
            summary: "short for dense(type=f32)",
            options: &[],
        },
        Codec {
            name: "f16",
            summary: "short for dense(type=f16)",
            options: &[],
        },
        Codec {
            name: "bf16",
            summary: "short for dense(type=bf16)",
            options: &[],
        },
    ],
    canonical: |codec, options| match codec.name {
        "dense" => options.canonical(&super::registry::nested),
        name => Ok(Term::bare("dense").with("type", name)),
    },
    lossless: |codec, options| codec.name == "dense" && !options.given("type"),
    encode,
    open,
};

#[derive(Debug, Clone)]
struct Dense {
    meta: Meta,
    /// Type of the stored elements.
    stored: DType,
    data: Buffer,
}

fn encode(
    view: &View<'_>,
    codec: &'static Codec,
    options: &Options,
    _: &EncodeContext,
) -> Result<Box<dyn Form>> {
    let meta = Meta::new(view.dtype(), view.shape())?;
    let rounded = match codec.name {
        "dense" => options.text("type"),
        name => Some(name),
    };
    let stored = match rounded {
        Some(name) if meta.dtype.is_float() => name.parse()?,
        Some(_) => {
            return Err(Error::invalid(format!(
                "dense(type=…) rounds floats; the tensor is {}",
                meta.dtype
            )));
        }
        None => meta.dtype,
    };
    let width = stored.size();
    let unit = meta.cols * width;
    let data = match view.backing() {
        // The model file itself serves as the buffer: nothing is copied.
        Some(b) if stored == meta.dtype => {
            let range = b.offset..b.offset + meta.byte_len();
            Buffer::mapped(b.mapping, range, width, unit)?
        }
        _ => {
            let mut bytes = AlignedBytes::zeroed(meta.len() * width)?;
            if unit > 0 {
                convert(view, stored, &mut bytes)?;
            }
            Buffer::owned(bytes, width, unit)?
        }
    };
    Ok(Box::new(Dense { meta, stored, data }))
}

fn convert(view: &View<'_>, stored: DType, bytes: &mut [u8]) -> Result<()> {
    let cols = view.cols();
    let row_bytes = cols * stored.size();
    let window = (1usize << 16).div_ceil(cols);
    let results: Vec<Result<()>> = bytes
        .par_chunks_mut(window * row_bytes)
        .enumerate()
        .map(|(i, out)| {
            let first = i * window;
            let rows = first..first + out.len() / row_bytes;
            if stored == view.dtype() {
                view.read_rows(rows, out);
                return Ok(());
            }
            let mut floats = vec![0.0; rows.len() * cols];
            view.read_rows_f32(rows, &mut floats);
            if let Err(at) = kernels().min_max(&floats) {
                return Err(super::encode::not_finite(view, first * cols + at));
            }
            stored.from_f32(&floats, out);
            // The type's range is smaller than f32's: what is above rounds to infinity.
            let mut back = vec![0.0; floats.len()];
            stored.to_f32(out, &mut back);
            match kernels().min_max(&back) {
                Ok(_) => Ok(()),
                Err(at) => Err(Error::invalid(format!(
                    "{} at index {} does not fit {stored}",
                    floats[at],
                    first * cols + at
                ))),
            }
        })
        .collect();
    results.into_iter().collect()
}

/// Elements that the caller has made and gives away: values of a mask.
pub(super) fn from_owned(meta: Meta, bytes: AlignedBytes) -> Result<Box<dyn Form>> {
    let width = meta.dtype.size();
    Ok(Box::new(Dense {
        stored: meta.dtype,
        data: Buffer::owned(bytes, width, meta.row_bytes())?,
        meta,
    }))
}

fn open(mut stored: Stored) -> Result<Box<dyn Form>> {
    let meta = stored.meta.clone();
    let dtype = match stored.params.contains_key("type") {
        true => DType::from_name(stored.text("type")?)
            // The tensor's own type is not named.
            .filter(|d| *d != meta.dtype && meta.dtype.is_float())
            .filter(|d| matches!(d, DType::F32 | DType::F16 | DType::BF16))
            .ok_or_else(|| Error::corrupt("parameter 'type' names no type to round to"))?,
        false => meta.dtype,
    };
    let data = stored.buffer("data", meta.len() * dtype.size())?;
    Ok(Box::new(Dense {
        meta,
        stored: dtype,
        data,
    }))
}

impl Dense {
    fn window<'a>(&'a self, rows: &Range<usize>, scratch: &'a mut Vec<u8>) -> Result<&'a [u8]> {
        let row = self.meta.cols * self.stored.size();
        self.data.window(rows.start * row..rows.end * row, scratch)
    }
}

impl Form for Dense {
    fn kind(&self) -> &'static str {
        DEF.kind
    }

    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn params(&self) -> Map<String, Value> {
        let mut params = Map::new();
        if self.stored != self.meta.dtype {
            params.insert("type".into(), self.stored.name().into());
        }
        params
    }

    fn parts(&self) -> Vec<(&'static str, Part<'_>)> {
        vec![("data", Part::Buffer(&self.data))]
    }

    fn map_buffers(&self, f: &mut dyn FnMut(&Buffer) -> Result<Buffer>) -> Result<Box<dyn Form>> {
        Ok(Box::new(Self {
            data: f(&self.data)?,
            ..self.clone()
        }))
    }

    fn is_exact(&self) -> bool {
        self.stored == self.meta.dtype
    }

    fn row_unit(&self) -> usize {
        match (self.data.in_place(), self.meta.cols * self.stored.size()) {
            // A window of whole chunks decodes each chunk once.
            (false, row) if row > 0 => (self.data.chunk_len() / row).max(1),
            _ => 1,
        }
    }

    fn least_rows(&self) -> usize {
        1
    }

    fn scratch_for(&self, rows: usize) -> usize {
        self.data
            .scratch_for(rows * self.meta.cols * self.stored.size())
    }

    fn decode_f32(&self, rows: Range<usize>, out: &mut [f32], scratch: &mut Scratch) -> Result<()> {
        self.stored
            .to_f32(self.window(&rows, &mut scratch.bytes)?, out);
        Ok(())
    }

    fn decode_native(
        &self,
        rows: Range<usize>,
        out: &mut [u8],
        scratch: &mut Scratch,
    ) -> Result<()> {
        if !self.is_exact() {
            return super::decode_by_f32(self, rows, out, scratch);
        }
        out.copy_from_slice(self.window(&rows, &mut scratch.bytes)?);
        Ok(())
    }

    /// Elements are read as they are stored; `x` is packed once, for all windows.
    fn matmul(&self, x: &[f32], batch: usize, y: &mut [f32], product: &Product<'_>) -> Result<()> {
        let (kernels, cols) = (product.kernels, self.meta.cols);
        if !matches!(self.stored, DType::F32 | DType::F16 | DType::BF16) {
            return product.by_rows(self, x, batch, y);
        }
        let rounded =
            self.stored == DType::BF16 && kernels.multiplies_bf16() && product.round_activations();
        let mut lease = Scratch::lease();
        let packed = &mut lease.panel;
        if rounded {
            packed.resize(kernels.rounded_packed_len(batch, cols), 0.0);
            kernels.rounded_pack(x, cols, packed);
        } else {
            packed.resize(kernels.dense_packed_len(batch, cols), 0.0);
            kernels.dense_pack(x, cols, packed);
        }
        let packed = &*packed;
        let cost = |rows: usize| self.scratch_for(rows);
        let macs = self.matmul_macs().saturating_mul(batch as u64);
        product.windows(self, macs, usize::MAX, y, &cost, |rows, panel, scratch| {
            let Scratch { bytes, floats, .. } = scratch;
            let window = self.window(&rows, bytes)?;
            if self.stored == DType::F32 {
                let w = aligned::<f32>(window, floats);
                kernels.dense_matmul_packed(w, packed, cols, panel);
                return Ok(());
            }
            let w = aligned::<u16>(window, floats);
            match (self.stored, rounded) {
                (DType::F16, _) => kernels.f16_matmul_packed(w, packed, cols, panel),
                (_, false) => kernels.bf16_matmul_packed(w, packed, cols, panel),
                (_, true) => kernels.rounded_matmul_packed(w, packed, cols, panel),
            }
            Ok(())
        })
    }

    fn matmul_t(
        &self,
        g: &[f32],
        batch: usize,
        y: &mut [f32],
        product: &Product<'_>,
    ) -> Result<()> {
        if self.stored == DType::F32
            && self.data.in_place()
            && let Ok(w) =
                bytemuck::try_cast_slice(self.window(&(0..self.meta.rows), &mut Vec::new())?)
        {
            y.fill(0.0);
            let macs = self.matmul_macs().saturating_mul(batch as u64);
            let added = Added {
                w,
                cols: self.meta.cols,
                g,
                g_stride: self.meta.rows,
            };
            return product.add_rows(&added, macs, y);
        }
        product.by_rows_t(self, g, batch, y)
    }
}

/// Elements of a window, which a file may hold at any address: then they are copied.
fn aligned<'a, T: bytemuck::AnyBitPattern>(window: &'a [u8], room: &'a mut Vec<f32>) -> &'a [T] {
    if let Ok(elements) = bytemuck::try_cast_slice(window) {
        return elements;
    }
    room.resize(window.len().div_ceil(4), 0.0);
    let bytes: &mut [u8] = &mut bytemuck::cast_slice_mut(room)[..window.len()];
    bytes.copy_from_slice(window);
    bytemuck::cast_slice(bytes)
}
