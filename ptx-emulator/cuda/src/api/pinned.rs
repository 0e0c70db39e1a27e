//! Page-locked host memory. Asynchronous copies to and from it touch it when they run, not when they are called.

use crate::abi::{HostRange, Out};
use crate::driver::{Held, Outcome, Page, Pinned, thread_number};
use crate::status::Status;
use std::ffi::{c_uint, c_void};

fn allocate(d: &mut Held, out: Out<*mut c_void>, bytes: usize, flags: c_uint) -> Outcome {
    d.current()?;
    d.refuse_unsafe_call(thread_number())?;
    if flags > 7 {
        return Err(Status::INVALID_VALUE.because(format!("{flags:#x} are no flags of cuMemHostAlloc")));
    }
    if bytes == 0 {
        return Err(Status::INVALID_VALUE.because("0 bytes cannot be allocated"));
    }
    let pages = bytes.div_ceil(size_of::<Page>());
    let mut memory: Vec<Page> = Vec::new();
    memory.try_reserve_exact(pages).map_err(|_| Status::OUT_OF_MEMORY)?;
    memory.resize(pages, Page([0; 4096]));
    let pointer: *mut c_void = memory.as_mut_ptr().cast();
    out.set(pointer)?;
    d.pinned.insert(pointer as usize, Pinned { len: bytes, flags, memory: Some(memory) });
    Ok(())
}

entry! { fn cuMemHostAlloc(d, out: Out<*mut c_void>, bytes: usize, flags: c_uint) { allocate(d, out, bytes, flags) } }
entry! { fn cuMemAllocHost_v2(d, out: Out<*mut c_void>, bytes: usize) { allocate(d, out, bytes, 0) } }

/// Lets all work that may still touch host memory come to its end.
fn settle(d: &mut Held) -> Outcome {
    let targets: Vec<_> = d.streams.iter().map(|(&stream, s)| (stream, s.last)).collect();
    d.run_until(&targets)
}

entry! { fn cuMemFreeHost(d, pointer: *mut c_void) {
    if pointer.is_null() {
        return Ok(());
    }
    match d.pinned.get(&(pointer as usize)) {
        Some(Pinned { memory: Some(_), .. }) => {}
        _ => return Err(Status::INVALID_VALUE.because("not the start of memory from cuMemHostAlloc, or freed already")),
    }
    settle(d)?;
    d.pinned.remove(&(pointer as usize));
    Ok(())
}}

entry! { fn cuMemHostRegister_v2(d, pointer: *mut c_void, bytes: usize, flags: c_uint) {
    d.current()?;
    let range = HostRange::new(pointer, bytes)?;
    if bytes == 0 || flags > 15 {
        return Err(Status::INVALID_VALUE.into());
    }
    let taken = d.pinned.iter().any(|(&start, p)| range.overlaps(HostRange { address: start, len: p.len }));
    if taken {
        return Err(Status::HOST_MEMORY_ALREADY_REGISTERED.into());
    }
    d.pinned.insert(range.address, Pinned { len: bytes, flags, memory: None });
    Ok(())
}}

entry! { fn cuMemHostUnregister(d, pointer: *mut c_void) {
    match d.pinned.get(&(pointer as usize)) {
        Some(Pinned { memory: None, .. }) => {}
        _ => return Err(Status::HOST_MEMORY_NOT_REGISTERED.into()),
    }
    settle(d)?;
    d.pinned.remove(&(pointer as usize));
    Ok(())
}}

entry! { fn cuMemHostGetFlags(d, flags: Out<c_uint>, pointer: *mut c_void) {
    let (_, pinned) = d.pinned_at(HostRange::new(pointer, 1)?).ok_or(Status::INVALID_VALUE)?;
    Ok(flags.set(pinned.flags)?)
}}

entry! { fn cuMemHostGetDevicePointer_v2(_d, _out: Out<u64>, _pointer: *mut c_void, _flags: c_uint) {
    Err(Status::NOT_SUPPORTED
        .because("kernels cannot reach host memory here (CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY is 0)"))
}}
