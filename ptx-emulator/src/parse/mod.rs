//! From PTX text to statements: names stay names, every statement remembers its line.
//!
//! The parser knows the grammar, not the instructions: which opcodes and modifiers exist is the business of
//! [`crate::decode`], so that an instruction is added in one place.

pub mod ast;
mod lexer;
mod parser;

pub use parser::parse;
