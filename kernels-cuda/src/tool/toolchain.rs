//! Where the compiler is: the folder that `toolchain/install.sh` filled, as wheels lay themselves out.

use std::path::{Path, PathBuf};

use super::Error;

/// The three parts of the toolchain, each known to exist, and an optional fourth.
pub struct Toolchain {
    /// The compiler from CUDA C++ to PTX.
    pub nvrtc: PathBuf,
    /// The assembler from PTX to SASS.
    pub ptxas: PathBuf,
    /// CUDA's headers.
    pub include: PathBuf,
    /// The disassembler, where `install.sh --inspect` put it.
    pub nvdisasm: Option<PathBuf>,
}

impl Toolchain {
    /// Finds it in `SELFTOK_CUDA_TOOLCHAIN`, else beside `install.sh`.
    pub fn find() -> Result<Self, Error> {
        let folder = std::env::var_os("SELFTOK_CUDA_TOOLCHAIN")
            .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("toolchain/wheels"), PathBuf::from);
        Self::find_in(&folder.join("nvidia"))
    }

    fn find_in(nvidia: &Path) -> Result<Self, Error> {
        let part = |path: &str| {
            let path = nvidia.join(path);
            if path.exists() { Ok(path) } else { Err(Error::NoToolchain { missing: path }) }
        };
        Ok(Self {
            nvrtc: part("cuda_nvrtc/lib/libnvrtc.so.12")?,
            ptxas: part("cuda_nvcc/bin/ptxas")?,
            include: part("cuda_runtime/include")?,
            nvdisasm: part("cu13/bin/nvdisasm").ok(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_folder_is_no_toolchain_and_the_error_names_the_file() {
        let Err(Error::NoToolchain { missing }) = Toolchain::find_in(Path::new("/nowhere")) else {
            panic!("found a toolchain in a folder that does not exist")
        };
        assert_eq!(missing, Path::new("/nowhere/cuda_nvrtc/lib/libnvrtc.so.12"));
    }
}
