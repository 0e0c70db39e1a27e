//! The pickle of a state dict, read without running anything.
//!
//! Pickle is a program for a stack machine that may call any function Python can import, which is why opening a
//! checkpoint from the internet with Python can run its author's code. This machine knows the opcodes and the few
//! names that `torch.save(model.state_dict())` writes, and what they build are plain nodes in an arena; every other
//! opcode or name is an error that names it. Nodes refer to each other by index, so shared and even cyclic structures
//! cost nothing to hold or to free, and no nesting can exhaust the stack of the reader.

use std::collections::HashMap;
use std::path::Path;

use crate::dtype::DType;
use crate::error::{Error, Result, shorten};

const FORMAT: &str = "PyTorch pickle";
/// A state dict of 1,000 tensors is 200 kB and 20,000 nodes; these bounds hold memory to a few hundred megabytes at
/// worst.
const MAX_BYTES: usize = 64 << 20;
const MAX_NODES: usize = 1 << 21;
const MAX_MARKS: usize = 1 << 12;
/// Tensors copy the key of their storage and their shape, so both are bounded.
const MAX_KEY: usize = 256;
const MAX_RANK: usize = 16;

/// Index of a node in the arena.
pub(crate) type Id = u32;

/// A value that a state dict may contain.
#[derive(Debug)]
pub(crate) enum Node {
    /// None, a truth value, a float: allowed to occur, of no interest.
    Other,
    Int(i64),
    Str(Box<str>),
    Tuple(Box<[Id]>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Global(Global),
    Storage(Box<Storage>),
    Tensor(Box<TensorRecord>),
}

/// The names that may be looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Global {
    OrderedDict,
    Size,
    RebuildTensor,
    RebuildParameter,
    Storage(DType),
}

/// One `data/KEY` entry of the archive.
#[derive(Debug, Clone)]
pub(crate) struct Storage {
    pub key: Box<str>,
    pub dtype: DType,
    pub numel: usize,
}

/// A view of a storage, in elements.
#[derive(Debug, Clone)]
pub(crate) struct TensorRecord {
    pub storage: Storage,
    pub offset: usize,
    pub shape: Vec<usize>,
    pub strides: Vec<usize>,
}

/// The arena and the node that the program left.
pub(crate) struct Pickle {
    pub nodes: Vec<Node>,
    pub root: Id,
}

struct Machine<'a> {
    path: &'a Path,
    data: &'a [u8],
    at: usize,
    nodes: Vec<Node>,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

/// Runs the program.
pub(crate) fn parse(path: &Path, data: &[u8]) -> Result<Pickle> {
    if data.len() > MAX_BYTES {
        let what = format!("its data.pkl has {} bytes; a state dict needs at most {MAX_BYTES}", data.len());
        return Err(Error::unsupported(path, what));
    }
    let mut machine = Machine {
        path,
        data,
        at: 0,
        nodes: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
    };
    let root = machine.run()?;
    Ok(Pickle { nodes: machine.nodes, root })
}

impl<'a> Machine<'a> {
    fn bad(&self, what: impl AsRef<str>) -> Error {
        Error::corrupt(self.path, FORMAT, format!("{} (at byte {} of data.pkl)", what.as_ref(), self.at))
    }

    fn run(&mut self) -> Result<Id> {
        loop {
            let opcode = self.take(1)?[0];
            match opcode {
                b'.' => return self.pop(),
                // PROTO and FRAME: every protocol's opcodes are read alike, and frames are only a hint for buffering.
                0x80 => drop(self.take(1)?),
                0x95 => drop(self.take(8)?),
                b'(' => self.mark()?,
                b'N' | 0x88 | 0x89 => self.push(Node::Other)?,
                b'G' => {
                    self.take(8)?;
                    self.push(Node::Other)?;
                }
                b'K' => {
                    let n = self.take(1)?[0];
                    self.push(Node::Int(n.into()))?;
                }
                b'M' => {
                    let n = u16::from_le_bytes(self.array()?);
                    self.push(Node::Int(n.into()))?;
                }
                b'J' => {
                    let n = i32::from_le_bytes(self.array()?);
                    self.push(Node::Int(n.into()))?;
                }
                0x8a => self.long1()?,
                b'X' => {
                    let n = u32::from_le_bytes(self.array()?);
                    self.string(n as usize)?;
                }
                0x8c | b'U' => {
                    let n = self.take(1)?[0];
                    self.string(n.into())?;
                }
                b')' => self.push(Node::Tuple([].into()))?,
                0x85..=0x87 => {
                    let items = self.pop_n((opcode - 0x84).into())?;
                    self.push(Node::Tuple(items.into()))?;
                }
                b't' => {
                    let items = self.pop_mark()?;
                    self.push(Node::Tuple(items.into()))?;
                }
                b']' => self.push(Node::List(Vec::new()))?,
                b'a' => {
                    let items = self.pop_n(1)?;
                    self.append(items)?;
                }
                b'e' => {
                    let items = self.pop_mark()?;
                    self.append(items)?;
                }
                b'}' => self.push(Node::Dict(Vec::new()))?,
                b's' => {
                    let items = self.pop_n(2)?;
                    self.set_items(items)?;
                }
                b'u' => {
                    let items = self.pop_mark()?;
                    self.set_items(items)?;
                }
                b'q' => {
                    let n = self.take(1)?[0];
                    self.remember(n.into())?;
                }
                b'r' => {
                    let n = u32::from_le_bytes(self.array()?);
                    self.remember(n)?;
                }
                0x94 => self.remember(self.memo.len() as u32)?,
                b'h' => {
                    let n = self.take(1)?[0];
                    self.recall(n.into())?;
                }
                b'j' => {
                    let n = u32::from_le_bytes(self.array()?);
                    self.recall(n)?;
                }
                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    self.global(module, name)?;
                }
                0x93 => {
                    let items = self.pop_n(2)?;
                    let (Some(module), Some(name)) = (self.text(items[0]), self.text(items[1])) else {
                        return Err(self.bad("STACK_GLOBAL without two strings"));
                    };
                    let (module, name) = (module.to_owned(), name.to_owned());
                    self.global(&module, &name)?;
                }
                b'Q' => self.persistent_id()?,
                b'R' => self.reduce()?,
                b'b' => self.build()?,
                other => {
                    let name = opcode_name(other);
                    let what = format!(
                        "its pickle uses the opcode {name} (0x{other:02x}), which a plain state dict does not; \
                         save it anew with torch.save(model.state_dict(), FILE)"
                    );
                    return Err(Error::unsupported(self.path, what));
                }
            }
        }
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let end = self.at.checked_add(n).filter(|&e| e <= self.data.len());
        let end = end.ok_or_else(|| self.bad("the pickle ends in the middle of an instruction"))?;
        let taken = &self.data[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    fn line(&mut self) -> Result<&'a str> {
        let rest = &self.data[self.at..];
        let end = rest.iter().take(512).position(|&b| b == b'\n');
        let end = end.ok_or_else(|| self.bad("a name without an end"))?;
        self.at += end + 1;
        std::str::from_utf8(&rest[..end]).map_err(|_| self.bad("a name that is not UTF-8"))
    }

    fn string(&mut self, len: usize) -> Result<()> {
        let bytes = self.take(len)?;
        let text = std::str::from_utf8(bytes).map_err(|_| self.bad("a string that is not UTF-8"))?;
        self.push(Node::Str(text.into()))
    }

    fn long1(&mut self) -> Result<()> {
        let n = self.take(1)?[0] as usize;
        let bytes = self.take(n)?;
        if n > 8 {
            return self.push(Node::Other);
        }
        // Sign-extended from its highest byte.
        let fill = if bytes.last().is_some_and(|b| b & 0x80 != 0) { 0xff } else { 0 };
        let mut wide = [fill; 8];
        wide[..n].copy_from_slice(bytes);
        self.push(Node::Int(i64::from_le_bytes(wide)))
    }

    fn push(&mut self, node: Node) -> Result<()> {
        if self.nodes.len() == MAX_NODES {
            return Err(self.bad(format!("more than {MAX_NODES} objects")));
        }
        self.nodes.push(node);
        self.push_id(self.nodes.len() as Id - 1)
    }

    fn mark(&mut self) -> Result<()> {
        if self.marks.len() == MAX_MARKS {
            return Err(self.bad(format!("nested deeper than {MAX_MARKS}")));
        }
        self.marks.push(self.stack.len());
        Ok(())
    }

    fn push_id(&mut self, id: Id) -> Result<()> {
        if self.stack.len() == MAX_NODES {
            return Err(self.bad(format!("a stack of more than {MAX_NODES} objects")));
        }
        self.stack.push(id);
        Ok(())
    }

    /// Takes objects off the stack, but none from below the last mark.
    fn pop_n(&mut self, n: usize) -> Result<Vec<Id>> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.len().checked_sub(n) {
            Some(at) if at >= floor => Ok(self.stack.split_off(at)),
            _ => Err(self.bad("an instruction finds its operands missing")),
        }
    }

    fn pop(&mut self) -> Result<Id> {
        Ok(self.pop_n(1)?[0])
    }

    fn pop_mark(&mut self) -> Result<Vec<Id>> {
        let mark = self.marks.pop().ok_or_else(|| self.bad("an instruction finds its mark missing"))?;
        Ok(self.stack.split_off(mark))
    }

    fn top(&self) -> Result<Id> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let top = self.stack.get(floor..).and_then(<[Id]>::last);
        top.copied().ok_or_else(|| self.bad("an instruction finds its operand missing"))
    }

    fn append(&mut self, items: Vec<Id>) -> Result<()> {
        let top = self.top()?;
        match &mut self.nodes[top as usize] {
            Node::List(list) => list.extend(items),
            _ => return Err(self.bad("APPEND to what is not a list")),
        }
        Ok(())
    }

    fn set_items(&mut self, items: Vec<Id>) -> Result<()> {
        let top = self.top()?;
        let (pairs, rest) = items.as_chunks::<2>();
        match &mut self.nodes[top as usize] {
            Node::Dict(dict) if rest.is_empty() => dict.extend(pairs.iter().map(|&[k, v]| (k, v))),
            _ => return Err(self.bad("SETITEMS on what is not a dict, or a key without a value")),
        }
        Ok(())
    }

    fn remember(&mut self, slot: u32) -> Result<()> {
        let top = self.top()?;
        self.memo.insert(slot, top);
        if self.memo.len() > MAX_NODES {
            return Err(self.bad(format!("more than {MAX_NODES} objects are remembered")));
        }
        Ok(())
    }

    fn recall(&mut self, slot: u32) -> Result<()> {
        let id = self.memo.get(&slot).copied();
        let id = id.ok_or_else(|| self.bad(format!("object {slot} is recalled but was never stored")))?;
        self.push_id(id)
    }

    fn global(&mut self, module: &str, name: &str) -> Result<()> {
        let global = match (module, name) {
            ("collections", "OrderedDict") => Global::OrderedDict,
            ("torch", "Size") => Global::Size,
            ("torch._utils", "_rebuild_tensor_v2") => Global::RebuildTensor,
            ("torch._utils", "_rebuild_parameter") => Global::RebuildParameter,
            ("torch", storage) => Global::Storage(match storage {
                "DoubleStorage" => DType::F64,
                "FloatStorage" => DType::F32,
                "HalfStorage" => DType::F16,
                "BFloat16Storage" => DType::BF16,
                "LongStorage" => DType::I64,
                "IntStorage" => DType::I32,
                "ShortStorage" => DType::I16,
                "CharStorage" => DType::I8,
                "ByteStorage" => DType::U8,
                "BoolStorage" => DType::Bool,
                _ => return Err(self.refuse(module, name)),
            }),
            _ => return Err(self.refuse(module, name)),
        };
        self.push(Node::Global(global))
    }

    fn refuse(&self, module: &str, name: &str) -> Error {
        let what = format!(
            "its pickle asks for `{}.{}`, which a plain state dict does not need and which is not run here; \
             save it anew with torch.save(model.state_dict(), FILE)",
            shorten(module),
            shorten(name)
        );
        Error::unsupported(self.path, what)
    }

    /// `('storage', torch.FloatStorage, key, device, numel)`.
    fn persistent_id(&mut self) -> Result<()> {
        let id = self.pop()?;
        let storage = || {
            let &[tag, kind, key, _device, numel] = self.tuple(id)? else { return None };
            let Node::Global(Global::Storage(dtype)) = *self.node(kind) else { return None };
            let numel = self.size(numel)?;
            let (tag, key) = (self.text(tag)?, self.text(key)?);
            (tag == "storage" && key.len() <= MAX_KEY).then_some(Storage { key: key.into(), dtype, numel })
        };
        let storage = storage().ok_or_else(|| self.bad("a persistent id that is not a storage"))?;
        self.push(Node::Storage(storage.into()))
    }

    /// Calls of the few names that are known.
    fn reduce(&mut self) -> Result<()> {
        let operands = self.pop_n(2)?;
        let &Node::Global(function) = self.node(operands[0]) else {
            return Err(self.bad("REDUCE of what is not a function"));
        };
        let Some(args) = self.tuple(operands[1]) else {
            return Err(self.bad("REDUCE without a tuple of arguments"));
        };
        match (function, args) {
            (Global::OrderedDict, []) => self.push(Node::Dict(Vec::new())),
            (Global::Size, &[items]) if self.tuple(items).is_some() => self.push_id(items),
            // (tensor, requires_grad, hooks): a parameter is its tensor.
            (Global::RebuildParameter, &[tensor, ..]) if matches!(self.node(tensor), Node::Tensor(_)) => {
                self.push_id(tensor)
            }
            (Global::RebuildTensor, &[storage, offset, shape, strides, ..]) => {
                let record = || {
                    let Node::Storage(storage) = self.node(storage) else { return None };
                    let sizes = |id| {
                        let items = self.tuple(id).filter(|items| items.len() <= MAX_RANK)?;
                        items.iter().map(|&n| self.size(n)).collect::<Option<Vec<_>>>()
                    };
                    Some(TensorRecord {
                        storage: (**storage).clone(),
                        offset: self.size(offset)?,
                        shape: sizes(shape)?,
                        strides: sizes(strides)?,
                    })
                };
                let record = record().ok_or_else(|| self.bad("a tensor with impossible arguments"))?;
                self.push(Node::Tensor(record.into()))
            }
            _ => Err(self.bad(format!("a call of {function:?} with unknown arguments"))),
        }
    }

    /// `state_dict()` hangs its `_metadata` (version numbers) on the dict as an attribute; nothing else may be built.
    fn build(&mut self) -> Result<()> {
        let state = self.pop()?;
        let target = self.top()?;
        match (self.node(target), self.node(state)) {
            (Node::Dict(_), Node::Dict(_)) => Ok(()),
            _ => Err(self.bad("BUILD of an object that is not a dict")),
        }
    }

    fn node(&self, id: Id) -> &Node {
        &self.nodes[id as usize]
    }

    fn tuple(&self, id: Id) -> Option<&[Id]> {
        match self.node(id) {
            Node::Tuple(items) => Some(items),
            _ => None,
        }
    }

    fn text(&self, id: Id) -> Option<&str> {
        match self.node(id) {
            Node::Str(text) => Some(text),
            _ => None,
        }
    }

    fn size(&self, id: Id) -> Option<usize> {
        match *self.node(id) {
            Node::Int(n) => usize::try_from(n).ok(),
            _ => None,
        }
    }
}

/// Names of the opcodes that other pickles use, for messages.
fn opcode_name(opcode: u8) -> &'static str {
    match opcode {
        b'0' => "POP",
        b'1' => "POP_MARK",
        b'2' => "DUP",
        b'F' => "FLOAT",
        b'I' => "INT",
        b'L' => "LONG",
        b'S' => "STRING",
        b'T' => "BINSTRING",
        b'V' => "UNICODE",
        b'P' => "PERSID",
        b'd' => "DICT",
        b'l' => "LIST",
        b'i' => "INST",
        b'o' => "OBJ",
        b'p' => "PUT",
        b'g' => "GET",
        b'B' => "BINBYTES",
        b'C' => "SHORT_BINBYTES",
        0x81 => "NEWOBJ",
        0x92 => "NEWOBJ_EX",
        0x82..=0x84 => "EXT",
        0x8b => "LONG4",
        0x8d => "BINUNICODE8",
        0x8e => "BINBYTES8",
        0x8f => "EMPTY_SET",
        0x90 => "ADDITEMS",
        0x91 => "FROZENSET",
        0x96 => "BYTEARRAY8",
        _ => "unknown",
    }
}
