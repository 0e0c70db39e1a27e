//! Initialisation and what a device says of itself.

use super::process;
use crate::abi::{DeviceProperties, Out, Text};
use crate::driver::{call_free, initialise};
use crate::status::Status;
use ptx_emulator::Gpu;
use std::ffi::{c_char, c_int};

/// The driver version that is claimed: CUDA 12.9, whose PTX is 8.8.
pub const DRIVER_VERSION: c_int = 12090;

#[unsafe(no_mangle)]
extern "C" fn cuInit(flags: u32) -> u32 {
    call_free(|| {
        if flags != 0 {
            return Err(Status::INVALID_VALUE);
        }
        if initialise() {
            process::at_exit();
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDriverGetVersion(version: Out<c_int>) -> u32 {
    call_free(|| version.set(DRIVER_VERSION))
}

entry! { fn cuDeviceGetCount(d, count: Out<c_int>) {
    Ok(count.set(d.settings.devices as c_int)?)
}}

entry! { fn cuDeviceGet(d, device: Out<c_int>, ordinal: c_int) {
    d.check_device(ordinal)?;
    Ok(device.set(ordinal)?)
}}

/// Writes a C string into a buffer of `len` bytes, cut to fit.
fn set_text(out: Out<c_char>, len: c_int, text: &str) -> Result<(), Status> {
    if len <= 0 {
        return Err(Status::INVALID_VALUE);
    }
    let kept = text.bytes().take(len as usize - 1).map(|b| b as c_char);
    out.set_all(kept.chain([0]))
}

entry! { fn cuDeviceGetName(d, name: Out<c_char>, len: c_int, device: c_int) {
    d.check_device(device)?;
    let text = d.report.device.clone();
    Ok(set_text(name, len, &text)?)
}}

fn uuid(device: c_int) -> [u8; 16] {
    let mut uuid = *b"PTX-emulator-\0\0\0";
    uuid[15] = device as u8;
    uuid
}

entry! { fn cuDeviceGetUuid(d, out: Out<[u8; 16]>, device: c_int) {
    d.check_device(device)?;
    Ok(out.set(uuid(device))?)
}}

entry! { fn cuDeviceGetUuid_v2(d, out: Out<[u8; 16]>, device: c_int) {
    d.check_device(device)?;
    Ok(out.set(uuid(device))?)
}}

entry! { fn cuDeviceTotalMem_v2(d, bytes: Out<usize>, device: c_int) {
    d.check_device(device)?;
    Ok(bytes.set(d.settings.gpu.memory as usize)?)
}}

entry! { fn cuDeviceComputeCapability(d, major: Out<c_int>, minor: Out<c_int>, device: c_int) {
    d.check_device(device)?;
    let (a, b) = d.settings.gpu.capability;
    major.set(a as c_int)?;
    Ok(minor.set(b as c_int)?)
}}

entry! { fn cuDeviceGetPCIBusId(d, out: Out<c_char>, len: c_int, device: c_int) {
    d.check_device(device)?;
    Ok(set_text(out, len, &format!("0000:{:02x}:00.0", device + 1))?)
}}

entry! { fn cuDeviceGetByPCIBusId(d, device: Out<c_int>, id: Text) {
    let id = id.get()?;
    let found = (0..d.settings.devices as c_int).find(|k| id.ends_with(&format!("{:02x}:00.0", k + 1)));
    Ok(device.set(found.ok_or(Status::INVALID_DEVICE)?)?)
}}

entry! { fn cuDeviceCanAccessPeer(d, can: Out<c_int>, device: c_int, peer: c_int) {
    d.check_device(device)?;
    d.check_device(peer)?;
    Ok(can.set(c_int::from(device != peer))?)
}}

entry! { fn cuDeviceGetP2PAttribute(d, value: Out<c_int>, attribute: u32, from: c_int, to: c_int) {
    d.check_device(from)?;
    d.check_device(to)?;
    if from == to {
        return Err(Status::INVALID_DEVICE.because("the two devices are the same"));
    }
    // 1 performance rank, 2 access supported, 3 native atomics, 4 array access.
    Ok(value.set(match attribute {
        1 => 0,
        2 | 3 => 1,
        4 => 0,
        _ => return Err(Status::INVALID_VALUE.because(format!("{attribute} is no peer attribute"))),
    })?)
}}

entry! { fn cuDeviceGetProperties(d, out: Out<DeviceProperties>, device: c_int) {
    d.check_device(device)?;
    let gpu = &d.settings.gpu;
    Ok(out.set(DeviceProperties {
        max_threads_per_block: gpu.threads_per_block as c_int,
        max_threads_dim: [1024, 1024, 64],
        max_grid_size: [i32::MAX, 65535, 65535],
        shared_per_block: gpu.shared_per_block as c_int,
        constant_memory: 65536,
        warp_size: 32,
        max_pitch: i32::MAX,
        registers_per_block: gpu.registers_per_block as c_int,
        clock_khz: gpu.clock_khz as c_int,
        texture_alignment: 512,
    })?)
}}

entry! { fn cuDeviceGetAttribute(d, value: Out<c_int>, attribute: u32, device: c_int) {
    let ordinal = d.check_device(device)?;
    let found = attribute_value(&d.settings.gpu, attribute, ordinal)
        .ok_or_else(|| Status::INVALID_VALUE.because(format!("{attribute} is no device attribute of CUDA 12.9")))?;
    Ok(value.set(found)?)
}}

/// `CUdevice_attribute`. What the emulator lacks (textures, managed memory, virtual memory management) is 0.
fn attribute_value(gpu: &Gpu, attribute: u32, ordinal: usize) -> Option<c_int> {
    let from_9 = c_int::from(gpu.capability.0 >= 9);
    Some(match attribute {
        1 => gpu.threads_per_block as c_int,
        2 | 3 => 1024,
        4 => 64,
        5 => i32::MAX,
        6 | 7 => 65535,
        8 => gpu.shared_per_block as c_int,
        9 => 65536,
        10 => 32,
        11 => i32::MAX,
        12 => gpu.registers_per_block as c_int,
        13 => gpu.clock_khz as c_int,
        14 => 512,
        15 => 1,
        16 => gpu.sms as c_int,
        17 | 18 | 20 | 32 | 34 | 35 | 50 => 0,
        // Host memory is page-locked and copied, never mapped into the device.
        19 => 0,
        30 => 512,
        31 => 1,
        33 => ordinal as c_int + 1,
        36 => gpu.memory_clock_khz as c_int,
        37 => gpu.memory_bus_bits as c_int,
        38 => gpu.l2 as c_int,
        39 => gpu.threads_per_sm as c_int,
        40 => 2,
        41 => 1,
        51 => 32,
        75 => gpu.capability.0 as c_int,
        76 => gpu.capability.1 as c_int,
        78..=80 => 1,
        81 => gpu.shared_per_sm as c_int,
        82 => gpu.registers_per_sm as c_int,
        87 => {
            if gpu.shared_per_sm >= 164 * 1024 {
                2
            } else {
                64
            }
        }
        90 => 1,
        95 => 1,
        97 => gpu.shared_per_block_optin as c_int,
        99 => 1,
        106 => gpu.blocks_per_sm as c_int,
        111 => gpu.shared_reserved as c_int,
        115 => 1,
        // Cluster launch, and tensor maps.
        120 | 127 => c_int::from(gpu.cluster_blocks > 1).min(from_9),
        21..=29 | 42..=49 | 52..=74 | 77 | 83..=86 | 88 | 89 | 91..=94 | 96 | 98 | 100..=105 | 107..=110 => 0,
        112..=114 | 116..=119 | 121..=126 | 128..=145 => 0,
        _ => return None,
    })
}
