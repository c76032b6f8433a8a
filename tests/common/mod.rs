//! Tiny bundles with random weights, for tests of the whole walk, the trainer's too. `desk.rs` and `container.rs` in
//! this folder are for the runtime's tests alone, which declare them where they need them.
#![allow(dead_code)]

pub mod counting;
pub mod graphs;
pub mod onnx;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use rissole::bundle::manifest::{
    Coherence, Diffusion, FORMAT, FileEntry, Grid, ImageSize, LatentSpace, NeighbourSource, NetworkEntry, Networks,
    Prediction, Retrieval, SamplerKind, ScheduleKind,
};
use rissole::index::{IndexSettings, build_index};
use rissole::store::{BlockDatabase, DatabaseContents};
use rissole::{BlockGrid, Bundle, LatentShape, Manifest};

/// A folder that goes when it is dropped.
pub struct TempDir(PathBuf);

impl TempDir {
    pub fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("rissole-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(name);
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// splitmix64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in −1…1.
    pub fn symmetric(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

pub const IMAGES: usize = 12;
pub const CHANNELS: usize = 3;
const CODES: usize = 16;
const WIDTH: usize = 8;

/// The same without codebooks: latents are not quantized.
pub fn unquantized(mut manifest: Manifest) -> Manifest {
    let latent = &mut manifest.latent;
    (latent.codebook_size, latent.thumbnail_codebook_size, latent.snap_to_codebook) = (0, 0, false);
    manifest
}

/// A consistent manifest for a 3×8×15 latent of 2×3 blocks of 4×5 cells, without its files.
pub fn manifest(coherence: Coherence, source: NeighbourSource) -> Manifest {
    manifest_of(coherence, source, [8, 15])
}

/// The same for latents of other sides, which 2×3 blocks divide.
pub fn manifest_of(coherence: Coherence, source: NeighbourSource, sides: [usize; 2]) -> Manifest {
    manifest_on(Grid { rows: 2, cols: 3, levels_between: 0 }, coherence, source, sides)
}

/// One for 4×6 blocks of 4×5 cells, which see each other, below a level of 2×3 blocks and a thumbnail.
pub fn pyramid() -> Manifest {
    pyramid_of(Coherence { thumbnail: true, margin: 1, position_embedding: true, previous_block: false })
}

/// The same in other modes with a thumbnail.
pub fn pyramid_of(coherence: Coherence) -> Manifest {
    manifest_on(Grid { rows: 4, cols: 6, levels_between: 1 }, coherence, NeighbourSource::Database, [16, 30])
}

fn manifest_on(grid: Grid, coherence: Coherence, source: NeighbourSource, [height, width]: [usize; 2]) -> Manifest {
    let entry = |file: &str| NetworkEntry { file: file.into(), inputs: vec![], outputs: vec![] };
    let mut manifest = Manifest {
        format: FORMAT,
        name: "tiny".into(),
        licence: "CC0-1.0".into(),
        image: ImageSize { width: 2 * width, height: 2 * height },
        latent: LatentSpace {
            shape: LatentShape { channels: CHANNELS, height, width },
            downsampling: 2,
            scale: 1.25,
            codebook_size: CODES,
            thumbnail_codebook_size: if coherence.thumbnail { CODES } else { 0 },
            snap_to_codebook: true,
        },
        grid,
        retrieval: Retrieval { neighbours: 4, query_position: 0, exclude_self: true, source, guidance: None },
        coherence,
        diffusion: Diffusion {
            timesteps: 1000,
            schedule: ScheduleKind::Linear,
            prediction: Prediction::V,
            sampler: SamplerKind::DpmSolverPp2m,
            steps: 6,
        },
        networks: Networks {
            conditioner: entry("conditioner.onnx"),
            denoiser: entry("denoiser.onnx"),
            decoder: entry("decoder.onnx"),
            encoder: Some(entry("encoder.onnx")),
        },
        database: "blocks.rsdb".into(),
        index: "blocks.rshn".into(),
        files: vec![],
        provenance: BTreeMap::new(),
        quality: BTreeMap::new(),
    };
    let signatures = manifest.signatures(WIDTH).unwrap();
    let n = &mut manifest.networks;
    (n.conditioner.inputs, n.conditioner.outputs) = signatures.conditioner;
    (n.denoiser.inputs, n.denoiser.outputs) = signatures.denoiser;
    (n.decoder.inputs, n.decoder.outputs) = signatures.decoder;
    let encoder = n.encoder.as_mut().unwrap();
    (encoder.inputs, encoder.outputs) = signatures.encoder;
    manifest
}

/// Writes a whole bundle for `manifest` into `dir` and opens it.
pub fn bundle(dir: &Path, manifest: Manifest) -> Bundle {
    let networks = &manifest.networks;
    let downsampling = manifest.latent.downsampling;
    let graphs = [
        (&networks.conditioner, onnx::conditioner(&networks.conditioner)),
        (&networks.denoiser, onnx::denoiser(&networks.denoiser, manifest.coherence.margin)),
        (&networks.decoder, onnx::decoder(&networks.decoder, downsampling)),
        (networks.encoder.as_ref().unwrap(), onnx::encoder(networks.encoder.as_ref().unwrap(), downsampling)),
    ];
    for (entry, graph) in graphs {
        fs::write(dir.join(&entry.file), graph.bytes()).unwrap();
    }
    write_database(dir, &manifest);
    list_files(dir, manifest)
}

/// Writes the manifest of the files as they lie in `dir` and opens the bundle.
pub fn list_files(dir: &Path, mut manifest: Manifest) -> Bundle {
    let n = &manifest.networks;
    let names = [&n.conditioner.file, &n.denoiser.file, &n.decoder.file, &n.encoder.as_ref().unwrap().file];
    let names = names.into_iter().chain([&manifest.database, &manifest.index]);
    manifest.files = names
        .map(|name| {
            let content = fs::read(dir.join(name)).unwrap();
            let blake3 = blake3::hash(&content).to_string();
            FileEntry { name: name.clone(), bytes: content.len() as u64, blake3 }
        })
        .collect();
    fs::write(dir.join(Bundle::MANIFEST), serde_json::to_vec(&manifest).unwrap()).unwrap();
    Bundle::open(dir).unwrap()
}

/// A database of random codes, or of random values where the manifest has no codebook, and its index.
fn write_database(dir: &Path, manifest: &Manifest) {
    let grid = manifest.block_grid().unwrap().stored();
    let path = dir.join(&manifest.database);
    coded_or_not(manifest, grid).write(&path).unwrap();
    let database = BlockDatabase::open(&path).unwrap();
    let position = manifest.retrieval.query_position;
    build_index(&database, position, IndexSettings::default(), dir.join(&manifest.index)).unwrap();
}

fn coded_or_not(manifest: &Manifest, grid: BlockGrid) -> DatabaseContents {
    if manifest.latent.codebook_size == 0 {
        let mut random = Random(11);
        // f16 of magnitude 0.5 to 1.
        let mut values = || (0..IMAGES * grid.block().len()).map(|_| random.next() as u16 & 0x83ff | 0x3800).collect();
        let codes = (0..grid.positions()).map(|_| values()).collect();
        return DatabaseContents { grid, codebook: vec![], thumbnail_codebook: None, codes, names: vec![] };
    }
    let mut random = Random(9);
    let mut codebook = || (0..CODES * CHANNELS).map(|_| random.symmetric()).collect::<Vec<f32>>();
    let (codebook, thumbnail_codebook) = (codebook(), grid.has_thumbnail().then(codebook));
    let mut random = Random(10);
    let mut codes = || (0..IMAGES * grid.block().cells()).map(|_| random.below(CODES) as u16).collect();
    let codes = (0..grid.positions()).map(|_| codes()).collect();
    DatabaseContents { grid, codebook, thumbnail_codebook, codes, names: vec![] }
}
