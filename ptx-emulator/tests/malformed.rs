//! Broken texts: an error with a line, never a panic, whatever was broken.
//!
//! The same as `fuzz/`, from a seed and in a second, so that it runs with every test.

use ptx_emulator::Module;
use ptx_emulator::mutate::ptx::{isolate, mutants};

const SEED: &str = include_str!("../fuzz/corpus/module/sum.ptx");

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
