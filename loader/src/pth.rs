//! PyTorch checkpoints: `torch.save` since version 1.6 writes a zip archive with `NAME/data.pkl`, the structure, and
//! one uncompressed `NAME/data/KEY` for each storage. The structure is read by [`crate::pickle`]; the storages stay
//! in the map.
//!
//! What is inside may be wrapped: a training checkpoint holds its state dict under `state_dict`, `module` or `model`,
//! and a distributed or compiled one puts `module.` or `_orig_mod.` before every name. Both are undone, if they apply
//! to all.

use std::collections::HashMap;
use std::path::Path;

use crate::dtype::checked_numel;
use crate::error::{Error, Result, shorten};
use crate::mapped::MappedFile;
use crate::pickle::{self, Id, Node, Pickle, TensorRecord};
use crate::weights::{Entry, Weights};
use crate::zip::Archive;

const FORMAT: &str = "PyTorch .pth";
const WRAPPERS: [&str; 5] = ["state_dict", "model_state_dict", "module", "model", "params"];
const PREFIXES: [&str; 2] = ["module.", "_orig_mod."];

/// True for the format before PyTorch 1.6: a bare pickle (protocol 2 of the number 0x1950a86a20f9469cfc6c), or a tar
/// archive.
pub(crate) fn is_legacy(data: &[u8]) -> bool {
    data.starts_with(b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19")
        || data.get(257..262) == Some(b"ustar")
}

/// Reads a `torch.save` archive.
pub(crate) fn open(file: MappedFile) -> Result<Weights> {
    let (path, data) = (file.path(), file.bytes());
    let archive = Archive::parse(path, data)?;
    let mut pickles = archive.names().filter_map(|n| n.strip_suffix("data.pkl"));
    let prefix = match (pickles.next(), pickles.next()) {
        (Some(prefix), None) => prefix.to_owned(),
        (None, _)
            if archive.get("constants.pkl").is_some() || archive.names().any(|n| n.contains("/code/")) =>
        {
            return Err(Error::unsupported(path, "a TorchScript module; save its state_dict() instead"));
        }
        (None, _) => {
            return Err(Error::unsupported(
                path,
                "a zip archive without data.pkl: not written by torch.save",
            ));
        }
        (Some(_), Some(_)) => return Err(Error::corrupt(path, FORMAT, "it holds more than one data.pkl")),
    };
    if let Some(order) = archive.get(&format!("{prefix}byteorder"))
        && data[order.clone()] != *b"little"
    {
        return Err(Error::unsupported(
            path,
            "it was saved on a big-endian machine; save it anew on a little-endian one",
        ));
    }
    let program = archive.get(&format!("{prefix}data.pkl")).unwrap_or(0..0);
    let pickle = pickle::parse(path, &data[program])?;

    let mut records = state_dict(path, &pickle)?;
    strip_prefixes(&mut records);
    let mut sizes = HashMap::new();
    let mut entries = Vec::with_capacity(records.len());
    for (name, record) in records {
        entries.push(entry(path, &archive, &prefix, name, record, &mut sizes)?);
    }
    let label = path.to_owned();
    Weights::new(&label, vec![file], entries, HashMap::new())
}

/// The dict that holds tensors: the root, or what it wraps. Entries that are no tensors (an epoch, a configuration)
/// are left out.
fn state_dict<'a>(path: &Path, pickle: &'a Pickle) -> Result<Vec<(&'a str, &'a TensorRecord)>> {
    let node = |id: Id| &pickle.nodes[id as usize];
    let mut root = pickle.root;
    // A cycle of wrappers cannot run longer than this.
    for _ in 0..4 {
        let Node::Dict(dict) = node(root) else { break };
        let named = |&(k, v): &(Id, Id)| match node(k) {
            Node::Str(name) => Some((&**name, v)),
            _ => None,
        };
        let tensors: Vec<_> = dict
            .iter()
            .filter_map(named)
            .filter_map(|(name, v)| match node(v) {
                Node::Tensor(t) => Some((name, &**t)),
                _ => None,
            })
            .collect();
        if !tensors.is_empty() {
            return Ok(tensors);
        }
        let wrapped = WRAPPERS.iter().find_map(|w| dict.iter().filter_map(named).find(|(name, _)| name == w));
        let Some((_, inner)) = wrapped else {
            let keys: Vec<_> = dict.iter().filter_map(named).take(10).map(|(n, _)| shorten(n)).collect();
            let what = format!(
                "no tensors in it; its entries are [{}], of which none is a state dict",
                keys.join(", ")
            );
            return Err(Error::unsupported(path, what));
        };
        root = inner;
    }
    Err(Error::unsupported(path, "it holds no state dict (a dict of tensors); save model.state_dict()"))
}

/// Takes `module.` away if every name has it, again and again.
fn strip_prefixes(records: &mut [(&str, &TensorRecord)]) {
    while let Some(prefix) = PREFIXES.iter().find(|p| records.iter().all(|(n, _)| n.starts_with(**p))) {
        for (name, _) in records.iter_mut() {
            *name = &name[prefix.len()..];
        }
    }
}

fn entry<'a>(
    path: &Path,
    archive: &Archive,
    prefix: &str,
    name: &str,
    record: &'a TensorRecord,
    checked: &mut HashMap<&'a str, (usize, usize)>,
) -> Result<Entry> {
    let bad = |what: String| Error::tensor(path, name, what);
    let TensorRecord { storage, offset, shape, strides } = record;
    let (dtype, size) = (storage.dtype, storage.dtype.block_bytes());
    if shape.len() != strides.len() {
        return Err(bad(format!("shape {shape:?} and strides {strides:?} differ in length")));
    }
    let numel =
        checked_numel(shape).ok_or_else(|| bad(format!("its shape {shape:?} is impossibly large")))?;

    // Contiguous means: the stride of each dimension is the product of the later ones. Where a dimension is 1, or
    // the tensor empty, the stride is never used and may be anything.
    let mut stride = 1;
    for (&d, &s) in shape.iter().zip(strides).rev() {
        if numel > 0 && d != 1 && s != stride {
            return Err(bad(format!(
                "it is not contiguous (shape {shape:?}, strides {strides:?}); call .contiguous() before saving"
            )));
        }
        stride *= if numel > 0 { d } else { 1 };
    }

    let key = &*storage.key;
    let data = archive.get(&format!("{prefix}data/{key}"));
    let data = data.ok_or_else(|| bad(format!("its storage data/{} is not in the archive", shorten(key))))?;
    let (known_numel, known_size) = *checked.entry(key).or_insert((storage.numel, size));
    if storage.numel.checked_mul(size) != Some(data.len())
        || (known_numel, known_size) != (storage.numel, size)
    {
        return Err(bad(format!(
            "its storage data/{} has {} bytes, {} elements of {dtype} are claimed",
            shorten(key),
            data.len(),
            storage.numel
        )));
    }
    let end = offset.checked_add(numel).filter(|&end| end <= storage.numel);
    let end = end.ok_or_else(|| {
        bad(format!("{numel} elements from {offset} on leave its storage of {} elements", storage.numel))
    })?;
    let range = data.start + offset * size..data.start + end * size;
    Ok(Entry { name: name.to_owned(), dtype, shape: shape.clone(), file: 0, range })
}
