//! Step IR.
