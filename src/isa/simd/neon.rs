//! NEON, which every aarch64 has, and its dot products, which newer ones have (from Cortex-A55 and A75 on).

use std::arch::aarch64::{
    int16x8_t, int32x4_t, vget_low_s16, vld1q_s8, vld1q_s16, vld1q_s32, vmlal_high_n_s16, vmlal_n_s16, vst1q_s32,
};
use std::arch::asm;

use super::Simd;

/// What [`crate::isa::Isa::Baseline`] means on aarch64.
pub struct Neon;

impl Simd for Neon {
    type Sums = [int32x4_t; 4];
    type Pair = [[int16x8_t; 2]; 2];

    #[inline(always)]
    fn sums(values: [i32; 16]) -> Self::Sums {
        let [a, b, c, d]: [[i32; 4]; 4] = bytemuck::cast(values);
        // SAFETY: each array holds the four values that are read.
        unsafe { [vld1q_s32(a.as_ptr()), vld1q_s32(b.as_ptr()), vld1q_s32(c.as_ptr()), vld1q_s32(d.as_ptr())] }
    }

    #[inline(always)]
    fn values(sums: Self::Sums) -> [i32; 16] {
        let mut values = [[0; 4]; 4];
        for (values, sums) in values.iter_mut().zip(sums) {
            // SAFETY: the array holds the four values that are written.
            unsafe { vst1q_s32(values.as_mut_ptr(), sums) };
        }
        bytemuck::cast(values)
    }

    #[inline(always)]
    fn pair(first: &[i16; 16], second: &[i16; 16]) -> Self::Pair {
        // SAFETY: each half of an array holds the eight values that are read.
        let halves = |w: &[i16; 16]| unsafe { [vld1q_s16(w.as_ptr()), vld1q_s16(w[8..].as_ptr())] };
        [halves(first), halves(second)]
    }

    #[inline(always)]
    fn add_products(mut sums: Self::Sums, values: [i16; 2], pair: Self::Pair) -> Self::Sums {
        for i in 0..2 {
            for half in 0..2 {
                let (value, weights) = (values[i], pair[i][half]);
                // SAFETY: every aarch64 has NEON.
                unsafe {
                    sums[2 * half] = vmlal_n_s16(sums[2 * half], vget_low_s16(weights), value);
                    sums[2 * half + 1] = vmlal_high_n_s16(sums[2 * half + 1], weights, value);
                }
            }
        }
        sums
    }
}

/// Used where the CPU has dot products: only [`crate::isa::Isa::run`] names it.
pub struct NeonDots;

impl Simd for NeonDots {
    type Sums = <Neon as Simd>::Sums;
    type Pair = <Neon as Simd>::Pair;

    #[inline(always)]
    fn sums(values: [i32; 16]) -> Self::Sums {
        Neon::sums(values)
    }

    #[inline(always)]
    fn values(sums: Self::Sums) -> [i32; 16] {
        Neon::values(sums)
    }

    #[inline(always)]
    fn pair(first: &[i16; 16], second: &[i16; 16]) -> Self::Pair {
        Neon::pair(first, second)
    }

    #[inline(always)]
    fn add_products(sums: Self::Sums, values: [i16; 2], pair: Self::Pair) -> Self::Sums {
        Neon::add_products(sums, values, pair)
    }

    #[inline(always)]
    fn add_dots<const Q: usize>(mut sums: Self::Sums, values: &[i8; 16], weights: &[[i8; 4]; 16]) -> Self::Sums {
        // SAFETY: the array holds the sixteen values that are read.
        let values = unsafe { vld1q_s8(values.as_ptr()) };
        for (sums, weights) in sums.iter_mut().zip(weights.as_chunks::<4>().0) {
            // SAFETY: the array holds the sixteen weights that are read; the CPU has the instruction, which touches no
            // memory. The intrinsic of its name, `vdotq_laneq_s32`, is not stable yet.
            unsafe {
                let weights = vld1q_s8(weights.as_flattened().as_ptr());
                asm!(
                    "sdot {sums:v}.4s, {weights:v}.16b, {values:v}.4b[{quarter}]",
                    sums = inout(vreg) *sums,
                    weights = in(vreg) weights,
                    values = in(vreg) values,
                    quarter = const Q,
                    options(pure, nomem, nostack, preserves_flags),
                );
            }
        }
        sums
    }
}
