//! Reads GGUF's little-endian values. The file says how long everything in it is, so every count is held against the
//! bytes that are left before it is believed.

use super::meta::{Kind, MetaArray, MetaValue};

/// Reads little-endian values; every error is a sentence without the file's name.
pub(super) struct Reader<'a> {
    pub bytes: &'a [u8],
    pub at: usize,
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

    pub fn u32(&mut self) -> Result<u32, String> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Result<u64, String> {
        self.array().map(u64::from_le_bytes)
    }

    /// A count of things of at least `size` bytes each.
    pub fn count(&mut self, size: usize) -> Result<usize, String> {
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

    pub fn text(&mut self) -> Result<&'a str, String> {
        let n = self.count(1)?;
        let at = self.at;
        std::str::from_utf8(self.take(n)?).map_err(|_| format!("the string at {at} is not UTF-8"))
    }

    pub fn kind(&mut self) -> Result<Kind, String> {
        let id = self.u32()?;
        Kind::of(id).ok_or_else(|| format!("{id} is not a type of metadata (0 to 12)"))
    }

    pub fn value(&mut self, kind: Kind) -> Result<MetaValue<'a>, String> {
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
