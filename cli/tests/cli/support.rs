//! Running the program and looking at what it left.

use safetensors::SafeTensors;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// A file of the repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join(path)
}

/// The small model.
pub fn mini() -> PathBuf {
    repository("models/mini")
}

/// The pictures of the small model, by name.
pub fn pictures() -> &'static [PathBuf] {
    static LIST: OnceLock<Vec<PathBuf>> = OnceLock::new();
    LIST.get_or_init(|| {
        let mut list: Vec<_> =
            std::fs::read_dir(mini().join("pictures")).unwrap().map(|entry| entry.unwrap().path()).collect();
        list.sort();
        list
    })
}

/// The program, not started yet; the environment names no model.
pub fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_selftok"));
    command.env_remove("SELFTOK_MODEL").env_remove("SELFTOK_OFF");
    command
}

/// What a run left.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Ran {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Ran { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

/// Runs the program to its end.
pub fn run<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Ran {
    program().args(args).output().unwrap().into()
}

/// Runs it and expects success.
#[track_caller]
pub fn succeed<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Ran {
    let ran = run(args);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    ran
}

/// Runs it with `--json` among the arguments and reads what it prints.
#[track_caller]
pub fn json<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> serde_json::Value {
    serde_json::from_str(&succeed(args).stdout).unwrap()
}

/// Runs it with 2 GB of address space and expects a failure as a user wants it: exit code 1, one sentence on stderr with all
/// of `says`, nothing new in `folder`.
#[track_caller]
pub fn refuse<S: AsRef<OsStr>>(folder: &Path, args: impl IntoIterator<Item = S>, says: &[&str]) -> Ran {
    let before = listing(folder);
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -v 2000000; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_selftok")]).args(args);
    let ran: Ran = command.env_remove("SELFTOK_MODEL").output().unwrap().into();
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert_one_sentence(&ran);
    for part in says {
        assert!(ran.stderr.contains(part), "{part:?} is not in {ran:?}");
    }
    assert_eq!(listing(folder), before, "files changed: {ran:?}");
    ran
}

/// One sentence on stderr, no panic, nothing on stdout.
#[track_caller]
pub fn assert_one_sentence(ran: &Ran) {
    assert!(ran.stderr.starts_with("selftok: error: "), "{ran:?}");
    assert_eq!(ran.stderr.trim_end().lines().count(), 1, "{ran:?}");
    assert!(!ran.stderr.contains("panicked"), "{ran:?}");
    assert_eq!(ran.stdout, "", "{ran:?}");
}

/// Every path under a folder, hidden ones too, with its size.
pub fn listing(folder: &Path) -> Vec<(PathBuf, u64)> {
    let mut list = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let meta = entry.path().symlink_metadata().unwrap();
        if meta.is_dir() {
            list.extend(listing(&entry.path()));
        }
        list.push((entry.path(), if meta.is_dir() { 0 } else { meta.len() }));
    }
    list.sort();
    list
}

/// Names directly in a folder, hidden ones too.
pub fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The golden ids of the small model: 64 for each of [`pictures`].
pub fn golden_ids() -> Vec<Vec<u32>> {
    let ids = i64s(&mini().join("golden.safetensors"), "indices");
    let ids: Vec<_> = ids.chunks(64).collect();
    golden_order().iter().map(|&i| ids[i].to_vec()).collect()
}

/// For each of [`pictures`], its place in the golden file, which has no names: known by the pixels.
fn golden_order() -> &'static [usize] {
    static ORDER: OnceLock<Vec<usize>> = OnceLock::new();
    ORDER.get_or_init(|| {
        let golden = golden_batch("pictures");
        let place = |path: &PathBuf| {
            let rgb = selftok::Picture::open(path).unwrap().into_rgb();
            golden.iter().position(|golden| *golden == rgb).unwrap()
        };
        pictures().iter().map(place).collect()
    })
}

/// A tensor of int64 ids.
pub fn i64s(path: &Path, tensor: &str) -> Vec<u32> {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let data = file.tensor(tensor).unwrap();
    data.data().chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as u32).collect()
}

/// For each of [`pictures`], what a golden batch (`rendered`, `diffused`) has for it, as RGB bytes.
pub fn golden_rgb(tensor: &str) -> Vec<Vec<u8>> {
    let batch = golden_batch(tensor);
    golden_order().iter().map(|&i| batch[i].clone()).collect()
}

/// A golden batch `[16, 3, 64, 64]`, each picture as RGB bytes.
fn golden_batch(tensor: &str) -> Vec<Vec<u8>> {
    let bytes = std::fs::read(mini().join("golden.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let planes = file.tensor(tensor).unwrap().data().to_vec();
    let pixels = 64 * 64;
    planes
        .chunks_exact(3 * pixels)
        .map(|planes| {
            (0..pixels).flat_map(|i| [0, 1, 2].map(|channel| planes[channel * pixels + i])).collect()
        })
        .collect()
}

/// The greatest difference between two pictures, in levels.
pub fn levels(a: &[u8], b: &[u8]) -> u8 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a.abs_diff(*b)).max().unwrap()
}
