//! What can be wrong with a file's tokenizer.

use std::path::PathBuf;

use lathe_diagnostic::{Diagnose, Diagnostic, Fault};
use thiserror::Error;

use crate::file::ModelFile;
use crate::gguf::GgufError;

/// A tokenizer that cannot be made from a file.
#[derive(Debug, Error)]
#[error("{}{kind}", self.path.as_ref().map(|p| format!("{}: ", p.display())).unwrap_or_default())]
pub struct TokenizerError {
    /// The file, where there is one.
    pub path: Option<PathBuf>,
    /// What is wrong.
    pub kind: TokenizerErrorKind,
}

/// What is wrong with a tokenizer.
#[derive(Debug, Error)]
pub enum TokenizerErrorKind {
    /// Metadata is missing or of the wrong type.
    #[error("{}", .0.kind)]
    Gguf(#[source] GgufError),
    /// A kind of vocabulary that this reader does not know.
    #[error("the tokenizer model '{0}' is not supported yet ('gpt2', 'llama', 't5' and 'bert' are)")]
    UnsupportedModel(String),
    /// A pre-tokenizer this reader does not know.
    #[error("the pre-tokenizer '{0}' is not supported yet")]
    UnsupportedSplit(String),
    /// Content that contradicts itself.
    #[error("{0}")]
    Malformed(String),
}

impl TokenizerErrorKind {
    pub(super) fn in_file(self, file: &ModelFile) -> TokenizerError {
        TokenizerError { path: file.path().map(Into::into), kind: self }
    }
}

impl From<GgufError> for TokenizerErrorKind {
    fn from(e: GgufError) -> Self {
        TokenizerErrorKind::Gguf(e)
    }
}

impl Diagnose for TokenizerError {
    fn diagnostic(&self) -> Diagnostic {
        use TokenizerErrorKind as K;
        let (code, fix) = match &self.kind {
            K::Gguf(e) => return e.diagnostic(),
            K::UnsupportedModel(_) => {
                ("tokenizer-model", "use a model whose tokenizer is BPE, SentencePiece or WordPiece")
            }
            K::UnsupportedSplit(_) => (
                "tokenizer-split",
                "use a model of the GPT-2, Llama 3, Qwen 2, Mistral, DeepSeek or Falcon kind",
            ),
            K::Malformed(_) => ("tokenizer-malformed", "convert the model again with a current converter"),
        };
        let mut d = Diagnostic::new(code, Fault::File, self.kind.to_string()).fix(fix);
        d.place = self.path.as_ref().map(|p| p.display().to_string());
        d
    }
}
