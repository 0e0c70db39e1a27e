//! Generation against the golden continuations: greedy, in batches, after prefix reuse, guided, constrained; and that
//! decoding allocates nothing.

#[path = "../../tests/support/allocations.rs"]
mod allocations;

use selftok::Device;
use selftok::generate::{CausalModel, Finish, Guidance, Options, Prompt, Sampling, Sessions};
use selftok::{CpuOptions, Error};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/models").join(name)
}

fn model(name: &str) -> CausalModel {
    let device = Device::cpu(CpuOptions { threads: 1, ..CpuOptions::default() }).unwrap();
    CausalModel::open(folder(name), &device).unwrap_or_else(|error| panic!("{error}"))
}

fn tensor(name: &str, tensor: &str) -> Vec<u8> {
    let bytes = std::fs::read(folder(name).join("io.safetensors")).unwrap();
    safetensors::SafeTensors::deserialize(&bytes).unwrap().tensor(tensor).unwrap().data().to_vec()
}

fn ids(name: &str, of: &str) -> Vec<u32> {
    tensor(name, of).as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b) as u32).collect()
}

const MODELS: [&str; 4] = ["llama3", "llama2_tied", "qwen3", "gpt2"];

#[test]
fn greedy_continuations_are_those_of_the_reference_library() {
    for name in MODELS {
        let model = model(name);
        let expected = ids(name, "greedy");
        // Runs of 7 rows: the prompt comes in pieces.
        let mut session = model.session(Sessions { sequences: 1, context: 40, rows: 7 }).unwrap();
        let options = Options { max_new: 16, ..Options::default() };
        let done = session.complete(&[Prompt::new(&expected[..24])], options).unwrap();
        assert_eq!(done[0].ids, expected[24..], "{name}");
        assert_eq!(done[0].finish, Some(Finish::Length));
        let logits: Vec<f32> =
            tensor(name, "greedy_logits").as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        for (i, (&id, &found)) in done[0].ids.iter().zip(&done[0].log_probabilities).enumerate() {
            let row = &logits[(23 + i) * 256..][..256];
            let sum: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
            let expected = f64::from(row[id as usize]) - sum.ln();
            assert!((f64::from(found) - expected).abs() < 1e-4, "{name}: {found}, expected {expected}");
        }
    }
}

#[test]
fn the_black_box_gives_the_logits_of_the_reference_library() {
    for name in MODELS {
        let input: Vec<i64> = ids(name, "input_ids").into_iter().map(i64::from).collect();
        let found = model(name).logits(&input, 2).unwrap();
        let expected = tensor(name, "logits");
        let expected = expected.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b));
        let worst = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-4, "{name}: {worst}");
    }
}

#[test]
fn a_prompt_gives_the_same_ids_alone_in_a_batch_and_after_prefix_reuse() {
    let model = model("llama3");
    let (long, other) = (ids("llama3", "greedy"), ids("llama3", "input_ids"));
    let mut session = model.session(Sessions { sequences: 7, context: 64, rows: 32 }).unwrap();
    for temperature in [0.0, 1.0] {
        let sampling = Sampling { temperature, top_p: 0.95, ..Sampling::default() };
        let options = || Options { max_new: 12, sampling, seed: 5, ..Options::default() };
        let alone = session.complete(&[Prompt::new(&long[..24])], options()).unwrap();
        let prompts = [
            Prompt::new(&other[..3]),
            Prompt::new(&long[..24]).samples(3),
            Prompt::new(&other[30..41]).samples(3),
        ];
        let batch = session.complete(&prompts, options()).unwrap();
        assert_eq!(batch.len(), 7);
        assert_eq!(batch[1], alone[0]);
        let apart = session.complete(&[Prompt::new(&long[..24]).samples(3)], options()).unwrap();
        assert_eq!(batch[1..4], apart);
        assert_eq!(apart[1].ids == apart[0].ids, temperature == 0.0, "samples differ when they are drawn");
    }
}

#[test]
fn guidance_mixes_the_logits_of_two_prompts() {
    let model = model("llama3");
    let (a, b) = (ids("llama3", "greedy"), ids("llama3", "input_ids"));
    let mut session = model.session(Sessions { sequences: 2, context: 64, rows: 32 }).unwrap();
    let mut run = |scale: f32| {
        let prompt = Prompt::new(&a[..24]).guided(Guidance { prompt: &b[..9], scale });
        session.complete(&[prompt], Options { max_new: 6, ..Options::default() }).unwrap().remove(0).ids
    };
    assert_eq!(run(1.0), a[24..30], "at scale 1 the other prompt does not count");
    // The same by hand, from whole sequences.
    let mut new = vec![];
    for _ in 0..6 {
        let last = |prompt: &[u32]| {
            let ids: Vec<i64> = prompt.iter().chain(&new).map(|&id| i64::from(id)).collect();
            model.logits(&ids, 1).unwrap().split_off((ids.len() - 1) * 256)
        };
        let (c, u) = (last(&a[..24]), last(&b[..9]));
        let mixed: Vec<f32> = c.iter().zip(&u).map(|(c, u)| u + 3.0 * (c - u)).collect();
        new.push((0..256).max_by(|&i, &j| mixed[i].total_cmp(&mixed[j])).unwrap() as u32);
    }
    assert_eq!(run(3.0), new);
}

#[test]
fn a_constraint_a_stop_id_and_the_callback_are_obeyed() {
    let model = model("qwen3");
    let greedy = ids("qwen3", "greedy");
    let mut session = model.session(Sessions { sequences: 1, context: 40, rows: 32 }).unwrap();
    let mut even = |_: usize, _: &[u32], allowed: &mut [bool]| {
        allowed.iter_mut().enumerate().for_each(|(id, allowed)| *allowed = id % 2 == 0);
    };
    let options = Options { max_new: 8, constraint: Some(&mut even), ..Options::default() };
    let done = session.complete(&[Prompt::new(&greedy[..24])], options).unwrap();
    assert!(done[0].ids.len() == 8 && done[0].ids.iter().all(|id| id % 2 == 0));
    let mut nothing = |_: usize, _: &[u32], allowed: &mut [bool]| allowed.fill(false);
    let options = Options { constraint: Some(&mut nothing), ..Options::default() };
    let error = session.complete(&[Prompt::new(&greedy[..24])], options).unwrap_err();
    assert!(error.to_string().contains("allows no id"), "{error}");

    let stop = [greedy[26]];
    let first = greedy[24..].iter().position(|id| stop.contains(id)).unwrap();
    let options = Options { stop: &stop, ..Options::default() };
    let done = session.complete(&[Prompt::new(&greedy[..24])], options).unwrap();
    assert_eq!((&done[0].ids[..], done[0].finish), (&greedy[24..=24 + first], Some(Finish::Stop)));

    let mut seen = vec![];
    let mut three = |event: selftok::generate::Event| {
        seen.push(event.id);
        if seen.len() == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let options = Options { on_token: Some(&mut three), ..Options::default() };
    session.complete(&[Prompt::new(&greedy[..24])], options).unwrap();
    assert_eq!(seen, greedy[24..27]);

    let cancel = AtomicBool::new(true);
    let options = Options { cancel: Some(&cancel), ..Options::default() };
    assert!(session.complete(&[Prompt::new(&greedy[..24])], options).unwrap_err().is_cancelled());
}

#[test]
fn what_cannot_be_is_one_sentence() {
    let model = model("gpt2");
    let mut session = model.session(Sessions { sequences: 2, context: 16, rows: 8 }).unwrap();
    let mut error = |prompts: &[Prompt<'_>], sampling: Sampling| -> String {
        session.complete(prompts, Options { sampling, ..Options::default() }).unwrap_err().to_string()
    };
    let plain = Sampling::default();
    assert!(error(&[Prompt::new(&[])], plain).contains("prompt 0 is empty"));
    assert!(error(&[Prompt::new(&[1; 16])], plain).contains("a prompt of 16 tokens: the context holds 16"));
    assert!(error(&[Prompt::new(&[1, 256])], plain).contains("id 256 at position 1: expected 0..256"));
    assert!(error(&[Prompt::new(&[1]).samples(3)], plain).contains("3 sequences at once"));
    assert!(error(&[Prompt::new(&[1])], Sampling { min_p: 2.0, ..plain }).contains("min_p = 2"));
    let long: Result<_, Error> = model.session(Sessions { context: 1000, ..Sessions::default() });
    assert!(long.err().unwrap().to_string().contains("context = 1000"));
    // A full context ends a sequence.
    let done = session.complete(&[Prompt::new(&[1; 14])], Options::default()).unwrap();
    assert_eq!((done[0].ids.len(), done[0].finish), (3, Some(Finish::Context)));
}

/// The golden Llama 3 as if it had been made for 2048 tokens.
fn long_model() -> (tempfile::TempDir, CausalModel) {
    let to = tempfile::tempdir().unwrap();
    let config = std::fs::read_to_string(folder("llama3").join("config.json")).unwrap();
    let longer = config.replace("\"max_position_embeddings\": 512", "\"max_position_embeddings\": 2048");
    assert_ne!(longer, config);
    std::fs::write(to.path().join("config.json"), longer).unwrap();
    std::fs::copy(folder("llama3").join("model.safetensors"), to.path().join("model.safetensors")).unwrap();
    let device = Device::cpu(CpuOptions { threads: 1, ..CpuOptions::default() }).unwrap();
    let model = CausalModel::open(to.path(), &device).unwrap();
    (to, model)
}

#[test]
fn a_thousand_tokens_in_a_row_are_decoded_by_one_plan_without_an_allocation() {
    let (_folder, model) = long_model();
    let prompt = ids("llama3", "greedy");
    let mut session = model.session(Sessions { context: 1100, rows: 16, ..Sessions::default() }).unwrap();
    assert_eq!(model.plans(), 1);
    let drawn = Sampling { temperature: 0.9, top_k: 100, top_p: 0.95, min_p: 0.01, repetition_penalty: 1.1 };
    for sampling in [Sampling::default(), drawn] {
        let (mut tokens, mut first, mut last) = (0, 0, 0);
        let mut watch = |_: selftok::generate::Event| {
            tokens += 1;
            last = allocations::of_thread();
            if tokens == 1 {
                first = last;
            }
            ControlFlow::Continue(())
        };
        let options = Options { max_new: 1050, sampling, on_token: Some(&mut watch), ..Options::default() };
        let done = session.complete(&[Prompt::new(&prompt[..24])], options).unwrap().remove(0);
        assert_eq!(done.ids.len(), 1050);
        assert_eq!(last - first, 0, "allocations in {tokens} steps");
    }
    // Any length of prompt, and longer than a run.
    for length in [1, 2, 15, 16, 17, 40] {
        let long: Vec<u32> = prompt.iter().cycle().take(length).copied().collect();
        session.complete(&[Prompt::new(&long)], Options { max_new: 3, ..Options::default() }).unwrap();
    }
    assert_eq!(model.plans(), 1);
}

#[test]
fn what_fits_a_plan_compiles_no_other() {
    let (_folder, model) = long_model();
    let prompt = ids("llama3", "greedy");
    let run = |context: usize, sequences: usize| {
        let mut session = model.session(Sessions { sequences, context, ..Sessions::default() }).unwrap();
        assert_eq!(session.context(), context);
        let options = Options { max_new: 4, ..Options::default() };
        let prompts = vec![Prompt::new(&prompt[..24]); sequences];
        let done = session.complete(&prompts, options).unwrap();
        assert!(done.iter().all(|done| done.ids == prompt[24..28]), "{context} {sequences}");
        // The limit is the caller's, not the plan's.
        let over = session.complete(&[Prompt::new(&vec![1; context])], Options::default()).unwrap_err();
        assert!(over.to_string().contains(&format!("the context holds {context}")), "{over}");
        let over = session.complete(&vec![Prompt::new(&[1]); sequences + 1], Options::default());
        assert!(over.unwrap_err().to_string().contains(&format!("{} sequences at once", sequences + 1)));
        model.plans()
    };
    assert_eq!(run(40, 1), 1);
    assert_eq!((run(64, 1), run(33, 1)), (1, 1));
    assert_eq!((run(65, 1), run(128, 1), run(100, 1)), (2, 2, 2));
    assert_eq!((run(64, 3), run(50, 4)), (3, 3));
    // All plans multiply by the same packed weights: the file is 450 KB.
    assert!(model.weight_bytes() < 600_000, "{}", model.weight_bytes());
    let input: Vec<i64> = ids("llama3", "input_ids").into_iter().map(i64::from).collect();
    let whole = model.logits(&input, 2).unwrap();
    let plans = model.plans();
    for length in [1, 2, 9, 17, input.len() / 2] {
        let part = model.logits(&input[..length], 1).unwrap();
        let worst = part.iter().zip(&whole).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-5, "{length}: {worst}");
        assert_eq!(model.plans(), plans + 1, "batches of one, however long, are one plan more");
    }
    for wrong in
        [Sessions { rows: 0, sequences: 0, context: 64 }, Sessions { context: 2049, ..Sessions::default() }]
    {
        assert!(model.session(wrong).is_err());
    }
}
