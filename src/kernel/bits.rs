//! Sets as bit rows: how many bits two of them share.

use super::autovec;

/// `out[i] = popcount(query & items[i])` for rows of `query.len()` words.
///
/// `count_ones` of a word is one instruction where there is POPCNT, and a few of byte
/// shuffles a vector where the compiler finds that better; neither needs VPOPCNTDQ, and
/// both are faster than memory.
#[inline(always)]
fn overlaps_body(query: &[u64], items: &[u64], out: &mut [u32]) {
    if query.is_empty() {
        out.fill(0);
        return;
    }
    assert!(items.len() == query.len() * out.len());
    for (item, out) in items.chunks_exact(query.len()).zip(out) {
        *out = query
            .iter()
            .zip(item)
            .map(|(a, b)| (a & b).count_ones())
            .sum();
    }
}

autovec! {
    /// Shared bits of `query` with each row of `items`.
    overlaps = overlaps_body; fn(query: &[u64], items: &[u64], out: &mut [u32])
}
