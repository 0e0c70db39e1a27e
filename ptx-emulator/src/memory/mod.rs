//! The address spaces: windows of the generic space, device memory, the memory of a block, and who touched what.

pub mod bytes;
pub mod clock;
pub mod global;
pub mod shadow;
pub mod shared;

use crate::types::Space;

/// Generic addresses of local memory: each thread sees its own.
pub const LOCAL_WINDOW: u64 = 0x0000_7C00_0000_0000;
/// Generic addresses of kernel parameters.
pub const PARAM_WINDOW: u64 = 0x0000_7B00_0000_0000;
/// Generic addresses of shared memory; bits 24.. of the offset are the rank in the cluster plus one, 0 for one's own.
pub const SHARED_WINDOW: u64 = 0x0000_7D00_0000_0000;
/// Size of each window.
pub const WINDOW: u64 = 1 << 32;
/// First address of device memory.
pub const GLOBAL_BASE: u64 = 0x0000_0002_0000_0000;
/// Bits of a shared-memory offset within a block.
pub const SHARED_RANK_SHIFT: u32 = 24;

/// The space a generic address is in, and the address within it.
#[inline(always)]
pub fn classify(generic: u64) -> (Space, u64) {
    match generic {
        SHARED_WINDOW..0x0000_7D01_0000_0000 => (Space::Shared, generic - SHARED_WINDOW),
        LOCAL_WINDOW..0x0000_7C01_0000_0000 => (Space::Local, generic - LOCAL_WINDOW),
        PARAM_WINDOW..0x0000_7B01_0000_0000 => (Space::Param, generic - PARAM_WINDOW),
        _ => (Space::Global, generic),
    }
}

/// The generic address of an address within a space.
#[inline(always)]
pub fn generic(space: Space, address: u64) -> u64 {
    match space {
        Space::Shared => SHARED_WINDOW + (address & 0xFFFF_FFFF),
        Space::Local => LOCAL_WINDOW + (address & 0xFFFF_FFFF),
        Space::Param => PARAM_WINDOW + (address & 0xFFFF_FFFF),
        _ => address,
    }
}
