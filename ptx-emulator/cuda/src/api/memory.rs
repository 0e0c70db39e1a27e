//! Device memory: allocating and freeing, now and in stream order; what a pointer is; fills.

use crate::abi::{Handle, HostRange, In, Out};
use crate::driver::{Held, Outcome, Owner, thread_number};
use crate::graph::NodeWork;
use crate::history::Access;
use crate::status::Status;
use crate::work::{Fill, Work};
use std::ffi::{c_int, c_uint, c_void};

/// Allocates for a context.
fn allocate(d: &mut Held, context: Handle, bytes: u64, pool: Option<Handle>) -> Outcome<u64> {
    if bytes == 0 && pool.is_none() {
        // In stream order they can: cudarc's empty slices are such allocations.
        return Err(Status::INVALID_VALUE.because("0 bytes cannot be allocated"));
    }
    let address = match d.device.memory().alloc(bytes) {
        Ok(address) => address,
        Err(e) => return Err(Status::from(e.code()).because(e.to_string())),
    };
    d.owners.insert(address, Owner { context, pool, bytes, freeing: false });
    if let Some(pool) = pool {
        let used = d.pool_used(pool);
        if let Some(p) = d.pools.get_mut(&pool) {
            p.high = p.high.max(used);
        }
    }
    Ok(address)
}

impl Held {
    /// Bytes in use of a pool.
    pub fn pool_used(&self, pool: Handle) -> u64 {
        self.owners.values().filter(|o| o.pool == Some(pool)).map(|o| o.bytes).sum()
    }
}

fn alloc(d: &mut Held, out: Out<u64>, bytes: usize) -> Outcome {
    let context = d.current()?;
    d.refuse_unsafe_call(thread_number())?;
    if out.is_null() {
        return Err(Status::INVALID_VALUE.into());
    }
    let bytes = d.halved("size", bytes);
    let address = allocate(d, context, bytes as u64, None)?;
    Ok(out.set(address)?)
}

entry! { fn cuMemAlloc_v2(d, out: Out<u64>, bytes: usize) { alloc(d, out, bytes) } }

entry! { fn cuMemAllocPitch_v2(d, out: Out<u64>, pitch: Out<usize>, width: usize, height: usize, element: c_uint) {
    if !matches!(element, 4 | 8 | 16) {
        return Err(Status::INVALID_VALUE.because(format!("elements of {element} bytes: 4, 8 or 16 are allowed")));
    }
    let row = width.next_multiple_of(512);
    let bytes = row.checked_mul(height).ok_or(Status::OUT_OF_MEMORY)?;
    pitch.set(row)?;
    alloc(d, out, bytes)
}}

/// Who owns what starts at an address; an unknown or freed one is refused, a freed one is a finding.
fn owner(d: &mut Held, address: u64) -> Outcome<&mut Owner> {
    let known = d.owners.get(&address).map(|o| o.freeing);
    if known != Some(false) {
        let what = match known {
            Some(_) => "cuMemFreeAsync was called for it already".to_owned(),
            None => d.device.memory().describe(address),
        };
        if known.is_some() || d.device.memory().was_freed(address) {
            let (entry, message) = (d.entry, format!("{address:#x} is freed twice: {what}"));
            d.report.host_finding(ptx_emulator::FindingKind::Freed, entry, Some(address), message);
        }
        return Err(
            Status::INVALID_VALUE.because(format!("{address:#x} is not the start of an allocation: {what}"))
        );
    }
    d.owners.get_mut(&address).ok_or_else(|| Status::INVALID_VALUE.into())
}

entry! { fn cuMemFree_v2(d, address: u64) {
    d.current_any()?;
    d.refuse_unsafe_call(thread_number())?;
    if address == 0 || d.freed_early(address) || d.leaves_out("lifetime") {
        return Ok(());
    }
    let context = owner(d, address)?.context;
    // The driver lets the device come to rest before it takes memory away.
    let result = d.synchronise_context(context);
    d.free_now(address);
    result
}}

fn alloc_async(d: &mut Held, out: Out<u64>, bytes: usize, pool: Option<Handle>, stream: Handle) -> Outcome {
    let current = d.current()?;
    let stream = d.resolve_stream(stream)?;
    if out.is_null() {
        return Err(Status::INVALID_VALUE.into());
    }
    let s = &d.streams[&stream];
    let (context, capture) = (s.context, s.capture);
    d.check_context(context)?;
    let device = d.contexts[&current].device as usize;
    let pool = match pool {
        Some(pool) if d.pools.contains_key(&pool) => pool,
        Some(_) => return Err(Status::INVALID_VALUE.because("no such memory pool, or a destroyed one")),
        None => d.device_pools[device].1,
    };
    let bytes = d.halved("size", bytes);
    let address = allocate(d, context, bytes as u64, Some(pool))?;
    if let Some(capture) = capture {
        d.capture_node(capture, stream, NodeWork::Alloc)?;
        let graph = d.captures.get(&capture).map(|c| c.graph).ok_or(Status::INVALID_VALUE)?;
        d.graph(graph)?.memory.push(address);
    } else {
        // Memory is there for others only after this operation: allocating counts as a write.
        d.submit(stream, Work::Alloc, &[Access::write(address, bytes as u64)])?;
    }
    Ok(out.set(address)?)
}

entry! { fn cuMemAllocAsync | cuMemAllocAsync_ptsz(d, out: Out<u64>, bytes: usize, stream: Handle) {
    alloc_async(d, out, bytes, None, stream)
}}

entry! { fn cuMemAllocFromPoolAsync | cuMemAllocFromPoolAsync_ptsz(
    d, out: Out<u64>, bytes: usize, pool: Handle, stream: Handle
) { alloc_async(d, out, bytes, Some(pool), stream) } }

entry! { fn cuMemFreeAsync | cuMemFreeAsync_ptsz(d, address: u64, stream: Handle) {
    let stream = d.resolve_stream(stream)?;
    if address == 0 {
        return Err(Status::INVALID_VALUE.because("a null pointer"));
    }
    if d.freed_early(address) || d.leaves_out("lifetime") {
        return Ok(());
    }
    let stream = d.swapped(stream);
    let bytes = owner(d, address)?.bytes;
    if d.streams[&stream].capture.is_none() {
        owner(d, address)?.freeing = true;
    }
    let context = d.streams[&stream].context;
    if d.check_context(context).is_err() {
        // A broken context still gives its memory back.
        d.free_now(address);
        return d.check_context(context);
    }
    d.submit(stream, Work::Free(address), &[Access::write(address, bytes)])?;
    Ok(())
}}

entry! { fn cuMemGetInfo_v2(d, free: Out<usize>, total: Out<usize>) {
    d.current()?;
    let (f, t) = d.device.memory().info();
    free.set_if(f as usize)?;
    Ok(total.set_if(t as usize)?)
}}

entry! { fn cuMemGetAddressRange_v2(d, base: Out<u64>, bytes: Out<usize>, address: u64) {
    d.current()?;
    let (start, len) = d.device.memory().range_of(address).ok_or(Status::INVALID_VALUE)?;
    base.set_if(start)?;
    Ok(bytes.set_if(len as usize)?)
}}

/// What `cuPointerGetAttribute` knows.
enum Attribute {
    Handle(Handle),
    Word(c_uint),
    Address(u64),
    Flag(bool),
}

/// One attribute of a pointer (`CUpointer_attribute`); `None` when the pointer is not known.
fn pointer_attribute(d: &mut Held, attribute: c_uint, pointer: u64) -> Outcome<Option<Attribute>> {
    use Attribute::{Address, Flag, Word};
    let device = d.device.memory().range_of(pointer);
    let pinned =
        d.pinned_at(HostRange { address: pointer as usize, len: 1 }).map(|(start, p)| (start as u64, p.len));
    let owner = device.and_then(|(base, _)| d.owners.get(&base)).map(|o| (o.context, o.pool));
    let context = owner.map(|o| o.0).or_else(|| d.current_any().ok()).unwrap_or(0);
    let Some((base, len)) = device.or(pinned.map(|(start, len)| (start, len as u64))) else {
        return Ok(None);
    };
    Ok(Some(match attribute {
        1 => Attribute::Handle(context),
        2 => Word(if device.is_some() { 2 } else { 1 }),
        3 if device.is_some() => Address(pointer),
        4 if device.is_none() => Address(pointer),
        6 | 10 | 16 => Word(0),
        7 | 20 => Address(base),
        8 => Flag(false),
        9 => Word(d.contexts.get(&context).map_or(0, |c| c.device as c_uint)),
        11 | 19 => Address(base),
        12 | 18 => Address(len),
        13 => Flag(true),
        14 => Address(0),
        15 => Flag(false),
        17 => Attribute::Handle(owner.and_then(|o| o.1).unwrap_or(0)),
        3..=5 => return Ok(None),
        _ => return Err(Status::INVALID_VALUE.because(format!("{attribute} is no pointer attribute"))),
    }))
}

fn set_attribute(out: Out<c_void>, value: Attribute) -> Result<(), Status> {
    match value {
        Attribute::Handle(handle) => out.cast::<Handle>().set(handle),
        Attribute::Word(word) => out.cast::<c_uint>().set(word),
        Attribute::Address(address) => out.cast::<u64>().set(address),
        Attribute::Flag(flag) => out.cast::<bool>().set(flag),
    }
}

entry! { fn cuPointerGetAttribute(d, out: Out<c_void>, attribute: c_uint, pointer: u64) {
    match pointer_attribute(d, attribute, pointer)? {
        Some(value) => Ok(set_attribute(out, value)?),
        None => Err(Status::INVALID_VALUE.because(format!("{pointer:#x} is no pointer of this driver"))),
    }
}}

entry! { fn cuPointerGetAttributes(d, n: c_uint, attributes: In<c_uint>, out: In<Out<c_void>>, pointer: u64) {
    for k in 0..n as usize {
        let (attribute, place) = (attributes.at(k)?, out.at(k)?);
        // Unknown pointers give zeros and success.
        let value = pointer_attribute(d, attribute, pointer)?.unwrap_or(match attribute {
            1 | 17 => Attribute::Handle(0),
            2 | 6 | 9 | 10 | 16 => Attribute::Word(0),
            8 | 13 | 15 => Attribute::Flag(false),
            _ => Attribute::Address(0),
        });
        set_attribute(place, value)?;
    }
    Ok(())
}}

/// Submits a fill; the synchronous forms are asynchronous to the host on device memory, as the driver's are.
fn fill(d: &mut Held, stream: Handle, fill: Fill) -> Outcome {
    d.current()?;
    let stream = d.resolve_stream(stream)?;
    if d.leaves_out("copy") {
        return Ok(());
    }
    let stream = d.swapped(stream);
    let width = d.halved("copy", fill.width);
    let fill = Fill { width, ..fill };
    if !fill.address.is_multiple_of(fill.size as u64)
        || fill.rows > 1 && !fill.pitch.is_multiple_of(fill.size)
    {
        return Err(Status::INVALID_VALUE
            .because(format!("{:#x} is not aligned to {} bytes", fill.address, fill.size)));
    }
    let row = fill.width.checked_mul(fill.size).ok_or(Status::INVALID_VALUE)?;
    fill.rows.checked_mul(fill.pitch).and_then(|n| n.checked_add(row)).ok_or(Status::INVALID_VALUE)?;
    let access = fill.access();
    d.check_range(access.start, access.len)?;
    d.submit(stream, Work::Fill(fill), &[access])?;
    Ok(())
}

fn row(address: u64, value: c_uint, size: usize, width: usize) -> Fill {
    Fill { address, pitch: width * size, value, size, width, rows: 1 }
}

entry! { fn cuMemsetD8_v2 | cuMemsetD8_v2_ptds(d, to: u64, value: u8, n: usize) {
    d.refuse_unsafe_call(thread_number())?;
    fill(d, 0, row(to, c_uint::from(value), 1, n))
}}
entry! { fn cuMemsetD16_v2 | cuMemsetD16_v2_ptds(d, to: u64, value: u16, n: usize) {
    d.refuse_unsafe_call(thread_number())?;
    fill(d, 0, row(to, c_uint::from(value), 2, n))
}}
entry! { fn cuMemsetD32_v2 | cuMemsetD32_v2_ptds(d, to: u64, value: c_uint, n: usize) {
    d.refuse_unsafe_call(thread_number())?;
    fill(d, 0, row(to, value, 4, n))
}}
entry! { fn cuMemsetD8Async | cuMemsetD8Async_ptsz(d, to: u64, value: u8, n: usize, stream: Handle) {
    fill(d, stream, row(to, c_uint::from(value), 1, n))
}}
entry! { fn cuMemsetD16Async | cuMemsetD16Async_ptsz(d, to: u64, value: u16, n: usize, stream: Handle) {
    fill(d, stream, row(to, c_uint::from(value), 2, n))
}}
entry! { fn cuMemsetD32Async | cuMemsetD32Async_ptsz(d, to: u64, value: c_uint, n: usize, stream: Handle) {
    fill(d, stream, row(to, value, 4, n))
}}
entry! { fn cuMemsetD2D8_v2 | cuMemsetD2D8_v2_ptds(d, to: u64, pitch: usize, value: u8, width: usize, rows: usize) {
    fill(d, 0, Fill { address: to, pitch, value: c_uint::from(value), size: 1, width, rows })
}}
entry! { fn cuMemsetD2D16_v2 | cuMemsetD2D16_v2_ptds(d, to: u64, pitch: usize, value: u16, width: usize, rows: usize) {
    fill(d, 0, Fill { address: to, pitch, value: c_uint::from(value), size: 2, width, rows })
}}
entry! { fn cuMemsetD2D32_v2 | cuMemsetD2D32_v2_ptds(d, to: u64, pitch: usize, value: c_uint, width: usize, rows: usize) {
    fill(d, 0, Fill { address: to, pitch, value, size: 4, width, rows })
}}
entry! { fn cuMemsetD2D8Async | cuMemsetD2D8Async_ptsz(
    d, to: u64, pitch: usize, value: u8, width: usize, rows: usize, stream: Handle
) { fill(d, stream, Fill { address: to, pitch, value: c_uint::from(value), size: 1, width, rows }) } }
entry! { fn cuMemsetD2D16Async | cuMemsetD2D16Async_ptsz(
    d, to: u64, pitch: usize, value: u16, width: usize, rows: usize, stream: Handle
) { fill(d, stream, Fill { address: to, pitch, value: c_uint::from(value), size: 2, width, rows }) } }
entry! { fn cuMemsetD2D32Async | cuMemsetD2D32Async_ptsz(
    d, to: u64, pitch: usize, value: c_uint, width: usize, rows: usize, stream: Handle
) { fill(d, stream, Fill { address: to, pitch, value, size: 4, width, rows }) } }

entry! { fn cuMemAllocManaged(_d, _out: Out<u64>, _bytes: usize, _flags: c_uint) {
    Err(Status::NOT_SUPPORTED.because("there is no managed memory (CU_DEVICE_ATTRIBUTE_MANAGED_MEMORY is 0)"))
}}

entry! { fn cuMemAdvise(_d, _at: u64, _len: usize, _advice: c_uint, _device: c_int) {
    Err(Status::NOT_SUPPORTED.because("there is no managed memory"))
}}
