//! `rissole inspect`: what a picture was made with, what a bundle holds.

mod plan;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::{Args, ValueHint};
use rissole::bundle::manifest::NeighbourSource;
use rissole::index::FrozenIndex;
use rissole::network::{Engine, Network};
use rissole::picture::{Parameters, read_png_text};
use rissole::store::BlockDatabase;
use rissole::{BlockGrid, Bundle, Error, Manifest, Result};
use serde::Serialize;
use serde_json::{Value, json};

use crate::args::Machine;
use crate::output::folder_of;
use crate::terminal::{Console, bytes};

/// Show what a picture was made with, or what a bundle holds
///
/// Of a PNG: the parameters in its text chunks. Of a bundle: the manifest, the sizes of its files, what runs its
/// networks, its measured quality and where it comes from.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rissole inspect rissole-7.png
  rissole inspect models/avatars64
  rissole inspect models/avatars64 --plan --ram-budget 8MiB
  rissole inspect models/avatars64 --json | jq .manifest.quality")]
pub struct Inspect {
    /// A PNG, the folder of a bundle, or a database or index in it
    #[arg(value_name = "FILE|DIR", value_hint = ValueHint::AnyPath)]
    path: PathBuf,
    /// Show in which ways pictures can be drawn from the bundle, what memory each takes, and which is taken
    #[arg(long)]
    plan: bool,
    #[command(flatten)]
    machine: Machine,
}

impl Inspect {
    /// Runs the subcommand.
    pub fn run(self, console: &Console) -> Result<()> {
        if !self.plan && self.machine.is_named() {
            return Err(Error::Usage("--threads and --ram-budget go with --plan".into()));
        }
        if self.plan {
            return plan::show(&Bundle::open(&self.path)?, &self.machine.options(), console);
        }
        if self.path.is_dir() {
            return inspect_bundle(&self.path, console);
        }
        let start = first_bytes(&self.path)?;
        match (&start[..8], &start[12..]) {
            (b"\x89PNG\r\n\x1a\n", _) => inspect_picture(&self.path, console),
            (b"\x89RSL\r\n\x1a\n", b"rsdb") => inspect_database(&self.path, console),
            (b"\x89RSL\r\n\x1a\n", b"rshn") => inspect_index(&self.path, console),
            _ => Err(Error::file(&self.path, "is neither a PNG, nor a file or the folder of a bundle")),
        }
    }
}

/// The first sixteen bytes of the file at `path`, zeros where it is shorter.
fn first_bytes(path: &Path) -> Result<[u8; 16]> {
    if !std::fs::metadata(path).map_err(|e| Error::io(path, e))?.is_file() {
        return Err(Error::file(path, "is not a regular file"));
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|e| Error::io(path, e))?;
    file.take(16).read_to_end(&mut bytes).map_err(|e| Error::io(path, e))?;
    bytes.resize(16, 0);
    Ok(bytes.try_into().unwrap_or_default())
}

fn inspect_picture(path: &Path, console: &Console) -> Result<()> {
    let text = read_png_text(path)?;
    let parameters = Parameters::from_png(path, &text)?;
    if console.json {
        let texts: serde_json::Map<_, _> = text.texts.iter().map(|(k, v)| (k.clone(), json!(v))).collect();
        return console.print_json(&json!({
            "file": path, "width": text.size.width, "height": text.size.height,
            "parameters": parameters, "texts": texts,
        }));
    }
    let mut rows = vec![("size".to_owned(), format!("{}×{} pixels", text.size.width, text.size.height))];
    match parameters {
        Some(parameters) => rows.extend(fields(&parameters)?),
        // Another program's: its texts as they are.
        None => rows.extend(text.texts.into_iter().map(|(key, text)| (key, printable(&text)))),
    }
    print_rows(&rows, console)
}

fn inspect_database(path: &Path, console: &Console) -> Result<()> {
    print_fields(&database(&BlockDatabase::open(path)?), console)
}

/// An index is opened with its database, which the manifest beside it names.
fn inspect_index(path: &Path, console: &Console) -> Result<()> {
    let bundle = Bundle::open_manifest(folder_of(path))?;
    let database = bundle.database()?;
    print_fields(&index(&FrozenIndex::open(path, &database)?), console)
}

fn database(database: &BlockDatabase) -> Value {
    let (latent, block) = (database.latent(), database.block());
    let hash = database.content_hash().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    json!({
        "pictures": database.images(),
        "positions": database.positions(),
        "latent": [latent.channels, latent.height, latent.width],
        "block": [block.channels, block.height, block.width],
        "codebook": database.codebook_size(),
        "thumbnail_codebook": database.thumbnail_codebook_size(),
        "named": database.has_names(),
        "bytes": database.len_bytes(),
        "content_blake3": hash,
    })
}

fn index(index: &FrozenIndex) -> Value {
    let summary = index.summary();
    json!({
        "kind": if summary.nodes.is_some() { "HNSW graph" } else { "exact scan" },
        "position": summary.position,
        "nodes": summary.nodes,
        "levels": summary.levels,
        "ef_search": summary.ef_search,
        "recall_k": summary.recall_k,
        "recall": summary.recall,
        "recall_excluding_self": summary.recall_excluding_self,
        "bytes": index.len_bytes(),
    })
}

fn inspect_bundle(dir: &Path, console: &Console) -> Result<()> {
    let bundle = Bundle::open(dir)?;
    let manifest = &bundle.manifest;
    let total: u64 = manifest.files.iter().map(|file| file.bytes).sum();
    let held = bundle.database()?;
    let search = bundle.index(&held)?;
    let (held, search, networks) = (database(&held), index(&search), networks(&bundle));
    if console.json {
        return console.print_json(&json!({
            "bundle": dir, "total_bytes": total, "database": held, "index": search, "networks": networks,
            "manifest": manifest,
        }));
    }
    print_rows(&summary(manifest)?, console)?;
    let recall = search["recall"].as_f64().unwrap_or_default();
    let found = format!("{}, recall@{} {recall:.4}", plain(&search["kind"]), search["recall_k"]);
    print_rows(&[row("database", format!("{} pictures", held["pictures"])), row("index", found)], console)?;
    print_map("networks", &networks, console)?;
    print_map("quality", &manifest.quality, console)?;
    print_map("provenance", &manifest.provenance, console)?;
    console.print(format_args!("\nfiles ({} in all)", bytes(total)))?;
    manifest.files.iter().try_for_each(|file| console.print(format_args!("  {:>10}  {}", bytes(file.bytes), file.name)))
}

/// What runs each network, by its file; or why it cannot be run.
fn networks(bundle: &Bundle) -> BTreeMap<String, Value> {
    let described = |entry| match Network::open(bundle, entry) {
        Ok(network) => {
            let engine = match network.engine() {
                Engine::Packed => "operators of rissole, weights in place in the packed file",
                Engine::Own => "operators of rissole, weights in the heap",
                Engine::Tract => "tract",
            };
            let operators = network.operators();
            let text: Vec<_> = operators.iter().map(|(name, count)| format!("{count} {name}")).collect();
            json!(format!("{engine}: {}", text.join(", ")))
        }
        Err(error) => json!(error.to_string()),
    };
    bundle.manifest.networks.all().map(|entry| (entry.file.clone(), described(entry))).collect()
}

/// The sizes of the levels between thumbnail and blocks.
fn between(grid: &BlockGrid) -> String {
    let size = |level| {
        let (rows, cols) = grid.level(level).rows_cols();
        format!("{rows}×{cols}")
    };
    let sizes: Vec<_> = (1..grid.finest()).map(size).collect();
    format!("then {} blocks", sizes.join(", "))
}

fn summary(manifest: &Manifest) -> Result<Vec<(String, String)>> {
    let grid = manifest.block_grid()?;
    let (latent, block, coherence) = (grid.latent(), grid.block(), manifest.coherence);
    let (rows, cols) = grid.rows_cols();
    let diffusion = manifest.diffusion;
    let retrieval = manifest.retrieval;
    let parts = [
        (coherence.thumbnail, "thumbnail first".to_owned()),
        (grid.levels() > 2, between(&grid)),
        (coherence.margin > 0, format!("window of {} cells", coherence.margin)),
        (coherence.position_embedding, "position embedding".to_owned()),
        (coherence.previous_block, "previous block".to_owned()),
    ];
    let parts: Vec<_> = parts.into_iter().filter(|(on, _)| *on).map(|(_, name)| name).collect();
    let mode = if parts.is_empty() { "independent blocks".to_owned() } else { parts.join(", ") };
    let neighbours = match retrieval.source {
        NeighbourSource::Database if retrieval.exclude_self => format!("{}, never itself", retrieval.neighbours),
        NeighbourSource::Database => format!("{}, itself allowed", retrieval.neighbours),
        NeighbourSource::Noise => "none: noise in their place".to_owned(),
    };
    Ok(vec![
        row("name", printable(&manifest.name)),
        row("licence", printable(&manifest.licence)),
        row("pictures", format!("{}×{} pixels", manifest.image.width, manifest.image.height)),
        row("latent", format!("{}×{}×{}", latent.channels, latent.height, latent.width)),
        row("blocks", format!("{rows}×{cols} of {}×{} cells", block.height, block.width)),
        row("coherence", mode),
        row("neighbours", neighbours),
        row(
            "guidance",
            retrieval.guidance.map_or("none: not trained for it".to_owned(), |g| format!("{g} by default")),
        ),
        row(
            "codebook",
            match manifest.latent.codebook_size {
                0 => "none: latents are stored as f16".into(),
                entries => format!("{entries} entries"),
            },
        ),
        row("diffusion", format!("{} timesteps, {} schedule", diffusion.timesteps, word(&diffusion.schedule)?)),
        row("predicts", word(&diffusion.prediction)?),
        row("sampler", format!("{}, {} steps", word(&diffusion.sampler)?, diffusion.steps)),
        row("encoder", if manifest.networks.encoder.is_some() { "yes" } else { "no" }),
    ])
}

fn row(key: &str, value: impl Into<String>) -> (String, String) {
    (format!("{key:10}"), value.into())
}

fn print_map<'a>(title: &str, map: impl IntoIterator<Item = (&'a String, &'a Value)>, console: &Console) -> Result<()> {
    let rows: Vec<_> = map.into_iter().map(|(key, value)| (format!("  {}", printable(key)), plain(value))).collect();
    if rows.is_empty() {
        return Ok(());
    }
    console.print(format_args!("\n{title}"))?;
    print_rows(&rows, console)
}

fn print_rows(rows: &[(String, String)], console: &Console) -> Result<()> {
    let width = rows.iter().map(|(key, _)| key.chars().count()).max().unwrap_or(0);
    rows.iter().try_for_each(|(key, value)| console.print(format_args!("{key:width$}  {value}")))
}

/// Prints a JSON object as it is or as rows.
fn print_fields(value: &Value, console: &Console) -> Result<()> {
    if console.json { console.print_json(value) } else { print_rows(&fields(value)?, console) }
}

/// The fields of `value`, a struct, by name.
fn fields(value: &impl Serialize) -> Result<Vec<(String, String)>> {
    match serde_json::to_value(value).map_err(|e| Error::Internal(e.to_string()))? {
        Value::Object(map) => Ok(map.iter().map(|(key, value)| (key.clone(), plain(value))).collect()),
        _ => Err(Error::Internal("a struct was expected".into())),
    }
}

/// The name that manifests give to `value`.
fn word(value: &impl Serialize) -> Result<String> {
    Ok(plain(&serde_json::to_value(value).map_err(|e| Error::Internal(e.to_string()))?))
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => printable(text),
        Value::Object(map) if !map.values().any(|value| value.is_object() || value.is_array()) => {
            let pairs: Vec<_> = map.iter().map(|(key, value)| format!("{} {}", printable(key), plain(value))).collect();
            pairs.join(", ")
        }
        other => other.to_string(),
    }
}

/// `text` without what would move the cursor or colour the terminal: it comes from a file.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_cannot_steer_the_terminal() {
        assert_eq!(printable("a\x1b[2Jb\nc\u{9b}d"), "a\u{fffd}[2Jb\nc\u{fffd}d");
        assert_eq!(plain(&json!({"a\u{1b}": "\u{1b}", "b": 2})), "a\u{fffd} \u{fffd}, b 2");
        assert_eq!(plain(&json!({"a": {"b": "\u{1b}"}})), r#"{"a":{"b":"\u001b"}}"#);
    }
}
