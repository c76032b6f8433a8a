//! `--device cuda:all`: one process for each GPU of this machine.
//!
//! Under a launcher (torchrun, SLURM, MPI) the processes are there already, and each takes the GPU that is its own on its
//! machine. Otherwise this process starts them, as a launcher would, and waits for them.

use std::net::TcpListener;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use rissole::{Error, Result};

use crate::backend::choice::Choice;
use crate::backend::cuda;

/// Variables that say how many-eth this process is on its machine: torchrun, SLURM, Open MPI.
const LOCAL_RANKS: [&str; 3] = ["LOCAL_RANK", "SLURM_LOCALID", "OMPI_COMM_WORLD_LOCAL_RANK"];
/// Variables that only a launcher sets.
const WORLD_SIZES: [&str; 2] = ["WORLD_SIZE", "SLURM_NTASKS"];
/// Time for the others to end by themselves when one has failed.
const GRACE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(50);

/// What to do about `--device cuda:all`.
#[derive(Debug, PartialEq, Eq)]
pub enum Plan {
    /// Train here, on this device.
    Here(Choice),
    /// Start so many processes.
    Start(usize),
}

/// The plan for this process.
///
/// # Errors
/// As [`cuda::count`]; [`Error::Usage`] for a variable that is no number.
pub fn plan() -> Result<Plan> {
    plan_for(|name| std::env::var(name).ok(), cuda::count)
}

fn plan_for(variable: impl Fn(&str) -> Option<String>, count: impl Fn() -> Result<usize>) -> Result<Plan> {
    let number = |name: &&str| {
        let text = variable(name)?;
        Some(text.parse::<usize>().map_err(|_| Error::Usage(format!("{name} is {text:?}, not a number"))))
    };
    let local = LOCAL_RANKS.iter().find_map(number).transpose()?;
    let launched = WORLD_SIZES.iter().find_map(number).transpose()?.is_some_and(|size| size > 1);
    match (local, launched, count()?) {
        (Some(local), true, _) => Ok(Plan::Here(Choice::Cuda(local))),
        (None, true, _) => Err(Error::Usage(format!(
            "which GPU is this process's? The launcher sets none of {}; give --device cuda:N",
            LOCAL_RANKS.join(", ")
        ))),
        (_, false, 0 | 1) => Ok(Plan::Here(Choice::Cuda(0))),
        (_, false, count) => Ok(Plan::Start(count)),
    }
}

/// Runs this program's command line in `count` processes and waits for them. Returns the exit code of the first that
/// failed, or 0.
///
/// # Errors
/// [`Error::Usage`] when they cannot be started.
pub fn start(count: usize) -> Result<u8> {
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
        processes.0.push(command.spawn().map_err(fault)?);
    }
    processes.wait()
}

/// Processes that end with this value.
struct Processes(Vec<Child>);

impl Processes {
    fn wait(&mut self) -> Result<u8> {
        let mut failed: Option<(u8, Instant)> = None;
        loop {
            let ends = self.0.iter_mut().map(Child::try_wait).collect::<std::io::Result<Vec<_>>>();
            let ends = ends.map_err(|e| Error::Internal(format!("waiting for a process: {e}")))?;
            let first = ends.iter().flatten().find(|end| !end.success());
            failed = failed.or_else(|| first.map(|end| (code(*end), Instant::now())));
            let late = failed.is_some_and(|(_, since)| since.elapsed() > GRACE);
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
        let plan = |variables: &[(&str, &str)], count: usize| {
            let find = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
            plan_for(find, || Ok(count))
        };
        assert_eq!(plan(&[], 4).unwrap(), Plan::Start(4));
        assert_eq!(plan(&[], 1).unwrap(), Plan::Here(Choice::Cuda(0)));
        assert_eq!(plan(&[("WORLD_SIZE", "1"), ("LOCAL_RANK", "0")], 4).unwrap(), Plan::Start(4));
        assert_eq!(plan(&[("WORLD_SIZE", "8"), ("LOCAL_RANK", "3")], 4).unwrap(), Plan::Here(Choice::Cuda(3)));
        assert_eq!(plan(&[("SLURM_NTASKS", "2"), ("SLURM_LOCALID", "1")], 4).unwrap(), Plan::Here(Choice::Cuda(1)));
        assert!(plan(&[("WORLD_SIZE", "8"), ("RANK", "3")], 4).is_err());
        assert!(plan(&[("WORLD_SIZE", "8"), ("LOCAL_RANK", "x")], 4).is_err());
    }
}
