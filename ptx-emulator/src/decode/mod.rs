//! Resolves every name of a PTX text once, and leaves a flat array of instructions.
//!
//! To add an instruction: an [`crate::ir::Op`], a branch in the family's file here that consumes its modifiers and
//! operands, and a branch in the file of [`crate::exec`] that runs it.

mod access;
mod arithmetic;
mod bulk;
mod control;
mod convert;
mod copy;
pub(crate) mod definite;
mod function;
mod modifiers;
mod select;
pub mod special;
mod tensor;
mod warp;
mod wgmma;

use crate::error::{CudaError, ModuleError};
use crate::ir::{Instruction, Slot};
use crate::parse::{self, ast};
use crate::types::Space;
use function::FunctionDecoder;
use std::collections::HashMap;
use std::sync::Arc;

/// A decoded PTX text. Immutable; cheap to clone.
#[derive(Clone, Debug)]
pub struct Module(pub(crate) Arc<ModuleData>);

/// What a decoded module holds.
#[derive(Debug)]
pub struct ModuleData {
    /// `.version`
    pub version: (u32, u32),
    /// Architecture of `.target`: 80 for sm_80.
    pub sm: u32,
    /// Whether the target ends in `a`.
    pub specific: bool,
    /// The code of all functions.
    pub code: Vec<Instruction>,
    /// Functions in order.
    pub functions: Vec<Function>,
    /// Variables in global and constant memory.
    pub variables: Vec<Variable>,
    /// Constant planes.
    pub constants: Vec<Constant>,
    /// Whether any instruction is watched for undefined registers.
    pub watched: bool,
}

/// A constant that occupies planes of the constant pool, from `plane` on.
#[derive(Clone, Debug)]
pub struct Constant {
    /// First plane.
    pub plane: u32,
    /// Value.
    pub value: ConstantValue,
    /// Bytes: 4, 8 or 16.
    pub bytes: u32,
}

/// The value of a constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConstantValue {
    /// Bits.
    Bits(u64),
    /// Address of a variable, known when the module is loaded, plus an offset.
    Variable(u32, i64),
}

/// A variable in global or constant memory.
#[derive(Clone, Debug)]
pub struct Variable {
    /// Name.
    pub name: String,
    /// Size in bytes.
    pub bytes: u64,
    /// Alignment.
    pub align: u32,
    /// Constant memory: the kernel may not write it.
    pub constant: bool,
    /// Initial bytes (what is missing is zero).
    pub init: Vec<u8>,
    /// Addresses within: offset, variable or function symbol, addend.
    pub relocations: Vec<(u64, u32, i64)>,
}

/// A parameter of a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Param {
    /// Name.
    pub name: String,
    /// Offset in the argument bytes.
    pub offset: u32,
    /// Size.
    pub bytes: u32,
    /// Alignment.
    pub align: u32,
}

/// A decoded function.
#[derive(Clone, Debug)]
pub struct Function {
    /// Name.
    pub name: String,
    /// Whether it is an entry.
    pub kernel: bool,
    /// First instruction.
    pub entry: u32,
    /// One past the last instruction.
    pub end: u32,
    /// Register planes of a frame.
    pub planes: u32,
    /// Predicates of a frame.
    pub preds: u32,
    /// Local bytes of a frame.
    pub local_bytes: u32,
    /// Parameters: of a kernel in the argument bytes, of a function in the frame's local memory.
    pub params: Vec<Param>,
    /// Return parameters, in the frame's local memory.
    pub returns: Vec<Param>,
    /// Static shared memory.
    pub shared_bytes: u32,
    /// Alignment of the dynamic shared memory.
    pub dynamic_align: u32,
    /// `.maxntid`
    pub max_threads: Option<[u32; 3]>,
    /// `.reqntid`
    pub required_threads: Option<[u32; 3]>,
    /// `.maxnreg`
    pub max_registers: Option<u32>,
    /// `.reqnctapercluster`
    pub required_cluster: Option<[u32; 3]>,
    /// Declared registers.
    pub registers: Vec<Register>,
    /// Those that may be read before they are written: bits by plane, then by predicate.
    pub unproven: Vec<u64>,
}

/// A declaration of registers: `.reg .b32 %r<40>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Register {
    /// Name, or what the names have in common.
    pub name: String,
    /// First plane, or predicate.
    pub first: u32,
    /// Planes of each.
    pub each: u32,
    /// Elements of each, when it is a vector.
    pub vector: u32,
    /// How many there are, when they are numbered.
    pub count: Option<u32>,
    /// Whether they are predicates.
    pub predicate: bool,
}

impl Function {
    /// The name of the register that begins at a plane, or of a predicate.
    pub fn register_name(&self, at: u32, predicate: bool) -> String {
        let holds = |r: &&Register| {
            let end = u64::from(r.first)
                + u64::from(r.each) * u64::from(r.vector) * u64::from(r.count.unwrap_or(1));
            r.predicate == predicate && r.first <= at && u64::from(at) < end
        };
        match self.registers.iter().find(holds) {
            Some(r) if r.count.is_some() => format!("{}{}", r.name, (at - r.first) / r.each),
            Some(r) if r.vector > 1 => {
                format!("{}.{}", r.name, ["x", "y", "z", "w"][((at - r.first) / r.each) as usize % 4])
            }
            Some(r) => r.name.clone(),
            None if predicate => "the carry bit".into(),
            None => "a value".into(),
        }
    }
}

/// Base of the addresses that stand for functions.
pub(crate) const FUNCTION_ADDRESS: u64 = 0x0F00_0000_0000_0000;

/// The most functions, variables and instructions a module may have; bounds memory on hostile input.
const MAX_VARIABLE_BYTES: u64 = 1 << 32;

impl Module {
    /// Parses and decodes a PTX text.
    ///
    /// # Errors
    /// The line, what was found there and what would be right; and the code that a driver gives.
    pub fn parse(text: &str) -> Result<Module, ModuleError> {
        Ok(Module(Arc::new(Decoder::decode(&parse::parse(text)?)?)))
    }

    /// The kernel of this name.
    pub fn kernel(&self, name: &str) -> Option<&Function> {
        self.0.functions.iter().find(|f| f.kernel && f.name == name)
    }

    /// Names of all kernels, in order.
    pub fn kernels(&self) -> impl Iterator<Item = &str> {
        self.0.functions.iter().filter(|f| f.kernel).map(|f| f.name.as_str())
    }

    /// Everything decoded.
    pub fn data(&self) -> &ModuleData {
        &self.0
    }
}

/// Symbols of module scope.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Symbol {
    Variable(u32),
    Shared(u32),
    Function(u32),
}

pub(crate) struct SharedVariable {
    pub bytes: u64,
    pub align: u32,
    pub dynamic: bool,
    /// Offset given by a device function's use of it: the same for all kernels.
    pub fixed: Option<u32>,
}

/// State of decoding that outlives one function.
#[derive(Default)]
pub(crate) struct Decoder {
    pub symbols: HashMap<String, Symbol>,
    pub shared: Vec<SharedVariable>,
    pub variables: Vec<Variable>,
    pub constants: Vec<Constant>,
    pub constant_slots: HashMap<(ConstantValue, u32), Slot>,
    pub constant_planes: u32,
    pub code: Vec<Instruction>,
    /// Shared bytes taken by device functions.
    pub function_shared: u32,
}

impl Decoder {
    fn decode(text: &ast::Text) -> Result<ModuleData, ModuleError> {
        let target = text.target.strip_prefix("sm_").and_then(|t| {
            let specific = t.ends_with('a') || t.ends_with('f');
            t.trim_end_matches(['a', 'f']).parse::<u32>().ok().map(|sm| (sm, specific))
        });
        let Some((sm, specific)) = target else {
            return Err(ModuleError::new(1, format!("'{}' is no target such as sm_80", text.target)));
        };
        let mut d = Decoder::default();
        for v in &text.variables {
            d.variable(v)?;
        }
        // A function may be declared before it is defined: one number for each name.
        let mut infos: Vec<Function> = Vec::new();
        let mut bodies: Vec<Option<&ast::Function>> = Vec::new();
        for f in &text.functions {
            let id = match d.symbols.get(f.name) {
                Some(Symbol::Function(id)) if bodies[*id as usize].is_none() || f.body.is_none() => {
                    *id as usize
                }
                Some(_) => return Err(ModuleError::new(f.line, format!("'{}' is defined twice", f.name))),
                None => {
                    d.symbols.insert(f.name.into(), Symbol::Function(infos.len() as u32));
                    infos.push(function::signature(f)?);
                    bodies.push(None);
                    infos.len() - 1
                }
            };
            if f.body.is_some() {
                infos[id] = function::signature(f)?;
                bodies[id] = Some(f);
            }
        }
        d.relocate(text)?;
        // Device functions first: the shared memory they use has one place in every kernel.
        let order = |kernel: bool| {
            bodies
                .iter()
                .enumerate()
                .filter_map(move |(id, f)| f.filter(|f| f.kernel == kernel).map(|f| (id, f)))
        };
        for (id, f) in order(false).chain(order(true)) {
            infos[id] = FunctionDecoder::decode(&mut d, f, infos[id].clone(), &infos)?;
        }
        // A function that is declared but not here cannot be called.
        for (id, body) in bodies.iter().enumerate() {
            let supplied = crate::exec::driver_call::DriverFunction::named(&infos[id].name).is_some();
            if body.is_none() && !supplied && d.called(id as u32) {
                let line = d.code.iter().find(|i| calls(i, id as u32)).map_or(0, |i| i.line);
                return Err(ModuleError::new(line, format!("function '{}' has no body", infos[id].name)));
            }
        }
        let mut watched = false;
        for f in &mut infos {
            watched |= definite::mark(f, &mut d.code, &d.constants);
        }
        Ok(ModuleData {
            version: text.version,
            sm,
            specific,
            code: d.code,
            functions: infos,
            variables: d.variables,
            constants: d.constants,
            watched,
        })
    }

    fn called(&self, id: u32) -> bool {
        self.code.iter().any(|i| calls(i, id))
    }

    /// Adds a variable of module or function scope that lives in global, constant or shared memory.
    pub(crate) fn variable(&mut self, v: &ast::Variable) -> Result<Symbol, ModuleError> {
        let symbol = self.anonymous_variable(v)?;
        if self.symbols.insert(v.name.into(), symbol).is_some() {
            return Err(ModuleError::new(v.line, format!("'{}' is defined twice", v.name)));
        }
        Ok(symbol)
    }

    pub(crate) fn anonymous_variable(&mut self, v: &ast::Variable) -> Result<Symbol, ModuleError> {
        let too_large = || ModuleError::new(v.line, format!("'{}' is too large", v.name));
        let bytes = v.bytes().filter(|b| *b <= MAX_VARIABLE_BYTES).ok_or_else(too_large)?;
        if v.space == Space::Shared {
            let dynamic = v.external || v.dims.iter().any(Option::is_none);
            self.shared.push(SharedVariable { bytes, align: v.align, dynamic, fixed: None });
            return Ok(Symbol::Shared(self.shared.len() as u32 - 1));
        }
        let mut init = Vec::new();
        if v.init.len() as u64 * u64::from(v.ty.bytes()) > bytes {
            return Err(ModuleError::new(
                v.line,
                format!("'{}' has more initial values than elements", v.name),
            ));
        }
        for value in &v.init {
            let bits = match value {
                ast::Init::Bits(ast::Number::Int(n)) => *n,
                ast::Init::Bits(ast::Number::F32(n)) => u64::from(*n),
                ast::Init::Bits(ast::Number::F64(n)) if v.ty.bytes() == 4 => {
                    u64::from((f64::from_bits(*n) as f32).to_bits())
                }
                ast::Init::Bits(ast::Number::F64(n)) => *n,
                ast::Init::Symbol(..) => 0,
            };
            init.extend_from_slice(&bits.to_le_bytes()[..v.ty.bytes().min(8) as usize]);
        }
        self.variables.push(Variable {
            name: v.name.into(),
            bytes,
            align: v.align,
            constant: v.space == Space::Const,
            init,
            relocations: Vec::new(),
        });
        Ok(Symbol::Variable(self.variables.len() as u32 - 1))
    }

    /// Fills in initial values that are addresses, once all symbols are known.
    fn relocate(&mut self, text: &ast::Text) -> Result<(), ModuleError> {
        for v in text.variables.iter().filter(|v| v.space != Space::Shared) {
            let Some(Symbol::Variable(own)) = self.symbols.get(v.name).copied() else { continue };
            for (at, value) in v.init.iter().enumerate() {
                let ast::Init::Symbol(name, addend) = value else { continue };
                let offset = at as u64 * u64::from(v.ty.bytes());
                if v.ty.bytes() != 8 {
                    return Err(ModuleError::new(v.line, "an address needs an element of 64 bits"));
                }
                match self.symbols.get(*name).copied() {
                    Some(Symbol::Variable(id)) => {
                        self.variables[own as usize].relocations.push((offset, id, *addend));
                    }
                    Some(Symbol::Function(id)) => {
                        let bytes = (FUNCTION_ADDRESS + u64::from(id)).to_le_bytes();
                        let at = offset as usize;
                        self.variables[own as usize].init[at..at + 8].copy_from_slice(&bytes);
                    }
                    _ => return Err(ModuleError::new(v.line, format!("'{name}' is not defined"))),
                }
            }
        }
        Ok(())
    }

    /// The slot of a constant of 4, 8 or 16 bytes.
    pub(crate) fn constant(&mut self, value: ConstantValue, bytes: u32) -> Slot {
        let bytes = bytes.max(4);
        *self.constant_slots.entry((value, bytes)).or_insert_with(|| {
            // Wide values start on an even plane, so that a pair of planes is one aligned row of 64-bit lanes.
            let step = bytes / 4;
            let plane = self.constant_planes.next_multiple_of(step);
            self.constant_planes = plane + step;
            self.constants.push(Constant { plane, value, bytes });
            Slot::constant(plane)
        })
    }
}

fn calls(i: &Instruction, id: u32) -> bool {
    matches!(&i.op, crate::ir::Op::Call(c) if c.function == Some(id))
}

impl ModuleData {
    /// Planes of the constant pool.
    pub fn constant_planes(&self) -> u32 {
        self.constants.iter().map(|c| c.plane + c.bytes / 4).max().unwrap_or(0)
    }

    /// Whether this PTX may run on a GPU; else the driver's error.
    pub fn accepted_by(&self, gpu: &crate::gpu::Gpu) -> Result<(), ModuleError> {
        if gpu.accepts_target(self.sm, self.specific) {
            return Ok(());
        }
        Err(ModuleError {
            line: 2,
            message: format!(
                "code for sm_{}{} cannot run on {} (sm_{}{})",
                self.sm,
                if self.specific { "a" } else { "" },
                gpu.name,
                gpu.capability.0,
                gpu.capability.1
            ),
            code: CudaError::NoBinaryForGpu,
        })
    }
}
