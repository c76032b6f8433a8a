//! The whole walk on tiny bundles: every coherence mode, every way it must refuse.

mod common;

use std::fs;

use common::{IMAGES, TempDir, bundle, list_files, manifest, onnx, pyramid};
use rissole::budget::CountingAllocator;
use rissole::bundle::manifest::{Coherence, NeighbourSource, SamplerKind};
use rissole::generator::{Event, Generator, Options, Picture, Query};
use rissole::{Bundle, Error, Manifest, Result};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

const PAPER: Coherence = Coherence { thumbnail: false, margin: 0, position_embedding: false, previous_block: false };
const THUMBNAIL: Coherence = Coherence { thumbnail: true, position_embedding: true, ..PAPER };
const MODES: [(&str, Coherence); 7] = [
    ("independent", PAPER),
    ("position", Coherence { position_embedding: true, ..PAPER }),
    ("previous", Coherence { previous_block: true, ..PAPER }),
    ("thumbnail", THUMBNAIL),
    ("thumbnail+previous", Coherence { previous_block: true, ..THUMBNAIL }),
    ("window", Coherence { margin: 1, ..PAPER }),
    ("thumbnail+window", Coherence { margin: 2, ..THUMBNAIL }),
];

/// Every mode, and a pyramid.
fn modes() -> impl Iterator<Item = (&'static str, Manifest)> {
    let flat = MODES.map(|(name, coherence)| (name, manifest(coherence, NeighbourSource::Database)));
    flat.into_iter().chain([("pyramid", pyramid())])
}

fn quiet(_: Event<'_>) -> Result<()> {
    Ok(())
}

fn draw(bundle: &Bundle, options: &Options, seed: u64) -> Picture {
    Generator::open(bundle, options).unwrap().generate(seed, &Query::Random, &mut quiet).unwrap()
}

fn paper(source: NeighbourSource) -> Manifest {
    manifest(PAPER, source)
}

#[test]
fn the_same_seed_gives_the_same_pixels_for_any_number_of_threads() {
    for (name, manifest) in modes() {
        for sampler in [SamplerKind::Ddpm, SamplerKind::DpmSolverPp2m] {
            let dir = TempDir::new();
            let bundle = bundle(dir.path(), manifest.clone());
            let with = |threads| Options { threads, sampler: Some(sampler), ..Options::default() };
            let one = draw(&bundle, &with(1), 7);
            assert!(one.latent.iter().all(|v| v.is_finite()));
            for threads in [2, 3, 64] {
                let many = draw(&bundle, &with(threads), 7);
                assert_eq!(one.latent, many.latent, "{name} {sampler:?} {threads}");
                assert_eq!(one.image, many.image, "{name} {sampler:?} {threads}");
            }
            let other = draw(&bundle, &with(1), 8);
            assert_ne!(one.latent, other.latent, "{name} {sampler:?}");
            assert_ne!(one.image, other.image, "{name} {sampler:?}");
        }
    }
}

#[test]
fn a_generator_draws_the_same_again() {
    let dir = TempDir::new();
    let bundle = bundle(dir.path(), manifest(THUMBNAIL, NeighbourSource::Database));
    let mut generator = Generator::open(&bundle, &Options::default()).unwrap();
    let mut draw = |seed| generator.generate(seed, &Query::Random, &mut quiet).unwrap().image;
    let (first, _, again) = (draw(1), draw(2), draw(1));
    assert_eq!(first, again);
}

#[test]
fn events_count_every_step_and_name_every_position() {
    for (name, manifest) in modes() {
        let dir = TempDir::new();
        let bundle = bundle(dir.path(), manifest);
        let mut generator = Generator::open(&bundle, &Options { threads: 2, ..Options::default() }).unwrap();
        let total = generator.steps_total();
        assert_eq!(total, 6 * generator.grid().positions());
        let (mut started, mut last, mut positions, mut shown) = (None, 0, vec![], None);
        let mut observe = |event: Event<'_>| {
            match event {
                Event::Started { steps_total } => started = Some(steps_total),
                Event::Step { done, total: of, preview } => {
                    assert!(of == total && done > last && preview.latent().iter().all(|v| v.is_finite()));
                    last = done;
                }
                Event::Block { position, preview } => {
                    positions.push(position);
                    shown = preview.picture()?;
                }
                Event::Retrieved { neighbours, .. } => assert_eq!(neighbours.len(), 4),
                Event::Decoding => {}
            }
            Ok(())
        };
        let picture = generator.generate(3, &Query::Random, &mut observe).unwrap();
        assert_eq!((started, last), (Some(total), total), "{name}");
        assert_eq!(positions, (0..generator.grid().positions()).collect::<Vec<_>>(), "{name}");
        assert_eq!(shown.as_ref(), Some(&picture.image), "{name}: the last preview is the picture");
        assert_eq!(generator.decode(&picture.latent).unwrap(), picture.image);
    }
}

#[test]
fn queries_choose_the_neighbours() {
    let dir = TempDir::new();
    let bundle = bundle(dir.path(), manifest(THUMBNAIL, NeighbourSource::Database));
    let mut generator = Generator::open(&bundle, &Options::default()).unwrap();
    let report = |generator: &mut Generator, query| generator.generate(1, &query, &mut quiet).map(|p| p.report);
    let excluded = report(&mut generator, Query::Id(5)).unwrap();
    assert_eq!(excluded.query, Some(5));
    assert!(excluded.exclude_self && !excluded.neighbours.contains(&5));

    let options = Options { exclude_self: Some(false), ..Options::default() };
    let own = report(&mut Generator::open(&bundle, &options).unwrap(), Query::Id(5)).unwrap();
    assert_eq!(own.neighbours[0], 5);
    assert_eq!(own.neighbours[1..], excluded.neighbours[..3]);

    let image = generator.generate(1, &Query::Random, &mut quiet).unwrap().image;
    let outside = report(&mut generator, Query::Image(image)).unwrap();
    assert!(outside.query.is_none() && outside.neighbours.len() == 4);

    let none = report(&mut generator, Query::Id(IMAGES as u32)).unwrap_err();
    assert!(matches!(none, Error::Usage(_)), "{none}");
    let wrong = report(&mut generator, Query::Image(image::RgbImage::new(16, 30))).unwrap_err();
    assert!(wrong.to_string().contains("16×30"), "{wrong}");
}

#[test]
fn fewer_neighbours_repeat_and_more_are_refused() {
    let dir = TempDir::new();
    let bundle = bundle(dir.path(), paper(NeighbourSource::Database));
    let with = |k| Options { neighbours: Some(k), ..Options::default() };
    assert_eq!(draw(&bundle, &with(2), 1).report.neighbours.len(), 2);
    assert_ne!(draw(&bundle, &with(2), 1).image, draw(&bundle, &with(4), 1).image);
    for k in [0, 5] {
        assert!(matches!(Generator::open(&bundle, &with(k)), Err(Error::Usage(_))));
    }
}

#[test]
fn a_database_that_does_not_suit_the_bundle_is_refused() {
    let dir = TempDir::new();
    let thumbnails = manifest(THUMBNAIL, NeighbourSource::Database);
    bundle(dir.path(), thumbnails.clone());
    let refused = |manifest: Manifest, fault: &str| {
        let bundle = list_files(dir.path(), manifest);
        let error = Generator::open(&bundle, &Options::default()).unwrap_err();
        let text = error.to_string();
        assert!(error.exit_code() == 3 && text.contains("blocks.rsdb") && text.contains(fault), "{text}");
    };
    let mut larger = thumbnails.clone();
    larger.latent.codebook_size += 1;
    refused(larger, "codebooks");

    // As many neighbours as there are pictures, of which one may not be its own.
    let mut greedy = thumbnails;
    greedy.retrieval.neighbours = IMAGES;
    let signature = greedy.signatures(greedy.networks.conditioner.outputs[0].shape[1]).unwrap();
    (greedy.networks.conditioner.inputs, greedy.networks.conditioner.outputs) = signature.conditioner;
    refused(greedy, "only 11 possible neighbours, 12 are asked for");

    let other = TempDir::new();
    bundle(other.path(), paper(NeighbourSource::Database));
    fs::copy(other.path().join("blocks.rsdb"), dir.path().join("blocks.rsdb")).unwrap();
    refused(manifest(THUMBNAIL, NeighbourSource::Database), "not those of the manifest");
}

#[test]
fn steps_and_threads_out_of_bounds_are_refused() {
    let dir = TempDir::new();
    let bundle = bundle(dir.path(), paper(NeighbourSource::Database));
    let bad = [
        Options { steps: Some(0), ..Options::default() },
        Options { steps: Some(1001), ..Options::default() },
        Options { threads: 0, ..Options::default() },
    ];
    for options in bad {
        assert!(matches!(Generator::open(&bundle, &options), Err(Error::Usage(_))), "{options:?}");
    }
}

#[test]
fn guidance_is_for_bundles_that_were_trained_for_it() {
    let (plain, trained) = (TempDir::new(), TempDir::new());
    let with = |guidance| Options { guidance: Some(guidance), ..Options::default() };
    let bundle_of = |dir: &TempDir, guidance| {
        let mut manifest = manifest(THUMBNAIL, NeighbourSource::Database);
        manifest.retrieval.guidance = guidance;
        bundle(dir.path(), manifest)
    };
    let plain = bundle_of(&plain, None);
    let unguided = draw(&plain, &Options::default(), 3);
    assert_eq!((unguided.report.guidance, &draw(&plain, &with(1.0), 3).image), (1.0, &unguided.image));
    let refused = |bundle: &Bundle, options: Options, words: &str| {
        let error = Generator::open(bundle, &options).unwrap_err();
        assert!(matches!(&error, Error::Usage(text) if text.contains(words)), "{error}");
    };
    refused(&plain, with(2.0), "not trained without neighbours");

    let trained = bundle_of(&trained, Some(2.0));
    let (default, off) = (draw(&trained, &Options::default(), 3), draw(&trained, &with(1.0), 3));
    assert_eq!((default.report.guidance, &default.image), (2.0, &draw(&trained, &with(2.0), 3).image));
    // Without guidance, the very pixels of a bundle that knows none.
    assert_eq!((&off.image, &off.latent), (&unguided.image, &unguided.latent));
    assert!(off.latent != default.latent && off.latent != draw(&trained, &with(0.0), 3).latent);
    for bad in [-1.0, 101.0, f32::NAN, f32::INFINITY] {
        refused(&trained, with(bad), "within 0…100");
    }
    let consistency = |guidance| Options { sampler: Some(SamplerKind::Consistency), guidance, ..Options::default() };
    refused(&trained, consistency(Some(2.0)), "consistency");
    assert_eq!(draw(&trained, &consistency(None), 3).report.guidance, 1.0);
}

#[test]
fn without_retrieval_noise_stands_in() {
    let dir = TempDir::new();
    let bundle = bundle(dir.path(), paper(NeighbourSource::Noise));
    let picture = draw(&bundle, &Options::default(), 4);
    assert!(picture.report.query.is_none() && picture.report.neighbours.is_empty());
    assert_ne!(picture.image, draw(&bundle, &Options::default(), 5).image);
    let mut generator = Generator::open(&bundle, &Options::default()).unwrap();
    assert!(matches!(generator.generate(4, Query::Id(0), &mut quiet), Err(Error::Usage(_))));
}

#[test]
fn an_observer_stops_the_walk_at_once() {
    let dir = TempDir::new();
    let bundle = bundle(dir.path(), paper(NeighbourSource::Database));
    let mut generator = Generator::open(&bundle, &Options::default()).unwrap();
    let mut steps = 0;
    let mut observe = |event: Event<'_>| match event {
        Event::Step { .. } => {
            steps += 1;
            if steps == 3 { Err(Error::Interrupted) } else { Ok(()) }
        }
        _ => Ok(()),
    };
    assert!(matches!(generator.generate(1, &Query::Random, &mut observe), Err(Error::Interrupted)));
    assert_eq!(steps, 3);
}

#[test]
fn weights_that_are_not_numbers_are_refused() {
    for (value, fault) in [(f32::NAN, "holds NaN"), (f32::INFINITY, "not finite")] {
        let dir = TempDir::new();
        let manifest = paper(NeighbourSource::Database);
        bundle(dir.path(), manifest.clone());
        let entry = &manifest.networks.decoder;
        let mut graph = onnx::decoder(entry, 2);
        graph.proto.initializer[0].raw_data[..4].copy_from_slice(&value.to_le_bytes());
        // Tanh would hide an infinity.
        graph.proto.node.retain(|node| node.op_type != "Tanh");
        graph.proto.node.last_mut().unwrap().input = vec!["DepthToSpace_1".into()];
        fs::write(dir.path().join(&entry.file), graph.bytes()).unwrap();
        let bundle = list_files(dir.path(), manifest.clone());
        // Zero input times an infinite weight is NaN: the warm-up tells.
        let error = Generator::open(&bundle, &Options::default()).unwrap_err();
        assert_eq!(error.exit_code(), 3);
        let text = error.to_string();
        assert!(text.contains("decoder.onnx") && text.contains(fault), "{text}");
    }
}

#[test]
fn malformed_graphs_are_named_and_do_not_panic() {
    type Damage = fn(&mut onnx::Graph);
    let damages: [(&str, Damage); 6] = [
        ("renamed output", |g| g.proto.output[0].name = "nothing".into()),
        ("output from nowhere", |g| g.proto.node.last_mut().unwrap().output = vec!["elsewhere".into()]),
        ("short weights", |g| g.proto.initializer[0].raw_data.truncate(8)),
        ("huge weights", |g| g.proto.initializer[0].dims = vec![i64::MAX, i64::MAX]),
        ("external weights", |g| g.proto.initializer[0].data_location = Some(1)),
        ("unknown operator", |g| g.proto.node[0].op_type = "Frobnicate".into()),
    ];
    for (name, damage) in damages {
        let dir = TempDir::new();
        let manifest = paper(NeighbourSource::Database);
        bundle(dir.path(), manifest.clone());
        let mut graph = onnx::denoiser(&manifest.networks.denoiser, 0);
        damage(&mut graph);
        fs::write(dir.path().join("denoiser.onnx"), graph.bytes()).unwrap();
        let bundle = list_files(dir.path(), manifest);
        let error = Generator::open(&bundle, &Options::default()).unwrap_err();
        assert!(error.exit_code() == 3 && error.to_string().contains("denoiser.onnx"), "{name}: {error}");
    }
}
