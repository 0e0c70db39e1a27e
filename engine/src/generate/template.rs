//! A model's chat template: Jinja, as `tokenizer_config.json`, `chat_template.jinja` or a GGUF file carries it.

use super::GenerateError;
use super::date::strftime_now;
use crate::Error;
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, context};
use selftok_loader::{Metadata, read_json};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

/// A turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// What was said.
    pub content: String,
}

impl Message {
    /// A turn.
    pub fn new(role: &str, content: &str) -> Message {
        Message { role: role.into(), content: content.into() }
    }
}

/// A template, parsed.
pub struct ChatTemplate {
    model: String,
    environment: Environment<'static>,
    first: String,
    last: String,
}

/// What matters of `tokenizer_config.json`.
#[derive(Default, Deserialize)]
#[serde(default)]
struct TokenizerConfig {
    chat_template: Option<Templates>,
    bos_token: Option<Token>,
    eos_token: Option<Token>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Templates {
    One(String),
    Named(Vec<Named>),
}

#[derive(Deserialize)]
struct Named {
    name: String,
    template: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Token {
    Plain(String),
    Full { content: String },
}

fn content(token: Option<Token>) -> String {
    match token {
        Some(Token::Plain(content) | Token::Full { content }) => content,
        None => String::new(),
    }
}

impl ChatTemplate {
    pub(super) fn from_gguf(path: &Path, metadata: Metadata<'_>) -> Result<ChatTemplate, Error> {
        let model = path.display().to_string();
        let Some(template) = metadata.str("tokenizer.chat_template") else {
            return Err(missing(model));
        };
        let token = |key: &str| {
            let id = usize::try_from(metadata.u64(key)?).ok()?;
            metadata.array("tokenizer.ggml.tokens")?.iter().nth(id)?.as_str().map(String::from)
        };
        let first = token("tokenizer.ggml.bos_token_id").unwrap_or_default();
        let last = token("tokenizer.ggml.eos_token_id").unwrap_or_default();
        ChatTemplate::parse(model, template.into(), first, last)
    }

    pub(super) fn from_folder(path: &Path) -> Result<ChatTemplate, Error> {
        let model = path.display().to_string();
        let file = path.join("tokenizer_config.json");
        let config: TokenizerConfig = if file.is_file() { read_json(&file)? } else { Default::default() };
        let beside = std::fs::read_to_string(path.join("chat_template.jinja")).ok();
        let own = config.chat_template.and_then(|templates| match templates {
            Templates::One(template) => Some(template),
            Templates::Named(list) => {
                list.into_iter().find(|named| named.name == "default").map(|named| named.template)
            }
        });
        let Some(template) = beside.or(own) else { return Err(missing(model)) };
        ChatTemplate::parse(model, template, content(config.bos_token), content(config.eos_token))
    }

    fn parse(model: String, template: String, first: String, last: String) -> Result<ChatTemplate, Error> {
        let failed = |error: minijinja::Error| {
            Error::from(GenerateError::Template { model: model.clone(), what: error.to_string() })
        };
        let mut environment = Environment::new();
        // As Transformers sets up Jinja.
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(failed)?);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |what: String| -> Result<String, minijinja::Error> {
            Err(minijinja::Error::new(minijinja::ErrorKind::InvalidOperation, what))
        });
        environment.add_function("strftime_now", |format: String| {
            strftime_now(&format)
                .map_err(|what| minijinja::Error::new(minijinja::ErrorKind::InvalidOperation, what))
        });
        environment.add_template_owned("chat", template).map_err(failed)?;
        Ok(ChatTemplate { model, environment, first, last })
    }

    /// The conversation as the model was trained to read it, up to where the assistant's next turn begins.
    ///
    /// # Errors
    /// If the template refuses it.
    pub fn render(&self, messages: &[Message]) -> Result<String, Error> {
        let turn = |m: &Message| BTreeMap::from([("role", m.role.clone()), ("content", m.content.clone())]);
        let turns: Vec<BTreeMap<&str, String>> = messages.iter().map(turn).collect();
        let values = context! {
            messages => turns, add_generation_prompt => true, bos_token => self.first.as_str(), eos_token => self.last.as_str(),
            // Given and none, as Transformers has them: a template may ask either.
            tools => (), documents => (),
        };
        let rendered = self.environment.get_template("chat").and_then(|template| template.render(values));
        rendered.map_err(|error| {
            let (model, what) = (self.model.clone(), error.to_string());
            GenerateError::Template { model, what }.into()
        })
    }
}

fn missing(model: String) -> Error {
    let what = "there is none; give the prompt as the model expects it, without --chat".into();
    GenerateError::Template { model, what }.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHATML: &str = "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}\
        {{ '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}{% endif %}\
        {{'<|im_start|>' + message['role'] + '\n' + message['content'].strip() + '<|im_end|>' + '\n'}}{% endfor %}\
        {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

    #[test]
    fn a_template_as_published_renders_a_conversation() {
        let template = ChatTemplate::parse("m".into(), CHATML.into(), String::new(), String::new()).unwrap();
        let text = template.render(&[Message::new("user", " Hello ")]).unwrap();
        let expected = "<|im_start|>system\nYou are helpful.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n\
                        <|im_start|>assistant\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn published_kinds_of_template_give_what_jinja_gives() {
        #[derive(Deserialize)]
        struct Case {
            template: String,
            renderings: Vec<Rendering>,
        }
        #[derive(Deserialize)]
        struct Rendering {
            turns: Vec<(String, String)>,
            text: String,
        }
        let path =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/tokenizers/chat_templates.json");
        let cases: BTreeMap<String, Case> = read_json(&path).unwrap();
        assert_eq!(cases.len(), 3);
        for (name, case) in cases {
            let template =
                ChatTemplate::parse(name.clone(), case.template, "<s>".into(), "</s>".into()).unwrap();
            for rendering in case.renderings {
                let turns = rendering.turns.iter();
                let turns: Vec<Message> = turns.map(|(role, content)| Message::new(role, content)).collect();
                assert_eq!(template.render(&turns).unwrap(), rendering.text, "{name}");
            }
        }
        let year = "{{ strftime_now('%Y') }}".to_string();
        let template = ChatTemplate::parse("m".into(), year, String::new(), String::new()).unwrap();
        assert_eq!(template.render(&[]).unwrap().len(), 4);
    }

    #[test]
    fn a_template_that_refuses_says_why() {
        let raise = "{{ raise_exception('roles must alternate') }}".to_string();
        let template = ChatTemplate::parse("m".into(), raise, String::new(), String::new()).unwrap();
        assert!(template.render(&[]).unwrap_err().to_string().contains("roles must alternate"));
        let broken = ChatTemplate::parse("m".into(), "{% for %}".into(), String::new(), String::new());
        assert!(broken.err().unwrap().to_string().starts_with("m: chat template: "));
    }
}
