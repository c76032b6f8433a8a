//! Which device trains.

use std::path::PathBuf;
use std::str::FromStr;

use rissole::{Error, Result};

use super::cpu::Cpu;
use super::cuda::{Convolutions, Cuda};

/// What the user asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// The first GPU, or the CPU where there is none.
    Auto,
    /// The CPU.
    Cpu,
    /// A GPU, by the driver's number.
    Cuda(usize),
    /// Every GPU of this machine, each by a process of its own.
    AllCuda,
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            "cuda:all" => Ok(Self::AllCuda),
            _ => match text.strip_prefix("cuda:").map(str::parse) {
                Some(Ok(ordinal)) => Ok(Self::Cuda(ordinal)),
                _ => Err("a device is auto, cpu, cuda:N or cuda:all".into()),
            },
        }
    }
}

/// What activations and the operands of matrix products are on a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Precision {
    /// 32-bit floats.
    F32,
    /// bf16, with weights, statistics and sums in 32-bit floats: half the memory and traffic, and tensor cores.
    Bf16,
}

/// A device to open, how it computes, and where its compiled kernels are kept.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The device.
    pub choice: Choice,
    /// What activations are; the CPU takes 32-bit floats only.
    pub precision: Precision,
    /// How a GPU does convolutions.
    pub convolutions: Convolutions,
    /// Folder of compiled kernels.
    pub kernel_cache: Option<PathBuf>,
}

/// An open device.
#[derive(Debug)]
pub enum Opened {
    /// The CPU.
    Cpu(Cpu),
    /// A GPU.
    Cuda(Cuda),
}

impl Wanted {
    /// The CPU.
    pub fn cpu() -> Self {
        let (precision, convolutions) = (Precision::F32, Convolutions::default());
        Self { choice: Choice::Cpu, precision, convolutions, kernel_cache: None }
    }

    /// Opens it.
    ///
    /// # Errors
    /// As [`Cuda::open`], where a GPU was asked for by number, and [`Cuda::with_convolutions`]; [`Error::Usage`] where cuDNN is
    /// asked for without a GPU.
    pub fn open(&self) -> Result<Opened> {
        let cpu = || match self.convolutions {
            Convolutions::Cudnn => Err(Error::Usage("--convolutions cudnn is for a GPU; give --device cuda:N".into())),
            Convolutions::Direct | Convolutions::Patches => Ok(Opened::Cpu(Cpu::default())),
        };
        let ordinal = match self.choice {
            Choice::Cpu => return cpu(),
            Choice::Auto => 0,
            Choice::Cuda(ordinal) => ordinal,
            Choice::AllCuda => return Err(Error::Usage("--device cuda:all is for run and stage".into())),
        };
        match Cuda::open(ordinal, self.precision == Precision::Bf16, self.kernel_cache.as_deref()) {
            Ok(cuda) => {
                log::info!("on {}", cuda.name());
                Ok(Opened::Cuda(cuda.with_convolutions(self.convolutions)?))
            }
            // A GPU that is there and cannot be used is for the user to mend or to do without.
            Err(Error::Usage(why)) if self.choice == Choice::Auto => {
                log::info!("on the CPU: {why}");
                cpu()
            }
            Err(e) => Err(e),
        }
    }
}

/// Evaluates an expression with the backend of an [`Opened`], whichever it is.
macro_rules! on_device {
    ($opened:expr, |$backend:ident| $run:expr) => {
        match $opened {
            $crate::backend::choice::Opened::Cpu($backend) => $run,
            $crate::backend::choice::Opened::Cuda($backend) => $run,
        }
    };
}
pub(crate) use on_device;

#[cfg(test)]
mod tests {
    use super::Choice;

    #[test]
    fn devices_are_named_as_the_help_says() {
        assert_eq!("auto".parse(), Ok(Choice::Auto));
        assert_eq!("cpu".parse(), Ok(Choice::Cpu));
        assert_eq!("cuda:3".parse(), Ok(Choice::Cuda(3)));
        assert_eq!("cuda:all".parse(), Ok(Choice::AllCuda));
        for wrong in ["", "gpu", "cuda:", "cuda:-1", "cuda:x", "CUDA:0"] {
            assert!(wrong.parse::<Choice>().is_err(), "{wrong}");
        }
    }
}
