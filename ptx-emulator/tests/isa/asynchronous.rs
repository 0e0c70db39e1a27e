//! What sm_90a adds: barriers that count bytes, bulk copies, tensors, clusters. Written from the PTX ISA's text: each
//! test names the section, checks a result, and that what is forbidden there is found.

use ptx_emulator::tensor_map::TensorMap;
use ptx_emulator::{Device, FindingKind, Gpu, LaunchConfig, Module, Options, Order, Report};

pub const ALL: &[fn()] = &[
    a_barrier_orders_what_came_before_its_arrivals,
    arrivals_that_lack_or_abound_are_found,
    bulk_copies_move_bytes_once_waited_for,
    copies_of_threads_arrive_at_a_barrier,
    a_box_of_a_tensor_is_swizzled_and_filled,
    blocks_of_a_cluster_share_memory_after_its_barrier,
    a_multicast_reaches_the_blocks_of_its_mask,
    a_block_may_spin_on_a_flag_of_another,
    impossible_copies_and_products_are_refused,
];

/// A kernel of sm_90a with the arguments in %rd0, %rd1, …
pub fn kernel(params: usize, body: &str) -> String {
    let list: Vec<_> = (0..params).map(|k| format!(".param .u64 p{k}")).collect();
    let loads: String = (0..params).map(|k| format!("ld.param.u64 %rd{k}, [p{k}];\n")).collect();
    format!(
        ".version 8.0\n.target sm_90a\n.address_size 64\n.visible .entry k({}) {{\n.reg .pred %p<8>;\n\
         .reg .b32 %r<64>;\n.reg .b64 %rd<32>;\n.reg .f32 %f<256>;\n.shared .align 1024 .b8 s[16384];\n\
         .shared .align 8 .b64 bar;\n{loads}mov.u32 %r0, %tid.x;\n{body}\nret;\n}}\n",
        list.join(", ")
    )
}

pub struct Case {
    device: Device,
    pub args: Vec<u8>,
    buffers: Vec<u64>,
}

impl Case {
    pub fn new(order: Order) -> Case {
        let options = Options { order, threads: 1, patience: 200_000, ..Options::default() };
        Case { device: Device::new(Gpu::h100(), options), args: Vec::new(), buffers: Vec::new() }
    }

    pub fn buffer(mut self, words: &[u32]) -> Case {
        let address = self.device.memory().alloc(words.len() as u64 * 4).unwrap();
        self.device.memory().write(address, bytemuck::cast_slice(words)).unwrap();
        self.args.extend(address.to_le_bytes());
        self.buffers.push(address);
        self
    }

    /// A tensor map in device memory, of a buffer before it.
    pub fn map(mut self, make: impl Fn(u64) -> TensorMap) -> Case {
        let words = make(*self.buffers.last().unwrap()).encode();
        let address = self.device.memory().alloc(128).unwrap();
        self.device.memory().write(address, bytemuck::cast_slice(&words)).unwrap();
        self.args.extend(address.to_le_bytes());
        self
    }

    pub fn launch(&self, ptx: &str, config: &LaunchConfig) -> Report {
        let module = crate::support::module(ptx);
        let loaded = self.device.load(&module).unwrap();
        self.device.launch(&loaded, "k", config, &self.args).unwrap()
    }

    pub fn run(&self, ptx: &str, block: u32) -> Report {
        self.launch(ptx, &LaunchConfig::new(1, block))
    }

    pub fn words(&self, buffer: usize, n: usize) -> Vec<u32> {
        let mut words = vec![0u32; n];
        self.device.memory().read(self.buffers[buffer], bytemuck::cast_slice_mut(&mut words)).unwrap();
        words
    }
}

pub const ORDERS: [Order; 3] = [Order::Forward, Order::Reverse, Order::Random(3)];

pub fn kinds(report: &Report) -> Vec<FindingKind> {
    let mut kinds: Vec<_> = report.findings.iter().map(|f| f.kind).collect();
    kinds.sort_by_key(|k| format!("{k:?}"));
    kinds.dedup();
    kinds
}

pub fn clean(report: &Report) {
    assert_eq!(report.findings, vec![], "{}", report.to_text());
}

/// Thread 0 initialises the barrier for `count` arrivals, and all wait for that.
pub fn init(count: u32) -> String {
    format!(
        "mov.u32 %r1, bar; setp.eq.u32 %p0, %r0, 0; @%p0 mbarrier.init.shared::cta.b64 [%r1], {count};\n\
         bar.sync 0;\n"
    )
}

/// Spins until the phase of a parity has ended.
pub fn wait(label: &str, parity: u32) -> String {
    format!("{label}: mbarrier.try_wait.parity.shared::cta.b64 %p7, [%r1], {parity};\n@!%p7 bra {label};\n")
}

/// "mbarrier.arrive", "mbarrier.test_wait": what arrived threads wrote is seen by those who waited, phase after phase.
#[test]
fn a_barrier_orders_what_came_before_its_arrivals() {
    let step = |out: u32, parity: u32| {
        format!(
            "mbarrier.arrive.shared::cta.b64 %rd8, [%r1];\n{}\
             xor.b32 %r4, %r3, 508; mov.u32 %r5, s; add.s32 %r5, %r5, %r4; ld.shared.u32 %r6, [%r5];\n\
             add.s64 %rd10, %rd0, %rd9; st.global.u32 [%rd10+{out}], %r6;\n",
            wait(&format!("W{out}"), parity)
        )
    };
    let body = |first: &str| {
        format!(
            "{}shl.b32 %r3, %r0, 2; cvt.u64.u32 %rd9, %r3; mov.u32 %r2, s; add.s32 %r2, %r2, %r3;\n\
             st.shared.u32 [%r2], %r0;\n{first}\
             mbarrier.arrive.shared::cta.b64 %rd8, [%r1];\n{}\
             st.shared.u32 [%r2], %r3;\n{}",
            init(128),
            wait("W9", 1),
            step(512, 0)
        )
    };
    for order in ORDERS {
        let case = Case::new(order).buffer(&[0; 256]);
        clean(&case.run(&kernel(1, &body(&step(0, 0))), 128));
        let expected: Vec<u32> = (0..128).map(|t| 127 - t).chain((0..128).map(|t| (127 - t) * 4)).collect();
        assert_eq!(case.words(0, 256), expected);
    }
}

/// "mbarrier": a wait that no arrival precedes never ends, and an arrival too many is undefined.
#[test]
fn arrivals_that_lack_or_abound_are_found() {
    let lacking = format!("{}{}", init(33), "mbarrier.arrive.shared.b64 _, [%r1];\n") + &wait("W", 0);
    let report = Case::new(Order::Forward).run(&kernel(0, &lacking), 32);
    assert_eq!(kinds(&report), [FindingKind::Deadlock]);
    let more = format!("{}mbarrier.arrive.shared.b64 _, [%r1], 2;", init(1));
    assert_eq!(kinds(&Case::new(Order::Forward).run(&kernel(0, &more), 1)), [FindingKind::Barrier]);
    let none = "mov.u32 %r1, bar; mbarrier.arrive.shared.b64 _, [%r1];";
    assert_eq!(kinds(&Case::new(Order::Forward).run(&kernel(0, none), 1)), [FindingKind::Barrier]);
    // Nothing orders the first arrivals after the initialisation.
    let early = init(64).replace("bar.sync 0;", "mbarrier.arrive.shared.b64 _, [%r1];");
    assert!(kinds(&Case::new(Order::Forward).run(&kernel(0, &early), 64)).contains(&FindingKind::Race));
}

/// 1024 bytes from p0 to p1 through shared memory, both ways in bulk.
fn through(wait_in: &str, fence: &str, wait_out: &str) -> String {
    let body = format!(
        "{}\
         @%p0 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r1], 1024;\n\
         mov.u32 %r2, s;\n\
         @%p0 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r2], [%rd0], 1024, [%r1];\n\
         {wait_in}\
         shl.b32 %r3, %r0, 2; add.s32 %r3, %r3, %r2; ld.shared.u32 %r4, [%r3]; add.s32 %r4, %r4, 1;\n\
         st.shared.u32 [%r3], %r4;\n{fence}\nbar.sync 0;\n\
         @!%p0 bra END;\n\
         cp.async.bulk.global.shared::cta.bulk_group [%rd1], [%r2], 1024;\n\
         cp.async.bulk.commit_group;\n{wait_out}\nEND:",
        init(1)
    );
    kernel(2, &body)
}

/// "cp.async.bulk", "fence.proxy.async", "cp.async.bulk.wait_group".
#[test]
fn bulk_copies_move_bytes_once_waited_for() {
    let input: Vec<u32> = (0..256).map(|k| k * 7).collect();
    let (fence, out) = ("fence.proxy.async.shared::cta;", "cp.async.bulk.wait_group.read 0;");
    for order in ORDERS {
        let case = Case::new(order).buffer(&input).buffer(&[0; 256]);
        clean(&case.run(&through(&wait("W", 0), fence, out), 256));
        assert_eq!(case.words(1, 256), input.iter().map(|x| x + 1).collect::<Vec<_>>());
    }
    let case = || Case::new(Order::Forward).buffer(&input).buffer(&[0; 256]);
    let unwaited = case().run(&through("bar.sync 0;\n", fence, out), 256);
    assert!(kinds(&unwaited).contains(&FindingKind::InFlight), "{}", unwaited.to_text());
    let unfenced = case().run(&through(&wait("W", 0), "", out), 256);
    assert_eq!(kinds(&unfenced), [FindingKind::Race], "{}", unfenced.to_text());
    let left = case().run(&through(&wait("W", 0), fence, ""), 256);
    assert_eq!(kinds(&left), [FindingKind::InFlight], "{}", left.to_text());
    let reused = format!("st.shared.u32 [%r3], 0;\n{out}");
    let reused = case().run(&through(&wait("W", 0), fence, &reused), 256);
    assert_eq!(kinds(&reused), [FindingKind::Race], "{}", reused.to_text());
}

/// "cp.async.mbarrier.arrive": the barrier's phase ends when the copies of all threads are done.
#[test]
fn copies_of_threads_arrive_at_a_barrier() {
    let body = |wait: &str| {
        format!(
            "{}shl.b32 %r3, %r0, 4; cvt.u64.u32 %rd9, %r3; add.s64 %rd2, %rd0, %rd9; mov.u32 %r2, s;\n\
             add.s32 %r4, %r2, %r3; cp.async.cg.shared.global [%r4], [%rd2], 16;\n\
             cp.async.mbarrier.arrive.noinc.shared.b64 [%r1];\n{wait}\
             xor.b32 %r5, %r3, 240; add.s32 %r5, %r5, %r2; ld.shared.u32 %r6, [%r5];\n\
             shl.b32 %r7, %r0, 2; cvt.u64.u32 %rd9, %r7; add.s64 %rd3, %rd1, %rd9; st.global.u32 [%rd3], %r6;",
            init(64)
        )
    };
    let input: Vec<u32> = (0..256).collect();
    for order in ORDERS {
        let case = Case::new(order).buffer(&input).buffer(&[0; 64]);
        clean(&case.run(&kernel(2, &body(&wait("W", 0))), 64));
        assert_eq!(case.words(1, 64), (0..64).map(|t| (t ^ 15) * 4).collect::<Vec<_>>());
    }
    // Without .noinc the arrival is one more than the barrier was initialised for, so that one of the threads' own ends the phase.
    let counted = |text: String| {
        text.replace(
            "arrive.noinc.shared.b64 [%r1];",
            "arrive.shared.b64 [%r1]; mbarrier.arrive.shared.b64 _, [%r1];",
        )
    };
    let case = Case::new(Order::Forward).buffer(&input).buffer(&[0; 64]);
    clean(&case.run(&kernel(2, &counted(body(&wait("W", 0)))), 64));
    assert_eq!(case.words(1, 64), (0..64).map(|t| (t ^ 15) * 4).collect::<Vec<_>>());
    let case = Case::new(Order::Forward).buffer(&input).buffer(&[0; 64]);
    assert!(kinds(&case.run(&kernel(2, &body("")), 64)).contains(&FindingKind::InFlight));
}

/// "Tensors", "Swizzling Modes": a box of 8 x 32 words with one corner outside, whose rows of 16 bytes change places.
#[test]
fn a_box_of_a_tensor_is_swizzled_and_filled() {
    let (rows, columns) = (12u32, 40u32);
    let input: Vec<u32> = (0..rows * columns).map(|k| k + 1).collect();
    let body = format!(
        "{}mov.u32 %r2, s; mov.u32 %r10, 12; mov.u32 %r11, 6;\n\
         @%p0 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r1], 1024;\n\
         @%p0 cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes \
         [%r2], [%rd1, {{%r10, %r11}}], [%r1];\n{}\
         shl.b32 %r3, %r0, 2; cvt.u64.u32 %rd9, %r3; add.s64 %rd9, %rd2, %rd9;\n\
         add.s32 %r3, %r3, %r2; ld.shared.u32 %r4, [%r3]; st.global.u32 [%rd9], %r4;",
        init(1),
        wait("W", 0)
    );
    let map = |address| {
        TensorMap::tiled(2, address, &[40, 12], &[160], &[32, 8], &[1, 1], 0, 3, 0, 0).expect("a sound map")
    };
    let case = Case::new(Order::Forward).buffer(&input).map(map).buffer(&[0; 256]);
    clean(&case.run(&kernel(3, &body), 256));
    let out = case.words(1, 256);
    for row in 0..8 {
        for column in 0..32 {
            let (x, y) = (column + 12, row + 6);
            let expected = if x < columns && y < rows { input[(y * columns + x) as usize] } else { 0 };
            // Chunk c of row r of a 128-byte swizzle is found at chunk c ^ (r mod 8).
            let chunk = (column / 4) ^ (row % 8);
            assert_eq!(
                out[(row * 32 + chunk * 4 + column % 4) as usize],
                expected,
                "row {row} column {column}"
            );
        }
    }
}

/// "mapa", "barrier.cluster", "%cluster_ctarank": blocks of a cluster read each other's shared memory.
fn neighbours(arrive: &str) -> String {
    kernel(
        1,
        &format!(
            "mov.u32 %r1, %cluster_ctarank; mov.u32 %r2, %cluster_nctarank; shl.b32 %r3, %r0, 2;\n\
             mov.u32 %r4, s; add.s32 %r4, %r4, %r3; mad.lo.s32 %r5, %r1, 100, %r0; st.shared.u32 [%r4], %r5;\n\
             {arrive}\n\
             add.s32 %r6, %r1, 1; rem.u32 %r6, %r6, %r2; mapa.shared::cluster.u32 %r7, %r4, %r6;\n\
             ld.shared::cluster.u32 %r8, [%r7];\n\
             shl.b32 %r9, %r1, 7; add.s32 %r9, %r9, %r3; cvt.u64.u32 %rd1, %r9; add.s64 %rd1, %rd0, %rd1;\n\
             st.global.u32 [%rd1], %r8;\n\
             barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;"
        ),
    )
}

#[test]
fn blocks_of_a_cluster_share_memory_after_its_barrier() {
    let config = LaunchConfig { cluster: [4, 1, 1], ..LaunchConfig::new(4, 32) };
    for order in ORDERS {
        let case = Case::new(order).buffer(&[0; 128]);
        let barrier = "barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;";
        clean(&case.launch(&neighbours(barrier), &config));
        let expected: Vec<u32> = (0..4).flat_map(|b| (0..32).map(move |t| (b + 1) % 4 * 100 + t)).collect();
        assert_eq!(case.words(0, 128), expected);
    }
    let report = Case::new(Order::Forward).buffer(&[0; 128]);
    let relaxed = "barrier.cluster.arrive.relaxed.aligned; barrier.cluster.wait.aligned;";
    assert_eq!(kinds(&report.launch(&neighbours(relaxed), &config)), [FindingKind::Race]);
}

/// "cp.async.bulk": `.multicast::cluster` writes to the same offset of each block of the mask and signals its barrier.
#[test]
fn a_multicast_reaches_the_blocks_of_its_mask() {
    let body = format!(
        "{}mov.u32 %r2, s; mov.u32 %r3, %cluster_ctarank;\n\
         @%p0 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r1], 128;\n\
         barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;\n\
         setp.eq.and.u32 %p1, %r3, 0, %p0; mov.b32 %r9, 3; .reg .b16 %h0; cvt.u16.u32 %h0, %r9;\n\
         @%p1 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster \
         [%r2], [%rd0], 128, [%r1], %h0;\n{}\
         shl.b32 %r4, %r0, 2; add.s32 %r5, %r2, %r4; ld.shared.u32 %r6, [%r5];\n\
         shl.b32 %r7, %r3, 7; add.s32 %r7, %r7, %r4; cvt.u64.u32 %rd2, %r7; add.s64 %rd2, %rd1, %rd2;\n\
         st.global.u32 [%rd2], %r6;\n\
         barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;",
        init(1),
        wait("W", 0)
    );
    let input: Vec<u32> = (5..37).collect();
    let case = Case::new(Order::Forward).buffer(&input).buffer(&[0; 64]);
    let config = LaunchConfig { cluster: [2, 1, 1], ..LaunchConfig::new(2, 32) };
    clean(&case.launch(&kernel(2, &body), &config));
    assert_eq!(case.words(1, 64), [input.clone(), input].concat());
}

/// "Memory Consistency Model": a block that spins on another's flag sees what was written before the fence, and
/// without the fence the two race.
#[test]
fn a_block_may_spin_on_a_flag_of_another() {
    let body = |fence: &str| {
        kernel(
            2,
            &format!(
                "mov.u32 %r1, %ctaid.x; setp.ne.u32 %p0, %r1, 0; @%p0 bra WRITE;\n\
                 SPIN: ld.relaxed.gpu.global.u32 %r2, [%rd0]; setp.eq.u32 %p1, %r2, 0; @%p1 bra SPIN;\n\
                 {fence}\nld.global.u32 %r3, [%rd1]; add.s32 %r3, %r3, 1; st.global.u32 [%rd1+4], %r3; bra END;\n\
                 WRITE: st.global.u32 [%rd1], 41;\n{fence}\nst.relaxed.gpu.global.u32 [%rd0], 1;\nEND:"
            ),
        )
    };
    for order in ORDERS {
        for threads in [1, 2] {
            let mut case = Case::new(order).buffer(&[0]).buffer(&[0, 0]);
            case.device.options_mut().threads = threads;
            clean(&case.launch(&body("fence.acq_rel.gpu;"), &LaunchConfig::new(2, 1)));
            assert_eq!(case.words(1, 2), [41, 42]);
            let mut case = Case::new(order).buffer(&[0]).buffer(&[0, 0]);
            case.device.options_mut().threads = threads;
            let report = case.launch(&body(""), &LaunchConfig::new(2, 1));
            assert_eq!(kinds(&report), [FindingKind::Race]);
        }
    }
}

/// Sizes, boxes and descriptors that cannot be are findings, or errors of the text; never a crash.
#[test]
fn impossible_copies_and_products_are_refused() {
    let copy = |operands: &str| {
        let load = "mbarrier::complete_tx::bytes";
        let body = format!("{}@%p0 cp.async.bulk.shared::cluster.global.{load} {operands};", init(1));
        Case::new(Order::Forward).buffer(&[0; 64]).run(&kernel(1, &body), 1)
    };
    assert_eq!(kinds(&copy("[s], [%rd0], 0xFFFFFFF0, [%r1]")), [FindingKind::Bounds]);
    assert_eq!(kinds(&copy("[s], [%rd0], 512, [%r1]")), [FindingKind::Bounds]);
    assert_eq!(kinds(&copy("[s], [%rd0], 24, [%r1]")), [FindingKind::Misaligned]);
    assert_eq!(kinds(&copy("[s+8], [%rd0], 16, [%r1]")), [FindingKind::Misaligned]);

    let tile = "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes";
    let body = format!("{}{tile} [s], [%rd1, {{%r0, %r0}}], [%r1];", init(1));
    let map = |rows| {
        move |address| {
            TensorMap::tiled(2, address, &[8, 8], &[32], &[256, rows], &[1, 1], 0, 0, 0, 0).unwrap()
        }
    };
    let case = Case::new(Order::Forward).buffer(&[0; 64]).map(map(256));
    assert_eq!(kinds(&case.run(&kernel(2, &body), 1)), [FindingKind::Bounds]);
    let no_map = Case::new(Order::Forward).buffer(&[0; 64]).buffer(&[0; 64]);
    assert_eq!(kinds(&no_map.run(&kernel(2, &body), 1)), [FindingKind::Trap]);

    let product = |d: &str, k: u32| {
        let form = format!("wgmma.mma_async.sync.aligned.m64n8k{k}.f32.bf16.bf16");
        kernel(1, &format!("{form} {{{d}}}, %rd0, %rd0, %p0, 1, 1, 0, 0;"))
    };
    for (d, k) in [("_, %f1, %f2, %f3", 16), ("%f0, %f1", 16), ("%f0, %f1, %f2, %f3", 8)] {
        assert!(Module::parse(&product(d, k)).is_err(), "{d} k{k}");
    }
    let wild = Case::new(Order::Forward).buffer(&[0; 64]);
    let mut wild = wild.run(&product("%f0, %f1, %f2, %f3", 16).replace("%rd0, %rd0,", "-1, -1,"), 32);
    wild.findings.retain(|f| f.kind == FindingKind::Bounds);
    assert!(!wild.findings.is_empty());
}
