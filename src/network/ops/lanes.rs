//! Sixteen channels at a time, and the functions that operators apply to them.
//!
//! Written as loops: the adapters of arrays are not always inlined, and then are compiled for the baseline.

use bytemuck::Pod;

/// Channels handled together: one AVX-512 register, two of AVX2, four of NEON.
pub(in crate::network) const LANES: usize = 16;

/// A run of channels.
pub(super) type Lanes = [f32; LANES];

/// The first [`LANES`] of `values`, or all of them and zeros.
#[inline(always)]
pub(super) fn load<T: Pod>(values: &[T]) -> [T; LANES] {
    if let Some(lanes) = values.first_chunk() {
        return *lanes;
    }
    let mut lanes = [T::zeroed(); LANES];
    lanes.iter_mut().zip(values).for_each(|(lane, value)| *lane = *value);
    lanes
}

/// Writes `lanes` to the first [`LANES`] of `values`, or to all of them.
#[inline(always)]
pub(super) fn store<T: Pod>(lanes: [T; LANES], values: &mut [T]) {
    match values.first_chunk_mut() {
        Some(whole) => *whole = lanes,
        None => values.iter_mut().zip(lanes).for_each(|(value, lane)| *value = lane),
    }
}

/// `x · a + b` in each lane, rounded once.
#[inline(always)]
pub(super) fn fma(x: Lanes, a: Lanes, mut b: Lanes) -> Lanes {
    for i in 0..LANES {
        b[i] = x[i].mul_add(a[i], b[i]);
    }
    b
}

/// `a + b` in each lane.
#[inline(always)]
pub(super) fn add<const N: usize>(mut a: [f32; N], b: [f32; N]) -> [f32; N] {
    for i in 0..N {
        a[i] += b[i];
    }
    a
}

/// `a − b` in each lane.
#[inline(always)]
pub(super) fn sub<const N: usize>(mut a: [f32; N], b: [f32; N]) -> [f32; N] {
    for i in 0..N {
        a[i] -= b[i];
    }
    a
}

/// `a · factor` in each lane.
#[inline(always)]
pub(super) fn scaled<const N: usize>(mut a: [f32; N], factor: f32) -> [f32; N] {
    for value in &mut a {
        *value *= factor;
    }
    a
}

/// `−a` in each lane.
#[inline(always)]
pub(super) fn negated(mut a: Lanes) -> Lanes {
    for value in &mut a {
        *value = -*value;
    }
    a
}

/// [`silu`] in each lane.
#[inline(always)]
pub(super) fn silus(mut x: Lanes) -> Lanes {
    for value in &mut x {
        *value = silu(*value);
    }
    x
}

/// x / (1 + e⁻ˣ).
#[inline(always)]
pub(super) fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// e to the power of `x`, within 2 units in the last place where −87 ≤ x ≤ 88; beyond, the value at that end. No
/// branch, no table, every step rounded the same way everywhere.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    // Adding and taking away 1.5·2²³ rounds to the nearest integer, which is also left in the low bits.
    const ROUND: f32 = 12_582_912.0;
    // ln 2 in two parts, the first with few enough bits that its product with a power's exponent is exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = x.clamp(-87.0, 88.0);
    let rounded = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = rounded - ROUND;
    let r = n.mul_add(-LN2_LOW, n.mul_add(-LN2_HIGH, x));
    // Minimax polynomial of Cephes (Moshier) for eʳ on ±ln 2 / 2.
    let p = 1.987_569_1e-4_f32;
    let p = p.mul_add(r, 1.398_199_9e-3);
    let p = p.mul_add(r, 8.333_452e-3);
    let p = p.mul_add(r, 4.166_579_6e-2);
    let p = p.mul_add(r, 1.666_666_6e-1);
    let p = p.mul_add(r, 5e-1);
    let p = (p * r).mul_add(r, r) + 1.0;
    let power = rounded.to_bits().wrapping_shl(23).wrapping_add(1.0f32.to_bits());
    p * f32::from_bits(power)
}
