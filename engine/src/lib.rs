//! A low-latency runtime for Selftok: pictures to tokens and back, and the networks it is made of.

pub mod atomic;
mod bounded;
pub mod inputs;
pub mod metrics;
pub mod picture;
pub mod random;
pub mod schedule;
pub mod sheet;
#[cfg(test)]
mod testing;
pub mod tokens;

pub use picture::{Picture, PictureError};
pub use tokens::Tokens;
