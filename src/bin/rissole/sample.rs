//! `rissole sample`: new pictures.

use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;

use clap::{Args, ValueHint};
use rissole::picture::{Parameters, contact_sheet, encode_png};
use rissole::{Error, Options, Report, Result};
use serde::Serialize;

use crate::args::{Machine, Model, QueryArg, Sampler};
use crate::generation::{Artist, memory, times};
use crate::output::{Destination, save};
use crate::terminal::Console;

/// White pixels between the pictures of a contact sheet.
const SHEET_GAP: u32 = 2;

/// Make new pictures
///
/// Writes PNGs that carry all their parameters; their paths go to stdout. The same seed with the same build
/// gives the same pixels, whatever the number of threads.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rissole sample --seed 7 --out face.png
  rissole sample --count 16 --grid --out faces/
  rissole sample --sampler ddim --steps 50 --preview
  rissole sample --query image:me.jpg          guided by a picture of your own
  rissole sample --ram-budget 64MiB --threads 1
  rissole sample --quiet --json | jq .pictures[0].file")]
pub struct Sample {
    #[command(flatten)]
    model: Model,
    /// Seed of the first picture; the next ones take the seeds that follow [default: random, printed]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// How many pictures
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    /// Sampling steps: more is slower and finer [default: the model's]
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
    /// How noise becomes a picture [default: the model's]
    #[arg(long, value_enum)]
    sampler: Option<Sampler>,
    /// How strongly neighbours guide, for a model trained for it: 1 as trained, more follows them more; all but 1 takes
    /// twice as long [default: the model's]
    #[arg(long, value_name = "G")]
    guidance: Option<f32>,
    /// Neighbours that guide a picture, at most the model's [default: the model's]
    #[arg(long, value_name = "K", visible_alias = "neighbors")]
    neighbours: Option<usize>,
    /// Whose neighbours: of a random picture of the database, of picture N, or of a file
    #[arg(long, value_name = "random|id:N|image:FILE", default_value = "random")]
    query: QueryArg,
    /// Let the queried picture be among its own neighbours: the result may copy it
    #[arg(long)]
    include_self: bool,
    /// A PNG file, or a folder for rissole-SEED.png [default: the current folder]
    #[arg(long, value_name = "FILE|DIR", value_hint = ValueHint::AnyPath)]
    out: Option<PathBuf>,
    /// Write one contact sheet of all pictures besides
    #[arg(long)]
    grid: bool,
    /// Draw the picture in the terminal as it grows
    #[arg(long)]
    preview: bool,
    #[command(flatten)]
    machine: Machine,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Output {
    pictures: Vec<Made>,
    #[serde(skip_serializing_if = "Option::is_none")]
    grid: Option<PathBuf>,
}

/// One picture of [`Output`].
#[derive(Debug, Serialize)]
struct Made {
    file: PathBuf,
    parameters: Parameters,
    report: Report,
}

impl Sample {
    /// Runs the subcommand.
    pub fn run(self, console: &Console) -> Result<()> {
        let first = self.seed.unwrap_or_else(random_seed);
        let last = first.checked_add(u64::from(self.count) - 1);
        let last = last.ok_or_else(|| Error::Usage("the seeds run over; take a smaller --seed".into()))?;
        let destination = Destination::new(self.out.as_deref(), self.count)?;
        let bundle = self.model.open()?;
        let mut artist = Artist::new(&bundle, &self.options(), &self.query, self.count, self.preview, console)?;

        let mut made = Vec::new();
        let mut images = Vec::new();
        for seed in first..=last {
            let (picture, parameters) = artist.draw(seed, &self.name(seed, first))?;
            let file = destination.picture(seed);
            save(&file, &parameters.encode_png(&picture.image)?)?;
            artist.aside(|| {
                console.say(format_args!("seed {seed}: {}", times(&picture.report)));
                if console.json { Ok(()) } else { console.print(file.display()) }
            })?;
            made.push(Made { file, parameters, report: picture.report });
            if self.grid {
                images.push(picture.image);
            }
        }
        drop(artist);
        if let Some(last) = made.last() {
            console.say(memory(&last.report));
        }
        let grid = if self.grid { Some(destination.sheet(first, last)) } else { None };
        if let Some(file) = &grid {
            let words = format!("{} pictures of {}, seeds {first} to {last}", made.len(), bundle.manifest.name);
            save(file, &encode_png(&contact_sheet(&images, SHEET_GAP)?, &[("Description", &words)])?)?;
        }
        match (console.json, grid) {
            (true, grid) => console.print_json(&Output { pictures: made, grid }),
            (false, Some(file)) => console.print(file.display()),
            (false, None) => Ok(()),
        }
    }

    fn options(&self) -> Options {
        Options {
            neighbours: self.neighbours,
            steps: self.steps,
            sampler: self.sampler.map(Into::into),
            guidance: self.guidance,
            exclude_self: self.include_self.then_some(false),
            ..self.machine.options()
        }
    }

    fn name(&self, seed: u64, first: u64) -> String {
        match self.count {
            1 => format!("seed {seed}"),
            count => format!("seed {seed} ({}/{count})", seed - first + 1),
        }
    }
}

/// A seed that a person can type again.
fn random_seed() -> u64 {
    // Every `RandomState` has keys of its own from the system.
    RandomState::new().hash_one(std::process::id()) >> 32
}
