//! Selftok: an image as a sequence of tokens that an autoregressive model can continue.
//!
//! * [`encoder()`]: latent → 512 vectors → token ids, by learned queries that watch the image.
//! * [`decoder`]: tokens → latent by diffusion, where the noisier the image, the more tokens are visible.
//! * [`renderer()`]: tokens → latent in one pass over a learned canvas.
//!
//! All numbers come from [`Config`]; the tensor names are those of the released checkpoints.

mod blocks;
mod config;
pub mod decoder;
mod encoder;
mod quantizer;
mod renderer;

pub use config::{Config, DecoderConfig, EncoderConfig};
pub use encoder::encoder;
pub use renderer::renderer;
