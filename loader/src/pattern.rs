//! Patterns over tensor names, such as `model.layers.{i}.attn.weight` or `diffusion.*`.
//!
//! `{x}`, with any letter, stands for one decimal number; `*` stands for any run of characters, possibly empty and
//! with dots. Everything else stands for itself. Used by the rules of what to ignore and by the name tables.

/// A parsed pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(String),
    Number(char),
    Any,
}

/// What the numbers and the stars of a pattern stood for, in order of appearance.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Captures {
    numbers: Vec<(char, u32)>,
    any: Vec<String>,
}

impl Pattern {
    /// Parses a pattern. `{` that does not open `{letter}` stands for itself, so parsing cannot fail.
    pub fn new(text: &str) -> Self {
        let mut parts: Vec<Part> = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            let mut three = rest.chars().skip(1);
            let part = match (c, three.next(), three.next()) {
                ('*', ..) => Some((Part::Any, 1)),
                ('{', Some(v), Some('}')) if v.is_ascii_lowercase() => Some((Part::Number(v), 3)),
                _ => None,
            };
            let Some((part, len)) = part else {
                literal.push(c);
                rest = &rest[c.len_utf8()..];
                continue;
            };
            if !literal.is_empty() {
                parts.push(Part::Literal(std::mem::take(&mut literal)));
            }
            parts.push(part);
            rest = &rest[len..];
        }
        if !literal.is_empty() {
            parts.push(Part::Literal(literal));
        }
        Pattern { parts }
    }

    /// Matches a whole name. A letter used twice must stand for the same number twice.
    pub fn matches(&self, name: &str) -> Option<Captures> {
        let mut captures = Captures::default();
        let matched = matches(&self.parts, name, &mut captures);
        captures.any.reverse();
        matched.then_some(captures)
    }

    /// Builds the name that the captures give; `None` if the pattern has a letter or a star that they lack.
    pub fn fill(&self, captures: &Captures) -> Option<String> {
        let mut stars = captures.any.iter();
        let mut out = String::new();
        for part in &self.parts {
            match part {
                Part::Literal(text) => out.push_str(text),
                Part::Any => out.push_str(stars.next()?),
                Part::Number(v) => out.push_str(&captures.number(*v)?.to_string()),
            }
        }
        Some(out)
    }
}

impl Captures {
    /// The number that a letter stood for.
    pub fn number(&self, letter: char) -> Option<u32> {
        self.numbers.iter().find(|(v, _)| *v == letter).map(|(_, n)| *n)
    }
}

fn matches(parts: &[Part], name: &str, captures: &mut Captures) -> bool {
    match parts {
        [] => name.is_empty(),
        [Part::Literal(text), rest @ ..] => {
            name.strip_prefix(text.as_str()).is_some_and(|n| matches(rest, n, captures))
        }
        [Part::Number(v), rest @ ..] => {
            let end = name.find(|c: char| !c.is_ascii_digit()).unwrap_or(name.len());
            let (digits, after) = name.split_at(end);
            // "07" is not the number of a layer: it would be written back as "7".
            let Ok(n) = digits.parse::<u32>() else { return false };
            if digits.len() > 1 && digits.starts_with('0') {
                return false;
            }
            match captures.number(*v) {
                Some(known) => known == n && matches(rest, after, captures),
                None => {
                    captures.numbers.push((*v, n));
                    matches(rest, after, captures) || {
                        captures.numbers.pop();
                        false
                    }
                }
            }
        }
        // The text is kept on the way back, from the last star to the first, so that failed attempts copy nothing.
        [Part::Any] => {
            captures.any.push(name.to_owned());
            true
        }
        [Part::Any, rest @ ..] => {
            let ends = name.char_indices().map(|(i, _)| i).chain([name.len()]);
            for end in ends {
                if matches(rest, &name[end..], captures) {
                    captures.any.push(name[..end].to_owned());
                    return true;
                }
            }
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_stars_match_and_fill() {
        let p = Pattern::new("blk.{i}.attn_{j}.*");
        let c = p.matches("blk.12.attn_3.weight").unwrap();
        assert_eq!((c.number('i'), c.number('j'), c.number('k')), (Some(12), Some(3), None));
        assert_eq!(Pattern::new("h.{i}.{j}.*").fill(&c).unwrap(), "h.12.3.weight");
        assert_eq!(Pattern::new("h.{k}").fill(&c), None);
        for name in ["blk.x.attn_3.w", "blk.12.attn_3", "blk.01.attn_3.w", "blk..attn_3.w", "ablk.1.attn_3.w"]
        {
            assert_eq!(p.matches(name), None, "{name}");
        }
        assert!(Pattern::new("{i}.{i}").matches("4.4").is_some());
        assert!(Pattern::new("{i}.{i}").matches("4.5").is_none());
        assert!(Pattern::new("*.bias").matches("a.b.bias").is_some());
        assert!(Pattern::new("diffusion.*").matches("diffusion.").is_some());
        let c = Pattern::new("*.x.*").matches("a.b.x.c.d").unwrap();
        assert_eq!(Pattern::new("*/*").fill(&c).unwrap(), "a.b/c.d");
        assert!(Pattern::new("{oops").matches("{oops").is_some());
        assert!(Pattern::new("{i}").matches("99999999999").is_none());
    }
}
