//! Features of pictures: the output of any ONNX network that the user names, run with tract.
//!
//! A picture is resized bilinearly to the network's input (pixel centres at halves, no smoothing, as pytorch-fid
//! does), mapped to `(rgb − offset) / scale`, and given as `n×3×h×w` or `n×h×w×3`, whichever the graph declares.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::RgbImage;
use rayon::prelude::*;
use rissole::{Error, Result};
use serde::Serialize;
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::infer::{Factoid, InferenceModelExt};

use super::cache::Cache;
use super::vectors::Vectors;

/// Which network gives the features and how pictures are put into it.
#[derive(Debug, Clone, PartialEq, Serialize, clap::Args)]
pub struct FeatureArgs {
    /// ONNX network whose output serves as features; without it there is no Fréchet distance and no KID
    #[arg(long = "features", value_name = "FILE")]
    pub network: Option<PathBuf>,
    /// Output (or inner tensor) to use; needed where the network has several
    #[arg(long = "feature-output", value_name = "NAME")]
    pub output: Option<String>,
    /// Side of the network's square input in pixels; needed where the graph leaves it open
    #[arg(long = "feature-size", value_name = "PIXELS")]
    pub size: Option<usize>,
    /// Pictures in one run of the network
    #[arg(long = "feature-batch", value_name = "N", default_value_t = 1)]
    pub batch: usize,
    /// Subtracted from every 8-bit value
    #[arg(long = "feature-offset", value_name = "X", default_value_t = 128.0)]
    pub offset: f32,
    /// What the difference is divided by
    #[arg(long = "feature-scale", value_name = "X", default_value_t = 128.0)]
    pub scale: f32,
    /// Folder in which features are kept between runs [default: the report's]
    #[arg(long = "feature-cache", value_name = "DIR")]
    pub cache: Option<PathBuf>,
}

/// A feature network, ready to run.
pub struct FeatureNetwork {
    plan: Arc<TypedRunnableModel>,
    path: PathBuf,
    output: String,
    input: Input,
    dim: usize,
    id: blake3::Hash,
}

/// Shape of the network's input and what pixels are mapped to.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Input {
    batch: usize,
    height: usize,
    width: usize,
    channels_last: bool,
    offset: f32,
    scale: f32,
}

impl FeatureNetwork {
    /// Largest side of an input, in pixels.
    const MAX_SIDE: usize = 4096;
    /// Pictures between two writes of the cache.
    const CHUNK: usize = 64;

    /// Loads the network at `path`, cut down to the one output asked for, so that nothing else is computed.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::File`] when the file cannot be read, is no network that tract can run, or takes
    /// anything but one batch of RGB pictures; [`Error::Usage`] when `args` leave open what the graph leaves open.
    pub fn open(path: &Path, args: &FeatureArgs) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
        let fault = |e: TractError| Error::file(path, format!("not a network that can be run: {e:#}"));
        let mut model = tract_onnx::onnx().model_for_read(&mut bytes.as_slice()).map_err(fault)?;
        let output = choose_output(path, &mut model, args.output.as_deref())?;
        let input = choose_input(path, &model, args)?;
        let fact = InferenceFact::dt_shape(f32::datum_type(), input.shape());
        let typed = model
            .with_input_fact(0, fact)
            .and_then(|m| m.eliminate_dead_branches())
            .and_then(|m| m.into_optimized())
            .map_err(fault)?;
        let shape = typed.output_fact(0).map_err(fault)?.shape.clone();
        let dim = match shape.as_concrete() {
            Some(&[n, dim] | &[n, dim, _, _]) if n == input.batch && dim > 0 => dim,
            _ => {
                return Err(Error::file(
                    path,
                    format!("output {output} has shape {shape:?}; features must be n×d or n×d×h×w"),
                ));
            }
        };
        let plan = typed.into_runnable().map_err(fault)?;
        let id = input.identify(&bytes, &output);
        Ok(Self { plan, path: path.to_owned(), output, input, dim, id })
    }

    /// Values in the features of one picture.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Name of the file and of the output, for reports.
    pub fn name(&self) -> String {
        let file = self.path.file_name().unwrap_or(self.path.as_os_str());
        format!("{} ({}, {}×{})", file.to_string_lossy(), self.output, self.input.width, self.input.height)
    }

    /// Hash of everything that features depend on but the picture.
    pub fn id(&self) -> blake3::Hash {
        self.id
    }

    /// Features of `images`, computed on rayon's current threads where `cache` does not hold them already.
    /// `done` is told of every batch of pictures finished.
    ///
    /// # Errors
    /// [`Error::File`] when the network fails or gives values that are not finite; [`Error::Io`] of the cache;
    /// [`Error::Interrupted`] when `done` answers false.
    pub fn features(
        &self,
        images: &[RgbImage],
        cache: &mut Cache,
        done: &(dyn Fn(usize) -> bool + Sync),
    ) -> Result<Vectors> {
        let keys: Vec<_> = images.par_iter().map(picture_key).collect();
        let mut missing: Vec<usize> = (0..images.len()).filter(|&i| cache.get(&keys[i]).is_none()).collect();
        missing.sort_by_key(|&i| *keys[i].as_bytes());
        missing.dedup_by_key(|&mut i| keys[i]);
        if !done(images.len() - missing.len()) {
            return Err(Error::Interrupted);
        }
        for chunk in missing.chunks(Self::CHUNK.next_multiple_of(self.input.batch)) {
            let batches: Vec<Vec<f32>> = chunk
                .par_chunks(self.input.batch)
                .map(|batch| self.run(batch.iter().map(|&i| &images[i])))
                .collect::<Result<_>>()?;
            let rows = batches.iter().flat_map(|values| values.chunks_exact(self.dim));
            cache.append(chunk.iter().map(|&i| keys[i]).zip(rows))?;
            if !done(chunk.len()) {
                return Err(Error::Interrupted);
            }
        }
        let found = keys.iter().flat_map(|key| cache.get(key).expect("just computed")).copied().collect();
        Vectors::new(self.dim, found)
    }

    /// Features of at most one batch of pictures, one after another.
    fn run<'a>(&self, images: impl ExactSizeIterator<Item = &'a RgbImage>) -> Result<Vec<f32>> {
        let fault = |e: TractError| Error::file(&self.path, format!("the network fails: {e:#}"));
        let count = images.len();
        let mut values = vec![0.0; self.input.shape().iter().product()];
        let picture = values.len() / self.input.batch;
        for (image, out) in images.zip(values.chunks_exact_mut(picture)) {
            self.input.fill(image, out);
        }
        let tensor = Tensor::from_shape(&self.input.shape(), &values).map_err(fault)?;
        let outputs = self.plan.run(tvec!(tensor.into())).map_err(fault)?;
        let plain = outputs[0].try_as_plain_ram().map_err(fault)?;
        let values = plain.as_slice::<f32>().map_err(fault)?;
        // What lies beyond the channels is averaged: global pooling, or nothing to do for n×d.
        let cells = values.len() / (self.input.batch * self.dim);
        let pooled = values.chunks_exact(cells).map(|c| c.iter().sum::<f32>() / cells as f32);
        let features: Vec<f32> = pooled.take(count * self.dim).collect();
        match features.iter().all(|v| v.is_finite()) {
            true => Ok(features),
            false => Err(Error::file(&self.path, "the network gives features that are not finite")),
        }
    }
}

/// Makes the output called `name`, or the only one, the only output of `model`; gives its name.
fn choose_output(path: &Path, model: &mut InferenceModel, name: Option<&str>) -> Result<String> {
    let outlets = model.output_outlets().map_err(|e| Error::file(path, e.to_string()))?.to_vec();
    let label = |&outlet: &OutletId| match model.outlet_label(outlet) {
        Some(label) => label.to_owned(),
        None => model.node(outlet.node).name.clone(),
    };
    let names: Vec<String> = outlets.iter().map(label).collect();
    let chosen = match (name, names.as_slice()) {
        (Some(name), _) => name.to_owned(),
        (None, [only]) => only.clone(),
        (None, _) => {
            let text = format!("{} has outputs {}: choose one with --feature-output", path.display(), names.join(", "));
            return Err(Error::Usage(text));
        }
    };
    match model.select_outputs_by_name([&chosen]) {
        Ok(()) => Ok(chosen),
        Err(_) => Err(Error::file(path, format!("there is no output {chosen}; there are {}", names.join(", ")))),
    }
}

/// Reads layout and size of the input from the graph, and from `args` what the graph leaves open.
fn choose_input(path: &Path, model: &InferenceModel, args: &FeatureArgs) -> Result<Input> {
    let fault = |text: String| Err(Error::file(path, text));
    let fact = match model.input_outlets() {
        Ok([only]) => model.outlet_fact(*only),
        _ => return fault("a feature network takes one input, the pictures".into()),
    };
    let fact = fact.map_err(|e| Error::file(path, e.to_string()))?;
    let dims: Vec<Option<usize>> =
        fact.shape.dims().map(|d| d.concretize().and_then(|d| usize::try_from(d.to_i64().ok()?).ok())).collect();
    let (channels_last, height, width) = match dims[..] {
        [_, Some(3), height, width] => (false, height, width),
        [_, height, width, Some(3)] => (true, height, width),
        _ => return fault(format!("the input is not n×3×h×w nor n×h×w×3 but {:?}", fact.shape)),
    };
    let side = |declared: Option<usize>| match (declared, args.size) {
        (Some(a), Some(b)) if a != b => Err(Error::Usage(format!("--feature-size {b}: the network takes {a} pixels"))),
        (None, None) => Err(Error::Usage("the network leaves its input size open: give --feature-size".into())),
        (Some(side), _) | (None, Some(side)) => Ok(side),
    };
    let (height, width) = (side(height)?, side(width)?);
    let batch = dims[0].unwrap_or(args.batch);
    let sides_ok = [height, width].iter().all(|s| (1..=FeatureNetwork::MAX_SIDE).contains(s));
    if !sides_ok || !(1..=1024).contains(&batch) {
        return Err(Error::Usage(format!("a feature input of {batch} pictures of {width}×{height} is out of bounds")));
    }
    if !args.offset.is_finite() || !args.scale.is_normal() {
        return Err(Error::Usage("feature offset and scale must be finite, the scale not zero".into()));
    }
    Ok(Input { batch, height, width, channels_last, offset: args.offset, scale: args.scale })
}

impl Input {
    fn shape(&self) -> [usize; 4] {
        match self.channels_last {
            false => [self.batch, 3, self.height, self.width],
            true => [self.batch, self.height, self.width, 3],
        }
    }

    /// Hash of the network's file, the output and the preprocessing. The batch does not matter.
    fn identify(&self, file: &[u8], output: &str) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        hasher.update(blake3::hash(file).as_bytes());
        hasher.update(blake3::hash(output.as_bytes()).as_bytes());
        for value in [self.height as u64, self.width as u64, self.offset.to_bits().into(), self.scale.to_bits().into()]
        {
            hasher.update(&value.to_le_bytes());
        }
        hasher.finalize()
    }

    /// Puts one picture into its place of the input tensor.
    fn fill(&self, image: &RgbImage, out: &mut [f32]) {
        let (across, down) = (taps(image.width() as usize, self.width), taps(image.height() as usize, self.height));
        let (pixels, row) = (image.as_raw(), 3 * image.width() as usize);
        let plane = self.height * self.width;
        for (y, v) in down.iter().enumerate() {
            let (upper, lower) = (&pixels[v.low * row..][..row], &pixels[v.high * row..][..row]);
            for (x, h) in across.iter().enumerate() {
                for c in 0..3 {
                    let along = |line: &[u8]| {
                        let (left, right) = (f32::from(line[3 * h.low + c]), f32::from(line[3 * h.high + c]));
                        left + h.share * (right - left)
                    };
                    let (top, bottom) = (along(upper), along(lower));
                    let value = top + v.share * (bottom - top);
                    let cell = y * self.width + x;
                    let at = if self.channels_last { 3 * cell + c } else { c * plane + cell };
                    out[at] = (value - self.offset) / self.scale;
                }
            }
        }
    }
}

/// The two pixels that a resized pixel lies between, and how much of the second it takes.
struct Tap {
    low: usize,
    high: usize,
    share: f32,
}

/// Bilinear taps from `from` to `to` pixels, centres at halves, clamped at the edges.
fn taps(from: usize, to: usize) -> Vec<Tap> {
    let tap = |i: usize| {
        let centre = ((i as f64 + 0.5) * from as f64 / to as f64 - 0.5).max(0.0);
        let low = (centre as usize).min(from - 1);
        Tap { low, high: (low + 1).min(from - 1), share: (centre - low as f64) as f32 }
    };
    (0..to).map(tap).collect()
}

/// Hash of a picture's size and pixels.
fn picture_key(image: &RgbImage) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&image.width().to_le_bytes());
    hasher.update(&image.height().to_le_bytes());
    hasher.update(image.as_raw());
    hasher.finalize()
}

#[cfg(test)]
mod tests;
