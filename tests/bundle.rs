//! Opening bundles, whole and damaged.

mod common;

use std::fs;
use std::path::Path;

use common::{TempDir, bundle, manifest};
use rissole::bundle::manifest::{Coherence, NeighbourSource};
use rissole::{Bundle, Error, Manifest};

fn tiny() -> Manifest {
    let coherence = Coherence { thumbnail: false, margin: 0, position_embedding: false, previous_block: false };
    manifest(coherence, NeighbourSource::Database)
}

/// The error of opening `dir`, which must name `file` and say `fault`.
fn refused(dir: &Path, file: &str, fault: &str) {
    let error = Bundle::open(dir).unwrap_err();
    let text = error.to_string();
    assert!(matches!(&error, Error::File { path, .. } if *path == dir.join(file)), "{text}");
    assert!(text.contains(fault), "{text}");
}

fn edit(dir: &Path, change: impl FnOnce(&mut serde_json::Value)) {
    let path = dir.join(Bundle::MANIFEST);
    let mut json = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut json);
    fs::write(path, serde_json::to_vec(&json).unwrap()).unwrap();
}

#[test]
fn a_whole_bundle_opens_and_verifies() {
    let dir = TempDir::new();
    let bundle = bundle(dir.path(), tiny());
    assert_eq!(bundle.manifest.files.len(), 6);
    assert_eq!(bundle.path_of("decoder.onnx"), dir.path().join("decoder.onnx"));
    bundle.verify().unwrap();
}

#[test]
fn a_changed_byte_is_found_by_verify_alone() {
    let dir = TempDir::new();
    bundle(dir.path(), tiny());
    let path = dir.path().join("decoder.onnx");
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).unwrap();
    let error = Bundle::open(dir.path()).unwrap().verify().unwrap_err();
    assert!(error.to_string().contains("decoder.onnx") && error.exit_code() == 3, "{error}");
}

#[test]
fn missing_and_truncated_files_are_named() {
    let dir = TempDir::new();
    refused(dir.path(), "manifest.json", "missing");
    bundle(dir.path(), tiny());
    let path = dir.path().join("blocks.rsdb");
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(10).unwrap();
    refused(dir.path(), "blocks.rsdb", "is 10 bytes long");
    fs::remove_file(&path).unwrap();
    refused(dir.path(), "blocks.rsdb", "missing");
    fs::create_dir(&path).unwrap();
    refused(dir.path(), "blocks.rsdb", "not a regular file");
}

#[test]
fn a_manifest_that_is_not_understood_is_refused() {
    let dir = TempDir::new();
    bundle(dir.path(), tiny());
    let path = dir.path().join(Bundle::MANIFEST);
    let whole = fs::read(&path).unwrap();
    type Change = fn(&mut serde_json::Value);
    let changes: [(&str, Change); 10] = [
        ("format 2", |m| m["format"] = 2.into()),
        ("unknown field", |m| m["surprise"] = 1.into()),
        ("missing field", |m| drop(m.as_object_mut().unwrap().remove("grid"))),
        ("downsampling", |m| {
            m["latent"]["downsampling"] = 0.into();
            m["image"]["width"] = 0.into();
            m["image"]["height"] = 0.into();
        }),
        ("does not divide", |m| m["grid"]["rows"] = 3.into()),
        ("guidance must be", |m| m["retrieval"]["guidance"] = (-1).into()),
        ("guidance needs", |m| {
            m["retrieval"]["guidance"] = 2.into();
            m["retrieval"]["source"] = "noise".into();
        }),
        ("plain file name", |m| m["files"][0]["name"] = "../conditioner.onnx".into()),
        ("listed twice", |m| m["files"][0]["name"] = m["files"][1]["name"].clone()),
        ("do not match", |m| m["networks"]["decoder"]["inputs"][0]["shape"][1] = 4.into()),
    ];
    for (fault, change) in changes {
        fs::write(&path, &whole).unwrap();
        edit(dir.path(), change);
        refused(dir.path(), "manifest.json", fault);
    }
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    refused(dir.path(), "manifest.json", "EOF");
    fs::write(&path, [0xff; 64]).unwrap();
    refused(dir.path(), "manifest.json", "");
    fs::write(&path, vec![b' '; Manifest::MAX_BYTES as usize + 1]).unwrap();
    refused(dir.path(), "manifest.json", "longer than");
}

#[cfg(unix)]
#[test]
fn a_link_that_leaves_the_bundle_is_refused() {
    let (dir, outside) = (TempDir::new(), TempDir::new());
    bundle(dir.path(), tiny());
    let path = dir.path().join("decoder.onnx");
    fs::rename(&path, outside.path().join("decoder.onnx")).unwrap();
    std::os::unix::fs::symlink(outside.path().join("decoder.onnx"), &path).unwrap();
    refused(dir.path(), "decoder.onnx", "link");
}
