//! Which pictures train and which validate.

use rissole::{Error, Result};

use crate::random::Random;

/// Two disjoint sets of picture indices, each in ascending order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// Pictures to train on.
    pub train: Vec<u32>,
    /// Pictures held out.
    pub validation: Vec<u32>,
}

/// Holds out `validation` of `n` pictures: the last ones where `hold_out_last`, else ones drawn by `seed`.
///
/// # Errors
/// [`Error::Usage`] when nothing would be left to train on, or there are more pictures than `u32` counts.
pub fn split(n: usize, validation: usize, seed: u64, hold_out_last: bool) -> Result<Split> {
    if validation >= n {
        return Err(Error::Usage(format!("cannot hold out {validation} of {n} pictures: none is left to train on")));
    }
    let count = u32::try_from(n).map_err(|_| Error::Usage(format!("{n} pictures are too many")))?;
    let mut order: Vec<u32> = (0..count).collect();
    if !hold_out_last {
        Random::new(seed).shuffle(&mut order);
    }
    let mut held_out = order.split_off(n - validation);
    order.sort_unstable();
    held_out.sort_unstable();
    Ok(Split { train: order, validation: held_out })
}
