//! The `head` part: what the units are decoded by.
//!
//! ```text
//! u8       flags: 1 symmetric tables, 2 row codes, 4 column codes
//! u8, i8…  number of offsets, at most 16, and the offsets in 128ths; the others are 0
//! u8, u8…  number T of tables, and for each how many classes it serves, 32 together
//! …        T tables, or 2·T with a trellis: those of Q = 0 and Q = 1 in turn
//! …        if there are row codes: a table of 2^10, then the same for columns
//! …        if there are any codes: the state, u32, and words, u16, of a range-ANS coder of
//!          one lane, all rows and then all columns
//! u32…     bytes of each unit, in order
//! ```
//!
//! A table is that of [`frequencies`](crate::pack::frequencies). Not symmetric: of 2^p,
//! byte s + 128 for symbol s. Symmetric: of 2^(p−1) and magnitudes j; without low bits
//! symbol 0 has twice the frequency of j = 0, and j and −j have that of j; with low bits j
//! and −1 − j have that of j.

use crate::bytes::Reader;
use crate::error::{Error, Result};
use crate::kernel::ecq::{CLASSES, START};
use crate::pack::frequencies::{Frequencies, Histogram};

/// Bits of the tables of row and column codes.
const CODE_BITS: u32 = 10;

/// Row and column codes are below this.
pub(super) const CODES: u8 = 32;

/// What a unit is decoded by, as stored.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Head {
    pub(super) symmetric: bool,
    /// In 128ths.
    pub(super) offsets: [i8; 16],
    /// By class: the number of its table.
    pub(super) of_class: [u8; CLASSES],
    /// Of every table, for Q = 0 and, with a trellis, Q = 1.
    pub(super) tables: Vec<Frequencies>,
    /// Row codes; empty if all change nothing.
    pub(super) rows: Vec<u8>,
    /// Column codes, likewise.
    pub(super) cols: Vec<u8>,
    /// Where each unit begins, and the end of the last.
    pub(super) starts: Vec<u64>,
}

/// What the head is read by besides its bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub(super) precision: u32,
    pub(super) low: u32,
    pub(super) trellis: bool,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) units: usize,
}

impl Layout {
    /// Tables that a class has.
    pub(super) fn per_class(&self) -> usize {
        if self.trellis { 2 } else { 1 }
    }

    /// Bits of the frequencies that are stored.
    pub(super) fn table_bits(&self, symmetric: bool) -> u32 {
        self.precision - u32::from(symmetric)
    }

    /// Frequencies of symbols −128 … 127.
    pub(super) fn expand(&self, table: &Frequencies, symmetric: bool) -> [u16; 256] {
        let mut all = [0; 256];
        for (symbol, f) in (-128i32..).zip(&mut all) {
            *f = if !symmetric {
                table.frequency((symbol + 128) as u8) as u16
            } else if self.low > 0 {
                table.frequency(symbol.max(-1 - symbol) as u8) as u16
            } else {
                let twice = if symbol == 0 { 2 } else { 1 };
                twice * table.frequency(symbol.unsigned_abs() as u8) as u16
            };
        }
        all
    }
}

impl Head {
    pub(super) fn write(&self, layout: &Layout) -> Vec<u8> {
        let mut out = Vec::new();
        let flag = |on: bool, bit: u8| if on { bit } else { 0 };
        out.push(
            flag(self.symmetric, 1)
                | flag(!self.rows.is_empty(), 2)
                | flag(!self.cols.is_empty(), 4),
        );
        let n = self
            .offsets
            .iter()
            .rposition(|o| *o != 0)
            .map_or(0, |i| i + 1);
        out.push(n as u8);
        out.extend(self.offsets[..n].iter().map(|o| *o as u8));
        let count = self.tables.len() / layout.per_class();
        out.push(count as u8);
        for t in 0..count {
            out.push(
                self.of_class
                    .iter()
                    .filter(|c| usize::from(**c) == t)
                    .count() as u8,
            );
        }
        for table in &self.tables {
            table.write(&mut out);
        }
        write_codes(&self.rows, &self.cols, &mut out);
        for pair in self.starts.windows(2) {
            out.extend_from_slice(&((pair[1] - pair[0]) as u32).to_le_bytes());
        }
        out
    }

    /// Reads a head, which is not trusted.
    pub(super) fn read(bytes: &[u8], layout: &Layout) -> Result<Self> {
        let mut source = Reader::new(bytes);
        let flags = source.u8()?;
        if flags > 7 {
            return Err(Error::corrupt(format!(
                "flags {flags:#x} of an entropy-coded tensor"
            )));
        }
        let symmetric = flags & 1 != 0;
        let mut offsets = [0; 16];
        let n = usize::from(source.u8()?);
        let Some(given) = offsets.get_mut(..n) else {
            return Err(Error::corrupt(format!("{n} offsets")));
        };
        for (offset, byte) in given.iter_mut().zip(source.take(n)?) {
            *offset = *byte as i8;
        }
        let count = usize::from(source.u8()?);
        let mut of_class = [0; CLASSES];
        let mut class = 0;
        for (t, n) in (0u8..).zip(source.take(count)?) {
            let end = class + usize::from(*n);
            let Some(served) = of_class.get_mut(class..end) else {
                return Err(Error::corrupt("tables of more classes than there are"));
            };
            served.fill(t);
            class = end;
        }
        if class != CLASSES || count > CLASSES {
            return Err(Error::corrupt(format!("{count} tables of {class} classes")));
        }
        let bits = layout.table_bits(symmetric);
        let mut tables = Vec::with_capacity(count * layout.per_class());
        for _ in 0..count * layout.per_class() {
            let table = read_table(&mut source, bytes, bits)?;
            if symmetric && (128..=255).any(|s| table.frequency(s) > 0) {
                return Err(Error::corrupt("a magnitude above 127"));
            }
            tables.push(table);
        }
        let table = |source: &mut Reader<'_>, bit: u8| -> Result<Option<Frequencies>> {
            if flags & bit == 0 {
                return Ok(None);
            }
            let table = read_table(source, bytes, CODE_BITS)?;
            if (CODES..=255).any(|s| table.frequency(s) > 0) || table.single().is_some() {
                return Err(Error::corrupt("row or column codes out of range"));
            }
            Ok(Some(table))
        };
        let row_table = table(&mut source, 2)?;
        let col_table = table(&mut source, 4)?;
        let (mut rows, mut cols) = (Vec::new(), Vec::new());
        if row_table.is_some() || col_table.is_some() {
            let mut x = source.u32()?;
            if let Some(table) = row_table {
                rows = read_codes(&mut source, &mut x, &table, layout.rows)?;
            }
            if let Some(table) = col_table {
                cols = read_codes(&mut source, &mut x, &table, layout.cols)?;
            }
            if x != START {
                return Err(Error::corrupt("row and column codes end in a wrong state"));
            }
        }
        if source.remaining() / 4 != layout.units || !source.remaining().is_multiple_of(4) {
            return Err(Error::corrupt(format!(
                "{} bytes of the lengths of {} units",
                source.remaining(),
                layout.units
            )));
        }
        let mut starts = Vec::with_capacity(layout.units + 1);
        let mut at = 0u64;
        starts.push(0);
        while source.remaining() > 0 {
            at += u64::from(source.u32()?);
            starts.push(at);
        }
        Ok(Self {
            symmetric,
            offsets,
            of_class,
            tables,
            rows,
            cols,
            starts,
        })
    }
}

fn read_table(source: &mut Reader<'_>, bytes: &[u8], bits: u32) -> Result<Frequencies> {
    let (table, used) = Frequencies::read(&bytes[source.position()..], bits)?;
    source.take(used)?;
    Ok(table)
}

fn histogram(codes: &[u8]) -> Histogram {
    let mut h = [0; 256];
    for code in codes {
        h[usize::from(*code)] += 1;
    }
    h
}

/// Bits that row or column codes take, their table included; about.
pub(super) fn codes_bits(codes: &[u8]) -> f64 {
    let h = histogram(codes);
    let table = Frequencies::normalise(&h, CODE_BITS);
    let mut bytes = Vec::new();
    table.write(&mut bytes);
    table.cost_bits(&h) + 8.0 * bytes.len() as f64
}

/// Whether codes say anything: at least two differ.
pub(super) fn varied(codes: &[u8]) -> bool {
    codes.iter().any(|c| *c != codes[0])
}

/// Codes that are all alike are left out by the caller.
fn write_codes(rows: &[u8], cols: &[u8], out: &mut Vec<u8>) {
    if rows.is_empty() && cols.is_empty() {
        return;
    }
    let tables = [rows, cols].map(|codes| Frequencies::normalise(&histogram(codes), CODE_BITS));
    for (table, codes) in tables.iter().zip([rows, cols]) {
        if !codes.is_empty() {
            table.write(out);
        }
    }
    let mut x = START;
    let mut words = Vec::new();
    for (table, codes) in tables.iter().zip([rows, cols]).rev() {
        for code in codes.iter().rev() {
            let (f, c) = (table.frequency(*code), table.start(*code));
            if x >= f << (32 - CODE_BITS) {
                words.push(x as u16);
                x >>= 16;
            }
            x = (x / f) << CODE_BITS | (x % f + c);
        }
    }
    out.extend_from_slice(&x.to_le_bytes());
    out.extend(words.iter().rev().flat_map(|w| w.to_le_bytes()));
}

fn read_codes(
    source: &mut Reader<'_>,
    x: &mut u32,
    table: &Frequencies,
    n: usize,
) -> Result<Vec<u8>> {
    let mut of_slot = Vec::with_capacity(1 << CODE_BITS);
    for code in 0..CODES {
        of_slot.resize(of_slot.len() + table.frequency(code) as usize, code);
    }
    let mut codes = Vec::new();
    codes
        .try_reserve_exact(n)
        .map_err(|_| Error::limit(format!("codes of {n} rows or columns")))?;
    for _ in 0..n {
        let slot = *x & ((1 << CODE_BITS) - 1);
        let code = of_slot[slot as usize];
        *x = table.frequency(code) * (*x >> CODE_BITS) + slot - table.start(code);
        if *x < START {
            *x = *x << 16 | u32::from(source.u16()?);
        }
        codes.push(code);
    }
    Ok(codes)
}
