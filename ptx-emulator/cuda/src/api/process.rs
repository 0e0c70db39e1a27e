//! What belongs to the process: the report at its end, error texts, the profiler's switches, and finding entry points
//! by name.

use crate::abi::{Out, Text};
use crate::driver::{Held, call_free};
use crate::status::Status;
use crate::work::{Target, Work};
use std::ffi::{c_char, c_int, c_void};

unsafe extern "C" {
    fn atexit(function: extern "C" fn()) -> c_int;
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
    fn dladdr(address: *const c_void, info: *mut DlInfo) -> c_int;
    fn dlopen(name: *const c_char, flags: c_int) -> *mut c_void;
}

#[repr(C)]
struct DlInfo {
    file: *const c_char,
    base: *mut c_void,
    symbol: *const c_char,
    address: *mut c_void,
}

/// Has the report written when the process ends.
pub fn at_exit() {
    // SAFETY: `finish` takes no arguments and lets no panic out.
    unsafe { atexit(finish) };
}

extern "C" fn finish() {
    call_free(|| {
        if let Some(mut held) = Held::take("exit") {
            finish_work(&mut held);
            held.note_leaks(None);
            held.write_report();
        }
        Ok(())
    });
}

/// Work that nobody waited for. A GPU may or may not do it before the process is gone; here kernels run, so that
/// they are judged, but the host's memory is not touched any more.
fn finish_work(d: &mut Held) {
    let pending: usize = d.streams.values().map(|s| s.queue.len()).sum();
    if pending == 0 {
        return;
    }
    d.report.note("exit", None, format!("{pending} operations were submitted and never waited for"));
    for stream in d.streams.values_mut() {
        for op in &mut stream.queue {
            let host = match &op.work {
                Work::Copy(copy) => matches!(copy.target, Target::Host(_)) || copy.reads_host(),
                Work::Host(..) | Work::Callback(..) | Work::Graph(_) => true,
                _ => false,
            };
            if host {
                op.work = Work::Nothing;
            }
        }
    }
    let targets: Vec<_> = d.streams.iter().map(|(&stream, s)| (stream, s.last)).collect();
    let _ = d.run_until(&targets);
}

#[unsafe(no_mangle)]
extern "C" fn cuGetErrorName(error: u32, out: Out<*const c_char>) -> u32 {
    call_free(|| describe(error, out, |(name, _)| name))
}

#[unsafe(no_mangle)]
extern "C" fn cuGetErrorString(error: u32, out: Out<*const c_char>) -> u32 {
    call_free(|| describe(error, out, |(_, text)| text))
}

fn describe(
    error: u32,
    out: Out<*const c_char>,
    pick: fn((&'static str, &'static str)) -> &'static str,
) -> Result<(), Status> {
    match Status::describe(error) {
        Some(found) => out.set(pick(found).as_ptr().cast()),
        None => {
            out.set(std::ptr::null())?;
            Err(Status::INVALID_VALUE)
        }
    }
}

entry! { fn cuProfilerStart(_d) { Ok(()) } }
entry! { fn cuProfilerStop(_d) { Ok(()) } }

/// The report so far as JSON: writes at most `len` bytes, the last one zero, and gives the length that is needed.
/// With `clear`, the report starts anew.
#[unsafe(no_mangle)]
extern "C" fn ptx_emulator_report(out: Out<c_char>, len: usize, clear: c_int) -> usize {
    let mut needed = 0;
    call_free(|| {
        let mut held = Held::take("ptx_emulator_report").ok_or(Status::NOT_INITIALIZED)?;
        let text = held.report.to_json();
        needed = text.len() + 1;
        if len > 0 && !out.is_null() {
            out.set_all(text.bytes().take(len - 1).map(|b| b as c_char).chain([0]))?;
        }
        if clear != 0 {
            held.report.clear();
        }
        Ok(())
    });
    needed
}

/// Symbols that a name stands for from CUDA 13.0 on; for an older program it is the version before.
const FROM_13: [&str; 9] = [
    "cuGraphAddDependencies_v2",
    "cuGraphAddNode_v2",
    "cuGraphGetEdges_v2",
    "cuGraphNodeGetDependencies_v2",
    "cuGraphNodeGetDependentNodes_v2",
    "cuGraphRemoveDependencies_v2",
    "cuStreamGetCaptureInfo_v3",
    "cuStreamGetCtx_v2",
    "cuStreamUpdateCaptureDependencies_v2",
];

/// The address of an entry point of this library, for a program of a CUDA version. `per_thread` prefers the symbol for per-thread
/// default streams.
fn find(name: &str, per_thread: bool, cuda: c_int) -> Option<*mut c_void> {
    let mut info = DlInfo {
        file: std::ptr::null(),
        base: std::ptr::null_mut(),
        symbol: std::ptr::null(),
        address: std::ptr::null_mut(),
    };
    // SAFETY: `info` is writable and has the layout of `Dl_info`; any address may be asked about.
    if unsafe { dladdr(own_address(), &mut info) } == 0 || info.file.is_null() {
        return None;
    }
    // RTLD_LAZY | RTLD_NOLOAD: the library is loaded already, this only gives its handle.
    // SAFETY: `dladdr` gave a string that ends in a zero byte.
    let library = unsafe { dlopen(info.file, 1 | 4) };
    if library.is_null() {
        return None;
    }
    let twins: &[&str] = if per_thread { &["_ptsz", "_ptds", ""] } else { &[""] };
    let versions = ["_v3", "_v2", ""];
    for twin in twins {
        for version in versions {
            if !version.is_empty() && cuda < 13000 && FROM_13.contains(&format!("{name}{version}").as_str()) {
                continue;
            }
            let symbol = std::ffi::CString::new(format!("{name}{version}{twin}")).ok()?;
            // SAFETY: the handle is open and the name ends in a zero byte.
            let found = unsafe { dlsym(library, symbol.as_ptr()) };
            if !found.is_null() {
                return Some(found);
            }
        }
    }
    None
}

fn own_address() -> *const c_void {
    cuGetErrorName as extern "C" fn(u32, Out<*const c_char>) -> u32 as *const c_void
}

#[unsafe(no_mangle)]
extern "C" fn cuGetProcAddress_v2(
    name: Text,
    out: Out<*mut c_void>,
    version: c_int,
    flags: u64,
    status: Out<u32>,
) -> u32 {
    call_free(|| {
        // CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM is bit 1.
        let found = find(&name.get()?, flags & 2 != 0, version);
        status.set_if(if found.is_some() { 0 } else { 1 })?;
        out.set(found.unwrap_or(std::ptr::null_mut()))?;
        found.map(|_| ()).ok_or(Status::NOT_FOUND)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGetProcAddress(name: Text, out: Out<*mut c_void>, version: c_int, flags: u64) -> u32 {
    let mut status = 0u32;
    cuGetProcAddress_v2(name, out, version, flags, Out::from(&mut status))
}
