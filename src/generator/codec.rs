//! Between pictures and latents: the decoder, the encoder, and snapping to the codebook.

use image::RgbImage;

use crate::bundle::manifest::ImageSize;
use crate::error::{Error, Result};
use crate::latent::LatentShape;
use crate::network::Network;

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
    /// The picture of `latent` (CHW, unscaled).
    pub fn decode(&self, latent: &[f32]) -> Result<RgbImage> {
        if latent.len() != self.shape.len() {
            let (found, wanted) = (latent.len(), self.shape.len());
            return Err(Error::Usage(format!("a latent of {found} values, the bundle's has {wanted}")));
        }
        let mut planes = vec![0.0; self.network.output_len()];
        match self.codebook {
            Some(codebook) => {
                let mut latent = latent.to_vec();
                snap(&mut latent, self.shape, codebook);
                self.network.run(&[&latent], &mut planes)?;
            }
            None => self.network.run(&[latent], &mut planes)?,
        }
        from_planes(&planes, self.size)
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

/// Replaces every cell of `latent` (CHW) by the nearest entry of `codebook` (K×C); of equals, the first. An empty one
/// changes nothing.
pub(super) fn snap(latent: &mut [f32], shape: LatentShape, codebook: &[f32]) {
    let (cells, channels) = (shape.cells(), shape.channels);
    let mut values = vec![0.0; channels];
    for cell in 0..cells {
        for (c, value) in values.iter_mut().enumerate() {
            *value = latent[c * cells + cell];
        }
        let distance = |entry: &[f32]| values.iter().zip(entry).map(|(a, b)| (a - b) * (a - b)).sum::<f32>();
        let nearest = codebook.chunks_exact(channels).min_by(|a, b| distance(a).total_cmp(&distance(b)));
        for (c, &value) in nearest.into_iter().flatten().enumerate() {
            latent[c * cells + cell] = value;
        }
    }
}

/// Planes R, G, B in −1…1 of an image.
fn to_planes(image: &RgbImage) -> Vec<f32> {
    let bytes = image.as_raw();
    (0..3).flat_map(|c| bytes[c..].iter().step_by(3).map(|&v| f32::from(v) / 127.5 - 1.0)).collect()
}

/// The image of planes R, G, B in −1…1; what lies outside is clipped.
fn from_planes(planes: &[f32], ImageSize { width, height }: ImageSize) -> Result<RgbImage> {
    let pixels = width * height;
    let byte = |v: f32| ((v + 1.0) * 127.5).round().clamp(0.0, 255.0) as u8;
    let bytes = (0..3 * pixels).map(|i| byte(planes[i % 3 * pixels + i / 3])).collect();
    let too_large = || Error::Usage(format!("an image of {width}×{height} pixels is too large"));
    let (Ok(w), Ok(h)) = (u32::try_from(width), u32::try_from(height)) else { return Err(too_large()) };
    RgbImage::from_raw(w, h, bytes).ok_or_else(too_large)
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
        assert_eq!(from_planes(&planes, size).unwrap(), image);
    }

    #[test]
    fn values_out_of_range_are_clipped() {
        let image = from_planes(&[-3.0, 0.0, 7.0], ImageSize { width: 1, height: 1 }).unwrap();
        assert_eq!(image.as_raw(), &[0, 128, 255]);
    }

    #[test]
    fn cells_snap_to_the_nearest_entry() {
        let shape = LatentShape { channels: 2, height: 1, width: 3 };
        let codebook = [0.0, 0.0, 1.0, 1.0, 0.0, 2.0];
        let mut latent = [0.1, 0.9, 0.2, /* second channel */ 0.3, 0.8, 1.6];
        snap(&mut latent, shape, &codebook);
        assert_eq!(latent, [0.0, 1.0, 0.0, 0.0, 1.0, 2.0]);
    }
}
