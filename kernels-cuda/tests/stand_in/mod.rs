//! Where the stand-in libcuda of these tests is.

use std::path::PathBuf;

/// The stand-in as cargo built it for these tests: beside the test binary.
pub fn library() -> PathBuf {
    let exe = std::env::current_exe().expect("the path of the test");
    let deps = exe.parent().expect("a folder");
    let name = "libptx_emulator_cuda.so";
    let places = [deps.join(name), deps.join("..").join(name)];
    places.into_iter().find(|path| path.exists()).expect("cargo builds the stand-in before these tests")
}
