//! Pictures in memory of the caller.

use image::RgbImage;

use super::fault::{ErrorInfo, Fault, Outcome, Status, given, guard, place};
use super::grown::{self, Grown};
use super::model::Model;
use crate::bundle::manifest::ImageSize;

/// How a pixel lies in memory.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PixelFormat {
    /// Three bytes: red, green, blue.
    Rgb8 = 1,
    /// Four bytes: red, green, blue, alpha (255).
    Rgba8 = 2,
}

/// A picture in memory of the caller: where it is to be written, and how. After rissole_image_init set `pixels` and `bytes`,
/// and `format` and `stride` where they are to be others. The function sets `width` and `height`, and writes the bytes of the
/// pixels, not those between the end of a row and the next.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Image {
    /// sizeof(rissole_image).
    pub struct_size: u32,
    /// A rissole_pixel_format.
    pub format: u32,
    /// Pixels in a row; set by the function.
    pub width: u32,
    /// Rows; set by the function.
    pub height: u32,
    /// Bytes from one row to the next; 0: rows follow each other without a gap.
    pub stride: u64,
    /// Room at `pixels`, as rissole_image_bytes tells. Too little: RISSOLE_STATUS_BUFFER, and the error's `needs` says how
    /// much is needed.
    pub bytes: u64,
    /// Where the pixels go.
    pub pixels: *mut u8,
}

// SAFETY: `repr(C)`, numbers and a raw pointer, the size first.
unsafe impl Grown for Image {
    const FIRST: usize = size_of::<Image>();
    fn initial() -> Self {
        Self {
            struct_size: size_of::<Self>() as u32,
            format: PixelFormat::Rgb8 as u32,
            width: 0,
            height: 0,
            stride: 0,
            bytes: 0,
            pixels: std::ptr::null_mut(),
        }
    }
}

/// How the pixels of one picture lie in memory.
#[derive(Clone, Copy)]
struct Layout {
    /// Bytes of a pixel.
    channels: usize,
    /// Bytes from one row to the next.
    stride: usize,
    /// Bytes of all rows, the last without a gap.
    bytes: usize,
}

impl Layout {
    /// Of a picture of `size` as the caller's `format` and `stride` say.
    fn new(format: u32, stride: u64, size: ImageSize) -> Outcome<Self> {
        let channels = match format {
            1 => 3,
            2 => 4,
            other => return Err(Fault::argument(format!("the format {other} is no rissole_pixel_format"))),
        };
        let too_large = || Fault::argument("the stride is out of bounds");
        let row = size.width.checked_mul(channels).ok_or_else(too_large)?;
        let stride = if stride == 0 { row } else { usize::try_from(stride).map_err(|_| too_large())? };
        if stride < row {
            return Err(Fault::argument(format!("the stride is {stride}, a row has {row} bytes")));
        }
        let last = stride.checked_mul(size.height.saturating_sub(1)).ok_or_else(too_large)?;
        let bytes = last.checked_add(row).filter(|&n| n <= isize::MAX as usize).ok_or_else(too_large)?;
        Ok(Self { channels, stride, bytes })
    }
}

/// Empties `image`, which has `size` = sizeof(rissole_image) bytes: RGB8, rows without gaps, no room. NULL is ignored. Any
/// thread.
///
/// # Safety
/// `image` is NULL or points to `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rissole_image_init(image: *mut Image, size: usize) {
    // SAFETY: as the caller vouches.
    unsafe { grown::init(image, size) };
}

/// Puts into `*bytes` how much room a picture of `model` takes in `format`, a rissole_pixel_format, with `stride` bytes from
/// one row to the next (0: no gap): what `bytes` of a rissole_image must be at least. Any thread.
///
/// # Safety
/// `model` is NULL or open; `bytes` is NULL or points to a uint64_t; `error` is NULL or points to a rissole_error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rissole_image_bytes(
    model: *const Model,
    format: u32,
    stride: u64,
    bytes: *mut u64,
    error: *mut ErrorInfo,
) -> Status {
    // SAFETY: as the caller vouches, here and below.
    unsafe {
        guard(error, |_| {
            let bytes = place(bytes, 0, "bytes")?;
            *bytes = Layout::new(format, stride, given(model, "model")?.bundle.manifest.image)?.bytes as u64;
            Ok(())
        })
    }
}

/// A checked place for pictures of one size.
pub(super) struct Target {
    to: *mut Image,
    image: Image,
    layout: Layout,
}

impl Target {
    /// Checks the caller's `to` for a picture of `size`.
    ///
    /// # Safety
    /// As [`grown::read`]; its `pixels` is NULL or has room for `bytes` bytes.
    pub unsafe fn new(to: *mut Image, size: ImageSize) -> Outcome<Self> {
        // SAFETY: as the caller vouches.
        let mut image = unsafe { grown::read(to, "image")? };
        let layout = Layout::new(image.format, image.stride, size)?;
        if image.pixels.is_null() || image.bytes < layout.bytes as u64 {
            return Err(Fault::buffer(layout.bytes));
        }
        (image.width, image.height) = (size.width as u32, size.height as u32);
        Ok(Self { to, image, layout })
    }

    /// Writes `picture`, which has the size that was checked.
    pub fn put(&self, picture: &RgbImage) -> Outcome<()> {
        if picture.dimensions() != (self.image.width, self.image.height) {
            return Err(Fault::internal("a picture of another size"));
        }
        let (width, Layout { channels, stride, .. }) = (self.image.width as usize, self.layout);
        for (y, row) in picture.as_raw().chunks_exact(width * 3).enumerate() {
            // SAFETY: `new` has checked that row `y`, its `width · channels` bytes, lies within the caller's
            // buffer.
            let to = unsafe {
                let start = self.image.pixels.add(y * stride);
                std::slice::from_raw_parts_mut(start, width * channels)
            };
            for (to, rgb) in to.chunks_exact_mut(channels).zip(row.chunks_exact(3)) {
                to[..3].copy_from_slice(rgb);
                to[3..].fill(255);
            }
        }
        // SAFETY: `new` has checked the pointer.
        unsafe { grown::write(self.to, self.image, "image") }
    }
}

/// The picture at `pixels`: RGB, `width`×`height`, `stride` bytes from row to row (0: no gap).
///
/// # Safety
/// `pixels` is NULL or has the rows that the numbers say.
pub(super) unsafe fn picture(pixels: *const u8, width: u32, height: u32, stride: u64) -> Outcome<RgbImage> {
    /// More than any bundle's pictures.
    const MAX_SIDE: u32 = 1 << 14;
    if pixels.is_null() || !(1..=MAX_SIDE).contains(&width) || !(1..=MAX_SIDE).contains(&height) {
        return Err(Fault::argument("the query's picture is NULL, or empty, or too large"));
    }
    let row = width as usize * 3;
    let stride = if stride == 0 { row } else { usize::try_from(stride).unwrap_or(usize::MAX) };
    if stride < row || stride.checked_mul(height as usize).is_none_or(|n| n > isize::MAX as usize) {
        return Err(Fault::argument("the query's stride is out of bounds"));
    }
    let mut bytes = Vec::with_capacity(row * height as usize);
    for y in 0..height as usize {
        // SAFETY: the caller vouches for every row.
        bytes.extend_from_slice(unsafe { std::slice::from_raw_parts(pixels.add(y * stride), row) });
    }
    RgbImage::from_raw(width, height, bytes).ok_or_else(|| Fault::internal("a picture of wrong length"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: ImageSize = ImageSize { width: 3, height: 2 };

    fn put(format: u32, stride: u64, room: usize) -> Outcome<(Vec<u8>, Image)> {
        let picture = RgbImage::from_fn(3, 2, |x, y| image::Rgb([x as u8, y as u8, 9]));
        let mut bytes = vec![7; room];
        let mut image = Image { format, stride, bytes: room as u64, pixels: bytes.as_mut_ptr(), ..Image::initial() };
        // SAFETY: the buffer has `room` bytes.
        unsafe { Target::new(&raw mut image, SIZE)? }.put(&picture)?;
        Ok((bytes, image))
    }

    #[test]
    fn rows_lie_where_the_stride_says_and_gaps_stay() {
        let (bytes, image) = put(1, 0, 18).unwrap();
        assert_eq!((image.width, image.height, image.stride), (3, 2, 0));
        assert_eq!(bytes, [0, 0, 9, 1, 0, 9, 2, 0, 9, 0, 1, 9, 1, 1, 9, 2, 1, 9]);
        let (bytes, _) = put(2, 14, 26).unwrap();
        assert_eq!(bytes[8..16], [2, 0, 9, 255, 7, 7, 0, 1]);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for (format, stride, room) in [(1, 0, 17), (1, 8, 99), (2, 0, 23), (0, 0, 99), (3, 0, 99), (1, u64::MAX, 99)] {
            assert!(put(format, stride, room).is_err(), "{format} {stride} {room}");
        }
    }

    #[test]
    fn a_picture_is_read_with_its_stride() {
        let bytes = [1, 2, 3, 0, 4, 5, 6, 0];
        // SAFETY: two rows of three bytes, four apart.
        let read = unsafe { picture(bytes.as_ptr(), 1, 2, 4) }.unwrap();
        assert_eq!(read.as_raw(), &[1, 2, 3, 4, 5, 6]);
        for (w, h, stride) in [(0, 1, 0), (1, 0, 0), (1 << 15, 1, 0), (2, 1, 5), (1, 2, u64::MAX)] {
            // SAFETY: refused before anything is read.
            assert!(unsafe { picture(bytes.as_ptr(), w, h, stride) }.is_err());
        }
    }
}
