//! `complete`: continues a text with a causal transformer, token by token.

use crate::args::{ActivationType, Common, Complete};
use crate::failure::Usage;
use crate::job::{device, watch_signals};
use crate::output::{note, print, print_json};
use anyhow::Result;
use selftok::Activations;
use selftok::generate::{
    CausalModel, Event, Finish, Message, Options, Prompt, Sampling, Sessions, Text, TextStream,
};
use std::ops::ControlFlow;
use std::time::Instant;

/// Runs the command.
///
/// Errors: the model cannot be opened, the prompt does not fit it, or an option is not possible.
pub fn run(common: &Common, args: Complete) -> Result<()> {
    let cancel = watch_signals()?;
    let activations = match args.activations {
        ActivationType::F32 => Activations::F32,
        ActivationType::Int8 => Activations::Int8,
    };
    let model = CausalModel::open(&args.model, &device(common)?.with_activations(activations))?;
    // Ids need no tokenizer: without one, ids are printed.
    let text = match (model.text(), args.ids.is_empty()) {
        (Ok(text), _) => Some(text),
        (Err(_), false) => None,
        (Err(error), true) => return Err(error.into()),
    };
    let prompt = prompt(&args, &model, text.as_ref())?;
    let context = model.config().max_positions().min(prompt.len().saturating_add(args.max_new.max(1)));
    let mut session = model.session(Sessions { context: context.max(1), ..Sessions::default() })?;
    let stop = if args.ignore_stop { vec![] } else { model.stop_ids() };
    let sampling = Sampling {
        temperature: args.temperature,
        top_k: args.top_k,
        top_p: args.top_p,
        min_p: args.min_p,
        repetition_penalty: args.repetition_penalty,
    };
    let mut writer = Writer { stream: text.as_ref().map(Text::stream), failure: None, quiet: common.json };
    let started = Instant::now();
    let mut first = None;
    let mut on_token = |event: Event| {
        first.get_or_insert_with(|| started.elapsed());
        let ends = event.finish == Some(Finish::Stop);
        if ends { ControlFlow::Continue(()) } else { writer.write(event.id) }
    };
    let options = Options {
        max_new: args.max_new,
        sampling,
        seed: args.seed,
        stop: &stop,
        on_token: Some(&mut on_token),
        cancel: Some(&cancel),
        ..Options::default()
    };
    let done = session.complete(&[Prompt::new(&prompt)], options)?.remove(0);
    let elapsed = started.elapsed();
    writer.finish()?;
    let first = first.unwrap_or_default();
    let rate = done.ids.len().saturating_sub(1) as f64 / (elapsed - first).as_secs_f64().max(1e-9);
    let first = first.as_secs_f64();
    if common.json {
        let text = text.map(|text| text.decode(&done.ids)).transpose()?;
        let mut line = serde_json::json!({ "ids": done.ids, "text": text });
        if args.stats {
            let stats = serde_json::json!({ "prompt_tokens": prompt.len(), "first_token_s": first, "tokens_per_s": rate });
            line["stats"] = stats;
        }
        print_json(&line)?;
    } else {
        print("\n")?;
    }
    if args.stats && !common.quiet {
        note(&format!("{} prompt tokens in {first:.3} s, then {rate:.1} tokens a second", prompt.len()));
    }
    Ok(())
}

/// The ids to continue.
fn prompt(args: &Complete, model: &CausalModel, text: Option<&Text>) -> Result<Vec<u32>> {
    match (&args.text, text) {
        (None, _) if !args.ids.is_empty() => Ok(args.ids.clone()),
        (Some(words), Some(text)) if args.chat => {
            let system = args.system.iter().map(|system| Message::new("system", system));
            let messages: Vec<Message> = system.chain([Message::new("user", words)]).collect();
            Ok(text.encode_rendered(&model.chat_template()?.render(&messages)?)?)
        }
        (Some(words), Some(text)) => Ok(text.encode(words)?),
        _ => Err(Usage("give a text to continue, or --ids".into()).into()),
    }
}

/// Prints tokens as they come: as text, or as ids where there is no tokenizer.
struct Writer<'a> {
    stream: Option<TextStream<'a>>,
    failure: Option<anyhow::Error>,
    quiet: bool,
}

impl Writer<'_> {
    fn write(&mut self, id: u32) -> ControlFlow<()> {
        if self.quiet {
            return ControlFlow::Continue(());
        }
        let piece = match &mut self.stream {
            Some(stream) => stream.push(id).map_err(anyhow::Error::from),
            None => Ok(format!("{id} ")),
        };
        match piece.and_then(|piece| print(&piece)) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                self.failure = Some(error);
                ControlFlow::Break(())
            }
        }
    }

    fn finish(&mut self) -> Result<()> {
        if let Some(error) = self.failure.take() {
            return Err(error);
        }
        match &mut self.stream {
            Some(stream) if !self.quiet => print(&stream.finish()?),
            _ => Ok(()),
        }
    }
}
