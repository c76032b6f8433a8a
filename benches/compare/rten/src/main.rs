//! One network by rten, on one thread: what network_run.py calls. One JSON object is printed.
//!
//! `rten-side FILE.onnx MILLISECONDS`: milliseconds of processor time of one run, for about so long.
//! `rten-side FILE.onnx`: loads the network and runs it twice; time to the end of the first run, memory, the output.

use std::error::Error;
use std::fs;
use std::sync::Arc;
use std::time::Instant;

use cpu_time::ProcessTime;
use peak_alloc::PeakAlloc;
use rten::{Dimension, Model, ModelOptions, NodeId, RunOptions, ThreadPool, Value};
use rten_tensor::Tensor;
use rten_tensor::prelude::*;
use serde_json::{Value as Json, json};

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let file = arguments.next().ok_or("which file?")?;
    let options = RunOptions::default().with_thread_pool(Some(Arc::new(ThreadPool::with_num_threads(1))));
    let report = match arguments.next() {
        Some(milliseconds) => timed(&Network::load(&file, options)?, milliseconds.parse()?)?,
        None => once(&file, options)?,
    };
    println!("{report}");
    Ok(())
}

fn timed(network: &Network, milliseconds: f64) -> Result<Json> {
    network.run()?;
    let (started, mut runs) = (ProcessTime::now(), 0);
    loop {
        network.run()?;
        runs += 1;
        let spent = started.elapsed().as_secs_f64() * 1e3;
        if spent >= milliseconds {
            return Ok(json!({"ms": spent / f64::from(runs)}));
        }
    }
}

fn once(file: &str, options: RunOptions) -> Result<Json> {
    let heap = ALLOCATOR.current_usage();
    ALLOCATOR.reset_peak_usage();
    // From here on, the peak of what is resident counts anew.
    fs::write("/proc/self/clear_refs", "5")?;
    let (resident, anonymous) = (status("VmRSS:")?, status("RssAnon:")?);
    let started = Instant::now();
    let network = Network::load(file, options)?;
    let output = network.run()?;
    let first_ms = started.elapsed().as_secs_f64() * 1e3;
    network.run()?;
    Ok(json!({
        "first_ms": first_ms,
        "heap": ALLOCATOR.peak_usage() - heap,
        "resident": status("VmHWM:")?.saturating_sub(resident),
        "anonymous": status("RssAnon:")?.saturating_sub(anonymous),
        "output": output,
    }))
}

/// A figure of /proc/self/status, in bytes.
fn status(name: &str) -> Result<usize> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)).ok_or("not in /proc/self/status")?;
    Ok(line.trim().trim_end_matches("kB").trim_end().parse::<usize>()? * 1024)
}

struct Network {
    model: Model,
    options: RunOptions,
    inputs: Vec<(NodeId, Tensor<f32>)>,
}

impl Network {
    /// The inputs are those of the bench in Rust.
    fn load(file: &str, options: RunOptions) -> Result<Self> {
        let model = ModelOptions::with_all_ops().prepack_weights(true).load_file(file)?;
        let inputs = model
            .input_ids()
            .iter()
            .map(|&id| Ok((id, Tensor::from_data(&shape(&model, id)?, values(&shape(&model, id)?)))));
        let inputs = inputs.collect::<Result<_>>()?;
        Ok(Self { model, options, inputs })
    }

    fn run(&self) -> Result<Vec<f32>> {
        let inputs = self.inputs.iter().map(|(id, tensor)| (*id, tensor.view().into())).collect();
        let output = self.model.run(inputs, self.model.output_ids(), Some(self.options.clone()))?.remove(0);
        match output {
            Value::FloatTensor(tensor) => Ok(tensor.to_vec()),
            _ => Err("the output is not f32".into()),
        }
    }
}

fn shape(model: &Model, id: NodeId) -> Result<Vec<usize>> {
    let shape = model.node_info(id).and_then(|info| info.shape()).ok_or("an input has no shape")?;
    let fixed = |dimension: &Dimension| match dimension {
        Dimension::Fixed(size) => Ok(*size),
        Dimension::Symbolic(name) => Err(format!("{name} is not known").into()),
    };
    shape.iter().map(fixed).collect()
}

fn values(shape: &[usize]) -> Vec<f32> {
    (0..shape.iter().product()).map(|i: usize| (i * 37 % 101) as f32 / 50.0 - 1.0).collect()
}
