//! Range-ANS entropy coder.
//!
//! *Exploits* uneven frequencies of bytes and nothing else: no repeats, no order. Takes
//! within 1 % of the order-0 entropy, and decodes two symbols a nanosecond and more,
//! whatever the entropy. The coder for codes of quantised weights and bitmasks, and
//! behind `shuffle` for the exponents of floats.
//!
//! *Layout.* Nothing for nothing. Else
//!
//! ```text
//! n         u8       segments, at least 1
//! n times
//!   length  varint   bytes, at least 1: 7 bits a byte, lowest first, the top bit set in
//!                    all but the last; 5 bytes at most
//!   kind    u8       0 raw, 1 constant, 8 … 14 coded with this p
//!   constant: the byte
//!   coded:    the table of frequencies, as in frequencies.rs; no symbol has all 2^p
//! the bytes of the raw segments
//! if a segment is coded
//!   states  32 × u32 lane 0 first, each at least 2^16
//!   words   u16      to the end
//! ```
//!
//! A coded segment is decoded with the states that the one before left, its first byte by
//! lane 0, as [`kernel::rans`] says. After the last all states are 2^16 and
//! no word is left: whatever damage leaves the length right shows there, nearly always.
//!
//! The encoder cuts where a byte plane of `shuffle` ends (by the buffer's element width)
//! and into pieces of 16 KiB, and joins neighbours that are smaller with one table. What
//! would shrink by less than 1/64 is kept raw, which costs a copy to decode. It takes
//! p = 12 unless rare symbols, which have at least one slot of 2^p, make 14 worth a
//! somewhat slower decoder, or the segment is so short that the table counts.
//!
//! *Loses* to `zstd` where bytes repeat, and on chunks of a few hundred bytes, for the 128
//! bytes of states.
//!
//! Source of the method: J. Duda, "Asymmetric numeral systems", 2013; interleaving: F.
//! Giesen, "Interleaved entropy coders", 2014.

use std::cell::Cell;
use std::ops::Range;

use super::frequencies::{self, Frequencies, Histogram, entropy_bits, histogram};
use crate::error::{Error, Result};
use crate::kernel;
use crate::kernel::rans::{DecodeTable, EncodeTable, LANES, START};
use crate::pack::{Pack, PackDef, grow, too_long};
use crate::spec::Codec;

pub(super) const DEF: PackDef = PackDef {
    codec: Codec {
        name: "rans",
        summary: "range-ANS entropy coder",
        options: &[],
    },
    make: |_, width| Ok(Box::new(Rans { width })),
};

/// Pieces that may have tables of their own.
const PIECE: usize = 16 << 10;

/// Most segments: one byte counts them.
const MOST: usize = 255;

const RAW: u8 = 0;
const CONSTANT: u8 = 1;

/// Bytes of states in front of the words.
const STATES: usize = 4 * LANES;

/// Usual p, that for rare symbols, and that for short segments.
const USUAL_BITS: u32 = 12;
const FINE_BITS: u32 = 14;
const SHORT_BITS: u32 = 10;

#[derive(Debug)]
struct Rans {
    width: usize,
}

#[derive(Debug)]
enum Kind {
    Raw,
    Constant(u8),
    Coded(Frequencies),
}

#[derive(Debug)]
struct Segment {
    len: usize,
    kind: Kind,
}

/// Neighbouring bytes that may become a segment.
struct Piece {
    range: Range<usize>,
    histogram: Histogram,
    /// Bits that it would take, about.
    cost: f64,
}

impl Piece {
    fn new(range: Range<usize>, histogram: Histogram) -> Self {
        let raw = range.len() as f64 * 8.0;
        // Length, kind, first and last symbol; about seven bits a symbol.
        let symbols = histogram.iter().filter(|h| **h > 0).count();
        let head = 48.0
            + if symbols > 1 {
                7.0 * symbols as f64
            } else {
                0.0
            };
        let coded = entropy_bits(&histogram) + head;
        Self {
            range,
            histogram,
            cost: if pays(coded, raw) { coded } else { raw + 32.0 },
        }
    }

    /// The two together, if that is smaller.
    fn join(&self, next: &Self) -> Option<Self> {
        let mut histogram = self.histogram;
        for (a, b) in histogram.iter_mut().zip(next.histogram) {
            *a += b;
        }
        let both = Self::new(self.range.start..next.range.end, histogram);
        (both.cost <= self.cost + next.cost).then_some(both)
    }

    fn segment(&self) -> Segment {
        let len = self.range.len();
        let raw = len as f64 * 8.0;
        let single = (0u8..=255)
            .zip(self.histogram)
            .find(|(_, h)| *h as usize == len);
        let kind = match single {
            Some((symbol, _)) => Kind::Constant(symbol),
            None if !pays(entropy_bits(&self.histogram), raw) => Kind::Raw,
            None => {
                let (frequencies, cost) = self.fit();
                if pays(cost, raw) {
                    Kind::Coded(frequencies)
                } else {
                    Kind::Raw
                }
            }
        };
        Segment { len, kind }
    }

    /// Frequencies, and what the segment takes with them in bits.
    fn fit(&self) -> (Frequencies, f64) {
        let with = |bits| {
            let f = Frequencies::normalise(&self.histogram, bits);
            let mut table = Vec::new();
            f.write(&mut table);
            let cost = f.cost_bits(&self.histogram);
            (f, cost, table.len() as f64 * 8.0)
        };
        let (mut best, cost, table) = with(USUAL_BITS);
        let mut least = cost + table;
        let mut consider = |bits, advantage: f64| {
            let (f, cost, table) = with(bits);
            if (cost + table) * advantage < least {
                least = cost + table;
                best = f;
            }
        };
        if cost > entropy_bits(&self.histogram) * 1.005 {
            consider(FINE_BITS, 1.005);
        } else if table > cost / 64.0 {
            consider(SHORT_BITS, 1.0);
        }
        (best, least)
    }
}

/// Whether coding saves enough to be undone for every use.
fn pays(coded: f64, raw: f64) -> bool {
    coded <= raw * (63.0 / 64.0)
}

/// How `src` is cut, and what becomes of each segment.
fn segments(src: &[u8], width: usize) -> Vec<Segment> {
    // Few enough for the byte that counts them, with all that planes and tail add.
    let piece = src.len().div_ceil(MOST - 2 * width.max(1)).max(PIECE);
    let plane = src.len() / width;
    let planes = (0..width).map(|j| j * plane..(j + 1) * plane);
    let mut joined: Vec<Piece> = Vec::new();
    for plane in planes.chain(std::iter::once(plane * width..src.len())) {
        for start in plane.clone().step_by(piece) {
            let range = start..plane.end.min(start + piece);
            let mut last = Piece::new(range.clone(), histogram(&src[range]));
            while let Some(both) = joined.last().and_then(|before| before.join(&last)) {
                joined.pop();
                last = both;
            }
            joined.push(last);
        }
    }
    joined.iter().map(Piece::segment).collect()
}

/// Everything but the words, states included, appended to `dst`; the words returned.
fn encode_with(src: &[u8], segments: &[Segment], words: &mut Vec<u8>, dst: &mut Vec<u8>) -> usize {
    dst.push(segments.len() as u8);
    let mut coded = 0;
    for segment in segments {
        put_varint(dst, segment.len);
        match &segment.kind {
            Kind::Raw => dst.push(RAW),
            Kind::Constant(byte) => dst.extend_from_slice(&[CONSTANT, *byte]),
            Kind::Coded(frequencies) => {
                dst.push(frequencies.bits() as u8);
                frequencies.write(dst);
                coded += segment.len;
            }
        }
    }
    let mut at = 0;
    for segment in segments {
        if let Kind::Raw = segment.kind {
            dst.extend_from_slice(&src[at..at + segment.len]);
        }
        at += segment.len;
    }
    if coded == 0 {
        return words.len();
    }
    let room = 2 * coded + 2 * LANES;
    if words.len() < room {
        words.resize(room, 0);
    }
    let mut begin = words.len();
    let mut states = [START; LANES];
    for segment in segments.iter().rev() {
        at -= segment.len;
        if let Kind::Coded(frequencies) = &segment.kind {
            let table = EncodeTable::new(frequencies.all(), frequencies.bits());
            let src = &src[at..at + segment.len];
            begin = kernel::best().rans_encode(&table, &mut states, src, &mut words[..begin]);
        }
    }
    for state in states {
        dst.extend_from_slice(&state.to_le_bytes());
    }
    begin
}

impl Pack for Rans {
    fn encode(&self, src: &[u8], dst: &mut Vec<u8>) -> Result<()> {
        if src.is_empty() {
            return Ok(());
        }
        if u32::try_from(src.len()).is_err() {
            return Err(Error::limit(format!("rans on {} bytes at once", src.len())));
        }
        // Kept from chunk to chunk, for fresh pages cost as much as coding.
        thread_local! {
            static WORDS: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
        }
        let mut words = WORDS.take();
        let start = dst.len();
        let segments = segments(src, self.width);
        let begin = encode_with(src, &segments, &mut words, dst);
        dst.extend_from_slice(&words[begin..]);
        if dst.len() - start > src.len() {
            dst.truncate(start);
            let raw = Segment {
                len: src.len(),
                kind: Kind::Raw,
            };
            encode_with(src, &[raw], &mut words, dst);
        }
        WORDS.set(words);
        Ok(())
    }

    fn decode(&self, src: &[u8], max_len: usize, dst: &mut Vec<u8>) -> Result<()> {
        let Some((count, mut rest)) = src.split_first() else {
            return Ok(());
        };
        let mut segments = Vec::with_capacity(usize::from(*count));
        let (mut len, mut raw, mut coded) = (0usize, 0usize, false);
        for _ in 0..*count {
            let segment = take_segment(&mut rest)?;
            // No sum of 255 lengths of 32 bits overflows where sizes have 64.
            len = len.saturating_add(segment.len);
            match segment.kind {
                Kind::Raw => raw = raw.saturating_add(segment.len),
                Kind::Constant(_) => {}
                Kind::Coded(_) => coded = true,
            }
            segments.push(segment);
        }
        if len > max_len {
            return Err(too_long("rans", max_len));
        }
        let Some((mut raw, rest)) = rest.split_at_checked(raw) else {
            return Err(Error::corrupt("rans is cut inside its raw bytes"));
        };
        let (mut states, mut words) = ([START; LANES], rest);
        if coded {
            let Some((bytes, rest)) = rest.split_at_checked(STATES) else {
                return Err(Error::corrupt("rans is cut inside its states"));
            };
            for (state, bytes) in states.iter_mut().zip(bytes.as_chunks().0) {
                *state = u32::from_le_bytes(*bytes);
            }
            if states.iter().any(|x| *x < START) {
                return Err(Error::corrupt("a rans state below 2^16"));
            }
            words = rest;
        }
        let mut out = grow(dst, len);
        for segment in &segments {
            let (part, rest) = out.split_at_mut(segment.len);
            out = rest;
            match &segment.kind {
                Kind::Raw => {
                    let (bytes, rest) = raw.split_at(segment.len);
                    part.copy_from_slice(bytes);
                    raw = rest;
                }
                Kind::Constant(byte) => part.fill(*byte),
                Kind::Coded(frequencies) => {
                    let table = DecodeTable::new(frequencies.all(), frequencies.bits());
                    let read = kernel::best().rans_decode(&table, &mut states, words, part);
                    let read = read.ok_or_else(|| Error::corrupt("rans is out of words"))?;
                    words = &words[read..];
                }
            }
        }
        if !words.is_empty() || states != [START; LANES] {
            return Err(Error::corrupt("rans does not end where it should"));
        }
        Ok(())
    }
}

fn take_segment(src: &mut &[u8]) -> Result<Segment> {
    let len = take_varint(src)?;
    let kind = match take_byte(src)? {
        RAW => Kind::Raw,
        CONSTANT => Kind::Constant(take_byte(src)?),
        bits if frequencies::BITS.contains(&bits.into()) => {
            let (frequencies, used) = Frequencies::read(src, bits.into())?;
            if frequencies.single().is_some() {
                return Err(Error::corrupt("rans codes a constant"));
            }
            *src = &src[used..];
            Kind::Coded(frequencies)
        }
        kind => return Err(Error::corrupt(format!("rans segment of kind {kind}"))),
    };
    Ok(Segment { len, kind })
}

fn take_byte(src: &mut &[u8]) -> Result<u8> {
    let (byte, rest) = src
        .split_first()
        .ok_or_else(|| Error::corrupt("rans is cut inside its segments"))?;
    *src = rest;
    Ok(*byte)
}

fn put_varint(dst: &mut Vec<u8>, mut v: usize) {
    while v >= 0x80 {
        dst.push(v as u8 | 0x80);
        v >>= 7;
    }
    dst.push(v as u8);
}

/// At least 1 and less than 2^32.
fn take_varint(src: &mut &[u8]) -> Result<usize> {
    let mut v = 0u64;
    for shift in [0, 7, 14, 21, 28] {
        let byte = take_byte(src)?;
        v |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            let v = u32::try_from(v).ok().filter(|v| *v > 0);
            return v
                .map(|v| v as usize)
                .ok_or_else(|| Error::corrupt("rans segment of no length, or past 32 bits"));
        }
    }
    Err(Error::corrupt("rans length of more than five bytes"))
}
