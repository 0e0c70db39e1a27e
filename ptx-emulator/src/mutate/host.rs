//! Host code under mutation: what a test allocates, launches and reads back, with one thing of it broken.
//!
//! A test does its work through a [`Rig`]. On the first run, with nothing broken, the rig writes down every buffer and
//! launch; from that list come the mutants, and a later run breaks the one it was given.

use super::{Caught, Kind};
use crate::counters::Report;
use crate::decode::Module;
use crate::device::{Device, Options};
use crate::gpu::Gpu;
use crate::launch::{LaunchConfig, Progress};
use serde::Serialize;
use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Something broken in host code. Buffers and launches are counted from 0 within one test.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// The buffer has half its bytes; what does not fit is not copied to it.
    HalveBuffer(usize),
    /// The buffer is freed just before the launch.
    FreeEarly {
        /// Buffer.
        buffer: usize,
        /// Launch.
        launch: usize,
    },
    /// The argument's value is moved by this much.
    Argument {
        /// Launch.
        launch: usize,
        /// Parameter.
        parameter: usize,
        /// Added to an integer or an address; to a float its bits.
        by: i64,
    },
    /// The launch has half of its dynamic shared memory.
    HalveShared(usize),
    /// The launch lacks its last blocks along the first dimension that has more than one.
    ShortGrid(usize),
    /// The launch is left out.
    NoLaunch(usize),
}

/// One mutant of host code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HostMutant {
    /// `test:kind:number`.
    pub id: String,
    /// What is broken.
    pub kind: Kind,
    /// How.
    pub change: Change,
    /// In words.
    pub message: String,
}

#[derive(Clone, Debug)]
struct LoggedLaunch {
    kernel: String,
    grid: [u32; 3],
    shared: u32,
    /// Name, size and value of each parameter, and whether it is one of the buffers.
    arguments: Vec<(String, u32, u64, Option<usize>)>,
}

#[derive(Debug, Default)]
struct Log {
    /// Address and size.
    buffers: Vec<(u64, u64)>,
    launches: Vec<LoggedLaunch>,
    most_issues: u64,
    /// Kernel and line of each instruction that was issued.
    lines: HashMap<String, HashSet<u32>>,
}

/// A device whose host code may be broken in one place.
#[derive(Debug)]
pub struct Rig {
    device: Device,
    module: Option<Module>,
    change: Option<Change>,
    /// Warp instructions that a launch may take.
    budget: u64,
    log: Mutex<Log>,
}

/// Warp instructions between looks at whether a launch should end.
const STRIDE: u64 = 16_384;

impl Rig {
    /// A device with nothing broken.
    pub fn new(gpu: Gpu, options: Options) -> Rig {
        let device = Device::new(gpu, options);
        Rig { device, module: None, change: None, budget: u64::MAX, log: Mutex::default() }
    }

    /// The same, where tests are to launch kernels of `module` in place of their own, with `change` made, and no launch
    /// may take more than `budget` warp instructions.
    pub fn broken(self, module: Option<Module>, change: Option<Change>, budget: u64) -> Rig {
        Rig { module, change, budget, ..self }
    }

    /// The module that tests are to use in place of their own.
    pub fn module(&self) -> Option<&Module> {
        self.module.as_ref()
    }

    /// The value, or the end of the test: under a campaign by a payload that the campaign reads, else by a message.
    ///
    /// # Panics
    /// When something was caught.
    pub fn expect<T>(&self, result: Result<T, Caught>, what: &str) -> T {
        match result {
            Ok(value) => value,
            Err(caught) if self.module.is_some() => std::panic::panic_any(caught),
            Err(caught) => panic!("{what}: {caught}"),
        }
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The most warp instructions that a launch has taken.
    pub fn most_issues(&self) -> u64 {
        self.log().most_issues
    }

    /// The lines of a kernel that were issued by launches that ended.
    pub fn lines(&self, kernel: &str) -> HashSet<u32> {
        self.log().lines.get(kernel).cloned().unwrap_or_default()
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        // A test that failed leaves a log that is still whole.
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Memory that nobody wrote.
    ///
    /// # Errors
    /// When the device has no room.
    pub fn alloc(&self, bytes: u64) -> Result<u64, Caught> {
        let mut log = self.log();
        let half = self.change == Some(Change::HalveBuffer(log.buffers.len()));
        let bytes = if half { bytes / 2 } else { bytes };
        let at = self.device.memory().alloc(bytes)?;
        log.buffers.push((at, bytes));
        Ok(at)
    }

    /// Memory with these bytes.
    ///
    /// # Errors
    /// When the device has no room.
    pub fn upload(&self, bytes: &[u8]) -> Result<u64, Caught> {
        let at = self.alloc(bytes.len() as u64)?;
        let size = self.log().buffers.last().map_or(0, |b| b.1) as usize;
        self.device.memory().write(at, &bytes[..size.min(bytes.len())])?;
        Ok(at)
    }

    /// Copies memory to the host. Bytes that no kernel wrote are a wrong result.
    ///
    /// # Errors
    /// When the range is not one of a live buffer, or was not written.
    pub fn download(&self, at: u64, bytes: &mut [u8]) -> Result<(), Caught> {
        let memory = self.device.memory();
        if let Some(offset) = memory.first_unwritten(at, bytes.len() as u64)? {
            return Err(Caught::WrongResult(format!("byte {offset} of an output was not written")));
        }
        memory.read(at, bytes)?;
        Ok(())
    }

    /// Runs a kernel to its end on this thread.
    ///
    /// # Errors
    /// When the launch is refused, leaves a finding, or takes too long.
    pub fn launch(
        &self,
        module: &Module,
        kernel: &str,
        config: &LaunchConfig,
        arguments: &[u8],
    ) -> Result<Report, Caught> {
        let (mut config, mut arguments) = (config.clone(), arguments.to_vec());
        let index = self.enter(module, kernel, &config, &arguments);
        match &self.change {
            Some(Change::NoLaunch(n)) if *n == index => return Ok(Report::default()),
            Some(Change::HalveShared(n)) if *n == index => config.shared_bytes /= 2,
            Some(Change::ShortGrid(n)) if *n == index => {
                if let Some(d) = config.grid.iter_mut().find(|d| **d > 1) {
                    *d -= 1;
                }
            }
            Some(Change::FreeEarly { buffer, launch }) if *launch == index => {
                let at = self.log().buffers[*buffer].0;
                self.device.memory().free(at)?;
            }
            Some(Change::Argument { launch, parameter, by }) if *launch == index => {
                if let Some(p) = module.kernel(kernel).and_then(|f| f.params.get(*parameter)) {
                    let place = &mut arguments[p.offset as usize..][..p.bytes as usize];
                    let moved = (little_endian(place) as i64).wrapping_add(*by).to_le_bytes();
                    place.copy_from_slice(&moved[..p.bytes as usize]);
                }
            }
            _ => {}
        }
        let loaded = self.device.load(module)?;
        let mut launch = self.device.prepare(&loaded, kernel, &config, &arguments)?;
        let mut done: u64 = 0;
        if self.module.is_none() {
            launch.run(self.device.options().threads);
        } else {
            // Step by step with nothing broken too, so that blocks take turns alike.
            while launch.step(STRIDE) == Progress::Running && !launch.has_findings() {
                done += STRIDE;
                if done > self.budget {
                    return Err(Caught::from_report(&launch.finish()).unwrap_or(Caught::Hang));
                }
            }
        }
        let report = launch.finish();
        self.device.unload(&loaded);
        let mut log = self.log();
        log.most_issues = log.most_issues.max(report.issues());
        log.lines.entry(kernel.to_owned()).or_default().extend(report.counters.iter().map(|c| c.line));
        drop(log);
        match Caught::from_report(&report) {
            Some(caught) => Err(caught),
            None => Ok(report),
        }
    }

    /// Writes a launch down and gives its number.
    fn enter(&self, module: &Module, kernel: &str, config: &LaunchConfig, arguments: &[u8]) -> usize {
        let mut log = self.log();
        let params = module.kernel(kernel).map(|f| f.params.as_slice()).unwrap_or_default();
        let list = params.iter().map(|p| {
            let bytes = arguments.get(p.offset as usize..).and_then(|a| a.get(..p.bytes as usize));
            let value = bytes.map_or(0, little_endian);
            let buffer = log.buffers.iter().rposition(|b| b.0 == value && p.bytes == 8 && b.1 > 0);
            (p.name.clone(), p.bytes, value, buffer)
        });
        let arguments = list.collect();
        let (kernel, grid, shared) = (kernel.to_owned(), config.grid, config.shared_bytes);
        log.launches.push(LoggedLaunch { kernel, grid, shared, arguments });
        log.launches.len() - 1
    }

    /// The mutants of what this rig was made to do, named after `test`.
    pub fn mutants(&self, test: &str) -> Vec<HostMutant> {
        let log = self.log();
        let mut out: Vec<HostMutant> = Vec::new();
        let mut push = |kind: Kind, change, message: String| {
            let number = out.iter().filter(|m| m.kind == kind).count();
            out.push(HostMutant { id: format!("{test}:{}:{number}", kind.name()), kind, change, message });
        };
        for (k, (_, bytes)) in log.buffers.iter().enumerate() {
            let by = |l: &LoggedLaunch| l.arguments.iter().find(|a| a.3 == Some(k)).map(|a| a.0.clone());
            let user = log.launches.iter().enumerate().find_map(|(n, l)| by(l).map(|name| (n, name)));
            let Some((launch, name)) = user else { continue };
            push(
                Kind::Size,
                Change::HalveBuffer(k),
                format!("{name} has {} bytes in place of {bytes}", bytes / 2),
            );
            let message = format!("{name} is freed before launch {launch}");
            push(Kind::Lifetime, Change::FreeEarly { buffer: k, launch }, message);
        }
        for (n, l) in log.launches.iter().enumerate() {
            if l.shared > 0 {
                let message = format!(
                    "{} has {} bytes of shared memory in place of {}",
                    l.kernel,
                    l.shared / 2,
                    l.shared
                );
                push(Kind::Size, Change::HalveShared(n), message);
            }
            if l.grid.iter().any(|d| *d > 1) {
                push(Kind::Launch, Change::ShortGrid(n), format!("{} lacks its last blocks", l.kernel));
            }
            push(Kind::Launch, Change::NoLaunch(n), format!("{} is not launched", l.kernel));
            for (parameter, (name, bytes, value, buffer)) in l.arguments.iter().enumerate() {
                // A null pointer stays one: host code that skews it has more than one fault.
                let steps: &[i64] = match (bytes, buffer, value) {
                    (8, None, 0) => &[],
                    (8, Some(_), _) => &[16, -16],
                    (8, None, _) => &[8, -8],
                    // The bits of an f32 that is no integer one would count with.
                    (4, _, 0x2000_0000..=0x7FFF_FFFF) => &[1 << 22],
                    _ => &[1, -1],
                };
                for &by in steps {
                    let change = Change::Argument { launch: n, parameter, by };
                    push(Kind::Argument, change, format!("{name} of {} is {by:+}", l.kernel));
                }
            }
        }
        out
    }
}

fn little_endian(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |all, b| all << 8 | u64::from(*b))
}
