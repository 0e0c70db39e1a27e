//! Decodes one function: its scopes, registers, local memory and labels, and the operands of its instructions.

use super::special::{self, Special};
use super::{ConstantValue, Decoder, FUNCTION_ADDRESS, Function, Param, Symbol};
use crate::error::ModuleError;
use crate::ir::{Instruction, Op, Pred, Slot, Width};
use crate::parse::ast::{self, Number, Operand, Statement};
use crate::types::{Space, Type};
use std::collections::HashMap;

/// Limits that keep memory bounded on hostile input: planes of a frame (16 MiB a warp), local bytes of a thread.
const MAX_PLANES: u32 = 1 << 17;
const MAX_LOCAL: u64 = 512 * 1024;

pub(crate) type Result<T> = std::result::Result<T, ModuleError>;

/// What a name means inside a function.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Name {
    Register {
        plane: u32,
        ty: Type,
        vector: u32,
    },
    Family {
        plane: u32,
        count: u32,
        ty: Type,
    },
    Predicate(u32),
    Predicates {
        first: u32,
        count: u32,
    },
    /// Offset in the frame's local memory, size.
    Local {
        offset: u32,
        bytes: u32,
    },
    /// Offset in the kernel's arguments.
    KernelParam {
        offset: u32,
    },
    Module(Symbol),
}

#[derive(Default)]
struct Scope<'a> {
    names: HashMap<&'a str, Name>,
    labels: HashMap<&'a str, u32>,
    targets: HashMap<&'a str, Vec<&'a str>>,
}

/// Parameters and directives of a function, before its body is looked at.
pub(super) fn signature(f: &ast::Function) -> Result<Function> {
    let layout = |vars: &[ast::Variable], mut at: u64| -> Result<(Vec<Param>, u64)> {
        let mut out = Vec::new();
        for v in vars {
            let bytes = if v.space == Space::Reg { Some(u64::from(v.ty.bytes().max(4))) } else { v.bytes() };
            let bytes = bytes
                .filter(|b| *b <= MAX_LOCAL)
                .ok_or_else(|| ModuleError::new(v.line, format!("parameter '{}' is too large", v.name)))?;
            at = at.next_multiple_of(u64::from(v.align));
            out.push(Param { name: v.name.into(), offset: at as u32, bytes: bytes as u32, align: v.align });
            at += bytes;
            if at > MAX_LOCAL {
                return Err(ModuleError::new(v.line, "the parameters are too large"));
            }
        }
        Ok((out, at))
    };
    let (params, end) = layout(&f.params, 0)?;
    let (returns, end) = layout(&f.returns, end)?;
    Ok(Function {
        name: f.name.into(),
        kernel: f.kernel,
        entry: 0,
        end: 0,
        planes: 0,
        preds: 0,
        local_bytes: if f.kernel { 0 } else { end as u32 },
        params,
        returns,
        shared_bytes: 0,
        dynamic_align: 1,
        max_threads: f.max_threads,
        required_threads: f.required_threads,
        max_registers: f.max_registers,
        required_cluster: f.required_cluster,
        registers: Vec::new(),
        unproven: Vec::new(),
    })
}

/// The decoder of one function.
pub(crate) struct FunctionDecoder<'d, 'a> {
    pub module: &'d mut Decoder,
    pub functions: &'d [Function],
    pub info: Function,
    scopes: Vec<Scope<'a>>,
    /// Branches whose label is further down: instruction, which target, scopes that were open.
    fixups: Vec<(usize, usize, &'a str, u32)>,
    /// Shared variables' offsets in this function.
    shared: HashMap<u32, u32>,
    planes: u32,
    preds: u32,
    local: u64,
    shared_end: u64,
    pub line: u32,
    pub guard: Pred,
}

impl<'d, 'a> FunctionDecoder<'d, 'a> {
    pub(super) fn decode(
        module: &'d mut Decoder,
        f: &'a ast::Function<'a>,
        info: Function,
        functions: &'d [Function],
    ) -> Result<Function> {
        let shared_end = u64::from(module.function_shared);
        let mut d = FunctionDecoder {
            local: u64::from(info.local_bytes),
            module,
            functions,
            info,
            scopes: vec![Scope::default()],
            fixups: Vec::new(),
            shared: HashMap::new(),
            planes: 0,
            // Predicate 0 is the carry bit.
            preds: 1,
            shared_end,
            line: f.line,
            guard: Pred::NONE,
        };
        d.info.entry = d.module.code.len() as u32;
        d.parameters(f)?;
        let body = f.body.as_deref().unwrap_or_default();
        d.scope(body)?;
        // Falling off the end returns.
        d.line = body_line(body).unwrap_or(f.line);
        d.leave()?;
        d.info.end = d.module.code.len() as u32;
        d.info.planes = d.planes;
        d.info.preds = d.preds;
        d.info.local_bytes = (d.local.next_multiple_of(16)) as u32;
        d.info.shared_bytes = d.shared_end as u32;
        if !d.info.kernel {
            d.module.function_shared = d.module.function_shared.max(d.shared_end as u32);
        }
        Ok(d.info)
    }

    fn parameters(&mut self, f: &'a ast::Function<'a>) -> Result<()> {
        let all = f.params.iter().zip(self.info.params.clone());
        let all = all.chain(f.returns.iter().zip(self.info.returns.clone()));
        for (v, p) in all.collect::<Vec<_>>() {
            let name = match (v.space, f.kernel) {
                (Space::Reg, false) => {
                    self.declare(v)?;
                    continue;
                }
                (_, true) => Name::KernelParam { offset: p.offset },
                _ => Name::Local { offset: p.offset, bytes: p.bytes },
            };
            self.bind(v.name, name, v.line)?;
        }
        // Parameters in registers travel through the frame's parameter bytes all the same.
        for (v, p) in f.params.iter().zip(self.info.params.clone()) {
            if v.space == Space::Reg && !f.kernel {
                let register = self.register(v.name, v.ty.bytes())?;
                self.load_local(register, p.offset, v.ty)?;
            }
        }
        Ok(())
    }

    /// Emits the end of a thread, or of a call. Results in registers travel as arguments in registers do.
    pub(crate) fn leave(&mut self) -> Result<()> {
        if self.info.kernel {
            self.emit(Op::Exit, [], []);
            return Ok(());
        }
        for r in self.info.returns.clone() {
            if let Some(Name::Register { plane, ty, vector: 1 }) = self.lookup(&r.name) {
                self.store_local(Slot::register(plane), r.offset, ty)?;
            }
        }
        self.emit(Op::Return, [], []);
        Ok(())
    }

    /// Emits a load of a register from the frame's local memory.
    pub(crate) fn load_local(&mut self, register: Slot, offset: u32, ty: Type) -> Result<()> {
        let address = self.local_address(offset)?;
        let access = super::access::plain(Space::Local, ty);
        self.emit_list(Op::Load(access), [], [address], vec![register], 1);
        Ok(())
    }

    /// Emits a store of a register to the frame's local memory.
    pub(crate) fn store_local(&mut self, register: Slot, offset: u32, ty: Type) -> Result<()> {
        let address = self.local_address(offset)?;
        let access = super::access::plain(Space::Local, ty);
        self.emit_list(Op::Store(access), [], [address], vec![register], 0);
        Ok(())
    }

    /// Room in the frame's local memory.
    pub(crate) fn reserve_local(&mut self, bytes: u32) -> Result<u32> {
        let offset = self.local.next_multiple_of(8);
        self.local = offset + u64::from(bytes);
        if self.local > MAX_LOCAL {
            return Err(self.error("more than 512 KiB of local memory"));
        }
        Ok(offset as u32)
    }

    /// A register with the local-space address of `offset` in this frame.
    pub(crate) fn local_address(&mut self, offset: u32) -> Result<Slot> {
        let slot = self.new_register(8)?;
        let offset = self.constant(u64::from(offset), 8);
        let guard = std::mem::replace(&mut self.guard, Pred::NONE);
        self.emit(Op::LocalAddress, [slot], [offset]);
        self.guard = guard;
        Ok(slot)
    }

    fn bind(&mut self, name: &'a str, value: Name, line: u32) -> Result<()> {
        let scope = self.scopes.last_mut().expect("there is always a scope");
        if scope.names.insert(name, value).is_some() {
            return Err(ModuleError::new(line, format!("'{name}' is defined twice in one scope")));
        }
        Ok(())
    }

    /// A fresh register.
    pub(crate) fn new_register(&mut self, bytes: u32) -> Result<Slot> {
        Ok(Slot::register(self.new_planes(bytes, 1)?))
    }

    fn new_planes(&mut self, bytes: u32, count: u32) -> Result<u32> {
        let each = bytes.max(4) / 4;
        let first = self.planes.next_multiple_of(each);
        let end = u64::from(first) + u64::from(each) * u64::from(count);
        if end > u64::from(MAX_PLANES) {
            return Err(ModuleError::new(self.line, "too many registers"));
        }
        self.planes = end as u32;
        Ok(first)
    }

    fn declare(&mut self, v: &ast::Variable<'a>) -> Result<()> {
        self.line = v.line;
        let name = match (v.space, v.ty) {
            (Space::Reg, Type::Pred) => {
                let first = self.preds;
                let count = v.count.unwrap_or(1);
                if count > MAX_PLANES || first + count > MAX_PLANES {
                    return Err(ModuleError::new(v.line, "too many predicates"));
                }
                self.preds += count;
                self.info.registers.push(super::Register {
                    name: v.name.into(),
                    first,
                    each: 1,
                    vector: 1,
                    count: v.count,
                    predicate: true,
                });
                if v.count.is_some() { Name::Predicates { first, count } } else { Name::Predicate(first) }
            }
            (Space::Reg, ty) => {
                let count = v.count.unwrap_or(1);
                let plane = self.new_planes(ty.bytes(), count.saturating_mul(v.vector))?;
                self.info.registers.push(super::Register {
                    name: v.name.into(),
                    first: plane,
                    each: ty.bytes().max(4) / 4,
                    vector: v.vector,
                    count: v.count,
                    predicate: false,
                });
                match v.count {
                    Some(count) => Name::Family { plane, count, ty },
                    None => Name::Register { plane, ty, vector: v.vector },
                }
            }
            (Space::Local | Space::Param, _) => {
                let bytes = v.bytes().unwrap_or(u64::MAX);
                let offset = self.local.next_multiple_of(u64::from(v.align));
                if offset.saturating_add(bytes) > MAX_LOCAL {
                    return Err(ModuleError::new(v.line, "more than 512 KiB of local memory"));
                }
                self.local = offset + bytes;
                Name::Local { offset: offset as u32, bytes: bytes as u32 }
            }
            _ => Name::Module(self.module.anonymous_variable(v)?),
        };
        self.bind(v.name, name, v.line)
    }

    fn scope(&mut self, body: &'a [Statement<'a>]) -> Result<()> {
        for statement in body {
            match statement {
                Statement::Label(name, line) => {
                    let pc = self.module.code.len() as u32;
                    let scope = self.scopes.last_mut().expect("there is always a scope");
                    if scope.labels.insert(name, pc).is_some() {
                        return Err(ModuleError::new(*line, format!("label '{name}' is defined twice")));
                    }
                }
                Statement::Variable(v) => self.declare(v)?,
                Statement::Scope(inner) => {
                    self.scopes.push(Scope::default());
                    self.scope(inner)?;
                }
                Statement::Targets(name, labels, _) => {
                    let scope = self.scopes.last_mut().expect("there is always a scope");
                    scope.targets.insert(name, labels.clone());
                }
                Statement::Prototype(..) => {}
                Statement::Instruction(i) => self.instruction(i)?,
            }
        }
        // Labels of this scope are now all known: settle what branches here, hand the rest to the scope around.
        let scope = self.scopes.pop().expect("there is always a scope");
        let outermost = self.scopes.is_empty();
        let mut rest = Vec::new();
        for (at, which, label, line) in std::mem::take(&mut self.fixups) {
            match (scope.labels.get(label), &mut self.module.code[at].op) {
                (Some(pc), Op::Branch { target, .. }) => *target = *pc,
                (Some(pc), Op::BranchIndexed(targets)) => targets[which] = *pc,
                (None, _) if outermost => {
                    return Err(ModuleError::new(line, format!("label '{label}' is not defined")));
                }
                _ => rest.push((at, which, label, line)),
            }
        }
        self.fixups = rest;
        Ok(())
    }

    fn instruction(&mut self, i: &'a ast::Instruction<'a>) -> Result<()> {
        self.line = i.line;
        self.guard = match i.guard {
            None => Pred::NONE,
            Some((name, negated)) => self.predicate_named(name, negated)?,
        };
        let known = super::arithmetic::decode(self, i)?
            || super::select::decode(self, i)?
            || super::convert::decode(self, i)?
            || super::access::decode(self, i)?
            || super::control::decode(self, i)?
            || super::warp::decode(self, i)?
            || super::tensor::decode(self, i)?
            || super::copy::decode(self, i)?;
        if !known {
            return Err(self.error(format!("unknown instruction '{}'", i.opcode)));
        }
        Ok(())
    }

    /// Records that the last emitted branch goes to `label`.
    pub(crate) fn branch_to(&mut self, which: usize, label: &'a str) {
        self.fixups.push((self.module.code.len() - 1, which, label, self.line));
    }

    /// The labels of a `.branchtargets` list.
    pub(crate) fn targets(&self, name: &str) -> Result<Vec<&'a str>> {
        self.scopes
            .iter()
            .rev()
            .find_map(|s| s.targets.get(name).cloned())
            .ok_or_else(|| self.error(format!("'{name}' is no list of branch targets")))
    }

    /// An error at the current line.
    pub(crate) fn error(&self, message: impl Into<String>) -> ModuleError {
        ModuleError::new(self.line, message)
    }

    /// Appends an instruction under the current guard.
    pub(crate) fn emit<const D: usize, const S: usize>(&mut self, op: Op, d: [Slot; D], s: [Slot; S]) {
        self.emit_list(op, d, s, Vec::new(), 0);
    }

    /// Appends an instruction with a list of further operands, of which the first `defs` are written.
    pub(crate) fn emit_list<const D: usize, const S: usize>(
        &mut self,
        op: Op,
        d: [Slot; D],
        s: [Slot; S],
        list: Vec<Slot>,
        defs: u32,
    ) {
        let mut i = Instruction {
            op,
            guard: self.guard,
            d: [Slot::NONE; 2],
            s: [Slot::NONE; 4],
            p: [Pred::NONE; 3],
            list: list.into_boxed_slice(),
            list_defs: defs,
            line: self.line,
            watched: false,
        };
        i.d[..D].copy_from_slice(&d);
        i.s[..S].copy_from_slice(&s);
        self.module.code.push(i);
    }

    /// The instruction emitted last.
    pub(crate) fn last(&mut self) -> &mut Instruction {
        self.module.code.last_mut().expect("called after emit")
    }

    /// What a name means here.
    pub(crate) fn lookup(&self, name: &str) -> Option<Name> {
        for scope in self.scopes.iter().rev() {
            if let Some(found) = scope.names.get(name) {
                return Some(*found);
            }
            // `%r17` of `.reg .b32 %r<40>`.
            let digits = name.len() - name.trim_end_matches(|c: char| c.is_ascii_digit()).len();
            for take in 1..=digits.min(9) {
                let (prefix, number) = name.split_at(name.len() - take);
                if take > 1 && number.starts_with('0') {
                    continue;
                }
                let Ok(n) = number.parse::<u32>() else { continue };
                match scope.names.get(prefix) {
                    Some(Name::Family { plane, count, ty }) if n < *count => {
                        let plane = plane + n * (ty.bytes().max(4) / 4);
                        return Some(Name::Register { plane, ty: *ty, vector: 1 });
                    }
                    Some(Name::Predicates { first, count }) if n < *count => {
                        return Some(Name::Predicate(first + n));
                    }
                    _ => {}
                }
            }
        }
        self.module.symbols.get(name).map(|s| Name::Module(*s))
    }

    fn predicate_named(&self, name: &str, negated: bool) -> Result<Pred> {
        match self.lookup(name) {
            Some(Name::Predicate(index)) => Ok(Pred::new(index, negated)),
            Some(_) => Err(self.error(format!("'{name}' is not a predicate"))),
            None => Err(self.error(format!("predicate '{name}' is not defined"))),
        }
    }

    /// A predicate source.
    pub(crate) fn predicate(&self, operand: &Operand) -> Result<Pred> {
        match operand {
            Operand::Name(name) => self.predicate_named(name, false),
            Operand::Not(name) => self.predicate_named(name, true),
            _ => Err(self.error("expected a predicate")),
        }
    }

    /// A predicate destination, `_` included.
    pub(crate) fn predicate_destination(&self, operand: &Operand) -> Result<Pred> {
        match operand {
            Operand::Sink => Ok(Pred::NONE),
            Operand::Name(name) => self.predicate_named(name, false),
            _ => Err(self.error("expected a predicate")),
        }
    }

    /// `p`, `p|q` or `_`: one or two predicate destinations.
    pub(crate) fn predicate_pair(&self, operand: &Operand) -> Result<[Pred; 2]> {
        match operand {
            Operand::Pair(p, q) => {
                let one = |n: &str| if n == "_" { Ok(Pred::NONE) } else { self.predicate_named(n, false) };
                Ok([one(p)?, one(q)?])
            }
            _ => Ok([self.predicate_destination(operand)?, Pred::NONE]),
        }
    }

    /// Whether a name is a predicate.
    pub(crate) fn is_predicate(&self, operand: &Operand) -> bool {
        match operand {
            Operand::Name(n) | Operand::Not(n) => matches!(self.lookup(n), Some(Name::Predicate(_))),
            _ => false,
        }
    }

    /// The register of this name, of exactly this many bytes (1 and 2 pass for each other).
    pub(crate) fn register(&self, name: &str, bytes: u32) -> Result<Slot> {
        match self.lookup(name) {
            Some(Name::Register { plane, ty, vector: 1 }) => {
                if ty.bytes() == bytes || (ty.bytes() <= 2 && bytes <= 2) {
                    Ok(Slot::register(plane))
                } else {
                    Err(self.error(format!("'{name}' has {} bits, expected {}", ty.bytes() * 8, bytes * 8)))
                }
            }
            Some(_) => Err(self.error(format!("'{name}' is not a register of {} bits", bytes * 8))),
            None => Err(self.error(format!("register '{name}' is not defined"))),
        }
    }

    /// A register of at least this many bytes, as loads, stores and conversions allow, and its size.
    pub(crate) fn wide_register(&self, operand: &Operand, bytes: u32) -> Result<(Slot, u32)> {
        match operand {
            Operand::Name(name) => match self.lookup(name) {
                Some(Name::Register { plane, ty, vector: 1 }) if ty.bytes() >= bytes => {
                    Ok((Slot::register(plane), ty.bytes()))
                }
                None => Err(self.error(format!("register '{name}' is not defined"))),
                _ => Err(self.error(format!("'{name}' is not a register of {} bits or more", bytes * 8))),
            },
            Operand::Component(..) => Ok((self.destination(operand, bytes)?, bytes)),
            _ => Err(self.error("expected a register")),
        }
    }

    fn component(&self, name: &str, part: &str, bytes: u32) -> Result<Slot> {
        let at = match part {
            "x" | "r" => 0,
            "y" | "g" => 1,
            "z" | "b" => 2,
            "w" | "a" => 3,
            _ => u32::MAX,
        };
        match self.lookup(name) {
            Some(Name::Register { plane, ty, vector }) if at < vector && ty.bytes() == bytes => {
                Ok(Slot::register(plane + at * (bytes.max(4) / 4)))
            }
            _ => Err(self.error(format!("'{name}.{part}' is not a register of {} bits", bytes * 8))),
        }
    }

    /// A destination register.
    pub(crate) fn destination(&self, operand: &Operand, bytes: u32) -> Result<Slot> {
        match operand {
            Operand::Sink => Ok(Slot::NONE),
            Operand::Name(name) => self.register(name, bytes),
            Operand::Component(name, part) => self.component(name, part, bytes),
            _ => Err(self.error("expected a destination register")),
        }
    }

    /// A constant's slot.
    pub(crate) fn constant(&mut self, bits: u64, bytes: u32) -> Slot {
        let bits = if bytes <= 4 { bits & 0xFFFF_FFFF } else { bits };
        self.module.constant(ConstantValue::Bits(bits), bytes)
    }

    /// The bits of a literal as a value of type `ty`.
    pub(crate) fn literal(&self, number: Number, ty: Type) -> u64 {
        match (number, ty) {
            (Number::Int(n), Type::F32) => u64::from((n as i64 as f32).to_bits()),
            (Number::Int(n), Type::F64) => (n as i64 as f64).to_bits(),
            (Number::F64(n), Type::F32 | Type::B32) => u64::from((f64::from_bits(n) as f32).to_bits()),
            (Number::F32(n), Type::F64) => f64::from(f32::from_bits(n)).to_bits(),
            (Number::F32(n), _) => u64::from(n),
            (Number::Int(n) | Number::F64(n), _) => match ty.bytes() {
                1 | 2 => n & 0xFFFF,
                4 => n & 0xFFFF_FFFF,
                _ => n,
            },
        }
    }

    /// A source: register, literal, symbol's address or special register.
    pub(crate) fn source(&mut self, operand: &Operand<'a>, ty: Type) -> Result<Slot> {
        let bytes = ty.bytes();
        match operand {
            Operand::Number(n) => Ok(self.constant(self.literal(*n, ty), bytes)),
            Operand::Name(name) => match self.lookup(name) {
                Some(Name::Register { .. }) => self.register(name, bytes),
                Some(Name::Module(_) | Name::Local { .. } | Name::KernelParam { .. }) => {
                    self.symbol_address(name, 0, bytes)
                }
                Some(_) => Err(self.error(format!("'{name}' is not a value"))),
                None => self.special(name, bytes),
            },
            Operand::Offset(name, offset) => self.symbol_address(name, *offset, bytes),
            Operand::Component(name, part) if name.starts_with('%') && self.lookup(name).is_none() => {
                self.special(&format!("{name}.{part}"), bytes)
            }
            Operand::Component(name, part) => self.component(name, part, bytes),
            Operand::Sink => Err(self.error("'_' has no value to read")),
            _ => Err(self.error("expected a register or a number")),
        }
    }

    fn special(&mut self, name: &str, bytes: u32) -> Result<Slot> {
        if let Some((clock, own)) = special::clock(name) {
            let slot = self.new_register(bytes)?;
            if own != bytes {
                return Err(self.error(format!("'{name}' has {} bits", own * 8)));
            }
            self.emit(Op::ReadClock(clock), [slot], []);
            return Ok(slot);
        }
        if name == "WARP_SZ" {
            return Ok(self.constant(32, bytes));
        }
        let Some(special) = Special::from_text(name) else {
            return Err(self.error(format!("'{name}' is not defined")));
        };
        match (special.wide(), bytes) {
            (false, 4) | (true, 8) => Ok(special.slot()),
            // A 16-bit or 64-bit move of a 32-bit special register converts it.
            (false, 2) => Ok(special.slot()),
            (false, 8) => {
                let slot = self.new_register(8)?;
                let zero = self.constant(0, 4);
                self.emit_list(Op::Pack { part: 4, whole: 8 }, [slot], [], vec![special.slot(), zero], 0);
                Ok(slot)
            }
            _ => Err(self.error(format!("'{name}' does not have {} bits", bytes * 8))),
        }
    }

    /// A slot with the address of a symbol, in its own state space (variables: also generic).
    pub(crate) fn symbol_address(&mut self, name: &str, offset: i64, bytes: u32) -> Result<Slot> {
        if bytes != 8 && bytes != 4 {
            return Err(self.error(format!("the address of '{name}' has 32 or 64 bits")));
        }
        match self.lookup(name) {
            Some(Name::Module(Symbol::Variable(id))) => {
                Ok(self.module.constant(ConstantValue::Variable(id, offset), bytes))
            }
            Some(Name::Module(Symbol::Function(id))) => {
                Ok(self.constant(FUNCTION_ADDRESS + u64::from(id), bytes))
            }
            Some(Name::Module(Symbol::Shared(id))) => self.shared_address(id, offset, bytes),
            Some(Name::Local { offset: base, .. }) => {
                let wide = self.local_address(base.wrapping_add(offset as u32))?;
                if bytes == 8 {
                    return Ok(wide);
                }
                let (low, high) = (self.new_register(4)?, self.new_register(4)?);
                self.emit_list(Op::Unpack { part: 4, whole: 8 }, [], [wide], vec![low, high], 2);
                Ok(low)
            }
            Some(Name::KernelParam { offset: base }) => {
                Ok(self.constant((i64::from(base) + offset) as u64, bytes))
            }
            Some(_) => Err(self.error(format!("'{name}' has no address"))),
            None => Err(self.error(format!("'{name}' is not defined"))),
        }
    }

    fn shared_address(&mut self, id: u32, offset: i64, bytes: u32) -> Result<Slot> {
        let v = &self.module.shared[id as usize];
        if v.dynamic {
            self.info.dynamic_align = self.info.dynamic_align.max(v.align);
            let base = if bytes == 8 { Special::DynamicShared64 } else { Special::DynamicShared32 }.slot();
            if offset == 0 {
                return Ok(base);
            }
            let slot = self.new_register(bytes)?;
            let offset = self.constant(offset as u64, bytes);
            let w = if bytes == 8 { Width::W64 } else { Width::W32 };
            self.emit(Op::Int2(crate::ir::Int2::Add, w), [slot], [base, offset]);
            return Ok(slot);
        }
        let at = match (v.fixed, self.shared.get(&id)) {
            (Some(at), _) | (None, Some(&at)) => at,
            (None, None) => {
                let at = self.shared_end.next_multiple_of(u64::from(v.align));
                self.shared_end = at + v.bytes;
                if self.shared_end > 1 << 24 {
                    return Err(self.error("more than 16 MiB of static shared memory"));
                }
                self.shared.insert(id, at as u32);
                if !self.info.kernel {
                    self.module.shared[id as usize].fixed = Some(at as u32);
                }
                at as u32
            }
        };
        Ok(self.constant((i64::from(at) + offset) as u64, bytes))
    }

    /// The elements of `{a, b}`, or the one operand.
    pub(crate) fn elements<'o>(&self, operand: &'o Operand<'a>) -> &'o [Operand<'a>] {
        match operand {
            Operand::Vector(v) => v,
            one => std::slice::from_ref(one),
        }
    }

    /// Checks the number of operands.
    pub(crate) fn count(
        &self,
        i: &ast::Instruction,
        wanted: impl std::ops::RangeBounds<usize>,
    ) -> Result<()> {
        let n = i.operands.len();
        if wanted.contains(&n) {
            Ok(())
        } else {
            Err(self.error(format!("'{}' with {n} operands", i.opcode)))
        }
    }
}

fn body_line(body: &[Statement]) -> Option<u32> {
    body.iter().rev().find_map(|s| match s {
        Statement::Instruction(i) => Some(i.line),
        Statement::Label(_, line) => Some(*line),
        Statement::Scope(inner) => body_line(inner),
        _ => None,
    })
}
