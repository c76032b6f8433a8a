//! The command line of rissole: data on stdout, words on stderr, one place for exit codes.

mod args;
mod generation;
mod index;
mod inspect;
mod interrupt;
mod output;
mod pack;
mod preview;
mod regenerate;
mod sample;
mod terminal;
mod verify;

use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Mutex;

use clap::{Parser, Subcommand};
use rissole::budget::CountingAllocator;
use rissole::{Error, Result};

use terminal::{Console, STDOUT};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Makes pictures on small machines: block-wise latent diffusion guided by a memory-mapped database
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, arg_required_else_help = true, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    words: args::Words,
}

#[derive(Debug, Subcommand)]
enum Command {
    Sample(sample::Sample),
    Inspect(inspect::Inspect),
    Verify(verify::Verify),
    Pack(pack::Pack),
    Regenerate(regenerate::Regenerate),
    Index(index::Index),
}

const EXAMPLES: &str = "\
Examples:
  rissole sample                              a new picture from models/avatars64
  rissole sample --count 16 --grid --out faces/
  rissole inspect rissole-7.png               how that picture was made
  rissole regenerate rissole-7.png            the same pixels again
  rissole index holiday/ --out models/mine    the same model over your own pictures
  rissole index --append models/mine more/    and more of them

Exit codes:
  0 done, 2 wrong usage, 3 bad model or picture, 4 over the RAM budget, 5 the system refused a file,
  130 interrupted, 1 a defect of rissole";

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(message) => {
            // Help and version go to stdout and are no error; a closed pipe is not one either.
            let _ = message.print();
            return ExitCode::from(if message.use_stderr() { 2 } else { 0 });
        }
    };
    let console = Console::new(&cli.words);
    report_panics_as_defects();
    let outcome = catch_unwind(AssertUnwindSafe(|| run(cli.command, &console)));
    let outcome = outcome.unwrap_or_else(|_| Err(Error::Internal(last_panic())));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        // Who closes our stdout has seen enough.
        Err(Error::Io { path, source }) if source.kind() == ErrorKind::BrokenPipe && path == Path::new(STDOUT) => {
            ExitCode::SUCCESS
        }
        Err(error) => {
            console.error(&error);
            if matches!(error, Error::Budget { .. }) {
                console.say("that is the least that any way of drawing takes: rissole inspect MODEL --plan shows them");
            }
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(command: Command, console: &Console) -> Result<()> {
    interrupt::listen()?;
    match command {
        Command::Sample(sample) => sample.run(console),
        Command::Inspect(inspect) => inspect.run(console),
        Command::Verify(verify) => verify.run(console),
        Command::Pack(pack) => pack.run(console),
        Command::Regenerate(regenerate) => regenerate.run(console),
        Command::Index(index) => index.run(console),
    }
}

static LAST_PANIC: Mutex<String> = Mutex::new(String::new());

/// The library turns a panic of the network engine into a fault of the file: that must not be shown as a
/// crash. So a panic is only noted, and shown when it reaches [`main`].
fn report_panics_as_defects() {
    std::panic::set_hook(Box::new(|panic| {
        log::debug!("{panic}");
        if let Ok(mut last) = LAST_PANIC.lock() {
            *last = panic.to_string();
        }
    }));
}

fn last_panic() -> String {
    LAST_PANIC.lock().map(|last| last.clone()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }
}
