//! The GPUs that launch rules count on and the GPUs that are emulated are the same GPUs.

use ptx_emulator::Gpu;
use selftok_kernels_cuda::{A100, FAMILIES, GpuLimits, H100, RTX_4090, RTX_5090};

fn pairs() -> [(&'static GpuLimits, Gpu); 4] {
    [(&A100, Gpu::a100()), (&RTX_4090, Gpu::rtx4090()), (&H100, Gpu::h100()), (&RTX_5090, Gpu::rtx5090())]
}

#[test]
fn limits_agree() {
    for (limits, gpu) in pairs() {
        let ours = (limits.sms, limits.threads_per_sm, limits.registers_per_sm);
        assert_eq!(ours, (gpu.sms, gpu.threads_per_sm, gpu.registers_per_sm), "{}", limits.name);
        let ours = (limits.shared_per_sm, limits.shared_per_block, limits.l2);
        assert_eq!(
            ours,
            (gpu.shared_per_sm, gpu.shared_per_block_optin, u64::from(gpu.l2)),
            "{}",
            limits.name
        );
        assert_eq!(limits.blocks_per_sm, gpu.blocks_per_sm, "{}", limits.name);
    }
}

#[test]
fn occupancies_agree() {
    for (limits, gpu) in pairs() {
        for entry in FAMILIES.iter().flat_map(|f| f.entries) {
            let shared = entry.max_static_shared + entry.dynamic_shared;
            let ours = limits.occupancy(entry.threads, entry.max_registers, shared);
            let theirs = gpu.resident_blocks(entry.threads, shared, entry.max_registers);
            assert_eq!(ours, theirs, "{} on {}", entry.name, limits.name);
        }
    }
}
