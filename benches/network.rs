//! Time of one run of each network of a bundle, by our own operators and by tract, and of the decoder in tiles, with the
//! heap that it takes: `cargo bench --bench network`. The bundle is `models/avatars64`, or the folder in
//! `RISSOLE_MODEL`. With `-- --json`, one JSON object a line; with `-- --only FILE`, that network of the bundle alone, not
//! in tiles; with `-- --once FILE ours|tract`, that network loaded and run twice: time to the end of the first run, memory
//! and the output, as JSON; with `-- --threads N`, each network by 1 thread and by more, up to N: best and median of the time
//! of day, in turn.
//!
//! All run in turn, on one thread, a batch of runs at a time; printed are medians of the batches' processor time for
//! one run, which other programs disturb less than the time of day.

use std::hint::black_box;
use std::time::Instant;

use rissole::budget::{self, CountingAllocator};
use rissole::bundle::manifest::NetworkEntry;
use rissole::network::{Engine, Network};
use rissole::threads::Threads;
use rissole::{Bundle, Error, Result};
use serde_json::json;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Batches, and time that one should take: Linux brings processor time up to date every few milliseconds.
const BATCHES: usize = 15;
const BATCH_MS: f64 = 100.0;

fn main() -> Result<()> {
    let folder = std::env::var("RISSOLE_MODEL").unwrap_or_else(|_| "models/avatars64".into());
    let bundle = Bundle::open(folder)?;
    let networks = &bundle.manifest.networks;
    let all = [&networks.conditioner, &networks.denoiser, &networks.decoder];
    let entries: Vec<_> = all.into_iter().chain(&networks.encoder).collect();
    let arguments: Vec<String> = std::env::args().collect();
    let after = |name: &str| arguments.iter().position(|argument| argument == name).map(|at| &arguments[at + 1..]);
    let named = |words: &[String]| {
        let entry = entries.iter().find(|entry| words.first() == Some(&entry.file));
        entry.copied().ok_or_else(|| Error::Usage("which file of the bundle?".into()))
    };
    if let Some(words) = after("--once") {
        return once(&bundle, named(words)?, words.get(1).is_some_and(|engine| engine == "tract"));
    }
    if let Some(words) = after("--threads") {
        let most = words.first().and_then(|word| word.parse().ok());
        let most = most.ok_or_else(|| Error::Usage("how many threads?".into()))?;
        return entries.iter().try_for_each(|entry| by_threads(&bundle, entry, most));
    }
    let is_json = after("--json").is_some();
    if !is_json {
        println!("{:<18} {:>9} {:>9} {:>7}", "network", "ours ms", "tract ms", "ratio");
    }
    if let Some(words) = after("--only") {
        return compare(&bundle, named(words)?, is_json);
    }
    entries.iter().try_for_each(|entry| compare(&bundle, entry, is_json))?;
    tiles(&bundle, is_json)
}

fn compare(bundle: &Bundle, entry: &NetworkEntry, is_json: bool) -> Result<()> {
    let path = bundle.path_of(&entry.file);
    let ours = Network::load(&path, entry)?;
    if ours.engine() == Engine::Tract {
        eprintln!("{:<18} not covered by our operators", entry.file);
        return Ok(());
    }
    // tract has no integers of more than 8 bits.
    let tract = Network::load_with_tract(&path, entry).inspect_err(|error| eprintln!("not by tract: {error}")).ok();
    let inputs: Vec<Vec<f32>> = ours.input_lens().map(values).collect();
    let inputs: Vec<&[f32]> = inputs.iter().map(Vec::as_slice).collect();
    let mut out = vec![0.0; ours.output_len()];
    let mut run = |network: &Network| network.run(black_box(&inputs), black_box(&mut out));
    let both: Vec<&Network> = [Some(&ours), tract.as_ref()].into_iter().flatten().collect();
    match (&medians(&both, &mut run)?[..], is_json) {
        (&[ours, tract], true) => println!("{}", json!({"network": entry.file, "ours": ours, "tract": tract})),
        (&[ours, tract], false) => println!("{:<18} {ours:>9.3} {tract:>9.3} {:>7.2}", entry.file, tract / ours),
        (times, true) => println!("{}", json!({"network": entry.file, "ours": times[0]})),
        (times, false) => println!("{:<18} {:>9.3}", entry.file, times[0]),
    }
    Ok(())
}

/// What the networks are run on.
fn values(len: usize) -> Vec<f32> {
    (0..len).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect()
}

/// Loads a network and runs it twice, in a process that has done nothing else.
fn once(bundle: &Bundle, entry: &NetworkEntry, by_tract: bool) -> Result<()> {
    // From here on, the peak of what is resident counts anew; without that, it is the whole process's.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
    let (resident, anonymous) = (status_kib("VmRSS:"), status_kib("RssAnon:"));
    let started = Instant::now();
    let (done, cost) = budget::cost_of(|| {
        let network = match by_tract {
            true => Network::load_with_tract(bundle.path_of(&entry.file), entry)?,
            false => Network::open(bundle, entry)?,
        };
        let inputs: Vec<Vec<f32>> = network.input_lens().map(values).collect();
        let inputs: Vec<&[f32]> = inputs.iter().map(Vec::as_slice).collect();
        let mut out = vec![0.0; network.output_len()];
        network.run(&inputs, &mut out)?;
        let first_ms = started.elapsed().as_secs_f64() * 1e3;
        network.run(&inputs, &mut out)?;
        let grown = |name, before: u64| status_kib(name).saturating_sub(before) * 1024;
        Ok::<_, Error>((first_ms, grown("VmHWM:", resident), grown("RssAnon:", anonymous), out))
    });
    let (first_ms, resident, anonymous, output) = done?;
    println!(
        "{}",
        json!({
            "first_ms": first_ms, "heap": cost.peak, "resident": resident, "anonymous": anonymous, "output": output,
        })
    );
    Ok(())
}

/// A figure of /proc/self/status; 0 where there is none.
fn status_kib(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.trim().trim_end_matches("kB").trim_end().parse().ok()).unwrap_or(0)
}

/// A network's run shared by 1…`most` threads.
fn by_threads(bundle: &Bundle, entry: &NetworkEntry, most: usize) -> Result<()> {
    let network = Network::open(bundle, entry)?;
    let inputs: Vec<Vec<f32>> = network.input_lens().map(values).collect();
    let inputs: Vec<&[f32]> = inputs.iter().map(Vec::as_slice).collect();
    let mut out = vec![0.0; network.output_len()];
    let start = |count| Threads::start(count).map_err(|error| Error::Usage(error.to_string()));
    let teams = (1..=most).map(start).collect::<Result<Vec<_>>>()?;
    let mut times = vec![vec![]; teams.len()];
    for _ in 0..BATCHES * 10 {
        for (threads, times) in teams.iter().zip(&mut times) {
            // The first wakes them, and finds the caches cold.
            network.run_by(threads, black_box(&inputs), black_box(&mut out))?;
            let started = Instant::now();
            (0..5).try_for_each(|_| network.run_by(threads, black_box(&inputs), black_box(&mut out)))?;
            times.push(started.elapsed().as_secs_f64() * 1e3 / 5.0);
        }
    }
    let figures: Vec<(f64, f64)> = times.into_iter().map(|times| (best(&times), median(times))).collect();
    let (best_alone, median_alone) = figures[0];
    println!("{}", entry.file);
    for (i, (best, median)) in figures.into_iter().enumerate() {
        let gains = (best_alone / best, median_alone / median);
        println!("{:>4} threads: best {best:.3} ms, {:.2}×; median {median:.3} ms, {:.2}×", i + 1, gains.0, gains.1);
    }
    Ok(())
}

fn best(times: &[f64]) -> f64 {
    times.iter().copied().fold(f64::INFINITY, f64::min)
}

/// Smallest tiles, in pixels.
const SMALLEST_TILE: usize = 16;

/// The decoder at once and in smaller and smaller tiles, its weights in place in the packed file where there is one.
fn tiles(bundle: &Bundle, is_json: bool) -> Result<()> {
    let entry = &bundle.manifest.networks.decoder;
    let longer = bundle.manifest.image.width.max(bundle.manifest.image.height);
    let (mut sides, mut networks) = (vec![], vec![]);
    let halved = |side: &usize| Some(side.div_ceil(2)).filter(|side| *side >= SMALLEST_TILE);
    for side in std::iter::successors(Some(longer), halved) {
        let mut network = Network::open(bundle, entry)?;
        // The first is the whole.
        if !sides.is_empty()
            && let Err(why) = network.cut(side)
        {
            eprintln!("{:<18} not in tiles: {why}", entry.file);
            return Ok(());
        }
        sides.push(side);
        networks.push(network);
    }
    let input = values(networks[0].input_lens().sum());
    let mut run = |network: &Network| {
        network.run_tiles(black_box(&input), &mut |_, values| {
            black_box(values);
        })
    };
    let mut heaps = vec![];
    for network in &networks {
        let (ran, cost) = budget::cost_of(|| run(network));
        ran?;
        heaps.push(cost.peak);
    }
    let times = medians(&networks.iter().collect::<Vec<_>>(), &mut run)?;
    if !is_json {
        println!("\n{:<18} {:>9} {:>9} {:>7}", "in tiles of", "heap KiB", "ms", "ratio");
    }
    for ((side, heap), time) in sides.iter().zip(heaps).zip(&times) {
        match is_json {
            true => println!("{}", json!({"network": entry.file, "tile": side, "heap": heap, "ms": time})),
            false => println!("{:<18} {:>9} {time:>9.3} {:>7.2}", side, heap / 1024, time / times[0]),
        }
    }
    Ok(())
}

/// Milliseconds that each network takes for one `run`, all in turn.
fn medians(networks: &[&Network], run: &mut dyn FnMut(&Network) -> Result<()>) -> Result<Vec<f64>> {
    let mut times = vec![vec![]; networks.len()];
    for _ in 0..BATCHES {
        for (network, times) in networks.iter().zip(&mut times) {
            let (started, mut runs) = (Clock::now(), 0);
            while started.elapsed_ms() < BATCH_MS {
                run(network)?;
                runs += 1;
            }
            times.push(started.elapsed_ms() / f64::from(runs));
        }
    }
    Ok(times.into_iter().map(median).collect())
}

/// The processor time of this thread where Linux tells it, else the time of day.
struct Clock {
    day: Instant,
    processor: Option<u64>,
}

impl Clock {
    fn now() -> Self {
        Self { day: Instant::now(), processor: processor_ns() }
    }

    fn elapsed_ms(&self) -> f64 {
        match (self.processor, processor_ns()) {
            (Some(before), Some(now)) => (now - before) as f64 * 1e-6,
            _ => self.day.elapsed().as_secs_f64() * 1e3,
        }
    }
}

fn processor_ns() -> Option<u64> {
    std::fs::read_to_string("/proc/thread-self/schedstat").ok()?.split(' ').next()?.parse().ok()
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
