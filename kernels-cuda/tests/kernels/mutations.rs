//! Mutants of the kernels and of their host code: each must be found, or be explained in `mutations/` as equivalent.
//!
//! One instance of each template is broken; the others are the same source with other constants. The cases are the
//! smallest that pass through every branch of a kernel. `cargo test -p selftok-kernels-cuda --test kernels every_mutant_of -- --ignored`
//! runs all of it, in a few minutes; a part runs with the other tests.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ptx_emulator::Gpu;
use ptx_emulator::mutate::{Campaign, Case, Depth, Explained, Rig, Subject, Table};
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
    Subject { kernel, ptx: shipped.ptx, host_cases: 1, cases }
}

/// The kernels that are broken, by family, with their cases.
fn subjects(family: &str) -> Vec<Subject<'static>> {
    match family {
        "attention" => vec![subject(family, "attention_d64_q64", attention_cases())],
        "codebook" => vec![
            subject(family, "codebook_partial_c16", codebook_cases()),
            // The host code is that of the other kernel, and was broken there.
            Subject { host_cases: 0, ..subject(family, "codebook_merge", codebook_cases()) },
        ],
        "gemm" => vec![subject(family, "gemm_bf16_f32_64x64x32", gemm_cases())],
        _ => vec![
            subject(
                family,
                "layer_norm_f32_f32_warp",
                layer_norm_cases(
                    "narrow",
                    &[496, 512, 516, 560, 776, 20, 128, 256, 384],
                    &[7, 32, 33, 75, 131],
                ),
            ),
            subject(
                family,
                "layer_norm_f32_f32_block",
                layer_norm_cases(
                    "wide",
                    &[520, 2048, 2052, 2144, 3080, 512, 1024, 1536],
                    &[513, 128, 130, 385, 7, 1281, 1793],
                ),
            ),
        ],
    }
}

fn attention_cases() -> Vec<Case<'static>> {
    use attention::{Case as Call, Infinite, PLAIN};
    let run = |e: &Emulated, c: Call| drop(attention::run(e, c));
    let call = move |name, c: Call| case(name, move |e| run(e, c));
    let groups = Call { batch: 2, heads: 4, head_group: 2, q_len: 70, ..PLAIN };
    vec![
        call("everything", Call { kv_len: [70, 69], head_dim: 40, causal: Some(75), ..groups }),
        call("second_segment_only", Call { kv_len: [0, 9], q_len: 5, ..groups }),
        call("one_key_and_more", Call { kv_len: [1, 9], q_len: 5, ..PLAIN }),
        call("groups", Call { kv_len: [12, 5], q_len: 10, ..groups }),
        case("ends_of_keys", move |e| {
            run(e, Call { kv_len: [66, 2], q_len: 17, opposed: true, ..PLAIN });
            for j in 0..8 {
                for causal in [None, Some(1000)] {
                    let opposed = Call { q_len: 17, causal, opposed: true, ..PLAIN };
                    run(e, Call { kv_len: [64 + 8 * j, 8 * j + 1], ..opposed });
                    run(e, Call { kv_len: [8 * j + 5, 0], ..opposed });
                }
            }
        }),
        case("ends_of_heads", move |e| {
            for head_dim in (8..64).step_by(8) {
                run(e, Call { q_len: 20, kv_len: [20, 0], head_dim, ..PLAIN });
                run(e, Call { q_len: 5, kv_len: [130, 0], head_dim, ..PLAIN });
            }
        }),
        case("diagonals", move |e| {
            for position in [0, 1, 7, 8, 11, 60] {
                run(
                    e,
                    Call { q_len: 70, kv_len: [70 + position as usize, 0], causal: Some(position), ..PLAIN },
                );
            }
        }),
        call("unseen", Call { q_len: 30, kv_len: [70, 3], causal: Some(-10), ..PLAIN }),
        call("all_unseen", Call { q_len: 5, kv_len: [70, 3], causal: Some(-10), ..PLAIN }),
        case("infinities", move |e| {
            for kv_len in [[5, 0], [70, 0], [130, 0], [5, 70]] {
                run(e, Call { q_len: 17, kv_len, infinite: Some(Infinite::Value), ..PLAIN });
                let key = Call { opposed: true, infinite: Some(Infinite::Key), ..PLAIN };
                run(e, Call { q_len: 17, kv_len, head_dim: 40, ..key });
            }
        }),
        call("causal_two_segments", Call { q_len: 20, kv_len: [50, 20], causal: Some(50), ..PLAIN }),
        case("work", move |e| {
            for (causal, kv_len) in attention::work() {
                let call = Call { q_len: 150, kv_len, causal, ..PLAIN };
                attention::no_more_than_needed(&attention::run(e, call), call);
            }
        }),
        case("counters", move |e| {
            for c in attention::run(e, Call { kv_len: [128, 0], ..PLAIN }).counters {
                assert_eq!(c.wavefronts, c.ideal_wavefronts, "bank conflicts at PTX line {}", c.line);
            }
        }),
    ]
}

fn gemm_cases() -> Vec<Case<'static>> {
    use Activation::{GeluErf, GeluTanh, None, QuickGelu, Relu, Silu};
    let plain = gemm::plain;
    let call = |name, c: gemm::Case| case(name, move |e| drop(gemm::run(e, 64, Float::F32, c)));
    let all = gemm::Case { bias: true, gate: Some((7, 3)), residual: true, ..plain(9, 8, 16) };
    let each = move |e: &Emulated, c: gemm::Case| {
        for activation in [None, Silu, GeluTanh, GeluErf, Relu, QuickGelu] {
            gemm::run(e, 64, Float::F32, gemm::Case { activation, ..c });
        }
    };
    vec![
        // Strides that differ, so that no argument can stand in for another; more K tiles than stages.
        call("everything", gemm::Case { activation: Silu, ldr: 60, ldg: 64, ldc: 56, ..all_of(70, 50, 133) }),
        case("each_half", move |e| {
            gemm::run(e, 64, Float::F32, plain(100, 70, 133));
            gemm::run(e, 64, Float::F32, plain(70, 100, 133));
        }),
        case("ends_of_k", move |e| {
            for k in [1, 3, 33, 35, 65, 69, 97, 101, 160] {
                gemm::run(e, 64, Float::F32, plain(50, 40, k));
            }
        }),
        case("odd", move |e| {
            for bias in [true, false] {
                each(e, gemm::Case { ldc: 71, bias, ..all_of(40, 70, 11) });
                gemm::run(e, 64, Float::F32, gemm::Case { bias, gate: Option::None, ..all_of(40, 67, 8) });
                gemm::run(e, 64, Float::F32, gemm::Case { bias, residual: false, ..all_of(40, 67, 8) });
                each(e, gemm::Case { bias, ..all_of(9, 67, 8) });
            }
        }),
        case("activations", move |e| each(e, all_of(40, 64, 40))),
        case("alignment", move |e| {
            for k in 0..4 {
                let mut shift = [0; 4];
                shift[k] = 1;
                gemm::run(e, 64, Float::F32, gemm::Case { shift, ..all });
            }
            for (ldc, ldr, ldg) in [(9, 8, 8), (8, 9, 8), (8, 8, 9)] {
                gemm::run(e, 64, Float::F32, gemm::Case { ldc, ldr, ldg, ..all });
            }
        }),
        call("tiny", plain(1, 3, 3)),
        call("bands", plain(600, 130, 8)),
        // What only makes a kernel slower shows in its counters.
        case("work", move |e| {
            for k in [0, 16, 40, 72, 128, 136] {
                let call = plain(64, 70, k);
                gemm::no_more_than_needed(&gemm::run(e, 64, Float::F32, call), call);
            }
        }),
        case("counters", move |e| {
            for c in gemm::run(e, 64, Float::F32, all_of(64, 128, 128)).counters {
                assert_eq!(c.wavefronts, c.ideal_wavefronts, "bank conflicts at PTX line {}", c.line);
                assert_eq!(c.sectors, c.ideal_sectors, "part-filled sectors at PTX line {}", c.line);
            }
        }),
    ]
}

fn all_of(m: usize, n: usize, k: usize) -> gemm::Case {
    gemm::Case { bias: true, gate: Some((7, 3)), residual: true, ..gemm::plain(m, n, k) }
}

/// `host` names the case whose host code is broken; `wide` are widths in groups of four, `odd` others: one that fills the registers, one that just does not, and such that the loop
/// beyond the registers runs more than once.
fn layer_norm_cases(host: &'static str, wide: &'static [usize], odd: &'static [usize]) -> Vec<Case<'static>> {
    use layer_norm::{ALL, Case as Call};
    let run = |e: &Emulated, c: Call| layer_norm::run(e, c, Float::F32, Float::F32);
    // Whatever the width, this instance and no other.
    let all = Call { rule_cols: Some(wide[0]), ..ALL };
    let (first, gaps) = (wide[0], |c: Call| Call { gap: 4, y_gap: 8, modulation_gap: 12, ..c });
    let each = move |e: &Emulated, cols: &[usize], c: Call| {
        cols.iter().for_each(|&cols| drop(run(e, Call { cols, ..c })));
    };
    vec![
        case(host, move |e| {
            run(e, gaps(Call { rows: 7, cols: first, modulation: (2, 3), spread: 2e-3, ..all }));
        }),
        case("larger_grid", move |e| drop(run(e, Call { rows: 7, cols: first, rule_rows: Some(9), ..all }))),
        case("singly", move |e| each(e, odd, Call { gap: 1, y_gap: 2, modulation_gap: 3, ..all })),
        case("by_fours", move |e| each(e, wide, gaps(all))),
        case("plain", move |e| {
            for rms in [false, true] {
                let plain = Call { rows: 2, rms, vectors: [false; 4], modulation: (1, 1), ..all };
                each(e, wide, plain);
                each(e, odd, plain);
            }
        }),
        case("nulls", move |e| {
            for vectors in layer_norm::choices() {
                each(e, odd, Call { vectors, ..all });
                each(e, wide, Call { vectors, ..all });
            }
        }),
        case("alignment", move |e| {
            for k in 0..6 {
                let mut start = [0; 6];
                start[k] = 1;
                run(e, Call { cols: first, start, ..all });
            }
            // A width that 4 does not divide in rows that are aligned all the same.
            let gap = 4 - odd[0] % 4;
            run(e, Call { cols: odd[0], gap, y_gap: gap, modulation_gap: gap, ..all });
            for (gap, y_gap, modulation_gap) in [(1, 0, 0), (0, 1, 0), (0, 0, 1)] {
                run(e, Call { cols: first, gap, y_gap, modulation_gap, ..all });
            }
        }),
        case("counters", move |e| {
            let report = run(e, Call { cols: first, ..all });
            layer_norm::moved_by_fours(&report, 3 * first);
            for c in report.counters {
                assert_eq!(c.sectors, c.ideal_sectors, "part-filled sectors at PTX line {}", c.line);
            }
        }),
    ]
}

fn codebook_cases() -> Vec<Case<'static>> {
    let one_sm = || GpuLimits { sms: 1, ..A100 };
    let random = |e: &Emulated, rows: usize, count: usize, width: usize, limits: &GpuLimits| {
        let mut random = Random::new((rows * count) as u64);
        let (x, codes) = (random.floats(rows * width), random.floats(count * width));
        codebook::check(e, limits, &x, &codes, width)
    };
    // Codes of unit length, and rows that each point at one of them: first, last, and those beside the ends of tiles.
    let own = |e: &Emulated, count: usize, limits: &GpuLimits| {
        let width = 16;
        let mut codes = Random::new(count as u64).floats(count * width);
        for code in codes.chunks_mut(width) {
            let norm = code.iter().map(|x| x * x).sum::<f32>().sqrt();
            code.iter_mut().for_each(|x| *x /= norm);
        }
        let at = |r: usize| [0, count - 1, count - 2, 63, 64, 62, 65, 1, 127, 128][r % 10].min(count - 1);
        let mut x: Vec<f32> = (0..70).flat_map(|r| codes[at(r) * width..][..width].to_vec()).collect();
        // One is shorter than the least norm.
        x[69 * width..].iter_mut().for_each(|x| *x *= 1e-14);
        let report = codebook::check(e, limits, &x, &codes, width);
        codebook::no_more_than_needed(&report, limits, 70, count);
    };
    vec![
        case("own", move |e| own(e, 330, &A100)),
        case("own_of_many_tiles", move |e| own(e, 1323, &one_sm())),
        case("whole_tiles", move |e| own(e, 128, &A100)),
        case("narrow", move |e| [900, 943].iter().for_each(|&n| drop(random(e, 40, n, 7, &one_sm())))),
        case("narrow_wide_copies", move |e| {
            [900, 943].iter().for_each(|&n| drop(random(e, 40, n, 12, &one_sm())))
        }),
        case("every_width", move |e| {
            for width in 1..=16 {
                random(e, 40, 20, width, &A100);
            }
        }),
        case("two_whole_tiles_a_slice", move |e| own(e, 1024, &one_sm())),
        case("many_slices", move |e| own(e, 1300, &A100)),
        case("many_rows", move |e| drop(random(e, 150, 100, 16, &A100))),
        case("lone", move |e| {
            random(e, 1, 1, 16, &A100);
            random(e, 5, 3, 7, &A100);
        }),
        case("unaligned", |e| {
            let mut random = Random::new(3);
            let (x, codes) = (random.floats(5 * 16), random.floats(700 * 16));
            let odd = codebook::Odd { start: 1, ..Default::default() };
            codebook::check_odd(e, &GpuLimits { sms: 1, ..A100 }, &x, &codes, 16, odd);
        }),
        case("empty_slices", |e| {
            let mut random = Random::new(9);
            let (x, codes) = (random.floats(70 * 16), random.floats(130 * 16));
            let odd = codebook::Odd { empty_slices: 2, ..Default::default() };
            let report = codebook::check_odd(e, &A100, &x, &codes, 16, odd);
            codebook::no_more_than_needed(&report, &A100, 70, 130);
        }),
        case("ties", |e| {
            // For each pair of warps the same code twice, the first in the one's share and the second in the other's.
            let (width, pairs) = (
                16,
                [
                    (0, 1),
                    (0, 2),
                    (0, 3),
                    (1, 0),
                    (1, 2),
                    (1, 3),
                    (2, 0),
                    (2, 1),
                    (2, 3),
                    (3, 0),
                    (3, 1),
                    (3, 2),
                ],
            );
            let mut codes = Random::new(7).floats(300 * width);
            for (k, (a, b)) in pairs.into_iter().enumerate() {
                let (from, to) = (8 * k + a, 8 * k + 4 + b);
                codes[from * width..][..width].iter_mut().for_each(|x| *x *= 4.0);
                codes.copy_within(from * width..(from + 1) * width, to * width);
            }
            // And once in another slice.
            codes.copy_within(0..width, 270 * width);
            let x: Vec<f32> = (0..64)
                .flat_map(|r| codes[(8 * (r % 12) + pairs[r % 12].0) * width..][..width].to_vec())
                .collect();
            codebook::check(e, &A100, &x, &codes, width);
        }),
        case("zeros_and_nan", codebook::odd_rows),
        case("without_margin", codebook::without_margin),
        case("merged_in_any_order", codebook::merged_in_any_order),
    ]
}

fn campaign(every: usize, seconds: u64, depth: Depth) -> Campaign {
    // One mutant can be run alone: `MUTATIONS_ONLY=gemm_bf16_f32_64x64x32:bound:3`.
    let only = std::env::var("MUTATIONS_ONLY").unwrap_or_default();
    let settings = settings().map(|s| s.options()).to_vec();
    let budget = Duration::from_secs(seconds);
    Campaign { gpu: Gpu::a100(), settings, threads: 0, only, every, depth, budget }
}

/// Holds the survivors against what is written of them.
fn explained(family: &str, table: &Table) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("mutations").join(format!("{family}.md"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let explained = Explained::parse(&text);
    let (missing, outdated) = (explained.missing(table), explained.outdated(table));
    let crashed: Vec<_> = table.outcomes.iter().filter(|o| o.detector == "crash").collect();
    assert!(crashed.is_empty(), "the emulator failed: {crashed:?}");
    assert!(
        missing.is_empty(),
        "survivors that {} does not explain:\n{}",
        path.display(),
        missing.join("\n")
    );
    assert!(outdated.is_empty(), "found after all, though {} explains them: {outdated:?}", path.display());
}

/// All mutants: found or explained. What finds them is written to `target/tmp/mutations`, and with `MUTATIONS_WRITE` to
/// `mutations/tables` too.
fn everything(family: &str) {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("mutations");
    std::fs::create_dir_all(&folder).unwrap();
    let campaign = campaign(1, u64::MAX, Depth::All);
    let mut table = Table::default();
    for subject in subjects(family) {
        table.extend(campaign.run(&subject).unwrap_or_else(|e| panic!("{e}")));
    }
    let kernels: Vec<_> = subjects(family).iter().map(|s| format!("`{}`", s.kernel)).collect();
    let text = format!(
        "# What finds the mutants of {}\n\n\
        Made by `MUTATIONS_WRITE=1 cargo test -p selftok-kernels-cuda --test kernels every_mutant_of -- --ignored`.\n\
        [{family}.md](../{family}.md) explains the survivors.\n\n\
        ## What finds each first\n\n{}\n\
        ## All that find each\n\n\
        Each would find it with all others off, so that a mutant counts once in each column that finds it.\n\n{}\n\
        ## What only one finds\n\n{}",
        kernels.join(" and "),
        table.to_text(),
        table.all_to_text(),
        table.alone_to_text()
    );
    std::fs::write(folder.join(format!("{family}.json")), table.to_json()).unwrap();
    std::fs::write(folder.join(format!("{family}.md")), &text).unwrap();
    println!("{text}");
    if std::env::var_os("MUTATIONS_WRITE").is_some() {
        let tables = Path::new(env!("CARGO_MANIFEST_DIR")).join("mutations/tables");
        std::fs::create_dir_all(&tables).unwrap();
        std::fs::write(tables.join(format!("{family}.md")), &text).unwrap();
    }
    explained(family, &table);
}

/// One mutant in so many, of each family: a few seconds.
#[test]
fn a_sample_of_mutants_is_found_or_explained() {
    let campaign = campaign(60, 4, Depth::First);
    for family in ["attention", "codebook", "gemm", "layer_norm"] {
        for subject in subjects(family) {
            let table = campaign.run(&subject).unwrap_or_else(|e| panic!("{e}"));
            assert!(table.outcomes.iter().any(|o| o.detector != "not run"), "{family}: nothing was run");
            explained(family, &table);
        }
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
