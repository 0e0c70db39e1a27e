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

/// What activations become as they enter a product with a quantised weight (Q8_0, Q4_0, Q4_1). Other products do not ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Activations {
    /// f32, as they are.
    #[default]
    F32,
    /// Each 32 elements of a row a scale and signed bytes, multiplied in integers: faster, and less exact.
    Int8,
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
    /// What activations become in products with quantised weights.
    pub activations: Activations,
}

/// A team of threads and what they compute with. Cheap to clone; clones share the team, and a run takes all of it.
#[derive(Clone)]
pub struct CpuDevice {
    pub(super) pool: Arc<Pool>,
    features: Features,
    compute: ComputeType,
    activations: Activations,
}

impl CpuDevice {
    /// Starts the threads.
    ///
    /// # Errors
    /// What the operating system says when a thread cannot be started.
    pub fn new(options: CpuOptions) -> std::io::Result<CpuDevice> {
        let features = options.isa.map_or_else(Features::detect, Features::lowered_to);
        let CpuOptions { threads, compute, activations, .. } = options;
        Ok(CpuDevice { pool: Arc::new(Pool::new(threads)?), features, compute, activations })
    }

    /// The same team computing products in another type.
    pub fn with_compute(&self, compute: ComputeType) -> CpuDevice {
        CpuDevice { compute, ..self.clone() }
    }

    /// The same team rounding activations in another way.
    pub fn with_activations(&self, activations: Activations) -> CpuDevice {
        CpuDevice { activations, ..self.clone() }
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

    /// What activations become in products with quantised weights.
    pub fn activations(&self) -> Activations {
        self.activations
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
