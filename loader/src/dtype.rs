//! Element types of stored tensors.
//!
//! A quantised GGUF format is a dtype like any other: its unit of storage is a block of 32 elements along the last
//! axis, while for plain types the block is one element. Everything that counts bytes goes through
//! [`DType::bytes_of`].

use std::fmt;

/// How the elements of a stored tensor are encoded; always little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DType {
    /// IEEE binary64.
    F64,
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// The upper half of a binary32.
    BF16,
    /// Signed 64-bit integer.
    I64,
    /// Signed 32-bit integer.
    I32,
    /// Signed 16-bit integer.
    I16,
    /// Signed 8-bit integer.
    I8,
    /// Unsigned 8-bit integer.
    U8,
    /// One byte, 0 or 1.
    Bool,
    /// GGUF Q8_0: blocks of 32 elements in 34 bytes: f16 scale `d`, then 32 × i8 `q`; x = d·q.
    Q8_0,
    /// GGUF Q4_0: blocks of 32 elements in 18 bytes: f16 scale `d`, then 16 bytes of nibbles; x = d·(q − 8).
    /// Byte j holds element j in its low nibble and element j + 16 in its high nibble.
    Q4_0,
    /// GGUF Q4_1: blocks of 32 elements in 20 bytes: f16 scale `d`, f16 minimum `m`, then nibbles as in Q4_0; x = d·q
    /// + m.
    Q4_1,
}

impl DType {
    /// Elements in one unit of storage: 32 for the quantised types, otherwise 1.
    pub const fn block_len(self) -> usize {
        match self {
            DType::Q8_0 | DType::Q4_0 | DType::Q4_1 => 32,
            _ => 1,
        }
    }

    /// Bytes of one unit of storage.
    pub const fn block_bytes(self) -> usize {
        match self {
            DType::F64 | DType::I64 => 8,
            DType::F32 | DType::I32 => 4,
            DType::F16 | DType::BF16 | DType::I16 => 2,
            DType::I8 | DType::U8 | DType::Bool => 1,
            DType::Q8_0 => 34,
            DType::Q4_0 => 18,
            DType::Q4_1 => 20,
        }
    }

    /// Bytes of `elements` elements; `None` if they do not fill whole blocks or the product overflows.
    pub fn bytes_of(self, elements: usize) -> Option<usize> {
        if !elements.is_multiple_of(self.block_len()) {
            return None;
        }
        (elements / self.block_len()).checked_mul(self.block_bytes())
    }

    /// True for the block formats of GGUF.
    pub const fn is_quantised(self) -> bool {
        self.block_len() > 1
    }

    /// True for F64, F32, F16 and BF16.
    pub const fn is_float(self) -> bool {
        matches!(self, DType::F64 | DType::F32 | DType::F16 | DType::BF16)
    }

    /// The name used in safetensors headers (and, for the quantised types, in GGUF).
    pub const fn name(self) -> &'static str {
        match self {
            DType::F64 => "F64",
            DType::F32 => "F32",
            DType::F16 => "F16",
            DType::BF16 => "BF16",
            DType::I64 => "I64",
            DType::I32 => "I32",
            DType::I16 => "I16",
            DType::I8 => "I8",
            DType::U8 => "U8",
            DType::Bool => "BOOL",
            DType::Q8_0 => "Q8_0",
            DType::Q4_0 => "Q4_0",
            DType::Q4_1 => "Q4_1",
        }
    }

    /// The plain dtypes, in the order of their names in messages.
    pub(crate) const PLAIN: [DType; 10] = [
        DType::F64,
        DType::F32,
        DType::F16,
        DType::BF16,
        DType::I64,
        DType::I32,
        DType::I16,
        DType::I8,
        DType::U8,
        DType::Bool,
    ];
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Number of elements of a shape; `None` on overflow. An empty shape is a scalar with one element.
pub(crate) fn checked_numel(shape: &[usize]) -> Option<usize> {
    // A zero anywhere makes the product zero, whatever the others are; without this rule [2^40, 2^40, 0] would
    // overflow.
    if shape.contains(&0) {
        return Some(0);
    }
    shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))
}
