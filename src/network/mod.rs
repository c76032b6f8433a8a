//! Neural networks: an ONNX file, checked against the manifest, run by our own operators where they cover the whole
//! graph, else by tract.

mod arena;
mod check;
mod lower;
mod ops;
mod own;
mod pack;
mod packed;
mod program;
mod team;
mod tile;

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tract_onnx::pb::ModelProto;
use tract_onnx::prelude::*;

use crate::bundle::Bundle;
use crate::bundle::manifest::{NetworkEntry, TensorEntry};
use crate::container::Container;
use crate::error::{Error, Result};
use crate::file_bytes::FileBytes;
use crate::threads::Threads;
use own::OwnRunner;
pub use pack::{pack_bundle, pack_networks};
use tile::Tiling;
pub use tile::Window;

/// A network with static shapes, all tensors `f32`, one output, ready to run. It may be run from several threads at once,
/// and a run may be shared by several; its result does not depend on that.
pub struct Network {
    runner: Runner,
    path: PathBuf,
    inputs: Vec<TensorEntry>,
    output: TensorEntry,
}

/// What computes a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// Operators of this crate, the weights in place in a packed file.
    Packed,
    /// Operators of this crate: the graph is one that our exporter writes.
    Own,
    /// tract: any other graph.
    Tract,
}

/// An engine, loaded.
enum Runner {
    Own(Box<OwnRunner>),
    Tract(Arc<TypedSimplePlan>),
}

impl Network {
    /// Most values in one input or output (1 GiB): what a manifest may make the runtime allocate.
    pub const MAX_VALUES: usize = 1 << 28;

    /// Loads the network of `entry` in `bundle`: its packed form where there is one and it is sound, else the ONNX
    /// file.
    ///
    /// # Errors
    /// As [`Self::load`]; [`Error::Budget`] where it cannot fit the bundle's.
    pub fn open(bundle: &Bundle, entry: &NetworkEntry) -> Result<Self> {
        if let Some((packed, onnx)) = bundle.packed(entry) {
            let container = bundle.check_presence(packed).and_then(|()| bundle.container(&packed.name, packed::KIND));
            match container.and_then(|container| Self::of_packed(container, entry, onnx)) {
                Ok(network) => return Ok(network),
                Err(error @ Error::Budget { .. }) => return Err(error),
                Err(error) => log::warn!("{error}; {} is used instead", entry.file),
            }
        }
        let file = bundle.bytes(&entry.file)?;
        // Its weights, which are nearly all of it, are copied at least once.
        bundle.check_room(file.bytes().len() as u64)?;
        Self::of_onnx(&file, &bundle.path_of(&entry.file), entry)
    }

    /// Loads the ONNX file at `path`, whose tensors must be those of `entry`, and readies it for this CPU.
    ///
    /// # Errors
    /// [`Error::File`] naming `path` where the file cannot be read, is damaged, holds NaN, keeps its weights in
    /// other files, does not have the tensors of `entry`, or cannot be run by tract either.
    pub fn load(path: impl AsRef<Path>, entry: &NetworkEntry) -> Result<Self> {
        let path = path.as_ref();
        Self::of_onnx(&FileBytes::map(path)?, path, entry)
    }

    fn of_onnx(file: &FileBytes, path: &Path, entry: &NetworkEntry) -> Result<Self> {
        Self::load_by(file, path, entry, |proto| match lower::lower(&proto, entry) {
            Ok(program) => Ok(Runner::Own(Box::new(OwnRunner::new(program, false)))),
            Err(why) => {
                log::info!("{}: run by tract, since {why}", path.display());
                optimize(proto)
            }
        })
    }

    /// As [`Self::load`], but run by tract in any case: what our own operators are compared with.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_with_tract(path: impl AsRef<Path>, entry: &NetworkEntry) -> Result<Self> {
        let path = path.as_ref();
        Self::load_by(&FileBytes::map(path)?, path, entry, optimize)
    }

    /// As [`Self::load`], from the file at `path` that [`Self::pack`] made from the ONNX file whose BLAKE3 is `onnx`
    /// (hexadecimal). The weights stay in that file, mapped.
    ///
    /// # Errors
    /// [`Error::File`] naming `path` where it is missing or damaged, made from another ONNX file, or not a program
    /// for the tensors of `entry`; [`Error::Io`].
    pub fn load_packed(path: impl AsRef<Path>, entry: &NetworkEntry, onnx: &str) -> Result<Self> {
        Self::of_packed(Container::open(path, packed::KIND)?, entry, onnx)
    }

    fn of_packed(container: Container, entry: &NetworkEntry, onnx: &str) -> Result<Self> {
        let path = container.path().to_owned();
        Self::with(&path, entry, || {
            let program = packed::read(container, entry, onnx)?;
            Ok(Runner::Own(Box::new(OwnRunner::new(program, true))))
        })
    }

    /// Packs the ONNX file at `onnx`, whose tensors must be those of `entry`, into a new file at `path`, written in
    /// one piece. False where the graph has an operator that is not ours; there is no file then.
    ///
    /// # Errors
    /// As [`Self::load`] for `onnx`; [`Error::Io`] for `path`.
    pub fn pack(onnx: impl AsRef<Path>, entry: &NetworkEntry, path: impl AsRef<Path>) -> Result<bool> {
        let onnx = onnx.as_ref();
        let packed = packed::write(onnx, entry, path.as_ref())?;
        if let Err(why) = &packed {
            log::info!("{}: not packed, since {why}", onnx.display());
        }
        Ok(packed.is_ok())
    }

    fn load_by(
        file: &FileBytes,
        path: &Path,
        entry: &NetworkEntry,
        ready: impl FnOnce(ModelProto) -> TractResult<Runner>,
    ) -> Result<Self> {
        Self::with(path, entry, || {
            guard(path, || {
                let proto = onnx().proto_model_for_read(&mut file.bytes())?;
                check::check(&proto, entry).map_err(TractError::msg)?;
                ready(proto)
            })
        })
    }

    /// The network of `entry` in the file at `path`, run by what `runner` gives.
    fn with(path: &Path, entry: &NetworkEntry, runner: impl FnOnce() -> Result<Runner>) -> Result<Self> {
        let [output] = &entry.outputs[..] else {
            return Err(Error::file(path, "a network must have one output"));
        };
        let mut lens = entry.inputs.iter().chain([output]).map(volume);
        if !lens.all(|len| len.is_some_and(|len| len <= Self::MAX_VALUES)) {
            return Err(Error::file(path, format!("has a tensor of more than {} values", Self::MAX_VALUES)));
        }
        let runner = runner()?;
        Ok(Self { runner, path: path.to_owned(), inputs: entry.inputs.clone(), output: output.clone() })
    }

    /// From now on runs tile by tile, each of `side` × `side` pixels of the output, at its right and lower edges perhaps
    /// less: the same bits, in less memory and more time.
    ///
    /// # Errors
    /// Why that cannot be done, where a pixel depends on more than those near it, or tract runs the network. It then runs
    /// as a whole.
    pub fn cut(&mut self, side: usize) -> std::result::Result<(), String> {
        match (&mut self.runner, &self.output.shape[..]) {
            (Runner::Own(_), _) if self.inputs.len() != 1 => Err("it has not one input".into()),
            (Runner::Own(runner), &[_, channels, height, width]) => runner.cut(side, [channels, height, width]),
            (Runner::Own(_), _) => Err("its output is no picture".into()),
            (Runner::Tract(_), _) => Err("it is run by tract".into()),
        }
    }

    /// Bytes that a run by one thread works in, and leaves behind for the next; `None` where a run alone will tell, since it
    /// is tract's.
    pub fn workspace_bytes(&self) -> Option<u64> {
        match &self.runner {
            Runner::Own(runner) => Some(runner.workspace_bytes()),
            Runner::Tract(_) => None,
        }
    }

    /// Bytes that each more thread of a run takes, and leaves behind.
    pub fn thread_bytes(&self) -> u64 {
        match &self.runner {
            Runner::Own(runner) => runner.thread_bytes(),
            Runner::Tract(_) => 0,
        }
    }

    /// Bytes that [`Self::run_tiles`] takes while it lasts, beside what a run works in.
    pub fn passing_bytes(&self) -> u64 {
        match self.tiling() {
            Some((_, tiling)) => tiling.passing_bytes(),
            None => self.output_len() as u64 * size_of::<f32>() as u64,
        }
    }

    fn tiling(&self) -> Option<(&OwnRunner, &Tiling)> {
        match &self.runner {
            Runner::Own(runner) => runner.tiling.as_ref().map(|tiling| (&**runner, tiling)),
            Runner::Tract(_) => None,
        }
    }

    /// What computes this network.
    pub fn engine(&self) -> Engine {
        match &self.runner {
            Runner::Own(own) if own.is_packed => Engine::Packed,
            Runner::Own(_) => Engine::Own,
            Runner::Tract(_) => Engine::Tract,
        }
    }

    /// How many of each operator it runs, by name: ours, or tract's.
    pub fn operators(&self) -> BTreeMap<String, usize> {
        let names: Vec<String> = match &self.runner {
            Runner::Own(own) => own.program.steps.iter().filter_map(|step| step.op.name()).map(String::from).collect(),
            Runner::Tract(plan) => plan.model().nodes().iter().map(|node| node.op().name().into_owned()).collect(),
        };
        let mut counts = BTreeMap::new();
        names.into_iter().for_each(|name| *counts.entry(name).or_default() += 1);
        counts
    }

    /// Number of values in each input, in order.
    pub fn input_lens(&self) -> impl Iterator<Item = usize> {
        self.inputs.iter().map(|input| input.shape.iter().product())
    }

    /// Number of values in the output.
    pub fn output_len(&self) -> usize {
        volume(&self.output).unwrap_or(0)
    }

    /// Runs the network. `inputs` are in the manifest's order, each of the length of its shape; `out` has
    /// [`Self::output_len`] values.
    ///
    /// # Errors
    /// [`Error::File`] naming the network's file where it cannot be computed or the output is not finite;
    /// [`Error::Internal`] where a length is wrong.
    pub fn run(&self, inputs: &[&[f32]], out: &mut [f32]) -> Result<()> {
        self.run_by(&Threads::alone(), inputs, out)
    }

    /// As [`Self::run`], by `threads`; the result does not depend on them. What tract runs is run by the caller's alone.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn run_by(&self, threads: &Threads, inputs: &[&[f32]], out: &mut [f32]) -> Result<()> {
        if !inputs.iter().map(|input| input.len()).eq(self.input_lens()) || out.len() != self.output_len() {
            return Err(Error::Internal(format!("{}: run with tensors of wrong length", self.path.display())));
        }
        if let ([input], Some((_, tiling))) = (inputs, self.tiling()) {
            return self.run_tiles_by(threads, input, &mut |window, values| {
                let rows = values.chunks_exact(window.width).zip(window.rows(tiling.output()));
                rows.for_each(|(row, range)| out[range].copy_from_slice(row));
            });
        }
        guard(&self.path, || match &self.runner {
            Runner::Own(runner) => {
                runner.run(inputs, out, threads);
                Ok(())
            }
            Runner::Tract(plan) => self.run_plan(plan, inputs, out),
        })?;
        self.check_finite(is_finite(out))
    }

    /// Runs the network, whose only input is `input`, and tells `each` of every tile of the output `[1, C, H, W]` and its
    /// values `[C, height, width]`: of one where it is not [cut](Self::cut).
    ///
    /// # Errors
    /// As [`Self::run`]; `each` may have seen tiles by then. [`Error::Internal`] where the output has other sides.
    pub fn run_tiles(&self, input: &[f32], each: &mut dyn FnMut(Window, &[f32])) -> Result<()> {
        self.run_tiles_by(&Threads::alone(), input, each)
    }

    /// As [`Self::run_tiles`], each tile by `threads`.
    ///
    /// # Errors
    /// As [`Self::run_tiles`].
    pub fn run_tiles_by(&self, threads: &Threads, input: &[f32], each: &mut dyn FnMut(Window, &[f32])) -> Result<()> {
        let wrong =
            || Err(Error::Internal(format!("{}: run in tiles with tensors of wrong shape", self.path.display())));
        let Some((runner, tiling)) = self.tiling() else {
            let [_, _, height, width] = self.output.shape[..] else { return wrong() };
            let mut out = vec![0.0; self.output_len()];
            self.run_by(threads, &[input], &mut out)?;
            each(Window { top: 0, left: 0, height, width }, &out);
            return Ok(());
        };
        if !self.input_lens().eq([input.len()]) {
            return wrong();
        }
        let (mut tiles, mut finite) = (runner.tiles(tiling, input, threads), true);
        while let Some((window, values)) = guard(&self.path, || tiles.next().map_err(TractError::msg))? {
            finite &= is_finite(values);
            each(window, values);
        }
        tiles.end();
        self.check_finite(finite)
    }

    fn check_finite(&self, is_finite: bool) -> Result<()> {
        match is_finite {
            true => Ok(()),
            false => Err(Error::file(&self.path, "the network's output is not finite: its weights are damaged")),
        }
    }

    fn run_plan(&self, plan: &Arc<TypedSimplePlan>, inputs: &[&[f32]], out: &mut [f32]) -> TractResult<()> {
        let tensors = self
            .inputs
            .iter()
            .zip(inputs)
            .map(|(entry, values)| Tensor::from_shape(&entry.shape, values).map(TValue::from));
        let outputs = plan.run(tensors.collect::<TractResult<_>>()?)?;
        let view = outputs[0].try_as_plain_ram()?;
        let values = view.as_slice::<f32>()?;
        if values.len() != out.len() {
            return Err(TractError::msg("gives an output of the wrong length"));
        }
        out.copy_from_slice(values);
        Ok(())
    }

    /// Takes now the memory that a run works in, so that a run takes none. What tract will need shows in a run alone:
    /// there it is [`Self::warm_up`].
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn reserve(&self) -> Result<()> {
        match &self.runner {
            Runner::Own(runner) => {
                runner.reserve();
                Ok(())
            }
            Runner::Tract(_) => self.warm_up(),
        }
    }

    /// Runs the network once on zeros: shows that it runs.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn warm_up(&self) -> Result<()> {
        let zeros: Vec<Vec<f32>> = self.input_lens().map(|len| vec![0.0; len]).collect();
        let inputs: Vec<&[f32]> = zeros.iter().map(Vec::as_slice).collect();
        self.run(&inputs, &mut vec![0.0; self.output_len()])
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let engine = self.engine();
        f.debug_struct("Network").field("path", &self.path).field("engine", &engine).finish_non_exhaustive()
    }
}

/// The model is consumed, so that its weights are not held twice while it is optimized.
fn optimize(proto: ModelProto) -> TractResult<Runner> {
    let model = onnx().model_for_proto_model(&proto)?;
    drop(proto);
    Ok(Runner::Tract(model.into_optimized()?.into_runnable()?))
}

/// Number of values of a tensor, or `None` where that overflows.
fn volume(tensor: &TensorEntry) -> Option<usize> {
    tensor.shape.iter().try_fold(1usize, |n, &side| n.checked_mul(side))
}

fn is_finite(values: &[f32]) -> bool {
    values.iter().all(|value| value.is_finite())
}

/// Runs `work` on the file at `path`. What tract refuses, and the odd graph on which it or we panic,
/// becomes a fault of that file. Nothing that a panic could leave half done is used afterwards.
fn guard<T>(path: &Path, work: impl FnOnce() -> TractResult<T>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(fault)) => Err(Error::file(path, format!("{fault:#}"))),
        Err(_) => Err(Error::file(path, "the graph is malformed")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_no_network_is_named() {
        let entry = NetworkEntry {
            file: "x".into(),
            inputs: vec![],
            outputs: vec![TensorEntry { name: "y".into(), shape: vec![1] }],
        };
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        for path in [path.as_path(), Path::new("/nowhere/at/all.onnx")] {
            let error = Network::load(path, &entry).unwrap_err();
            assert!(matches!(&error, Error::File { path: named, .. } if named == path), "{error}");
        }
    }

    #[test]
    fn a_panic_becomes_a_fault_of_the_file() {
        let error = guard::<()>(Path::new("a.onnx"), || panic!("odd graph")).unwrap_err();
        assert_eq!(error.to_string(), "a.onnx: the graph is malformed");
    }
}
