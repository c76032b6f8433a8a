//! Reading a frozen index and searching it.

use std::collections::BTreeMap;
use std::path::Path;

use super::distance::Distances;
use super::exact::{check_found, check_neighbours, check_position, exact_scan};
use super::format::{self, Head, MAX_DEGREE, MODE_GRAPH};
use super::freeze::DraftGraph;
use super::scratch::{Ranked, Trail, Visited};
use super::walk::{Graph, reach, walk};
use super::{Neighbour, SearchScratch};
use crate::container::{Container, Resident, Section};
use crate::error::{Error, Result};
use crate::store::BlockDatabase;

/// An open frozen index.
#[derive(Debug)]
pub struct FrozenIndex {
    container: Container,
    head: Head,
    graph: Option<FrozenGraph>,
}

/// What an index says of itself.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct IndexSummary {
    /// Position of the database that queries are compared with.
    pub position: usize,
    /// Distinct blocks in the graph; `None` where the database is scanned.
    pub nodes: Option<u32>,
    /// Levels of the graph; 0 without one.
    pub levels: usize,
    /// Nodes that a search keeps (more where more neighbours are asked for).
    pub ef_search: usize,
    /// The k that recall was measured at.
    pub recall_k: usize,
    /// Recall@k against the exact scan, measured at build with pictures of the database as queries.
    pub recall: f32,
    /// The same where a picture may not be its own neighbour.
    pub recall_excluding_self: f32,
}

#[derive(Debug)]
struct FrozenGraph {
    levels: Vec<Level>,
    member_offsets: Section<u32>,
    members: Section<u32>,
}

#[derive(Debug)]
struct Level {
    /// The nodes of the level, ascending; `None` on level 0, which has them all.
    nodes: Option<Resident<u32>>,
    offsets: Section<u32>,
    links: Section<u32>,
}

impl FrozenIndex {
    /// Kind of the container.
    pub const KIND: [u8; 4] = format::KIND;

    /// Maps the index at `path` and checks its structure, and that it belongs to `db`.
    ///
    /// # Errors
    /// [`Error::File`] for a missing, foreign, truncated or inconsistent file, or one of another database;
    /// [`Error::Io`].
    pub fn open(path: impl AsRef<Path>, db: &BlockDatabase) -> Result<Self> {
        Self::of(Container::open(path, Self::KIND)?, db)
    }

    /// The index of `db` in `container`, of kind [`Self::KIND`].
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn of(container: Container, db: &BlockDatabase) -> Result<Self> {
        let head = container.only::<Head>(format::HEAD)?;
        head.check().map_err(|fault| container.fault(fault))?;
        if head.database != db.content_hash() || head.images != db.images() {
            return Err(container.fault(format!("belongs to another block database than {}", db.path().display())));
        }
        if head.position as usize >= db.positions() {
            return Err(container.fault(format!("is of position {}, which the database lacks", head.position)));
        }
        let graph = match head.mode {
            MODE_GRAPH => Some(FrozenGraph::open(&container, &head)?),
            _ => None,
        };
        if container.sections() != 1 + graph.as_ref().map_or(0, FrozenGraph::sections) {
            return Err(container.fault("there are sections that do not belong to a frozen index"));
        }
        Ok(Self { container, head, graph })
    }

    /// Reads everything: checksums, and that the graph is whole: every offset and id in bounds, every picture in
    /// exactly one node, every node reachable.
    ///
    /// # Errors
    /// [`Error::File`] naming the first fault.
    pub fn verify(&self) -> Result<()> {
        self.container.verify()?;
        if let Some(graph) = &self.graph {
            let view = self.view(graph);
            view.verify_levels()?;
            view.verify_members()?;
            view.verify_reach()?;
        }
        Ok(())
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.container.path()
    }

    /// Length of the file in bytes.
    pub fn len_bytes(&self) -> u64 {
        self.container.len_bytes()
    }

    /// Pictures of its database.
    pub(super) fn images(&self) -> u32 {
        self.head.images
    }

    /// What the index says of itself.
    pub fn summary(&self) -> IndexSummary {
        let head = &self.head;
        IndexSummary {
            position: head.position as usize,
            nodes: self.graph.as_ref().map(|_| head.nodes),
            levels: head.levels as usize,
            ef_search: head.ef_search as usize,
            recall_k: head.recall_k as usize,
            recall: head.recall,
            recall_excluding_self: head.recall_excluding_self,
        }
    }

    /// The `k` pictures of `db` whose blocks at the index's position are nearest to `query` (C×h×w, unscaled) by
    /// squared L2, without picture `exclude`; sorted by distance, then image id. Always k of them; with a graph
    /// a few may be farther than the true ones (see [`IndexSummary::recall`]).
    ///
    /// Allocates nothing once `scratch` has served a search like it.
    ///
    /// # Errors
    /// [`Error::Usage`] where `k` is more than there are, the query is not a block of numbers, or `db` is not the
    /// database that the index was opened with; [`Error::File`] where index or database turn out to be damaged.
    pub fn search<'s>(
        &self,
        db: &BlockDatabase,
        query: &[f32],
        k: usize,
        exclude: Option<u32>,
        scratch: &'s mut SearchScratch,
    ) -> Result<&'s [Neighbour]> {
        if db.content_hash() != self.head.database || db.images() != self.head.images {
            return Err(Error::Usage("the index is searched with another block database than its own".into()));
        }
        let position = self.head.position as usize;
        match &self.graph {
            None => exact_scan(db, position, query, k, exclude, scratch),
            Some(graph) => {
                let at = At { db, position, ef: self.head.ef_search as usize };
                let found = search_graph(&self.view(graph), at, query, k, exclude, scratch)?;
                match found.len() == k {
                    true => Ok(found),
                    false => Err(self.container.fault("the graph does not lead to all its nodes")),
                }
            }
        }
    }

    /// Bytes of [`SearchScratch`] that depend on this file when `k` pictures are searched for.
    pub(crate) fn scratch_bytes(&self, k: usize) -> u64 {
        match self.graph {
            None => 0,
            Some(_) => Trail::bytes(self.head.nodes, (self.head.ef_search as usize).max(k + 1)),
        }
    }

    /// The graph, where there is one, as one that can be changed: all of it is read into RAM.
    pub(super) fn thaw(&self) -> Result<Option<DraftGraph>> {
        let Some(graph) = &self.graph else { return Ok(None) };
        let view = self.view(graph);
        let lists = |level: usize, nodes: &[u32]| {
            let links = |node| Ok((node, view.links(level, node, &mut Vec::new())?.to_vec()));
            nodes.iter().map(|&node| links(node)).collect::<Result<BTreeMap<_, _>>>()
        };
        let upper = graph.levels.iter().enumerate().filter_map(|(level, l)| Some((level, l.nodes.as_ref()?)));
        let nodes = || 0..self.head.nodes;
        Ok(Some(DraftGraph {
            entry: self.head.entry,
            members: nodes()
                .map(|node| Ok(view.members(node, usize::MAX, &mut Vec::new())?.to_vec()))
                .collect::<Result<_>>()?,
            ground: nodes().map(|node| Ok(view.links(0, node, &mut Vec::new())?.to_vec())).collect::<Result<_>>()?,
            upper: upper.map(|(level, nodes)| lists(level, self.container.view(nodes))).collect::<Result<_>>()?,
        }))
    }

    fn view<'a>(&'a self, graph: &'a FrozenGraph) -> GraphView<'a> {
        GraphView { container: &self.container, head: &self.head, graph }
    }
}

/// What is searched, and how widely.
#[derive(Debug, Clone, Copy)]
pub(super) struct At<'a> {
    pub db: &'a BlockDatabase,
    pub position: usize,
    pub ef: usize,
}

/// [`FrozenIndex::search`] on any graph.
pub(super) fn search_graph<'s>(
    graph: &impl Graph,
    at: At<'_>,
    query: &[f32],
    k: usize,
    exclude: Option<u32>,
    scratch: &'s mut SearchScratch,
) -> Result<&'s [Neighbour]> {
    check_position(at.db, at.position)?;
    check_neighbours(at.db, k, exclude)?;
    let SearchScratch { distance, trail, members, nearest } = scratch;
    let mut distances = Distances::new(at.db, at.position, query, distance)?;
    // k + 1 nodes hold k pictures besides the excluded one.
    let ef = at.ef.max(k + 1).min(graph.nodes() as usize);
    walk(graph, &mut distances, ef, trail)?;

    nearest.clear(k);
    for node in trail.beam.nodes() {
        let pictures = graph.members(node.id(), k + 1, members)?.iter().filter(|&&image| Some(image) != exclude);
        // A node's pictures are equally far and ascend: after the first that is not wanted, none is.
        pictures.map(|&image| nearest.offer(Ranked::new(node.distance(), image))).take_while(|wanted| *wanted).count();
    }
    check_found(at.db, at.position, nearest.finish())
}

impl FrozenGraph {
    fn open(container: &Container, head: &Head) -> Result<Self> {
        let level = |level: usize| {
            let nodes = match level {
                0 => None,
                // One node in M: little enough to be at hand.
                _ => {
                    let nodes = container.section::<u32>(format::nodes(level))?;
                    if nodes.len() > head.nodes.into() {
                        return Err(container.fault(format!("level {level} has more nodes than there are")));
                    }
                    Some(container.resident(nodes)?)
                }
            };
            let count = nodes.as_ref().map_or(head.nodes as usize, |nodes| container.view(nodes).len());
            let offsets = container.section_of(format::offsets(level), count as u64 + 1)?;
            Ok(Level { nodes, offsets, links: container.section(format::links(level))? })
        };
        Ok(Self {
            levels: (0..head.levels as usize).map(level).collect::<Result<_>>()?,
            member_offsets: container.section_of(format::MEMBER_OFFSETS, u64::from(head.nodes) + 1)?,
            members: container.section_of(format::MEMBERS, u64::from(head.images))?,
        })
    }

    fn sections(&self) -> usize {
        2 + 3 * self.levels.len() - 1
    }
}

/// The graph where it is mapped.
struct GraphView<'a> {
    container: &'a Container,
    head: &'a Head,
    graph: &'a FrozenGraph,
}

impl Graph for GraphView<'_> {
    fn nodes(&self) -> u32 {
        self.head.nodes
    }

    fn levels(&self) -> usize {
        self.graph.levels.len()
    }

    fn entry(&self) -> u32 {
        self.head.entry
    }

    fn links<'a>(&'a self, level: usize, node: u32, buffer: &'a mut Vec<u32>) -> Result<&'a [u32]> {
        let level = &self.graph.levels[level];
        let slot = match &level.nodes {
            None => node as usize,
            Some(nodes) => match self.container.view(nodes).binary_search(&node) {
                Ok(slot) => slot,
                Err(_) => return Ok(&[]),
            },
        };
        self.list(&level.offsets, &level.links, slot, MAX_DEGREE + 1, buffer)?
            .filter(|links| links.len() <= MAX_DEGREE && links.iter().all(|&link| link < self.head.nodes))
            .ok_or_else(|| self.container.fault(format!("the links of node {node} are damaged")))
    }

    fn members<'a>(&'a self, node: u32, most: usize, buffer: &'a mut Vec<u32>) -> Result<&'a [u32]> {
        let (offsets, members) = (&self.graph.member_offsets, &self.graph.members);
        self.list(offsets, members, node as usize, most, buffer)?
            .filter(|members| !members.is_empty() && members.iter().all(|&image| image < self.head.images))
            .ok_or_else(|| self.damaged_members(node))
    }

    fn picture(&self, node: u32) -> Result<u32> {
        let (offsets, members) = (&self.graph.member_offsets, &self.graph.members);
        let first = self.container.value(offsets, node.into())?;
        let picture = first.map_or(Ok(None), |first| self.container.value(members, first.into()))?;
        picture.filter(|&image| image < self.head.images).ok_or_else(|| self.damaged_members(node))
    }
}

impl GraphView<'_> {
    /// The first `most` values of list `slot` of those that `offsets` divide `values` into; `None` where there is no such
    /// list.
    fn list<'a>(
        &'a self,
        offsets: &'a Section<u32>,
        values: &'a Section<u32>,
        slot: usize,
        most: usize,
        buffer: &'a mut Vec<u32>,
    ) -> Result<Option<&'a [u32]>> {
        let bound = |at: usize| self.container.value(offsets, at as u64);
        let Some((from, to)) = bound(slot)?.zip(bound(slot + 1)?) else { return Ok(None) };
        match to.checked_sub(from) {
            Some(count) => self.container.read(values, from.into(), most.min(count as usize), buffer),
            None => Ok(None),
        }
    }

    fn damaged_members(&self, node: u32) -> Error {
        self.container.fault(format!("the pictures of node {node} are damaged"))
    }

    fn verify_levels(&self) -> Result<()> {
        let mut buffer = Vec::new();
        for (l, level) in self.graph.levels.iter().enumerate() {
            let fault = |what: &str| Err(self.container.fault(format!("level {l}: {what}")));
            let offset = |at: u64| self.container.value(&level.offsets, at);
            let ends = (offset(0)?, offset(level.offsets.len().saturating_sub(1))?.map(u64::from));
            if ends != (Some(0), Some(level.links.len())) {
                return fault("its offsets do not span its links");
            }
            let all: Vec<u32>; // level 0 has every node
            let nodes = match &level.nodes {
                Some(nodes) => self.container.view(nodes),
                None => {
                    all = (0..self.head.nodes).collect();
                    &all
                }
            };
            let ascending = nodes.windows(2).all(|pair| pair[0] < pair[1]);
            if !ascending || nodes.last().is_some_and(|&last| last >= self.head.nodes) {
                return fault("its nodes are not in order");
            }
            for &node in nodes {
                if !self.links(l, node, &mut buffer)?.iter().all(|link| nodes.binary_search(link).is_ok()) {
                    return fault("a link leads off the level");
                }
            }
        }
        Ok(())
    }

    fn verify_members(&self) -> Result<()> {
        let (mut seen, mut buffer) = (Visited::default(), Vec::new());
        seen.clear(self.head.images);
        let mut count = 0;
        for node in 0..self.head.nodes {
            let members = self.members(node, usize::MAX, &mut buffer)?;
            let ascending = members.windows(2).all(|pair| pair[0] < pair[1]);
            if !ascending || !members.iter().all(|&image| seen.insert(image)) {
                return Err(self.container.fault(format!("the pictures of node {node} are not in order")));
            }
            count += members.len();
        }
        match count == self.head.images as usize {
            true => Ok(()),
            false => Err(self.container.fault("a picture is in no node")),
        }
    }

    fn verify_reach(&self) -> Result<()> {
        let mut visited = Visited::default();
        visited.clear(self.head.nodes);
        reach(self, self.head.entry, &mut visited, &mut vec![])?;
        match (0..self.head.nodes).find(|&node| !visited.contains(node)) {
            Some(node) => Err(self.container.fault(format!("node {node} cannot be reached"))),
            None => Ok(()),
        }
    }
}
