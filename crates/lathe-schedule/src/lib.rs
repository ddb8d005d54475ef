//! The schedule primitives, one file each, and the trace that replays them.
