//! Names as sets: different names share nothing, or nothing but chance.

use super::hash;
use super::scalar::check_active;
use super::set::{Sdr, check_bits};
use crate::error::{Error, Result};

/// A name as `w` bits (Purdy 2016, section 5).
#[derive(Clone, Debug)]
pub struct CategoryEncoder(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Known {
        /// Sorted, with the place in the list given.
        names: Vec<(String, usize)>,
        active: usize,
    },
    Hashed {
        bits: usize,
        active: usize,
        seed: u64,
    },
}

impl CategoryEncoder {
    /// Known names: each has `active` bits of its own, in the order given; any other name
    /// has the first block. n = (names + 1) · w.
    pub fn known<S: Into<String>>(
        names: impl IntoIterator<Item = S>,
        active: usize,
    ) -> Result<Self> {
        let mut names: Vec<(String, usize)> = names
            .into_iter()
            .enumerate()
            .map(|(i, name)| (name.into(), i + 1))
            .collect();
        if active == 0 {
            return Err(Error::invalid("a category of no active bits"));
        }
        check_bits((names.len() + 1).saturating_mul(active))?;
        names.sort();
        if let Some(w) = names.windows(2).find(|w| w[0].0 == w[1].0) {
            return Err(Error::invalid(format!("'{}' is given twice", w[0].0)));
        }
        Ok(Self(Kind::Known { names, active }))
    }

    /// Any names: `active` bits of `bits` by hashing. Two names share w²/n bits on
    /// average.
    pub fn hashed(bits: usize, active: usize, seed: u64) -> Result<Self> {
        check_active(bits, active)?;
        Ok(Self(Kind::Hashed { bits, active, seed }))
    }

    /// n.
    pub fn bits(&self) -> usize {
        match &self.0 {
            Kind::Known { names, active } => (names.len() + 1) * active,
            Kind::Hashed { bits, .. } => *bits,
        }
    }

    /// The set of a name.
    pub fn encode(&self, name: &str) -> Result<Sdr> {
        match &self.0 {
            Kind::Known { names, active } => {
                let found = names.binary_search_by(|(n, _)| n.as_str().cmp(name));
                let block = found.map_or(0, |i| names[i].1);
                let first = block * active;
                let active = (first..first + active).map(|i| i as u32).collect();
                Sdr::from_sorted(self.bits(), active)
            }
            Kind::Hashed { bits, active, seed } => {
                // Eight bytes at a time, the length first, so that no name begins another.
                let start = hash::mix(*seed, name.len() as u64);
                let key = name.as_bytes().chunks(8).fold(start, |key, chunk| {
                    let mut word = [0u8; 8];
                    word[..chunk.len()].copy_from_slice(chunk);
                    hash::mix(key, u64::from_le_bytes(word))
                });
                let keys = 0..*active as u64;
                Sdr::from_sorted(*bits, hash::distinct(key, *bits as u32, keys))
            }
        }
    }
}
