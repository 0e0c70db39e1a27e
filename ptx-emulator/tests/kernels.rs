//! Whole kernels, written by hand for these tests: each checks a result, or that a check finds what is wrong.

use ptx_emulator::{
    ApproximationMode, Checks, CudaError, Device, FindingKind, Gpu, LaunchConfig, Module, Options, Order,
    Progress, Report,
};

const HEAD: &str = ".version 7.0\n.target sm_80\n.address_size 64\n";

/// A kernel with `.param .u64` arguments p0, p1, … loaded into %rd0, %rd1, …
fn kernel(params: usize, body: &str) -> String {
    let list: Vec<_> = (0..params).map(|k| format!(".param .u64 p{k}")).collect();
    let loads: String = (0..params).map(|k| format!("ld.param.u64 %rd{k}, [p{k}];\n")).collect();
    format!(
        "{HEAD}.visible .entry k({}) {{\n.reg .pred %p<8>;\n.reg .b16 %h<16>;\n.reg .b32 %r<32>;\n.reg .f32 %f<32>;\n\
         .reg .b64 %rd<32>;\n.reg .f64 %d<16>;\n{loads}{body}\nret;\n}}\n",
        list.join(", ")
    )
}

struct Case {
    device: Device,
    args: Vec<u8>,
    buffers: Vec<u64>,
}

impl Case {
    fn new(options: Options) -> Case {
        Case { device: Device::new(Gpu::a100(), options), args: Vec::new(), buffers: Vec::new() }
    }

    fn buffer(mut self, words: &[u32]) -> Case {
        let address = self.device.memory().alloc(words.len() as u64 * 4).unwrap();
        let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        self.device.memory().write(address, &bytes).unwrap();
        self.args.extend(address.to_le_bytes());
        self.buffers.push(address);
        self
    }

    fn run(&self, ptx: &str, grid: u32, block: u32) -> Report {
        let module = Module::parse(ptx).unwrap_or_else(|e| panic!("{e}\n{ptx}"));
        let loaded = self.device.load(&module).unwrap();
        self.device.launch(&loaded, "k", &LaunchConfig::new(grid, block), &self.args).unwrap()
    }

    fn words(&self, buffer: usize, n: usize) -> Vec<u32> {
        let mut bytes = vec![0; n * 4];
        self.device.memory().read(self.buffers[buffer], &mut bytes).unwrap();
        bytes.chunks(4).map(|c| u32::from_le_bytes(c.try_into().unwrap())).collect()
    }
}

fn orders() -> [Options; 3] {
    [Order::Forward, Order::Reverse, Order::Random(7)].map(|order| Options { order, ..Options::default() })
}

fn kinds(report: &Report) -> Vec<FindingKind> {
    let mut kinds: Vec<_> = report.findings.iter().map(|f| f.kind).collect();
    kinds.dedup();
    kinds
}

/// out[tid] = tree sum over shared memory; `barrier` stands between the steps.
fn tree_sum(barrier: &str) -> String {
    kernel(
        2,
        &format!(
            ".shared .align 4 .b8 s[1024];
mov.u32 %r0, %tid.x; shl.b32 %r1, %r0, 2; cvt.u64.u32 %rd3, %r1; add.s64 %rd4, %rd0, %rd3;
ld.global.u32 %r2, [%rd4]; mov.u32 %r3, s; add.s32 %r4, %r3, %r1; st.shared.u32 [%r4], %r2;
bar.sync 0;
mov.u32 %r5, 128;
LOOP: setp.ge.u32 %p0, %r0, %r5; @%p0 bra SKIP;
shl.b32 %r6, %r5, 2; add.s32 %r7, %r4, %r6; ld.shared.u32 %r8, [%r7]; ld.shared.u32 %r9, [%r4];
add.s32 %r10, %r8, %r9; st.shared.u32 [%r4], %r10;
SKIP: {barrier}
shr.u32 %r5, %r5, 1; setp.ne.u32 %p1, %r5, 0; @%p1 bra LOOP;
setp.ne.u32 %p2, %r0, 0; @%p2 bra END; ld.shared.u32 %r11, [s]; st.global.u32 [%rd1], %r11;
END:"
        ),
    )
}

#[test]
fn a_tree_sum_over_shared_memory_is_right_in_every_order() {
    let input: Vec<u32> = (0..256).map(|k| k * 3 + 1).collect();
    for options in orders() {
        let case = Case::new(options).buffer(&input).buffer(&[0]);
        let report = case.run(&tree_sum("bar.sync 0;"), 1, 256);
        assert_eq!(report.findings, vec![], "{}", report.to_text());
        assert_eq!(case.words(1, 1)[0], input.iter().sum::<u32>());
    }
}

#[test]
fn the_same_sum_without_its_barrier_is_a_race() {
    let input = vec![1; 256];
    for options in orders() {
        let case = Case::new(options).buffer(&input).buffer(&[0]);
        assert!(kinds(&case.run(&tree_sum(""), 1, 256)).contains(&FindingKind::Race));
    }
    // Without the check, nothing is said.
    let mut checks = Checks::default();
    assert!(checks.set("race", false) && checks.set("lane-race", false));
    let case = Case::new(Options { checks, ..Options::default() }).buffer(&input).buffer(&[0]);
    assert_eq!(kinds(&case.run(&tree_sum(""), 1, 256)), vec![]);
}

#[test]
fn an_access_past_the_end_is_found_and_maps_to_the_error_of_a_gpu() {
    let body = "mov.u32 %r0, %tid.x; mul.wide.u32 %rd2, %r0, 4; add.s64 %rd3, %rd0, %rd2; st.global.u32 [%rd3], %r0;";
    let case = Case::new(Options::default()).buffer(&[0; 31]);
    let report = case.run(&kernel(1, body), 1, 32);
    assert_eq!(report.error(), Some(CudaError::IllegalAddress));
    let f = &report.findings[0];
    assert_eq!((f.kind, f.thread, f.line), (FindingKind::Bounds, [31, 0, 0], 12));
}

#[test]
fn freed_null_misaligned_and_uninitialised_accesses_are_told_apart() {
    let load = kernel(1, "ld.global.u32 %r0, [%rd0]; ld.global.u64 %rd1, [%rd0+4];");
    let mut case = Case::new(Options::default()).buffer(&[1, 2, 3, 4]);
    assert_eq!(kinds(&case.run(&load, 1, 1)), vec![FindingKind::Misaligned]);
    case.device.memory().free(case.buffers[0]).unwrap();
    assert_eq!(kinds(&case.run(&load, 1, 1)), vec![FindingKind::Freed]);
    case.args = vec![0; 8];
    assert_eq!(kinds(&case.run(&load, 1, 1)), vec![FindingKind::Bounds]);
    let fresh = case.device.memory().alloc(64).unwrap();
    case.args = fresh.to_le_bytes().to_vec();
    let one = kernel(1, "ld.global.u32 %r0, [%rd0];");
    assert_eq!(kinds(&case.run(&one, 1, 1)), vec![FindingKind::Uninitialised]);
}

#[test]
fn lanes_that_split_meet_again_and_loops_may_differ_in_length() {
    // out[t] = sum of 1..=t, by a loop of t rounds, then a shuffle by all lanes.
    let body = "mov.u32 %r0, %tid.x; mov.u32 %r1, 0; mov.u32 %r2, %r0;
L: setp.eq.u32 %p0, %r2, 0; @%p0 bra D; add.u32 %r1, %r1, %r2; sub.u32 %r2, %r2, 1; bra L;
D: shfl.sync.idx.b32 %r3|%p1, %r1, 31, 31, -1; sub.u32 %r4, %r3, %r1;
mul.wide.u32 %rd2, %r0, 4; add.s64 %rd3, %rd0, %rd2; st.global.u32 [%rd3], %r4;";
    for options in orders() {
        let case = Case::new(options).buffer(&[0; 32]);
        let report = case.run(&kernel(1, body), 1, 32);
        assert_eq!(report.findings, vec![], "{}", report.to_text());
        let expected: Vec<u32> = (0..32).map(|t| 31 * 32 / 2 - t * (t + 1) / 2).collect();
        assert_eq!(case.words(0, 32), expected);
    }
}

#[test]
fn a_function_call_recurses_and_returns_its_value() {
    let ptx = format!(
        "{HEAD}.func (.param .b32 out) fib(.param .b32 n) {{
.reg .pred %p<2>; .reg .b32 %r<8>;
ld.param.u32 %r0, [n]; setp.lt.u32 %p0, %r0, 2; @%p0 bra BASE;
sub.u32 %r1, %r0, 1; {{ .param .b32 a; .param .b32 b; st.param.b32 [a], %r1; call.uni (b), fib, (a); ld.param.b32 %r2, [b]; }}
sub.u32 %r1, %r0, 2; {{ .param .b32 a; .param .b32 b; st.param.b32 [a], %r1; call.uni (b), fib, (a); ld.param.b32 %r3, [b]; }}
add.u32 %r4, %r2, %r3; st.param.b32 [out], %r4; ret;
BASE: st.param.b32 [out], %r0; ret; }}
.visible .entry k(.param .u64 p) {{
.reg .b32 %r<4>; .reg .b64 %rd<4>;
ld.param.u64 %rd0, [p]; mov.u32 %r0, %tid.x;
{{ .param .b32 a; .param .b32 b; st.param.b32 [a+0], %r0; call.uni (b), fib, (a); ld.param.b32 %r1, [b+0]; }}
mul.wide.u32 %rd1, %r0, 4; add.s64 %rd2, %rd0, %rd1; st.global.u32 [%rd2], %r1; ret; }}"
    );
    let case = Case::new(Options::default()).buffer(&[0; 16]);
    let report = case.run(&ptx, 1, 16);
    assert_eq!(report.findings, vec![], "{}", report.to_text());
    assert_eq!(case.words(0, 16), [0, 1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377, 610]);
}

#[test]
fn endless_recursion_ends_with_a_finding() {
    let ptx = format!("{HEAD}.func f() {{ call f; ret; }} .visible .entry k() {{ call f; ret; }}");
    let report = Case::new(Options::default()).run(&ptx, 1, 32);
    assert_eq!(kinds(&report), vec![FindingKind::Resource]);
}

/// Blocks count up, spin until all have, and then read what the others wrote: a barrier over the grid.
fn grid_barrier(before: &str, after: &str) -> String {
    kernel(
        3,
        &format!(
            "mov.u32 %r0, %ctaid.x; mov.u32 %r9, %nctaid.x; mul.wide.u32 %rd3, %r0, 4; add.s64 %rd4, %rd0, %rd3;
add.u32 %r1, %r0, 100; st.global.u32 [%rd4], %r1;
{before} atom.global.add.u32 %r2, [%rd1], 1;
SPIN: ld.volatile.global.u32 %r3, [%rd1]; setp.lt.u32 %p0, %r3, %r9; @%p0 bra SPIN;
{after} add.u32 %r4, %r0, 1; rem.u32 %r4, %r4, %r9; mul.wide.u32 %rd5, %r4, 4; add.s64 %rd6, %rd0, %rd5;
ld.global.u32 %r5, [%rd6]; add.s64 %rd7, %rd2, %rd3; st.global.u32 [%rd7], %r5;"
        ),
    )
}

#[test]
fn a_barrier_over_the_grid_ends_and_is_a_race_without_its_fence() {
    for mut options in orders() {
        for threads in [1, 2] {
            options.threads = threads;
            let case = Case::new(options.clone()).buffer(&[0; 8]).buffer(&[0]).buffer(&[0; 8]);
            let report = case.run(&grid_barrier("membar.gl;", "membar.gl;"), 8, 1);
            assert_eq!(report.findings, vec![], "{}", report.to_text());
            assert_eq!(case.words(2, 8), [101, 102, 103, 104, 105, 106, 107, 100]);
            for (before, after) in [("", "membar.gl;"), ("membar.gl;", ""), ("membar.cta;", "membar.gl;")] {
                let case = Case::new(options.clone()).buffer(&[0; 8]).buffer(&[0]).buffer(&[0; 8]);
                let report = case.run(&grid_barrier(before, after), 8, 1);
                assert!(kinds(&report).contains(&FindingKind::Race), "{before} {after}");
            }
        }
    }
}

#[test]
fn a_spin_on_what_never_comes_is_a_deadlock() {
    let options = Options { patience: 1_000_000, ..Options::default() };
    let body = "S: ld.volatile.global.u32 %r0, [%rd0]; setp.eq.u32 %p0, %r0, 0; @%p0 bra S;";
    let report = Case::new(options).buffer(&[0]).run(&kernel(1, body), 2, 32);
    assert_eq!(kinds(&report), vec![FindingKind::Deadlock]);
    assert_eq!(report.error(), Some(CudaError::LaunchTimeout));
}

#[test]
fn barriers_and_shuffles_that_not_all_reach_are_found() {
    let split = |first: &str, second: &str| {
        let body = format!(
            "mov.u32 %r0, %tid.x; setp.lt.u32 %p0, %r0, 16; @%p0 bra B; {first} bra.uni E; B: {second} E: mov.u32 %r1, 1;"
        );
        kinds(&Case::new(Options::default()).run(&kernel(0, &body), 1, 32))
    };
    assert!(split("bar.sync 0;", "bar.sync 1;").contains(&FindingKind::Barrier));
    assert!(split("bar.sync 0;", "bar.warp.sync -1;").contains(&FindingKind::Barrier));
    let shuffle = "shfl.sync.bfly.b32 %r1, %r0, 1, 31, -1;";
    assert!(split(shuffle, "bar.warp.sync -1;").contains(&FindingKind::Shuffle));
    assert!(split(shuffle, "exit;").is_empty(), "lanes that have exited are not waited for");
    let reads_gone = "shfl.sync.idx.b32 %r1, %r0, 3, 31, -1;";
    assert!(split(reads_gone, "exit;").contains(&FindingKind::Shuffle));
}

#[test]
fn lanes_that_talk_through_shared_memory_need_a_warp_barrier() {
    let body = |barrier: &str| {
        kernel(
            1,
            &format!(
                ".shared .align 4 .b8 s[128]; mov.u32 %r0, %tid.x; shl.b32 %r1, %r0, 2; mov.u32 %r2, s;
add.u32 %r3, %r2, %r1; st.shared.u32 [%r3], %r0; {barrier}
xor.b32 %r4, %r1, 4; add.u32 %r5, %r2, %r4; ld.shared.u32 %r6, [%r5];
cvt.u64.u32 %rd1, %r1; add.s64 %rd2, %rd0, %rd1; st.global.u32 [%rd2], %r6;"
            ),
        )
    };
    let case = Case::new(Options::default()).buffer(&[0; 32]);
    assert_eq!(kinds(&case.run(&body("bar.warp.sync -1;"), 1, 32)), vec![]);
    assert_eq!(case.words(0, 4), [1, 0, 3, 2]);
    assert_eq!(kinds(&case.run(&body(""), 1, 32)), vec![FindingKind::Race]);
}

#[test]
fn lanes_that_write_one_value_to_one_place_do_not_race() {
    let same = kernel(1, "mov.u32 %r0, 7; st.global.u32 [%rd0], %r0;");
    let other = kernel(1, "mov.u32 %r0, %tid.x; st.global.u32 [%rd0], %r0;");
    let case = Case::new(Options::default()).buffer(&[0]);
    assert_eq!(kinds(&case.run(&same, 1, 32)), vec![]);
    assert_eq!(kinds(&case.run(&other, 1, 32)), vec![FindingKind::Race]);
}

#[test]
fn a_copy_lands_at_its_wait_and_is_in_flight_before() {
    let body = |wait: &str| {
        kernel(
            2,
            &format!(
                ".shared .align 16 .b8 s[512]; mov.u32 %r0, %tid.x; shl.b32 %r1, %r0, 4; mov.u32 %r2, s;
add.u32 %r3, %r2, %r1; cvt.u64.u32 %rd2, %r1; add.s64 %rd3, %rd0, %rd2;
cp.async.cg.shared.global [%r3], [%rd3], 16; cp.async.commit_group; {wait}
ld.shared.u32 %r4, [%r3]; mul.wide.u32 %rd4, %r0, 4; add.s64 %rd5, %rd1, %rd4; st.global.u32 [%rd5], %r4;"
            ),
        )
    };
    let input: Vec<u32> = (0..128).collect();
    let case = Case::new(Options::default()).buffer(&input).buffer(&[0; 32]);
    let report = case.run(&body("cp.async.wait_group 0;"), 1, 32);
    assert_eq!(report.findings, vec![], "{}", report.to_text());
    assert_eq!(case.words(1, 3), [0, 4, 8]);
    assert!(kinds(&case.run(&body("cp.async.wait_group 1;"), 1, 32)).contains(&FindingKind::InFlight));
}

#[test]
fn counters_tell_conflicts_and_strides_from_the_ideal() {
    let body = ".shared .align 4 .b8 s[8192]; mov.u32 %r0, %tid.x; shl.b32 %r1, %r0, 7; mov.u32 %r2, s;
add.u32 %r3, %r2, %r1; st.shared.u32 [%r3], %r0;
mul.wide.u32 %rd1, %r0, 64; add.s64 %rd2, %rd0, %rd1; st.global.u32 [%rd2], %r0;";
    let report = Case::new(Options::default()).buffer(&[0; 512]).run(&kernel(1, body), 1, 32);
    let shared = report.counters.iter().find(|c| c.wavefronts > 0).unwrap();
    assert_eq!((shared.wavefronts, shared.ideal_wavefronts), (32, 1));
    let global = report.counters.iter().find(|c| c.sectors > 0).unwrap();
    assert_eq!((global.sectors, global.ideal_sectors), (32, 4));
}

#[test]
fn approximations_err_as_far_as_their_bound_and_no_further() {
    let body =
        "mov.u32 %r0, %tid.x; mul.wide.u32 %rd2, %r0, 4; add.s64 %rd3, %rd0, %rd2; add.s64 %rd4, %rd1, %rd2;
ld.global.f32 %f0, [%rd3]; rcp.approx.f32 %f1, %f0; st.global.f32 [%rd4], %f1;";
    let input: Vec<u32> = (0..32).map(|k| (0.3f32 + k as f32 * 0.71).to_bits()).collect();
    for mode in [
        ApproximationMode::Exact,
        ApproximationMode::Below,
        ApproximationMode::Above,
        ApproximationMode::Random,
    ] {
        let mut options = Options::default();
        options.approximation.mode = mode;
        let case = Case::new(options).buffer(&input).buffer(&[0; 32]);
        assert_eq!(kinds(&case.run(&kernel(2, body), 1, 32)), vec![]);
        for (x, y) in input.iter().zip(case.words(1, 32)) {
            let exact = 1.0 / f64::from(f32::from_bits(*x));
            let y = f32::from_bits(y);
            let ulp = f64::from(y.next_up() - y);
            assert!((f64::from(y) - exact).abs() <= 1.0 * ulp, "{mode:?}");
        }
    }
}

#[test]
fn launches_step_side_by_side() {
    let add = kernel(1, "atom.global.add.u32 %r0, [%rd0], 1;");
    let case = Case::new(Options::default()).buffer(&[0]);
    let loaded = case.device.load(&Module::parse(&add).unwrap()).unwrap();
    let config = LaunchConfig::new(64, 64);
    let mut launches = [(); 2].map(|()| case.device.prepare(&loaded, "k", &config, &case.args).unwrap());
    let mut running = true;
    while running {
        running = false;
        for l in &mut launches {
            running |= l.step(10) == Progress::Running;
        }
    }
    for l in launches {
        assert_eq!(l.finish().findings, vec![]);
    }
    assert_eq!(case.words(0, 1)[0], 2 * 64 * 64);
}

#[test]
fn launches_beyond_the_limits_are_refused_with_the_code_of_a_driver() {
    let case = Case::new(Options::default());
    let loaded = case.device.load(&Module::parse(&kernel(1, "")).unwrap()).unwrap();
    let code = |kernel: &str, config: LaunchConfig, args: &[u8]| {
        case.device.launch(&loaded, kernel, &config, args).err().map(|e| e.code)
    };
    let ok = LaunchConfig::new(1, 32);
    assert_eq!(code("k", ok.clone(), &[0; 8]), None);
    assert_eq!(code("k", ok.clone(), &[0; 4]), Some(CudaError::InvalidValue));
    assert_eq!(code("no", ok.clone(), &[0; 8]), Some(CudaError::NotFound));
    assert_eq!(code("k", LaunchConfig::new(1, 1025), &[0; 8]), Some(CudaError::InvalidValue));
    assert_eq!(code("k", LaunchConfig::new(0, 32), &[0; 8]), Some(CudaError::InvalidValue));
    assert_eq!(code("k", ok.clone().shared(164 * 1024), &[0; 8]), Some(CudaError::InvalidValue));
    let cooperative = LaunchConfig { cooperative: true, ..LaunchConfig::new(108 * 2 + 1, 1024) };
    assert_eq!(code("k", cooperative, &[0; 8]), Some(CudaError::CooperativeLaunchTooLarge));
}

#[test]
fn bad_text_is_refused_with_its_line() {
    let error = |text: &str| Module::parse(text).expect_err("must be refused");
    assert_eq!(error(".version 9.9\n.target sm_80\n").code, CudaError::UnsupportedPtxVersion);
    for (body, part) in [
        ("frobnicate.u32 %r0, %r1;", "unknown instruction 'frobnicate'"),
        ("add.frob.u32 %r0, %r1, %r2;", "'.frob'"),
        ("add.u32 %q0, %r1, %r2;", "'%q0' is not defined"),
        ("add.u32 %r0, %r99, %r2;", "'%r99' is not defined"),
        ("add.u64 %rd0, %r1, %rd2;", "'%r1' has 32 bits"),
        ("bra NOWHERE;", "label 'NOWHERE' is not defined"),
        ("add.u32 %r0, %r1;", "with 2 operands"),
    ] {
        let e = error(&kernel(0, body));
        assert_eq!(e.line, 11, "{e}");
        assert!(e.message.contains(part), "{e}");
    }
}

#[test]
fn damaged_text_never_panics() {
    let texts = [tree_sum("bar.sync 0;"), grid_barrier("membar.gl;", "membar.gl;")];
    let mut state = 1u64;
    let mut random = move || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize
    };
    let options = Options { threads: 1, patience: 20_000, ..Options::default() };
    for round in 0..3000 {
        let mut bytes = texts[round % 2].clone().into_bytes();
        for _ in 0..1 + random() % 3 {
            let at = random() % bytes.len().max(1);
            if bytes.is_empty() {
                break;
            }
            match random() % 4 {
                0 => bytes[at] = b" ;,.{}[]()@%0123456789abxyz-"[random() % 28],
                1 => drop(bytes.drain(at..(at + 1 + random() % 20).min(bytes.len()))),
                2 => bytes.truncate(at.max(1)),
                _ => {
                    let part = bytes[at..(at + 30).min(bytes.len())].to_vec();
                    bytes.splice(at..at, part);
                }
            }
        }
        let Ok(module) = Module::parse(&String::from_utf8_lossy(&bytes)) else { continue };
        let case = Case::new(options.clone()).buffer(&[0; 256]).buffer(&[0; 4]).buffer(&[0; 8]);
        let Ok(loaded) = case.device.load(&module) else { continue };
        if let Ok(mut l) = case.device.prepare(&loaded, "k", &LaunchConfig::new(2, 64), &case.args) {
            for _ in 0..50 {
                if l.step(1000) == Progress::Done {
                    break;
                }
            }
        }
    }
}
