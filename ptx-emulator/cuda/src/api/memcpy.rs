//! Copies. An asynchronous copy from pageable memory takes its bytes when it is called, as the driver stages them, and
//! one to pageable memory returns when it is done (CUDA driver API, "API synchronization behavior"; cudarc relies on
//! it). Copies from and to page-locked memory touch it when they run. So a buffer that is used again too early, or
//! read too early, shows.

use crate::abi::{Handle, HostRange, In, Memcpy2D, Memcpy3D};
use crate::driver::{Held, Outcome, thread_number};
use crate::history::Clock;
use crate::status::Status;
use crate::stream::StreamKind;
use crate::work::{Copy, Source, Target, Work, digest};
use std::ffi::{c_uint, c_void};
use std::sync::Arc;

/// Whether queued work may legally write a host buffer before a copy that is submitted now.
fn host_may_write(d: &Held, range: HostRange) -> bool {
    let writes = |work: &Work| match work {
        Work::Host(..) | Work::Callback(..) | Work::Graph(_) => true,
        Work::Copy(copy) => matches!(copy.target, Target::Host(target) if target.overlaps(range)),
        _ => false,
    };
    // The work of a busy stream is in another thread's hands.
    d.streams.values().any(|s| s.busy || s.queue.iter().any(|op| writes(&op.work)))
}

/// A copy between two devices in a legacy default stream begins when all that either device was given before is done, and is done
/// before anything that either is given later (CUDA programming guide, "Peer-to-Peer Memory Copy"). These are the legacy streams of the
/// devices' contexts, but for its own, with which it must be ordered for that; none for any other copy.
fn others_of_a_peer_copy(d: &Held, copy: &Copy, stream: Handle) -> Vec<Handle> {
    let device = |context: Handle| d.contexts.get(&context).map(|c| c.device);
    let owner = |at: u64| {
        let (base, _) = d.device.memory().range_of(at)?;
        d.owners.get(&base).and_then(|o| device(o.context))
    };
    let (Source::Device(from), Target::Device(to)) = (&copy.source, &copy.target) else { return Vec::new() };
    let legacy = d.streams.get(&stream).is_some_and(|s| s.kind == StreamKind::Legacy);
    match (owner(*from), owner(*to)) {
        (Some(a), Some(b)) if legacy && a != b => {
            let either =
                d.contexts.values().filter(|c| (c.device == a || c.device == b) && c.error.is_none());
            either.map(|c| c.legacy).filter(|other| *other != stream).collect()
        }
        _ => Vec::new(),
    }
}

/// Submits a copy; with `wait`, runs it before the call returns.
fn start(d: &mut Held, mut copy: Copy, stream: Handle, wait: bool) -> Outcome {
    d.current()?;
    let stream = d.resolve_stream(stream)?;
    if wait {
        d.refuse_unsafe_call(thread_number())?;
    }
    let capturing = d.streams[&stream].capture.is_some();
    let pageable = matches!(copy.target, Target::Host(range) if d.pinned_at(range).is_none());
    let wait = wait || pageable && !capturing;
    if copy.extent([1, 1]) == 0 || d.leaves_out("copy") {
        return Ok(());
    }
    copy.width = d.halved("copy", copy.width);
    if let Source::Device(at) = copy.source {
        copy.source = Source::Device(d.moved("the source", at));
    }
    if let Target::Device(at) = copy.target {
        copy.target = Target::Device(d.moved("the target", at));
    }
    let stream = d.swapped(stream);
    for access in copy.accesses() {
        d.check_range(access.start, access.len)?;
    }
    if let Source::Host(range, _) = copy.source
        && !wait
        && !capturing
    {
        copy.source = if d.pinned_at(range).is_none() {
            Source::Staged(Arc::new(range.read()))
        } else {
            Source::Host(range, (!host_may_write(d, range)).then(|| digest(range)))
        };
    }
    let accesses = copy.accesses();
    let others = if capturing { Vec::new() } else { others_of_a_peer_copy(d, &copy, stream) };
    for &other in &others {
        // All that the other device was given before.
        let before = d.enqueue(other, Work::Nothing, Vec::new(), &Clock::new(), &[])?;
        let clock = d.streams.get(&other).map(|s| s.clock.clone()).unwrap_or_default();
        d.enqueue(stream, Work::Nothing, vec![(other, before)], &clock, &[])?;
    }
    let seq = d.submit(stream, Work::Copy(copy), &accesses)?;
    for other in others {
        // And all that it is given later.
        let clock = d.streams.get(&stream).map(|s| s.clock.clone()).unwrap_or_default();
        d.enqueue(other, Work::Nothing, vec![(stream, seq)], &clock, &[])?;
    }
    if wait {
        let s = d.streams.get(&stream).ok_or(Status::INVALID_HANDLE)?;
        let (context, clock) = (s.context, s.clock.clone());
        d.run_until(&[(stream, seq)])?;
        d.host_learns(&clock);
        d.check_context(context)?;
    }
    Ok(())
}

fn host(pointer: *const c_void, len: usize) -> Outcome<HostRange> {
    HostRange::new(pointer, len).map_err(|s| s.because("a null host pointer"))
}

fn to_device(d: &mut Held, to: u64, from: *const c_void, len: usize, stream: Handle, wait: bool) -> Outcome {
    start(d, Copy::plain(Source::Host(host(from, len)?, None), Target::Device(to), len), stream, wait)
}

fn to_host(d: &mut Held, to: *mut c_void, from: u64, len: usize, stream: Handle, wait: bool) -> Outcome {
    start(d, Copy::plain(Source::Device(from), Target::Host(host(to, len)?), len), stream, wait)
}

/// Device-to-device copies are asynchronous to the host even in their synchronous form.
fn between(d: &mut Held, to: u64, from: u64, len: usize, stream: Handle) -> Outcome {
    start(d, Copy::plain(Source::Device(from), Target::Device(to), len), stream, false)
}

entry! { fn cuMemcpyHtoD_v2 | cuMemcpyHtoD_v2_ptds(d, to: u64, from: *const c_void, len: usize) {
    to_device(d, to, from, len, 0, true)
}}
entry! { fn cuMemcpyHtoDAsync_v2 | cuMemcpyHtoDAsync_v2_ptsz(
    d, to: u64, from: *const c_void, len: usize, stream: Handle
) { to_device(d, to, from, len, stream, false) } }
entry! { fn cuMemcpyDtoH_v2 | cuMemcpyDtoH_v2_ptds(d, to: *mut c_void, from: u64, len: usize) {
    to_host(d, to, from, len, 0, true)
}}
entry! { fn cuMemcpyDtoHAsync_v2 | cuMemcpyDtoHAsync_v2_ptsz(
    d, to: *mut c_void, from: u64, len: usize, stream: Handle
) { to_host(d, to, from, len, stream, false) } }
entry! { fn cuMemcpyDtoD_v2 | cuMemcpyDtoD_v2_ptds(d, to: u64, from: u64, len: usize) {
    d.refuse_unsafe_call(thread_number())?;
    between(d, to, from, len, 0)
}}
entry! { fn cuMemcpyDtoDAsync_v2 | cuMemcpyDtoDAsync_v2_ptsz(d, to: u64, from: u64, len: usize, stream: Handle) {
    between(d, to, from, len, stream)
}}
entry! { fn cuMemcpyPeer | cuMemcpyPeer_ptds(
    d, to: u64, to_context: Handle, from: u64, from_context: Handle, len: usize
) {
    d.check_context(to_context)?;
    d.check_context(from_context)?;
    between(d, to, from, len, 0)
}}
entry! { fn cuMemcpyPeerAsync | cuMemcpyPeerAsync_ptsz(
    d, to: u64, to_context: Handle, from: u64, from_context: Handle, len: usize, stream: Handle
) {
    d.check_context(to_context)?;
    d.check_context(from_context)?;
    between(d, to, from, len, stream)
}}

/// A pointer of which only unified addressing says what it is.
fn unified_source(d: &Held, address: u64, len: usize) -> Outcome<Source> {
    Ok(match d.device.memory().range_of(address) {
        Some(_) => Source::Device(address),
        None => Source::Host(host(address as *const c_void, len)?, None),
    })
}

fn unified_target(d: &Held, address: u64, len: usize) -> Outcome<Target> {
    Ok(match d.device.memory().range_of(address) {
        Some(_) => Target::Device(address),
        None => Target::Host(host(address as *const c_void, len)?),
    })
}

fn unified(d: &mut Held, to: u64, from: u64, len: usize, stream: Handle, wait: bool) -> Outcome {
    // An address that was device memory must not be taken for the host's.
    for address in [to, from] {
        if d.device.memory().was_freed(address) {
            d.check_range(address, len as u64)?;
        }
    }
    let copy = Copy::plain(unified_source(d, from, len)?, unified_target(d, to, len)?, len);
    let wait = wait && copy.accesses().len() < 2;
    start(d, copy, stream, wait)
}

entry! { fn cuMemcpy | cuMemcpy_ptds(d, to: u64, from: u64, len: usize) { unified(d, to, from, len, 0, true) } }
entry! { fn cuMemcpyAsync | cuMemcpyAsync_ptsz(d, to: u64, from: u64, len: usize, stream: Handle) {
    unified(d, to, from, len, stream, false)
}}

/// One end of a 2D or 3D copy: kind, host and device address, and offsets.
struct End {
    kind: c_uint,
    host: *const c_void,
    device: u64,
    at: [usize; 3],
    pitch: [usize; 2],
}

impl End {
    /// Offset of the first byte, and bytes to the last.
    fn place(&self, extent: usize) -> Outcome<(c_uint, u64, usize)> {
        let [x, y, z] = self.at;
        let offset = z.checked_mul(self.pitch[1]).zip(y.checked_mul(self.pitch[0]));
        let offset = offset.and_then(|(a, b)| a.checked_add(b)).and_then(|n| n.checked_add(x));
        let offset = offset.ok_or(Status::INVALID_VALUE)? as u64;
        match self.kind {
            1 => Ok((1, (self.host as u64).wrapping_add(offset), extent)),
            2 | 4 => Ok((self.kind, self.device.wrapping_add(offset), extent)),
            3 => Err(Status::NOT_SUPPORTED.because("there are no CUDA arrays")),
            kind => Err(Status::INVALID_VALUE.because(format!("{kind} is no memory type"))),
        }
    }
}

impl Memcpy3D {
    /// The copy that the structure describes.
    pub fn to_copy(self, d: &Held) -> Outcome<Copy> {
        let pitch = |given: usize, x: usize| if given == 0 { self.width + x } else { given };
        let rows = |given: usize| if given == 0 { self.height } else { given };
        let from = pitch(self.src_pitch, self.src_x);
        let to = pitch(self.dst_pitch, self.dst_x);
        let end_from = End {
            kind: self.src_type,
            host: self.src_host,
            device: self.src_device,
            at: [self.src_x, self.src_y, self.src_z],
            pitch: [from, from.checked_mul(rows(self.src_height)).ok_or(Status::INVALID_VALUE)?],
        };
        let end_to = End {
            kind: self.dst_type,
            host: self.dst_host,
            device: self.dst_device,
            at: [self.dst_x, self.dst_y, self.dst_z],
            pitch: [to, to.checked_mul(rows(self.dst_height)).ok_or(Status::INVALID_VALUE)?],
        };
        let limit = 1 << 46;
        let sizes = [self.width, self.height, self.depth, end_from.pitch[1], end_to.pitch[1]];
        if sizes.iter().any(|n| *n > limit) || self.height.saturating_mul(from.max(to)) > limit {
            return Err(Status::INVALID_VALUE.because("the copy is larger than any memory"));
        }
        if self.height > 1 && (from < self.width || to < self.width) {
            return Err(Status::INVALID_VALUE.because("a pitch is less than the width"));
        }
        let mut copy = Copy::plain(Source::Device(0), Target::Device(0), self.width);
        (copy.rows, copy.slices) = (self.height, self.depth);
        (copy.source_pitch, copy.target_pitch) = (end_from.pitch, end_to.pitch);
        copy.source = match end_from.place(copy.extent(copy.source_pitch))? {
            (1, at, len) => Source::Host(host(at as *const c_void, len)?, None),
            (2, at, _) => Source::Device(at),
            (_, at, len) => unified_source(d, at, len)?,
        };
        copy.target = match end_to.place(copy.extent(copy.target_pitch))? {
            (1, at, len) => Target::Host(host(at as *const c_void, len)?),
            (2, at, _) => Target::Device(at),
            (_, at, len) => unified_target(d, at, len)?,
        };
        Ok(copy)
    }
}

impl Memcpy2D {
    fn to_copy(self, d: &Held) -> Outcome<Copy> {
        let deep = Memcpy3D {
            src_x: self.src_x,
            src_y: self.src_y,
            src_z: 0,
            src_lod: 0,
            src_type: self.src_type,
            src_host: self.src_host,
            src_device: self.src_device,
            src_array: self.src_array,
            reserved0: std::ptr::null_mut(),
            src_pitch: self.src_pitch,
            src_height: 0,
            dst_x: self.dst_x,
            dst_y: self.dst_y,
            dst_z: 0,
            dst_lod: 0,
            dst_type: self.dst_type,
            dst_host: self.dst_host,
            dst_device: self.dst_device,
            dst_array: self.dst_array,
            reserved1: std::ptr::null_mut(),
            dst_pitch: self.dst_pitch,
            dst_height: 0,
            width: self.width,
            height: self.height,
            depth: 1,
        };
        deep.to_copy(d)
    }
}

fn flat(d: &mut Held, what: In<Memcpy2D>, stream: Handle, wait: bool) -> Outcome {
    let copy = what.get()?.to_copy(d)?;
    start(d, copy, stream, wait)
}

fn deep(d: &mut Held, what: In<Memcpy3D>, stream: Handle, wait: bool) -> Outcome {
    let copy = what.get()?.to_copy(d)?;
    start(d, copy, stream, wait)
}

entry! { fn cuMemcpy2D_v2 | cuMemcpy2D_v2_ptds(d, what: In<Memcpy2D>) { flat(d, what, 0, true) } }
entry! { fn cuMemcpy2DUnaligned_v2 | cuMemcpy2DUnaligned_v2_ptds(d, what: In<Memcpy2D>) { flat(d, what, 0, true) } }
entry! { fn cuMemcpy2DAsync_v2 | cuMemcpy2DAsync_v2_ptsz(d, what: In<Memcpy2D>, stream: Handle) {
    flat(d, what, stream, false)
}}
entry! { fn cuMemcpy3D_v2 | cuMemcpy3D_v2_ptds(d, what: In<Memcpy3D>) { deep(d, what, 0, true) } }
entry! { fn cuMemcpy3DAsync_v2 | cuMemcpy3DAsync_v2_ptsz(d, what: In<Memcpy3D>, stream: Handle) {
    deep(d, what, stream, false)
}}
