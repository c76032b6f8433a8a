//! Retrieval at scale: bytes, open time, heap, recall, time and page faults per query of a database of many pictures.
//!
//! ```sh
//! cargo bench --bench retrieval -- [PICTURES] [QUERIES]      # 200000 and 500 where not given
//! cargo bench --bench retrieval -- 20000 500 --graph         # a graph even where a scan is faster
//! cargo bench --bench retrieval -- 50000 500 --hnsw-rs       # hnsw_rs beside it, on the vectors themselves
//! cargo bench --bench retrieval -- 50000 500 --dump FOLDER   # for benches/compare/retrieval_run.py
//! cargo bench --bench retrieval -- --bundle DIR --queries FOLDER
//! ```
//! With `--bundle` the database is that of a bundle, and the queries are the pictures of a folder, through the bundle's
//! encoder; `--hnsw-rs` and `--dump` as above. Without, the latents are synthetic: 64-cell blocks of 1,024 codes (u16), a
//! picture being a random mixture of two of 2,000 prototypes with noise of its own, so that neighbours are neither equal
//! nor arbitrary, and the queries are such pictures, a little changed.
//!
//! Times are CPU time of this thread as the system counts it, so that a busy machine does not distort them. Page faults
//! are counted on Linux, after `dd` (coreutils) has told the system to drop the files from its cache: one fault is one page
//! read from storage.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use hnsw_rs::hnswio::{HnswIo, ReloadOptions};
use hnsw_rs::prelude::{AnnT, DistL2, Hnsw};
use rissole::budget::{self, CountingAllocator};
use rissole::container::Container;
use rissole::index::{FrozenIndex, IndexSettings, SearchScratch, build_index, exact_scan};
use rissole::picture::read_fitted;
use rissole::store::{BlockDatabase, DatabaseContents};
use rissole::{BlockGrid, Bundle, Generator, LatentShape, Options, Result};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

const CHANNELS: usize = 8;
const CODES: usize = 1024;
const CELLS: usize = 64;
const PROTOTYPES: usize = 2000;
const K: usize = 20;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let asked = |option: &str| arguments.iter().any(|a| a == option);
    let path =
        |option: &str| arguments.iter().position(|a| a == option).and_then(|i| arguments.get(i + 1)).map(PathBuf::from);
    let beside = Beside { hnsw_rs: asked("--hnsw-rs"), dump: path("--dump") };
    if let (Some(bundle), Some(queries)) = (path("--bundle"), path("--queries")) {
        let bundle = Bundle::open(bundle)?;
        let files = Files {
            database: bundle.path_of(&bundle.manifest.database),
            index: bundle.path_of(&bundle.manifest.index),
        };
        return measure(&files, |_| encoded(&bundle, &queries), &beside);
    }
    let numbers: Vec<usize> = arguments.iter().filter_map(|argument| argument.parse().ok()).collect();
    let pictures = numbers.first().copied().unwrap_or(200_000);
    let queries = numbers.get(1).copied().unwrap_or(500);
    let most_visited = if asked("--graph") { 1.0 } else { IndexSettings::default().most_visited };
    let settings = IndexSettings { most_visited, ..IndexSettings::default() };
    let folder = std::env::temp_dir().join(format!("rissole-bench-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a temporary folder");
    let files = Files { database: folder.join("blocks.rsdb"), index: folder.join("blocks.rshn") };
    let done =
        build(&files, settings, pictures).and_then(|()| measure(&files, |db| Queries::near(db, queries), &beside));
    std::fs::remove_dir_all(&folder).expect("the temporary folder");
    done
}

/// What else is asked for.
struct Beside {
    hnsw_rs: bool,
    dump: Option<PathBuf>,
}

struct Files {
    database: PathBuf,
    index: PathBuf,
}

impl Files {
    fn open(&self) -> Result<(BlockDatabase, FrozenIndex)> {
        let db = BlockDatabase::open(&self.database)?;
        let index = FrozenIndex::open(&self.index, &db)?;
        Ok((db, index))
    }

    /// Not mapped.
    fn open_paged(&self) -> Result<(BlockDatabase, FrozenIndex)> {
        let db = BlockDatabase::of(Container::open_paged(&self.database, BlockDatabase::KIND)?)?;
        let index = FrozenIndex::of(Container::open_paged(&self.index, FrozenIndex::KIND)?, &db)?;
        Ok((db, index))
    }
}

fn build(files: &Files, settings: IndexSettings, pictures: usize) -> Result<()> {
    synthetic(pictures).write(&files.database)?;
    let db = BlockDatabase::open(&files.database)?;
    let (summary, seconds) = timed(|| build_index(&db, 0, settings, &files.index));
    summary?;
    println!("build                {seconds:.1} CPU-s, {:.2} ms a picture", 1000.0 * seconds / pictures as f64);
    Ok(())
}

fn measure(files: &Files, queries: impl FnOnce(&BlockDatabase) -> Result<Queries>, beside: &Beside) -> Result<()> {
    let (db, index) = files.open()?;
    let (pictures, summary) = (db.images(), index.summary());
    let rows = db.positions() as u64 * u64::from(pictures);
    println!("{pictures} pictures, {} positions of {} cells; {summary:?}", db.positions(), db.block().cells());
    println!("database             {:.1} bytes a position and picture", db.len_bytes() as f64 / rows as f64);
    println!("index                {:.1} bytes a picture", index.len_bytes() as f64 / f64::from(pictures));
    let (verified, seconds) = timed(|| db.verify().and_then(|()| index.verify()));
    verified?;
    println!("verified             {seconds:.2} CPU-s: every code, every link, every node reachable");
    let queries = queries(&db)?;
    drop((db, index));

    let heap = budget::live_bytes();
    budget::reset_peak();
    let started = Instant::now();
    let (db, index) = files.open()?;
    println!("open                 {:.3} ms (wall)", 1000.0 * started.elapsed().as_secs_f64());
    let (mut scratch, mut exact) = (SearchScratch::default(), SearchScratch::default());
    index.search(&db, queries.block(0), K, None, &mut scratch)?;
    println!("heap, open and query {} KiB", (budget::peak_bytes() - heap) / 1024);
    exact_scan(&db, summary.position, queries.block(0), K, None, &mut exact)?;

    // The distance of the K-th true neighbour; fewer queries for the slow scan.
    let scanned = queries.count.min(100);
    let mut bounds = Vec::with_capacity(scanned);
    let (done, by_scan) = timed(|| {
        (0..scanned).try_for_each(|query| {
            let near = exact_scan(&db, summary.position, queries.block(query), K, None, &mut exact)?;
            bounds.push(near.last().map_or(0.0, |n| n.distance));
            Ok(())
        })
    });
    done?;
    let (mut right, mut peak) = (0, 0);
    let live = budget::live_bytes();
    budget::reset_peak();
    let (done, by_search) = timed(|| {
        let done = (0..queries.count).try_for_each(|query| {
            let near = index.search(&db, queries.block(query), K, None, &mut scratch)?;
            right += bounds.get(query).map_or(0, |bound| near.iter().filter(|n| n.distance <= *bound).count());
            Ok(())
        });
        peak = budget::peak_bytes();
        done
    });
    done?;
    let recall = right as f64 / (K * scanned) as f64;
    println!("heap, {} queries more {} bytes", queries.count, peak - live);
    println!("recall@{K}            {recall:.4} on pictures from outside");
    println!("search               {:.0} CPU-µs a query", 1e6 * by_search / queries.count as f64);
    println!("exact scan           {:.0} CPU-µs a query", 1e6 * by_scan / scanned as f64);
    if let Some(folder) = &beside.dump {
        let ours = format!(
            "{{\"recall\": {recall}, \"microseconds\": {}, \"file_bytes\": {}}}\n",
            1e6 * by_search / queries.count as f64,
            db.len_bytes() + index.len_bytes()
        );
        dump(folder, &vectors(&db, summary.position)?, &queries, &bounds, &ours).expect("a folder to dump to");
    }
    drop((db, index));
    faults(files, &queries)?;
    let (db, index) = files.open_paged()?;
    index.search(&db, queries.block(0), K, None, &mut scratch)?;
    let (done, by_pages) = timed(|| {
        (0..queries.count)
            .try_for_each(|query| index.search(&db, queries.block(query), K, None, &mut scratch).map(|_| ()))
    });
    done?;
    println!("search, not mapped   {:.0} CPU-µs a query", 1e6 * by_pages / queries.count as f64);
    if beside.hnsw_rs {
        hnsw_rs_beside(&vectors(&db, summary.position)?, &queries, &bounds, recall);
    }
    Ok(())
}

/// Pages that a query has the system read: with nothing of the files in its cache, and with all of the index in it. The
/// files are opened anew for each query, which is not counted.
fn faults(files: &Files, queries: &Queries) -> Result<()> {
    for (what, warm) in [("nothing cached", false), ("index cached", true)] {
        let mut counts = Vec::new();
        for query in 0..queries.count.min(50) {
            if !(forget(&files.database) && forget(&files.index)) {
                println!("page faults          not counted: no dd that can drop a file from the cache");
                return Ok(());
            }
            let (db, index) = files.open()?;
            if warm {
                std::fs::read(&files.index).expect("the index");
            }
            let mut scratch = SearchScratch::default();
            let Some(before) = major_faults() else { return Ok(()) };
            index.search(&db, queries.block(query), K, None, &mut scratch)?;
            counts.push(major_faults().unwrap_or(before) - before);
        }
        counts.sort_unstable();
        let mean = counts.iter().sum::<u64>() as f64 / counts.len() as f64;
        println!("page faults          {mean:.0} a query, at most {}, {what}", counts[counts.len() - 1]);
    }
    Ok(())
}

/// Has the system drop the file at `path`, which nothing maps, from its cache.
fn forget(path: &Path) -> bool {
    let mut input = std::ffi::OsString::from("if=");
    input.push(path);
    let done = Command::new("dd").arg(input).args(["iflag=nocache", "count=0"]).stderr(Stdio::null()).status();
    done.is_ok_and(|status| status.success())
}

/// Faults of this process that were read from storage (proc_pid_stat(5), field 12).
fn major_faults() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/stat").ok()?;
    text.rsplit(')').next()?.split_whitespace().nth(9)?.parse().ok()
}

/// All blocks of `db` at `position`, one after the other.
fn vectors(db: &BlockDatabase, position: usize) -> Result<Vec<f32>> {
    let len = db.block().len();
    let mut vectors = vec![0.0; len * db.images() as usize];
    (0..).zip(vectors.chunks_exact_mut(len)).try_for_each(|(image, out)| db.read_block(image, position, out))?;
    Ok(vectors)
}

/// Writes what another system needs to answer the same queries and to be judged: little-endian f32, no header.
fn dump(folder: &Path, vectors: &[f32], queries: &Queries, bounds: &[f32], ours: &str) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    for (name, values) in [("vectors.f32", vectors), ("queries.f32", &queries.blocks), ("bounds.f32", bounds)] {
        std::fs::write(folder.join(name), values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>())?;
    }
    std::fs::write(folder.join("rissole.json"), ours)
}

/// hnsw_rs over the vectors, with the settings that our graph is built with, at the least `ef` that reaches `recall`: in
/// memory, and as reloaded from its own files with the vectors mapped.
fn hnsw_rs_beside(vectors: &[f32], queries: &Queries, bounds: &[f32], recall: f64) {
    let IndexSettings { connections, ef_construction, .. } = IndexSettings::default();
    let count = vectors.len() / queries.block;
    let heap = budget::live_bytes();
    let graph = Hnsw::<f32, DistL2>::new(connections, count, 16, ef_construction, DistL2 {});
    let ((), seconds) = timed(|| {
        vectors.chunks_exact(queries.block).enumerate().for_each(|(id, vector)| graph.insert((vector, id)));
    });
    println!("hnsw_rs, build       {:.2} CPU-ms a picture", 1000.0 * seconds / count as f64);
    println!("hnsw_rs, heap        {} KiB", (budget::live_bytes() - heap) / 1024);
    let enough = [20, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024];
    let enough = enough.into_iter().find(|&ef| ask_hnsw_rs("hnsw_rs", &graph, ef, queries, bounds) >= recall);
    let Some(ef) = enough else { return };

    let folder = std::env::temp_dir().join(format!("rissole-bench-hnsw-rs-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a temporary folder");
    let name = graph.file_dump(&folder, "dump").expect("hnsw_rs writes its files");
    drop(graph);
    let heap = budget::live_bytes();
    let mut files = HnswIo::new_with_options(&folder, &name, ReloadOptions::new(true));
    let graph: Hnsw<'_, f32, DistL2> = files.load_hnsw().expect("hnsw_rs reads its files");
    println!("hnsw_rs, mapped heap {} KiB", (budget::live_bytes() - heap) / 1024);
    ask_hnsw_rs("hnsw_rs, mapped", &graph, ef, queries, bounds);
    std::fs::remove_dir_all(&folder).expect("the temporary folder");
}

/// The recall at `ef`; says it, and the time.
fn ask_hnsw_rs(what: &str, graph: &Hnsw<'_, f32, DistL2>, ef: usize, queries: &Queries, bounds: &[f32]) -> f64 {
    let mut right = 0;
    let ((), seconds) = timed(|| {
        for query in 0..queries.count {
            let near = graph.search(queries.block(query), K, ef);
            // Its distances are roots of sums in another order: a neighbour at the bound may be a hair beyond.
            let within = |bound: &f32| near.iter().filter(|n| n.distance * n.distance <= bound * 1.00001).count();
            right += bounds.get(query).map_or(0, within);
        }
    });
    let found = right as f64 / (K * bounds.len()) as f64;
    let microseconds = 1e6 * seconds / queries.count as f64;
    println!("{what}, ef {ef:4}     recall {found:.4}, {microseconds:.0} CPU-µs a query");
    found
}

/// What is asked.
struct Queries {
    blocks: Vec<f32>,
    block: usize,
    count: usize,
}

impl Queries {
    /// Pictures of the database with a little noise.
    fn near(db: &BlockDatabase, count: usize) -> Result<Self> {
        let block = db.block().len();
        let mut random = Random(77);
        let mut blocks = vec![0.0; block * count];
        for out in blocks.chunks_exact_mut(block) {
            db.read_block(random.below(db.images() as usize) as u32, 0, out)?;
            out.iter_mut().for_each(|v| *v += 0.2 * (random.unit() - 0.5));
        }
        Ok(Self { blocks, block, count })
    }

    fn block(&self, query: usize) -> &[f32] {
        &self.blocks[query * self.block..][..self.block]
    }
}

/// The pictures in `folder`, as `bundle` looks pictures up.
fn encoded(bundle: &Bundle, folder: &Path) -> Result<Queries> {
    let mut generator = Generator::open(bundle, &Options::default())?;
    let (grid, manifest) = (*generator.grid(), bundle.manifest.clone());
    let mut files: Vec<_> =
        std::fs::read_dir(folder).expect("a folder of pictures").flatten().map(|e| e.path()).collect();
    files.retain(|file| file.extension().is_some_and(|ending| ending == "png"));
    files.sort();
    let block = grid.block().len();
    let mut blocks = vec![0.0; block * files.len()];
    for (file, out) in files.iter().zip(blocks.chunks_exact_mut(block)) {
        let latent = generator.encode(&read_fitted(file, manifest.image)?)?;
        match grid.block_at(manifest.retrieval.query_position) {
            Some(block) => grid.read_block(&latent, block, out),
            None => out.copy_from_slice(&grid.average_down(&latent, 0)),
        }
    }
    Ok(Queries { blocks, block, count: files.len() })
}

/// `pictures` pictures of one block.
fn synthetic(pictures: usize) -> DatabaseContents {
    let mut random = Random(1);
    let latent = LatentShape { channels: CHANNELS, height: 8, width: 8 };
    let grid = BlockGrid::new(latent, 1, 1, false, 0).expect("a sound grid");
    let codebook = (0..CODES * CHANNELS).map(|_| random.unit() + random.unit() + random.unit() - 1.5).collect();
    let prototypes: Vec<u16> = (0..PROTOTYPES * CELLS).map(|_| random.below(CODES) as u16).collect();
    let mut codes = Vec::with_capacity(pictures * CELLS);
    for _ in 0..pictures {
        let parents = [random.below(PROTOTYPES), random.below(PROTOTYPES)];
        let (share, noise) = (random.unit(), 0.05 + 0.25 * random.unit());
        codes.extend((0..CELLS).map(|cell| match random.unit() {
            r if r < noise => random.below(CODES) as u16,
            _ => prototypes[parents[usize::from(random.unit() < share)] * CELLS + cell],
        }));
    }
    DatabaseContents { grid, codebook, thumbnail_codebook: None, codes: vec![codes], names: vec![] }
}

/// What `work` gives, and the CPU seconds that this process spent on it (wall time where the system does not tell).
fn timed<T>(work: impl FnOnce() -> T) -> (T, f64) {
    let (before, started) = (cpu_seconds(), Instant::now());
    let done = work();
    let seconds = match (before, cpu_seconds()) {
        (Some(before), Some(after)) => after - before,
        _ => started.elapsed().as_secs_f64(),
    };
    (done, seconds)
}

/// CPU time of this process: the first number of `/proc/self/schedstat`, in nanoseconds.
fn cpu_seconds() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/self/schedstat").ok()?;
    Some(text.split_whitespace().next()?.parse::<u64>().ok()? as f64 / 1e9)
}

/// SplitMix64 (Steele et al. 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 24) as f32
    }
}
