//! Bundles made to do harm: every checksum and hash is right, the content is not. Each is refused with an error that
//! names the file and the fault.

mod common;
#[path = "common/container.rs"]
mod container;
#[path = "common/desk.rs"]
mod desk;

use std::fs;
use std::path::Path;

use common::counting::{Counting, growth};
use common::{TempDir, onnx};
use container::{edit, edit_header, edit_section, put};
use desk::INDEPENDENT;
use rissole::bundle::manifest::NeighbourSource;
use rissole::container::SectionId;
use rissole::index::{FrozenIndex, IndexSettings, build_index};
use rissole::store::BlockDatabase;
use rissole::{Bundle, Error, Generator, Options, Query, Result};
use tract_onnx::pb::tensor_proto::{DataLocation, DataType};

#[global_allocator]
static COUNTING: Counting = Counting;

const DATABASE: &str = "blocks.rsdb";
const INDEX: &str = "blocks.rshn";
const DECODER: &str = "decoder.onnx";

/// More than the heap of the sound bundle at work, and than that of any attack before it is refused.
const BOUND: usize = 8 << 20;

/// What was done to the bundle in a folder, the file at fault, words of the fault.
type Attack = (&'static str, fn(&Path), &'static str, &'static str);

/// A tiny bundle whose index has a graph, in a folder of its own.
fn bundle() -> TempDir {
    let dir = TempDir::new();
    let bundle = common::bundle(dir.path(), common::manifest(INDEPENDENT, NeighbourSource::Database));
    let database = BlockDatabase::open(dir.path().join(DATABASE)).unwrap();
    let settings = IndexSettings { most_visited: 1.0, exact_up_to: 0, ..IndexSettings::default() };
    build_index(&database, 0, settings, dir.path().join(INDEX)).unwrap();
    common::list_files(dir.path(), bundle.manifest);
    dir
}

/// All that is done with a bundle.
fn use_bundle(dir: &Path) -> Result<()> {
    let bundle = Bundle::open(dir)?;
    bundle.verify()?;
    let mut generator = Generator::open(&bundle, &Options { steps: Some(1), ..Options::default() })?;
    generator.generate(7, &Query::Random, &mut |_| Ok(()))?;
    generator.database().verify()?;
    generator.index().verify()
}

/// Puts what `dir` holds into its manifest: sizes and hashes are then right.
fn list(dir: &Path) {
    let path = dir.join(Bundle::MANIFEST);
    let mut json: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for entry in json["files"].as_array_mut().unwrap() {
        let file = dir.join(entry["name"].as_str().unwrap());
        if file.is_file() {
            let content = fs::read(file).unwrap();
            entry["bytes"] = content.len().into();
            entry["blake3"] = blake3::hash(&content).to_string().into();
        }
    }
    fs::write(path, serde_json::to_vec(&json).unwrap()).unwrap();
}

fn refused(attacks: &[Attack]) {
    for (what, attack, file, words) in attacks {
        let dir = bundle();
        use_bundle(dir.path()).unwrap();
        let manifest = fs::read(dir.path().join(Bundle::MANIFEST)).unwrap();
        attack(dir.path());
        if fs::read(dir.path().join(Bundle::MANIFEST)).unwrap() == manifest {
            list(dir.path());
        }
        let (done, grown) = growth(|| use_bundle(dir.path()));
        let error = done.expect_err(what);
        assert!(matches!(&error, Error::File { path, .. } if *path == dir.path().join(file)), "{what}: {error:?}");
        assert!(error.to_string().contains(words), "{what}: {error}");
        assert!(grown <= BOUND, "{what}: {grown} bytes");
    }
}

fn database(dir: &Path, at: usize, values: &[u32]) {
    put(&dir.join(DATABASE), b"head", 0, at, values);
}

fn index(dir: &Path, at: usize, values: &[u32]) {
    put(&dir.join(INDEX), b"head", 0, at, values);
}

/// Overwrites bytes of the database's header pages.
fn header(dir: &Path, at: usize, value: &[u8]) {
    edit_header(&dir.join(DATABASE), |bytes| bytes[at..at + value.len()].copy_from_slice(value));
}

#[test]
fn tables_that_lie() {
    refused(&[
        ("overlapping sections", |d| header(d, 64 + 32 + 8, &4096u64.to_le_bytes()), DATABASE, "out of place"),
        ("a section that ends beyond 2⁶⁴", |d| header(d, 64 + 16, &[255; 8]), DATABASE, "out of place"),
        (
            "a section twice",
            |d| {
                edit_header(&d.join(DATABASE), |bytes| bytes.copy_within(64..72, 96));
            },
            DATABASE,
            "out of place",
        ),
        ("two thousand million sections", |d| header(d, 24, &(1u32 << 31).to_le_bytes()), DATABASE, "cannot hold"),
        ("as many sections as the file is long", |d| header(d, 24, &u32::MAX.to_le_bytes()), DATABASE, "cannot hold"),
        ("another length", |d| header(d, 16, &(1u64 << 40).to_le_bytes()), DATABASE, "its header says"),
        ("another version", |d| header(d, 8, &[9, 0]), DATABASE, "version 9"),
        (
            "an index in the place of the database",
            |d| assert!(fs::copy(d.join(INDEX), d.join(DATABASE)).is_ok()),
            DATABASE,
            "is of kind",
        ),
        (
            "a section that nobody asked for",
            |d| edit(&d.join(DATABASE), |s| s.push((SectionId(*b"zzzz", 0), vec![1]))),
            DATABASE,
            "do not belong",
        ),
        ("no head", |d| edit(&d.join(DATABASE), |s| s.retain(|(id, _)| id.0 != *b"head")), DATABASE, "is missing"),
    ]);
}

#[test]
fn databases_that_lie() {
    refused(&[
        ("four thousand million pictures", |d| database(d, 0, &[u32::MAX]), DATABASE, "wrong length"),
        ("no picture", |d| database(d, 0, &[0]), DATABASE, "no pictures"),
        ("latents beyond memory", |d| database(d, 1, &[u32::MAX; 3]), DATABASE, "out of bounds"),
        ("a grid of no blocks", |d| database(d, 4, &[0, 0]), DATABASE, "does not divide"),
        ("a codebook beyond the file", |d| database(d, 6, &[1 << 16]), DATABASE, "wrong length"),
        ("a codebook beyond a code", |d| database(d, 6, &[1 << 20]), DATABASE, "entries"),
        (
            "a codebook of NaN",
            |d| put(&d.join(DATABASE), b"book", 0, 1, &[f32::NAN.to_bits()]),
            DATABASE,
            "not a number",
        ),
        (
            "a code beyond the codebook",
            |d| edit_section(&d.join(DATABASE), b"code", 0, |codes| codes.fill(200)),
            DATABASE,
            "codebook does not have",
        ),
        (
            "codes of other pictures",
            |d| edit_section(&d.join(DATABASE), b"code", 3, |codes| codes.rotate_left(32)),
            DATABASE,
            "content hash",
        ),
        (
            "latents of another shape",
            |d| {
                database(d, 2, &[15, 8]);
                database(d, 4, &[3, 2]);
            },
            DATABASE,
            "not those of the manifest",
        ),
    ]);
}

#[test]
fn graphs_that_lie() {
    refused(&[
        (
            "a circle that all links lead to",
            |d| {
                edit_section(&d.join(INDEX), b"link", 0, |links| links.fill(0));
            },
            INDEX,
            "lead to all",
        ),
        (
            "neighbours that are not there",
            |d| {
                edit_section(&d.join(INDEX), b"link", 0, |links| links.fill(0x7f));
            },
            INDEX,
            "links of node",
        ),
        (
            "links beyond the file",
            |d| {
                edit_section(&d.join(INDEX), b"offs", 0, |offsets| offsets[4..].fill(255));
            },
            INDEX,
            "links of node",
        ),
        (
            "pictures that are not there",
            |d| {
                edit_section(&d.join(INDEX), b"memb", 0, |members| members.fill(12));
            },
            INDEX,
            "pictures of node",
        ),
        ("a picture in two nodes", |d| put(&d.join(INDEX), b"memb", 0, 1, &[0]), INDEX, "in order"),
        ("an entry that is not there", |d| index(d, 5, &[12]), INDEX, "contradict"),
        ("more nodes than pictures", |d| index(d, 3, &[u32::MAX]), INDEX, "contradict"),
        ("more levels than there can be", |d| index(d, 4, &[17]), INDEX, "contradict"),
        ("a search of everything", |d| index(d, 8, &[u32::MAX]), INDEX, "contradict"),
        ("a recall beyond all", |d| index(d, 10, &[f32::INFINITY.to_bits()]), INDEX, "no share"),
        ("a mode of its own", |d| index(d, 2, &[7]), INDEX, "mode"),
        ("a position that is not there", |d| index(d, 1, &[6]), INDEX, "which the database lacks"),
        ("another position", |d| index(d, 1, &[1]), INDEX, "the manifest queries 0"),
        ("the index of another database", |d| index(d, 16, &[0; 8]), INDEX, "belongs to another block database"),
    ]);
}

#[test]
fn networks_that_lie() {
    refused(&[
        ("no network", |d| fs::write(d.join(DECODER), [0xff; 4096]).unwrap(), DECODER, ""),
        (
            "another network's shapes",
            |d| {
                fs::copy(d.join("conditioner.onnx"), d.join(DECODER)).unwrap();
            },
            DECODER,
            "should be",
        ),
        (
            "weights in a file outside the bundle",
            |d| {
                decoder(d, |graph| {
                    let weight = &mut graph.proto.initializer[0];
                    weight.raw_data.clear();
                    weight.data_location = Some(DataLocation::External as i32);
                    weight.external_data.push(tract_onnx::pb::StringStringEntryProto {
                        key: "location".into(),
                        value: "../../../../etc/passwd".into(),
                    });
                })
            },
            DECODER,
            "kept in another file",
        ),
        (
            "a weight larger than memory",
            |d| {
                decoder(d, |graph| {
                    graph.proto.initializer[0].dims = vec![1 << 40, 1 << 20];
                })
            },
            DECODER,
            "",
        ),
        ("a weight of negative size", |d| decoder(d, |graph| graph.proto.initializer[0].dims[0] = -1), DECODER, ""),
        (
            "a weight of NaN",
            |d| {
                decoder(d, |graph| {
                    graph.initializer(&[1], DataType::Float, f32::NAN.to_le_bytes().to_vec());
                })
            },
            DECODER,
            "NaN",
        ),
        (
            "a graph that eats its own output",
            |d| {
                decoder(d, |graph| {
                    let last = graph.proto.node.last().unwrap().output[0].clone();
                    graph.proto.node[0].input[0] = last;
                })
            },
            DECODER,
            "",
        ),
    ]);
}

/// Writes the decoder with a change.
fn decoder(dir: &Path, change: impl FnOnce(&mut onnx::Graph)) {
    let manifest = Bundle::open_manifest(dir).unwrap().manifest;
    let mut graph = onnx::decoder(&manifest.networks.decoder, manifest.latent.downsampling);
    change(&mut graph);
    fs::write(dir.join(DECODER), graph.bytes()).unwrap();
}

/// Changes the manifest as text.
fn manifest(dir: &Path, from: &str, to: &str) {
    let path = dir.join(Bundle::MANIFEST);
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{from}");
    fs::write(path, text.replace(from, to)).unwrap();
}

#[test]
fn manifests_that_lie() {
    const NAME: &str = Bundle::MANIFEST;
    refused(&[
        (
            "a path out of the bundle",
            |d| manifest(d, "\"decoder.onnx\"", "\"../decoder.onnx\""),
            NAME,
            "plain file name",
        ),
        ("an absolute path", |d| manifest(d, "\"blocks.rsdb\"", "\"/etc/passwd\""), NAME, "plain file name"),
        ("a folder's parent", |d| manifest(d, "\"blocks.rsdb\"", "\"..\""), NAME, "plain file name"),
        ("a drive", |d| manifest(d, "\"blocks.rsdb\"", "\"C:blocks.rsdb\""), NAME, "plain file name"),
        ("a NUL", |d| manifest(d, "\"blocks.rsdb\"", "\"blocks\\u0000.rsdb\""), NAME, "plain file name"),
        ("neighbours beyond memory", |d| manifest(d, "\"neighbours\":4", "\"neighbours\":4000000000"), NAME, "within"),
        (
            "latents beyond memory",
            |d| manifest(d, "\"channels\":3", "\"channels\":18446744073709551615"),
            NAME,
            "bounds",
        ),
        ("a field twice", |d| manifest(d, "\"format\":1", "\"format\":1,\"format\":1"), NAME, "duplicate"),
        ("a scale of nothing", |d| manifest(d, "\"scale\":1.25", "\"scale\":0"), NAME, "positive"),
        ("steps without end", |d| manifest(d, "\"steps\":6", "\"steps\":1000000"), NAME, "steps"),
    ]);
    let dir = bundle();
    fs::write(dir.path().join(NAME), "[".repeat(Bundle::MANIFEST.len() * 50_000)).unwrap();
    let error = Bundle::open(dir.path()).unwrap_err();
    assert!(matches!(&error, Error::File { path, .. } if path.ends_with(NAME)), "{error}");
}

#[cfg(unix)]
#[test]
fn files_that_are_none() {
    use std::os::unix::fs::symlink;

    refused(&[
        (
            "a link out of the bundle",
            |d| {
                fs::remove_file(d.join(DATABASE)).unwrap();
                symlink("/etc/passwd", d.join(DATABASE)).unwrap();
            },
            DATABASE,
            "link that leaves",
        ),
        (
            "a link into the folder beside it",
            |d| {
                fs::remove_file(d.join(DATABASE)).unwrap();
                symlink("../../etc/passwd", d.join(DATABASE)).unwrap();
            },
            DATABASE,
            "",
        ),
        (
            "a link to nothing",
            |d| {
                fs::remove_file(d.join(DATABASE)).unwrap();
                symlink("nothing", d.join(DATABASE)).unwrap();
            },
            DATABASE,
            "is missing",
        ),
        (
            "a folder",
            |d| {
                fs::remove_file(d.join(DATABASE)).unwrap();
                fs::create_dir(d.join(DATABASE)).unwrap();
            },
            DATABASE,
            "not a regular file",
        ),
        (
            "a device",
            |d| {
                fs::remove_file(d.join(DATABASE)).unwrap();
                symlink("/dev/zero", d.join(DATABASE)).unwrap();
            },
            DATABASE,
            "link that leaves",
        ),
    ]);
    // A pipe would be waited for without end.
    let dir = bundle();
    let pipe = dir.path().join(DATABASE);
    fs::remove_file(&pipe).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let error = Bundle::open(dir.path()).unwrap_err();
    assert!(error.to_string().contains("not a regular file"), "{error}");
    // Opened by itself, past the manifest.
    assert!(BlockDatabase::open(dir.path().join("nothing")).is_err());
    let other = bundle();
    let database = BlockDatabase::open(other.path().join(DATABASE)).unwrap();
    assert!(FrozenIndex::open(other.path(), &database).is_err(), "a folder");
}
