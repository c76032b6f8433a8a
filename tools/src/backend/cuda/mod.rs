//! The CUDA backend: own kernels (`kernels/`), compiled when the device is opened, and cublasLt where it is there.
//!
//! Nothing of CUDA is needed to build or to start the program: the driver, NVRTC and cublasLt are looked for when
//! a device is asked for, cuDNN when convolutions by it are. Results repeat bit for bit on one device: no kernel uses atomics.
//!
//! A fault of the device (out of memory, a lost GPU) does not stop an operation: it is kept, everything after it
//! does nothing, and [`Backend::check`] reports it.

mod attention;
mod blas;
mod conv;
mod cudnn;
mod demand;
mod device;
mod direct;
mod gemm;
mod libraries;
mod memory;
mod nccl;
mod nvrtc;
mod ops;
mod optimizer;
mod owned;
mod pictures;
mod profile;
mod program;
mod quantize;
mod recording;
mod reduce;
mod staging;
mod windows;

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::rc::Rc;

use rissole::{Error, Result};

use super::Backend;

use blas::Blas;
pub use conv::Convolutions;
pub use device::count;
use device::{Argument, Device};
use gemm::{Array, Form, Product};
pub use memory::Buffer;
use memory::{Extent, Place, Pool};
pub use pictures::{Codes, Pictures};
pub use profile::{Cost, Profile, Share};
pub use program::default_cache;
pub use recording::Recording;
pub use windows::Latents;

/// Threads of a block, as the kernels say too.
const BLOCK: u32 = 256;
/// Blocks of the elementwise kernels for each multiprocessor, at most.
const BLOCKS_EACH: u32 = 32;
/// Seconds that are timed well.
const LONG_ENOUGH: f64 = 1e-3;
/// Most elements of a convolution's patches at a time: 256 MiB of floats.
const PATCH_ELEMENTS: usize = 1 << 26;

/// A GPU with its memory.
#[derive(Debug)]
pub struct Cuda {
    device: Rc<Device>,
    pool: Rc<Pool>,
    blas: bool,
    bf16: bool,
    patch_elements: usize,
    convolutions: Convolutions,
    /// Where convolutions are to be cuDNN's.
    cudnn: Option<Box<cudnn::Cudnn>>,
    /// Whether work that is repeated is recorded.
    records: bool,
    /// How often recorded work was done.
    replays: Cell<u64>,
    tables: RefCell<Vec<Rc<optimizer::Table>>>,
    /// While work is recorded, the tables that it was given.
    recorded_tables: RefCell<Option<Vec<Rc<optimizer::Table>>>>,
    nccl: RefCell<Option<nccl::Nccl>>,
    fault: RefCell<Option<Error>>,
    /// Whether there was a fault, reported or not.
    broken: Cell<bool>,
}

impl Cuda {
    /// Opens GPU `ordinal`. With `bf16` activations and the operands of products are that; weights, their moments and
    /// averages, statistics and sums stay float. Compiled kernels are kept in `cache`, where there is one.
    ///
    /// # Errors
    /// [`Error::Usage`] naming what is missing and where it was looked for: no driver, one that is too old, no such
    /// GPU, no compiler.
    pub fn open(ordinal: usize, bf16: bool, cache: Option<&Path>) -> Result<Self> {
        let device = Rc::new(Device::open(ordinal, bf16, cache)?);
        Ok(Self {
            pool: Rc::new(Pool::new(device.clone())),
            blas: device.blas().is_some(),
            bf16,
            patch_elements: PATCH_ELEMENTS,
            convolutions: Convolutions::default(),
            cudnn: None,
            records: true,
            replays: Cell::new(0),
            tables: RefCell::default(),
            recorded_tables: RefCell::default(),
            device,
            nccl: RefCell::default(),
            fault: RefCell::default(),
            broken: Cell::new(false),
        })
    }

    /// What the GPU is called.
    pub fn name(&self) -> &str {
        &self.device.name
    }

    /// Whether activations are bf16.
    pub fn is_bf16(&self) -> bool {
        self.bf16
    }

    /// Whether products go to cublasLt.
    pub fn has_blas(&self) -> bool {
        self.blas
    }

    /// The same device with products by the program's own kernels.
    pub fn without_blas(self) -> Self {
        Self { blas: false, ..self }
    }

    /// The same device with at most `bytes` of floats, or half as many of bf16, as patches at a time in a convolution, but one
    /// sample.
    pub fn with_patch_bytes(self, bytes: usize) -> Self {
        Self { patch_elements: bytes / size_of::<f32>(), ..self }
    }

    /// The same device with convolutions done like this.
    ///
    /// # Errors
    /// [`Error::Usage`] where they are to be cuDNN's: no such library, with where it was looked for, one that is too old, or
    /// one that does not start.
    pub fn with_convolutions(self, convolutions: Convolutions) -> Result<Self> {
        let wanted = (convolutions == Convolutions::Cudnn).then(|| self.device.open_cudnn());
        Ok(Self { convolutions, cudnn: wanted.transpose()?.map(Box::new), ..self })
    }

    /// The same device, asked for every operation anew.
    pub fn without_recording(self) -> Self {
        Self { records: false, ..self }
    }

    /// Whether work that is repeated is recorded.
    pub fn records(&self) -> bool {
        self.records
    }

    /// How often work was submitted as a recording.
    pub fn replays(&self) -> u64 {
        self.replays.get()
    }

    /// What `work` takes, kernel by kernel; each is submitted by itself, so that those of a few µs seem to take longer than
    /// they do in a recording.
    ///
    /// # Errors
    /// What the driver says.
    pub fn profile(&self, work: impl FnOnce()) -> Result<Profile> {
        self.device.profile(work)
    }

    /// Bytes a second that a large array is copied at, read and written together, and operations a second of a large
    /// product of activations: the most that anything here can hope for.
    ///
    /// # Errors
    /// What the driver says, of memory that it lacks too.
    pub fn ceilings(&self) -> Result<[f64; 2]> {
        let mut ceilings = [0.0f64; 2];
        // The best of a few, after one that finds the code; larger and larger, until it takes long enough to be timed.
        let mut raise = |i: usize, of: fn(&Cost) -> u64, work: &dyn Fn()| -> Result<bool> {
            work();
            let mut longest = 0.0f64;
            for _ in 0..3 {
                for share in self.profile(work)?.values() {
                    ceilings[i] = ceilings[i].max(of(&share.cost) as f64 / share.seconds);
                    longest = longest.max(share.seconds);
                }
            }
            Ok(longest > LONG_ENOUGH)
        };
        for size in (18..=28).map(|power| 1usize << power) {
            let (from, to) = (self.zeros(size), self.scratch(size));
            let copy = || self.run(|device| device.copy(from.address(), to.address(), to.bytes()));
            if raise(0, |cost| cost.bytes, &copy)? {
                break;
            }
        }
        for side in (8..=13).map(|power| 1usize << power) {
            let [mut a, mut b, out] = [(); 3].map(|()| self.activations(side * side));
            self.fill(0.5, &mut a);
            self.fill(0.5, &mut b);
            let product = Product { form: Form::Plain, rows: side, columns: side, depth: side };
            let array = |buffer| Array { buffer, start: 0 };
            if raise(1, |cost| cost.operations, &|| self.multiply(&product, array(&a), array(&b), array(&out)))? {
                break;
            }
        }
        self.check()?;
        Ok(ceilings)
    }

    /// How often the driver was asked for memory, and how many bytes of it are held, what cublasLt works in included.
    pub fn memory_requests(&self) -> (u64, usize) {
        (self.pool.requests(), self.pool.held() + self.device.blas().map_or(0, Blas::workspace_bytes))
    }

    /// Does `work` unless there was a fault; keeps the fault it meets.
    fn run(&self, work: impl FnOnce(&Device) -> Result<()>) {
        if self.broken.get() {
            return;
        }
        if let Err(fault) = work(&self.device) {
            self.broken.set(true);
            *self.fault.borrow_mut() = Some(fault);
        }
    }

    /// Floats with unspecified contents.
    fn scratch(&self, len: usize) -> Buffer {
        self.take(Extent::floats(len))
    }

    /// Activations with unspecified contents.
    fn activations(&self, len: usize) -> Buffer {
        self.take(Extent { len, narrow: self.bf16 })
    }

    fn take(&self, extent: Extent) -> Buffer {
        self.taken(extent, || self.pool.take(extent))
    }

    /// An array with unspecified contents that stays beyond the work that is being done.
    fn lasting(&self, extent: Extent) -> Buffer {
        self.taken(extent, || self.pool.take_new(extent))
    }

    fn taken(&self, extent: Extent, take: impl FnOnce() -> Result<Buffer>) -> Buffer {
        let mut buffer = None;
        self.run(|_| {
            buffer = Some(take()?);
            Ok(())
        });
        buffer.unwrap_or_else(|| self.pool.nothing(extent))
    }

    /// The values of an array as floats, where they are not that already.
    fn widened(&self, x: &Buffer) -> Option<Buffer> {
        x.is_narrow().then(|| {
            let floats = self.scratch(x.len());
            self.each("to_floats", x.len(), &arguments![x, floats]);
            floats
        })
    }

    /// Launches an elementwise kernel, whose first argument is the number of elements.
    fn each(&self, kernel: &str, n: usize, rest: &[Operand]) {
        if n == 0 {
            return;
        }
        let most = (self.device.multiprocessors * BLOCKS_EACH) as usize;
        let arguments: Vec<_> = std::iter::once(Operand::Size(n)).chain(rest.iter().copied()).collect();
        self.launch(kernel, [n.div_ceil(BLOCK as usize).min(most), 1, 1], &arguments);
    }

    /// Launches a kernel.
    fn launch(&self, kernel: &str, grid: [usize; 3], operands: &[Operand]) {
        self.launch_counted(kernel, grid, operands, Cost::default());
    }

    /// Launches a kernel that costs `more` than reading and writing its arrays.
    fn launch_counted(&self, kernel: &str, grid: [usize; 3], operands: &[Operand], more: Cost) {
        self.run(|device| {
            let size = |n: usize| {
                u32::try_from(n).map_err(|_| Error::Usage(format!("{kernel}: a size of {n} is too large for the GPU")))
            };
            let arguments: Vec<Argument> = operands
                .iter()
                .map(|operand| {
                    Ok(match *operand {
                        Operand::Size(n) => Argument::Size(size(n)?),
                        Operand::Float(value) => Argument::Float(value),
                        Operand::Array(Place { address, narrow, bytes }) => Argument::Array { address, narrow, bytes },
                    })
                })
                .collect::<Result<_>>()?;
            let [x, y, z] = grid;
            device.launch(kernel, [size(x)?, size(y)?, size(z)?], BLOCK, &arguments, more)
        });
    }
}

/// An argument of a kernel, before its sizes are checked.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Operand {
    Size(usize),
    Float(f32),
    Array(Place),
}

/// What can stand in [`arguments!`].
trait AsOperand {
    fn operand(&self) -> Operand;
}

impl AsOperand for usize {
    fn operand(&self) -> Operand {
        Operand::Size(*self)
    }
}

impl AsOperand for bool {
    fn operand(&self) -> Operand {
        Operand::Size(usize::from(*self))
    }
}

impl AsOperand for f32 {
    fn operand(&self) -> Operand {
        Operand::Float(*self)
    }
}

impl AsOperand for Place {
    fn operand(&self) -> Operand {
        Operand::Array(*self)
    }
}

impl AsOperand for Buffer {
    fn operand(&self) -> Operand {
        Operand::Array(self.at(0))
    }
}

/// A kernel's arguments: sizes (`usize`), numbers (`f32`), arrays, places in them.
macro_rules! arguments {
    ($($argument:expr),* $(,)?) => {{
        use $crate::backend::cuda::AsOperand as _;
        [$(($argument).operand()),*]
    }};
}
use arguments;
