//! Working memory of a search, and the bounded collections in it.

use std::collections::BinaryHeap;

use super::Neighbour;
use super::distance::DistanceScratch;

/// Working memory of searches, to be kept between them: once it has served the largest query, no search
/// allocates.
#[derive(Debug, Default)]
pub struct SearchScratch {
    pub(super) distance: DistanceScratch,
    pub(super) trail: Trail,
    pub(super) members: Vec<u32>,
    pub(super) nearest: Nearest,
}

/// Working memory of a walk in a graph, and what it found.
#[derive(Debug, Default)]
pub(super) struct Trail {
    pub visited: Visited,
    pub beam: Beam,
    pub links: Vec<u32>,
}

impl Trail {
    /// What it takes for a walk among `nodes` that keeps `ef` of them, links apart.
    pub fn bytes(nodes: u32, ef: usize) -> u64 {
        let kept = ef.min(nodes as usize) * size_of::<(Ranked, bool)>();
        kept as u64 + 8 * u64::from(nodes.div_ceil(64))
    }
}

/// An id with its distance, ordered by distance, then id. The bits of non-negative floats ascend with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ranked(u64);

impl Ranked {
    /// `distance` must not be negative: it is a sum of squares.
    pub fn new(distance: f32, id: u32) -> Self {
        Self(u64::from(distance.to_bits()) << 32 | u64::from(id))
    }

    pub fn distance(self) -> f32 {
        f32::from_bits((self.0 >> 32) as u32)
    }

    pub fn id(self) -> u32 {
        self.0 as u32
    }
}

/// The set of nodes that a search has seen.
#[derive(Debug, Default)]
pub(super) struct Visited(Vec<u64>);

impl Visited {
    pub fn clear(&mut self, nodes: u32) {
        self.0.clear();
        self.0.resize(nodes.div_ceil(64) as usize, 0);
    }

    /// Adds `node`; true where it is new.
    pub fn insert(&mut self, node: u32) -> bool {
        let (word, bit) = (&mut self.0[node as usize / 64], 1 << (node % 64));
        let new = *word & bit == 0;
        *word |= bit;
        new
    }

    pub fn count(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    pub fn contains(&self, node: u32) -> bool {
        self.0[node as usize / 64] & (1 << (node % 64)) != 0
    }
}

/// The nearest nodes found so far, at most `capacity`, ascending, each marked once its links were followed.
///
/// HNSW's two heaps in one bounded array: a candidate that is not among the nearest `ef` is never followed.
#[derive(Debug, Default)]
pub(super) struct Beam {
    nodes: Vec<(Ranked, bool)>,
    capacity: usize,
    /// All before it are followed.
    cursor: usize,
}

impl Beam {
    pub fn clear(&mut self, capacity: usize) {
        self.nodes.clear();
        self.nodes.reserve(capacity);
        self.capacity = capacity;
        self.cursor = 0;
    }

    /// Takes `node` in where it is among the nearest.
    pub fn offer(&mut self, node: Ranked) {
        let place = self.nodes.partition_point(|(other, _)| *other < node);
        if place == self.capacity {
            return;
        }
        if self.nodes.len() == self.capacity {
            self.nodes.pop();
        }
        self.nodes.insert(place, (node, false));
        self.cursor = self.cursor.min(place);
    }

    /// The nearest node whose links were not followed yet, now marked.
    pub fn follow(&mut self) -> Option<u32> {
        while let Some((node, followed)) = self.nodes.get_mut(self.cursor) {
            self.cursor += 1;
            if !std::mem::replace(followed, true) {
                return Some(node.id());
            }
        }
        None
    }

    /// The nodes, nearest first.
    pub fn nodes(&self) -> impl Iterator<Item = Ranked> + '_ {
        self.nodes.iter().map(|(node, _)| *node)
    }
}

/// The k nearest pictures offered.
#[derive(Debug, Default)]
pub(super) struct Nearest {
    heap: BinaryHeap<Ranked>,
    sorted: Vec<Neighbour>,
    k: usize,
}

impl Nearest {
    pub fn clear(&mut self, k: usize) {
        self.heap.clear();
        self.heap.reserve(k);
        self.k = k;
    }

    /// Takes `picture` in where it is among the nearest k; false where it is not.
    pub fn offer(&mut self, picture: Ranked) -> bool {
        if self.heap.len() < self.k {
            self.heap.push(picture);
            return true;
        }
        match self.heap.peek_mut() {
            Some(mut worst) if picture < *worst => {
                *worst = picture;
                true
            }
            _ => false,
        }
    }

    /// What was taken in, sorted by distance, then id.
    pub fn finish(&mut self) -> &[Neighbour] {
        self.sorted.clear();
        self.sorted.extend(self.heap.drain().map(|r| Neighbour { image: r.id(), distance: r.distance() }));
        self.sorted.sort_unstable_by_key(|n| Ranked::new(n.distance, n.image));
        &self.sorted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_follow_distance_then_id() {
        let mut ranks =
            [(2.0, 1), (0.0, 9), (f32::INFINITY, 0), (2.0, 0), (1e-40, 3)].map(|(d, id)| Ranked::new(d, id));
        ranks.sort();
        assert_eq!(ranks.map(|r| r.id()), [9, 3, 0, 1, 0]);
        assert_eq!(ranks.map(|r| r.distance()), [0.0, 1e-40, 2.0, 2.0, f32::INFINITY]);
    }

    /// Against sorting everything, with every capacity.
    #[test]
    fn beam_and_nearest_keep_the_nearest() {
        let ranks: Vec<_> = (0..50u32).map(|i| Ranked::new((i * 37 % 17) as f32, i)).collect();
        let mut sorted = ranks.clone();
        sorted.sort();
        let (mut beam, mut nearest) = (Beam::default(), Nearest::default());
        for capacity in [0, 1, 2, 20, 50, 60] {
            beam.clear(capacity);
            nearest.clear(capacity);
            for &rank in &ranks {
                beam.offer(rank);
                nearest.offer(rank);
            }
            let expected = &sorted[..capacity.min(50)];
            assert!(beam.nodes().eq(expected.iter().copied()));
            assert!(nearest.finish().iter().map(|n| n.image).eq(expected.iter().map(|r| r.id())));
        }
    }

    #[test]
    fn the_beam_follows_each_node_once_nearest_first() {
        let mut beam = Beam::default();
        beam.clear(3);
        beam.offer(Ranked::new(5.0, 5));
        assert_eq!(beam.follow(), Some(5));
        for id in [3, 9, 4] {
            beam.offer(Ranked::new(id as f32, id));
        }
        assert_eq!(beam.follow(), Some(3));
        beam.offer(Ranked::new(1.0, 1));
        assert_eq!([beam.follow(), beam.follow(), beam.follow()], [Some(1), Some(4), None]);
    }
}
