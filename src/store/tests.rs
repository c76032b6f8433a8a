use std::path::PathBuf;

use super::*;
use crate::atomic_file::faults::refusing;

fn path(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("rissole-store-{name}-{}.rsdb", std::process::id()))
}

/// 3 pictures of 2×4×4 in 2×2 blocks and a thumbnail; the block codebook has `entries`, the thumbnails' 5.
fn contents(entries: usize) -> DatabaseContents {
    let latent = LatentShape { channels: 2, height: 4, width: 4 };
    let codes = |entries: usize, salt: usize| (0..12).map(|i| ((i * 7919 + salt * 31) % entries) as u16).collect();
    DatabaseContents {
        grid: BlockGrid::new(latent, 2, 2, true, 1).unwrap(),
        codebook: (0..entries * 2).map(|v| v as f32 * 0.25 - 3.0).collect(),
        thumbnail_codebook: Some((0..10).map(|v| 1.0 / (1.0 + v as f32)).collect()),
        codes: (0..5).map(|position| codes(if position == 0 { 5 } else { entries }, position)).collect(),
        names: vec!["a.png".into(), String::new(), "größer.png".into()],
    }
}

fn paged(path: &Path) -> BlockDatabase {
    BlockDatabase::of(Container::open_paged(path, BlockDatabase::KIND).unwrap()).unwrap()
}

#[test]
fn what_was_written_comes_back() {
    for entries in [3, 256, 257, 1000] {
        let path = path(&format!("back{entries}"));
        let contents = contents(entries);
        contents.write(&path).unwrap();
        for db in [BlockDatabase::open(&path).unwrap(), paged(&path)] {
            db.verify().unwrap();
            assert_eq!((db.images(), db.positions()), (3, 5));
            assert_eq!((db.codebook_size(), db.thumbnail_codebook_size()), (entries, 5));
            assert_eq!((db.latent(), db.block()), (contents.grid.latent(), contents.grid.block()));
            assert_eq!(db.codebook(), contents.codebook);
            assert_eq!(db.thumbnail_codebook(), contents.thumbnail_codebook.as_deref());
            let name = |image| db.name(image).unwrap();
            assert_eq!([0, 1, 2].map(|image| name(image).unwrap()), ["a.png", "", "größer.png"]);
            assert_eq!(name(3), None);
            let mut buffer = RowBuffer::default();
            assert!(matches!(db.row(0, 0, &mut buffer), Ok(Row::U8(_))), "thumbnails have their own width");
            assert_eq!(matches!(db.row(0, 1, &mut buffer).unwrap(), Row::U16(_)), entries > 256);

            let mut block = [f32::NAN; 8];
            for (image, position) in (0..3).flat_map(|image| (0..5).map(move |position| (image, position))) {
                let codes = &contents.codes[position][image * 4..][..4];
                assert!(
                    db.row(image as u32, position, &mut buffer).unwrap().iter().eq(codes.iter().map(|&c| c as usize))
                );
                db.read_block(image as u32, position, &mut block).unwrap();
                for (cell, &code) in codes.iter().enumerate() {
                    let entry = &db.codebook_at(position)[code as usize * 2..][..2];
                    assert_eq!([block[cell], block[4 + cell]], entry, "channels are planes");
                }
            }
            assert!(matches!(db.read_block(3, 0, &mut block), Err(Error::Usage(_))));
            assert!(matches!(db.read_block(0, 5, &mut block), Err(Error::Usage(_))));
            assert!(matches!(db.read_block(0, 0, &mut block[1..]), Err(Error::Usage(_))));
        }
        std::fs::remove_file(path).unwrap();
    }
}

#[test]
fn levels_between_are_not_stored() {
    let latent = LatentShape { channels: 2, height: 4, width: 4 };
    let grid = BlockGrid::new(latent, 4, 4, true, 0).unwrap().with_levels_between(1).unwrap();
    let contents = DatabaseContents { grid, codes: vec![vec![0; 3]; grid.positions()], ..contents(3) };
    let error = contents.write(path("levels")).unwrap_err().to_string();
    assert!(error.contains("levels between thumbnail and blocks are not stored"), "{error}");
    DatabaseContents { grid: grid.stored(), codes: vec![vec![0; 3]; 17], ..contents }.write(path("levels")).unwrap();
    std::fs::remove_file(path("levels")).unwrap();
}

/// The same without codebooks: values, the first of them the smallest, the largest, and both zeros.
fn uncoded() -> DatabaseContents {
    let values = |salt: u16| (0..24).map(move |i: u16| ((i * 7919 + salt * 631) % 0x7c00) | ((i % 2) << 15));
    let codes = |position: u16| [0x0001, 0xfbff, 0x0000, 0x8000].into_iter().chain(values(position).skip(4)).collect();
    DatabaseContents { codebook: vec![], thumbnail_codebook: None, codes: (0..5).map(codes).collect(), ..contents(9) }
}

#[test]
fn values_come_back_without_a_codebook() {
    let path = path("values");
    let contents = uncoded();
    contents.write(&path).unwrap();
    for db in [BlockDatabase::open(&path).unwrap(), paged(&path)] {
        db.verify().unwrap();
        assert_eq!((db.images(), db.positions(), db.grid().has_thumbnail()), (3, 5, true));
        assert_eq!((db.codebook_size(), db.codebook(), db.thumbnail_codebook()), (0, &[][..], None));
        let (mut block, mut buffer) = ([f32::NAN; 8], RowBuffer::default());
        for (image, position) in (0..3).flat_map(|image| (0..5).map(move |position| (image, position))) {
            let codes = &contents.codes[position][image * 8..][..8];
            assert_eq!(db.row(image as u32, position, &mut buffer).unwrap(), Row::U16(codes));
            db.read_block(image as u32, position, &mut block).unwrap();
            assert!(block.iter().zip(codes).all(|(value, &code)| *value == f16::from_bits(code).to_f32()));
        }
    }
    let db = BlockDatabase::open(&path).unwrap();
    let refused = |change: &dyn Fn(&mut DatabaseContents)| {
        let mut contents = uncoded();
        change(&mut contents);
        assert!(matches!(contents.write(&path), Err(Error::Usage(_))));
    };
    refused(&|c| c.codes[4][7] = 0x7c00);
    refused(&|c| c.codes[0][0] = 0xfe00);
    refused(&|c| c.codes[0].truncate(16));
    refused(&|c| c.codes[1].push(0));
    refused(&|c| c.thumbnail_codebook = Some(vec![1.0; 4]));

    // A value that is no number, with checksums that vouch for it.
    let mut hostile = contents.codes[2].clone();
    hostile[9] = 0x7c01;
    let mut sections = vec![(head::HEAD, bytemuck::bytes_of(&db.head).to_vec())];
    for (position, codes) in contents.codes.iter().enumerate() {
        let rows = if position == 2 { &hostile } else { codes };
        sections.push((head::values(position), bytemuck::cast_slice(rows).to_vec()));
    }
    sections.push((head::NAME_OFFSETS, bytemuck::cast_slice(&[0u32, 5, 5, 17]).to_vec()));
    sections.push((head::NAME_TEXT, "a.pnggrößer.png".into()));
    let sections = sections.into_iter().map(|(id, bytes)| (id, crate::container::source(bytes))).collect();
    crate::container::write(&path, BlockDatabase::KIND, sections).unwrap();
    let db = BlockDatabase::open(&path).unwrap();
    let mut block = [0.0; 8];
    db.read_block(0, 2, &mut block).unwrap();
    let (read, verified) = (db.read_block(1, 2, &mut block), db.verify());
    for error in [read.unwrap_err(), verified.unwrap_err()] {
        assert!(matches!(&error, Error::File { fault, .. } if fault.contains("no finite number")), "{error}");
    }
    let mut scratch = crate::index::SearchScratch::default();
    let query = [0.5; 8];
    let found = crate::index::exact_scan(&db, 2, &query, 3, None, &mut scratch);
    assert!(matches!(&found, Err(Error::File { .. })), "{found:?}");
    assert_eq!(crate::index::exact_scan(&db, 2, &query, 2, None, &mut scratch).unwrap().len(), 2);
    std::fs::remove_file(path).unwrap();
}

#[test]
fn the_content_hash_is_of_the_content_alone() {
    let path = path("hash");
    let hash = |contents: &DatabaseContents| {
        contents.write(&path).unwrap();
        BlockDatabase::open(&path).unwrap().content_hash()
    };
    let original = hash(&contents(300));
    let mut unnamed = contents(300);
    unnamed.names.clear();
    assert_eq!(hash(&unnamed), original);
    let mut recoded = contents(300);
    recoded.codes[3][5] ^= 1;
    assert_ne!(hash(&recoded), original);
    let mut revalued = contents(300);
    revalued.codebook[17] += 1.0;
    assert_ne!(hash(&revalued), original);
    std::fs::remove_file(path).unwrap();
}

#[test]
fn contents_that_contradict_themselves_are_not_written() {
    let path = path("contradiction");
    let refused = |change: &dyn Fn(&mut DatabaseContents)| {
        let mut contents = contents(300);
        change(&mut contents);
        assert!(matches!(contents.write(&path), Err(Error::Usage(_))));
        assert!(!path.exists());
    };
    refused(&|c| c.codes[4][0] = 300);
    refused(&|c| c.codes[0][0] = 5);
    refused(&|c| c.codebook[0] = f32::NAN);
    refused(&|c| c.codebook.push(1.0));
    refused(&|c| c.codebook.clear());
    refused(&|c| c.thumbnail_codebook.iter_mut().for_each(Vec::clear));
    refused(&|c| c.thumbnail_codebook = None);
    refused(&|c| c.thumbnail_codebook = Some(vec![]));
    refused(&|c| c.names.truncate(2));
    refused(&|c| c.codes.truncate(4));
    refused(&|c| c.codes[2].truncate(8));
    refused(&|c| c.codes.iter_mut().for_each(Vec::clear));
}

/// Against contents put together by hand, with and without names.
#[test]
fn a_revision_keeps_what_it_does_not_remove() {
    let (old_path, new_path, plain_path) = (path("old"), path("new"), path("plain"));
    for (entries, named) in [(200, [true, true]), (300, [true, false]), (300, [false, true]), (9, [false, false])] {
        let (mut old, mut added) = (contents(entries), contents(entries));
        added.codes.iter_mut().for_each(|codes| codes.rotate_left(4));
        added.codes.iter_mut().for_each(|codes| codes.truncate(8));
        added.names = vec!["x".into(), "y".into()];
        for (contents, named) in [&mut old, &mut added].into_iter().zip(named) {
            if !named {
                contents.names.clear();
            }
        }
        old.write(&old_path).unwrap();
        let db = if entries == 300 { paged(&old_path) } else { BlockDatabase::open(&old_path).unwrap() };
        for removed in [vec![], vec![0], vec![1], vec![2], vec![0, 2], vec![0, 1, 2]] {
            let kept: Vec<usize> = (0..3).filter(|image| !removed.contains(&(*image as u32))).collect();
            let mut plain = added.clone();
            for (codes, old) in plain.codes.iter_mut().zip(&old.codes) {
                let kept: Vec<u16> = kept.iter().flat_map(|image| &old[image * 4..][..4]).copied().collect();
                codes.splice(0..0, kept);
            }
            if named != [false; 2] {
                let name = |names: &[String], i: usize| names.get(i).cloned().unwrap_or_default();
                let kept = kept.iter().map(|&image| name(&old.names, image));
                plain.names = kept.chain((0..2).map(|i| name(&added.names, i))).collect();
            }
            plain.write(&plain_path).unwrap();
            write_revision(&db, &removed.iter().copied().collect(), &added, &new_path).unwrap();
            assert!(std::fs::read(&new_path).unwrap() == std::fs::read(&plain_path).unwrap(), "{named:?} {removed:?}");
        }
        let none = Collection::new(&db).into_contents();
        let refused = |removed: &[u32], added: &DatabaseContents| {
            let done = write_revision(&db, &removed.iter().copied().collect(), added, &new_path);
            assert!(matches!(done, Err(Error::Usage(_))), "{done:?}");
        };
        refused(&[3], &added);
        refused(&[0, 1, 2], &none);
        refused(&[], &contents(entries + 1));
        let mut other = added.clone();
        other.codebook[0] += 1.0;
        refused(&[], &other);
    }
    [old_path, new_path, plain_path].iter().for_each(|path| std::fs::remove_file(path).unwrap());
}

/// The system refuses the n-th file operation, once or from there on, for every n.
#[test]
fn whatever_is_refused_the_file_is_old_or_new() {
    // Of its own: where all is refused from an operation on, as to a program that was killed, what it had begun stays.
    let folder = std::env::temp_dir().join(format!("rissole-store-refused-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("blocks.rsdb");
    let (old, new) = (contents(200), contents(300));
    old.write(&path).unwrap();
    let before = std::fs::read(&path).unwrap();
    let (done, operations) = refusing(usize::MAX, false, || new.write(&path));
    done.unwrap();
    assert!(operations > 5, "{operations}: begun, written several times, synced, renamed");
    for (at, for_good) in (0..operations).flat_map(|at| [(at, false), (at, true)]) {
        std::fs::write(&path, &before).unwrap();
        let (done, _) = refusing(at, for_good, || new.write(&path));
        assert!(matches!(&done, Err(Error::Io { path: named, .. }) if *named == path), "operation {at}: {done:?}");
        assert!(std::fs::read(&path).unwrap() == before, "operation {at}, for good {for_good}");
    }
    std::fs::remove_dir_all(folder).unwrap();
}

/// A damaged database must not come out of a revision with checksums that vouch for it.
#[test]
fn a_damaged_database_is_not_followed() {
    let (path, new_path) = (path("damaged"), path("damaged-new"));
    contents(300).write(&path).unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let db = BlockDatabase::open(&path).unwrap();
    let none = Collection::new(&db).into_contents();
    assert!(matches!(write_revision(&db, &[0].into(), &none, &new_path), Err(Error::File { .. })));
    assert!(!new_path.exists());
    std::fs::remove_file(path).unwrap();
}

/// A file whose checksums are right but whose codes are not: made with a larger codebook, then shrunk.
#[test]
fn a_code_beyond_the_codebook_is_an_error_and_no_panic() {
    let path = path("beyond");
    let db = {
        contents(16).write(&path).unwrap();
        let sections = |db: &BlockDatabase| {
            let mut head = db.head;
            head.codebook = 4;
            let mut sections = vec![
                (head::HEAD, bytemuck::bytes_of(&head).to_vec()),
                (head::codebook(0), bytemuck::cast_slice(&db.codebook()[..8]).to_vec()),
                (head::codebook(1), bytemuck::cast_slice(db.thumbnail_codebook().unwrap()).to_vec()),
                (head::NAME_OFFSETS, bytemuck::cast_slice(&[0u32, 9, 3, 1 << 31]).to_vec()),
                (head::NAME_TEXT, vec![0xff; 12]),
            ];
            for position in 0..5 {
                let id = head::codes(position);
                let section = db.container.resident(db.container.section::<u8>(id).unwrap()).unwrap();
                sections.push((id, db.container.view(&section).to_vec()));
            }
            sections
        };
        let hostile = sections(&BlockDatabase::open(&path).unwrap());
        let hostile = hostile.into_iter().map(|(id, bytes)| (id, crate::container::source(bytes))).collect();
        crate::container::write(&path, BlockDatabase::KIND, hostile).unwrap();
        BlockDatabase::open(&path).unwrap()
    };
    let mut block = [0.0; 8];
    let blocks: Vec<_> = (0..3).map(|image| db.read_block(image, 1, &mut block)).collect();
    assert!(blocks.iter().any(|b| matches!(b, Err(Error::File { .. }))));
    assert!(matches!(db.verify(), Err(Error::File { .. })));
    assert_eq!([0, 1, 2].map(|image| db.name(image).unwrap()), [const { None }; 3]);
    std::fs::remove_file(path).unwrap();
}

/// A head whose row lengths would overflow, over an empty section.
#[test]
fn latents_beyond_all_bounds_are_refused() {
    let path = path("huge");
    uncoded().write(&path).unwrap();
    let sound = BlockDatabase::open(&path).unwrap().head;
    for (channels, images) in [(512, 1 << 31), (128, 1), (1024, u32::MAX)] {
        let (height, width, rows, cols) = (4096, 4096, 1, 1);
        let head = Head { images, channels, height, width, rows, cols, named: 0, thumbnail_values: 0, ..sound };
        let source = crate::container::source(bytemuck::bytes_of(&head));
        let sections = vec![(head::HEAD, source), (head::values(0), crate::container::source(vec![]))];
        crate::container::write(&path, BlockDatabase::KIND, sections).unwrap();
        assert!(matches!(BlockDatabase::open(&path), Err(Error::File { fault, .. }) if fault.contains("larger than")));
    }
    std::fs::remove_file(path).unwrap();
}
