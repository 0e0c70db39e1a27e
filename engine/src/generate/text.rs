//! Text to ids and back, and text as it streams.

use super::{GenerateError, vocabulary};
use crate::Error;
use selftok_loader::Metadata;
use std::path::Path;
use tokenizers::Tokenizer;

/// A model's tokenizer.
pub struct Text {
    model: String,
    tokenizer: Tokenizer,
    /// Put before a text, where the tokenizer does not do it itself.
    first: Option<u32>,
}

impl Text {
    /// From the `tokenizer.json` of a folder.
    pub(super) fn from_folder(path: &Path) -> Result<Text, Error> {
        let file = path.join("tokenizer.json");
        let model = file.display().to_string();
        let bytes = std::fs::read(&file).map_err(|e| selftok_loader::Error::Io { path: file, source: e })?;
        Text::parse(model, &bytes, None)
    }

    /// From the metadata of a GGUF file.
    pub(super) fn from_gguf(path: &Path, metadata: Metadata<'_>) -> Result<Text, Error> {
        let model = path.display().to_string();
        let (json, first) = vocabulary::tokenizer_json(metadata)
            .map_err(|what| GenerateError::Tokenizer { model: model.clone(), what })?;
        Text::parse(model, json.to_string().as_bytes(), first)
    }

    fn parse(model: String, json: &[u8], first: Option<u32>) -> Result<Text, Error> {
        match Tokenizer::from_bytes(json) {
            Ok(tokenizer) => Ok(Text { model, tokenizer, first }),
            Err(error) => Err(GenerateError::Tokenizer { model, what: error.to_string() }.into()),
        }
    }

    fn failed(&self, error: tokenizers::Error) -> Error {
        GenerateError::Tokenizer { model: self.model.clone(), what: error.to_string() }.into()
    }

    /// The ids of a text, with what the model expects at its beginning.
    ///
    /// # Errors
    /// If the tokenizer cannot take it.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, Error> {
        let encoding = self.tokenizer.encode(text, true).map_err(|e| self.failed(e))?;
        Ok(self.first.into_iter().chain(encoding.get_ids().iter().copied()).collect())
    }

    /// The ids of a rendered chat, which says itself what stands at its beginning.
    ///
    /// # Errors
    /// If the tokenizer cannot take it.
    pub fn encode_rendered(&self, text: &str) -> Result<Vec<u32>, Error> {
        let encoding = self.tokenizer.encode(text, false).map_err(|e| self.failed(e))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of ids, without special ones.
    ///
    /// # Errors
    /// If the tokenizer cannot take them.
    pub fn decode(&self, ids: &[u32]) -> Result<String, Error> {
        self.tokenizer.decode(ids, true).map_err(|e| self.failed(e))
    }

    /// A stream of ids to text.
    pub fn stream(&self) -> TextStream<'_> {
        TextStream { text: self, ids: vec![], from: 0, shown: 0 }
    }
}

/// Turns ids into text as they come. A character may take several ids, and a tokenizer may join what two ids give: only
/// what the ids to come cannot change is given out.
pub struct TextStream<'a> {
    text: &'a Text,
    ids: Vec<u32>,
    /// First id of the window that is decoded.
    from: usize,
    /// One past the last id whose text was given out.
    shown: usize,
}

impl TextStream<'_> {
    /// The text that one more id adds.
    ///
    /// # Errors
    /// If the tokenizer cannot take it.
    pub fn push(&mut self, id: u32) -> Result<String, Error> {
        self.ids.push(id);
        self.advance(false)
    }

    /// What is left: a character that never became whole.
    ///
    /// # Errors
    /// If the tokenizer cannot take it.
    pub fn finish(&mut self) -> Result<String, Error> {
        self.advance(true)
    }

    fn advance(&mut self, last: bool) -> Result<String, Error> {
        let before = self.text.decode(&self.ids[self.from..self.shown])?;
        let after = self.text.decode(&self.ids[self.from..])?;
        let part_of_character = after.ends_with('\u{fffd}') && !last;
        match after.strip_prefix(before.as_str()) {
            Some(new) if !new.is_empty() && !part_of_character => {
                (self.from, self.shown) = (self.shown, self.ids.len());
                Ok(new.to_string())
            }
            _ => Ok(String::new()),
        }
    }
}
