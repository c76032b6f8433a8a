//! The picture as it grows, drawn on the terminal two pixels to a character.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::time::{Duration, Instant};

use ::console::Term;
use image::RgbImage;
use image::imageops::FilterType;
use rissole::{Error, Result};

use crate::terminal::Console;

/// Drawing costs a decoding: not more often than this, but for finished blocks.
const PAUSE: Duration = Duration::from_millis(250);
/// From dark to light.
const INK: &[u8] = b" .:-=+*#%@";

/// A place on the terminal where pictures are drawn over one another.
#[derive(Debug)]
pub struct Preview {
    terminal: Term,
    colours: bool,
    lines: usize,
    drawn: Option<Instant>,
}

impl Preview {
    /// A preview on stderr, or `None` (said in words) where that is no terminal one can draw on.
    pub fn new(console: &Console) -> Option<Self> {
        if !console.draws() {
            console.say("no preview: standard error is not a terminal that can be drawn on");
            return None;
        }
        Some(Self { terminal: Term::stderr(), colours: console.colours(), lines: 0, drawn: None })
    }

    /// Whether enough time has passed to draw again.
    pub fn is_due(&self) -> bool {
        self.drawn.is_none_or(|drawn| drawn.elapsed() >= PAUSE)
    }

    /// Draws `image` over what was drawn before, with a line of words below.
    pub fn show(&mut self, image: &RgbImage, words: &str) -> Result<()> {
        let (rows, columns) = self.terminal.size();
        let lines = render(&fit(image, u32::from(columns), u32::from(rows.saturating_sub(2))), self.colours);
        let mut text = String::new();
        if self.lines > 0 {
            let _ = write!(text, "\x1b[{}A", self.lines);
        }
        for line in lines.iter().map(String::as_str).chain([words]) {
            // Each line clears what an older, longer one left.
            let _ = writeln!(text, "\r{line}\x1b[K");
        }
        self.lines = lines.len() + 1;
        self.drawn = Some(Instant::now());
        io::stderr().lock().write_all(text.as_bytes()).map_err(|e| Error::io("standard error", e))
    }

    /// Leaves the picture standing: the next one is drawn below.
    pub fn leave(&mut self) {
        (self.lines, self.drawn) = (0, None);
    }
}

/// `image` made small enough for `columns` × `rows` characters of 1×2 pixels.
fn fit(image: &RgbImage, columns: u32, rows: u32) -> RgbImage {
    let (width, height) = image.dimensions();
    let (columns, rows) = (columns.max(1), rows.max(1));
    let scale = (f64::from(columns) / f64::from(width)).min(f64::from(2 * rows) / f64::from(height));
    if scale >= 1.0 {
        return image.clone();
    }
    let side = |n: u32| ((f64::from(n) * scale) as u32).max(1);
    image::imageops::resize(image, side(width), side(height), FilterType::Triangle)
}

/// One line of characters for each two rows of pixels.
fn render(image: &RgbImage, colours: bool) -> Vec<String> {
    let line = |row: u32| {
        let mut line = String::new();
        for x in 0..image.width() {
            let top = image.get_pixel(x, 2 * row).0;
            let bottom = image.get_pixel_checked(x, 2 * row + 1).map_or(top, |pixel| pixel.0);
            if colours {
                let ([r, g, b], [s, h, c]) = (top, bottom);
                let _ = write!(line, "\x1b[38;2;{r};{g};{b}m\x1b[48;2;{s};{h};{c}m▀");
            } else {
                line.push(ink(top, bottom));
            }
        }
        if colours {
            line.push_str("\x1b[0m");
        }
        line
    };
    (0..image.height().div_ceil(2)).map(line).collect()
}

/// The character as light as the two pixels (ITU-R BT.601 luma).
fn ink(top: [u8; 3], bottom: [u8; 3]) -> char {
    let luma = |[r, g, b]: [u8; 3]| 299 * u32::from(r) + 587 * u32::from(g) + 114 * u32::from(b);
    let light = (luma(top) + luma(bottom)) as usize; // 0…510,000
    char::from(INK[light * (INK.len() - 1) / 510_000])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_pixels_make_a_character() {
        let image = RgbImage::from_raw(1, 3, vec![1, 2, 3, 4, 5, 6, 7, 8, 9]).unwrap();
        let lines = render(&image, true);
        assert_eq!(lines[0], "\x1b[38;2;1;2;3m\x1b[48;2;4;5;6m▀\x1b[0m");
        assert_eq!(lines[1], "\x1b[38;2;7;8;9m\x1b[48;2;7;8;9m▀\x1b[0m");
    }

    #[test]
    fn without_colours_there_is_no_escape_and_light_is_ink() {
        let image = RgbImage::from_raw(2, 2, [[0; 3], [255; 3], [0; 3], [255; 3]].concat()).unwrap();
        assert_eq!(render(&image, false), [" @"]);
    }

    #[test]
    fn a_large_picture_fits_the_terminal_and_a_small_one_is_left_alone() {
        let fitted = |w, h, columns, rows| fit(&RgbImage::new(w, h), columns, rows).dimensions();
        assert_eq!(fitted(64, 64, 80, 40), (64, 64));
        assert_eq!(fitted(64, 64, 32, 40), (32, 32));
        assert_eq!(fitted(64, 64, 80, 8), (16, 16));
        assert_eq!(fitted(1000, 1, 10, 10), (10, 1));
        assert_eq!(fitted(64, 64, 0, 0), (1, 1));
    }
}
