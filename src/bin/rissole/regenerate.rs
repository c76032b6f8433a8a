//! `rissole regenerate`: the same pixels again.

use std::path::PathBuf;

use clap::{Args, ValueHint};
use rissole::picture::{Parameters, QuerySource, read_png, read_png_text};
use rissole::{Bundle, Error, Options, Result};
use serde::Serialize;

use crate::args::{Machine, Model, QueryArg};
use crate::generation::{Artist, hash_file, memory, times};
use crate::output::{Destination, folder_of, save};
use crate::terminal::Console;

/// Make the same pixels again from the parameters in a PNG
///
/// Needs the very model that the picture was made with; another one is refused by name. Whether the pixels are
/// the same is checked and said.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rissole regenerate rissole-7.png             writes rissole-7-again.png
  rissole regenerate face.png --model models/mine --out again.png
  rissole regenerate guided.png --query-image me.jpg")]
pub struct Regenerate {
    /// A PNG made by rissole
    #[arg(value_hint = ValueHint::FilePath)]
    picture: PathBuf,
    #[command(flatten)]
    model: Model,
    /// The file that guided the picture, where it was made with --query image:FILE
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    query_image: Option<PathBuf>,
    /// A PNG file or a folder [default: the picture's name with -again, beside it]
    #[arg(long, value_name = "FILE|DIR", value_hint = ValueHint::AnyPath)]
    out: Option<PathBuf>,
    #[command(flatten)]
    machine: Machine,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Output {
    file: PathBuf,
    identical: bool,
    parameters: Parameters,
}

impl Regenerate {
    /// Runs the subcommand.
    pub fn run(self, console: &Console) -> Result<()> {
        let old = read_png(&self.picture)?;
        let told = Parameters::from_png(&self.picture, &read_png_text(&self.picture)?)?;
        let told = told.ok_or_else(|| Error::file(&self.picture, "carries no rissole parameters"))?;
        let bundle = self.model.open()?;
        self.check_model(&told, &bundle)?;
        let query = self.query(&told)?;
        let file = self.destination()?;

        let options = Options {
            neighbours: Some(told.neighbours),
            steps: Some(told.steps),
            sampler: Some(told.sampler),
            guidance: Some(told.guidance),
            exclude_self: Some(told.exclude_self),
            ..self.machine.options()
        };
        let mut artist = Artist::new(&bundle, &options, &query, 1, false, console)?;
        let (picture, parameters) = artist.draw(told.seed, &format!("seed {}", told.seed))?;
        drop(artist);
        let identical = picture.image == old;
        save(&file, &parameters.encode_png(&picture.image)?)?;

        console.say(format_args!("seed {}: {}", told.seed, times(&picture.report)));
        console.say(memory(&picture.report));
        match identical {
            true => console.say("the pixels are the same"),
            false => log::warn!("the pixels are not the same: {}", self.reason(&told)),
        }
        match console.json {
            true => console.print_json(&Output { file, identical, parameters }),
            false => console.print(file.display()),
        }
    }

    fn check_model(&self, told: &Parameters, bundle: &Bundle) -> Result<()> {
        let manifest = bundle.path_of(Bundle::MANIFEST);
        let found = hash_file(&manifest)?;
        if found == told.manifest_blake3 || bundle.manifest.packed_from().any(|before| before == told.manifest_blake3) {
            return Ok(());
        }
        let (wanted, name) = (&told.manifest_blake3, &bundle.manifest.name);
        let fault = format!(
            "was made with model {} (manifest {wanted}), but {} is that of {name} (manifest {found}); name the right \
             model with --model",
            told.model,
            manifest.display()
        );
        Err(Error::file(&self.picture, fault))
    }

    /// The query of old; a file must be given again, and be the same.
    fn query(&self, told: &Parameters) -> Result<QueryArg> {
        let given = self.query_image.as_ref();
        match (&told.query, given) {
            (QuerySource::Image(hash), None) => Err(Error::Usage(format!(
                "{} was guided by a file (BLAKE3 {hash}); give it with --query-image FILE",
                self.picture.display()
            ))),
            (QuerySource::Image(hash), Some(path)) => match hash_file(path)? {
                found if found == *hash => Ok(QueryArg::Image(path.clone())),
                found => Err(Error::file(path, format!("BLAKE3 is {found}, the picture was guided by {hash}"))),
            },
            (_, Some(_)) => Err(Error::Usage("the picture was not guided by a file; leave --query-image out".into())),
            (QuerySource::Random, None) => Ok(QueryArg::Random),
            (QuerySource::Id(id), None) => match u32::try_from(*id) {
                Ok(id) => Ok(QueryArg::Id(id)),
                Err(_) => Err(Error::file(&self.picture, format!("names picture {id}, more than a database holds"))),
            },
        }
    }

    fn destination(&self) -> Result<PathBuf> {
        let stem = self.picture.file_stem().unwrap_or_default().to_string_lossy();
        let name = format!("{stem}-again.png");
        match &self.out {
            None if folder_of(&self.picture).as_os_str() == "." => Ok(name.into()),
            None => Ok(folder_of(&self.picture).join(name)),
            Some(out) => Ok(match Destination::new(Some(out), 1)? {
                Destination::File(path) => path,
                Destination::Folder(folder) => folder.join(name),
            }),
        }
    }

    fn reason(&self, told: &Parameters) -> String {
        let version = env!("CARGO_PKG_VERSION");
        match told.version == version {
            true => "the picture was changed, or made by a build for another processor".to_owned(),
            false => format!("the picture was made by rissole {}, this is {version}", told.version),
        }
    }
}
