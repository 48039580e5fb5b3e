//! Which coefficients stay: the largest in energy.

use std::ops::Range;

use rayon::prelude::*;

/// What the selection is for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Goal {
    /// This many coefficients, at most as many as are not zero.
    Count(usize),
    /// The fewest such that the energy of the others is at most this.
    Tail(f64),
}

/// The coefficients that stay: those of an energy above `key`, and the first `ties` of
/// those equal to it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kept {
    pub(super) key: u64,
    pub(super) ties: usize,
    pub(super) count: usize,
    /// Energy of those that do not.
    pub(super) tail: f64,
}

/// Energies in the order of their bits, which for numbers from 0 is their own.
pub(super) fn key(coefficient: &[f64]) -> u64 {
    energy(coefficient).to_bits()
}

fn energy(coefficient: &[f64]) -> f64 {
    coefficient.iter().map(|v| v * v).sum()
}

/// Bins by the exponent and the four leading bits of the mantissa.
const BINS: usize = 1 << 15;

fn bin(key: u64) -> usize {
    (key >> 48) as usize
}

/// Parts of the spectrum that are summed apart: a fixed number, so that sums are formed in
/// the same order on any number of threads.
const PARTS: usize = 8;

/// Selects among the coefficients of `values` numbers each.
pub(super) fn select(spectrum: &[f64], values: usize, goal: Goal) -> Kept {
    let part = spectrum
        .len()
        .div_ceil(PARTS)
        .next_multiple_of(values)
        .max(values);
    let parts: Vec<Vec<(usize, f64)>> = spectrum
        .par_chunks(part)
        .map(|part| {
            let mut bins = vec![(0, 0.0); BINS];
            for c in part.chunks_exact(values) {
                let e = energy(c);
                let b = &mut bins[bin(e.to_bits())];
                *b = (b.0 + 1, b.1 + e);
            }
            bins
        })
        .collect();
    let mut bins = vec![(0usize, 0.0f64); BINS];
    for part in &parts {
        for (b, p) in bins.iter_mut().zip(part) {
            *b = (b.0 + p.0, b.1 + p.1);
        }
    }
    let sorted = |b: usize| -> Vec<u64> {
        let mut keys: Vec<u64> = spectrum
            .par_chunks_exact(values)
            .map(key)
            .filter(|k| bin(*k) == b)
            .collect();
        keys.par_sort_unstable();
        keys
    };
    let count_of = |bins: &[(usize, f64)]| bins.iter().map(|b| b.0).sum::<usize>();

    // From the smallest up: how many whole bins go.
    let (mut cut, mut tail) = (0, 0.0);
    match goal {
        Goal::Count(count) => {
            let mut above = count_of(&bins);
            while cut < BINS && above - bins[cut].0 >= count {
                above -= bins[cut].0;
                tail += bins[cut].1;
                cut += 1;
            }
        }
        Goal::Tail(most) => {
            while cut < BINS && tail + bins[cut].1 <= most {
                tail += bins[cut].1;
                cut += 1;
            }
        }
    }
    if cut == BINS {
        return Kept {
            key: u64::MAX,
            ties: 0,
            count: 0,
            tail,
        };
    }
    let above = count_of(&bins[cut + 1..]);
    let keys = sorted(cut);
    let mut gone = match goal {
        Goal::Count(count) => above + keys.len() - count.min(above + keys.len()),
        Goal::Tail(_) => 0,
    };
    match goal {
        Goal::Count(_) => tail += sum(&keys, 0..gone),
        Goal::Tail(most) => {
            while gone < keys.len() && tail + f64::from_bits(keys[gone]) <= most {
                tail += f64::from_bits(keys[gone]);
                gone += 1;
            }
        }
    }
    // Zeros are never kept.
    gone = gone.max(keys.partition_point(|k| *k == 0));
    // The sums of a bin may differ from those of its keys by rounding: none is left then.
    let Some(key) = keys.get(gone).copied() else {
        return Kept {
            key: keys.last().copied().unwrap_or(0),
            ties: 0,
            count: above,
            tail,
        };
    };
    let equal = gone..keys.partition_point(|k| *k <= key);
    Kept {
        key,
        ties: equal.len(),
        count: above + keys.len() - gone,
        tail,
    }
}

fn sum(keys: &[u64], range: Range<usize>) -> f64 {
    keys[range].iter().map(|k| f64::from_bits(*k)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(spectrum: &[f64], values: usize, k: Kept) -> Vec<usize> {
        let mut ties = k.ties;
        let coefficients = spectrum.chunks_exact(values).enumerate();
        let stays = coefficients.filter(|(_, c)| {
            let key = key(c);
            let tie = key == k.key && ties > 0;
            ties -= usize::from(tie);
            key > k.key || tie
        });
        stays.map(|(i, _)| i).collect()
    }

    fn spectrum(n: usize) -> Vec<f64> {
        let value = |i: usize| {
            let v = (i * 7919 % 101) as f64 - 50.0;
            v * 10f64.powi((i % 7) as i32 - 3)
        };
        (0..n).map(value).collect()
    }

    #[test]
    fn the_count_is_kept_and_holds_the_largest() {
        for values in [1, 2] {
            let s = spectrum(600);
            let energies: Vec<f64> = s.chunks_exact(values).map(energy).collect();
            let mut sorted = energies.clone();
            sorted.sort_by(|a, b| b.total_cmp(a));
            let positive = sorted.iter().filter(|e| **e > 0.0).count();
            for count in [0, 1, 2, 17, 255, 299, 300, 599, 600, 1000] {
                let k = select(&s, values, Goal::Count(count));
                let found = kept(&s, values, k);
                assert_eq!(found.len(), count.min(positive), "{values} {count}");
                assert_eq!(found.len(), k.count);
                let mut taken: Vec<f64> = found.iter().map(|i| energies[*i]).collect();
                taken.sort_by(|a, b| b.total_cmp(a));
                assert_eq!(taken, sorted[..taken.len()]);
                let tail: f64 = sorted[taken.len()..].iter().sum();
                assert!((tail - k.tail).abs() <= 1e-12 * sorted.iter().sum::<f64>());
            }
        }
    }

    #[test]
    fn the_tail_is_the_longest_under_its_bound() {
        let s = spectrum(500);
        let mut sorted: Vec<f64> = s.iter().map(|v| v * v).collect();
        sorted.sort_by(f64::total_cmp);
        let total: f64 = sorted.iter().sum();
        for share in [0.0, 1e-9, 1e-3, 0.1, 0.5, 0.999, 1.1] {
            let k = select(&s, 1, Goal::Tail(share * total));
            assert!(k.tail <= share * total);
            assert_eq!(kept(&s, 1, k).len(), k.count);
            if k.count > 0 {
                let next = sorted[sorted.len() - k.count];
                assert!(k.tail + next > share * total * (1.0 - 1e-12), "{share}");
            }
        }
        assert_eq!(select(&s, 1, Goal::Tail(1.1 * total)).count, 0);
        let ties = [3.0, -3.0, 0.0, 3.0, 3.0];
        assert_eq!(kept(&ties, 1, select(&ties, 1, Goal::Tail(20.0))), [0, 1]);
        assert_eq!(select(&[], 1, Goal::Count(3)).count, 0);
        assert_eq!(select(&[0.0; 4], 2, Goal::Count(2)).count, 0);
    }
}
