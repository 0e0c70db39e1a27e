//! One test for each instruction form, written from the text of the PTX ISA alone.
//!
//! Kernels and emulator could share one misreading of the manual, and then agree on what no GPU does. So what is expected here is
//! worked out in plain Rust from the manual's pseudo-code, tables and figures, bit by bit where it is written so, and never by
//! way of the emulator's own code. A test's comment names the section.

// Tables of closures, and formulas as the manual writes them: an unordered comparison is one that is not the other way round.
#![allow(
    clippy::type_complexity,
    clippy::precedence,
    clippy::neg_cmp_op_on_partial_ord,
    clippy::approx_constant
)]

mod asynchronous;
mod bits;
mod bulk;
mod compare;
mod control;
mod convert;
mod forms;
mod half;
mod integer;
mod mbarrier;
mod memory;
mod real;
mod scalars;
mod support;
mod sync;
mod tensor;
mod warp;
mod warpgroup;
