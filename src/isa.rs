//! Instruction sets, chosen at run time. The only unsafe code of what is computed.
#![allow(unsafe_code)]

mod simd;

pub(crate) use simd::Simd;

/// Work that is compiled for each instruction set.
pub(crate) trait Task {
    /// Does it. To be `#[inline(always)]`, as all it calls, or it is compiled for the baseline only.
    fn run<S: Simd>(self);
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
    /// AVX-512F and BW.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// The same and VNNI.
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
    /// NEON and its dot products of bytes.
    #[cfg(target_arch = "aarch64")]
    NeonDots,
    /// The baseline made to work as if it had dot products, to compare them on processors that have none.
    #[cfg(test)]
    BaselineDots,
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
            let avx512 = avx2 && is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw");
            let vnni = avx512 && is_x86_feature_detected!("avx512vnni");
            [avx2.then_some(Self::Avx2), avx512.then_some(Self::Avx512), vnni.then_some(Self::Avx512Vnni)]
        };
        #[cfg(target_arch = "aarch64")]
        let more = [std::arch::is_aarch64_feature_detected!("dotprod").then_some(Self::NeonDots)];
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        let more: [Option<Self>; 0] = [];
        #[cfg(test)]
        let least = [Self::BaselineDots, Self::Baseline];
        #[cfg(not(test))]
        let least = [Self::Baseline];
        least.into_iter().chain(more.into_iter().flatten())
    }

    /// Whether integers are best multiplied as bytes, by dot products.
    pub fn has_dots(self) -> bool {
        match self {
            #[cfg(target_arch = "aarch64")]
            Self::NeonDots => true,
            #[cfg(test)]
            Self::BaselineDots => true,
            _ => false,
        }
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
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni => unsafe { avx512_vnni(task) },
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            Self::NeonDots => unsafe { neon_dots(task) },
            #[cfg(test)]
            Self::BaselineDots => baseline(task),
        }
    }
}

#[inline(never)]
fn baseline<T: Task>(task: T) {
    task.run::<simd::Baseline>();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
#[inline(never)]
fn avx2<T: Task>(task: T) {
    task.run::<simd::Avx2>();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx2,fma")]
#[inline(never)]
fn avx512<T: Task>(task: T) {
    task.run::<simd::Avx512<false>>();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2,fma")]
#[inline(never)]
fn avx512_vnni<T: Task>(task: T) {
    task.run::<simd::Avx512<true>>();
}

#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "dotprod")]
#[inline(never)]
fn neon_dots<T: Task>(task: T) {
    task.run::<simd::NeonDots>();
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Count<'a>(&'a mut usize);

    impl Task for Count<'_> {
        #[inline(always)]
        fn run<S: Simd>(self) {
            *self.0 += 1;
        }
    }

    /// `--nocapture` shows which they are: those that the tests of the operators compare.
    #[test]
    fn all_that_this_cpu_has_run() {
        let mut count = 0;
        for isa in Isa::all() {
            isa.run(Count(&mut count));
            println!("runs with {isa:?}");
        }
        assert_eq!(count, Isa::all().count());
        assert_eq!(Isa::all().last(), Some(Isa::best()));
    }
}
