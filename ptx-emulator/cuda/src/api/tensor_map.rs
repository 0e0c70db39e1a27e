//! Tensor maps: checked as the driver checks them, and encoded as the emulator's TMA instructions decode them.

use crate::abi::{In, Out};
use crate::status::Status;
use ptx_emulator::tensor_map::TensorMap;
use std::ffi::{c_uint, c_void};

/// `CUtensorMap`.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Encoded([u64; 16]);

entry! { fn cuTensorMapEncodeTiled(
    d, out: Out<Encoded>, data_type: c_uint, rank: c_uint, address: *mut c_void, dims: In<u64>, strides: In<u64>,
    box_dims: In<c_uint>, element_strides: In<c_uint>, interleave: c_uint, swizzle: c_uint, promotion: c_uint,
    fill: c_uint
) {
    if d.settings.gpu.capability.0 < 9 {
        return Err(Status::NOT_SUPPORTED.because("tensor maps need compute capability 9.0"));
    }
    if !(1..=5).contains(&rank) {
        return Err(Status::INVALID_VALUE.because(format!("rank {rank}; 1 to 5 is allowed")));
    }
    let n = rank as usize;
    let map = TensorMap::tiled(
        data_type, address as u64, &dims.list(n)?, &strides.list(n - 1)?, &box_dims.list(n)?,
        &element_strides.list(n)?, interleave, swizzle, promotion, fill,
    )
    .map_err(|e| Status::INVALID_VALUE.because(e))?;
    Ok(out.set(Encoded(map.encode()))?)
}}

entry! { fn cuTensorMapReplaceAddress(_d, out: Out<Encoded>, address: *mut c_void) {
    let mut map = TensorMap::decode(&out.get()?.0)
        .ok_or_else(|| Status::INVALID_VALUE.because("not a tensor map that this library encoded"))?;
    if !(address as u64).is_multiple_of(16) {
        return Err(Status::INVALID_VALUE.because("a tensor's address is a multiple of 16"));
    }
    map.address = address as u64;
    Ok(out.set(Encoded(map.encode()))?)
}}
