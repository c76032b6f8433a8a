use super::*;

const KIND: [u8; 4] = *b"test";

fn path(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("rissole-container-{name}-{}", std::process::id()))
}

fn written(name: &str, sections: &[(SectionId, Vec<u8>)]) -> (PathBuf, Vec<u8>) {
    let path = path(name);
    let sources = sections.iter().map(|(id, bytes)| (*id, source(bytes))).collect();
    write(&path, KIND, sources).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    (path, bytes)
}

#[test]
fn sections_come_back_in_place() {
    let sections = [
        (SectionId(*b"bbbb", 1), vec![7; 5000]),
        (SectionId(*b"aaaa", 0), 1.5f32.to_le_bytes().to_vec()),
        (SectionId(*b"bbbb", 0), vec![]),
    ];
    let (path, bytes) = written("back", &sections);
    assert_eq!(bytes.len(), 8192 + 5000, "header, a page with `a` (and the empty section's offset), `b`");
    for container in [Container::open(&path, KIND).unwrap(), Container::open_paged(&path, KIND).unwrap()] {
        container.verify().unwrap();
        assert_eq!(container.len_bytes(), bytes.len() as u64);
        let a = container.section_of::<f32>(sections[1].0, 1).unwrap();
        assert_eq!((container.value(&a, 0).unwrap(), container.value(&a, 1).unwrap()), (Some(1.5), None));
        let b = container.section::<u8>(sections[0].0).unwrap();
        let mut buffer = vec![];
        assert_eq!(container.read(&b, 1, 4999, &mut buffer).unwrap(), Some(&[7; 4999][..]));
        assert_eq!(container.read(&b, 5000, 0, &mut buffer).unwrap(), Some(&[][..]));
        for (start, count) in [(1, 5000), (5001, 0), (u64::MAX, 2)] {
            assert!(container.read(&b, start, count, &mut buffer).unwrap().is_none());
        }
        let mut pieces = vec![];
        container.each_piece_of(&b, 10..4990, |piece| pieces.extend_from_slice(piece)).unwrap();
        assert_eq!(pieces, [7; 4980]);
        let b = container.resident(b).unwrap();
        assert_eq!(container.view(&b), sections[0].1);
        assert_eq!(container.section_of::<u8>(sections[2].0, 0).map(|s| s.len()).unwrap(), 0);
        assert!(container.section_of::<f32>(sections[1].0, 2).is_err());
        assert!(container.section::<u64>(sections[1].0).is_err());
        assert!(container.section::<u8>(SectionId(*b"cccc", 0)).is_err());
    }
    assert!(matches!(Container::open(&path, *b"else"), Err(Error::File { .. })));
    assert!(matches!(Container::open_paged(&path, *b"else"), Err(Error::File { .. })));
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_source_that_changes_its_mind_writes_nothing() {
    let path = path("mind");
    let asked = std::cell::Cell::new(0);
    let source: Source<'_> = Box::new(|out| {
        asked.set(asked.get() + 1);
        out.write_all(&[asked.get()])
    });
    assert!(matches!(write(&path, KIND, vec![(SectionId(*b"aaaa", 0), source)]), Err(Error::Internal(_))));
    assert!(!path.exists());
}

/// Every bit and length of header and table, of the rest a sample.
#[test]
fn no_bit_can_flip_and_no_byte_be_lost_unseen() {
    let sections = [(SectionId(*b"aaaa", 0), vec![1, 2, 3]), (SectionId(*b"bbbb", 0), vec![4; 9])];
    let (path, bytes) = written("bits", &sections);
    // Mapped or not, with the same words.
    let rejected = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        let found = |container: Result<Container>| match container.and_then(|container| container.verify()) {
            Ok(()) => None,
            Err(fault) => Some(fault.to_string()),
        };
        let mapped = found(Container::open(&path, KIND));
        assert_eq!(found(Container::open_paged(&path, KIND)), mapped);
        mapped.is_some()
    };
    assert!(!rejected(&bytes));
    for at in (0..160).chain((160..bytes.len()).step_by(61)).chain(bytes.len() - 9..bytes.len()) {
        for bit in 0..8 {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << bit;
            assert!(rejected(&damaged), "byte {at} bit {bit}");
        }
    }
    for length in (0..160).chain((160..bytes.len()).step_by(173)).chain(bytes.len() - 9..bytes.len()) {
        assert!(rejected(&bytes[..length]), "{length} bytes");
    }
    let longer: Vec<u8> = bytes.iter().copied().chain([0]).collect();
    assert!(rejected(&longer));
    std::fs::remove_file(path).unwrap();
}

/// Hostile tables with a right checksum.
#[test]
fn a_table_that_lies_is_refused() {
    let sections = [(SectionId(*b"aaaa", 0), vec![1, 2, 3]), (SectionId(*b"bbbb", 0), vec![4; 9])];
    let (path, bytes) = written("lies", &sections);
    let second = HEADER + ENTRY;
    let lie = |at: usize, value: u64| {
        let mut lying = bytes.clone();
        lying[at..at + 8].copy_from_slice(&value.to_le_bytes());
        lying[CRC].fill(0);
        let crc = crc32fast::hash(&lying[..4096]);
        lying[CRC].copy_from_slice(&crc.to_le_bytes());
        check_structure(&lying, lying.len() as u64, KIND)
    };
    assert!(lie(second + 8, 8192).is_ok(), "the truth");
    for offset in [0, 4096, 8191, 12288, u64::MAX, u64::MAX - 4095] {
        assert!(lie(second + 8, offset).is_err(), "offset {offset}");
    }
    for length in [0, 8, 10, u64::MAX, u64::MAX - 8191] {
        assert!(lie(second + 16, length).is_err(), "length {length}");
    }
    assert!(lie(second, u64::from_le_bytes(*b"aaaa\0\0\0\0")).is_err(), "a name twice");
    assert!(lie(24, 1 << 31).is_err(), "two thousand million sections");
    assert!(lie(24, 1).is_err(), "a hidden section");
    std::fs::remove_file(path).unwrap();
}
