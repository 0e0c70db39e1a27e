//! Weights of any origin, as a device asks for them.

use selftok_kernels_cpu::exec::{Mapped, Packings, SourceError, WeightSource};
use selftok_kernels_cpu::gemm::{RowsDType, WeightFormat};
use selftok_loader::{DType, TensorSource};
use std::ops::Range;
use std::sync::Arc;

/// The loader's tensors under the executor's trait.
pub(crate) struct Adapter {
    source: Arc<dyn TensorSource>,
    packings: Packings,
}

impl Adapter {
    /// Executables that are bound to one adapter share their packed weights.
    pub fn new(source: Arc<dyn TensorSource>) -> Adapter {
        Adapter { source, packings: Packings::default() }
    }
}

impl WeightSource for Adapter {
    fn label(&self) -> String {
        self.source.label()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.source.info(name).map(|info| info.shape)
    }

    fn read_f32(&self, name: &str, start: usize, out: &mut [f32]) -> Result<(), SourceError> {
        Ok(self.source.read_f32(name, start, out)?)
    }

    fn mapped(&self, name: &str) -> Option<Mapped<'_>> {
        let dtype = self.dtype(name)?;
        // Files are little-endian; elsewhere they are read through `read_f32`, which converts.
        let bytes = self.source.bytes(name).filter(|_| cfg!(target_endian = "little"))?;
        Some(Mapped { dtype, bytes })
    }

    fn dtype(&self, name: &str) -> Option<RowsDType> {
        match self.source.info(name)?.dtype {
            DType::F32 => Some(RowsDType::F32),
            DType::F16 => Some(RowsDType::F16),
            DType::BF16 => Some(RowsDType::Bf16),
            _ => None,
        }
    }

    fn packings(&self) -> Option<&Packings> {
        Some(&self.packings)
    }

    fn blocks(&self, name: &str) -> Option<WeightFormat> {
        let info = self.source.info(name).filter(|info| info.shape.len() == 2)?;
        match info.dtype {
            DType::Q8_0 => Some(WeightFormat::Q8_0),
            DType::Q4_0 => Some(WeightFormat::Q4_0),
            DType::Q4_1 => Some(WeightFormat::Q4_1),
            _ => None,
        }
    }

    fn read_blocks(&self, name: &str, rows: Range<usize>, out: &mut [u8]) -> Result<(), SourceError> {
        Ok(self.source.read_rows_raw(name, rows, out)?)
    }

    fn mapped_blocks(&self, name: &str) -> Option<&[u8]> {
        self.source.bytes(name)
    }

    fn release(&self, name: &str) {
        self.source.release(name);
    }
}
