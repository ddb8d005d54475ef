//! The command line of Lathe, one thin file a verb.
fn main() {}
