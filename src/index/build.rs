//! Building an index: group equal blocks, let hnsw_rs build the graph, mend it, measure it, write it.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use hnsw_rs::prelude::Hnsw;

use super::distance::CodeDistance;
use super::exact::{check_position, exact_scan};
use super::format::{self, Head, MAX_DEGREE, MAX_EF, MAX_LEVELS, MODE_EXACT, MODE_GRAPH};
use super::freeze::DraftGraph;
use super::frozen::{At, search_graph};
use super::{FrozenIndex, IndexSummary, SearchScratch};
use crate::container;
use crate::error::{Error, Result};
use crate::store::{BlockDatabase, RowBuffer};

/// How an index is built and searched.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct IndexSettings {
    /// Links M of a node on each upper level; twice as many on level 0.
    pub connections: usize,
    /// Candidates looked at when a node is inserted.
    pub ef_construction: usize,
    /// Most nodes that a search keeps.
    pub ef_search: usize,
    /// Recall@k that is reached with as few nodes as possible, pictures as their own neighbours or not. Where not even
    /// `ef_search` nodes reach it, there is no graph and the database is scanned.
    pub recall: f32,
    /// Most of the nodes that a search may look at on average, as a share of the pictures, for there to be a graph: one
    /// node costs what 2 (4,000 pictures) to 4 (20,000) pictures cost a scan.
    pub most_visited: f32,
    /// A database of at most so many pictures gets no graph and is scanned.
    pub exact_up_to: usize,
    /// The k at which recall is measured (less where there are fewer pictures).
    pub recall_k: usize,
}

/// Largest M.
const MAX_CONNECTIONS: usize = 128;

impl Default for IndexSettings {
    fn default() -> Self {
        Self {
            connections: 16,
            ef_construction: 200,
            ef_search: 512,
            recall: 0.995,
            most_visited: 0.25,
            exact_up_to: 2000,
            recall_k: 20,
        }
    }
}

impl IndexSettings {
    /// Whether `db` is so small that it is scanned.
    pub(super) fn scans(&self, db: &BlockDatabase) -> bool {
        db.images() as usize <= self.exact_up_to
    }

    pub(super) fn check(&self) -> Result<()> {
        let ok = (2..=MAX_CONNECTIONS).contains(&self.connections)
            && (1..=4096).contains(&self.ef_construction)
            && (1..=MAX_EF as usize).contains(&self.ef_search)
            && (0.0..=1.0).contains(&self.recall)
            && (0.0..=1.0).contains(&self.most_visited)
            && (1..=4096).contains(&self.recall_k);
        match ok {
            true => Ok(()),
            false => Err(Error::Usage(format!("index settings are out of bounds: {self:?}"))),
        }
    }
}

/// Links of a node on level 0, in units of M, up to which links are made mutual; hnsw_rs itself keeps 2. On
/// 5,000 blocks in tight clusters it raised recall@20 from 0.9925 to 0.997 for 1.3 times the links.
pub(super) const MUTUAL: usize = 6;

// Leaves room for mending.
const _: () = assert!(MUTUAL * MAX_CONNECTIONS < MAX_DEGREE);

/// Pictures whose blocks are the queries when recall is measured.
const RECALL_QUERIES: usize = 200;

/// Builds the index of `position` of `db`, measures its recall, and writes it to `path`, atomically. The same
/// database and settings give the same file.
///
/// # Errors
/// [`Error::Usage`] for a position that the database does not have or settings out of bounds; [`Error::File`]
/// for a damaged database; [`Error::Io`].
pub fn build_index(
    db: &BlockDatabase,
    position: usize,
    settings: IndexSettings,
    path: impl AsRef<Path>,
) -> Result<IndexSummary> {
    build_index_while(db, position, settings, path, &|| Ok(()))
}

/// As [`build_index`], which takes minutes for a large database; `check` is asked before each block is inserted.
///
/// # Errors
/// As [`build_index`]; what `check` answers, and then `path` is left as it was.
pub fn build_index_while(
    db: &BlockDatabase,
    position: usize,
    settings: IndexSettings,
    path: impl AsRef<Path>,
    check: &dyn Fn() -> Result<()>,
) -> Result<IndexSummary> {
    settings.check()?;
    check_position(db, position)?;
    let graph = match settings.scans(db) {
        true => None,
        false => Some(build_graph(At { db, position, ef: settings.ef_construction }, settings, check)?),
    };
    Draft::new(db, position, settings, graph)?.write(db, path.as_ref())
}

/// An index that is to be written, its recall measured.
pub(super) struct Draft {
    pub head: Head,
    graph: Option<DraftGraph>,
}

impl Draft {
    /// Measures `graph`, and drops it where it falls short or is slower than a scan; without one the index says that the
    /// database is scanned.
    pub fn new(
        db: &BlockDatabase,
        position: usize,
        settings: IndexSettings,
        graph: Option<DraftGraph>,
    ) -> Result<Self> {
        let mut head = Head {
            images: db.images(),
            position: position as u32,
            mode: MODE_EXACT,
            nodes: 0,
            levels: 0,
            entry: 0,
            connections: settings.connections as u32,
            ef_construction: settings.ef_construction as u32,
            ef_search: settings.ef_search as u32,
            recall_k: settings.recall_k.min(db.images() as usize) as u32,
            recall: 1.0,
            recall_excluding_self: 1.0,
            reserved: [0; 4],
            database: db.content_hash(),
        };
        let Some(graph) = graph else { return Ok(Self { head, graph }) };
        let exam = Exam::new(db, position, settings.recall_k)?;
        let (mut reached, mut visited) = ([0.0; 2], 0.0);
        for ef in steps_up_to(settings.ef_search) {
            let at = At { db, position, ef };
            let marks = [exam.mark(&graph, at, false)?, exam.mark(&graph, at, true)?];
            (reached, visited) = (marks.map(|mark| mark.recall), marks[0].visited.max(marks[1].visited));
            if visited > settings.most_visited {
                break;
            }
            if reached.iter().all(|&recall| recall >= settings.recall) {
                log::debug!("a search looks at {visited:.3} of the pictures");
                let [recall, recall_excluding_self] = reached;
                let (mode, ef_search, entry) = (MODE_GRAPH, ef as u32, graph.entry);
                let (nodes, levels) = (graph.members.len() as u32, 1 + graph.upper.len() as u32);
                head = Head { mode, nodes, levels, entry, ef_search, recall, recall_excluding_self, ..head };
                return Ok(Self { head, graph: Some(graph) });
            }
        }
        log::info!(
            "the database will be scanned: looking at {visited:.2} of it, the graph's recall is {:.4}",
            reached[0].min(reached[1])
        );
        Ok(Self { head, graph: None })
    }

    /// Whether searches scan the database.
    pub fn scans(&self) -> bool {
        self.graph.is_none()
    }

    /// Writes the index of `db` to `path`, atomically, and opens it.
    pub fn write(&self, db: &BlockDatabase, path: &Path) -> Result<IndexSummary> {
        let mut sections = vec![(format::HEAD, container::source(Vec::from(bytemuck::bytes_of(&self.head))))];
        sections.extend(self.graph.iter().flat_map(DraftGraph::sections));
        container::write(path, format::KIND, sections)?;
        Ok(FrozenIndex::open(path, db)?.summary())
    }
}

/// The numbers of nodes kept that are tried: 24, 32, 48, 64, 96 … and `most` itself.
fn steps_up_to(most: usize) -> impl Iterator<Item = usize> {
    let doubled = |first: usize| std::iter::successors(Some(first), |ef| Some(2 * ef));
    let all = doubled(24).zip(doubled(32)).flat_map(|(a, b)| [a, b]);
    all.take_while(move |&ef| ef < most).chain([most])
}

fn build_graph(at: At<'_>, settings: IndexSettings, check: &dyn Fn() -> Result<()>) -> Result<DraftGraph> {
    let members = equal_blocks(at.db, at.position)?;
    let (nodes, rows) = (members.len(), at.db.rows(at.position));
    let (codebook, channels) = (at.db.codebook_at(at.position), at.db.block().channels);
    let distance = CodeDistance::new(codebook, channels);
    let hnsw = Hnsw::new(settings.connections, nodes, MAX_LEVELS as usize, settings.ef_construction, distance.clone());
    let (mut codes, mut buffer) = (vec![], RowBuffer::default());
    // One after the other: the order decides the graph.
    for node in scattered(nodes) {
        check()?;
        codes.clear();
        codes.extend(rows.row(members[node][0], &mut buffer)?.iter().map(|code| code as u16));
        if !distance.knows(&codes) {
            return Err(at.db.unknown_code(members[node][0], at.position));
        }
        hnsw.insert_slice((&codes, node));
    }
    let mut graph = take_graph(&hnsw, members);
    drop(hnsw);
    graph.make_mutual(MUTUAL * settings.connections);
    let mended = graph.mend(at)?;
    log::debug!("index of position {}: {nodes} distinct blocks, {mended} were unreachable", at.position);
    Ok(graph)
}

/// `0..count` in steps of about a golden section, and around: a database whose pictures are in order of their likeness
/// makes a worse graph when they are inserted in that order.
pub(super) fn scattered(count: usize) -> impl Iterator<Item = usize> {
    let prime_to = |step: &usize| {
        let (mut a, mut b) = (*step, count);
        while b > 0 {
            (a, b) = (b, a % b);
        }
        a == 1
    };
    let step = ((count as f64 * 0.618_033_988_75) as usize..=count).find(prime_to).unwrap_or(1);
    (0..count).scan(0, move |next, _| {
        let at = *next;
        *next = (*next + step) % count;
        Some(at)
    })
}

/// The pictures that share a block, for each distinct block, both in order of image id.
fn equal_blocks(db: &BlockDatabase, position: usize) -> Result<Vec<Vec<u32>>> {
    let (rows, mut buffer) = (db.rows(position), RowBuffer::default());
    // By BLAKE3, which no two blocks share: the rows themselves need not stay in memory.
    let mut nodes: HashMap<[u8; 32], usize> = HashMap::new();
    let mut members: Vec<Vec<u32>> = vec![];
    for image in 0..db.images() {
        let hash = blake3::hash(rows.row(image, &mut buffer)?.bytes());
        let node = *nodes.entry(*hash.as_bytes()).or_insert(members.len());
        match members.get_mut(node) {
            Some(members) => members.push(image),
            None => members.push(vec![image]),
        }
    }
    Ok(members)
}

/// Copies the links that hnsw_rs made. It also notes links from a node to levels above its own; those go.
fn take_graph(hnsw: &Hnsw<'_, u16, CodeDistance<'_>>, members: Vec<Vec<u32>>) -> DraftGraph {
    let points = hnsw.get_point_indexation();
    let top = usize::from(points.get_max_level_observed());
    let mut graph =
        DraftGraph { entry: 0, ground: vec![vec![]; members.len()], upper: vec![BTreeMap::new(); top], members };
    for layer in 0..=top {
        for point in points.get_layer_iterator(layer) {
            let node = point.get_origin_id();
            for (level, links) in point.get_neighborhood_id().iter().take(layer + 1).enumerate() {
                let links = links.iter().filter(|link| usize::from(link.p_id.0) >= level && link.d_id != node);
                let links: Vec<u32> = links.map(|link| link.d_id as u32).collect();
                match level {
                    0 => graph.ground[node] = links,
                    _ => drop(graph.upper[level - 1].insert(node as u32, links)),
                }
            }
        }
    }
    // hnsw_rs starts from the first point that reached the top level.
    if let Some(entry) = points.get_layer_iterator(top).next() {
        graph.entry = entry.get_origin_id() as u32;
    }
    graph
}

/// What an [`Exam`] finds.
#[derive(Clone, Copy)]
struct Mark {
    /// Share of the true neighbours that are found.
    recall: f32,
    /// Nodes that a search looks at on average, as a share of the pictures.
    visited: f32,
}

/// Pictures spread over a database as queries, and how far their true neighbours are.
struct Exam {
    k: usize,
    /// The picture, and the distance of its k-th true neighbour, itself included and not.
    questions: Vec<(u32, [f32; 2])>,
}

impl Exam {
    fn new(db: &BlockDatabase, position: usize, k: usize) -> Result<Self> {
        let images = db.images();
        let (mut exact, mut query) = (SearchScratch::default(), vec![0.0; db.block().len()]);
        let mut bound = |image: u32, exclude: Option<u32>| {
            db.read_block(image, position, &mut query)?;
            let k = k.min(images as usize - exclude.iter().len());
            let truth = exact_scan(db, position, &query, k, exclude, &mut exact)?;
            Ok(truth.last().map_or(0.0, |last| last.distance))
        };
        let asked = (0..images).step_by((images as usize).div_ceil(RECALL_QUERIES));
        let questions = asked.map(|image| Ok((image, [bound(image, None)?, bound(image, Some(image))?])));
        Ok(Self { k, questions: questions.collect::<Result<_>>()? })
    }

    /// How well searches do. A picture as far as the k-th true one counts as found: ties have no order of their own.
    fn mark(&self, graph: &DraftGraph, at: At<'_>, exclude_self: bool) -> Result<Mark> {
        let images = at.db.images() as usize;
        let k = self.k.min(images - usize::from(exclude_self));
        if k == 0 {
            return Ok(Mark { recall: 1.0, visited: 0.0 });
        }
        let (mut scratch, mut query) = (SearchScratch::default(), vec![0.0; at.db.block().len()]);
        let (mut found, mut visited) = (0, 0);
        for &(image, bounds) in &self.questions {
            at.db.read_block(image, at.position, &mut query)?;
            let got = search_graph(graph, at, &query, k, exclude_self.then_some(image), &mut scratch)?;
            found += got.iter().filter(|neighbour| neighbour.distance <= bounds[usize::from(exclude_self)]).count();
            visited += scratch.trail.visited.count();
        }
        let asked = self.questions.len();
        Ok(Mark { recall: found as f32 / (k * asked) as f32, visited: visited as f32 / (images * asked) as f32 })
    }
}
