//! One piece of memory for all activations of a run: who lies where is settled when the network is loaded.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::ops::{Grid, GridMut, View};

/// A buffer of the arena: how many values, and the first and last step that touch it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lifetime {
    pub len: usize,
    pub first: usize,
    pub last: usize,
}

/// Where each buffer begins, and the values in all; `None` where that overflows. Buffers that live at the same time
/// do not overlap. Largest first, each as low as it fits (Pisarchyk & Lee 2020).
pub(super) fn plan(buffers: &[Lifetime]) -> Option<(Vec<usize>, usize)> {
    let mut order: Vec<usize> = (0..buffers.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(buffers[i].len));
    let mut starts = vec![0; buffers.len()];
    let mut placed: Vec<usize> = vec![];
    let mut total = 0;
    for i in order {
        let Lifetime { len, first, last } = buffers[i];
        let meets = |other: &&usize| buffers[**other].first <= last && first <= buffers[**other].last;
        let mut taken: Vec<Range<usize>> =
            placed.iter().filter(meets).map(|&other| starts[other]..starts[other] + buffers[other].len).collect();
        taken.sort_by_key(|range| range.start);
        let mut start: usize = 0;
        for range in taken {
            if range.start >= start.checked_add(len)? {
                break;
            }
            start = start.max(range.end);
        }
        starts[i] = start;
        total = total.max(start.checked_add(len)?);
        placed.push(i);
    }
    Some((starts, total))
}

/// Where an activation lies in the arena.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    /// Its buffer. The last values of a buffer, as many as it has channels, are zeros.
    pub buffer: Range<usize>,
    /// Its pixels within the buffer.
    pub view: View,
    /// Channels of the whole buffer.
    pub zeros: usize,
}

/// What an operator may read: the arena but for the buffer that it writes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Others<'a> {
    before: &'a [f32],
    after: &'a [f32],
    /// Where `after` begins in the arena.
    resumes: usize,
}

/// Divides `arena` into what lies at `out` and the others.
pub(super) fn split<'a>(arena: &'a mut [f32], out: &Place) -> (GridMut<'a>, Others<'a>) {
    let Range { start, end } = out.buffer;
    let (before, rest) = arena.split_at_mut(start);
    let (values, after) = rest.split_at_mut(end - start);
    let pixels = values.len() - out.zeros;
    values[pixels..].fill(0.0);
    (GridMut { values, view: out.view }, Others { before, after, resumes: end })
}

impl<'a> Others<'a> {
    /// The activation at `place`, which is not in the buffer left out.
    pub fn grid(self, place: &Place) -> Grid<'a> {
        let Range { start, end } = place.buffer;
        let values = match start.checked_sub(self.resumes) {
            Some(start) => &self.after[start..][..end - place.buffer.start],
            None => &self.before[start..end],
        };
        Grid { values, view: place.view }
    }

    /// The first pixel at `place`.
    pub fn vector(self, place: &Place) -> &'a [f32] {
        self.grid(place).pixel(0, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::ops::Shape;

    fn lifetime(len: usize, first: usize, last: usize) -> Lifetime {
        Lifetime { len, first, last }
    }

    #[test]
    fn what_lives_at_once_lies_apart_and_what_does_not_shares() {
        let chain: Vec<Lifetime> = (0..8).map(|i| lifetime(10, i, i + 1)).collect();
        assert_eq!(plan(&chain).unwrap().1, 20);
        // By a fixed rule of congruence, many lifetimes that cross.
        let buffers: Vec<Lifetime> = (0..60).map(|i| lifetime(1 + i * 37 % 23, i, i + i * 29 % 17)).collect();
        let (starts, total) = plan(&buffers).unwrap();
        for (i, a) in buffers.iter().enumerate() {
            assert!(starts[i] + a.len <= total);
            for (j, b) in buffers.iter().enumerate().skip(i + 1) {
                let at_once = a.first <= b.last && b.first <= a.last;
                let apart = starts[i] + a.len <= starts[j] || starts[j] + b.len <= starts[i];
                assert!(!at_once || apart, "{i} and {j}");
            }
        }
        assert!(total < buffers.iter().map(|b| b.len).sum::<usize>() / 2);
        assert_eq!(plan(&[lifetime(usize::MAX, 0, 1), lifetime(1, 0, 1)]), None);
    }

    #[test]
    fn reading_goes_around_what_is_written() {
        let mut arena: Vec<f32> = (0..12).map(|i| i as f32).collect();
        let view = View::whole(Shape { channels: 1, height: 1, width: 3 });
        let place = |start| Place { buffer: start..start + 4, view, zeros: 1 };
        let (out, others) = split(&mut arena, &place(4));
        assert_eq!(out.values, [4.0, 5.0, 6.0, 0.0]);
        assert_eq!(others.grid(&place(0)).values, [0.0, 1.0, 2.0, 3.0]);
        assert_eq!(others.vector(&place(8)), [8.0]);
    }
}
