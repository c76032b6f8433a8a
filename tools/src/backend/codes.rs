//! Latents of whole pictures by the codes of their cells, cut out where they lie: what a batch of the decoder is made of.

use super::pictures::Cut;

/// Latents of one size.
#[derive(Debug, Clone, PartialEq)]
pub struct CodeSet {
    /// Rows of cells.
    pub height: usize,
    /// Columns of cells.
    pub width: usize,
    /// Values of a cell.
    pub channels: usize,
    /// `K × channels`.
    pub codebook: Vec<f32>,
    /// `N × height × width`.
    pub codes: Vec<u16>,
}

impl CodeSet {
    /// How many latents there are.
    pub fn count(&self) -> usize {
        self.codes.len() / (self.height * self.width)
    }

    /// The values of `cut`, of `rows × columns` cells, cell by cell.
    pub fn values(&self, cut: Cut, [rows, columns]: [usize; 2]) -> impl Iterator<Item = f32> + '_ {
        let codes = &self.codes[cut.image * self.height * self.width..][..self.height * self.width];
        let column = move |x: usize| if cut.mirrored { self.width - 1 - x } else { x };
        let lines = codes.chunks_exact(self.width).skip(cut.top).take(rows);
        let cells = lines.flat_map(move |line| (cut.left..cut.left + columns).map(move |x| line[column(x)]));
        cells.flat_map(|code| &self.codebook[usize::from(code) * self.channels..][..self.channels]).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_has_the_entries_that_its_codes_name() {
        // Two latents of 2×3 cells; an entry is its number and that negated.
        let codebook = (0..12).flat_map(|code| [code as f32, -(code as f32)]).collect();
        let set = CodeSet { height: 2, width: 3, channels: 2, codebook, codes: (0..12).collect() };
        let values = |mirrored, top, left, size| -> Vec<f32> {
            set.values(Cut { image: 1, mirrored, top, left }, size).step_by(2).collect()
        };
        assert_eq!(set.count(), 2);
        assert_eq!(values(false, 0, 0, [2, 3]), [6.0, 7.0, 8.0, 9.0, 10.0, 11.0]);
        assert_eq!(values(false, 1, 1, [1, 2]), [10.0, 11.0]);
        assert_eq!(values(true, 0, 1, [2, 2]), [7.0, 6.0, 10.0, 9.0]);
    }
}
