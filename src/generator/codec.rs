//! Between pictures and latents: the decoder and the encoder, with snapping to the codebook.

use image::RgbImage;

use super::snap::snap;
use crate::bundle::manifest::ImageSize;
use crate::error::{Error, Result};
use crate::latent::LatentShape;
use crate::network::{Network, Window};
use crate::threads::Threads;

/// Turns latents into pictures.
#[derive(Debug, Clone, Copy)]
pub(super) struct Decoder<'a> {
    pub network: &'a Network,
    /// K×C values, where latents are snapped to the codebook before they are decoded.
    pub codebook: Option<&'a [f32]>,
    pub shape: LatentShape,
    pub size: ImageSize,
}

impl Decoder<'_> {
    /// The picture of `latent` (CHW, unscaled), by `threads`.
    pub fn decode(&self, latent: &[f32], threads: &Threads) -> Result<RgbImage> {
        if latent.len() != self.shape.len() {
            let (found, wanted) = (latent.len(), self.shape.len());
            return Err(Error::Usage(format!("a latent of {found} values, the bundle's has {wanted}")));
        }
        let mut picture = black(self.size)?;
        let mut put = |window: Window, planes: &[f32]| put_planes(planes, window, &mut picture);
        match self.codebook {
            Some(codebook) => {
                let mut latent = latent.to_vec();
                snap(&mut latent, self.shape, codebook);
                self.network.run_tiles_by(threads, &latent, &mut put)?;
            }
            None => self.network.run_tiles_by(threads, latent, &mut put)?,
        }
        Ok(picture)
    }
}

/// The latent of `image`, CHW, unscaled, every cell the nearest entry of `codebook` (K×C), where that has any.
pub(super) fn encode(
    network: &Network,
    codebook: &[f32],
    shape: LatentShape,
    size: ImageSize,
    image: &RgbImage,
) -> Result<Vec<f32>> {
    let (width, height) = image.dimensions();
    if (width as usize, height as usize) != (size.width, size.height) {
        let ImageSize { width: w, height: h } = size;
        return Err(Error::Usage(format!("a picture of {width}×{height} pixels, the bundle's are {w}×{h}")));
    }
    let mut latent = vec![0.0; shape.len()];
    network.run(&[&to_planes(image)], &mut latent)?;
    snap(&mut latent, shape, codebook);
    Ok(latent)
}

/// Planes R, G, B in −1…1 of an image.
fn to_planes(image: &RgbImage) -> Vec<f32> {
    let bytes = image.as_raw();
    (0..3).flat_map(|c| bytes[c..].iter().step_by(3).map(|&v| f32::from(v) / 127.5 - 1.0)).collect()
}

/// A picture to decode into.
fn black(ImageSize { width, height }: ImageSize) -> Result<RgbImage> {
    let too_large = || Error::Usage(format!("an image of {width}×{height} pixels is too large"));
    let (Ok(w), Ok(h)) = (u32::try_from(width), u32::try_from(height)) else { return Err(too_large()) };
    RgbImage::from_raw(w, h, vec![0; 3 * width * height]).ok_or_else(too_large)
}

/// Puts planes R, G, B in −1…1 into `window` of a picture; what lies outside is clipped.
fn put_planes(planes: &[f32], window: Window, picture: &mut RgbImage) {
    let Window { top, left, height, width } = window;
    let byte = |v: f32| ((v + 1.0) * 127.5).round().clamp(0.0, 255.0) as u8;
    let (pixels, row) = (width * height, 3 * picture.width() as usize);
    for (y, bytes) in picture.chunks_exact_mut(row).skip(top).take(height).enumerate() {
        for (i, out) in bytes[3 * left..][..3 * width].iter_mut().enumerate() {
            *out = byte(planes[i % 3 * pixels + y * width + i / 3]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planes_and_pixels_are_each_other_s_inverse() {
        let size = ImageSize { width: 8, height: 4 };
        let image = RgbImage::from_raw(8, 4, (0..96).map(|i| (i * 37 % 256) as u8).collect()).unwrap();
        let planes = to_planes(&image);
        assert!(planes.iter().all(|v| (-1.0..=1.0).contains(v)));
        assert_eq!(planes[0], -1.0);
        assert_eq!(of_planes(&planes, size), image);
        // Put together from two tiles, side by side.
        let mut picture = black(size).unwrap();
        for left in [0, 5] {
            let window = Window { top: 0, left, height: 4, width: if left == 0 { 5 } else { 3 } };
            let rows = planes.chunks_exact(8).flat_map(|row| row[left..][..window.width].to_vec());
            put_planes(&rows.collect::<Vec<_>>(), window, &mut picture);
        }
        assert_eq!(picture, image);
    }

    fn of_planes(planes: &[f32], size: ImageSize) -> RgbImage {
        let mut picture = black(size).unwrap();
        put_planes(planes, Window { top: 0, left: 0, height: size.height, width: size.width }, &mut picture);
        picture
    }

    #[test]
    fn values_out_of_range_are_clipped() {
        let image = of_planes(&[-3.0, 0.0, 7.0], ImageSize { width: 1, height: 1 });
        assert_eq!(image.as_raw(), &[0, 128, 255]);
    }
}
