//! The executor of step programs.
