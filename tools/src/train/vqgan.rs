//! Training of the VQ-GAN: errors of the pictures, commitment, codebook by moving averages.

use std::path::Path;

use rissole::{Error, Result};
use serde::{Deserialize, Serialize};

use super::Trainer;
use super::checkpoint::{Checkpoint, settings_hash};
use super::codebook::{self, Codebook};
use super::measures::Measures;
use super::optimizer::OptimizerConfig;
use super::perceptual::PerceptualTraining;
use super::picture_loss::{self, DiscriminatorTraining, ErrorWeights, PictureLoss};
use super::together::Together;
use crate::backend::pictures::{Cut, PictureSet};
use crate::backend::{AdamW, Backend, Book, BookStep, Pace};
use crate::model::layers::Maker;
use crate::model::vqgan::{Decoder, Encoder, VqganConfig};
use crate::random::Random;
use crate::tape::{NodeId, ParamSet, Tape, len};

/// Settings of a recipe's `[vqgan]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VqganTraining {
    /// The networks.
    pub model: VqganConfig,
    /// The optimizer.
    pub optimizer: OptimizerConfig,
    /// Pictures a step.
    pub batch: usize,
    /// Pixels along the side of a square that is cut out of each, anywhere; absent: whole pictures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crop: Option<usize>,
    /// Steps.
    pub steps: u64,
    /// Steps at the start that pass latents through unquantized, so that the codebook starts on sensible ones.
    pub quantize_from: u64,
    /// Weight of the squared error beside the absolute error, which counts 1.
    pub squared_weight: f32,
    /// Weight of the commitment loss.
    pub commitment: f32,
    /// The perceptual loss; absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub perceptual: Option<PerceptualTraining>,
    /// The discriminator; absent: reconstruction losses only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub discriminator: Option<DiscriminatorTraining>,
}

/// What is measured: of pictures, and the mean squared distance of latents to their codes, 0 where that has no weight.
const MEASURES: [&str; 6] = {
    let [a, b, c, d, e] = picture_loss::MEASURES;
    [a, b, c, d, e, "commitment"]
};
/// The column of the last.
const COMMITMENT: usize = picture_loss::MEASURES.len();

/// A VQ-GAN in training.
#[derive(Debug)]
pub struct VqganTrainer<'a, B: Backend> {
    backend: &'a B,
    together: Together<'a>,
    config: VqganTraining,
    seed: u64,
    set: ParamSet<B>,
    encoder: Encoder,
    decoder: Decoder,
    codebook: Option<Book<B::Buffer>>,
    loss: PictureLoss<'a, B>,
    /// Steps done.
    pub step: u64,
    /// Draws batches, initial codes and revivals.
    pub random: Random,
    measures: Measures<B>,
    /// What is trained on.
    pictures: Option<B::Pictures>,
    /// Buffers of the last step, and the recording of what is done with them.
    kept: Option<(Inputs<B>, B::Recording)>,
}

/// What a step is told, in buffers that stay where they are.
#[derive(Debug)]
struct Inputs<B: Backend> {
    kind: Kind,
    /// Where pictures are cut out.
    cuts: B::Buffer,
    /// The pictures, floats.
    images: B::Buffer,
    pace: B::Buffer,
    /// What revivals follow from.
    key: B::Buffer,
    /// Weight of the commitment loss of each sample.
    commitment_weights: B::Buffer,
}

/// What of a step changes what it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Kind {
    /// Of the pictures.
    shape: [usize; 4],
    /// Whether latents are quantized.
    quantizes: bool,
    /// Whether the critic is at work.
    adversarial: bool,
}

impl<'a, B: Backend> VqganTrainer<'a, B> {
    /// Untrained networks.
    pub fn new(backend: &'a B, config: &VqganTraining, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut set = ParamSet::default();
        let mut maker = Maker { backend, set: &mut set, random: &mut random };
        let encoder = Encoder::new(&mut maker, &config.model);
        let decoder = Decoder::new(&mut maker, &config.model);
        let weights = ErrorWeights { squared: config.squared_weight, differences: 0.0 };
        let loss =
            PictureLoss::new(backend, weights, config.perceptual.as_ref(), config.discriminator.as_ref(), &mut random);
        Self {
            backend,
            together: Together::alone(),
            config: config.clone(),
            seed,
            set,
            encoder,
            decoder,
            codebook: None,
            loss,
            step: 0,
            random,
            measures: Measures::new(backend, MEASURES.len()),
            pictures: None,
            kept: None,
        }
    }

    /// The same networks, trained with other processes: each is given its share of a batch.
    pub fn with(self, together: Together<'a>) -> Self {
        Self { together, ..self }
    }

    /// The same networks, trained on `pictures`.
    pub fn on(self, pictures: PictureSet) -> Self {
        Self { pictures: Some(self.backend.pictures(pictures)), ..self }
    }

    /// The networks with the moving average of their weights, for encoding, evaluation and export.
    pub fn into_averaged(mut self) -> Result<Vqgan<'a, B>> {
        let book = self.codebook.take().ok_or_else(|| {
            Error::Usage("the VQ-GAN has no codebook yet: train for more steps than quantize_from".into())
        })?;
        let codebook = on_host(self.backend, &book);
        self.set.swap_averages();
        Ok(Vqgan { backend: self.backend, set: self.set, encoder: self.encoder, decoder: self.decoder, codebook })
    }

    /// One step on parts of `height × width` pixels of the pictures.
    ///
    /// # Errors
    /// As [`Backend::check`], [`PictureLoss::prepare`] and [`Together::average`].
    ///
    /// # Panics
    /// Before [`Self::on`].
    pub fn train(&mut self, cuts: &[Cut], height: usize, width: usize) -> Result<()> {
        self.step += 1;
        let optimizer = self.config.optimizer.adamw();
        let pace = self.config.optimizer.at(self.step, self.config.steps);
        let shape = [cuts.len(), height, width, 3];
        let adversarial = self.loss.prepare(shape, &optimizer, &pace)?;
        let kind = Kind { shape, quantizes: self.step > self.config.quantize_from, adversarial };
        let (mut inputs, mut recording) = self.inputs_for(kind);
        self.backend.write(&Cut::words(cuts), &mut inputs.cuts);
        self.backend.write(&pace.words(&optimizer), &mut inputs.pace);
        if kind.quantizes {
            self.begin_codebook(&mut inputs)?;
            let key = self.random.key();
            self.backend.write(&key.map(|part| part as f32), &mut inputs.key);
        }
        self.measures.begin(self.backend);
        self.together.repeat(self.backend, &mut recording, || self.compute(&mut inputs, &optimizer))?;
        self.kept = Some((inputs, recording));
        self.backend.check_batch(shape[0])
    }

    /// Buffers for steps of that kind, with their recording.
    fn inputs_for(&mut self, kind: Kind) -> (Inputs<B>, B::Recording) {
        let backend = self.backend;
        self.kept.take().filter(|(kept, _)| kept.kind == kind).unwrap_or_else(|| {
            let inputs = Inputs {
                kind,
                cuts: backend.alloc_floats(kind.shape[0] * Cut::WORDS),
                images: backend.alloc_floats(len(kind.shape)),
                pace: backend.alloc_floats(Pace::WORDS),
                key: backend.alloc_floats(2),
                commitment_weights: backend.upload(&vec![self.config.commitment; kind.shape[0]]),
            };
            (inputs, B::Recording::default())
        })
    }

    /// Takes the first entries from the latents of this step, where there are none yet.
    ///
    /// # Errors
    /// As [`Together::gather`].
    fn begin_codebook(&mut self, inputs: &mut Inputs<B>) -> Result<()> {
        if self.codebook.is_some() {
            return Ok(());
        }
        cut_out(self.backend, self.pictures.as_ref(), &inputs.cuts, inputs.kind.shape, &mut inputs.images);
        let mut tape = Tape::new(self.backend, &mut self.set);
        let input = float_input(self.backend, &mut tape, &inputs.images, inputs.kind.shape);
        let latent = self.encoder.apply(&mut tape, input);
        let rows = tape.value(latent);
        drop(tape);
        let rows = self.together.gather(&rows)?;
        let model = &self.config.model;
        let book = Codebook::from_rows(model.codebook_size, model.latent_channels, &rows, &mut self.random);
        self.codebook = Some(on_device(self.backend, &book));
        Ok(())
    }

    /// All of a step that the device does.
    fn compute(&mut self, inputs: &mut Inputs<B>, optimizer: &AdamW) -> Result<()> {
        let backend = self.backend;
        cut_out(self.backend, self.pictures.as_ref(), &inputs.cuts, inputs.kind.shape, &mut inputs.images);
        let mut tape = Tape::new(backend, &mut self.set);
        let input = float_input(backend, &mut tape, &inputs.images, inputs.kind.shape);
        let latent = self.encoder.apply(&mut tape, input);
        let mut decoded_from = latent;
        if let Some(book) = self.codebook.as_mut().filter(|_| inputs.kind.quantizes) {
            decoded_from = quantize(backend, &mut tape, latent, book, inputs, &mut self.measures, self.together)?;
        }
        let decoded = self.decoder.apply(&mut tape, decoded_from);
        let fake = self.loss.seed(&mut tape, decoded, &inputs.images, inputs.kind.adversarial, self.together)?;
        tape.backward();
        drop(tape);
        self.together.average(backend, &mut self.set.grads())?;
        self.set.update(backend, optimizer, &inputs.pace);
        if let Some(fake) = fake {
            self.loss.train_critic(fake, &inputs.images, inputs.kind.shape, optimizer, self.together)?;
        }
        self.loss.note(&mut self.measures);
        Ok(())
    }

    /// Goes on from the checkpoint at `path`, where there is one.
    ///
    /// # Errors
    /// [`Error::File`] when it is damaged or of other settings.
    pub fn resume(&mut self, path: &Path) -> Result<()> {
        let Some(checkpoint) = Checkpoint::load(path)? else { return Ok(()) };
        self.restore(checkpoint).map_err(|e| Error::file(path, e.to_string()))
    }

    fn restore(&mut self, mut checkpoint: Checkpoint) -> Result<()> {
        if checkpoint.settings != self.settings() {
            return Err(Error::Usage("the checkpoint was made with other settings of [vqgan]".into()));
        }
        checkpoint.take_params("vqgan", self.backend, &mut self.set)?;
        self.loss.take(&mut checkpoint)?;
        let (k, c) = (self.config.model.codebook_size, self.config.model.latent_channels);
        if checkpoint.tensors.contains_key("codebook/entries") {
            let book = Codebook {
                size: k,
                channels: c,
                entries: checkpoint.take("codebook/entries", k * c)?,
                uses: checkpoint.take("codebook/uses", k)?,
                sums: checkpoint.take("codebook/sums", k * c)?,
            };
            self.codebook = Some(on_device(self.backend, &book));
        }
        self.step = checkpoint.step;
        self.random = Random::from_state(checkpoint.random);
        Ok(())
    }

    fn settings(&self) -> String {
        settings_hash(&(&self.config, self.seed))
    }
}

impl<B: Backend> Trainer for VqganTrainer<'_, B> {
    fn parameters(&self) -> usize {
        self.set.count()
    }

    fn step(&self) -> u64 {
        self.step
    }

    fn measures(&self) -> &'static [&'static str] {
        &MEASURES
    }

    fn measured(&mut self) -> Result<Vec<Vec<f64>>> {
        let mut measured = self.measures.take(self.backend, self.together)?;
        measured
            .iter_mut()
            .for_each(|step| step[COMMITMENT] /= f64::from(self.config.commitment.max(f32::MIN_POSITIVE)));
        Ok(measured)
    }

    fn checkpoint(&self) -> Result<Checkpoint> {
        let mut checkpoint = Checkpoint::new(self.step, self.settings(), &self.random);
        checkpoint.put_params("vqgan", self.backend, &self.set);
        self.loss.put(&mut checkpoint);
        if let Some(c) = &self.codebook {
            for (name, values) in [("entries", &c.entries), ("uses", &c.uses), ("sums", &c.sums)] {
                checkpoint.tensors.insert(format!("codebook/{name}"), self.backend.download(values));
            }
        }
        self.backend.check()?;
        Ok(checkpoint)
    }
}

/// Cuts `images` of `shape` out of the pictures that a trainer was given.
///
/// # Panics
/// When it was given none.
pub(super) fn cut_out<B: Backend>(
    backend: &B,
    pictures: Option<&B::Pictures>,
    cuts: &B::Buffer,
    [_, height, width, _]: [usize; 4],
    images: &mut B::Buffer,
) {
    backend.cut_out(pictures.expect("there is something to train on"), [height, width], cuts, images);
}

/// Floats as an input.
pub(super) fn float_input<B: Backend>(
    backend: &B,
    tape: &mut Tape<B>,
    floats: &B::Buffer,
    shape: [usize; 4],
) -> NodeId {
    let mut value = backend.alloc(len(shape));
    backend.convert(floats, &mut value);
    tape.device_input("", shape, value)
}

/// Quantizes `latent`, seeds the gradient of the commitment loss and moves the codebook. Returns the quantized latent.
fn quantize<B: Backend>(
    backend: &B,
    tape: &mut Tape<B>,
    latent: NodeId,
    book: &mut Book<B::Buffer>,
    inputs: &Inputs<B>,
    measures: &mut Measures<B>,
    together: Together,
) -> Result<NodeId> {
    let shape = tape.shape(latent);
    let (mut codes, mut chosen) = (backend.alloc_floats(len(shape) / book.channels), backend.alloc(len(shape)));
    backend.assign(book.channels, tape.buffer(latent), &book.entries, &mut codes, &mut chosen);
    move_book(backend, tape.buffer(latent), &codes, &inputs.key, book, together)?;
    backend.release(codes);
    let quantized = tape.straight_through(latent, chosen);
    let mut weights = backend.alloc_floats(shape[0]);
    backend.copy(&inputs.commitment_weights, &mut weights);
    let weights = tape.device_input("", [shape[0], 1, 1, 1], weights);
    let loss = tape.seed_squared_error(latent, quantized, weights);
    measures.note(backend, COMMITMENT, &loss);
    backend.release(loss);
    Ok(quantized)
}

/// Moves the codebook by the `rows` of all processes, whose `codes` name entries.
fn move_book<B: Backend>(
    backend: &B,
    rows: &B::Buffer,
    codes: &B::Buffer,
    key: &B::Buffer,
    book: &mut Book<B::Buffer>,
    together: Together,
) -> Result<()> {
    let alloc = |len: usize| backend.alloc_floats(len);
    let values = book.size * book.channels;
    let mut step = BookStep { counts: alloc(book.size), sums: alloc(values), rows: alloc(values) };
    backend.sum_book([together.rank(), together.size()], rows, codes, key, &mut step);
    together.average(backend, &mut [&mut step.counts, &mut step.sums, &mut step.rows])?;
    backend.move_book(codebook::DECAY, together.size(), &step, book);
    [step.counts, step.sums, step.rows].into_iter().for_each(|array| backend.release(array));
    Ok(())
}

fn on_host<B: Backend>(backend: &B, book: &Book<B::Buffer>) -> Codebook {
    let [entries, uses, sums] = [&book.entries, &book.uses, &book.sums].map(|array| backend.download(array));
    Codebook { size: book.size, channels: book.channels, entries, uses, sums }
}

fn on_device<B: Backend>(backend: &B, book: &Codebook) -> Book<B::Buffer> {
    let [entries, uses, sums] = [&book.entries, &book.uses, &book.sums].map(|array| backend.upload(array));
    Book { size: book.size, channels: book.channels, entries, uses, sums }
}

/// A trained VQ-GAN.
#[derive(Debug)]
pub struct Vqgan<'a, B: Backend> {
    backend: &'a B,
    set: ParamSet<B>,
    encoder: Encoder,
    decoder: Decoder,
    /// The codebook.
    pub codebook: Codebook,
}

impl<B: Backend> Vqgan<'_, B> {
    /// Codes of `images`, `[N,height,width,3]` in −1…1: one for each latent cell, row by row.
    ///
    /// # Errors
    /// As [`Backend::check`].
    pub fn encode(&mut self, images: &[f32], height: usize, width: usize) -> Result<Vec<u32>> {
        let batch = images.len() / (height * width * 3);
        let mut tape = Tape::new(self.backend, &mut self.set);
        let input = tape.input("image", [batch, height, width, 3], images);
        let latent = self.encoder.apply(&mut tape, input);
        let codes = tape.nearest(latent, &self.codebook.entries);
        self.backend.check()?;
        Ok(codes)
    }

    /// Puts the averaged weights of `trained` in place of the decoder's.
    pub fn replace_decoder(&mut self, trained: &ParamSet<B>) {
        self.set.copy_from(self.backend, trained);
    }

    /// The weights of encoder and decoder, averaged.
    pub fn weights(&self) -> &ParamSet<B> {
        &self.set
    }

    /// Records the encoder on one picture, for export. Returns the tape and the latent.
    pub fn record_encoder(&mut self, height: usize, width: usize) -> (Tape<'_, B>, NodeId) {
        let mut tape = Tape::new(self.backend, &mut self.set);
        let input = tape.input("image", [1, height, width, 3], &vec![0.0; height * width * 3]);
        let latent = self.encoder.apply(&mut tape, input);
        (tape, latent)
    }

    /// Records the decoder on one latent of `height × width` cells, for export. Returns the tape and the image.
    pub fn record_decoder(&mut self, height: usize, width: usize) -> (Tape<'_, B>, NodeId) {
        let c = self.codebook.channels;
        let mut tape = Tape::new(self.backend, &mut self.set);
        let input = tape.input("latent", [1, height, width, c], &vec![0.0; height * width * c]);
        let image = self.decoder.apply(&mut tape, input).image;
        (tape, image)
    }
}
