//! Stage: quantize, export and write the bundle.

use std::collections::BTreeMap;

use rissole::bundle::manifest::{
    Coherence, Diffusion, FORMAT, Grid, ImageSize, LatentSpace, Manifest, NetworkEntry, Networks, Retrieval,
    Signatures, TensorEntry,
};
use rissole::store::BlockDatabase;
use rissole::{Error, Result};
use serde_json::Value;

use super::denoiser::latent_scale;
use super::{Run, Stage};
use crate::backend::cpu::Cpu;
use crate::export::bundle::{BundleParts, write_bundle};
use crate::export::{ExportSpec, to_onnx_bytes};
use crate::tape::{NodeId, Tape};

impl Run {
    pub(super) fn export(&self) -> Result<()> {
        let backend = Cpu::default();
        let networks = self.networks(&backend)?;
        let manifest = self.manifest()?;
        let database = self.product(Stage::Encode);
        let index = self.product(Stage::Index);
        let card = self.card(&manifest, None)?;
        let parts = BundleParts { manifest, networks, database: &database, index: &index, card, pictures: vec![] };
        write_bundle(&self.bundle_dir, parts)?;
        log::info!("wrote and verified {}", self.bundle_dir.display());
        Ok(())
    }

    fn networks(&self, backend: &Cpu) -> Result<Vec<(String, Vec<u8>)>> {
        let recipe = &self.recipe;
        let (latent, side) = (recipe.latent_shape(), recipe.data.source.size);
        let weights = recipe.export.weights;
        let mut denoiser = self.finished_denoiser(backend)?;
        let mut vqgan = self.finished_vqgan(backend)?;
        let file = |name: &str, output: &str, (tape, node): (Tape<'_, Cpu>, NodeId)| {
            let spec = ExportSpec { name, output: (node, output), weights };
            (format!("{name}.onnx"), to_onnx_bytes(&tape, backend, spec))
        };
        Ok(vec![
            file("conditioner", "condition", denoiser.record_conditioner()),
            file("denoiser", "prediction", denoiser.record_denoiser()),
            file("decoder", "image", vqgan.record_decoder(latent.height, latent.width)),
            file("encoder", "latent", vqgan.record_encoder(side, side)),
        ])
    }

    /// The manifest, its list of files still empty.
    fn manifest(&self) -> Result<Manifest> {
        let r = &self.recipe;
        let d = &r.denoiser;
        let database = BlockDatabase::open(self.product(Stage::Encode))?;
        let grid = d.shape(r.latent_shape())?.grid;
        let none = || NetworkEntry { file: String::new(), inputs: Vec::new(), outputs: Vec::new() };
        let mut manifest = Manifest {
            format: FORMAT,
            name: r.name.clone(),
            licence: r.licence.clone(),
            image: ImageSize { width: r.data.source.size, height: r.data.source.size },
            latent: LatentSpace {
                shape: r.latent_shape(),
                downsampling: r.vqgan.model.downsampling(),
                scale: latent_scale(&database, &grid)?,
                codebook_size: r.vqgan.model.codebook_size,
                thumbnail_codebook_size: d.thumbnail_codebook_size,
                snap_to_codebook: r.sampling.snap_to_codebook,
            },
            grid: Grid { rows: d.rows, cols: d.cols, levels_between: d.levels_between },
            retrieval: Retrieval {
                neighbours: d.neighbours,
                query_position: 0,
                exclude_self: d.exclude_self,
                source: d.source,
                guidance: (d.neighbour_dropout > 0.0).then(|| r.sampling.guidance.unwrap_or(1.0)),
            },
            coherence: Coherence {
                thumbnail: d.thumbnail,
                margin: d.margin,
                position_embedding: d.position_embedding,
                previous_block: d.previous_block,
            },
            diffusion: Diffusion {
                timesteps: d.timesteps,
                schedule: d.schedule,
                prediction: d.prediction,
                sampler: r.sampling.sampler,
                steps: r.sampling.steps,
            },
            networks: Networks { conditioner: none(), denoiser: none(), decoder: none(), encoder: Some(none()) },
            database: "blocks.rsdb".into(),
            index: "blocks.rshn".into(),
            files: Vec::new(),
            provenance: self.provenance()?,
            quality: BTreeMap::new(),
        };
        let Signatures { conditioner, denoiser, decoder, encoder } = manifest.signatures(d.unet.widths[0])?;
        let entry = |role: &str, (inputs, outputs): (Vec<TensorEntry>, Vec<TensorEntry>)| NetworkEntry {
            file: format!("{role}.onnx"),
            inputs,
            outputs,
        };
        manifest.networks = Networks {
            conditioner: entry("conditioner", conditioner),
            denoiser: entry("denoiser", denoiser),
            decoder: entry("decoder", decoder),
            encoder: Some(entry("encoder", encoder)),
        };
        Ok(manifest)
    }

    fn provenance(&self) -> Result<BTreeMap<String, Value>> {
        let mut recipe = self.recipe.clone();
        // The folder of one machine says nothing about the data and does not belong in a bundle.
        recipe.data.source.path = Default::default();
        recipe.about = None;
        recipe.perceptual().for_each(|loss| loss.network = loss.network.file_name().unwrap_or_default().into());
        // Through text, which keeps f32 as short as it was written.
        let recipe: Value = serde_json::to_string(&recipe)
            .and_then(|text| serde_json::from_str(&text))
            .map_err(|e| Error::Internal(e.to_string()))?;
        Ok(BTreeMap::from([
            ("dataset".to_owned(), Value::from(self.recipe.data.description.clone())),
            ("denoiser_steps".to_owned(), Value::from(self.steps_done(Stage::Denoiser)?)),
            ("recipe".to_owned(), recipe),
            ("trainer".to_owned(), Value::from(concat!("rissole-train ", env!("CARGO_PKG_VERSION")))),
        ]))
    }
}
