//! The directory of a zip archive, by hand: only where each entry lies.
//!
//! `torch.save` stores its entries uncompressed, and the point of reading them is to leave them where they are, in
//! the map. So all that is needed of zip is its central directory with the 64-bit extension (a released checkpoint
//! has nine gigabytes); that is less code than adapting a library whose purpose is to decompress streams.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use crate::error::{Error, Result, shorten};

const FORMAT: &str = "PyTorch .pth (zip)";
const END: &[u8] = b"PK\x05\x06";
const END64: &[u8] = b"PK\x06\x06";
const END64_LOCATOR: &[u8] = b"PK\x06\x07";
const CENTRAL: &[u8] = b"PK\x01\x02";
const LOCAL: &[u8] = b"PK\x03\x04";

/// An entry whose bytes lie in the archive as they are.
pub(crate) struct Archive {
    entries: HashMap<String, Range<usize>>,
}

impl Archive {
    /// Reads the directory of the archive `data`. A compressed or encrypted entry, a name that comes twice and a
    /// range outside the file are errors.
    pub fn parse(path: &Path, data: &[u8]) -> Result<Self> {
        let bad = |what: &str| Error::corrupt(path, FORMAT, what);
        let (mut at, end, count) = directory(data)
            .ok_or_else(|| bad("it has no end-of-directory record (truncated, an interrupted download?)"))?;
        if end > data.len() || at > end {
            return Err(bad("its directory lies outside the file"));
        }
        // Each entry takes 46 bytes, so the count cannot make anything large; it must only agree in the end.
        let mut entries = HashMap::new();
        while at < end {
            let record = data.get(at..end).filter(|r| r.len() >= 46 && r.starts_with(CENTRAL));
            let record = record.ok_or_else(|| bad("its directory is damaged"))?;
            let sized = |at: usize| u16_at(record, at) as usize;
            let (name_len, extra_len, comment_len) = (sized(28), sized(30), sized(32));
            let name = record.get(46..46 + name_len).and_then(|n| std::str::from_utf8(n).ok());
            let extra = record.get(46 + name_len..46 + name_len + extra_len);
            let (Some(name), Some(extra)) = (name, extra) else {
                return Err(bad("its directory is damaged"));
            };
            let bad = |what: &str| bad(&format!("entry `{}` {what}", shorten(name)));
            if u16_at(record, 8) & 1 != 0 {
                return Err(bad("is encrypted"));
            }
            if u16_at(record, 10) != 0 {
                let what = format!(
                    "entry `{}` is compressed; torch.save does not compress: unpack the archive \
                     and pack it with `zip -0`, or save it anew",
                    shorten(name)
                );
                return Err(Error::unsupported(path, what));
            }
            let (size, packed, offset) =
                sizes(record, extra).ok_or_else(|| bad("has a damaged 64-bit extension"))?;
            if size != packed {
                return Err(bad("is stored, but its two sizes differ"));
            }
            let range = content(data, offset, size).ok_or_else(|| {
                bad(&format!("of {size} bytes at {offset} lies outside the file (truncated?)"))
            })?;
            if entries.insert(name.to_owned(), range).is_some() {
                return Err(bad("comes twice"));
            }
            at += 46 + name_len + extra_len + comment_len;
        }
        if entries.len() as u64 != count {
            return Err(bad(&format!("its directory claims {count} entries and has {}", entries.len())));
        }
        Ok(Archive { entries })
    }

    /// Where the bytes of an entry lie.
    pub fn get(&self, name: &str) -> Option<Range<usize>> {
        self.entries.get(name).cloned()
    }

    /// The names of all entries.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }
}

/// Start and end of the central directory and the number of its entries.
fn directory(data: &[u8]) -> Option<(usize, usize, u64)> {
    // The record is 22 bytes and a comment of at most 65535.
    let from = data.len().saturating_sub(22 + 65535);
    let tail = &data[from..];
    let at = from + tail.windows(4).rposition(|w| w == END).filter(|&i| i + 22 <= tail.len())?;
    let end = &data[at..];
    let (count, size, offset) = (u16_at(end, 10), u32_at(end, 12), u32_at(end, 16));
    if count != u16::MAX && size != u32::MAX && offset != u32::MAX {
        return Some((offset as usize, (offset as usize).checked_add(size as usize)?, count as u64));
    }
    let locator = data.get(at.checked_sub(20)?..at).filter(|l| l.starts_with(END64_LOCATOR))?;
    let at64 = usize::try_from(u64_at(locator, 8)).ok()?;
    let end64 = data.get(at64..at64.checked_add(56)?).filter(|e| e.starts_with(END64))?;
    let (count, size, offset) = (u64_at(end64, 32), u64_at(end64, 40), u64_at(end64, 48));
    let offset = usize::try_from(offset).ok()?;
    Some((offset, offset.checked_add(usize::try_from(size).ok()?)?, count))
}

/// Size, packed size and offset of an entry, from the record or, where that is saturated, from the 64-bit extension.
fn sizes(record: &[u8], mut extra: &[u8]) -> Option<(u64, u64, u64)> {
    let mut values = [u32_at(record, 24), u32_at(record, 20), u32_at(record, 42)].map(u64::from);
    if values.contains(&(u32::MAX as u64)) {
        let mut fields = loop {
            let (id, len) = (extra.get(..2)?, u16_at(extra.get(..4)?, 2) as usize);
            let body = extra.get(4..4 + len)?;
            if id == [1, 0] {
                break body.chunks_exact(8);
            }
            extra = &extra[4 + len..];
        };
        for v in values.iter_mut().filter(|v| **v == u32::MAX as u64) {
            *v = u64_at(fields.next()?, 0);
        }
    }
    let [size, packed, offset] = values;
    Some((size, packed, offset))
}

/// The bytes of an entry: behind its local header, whose name and extra field may differ in length from the
/// directory's.
fn content(data: &[u8], offset: u64, size: u64) -> Option<Range<usize>> {
    let offset = usize::try_from(offset).ok()?;
    let header = data.get(offset..offset.checked_add(30)?).filter(|h| h.starts_with(LOCAL))?;
    let start = offset + 30 + u16_at(header, 26) as usize + u16_at(header, 28) as usize;
    let end = start.checked_add(usize::try_from(size).ok()?)?;
    (end <= data.len()).then_some(start..end)
}

// The callers have checked that the bytes are there.
fn u16_at(b: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([b[at], b[at + 1]])
}

fn u32_at(b: &[u8], at: usize) -> u32 {
    u16_at(b, at) as u32 | (u16_at(b, at + 2) as u32) << 16
}

fn u64_at(b: &[u8], at: usize) -> u64 {
    u32_at(b, at) as u64 | (u32_at(b, at + 4) as u64) << 32
}
