//! Model files, tokenizers, chat templates, families as graph builders, and where models come from.
