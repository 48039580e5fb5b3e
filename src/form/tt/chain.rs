//! How a matrix is cut into digits, and what its chain of cores costs.

/// Modes of rows, and of columns: more would be of size 1 or of a tensor beyond limits.
pub(super) const MAX_MODES: usize = 16;

pub(super) const NAMES: [&str; 2 * MAX_MODES] = [
    "core0", "core1", "core2", "core3", "core4", "core5", "core6", "core7", "core8", "core9",
    "core10", "core11", "core12", "core13", "core14", "core15", "core16", "core17", "core18",
    "core19", "core20", "core21", "core22", "core23", "core24", "core25", "core26", "core27",
    "core28", "core29", "core30", "core31",
];

/// A pair of digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Site {
    pub(super) o: usize,
    pub(super) i: usize,
}

/// How the matrix is cut into digits, and the ranks between sites.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) rows: Vec<usize>,
    pub(super) cols: Vec<usize>,
    pub(super) separate: bool,
    /// Whether products run from the last site to the first.
    pub(super) reversed: bool,
    pub(super) sites: Vec<Site>,
    /// One more than sites, the outer ones 1.
    pub(super) ranks: Vec<usize>,
}

impl Chain {
    /// All ranks 1.
    pub(super) fn new(rows: Vec<usize>, cols: Vec<usize>, separate: bool) -> Self {
        let mut sites: Vec<Site> = if separate {
            let rows = rows.iter().map(|o| Site { o: *o, i: 1 });
            rows.chain(cols.iter().map(|i| Site { o: 1, i: *i }))
                .collect()
        } else {
            (0..rows.len().max(cols.len()))
                .map(|j| Site {
                    o: rows.get(j).copied().unwrap_or(1),
                    i: cols.get(j).copied().unwrap_or(1),
                })
                .collect()
        };
        sites.retain(|s| s.o * s.i != 1);
        if sites.is_empty() {
            sites.push(Site { o: 1, i: 1 });
        }
        Self {
            ranks: vec![1; sites.len() + 1],
            rows,
            cols,
            separate,
            reversed: false,
            sites,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.sites.len()
    }

    /// The rank that a cut before site `j` can have at most.
    pub(super) fn full_rank(&self, j: usize) -> usize {
        let numbers = |s: &[Site]| s.iter().fold(1, |n: usize, s| n.saturating_mul(s.o * s.i));
        numbers(&self.sites[..j]).min(numbers(&self.sites[j..]))
    }

    pub(super) fn cap(&mut self, rank: usize) {
        for j in 1..self.len() {
            self.ranks[j] = rank.clamp(1, self.full_rank(j));
        }
    }

    /// Numbers in all cores.
    pub(super) fn params(&self) -> usize {
        let sites = self.sites.iter().enumerate();
        sites.fold(0, |n, (j, s)| {
            let core = self.ranks[j].saturating_mul(self.ranks[j + 1]);
            core.saturating_mul(s.o * s.i).saturating_add(n)
        })
    }

    /// Sites in the order of the product.
    pub(super) fn order(&self) -> Vec<usize> {
        match self.reversed {
            false => (0..self.len()).collect(),
            true => (0..self.len()).rev().collect(),
        }
    }

    /// Multiplications for one row of x.
    pub(super) fn macs(&self) -> u64 {
        let order = self.order();
        let mut done = 1u64;
        let mut left: u64 = self.sites.iter().map(|s| s.i as u64).product();
        let mut macs = 0u64;
        for j in order {
            let Site { o, i } = self.sites[j];
            done = done.saturating_mul(o as u64);
            let ranks = self.ranks[j] as u64 * self.ranks[j + 1] as u64;
            macs = macs.saturating_add(done.saturating_mul(left).saturating_mul(ranks));
            left /= (i as u64).max(1);
        }
        macs
    }

    /// Shape of the part that holds a site's core.
    pub(super) fn shape(&self, j: usize) -> [usize; 2] {
        let (before, after) = (self.ranks[j], self.ranks[j + 1]);
        let Site { o, i } = self.sites[j];
        match self.reversed {
            false => [o * after, before * i],
            true => [o * before, after * i],
        }
    }

    /// The bond over which the product comes to a site, and the one over which it leaves.
    pub(super) fn entry(&self, j: usize) -> usize {
        j + usize::from(self.reversed)
    }

    pub(super) fn exit(&self, j: usize) -> usize {
        j + usize::from(!self.reversed)
    }

    /// Sites up to the last with a row digit: the others are the same for every row.
    pub(super) fn head(&self) -> usize {
        let last = self.sites.iter().rposition(|s| s.o != 1);
        last.map_or(0, |j| j + 1)
    }

    /// Multiplications for decoding all rows in windows of [`WINDOW`].
    pub(super) fn decode_macs(&self) -> u128 {
        let (mut rows, mut cols, mut macs) = (1u128, 1u128, 0u128);
        let ranks = |j: usize| self.ranks[j] as u128 * self.ranks[j + 1] as u128;
        let head = self.head();
        for (j, s) in self.sites[..head].iter().enumerate() {
            rows *= s.o as u128;
            cols *= s.i as u128;
            macs = macs.saturating_add((rows * cols).saturating_mul(ranks(j)));
        }
        let mut tail = 1u128;
        let windows = rows.div_ceil(WINDOW as u128);
        for j in (head..self.len()).rev() {
            tail *= self.sites[j].i as u128;
            macs = macs.saturating_add((tail * windows).saturating_mul(ranks(j)));
        }
        if head < self.len() {
            macs = macs.saturating_add(rows * cols * tail * self.ranks[head] as u128);
        }
        macs
    }
}

/// Rows decoded at once: what does not depend on the row is made once for them.
pub(super) const WINDOW: usize = 64;

/// `n` as factors of like size: as many as make them about 16, at most four.
pub(super) fn factors(n: usize, count: usize) -> Vec<usize> {
    let mut primes = Vec::new();
    let (mut rest, mut p) = (n, 2);
    while p * p <= rest {
        while rest % p == 0 {
            primes.push(p);
            rest /= p;
        }
        p += 1;
    }
    if rest > 1 || primes.is_empty() {
        primes.push(rest);
    }
    let mut factors = vec![1usize; count.min(primes.len())];
    // The largest prime to the smallest factor.
    for p in primes.into_iter().rev() {
        if let Some(least) = factors.iter_mut().min() {
            *least *= p;
        }
    }
    factors.sort_unstable();
    factors
}

/// How many modes a side of this length is cut into.
pub(super) fn mode_count(n: usize) -> usize {
    ((n.max(1) as f64).log2() / 4.0).round().clamp(2.0, 4.0) as usize
}
