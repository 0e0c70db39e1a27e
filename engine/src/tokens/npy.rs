//! NumPy's array file, for arrays of integers.
//!
//! `\x93NUMPY`, a version, the length of a header that is a Python dict literal, the header padded to a multiple of 64
//! bytes, then the raw values (numpy.lib.format, versions 1 to 3). The header is parsed by hand: it has three known
//! keys, and whatever else a Python literal could be is refused.

use super::{Dtype, Tokens};

const MAGIC: &[u8] = b"\x93NUMPY";

/// The bytes that `np.save` writes for `tokens` as int64.
pub(super) fn encode(tokens: &Tokens) -> Vec<u8> {
    let dict =
        format!("{{'descr': '<i8', 'fortran_order': False, 'shape': ({}, {}), }}", tokens.batch, tokens.len);
    // NumPy leaves room to grow the first axis in place to 21 digits; with it or without, such a header takes 128
    // bytes in all.
    let unpadded = MAGIC.len() + 4 + dict.len() + 1;
    let padding = unpadded.next_multiple_of(64).max(128) - unpadded;
    let mut out = Vec::with_capacity(unpadded + padding + tokens.ids.len() * 8);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&[1, 0]);
    out.extend_from_slice(&((dict.len() + padding + 1) as u16).to_le_bytes());
    out.extend_from_slice(dict.as_bytes());
    out.resize(out.len() + padding, b' ');
    out.push(b'\n');
    out.extend(tokens.ids.iter().flat_map(|&id| i64::from(id).to_le_bytes()));
    out
}

/// Reads integers of any size, either byte order, one or two dimensions; one dimension is one picture.
pub(super) fn decode(bytes: &[u8]) -> Result<Tokens, String> {
    let rest =
        bytes.strip_prefix(MAGIC).ok_or("not a NumPy array file (it does not begin with \\x93NUMPY)")?;
    let cut = "the NumPy header is cut short";
    let (length, start): (usize, usize) = match rest {
        [1, _, a, b, ..] => (usize::from(u16::from_le_bytes([*a, *b])), 4),
        [2 | 3, _, a, b, c, d, ..] => (u32::from_le_bytes([*a, *b, *c, *d]) as usize, 6),
        [1..=3, ..] | [] => return Err(cut.into()),
        [version, ..] => return Err(format!("NumPy format version {version}; versions 1 to 3 are known")),
    };
    let end = start.checked_add(length).filter(|&end| end <= rest.len()).ok_or(cut)?;
    let header = std::str::from_utf8(&rest[start..end]).map_err(|_| "the NumPy header is not text")?;
    let header = Header::parse(header).ok_or_else(|| {
        let shown: String = header.trim().chars().take(100).collect();
        format!("the NumPy header {shown:?} is not {{'descr': ..., 'fortran_order': ..., 'shape': (...)}}")
    })?;
    if header.fortran_order && header.shape.len() > 1 {
        return Err("the array is in Fortran order; save np.ascontiguousarray(tokens)".into());
    }
    let (dtype, big_endian) = match header.descr {
        "<i8" => (Dtype::I64, false),
        ">i8" => (Dtype::I64, true),
        "<u8" => (Dtype::U64, false),
        ">u8" => (Dtype::U64, true),
        "<i4" => (Dtype::I32, false),
        ">i4" => (Dtype::I32, true),
        "<u4" => (Dtype::U32, false),
        ">u4" => (Dtype::U32, true),
        "<i2" => (Dtype::I16, false),
        ">i2" => (Dtype::I16, true),
        "<u2" => (Dtype::U16, false),
        ">u2" => (Dtype::U16, true),
        "|u1" => (Dtype::U8, false),
        other => {
            return Err(format!(
                "values of type {other:?}; tokens are integers: save tokens.astype(np.int64)"
            ));
        }
    };
    dtype.tokens(&rest[end..], &header.shape, big_endian)
}

struct Header<'a> {
    descr: &'a str,
    fortran_order: bool,
    shape: Vec<usize>,
}

impl<'a> Header<'a> {
    /// The dict, its keys in any order, each once.
    fn parse(text: &'a str) -> Option<Self> {
        let mut rest = text.trim().strip_prefix('{')?.trim_start();
        let (mut descr, mut fortran_order, mut shape) = (None, None, None);
        while !rest.starts_with('}') {
            let (key, value) = string(rest)?;
            let value = value.trim_start().strip_prefix(':')?.trim_start();
            rest = match key {
                "descr" if descr.is_none() => {
                    let (text, rest) = string(value)?;
                    descr = Some(text);
                    rest
                }
                "fortran_order" if fortran_order.is_none() => {
                    let (flag, rest) = match value.strip_prefix("True") {
                        Some(rest) => (true, rest),
                        None => (false, value.strip_prefix("False")?),
                    };
                    fortran_order = Some(flag);
                    rest
                }
                "shape" if shape.is_none() => {
                    let (inner, rest) = value.strip_prefix('(')?.split_once(')')?;
                    let sizes = inner.split(',').map(str::trim);
                    // Two dimensions are enough here; a thousand would be somebody's joke.
                    shape = Some(
                        sizes
                            .filter(|s| !s.is_empty())
                            .take(33)
                            .map(|s| s.parse().ok())
                            .collect::<Option<_>>()?,
                    );
                    rest
                }
                _ => return None,
            };
            rest = rest.trim_start();
            rest = match rest.strip_prefix(',') {
                Some(next) => next.trim_start(),
                None if rest.starts_with('}') => rest,
                None => return None,
            };
        }
        (rest == "}").then_some(())?;
        Some(Self { descr: descr?, fortran_order: fortran_order?, shape: shape? })
    }
}

/// A quoted Python string without escapes, and what follows it.
fn string(text: &str) -> Option<(&str, &str)> {
    let quote = text.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    text[1..].split_once(quote)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        [MAGIC, &[1, 0], &(header.len() as u16).to_le_bytes(), header.as_bytes(), data].concat()
    }

    #[test]
    fn integers_of_either_byte_order_are_read() {
        let read = |descr: &str, data: &[u8]| {
            decode(&file(
                &format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': (1, 2), }}\n"),
                data,
            ))
            .unwrap()
            .ids
        };
        assert_eq!(read("<u2", &[1, 0, 255, 127]), [1, 32767]);
        assert_eq!(read(">u2", &[0, 1, 127, 255]), [1, 32767]);
        assert_eq!(read("<i4", &[1, 0, 0, 0, 2, 1, 0, 0]), [1, 258]);
        assert_eq!(read(">i8", &[0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 2]), [1, 258]);
        assert_eq!(read("|u1", &[200, 3]), [200, 3]);
    }

    #[test]
    fn one_dimension_is_one_picture() {
        let tokens =
            decode(&file("{'descr': '<u2', 'fortran_order': True, 'shape': (3,), }", &[1, 0, 2, 0, 3, 0]));
        let tokens = tokens.unwrap();
        assert_eq!((tokens.batch, tokens.len, tokens.ids), (1, 3, vec![1, 2, 3]));
    }

    #[test]
    fn keys_may_come_in_any_order_and_without_the_last_comma() {
        let header = r#"{ "shape": (2, 1) , "fortran_order": False, "descr": "|u1" }"#;
        assert_eq!(decode(&file(header, &[7, 8])).unwrap().batch, 2);
    }

    #[test]
    fn what_cannot_be_tokens_is_explained() {
        let error = |header: &str, data: &[u8]| decode(&file(header, data)).unwrap_err();
        let cases = [
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }", "tokens.astype(np.int64)"),
            ("{'descr': '<u2', 'fortran_order': True, 'shape': (2, 2), }", "np.ascontiguousarray(tokens)"),
            (
                "{'descr': '<u2', 'fortran_order': False, 'shape': (1, 1, 2), }",
                "tokens are [pictures, tokens]",
            ),
            (
                "{'descr': '<u2', 'fortran_order': False, 'shape': (9999999999, 9999999999), }",
                "the header says",
            ),
            (
                "{'descr': '<u2', 'fortran_order': False, 'shape': (99999999999999999999,), }",
                "the NumPy header",
            ),
            ("{'descr': '<u2', 'fortran_order': False, 'shape': (), }", "shape []"),
            ("{'descr': '<u2', 'fortran_order': False, }", "the NumPy header"),
            ("{'descr': '<u2', 'descr': '<u2', 'fortran_order': False, 'shape': (1,)}", "the NumPy header"),
            ("{'descr': '<u2', 'fortran_order': False, 'shape': (1,)} x", "the NumPy header"),
            ("{'descr': '<i4', 'fortran_order': False, 'shape': (1,)}", "-1 is no token id"),
        ];
        for (header, expected) in cases {
            let error = error(header, &[0xff; 4]);
            assert!(error.contains(expected), "{header}: {error}");
        }
        assert!(
            error("{'descr': '<u2', 'fortran_order': False, 'shape': (0, 5), }", &[]).contains("no tokens")
        );
        assert!(decode(b"PK\x03\x04").unwrap_err().contains("not a NumPy array file"));
        assert!(decode(b"\x93NUMPY").unwrap_err().contains("cut short"));
        assert!(decode(b"\x93NUMPY\x02\0\xff\xff\xff\xff{").unwrap_err().contains("cut short"));
        assert!(decode(b"\x93NUMPY\x09\0\0\0").unwrap_err().contains("version 9"));
    }
}
