//! Integers multiplied by instructions that the compiler does not find.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(not(target_arch = "aarch64"))]
mod portable;

#[cfg(target_arch = "x86_64")]
pub use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub use avx512::Avx512;
#[cfg(target_arch = "aarch64")]
pub use neon::{Neon as Baseline, NeonDots};
#[cfg(not(target_arch = "aarch64"))]
pub use portable::Portable as Baseline;

/// What the compiler does not make of a portable loop by itself: sums of products of integers, two or four
/// products at a time. They wrap around.
pub(crate) trait Simd {
    /// 16 sums.
    type Sums: Copy;
    /// The weights of two values, for each of the sums.
    type Pair: Copy;

    /// The sums of these values.
    fn sums(values: [i32; 16]) -> Self::Sums;
    /// The values of the sums.
    fn values(sums: Self::Sums) -> [i32; 16];
    /// The weights of a first and a second value.
    fn pair(first: &[i16; 16], second: &[i16; 16]) -> Self::Pair;
    /// `sums + first · its weights + second · its weights`
    fn add_products(sums: Self::Sums, values: [i16; 2], pair: Self::Pair) -> Self::Sums;

    /// `sums` and, for each of them, the four `values` from 4·`Q` on times its `weights`. Used where the instruction set
    /// [has dot products](super::Isa::has_dots); this gives what they give.
    #[inline(always)]
    fn add_dots<const Q: usize>(sums: Self::Sums, values: &[i8; 16], weights: &[[i8; 4]; 16]) -> Self::Sums {
        let mut added = Self::values(sums);
        for lane in 0..16 {
            for i in 0..4 {
                added[lane] = added[lane].wrapping_add(i32::from(values[4 * Q + i]) * i32::from(weights[lane][i]));
            }
        }
        Self::sums(added)
    }
}
