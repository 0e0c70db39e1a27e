//! Single instructions on chosen operands; expected values are worked out from the text of the PTX ISA.
//!
//! An instruction is written with `D` for its result and `A`, `B`, `C` for its operands.

use crate::support::module;
use ptx_emulator::{Device, Gpu, LaunchConfig, Options};

pub const ALL: &[fn()] = &[
    integers_of_32_bits,
    integers_of_64_and_16_bits,
    floats_of_32_bits_round_flush_and_saturate_as_told,
    floats_of_16_and_64_bits,
];

/// Runs `instruction` on operands of `bits` bits each (result of `result` bits) and returns the result's bits.
fn run(instruction: &str, bits: [u32; 3], result: u32, operands: [u64; 3]) -> u64 {
    let names = ["A", "B", "C"];
    let mut text = String::from(
        ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 p) {\n.reg .pred %p<4>;\n.reg .b64 %rd0;\n\
         ld.param.u64 %rd0, [p];\n",
    );
    let mut i = instruction.to_string();
    for k in 0..3 {
        text += &format!(".reg .b{0} %v{k}; ld.global.b{0} %v{k}, [%rd0+{1}];\n", bits[k], 8 * k);
        i = i.replace(names[k], &format!("%v{k}"));
    }
    text += &format!(
        ".reg .b{result} %d0;\n{}\nst.global.b{result} [%rd0+24], %d0;\nret; }}",
        i.replace('D', "%d0")
    );
    let module = module(&text);
    let device = Device::new(Gpu::a100(), Options::default());
    let at = device.memory().alloc(32).unwrap();
    for (k, x) in operands.iter().enumerate() {
        device.memory().write(at + 8 * k as u64, &x.to_le_bytes()).unwrap();
    }
    let loaded = device.load(&module).unwrap();
    let report = device.launch(&loaded, "k", &LaunchConfig::new(1, 1), &at.to_le_bytes()).unwrap();
    assert!(report.findings.is_empty(), "{instruction}: {}", report.to_text());
    let mut out = [0; 8];
    device.memory().read(at + 24, &mut out[..result as usize / 8]).unwrap();
    u64::from_le_bytes(out)
}

fn check(cases: &[(&str, [u64; 3], u64)], bits: [u32; 3], result: u32) {
    for (instruction, operands, expected) in cases {
        let found = run(instruction, bits, result, *operands);
        assert_eq!(found, *expected, "{instruction} of {operands:x?}: {found:#x}, expected {expected:#x}");
    }
}

const MIN: u64 = 0x8000_0000;
const NEG1: u64 = 0xFFFF_FFFF;

#[test]
fn integers_of_32_bits() {
    check(
        &[
            ("add.s32 D, A, B;", [7, NEG1, 0], 6),
            ("add.sat.s32 D, A, B;", [0x7FFF_FFFF, 1, 0], 0x7FFF_FFFF),
            ("sub.sat.s32 D, A, B;", [MIN, 1, 0], MIN),
            ("mul.lo.u32 D, A, B;", [0x10001, 0x10001, 0], 0x20001),
            ("mul.hi.u32 D, A, B;", [NEG1, NEG1, 0], 0xFFFF_FFFE),
            ("mul.hi.s32 D, A, B;", [NEG1, 2, 0], NEG1),
            ("mad.lo.s32 D, A, B, C;", [3, 5, NEG1], 14),
            ("mad.hi.s32 D, A, B, C;", [MIN, 2, 5], 4),
            ("mul24.lo.s32 D, A, B;", [0xFFFFFF, 5, 0], (-5i32) as u32 as u64),
            ("mul24.hi.u32 D, A, B;", [0xFFFFFF, 0xFFFFFF, 0], 0xFFFF_FE00),
            ("sad.s32 D, A, B, C;", [NEG1, 4, 10], 15),
            ("sad.u32 D, A, B, C;", [4, 9, 10], 15),
            ("div.s32 D, A, B;", [(-7i32) as u32 as u64, 2, 0], (-3i32) as u32 as u64),
            ("rem.s32 D, A, B;", [(-7i32) as u32 as u64, 2, 0], NEG1),
            ("div.u32 D, A, B;", [NEG1, 10, 0], 429_496_729),
            ("div.s32 D, A, B;", [MIN, NEG1, 0], MIN),
            ("abs.s32 D, A;", [NEG1, 0, 0], 1),
            ("neg.s32 D, A;", [5, 0, 0], (-5i32) as u32 as u64),
            ("min.s32 D, A, B;", [NEG1, 1, 0], NEG1),
            ("min.u32 D, A, B;", [NEG1, 1, 0], 1),
            ("popc.b32 D, A;", [0xF0F0, 0, 0], 8),
            ("clz.b32 D, A;", [0, 0, 0], 32),
            ("clz.b32 D, A;", [0x10, 0, 0], 27),
            ("bfind.u32 D, A;", [0x10, 0, 0], 4),
            ("bfind.s32 D, A;", [NEG1, 0, 0], NEG1),
            ("bfind.shiftamt.u32 D, A;", [0x10, 0, 0], 27),
            ("brev.b32 D, A;", [1, 0, 0], MIN),
            ("bfe.u32 D, A, B, C;", [0xABCD, 4, 8], 0xBC),
            ("bfe.s32 D, A, B, C;", [0xABCD, 4, 8], 0xFFFF_FFBC),
            ("bfe.s32 D, A, B, C;", [MIN, 28, 8], 0xFFFF_FFF8),
            ("bfe.u32 D, A, B, C;", [NEG1, 32, 4], 0),
            ("lop3.b32 D, A, B, C, 0x96;", [0xF0, 0xCC, 0xAA], 0xF0 ^ 0xCC ^ 0xAA),
            ("lop3.b32 D, A, B, C, 0xE8;", [0xF0, 0xCC, 0xAA], 0xE8),
            ("shl.b32 D, A, B;", [1, 32, 0], 0),
            ("shr.s32 D, A, B;", [MIN, 40, 0], NEG1),
            ("shr.u32 D, A, B;", [MIN, 31, 0], 1),
            ("shf.l.wrap.b32 D, A, B, C;", [0x8000_0000, 1, 1], 3),
            ("shf.r.clamp.b32 D, A, B, C;", [5, 7, 40], 7),
            ("prmt.b32 D, A, B, C;", [0x3322_1100, 0x7766_5544, 0x7531], 0x7755_3311),
            ("prmt.b32 D, A, B, C;", [0x80, 0, 0x8888], NEG1),
            ("prmt.b32.rc16 D, A, B, C;", [0x3322_1100, 0, 1], 0x3322_3322),
            ("dp4a.s32.s32 D, A, B, C;", [0x01FF_0203, 0x0102_0304, 100], 100 + 1 - 2 + 6 + 12),
            ("dp2a.hi.u32.u32 D, A, B, C;", [0x0002_0003, 0x0405_0000, 1], 2 * 4 + 3 * 5 + 1),
            ("cnot.b32 D, A;", [0, 0, 0], 1),
            ("bmsk.clamp.b32 D, A, B;", [4, 8, 0], 0xFF0),
            ("szext.clamp.s32 D, A, B;", [0x1F5, 8, 0], 0xFFFF_FFF5),
            ("slct.s32.s32 D, A, B, C;", [1, 2, NEG1], 2),
            ("set.lt.u32.s32 D, A, B;", [NEG1, 0, 0], NEG1),
            ("set.lt.f32.u32 D, A, B;", [1, 2, 0], u64::from(1f32.to_bits())),
            ("setp.lt.s32 %p0, A, B; selp.b32 D, A, B, %p0;", [NEG1, 0, 0], NEG1),
            ("setp.lo.u32 %p0|%p1, A, B; selp.b32 D, A, B, %p1;", [NEG1, 3, 0], NEG1),
        ],
        [32; 3],
        32,
    );
    check(&[("bfi.b32 D, A, B, 8, 4;", [0xF5, 0xFFFF_FFFF, 0], 0xFFFF_F5FF)], [32; 3], 32);
}

#[test]
fn integers_of_64_and_16_bits() {
    let neg = |x: i64| x as u64;
    check(
        &[
            ("mul.lo.s64 D, A, B;", [neg(-3), 5, 0], neg(-15)),
            ("mul.hi.u64 D, A, B;", [u64::MAX, 2, 0], 1),
            ("div.s64 D, A, B;", [neg(-9), 2, 0], neg(-4)),
            ("min.s64 D, A, B;", [neg(-9), 2, 0], neg(-9)),
            ("max.u64 D, A, B;", [neg(-9), 2, 0], neg(-9)),
            ("brev.b64 D, A;", [1, 0, 0], 1 << 63),
            ("bfe.s64 D, A, 4, 8;", [0xABCD, 0, 0], neg(-0x44)),
            ("add.cc.u64 D, A, B; addc.u64 D, C, 0;", [u64::MAX, 1, 5], 6),
            ("sub.cc.u64 D, A, B; subc.u64 D, C, 0;", [0, 1, 5], 4),
        ],
        [64; 3],
        64,
    );
    check(
        &[
            ("mul.wide.s32 D, A, B;", [NEG1, 7, 0], neg(-7)),
            ("mul.wide.u32 D, A, B;", [NEG1, 7, 0], NEG1 * 7),
            ("cvt.s64.s32 D, A;", [NEG1, 0, 0], u64::MAX),
            ("cvt.u64.u32 D, A;", [NEG1, 0, 0], NEG1),
            ("mov.b64 D, {A, B};", [1, 2, 0], 0x2_0000_0001),
        ],
        [32; 3],
        64,
    );
    check(
        &[
            ("add.s16 D, A, B;", [0xFFFF, 2, 0], 1),
            ("mul.hi.s16 D, A, B;", [0xFFFF, 2, 0], 0xFFFF),
            ("shr.s16 D, A, 20;", [0x8000, 0, 0], 0xFFFF),
            ("max.s16 D, A, B;", [0x8000, 1, 0], 1),
        ],
        [16; 3],
        16,
    );
}

#[test]
fn floats_of_32_bits_round_flush_and_saturate_as_told() {
    let f = |x: f32| u64::from(x.to_bits());
    let tiny = 1u64;
    let nan = 0x7FFF_FFFF;
    check(
        &[
            ("add.rn.f32 D, A, B;", [f(1.0), f(2f32.powi(-24)), 0], f(1.0)),
            ("add.rp.f32 D, A, B;", [f(1.0), f(2f32.powi(-60)), 0], f(1.0f32.next_up())),
            ("add.rm.f32 D, A, B;", [f(1.0), f(-1.0), 0], f(-0.0)),
            ("add.rz.f32 D, A, B;", [f(1.0), f(-(2f32.powi(-60))), 0], f(1.0f32.next_down())),
            ("mul.rz.f32 D, A, B;", [f(f32::MAX), f(2.0), 0], f(f32::MAX)),
            ("mul.rn.ftz.f32 D, A, B;", [tiny, f(1.0), 0], 0),
            ("mul.rn.f32 D, A, B;", [tiny, f(1.0), 0], tiny),
            (
                "fma.rn.f32 D, A, B, C;",
                [f(1.0 + 2f32.powi(-12)), f(1.0 + 2f32.powi(-12)), f(-1.0)],
                f(2f32.powi(-11) + 2f32.powi(-24)),
            ),
            ("fma.rp.f32 D, A, B, C;", [f(2f32.powi(-40)), f(2f32.powi(-40)), f(1.0)], f(1.0f32.next_up())),
            ("add.sat.f32 D, A, B;", [f(0.7), f(0.7), 0], f(1.0)),
            ("add.sat.f32 D, A, B;", [f(f32::NAN), f(0.7), 0], 0),
            ("div.rn.f32 D, A, B;", [f(1.0), f(3.0), 0], f(1.0 / 3.0)),
            ("div.rp.f32 D, A, B;", [f(1.0), f(-3.0), 0], f((-1.0f32 / 3.0).next_up())),
            ("rcp.rz.f32 D, A;", [f(3.0), 0, 0], f((1.0f32 / 3.0).next_down())),
            // The nearest f32 to sqrt(2) is below it.
            ("sqrt.rp.f32 D, A;", [f(2.0), 0, 0], f(std::f32::consts::SQRT_2.next_up())),
            ("min.f32 D, A, B;", [f(f32::NAN), f(1.0), 0], f(1.0)),
            ("min.NaN.f32 D, A, B;", [f(f32::NAN), f(1.0), 0], nan),
            ("min.f32 D, A, B;", [f(0.0), f(-0.0), 0], f(-0.0)),
            ("max.f32 D, A, B;", [f(0.0), f(-0.0), 0], f(0.0)),
            ("copysign.f32 D, A, B;", [f(-1.0), f(3.0), 0], f(-3.0)),
            ("cvt.rni.f32.f32 D, A;", [f(2.5), 0, 0], f(2.0)),
            ("cvt.rzi.s32.f32 D, A;", [f(-2.7), 0, 0], (-2i32) as u32 as u64),
            ("cvt.rni.u32.f32 D, A;", [f(-2.7), 0, 0], 0),
            ("cvt.rmi.s32.f32 D, A;", [f(3e9), 0, 0], 0x7FFF_FFFF),
            ("cvt.rzi.s32.f32 D, A;", [f(f32::NAN), 0, 0], 0),
            ("cvt.rz.f32.s32 D, A;", [0x7FFF_FFFF, 0, 0], f(2_147_483_520.0)),
            ("cvt.rn.bf16x2.f32 D, A, B;", [f(1.0), f(-2.0), 0], 0x3F80_C000),
            ("cvt.rn.f16x2.f32 D, A, B;", [f(65520.0), f(1.0), 0], 0x7C00_3C00),
            ("cvt.rz.f16x2.f32 D, A, B;", [f(65520.0), f(1.0), 0], 0x7BFF_3C00),
            ("cvt.rna.tf32.f32 D, A;", [0x3F80_1000, 0, 0], 0x3F80_2000),
            ("cvt.s32.s8 D, A;", [0x80, 0, 0], 0xFFFF_FF80),
            ("cvt.sat.s8.s32 D, A;", [300, 0, 0], 127),
            ("setp.ltu.f32 %p0, A, B; selp.b32 D, 1, 0, %p0;", [nan, f(0.0), 0], 1),
            ("setp.ne.f32 %p0, A, B; selp.b32 D, 1, 0, %p0;", [nan, f(0.0), 0], 0),
            ("testp.subnormal.f32 %p0, A; selp.b32 D, 1, 0, %p0;", [1, 0, 0], 1),
        ],
        [32; 3],
        32,
    );
}

#[test]
fn floats_of_16_and_64_bits() {
    check(
        &[
            // (1 + 2^-9)^2 - 1 is 2^-8 + 2^-18, an f16; were the product rounded first, the last bit would be lost.
            ("fma.rn.f16 D, A, B, C;", [0x3C02, 0x3C02, 0xBC00], 0x1C01),
            ("add.f16 D, A, B;", [0x7BFF, 0x7BFF, 0], 0x7C00),
            ("mul.f16 D, A, B;", [0x0001, 0x3800, 0], 0),
            ("fma.rn.bf16 D, A, B, C;", [0x3F80, 0x4000, 0x3F80], 0x4040),
            ("neg.bf16 D, A;", [0x3F80, 0, 0], 0xBF80),
            ("max.f16 D, A, B;", [0x7E00, 0x3C00, 0], 0x3C00),
        ],
        [16; 3],
        16,
    );
    check(
        &[
            ("fma.rn.f16x2 D, A, B, C;", [0x3C00_4000, 0x4000_4000, 0x3C00_3C00], 0x4200_4500),
            ("fma.rn.bf16x2 D, A, B, C;", [0x3F80_4000, 0x3F80_3F80, 0x3F80_4000], 0x4000_4080),
        ],
        [32; 3],
        32,
    );
    let d = |x: f64| x.to_bits();
    check(
        &[
            ("add.rz.f64 D, A, B;", [d(1.0), d(-(2f64.powi(-100))), 0], d(1f64.next_down())),
            (
                "mul.rp.f64 D, A, B;",
                [d(1.0 + 2f64.powi(-52)), d(1.0 + 2f64.powi(-52)), 0],
                d(1.0 + 3.0 * 2f64.powi(-52)),
            ),
            ("fma.rm.f64 D, A, B, C;", [d(1.0), d(-(2f64.powi(-80))), d(1.0)], d(1f64.next_down())),
            ("div.rz.f64 D, A, B;", [d(2.0), d(3.0), 0], d(2.0 / 3.0)),
            ("div.rp.f64 D, A, B;", [d(2.0), d(3.0), 0], d((2.0f64 / 3.0).next_up())),
            ("cvt.rzi.s64.f64 D, A;", [d(-3.9), 0, 0], (-3i64) as u64),
            ("cvt.rn.f64.s64 D, A;", [u64::MAX, 0, 0], d(-1.0)),
        ],
        [64; 3],
        64,
    );
}
