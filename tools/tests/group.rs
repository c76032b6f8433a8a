//! Two processes that train one network, beside one that trains it alone.

#[path = "../../tests/common/mod.rs"]
mod common;
mod workshop;

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use common::TempDir;
use rissole::Bundle;
use rissole_train::train::checkpoint::Checkpoint;
use workshop::workshop;

/// A process of `size` that runs the recipe in `dir`.
fn start(dir: &Path, rank: usize, size: usize, port: u16) -> Child {
    Command::new(env!("CARGO_BIN_EXE_rissole-train"))
        .args(["--device", "cpu", "--threads", "1", "run", "tiny.toml", "--runs", "runs", "--bundle", "bundle"])
        .current_dir(dir)
        .env("RANK", rank.to_string())
        .env("WORLD_SIZE", size.to_string())
        .env("MASTER_ADDR", "127.0.0.1")
        .env("MASTER_PORT", port.to_string())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn run_together(dir: &Path, size: usize) {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let processes: Vec<Child> = (0..size).map(|rank| start(dir, rank, size, port)).collect();
    for process in processes {
        let done = process.wait_with_output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
}

/// The workshop, its margin carried through the U-Net: exported and verified, too.
fn through_unet() -> TempDir {
    let dir = workshop();
    let path = dir.path().join("tiny.toml");
    let recipe = std::fs::read_to_string(&path).unwrap();
    let (before, after) = recipe.split_once("margin = 1\n").unwrap();
    std::fs::write(path, format!("{before}margin = 1\nmargin_through_unet = true\n{after}")).unwrap();
    dir
}

fn weights(dir: &Path, stage: &str) -> BTreeMap<String, Vec<f32>> {
    let checkpoint = Checkpoint::load(&dir.join(format!("runs/tiny/{stage}.ckpt"))).unwrap().unwrap();
    checkpoint.tensors.into_iter().filter(|(name, _)| name.ends_with("value")).collect()
}

#[test]
fn two_processes_train_what_one_trains() {
    agree(workshop(), workshop());
}

#[test]
fn two_processes_train_what_one_trains_with_the_margin_through_the_unet() {
    let card = agree(through_unet(), through_unet());
    assert!(card.contains("4×4, a thumbnail drawn first, then 2×2, each sees 1 cell around it, throughout"), "{card}");
}

/// Trains in both folders, by one process and by two, and compares the weights; the card of the second.
fn agree(alone: TempDir, together: TempDir) -> String {
    run_together(alone.path(), 1);
    run_together(together.path(), 2);
    Bundle::open(together.path().join("bundle")).unwrap().verify().unwrap();
    for stage in ["vqgan", "denoiser", "consistency", "decoder"] {
        let (one, two) = (weights(alone.path(), stage), weights(together.path(), stage));
        assert!(one.len() > 10 && one.keys().eq(two.keys()), "{:?}", one.keys());
        let pairs = || one.values().flatten().zip(two.values().flatten());
        let apart = pairs().map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt();
        let norm = one.values().flatten().map(|&a| f64::from(a).powi(2)).sum::<f64>().sqrt();
        println!("{stage}: apart by {:.1e} of the weights' norm", apart / norm);
        // Another order of summation, and nothing else.
        assert!(apart > 0.0 && apart < 1e-4 * norm, "{stage}: {apart} of {norm}");
    }
    std::fs::read_to_string(together.path().join("bundle/README.md")).unwrap()
}

#[test]
fn a_batch_that_cannot_be_shared_is_refused_before_anything_is_done() {
    let dir = workshop();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let processes: Vec<Child> = (0..3).map(|rank| start(dir.path(), rank, 3, port)).collect();
    for process in processes {
        let done = process.wait_with_output().unwrap();
        let words = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.code() == Some(2) && words.contains("[vqgan]: a batch of 2"), "{words}");
    }
    assert!(!dir.path().join("runs/tiny/dataset.bin").exists());
}
