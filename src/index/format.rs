//! The `head` section of a frozen index, and the names of the others.

use bytemuck::{Pod, Zeroable};

use crate::container::SectionId;

pub(super) const KIND: [u8; 4] = *b"rshn";
pub(super) const HEAD: SectionId = SectionId(*b"head", 0);
pub(super) const MEMBER_OFFSETS: SectionId = SectionId(*b"mofs", 0);
pub(super) const MEMBERS: SectionId = SectionId(*b"memb", 0);

pub(super) fn offsets(level: usize) -> SectionId {
    SectionId(*b"offs", level as u32)
}

pub(super) fn links(level: usize) -> SectionId {
    SectionId(*b"link", level as u32)
}

pub(super) fn nodes(level: usize) -> SectionId {
    SectionId(*b"node", level as u32)
}

/// Levels that hnsw_rs builds.
pub(super) const MAX_LEVELS: u32 = 16;
/// Most links of a node on one level.
pub(super) const MAX_DEGREE: usize = 1024;
/// Largest number of nodes that a search keeps.
pub(super) const MAX_EF: u32 = 1 << 16;

/// No graph: the database is scanned.
pub(super) const MODE_EXACT: u32 = 0;
/// A graph.
pub(super) const MODE_GRAPH: u32 = 1;

/// Counts, settings and measures. 96 bytes.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Head {
    pub images: u32,
    pub position: u32,
    pub mode: u32,
    pub nodes: u32,
    pub levels: u32,
    pub entry: u32,
    pub connections: u32,
    pub ef_construction: u32,
    pub ef_search: u32,
    /// The k of the recalls.
    pub recall_k: u32,
    pub recall: f32,
    pub recall_excluding_self: f32,
    pub reserved: [u32; 4],
    /// Content hash of the database.
    pub database: [u8; 32],
}

const _: () = assert!(size_of::<Head>() == 96);

impl Head {
    /// What is wrong with the head in itself.
    pub fn check(&self) -> Result<(), &'static str> {
        let share = 0.0..=1.0;
        let graph_ok = match self.mode {
            MODE_EXACT => [self.nodes, self.levels, self.entry] == [0; 3],
            MODE_GRAPH => {
                (1..=self.images).contains(&self.nodes)
                    && (1..=MAX_LEVELS).contains(&self.levels)
                    && self.entry < self.nodes
            }
            _ => return Err("the search mode is unknown"),
        };
        if !graph_ok || !(1..=MAX_EF).contains(&self.ef_search) {
            return Err("the counts in the head contradict each other");
        }
        if !share.contains(&self.recall) || !share.contains(&self.recall_excluding_self) {
            return Err("the recall in the head is no share");
        }
        if self.reserved != [0; 4] {
            return Err("reserved bytes of the head are not zero");
        }
        Ok(())
    }
}
