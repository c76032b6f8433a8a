//! The RAM budget. One test alone in its process: others would allocate meanwhile.

mod common;

use std::path::Path;

use common::{TempDir, bundle, manifest};
use rissole::budget::{self, CountingAllocator};
use rissole::bundle::manifest::{Coherence, NeighbourSource};
use rissole::generator::{Event, Generator, Options, Picture, Query};
use rissole::{Bundle, Error, Result};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

fn draw(bundle: &Bundle, options: &Options) -> Result<Picture> {
    Generator::open(bundle, options)?.generate(7, &Query::Random, &mut |_| Ok(()))
}

/// With `options` and budgets around what they need.
fn check(bundle: &Bundle, options: &Options) -> u64 {
    let free = draw(bundle, options).unwrap();
    assert!(free.report.peak_heap.is_some());
    let with = |ram_budget| Options { ram_budget: Some(ram_budget), ..options.clone() };

    let Err(Error::Budget { needs, budget: 1000 }) = draw(bundle, &with(1000)) else { panic!("not refused") };
    assert!(matches!(draw(bundle, &with(needs / 2)), Err(Error::Budget { .. })));

    // What it says it needs is enough, and is not overrun.
    for spare in [0, needs] {
        let allowed = needs + spare;
        budget::reset_peak();
        let tight = draw(bundle, &with(allowed)).unwrap();
        assert!(budget::peak_bytes() <= allowed, "peak {} of {allowed}", budget::peak_bytes());
        assert_eq!(tight.image, free.image);
    }
    needs
}

#[test]
fn a_budget_is_kept_or_refused() {
    let shipped = Bundle::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("models/avatars64")).unwrap();
    for threads in [1, 2] {
        check(&shipped, &Options { threads, steps: Some(3), ..Options::default() });
    }

    // At every budget: the picture, within it, or a refusal that names what would do.
    let options = Options { threads: 2, steps: Some(1), ..Options::default() };
    let free = draw(&shipped, &options).unwrap();
    let mut drawn = 0;
    for ram_budget in (1 << 20..=6 << 20).step_by(128 << 10) {
        budget::reset_peak();
        match draw(&shipped, &Options { ram_budget: Some(ram_budget), ..options.clone() }) {
            Ok(picture) => {
                assert!(budget::peak_bytes() <= ram_budget, "peak {} of {ram_budget}", budget::peak_bytes());
                assert_eq!(picture.image, free.image);
                drawn += 1;
            }
            Err(Error::Budget { needs, budget }) => assert!(budget == ram_budget && needs > budget && drawn == 0),
            Err(error) => panic!("{error}"),
        }
    }
    assert!(drawn > 8, "{drawn} budgets of 1 MiB to 6 MiB were kept");

    let dir = TempDir::new();
    let coherence = Coherence { thumbnail: true, margin: 1, position_embedding: true, previous_block: false };
    let bundle = bundle(dir.path(), manifest(coherence, NeighbourSource::Database));
    let needs = check(&bundle, &Options::default());

    // With one stage in RAM at a time, there is no decoder to preview with.
    let tight = Options { ram_budget: Some(needs), ..Options::default() };
    let mut generator = Generator::open(&bundle, &tight).unwrap();
    let mut previews = 0;
    let mut observe = |event: Event<'_>| {
        if let Event::Block { preview, .. } = event {
            previews += usize::from(preview.picture()?.is_some());
        }
        Ok(())
    };
    let first = generator.generate(7, &Query::Random, &mut observe).unwrap();
    let second = generator.generate(7, &Query::Image(first.image.clone()), &mut observe).unwrap();
    assert_eq!(previews, 0);
    assert_eq!(second.latent.len(), first.latent.len());
}
