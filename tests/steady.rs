//! What a network allocates. One test alone in its process: others would allocate meanwhile.

use std::path::Path;

use rissole::Bundle;
use rissole::budget::{self, CountingAllocator};
use rissole::network::{Engine, Network};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

#[test]
fn nothing_is_allocated_while_a_network_runs() {
    let bundle = Bundle::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("models/avatars64")).unwrap();
    for entry in bundle.manifest.networks.all() {
        let before = budget::live_bytes();
        let network = Network::load(bundle.path_of(&entry.file), entry).unwrap();
        assert_eq!(network.engine(), Engine::Own);
        let loaded = budget::live_bytes() - before;
        let file = std::fs::metadata(bundle.path_of(&entry.file)).unwrap().len();
        // The weights are held as they are stored.
        assert!(loaded < file + file / 4, "{}: {loaded} bytes of a file of {file}", entry.file);

        network.warm_up().unwrap();
        let inputs: Vec<Vec<f32>> = network.input_lens().map(|len| vec![0.5; len]).collect();
        let inputs: Vec<&[f32]> = inputs.iter().map(Vec::as_slice).collect();
        let mut out = vec![0.0; network.output_len()];
        let live = budget::live_bytes();
        budget::reset_peak();
        network.run(&inputs, &mut out).unwrap();
        assert_eq!((budget::live_bytes(), budget::peak_bytes()), (live, live), "{}", entry.file);
    }
}
