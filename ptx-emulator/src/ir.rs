//! The decoded form: one flat array of small instructions with every name resolved.
//!
//! An instruction is an [`Op`] (what to do, with all modifiers) and [`Slot`]s (where its operands live). Immediates
//! and symbol addresses are constants in slots too, so that the interpreter has one kind of operand.

use crate::types::{Scope, Space, Type};

/// Where an operand lives: a register of the frame, a constant, or a special register of the warp.
///
/// A slot counts planes of 32 lanes x 32 bits; a 64-bit value takes two in a row, a 128-bit one four.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Slot(pub u32);

impl Slot {
    const KIND: u32 = 0xC000_0000;
    const CONST: u32 = 0x4000_0000;
    const SPECIAL: u32 = 0x8000_0000;
    /// No operand (`_`, or an unused place).
    pub const NONE: Slot = Slot(u32::MAX);

    /// A register of the current frame.
    pub fn register(plane: u32) -> Slot {
        Slot(plane)
    }

    /// A constant of the module.
    pub fn constant(plane: u32) -> Slot {
        Slot(plane | Slot::CONST)
    }

    /// A special register.
    pub fn special(plane: u32) -> Slot {
        Slot(plane | Slot::SPECIAL)
    }

    /// Index of the first plane within its kind.
    #[inline(always)]
    pub fn index(self) -> usize {
        (self.0 & !Slot::KIND) as usize
    }

    /// Whether it is a register of the frame.
    #[inline(always)]
    pub fn is_register(self) -> bool {
        self.0 & Slot::KIND == 0
    }

    /// Whether it is a constant.
    #[inline(always)]
    pub fn is_constant(self) -> bool {
        self.0 & Slot::KIND == Slot::CONST
    }

    /// Whether there is no operand.
    #[inline(always)]
    pub fn is_none(self) -> bool {
        self == Slot::NONE
    }
}

/// A predicate register, perhaps negated; as a destination never negated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pred(u32);

impl Pred {
    /// No predicate: reads as true, ignores writes.
    pub const NONE: Pred = Pred(u32::MAX);

    /// Predicate `index` of the frame.
    pub fn new(index: u32, negated: bool) -> Pred {
        Pred(index << 1 | u32::from(negated))
    }

    /// Whether there is none.
    #[inline(always)]
    pub fn is_none(self) -> bool {
        self == Pred::NONE
    }

    /// Index within the frame.
    #[inline(always)]
    pub fn index(self) -> usize {
        (self.0 >> 1) as usize
    }

    /// Whether its value is negated when read.
    #[inline(always)]
    pub fn negated(self) -> bool {
        self.0 & 1 != 0
    }
}

/// One decoded instruction.
#[derive(Clone, Debug)]
pub struct Instruction {
    /// What to do.
    pub op: Op,
    /// Lanes where this is false do nothing.
    pub guard: Pred,
    /// Destinations.
    pub d: [Slot; 2],
    /// Sources.
    pub s: [Slot; 4],
    /// Predicate destination(s), then predicate source.
    pub p: [Pred; 3],
    /// Further operands: the elements of vectors, fragments of matrices, `list_defs` destinations first.
    pub list: Box<[Slot]>,
    /// How many of `list` are written.
    pub list_defs: u32,
    /// Line of the PTX text.
    pub line: u32,
    /// Whether it touches a register that may be undefined.
    pub watched: bool,
}

/// Operand width of an integer operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Width {
    W16,
    W32,
    W64,
}

impl Width {
    /// Bits.
    pub fn bits(self) -> u32 {
        match self {
            Width::W16 => 16,
            Width::W32 => 32,
            Width::W64 => 64,
        }
    }
}

/// Integer operations of one source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Int1 {
    Abs,
    Neg,
    Not,
    Cnot,
    Popc,
    Clz,
    Brev,
    Bfind { signed: bool, shift: bool },
}

/// Integer operations of two sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Int2 {
    Add,
    AddSat,
    Sub,
    SubSat,
    MulLo,
    MulHiU,
    MulHiS,
    DivU,
    DivS,
    RemU,
    RemS,
    MinU,
    MinS,
    MaxU,
    MaxS,
    And,
    Or,
    Xor,
    Shl,
    ShrU,
    ShrS,
}

/// Integer operations of three sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Int3 {
    MadLo,
    MadHiU,
    MadHiS,
    MadHiSatS,
    SadU,
    SadS,
    BfeU,
    BfeS,
}

/// Float types that arithmetic knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Float {
    F16,
    F16x2,
    Bf16,
    Bf16x2,
    F32,
    F64,
}

/// Rounding of a floating-point result, or to an integer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Round {
    /// Nearest, ties to even.
    Near,
    /// Nearest, ties away from zero.
    Away,
    /// Towards zero.
    Zero,
    /// Towards −∞.
    Down,
    /// Towards +∞.
    Up,
}

/// Float operations of one source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Float1 {
    Abs,
    Neg,
    Rcp,
    RcpApprox,
    Sqrt,
    SqrtApprox,
    RsqrtApprox,
    Ex2Approx,
    Lg2Approx,
    SinApprox,
    CosApprox,
    TanhApprox,
}

/// Float operations of two sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Float2 {
    Add,
    Sub,
    Mul,
    Div,
    DivApprox,
    Min,
    MinNan,
    Max,
    MaxNan,
    CopySign,
}

/// Rounding, flushing and saturation of a float operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FloatMode {
    /// Rounding.
    pub round: Round,
    /// Subnormal f32 inputs and results become zero.
    pub ftz: bool,
    /// Clamp to [0, 1], NaN to 0.
    pub sat: bool,
    /// fma only: clamp below at 0, NaN to the canonical NaN.
    pub relu: bool,
}

/// Comparisons; the `U` ones are true when an operand is NaN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Compare {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    Equ,
    Neu,
    Ltu,
    Leu,
    Gtu,
    Geu,
    Num,
    Nan,
}

/// How a comparison is combined with a predicate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Combine {
    None,
    And,
    Or,
    Xor,
}

/// Atomic operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum AtomOp {
    Add,
    Min,
    Max,
    And,
    Or,
    Xor,
    Exch,
    Cas,
    Inc,
    Dec,
}

/// The memory order of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryOrder {
    /// Ordinary: races matter.
    Weak,
    /// Strong, no ordering of other accesses (`relaxed`, `volatile`).
    Relaxed(Scope),
    /// Later accesses stay after it.
    Acquire(Scope),
    /// Earlier accesses stay before it.
    Release(Scope),
    /// Both.
    AcqRel(Scope),
}

/// A load or store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// State space that the address is in.
    pub space: Space,
    /// Type of an element in memory.
    pub ty: Type,
    /// Elements.
    pub count: u32,
    /// Memory order.
    pub order: MemoryOrder,
    /// Added to the address.
    pub offset: i64,
    /// Whether the address register has 64 bits, else 32.
    pub wide_address: bool,
    /// Bytes of a destination or source register.
    pub register_bytes: u32,
}

/// A warp-wide exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum ShflMode {
    Up,
    Down,
    Bfly,
    Idx,
}

/// A vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum VoteMode {
    All,
    Any,
    Uni,
    Ballot,
}

/// Integer reductions over a warp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Redux {
    Add,
    MinU,
    MinS,
    MaxU,
    MaxS,
    And,
    Or,
    Xor,
}

/// What a barrier instruction does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum BarKind {
    Sync,
    Arrive,
    RedPopc,
    RedAnd,
    RedOr,
}

/// A function to call and where its parameters are copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Index of the function, or `None` when `s[0]` holds its address.
    pub function: Option<u32>,
    /// Caller's bytes of each argument: offset in its frame's local memory, size.
    pub args: Vec<(u32, u32)>,
    /// Caller's bytes of each result.
    pub returns: Vec<(u32, u32)>,
}

/// Clocks that are read when executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Clock {
    Low,
    High,
    Full,
    GlobalTimer,
    GlobalTimerLow,
    GlobalTimerHigh,
}

/// What an instruction does. Operands are named by the fields of [`Instruction`] in the order of the PTX text.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub enum Op {
    // exec/integer.rs
    Int1(Int1, Width),
    Int2(Int2, Width),
    Int3(Int3, Width),
    /// 16→32 or 32→64; `Width` is of the sources.
    MulWide {
        signed: bool,
        w: Width,
    },
    MadWide {
        signed: bool,
        w: Width,
    },
    Mul24 {
        signed: bool,
        high: bool,
        add: bool,
    },
    Bfi(Width),
    Bmsk {
        wrap: bool,
    },
    Szext {
        signed: bool,
        wrap: bool,
    },
    Lop3(u8),
    Shf {
        left: bool,
        wrap: bool,
    },
    Prmt(u8),
    Dp4a {
        signed_a: bool,
        signed_b: bool,
    },
    Dp2a {
        signed_a: bool,
        signed_b: bool,
        high: bool,
    },
    /// Addition (or subtraction) through the carry bit, which lives in predicate 0 of the frame.
    Carry {
        subtract: bool,
        carry_in: bool,
        carry_out: bool,
        w: Width,
    },
    /// Multiply-add through the carry bit.
    MadCarry {
        high: bool,
        signed: bool,
        carry_in: bool,
        carry_out: bool,
        w: Width,
    },
    // exec/real.rs
    Float1(Float1, Float, FloatMode),
    Float2(Float2, Float, FloatMode),
    Fma(Float, FloatMode),
    TestP(TestP, Float),
    /// d = f32 op f16/bf16-widened operands is not part of PTX 8; `cvt` has its own op.
    Convert(Convert),
    // exec/select.rs
    Mov(Width),
    Mov128,
    MovPred,
    /// Pack `list` into `d[0]`: bytes of an element, bytes of the whole.
    Pack {
        part: u32,
        whole: u32,
    },
    /// Unpack `s[0]` into `list`.
    Unpack {
        part: u32,
        whole: u32,
    },
    ReadClock(Clock),
    SetpInt {
        cmp: Compare,
        signed: bool,
        w: Width,
        combine: Combine,
    },
    SetpFloat {
        cmp: Compare,
        t: Float,
        ftz: bool,
        combine: Combine,
    },
    /// A comparison with a value as its result: `float` gives 1.0, else all ones.
    Set {
        cmp: Compare,
        t: SetType,
        ftz: bool,
        combine: Combine,
        float: bool,
        bytes: u32,
    },
    Selp(Width),
    Slct {
        w: Width,
        float: bool,
        ftz: bool,
    },
    PredLogic(AtomOp),
    PredNot,
    // exec/access.rs
    Load(Access),
    Store(Access),
    /// Kernel parameters: offset is known.
    Atom {
        op: AtomOp,
        access: Access,
        returns: bool,
    },
    /// To the generic address.
    CvtaFrom {
        space: Space,
        w: Width,
    },
    /// From the generic address.
    CvtaTo {
        space: Space,
        w: Width,
    },
    IsSpace(Space),
    /// `d[0]`: the local-space address of offset `s[0]` in the running frame.
    LocalAddress,
    /// Prefetches and cache hints: checked for nothing, do nothing.
    Nop,
    MapA {
        generic: bool,
        w: Width,
    },
    GetCtaRank {
        generic: bool,
        w: Width,
    },
    // exec/control.rs
    Branch {
        target: u32,
        uniform: bool,
    },
    BranchIndexed(Box<[u32]>),
    Call(Box<Call>),
    Return,
    Exit,
    Trap,
    Nanosleep,
    // exec/sync.rs
    Bar {
        kind: BarKind,
        aligned: bool,
    },
    BarWarp,
    Fence {
        scope: Scope,
        cluster_barrier: bool,
    },
    ClusterArrive {
        release: bool,
    },
    ClusterWait {
        acquire: bool,
    },
    // exec/shuffle.rs
    Shfl(ShflMode),
    Vote(VoteMode),
    MatchAny(Width),
    MatchAll(Width),
    ActiveMask,
    Redux(Redux),
    Elect,
    // exec/tensor.rs and exec/copy.rs
    Tensor(crate::exec::tensor::TensorOp),
    Copy(crate::exec::copy::CopyOp),
}

/// The type of the operands of `set`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum SetType {
    Int { signed: bool, w: Width },
    Float(Float),
}

/// Classes that `testp` tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum TestP {
    Finite,
    Infinite,
    Number,
    NotANumber,
    Normal,
    Subnormal,
}

/// A conversion. `pack` takes two sources into one register (`s[0]` the upper half).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Convert {
    pub to: Type,
    pub from: Type,
    pub round: Round,
    /// Round to an integral value first (`.rni` …), for float → float.
    pub integral: bool,
    pub ftz: bool,
    pub sat: bool,
    pub relu: bool,
    /// `.satfinite`
    pub satfinite: bool,
    pub pack: bool,
    /// Bytes of the destination register, to which integers are extended.
    pub register_bytes: u32,
    /// Bytes of the source register, whose low bits are the source.
    pub source_bytes: u32,
}
