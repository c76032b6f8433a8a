//! Where the pixels of an activation lie.

use serde::{Deserialize, Serialize};

/// Sides of an activation: height × width pixels of some channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::network) struct Shape {
    pub channels: usize,
    pub height: usize,
    pub width: usize,
}

impl Shape {
    /// Number of pixels. Shapes are bounded when a graph is read, so this does not overflow.
    pub fn pixels(self) -> usize {
        self.height * self.width
    }

    /// Number of values.
    pub fn len(self) -> usize {
        self.pixels() * self.channels
    }
}

/// The pixels of an activation within a buffer. Channels lie side by side; between pixels and rows there may be
/// values of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::network) struct View {
    pub shape: Shape,
    /// Where the first pixel begins.
    pub offset: usize,
    /// From one pixel to the next in its row.
    pub pixel: usize,
    /// From one row to the next.
    pub row: usize,
}

impl View {
    /// All of a buffer.
    pub fn whole(shape: Shape) -> Self {
        Self { shape, offset: 0, pixel: shape.channels, row: shape.width * shape.channels }
    }

    /// `channels` channels from `first` on.
    pub fn channels(self, first: usize, channels: usize) -> Self {
        Self { shape: Shape { channels, ..self.shape }, offset: self.offset + first, ..self }
    }

    /// The `height` × `width` pixels from row `top` and column `left` on.
    pub fn window(self, top: usize, left: usize, height: usize, width: usize) -> Self {
        let offset = self.offset + top * self.row + left * self.pixel;
        Self { shape: Shape { height, width, ..self.shape }, offset, ..self }
    }

    /// Where the pixel at row `y` and column `x` begins.
    #[inline(always)]
    pub fn at(self, y: usize, x: usize) -> usize {
        self.offset + y * self.row + x * self.pixel
    }
}

/// An activation to read.
#[derive(Debug, Clone, Copy)]
pub(in crate::network) struct Grid<'a, T = f32> {
    pub values: &'a [T],
    pub view: View,
}

impl<'a, T> Grid<'a, T> {
    /// `height` rows from `first` on.
    pub fn rows(self, first: usize, height: usize) -> Self {
        Self { view: self.view.window(first, 0, height, self.view.shape.width), ..self }
    }

    /// The channels of the pixel at row `y` and column `x`.
    #[inline(always)]
    pub fn pixel(&self, y: usize, x: usize) -> &'a [T] {
        &self.values[self.view.at(y, x)..][..self.view.shape.channels]
    }
}

/// An activation to write.
#[derive(Debug)]
pub(in crate::network) struct GridMut<'a> {
    pub values: &'a mut [f32],
    pub view: View,
}

impl<'a> GridMut<'a> {
    /// The rows above `row`, and the others.
    pub fn split(self, row: usize) -> (Self, Self) {
        let View { shape, offset, row: apart, .. } = self.view;
        let (above, below) = self.values.split_at_mut(offset + row * apart);
        let view = |height, offset| View { shape: Shape { height, ..shape }, offset, ..self.view };
        let above = Self { values: above, view: view(row, offset) };
        (above, Self { values: below, view: view(shape.height - row, 0) })
    }

    /// The channels of the pixel at row `y` and column `x`.
    #[inline(always)]
    pub fn pixel(&mut self, y: usize, x: usize) -> &mut [f32] {
        &mut self.values[self.view.at(y, x)..][..self.view.shape.channels]
    }
}
