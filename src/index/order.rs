//! The order of pictures in a database: pictures that are alike lie together.
//!
//! A search looks at pictures near the query. Where these lie near each other in the file too, they come with few pages of
//! it, which is what a search waits for when the file is not in the system's cache.

use crate::store::DatabaseContents;

/// Pictures that are not told apart further: about a page of rows.
const TOGETHER: usize = 32;
/// Pictures that a direction is found from.
const SAMPLE: usize = 128;
/// Steps of the power iteration. The direction need not be exact.
const STEPS: usize = 8;

/// Puts the pictures of `contents` into an order in which those whose blocks at `position` are alike lie together: halved
/// along the direction in which they differ most, and the halves again (a principal component tree: Sproull 1991). The
/// same pictures come into the same order. Contents that contradict themselves stay as they are, for
/// [`DatabaseContents::write`] to refuse.
pub fn order_by_likeness(contents: &mut DatabaseContents, position: usize) {
    let Some(order) = order_of(contents, position) else { return };
    for codes in &mut contents.codes {
        let row = codes.len() / order.len();
        let mut ordered = Vec::with_capacity(codes.len());
        order.iter().for_each(|&picture| ordered.extend_from_slice(&codes[picture * row..][..row]));
        *codes = ordered;
    }
    if !contents.names.is_empty() {
        contents.names = order.iter().map(|&picture| std::mem::take(&mut contents.names[picture])).collect();
    }
}

/// The pictures in their new order.
fn order_of(contents: &DatabaseContents, position: usize) -> Option<Vec<usize>> {
    let pictures = contents.codes.get(position)?.len() / contents.row_len();
    let even = contents.codes.iter().all(|codes| codes.len() == pictures * contents.row_len());
    let named = contents.names.is_empty() || contents.names.len() == pictures;
    if pictures == 0 || !even || !named {
        return None;
    }
    let mut sorter = Sorter { contents, position, block: vec![0.0; contents.grid.block().len()] };
    let mut scored: Vec<(f32, usize)> = (0..pictures).map(|picture| (0.0, picture)).collect();
    let mut ranges = Vec::from([(0, pictures)]);
    while let Some((start, end)) = ranges.pop() {
        let range = start..end;
        if range.len() <= TOGETHER {
            continue;
        }
        sorter.score(&mut scored[range.clone()])?;
        let half = range.len() / 2;
        // Of equals the one that came first: the order is a total one.
        scored[range.clone()].select_nth_unstable_by(half, |a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let middle = start + half;
        scored[start..middle].sort_unstable_by_key(|(_, picture)| *picture);
        scored[middle..end].sort_unstable_by_key(|(_, picture)| *picture);
        ranges.extend([(start, middle), (middle, end)]);
    }
    Some(scored.into_iter().map(|(_, picture)| picture).collect())
}

struct Sorter<'a> {
    contents: &'a DatabaseContents,
    position: usize,
    /// Working memory.
    block: Vec<f32>,
}

impl Sorter<'_> {
    /// Gives every picture its coordinate along the direction in which these pictures differ most.
    fn score(&mut self, pictures: &mut [(f32, usize)]) -> Option<()> {
        let length = self.block.len();
        let step = pictures.len().div_ceil(SAMPLE);
        let mut sample = Vec::with_capacity(SAMPLE * length);
        for &(_, picture) in pictures.iter().step_by(step) {
            self.read(picture)?;
            sample.extend_from_slice(&self.block);
        }
        let direction = principal_direction(&mut sample, length);
        for (score, picture) in pictures {
            self.read(*picture)?;
            *score = dot(&self.block, &direction);
        }
        Some(())
    }

    /// Reads the block of `picture` in whatever order of values.
    fn read(&mut self, picture: usize) -> Option<()> {
        let row = self.contents.row_len();
        let codes = &self.contents.codes[self.position][picture * row..][..row];
        self.contents.values(self.position, codes, &mut self.block)
    }
}

/// The direction in which the rows of `sample`, `length` long, differ most, by power iteration; moves their mean to 0.
fn principal_direction(sample: &mut [f32], length: usize) -> Vec<f32> {
    let count = sample.len() / length;
    let mut mean = vec![0.0; length];
    sample.chunks_exact(length).for_each(|row| add(&mut mean, row, 1.0 / count as f32));
    sample.chunks_exact_mut(length).for_each(|row| add(row, &mean, -1.0));
    // What differs most from the mean is a start that no symmetry can make orthogonal to all.
    let farthest = sample.chunks_exact(length).max_by(|a, b| dot(a, a).total_cmp(&dot(b, b)));
    let mut direction = farthest.map_or_else(|| vec![0.0; length], <[f32]>::to_vec);
    for _ in 0..STEPS {
        let mut next = vec![0.0; length];
        sample.chunks_exact(length).for_each(|row| add(&mut next, row, dot(row, &direction)));
        let norm = dot(&next, &next).sqrt();
        if !(norm > 0.0 && norm.is_finite()) {
            break;
        }
        next.iter_mut().for_each(|value| *value /= norm);
        direction = next;
    }
    direction
}

/// Adds `factor` times `values` to `sums`.
fn add(sums: &mut [f32], values: &[f32], factor: f32) {
    sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += factor * value);
}

/// In 16 sums, which the compiler keeps side by side.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0; 16];
    for (a, b) in a.chunks(16).zip(b.chunks(16)) {
        sums.iter_mut().zip(a).zip(b).for_each(|((sum, a), b)| *sum += a * b);
    }
    sums.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::latent::{BlockGrid, LatentShape};

    /// 64 clusters of 32 pictures in an order that scatters them: a page of rows then holds one cluster, and names and
    /// positions stay together.
    #[test]
    fn pictures_that_are_alike_come_to_lie_together() {
        let latent = LatentShape { channels: 2, height: 2, width: 4 };
        let grid = BlockGrid::new(latent, 1, 2, false, 0).unwrap();
        let codebook: Vec<f32> = (0..64).map(|v| (v * 37 % 64) as f32).collect();
        let cluster = |picture: usize| picture * 27 % 64;
        let prototype =
            |cluster: usize, cell: usize| (blake3::hash(&[cluster as u8, cell as u8]).as_bytes()[0] % 32) as u16;
        let row = |picture: usize| (0..4).map(move |cell| prototype(cluster(picture), cell));
        let mut contents = DatabaseContents {
            grid,
            codebook,
            thumbnail_codebook: None,
            codes: vec![
                (0..2048).flat_map(|i| [(i / 32) as u16 % 32, 0, 1, 2]).collect(),
                (0..2048).flat_map(row).collect(),
            ],
            names: (0..2048).map(|picture| picture.to_string()).collect(),
        };
        let before = contents.clone();
        order_by_likeness(&mut contents, 1);
        let picture = |at: usize| contents.names[at].parse::<usize>().unwrap();
        for at in 0..2048 {
            for (new, old) in contents.codes.iter().zip(&before.codes) {
                assert_eq!(new[at * 4..][..4], old[picture(at) * 4..][..4]);
            }
        }
        let neighbours = (1..2048).filter(|&at| cluster(picture(at)) == cluster(picture(at - 1))).count();
        assert!(neighbours > 1900, "{neighbours} of 2047 lie beside one of their own");

        let mut again = before.clone();
        order_by_likeness(&mut again, 1);
        assert_eq!(again.names, contents.names);
        let mut broken = DatabaseContents { codes: vec![before.codes[0].clone(), vec![99; 8192]], ..before.clone() };
        order_by_likeness(&mut broken, 1);
        assert_eq!(broken.names, before.names, "left for the writer to refuse");
    }
}
