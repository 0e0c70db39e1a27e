//! Networks, written so that they read beside the papers: each builder records a graph under the reference
//! library's tensor names.

pub mod autoencoder;
pub mod causal;
pub mod clip;
pub mod diffusion;
pub mod dinov2;
pub mod dit;
pub mod mmdit;
mod patches;
pub mod selftok;
pub mod timestep;
pub mod unet;
pub mod vit;

/// The most pictures or sequences that a graph is built for.
pub const MAX_BATCH: usize = 4096;
