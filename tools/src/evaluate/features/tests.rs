use super::*;
use image::Rgb;

/// Just enough protobuf to write an ONNX file by hand.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn int(mut self, field: u8, value: u64) -> Self {
        self.0.push(field << 3);
        self.varint(value);
        self
    }

    fn bytes(mut self, field: u8, value: impl AsRef<[u8]>) -> Self {
        self.0.push(field << 3 | 2);
        self.varint(value.as_ref().len() as u64);
        self.0.extend(value.as_ref());
        self
    }

    fn message(self, field: u8, value: Message) -> Self {
        self.bytes(field, value.0)
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 128 {
            self.0.push(value as u8 | 128);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

fn node(operator: &str, input: &str, output: &str) -> Message {
    Message::default().bytes(1, input).bytes(2, output).bytes(3, format!("{output}-node")).bytes(4, operator)
}

/// A tensor of floats; a dimension of `None` is a symbol.
fn value(name: &str, dims: &[Option<u64>]) -> Message {
    let dim = |d: &Option<u64>| match d {
        Some(d) => Message::default().int(1, *d),
        None => Message::default().bytes(2, "n"),
    };
    let shape = dims.iter().fold(Message::default(), |shape, d| shape.message(1, dim(d)));
    let tensor = Message::default().int(1, 1).message(2, shape);
    Message::default().bytes(1, name).message(2, Message::default().message(1, tensor))
}

/// Channel means as `pool` (n×3), and a second output that no runtime can compute.
fn network(name: &str, dims: &[Option<u64>]) -> PathBuf {
    let graph = Message::default()
        .message(1, node("GlobalAveragePool", "image", "cells"))
        .message(1, node("Flatten", "cells", "pool"))
        .message(1, node("NoSuchOperator", "cells", "beyond"))
        .bytes(2, "graph")
        .message(11, value("image", dims))
        .message(12, value("pool", &[None, Some(3)]))
        .message(12, value("beyond", &[None, Some(3)]));
    let opset = Message::default().bytes(1, "").int(2, 13);
    let model = Message::default().int(1, 7).message(7, graph).message(8, opset);
    let path = std::env::temp_dir().join(format!("rissole-features-{name}-{}.onnx", std::process::id()));
    std::fs::write(&path, model.0).unwrap();
    path
}

fn args(output: Option<&str>, size: Option<usize>, batch: usize) -> FeatureArgs {
    let output = output.map(str::to_owned);
    FeatureArgs { network: None, output, size, batch, offset: 128.0, scale: 128.0, cache: None }
}

fn pictures(n: u32) -> Vec<RgbImage> {
    (0..n).map(|i| RgbImage::from_fn(4, 4, |x, y| Rgb([(40 * i + x) as u8, (10 * y) as u8, 200]))).collect()
}

const OPEN: [Option<u64>; 4] = [None, Some(3), Some(8), Some(8)];

#[test]
fn features_are_the_named_output_alone_whatever_the_batch() {
    let path = network("named", &OPEN);
    let pictures = pictures(5);
    for batch in [1, 2, 7] {
        let network = FeatureNetwork::open(&path, &args(Some("pool"), None, batch)).unwrap();
        assert_eq!((network.dim(), network.input.height, network.input.width), (3, 8, 8));
        let features = network.features(&pictures, &mut Cache::in_memory(3), &|_| true).unwrap();
        assert_eq!((features.len(), features.dim()), (5, 3));
        for (i, row) in features.rows().enumerate() {
            // Doubling a picture bilinearly keeps its mean where it is a slope.
            let expected = [40.0 * i as f32 + 1.5, 15.0, 200.0].map(|v| (v - 128.0) / 128.0);
            assert!(row.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{row:?} {expected:?}");
        }
    }
    assert!(FeatureNetwork::open(&path, &args(Some("beyond"), None, 1)).is_err());
    std::fs::remove_file(path).unwrap();
}

#[test]
fn only_pictures_not_in_the_cache_are_computed() {
    let path = network("cached", &OPEN);
    let network = FeatureNetwork::open(&path, &args(Some("pool"), None, 2)).unwrap();
    let mut cache = Cache::in_memory(3);
    let mut pictures = pictures(3);
    let first = network.features(&pictures, &mut cache, &|_| true).unwrap();
    pictures.push(RgbImage::new(4, 4));
    pictures.push(RgbImage::new(4, 4));
    let steps = std::sync::Mutex::new(Vec::new());
    let note = |n| {
        steps.lock().unwrap().push(n);
        true
    };
    let second = network.features(&pictures, &mut cache, &note).unwrap();
    assert_eq!(*steps.lock().unwrap(), [4, 1]);
    assert!((0..3).all(|i| first.row(i) == second.row(i)));
    assert_eq!(second.row(3), second.row(4));
    let more = [RgbImage::from_pixel(4, 4, Rgb([9; 3]))];
    assert!(matches!(network.features(&more, &mut cache, &|_| false), Err(Error::Interrupted)));
    std::fs::remove_file(path).unwrap();
}

#[test]
fn the_cache_tells_preprocessings_apart_but_not_batches() {
    let path = network("identity", &OPEN);
    let id = |args: FeatureArgs| FeatureNetwork::open(&path, &args).unwrap().id();
    let plain = id(args(Some("pool"), None, 1));
    assert_eq!(plain, id(args(Some("pool"), None, 4)));
    assert_ne!(plain, id(args(Some("cells"), None, 1)));
    assert_ne!(plain, id(FeatureArgs { offset: 127.5, ..args(Some("pool"), None, 1) }));
    std::fs::remove_file(path).unwrap();
}

#[test]
fn what_the_graph_leaves_open_must_be_given_and_what_it_fixes_must_agree() {
    let fixed = network("fixed", &OPEN);
    let usage = |path: &Path, args: FeatureArgs| matches!(FeatureNetwork::open(path, &args), Err(Error::Usage(_)));
    assert!(usage(&fixed, args(None, None, 1)), "two outputs");
    assert!(usage(&fixed, args(Some("pool"), Some(9), 1)), "another size");
    assert!(usage(&fixed, FeatureArgs { scale: 0.0, ..args(Some("pool"), None, 1) }));
    let open = network("open", &[None, Some(3), None, None]);
    assert!(usage(&open, args(Some("pool"), None, 1)), "open size");
    assert_eq!(FeatureNetwork::open(&open, &args(Some("pool"), Some(16), 1)).unwrap().input.width, 16);
    assert!(usage(&open, args(Some("pool"), Some(1 << 40), 1)), "bounds");
    let grey = network("grey", &[None, Some(1), Some(8), Some(8)]);
    assert!(matches!(FeatureNetwork::open(&grey, &args(Some("pool"), None, 1)), Err(Error::File { .. })));
    for path in [fixed, open, grey] {
        std::fs::remove_file(path).unwrap();
    }
}

#[test]
fn files_that_are_no_network_are_refused() {
    let path = std::env::temp_dir().join(format!("rissole-features-bad-{}.onnx", std::process::id()));
    std::fs::write(&path, b"\x89PNG and so on").unwrap();
    assert!(matches!(FeatureNetwork::open(&path, &args(None, None, 1)), Err(Error::File { .. })));
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(FeatureNetwork::open(&path, &args(None, None, 1)), Err(Error::Io { .. })));
}

#[test]
fn resizing_is_bilinear_about_pixel_centres() {
    let line = |from: &[f32], to| -> Vec<f32> {
        taps(from.len(), to).iter().map(|t| from[t.low] + t.share * (from[t.high] - from[t.low])).collect()
    };
    assert_eq!(line(&[0.0, 1.0], 4), [0.0, 0.25, 0.75, 1.0]);
    assert_eq!(line(&[3.0, 1.0, 2.0], 3), [3.0, 1.0, 2.0]);
    assert_eq!(line(&[0.0, 1.0, 2.0, 3.0], 2), [0.5, 2.5]);
    assert_eq!(line(&[7.0], 5), [7.0; 5]);
}

#[test]
fn channels_go_first_or_last_as_the_graph_declares() {
    let picture = RgbImage::from_fn(2, 1, |x, _| Rgb([128 + x as u8 * 64, 0, 192]));
    let input = Input { batch: 1, height: 1, width: 2, channels_last: false, offset: 128.0, scale: 128.0 };
    let mut out = [0.0; 6];
    input.fill(&picture, &mut out);
    assert_eq!(out, [0.0, 0.5, -1.0, -1.0, 0.5, 0.5]);
    Input { channels_last: true, ..input }.fill(&picture, &mut out);
    assert_eq!(out, [0.0, -1.0, 0.5, 0.5, -1.0, 0.5]);
}
