//! What must not become one kernel, or run later than it stands: readers of whole rows, and readers of what is updated.

use lathe_ir::graph::parse;
use lathe_rewrite::{Bounds, plan};

/// The operators of each kernel, in the order of the calls.
fn kernels(text: &str) -> Vec<String> {
    let (g, table) = (parse(text).unwrap(), lathe_ops::table());
    lathe_ir::graph::check(&g, &table).unwrap();
    let p = plan(&g, &table, &Bounds::default());
    let called = p.run.steps.iter().filter_map(|s| match s {
        lathe_ir::step::Step::Call { kernel, .. } => p.kernels.iter().find(|k| k.name == *kernel),
        _ => None,
    });
    called.map(|k| k.operators.join(" ")).collect()
}

/// The bias is as long as there are rows, and each row reads all of it.
#[test]
fn a_row_that_is_read_whole_is_made_before() {
    let text = |b: &str| {
        format!(
            "graph f() {{\n x: f32[16, 16] = input\n b: f32[{b}] = input\n c: f32[{b}] = relu(b)\n \
             y: f32[16, 16] = add(x, c)\n return y\n}}"
        )
    };
    assert_eq!(kernels(&text("16")), ["relu", "add"]);
    assert_eq!(kernels(&text("16, 16")), ["relu add"]);
}

/// Rows on their way into a cache have fewer axes than it, and still are read by row.
#[test]
fn rows_go_into_a_cache_where_they_are_made() {
    let text = "graph f(T <= 8) {\n k: f32[48, 2, 16]{keys16} = state\n x: f32[T, 32] = input\n \
                slots: i32[T] = input\n y: f32[T, 32] = relu(x)\n \
                k1: f32[48, 2, 16]{keys16} = put(k, y, slots)\n return k1\n}";
    assert_eq!(kernels(text), ["relu put"]);
}

const STATE: &str = "w: f32[16, 16] = state\n m: f32[16, 16] = state\n v: f32[16, 16] = state\n \
                     c: f32[2] = input\n x: f32[16, 16] = input\n";

#[test]
fn an_update_waits_for_readers_of_other_rows() {
    let reads = format!(
        "graph f() {{\n {STATE} y: f32[16, 16] = add(x, w)\n \
         w1: f32[16, 16], m1: f32[16, 16], v1: f32[16, 16] = adam(w, m, v, y, c)\n return y\n}}"
    );
    assert_eq!(kernels(&reads), ["add", "adam"]);
    let apart = reads.replace("add(x, w)", "add(x, x)");
    assert_eq!(kernels(&apart), ["add adam"]);
}

/// A product goes into the kernel of what uses it, but not past an update of what it reads.
#[test]
fn a_product_stays_before_an_update_of_its_argument() {
    let text = |g: &str| {
        format!(
            "graph f() {{\n {STATE} y: f32[16, 16] = matmul(x, {g})\n \
             w1: f32[16, 16], m1: f32[16, 16], v1: f32[16, 16] = adam(w, m, v, x, c)\n \
             z: f32[16, 16] = relu(y)\n return z\n}}"
        )
    };
    assert_eq!(kernels(&text("w")), ["matmul", "adam relu"]);
    assert_eq!(kernels(&text("x")), ["adam", "matmul relu"]);
}
