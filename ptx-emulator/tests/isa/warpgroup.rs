//! `wgmma`, from the PTX ISA's text: fragments of D ("Register Fragments"), matrices in shared memory ("Shared Memory
//! Matrix Layout", "Matrix Descriptor Format", "Strides"), and what must not be touched before `wgmma.wait_group`.

use half::bf16;
use ptx_emulator::{Device, FindingKind, Gpu, LaunchConfig, Options, Report};

pub const ALL: &[fn()] = &[
    each_layout_gives_the_product_in_its_fragments,
    what_ordinary_stores_wrote_needs_a_proxy_fence,
    registers_and_operands_may_not_be_touched_before_the_wait,
    each_type_from_memory_and_from_registers,
    each_width,
    shapes_and_types_that_do_not_exist,
    integers_saturate_when_asked,
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

/// A type of elements: its name, bytes, and small whole numbers in it.
type Element = (&'static str, usize, fn(i32) -> u32);

const F16: Element = ("f16", 2, |x| u32::from(half::f16::from_f32(x as f32).to_bits()));
const BF16: Element = ("bf16", 2, |x| u32::from(bf16::from_f32(x as f32).to_bits()));
const TF32: Element = ("tf32", 4, |x| (x as f32).to_bits());
const S8: Element = ("s8", 1, |x| x as u32 & 0xFF);
const U8: Element = ("u8", 1, |x| x as u32 & 0xFF);
const E4M3: Element = ("e4m3", 1, |x| eight(x, 3, 7));
const E5M2: Element = ("e5m2", 1, |x| eight(x, 2, 15));

/// A whole number as sign, exponent and mantissa of eight bits.
fn eight(x: i32, mantissa: u32, bias: u32) -> u32 {
    if x == 0 {
        return 0;
    }
    let e = x.unsigned_abs().ilog2();
    u32::from(x < 0) << 7
        | (e + bias) << mantissa
        | (x.unsigned_abs() << (mantissa - e) & ((1 << mantissa) - 1))
}

fn whole(element: Element, seed: usize, x: usize, k: usize) -> i32 {
    ((x * 5 + k * 3 + seed) % 7) as i32 - if element.0 == "u8" { 0 } else { 3 }
}

/// One product of each thread's registers of D, which begin with 2 everywhere.
struct Sum {
    n: usize,
    d: &'static str,
    a: Element,
    b: Element,
    /// Whether A is in registers.
    registers: bool,
    /// Signs of A and B.
    signs: [i32; 2],
    /// Whether D is added.
    adds: bool,
}

impl Sum {
    fn name(&self) -> String {
        format!("m64n{}k{}.{}.{}.{}", self.n, 32 / self.a.1, self.d, self.a.0, self.b.0)
    }

    fn registers_of_d(&self) -> usize {
        self.n / if self.d == "f16" { 4 } else { 2 }
    }

    /// Shared memory: A, B, and A as registers hold it.
    fn image(&self) -> Vec<u8> {
        let (bytes, k) = (self.a.1, 32 / self.a.1);
        let mut image = vec![0u8; BYTES];
        let mut put = |start: usize, rows: usize, seed: usize, e: Element| {
            for (x, j) in (0..rows).flat_map(|x| (0..k).map(move |j| (x, j))) {
                let at = start + x / 8 * 256 + j * bytes / 16 * 128 + x % 8 * 16 + j * bytes % 16;
                image[at..at + bytes].copy_from_slice(&(e.2)(whole(e, seed, x, j)).to_le_bytes()[..bytes]);
            }
        };
        put(0, 64, 1, self.a);
        put(8192, self.n, 2, self.b);
        // Registers of A, four a thread: rows g and g + 8, then the same in the other half of K.
        let each = 4 / bytes;
        for (thread, r) in (0..128).flat_map(|t| (0..4).map(move |r| (t, r))) {
            let row = 16 * (thread / 32) + thread % 32 / 4 + 8 * (r % 2);
            let first = 4 * each * (r / 2) + each * (thread % 4);
            let word =
                (0..each).fold(0, |w, j| w | (self.a.2)(whole(self.a, 1, row, first + j)) << (8 * bytes * j));
            let at = 24576 + thread * 16 + r * 4;
            image[at..at + 4].copy_from_slice(&word.to_le_bytes());
        }
        image
    }

    fn text(&self) -> String {
        let count = self.registers_of_d();
        let d: Vec<String> = (0..count).map(|r| format!("%r{}", 20 + r)).collect();
        let start: u32 = match self.d {
            "f16" => 0x4000_4000,
            "s32" => 2,
            _ => 2f32.to_bits(),
        };
        let begin: String = d.iter().map(|r| format!("mov.b32 {r}, {start};\n")).collect();
        let stores: String =
            d.iter().enumerate().map(|(k, r)| format!("st.global.b32 [%rd9+{}], {r};\n", 4 * k)).collect();
        let signs =
            if self.d == "s32" { String::new() } else { format!(", {}, {}", self.signs[0], self.signs[1]) };
        let orders = match (self.a.1, self.registers) {
            (2, true) => ", 0",
            (2, false) => ", 0, 0",
            _ => "",
        };
        let a = if self.registers { "{%r10, %r11, %r12, %r13}" } else { "%rd3" };
        let (low, high) = (128u64 >> 4 << 16 | 256 >> 4 << 32, 8192u64 >> 4);
        format!(
            ".version 8.0\n.target sm_90a\n.address_size 64\n\
             .visible .entry k(.param .u64 p0, .param .u64 p1) {{\n.reg .pred %p<8>;\n.reg .b32 %r<160>;\n\
             .reg .b64 %rd<16>;\n.shared .align 1024 .b8 s[{BYTES}];\n.shared .align 8 .b64 bar;\n\
             ld.param.u64 %rd0, [p0]; ld.param.u64 %rd1, [p1]; mov.u32 %r0, %tid.x; mov.u32 %r1, bar;\n\
             mov.u32 %r2, s; mad.wide.u32 %rd9, %r0, {}, %rd1; setp.eq.u32 %p0, %r0, 0;\n{BULK}\n\
             shl.b32 %r4, %r0, 4; add.s32 %r4, %r4, %r2; ld.shared.v4.u32 {{%r10, %r11, %r12, %r13}}, [%r4+24576];\n\
             shr.u32 %r3, %r2, 4; cvt.u64.u32 %rd2, %r3; add.s64 %rd3, %rd2, {low}; add.s64 %rd4, %rd3, {high};\n\
             setp.eq.u32 %p1, {}, 1;\n{begin}{FENCE}\n\
             wgmma.mma_async.sync.aligned.{} {{{}}}, {a}, %rd4, %p1{signs}{orders};\n\
             wgmma.commit_group.sync.aligned;\n{WAIT}\n{stores}ret;\n}}\n",
            4 * count,
            u32::from(self.adds),
            self.name(),
            d.join(", "),
        )
    }

    /// Runs it and holds each element of D against plain loops.
    fn check(&self) {
        let device = Device::new(Gpu::h100(), Options { threads: 1, ..Options::default() });
        let (memory, count) = (device.memory(), self.registers_of_d());
        let (input, output) =
            (memory.alloc(BYTES as u64).unwrap(), memory.alloc(512 * count as u64).unwrap());
        memory.write(input, &self.image()).unwrap();
        let loaded = device.load(&crate::support::module(&self.text())).unwrap();
        let args: Vec<u8> = [input, output].iter().flat_map(|p| p.to_le_bytes()).collect();
        let report = device.launch(&loaded, "k", &LaunchConfig::new(1, 128), &args).unwrap();
        assert_eq!(report.findings, vec![], "{}: {}", self.name(), report.to_text());
        let mut out = vec![0u32; 128 * count];
        memory.read(output, bytemuck::cast_slice_mut(&mut out)).unwrap();
        let dot = |row: usize, column: usize| -> i32 {
            let k = 32 / self.a.1;
            let sum: i32 =
                (0..k).map(|j| whole(self.a, 1, row, j) * whole(self.b, 2, column, j)).sum::<i32>();
            sum * self.signs[0] * self.signs[1] + if self.adds { 2 } else { 0 }
        };
        for (thread, r) in (0..128).flat_map(|t| (0..count).map(move |r| (t, r))) {
            let got = out[thread * count + r];
            let place = |row: usize, column: usize| {
                (row + 16 * (thread / 32) + thread % 32 / 4, column + 2 * (thread % 4))
            };
            if self.d == "f16" {
                // Two columns in a register.
                let (row, column) = place(8 * (r % 2), 8 * (r / 2));
                for h in 0..2 {
                    let got = half::f16::from_bits((got >> (16 * h)) as u16).to_f32() as i32;
                    assert_eq!(got, dot(row, column + h), "{} row {row} column {column}", self.name());
                }
            } else {
                let (row, column) = place(8 * (r / 2 % 2), 8 * (r / 4) + r % 2);
                let got = if self.d == "s32" { got as i32 } else { f32::from_bits(got) as i32 };
                assert_eq!(got, dot(row, column), "{} row {row} column {column}", self.name());
            }
        }
    }
}

const PAIRS: [(&str, Element, Element); 16] = [
    ("f32", BF16, BF16),
    ("f32", F16, F16),
    ("f16", F16, F16),
    ("f32", TF32, TF32),
    ("s32", S8, S8),
    ("s32", S8, U8),
    ("s32", U8, S8),
    ("s32", U8, U8),
    ("f32", E4M3, E4M3),
    ("f32", E4M3, E5M2),
    ("f32", E5M2, E4M3),
    ("f32", E5M2, E5M2),
    ("f16", E4M3, E4M3),
    ("f16", E4M3, E5M2),
    ("f16", E5M2, E4M3),
    ("f16", E5M2, E5M2),
];

/// "Register Fragments": A may come from registers, laid out as for `mma.sync`; D is f32, s32, or f16 in pairs. "imm-scale-a",
/// "imm-scale-b": 1 or -1, of floats; "scale-d": whether D is added.
#[test]
fn each_type_from_memory_and_from_registers() {
    for (d, a, b) in PAIRS {
        for (registers, adds) in [(false, false), (true, true)] {
            let signs: &[[i32; 2]] =
                if d == "s32" { &[[1, 1]] } else { &[[1, 1], [-1, 1], [1, -1], [-1, -1]] };
            for &signs in signs {
                Sum { n: 16, d, a, b, registers, signs, adds }.check();
            }
        }
    }
}

/// "Matrix Shape": N is every multiple of 8 from 8 to 256; of integers 8, 16, 24, 32 and then every multiple of 16.
#[test]
fn each_width() {
    for (d, a, b) in [PAIRS[0], PAIRS[2], PAIRS[3], PAIRS[4], PAIRS[8]] {
        for n in (8..=256).step_by(8) {
            let one = Sum { n, d, a, b, registers: false, signs: [1, 1], adds: true };
            if d == "s32" && n > 24 && n % 16 != 0 {
                assert!(ptx_emulator::Module::parse(&one.text()).is_err(), "{}", one.name());
            } else {
                one.check();
            }
        }
    }
}

/// What the tables of "wgmma.mma_async" do not have is an error that names it.
#[test]
fn shapes_and_types_that_do_not_exist() {
    let good = Sum { n: 16, d: "f32", a: BF16, b: BF16, registers: false, signs: [1, 1], adds: true }.text();
    for form in [
        "m64n16k16.f16.bf16.bf16",
        "m64n16k16.f32.bf16.f16",
        "m64n16k8.f32.bf16.bf16",
        "m64n12k16.f32.bf16.bf16",
        "m64n264k16.f32.bf16.bf16",
        "m64n0k16.f32.bf16.bf16",
        "m32n16k16.f32.bf16.bf16",
        "m64n16k32.s32.s8.e4m3",
        "m64n16k256.s32.b1.b1.and.popc",
        "m64n16k16.f32.e4m3.e4m3",
    ] {
        let text = good.replace("m64n16k16.f32.bf16.bf16", form);
        let error = ptx_emulator::Module::parse(&text).expect_err(form);
        assert!(error.line > 10 && error.to_string().len() > 12, "{form}: {error}");
    }
}

/// ".satfinite": results of integers clamp; without it they wrap.
#[test]
fn integers_saturate_when_asked() {
    let one = Sum { n: 8, d: "s32", a: U8, b: U8, registers: false, signs: [1, 1], adds: true };
    for (suffix, start, expected) in [
        ("", i32::MAX, i32::MAX.wrapping_add(288)),
        (".satfinite", i32::MAX, i32::MAX),
        (".satfinite", 5, 293),
    ] {
        let text = one
            .text()
            .replace("mov.b32 %r20, 2;", &format!("mov.b32 %r20, {start};"))
            .replace(".s32.u8.u8 ", &format!(".s32.u8.u8{suffix} "));
        let device = Device::new(Gpu::h100(), Options { threads: 1, ..Options::default() });
        let memory = device.memory();
        let (input, output) = (memory.alloc(BYTES as u64).unwrap(), memory.alloc(2048).unwrap());
        // All elements are 3.
        memory.fill(input, BYTES as u64, 3).unwrap();
        let loaded = device.load(&crate::support::module(&text)).unwrap();
        let args: Vec<u8> = [input, output].iter().flat_map(|p| p.to_le_bytes()).collect();
        let report = device.launch(&loaded, "k", &LaunchConfig::new(1, 128), &args).unwrap();
        assert_eq!(report.findings, vec![], "{}", report.to_text());
        let mut word = [0; 4];
        memory.read(output, &mut word).unwrap();
        assert_eq!(i32::from_le_bytes(word), expected, "{suffix} from {start}");
    }
}
