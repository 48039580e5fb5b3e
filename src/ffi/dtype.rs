//! Element types. Elements of more than one byte are little-endian.

use std::ffi::CStr;

use safer_ffi::{c_char, ffi_export};

use super::guard::plain;
use super::ptr::borrowed;
use crate::dtype::DType;
use crate::error::{Error, Result};

/// IEEE 754 double.
pub const CORTEX_DTYPE_F64: u32 = 1;
/// IEEE 754 single.
pub const CORTEX_DTYPE_F32: u32 = 2;
/// IEEE 754 half.
pub const CORTEX_DTYPE_F16: u32 = 3;
/// The upper half of a single.
pub const CORTEX_DTYPE_BF16: u32 = 4;
/// Signed, 8 bytes.
pub const CORTEX_DTYPE_I64: u32 = 5;
/// Signed, 4 bytes.
pub const CORTEX_DTYPE_I32: u32 = 6;
/// Signed, 2 bytes.
pub const CORTEX_DTYPE_I16: u32 = 7;
/// Signed, 1 byte.
pub const CORTEX_DTYPE_I8: u32 = 8;
/// Unsigned, 8 bytes.
pub const CORTEX_DTYPE_U64: u32 = 9;
/// Unsigned, 4 bytes.
pub const CORTEX_DTYPE_U32: u32 = 10;
/// Unsigned, 2 bytes.
pub const CORTEX_DTYPE_U16: u32 = 11;
/// Unsigned, 1 byte.
pub const CORTEX_DTYPE_U8: u32 = 12;
/// One byte, 0 or 1.
pub const CORTEX_DTYPE_BOOL: u32 = 13;

/// Every dtype, with its number in the ABI.
const DTYPES: [(u32, DType, &CStr); 13] = [
    (CORTEX_DTYPE_F64, DType::F64, c"f64"),
    (CORTEX_DTYPE_F32, DType::F32, c"f32"),
    (CORTEX_DTYPE_F16, DType::F16, c"f16"),
    (CORTEX_DTYPE_BF16, DType::BF16, c"bf16"),
    (CORTEX_DTYPE_I64, DType::I64, c"i64"),
    (CORTEX_DTYPE_I32, DType::I32, c"i32"),
    (CORTEX_DTYPE_I16, DType::I16, c"i16"),
    (CORTEX_DTYPE_I8, DType::I8, c"i8"),
    (CORTEX_DTYPE_U64, DType::U64, c"u64"),
    (CORTEX_DTYPE_U32, DType::U32, c"u32"),
    (CORTEX_DTYPE_U16, DType::U16, c"u16"),
    (CORTEX_DTYPE_U8, DType::U8, c"u8"),
    (CORTEX_DTYPE_BOOL, DType::Bool, c"bool"),
];

fn find(number: u32) -> Option<(DType, &'static CStr)> {
    let known = DTYPES.iter().find(|(n, ..)| *n == number);
    known.map(|(_, dtype, name)| (*dtype, *name))
}

/// The dtype of this number, or an error that names the argument.
pub(super) fn dtype(number: u32, name: &str) -> Result<DType> {
    match find(number) {
        Some((dtype, _)) => Ok(dtype),
        None => Err(Error::invalid(format!(
            "{name} is {number}, which is no dtype"
        ))),
    }
}

/// The name of a dtype, "f32" or "bool"; NULL for a number that is none. Lives for ever.
#[ffi_export]
pub fn cortex_dtype_name(dtype: u32) -> *const c_char {
    plain(std::ptr::null(), || {
        find(dtype).map_or(std::ptr::null(), |(_, name)| borrowed(name))
    })
}

/// Bytes of one element; 0 for a number that is no dtype.
#[ffi_export]
pub fn cortex_dtype_bytes(dtype: u32) -> usize {
    plain(0, || find(dtype).map_or(0, |(dtype, _)| dtype.size()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_those_of_the_core() {
        for ((number, dtype, _), listed) in DTYPES.into_iter().zip(DType::ALL) {
            assert_eq!(dtype, listed);
            assert_eq!(number, dtype as u32);
            assert_eq!(super::dtype(number, "x.dtype").ok(), Some(dtype));
            // SAFETY: a static text.
            let name = unsafe { std::ffi::CStr::from_ptr(cortex_dtype_name(number).cast()) };
            assert_eq!(name.to_str(), Ok(dtype.name()));
            assert_eq!(cortex_dtype_bytes(number), dtype.size());
        }
        for number in [0, 14, 256 + 2, u32::MAX] {
            assert!(cortex_dtype_name(number).is_null());
            assert_eq!(cortex_dtype_bytes(number), 0);
            assert!(super::dtype(number, "x.dtype").is_err());
        }
    }
}
