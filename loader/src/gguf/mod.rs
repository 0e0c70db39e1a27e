//! GGUF, the format of llama.cpp: metadata (where configuration and tokenizer live) and tensors, quantised or not.

mod meta;
mod reader;

use std::collections::HashSet;
use std::path::Path;

use crate::dtype::{DType, checked_numel};
use crate::error::{Error, Result, shorten};
use crate::weights::Entry;

pub(crate) use meta::MetaTable;
pub use meta::{MetaArray, MetaValue, Metadata};
use reader::Reader;

const FORMAT: &str = "GGUF";
const DEFAULT_ALIGNMENT: u64 = 32;
const MAX_RANK: u32 = 8;
/// Bounds the tables of keys and of tensors; the largest models have a few thousand of each.
const MAX_ITEMS: u64 = 1 << 20;

/// Reads header, metadata and tensor table of `data`, the whole file.
pub(crate) fn parse(path: &Path, data: &[u8]) -> Result<(Vec<Entry>, MetaTable)> {
    let bad = |what: String| Error::corrupt(path, FORMAT, what);
    let mut r = Reader { bytes: data, at: 4 };
    let version = r.u32().map_err(bad)?;
    match version {
        2 | 3 => {}
        v if matches!(v.swap_bytes(), 1..=9) => {
            return Err(Error::unsupported(path, "a big-endian GGUF file; convert it to little-endian"));
        }
        v => {
            return Err(Error::unsupported(
                path,
                format!("GGUF version {v}; versions 2 and 3 are supported"),
            ));
        }
    }
    // The smallest tensor has a name's length, a rank, a type and an offset; the smallest key a length, a type and a
    // byte.
    let tensors = r.count(24).map_err(|e| bad(format!("number of tensors: {e}")))?;
    let keys = r.count(13).map_err(|e| bad(format!("number of metadata keys: {e}")))?;
    if tensors as u64 > MAX_ITEMS || keys as u64 > MAX_ITEMS {
        return Err(bad(format!(
            "{tensors} tensors and {keys} metadata keys; at most {MAX_ITEMS} are believed"
        )));
    }

    let mut meta = MetaTable::default();
    for i in 0..keys {
        let key = r.text().map_err(|e| bad(format!("metadata key {i}: {e}")))?;
        let bad = |e: String| bad(format!("metadata `{}`: {e}", shorten(key)));
        let kind = r.kind().map_err(bad)?;
        let start = r.at;
        r.value(kind).map_err(bad)?;
        if meta.values.insert(key.to_owned(), (kind, start..r.at)).is_some() {
            return Err(bad("the key comes twice".into()));
        }
        meta.keys.push(key.to_owned());
    }

    let view = Metadata { table: &meta, file: data };
    let alignment = match view.get("general.alignment") {
        None => DEFAULT_ALIGNMENT,
        Some(v) => {
            v.as_u64().filter(|a| a.is_power_of_two() && (8..=1 << 20).contains(a)).ok_or_else(|| {
                bad(format!("general.alignment is {v:?}, it must be a power of two from 8 to 2^20"))
            })?
        }
    };
    if let Some(n) = view.u64("split.count").filter(|&n| n > 1) {
        let what = format!("one of {n} pieces of a split model; join them with `llama-gguf-split --merge`");
        return Err(Error::unsupported(path, what));
    }
    let mut entries = Vec::new();
    for i in 0..tensors {
        entries.push(tensor(path, &mut r, i, alignment)?);
    }
    let start = r.at.next_multiple_of(alignment as usize);
    place(path, &mut entries, start, data.len())?;
    Ok((entries, meta))
}

/// One row of the tensor table. The range is still relative to the start of the data.
fn tensor(path: &Path, r: &mut Reader, number: usize, alignment: u64) -> Result<Entry> {
    let corrupt = |what: String| Error::corrupt(path, FORMAT, format!("tensor {number}: {what}"));
    let name = r.text().map_err(corrupt)?;
    let bad = |what: String| Error::tensor(path, name, what);
    let rank = r.u32().map_err(bad)?;
    if rank > MAX_RANK {
        return Err(bad(format!("it claims {rank} dimensions, at most {MAX_RANK} are believed")));
    }
    let mut shape = Vec::new();
    for _ in 0..rank {
        shape.push(usize::try_from(r.u64().map_err(bad)?).map_err(|_| bad("impossibly large".into()))?);
    }
    // GGUF has the fastest dimension first; here it is last.
    shape.reverse();
    let id = r.u32().map_err(bad)?;
    let offset = r.u64().map_err(bad)?;
    let dtype = dtype(id).ok_or_else(|| {
        bad(format!(
            "type {} is not supported; supported are F32, F16, BF16, F64, I8, I16, I32, I64, Q8_0, Q4_0, Q4_1: \
             quantise the model anew with one of them",
            type_name(id)
        ))
    })?;
    let row = shape.last().copied().unwrap_or(1);
    if !row.is_multiple_of(dtype.block_len()) {
        return Err(bad(format!(
            "its rows of {row} are not whole blocks of {} of {dtype}",
            dtype.block_len()
        )));
    }
    let bytes = checked_numel(&shape).and_then(|n| dtype.bytes_of(n));
    let bytes = bytes.ok_or_else(|| bad(format!("its shape {shape:?} is impossibly large")))?;
    if offset % alignment != 0 {
        return Err(bad(format!("its offset {offset} is not a multiple of the alignment {alignment}")));
    }
    let end = usize::try_from(offset).ok().and_then(|o| Some(o..o.checked_add(bytes)?));
    let range = end.ok_or_else(|| bad(format!("its offset {offset} is impossibly large")))?;
    Ok(Entry { name: name.to_owned(), dtype, shape, file: 0, range })
}

/// Moves the ranges to where the data begin, and checks that each is inside the file and that none overlap. Gaps are
/// allowed: that is what the alignment makes.
fn place(path: &Path, entries: &mut [Entry], start: usize, file: usize) -> Result<()> {
    let mut names = HashSet::new();
    for e in entries.iter_mut() {
        let end = start.checked_add(e.range.end).filter(|&end| end <= file);
        let Some(end) = end else {
            let what = format!(
                "its {} bytes at offset {} of the data leave the file, which has {} bytes of data (truncated?)",
                e.range.len(),
                e.range.start,
                file.saturating_sub(start)
            );
            return Err(Error::tensor(path, &e.name, what));
        };
        e.range = start + e.range.start..end;
        if !names.insert(e.name.as_str()) {
            return Err(Error::tensor(path, &e.name, "the name comes twice"));
        }
    }
    let mut order: Vec<&Entry> = entries.iter().filter(|e| !e.range.is_empty()).collect();
    order.sort_by_key(|e| e.range.start);
    if let Some(pair) = order.windows(2).find(|p| p[1].range.start < p[0].range.end) {
        return Err(Error::tensor(
            path,
            &pair[1].name,
            format!("its data overlap those of `{}`", shorten(&pair[0].name)),
        ));
    }
    Ok(())
}

fn dtype(id: u32) -> Option<DType> {
    Some(match id {
        0 => DType::F32,
        1 => DType::F16,
        2 => DType::Q4_0,
        3 => DType::Q4_1,
        8 => DType::Q8_0,
        24 => DType::I8,
        25 => DType::I16,
        26 => DType::I32,
        27 => DType::I64,
        28 => DType::F64,
        30 => DType::BF16,
        _ => return None,
    })
}

/// The name of a ggml type that is not supported, for messages.
fn type_name(id: u32) -> String {
    let name = match id {
        6 => "Q5_0",
        7 => "Q5_1",
        9 => "Q8_1",
        10 => "Q2_K",
        11 => "Q3_K",
        12 => "Q4_K",
        13 => "Q5_K",
        14 => "Q6_K",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        _ => return format!("{id} (unknown)"),
    };
    format!("{name} ({id})")
}
