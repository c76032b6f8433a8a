//! The release binary under a real limit: a memory cgroup, page cache included. Where the machine gives no cgroup (no
//! Linux, no rights), the test says so and checks nothing.
#![cfg(target_os = "linux")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::TempDir;

const MIB: u64 = 1 << 20;
/// Seconds after which a run that takes one counts as hopeless.
const PATIENCE: &str = "10";

/// A memory cgroup of our own; it goes when it is dropped.
struct Cgroup {
    dir: PathBuf,
    /// Names of the files of limit and peak.
    limit: &'static str,
    peak: &'static str,
}

impl Cgroup {
    /// One of version 1 or 2, or why there is none.
    fn new() -> Result<Self, String> {
        let name = format!("rissole-test-{}", std::process::id());
        let v1 = ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.max_usage_in_bytes");
        let v2 = ("/sys/fs/cgroup", "memory.max", "memory.peak");
        let mut faults = vec![];
        for (root, limit, peak) in [v1, v2] {
            let dir = Path::new(root).join(&name);
            match fs::create_dir(&dir) {
                Ok(()) if dir.join(limit).exists() => return Ok(Self { dir, limit, peak }),
                Ok(()) => {
                    fs::remove_dir(&dir).unwrap();
                    faults.push(format!("{root} has no memory controller"));
                }
                Err(e) => faults.push(format!("{root}: {e}")),
            }
        }
        Err(faults.join("; "))
    }

    /// Runs a program with at most `bytes` of memory, swap apart.
    fn run(&self, bytes: u64, program: &Path, arguments: &[&str]) -> Output {
        fs::write(self.dir.join(self.limit), bytes.to_string()).unwrap();
        let enter = format!("echo $$ > {}/cgroup.procs && exec timeout {PATIENCE} \"$0\" \"$@\"", self.dir.display());
        Command::new("sh").args(["-c", &enter]).arg(program).args(arguments).output().unwrap()
    }

    /// Most that was used at once since the last look, where the kernel tells.
    fn peak(&self) -> Option<u64> {
        let file = self.dir.join(self.peak);
        let peak = fs::read_to_string(&file).ok()?.trim().parse().ok();
        let _ = fs::write(file, "0");
        peak
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.dir);
    }
}

/// Copies a file and has the system forget its pages, so that who reads it next is charged for them.
fn cold_copy(from: &Path, to: &Path) {
    fs::copy(from, to).unwrap();
    let of = format!("of={}", to.display());
    let forgotten = Command::new("dd").args([&of, "oflag=nocache", "conv=notrunc,fdatasync", "count=0"]).output();
    assert!(forgotten.unwrap().status.success());
}

#[test]
fn a_picture_is_drawn_in_48_mib_page_cache_included() {
    let cgroup = match Cgroup::new() {
        Ok(cgroup) => cgroup,
        Err(why) => return println!("NOT CHECKED: no memory cgroup ({why})"),
    };
    let dir = TempDir::new();
    let model = dir.path().join("model");
    fs::create_dir(&model).unwrap();
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/avatars64");
    let (shipped_binary, binary) = (Path::new(env!("CARGO_BIN_EXE_rissole")), dir.path().join("rissole"));
    // Pages of a file stay with the one who read them first: every run has fresh files.
    let draw = |limit: u64, out: &str| {
        cold_copy(shipped_binary, &binary);
        for file in fs::read_dir(&shipped).unwrap() {
            let file = file.unwrap();
            cold_copy(&file.path(), &model.join(file.file_name()));
        }
        let (model, out) = (model.to_str().unwrap(), dir.path().join(out));
        let out = out.to_str().unwrap();
        let line = ["sample", "--model", model, "--seed", "7", "--steps", "4", "--threads", "1", "--out", out];
        let ran = cgroup.run(limit, &binary, &line);
        ran.status.success().then(|| fs::read(out).unwrap()).ok_or(ran)
    };
    let free = draw(1 << 40, "free.png").unwrap();
    let without_limit = cgroup.peak();
    assert_eq!(draw(48 * MIB, "limited.png").unwrap(), free);

    // With less and less the system reads pages again and again, long before it kills: that is no use either.
    let works = |mib: &u64| draw(mib * MIB, "less.png").is_ok_and(|picture| picture == free);
    let least = [32, 24, 20, 16, 14, 12].into_iter().take_while(works).last().unwrap_or(48);
    let peak = without_limit.map_or("not known".into(), |peak| format!("{:.1} MiB", peak as f64 / MIB as f64));
    println!("smallest memory cgroup that works: {least} MiB; without a limit it uses {peak}");
}
