//! Searching a graph, frozen or still being built.

use std::hint::black_box;

use super::scratch::{Beam, Ranked, Visited};
use super::table::Distances;
use crate::error::Result;

/// A layered graph of nodes `0..nodes()`. What it returns is in bounds: node ids below `nodes()`, image ids in
/// the database.
pub(super) trait Graph {
    fn nodes(&self) -> u32;
    /// Levels, at least 1; level 0 has every node.
    fn levels(&self) -> usize;
    /// The node that every search starts from.
    fn entry(&self) -> u32;
    /// The nodes linked from `node` at `level`; none where the node is not on that level.
    fn links(&self, level: usize, node: u32) -> Result<&[u32]>;
    /// The pictures of `node`, ascending, at least one.
    fn members(&self, node: u32) -> Result<&[u32]>;
}

/// Fills `beam` with the nodes nearest to the query that the graph leads to, up to its capacity of `ef`.
///
/// Holds min(`ef`, nodes reachable from the entry) nodes in the end: the entry node itself is offered on level 0,
/// so either the beam is full or all that it leads to was followed.
pub(super) fn walk(
    graph: &impl Graph,
    distances: Distances<'_>,
    ef: usize,
    visited: &mut Visited,
    beam: &mut Beam,
) -> Result<()> {
    let rank = |node: u32| Ok(Ranked::new(distances.to(graph.members(node)?[0]), node));
    let entry = rank(graph.entry())?;
    let mut nearest = entry;
    for level in (1..graph.levels()).rev() {
        nearest = descend(graph, level, nearest, rank)?;
    }
    spread(graph, 0, [nearest, entry], distances, ef, visited, beam)
}

/// Fills `beam` with the nodes of `level` nearest to the query that `starts` lead to, up to its capacity of `ef`.
pub(super) fn spread(
    graph: &impl Graph,
    level: usize,
    starts: [Ranked; 2],
    distances: Distances<'_>,
    ef: usize,
    visited: &mut Visited,
    beam: &mut Beam,
) -> Result<()> {
    visited.clear(graph.nodes());
    beam.clear(ef);
    for start in starts {
        if visited.insert(start.id()) {
            beam.offer(start);
        }
    }
    while let Some(node) = beam.follow() {
        let links = graph.links(level, node)?;
        let mut touched = 0;
        for &link in links.iter().filter(|&&link| !visited.contains(link)) {
            touched ^= distances.touch(graph.members(link)?[0]);
        }
        black_box(touched);
        for &link in links {
            if visited.insert(link) {
                beam.offer(Ranked::new(distances.to(graph.members(link)?[0]), link));
            }
        }
    }
    Ok(())
}

/// Goes from `start` to ever nearer nodes of `level`, until none is nearer.
pub(super) fn descend(
    graph: &impl Graph,
    level: usize,
    start: Ranked,
    rank: impl Fn(u32) -> Result<Ranked>,
) -> Result<Ranked> {
    let mut nearest = start;
    loop {
        let from = nearest;
        for &link in graph.links(level, from.id())? {
            nearest = nearest.min(rank(link)?);
        }
        if nearest == from {
            return Ok(nearest);
        }
    }
}

/// Adds to `visited` all that `from` leads to on level 0, itself included; `stack` is working memory.
pub(super) fn reach(graph: &impl Graph, from: u32, visited: &mut Visited, stack: &mut Vec<u32>) -> Result<()> {
    stack.clear();
    if visited.insert(from) {
        stack.push(from);
    }
    while let Some(node) = stack.pop() {
        stack.extend(graph.links(0, node)?.iter().filter(|&&link| visited.insert(link)));
    }
    Ok(())
}
