//! No input may panic or take much memory: thousands of seeded mutations of real files, each opened and, if it still
//! opens, read. The allocator of this test counts, so that "much" is a number.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use common::gguf::{Meta, gguf};
use common::*;
use selftok_loader::{TensorSource, Weights, check};

struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is handed to the system allocator as it came; the counters do not touch the memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        PEAK.fetch_max(NOW.fetch_add(layout.size(), Relaxed) + layout.size(), Relaxed);
        // SAFETY: the caller's promise about `layout` is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the pointer came from `alloc` above, so from the system allocator, with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

/// One of the things that go wrong with files, inside `region` of it (the part that is structure, not data).
fn mutate(random: &mut Random, bytes: &mut Vec<u8>, region: std::ops::Range<usize>) {
    let region = region.start.min(bytes.len() - 1)..region.end.min(bytes.len());
    let at = region.start + random.below(region.len().max(1));
    match random.below(8) {
        0 => bytes[at] ^= 1 << random.below(8),
        1 => bytes[at] = random.next() as u8,
        2 => bytes[at] = [0, 0xff, 0x7f, 0x80, b'0', b'9', b'"', b'('][random.below(8)],
        // A count or an offset made huge, small, or off by one.
        3 => {
            let end = (at + [2, 4, 8][random.below(3)]).min(bytes.len());
            bytes[at..end].fill([0, 0xff, 0x7f][random.below(3)]);
        }
        4 => bytes[at] = bytes[at].wrapping_add([1, 255][random.below(2)]),
        5 => bytes.truncate(at.max(1)),
        // A piece copied over another.
        6 => {
            let n = random.below(32).min(bytes.len() - at);
            let from = random.below(bytes.len() - n + 1);
            bytes.copy_within(from..from + n, at);
        }
        _ => {
            let n = random.below(16).min(bytes.len() - at);
            bytes.drain(at..at + n);
        }
    }
}

/// Opens mutations of `file` and reads whatever opens. Returns how many were refused.
fn survive(file: &[u8], regions: &[std::ops::Range<usize>], rounds: u64) -> u64 {
    let mut refused = 0;
    for seed in 0..rounds {
        let mut random = Random(seed);
        let mut bytes = file.to_vec();
        for _ in 0..1 + random.below(3) {
            if !bytes.is_empty() {
                let region = regions[random.below(regions.len())].clone();
                mutate(&mut random, &mut bytes, region);
            }
        }
        let before = NOW.load(Relaxed);
        PEAK.store(before, Relaxed);
        match Weights::from_bytes("mutation", bytes) {
            Ok(weights) => touch(&weights),
            Err(e) => {
                let text = e.to_string();
                assert!(text.starts_with("mutation: ") && text.len() < 2000, "seed {seed}: {text}");
                refused += 1;
            }
        }
        let used = PEAK.load(Relaxed) - before;
        assert!(used < 32 << 20, "seed {seed} took {used} bytes");
    }
    refused
}

fn touch(weights: &Weights) {
    let mut out = [0f32; 64];
    for t in weights.iter() {
        let n = t.numel().min(out.len());
        t.to_f32_into(t.numel() - n..t.numel(), &mut out[..n]).unwrap();
        assert_eq!(weights.info(t.name).unwrap().shape, t.shape);
    }
    let _ = check(weights, &[], &[]).map_err(|e| e.to_string());
    if let Some(meta) = weights.gguf() {
        for key in meta.keys() {
            let value = meta.get(key).unwrap();
            if let Some(array) = value.as_array() {
                assert_eq!(array.iter().count(), array.len());
            }
        }
    }
}

/// One test, so that no other allocates while it counts.
#[test]
fn mutated_files_neither_panic_nor_take_memory() {
    let pth = std::fs::read(golden("tiny_renderer.pth")).unwrap();
    let directory = pth.windows(4).position(|w| w == b"PK\x01\x02").unwrap();
    // The pickle comes first; the directory is the end.
    let refused = survive(&pth, &[0..26_400, directory..pth.len()], 3000);
    assert!(refused > 1000, "only {refused} of 3000 mutations of the .pth were refused");

    let safe = std::fs::read(golden("tiny_tokenizer.weights.safetensors")).unwrap();
    let header = 8 + u64::from_le_bytes(safe[..8].try_into().unwrap()) as usize;
    let refused = survive(&safe, &[0..8, 0..header, 0..header], 3000);
    assert!(refused > 1000, "only {refused} of 3000 mutations of the safetensors were refused");

    let words: Vec<String> = (0..50).map(|i| format!("word{i}")).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let meta = [
        ("general.architecture", Meta::Str("llama")),
        ("general.alignment", Meta::U32(32)),
        ("tokenizer.ggml.tokens", Meta::Strs(&words)),
        ("llama.rope.freq_base", Meta::F32(1e4)),
    ];
    let tensors: [(&str, &[u64], u32, u64); 4] =
        [("a", &[32, 4], 8, 0), ("b", &[64], 2, 160), ("c", &[32], 3, 224), ("d", &[5, 3], 0, 256)];
    let file = gguf(3, &meta, &tensors, &[1; 316]);
    let refused = survive(&file, &[0..24, 0..file.len() - 316, file.len() - 700..file.len()], 6000);
    assert!(refused > 1000, "only {refused} of 6000 mutations of the GGUF were refused");
}
