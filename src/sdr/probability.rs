//! How likely sets match by chance, and what sizes follow from that.
//!
//! Formulas of Ahmad and Hawkins (2015), evaluated in logarithms, so that nothing
//! underflows on the way: probabilities of 1e-2000 are what large sets have. Natural
//! logarithms come from sums of at most w terms, exact to about 1e-13 relative.

/// `ln C(n, k)`; −∞ where k > n. k steps.
pub fn ln_choose(n: usize, k: usize) -> f64 {
    if k > n {
        return f64::NEG_INFINITY;
    }
    let k = k.min(n - k);
    (1..=k).map(|i| ((n - k + i) as f64 / i as f64).ln()).sum()
}

/// Bits of information that one of the C(n, w) sets carries: `log₂ C(n, w)`.
pub fn capacity_bits(n: usize, w: usize) -> f64 {
    ln_choose(n, w) / std::f64::consts::LN_2
}

/// `ln Σ exp`, adding the largest last.
fn ln_sum(terms: impl Iterator<Item = f64>) -> f64 {
    let mut terms: Vec<f64> = terms.collect();
    terms.sort_by(f64::total_cmp);
    let Some(max) = terms.last().copied().filter(|m| *m > f64::NEG_INFINITY) else {
        return f64::NEG_INFINITY;
    };
    max + terms.iter().map(|t| (t - max).exp()).sum::<f64>().ln()
}

/// Natural logarithm of the probability that a random set of `w` bits shares at least
/// `theta` with a fixed one of `w_x` bits, both of `n`:
///
/// `P = Σ_{b ≥ θ} C(w_x, b) · C(n − w_x, w − b) / C(n, w)`,
///
/// the tail of the hypergeometric distribution. 0 (certain) for θ = 0, −∞ (impossible)
/// where θ is above either weight. About w²/2 steps.
///
/// # Panics
///
/// If a weight is above `n`.
pub fn ln_overlap_tail(n: usize, w_x: usize, w: usize, theta: usize) -> f64 {
    assert!(w_x <= n && w <= n, "sets of {w_x} and {w} bits of {n}");
    if theta == 0 {
        return 0.0;
    }
    let all = ln_choose(n, w);
    // Terms with w − b > n − w_x are impossible; `ln_choose` makes them −∞.
    let terms = (theta..=w.min(w_x)).map(|b| ln_choose(w_x, b) + ln_choose(n - w_x, w - b) - all);
    ln_sum(terms).min(0.0)
}

/// Natural logarithm of [`false_match`].
pub fn ln_false_match(n: usize, w: usize, theta: usize) -> f64 {
    ln_overlap_tail(n, w, w, theta)
}

/// Probability that two random sets of `w` bits out of `n` share at least `theta`.
/// For n = 2048, w = 40: 1.4e-9 with θ = 10, 2.5e-26 with θ = 20. 0 below 1e-308; then
/// [`ln_false_match`] still tells.
pub fn false_match(n: usize, w: usize, theta: usize) -> f64 {
    ln_false_match(n, w, theta).exp()
}

/// Expected share of active bits in a union of `m` random sets: `p = 1 − (1 − w/n)^m`.
pub fn union_density(n: usize, w: usize, m: usize) -> f64 {
    -(m as f64 * (-(w as f64) / n as f64).ln_1p()).exp_m1()
}

/// Natural logarithm of [`union_false_match`].
pub fn ln_union_false_match(n: usize, w: usize, m: usize, theta: usize) -> f64 {
    if theta == 0 {
        return 0.0;
    }
    if m == 0 || w == 0 {
        return f64::NEG_INFINITY;
    }
    // ln(1 − p) is exact; ln p by whichever of the two ways keeps its digits.
    let ln_q = m as f64 * (-(w as f64) / n as f64).ln_1p();
    let ln_p = match ln_q > -std::f64::consts::LN_2 {
        true => (-ln_q.exp_m1()).ln(),
        false => (-ln_q.exp()).ln_1p(),
    };
    let terms = (theta..=w).map(|b| {
        let off = match w - b {
            0 => 0.0,
            off => off as f64 * ln_q,
        };
        ln_choose(w, b) + b as f64 * ln_p + off
    });
    ln_sum(terms).min(0.0)
}

/// Probability that a random set of `w` bits shares at least `theta` with a union of `m`
/// random ones:
///
/// `P ≈ Σ_{b ≥ θ} C(w, b) · p^b · (1 − p)^(w − b)`, p = [`union_density`].
///
/// n = 2048, w = 40, m = 20: 3e-20 with θ = 40, 5e-8 with θ = 30.
pub fn union_false_match(n: usize, w: usize, m: usize, theta: usize) -> f64 {
    ln_union_false_match(n, w, m, theta).exp()
}

/// Most sets that a union may hold while at most the share `density` of its bits is
/// active, `⌊ln(1 − density) / ln(1 − w/n)⌋`. At one half, the usual limit, a random set
/// shares half its bits with the union.
///
/// # Panics
///
/// If `density` is not in [0, 1), or `w` is zero or above `n`.
pub fn union_capacity(n: usize, w: usize, density: f64) -> usize {
    assert!((0.0..1.0).contains(&density), "a density of {density}");
    assert!(w > 0 && w <= n, "{w} of {n} bits");
    let m = (-density).ln_1p() / (-(w as f64) / n as f64).ln_1p();
    // A quotient that is whole but for rounding.
    (m + 1e-9).floor() as usize
}

/// Least θ with [`false_match`] at most `probability`; `None` if even θ = w has more.
pub fn threshold_for(n: usize, w: usize, probability: f64) -> Option<usize> {
    let limit = probability.ln();
    (1..=w).find(|theta| ln_false_match(n, w, *theta) <= limit)
}

/// Largest share of its bits that a set may lose and still match at `theta`:
/// `ν = 1 − θ / w`, not below 0.
pub fn noise_tolerance(w: usize, theta: usize) -> f64 {
    match w {
        0 => 0.0,
        w => (1.0 - theta as f64 / w as f64).max(0.0),
    }
}

/// What sets of a size can do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Advice {
    /// Share of active bits.
    pub density: f64,
    /// Information in one set, in bits.
    pub capacity_bits: f64,
    /// Least threshold that keeps false matches at or below the probability asked for.
    pub theta: usize,
    /// Share of bits that may be lost to noise at that threshold.
    pub noise_tolerance: f64,
    /// Most sets in a union of which at most half the bits are active.
    pub union_capacity: usize,
}

/// What sets of `w` bits out of `n` can do if a false match may have `probability`.
/// `None` if no threshold keeps it, or w is zero or above n: take more bits.
pub fn advise(n: usize, w: usize, probability: f64) -> Option<Advice> {
    if w == 0 || w > n {
        return None;
    }
    let theta = threshold_for(n, w, probability)?;
    Some(Advice {
        density: w as f64 / n as f64,
        capacity_bits: capacity_bits(n, w),
        theta,
        noise_tolerance: noise_tolerance(w, theta),
        union_capacity: union_capacity(n, w, 0.5),
    })
}
