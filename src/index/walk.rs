//! Searching a graph, frozen or still being built.

use std::hint::black_box;

use super::distance::Distances;
use super::scratch::{Ranked, Trail, Visited};
use crate::error::Result;

/// A layered graph of nodes `0..nodes()`. What it returns is in bounds: node ids below `nodes()`, image ids in
/// the database.
pub(super) trait Graph {
    fn nodes(&self) -> u32;
    /// Levels, at least 1; level 0 has every node.
    fn levels(&self) -> usize;
    /// The node that every search starts from.
    fn entry(&self) -> u32;
    /// The nodes linked from `node` at `level`, where they lie or in `buffer`; none where the node is not on that level.
    fn links<'a>(&'a self, level: usize, node: u32, buffer: &'a mut Vec<u32>) -> Result<&'a [u32]>;
    /// The first `most` pictures of `node`, ascending, at least one, where they lie or in `buffer`.
    fn members<'a>(&'a self, node: u32, most: usize, buffer: &'a mut Vec<u32>) -> Result<&'a [u32]>;
    /// The first picture of `node`, whose block is that of all of them.
    fn picture(&self, node: u32) -> Result<u32>;
}

/// Fills the beam of `trail` with the nodes nearest to the query that the graph leads to, up to its capacity of `ef`.
///
/// Holds min(`ef`, nodes reachable from the entry) nodes in the end: the entry node itself is offered on level 0,
/// so either the beam is full or all that it leads to was followed.
pub(super) fn walk(graph: &impl Graph, distances: &mut Distances<'_>, ef: usize, trail: &mut Trail) -> Result<()> {
    let entry = Ranked::new(distances.to(graph.picture(graph.entry())?)?, graph.entry());
    let mut nearest = entry;
    for level in (1..graph.levels()).rev() {
        nearest = descend(graph, level, nearest, distances, &mut trail.links)?;
    }
    spread(graph, 0, [nearest, entry], distances, ef, trail)
}

/// Fills the beam of `trail` with the nodes of `level` nearest to the query that `starts` lead to, up to its capacity of
/// `ef`.
pub(super) fn spread(
    graph: &impl Graph,
    level: usize,
    starts: [Ranked; 2],
    distances: &mut Distances<'_>,
    ef: usize,
    trail: &mut Trail,
) -> Result<()> {
    let Trail { visited, beam, links } = trail;
    visited.clear(graph.nodes());
    beam.clear(ef);
    for start in starts {
        if visited.insert(start.id()) {
            beam.offer(start);
        }
    }
    while let Some(node) = beam.follow() {
        let links = graph.links(level, node, links)?;
        if distances.in_memory() {
            let mut touched = 0;
            for &link in links.iter().filter(|&&link| !visited.contains(link)) {
                touched ^= distances.touch(graph.picture(link)?);
            }
            black_box(touched);
        }
        for &link in links {
            if visited.insert(link) {
                beam.offer(Ranked::new(distances.to(graph.picture(link)?)?, link));
            }
        }
    }
    Ok(())
}

/// Goes from `start` to ever nearer nodes of `level`, until none is nearer; `buffer` is working memory.
pub(super) fn descend(
    graph: &impl Graph,
    level: usize,
    start: Ranked,
    distances: &mut Distances<'_>,
    buffer: &mut Vec<u32>,
) -> Result<Ranked> {
    let mut nearest = start;
    loop {
        let from = nearest;
        for &link in graph.links(level, from.id(), buffer)? {
            nearest = nearest.min(Ranked::new(distances.to(graph.picture(link)?)?, link));
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
    let mut buffer = Vec::new();
    while let Some(node) = stack.pop() {
        stack.extend(graph.links(0, node, &mut buffer)?.iter().filter(|&&link| visited.insert(link)));
    }
    Ok(())
}
