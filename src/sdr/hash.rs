//! A fixed mixing of integers: encoders give the same bits everywhere and for ever.

/// The finaliser of SplitMix64 (Steele, Lea and Flood 2014) of a seed and a key.
pub(super) fn mix(seed: u64, key: u64) -> u64 {
    let step = key.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut z = seed.wrapping_add(step);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// A number below `n` of a hash, without the division's bias towards small ones.
pub(super) fn below(hash: u64, n: u32) -> u32 {
    ((u128::from(hash) * u128::from(n)) >> 64) as u32
}

/// `count` different bits of `n`, sorted: for each key in turn the first of its hashes
/// that is not taken yet.
pub(super) fn distinct(seed: u64, n: u32, keys: impl Iterator<Item = u64>) -> Vec<u32> {
    let mut bits: Vec<u32> = Vec::new();
    for key in keys {
        let own = mix(seed, key);
        let mut tries = 0;
        let (at, bit) = loop {
            let bit = below(mix(own, tries), n);
            match bits.binary_search(&bit) {
                Ok(_) => tries += 1,
                Err(at) => break (at, bit),
            }
        };
        bits.insert(at, bit);
    }
    bits
}
