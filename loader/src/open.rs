//! From a path to [`Weights`]: which format a file is, judged by its first bytes, and which file of a folder is
//! meant.
//!
//! A folder is a Hugging Face or diffusers model folder: an `*.index.json` with its shards, or `model.safetensors`,
//! `diffusion_pytorch_model.safetensors`, `pytorch_model.bin`, or the only weights file there is.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::{Error, Result, shorten};
use crate::mapped::MappedFile;
use crate::pth;
use crate::weights::Weights;

/// Configuration and index files are small; a larger one is a mistake.
const MAX_JSON: u64 = 64 << 20;

pub(crate) fn open(path: &Path) -> Result<Weights> {
    let meta = std::fs::metadata(path).map_err(|e| Error::io(path, e))?;
    if meta.is_dir() {
        return folder(path);
    }
    if path.extension().is_some_and(|e| e == "json") {
        return sharded(path);
    }
    file(MappedFile::open(path)?)
}

/// Reads one file by its first bytes; the extension has no say.
///
/// safetensors has no magic number: it begins with a length, which may look like anything, and `{` follows. So the
/// order matters: `GGUF` as a length would be beyond the limit, and no other format has `{` as its ninth byte.
pub(crate) fn file(file: MappedFile) -> Result<Weights> {
    let (path, bytes) = (file.path(), file.bytes());
    if bytes.starts_with(b"GGUF") {
        return Weights::from_gguf(file);
    }
    if bytes.get(8) == Some(&b'{') || bytes.len() < 8 {
        return Weights::from_safetensors(file);
    }
    if bytes.starts_with(b"PK") {
        return pth::open(file);
    }
    let what = if pth::is_legacy(bytes) {
        "a PyTorch file of the format before version 1.6; save it anew in Python: \
         torch.save(torch.load(FILE, map_location=\"cpu\"), NEW_FILE)"
    } else if bytes.starts_with(b"version https://git-lfs") {
        "a Git LFS pointer, not the weights: run `git lfs pull` where it came from"
    } else if matches!(bytes[..bytes.len().min(64)].trim_ascii_start(), [b'<', ..]) {
        "a web page, not weights: the download went wrong"
    } else {
        "neither safetensors, nor a PyTorch .pth (zip format), nor GGUF: its first bytes are of no known format"
    };
    Err(Error::unsupported(path, what))
}

fn folder(path: &Path) -> Result<Weights> {
    let listing = std::fs::read_dir(path).map_err(|e| Error::io(path, e))?;
    let mut names = BTreeSet::new();
    for item in listing {
        let item = item.map_err(|e| Error::io(path, e))?;
        names.extend(item.file_name().into_string());
    }
    let known = [
        "model.safetensors.index.json",
        "diffusion_pytorch_model.safetensors.index.json",
        "model.safetensors",
        "diffusion_pytorch_model.safetensors",
        "pytorch_model.bin.index.json",
        "pytorch_model.bin",
    ];
    if let Some(name) = known.into_iter().find(|n| names.contains(*n)) {
        return open(&path.join(name));
    }
    for suffix in [".safetensors.index.json", ".safetensors", ".pth", ".pt", ".bin", ".gguf"] {
        let found: Vec<&String> = names.iter().filter(|n| n.ends_with(suffix)).collect();
        match found[..] {
            [] => {}
            [name] => return open(&path.join(name)),
            [a, b, ..] => {
                let what = format!(
                    "{} files end in {suffix} ({a}, {b}, …): name the one that is meant",
                    found.len()
                );
                return Err(Error::unsupported(path, what));
            }
        }
    }
    Err(Error::unsupported(path, "the folder holds no weights (*.safetensors, *.pth, *.pt, *.bin, *.gguf)"))
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Opens the shards that an `*.index.json` names.
fn sharded(path: &Path) -> Result<Weights> {
    let index: Index = read_json(path)?;
    let mut shards = Vec::new();
    for shard in index.weight_map.values().collect::<BTreeSet<_>>() {
        // A plain name: an index has no business outside its folder.
        let plain = Path::new(shard).file_name().is_some_and(|n| n == shard.as_str());
        if !plain || shard.contains('\\') {
            return Err(Error::config(
                path,
                format!("shard `{}` is not the name of a file beside the index", shorten(shard)),
            ));
        }
        shards.push(file(MappedFile::open(&path.with_file_name(shard))?)?);
    }
    let shard_paths: Vec<PathBuf> = shards.iter().map(|s| s.path().to_owned()).collect();
    for (name, shard) in &index.weight_map {
        let at = shard_paths.iter().position(|p| p.file_name().is_some_and(|n| n == shard.as_str()));
        if at.is_none_or(|i| shards[i].get(name).is_none()) {
            return Err(Error::tensor(
                path,
                name,
                format!("the index places it in {shard}, which does not hold it"),
            ));
        }
    }
    Weights::join(path, shards)
}

/// Parses a JSON file of bounded size into a struct.
pub fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let meta = std::fs::metadata(path).map_err(|e| Error::io(path, e))?;
    if !meta.is_file() || meta.len() > MAX_JSON {
        return Err(Error::config(path, format!("not a JSON file of at most {} MiB", MAX_JSON >> 20)));
    }
    let text = std::fs::read(path).map_err(|e| Error::io(path, e))?;
    let mut reader = serde_json::Deserializer::from_slice(&text);
    let value = named(path, &mut reader)?;
    reader.end().map_err(|e| Error::config(path, e.to_string()))?;
    Ok(value)
}

/// A struct from the parsed JSON of the file at `path`.
///
/// # Errors
/// If it does not fit; the message names the field.
pub fn from_json<T: serde::de::DeserializeOwned>(path: &Path, value: &serde_json::Value) -> Result<T> {
    named(path, value)
}

fn named<'de, T: serde::Deserialize<'de>, D: serde::Deserializer<'de>>(path: &Path, json: D) -> Result<T>
where
    D::Error: std::fmt::Display,
{
    serde_path_to_error::deserialize(json).map_err(|e| {
        // The whole file has no path.
        let field = e.path().to_string();
        let field = if e.path().iter().next().is_some() { format!("{field}: ") } else { String::new() };
        Error::config(path, format!("{field}{}", e.into_inner()))
    })
}
