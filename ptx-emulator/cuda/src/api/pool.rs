//! Memory pools. All memory comes from the device in the end; a pool counts what is taken in its name.

use crate::abi::{Handle, In, MemLocation, MemPoolProps, Out};
use crate::driver::{Held, Outcome, Pool};
use crate::status::Status;
use std::ffi::{c_int, c_uint, c_void};

fn pool(d: &mut Held, handle: Handle) -> Outcome<&mut Pool> {
    d.pools
        .get_mut(&handle)
        .ok_or_else(|| Status::INVALID_VALUE.because("no such memory pool, or a destroyed one"))
}

entry! { fn cuDeviceGetDefaultMemPool(d, out: Out<Handle>, device: c_int) {
    let at = d.check_device(device)?;
    Ok(out.set(d.device_pools[at].0)?)
}}

entry! { fn cuDeviceGetMemPool(d, out: Out<Handle>, device: c_int) {
    let at = d.check_device(device)?;
    Ok(out.set(d.device_pools[at].1)?)
}}

entry! { fn cuDeviceSetMemPool(d, device: c_int, handle: Handle) {
    let at = d.check_device(device)?;
    if pool(d, handle)?.device != device {
        return Err(Status::INVALID_VALUE.because("the pool is of another device"));
    }
    d.device_pools[at].1 = handle;
    Ok(())
}}

entry! { fn cuMemPoolCreate(d, out: Out<Handle>, properties: In<MemPoolProps>) {
    let properties = properties.get()?;
    // CU_MEM_ALLOCATION_TYPE_PINNED on CU_MEM_LOCATION_TYPE_DEVICE, not shared with other processes.
    if properties.alloc_type != 1 || properties.location.kind != 1 {
        return Err(Status::INVALID_VALUE.because("a pool holds pinned memory of a device"));
    }
    if properties.handle_types != 0 {
        return Err(Status::NOT_SUPPORTED.because("memory cannot be shared with other processes"));
    }
    d.check_device(properties.location.id)?;
    let handle = d.handle();
    d.pools.insert(handle, Pool { device: properties.location.id, ..Pool::default() });
    Ok(out.set(handle)?)
}}

entry! { fn cuMemPoolDestroy(d, handle: Handle) {
    pool(d, handle)?;
    if d.device_pools.iter().any(|(default, _)| *default == handle) {
        return Err(Status::INVALID_VALUE.because("a device's default pool cannot be destroyed"));
    }
    for pools in &mut d.device_pools {
        if pools.1 == handle {
            pools.1 = pools.0;
        }
    }
    d.pools.remove(&handle);
    Ok(())
}}

entry! { fn cuMemPoolTrimTo(d, handle: Handle, _keep: usize) {
    pool(d, handle)?;
    Ok(())
}}

entry! { fn cuMemPoolGetAttribute(d, handle: Handle, attribute: c_uint, value: Out<c_void>) {
    let used = d.pool_used(handle);
    let p = pool(d, handle)?;
    let set = p.attributes.get(&attribute).copied();
    match attribute {
        1..=3 => Ok(value.cast::<c_int>().set(set.unwrap_or(1) as c_int)?),
        4 => Ok(value.cast::<u64>().set(set.unwrap_or(0))?),
        // Nothing is held back: what is reserved is what is used.
        5 | 7 => Ok(value.cast::<u64>().set(used)?),
        6 | 8 => Ok(value.cast::<u64>().set(p.high)?),
        _ => Err(Status::INVALID_VALUE.because(format!("{attribute} is no attribute of a pool"))),
    }
}}

entry! { fn cuMemPoolSetAttribute(d, handle: Handle, attribute: c_uint, value: Out<c_void>) {
    let used = d.pool_used(handle);
    let p = pool(d, handle)?;
    match attribute {
        1..=3 => {
            p.attributes.insert(attribute, value.cast::<c_int>().get()? as u64);
        }
        4 => {
            p.attributes.insert(attribute, value.cast::<u64>().get()?);
        }
        6 | 8 if value.cast::<u64>().get()? == 0 => p.high = used,
        _ => return Err(Status::INVALID_VALUE.because("only attributes 1 to 4 can be set, and the marks 6 and 8 reset to 0")),
    }
    Ok(())
}}

entry! { fn cuMemPoolSetAccess(d, handle: Handle, _map: *const c_void, _count: usize) {
    pool(d, handle)?;
    Ok(())
}}

entry! { fn cuMemPoolGetAccess(d, flags: Out<c_uint>, handle: Handle, location: In<MemLocation>) {
    pool(d, handle)?;
    d.check_device(location.get()?.id)?;
    // Read and write: the devices share one memory.
    Ok(flags.set(3)?)
}}
