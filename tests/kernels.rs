//! Every kernel set that this CPU can run, against naive references and against each other.
//!
//! Of the library only `kernel` may be used here: `tests/arm` runs this file with that alone.

// Reads best beside the layout's text, which speaks of rows and columns by number.
#![allow(clippy::needless_range_loop)]

#[path = "common/numbers.rs"]
mod common;

use common::{Kind, Rng, norm, weights};
use cortex::kernel::columns::Columns;
use cortex::kernel::ecq::{self, Chooser, Decoder, Paths};
use cortex::kernel::quant::{Layout, Quantizer, RUN_ROWS, Search, TILE_ROWS, store_codes};
use cortex::kernel::sparse::{INDEX_COLS, IndexRows, LANES, MaskRows};
use cortex::kernel::{self, KernelSet};
use half::{bf16, f16};

fn sets() -> Vec<&'static KernelSet> {
    let sets: Vec<_> = kernel::available().collect();
    assert!(sets.iter().any(|s| s.isa() == kernel::Isa::Portable));
    sets
}

#[test]
fn sets_come_best_first() {
    let isas: Vec<_> = sets().iter().map(|s| s.isa()).collect();
    assert!(isas.is_sorted_by(|a, b| a > b), "{isas:?}");
    for isa in &isas {
        assert!(isa.base().is_none_or(|b| isas.contains(&b)), "{isas:?}");
    }
    // Where it is known what the CPU has, nothing of it may go untested.
    if let Ok(expected) = std::env::var("CORTEX_EXPECTED_SET") {
        assert_eq!(isas[0].name(), expected);
    }
}

fn bits_of(v: &[f32]) -> Vec<u32> {
    v.iter().map(|v| v.to_bits()).collect()
}

/// Geometry of a tile in the words of the file format.
#[derive(Clone, Copy, Debug)]
struct Case {
    bits: u32,
    cols: usize,
    /// 0 for one scale for the whole tensor.
    group: usize,
    zeros: bool,
    search: Search,
}

impl Case {
    fn quantizer(&self, multiplier: f32, offset: f32) -> Quantizer {
        Quantizer {
            layout: Layout {
                bits: self.bits,
                cols: self.cols,
                group: if self.group == 0 {
                    self.cols
                } else {
                    self.group
                },
                scales: self.group != 0,
                zeros: self.zeros,
            },
            search: self.search,
            multiplier,
            offset: if self.zeros { offset } else { 0.0 },
        }
    }
}

/// What a stranger would write from the layout's description: `(s · c, z)` of every
/// value, multiplied out, in f64.
fn naive_decode(q: &Quantizer, scale_bytes: &[u8], tile: &[u8], rows: usize) -> Vec<(f64, f64)> {
    let Layout {
        bits,
        cols,
        group,
        scales,
        zeros,
    } = q.layout;
    let widths: &[u32] = match bits {
        8 => &[8],
        7 => &[4, 2, 1],
        6 => &[4, 2],
        5 => &[4, 1],
        4 => &[4],
        3 => &[2, 1],
        _ => &[2],
    };
    let half_at =
        |at: usize| f64::from(f16::from_le_bytes([scale_bytes[at], scale_bytes[at + 1]]).to_f32());
    let m = f64::from(q.multiplier);
    let mut out = vec![(0.0, 0.0); rows * cols];
    let (mut at, mut head) = (0, 0);
    for group_start in (0..cols).step_by(group) {
        let group_end = cols.min(group_start + group);
        let (mut s, mut z) = (vec![1.0; rows], vec![f64::from(q.offset); rows]);
        if scales {
            for s in &mut s {
                *s = half_at(head);
                head += 2;
            }
            for z in &mut z {
                *z = 0.0;
                if zeros {
                    *z = half_at(head);
                    head += 2;
                }
            }
        }
        for block_start in (group_start..group_end).step_by(32) {
            let c = (group_end - block_start).min(32);
            let mut codes = vec![vec![0u32; 64]; rows];
            let mut low = 0;
            for &p in widths {
                let n = c.div_ceil((32 / p) as usize);
                for j in 0..n {
                    for r in 0..rows {
                        for k in 0..4 {
                            let byte = u32::from(tile[at]);
                            at += 1;
                            for i in 0..(8 / p) as usize {
                                let field = byte >> (p * i as u32) & ((1 << p) - 1);
                                codes[r][4 * j + k + 4 * n * i] |= field << low;
                            }
                        }
                    }
                }
                low += p;
            }
            for r in 0..rows {
                for (i, u) in codes[r].iter().enumerate() {
                    let code = f64::from(*u) - f64::from(1u32 << (bits - 1));
                    if i < c {
                        out[r * cols + block_start + i] = (m * s[r] * code, m * z[r]);
                    } else {
                        // Fields past the last column that exist hold the code of zero.
                        let per_plane =
                            |p: &u32| 4 * c.div_ceil(32 / *p as usize) * 8 / *p as usize;
                        if widths.iter().all(|p| i < per_plane(p)) {
                            assert_eq!(code, 0.0, "padding of {q:?}");
                        }
                    }
                }
            }
        }
    }
    assert_eq!((head, at), (scale_bytes.len(), tile.len()), "{q:?}");
    out
}

/// Weights with groups of every odd kind among them.
fn tile_values(rows: usize, cols: usize, seed: u64) -> Vec<f32> {
    let mut rng = Rng::new(seed);
    let mut w = weights(Kind::Gaussian, rows, cols, seed);
    for row in w.chunks_mut(cols) {
        match rng.below(9) {
            0 => row.fill(0.0),
            1 => row.fill(-0.0),
            2 => row.iter_mut().step_by(2).for_each(|v| *v = 0.0),
            // Zeros of both signs.
            3 => {
                for v in row.iter_mut() {
                    *v = if rng.below(2) == 0 { 0.0 } else { -0.0 };
                }
            }
            4 => row.fill(0.31),
            5 => row.iter_mut().for_each(|v| *v *= 1e-6),
            6 => row.iter_mut().for_each(|v| *v = v.abs()),
            _ => {}
        }
    }
    w
}

fn columns() -> Vec<usize> {
    let mut all = vec![];
    for step in [4, 8, 16, 32, 64] {
        for near in [step - 1, step, step + 1] {
            all.push(near);
        }
    }
    all.extend([1, 2, 24, 33, 36, 40, 48, 69, 70, 127, 128, 129, 160, 200]);
    all.sort_unstable();
    all.dedup();
    all
}

#[test]
fn tiles_are_the_same_bytes_on_every_set_and_read_as_the_layout_says() {
    let sets = sets();
    let mut seed = 0;
    for cols in columns() {
        for bits in 2..=8 {
            for group in [32, 64, 128, cols, 0] {
                for zeros in [false, true] {
                    // The search only changes scales; fewer shapes do for it.
                    let searches: &[Search] = if cols % 8 == 1 || cols == 128 {
                        &[Search::AbsMax, Search::LeastSquares]
                    } else {
                        &[Search::AbsMax]
                    };
                    for &search in searches {
                        let case = Case {
                            bits,
                            cols,
                            group,
                            zeros,
                            search,
                        };
                        let all = 1..=TILE_ROWS;
                        let few = [1, 5, TILE_ROWS];
                        let rows: Vec<usize> = match search {
                            Search::AbsMax if group == 32 || group == cols => all.collect(),
                            _ => few.to_vec(),
                        };
                        for rows in rows {
                            seed += 1;
                            check_tile(&sets, case, rows, seed, &[]);
                            if search == Search::LeastSquares {
                                let h: Vec<f32> = (0..cols).map(column_weight).collect();
                                check_tile(&sets, case, rows, seed, &h);
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Weights of columns, some of them zero.
fn column_weight(col: usize) -> f32 {
    [1.0, 0.3, 0.0, 0.01, 0.7][col % 5]
}

fn check_tile(sets: &[&KernelSet], case: Case, rows: usize, seed: u64, weights: &[f32]) {
    let w = tile_values(rows, case.cols, seed);
    let (multiplier, offset) = match case.group {
        // What an encoder would take for these values, about.
        0 => (0.1 / (1 << (case.bits - 1)) as f32, 0.75),
        _ => (2f32.powi(-16), 0.0),
    };
    let q = case.quantizer(multiplier, offset);
    let len = rows * q.layout.code_row_bytes();
    let scale_len = rows * q.layout.scale_row_bytes();
    let (mut scales, mut tile) = (vec![0u8; scale_len], vec![0u8; len]);
    let mut decoded = vec![0.0f32; w.len()];
    for (i, set) in sets.iter().enumerate() {
        // Poisoned, so that every byte must have been written.
        let poison = [0x5a, 0xa5, 0xff][i % 3];
        let (mut mine, mut heads) = (vec![poison; len], vec![poison; scale_len]);
        set.quant_encode(&q, &w, weights, rows, &mut heads, &mut mine);
        let mut out = vec![f32::NAN; w.len()];
        set.quant_decode(&q, &heads, &mine, rows, &mut out);
        if i == 0 {
            (scales, tile, decoded) = (heads, mine, out);
            continue;
        }
        let isa = set.isa().name();
        assert!(
            scales == heads && tile == mine,
            "{case:?} rows {rows} encoded by {isa}"
        );
        assert_eq!(
            bits_of(&decoded),
            bits_of(&out),
            "{case:?} rows {rows} decoded by {isa}"
        );
    }
    // Codes chosen one by one and laid out are the encoder's own.
    let mut codes = vec![0u8; w.len()];
    for (i, code) in codes.iter_mut().enumerate() {
        let (row, col) = (i / case.cols, i % case.cols);
        let grid = q.grid(&scales, rows, col / q.layout.group, row);
        *code = grid.code(w[i] * q.unit());
        let value = f64::from(grid.value(*code)) / f64::from(q.unit());
        assert!((value - f64::from(decoded[i])).abs() <= value.abs() * 1e-6);
    }
    let mut laid_out = vec![0x77; len];
    store_codes(&q.layout, &codes, rows, &mut laid_out);
    assert!(laid_out == tile, "{case:?} rows {rows} laid out");
    for (i, ((sc, z), found)) in naive_decode(&q, &scales, &tile, rows)
        .iter()
        .zip(&decoded)
        .enumerate()
    {
        // Two roundings to f32.
        let bound = (sc.abs() + z.abs()) * f64::from(f32::EPSILON);
        assert!(
            (sc + z - f64::from(*found)).abs() <= bound,
            "{case:?} rows {rows} value {i}: {found}, the layout says {sc} + {z}"
        );
    }
}

#[test]
fn tiles_add_what_their_values_do() {
    let mut rng = Rng::new(8);
    let groups = |cols: usize| [32, 64, cols, 0].map(move |group| (cols, group));
    for (cols, group) in [1, 31, 33, 64, 70, 161].into_iter().flat_map(groups) {
        for (bits, zeros) in (2..=8).flat_map(|bits| [(bits, false), (bits, true)]) {
            let search = Search::AbsMax;
            let case = Case {
                bits,
                cols,
                group,
                zeros,
                search,
            };
            let (multiplier, offset) = match group {
                0 => (0.1 / (1 << (bits - 1)) as f32, 0.75),
                _ => (2f32.powi(-16), 0.0),
            };
            let q = case.quantizer(multiplier, offset);
            let tiles = 1 + rng.below(11);
            let (rows, batch) = (tiles * TILE_ROWS, 1 + rng.below(3));
            let tile_bytes = TILE_ROWS * q.layout.code_row_bytes();
            let head_bytes = TILE_ROWS * q.layout.scale_row_bytes();
            let (mut codes, mut scales, mut w) = (vec![], vec![], vec![]);
            for tile in 0..tiles {
                let (mut body, mut heads) = (vec![0; tile_bytes], vec![0; head_bytes]);
                let values = tile_values(TILE_ROWS, cols, (cols + tile) as u64);
                kernel::best().quant_encode(&q, &values, &[], TILE_ROWS, &mut heads, &mut body);
                w.extend(naive_decode(&q, &heads, &body, TILE_ROWS));
                codes.extend(body);
                scales.extend(heads);
            }
            // More factors than rows: of a matrix that goes on.
            let stride = rows + 5;
            let g = gaussians(&mut rng, batch * stride);
            let before = gaussians(&mut rng, batch * cols);
            for set in sets() {
                let what = format!("{} {case:?} {tiles} tiles × {batch}", set.isa().name());
                let mut whole = before.clone();
                let mut y = Columns::new(&mut whole, cols);
                set.quant_add(&q, &scales, &codes, 0, &g, stride, &mut y);
                for (i, found) in whole.iter().enumerate() {
                    let (b, k) = (i / cols, i % cols);
                    let mut sum = f64::from(before[i]);
                    let mut size = sum.abs();
                    for r in 0..rows {
                        let g = f64::from(g[b * stride + r]);
                        let (sc, z) = w[r * cols + k];
                        sum += g * (sc + z);
                        size += (g * sc).abs() + (g * z).abs();
                    }
                    // Scale, factor and product; zeros and tiles of a run; lanes; runs.
                    let roundings = 3 + 8 + 4 + tiles.div_ceil(4);
                    assert!(
                        (f64::from(*found) - sum).abs() <= gamma(roundings) * size,
                        "{what}: {found} for {sum}"
                    );
                }
                // The same bits by windows of rows and panels of columns.
                let mut cut = before.clone();
                for first in (0..rows).step_by(RUN_ROWS) {
                    let run = first / TILE_ROWS..tiles.min((first + RUN_ROWS) / TILE_ROWS);
                    let codes = &codes[run.start * tile_bytes..run.end * tile_bytes];
                    let scales = &scales[run.start * head_bytes..run.end * head_bytes];
                    let mut left = Columns::new(&mut cut, cols);
                    for col in (0..cols).step_by(32) {
                        let mut panel = left.take_front(32);
                        set.quant_add(&q, scales, codes, col, &g[first..], stride, &mut panel);
                    }
                }
                assert_eq!(bits_of(&cut), bits_of(&whole), "{what}");
            }
        }
    }
}

#[test]
fn encoded_values_are_within_half_a_step() {
    for set in sets() {
        for bits in 2..=8 {
            for zeros in [false, true] {
                let case = Case {
                    bits,
                    cols: 70,
                    group: 32,
                    zeros,
                    search: Search::AbsMax,
                };
                let q = case.quantizer(2f32.powi(-16), 0.0);
                let w = weights(Kind::Gaussian, 16, 70, 5);
                let mut scales = vec![0u8; 16 * q.layout.scale_row_bytes()];
                let mut tile = vec![0u8; 16 * q.layout.code_row_bytes()];
                set.quant_encode(&q, &w, &[], 16, &mut scales, &mut tile);
                let mut out = vec![0.0; w.len()];
                set.quant_decode(&q, &scales, &tile, 16, &mut out);
                for (row, out) in w.chunks(70).zip(out.chunks(70)) {
                    for (g, out) in row.chunks(32).zip(out.chunks(32)) {
                        let (lo, hi) = g
                            .iter()
                            .fold((f32::MAX, f32::MIN), |(a, b), v| (a.min(*v), b.max(*v)));
                        let levels = (1 << bits) as f32;
                        // The symmetric range has one code less on the side that the
                        // extreme is not on.
                        let step = match zeros {
                            true => (hi - lo) / (levels - 1.0),
                            false => 2.0 * hi.max(-lo) / levels * 2.0,
                        };
                        for (a, b) in g.iter().zip(out) {
                            // Half a step, and what f16 rounds off scale and zero.
                            let bound = 0.5 * step + hi.max(-lo) * 2.0 / 1024.0;
                            assert!((a - b).abs() <= bound, "{case:?}: {a} became {b}");
                        }
                    }
                }
            }
        }
    }
}

/// Wherever weights, scales and activations begin, and however many rows there are.
#[test]
fn tiles_are_multiplied_alike_at_every_address() {
    use cortex::kernel::dot::{Activations, Rounded, Rounding, Tiles};
    let mut rng = Rng::new(71);
    let (cols, group) = (192, 64);
    for bits in 2..=8 {
        let case = Case {
            bits,
            cols,
            group,
            zeros: bits % 2 == 0,
            search: Search::AbsMax,
        };
        let q = case.quantizer(2f32.powi(-16), 0.0);
        let w = tile_values(TILE_ROWS, cols, rng.next());
        let mut scales = vec![0u8; TILE_ROWS * q.layout.scale_row_bytes()];
        let mut codes = vec![0u8; TILE_ROWS * q.layout.code_row_bytes()];
        kernel::best().quant_encode(&q, &w, &[], TILE_ROWS, &mut scales, &mut codes);
        let batch = 13;
        let x: Vec<f32> = (0..batch * cols).map(|_| rng.gaussian()).collect();
        let mut expected: Option<Vec<u32>> = None;
        for set in sets() {
            let most = set.dot_batch();
            let groups = cols / group;
            let mut found = vec![Rounded::default(); batch];
            let (mut x_codes, mut x_scales, mut offsets) = (
                vec![0i8; batch * cols],
                vec![0.0f32; batch * groups],
                vec![0i32; batch * groups],
            );
            let mut to = Rounding {
                group,
                width: cols,
                digits: 1,
                half: q.layout.half(),
                most,
                codes: &mut x_codes,
                scales: &mut x_scales,
                offsets: &mut offsets,
            };
            set.round_activations(&x, cols, &mut to, &mut found);
            assert!(found.iter().all(|f| f.finite));
            for shift in [0, 1, 2, 3, 4, 8, 16, 31, 33, 63] {
                let moved = |bytes: &[u8]| [vec![0x5a; shift], bytes.to_vec()].concat();
                let (codes, scales) = (moved(&codes), moved(&scales));
                let x_codes = [vec![0x5a; shift], x_codes.clone()].concat();
                let x = Activations {
                    rows: batch,
                    cols,
                    group,
                    codes: &x_codes[shift..],
                    scales: &x_scales,
                    offsets: &offsets,
                };
                let tiles = Tiles::stored(&q, &scales[shift..], &codes[shift..]);
                let mut out = vec![[0.0f32; TILE_ROWS]; batch];
                set.dot_tiles(&tiles, &x, &mut out);
                let bits = bits_of(out.as_flattened());
                match &expected {
                    Some(e) => assert_eq!(*e, bits, "{case:?} {:?} at {shift}", set.isa()),
                    None => expected = Some(bits),
                }
            }
        }
    }
}

/// Weights as a dense kernel reads them, between numbers that are not there: NaN in front of
/// and behind the matrix, which begins at any place in a line.
struct Stored {
    floats: Vec<f32>,
    bf16: Vec<u16>,
    f16: Vec<u16>,
    /// Where the matrix begins and ends.
    range: std::ops::Range<usize>,
}

impl Stored {
    fn new(w: &[f32], offset: usize) -> Self {
        let range = offset..offset + w.len();
        let mut floats = vec![f32::NAN; range.end + 40];
        floats[range.clone()].copy_from_slice(w);
        Self {
            bf16: floats
                .iter()
                .map(|v| bf16::from_f32(*v).to_bits())
                .collect(),
            f16: floats.iter().map(|v| f16::from_f32(*v).to_bits()).collect(),
            floats,
            range,
        }
    }

    /// The values of a type, as f64.
    fn values(&self, kernel: Dense) -> Vec<f64> {
        let range = self.range.clone();
        match kernel {
            Dense::Bf16 | Dense::Rounded => self.bf16[range]
                .iter()
                .map(|v| bf16::from_bits(*v).to_f64())
                .collect(),
            Dense::F16 => self.f16[range]
                .iter()
                .map(|v| f16::from_bits(*v).to_f64())
                .collect(),
            _ => self.floats[range].iter().map(|v| f64::from(*v)).collect(),
        }
    }
}

/// The kernels for `x · Wᵀ`.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Dense {
    Plain,
    Packed,
    Bf16,
    F16,
    /// Weights and activations in bf16.
    Rounded,
}

impl Dense {
    const ALL: [Self; 5] = [
        Self::Plain,
        Self::Packed,
        Self::Bf16,
        Self::F16,
        Self::Rounded,
    ];

    /// `out[batch, rows.len()]` for rows of the matrix.
    fn run(
        self,
        set: &KernelSet,
        w: &Stored,
        rows: std::ops::Range<usize>,
        x: &[f32],
        cols: usize,
        batch: usize,
    ) -> Vec<f32> {
        let n = rows.len();
        let at = w.range.start + rows.start * cols..w.range.start + rows.end * cols;
        let mut out = vec![f32::NAN; batch * n];
        if self == Self::Plain {
            set.dense_matmul(&w.floats[at], x, cols, &mut out);
            return out;
        }
        let mut packed;
        if self == Self::Rounded {
            packed = vec![f32::NAN; set.rounded_packed_len(batch, cols)];
            set.rounded_pack(x, cols, &mut packed);
        } else {
            packed = vec![f32::NAN; set.dense_packed_len(batch, cols)];
            set.dense_pack(x, cols, &mut packed);
        }
        let mut to = Columns::new(&mut out, n);
        match self {
            Self::Bf16 => set.bf16_matmul_packed(&w.bf16[at], &packed, cols, &mut to),
            Self::F16 => set.f16_matmul_packed(&w.f16[at], &packed, cols, &mut to),
            Self::Rounded => set.rounded_matmul_packed(&w.bf16[at], &packed, cols, &mut to),
            _ => set.dense_matmul_packed(&w.floats[at], &packed, cols, &mut to),
        }
        out
    }
}

/// What `n` roundings, one after the other, add to a sum of products at most, as a share of
/// the sum of their sizes (Higham, Accuracy and Stability of Numerical Algorithms, 3.1).
fn gamma(n: usize) -> f64 {
    let nu = n as f64 * 2f64.powi(-24);
    nu / (1.0 - nu)
}

/// No product is rounded more often than there are columns, but for its own rounding and for
/// the lanes and turns that are added at the end.
fn roundings(terms: usize) -> usize {
    terms + 8
}

/// Every kernel of every set on one shape, against sums in f64.
fn check_dense(rng: &mut Rng, rows: usize, cols: usize, batch: usize) {
    let w = Stored::new(&gaussians(rng, rows * cols), (rows + 3 * cols + batch) % 19);
    let x = gaussians(rng, batch * cols);
    for kernel in Dense::ALL {
        let wide = w.values(kernel);
        // What rounding the activations adds, and what is rounded afterwards.
        let rounded: Vec<f64> = match kernel {
            Dense::Rounded => x.iter().map(|v| bf16::from_f32(*v).to_f64()).collect(),
            _ => x.iter().map(|v| f64::from(*v)).collect(),
        };
        let mut expected = vec![(0.0, 0.0); batch * rows];
        for b in 0..batch {
            for r in 0..rows {
                let (mut sum, mut size) = (0.0, 0.0);
                for k in 0..cols {
                    let product = wide[r * cols + k] * rounded[b * cols + k];
                    sum += product;
                    size += product.abs();
                }
                expected[b * rows + r] = (sum, size);
            }
        }
        for set in sets() {
            let found = kernel.run(set, &w, 0..rows, &x, cols, batch);
            for (i, (found, (sum, size))) in found.iter().zip(&expected).enumerate() {
                let bound = gamma(roundings(cols)) * size;
                assert!(
                    (f64::from(*found) - sum).abs() <= bound,
                    "{} {kernel:?} [{rows}, {cols}] × {batch}, output {i}: {found} for {sum}",
                    set.isa().name()
                );
            }
        }
    }
}

#[test]
fn dense_products_of_every_length_and_batch() {
    let mut rng = Rng::new(5);
    for cols in 0..=70 {
        for (i, batch) in (1..=20).chain(63..=65).enumerate() {
            check_dense(&mut rng, 1 + (cols + i) % 15, cols, batch);
        }
    }
    // Around the edges of blocks of columns, of groups of rows, of panels.
    for (rows, cols, batch) in [
        (5, 127, 33),
        (13, 128, 64),
        (7, 129, 65),
        (9, 257, 31),
        (70, 513, 40),
        (6, 1023, 4),
        (19, 1025, 17),
        (3, 1026, 129),
        (14, 2049, 64),
        (8, 4100, 3),
        (5, 8200, 7),
        (5, 9001, 13),
        (3, 70_001, 1),
        (259, 65, 64),
        (1030, 37, 9),
        (1030, 33, 1),
        (513, 21, 5),
        (130, 40, 200),
    ] {
        check_dense(&mut rng, rows, cols, batch);
    }
}

#[test]
fn a_row_gives_the_same_bits_in_every_window() {
    let mut rng = Rng::new(6);
    for (rows, cols, batch) in [
        (40, 50, 1),
        (40, 50, 3),
        (41, 130, 8),
        (37, 1025, 9),
        (64, 300, 17),
        (70, 300, 33),
        (70, 257, 64),
        (33, 200, 100),
        (20, 65, 256),
    ] {
        let w = Stored::new(&gaussians(&mut rng, rows * cols), 3);
        let x = gaussians(&mut rng, batch * cols);
        for set in sets() {
            for kernel in Dense::ALL {
                let what = format!("{} {kernel:?} [{rows}, {cols}] × {batch}", set.isa().name());
                let whole = kernel.run(set, &w, 0..rows, &x, cols, batch);
                for window in [1, 2, 5, 6, 16, 31] {
                    for first in (0..rows).step_by(window) {
                        let range = first..rows.min(first + window);
                        let n = range.len();
                        let part = kernel.run(set, &w, range, &x, cols, batch);
                        for b in 0..batch {
                            assert!(
                                bits_of(&part[b * n..(b + 1) * n])
                                    == bits_of(&whole[b * rows + first..][..n]),
                                "{what} in windows of {window}"
                            );
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn what_is_not_finite_stays_in_its_outputs() {
    let mut rng = Rng::new(7);
    for (rows, cols, batch) in [
        (7, 1, 1),
        (9, 33, 2),
        (13, 40, 5),
        (5, 70, 12),
        (20, 35, 70),
    ] {
        for (special, at) in [
            (f32::NAN, 0),
            (f32::INFINITY, cols - 1),
            (f32::NEG_INFINITY, cols / 2),
        ] {
            let mut w: Vec<f32> = (0..rows * cols)
                .map(|_| rng.gaussian().abs() + 0.1)
                .collect();
            let mut x: Vec<f32> = (0..batch * cols)
                .map(|_| rng.gaussian().abs() + 0.1)
                .collect();
            let (bad_row, bad_batch) = (rows / 2, batch / 2);
            w[bad_row * cols + at] = special;
            x[bad_batch * cols + at] = special;
            let stored = Stored::new(&w, 1);
            for set in sets() {
                for kernel in Dense::ALL {
                    let out = kernel.run(set, &stored, 0..rows, &x, cols, batch);
                    for (i, v) in out.iter().enumerate() {
                        let (b, r) = (i / rows, i % rows);
                        let what = format!("{} {kernel:?} {special} at {b}, {r}", set.isa().name());
                        match (b == bad_batch) as u32 + (r == bad_row) as u32 {
                            0 => assert!(v.is_finite(), "{what}: {v}"),
                            // Infinity times infinity has a sign of its own.
                            n if special.is_nan() => assert!(v.is_nan(), "{what}: {v} {n}"),
                            1 => assert_eq!(*v, special, "{what}"),
                            _ => assert_eq!(*v, f32::INFINITY, "{what}"),
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn every_half_is_widened_to_its_value() {
    // Products with one, and with the zeros of the columns that are padded.
    let bits: Vec<u16> = (0..=u16::MAX).collect();
    for set in sets() {
        let cols = 1;
        let mut packed = vec![0.0; set.dense_packed_len(1, cols)];
        set.dense_pack(&[1.0], cols, &mut packed);
        let mut out = vec![0.0f32; bits.len()];
        set.f16_matmul_packed(
            &bits,
            &packed,
            cols,
            &mut Columns::new(&mut out, bits.len()),
        );
        for (bits, v) in bits.iter().zip(&out) {
            let expected = f16::from_bits(*bits).to_f32();
            assert!(
                *v == expected || (v.is_nan() && expected.is_nan()),
                "{}: {bits:#x} is {expected}, not {v}",
                set.isa().name()
            );
        }
        set.bf16_matmul_packed(
            &bits,
            &packed,
            cols,
            &mut Columns::new(&mut out, bits.len()),
        );
        for (bits, v) in bits.iter().zip(&out) {
            let expected = bf16::from_bits(*bits).to_f32();
            assert!(
                *v == expected || (v.is_nan() && expected.is_nan()),
                "{}: {bits:#x} is {expected}, not {v}",
                set.isa().name()
            );
        }
    }
}

#[test]
fn transposed_products_add_row_by_row() {
    let mut rng = Rng::new(8);
    let batches = (1..=20).chain(63..=65);
    let mut shapes: Vec<_> = (0..=70)
        .flat_map(|rows| {
            batches
                .clone()
                .map(move |b| (rows, 1 + (rows + 7 * b) % 71, b))
        })
        .collect();
    shapes.extend([
        (95, 767, 17),
        (97, 769, 18),
        (200, 100, 33),
        (193, 1600, 25),
        (300, 65, 5),
        (100, 16, 130),
    ]);
    for (rows, cols, batch) in shapes {
        let offset = (rows + cols) % 17;
        let mut w = vec![f32::NAN; offset + rows * cols + 40];
        let range = offset..offset + rows * cols;
        w[range.clone()].copy_from_slice(&gaussians(&mut rng, rows * cols));
        let w = &w[range];
        // More factors than rows: of a matrix that goes on.
        let (stride, first) = (rows + 5, 2);
        let g = gaussians(&mut rng, batch * stride);
        let before = gaussians(&mut rng, batch * cols);
        for set in sets() {
            let what = format!("{} [{rows}, {cols}] × {batch}", set.isa().name());
            let mut memory = Vec::new();
            let mut whole = before.clone();
            set.dense_matmul_t(
                w,
                cols,
                0,
                &g[first..],
                stride,
                &mut Columns::new(&mut whole, cols),
                Some(&mut memory),
            );
            for b in 0..batch {
                for k in 0..cols {
                    let mut sum = f64::from(before[b * cols + k]);
                    let mut size = sum.abs();
                    for r in 0..rows {
                        let product =
                            f64::from(g[b * stride + first + r]) * f64::from(w[r * cols + k]);
                        sum += product;
                        size += product.abs();
                    }
                    let found = whole[b * cols + k];
                    assert!(
                        (f64::from(found) - sum).abs() <= gamma(roundings(rows)) * size,
                        "{what}: {found} for {sum}"
                    );
                }
            }
            // Windows of rows, and panels of columns, as threads take them.
            let mut parts = before.clone();
            let step = 1 + rows / 3;
            for from in (0..rows).step_by(step) {
                let to = rows.min(from + step);
                let mut left = Columns::new(&mut parts, cols);
                let mut col = 0;
                loop {
                    let mut panel = left.take_front(cols / 2 + 1);
                    if panel.cols() == 0 {
                        break;
                    }
                    let width = panel.cols();
                    set.dense_matmul_t(
                        &w[from * cols..to * cols],
                        cols,
                        col,
                        &g[first + from..],
                        stride,
                        &mut panel,
                        Some(&mut memory),
                    );
                    col += width;
                }
            }
            assert!(bits_of(&parts) == bits_of(&whole), "{what} in windows");
        }
    }
}

#[test]
fn small_products_are_sums_in_order_however_they_are_cut() {
    let mut rng = Rng::new(12);
    let inners = (1..=33).chain([64, 127, 128, 129, 300]);
    let mut shapes: Vec<_> = inners
        .enumerate()
        .flat_map(|(i, inner)| {
            (0..8).map(move |j| (1 + (i + 5 * j) % 27, inner, 1 + (3 * i + 11 * j) % 83))
        })
        .collect();
    // Blocks of words of every set: 128, 512 and 1024.
    shapes.extend([(7, 1100, 9), (13, 513, 17), (5, 257, 130), (64, 1024, 64)]);
    for (rows, inner, cols) in shapes {
        let a = gaussians(&mut rng, rows * inner);
        let b = gaussians(&mut rng, inner * cols);
        for set in sets() {
            let what = format!("{} [{rows}, {inner}] · [{inner}, {cols}]", set.isa().name());
            let mut whole = vec![f32::NAN; rows * cols];
            set.dense_product(&a, inner, &b, cols, &mut whole);
            for (at, found) in whole.iter().enumerate() {
                let (r, c) = (at / cols, at % cols);
                let (mut sum, mut size) = (0.0, 0.0);
                for k in 0..inner {
                    let product = f64::from(a[r * inner + k]) * f64::from(b[k * cols + c]);
                    sum += product;
                    size += product.abs();
                }
                assert!(
                    (f64::from(*found) - sum).abs() <= gamma(roundings(inner)) * size,
                    "{what}: {found} for {sum}"
                );
            }
            // Rows, and columns, by themselves.
            let r = rows / 2;
            let mut some = vec![f32::NAN; (rows - r) * cols];
            set.dense_product(&a[r * inner..], inner, &b, cols, &mut some);
            assert!(
                bits_of(&some) == bits_of(&whole[r * cols..]),
                "{what} by rows"
            );
            let (c, n) = (cols / 3, cols.div_ceil(2));
            let part = |all: &[f32]| -> Vec<f32> {
                all.chunks(cols)
                    .flat_map(|row| row[c..c + n].to_vec())
                    .collect()
            };
            let mut some = vec![f32::NAN; rows * n];
            set.dense_product(&a, inner, &part(&b), n, &mut some);
            assert!(
                bits_of(&some) == bits_of(&part(&whole)),
                "{what} by columns"
            );
        }
    }
    for set in sets() {
        let mut out = [f32::NAN; 6];
        set.dense_product(&[], 0, &[], 3, &mut out);
        assert_eq!(out, [0.0; 6]);
    }
}

/// Random sparse rows in both ways, with nothing behind what they hold.
struct SparseCase {
    rows: usize,
    cols: usize,
    bits: Box<[u8]>,
    bounds: Vec<u32>,
    indices: Box<[u16]>,
    values: Box<[f32]>,
    dense: Vec<f32>,
}

impl SparseCase {
    fn new(rng: &mut Rng, rows: usize, cols: usize, density: f64) -> Self {
        let stride = cols.div_ceil(8);
        let mut bits = vec![0u8; rows * stride];
        let mut dense = vec![0.0f32; rows * cols];
        let (mut bounds, mut indices, mut values) = (vec![0], Vec::new(), Vec::new());
        for r in 0..rows {
            for c in 0..cols {
                if rng.uniform() < density {
                    bits[r * stride + c / 8] |= 1 << (c % 8);
                    dense[r * cols + c] = rng.gaussian();
                    values.push(dense[r * cols + c]);
                    indices.push(c as u16);
                }
            }
            bounds.push(values.len() as u32);
        }
        Self {
            rows,
            cols,
            bits: bits.into(),
            bounds,
            indices: indices.into(),
            values: values.into(),
            dense,
        }
    }

    fn mask(&self) -> MaskRows<'_> {
        MaskRows {
            bits: &self.bits,
            cols: self.cols,
            values: &self.values,
        }
    }

    fn lists(&self) -> IndexRows<'_> {
        IndexRows {
            bounds: &self.bounds,
            indices: &self.indices,
            cols: self.cols,
            values: &self.values,
        }
    }

    fn is_set(&self, row: usize, col: usize) -> bool {
        self.bits[row * self.cols.div_ceil(8) + col / 8] >> (col % 8) & 1 == 1
    }

    /// `Σ w · x` of a row and how far from it a sum in f32 of any order may be: each product
    /// and each of the fewer than `terms + 8` additions rounds by 2⁻²⁴ of what it gives at
    /// most (Higham 2002, section 3.1; the last 8 are those of chains and lanes).
    fn row_sum(&self, row: usize, start: f32, x: impl Fn(usize) -> f32) -> (f64, f64) {
        let (mut sum, mut size, mut terms) = (f64::from(start), f64::from(start.abs()), 0);
        for c in (0..self.cols).filter(|c| self.is_set(row, *c)) {
            let p = f64::from(self.dense[row * self.cols + c]) * f64::from(x(c));
            (sum, size, terms) = (sum + p, size + p.abs(), terms + 1);
        }
        (sum, f64::from(terms + 9) * 2f64.powi(-24) * size)
    }

    /// The same of a column with `g` of the rows.
    fn col_sum(&self, col: usize, start: f32, g: impl Fn(usize) -> f32) -> (f64, f64) {
        let (mut sum, mut size, mut terms) = (f64::from(start), f64::from(start.abs()), 0);
        for r in (0..self.rows).filter(|r| self.is_set(*r, col)) {
            let p = f64::from(self.dense[r * self.cols + col]) * f64::from(g(r));
            (sum, size, terms) = (sum + p, size + p.abs(), terms + 1);
        }
        (sum, f64::from(terms + 9) * 2f64.powi(-24) * size)
    }
}

fn assert_near(found: f32, (expected, bound): (f64, f64), what: &dyn Fn() -> String) {
    assert!(
        (f64::from(found) - expected).abs() <= bound,
        "{}: {found} for {expected} ± {bound:e}",
        what()
    );
}

fn gaussians(rng: &mut Rng, n: usize) -> Vec<f32> {
    (0..n).map(|_| rng.gaussian()).collect()
}

const DENSITIES: [f64; 6] = [0.0, 0.01, 0.1, 0.5, 0.99, 1.0];

#[test]
fn masks_are_counted_opened_and_listed() {
    let mut rng = Rng::new(23);
    for cols in (0..=140usize).chain([255, 256, 257, 1000]) {
        for density in DENSITIES {
            let case = SparseCase::new(&mut rng, 1, cols, density);
            let n = case.values.len();
            for set in sets() {
                let what = format!("{} cols {cols} density {density}", set.isa().name());
                assert_eq!(set.mask_count(&case.bits), n, "{what}");
                let mut out = vec![f32::NAN; cols];
                assert_eq!(set.mask_expand_row(&case.bits, &case.values, &mut out), n);
                assert_eq!(bits_of(&out), bits_of(&case.dense), "{what}");
                for room in [n, n + 1, n + 100] {
                    let mut list = vec![u16::MAX; room];
                    assert_eq!(set.mask_list(&case.bits, &mut list), n, "{what}");
                    assert_eq!(list[..n], case.indices[..], "{what}");
                }
                assert!(
                    set.index_ascend(&case.bounds, &case.indices, cols),
                    "{what}"
                );
            }
        }
    }
}

#[test]
fn lists_that_do_not_rise_are_told() {
    let mut rng = Rng::new(29);
    let case = SparseCase::new(&mut rng, 9, 300, 0.4);
    for set in sets() {
        let good = |bounds: &[u32], list: &[u16], cols| set.index_ascend(bounds, list, cols);
        assert!(good(&case.bounds, &case.indices, 300));
        assert!(good(&case.bounds[2..6], &case.indices, 300));
        assert!(good(&[], &[], 0) && good(&[0, 0], &[], 1));
        // Equal neighbours, and falling ones, at every place but the first of a row.
        for i in 1..case.indices.len() {
            let first = case.bounds.contains(&(i as u32));
            for to in [0, 1] {
                let mut list = case.indices.to_vec();
                list[i] = list[i - 1].saturating_sub(to);
                assert!(first || !good(&case.bounds, &list, 300), "{i} {to}");
            }
        }
        let last = *case.indices.iter().max().unwrap();
        assert!(!good(&case.bounds, &case.indices, last.into()));
        let n = case.indices.len();
        assert!(!good(&case.bounds, &case.indices[..n - 1], 300));
        let mut bounds = case.bounds.clone();
        bounds.swap(3, 4);
        assert!(!good(&bounds, &case.indices, 300));
    }
}

#[test]
fn sparse_rows_times_vectors_are_within_the_bound() {
    let mut rng = Rng::new(31);
    for cols in (1..=20usize).chain([31, 33, 63, 64, 65, 127, 128, 129, 300, 700]) {
        for density in DENSITIES {
            for rows in [1, 2, 3, 7, 12] {
                let case = SparseCase::new(&mut rng, rows, cols, density);
                // Aligned, and not.
                for (batch, skip) in [
                    (1, 0),
                    (1, 1),
                    (2, 2),
                    (3, 3),
                    (4, 0),
                    (7, 5),
                    (8, 1),
                    (17, 7),
                ] {
                    let stride = cols + skip;
                    let mut x = gaussians(&mut rng, skip + batch * stride);
                    let at = |b: usize, c: usize| skip + b * stride + c;
                    for b in 0..batch {
                        // What no row takes must not count.
                        for c in (0..cols).filter(|c| (0..rows).all(|r| !case.is_set(r, *c))) {
                            x[at(b, c)] = [f32::NAN, f32::INFINITY][c % 2];
                        }
                    }
                    for set in sets() {
                        let mut out = vec![f32::NAN; batch * rows];
                        set.mask_dot(
                            &case.mask(),
                            &x[skip..skip + batch * stride - skip],
                            stride,
                            &mut out,
                        );
                        for (i, y) in out.iter().enumerate() {
                            let (b, r) = (i / rows, i % rows);
                            assert_near(*y, case.row_sum(r, 0.0, |c| x[at(b, c)]), &|| {
                                format!(
                                    "{} cols {cols} density {density} batch {batch}",
                                    set.isa().name()
                                )
                            });
                        }
                    }
                }
                let mut x = vec![f32::NAN; INDEX_COLS];
                x[..cols].copy_from_slice(&gaussians(&mut rng, cols));
                let x: &[f32; INDEX_COLS] = x[..].try_into().unwrap();
                for set in sets() {
                    let mut out = vec![f32::NAN; rows];
                    set.index_dot(&case.lists(), x, &mut out);
                    for (r, y) in out.iter().enumerate() {
                        assert_near(*y, case.row_sum(r, 0.0, |c| x[c]), &|| {
                            format!("{} list cols {cols} density {density}", set.isa().name())
                        });
                    }
                }
            }
        }
    }
}

#[test]
fn sparse_rows_times_panels_are_within_the_bound() {
    let mut rng = Rng::new(37);
    for cols in [1, 7, 8, 9, 63, 64, 65, 127, 128, 129, 257, 600, 1100] {
        for density in DENSITIES {
            for rows in [1, 2, 5] {
                let case = SparseCase::new(&mut rng, rows, cols, density);
                for lanes in LANES {
                    let skip = cols % 3;
                    let mut panel = gaussians(&mut rng, skip + cols * lanes);
                    for c in (0..cols).filter(|c| (0..rows).all(|r| !case.is_set(r, *c))) {
                        panel[skip + c * lanes..][..lanes].fill(f32::NAN);
                    }
                    let panel = &panel[skip..];
                    for set in sets() {
                        let mut all = vec![vec![f32::NAN; rows * lanes]; 3];
                        set.mask_panel(&case.mask(), panel, lanes, &mut all[0]);
                        set.index_panel(&case.lists(), panel, lanes, 64, &mut all[1]);
                        set.index_panel(&case.lists(), panel, lanes, 1 << 16, &mut all[2]);
                        for (way, sums) in all.iter().enumerate() {
                            for (i, sum) in sums.iter().enumerate() {
                                let expected =
                                    case.row_sum(i / lanes, 0.0, |c| panel[c * lanes + i % lanes]);
                                assert_near(*sum, expected, &|| {
                                    let isa = set.isa().name();
                                    format!(
                                        "{isa} way {way} cols {cols} density {density} lanes {lanes}"
                                    )
                                });
                            }
                        }
                        // A row alone is the same row.
                        let mut one = vec![f32::NAN; lanes];
                        let first = case.bounds[1] as usize;
                        let m = MaskRows {
                            bits: &case.bits[..cols.div_ceil(8)],
                            values: &case.values[..first],
                            ..case.mask()
                        };
                        set.mask_panel(&m, panel, lanes, &mut one);
                        assert_eq!(bits_of(&one), bits_of(&all[0][..lanes]));
                    }
                }
            }
        }
    }
}

#[test]
fn transposed_sparse_rows_are_within_the_bound() {
    let mut rng = Rng::new(41);
    for cols in [1, 7, 8, 9, 63, 64, 65, 128, 129, 300, 700] {
        for density in DENSITIES {
            for rows in [1, 2, 9] {
                let case = SparseCase::new(&mut rng, rows, cols, density);
                let ranges = [(0, cols), (0, cols / 64 * 64), (cols / 128 * 64, cols)];
                for (lanes, (first, end)) in [1]
                    .iter()
                    .chain(&LANES)
                    .flat_map(|l| ranges.map(|r| (*l, r)))
                {
                    let g = gaussians(&mut rng, rows * lanes);
                    let y = gaussians(&mut rng, (end - first) * lanes);
                    for set in sets() {
                        let check = |found: &[f32], name: &str| {
                            for (i, found) in found.iter().enumerate() {
                                let expected = case
                                    .col_sum(first + i / lanes, y[i], |r| g[r * lanes + i % lanes]);
                                assert_near(*found, expected, &|| {
                                    let isa = set.isa().name();
                                    format!(
                                        "{name} {isa} {first}..{end} density {density} lanes {lanes}"
                                    )
                                });
                            }
                        };
                        let mut found = y.clone();
                        set.index_add(&case.lists(), &g, lanes, first, &mut found);
                        check(&found, "lists");
                        if lanes == 1 {
                            let mut found = y.clone();
                            set.mask_add(&case.mask(), &g, first, &mut found);
                            check(&found, "mask");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn the_first_value_that_is_not_finite_is_found_in_every_lane() {
    for set in sets() {
        for len in 1..=70 {
            let w = weights(Kind::Laplace, 1, len, len as u64);
            let expected = w
                .iter()
                .fold((f32::INFINITY, f32::NEG_INFINITY), |(a, b), v| {
                    (a.min(*v), b.max(*v))
                });
            assert_eq!(set.min_max(&w), Ok(expected));
            for at in 0..len {
                for odd in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                    let mut w = w.clone();
                    w[at] = odd;
                    assert_eq!(set.min_max(&w), Err(at), "{} {len}", set.isa().name());
                    // Two that would cancel out, and the first of them.
                    let other = (at + len / 2) % len;
                    w[other] = -odd;
                    assert_eq!(set.min_max(&w), Err(at.min(other)), "{}", set.isa().name());
                }
            }
        }
        // The largest finite values are finite.
        let w = vec![f32::MAX, -f32::MAX, f32::MAX];
        assert_eq!(set.min_max(&w), Ok((-f32::MAX, f32::MAX)));
        assert_eq!(set.min_max(&[f32::MAX; 64]), Ok((f32::MAX, f32::MAX)));
    }
}

#[test]
fn sums_that_are_stored_are_the_same_bits_on_every_set() {
    let sets = sets();
    for kind in Kind::ALL {
        for len in (0..=40).chain([63, 64, 65, 129, 1000]) {
            let a = weights(kind, 1, len, 1);
            let b: Vec<f32> = a.iter().map(|v| v * 1.01 + 1e-3).collect();
            let first = sets[0].difference(&a, &b);
            let error: f64 = a
                .iter()
                .zip(&b)
                .map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2))
                .sum();
            assert!((first.error - error).abs() <= 1e-12 * error);
            assert!((first.norm - norm(&a).powi(2)).abs() <= 1e-12 * first.norm);
            let most = a
                .iter()
                .zip(&b)
                .map(|(a, b)| (f64::from(*a) - f64::from(*b)).abs());
            assert_eq!(first.max_abs, most.fold(0.0, f64::max));
            let mut y = b.clone();
            sets[0].add_scaled(0.7, &a, &mut y);
            for (i, y) in y.iter().enumerate() {
                assert_eq!(y.to_bits(), (b[i] + 0.7 * a[i]).to_bits());
            }
            for set in &sets[1..] {
                let d = set.difference(&a, &b);
                let bits =
                    |d: &kernel::dense::Difference| [d.error, d.norm, d.max_abs].map(f64::to_bits);
                assert_eq!(
                    bits(&d),
                    bits(&first),
                    "{} {kind:?} {len}",
                    set.isa().name()
                );
                let mut mine = b.clone();
                set.add_scaled(0.7, &a, &mut mine);
                assert_eq!(bits_of(&mine), bits_of(&y), "{} {kind:?}", set.isa().name());
            }
        }
    }
}

/// Frequencies of the sum 2^bits that are as uneven as they get, or even, or wild.
fn frequencies(bits: u32, rng: &mut Rng) -> Vec<[u16; 256]> {
    let all = 1u16 << bits;
    let of = |list: &[(usize, u16)]| {
        let mut f = [0; 256];
        list.iter().for_each(|(s, n)| f[*s] = *n);
        f
    };
    let mut found = vec![
        of(&[(0, all - 1), (255, 1)]),
        of(&[(7, 1), (8, all - 1)]),
        of(&[(3, all / 2), (200, all / 2)]),
        of(&[(0, 1), (1, all - 2), (2, 1)]),
        [all / 256; 256],
    ];
    for symbols in [2, 3, 16, 100, 256] {
        let mut f = [0; 256];
        let mut left = usize::from(all) - symbols;
        for s in 0..symbols {
            let extra = match s + 1 == symbols {
                true => left,
                false => rng.below(left / 2 + 1),
            };
            left -= extra;
            f[s * 37 % 256] = 1 + extra as u16;
        }
        found.push(f);
    }
    found
}

/// `len` symbols, each slot as likely as another.
fn symbols(f: &[u16; 256], len: usize, rng: &mut Rng) -> Vec<u8> {
    let slots: Vec<u8> = (0..=255u8)
        .flat_map(|s| std::iter::repeat_n(s, usize::from(f[usize::from(s)])))
        .collect();
    (0..len).map(|_| slots[rng.below(slots.len())]).collect()
}

/// The encoder as its formula: states, and words in the order of reading.
fn naive_rans(f: &[u16; 256], bits: u32, lanes: usize, src: &[u8]) -> (Vec<u32>, Vec<u8>) {
    let mut states = vec![1u64 << 16; lanes];
    let mut words = Vec::new();
    for (k, symbol) in src.iter().enumerate().rev() {
        let s = usize::from(*symbol);
        let start: u64 = f[..s].iter().map(|f| u64::from(*f)).sum();
        let f = u64::from(f[s]);
        let x = &mut states[k % lanes];
        if *x >= f << (32 - bits) {
            words.push(*x as u16);
            *x >>= 16;
        }
        *x = ((*x / f) << bits) + *x % f + start;
    }
    let words = words.iter().rev().flat_map(|w| w.to_le_bytes());
    (states.iter().map(|x| *x as u32).collect(), words.collect())
}

#[test]
fn rans_is_its_formula_on_every_set() {
    use cortex::kernel::rans::{DecodeTable, EncodeTable, LANES, START};
    let sets = sets();
    let mut rng = Rng::new(3);
    for bits in 8..=14 {
        for f in frequencies(bits, &mut rng) {
            let (encoder, decoder) = (EncodeTable::new(&f, bits), DecodeTable::new(&f, bits));
            let longest = if bits % 3 == 0 { 200 } else { 70 };
            for (lanes, len) in LANES
                .into_iter()
                .flat_map(|n| (0..=longest).chain([1000, 5003]).map(move |len| (n, len)))
            {
                let src = symbols(&f, len, &mut rng);
                let (states, words) = naive_rans(&f, bits, lanes, &src);
                for set in &sets {
                    let what = format!("{} p {bits}, {lanes} lanes, {len}", set.isa().name());
                    let mut room = vec![0xa5; 2 * len + 7];
                    let mut x = vec![START; lanes];
                    let at = set.rans_encode(&encoder, &mut x, &src, &mut room);
                    assert!(x == states && room[at..] == words, "{what}");
                    let mut out = vec![0; len];
                    // With words behind that are not its own, and without.
                    for more in [0, 2, 200] {
                        let long = [&words[..], &vec![0x5a; more]].concat();
                        let mut x = states.clone();
                        out.fill(0);
                        let read = set.rans_decode(&decoder, &mut x, &long, &mut out);
                        assert_eq!(read, Some(words.len()), "{what}");
                        assert!(out == src && x.iter().all(|x| *x == START), "{what}");
                    }
                    for cut in [1, 2, 3, 64, 65, 128, words.len()] {
                        if let Some(short) = words.len().checked_sub(cut)
                            && cut > 0
                        {
                            let mut x = states.clone();
                            let read = set.rans_decode(&decoder, &mut x, &words[..short], &mut out);
                            assert_eq!(read, None, "{what} without {cut}");
                        }
                    }
                }
            }
        }
    }
}

/// States and words that no encoder made.
#[test]
fn rans_decodes_anything_alike_on_every_set() {
    use cortex::kernel::rans::DecodeTable;
    let sets = sets();
    let mut rng = Rng::new(4);
    let mut ends = [0, 0];
    for bits in 8..=14 {
        for f in frequencies(bits, &mut rng) {
            let decoder = DecodeTable::new(&f, bits);
            for lanes in [32, 64] {
                for round in 0..8 {
                    let small = if round % 2 == 0 { 0 } else { 20 };
                    let states: Vec<u32> = (0..lanes).map(|_| rng.next() as u32 >> small).collect();
                    let words: Vec<u8> = (0..rng.below(3000)).map(|_| rng.next() as u8).collect();
                    let len = rng.below(2500);
                    let results = sets.iter().map(|set| {
                        let (mut x, mut out) = (states.clone(), vec![0; len]);
                        let read = set.rans_decode(&decoder, &mut x, &words, &mut out);
                        read.map(|read| (read, x, out))
                    });
                    let results: Vec<_> = results.collect();
                    ends[usize::from(results[0].is_some())] += 1;
                    assert!(results.iter().all(|r| *r == results[0]));
                }
            }
        }
    }
    assert!(ends[0] > 100 && ends[1] > 100, "{ends:?}");
}

#[test]
fn rotated_elements_have_their_top_bit_at_the_bottom() {
    let mut rng = Rng::new(5);
    let src: Vec<u8> = (0..300).map(|_| rng.next() as u8).collect();
    for set in sets() {
        for width in [1, 2, 4, 8] {
            for len in 0..src.len() {
                let src = &src[..len];
                let mut expected = src.to_vec();
                for element in expected.chunks_exact_mut(width) {
                    let mut carry = element[width - 1] >> 7;
                    for byte in element {
                        (*byte, carry) = (*byte << 1 | carry, *byte >> 7);
                    }
                }
                let mut out = vec![0; len];
                set.rotate(src, &mut out, width);
                assert_eq!(out, expected, "{} {width} {len}", set.isa().name());
                set.unrotate(&expected, &mut out, width);
                assert_eq!(out, src, "{} {width} {len}", set.isa().name());
            }
        }
    }
}

/// A unit of indices by the text of `kernel::ecq`, one lane and one word at a time: whether
/// its bytes are right, and the weights where they are.
struct NaiveEcq<'a> {
    precision: u32,
    low: u32,
    trellis: bool,
    tables: &'a [[u16; 256]],
    of_class: &'a [u8; 32],
    offsets: [f32; 16],
    scale: (f32, f32),
}

impl NaiveEcq<'_> {
    /// Table, and for a row's state the Q.
    fn table(&self, row: u8, col: u8, state: u8) -> &[u16; 256] {
        let class = (i32::from(row) + i32::from(col) - 16).clamp(0, 31) as usize;
        let t = usize::from(self.of_class[class]);
        match self.trellis {
            true => &self.tables[2 * t + usize::from(state & 1)],
            false => &self.tables[t],
        }
    }

    fn decode(&self, rows: &[u8], cols: &[u8], bytes: &[u8]) -> Option<Vec<f32>> {
        let lanes = rows.len().min(32);
        let word = |i: usize| -> Option<u32> {
            let at = 4 * lanes + 2 * i;
            Some(u32::from(u16::from_le_bytes([
                *bytes.get(at)?,
                *bytes.get(at + 1)?,
            ])))
        };
        let mut x: Vec<u32> = (0..lanes)
            .map(|l| Some(u32::from_le_bytes(*bytes.get(4 * l..)?.first_chunk()?)))
            .collect::<Option<_>>()?;
        let mut words = 0;
        let mut out = vec![0.0; rows.len() * cols.len()];
        let mut states = vec![0u8; rows.len()];
        let first = self.low.min(16 - self.precision);
        let second = self.low - first;
        for group in (0..rows.len()).step_by(32) {
            let some = group..rows.len().min(group + 32);
            for (c, col) in cols.iter().enumerate() {
                let mut k = vec![0i32; some.len()];
                for r in some.clone() {
                    let x = &mut x[r - group];
                    let slot = *x % (1 << self.precision);
                    let (mut s, mut start) = (0, 0);
                    for (i, f) in self.table(rows[r], *col, states[r]).iter().enumerate() {
                        let f = u32::from(*f);
                        if (start..start + f).contains(&slot) {
                            s = i as i32 - 128;
                            *x = f * (*x >> self.precision) + slot - start;
                            break;
                        }
                        start += f;
                    }
                    k[r - group] = (s << first) + (*x % (1 << first)) as i32;
                    *x >>= first;
                    if *x < 1 << 16 {
                        *x = *x << 16 | word(words)?;
                        words += 1;
                    }
                }
                for r in some.clone().filter(|_| second > 0) {
                    let x = &mut x[r - group];
                    k[r - group] = (k[r - group] << second) + (*x % (1 << second)) as i32;
                    *x >>= second;
                    if *x < 1 << 16 {
                        *x = *x << 16 | word(words)?;
                        words += 1;
                    }
                }
                for r in some.clone() {
                    let k = k[r - group];
                    let q = i32::from(states[r] & 1);
                    let (lattice, at) = match self.trellis {
                        true => (2 * k - k.signum() * q, 8 * q + k.abs().min(7)),
                        false => (k, k.abs().min(15)),
                    };
                    let sign = if k < 0 { -1.0 } else { 1.0 };
                    let v = lattice as f32 + sign * self.offsets[at as usize];
                    out[r * cols.len() + c] = v * self.scale.0 * self.scale.1;
                    let parity = (k & 1) as usize;
                    states[r] = ecq::NEXT[2 * usize::from(states[r]) + parity];
                }
            }
        }
        let right = 4 * lanes + 2 * words == bytes.len() && x.iter().all(|x| *x == 1 << 16);
        right.then_some(out)
    }

    /// The decoder's steps undone, from the last to the first.
    fn encode(&self, rows: &[u8], cols: &[u8], index: &[i32]) -> Vec<u8> {
        let n = cols.len();
        let first = self.low.min(16 - self.precision);
        let second = self.low - first;
        let mut states = vec![0u8; index.len()];
        for r in 0..rows.len() {
            for c in 1..n {
                let before = r * n + c - 1;
                let parity = (index[before] & 1) as usize;
                states[before + 1] = ecq::NEXT[2 * usize::from(states[before]) + parity];
            }
        }
        let mut x = vec![1u64 << 16; rows.len().min(32)];
        let mut words = Vec::new();
        for group in (0..rows.len()).step_by(32).rev() {
            let some = group..rows.len().min(group + 32);
            for (c, col) in cols.iter().enumerate().rev() {
                let mut put = |lane: usize, f: u64, start: u64, bits: u32, low: u64, extra: u32| {
                    let x = &mut x[lane];
                    if *x >= f << (32 - bits - extra) {
                        words.push(*x as u16);
                        *x >>= 16;
                    }
                    let y = *x << extra | low;
                    *x = ((y / f) << bits) + y % f + start;
                };
                for r in some.clone().rev().filter(|_| second > 0) {
                    let low = index[r * n + c] as u64 & ((1 << second) - 1);
                    put(r - group, 1, 0, 0, low, second);
                }
                for r in some.clone().rev() {
                    let at = r * n + c;
                    let k = index[at] >> second;
                    let table = self.table(rows[r], *col, states[at]);
                    let s = ((k >> first) + 128) as usize;
                    let start = table[..s].iter().map(|f| u64::from(*f)).sum();
                    let low = k as u64 & ((1 << first) - 1);
                    put(
                        r - group,
                        table[s].into(),
                        start,
                        self.precision,
                        low,
                        first,
                    );
                }
            }
        }
        let mut bytes: Vec<u8> = x.iter().flat_map(|x| (*x as u32).to_le_bytes()).collect();
        bytes.extend(words.iter().rev().flat_map(|w| w.to_le_bytes()));
        bytes
    }
}

#[test]
fn entropy_coded_units_open_to_the_same_bits_on_every_set() {
    let mut rng = Rng::new(41);
    for case in 0..240 {
        let precision = 10 + (case % 3) as u32;
        let low = [0, 0, 1, 4, 5, 6, 9, 16][case / 3 % 8];
        let trellis = case % 2 == 1;
        let rows = [1, 2, 15, 16, 17, 31, 32, 33, 70][rng.below(9)];
        let cols = [1, 2, 15, 16, 17, 40, 100][rng.below(7)];
        let served = 1 + rng.below(4);
        let of_class = std::array::from_fn(|c| (c * served / 32) as u8);
        let tables: Vec<[u16; 256]> = (0..served * 2)
            .map(|t| {
                // Few symbols or many, the last of them with what is left; or only one.
                let mut f = [0u16; 256];
                let n = [1, 3, 20, 200][(t + case) % 4];
                let from = rng.below(256 - n);
                let mut left = 1u16 << precision;
                for f in f.iter_mut().skip(from).take(n - 1) {
                    let part = (left / 4).min(1 + rng.below(300) as u16);
                    *f = part;
                    left -= part;
                }
                f[from + n - 1] = left;
                f
            })
            .collect();
        let naive = NaiveEcq {
            precision,
            low,
            trellis,
            tables: &tables,
            of_class: &of_class,
            offsets: std::array::from_fn(|i| {
                (i as f32 - 7.0) / 128.0 * f32::from(u8::from(i % 8 != 0))
            }),
            scale: (1.37, 2f32.powi(-9)),
        };
        let decoder = Decoder::new(
            precision,
            low,
            trellis,
            &tables,
            &of_class,
            naive.offsets,
            naive.scale,
        );
        let codes = |rng: &mut Rng, n| (0..n).map(|_| rng.below(32) as u8).collect::<Vec<_>>();
        let (row_codes, col_codes) = (codes(&mut rng, rows), codes(&mut rng, cols));
        // Indices whose symbols have frequencies.
        let mut index = Vec::new();
        for row in &row_codes {
            let mut state = 0;
            for col in &col_codes {
                let table = naive.table(*row, *col, state);
                let symbols: Vec<i32> = (-128..128)
                    .filter(|s| table[(s + 128) as usize] > 0)
                    .collect();
                let s = symbols[rng.below(symbols.len())];
                let k = (s << low) + rng.below(1 << low) as i32;
                state = ecq::NEXT[2 * usize::from(state) + (k & 1) as usize];
                index.push(k);
            }
        }
        let bytes = naive.encode(&row_codes, &col_codes, &index);
        let expected = naive
            .decode(&row_codes, &col_codes, &bytes)
            .expect("right bytes");
        let stride = cols + rng.below(3);
        for set in sets() {
            let what = format!("{} case {case}", set.isa().name());
            let mut out = vec![9.0; (rows - 1) * stride + cols];
            let run = |bytes: &[u8], out: &mut [f32]| {
                // A box of just these bytes: a longer read would leave the allocation.
                let bytes: Box<[u8]> = bytes.into();
                set.ecq_decode(&decoder, &row_codes, &col_codes, &bytes, out, stride)
            };
            assert!(run(&bytes, &mut out), "{what}");
            for (out, expected) in out.chunks(stride).zip(expected.chunks(cols)) {
                assert_eq!(bits_of(&out[..cols]), bits_of(expected), "{what}");
                assert!(out[cols..].iter().all(|v| *v == 9.0));
            }
            // Cut, longer, and changed units are told apart from right ones as the naive
            // reader tells them.
            let mut rng = Rng::new(case as u64);
            for _ in 0..20 {
                let mut bad = bytes.clone();
                match rng.below(3) {
                    0 => bad.truncate(rng.below(bad.len())),
                    1 => bad.extend([0, 0]),
                    _ => {
                        let at = rng.below(bad.len());
                        bad[at] ^= 1 << rng.below(8);
                    }
                }
                let naive = naive.decode(&row_codes, &col_codes, &bad);
                assert_eq!(run(&bad, &mut out), naive.is_some(), "{what}");
            }
        }
    }
}

#[test]
fn indices_are_chosen_alike_on_every_set() {
    let mut rng = Rng::new(43);
    for case in 0..60 {
        let cols = [1, 7, 16, 33, 200][case % 5];
        let rows = 1 + rng.below(16);
        let low = [0, 0, 3][case % 3];
        let mut chooser = Chooser::new((2.0, 1.7), 250.0, low);
        for t in chooser.thresholds.iter_mut().flatten() {
            *t = 0.5 + rng.uniform() as f32 * 0.2;
        }
        let mut costs = [[0.0f32; 256]; 32];
        for (i, c) in costs.iter_mut().flatten().enumerate() {
            *c = (i % 128) as f32 * 0.01 + rng.uniform() as f32;
        }
        chooser.set_costs(&costs);
        let mut w: Vec<f32> = (0..rows * cols).map(|_| rng.gaussian() * 2.0).collect();
        w[0] = 1e30;
        let row_codes: Vec<u8> = (0..rows).map(|_| rng.below(32) as u8).collect();
        let col_codes: Vec<u8> = (0..cols).map(|_| rng.below(32) as u8).collect();
        let mut all = Vec::new();
        for set in sets() {
            let (mut x, mut rounded) = (vec![0.0; w.len()], vec![0; w.len()]);
            let (mut y, mut coded) = (x.clone(), rounded.clone());
            for r in 0..rows {
                let range = r * cols..(r + 1) * cols;
                let (x, out) = (&mut x[range.clone()], &mut rounded[range.clone()]);
                set.ecq_round(&chooser, &w[range], row_codes[r], &col_codes, x, out);
            }
            let mut paths = Paths::default();
            set.ecq_trellis(
                &chooser, &w, &row_codes, &col_codes, &mut paths, &mut y, &mut coded,
            );
            assert_eq!(bits_of(&x), bits_of(&y));
            assert_eq!(x[0], 0.0);
            for ((x, w), k) in x.iter().zip(&w).zip(&rounded).skip(1) {
                assert_eq!(*x, w * 2.0 * 1.7);
                assert!((x - *k as f32).abs() <= 0.7, "{x} to {k}");
            }
            all.push((bits_of(&x), rounded, coded));
        }
        assert!(all.iter().all(|a| *a == all[0]), "case {case}");
    }
}

#[test]
fn the_trellis_finds_the_nearest_sequence() {
    let mut rng = Rng::new(47);
    const N: usize = 6;
    for _ in 0..20 {
        let mut chooser = Chooser::new((1.0, 1.0), 100.0, 0);
        chooser.set_costs(&[[0.0; 256]; 32]);
        let w: Vec<f32> = (0..N).map(|_| rng.gaussian() * 2.0).collect();
        // Every sequence of indices from −4 to 4.
        let mut nearest = f64::INFINITY;
        for sequence in 0..9usize.pow(N as u32) {
            let (mut rest, mut state, mut error) = (sequence, 0usize, 0.0);
            for w in &w {
                let k = (rest % 9) as i32 - 4;
                rest /= 9;
                let q = (state & 1) as i32;
                error += (f64::from(*w) - f64::from(2 * k - k.signum() * q)).powi(2);
                state = ecq::NEXT[2 * state + (k & 1) as usize].into();
            }
            nearest = nearest.min(error);
        }
        for set in sets() {
            let (mut x, mut out) = ([0.0; N], [0; N]);
            let mut paths = Paths::default();
            set.ecq_trellis(&chooser, &w, &[16], &[16; N], &mut paths, &mut x, &mut out);
            let (mut state, mut error) = (0usize, 0.0);
            for (w, k) in w.iter().zip(out) {
                let q = (state & 1) as i32;
                error += (f64::from(*w) - f64::from(2 * k - k.signum() * q)).powi(2);
                state = ecq::NEXT[2 * state + (k & 1) as usize].into();
            }
            assert!((error - nearest).abs() < 1e-4, "{error} for {nearest}");
        }
    }
}
