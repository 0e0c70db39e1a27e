//! Starts the real program: what it does with the small model, and what it does with bad input.

mod bad_input;
mod complete;
mod decode;
mod encode;
mod inspect;
mod models;
mod networks;
mod recon;
mod sample;
mod signals;
mod support;
#[path = "../../../loader/tests/common/torch.rs"]
mod torch;
