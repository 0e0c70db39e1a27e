//! Networks, written so that they read beside the papers: each builder records a graph under the reference
//! library's tensor names.

pub mod selftok;
pub mod timestep;
