//! The state of the driver, one for the process behind one lock, and the gate through which every entry point passes:
//! it takes the lock, refuses what cannot be, notes what was refused and lets no panic reach the host.

use crate::abi::{Handle, HostRange};
use crate::capture::Capture;
use crate::graph::{Exec, Graph};
use crate::history::{Clock, History};
use crate::mutation::Mutation;
use crate::report::ProcessReport;
use crate::settings::Settings;
use crate::status::Status;
use crate::stream::{Event, Stream, StreamKind};
use ptx_emulator::{Device, LoadedModule};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

/// A refused call: its result, and a sentence for the report.
#[derive(Debug)]
pub struct Refusal {
    /// What the host gets.
    pub status: Status,
    /// What was wrong and what would be right; empty when the code says it all.
    pub message: String,
}

/// What entry points return.
pub type Outcome<T = ()> = Result<T, Refusal>;

impl From<Status> for Refusal {
    fn from(status: Status) -> Refusal {
        Refusal { status, message: String::new() }
    }
}

impl Status {
    /// The refusal with its reason.
    pub fn because(self, message: impl Into<String>) -> Refusal {
        Refusal { status: self, message: message.into() }
    }
}

/// A context.
pub struct Context {
    /// Ordinal of its device.
    pub device: i32,
    /// Whether it is a device's primary one.
    pub primary: bool,
    /// Flags of its creation.
    pub flags: u32,
    /// The error that a kernel left: every later call gets it.
    pub error: Option<Status>,
    /// The stream that 0 stands for.
    pub legacy: Handle,
    /// Limits that were set, by `CUlimit`.
    pub limits: BTreeMap<u32, usize>,
    /// `CUfunc_cache`.
    pub cache: u32,
    /// Contexts whose memory may be reached.
    pub peers: Vec<Handle>,
}

/// A device's primary context.
#[derive(Clone, Copy, Default)]
pub struct Primary {
    /// The context, while it lives.
    pub context: Option<Handle>,
    /// How often it was retained.
    pub retained: u32,
    /// Flags for its creation.
    pub flags: u32,
}

/// A loaded module.
pub struct LoadedEntry {
    /// The context it belongs to.
    pub context: Handle,
    /// The module in the emulator.
    pub loaded: Arc<LoadedModule>,
    /// Functions that were asked for, by name.
    pub functions: BTreeMap<String, Handle>,
}

/// A kernel of a module.
pub struct Function {
    /// Its module.
    pub module: Handle,
    /// Its name.
    pub name: Arc<str>,
    /// The same for C, which is handed out.
    pub c_name: std::ffi::CString,
    /// Dynamic shared memory that a launch may ask for.
    pub max_dynamic_shared: u32,
    /// Attributes that are stored only.
    pub attributes: BTreeMap<u32, i32>,
}

/// Who owns a device allocation.
pub struct Owner {
    /// The context.
    pub context: Handle,
    /// The pool, for stream-ordered memory.
    pub pool: Option<Handle>,
    /// Bytes.
    pub bytes: u64,
    /// `cuMemFreeAsync` was called; the free is queued.
    pub freeing: bool,
}

/// A memory pool.
#[derive(Default)]
pub struct Pool {
    /// Ordinal of its device.
    pub device: i32,
    /// Attributes that were set.
    pub attributes: BTreeMap<u32, u64>,
    /// Most bytes that were in use.
    pub high: u64,
}

/// A page of host memory.
#[derive(Clone)]
#[repr(C, align(4096))]
pub struct Page(pub [u8; 4096]);

/// Page-locked host memory.
pub struct Pinned {
    /// Bytes.
    pub len: usize,
    /// Flags.
    pub flags: u32,
    /// The memory, when the driver allocated it; otherwise the host registered its own.
    pub memory: Option<Vec<Page>>,
}

/// The driver of the process.
pub struct Driver {
    /// What the environment asked for.
    pub settings: Settings,
    /// The emulated GPU. Several devices share its memory, so that addresses are unique, as unified addressing has it.
    pub device: Arc<Device>,
    /// What was found.
    pub report: ProcessReport,
    /// Contexts.
    pub contexts: BTreeMap<Handle, Context>,
    /// Primary contexts, by device.
    pub primaries: Vec<Primary>,
    /// Streams.
    pub streams: BTreeMap<Handle, Stream>,
    /// Streams that 2 stands for, by context and thread.
    pub per_thread: BTreeMap<(Handle, u64), Handle>,
    /// Events.
    pub events: BTreeMap<Handle, Event>,
    /// Modules.
    pub modules: BTreeMap<Handle, LoadedEntry>,
    /// Functions.
    pub functions: BTreeMap<Handle, Function>,
    /// Graphs.
    pub graphs: BTreeMap<Handle, Graph>,
    /// Executable graphs.
    pub execs: BTreeMap<Handle, Exec>,
    /// Captures under way.
    pub captures: BTreeMap<Handle, Capture>,
    /// Pools; the first ones are the devices' defaults.
    pub pools: BTreeMap<Handle, Pool>,
    /// The default and the current pool of each device.
    pub device_pools: Vec<(Handle, Handle)>,
    /// Device allocations by address.
    pub owners: BTreeMap<u64, Owner>,
    /// Page-locked host memory by address.
    pub pinned: BTreeMap<usize, Pinned>,
    /// What streams did to memory.
    pub history: History,
    /// What the host knows to be done.
    pub host_clock: Clock,
    /// The mistake made on purpose.
    pub mutation: Mutation,
    /// Chooses among streams.
    pub random: Random,
    next: Handle,
}

/// SplitMix64: small, seeded, good enough to choose among streams.
pub struct Random(u64);

impl Random {
    /// A number below `n` (0 when `n` is 0).
    pub fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ z >> 31) % n.max(1) as u64) as usize
    }
}

static DRIVER: Mutex<Option<Driver>> = Mutex::new(None);
/// Rung when a piece of work that ran without the lock is done.
static BELL: Condvar = Condvar::new();

thread_local! {
    static CONTEXTS: RefCell<Vec<Handle>> = const { RefCell::new(Vec::new()) };
    static PER_THREAD: Cell<bool> = const { Cell::new(false) };
    static IN_HOST_FUNCTION: Cell<bool> = const { Cell::new(false) };
    static THREAD: Cell<u64> = const { Cell::new(0) };
}

/// The contexts of this thread, current one last.
pub fn with_stack<R>(f: impl FnOnce(&mut Vec<Handle>) -> R) -> R {
    CONTEXTS.with(|stack| f(&mut stack.borrow_mut()))
}

/// A number for this thread.
pub fn thread_number() -> u64 {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
    THREAD.with(|cell| {
        if cell.get() == 0 {
            cell.set(NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        }
        cell.get()
    })
}

/// Runs an entry point whose stream 0 means the thread's own stream (`_ptsz` and `_ptds` symbols).
pub fn per_thread_default<R>(f: impl FnOnce() -> R) -> R {
    let before = PER_THREAD.replace(true);
    let result = f();
    PER_THREAD.set(before);
    result
}

/// The driver with its lock held.
pub struct Held {
    guard: Option<MutexGuard<'static, Option<Driver>>>,
    /// The entry point.
    pub entry: &'static str,
}

fn lock() -> MutexGuard<'static, Option<Driver>> {
    DRIVER.lock().unwrap_or_else(|e| e.into_inner())
}

impl Held {
    /// Takes the lock; `None` before `cuInit`.
    pub fn take(entry: &'static str) -> Option<Held> {
        let guard = lock();
        guard.is_some().then_some(Held { guard: Some(guard), entry })
    }

    /// Does something without the lock: running a kernel, calling the host.
    pub fn unlocked<R>(&mut self, f: impl FnOnce() -> R) -> R {
        self.guard = None;
        let result = f();
        self.guard = Some(lock());
        BELL.notify_all();
        result
    }

    /// Calls a function of the host that a stream holds. It may not call the driver.
    pub fn host_function(&mut self, f: impl FnOnce()) {
        self.unlocked(|| {
            IN_HOST_FUNCTION.set(true);
            f();
            IN_HOST_FUNCTION.set(false);
        });
    }

    /// Waits until another thread's unlocked work is done.
    pub fn wait_for_others(&mut self) {
        if let Some(guard) = self.guard.take() {
            let timeout = std::time::Duration::from_millis(50);
            let (guard, _) = BELL.wait_timeout(guard, timeout).unwrap_or_else(|e| e.into_inner());
            self.guard = Some(guard);
        }
    }
}

impl Deref for Held {
    type Target = Driver;

    fn deref(&self) -> &Driver {
        self.guard.as_ref().and_then(|g| g.as_ref()).expect("the lock is held and the driver initialised")
    }
}

impl DerefMut for Held {
    fn deref_mut(&mut self) -> &mut Driver {
        self.guard.as_mut().and_then(|g| g.as_mut()).expect("the lock is held and the driver initialised")
    }
}

/// The gate of every entry point.
pub fn call(entry: &'static str, body: impl FnOnce(&mut Held) -> Outcome) -> u32 {
    let guarded = AssertUnwindSafe(|| {
        let Some(mut held) = Held::take(entry) else { return Status::NOT_INITIALIZED.0 };
        if IN_HOST_FUNCTION.get() {
            let why = "a function that a stream calls must not call the driver";
            held.report.note(entry, Some(Status::NOT_PERMITTED), why);
            return Status::NOT_PERMITTED.0;
        }
        match body(&mut held) {
            Ok(()) => 0,
            Err(refusal) => {
                if refusal.status != Status::NOT_READY {
                    held.report.note(entry, Some(refusal.status), refusal.message);
                }
                refusal.status.0
            }
        }
    });
    // A panic is a fault of this library; the host gets a code, and stderr the panic's message.
    catch_unwind(guarded).unwrap_or(Status::UNKNOWN.0)
}

/// The gate of entry points that need no driver.
pub fn call_free(body: impl FnOnce() -> Result<(), Status>) -> u32 {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => 0,
        Ok(Err(status)) => status.0,
        Err(_) => Status::UNKNOWN.0,
    }
}

/// `cuInit`: reads the environment and sets up the devices. True the first time.
pub fn initialise() -> bool {
    let mut guard = lock();
    if guard.is_some() {
        return false;
    }
    let settings = Settings::read(|name| std::env::var(name).ok());
    let device = Arc::new(Device::new(settings.gpu.clone(), settings.options.clone()));
    let mut driver = Driver {
        report: ProcessReport {
            device: format!("Emulated NVIDIA {}", settings.gpu.name),
            checks: settings.options.checks.clone(),
            ..Default::default()
        },
        device,
        contexts: BTreeMap::new(),
        primaries: vec![Primary::default(); settings.devices],
        streams: BTreeMap::new(),
        per_thread: BTreeMap::new(),
        events: BTreeMap::new(),
        modules: BTreeMap::new(),
        functions: BTreeMap::new(),
        graphs: BTreeMap::new(),
        execs: BTreeMap::new(),
        captures: BTreeMap::new(),
        pools: BTreeMap::new(),
        device_pools: Vec::new(),
        owners: BTreeMap::new(),
        pinned: BTreeMap::new(),
        history: History::default(),
        host_clock: Clock::new(),
        mutation: Mutation::new(settings.mutate.clone()),
        random: Random(settings.seed),
        next: 0x5E1F_0000,
        settings,
    };
    for complaint in std::mem::take(&mut driver.settings.complaints) {
        eprintln!("ptx-emulator: {complaint}");
        driver.report.note("environment", None, complaint);
    }
    for device in 0..driver.settings.devices {
        let pool = driver.handle();
        driver.pools.insert(pool, Pool { device: device as i32, ..Pool::default() });
        driver.device_pools.push((pool, pool));
    }
    *guard = Some(driver);
    true
}

impl Driver {
    /// A handle that was never given before.
    pub fn handle(&mut self) -> Handle {
        self.next += 0x40;
        self.next
    }

    /// Refuses ordinals that are not there.
    pub fn check_device(&self, device: i32) -> Outcome<usize> {
        if (0..self.settings.devices as i32).contains(&device) {
            Ok(device as usize)
        } else {
            Err(Status::INVALID_DEVICE.because(format!("device {device} of {}", self.settings.devices)))
        }
    }

    /// A new context with its default stream.
    pub fn create_context(&mut self, device: i32, primary: bool, flags: u32) -> Handle {
        let (context, legacy) = (self.handle(), self.handle());
        self.streams.insert(legacy, Stream::new(context, StreamKind::Legacy, 0, 0));
        self.contexts.insert(
            context,
            Context {
                device,
                primary,
                flags,
                error: None,
                legacy,
                limits: BTreeMap::new(),
                cache: 0,
                peers: Vec::new(),
            },
        );
        context
    }

    /// The current context of this thread, whatever its state.
    pub fn current_any(&self) -> Outcome<Handle> {
        let current = with_stack(|stack| stack.last().copied()).unwrap_or(0);
        if current == 0 {
            return Err(Status::INVALID_CONTEXT.because("no context is current on this thread"));
        }
        if !self.contexts.contains_key(&current) {
            return Err(Status::INVALID_CONTEXT.because("the current context was destroyed"));
        }
        Ok(current)
    }

    /// The current context; refuses with the error that a kernel left in it.
    pub fn current(&self) -> Outcome<Handle> {
        let current = self.current_any()?;
        self.check_context(current)?;
        Ok(current)
    }

    /// Refuses unknown contexts, and those with an error.
    pub fn check_context(&self, context: Handle) -> Outcome {
        match self.contexts.get(&context) {
            None => Err(Status::INVALID_CONTEXT.into()),
            Some(Context { error: Some(status), .. }) => {
                Err(status.because("an earlier kernel or copy left this error in the context"))
            }
            Some(_) => Ok(()),
        }
    }

    /// The stream that a handle stands for in the current context, 0, 1 and 2 included.
    pub fn resolve_stream(&mut self, handle: Handle) -> Outcome<Handle> {
        match handle {
            0 if PER_THREAD.get() => self.thread_stream(),
            0 | 1 => {
                let context = self.current_any()?;
                Ok(self.contexts[&context].legacy)
            }
            2 => self.thread_stream(),
            _ => {
                match self.streams.get(&handle) {
                    Some(stream) if !stream.destroyed && stream.kind == StreamKind::Created => Ok(handle),
                    _ => Err(Status::INVALID_HANDLE
                        .because(format!("{handle:#x} is no stream, or a destroyed one"))),
                }
            }
        }
    }

    fn thread_stream(&mut self) -> Outcome<Handle> {
        let context = self.current_any()?;
        let key = (context, thread_number());
        if let Some(&stream) = self.per_thread.get(&key) {
            return Ok(stream);
        }
        let stream = self.handle();
        self.streams.insert(stream, Stream::new(context, StreamKind::PerThread, 0, 0));
        self.per_thread.insert(key, stream);
        Ok(stream)
    }

    /// The page-locked memory that holds the whole range.
    pub fn pinned_at(&self, range: HostRange) -> Option<(usize, &Pinned)> {
        let (&start, pinned) = self.pinned.range(..=range.address).next_back()?;
        (range.address + range.len <= start + pinned.len).then_some((start, pinned))
    }

    /// Writes the report to its file, if one is asked for.
    pub fn write_report(&self) {
        if let Some(path) = &self.settings.report
            && let Err(e) = std::fs::write(path, self.report.to_json())
        {
            eprintln!("ptx-emulator: cannot write the report to {}: {e}", path.display());
        }
    }
}
