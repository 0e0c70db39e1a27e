//! The small trained model through the embedding API, judged by what the original computed: encoding, rendering in one
//! pass, and fifty steps of diffusion in one run.

use selftok::schedule::{TimeGrid, TokenSchedule};
use selftok::{ComputeType, CpuOptions, Device, Executable, Input, Output, RunOptions};
use selftok_graph::models::selftok::{Config, decoder, encoder, renderer};
use selftok_graph::{Program, compile};
use selftok_loader::{TensorSource, Weights};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const PICTURES: usize = 16;

fn mini(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/mini").join(file)
}

fn config() -> Config {
    serde_json::from_slice(&std::fs::read(mini("config.json")).expect("a file")).expect("a configuration")
}

fn golden(name: &str) -> Vec<f32> {
    Weights::open(mini("golden.safetensors")).expect("golden values").to_f32(name).expect(name)
}

fn bind(program: impl Into<Program>, weights: &str, device: &Device) -> Executable {
    let plan = compile(&program.into(), &device.target()).expect("compiles");
    let weights = Arc::new(Weights::open(mini(weights)).expect("weights"));
    Executable::bind(plan, weights, device).expect("binds")
}

fn device() -> Device {
    Device::cpu(CpuOptions { threads: 2, ..Default::default() }).expect("threads")
}

/// Largest difference.
fn error(found: &[f32], want: &[f32]) -> f32 {
    assert_eq!(found.len(), want.len());
    found
        .iter()
        .zip(want)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, |m, e| if e > m || e.is_nan() { e } else { m })
}

#[test]
fn pictures_become_the_tokens_of_the_original() {
    let config = config();
    let graph = encoder(&config, PICTURES, [16, 16], false).expect("a graph");
    let executable = bind(graph, "tokenizer.safetensors", &device());
    let names =
        ["hidden_states", "indices", "score", "margin"].map(|name| executable.output(name).expect(name));
    let rows = PICTURES * config.num_tokens;
    let (mut hidden, mut ids) = (vec![0.0f32; rows * config.encoder.query_size], vec![0i32; rows]);
    let (mut score, mut margin) = (vec![0.0f32; rows], vec![0.0f32; rows]);
    let latent = golden("latent");
    let mut slots = executable.slots(1);
    slots.set(executable.slot("batch").expect("a slot"), PICTURES as u32);
    executable
        .session()
        .run_entry(
            executable.entry("encode").expect("an entry"),
            &slots,
            &[(executable.input("latent").expect("an input"), Input::F32(&latent))],
            &mut [
                (names[0], Output::F32(&mut hidden)),
                (names[1], Output::I32(&mut ids)),
                (names[2], Output::F32(&mut score)),
                (names[3], Output::F32(&mut margin)),
            ],
            RunOptions::default(),
        )
        .expect("runs");
    assert!(error(&hidden, &golden("hidden_states")) < 1e-4);
    assert!(error(&margin, &golden("margin")) < 1e-4);
    let want = golden("indices");
    let differ = ids.iter().zip(&want).zip(&margin).filter(|((a, b), m)| **a as f32 != **b && **m > 1e-4);
    assert_eq!(differ.count(), 0);
}

/// Token ids of the golden pictures.
fn tokens() -> Vec<i32> {
    golden("indices").iter().map(|id| *id as i32).collect()
}

#[test]
fn tokens_are_rendered_in_one_pass() {
    for (compute, tolerance) in [(ComputeType::F32, 2e-4), (ComputeType::Bf16, 0.2)] {
        let device = device().with_compute(compute);
        let graph = renderer(&config(), PICTURES, false).expect("a graph");
        let executable = bind(graph, "renderer.safetensors", &device);
        let mut slots = executable.slots(1);
        slots.set(executable.slot("batch").expect("a slot"), PICTURES as u32);
        let want = golden("rendered_latent");
        let mut latent = vec![0.0f32; want.len()];
        executable
            .session()
            .run_entry(
                executable.only_entry().expect("one entry"),
                &slots,
                &[(executable.input("tokens").expect("an input"), Input::I32(&tokens()))],
                &mut [(executable.output("rendered_latent").expect("an output"), Output::F32(&mut latent))],
                RunOptions::default(),
            )
            .expect("runs");
        let error = error(&latent, &want);
        assert!(error < tolerance, "{compute:?}: {error}");
    }
}

#[test]
fn fifty_steps_of_diffusion_are_one_run() {
    const STEPS: usize = 50;
    // Two of the pictures: the others would only take longer.
    const PICTURES: usize = 2;
    let config = config();
    let schedule =
        TokenSchedule::new(config.tokens_per_stage.as_deref().expect("stages")).expect("a schedule");
    let options = decoder::Options { context_see_xt: true, trace: false };
    let start = decoder::start(&config, PICTURES, [16, 16]).expect("a graph");
    let sample = decoder::sample(&config, PICTURES, [16, 16], STEPS, options).expect("a graph");
    let program = Program::new("diffusion", vec![start, sample]).expect("a program");
    let executable = bind(program, "tokenizer.safetensors", &device());
    let slot = |name| executable.slot(name).expect(name);
    let mut session = executable.session();
    let mut slots = executable.slots(1);
    slots.set(slot("batch"), PICTURES as u32);
    let two = |name| {
        let all: Vec<f32> = golden(name);
        all[..all.len() / self::PICTURES * PICTURES].to_vec()
    };
    let noise = two("noise_seed_1234");
    let start = executable.entry("start").expect("an entry");
    let input = executable.plan().entries[0].inputs[0].name.clone();
    let noise_in = executable.input(&input).expect("an input");
    let ids = tokens()[..PICTURES * config.num_tokens].to_vec();
    let grid = TimeGrid::new(STEPS).expect("a grid");
    for (prefix, name) in [(64, "diffused_latent_50"), (16, "diffused_latent_50_prefix_16")] {
        session
            .run_entry(start, &slots, &[(noise_in, Input::F32(&noise))], &mut [], RunOptions::default())
            .expect("runs");
        let mut table = executable.slots(STEPS);
        table.set(slot("batch"), PICTURES as u32).set(slot("grid"), STEPS as u32);
        for (step, tau) in grid.taus().enumerate() {
            let visible = schedule.visible(tau, prefix).expect("a prefix");
            table.set_at(step, slot("step"), step as u32);
            table.set_at(step, slot("visible.lo"), visible.start as u32);
            table.set_at(step, slot("visible.hi"), visible.end as u32);
        }
        let t = grid.times()[..STEPS].to_vec();
        let coeffs: Vec<f32> = grid.step_sizes().flat_map(|size| [1.0, -size]).collect();
        let want = two(name);
        let mut latent = vec![0.0f32; want.len()];
        session
            .run_entry(
                executable.entry("sample").expect("an entry"),
                &table,
                &[
                    (executable.input("tokens").expect("an input"), Input::I32(&ids)),
                    (executable.input("t").expect("an input"), Input::F32(&t)),
                    (executable.input("coeffs").expect("an input"), Input::F32(&coeffs)),
                ],
                &mut [(executable.output("latent").expect("an output"), Output::F32(&mut latent))],
                RunOptions::default(),
            )
            .expect("runs");
        let error = error(&latent, &want);
        assert!(error < 1e-3, "{name}: {error}");
    }
}
