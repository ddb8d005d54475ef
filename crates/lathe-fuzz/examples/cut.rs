//! Makes seeds of whole models: pieces of their graphs with small extents, a file of cases for each model.
//!
//! ```sh
//! lathe show MODEL graph > graphs/NAME.txt
//! cargo run --release -p lathe-fuzz --example cut -- fuzz/seeds graphs/*.txt
//! ```

use lathe_fuzz::seeds::cut;
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// Nodes of a piece.
const NODES: usize = 6;

/// Pieces of a model.
const PIECES: usize = 12;

fn main() {
    let mut args = std::env::args().skip(1);
    let folder = PathBuf::from(args.next().expect("the folder for the seeds, and files of graphs"));
    let mut known = HashSet::new();
    for path in args {
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
        let graph = lathe_ir::graph::parse(&text).unwrap_or_else(|e| panic!("{path}: {e}"));
        let mut pieces = cut(&graph, NODES, &mut known);
        pieces.truncate(PIECES);
        let name = Path::new(&path).file_name().expect("a file").to_string_lossy().into_owned();
        let seeds: String = pieces.iter().map(|g| format!("# test: graph\n{g}----\n\n")).collect();
        println!("{name}: {} pieces", pieces.len());
        if !pieces.is_empty() {
            std::fs::write(folder.join(&name), seeds).unwrap_or_else(|e| panic!("{name}: {e}"));
        }
    }
}
