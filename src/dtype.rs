//! Element types and their conversion to and from f32, a slice at a time.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::error::{Error, Result};

/// Element type of a dense tensor. Multi-byte elements are little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum DType {
    F64 = 1,
    F32 = 2,
    F16 = 3,
    BF16 = 4,
    I64 = 5,
    I32 = 6,
    I16 = 7,
    I8 = 8,
    U64 = 9,
    U32 = 10,
    U16 = 11,
    U8 = 12,
    /// One byte, 0 or 1.
    Bool = 13,
}

impl DType {
    /// Every dtype, in the order of its number.
    pub const ALL: [Self; 13] = [
        Self::F64,
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::I64,
        Self::I32,
        Self::I16,
        Self::I8,
        Self::U64,
        Self::U32,
        Self::U16,
        Self::U8,
        Self::Bool,
    ];

    /// The dtype with this number in the C ABI.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|d| *d as u8 == code)
    }

    /// The dtype with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|d| d.name() == name)
    }

    /// Lower-case name: `f32`, `bf16`, `i8`, `bool`, …
    pub fn name(self) -> &'static str {
        match self {
            Self::F64 => "f64",
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
            Self::I64 => "i64",
            Self::I32 => "i32",
            Self::I16 => "i16",
            Self::I8 => "i8",
            Self::U64 => "u64",
            Self::U32 => "u32",
            Self::U16 => "u16",
            Self::U8 => "u8",
            Self::Bool => "bool",
        }
    }

    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Self::F64 | Self::I64 | Self::U64 => 8,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::F16 | Self::BF16 | Self::I16 | Self::U16 => 2,
            Self::I8 | Self::U8 | Self::Bool => 1,
        }
    }

    /// f64, f32, f16 or bf16: what a lossy form may be asked to store.
    pub fn is_float(self) -> bool {
        matches!(self, Self::F64 | Self::F32 | Self::F16 | Self::BF16)
    }

    /// Converts little-endian elements of this dtype to f32.
    ///
    /// f64 and the wide integers are rounded to the nearest f32; everything else is
    /// exact. `bytes` need not be aligned. Panics unless
    /// `bytes.len() == out.len() * self.size()`.
    pub fn to_f32(self, bytes: &[u8], out: &mut [f32]) {
        assert_eq!(bytes.len(), out.len() * self.size());
        macro_rules! each {
            ($t:ty) => {{
                const N: usize = size_of::<$t>();
                let (src, _) = bytes.as_chunks::<N>();
                for (o, b) in out.iter_mut().zip(src) {
                    *o = <$t>::from_le_bytes(*b) as f32;
                }
            }};
        }
        match self {
            Self::F32 => bytemuck::cast_slice_mut(out).copy_from_slice(bytes),
            Self::F16 => match bytemuck::try_cast_slice::<u8, f16>(bytes) {
                Ok(src) => src.convert_to_f32_slice(out),
                Err(_) => {
                    let (src, _) = bytes.as_chunks::<2>();
                    for (o, b) in out.iter_mut().zip(src) {
                        *o = f16::from_le_bytes(*b).to_f32();
                    }
                }
            },
            Self::BF16 => {
                let (src, _) = bytes.as_chunks::<2>();
                for (o, b) in out.iter_mut().zip(src) {
                    *o = f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16);
                }
            }
            Self::F64 => each!(f64),
            Self::I64 => each!(i64),
            Self::I32 => each!(i32),
            Self::I16 => each!(i16),
            Self::I8 => each!(i8),
            Self::U64 => each!(u64),
            Self::U32 => each!(u32),
            Self::U16 => each!(u16),
            Self::U8 | Self::Bool => each!(u8),
        }
    }

    /// Converts f32 to little-endian elements of this dtype: to nearest, ties to even,
    /// integers saturating (NaN becomes 0), bool as `v != 0`.
    ///
    /// Panics unless `out.len() == values.len() * self.size()`.
    pub fn from_f32(self, values: &[f32], out: &mut [u8]) {
        assert_eq!(out.len(), values.len() * self.size());
        macro_rules! each {
            (|$v:ident| $to:expr, $n:literal) => {{
                let (dst, _) = out.as_chunks_mut::<$n>();
                for (o, &$v) in dst.iter_mut().zip(values) {
                    *o = $to.to_le_bytes();
                }
            }};
        }
        match self {
            Self::F32 => out.copy_from_slice(bytemuck::cast_slice(values)),
            Self::F16 => match bytemuck::try_cast_slice_mut::<u8, f16>(out) {
                Ok(dst) => dst.convert_from_f32_slice(values),
                Err(_) => each!(|v| f16::from_f32(v), 2),
            },
            Self::BF16 => each!(|v| bf16::from_f32(v), 2),
            Self::F64 => each!(|v| f64::from(v), 8),
            Self::I64 => each!(|v| (v.round_ties_even() as i64), 8),
            Self::I32 => each!(|v| (v.round_ties_even() as i32), 4),
            Self::I16 => each!(|v| (v.round_ties_even() as i16), 2),
            Self::I8 => each!(|v| (v.round_ties_even() as i8), 1),
            Self::U64 => each!(|v| (v.round_ties_even() as u64), 8),
            Self::U32 => each!(|v| (v.round_ties_even() as u32), 4),
            Self::U16 => each!(|v| (v.round_ties_even() as u16), 2),
            Self::U8 => each!(|v| (v.round_ties_even() as u8), 1),
            Self::Bool => each!(|v| u8::from(v != 0.0), 1),
        }
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for DType {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        Self::from_name(s).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|d| d.name()).collect();
            Error::invalid(format!(
                "unknown dtype '{s}'; known are {}",
                names.join(", ")
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_codes_are_frozen() {
        let list: Vec<_> = DType::ALL.iter().map(|d| (*d as u8, d.name())).collect();
        assert_eq!(
            list,
            [
                (1, "f64"),
                (2, "f32"),
                (3, "f16"),
                (4, "bf16"),
                (5, "i64"),
                (6, "i32"),
                (7, "i16"),
                (8, "i8"),
                (9, "u64"),
                (10, "u32"),
                (11, "u16"),
                (12, "u8"),
                (13, "bool"),
            ]
        );
        for d in DType::ALL {
            assert_eq!(DType::from_code(d as u8), Some(d));
            assert_eq!(d.name().parse::<DType>().unwrap(), d);
        }
        assert_eq!(DType::from_code(0), None);
        assert_eq!(DType::from_code(14), None);
    }

    #[test]
    fn small_integers_survive_every_dtype_at_every_alignment() {
        let values = [0.0f32, 1.0, 1.0, 0.0, 1.0];
        for d in DType::ALL {
            for shift in 0..3 {
                let mut raw = vec![0u8; values.len() * d.size() + shift];
                d.from_f32(&values, &mut raw[shift..]);
                let mut back = [9.0f32; 5];
                d.to_f32(&raw[shift..], &mut back);
                assert_eq!(back, values, "{d}");
            }
        }
    }

    #[test]
    fn rounding_saturates_and_ties_to_even() {
        let mut out = [0u8; 4];
        DType::I8.from_f32(&[300.0, -300.0, 2.5, f32::NAN], &mut out);
        assert_eq!(out, [127, 128, 2, 0]);
        let mut out = [0u8; 2];
        DType::BF16.from_f32(&[1.0 + 1.0 / 256.0], &mut out);
        assert_eq!(u16::from_le_bytes(out), 0x3f80);
    }
}
