//! The command line as a user meets it: the built binary on tiny bundles.

mod common;
#[path = "common/desk.rs"]
mod desk;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use desk::{Desk, INDEPENDENT, Ran, THUMBNAIL_AND_WINDOW};
use rissole::bundle::manifest::NeighbourSource;
use rissole::picture::{encode_png, read_png, read_png_text};
use rissole::{Bundle, Manifest};
use serde_json::{Value, json};

fn parameters(png: &Path) -> Value {
    serde_json::from_str(read_png_text(png).unwrap().get("rissole").unwrap()).unwrap()
}

#[test]
fn a_sample_is_a_png_that_tells_how_it_was_made() {
    let desk = Desk::new(THUMBNAIL_AND_WINDOW);
    let ran = desk.ok("sample --model model --seed 7 --steps 3 --sampler ddim --neighbours 2 --query id:5");
    assert_eq!(ran.stdout, "rissole-7.png\n");
    for word in ["seed 7", "load", "retrieve", "denoise", "decode", "peak heap", "peak RSS"] {
        assert!(ran.stderr.contains(word), "{word}: {ran:?}");
    }
    assert!(!ran.stderr.contains('\u{1b}'), "no terminal, no escapes: {ran:?}");

    let png = desk.path("rissole-7.png");
    assert_eq!(read_png(&png).unwrap().dimensions(), (30, 16));
    let told = parameters(&png);
    for (key, value) in [("sampler", "ddim"), ("query", "id:5"), ("model", "tiny")] {
        assert_eq!(told[key], value);
    }
    assert_eq!((&told["seed"], &told["steps"], &told["neighbours"]), (&7.into(), &3.into(), &2.into()));
    assert_eq!(told["exclude_self"], true);
    let manifest = fs::read(desk.path("model/manifest.json")).unwrap();
    assert_eq!(told["manifest_blake3"], blake3::hash(&manifest).to_string());
    let words = read_png_text(&png).unwrap();
    assert!(words.get("parameters").unwrap().contains("Steps: 3, Sampler: DDIM, Seed: 7, Size: 30x16, Model hash: "));

    let shown = desk.ok("inspect rissole-7.png");
    assert!(shown.stdout.contains("id:5") && shown.stderr.is_empty(), "{shown:?}");
    assert_eq!(desk.ok("inspect rissole-7.png --json").json()["parameters"], told);
}

#[test]
fn the_same_seed_gives_the_same_file_whatever_the_threads_and_the_budget() {
    for coherence in [THUMBNAIL_AND_WINDOW, INDEPENDENT] {
        let desk = Desk::new(coherence);
        for (name, more) in [("a", "--threads 1"), ("b", "--threads 5"), ("c", "--threads 2 --ram-budget 1GiB")] {
            desk.ok(&format!("sample --model model --seed 11 --out {name}.png {more}"));
        }
        desk.ok("sample --model model --seed 12 --out d.png");
        let [a, b, c, d] = ["a.png", "b.png", "c.png", "d.png"].map(|name| fs::read(desk.path(name)).unwrap());
        assert!(a == b && a == c);
        assert_ne!(read_png(&desk.path("a.png")).unwrap(), read_png(&desk.path("d.png")).unwrap());
        assert_ne!(a, d);
    }
}

#[test]
fn without_a_map_the_pixels_are_the_same_and_the_files_count() {
    let desk = Desk::new(THUMBNAIL_AND_WINDOW);
    let peak = |name: &str, more: &str| {
        let made = desk.ok(&format!("sample --model model --seed 11 --out {name} --json {more}")).json();
        made["pictures"][0]["report"]["peak_heap"].as_u64().unwrap()
    };
    let (mapped, held) = (peak("a.png", ""), peak("b.png", "--no-mmap"));
    assert_eq!(fs::read(desk.path("a.png")).unwrap(), fs::read(desk.path("b.png")).unwrap());
    let database = fs::metadata(desk.path("model/blocks.rsdb")).unwrap().len();
    assert!(held >= mapped + database, "{mapped} {held} {database}");
    desk.refused(4, "needs ", &format!("sample --model model --no-mmap --ram-budget {mapped}"));
}

#[test]
fn many_pictures_take_the_seeds_that_follow_and_a_sheet_shows_them_all() {
    let desk = Desk::new(THUMBNAIL_AND_WINDOW);
    let ran = desk.ok("sample --model model --seed 3 --count 3 --steps 2 --grid --json --out many/faces -q");
    assert_eq!(ran.stderr, "");
    let output = ran.json();
    assert_eq!(output["pictures"].as_array().unwrap().len(), 3);
    assert_eq!(output["pictures"][2]["parameters"]["seed"], 5);
    assert_eq!(output["pictures"][2]["file"], "many/faces/rissole-5.png");
    assert!(output["pictures"][0]["report"]["times"]["denoise"].as_f64().unwrap() > 0.0);
    assert!(output["pictures"][0]["report"]["peak_heap"].as_u64().unwrap() > 10_000);
    let sheet = read_png(&desk.path(output["grid"].as_str().unwrap())).unwrap();
    assert_eq!(sheet.dimensions(), (2 * 32 + 2, 2 * 18 + 2));
    let single = desk.ok("sample --model model --seed 5 --steps 2").stdout;
    assert_eq!(fs::read(desk.path(single.trim())).unwrap(), fs::read(desk.path("many/faces/rissole-5.png")).unwrap());
    assert_eq!(desk.names_in("many/faces").len(), 4);
}

#[test]
fn without_a_seed_pictures_differ_and_can_be_made_again() {
    let desk = Desk::new(INDEPENDENT);
    let (first, second) = (desk.ok("sample --model model").stdout, desk.ok("sample --model model").stdout);
    assert_ne!(first, second);
    let again = desk.ok(&format!("regenerate --model model {} --out again.png", first.trim()));
    assert!(again.stderr.contains("the pixels are the same"), "{again:?}");
    assert_eq!(fs::read(desk.path(first.trim())).unwrap(), fs::read(desk.path("again.png")).unwrap());
}

#[test]
fn guidance_is_told_and_regenerated() {
    let desk = Desk::new(INDEPENDENT);
    desk.refused(2, "not trained without neighbours", "sample --model model --guidance 2");
    desk.ok("sample --model model --seed 1 --guidance 1 --out plain.png");
    assert_eq!(parameters(&desk.path("plain.png")).get("guidance"), None);
    assert!(desk.ok("inspect model").stdout.contains("not trained for it"));

    let mut guided = common::manifest(INDEPENDENT, NeighbourSource::Database);
    guided.retrieval.guidance = Some(1.5);
    desk.model("guided", guided);
    assert!(desk.ok("inspect guided").stdout.contains("1.5 by default"));
    desk.refused(2, "consistency", "sample --model guided --sampler consistency --guidance 2");
    for (more, guidance) in [("", json!(1.5)), ("--guidance 2.5", json!(2.5)), ("--guidance 1", Value::Null)] {
        let made = desk.ok(&format!("sample --model guided --seed 1 --out a.png --json {more}")).json();
        assert_eq!(made["pictures"][0]["report"]["guidance"], guidance);
        assert_eq!(parameters(&desk.path("a.png"))["guidance"], guidance);
        let again = desk.ok("regenerate a.png --model guided --json").json();
        assert_eq!(again["identical"], true, "{more}");
    }
    assert!(fs::read(desk.path("a.png")).unwrap() != fs::read(desk.path("plain.png")).unwrap(), "other manifests");
    assert_eq!(read_png(&desk.path("a.png")).unwrap(), read_png(&desk.path("plain.png")).unwrap());
}

#[test]
fn regenerate_refuses_another_model_and_tells_changed_pixels() {
    let desk = Desk::new(INDEPENDENT);
    desk.ok("sample --model model --seed 1 --steps 2 --include-self --out a.png");
    assert_eq!(parameters(&desk.path("a.png"))["exclude_self"], false);
    let again = desk.ok("regenerate a.png --model model --json").json();
    assert_eq!((again["identical"].as_bool(), again["file"].as_str()), (Some(true), Some("a-again.png")));

    let mut other = common::manifest(INDEPENDENT, NeighbourSource::Database);
    other.name = "someone-else".into();
    desk.model("other", other);
    desk.refused(3, "someone-else", "regenerate a.png --model other --out b.png");
    desk.refused(3, "model tiny", "regenerate a.png --model other --out b.png");

    let text = read_png_text(&desk.path("a.png")).unwrap().get("rissole").unwrap().to_owned();
    let mut image = read_png(&desk.path("a.png")).unwrap();
    image.get_pixel_mut(0, 0).0[0] ^= 1;
    fs::write(desk.path("changed.png"), encode_png(&image, &[("rissole", &text)]).unwrap()).unwrap();
    let ran = desk.ok("regenerate changed.png --model model --json --out b.png");
    assert_eq!(ran.json()["identical"], false);
    assert!(ran.stderr.contains("the pixels are not the same"), "{ran:?}");

    fs::write(desk.path("plain.png"), encode_png(&image, &[]).unwrap()).unwrap();
    desk.refused(3, "carries no rissole parameters", "regenerate plain.png --model model");
    let hostile = text.replace("\"steps\":2", "\"steps\":18446744073709551615");
    fs::write(desk.path("hostile.png"), encode_png(&image, &[("rissole", &hostile)]).unwrap()).unwrap();
    desk.refused(2, "steps", "regenerate hostile.png --model model --out c.png");
    assert!(!desk.path("c.png").exists());
}

#[test]
fn a_picture_can_guide_and_must_be_given_again() {
    let desk = Desk::new(THUMBNAIL_AND_WINDOW);
    desk.write_picture("me.png", 1, 50, 70);
    desk.write_picture("you.png", 2, 50, 70);
    desk.ok("sample --model model --seed 4 --query image:me.png --out guided.png");
    let told = parameters(&desk.path("guided.png"));
    assert_eq!(told["query"], format!("image:{}", blake3::hash(&fs::read(desk.path("me.png")).unwrap())));
    desk.refused(2, "--query-image", "regenerate guided.png --model model");
    desk.refused(3, "you.png", "regenerate guided.png --model model --query-image you.png");
    let ran = desk.ok("regenerate guided.png --model model --query-image me.png --json");
    assert_eq!(ran.json()["identical"], true);
    desk.refused(5, "missing.png", "sample --model model --query image:missing.png");
    fs::write(desk.path("bad.jpg"), "no picture").unwrap();
    desk.refused(3, "bad.jpg", "sample --model model --query image:bad.jpg");
}

#[test]
fn wrong_usage_is_exit_code_2() {
    let desk = Desk::new(INDEPENDENT);
    for (words, arguments) in [
        ("--fast", "sample --model model --fast"),
        ("neighbours", "sample --model model --neighbours 5"),
        ("neighbours", "sample --model model --neighbours 0"),
        ("steps", "sample --model model --steps 0"),
        ("steps", "sample --model model --steps 1001"),
        ("picture 12", "sample --model model --query id:12"),
        ("expected random", "sample --model model --query best"),
        ("--sampler", "sample --model model --sampler euler"),
        ("--ram-budget", "sample --model model --ram-budget plenty"),
        ("--threads", "sample --model model --threads 0"),
        ("--count", "sample --model model --count 0"),
        ("one file", "sample --model model --count 2 --out a.png"),
        ("only PNG", "sample --model model --out a.jpg"),
        ("seeds", "sample --model model --count 2 --seed 18446744073709551615"),
        ("exists already", "index pictures --model model --out model"),
        ("Usage", "draw"),
        ("Usage", ""),
    ] {
        desk.refused(2, words, arguments);
    }
    assert_eq!(desk.names_in("."), BTreeSet::from(["model".to_owned()]));
}

#[test]
fn help_and_version_are_data() {
    let desk = Desk::new(INDEPENDENT);
    assert_eq!(desk.ok("--version").stdout, format!("rissole {}\n", env!("CARGO_PKG_VERSION")));
    for command in ["", "sample ", "inspect ", "verify ", "pack ", "regenerate ", "index "] {
        let ran = desk.ok(&format!("{command}--help"));
        assert!(ran.stdout.contains("Examples:\n  rissole ") && ran.stderr.is_empty(), "{ran:?}");
    }
}

/// As a package lays it out: the shipped bundle is found from the program, wherever it is started.
#[test]
fn an_installed_program_finds_its_bundle() {
    let desk = Desk::new(INDEPENDENT);
    fs::create_dir_all(desk.path("usr/bin")).unwrap();
    fs::create_dir_all(desk.path("usr/share/rissole/models")).unwrap();
    fs::rename(desk.path("model"), desk.path("usr/share/rissole/models/avatars64")).unwrap();
    let program = desk.path("usr/bin/rissole");
    fs::copy(env!("CARGO_BIN_EXE_rissole"), &program).unwrap();
    let ran =
        Command::new(program).args(["sample", "--steps", "1", "--out", "a.png"]).current_dir(desk.path("")).output();
    assert_eq!(ran.unwrap().status.code(), Some(0));
    assert_eq!(parameters(&desk.path("a.png"))["model"], "tiny");
}

#[test]
fn a_bundle_that_is_missing_or_damaged_is_exit_code_3_and_named() {
    let desk = Desk::new(THUMBNAIL_AND_WINDOW);
    desk.refused(3, "models/avatars64: no such folder here", "sample");
    desk.refused(3, "nowhere: no such folder", "sample --model nowhere");
    fs::create_dir(desk.path("empty")).unwrap();
    desk.refused(3, "manifest.json: is missing", "sample --model empty");

    desk.write_picture("me.png", 1, 30, 16);
    let files = desk.names_in("model");
    assert_eq!(files.len(), 7);
    for file in &files {
        let path = desk.path("model").join(file);
        let content = fs::read(&path).unwrap();
        for damaged in [&content[..content.len() / 2], b"", &b"\xff".repeat(content.len())] {
            fs::write(&path, damaged).unwrap();
            desk.refused(3, file, "sample --model model --out faces --query image:me.png");
        }
        fs::remove_file(&path).unwrap();
        desk.refused(3, file, "sample --model model --out faces");
        fs::write(&path, content).unwrap();
    }
    assert_eq!(desk.names_in("faces").len(), 0);
}

#[test]
fn verify_finds_a_single_flipped_bit_and_names_every_bad_file() {
    let desk = Desk::new(THUMBNAIL_AND_WINDOW);
    let ran = desk.ok("verify model");
    assert_eq!(ran.stdout.lines().filter(|line| line.starts_with("sound")).count(), 6, "{ran:?}");
    assert_eq!(desk.ok("verify model --json").json()["sound"], true);
    for file in ["decoder.onnx", "blocks.rsdb"] {
        let path = desk.path("model").join(file);
        let mut content = fs::read(&path).unwrap();
        let middle = content.len() / 2;
        content[middle] ^= 4;
        fs::write(&path, content).unwrap();
    }
    let ran = desk.run("verify model --json");
    assert_eq!(ran.code, 3);
    assert!(ran.stderr.contains("BLAKE3"), "{ran:?}");
    let output = ran.json();
    let bad = |file: &&Value| file["sound"] == false;
    let bad: Vec<_> = output["files"].as_array().unwrap().iter().filter(bad).map(|file| &file["name"]).collect();
    assert_eq!(bad, ["decoder.onnx", "blocks.rsdb"]);
}

#[test]
fn packed_networks_may_be_missing_and_are_made_anew() {
    let desk = Desk::new(INDEPENDENT);
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/avatars64");
    fs::create_dir(desk.path("mine")).unwrap();
    for file in fs::read_dir(shipped).unwrap().map(|file| file.unwrap().path()) {
        fs::copy(&file, desk.path("mine").join(file.file_name().unwrap())).unwrap();
    }
    let draw = |out: &str| desk.ok(&format!("sample --model mine --seed 1 --steps 1 --out {out}"));
    draw("before.png");
    let manifest = fs::read(desk.path("mine/manifest.json")).unwrap();
    fs::remove_file(desk.path("mine/denoiser.packed")).unwrap();
    fs::write(desk.path("mine/decoder.packed"), "short").unwrap();
    let ran = draw("without.png");
    assert!(ran.stderr.contains("denoiser.packed: is missing; denoiser.onnx is used instead"), "{ran:?}");
    assert!(ran.stderr.contains("decoder.packed: is 5 bytes long"), "{ran:?}");
    assert_eq!(desk.run("verify mine").code, 3);

    let ran = desk.ok("pack mine");
    assert_eq!(ran.stdout.lines().count(), 4, "{ran:?}");
    desk.ok("verify mine");
    assert!(fs::read(desk.path("mine/manifest.json")).unwrap() == manifest, "the same files");
    let ran = draw("after.png");
    assert!(!ran.stderr.contains("instead"), "{ran:?}");
    let [before, without, after] = ["before", "without", "after"].map(|name| desk.path(&format!("{name}.png")));
    let [before, without, after] = [before, without, after].map(|path| fs::read(path).unwrap());
    assert!(before == without && before == after, "the same picture");

    // What would be packed must be what the manifest says; then nothing is changed.
    fs::write(desk.path("mine/decoder.onnx"), "no network").unwrap();
    desk.refused(3, "decoder.onnx", "pack mine");
    assert!(fs::read(desk.path("mine/manifest.json")).unwrap() == manifest);
}

#[test]
fn over_budget_is_exit_code_4_with_what_it_needs() {
    let desk = Desk::new(THUMBNAIL_AND_WINDOW);
    desk.refused(4, "budget is 10000 bytes", "sample --model model --ram-budget 10kB --out faces");
    desk.refused(4, "needs ", "sample --model model --ram-budget 1KiB --out faces");
    assert_eq!(desk.names_in("faces").len(), 0);
}

#[test]
fn the_plan_that_is_shown_is_the_one_that_is_kept() {
    let desk = Desk::new(THUMBNAIL_AND_WINDOW);
    let shown = |budget: &str| -> Value {
        serde_json::from_str(&desk.ok(&format!("inspect model --plan --threads 3 {budget} --json")).stdout).unwrap()
    };
    let all = shown("");
    let needs: Vec<u64> = all["needs"].as_array().unwrap().iter().map(|needs| needs.as_u64().unwrap()).collect();
    assert_eq!((needs.len(), &all["taken"]), (6, &json!(0)));
    assert_eq!(all["untiled"], "it is run by tract");
    assert!(desk.ok("inspect model --plan").stdout.contains("the decoder is not run in tiles: it is run by tract"));
    let least = *needs.iter().min().unwrap();
    // A process is not laid out like the next: some spare.
    let roomy = least + (16 << 10);
    assert_eq!(shown(&format!("--ram-budget {roomy}"))["plans"][5]["threads"], 1);
    let made = desk.ok(&format!("sample --model model --seed 7 --threads 3 --ram-budget {roomy} --out a.png --json"));
    let made: Value = serde_json::from_str(&made.stdout).unwrap();
    assert_eq!(made["pictures"][0]["report"]["threads"], 1);
    assert!(made["pictures"][0]["report"]["peak_heap"].as_u64().unwrap() <= roomy);
    desk.ok("sample --model model --seed 7 --threads 3 --out b.png");
    assert_eq!(fs::read(desk.path("a.png")).unwrap(), fs::read(desk.path("b.png")).unwrap());

    let table = desk.run(&format!("inspect model --plan --threads 3 --ram-budget {}", least / 2));
    assert_eq!((table.code, table.stdout.matches("over the budget").count()), (4, 6), "{table:?}");
    desk.refused(2, "--plan", "inspect model --threads 3");
}

#[test]
fn what_the_system_refuses_is_exit_code_5() {
    let desk = Desk::new(INDEPENDENT);
    fs::write(desk.path("file"), "").unwrap();
    desk.refused(5, "nowhere", "sample --model model --out nowhere/a.png");
    desk.refused(5, "file", "sample --model model --out file/faces");
    desk.refused(5, "missing.png", "inspect missing.png");
    desk.refused(5, "missing.png", "regenerate missing.png --model model");
    desk.refused(5, "nothing", "index nothing --model model --out new");
    fs::create_dir(desk.path("taken.png")).unwrap();
    fs::create_dir(desk.path("taken.png/rissole-1.png")).unwrap();
    desk.refused(5, "rissole-1.png", "sample --model model --seed 1 --out taken.png");
    assert_eq!(desk.names_in("taken.png"), BTreeSet::from(["rissole-1.png".to_owned()]), "no half-written file");
    assert!(!desk.path("new").exists());
}

/// A limit on the size of files stands for a disk that is full: the write begins and is then refused.
#[cfg(unix)]
#[test]
fn a_full_disk_is_exit_code_5_and_leaves_nothing_behind() {
    let desk = Desk::new(INDEPENDENT);
    (0..6).for_each(|i| desk.write_picture(&format!("pictures/{i}.png"), i, 30, 16));
    desk.ok("sample --model model --seed 1 --out a.png");
    let (picture, names) = (fs::read(desk.path("a.png")).unwrap(), desk.names_in("."));
    for (arguments, file) in [
        ("sample --model model --seed 2 --out a.png", "a.png"),
        ("sample --model model --seed 2 --out b.png", "b.png"),
        ("index pictures --model model --out other", "other"),
    ] {
        let mut command = Command::new("sh");
        let line = format!("trap '' XFSZ; ulimit -f 0; exec {} {arguments}", env!("CARGO_BIN_EXE_rissole"));
        let ran = command.current_dir(desk.path(".")).args(["-c", &line]).stdin(Stdio::null());
        let ran = Ran::new(ran.output().unwrap(), arguments);
        assert_eq!(ran.code, 5, "{ran:?}");
        assert!(ran.stderr.contains(file) && !ran.stderr.contains("panicked"), "{ran:?}");
        assert_eq!((desk.names_in("."), fs::read(desk.path("a.png")).unwrap()), (names.clone(), picture.clone()));
    }
}

#[test]
fn inspect_shows_a_bundle_and_refuses_what_it_does_not_know() {
    let desk = Desk::new(THUMBNAIL_AND_WINDOW);
    let ran = desk.ok("inspect model");
    for words in ["tiny", "30×16 pixels", "thumbnail first, window of 2 cells", "blocks.rsdb", "12 pictures"] {
        assert!(ran.stdout.contains(words), "{words}: {ran:?}");
    }
    let output = desk.ok("inspect model --json").json();
    let manifest: Manifest = serde_json::from_value(output["manifest"].clone()).unwrap();
    assert_eq!(manifest.name, "tiny");
    assert_eq!(output["database"]["pictures"], 12);
    for file in ["blocks.rsdb", "blocks.rshn"] {
        assert!(desk.ok(&format!("inspect model/{file}")).stdout.contains("position"), "{file}");
    }
    desk.refused(3, "neither", "inspect model/decoder.onnx");
    fs::write(desk.path("short.png"), b"\x89PNG\r\n\x1a\n").unwrap();
    desk.refused(3, "short.png", "inspect short.png");
}

#[test]
fn other_pictures_make_another_bundle_that_works_at_once() {
    let desk = Desk::new(THUMBNAIL_AND_WINDOW);
    for i in 0..6 {
        desk.write_picture(&format!("mine/{}/p{i}.png", i % 2), i, 20 + 9 * i, 40);
    }
    fs::write(desk.path("mine/broken.jpg"), "no picture").unwrap();
    fs::write(desk.path("mine/notes.txt"), "no picture, and not called one").unwrap();
    let before: Vec<_> = desk.names_in("model").iter().map(|name| fs::read(desk.path("model").join(name))).collect();
    let before: Vec<_> = before.into_iter().map(Result::unwrap).collect();

    let ran = desk.ok("index mine --model model --out new --json");
    let output = ran.json();
    assert_eq!(output["pictures"], 6);
    assert_eq!(output["skipped"].as_array().unwrap().len(), 1);
    assert!(ran.stderr.contains("broken.jpg"), "{ran:?}");
    let after: Vec<_> = desk.names_in("model").iter().map(|name| fs::read(desk.path("model").join(name))).collect();
    assert!(before.iter().zip(&after).all(|(before, after)| before == after.as_ref().unwrap()));

    desk.ok("verify new");
    let made = desk.ok("sample --model new --seed 1 --out a.png --json").json();
    let neighbours = made["pictures"][0]["report"]["neighbours"].as_array().unwrap().clone();
    assert!(neighbours.len() == 4 && neighbours.iter().all(|id| id.as_u64().unwrap() < 6));
    let manifest = Bundle::open(desk.path("new")).unwrap().manifest;
    assert_eq!(manifest.name, "new");
    assert_eq!(manifest.provenance["networks"]["model"], "tiny");
    assert_eq!(manifest.provenance["database"]["pictures"], 6);
    assert_eq!(manifest.provenance["database"]["folder"], "mine");
    let database = rissole::store::BlockDatabase::open(desk.path("new/blocks.rsdb")).unwrap();
    assert_eq!([0, 5].map(|image| database.name(image).unwrap().unwrap()), ["0/p0.png", "1/p5.png"]);
    assert_eq!(desk.names_in("."), ["a.png", "mine", "model", "new"].map(String::from).into());
}

#[test]
fn a_query_by_a_picture_finds_that_picture_in_its_own_database() {
    let desk = Desk::new(THUMBNAIL_AND_WINDOW);
    (0..8).for_each(|i| desk.write_picture(&format!("mine/p{i}.png"), i * 3, 30, 16));
    desk.ok("index mine --model model --out new");
    for i in [0, 5] {
        let made = desk.ok(&format!("sample --model new --query image:mine/p{i}.png --steps 1 --out a.png --json"));
        assert_eq!(made.json()["pictures"][0]["report"]["neighbours"][0], i, "{made:?}");
    }
}

#[test]
fn too_few_pictures_make_no_bundle() {
    let desk = Desk::new(THUMBNAIL_AND_WINDOW);
    (0..4).for_each(|i| desk.write_picture(&format!("mine/p{i}.png"), i, 30, 16));
    desk.refused(3, "holds 4 pictures that can be decoded, the model needs 5", "index mine --model model --out new");
    assert_eq!(desk.names_in("."), ["mine", "model"].map(String::from).into());
    let bundle = desk.model("blind", common::manifest(INDEPENDENT, NeighbourSource::Database));
    let mut manifest = bundle.manifest;
    manifest.networks.encoder = None;
    fs::write(desk.path("blind/manifest.json"), serde_json::to_vec(&manifest).unwrap()).unwrap();
    desk.refused(2, "encoder", "index mine --model blind --out new");
}

#[test]
fn a_closed_pipe_is_no_error() {
    let desk = Desk::new(INDEPENDENT);
    let mut command = desk.command("inspect model --json");
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let ran = Ran::new(child.wait_with_output().unwrap(), "inspect model --json");
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{ran:?}");
}

#[cfg(unix)]
#[test]
fn an_interrupt_ends_with_130_and_leaves_only_whole_pictures() {
    let desk = Desk::new(INDEPENDENT);
    for signal in ["-INT", "-TERM"] {
        let mut command = desk.command(&format!("sample --model model --seed 0 --count 1000000 --out faces{signal}"));
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        while child.try_wait().unwrap().is_none() && !desk.path(&format!("faces{signal}/rissole-1.png")).exists() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
        let ran = Ran::new(child.wait_with_output().unwrap(), signal);
        assert_eq!(ran.code, 130, "{ran:?}");
        assert!(ran.stderr.ends_with("error: interrupted\n"), "{ran:?}");
        for name in desk.names_in(&format!("faces{signal}")) {
            assert!(read_png(&desk.path(&format!("faces{signal}/{name}"))).is_ok(), "{name}");
        }
    }
}
