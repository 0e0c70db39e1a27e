//! The printed plans of the known networks, so that a change of the compiler shows its effect as a diff; and what the
//! plans of the full size promise about memory.
//!
//! `UPDATE_PLANS=1 cargo test --test plans` writes the files in `tests/plans` anew; read the diff before it is committed.

mod selftok_configs;

use selftok::{CpuOptions, Device};
use selftok_configs::{mini, mini_autoencoder};
use selftok_graph::models::selftok::{Config, decoder};
use selftok_graph::models::{autoencoder, selftok as networks};
use selftok_graph::{Plan, Program, Stage, Target, WeightRef, compile};
use selftok_workspace::path;

/// The networks of a Selftok model as the pipelines use them, one picture at a time.
fn programs(config: &Config, vae: &autoencoder::Config) -> Vec<Program> {
    let (latent, side) = ([config.latent_size; 2], [config.image_size; 2]);
    let diffusion = vec![
        decoder::start(config, 1, latent).unwrap(),
        decoder::sample(config, 1, latent, 64, Default::default()).unwrap(),
    ];
    vec![
        autoencoder::encode(vae, 1, side, false).unwrap().into(),
        networks::encoder(config, 1, latent, false).unwrap().into(),
        Program::new("diffusion", diffusion).unwrap(),
        decoder::velocity(config, 1, latent, Default::default()).unwrap().into(),
        networks::renderer(config, 1, false).unwrap().into(),
        autoencoder::decode(vae, 1, latent, false).unwrap().into(),
    ]
}

fn full() -> Vec<Program> {
    programs(&Config::released(512), &autoencoder::Config::sd3())
}

#[test]
fn plans_are_those_on_record() {
    let update = std::env::var_os("UPDATE_PLANS").is_some_and(|value| value != "0");
    let mut changed = vec![];
    for (model, programs) in [("full", full()), ("mini", programs(&mini(), &mini_autoencoder()))] {
        for program in programs {
            let file = format!("tests/plans/{model}.{}.txt", program.name);
            let found = compile(&program, &Target::generic()).unwrap().to_string();
            if update {
                std::fs::create_dir_all(path("tests/plans")).unwrap();
                std::fs::write(path(&file), found).unwrap();
                continue;
            }
            let expected = std::fs::read_to_string(path(&file)).unwrap_or_default();
            if let Some(difference) = first_difference(&found, &expected) {
                changed.push(format!("{file}, {difference}"));
            }
        }
    }
    assert!(
        changed.is_empty(),
        "{} plans differ from those on record:\n{}\nIf that is meant: UPDATE_PLANS=1 cargo test --test plans, and look at git diff",
        changed.len(),
        changed.join("\n")
    );
}

/// The first line that differs, of both.
fn first_difference(found: &str, expected: &str) -> Option<String> {
    let (mut found, mut expected) = (found.lines(), expected.lines());
    for line in 1.. {
        let (a, b) = (found.next(), expected.next());
        if a != b {
            let show = |line: Option<&str>| line.unwrap_or("(nothing)").to_string();
            return Some(format!("line {line}:\n  is     {}\n  record {}", show(a), show(b)));
        }
        if a.is_none() {
            break;
        }
    }
    None
}

/// Elements of the weights that a condition picks.
fn elements(plan: &Plan, pick: impl Fn(&WeightRef) -> bool) -> usize {
    let picked = plan.weights.iter().filter(|weight| pick(weight));
    picked.map(|weight| weight.shape.iter().product::<usize>()).sum()
}

#[test]
fn sessions_at_full_size_are_near_the_lower_bound() {
    let device = Device::cpu(CpuOptions { threads: 2, ..Default::default() }).unwrap();
    for program in full() {
        let plan = compile(&program, &device.target()).unwrap();
        let (held, bound) = (plan.session_bytes(), plan.session_lower_bound());
        println!("{}: {held} bytes, lower bound {bound}", plan.name);
        assert!(held as f64 <= 1.05 * bound as f64, "{}: {held} bytes, lower bound {bound}", plan.name);
    }
}

/// The 0.744 G parameters of modulation and time embedding leave the step: 1.34 G stay, beside 0.12 G elements of tables.
#[test]
fn folding_leaves_the_steps_of_full_size_what_only_they_need() {
    let near = |found: usize, expected: f64| (found as f64 / 1e9 - expected).abs() < 0.005;
    for program in full().iter().filter(|program| ["diffusion", "render"].contains(&program.name.as_str())) {
        let plan = compile(program, &Target::generic()).unwrap();
        let step = elements(&plan, |weight| weight.last_stage == Stage::Step);
        let modulation =
            |weight: &WeightRef| ["adaLN_modulation", ".t_embedder"].iter().any(|n| weight.name.contains(n));
        let modulations = elements(&plan, modulation);
        // By position and weights at bind; by the grid of times at request.
        let tables = (plan.constant_bytes + plan.request_bytes) / 4;
        println!("{}: steps read {step}, folded {modulations}, tables {tables}", plan.name);
        assert!(
            (1.33e9..1.345e9).contains(&(step as f64)),
            "{}: {step} elements are read by steps",
            plan.name
        );
        assert!(near(modulations, 0.744), "{}: {modulations} elements of modulations", plan.name);
        assert!(tables < 125_000_000, "{}: {tables} elements of tables", plan.name);
        let unfolded: Vec<&String> = plan
            .weights
            .iter()
            .filter(|weight| modulation(weight) && weight.last_stage == Stage::Step)
            .map(|weight| &weight.name)
            .collect();
        assert!(unfolded.is_empty(), "{}: steps read {unfolded:?}", plan.name);
    }
}
