//! The diffusion decoder and its sampler against the original's golden values.

mod selftok_configs;

use selftok::schedule::{TimeGrid, TokenSchedule};
use selftok_configs::{mini, tiny};
use selftok_graph::models::selftok::Config;
use selftok_graph::models::selftok::decoder::{Options, sample, start, velocity};
use selftok_graph::{Graph, Program, Stage};
use selftok_workspace::backend::{all, inputs, slots};
use selftok_workspace::{Array, Golden, Session, Slots, assert_close};

const TOLERANCE: f64 = 1e-4;

fn tiny_weights() -> Golden {
    Golden::open("tests/golden/selftok/tiny_tokenizer.weights.safetensors")
}

fn tiny_io() -> Golden {
    Golden::open("tests/golden/selftok/tiny_tokenizer.io.safetensors")
}

fn schedule(config: &Config) -> TokenSchedule {
    TokenSchedule::new(config.tokens_per_stage.as_ref().expect("a schedule")).unwrap()
}

/// The tokens seen at time `t`, of which the first `known` in writing order are there.
fn visible(schedule: &TokenSchedule, t: f32, known: usize) -> std::ops::Range<usize> {
    schedule.visible((t * 1000.0) as u32, known).unwrap()
}

/// `visible` as slots.
fn row(batch: usize, visible: std::ops::Range<usize>) -> Slots {
    slots([("batch", batch), ("visible.lo", visible.start), ("visible.hi", visible.end)])
}

/// The first rows of a stream of tokens, which are the visible ones.
fn prefix(x: &Array, rows: usize) -> Array {
    selftok_kernels_cpu::reference::slice(x, 1, 0, rows)
}

#[test]
fn the_tiny_velocity_agrees_with_the_original_at_every_stage_and_time() {
    let (weights, io, schedule) = (tiny_weights(), tiny_io(), schedule(&tiny()));
    for case in 0..5 {
        let options = Options { context_see_xt: case != 4, trace: true };
        let program = Program::from(velocity(&tiny(), 2, [8, 8], options).unwrap());
        let golden = |name: &str| io.get(&format!("dec.case{case}.{name}"));
        let t = golden("t");
        let visible = visible(&schedule, t.data[0] as f32, 16);
        let masked = golden("mask").row(0).iter().filter(|&&seen| seen != 0.0).count();
        assert_eq!(visible, 0..masked, "case {case}: visible tokens");
        for backend in all() {
            let mut session = backend.open(&program, &|name| weights.weight(name));
            let values =
                inputs([("tokens", io.get("dec.tokens")), ("x_t", io.get("dec.x_t")), ("t", t.clone())]);
            let out = session.run("velocity", &values, &[row(2, visible.clone())]);
            for stage in ["codes", "hidden_states", "context_in", "x_in"] {
                assert_close(stage, &out[stage], &io.get(&format!("dec.{stage}")), TOLERANCE);
            }
            for stage in ["t_emb", "block0.x", "block1.x", "final_layer", "velocity"] {
                assert_close(&format!("case {case}: {stage}"), &out[stage], &golden(stage), TOLERANCE);
            }
            let (found, expected) = (&out["block0.context"], golden("block0.context"));
            assert_close("block0.context", &prefix(found, masked), &prefix(&expected, masked), TOLERANCE);
        }
    }
}

#[test]
fn the_tiny_velocity_takes_latents_that_are_not_square() {
    let (weights, io, schedule) = (tiny_weights(), tiny_io(), schedule(&tiny()));
    let program = Program::from(velocity(&tiny(), 1, [12, 8], Options::default()).unwrap());
    for backend in all() {
        let mut session = backend.open(&program, &|name| weights.weight(name));
        let t = Array::from_f32(&[1], &[0.6]);
        let values = inputs([
            ("tokens", io.get("dec_nonsquare.tokens")),
            ("x_t", io.get("dec_nonsquare.x_t")),
            ("t", t),
        ]);
        let out = session.run("velocity", &values, &[row(1, visible(&schedule, 0.6, 16))]);
        assert_close("velocity", &out["velocity"], &io.get("dec_nonsquare.velocity_t0.6"), TOLERANCE);
    }
}

#[test]
fn patches_run_alone_where_no_token_is_visible() {
    let (weights, io) = (tiny_weights(), tiny_io());
    let program = Program::from(velocity(&tiny(), 2, [8, 8], Options::default()).unwrap());
    for backend in all() {
        let mut session = backend.open(&program, &|name| weights.weight(name));
        let t = Array::from_f32(&[2], &[0.5, 0.5]);
        let values = inputs([("tokens", io.get("dec.tokens")), ("x_t", io.get("dec.x_t")), ("t", t.clone())]);
        let alone = session.run("velocity", &values, &[row(2, 3..3)])["velocity"].clone();
        assert!(alone.data.iter().all(|v| v.is_finite()));
        // Other tokens make no difference to it.
        let other = Array::filled(&[2, 16], 7.0);
        let values = inputs([("tokens", other), ("x_t", io.get("dec.x_t")), ("t", t)]);
        assert_close("velocity", &session.run("velocity", &values, &[row(2, 3..3)])["velocity"], &alone, 0.0);
    }
}

fn sampler(config: &Config, batch: usize, side: usize, grid: usize) -> Program {
    let entries: Vec<Graph> = vec![
        start(config, batch, [side, side]).unwrap(),
        sample(config, batch, [side, side], grid, Options::default()).unwrap(),
    ];
    Program::new("sampler", entries).unwrap()
}

/// Runs steps `from..to` of a grid of times in one run.
fn steps(
    session: &mut dyn Session,
    config: &Config,
    tokens: &Array,
    times: &[f32],
    (from, to): (usize, usize),
    max_grid: usize,
    known: usize,
) -> Array {
    let schedule = schedule(config);
    let (mut t, mut coeffs) = (vec![f32::NAN; max_grid], vec![f32::NAN; 2 * max_grid]);
    let mut table = vec![];
    for (i, pair) in times[from..=to].windows(2).enumerate() {
        (t[i], coeffs[2 * i], coeffs[2 * i + 1]) = (pair[0], 1.0, -(pair[0] - pair[1]));
        let mut slots = row(tokens.shape[0], visible(&schedule, pair[0], known));
        slots.extend([("grid".into(), (to - from) as u32), ("step".into(), i as u32)]);
        table.push(slots);
    }
    let values = inputs([
        ("tokens", tokens.clone()),
        ("t", Array::from_f32(&[max_grid], &t)),
        ("coeffs", Array::from_f32(&[max_grid, 2], &coeffs)),
    ]);
    session.run("sample", &values, &table)["latent"].clone()
}

#[test]
fn the_tiny_sampler_follows_the_originals_path() {
    let (weights, io) = (tiny_weights(), tiny_io());
    let tokens = io.get("dec.tokens");
    for (count, max_grid) in [(4, 4), (10, 4), (50, 25)] {
        let times = TimeGrid::new(count).unwrap();
        let program = sampler(&tiny(), 2, 8, max_grid);
        for backend in all() {
            let mut session = backend.open(&program, &|name| weights.weight(name));
            session.run("start", &inputs([("noise", io.get("dec.x_t"))]), &[slots([("batch", 2)])]);
            // In runs that end at the steps whose result is known: the grid is longer than a run takes.
            let mut stops: Vec<usize> = (0..count)
                .filter(|i| io.find(&format!("sampler{count}.after_step{i}")).is_some())
                .map(|i| i + 1)
                .chain((1..count).filter(|i| i % max_grid == 0))
                .chain([count])
                .collect();
            stops.sort_unstable();
            stops.dedup();
            let mut from = 0;
            for to in stops {
                let x = steps(&mut *session, &tiny(), &tokens, times.times(), (from, to), max_grid, 16);
                if let Some(expected) = io.find(&format!("sampler{count}.after_step{}", to - 1)) {
                    assert_close(&format!("{count} steps, after step {}", to - 1), &x, &expected, TOLERANCE);
                }
                if to == count {
                    assert_close("final", &x, &io.get(&format!("sampler{count}.final")), TOLERANCE);
                }
                from = to;
            }
        }
    }
}

#[test]
fn the_sampler_embeds_time_once_for_the_whole_grid_and_binds_what_weights_decide() {
    let config = Config::released(512);
    let graph = sample(&config, 1, [32, 32], 64, Options::default()).unwrap();
    let mut counts = std::collections::BTreeMap::new();
    for node in graph.nodes.iter().filter(|node| node.op.name() == "linear") {
        let weight = &graph.value(node.inputs[1]).name;
        let by_position = weight.contains("context_block.t_embedder")
            || (weight.contains("context_block.adaLN") && !weight.contains("joint_blocks.23"));
        let by_time = weight.contains("adaLN") || weight.starts_with("model.t_embedder");
        let expected = match (by_position, by_time, weight.contains("context_embedder")) {
            (true, _, _) => Stage::Bind,
            (_, true, _) | (_, _, true) => Stage::Request,
            _ => Stage::Step,
        };
        // The first block's tokens change with the tokens alone, but which of them are seen changes at every step.
        assert_eq!(node.stage, expected, "{weight}");
        *counts.entry(expected).or_insert(0) += 1;
    }
    // 23 blocks of three products for positions; 24 + 24 modulations by time and the embedding; the rest.
    assert_eq!(counts[&Stage::Bind], 23 * 3);
    assert_eq!(counts[&Stage::Request], 24 + 1 + 1 + 2 + 1);
}

/// Fifty steps of the small model at 1e-4 on every backend. By default `mini_pipeline` runs them on the best one.
#[test]
#[ignore = "fourteen runs of fifty steps, two of them in the plain interpreter: a minute"]
fn the_small_model_samples_what_the_original_does() {
    let (weights, golden) =
        (Golden::open("models/mini/tokenizer.safetensors"), Golden::open("models/mini/golden.safetensors"));
    let (config, times) = (mini(), TimeGrid::new(50).unwrap());
    let program = sampler(&config, 1, 16, 50);
    for backend in all() {
        for (known, name) in [(64, "diffused_latent_50"), (16, "diffused_latent_50_prefix_16")] {
            let mut session = backend.open(&program, &|name| weights.weight(name));
            let noise = golden.rows("noise_seed_1234", 1);
            session.run("start", &inputs([("noise", noise)]), &[slots([("batch", 1)])]);
            let tokens = golden.rows("indices", 1);
            let x = steps(&mut *session, &config, &tokens, times.times(), (0, 50), 50, known);
            assert_close(name, &x, &golden.rows(name, 1), TOLERANCE);
        }
    }
}
