//! Frequencies of byte symbols for a range-ANS coder: whole numbers that add up to 2^p.
//!
//! *Fitting.* A symbol that occurs h times and has frequency f costs `h·(p − log2 f)`
//! bits. The frequencies that cost least, each symbol that occurs having at least 1, are
//! found by giving single slots to whom they save most and taking them from whom they
//! serve least. The cost is convex in every f, so where no single exchange helps, nothing
//! does. Logarithms are series of additions, products and quotients, which are rounded
//! alike everywhere: the same histogram gives the same frequencies on every machine.
//!
//! *Layout.* The first symbol that occurs and the last, a byte each. Nothing follows if
//! they are the same: it has all 2^p. Else a bit string, the lowest bit of a byte first,
//! with an item for every symbol from the first to the last but one; the last has what is
//! left of 2^p, at least 1. Of a symbol let n be the bits of its frequency: 0 for
//! frequency 0, else `1 + floor(log2 f)`, at most p. With m the same of the symbol
//! before (1 before the first):
//!
//! ```text
//! 0                     n = m
//! 1 s u                 n = m + d (s = 1) or m − d (s = 0)
//!                       u: d − 1 ones and a zero
//! then n − 1 bits       f − 2^(n−1), lowest bit first; none for n < 2
//! ```
//!
//! s is left out where only one sign is possible (m = 0, m = p), the zero of u where d is
//! the greatest possible. What is left of the last byte is zero. The first symbol's
//! frequency is not 0. A bell of 32 symbols takes some 30 bytes at p = 12.

use crate::error::{Error, Result};

/// Bits that frequencies may add up to.
pub(crate) const BITS: std::ops::RangeInclusive<u32> = 8..=14;

/// Occurrences of every byte.
pub(crate) type Histogram = [u64; 256];

/// Frequencies of the 256 bytes, with the sum 2^[`bits`](Self::bits).
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Frequencies {
    bits: u32,
    frequency: [u16; 256],
    start: [u16; 256],
}

impl std::fmt::Debug for Frequencies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let present = (0..=255).filter(|s| self.frequency(*s) > 0);
        write!(f, "2^{} = ", self.bits)?;
        f.debug_map()
            .entries(present.map(|s| (s, self.frequency(s))))
            .finish()
    }
}

impl Frequencies {
    /// The frequencies under which `histogram` costs least. Of nothing: symbol 0 has all.
    pub(crate) fn normalise(histogram: &Histogram, bits: u32) -> Self {
        assert!(BITS.contains(&bits), "frequencies of {bits} bits");
        let slots = 1u32 << bits;
        let total: u128 = histogram.iter().map(|h| u128::from(*h)).sum();
        let mut symbols: Vec<Fit> = (0u8..=255)
            .zip(histogram)
            .filter(|(_, h)| **h > 0)
            .map(|(symbol, h)| {
                let share = ((u128::from(*h) << bits) / total.max(1)) as u32;
                Fit::new(symbol, *h as f64, share.max(1))
            })
            .collect();
        let mut frequency = [0u16; 256];
        if symbols.is_empty() {
            frequency[0] = slots as u16;
            return Self::of(bits, frequency);
        }
        let mut sum: u32 = symbols.iter().map(|s| s.frequency).sum();
        loop {
            // The first of equals, so that the order of symbols decides.
            let (mut to, mut from) = (0, 0);
            for (i, s) in symbols.iter().enumerate() {
                if s.gain > symbols[to].gain {
                    to = i;
                }
                if s.loss < symbols[from].loss {
                    from = i;
                }
            }
            if sum <= slots {
                let exchange = sum == slots;
                if exchange && symbols[to].gain <= symbols[from].loss {
                    break;
                }
                let winner = &mut symbols[to];
                winner.set(winner.frequency + 1);
                sum += 1;
                if !exchange {
                    continue;
                }
            }
            let loser = &mut symbols[from];
            loser.set(loser.frequency - 1);
            sum -= 1;
        }
        for s in &symbols {
            frequency[usize::from(s.symbol)] = s.frequency as u16;
        }
        Self::of(bits, frequency)
    }

    /// `frequency` adds up to 2^`bits`.
    fn of(bits: u32, frequency: [u16; 256]) -> Self {
        let mut start = [0; 256];
        let mut sum = 0;
        for (start, f) in start.iter_mut().zip(frequency) {
            *start = sum;
            sum += f;
        }
        debug_assert_eq!(u32::from(sum), 1 << bits);
        Self {
            bits,
            frequency,
            start,
        }
    }

    /// Bits of the sum.
    pub(crate) fn bits(&self) -> u32 {
        self.bits
    }

    /// Slots of every symbol.
    pub(crate) fn all(&self) -> &[u16; 256] {
        &self.frequency
    }

    /// Slots of a symbol; 0 for one that does not occur.
    pub(crate) fn frequency(&self, symbol: u8) -> u32 {
        self.frequency[usize::from(symbol)].into()
    }

    /// First slot of a symbol: the frequencies of all smaller ones together.
    pub(crate) fn start(&self, symbol: u8) -> u32 {
        self.start[usize::from(symbol)].into()
    }

    /// The only symbol, if there is but one.
    pub(crate) fn single(&self) -> Option<u8> {
        let all = 1 << self.bits;
        (0..=255).find(|s| self.frequency(*s) == all)
    }

    /// Bits that the symbols of `histogram` take with these frequencies, about; infinite
    /// if one of them has none.
    pub(crate) fn cost_bits(&self, histogram: &Histogram) -> f64 {
        let mut cost = 0.0;
        for (h, f) in histogram.iter().zip(self.frequency) {
            match (*h, f) {
                (0, _) => {}
                (_, 0) => return f64::INFINITY,
                (h, f) => cost += h as f64 * (f64::from(self.bits) - log2(f.into())),
            }
        }
        cost
    }

    /// Appends the table.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let occurs = |s: &u8| self.frequency(*s) > 0;
        let first = (0..=255).find(occurs).unwrap_or(0);
        let last = (0..=255).rev().find(occurs).unwrap_or(0);
        out.extend_from_slice(&[first, last]);
        let mut bits = BitWriter {
            out,
            bits: 0,
            count: 0,
        };
        let mut before = 1;
        for symbol in first..last {
            let f = self.frequency(symbol);
            let n = u32::BITS - f.leading_zeros();
            if n == before {
                bits.put(0, 1);
            } else {
                bits.put(1, 1);
                if before > 0 && before < self.bits {
                    bits.put(u32::from(n > before), 1);
                }
                let most = if n > before {
                    self.bits - before
                } else {
                    before
                };
                let d = n.abs_diff(before);
                bits.put((1 << (d - 1)) - 1, d - 1);
                if d < most {
                    bits.put(0, 1);
                }
            }
            if n >= 2 {
                bits.put(f - (1 << (n - 1)), n - 1);
            }
            before = n;
        }
        bits.finish();
    }

    /// Reads a table of frequencies of `bits` bits off the front of `bytes`, which are not
    /// trusted, and says how many it took.
    pub(crate) fn read(bytes: &[u8], bits: u32) -> Result<(Self, usize)> {
        if !BITS.contains(&bits) {
            return Err(Error::corrupt(format!("frequencies of {bits} bits")));
        }
        let slots = 1u32 << bits;
        let (Some(&[first, last]), Some(rest)) = (bytes.first_chunk(), bytes.get(2..)) else {
            return Err(cut());
        };
        if first > last {
            return Err(Error::corrupt("frequencies of no symbol"));
        }
        let mut source = BitReader { bytes: rest, at: 0 };
        let mut frequency = [0u16; 256];
        let mut sum = 0u32;
        let mut before = 1;
        for symbol in first..last {
            let mut n = before;
            if source.take(1)? == 1 {
                let up = before == 0 || (before < bits && source.take(1)? == 1);
                let most = if up { bits - before } else { before };
                let mut d = 1;
                while d < most && source.take(1)? == 1 {
                    d += 1;
                }
                n = if up { before + d } else { before - d };
            }
            let f = match n {
                0 | 1 => n,
                _ => (1 << (n - 1)) + source.take(n - 1)?,
            };
            if f == 0 && symbol == first {
                return Err(Error::corrupt("a first symbol of frequency 0"));
            }
            sum += f;
            if sum >= slots {
                return Err(Error::corrupt(format!("frequencies past {slots}")));
            }
            frequency[usize::from(symbol)] = f as u16;
            before = n;
        }
        frequency[usize::from(last)] = (slots - sum) as u16;
        let used = 2 + source.finish()?;
        Ok((Self::of(bits, frequency), used))
    }
}

/// Bits that the symbols of `histogram` take if each is coded by its own share.
pub(crate) fn entropy_bits(histogram: &Histogram) -> f64 {
    let total: u64 = histogram.iter().sum();
    if total == 0 {
        return 0.0;
    }
    let mut bits = total as f64 * log2(total as f64);
    for h in histogram.iter().filter(|h| **h > 0) {
        bits -= *h as f64 * log2(*h as f64);
    }
    bits.max(0.0)
}

/// Counts bytes. Four counts in turn, so that runs do not wait for themselves.
pub(crate) fn histogram(bytes: &[u8]) -> Histogram {
    let mut counts = [[0u32; 256]; 4];
    let mut all = [0u64; 256];
    // No count of 32 bits can overflow.
    for bytes in bytes.chunks(1 << 30) {
        let (fours, rest) = bytes.as_chunks::<4>();
        for four in fours {
            for (count, byte) in counts.iter_mut().zip(four) {
                count[usize::from(*byte)] += 1;
            }
        }
        for byte in rest {
            counts[0][usize::from(*byte)] += 1;
        }
        for count in &mut counts {
            for (all, n) in all.iter_mut().zip(count.iter_mut()) {
                *all += u64::from(std::mem::take(n));
            }
        }
    }
    all
}

/// A symbol whose frequency is being found.
struct Fit {
    symbol: u8,
    occurs: f64,
    frequency: u32,
    /// What one slot more would save, and one less cost, in nats.
    gain: f64,
    loss: f64,
}

impl Fit {
    fn new(symbol: u8, occurs: f64, frequency: u32) -> Self {
        let mut fit = Self {
            symbol,
            occurs,
            frequency: 0,
            gain: 0.0,
            loss: 0.0,
        };
        fit.set(frequency);
        fit
    }

    fn set(&mut self, frequency: u32) {
        self.frequency = frequency;
        self.gain = self.occurs * ln_step(frequency);
        self.loss = match frequency {
            1 => f64::INFINITY,
            f => self.occurs * ln_step(f - 1),
        };
    }
}

/// ln((f + 1) / f) = 2·artanh(1 / (2f + 1)).
fn ln_step(f: u32) -> f64 {
    2.0 * artanh(1.0 / (2.0 * f64::from(f) + 1.0))
}

/// For |z| ≤ 1/3, to about 1e-11 of its size.
fn artanh(z: f64) -> f64 {
    let s = z * z;
    let mut sum = 1.0 / 19.0;
    for k in [17.0, 15.0, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0, 1.0] {
        sum = sum * s + 1.0 / k;
    }
    sum * z
}

/// Of a normal positive number.
fn log2(x: f64) -> f64 {
    const MANTISSA: u64 = (1 << 52) - 1;
    let bits = x.to_bits();
    let exponent = (bits >> 52) as i32 - 1023;
    let m = f64::from_bits(bits & MANTISSA | 1023 << 52);
    // m in [1, 2), and so z at most 1/3.
    f64::from(exponent) + artanh((m - 1.0) / (m + 1.0)) * (2.0 * std::f64::consts::LOG2_E)
}

fn cut() -> Error {
    Error::corrupt("a table of frequencies is cut")
}

struct BitWriter<'a> {
    out: &'a mut Vec<u8>,
    bits: u64,
    count: u32,
}

impl BitWriter<'_> {
    /// `count` at most 32.
    fn put(&mut self, value: u32, count: u32) {
        self.bits |= u64::from(value) << self.count;
        self.count += count;
        while self.count >= 8 {
            self.out.push(self.bits as u8);
            self.bits >>= 8;
            self.count -= 8;
        }
    }

    fn finish(self) {
        if self.count > 0 {
            self.out.push(self.bits as u8);
        }
    }
}

struct BitReader<'a> {
    bytes: &'a [u8],
    /// In bits.
    at: usize,
}

impl BitReader<'_> {
    fn take(&mut self, count: u32) -> Result<u32> {
        let mut value = 0;
        for i in 0..count {
            let byte = self.bytes.get(self.at / 8).ok_or_else(cut)?;
            value |= u32::from(byte >> (self.at % 8) & 1) << i;
            self.at += 1;
        }
        Ok(value)
    }

    /// Bytes used.
    fn finish(self) -> Result<usize> {
        if !self.at.is_multiple_of(8) && self.bytes[self.at / 8] >> (self.at % 8) != 0 {
            return Err(Error::corrupt("bits after a table of frequencies"));
        }
        Ok(self.at.div_ceil(8))
    }
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
    }

    /// Round bells, spikes, flat ones, and every number of symbols in odd places.
    fn histograms() -> Vec<Histogram> {
        let mut all = vec![[0; 256], [1; 256], [u64::MAX >> 9; 256]];
        let mut x = XorShift(0x9e37_79b9_7f4a_7c15);
        for symbol in [0, 7, 255] {
            let mut one = [0; 256];
            one[symbol] = 1 << symbol.min(40);
            all.push(one);
        }
        for n in 1..=256usize {
            let mut bell = [0; 256];
            let mut wild = [0; 256];
            let mut spike = [0; 256];
            for i in 0..n {
                let t = (i as f64 - n as f64 / 2.0) / (n as f64 / 6.0);
                bell[(i + 100) % 256] = ((-t * t / 2.0).exp() * 10_000.0) as u64 + 1;
                wild[i * 37 % 256] = 1 + (x.next() >> (x.next() % 60));
                spike[i] = 1;
            }
            spike[n / 2] = 1 << 30;
            wild.iter_mut().for_each(|h| *h >>= 8);
            all.extend([bell, wild, spike]);
        }
        all
    }

    fn bell(symbols: usize, sigma: f64) -> Histogram {
        let mut all = [0; 256];
        for i in 0..symbols {
            let t = (i as f64 - (symbols / 2) as f64) / sigma;
            all[128 - symbols / 2 + i] = ((-t * t / 2.0).exp() * 1e5) as u64 + 1;
        }
        all
    }

    #[test]
    fn every_symbol_has_a_slot_and_the_sum_is_right() {
        for h in histograms() {
            for bits in BITS {
                let f = Frequencies::normalise(&h, bits);
                let mut sum = 0;
                for s in 0..=255u8 {
                    assert_eq!(f.start(s), sum);
                    sum += f.frequency(s);
                    if h.iter().any(|h| *h > 0) {
                        assert_eq!(f.frequency(s) > 0, h[usize::from(s)] > 0);
                    }
                }
                assert_eq!(sum, 1 << bits);
            }
        }
    }

    #[test]
    fn tables_round_trip() {
        for h in histograms() {
            for bits in BITS {
                let f = Frequencies::normalise(&h, bits);
                let mut table = vec![1, 2, 3];
                f.write(&mut table);
                let len = table.len() - 3;
                table.extend_from_slice(&[0xff; 5]);
                let (back, used) = Frequencies::read(&table[3..], bits).unwrap();
                assert!(back == f && used == len);
                for cut in 0..len {
                    let e = Frequencies::read(&table[3..3 + cut], bits).unwrap_err();
                    assert_eq!(e.kind(), ErrorKind::Corrupt);
                }
            }
        }
    }

    #[test]
    fn tables_are_small() {
        let size = |h: &Histogram, bits| {
            let mut table = Vec::new();
            Frequencies::normalise(h, bits).write(&mut table);
            table.len()
        };
        let mut one = [0; 256];
        one[200] = 5;
        assert_eq!(size(&one, 12), 2);
        assert!(
            size(&bell(32, 5.0), 12) < 32,
            "{}",
            size(&bell(32, 5.0), 12)
        );
        assert!(
            size(&bell(32, 5.0), 14) < 40,
            "{}",
            size(&bell(32, 5.0), 14)
        );
        assert!(size(&bell(256, 30.0), 12) < 200);
        for h in histograms() {
            // 15 bits for the length and 13 below the first.
            assert!(size(&h, 14) <= 2 + 256 * 28 / 8);
        }
    }

    #[test]
    fn no_exchange_saves_a_bit() {
        let mut x = XorShift(5);
        for round in 0..200 {
            let n = 2 + (x.next() % 40) as usize;
            let mut h = [0u64; 256];
            for h in h.iter_mut().take(n) {
                *h = 1 + x.next() % (1 << (1 + x.next() % 20));
            }
            let f = Frequencies::normalise(&h, 8);
            let cost = f.cost_bits(&h);
            assert!(cost >= entropy_bits(&h) - 1e-6);
            for a in 0..n {
                for b in 0..n {
                    let mut other = f.frequency;
                    if a == b || other[b] == 1 {
                        continue;
                    }
                    other[a] += 1;
                    other[b] -= 1;
                    let other = Frequencies::of(8, other).cost_bits(&h);
                    assert!(other >= cost - cost * 1e-12, "{round}: {a} {b}");
                }
            }
        }
    }

    #[test]
    fn costs_are_near_the_entropy() {
        for (symbols, sigma) in [(32, 4.0), (17, 2.0), (256, 40.0)] {
            let h = bell(symbols, sigma);
            let entropy = entropy_bits(&h);
            let cost = Frequencies::normalise(&h, 12).cost_bits(&h);
            assert!(cost < entropy * 1.003, "{symbols}: {cost} {entropy}");
        }
        assert_eq!(entropy_bits(&[0; 256]), 0.0);
        assert!((entropy_bits(&[3; 256]) - 3.0 * 256.0 * 8.0).abs() < 1e-6);
        let f = Frequencies::normalise(&bell(3, 1.0), 9);
        assert_eq!(f.cost_bits(&[1; 256]), f64::INFINITY);
    }

    #[test]
    fn logarithms_are_those_of_the_library() {
        for i in 1..20_000u32 {
            let x = f64::from(i) * f64::from(i);
            assert!((log2(x) - x.log2()).abs() < 1e-9, "{x}");
            let step = (f64::from(i + 1) / f64::from(i)).ln();
            assert!((ln_step(i) / step - 1.0).abs() < 1e-7, "{i}");
        }
    }

    #[test]
    fn any_bytes_are_an_error_or_a_table_that_is_written_alike() {
        let mut x = XorShift(77);
        let mut good = 0;
        for _ in 0..100_000 {
            let mut bytes: Vec<u8> = (0..x.next() % 60).map(|_| x.next() as u8).collect();
            // Narrow ranges are more often right.
            if x.next().is_multiple_of(2) && bytes.len() > 2 {
                bytes[1] = bytes[0].saturating_add(bytes[1] % 8);
            }
            for bits in [7, 8, 11, 14, 15, 40] {
                match Frequencies::read(&bytes, bits) {
                    Ok((f, used)) => {
                        good += 1;
                        let mut again = Vec::new();
                        f.write(&mut again);
                        assert_eq!(again, bytes[..used]);
                    }
                    Err(e) => assert_eq!(e.kind(), ErrorKind::Corrupt),
                }
            }
        }
        assert!(good > 1000, "{good}");
    }

    #[test]
    fn bytes_are_counted() {
        for len in [0, 1, 5, 1000] {
            let bytes: Vec<u8> = (0..len).map(|i| (i * i / 7) as u8).collect();
            let counted = histogram(&bytes);
            for (symbol, n) in (0u8..=255).zip(counted) {
                assert_eq!(n, bytes.iter().filter(|b| **b == symbol).count() as u64);
            }
        }
    }
}
