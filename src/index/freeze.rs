//! A graph on its way from the builder to the file.

use std::collections::BTreeMap;

use super::SearchScratch;
use super::distance::Distances;
use super::format::{self, MAX_DEGREE};
use super::frozen::At;
use super::scratch::Visited;
use super::walk::{Graph, reach, walk};
use crate::container::{SectionId, Source, source};
use crate::error::{Error, Result};

/// A graph that can still be mended.
#[derive(Debug, Default)]
pub(super) struct DraftGraph {
    pub entry: u32,
    /// The pictures of each node, ascending.
    pub members: Vec<Vec<u32>>,
    /// Links on level 0 of each node.
    pub ground: Vec<Vec<u32>>,
    /// Links on levels 1, 2, … of the nodes there.
    pub upper: Vec<BTreeMap<u32, Vec<u32>>>,
}

impl Graph for DraftGraph {
    fn nodes(&self) -> u32 {
        self.members.len() as u32
    }

    fn levels(&self) -> usize {
        1 + self.upper.len()
    }

    fn entry(&self) -> u32 {
        self.entry
    }

    fn links<'a>(&'a self, level: usize, node: u32, _: &'a mut Vec<u32>) -> Result<&'a [u32]> {
        Ok(self.links_of(level, node))
    }

    fn members<'a>(&'a self, node: u32, most: usize, _: &'a mut Vec<u32>) -> Result<&'a [u32]> {
        let members = &self.members[node as usize];
        Ok(&members[..most.min(members.len())])
    }

    fn picture(&self, node: u32) -> Result<u32> {
        Ok(self.members[node as usize][0])
    }
}

/// Level 0 alone: a walk on it finds only what the entry leads to there.
struct Ground<'a>(&'a DraftGraph);

impl Graph for Ground<'_> {
    fn nodes(&self) -> u32 {
        self.0.nodes()
    }

    fn levels(&self) -> usize {
        1
    }

    fn entry(&self) -> u32 {
        self.0.entry
    }

    fn links<'a>(&'a self, level: usize, node: u32, _: &'a mut Vec<u32>) -> Result<&'a [u32]> {
        Ok(self.0.links_of(level, node))
    }

    fn members<'a>(&'a self, node: u32, most: usize, buffer: &'a mut Vec<u32>) -> Result<&'a [u32]> {
        self.0.members(node, most, buffer)
    }

    fn picture(&self, node: u32) -> Result<u32> {
        self.0.picture(node)
    }
}

impl DraftGraph {
    /// The nodes linked from `node` at `level`; none where the node is not on that level.
    pub fn links_of(&self, level: usize, node: u32) -> &[u32] {
        match level {
            0 => &self.ground[node as usize],
            _ => self.upper[level - 1].get(&node).map_or(&[], Vec::as_slice),
        }
    }

    /// Makes every node reachable from the entry on level 0, and returns how many were not: each gets a link
    /// from the nearest node that a search for it finds.
    pub fn mend(&mut self, at: At<'_>) -> Result<usize> {
        let (mut reached, mut stack) = (Visited::default(), vec![]);
        let (mut scratch, mut query) = (SearchScratch::default(), vec![0.0; at.db.block().len()]);
        reached.clear(self.nodes());
        reach(self, self.entry, &mut reached, &mut stack)?;
        let mut mended = 0;
        for node in 0..self.nodes() {
            if reached.contains(node) {
                continue;
            }
            at.db.read_block(self.members[node as usize][0], at.position, &mut query)?;
            let SearchScratch { distance, trail, .. } = &mut scratch;
            let mut distances = Distances::new(at.db, at.position, &query, distance)?;
            walk(&Ground(self), &mut distances, at.ef.min(self.members.len()), trail)?;
            let mut found = trail.beam.nodes().map(|found| found.id());
            let from = found.find(|&found| self.ground[found as usize].len() < MAX_DEGREE);
            let from = from.ok_or_else(|| Error::Internal("no node can take a link".into()))?;
            self.ground[from as usize].push(node);
            reach(self, node, &mut reached, &mut stack)?;
            mended += 1;
        }
        Ok(mended)
    }

    /// Makes links on level 0 mutual while a node has fewer than `degree`. The builder drops the farthest link of
    /// a full node on one side only, so that clusters can be left but not entered.
    pub fn make_mutual(&mut self, degree: usize) {
        for node in 0..self.ground.len() {
            for i in 0..self.ground[node].len() {
                let link = self.ground[node][i] as usize;
                let back = &mut self.ground[link];
                if back.len() < degree && !back.contains(&(node as u32)) {
                    back.push(node as u32);
                }
            }
        }
    }

    /// The sections of the file but its head.
    pub fn sections(&self) -> Vec<(SectionId, Source<'static>)> {
        let bytes = |values: &[u32]| source(Vec::from(bytemuck::cast_slice::<u32, u8>(values)));
        let mut sections = vec![];
        let (offsets, members) = flatten(self.members.iter());
        sections.push((format::MEMBER_OFFSETS, bytes(&offsets)));
        sections.push((format::MEMBERS, bytes(&members)));
        let (offsets, links) = flatten(self.ground.iter());
        sections.push((format::offsets(0), bytes(&offsets)));
        sections.push((format::links(0), bytes(&links)));
        for (level, nodes) in (1..).zip(&self.upper) {
            let (offsets, links) = flatten(nodes.values());
            sections.push((format::nodes(level), bytes(&nodes.keys().copied().collect::<Vec<_>>())));
            sections.push((format::offsets(level), bytes(&offsets)));
            sections.push((format::links(level), bytes(&links)));
        }
        sections
    }
}

/// Where each list starts, and where the last ends; and all lists in a row.
fn flatten<'a>(lists: impl Iterator<Item = &'a Vec<u32>>) -> (Vec<u32>, Vec<u32>) {
    let (mut offsets, mut values) = (vec![0], vec![]);
    for list in lists {
        values.extend_from_slice(list);
        offsets.push(values.len() as u32);
    }
    (offsets, values)
}
