//! No text, however wrong, may make the parser or the decoder panic, hang or take memory without bound; and what they accept must
//! survive the enumeration of its mutants.
//!
//! `README.md` says how to run it.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if ptx_emulator::Module::parse(text).is_ok() {
        let mutants = ptx_emulator::mutate::ptx::mutants(text, |_| true).expect("what was decoded was parsed");
        for mutant in mutants.iter().take(4) {
            let _ = ptx_emulator::Module::parse(&mutant.apply(text));
        }
    }
});
