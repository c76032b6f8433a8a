//! The shipped decoder in tiles.

use std::path::Path;

use tract_onnx::onnx;
use tract_onnx::prelude::Framework;

use super::*;
use crate::Bundle;
use crate::network::lower::lower;
use crate::network::program::Workspace;
use crate::threads::Threads;

const OUTPUT: Shape = Shape { channels: 3, height: 64, width: 64 };

fn program(network: &str) -> Program {
    let bundle = Bundle::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("models/avatars64")).unwrap();
    let entry = bundle.manifest.networks.all().find(|entry| entry.file == network).unwrap();
    lower(&onnx().proto_model_for_path(bundle.path_of(network)).unwrap(), entry).unwrap()
}

fn run(program: &Program, input: &[f32], len: usize) -> Vec<u32> {
    let mut out = vec![f32::NAN; len];
    program.run(&[input], &mut out, &mut Workspace::for_one(program.arena, program.scratch), &Threads::alone());
    out.into_iter().map(f32::to_bits).collect()
}

/// The values of `window` of planes of `shape`.
fn cut_out<T: Copy>(planes: &[T], shape: Shape, window: Window) -> Vec<T> {
    window.rows(shape).flat_map(|row| planes[row].to_vec()).collect()
}

#[test]
fn a_tile_is_computed_from_what_it_depends_on_and_no_more() {
    let program = program("decoder.onnx");
    let tiling = Tiling::new(&program, 16, OUTPUT).unwrap();
    let (input, output) = (tiling.input(), tiling.output());
    let latent: Vec<f32> = (0..input.len()).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect();
    let whole = run(&program, &latent, output.len());
    let mut edges = 0;
    for window in tiling.windows() {
        let tile = tiling.tile(&program, window).unwrap();
        let len = output.channels * window.height * window.width;
        let seen = cut_out(&latent, input, tile.input);
        assert!(run(&tile.program, &seen, len) == cut_out(&whole, output, window), "{window:?}");

        // None of it is for nothing, but for the edges of the picture: with other values in the outermost row or column on
        // any side, the tile is another. They are large, since what has come so far is nearly rounded away.
        let Window { top, left, height, width } = tile.input;
        let inner = [top > 0, left > 0, top + height < input.height, left + width < input.width];
        let is_edge = |y: usize, x: usize| [y == 0, x == 0, y + 1 == height, x + 1 == width];
        for edge in (0..4).filter(|&edge| inner[edge]) {
            let mut other = seen.clone();
            for (i, value) in other.iter_mut().enumerate() {
                *value = if is_edge(i / width % height, i % width)[edge] { 1e4 } else { *value };
            }
            assert!(
                run(&tile.program, &other, len) != cut_out(&whole, output, window),
                "{window:?} of {:?}",
                tile.input
            );
            edges += 1;
        }
    }
    assert!(edges > 8, "{edges}");
}

#[test]
fn a_tile_s_memory_is_no_more_than_was_told() {
    let program = program("decoder.onnx");
    for side in [1, 7, 16, 24, 64, 1000] {
        let tiling = Tiling::new(&program, side, OUTPUT).unwrap();
        for window in tiling.windows() {
            let tile = tiling.tile(&program, window).unwrap();
            assert!(tile.program.arena <= tiling.arena && tiling.scratch.max(tile.program.scratch) == tiling.scratch);
            assert!(tile.input.height * tile.input.width * tiling.input().channels <= tiling.input_len);
            assert!(tile.program.steps.iter().all(Step::writes_apart));
        }
        // Shared as well as the whole is.
        assert!(tiling.arena <= program.arena, "{side}: {} of {}", tiling.arena, program.arena);
    }
    let small = Tiling::new(&program, 16, OUTPUT).unwrap();
    assert!(small.arena * 2 < program.arena, "{} of {}", small.arena, program.arena);
}

#[test]
fn a_network_that_looks_at_all_is_not_cut() {
    for network in ["denoiser.onnx", "conditioner.onnx"] {
        let why = Tiling::new(&program(network), 4, OUTPUT).unwrap_err();
        assert!(why.contains("depends on more than those near it") || why.contains("one input"), "{why}");
    }
    let decoder = program("decoder.onnx");
    assert!(Tiling::new(&decoder, 0, OUTPUT).is_err());
    let other = Shape { height: OUTPUT.height * 1000, ..OUTPUT };
    assert!(Tiling::new(&decoder, 4, other).unwrap_err().contains("other sides"));
}
