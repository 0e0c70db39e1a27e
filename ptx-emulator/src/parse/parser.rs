//! The grammar of PTX (ISA, "Syntax", "Directives"): recursive descent over the tokens.

use super::ast::*;
use super::lexer::{Token, tokens};
use crate::error::{CudaError, ModuleError};
use crate::types::{Space, Type};

/// Scopes within scopes; real code has two or three.
const MAX_NESTING: u32 = 64;

/// The newest PTX version whose text is understood.
const NEWEST: (u32, u32) = (8, 8);

/// Parses a whole text.
///
/// # Errors
/// The line and what was found there, with the code a driver gives: an unknown version is
/// `CUDA_ERROR_UNSUPPORTED_PTX_VERSION`, all else `CUDA_ERROR_INVALID_PTX`.
pub fn parse(text: &str) -> Result<Text<'_>> {
    // A driver is given a C string: what follows a NUL is not part of it.
    let text = text.split('\0').next().unwrap_or("");
    Parser { tokens: tokens(text)?, at: 0 }.text()
}

struct Parser<'a> {
    tokens: Vec<(Token<'a>, u32)>,
    at: usize,
}

type Result<T> = std::result::Result<T, ModuleError>;

impl<'a> Parser<'a> {
    fn peek(&self) -> Token<'a> {
        self.tokens[self.at.min(self.tokens.len() - 1)].0
    }

    fn peek_at(&self, ahead: usize) -> Token<'a> {
        self.tokens[(self.at + ahead).min(self.tokens.len() - 1)].0
    }

    fn line(&self) -> u32 {
        self.tokens[self.at.min(self.tokens.len() - 1)].1
    }

    fn next(&mut self) -> Token<'a> {
        let token = self.peek();
        self.at += 1;
        token
    }

    fn error<T>(&self, wanted: &str) -> Result<T> {
        Err(ModuleError::new(self.line(), format!("found {}, expected {wanted}", self.peek())))
    }

    fn eat(&mut self, c: char) -> bool {
        let hit = self.peek() == Token::Punct(c);
        self.at += usize::from(hit);
        hit
    }

    fn expect(&mut self, c: char) -> Result<()> {
        if self.eat(c) { Ok(()) } else { self.error(&format!("'{c}'")) }
    }

    fn word(&mut self, wanted: &str) -> Result<&'a str> {
        match self.peek() {
            Token::Word(w) => {
                self.at += 1;
                Ok(w)
            }
            _ => self.error(wanted),
        }
    }

    fn int(&mut self, wanted: &str) -> Result<u64> {
        match self.peek() {
            Token::Number(Number::Int(n)) => {
                self.at += 1;
                Ok(n)
            }
            _ => self.error(wanted),
        }
    }

    fn small(&mut self, wanted: &str) -> Result<u32> {
        let line = self.line();
        let n = self.int(wanted)?;
        u32::try_from(n).map_err(|_| ModuleError::new(line, format!("{n} is too large for {wanted}")))
    }

    fn text(mut self) -> Result<Text<'a>> {
        let mut out = Text { version: self.version()?, ..Text::default() };
        if self.next() != Token::Dot("target") {
            self.at -= 1;
            return self.error("'.target'");
        }
        out.target = self.word("an architecture such as sm_80")?;
        while self.eat(',') {
            self.word("a target option")?;
        }
        loop {
            match self.peek() {
                Token::End => break,
                Token::Dot("address_size") => {
                    self.at += 1;
                    if self.int("the address size")? != 64 {
                        self.at -= 1;
                        return self.error("64: only 64-bit addresses are supported");
                    }
                }
                Token::Dot("file" | "section" | "loc") => self.debug_directive()?,
                Token::Dot("pragma" | "alias") => self.skip_statement()?,
                Token::Punct(';') => self.at += 1,
                _ => self.item(&mut out)?,
            }
        }
        Ok(out)
    }

    fn version(&mut self) -> Result<(u32, u32)> {
        if self.next() != Token::Dot("version") {
            self.at = 0;
            return self.error("'.version' at the head of PTX text");
        }
        let line = self.line();
        let Token::Number(Number::F64(bits)) = self.next() else {
            self.at -= 1;
            return self.error("a version such as 7.0");
        };
        let tenths = (f64::from_bits(bits) * 10.0).round() as u32;
        let version = (tenths / 10, tenths % 10);
        if version.0 < 1 || version > NEWEST {
            return Err(ModuleError {
                line,
                message: format!(
                    "PTX version {}.{} is not supported; the newest known is {}.{}",
                    version.0, version.1, NEWEST.0, NEWEST.1
                ),
                code: CudaError::UnsupportedPtxVersion,
            });
        }
        Ok(version)
    }

    /// `.file`, `.loc` and `.section` are for debuggers: skipped with all their operands.
    fn debug_directive(&mut self) -> Result<()> {
        let line = self.line();
        if self.next() == Token::Dot("section") {
            self.at += 1;
            self.expect('{')?;
            while !self.eat('}') {
                if self.next() == Token::End {
                    return self.error("'}' of the section");
                }
            }
            return Ok(());
        }
        while self.line() == line && self.peek() != Token::End {
            self.at += 1;
        }
        Ok(())
    }

    fn skip_statement(&mut self) -> Result<()> {
        loop {
            match self.next() {
                Token::Punct(';') => return Ok(()),
                Token::End => return self.error("';'"),
                _ => {}
            }
        }
    }

    fn item(&mut self, out: &mut Text<'a>) -> Result<()> {
        let mut external = false;
        loop {
            match self.peek() {
                Token::Dot("visible" | "weak" | "common") => self.at += 1,
                Token::Dot("extern") => {
                    external = true;
                    self.at += 1;
                }
                Token::Dot("entry" | "func") => {
                    let f = self.function()?;
                    out.functions.push(f);
                    return Ok(());
                }
                Token::Dot("global" | "const" | "shared" | "tex") => {
                    for mut v in self.declaration()? {
                        v.external = external;
                        out.variables.push(v);
                    }
                    return Ok(());
                }
                _ => return self.error("a function or a variable"),
            }
        }
    }

    fn function(&mut self) -> Result<Function<'a>> {
        let kernel = self.next() == Token::Dot("entry");
        while matches!(self.peek(), Token::Dot("noreturn")) {
            self.at += 1;
        }
        let returns = if self.peek() == Token::Punct('(') { self.parameters()? } else { Vec::new() };
        let line = self.line();
        let name = self.word("the function's name")?;
        let params = if self.peek() == Token::Punct('(') { self.parameters()? } else { Vec::new() };
        let mut f = Function {
            line,
            kernel,
            name,
            returns,
            params,
            max_threads: None,
            required_threads: None,
            max_registers: None,
            required_cluster: None,
            body: None,
        };
        loop {
            match self.peek() {
                Token::Dot("maxntid") => f.max_threads = Some(self.triple()?),
                Token::Dot("reqntid") => f.required_threads = Some(self.triple()?),
                Token::Dot("reqnctapercluster") => f.required_cluster = Some(self.triple()?),
                Token::Dot("minnctapersm" | "maxnctapersm" | "maxclusterrank") => {
                    self.triple()?;
                }
                Token::Dot("maxnreg") => f.max_registers = Some(self.triple()?[0]),
                Token::Dot("noreturn" | "explicitcluster") => self.at += 1,
                Token::Dot("pragma") => self.skip_statement()?,
                Token::Punct(';') => {
                    self.at += 1;
                    return Ok(f);
                }
                Token::Punct('{') => {
                    f.body = Some(self.scope(0)?);
                    return Ok(f);
                }
                _ => return self.error("'{' or a performance directive"),
            }
        }
    }

    fn triple(&mut self) -> Result<[u32; 3]> {
        self.at += 1;
        let mut out = [1; 3];
        out[0] = self.small("a number")?;
        for slot in &mut out[1..] {
            if !self.eat(',') {
                break;
            }
            *slot = self.small("a number")?;
        }
        Ok(out)
    }

    fn parameters(&mut self) -> Result<Vec<Variable<'a>>> {
        self.expect('(')?;
        let mut out = Vec::new();
        while !self.eat(')') {
            if !out.is_empty() {
                self.expect(',')?;
            }
            let (space, ty, vector, align) = self.type_of_declaration()?;
            out.push(self.declarator(space, ty, vector, align)?);
        }
        Ok(out)
    }

    fn type_of_declaration(&mut self) -> Result<(Space, Type, u32, Option<u32>)> {
        let space = match self.peek() {
            Token::Dot("reg") => Space::Reg,
            Token::Dot("param") => Space::Param,
            Token::Dot("global") => Space::Global,
            Token::Dot("const") => Space::Const,
            Token::Dot("shared") => Space::Shared,
            Token::Dot("local") => Space::Local,
            _ => return self.error("a state space such as '.reg'"),
        };
        self.at += 1;
        let (mut vector, mut align) = (1, None);
        loop {
            match self.peek() {
                Token::Dot("align") => {
                    self.at += 1;
                    let n = self.small("the alignment")?;
                    if !n.is_power_of_two() || n > 4096 {
                        self.at -= 1;
                        return self.error("a power of two up to 4096");
                    }
                    align = Some(n);
                }
                Token::Dot("v2") => {
                    vector = 2;
                    self.at += 1;
                }
                Token::Dot("v4") => {
                    vector = 4;
                    self.at += 1;
                }
                // `.param .u64 .ptr .global .align 16 name` says what a pointer points at: a hint.
                Token::Dot(word) => {
                    let Some(ty) = Type::from_name(word) else { return self.error("a type such as '.b32'") };
                    self.at += 1;
                    if self.peek() == Token::Dot("ptr") {
                        self.at += 1;
                        while let Token::Dot(hint) = self.peek() {
                            self.at += 1;
                            if hint == "align" {
                                self.int("the alignment")?;
                            }
                        }
                    }
                    return Ok((space, ty, vector, align));
                }
                _ => return self.error("a type such as '.b32'"),
            }
        }
    }

    fn declarator(
        &mut self,
        space: Space,
        ty: Type,
        vector: u32,
        align: Option<u32>,
    ) -> Result<Variable<'a>> {
        let line = self.line();
        let name = self.word("a name")?;
        let mut v = Variable {
            line,
            space,
            ty,
            vector,
            align: align.unwrap_or((ty.bytes() * vector).max(1)),
            name,
            count: None,
            dims: Vec::new(),
            init: Vec::new(),
            external: false,
        };
        if self.eat('<') {
            v.count = Some(self.small("the number of registers")?);
            self.expect('>')?;
        }
        while self.eat('[') {
            if self.eat(']') {
                v.dims.push(None);
            } else {
                v.dims.push(Some(self.int("the array's length")?));
                self.expect(']')?;
            }
        }
        if self.eat('=') {
            self.initialiser(&mut v.init, 0)?;
            if let Some(first @ None) = v.dims.first_mut() {
                *first = Some(v.init.len() as u64);
            }
        }
        Ok(v)
    }

    fn initialiser(&mut self, out: &mut Vec<Init<'a>>, depth: u32) -> Result<()> {
        if depth > 8 {
            return self.error("an initialiser with fewer nested braces");
        }
        if self.eat('{') {
            while !self.eat('}') {
                self.initialiser(out, depth + 1)?;
                if !self.eat(',') && self.peek() != Token::Punct('}') {
                    return self.error("',' or '}'");
                }
            }
            return Ok(());
        }
        match self.peek() {
            Token::Word("generic") => {
                self.at += 1;
                self.expect('(')?;
                let name = self.word("a symbol")?;
                self.expect(')')?;
                let offset = self.offset()?;
                out.push(Init::Symbol(name, offset));
            }
            Token::Word(name) => {
                self.at += 1;
                let offset = self.offset()?;
                out.push(Init::Symbol(name, offset));
            }
            _ => {
                let n = self.number()?;
                out.push(Init::Bits(n));
            }
        }
        Ok(())
    }

    fn offset(&mut self) -> Result<i64> {
        if self.eat('+') {
            let minus = self.eat('-');
            let n = self.int("an offset")? as i64;
            Ok(if minus { n.wrapping_neg() } else { n })
        } else if self.eat('-') {
            Ok((self.int("an offset")? as i64).wrapping_neg())
        } else {
            Ok(0)
        }
    }

    fn number(&mut self) -> Result<Number> {
        let minus = self.eat('-');
        match self.next() {
            Token::Number(Number::Int(n)) => Ok(Number::Int(if minus { n.wrapping_neg() } else { n })),
            Token::Number(Number::F32(n)) => Ok(Number::F32(if minus { n ^ (1 << 31) } else { n })),
            Token::Number(Number::F64(n)) => Ok(Number::F64(if minus { n ^ (1 << 63) } else { n })),
            _ => {
                self.at -= 1;
                self.error("a number")
            }
        }
    }

    fn declaration(&mut self) -> Result<Vec<Variable<'a>>> {
        let (space, ty, vector, align) = self.type_of_declaration()?;
        let mut out = vec![self.declarator(space, ty, vector, align)?];
        while self.eat(',') {
            out.push(self.declarator(space, ty, vector, align)?);
        }
        self.expect(';')?;
        Ok(out)
    }

    fn scope(&mut self, depth: u32) -> Result<Vec<Statement<'a>>> {
        if depth > MAX_NESTING {
            return self.error("fewer nested scopes");
        }
        self.expect('{')?;
        let mut out = Vec::new();
        loop {
            let line = self.line();
            match self.peek() {
                Token::Punct('}') => {
                    self.at += 1;
                    return Ok(out);
                }
                Token::Punct(';') => self.at += 1,
                Token::Punct('{') => out.push(Statement::Scope(self.scope(depth + 1)?)),
                Token::Dot("reg" | "shared" | "local" | "param" | "global" | "const") => {
                    out.extend(self.declaration()?.into_iter().map(Statement::Variable));
                }
                Token::Dot("loc" | "file") => self.debug_directive()?,
                Token::Dot("pragma") => self.skip_statement()?,
                Token::Word(name) if self.peek_at(1) == Token::Punct(':') => {
                    self.at += 2;
                    out.push(self.labelled(name, line)?);
                }
                Token::Word(_) | Token::Punct('@') => out.push(Statement::Instruction(self.instruction()?)),
                _ => return self.error("a statement or '}'"),
            }
        }
    }

    fn labelled(&mut self, name: &'a str, line: u32) -> Result<Statement<'a>> {
        match self.peek() {
            Token::Dot("branchtargets") => {
                self.at += 1;
                let mut labels = vec![self.word("a label")?];
                while self.eat(',') {
                    labels.push(self.word("a label")?);
                }
                self.expect(';')?;
                Ok(Statement::Targets(name, labels, line))
            }
            Token::Dot("callprototype") => {
                self.at += 1;
                let returns = if self.peek() == Token::Punct('(') { self.parameters()? } else { Vec::new() };
                self.word("'_'")?;
                let params = if self.peek() == Token::Punct('(') { self.parameters()? } else { Vec::new() };
                while matches!(self.peek(), Token::Dot(_)) {
                    self.at += 1;
                }
                self.expect(';')?;
                Ok(Statement::Prototype(name, returns, params))
            }
            _ => Ok(Statement::Label(name, line)),
        }
    }

    fn instruction(&mut self) -> Result<Instruction<'a>> {
        let guard = if self.eat('@') {
            let not = self.eat('!');
            Some((self.word("a predicate")?, not))
        } else {
            None
        };
        let line = self.line();
        let opcode = self.word("an instruction")?;
        let mut modifiers = Vec::new();
        while let Token::Dot(m) = self.peek() {
            self.at += 1;
            modifiers.push(m);
        }
        let mut operands = Vec::new();
        while !self.eat(';') {
            if !operands.is_empty() {
                self.expect(',')?;
            }
            operands.push(self.operand(0)?);
        }
        Ok(Instruction { line, guard, opcode, modifiers, operands })
    }

    fn operands_until(&mut self, close: char, depth: u32) -> Result<Vec<Operand<'a>>> {
        let mut out = Vec::new();
        while !self.eat(close) {
            if !out.is_empty() {
                self.expect(',')?;
            }
            out.push(self.operand(depth + 1)?);
        }
        Ok(out)
    }

    fn operand(&mut self, depth: u32) -> Result<Operand<'a>> {
        if depth > 4 {
            return self.error("fewer nested brackets");
        }
        match self.peek() {
            Token::Punct('{') => {
                self.at += 1;
                Ok(Operand::Vector(self.operands_until('}', depth)?))
            }
            Token::Punct('(') => {
                self.at += 1;
                Ok(Operand::List(self.operands_until(')', depth)?))
            }
            Token::Punct('[') => {
                self.at += 1;
                self.address(depth)
            }
            Token::Punct('!') => {
                self.at += 1;
                Ok(Operand::Not(self.word("a predicate")?))
            }
            Token::Punct('-') if matches!(self.peek_at(1), Token::Word(_)) => {
                self.at += 1;
                Ok(Operand::Not(self.word("a register")?))
            }
            Token::Number(_) | Token::Punct('-') => Ok(Operand::Number(self.number()?)),
            Token::Word("_") => {
                self.at += 1;
                if self.eat('|') {
                    Ok(Operand::Pair("_", self.word("a predicate")?))
                } else {
                    Ok(Operand::Sink)
                }
            }
            Token::Word(name) => {
                self.at += 1;
                match self.peek() {
                    Token::Punct('|') => {
                        self.at += 1;
                        Ok(Operand::Pair(name, self.word("a predicate")?))
                    }
                    Token::Punct('+' | '-') => Ok(Operand::Offset(name, self.offset()?)),
                    Token::Punct('[') => {
                        self.at += 1;
                        let n = self.int("an offset")? as i64;
                        self.expect(']')?;
                        Ok(Operand::Offset(name, n))
                    }
                    Token::Dot(part) => {
                        self.at += 1;
                        Ok(Operand::Component(name, part))
                    }
                    _ => Ok(Operand::Name(name)),
                }
            }
            _ => self.error("an operand"),
        }
    }

    fn address(&mut self, depth: u32) -> Result<Operand<'a>> {
        let (base, offset) = match self.peek() {
            Token::Word(name) => {
                self.at += 1;
                if self.eat('[') {
                    let n = self.int("an offset")? as i64;
                    self.expect(']')?;
                    (Some(name), n)
                } else {
                    (Some(name), self.offset()?)
                }
            }
            _ => match self.number()? {
                Number::Int(n) => (None, n as i64),
                _ => {
                    self.at -= 1;
                    return self.error("an address");
                }
            },
        };
        let mut more = Vec::new();
        if self.eat(',') {
            more = self.operands_until(']', depth)?;
        } else {
            self.expect(']')?;
        }
        Ok(Operand::Address { base, offset, more })
    }
}
