//! Symbolic integers: expressions over named dimensions, their ranges and simplification.
