//! A stand-in for libcuda: the CUDA driver API, answered by the PTX emulator, so that host code which is not changed
//! runs, and is judged, on a machine without a GPU.
//!
//! `driver` holds the state and the gate of every entry point; `stream` lets queued `work` happen late and in
//! an order chosen by a seed, bound only by what CUDA promises; `history` tells which two operations nothing
//! orders; `mutation` puts a mistake into the host's calls on purpose; `capture` and `graph` record work and run it again; `report` gathers what was found; `api` has the
//! entry points by family, on the C types of `abi`.

mod abi;
mod api;
mod capture;
mod driver;
mod graph;
mod history;
mod mutation;
mod report;
mod settings;
mod status;
mod stream;
mod work;
