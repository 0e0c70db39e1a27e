//! Runs one instruction on many operands at once, and keeps account of which forms were run.

use ptx_emulator::exec::copy::CopyOp;
use ptx_emulator::ir::{Instruction, Op};
use ptx_emulator::{Device, Gpu, LaunchConfig, Module, Options, Report};
use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

/// Every form that was decoded by a test of this binary.
static FORMS: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// The forms run so far.
pub fn forms() -> BTreeSet<String> {
    FORMS.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// What of a decoded instruction makes it a form: all modifiers, but no registers, offsets or targets.
fn form(i: &Instruction) -> String {
    match &i.op {
        Op::Load(a) => format!("Load {:?} {:?} {:?}", a.space, a.ty, a.order),
        Op::Store(a) => format!("Store {:?} {:?} {:?}", a.space, a.ty, a.order),
        Op::Atom { op, access, returns } => {
            format!(
                "{} {op:?} {:?} {:?} {:?}",
                if *returns { "Atom" } else { "Red" },
                access.space,
                access.ty,
                access.order
            )
        }
        Op::Branch { uniform, .. } => format!("Branch uniform {uniform}"),
        Op::BranchIndexed(_) => "BranchIndexed".into(),
        Op::Call(c) => format!("Call direct {}", c.function.is_some()),
        Op::Copy(op) => copy(op),
        Op::Lop3(_) => "Lop3".into(),
        Op::Convert(c) => format!(
            "Convert {:?} {:?} {:?} integral {} ftz {} sat {} relu {} satfinite {}",
            c.to, c.from, c.round, c.integral, c.ftz, c.sat, c.relu, c.satfinite
        ),
        other => format!("{other:?}").split(" { count").next().unwrap_or_default().to_owned(),
    }
}

/// What of an asynchronous instruction makes it a form.
fn copy(op: &CopyOp) -> String {
    match op {
        CopyOp::Async { bytes, .. } => format!("Copy Async {bytes}"),
        CopyOp::Wait { .. } => "Copy Wait".into(),
        CopyOp::BulkWait { read, .. } => format!("Copy BulkWait read {read}"),
        CopyOp::Bulk(b) => format!(
            "Copy Bulk {:?} rank {} multicast {} {}",
            b.way,
            b.rank,
            b.multicast,
            match b.reduction {
                Some((op, _)) if b.rank > 0 => format!("{op:?}"),
                Some((op, ty)) => format!("{op:?} {ty:?}"),
                None => String::new(),
            }
        ),
        CopyOp::Remote(r) => format!("Copy Remote {:?} {:?}", r.reduction, r.ty),
        CopyOp::Barrier(b) => format!("Copy Barrier {:?} {:?}", b.action, b.space),
        other => format!("Copy {other:?}"),
    }
}

/// Decodes a text and notes its forms.
pub fn module(text: &str) -> Module {
    let module = Module::parse(text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let mut forms = FORMS.lock().unwrap_or_else(PoisonError::into_inner);
    for i in &module.data().code {
        // What is listed by its family in `forms.rs` is told apart here.
        debug_assert!(form(i).starts_with(crate::forms::family(&i.op)));
        forms.insert(form(i));
    }
    module
}

pub const HEAD: &str = ".version 8.0\n.target sm_80\n.address_size 64\n";

/// A kernel `k` with a pointer in %rd0 (input), one in %rd1 (output) and registers of every kind.
pub fn kernel(body: &str) -> String {
    format!(
        "{HEAD}.visible .entry k(.param .u64 p, .param .u64 q) {{\n.reg .pred %p<16>;\n.reg .b16 %h<32>;\n.reg .b32 %r<64>;\n\
         .reg .f32 %f<32>;\n.reg .b64 %rd<32>;\n.reg .f64 %d<16>;\nld.param.u64 %rd0, [p]; ld.param.u64 %rd1, [q];\n\
         {body}\nret;\n}}\n"
    )
}

/// A run: what was found and what was written.
pub struct Run {
    pub report: Report,
    pub words: Vec<u32>,
}

/// Launches `k` on input words and room for `out` zeroed words.
pub fn launch(text: &str, options: Options, config: &LaunchConfig, input: &[u32], out: usize) -> Run {
    let device = Device::new(Gpu::a100(), options);
    let memory = device.memory();
    let (p, q) =
        (memory.alloc(input.len().max(1) as u64 * 4).unwrap(), memory.alloc(out as u64 * 4).unwrap());
    memory.write(p, &input.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<_>>()).unwrap();
    memory.fill(q, out as u64 * 4, 0).unwrap();
    let loaded = device.load(&module(text)).unwrap();
    let args = [p.to_le_bytes(), q.to_le_bytes()].concat();
    let report = device.launch(&loaded, "k", config, &args).unwrap();
    let mut bytes = vec![0; out * 4];
    memory.read(q, &mut bytes).unwrap();
    Run { report, words: bytes.chunks(4).map(|c| u32::from_le_bytes(c.try_into().unwrap())).collect() }
}

/// As [`launch`] with one block, no finding allowed.
pub fn block(body: &str, threads: u32, input: &[u32], out: usize) -> Vec<u32> {
    let run = launch(&kernel(body), Options::default(), &LaunchConfig::new(1, threads), input, out);
    assert!(run.report.findings.is_empty(), "{body}: {}", run.report.to_text());
    run.words
}

/// Runs `instruction` for every row of operands, one a thread. `A`, `B`, `C`, `E` are its operands, of `bits` bits each;
/// `D` is its result of `result` bits.
pub fn rows(instruction: &str, result: u32, bits: &[u32], rows: &[Vec<u64>]) -> Vec<u64> {
    const NAMES: [&str; 4] = ["A", "B", "C", "E"];
    let mut out = Vec::new();
    for rows in rows.chunks(1024) {
        let mut text = format!(
            "{HEAD}.visible .entry k(.param .u64 p, .param .u64 q) {{\n.reg .pred %p<8>;\n.reg .b16 %h<8>;\n.reg .b32 %r<8>;\n\
             .reg .b64 %rd<8>;\nld.param.u64 %rd0, [p]; ld.param.u64 %rd1, [q];\nmov.u32 %r0, %tid.x;\n\
             mul.wide.u32 %rd2, %r0, 32; add.s64 %rd0, %rd0, %rd2; mul.wide.u32 %rd2, %r0, 8; add.s64 %rd1, %rd1, %rd2;\n"
        );
        let mut line = instruction.to_owned();
        for (k, n) in bits.iter().enumerate() {
            text += &format!(".reg .b{n} %v{k}; ld.global.b{n} %v{k}, [%rd0+{}];\n", 8 * k);
            line = line.replace(NAMES[k], &format!("%v{k}"));
        }
        let line = line.replace('D', "%res");
        text += &format!(".reg .b{result} %res;\n{line}\nst.global.b{result} [%rd1], %res;\nret;\n}}\n");
        let input: Vec<u32> = rows
            .iter()
            .flat_map(|r| {
                (0..4).flat_map(|k| [*r.get(k).unwrap_or(&0) as u32, (r.get(k).unwrap_or(&0) >> 32) as u32])
            })
            .collect();
        let config = LaunchConfig::new(1, rows.len() as u32);
        let run = launch(&text, Options::default(), &config, &input, rows.len() * 2);
        assert!(run.report.findings.is_empty(), "{instruction}: {}", run.report.to_text());
        out.extend(run.words.chunks(2).map(|w| u64::from(w[0]) | u64::from(w[1]) << 32));
    }
    out
}

/// Every pair, triple … of these values, one list an operand.
pub fn product(lists: &[&[u64]]) -> Vec<Vec<u64>> {
    lists.iter().fold(vec![vec![]], |all, list| {
        all.iter().flat_map(|row| list.iter().map(|v| [row.as_slice(), &[*v]].concat())).collect()
    })
}

/// Runs on every combination and compares with `expected`.
pub fn check(
    instruction: &str,
    result: u32,
    bits: &[u32],
    lists: &[&[u64]],
    expected: impl Fn(&[u64]) -> u64,
) {
    check_rows(instruction, result, bits, &product(lists), expected);
}

/// Runs on every row and compares with `expected`.
pub fn check_rows(
    instruction: &str,
    result: u32,
    bits: &[u32],
    list: &[Vec<u64>],
    expected: impl Fn(&[u64]) -> u64,
) {
    let keep = if result == 64 { u64::MAX } else { (1 << result) - 1 };
    for (row, found) in list.iter().zip(rows(instruction, result, bits, list)) {
        let (expected, found) = (expected(row) & keep, found & keep);
        assert_eq!(found, expected, "{instruction} of {row:x?}: {found:#x}, expected {expected:#x}");
    }
}

/// Values of `bits` bits at which integer operations turn.
pub fn edges(bits: u32) -> Vec<u64> {
    let max = if bits == 64 { u64::MAX } else { (1 << bits) - 1 };
    let mut list = vec![0, 1, 2, 7, max, max - 1, max / 2, max / 2 + 1, max / 3, 0x1234_5678_9ABC_DEF0 & max];
    list.dedup();
    list
}

/// Sign-extends the low `bits` bits.
pub fn signed(x: u64, bits: u32) -> i128 {
    i128::from((x << (64 - bits)) as i64 >> (64 - bits))
}

/// The low `bits` bits, without a sign.
pub fn unsigned(x: u64, bits: u32) -> i128 {
    i128::from(if bits == 64 { x } else { x & ((1 << bits) - 1) })
}
