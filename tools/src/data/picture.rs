//! One picture: bounded reading and decoding of an untrusted file, and fitting it to the size of the set.

use std::fs::File;
use std::io::{Cursor, Read};
use std::path::Path;

use image::imageops::{self, FilterType};
use image::{DynamicImage, ImageDecoder, ImageReader, Limits, RgbImage};

/// A picture, or what is wrong with it; the caller knows its name.
pub(super) type Checked<T> = Result<T, String>;

/// Largest picture file that is read.
pub(super) const MAX_FILE_BYTES: u64 = 64 << 20;
/// Longest side of a picture that is decoded.
const MAX_SIDE: u32 = 16_384;
/// Most bytes that a decoded picture may take.
const MAX_DECODED_BYTES: u64 = 256 << 20;

/// Reads and decodes the picture at `path`.
pub(super) fn open(path: &Path) -> Checked<RgbImage> {
    let bytes = read_bounded(path, MAX_FILE_BYTES).map_err(|e| e.to_string())?;
    decode(&bytes)
}

/// Reads a file that must not be larger than `most` bytes.
pub(super) fn read_bounded(path: &Path, most: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(std::io::Error::new(std::io::ErrorKind::FileTooLarge, too_large()));
    }
    Ok(bytes)
}

/// The fault of a file beyond [`MAX_FILE_BYTES`].
pub(super) fn too_large() -> String {
    "the file is too large".into()
}

/// Decodes PNG or JPEG, told apart by content; turns the picture upright as its Exif data says, and lays what is
/// transparent on white.
pub(super) fn decode(bytes: &[u8]) -> Checked<RgbImage> {
    let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|e| e.to_string())?;
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_DECODED_BYTES);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(|e| e.to_string())?;
    if decoder.total_bytes() > MAX_DECODED_BYTES {
        return Err("the picture is too large".into());
    }
    let orientation = decoder.orientation().map_err(|e| e.to_string())?;
    let mut picture = DynamicImage::from_decoder(decoder).map_err(|e| e.to_string())?;
    picture.apply_orientation(orientation);
    Ok(if picture.color().has_alpha() { on_white(&picture) } else { picture.into_rgb8() })
}

fn on_white(picture: &DynamicImage) -> RgbImage {
    let picture = picture.to_rgba8();
    RgbImage::from_fn(picture.width(), picture.height(), |x, y| {
        let [r, g, b, a] = picture.get_pixel(x, y).0.map(u32::from);
        image::Rgb([r, g, b].map(|c| ((c * a + 255 * (255 - a) + 127) / 255) as u8))
    })
}

/// Cuts out the centred square of side `crop` (the largest, where it is not given) and scales it to `size`×`size`.
/// Gives the pixels, `size`×`size`×3.
pub(super) fn fit(picture: &RgbImage, size: usize, crop: Option<usize>) -> Checked<Vec<u8>> {
    let (width, height) = picture.dimensions();
    let shorter = width.min(height);
    let side = crop.map_or(Some(shorter), |crop| u32::try_from(crop).ok().filter(|&c| c <= shorter));
    let side = side.filter(|&s| s > 0).ok_or_else(|| format!("{width}×{height} pixels are smaller than the crop"))?;
    let square = imageops::crop_imm(picture, (width - side) / 2, (height - side) / 2, side, side);
    if side as usize == size {
        return Ok(square.to_image().into_raw());
    }
    // Lanczos widens with the scale, so that it does not alias on the way down; on the way up it would ring.
    let filter = if side as usize > size { FilterType::Lanczos3 } else { FilterType::CatmullRom };
    Ok(imageops::resize(&*square, size as u32, size as u32, filter).into_raw())
}
