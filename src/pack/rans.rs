//! Range-ANS entropy coder.
//!
//! *Exploits* uneven frequencies of bytes and nothing else: no repeats, no order. Takes
//! within 1 % of the order-0 entropy in chunks of 256 KiB, and decodes some two symbols a
//! nanosecond with vectors, whatever the entropy. The coder for codes of quantised weights and bitmasks, and
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
//!   lanes   u8       32 or 64
//!   states  u32      one for each lane, lane 0 first, each at least 2^16
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
//! p = 12 unless rare symbols, which have at least one slot of 2^p, make 14 worth half the
//! decoding speed, or the segment is so short that the table counts. It takes 64 lanes,
//! which decode a third faster than 32, from 32 KiB of output on: a lane costs some three
//! bytes.
//!
//! *Loses* to `zstd` where bytes repeat, and on chunks of a few hundred bytes, for the
//! states.
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

/// Bytes of output from which on many lanes cost less than 0.3 % of it.
const MANY_LANES_FROM: f64 = 32768.0;

/// Usual p, that for rare symbols, and that for short segments.
const USUAL_BITS: u32 = 12;
const FINE_BITS: u32 = 14;
const SHORT_BITS: u32 = 10;

#[derive(Debug)]
struct Rans {
    width: usize,
}

/// What becomes of a segment.
#[derive(Debug)]
enum Kind {
    Raw,
    Constant(u8),
    Coded(Box<Frequencies>),
}

#[derive(Debug)]
struct Segment {
    len: usize,
    kind: Kind,
    /// Bits that it takes, about. 0 when read.
    cost: f64,
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
        let (kind, cost) = match single {
            Some((symbol, _)) => (Kind::Constant(symbol), 8.0),
            None if !pays(entropy_bits(&self.histogram), raw) => (Kind::Raw, raw),
            None => match self.fit() {
                (frequencies, cost) if pays(cost, raw) => {
                    (Kind::Coded(Box::new(frequencies)), cost)
                }
                _ => (Kind::Raw, raw),
            },
        };
        Segment { len, kind, cost }
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

/// Appends everything but the words, which go to the end of `words`: where they begin.
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
    if words.len() < 2 * coded {
        words.resize(2 * coded, 0);
    }
    let mut begin = words.len();
    let bytes = segments.iter().map(|s| s.cost).sum::<f64>() / 8.0;
    let lanes = LANES[usize::from(bytes >= MANY_LANES_FROM)];
    let mut states = vec![START; lanes];
    for segment in segments.iter().rev() {
        at -= segment.len;
        if let Kind::Coded(frequencies) = &segment.kind {
            let table = EncodeTable::new(frequencies.all(), frequencies.bits());
            let src = &src[at..at + segment.len];
            begin = kernel::best().rans_encode(&table, &mut states, src, &mut words[..begin]);
        }
    }
    dst.push(lanes as u8);
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
                cost: src.len() as f64 * 8.0,
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
        let (mut states, mut words) = if coded {
            take_states(rest)?
        } else {
            (Vec::new(), rest)
        };
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
        if !words.is_empty() || states.iter().any(|x| *x != START) {
            return Err(Error::corrupt("rans does not end where it should"));
        }
        Ok(())
    }
}

/// The states, and what follows them.
fn take_states(src: &[u8]) -> Result<(Vec<u32>, &[u8])> {
    let mut rest = src;
    let lanes = usize::from(take_byte(&mut rest)?);
    if !LANES.contains(&lanes) {
        return Err(Error::corrupt(format!("rans of {lanes} lanes")));
    }
    let Some((bytes, rest)) = rest.split_at_checked(4 * lanes) else {
        return Err(Error::corrupt("rans is cut inside its states"));
    };
    let bytes = bytes.as_chunks().0.iter();
    let states: Vec<u32> = bytes.map(|b| u32::from_le_bytes(*b)).collect();
    if states.iter().any(|x| *x < START) {
        return Err(Error::corrupt("a rans state below 2^16"));
    }
    Ok((states, rest))
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
            Kind::Coded(Box::new(frequencies))
        }
        kind => return Err(Error::corrupt(format!("rans segment of kind {kind}"))),
    };
    Ok(Segment {
        len,
        kind,
        cost: 0.0,
    })
}

fn take_byte(src: &mut &[u8]) -> Result<u8> {
    let (byte, rest) = src
        .split_first()
        .ok_or_else(|| Error::corrupt("rans is cut"))?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    struct XorShift(u64);

    impl XorShift {
        fn next(&mut self) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0
        }

        /// A round bell about 128, of about this width.
        fn bell(&mut self, width: u64) -> u8 {
            let sum: u64 = (0..4).map(|_| (self.next() >> 20) % (width + 1)).sum();
            (128 + sum - 2 * width) as u8
        }
    }

    fn encode(src: &[u8], width: usize) -> Vec<u8> {
        let mut out = Vec::new();
        Rans { width }.encode(src, &mut out).unwrap();
        out
    }

    fn decode(src: &[u8], max_len: usize) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        Rans { width: 1 }.decode(src, max_len, &mut out)?;
        Ok(out)
    }

    fn kinds(src: &[u8], width: usize) -> Vec<(usize, u8)> {
        let kind = |k: &Kind| match k {
            Kind::Raw => RAW,
            Kind::Constant(_) => CONSTANT,
            Kind::Coded(f) => f.bits() as u8,
        };
        let all = segments(src, width);
        all.iter().map(|s| (s.len, kind(&s.kind))).collect()
    }

    #[test]
    fn layout_is_as_written() {
        assert!(encode(&[], 4).is_empty());
        assert_eq!(encode(&[9], 1), [1, 1, RAW, 9]);
        assert_eq!(encode(&[9, 8, 7], 2), [1, 3, RAW, 9, 8, 7]);
        assert_eq!(encode(&[5; 300], 1), [1, 0xac, 2, CONSTANT, 5]);
        // Two symbols, as likely as each other, in turn: a bit each, and 32 states.
        let src: Vec<u8> = (0..2048).map(|i| (i / 3 % 2) as u8).collect();
        let coded = encode(&src, 1);
        let head = [1, 0x80, 16, 12];
        assert_eq!(coded[..4], head);
        let (_, table) = Frequencies::read(&coded[4..], 12).unwrap();
        assert_eq!(coded[4 + table], 32);
        let words = coded.len() - 5 - table - 4 * 32;
        // What the states hold is not in the words.
        assert!((256 - 64..=256).contains(&words), "{words}");
        assert_eq!(decode(&coded, 2048).unwrap(), src);
    }

    #[test]
    fn planes_and_pieces_are_cut_where_it_pays() {
        let mut x = XorShift(1);
        let mut planes: Vec<u8> = Vec::new();
        planes.extend((0..40_000).map(|_| x.next() as u8));
        planes.extend((0..40_000).map(|_| x.bell(3)));
        let found = kinds(&planes, 2);
        assert_eq!(found, [(40_000, RAW), (40_000, 12)]);
        // Not known as planes, they are cut at the next piece.
        let found = kinds(&planes, 1);
        let cut = [3 * PIECE, 2 * PIECE];
        assert!(found.len() <= 3 && cut.contains(&found[0].0), "{found:?}");
        // One bell is one segment, and its tail is not another.
        let bell: Vec<u8> = (0..200_003).map(|_| x.bell(9)).collect();
        assert_eq!(kinds(&bell, 1), [(200_003, 12)]);
        assert_eq!(kinds(&bell, 4), [(200_003, 12)]);
        let mut zeros = bell;
        zeros[..2 * PIECE].fill(0);
        let rest = 200_003 - 2 * PIECE;
        assert_eq!(kinds(&zeros, 1), [(2 * PIECE, CONSTANT), (rest, 12)]);
        // However long, few enough for the count.
        let mut long: Vec<u8> = (0..5 << 20).map(|_| x.bell(2)).collect();
        for (i, piece) in long.chunks_mut(PIECE).enumerate() {
            piece
                .iter_mut()
                .for_each(|b| *b = b.wrapping_add((i * 50) as u8));
        }
        for width in [1, 8] {
            let coded = encode(&long, width);
            assert!(coded[0] > 100);
            assert!(decode(&coded, long.len()).unwrap() == long);
        }
    }

    /// Everything counted, in chunks as buffers have them.
    #[test]
    fn sizes_are_near_the_entropy() {
        let mut x = XorShift(2);
        let mut check = |what: &str, most: f64, f: &mut dyn FnMut(&mut XorShift) -> u8| {
            let src: Vec<u8> = (0..256 << 10).map(|_| f(&mut x)).collect();
            let entropy = entropy_bits(&histogram(&src)) / 8.0;
            let coded = encode(&src, 1);
            let over = coded.len() as f64 / entropy - 1.0;
            assert!((0.0..most).contains(&over), "{what}: {over}");
            assert!(decode(&coded, src.len()).unwrap() == src);
        };
        for width in [1, 2, 5, 12, 40] {
            check(&format!("bell {width}"), 0.006, &mut |x| x.bell(width));
        }
        for percent in [1, 5, 10, 20, 50] {
            let mut byte = |x: &mut XorShift| {
                (0..8).fold(0, |b, i| {
                    b | u8::from((x.next() >> 20) % 100 < percent) << i
                })
            };
            let most = if percent == 50 { f64::MAX } else { 0.015 };
            check(&format!("mask {percent} %"), most, &mut byte);
        }
        // One symbol in a thousand is another: 374 bytes of entropy, 128 of states.
        check("spike", 0.35, &mut |x| {
            u8::from((x.next() >> 20).is_multiple_of(1000))
        });
    }

    #[test]
    fn every_length_about_a_round_comes_back() {
        let mut x = XorShift(3);
        for width in [0, 1, 3, 20] {
            for len in (0..400).chain(4000..4130).chain(70_000..70_004) {
                let src: Vec<u8> = (0..len).map(|_| x.bell(width)).collect();
                for planes in [1, 4] {
                    let coded = encode(&src, planes);
                    assert!(decode(&coded, len).unwrap() == src, "{width} {len}");
                    if len > 0 {
                        assert!(decode(&coded, len - 1).is_err());
                    }
                }
            }
        }
    }

    #[test]
    fn damage_is_found_or_keeps_the_length() {
        let mut x = XorShift(4);
        let mut src: Vec<u8> = (0..3000).map(|_| x.bell(4)).collect();
        src.extend((0..3000).map(|_| x.next() as u8));
        let coded = encode(&src, 2);
        assert_eq!(coded[0], 2);
        for cut in 0..coded.len() {
            assert_eq!(
                decode(&coded[..cut], 6000).map_err(|e| e.kind()).err(),
                (cut > 0).then_some(ErrorKind::Corrupt)
            );
        }
        let mut missed = 0;
        for bit in 0..coded.len() * 8 {
            let mut bad = coded.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            match decode(&bad, 6000) {
                Ok(out) => {
                    assert!(out.len() <= 6000);
                    // Raw bytes are guarded by the chunk's checksum alone. Of the coded
                    // ones, symbols of one frequency can stand for each other in the last
                    // round.
                    missed += usize::from(out[3000..] == src[3000..]);
                }
                Err(e) => assert_eq!(e.kind(), ErrorKind::Corrupt),
            }
        }
        assert!(missed < 10, "{missed}");
        let longer = [&coded[..], &[0, 0]].concat();
        assert!(decode(&longer, 6000).is_err());
    }

    #[test]
    fn lies_are_errors() {
        for bad in [
            &[0, 1][..],
            &[1],
            &[1, 0, RAW],
            &[1, 1, RAW],
            &[1, 1, RAW, 5, 5],
            &[1, 1, CONSTANT],
            &[1, 1, CONSTANT, 5, 5],
            &[1, 1, 2, 5],
            &[1, 1, 7, 5, 5],
            &[1, 1, 15, 5, 5],
            // All slots of one symbol.
            &[1, 1, 12, 5, 5, 32],
            &[1, 0xff, 0xff, 0xff, 0xff, 0x1f, CONSTANT, 5],
            &[1, 0x80, 0x80, 0x80, 0x80, 0x80, 0, CONSTANT, 5],
        ] {
            let e = decode(bad, usize::MAX).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Corrupt, "{bad:?}");
        }
        // The most that can be claimed is refused before it is asked for.
        let most = [1, 0xff, 0xff, 0xff, 0xff, 0x0f, CONSTANT, 5];
        let e = decode(&most, 1 << 20).unwrap_err();
        assert!(e.message().contains("more than"), "{e}");
        assert_eq!(decode(&[1, 3, CONSTANT, 5], 3).unwrap(), [5; 3]);
    }

    #[test]
    fn a_state_below_its_least_is_refused() {
        let mut x = XorShift(6);
        let src: Vec<u8> = (0..2000).map(|_| x.bell(2)).collect();
        let coded = encode(&src, 1);
        let (_, table) = Frequencies::read(&coded[4..], coded[3].into()).unwrap();
        let lanes = 4 + table;
        for (at, value) in [(lanes, 16), (lanes, 33), (lanes, 0)] {
            let mut bad = coded.clone();
            bad[at] = value;
            assert!(decode(&bad, 2000).is_err());
        }
        let mut bad = coded.clone();
        bad[lanes + 1..lanes + 5].copy_from_slice(&0xffffu32.to_le_bytes());
        let e = decode(&bad, 2000).unwrap_err();
        assert!(e.message().contains("below"), "{e}");
    }
}
