//! Writing safetensors so that a reader sees the old file or the new one, never half of one.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use crate::dtype::{DType, checked_numel};
use crate::error::{Error, Result};
use crate::weights::Tensor;

/// Writes the tensors to a temporary file beside `path`, flushes it to the disk, and renames it into place. A file
/// that was there, mapped or not, stays whole until the rename.
///
/// Errors: a name twice (or `__metadata__`), a dtype that safetensors does not know, bytes that do not fit the shape,
/// and what the system says; on any error the temporary file is removed and `path` is as it was.
pub fn write_safetensors_atomic(
    path: &Path,
    tensors: &[Tensor<'_>],
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    let header = header(path, tensors, metadata)?;
    let name = path.file_name().ok_or_else(|| Error::unsupported(path, "not the name of a file"))?;
    // The process id keeps two writers apart; the suffix is one that repositories commonly ignore.
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(temporary);

    let write = || -> std::io::Result<()> {
        let mut out = BufWriter::with_capacity(1 << 20, File::create(&temporary)?);
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(&header)?;
        for t in tensors {
            out.write_all(t.bytes)?;
        }
        out.into_inner().map_err(|e| e.into_error())?.sync_all()?;
        std::fs::rename(&temporary, path)
    };
    write().map_err(|e| {
        let _ = std::fs::remove_file(&temporary);
        Error::io(path, e)
    })
}

/// The JSON header, padded with spaces so that the data starts at a multiple of 8 bytes.
fn header(path: &Path, tensors: &[Tensor<'_>], metadata: &BTreeMap<String, String>) -> Result<Vec<u8>> {
    let mut json = serde_json::Map::new();
    if !metadata.is_empty() {
        json.insert("__metadata__".into(), serde_json::json!(metadata));
    }
    let mut seen = HashSet::from(["__metadata__"]);
    let mut at = 0usize;
    for t in tensors {
        if !seen.insert(t.name) {
            return Err(Error::tensor(path, t.name, "the name is taken"));
        }
        if !DType::PLAIN.contains(&t.dtype) {
            return Err(Error::tensor(path, t.name, format!("safetensors has no dtype {}", t.dtype)));
        }
        let needed = checked_numel(t.shape).and_then(|n| t.dtype.bytes_of(n));
        if needed != Some(t.bytes.len()) {
            let what = format!("{} bytes given for shape {:?} of {}", t.bytes.len(), t.shape, t.dtype);
            return Err(Error::tensor(path, t.name, what));
        }
        let end = at + t.bytes.len();
        json.insert(
            t.name.into(),
            serde_json::json!({"dtype": t.dtype.name(), "shape": t.shape, "data_offsets": [at, end]}),
        );
        at = end;
    }
    let mut header = serde_json::Value::Object(json).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    Ok(header)
}
