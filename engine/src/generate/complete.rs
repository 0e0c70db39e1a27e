//! Completing prompts: prefill in pieces, fork for samples, then one token a step for all sequences together.

use super::rows::Rows;
use super::sampler::log_probability;
use super::{GenerateError, Sampler, Sampling};
use crate::Error;
use crate::random::Generator;
use selftok_graph::models::causal::Limits;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};

/// What a session is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sessions {
    /// Sequences at once: samples of all prompts, and one more for each that is guided.
    pub sequences: usize,
    /// Tokens of a sequence, prompt included; 0 for as many as the model was made for, at most 4096.
    pub context: usize,
    /// Rows of a run: a longer prompt is read in pieces of this size.
    pub rows: usize,
}

impl Default for Sessions {
    fn default() -> Self {
        Sessions { sequences: 1, context: 0, rows: 128 }
    }
}

/// Classifier-free guidance: logits `u + scale (c - u)`, where `u` are those after another prompt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Guidance<'a> {
    /// The unconditional (or negative) prompt.
    pub prompt: &'a [u32],
    /// How far to go: 1 is no guidance.
    pub scale: f32,
}

/// A prompt and how often to continue it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prompt<'a> {
    ids: &'a [u32],
    samples: usize,
    guidance: Option<Guidance<'a>>,
}

impl<'a> Prompt<'a> {
    /// One continuation of these ids.
    pub fn new(ids: &'a [u32]) -> Prompt<'a> {
        Prompt { ids, samples: 1, guidance: None }
    }

    /// So many continuations. The prompt is read once, and its caches are copied.
    pub fn samples(self, samples: usize) -> Prompt<'a> {
        Prompt { samples, ..self }
    }

    /// Guided away from another prompt.
    pub fn guided(self, guidance: Guidance<'a>) -> Prompt<'a> {
        Prompt { guidance: Some(guidance), ..self }
    }
}

/// A token as it comes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Event {
    /// Which sequence: samples of the first prompt, then of the second, and so on.
    pub sequence: usize,
    /// The id.
    pub id: u32,
    /// Logarithm of its probability under the model's own distribution, before penalty and temperature; guidance
    /// included.
    pub log_probability: f32,
    /// Set with the last token.
    pub finish: Option<Finish>,
}

/// Why a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// A stop id; it is part of the result.
    Stop,
    /// As many new tokens as were asked for.
    Length,
    /// The context is full.
    Context,
}

/// Rules out ids: given a sequence, its new ids so far, and an entry for each id of the vocabulary, all true at first.
pub type Constraint<'a> = dyn FnMut(usize, &[u32], &mut [bool]) + 'a;

/// How to continue.
pub struct Options<'a> {
    /// The most new tokens of each sequence.
    pub max_new: usize,
    /// How ids are drawn.
    pub sampling: Sampling,
    /// Seed: sample `i` of a prompt draws from seed `seed + i`, whatever else is in the batch.
    pub seed: u64,
    /// Ids that end a sequence.
    pub stop: &'a [u32],
    /// Which ids may come next.
    pub constraint: Option<&'a mut Constraint<'a>>,
    /// Called with each token as it comes; `Break` ends all.
    pub on_token: Option<&'a mut dyn FnMut(Event) -> ControlFlow<()>>,
    /// Once true, the completion ends with an error that [`Error::is_cancelled`] knows.
    pub cancel: Option<&'a AtomicBool>,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Options {
            max_new: 64,
            sampling: Sampling::default(),
            seed: 0,
            stop: &[],
            constraint: None,
            on_token: None,
            cancel: None,
        }
    }
}

/// A continuation.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    /// The new ids.
    pub ids: Vec<u32>,
    /// Logarithm of the probability of each, as in [`Event`].
    pub log_probabilities: Vec<f32>,
    /// Why it ended; `None` where the callback ended it.
    pub finish: Option<Finish>,
}

/// A compiled network with caches. One plan serves every prompt, length and mix; nothing is allocated while it decodes.
pub struct Session {
    rows: Rows,
    limits: Limits,
    vocabulary: usize,
    sampler: Sampler,
    /// The latest logits of each cache.
    logits: Vec<f32>,
    mixed: Vec<f32>,
    allowed: Vec<bool>,
}

/// A sequence under way.
struct Sequence {
    cache: usize,
    /// Tokens in the cache.
    length: usize,
    /// Cache and length of the unconditional prompt, and the scale.
    guide: Option<(usize, usize, f32)>,
    /// Prompt and new ids, for the penalty.
    history: Vec<u32>,
    prompt: usize,
    log_probabilities: Vec<f32>,
    random: Generator,
    finish: Option<Finish>,
}

/// A cache to fill with a prompt, and the caches to copy it to.
struct Fill<'a> {
    ids: &'a [u32],
    cache: usize,
    copies: std::ops::Range<usize>,
}

impl Session {
    pub(super) fn new(rows: Rows, limits: Limits, vocabulary: usize) -> Session {
        Session {
            rows,
            limits,
            vocabulary,
            sampler: Sampler::new(vocabulary),
            logits: vec![0.0; limits.sequences * vocabulary],
            mixed: vec![0.0; vocabulary],
            allowed: vec![true; vocabulary],
        }
    }

    /// Tokens of a sequence.
    pub fn context(&self) -> usize {
        self.limits.context
    }

    /// Continues prompts, all at once. Results in order: samples of the first prompt, then of the second, and so on.
    ///
    /// # Errors
    /// If a prompt is empty, too long or holds an unknown id, an option is not possible, there are more sequences than
    /// caches, or the run was cancelled.
    pub fn complete(
        &mut self,
        prompts: &[Prompt<'_>],
        mut options: Options<'_>,
    ) -> Result<Vec<Completion>, Error> {
        options.sampling.validate()?;
        let (mut sequences, fills) = self.plan(prompts, &options)?;
        self.prefill(&fills, options.cancel)?;
        let mut stopped = options.max_new == 0;
        while !stopped && sequences.iter().any(|s| s.finish.is_none()) {
            for (number, sequence) in sequences.iter_mut().enumerate() {
                if sequence.finish.is_some() {
                    continue;
                }
                let event = self.draw(number, sequence, &mut options)?;
                if let Some(on_token) = &mut options.on_token {
                    stopped |= on_token(event).is_break();
                }
            }
            if options.cancel.is_some_and(|cancel| cancel.load(Ordering::Relaxed)) {
                return Err(GenerateError::Cancelled.into());
            }
            if !stopped {
                self.step(&mut sequences, options.cancel)?;
            }
        }
        Ok(sequences
            .into_iter()
            .map(|mut s| Completion {
                ids: s.history.split_off(s.prompt),
                log_probabilities: s.log_probabilities,
                finish: s.finish,
            })
            .collect())
    }

    /// Checks prompts and gives each sequence its caches.
    fn plan<'a>(
        &self,
        prompts: &[Prompt<'a>],
        options: &Options<'_>,
    ) -> Result<(Vec<Sequence>, Vec<Fill<'a>>), GenerateError> {
        let (mut sequences, mut fills, mut caches) = (vec![], vec![], 0);
        let wanted = prompts.iter().map(|p| p.samples * (1 + usize::from(p.guidance.is_some())));
        let wanted: usize = wanted.fold(0, usize::saturating_add);
        if wanted > self.limits.sequences {
            return Err(GenerateError::TooMany { wanted, caches: self.limits.sequences });
        }
        for (number, prompt) in prompts.iter().enumerate() {
            if prompt.samples == 0 {
                continue;
            }
            let mut fill = |ids: &'a [u32]| {
                self.check(number, ids)?;
                let first = caches;
                caches += prompt.samples;
                fills.push(Fill { ids, cache: first, copies: first + 1..caches });
                Ok::<_, GenerateError>(first)
            };
            let first = fill(prompt.ids)?;
            let guide = match prompt.guidance {
                Some(guidance) => Some((fill(guidance.prompt)?, guidance.prompt.len(), guidance.scale)),
                None => None,
            };
            if let Some((_, _, scale)) = guide.filter(|(_, _, scale)| !scale.is_finite()) {
                let (option, value) = ("guidance", scale.to_string());
                return Err(GenerateError::Option { option, value, expected: "a finite scale" });
            }
            let room = options.max_new.min(self.limits.context);
            for i in 0..prompt.samples {
                let mut history = Vec::with_capacity(prompt.ids.len() + room);
                history.extend_from_slice(prompt.ids);
                sequences.push(Sequence {
                    cache: first + i,
                    length: prompt.ids.len(),
                    guide: guide.map(|(cache, length, scale)| (cache + i, length, scale)),
                    history,
                    prompt: prompt.ids.len(),
                    log_probabilities: Vec::with_capacity(room),
                    random: Generator::new(options.seed.wrapping_add(i as u64)),
                    finish: None,
                });
            }
        }
        Ok((sequences, fills))
    }

    fn check(&self, prompt: usize, ids: &[u32]) -> Result<(), GenerateError> {
        let (length, context, vocabulary) = (ids.len(), self.limits.context, self.vocabulary);
        if ids.is_empty() {
            return Err(GenerateError::EmptyPrompt { prompt });
        }
        if length >= context {
            return Err(GenerateError::PromptTooLong { length, context });
        }
        match ids.iter().position(|&id| id as usize >= vocabulary) {
            Some(position) => Err(GenerateError::Id { id: ids[position].into(), position, vocabulary }),
            None => Ok(()),
        }
    }

    /// Reads all prompts into their caches, packed, and copies them to their other samples.
    fn prefill(&mut self, fills: &[Fill<'_>], cancel: Option<&AtomicBool>) -> Result<(), Error> {
        // Caches whose last row is in the run that is being filled.
        let mut waiting = Vec::with_capacity(fills.len());
        for fill in fills {
            let last = fill.ids.len() - 1;
            for (position, &id) in fill.ids.iter().enumerate() {
                if self.rows.room() == 0 || (position == last && !self.rows.wants_room()) {
                    self.run(&mut waiting, cancel)?;
                }
                if let Some(row) = self.rows.push(id, fill.cache, position, position == last) {
                    waiting.push((row, fill.cache));
                }
            }
        }
        self.run(&mut waiting, cancel)?;
        for fill in fills {
            for copy in fill.copies.clone() {
                self.rows.copy_cache(fill.cache, copy, 0..fill.ids.len())?;
                let from = fill.cache * self.vocabulary;
                self.logits.copy_within(from..from + self.vocabulary, copy * self.vocabulary);
            }
        }
        Ok(())
    }

    /// Runs the rows that wait, and keeps their logits.
    fn run(&mut self, waiting: &mut Vec<(usize, usize)>, cancel: Option<&AtomicBool>) -> Result<(), Error> {
        if self.rows.waiting() > 0 {
            let n = self.vocabulary;
            let logits = self.rows.run(cancel)?;
            for (row, cache) in waiting.drain(..) {
                self.logits[cache * n..(cache + 1) * n].copy_from_slice(&logits[row * n..(row + 1) * n]);
            }
        }
        Ok(())
    }

    /// Draws the next id of a sequence from the logits of its cache.
    fn draw(
        &mut self,
        number: usize,
        sequence: &mut Sequence,
        options: &mut Options<'_>,
    ) -> Result<Event, GenerateError> {
        let n = self.vocabulary;
        let own = &self.logits[sequence.cache * n..(sequence.cache + 1) * n];
        let logits = match sequence.guide {
            None => own,
            Some((cache, _, scale)) => {
                let other = &self.logits[cache * n..(cache + 1) * n];
                for ((mixed, c), u) in self.mixed.iter_mut().zip(own).zip(other) {
                    *mixed = u + scale * (c - u);
                }
                &self.mixed
            }
        };
        let tokens = sequence.history.len() - sequence.prompt;
        let allowed = match &mut options.constraint {
            Some(constraint) => {
                self.allowed.fill(true);
                constraint(number, &sequence.history[sequence.prompt..], &mut self.allowed);
                if !self.allowed.contains(&true) {
                    return Err(GenerateError::NothingAllowed { sequence: number, tokens });
                }
                Some(&self.allowed[..])
            }
            None => None,
        };
        let drawn =
            self.sampler.draw(logits, &sequence.history, allowed, &options.sampling, &mut sequence.random);
        let id = drawn.ok_or(GenerateError::NotFinite { sequence: number, tokens })?;
        let log_probability = log_probability(logits, id);
        sequence.history.push(id);
        sequence.log_probabilities.push(log_probability);
        let longest = sequence.guide.map_or(0, |(_, length, _)| length).max(sequence.length);
        sequence.finish = if options.stop.contains(&id) {
            Some(Finish::Stop)
        } else if tokens + 1 == options.max_new {
            Some(Finish::Length)
        } else if longest >= self.limits.context {
            Some(Finish::Context)
        } else {
            None
        };
        Ok(Event { sequence: number, id, log_probability, finish: sequence.finish })
    }

    /// Runs the newest id of every sequence that goes on.
    fn step(&mut self, sequences: &mut [Sequence], cancel: Option<&AtomicBool>) -> Result<(), Error> {
        let n = self.vocabulary;
        let active = |s: &&mut Sequence| s.finish.is_none();
        for sequence in sequences.iter_mut().filter(active) {
            let id = sequence.history[sequence.history.len() - 1];
            self.rows.push(id, sequence.cache, sequence.length, true);
            sequence.length += 1;
            if let Some((cache, length, _)) = &mut sequence.guide {
                self.rows.push(id, *cache, *length, true);
                *length += 1;
            }
        }
        if self.rows.waiting() == 0 {
            return Ok(());
        }
        let logits = self.rows.run(cancel)?;
        let mut rows = logits.chunks_exact(n);
        for sequence in sequences.iter_mut().filter(active) {
            for cache in std::iter::once(sequence.cache).chain(sequence.guide.map(|(cache, ..)| cache)) {
                if let Some(row) = rows.next() {
                    self.logits[cache * n..(cache + 1) * n].copy_from_slice(row);
                }
            }
        }
        Ok(())
    }
}
