//! Runs NVIDIA PTX on a CPU, warp by warp, so that kernels can be judged on a machine that has no GPU.
//!
//! The road of a kernel: [`parse`] turns text into statements that remember their line; [`decode`] resolves every
//! name once and leaves the flat instruction array of [`ir`]; [`exec`] runs it, 32 lanes at a time, over the address
//! spaces of [`memory`]; [`check`] holds what was found wrong, [`counters`] what was done. [`device`] and [`launch`]
//! are what host code talks to.
//!
//! ```
//! use ptx_emulator::{Device, Gpu, LaunchConfig, Module, Options};
//! let module = Module::parse(
//!     ".version 7.0\n.target sm_80\n.address_size 64\n\
//!      .visible .entry fill(.param .u64 out) { .reg .b64 %rd<4>; .reg .b32 %r<2>;\n\
//!      ld.param.u64 %rd1, [out]; mov.u32 %r1, %tid.x; mul.wide.u32 %rd2, %r1, 4;\n\
//!      add.s64 %rd3, %rd1, %rd2; st.global.u32 [%rd3], %r1; ret; }",
//! )?;
//! let device = Device::new(Gpu::a100(), Options::default());
//! let loaded = device.load(&module)?;
//! let out = device.memory().alloc(128)?;
//! let report = device.launch(&loaded, "fill", &LaunchConfig::new(1, 32), &out.to_le_bytes())?;
//! assert!(report.findings.is_empty());
//! let mut bytes = [0; 128];
//! device.memory().read(out, &mut bytes)?;
//! assert_eq!(bytes[4..8], 1u32.to_le_bytes());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

// Loops over 32 lanes index several arrays at once; a call of an instruction names its whole context; and shifts
// beside masks are written as the ISA writes them.
#![allow(clippy::needless_range_loop, clippy::too_many_arguments, clippy::precedence)]

pub mod approx;
pub mod check;
pub mod counters;
pub mod decode;
pub mod device;
pub mod error;
pub mod exec;
pub mod float;
pub mod gpu;
pub mod ir;
pub mod launch;
pub mod memory;
pub mod mutate;
pub mod parse;
pub mod stand_in;
pub mod tensor_map;
pub mod types;

pub use approx::{Accumulation, Approximation, ApproximationMode};
pub use check::{Checks, Finding, FindingKind, Order};
pub use counters::{Counter, Report};
pub use decode::Module;
pub use device::{Device, LoadedModule, Options};
pub use error::{CudaError, LaunchError, MemoryError, ModuleError};
pub use gpu::Gpu;
pub use launch::{Launch, LaunchConfig, Progress};
