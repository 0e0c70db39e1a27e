//! The scalar types, state spaces and scopes of PTX, shared by the parser, the decoder and the interpreter.

use serde::Serialize;

/// A fundamental or packed type, as the suffix of an instruction names it (PTX ISA, "Types").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Type {
    B8,
    B16,
    B32,
    B64,
    B128,
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    F16,
    F16x2,
    Bf16,
    Bf16x2,
    Tf32,
    F32,
    F64,
    /// Elements of matrices only.
    E4m3,
    /// Elements of matrices only.
    E5m2,
    E4m3x2,
    E5m2x2,
    Pred,
}

impl Type {
    /// The type that a suffix such as `u32` names.
    pub fn from_name(name: &str) -> Option<Type> {
        use Type::*;
        Some(match name {
            "b8" => B8,
            "b16" => B16,
            "b32" => B32,
            "b64" => B64,
            "b128" => B128,
            "u8" => U8,
            "u16" => U16,
            "u32" => U32,
            "u64" => U64,
            "s8" => S8,
            "s16" => S16,
            "s32" => S32,
            "s64" => S64,
            "f16" => F16,
            "f16x2" => F16x2,
            "bf16" => Bf16,
            "bf16x2" => Bf16x2,
            "tf32" => Tf32,
            "f32" => F32,
            "f64" => F64,
            "e4m3x2" => E4m3x2,
            "e5m2x2" => E5m2x2,
            "pred" => Pred,
            _ => return None,
        })
    }

    /// Size in bytes; a predicate has none and says 0.
    pub fn bytes(self) -> u32 {
        use Type::*;
        match self {
            B8 | U8 | S8 | E4m3 | E5m2 => 1,
            B16 | U16 | S16 | F16 | Bf16 | E4m3x2 | E5m2x2 => 2,
            B32 | U32 | S32 | F16x2 | Bf16x2 | Tf32 | F32 => 4,
            B64 | U64 | S64 | F64 => 8,
            B128 => 16,
            Pred => 0,
        }
    }

    /// Whether the type is a signed integer.
    pub fn signed(self) -> bool {
        matches!(self, Type::S8 | Type::S16 | Type::S32 | Type::S64)
    }

    /// Whether the type is an integer or untyped bits.
    pub fn integer(self) -> bool {
        use Type::*;
        matches!(self, B8 | B16 | B32 | B64 | U8 | U16 | U32 | U64 | S8 | S16 | S32 | S64)
    }
}

/// A state space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Space {
    /// Registers (declarations only).
    Reg,
    /// No space named: the address says which window it is in.
    Generic,
    /// Device memory.
    Global,
    /// Memory of a block; `cluster` addresses may reach a neighbour's.
    Shared,
    /// Constant bank.
    Const,
    /// A thread's own memory.
    Local,
    /// Parameters: of the kernel, or of a call.
    Param,
}

/// The scope of a fence or a strong access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Scope {
    /// Threads of the block.
    Cta,
    /// Threads of the cluster.
    Cluster,
    /// Threads of the device.
    Gpu,
    /// All threads and the host.
    Sys,
}
