//! Are these the tensors that the model needs? All differences in one report, so that a wrong file is understood at
//! once instead of name by name.

use std::collections::{BTreeMap, HashSet};
use std::fmt;

use crate::dtype::DType;
use crate::error::{Error, Result, shorten};
use crate::pattern::Pattern;
use crate::source::TensorSource;

/// Which dtypes will do for a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DTypeClass {
    /// F64, F32, F16, BF16.
    Float,
    /// As `Float`, and the quantised block formats.
    Weight,
    /// I64, I32, I16, I8, U8, BOOL.
    Integer,
    /// Any.
    Any,
}

impl DTypeClass {
    /// True if the dtype belongs to the class.
    pub fn admits(self, dtype: DType) -> bool {
        match self {
            DTypeClass::Float => dtype.is_float(),
            DTypeClass::Weight => dtype.is_float() || dtype.is_quantised(),
            DTypeClass::Integer => !dtype.is_float() && !dtype.is_quantised(),
            DTypeClass::Any => true,
        }
    }
}

impl fmt::Display for DTypeClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DTypeClass::Float => "a float",
            DTypeClass::Weight => "a float or quantised",
            DTypeClass::Integer => "an integer",
            DTypeClass::Any => "any dtype",
        })
    }
}

/// A tensor that the model needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// Its name.
    pub name: String,
    /// Its exact shape.
    pub shape: Vec<usize>,
    /// Which dtypes will do.
    pub dtype: DTypeClass,
}

/// All that differs between what is needed and what is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Needed, not there.
    pub missing: Vec<String>,
    /// There, neither needed nor ignored by rule.
    pub unexpected: Vec<String>,
    /// There with another shape: (name, needed, found).
    pub misshapen: Vec<(String, Vec<usize>, Vec<usize>)>,
    /// There with a dtype that will not do: (name, needed, found).
    pub mistyped: Vec<(String, DTypeClass, DType)>,
}

impl Report {
    /// True if nothing differs.
    pub fn is_empty(&self) -> bool {
        *self == Report::default()
    }
}

/// Compares a collection with the list of what is needed. Names that match an `ignore` pattern are neither read nor
/// reported.
///
/// Errors: [`Error::Mismatch`] with every missing, unexpected, misshapen and mistyped tensor.
pub fn check(source: &dyn TensorSource, expected: &[Expected], ignore: &[Pattern]) -> Result<()> {
    let report = compare(source, expected, ignore);
    if report.is_empty() {
        return Ok(());
    }
    Err(Error::Mismatch { path: source.label().into(), report: Box::new(report) })
}

/// As [`check`], but hands the report over instead of making it an error.
pub fn compare(source: &dyn TensorSource, expected: &[Expected], ignore: &[Pattern]) -> Report {
    let mut report = Report::default();
    for want in expected {
        let Some(found) = source.info(&want.name) else {
            report.missing.push(want.name.clone());
            continue;
        };
        if found.shape != want.shape {
            report.misshapen.push((want.name.clone(), want.shape.clone(), found.shape));
        } else if !want.dtype.admits(found.dtype) {
            report.mistyped.push((want.name.clone(), want.dtype, found.dtype));
        }
    }
    let wanted: HashSet<&str> = expected.iter().map(|e| e.name.as_str()).collect();
    for name in source.names() {
        if !wanted.contains(name) && !ignore.iter().any(|p| p.matches(name).is_some()) {
            report.unexpected.push(name.to_owned());
        }
    }
    report
}

/// Names shown of one group of differences.
const SHOWN: usize = 8;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the tensors are not those of the model")?;
        let mut before = ": ";
        let mut group = |f: &mut fmt::Formatter<'_>, title, items: Vec<_>| {
            if items.is_empty() {
                return Ok(());
            }
            f.write_str(std::mem::replace(&mut before, "; "))?;
            group(f, title, items)
        };
        let plain = |names: &[String]| names.iter().map(|n| (n.clone(), String::new())).collect();
        group(f, "missing", plain(&self.missing))?;
        group(f, "unexpected", plain(&self.unexpected))?;
        let misshapen = self.misshapen.iter();
        let misshapen =
            misshapen.map(|(n, want, found)| (n.clone(), format!(" ({want:?} is needed, {found:?} found)")));
        group(f, "of another shape", misshapen.collect())?;
        let mistyped = self.mistyped.iter();
        let mistyped =
            mistyped.map(|(n, want, found)| (n.clone(), format!(" ({want} is needed, {found} found)")));
        group(f, "of another dtype", mistyped.collect())
    }
}

/// Writes one group; names that differ in their first number alone (the layers of a stack) and say the same become
/// one.
fn group(f: &mut fmt::Formatter<'_>, title: &str, items: Vec<(String, String)>) -> fmt::Result {
    write!(f, "{title} ({}): ", items.len())?;
    let mut order = Vec::new();
    let mut lines: BTreeMap<(String, String, String), Vec<u32>> = BTreeMap::new();
    for (name, note) in items {
        let (head, number, tail) = split_number(&name);
        let key = (head, tail, note);
        let numbers = lines.entry(key.clone()).or_insert_with(|| {
            order.push(key);
            Vec::new()
        });
        numbers.extend(number);
    }
    for (i, (head, tail, note)) in order.iter().take(SHOWN).enumerate() {
        let numbers = &lines[&(head.clone(), tail.clone(), note.clone())];
        let number = match numbers[..] {
            [] => String::new(),
            [one] => one.to_string(),
            _ => format!("{{{}}}", ranges(numbers)),
        };
        let comma = if i > 0 { ", " } else { "" };
        write!(f, "{comma}{}{note}", shorten(&format!("{head}{number}{tail}")))?;
    }
    if order.len() > SHOWN {
        write!(f, " and {} more", order.len() - SHOWN)?;
    }
    Ok(())
}

/// Splits at the first dotted part that is a number: `a.3.b` → (`a.`, 3, `.b`).
fn split_number(name: &str) -> (String, Option<u32>, String) {
    let mut at = 0;
    for part in name.split('.') {
        if let Ok(n) = part.parse::<u32>()
            && n.to_string() == part
        {
            return (name[..at].to_owned(), Some(n), name[at + part.len()..].to_owned());
        }
        at += part.len() + 1;
    }
    (name.to_owned(), None, String::new())
}

/// `[0, 1, 2, 5]` → `0..2,5`.
fn ranges(numbers: &[u32]) -> String {
    let mut sorted = numbers.to_vec();
    sorted.sort_unstable();
    let runs = sorted.chunk_by(|a, b| a.checked_add(1) == Some(*b));
    let text: Vec<String> = runs
        .map(|run| match run {
            [one] => one.to_string(),
            [first, .., last] => format!("{first}..{last}"),
            [] => String::new(),
        })
        .collect();
    text.join(",")
}
