//! The CPU as a device: a team of threads, an instruction set, and the arithmetic of products.

use super::kernels;
use crate::gemm::WeightFormat;
use crate::isa::{Features, Isa};
use crate::pool::Pool;
use selftok_graph::Target;
use std::sync::Arc;

/// What matrix products and convolutions are computed in. Everything else is f32, and so are all sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum ComputeType {
    /// f32 weights, f32 products.
    #[default]
    F32,
    /// bf16 weights; activations are rounded to bf16 as they enter a product.
    Bf16,
}

/// How to set up a [`CpuDevice`].
#[derive(Clone, Copy, Debug, Default)]
pub struct CpuOptions {
    /// Threads, the caller included; 0 for as many as the machine has.
    pub threads: usize,
    /// The greatest instruction set to use; `None` for the best of this processor (or of `SELFTOK_ISA`).
    pub isa: Option<Isa>,
    /// What products are computed in.
    pub compute: ComputeType,
}

/// A team of threads and what they compute with. Cheap to clone; clones share the team, and a run takes all of it.
#[derive(Clone)]
pub struct CpuDevice {
    pub(super) pool: Arc<Pool>,
    features: Features,
    compute: ComputeType,
}

impl CpuDevice {
    /// Starts the threads.
    ///
    /// # Errors
    /// What the operating system says when a thread cannot be started.
    pub fn new(options: CpuOptions) -> std::io::Result<CpuDevice> {
        let features = options.isa.map_or_else(Features::detect, Features::lowered_to);
        Ok(CpuDevice { pool: Arc::new(Pool::new(options.threads)?), features, compute: options.compute })
    }

    /// The same team computing products in another type.
    pub fn with_compute(&self, compute: ComputeType) -> CpuDevice {
        CpuDevice { compute, ..self.clone() }
    }

    /// Threads of a run.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// The instruction set in use.
    pub fn features(&self) -> Features {
        self.features
    }

    /// What products are computed in.
    pub fn compute(&self) -> ComputeType {
        self.compute
    }

    pub(super) fn format(&self) -> WeightFormat {
        match self.compute {
            ComputeType::F32 => WeightFormat::F32,
            ComputeType::Bf16 => WeightFormat::Bf16,
        }
    }

    /// What the compiler has to know of this device.
    pub fn target(&self) -> Target {
        let (features, format, threads) = (self.features, self.format(), self.threads());
        let dtype = match self.compute {
            ComputeType::F32 => "f32",
            ComputeType::Bf16 => "bf16",
        };
        Target {
            name: format!("cpu-{}-{dtype}-{threads}", features.isa.name()),
            workspace: Arc::new(move |step| kernels::need(step, features, format, threads).total(threads)),
            ..Target::generic()
        }
    }
}
