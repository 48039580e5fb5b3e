//! Orthonormal transforms of rows and columns, block by block.
//!
//! Everything runs on forward complex FFTs: a real one of even length as a complex one of
//! half the length, a cosine transform as a real one of the samples in the order even
//! ascending, odd descending (Makhoul 1980), an inverse one with real and imaginary parts
//! exchanged on the way in and out.

use std::f64::consts::PI;
use std::sync::Arc;

use rustfft::num_complex::Complex;
use rustfft::{Fft, FftNum, FftPlanner, FftPlannerScalar};

/// The functions that rows are expanded in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Basis {
    /// Cosines, DCT-II.
    Dct,
    /// Complex exponentials, one of each conjugate pair.
    Fft,
}

impl Basis {
    /// Values of a coefficient.
    pub(super) fn values(self) -> usize {
        match self {
            Self::Dct => 1,
            Self::Fft => 2,
        }
    }

    /// Coefficients of `n` real samples.
    pub(super) fn slots(self, n: usize) -> usize {
        n.div_ceil(self.values())
    }
}

/// Makes plans for one number type.
pub(super) enum Planner<T: FftNum> {
    /// The same operations on every CPU.
    Scalar(FftPlannerScalar<T>),
    /// Whatever is fastest on this one.
    Fast(FftPlanner<T>),
}

impl<T: FftNum> Planner<T> {
    fn fft(&mut self, n: usize) -> Arc<dyn Fft<T>> {
        match self {
            Self::Scalar(p) => p.plan_fft_forward(n),
            Self::Fast(p) => p.plan_fft_forward(n),
        }
    }
}

/// Working memory of the transforms of one thread.
pub(super) struct Work<T> {
    line: Vec<Complex<T>>,
    fft: Vec<Complex<T>>,
}

impl<T> Default for Work<T> {
    fn default() -> Self {
        Self {
            line: Vec::new(),
            fft: Vec::new(),
        }
    }
}

/// Numbers are converted from f64, where every constant is computed.
fn real<T: FftNum>(v: f64) -> T {
    T::from_f64(v).unwrap_or_else(T::zero)
}

fn turn<T: FftNum>(share: f64) -> Complex<T> {
    let angle = -2.0 * PI * share;
    Complex::new(real(angle.cos()), real(angle.sin()))
}

fn swap<T: Copy>(v: Complex<T>) -> Complex<T> {
    Complex::new(v.im, v.re)
}

/// The orthonormal transform of `n` real samples.
pub(super) struct Line<T: FftNum> {
    n: usize,
    basis: Basis,
    fft: Arc<dyn Fft<T>>,
    /// `e^(−2πik/n)`, for even `n`.
    halves: Vec<Complex<T>>,
    /// `e^(−πik/2n)`, for cosines.
    quarters: Vec<Complex<T>>,
}

impl<T: FftNum> Line<T> {
    fn new(n: usize, basis: Basis, planner: &mut Planner<T>) -> Self {
        let even = n.is_multiple_of(2);
        let halves = if even { n / 4 + 1 } else { 0 };
        let quarters = match basis {
            Basis::Dct => n.div_ceil(2),
            Basis::Fft => 0,
        };
        Self {
            n,
            basis,
            fft: planner.fft(if even { n / 2 } else { n }),
            halves: (0..halves).map(|k| turn(k as f64 / n as f64)).collect(),
            quarters: (0..quarters)
                .map(|k| turn(k as f64 / (4 * n) as f64))
                .collect(),
        }
    }

    fn is_even(&self) -> bool {
        !self.halves.is_empty()
    }

    /// Values of the transform: `n`, or one more where that makes whole pairs.
    fn width(&self) -> usize {
        self.basis.slots(self.n) * self.basis.values()
    }

    /// The place of sample `j` of the reordered row.
    #[inline(always)]
    fn place(&self, j: usize) -> usize {
        match self.basis {
            Basis::Fft => j,
            Basis::Dct if 2 * j < self.n => 2 * j,
            Basis::Dct => 2 * (self.n - 1 - j) + 1,
        }
    }

    /// `out[..width]` from `x[..n]`.
    fn forward(&self, x: &[T], out: &mut [T], work: &mut Work<T>) {
        self.load(x, work);
        self.store_coefficients(out, work);
    }

    /// `out[..n]` from `c[..width]`: the inverse, and the transpose.
    fn inverse(&self, c: &[T], out: &mut [T], work: &mut Work<T>) {
        self.load_coefficients(c, work);
        self.store(out, work);
    }

    /// The spectrum of the samples, of each conjugate pair one.
    fn load(&self, x: &[T], work: &mut Work<T>) {
        let n = self.n;
        let line = &mut work.line;
        line.clear();
        if self.is_even() {
            line.extend(
                (0..n / 2).map(|j| Complex::new(x[self.place(2 * j)], x[self.place(2 * j + 1)])),
            );
        } else {
            line.extend((0..n).map(|j| Complex::new(x[self.place(j)], T::zero())));
        }
        run(&*self.fft, work);
        let line = &mut work.line;
        if self.is_even() {
            let h = n / 2;
            let half: T = real(0.5);
            let first = line[0];
            line[0] = Complex::new(first.re + first.im, first.re - first.im);
            for k in 1..=h / 2 {
                let (a, b) = (line[k], line[h - k].conj());
                let (s, d) = ((a + b) * half, (a - b) * half);
                let t = self.halves[k] * d;
                let t = Complex::new(t.im, -t.re);
                line[h - k] = (s - t).conj();
                line[k] = s + t;
            }
        } else {
            line[0].im = T::zero();
        }
    }

    fn store_coefficients(&self, out: &mut [T], work: &Work<T>) {
        let (n, line) = (self.n, &work.line);
        let first: T = real((1.0 / n as f64).sqrt());
        let other: T = real((2.0 / n as f64).sqrt());
        match self.basis {
            Basis::Fft => {
                out[0] = line[0].re * first;
                out[1] = line[0].im * first;
                let pairs = out[2..].as_chunks_mut::<2>().0;
                for (out, c) in pairs.iter_mut().zip(&line[1..]) {
                    *out = [c.re * other, c.im * other];
                }
            }
            Basis::Dct => {
                out[0] = line[0].re * first;
                for k in 1..n.div_ceil(2) {
                    let u = self.quarters[k] * line[k];
                    out[k] = u.re * other;
                    out[n - k] = -u.im * other;
                }
                if self.is_even() {
                    out[n / 2] = line[0].im * first;
                }
            }
        }
    }

    /// The spectrum that coefficients stand for, as samples times `n`.
    fn load_coefficients(&self, c: &[T], work: &mut Work<T>) {
        let n = self.n;
        let first: T = real((1.0 / n as f64).sqrt());
        let other: T = real((0.5 / n as f64).sqrt());
        let line = &mut work.line;
        line.clear();
        match self.basis {
            Basis::Fft => {
                line.push(Complex::new(c[0] * first, c[1] * first));
                let pairs = c[2..self.width()].as_chunks::<2>().0;
                line.extend(
                    pairs
                        .iter()
                        .map(|[re, im]| Complex::new(*re * other, *im * other)),
                );
            }
            Basis::Dct => {
                let middle = if self.is_even() { c[n / 2] } else { T::zero() };
                line.push(Complex::new(c[0] * first, middle * first));
                line.extend((1..n.div_ceil(2)).map(|k| {
                    Complex::new(c[k] * other, -c[n - k] * other) * self.quarters[k].conj()
                }));
            }
        }
    }

    fn store(&self, out: &mut [T], work: &mut Work<T>) {
        let n = self.n;
        let line = &mut work.line;
        if self.is_even() {
            let h = n / 2;
            let zero = line[0];
            line[0] = Complex::new(zero.re - zero.im, zero.re + zero.im);
            for k in 1..=h / 2 {
                let (a, b) = (line[k], line[h - k].conj());
                let (s, d) = (a + b, a - b);
                let t = self.halves[k].conj() * d;
                let t = Complex::new(-t.im, t.re);
                line[h - k] = swap((s - t).conj());
                line[k] = swap(s + t);
            }
            run(&*self.fft, work);
            for (j, v) in work.line.iter().enumerate() {
                out[self.place(2 * j)] = v.im;
                out[self.place(2 * j + 1)] = v.re;
            }
        } else {
            line[0] = Complex::new(T::zero(), line[0].re);
            line.resize(n, Complex::new(T::zero(), T::zero()));
            for k in 1..n.div_ceil(2) {
                let v = line[k];
                line[k] = swap(v);
                line[n - k] = swap(v.conj());
            }
            run(&*self.fft, work);
            for (j, v) in work.line.iter().enumerate() {
                out[self.place(j)] = v.im;
            }
        }
    }
}

fn run<T: FftNum>(fft: &dyn Fft<T>, work: &mut Work<T>) {
    let zero = Complex::new(T::zero(), T::zero());
    work.fft.resize(fft.get_inplace_scratch_len(), zero);
    fft.process_with_scratch(&mut work.line, &mut work.fft);
}

/// The unitary transform down a column of coefficients, in place.
pub(super) enum Column<T: FftNum> {
    Dct(Line<T>),
    Fft(Arc<dyn Fft<T>>),
}

impl<T: FftNum> Column<T> {
    fn new(n: usize, basis: Basis, planner: &mut Planner<T>) -> Self {
        match basis {
            Basis::Dct => Self::Dct(Line::new(n, basis, planner)),
            Basis::Fft => Self::Fft(planner.fft(n)),
        }
    }

    pub(super) fn forward(&self, column: &mut [T], work: &mut Work<T>) {
        match self {
            Self::Dct(line) => {
                line.load(column, work);
                line.store_coefficients(column, work);
            }
            Self::Fft(fft) => unitary(&**fft, column, work, |c| c),
        }
    }

    pub(super) fn inverse(&self, column: &mut [T], work: &mut Work<T>) {
        match self {
            Self::Dct(line) => {
                line.load_coefficients(column, work);
                line.store(column, work);
            }
            Self::Fft(fft) => unitary(&**fft, column, work, swap),
        }
    }
}

fn unitary<T: FftNum>(
    fft: &dyn Fft<T>,
    column: &mut [T],
    work: &mut Work<T>,
    turned: impl Fn(Complex<T>) -> Complex<T>,
) {
    let column = column.as_chunks_mut::<2>().0;
    work.line.clear();
    let line = column.iter().map(|[re, im]| turned(Complex::new(*re, *im)));
    work.line.extend(line);
    run(fft, work);
    let scale: T = real((1.0 / column.len() as f64).sqrt());
    for (out, v) in column.iter_mut().zip(&work.line) {
        let v = turned(*v * scale);
        *out = [v.re, v.im];
    }
}

/// Transforms of blocks of one length, the last shorter.
pub(super) struct Blocks<P> {
    pub(super) block: usize,
    full: P,
    last: Option<P>,
}

impl<P> Blocks<P> {
    fn new(len: usize, block: usize, mut make: impl FnMut(usize) -> P) -> Self {
        let left = len % block;
        Self {
            block,
            full: make(block),
            last: (left > 0).then(|| make(left)),
        }
    }

    /// The transform of a block of `n`.
    pub(super) fn of(&self, n: usize) -> &P {
        match &self.last {
            Some(last) if n < self.block => last,
            _ => &self.full,
        }
    }
}

/// The transforms of one tensor in one number type.
pub(super) struct Plans<T: FftNum> {
    rows: Blocks<Line<T>>,
    /// Down the columns, for transforms of two dimensions.
    pub(super) columns: Option<Blocks<Column<T>>>,
}

impl<T: FftNum> std::fmt::Debug for Plans<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Plans")
    }
}

impl<T: FftNum> Plans<T> {
    /// For a matrix that is not empty.
    pub(super) fn new(shape: &super::layout::Geometry, mut planner: Planner<T>) -> Self {
        let basis = shape.basis;
        Self {
            rows: Blocks::new(shape.cols, shape.block_cols, |n| {
                Line::new(n, basis, &mut planner)
            }),
            columns: shape.two_dims.then(|| {
                Blocks::new(shape.rows, shape.block_rows, |n| {
                    Column::new(n, basis, &mut planner)
                })
            }),
        }
    }

    /// A row of coefficients from a row.
    pub(super) fn forward_row(&self, x: &[T], out: &mut [T], work: &mut Work<T>) {
        let width = self.rows.full.width();
        for (x, out) in x.chunks(self.rows.block).zip(out.chunks_mut(width)) {
            self.rows.of(x.len()).forward(x, out, work);
        }
    }

    /// A row from a row of coefficients: the inverse, and the transpose.
    pub(super) fn inverse_row(&self, c: &[T], out: &mut [T], work: &mut Work<T>) {
        let width = self.rows.full.width();
        for (c, out) in c.chunks(width).zip(out.chunks_mut(self.rows.block)) {
            // A block of which nothing was kept.
            if c.iter().all(T::is_zero) {
                out.fill(T::zero());
            } else {
                self.rows.of(out.len()).inverse(c, out, work);
            }
        }
    }

    /// Each block of a column of coefficients, in place; `values` numbers a coefficient.
    pub(super) fn forward_column(&self, column: &mut [T], values: usize, work: &mut Work<T>) {
        let Some(blocks) = &self.columns else { return };
        for block in column.chunks_mut(blocks.block * values) {
            blocks.of(block.len() / values).forward(block, work);
        }
    }

    /// The inverse of [`forward_column`](Self::forward_column).
    pub(super) fn inverse_column(&self, column: &mut [T], values: usize, work: &mut Work<T>) {
        let Some(blocks) = &self.columns else { return };
        for block in column.chunks_mut(blocks.block * values) {
            blocks.of(block.len() / values).inverse(block, work);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::layout::Geometry;
    use super::*;

    fn geometry(basis: Basis, rows: usize, cols: usize) -> Geometry {
        Geometry {
            basis,
            two_dims: true,
            rows,
            cols,
            block_rows: rows,
            block_cols: cols,
        }
    }

    fn samples(n: usize) -> Vec<f64> {
        (0..n)
            .map(|i| ((i * i * 7 + i) % 23) as f64 - 9.5)
            .collect()
    }

    #[test]
    fn rows_are_the_textbook_transforms() {
        for n in [1usize, 2, 3, 4, 5, 6, 7, 8, 12, 15, 16, 17, 31, 60, 97, 128] {
            let x = samples(n);
            let mut work = Work::default();
            for planner in [
                Planner::Scalar(FftPlannerScalar::new()),
                Planner::Fast(FftPlanner::new()),
            ] {
                let plans = Plans::new(&geometry(Basis::Dct, 1, n), planner);
                let mut c = vec![0.0; n];
                plans.forward_row(&x, &mut c, &mut work);
                for (k, c) in c.iter().enumerate() {
                    let sum: f64 = (0..n)
                        .map(|j| x[j] * (PI * (2 * j + 1) as f64 * k as f64 / (2 * n) as f64).cos())
                        .sum();
                    let scale = if k == 0 { 1.0 } else { 2.0 };
                    let expected = sum * (scale / n as f64).sqrt();
                    assert!((c - expected).abs() < 1e-10, "{n} {k}: {c} {expected}");
                }
                let mut back = vec![0.0; n];
                plans.inverse_row(&c, &mut back, &mut work);
                assert!(x.iter().zip(&back).all(|(a, b)| (a - b).abs() < 1e-10));
            }
            let plans = Plans::new(
                &geometry(Basis::Fft, 1, n),
                Planner::Scalar(FftPlannerScalar::new()),
            );
            let mut c = vec![9.0; n.next_multiple_of(2)];
            plans.forward_row(&x, &mut c, &mut work);
            let dft = |k: usize| {
                let term = |j: usize| 2.0 * PI * (j * k % n) as f64 / n as f64;
                let re: f64 = (0..n).map(|j| x[j] * term(j).cos()).sum();
                let im: f64 = (0..n).map(|j| -x[j] * term(j).sin()).sum();
                [re, im]
            };
            let scale = (1.0 / n as f64).sqrt();
            let middle = if n % 2 == 0 {
                dft(n / 2)[0] * scale
            } else {
                0.0
            };
            for (k, [re, im]) in c.as_chunks::<2>().0.iter().enumerate() {
                let [a, b] = match k {
                    0 => [dft(0)[0] * scale, middle],
                    k => dft(k).map(|v| v * scale * 2f64.sqrt()),
                };
                assert!((re - a).abs() < 1e-10 && (im - b).abs() < 1e-10, "{n} {k}");
            }
            let mut back = vec![0.0; n];
            plans.inverse_row(&c, &mut back, &mut work);
            assert!(x.iter().zip(&back).all(|(a, b)| (a - b).abs() < 1e-10));
        }
    }

    #[test]
    fn columns_are_unitary_and_come_back() {
        for (basis, values) in [(Basis::Dct, 1), (Basis::Fft, 2)] {
            for n in [1, 2, 3, 8, 11, 30] {
                let plans = Plans::new(
                    &geometry(basis, n, 1),
                    Planner::Scalar(FftPlannerScalar::new()),
                );
                let x = samples(n * values);
                let (mut c, mut work) = (x.clone(), Work::default());
                plans.forward_column(&mut c, values, &mut work);
                let norm = |v: &[f64]| v.iter().map(|v| v * v).sum::<f64>();
                assert!((norm(&c) - norm(&x)).abs() < 1e-9 * norm(&x));
                plans.inverse_column(&mut c, values, &mut work);
                assert!(x.iter().zip(&c).all(|(a, b)| (a - b).abs() < 1e-10));
            }
        }
    }
}
