//! What a launch rule needs to know of a GPU, and how many blocks of a kernel fit one SM.
//!
//! The occupancy is the CUDA programming guide's arithmetic: registers are given to warps in units of 256 and by a
//! quarter of the SM, shared memory in units of 128 bytes with 1 KiB of each block reserved.

use crate::KIB;

/// A GPU's limits, as `cuDeviceGetAttribute` gives them, and the rates that a model of time needs.
#[derive(Debug, Clone, PartialEq)]
pub struct GpuLimits {
    /// A name for people.
    pub name: &'static str,
    /// The architecture that `ptxas` assembles for, as `sm_80`.
    pub architecture: &'static str,
    /// Streaming multiprocessors.
    pub sms: u32,
    /// Threads that one SM can hold.
    pub threads_per_sm: u32,
    /// Blocks that one SM can hold.
    pub blocks_per_sm: u32,
    /// 32-bit registers of one SM.
    pub registers_per_sm: u32,
    /// Bytes of shared memory of one SM.
    pub shared_per_sm: u32,
    /// Bytes of shared memory that one block may ask for, with opting in.
    pub shared_per_block: u32,
    /// Bytes of level-two cache.
    pub l2: u64,
    /// bf16 multiply-adds with f32 sums that one SM's tensor cores do a clock through `mma.sync`.
    pub mma_per_clock: u32,
    /// f32 lanes of one SM: multiply-adds a clock.
    pub f32_per_clock: u32,
    /// Peak bytes a second of the memory.
    pub memory_bandwidth: f64,
}

/// A100 SXM 80 GB.
pub const A100: GpuLimits = GpuLimits {
    name: "A100",
    architecture: "sm_80",
    sms: 108,
    threads_per_sm: 2048,
    blocks_per_sm: 32,
    registers_per_sm: 65536,
    shared_per_sm: 164 * KIB,
    shared_per_block: 163 * KIB,
    l2: 40 << 20,
    mma_per_clock: 1024,
    f32_per_clock: 64,
    memory_bandwidth: 2039e9,
};

/// GeForce RTX 4090.
pub const RTX_4090: GpuLimits = GpuLimits {
    name: "RTX 4090",
    architecture: "sm_89",
    sms: 128,
    threads_per_sm: 1536,
    blocks_per_sm: 24,
    registers_per_sm: 65536,
    shared_per_sm: 100 * KIB,
    shared_per_block: 99 * KIB,
    l2: 72 << 20,
    mma_per_clock: 256,
    f32_per_clock: 128,
    memory_bandwidth: 1008e9,
};

/// H100 SXM. `mma.sync` is modelled at 60 % of what `wgmma` reaches.
pub const H100: GpuLimits = GpuLimits {
    name: "H100",
    architecture: "sm_90a",
    sms: 132,
    threads_per_sm: 2048,
    blocks_per_sm: 32,
    registers_per_sm: 65536,
    shared_per_sm: 228 * KIB,
    shared_per_block: 227 * KIB,
    l2: 50 << 20,
    mma_per_clock: 1228,
    f32_per_clock: 128,
    memory_bandwidth: 3350e9,
};

/// GeForce RTX 5090.
pub const RTX_5090: GpuLimits = GpuLimits {
    name: "RTX 5090",
    architecture: "sm_120",
    sms: 170,
    threads_per_sm: 1536,
    blocks_per_sm: 24,
    registers_per_sm: 65536,
    shared_per_sm: 100 * KIB,
    shared_per_block: 99 * KIB,
    l2: 96 << 20,
    mma_per_clock: 256,
    f32_per_clock: 128,
    memory_bandwidth: 1792e9,
};

/// The GPUs that launch rules are tested and reported for.
pub const MODELLED_GPUS: [&GpuLimits; 4] = [&A100, &RTX_4090, &H100, &RTX_5090];

/// Shared memory that the system takes of each block from compute capability 8.0 on.
const RESERVED_SHARED: u32 = KIB;

impl GpuLimits {
    /// Blocks of `threads` threads that one SM holds at once, 0 when not even one fits.
    ///
    /// `registers` a thread; `shared` bytes a block, static and dynamic together.
    pub fn occupancy(&self, threads: u32, registers: u32, shared: u32) -> u32 {
        if threads == 0 || threads > 1024 || registers > 255 || shared > self.shared_per_block {
            return 0;
        }
        let warps = threads.div_ceil(32);
        let by_threads = self.threads_per_sm / (warps * 32);
        let warp_registers = (registers.max(1) * 32).next_multiple_of(256);
        let by_registers = 4 * (self.registers_per_sm / 4 / warp_registers) / warps;
        let by_shared = self.shared_per_sm / (shared + RESERVED_SHARED).next_multiple_of(128);
        by_threads.min(by_registers).min(by_shared).min(self.blocks_per_sm)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn occupancy_is_the_scarcest_of_threads_registers_shared_memory_and_slots() {
        assert_eq!(A100.occupancy(1024, 16, 0), 2); // threads
        assert_eq!(A100.occupancy(128, 128, 0), 4); // registers: 16 warps of 4096
        assert_eq!(A100.occupancy(128, 255, 0), 2); // 255 is allotted as 256
        assert_eq!(A100.occupancy(128, 232, 0), 2); // 7424 a warp, 2 of them in a quarter
        assert_eq!(A100.occupancy(32, 16, 0), 32); // slots
        assert_eq!(RTX_4090.occupancy(32, 16, 0), 24);
        assert_eq!(A100.occupancy(128, 32, 48 * KIB), 3); // shared: 164 / 49
        assert_eq!(RTX_4090.occupancy(128, 32, 48 * KIB), 2); // 100 / 49
        assert_eq!(H100.occupancy(128, 32, 227 * KIB), 1);
    }

    #[test]
    fn what_does_not_fit_has_no_occupancy() {
        assert_eq!(A100.occupancy(128, 32, 164 * KIB), 0);
        assert_eq!(RTX_4090.occupancy(128, 32, 100 * KIB), 0);
        assert_eq!(A100.occupancy(1025, 32, 0), 0);
        assert_eq!(A100.occupancy(0, 32, 0), 0);
        assert_eq!(A100.occupancy(1024, 128, 0), 0); // 32 warps of 4096 registers are more than there are
        assert_eq!(A100.occupancy(128, 256, 0), 0);
    }
}
