//! Golden files: safetensors of the reference implementation's weights, inputs and results.

use safetensors::{Dtype, SafeTensors};
use selftok_kernels_cpu::reference::Array;
use std::path::{Path, PathBuf};

/// A path below the repository's root.
pub fn path(relative: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(relative)
}

/// One safetensors file in memory.
pub struct Golden {
    name: String,
    bytes: Vec<u8>,
}

impl Golden {
    /// Reads `relative`, below the repository's root.
    ///
    /// # Panics
    /// Where it cannot be read: a test without its golden file has nothing to say.
    pub fn open(relative: &str) -> Golden {
        let bytes = std::fs::read(path(relative)).unwrap_or_else(|error| panic!("{relative}: {error}"));
        Golden { name: relative.into(), bytes }
    }

    fn parse(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.bytes).unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }

    /// Names of all tensors.
    pub fn names(&self) -> Vec<String> {
        self.parse().names().into_iter().map(String::from).collect()
    }

    /// A tensor's shape and elements as f64, or `None` where there is none of that name.
    pub fn find(&self, name: &str) -> Option<Array> {
        let file = self.parse();
        let view = file.tensor(name).ok()?;
        let bytes = view.data();
        let data: Vec<f64> = match view.dtype() {
            Dtype::F32 => words(bytes).map(|b| f64::from(f32::from_le_bytes(b))).collect(),
            Dtype::F16 => words(bytes).map(|b| half::f16::from_le_bytes(b).to_f64()).collect(),
            Dtype::BF16 => words(bytes).map(|b| half::bf16::from_le_bytes(b).to_f64()).collect(),
            Dtype::I32 => words(bytes).map(|b| f64::from(i32::from_le_bytes(b))).collect(),
            Dtype::I64 => words(bytes).map(|b| i64::from_le_bytes(b) as f64).collect(),
            Dtype::U8 | Dtype::BOOL => bytes.iter().map(|&b| f64::from(b)).collect(),
            other => panic!("{}: {name} is {other:?}, which no golden file here uses", self.name),
        };
        Some(Array::new(view.shape(), data))
    }

    /// A tensor that must be there.
    ///
    /// # Panics
    /// Where it is not.
    pub fn get(&self, name: &str) -> Array {
        self.find(name).unwrap_or_else(|| panic!("{}: no tensor '{name}'", self.name))
    }

    /// The first `rows` rows of a tensor.
    ///
    /// # Panics
    /// Where it is not there.
    pub fn rows(&self, name: &str, rows: usize) -> Array {
        selftok_kernels_cpu::reference::slice(&self.get(name), 0, 0, rows)
    }

    /// A weight's elements, as f32.
    pub fn weight(&self, name: &str) -> Option<Vec<f32>> {
        Some(self.find(name)?.data.into_iter().map(|v| v as f32).collect())
    }
}

fn words<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> {
    bytes.as_chunks::<N>().0.iter().copied()
}
