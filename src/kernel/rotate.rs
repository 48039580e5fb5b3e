//! Elements turned by one bit: the inner loop of the filter `rotate`.
//!
//! Of each little-endian element of `width` bytes the bits move one place up, the top one
//! to the bottom. A tail of fewer bytes than an element is copied as it is.

use super::autovec;

macro_rules! rotation {
    ($name:ident, $int:ty, $turn:ident) => {
        #[inline(always)]
        fn $name(src: &[u8], dst: &mut [u8]) {
            const W: usize = size_of::<$int>();
            let (x, tail) = src.as_chunks::<W>();
            let (y, rest) = dst.as_chunks_mut::<W>();
            rest.copy_from_slice(tail);
            for (y, x) in y.iter_mut().zip(x) {
                *y = <$int>::from_le_bytes(*x).$turn(1).to_le_bytes();
            }
        }
    };
}
rotation!(up1, u8, rotate_left);
rotation!(up2, u16, rotate_left);
rotation!(up4, u32, rotate_left);
rotation!(up8, u64, rotate_left);
rotation!(down1, u8, rotate_right);
rotation!(down2, u16, rotate_right);
rotation!(down4, u32, rotate_right);
rotation!(down8, u64, rotate_right);

#[inline(always)]
fn up_body(src: &[u8], dst: &mut [u8], width: usize) {
    assert_eq!(src.len(), dst.len());
    match width {
        1 => up1(src, dst),
        2 => up2(src, dst),
        4 => up4(src, dst),
        8 => up8(src, dst),
        _ => dst.copy_from_slice(src),
    }
}

#[inline(always)]
fn down_body(src: &[u8], dst: &mut [u8], width: usize) {
    assert_eq!(src.len(), dst.len());
    match width {
        1 => down1(src, dst),
        2 => down2(src, dst),
        4 => down4(src, dst),
        8 => down8(src, dst),
        _ => dst.copy_from_slice(src),
    }
}

autovec!(up = up_body; fn(src: &[u8], dst: &mut [u8], width: usize));
autovec!(down = down_body; fn(src: &[u8], dst: &mut [u8], width: usize));
