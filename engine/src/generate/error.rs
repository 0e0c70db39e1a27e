//! What can go wrong between a prompt and its continuation.

/// Logits of a black-box run, 4 GiB: what a batch takes must not surprise its caller.
const MAX_LOGITS: usize = 1 << 30;

impl GenerateError {
    /// Room for the logits of so many ids.
    pub(super) fn room(ids: usize, vocabulary: usize) -> Result<Vec<f32>, GenerateError> {
        let mut logits = Vec::new();
        match ids.checked_mul(vocabulary).filter(|&n| n <= MAX_LOGITS) {
            Some(n) if logits.try_reserve_exact(n).is_ok() => Ok(logits),
            _ => Err(GenerateError::TooManyLogits { ids, vocabulary }),
        }
    }
}

/// An error of generating text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GenerateError {
    /// A prompt without an id.
    #[error("prompt {prompt} is empty: expected at least one id")]
    EmptyPrompt {
        /// Which.
        prompt: usize,
    },
    /// A prompt that leaves no room for a new token.
    #[error("a prompt of {length} tokens: the context holds {context}, and a new token needs room in it")]
    PromptTooLong {
        /// Tokens of the prompt.
        length: usize,
        /// Tokens of the context.
        context: usize,
    },
    /// A text that the model was not made for.
    #[error("a text of {length} ids: the model was made for at most {context}")]
    TextTooLong {
        /// Ids of the text.
        length: usize,
        /// Positions of the model.
        context: usize,
    },
    /// More logits than are given at once.
    #[error("the logits of {ids} ids, {vocabulary} each: at most {most} numbers are given at once, as far as memory goes; give fewer texts", most = MAX_LOGITS)]
    TooManyLogits {
        /// Ids of all texts.
        ids: usize,
        /// Logits of each.
        vocabulary: usize,
    },
    /// A position that the model does not have.
    #[error("position_ids: {position} at {at}: expected 0..{most}")]
    Position {
        /// The position.
        position: i64,
        /// Where it stands in its text.
        at: usize,
        /// Positions of the model.
        most: usize,
    },
    /// A mask for a model with sliding windows.
    #[error(
        "attention_mask hides ids, which is not supported together with sliding windows: run texts of each length by themselves"
    )]
    WindowedMask,
    /// An id that the model does not have.
    #[error("id {id} at position {position}: expected 0..{vocabulary}")]
    Id {
        /// The id.
        id: i64,
        /// Where it stands in its prompt.
        position: usize,
        /// Number of ids.
        vocabulary: usize,
    },
    /// More sequences than there are caches.
    #[error(
        "{wanted} sequences at once (samples and guidance included): this session has caches for {caches}"
    )]
    TooMany {
        /// Asked for.
        wanted: usize,
        /// There are.
        caches: usize,
    },
    /// An option that is not possible.
    #[error("{option} = {value}: expected {expected}")]
    Option {
        /// Which.
        option: &'static str,
        /// Its value.
        value: String,
        /// What would be right.
        expected: &'static str,
    },
    /// A constraint that rules every id out.
    #[error("the constraint on sequence {sequence} allows no id after {tokens} new tokens")]
    NothingAllowed {
        /// Which.
        sequence: usize,
        /// Tokens so far.
        tokens: usize,
    },
    /// Logits that are no numbers.
    #[error("sequence {sequence}: the network gave logits that are not finite after {tokens} new tokens")]
    NotFinite {
        /// Which.
        sequence: usize,
        /// Tokens so far.
        tokens: usize,
    },
    /// The callback or the cancel flag stopped it.
    #[error("cancelled")]
    Cancelled,
    /// The model has no tokenizer, or one that is not understood.
    #[error("{model}: {what}")]
    Tokenizer {
        /// Path of the model or file.
        model: String,
        /// What is wrong.
        what: String,
    },
    /// The chat template cannot be used.
    #[error("{model}: chat template: {what}")]
    Template {
        /// Path of the model or file.
        model: String,
        /// What is wrong.
        what: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logits_beyond_the_bound_are_refused_before_they_take_memory() {
        assert_eq!(GenerateError::room(3, 5).unwrap().capacity(), 15);
        for (ids, vocabulary) in [(1 << 20, 1 << 20), (usize::MAX, 2)] {
            let error = GenerateError::room(ids, vocabulary).unwrap_err().to_string();
            assert!(error.contains(&format!("{ids} ids, {vocabulary} each")), "{error}");
        }
    }
}
