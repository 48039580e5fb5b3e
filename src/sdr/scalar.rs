//! Numbers as sets: near numbers share bits.

use super::hash;
use super::set::{Sdr, check_bits};
use crate::error::{Error, Result};

/// A number in a known range as `w` neighbouring bits.
///
/// The range is cut into buckets; the bits of bucket i are i … i + w − 1, so that numbers
/// d buckets apart share `max(0, w − d)` bits. n = buckets + w − 1 bits, or n = buckets
/// where the range closes into a circle. (Purdy 2016, sections 2 and 3.)
#[derive(Clone, Debug)]
pub struct ScalarEncoder {
    min: f64,
    max: f64,
    buckets: usize,
    active: usize,
    periodic: bool,
}

impl ScalarEncoder {
    /// Numbers from `min` to `max`; those outside are taken as the nearer end.
    pub fn new(min: f64, max: f64, buckets: usize, active: usize) -> Result<Self> {
        Self::checked(min, max, buckets, active, false)
    }

    /// Numbers of a circle, such as hours or angles: `max` is `min` again, and so on in
    /// both directions. Needs at least `active` buckets.
    pub fn periodic(min: f64, max: f64, buckets: usize, active: usize) -> Result<Self> {
        Self::checked(min, max, buckets, active, true)
    }

    fn checked(min: f64, max: f64, buckets: usize, active: usize, periodic: bool) -> Result<Self> {
        let width = max - min;
        if !(width.is_finite() && width > 0.0) {
            return Err(Error::invalid(format!("a range from {min} to {max}")));
        }
        if active == 0 || buckets == 0 || (periodic && active > buckets) {
            return Err(Error::invalid(format!(
                "{active} active bits for {buckets} buckets"
            )));
        }
        check_bits(buckets.saturating_add(active))?;
        Ok(Self {
            min,
            max,
            buckets,
            active,
            periodic,
        })
    }

    /// n.
    pub fn bits(&self) -> usize {
        match self.periodic {
            true => self.buckets,
            false => self.buckets + self.active - 1,
        }
    }

    /// The bucket of a number: `⌊(v − min) / (max − min) · buckets⌋`.
    pub fn bucket(&self, value: f64) -> Result<usize> {
        let mut share = (finite(value)? - self.min) / (self.max - self.min);
        if self.periodic {
            share -= share.floor();
        }
        let bucket = (share * self.buckets as f64).floor();
        Ok((bucket.max(0.0) as usize).min(self.buckets - 1))
    }

    /// The set of a number. NaN and infinity are refused.
    pub fn encode(&self, value: f64) -> Result<Sdr> {
        let first = self.bucket(value)?;
        let n = self.bits();
        Sdr::new(
            n,
            (first..first + self.active)
                .map(|i| (i % n) as u32)
                .collect(),
        )
    }

    /// The middle of the bucket that shares most bits with a set; the first of equals.
    /// `None` for a set that shares none.
    pub fn decode(&self, set: &Sdr) -> Option<f64> {
        let n = self.bits();
        let mut words = vec![false; n];
        for i in set.active().iter().filter(|i| (**i as usize) < n) {
            words[*i as usize] = true;
        }
        let mut here = (0..self.active).filter(|i| words[*i % n]).count();
        let (mut best, mut at) = (here, 0);
        for bucket in 1..self.buckets {
            here += usize::from(words[(bucket + self.active - 1) % n]);
            here -= usize::from(words[bucket - 1]);
            if here > best {
                (best, at) = (here, bucket);
            }
        }
        let share = (at as f64 + 0.5) / self.buckets as f64;
        (best > 0).then_some(self.min + share * (self.max - self.min))
    }
}

/// A number in any range as `w` hashed bits of `n`.
///
/// The bits of bucket `⌊(v − offset) / resolution⌋` are the hashes of bucket, bucket + 1,
/// … bucket + w − 1, so that numbers d buckets apart share w − d of them, and far ones
/// only what chance gives, w²/n on average. Where two of one bucket's hashes meet, the
/// later takes another place: a set always has w bits, and two buckets share at most a
/// few bits more or less than that (w²/2n such meetings on average). (Purdy 2016,
/// section 4, with hashing in place of the table.)
#[derive(Clone, Debug)]
pub struct RandomScalarEncoder {
    resolution: f64,
    offset: f64,
    bits: usize,
    active: usize,
    seed: u64,
}

impl RandomScalarEncoder {
    /// Buckets of `resolution`, bucket 0 from 0 on.
    pub fn new(resolution: f64, bits: usize, active: usize, seed: u64) -> Result<Self> {
        if !(resolution.is_finite() && resolution > 0.0) {
            return Err(Error::invalid(format!("a resolution of {resolution}")));
        }
        check_active(bits, active)?;
        Ok(Self {
            resolution,
            offset: 0.0,
            bits,
            active,
            seed,
        })
    }

    /// Moves the start of bucket 0.
    #[must_use]
    pub fn with_offset(mut self, offset: f64) -> Self {
        self.offset = offset;
        self
    }

    /// n.
    pub fn bits(&self) -> usize {
        self.bits
    }

    /// The set of a number. NaN, infinity, and numbers 2⁵³ buckets off are refused: there
    /// buckets are smaller than the steps between numbers.
    pub fn encode(&self, value: f64) -> Result<Sdr> {
        let bucket = ((finite(value)? - self.offset) / self.resolution).floor();
        if !bucket.is_finite() || bucket.abs() > (1u64 << 53) as f64 {
            return Err(Error::invalid(format!(
                "{value} is {bucket} buckets of {} from {}",
                self.resolution, self.offset
            )));
        }
        let first = bucket as i64;
        let keys = (0..self.active as i64).map(|j| (first + j) as u64);
        Sdr::from_sorted(self.bits, hash::distinct(self.seed, self.bits as u32, keys))
    }
}

pub(super) fn finite(value: f64) -> Result<f64> {
    match value.is_finite() {
        true => Ok(value),
        false => Err(Error::invalid(format!("{value} has no set"))),
    }
}

/// Hashed bits: a quarter of them at most, so that free places are found at once.
pub(super) fn check_active(bits: usize, active: usize) -> Result<()> {
    check_bits(bits)?;
    if active == 0 || active > bits / 4 {
        return Err(Error::invalid(format!(
            "{active} active of {bits} bits; from 1 to a quarter of them can be active"
        )));
    }
    Ok(())
}
