//! Every layout on small files made here.

use std::io::Write;
use std::path::{Path, PathBuf};

use image::{ImageFormat, Rgb, RgbImage, Rgba, RgbaImage};
use rissole::Error;

use super::*;

/// A folder of its own that goes away with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("rissole-data-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.0.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    fn source(&self) -> Source {
        Source { path: self.0.clone(), layout: None, size: 8, limit: None, crop: None }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn encoded(picture: &RgbImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// An 8×8 PNG of one grey.
fn png(grey: u8) -> Vec<u8> {
    encoded(&RgbImage::from_pixel(8, 8, Rgb([grey; 3])), ImageFormat::Png)
}

fn jpeg(grey: u8) -> Vec<u8> {
    encoded(&RgbImage::from_pixel(8, 8, Rgb([grey; 3])), ImageFormat::Jpeg)
}

fn load_quietly(source: &Source) -> Result<Dataset> {
    load(source, &mut |_, _| ())
}

/// First byte of each picture: enough to tell pictures of one grey apart.
fn greys(dataset: &Dataset) -> Vec<u8> {
    assert_eq!(dataset.pixels.len(), dataset.names.len() * dataset.width * dataset.height * 3);
    dataset.pixels.chunks(dataset.width * dataset.height * 3).map(|picture| picture[0]).collect()
}

fn fault(result: Result<Dataset>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn a_folder_is_sorted_by_name_and_its_subfolders_are_classes() {
    let scratch = Scratch::new("classes");
    scratch.write("dogs/b.JPG", &jpeg(40));
    scratch.write("cats/z.png", &png(30));
    scratch.write("dogs/a.png", &png(20));
    scratch.write("top.png", &png(10));
    scratch.write("ATTRIBUTION.md", b"not a picture");
    scratch.write("dogs/._a.png", b"hidden");
    let dataset = load_quietly(&scratch.source()).unwrap();
    assert_eq!(dataset.names, ["cats/z.png", "dogs/a.png", "dogs/b.JPG", "top.png"]);
    assert_eq!(dataset.class_names, [".", "cats", "dogs"]);
    assert_eq!(dataset.classes, [1, 2, 2, 0]);
    assert_eq!(greys(&dataset), [30, 20, 40, 10]);
    assert!(dataset.skipped.is_empty());
}

#[test]
fn undecodable_pictures_are_named_and_left_out() {
    let scratch = Scratch::new("skipped");
    scratch.write("1.png", &png(10));
    scratch.write("2.png", &png(20)[..30]);
    scratch.write("3.jpg", b"no picture at all");
    scratch.write("4.webp", b"RIFF\x04\0\0\0WEBPVP8 ");
    scratch.write("5.png", &jpeg(50));
    let mut reports = Vec::new();
    let dataset = load(&scratch.source(), &mut |done, total| reports.push((done, total))).unwrap();
    assert_eq!(dataset.names, ["1.png", "5.png"]);
    assert_eq!(greys(&dataset), [10, 50]);
    let skipped: Vec<&str> = dataset.skipped.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(skipped, ["2.png", "3.jpg", "4.webp"]);
    assert!(dataset.skipped.iter().all(|(_, fault)| !fault.is_empty()));
    assert_eq!(reports, [(0, 5), (5, 5)]);
}

#[test]
fn a_set_without_pictures_is_an_error_that_names_it() {
    let scratch = Scratch::new("empty");
    assert!(fault(load_quietly(&scratch.source())).contains("no pictures"));
    scratch.write("a.png", b"damaged");
    let fault = fault(load_quietly(&scratch.source()));
    assert!(fault.contains("a.png") && fault.contains("rissole-data-empty"), "{fault}");
    let missing = Source { path: scratch.0.join("missing"), ..scratch.source() };
    assert!(matches!(load_quietly(&missing), Err(Error::Io { .. })));
}

#[test]
fn impossible_settings_are_refused() {
    let scratch = Scratch::new("settings");
    scratch.write("a.png", &png(1));
    for source in [
        Source { size: 0, ..scratch.source() },
        Source { size: 5000, ..scratch.source() },
        Source { crop: Some(0), ..scratch.source() },
        Source { limit: Some(0), ..scratch.source() },
    ] {
        assert!(matches!(load_quietly(&source), Err(Error::Usage(_))), "{source:?}");
    }
}

#[test]
fn a_limit_takes_the_first_pictures() {
    let scratch = Scratch::new("limit");
    for i in 0..5 {
        scratch.write(&format!("{i}.png"), &png(i));
    }
    let dataset = load_quietly(&Source { limit: Some(2), ..scratch.source() }).unwrap();
    assert_eq!(greys(&dataset), [0, 1]);
}

#[test]
fn the_centre_is_cropped_then_scaled() {
    // Black with a white square of side 4 in the middle of 12×8.
    let inside = |x: u32, y: u32| (4..8).contains(&x) && (2..6).contains(&y);
    let picture = RgbImage::from_fn(12, 8, |x, y| Rgb([if inside(x, y) { 255 } else { 0 }; 3]));
    let white = picture::fit(&picture, 4, Some(4)).unwrap();
    assert_eq!(white, [255; 4 * 4 * 3]);
    assert!(picture::fit(&picture, 2, Some(4)).unwrap().iter().all(|&p| p == 255));
    assert!(picture::fit(&picture, 16, Some(4)).unwrap().iter().all(|&p| p == 255));
    // The largest square: its own edge of 2 black pixels on each side.
    let whole = picture::fit(&picture, 8, None).unwrap();
    assert_eq!(whole.iter().filter(|&&p| p == 255).count(), 4 * 4 * 3);
    assert!(picture::fit(&picture, 4, Some(9)).unwrap_err().contains("smaller"));
}

#[test]
fn scaling_down_averages_and_does_not_alias() {
    let checkered = RgbImage::from_fn(64, 64, |x, y| Rgb([((x + y) % 2 * 255) as u8; 3]));
    let small = picture::fit(&checkered, 8, None).unwrap();
    assert!(small.iter().all(|&p| (120..=135).contains(&p)), "{small:?}");
}

#[test]
fn transparency_lies_on_white() {
    let picture = RgbaImage::from_fn(2, 1, |x, _| Rgba(if x == 0 { [200, 0, 0, 0] } else { [200, 0, 0, 51] }));
    let mut bytes = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut bytes, ImageFormat::Png).unwrap();
    let decoded = picture::decode(bytes.get_ref()).unwrap();
    assert_eq!(decoded.into_raw(), [255, 255, 255, 244, 204, 204]);
}

#[test]
fn a_huge_picture_is_refused_before_it_is_decoded() {
    // A PNG that claims 60000×60000 pixels: signature, then IHDR with a right checksum.
    let mut ihdr = b"IHDR".to_vec();
    ihdr.extend(60_000u32.to_be_bytes().repeat(2));
    ihdr.extend([8, 2, 0, 0, 0]);
    let mut bytes = b"\x89PNG\r\n\x1a\n\0\0\0\x0d".to_vec();
    bytes.extend(&ihdr);
    bytes.extend(crc32(&ihdr).to_be_bytes());
    bytes.extend(b"\0\0\0\0IDAT\x35\xaf\x06\x1e\0\0\0\0IEND\xae\x42\x60\x82");
    let fault = picture::decode(&bytes).unwrap_err();
    assert!(fault.to_lowercase().contains("limit") || fault.contains("too large"), "{fault}");
}

/// CRC-32 bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 })
    })
}

fn zip(path: &Path, entries: &[(&str, Vec<u8>, zip::CompressionMethod)]) {
    let mut writer = zip::ZipWriter::new(std::fs::File::create(path).unwrap());
    for (name, bytes, method) in entries {
        let options = zip::write::SimpleFileOptions::default().compression_method(*method);
        writer.start_file(*name, options).unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap();
}

#[test]
fn a_zip_holds_stored_and_deflated_pictures() {
    use zip::CompressionMethod::{Deflated, Stored};
    let scratch = Scratch::new("zip");
    let path = scratch.0.join("set.zip");
    let entries = [
        ("set/b/2.png", png(20), Deflated),
        ("set/a/1.jpg", jpeg(10), Stored),
        ("set/a/3.png", b"damaged".to_vec(), Deflated),
        ("set/README.txt", b"words".to_vec(), Deflated),
        ("__MACOSX/set/a/._1.jpg", b"no".to_vec(), Stored),
    ];
    zip(&path, &entries);
    let dataset = load_quietly(&Source { path: path.clone(), ..scratch.source() }).unwrap();
    assert_eq!(dataset.names, ["set/a/1.jpg", "set/b/2.png"]);
    assert_eq!(dataset.class_names, ["a", "b"]);
    assert_eq!(dataset.classes, [0, 1]);
    assert_eq!(greys(&dataset), [10, 20]);
    assert_eq!(dataset.skipped.len(), 1);
    assert_eq!(dataset.skipped[0].0, "set/a/3.png");

    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    assert!(matches!(load_quietly(&Source { path, ..scratch.source() }), Err(Error::File { .. })));
}

#[test]
fn celeba_is_ordered_by_partition() {
    let scratch = Scratch::new("celeba");
    for i in 1..=3 {
        scratch.write(&format!("img_align_celeba/00000{i}.jpg"), &jpeg(10 * i));
    }
    let dataset = load_quietly(&scratch.source()).unwrap();
    assert_eq!((dataset.class_names.len(), greys(&dataset)), (1, vec![10, 20, 30]));

    scratch.write("list_eval_partition.txt", b"000001.jpg 2\n000002.jpg 0\n000003.jpg 1\n");
    let dataset = load_quietly(&scratch.source()).unwrap();
    assert_eq!(dataset.names, ["000002.jpg", "000003.jpg", "000001.jpg"]);
    assert_eq!(dataset.class_names, ["train", "validation", "test"]);
    assert_eq!(dataset.classes, [0, 1, 2]);
    assert_eq!(greys(&dataset), [20, 30, 10]);

    scratch.write("list_eval_partition.txt", b"000001.jpg 2\n000002.jpg 3\n");
    assert!(fault(load_quietly(&scratch.source())).contains("line 2"));
    scratch.write("list_eval_partition.txt", b"000001.jpg 2\n");
    assert!(fault(load_quietly(&scratch.source())).contains("does not list"));
}

#[test]
fn imagenet_takes_the_synsets_of_train() {
    let scratch = Scratch::new("imagenet");
    scratch.write("train/n02000000/n02000000_1.JPEG", &jpeg(20));
    scratch.write("train/n01000000/n01000000_7.JPEG", &jpeg(10));
    scratch.write("train/other/x.JPEG", &jpeg(99));
    scratch.write("val/ILSVRC2012_val_00000001.JPEG", &jpeg(99));
    let dataset = load_quietly(&scratch.source()).unwrap();
    assert_eq!(dataset.class_names, ["n01000000", "n02000000"]);
    assert_eq!(dataset.names, ["n01000000/n01000000_7.JPEG", "n02000000/n02000000_1.JPEG"]);
    assert_eq!(greys(&dataset), [10, 20]);
}

#[test]
fn cifar10_batches_are_planes_of_32_by_32() {
    let scratch = Scratch::new("cifar");
    let record = |label: u8, red: u8| {
        let mut record = vec![label];
        for plane in [red, 100, 200] {
            record.extend([plane; 1024]);
        }
        record[2] = 77;
        record
    };
    scratch.write("test_batch.bin", &record(0, 3));
    scratch.write("data_batch_1.bin", &[record(9, 1), record(4, 2)].concat());
    let dataset = load_quietly(&Source { size: 32, ..scratch.source() }).unwrap();
    assert_eq!(dataset.names, ["data_batch_1.bin/00000", "data_batch_1.bin/00001", "test_batch.bin/00000"]);
    assert_eq!((&dataset.classes[..], dataset.class_names.len()), (&[9, 4, 0][..], 10));
    assert_eq!(dataset.pixels[..6], [1, 100, 200, 77, 100, 200]);
    assert_eq!(greys(&dataset), [1, 2, 3]);

    scratch.write("batches.meta.txt", b"airplane\nautomobile\nbird\ncat\ndeer\ndog\nfrog\nhorse\nship\ntruck\n\n");
    let dataset = load_quietly(&scratch.source()).unwrap();
    assert_eq!(dataset.class_names[dataset.classes[0] as usize], "truck");

    scratch.write("data_batch_2.bin", &record(10, 0));
    assert!(fault(load_quietly(&scratch.source())).contains("label 10"));
    scratch.write("data_batch_2.bin", &record(1, 0)[1..]);
    assert!(fault(load_quietly(&scratch.source())).contains("data_batch_2.bin"));
}

#[test]
fn a_given_layout_overrides_what_would_be_found() {
    let scratch = Scratch::new("given");
    scratch.write("train/n02000000/a.png", &png(20));
    scratch.write("other/b.png", &png(10));
    let dataset = load_quietly(&Source { layout: Some(Layout::Folder), ..scratch.source() }).unwrap();
    assert_eq!(dataset.class_names, ["other", "train"]);
    let source = Source { layout: Some(Layout::Cifar10), ..scratch.source() };
    assert!(fault(load_quietly(&source)).contains("no pictures"));
}

#[test]
fn a_source_reads_from_toml() {
    let source: Source = toml::from_str("path = 'x'\nlayout = 'cifar10'\nsize = 32").unwrap();
    assert_eq!((source.layout, source.size, source.limit), (Some(Layout::Cifar10), 32, None));
    for layout in ["folder", "zip", "celeba", "imagenet", "cifar10"] {
        assert!(toml::from_str::<Source>(&format!("path = 'x'\nlayout = '{layout}'\nsize = 8")).is_ok(), "{layout}");
    }
    assert!(toml::from_str::<Source>("path = 'x'\nsize = 32\nsise = 1").is_err());
}

#[test]
fn a_prepared_set_comes_back_as_it_was_saved() {
    let scratch = Scratch::new("prepared");
    scratch.write("a/1.png", &png(10));
    scratch.write("b/2.png", &png(20));
    scratch.write("b/3.png", b"damaged");
    let dataset = load_quietly(&scratch.source()).unwrap();
    let path = scratch.0.join("set.bin");
    dataset.save(&path).unwrap();
    assert_eq!(Dataset::load_prepared(&path).unwrap(), dataset);

    let bytes = std::fs::read(&path).unwrap();
    for length in [0, 7, 16, 40, bytes.len() - 1] {
        std::fs::write(&path, &bytes[..length]).unwrap();
        assert!(matches!(Dataset::load_prepared(&path), Err(Error::File { .. })), "{length} bytes");
    }
    for position in (0..bytes.len()).step_by(13) {
        let mut damaged = bytes.clone();
        damaged[position] ^= 4;
        std::fs::write(&path, damaged).unwrap();
        assert!(matches!(Dataset::load_prepared(&path), Err(Error::File { .. })), "byte {position}");
    }
    assert!(matches!(dataset.save(&scratch.0.join("missing/set.bin")), Err(Error::Io { .. })));
}

#[test]
fn a_prepared_set_that_contradicts_itself_is_refused() {
    let scratch = Scratch::new("contradicts");
    scratch.write("1.png", &png(10));
    let good = load_quietly(&scratch.source()).unwrap();
    let path = scratch.0.join("set.bin");
    let spoil: [fn(&mut Dataset); 4] =
        [|d| d.classes[0] = 1, |d| d.names.push("x".into()), |d| d.width = usize::MAX, |d| d.pixels.truncate(5)];
    for spoil in spoil {
        let mut bad = good.clone();
        spoil(&mut bad);
        bad.save(&path).unwrap();
        assert!(matches!(Dataset::load_prepared(&path), Err(Error::File { .. })));
    }
}

#[test]
fn a_split_is_disjoint_whole_and_repeatable() {
    let a = split(1000, 100, 7, false).unwrap();
    assert_eq!(a, split(1000, 100, 7, false).unwrap());
    assert_ne!(a, split(1000, 100, 8, false).unwrap());
    let mut all = [a.train.clone(), a.validation.clone()].concat();
    all.sort_unstable();
    assert_eq!(all, (0..1000).collect::<Vec<_>>());
    assert_eq!(a.validation.len(), 100);
    assert!(a.validation.iter().filter(|&&i| i < 500).count().abs_diff(50) < 20);

    let last = split(10, 3, 7, true).unwrap();
    assert_eq!((last.train, last.validation), ((0..7).collect(), vec![7, 8, 9]));
    assert!(split(10, 10, 0, true).is_err() && split(0, 0, 0, false).is_err());
}
