//! The statements of a PTX text, as written. All names borrow from the text.

use crate::types::{Space, Type};

/// A whole text.
#[derive(Debug, Default)]
pub struct Text<'a> {
    /// `.version`, major and minor.
    pub version: (u32, u32),
    /// `.target`'s architecture, as written (`sm_80`, `sm_90a`).
    pub target: &'a str,
    /// Variables of module scope.
    pub variables: Vec<Variable<'a>>,
    /// Kernels, device functions and their declarations, in order.
    pub functions: Vec<Function<'a>>,
}

/// A declared variable, parameter or set of registers.
#[derive(Debug, Clone)]
pub struct Variable<'a> {
    /// Line of the declaration.
    pub line: u32,
    /// State space.
    pub space: Space,
    /// Element type.
    pub ty: Type,
    /// Elements of a vector declaration (`.v2`, `.v4`), else 1.
    pub vector: u32,
    /// Alignment, as given or the type's own.
    pub align: u32,
    /// Name.
    pub name: &'a str,
    /// `%r<N>`: that many registers, named `%r0` to `%rN-1`.
    pub count: Option<u32>,
    /// Array dimensions; `None` is `[]`.
    pub dims: Vec<Option<u64>>,
    /// Initial elements, flattened.
    pub init: Vec<Init<'a>>,
    /// Whether it is `.extern`.
    pub external: bool,
}

impl Variable<'_> {
    /// Size in bytes; an array without a length counts as empty. `None` when it does not fit 64 bits.
    pub fn bytes(&self) -> Option<u64> {
        let mut size = u64::from(self.ty.bytes()) * u64::from(self.vector);
        for dim in &self.dims {
            size = size.checked_mul(dim.unwrap_or(0))?;
        }
        Some(size)
    }
}

/// One initial element.
#[derive(Debug, Clone)]
pub enum Init<'a> {
    /// A number's bits.
    Bits(Number),
    /// A symbol's address plus an offset; generic when written `generic(symbol)`.
    Symbol(&'a str, i64),
}

/// A literal.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Number {
    /// An integer, negative ones in two's complement.
    Int(u64),
    /// `0f…`.
    F32(u32),
    /// `0d…` or a decimal fraction.
    F64(u64),
}

/// A kernel or a device function.
#[derive(Debug)]
pub struct Function<'a> {
    /// Line of the name.
    pub line: u32,
    /// Whether it is an `.entry`.
    pub kernel: bool,
    /// Name.
    pub name: &'a str,
    /// Return parameters.
    pub returns: Vec<Variable<'a>>,
    /// Parameters.
    pub params: Vec<Variable<'a>>,
    /// `.maxntid`.
    pub max_threads: Option<[u32; 3]>,
    /// `.reqntid`.
    pub required_threads: Option<[u32; 3]>,
    /// `.maxnreg`.
    pub max_registers: Option<u32>,
    /// `.reqnctapercluster`.
    pub required_cluster: Option<[u32; 3]>,
    /// The statements; `None` for a declaration.
    pub body: Option<Vec<Statement<'a>>>,
}

/// A statement of a body.
#[derive(Debug)]
pub enum Statement<'a> {
    /// `name:`
    Label(&'a str, u32),
    /// A declaration.
    Variable(Variable<'a>),
    /// An instruction.
    Instruction(Instruction<'a>),
    /// `{ … }`, a scope of its own.
    Scope(Vec<Statement<'a>>),
    /// `name: .branchtargets a, b;`
    Targets(&'a str, Vec<&'a str>, u32),
    /// `name: .callprototype …;` (return parameters, parameters).
    Prototype(&'a str, Vec<Variable<'a>>, Vec<Variable<'a>>),
}

/// An instruction.
#[derive(Debug, Clone)]
pub struct Instruction<'a> {
    /// Line.
    pub line: u32,
    /// `@p` or `@!p`: the name and whether it is negated.
    pub guard: Option<(&'a str, bool)>,
    /// First word.
    pub opcode: &'a str,
    /// The words after it, without their dots, in order.
    pub modifiers: Vec<&'a str>,
    /// Operands.
    pub operands: Vec<Operand<'a>>,
}

/// An operand as written.
#[derive(Debug, Clone)]
pub enum Operand<'a> {
    /// A register, symbol, label or special register (`%tid.x` whole).
    Name(&'a str),
    /// `!p` or `-name`.
    Not(&'a str),
    /// A literal.
    Number(Number),
    /// `{a, b}`
    Vector(Vec<Operand<'a>>),
    /// `[base + offset]`, or `[base, {coordinates}]` with the rest in `more`.
    Address {
        /// Register or symbol; `None` is an absolute address.
        base: Option<&'a str>,
        /// Bytes.
        offset: i64,
        /// What follows a comma inside the brackets.
        more: Vec<Operand<'a>>,
    },
    /// `(a, b)` of a call.
    List(Vec<Operand<'a>>),
    /// `%tid.x`, `%v.y`: name and component.
    Component(&'a str, &'a str),
    /// `p|q`
    Pair(&'a str, &'a str),
    /// `symbol + offset`
    Offset(&'a str, i64),
    /// `_`
    Sink,
}
