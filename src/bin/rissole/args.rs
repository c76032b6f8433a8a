//! Arguments that several subcommands share, and how their values are read.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{ArgAction, Args, ValueEnum, ValueHint};
use rissole::bundle::Storage;
use rissole::bundle::manifest::SamplerKind;
use rissole::{Bundle, Error, Options, Result};

/// Where the shipped bundle lies, seen from the project's folder, or from `share/rissole` beside an installed program.
const SHIPPED: &str = "models/avatars64";

/// How much is said, and how.
#[derive(Debug, Args)]
#[command(next_help_heading = "Words")]
pub struct Words {
    /// Say more on stderr: -v what is done, -vv details, -vvv everything
    #[arg(short, long, action = ArgAction::Count, global = true, conflicts_with = "quiet")]
    pub verbose: u8,
    /// Say nothing on stderr but errors
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Print one JSON value on stdout instead of lines for people
    #[arg(long, global = true)]
    pub json: bool,
}

/// Which bundle.
#[derive(Debug, Args)]
pub struct Model {
    /// Folder of the bundle [default: models/avatars64 here, or else as installed with the program]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    model: Option<PathBuf>,
    /// Read the bundle's files instead of mapping them, for storage that may change or go away meanwhile: database and
    /// index where a search looks, the rest into memory; what is read then counts as allocated
    #[arg(long)]
    pub no_mmap: bool,
}

impl Model {
    /// Opens the bundle.
    pub fn open(&self) -> Result<Bundle> {
        let (folder, hint) = match &self.model {
            Some(folder) => (folder.clone(), "no such folder; --model must name a folder with a manifest.json"),
            None => (shipped(), "no such folder here; run in the project's folder or name a bundle with --model DIR"),
        };
        if !folder.is_dir() {
            return Err(Error::file(folder, hint));
        }
        let storage = if self.no_mmap { Storage::Read } else { Storage::Mapped };
        Bundle::open_from(folder, storage)
    }
}

/// The shipped bundle where it is here or installed; otherwise where it is not.
fn shipped() -> PathBuf {
    let here = PathBuf::from(SHIPPED);
    let program = std::env::current_exe().and_then(std::fs::canonicalize).ok();
    let prefix = program.as_deref().and_then(|program| program.parent()?.parent());
    let installed = prefix.map(|prefix| prefix.join("share/rissole").join(SHIPPED));
    if here.is_dir() { here } else { installed.filter(|folder| folder.is_dir()).unwrap_or(here) }
}

/// What the machine may spend.
#[derive(Debug, Args)]
#[command(next_help_heading = "Machine")]
pub struct Machine {
    /// Threads that draw; the pixels do not depend on it [default: the number of cores]
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
    /// Most memory to allocate: bytes, or with a unit as 32MiB or 64MB; mapped files do not count
    #[arg(long, value_name = "BYTES")]
    ram_budget: Option<ByteCount>,
}

impl Machine {
    /// Whether anything of it was named.
    pub fn is_named(&self) -> bool {
        self.threads.is_some() || self.ram_budget.is_some()
    }

    /// Options that name the machine's share alone.
    pub fn options(&self) -> Options {
        let cores = || std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let threads = self.threads.unwrap_or_else(cores).get();
        Options { threads, ram_budget: self.ram_budget.map(|b| b.0), ..Options::default() }
    }
}

/// The samplers by the names that manifests use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Sampler {
    /// Ancestral sampling, as in the paper
    Ddpm,
    /// Deterministic, good with 20 to 100 steps
    Ddim,
    /// DPM-Solver++ 2M: good with 10 to 25 steps
    #[value(name = "dpm++2m")]
    DpmSolverPp2m,
    /// 1 to 4 steps, for a model tuned for it
    Consistency,
}

impl From<Sampler> for SamplerKind {
    fn from(sampler: Sampler) -> Self {
        match sampler {
            Sampler::Ddpm => Self::Ddpm,
            Sampler::Ddim => Self::Ddim,
            Sampler::DpmSolverPp2m => Self::DpmSolverPp2m,
            Sampler::Consistency => Self::Consistency,
        }
    }
}

/// Which picture is looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QueryArg {
    /// One of the database, by the seed.
    Random,
    /// This one of the database.
    Id(u32),
    /// A file.
    Image(PathBuf),
}

impl FromStr for QueryArg {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text.split_once(':') {
            None if text == "random" => Ok(Self::Random),
            Some(("id", id)) => id.parse().map(Self::Id).map_err(|_| format!("{id:?} is not a picture's number")),
            Some(("image", path)) if !path.is_empty() => Ok(Self::Image(path.into())),
            _ => Err("expected random, id:N or image:FILE".into()),
        }
    }
}

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ByteCount(u64);

impl FromStr for ByteCount {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let factor: u64 = match unit.trim_start().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "kb" => 1_000,
            "mb" => 1_000_000,
            "gb" => 1_000_000_000,
            "k" | "kib" => 1 << 10,
            "m" | "mib" => 1 << 20,
            "g" | "gib" => 1 << 30,
            _ => return Err(format!("{unit:?} is no unit; use KiB, MiB, GiB, kB, MB, GB or bytes")),
        };
        let number: u64 = number.parse().map_err(|_| "expected a whole number such as 32MiB".to_owned())?;
        number.checked_mul(factor).map(Self).ok_or_else(|| "is more than any machine has".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_counts_are_read_with_and_without_units() {
        let bytes = |text: &str| text.parse::<ByteCount>().map(|b| b.0);
        assert_eq!(bytes("1048576"), Ok(1 << 20));
        assert_eq!(bytes("32MiB"), Ok(32 << 20));
        assert_eq!(bytes("32 mib"), Ok(32 << 20));
        assert_eq!(bytes("64MB"), Ok(64_000_000));
        assert_eq!(bytes("2G"), Ok(2 << 30));
        for bad in ["", "MiB", "-1", "1.5MiB", "12 apples", "99999999999GiB", "1e9", "18446744073709551616"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn queries_are_read() {
        assert_eq!("random".parse(), Ok(QueryArg::Random));
        assert_eq!("id:12".parse(), Ok(QueryArg::Id(12)));
        assert_eq!("image:C:/a b.png".parse(), Ok(QueryArg::Image("C:/a b.png".into())));
        for bad in ["", "id", "id:", "id:-1", "id:4294967296", "image:", "picture:a.png", "RANDOM"] {
            assert!(bad.parse::<QueryArg>().is_err(), "{bad}");
        }
    }

    #[test]
    fn samplers_have_the_names_of_the_manifest() {
        for sampler in Sampler::value_variants() {
            let name = sampler.to_possible_value().unwrap().get_name().to_owned();
            assert_eq!(serde_json::to_value(SamplerKind::from(*sampler)).unwrap(), name);
        }
    }
}
