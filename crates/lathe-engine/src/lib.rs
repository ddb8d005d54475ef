//! The language-model engine: compile a model, page its cache, batch, sample and stream.
