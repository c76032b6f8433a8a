//! The CUDA backend through the command line, on a real GPU where there is one, and on the emulator of
//! `tools/emulator` where g++ can build it.

#[path = "../../tests/common/mod.rs"]
mod common;
mod workshop;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use prost::Message;
use rissole::Bundle;
use rissole_train::export::proto::{floats, ints, model, node, value_info};
use rissole_train::train::checkpoint::Checkpoint;
use tract_onnx::pb::GraphProto;
use workshop::workshop;

fn check_device(arguments: &[&str], prepare: impl Fn(&mut Command)) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rissole-train"));
    command.args(["check-device", "--device", "cuda:0"]).args(arguments);
    prepare(&mut command);
    command.output().unwrap()
}

fn text(output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    format!("{out}{err}")
}

/// A folder with the emulated libraries, of its own for each test.
fn emulator(test: &str) -> Option<PathBuf> {
    if Command::new("g++").arg("--version").output().is_err() {
        println!("skipped: no g++ to build the CUDA emulator with");
        return None;
    }
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("cuda-{test}"));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("emulator/build.sh");
    let built = Command::new("bash").arg(script).arg(&dir).output().unwrap();
    assert!(built.status.success(), "{}", text(&built));
    Some(dir)
}

/// Runs on the emulator at `dir`, with its kernels kept there.
fn emulated(dir: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    check_device(arguments, |command| {
        command.env("LD_LIBRARY_PATH", dir).arg("--kernel-cache").arg(dir.join("kernels"));
        command.envs(variables.iter().copied());
    })
}

fn passes(output: &Output) {
    let text = text(output);
    println!("{text}");
    assert!(output.status.success() && text.contains("ok   update") && !text.contains("FAIL"), "{text}");
}

#[test]
fn the_gpu_computes_what_the_cpu_computes() {
    let output = check_device(&[], |_| ());
    let text = text(&output);
    let none = ["no NVIDIA driver", "there is no CUDA device", "the NVIDIA driver does not start"];
    if none.iter().any(|why| text.contains(why)) {
        // Past what captures the words of a test that passes.
        let _ = writeln!(std::io::stderr(), "the_gpu_computes_what_the_cpu_computes: skipped: no CUDA device");
    } else {
        passes(&output);
    }
}

#[test]
fn the_emulated_gpu_computes_what_the_cpu_computes_in_any_order_of_threads() {
    let Some(dir) = emulator("parity") else { return };
    for order in ["forward", "reverse", "shuffled"] {
        let steps = if order == "reverse" { "10" } else { "0" };
        passes(&emulated(&dir, &["--steps", steps], &[("RISSOLE_EMULATOR_ORDER", order)]));
    }
}

#[test]
fn the_emulated_gpu_computes_it_with_each_way_of_doing_convolutions() {
    let Some(dir) = emulator("convolutions") else { return };
    passes(&emulated(&dir, &["--convolutions", "patches", "--steps", "0"], &[]));
    let output = emulated(&dir, &["--convolutions", "cudnn", "--steps", "10"], &[]);
    assert_eq!(text(&output).matches("convolutions by cuDNN").count(), 2, "{}", text(&output));
    passes(&output);
    // What cuDNN does is not done over patches, in a recording neither.
    let output = bench(&dir, &["--batch", "2", "--convolutions", "cudnn", "--profile"], &[]);
    let words = text(&output);
    assert!(output.status.success() && words.contains("convolution (cuDNN)") && !words.contains("patches"), "{words}");
    // And where it is not there, it is no less than an error to ask for it.
    std::fs::remove_file(dir.join("libcudnn.so.9")).unwrap();
    let output = bench(&dir, &["--batch", "2", "--convolutions", "cudnn"], &[]);
    let words = text(&output);
    assert!(output.status.code() == Some(2) && words.contains("no cuDNN: looked for libcudnn.so.9"), "{words}");
}

/// What a whole recipe trained, by stage, and what was said.
struct Trained {
    weights: BTreeMap<String, Vec<f32>>,
    text: String,
}

/// Runs a recipe in a folder of its own with these arguments, on the emulator at `emulator` where there is one.
fn trained(emulator: Option<&Path>, arguments: &[&str], variables: &[(&str, &str)]) -> Trained {
    let dir = workshop();
    add_perceptual_loss(dir.path());
    let mut command = Command::new(env!("CARGO_BIN_EXE_rissole-train"));
    command.args(["--threads", "1", "run", "tiny.toml", "--runs", "runs", "--bundle", "bundle"]).args(arguments);
    command.envs(variables.iter().copied()).current_dir(dir.path());
    if let Some(emulator) = emulator {
        command.env("LD_LIBRARY_PATH", emulator).arg("--kernel-cache").arg(emulator.join("kernels"));
    }
    let output = command.output().unwrap();
    let text = text(&output);
    assert!(output.status.success() && !text.contains("kernel by kernel"), "{text}");
    Bundle::open(dir.path().join("bundle")).unwrap().verify().unwrap();
    let mut weights = BTreeMap::new();
    for stage in ["vqgan", "denoiser", "consistency", "decoder"] {
        let checkpoint = Checkpoint::load(&dir.path().join(format!("runs/tiny/{stage}.ckpt"))).unwrap().unwrap();
        assert!(checkpoint.is_finite());
        let values = checkpoint.tensors.into_iter().filter(|(name, _)| name.ends_with("value"));
        weights.insert(stage.to_owned(), values.flat_map(|(_, values)| values).collect());
    }
    Trained { weights, text }
}

/// Gives the recipe in `dir` a perceptual loss by a network of one convolution.
fn add_perceptual_loss(dir: &Path) {
    let weight: Vec<f32> = (0..4 * 3 * 9).map(|i| (i as f32 * 0.7).sin()).collect();
    let graph = GraphProto {
        initializer: vec![floats("w", &[4, 3, 3, 3], &weight)],
        node: vec![
            node("Conv", &["x", "w"], &["c"], vec![ints("pads", &[1; 4])]),
            node("Relu", &["c"], &["y"], vec![]),
        ],
        input: vec![value_info("x", &[1, 3, 12, 12])],
        output: vec![value_info("y", &[1, 4, 12, 12])],
        ..GraphProto::default()
    };
    std::fs::write(dir.join("features.onnx"), model(graph).encode_to_vec()).unwrap();
    let table = "perceptual = { network = \"features.onnx\", offset = 128.0, scale = 128.0, \
                 layers = [{ tensor = \"y\", weight = 0.3 }] }\n[denoiser]\nrows";
    let recipe = std::fs::read_to_string(dir.join("tiny.toml")).unwrap();
    std::fs::write(dir.join("tiny.toml"), recipe.replace("[denoiser]\nrows", table)).unwrap();
}

/// The weights of each stage are within `tolerance` of each other's, but not the same bits.
fn agree(what: &str, expected: &Trained, found: &Trained, tolerance: f64) {
    for (stage, expected) in &expected.weights {
        let found = &found.weights[stage];
        let apart = expected.iter().zip(found).map(|(e, f)| f64::from(e - f).powi(2)).sum::<f64>().sqrt();
        let norm = expected.iter().map(|&e| f64::from(e).powi(2)).sum::<f64>().sqrt();
        println!("{what}, {stage}: {:.1e} of the weights' norm apart", apart / norm);
        assert!(found.len() == expected.len() && apart > 0.0 && apart < tolerance * norm, "{apart} {norm}");
    }
}

#[test]
fn a_recipe_trains_on_the_emulated_gpu_what_it_trains_on_the_cpu() {
    let Some(dir) = emulator("recipe") else { return };
    let expected = trained(None, &["--device", "cpu"], &[]);
    for (precision, convolutions, tolerance) in
        [("f32", "direct", 1e-4), ("bf16", "direct", 2e-2), ("f32", "cudnn", 1e-4)]
    {
        let way = ["--precision", precision, "--convolutions", convolutions];
        let found = trained(Some(&dir), &[&["--device", "cuda:0"], &way[..]].concat(), &[]);
        agree(&way.join(" "), &expected, &found, tolerance);
    }
    // All GPUs of the machine, each with its share of every batch.
    let found = trained(Some(&dir), &["--device", "cuda:all"], &[("RISSOLE_EMULATOR_DEVICES", "2")]);
    for part in ["rank 1 of 2", "average gradients among themselves", "CUDA device 1"] {
        assert!(found.text.contains(part), "{}", found.text);
    }
    agree("two processes", &expected, &found, 1e-4);
    // And where they cannot, by way of the host.
    std::fs::remove_file(dir.join("libnccl.so.2")).unwrap();
    let found = trained(Some(&dir), &["--device", "cuda:all"], &[("RISSOLE_EMULATOR_DEVICES", "2")]);
    assert!(found.text.contains("no NCCL"), "{}", found.text);
    agree("two processes without NCCL", &expected, &found, 1e-4);
}

#[test]
fn whoever_ends_the_one_that_started_the_others_interrupts_them_and_all_is_saved() {
    let Some(emulator) = emulator("launch") else { return };
    for (signal, code) in [("TERM", Some(130)), ("KILL", None)] {
        let dir = workshop();
        let recipe = dir.path().join("tiny.toml");
        let endless =
            std::fs::read_to_string(&recipe).unwrap().replace("batch = 4\nsteps = 6", "batch = 4\nsteps = 600000");
        std::fs::write(&recipe, endless).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_rissole-train"));
        command.args(["--threads", "1", "--device", "cuda:all", "run", "tiny.toml"]).current_dir(dir.path());
        command.arg("--kernel-cache").arg(emulator.join("kernels"));
        command.env("LD_LIBRARY_PATH", &emulator).env("RISSOLE_EMULATOR_DEVICES", "2");
        let mut process = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(process.stderr.take().unwrap()).lines();
        // Both are training when each has told of its network.
        let mut training = 0;
        while training < 2 {
            let line = said.next().unwrap().unwrap();
            training += usize::from(line.contains("denoiser:") && line.contains("from step 0"));
        }
        let sent = Command::new("kill").args([&format!("-{signal}"), &process.id().to_string()]).status().unwrap();
        assert!(sent.success());
        assert_eq!(process.wait().unwrap().code(), code);
        // Ends when nobody is left to say anything.
        let rest: Vec<String> = said.map(Result::unwrap).collect();
        let checkpoint = Checkpoint::load(&dir.path().join("runs/tiny/denoiser.ckpt")).unwrap();
        let step = checkpoint.unwrap_or_else(|| panic!("{signal}: {rest:?}")).step;
        assert!(step > 0 && step.is_multiple_of(10), "{signal}: saved at step {step}, {rest:?}");
    }
}

#[test]
fn compiled_kernels_are_kept() {
    let Some(dir) = emulator("cache") else { return };
    let kernels = dir.join("kernels");
    let _ = std::fs::remove_dir_all(&kernels);
    let first = text(&emulated(&dir, &["--steps", "0"], &[]));
    assert!(first.contains("compiling kernels"), "{first}");
    // The compiler is not needed any more; nor is cublasLt ever.
    for library in ["libnvrtc.so.13", "libcublasLt.so.13"] {
        std::fs::remove_file(dir.join(library)).unwrap();
    }
    let second = emulated(&dir, &["--steps", "0"], &[]);
    let words = text(&second);
    assert!(!words.contains("compiling kernels") && words.contains("no cublasLt"), "{words}");
    passes(&second);
    // What is damaged is compiled anew, for which there is no compiler now.
    for kept in std::fs::read_dir(&kernels).unwrap() {
        std::fs::write(kept.unwrap().path(), b"damaged").unwrap();
    }
    let third = emulated(&dir, &["--steps", "0"], &[]);
    assert!(third.status.code() == Some(2) && text(&third).contains("no NVRTC"), "{}", text(&third));
}

#[test]
fn what_the_libraries_have_no_algorithm_for_is_done_without_them() {
    let Some(dir) = emulator("algorithms") else { return };
    let few = [("RISSOLE_EMULATOR_FEW_ALGORITHMS", "1")];
    let output = emulated(&dir, &["--convolutions", "cudnn", "--steps", "0"], &few);
    for what in ["cublasLt has no", "cuDNN has no"] {
        assert_eq!(text(&output).matches(what).count(), 2, "{}", text(&output));
    }
    passes(&output);
}

#[test]
fn a_device_that_is_too_small_is_a_message_and_not_a_crash() {
    let Some(dir) = emulator("memory") else { return };
    let output = emulated(&dir, &["--steps", "1"], &[("RISSOLE_EMULATOR_MEMORY", "1000000")]);
    let text = text(&output);
    assert!(output.status.code() == Some(2) && text.contains("out of memory"), "{text}");
}

/// Times a step of a small network on the emulator at `dir`.
fn bench(dir: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rissole-train"));
    command.args(["bench-step", "--device", "cuda:0", "--widths", "8,16", "--residuals", "1", "--steps", "1"]);
    command.args(arguments).arg("--kernel-cache").arg(dir.join("kernels"));
    command.env("LD_LIBRARY_PATH", dir).envs(variables.iter().copied());
    command.output().unwrap()
}

#[test]
fn where_nothing_can_be_recorded_steps_are_submitted_as_before() {
    let Some(dir) = emulator("recording") else { return };
    let output = bench(&dir, &["--batch", "2"], &[("RISSOLE_EMULATOR_NO_CAPTURE", "1")]);
    let text = text(&output);
    assert!(output.status.success() && text.contains("kernel by kernel"), "{text}");
    let text = self::text(&bench(&dir, &["--batch", "2"], &[]));
    assert!(text.contains("seconds_per_step") && !text.contains("kernel by kernel"), "{text}");
}

#[test]
fn the_batch_that_is_said_to_fit_does() {
    let Some(dir) = emulator("batch") else { return };
    // Beside the memory that cublasLt works in.
    let memory = ((32 + 6) << 20).to_string();
    for convolutions in ["direct", "cudnn"] {
        let step = |batch: &str| {
            let arguments = ["--batch", batch, "--convolutions", convolutions];
            bench(&dir, &arguments, &[("RISSOLE_EMULATOR_MEMORY", &memory)])
        };
        let refused = step("96");
        let text = text(&refused);
        assert!(refused.status.code() == Some(2) && text.contains("a batch of 96 takes"), "{text}");
        let fits = text.split("a batch of ").last().and_then(|rest| rest.split(' ').next()).unwrap();
        println!("{convolutions}: {text}");
        assert!((8..96).contains(&fits.parse::<usize>().unwrap()), "{text}");
        let output = step(fits);
        assert!(output.status.success(), "{}", self::text(&output));
    }
}

#[test]
fn without_a_driver_the_message_names_the_library_and_where_it_was_looked_for() {
    let output = check_device(&[], |command| {
        command.env("LD_LIBRARY_PATH", "/nonexistent");
    });
    let text = text(&output);
    if text.contains("CUDA device") {
        return println!("skipped: there is a driver");
    }
    assert!(output.status.code() == Some(2), "{text}");
    for part in ["no NVIDIA driver", "libcuda.so.1", "LD_LIBRARY_PATH"] {
        assert!(text.contains(part), "{text}");
    }
}
