//! What the unit tests of this crate share: folders that clean up after themselves, the golden files, a generator of
//! damaged input.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// A folder of its own, removed at the end of the test.
pub(crate) struct TempDir(PathBuf);

impl TempDir {
    pub(crate) fn new() -> Self {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("selftok-test-{}-{serial}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A file of the repository, by its path from the root.
pub(crate) fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join(path)
}

/// A golden file of `tests/golden/selftok`.
pub(crate) fn golden(name: &str) -> PathBuf {
    repository("tests/golden/selftok").join(name)
}

/// The raw little-endian bytes of one tensor of a safetensors file.
pub(crate) fn tensor_bytes(path: &Path, name: &str) -> Vec<u8> {
    let bytes = std::fs::read(path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    file.tensor(name).unwrap().data().to_vec()
}

/// One f32 tensor of a safetensors file.
pub(crate) fn tensor_f32(path: &Path, name: &str) -> Vec<f32> {
    tensor_bytes(path, name).chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

/// xorshift64*: damage that is the same on every run.
pub(crate) struct Damage(pub u64);

impl Damage {
    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % n
    }

    /// `bytes` with one to eight bytes flipped, written over, removed or doubled, or with its end cut off.
    pub(crate) fn mutate(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = bytes.to_vec();
        for _ in 0..=self.below(8) {
            if out.is_empty() {
                break;
            }
            let at = self.below(out.len());
            match self.below(8) {
                0 => out.truncate(at),
                1 => drop(out.remove(at)),
                2 => out.insert(at, out[at]),
                3 => out[at] = [0, 0xff, 0x7f, 0x80][self.below(4)],
                _ => out[at] ^= 1 << self.below(8),
            }
        }
        out
    }
}
