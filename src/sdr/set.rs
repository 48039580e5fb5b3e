//! [`Sdr`]: a set of active bits.

use super::hash;
use crate::error::{Error, Result};

/// `w` active bits of `n`, kept as sorted indices: 4·w bytes, whatever n.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Sdr {
    bits: usize,
    active: Vec<u32>,
}

impl Sdr {
    /// The set of these bits, in any order and each at most once, out of `bits`.
    pub fn new(bits: usize, mut active: Vec<u32>) -> Result<Self> {
        active.sort_unstable();
        if active.windows(2).any(|w| w[0] == w[1]) {
            return Err(Error::invalid("an active bit is given twice"));
        }
        Self::from_sorted(bits, active)
    }

    /// The set of these strictly increasing bits out of `bits`.
    pub fn from_sorted(bits: usize, active: Vec<u32>) -> Result<Self> {
        check_bits(bits)?;
        if let Some(w) = active.windows(2).find(|w| w[0] >= w[1]) {
            return Err(Error::invalid(format!(
                "active bit {} stands after {}",
                w[1], w[0]
            )));
        }
        match active.last() {
            Some(last) if *last as usize >= bits => {
                Err(Error::invalid(format!("active bit {last} of {bits}")))
            }
            _ => Ok(Self { bits, active }),
        }
    }

    /// The set bits of packed words: bit `i % 64` of word `i / 64` is bit i.
    pub fn from_words(bits: usize, words: &[u64]) -> Result<Self> {
        if words.len() != bits.div_ceil(64) {
            return Err(Error::invalid(format!(
                "{} words for {bits} bits",
                words.len()
            )));
        }
        check_bits(bits)?;
        let mut active = Vec::new();
        for (i, word) in words.iter().enumerate() {
            let mut word = *word;
            while word != 0 {
                active.push(i as u32 * 64 + word.trailing_zeros());
                word &= word - 1;
            }
        }
        Self::from_sorted(bits, active)
    }

    /// The `n/64` packed words of [`from_words`](Self::from_words).
    pub fn words(&self) -> Vec<u64> {
        let mut words = vec![0; self.bits.div_ceil(64)];
        self.set_words(&mut words);
        words
    }

    pub(super) fn set_words(&self, words: &mut [u64]) {
        for i in &self.active {
            words[*i as usize / 64] |= 1 << (i % 64);
        }
    }

    /// n: all bits, active or not.
    pub fn bits(&self) -> usize {
        self.bits
    }

    /// The active bits, sorted.
    pub fn active(&self) -> &[u32] {
        &self.active
    }

    /// w: how many bits are active.
    pub fn weight(&self) -> usize {
        self.active.len()
    }

    /// w / n; 0 for a set of no bits.
    pub fn density(&self) -> f64 {
        match self.bits {
            0 => 0.0,
            n => self.weight() as f64 / n as f64,
        }
    }

    /// `|a ∩ b|`: active bits that both have, in w_a + w_b steps. Sets of different n
    /// share those below the smaller n.
    pub fn overlap(&self, other: &Self) -> usize {
        self.merge(other, |_, a, b| a && b)
    }

    /// Whether at least `theta` active bits are shared. A set that lost a share ν of its
    /// bits to noise still matches itself while `(1 − ν)·w ≥ θ`; what matches by chance
    /// says [`probability::false_match`](super::probability::false_match).
    pub fn matches(&self, other: &Self, theta: usize) -> bool {
        self.overlap(other) >= theta
    }

    /// `a ∪ b`. Both must have the same n.
    pub fn union(&self, other: &Self) -> Result<Self> {
        self.combined(other, |a, b| a || b)
    }

    /// `a ∩ b`. Both must have the same n.
    pub fn intersection(&self, other: &Self) -> Result<Self> {
        self.combined(other, |a, b| a && b)
    }

    /// The union of any number of sets of `bits` bits: a set that each of them matches
    /// fully. How many it may hold says
    /// [`probability::union_capacity`](super::probability::union_capacity).
    pub fn union_of<'a>(bits: usize, sets: impl IntoIterator<Item = &'a Self>) -> Result<Self> {
        check_bits(bits)?;
        let mut words = vec![0u64; bits.div_ceil(64)];
        for set in sets {
            if set.bits != bits {
                return Err(Error::invalid(format!(
                    "sets of {bits} and {} bits",
                    set.bits
                )));
            }
            set.set_words(&mut words);
        }
        Self::from_words(bits, &words)
    }

    /// Sets side by side: n and w are sums.
    pub fn concat<'a>(sets: impl IntoIterator<Item = &'a Self>) -> Result<Self> {
        let (mut bits, mut active) = (0usize, Vec::new());
        for set in sets {
            // Held under 2^32 by the check of each step.
            active.extend(set.active.iter().map(|i| i + bits as u32));
            bits += set.bits;
            check_bits(bits)?;
        }
        Self::from_sorted(bits, active)
    }

    /// The set with `flips` of its active bits moved to inactive places, chosen by `seed`:
    /// noise of ν = flips / w. At most as many as there are active and inactive bits.
    pub fn with_noise(&self, flips: usize, seed: u64) -> Result<Self> {
        if flips > self.weight() || flips > self.bits - self.weight() {
            return Err(Error::invalid(format!(
                "{flips} bits to move of {} active and {} inactive ones",
                self.weight(),
                self.bits - self.weight()
            )));
        }
        let mut active = self.active.clone();
        for i in 0..flips as u64 {
            let left = active.len() - i as usize;
            let out = hash::below(hash::mix(seed, 2 * i), left as u32) as usize;
            // Removed ones gather at the end, so that none is moved twice.
            active.swap(out, left - 1);
        }
        let kept = active.len() - flips;
        let mut words = self.words();
        let mut key = 0u64;
        for slot in &mut active[kept..] {
            *slot = loop {
                key += 1;
                let bit = hash::below(hash::mix(!seed, key), self.bits as u32);
                let (word, mask) = (&mut words[bit as usize / 64], 1u64 << (bit % 64));
                if *word & mask == 0 {
                    *word |= mask;
                    break bit;
                }
            };
        }
        Self::new(self.bits, active)
    }

    fn combined(&self, other: &Self, keep: impl Fn(bool, bool) -> bool) -> Result<Self> {
        if self.bits != other.bits {
            return Err(Error::invalid(format!(
                "sets of {} and {} bits",
                self.bits, other.bits
            )));
        }
        let mut active = Vec::with_capacity(self.weight() + other.weight());
        self.merge(other, |i, a, b| {
            let keep = keep(a, b);
            if keep {
                active.push(i);
            }
            keep
        });
        Ok(Self {
            bits: self.bits,
            active,
        })
    }

    /// Calls `f` with every bit active in either, in order; how often it said yes.
    fn merge(&self, other: &Self, mut f: impl FnMut(u32, bool, bool) -> bool) -> usize {
        let (a, b) = (&self.active, &other.active);
        let (mut i, mut j, mut count) = (0, 0, 0);
        while i < a.len() || j < b.len() {
            let left = a.get(i).copied().unwrap_or(u32::MAX);
            let right = b.get(j).copied().unwrap_or(u32::MAX);
            let (in_a, in_b) = (i < a.len() && left <= right, j < b.len() && right <= left);
            count += usize::from(f(left.min(right), in_a, in_b));
            i += usize::from(in_a);
            j += usize::from(in_b);
        }
        count
    }
}

/// Indices are u32.
pub(super) fn check_bits(bits: usize) -> Result<()> {
    if bits as u64 > u64::from(u32::MAX) {
        return Err(Error::limit(format!("a set of {bits} bits")));
    }
    Ok(())
}
