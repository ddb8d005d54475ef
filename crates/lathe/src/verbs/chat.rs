//! `lathe chat`: a conversation in the terminal.

use std::ops::ControlFlow;

use clap::Args;
use lathe_diagnostic::{Diagnostic, Fault};
use lathe_engine::{Engine, EngineError, FinishReason, Request, Runner, Sampling};
use lathe_models::{ChatError, ChatTemplate, Message};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use crate::failure::Failure;
use crate::interrupt::Listening;
use crate::model::Model;
use crate::options::{AnswerOptions, CacheOptions, ComputeOptions, ModelOption, SamplingOptions};
use crate::output;

const EXAMPLES: &str = "\
Examples:
  lathe chat
  lathe chat --model ./model.gguf --temperature 0.7 --system \"You answer in rhymes.\"";

const HELP: &str = "\
/help          this list
/clear         forget the conversation
/system TEXT   forget it, and tell the model TEXT before the next one
/quit          leave (so does Ctrl-D)
Ctrl-C stops an answer.";

/// Tokens that a conversation may have where the user does not say.
const CONTEXT: usize = 4096;

/// Talk with a model
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Chat {
    #[command(flatten)]
    model: ModelOption,
    #[command(flatten)]
    answer: AnswerOptions,
    #[command(flatten)]
    sampling: SamplingOptions,
    #[command(flatten)]
    compute: ComputeOptions,
    #[command(flatten)]
    cache: CacheOptions,
    /// What the model is told before the conversation.
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
}

/// A conversation that goes on.
struct Conversation {
    model: Model,
    template: ChatTemplate,
    engine: Engine<Runner>,
    context: usize,
    max_tokens: usize,
    stops: Vec<String>,
    sampling: Sampling,
    messages: Vec<Message>,
}

impl Chat {
    /// Does it.
    pub fn run(self) -> Result<(), Failure> {
        let sampling = self.sampling.sampling()?;
        let model = Model::open(self.model.name())?;
        let missing = || ChatError::Missing { path: model.file.path().map(Into::into) };
        let template = model.template()?.ok_or_else(missing)?;
        let context = model.context_for(CONTEXT, self.answer.context)?;
        let engine = model.load(self.cache.with(&self.compute)?, context, 1, 1)?;
        let max_tokens = self.answer.max_tokens as usize;
        let stops = self.answer.stop;
        let messages = Vec::new();
        let mut conversation =
            Conversation { model, template, engine, context, max_tokens, stops, sampling, messages };
        conversation.restart(self.system.as_deref());
        conversation.talk()
    }
}

impl Conversation {
    fn talk(&mut self) -> Result<(), Failure> {
        let unreadable = |error: ReadlineError| {
            Diagnostic::new("input", Fault::Environment, format!("cannot read the terminal: {error}"))
        };
        let mut editor = DefaultEditor::new().map_err(unreadable)?;
        output::message("/help lists what can be done; Ctrl-D leaves.");
        loop {
            let line = match editor.readline("> ") {
                Ok(line) => line,
                Err(ReadlineError::Eof) => return Ok(()),
                Err(ReadlineError::Interrupted) => {
                    output::message("(Ctrl-D or /quit leaves)");
                    continue;
                }
                Err(error) => return Err(unreadable(error).into()),
            };
            let line = line.trim();
            // A line that is not remembered is a small loss.
            let _ = editor.add_history_entry(line);
            match line.split_once(' ').unwrap_or((line, "")) {
                ("", _) => {}
                ("/quit" | "/exit", _) => return Ok(()),
                ("/help", _) => output::line(HELP)?,
                ("/clear", _) => {
                    let system =
                        self.messages.first().filter(|m| m.role == "system").map(|m| m.content.clone());
                    self.restart(system.as_deref());
                }
                ("/system", text) => self.restart(Some(text.trim()).filter(|text| !text.is_empty())),
                (command, _) if command.starts_with('/') => {
                    output::message(&format!("{command} is no command; /help lists them"));
                }
                _ => self.answer(line)?,
            }
        }
    }

    fn restart(&mut self, system: Option<&str>) {
        self.messages = system.map(|text| Message::new("system", text)).into_iter().collect();
    }

    /// Answers one message; what cannot be answered is said and forgotten, and the conversation goes on.
    fn answer(&mut self, line: &str) -> Result<(), Failure> {
        self.messages.push(Message::new("user", line));
        let prompt = match self.prompt() {
            Ok(prompt) => prompt,
            Err(Failure::Error(diagnostic)) => {
                self.messages.pop();
                output::message(&diagnostic.to_string());
                return Ok(());
            }
            Err(other) => return Err(other),
        };
        let max_tokens = self.max_tokens;
        let (sampling, ends) = (self.sampling.clone(), self.model.ends());
        let request = Request { prompt, max_tokens, sampling, ends, ..Request::default() };
        let interrupt = Listening::begin();
        let mut written = Ok(());
        let mut on_text = |piece: &str| {
            if !piece.is_empty() && written.is_ok() {
                written = output::text(piece);
            }
            match written.is_err() || interrupt.pressed() {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        };
        let answer = self.engine.generate(&self.model.tokenizer, request, &self.stops, &mut on_text);
        written?;
        let answer = answer?;
        output::text("\n")?;
        match answer.finish {
            FinishReason::Cancelled => output::message("(stopped)"),
            FinishReason::Length => output::message("(cut off: --max-tokens or --context is reached)"),
            FinishReason::Stop | FinishReason::Complete => {}
        }
        self.messages.push(Message::new("assistant", answer.text));
        Ok(())
    }

    /// The conversation as a prompt; the oldest turns are dropped until there is room for an answer.
    fn prompt(&mut self) -> Result<Vec<u32>, Failure> {
        let mut forgot = false;
        loop {
            let prompt =
                lathe_models::chat_tokens(&self.model.tokenizer, &self.template, &self.messages, &[])?;
            let room = self.context.saturating_sub(prompt.len());
            let first = self.messages.iter().position(|m| m.role != "system").unwrap_or(0);
            let droppable = self.messages.len() > first + 2;
            if room > self.max_tokens.min(self.context / 4) || !droppable {
                if forgot {
                    output::message("(the oldest turns no longer fit the context and are forgotten)");
                }
                return match room {
                    0 => {
                        Err(EngineError::PromptTooLong { tokens: prompt.len(), context: self.context }.into())
                    }
                    _ => Ok(prompt),
                };
            }
            self.messages.drain(first..first + 2);
            forgot = true;
        }
    }
}
