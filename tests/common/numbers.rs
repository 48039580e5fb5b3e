//! Seeded numbers and naive references, which need nothing of the library.
#![allow(dead_code)]

/// xorshift64*: small, seeded, the same everywhere.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// Standard normal, by Box and Muller.
    pub fn gaussian(&mut self) -> f32 {
        let (u, v) = (self.uniform().max(1e-300), self.uniform());
        ((-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32
    }
}

/// Kinds of weights that encoders must cope with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Gaussian,
    Laplace,
    Sparse,
    Constant,
    Zero,
    Smooth,
    LowRank,
    Denormal,
    HugeRange,
}

impl Kind {
    pub const ALL: [Self; 9] = [
        Self::Gaussian,
        Self::Laplace,
        Self::Sparse,
        Self::Constant,
        Self::Zero,
        Self::Smooth,
        Self::LowRank,
        Self::Denormal,
        Self::HugeRange,
    ];
}

/// `rows × cols` values of the kind.
pub fn weights(kind: Kind, rows: usize, cols: usize, seed: u64) -> Vec<f32> {
    let mut rng = Rng::new(seed);
    let left: Vec<f32> = (0..rows * 2).map(|_| rng.gaussian()).collect();
    let right: Vec<f32> = (0..cols * 2).map(|_| rng.gaussian()).collect();
    let mut out = Vec::with_capacity(rows * cols);
    for r in 0..rows {
        for c in 0..cols {
            out.push(match kind {
                Kind::Gaussian => 0.02 * rng.gaussian(),
                Kind::Laplace => {
                    let u = rng.uniform() - 0.5;
                    (-u.signum() * (1.0 - 2.0 * u.abs()).max(1e-12).ln()) as f32
                }
                Kind::Sparse if rng.uniform() < 0.9 => 0.0,
                Kind::Sparse => rng.gaussian(),
                Kind::Constant => 0.37,
                Kind::Zero => 0.0,
                Kind::Smooth => ((r as f32) * 0.1).sin() + ((c as f32) * 0.07).cos(),
                Kind::LowRank => left[2 * r] * right[2 * c] + left[2 * r + 1] * right[2 * c + 1],
                Kind::Denormal => f32::from_bits(rng.below(1 << 20) as u32),
                Kind::HugeRange => rng.gaussian() * 10f32.powi(rng.below(60) as i32 - 30),
            });
        }
    }
    out
}

/// `y[b, out] = x[b, in] · w[out, in]ᵀ` in f64.
pub fn naive_matmul(w: &[f32], x: &[f32], rows: usize, cols: usize, batch: usize) -> Vec<f64> {
    let mut y = vec![0.0; batch * rows];
    for b in 0..batch {
        for r in 0..rows {
            y[b * rows + r] = (0..cols)
                .map(|k| f64::from(x[b * cols + k]) * f64::from(w[r * cols + k]))
                .sum();
        }
    }
    y
}

/// `y[b, in] = g[b, out] · w[out, in]` in f64.
pub fn naive_matmul_t(w: &[f32], g: &[f32], rows: usize, cols: usize, batch: usize) -> Vec<f64> {
    let mut y = vec![0.0; batch * cols];
    for b in 0..batch {
        for r in 0..rows {
            for k in 0..cols {
                y[b * cols + k] += f64::from(g[b * rows + r]) * f64::from(w[r * cols + k]);
            }
        }
    }
    y
}

/// Holds `found` against `expected` within `1e-5 · ‖x‖ · ‖w‖` of each sum: the bound that
/// f32 accumulation of a few thousand terms keeps with room to spare.
pub fn assert_close(found: &[f32], expected: &[f64], scale: &dyn Fn(usize) -> f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        let bound = 1e-5 * scale(i) + 1e-37;
        assert!(
            (f64::from(*f) - e).abs() <= bound,
            "{what}: value {i} is {f}, expected {e} within {bound:e}"
        );
    }
}

pub fn norm(values: &[f32]) -> f64 {
    let sum: f64 = values.iter().map(|v| f64::from(*v).powi(2)).sum();
    sum.sqrt()
}
