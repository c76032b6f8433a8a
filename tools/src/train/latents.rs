//! The subjects of the batches that the denoiser trains on.

use std::ops::Range;

use rissole::BlockGrid;
use rissole::bundle::manifest::{NeighbourSource, Prediction};

use crate::backend::windows::{LatentSet, Subject, WindowSettings};
use crate::random::Random;

impl LatentSet {
    /// `images` pictures of random codes from a random codebook of `entries`, without thumbnails and without
    /// neighbours: for training that is timed or compared, where the neighbour input is noise.
    pub fn random(grid: BlockGrid, entries: usize, images: usize, neighbours: usize, random: &mut Random) -> Self {
        let latent = grid.latent();
        let mut codebook = vec![0.0; entries * latent.channels];
        random.fill_normal(&mut codebook);
        Self {
            grid,
            codebook,
            codes: (0..images * latent.cells()).map(|_| random.below(entries) as u16).collect(),
            thumbnail_codebook: Vec::new(),
            thumbnail_codes: Vec::new(),
            neighbours: Vec::new(),
            neighbours_per_image: neighbours,
        }
    }
}

/// How batches are drawn.
#[derive(Debug, Clone, Copy)]
pub struct BatchSettings<'a> {
    /// ᾱ for each timestep.
    pub alphas: &'a [f64],
    /// What is made of a window.
    pub windows: WindowSettings,
    /// Cap γ of the min-SNR weight (Hang et al. 2023); none: every timestep counts the same in the loss on the
    /// predicted quantity.
    pub min_snr: Option<f64>,
    /// Share of samples that are thumbnails, where there are thumbnails; the blocks of all other levels are as likely as each
    /// other.
    pub thumbnail_share: f32,
    /// Largest standard deviation of the noise on the coarser level that conditions a block.
    pub thumbnail_noise: f32,
    /// Share of samples without neighbours, zeros in their place: what guidance at sampling leads away from (Ho & Salimans
    /// 2022, algorithm 1).
    pub neighbour_dropout: f32,
}

/// Draws what batches are about.
#[derive(Debug)]
pub struct Sampler<'a> {
    grid: BlockGrid,
    images: usize,
    settings: BatchSettings<'a>,
    /// The part of each batch that is drawn; none: all of it.
    share: Option<Range<usize>>,
}

impl<'a> Sampler<'a> {
    /// Over `set`.
    pub fn new(set: &LatentSet, settings: BatchSettings<'a>) -> Self {
        Self { grid: set.grid, images: set.images(), settings, share: None }
    }

    /// The same, drawing only the samples `share` of each batch. The random state goes on as if all were drawn.
    pub fn drawing(self, share: Range<usize>) -> Self {
        Self { share: Some(share), ..self }
    }

    /// `count` samples, each with a generator of its own.
    pub fn draw(&self, count: usize, random: &mut Random) -> Vec<Subject> {
        let seeds: Vec<u64> = (0..count).map(|_| random.next_u64()).collect();
        let seeds = self.share.as_ref().map_or(seeds.as_slice(), |share| &seeds[share.clone()]);
        seeds.iter().map(|&seed| self.subject(&mut Random::new(seed))).collect()
    }

    fn subject(&self, random: &mut Random) -> Subject {
        let BatchSettings { neighbour_dropout, thumbnail_noise, windows, .. } = self.settings;
        let image = random.below(self.images);
        let position = self.position(random);
        let timestep = random.below(self.settings.alphas.len());
        let key = random.key();
        let without_neighbours = windows.source == NeighbourSource::Database && random.uniform() < neighbour_dropout;
        let thumbnail_deviation = thumbnail_noise * random.uniform();
        let subject = Subject {
            image,
            position,
            timestep,
            alpha: 0.0,
            sigma: 0.0,
            weight: 0.0,
            without_neighbours,
            thumbnail_deviation,
            key,
        };
        self.at(&subject, timestep)
    }

    /// The same subject, noise and conditions at another timestep.
    pub(super) fn at(&self, subject: &Subject, timestep: usize) -> Subject {
        let alpha = self.settings.alphas[timestep];
        Subject {
            timestep,
            alpha: alpha.sqrt() as f32,
            sigma: (1.0 - alpha).sqrt() as f32,
            weight: self.weight(alpha) as f32,
            ..*subject
        }
    }

    fn position(&self, random: &mut Random) -> usize {
        if self.grid.has_thumbnail() && random.uniform() < self.settings.thumbnail_share {
            return 0;
        }
        let first = usize::from(self.grid.has_thumbnail());
        first + random.below(self.grid.positions() - first)
    }

    /// min-SNR: min(SNR, γ) on the error of x₀, expressed on the error of what is predicted.
    fn weight(&self, alpha: f64) -> f64 {
        let Some(cap) = self.settings.min_snr else { return 1.0 };
        let snr = alpha / (1.0 - alpha).max(1e-12);
        match self.settings.windows.prediction {
            Prediction::Epsilon => snr.min(cap) / snr.max(1e-12),
            Prediction::V => snr.min(cap) / (snr + 1.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Backend;
    use crate::backend::cpu::Cpu;
    use crate::backend::windows::Batch;
    use rissole::LatentShape;

    const IMAGES: usize = 3;

    fn set(thumbnail: bool, margin: usize) -> LatentSet {
        let latent = LatentShape { channels: 2, height: 4, width: 4 };
        let grid = BlockGrid::new(latent, 2, 2, thumbnail, margin).unwrap();
        let mut random = Random::new(1);
        let mut codes = |n: usize| (0..n).map(|_| random.below(5) as u16).collect::<Vec<_>>();
        LatentSet {
            grid,
            codes: codes(IMAGES * 16),
            thumbnail_codes: codes(IMAGES * 4),
            codebook: (0..10).map(|v| v as f32).collect(),
            thumbnail_codebook: (0..10).map(|v| 100.0 + v as f32).collect(),
            neighbours: vec![1, 2, 0, 2, 1, 0],
            neighbours_per_image: 2,
        }
    }

    fn settings(alphas: &[f64]) -> BatchSettings<'_> {
        BatchSettings {
            alphas,
            windows: WindowSettings {
                prediction: Prediction::V,
                source: NeighbourSource::Database,
                previous_block: false,
            },
            min_snr: Some(5.0),
            thumbnail_share: 0.3,
            thumbnail_noise: 0.0,
            neighbour_dropout: 0.0,
        }
    }

    /// What the CPU makes of `subjects`.
    fn batch(set: &LatentSet, windows: WindowSettings, subjects: &[Subject]) -> Batch<Vec<f32>> {
        let cpu = Cpu::default();
        let latents = cpu.latents(set.clone(), windows);
        let mut batch = cpu.layout(&latents).lengths(subjects.len()).map(|&n| vec![f32::NAN; n]);
        cpu.draw(&latents, &Subject::words(subjects), &mut batch);
        batch
    }

    /// Scaled values of one cell of a picture's latent.
    fn cell(set: &LatentSet, image: usize, cell: usize) -> &[f32] {
        &set.codebook[usize::from(set.codes[image * 16 + cell]) * 2..][..2]
    }

    /// The average of the latent's cells under each cell of the thumbnail.
    fn thumbnail(set: &LatentSet, image: usize) -> Vec<f32> {
        let mut planes = vec![0.0; 32];
        (0..16).for_each(|i| (0..2).for_each(|c| planes[c * 16 + i] = cell(set, image, i)[c]));
        let averaged = set.grid.average_down(&planes, 0);
        (0..8).map(|i| averaged[i % 2 * 4 + i / 2]).collect()
    }

    #[test]
    fn without_noise_a_window_is_the_latent_and_its_neighbours() {
        let mut random = Random::new(2);
        let mut codes = |n: usize| (0..n).map(|_| random.below(5) as u16).collect::<Vec<_>>();
        let mirrored = set(true, 1).with_mirrored(codes(IMAGES * 16), codes(IMAGES * 4));
        windows_are_latents_and_neighbours(&set(true, 1));
        windows_are_latents_and_neighbours(&mirrored);
    }

    /// Those of a picture from the second half of a set with mirrored ones are of that half.
    fn windows_are_latents_and_neighbours(set: &LatentSet) {
        let (alphas, mut thumbnails) = ([1.0 - 1e-15], 0);
        let sampler = Sampler::new(set, settings(&alphas));
        for subject in sampler.draw(40, &mut Random::new(7)) {
            let sample = batch(set, sampler.settings.windows, &[subject]);
            let Subject { image, position, .. } = subject;
            thumbnails += usize::from(position == 0);
            assert!(sample.positions.iter().enumerate().all(|(p, &v)| v == f32::from(u8::from(p == position))));
            let (thumbnail, over) = (thumbnail(set, image), sample.thumbnail.unwrap());
            for (i, place) in set.grid.position_cells(position).into_iter().enumerate() {
                let noisy = &sample.noisy[i * 3..][..3];
                let near = &sample.neighbours[i * 4..][..4];
                let Some(place) = place else {
                    assert_eq!((noisy, near), ([0.0; 3].as_slice(), [0.0; 4].as_slice()));
                    continue;
                };
                assert_eq!(noisy[2], 1.0);
                let first = set.neighbours[image % IMAGES * 2] as usize + image / IMAGES * IMAGES;
                let (value, neighbour) = match position {
                    0 => {
                        let code = f32::from(set.thumbnail_codes[first * 4 + place]);
                        (&thumbnail[place * 2..][..2], 100.0 + 2.0 * code)
                    }
                    _ => (cell(set, image, place), 2.0 * f32::from(set.codes[first * 16 + place])),
                };
                assert!((noisy[0] - value[0]).abs() < 1e-3 && (noisy[1] - value[1]).abs() < 1e-3);
                assert_eq!(near[0], neighbour);
                let expected = if position == 0 { 0.0 } else { thumbnail[set.grid.over(1, 0)(place) * 2] };
                assert!((over[i * 2] - expected).abs() < 1e-5);
            }
        }
        assert!((5..20).contains(&thumbnails), "{thumbnails}");
    }

    #[test]
    fn a_level_between_and_its_neighbours_are_averages_conditioned_on_the_level_above() {
        let latent = LatentShape { channels: 2, height: 4, width: 4 };
        let grid = BlockGrid::new(latent, 4, 4, true, 1).unwrap().with_levels_between(1).unwrap();
        let set = LatentSet { grid, ..set(true, 1) };
        let alphas = [1.0 - 1e-15];
        let sampler = Sampler::new(&set, settings(&alphas));
        let averaged = |image: usize, level| {
            let value = |i: usize| cell(&set, image, i % 16)[i / 16];
            grid.average_down(&(0..32).map(value).collect::<Vec<_>>(), level)
        };
        let mut drawn = [0; 3];
        for subject in sampler.draw(200, &mut Random::new(7)) {
            let sample = batch(&set, sampler.settings.windows, &[subject]);
            let Subject { image, position, .. } = subject;
            let (level, _) = grid.locate(position);
            drawn[level] += 1;
            if level == 0 {
                continue;
            }
            let first = set.neighbours[image * 2] as usize;
            let [own, near, above] = [(image, level), (first, level), (image, level - 1)].map(|(i, l)| averaged(i, l));
            let cells = grid.level(level).latent().cells();
            for (i, place) in grid.position_cells(position).into_iter().enumerate() {
                let Some(place) = place else { continue };
                for c in 0..2 {
                    let over = above[c * above.len() / 2 + grid.over(level, level - 1)(place)];
                    let pairs = [
                        (sample.noisy[i * 3 + c], own[c * cells + place]),
                        (sample.neighbours[i * 4 + c], near[c * cells + place]),
                        (sample.thumbnail.as_ref().unwrap()[i * 2 + c], over),
                    ];
                    assert!(pairs.iter().all(|(got, expected)| (got - expected).abs() < 1e-3), "{pairs:?}");
                }
            }
        }
        // The thumbnail by its share of 0.3, four blocks of the level between beside sixteen.
        assert!((40..80).contains(&drawn[0]) && (15..45).contains(&drawn[1]), "{drawn:?}");
    }

    #[test]
    fn targets_and_noisy_values_give_the_clean_block_back() {
        let set = set(false, 0);
        let alphas = [0.3];
        for prediction in [Prediction::V, Prediction::Epsilon] {
            let windows = WindowSettings { prediction, ..settings(&alphas).windows };
            let sampler = Sampler::new(&set, BatchSettings { windows, ..settings(&alphas) });
            let subject = sampler.draw(1, &mut Random::new(4))[0];
            let s = batch(&set, windows, &[subject]);
            let (signal, noise) = (0.3f32.sqrt(), 0.7f32.sqrt());
            for (i, place) in set.grid.window_cells(subject.position).flatten().enumerate() {
                let (x, target) = (s.noisy[i * 2], s.target[i * 2]);
                let clean = match prediction {
                    Prediction::V => signal * x - noise * target,
                    Prediction::Epsilon => (x - noise * target) / signal,
                };
                assert!((clean - cell(&set, subject.image, place)[0]).abs() < 1e-3);
            }
        }
    }

    #[test]
    fn min_snr_weights_agree_between_predictions() {
        let (set, alphas) = (set(false, 0), [0.5]);
        let weight = |prediction, alpha| {
            let windows = WindowSettings { prediction, ..settings(&alphas).windows };
            Sampler::new(&set, BatchSettings { windows, ..settings(&alphas) }).weight(alpha)
        };
        // At one error of x₀, the error of ε is √SNR times and that of v is 1/√(1−ᾱ) times as large.
        for alpha in [0.01, 0.5, 0.99] {
            let snr = alpha / (1.0 - alpha);
            let (e, v) = (weight(Prediction::Epsilon, alpha) * snr, weight(Prediction::V, alpha) / (1.0 - alpha));
            assert!((e - v).abs() < 1e-9, "{e} {v}");
        }
    }

    #[test]
    fn neighbours_are_dropped_whole_and_as_often_as_said() {
        let (set, alphas) = (set(true, 1), [0.9, 0.5, 0.1]);
        let draw = |neighbour_dropout| {
            let settings = BatchSettings { neighbour_dropout, ..settings(&alphas) };
            batch(&set, settings.windows, &Sampler::new(&set, settings).draw(2_000, &mut Random::new(6)))
        };
        let [never, sometimes, always] = [0.0, 0.2, 1.0].map(draw);
        let of_a_sample = never.neighbours.len() / 2_000;
        let is_dropped = |neighbours: &[f32]| neighbours.iter().all(|&v| v == 0.0);
        let dropped = sometimes.neighbours.chunks(of_a_sample).filter(|found| is_dropped(found)).count();
        assert!((340..460).contains(&dropped), "{dropped}");
        assert!(is_dropped(&always.neighbours) && always.neighbours.len() == never.neighbours.len());
        let mut samples = never.neighbours.chunks(of_a_sample).zip(sometimes.neighbours.chunks(of_a_sample));
        assert!(samples.all(|(whole, found)| found == whole || is_dropped(found)));
        // What the network predicts and from what else stays.
        assert_eq!((&never.noisy, &never.target), (&always.noisy, &always.target));
        assert!(always.thumbnail.unwrap().iter().any(|&v| v != 0.0));
    }

    #[test]
    fn a_batch_is_the_same_for_any_number_of_threads_and_its_parts_are_those_of_the_whole() {
        let set = set(true, 1);
        let alphas = [0.9, 0.5, 0.1];
        let sampler = || Sampler::new(&set, settings(&alphas));
        let subjects = sampler().draw(9, &mut Random::new(5));
        assert_eq!(sampler().drawing(3..7).draw(9, &mut Random::new(5)), subjects[3..7]);
        let draw = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| batch(&set, settings(&alphas).windows, &subjects))
        };
        assert_eq!(draw(1), draw(3));
    }
}
