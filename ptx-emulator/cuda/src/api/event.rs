//! Events.

use crate::abi::{Handle, Out};
use crate::driver::{Held, Outcome};
use crate::history::Clock;
use crate::status::Status;
use crate::stream::Event;
use crate::work::Work;
use std::ffi::c_uint;
use std::time::Instant;

entry! { fn cuEventCreate(d, out: Out<Handle>, flags: c_uint) {
    let context = d.current()?;
    if flags > 7 {
        return Err(Status::INVALID_VALUE.because(format!("{flags:#x} are no event flags")));
    }
    let event = d.handle();
    d.events.insert(event, Event { context, flags, record: None, completed: None, captured: None });
    Ok(out.set(event)?)
}}

fn destroy(d: &mut Held, event: Handle) -> Outcome {
    // A record that is queued finds its event gone and does nothing.
    d.events.remove(&event).map(|_| ()).ok_or_else(|| Status::INVALID_HANDLE.because("no such event"))
}

entry! { fn cuEventDestroy(d, event: Handle) { destroy(d, event) } }
entry! { fn cuEventDestroy_v2(d, event: Handle) { destroy(d, event) } }

fn record(d: &mut Held, event: Handle, stream: Handle) -> Outcome {
    let stream = d.resolve_stream(stream)?;
    if d.leaves_out("order") {
        return Ok(());
    }
    let stream = d.swapped(stream);
    let e = d
        .events
        .get(&event)
        .ok_or_else(|| Status::INVALID_HANDLE.because("no such event, or a destroyed one"))?;
    let s = &d.streams[&stream];
    if e.context != s.context {
        return Err(Status::INVALID_HANDLE.because("event and stream are of different contexts"));
    }
    if let Some(capture) = s.capture {
        let nodes = d.captures.get(&capture).and_then(|c| c.tails.get(&stream)).cloned().unwrap_or_default();
        if let Some(e) = d.events.get_mut(&event) {
            e.captured = Some((capture, nodes));
            e.record = None;
        }
        return Ok(());
    }
    let seq = d.submit(stream, Work::Record(event), &[])?;
    let clock = d.streams.get(&stream).map_or_else(Clock::new, |s| s.clock.clone());
    if let Some(e) = d.events.get_mut(&event) {
        e.record = Some((stream, seq, clock));
        e.completed = None;
        e.captured = None;
    }
    Ok(())
}

entry! { fn cuEventRecord | cuEventRecord_ptsz(d, event: Handle, stream: Handle) { record(d, event, stream) } }
entry! { fn cuEventRecordWithFlags | cuEventRecordWithFlags_ptsz(d, event: Handle, stream: Handle, flags: c_uint) {
    if flags > 1 {
        return Err(Status::INVALID_VALUE.into());
    }
    record(d, event, stream)
}}

/// A record: stream, number, vector clock.
type Record = (Handle, u64, Clock);

/// The last record of an event and its context; `None` when it was never recorded.
fn last_record(d: &Held, event: Handle) -> Outcome<(Handle, Option<Record>)> {
    let e = d
        .events
        .get(&event)
        .ok_or_else(|| Status::INVALID_HANDLE.because("no such event, or a destroyed one"))?;
    match &e.captured {
        Some((capture, _)) if d.captures.contains_key(capture) => {
            Err(Status::CAPTURED_EVENT.because("the event was last recorded in a capture"))
        }
        _ => Ok((e.context, e.record.clone())),
    }
}

entry! { fn cuEventSynchronize(d, event: Handle) {
    if d.leaves_out("order") {
        return Ok(());
    }
    let (context, record) = last_record(d, event)?;
    if let Some((stream, seq, clock)) = record {
        d.run_until(&[(stream, seq)])?;
        d.host_learns(&clock);
    }
    d.check_context(context)
}}

entry! { fn cuEventQuery(d, event: Handle) {
    let (context, record) = last_record(d, event)?;
    if let Some((stream, seq, clock)) = record {
        d.run_a_little();
        if !d.is_done(stream, seq) {
            d.check_context(context)?;
            return Err(Status::NOT_READY.into());
        }
        d.host_learns(&clock);
    }
    d.check_context(context)
}}

fn elapsed(d: &mut Held, out: Out<f32>, start: Handle, end: Handle) -> Outcome {
    let time = |d: &Held, event: Handle| -> Outcome<Instant> {
        let (context, record) = last_record(d, event)?;
        d.check_context(context)?;
        let e = &d.events[&event];
        if e.flags & 2 != 0 {
            return Err(Status::INVALID_HANDLE.because("the event was made with CU_EVENT_DISABLE_TIMING"));
        }
        if record.is_none() {
            return Err(Status::INVALID_HANDLE.because("the event was never recorded"));
        }
        e.completed.ok_or_else(|| Status::NOT_READY.into())
    };
    let (a, b) = (time(d, start)?, time(d, end)?);
    let seconds = if b >= a { (b - a).as_secs_f64() } else { -(a - b).as_secs_f64() };
    Ok(out.set((seconds * 1e3) as f32)?)
}

entry! { fn cuEventElapsedTime(d, out: Out<f32>, start: Handle, end: Handle) { elapsed(d, out, start, end) } }
entry! { fn cuEventElapsedTime_v2(d, out: Out<f32>, start: Handle, end: Handle) { elapsed(d, out, start, end) } }
