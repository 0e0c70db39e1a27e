//! Writes GGUF files, with or without lies.
#![allow(dead_code)]

/// A metadata value with its type.
pub enum Meta<'a> {
    U32(u32),
    I64(i64),
    F32(f32),
    Bool(u8),
    Str(&'a str),
    Strs(&'a [&'a str]),
    /// Type id and bytes, as they are.
    Raw(u32, Vec<u8>),
}

/// Name, dimensions (fastest first), type id, offset.
pub type TensorRow<'a> = (&'a str, &'a [u64], u32, u64);

pub fn string(s: &str) -> Vec<u8> {
    [&(s.len() as u64).to_le_bytes()[..], s.as_bytes()].concat()
}

/// A file of this version whose tables say this; the data start at the next multiple of 32.
pub fn gguf(version: u32, meta: &[(&str, Meta)], tensors: &[TensorRow], data: &[u8]) -> Vec<u8> {
    let mut out = b"GGUF".to_vec();
    out.extend(version.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((meta.len() as u64).to_le_bytes());
    for (key, value) in meta {
        out.extend(string(key));
        let (kind, bytes) = match value {
            Meta::U32(n) => (4, n.to_le_bytes().to_vec()),
            Meta::I64(n) => (11, n.to_le_bytes().to_vec()),
            Meta::F32(x) => (6, x.to_le_bytes().to_vec()),
            Meta::Bool(b) => (7, vec![*b]),
            Meta::Str(s) => (8, string(s)),
            Meta::Strs(s) => {
                let head = [&8u32.to_le_bytes()[..], &(s.len() as u64).to_le_bytes()].concat();
                (9, [head, s.iter().flat_map(|s| string(s)).collect()].concat())
            }
            Meta::Raw(kind, bytes) => (*kind, bytes.clone()),
        };
        out.extend(kind.to_le_bytes());
        out.extend(bytes);
    }
    for (name, dims, kind, offset) in tensors {
        out.extend(string(name));
        out.extend((dims.len() as u32).to_le_bytes());
        out.extend(dims.iter().flat_map(|d| d.to_le_bytes()));
        out.extend(kind.to_le_bytes());
        out.extend(offset.to_le_bytes());
    }
    out.resize(out.len().next_multiple_of(32), 0);
    out.extend(data);
    out
}
