//! Causal transformers against the reference library's golden values: whole prompts, and token by token over caches.

use selftok::networks::{self, NamedTensors};
use selftok::{CpuOptions, Device};
use selftok_graph::Program;
use selftok_graph::models::causal::{Config, Limits, gpt2, llama};
use selftok_workspace::backend::{Backend, Engine, all, inputs, slots};
use selftok_workspace::{Array, Golden, Session, assert_close, path};

const TOLERANCE: f64 = 1e-4;

struct Case {
    config: Config,
    weights: Golden,
    io: Golden,
}

fn case(name: &str) -> Case {
    let folder = format!("tests/golden/models/{name}");
    let text = std::fs::read_to_string(path(&folder).join("config.json")).unwrap();
    let config = match name {
        "gpt2" => Config::Gpt2(serde_json::from_str::<gpt2::Config>(&text).unwrap()),
        _ => Config::Llama(Box::new(serde_json::from_str::<llama::Config>(&text).unwrap())),
    };
    let open = |file: &str| Golden::open(&format!("{folder}/{file}"));
    Case { config, weights: open("model.safetensors"), io: open("io.safetensors") }
}

impl Case {
    /// A weight as the graph has it: GPT-2's layers are stored transposed.
    fn weight(&self, name: &str) -> Option<Vec<f32>> {
        let stored = self.weights.find(name)?;
        let turned = match &self.config {
            Config::Gpt2(_) if name.contains(".c_") && name.ends_with(".weight") => {
                selftok_kernels_cpu::reference::permute(&stored, &[1, 0])
            }
            _ => stored,
        };
        Some(turned.data.into_iter().map(|x| x as f32).collect())
    }
}

/// Runs rows `(id, sequence, position)`; the logits of the rows asked for.
fn run(session: &mut dyn Session, limits: Limits, rows: &[(f64, usize, usize)], logits: &[usize]) -> Array {
    let index = |size: usize, values: Vec<f64>| {
        let mut data = values;
        data.resize(size, 0.0);
        Array::new(&[size], data)
    };
    let given = inputs([
        ("input_ids", index(limits.rows, rows.iter().map(|row| row.0).collect())),
        ("sequence", index(limits.rows, rows.iter().map(|row| row.1 as f64).collect())),
        ("position", index(limits.rows, rows.iter().map(|row| row.2 as f64).collect())),
        ("logit_rows", index(limits.logits, logits.iter().map(|&row| row as f64).collect())),
    ]);
    let out = session.run("forward", &given, &[slots([("rows", rows.len()), ("logits", logits.len())])]);
    selftok_kernels_cpu::reference::slice(&out["logits"], 0, 0, logits.len())
}

/// Both sequences of the case as packed rows.
fn packed(ids: &Array) -> Vec<(f64, usize, usize)> {
    let length = ids.last();
    ids.data.iter().enumerate().map(|(i, &id)| (id, i / length, i % length)).collect()
}

fn prefill(name: &str) {
    let case = case(name);
    let ids = case.io.get("input_ids");
    let rows = packed(&ids);
    let limits = Limits { rows: 64, logits: 64, sequences: 3, context: 40 };
    let program = Program::from(case.config.forward(limits).unwrap());
    let wanted: Vec<usize> = (0..rows.len()).collect();
    for backend in all() {
        let mut session = backend.open(&program, &|name| case.weight(name));
        let mut logits = run(&mut *session, limits, &rows, &wanted);
        let expected = case.io.get("logits");
        logits.shape.clone_from(&expected.shape);
        assert_close(&format!("{name} on {}", backend.name()), &logits, &expected, TOLERANCE);
    }
}

/// The greedy continuation, in pieces: a prompt cut in two runs, then one token a run, while another sequence of another
/// length is decoded beside it.
fn greedy(name: &str) {
    let case = case(name);
    let (expected, logits) = (case.io.get("greedy"), case.io.get("greedy_logits"));
    let beside = case.io.get("input_ids");
    let prompt = 24;
    let limits = Limits { rows: 20, logits: 2, sequences: 2, context: 40 };
    let program = Program::from(case.config.forward(limits).unwrap());
    for backend in all() {
        let mut session = backend.open(&program, &|name| case.weight(name));
        let mut ids: Vec<f64> = expected.data[..prompt].to_vec();
        let row = |ids: &[f64], at: usize| (ids[at], 1, at);
        let first: Vec<_> = (0..13).map(|at| row(&ids, at)).collect();
        run(&mut *session, limits, &first, &[]);
        let mut rows: Vec<_> = (13..prompt).map(|at| row(&ids, at)).collect();
        for step in 0..expected.last() - prompt {
            // The other sequence is 13 tokens behind.
            rows.push((beside.data[step], 0, step));
            let own = rows.len() - 2;
            let found = run(&mut *session, limits, &rows, &[own, own + 1]);
            let wanted = Array::new(&[found.last()], logits.row(ids.len() - 1).to_vec());
            let own = Array::new(&[found.last()], found.row(0).to_vec());
            let what = format!("{name} on {}, token {}", backend.name(), ids.len());
            assert_close(&what, &own, &wanted, TOLERANCE);
            let other = Array::new(&[found.last()], found.row(1).to_vec());
            let wanted = case.io.get("logits").row(step).to_vec();
            assert_close(
                &format!("{what}, beside"),
                &other,
                &Array::new(&[other.data.len()], wanted),
                TOLERANCE,
            );
            let next = (0..own.data.len()).max_by(|&a, &b| own.data[a].total_cmp(&own.data[b])).unwrap();
            ids.push(next as f64);
            rows = vec![row(&ids, ids.len() - 1)];
        }
        assert_eq!(ids, expected.data, "{name} on {}", backend.name());
    }
}

#[test]
fn llama3_with_scaled_rotations_and_grouped_queries() {
    prefill("llama3");
    greedy("llama3");
}

#[test]
fn llama2_with_a_tied_head() {
    prefill("llama2_tied");
    greedy("llama2_tied");
}

#[test]
fn qwen3_with_normalised_queries_and_keys() {
    prefill("qwen3");
    greedy("qwen3");
}

#[test]
fn gpt2_with_learnt_positions() {
    prefill("gpt2");
    greedy("gpt2");
}

#[test]
fn any_pass_may_be_off() {
    let case = case("llama3");
    let limits = Limits { rows: 48, logits: 48, sequences: 2, context: 24 };
    let program = Program::from(case.config.forward(limits).unwrap());
    let rows = packed(&case.io.get("input_ids"));
    let wanted: Vec<usize> = (0..rows.len()).collect();
    let expected = case.io.get("logits");
    for pass in ["fold", "fuse", "bind.share", "place", "schedule"] {
        let backend = Engine::without(&[pass]);
        let mut session = backend.open(&program, &|name| case.weight(name));
        let mut logits = run(&mut *session, limits, &rows, &wanted);
        logits.shape.clone_from(&expected.shape);
        assert_close(&backend.name(), &logits, &expected, TOLERANCE);
    }
}

#[test]
fn a_row_that_no_cache_has_is_refused() {
    let case = case("llama3");
    let limits = Limits { rows: 4, logits: 1, sequences: 2, context: 8 };
    let program = Program::from(case.config.forward(limits).unwrap());
    let backend = Engine::without(&[]);
    for (row, what) in [((1.0, 2, 0), "sequence"), ((1.0, 0, 8), "position"), ((256.0, 0, 0), "embed")] {
        let message = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut session = backend.open(&program, &|name| case.weight(name));
            run(&mut *session, limits, &[row], &[0]);
        }));
        let message = *message.unwrap_err().downcast::<String>().unwrap();
        assert!(message.contains(what) && message.contains("expected 0.."), "{message}");
    }
}

#[test]
fn as_black_boxes_they_give_the_logits_of_every_id() {
    let device = Device::cpu(CpuOptions { threads: 2, ..CpuOptions::default() }).unwrap();
    for name in ["llama3", "llama2_tied", "qwen3", "gpt2"] {
        let folder = path(&format!("tests/golden/models/{name}"));
        let network = networks::open(&folder, &device).unwrap();
        let file = NamedTensors::open(folder.join("io.safetensors")).unwrap();
        let ids = file.get("input_ids").unwrap();
        let given = NamedTensors::new().with("input_ids", &ids.shape, ids.values.clone()).unwrap();
        let out = network.run(&given).unwrap();
        let logits = out.get("logits").unwrap();
        let found = Array::from_f32(&logits.shape, out.f32("logits").unwrap());
        assert_close(name, &found, &case(name).io.get("logits"), TOLERANCE);
    }
}
