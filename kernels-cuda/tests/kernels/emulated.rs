//! Launching the shipped PTX in emulation, with every check on.
//!
//! A test runs under several settings of what a GPU leaves open. A kernel that is right is right under each, and leaves
//! no finding.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};

use bytemuck::Pod;
use ptx_emulator::{
    Accumulation, Approximation, ApproximationMode, Device, Gpu, LaunchConfig, Module, Options, Order, Report,
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

/// An emulated A100.
pub struct Emulated {
    device: Device,
}

impl Emulated {
    /// One that runs under `setting`.
    pub fn new(setting: Setting) -> Self {
        let Setting { order, approximation, accumulation } = setting;
        let options = Options { order, approximation, accumulation, ..Options::default() };
        Self { device: Device::new(Gpu::a100(), options) }
    }

    /// Memory that nobody wrote.
    pub fn allocate(&self, bytes: usize) -> u64 {
        self.device.memory().alloc(bytes as u64).unwrap()
    }

    /// Memory with these values.
    pub fn upload<T: Pod>(&self, values: &[T]) -> u64 {
        let at = self.allocate(size_of_val(values));
        self.device.memory().write(at, bytemuck::cast_slice(values)).unwrap();
        at
    }

    /// `count` values from element `first` of the memory at `at` on, all of which a kernel must have written.
    pub fn download<T: Pod>(&self, at: u64, first: usize, count: usize) -> Vec<T> {
        let mut values = vec![T::zeroed(); count];
        let at = at + (first * size_of::<T>()) as u64;
        let unwritten = self.device.memory().first_unwritten(at, (count * size_of::<T>()) as u64).unwrap();
        assert_eq!(unwritten, None, "an output that the kernel did not write");
        self.device.memory().read(at, bytemuck::cast_slice_mut(&mut values)).unwrap();
        values
    }

    /// Runs a kernel, which must leave no finding.
    pub fn launch(&self, family: &'static str, launch: &Launch, arguments: &[u8]) -> Report {
        let loaded = self.device.load(&module(family)).unwrap();
        let config = LaunchConfig {
            grid: launch.grid,
            block: launch.block,
            shared_bytes: launch.shared_bytes,
            ..LaunchConfig::new(1, 1)
        };
        let report = self.device.launch(&loaded, launch.entry, &config, arguments).unwrap();
        assert!(report.findings.is_empty(), "{}:\n{}", launch.entry, report.to_text());
        report
    }
}
