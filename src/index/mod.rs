//! The frozen index: nearest neighbours among the blocks of one position of a block database.
//!
//! An HNSW graph (Malkov & Yashunin 2018, arXiv 1603.09320) built by hnsw_rs, then frozen to flat arrays that
//! are searched where they are mapped. Two things differ from a general HNSW, because blocks are quantized:
//!
//! - **Distances are exact and cheap.** A block is read as its h·w codes, and its squared L2 distance to the query added up
//!   from the entries of the codebook. No vector is stored twice. (Where blocks are stored as values, those are read.)
//! - **Equal blocks share a node.** Thousands of pictures may have the very same first block (a blank corner),
//!   and a graph of equal points falls apart. A node stands for all pictures with its codes; results list them
//!   by ascending image id.
//!
//! Small databases have no graph, nor have those whose blocks are so hard to tell apart that a search in one would look
//! at much of it: they are scanned, which is exact and then faster.
//!
//! A [container](crate::container) of kind `rshn` with the sections
//!
//! | section | values |
//! |---|---|
//! | `head` | counts, settings, measured recall, content hash of the database (96 bytes) |
//! | `mofs 0`, `memb 0` | u32 offsets (nodes + 1) into the image ids of each node, ascending |
//! | `offs l`, `link l` | u32 offsets into the node ids linked from each node of level l |
//! | `node l` | the nodes of level l ≥ 1, ascending; level 0 has them all |
//!
//! No count, offset or id is trusted: a search meets a bad one with [`Error::File`](crate::Error::File), and
//! visits a node at most once, so it ends.

mod build;
mod distance;
mod exact;
mod format;
mod freeze;
mod frozen;
mod grow;
mod order;
mod scratch;
mod walk;

pub use build::{IndexSettings, build_index, build_index_while};
pub use exact::exact_scan;
pub use frozen::{FrozenIndex, IndexSummary};
pub use grow::follow_index_while;
pub use order::order_by_likeness;
pub use scratch::SearchScratch;

/// A picture near the query.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Neighbour {
    /// Image id in the block database.
    pub image: u32,
    /// Squared L2 distance between the query and the picture's block, in unscaled latent units.
    pub distance: f32,
}

#[cfg(test)]
mod tests;
