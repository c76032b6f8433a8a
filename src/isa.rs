//! Instruction sets, chosen at run time. The only unsafe code of what is computed.
#![allow(unsafe_code)]

/// Work that is compiled for each instruction set.
pub(crate) trait Task {
    /// Does it. To be `#[inline(always)]`, as all it calls, or it is compiled for the baseline only.
    fn run<S: Simd>(self);
}

/// What the compiler does not make of a portable loop by itself: sums of products of integers, two products at a time.
/// They wrap around.
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
}

/// An instruction set that this CPU has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Isa {
    /// What the target has at the least. On aarch64 that includes NEON and fused multiply-add; on x86-64 the fusion
    /// is a call for every product, slow but of the same bits.
    Baseline,
    /// AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512F.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Isa {
    /// The best of [`Self::all`].
    pub fn best() -> Self {
        Self::all().last().unwrap_or(Self::Baseline)
    }

    /// All that this CPU has, slowest first.
    pub fn all() -> impl Iterator<Item = Self> {
        #[cfg(target_arch = "x86_64")]
        let more = {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            let avx512 = avx2 && is_x86_feature_detected!("avx512f");
            [avx2.then_some(Self::Avx2), avx512.then_some(Self::Avx512)]
        };
        #[cfg(not(target_arch = "x86_64"))]
        let more: [Option<Self>; 0] = [];
        std::iter::once(Self::Baseline).chain(more.into_iter().flatten())
    }

    /// Does `task` with this instruction set. It is never inlined into its caller, which keeps the registers of the
    /// inner loops to themselves.
    pub fn run<T: Task>(self, task: T) {
        match self {
            Self::Baseline => baseline(task),
            // SAFETY: values of these variants come from `all` alone, which asked the CPU.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { avx2(task) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => unsafe { avx512(task) },
        }
    }
}

#[inline(never)]
fn baseline<T: Task>(task: T) {
    task.run::<Portable>();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
#[inline(never)]
fn avx2<T: Task>(task: T) {
    task.run::<x86_64::Avx2>();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx2,fma")]
#[inline(never)]
fn avx512<T: Task>(task: T) {
    task.run::<x86_64::Avx2>();
}

/// As the loop says. That of NEON multiplies, widens and adds in one.
struct Portable;

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

#[cfg(target_arch = "x86_64")]
mod x86_64 {
    use std::arch::x86_64::{
        __m256i, _mm256_add_epi32, _mm256_madd_epi16, _mm256_set1_epi32, _mm256_unpackhi_epi16, _mm256_unpacklo_epi16,
    };

    use super::Simd;

    /// Used where the CPU has AVX2 alone: only [`super::Isa::run`] names it.
    pub(super) struct Avx2;

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
}
