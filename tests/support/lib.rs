//! Shared support of the whole-system tests and benchmarks: golden files, comparison, backends.

pub mod backend;
pub mod compare;
pub mod golden;
pub mod procedural;
pub mod random;
pub mod random_packed;

pub use backend::{Backend, Reference, Session};
pub use compare::{assert_close, assert_same_ids, assert_within_f32};
pub use golden::{Golden, path};
pub use selftok_kernels_cpu::reference::{Array, Named, Slots};
