//! The table of kernel families that the build tool compiles.

use crate::{attention, codebook, gemm, layer_norm};

/// One `kernel.cu`.
#[derive(Debug, Clone, Copy)]
pub struct Family {
    /// The folder in `src`, and the first part of the PTX file's name.
    pub name: &'static str,
    /// The CUDA C++ text.
    pub source: &'static str,
    /// Whether the compiler may fuse a multiply and an add. Off where the bits of a sum matter: there the source says
    /// `fmaf` where it means one.
    pub fmad: bool,
    /// The kernels in it.
    pub entries: &'static [Entry],
}

/// One kernel of a family, with the gate that its assembly must pass.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// Its name.
    pub name: &'static str,
    /// Threads of a block.
    pub threads: u32,
    /// The most registers a thread may take on any architecture: launch rules count on it.
    pub max_registers: u32,
    /// Bytes of static shared memory a block may take: likewise.
    pub max_static_shared: u32,
    /// Bytes of dynamic shared memory that its launch rule asks for.
    pub dynamic_shared: u32,
}

/// Every family, sorted by name.
pub const FAMILIES: &[Family] = &[attention::FAMILY, codebook::FAMILY, gemm::FAMILY, layer_norm::FAMILY];

/// The headers that any kernel may include, by name.
pub const COMMON_HEADERS: &[(&str, &str)] = &[("tile.cuh", include_str!("tile/tile.cuh"))];

impl Family {
    /// The kernel of this name.
    pub fn entry(&self, name: &str) -> Option<&'static Entry> {
        self.entries.iter().find(|e| e.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MODELLED_GPUS;

    #[test]
    fn the_shipped_ptx_holds_the_kernels_of_the_sources() {
        for family in FAMILIES {
            let module = selftok_kernels_ptx::module_for(family.name, 8, 0).expect(family.name);
            let mut listed: Vec<_> = family.entries.iter().map(|e| e.name).collect();
            let mut shipped = module.entries.to_vec();
            listed.sort_unstable();
            shipped.sort_unstable();
            assert_eq!(listed, shipped, "{}", family.name);
        }
    }

    #[test]
    fn every_kernel_is_under_its_ceilings_on_every_architecture() {
        for row in selftok_kernels_ptx::resources().unwrap() {
            let entry = FAMILIES.iter().find_map(|f| f.entry(&row.entry)).expect(&row.entry);
            assert!(row.registers <= entry.max_registers, "{row:?}");
            assert!(row.shared <= entry.max_static_shared, "{row:?}");
        }
    }

    #[test]
    fn a_block_of_every_kernel_fits_every_modelled_gpu() {
        for gpu in MODELLED_GPUS {
            for entry in FAMILIES.iter().flat_map(|f| f.entries) {
                let shared = entry.max_static_shared + entry.dynamic_shared;
                assert!(
                    gpu.occupancy(entry.threads, entry.max_registers, shared) > 0,
                    "{} on {}",
                    entry.name,
                    gpu.name
                );
            }
        }
    }
}
