//! Networks, written so that they read beside the papers: each builder records a graph under the reference
//! library's tensor names.

pub mod autoencoder;
pub mod clip;
pub mod dinov2;
pub mod selftok;
pub mod timestep;
pub mod vit;

/// The most pictures or sequences that a graph is built for.
pub const MAX_BATCH: usize = 4096;
