//! Weights of any origin, as a device asks for them.

use selftok_kernels_cpu::exec::{Mapped, SourceError, WeightSource};
use selftok_kernels_cpu::gemm::{RowsDType, WeightFormat};
use selftok_loader::{DType, TensorSource};
use std::ops::Range;
use std::sync::Arc;

/// The loader's tensors under the executor's trait.
pub(crate) struct Adapter(pub Arc<dyn TensorSource>);

impl WeightSource for Adapter {
    fn label(&self) -> String {
        self.0.label()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.0.info(name).map(|info| info.shape)
    }

    fn read_f32(&self, name: &str, start: usize, out: &mut [f32]) -> Result<(), SourceError> {
        Ok(self.0.read_f32(name, start, out)?)
    }

    fn mapped(&self, name: &str) -> Option<Mapped<'_>> {
        let dtype = match self.0.info(name)?.dtype {
            DType::F32 => RowsDType::F32,
            DType::F16 => RowsDType::F16,
            DType::BF16 => RowsDType::Bf16,
            _ => return None,
        };
        // Files are little-endian; elsewhere they are read through `read_f32`, which converts.
        let bytes = self.0.bytes(name).filter(|_| cfg!(target_endian = "little"))?;
        Some(Mapped { dtype, bytes })
    }

    fn blocks(&self, name: &str) -> Option<WeightFormat> {
        let info = self.0.info(name).filter(|info| info.shape.len() == 2)?;
        match info.dtype {
            DType::Q8_0 => Some(WeightFormat::Q8_0),
            DType::Q4_0 => Some(WeightFormat::Q4_0),
            DType::Q4_1 => Some(WeightFormat::Q4_1),
            _ => None,
        }
    }

    fn read_blocks(&self, name: &str, rows: Range<usize>, out: &mut [u8]) -> Result<(), SourceError> {
        Ok(self.0.read_rows_raw(name, rows, out)?)
    }

    fn mapped_blocks(&self, name: &str) -> Option<&[u8]> {
        self.0.bytes(name)
    }

    fn release(&self, name: &str) {
        self.0.release(name);
    }
}
