//! The operators, one file a family, one row an operator.
