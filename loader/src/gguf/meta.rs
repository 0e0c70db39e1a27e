//! GGUF metadata: typed values, decoded when asked for.
//!
//! A value is kept as the range of the file where it lies, so a vocabulary of 150,000 words costs what its iterator
//! costs.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;

use super::reader::Reader;

/// The type of a metadata value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
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
    pub(super) fn of(id: u32) -> Option<Self> {
        use Kind::*;
        [U8, I8, U16, I16, U32, I32, F32, Bool, Str, Array, U64, I64, F64].get(id as usize).copied()
    }

    /// Bytes of a value, or the fewest it can have.
    pub(super) fn size(self) -> usize {
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
    pub(super) kind: Kind,
    pub(super) len: usize,
    pub(super) bytes: &'a [u8],
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
    pub(super) keys: Vec<String>,
    pub(super) values: HashMap<String, (Kind, Range<usize>)>,
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
