//! The mutants of a PTX text: for each instruction, the ways in which a hand could have got it wrong.
//!
//! A mutant is an edit of the text, not of the decoded form, so that what is run went through the whole tool, and so that a
//! person can apply it by hand. Lines keep their numbers.

use super::Kind;
use crate::error::ModuleError;
use crate::parse::ast::{self, Instruction, Number, Operand, Statement};
use serde::Serialize;
use std::collections::HashMap;
use std::ops::Range;

/// One edit of a PTX text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PtxMutant {
    /// `function:kind:number`, counted within function and kind, so that edits elsewhere leave it alone.
    pub id: String,
    /// What is broken.
    pub kind: Kind,
    /// The kernel or function.
    pub function: String,
    /// Line of the text, from 1.
    pub line: u32,
    /// The statement as it is written.
    pub was: String,
    /// What it becomes; empty when it is removed.
    pub becomes: String,
    #[serde(skip)]
    range: Range<usize>,
}

impl PtxMutant {
    /// The text with this edit.
    pub fn apply(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len() + 64);
        out.push_str(&text[..self.range.start]);
        out.push_str(&self.becomes);
        // Lines keep their numbers.
        out.extend(self.was.chars().filter(|c| *c == '\n'));
        out.push_str(&text[self.range.end..]);
        out
    }
}

/// Blanks every kernel but one, so that a mutant of that one is decoded in a fraction of the time. Lines keep their numbers.
///
/// # Errors
/// When the text is not PTX.
pub fn isolate(text: &str, kernel: &str) -> Result<String, ModuleError> {
    let parsed = crate::parse::parse(text)?;
    let mut out = text.as_bytes().to_vec();
    for f in parsed.functions.iter().filter(|f| f.kernel && f.name != kernel && f.body.is_some()) {
        let name = offset(text, f.name);
        let start = text[..name].rfind(['}', ';']).map_or(0, |at| at + 1);
        // Module directives and the previous function end in `;`, `}` or a line of their own.
        let start =
            text[start..name].find(".visible").or(text[start..name].find(".entry")).map(|at| start + at);
        let (Some(start), Some(end)) = (start, closing_brace(text, name)) else { continue };
        out[start..end].iter_mut().filter(|b| **b != b'\n').for_each(|b| *b = b' ');
    }
    Ok(String::from_utf8_lossy(&out).into_owned())
}

fn closing_brace(text: &str, from: usize) -> Option<usize> {
    let mut depth = 0;
    for (at, b) in text.bytes().enumerate().skip(from) {
        match b {
            b'{' => depth += 1,
            b'}' if depth == 1 => return Some(at + 1),
            b'}' => depth -= 1,
            _ => {}
        }
    }
    None
}

/// Where a name that borrows from the text begins.
fn offset(text: &str, part: &str) -> usize {
    part.as_ptr() as usize - text.as_ptr() as usize
}

/// Every mutant of the functions that `wanted` names.
///
/// # Errors
/// When the text is not PTX.
pub fn mutants(text: &str, wanted: impl Fn(&str) -> bool) -> Result<Vec<PtxMutant>, ModuleError> {
    let parsed = crate::parse::parse(text)?;
    let mut out = Vec::new();
    for f in parsed.functions.iter().filter(|f| wanted(f.name)) {
        let mut list = List { text, function: f.name, counts: HashMap::new(), out: &mut out };
        list.statements(f.body.as_deref().unwrap_or_default());
    }
    Ok(out)
}

struct List<'t, 'o> {
    text: &'t str,
    function: &'t str,
    counts: HashMap<Kind, u32>,
    out: &'o mut Vec<PtxMutant>,
}

impl<'t> List<'t, '_> {
    fn statements(&mut self, body: &[Statement<'t>]) {
        for statement in body {
            match statement {
                Statement::Instruction(i) => self.instruction(i),
                Statement::Scope(inner) => self.statements(inner),
                Statement::Variable(v) if v.space == crate::types::Space::Shared => self.shared(v),
                _ => {}
            }
        }
    }

    fn push(&mut self, kind: Kind, line: u32, range: Range<usize>, becomes: String) {
        let number = self.counts.entry(kind).and_modify(|n| *n += 1).or_insert(0);
        let id = format!("{}:{}:{number}", self.function, kind.name());
        let was = self.text[range.clone()].to_owned();
        self.out.push(PtxMutant { id, kind, function: self.function.to_owned(), line, was, becomes, range });
    }

    /// Shared arrays are halved.
    fn shared(&mut self, v: &ast::Variable<'t>) {
        let start = offset(self.text, v.name) + v.name.len();
        let Some(end) = self.text[start..].find(';').map(|at| start + at) else { return };
        if let Some([Some(n)]) = v.dims.first_chunk::<1>().filter(|_| v.dims.len() == 1)
            && *n >= 2
        {
            self.push(Kind::Size, v.line, start..end, format!("[{}]", n / 2));
        }
    }

    fn instruction(&mut self, i: &Instruction<'t>) {
        let opcode = offset(self.text, i.opcode);
        let start = i.guard.map_or(opcode, |(name, _)| {
            let name = offset(self.text, name);
            self.text[..name].rfind('@').unwrap_or(name)
        });
        let Some(end) = self.text[opcode..].find(';').map(|at| opcode + at + 1) else { return };
        let range = start..end;
        let guard = &self.text[start..opcode];
        let form = [&[i.opcode][..], &i.modifiers].concat().join(".");
        let names: Vec<String> = i.operands.iter().map(written).collect();
        let with = |operands: &[String]| format!("{guard}{form} {};", operands.join(", "));
        let replaced = |at: usize, by: String| {
            let mut operands = names.clone();
            operands[at] = by;
            with(&operands)
        };
        let mut edits: Vec<(Kind, String)> = Vec::new();
        let mut push = |kind, becomes: String| edits.push((kind, becomes));

        if i.guard.is_some() {
            let bare = self.text[opcode..end].to_owned();
            push(Kind::Predicate, bare);
            if i.opcode == "bra" {
                push(Kind::Predicate, String::new());
            }
        }
        let number = |at: usize| match i.operands.get(at) {
            Some(Operand::Number(Number::Int(n))) => Some(*n as i64),
            _ => None,
        };
        let has = |m: &str| i.modifiers.contains(&m);
        let ty = i.modifiers.last().copied().unwrap_or("");
        let bits = ty.trim_start_matches(|c: char| c.is_ascii_alphabetic());
        let integer = ty.starts_with(['s', 'u', 'b']) && matches!(bits, "16" | "32" | "64");
        let mov = |from: usize| format!("{guard}mov.b{bits} {}, {};", names[0], names[from]);
        match i.opcode {
            "bar" | "barrier" => push(Kind::Barrier, String::new()),
            "fence" | "membar" => push(Kind::Fence, String::new()),
            "wgmma" if has("fence") => push(Kind::Fence, String::new()),
            "cp" | "wgmma" if has("commit_group") => push(Kind::Commit, String::new()),
            "cp" | "wgmma" if has("wait_group") || has("wait_all") => {
                push(Kind::Wait, String::new());
                if let Some(n) = number(0) {
                    push(Kind::Wait, replaced(0, (n + 1).to_string()));
                }
            }
            "mbarrier" if has("try_wait") || has("test_wait") => {
                push(Kind::Wait, format!("{guard}setp.eq.u32 {}, 0, 0;", names[0]));
            }
            "cp" if names.len() == 4 => push(Kind::Bound, with(&names[..3])),
            "xor" if integer => push(Kind::Swizzle, mov(1)),
            "setp" if integer => {
                let turned = |m: &str| {
                    Some(match m {
                        "lt" => "le",
                        "le" => "lt",
                        "gt" => "ge",
                        "ge" => "gt",
                        "lo" => "ls",
                        "ls" => "lo",
                        "hi" => "hs",
                        "hs" => "hi",
                        _ => return None,
                    })
                };
                if let Some(other) = turned(i.modifiers[0]) {
                    let modifiers = [&[other][..], &i.modifiers[1..]].concat().join(".");
                    push(Kind::Bound, format!("{guard}setp.{modifiers} {};", names.join(", ")));
                }
            }
            "min" | "max" if integer => {
                push(Kind::Bound, mov(1));
                push(Kind::Bound, mov(2));
            }
            "shl" => {
                if let Some(n) = number(2) {
                    push(Kind::Stride, replaced(2, (n + 1).to_string()));
                }
            }
            "mul" | "mad" if integer => match (number(2), has("wide"), has("lo")) {
                (Some(n), ..) => push(Kind::Stride, replaced(2, n.wrapping_mul(2).to_string())),
                (None, true, _) => push(Kind::Stride, replaced(2, "1".into())),
                (None, false, true) => push(Kind::Stride, replaced(2, "1".into())),
                _ => {}
            },
            "add" if integer => {
                if let Some(n) = number(2).filter(|n| *n != 0) {
                    push(Kind::Offset, replaced(2, n.wrapping_mul(2).to_string()));
                }
            }
            "shfl" | "vote" | "match" | "redux" => {
                let last = names.len() - 1;
                if number(last) == Some(-1) || number(last) == Some(0xFFFF_FFFF) {
                    push(Kind::Shuffle, replaced(last, "0x7fffffff".into()));
                }
                if i.opcode == "shfl"
                    && let Some(n) = number(2)
                {
                    push(Kind::Shuffle, replaced(2, (n * 2 % 32).to_string()));
                }
            }
            "and" | "or" if ty == "pred" => {
                push(Kind::Predicate, format!("{guard}mov.pred {}, {};", names[0], names[1]));
                push(Kind::Predicate, format!("{guard}mov.pred {}, {};", names[0], names[2]));
            }
            "selp" if integer => {
                push(Kind::Predicate, mov(1));
                push(Kind::Predicate, mov(2));
            }
            _ => {}
        }
        if matches!(i.opcode, "ld" | "st" | "atom" | "red" | "ldmatrix" | "stmatrix") && !has("param") {
            let at = i.operands.iter().position(|o| matches!(o, Operand::Address { .. }));
            if let Some((at, Operand::Address { base: Some(base), offset, .. })) =
                at.map(|at| (at, &i.operands[at]))
            {
                let step = if i.opcode.ends_with("matrix") { 16 } else { access_bytes(i) };
                push(Kind::Offset, replaced(at, format!("[{base}+{}]", offset + step)));
            }
        }
        for (kind, becomes) in edits {
            self.push(kind, i.line, range.clone(), becomes);
        }
    }
}

fn access_bytes(i: &Instruction) -> i64 {
    let count = if i.modifiers.contains(&"v4") {
        4
    } else if i.modifiers.contains(&"v2") {
        2
    } else {
        1
    };
    let ty = i.modifiers.last().and_then(|t| crate::types::Type::from_name(t));
    count * ty.map_or(4, |t| i64::from(t.bytes()))
}

/// An operand as PTX writes it.
fn written(operand: &Operand) -> String {
    let list = |parts: &[Operand]| parts.iter().map(written).collect::<Vec<_>>().join(", ");
    match operand {
        Operand::Name(name) => (*name).into(),
        Operand::Not(name) => format!("!{name}"),
        Operand::Number(Number::Int(n)) => (*n as i64).to_string(),
        Operand::Number(Number::F32(bits)) => format!("0f{bits:08X}"),
        Operand::Number(Number::F64(bits)) => format!("0d{bits:016X}"),
        Operand::Vector(parts) => format!("{{{}}}", list(parts)),
        Operand::List(parts) => format!("({})", list(parts)),
        Operand::Address { base, offset, more } => {
            let base = base.map_or(String::new(), |b| format!("{b}+"));
            let more = if more.is_empty() { String::new() } else { format!(", {}", list(more)) };
            format!("[{base}{offset}{more}]")
        }
        Operand::Component(name, part) => format!("{name}.{part}"),
        Operand::Pair(a, b) => format!("{a}|{b}"),
        Operand::Offset(name, offset) => format!("{name}+{offset}"),
        Operand::Sink => "_".into(),
    }
}
