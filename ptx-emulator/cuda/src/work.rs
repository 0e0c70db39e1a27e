//! What streams do: launches that can be run a little at a time, copies, fills, event records, calls of the host.

use crate::abi::{Handle, HostFn, HostRange, StreamCallback};
use crate::driver::{Held, Outcome};
use crate::graph::GraphRun;
use crate::history::{Access, Footprint, Place};
use crate::status::Status;
use ptx_emulator::{FindingKind, Launch, LaunchConfig, LoadedModule, MemoryError, Progress};
use std::ffi::c_void;
use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;
use std::time::Instant;

/// A piece of work.
pub enum Work {
    /// Waits for its dependencies and does nothing.
    Nothing,
    /// Makes memory there for what comes after it (its address was given at once).
    Alloc,
    /// A kernel; the launch is there once it has started.
    Kernel(KernelCall, Option<Box<Launch>>),
    /// A copy.
    Copy(Copy),
    /// A fill.
    Fill(Fill),
    /// Marks an event, unless it was recorded again since.
    Record(Handle),
    /// Calls the host: function and data.
    Host(HostFn, usize),
    /// Calls the host with the stream and its status.
    Callback(StreamCallback, usize),
    /// Frees memory in the order of the stream.
    Free(u64),
    /// Runs a graph.
    Graph(Box<GraphRun>),
}

/// A kernel with all that its launch needs.
#[derive(Clone)]
pub struct KernelCall {
    /// The function's handle.
    pub function: Handle,
    /// Name.
    pub name: Arc<str>,
    /// Module.
    pub loaded: Arc<LoadedModule>,
    /// Shape.
    pub config: LaunchConfig,
    /// Argument bytes.
    pub args: Vec<u8>,
}

/// Where a copy reads.
#[derive(Clone, Debug)]
pub enum Source {
    /// Device memory.
    Device(u64),
    /// Host memory, read when the copy runs; with the digest of the bytes at the time of the call, if they may not
    /// change until then.
    Host(HostRange, Option<u64>),
    /// Bytes taken when the copy was called, laid out like the host memory they come from.
    Staged(Arc<Vec<u8>>),
}

/// Where a copy writes.
#[derive(Clone, Debug)]
pub enum Target {
    /// Device memory.
    Device(u64),
    /// Host memory.
    Host(HostRange),
}

/// A copy of `slices` times `rows` rows of `width` bytes.
#[derive(Clone, Debug)]
pub struct Copy {
    /// From.
    pub source: Source,
    /// To.
    pub target: Target,
    /// Bytes of a row.
    pub width: usize,
    /// Rows of a slice.
    pub rows: usize,
    /// Slices.
    pub slices: usize,
    /// Bytes from row to row and from slice to slice, in the source.
    pub source_pitch: [usize; 2],
    /// The same in the target.
    pub target_pitch: [usize; 2],
}

impl Copy {
    /// A copy of one row.
    pub fn plain(source: Source, target: Target, len: usize) -> Copy {
        Copy {
            source,
            target,
            width: len,
            rows: 1,
            slices: 1,
            source_pitch: [len; 2],
            target_pitch: [len; 2],
        }
    }

    /// Bytes from the first to one past the last one touched, with a pitch.
    pub fn extent(&self, pitch: [usize; 2]) -> usize {
        if self.width == 0 || self.rows == 0 || self.slices == 0 {
            return 0;
        }
        (self.slices - 1) * pitch[1] + (self.rows - 1) * pitch[0] + self.width
    }

    /// The device memory it touches.
    pub fn accesses(&self) -> Vec<Access> {
        let mut accesses = Vec::new();
        if let Source::Device(at) = self.source {
            accesses.push(Access::read(at, self.extent(self.source_pitch) as u64));
        }
        if let Target::Device(at) = self.target {
            accesses.push(Access::write(at, self.extent(self.target_pitch) as u64));
        }
        accesses
    }

    /// Whether it will read host memory when it runs.
    pub fn reads_host(&self) -> bool {
        matches!(self.source, Source::Host(..))
    }

    fn kind(&self) -> &'static str {
        match (&self.source, &self.target) {
            (Source::Device(_), Target::Device(_)) => "a device-to-device copy",
            (Source::Device(_), Target::Host(_)) => "a device-to-host copy",
            (_, Target::Device(_)) => "a host-to-device copy",
            (_, Target::Host(_)) => "a host-to-host copy",
        }
    }
}

/// A fill of rows with a value of 1, 2 or 4 bytes.
#[derive(Clone, Debug)]
pub struct Fill {
    /// First address.
    pub address: u64,
    /// Bytes from row to row.
    pub pitch: usize,
    /// The value.
    pub value: u32,
    /// Bytes of the value.
    pub size: usize,
    /// Values in a row.
    pub width: usize,
    /// Rows.
    pub rows: usize,
}

impl Fill {
    /// The device memory it touches.
    pub fn access(&self) -> Access {
        let len = if self.rows == 0 { 0 } else { (self.rows - 1) * self.pitch + self.width * self.size };
        Access::write(self.address, len as u64)
    }
}

/// A digest of host bytes, to tell whether they changed.
pub fn digest(range: HostRange) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(&range.read());
    hasher.finish()
}

impl Work {
    /// What it is, for findings.
    pub fn describe(&self) -> String {
        match self {
            Work::Nothing => "a wait".into(),
            Work::Alloc => "cuMemAllocAsync".into(),
            Work::Kernel(call, _) => format!("kernel {}", call.name),
            Work::Copy(copy) => copy.kind().into(),
            Work::Fill(_) => "a memset".into(),
            Work::Record(_) => "an event record".into(),
            Work::Host(..) | Work::Callback(..) => "a host function".into(),
            Work::Free(_) => "cuMemFreeAsync".into(),
            Work::Graph(_) => "a graph".into(),
        }
    }
}

impl Held {
    /// Runs a piece of work, or a part of it. True when it is done.
    pub fn run_work(&mut self, work: &mut Work, place: &Place, budget: u64) -> bool {
        let &Place { stream, seq, context, .. } = place;
        let failed = self.contexts.get(&context).is_none_or(|c| c.error.is_some());
        match work {
            Work::Record(event) => {
                if let Some(e) = self.events.get_mut(event)
                    && e.record.as_ref().is_some_and(|(s, q, _)| *s == stream && *q == seq)
                {
                    e.completed = Some(Instant::now());
                }
            }
            Work::Free(address) => self.free_now(*address),
            // After an error, a context does nothing more.
            _ if failed => {}
            Work::Nothing | Work::Alloc => {}
            Work::Kernel(call, launch) => {
                return self.run_kernel(call, launch, place, budget);
            }
            Work::Copy(copy) => {
                let result = self.run_copy(copy);
                self.settle(result, copy.kind(), context);
            }
            Work::Fill(fill) => {
                let result = self.run_fill(fill);
                self.settle(result, "a memset", context);
            }
            Work::Host(function, data) => {
                let (function, data) = (*function, *data);
                // SAFETY: the host gave the function and its argument to be called once, from any thread.
                self.host_function(|| unsafe { function(data as *mut c_void) });
            }
            Work::Callback(function, data) => {
                let (function, data) = (*function, *data);
                // SAFETY: as above; the status is success, since a failed context calls nothing.
                self.host_function(|| unsafe { function(stream, 0, data as *mut c_void) });
            }
            Work::Graph(run) => return self.run_graph(run, place, budget),
        }
        true
    }

    fn run_kernel(
        &mut self,
        call: &KernelCall,
        launch: &mut Option<Box<Launch>>,
        place: &Place,
        budget: u64,
    ) -> bool {
        let context = place.context;
        let mut running = match launch.take() {
            Some(running) => running,
            None => match self.device.prepare(&call.loaded, &call.name, &call.config, &call.args) {
                Ok(launch) => Box::new(launch),
                Err(e) => {
                    // It was accepted when it was submitted, so its module went since.
                    self.report.note(&call.name, Some(e.code.into()), e.message);
                    self.fail(context, Status::LAUNCH_FAILED);
                    return true;
                }
            },
        };
        let threads = self.settings.options.threads;
        let progress = self.unlocked(|| {
            if budget == u64::MAX {
                running.run(threads);
                Progress::Done
            } else {
                running.step(budget)
            }
        });
        if progress == Progress::Running {
            *launch = Some(running);
            return false;
        }
        let touched = running.touched().into_iter();
        let footprint = touched.map(|t| Access { start: t.start, len: t.len, write: t.write }).collect();
        let of = if place.node.is_some() { " of a graph" } else { "" };
        let what = format!("kernel {}{of} in stream {:#x}", call.name, place.stream);
        self.judge(Footprint::new(footprint), place, &what);
        let report = running.finish();
        let error = report.error();
        self.report.add_launch(&call.name, report);
        if let Some(error) = error {
            self.fail(context, error.into());
        }
        true
    }

    /// The context has had an error that only its end can clear.
    pub fn fail(&mut self, context: Handle, status: Status) {
        if let Some(c) = self.contexts.get_mut(&context) {
            c.error.get_or_insert(status);
        }
    }

    fn settle(&mut self, result: Result<(), MemoryError>, about: &str, context: Handle) {
        if let Err(e) = result {
            self.memory_finding(about, &e);
            self.fail(context, Status::ILLEGAL_ADDRESS);
        }
    }

    /// A copy or fill of memory that is not there is a finding: use after free, or out of bounds.
    pub fn memory_finding(&mut self, about: &str, error: &MemoryError) {
        let address = match error {
            MemoryError::OutOfMemory { .. } => return,
            MemoryError::NotAllocated { address, .. } | MemoryError::OutOfBounds { address, .. } => *address,
        };
        let freed = self.device.memory().was_freed(address);
        let kind = if freed { FindingKind::Freed } else { FindingKind::Bounds };
        self.report.host_finding(kind, about, Some(address), error.to_string());
    }

    fn run_copy(&mut self, copy: &Copy) -> Result<(), MemoryError> {
        let device = self.device.clone();
        let memory = device.memory();
        if let Source::Host(range, Some(before)) = copy.source
            && digest(range) != before
        {
            let message = format!(
                "the page-locked host buffer at {:#x} was changed after an asynchronous copy from it was called and \
                 before it ran: wait for the copy (stream or event) before the buffer is used again",
                range.address
            );
            self.report.host_finding(
                FindingKind::Race,
                "host-to-device copy",
                Some(range.address as u64),
                message,
            );
        }
        for slice in 0..copy.slices {
            for row in 0..copy.rows {
                let from = slice * copy.source_pitch[1] + row * copy.source_pitch[0];
                let to = slice * copy.target_pitch[1] + row * copy.target_pitch[0];
                if let (Source::Device(source), Target::Device(target)) = (&copy.source, &copy.target) {
                    memory.copy(target + to as u64, source + from as u64, copy.width as u64)?;
                    continue;
                }
                let bytes = match &copy.source {
                    Source::Device(source) => {
                        let mut bytes = vec![0; copy.width];
                        memory.read(source + from as u64, &mut bytes)?;
                        self.spoil_unwritten(source + from as u64, &mut bytes);
                        bytes
                    }
                    Source::Host(range, _) => {
                        HostRange { address: range.address + from, len: copy.width }.read()
                    }
                    Source::Staged(bytes) => bytes[from..from + copy.width].to_vec(),
                };
                match &copy.target {
                    Target::Device(target) => memory.write(target + to as u64, &bytes)?,
                    Target::Host(range) => {
                        HostRange { address: range.address + to, len: copy.width }.write(&bytes);
                    }
                }
            }
        }
        Ok(())
    }

    /// What a copy brings of device memory that nobody wrote: not the zeros that happen to be there, but bytes that make
    /// NaNs, so that a program that uses them shows it. Copying them is no mistake in itself (rows may have gaps), hence a note.
    fn spoil_unwritten(&mut self, address: u64, bytes: &mut [u8]) {
        let device = self.device.clone();
        let Ok(Some(first)) = device.memory().first_unwritten(address, bytes.len() as u64) else { return };
        let live = device.memory().snapshot();
        let Some(allocation) = ptx_emulator::memory::global::find(&live, address) else { return };
        let start = (address - allocation.base) as usize;
        for (k, byte) in bytes.iter_mut().enumerate().skip((first - address) as usize) {
            if !allocation.is_written(start + k, 1) {
                *byte = 0xFF;
            }
        }
        let message = "a copy to the host brought bytes of device memory that nobody wrote";
        self.report.note("device-to-host copy", None, message);
    }

    fn run_fill(&mut self, fill: &Fill) -> Result<(), MemoryError> {
        let device = self.device.clone();
        let value = fill.value.to_le_bytes();
        for row in 0..fill.rows {
            let at = fill.address + (row * fill.pitch) as u64;
            let uniform = value[..fill.size].iter().all(|b| *b == value[0]);
            if uniform {
                device.memory().fill(at, (fill.width * fill.size) as u64, value[0])?;
            } else {
                device.memory().write(at, &value[..fill.size].repeat(fill.width))?;
            }
        }
        Ok(())
    }

    /// Frees device memory now.
    pub fn free_now(&mut self, address: u64) {
        self.owners.remove(&address);
        let device = self.device.clone();
        if let Err(e) = device.memory().free(address) {
            self.memory_finding("free", &e);
        }
    }

    /// Refuses a range that is not inside one live allocation, as the driver does when a copy is called.
    pub fn check_range(&mut self, address: u64, len: u64) -> Outcome {
        if len == 0 {
            return Ok(());
        }
        match self.device.memory().range_of(address) {
            Some((base, bytes)) if address - base + len <= bytes => Ok(()),
            _ => {
                let what = self.device.memory().describe(address);
                let error = MemoryError::OutOfBounds { address, len, what };
                let entry = self.entry;
                self.memory_finding(entry, &error);
                Err(Status::INVALID_VALUE.because(error.to_string()))
            }
        }
    }
}
