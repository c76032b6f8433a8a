use hnsw_rs::prelude::Distance;

use super::SearchScratch;
use super::build::scattered;
use super::distance::{CodeDistance, DistanceScratch, Distances};
use super::freeze::DraftGraph;
use super::frozen::At;
use super::scratch::Visited;
use super::walk::{Graph, reach};
use crate::latent::{BlockGrid, LatentShape};
use crate::store::{BlockDatabase, DatabaseContents, RowBuffer};

/// 40 pictures of one 2×2×3 block, in `entries` codes.
fn database(name: &str, entries: usize) -> BlockDatabase {
    let path = std::env::temp_dir().join(format!("rissole-index-{name}-{}.rsdb", std::process::id()));
    let latent = LatentShape { channels: 2, height: 2, width: 3 };
    let contents = DatabaseContents {
        grid: BlockGrid::new(latent, 1, 1, false, 0).unwrap(),
        codebook: (0..entries * 2).map(|v| (v * 7919 % 1000) as f32 / 500.0 - 1.0).collect(),
        thumbnail_codebook: None,
        codes: vec![(0..240).map(|i| (i * 6151 % entries) as u16).collect()],
        names: vec![],
    };
    contents.write(&path).unwrap();
    let db = BlockDatabase::open(&path).unwrap();
    std::fs::remove_file(path).unwrap(); // the map holds it
    db
}

/// The builder's distance, the searcher's, and plain arithmetic agree.
#[test]
fn all_ways_to_a_distance_agree() {
    for entries in [50, 300] {
        let db = database(&format!("distance{entries}"), entries);
        let built = CodeDistance::new(db.codebook(), 2);
        let codes = |image| {
            db.rows(0).row(image, &mut RowBuffer::default()).unwrap().iter().map(|code| code as u16).collect::<Vec<_>>()
        };
        let block = |image| {
            let mut block = vec![0.0; 12];
            db.read_block(image, 0, &mut block).unwrap();
            block
        };
        for (a, b) in [(0, 0), (0, 1), (7, 30), (39, 2)] {
            let plain: f32 = block(a).iter().zip(block(b)).map(|(a, b)| (a - b) * (a - b)).sum();
            let searched = Distances::new(&db, 0, &block(a), &mut DistanceScratch::default()).unwrap().to(b).unwrap();
            for distance in [built.eval(&codes(a), &codes(b)), searched] {
                assert!((distance - plain).abs() <= 1e-5 * plain, "{distance} is not {plain}");
            }
        }
    }
}

#[test]
fn what_the_builder_left_unreachable_is_mended() {
    let db = database("mend", 50);
    // Nodes 0…9 in a ring, 10…19 in another, the rest alone; an upper level leads to the second ring only.
    let ring = |node: u32| match node {
        0..20 => vec![node / 10 * 10 + (node + 1) % 10],
        _ => vec![],
    };
    let mut graph = DraftGraph {
        entry: 3,
        members: (0..40).map(|image| vec![image]).collect(),
        ground: (0..40).map(ring).collect(),
        upper: vec![[(3, vec![15]), (15, vec![3])].into()],
    };
    let mended = graph.mend(At { db: &db, position: 0, ef: 5 }).unwrap();
    assert_eq!(mended, 21, "one link to the second ring, one to each that was alone");
    let mut reached = Visited::default();
    reached.clear(40);
    reach(&graph, graph.entry(), &mut reached, &mut vec![]).unwrap();
    assert!((0..40).all(|node| reached.contains(node)));
}

#[test]
fn links_become_mutual_up_to_a_degree() {
    let mut graph = DraftGraph { ground: vec![vec![1], vec![], vec![1], vec![1]], ..DraftGraph::default() };
    graph.make_mutual(2);
    assert_eq!(graph.ground, [vec![1], vec![0, 2], vec![1], vec![1]]);
}

#[test]
fn a_query_too_far_away_is_refused_and_the_farthest_accepted() {
    let db = database("far", 50);
    let mut scratch = SearchScratch::default();
    let found = super::exact_scan(&db, 0, &[-1e9; 12], 40, None, &mut scratch).unwrap();
    assert!(found.iter().all(|neighbour| neighbour.distance.is_finite()));
    assert!(super::exact_scan(&db, 0, &[1.1e9; 12], 40, None, &mut scratch).is_err());
}

#[test]
fn scattering_leaves_none_out() {
    for count in [0, 1, 2, 3, 10, 1000, 9999] {
        let mut all: Vec<usize> = scattered(count).collect();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..count), "{count}");
    }
}
