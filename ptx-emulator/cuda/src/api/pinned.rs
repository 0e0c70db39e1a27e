//! Page-locked host memory. Asynchronous copies to and from it touch it when they run, not when they are called.

use crate::abi::{HostRange, Out};
use crate::driver::{Held, Outcome, Page, Pinned, thread_number};
use crate::status::Status;
use crate::work::{Source, Target, Work};
use ptx_emulator::FindingKind;
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

/// Page-locked memory goes while a copy from or to it may still run: a finding. (That a driver waits here is not promised.)
fn report_pending(d: &mut Held, address: usize) {
    let Some(len) = d.pinned.get(&address).map(|p| p.len) else { return };
    let range = HostRange { address, len };
    let touches = |work: &Work| match work {
        Work::Copy(copy) => {
            matches!(copy.source, Source::Host(host, _) if host.overlaps(range))
                || matches!(copy.target, Target::Host(host) if host.overlaps(range))
        }
        _ => false,
    };
    if d.streams.values().any(|s| s.queue.iter().any(|op| touches(&op.work))) {
        let message = format!(
            "the page-locked host buffer at {address:#x} is freed while a copy from or to it may still run: wait for the copy \
             (stream or event) first"
        );
        let entry = d.entry;
        d.report.host_finding(FindingKind::Freed, entry, Some(address as u64), message);
    }
}

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
    report_pending(d, pointer as usize);
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
    report_pending(d, pointer as usize);
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
