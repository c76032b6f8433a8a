//! Bundles that grow and shrink where they lie: what they hold afterwards, and that nothing can leave them between
//! old and new.

mod common;
#[path = "common/desk.rs"]
mod desk;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::{Random, manifest, unquantized};
use desk::{Desk, INDEPENDENT, THUMBNAIL_AND_WINDOW};
use rissole::bundle::Edition;
use rissole::bundle::manifest::NeighbourSource;
use rissole::index::{FrozenIndex, SearchScratch};
use rissole::store::{BlockDatabase, RowBuffer};
use rissole::{Bundle, Manifest};

fn same_row(a: &BlockDatabase, b: &BlockDatabase, image: u32, position: usize) -> bool {
    let [mut one, mut other] = [RowBuffer::default(), RowBuffer::default()];
    a.row(image, position, &mut one).unwrap() == b.row(image, position, &mut other).unwrap()
}

/// Database and index of the bundle in `dir`, all of it read and found sound.
fn sound(dir: &Path) -> (BlockDatabase, FrozenIndex, Manifest) {
    let bundle = Bundle::open(dir).unwrap();
    bundle.verify().unwrap();
    let database = bundle.database().unwrap();
    let index = bundle.index(&database).unwrap();
    database.verify().unwrap();
    index.verify().unwrap();
    (database, index, bundle.manifest)
}

/// The bundle of the desk with `count` pictures of names `p0.png`… in `pictures` appended.
fn grown(desk: &Desk, count: u32) {
    (0..count).for_each(|i| desk.write_picture(&format!("pictures/p{i}.png"), i * 3, 30, 16));
    desk.ok("index --append model pictures");
}

#[test]
fn appended_pictures_are_found_and_the_others_stay() {
    appended(&Desk::new(THUMBNAIL_AND_WINDOW));
}

#[test]
fn so_they_are_without_a_codebook() {
    let desk = Desk::new(THUMBNAIL_AND_WINDOW);
    fs::remove_dir_all(desk.path("model")).unwrap();
    desk.model("model", unquantized(manifest(THUMBNAIL_AND_WINDOW, NeighbourSource::Database)));
    appended(&desk);
    assert!(desk.ok("inspect model").stdout.contains("none: latents are stored as f16"));
    desk.ok("sample --model model --no-mmap --out b.png");
}

fn appended(desk: &Desk) {
    let (old, _, before) = sound(&desk.path("model"));
    (0..5).for_each(|i| desk.write_picture(&format!("pictures/p{i}.png"), i * 3, 30, 16));
    fs::write(desk.path("pictures/broken.png"), "no picture").unwrap();
    let output = desk.ok("index --append model pictures --licence CC0-1.0 --json").json();
    assert_eq!((&output["pictures"], &output["added"], &output["removed"]), (&17.into(), &5.into(), &0.into()));
    assert_eq!(output["skipped"].as_array().unwrap().len(), 1);

    let (new, _, after) = sound(&desk.path("model"));
    assert_eq!((new.images(), old.images()), (17, 12), "who has the old one open keeps it");
    for position in 0..old.positions() {
        assert!((0..12).all(|i| same_row(&new, &old, i, position)));
    }
    assert_eq!([0, 12, 16].map(|image| new.name(image).unwrap().unwrap()), ["", "p0.png", "p4.png"]);
    for i in [0, 4] {
        let query = format!("sample --model model --query image:pictures/p{i}.png --steps 1 --out a.png --json");
        assert_eq!(desk.ok(&query).json()["pictures"][0]["report"]["neighbours"][0], 12 + i);
    }
    let pair = (after.database.as_str(), after.index.as_str());
    assert_eq!(pair, ("blocks.2.rsdb", "blocks.2.rshn"));
    let names = |manifest: &Manifest| manifest.files.iter().map(|f| f.name.clone()).collect::<BTreeSet<_>>();
    let expected: BTreeSet<_> = names(&after).into_iter().chain([Bundle::MANIFEST.to_owned()]).collect();
    assert_eq!(desk.names_in("model"), expected, "the old pair is gone");
    assert_eq!(names(&before).len(), names(&after).len());
    assert!(after.licence.ends_with("; pictures added: CC0-1.0"), "{}", after.licence);
    assert_eq!(after.provenance["changes"]["pictures_added"], 5);

    // The same again adds nothing and changes nothing.
    let manifest = fs::read(desk.path("model/manifest.json")).unwrap();
    let output = desk.ok("index --append model pictures --json").json();
    assert_eq!((&output["added"], output["skipped"].as_array().unwrap().len()), (&0.into(), 6));
    assert_eq!(fs::read(desk.path("model/manifest.json")).unwrap(), manifest);
}

#[test]
fn removed_pictures_do_not_come_back() {
    let desk = Desk::new(INDEPENDENT);
    grown(&desk, 8);
    let output = desk.ok("index --remove model id:0 id:11 name:p2.png name:p7.png --json").json();
    assert_eq!((&output["pictures"], &output["removed"]), (&16.into(), &4.into()));
    let (database, index, manifest) = sound(&desk.path("model"));
    assert_eq!(manifest.provenance["changes"]["pictures_removed"], 4);
    let names: Vec<_> = (0..16).map(|i| database.name(i).unwrap().unwrap()).collect();
    assert_eq!(names[..10], [""; 10]);
    assert_eq!(names[10..], ["p0.png", "p1.png", "p3.png", "p4.png", "p5.png", "p6.png"]);
    let (mut scratch, mut query) = (SearchScratch::default(), vec![0.0; database.block().len()]);
    for image in 0..16 {
        database.read_block(image, 0, &mut query).unwrap();
        let found = index.search(&database, &query, 16, None, &mut scratch).unwrap();
        let found: BTreeSet<_> = found.iter().map(|n| n.image).collect();
        assert!(found.into_iter().eq(0..16));
    }
    desk.ok("sample --model model --seed 3 --steps 1 --out a.png");
}

#[test]
fn what_cannot_be_changed_leaves_the_bundle_as_it_was() {
    let desk = Desk::new(INDEPENDENT);
    desk.write_picture("pictures/a.png", 1, 30, 16);
    let content = || -> Vec<_> {
        let names = desk.names_in("model");
        names.into_iter().map(|name| (fs::read(desk.path("model").join(&name)).unwrap(), name)).collect()
    };
    let before = content();
    let all: Vec<_> = (0..8).map(|i| format!("id:{i}")).collect();
    for (code, words, arguments) in [
        (2, "no picture 12", "index --remove model id:12"),
        (2, "no picture named", "index --remove model name:a.png"),
        (2, "id:N or name:NAME", "index --remove model a.png"),
        (2, "the model needs 5", &format!("index --remove model {}", all.join(" "))),
        (2, "one folder", "index --append model pictures pictures"),
        (2, "cannot be used with", "index --append model --out other pictures"),
        (2, "cannot be used with", "index --append model --remove model pictures"),
        (2, "required", "index pictures"),
        (3, "manifest.json", "index --append pictures pictures"),
        (3, "missing", "index --append nowhere pictures"),
        (5, "nowhere", "index --append model nowhere"),
    ] {
        desk.refused(code, words, arguments);
        assert_eq!(content(), before, "{arguments}");
    }
    let edition = Edition::begin(desk.path("model")).unwrap();
    desk.refused(2, "another program is changing this bundle", "index --append model pictures");
    drop(edition);
    desk.ok("index --append model pictures");
}

#[test]
fn leftovers_are_removed_and_nothing_else() {
    let desk = Desk::new(INDEPENDENT);
    let left = [
        "blocks.9.rsdb",
        "blocks.2.rshn",
        ".blocks.9.rsdb.123-0.tmp",
        ".blocks.2.rshn.123-1.tmp",
        ".manifest.json.123-2.tmp",
    ];
    let kept = ["README.md", "notes.txt", "blocks.rsdb.old", "blocks.1.rsdb", "other.2.rsdb", ".blocks.tmp"];
    for name in left.iter().chain(&kept) {
        fs::write(desk.path("model").join(name), "x").unwrap();
    }
    grown(&desk, 1);
    let names = desk.names_in("model");
    assert!(kept.iter().all(|name| names.contains(*name)), "{names:?}");
    assert!(!left.iter().any(|name| names.contains(*name) && *name != "blocks.2.rshn"), "{names:?}");
    sound(&desk.path("model"));
}

/// Appends and removes in turn, each time killed at a random moment; RISSOLE_KILLS says how often.
#[cfg(unix)]
#[test]
fn killed_at_any_moment_the_bundle_is_old_or_new() {
    let desk = Desk::new(INDEPENDENT);
    (0..5).for_each(|i| desk.write_picture(&format!("pictures/p{i}.png"), i, 30, 16));
    let started = Instant::now();
    desk.ok("index --append model pictures");
    let mut usual = started.elapsed();
    let kills: usize = std::env::var("RISSOLE_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(40);
    let (mut random, mut new, mut changed) = (Random(5), true, 0);
    for kill in 0..kills {
        let arguments = match new {
            true => "index --remove model name:p0.png name:p1.png name:p2.png name:p3.png name:p4.png",
            false => "index --append model pictures",
        };
        let moment = usual.mul_f64(1.2 * random.below(1000) as f64 / 1000.0);
        let started = Instant::now();
        let mut child = desk.command(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        while started.elapsed() < moment && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_micros(200));
        }
        let _ = child.kill(); // SIGKILL; it may have ended
        // Its usual time, as the machine's load is now: some runs must get to their end, and most not.
        usual = match child.wait().unwrap().success() {
            true => (usual + started.elapsed()) / 2,
            false => usual.mul_f64(1.1),
        };
        let (database, _, _) = sound(&desk.path("model"));
        let named = |&image: &u32| database.name(image).unwrap().is_some_and(|name| !name.is_empty());
        let names = (0..database.images()).filter(named).count();
        assert!([(12, 0), (17, 5)].contains(&(database.images(), names)), "kill {kill}: {names} names");
        changed += usize::from(new != (names == 5));
        new = names == 5;
    }
    println!("{kills} kills, {changed} of them after the change");
    // Whatever the last one left behind, the next run clears it.
    desk.ok(if new { "index --remove model name:p0.png" } else { "index --append model pictures" });
    let (_, _, manifest) = sound(&desk.path("model"));
    let expected = manifest.files.iter().map(|f| f.name.clone()).chain([Bundle::MANIFEST.to_owned()]);
    assert_eq!(desk.names_in("model"), expected.collect());
}
