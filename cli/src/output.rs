//! Where results go: stdout, which may be closed, and files, whose place is looked at before hours of work.

use crate::failure::Usage;
use anyhow::{Result, anyhow};
use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::Path;

/// Prints text on stdout. `println!` would panic on a closed pipe.
///
/// Errors: stdout is closed or full.
pub fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|e| anyhow::Error::new(e).context("stdout: cannot be written"))
}

/// Prints a JSON value on a line of its own.
///
/// Errors: as [`print()`].
pub fn print_json(value: &serde_json::Value) -> Result<()> {
    print(&format!("{value}\n"))
}

/// A note on stderr; a closed stderr is no failure.
pub fn note(text: &str) {
    let _ = writeln!(io::stderr(), "selftok: {text}");
}

/// Checks that a file can be made at `path`, so that a long job does not fail at its end. The file is not touched.
///
/// Errors: no folder, no permission, no name; the message has the path.
pub fn check_file(path: &Path) -> Result<()> {
    match fs::metadata(path) {
        Ok(old) if old.is_dir() => return Err(anyhow!("{}: is a folder; name a file", path.display())),
        // What is neither file nor folder, such as a pipe, opens when it is written.
        Ok(old) if !old.is_file() => return Ok(()),
        _ => {}
    }
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    if !folder.is_dir() {
        return Err(anyhow!(
            "{}: the folder {} does not exist; create it first",
            path.display(),
            folder.display()
        ));
    }
    let probe = folder.join(format!(".selftok.{}.probe", std::process::id()));
    match OpenOptions::new().write(true).create_new(true).open(&probe) {
        Ok(_) => Ok(fs::remove_file(&probe).map_err(|e| anyhow!("{}: {e}", probe.display()))?),
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(anyhow!("{}: cannot be written there: {e}", path.display())),
    }
}

/// Checks that a path ends in `.png`: pictures are written in no other format.
///
/// Errors: it ends in something else.
pub fn check_png(path: &Path) -> Result<()> {
    if is_png(path) {
        return Ok(());
    }
    Err(Usage(format!("{}: pictures are written as PNG; name a file that ends in .png", path.display()))
        .into())
}

/// Whether a path ends in `.png`.
pub fn is_png(path: &Path) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case("png"))
}

/// `1 picture`, `2 pictures`.
pub fn count(n: usize, what: &str) -> String {
    if n == 1 { format!("{n} {what}") } else { format!("{n} {what}s") }
}

/// Digits in groups of three.
pub fn grouped(n: usize) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes with a unit: `1.25 MiB`.
pub fn bytes(n: usize) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let mut value = n as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.2} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!((grouped(7), grouped(1234567)), ("7".to_string(), "1,234,567".to_string()));
        assert_eq!((bytes(1023), bytes(1280 << 10)), ("1023 B".to_string(), "1.25 MiB".to_string()));
        assert_eq!((count(1, "picture"), count(0, "picture")), ("1 picture".into(), "0 pictures".into()));
    }

    #[test]
    fn the_place_of_a_file_is_looked_at_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        check_file(&dir.path().join("a.npy")).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        let missing = check_file(&dir.path().join("no/a.npy")).unwrap_err().to_string();
        assert!(missing.contains("does not exist; create it first"), "{missing}");
        let folder = check_file(dir.path()).unwrap_err().to_string();
        assert!(folder.contains("is a folder"), "{folder}");
    }
}
