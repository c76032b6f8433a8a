//! AVX2: two products of each sum by one instruction.

use std::arch::x86_64::{
    __m256i, _mm256_add_epi32, _mm256_madd_epi16, _mm256_set1_epi32, _mm256_unpackhi_epi16, _mm256_unpacklo_epi16,
};

use super::Simd;

/// Used where the CPU has AVX2 alone: only [`crate::isa::Isa::run`] names it.
pub struct Avx2;

/// The sums and pairs lie as interleaving leaves them: 0–3 and 8–11, then 4–7 and 12–15.
impl Simd for Avx2 {
    type Sums = [__m256i; 2];
    type Pair = [__m256i; 2];

    #[inline(always)]
    fn sums(v: [i32; 16]) -> Self::Sums {
        let [a, b, c, d]: [[i32; 4]; 4] = bytemuck::cast(v);
        bytemuck::cast([a, c, b, d])
    }

    #[inline(always)]
    fn values(sums: Self::Sums) -> [i32; 16] {
        let [a, c, b, d]: [[i32; 4]; 4] = bytemuck::cast(sums);
        bytemuck::cast([a, b, c, d])
    }

    #[inline(always)]
    fn pair(first: &[i16; 16], second: &[i16; 16]) -> Self::Pair {
        let (first, second) = (bytemuck::cast(*first), bytemuck::cast(*second));
        // SAFETY: the CPU has AVX2.
        unsafe { [_mm256_unpacklo_epi16(first, second), _mm256_unpackhi_epi16(first, second)] }
    }

    #[inline(always)]
    fn add_products(sums: Self::Sums, values: [i16; 2], pair: Self::Pair) -> Self::Sums {
        let add = |sums, weights| {
            // SAFETY: the CPU has AVX2.
            unsafe {
                let values = _mm256_set1_epi32(bytemuck::cast(values));
                _mm256_add_epi32(sums, _mm256_madd_epi16(values, weights))
            }
        };
        [add(sums[0], pair[0]), add(sums[1], pair[1])]
    }
}
