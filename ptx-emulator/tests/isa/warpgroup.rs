//! `wgmma`, from the PTX ISA's text: fragments of D ("Register Fragments"), matrices in shared memory ("Shared Memory
//! Matrix Layout", "Matrix Descriptor Format", "Strides"), and what must not be touched before `wgmma.wait_group`.

use half::bf16;
use ptx_emulator::{Device, FindingKind, Gpu, LaunchConfig, Options, Report};

pub const ALL: &[fn()] = &[
    each_layout_gives_the_product_in_its_fragments,
    what_ordinary_stores_wrote_needs_a_proxy_fence,
    registers_and_operands_may_not_be_touched_before_the_wait,
    each_type_from_memory_and_from_registers,
];

/// Bytes of shared memory that the tests fill.
const BYTES: usize = 32768;

/// Where an element lies, and the descriptor without its address.
struct Layout {
    start: usize,
    place: fn(x: usize, k: usize) -> usize,
    leading: usize,
    stride: usize,
    mode: u64,
    transposed: u32,
}

impl Layout {
    fn descriptor(&self) -> u64 {
        (self.start as u64 >> 4)
            | (self.leading as u64 >> 4) << 16
            | (self.stride as u64 >> 4) << 32
            | self.mode << 62
    }
}

/// Core matrices of 8 rows of 16 bytes, side by side along K.
fn plain(start: usize) -> Layout {
    let place = |x: usize, k: usize| x / 8 * 256 + k / 8 * 128 + x % 8 * 16 + k % 8 * 2;
    Layout { start, place, leading: 128, stride: 256, mode: 0, transposed: 0 }
}

/// Rows of 128 bytes along K, of which the product takes the second quarter; bits 4 to 6 of an address are xored
/// with the bits above.
fn wide_rows(start: usize) -> Layout {
    let place = |x: usize, k: usize| x * 128 + ((k / 8 + 2) ^ (x % 8)) * 16 + k % 8 * 2;
    Layout { start, place, leading: 16, stride: 1024, mode: 1, transposed: 0 }
}

/// N innermost: rows of 64 columns for each k, swizzled.
fn columns_first(start: usize) -> Layout {
    let place = |x: usize, k: usize| k * 128 + ((x / 8) ^ (k % 8)) * 16 + x % 8 * 2;
    Layout { start, place, leading: 4096, stride: 1024, mode: 1, transposed: 1 }
}

fn value(seed: usize, x: usize, k: usize) -> f32 {
    ((x * 7 + k * 13 + seed) % 31) as f32 / 8.0 - 1.5
}

/// D is stored as thread's registers, `n / 2` each. `load` fills shared memory, `before` and `after` stand around the
/// product.
fn kernel(n: usize, a: &Layout, b: &Layout, load: &str, before: &str, after: &str) -> String {
    let d: Vec<String> = (0..n / 2).map(|r| format!("%f{r}")).collect();
    let start: String = d.iter().map(|f| format!("mov.f32 {f}, 0f3F800000;\n")).collect();
    let stores: String =
        d.iter().enumerate().map(|(r, f)| format!("st.global.f32 [%rd9+{}], {f};\n", 4 * r)).collect();
    // A starts 32 bytes into its rows where only a part of them is taken.
    let (da, db) = (a.descriptor() + u64::from(a.transposed == 0 && a.mode == 1) * 2, b.descriptor());
    let db = db + u64::from(b.transposed == 0 && b.mode == 1) * 2;
    format!(
        ".version 8.0\n.target sm_90a\n.address_size 64\n\
         .visible .entry k(.param .u64 p0, .param .u64 p1) {{\n.reg .pred %p<8>;\n.reg .b32 %r<16>;\n\
         .reg .b64 %rd<16>;\n.reg .f32 %f<256>;\n.shared .align 1024 .b8 s[{BYTES}];\n.shared .align 8 .b64 bar;\n\
         ld.param.u64 %rd0, [p0]; ld.param.u64 %rd1, [p1]; mov.u32 %r0, %tid.x; mov.u32 %r1, bar; mov.u32 %r2, s;\n\
         mad.wide.u32 %rd9, %r0, {}, %rd1; setp.eq.u32 %p0, %r0, 0;\n{load}\n\
         shr.u32 %r3, %r2, 4; cvt.u64.u32 %rd2, %r3; add.s64 %rd3, %rd2, {da}; add.s64 %rd4, %rd2, {db};\n\
         {start}setp.eq.u32 %p1, %r0, %r0;\n{before}\n\
         wgmma.mma_async.sync.aligned.m64n{n}k16.f32.bf16.bf16 {{{}}}, %rd3, %rd4, %p1, 1, -1, {}, {};\n\
         wgmma.commit_group.sync.aligned;\n{after}\n{stores}ret;\n}}\n",
        n * 2,
        d.join(", "),
        a.transposed,
        b.transposed,
    )
}

const BULK: &str = "@%p0 mbarrier.init.shared.b64 [%r1], 1; bar.sync 0;
@%p0 mbarrier.arrive.expect_tx.shared.b64 _, [%r1], 32768;
@%p0 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r2], [%rd0], 32768, [%r1];
W: mbarrier.try_wait.parity.shared.b64 %p2, [%r1], 0; @!%p2 bra W;";
const FENCE: &str = "wgmma.fence.sync.aligned;";
const WAIT: &str = "wgmma.wait_group.sync.aligned 0;";

/// Every byte by an ordinary store.
fn stores(fence: &str) -> String {
    format!(
        "mov.u32 %r5, %r0;\nL: mul.wide.u32 %rd5, %r5, 4; add.s64 %rd6, %rd0, %rd5; ld.global.u32 %r6, [%rd6];\n\
         shl.b32 %r7, %r5, 2; add.s32 %r7, %r7, %r2; st.shared.u32 [%r7], %r6;\n\
         add.s32 %r5, %r5, 128; setp.lt.u32 %p3, %r5, 8192; @%p3 bra L;\n{fence}\nbar.sync 0;"
    )
}

fn run(n: usize, a: &Layout, b: &Layout, ptx: &str) -> (Report, Vec<f32>) {
    let mut image = vec![0u8; BYTES];
    let mut put = |l: &Layout, rows: usize, seed: usize| {
        for x in 0..rows {
            for k in 0..16 {
                let at = l.start + (l.place)(x, k);
                image[at..at + 2].copy_from_slice(&bf16::from_f32(value(seed, x, k)).to_le_bytes());
            }
        }
    };
    put(a, 64, 0);
    put(b, n, 5);
    let device = Device::new(Gpu::h100(), Options { threads: 1, ..Options::default() });
    let memory = device.memory();
    let (input, output) = (memory.alloc(BYTES as u64).unwrap(), memory.alloc(64 * n as u64 * 4).unwrap());
    memory.write(input, &image).unwrap();
    memory.write(output, &vec![0; 64 * n * 4]).unwrap();
    let module = crate::support::module(ptx);
    let loaded = device.load(&module).unwrap();
    let args: Vec<u8> = [input, output].iter().flat_map(|p| p.to_le_bytes()).collect();
    let report = device.launch(&loaded, "k", &LaunchConfig::new(1, 128), &args).unwrap();
    let mut out = vec![0f32; 64 * n];
    memory.read(output, bytemuck::cast_slice_mut(&mut out)).unwrap();
    (report, out)
}

fn kinds(report: &Report) -> Vec<FindingKind> {
    let mut kinds: Vec<_> = report.findings.iter().map(|f| f.kind).collect();
    kinds.sort_by_key(|k| format!("{k:?}"));
    kinds.dedup();
    kinds
}

#[test]
fn each_layout_gives_the_product_in_its_fragments() {
    let cases = [
        (16, plain(0), plain(16384)),
        (8, wide_rows(0), plain(16384)),
        (24, plain(0), wide_rows(16384)),
        (64, wide_rows(0), columns_first(16384)),
    ];
    for (case, (n, a, b)) in cases.into_iter().enumerate() {
        let (report, out) = run(n, &a, &b, &kernel(n, &a, &b, BULK, FENCE, WAIT));
        assert_eq!(report.findings, vec![], "{}", report.to_text());
        for thread in 0..128 {
            for r in 0..n / 2 {
                // Figure "WGMMA .m64nNk16 register fragment layout for accumulator matrix D".
                let row = 16 * (thread / 32) + thread % 32 / 4 + 8 * (r / 2 % 2);
                let column = 8 * (r / 4) + 2 * (thread % 4) + r % 2;
                let dot: f32 = (0..16).map(|k| value(0, row, k) * -value(5, column, k)).sum();
                assert_eq!(out[thread * n / 2 + r], 1.0 + dot, "case {case} row {row} column {column}");
            }
        }
    }
}

#[test]
fn what_ordinary_stores_wrote_needs_a_proxy_fence() {
    let (a, b) = (plain(0), plain(16384));
    let ptx = |fence: &str| kernel(16, &a, &b, &stores(fence), FENCE, WAIT);
    assert_eq!(kinds(&run(16, &a, &b, &ptx("fence.proxy.async;")).0), []);
    assert_eq!(kinds(&run(16, &a, &b, &ptx("")).0), [FindingKind::Race]);
}

#[test]
fn registers_and_operands_may_not_be_touched_before_the_wait() {
    let (a, b) = (plain(0), plain(16384));
    let ptx = |before: &str, after: &str| kernel(16, &a, &b, BULK, before, after);
    let late = run(16, &a, &b, &ptx(FENCE, "wgmma.wait_group.sync.aligned 1;")).0;
    assert_eq!(kinds(&late), [FindingKind::InFlight], "{}", late.to_text());
    let unfenced = run(16, &a, &b, &ptx(&format!("{FENCE} mov.f32 %f3, 0f3F800000;"), WAIT)).0;
    assert_eq!(kinds(&unfenced), [FindingKind::Race], "{}", unfenced.to_text());
    let overwritten = run(16, &a, &b, &ptx(FENCE, &format!("st.shared.u32 [s], %r0; {WAIT}"))).0;
    assert!(kinds(&overwritten).contains(&FindingKind::Race), "{}", overwritten.to_text());
}

/// A type of operands: its name, bytes, and small whole numbers in it.
type Form = (&'static str, usize, fn(i32) -> u32);

const FORMS: [Form; 4] = [
    ("m64n16k16.f32.f16.f16", 2, |x| u32::from(half::f16::from_f32(x as f32).to_bits())),
    ("m64n16k16.f32.bf16.bf16", 2, |x| u32::from(bf16::from_f32(x as f32).to_bits())),
    ("m64n16k8.f32.tf32.tf32", 4, |x| (x as f32).to_bits()),
    ("m64n16k32.s32.s8.s8", 1, |x| x as u32 & 0xFF),
];

fn whole(seed: usize, x: usize, k: usize) -> i32 {
    ((x * 5 + k * 3 + seed) % 7) as i32 - 3
}

/// "Register Fragments": A may come from registers, laid out as for `mma.sync`; D is f32, s32, or f16 in pairs.
#[test]
fn each_type_from_memory_and_from_registers() {
    for (form, bytes, bits) in FORMS {
        for registers in [false, true] {
            let (integers, k) = (form.contains("s32"), 32 / bytes);
            let mut image = vec![0u8; BYTES];
            let mut put = |start: usize, rows: usize, seed: usize| {
                for (x, j) in (0..rows).flat_map(|x| (0..k).map(move |j| (x, j))) {
                    let at = start + x / 8 * 256 + j * bytes / 16 * 128 + x % 8 * 16 + j * bytes % 16;
                    image[at..at + bytes].copy_from_slice(&bits(whole(seed, x, j)).to_le_bytes()[..bytes]);
                }
            };
            put(0, 64, 1);
            put(16384, 16, 2);
            // Registers of A, four a thread: rows g and g + 8, then the same in the other half of K.
            let each = 4 / bytes;
            for (thread, r) in (0..128).flat_map(|t| (0..4).map(move |r| (t, r))) {
                let row = 16 * (thread / 32) + thread % 32 / 4 + 8 * (r % 2);
                let first = 4 * each * (r / 2) + each * (thread % 4);
                let word = (0..each).fold(0, |w, j| w | bits(whole(1, row, first + j)) << (8 * bytes * j));
                let at = 24576 + thread * 16 + r * 4;
                image[at..at + 4].copy_from_slice(&word.to_le_bytes());
            }
            let ty = if integers { "s32" } else { "f32" };
            let d: String =
                (0..8).map(|r| format!("%r{}{}", 20 + r, if r < 7 { ", " } else { "" })).collect();
            let scales = match (integers, bytes, registers) {
                (true, ..) => "",
                (_, 4, _) => ", 1, 1",
                (_, _, true) => ", 1, 1, 0",
                _ => ", 1, 1, 0, 0",
            };
            let a = if registers { "{%r10, %r11, %r12, %r13}" } else { "%rd3" };
            let (low, high) = (128u64 >> 4 << 16 | 256 >> 4 << 32, 16384u64 >> 4);
            let stores: String =
                (0..8).map(|r| format!("st.global.u32 [%rd9+{}], %r{};\n", 4 * r, 20 + r)).collect();
            let ptx = format!(
                ".version 8.0\n.target sm_90a\n.address_size 64\n\
                 .visible .entry k(.param .u64 p0, .param .u64 p1) {{\n.reg .pred %p<8>;\n.reg .b32 %r<32>;\n\
                 .reg .b64 %rd<16>;\n.shared .align 1024 .b8 s[{BYTES}];\n.shared .align 8 .b64 bar;\n\
                 ld.param.u64 %rd0, [p0]; ld.param.u64 %rd1, [p1]; mov.u32 %r0, %tid.x; mov.u32 %r1, bar;\n\
                 mov.u32 %r2, s; mad.wide.u32 %rd9, %r0, 32, %rd1; setp.eq.u32 %p0, %r0, 0;\n{BULK}\n\
                 shl.b32 %r4, %r0, 4; add.s32 %r4, %r4, %r2; ld.shared.v4.u32 {{%r10, %r11, %r12, %r13}}, [%r4+24576];\n\
                 shr.u32 %r3, %r2, 4; cvt.u64.u32 %rd2, %r3; add.s64 %rd3, %rd2, {low}; add.s64 %rd4, %rd3, {high};\n\
                 setp.ne.u32 %p1, %r0, %r0;\n{FENCE}\n\
                 wgmma.mma_async.sync.aligned.{form} {{{d}}}, {a}, %rd4, %p1{scales};\n\
                 wgmma.commit_group.sync.aligned;\n{WAIT}\n{stores}ret;\n}}\n"
            );
            let device = Device::new(Gpu::h100(), Options { threads: 1, ..Options::default() });
            let memory = device.memory();
            let (input, output) = (memory.alloc(BYTES as u64).unwrap(), memory.alloc(4096).unwrap());
            memory.write(input, &image).unwrap();
            let module = crate::support::module(&ptx);
            let loaded = device.load(&module).unwrap();
            let args: Vec<u8> = [input, output].iter().flat_map(|p| p.to_le_bytes()).collect();
            let report = device.launch(&loaded, "k", &LaunchConfig::new(1, 128), &args).unwrap();
            assert_eq!(report.findings, vec![], "{form}: {}", report.to_text());
            let mut out = vec![0u32; 1024];
            memory.read(output, bytemuck::cast_slice_mut(&mut out)).unwrap();
            for (thread, r) in (0..128).flat_map(|t| (0..8).map(move |r| (t, r))) {
                let row = 16 * (thread / 32) + thread % 32 / 4 + 8 * (r / 2 % 2);
                let column = 8 * (r / 4) + 2 * (thread % 4) + r % 2;
                let dot: i32 = (0..k).map(|j| whole(1, row, j) * whole(2, column, j)).sum();
                let got = out[thread * 8 + r];
                let got = if ty == "s32" { got as i32 } else { f32::from_bits(got) as i32 };
                assert_eq!(got, dot, "{form} registers {registers} row {row} column {column}");
            }
        }
    }
}
