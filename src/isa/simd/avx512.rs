//! AVX-512: what AVX2 does by two instructions, by one; with VNNI the sum too.

use std::arch::x86_64::{
    __m512i, _mm512_add_epi32, _mm512_castsi256_si512, _mm512_castsi512_si256, _mm512_dpwssd_epi32,
    _mm512_extracti64x4_epi64, _mm512_inserti64x4, _mm512_madd_epi16, _mm512_set1_epi32,
};

use super::{Avx2, Simd};

/// Used where the CPU has AVX-512F and BW, and VNNI where it is said: only [`crate::isa::Isa::run`] names it.
pub struct Avx512<const VNNI: bool>;

/// Sums and pairs lie as with [`Avx2`].
impl<const VNNI: bool> Simd for Avx512<VNNI> {
    type Sums = __m512i;
    type Pair = __m512i;

    #[inline(always)]
    fn sums(values: [i32; 16]) -> Self::Sums {
        let [low, high] = Avx2::sums(values);
        // SAFETY: the CPU has AVX-512F.
        unsafe { _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high) }
    }

    #[inline(always)]
    fn values(sums: Self::Sums) -> [i32; 16] {
        // SAFETY: the CPU has AVX-512F.
        unsafe { Avx2::values([_mm512_castsi512_si256(sums), _mm512_extracti64x4_epi64::<1>(sums)]) }
    }

    #[inline(always)]
    fn pair(first: &[i16; 16], second: &[i16; 16]) -> Self::Pair {
        let [low, high] = Avx2::pair(first, second);
        // SAFETY: the CPU has AVX-512F.
        unsafe { _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high) }
    }

    #[inline(always)]
    fn add_products(sums: Self::Sums, values: [i16; 2], pair: Self::Pair) -> Self::Sums {
        // SAFETY: the CPU has AVX-512F and BW, and VNNI where it is used.
        unsafe {
            let values = _mm512_set1_epi32(bytemuck::cast(values));
            match VNNI {
                true => _mm512_dpwssd_epi32(sums, values, pair),
                false => _mm512_add_epi32(sums, _mm512_madd_epi16(values, pair)),
            }
        }
    }
}
