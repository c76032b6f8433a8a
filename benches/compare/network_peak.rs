//! What one core can do at most: fused multiply-adds on f32, GFLOP/s of processor time as near as a quiet moment tells.
//! `rustc -O -C target-cpu=native -C no-vectorize-loops network_peak.rs`; the best of many short runs, one a line of its own.

use std::hint::black_box;
use std::time::Instant;

/// Sums that do not wait for each other: enough for two units of a latency of five, in registers of any CPU with 16.
const CHAINS: usize = 12;
/// Values of the widest registers that are made use of.
const LANES: usize = if cfg!(target_feature = "avx512f") {
    16
} else if cfg!(target_feature = "avx") {
    8
} else {
    4
};
const ROUNDS: usize = 500_000;

#[inline(never)]
fn run(start: f32, factor: [f32; LANES], summand: [f32; LANES]) -> f32 {
    let mut sums = [[start; LANES]; CHAINS];
    for _ in 0..ROUNDS {
        for sum in &mut sums {
            for lane in 0..LANES {
                sum[lane] = sum[lane].mul_add(factor[lane], summand[lane]);
            }
        }
    }
    sums.iter().flatten().sum()
}

fn main() {
    let mut best = 0.0f64;
    for _ in 0..200 {
        let started = Instant::now();
        black_box(run(black_box(1.0), black_box([0.999; LANES]), black_box([0.1; LANES])));
        let operations = 2 * ROUNDS * CHAINS * LANES;
        best = best.max(operations as f64 / started.elapsed().as_secs_f64() * 1e-9);
    }
    println!("{best:.1}");
}
