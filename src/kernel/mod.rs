//! Inner loops, on slices and strides only.
//!
//! A [`KernelSet`] is a table of function pointers, one per loop, all compiled for
//! the same instruction set. It can be had only from [`best`] and [`available`],
//! which ask the CPU first: owning a `&KernelSet` is the licence to run it, and is
//! what makes its methods safe. One list, at the end of this file, declares every
//! kernel with its variants; dispatch, tests and benches all read that list.
//!
//! Loops that a compiler vectorises well are written once and compiled once per
//! instruction set (`autovec!`); the others have a variant by hand. Every variant
//! gives the same bits for integers, and for floats wherever the result is stored
//! (encoders), because sums are kept in a fixed number of lanes and `mul_add` is
//! used only where each variant has it. Matmul variants may differ in rounding; the
//! bound is in `tests/kernels.rs`.

use std::sync::OnceLock;

mod bits;
mod bytes;
pub mod columns;
pub mod conv;
pub mod dense;
pub mod dot;
pub mod ecq;
#[cfg(target_arch = "aarch64")]
mod neon;
pub mod positions;
mod prefetch;
pub mod probe;
pub mod quant;
pub mod rans;
mod rotate;
pub mod sparse;
pub mod spmm;
pub mod update;

/// Compiles `body` once per instruction set, as `portable`, `avx2` and `avx512` in a
/// module of the given name.
///
/// `body` must be `#[inline(always)]`: that is what lets the wrapper's target features
/// reach it.
macro_rules! autovec {
    ($(#[$doc:meta])* $name:ident = $body:path; fn($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)?) => {
        $(#[$doc])*
        #[allow(clippy::too_many_arguments)]
        pub(crate) mod $name {
            use super::*;
            pub(crate) fn portable($($arg: $ty),*) $(-> $ret)? { $body($($arg),*) }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,popcnt,lzcnt")]
            pub(crate) fn avx2($($arg: $ty),*) $(-> $ret)? { $body($($arg),*) }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,popcnt,lzcnt,avx512f,avx512bw,avx512vl,avx512dq,avx512cd")]
            pub(crate) fn avx512($($arg: $ty),*) $(-> $ret)? { $body($($arg),*) }
        }
    };
}
pub(crate) use autovec;

/// An instruction set that kernels are compiled for, in order of preference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// What every CPU of the target has.
    Portable,
    /// x86-64 with AVX2, FMA, F16C, BMI.
    Avx2,
    /// x86-64 with AVX-512 F, BW, VL, DQ, CD besides (Skylake and later servers).
    Avx512,
    /// x86-64 with VNNI, VBMI, VBMI2, BITALG, VPOPCNTDQ and GFNI besides (Ice Lake).
    Avx512Vnni,
    /// x86-64 with AVX-512 BF16 besides (Zen 4, Sapphire Rapids).
    Avx512Bf16,
    /// AArch64 with dot products of int8 (Armv8.4, and many cores of Armv8.2).
    Neon,
    /// AArch64 with int8 matrix products besides (Armv8.6).
    NeonI8mm,
}

impl Isa {
    /// Every instruction set, best last.
    pub const ALL: [Self; 7] = [
        Self::Portable,
        Self::Avx2,
        Self::Avx512,
        Self::Avx512Vnni,
        Self::Avx512Bf16,
        Self::Neon,
        Self::NeonI8mm,
    ];

    /// Lower-case name, as `CORTEX_DISABLE_CPU` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Avx512Vnni => "avx512vnni",
            Self::Avx512Bf16 => "avx512bf16",
            Self::Neon => "neon",
            Self::NeonI8mm => "neoni8mm",
        }
    }

    /// The set that this one adds to; what is taken away takes with it all that add to it.
    pub fn base(self) -> Option<Self> {
        match self {
            Self::Portable => None,
            Self::Avx2 | Self::Neon => Some(Self::Portable),
            Self::Avx512 => Some(Self::Avx2),
            Self::Avx512Vnni => Some(Self::Avx512),
            Self::Avx512Bf16 => Some(Self::Avx512Vnni),
            Self::NeonI8mm => Some(Self::Neon),
        }
    }

    /// Whether this set is `other` or adds to it.
    pub fn includes(self, other: Self) -> bool {
        self == other || self.base().is_some_and(|b| b.includes(other))
    }

    /// Whether this CPU has it.
    pub fn detected(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            macro_rules! all {
                ($($f:tt),*) => { true $(&& std::arch::is_x86_feature_detected!($f))* };
            }
            match self {
                Self::Portable => true,
                Self::Avx2 => all!("avx2", "fma", "f16c", "bmi1", "bmi2", "popcnt", "lzcnt"),
                Self::Avx512 => {
                    Self::Avx2.detected()
                        && all!("avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512cd")
                }
                Self::Avx512Vnni => {
                    Self::Avx512.detected()
                        && all!("avx512vnni", "avx512vbmi", "avx512vbmi2")
                        && all!("avx512bitalg", "avx512vpopcntdq", "gfni")
                }
                Self::Avx512Bf16 => Self::Avx512Vnni.detected() && all!("avx512bf16"),
                Self::Neon | Self::NeonI8mm => false,
            }
        }
        #[cfg(target_arch = "aarch64")]
        {
            use std::arch::is_aarch64_feature_detected as has;
            match self {
                Self::Portable => true,
                Self::Neon => has!("neon") && has!("dotprod"),
                Self::NeonI8mm => Self::Neon.detected() && has!("i8mm"),
                _ => false,
            }
        }
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        {
            self == Self::Portable
        }
    }
}

/// The instruction sets that `CORTEX_DISABLE_CPU` takes away (a comma-separated list of
/// [`Isa::name`]s; taking a set away takes those that build on it), and the words in it
/// that name none.
pub fn disabled() -> (Vec<Isa>, Vec<String>) {
    let list = std::env::var("CORTEX_DISABLE_CPU").unwrap_or_default();
    let (mut off, mut unknown) = (Vec::new(), Vec::new());
    for word in list.split([',', ' ']).filter(|w| !w.is_empty()) {
        match Isa::ALL.into_iter().find(|i| i.name() == word) {
            Some(Isa::Portable) | None => unknown.push(word.to_owned()),
            Some(first) => off.extend(Isa::ALL.into_iter().filter(|i| i.includes(first))),
        }
    }
    (off, unknown)
}

/// Kernel sets that this CPU can run, best first, `CORTEX_DISABLE_CPU` notwithstanding.
pub fn available() -> impl Iterator<Item = &'static KernelSet> {
    SETS.iter().rev().filter(|s| s.isa.detected())
}

/// The best kernel set that this CPU has and `CORTEX_DISABLE_CPU` leaves. Detected once.
pub fn best() -> &'static KernelSet {
    static BEST: OnceLock<&KernelSet> = OnceLock::new();
    BEST.get_or_init(|| {
        let off = disabled().0;
        available()
            .find(|s| !off.contains(&s.isa))
            .expect("the portable set is always available")
    })
}

/// Makes `KernelSet`, its safe methods, and one table per instruction set, from one list:
/// every kernel for the first three sets, and under `then` what the sets that build on
/// another do better than that.
macro_rules! kernels {
    ($($(#[$doc:meta])* fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? =
        [$portable:path, $avx2:path, $avx512:path];)*
     then avx512vnni {$($vnni:ident = $vnni_path:path;)*}
     then avx512bf16 {$($bf16:ident = $bf16_path:path;)*}
     then neon {$($neon:ident = $neon_path:path;)*}
     then neoni8mm {$($i8mm:ident = $i8mm_path:path;)*}) => {
        /// The inner loops for one instruction set; see the [module](self).
        #[allow(missing_debug_implementations)]
        pub struct KernelSet {
            isa: Isa,
            $($name: unsafe fn($($ty),*) $(-> $ret)?,)*
        }

        #[allow(clippy::too_many_arguments)]
        impl KernelSet {
            /// The instruction set that this one needs.
            pub fn isa(&self) -> Isa {
                self.isa
            }

            $($(#[$doc])*
            pub fn $name(&self, $($arg: $ty),*) $(-> $ret)? {
                // SAFETY: the function needs nothing but the CPU features of `self.isa`,
                // and a set leaves this module only after they were detected.
                unsafe { (self.$name)($($arg),*) }
            })*
        }

        const PORTABLE: KernelSet = KernelSet { isa: Isa::Portable, $($name: $portable,)* };
        #[cfg(target_arch = "x86_64")]
        const AVX512: KernelSet = KernelSet { isa: Isa::Avx512, $($name: $avx512,)* };
        #[cfg(target_arch = "x86_64")]
        const AVX512VNNI: KernelSet =
            KernelSet { isa: Isa::Avx512Vnni, $($vnni: $vnni_path,)* ..AVX512 };
        #[cfg(target_arch = "x86_64")]
        static SETS: [KernelSet; 5] = [
            PORTABLE,
            KernelSet { isa: Isa::Avx2, $($name: $avx2,)* },
            AVX512,
            AVX512VNNI,
            KernelSet { isa: Isa::Avx512Bf16, $($bf16: $bf16_path,)* ..AVX512VNNI },
        ];
        #[cfg(target_arch = "aarch64")]
        const NEON: KernelSet = KernelSet { isa: Isa::Neon, $($neon: $neon_path,)* ..PORTABLE };
        #[cfg(target_arch = "aarch64")]
        static SETS: [KernelSet; 3] = [
            PORTABLE,
            NEON,
            KernelSet { isa: Isa::NeonI8mm, $($i8mm: $i8mm_path,)* ..NEON },
        ];
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        static SETS: [KernelSet; 1] = [PORTABLE];

        /// Names of all kernels, for `doctor`.
        pub const KERNEL_NAMES: &[&str] = &[$(stringify!($name)),*];
    };
}

use columns::Columns;
use conv::{Spectra, Tap, Weights};
#[cfg(target_arch = "aarch64")]
use dense::Neon;
#[cfg(target_arch = "x86_64")]
use dense::{Avx2, Avx512, Avx512Bf16};
use dense::{Difference, Portable};
use dot::{Activations, Rounded, Rounding, Tiles};
use ecq::{Chooser, Decoder, Paths};
use quant::{Layout, Quantizer, TILE_ROWS};
use rans::{DecodeTable, EncodeTable};
use sparse::{IndexRows, MaskRows};
use spmm::SparseRows;

kernels! {
    /// Encodes one tile of `rows` rows of `w` (row-major, all columns). `weights` is empty,
    /// or says how much errors of each column count in a search by least squares.
    fn quant_encode(q: &Quantizer, w: &[f32], weights: &[f32], rows: usize, scales: &mut [u8], codes: &mut [u8]) =
        [quant::encode::portable, quant::encode::avx2, quant::encode::avx512];
    /// Decodes one tile to `out`, row-major.
    fn quant_decode(q: &Quantizer, scales: &[u8], codes: &[u8], rows: usize, out: &mut [f32]) =
        [quant::decode::portable, quant::decode::avx2, quant::decode::avx512];
    /// `y[b][k] += Σ g[b · g_stride + r] · w[r][col + k]` for whole tiles and the columns that `y`
    /// has, which begin and end where blocks do. Windows of [`RUN_ROWS`](quant::RUN_ROWS) rows,
    /// or a multiple, give the same bits as all rows at once.
    fn quant_add(q: &Quantizer, scales: &[u8], codes: &[u8], col: usize, g: &[f32], g_stride: usize, y: &mut Columns<'_>) =
        [quant::transposed::add::<Portable>, quant::transposed::add::<Avx2>, quant::transposed::add::<Avx512>];
    /// Opens the codes of a tile of `rows` rows, from column `32 · from` on, to lines of 16
    /// rows × 4 columns, a code a byte; rows and columns that are not there hold the code
    /// of zero. `lines` has `512` bytes for each 32 columns begun.
    fn quant_open(layout: &Layout, codes: &[u8], rows: usize, from: usize, lines: &mut [u8]) =
        [quant::open::portable, quant::open::avx2, quant::open::avx512];
    /// Rows of activations that `dot_tiles` multiplies at once, for [`Rounding::most`].
    fn dot_batch() -> usize =
        [dot::batch::portable, dot::batch::avx2, dot::batch::avx2];
    /// Rounds rows of activations, which begin every `stride` values of `x`, to integers.
    fn round_activations(x: &[f32], stride: usize, to: &mut Rounding<'_>, found: &mut [Rounded]) =
        [dot::round::portable, dot::round::avx2, dot::round::avx512];
    /// Gives the first tile of `w`, which has groups of at most 128 columns and no zeros,
    /// int8 codes with one scale for [`WIDE_GROUP`](dot::WIDE_GROUP) columns: rounded
    /// anew, with an error of −42 dB on Gaussian weights. False, and nothing of use, where
    /// the groups of a row differ so much that it would be more.
    fn dot_narrow(w: &Tiles<'_>, codes: &mut [u8], scales: &mut [u8]) -> bool =
        [dot::narrow::portable, dot::narrow::avx2, dot::narrow::avx2];
    /// Whether tiles of `bits` are multiplied faster after `dot_narrow`, in large batches.
    fn dot_narrow_pays(bits: u32) -> bool =
        [dot::narrow::pays, dot::narrow::pays_avx2, dot::narrow::pays_avx2];
    /// `out[t · x.rows + b][r] += Σ x[b][col] · w[t][r][col]` for the tiles of `w` from the
    /// first, as many as `out` has room for. The same bits on every instruction set.
    fn dot_tiles(w: &Tiles<'_>, x: &Activations<'_>, out: &mut [[f32; TILE_ROWS]]) =
        [dot::tiles::portable, dot::tiles::avx2, dot::tiles::avx2];
    /// Least and largest value of `w`, or the index of the first that is not finite.
    fn min_max(w: &[f32]) -> Result<(f32, f32), usize> =
        [quant::min_max::portable, quant::min_max::avx2, quant::min_max::avx512];

    /// `out[b][r] = Σ x[b][k] · w[r][k]` for row-major `w[rows, cols]`, `x[batch, cols]`. For
    /// weights that are in cache, and for large batches of few columns; weights in memory
    /// are better multiplied with packed activations. A window of one or two rows costs a
    /// large batch as much as one of 16 does.
    fn dense_matmul(w: &[f32], x: &[f32], cols: usize, out: &mut [f32]) =
        [dense::matmul::<Portable>, dense::matmul::<Avx2>, dense::matmul::<Avx512>];
    /// The same, to a panel of outputs. A row gives the same bits in every window.
    fn dense_matmul_into(w: &[f32], x: &[f32], cols: usize, out: &mut Columns<'_>) =
        [dense::matmul_into::<Portable>, dense::matmul_into::<Avx2>, dense::matmul_into::<Avx512>];
    /// `out[m][n] = Σ a[m][k] · b[k][n]` for row-major `a[rows, inner]` and `b[inner, cols]` that
    /// are in cache. Each output is one sum in order of k, however rows and columns are cut.
    fn dense_product(a: &[f32], inner: usize, b: &[f32], cols: usize, out: &mut [f32]) =
        [dense::product::<Portable>, dense::product::<Avx2>, dense::product::<Avx512>];
    /// Values of `x[batch, cols]` packed.
    fn dense_packed_len(batch: usize, cols: usize) -> usize =
        [dense::packed_len::<Portable>, dense::packed_len::<Avx2>, dense::packed_len::<Avx512>];
    /// Packs `x[batch, cols]` to `dense_packed_len` values, for the three that follow.
    fn dense_pack(x: &[f32], cols: usize, packed: &mut [f32]) =
        [dense::pack::<Portable>, dense::pack::<Avx2>, dense::pack::<Avx512>];
    /// `out[b][r] = Σ x[b][k] · w[r][k]` for row-major `w[rows, cols]` and packed `x`. Weights
    /// are read once, in the order in which they lie.
    fn dense_matmul_packed(w: &[f32], packed: &[f32], cols: usize, out: &mut Columns<'_>) =
        [dense::matmul_packed::<Portable>, dense::matmul_packed::<Avx2>, dense::matmul_packed::<Avx512>];
    /// The same for weights in bf16.
    fn bf16_matmul_packed(w: &[u16], packed: &[f32], cols: usize, out: &mut Columns<'_>) =
        [dense::bf16_matmul_packed::<Portable>, dense::bf16_matmul_packed::<Avx2>, dense::bf16_matmul_packed::<Avx512>];
    /// The same for weights in f16.
    fn f16_matmul_packed(w: &[u16], packed: &[f32], cols: usize, out: &mut Columns<'_>) =
        [dense::f16_matmul_packed::<Portable>, dense::f16_matmul_packed::<Avx2>, dense::f16_matmul_packed::<Avx512>];
    /// Whether the set multiplies bf16 with bf16, so that rounding gains by it.
    fn multiplies_bf16() -> bool =
        [dense::no_pairs, dense::no_pairs, dense::no_pairs];
    /// Values of `x[batch, cols]` rounded to bf16 and packed.
    fn rounded_packed_len(batch: usize, cols: usize) -> usize =
        [dense::packed_len::<Portable>, dense::packed_len::<Avx2>, dense::packed_len::<Avx512>];
    /// Rounds `x[batch, cols]` to bf16 and packs it to `rounded_packed_len` values.
    fn rounded_pack(x: &[f32], cols: usize, packed: &mut [f32]) =
        [dense::pack_rounded::<Portable>, dense::pack_rounded::<Avx2>, dense::pack_rounded::<Avx512>];
    /// `out[b][r] = Σ x[b][k] · w[r][k]` for row-major `w[rows, cols]` in bf16 and rounded `x`.
    fn rounded_matmul_packed(w: &[u16], packed: &[f32], cols: usize, out: &mut Columns<'_>) =
        [dense::bf16_matmul_packed::<Portable>, dense::bf16_matmul_packed::<Avx2>, dense::bf16_matmul_packed::<Avx512>];
    /// `y[b][k] += Σ g[b · g_stride + r] · w[r][col + k]` for row-major `w[rows, cols]` and the
    /// columns that `y` has. Rows are added one after the other, so it does not matter how
    /// they are cut into windows. `memory`, which batches above 16 are faster with,
    /// becomes 576 KiB.
    fn dense_matmul_t(w: &[f32], cols: usize, col: usize, g: &[f32], g_stride: usize, y: &mut Columns<'_>, memory: Option<&mut Vec<f32>>) =
        [dense::matmul_t::<Portable>, dense::matmul_t::<Avx2>, dense::matmul_t::<Avx512>];
    /// `y[i] += g · w[i]`.
    fn add_scaled(g: f32, w: &[f32], y: &mut [f32]) =
        [dense::add_scaled::portable, dense::add_scaled::avx2, dense::add_scaled::avx512];
    /// Squared error, squared norm and largest error of `b` against `a`.
    fn difference(a: &[f32], b: &[f32]) -> Difference =
        [dense::difference::portable, dense::difference::avx2, dense::difference::avx512];

    /// `c[r][j] −= Σ a[r][k] · b[k][j]` for j < `n` and contiguous `a[rows, depth]`; rows of
    /// `b` and `c` begin a stride apart. `depth` is at most
    /// [`MAX_DEPTH`](update::MAX_DEPTH). The same bits on every instruction set.
    fn subtract_product_f32(a: &[f32], depth: usize, b: &[f32], b_stride: usize, c: &mut [f32], c_stride: usize, n: usize) =
        [update::subtract_product_f32::portable, update::subtract_product_f32::avx2, update::subtract_product_f32::avx512];
    /// The same in f64.
    fn subtract_product_f64(a: &[f64], depth: usize, b: &[f64], b_stride: usize, c: &mut [f64], c_stride: usize, n: usize) =
        [update::subtract_product_f64::portable, update::subtract_product_f64::avx2, update::subtract_product_f64::avx512];

    /// `out[r · out_stride + i] = Σ w[r][tap.weight] · x[tap.sample + i]` for i < `n`, or that
    /// added to what is there; each sum in the order of the taps, of which there is one.
    fn conv_sum(w: &Weights<'_>, taps: &[Tap], x: &[f32], out: &mut [f32], out_stride: usize, n: usize, add: bool) =
        [conv::sum::portable, conv::sum::avx2, conv::sum::avx512];
    /// `dst[i · stride + k] = x[offsets[k] + i]` for i < `n`.
    fn conv_patches(x: &[f32], offsets: &[usize], n: usize, dst: &mut [f32], stride: usize) =
        [conv::patches::portable, conv::patches::avx2, conv::patches::avx512];
    /// `out[r · x.rows + v] = Σ w[r][p] · x[v][p]` over `planes`, complex, for one block of
    /// frequencies.
    fn conv_spectra(w: &Spectra<'_>, x: &Spectra<'_>, planes: usize, out: &mut [f32]) =
        [conv::spectra::portable, conv::spectra::avx2, conv::spectra::avx512];

    /// Number of set bits of a mask.
    fn mask_count(mask: &[u8]) -> usize =
        [sparse::count::portable, sparse::count::avx2, sparse::count::avx512];
    /// Opens one masked row into `out` (zeros elsewhere); returns the values taken.
    fn mask_expand_row(mask: &[u8], values: &[f32], out: &mut [f32]) -> usize =
        [sparse::expand_row::portable, sparse::expand_row::avx2, sparse::expand_row::avx512];
    /// Columns of the set bits of one row, which fit `indices`; how many they are.
    fn mask_list(mask: &[u8], indices: &mut [u16]) -> usize =
        [sparse::list_mask::portable, sparse::list_mask::avx2, sparse::list_mask::avx512];
    /// `out[b][r] = Σ x[b][k] · w[r][k]` over the set columns k, for vectors that begin
    /// `stride` apart.
    fn mask_dot(m: &MaskRows<'_>, x: &[f32], stride: usize, out: &mut [f32]) =
        [sparse::mask_dot::portable, sparse::mask_dot::avx2, sparse::mask_dot::avx512];
    /// `sums[r][l] = Σ w[r][k] · panel[k][l]` over the set columns k, for as many lanes as
    /// [`LANES`](sparse::LANES) has and at most [`PANEL_ROWS`](sparse::PANEL_ROWS) rows.
    fn mask_panel(m: &MaskRows<'_>, panel: &[f32], lanes: usize, sums: &mut [f32]) =
        [sparse::mask_panel::portable, sparse::mask_panel::avx2, sparse::mask_panel::avx512];
    /// `y[j] += Σ g[r] · w[r][first + j]`; `first` and, unless it is the last column, the end
    /// are multiples of 64.
    fn mask_add(m: &MaskRows<'_>, g: &[f32], first: usize, y: &mut [f32]) =
        [sparse::mask_add::portable, sparse::mask_add::avx2, sparse::mask_add::avx512];
    /// Whether the columns of every row rise and are below `cols`, and the rows' bounds are
    /// inside the list.
    fn index_ascend(bounds: &[u32], indices: &[u16], cols: usize) -> bool =
        [sparse::ascend::portable, sparse::ascend::avx2, sparse::ascend::avx512];
    /// `out[r] = Σ w[r][k] · x[k]` over the columns k of the lists.
    fn index_dot(m: &IndexRows<'_>, x: &[f32; sparse::INDEX_COLS], out: &mut [f32]) =
        [sparse::index_dot::portable, sparse::index_dot::avx2, sparse::index_dot::avx512];
    /// `sums[r][l] = Σ w[r][k] · panel[k][l]` as `mask_panel`, in blocks of so many columns.
    fn index_panel(m: &IndexRows<'_>, panel: &[f32], lanes: usize, block: usize, sums: &mut [f32]) =
        [sparse::index_panel::portable, sparse::index_panel::avx2, sparse::index_panel::avx512];
    /// `y[j][l] += Σ g[r][l] · w[r][first + j]` for one lane or as `mask_panel`.
    fn index_add(m: &IndexRows<'_>, g: &[f32], lanes: usize, first: usize, y: &mut [f32]) =
        [sparse::index_add::portable, sparse::index_add::avx2, sparse::index_add::avx512];

    /// Positions of one segment from the Rice codes of their gaps, see
    /// [`positions`]: `out.len()` of them, strictly increasing and below 65,536. False
    /// for streams that hold anything else.
    fn positions_decode(k: u32, remainders: &[u8], quotients: &[u8], out: &mut [u32]) -> bool =
        [positions::rice::portable, positions::rice::avx2, positions::rice::avx512];
    /// Number of increasing positions below `limit`.
    fn positions_below(positions: &[u32], limit: u32) -> usize =
        [positions::below::portable, positions::below::avx2, positions::below::avx2];
    /// `Σ ± x[p − base]` over the positions, minus where bit `first + i` of `signs` is set.
    fn gather_signed(positions: &[u32], base: u32, signs: &[u8], first: usize, x: &[f32]) -> f32 =
        [positions::signed::portable, positions::signed::avx2, positions::signed::avx512];
    /// `p − base` of the positions, which are less than 65,536 above it, in 16 bits.
    fn positions_narrow(positions: &[u32], base: u32, out: &mut [u16]) =
        [positions::narrow::portable, positions::narrow::avx2, positions::narrow::avx512];
    /// `out[i] = ± scale`, minus where bit `first + i` of `signs` is set.
    fn sign_values(signs: &[u8], first: usize, scale: f32, out: &mut [f32]) =
        [positions::sign_values::portable, positions::sign_values::avx2, positions::sign_values::avx512];
    /// `dst[c · stride + r] = src[r · cols + c]` for every row of `src`, at most `stride`.
    fn transpose(src: &[f32], cols: usize, dst: &mut [f32], stride: usize) =
        [positions::transpose::portable, positions::transpose::avx2, positions::transpose::avx2];
    /// `out[i] = popcount(query & items[i])` for rows of `query.len()` words.
    fn bit_overlaps(query: &[u64], items: &[u64], out: &mut [u32]) =
        [bits::overlaps::portable, bits::overlaps::avx2, bits::overlaps::avx512];
    /// `out[row] = Σ v · x[slot]`; with pairs `Σ v · conj(x[slot])`, complex.
    fn spmm_one(m: &SparseRows<'_>, x: &[f32], out: &mut [f32]) =
        [spmm::one::portable, spmm::one::avx2, spmm::one::avx512];
    /// The same for sixteen vectors: where `spmm_one` has a number, `x` and `out` have
    /// one of each.
    fn spmm_lanes(m: &SparseRows<'_>, x: &[f32], out: &mut [f32]) =
        [spmm::lanes::portable, spmm::lanes::avx2, spmm::lanes::avx512];
    /// `y[slot − range.start] += v · g[row]` for the slots in `range`; with pairs
    /// `v · conj(g[row])`, complex.
    fn spmm_add_one(m: &SparseRows<'_>, g: &[f32], range: std::ops::Range<u32>, y: &mut [f32]) =
        [spmm::add_one::portable, spmm::add_one::avx2, spmm::add_one::avx512];
    /// The same for sixteen vectors.
    fn spmm_add_lanes(m: &SparseRows<'_>, g: &[f32], range: std::ops::Range<u32>, y: &mut [f32]) =
        [spmm::add_lanes::portable, spmm::add_lanes::avx2, spmm::add_lanes::avx512];

    /// Byte j of every element of `width` bytes (1, 2, 4, 8) to plane j; the tail that
    /// fills no element as it is. `dst` is as long as `src`.
    fn shuffle(src: &[u8], dst: &mut [u8], width: usize) =
        [bytes::shuffle, bytes::x86::shuffle, bytes::x86::shuffle];
    /// The inverse of `shuffle`.
    fn unshuffle(src: &[u8], dst: &mut [u8], width: usize) =
        [bytes::unshuffle, bytes::x86::unshuffle, bytes::x86::unshuffle];
    /// Bit b of every byte to plane b, which begins at `dst[b * stride]` and is
    /// `src.len() / 8` long; the first byte's bit is the lowest. `src.len()` is a
    /// multiple of 8.
    fn bit_split(src: &[u8], dst: &mut [u8], stride: usize) =
        [bytes::bit_split, bytes::x86::bit_split, bytes::x86::bit_split_512];
    /// The inverse of `bit_split`: planes in `src`, `dst.len()` a multiple of 8.
    fn bit_join(src: &[u8], dst: &mut [u8], stride: usize) =
        [bytes::bit_join, bytes::x86::bit_join, bytes::x86::bit_join_512];
    /// Wrapping differences of little-endian integers of `width` bytes; the tail as it
    /// is. `dst` is as long as `src`.
    fn delta(src: &[u8], dst: &mut [u8], width: usize) =
        [bytes::delta::portable, bytes::delta::avx2, bytes::delta::avx512];
    /// The inverse of `delta`.
    fn undelta(src: &[u8], dst: &mut [u8], width: usize) =
        [bytes::undelta::portable, bytes::undelta::avx2, bytes::undelta::avx512];

    /// Encodes `src`, last symbol first, with 32 or 64 states. Its words go before the end of
    /// `words`, which holds two bytes for each of `src`; returns where they begin. Only
    /// bytes with a frequency may occur.
    fn rans_encode(table: &EncodeTable, states: &mut [u32], src: &[u8], words: &mut [u8]) -> usize =
        [rans::encode::portable, rans::encode::avx2, rans::encode::avx512];
    /// Decodes all of `out` from the front of `words`, with 32 or 64 states. Returns the
    /// bytes of words read, or `None` if there are too few.
    fn rans_decode(table: &DecodeTable, states: &mut [u32], words: &[u8], out: &mut [u8]) -> Option<usize> =
        [rans::decode::portable, rans::decode::avx2, rans::decode::avx512];

    /// Bits of every element of `width` bytes moved one place up, the top one to the
    /// bottom; the tail as it is. `dst` is as long as `src`.
    fn rotate(src: &[u8], dst: &mut [u8], width: usize) =
        [rotate::up::portable, rotate::up::avx2, rotate::up::avx512];
    /// The inverse of `rotate`.
    fn unrotate(src: &[u8], dst: &mut [u8], width: usize) =
        [rotate::down::portable, rotate::down::avx2, rotate::down::avx512];

    /// Decodes a unit of `rows.len() × cols.len()` entropy-coded indices, whose row and
    /// column codes are given, to rows of `out` that begin every `stride` values. Whether
    /// the bytes were those of such a unit: if not, `out` holds nothing of use.
    fn ecq_decode(d: &Decoder, rows: &[u8], cols: &[u8], bytes: &[u8], out: &mut [f32], stride: usize) -> bool =
        [ecq::decode::portable, ecq::decode::avx2, ecq::decode::avx512];
    /// Indices of one row without a trellis. `x` becomes the weights over the step.
    fn ecq_round(c: &Chooser, w: &[f32], row: u8, cols: &[u8], x: &mut [f32], out: &mut [i32]) =
        [ecq::round::portable, ecq::round::avx2, ecq::round::avx512];
    /// Indices of up to 16 rows through the trellis. `x` becomes the weights over the step.
    fn ecq_trellis(c: &Chooser, w: &[f32], rows: &[u8], cols: &[u8], paths: &mut Paths, x: &mut [f32], out: &mut [i32]) =
        [ecq::trellis::portable, ecq::trellis::avx2, ecq::trellis::avx512];

    then avx512vnni {
        dot_batch = dot::batch::avx512vnni;
        dot_narrow = dot::narrow::avx512vnni;
        dot_narrow_pays = dot::narrow::pays;
        dot_tiles = dot::tiles::avx512vnni;
        mask_count = sparse::vbmi2::count;
        mask_list = sparse::vbmi2::list_mask;
        mask_panel = sparse::vbmi2::mask_panel;
    }
    then avx512bf16 {
        multiplies_bf16 = dense::pairs::are_there;
        rounded_packed_len = dense::pairs::packed_len::<Avx512Bf16>;
        rounded_pack = dense::pairs::pack::<Avx512Bf16>;
        rounded_matmul_packed = dense::pairs::matmul_packed::<Avx512Bf16>;
    }
    then neon {
        dot_batch = dot::batch::neon;
        dot_narrow = dot::narrow::neon;
        dot_tiles = dot::tiles::neon;
        quant_add = quant::transposed::add::<Neon>;
        dense_matmul = dense::matmul::<Neon>;
        dense_matmul_into = dense::matmul_into::<Neon>;
        dense_packed_len = dense::packed_len::<Neon>;
        dense_pack = dense::pack::<Neon>;
        dense_matmul_packed = dense::matmul_packed::<Neon>;
        bf16_matmul_packed = dense::bf16_matmul_packed::<Neon>;
        f16_matmul_packed = dense::f16_matmul_packed::<Neon>;
        rounded_packed_len = dense::packed_len::<Neon>;
        rounded_pack = dense::pack_rounded::<Neon>;
        rounded_matmul_packed = dense::bf16_matmul_packed::<Neon>;
        dense_matmul_t = dense::matmul_t::<Neon>;
        mask_count = sparse::count::neon;
        mask_expand_row = sparse::expand_row::neon;
        mask_list = sparse::list_mask::neon;
        mask_dot = sparse::mask_dot::neon;
        mask_panel = sparse::mask_panel::neon;
        mask_add = sparse::mask_add::neon;
        index_ascend = sparse::ascend::neon;
        index_dot = sparse::index_dot::neon;
        index_panel = sparse::index_panel::neon;
        index_add = sparse::index_add::neon;
    }
    then neoni8mm {
        dot_tiles = dot::tiles::neoni8mm;
    }
}
