//! PTX ISA, "cp.async.bulk", "cp.reduce.async.bulk", "cp.async.bulk.tensor", "cp.reduce.async.bulk.tensor", "cp.async.bulk.prefetch",
//! and what blocks of a cluster do with each other's memory.

use crate::asynchronous::{Case, ORDERS, clean, init, kernel, kinds, wait};
use half::{bf16, f16};
use ptx_emulator::tensor_map::TensorMap;
use ptx_emulator::{FindingKind, LaunchConfig, Module, Order};

pub const ALL: &[fn()] = &[
    bytes_go_to_another_block,
    reductions_into_another_block,
    stores_and_reductions_of_registers,
    reductions_into_device_memory,
    reductions_of_a_tensor,
    what_a_reduction_may_not_do,
    swizzles_of_32_64_and_128_bytes,
    every_rank_in_and_out,
    prefetches_change_nothing,
    atomics_on_another_blocks_memory,
    ordinary_accesses_to_another_blocks_memory,
    proxy_fences,
];

const ENDS: &str = "fence.proxy.async.shared::cta; bar.sync 0;";

/// Two blocks: each fills 16 words at `s`, and 16 at `s + 64` by `there`; block 0 then runs `send` with its data at %r2 and the
/// neighbour's place and barrier at %r10 and %r11; block 1 waits for its barrier and stores what has come.
fn to_neighbour(here: &str, there: &str, send: &str) -> String {
    kernel(
        1,
        &format!(
            "{}mov.u32 %r2, s; mov.u32 %r12, %cluster_ctarank; shl.b32 %r4, %r0, 2; add.u32 %r5, %r2, %r4;
             {here} st.shared.b32 [%r5], %r6; {there} st.shared.b32 [%r5+64], %r6; {ENDS}
             @%p0 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r1], 64;
             barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;
             add.u32 %r7, %r2, 64; mapa.shared::cluster.u32 %r10, %r7, 1; mapa.shared::cluster.u32 %r11, %r1, 1;
             setp.eq.and.u32 %p1, %r12, 0, %p0; @%p1 {send}
             setp.eq.u32 %p2, %r12, 0; @%p2 bra END;
             {} ld.shared.b32 %r8, [%r5+64]; cvt.u64.u32 %rd4, %r4; add.u64 %rd4, %rd0, %rd4; st.global.b32 [%rd4], %r8;
             END: barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;",
            init(1),
            wait("W", 0)
        ),
    )
}

fn pair() -> LaunchConfig {
    LaunchConfig { cluster: [2, 1, 1], ..LaunchConfig::new(2, 16) }
}

/// "cp.async.bulk.shared::cluster.shared::cta": the destination and the barrier are in the shared memory of another block.
#[test]
fn bytes_go_to_another_block() {
    let form = "cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes";
    let text = to_neighbour(
        "mul.lo.u32 %r6, %r0, 3;",
        "mov.u32 %r6, 0;",
        &format!("{form} [%r10], [%r2], 64, [%r11];"),
    );
    for order in ORDERS {
        let case = Case::new(order).buffer(&[0; 16]);
        clean(&case.launch(&text, &pair()));
        assert_eq!(case.words(0, 16), (0..16).map(|t| 3 * t).collect::<Vec<_>>());
    }
    // What ordinary stores wrote needs the fence here, too; and the barrier must be the destination's.
    let unfenced = text.replace("fence.proxy.async.shared::cta;", "");
    assert_eq!(
        kinds(&Case::new(Order::Forward).buffer(&[0; 16]).launch(&unfenced, &pair())),
        [FindingKind::Race]
    );
    let own = text.replace("64, [%r11];", "64, [%r1];");
    let report = Case::new(Order::Forward).buffer(&[0; 16]).launch(&own, &pair());
    assert!(report.findings.iter().any(|f| f.kind == FindingKind::Trap), "{}", report.to_text());
}

/// "cp.reduce.async.bulk", first form: `.add` of u32, s32 and u64, `.min` and `.max` of u32 and s32, `.inc` and `.dec` of u32, `.and`,
/// `.or` and `.xor` of b32.
#[test]
fn reductions_into_another_block() {
    type Fold = fn(u32, u32) -> u32;
    let cases: [(&str, Fold); 11] = [
        ("add.u32", |old, x| old.wrapping_add(x)),
        ("add.s32", |old, x| old.wrapping_add(x)),
        ("min.u32", |old, x| old.min(x)),
        ("max.u32", |old, x| old.max(x)),
        ("min.s32", |old, x| (old as i32).min(x as i32) as u32),
        ("max.s32", |old, x| (old as i32).max(x as i32) as u32),
        ("inc.u32", |old, x| if old >= x { 0 } else { old + 1 }),
        ("dec.u32", |old, x| if old == 0 || old > x { x } else { old - 1 }),
        ("and.b32", |old, x| old & x),
        ("or.b32", |old, x| old | x),
        ("xor.b32", |old, x| old ^ x),
    ];
    let (here, there) = ("mad.lo.u32 %r6, %r0, 0x30000001, 5;", "sub.u32 %r6, 9, %r0;");
    let x = |t: u32| t.wrapping_mul(0x3000_0001).wrapping_add(5);
    for (op, fold) in cases {
        let form =
            format!("cp.reduce.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes.{op}");
        let case = Case::new(Order::Forward).buffer(&[0; 16]);
        clean(
            &case.launch(&to_neighbour(here, there, &format!("{form} [%r10], [%r2], 64, [%r11];")), &pair()),
        );
        let expected: Vec<u32> = (0..16).map(|t| fold(9u32.wrapping_sub(t), x(t))).collect();
        assert_eq!(case.words(0, 16), expected, "{op}");
    }
    for op in ["add.u64", "add.s64"] {
        let form =
            format!("cp.reduce.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes.{op}");
        let case = Case::new(Order::Forward).buffer(&[0; 16]);
        clean(
            &case.launch(&to_neighbour(here, there, &format!("{form} [%r10], [%r2], 64, [%r11];")), &pair()),
        );
        let wide = |f: &dyn Fn(u32) -> u32, k: u32| u64::from(f(2 * k)) | u64::from(f(2 * k + 1)) << 32;
        let expected: Vec<u32> = (0..8)
            .map(|k| wide(&x, k).wrapping_add(wide(&|t| 9u32.wrapping_sub(t), k)))
            .flat_map(|sum| [sum as u32, (sum >> 32) as u32])
            .collect();
        assert_eq!(case.words(0, 16), expected, "{op}");
    }
}

/// "st.async", "red.async": values of registers to another block, whose barrier counts their bytes.
#[test]
fn stores_and_reductions_of_registers() {
    type Fold = fn(u32, u32) -> u32;
    let x = |t: u32| t.wrapping_mul(0x3000_0001).wrapping_add(5);
    let y = |t: u32| 9u32.wrapping_sub(t);
    let (here, there) = ("mad.lo.u32 %r6, %r0, 0x30000001, 5; mov.u32 %r13, %r6;", "sub.u32 %r6, 9, %r0;");
    let run = |send: &str| {
        // Each of the sixteen threads sends its word, itself: no proxy is between.
        let place = "add.u32 %r10, %r10, %r4; setp.eq.u32 %p1, %r12, 0; @%p1";
        let text = to_neighbour(here, there, "bar.warp.sync 1;")
            .replace("@%p1 bar.warp.sync 1;", &format!("{place} {send}"))
            .replace("fence.proxy.async.shared::cta;", "");
        let mut out = Vec::new();
        for order in ORDERS {
            let case = Case::new(order).buffer(&[0; 16]);
            clean(&case.launch(&text, &pair()));
            out = case.words(0, 16);
        }
        out
    };
    for ty in ["b32", "u32", "s32"] {
        let send =
            format!("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.{ty} [%r10], %r13, [%r11];");
        assert_eq!(run(&send), (0..16).map(x).collect::<Vec<_>>(), "{ty}");
    }
    let cases: [(&str, Fold); 11] = [
        ("add.u32", |old, x| old.wrapping_add(x)),
        ("add.s32", |old, x| old.wrapping_add(x)),
        ("min.u32", |old, x| old.min(x)),
        ("max.u32", |old, x| old.max(x)),
        ("min.s32", |old, x| (old as i32).min(x as i32) as u32),
        ("max.s32", |old, x| (old as i32).max(x as i32) as u32),
        ("inc.u32", |old, x| if old >= x { 0 } else { old + 1 }),
        ("dec.u32", |old, x| if old == 0 || old > x { x } else { old - 1 }),
        ("and.b32", |old, x| old & x),
        ("or.b32", |old, x| old | x),
        ("xor.b32", |old, x| old ^ x),
    ];
    for (op, fold) in cases {
        let send = format!(
            "red.async.relaxed.cluster.shared::cluster.mbarrier::complete_tx::bytes.{op} [%r10], %r13, [%r11];"
        );
        assert_eq!(run(&send), (0..16).map(|t| fold(y(t), x(t))).collect::<Vec<_>>(), "{op}");
    }
    // Wide values and vectors: one thread sends four words, or two of 64 bits; the barrier expects no more.
    for (form, value, words) in [
        ("st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32", "{%r13, 7, 8, 9}", [5, 7, 8, 9]),
        ("st.async.weak.mbarrier::complete_tx::bytes.v2.u64", "{1, 2}", [1, 0, 2, 0]),
        ("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v2.b32", "{%r13, 7}", [5, 7, 7, 6]),
        ("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.f64", "3", [0, 0x4008_0000, 7, 6]),
        (
            "red.async.relaxed.cluster.shared::cluster.mbarrier::complete_tx::bytes.add.u64",
            "3",
            [12, 8, 7, 6],
        ),
    ] {
        let bytes = if form.contains("v4") || form.contains("v2.u64") { 16 } else { 8 };
        let text = to_neighbour(here, there, &format!("{form} [%r10], {value}, [%r11];"))
            .replace("_, [%r1], 64;", &format!("_, [%r1], {bytes};"));
        let case = Case::new(Order::Forward).buffer(&[0; 16]);
        clean(&case.launch(&text, &pair()));
        assert_eq!(case.words(0, 4), words, "{form}");
    }
    for form in [
        "st.async.weak.mbarrier::complete_tx::bytes.u16",
        "red.async.relaxed.cluster.mbarrier::complete_tx::bytes.add.f32",
    ] {
        assert!(Module::parse(&kernel(1, &format!("{form} [s], %r0, [bar];"))).is_err(), "{form}");
    }
}

/// Reduces 64 bytes of `with` into 64 of `there`; gives what is there afterwards.
fn reduce(op: &str, there: &[u32; 16], with: &[u32; 16]) -> Vec<u32> {
    let body = format!(
        "setp.eq.u32 %p0, %r0, 0; mov.u32 %r2, s; shl.b32 %r4, %r0, 2; add.u32 %r5, %r2, %r4; cvt.u64.u32 %rd4, %r4;
         add.u64 %rd5, %rd1, %rd4; ld.global.b32 %r6, [%rd5]; st.shared.b32 [%r5], %r6; {ENDS}
         @!%p0 bra END;
         cp.reduce.async.bulk.global.shared::cta.bulk_group.{op} [%rd0], [%r2], 64;
         cp.async.bulk.commit_group; cp.async.bulk.wait_group 0; END:"
    );
    let case = Case::new(Order::Forward).buffer(there).buffer(with);
    clean(&case.run(&kernel(2, &body), 16));
    case.words(0, 16)
}

/// "cp.reduce.async.bulk", second form: into device memory, also of floats.
#[test]
fn reductions_into_device_memory() {
    let there: [u32; 16] = std::array::from_fn(|k| (k as u32 + 1).wrapping_mul(0x9E37_79B9));
    let with: [u32; 16] = std::array::from_fn(|k| (k as u32 + 7).wrapping_mul(0x85EB_CA6B));
    let words =
        |f: &dyn Fn(u32, u32) -> u32| there.iter().zip(with).map(|(a, b)| f(*a, b)).collect::<Vec<_>>();
    let wide = |w: &[u32; 16], k: usize| u64::from(w[2 * k]) | u64::from(w[2 * k + 1]) << 32;
    let longs = |f: &dyn Fn(u64, u64) -> u64| {
        (0..8)
            .map(|k| f(wide(&there, k), wide(&with, k)))
            .flat_map(|x| [x as u32, (x >> 32) as u32])
            .collect::<Vec<_>>()
    };
    let run = |op: &str| reduce(op, &there, &with);
    assert_eq!(run("add.u32"), words(&|a, b| a.wrapping_add(b)));
    assert_eq!(run("add.s32"), words(&|a, b| a.wrapping_add(b)));
    assert_eq!(run("min.u32"), words(&|a, b| a.min(b)));
    assert_eq!(run("max.u32"), words(&|a, b| a.max(b)));
    assert_eq!(run("min.s32"), words(&|a, b| (a as i32).min(b as i32) as u32));
    assert_eq!(run("max.s32"), words(&|a, b| (a as i32).max(b as i32) as u32));
    assert_eq!(run("inc.u32"), words(&|a, b| if a >= b { 0 } else { a + 1 }));
    assert_eq!(run("dec.u32"), words(&|a, b| if a == 0 || a > b { b } else { a - 1 }));
    assert_eq!(run("and.b32"), words(&|a, b| a & b));
    assert_eq!(run("or.b32"), words(&|a, b| a | b));
    assert_eq!(run("xor.b32"), words(&|a, b| a ^ b));
    assert_eq!(run("and.b64"), longs(&|a, b| a & b));
    assert_eq!(run("or.b64"), longs(&|a, b| a | b));
    assert_eq!(run("xor.b64"), longs(&|a, b| a ^ b));
    assert_eq!(run("add.u64"), longs(&|a, b| a.wrapping_add(b)));
    assert_eq!(run("min.u64"), longs(&|a, b| a.min(b)));
    assert_eq!(run("max.u64"), longs(&|a, b| a.max(b)));
    assert_eq!(run("min.s64"), longs(&|a, b| (a as i64).min(b as i64) as u64));
    assert_eq!(run("max.s64"), longs(&|a, b| (a as i64).max(b as i64) as u64));

    let (x, y): ([f32; 16], [f32; 16]) =
        (std::array::from_fn(|k| k as f32 - 7.5), std::array::from_fn(|k| 0.25 * k as f32));
    let expected: Vec<u32> = x.iter().zip(y).map(|(a, b)| (a + b).to_bits()).collect();
    assert_eq!(reduce("add.f32", &x.map(f32::to_bits), &y.map(f32::to_bits)), expected);
    let doubles = |f: &dyn Fn(usize) -> f64| -> [u32; 16] {
        std::array::from_fn(|k| (f(k / 2).to_bits() >> (32 * (k % 2))) as u32)
    };
    let (a, b) = (|k: usize| k as f64 * 1e10, |k: usize| 0.5 - k as f64);
    assert_eq!(reduce("add.f64", &doubles(&a), &doubles(&b)), doubles(&|k| a(k) + b(k)));
    type Half = (&'static str, fn(f32) -> u16, fn(u16) -> f32);
    let halves: [Half; 2] = [
        ("f16", |x| f16::from_f32(x).to_bits(), |x| f16::from_bits(x).to_f32()),
        ("bf16", |x| bf16::from_f32(x).to_bits(), |x| bf16::from_bits(x).to_f32()),
    ];
    for (ty, to, from) in halves {
        let pack = |f: &dyn Fn(usize) -> f32| -> [u32; 16] {
            std::array::from_fn(|k| u32::from(to(f(2 * k))) | u32::from(to(f(2 * k + 1))) << 16)
        };
        let (a, b) = (|k: usize| k as f32 / 8.0 - 2.0, |k: usize| 1.0 - k as f32 / 4.0);
        for (op, f) in [
            (format!("add.noftz.{ty}"), (|x: f32, y: f32| x + y) as fn(f32, f32) -> f32),
            (format!("min.{ty}"), f32::min),
            (format!("max.{ty}"), f32::max),
        ] {
            let expected = pack(&|k| f(from(to(a(k))), from(to(b(k)))));
            assert_eq!(reduce(&op, &pack(&a), &pack(&b)), expected, "{op}");
        }
    }
}

/// "cp.reduce.async.bulk.tensor": the type of the elements is that of the map, and what lies outside is left alone.
#[test]
fn reductions_of_a_tensor() {
    type Fold = fn(u32, u32) -> u32;
    let cases: [(&str, u32, Fold); 9] = [
        ("add", 2, |a, b| a.wrapping_add(b)),
        ("min", 3, |a, b| (a as i32).min(b as i32) as u32),
        ("max", 2, |a, b| a.max(b)),
        ("inc", 2, |a, b| if a >= b { 0 } else { a + 1 }),
        ("dec", 2, |a, b| if a == 0 || a > b { b } else { a - 1 }),
        ("and", 2, |a, b| a & b),
        ("or", 2, |a, b| a | b),
        ("xor", 2, |a, b| a ^ b),
        ("add", 7, |a, b| (f32::from_bits(a) + f32::from_bits(b)).to_bits()),
    ];
    for (op, ty, fold) in cases {
        let value = |k: u32| if ty == 7 { (k as f32).to_bits() } else { k.wrapping_mul(0x9E37_79B9) };
        let body = format!(
            "setp.eq.u32 %p0, %r0, 0; mov.u32 %r2, s; shl.b32 %r4, %r0, 2; add.u32 %r5, %r2, %r4; cvt.u64.u32 %rd4, %r4;
             add.u64 %rd5, %rd2, %rd4; ld.global.b32 %r6, [%rd5]; st.shared.b32 [%r5], %r6; {ENDS}
             @!%p0 bra END; mov.u32 %r10, 6; mov.u32 %r11, 2;
             cp.reduce.async.bulk.tensor.2d.global.shared::cta.{op}.tile.bulk_group [%rd1, {{%r10, %r11}}], [%r2];
             cp.async.bulk.commit_group; cp.async.bulk.wait_group 0; END:"
        );
        let there: Vec<u32> = (0..32).map(value).collect();
        let with: Vec<u32> = (0..16).map(|k| value(k + 40)).collect();
        let map = |a| TensorMap::tiled(ty, a, &[8, 4], &[32], &[4, 4], &[1, 1], 0, 0, 0, 0).unwrap();
        let case = Case::new(Order::Forward).buffer(&there).map(map).buffer(&with);
        clean(&case.run(&kernel(3, &body), 16));
        let expected: Vec<u32> = (0..32)
            .map(|k| {
                let (x, y) = (k % 8, k / 8);
                if x >= 6 && y >= 2 { fold(there[k], with[(y - 2) * 4 + x - 6]) } else { there[k] }
            })
            .collect();
        assert_eq!(case.words(0, 32), expected, "{op} of type {ty}");
    }
}

/// Forms that do not exist are errors; memory that nobody wrote cannot be added to; two blocks may add to one place.
#[test]
fn what_a_reduction_may_not_do() {
    for form in [
        "global.shared::cta.bulk_group.add.f16",
        "global.shared::cta.bulk_group.min.f32",
        "global.shared::cta.bulk_group.inc.s32",
        "global.shared::cta.bulk_group.xor.u32",
        "global.shared::cta.bulk_group.exch.b32",
        "global.shared::cta.bulk_group",
        "shared::cta.global.bulk_group.add.u32",
    ] {
        let body = format!("cp.reduce.async.bulk.{form} [%rd0], [s], 64;");
        assert!(Module::parse(&kernel(1, &body)).is_err(), "{form}");
    }
    for form in ["add.f32", "min.u64", "and.b64", "max.bf16"] {
        let form = format!("shared::cluster.shared::cta.mbarrier::complete_tx::bytes.{form}");
        let body = format!("cp.reduce.async.bulk.{form} [s], [s+64], 64, [bar];");
        assert!(Module::parse(&kernel(1, &body)).is_err(), "{form}");
    }
    let body = format!(
        "setp.eq.u32 %p0, %r0, 0; mov.u32 %r2, s; shl.b32 %r4, %r0, 2; add.u32 %r5, %r2, %r4; mov.u32 %r6, 1; st.shared.b32 [%r5], %r6; {ENDS}
         @!%p0 bra END; cp.reduce.async.bulk.global.shared::cta.bulk_group.add.u32 [%rd0], [%r2], 64;
         cp.async.bulk.commit_group; cp.async.bulk.wait_group 0; END:"
    );
    let many = LaunchConfig::new(4, 16);
    for order in ORDERS {
        let case = Case::new(order).buffer(&[5; 16]);
        clean(&case.launch(&kernel(1, &body), &many));
        assert_eq!(case.words(0, 16), [9; 16]);
    }
    let plain = body.replace(
        "cp.reduce.async.bulk.global.shared::cta.bulk_group.add.u32",
        "cp.async.bulk.global.shared::cta.bulk_group",
    );
    assert_eq!(
        kinds(&Case::new(Order::Forward).buffer(&[5; 16]).launch(&kernel(1, &plain), &many)),
        [FindingKind::Race]
    );
    let outside = body.replace("[%r2], 64", "[%r2], 80");
    let report = Case::new(Order::Forward).buffer(&[5; 16]).run(&kernel(1, &outside), 16);
    assert!(report.findings.iter().any(|f| f.kind == FindingKind::Bounds), "{}", report.to_text());
}

/// "Tensor: Swizzling Modes": of a mode of N bytes, the 16-byte chunk of a row of 128 bytes is xored with the low bits of the row's number
/// (N = 128: three of them; 64: two, of pairs of rows' worth of N bytes; 32: one). Here by the figure's rule on byte addresses: bits 4 and up
/// of the address are xored with bits 7 and up.
#[test]
fn swizzles_of_32_64_and_128_bytes() {
    for (mode, span) in [(0, 16u32), (1, 32), (2, 64), (3, 128)] {
        let (columns, rows) = (span / 4, 16u32);
        let input: Vec<u32> = (0..columns * rows).map(|k| k + 100).collect();
        let threads = columns * rows;
        let body = format!(
            "{}mov.u32 %r2, s; mov.u32 %r10, 0;
             @%p0 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r1], {};
             @%p0 cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%r2], [%rd1, {{%r10, %r10}}], [%r1];
             {} shl.b32 %r4, %r0, 2; add.u32 %r5, %r2, %r4; ld.shared.u32 %r6, [%r5]; cvt.u64.u32 %rd4, %r4; add.u64 %rd5, %rd2, %rd4;
             st.global.u32 [%rd5], %r6; bar.sync 0; @!%p0 bra END;
             cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%rd3, {{%r10, %r10}}], [%r2];
             cp.async.bulk.commit_group; cp.async.bulk.wait_group 0; END:",
            init(1),
            threads * 4,
            wait("W", 0)
        );
        let map = |a| {
            TensorMap::tiled(
                2,
                a,
                &[u64::from(columns), 16],
                &[u64::from(span)],
                &[columns, 16],
                &[1, 1],
                0,
                mode,
                0,
                0,
            )
            .unwrap()
        };
        // The image of shared memory goes to the third argument, and by the same map back to what is behind the fourth.
        let zeros = vec![0; input.len()];
        let mut case = Case::new(Order::Forward).buffer(&input).map(map).buffer(&zeros).buffer(&zeros);
        case.args.truncate(24);
        let case = case.map(map);
        clean(&case.run(&kernel(4, &body), threads));
        let image = case.words(1, input.len());
        for (k, value) in input.iter().enumerate() {
            let at = k as u32 * 4;
            let chunk = at >> 4 ^ (at >> 7 & (span / 16 - 1));
            assert_eq!(image[(chunk << 4 | at & 15) as usize / 4], *value, "{span} bytes, word {k}");
        }
        assert_eq!(case.words(2, input.len()), input, "back by the same map");
    }
}

/// "cp.async.bulk.tensor": .1d to .5d, in and out.
#[test]
fn every_rank_in_and_out() {
    for rank in 1..=5usize {
        let at = format!("{{{}}}", vec!["%r10"; rank].join(", "));
        let done = "cp.async.bulk.commit_group; cp.async.bulk.wait_group 0;";
        let body = format!(
            "{}mov.u32 %r2, s; mov.u32 %r10, 0;
             @%p0 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r1], 256;
             @%p0 cp.async.bulk.tensor.{rank}d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%r2], [%rd1, {at}], [%r1];
             {} bar.sync 0; @!%p0 bra END;
             cp.async.bulk.tensor.{rank}d.global.shared::cta.tile.bulk_group [%rd3, {at}], [%r2]; {done}
             cp.reduce.async.bulk.tensor.{rank}d.global.shared::cta.add.tile.bulk_group [%rd3, {at}], [%r2]; {done} END:",
            init(1),
            wait("W", 0)
        );
        // Two of each outer dimension; the innermost takes what is left of 64 words.
        let mut dims = vec![2u64; rank];
        dims[0] = 64 >> (rank - 1);
        let strides: Vec<u64> = (0..rank - 1).map(|k| dims[0] * 4 << k).collect();
        let inner: Vec<u32> = dims.iter().map(|n| *n as u32).collect();
        let map = |a| TensorMap::tiled(2, a, &dims, &strides, &inner, &vec![1; rank], 0, 0, 0, 0).unwrap();
        let input: Vec<u32> = (0..64).map(|k| k * 3 + 1).collect();
        let case = Case::new(Order::Forward).buffer(&input).map(map).buffer(&[0; 64]).map(map);
        clean(&case.run(&kernel(4, &body), 32));
        assert_eq!(case.words(1, 64), input.iter().map(|x| x * 2).collect::<Vec<_>>(), "rank {rank}");
    }
}

/// "cp.async.bulk.prefetch", "cp.async.bulk.prefetch.tensor", "prefetch.tensormap", "griddepcontrol", "setmaxnreg": no result changes.
#[test]
fn prefetches_change_nothing() {
    let body = "mov.u32 %r10, 0; mov.u32 %r11, 64;
        cp.async.bulk.prefetch.L2.global [%rd0], 64; cp.async.bulk.prefetch.L2.global [%rd0], %r11;
        cp.async.bulk.prefetch.tensor.1d.L2.global.tile [%rd1, {%r10}]; cp.async.bulk.prefetch.tensor.5d.L2.global [%rd1, {%r10, %r10, %r10, %r10, %r10}];
        prefetch.tensormap [%rd1]; prefetch.param.tensormap [%rd1]; prefetch.global.L2 [%rd0]; prefetch.L1 [%rd0];
        griddepcontrol.wait; griddepcontrol.launch_dependents; setmaxnreg.inc.sync.aligned.u32 232; setmaxnreg.dec.sync.aligned.u32 40;
        setp.eq.u32 %p0, %r0, 0; @%p0 st.global.u32 [%rd0], 3;";
    let map = |a| TensorMap::tiled(2, a, &[16], &[], &[16], &[1], 0, 0, 0, 0).unwrap();
    let case = Case::new(Order::Forward).buffer(&[0; 16]).map(map);
    clean(&case.run(&kernel(2, body), 128));
    assert_eq!(case.words(0, 1), [3]);
    for wrong in [
        "setmaxnreg.inc.sync.aligned.u32 20;",
        "setmaxnreg.inc.sync.aligned.u32 264;",
        "setmaxnreg.dec.sync.aligned.u32 30;",
    ] {
        assert!(Module::parse(&kernel(2, wrong)).is_err(), "{wrong}");
    }
}

/// "atom.shared::cluster", "red.shared::cluster": on the memory of another block of the cluster; atomics do not race with each other.
#[test]
fn atomics_on_another_blocks_memory() {
    let body = format!(
        "setp.eq.u32 %p0, %r0, 0; mov.u32 %r2, s; mov.u32 %r12, %cluster_ctarank; @%p0 st.shared.v2.u32 [s], {{0, 0}}; @%p0 st.shared.u64 [s+8], 0;
         {CLUSTER}
         mapa.shared::cluster.u32 %r10, %r2, 0; red.shared::cluster.add.u32 [%r10], 1;
         atom.shared::cluster.max.u32 %r5, [%r10+4], %r0; atom.acq_rel.cluster.shared::cluster.add.u64 %rd5, [%r10+8], 2;
         {CLUSTER}
         setp.eq.and.u32 %p1, %r12, 0, %p0; @!%p1 bra END; ld.shared.v4.u32 {{%r20, %r21, %r22, %r23}}, [s];
         st.global.v4.u32 [%rd0], {{%r20, %r21, %r22, %r23}}; END:"
    );
    let config = LaunchConfig { cluster: [4, 1, 1], ..LaunchConfig::new(4, 64) };
    for order in ORDERS {
        let case = Case::new(order).buffer(&[0; 4]);
        clean(&case.launch(&kernel(1, &body), &config));
        assert_eq!(case.words(0, 4), [256, 63, 512, 0]);
    }
    // An ordinary read that nothing orders after them.
    let early = body.replace(&format!("{CLUSTER}\n         setp.eq.and"), "setp.eq.and");
    assert_eq!(
        kinds(&Case::new(Order::Forward).buffer(&[0; 4]).launch(&kernel(1, &early), &config)),
        [FindingKind::Race]
    );
}

const CLUSTER: &str = "barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;";

/// "ld.shared::cluster", "st.shared::cluster", "mapa" and "getctarank", by shared and by generic addresses; what no block of the cluster has is out of bounds.
#[test]
fn ordinary_accesses_to_another_blocks_memory() {
    let body = format!(
        "mov.u32 %r2, s; mov.u32 %r12, %cluster_ctarank; xor.b32 %r13, %r12, 1; shl.b32 %r4, %r0, 2; add.u32 %r5, %r2, %r4;
         mapa.shared::cluster.u32 %r10, %r5, %r13; mad.lo.u32 %r6, %r12, 100, %r0; st.shared::cluster.u32 [%r10], %r6;
         {CLUSTER}
         ld.shared.u32 %r7, [%r5]; cvt.u64.u32 %rd4, %r5; cvta.shared.u64 %rd4, %rd4; mapa.u64 %rd5, %rd4, %r13; ld.u32 %r8, [%rd5];
         getctarank.u64 %r9, %rd5; getctarank.shared::cluster.u32 %r14, %r10;
         mad.lo.u32 %r15, %r12, 32, %r0; mul.wide.u32 %rd6, %r15, 16; add.u64 %rd6, %rd0, %rd6; st.global.v4.u32 [%rd6], {{%r7, %r8, %r9, %r14}};
         {CLUSTER}"
    );
    let config = LaunchConfig { cluster: [2, 1, 1], ..LaunchConfig::new(2, 32) };
    for order in ORDERS {
        let case = Case::new(order).buffer(&[0; 256]);
        clean(&case.launch(&kernel(1, &body), &config));
        let expected: Vec<u32> = (0..2u32)
            .flat_map(|b| (0..32).flat_map(move |t| [(1 - b) * 100 + t, b * 100 + t, 1 - b, 1 - b]))
            .collect();
        assert_eq!(case.words(0, 256), expected);
    }
    let beyond = body.replace("xor.b32 %r13, %r12, 1;", "mov.u32 %r13, 2;");
    let report = Case::new(Order::Forward).buffer(&[0; 256]).launch(&kernel(1, &beyond), &config);
    assert_eq!(kinds(&report), [FindingKind::Bounds]);
}

/// "fence.proxy": each spelling is accepted; unknown ones are not.
#[test]
fn proxy_fences() {
    for form in ["alias", "async", "async.global", "async.shared::cta", "async.shared::cluster"] {
        let body = format!("fence.proxy.{form}; st.global.u32 [%rd0], 1;");
        clean(&Case::new(Order::Forward).buffer(&[0]).run(&kernel(1, &body), 1));
    }
    assert!(Module::parse(&kernel(1, "fence.proxy.sideways;")).is_err());
}
