//! One picture after another from a generator, with progress, preview and Ctrl-C.

use std::fs::File;
use std::path::Path;

use image::RgbImage;
use indicatif::ProgressBar;
use rissole::bundle::manifest::ImageSize;
use rissole::picture::{Parameters, QuerySource, read_fitted};
use rissole::{Bundle, Error, Event, Generator, Options, Picture, Query, Report, Result};

use crate::args::QueryArg;
use crate::interrupt;
use crate::preview::Preview;
use crate::terminal::{Console, bytes};

/// A generator at work on one bundle.
pub struct Artist {
    generator: Generator,
    manifest_blake3: String,
    neighbours: usize,
    query: Query,
    source: QuerySource,
    bar: ProgressBar,
    preview: Option<Preview>,
}

impl Artist {
    /// Loads `bundle` to draw `count` pictures by `query`.
    pub fn new(
        bundle: &Bundle,
        options: &Options,
        query: &QueryArg,
        count: u32,
        preview: bool,
        console: &Console,
    ) -> Result<Self> {
        let manifest_blake3 = hash_file(&bundle.path_of(Bundle::MANIFEST))?;
        let (query, source) = resolve(query, bundle.manifest.image)?;
        let generator = Generator::open(bundle, options)?;
        let neighbours = options.neighbours.unwrap_or(bundle.manifest.retrieval.neighbours);
        let preview = preview.then(|| Preview::new(console)).flatten();
        let bar = match preview {
            Some(_) => ProgressBar::hidden(),
            None => console.progress(generator.steps_total() as u64 * u64::from(count)),
        };
        Ok(Self { generator, manifest_blake3, neighbours, query, source, bar, preview })
    }

    /// Draws the picture of `seed`, spoken of as `name`.
    pub fn draw(&mut self, seed: u64, name: &str) -> Result<(Picture, Parameters)> {
        self.bar.set_message(name.to_owned());
        let (bar, preview) = (&self.bar, &mut self.preview);
        let already = bar.position();
        let mut progress = (0, 0);
        let picture = self.generator.generate(seed, &self.query, &mut |event| {
            match event {
                Event::Started { steps_total } => progress = (0, steps_total),
                Event::Retrieved { query, neighbours } => log::info!("query {query:?}, neighbours {neighbours:?}"),
                Event::Step { done, preview: picture, .. } => {
                    progress.0 = done;
                    bar.set_position(already + done as u64);
                    show(preview, false, name, progress, || picture.picture())?;
                }
                Event::Block { position, preview: picture } => {
                    log::debug!("position {position} is drawn");
                    show(preview, true, name, progress, || picture.picture())?;
                }
                Event::Decoding => {}
            }
            interrupt::check()
        })?;
        show(&mut self.preview, true, name, progress, || Ok(Some(picture.image.clone())))?;
        self.preview.iter_mut().for_each(Preview::leave);
        let parameters = self.parameters(&picture.report);
        Ok((picture, parameters))
    }

    /// Says or prints something while the progress bar stands.
    pub fn aside<T>(&self, speak: impl FnOnce() -> T) -> T {
        self.bar.suspend(speak)
    }

    fn parameters(&self, report: &Report) -> Parameters {
        Parameters {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            model: report.model.clone(),
            manifest_blake3: self.manifest_blake3.clone(),
            seed: report.seed,
            sampler: report.sampler,
            steps: report.steps,
            guidance: report.guidance,
            neighbours: self.neighbours,
            query: self.source.clone(),
            exclude_self: report.exclude_self,
        }
    }
}

impl Drop for Artist {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Draws on the preview, if there is one, what `picture` gives, if it gives one.
fn show(
    preview: &mut Option<Preview>,
    now: bool,
    name: &str,
    (done, total): (usize, usize),
    picture: impl FnOnce() -> Result<Option<RgbImage>>,
) -> Result<()> {
    match preview {
        Some(preview) if now || preview.is_due() => match picture()? {
            Some(image) => preview.show(&image, &format!("{name}: {done}/{total} steps")),
            None => Ok(()),
        },
        _ => Ok(()),
    }
}

/// The query that the generator takes, and how a PNG names it.
fn resolve(query: &QueryArg, size: ImageSize) -> Result<(Query, QuerySource)> {
    Ok(match query {
        QueryArg::Random => (Query::Random, QuerySource::Random),
        QueryArg::Id(id) => (Query::Id(*id), QuerySource::Id(u64::from(*id))),
        QueryArg::Image(path) => (Query::Image(read_fitted(path, size)?), QuerySource::Image(hash_file(path)?)),
    })
}

/// BLAKE3 of the content of the file at `path`, in hexadecimal digits.
pub fn hash_file(path: &Path) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    let file = File::open(path).map_err(|e| Error::io(path, e))?;
    hasher.update_reader(file).map_err(|e| Error::io(path, e))?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// The times of `report` in words.
pub fn times(report: &Report) -> String {
    let rissole::generator::StageTimes { load, retrieve, denoise, decode } = report.times;
    let time = |seconds: f64| match seconds {
        s if s < 1.0 => format!("{:.1} ms", s * 1000.0),
        s => format!("{s:.2} s"),
    };
    let [load, retrieve, denoise, decode] = [load, retrieve, denoise, decode].map(time);
    format!("load {load}, retrieve {retrieve}, denoise {denoise}, decode {decode}")
}

/// The memory of `report` in words.
pub fn memory(report: &Report) -> String {
    let or_unknown = |n: Option<u64>| n.map_or("unknown".to_owned(), bytes);
    format!("peak heap {}, peak RSS {}", or_unknown(report.peak_heap), or_unknown(report.peak_rss))
}
