//! PTX ISA, "Warp Level Matrix Instructions": mma.sync, ldmatrix, stmatrix.
//!
//! Fragments are laid out by the formulas of "Matrix Fragments for mma.m16n8k…", written for each element a_i, b_i, c_i as they stand there.

use crate::support::{block, kernel, launch};
use ptx_emulator::{Accumulation, LaunchConfig, Options};

pub const ALL: &[fn()] = &[
    mma_of_f16_and_bf16,
    mma_of_tf32,
    mma_of_bytes,
    mma_of_bytes_saturates_when_asked,
    mma_rounds_to_f16_where_the_accumulator_is_f16,
    ldmatrix,
    stmatrix,
];

type Place = fn(usize, usize, usize) -> (usize, usize);

/// One shape: how many elements a lane holds of A and B, and where element i of (group, thread in group) lies.
struct Shape {
    name: &'static str,
    k: usize,
    a: (usize, Place),
    b: (usize, Place),
}

/// "c: row = groupID for c0, c1, groupID + 8 for c2, c3; col = threadID_in_group * 2 + (i & 1)".
fn accumulator(g: usize, t: usize, i: usize) -> (usize, usize) {
    (if i < 2 { g } else { g + 8 }, t * 2 + (i & 1))
}

fn a(row: usize, k: usize) -> f32 {
    ((row * 7 + k * 3) % 11) as f32 - 5.0
}

fn b(k: usize, column: usize) -> f32 {
    ((k * 5 + column * 2) % 13) as f32 - 6.0
}

fn c(row: usize, column: usize) -> f32 {
    (row * 8 + column) as f32 - 60.0
}

fn product(k: usize, row: usize, column: usize) -> f32 {
    c(row, column) + (0..k).map(|j| a(row, j) * b(j, column)).sum::<f32>()
}

/// Packs elements of `bits` bits into words, the first lowest.
fn pack(elements: &[u32], bits: usize) -> Vec<u32> {
    elements
        .chunks(32 / bits)
        .map(|part| part.iter().rev().fold(0u64, |w, e| w << bits | u64::from(*e)) as u32)
        .collect()
}

/// Runs `op`, whose text has `D`, `A`, `B` and `C` for fragments, on words of each lane; gives the `nd` words of each.
fn run(op: &str, words: &[[Vec<u32>; 3]], nd: usize, options: Options) -> Vec<Vec<u32>> {
    let counts: Vec<usize> = words[0].iter().map(Vec::len).collect();
    let total: usize = counts.iter().sum();
    let mut text =
        format!("mov.u32 %r60, %laneid; mul.wide.u32 %rd2, %r60, {}; add.s64 %rd3, %rd0, %rd2;\n", total * 4);
    (0..total).for_each(|k| text += &format!("ld.global.u32 %r{k}, [%rd3+{}];\n", 4 * k));
    let list = |from: usize, n: usize| {
        let names: Vec<_> = (from..from + n).map(|k| format!("%r{k}")).collect();
        format!("{{{}}}", names.join(","))
    };
    text += &op
        .replace('A', &list(0, counts[0]))
        .replace('B', &list(counts[0], counts[1]))
        .replace('C', &list(counts[0] + counts[1], counts[2]))
        .replace('D', &list(40, nd));
    text += &format!("\nmul.wide.u32 %rd4, %r60, {}; add.s64 %rd5, %rd1, %rd4;\n", nd * 4);
    (0..nd).for_each(|k| text += &format!("st.global.u32 [%rd5+{}], %r{};\n", 4 * k, 40 + k));
    let input: Vec<u32> = words.iter().flat_map(|lane| lane.iter().flatten().copied()).collect();
    let run = launch(&kernel(&text), options, &LaunchConfig::new(1, 32), &input, 32 * nd);
    assert!(run.report.findings.is_empty(), "{op}: {}", run.report.to_text());
    run.words.chunks(nd).map(<[u32]>::to_vec).collect()
}

/// Fragments of the test matrices, with elements as `ea`, `eb` and `ec` write them.
fn fragments(
    shape: &Shape,
    bits: usize,
    ea: impl Fn(f32) -> u32,
    eb: impl Fn(f32) -> u32,
    ec: impl Fn(f32) -> u32,
    c_bits: usize,
) -> Vec<[Vec<u32>; 3]> {
    (0..32)
        .map(|lane| {
            let (g, t) = (lane >> 2, lane % 4);
            let list = |n: usize, place: Place, value: &dyn Fn(usize, usize) -> u32| -> Vec<u32> {
                (0..n)
                    .map(|i| {
                        let (r, c) = place(g, t, i);
                        value(r, c)
                    })
                    .collect()
            };
            [
                pack(&list(shape.a.0, shape.a.1, &|r, k| ea(a(r, k))), bits),
                pack(&list(shape.b.0, shape.b.1, &|k, n| eb(b(k, n))), bits),
                pack(&list(4, accumulator, &|r, n| ec(c(r, n))), c_bits),
            ]
        })
        .collect()
}

/// "m16n8k8 with .f16/.bf16: a0,a1: row groupID; a2,a3: groupID + 8; col = t * 2 + (i & 1)"; "b: row = t * 2 + i, col = groupID".
/// "m16n8k16: row = groupID for i in 0..2 and 4..6, else + 8; col + 8 for i >= 4"; "b: row + 8 for i >= 2".
#[test]
fn mma_of_f16_and_bf16() {
    let shapes = [
        Shape {
            name: "m16n8k8",
            k: 8,
            a: (4, |g, t, i| (if i < 2 { g } else { g + 8 }, t * 2 + (i & 1))),
            b: (2, |g, t, i| (t * 2 + i, g)),
        },
        Shape {
            name: "m16n8k16",
            k: 16,
            a: (8, |g, t, i| {
                (
                    if i < 2 || (4..6).contains(&i) { g } else { g + 8 },
                    t * 2 + (i & 1) + if i < 4 { 0 } else { 8 },
                )
            }),
            b: (4, |g, t, i| (t * 2 + (i & 1) + if i < 2 { 0 } else { 8 }, g)),
        },
    ];
    let f16 = |x: f32| u32::from(half::f16::from_f32(x).to_bits());
    let bf16 = |x: f32| u32::from(half::bf16::from_f32(x).to_bits());
    for shape in &shapes {
        for accumulation in [Accumulation::Sequential, Accumulation::Pairwise, Accumulation::Truncating] {
            let options = || Options { accumulation, ..Options::default() };
            for (t, encode) in [("f16", &f16 as &dyn Fn(f32) -> u32), ("bf16", &bf16)] {
                let op = format!("mma.sync.aligned.{}.row.col.f32.{t}.{t}.f32 D, A, B, C;", shape.name);
                let found = run(&op, &fragments(shape, 16, encode, encode, f32::to_bits, 32), 4, options());
                for (lane, words) in found.iter().enumerate() {
                    for (i, word) in words.iter().enumerate() {
                        let (row, column) = accumulator(lane >> 2, lane % 4, i);
                        // Small integers: every order of summation is exact.
                        assert_eq!(
                            f32::from_bits(*word),
                            product(shape.k, row, column),
                            "{op} lane {lane} c{i}"
                        );
                    }
                }
            }
            // "C and D in .f16: two registers of two".
            let op = format!("mma.sync.aligned.{}.row.col.f16.f16.f16.f16 D, A, B, C;", shape.name);
            let found = run(&op, &fragments(shape, 16, f16, f16, f16, 16), 2, options());
            for (lane, words) in found.iter().enumerate() {
                for i in 0..4 {
                    let (row, column) = accumulator(lane >> 2, lane % 4, i);
                    let half = half::f16::from_bits((words[i / 2] >> (16 * (i % 2))) as u16);
                    assert_eq!(half.to_f32(), product(shape.k, row, column), "{op} lane {lane} c{i}");
                }
            }
        }
    }
}

/// "m16n8k4 .tf32: a0 row groupID, a1 groupID + 8, col = t; b0 row = t, col = groupID"; "m16n8k8 .tf32: row groupID for a0, a2, col t + 4 for a2, a3".
#[test]
fn mma_of_tf32() {
    let shapes = [
        Shape { name: "m16n8k4", k: 4, a: (2, |g, t, i| (g + 8 * i, t)), b: (1, |g, t, _| (t, g)) },
        Shape {
            name: "m16n8k8",
            k: 8,
            a: (4, |g, t, i| (if i == 0 || i == 2 { g } else { g + 8 }, if i < 2 { t } else { t + 4 })),
            b: (2, |g, t, i| (t + 4 * i, g)),
        },
    ];
    for shape in &shapes {
        let op = format!("mma.sync.aligned.{}.row.col.f32.tf32.tf32.f32 D, A, B, C;", shape.name);
        let found = run(
            &op,
            &fragments(shape, 32, f32::to_bits, f32::to_bits, f32::to_bits, 32),
            4,
            Options::default(),
        );
        for (lane, words) in found.iter().enumerate() {
            for (i, word) in words.iter().enumerate() {
                let (row, column) = accumulator(lane >> 2, lane % 4, i);
                assert_eq!(f32::from_bits(*word), product(shape.k, row, column), "{op} lane {lane} c{i}");
            }
        }
    }
}

const BYTES: [Shape; 2] = [
    Shape {
        name: "m16n8k16",
        k: 16,
        a: (8, |g, t, i| (if i < 4 { g } else { g + 8 }, t * 4 + (i & 3))),
        b: (4, |g, t, i| (t * 4 + i, g)),
    },
    Shape {
        name: "m16n8k32",
        k: 32,
        a: (16, |g, t, i| {
            (
                if i < 4 || (8..12).contains(&i) { g } else { g + 8 },
                t * 4 + (i & 3) + if i < 8 { 0 } else { 16 },
            )
        }),
        b: (8, |g, t, i| (t * 4 + (i & 3) + if i < 4 { 0 } else { 16 }, g)),
    },
];

/// "m16n8k16 with .u8/.s8: row = groupID for i < 4, col = t * 4 + (i & 3)"; "m16n8k32: groupID for i < 4 and 8 <= i < 12; + 16 for i >= 8".
#[test]
fn mma_of_bytes() {
    for shape in &BYTES {
        for (ta, tb) in [("s8", "s8"), ("u8", "u8"), ("s8", "u8"), ("u8", "s8")] {
            let encode = |x: f32| x as i32 as u32 & 0xFF;
            let value = |t: &str, x: f32| if t == "s8" { x as i32 } else { x as i32 & 0xFF };
            for saturate in ["", ".satfinite"] {
                let op = format!(
                    "mma.sync.aligned.{}.row.col{saturate}.s32.{ta}.{tb}.s32 D, A, B, C;",
                    shape.name
                );
                let found = run(
                    &op,
                    &fragments(shape, 8, encode, encode, |x| x as i32 as u32, 32),
                    4,
                    Options::default(),
                );
                for (lane, words) in found.iter().enumerate() {
                    for (i, word) in words.iter().enumerate() {
                        let (row, column) = accumulator(lane >> 2, lane % 4, i);
                        let sum: i32 =
                            (0..shape.k).map(|j| value(ta, a(row, j)) * value(tb, b(j, column))).sum();
                        assert_eq!(*word as i32, c(row, column) as i32 + sum, "{op} lane {lane} c{i}");
                    }
                }
            }
        }
    }
}

/// ".satfinite: clamps to MIN_INT32..MAX_INT32, else the result wraps".
#[test]
fn mma_of_bytes_saturates_when_asked() {
    let shape = &BYTES[0];
    for (saturate, expected) in [(".satfinite", i32::MAX), ("", i32::MIN + 16 * 127 * 127 - 1)] {
        let op = format!("mma.sync.aligned.{}.row.col{saturate}.s32.s8.s8.s32 D, A, B, C;", shape.name);
        let words = fragments(shape, 8, |_| 127, |_| 127, |_| i32::MAX as u32, 32);
        assert!(
            run(&op, &words, 4, Options::default()).iter().flatten().all(|x| *x as i32 == expected),
            "{op}"
        );
    }
}

/// An f16 accumulator holds f16: 2048 + 1 is 2048 in it, and 2049 in f32.
#[test]
fn mma_rounds_to_f16_where_the_accumulator_is_f16() {
    let shape = Shape {
        name: "m16n8k8",
        k: 8,
        a: (4, |g, t, i| (if i < 2 { g } else { g + 8 }, t * 2 + (i & 1))),
        b: (2, |g, t, i| (t * 2 + i, g)),
    };
    let one = |_: f32| 0x3000u32; // 1/8: eight products of 1/8 and 1 make 1
    let op = "mma.sync.aligned.m16n8k8.row.col.f16.f16.f16.f16 D, A, B, C;";
    let found = run(op, &fragments(&shape, 16, one, |_| 0x3C00, |_| 0x6800, 16), 2, Options::default());
    assert!(found.iter().flatten().all(|x| *x == 0x6800_6800), "{found:x?}");
}

/// Shared memory of 32 rows of 8 halves; half n of it holds n. Lane l's address is that of row l.
fn rows() -> String {
    ".shared .align 16 .b8 s[512];\nmov.u32 %r60, %laneid; mul.wide.u32 %rd2, %r60, 16; add.s64 %rd3, %rd0, %rd2; add.s64 %rd5, %rd1, %rd2;\n\
     mov.u32 %r50, s; shl.b32 %r51, %r60, 4; add.u32 %r52, %r50, %r51;\n"
        .into()
}

/// "ldmatrix": "threads 0–7 hold the addresses of matrix 0, 8–15 of matrix 1 …; thread T receives from row T / 4 elements 2 (T % 4) and the next; with
/// .trans in column-major".
#[test]
fn ldmatrix() {
    let input: Vec<u32> = (0..128).map(|w| (2 * w) | (2 * w + 1) << 16).collect();
    for count in [1usize, 2, 4] {
        for trans in ["", ".trans"] {
            for space in ["shared", "shared::cta"] {
                let list: Vec<_> = (0..count).map(|k| format!("%r{k}")).collect();
                let mut body = rows();
                body += "ld.global.v4.u32 {%r4,%r5,%r6,%r7}, [%rd3]; st.shared.v4.u32 [%r52], {%r4,%r5,%r6,%r7}; bar.sync 0;\n";
                body += "mov.u32 %r0, 0; mov.u32 %r1, 0; mov.u32 %r2, 0; mov.u32 %r3, 0;\n";
                body += &format!(
                    "ldmatrix.sync.aligned.m8n8.x{count}{trans}.{space}.b16 {{{}}}, [%r52];\n",
                    list.join(",")
                );
                body += "st.global.v4.u32 [%rd5], {%r0,%r1,%r2,%r3};";
                let out = block(&body, 32, &input, 128);
                for lane in 0..32u32 {
                    for m in 0..count as u32 {
                        let element = |h: u32| {
                            let (r, c) = (lane / 4, 2 * (lane % 4) + h);
                            let (r, c) = if trans.is_empty() { (r, c) } else { (c, r) };
                            (8 * m + r) * 8 + c
                        };
                        assert_eq!(
                            out[(lane * 4 + m) as usize],
                            element(0) | element(1) << 16,
                            "x{count}{trans} lane {lane} matrix {m}"
                        );
                    }
                }
            }
        }
    }
}

/// "stmatrix": the same layout, the other way.
#[test]
fn stmatrix() {
    for count in [1u32, 2, 4] {
        for trans in ["", ".trans"] {
            let list: Vec<_> = (0..count).map(|k| format!("%r{k}")).collect();
            let mut body = rows();
            // Half h of matrix m of lane l is 256 m + 2 l + h.
            for m in 0..4 {
                body += &format!(
                    "mad.lo.u32 %r{m}, %r60, 2, {}; add.u32 %r53, %r{m}, 1; shl.b32 %r53, %r53, 16; or.b32 %r{m}, %r{m}, %r53;\n",
                    256 * m
                );
            }
            body += "mov.u32 %r8, 0; st.shared.v4.u32 [%r52], {%r8,%r8,%r8,%r8}; bar.sync 0;\n";
            body += &format!(
                "stmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 [%r52], {{{}}};\nbar.sync 0;\n",
                list.join(",")
            );
            body += "ld.shared.v4.u32 {%r4,%r5,%r6,%r7}, [%r52]; st.global.v4.u32 [%rd5], {%r4,%r5,%r6,%r7};";
            let text = kernel(&body).replace(".target sm_80", ".target sm_90");
            let device = ptx_emulator::Device::new(ptx_emulator::Gpu::h100(), Options::default());
            let at = device.memory().alloc(512).unwrap();
            let loaded = device.load(&crate::support::module(&text)).unwrap();
            let args = [at.to_le_bytes(), at.to_le_bytes()].concat();
            let report = device.launch(&loaded, "k", &LaunchConfig::new(1, 32), &args).unwrap();
            assert!(report.findings.is_empty(), "{}", report.to_text());
            let mut bytes = [0; 512];
            device.memory().read(at, &mut bytes).unwrap();
            for m in 0..count {
                for r in 0..8u32 {
                    for c in 0..8u32 {
                        let (row, column) = if trans.is_empty() { (r, c) } else { (c, r) };
                        let expected = 256 * m + 2 * (row * 4 + column / 2) + column % 2;
                        let at = ((8 * m + r) * 16 + 2 * c) as usize;
                        assert_eq!(
                            u32::from(u16::from_le_bytes([bytes[at], bytes[at + 1]])),
                            expected,
                            "x{count}{trans} matrix {m} row {r} column {c}"
                        );
                    }
                }
            }
        }
    }
}
