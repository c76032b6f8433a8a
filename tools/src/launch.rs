//! `--device cuda:all`: one process for each GPU of this machine.
//!
//! Under a launcher (torchrun, SLURM) the processes are there already, and each takes the GPU that is its own on its
//! machine. Otherwise this process starts them, as a launcher would, and waits for them. Each of them reads from a pipe that
//! this process holds: when it ends, however that may be, they are interrupted, save what they have and end too.

use std::io::Read;
use std::net::TcpListener;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rissole::{Error, Result};

use crate::backend::choice::Choice;
use crate::backend::cuda;

/// Variables that say how many-eth this process is on its machine: torchrun, SLURM.
const LOCAL_RANKS: [&str; 2] = ["LOCAL_RANK", "SLURM_LOCALID"];
/// Variables that only a launcher sets.
const WORLD_SIZES: [&str; 2] = ["WORLD_SIZE", "SLURM_NTASKS"];
/// Time for the others to end by themselves when one has failed.
const GRACE: Duration = Duration::from_secs(10);
/// What tells a process that it was started here.
const STARTED: &str = "RISSOLE_TRAIN_STARTED";
/// Exit code of a process that was interrupted.
const INTERRUPTED: u8 = 130;
const POLL: Duration = Duration::from_millis(50);

/// What to do about `--device cuda:all`.
#[derive(Debug, PartialEq, Eq)]
pub enum Plan {
    /// Train here, on this device.
    Here(Choice),
    /// Start so many processes.
    Start(usize),
}

/// The plan for this process, and work that several processes share or not.
///
/// # Errors
/// As [`cuda::count`]; [`Error::Usage`] for a variable that is no number.
pub fn plan(shared: bool) -> Result<Plan> {
    plan_for(|name| std::env::var(name).ok(), cuda::count()?, shared)
}

fn plan_for(variable: impl Fn(&str) -> Option<String>, count: usize, shared: bool) -> Result<Plan> {
    let number = |name: &&str| {
        let text = variable(name)?;
        Some(text.parse::<usize>().map_err(|_| Error::Usage(format!("{name} is {text:?}, not a number"))))
    };
    let local = LOCAL_RANKS.iter().find_map(number).transpose()?;
    let launched = WORLD_SIZES.iter().find_map(number).transpose()?.is_some_and(|size| size > 1);
    match (local, launched) {
        // A launcher may show each process its own GPU alone.
        (Some(_), true) if count == 1 => Ok(Plan::Here(Choice::Cuda(0))),
        (Some(local), true) => Ok(Plan::Here(Choice::Cuda(local))),
        (None, true) => Err(Error::Usage(format!(
            "which GPU is this process's? The launcher sets none of {}; give --device cuda:N",
            LOCAL_RANKS.join(", ")
        ))),
        (_, false) if count > 1 && shared => Ok(Plan::Start(count)),
        (_, false) => Ok(Plan::Here(Choice::Cuda(0))),
    }
}

/// Runs this program's command line in `count` processes and waits for them; when `interrupted` they are too. Returns the
/// exit code of the first that failed, or 0.
///
/// # Errors
/// [`Error::Usage`] when they cannot be started.
pub fn start(count: usize, interrupted: &AtomicBool) -> Result<u8> {
    let fault = |e: std::io::Error| Error::Usage(format!("cannot start {count} processes: {e}"));
    let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).map_err(fault)?.port();
    let program = std::env::current_exe().map_err(fault)?;
    let mut processes = Processes(Vec::new());
    for rank in 0..count {
        let mut command = Command::new(&program);
        command.args(std::env::args_os().skip(1));
        for (name, value) in [("RANK", rank), ("LOCAL_RANK", rank), ("WORLD_SIZE", count)] {
            command.env(name, value.to_string());
        }
        command.env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", port.to_string());
        command.env(STARTED, "1").stdin(Stdio::piped());
        processes.0.push(command.spawn().map_err(fault)?);
    }
    processes.wait(interrupted)
}

/// In a process that was started by another of this program: sets `interrupted` when that one ends or lets go.
pub fn follow(interrupted: &'static AtomicBool) {
    if std::env::var_os(STARTED).is_some() {
        std::thread::spawn(|| {
            // Nothing is ever written.
            let _ = std::io::stdin().read(&mut [0]);
            interrupted.store(true, Ordering::Relaxed);
        });
    }
}

/// Processes that end with this value.
struct Processes(Vec<Child>);

impl Processes {
    fn wait(&mut self, interrupted: &AtomicBool) -> Result<u8> {
        let mut failed: Option<(u8, Instant)> = None;
        loop {
            let ends = self.0.iter_mut().map(Child::try_wait).collect::<std::io::Result<Vec<_>>>();
            let ends = ends.map_err(|e| Error::Internal(format!("waiting for a process: {e}")))?;
            let first = ends.iter().flatten().find(|end| !end.success());
            failed = failed.or_else(|| first.map(|end| (code(*end), Instant::now())));
            if interrupted.load(Ordering::Relaxed) {
                self.0.iter_mut().for_each(|process| drop(process.stdin.take()));
            }
            // Those that are interrupted end by themselves, once all is saved.
            let late = failed.is_some_and(|(code, since)| code != INTERRUPTED && since.elapsed() > GRACE);
            if late || ends.iter().all(Option::is_some) {
                return Ok(failed.map_or(0, |(code, _)| code));
            }
            std::thread::sleep(POLL);
        }
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        // Those that have ended are not touched.
        self.0.iter_mut().for_each(|process| drop(process.kill().and_then(|()| process.wait())));
    }
}

/// As this program would end itself.
fn code(end: ExitStatus) -> u8 {
    end.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_takes_its_own_gpu_and_starts_others_only_without_a_launcher() {
        let plan = |variables: &[(&str, &str)], count: usize, shared: bool| {
            let find = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
            plan_for(find, count, shared)
        };
        let here = |gpu: usize| Plan::Here(Choice::Cuda(gpu));
        assert_eq!(plan(&[], 4, true).unwrap(), Plan::Start(4));
        assert_eq!(plan(&[], 4, false).unwrap(), here(0));
        assert_eq!(plan(&[], 1, true).unwrap(), here(0));
        assert_eq!(plan(&[("WORLD_SIZE", "1"), ("LOCAL_RANK", "0")], 4, true).unwrap(), Plan::Start(4));
        assert_eq!(plan(&[("WORLD_SIZE", "8"), ("LOCAL_RANK", "3")], 4, true).unwrap(), here(3));
        assert_eq!(plan(&[("SLURM_NTASKS", "2"), ("SLURM_LOCALID", "1")], 4, false).unwrap(), here(1));
        assert_eq!(plan(&[("SLURM_NTASKS", "4"), ("SLURM_LOCALID", "3")], 1, true).unwrap(), here(0));
        assert!(plan(&[("WORLD_SIZE", "8"), ("RANK", "3")], 4, true).is_err());
        assert!(plan(&[("WORLD_SIZE", "8"), ("LOCAL_RANK", "x")], 4, true).is_err());
    }
}
