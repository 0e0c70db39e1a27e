//! A modelled GPU: its memory, its modules, its launches.

use crate::approx::{Accumulation, Approximation};
use crate::check::{Checks, Order};
use crate::counters::Report;
use crate::decode::{ConstantValue, Module};
use crate::error::{CudaError, LaunchError, ModuleError};
use crate::exec::view::Plane;
use crate::gpu::Gpu;
use crate::launch::{Launch, LaunchConfig};
use crate::memory::global::GlobalMemory;
use std::sync::Arc;

/// How a device judges and runs kernels.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which checks are on.
    pub checks: Checks,
    /// The order of warps and blocks.
    pub order: Order,
    /// How approximate instructions err.
    pub approximation: Approximation,
    /// How matrix products are summed.
    pub accumulation: Accumulation,
    /// Worker threads of [`Device::launch`]; 0 takes the machine's cores.
    pub threads: usize,
    /// Warp instructions without any change to memory after which a launch counts as hung.
    pub patience: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            checks: Checks::default(),
            order: Order::Forward,
            approximation: Approximation::default(),
            accumulation: Accumulation::default(),
            threads: 0,
            patience: 50_000_000,
        }
    }
}

/// A modelled GPU.
#[derive(Debug)]
pub struct Device {
    gpu: Gpu,
    options: Options,
    memory: Arc<GlobalMemory>,
}

/// A module with its variables placed in a device's memory.
#[derive(Debug)]
pub struct LoadedModule {
    pub(crate) module: Module,
    pub(crate) constants: Vec<Plane>,
    addresses: Vec<u64>,
}

impl LoadedModule {
    /// The module.
    pub fn module(&self) -> &Module {
        &self.module
    }

    /// Address and size of a variable.
    pub fn variable(&self, name: &str) -> Option<(u64, u64)> {
        let at = self.module.0.variables.iter().position(|v| v.name == name)?;
        Some((self.addresses[at], self.module.0.variables[at].bytes))
    }
}

impl Device {
    /// A GPU with nothing in its memory.
    pub fn new(gpu: Gpu, options: Options) -> Device {
        let memory = Arc::new(GlobalMemory::new(gpu.memory));
        Device { gpu, options, memory }
    }

    /// The GPU that is modelled.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// The options that launches take.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Changes the options of later launches.
    pub fn options_mut(&mut self) -> &mut Options {
        &mut self.options
    }

    /// Device memory.
    pub fn memory(&self) -> &GlobalMemory {
        &self.memory
    }

    /// Places a module's variables in memory.
    ///
    /// # Errors
    /// When the code is for another architecture, or memory is short.
    pub fn load(&self, module: &Module) -> Result<Arc<LoadedModule>, ModuleError> {
        let data = &module.0;
        data.accepted_by(&self.gpu)?;
        let mut addresses: Vec<u64> = Vec::new();
        for v in &data.variables {
            let placed = self.memory.alloc_with(v.bytes, v.constant);
            match placed {
                Ok(address) => addresses.push(address),
                Err(e) => {
                    for a in addresses {
                        let _ = self.memory.free(a);
                    }
                    return Err(ModuleError {
                        line: 0,
                        message: e.to_string(),
                        code: CudaError::OutOfMemory,
                    });
                }
            }
        }
        for (v, &address) in data.variables.iter().zip(&addresses) {
            let write = |at: u64, bytes: &[u8]| {
                self.memory
                    .write(address + at, bytes)
                    .map_err(|e| ModuleError::new(0, format!("initial value of '{}': {e}", v.name)))
            };
            // Variables without an initial value are zero (PTX ISA, "Initializers").
            self.memory.zero(address);
            write(0, &v.init)?;
            for &(offset, of, addend) in &v.relocations {
                write(offset, &(addresses[of as usize].wrapping_add_signed(addend)).to_le_bytes())?;
            }
        }
        let mut constants = vec![Plane::default(); data.constant_planes() as usize];
        for c in &data.constants {
            let bits = match c.value {
                ConstantValue::Bits(bits) => bits,
                ConstantValue::Variable(id, offset) => addresses[id as usize].wrapping_add_signed(offset),
            };
            crate::exec::view::splat(&mut constants, c.plane as usize, c.bytes, bits);
        }
        Ok(Arc::new(LoadedModule { module: module.clone(), constants, addresses }))
    }

    /// Frees a module's variables.
    pub fn unload(&self, loaded: &LoadedModule) {
        for &address in &loaded.addresses {
            // A variable that host code freed by hand is gone already.
            let _ = self.memory.free(address);
        }
    }

    /// Checks a launch against the GPU's limits and makes it ready to be stepped.
    ///
    /// `args` are the kernel's arguments, each at its parameter's offset.
    ///
    /// # Errors
    /// What the driver would refuse, with its code.
    pub fn prepare(
        &self,
        loaded: &Arc<LoadedModule>,
        kernel: &str,
        config: &LaunchConfig,
        args: &[u8],
    ) -> Result<Launch, LaunchError> {
        Launch::new(&self.gpu, &self.options, &self.memory, loaded, kernel, config, args)
    }

    /// Runs a kernel to its end, on all worker threads.
    ///
    /// # Errors
    /// As [`Device::prepare`]; what goes wrong while it runs is in the report.
    pub fn launch(
        &self,
        loaded: &Arc<LoadedModule>,
        kernel: &str,
        config: &LaunchConfig,
        args: &[u8],
    ) -> Result<Report, LaunchError> {
        let mut launch = self.prepare(loaded, kernel, config, args)?;
        launch.run(self.options.threads);
        Ok(launch.finish())
    }
}
