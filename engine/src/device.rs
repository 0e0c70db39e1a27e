//! Where plans run. An enum, so that an embedder can name any device without generics.

use crate::Error;
use selftok_graph::Target;
use selftok_kernels_cpu::exec::CpuDevice;
pub use selftok_kernels_cpu::exec::{Activations, ComputeType, CpuOptions};

/// A device: a team of threads. Cheap to clone; clones, and all that is bound to them, share the team, and runs queue for it.
#[derive(Clone)]
#[non_exhaustive]
pub enum Device {
    /// The processor.
    Cpu(CpuDevice),
}

impl Device {
    /// The best device there is: the processor, with all its threads and the best of its instruction sets.
    ///
    /// # Errors
    /// If threads cannot be started.
    pub fn auto() -> Result<Device, Error> {
        Device::cpu(CpuOptions::default())
    }

    /// The processor.
    ///
    /// # Errors
    /// If threads cannot be started.
    pub fn cpu(options: CpuOptions) -> Result<Device, Error> {
        CpuDevice::new(options)
            .map(Device::Cpu)
            .map_err(|source| Error::Threads { threads: options.threads, source })
    }

    /// What the compiler has to know of it.
    pub fn target(&self) -> Target {
        match self {
            Device::Cpu(cpu) => cpu.target(),
        }
    }

    /// The same device computing products in another type.
    pub fn with_compute(&self, compute: ComputeType) -> Device {
        match self {
            Device::Cpu(cpu) => Device::Cpu(cpu.with_compute(compute)),
        }
    }

    /// The same device rounding activations, in products with quantised weights, in another way.
    pub fn with_activations(&self, activations: Activations) -> Device {
        match self {
            Device::Cpu(cpu) => Device::Cpu(cpu.with_activations(activations)),
        }
    }
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Device::Cpu(cpu) => {
                let plural = if cpu.threads() == 1 { "" } else { "s" };
                write!(f, "cpu ({}, {} thread{plural})", cpu.features().isa.name(), cpu.threads())
            }
        }
    }
}
