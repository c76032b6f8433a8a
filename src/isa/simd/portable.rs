//! What every CPU can do.

use super::Simd;

/// As the loops say.
pub struct Portable;

impl Simd for Portable {
    type Sums = [i32; 16];
    type Pair = [[i16; 16]; 2];

    #[inline(always)]
    fn sums(values: [i32; 16]) -> Self::Sums {
        values
    }

    #[inline(always)]
    fn values(sums: Self::Sums) -> [i32; 16] {
        sums
    }

    #[inline(always)]
    fn pair(first: &[i16; 16], second: &[i16; 16]) -> Self::Pair {
        [*first, *second]
    }

    #[inline(always)]
    fn add_products(mut sums: Self::Sums, values: [i16; 2], pair: Self::Pair) -> Self::Sums {
        for (value, weights) in values.into_iter().zip(pair) {
            for (sum, weight) in sums.iter_mut().zip(weights) {
                *sum = sum.wrapping_add(i32::from(value) * i32::from(weight));
            }
        }
        sums
    }
}
