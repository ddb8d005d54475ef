//! Why a model could not be had, and what to do.

use std::path::PathBuf;

use lathe_diagnostic::{Diagnose, Diagnostic, Fault};
use thiserror::Error;

/// A model that could not be had.
#[derive(Debug, Error)]
pub enum SourceError {
    /// Neither a file nor a name.
    #[error("there is no file '{name}' and no model of that name (built in: {known})")]
    Unknown {
        /// What was asked for.
        name: String,
        /// The built-in names.
        known: String,
    },
    /// A folder, where a file is needed.
    #[error("{} is a folder without a model", .0.display())]
    Folder(PathBuf),
    /// An address of no GGUF file.
    #[error("{0} is not the address of a GGUF file")]
    Address(String),
    /// A revision of something that has none.
    #[error("'{name}' has no revision '{revision}': only a Hugging Face repository, org/name, has revisions")]
    Revision {
        /// What was asked for.
        name: String,
        /// The revision.
        revision: String,
    },
    /// No home folder to keep a cache in.
    #[error("there is no folder for the cache: neither LATHE_CACHE, XDG_CACHE_HOME nor HOME is set")]
    NoCache,
    /// The system refused a file operation.
    #[error("cannot {action} {}: {error}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// No Python, or none with `pip`.
    #[error("{package} comes through pip, and {what}")]
    NoPip {
        /// The package that was needed.
        package: String,
        /// What is missing.
        what: String,
    },
    /// `pip` ran and failed.
    #[error("pip could not download {package}: {message}")]
    Pip {
        /// The package.
        package: String,
        /// The last thing `pip` said.
        message: String,
    },
    /// The package is not what it should be.
    #[error("the package {package} is not as expected: {what}")]
    Package {
        /// The package.
        package: String,
        /// What is wrong.
        what: String,
    },
    /// The content differs from what was published.
    #[error("{what} is damaged: its SHA-256 is {found}, {expected} is expected")]
    Checksum {
        /// What was fetched.
        what: String,
        /// The published checksum.
        expected: String,
        /// The one found.
        found: String,
    },
    /// A server could not be reached, or broke off.
    #[error("cannot download {url}: {message}")]
    Network {
        /// The address.
        url: String,
        /// What went wrong.
        message: String,
    },
    /// A server answered, but not with what was asked for.
    #[error("cannot download {url}: the server answers {status}")]
    Status {
        /// The address.
        url: String,
        /// The HTTP status.
        status: u16,
    },
    /// A repository without the file, or without any we read.
    #[error("repository {repository} has {what}")]
    NoModel {
        /// The repository.
        repository: String,
        /// What it has instead.
        what: String,
    },
}

impl Diagnose for SourceError {
    fn diagnostic(&self) -> Diagnostic {
        use SourceError as E;
        let again = "run the command again";
        let (code, fault, fix) = match self {
            E::Unknown { .. } => (
                "model-unknown",
                Fault::User,
                "give the path of a GGUF file or a folder of safetensors, a built-in name, or a Hugging Face repository as org/name:file.gguf",
            ),
            E::Folder(_) => (
                "model-folder",
                Fault::User,
                "give the path of a GGUF file, or of a folder with config.json and safetensors",
            ),
            E::Address(_) => ("model-address", Fault::User, "give one that ends in .gguf"),
            E::Revision { .. } => {
                ("model-revision", Fault::User, "leave --revision out, or name a repository")
            }
            E::NoCache => ("cache-none", Fault::Environment, "set LATHE_CACHE to a folder"),
            E::Io { .. } => (
                "cache-io",
                Fault::Environment,
                "check free space and permissions, or set LATHE_CACHE to another folder",
            ),
            E::NoPip { .. } => (
                "pip-missing",
                Fault::Environment,
                "install python3 with pip (python3-pip in most systems), or give a GGUF file with --model",
            ),
            E::Pip { .. } => (
                "pip-failed",
                Fault::Environment,
                "check the network and pip's configuration, or give a GGUF file with --model",
            ),
            E::Package { .. } => ("package-wrong", Fault::File, again),
            E::Checksum { .. } => ("model-checksum", Fault::File, again),
            E::Network { .. } => (
                "network",
                Fault::Environment,
                "check the network; what has arrived is kept, so run the command again (HF_ENDPOINT names another server)",
            ),
            E::Status { status: 401 | 403, .. } => (
                "model-forbidden",
                Fault::User,
                "the model is private or does not exist; check its name, or set HF_TOKEN",
            ),
            E::Status { status: 404, .. } => {
                ("model-not-found", Fault::User, "check the name of the repository")
            }
            E::Status { .. } => ("network", Fault::Environment, again),
            E::NoModel { .. } => {
                ("model-no-file", Fault::User, "name one of its GGUF files as org/name:file.gguf")
            }
        };
        Diagnostic::new(code, fault, self.to_string()).fix(fix)
    }
}
