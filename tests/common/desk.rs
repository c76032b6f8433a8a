//! The built binary at work in a folder of its own.
#![allow(dead_code)]

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use image::RgbImage;
use rissole::bundle::manifest::{Coherence, NeighbourSource};
use rissole::picture::encode_png;
use rissole::{Bundle, Manifest};
use serde_json::Value;

use crate::common::{TempDir, bundle, manifest};

pub const THUMBNAIL_AND_WINDOW: Coherence =
    Coherence { thumbnail: true, margin: 2, position_embedding: true, previous_block: false };
pub const INDEPENDENT: Coherence =
    Coherence { thumbnail: false, margin: 0, position_embedding: false, previous_block: false };

/// A folder to work in, with a bundle in `model`.
pub struct Desk(TempDir);

impl Desk {
    pub fn new(coherence: Coherence) -> Self {
        let desk = Self(TempDir::new());
        desk.model("model", manifest(coherence, NeighbourSource::Database));
        desk
    }

    pub fn model(&self, name: &str, manifest: Manifest) -> Bundle {
        fs::create_dir_all(self.path(name)).unwrap();
        bundle(&self.path(name), manifest)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rissole"));
        command.current_dir(self.0.path()).args(arguments.split_whitespace()).stdin(Stdio::null());
        command.env_remove("RUST_LOG").env_remove("RUST_BACKTRACE");
        command
    }

    pub fn run(&self, arguments: &str) -> Ran {
        Ran::new(self.command(arguments).output().unwrap(), arguments)
    }

    /// Runs what must go well.
    pub fn ok(&self, arguments: &str) -> Ran {
        let ran = self.run(arguments);
        assert_eq!(ran.code, 0, "{ran:?}");
        ran
    }

    /// Runs what must end with `code` and a message that holds `words`, with nothing on stdout.
    pub fn refused(&self, code: i32, words: &str, arguments: &str) {
        let ran = self.run(arguments);
        assert_eq!(ran.code, code, "{ran:?}");
        assert!(ran.stderr.contains(words), "{words:?} is missing: {ran:?}");
        assert!(!ran.stderr.contains("panicked"), "{ran:?}");
        assert_eq!(ran.stdout, "", "{ran:?}");
    }

    pub fn names_in(&self, folder: &str) -> BTreeSet<String> {
        let entries = fs::read_dir(self.path(folder)).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// Pixels to show the encoder.
    pub fn write_picture(&self, name: &str, seed: u32, width: u32, height: u32) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let value = |x: u32, y: u32, c: u32| (x * 7 + y * 13 + (seed + c) * 61) as u8;
        let image = RgbImage::from_fn(width, height, |x, y| image::Rgb([0, 1, 2].map(|c| value(x, y, c))));
        fs::write(path, encode_png(&image, &[]).unwrap()).unwrap();
    }
}

#[derive(Debug)]
#[allow(dead_code, reason = "`arguments` is there to be seen in a failure")]
pub struct Ran {
    pub arguments: String,
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    pub fn new(output: Output, arguments: &str) -> Self {
        Self {
            arguments: arguments.to_owned(),
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}
