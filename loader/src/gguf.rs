//! GGUF, the format of llama.cpp: metadata (where configuration and tokenizer live) and tensors, quantised or not.
//!
//! The file says how long everything in it is, so every count is held against the bytes that are left before it is believed, and
//! nothing is copied: a metadata value is kept as the range where it lies and decoded when asked for. A vocabulary of
//! 150,000 words costs what its iterator costs.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::ops::Range;
use std::path::Path;

use crate::dtype::{DType, checked_numel};
use crate::error::{Error, Result, shorten};
use crate::weights::Entry;

const FORMAT: &str = "GGUF";
const DEFAULT_ALIGNMENT: u64 = 32;
const MAX_RANK: u32 = 8;
/// Bounds the tables of keys and of tensors; the largest models have a few thousand of each.
const MAX_ITEMS: u64 = 1 << 20;

/// The type of a metadata value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    Str,
    Array,
    U64,
    I64,
    F64,
}

impl Kind {
    fn of(id: u32) -> Option<Self> {
        use Kind::*;
        [U8, I8, U16, I16, U32, I32, F32, Bool, Str, Array, U64, I64, F64].get(id as usize).copied()
    }

    /// Bytes of a value, or the fewest it can have.
    fn size(self) -> usize {
        match self {
            Kind::U8 | Kind::I8 | Kind::Bool => 1,
            Kind::U16 | Kind::I16 => 2,
            Kind::U32 | Kind::I32 | Kind::F32 => 4,
            Kind::U64 | Kind::I64 | Kind::F64 | Kind::Str => 8,
            Kind::Array => 12,
        }
    }
}

/// A metadata value, borrowed from the file. All integers are widened.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum MetaValue<'a> {
    /// An unsigned integer of any width.
    Unsigned(u64),
    /// A signed integer of any width.
    Signed(i64),
    /// A float of either width.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// A string.
    Str(&'a str),
    /// An array of values of one type.
    Array(MetaArray<'a>),
}

/// An array of metadata values, decoded while it is iterated.
#[derive(Clone, Copy, PartialEq)]
pub struct MetaArray<'a> {
    kind: Kind,
    len: usize,
    bytes: &'a [u8],
}

impl fmt::Debug for MetaArray<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{:?}; {}]", self.kind, self.len)
    }
}

impl<'a> MetaArray<'a> {
    /// Number of values.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The values, in order.
    pub fn iter(&self) -> impl Iterator<Item = MetaValue<'a>> + use<'a> {
        let mut reader = Reader { bytes: self.bytes, at: 0 };
        let kind = self.kind;
        // The values were walked once when the file was opened, so none is cut short.
        (0..self.len).map_while(move |_| reader.value(kind).ok())
    }
}

impl<'a> MetaValue<'a> {
    /// The value as an unsigned number, if it is an integer and not negative.
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            MetaValue::Unsigned(n) => Some(n),
            MetaValue::Signed(n) => u64::try_from(n).ok(),
            _ => None,
        }
    }

    /// The value as a float, if it is a number.
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            MetaValue::Float(x) => Some(x),
            MetaValue::Unsigned(n) => Some(n as f64),
            MetaValue::Signed(n) => Some(n as f64),
            _ => None,
        }
    }

    /// The value as a string.
    pub fn as_str(&self) -> Option<&'a str> {
        match *self {
            MetaValue::Str(s) => Some(s),
            _ => None,
        }
    }

    /// The value as a truth value.
    pub fn as_bool(&self) -> Option<bool> {
        match *self {
            MetaValue::Bool(b) => Some(b),
            _ => None,
        }
    }

    /// The value as an array.
    pub fn as_array(&self) -> Option<MetaArray<'a>> {
        match *self {
            MetaValue::Array(a) => Some(a),
            _ => None,
        }
    }
}

/// Where the metadata of an open file lies: key → type and bytes.
#[derive(Debug, Default)]
pub(crate) struct MetaTable {
    keys: Vec<String>,
    values: HashMap<String, (Kind, Range<usize>)>,
}

/// The metadata of a GGUF file, in file order.
#[derive(Clone, Copy)]
pub struct Metadata<'a> {
    pub(crate) table: &'a MetaTable,
    pub(crate) file: &'a [u8],
}

impl<'a> Metadata<'a> {
    /// All keys.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = &'a str> + use<'a> {
        self.table.keys.iter().map(String::as_str)
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<MetaValue<'a>> {
        let (kind, range) = self.table.values.get(key)?;
        Reader { bytes: &self.file[range.clone()], at: 0 }.value(*kind).ok()
    }

    /// The value of a key as an unsigned number; see [`MetaValue::as_u64`].
    pub fn u64(&self, key: &str) -> Option<u64> {
        self.get(key)?.as_u64()
    }

    /// The value of a key as a float; see [`MetaValue::as_f64`].
    pub fn f64(&self, key: &str) -> Option<f64> {
        self.get(key)?.as_f64()
    }

    /// The value of a key as a string.
    pub fn str(&self, key: &str) -> Option<&'a str> {
        self.get(key)?.as_str()
    }

    /// The value of a key as a truth value.
    pub fn bool(&self, key: &str) -> Option<bool> {
        self.get(key)?.as_bool()
    }

    /// The value of a key as an array.
    pub fn array(&self, key: &str) -> Option<MetaArray<'a>> {
        self.get(key)?.as_array()
    }
}

/// Reads little-endian values; every error is a sentence without the file's name.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], String> {
        let left = self.bytes.len() - self.at;
        if n > left {
            return Err(format!("{n} bytes are due at {}, {left} are left (truncated?)", self.at));
        }
        self.at += n;
        Ok(&self.bytes[self.at - n..self.at])
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    fn u32(&mut self) -> Result<u32, String> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, String> {
        self.array().map(u64::from_le_bytes)
    }

    /// A count of things of at least `size` bytes each.
    fn count(&mut self, size: usize) -> Result<usize, String> {
        let n = self.u64()?;
        let left = self.bytes.len() - self.at;
        match usize::try_from(n).ok().filter(|n| n.checked_mul(size).is_some_and(|bytes| bytes <= left)) {
            Some(n) => Ok(n),
            None => Err(format!(
                "{n} items of at least {size} bytes are claimed at {}, {left} bytes are left",
                self.at - 8
            )),
        }
    }

    fn text(&mut self) -> Result<&'a str, String> {
        let n = self.count(1)?;
        let at = self.at;
        std::str::from_utf8(self.take(n)?).map_err(|_| format!("the string at {at} is not UTF-8"))
    }

    fn kind(&mut self) -> Result<Kind, String> {
        let id = self.u32()?;
        Kind::of(id).ok_or_else(|| format!("{id} is not a type of metadata (0 to 12)"))
    }

    fn value(&mut self, kind: Kind) -> Result<MetaValue<'a>, String> {
        use MetaValue::*;
        Ok(match kind {
            Kind::U8 => Unsigned(self.array::<1>()?[0].into()),
            Kind::I8 => Signed((self.array::<1>()?[0] as i8).into()),
            Kind::U16 => Unsigned(u16::from_le_bytes(self.array()?).into()),
            Kind::I16 => Signed(i16::from_le_bytes(self.array()?).into()),
            Kind::U32 => Unsigned(self.u32()?.into()),
            Kind::I32 => Signed(i32::from_le_bytes(self.array()?).into()),
            Kind::U64 => Unsigned(self.u64()?),
            Kind::I64 => Signed(i64::from_le_bytes(self.array()?)),
            Kind::F32 => Float(f32::from_le_bytes(self.array()?).into()),
            Kind::F64 => Float(f64::from_le_bytes(self.array()?)),
            Kind::Bool => match self.array::<1>()?[0] {
                b @ 0..=1 => Bool(b == 1),
                b => return Err(format!("{b} is not a truth value (0 or 1)")),
            },
            Kind::Str => Str(self.text()?),
            Kind::Array => {
                let kind = self.kind()?;
                if kind == Kind::Array {
                    return Err("arrays of arrays are not supported".into());
                }
                let len = self.count(kind.size())?;
                let start = self.at;
                for _ in 0..len {
                    self.value(kind)?;
                }
                Array(MetaArray { kind, len, bytes: &self.bytes[start..self.at] })
            }
        })
    }
}

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
    // The smallest tensor has a name's length, a rank, a type and an offset; the smallest key a length, a type and a byte.
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

/// Moves the ranges to where the data begin, and checks that each is inside the file and that none overlap. Gaps are allowed:
/// that is what the alignment makes.
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
