//! Our own operators against tract.

mod common;

use std::path::Path;

use common::Random;
use rissole::Bundle;
use rissole::bundle::manifest::NetworkEntry;
use rissole::network::{Engine, Network};

fn shipped() -> Bundle {
    Bundle::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("models/avatars64")).unwrap()
}

/// Most that the two engines differ by on `inputs`, over the standard deviation of tract's output.
fn difference(ours: &Network, tract: &Network, inputs: &[Vec<f32>]) -> f64 {
    let inputs: Vec<&[f32]> = inputs.iter().map(Vec::as_slice).collect();
    let [mut found, mut expected] = [ours, tract].map(|network| vec![0.0; network.output_len()]);
    ours.run(&inputs, &mut found).unwrap();
    tract.run(&inputs, &mut expected).unwrap();
    let count = expected.len() as f64;
    let mean = expected.iter().map(|&v| f64::from(v)).sum::<f64>() / count;
    let variance = expected.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / count;
    let most = found.iter().zip(&expected).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max);
    most / variance.sqrt()
}

fn networks(bundle: &Bundle) -> impl Iterator<Item = &NetworkEntry> {
    let networks = &bundle.manifest.networks;
    [&networks.conditioner, &networks.denoiser, &networks.decoder].into_iter().chain(&networks.encoder)
}

#[test]
fn the_shipped_networks_give_what_tract_gives() {
    let bundle = shipped();
    let mut random = Random(77);
    for entry in networks(&bundle) {
        let path = bundle.path_of(&entry.file);
        let (ours, tract) = (Network::load(&path, entry).unwrap(), Network::load_with_tract(&path, entry).unwrap());
        assert_eq!((ours.engine(), tract.engine()), (Engine::Own, Engine::Tract), "{}", entry.file);
        for _ in 0..4 {
            let mut values = |name: &str, len: usize| -> Vec<f32> {
                match name {
                    "timestep" => vec![random.below(1000) as f32],
                    "position" => {
                        let position = random.below(len);
                        (0..len).map(|i| f32::from(u8::from(i == position))).collect()
                    }
                    _ => (0..len).map(|_| 1.7 * random.symmetric()).collect(),
                }
            };
            let inputs: Vec<Vec<f32>> =
                entry.inputs.iter().map(|input| values(&input.name, input.shape.iter().product())).collect();
            let difference = difference(&ours, &tract, &inputs);
            assert!(difference < 2e-4, "{}: {difference}", entry.file);
        }
    }
}
