//! Starts the real program: what it does with the small model, and what it does with bad input.

mod bad_input;
mod decode;
mod encode;
mod inspect;
mod models;
mod recon;
mod signals;
mod support;
#[path = "../../../loader/tests/common/torch.rs"]
#[allow(dead_code, missing_docs, reason = "made for the loader's tests; few of its functions are needed here")]
mod torch;
