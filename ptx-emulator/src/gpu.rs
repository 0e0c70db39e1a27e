//! The GPUs that can be modelled: limits that a launch is judged by, and the properties that host code asks for.
//!
//! Figures are NVIDIA's published ones (CUDA C++ Programming Guide, "Compute Capabilities"; product data sheets).

use serde::Serialize;

/// Limits and properties of a modelled GPU. Sizes are in bytes unless a name says otherwise.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Gpu {
    /// Product name.
    pub name: &'static str,
    /// Compute capability, major and minor.
    pub capability: (u32, u32),
    /// Whether the `a` (architecture-specific) features are there, as on sm_90a.
    pub architecture_specific: bool,
    /// Streaming multiprocessors.
    pub sms: u32,
    /// Device memory.
    pub memory: u64,
    /// Peak memory bandwidth, GB/s.
    pub bandwidth_gb_s: u32,
    /// Level-2 cache.
    pub l2: u32,
    /// Shared memory of a multiprocessor.
    pub shared_per_sm: u32,
    /// Shared memory that a block may opt in to.
    pub shared_per_block_optin: u32,
    /// Static shared memory limit, and dynamic without opting in.
    pub shared_per_block: u32,
    /// Shared memory that the system takes of each block.
    pub shared_reserved: u32,
    /// 32-bit registers of a multiprocessor.
    pub registers_per_sm: u32,
    /// 32-bit registers of a block.
    pub registers_per_block: u32,
    /// Threads of a block.
    pub threads_per_block: u32,
    /// Resident threads of a multiprocessor.
    pub threads_per_sm: u32,
    /// Resident blocks of a multiprocessor.
    pub blocks_per_sm: u32,
    /// Blocks of a cluster (1: no clusters).
    pub cluster_blocks: u32,
    /// Clock, kHz.
    pub clock_khz: u32,
    /// Memory clock, kHz.
    pub memory_clock_khz: u32,
    /// Memory bus width, bits.
    pub memory_bus_bits: u32,
}

const KIB: u32 = 1024;
const MIB: u32 = 1024 * KIB;
const GIB: u64 = 1024 * 1024 * 1024;

impl Gpu {
    /// A100 SXM 80 GB (sm_80).
    pub fn a100() -> Gpu {
        Gpu {
            name: "A100-SXM4-80GB",
            capability: (8, 0),
            architecture_specific: false,
            sms: 108,
            memory: 80 * GIB,
            bandwidth_gb_s: 2039,
            l2: 40 * MIB,
            shared_per_sm: 164 * KIB,
            shared_per_block_optin: 163 * KIB,
            shared_per_block: 48 * KIB,
            shared_reserved: KIB,
            registers_per_sm: 65536,
            registers_per_block: 65536,
            threads_per_block: 1024,
            threads_per_sm: 2048,
            blocks_per_sm: 32,
            cluster_blocks: 1,
            clock_khz: 1_410_000,
            memory_clock_khz: 1_593_000,
            memory_bus_bits: 5120,
        }
    }

    /// GeForce RTX 4090 (sm_89).
    pub fn rtx4090() -> Gpu {
        Gpu {
            name: "GeForce RTX 4090",
            capability: (8, 9),
            sms: 128,
            memory: 24 * GIB,
            bandwidth_gb_s: 1008,
            l2: 72 * MIB,
            shared_per_sm: 100 * KIB,
            shared_per_block_optin: 99 * KIB,
            threads_per_sm: 1536,
            blocks_per_sm: 24,
            clock_khz: 2_520_000,
            memory_clock_khz: 10_501_000,
            memory_bus_bits: 384,
            ..Gpu::a100()
        }
    }

    /// H100 SXM 80 GB (sm_90a).
    pub fn h100() -> Gpu {
        Gpu {
            name: "H100 80GB HBM3",
            capability: (9, 0),
            architecture_specific: true,
            sms: 132,
            memory: 80 * GIB,
            bandwidth_gb_s: 3350,
            l2: 50 * MIB,
            shared_per_sm: 228 * KIB,
            shared_per_block_optin: 227 * KIB,
            cluster_blocks: 8,
            clock_khz: 1_980_000,
            memory_clock_khz: 2_619_000,
            memory_bus_bits: 5120,
            ..Gpu::a100()
        }
    }

    /// GeForce RTX 5090 (sm_120).
    pub fn rtx5090() -> Gpu {
        Gpu {
            name: "GeForce RTX 5090",
            capability: (12, 0),
            sms: 170,
            memory: 32 * GIB,
            bandwidth_gb_s: 1792,
            l2: 96 * MIB,
            shared_per_sm: 100 * KIB,
            shared_per_block_optin: 99 * KIB,
            threads_per_sm: 1536,
            blocks_per_sm: 24,
            cluster_blocks: 8,
            clock_khz: 2_407_000,
            memory_clock_khz: 14_001_000,
            memory_bus_bits: 512,
            ..Gpu::a100()
        }
    }

    /// Finds a modelled GPU by a short name (`a100`, `rtx4090`, `h100`, `rtx5090`), case and spaces aside.
    pub fn by_name(name: &str) -> Option<Gpu> {
        let plain: String =
            name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect();
        match plain.trim_start_matches("nvidia").trim_start_matches("geforce") {
            "a100" => Some(Gpu::a100()),
            "rtx4090" | "4090" => Some(Gpu::rtx4090()),
            "h100" => Some(Gpu::h100()),
            "rtx5090" | "5090" => Some(Gpu::rtx5090()),
            _ => None,
        }
    }

    /// Blocks of this shape that fit on one multiprocessor at once (shared memory, threads and block slots;
    /// registers when `registers` per thread is known, rounded up to the allocation unit of 8).
    pub fn resident_blocks(&self, threads: u32, shared: u32, registers: u32) -> u32 {
        let threads = threads.max(1).div_ceil(32) * 32;
        let by_threads = self.threads_per_sm / threads;
        let by_shared = self.shared_per_sm / (shared + self.shared_reserved);
        let by_registers = self.registers_per_sm / (registers.max(1).div_ceil(8) * 8 * threads);
        by_threads.min(by_shared).min(by_registers).min(self.blocks_per_sm)
    }

    /// Whether code for `.target sm_NN[a]` may run here: PTX of a lower or equal capability, and an
    /// architecture-specific target only on the very same one.
    pub fn accepts_target(&self, sm: u32, specific: bool) -> bool {
        let own = self.capability.0 * 10 + self.capability.1;
        if specific { self.architecture_specific && own == sm } else { sm <= own }
    }
}
