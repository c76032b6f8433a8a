//! A bundle of empty networks, written, replaced and refused.

use std::collections::BTreeMap;

use rissole::LatentShape;
use rissole::bundle::manifest::{
    Coherence, Diffusion, FORMAT, Grid, ImageSize, LatentSpace, NeighbourSource, NetworkEntry, Networks, Prediction,
    Retrieval, SamplerKind, ScheduleKind, TensorEntry,
};
use tract_onnx::pb::GraphProto;

use super::super::proto;
use super::*;

/// A folder for one test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("rissole-bundle-{name}-{}", std::process::id()));
        remove(&path).unwrap();
        fs::create_dir(&path).unwrap();
        for (file, content) in [("db", "blocks"), ("index", "graph")] {
            fs::write(path.join(file), content).unwrap();
        }
        Self(path)
    }

    /// Names in the folder, sorted.
    fn names(&self, below: &str) -> Vec<String> {
        let entries = fs::read_dir(self.0.join(below)).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        remove(&self.0).unwrap();
    }
}

fn manifest() -> Manifest {
    let nothing = || NetworkEntry { file: String::new(), inputs: vec![], outputs: vec![] };
    let mut manifest = Manifest {
        format: FORMAT,
        name: "test".into(),
        licence: "CC0-1.0".into(),
        image: ImageSize { width: 16, height: 16 },
        latent: LatentSpace {
            shape: LatentShape { channels: 2, height: 8, width: 8 },
            downsampling: 2,
            scale: 1.0,
            codebook_size: 4,
            thumbnail_codebook_size: 0,
            snap_to_codebook: false,
        },
        grid: Grid { rows: 2, cols: 2, levels_between: 0 },
        retrieval: Retrieval {
            neighbours: 3,
            query_position: 0,
            exclude_self: true,
            guidance: None,
            source: NeighbourSource::Database,
        },
        coherence: Coherence { thumbnail: false, margin: 0, position_embedding: false, previous_block: false },
        diffusion: Diffusion {
            timesteps: 1000,
            schedule: ScheduleKind::Linear,
            prediction: Prediction::V,
            sampler: SamplerKind::Ddim,
            steps: 20,
        },
        networks: Networks { conditioner: nothing(), denoiser: nothing(), decoder: nothing(), encoder: None },
        database: "blocks.rsdb".into(),
        index: "blocks.rshn".into(),
        files: vec![],
        provenance: BTreeMap::new(),
        quality: BTreeMap::new(),
    };
    let s = manifest.signatures(5).unwrap();
    let entry = |file: &str, (inputs, outputs)| NetworkEntry { file: file.into(), inputs, outputs };
    manifest.networks.conditioner = entry("conditioner.onnx", s.conditioner);
    manifest.networks.denoiser = entry("denoiser.onnx", s.denoiser);
    manifest.networks.decoder = entry("decoder.onnx", s.decoder);
    manifest
}

/// A file that takes and gives what `entry` says, by an operator that nobody has.
fn network(entry: &NetworkEntry) -> (String, Vec<u8>) {
    let infos = |list: &[TensorEntry]| list.iter().map(|t| proto::value_info(&t.name, &t.shape)).collect();
    let names: Vec<&str> = entry.inputs.iter().map(|input| input.name.as_str()).collect();
    let node = proto::node("Mystery", &names, &[&entry.outputs[0].name], vec![]);
    let (input, output) = (infos(&entry.inputs), infos(&entry.outputs));
    let graph = GraphProto { node: vec![node], input, output, ..GraphProto::default() };
    (entry.file.clone(), proto::model(graph).encode_to_vec())
}

/// Writes a bundle from the files in `folder`, changed by `change`.
fn write(folder: &Folder, change: impl FnOnce(&mut BundleParts)) -> Result<Manifest> {
    let manifest = manifest();
    let n = &manifest.networks;
    let networks = [&n.conditioner, &n.denoiser, &n.decoder].map(network).to_vec();
    let (database, index) = (folder.0.join("db"), folder.0.join("index"));
    let card = "# Test".to_owned();
    let mut parts = BundleParts { manifest, networks, database: &database, index: &index, card, pictures: vec![] };
    change(&mut parts);
    write_bundle(&folder.0.join("out"), parts)
}

#[test]
fn what_is_written_is_all_there_and_listed() {
    let folder = Folder::new("all");
    let manifest = write(&folder, |_| ()).unwrap();
    let listed = ["blocks.rsdb", "blocks.rshn", "conditioner.onnx", "decoder.onnx", "denoiser.onnx"];
    let mut names: Vec<_> = manifest.files.iter().map(|f| f.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, listed);
    let found = folder.names("out");
    assert_eq!(found.len(), listed.len() + 2);
    assert!(listed.iter().chain(&[MANIFEST, CARD]).all(|name| found.iter().any(|f| f == name)), "{found:?}");
    assert_eq!(folder.names(""), ["db", "index", "out"]);
    let database = manifest.files.iter().find(|f| f.name == "blocks.rsdb").unwrap();
    assert_eq!((database.bytes, &database.blake3), (6, &blake3::hash(b"blocks").to_hex().to_string()));
    assert_eq!(Bundle::open(folder.0.join("out")).unwrap().manifest, manifest);
}

#[test]
fn a_bundle_takes_the_place_of_the_one_before() {
    let folder = Folder::new("replace");
    write(&folder, |_| ()).unwrap();
    // What a run that was cut off may have left.
    fs::create_dir(folder.0.join(".out.tmp")).unwrap();
    fs::write(folder.0.join(".out.tmp/half"), "x").unwrap();
    fs::create_dir(folder.0.join(".out.old")).unwrap();
    let manifest = write(&folder, |parts| {
        parts.card = "# Second".into();
        parts.manifest.licence = "MIT".into();
    });
    assert_eq!(manifest.unwrap().licence, "MIT");
    assert_eq!(folder.names(""), ["db", "index", "out"]);
    assert_eq!(fs::read_to_string(folder.0.join("out").join(CARD)).unwrap(), "# Second");
}

#[test]
fn a_bundle_that_cannot_be_written_leaves_the_old_one() {
    let folder = Folder::new("refuse");
    write(&folder, |_| ()).unwrap();
    let before = fs::read(folder.0.join("out/manifest.json")).unwrap();
    let refuse = |what: &str, code: u8, change: fn(&mut BundleParts)| {
        let error = write(&folder, change).expect_err(what);
        assert_eq!(error.exit_code(), code, "{what}: {error}");
        assert_eq!(fs::read(folder.0.join("out/manifest.json")).unwrap(), before, "{what}");
        assert_eq!(folder.names(""), ["db", "index", "out"], "{what}");
    };
    refuse("no database", 5, |p| p.database = Path::new("/nowhere/db"));
    refuse("a path for a name", 2, |p| p.manifest.index = "../blocks.rshn".into());
    refuse("the manifest's name", 2, |p| p.manifest.index = MANIFEST.into());
    refuse("a picture in the place of a file", 5, |p| p.pictures.push(("denoiser.onnx".into(), vec![])));
    refuse("one name twice", 2, |p| p.manifest.index = "denoiser.onnx".into());
    refuse("a network without a role", 2, |p| p.networks.push(("more.onnx".into(), vec![])));
    refuse("a network left out", 2, |p| drop(p.networks.pop()));
    refuse("no ONNX file", 2, |p| p.networks[0].1 = vec![0xff; 9]);
    refuse("the wrong network", 2, |p| p.networks[0].1 = p.networks[1].1.clone());
    refuse("a bad manifest", 2, |p| p.manifest.latent.scale = f32::NAN);
}

#[test]
fn a_folder_that_is_no_bundle_is_left_alone() {
    let folder = Folder::new("foreign");
    fs::create_dir(folder.0.join("out")).unwrap();
    fs::write(folder.0.join("out/thesis.tex"), "years of work").unwrap();
    assert_eq!(write(&folder, |_| ()).unwrap_err().exit_code(), 2);
    assert_eq!(folder.names("out"), ["thesis.tex"]);
    fs::remove_file(folder.0.join("out/thesis.tex")).unwrap();
    write(&folder, |_| ()).unwrap();
}

#[test]
fn a_bundle_is_described_and_stays_what_it_was() {
    let folder = Folder::new("describe");
    let before = write(&folder, |_| ()).unwrap();
    let (dir, quality) = (folder.0.join("out"), BTreeMap::from([("Samples".to_owned(), Value::from(1.25))]));
    let grid = [("grid.png".to_owned(), vec![1, 2, 3])];
    describe_bundle(&dir, quality.clone(), "# Measured", &grid).unwrap();
    let bundle = Bundle::open(&dir).unwrap();
    bundle.verify().unwrap();
    assert_eq!(bundle.manifest, Manifest { quality, ..before });
    assert_eq!(fs::read(dir.join("grid.png")).unwrap(), [1, 2, 3]);
    assert_eq!(fs::read_to_string(dir.join(CARD)).unwrap(), "# Measured");
    for name in ["denoiser.onnx", MANIFEST] {
        let error = describe_bundle(&dir, BTreeMap::new(), "", &[(name.to_owned(), vec![])]).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{error}");
    }
    assert_eq!(Bundle::open(&dir).unwrap().manifest, bundle.manifest);
}
