//! Continuing a prompt token by token, greedily and by drawing, with several samples of one prompt:
//! `cargo run --release -p selftok --example 03_complete [MODEL [TEXT]]`. Without a model it continues ids with the tiny
//! one of the tests, whose weights are random.

use selftok::Device;
use selftok::generate::{CausalModel, Event, Options, Prompt, Sampling, Sessions};
use std::ops::ControlFlow;
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let tiny = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/models/llama3");
    let path = std::env::args().nth(1).unwrap_or(tiny.into());
    let model = CausalModel::open(&path, &Device::auto()?)?; // checks every tensor
    let text = model.text().ok();
    let prompt = match (&text, std::env::args().nth(2)) {
        (Some(text), words) => text.encode(words.as_deref().unwrap_or("The capital of France is"))?,
        (None, _) => vec![1, 2, 3, 5, 8, 13],
    };
    let show = |ids: &[u32]| match &text {
        Some(text) => text.decode(ids).unwrap_or_default(),
        None => format!("{ids:?}"),
    };

    // One compiled plan serves everything below.
    let mut session = model.session(Sessions { sequences: 3, context: 128, ..Sessions::default() })?;
    let stop = model.stop_ids();

    let start = Instant::now();
    let mut first = None;
    let mut on_token = |_: Event| {
        first.get_or_insert_with(|| start.elapsed());
        ControlFlow::Continue(()) // Break would end it
    };
    let options = Options { max_new: 32, stop: &stop, on_token: Some(&mut on_token), ..Options::default() };
    let greedy = session.complete(&[Prompt::new(&prompt)], options)?;
    let rest = start.elapsed() - first.unwrap_or_default();
    println!("greedy: {}", show(&greedy[0].ids));
    println!("  first token after {:?}, the others in {rest:?}", first.unwrap_or_default());

    let sampling = Sampling { temperature: 0.8, top_p: 0.95, ..Sampling::default() };
    let options = Options { max_new: 32, sampling, seed: 7, stop: &stop, ..Options::default() };
    for (i, sample) in session.complete(&[Prompt::new(&prompt).samples(3)], options)?.iter().enumerate() {
        let likelihood: f32 = sample.log_probabilities.iter().sum();
        println!("sample {i}: {} (log probability {likelihood:.1})", show(&sample.ids));
    }
    Ok(())
}
