//! Broken texts: an error with a line, never a panic, whatever was broken.
//!
//! The same as `fuzz/`, from a seed and in a second, so that it runs with every test.

use ptx_emulator::Module;
use ptx_emulator::mutate::ptx::{isolate, mutants};

const SEED: &str = include_str!("../fuzz/corpus/module/sum.ptx");
const OTHERS: [&str; 2] =
    [include_str!("../fuzz/corpus/module/hopper.ptx"), include_str!("../fuzz/corpus/module/calls.ptx")];

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % n.max(1)
    }
}

/// Pieces that a random edit puts in.
const PIECES: [&str; 24] = [
    "",
    ";",
    "{",
    "}",
    "[",
    "]",
    "(",
    ",",
    ".",
    "@",
    "%",
    "%r99",
    "-1",
    "18446744073709551616",
    "0x",
    "0fZZZZZZZZ",
    "<4294967295>",
    "[4294967295]",
    ".reg .b32 %r<1000000000>;",
    ".shared .align 3 .b8 z[99999999999];",
    "\"",
    "//",
    "/*",
    "\u{e9}",
];

#[test]
fn random_edits_never_panic() {
    let mut random = Random(42);
    let mut accepted = 0;
    for _ in 0..20_000 {
        let mut text: Vec<char> = SEED.chars().collect();
        for _ in 0..=random.below(3) {
            let at = random.below(text.len());
            let cut = (at + random.below(12)).min(text.len());
            match random.below(3) {
                0 => text.splice(at..cut, PIECES[random.below(PIECES.len())].chars()).for_each(drop),
                1 => {
                    let from = random.below(text.len());
                    let piece: Vec<char> = text[from..(from + random.below(30)).min(text.len())].to_vec();
                    text.splice(at..cut, piece).for_each(drop);
                }
                _ => text.truncate(at),
            }
        }
        let text: String = text.into_iter().collect();
        match Module::parse(&text) {
            Ok(_) => accepted += 1,
            Err(e) => {
                assert!(e.line as usize <= text.lines().count() + 1 && !e.message.is_empty(), "{e}\n{text}")
            }
        }
    }
    // Edits of comments and numbers leave PTX behind: were nothing accepted, nothing but the first error would be tested.
    assert!(accepted > 100, "{accepted}");
}

#[test]
fn every_truncation_is_an_error_with_a_line() {
    let whole = SEED.trim_end();
    for end in 0..whole.len() {
        if let Err(e) = Module::parse(&whole[..end]) {
            assert!(!e.message.is_empty());
        } else {
            // What is cut off after a whole function is a whole text.
            assert!(whole[..end].trim_end().ends_with(['}', ';']) || end < 60, "{}", &whole[..end]);
        }
    }
}

#[test]
fn mutants_keep_their_lines_and_mostly_decode() {
    let list = mutants(SEED, |_| true).unwrap();
    let kinds: std::collections::BTreeSet<_> = list.iter().map(|m| m.kind.name()).collect();
    for kind in ["barrier", "wait", "commit", "bound", "offset", "shuffle", "predicate", "size"] {
        assert!(kinds.contains(kind), "no mutant of kind {kind}: {kinds:?}");
    }
    let ids: std::collections::BTreeSet<_> = list.iter().map(|m| &m.id).collect();
    assert_eq!(ids.len(), list.len(), "an id is given twice");
    for m in &list {
        let text = m.apply(SEED);
        assert_eq!(text.lines().count(), SEED.lines().count(), "{m:?}");
        assert!(
            SEED.lines().nth(m.line as usize - 1).unwrap().contains(m.was.lines().next().unwrap()),
            "{m:?}"
        );
        Module::parse(&text).unwrap_or_else(|e| panic!("{m:?}: {e}"));
    }
}

#[test]
fn a_kernel_alone_keeps_its_lines() {
    let second = SEED.split_once(".visible").unwrap().1.replace(" k(", " other(");
    let text = format!("{SEED}.visible{second}");
    let alone = isolate(&text, "other").unwrap();
    assert_eq!(alone.lines().count(), text.lines().count());
    let module = Module::parse(&alone).unwrap();
    assert_eq!(module.kernels().collect::<Vec<_>>(), ["other"]);
}

/// Every form of the corpus and more, with operands of every kind, too few of them and too many.
#[test]
fn wrong_operands_never_panic() {
    let mut forms: std::collections::BTreeSet<&str> = std::collections::BTreeSet::new();
    for text in [SEED, OTHERS[0], OTHERS[1]] {
        assert!(Module::parse(text).is_ok());
        let word = |s: &'static str| {
            s.split_whitespace().find(|w| !w.starts_with(['@', '{', '}']) && !w.ends_with(':'))
        };
        forms.extend(text.split(';').filter_map(word).filter(|w| !w.starts_with(['.', '/'])));
    }
    forms.extend(MORE.split_whitespace());
    const OPERANDS: [&str; 9] =
        ["%r0", "%rd0", "%h0", "[%rd0]", "[%rd0, {%r0, %r1}]", "{%r0, %r1}", "%p0|%p1", "_", "1"];
    let mut lists = vec![String::new()];
    let mut last = lists.clone();
    for n in 0..3 {
        last = last
            .iter()
            .flat_map(|l| OPERANDS.map(|o| if n == 0 { o.to_owned() } else { format!("{l}, {o}") }))
            .collect();
        lists.extend(last.iter().cloned());
    }
    let mut random = Random(7);
    for _ in 0..300 {
        let n = 4 + random.below(3);
        lists.push((0..n).map(|_| OPERANDS[random.below(OPERANDS.len())]).collect::<Vec<_>>().join(", "));
    }
    for form in forms {
        for list in &lists {
            let text = format!(
                ".version 8.0\n.target sm_90a\n.address_size 64\n.visible .entry k() {{ .reg .pred %p<2>; .reg .b16 %h<2>; \
                 .reg .b32 %r<2>; .reg .b64 %rd<2>;\n{form} {list};\nret; }}\n"
            );
            if let Err(e) = Module::parse(&text) {
                assert!(e.line >= 4 && !e.message.is_empty(), "{form} {list}: {e}");
            }
        }
    }
}

/// Forms that the corpus does not have.
const MORE: &str = "add.s32 addc.u32 sub.cc.u32 mul.wide.s32 mad.lo.s32 madc.hi.u32 mad24.lo.s32 sad.u32 div.u32 rem.s32 abs.s32 neg.s32 \
    popc.b32 clz.b64 bfind.u32 brev.b32 bfe.u32 bfi.b32 bmsk.clamp.b32 szext.wrap.s32 dp4a.u32.u32 dp2a.lo.s32.s32 lop3.b32 shf.l.wrap.b32 \
    shl.b32 shr.u32 not.b32 not.pred and.pred xor.b64 cnot.b32 min.s32 max.u32 add.f32 sub.f64 mul.f16x2 div.rn.f32 sqrt.rn.f32 rsqrt.approx.f32 \
    sin.approx.f32 tanh.approx.f32 ex2.approx.f16 testp.finite.f32 copysign.f32 fma.rn.f64 min.f32 set.lt.u32.f32 setp.eq.u64 setp.lt.f16x2 selp.b32 \
    slct.s32.f32 mov.b32 mov.b64 mov.b128 mov.pred mov.u32 cvt.s64.s32 cvt.rn.f16x2.f32 cvt.rna.tf32.f32 cvta.global.u64 cvta.to.shared.u64 \
    isspacep.shared ld.global.u32 ld.global.v4.f32 ld.volatile.u64 ld.acquire.gpu.u32 ldu.global.u32 st.shared.u8 st.global.v2.b32 prefetch.global.L1 \
    prefetchu.L1 prefetch.tensormap applypriority.global.L2::evict_normal discard.global.L2 createpolicy.fractional.L2::evict_last.b64 mapa.u64 mapa.shared::cluster.u32 \
    getctarank.u64 getctarank.shared::cluster.u32 atom.add.u32 atom.global.cas.b64 red.global.add.f32 bra bra.uni brx.idx call call.uni ret exit trap brkpt nanosleep.u32 \
    bar.sync bar.arrive bar.red.popc.u32 bar.red.and.pred barrier.sync barrier.arrive barrier.cluster.arrive barrier.cluster.wait bar.warp.sync membar.gl fence.sc.sys \
    fence.proxy.async griddepcontrol.wait pmevent pmevent.mask shfl.sync.idx.b32 vote.sync.all.pred match.any.sync.b32 match.all.sync.b64 activemask.b32 redux.sync.add.u32 \
    elect.sync ldmatrix.sync.aligned.m8n8.x1.shared.b16 stmatrix.sync.aligned.m8n8.x2.shared.b16 mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 cp.async.ca.shared.global \
    cp.async.commit_group cp.async.wait_group cp.async.wait_all cp.async.mbarrier.arrive.b64 mbarrier.init.b64 mbarrier.inval.b64 mbarrier.arrive.b64 mbarrier.arrive_drop.b64 \
    mbarrier.arrive.noComplete.b64 mbarrier.expect_tx.b64 mbarrier.complete_tx.b64 mbarrier.test_wait.b64 mbarrier.test_wait.parity.b64 mbarrier.pending_count.b64 \
    cp.async.bulk.commit_group cp.async.bulk.wait_group cp.async.bulk.global.shared::cta.bulk_group cp.async.bulk.prefetch.L2.global \
    cp.reduce.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes.add.u32 wgmma.wait_group.sync.aligned wgmma.fence.sync.aligned setmaxnreg.dec.sync.aligned.u32";
