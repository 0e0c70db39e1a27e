//! Consumes the modifiers of an instruction one by one; what is left over is an error, never ignored.

use crate::error::ModuleError;
use crate::parse::ast;
use crate::types::Type;

pub(crate) struct Modifiers<'t, 'a> {
    instruction: &'t ast::Instruction<'a>,
    at: usize,
}

impl<'t, 'a> Modifiers<'t, 'a> {
    pub(crate) fn new(instruction: &'t ast::Instruction<'a>) -> Self {
        Modifiers { instruction, at: 0 }
    }

    /// The next modifier, not consumed.
    pub(crate) fn peek(&self) -> Option<&'a str> {
        self.instruction.modifiers.get(self.at).copied()
    }

    /// Consumes the next modifier when it is this one.
    pub(crate) fn take(&mut self, name: &str) -> bool {
        let hit = self.peek() == Some(name);
        self.at += usize::from(hit);
        hit
    }

    /// Consumes the next modifier when it is one of these, and returns its value.
    pub(crate) fn choose<T: Copy>(&mut self, choices: &[(&str, T)]) -> Option<T> {
        let found = choices.iter().find(|c| Some(c.0) == self.peek())?;
        self.at += 1;
        Some(found.1)
    }

    /// As [`Modifiers::choose`], but one of them must be there.
    pub(crate) fn need<T: Copy>(&mut self, choices: &[(&str, T)]) -> Result<T, ModuleError> {
        if let Some(value) = self.choose(choices) {
            return Ok(value);
        }
        let names: Vec<_> = choices.iter().map(|c| format!(".{}", c.0)).collect();
        Err(self.error(format!("expected one of {}", names.join(" "))))
    }

    /// The next modifier as a type.
    pub(crate) fn ty(&mut self) -> Result<Type, ModuleError> {
        match self.peek().and_then(Type::from_name) {
            Some(ty) => {
                self.at += 1;
                Ok(ty)
            }
            None => Err(self.error("expected a type".into())),
        }
    }

    /// An error about the modifier at hand.
    pub(crate) fn error(&self, wanted: String) -> ModuleError {
        let i = self.instruction;
        let whole =
            std::iter::once(i.opcode).chain(i.modifiers.iter().copied()).collect::<Vec<_>>().join(".");
        let found = self.peek().map_or("nothing more".into(), |m| format!("'.{m}'"));
        ModuleError::new(i.line, format!("'{whole}': found {found}, {wanted}"))
    }

    /// All must have been consumed.
    pub(crate) fn finish(&self) -> Result<(), ModuleError> {
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.error("which is not known here".into())),
        }
    }
}
