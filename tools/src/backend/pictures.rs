//! Pictures, cut out where they lie: what a batch of the VQ-GAN is made of.

use super::windows::exact;

/// Pictures of one size, 8 bits a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PictureSet {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// `N × height × width × 3`, sRGB.
    pub pixels: Vec<u8>,
}

/// A part of a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// Number of the picture; below [`Subject::MAX_IMAGES`](super::windows::Subject::MAX_IMAGES).
    pub image: usize,
    /// Whether the picture is turned left to right before.
    pub mirrored: bool,
    /// First row.
    pub top: usize,
    /// First column.
    pub left: usize,
}

impl Cut {
    /// Floats that a device is told of a cut.
    pub const WORDS: usize = 4;

    /// What a device is told of `cuts`, in the order of the kernels' `struct Cut`.
    ///
    /// # Panics
    /// When a number does not fit a float.
    pub fn words(cuts: &[Self]) -> Vec<f32> {
        let words = |cut: &Self| -> [f32; Self::WORDS] {
            [exact(cut.image), f32::from(u8::from(cut.mirrored)), exact(cut.top), exact(cut.left)]
        };
        cuts.iter().flat_map(words).collect()
    }

    /// The cut that [`Self::WORDS`] of these `words` tell of.
    pub(super) fn read(words: &[f32]) -> Self {
        let [image, top, left] = [words[0], words[2], words[3]].map(|word| word as usize);
        Self { image, mirrored: words[1] != 0.0, top, left }
    }

    /// The values of this cut of `rows × columns` in −1…1, row by row, out of `pixels` as [`PictureSet`] has them.
    pub fn values(
        self,
        pixels: &[u8],
        [height, width]: [usize; 2],
        [rows, columns]: [usize; 2],
    ) -> impl Iterator<Item = f32> + '_ {
        let picture = &pixels[self.image * height * width * 3..][..height * width * 3];
        let column = move |x: usize| if self.mirrored { width - 1 - x } else { x };
        let lines = picture.chunks_exact(width * 3).skip(self.top).take(rows);
        let values =
            lines.flat_map(move |line| (self.left..self.left + columns).flat_map(move |x| &line[3 * column(x)..][..3]));
        values.map(|&p| f32::from(p) / 127.5 - 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::Cut;

    #[test]
    fn a_mirrored_picture_has_its_rows_backwards_and_a_part_is_of_those() {
        // Two pictures of 3×2 pixels.
        let pixels: Vec<u8> = (100..118).chain(0..18).collect();
        let bytes = |mirrored, [top, left]: [usize; 2], size| -> Vec<f32> {
            let cut = Cut { image: 1, mirrored, top, left };
            assert_eq!(Cut::read(&Cut::words(&[cut])), cut);
            cut.values(&pixels, [2, 3], size).map(|v| ((v + 1.0) * 127.5).round()).collect()
        };
        assert_eq!(bytes(false, [0, 0], [2, 3]), (0..18).map(|v| v as f32).collect::<Vec<_>>());
        assert_eq!(
            bytes(true, [0, 0], [2, 3]),
            [6, 7, 8, 3, 4, 5, 0, 1, 2, 15, 16, 17, 12, 13, 14, 9, 10, 11].map(|v: u8| f32::from(v))
        );
        assert_eq!(bytes(false, [1, 1], [1, 2]), [12, 13, 14, 15, 16, 17].map(|v: u8| f32::from(v)));
        assert_eq!(bytes(true, [1, 1], [1, 2]), [12, 13, 14, 9, 10, 11].map(|v: u8| f32::from(v)));
    }
}
