//! An index that follows its database: nodes leave and join the graph that is there.
//!
//! A picture that joins costs one search; building anew costs one for every picture.

use std::collections::BTreeSet;
use std::path::Path;

use super::build::{Draft, IndexSettings, MUTUAL, build_index_while};
use super::distance::{CodeDistance, Distances};
use super::exact::check_position;
use super::format::MAX_LEVELS;
use super::freeze::DraftGraph;
use super::frozen::{At, FrozenIndex, IndexSummary};
use super::scratch::{Ranked, SearchScratch};
use super::walk::{Graph, descend, spread};
use crate::error::{Error, Result};
use crate::store::{BlockDatabase, RowBuffer};

/// How many times the nodes may a search have to keep, for the same recall, before a changed graph is built anew.
const TOLERATED_GROWTH: usize = 2;

/// Writes to `path`, atomically, the index of `db`, which follows the database of `old` as
/// [`write_revision`](crate::store::write_revision) writes it: without the pictures in `removed`, and with others
/// after them. The graph of `old` is changed and its recall measured anew; where that takes a much wider search, where half of the
/// pictures left, or where there was no graph or need be none, the index is built as by
/// [`build_index_while`]. `check` is asked before each block is inserted.
///
/// # Errors
/// [`Error::Usage`] where `db` cannot follow the database of `old`, or settings are out of bounds; [`Error::File`]
/// where `old` (all of it is read first) or `db` is damaged; [`Error::Io`]; what `check` answers.
pub fn follow_index_while(
    old: &FrozenIndex,
    removed: &BTreeSet<u32>,
    db: &BlockDatabase,
    settings: IndexSettings,
    path: impl AsRef<Path>,
    check: &dyn Fn() -> Result<()>,
) -> Result<IndexSummary> {
    let (path, before) = (path.as_ref(), old.summary());
    settings.check()?;
    check_position(db, before.position)?;
    old.verify()?;
    let kept = old.images().checked_sub(removed.len() as u32).filter(|kept| *kept <= db.images());
    let kept = kept.filter(|_| removed.last().is_none_or(|&last| last < old.images()));
    let kept = kept.ok_or_else(|| Error::Usage("the database does not follow that of the index".into()))?;
    db.check_rows(before.position)?;
    let worth = kept > old.images() / 2 && !settings.scans(db);
    if let Some(mut graph) = old.thaw()?.filter(|_| worth) {
        let at = At { db, position: before.position, ef: settings.ef_construction };
        Gardener::new(at, settings).tend(&mut graph, removed, kept, check)?;
        let draft = Draft::new(db, before.position, settings, Some(graph))?;
        if !draft.scans() && draft.head.ef_search as usize <= TOLERATED_GROWTH * before.ef_search {
            return draft.write(db, path);
        }
        log::info!("the changed graph has become too slow to search; it is built anew");
    }
    build_index_while(db, before.position, settings, path, check)
}

/// Changes a graph.
struct Gardener<'a> {
    at: At<'a>,
    settings: IndexSettings,
    distance: CodeDistance<'a>,
}

impl<'a> Gardener<'a> {
    fn new(at: At<'a>, settings: IndexSettings) -> Self {
        let (codebook, channels) = (at.db.codebook_at(at.position), at.db.block().channels);
        Self { at, settings, distance: CodeDistance::new(codebook, channels) }
    }

    fn tend(
        &self,
        graph: &mut DraftGraph,
        removed: &BTreeSet<u32>,
        kept: u32,
        check: &dyn Fn() -> Result<()>,
    ) -> Result<()> {
        let removed: Vec<u32> = removed.iter().copied().collect();
        for members in &mut graph.members {
            members.retain(|image| removed.binary_search(image).is_err());
            members.iter_mut().for_each(|image| *image -= removed.partition_point(|gone| gone < image) as u32);
        }
        self.bury(graph)?;
        let mut scratch = SearchScratch::default();
        for image in kept..self.at.db.images() {
            check()?;
            self.insert(graph, image, &mut scratch)?;
        }
        let mended = graph.mend(self.at)?;
        log::debug!("{} pictures left, {mended} nodes were unreachable", removed.len());
        Ok(())
    }

    /// Most links of a node on `level`.
    fn degree(&self, level: usize) -> usize {
        self.settings.connections * if level == 0 { MUTUAL } else { 1 }
    }

    /// Squared distance between the blocks of two nodes that have pictures.
    fn between(&self, graph: &DraftGraph, a: u32, b: u32) -> Result<f32> {
        let At { db, position, .. } = self.at;
        let [mut one, mut other] = [RowBuffer::default(), RowBuffer::default()];
        let rows = db.rows(position);
        Ok(self.distance.rows(rows.row(graph.picture(a)?, &mut one)?, rows.row(graph.picture(b)?, &mut other)?))
    }

    /// Of `candidates`, nearest first, those not nearer to one already taken than to where they are seen from, at
    /// most `degree` (Malkov & Yashunin 2018, algorithm 4).
    fn choose(&self, graph: &DraftGraph, candidates: impl Iterator<Item = Ranked>, degree: usize) -> Result<Vec<u32>> {
        let mut chosen: Vec<u32> = Vec::new();
        'candidates: for candidate in candidates {
            if chosen.len() == degree {
                break;
            }
            for &other in &chosen {
                if self.between(graph, other, candidate.id())? < candidate.distance() {
                    continue 'candidates;
                }
            }
            chosen.push(candidate.id());
        }
        Ok(chosen)
    }

    /// The links that `node` is to have on `level`, out of `candidates`.
    fn relink(&self, graph: &DraftGraph, level: usize, node: u32, mut candidates: Vec<u32>) -> Result<Vec<u32>> {
        candidates.sort_unstable();
        candidates.dedup();
        candidates.retain(|&other| other != node);
        if candidates.len() <= self.degree(level) {
            return Ok(candidates);
        }
        let rank = |&other: &u32| Ok(Ranked::new(self.between(graph, node, other)?, other));
        let mut ranked: Vec<Ranked> = candidates.iter().map(rank).collect::<Result<_>>()?;
        ranked.sort_unstable();
        self.choose(graph, ranked.into_iter(), self.degree(level))
    }

    /// Takes the nodes without pictures out. Who linked to one gets links to where it led (as FreshDiskANN does:
    /// Singh et al. 2021, arXiv 2105.09613, algorithm 4).
    fn bury(&self, graph: &mut DraftGraph) -> Result<()> {
        let dead: Vec<bool> = graph.members.iter().map(Vec::is_empty).collect();
        if !dead.contains(&true) {
            return Ok(());
        }
        let is_dead = |node: &u32| dead[*node as usize];
        let nodes = |graph: &DraftGraph, level: usize| -> Vec<u32> {
            match level {
                0 => (0..graph.nodes()).collect(),
                _ => graph.upper[level - 1].keys().copied().collect(),
            }
        };
        for level in 0..graph.levels() {
            for node in nodes(graph, level).into_iter().filter(|node| !is_dead(node)) {
                let links = graph.links_of(level, node);
                if !links.iter().any(is_dead) {
                    continue;
                }
                let beyond = links.iter().filter(|link| is_dead(link)).flat_map(|&link| graph.links_of(level, link));
                let candidates = links.iter().chain(beyond).copied().filter(|link| !is_dead(link)).collect();
                let links = self.relink(graph, level, node, candidates)?;
                *links_mut(graph, level, node) = links;
            }
        }
        remove_nodes(graph, &dead);
        Ok(())
    }

    /// Adds `image`: to the node of its block, where there is one, else as a node of its own.
    fn insert(&self, graph: &mut DraftGraph, image: u32, scratch: &mut SearchScratch) -> Result<()> {
        let At { db, position, .. } = self.at;
        let mut query = vec![0.0; db.block().len()];
        db.read_block(image, position, &mut query)?;
        let SearchScratch { distance, trail, .. } = scratch;
        let mut distances = Distances::new(db, position, &query, distance)?;

        let node = graph.nodes();
        let (level, top) = (self.level_of(node), graph.levels() - 1);
        let entry = Ranked::new(distances.to(graph.picture(graph.entry)?)?, graph.entry);
        let mut nearest = entry;
        for level in (level + 1..=top).rev() {
            nearest = descend(graph, level, nearest, &mut distances, &mut trail.links)?;
        }
        let mut links = Vec::new();
        for level in (0..=level.min(top)).rev() {
            // The entry stands on every level.
            spread(graph, level, [nearest, entry], &mut distances, self.settings.ef_construction, trail)?;
            nearest = trail.beam.nodes().next().unwrap_or(nearest);
            let own = self.settings.connections * if level == 0 { 2 } else { 1 };
            links.push((level, self.choose(graph, trail.beam.nodes(), own)?));
        }
        let rows = db.rows(position);
        let [mut one, mut other] = [RowBuffer::default(), RowBuffer::default()];
        if rows.row(graph.picture(nearest.id())?, &mut one)? == rows.row(image, &mut other)? {
            graph.members[nearest.id() as usize].push(image); // ascending: images come in order
            return Ok(());
        }
        graph.members.push(vec![image]);
        graph.ground.push(vec![]);
        for above in 0..level {
            if above == graph.upper.len() {
                graph.upper.push(Default::default());
                graph.entry = node;
            }
            graph.upper[above].insert(node, vec![]);
        }
        for (level, chosen) in links {
            for &other in &chosen {
                let mut back = graph.links_of(level, other).to_vec();
                back.push(node);
                let back = self.relink(graph, level, other, back)?;
                *links_mut(graph, level, other) = back;
            }
            *links_mut(graph, level, node) = chosen;
        }
        Ok(())
    }

    /// The highest level of `node`: of M on a level, one is on the next. The same node gets the same level in every
    /// run.
    fn level_of(&self, node: u32) -> usize {
        let hash = blake3::hash(&node.to_le_bytes());
        let [a, b, c, d, ..] = *hash.as_bytes();
        let uniform = (f64::from(u32::from_le_bytes([a, b, c, d])) + 1.0) / (u32::MAX as f64 + 1.0); // in (0, 1]
        let level = -libm::log(uniform) / libm::log(self.settings.connections as f64);
        (level as usize).min(MAX_LEVELS as usize - 1)
    }
}

fn links_mut(graph: &mut DraftGraph, level: usize, node: u32) -> &mut Vec<u32> {
    match level {
        0 => &mut graph.ground[node as usize],
        _ => graph.upper[level - 1].entry(node).or_default(),
    }
}

/// Removes the `dead` nodes, to which no other links any more, and numbers the rest anew.
fn remove_nodes(graph: &mut DraftGraph, dead: &[bool]) {
    let numbers = dead.iter().scan(0, |next, &dead| {
        let number = *next;
        *next += u32::from(!dead);
        Some(number)
    });
    let numbers: Vec<u32> = numbers.collect();
    let renumbered = |links: Vec<u32>| links.into_iter().map(|link| numbers[link as usize]).collect::<Vec<u32>>();
    let alive = |node: usize| !dead[node];
    let members = std::mem::take(&mut graph.members);
    graph.members = members.into_iter().filter(|members| !members.is_empty()).collect();
    let ground = std::mem::take(&mut graph.ground).into_iter().enumerate().filter(|(node, _)| alive(*node));
    graph.ground = ground.map(|(_, links)| renumbered(links)).collect();
    for level in &mut graph.upper {
        let nodes = std::mem::take(level).into_iter().filter(|(node, _)| alive(*node as usize));
        *level = nodes.map(|(node, links)| (numbers[node as usize], renumbered(links))).collect();
    }
    while graph.upper.last().is_some_and(|level| level.is_empty()) {
        graph.upper.pop();
    }
    graph.entry = match dead[graph.entry as usize] {
        false => numbers[graph.entry as usize],
        true => graph.upper.last().and_then(|level| level.keys().next().copied()).unwrap_or(0),
    };
}
