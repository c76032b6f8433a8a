//! `rissole verify`: whether a bundle is what its manifest says.

use std::path::PathBuf;

use clap::{Args, ValueHint};
use rissole::{Bundle, Error, Generator, Options, Result};
use serde::Serialize;

use crate::interrupt;
use crate::terminal::{Console, bytes};

/// Check every file of a bundle against its manifest
///
/// Checks size and BLAKE3 hash of each file, then that database, index and networks open and fit together.
/// All faults are shown, not the first alone.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rissole verify models/avatars64
  rissole verify models/mine --json")]
pub struct Verify {
    /// Folder of the bundle
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    bundle: PathBuf,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Output {
    bundle: PathBuf,
    sound: bool,
    files: Vec<Checked>,
    /// What is wrong with the whole, where every file is sound.
    #[serde(skip_serializing_if = "Option::is_none")]
    fault: Option<String>,
}

#[derive(Debug, Serialize)]
struct Checked {
    name: String,
    bytes: u64,
    blake3: String,
    sound: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    fault: Option<String>,
}

impl Verify {
    /// Runs the subcommand.
    pub fn run(self, console: &Console) -> Result<()> {
        let bundle = Bundle::open_manifest(&self.bundle)?;
        let mut files = Vec::new();
        let mut worst = None;
        for entry in &bundle.manifest.files {
            interrupt::check()?;
            let fault = bundle.verify_file(entry).err();
            files.push(Checked {
                name: entry.name.clone(),
                bytes: entry.bytes,
                blake3: entry.blake3.clone(),
                sound: fault.is_none(),
                fault: fault.as_ref().map(Error::to_string),
            });
            worst = worst.or(fault);
        }
        let mut whole = None;
        if worst.is_none() {
            worst = check_whole(&bundle).err();
            whole = worst.as_ref().map(Error::to_string);
        }
        let output = Output { bundle: self.bundle.clone(), sound: worst.is_none(), files, fault: whole };
        match console.json {
            true => console.print_json(&output)?,
            false => print(&output, console)?,
        }
        match worst {
            None => console.say(format_args!("{}: sound", self.bundle.display())),
            Some(error) => return Err(error),
        }
        Ok(())
    }
}

/// Reads database and index to the end, and runs every network but the encoder once.
fn check_whole(bundle: &Bundle) -> Result<()> {
    let generator = Generator::open(bundle, &Options::default())?;
    generator.database().verify()?;
    generator.index().verify()
}

fn print(output: &Output, console: &Console) -> Result<()> {
    output.files.iter().try_for_each(|file| {
        let word = if file.sound { "sound" } else { "BAD  " };
        console.print(format_args!("{word}  {:>12}  {}  {}", bytes(file.bytes), &file.blake3, file.name))?;
        file.fault.iter().try_for_each(|fault| console.print(format_args!("       {fault}")))
    })
}
