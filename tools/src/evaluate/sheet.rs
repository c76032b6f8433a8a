//! Many pictures on one sheet, as a PNG that a page can carry within itself.

use std::io::Cursor;

use image::{ImageFormat, RgbImage, Rgba, RgbaImage};
use rissole::{Error, Result};

/// Pixels between pictures; transparent, so that a sheet suits a light and a dark page.
const GAP: u32 = 2;

/// Lays equally large `pictures` out in rows of `columns` and gives the sheet as a `data:` URL of a PNG.
///
/// # Errors
/// [`Error::Internal`] when the encoder fails.
pub fn sheet_url<'a>(pictures: impl IntoIterator<Item = &'a RgbImage>, columns: usize) -> Result<String> {
    Ok(format!("data:image/png;base64,{}", base64(&sheet_png(pictures, columns)?)))
}

/// Lays equally large `pictures` out in rows of `columns` and gives the sheet as a PNG.
///
/// # Errors
/// [`Error::Internal`] when the encoder fails.
pub fn sheet_png<'a>(pictures: impl IntoIterator<Item = &'a RgbImage>, columns: usize) -> Result<Vec<u8>> {
    let pictures: Vec<_> = pictures.into_iter().collect();
    let (width, height) = pictures.first().map_or((1, 1), |first| first.dimensions());
    let columns = columns.clamp(1, pictures.len().max(1)) as u32;
    let rows = (pictures.len() as u32).div_ceil(columns).max(1);
    let mut sheet = RgbaImage::new(columns * (width + GAP) - GAP, rows * (height + GAP) - GAP);
    for (i, picture) in (0..).zip(pictures) {
        let (left, top) = (i % columns * (width + GAP), i / columns * (height + GAP));
        for (x, y, pixel) in picture.enumerate_pixels().filter(|&(x, y, _)| x < width && y < height) {
            let [r, g, b] = pixel.0;
            sheet.put_pixel(left + x, top + y, Rgba([r, g, b, 255]));
        }
    }
    let mut png = Cursor::new(Vec::new());
    sheet.write_to(&mut png, ImageFormat::Png).map_err(|e| Error::Internal(format!("cannot encode a sheet: {e}")))?;
    Ok(png.into_inner())
}

/// Columns of a sheet of pictures of `width` pixels that fills a page.
pub fn columns(width: u32) -> usize {
    (900 / (width.max(1) + GAP)).clamp(4, 12) as usize
}

/// Base64 with padding (RFC 4648, section 4).
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for triple in bytes.chunks(3) {
        let bits = (0..3).fold(0u32, |bits, i| bits << 8 | u32::from(triple.get(i).copied().unwrap_or(0)));
        for digit in 0..4 {
            let value = bits >> (18 - 6 * digit) & 63;
            out.push(if digit <= triple.len() { DIGITS[value as usize] as char } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::Rgb;

    #[test]
    fn base64_is_that_of_the_standard() {
        let vectors = ["", "f", "fo", "foo", "foob", "fooba", "foobar"].map(|s| base64(s.as_bytes()));
        assert_eq!(vectors, ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"]);
        assert_eq!(base64(&[0xfb, 0xff, 0xfe]), "+//+");
    }

    #[test]
    fn pictures_lie_in_rows_with_clear_gaps() {
        let pictures: Vec<_> = (0..5).map(|i| RgbImage::from_pixel(3, 2, Rgb([i * 50, 1, 2]))).collect();
        let url = sheet_url(&pictures, 3).unwrap();
        let encoded = url.strip_prefix("data:image/png;base64,").unwrap();
        let sheet = image::load_from_memory(&decode(encoded)).unwrap().to_rgba8();
        assert_eq!(sheet.dimensions(), (13, 6));
        assert_eq!(sheet.get_pixel(0, 0).0, [0, 1, 2, 255]);
        assert_eq!(sheet.get_pixel(5, 4).0, [200, 1, 2, 255]);
        assert_eq!((sheet.get_pixel(3, 0).0[3], sheet.get_pixel(12, 5).0[3]), (0, 0));
        assert!(sheet_url([], 3).is_ok());
    }

    fn decode(text: &str) -> Vec<u8> {
        let value = |c: u8| (0..64).find(|&v| base64(&[v << 2]).as_bytes()[0] == c).unwrap_or(0);
        let mut out = Vec::new();
        for four in text.as_bytes().chunks(4) {
            let bits = four.iter().fold(0u32, |bits, &c| bits << 6 | u32::from(value(c)));
            let padding = four.iter().filter(|&&c| c == b'=').count();
            out.extend_from_slice(&bits.to_be_bytes()[1..4 - padding]);
        }
        out
    }
}
