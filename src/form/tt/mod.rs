//! `tt`: a tensor train (matrix product operator): a chain of small cores.
//!
//! * Exploits: that a matrix whose row and column numbers are written in mixed digits,
//!   `W[(o_1 o_2 …), (i_1 i_2 …)]`, depends little across a cut between digits: Kronecker
//!   and convolution-like structure, smooth tables, what compresses by far more than its
//!   rank as a matrix says. Two cores of digit pairs are a sum of Kronecker products.
//! * Layout: `rows` and `cols` (parameters) are cut into modes, most significant digit
//!   first. With `order` = `interleaved` site j holds the digits `(o_j, i_j)`, the shorter
//!   list being filled up with ones; with `separate` the row modes come first, then the
//!   column modes, each a site with 1 for the other digit. Sites of two ones are left out,
//!   but for the last. Site j has a core `G_j[ρ_{j−1}, o_j, i_j, ρ_j]`, with
//!   `ρ_0 = ρ_n = 1` and the others listed in `ranks`, and
//!   `W = m · Σ G_1 · G_2 ⋯ G_n` over the ranks; m is `multiplier`, a power of two.
//!   Part `core{k}`, k from 0, is a form of f32 `[o·s, t·i]` that holds the core of site
//!   k + 1 as rows `(o, ρ_j)` and columns `(ρ_{j−1}, i)`, so that a step of the product is
//!   a product with it as it lies; if `reversed`, as rows `(o, ρ_{j−1})` and columns
//!   `(ρ_j, i)`.
//! * Error: with `error`, at most that (Oseledets 2011: each cut may leave its share of
//!   the squared norm; what a cut leaves of its share goes to the next ones). At given
//!   ranks at most `√(n − 1)` times the least.
//! * Matmul: x goes through the chain from the first site to the last, or, `reversed`,
//!   from the last to the first, whichever takes fewer multiplications:
//!   `Σ_k (Π_{j≤k} o_j)·(Π_{j≥k} i_j)·r_{k−1}·r_k` in order of the chain. For two cores of
//!   64·64 each way that is 2¹⁹·r against 2²⁴ of the dense matrix: 32 is where they meet.
//!   Beyond that, windows of rows are decoded and multiplied densely, if that costs less.
//! * Loses: on weights without such structure: at the ranks where a trained matrix keeps a
//!   useful error, the chain costs more than the matrix.

mod axes;
mod chain;
mod product;
mod train;

use std::ops::Range;

use serde_json::{Map, Value};

use super::svd::{FACTORS, check_factor, one_of, scale};
use super::{ADDED_MACS, Form, FormDef, Meta, Part, Product, Scratch, Stored, kernels};
use crate::bytes::element_count;
use crate::error::{Error, ErrorKind, Result};
use crate::pack::Buffer;
use crate::spec::{Codec, Kind, OptionDef};
use axes::{Axes, Axis};
use chain::{Chain, MAX_MODES, NAMES, WINDOW};

pub(super) static DEF: FormDef = FormDef {
    kind: "tt",
    codecs: &[Codec {
        name: "tt",
        summary: "a tensor train of small cores (by default params=50%)",
        options: &[
            OptionDef {
                key: "rank",
                aliases: &[],
                kind: Kind::Integer(1, 1 << 20),
                default: None,
                doc: "largest rank between two cores",
            },
            OptionDef {
                key: "error",
                aliases: &[],
                kind: Kind::Share,
                default: None,
                doc: "least ranks with at most this relative error, that of the cores' forms included",
            },
            OptionDef {
                key: "params",
                aliases: &[],
                kind: Kind::Share,
                default: None,
                doc: "largest ranks whose cores have at most this share of the tensor's numbers",
            },
            MODES_OF_ROWS,
            OptionDef {
                key: "cols",
                doc: "factors of the number of columns; auto: two to four of like size",
                ..MODES_OF_ROWS
            },
            OptionDef {
                key: "order",
                aliases: &[],
                kind: Kind::Choice(&["auto", "interleaved", "separate"]),
                default: Some("auto"),
                doc: "pairs of a row and a column mode, or row modes before column modes; auto: the better",
            },
            FACTORS,
        ],
    }],
    canonical: |_, options| {
        one_of(options, &["rank", "error", "params"])?;
        options.canonical(&super::registry::nested)
    },
    lossless: |_, _| false,
    encode: train::encode_form,
    open,
};

const MODES_OF_ROWS: OptionDef = OptionDef {
    key: "rows",
    aliases: &[],
    kind: Kind::Dims(&["auto"]),
    default: Some("auto"),
    doc: "factors of the number of rows; auto: two to four of like size",
};

#[derive(Debug)]
struct Tt {
    meta: Meta,
    chain: Chain,
    multiplier: f32,
    cores: Vec<Box<dyn Form>>,
}

fn open(mut stored: Stored) -> Result<Box<dyn Form>> {
    let meta = stored.meta.clone();
    if !meta.dtype.is_float() {
        return Err(Error::corrupt(format!("cores of a {} tensor", meta.dtype)));
    }
    let list = |name: &str, most: usize| -> Result<Vec<usize>> {
        let bad = || Error::corrupt(format!("parameter '{name}' is not a list of sizes"));
        let values = stored.params.get(name).and_then(Value::as_array);
        let values = values.filter(|v| v.len() <= most).ok_or_else(bad)?;
        let sizes = values
            .iter()
            .map(|v| v.as_u64().and_then(|v| v.try_into().ok()));
        sizes.collect::<Option<_>>().ok_or_else(bad)
    };
    let rows = list("rows", MAX_MODES)?;
    let cols = list("cols", MAX_MODES)?;
    let ranks = list("ranks", 2 * MAX_MODES)?;
    let whole = !meta.is_empty() || (rows.len() == 1 && cols.len() == 1);
    let fits = |modes: &[usize], n: usize| element_count(modes).ok() == Some(n);
    if !fits(&rows, meta.rows) || !fits(&cols, meta.cols) || !whole {
        return Err(Error::corrupt(format!(
            "modes {rows:?} and {cols:?} of a {} × {} matrix",
            meta.rows, meta.cols
        )));
    }
    let separate = match stored.text("order")? {
        "interleaved" => false,
        "separate" => true,
        other => return Err(Error::corrupt(format!("'{other}' is no order of modes"))),
    };
    let mut chain = Chain::new(rows, cols, separate);
    chain.reversed = stored.flag("reversed")?;
    if ranks.len() + 1 != chain.len() {
        return Err(Error::corrupt(format!(
            "{} ranks between {} cores",
            ranks.len(),
            chain.len()
        )));
    }
    for (j, rank) in ranks.into_iter().enumerate() {
        if !(1..=chain.full_rank(j + 1)).contains(&rank) {
            return Err(Error::corrupt(format!("a rank of {rank} after core {j}")));
        }
        chain.ranks[j + 1] = rank;
    }
    let multiplier = stored.float("multiplier")?;
    let mut cores = Vec::with_capacity(chain.len());
    for (j, name) in NAMES[..chain.len()].iter().enumerate() {
        let core = stored.form(name)?;
        check_factor(name, &*core, chain.shape(j))?;
        cores.push(core);
    }
    Ok(Box::new(Tt {
        meta,
        chain,
        multiplier,
        cores,
    }))
}

impl Tt {
    /// The first of the digits of site `j` that rows of a window have, and how many follow
    /// it, the highest being followed by 0.
    fn digits_of(&self, j: usize, rows: &Range<usize>) -> (usize, usize) {
        let stride: usize = self.chain.sites[j + 1..].iter().map(|s| s.o).product();
        let o = self.chain.sites[j].o;
        let (first, last) = (rows.start / stride, (rows.end - 1) / stride);
        (first % o, (last - first + 1).min(o))
    }

    /// Rows of a core's part for one digit.
    fn rows_per_digit(&self, j: usize) -> usize {
        self.chain.shape(j)[0] / self.chain.sites[j].o
    }

    /// Numbers of the arrays that decoding takes: opened cores at most, what stands
    /// before each site of the head, what the tail comes to, twice, and one row.
    fn decode_sizes(&self, rows: usize) -> [usize; 4] {
        let chain = &self.chain;
        let (head, n) = (chain.head(), chain.len());
        let mut sizes = [0usize, 1, 0, 1];
        let (mut stride, mut cols) = (1usize, 1usize);
        for j in (0..n).rev() {
            let [tall, wide] = chain.shape(j);
            let o = chain.sites[j].o;
            let digits = rows.div_ceil(stride).saturating_add(1).min(o);
            sizes[0] = sizes[0].saturating_add((tall / o.max(1) * digits).saturating_mul(wide));
            stride = stride.saturating_mul(o.max(1));
        }
        for j in 0..head {
            cols = cols.saturating_mul(chain.sites[j].i);
            sizes[1] = sizes[1].saturating_add(cols.saturating_mul(chain.ranks[j + 1]));
            sizes[3] = cols.saturating_mul(chain.ranks[j + 1]);
        }
        let mut tail = 1usize;
        for j in (head..n).rev() {
            tail = tail.saturating_mul(chain.sites[j].i);
            sizes[2] = sizes[2].max(tail.saturating_mul(chain.ranks[j]));
        }
        sizes[2] = sizes[2].saturating_mul(2);
        sizes
    }

    /// Coefficients of a core's slice: `new[a][c][p] = Σ_b G(a, b, c)·old[b][p]`, where b
    /// is the bond before the site in the head and the one after it in the tail.
    fn extend(&self, j: usize, head: bool, slice: &[f32], old: &[f32], new: &mut [f32]) {
        let chain = &self.chain;
        let i = chain.sites[j].i;
        let (na, nb) = match head {
            true => (chain.ranks[j + 1], chain.ranks[j]),
            false => (chain.ranks[j], chain.ranks[j + 1]),
        };
        // Rows of the part are the bond after the site, or before it if reversed.
        let rows_are_new = head != chain.reversed;
        let p = old.len() / nb;
        new.fill(0.0);
        for (a, new) in new.chunks_exact_mut(i * p).enumerate() {
            for (b, old) in old.chunks_exact(p).enumerate() {
                let at = match rows_are_new {
                    true => a * nb + b,
                    false => b * na + a,
                };
                let slice = &slice[at * i..(at + 1) * i];
                if i * p == 1 {
                    new[0] += slice[0] * old[0];
                    continue;
                }
                if p == 1 {
                    kernels().add_scaled(old[0], slice, new);
                    continue;
                }
                for (g, new) in slice.iter().zip(new.chunks_exact_mut(p)) {
                    kernels().add_scaled(*g, old, new);
                }
            }
        }
    }

    fn decode(
        &self,
        rows: Range<usize>,
        out: &mut [f32],
        floats: &mut [f32],
        scratch: &mut Scratch,
    ) -> Result<()> {
        let chain = &self.chain;
        let (n, head, cols) = (chain.len(), chain.head(), self.meta.cols);
        let [cores_len, stack_len, tail_len, _] = self.decode_sizes(rows.len());
        let (opened, rest) = floats.split_at_mut(cores_len);
        let (stack, rest) = rest.split_at_mut(stack_len);
        let (tail, natural) = rest.split_at_mut(tail_len);

        // Open the cores, for the digits of the window only.
        let mut slices = Vec::with_capacity(n);
        let mut rest = opened;
        for (j, core) in self.cores.iter().enumerate() {
            let (first, count) = self.digits_of(j, &rows);
            let (o, each) = (chain.sites[j].o, self.rows_per_digit(j));
            let len = each * core.meta().cols;
            let (slice, more) = rest.split_at_mut(count * len);
            let high = count.min(o - first);
            let (above, below) = slice.split_at_mut(high * len);
            core.decode_f32(first * each..(first + high) * each, above, scratch.nested())?;
            core.decode_f32(0..(count - high) * each, below, scratch.nested())?;
            slices.push((first, len, &*slice));
            rest = more;
        }

        // The tail, the same for every row: S[rank][columns of the tail].
        let (mut new, mut old) = tail.split_at_mut(tail_len / 2);
        let mut len = 1;
        if head < n {
            old[0] = 1.0;
            for j in (head..n).rev() {
                let next = len / chain.ranks[j + 1] * chain.ranks[j] * chain.sites[j].i;
                self.extend(j, false, slices[j].2, &old[..len], &mut new[..next]);
                (new, old, len) = (old, new, next);
            }
        }
        let tail = &old[..if head < n { len } else { 0 }];

        // The head: one array a site, kept while the row's digits up to it stay.
        stack[0] = 1.0;
        let mut places = Vec::with_capacity(head + 1);
        places.push(0..1usize);
        for j in 0..head {
            let last = &places[j];
            let len = last.len() / chain.ranks[j] * chain.ranks[j + 1] * chain.sites[j].i;
            places.push(last.end..last.end + len);
        }
        let axes = Axes { chain };
        let bond = Axis::Rank(head);
        let from: Vec<Axis> = std::iter::once(bond)
            .chain((0..head).rev().map(Axis::Col))
            .collect();
        let to: Vec<Axis> = std::iter::once(bond)
            .chain((0..head).map(Axis::Col))
            .collect();
        let mut before: Option<usize> = None;
        for (row, out) in rows.zip(out.chunks_exact_mut(cols)) {
            let mut stride: usize = self.meta.rows;
            for j in 0..head {
                let o = chain.sites[j].o;
                stride /= o;
                if before.is_some_and(|b| b / stride == row / stride) {
                    continue;
                }
                let (first, len, slice) = slices[j];
                let digit = (row / stride % o + o - first) % o;
                let (done, rest) = stack.split_at_mut(places[j + 1].start);
                let new = &mut rest[..places[j + 1].len()];
                let slice = &slice[digit * len..(digit + 1) * len];
                self.extend(j, true, slice, &done[places[j].clone()], new);
            }
            before = Some(row);
            let made = &stack[places[head].clone()];
            if tail.is_empty() {
                axes.permute(made, &from, &to, out);
            } else {
                let bonds = chain.ranks[head];
                let (columns, wide) = (made.len() / bonds, tail.len() / bonds);
                let natural = &mut natural[..made.len()];
                axes.permute(made, &from, &to, natural);
                out.fill(0.0);
                for (p, out) in out.chunks_exact_mut(wide).enumerate() {
                    for (r, tail) in tail.chunks_exact(wide).enumerate() {
                        kernels().add_scaled(natural[r * columns + p], tail, out);
                    }
                }
            }
            scale(out, self.multiplier);
        }
        Ok(())
    }
}

/// The right length, without room to spare.
fn resize(values: &mut Vec<f32>, len: usize) -> Result<()> {
    if values.capacity() < len {
        *values = Vec::new();
        values.try_reserve_exact(len).map_err(|_| {
            let text = format!("{len} numbers between the cores of a tensor train");
            Error::new(ErrorKind::OutOfMemory, text)
        })?;
    }
    values.resize(len, 0.0);
    Ok(())
}

impl Form for Tt {
    fn kind(&self) -> &'static str {
        DEF.kind
    }

    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn params(&self) -> Map<String, Value> {
        let chain = &self.chain;
        let ranks = &chain.ranks[1..chain.len()];
        let order = if chain.separate {
            "separate"
        } else {
            "interleaved"
        };
        let mut params = Map::new();
        params.insert("rows".into(), chain.rows.clone().into());
        params.insert("cols".into(), chain.cols.clone().into());
        params.insert("order".into(), order.into());
        params.insert("reversed".into(), chain.reversed.into());
        params.insert("ranks".into(), ranks.to_vec().into());
        params.insert("multiplier".into(), f64::from(self.multiplier).into());
        params
    }

    fn parts(&self) -> Vec<(&'static str, Part<'_>)> {
        let cores = self.cores.iter().map(|c| Part::Form(&**c));
        NAMES.into_iter().zip(cores).collect()
    }

    fn map_buffers(&self, f: &mut dyn FnMut(&Buffer) -> Result<Buffer>) -> Result<Box<dyn Form>> {
        let cores = self.cores.iter().map(|c| c.map_buffers(f));
        Ok(Box::new(Self {
            meta: self.meta.clone(),
            chain: self.chain.clone(),
            multiplier: self.multiplier,
            cores: cores.collect::<Result<_>>()?,
        }))
    }

    fn is_exact(&self) -> bool {
        false
    }

    fn row_unit(&self) -> usize {
        WINDOW.min(self.meta.rows.max(1))
    }

    fn least_rows(&self) -> usize {
        1
    }

    fn scratch_for(&self, rows: usize) -> usize {
        let floats = self
            .decode_sizes(rows)
            .iter()
            .fold(0, |a: usize, b| a.saturating_add(*b));
        let cores = self.cores.iter().map(|c| c.scratch_for(c.meta().rows));
        let cores = cores.max().unwrap_or(0);
        floats.saturating_mul(4).saturating_add(cores)
    }

    fn decode_f32(&self, rows: Range<usize>, out: &mut [f32], scratch: &mut Scratch) -> Result<()> {
        if out.is_empty() {
            return Ok(());
        }
        let mut floats = std::mem::take(&mut scratch.floats);
        let sizes = self.decode_sizes(rows.len());
        let len = sizes.iter().fold(0, |a: usize, b| a.saturating_add(*b));
        let result = resize(&mut floats, len)
            .and_then(|()| self.decode(rows, out, &mut floats[..len], scratch));
        scratch.floats = floats;
        result
    }

    fn matmul(&self, x: &[f32], batch: usize, y: &mut [f32], product: &Product<'_>) -> Result<()> {
        if !self.by_cores(batch, product) {
            return product.by_rows(self, x, batch, y);
        }
        let (rows, cols) = (self.meta.rows, self.meta.cols);
        self.by_chain((x, cols), (y, rows), false, product)
    }

    fn matmul_t(
        &self,
        g: &[f32],
        batch: usize,
        y: &mut [f32],
        product: &Product<'_>,
    ) -> Result<()> {
        if !self.by_cores(batch, product) {
            return product.by_rows_t(self, g, batch, y);
        }
        let (rows, cols) = (self.meta.rows, self.meta.cols);
        self.by_chain((g, rows), (y, cols), true, product)
    }

    fn matmul_macs(&self) -> u64 {
        let dense = self.meta.rows as u64 * self.meta.cols as u64;
        self.chain.macs().min(dense)
    }

    fn decode_macs(&self) -> u64 {
        let macs = u64::try_from(self.chain.decode_macs()).unwrap_or(u64::MAX);
        macs.saturating_mul(ADDED_MACS)
    }
}

#[cfg(test)]
mod tests {
    use super::chain::{factors, mode_count};
    use super::*;
    use crate::calibration::Moments;
    use crate::dtype::DType;
    use crate::form::{EncodeContext, StoredPart, Tensor, encode, parse};
    use crate::tensor::View;

    fn numbers(n: usize, seed: u64) -> Vec<f32> {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        (0..n)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 40) as f32 / (1 << 23) as f32 - 1.0
            })
            .collect()
    }

    fn tensor(values: &[f32], shape: &[usize], spec: &str) -> Result<Tensor> {
        let view = View::new(DType::F32, shape, bytemuck::cast_slice(values))?;
        encode::encode(&view, &parse(spec)?, &EncodeContext::default())
    }

    fn param(t: &Tensor, name: &str) -> String {
        t.form().params()[name].to_string()
    }

    /// The Kronecker product of `a[m, n]` and `b[p, q]`.
    fn kronecker(a: &[f32], [m, n]: [usize; 2], b: &[f32], [p, q]: [usize; 2]) -> Vec<f32> {
        let mut w = Vec::with_capacity(a.len() * b.len());
        for r in 0..m * p {
            for c in 0..n * q {
                w.push(a[r / p * n + c / q] * b[r % p * q + c % q]);
            }
        }
        w
    }

    #[test]
    fn sizes_are_cut_into_like_factors() {
        assert_eq!(factors(4096, 3), [16, 16, 16]);
        assert_eq!(factors(384, 3), [6, 8, 8]);
        assert_eq!(factors(1536, 3), [8, 12, 16]);
        assert_eq!(factors(97, 3), [97]);
        assert_eq!(factors(194, 2), [2, 97]);
        assert_eq!(factors(1, 2), [1]);
        for n in 1..200 {
            assert_eq!(factors(n, 4).iter().product::<usize>(), n);
        }
        assert_eq!([1, 300, 4096, 1 << 20].map(mode_count), [2, 2, 3, 4]);
    }

    #[test]
    fn at_full_rank_every_order_is_exact_and_products_agree() {
        for (rows, cols, modes) in [
            (24, 60, "rows=2x3x4, cols=5x4x3"),
            (60, 24, "rows=5x4x3, cols=2x3x4"),
            (30, 8, "rows=30, cols=2x2x2"),
            (8, 30, "rows=2x2x2, cols=30"),
            (36, 35, "rows=6x6, cols=auto"),
            (1, 48, "cols=4x12"),
            (48, 1, "rows=4x12"),
        ] {
            let w = numbers(rows * cols, 5);
            for order in ["interleaved", "separate", "auto"] {
                let spec = format!("tt(rank=9999, {modes}, order={order})");
                let t = tensor(&w, &[rows, cols], &spec).unwrap();
                assert!(t.error().relative < 1e-6, "{spec}: {:?}", t.error());
                for spec in [spec.replace("9999", "5"), spec] {
                    let t = tensor(&w, &[rows, cols], &spec).unwrap();
                    let mut decoded = vec![0.0f32; rows * cols];
                    t.decode_rows_f32(0..rows, &mut decoded).unwrap();
                    for batch in [1, 5] {
                        let x = numbers(batch * cols, 7);
                        let mut y = vec![f32::NAN; batch * rows];
                        t.matmul(&x, batch, &mut y, &Default::default()).unwrap();
                        let mut by_rows = vec![f32::NAN; batch * rows];
                        kernels().dense_matmul(&decoded, &x, cols, &mut by_rows);
                        for (a, b) in y.iter().zip(&by_rows) {
                            assert!((a - b).abs() < 1e-4, "{spec} {batch}: {a} {b}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn the_chain_runs_the_cheaper_way() {
        let w = numbers(64 * 64, 1);
        // Column modes first: x gets smaller before it gets larger.
        let t = tensor(&w, &[64, 64], "tt(rank=3, order=separate)").unwrap();
        assert_eq!(param(&t, "reversed"), "true");
        for (modes, reversed) in [
            ("rows=2x32, cols=32x2", "false"),
            ("rows=32x2, cols=2x32", "true"),
        ] {
            let t = tensor(
                &w,
                &[64, 64],
                &format!("tt(rank=3, {modes}, order=interleaved)"),
            );
            assert_eq!(param(&t.unwrap(), "reversed"), reversed);
        }
        let mut chain = Chain::new(vec![64, 64], vec![64, 64], false);
        chain.cap(1);
        assert_eq!(chain.macs(), 1 << 19);
        assert_eq!(chain.params(), 8192);
        chain.cap(32);
        assert_eq!(chain.macs(), 4096 * 4096);
    }

    #[test]
    fn error_bounds_hold_and_structure_is_found() {
        // Two Kronecker products and a little noise.
        let (a, b) = (numbers(64, 1), numbers(12 * 15, 2));
        let (c, d) = (numbers(64, 3), numbers(12 * 15, 4));
        let mut w = kronecker(&a, [8, 8], &b, [12, 15]);
        let more = kronecker(&c, [8, 8], &d, [12, 15]);
        let noise = numbers(w.len(), 9);
        for ((w, m), n) in w.iter_mut().zip(&more).zip(&noise) {
            *w += 0.5 * m + 0.01 * n;
        }
        let modes = "rows=8x12, cols=8x15";
        let t = tensor(&w, &[96, 120], &format!("tt(error=5%, {modes})")).unwrap();
        assert_eq!(param(&t, "order"), "\"interleaved\"");
        assert_eq!(param(&t, "ranks"), "[2]");
        assert!(t.error().relative < 0.04);
        for error in [0.5, 0.1, 0.02, 0.001] {
            for order in ["auto", "interleaved", "separate"] {
                let spec = format!("tt(error={error}, order={order})");
                let t = tensor(&w, &[96, 120], &spec).unwrap();
                assert!(t.error().relative <= error, "{spec}");
            }
        }
        let spec = format!("tt(error=4%, {modes}, factors=[int8])");
        assert!(tensor(&w, &[96, 120], &spec).unwrap().error().relative <= 0.04);
        let spec = format!("tt(error=4%, {modes}, factors=[q(bits=3)])");
        let error = tensor(&w, &[96, 120], &spec).unwrap_err().to_string();
        assert!(error.contains("cannot be reached"), "{error}");

        let half = tensor(&w, &[96, 120], "tt(params=25%, factors=[f32])").unwrap();
        assert!(half.stored_bytes() <= (96 * 120 + 3 * 64) as u64);
        assert!(half.stored_bytes() > 96 * 120 * 3 / 4);
        assert!(tensor(&w, &[96, 120], "tt(rank=2, params=3%)").is_err());
        assert!(tensor(&w, &[96, 120], "tt(rows=8x8)").is_err());
    }

    #[test]
    fn moments_do_not_matter_and_scale_neither() {
        let w: Vec<f32> = kronecker(&numbers(16, 1), [4, 4], &numbers(30, 2), [6, 5]);
        let moments = Moments::from_diagonal(vec![1.0; 20]).unwrap();
        let context = EncodeContext {
            moments: Some(&moments),
            ..EncodeContext::default()
        };
        for scale in [1.0f32, 1e-38, 1e30] {
            let w: Vec<f32> = w.iter().map(|v| v * scale).collect();
            let view = View::new(DType::F32, &[24, 20], bytemuck::cast_slice(&w)).unwrap();
            let spec = parse("tt(rank=1, rows=4x6, cols=4x5, order=interleaved)").unwrap();
            let t = encode::encode(&view, &spec, &context).unwrap();
            assert!(t.error().relative < 1e-5, "{scale}: {:?}", t.error());
        }
    }

    #[test]
    fn what_is_stored_is_checked() {
        let open_with = |change: &dyn Fn(&mut Map<String, Value>), shape: [usize; 2]| {
            let of = |shape: [usize; 2]| {
                let values = vec![0.5f32; shape[0] * shape[1]];
                let spec = parse("dense").unwrap();
                let form = encode::part(&values, &shape, &spec, &EncodeContext::default());
                StoredPart::Form(form.unwrap())
            };
            let mut params = Map::new();
            params.insert("rows".into(), vec![4, 6].into());
            params.insert("cols".into(), vec![5, 2].into());
            params.insert("order".into(), "interleaved".into());
            params.insert("reversed".into(), false.into());
            params.insert("ranks".into(), vec![3].into());
            params.insert("multiplier".into(), 1.0.into());
            change(&mut params);
            open(Stored {
                meta: Meta::new(DType::F32, &[24, 10]).unwrap(),
                params,
                parts: vec![("core0".into(), of([12, 5])), ("core1".into(), of(shape))],
            })
        };
        let set = |name: &'static str, value: Value| {
            move |p: &mut Map<String, Value>| {
                p.insert(name.into(), value.clone());
            }
        };
        assert!(open_with(&|_| {}, [6, 6]).is_ok());
        assert!(open_with(&|_| {}, [6, 5]).is_err());
        for (name, value) in [
            ("rows", vec![4, 5].into()),
            ("rows", vec![4, 6, 1].into()),
            ("rows", vec![1u64 << 40, 1 << 40].into()),
            ("rows", "24".into()),
            ("cols", vec![1; 17].into()),
            ("cols", vec![10].into()),
            ("ranks", vec![0].into()),
            ("ranks", vec![4].into()),
            ("ranks", vec![13].into()),
            ("ranks", vec![3, 1].into()),
            ("reversed", true.into()),
            ("order", "separate".into()),
            ("order", "other".into()),
            ("multiplier", Value::Null),
        ] {
            let shown = format!("{name} {value}");
            let opened = open_with(&set(name, value), [6, 6]);
            // A row mode of one more changes nothing.
            assert_eq!(opened.is_ok(), shown == "rows [4,6,1]", "{shown}");
        }
    }
}
