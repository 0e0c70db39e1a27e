//! Streams: making, waiting, asking, capturing, and calls of the host in their order.

use crate::abi::{Handle, HostFn, Out, StreamCallback};
use crate::driver::{Held, Outcome, thread_number};
use crate::status::Status;
use crate::stream::{Stream, StreamKind};
use crate::work::Work;
use std::ffi::{c_int, c_uint, c_void};

fn create(d: &mut Held, out: Out<Handle>, flags: c_uint, priority: c_int) -> Outcome {
    let context = d.current()?;
    if flags > 1 {
        return Err(Status::INVALID_VALUE
            .because(format!("{flags} are no stream flags: 0 or CU_STREAM_NON_BLOCKING")));
    }
    let stream = d.handle();
    let mut made = Stream::new(context, StreamKind::Created, flags, priority.clamp(-5, 0));
    made.clock = d.host_clock.clone();
    d.streams.insert(stream, made);
    Ok(out.set(stream)?)
}

entry! { fn cuStreamCreate(d, out: Out<Handle>, flags: c_uint) { create(d, out, flags, 0) } }
entry! { fn cuStreamCreateWithPriority(d, out: Out<Handle>, flags: c_uint, priority: c_int) {
    create(d, out, flags, priority)
}}

fn destroy(d: &mut Held, stream: Handle) -> Outcome {
    if stream <= 2 {
        return Err(Status::INVALID_HANDLE.because("a default stream cannot be destroyed"));
    }
    let stream = d.resolve_stream(stream)?;
    if let Some(capture) = d.streams[&stream].capture {
        let _ = d.spoil(capture, Status::STREAM_CAPTURE_INVALIDATED, "a stream of the capture was destroyed");
    }
    if let Some(s) = d.streams.get_mut(&stream) {
        s.destroyed = true;
        s.capture = None;
        // Its work goes on without it.
        if s.queue.is_empty() {
            d.streams.remove(&stream);
        }
    }
    Ok(())
}

entry! { fn cuStreamDestroy(d, stream: Handle) { destroy(d, stream) } }
entry! { fn cuStreamDestroy_v2(d, stream: Handle) { destroy(d, stream) } }

entry! { fn cuStreamSynchronize | cuStreamSynchronize_ptsz(d, stream: Handle) {
    let stream = d.resolve_stream(stream)?;
    if d.leaves_out("order") {
        return Ok(());
    }
    d.refuse_if_capturing(stream)?;
    d.check_implicit(stream)?;
    d.synchronise(stream)
}}

entry! { fn cuStreamQuery | cuStreamQuery_ptsz(d, stream: Handle) {
    let stream = d.resolve_stream(stream)?;
    d.refuse_if_capturing(stream)?;
    d.run_a_little();
    let s = d.streams.get(&stream).ok_or(Status::INVALID_HANDLE)?;
    let (context, done, clock) = (s.context, s.queue.is_empty(), s.clock.clone());
    d.check_context(context)?;
    if !done {
        return Err(Status::NOT_READY.into());
    }
    d.host_learns(&clock);
    Ok(())
}}

entry! { fn cuStreamWaitEvent | cuStreamWaitEvent_ptsz(d, stream: Handle, event: Handle, flags: c_uint) {
    let stream = d.resolve_stream(stream)?;
    if flags > 1 {
        return Err(Status::INVALID_VALUE.into());
    }
    if d.leaves_out("order") {
        return Ok(());
    }
    let e = d.events.get(&event).ok_or_else(|| Status::INVALID_HANDLE.because("no such event, or a destroyed one"))?;
    let (record, captured) = (e.record.clone(), e.captured.clone());
    if let Some((capture, nodes)) = captured
        && d.captures.contains_key(&capture)
    {
        return d.capture_wait(stream, capture, &nodes);
    }
    let capturing = d.streams.get(&stream).and_then(|s| s.capture);
    match (record, capturing) {
        (None, _) => Ok(()),
        (Some(_), Some(capture)) => Err(d.spoil(
            capture,
            Status::STREAM_CAPTURE_ISOLATION,
            "a capturing stream would wait for an event that was recorded outside of the capture",
        )),
        (Some((from, seq, clock)), None) => {
            d.check_implicit(stream)?;
            d.enqueue(stream, Work::Nothing, vec![(from, seq)], &clock, &[])?;
            Ok(())
        }
    }
}}

entry! { fn cuLaunchHostFunc | cuLaunchHostFunc_ptsz(d, stream: Handle, function: Option<HostFn>, data: *mut c_void) {
    let stream = d.resolve_stream(stream)?;
    let function = function.ok_or(Status::INVALID_VALUE)?;
    d.submit(stream, Work::Host(function, data as usize), &[])?;
    Ok(())
}}

entry! { fn cuStreamAddCallback | cuStreamAddCallback_ptsz(
    d, stream: Handle, function: Option<StreamCallback>, data: *mut c_void, flags: c_uint
) {
    let stream = d.resolve_stream(stream)?;
    let function = function.ok_or(Status::INVALID_VALUE)?;
    if flags != 0 {
        return Err(Status::INVALID_VALUE.because("flags are reserved and must be 0"));
    }
    d.submit(stream, Work::Callback(function, data as usize), &[])?;
    Ok(())
}}

entry! { fn cuStreamGetPriority | cuStreamGetPriority_ptsz(d, stream: Handle, priority: Out<c_int>) {
    let stream = d.resolve_stream(stream)?;
    Ok(priority.set(d.streams[&stream].priority)?)
}}

entry! { fn cuStreamGetFlags | cuStreamGetFlags_ptsz(d, stream: Handle, flags: Out<c_uint>) {
    let stream = d.resolve_stream(stream)?;
    Ok(flags.set(d.streams[&stream].flags)?)
}}

entry! { fn cuStreamGetId | cuStreamGetId_ptsz(d, stream: Handle, id: Out<u64>) {
    let stream = d.resolve_stream(stream)?;
    Ok(id.set(stream as u64)?)
}}

entry! { fn cuStreamGetCtx | cuStreamGetCtx_ptsz(d, stream: Handle, context: Out<Handle>) {
    let stream = d.resolve_stream(stream)?;
    Ok(context.set(d.streams[&stream].context)?)
}}

entry! { fn cuStreamGetDevice | cuStreamGetDevice_ptsz(d, stream: Handle, device: Out<c_int>) {
    let stream = d.resolve_stream(stream)?;
    let context = d.streams[&stream].context;
    let ordinal = d.contexts.get(&context).ok_or(Status::INVALID_CONTEXT)?.device;
    Ok(device.set(ordinal)?)
}}

fn begin(d: &mut Held, stream: Handle, mode: c_uint) -> Outcome {
    let stream = d.resolve_stream(stream)?;
    d.current()?;
    d.begin_capture(stream, mode, thread_number())
}

entry! { fn cuStreamBeginCapture_v2 | cuStreamBeginCapture_v2_ptsz(d, stream: Handle, mode: c_uint) {
    begin(d, stream, mode)
}}

entry! { fn cuStreamEndCapture | cuStreamEndCapture_ptsz(d, stream: Handle, graph: Out<Handle>) {
    let stream = d.resolve_stream(stream)?;
    graph.set(0)?;
    let made = d.end_capture(stream, thread_number())?;
    Ok(graph.set(made)?)
}}

/// `CUstreamCaptureStatus`, and the capture.
fn capture_status(d: &Held, stream: Handle) -> (c_uint, Option<Handle>) {
    let capture = d.streams.get(&stream).and_then(|s| s.capture);
    let invalid = capture.and_then(|c| d.captures.get(&c)).is_some_and(|c| c.invalid);
    (
        if capture.is_none() {
            0
        } else if invalid {
            2
        } else {
            1
        },
        capture,
    )
}

entry! { fn cuStreamIsCapturing | cuStreamIsCapturing_ptsz(d, stream: Handle, status: Out<c_uint>) {
    let stream = d.resolve_stream(stream)?;
    Ok(status.set(capture_status(d, stream).0)?)
}}

entry! { fn cuStreamGetCaptureInfo_v2 | cuStreamGetCaptureInfo_v2_ptsz(
    d, stream: Handle, status: Out<c_uint>, id: Out<u64>, graph: Out<Handle>,
    dependencies: Out<*const Handle>, count: Out<usize>
) {
    let stream = d.resolve_stream(stream)?;
    let (state, capture) = capture_status(d, stream);
    status.set(state)?;
    if !dependencies.is_null() || !count.is_null() {
        return Err(Status::NOT_SUPPORTED.because("the dependencies of a capture are not handed out"));
    }
    if let Some(capture) = capture {
        id.set_if(capture as u64)?;
        graph.set_if(d.captures.get(&capture).map_or(0, |c| c.graph))?;
    }
    Ok(())
}}

entry! { fn cuThreadExchangeStreamCaptureMode(_d, mode: Out<c_uint>) {
    let wanted = mode.get()?;
    if wanted > 2 {
        return Err(Status::INVALID_VALUE.into());
    }
    thread_local!(static MODE: std::cell::Cell<c_uint> = const { std::cell::Cell::new(0) });
    Ok(mode.set(MODE.replace(wanted))?)
}}

entry! { fn cuStreamAttachMemAsync | cuStreamAttachMemAsync_ptsz(
    _d, _stream: Handle, _address: u64, _len: usize, _flags: c_uint
) {
    Err(Status::NOT_SUPPORTED.because("there is no managed memory"))
}}

/// Writes a word in stream order, as `cuStreamWriteValue32` and 64.
fn write_value(d: &mut Held, stream: Handle, address: u64, value: u64, size: usize) -> Outcome {
    let stream = d.resolve_stream(stream)?;
    if !address.is_multiple_of(size as u64) {
        return Err(Status::INVALID_VALUE.because(format!("{address:#x} is not aligned to {size}")));
    }
    d.check_range(address, size as u64)?;
    let bytes = std::sync::Arc::new(value.to_le_bytes()[..size].to_vec());
    let copy = crate::work::Copy::plain(
        crate::work::Source::Staged(bytes),
        crate::work::Target::Device(address),
        size,
    );
    // A flag that others poll: no access is entered, since the write itself is what orders.
    d.submit(stream, Work::Copy(copy), &[])?;
    Ok(())
}

entry! { fn cuStreamWriteValue32_v2 | cuStreamWriteValue32_v2_ptsz(
    d, stream: Handle, address: u64, value: u32, _flags: c_uint
) { write_value(d, stream, address, u64::from(value), 4) } }
entry! { fn cuStreamWriteValue64_v2 | cuStreamWriteValue64_v2_ptsz(
    d, stream: Handle, address: u64, value: u64, _flags: c_uint
) { write_value(d, stream, address, value, 8) } }
