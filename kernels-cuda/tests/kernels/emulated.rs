//! Launching the shipped PTX in emulation, with every check on.
//!
//! A test runs under several settings of what a GPU leaves open. A kernel that is right is right under each, and leaves
//! no finding.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use bytemuck::Pod;
use ptx_emulator::mutate::Rig;
use ptx_emulator::{
    Accumulation, Approximation, ApproximationMode, Gpu, LaunchConfig, Module, Options, Order, Report,
};
use selftok_kernels_cuda::Launch;

/// What a GPU leaves open, decided one way: the order of warps, how far the approximate instructions err, and how a tensor core
/// orders and rounds its sums.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    order: Order,
    approximation: Approximation,
    accumulation: Accumulation,
}

impl Setting {
    /// As the emulator takes it.
    pub fn options(self) -> Options {
        let Self { order, approximation, accumulation } = self;
        Options { order, approximation, accumulation, ..Options::default() }
    }
}

/// The settings that every kernel is run under.
pub fn settings() -> [Setting; 3] {
    let setting = |order, mode, accumulation| Setting {
        order,
        approximation: Approximation { mode, seed: 11 },
        accumulation,
    };
    [
        setting(Order::Forward, ApproximationMode::Below, Accumulation::Sequential),
        setting(Order::Reverse, ApproximationMode::Above, Accumulation::Truncating),
        setting(Order::Random(5), ApproximationMode::Random, Accumulation::Pairwise),
    ]
}

/// Runs a test under every setting.
pub fn everywhere(test: impl Fn(&Emulated)) {
    for setting in settings() {
        test(&Emulated::new(setting));
    }
}

/// Modules are decoded once for all tests of a binary.
static MODULES: LazyLock<Mutex<HashMap<&'static str, Module>>> = LazyLock::new(Mutex::default);

fn module(family: &'static str) -> Module {
    // A test that failed to decode its module must not fail the others.
    let mut modules = MODULES.lock().unwrap_or_else(PoisonError::into_inner);
    let decode = || {
        let shipped = selftok_kernels_ptx::module_for(family, 8, 0).expect(family);
        Module::parse(shipped.ptx).unwrap_or_else(|e| panic!("{family}: {e}"))
    };
    modules.entry(family).or_insert_with(decode).clone()
}

/// An emulated A100, and host code on it in which a mutation test may break something.
pub struct Emulated {
    rig: Arc<Rig>,
}

impl Emulated {
    /// One that runs under `setting`.
    pub fn new(setting: Setting) -> Self {
        Self { rig: Arc::new(Rig::new(Gpu::a100(), setting.options())) }
    }

    /// One on the rig of a mutation test.
    pub fn on(rig: &Arc<Rig>) -> Self {
        Self { rig: rig.clone() }
    }

    /// Memory that nobody wrote.
    pub fn allocate(&self, bytes: usize) -> u64 {
        self.rig.expect(self.rig.alloc(bytes as u64), "memory")
    }

    /// Memory with these values.
    pub fn upload<T: Pod>(&self, values: &[T]) -> u64 {
        self.rig.expect(self.rig.upload(bytemuck::cast_slice(values)), "an upload")
    }

    /// `count` values from element `first` of the memory at `at` on, all of which a kernel must have written.
    pub fn download<T: Pod>(&self, at: u64, first: usize, count: usize) -> Vec<T> {
        let mut values = vec![T::zeroed(); count];
        let at = at + (first * size_of::<T>()) as u64;
        self.rig.expect(self.rig.download(at, bytemuck::cast_slice_mut(&mut values)), "a download");
        values
    }

    /// Checks that no kernel wrote to `count` values from element `first` of the memory at `at` on.
    pub fn untouched<T: Pod>(&self, at: u64, first: usize, count: usize) {
        let (size, memory) = (size_of::<T>(), self.rig.device().memory());
        for k in (first * size)..(first + count) * size {
            let unwritten = memory.first_unwritten(at + k as u64, 1).unwrap();
            assert!(unwritten.is_some(), "byte {k} of an output lies between its rows and was written");
        }
    }

    /// Runs a kernel, which must leave no finding.
    pub fn launch(&self, family: &'static str, launch: &Launch, arguments: &[u8]) -> Report {
        let config = LaunchConfig {
            grid: launch.grid,
            block: launch.block,
            shared_bytes: launch.shared_bytes,
            ..LaunchConfig::new(1, 1)
        };
        // A mutation test has one kernel under mutation; the others of a test are as they ship.
        let own = self.rig.module().filter(|m| m.kernel(launch.entry).is_some());
        let module = own.cloned().unwrap_or_else(|| module(family));
        self.rig.expect(self.rig.launch(&module, launch.entry, &config, arguments), launch.entry)
    }
}

/// Thread instructions that a launch carried out on lines of its family's PTX that `wanted` picks out: what shows that a kernel does
/// no more work than it should. Counted by thread, since how often a warp that has split up issues an instruction depends on
/// where it meets again.
pub fn executed(report: &Report, family: &'static str, wanted: impl Fn(&str) -> bool) -> usize {
    let shipped = selftok_kernels_ptx::module_for(family, 8, 0).expect(family);
    let lines: Vec<&str> = shipped.ptx.lines().collect();
    let counts = report.counters.iter().filter(|c| wanted(lines[c.line as usize - 1].trim_start()));
    counts.map(|c| c.lanes as usize).sum()
}
