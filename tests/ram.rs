//! The RAM budget. One test alone in its process: others would allocate meanwhile.

mod common;
#[path = "common/container.rs"]
mod container;

use std::fs;
use std::path::Path;

use common::{TempDir, bundle, manifest};
use container::{edit_section, put};
use rissole::budget::{self, CountingAllocator};
use rissole::bundle::Storage;
use rissole::bundle::manifest::{Coherence, NeighbourSource};
use rissole::container::{SectionId, source, write};
use rissole::generator::{Event, Generator, Options, Picture, Plan, Query, Residency};
use rissole::index::FrozenIndex;
use rissole::store::{BlockDatabase, DatabaseContents};
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
    let read = Bundle { storage: Storage::Read, ..shipped.clone() };
    check(&read, &Options { steps: Some(2), ..Options::default() });

    // Of every block at work guidance holds a second condition and a second prediction.
    let mut guided = shipped.clone();
    guided.manifest.retrieval.guidance = Some(1.5);
    check(&guided, &Options { threads: 2, steps: Some(2), ..Options::default() });
    let walk = |guidance| {
        let options = Options { guidance: Some(guidance), ..Options::default() };
        Generator::plans(&guided, &options).unwrap()[0].stages[0].peak
    };
    let grid = guided.manifest.block_grid().unwrap();
    let condition: usize = guided.manifest.networks.conditioner.outputs[0].shape.iter().product();
    assert_eq!(walk(1.5) - walk(1.0), (4 * grid.blocks() * (condition + grid.block().len())) as u64);

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
    check(&bundle(dir.path(), common::pyramid()), &Options { threads: 2, ..Options::default() });

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
    // A picture to look up, and the one that is kept here, are not held while there is more to hold.
    let kept = (first.image.len() + 4 * first.latent.len()) as u64;
    let query = Query::Image(first.image.clone());
    budget::reset_peak();
    let second = generator.generate(7, query, &mut observe).unwrap();
    assert!(budget::peak_bytes() <= needs + kept, "peak {} of {needs} beside {kept}", budget::peak_bytes());
    assert_eq!(previews, 0);
    assert_eq!(second.latent.len(), first.latent.len());

    let plans = every_plan_draws_the_same_picture(&shipped, &options);
    assert!(plans.len() >= 4, "{plans:#?}");
    // One whose decoder is the largest, on 38×45 cells.
    let wide = TempDir::new();
    let wide_manifest = common::manifest_of(coherence, NeighbourSource::Database, [38, 45]);
    let mut local = common::bundle(wide.path(), wide_manifest.clone());
    let entry = &local.manifest.networks.decoder;
    let graph = |entry: &_| common::onnx::local_decoder(entry, wide_manifest.latent.downsampling, 96);
    fs::write(local.path_of(&entry.file), graph(entry).bytes()).unwrap();
    local = common::list_files(wide.path(), local.manifest);
    let plans = every_plan_draws_the_same_picture(&local, &Options::default());
    let order: Vec<_> = plans.iter().map(|plan| (plan.residency, plan.tile)).collect();
    assert_eq!(
        order[..3],
        [(Residency::Together, None), (Residency::StageByStage, None), (Residency::Together, Some(46))]
    );
    assert_eq!(order.last(), Some(&(Residency::StageByStage, Some(24))));
    // What the decoder would work in is not taken to find out that it is too much.
    let (before, [_, decode]) = (budget::live_bytes(), plans[1].stages);
    budget::reset_peak();
    let refused = draw(&local, &Options { ram_budget: Some(100_000), ..Options::default() });
    assert!(matches!(refused, Err(Error::Budget { .. })));
    assert!(budget::peak_bytes() < before + decode.held / 2, "{} from {before}", budget::peak_bytes());

    let swell = |bytes| {
        let entry = &local.manifest.networks.decoder;
        let mut swollen = graph(entry);
        swollen.proto.doc_string = "x".repeat(bytes);
        fs::write(local.path_of(&entry.file), swollen.bytes()).unwrap();
        common::list_files(wide.path(), local.manifest.clone())
    };
    // Loading may take more than drawing.
    let swollen = swell(6 << 20);
    let loads = every_plan_draws_the_same_picture(&swollen, &Options::default());
    assert!(loads[0].stages[1].peak > plans[0].stages[1].peak, "{loads:#?}");
    // Nor is a network read that cannot fit, where it is large.
    let swollen = swell(20 << 20);
    for storage in [Storage::Mapped, Storage::Read] {
        let bundle = Bundle { storage, ..swollen.clone() };
        budget::reset_peak();
        let refused = draw(&bundle, &Options { ram_budget: Some(5 << 20), ..Options::default() });
        assert!(matches!(refused, Err(Error::Budget { needs, .. }) if needs > 20 << 20));
        assert!(budget::peak_bytes() <= 5 << 20, "peak {}", budget::peak_bytes());
    }

    files_beyond_the_budget_are_not_held(&bundle);
}

/// With what a plan needs as the budget, that plan is taken, kept to, and no pixel differs, previews' neither.
fn every_plan_draws_the_same_picture(bundle: &Bundle, options: &Options) -> Vec<Plan> {
    let free = draw(bundle, options).unwrap();
    let plans = Generator::plans(bundle, options).unwrap();
    for plan in &plans {
        budget::reset_peak();
        // For the plans themselves.
        let allowed = plan.needs() + 4096;
        let tight = Options { ram_budget: Some(allowed), ..options.clone() };
        let mut generator = Generator::open(bundle, &tight).unwrap();
        let mut previews = 0;
        let drawn = generator.generate(7, &Query::Random, &mut |event: Event<'_>| {
            if let Event::Block { preview, .. } = event {
                previews += usize::from(preview.picture()?.is_some());
            }
            Ok(())
        });
        assert_eq!(drawn.unwrap().image, free.image, "{plan}");
        assert!(budget::peak_bytes() <= allowed, "peak {} of {allowed}: {plan}", budget::peak_bytes());
        assert_eq!(previews > 0, plan.residency == Residency::Together, "{plan}");
        assert_eq!(generator.decode(&free.latent).unwrap(), free.image, "{plan}");
    }
    plans
}

/// What is held as a whole though nothing is mapped is counted before it is read: codebooks, nodes of upper levels. So is
/// what a search works in.
fn files_beyond_the_budget_are_not_held(sound: &Bundle) {
    let refused = |storage: Storage, ram_budget: u64| {
        let bundle = Bundle { storage, ..sound.clone() };
        budget::reset_peak();
        let opened = Generator::open(&bundle, &Options { ram_budget: Some(ram_budget), ..Options::default() });
        assert!(matches!(opened, Err(Error::Budget { .. })), "{opened:?}");
        assert!(budget::peak_bytes() <= ram_budget, "peak {} of {ram_budget}", budget::peak_bytes());
    };
    let (database, index) = (sound.path_of(&sound.manifest.database), sound.path_of(&sound.manifest.index));
    let grid = sound.manifest.block_grid().unwrap();
    let codes = vec![vec![0; IMAGES as usize * grid.block().cells()]; grid.positions()];
    let entries = vec![0.0; sound.manifest.latent.codebook_size * grid.latent().channels];
    let (codebook, thumbnail_codebook) = (entries.clone(), Some(entries));
    DatabaseContents { grid, codebook, thumbnail_codebook, codes, names: vec![] }.write(&database).unwrap();
    let hash = BlockDatabase::open(&database).unwrap().content_hash();

    write_index(&index, 16, 64, hash);
    refused(Storage::Read, 2 << 20);
    write_index(&index, 1, 65_536, hash);
    refused(Storage::Read, 1 << 20);
    refused(Storage::Mapped, 1 << 20);

    // A codebook of 65,536 entries of 64 channels: 16 MiB.
    put(&database, b"head", 0, 1, &[64]);
    put(&database, b"head", 0, 6, &[65_536]);
    edit_section(&database, b"book", 0, |book| book.resize(16 << 20, 0));
    refused(Storage::Read, 4 << 20);
}

const IMAGES: u32 = 70_000;

/// An index of [`IMAGES`] nodes without links, all on each of its `levels`.
fn write_index(path: &Path, levels: u32, ef: u32, database: [u8; 32]) {
    let words = |words: Vec<u32>| source(words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>());
    let share = 1f32.to_bits();
    let head = [IMAGES, 0, 1, IMAGES, levels, 0, 16, 100, ef, 20, share, share, 0, 0, 0, 0];
    let head = [head.map(u32::to_le_bytes).concat(), database.to_vec()].concat();
    let offsets = || words(vec![0; IMAGES as usize + 1]);
    let mut sections = vec![
        (SectionId(*b"head", 0), source(head)),
        (SectionId(*b"mofs", 0), words((0..=IMAGES).collect())),
        (SectionId(*b"memb", 0), words((0..IMAGES).collect())),
    ];
    for level in 0..levels {
        sections.extend([(SectionId(*b"offs", level), offsets()), (SectionId(*b"link", level), words(vec![]))]);
        sections.extend((level > 0).then(|| (SectionId(*b"node", level), words((0..IMAGES).collect()))));
    }
    write(path, FrozenIndex::KIND, sections).unwrap();
}
