//! Occupancy, from the limits of the modelled GPU. PTX does not say how many registers a kernel takes: without
//! `.maxnreg`, 32 are assumed.

use crate::abi::{BlockToShared, Handle, In, LaunchConfigC, Out};
use crate::api::module::attribute;
use crate::driver::{Held, Outcome};
use crate::status::Status;
use std::ffi::{c_int, c_uint};

fn resident(d: &Held, function: Handle, block: c_int, dynamic: usize) -> Outcome<u32> {
    let static_bytes = attribute(d, 1, function)? as usize;
    let registers = attribute(d, 4, function)? as u32;
    let most = attribute(d, 0, function)?;
    if block < 1 {
        return Err(Status::INVALID_VALUE.because(format!("a block of {block} threads")));
    }
    let shared = static_bytes.saturating_add(dynamic);
    if block > most || shared > d.settings.gpu.shared_per_block_optin as usize {
        return Ok(0);
    }
    Ok(d.settings.gpu.resident_blocks(block as u32, shared as u32, registers))
}

entry! { fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
    d, out: Out<c_int>, function: Handle, block: c_int, dynamic: usize
) {
    let blocks = resident(d, function, block, dynamic)?;
    Ok(out.set(blocks as c_int)?)
}}

entry! { fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
    d, out: Out<c_int>, function: Handle, block: c_int, dynamic: usize, _flags: c_uint
) {
    let blocks = resident(d, function, block, dynamic)?;
    Ok(out.set(blocks as c_int)?)
}}

fn potential(
    d: &mut Held,
    grid: Out<c_int>,
    out: Out<c_int>,
    function: Handle,
    by_size: Option<BlockToShared>,
    dynamic: usize,
    limit: c_int,
) -> Outcome {
    let most = attribute(d, 0, function)?;
    let most = if limit > 0 { most.min(limit) } else { most };
    let (mut best, mut threads, mut blocks) = (0, 0, 0);
    // The largest block of those that keep the most threads resident.
    for size in (1..=most / 32).rev().map(|k| k * 32).chain((most < 32).then_some(most)) {
        let shared = match by_size {
            // SAFETY: the host gave a function to be called with block sizes.
            Some(function) => d.unlocked(|| unsafe { function(size) }),
            None => dynamic,
        };
        let fit = resident(d, function, size, shared)? as c_int;
        if fit * size > threads {
            (best, threads, blocks) = (size, fit * size, fit);
        }
    }
    grid.set(blocks * d.settings.gpu.sms as c_int)?;
    Ok(out.set(best)?)
}

entry! { fn cuOccupancyMaxPotentialBlockSize(
    d, grid: Out<c_int>, block: Out<c_int>, function: Handle, by_size: Option<BlockToShared>, dynamic: usize,
    limit: c_int
) { potential(d, grid, block, function, by_size, dynamic, limit) } }

entry! { fn cuOccupancyMaxPotentialBlockSizeWithFlags(
    d, grid: Out<c_int>, block: Out<c_int>, function: Handle, by_size: Option<BlockToShared>, dynamic: usize,
    limit: c_int, _flags: c_uint
) { potential(d, grid, block, function, by_size, dynamic, limit) } }

entry! { fn cuOccupancyAvailableDynamicSMemPerBlock(
    d, out: Out<usize>, function: Handle, blocks: c_int, block: c_int
) {
    if blocks < 1 || resident(d, function, block, 0)? < blocks as u32 {
        return Err(Status::INVALID_VALUE.because(format!("{blocks} blocks of {block} threads do not fit")));
    }
    let static_bytes = attribute(d, 1, function)? as u32;
    let gpu = &d.settings.gpu;
    let share = (gpu.shared_per_sm / blocks as u32).saturating_sub(gpu.shared_reserved);
    Ok(out.set(share.min(gpu.shared_per_block_optin).saturating_sub(static_bytes) as usize)?)
}}

entry! { fn cuOccupancyMaxPotentialClusterSize(d, out: Out<c_int>, function: Handle, _config: In<LaunchConfigC>) {
    attribute(d, 1, function)?;
    Ok(out.set(d.settings.gpu.cluster_blocks as c_int)?)
}}

entry! { fn cuOccupancyMaxActiveClusters(d, out: Out<c_int>, function: Handle, config: In<LaunchConfigC>) {
    let config = config.get()?;
    let cluster: u32 = config.shape()?.cluster.iter().product();
    if cluster == 0 || cluster > d.settings.gpu.cluster_blocks {
        return Err(Status::INVALID_VALUE.because(format!("clusters of {cluster} blocks")));
    }
    let threads: u32 = config.block.iter().product();
    let blocks = resident(d, function, threads as c_int, config.shared as usize)? * d.settings.gpu.sms;
    Ok(out.set((blocks / cluster) as c_int)?)
}}
