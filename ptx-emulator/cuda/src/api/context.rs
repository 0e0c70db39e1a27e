//! Contexts: primary and made by hand, the stack of each thread, limits, and what their end leaves behind.

use crate::abi::{Handle, Out};
use crate::driver::{Driver, Held, Outcome, Owner, with_stack};
use crate::status::Status;
use std::ffi::{c_int, c_uint, c_void};

entry! { fn cuDevicePrimaryCtxRetain(d, out: Out<Handle>, device: c_int) {
    let at = d.check_device(device)?;
    let context = match d.primaries[at].context {
        Some(context) => context,
        None => {
            let flags = d.primaries[at].flags;
            let context = d.create_context(device, true, flags);
            d.primaries[at].context = Some(context);
            context
        }
    };
    d.primaries[at].retained += 1;
    Ok(out.set(context)?)
}}

fn release(d: &mut Held, device: c_int) -> Outcome {
    let at = d.check_device(device)?;
    let Some(context) = d.primaries[at].context else {
        return Err(
            Status::INVALID_CONTEXT.because("the primary context is released more often than retained")
        );
    };
    d.primaries[at].retained -= 1;
    if d.primaries[at].retained == 0 {
        d.primaries[at].context = None;
        d.destroy_context(context)?;
    }
    Ok(())
}

entry! { fn cuDevicePrimaryCtxRelease(d, device: c_int) { release(d, device) } }
entry! { fn cuDevicePrimaryCtxRelease_v2(d, device: c_int) { release(d, device) } }

fn reset(d: &mut Held, device: c_int) -> Outcome {
    let at = d.check_device(device)?;
    d.primaries[at].retained = 0;
    match d.primaries[at].context.take() {
        Some(context) => d.destroy_context(context),
        None => Ok(()),
    }
}

entry! { fn cuDevicePrimaryCtxReset(d, device: c_int) { reset(d, device) } }
entry! { fn cuDevicePrimaryCtxReset_v2(d, device: c_int) { reset(d, device) } }

fn set_primary_flags(d: &mut Held, device: c_int, flags: c_uint) -> Outcome {
    let at = d.check_device(device)?;
    d.primaries[at].flags = flags;
    if let Some(context) = d.primaries[at].context
        && let Some(c) = d.contexts.get_mut(&context)
    {
        c.flags = flags;
    }
    Ok(())
}

entry! { fn cuDevicePrimaryCtxSetFlags(d, device: c_int, flags: c_uint) { set_primary_flags(d, device, flags) } }
entry! { fn cuDevicePrimaryCtxSetFlags_v2(d, device: c_int, flags: c_uint) { set_primary_flags(d, device, flags) } }

entry! { fn cuDevicePrimaryCtxGetState(d, device: c_int, flags: Out<c_uint>, active: Out<c_int>) {
    let at = d.check_device(device)?;
    flags.set(d.primaries[at].flags)?;
    Ok(active.set(c_int::from(d.primaries[at].context.is_some()))?)
}}

fn create(d: &mut Held, out: Out<Handle>, flags: c_uint, device: c_int) -> Outcome {
    d.check_device(device)?;
    let context = d.create_context(device, false, flags);
    out.set(context)?;
    with_stack(|stack| stack.push(context));
    Ok(())
}

entry! { fn cuCtxCreate(d, out: Out<Handle>, flags: c_uint, device: c_int) { create(d, out, flags, device) } }
entry! { fn cuCtxCreate_v2(d, out: Out<Handle>, flags: c_uint, device: c_int) { create(d, out, flags, device) } }
entry! { fn cuCtxCreate_v3(d, out: Out<Handle>, _affinity: *const c_void, _n: c_int, flags: c_uint, device: c_int) {
    create(d, out, flags, device)
}}
entry! { fn cuCtxCreate_v4(d, out: Out<Handle>, _parameters: *const c_void, flags: c_uint, device: c_int) {
    create(d, out, flags, device)
}}

fn destroy(d: &mut Held, context: Handle) -> Outcome {
    match d.contexts.get(&context) {
        None => Err(Status::INVALID_CONTEXT.because("no such context, or it was destroyed already")),
        Some(c) if c.primary => {
            Err(Status::INVALID_CONTEXT.because("a primary context is released, not destroyed"))
        }
        Some(_) => {
            with_stack(|stack| {
                if stack.last() == Some(&context) {
                    stack.pop();
                }
            });
            d.destroy_context(context)
        }
    }
}

entry! { fn cuCtxDestroy(d, context: Handle) { destroy(d, context) } }
entry! { fn cuCtxDestroy_v2(d, context: Handle) { destroy(d, context) } }

impl Held {
    /// Ends a context: its work is done first, its memory is given back, and what was leaked is noted.
    pub fn destroy_context(&mut self, context: Handle) -> Outcome {
        let spoilt: Vec<Handle> = self
            .captures
            .iter()
            .filter(|(_, c)| self.streams.get(&c.origin).is_some_and(|s| s.context == context))
            .map(|(handle, _)| *handle)
            .collect();
        for capture in spoilt {
            self.captures.remove(&capture);
            for s in self.streams.values_mut().filter(|s| s.capture == Some(capture)) {
                s.capture = None;
            }
        }
        // The error of the work stays in the report; the context's end is no refusal.
        let _ = self.synchronise_context(context);
        let clean = self.contexts.get(&context).is_none_or(|c| c.error.is_none());
        if clean {
            self.note_leaks(Some(context));
        }
        let device = self.device.clone();
        let modules: Vec<Handle> =
            self.modules.iter().filter(|(_, m)| m.context == context).map(|(handle, _)| *handle).collect();
        for module in modules {
            if let Some(entry) = self.modules.remove(&module) {
                device.unload(&entry.loaded);
            }
            self.functions.retain(|_, f| f.module != module);
        }
        // What another context's stream has still to free is left to it.
        let own = |o: &Owner| o.context == context && !o.freeing;
        let owned: Vec<u64> = self.owners.iter().filter(|(_, o)| own(o)).map(|(a, _)| *a).collect();
        for address in owned {
            self.owners.remove(&address);
            let _ = device.memory().free(address);
        }
        self.streams.retain(|_, s| s.context != context);
        self.per_thread.retain(|(c, _), _| *c != context);
        self.events.retain(|_, e| e.context != context);
        self.graphs.retain(|_, g| g.context != context);
        self.execs.retain(|_, e| e.context != context);
        self.contexts.remove(&context);
        self.write_report();
        Ok(())
    }
}

impl Driver {
    /// Notes device memory that was not freed, of one context or of all.
    pub fn note_leaks(&mut self, context: Option<Handle>) {
        let leaked: Vec<u64> = self
            .owners
            .values()
            .filter(|o| !o.freeing && context.is_none_or(|c| o.context == c))
            .map(|o| o.bytes)
            .collect();
        if !leaked.is_empty() {
            let message = format!(
                "{} allocations of {} bytes were not freed",
                leaked.len(),
                leaked.iter().sum::<u64>()
            );
            self.report.note("leak", None, message);
        }
    }
}

entry! { fn cuCtxSetCurrent(d, context: Handle) {
    if context != 0 && !d.contexts.contains_key(&context) {
        return Err(Status::INVALID_CONTEXT.because("no such context, or it was destroyed"));
    }
    with_stack(|stack| {
        stack.pop();
        if context != 0 {
            stack.push(context);
        }
    });
    Ok(())
}}

entry! { fn cuCtxGetCurrent(_d, out: Out<Handle>) {
    Ok(out.set(with_stack(|stack| stack.last().copied()).unwrap_or(0))?)
}}

fn push(d: &mut Held, context: Handle) -> Outcome {
    if !d.contexts.contains_key(&context) {
        return Err(Status::INVALID_CONTEXT.into());
    }
    with_stack(|stack| stack.push(context));
    Ok(())
}

entry! { fn cuCtxPushCurrent(d, context: Handle) { push(d, context) } }
entry! { fn cuCtxPushCurrent_v2(d, context: Handle) { push(d, context) } }

fn pop(out: Out<Handle>) -> Outcome {
    let context = with_stack(Vec::pop)
        .ok_or_else(|| Status::INVALID_CONTEXT.because("this thread's stack is empty"))?;
    Ok(out.set_if(context)?)
}

entry! { fn cuCtxPopCurrent(_d, out: Out<Handle>) { pop(out) } }
entry! { fn cuCtxPopCurrent_v2(_d, out: Out<Handle>) { pop(out) } }

entry! { fn cuCtxGetDevice(d, device: Out<c_int>) {
    let context = d.current_any()?;
    Ok(device.set(d.contexts[&context].device)?)
}}

entry! { fn cuCtxGetFlags(d, flags: Out<c_uint>) {
    let context = d.current_any()?;
    Ok(flags.set(d.contexts[&context].flags)?)
}}

entry! { fn cuCtxSetFlags(d, flags: c_uint) {
    let context = d.current_any()?;
    if let Some(c) = d.contexts.get_mut(&context) {
        c.flags = flags;
    }
    Ok(())
}}

entry! { fn cuCtxGetId(d, context: Handle, id: Out<u64>) {
    let context = if context == 0 { d.current_any()? } else { context };
    d.contexts.get(&context).ok_or(Status::INVALID_CONTEXT)?;
    Ok(id.set(context as u64)?)
}}

entry! { fn cuCtxGetApiVersion(d, context: Handle, version: Out<c_uint>) {
    if context != 0 {
        d.contexts.get(&context).ok_or(Status::INVALID_CONTEXT)?;
    }
    Ok(version.set(3020)?)
}}

entry! { fn cuCtxSynchronize(d) {
    if d.leaves_out("order") {
        return Ok(());
    }
    let context = d.current_any()?;
    let capturing = d.streams.iter().find(|(_, s)| s.context == context && s.capture.is_some()).map(|(h, _)| *h);
    if let Some(stream) = capturing {
        d.refuse_if_capturing(stream)?;
    }
    d.synchronise_context(context)
}}

entry! { fn cuCtxGetLimit(d, value: Out<usize>, limit: c_uint) {
    let context = d.current()?;
    let default = match limit {
        0 => 1024,
        1 => 1 << 20,
        2 => 8 << 20,
        3 => 2,
        4 => 2048,
        5 => 64,
        6 => 0,
        _ => return Err(Status::UNSUPPORTED_LIMIT.because(format!("{limit} is no limit"))),
    };
    let set = d.contexts[&context].limits.get(&limit).copied();
    Ok(value.set(set.unwrap_or(default))?)
}}

entry! { fn cuCtxSetLimit(d, limit: c_uint, value: usize) {
    let context = d.current()?;
    if limit > 6 {
        return Err(Status::UNSUPPORTED_LIMIT.because(format!("{limit} is no limit")));
    }
    if let Some(c) = d.contexts.get_mut(&context) {
        c.limits.insert(limit, value);
    }
    Ok(())
}}

entry! { fn cuCtxGetCacheConfig(d, config: Out<c_uint>) {
    let context = d.current()?;
    Ok(config.set(d.contexts[&context].cache)?)
}}

entry! { fn cuCtxSetCacheConfig(d, config: c_uint) {
    let context = d.current()?;
    if config > 3 {
        return Err(Status::INVALID_VALUE.because(format!("{config} is no cache preference")));
    }
    if let Some(c) = d.contexts.get_mut(&context) {
        c.cache = config;
    }
    Ok(())
}}

entry! { fn cuCtxGetSharedMemConfig(d, config: Out<c_uint>) {
    d.current()?;
    // Four-byte banks.
    Ok(config.set(1)?)
}}

entry! { fn cuCtxSetSharedMemConfig(d, config: c_uint) {
    d.current()?;
    if config > 2 { Err(Status::INVALID_VALUE.into()) } else { Ok(()) }
}}

entry! { fn cuCtxGetStreamPriorityRange(d, least: Out<c_int>, greatest: Out<c_int>) {
    d.current()?;
    least.set_if(0)?;
    Ok(greatest.set_if(-5)?)
}}

entry! { fn cuCtxResetPersistingL2Cache(d) {
    d.current()?;
    Ok(())
}}

entry! { fn cuCtxEnablePeerAccess(d, peer: Handle, flags: c_uint) {
    let context = d.current()?;
    if flags != 0 {
        return Err(Status::INVALID_VALUE.into());
    }
    let other = d.contexts.get(&peer).ok_or(Status::INVALID_CONTEXT)?.device;
    let c = d.contexts.get_mut(&context).ok_or(Status::INVALID_CONTEXT)?;
    if c.device == other {
        return Err(Status::INVALID_DEVICE.because("both contexts are of one device"));
    }
    if c.peers.contains(&peer) {
        return Err(Status::PEER_ACCESS_ALREADY_ENABLED.into());
    }
    c.peers.push(peer);
    Ok(())
}}

entry! { fn cuCtxDisablePeerAccess(d, peer: Handle) {
    let context = d.current()?;
    let c = d.contexts.get_mut(&context).ok_or(Status::INVALID_CONTEXT)?;
    let at = c.peers.iter().position(|p| *p == peer).ok_or(Status::PEER_ACCESS_NOT_ENABLED)?;
    c.peers.remove(at);
    Ok(())
}}
