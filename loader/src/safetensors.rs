//! The safetensors header, by hand.
//!
//! The format is eight bytes of length, a JSON object, and data. The `safetensors` crate reads it well, but keeps the
//! last of two tensors of one name in silence and reports a lie without naming the tensor; so the header is read
//! here, with every invariant of the format checked before anything as large as the file is allocated:
//!
//! 1. the header fits in the file and in 100 MB (the limit of the reference implementation) and is a JSON object;
//! 2. no name comes twice; every dtype is known;
//! 3. `data_offsets` = [begin, end] with begin ≤ end ≤ size of the data, and end − begin = shape × dtype;
//! 4. the tensors cover the data without overlap and without holes.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::Path;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};

use crate::dtype::{DType, checked_numel};
use crate::error::{Error, Result, shorten};
use crate::weights::Entry;

const FORMAT: &str = "safetensors";
const MAX_HEADER: u64 = 100_000_000;

#[derive(Deserialize)]
struct RawTensor {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

struct Header {
    metadata: HashMap<String, String>,
    tensors: Vec<(String, RawTensor)>,
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct HeaderVisitor;
        impl<'de> Visitor<'de> for HeaderVisitor {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut header = Header { metadata: HashMap::new(), tensors: Vec::new() };
                let mut seen = HashSet::new();
                while let Some(name) = map.next_key::<String>()? {
                    if !seen.insert(name.clone()) {
                        return Err(A::Error::custom(format!("`{}` comes twice", shorten(&name))));
                    }
                    if name == "__metadata__" {
                        header.metadata = map.next_value()?;
                    } else {
                        let tensor = map
                            .next_value()
                            .map_err(|e| A::Error::custom(format!("tensor `{}`: {e}", shorten(&name))))?;
                        header.tensors.push((name, tensor));
                    }
                }
                Ok(header)
            }
        }
        deserializer.deserialize_map(HeaderVisitor)
    }
}

/// Reads the header of `data`, the whole file. The entries come in the order of their data.
pub(crate) fn parse(path: &Path, data: &[u8]) -> Result<(Vec<Entry>, HashMap<String, String>)> {
    let bad = |what: String| Error::corrupt(path, FORMAT, what);
    let Some((length, rest)) = data.split_first_chunk::<8>() else {
        return Err(bad(format!("{} bytes are too few for a header", data.len())));
    };
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER {
        return Err(bad(format!("the header claims {length} bytes, the limit is {MAX_HEADER}")));
    }
    if length > rest.len() as u64 {
        return Err(bad(format!(
            "the header claims {length} bytes, the file has {} left (truncated?)",
            rest.len()
        )));
    }
    let (header, payload) = rest.split_at(length as usize);
    let header: Header =
        serde_json::from_slice(header).map_err(|e| bad(format!("the header is wrong: {e}")))?;

    let data_start = 8 + length as usize;
    let mut entries = Vec::with_capacity(header.tensors.len());
    for (name, raw) in header.tensors {
        let bad = |what: String| Error::tensor(path, &name, what);
        let dtype = DType::PLAIN.into_iter().find(|d| d.name() == raw.dtype).ok_or_else(|| {
            let known = DType::PLAIN.map(DType::name).join(", ");
            bad(format!("dtype {} is not supported; supported are {known}", shorten(&raw.dtype)))
        })?;
        let shape = raw
            .shape
            .iter()
            .map(|&d| usize::try_from(d).ok())
            .collect::<Option<Vec<usize>>>()
            .filter(|s| checked_numel(s).and_then(|n| dtype.bytes_of(n)).is_some())
            .ok_or_else(|| bad(format!("its shape {:?} is impossibly large", raw.shape)))?;
        let bytes = checked_numel(&shape).and_then(|n| dtype.bytes_of(n)).unwrap_or(0);
        let [begin, end] = raw.data_offsets;
        if begin > end {
            return Err(bad(format!("its data_offsets [{begin}, {end}] run backwards")));
        }
        if end > payload.len() as u64 {
            return Err(bad(format!(
                "its data ends at byte {end}, the file holds {} bytes of data (truncated?)",
                payload.len()
            )));
        }
        if end - begin != bytes as u64 {
            return Err(bad(format!(
                "its data has {} bytes, shape {shape:?} of {dtype} takes {bytes}",
                end - begin
            )));
        }
        let range = data_start + begin as usize..data_start + end as usize;
        entries.push(Entry { name, dtype, shape, file: 0, range });
    }

    entries.sort_by_key(|e| (e.range.start, e.range.end));
    let mut at = data_start;
    for e in &entries {
        if e.range.start != at {
            let which = if e.range.start < at { "overlaps the tensor before it" } else { "follows a hole" };
            return Err(Error::tensor(
                path,
                &e.name,
                format!(
                    "its data starts at byte {}, {} was due: it {which}",
                    e.range.start - data_start,
                    at - data_start
                ),
            ));
        }
        at = e.range.end;
    }
    if at != data.len() {
        return Err(bad(format!("{} bytes after the last tensor belong to none", data.len() - at)));
    }
    Ok((entries, header.metadata))
}
