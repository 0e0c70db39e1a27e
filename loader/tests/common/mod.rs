//! What the tests share: where the golden files are, and files with chosen lies in them.
#![allow(dead_code)]

pub mod gguf;
pub mod procedural;
pub mod torch;

use std::path::PathBuf;

use selftok_loader::{Error, Result, Weights};

/// A path below the root of the repository.
pub fn repository(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// A golden file of the tiny Selftok.
pub fn golden(name: &str) -> PathBuf {
    repository("tests/golden/selftok").join(name)
}

/// A safetensors file with this header, true or not.
pub fn safetensors(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
}

/// The message of the error that opening these bytes gives.
pub fn refused(bytes: &[u8]) -> String {
    message(Weights::from_bytes("model.file", bytes.to_vec()))
}

/// The message of an error; panics if there is none.
pub fn message<T>(result: Result<T, Error>) -> String {
    match result {
        Ok(_) => panic!("accepted, though it should be refused"),
        Err(e) => e.to_string(),
    }
}

/// Asserts that a message contains all of the parts.
#[track_caller]
pub fn says(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "{message:?} does not say {part:?}");
    }
}
