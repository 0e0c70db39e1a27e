//! Mutants of the kernels and of their host code: each must be found, or be explained in `mutations/` as equivalent.
//!
//! One instance of each template is broken; the others are the same source with other constants. The cases are the
//! smallest that pass through every branch of a kernel. `cargo test -p selftok-kernels-cuda --test kernels mutants -- --ignored`
//! runs all of it and writes tables to `target/mutations`; a part runs with the other tests.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ptx_emulator::Gpu;
use ptx_emulator::mutate::{Campaign, Case, Explained, Rig, Subject, Table};
use selftok_kernels_cuda::gemm::Activation;
use selftok_kernels_cuda::{A100, Float, GpuLimits};

use crate::emulated::{Emulated, settings};
use crate::support::Random;
use crate::{attention, codebook, gemm, layer_norm};

fn case<'a>(name: &'a str, run: impl Fn(&Emulated) + Send + Sync + 'a) -> Case<'a> {
    Case { name, run: Box::new(move |rig: &Arc<Rig>| run(&Emulated::on(rig))) }
}

fn subject<'a>(family: &str, kernel: &'a str, cases: Vec<Case<'a>>) -> Subject<'a> {
    let shipped = selftok_kernels_ptx::module_for(family, 8, 0).expect(family);
    Subject { kernel, ptx: shipped.ptx, cases }
}

/// The kernels that are broken, by family, with their cases.
fn subjects(family: &str) -> Vec<Subject<'static>> {
    match family {
        "attention" => vec![subject(family, "attention_d64_q64", attention_cases())],
        "codebook" => vec![
            subject(family, "codebook_partial_c16", codebook_cases()),
            subject(family, "codebook_merge", codebook_cases()),
        ],
        "gemm" => vec![subject(family, "gemm_bf16_f32_64x64x32", gemm_cases())],
        _ => vec![
            subject(family, "layer_norm_f32_f32_warp", layer_norm_cases([16, 516, 7, 33])),
            subject(family, "layer_norm_f32_f32_block", layer_norm_cases([520, 2052, 513, 515])),
        ],
    }
}

fn attention_cases() -> Vec<Case<'static>> {
    use attention::{Case as Call, PLAIN};
    let call = |name, c: Call| case(name, move |e| drop(attention::run(e, c)));
    vec![
        call("two_segments", Call { q_len: 20, kv_len: [65, 37], ..PLAIN }),
        call("groups", Call { batch: 2, heads: 4, head_group: 2, q_len: 10, kv_len: [12, 5], ..PLAIN }),
        call("narrow_head", Call { head_dim: 40, q_len: 70, kv_len: [129, 0], ..PLAIN }),
        call("causal", Call { q_len: 70, kv_len: [70, 0], causal: Some(0), ..PLAIN }),
        call("causal_unseen", Call { q_len: 30, kv_len: [70, 3], causal: Some(-10), ..PLAIN }),
        call("causal_two_segments", Call { q_len: 20, kv_len: [50, 20], causal: Some(50), ..PLAIN }),
        call("no_first_segment", Call { q_len: 5, kv_len: [0, 9], ..PLAIN }),
        call("whole_tiles", PLAIN),
    ]
}

fn gemm_cases() -> Vec<Case<'static>> {
    use Activation::{GeluErf, GeluTanh, QuickGelu, Relu, Silu};
    let call = |name, c: gemm::Case| case(name, move |e| drop(gemm::run(e, 64, Float::F32, c)));
    let plain = gemm::plain;
    let all = |activation| gemm::Case {
        bias: true,
        gate: Some((7, 3)),
        residual: true,
        activation,
        ..plain(70, 50, 40)
    };
    vec![
        call("everything", all(Silu)),
        call("deep", plain(65, 129, 200)),
        call("odd", gemm::Case { ldc: 71, gate: Some((10, 13)), ..plain(66, 70, 11) }),
        call("gelu_tanh", all(GeluTanh)),
        call("gelu_erf", all(GeluErf)),
        call("relu", all(Relu)),
        call("quick_gelu", all(QuickGelu)),
        call("tiny", plain(1, 3, 3)),
        call("bands", plain(600, 130, 8)),
    ]
}

fn layer_norm_cases(cols: [usize; 4]) -> Vec<Case<'static>> {
    use layer_norm::{Case as Call, PLAIN};
    let call = |name, c: Call| case(name, move |e| layer_norm::run(e, c, Float::F32, Float::F32));
    let modulated = Call { rows: 9, affine: true, modulation: Some((2, 3)), ..PLAIN };
    vec![
        call("modulated", Call { cols: cols[0], gap: 4, ..modulated }),
        call("beyond_the_registers", Call { cols: cols[1], ..PLAIN }),
        call("modulated_odd", Call { cols: cols[2], gap: 1, ..modulated }),
        call("odd_rms", Call { cols: cols[3], rms: true, ..PLAIN }),
        call("rms", Call { cols: cols[1], rms: true, affine: true, ..PLAIN }),
    ]
}

fn codebook_cases() -> Vec<Case<'static>> {
    let call = |name, rows: usize, count: usize, width: usize, limits: GpuLimits| {
        case(name, move |e| {
            let mut random = Random::new((rows * count) as u64);
            let (x, codes) = (random.floats(rows * width), random.floats(count * width));
            codebook::check(e, &limits, &x, &codes, width);
        })
    };
    let one_sm = || GpuLimits { sms: 1, ..A100 };
    vec![
        call("slices", 70, 330, 16, A100),
        call("one_slice", 70, 200, 16, one_sm()),
        call("narrow", 33, 130, 7, one_sm()),
        call("narrow_wide_copies", 33, 130, 12, one_sm()),
        call("lone", 1, 1, 16, A100),
        case("ties", |e| {
            let width = 16;
            let mut codes = Random::new(7).floats(300 * width);
            // The same code four times: twice in one tile, once in another warp's share, once in another slice.
            for copy in [13, 15, 270] {
                codes.copy_within(9 * width..10 * width, copy * width);
            }
            let x: Vec<f32> = (0..64).flat_map(|_| codes[9 * width..10 * width].to_vec()).collect();
            codebook::check(e, &A100, &x, &codes, width);
            codebook::check(e, &GpuLimits { sms: 1, ..A100 }, &x, &codes, width);
        }),
        case("zeros_and_nan", |e| codebook::odd_rows(e)),
    ]
}

fn campaign(every: usize, seconds: u64) -> Campaign {
    let settings = settings().map(|s| s.options()).to_vec();
    Campaign { gpu: Gpu::a100(), settings, threads: 0, every, budget: Duration::from_secs(seconds) }
}

/// Runs the mutants of a family and holds the survivors against what is written of them.
fn judge(family: &str, campaign: &Campaign) -> Table {
    let mut table = Table::default();
    for subject in subjects(family) {
        table.extend(campaign.run(&subject, None).unwrap_or_else(|e| panic!("{e}")));
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("mutations").join(format!("{family}.md"));
    let explained = Explained::parse(&std::fs::read_to_string(&path).unwrap_or_default());
    let (missing, outdated) = (explained.missing(&table), explained.outdated(&table));
    println!("{family}\n{}", table.to_text());
    let crashed: Vec<_> = table.outcomes.iter().filter(|o| o.detector == "crash").collect();
    assert!(crashed.is_empty(), "the emulator failed: {crashed:?}");
    assert!(missing.is_empty(), "survivors that {} does not explain:\n{}", path.display(), missing.join("\n"));
    assert!(outdated.is_empty(), "found after all, though {} explains them: {outdated:?}", path.display());
    table
}

/// All mutants, then for each check those that it alone finds, with it off.
fn everything(family: &str) {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("mutations");
    std::fs::create_dir_all(&folder).unwrap();
    let campaign = campaign(1, u64::MAX);
    let mut whole = Table::default();
    for subject in subjects(family) {
        whole.extend(campaign.run(&subject, None).unwrap_or_else(|e| panic!("{e}")));
    }
    std::fs::write(folder.join(format!("{family}.json")), whole.to_json()).unwrap();
    std::fs::write(folder.join(format!("{family}.txt")), whole.to_text()).unwrap();
    let mut text = whole.to_text();
    for check in ptx_emulator::Checks::NAMES.into_iter().filter(|c| *c != "lane-race") {
        let mut without = Table::default();
        for subject in subjects(family) {
            without.extend(campaign.run(&subject, Some((check, &whole))).unwrap_or_else(|e| panic!("{e}")));
        }
        if !without.outcomes.is_empty() {
            text += &format!("\nwithout {check}, of {} that it alone finds:\n{}", without.outcomes.len(), without.to_text());
        }
    }
    std::fs::write(folder.join(format!("{family}.txt")), &text).unwrap();
    println!("{family}\n{text}");
}

/// One mutant in so many, of each family: a few seconds.
#[test]
fn a_sample_of_mutants_is_found_or_explained() {
    for family in ["attention", "codebook", "gemm", "layer_norm"] {
        let table = judge(family, &campaign(40, 4));
        assert!(table.outcomes.iter().any(|o| o.detector != "not run"), "{family}: nothing was run");
    }
}

#[test]
#[ignore = "runs for minutes: every mutant of the attention kernel"]
fn every_mutant_of_attention_is_found_or_explained() {
    everything("attention");
}

#[test]
#[ignore = "runs for minutes: every mutant of the codebook kernels"]
fn every_mutant_of_the_codebook_is_found_or_explained() {
    everything("codebook");
}

#[test]
#[ignore = "runs for minutes: every mutant of the GEMM"]
fn every_mutant_of_the_gemm_is_found_or_explained() {
    everything("gemm");
}

#[test]
#[ignore = "runs for minutes: every mutant of the layer norm kernels"]
fn every_mutant_of_layer_norm_is_found_or_explained() {
    everything("layer_norm");
}
