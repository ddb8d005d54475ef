//! Chat templates: a model's own Jinja text turns a conversation into the prompt it was trained on.

mod date;
mod json;
mod repr;

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use lathe_diagnostic::{Diagnose, Diagnostic, Fault};
use minijinja::{Environment, Error, ErrorKind, Value, context};
use serde::{Deserialize, Serialize};
use thiserror::Error as ThisError;

use crate::file::ModelFile;
use crate::gguf::{GgufError, GgufErrorKind};

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks: `system`, `user`, `assistant` or `tool`.
    pub role: String,
    /// What is said.
    #[serde(default)]
    pub content: String,
    /// What else a template may ask for, such as `tool_calls`, `tool_call_id` or `name`.
    #[serde(flatten)]
    pub fields: serde_json::Map<String, serde_json::Value>,
}

impl Message {
    /// A turn by `role`.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Message { role: role.into(), content: content.into(), fields: serde_json::Map::new() }
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

/// The fuel a rendering may burn, and the time: far more than a conversation needs, less than a person notices. Single
/// instructions may take long, so that fuel alone is no limit.
const FUEL: u64 = 10_000_000;
const TIME: Duration = Duration::from_millis(1500);
/// The stack of a rendering, for macros that call each other.
const STACK: usize = 16 << 20;
const NAME: &str = "chat";
/// The template for conversations with tools, where a model has one of its own.
const TOOL_USE: &str = "tool_use";
/// A template is no longer, bytes; and the stack that reads one of such length, however it is nested.
const MAX_SOURCE: usize = 1 << 17;
const PARSE_STACK: usize = 256 << 20;
/// A prompt is no longer, bytes.
const MAX_PROMPT: usize = 1 << 24;

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
    environment: Arc<Environment<'static>>,
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
        environment.set_formatter(repr::format);
        environment.add_filter("tojson", json::tojson);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", date::strftime_now);
        let environment = Arc::new(environment);
        ChatTemplate { environment }.with(NAME, source)
    }

    fn with(mut self, name: &'static str, source: &str) -> Result<ChatTemplate, ChatError> {
        let environment = Arc::make_mut(&mut self.environment);
        if source.len() > MAX_SOURCE {
            return Err(ChatError::Syntax(format!("it has more than {MAX_SOURCE} bytes")));
        }
        // Long chains of operators nest as deep as they are long.
        let add = || environment.add_template_owned(name, source.to_owned());
        let added = thread::scope(|scope| {
            let thread = thread::Builder::new().name("template".to_owned()).stack_size(PARSE_STACK);
            let started = thread.spawn_scoped(scope, add).map_err(|e| e.to_string())?;
            let ended = started.join().map_err(|_| "its parser failed".to_owned())?;
            ended.map_err(|e| one_line(&e))
        });
        added.map_err(ChatError::Syntax)?;
        Ok(self)
    }

    /// The template that the file carries, and the one for tools where there is one.
    pub fn from_file(file: &ModelFile) -> Result<ChatTemplate, ChatError> {
        let read = || {
            let Some(source) = file.find("tokenizer.chat_template")? else {
                return Err(ChatError::Missing { path: file.path().map(Into::into) });
            };
            let template = ChatTemplate::new(source)?;
            match file.find("tokenizer.chat_template.tool_use")? {
                Some(source) => template.with(TOOL_USE, source),
                None => Ok(template),
            }
        };
        read().map_err(|e| match e {
            ChatError::Syntax(what) => {
                let what = format!("the chat template cannot be read: {what}");
                ChatError::Gguf(file.error(GgufErrorKind::Malformed(what)))
            }
            other => other,
        })
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
        self.render_with_tools(messages, &[], add_generation_prompt, bos, eos)
    }

    /// Like [`render`](Self::render), with the tools that the assistant may call: each a JSON schema, as `transformers`
    /// hands it to a template.
    pub fn render_with_tools(
        &self,
        messages: &[Message],
        tools: &[serde_json::Value],
        add_generation_prompt: bool,
        bos: &str,
        eos: &str,
    ) -> Result<String, ChatError> {
        let values = context! {
            messages,
            add_generation_prompt,
            bos_token => bos,
            eos_token => eos,
            tools => if tools.is_empty() { Value::from(()) } else { Value::from_serialize(tools) },
            documents => Value::from(()),
        };
        let of_tools = !tools.is_empty() && self.environment.get_template(TOOL_USE).is_ok();
        let (environment, name) = (self.environment.clone(), if of_tools { TOOL_USE } else { NAME });
        let (send, receive) = mpsc::channel();
        // A template that takes too long is left to itself: its thread ends with its fuel, or with the process.
        let thread = thread::Builder::new().name("template".to_owned()).stack_size(STACK);
        let started = thread.spawn(move || send.send(render(&environment, name, values)));
        started.map_err(|e| ChatError::Failed(e.to_string()))?;
        let too_long = |_| ChatError::Failed("it takes too long".to_owned());
        receive.recv_timeout(TIME).map_err(too_long)?
    }
}

fn render(environment: &Environment<'_>, name: &str, values: Value) -> Result<String, ChatError> {
    let failed = |e: Error| match refusal(&e) {
        Some(why) => ChatError::Refused(why),
        None => ChatError::Failed(one_line(&e)),
    };
    let mut prompt = Bounded(vec![]);
    let template = environment.get_template(name).map_err(failed)?;
    template.render_captured_to(values, &mut prompt).map(drop).map_err(|e| match prompt_is_full(&e) {
        true => ChatError::Failed(format!("it writes more than {MAX_PROMPT} bytes")),
        false => failed(e),
    })?;
    String::from_utf8(prompt.0).map_err(|_| ChatError::Failed("it writes no UTF-8".to_owned()))
}

/// What a template has written, up to [`MAX_PROMPT`].
struct Bounded(Vec<u8>);

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_PROMPT {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn prompt_is_full(e: &(dyn std::error::Error + 'static)) -> bool {
    let chain = std::iter::successors(Some(e), |e| e.source());
    chain.filter_map(|e| e.downcast_ref::<io::Error>()).any(|e| e.kind() == io::ErrorKind::FileTooLarge)
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
