//! Splits PTX text into tokens. Words keep their `%`, `$` and `_`; a dotted word is one token without its dot.

use super::ast::Number;
use crate::error::ModuleError;

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Token<'a> {
    Word(&'a str),
    Dot(&'a str),
    Number(Number),
    Text(&'a str),
    Punct(char),
    End,
}

impl std::fmt::Display for Token<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Token::Word(w) => write!(f, "'{w}'"),
            Token::Dot(w) => write!(f, "'.{w}'"),
            Token::Number(Number::Int(n)) => write!(f, "the number {n}"),
            Token::Number(_) => write!(f, "a number"),
            Token::Text(_) => write!(f, "a string"),
            Token::Punct(c) => write!(f, "'{c}'"),
            Token::End => write!(f, "the end of the text"),
        }
    }
}

fn is_word(c: u8) -> bool {
    c.is_ascii_alphanumeric() || c == b'_' || c == b'$'
}

/// All tokens with their lines; the last is `End`.
pub(super) fn tokens(text: &str) -> Result<Vec<(Token<'_>, u32)>, ModuleError> {
    let bytes = text.as_bytes();
    let at = |i: usize| bytes.get(i).copied().unwrap_or(0);
    let mut out = Vec::new();
    let (mut i, mut line) = (0, 1);
    while i < bytes.len() {
        let c = bytes[i];
        match c {
            b'\n' => {
                line += 1;
                i += 1;
            }
            b' ' | b'\t' | b'\r' | 0 | 0x0b | 0x0c => i += 1,
            b'/' if at(i + 1) == b'/' => {
                while i < bytes.len() && bytes[i] != b'\n' {
                    i += 1;
                }
            }
            b'/' if at(i + 1) == b'*' => {
                let start = line;
                i += 2;
                while !(at(i) == b'*' && at(i + 1) == b'/') {
                    if i >= bytes.len() {
                        return Err(ModuleError::new(start, "comment without an end"));
                    }
                    line += u32::from(bytes[i] == b'\n');
                    i += 1;
                }
                i += 2;
            }
            b'"' => {
                let start = i + 1;
                i += 1;
                while i < bytes.len() && bytes[i] != b'"' && bytes[i] != b'\n' {
                    i += 1;
                }
                if at(i) != b'"' {
                    return Err(ModuleError::new(line, "string without an end"));
                }
                out.push((Token::Text(&text[start..i]), line));
                i += 1;
            }
            b'.' if is_word(at(i + 1)) => {
                let start = i + 1;
                i += 1;
                while is_word(at(i)) || (at(i) == b':' && at(i + 1) == b':') {
                    i += if at(i) == b':' { 2 } else { 1 };
                }
                out.push((Token::Dot(&text[start..i]), line));
            }
            b'0'..=b'9' => {
                let start = i;
                while is_word(at(i))
                    || (at(i) == b'.' && at(i + 1).is_ascii_digit() && !text[start..i].contains('.'))
                    || (matches!(at(i), b'+' | b'-')
                        && matches!(at(i - 1), b'e' | b'E')
                        && text[start..i].contains('.'))
                {
                    i += 1;
                }
                let number = number(&text[start..i]).ok_or_else(|| {
                    ModuleError::new(line, format!("'{}' is not a number", &text[start..i]))
                })?;
                out.push((Token::Number(number), line));
            }
            b'%' if is_word(at(i + 1)) => {
                let start = i;
                i += 1;
                while is_word(at(i)) {
                    i += 1;
                }
                out.push((Token::Word(&text[start..i]), line));
            }
            _ if is_word(c) => {
                let start = i;
                while is_word(at(i)) {
                    i += 1;
                }
                out.push((Token::Word(&text[start..i]), line));
            }
            b'{' | b'}' | b'[' | b']' | b'(' | b')' | b'<' | b'>' | b',' | b';' | b':' | b'@' | b'!'
            | b'|' | b'+' | b'-' | b'=' | b'~' | b'*' => {
                out.push((Token::Punct(c as char), line));
                i += 1;
            }
            _ => {
                let found = text[i..].chars().next().unwrap_or('?');
                return Err(ModuleError::new(line, format!("unexpected character {found:?}")));
            }
        }
    }
    out.push((Token::End, line));
    Ok(out)
}

fn number(word: &str) -> Option<Number> {
    let lower = word.as_bytes();
    if lower.len() > 2 && lower[0] == b'0' {
        match lower[1] {
            b'f' | b'F' => {
                return (word.len() == 10)
                    .then(|| u32::from_str_radix(&word[2..], 16).ok())
                    .flatten()
                    .map(Number::F32);
            }
            b'd' | b'D' => {
                return (word.len() == 18)
                    .then(|| u64::from_str_radix(&word[2..], 16).ok())
                    .flatten()
                    .map(Number::F64);
            }
            _ => {}
        }
    }
    if word.contains('.') {
        return word.parse::<f64>().ok().map(|v| Number::F64(v.to_bits()));
    }
    let plain = word.strip_suffix('U').unwrap_or(word);
    let (digits, radix) = match plain.get(..2) {
        Some("0x" | "0X") => (&plain[2..], 16),
        Some("0b" | "0B") => (&plain[2..], 2),
        _ if plain.len() > 1 && plain.starts_with('0') => (&plain[1..], 8),
        _ => (plain, 10),
    };
    u64::from_str_radix(digits, radix).ok().map(Number::Int)
}
