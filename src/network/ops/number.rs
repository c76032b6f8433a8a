//! What sums of products are made of: `f32`, or integers, whose sums are exact: of `i16`, or of digits of `i8`.

use bytemuck::Pod;

use super::lanes::{LANES, Lanes, add, scaled, sub};
use crate::isa::Simd;

/// A number that is multiplied, or several at once, and what products are summed in. Integers wrap around.
pub(super) trait Number: Pod + Sync {
    /// A sum of products.
    type Sum: Pod;
    /// Whether the values of a pixel lie in a register while they are multiplied, beside its sums.
    const LOADED: bool = false;

    /// Times 256, before the products of the next lower digit are added. Nothing where there are no digits.
    #[inline(always)]
    fn raised(sums: [Self::Sum; LANES]) -> [Self::Sum; LANES] {
        sums
    }

    /// As `f32`, rounded once.
    fn floats(sums: [Self::Sum; LANES]) -> Lanes;

    /// Adds to each row's sums its values times their weights, `[values of a row, LANES]`, from first to last.
    fn accumulate<S: Simd, const P: usize>(
        rows: [&[Self]; P],
        weights: &[[Self; LANES]],
        sums: [[Self::Sum; LANES]; P],
    ) -> [[Self::Sum; LANES]; P];
}

/// A number that Winograd's convolution can turn.
pub(super) trait Turnable: Number {
    /// What Winograd's sums must be multiplied by, since weights were turned without fractions.
    const TURNED: f32;

    /// `a + b` in each lane.
    fn add<const N: usize>(a: [Self; N], b: [Self; N]) -> [Self; N];
    /// `a − b` in each lane.
    fn sub<const N: usize>(a: [Self; N], b: [Self; N]) -> [Self; N];
    /// `a + b` in each lane.
    fn add_sums(a: [Self::Sum; LANES], b: [Self::Sum; LANES]) -> [Self::Sum; LANES];
    /// `a − b` in each lane.
    fn sub_sums(a: [Self::Sum; LANES], b: [Self::Sum; LANES]) -> [Self::Sum; LANES];
    /// G of Lavin & Gray times three weights, over [`Self::TURNED`] for every two times.
    fn turned<const N: usize>(weights: [[Self; N]; 3]) -> [[Self; N]; 4];
}

impl Number for f32 {
    type Sum = Self;

    #[inline(always)]
    fn floats(sums: Lanes) -> Lanes {
        sums
    }

    #[inline(always)]
    fn accumulate<S: Simd, const P: usize>(
        mut rows: [&[Self]; P],
        weights: &[Lanes],
        mut sums: [Lanes; P],
    ) -> [Lanes; P] {
        // Of one length that the compiler knows: no bounds are checked below.
        for row in &mut rows {
            *row = &row[..weights.len()];
        }
        for (i, weights) in weights.iter().enumerate() {
            for p in 0..P {
                let value = rows[p][i];
                for lane in 0..LANES {
                    sums[p][lane] = value.mul_add(weights[lane], sums[p][lane]);
                }
            }
        }
        sums
    }
}

impl Turnable for f32 {
    const TURNED: f32 = 1.0;

    #[inline(always)]
    fn add<const N: usize>(a: [Self; N], b: [Self; N]) -> [Self; N] {
        add(a, b)
    }

    #[inline(always)]
    fn sub<const N: usize>(a: [Self; N], b: [Self; N]) -> [Self; N] {
        sub(a, b)
    }

    #[inline(always)]
    fn add_sums(a: Lanes, b: Lanes) -> Lanes {
        add(a, b)
    }

    #[inline(always)]
    fn sub_sums(a: Lanes, b: Lanes) -> Lanes {
        sub(a, b)
    }

    #[inline(always)]
    fn turned<const N: usize>([a, b, c]: [[Self; N]; 3]) -> [[Self; N]; 4] {
        let outer = add(a, c);
        [a, scaled(add(outer, b), 0.5), scaled(sub(outer, b), 0.5), c]
    }
}

impl Number for i16 {
    type Sum = i32;

    #[inline(always)]
    fn floats(sums: [i32; LANES]) -> Lanes {
        let mut floats = [0.0; LANES];
        for i in 0..LANES {
            floats[i] = sums[i] as f32;
        }
        floats
    }

    #[inline(always)]
    fn accumulate<S: Simd, const P: usize>(
        mut rows: [&[Self]; P],
        weights: &[[Self; LANES]],
        mut sums: [[i32; LANES]; P],
    ) -> [[i32; LANES]; P] {
        let (pairs, last) = weights.as_chunks::<2>();
        let mut added = [S::sums([0; LANES]); P];
        let mut values: [&[[Self; 2]]; P] = [&[]; P];
        for p in 0..P {
            rows[p] = &rows[p][..weights.len()];
            values[p] = &rows[p].as_chunks().0[..pairs.len()];
            added[p] = S::sums(sums[p]);
        }
        for i in 0..pairs.len() {
            let pair = S::pair(&pairs[i][0], &pairs[i][1]);
            for p in 0..P {
                added[p] = S::add_products(added[p], values[p][i], pair);
            }
        }
        if let [weights] = last {
            let pair = S::pair(weights, &[0; LANES]);
            for p in 0..P {
                added[p] = S::add_products(added[p], [rows[p][2 * pairs.len()], 0], pair);
            }
        }
        for p in 0..P {
            sums[p] = S::values(added[p]);
        }
        sums
    }
}

impl Turnable for i16 {
    const TURNED: f32 = 0.25;

    #[inline(always)]
    fn add<const N: usize>(mut a: [Self; N], b: [Self; N]) -> [Self; N] {
        for i in 0..N {
            a[i] = a[i].wrapping_add(b[i]);
        }
        a
    }

    #[inline(always)]
    fn sub<const N: usize>(mut a: [Self; N], b: [Self; N]) -> [Self; N] {
        for i in 0..N {
            a[i] = a[i].wrapping_sub(b[i]);
        }
        a
    }

    #[inline(always)]
    fn add_sums(mut a: [i32; LANES], b: [i32; LANES]) -> [i32; LANES] {
        for i in 0..LANES {
            a[i] = a[i].wrapping_add(b[i]);
        }
        a
    }

    #[inline(always)]
    fn sub_sums(mut a: [i32; LANES], b: [i32; LANES]) -> [i32; LANES] {
        for i in 0..LANES {
            a[i] = a[i].wrapping_sub(b[i]);
        }
        a
    }

    #[inline(always)]
    fn turned<const N: usize>([a, b, c]: [[Self; N]; 3]) -> [[Self; N]; 4] {
        let outer = Self::add(a, c);
        [Self::add(a, a), Self::add(outer, b), Self::sub(outer, b), Self::add(c, c)]
    }
}

/// A digit of sixteen integers: of the channels of a pixel as they lie, or of a channel's weights for as many outputs.
pub(super) type Digits = [i8; LANES];

impl Number for Digits {
    type Sum = i32;
    const LOADED: bool = true;

    #[inline(always)]
    fn raised(mut sums: [i32; LANES]) -> [i32; LANES] {
        for sum in &mut sums {
            *sum = sum.wrapping_shl(8);
        }
        sums
    }

    #[inline(always)]
    fn floats(sums: [i32; LANES]) -> Lanes {
        i16::floats(sums)
    }

    /// Here `weights` are in the order of [`quads`].
    #[inline(always)]
    fn accumulate<S: Simd, const P: usize>(
        mut rows: [&[Self]; P],
        weights: &[[Self; LANES]],
        mut sums: [[i32; LANES]; P],
    ) -> [[i32; LANES]; P] {
        let mut added = [S::sums([0; LANES]); P];
        for p in 0..P {
            rows[p] = &rows[p][..weights.len()];
            added[p] = S::sums(sums[p]);
        }
        for (i, weights) in weights.iter().enumerate() {
            let mut values = [&[0; LANES]; P];
            for p in 0..P {
                values[p] = &rows[p][i];
            }
            let weights: &[[[i8; 4]; LANES]; 4] = bytemuck::cast_ref(weights);
            added = add_dots::<S, 0, P>(added, values, weights);
            added = add_dots::<S, 1, P>(added, values, weights);
            added = add_dots::<S, 2, P>(added, values, weights);
            added = add_dots::<S, 3, P>(added, values, weights);
        }
        for p in 0..P {
            sums[p] = S::values(added[p]);
        }
        sums
    }
}

/// Adds to each row's sums the products of the `Q`th four of its values.
#[inline(always)]
fn add_dots<S: Simd, const Q: usize, const P: usize>(
    mut sums: [S::Sums; P],
    values: [&Digits; P],
    weights: &[[[i8; 4]; LANES]; 4],
) -> [S::Sums; P] {
    for p in 0..P {
        sums[p] = S::add_dots::<Q>(sums[p], values[p], &weights[Q]);
    }
    sums
}

/// The weights of up to sixteen channels, `[channels, LANES]`, as dot products take them: `[4, LANES, 4]`, those of four
/// channels side by side. What is missing is 0.
#[inline(always)]
pub(super) fn quads(weights: &[[i8; LANES]]) -> [Digits; LANES] {
    let mut all = [[0; LANES]; LANES];
    for (all, weights) in all.iter_mut().zip(weights) {
        *all = *weights;
    }
    let mut quads = [[[0; 4]; LANES]; 4];
    for (quad, [a, b, c, d]) in quads.iter_mut().zip(all.as_chunks::<4>().0) {
        for lane in 0..LANES {
            quad[lane] = [a[lane], b[lane], c[lane], d[lane]];
        }
    }
    bytemuck::cast(quads)
}
