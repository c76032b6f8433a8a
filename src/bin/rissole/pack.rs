//! `rissole pack`: the packed networks of a bundle, made anew.

use std::path::PathBuf;

use clap::{Args, ValueHint};
use rissole::Result;
use rissole::bundle::manifest::FileEntry;
use rissole::network::pack_bundle;
use serde::Serialize;

use crate::terminal::{Console, bytes};

/// Pack the networks of a bundle anew
///
/// Packed, a network is used in place from the memory map. Bundles come with packed networks. This makes all of them anew: of
/// use where they are missing or damaged, or this version of rissole reads them otherwise, which `sample` warns of. The pixels
/// of all pictures stay the same, and `regenerate` still knows those drawn before. A network with operators that are not
/// rissole's own is not packed.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rissole pack models/mine
  rissole pack models/mine --json")]
pub struct Pack {
    /// Folder of the bundle
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    bundle: PathBuf,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Output {
    bundle: PathBuf,
    files: Vec<FileEntry>,
}

impl Pack {
    /// Runs the subcommand.
    pub fn run(self, console: &Console) -> Result<()> {
        let files = pack_bundle(&self.bundle)?;
        let output = Output { bundle: self.bundle, files };
        match console.json {
            true => console.print_json(&output),
            false => output.files.iter().try_for_each(|file| {
                console.print(format_args!("{:>12}  {}", bytes(file.bytes), output.bundle.join(&file.name).display()))
            }),
        }
    }
}
