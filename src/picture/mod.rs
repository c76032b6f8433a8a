//! Pictures on disk: PNG with text chunks, contact sheets, pictures from anywhere made to fit.
//!
//! Reading is for files from anywhere: sizes are bounded before anything is allocated, and every error
//! names the file.

mod fit;
mod parameters;

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

pub use fit::{PICTURE_EXTENSIONS, read_fitted};
pub use parameters::{Parameters, QuerySource};

use image::RgbImage;

use crate::bundle::manifest::ImageSize;
use crate::error::{Error, Result};

/// Largest PNG that is read back, in bytes: of the file, and of its decoded pixels.
const MAX_PNG_BYTES: usize = 64 << 20;
/// Largest text chunk that is unpacked, in bytes.
const MAX_TEXT_BYTES: usize = 1 << 20;

/// What a PNG holds beside its pixels.
#[derive(Debug, Clone)]
pub struct PngText {
    /// Size in pixels.
    pub size: ImageSize,
    /// Keyword and text of each text chunk before the pixels, in file order.
    pub texts: Vec<(String, String)>,
}

impl PngText {
    /// The text under `keyword`.
    pub fn get(&self, keyword: &str) -> Option<&str> {
        self.texts.iter().find(|(key, _)| key == keyword).map(|(_, text)| text.as_str())
    }
}

/// The bytes of a PNG of `picture` with `texts` (keyword, text) written before the pixels, so that a
/// reader finds them without decoding.
///
/// # Errors
/// [`Error::Usage`] when a side is zero, a keyword is not 1…79 Latin-1 characters, or a text holds a NUL.
pub fn encode_png(picture: &RgbImage, texts: &[(&str, &str)]) -> Result<Vec<u8>> {
    let fault = |e: png::EncodingError| Error::Usage(format!("cannot write this picture as PNG: {e}"));
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, picture.width(), picture.height());
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_source_srgb(png::SrgbRenderingIntent::Perceptual);
    for (keyword, text) in texts {
        if text.contains('\0') {
            return Err(Error::Usage(format!("the text {keyword:?} holds a NUL")));
        }
        // tEXt is Latin-1, the form every tool reads; iTXt is UTF-8.
        let (keyword, text) = (String::from(*keyword), String::from(*text));
        let added =
            if text.is_ascii() { encoder.add_text_chunk(keyword, text) } else { encoder.add_itxt_chunk(keyword, text) };
        added.map_err(fault)?;
    }
    let mut writer = encoder.write_header().map_err(fault)?;
    writer.write_image_data(picture.as_raw()).map_err(fault)?;
    writer.finish().map_err(fault)?;
    Ok(bytes)
}

/// Reads size and text chunks of the PNG at `path`; the pixels are not decoded. Text chunks after the
/// pixels, or larger than 1 MiB unpacked, are passed over.
///
/// # Errors
/// [`Error::Io`] when the file cannot be read, [`Error::File`] when it is not a sound PNG of at most 64 MiB.
pub fn read_png_text(path: &Path) -> Result<PngText> {
    let reader = open_png(path)?;
    let info = reader.info();
    let latin1 = info.uncompressed_latin1_text.iter().map(|c| (c.keyword.clone(), c.text.clone()));
    let packed = info.compressed_latin1_text.iter().filter_map(|chunk| {
        let mut chunk = chunk.clone();
        chunk.decompress_text_with_limit(MAX_TEXT_BYTES).ok()?;
        Some((chunk.keyword.clone(), chunk.get_text().ok()?))
    });
    let utf8 = info.utf8_text.iter().filter_map(|chunk| {
        let mut chunk = chunk.clone();
        chunk.decompress_text_with_limit(MAX_TEXT_BYTES).ok()?;
        Some((chunk.keyword.clone(), chunk.get_text().ok()?))
    });
    let size = ImageSize { width: info.width as usize, height: info.height as usize };
    Ok(PngText { size, texts: latin1.chain(packed).chain(utf8).collect() })
}

/// Reads the pixels of the PNG at `path`, which must be 8-bit RGB as [`encode_png`] writes them.
///
/// # Errors
/// As [`read_png_text`]; [`Error::File`] also for another pixel format or damaged pixels.
pub fn read_png(path: &Path) -> Result<RgbImage> {
    let mut reader = open_png(path)?;
    if reader.output_color_type() != (png::ColorType::Rgb, png::BitDepth::Eight) {
        return Err(Error::file(path, "is not an 8-bit RGB PNG"));
    }
    let bytes = reader.output_buffer_size().filter(|&n| n <= MAX_PNG_BYTES);
    let bytes = bytes.ok_or_else(|| Error::file(path, "holds more pixels than are read"))?;
    let mut rgb = vec![0; bytes];
    let frame = reader.next_frame(&mut rgb).map_err(|e| png_error(path, e))?;
    RgbImage::from_raw(frame.width, frame.height, rgb).ok_or_else(|| Error::file(path, "holds too few pixels"))
}

fn open_png(path: &Path) -> Result<png::Reader<BufReader<File>>> {
    // Before opening: to open a pipe may block.
    let meta = std::fs::metadata(path).map_err(|e| Error::io(path, e))?;
    if !meta.is_file() {
        return Err(Error::file(path, "is not a regular file"));
    }
    if meta.len() > MAX_PNG_BYTES as u64 {
        return Err(Error::file(path, format!("is larger than the {MAX_PNG_BYTES} bytes a PNG may have here")));
    }
    let file = File::open(path).map_err(|e| Error::io(path, e))?;
    let limits = png::Limits { bytes: MAX_PNG_BYTES };
    let decoder = png::Decoder::new_with_limits(BufReader::new(file), limits);
    decoder.read_info().map_err(|e| png_error(path, e))
}

fn png_error(path: &Path, error: png::DecodingError) -> Error {
    match error {
        // The end of the file in the middle of a chunk is damage, not the system's refusal.
        png::DecodingError::IoError(e) if e.kind() != std::io::ErrorKind::UnexpectedEof => Error::io(path, e),
        other => Error::file(path, format!("is not a sound PNG: {other}")),
    }
}

/// One sheet with all `pictures` (equal sizes) in rows as near to a square as their number allows, `gap`
/// white pixels between and around them.
///
/// # Errors
/// [`Error::Usage`] without pictures, with different sizes, or where the sheet would pass 64 MiB.
pub fn contact_sheet(pictures: &[RgbImage], gap: u32) -> Result<RgbImage> {
    let Some((width, height)) = pictures.first().map(RgbImage::dimensions) else {
        return Err(Error::Usage("a contact sheet needs at least one picture".into()));
    };
    if pictures.iter().any(|p| p.dimensions() != (width, height)) {
        return Err(Error::Usage("the pictures of a contact sheet must have one size".into()));
    }
    let cols = (1..).find(|cols| cols * cols >= pictures.len()).unwrap_or(1);
    let rows = pictures.len().div_ceil(cols);
    let side = |n: usize, pixels: u32| pixels.checked_add(gap)?.checked_mul(u32::try_from(n).ok()?)?.checked_add(gap);
    let sides = side(cols, width).zip(side(rows, height));
    let fits = |&(w, h): &(u32, u32)| u64::from(w) * u64::from(h) * 3 <= MAX_PNG_BYTES as u64;
    let Some((sheet_width, sheet_height)) = sides.filter(fits) else {
        return Err(Error::Usage(format!("a contact sheet of {} pictures is too large", pictures.len())));
    };
    let mut sheet = RgbImage::from_pixel(sheet_width, sheet_height, image::Rgb([255; 3]));
    for (i, picture) in pictures.iter().enumerate() {
        let at = |n: usize, pixels: u32| i64::from(gap) + n as i64 * i64::from(pixels + gap);
        image::imageops::replace(&mut sheet, picture, at(i % cols, width), at(i / cols, height));
    }
    Ok(sheet)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(width: u32, height: u32, seed: u8) -> RgbImage {
        let rgb = (0..width * height * 3).map(|i| (i as u8).wrapping_mul(37).wrapping_add(seed)).collect();
        RgbImage::from_raw(width, height, rgb).unwrap()
    }

    fn file(name: &str, bytes: &[u8]) -> std::path::PathBuf {
        let dir = std::env::temp_dir().join(format!("rissole-picture-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    #[test]
    fn a_png_gives_pixels_and_texts_back() {
        let picture = picture(7, 5, 3);
        let bytes = encode_png(&picture, &[("rissole", "{\"seed\":7}"), ("parameters", "Gesicht, schön")]).unwrap();
        let path = file("round.png", &bytes);
        assert_eq!(read_png(&path).unwrap(), picture);
        let text = read_png_text(&path).unwrap();
        assert_eq!(text.size, ImageSize { width: 7, height: 5 });
        assert_eq!(text.get("rissole"), Some("{\"seed\":7}"));
        assert_eq!(text.get("parameters"), Some("Gesicht, schön"));
        assert_eq!(text.get("other"), None);
    }

    #[test]
    fn what_cannot_be_a_png_is_refused() {
        assert!(encode_png(&picture(4, 0, 0), &[]).is_err());
        assert!(encode_png(&picture(4, 4, 0), &[("key", "a\0b")]).is_err());
        assert!(encode_png(&picture(4, 4, 0), &[("", "text")]).is_err());
    }

    #[test]
    fn every_truncation_and_flipped_byte_is_an_error_or_harmless_but_never_a_panic() {
        let bytes = encode_png(&picture(9, 9, 1), &[("rissole", "{}")]).unwrap();
        for n in 0..bytes.len() - 12 {
            let path = file("cut.png", &bytes[..n]);
            assert!(read_png(&path).is_err(), "cut at {n}");
        }
        for n in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[n] ^= 0x55;
            let path = file("flip.png", &bad);
            let _ = (read_png_text(&path), read_png(&path));
        }
    }

    #[test]
    fn a_packed_text_that_unpacks_too_large_is_passed_over() {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, 1, 1);
        encoder.set_color(png::ColorType::Rgb);
        encoder.add_ztxt_chunk("bomb".into(), "x".repeat(MAX_TEXT_BYTES + 1)).unwrap();
        encoder.add_ztxt_chunk("fine".into(), "x".repeat(1000)).unwrap();
        let mut writer = encoder.write_header().unwrap();
        writer.write_image_data(&[0, 0, 0]).unwrap();
        writer.finish().unwrap();
        let text = read_png_text(&file("bomb.png", &bytes)).unwrap();
        assert_eq!(text.get("bomb"), None);
        assert_eq!(text.get("fine").map(str::len), Some(1000));
    }

    #[test]
    fn a_png_of_absurd_size_is_refused_before_it_is_allocated() {
        let mut bytes = encode_png(&picture(1, 1, 0), &[]).unwrap();
        bytes[16..24].copy_from_slice(&[0, 0, 0xff, 0xff, 0, 0, 0xff, 0xff]);
        let crc = crc32fast::hash(&bytes[12..29]);
        bytes[29..33].copy_from_slice(&crc.to_be_bytes());
        let error = read_png(&file("huge.png", &bytes)).unwrap_err();
        assert_eq!(error.exit_code(), 3, "{error}");
    }

    #[test]
    fn a_contact_sheet_holds_every_picture_in_order() {
        let pictures: Vec<_> = (0..5).map(|i| picture(3, 2, i * 40)).collect();
        let sheet = contact_sheet(&pictures, 1).unwrap();
        assert_eq!(sheet.dimensions(), (3 * 4 + 1, 2 * 3 + 1));
        assert_eq!(sheet.get_pixel(0, 0).0, [255; 3]);
        for (i, picture) in pictures.iter().enumerate() {
            let (left, top) = (1 + i as u32 % 3 * 4, 1 + i as u32 / 3 * 3);
            for (x, y, pixel) in picture.enumerate_pixels() {
                assert_eq!(sheet.get_pixel(left + x, top + y), pixel, "picture {i}");
            }
        }
        assert!(contact_sheet(&[], 1).is_err());
        assert!(contact_sheet(&[picture(1, 1, 0), picture(2, 1, 0)], 1).is_err());
        assert!(contact_sheet(&pictures, u32::MAX / 2).is_err());
    }
}
