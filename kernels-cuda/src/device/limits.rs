//! The limits of a device as its driver gives them.
//!
//! Two rates of the launch rules' model are not to be had from a driver: what an SM's tensor cores and f32 lanes do a clock.
//! They follow from the architecture.

use cudarc::driver::{CudaContext, sys::CUdevice_attribute_enum as Attribute};

use super::DeviceError;
use crate::{A100, GpuLimits, H100, RTX_4090, RTX_5090};

/// Compute capability.
pub(super) fn capability(context: &CudaContext) -> Result<(u32, u32), DeviceError> {
    let (major, minor) =
        context.compute_capability().map_err(DeviceError::call("the device's compute capability"))?;
    Ok((major as u32, minor as u32))
}

/// What the launch rules need to know of a device.
///
/// # Errors
/// A device older than compute capability 8.0, or a driver that does not answer.
pub fn limits_of(context: &CudaContext) -> Result<GpuLimits, DeviceError> {
    let (major, minor) = capability(context)?;
    // The architecture's own model, or that of the closest one that is known.
    let (architecture, of_kind) = match (major, minor) {
        (0..=7, _) => {
            let name = context.name().map_err(DeviceError::call("the device's name"))?;
            return Err(DeviceError::TooOld { name, major, minor });
        }
        (8, 0) => ("sm_80", &A100),
        (8, 9) => ("sm_89", &RTX_4090),
        (8, _) => ("sm_86", &RTX_4090),
        (9, _) => ("sm_90a", &H100),
        (10 | 11, _) => ("sm_100", &H100),
        _ => ("sm_120", &RTX_5090),
    };
    let attribute = |a: Attribute| {
        let value = context.attribute(a).map_err(DeviceError::call(format!("{a:?}")))?;
        Ok::<u64, DeviceError>(value.max(0) as u64)
    };
    let count = |a| attribute(a).map(|v| v as u32);
    let clock = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE)? as f64 * 1e3;
    let bus = attribute(Attribute::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH)? as f64 / 8.0;
    Ok(GpuLimits {
        name: "this GPU",
        architecture,
        sms: count(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        threads_per_sm: count(Attribute::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR)?,
        blocks_per_sm: count(Attribute::CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR)?,
        registers_per_sm: count(Attribute::CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR)?,
        shared_per_sm: count(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR)?,
        shared_per_block: count(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
        l2: attribute(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?,
        mma_per_clock: of_kind.mma_per_clock,
        f32_per_clock: of_kind.f32_per_clock,
        // Two transfers a clock.
        memory_bandwidth: 2.0 * clock * bus,
    })
}
