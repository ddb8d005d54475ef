//! Chat templates: a model's own Jinja text turns a conversation into the prompt it was trained on.

mod date;
mod json;

use std::path::PathBuf;

use lathe_diagnostic::{Diagnose, Diagnostic, Fault};
use minijinja::{Environment, Error, ErrorKind, Value, context};
use serde::{Deserialize, Serialize};
use thiserror::Error as ThisError;

use crate::file::ModelFile;
use crate::gguf::{GgufError, GgufErrorKind};

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks: `system`, `user` or `assistant`.
    pub role: String,
    /// What is said.
    pub content: String,
}

impl Message {
    /// A turn by `role`.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Message { role: role.into(), content: content.into() }
    }
}

/// A chat template that cannot be used.
#[derive(Debug, ThisError)]
pub enum ChatError {
    /// The metadata is of the wrong type.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// The model has no template.
    #[error("the model has no chat template")]
    Missing {
        /// The file, where there is one.
        path: Option<PathBuf>,
    },
    /// The template is not one that can be read.
    #[error("the model's chat template cannot be read: {0}")]
    Syntax(String),
    /// The template itself refused the conversation.
    #[error("the model's chat template refuses this conversation: {0}")]
    Refused(String),
    /// The template failed on this conversation.
    #[error("the model's chat template failed: {0}")]
    Failed(String),
}

impl Diagnose for ChatError {
    fn diagnostic(&self) -> Diagnostic {
        let new = |code, fault| Diagnostic::new(code, fault, self.to_string());
        let raw = "use --raw to send the prompt without a template";
        match self {
            ChatError::Gguf(e) => e.diagnostic(),
            ChatError::Missing { path } => {
                let mut d = new("chat-no-template", Fault::User).fix(raw);
                d.place = path.as_ref().map(|p| p.display().to_string());
                d
            }
            ChatError::Syntax(_) => new("chat-template", Fault::File).fix(raw),
            ChatError::Refused(_) => {
                new("chat-refused", Fault::User).fix("change the order or the roles of the messages")
            }
            ChatError::Failed(_) => new("chat-failed", Fault::File).fix(raw),
        }
    }
}

/// The fuel a rendering may burn: far more than a conversation needs, far less than a person waits for.
const FUEL: u64 = 20_000_000;
const NAME: &str = "chat";

/// A model's chat template, ready to render.
///
/// ```
/// use lathe_models::{ChatTemplate, Message};
/// let template = ChatTemplate::new("{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}{% endfor %}")?;
/// assert_eq!(template.render(&[Message::new("user", "Hi")], false, "", "</s>")?, "<user>Hi</s>");
/// # Ok::<(), lathe_models::ChatError>(())
/// ```
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
}

impl ChatTemplate {
    /// A template from its Jinja text.
    pub fn new(source: &str) -> Result<ChatTemplate, ChatError> {
        let mut environment = Environment::new();
        // As `transformers` sets up Jinja for chat templates.
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_keep_trailing_newline(false);
        environment.set_fuel(Some(FUEL));
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_filter("tojson", json::tojson);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", date::strftime_now);
        environment
            .add_template_owned(NAME, source.to_owned())
            .map_err(|e| ChatError::Syntax(one_line(&e)))?;
        Ok(ChatTemplate { environment })
    }

    /// The template that the file carries.
    pub fn from_file(file: &ModelFile) -> Result<ChatTemplate, ChatError> {
        match file.find("tokenizer.chat_template")? {
            Some(source) => ChatTemplate::new(source).map_err(|e| match e {
                ChatError::Syntax(what) => {
                    let what = format!("the chat template cannot be read: {what}");
                    ChatError::Gguf(file.error(GgufErrorKind::Malformed(what)))
                }
                other => other,
            }),
            None => Err(ChatError::Missing { path: file.path().map(Into::into) }),
        }
    }

    /// The prompt for a conversation; with `add_generation_prompt` it ends where the assistant begins to speak.
    /// `bos` and `eos` are the texts of these tokens, empty where the model has none.
    pub fn render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
        bos: &str,
        eos: &str,
    ) -> Result<String, ChatError> {
        let template = self.environment.get_template(NAME).map_err(|e| ChatError::Failed(one_line(&e)))?;
        let values = context! {
            messages,
            add_generation_prompt,
            bos_token => bos,
            eos_token => eos,
            tools => Value::from(()),
            documents => Value::from(()),
        };
        template.render(values).map_err(|e| match refusal(&e) {
            Some(why) => ChatError::Refused(why),
            None => ChatError::Failed(one_line(&e)),
        })
    }
}

/// Marks an error that a template raised on purpose.
#[derive(Debug, ThisError)]
#[error("{0}")]
struct Refusal(String);

fn raise_exception(why: String) -> Result<String, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, why.clone()).with_source(Refusal(why)))
}

fn refusal(e: &(dyn std::error::Error + 'static)) -> Option<String> {
    let chain = std::iter::successors(Some(e), |e| e.source());
    chain.filter_map(|e| e.downcast_ref::<Refusal>()).map(|r| r.0.clone()).next()
}

fn one_line(e: &Error) -> String {
    let text = e.to_string();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
