//! Every form that the decoder can produce is run by a test of this binary.
//!
//! A form is an operation with its modifiers. `forms.txt` lists those that are tested; a form that is new, or that no test runs any
//! more, shows as a difference. And `family` below has no wildcard: an operation that is added does not compile until it is listed.

use crate::support::forms;
use ptx_emulator::ir::*;
use std::collections::BTreeSet;
use std::path::Path;

/// The first word of a form; the compiler asks for one here for every operation.
pub fn family(op: &Op) -> &'static str {
    match op {
        Op::Int1(..) => "Int1",
        Op::Int2(..) => "Int2",
        Op::Int3(..) => "Int3",
        Op::MulWide { .. } => "MulWide",
        Op::MadWide { .. } => "MadWide",
        Op::Mul24 { .. } => "Mul24",
        Op::Bfi(..) => "Bfi",
        Op::Bmsk { .. } => "Bmsk",
        Op::Szext { .. } => "Szext",
        Op::Lop3(..) => "Lop3",
        Op::Shf { .. } => "Shf",
        Op::Prmt(..) => "Prmt",
        Op::Dp4a { .. } => "Dp4a",
        Op::Dp2a { .. } => "Dp2a",
        Op::Carry { .. } => "Carry",
        Op::MadCarry { .. } => "MadCarry",
        Op::Float1(..) => "Float1",
        Op::Float2(..) => "Float2",
        Op::Fma(..) => "Fma",
        Op::TestP(..) => "TestP",
        Op::Convert(..) => "Convert",
        Op::Mov(..) => "Mov",
        Op::Mov128 => "Mov128",
        Op::MovPred => "MovPred",
        Op::Pack { .. } => "Pack",
        Op::Unpack { .. } => "Unpack",
        Op::ReadClock(..) => "ReadClock",
        Op::SetpInt { .. } => "SetpInt",
        Op::SetpFloat { .. } => "SetpFloat",
        Op::Set { .. } => "Set",
        Op::Selp(..) => "Selp",
        Op::Slct { .. } => "Slct",
        Op::PredLogic(..) => "PredLogic",
        Op::PredNot => "PredNot",
        Op::Load(..) => "Load",
        Op::Store(..) => "Store",
        Op::Atom { returns: true, .. } => "Atom",
        Op::Atom { returns: false, .. } => "Red",
        Op::CvtaFrom { .. } => "CvtaFrom",
        Op::CvtaTo { .. } => "CvtaTo",
        Op::IsSpace(..) => "IsSpace",
        Op::LocalAddress => "LocalAddress",
        Op::Nop => "Nop",
        Op::MapA { .. } => "MapA",
        Op::GetCtaRank { .. } => "GetCtaRank",
        Op::Branch { .. } => "Branch",
        Op::BranchIndexed(..) => "BranchIndexed",
        Op::Call(..) => "Call",
        Op::Return => "Return",
        Op::Exit => "Exit",
        Op::Trap => "Trap",
        Op::Nanosleep => "Nanosleep",
        Op::Bar { .. } => "Bar",
        Op::BarWarp => "BarWarp",
        Op::Fence { .. } => "Fence",
        Op::ClusterArrive { .. } => "ClusterArrive",
        Op::ClusterWait { .. } => "ClusterWait",
        Op::Shfl(..) => "Shfl",
        Op::Vote(..) => "Vote",
        Op::MatchAny(..) => "MatchAny",
        Op::MatchAll(..) => "MatchAll",
        Op::ActiveMask => "ActiveMask",
        Op::Redux(..) => "Redux",
        Op::Elect => "Elect",
        Op::Tensor(..) => "Tensor",
        Op::Copy(..) => "Copy",
    }
}

/// The families above.
const FAMILIES: [&str; 66] = [
    "Int1",
    "Int2",
    "Int3",
    "MulWide",
    "MadWide",
    "Mul24",
    "Bfi",
    "Bmsk",
    "Szext",
    "Lop3",
    "Shf",
    "Prmt",
    "Dp4a",
    "Dp2a",
    "Carry",
    "MadCarry",
    "Float1",
    "Float2",
    "Fma",
    "TestP",
    "Convert",
    "Mov",
    "Mov128",
    "MovPred",
    "Pack",
    "Unpack",
    "ReadClock",
    "SetpInt",
    "SetpFloat",
    "Set",
    "Selp",
    "Slct",
    "PredLogic",
    "PredNot",
    "Load",
    "Store",
    "Atom",
    "Red",
    "CvtaFrom",
    "CvtaTo",
    "IsSpace",
    "LocalAddress",
    "Nop",
    "MapA",
    "GetCtaRank",
    "Branch",
    "BranchIndexed",
    "Call",
    "Return",
    "Exit",
    "Trap",
    "Nanosleep",
    "Bar",
    "BarWarp",
    "Fence",
    "ClusterArrive",
    "ClusterWait",
    "Shfl",
    "Vote",
    "MatchAny",
    "MatchAll",
    "ActiveMask",
    "Redux",
    "Elect",
    "Tensor",
    "Copy",
];

#[test]
fn every_form_that_the_decoder_produces_is_tested() {
    let all = [
        crate::asynchronous::ALL,
        crate::bits::ALL,
        crate::bulk::ALL,
        crate::compare::ALL,
        crate::control::ALL,
        crate::convert::ALL,
        crate::half::ALL,
        crate::integer::ALL,
        crate::mbarrier::ALL,
        crate::memory::ALL,
        crate::real::ALL,
        crate::scalars::ALL,
        crate::sync::ALL,
        crate::tensor::ALL,
        crate::warp::ALL,
        crate::warpgroup::ALL,
    ];
    all.iter().flat_map(|list| list.iter()).for_each(|test| test());
    let found = forms();
    for family in FAMILIES {
        let run = found.iter().any(|f| f.split([' ', '(']).next() == Some(family));
        assert!(run, "no test runs an instruction of {family}");
    }
    // The operations of each enumeration, in every width that the decoder gives them.
    let mut wanted: BTreeSet<String> = BTreeSet::new();
    let mut want = |op: Op| {
        wanted.insert(format!("{op:?}"));
    };
    use Int1::*;
    use Int2::*;
    use Int3::*;
    use Width::*;
    for w in [W16, W32, W64] {
        [Abs, Neg, Not, Cnot].into_iter().for_each(|f| want(Op::Int1(f, w)));
        [
            Add, Sub, MulLo, MulHiU, MulHiS, DivU, DivS, RemU, RemS, MinU, MinS, MaxU, MaxS, And, Or, Xor,
            Shl, ShrU, ShrS,
        ]
        .into_iter()
        .for_each(|f| want(Op::Int2(f, w)));
        [MadLo, MadHiU, MadHiS, SadU, SadS].into_iter().for_each(|f| want(Op::Int3(f, w)));
        want(Op::Selp(w));
        want(Op::Mov(w));
    }
    for w in [W32, W64] {
        [Popc, Clz, Brev].into_iter().for_each(|f| want(Op::Int1(f, w)));
        [BfeU, BfeS].into_iter().for_each(|f| want(Op::Int3(f, w)));
        want(Op::Bfi(w));
        want(Op::MatchAny(w));
        want(Op::MatchAll(w));
        for signed in [false, true] {
            for shift in [false, true] {
                want(Op::Int1(Bfind { signed, shift }, w));
            }
        }
    }
    [AddSat, SubSat].into_iter().for_each(|f| want(Op::Int2(f, W32)));
    want(Op::Int3(MadHiSatS, W32));
    (0..7).for_each(|mode| want(Op::Prmt(mode)));
    for signed in [false, true] {
        [W16, W32].into_iter().for_each(|w| {
            [Op::MulWide { signed, w }, Op::MadWide { signed, w }].into_iter().for_each(&mut want)
        });
        for high in [false, true] {
            [false, true].into_iter().for_each(|add| want(Op::Mul24 { signed, high, add }));
        }
        [false, true].into_iter().for_each(|wrap| want(Op::Szext { signed, wrap }));
    }
    for cmp in [Compare::Eq, Compare::Ne, Compare::Lt, Compare::Le, Compare::Gt, Compare::Ge] {
        for w in [W16, W32, W64] {
            for signed in [false, true] {
                want(Op::SetpInt { cmp, signed, w, combine: Combine::None });
            }
        }
    }
    use Compare::*;
    for cmp in [Eq, Ne, Lt, Le, Gt, Ge, Equ, Neu, Ltu, Leu, Gtu, Geu, Num, Nan] {
        for t in [Float::F16, Float::Bf16, Float::F32, Float::F64] {
            want(Op::SetpFloat { cmp, t, ftz: false, combine: Combine::None });
        }
    }
    [ShflMode::Up, ShflMode::Down, ShflMode::Bfly, ShflMode::Idx].into_iter().for_each(|m| want(Op::Shfl(m)));
    [VoteMode::All, VoteMode::Any, VoteMode::Uni, VoteMode::Ballot]
        .into_iter()
        .for_each(|m| want(Op::Vote(m)));
    use Redux as R;
    [R::Add, R::MinU, R::MinS, R::MaxU, R::MaxS, R::And, R::Or, R::Xor]
        .into_iter()
        .for_each(|r| want(Op::Redux(r)));
    let missing: Vec<_> = wanted.difference(&found).collect();
    assert!(missing.is_empty(), "not run by any test: {missing:#?}");
    // And all of them beside the list, so that a change shows.
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/isa/forms.txt");
    let text: String = found.iter().map(|f| format!("{f}\n")).collect();
    if std::env::var_os("UPDATE_FORMS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let listed: BTreeSet<String> =
        std::fs::read_to_string(&path).unwrap_or_default().lines().map(str::to_owned).collect();
    let (new, gone): (Vec<_>, Vec<_>) =
        (found.difference(&listed).collect(), listed.difference(&found).collect());
    assert!(
        new.is_empty() && gone.is_empty(),
        "forms.txt is out of date (UPDATE_FORMS=1 writes it): new {new:#?}, gone {gone:#?}"
    );
}
