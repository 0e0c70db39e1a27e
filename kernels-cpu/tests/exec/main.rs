//! Plans on the CPU against the reference interpreter: every kernel, live ranges, picks, states, faults.

mod faults;
mod graphs;
mod support;
mod weights;
