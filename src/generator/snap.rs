//! Snapping a latent to a codebook (van den Oord et al. 2017).

use crate::isa::{Isa, Simd, Task};
use crate::latent::LatentShape;

/// Cells that are looked at side by side.
const LANES: usize = 16;

/// Replaces every cell of `latent` (CHW) by the nearest entry of `codebook` (K×C); of equals, the first. An empty one
/// changes nothing.
pub(super) fn snap(latent: &mut [f32], shape: LatentShape, codebook: &[f32]) {
    let (cells, channels, isa) = (shape.cells(), shape.channels, Isa::best());
    if codebook.is_empty() {
        return;
    }
    for first in (0..cells).step_by(LANES) {
        let mut nearest = [0; LANES];
        isa.run(Nearest { latent: &latent[first..], cells, channels, codebook, nearest: &mut nearest });
        for (cell, entry) in (first..cells).zip(nearest) {
            let entry = &codebook[entry as usize * channels..][..channels];
            latent[cell..].iter_mut().step_by(cells).zip(entry).for_each(|(value, new)| *value = *new);
        }
    }
}

/// Finds the numbers of the entries that the first cells are nearest to.
struct Nearest<'a> {
    /// From the first cell on.
    latent: &'a [f32],
    /// From a value of a cell to the next.
    cells: usize,
    channels: usize,
    codebook: &'a [f32],
    nearest: &'a mut [u32; LANES],
}

impl Task for Nearest<'_> {
    #[inline(always)]
    fn run<S: Simd>(self) {
        let Self { latent, cells, channels, codebook, nearest } = self;
        let mut least = [f32::INFINITY; LANES];
        for (number, entry) in (0..).zip(codebook.chunks_exact(channels)) {
            let mut distances = [0.0; LANES];
            for (values, &entry) in latent.chunks(cells).zip(entry) {
                let mut lanes = [0.0; LANES];
                match values.first_chunk() {
                    Some(whole) => lanes = *whole,
                    None => lanes[..values.len()].copy_from_slice(values),
                }
                for i in 0..LANES {
                    let apart = lanes[i] - entry;
                    distances[i] += apart * apart;
                }
            }
            for i in 0..LANES {
                let is_nearer = distances[i] < least[i];
                least[i] = if is_nearer { distances[i] } else { least[i] };
                nearest[i] = if is_nearer { number } else { nearest[i] };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_snap_to_the_nearest_entry() {
        let shape = LatentShape { channels: 2, height: 1, width: 3 };
        let codebook = [0.0, 0.0, 1.0, 1.0, 0.0, 2.0];
        let mut latent = [0.1, 0.9, 0.2, /* second channel */ 0.3, 0.8, 1.6];
        snap(&mut latent, shape, &codebook);
        assert_eq!(latent, [0.0, 1.0, 0.0, 0.0, 1.0, 2.0]);
        snap(&mut latent, shape, &[]);
        assert_eq!(latent, [0.0, 1.0, 0.0, 0.0, 1.0, 2.0]);
    }

    #[test]
    fn of_equals_the_first_and_every_cell_by_itself() {
        // 45 cells: two whole runs of lanes, and some.
        let shape = LatentShape { channels: 3, height: 5, width: 9 };
        let value = |i: usize| (i * 37 % 64) as f32 / 8.0;
        let mut codebook: Vec<f32> = (0..3 * 20).map(value).collect();
        codebook.extend_from_within(..6);
        let latent: Vec<f32> = (0..3 * 45).map(|i| value(i * 5) + 0.25).collect();
        let mut snapped = latent.clone();
        snap(&mut snapped, shape, &codebook);
        for cell in 0..45 {
            let of = |values: &[f32]| [values[cell], values[45 + cell], values[90 + cell]];
            let distance = |entry: &[f32]| entry.iter().zip(of(&latent)).map(|(a, b)| (a - b) * (a - b)).sum::<f32>();
            let nearest = codebook.chunks(3).min_by(|a, b| distance(a).total_cmp(&distance(b)));
            assert_eq!(of(&snapped), nearest.unwrap(), "cell {cell}");
        }
    }
}
