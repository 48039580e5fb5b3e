//! Interleaved range-ANS: the inner loops of an entropy coder for bytes.
//!
//! A symbol s has `f` of `2^p` slots, beginning at slot `c`. N states of 32 bits take
//! symbols in turn: symbol k belongs to lane `k mod N`. Decoding one:
//!
//! ```text
//! slot = x mod 2^p;  s = the symbol of that slot
//! x    = f · (x div 2^p) + slot − c
//! x    = x · 2^16 + next word        if x < 2^16
//! ```
//!
//! Words are 16 bits, little-endian, and are taken in the order of the symbols. The
//! encoder undoes these steps from the last symbol to the first, beginning with every
//! state at [`START`], and so writes its words backwards. A state is at least 2^16 when
//! its turn comes, and f · 2^(32−p) at most bounds it when it goes on: no step overflows,
//! whatever the states and words.
//!
//! A vector decodes all its lanes at once. Which lanes want a word is a mask: as many
//! words as it has bits are loaded and spread to those lanes in order, which is the order
//! of the symbols. Up to p = 12 one gather finds symbol, f and slot − c in one word;
//! above, they do not fit one, and two gathers, of the symbol and then of f and c, take
//! twice the time.

/// How many states may take symbols in turn. With few, a vector waits for its own lookups
/// and words: 64 decode a third faster than 32. Each costs about three bytes a stream.
pub const LANES: [usize; 2] = [32, 64];

/// Where the encoder's states begin and the decoder's end: the least value of a state
/// whose turn it is.
pub const START: u32 = 1 << 16;

/// Largest p of which one word holds symbol, frequency and place.
const PACKED_BITS: u32 = 12;

/// Largest p.
pub const MAX_BITS: u32 = 14;

/// What the decoder looks up.
#[derive(Debug)]
pub struct DecodeTable {
    bits: u32,
    /// By slot: symbol, `f << 8`, `(slot − c) << 20`. Empty above [`PACKED_BITS`].
    packed: Vec<u32>,
    /// By slot: the symbol; three bytes behind them are there to be read. Empty up to
    /// [`PACKED_BITS`].
    symbols: Vec<u8>,
    /// By symbol: f, `c << 16`.
    ranges: [u32; 256],
}

impl DecodeTable {
    /// Of the frequencies of all bytes, which add up to `2^bits`, at least two of them
    /// not zero; `bits` from 8 to [`MAX_BITS`].
    pub fn new(frequency: &[u16; 256], bits: u32) -> Self {
        check(frequency, bits);
        let slots = 1usize << bits;
        let mut table = Self {
            bits,
            packed: Vec::new(),
            symbols: Vec::new(),
            ranges: ranges(frequency),
        };
        if bits <= PACKED_BITS {
            table.packed.reserve_exact(slots);
            for (symbol, f) in (0u32..).zip(frequency) {
                let entry = symbol | u32::from(*f) << 8;
                table
                    .packed
                    .extend((0..u32::from(*f)).map(|i| entry | i << 20));
            }
        } else {
            table.symbols.reserve_exact(slots + 3);
            for (symbol, f) in (0u8..=255).zip(frequency) {
                let end = table.symbols.len() + usize::from(*f);
                table.symbols.resize(end, symbol);
            }
            table.symbols.resize(slots + 3, 0);
        }
        table
    }
}

/// What vectors rely on.
fn check(frequency: &[u16; 256], bits: u32) {
    assert!((8..=MAX_BITS).contains(&bits));
    let sum: u32 = frequency.iter().map(|f| u32::from(*f)).sum();
    assert_eq!(sum, 1 << bits);
    assert!(frequency.iter().all(|f| u32::from(*f) < sum));
}

/// By symbol: f, `c << 16`.
fn ranges(frequency: &[u16; 256]) -> [u32; 256] {
    let mut start = 0;
    frequency.map(|f| {
        let range = u32::from(f) | start << 16;
        start += u32::from(f);
        range
    })
}

/// What the encoder looks up, by symbol.
#[derive(Debug)]
// Without AVX-512, symbols are enough.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
pub struct EncodeTable {
    bits: u32,
    symbols: [EncodeSymbol; 256],
    /// By symbol: f, `c << 16`.
    ranges: [u32; 256],
}

#[derive(Clone, Copy, Debug, Default)]
struct EncodeSymbol {
    /// `x div f` is the upper half of `x · reciprocal`.
    reciprocal: u64,
    /// A state from here on first gives a word away.
    limit: u32,
    /// `2^p − f`.
    step: u32,
    /// c, and what makes up for the quotient when f is 1.
    bias: u32,
}

impl EncodeTable {
    /// Of the frequencies that [`DecodeTable::new`] takes.
    pub fn new(frequency: &[u16; 256], bits: u32) -> Self {
        check(frequency, bits);
        let mut symbols = [EncodeSymbol::default(); 256];
        let ranges = ranges(frequency);
        for (symbol, range) in symbols.iter_mut().zip(ranges) {
            let (f, start) = (range & 0xffff, range >> 16);
            if f > 0 {
                let step = (1 << bits) - f;
                // Rounded up: too large by less than 1 / f for any x of 32 bits. For
                // f = 1 it does not fit, and the quotient comes out one too small.
                let (reciprocal, bias) = match f {
                    1 => (u64::MAX, start + step),
                    _ => (u64::MAX / u64::from(f) + 1, start),
                };
                *symbol = EncodeSymbol {
                    reciprocal,
                    limit: f << (32 - bits),
                    step,
                    bias,
                };
            }
        }
        Self {
            bits,
            symbols,
            ranges,
        }
    }
}

/// Encodes `src`, last symbol first. Words go to the end of `words`, the last one
/// foremost; returns where they begin. `words` holds at least two bytes for each of `src`.
/// A byte that has no frequency must not occur.
#[inline(always)]
fn encode_body(table: &EncodeTable, states: &mut [u32], src: &[u8], words: &mut [u8]) -> usize {
    match states.len() {
        32 => encode_lanes::<32>(table, states, src, words),
        64 => encode_lanes::<64>(table, states, src, words),
        n => panic!("{n} states"),
    }
}

#[inline(always)]
fn encode_lanes<const N: usize>(
    table: &EncodeTable,
    states: &mut [u32],
    src: &[u8],
    words: &mut [u8],
) -> usize {
    #[inline(always)]
    fn step(entry: &EncodeSymbol, x: &mut u32, word: &mut [u8; 2]) -> usize {
        *word = (*x as u16).to_le_bytes();
        let gives = *x >= entry.limit;
        let y = *x >> (16 * u32::from(gives));
        let quotient = ((u128::from(y) * u128::from(entry.reciprocal)) >> 64) as u32;
        // Less than 2^32, as said above; wrapping, since a byte without a frequency may
        // come in, to no use.
        *x = y
            .wrapping_add(entry.bias)
            .wrapping_add(quotient.wrapping_mul(entry.step));
        usize::from(gives)
    }
    let (rounds, rest) = src.as_chunks::<N>();
    let mut at = words.len();
    for (symbol, x) in rest.iter().zip(states.iter_mut()).rev() {
        let word = words[..at].last_chunk_mut().expect("room for a word");
        at -= 2 * step(&table.symbols[usize::from(*symbol)], x, word);
    }
    let x = states
        .first_chunk_mut::<N>()
        .expect("a state for each lane");
    for round in rounds.iter().rev() {
        let room = words[at - 2 * N..at].as_chunks_mut::<2>().0;
        let mut free = N;
        for lane in (0..N).rev() {
            let entry = &table.symbols[usize::from(round[lane])];
            free -= step(entry, &mut x[lane], &mut room[(free - 1) % N]);
        }
        at -= 2 * (N - free);
    }
    at
}

pub(crate) mod encode {
    use super::{EncodeTable, encode_body};

    pub(crate) fn portable(
        table: &EncodeTable,
        states: &mut [u32],
        src: &[u8],
        words: &mut [u8],
    ) -> usize {
        encode_body(table, states, src, words)
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,popcnt,lzcnt")]
    pub(crate) fn avx2(
        table: &EncodeTable,
        states: &mut [u32],
        src: &[u8],
        words: &mut [u8],
    ) -> usize {
        encode_body(table, states, src, words)
    }

    #[cfg(target_arch = "x86_64")]
    pub(crate) use super::x86::encode_avx512 as avx512;
}

impl DecodeTable {
    /// The symbol of a state, and the state after it, before it takes a word.
    #[inline(always)]
    fn step(&self, x: u32) -> (u8, u32) {
        let slot = x & ((1 << self.bits) - 1);
        if self.bits <= PACKED_BITS {
            let entry = self.packed[slot as usize];
            let f = entry >> 8 & 0xfff;
            (entry as u8, f * (x >> self.bits) + (entry >> 20))
        } else {
            let symbol = self.symbols[slot as usize];
            let range = self.ranges[usize::from(symbol)];
            let f = range & 0xffff;
            (symbol, f * (x >> self.bits) + slot - (range >> 16))
        }
    }
}

/// Decodes `out` in full from `words`. Returns the bytes of words read, or `None` if there
/// are too few.
#[inline(always)]
fn decode_body(
    table: &DecodeTable,
    states: &mut [u32],
    words: &[u8],
    out: &mut [u8],
) -> Option<usize> {
    match states.len() {
        32 => decode_lanes::<32>(table, states, words, out),
        64 => decode_lanes::<64>(table, states, words, out),
        n => panic!("{n} states"),
    }
}

#[inline(always)]
fn decode_lanes<const N: usize>(
    table: &DecodeTable,
    states: &mut [u32],
    words: &[u8],
    out: &mut [u8],
) -> Option<usize> {
    let (rounds, rest) = out.as_chunks_mut::<N>();
    let mut at = 0;
    let mut rounds = rounds.iter_mut();
    let mut last = None;
    for round in rounds.by_ref() {
        let Some(next) = words.get(at..at + 2 * N) else {
            last = Some(round);
            break;
        };
        let next = next.as_chunks::<2>().0;
        let mut taken = 0;
        for (symbol, state) in round.iter_mut().zip(states.iter_mut()) {
            let x;
            (*symbol, x) = table.step(*state);
            // Without a branch, which nothing could foretell.
            let word = u32::from(u16::from_le_bytes(next[taken % N]));
            let wants = u32::from(x < START);
            *state = x << (16 * wants) | word & wants.wrapping_neg();
            taken += wants as usize;
        }
        at += 2 * taken;
    }
    // Near the end of the words each is looked for.
    let mut careful = |symbols: &mut [u8]| -> Option<()> {
        for (symbol, state) in symbols.iter_mut().zip(states.iter_mut()) {
            let mut x;
            (*symbol, x) = table.step(*state);
            if x < START {
                let word = words[at..].first_chunk()?;
                x = x << 16 | u32::from(u16::from_le_bytes(*word));
                at += 2;
            }
            *state = x;
        }
        Some(())
    };
    for round in last.into_iter().chain(rounds) {
        careful(round)?;
    }
    careful(rest)?;
    Some(at)
}

pub(crate) mod decode {
    use super::{DecodeTable, decode_body};

    pub(crate) fn portable(
        table: &DecodeTable,
        states: &mut [u32],
        words: &[u8],
        out: &mut [u8],
    ) -> Option<usize> {
        decode_body(table, states, words, out)
    }

    #[cfg(target_arch = "x86_64")]
    pub(crate) use super::x86::{decode_avx2 as avx2, decode_avx512 as avx512};
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{DecodeTable, EncodeTable, PACKED_BITS, decode_body, encode_body};

    #[target_feature(
        enable = "avx2,fma,f16c,bmi1,bmi2,popcnt,lzcnt,avx512f,avx512bw,avx512vl,avx512dq,avx512cd"
    )]
    pub(crate) fn encode_avx512(
        table: &EncodeTable,
        states: &mut [u32],
        src: &[u8],
        words: &mut [u8],
    ) -> usize {
        let (whole, rest) = src.split_at(src.len() - src.len() % states.len());
        let at = encode_body(table, states, rest, words);
        match states.len() {
            32 => encode_rounds_avx512::<32, 2>(table, states, whole, &mut words[..at]),
            64 => encode_rounds_avx512::<64, 4>(table, states, whole, &mut words[..at]),
            n => panic!("{n} states"),
        }
    }

    /// Whole rounds of `N` lanes. Quotients are those of doubles, rounded down: with x
    /// below 2^32 and f below 2^14, `x / f` is too far from the next whole number to be
    /// rounded to it.
    #[inline]
    #[target_feature(
        enable = "avx2,fma,f16c,bmi1,bmi2,popcnt,lzcnt,avx512f,avx512bw,avx512vl,avx512dq,avx512cd"
    )]
    fn encode_rounds_avx512<const N: usize, const VECTORS: usize>(
        table: &EncodeTable,
        states: &mut [u32],
        src: &[u8],
        words: &mut [u8],
    ) -> usize {
        let mut x = [_mm512_setzero_si512(); VECTORS];
        for (x, states) in x.iter_mut().zip(states.as_chunks::<16>().0) {
            // SAFETY: reads 64 bytes through a reference to 16 u32, at any alignment.
            *x = unsafe { _mm512_loadu_si512(states.as_ptr().cast()) };
        }
        let slots = _mm512_set1_epi32(1 << table.bits);
        let shift = _mm512_set1_epi32(32 - table.bits as i32);
        let mut at = words.len();
        for round in src.as_chunks::<N>().0.iter().rev() {
            for (x, symbols) in x.iter_mut().zip(round.as_chunks::<16>().0).rev() {
                // SAFETY: reads 16 bytes through a reference to 16 bytes.
                let symbols = unsafe { _mm_loadu_si128(symbols.as_ptr().cast()) };
                let symbols = _mm512_cvtepu8_epi32(symbols);
                // SAFETY: a byte is less than 256, of which there are entries.
                let range =
                    unsafe { _mm512_i32gather_epi32::<4>(symbols, table.ranges.as_ptr().cast()) };
                let f = _mm512_and_si512(range, _mm512_set1_epi32(0xffff));
                let start = _mm512_srli_epi32::<16>(range);
                let gives = _mm512_cmpge_epu32_mask(*x, _mm512_sllv_epi32(f, shift));
                // The words given away to the upper end of a vector, which ends where
                // the last ones begin. What is below is written over by the next.
                let count = gives.count_ones();
                let top = !(0xffff >> count) as u16;
                let word = _mm512_maskz_compress_epi32(gives, *x);
                let word = _mm512_cvtepi32_epi16(_mm512_maskz_expand_epi32(top, word));
                let room = words[..at].last_chunk_mut::<32>();
                let room = room.expect("two bytes for each symbol");
                // SAFETY: writes 32 bytes through a reference to 32 bytes.
                unsafe { _mm256_storeu_si256(room.as_mut_ptr().cast(), word) };
                at -= 2 * count as usize;
                let y = _mm512_mask_srli_epi32::<16>(*x, gives, *x);
                let divide = |y: __m256i, f: __m256i| {
                    let quotient = _mm512_div_pd(_mm512_cvtepu32_pd(y), _mm512_cvtepu32_pd(f));
                    _mm512_cvttpd_epu32(quotient)
                };
                let low = divide(_mm512_castsi512_si256(y), _mm512_castsi512_si256(f));
                let high = divide(
                    _mm512_extracti64x4_epi64::<1>(y),
                    _mm512_extracti64x4_epi64::<1>(f),
                );
                let quotient = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high);
                let step = _mm512_sub_epi32(slots, f);
                *x = _mm512_add_epi32(
                    _mm512_add_epi32(y, start),
                    _mm512_mullo_epi32(quotient, step),
                );
            }
        }
        for (x, states) in x.iter().zip(states.as_chunks_mut::<16>().0) {
            // SAFETY: writes 64 bytes through a reference to 16 u32.
            unsafe { _mm512_storeu_si512(states.as_mut_ptr().cast(), *x) };
        }
        at
    }

    #[target_feature(
        enable = "avx2,fma,f16c,bmi1,bmi2,popcnt,lzcnt,avx512f,avx512bw,avx512vl,avx512dq,avx512cd"
    )]
    pub(crate) fn decode_avx512(
        table: &DecodeTable,
        states: &mut [u32],
        words: &[u8],
        out: &mut [u8],
    ) -> Option<usize> {
        let rounds = match (states.len(), table.bits <= PACKED_BITS) {
            (32, true) => rounds_avx512::<32, 2, true>,
            (32, false) => rounds_avx512::<32, 2, false>,
            (64, true) => rounds_avx512::<64, 4, true>,
            (64, false) => rounds_avx512::<64, 4, false>,
            (n, _) => panic!("{n} states"),
        };
        let (symbols, at) = rounds(table, states, words, out);
        Some(at + decode_body(table, states, &words[at..], &mut out[symbols..])?)
    }

    /// Whole rounds of `N` lanes while there is a full load of words for each: the symbols
    /// decoded, and the bytes of words read.
    #[inline]
    #[target_feature(
        enable = "avx2,fma,f16c,bmi1,bmi2,popcnt,lzcnt,avx512f,avx512bw,avx512vl,avx512dq,avx512cd"
    )]
    fn rounds_avx512<const N: usize, const VECTORS: usize, const PACKED: bool>(
        table: &DecodeTable,
        states: &mut [u32],
        words: &[u8],
        out: &mut [u8],
    ) -> (usize, usize) {
        let lookup = lookup::<PACKED>(table);
        let mut x = [_mm512_setzero_si512(); VECTORS];
        for (x, states) in x.iter_mut().zip(states.as_chunks::<16>().0) {
            // SAFETY: reads 64 bytes through a reference to 16 u32, at any alignment.
            *x = unsafe { _mm512_loadu_si512(states.as_ptr().cast()) };
        }
        let mask = _mm512_set1_epi32((1 << table.bits) - 1);
        let shift = _mm512_set1_epi32(table.bits as i32);
        let (mut symbols, mut at) = (0, 0);
        for round in out.as_chunks_mut::<N>().0 {
            let Some(next) = words.get(at..at + 2 * N) else {
                break;
            };
            let mut taken = 0;
            for (x, out) in x.iter_mut().zip(round.as_chunks_mut::<16>().0) {
                let slot = _mm512_and_si512(*x, mask);
                let high = _mm512_srlv_epi32(*x, shift);
                // SAFETY: a slot is less than 2^bits, of which there are entries.
                let entry = unsafe {
                    if PACKED {
                        _mm512_i32gather_epi32::<4>(slot, lookup)
                    } else {
                        _mm512_i32gather_epi32::<1>(slot, lookup)
                    }
                };
                let y = if PACKED {
                    let f =
                        _mm512_and_si512(_mm512_srli_epi32::<8>(entry), _mm512_set1_epi32(0xfff));
                    let place = _mm512_srli_epi32::<20>(entry);
                    _mm512_add_epi32(_mm512_mullo_epi32(f, high), place)
                } else {
                    let symbol = _mm512_and_si512(entry, _mm512_set1_epi32(0xff));
                    // SAFETY: a byte is less than 256, of which there are entries.
                    let range = unsafe {
                        _mm512_i32gather_epi32::<4>(symbol, table.ranges.as_ptr().cast())
                    };
                    let f = _mm512_and_si512(range, _mm512_set1_epi32(0xffff));
                    let place = _mm512_sub_epi32(slot, _mm512_srli_epi32::<16>(range));
                    _mm512_add_epi32(_mm512_mullo_epi32(f, high), place)
                };
                // SAFETY: writes 16 bytes through a reference to 16 bytes.
                unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(entry)) };
                let wants = _mm512_cmplt_epu32_mask(y, _mm512_set1_epi32(1 << 16));
                // SAFETY: reads 32 bytes from `taken`, at most 32 for each vector before this one:
                // inside the round's words.
                let word = unsafe { _mm256_loadu_si256(next.as_ptr().add(taken).cast()) };
                let word = _mm512_maskz_expand_epi32(wants, _mm512_cvtepu16_epi32(word));
                *x = _mm512_mask_or_epi32(y, wants, _mm512_slli_epi32::<16>(y), word);
                taken += 2 * wants.count_ones() as usize;
            }
            at += taken;
            symbols += N;
        }
        for (x, states) in x.iter().zip(states.as_chunks_mut::<16>().0) {
            // SAFETY: writes 64 bytes through a reference to 16 u32.
            unsafe { _mm512_storeu_si512(states.as_mut_ptr().cast(), *x) };
        }
        (symbols, at)
    }

    /// What slots are looked up in: 2^bits words, or 2^bits bytes and three.
    fn lookup<const PACKED: bool>(table: &DecodeTable) -> *const i32 {
        let slots = 1 << table.bits;
        if PACKED {
            assert!(table.packed.len() >= slots);
            table.packed.as_ptr().cast()
        } else {
            assert!(table.symbols.len() >= slots + 3);
            table.symbols.as_ptr().cast()
        }
    }

    /// For every mask of eight lanes: which of the words loaded each lane with its bit set
    /// takes.
    static SPREAD: [[u8; 8]; 256] = {
        let mut all = [[0; 8]; 256];
        let mut mask = 0;
        while mask < 256 {
            let (mut lane, mut next) = (0, 0);
            while lane < 8 {
                if mask >> lane & 1 == 1 {
                    all[mask][lane] = next;
                    next += 1;
                }
                lane += 1;
            }
            mask += 1;
        }
        all
    };

    #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,popcnt,lzcnt")]
    pub(crate) fn decode_avx2(
        table: &DecodeTable,
        states: &mut [u32],
        words: &[u8],
        out: &mut [u8],
    ) -> Option<usize> {
        let rounds = match (states.len(), table.bits <= PACKED_BITS) {
            (32, true) => rounds_avx2::<32, 4, true>,
            (32, false) => rounds_avx2::<32, 4, false>,
            (64, true) => rounds_avx2::<64, 8, true>,
            (64, false) => rounds_avx2::<64, 8, false>,
            (n, _) => panic!("{n} states"),
        };
        let (symbols, at) = rounds(table, states, words, out);
        Some(at + decode_body(table, states, &words[at..], &mut out[symbols..])?)
    }

    /// As [`rounds_avx512`], with eight lanes a vector.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,popcnt,lzcnt")]
    fn rounds_avx2<const N: usize, const VECTORS: usize, const PACKED: bool>(
        table: &DecodeTable,
        states: &mut [u32],
        words: &[u8],
        out: &mut [u8],
    ) -> (usize, usize) {
        let lookup = lookup::<PACKED>(table);
        let mut x = [_mm256_setzero_si256(); VECTORS];
        for (x, states) in x.iter_mut().zip(states.as_chunks::<8>().0) {
            // SAFETY: reads 32 bytes through a reference to 8 u32, at any alignment.
            *x = unsafe { _mm256_loadu_si256(states.as_ptr().cast()) };
        }
        let mask = _mm256_set1_epi32((1 << table.bits) - 1);
        let shift = _mm256_set1_epi32(table.bits as i32);
        let (mut symbols, mut at) = (0, 0);
        for round in out.as_chunks_mut::<N>().0 {
            let Some(next) = words.get(at..at + 2 * N) else {
                break;
            };
            let mut taken = 0;
            let mut decoded = [_mm256_setzero_si256(); VECTORS];
            for (x, decoded) in x.iter_mut().zip(&mut decoded) {
                let slot = _mm256_and_si256(*x, mask);
                let high = _mm256_srlv_epi32(*x, shift);
                // SAFETY: a slot is less than 2^bits, of which there are entries.
                let entry = unsafe {
                    if PACKED {
                        _mm256_i32gather_epi32::<4>(lookup, slot)
                    } else {
                        _mm256_i32gather_epi32::<1>(lookup, slot)
                    }
                };
                *decoded = _mm256_and_si256(entry, _mm256_set1_epi32(0xff));
                let y = if PACKED {
                    let f =
                        _mm256_and_si256(_mm256_srli_epi32::<8>(entry), _mm256_set1_epi32(0xfff));
                    let place = _mm256_srli_epi32::<20>(entry);
                    _mm256_add_epi32(_mm256_mullo_epi32(f, high), place)
                } else {
                    // SAFETY: a byte is less than 256, of which there are entries.
                    let range = unsafe {
                        _mm256_i32gather_epi32::<4>(table.ranges.as_ptr().cast(), *decoded)
                    };
                    let f = _mm256_and_si256(range, _mm256_set1_epi32(0xffff));
                    let place = _mm256_sub_epi32(slot, _mm256_srli_epi32::<16>(range));
                    _mm256_add_epi32(_mm256_mullo_epi32(f, high), place)
                };
                let small = _mm256_cmpeq_epi32(_mm256_srli_epi32::<16>(y), _mm256_setzero_si256());
                let wants = _mm256_movemask_ps(_mm256_castsi256_ps(small)) as usize;
                // SAFETY: reads 16 bytes from `taken`, at most 16 for each vector before this one:
                // inside the round's words.
                let word = unsafe { _mm_loadu_si128(next.as_ptr().add(taken).cast()) };
                // SAFETY: reads 8 bytes through a reference to 8 bytes.
                let spread = unsafe { _mm_loadl_epi64(SPREAD[wants].as_ptr().cast()) };
                let word = _mm256_permutevar8x32_epi32(
                    _mm256_cvtepu16_epi32(word),
                    _mm256_cvtepu8_epi32(spread),
                );
                let longer = _mm256_or_si256(_mm256_slli_epi32::<16>(y), word);
                *x = _mm256_blendv_epi8(y, longer, small);
                taken += 2 * wants.count_ones() as usize;
            }
            for (four, out) in decoded
                .as_chunks::<4>()
                .0
                .iter()
                .zip(round.as_chunks_mut::<32>().0)
            {
                let low = _mm256_packus_epi32(four[0], four[1]);
                let high = _mm256_packus_epi32(four[2], four[3]);
                // Packing takes the halves of its operands in turn.
                let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
                let bytes = _mm256_permutevar8x32_epi32(_mm256_packus_epi16(low, high), order);
                // SAFETY: writes 32 bytes through a reference to 32 bytes.
                unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), bytes) };
            }
            at += taken;
            symbols += N;
        }
        for (x, states) in x.iter().zip(states.as_chunks_mut::<8>().0) {
            // SAFETY: writes 32 bytes through a reference to 8 u32.
            unsafe { _mm256_storeu_si256(states.as_mut_ptr().cast(), *x) };
        }
        (symbols, at)
    }
}
