//! Matrix instructions against plain loops, with fragments laid out as the PTX ISA draws them.

use ptx_emulator::{Accumulation, Device, Gpu, LaunchConfig, Module, Options};

const HEAD: &str = ".version 7.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 p, .param .u64 q) {\n\
    .reg .b32 %r<40>;\n.reg .b64 %rd<8>;\nld.param.u64 %rd0, [p]; ld.param.u64 %rd1, [q];\nmov.u32 %r30, %laneid;\n";

/// Runs a kernel of one warp: `input` words in, `n` words out.
fn run(body: &str, input: &[u32], n: usize, options: Options) -> Vec<u32> {
    let module = Module::parse(&format!("{HEAD}{body}\nret; }}")).unwrap_or_else(|e| panic!("{e}"));
    let device = Device::new(Gpu::a100(), options);
    let memory = device.memory();
    let (p, q) = (memory.alloc(input.len() as u64 * 4).unwrap(), memory.alloc(n as u64 * 4).unwrap());
    memory.write(p, &input.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<_>>()).unwrap();
    let loaded = device.load(&module).unwrap();
    let args = [p.to_le_bytes(), q.to_le_bytes()].concat();
    let report = device.launch(&loaded, "k", &LaunchConfig::new(1, 32), &args).unwrap();
    assert!(report.findings.is_empty(), "{}", report.to_text());
    let mut out = vec![0; n * 4];
    memory.read(q, &mut out).unwrap();
    out.chunks(4).map(|c| u32::from_le_bytes(c.try_into().unwrap())).collect()
}

/// Loads `n` words of each lane (lane-major) into %r0.., runs `op`, stores %r20.. (four words a lane).
fn fragments(op: &str, n: usize) -> String {
    let mut text = format!("mul.wide.u32 %rd2, %r30, {}; add.s64 %rd3, %rd0, %rd2;\n", n * 4);
    for k in 0..n {
        text += &format!("ld.global.u32 %r{k}, [%rd3+{}];\n", 4 * k);
    }
    text += op;
    text += "mul.wide.u32 %rd4, %r30, 16; add.s64 %rd5, %rd1, %rd4;\n";
    for k in 0..4 {
        text += &format!("st.global.u32 [%rd5+{}], %r{};\n", 4 * k, 20 + k);
    }
    text
}

fn a(row: usize, k: usize) -> f32 {
    ((row * 7 + k * 3) % 11) as f32 - 5.0
}

fn b(k: usize, column: usize) -> f32 {
    ((k * 5 + column * 2) % 13) as f32 - 6.0
}

fn c(row: usize, column: usize) -> f32 {
    (row * 8 + column) as f32
}

fn product(k: usize, row: usize, column: usize) -> f32 {
    c(row, column) + (0..k).map(|j| a(row, j) * b(j, column)).sum::<f32>()
}

#[test]
fn mma_m16n8k16_of_bf16_and_f16_with_each_accumulation() {
    type Bits = fn(f32) -> u32;
    let types: [(&str, Bits); 2] = [
        ("bf16", |x| u32::from(half::bf16::from_f32(x).to_bits())),
        ("f16", |x| u32::from(half::f16::from_f32(x).to_bits())),
    ];
    for (name, bits) in types {
        let mut input = Vec::new();
        for lane in 0..32 {
            let (g, t) = (lane / 4, lane % 4);
            // "a_i: row = groupID for i in 0, 1, 4, 5, else groupID + 8; column = 2 threadID + (i & 1), + 8 for i >= 4".
            for r in 0..4 {
                let (row, k) = (g + 8 * (r % 2), 2 * t + 8 * (r / 2));
                input.push(bits(a(row, k)) | bits(a(row, k + 1)) << 16);
            }
            for r in 0..2 {
                let k = 2 * t + 8 * r;
                input.push(bits(b(k, g)) | bits(b(k + 1, g)) << 16);
            }
            for r in 0..4 {
                input.push(c(g + 8 * (r / 2), 2 * t + r % 2).to_bits());
            }
        }
        let op = format!(
            "mma.sync.aligned.m16n8k16.row.col.f32.{name}.{name}.f32 {{%r20,%r21,%r22,%r23}}, {{%r0,%r1,%r2,%r3}}, \
             {{%r4,%r5}}, {{%r6,%r7,%r8,%r9}};\n"
        );
        for accumulation in [Accumulation::Sequential, Accumulation::Pairwise, Accumulation::Truncating] {
            let options = Options { accumulation, ..Options::default() };
            let out = run(&fragments(&op, 10), &input, 128, options);
            for lane in 0..32 {
                for r in 0..4 {
                    let (row, column) = (lane / 4 + 8 * (r / 2), lane % 4 * 2 + r % 2);
                    // Small integers: every order of summation is exact.
                    assert_eq!(
                        f32::from_bits(out[lane * 4 + r]),
                        product(16, row, column),
                        "{name} {row} {column}"
                    );
                }
            }
        }
    }
}

#[test]
fn mma_m16n8k8_of_tf32_and_m16n8k32_of_s8() {
    let (mut tf32, mut s8) = (Vec::new(), Vec::new());
    let bytes =
        |f: &dyn Fn(usize) -> f32| (0..4).fold(0, |all, j| all | u32::from(f(j) as i8 as u8) << (8 * j));
    for lane in 0..32 {
        let (g, t) = (lane / 4, lane % 4);
        for r in 0..4 {
            tf32.push(a(g + 8 * (r % 2), t + 4 * (r / 2)).to_bits());
            s8.push(bytes(&|j| a(g + 8 * (r % 2), 16 * (r / 2) + 4 * t + j)));
        }
        for r in 0..2 {
            tf32.push(b(t + 4 * r, g).to_bits());
            s8.push(bytes(&|j| b(16 * r + 4 * t + j, g)));
        }
        for r in 0..4 {
            let x = c(g + 8 * (r / 2), 2 * t + r % 2);
            tf32.push(x.to_bits());
            s8.push(x as i32 as u32);
        }
    }
    let op = |form: &str| {
        format!(
            "mma.sync.aligned.{form} {{%r20,%r21,%r22,%r23}}, {{%r0,%r1,%r2,%r3}}, {{%r4,%r5}}, {{%r6,%r7,%r8,%r9}};\n"
        )
    };
    let floats =
        run(&fragments(&op("m16n8k8.row.col.f32.tf32.tf32.f32"), 10), &tf32, 128, Options::default());
    let integers = run(&fragments(&op("m16n8k32.row.col.s32.s8.s8.s32"), 10), &s8, 128, Options::default());
    for lane in 0..32 {
        for r in 0..4 {
            let (row, column) = (lane / 4 + 8 * (r / 2), lane % 4 * 2 + r % 2);
            assert_eq!(f32::from_bits(floats[lane * 4 + r]), product(8, row, column));
            assert_eq!(integers[lane * 4 + r] as i32, product(32, row, column) as i32);
        }
    }
}

#[test]
fn ldmatrix_gives_each_lane_its_pair() {
    // Shared memory holds 32 rows of 8 halves, each its own number; lane l points at row l.
    let input: Vec<u32> = (0..128).map(|w| (2 * w) | (2 * w + 1) << 16).collect();
    let body = |trans: &str| {
        format!(
            ".shared .align 16 .b8 s[512];\nmul.wide.u32 %rd2, %r30, 16; add.s64 %rd3, %rd0, %rd2;\n\
             ld.global.v4.u32 {{%r0,%r1,%r2,%r3}}, [%rd3];\nmov.u32 %r10, s; shl.b32 %r11, %r30, 4; add.u32 %r12, %r10, %r11;\n\
             st.shared.v4.u32 [%r12], {{%r0,%r1,%r2,%r3}};\nbar.sync 0;\n\
             ldmatrix.sync.aligned.m8n8.x4{trans}.shared.b16 {{%r20,%r21,%r22,%r23}}, [%r12];\n\
             add.s64 %rd5, %rd1, %rd2;\nst.global.v4.u32 [%rd5], {{%r20,%r21,%r22,%r23}};\n"
        )
    };
    for trans in ["", ".trans"] {
        let out = run(&body(trans), &input, 128, Options::default());
        for lane in 0..32u32 {
            for k in 0..4 {
                let at = |h: u32| {
                    let (r, c) = (lane / 4, lane % 4 * 2 + h);
                    let (r, c) = if trans.is_empty() { (r, c) } else { (c, r) };
                    (8 * k + r) * 8 + c
                };
                assert_eq!(
                    out[(lane * 4 + k) as usize],
                    at(0) | at(1) << 16,
                    "{trans} lane {lane} matrix {k}"
                );
            }
        }
    }
}
