//! What is said to whom: data on stdout, words, progress and logs on stderr.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use log::LevelFilter;
use rissole::{Error, Result};
use serde::Serialize;

use crate::args::Words;

/// What errors call stdout.
pub const STDOUT: &str = "standard output";

/// The two streams and how much goes there.
#[derive(Debug)]
pub struct Console {
    quiet: bool,
    /// Whether stdout takes one JSON value in place of lines.
    pub json: bool,
}

impl Console {
    /// The console that `words` asks for; also starts the log.
    pub fn new(words: &Words) -> Self {
        start_log(words);
        Self { quiet: words.quiet, json: words.json }
    }

    /// Whether stderr is a terminal that may be drawn on.
    pub fn draws(&self) -> bool {
        !self.quiet && io::stderr().is_terminal()
    }

    /// Whether colours are wanted (`NO_COLOR`, see no-color.org; a dumb terminal has none).
    pub fn colours(&self) -> bool {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        self.draws() && !set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
    }

    /// Says a line on stderr. That nobody listens is no error.
    pub fn say(&self, line: impl Display) {
        if !self.quiet {
            let _ = writeln!(io::stderr().lock(), "{line}");
        }
    }

    /// Says what went wrong, quiet or not.
    pub fn error(&self, error: &Error) {
        let _ = writeln!(io::stderr().lock(), "error: {error}");
    }

    /// Prints `text` and a line's end on stdout.
    pub fn print(&self, text: impl Display) -> Result<()> {
        let mut stdout = io::stdout().lock();
        let written = writeln!(stdout, "{text}").and_then(|()| stdout.flush());
        written.map_err(|e| Error::io(STDOUT, e))
    }

    /// Prints `value` as JSON on stdout.
    pub fn print_json(&self, value: &impl Serialize) -> Result<()> {
        self.print(serde_json::to_string_pretty(value).map_err(|e| Error::Internal(e.to_string()))?)
    }

    /// A progress bar on stderr over `length` units; hidden where stderr is no terminal.
    pub fn progress(&self, length: u64) -> ProgressBar {
        if !self.draws() {
            return ProgressBar::hidden();
        }
        let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr());
        let template = "{msg} [{bar:32}] {pos}/{len}, {elapsed} ({eta} left)";
        bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.enable_steady_tick(Duration::from_millis(200));
        bar
    }
}

/// `RUST_LOG` decides where -v and -q do not. Other crates speak a level later than rissole.
fn start_log(words: &Words) {
    let mut log = env_logger::Builder::new();
    match (words.quiet, words.verbose) {
        (true, _) => log.filter_level(LevelFilter::Error),
        (false, 0) => log.filter_level(LevelFilter::Warn).parse_default_env(),
        (false, 1) => log.filter_level(LevelFilter::Warn).filter_module("rissole", LevelFilter::Info),
        (false, 2) => log.filter_level(LevelFilter::Info).filter_module("rissole", LevelFilter::Debug),
        (false, _) => log.filter_level(LevelFilter::Trace),
    };
    log.format_target(false).format_timestamp(None).target(env_logger::Target::Stderr).init();
}

/// `bytes` for people.
pub fn bytes(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}
