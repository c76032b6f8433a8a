//! Exact search: every picture is looked at.

use super::distance::Distances;
use super::{Neighbour, SearchScratch, scratch::Ranked};
use crate::error::{Error, Result};
use crate::store::{BlockDatabase, Rows};

/// The `k` pictures whose blocks at `position` are nearest to `query` (C×h×w, unscaled) by squared L2, without
/// picture `exclude`; sorted by distance, then image id. The oracle that [`FrozenIndex`](super::FrozenIndex) is
/// measured by.
///
/// # Errors
/// [`Error::Usage`] for a position or `k` beyond the database, or a query that is not a block of numbers;
/// [`Error::File`] where the database has a code that its codebook does not have; [`Error::Io`].
pub fn exact_scan<'s>(
    db: &BlockDatabase,
    position: usize,
    query: &[f32],
    k: usize,
    exclude: Option<u32>,
    scratch: &'s mut SearchScratch,
) -> Result<&'s [Neighbour]> {
    check_position(db, position)?;
    check_neighbours(db, k, exclude)?;
    let mut distances = Distances::new(db, position, query, &mut scratch.distance)?;
    scratch.nearest.clear(k);
    let rows = db.rows(position);
    for image in (0..db.images()).filter(|&image| Some(image) != exclude) {
        if image.is_multiple_of(Rows::AHEAD) {
            rows.advise_needed(image);
        }
        scratch.nearest.offer(Ranked::new(distances.to(image)?, image));
    }
    check_found(db, position, scratch.nearest.finish())
}

/// Refuses a position that the database does not have.
pub(super) fn check_position(db: &BlockDatabase, position: usize) -> Result<()> {
    if position >= db.positions() {
        return Err(Error::Usage(format!("no position {position}: the database has {}", db.positions())));
    }
    Ok(())
}

/// Refuses more neighbours than there are.
pub(super) fn check_neighbours(db: &BlockDatabase, k: usize, exclude: Option<u32>) -> Result<()> {
    let excluded = exclude.is_some_and(|image| image < db.images());
    let available = db.images() as usize - usize::from(excluded);
    if k > available {
        let but = if excluded { " besides the excluded one" } else { "" };
        return Err(Error::Usage(format!(
            "{k} neighbours are asked for, the database holds {available} pictures{but}"
        )));
    }
    Ok(())
}

/// Passes `found` on, unless it shows that the database is damaged.
pub(super) fn check_found<'s>(db: &BlockDatabase, position: usize, found: &'s [Neighbour]) -> Result<&'s [Neighbour]> {
    match found.last() {
        Some(worst) if worst.distance == f32::INFINITY => Err(db.unknown_code(worst.image, position)),
        _ => Ok(found),
    }
}
