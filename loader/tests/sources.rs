//! Weights that are computed, weights that are let go of, and what may be shared between threads.

mod common;

use common::*;
use selftok_loader::{TensorSource, View, Weights};

#[test]
fn generated_weights_are_those_of_the_golden_files() {
    for name in ["tokenizer", "renderer"] {
        let stored = Weights::open(golden(&format!("tiny_{name}.weights.safetensors"))).unwrap();
        let generated = procedural::source(stored.iter().map(|t| (t.name.to_owned(), t.shape.to_vec())));
        let mut compared = 0;
        for t in stored.iter().filter(|t| !t.name.starts_with("diffusion.")) {
            let (want, got) = (stored.to_f32(t.name).unwrap(), generated.to_f32(t.name).unwrap());
            for (i, (w, g)) in want.iter().zip(&got).enumerate() {
                assert!((w - g).abs() <= 2e-7, "{}[{i}]: {w} is stored, {g} generated", t.name);
            }
            // From the middle on, as a packer reads.
            let mut tail = vec![0.0; want.len() / 2];
            generated.read_f32(t.name, want.len() - tail.len(), &mut tail).unwrap();
            assert_eq!(tail, got[got.len() - tail.len()..], "{}", t.name);
            compared += want.len();
        }
        assert!(compared > 1_000_000);
    }
}

#[test]
fn sources_may_be_shared_between_threads() {
    fn shared<T: Send + Sync + ?Sized>() {}
    shared::<Weights>();
    shared::<View>();
    shared::<dyn TensorSource>();
}

/// Resident bytes of this process.
#[cfg(target_os = "linux")]
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[cfg(target_os = "linux")]
#[test]
fn a_tensor_that_was_packed_gives_its_pages_back() {
    const SIZE: usize = 256 << 20;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("big.safetensors");
    let header =
        format!(r#"{{"w":{{"dtype":"BF16","shape":[{},1024],"data_offsets":[0,{SIZE}]}}}}"#, SIZE / 2048);
    std::fs::write(&path, safetensors(&header, &[])).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(file.metadata().unwrap().len() + SIZE as u64).unwrap();

    let weights = Weights::open(&path).unwrap();
    let mut rows = vec![0.0; 1024 * 64];
    let before = resident();
    for first in (0..SIZE / 2048).step_by(64) {
        weights.read_rows("w", first..first + 64, &mut rows).unwrap();
    }
    let read = resident();
    weights.release("w");
    let released = resident();
    // The other tests of this file use some ten megabytes meanwhile.
    assert!(read > before + SIZE / 2, "reading made only {} bytes resident", read.saturating_sub(before));
    assert!(released < before + SIZE / 4, "{} bytes stayed after the release", released - before);
}
