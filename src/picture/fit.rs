//! Pictures from anywhere, made to fit a bundle: decoded, turned upright, cropped, resized.

use std::path::Path;

use image::imageops::FilterType;
use image::{DynamicImage, ImageDecoder, ImageError, ImageReader, Limits, RgbImage};

use crate::bundle::manifest::ImageSize;
use crate::error::{Error, Result};

/// Extensions of the picture files that are read, in lower case.
pub const PICTURE_EXTENSIONS: [&str; 3] = ["png", "jpg", "jpeg"];
/// Largest picture file that is read, in bytes: a decoder may hold all of it.
const MAX_FILE_BYTES: u64 = 64 << 20;
/// Longest side of a picture that is decoded, in pixels.
const MAX_SIDE: u32 = 16_384;
/// Most memory the decoding of one picture may take, in bytes.
const MAX_DECODE_BYTES: u64 = 256 << 20;

/// Reads the picture (PNG or JPEG) at `path`, turns it upright as its EXIF orientation says, lays it over
/// white where it is transparent, cuts the middle out in the proportions of `size` and resizes that to `size`.
///
/// # Errors
/// [`Error::Io`] when the file cannot be read, [`Error::File`] when it is no picture, damaged, or larger than
/// 64 MiB, 16,384 pixels a side or 256 MiB decoded.
pub fn read_fitted(path: &Path, size: ImageSize) -> Result<RgbImage> {
    Ok(fit(decode(path)?, size))
}

fn decode(path: &Path) -> Result<DynamicImage> {
    let fault = |e: ImageError| match e {
        ImageError::IoError(e) if e.kind() != std::io::ErrorKind::UnexpectedEof => Error::io(path, e),
        other => Error::file(path, format!("cannot be decoded: {other}")),
    };
    // A pipe or a device would be read without end, or block.
    let meta = std::fs::metadata(path).map_err(|e| Error::io(path, e))?;
    if !meta.is_file() {
        return Err(Error::file(path, "is not a regular file"));
    }
    if meta.len() > MAX_FILE_BYTES {
        return Err(Error::file(path, format!("is larger than the {MAX_FILE_BYTES} bytes a picture may have here")));
    }
    let reader = ImageReader::open(path).and_then(|r| r.with_guessed_format());
    let mut reader = reader.map_err(|e| Error::io(path, e))?;
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_DECODE_BYTES);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(fault)?;
    let orientation = decoder.orientation().map_err(fault)?;
    if decoder.total_bytes() > MAX_DECODE_BYTES {
        return Err(Error::file(path, format!("takes more than {MAX_DECODE_BYTES} bytes decoded")));
    }
    let mut image = DynamicImage::from_decoder(decoder).map_err(fault)?;
    image.apply_orientation(orientation);
    Ok(image)
}

fn fit(image: DynamicImage, size: ImageSize) -> RgbImage {
    let (width, height) = (size.width as u32, size.height as u32);
    let (from_width, from_height) = (u64::from(image.width()), u64::from(image.height()));
    // The largest middle part with the target's proportions, at least one pixel.
    let crop_width = from_width.min((from_height * u64::from(width) / u64::from(height)).max(1));
    let crop_height = from_height.min((from_width * u64::from(height) / u64::from(width)).max(1));
    let (left, top) = ((from_width - crop_width) / 2, (from_height - crop_height) / 2);
    let cropped = image.crop_imm(left as u32, top as u32, crop_width as u32, crop_height as u32);
    let opaque = over_white(cropped);
    if opaque.dimensions() == (width, height) {
        return opaque;
    }
    // Lanczos widens with the scale, so that it does not alias on the way down; on the way up it would ring.
    let filter = if opaque.width() > width { FilterType::Lanczos3 } else { FilterType::CatmullRom };
    image::imageops::resize(&opaque, width, height, filter)
}

fn over_white(image: DynamicImage) -> RgbImage {
    if !image.color().has_alpha() {
        return image.into_rgb8();
    }
    let rgba = image.into_rgba8();
    RgbImage::from_fn(rgba.width(), rgba.height(), |x, y| {
        let image::Rgba([r, g, b, a]) = *rgba.get_pixel(x, y);
        let over = |v: u8| ((u32::from(v) * u32::from(a) + 255 * (255 - u32::from(a)) + 127) / 255) as u8;
        image::Rgb([over(r), over(g), over(b)])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_is_cut_out_and_resized() {
        // Left and right thirds red, the middle square blue.
        let wide = RgbImage::from_fn(30, 10, |x, _| image::Rgb(if x / 10 == 1 { [0, 0, 255] } else { [255, 0, 0] }));
        let fitted = fit(wide.into(), ImageSize { width: 4, height: 4 });
        assert_eq!(fitted.into_raw(), [0, 0, 255].repeat(16));
        let line = RgbImage::from_pixel(1, 1000, image::Rgb([1, 2, 3]));
        assert_eq!(fit(line.into(), ImageSize { width: 64, height: 2 }).into_raw(), [1, 2, 3].repeat(128));
    }

    #[test]
    fn a_picture_of_the_right_size_is_untouched_and_transparency_is_white() {
        let exact = RgbImage::from_fn(3, 2, |x, y| image::Rgb([x as u8, y as u8, 9]));
        let size = ImageSize { width: 3, height: 2 };
        assert_eq!(fit(exact.clone().into(), size), exact);
        let clear = image::RgbaImage::from_pixel(3, 2, image::Rgba([10, 20, 30, 0]));
        assert_eq!(fit(clear.into(), size).into_raw(), [255; 18]);
    }

    #[test]
    fn no_picture_and_no_file_are_told_apart() {
        let dir = std::env::temp_dir().join(format!("rissole-fit-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("not.png");
        std::fs::write(&path, b"\x89PNG\r\n\x1a\nthis is not a picture").unwrap();
        let size = ImageSize { width: 2, height: 2 };
        assert_eq!(read_fitted(&path, size).unwrap_err().exit_code(), 3);
        assert_eq!(read_fitted(&dir.join("missing.png"), size).unwrap_err().exit_code(), 5);
        assert_eq!(read_fitted(&dir, size).unwrap_err().exit_code(), 3);
        std::fs::File::create(&path).unwrap().set_len(MAX_FILE_BYTES + 1).unwrap();
        assert!(read_fitted(&path, size).unwrap_err().to_string().contains("larger than"));
        std::fs::write(&path, b"plain words").unwrap();
        assert_eq!(read_fitted(&path, size).unwrap_err().exit_code(), 3);
    }
}
