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

/// What follows a sum of products element by element is computed in its kernel, as far as nobody else reads what is made on
/// the way.
#[test]
fn a_convolution_takes_what_follows_it() {
    let text = |last: &str| {
        format!(
            "graph f() {{\n x: f32[1, 3, 5, 5] = input\n w: f32[4, 3, 2, 2] = input\n b: f32[4, 1, 1] = input\n \
             y: f32[1, 4, 4, 4] = conv(x, w)\n z: f32[1, 4, 4, 4] = add(y, b)\n \
             s: f32[1, 4, 4, 4] = sigmoid(z)\n t: f32[1, 4, 4, 4] = mul(z, s)\n {last}\n}}"
        )
    };
    assert_eq!(kernels(&text("return t")), ["conv add sigmoid mul"]);
    assert_eq!(kernels(&text("return t, z")), ["conv add", "sigmoid mul"]);
    let narrow = text(
        "u: f32[1, 4, 1, 4] = slice(z) {axes = [2], sizes = [1], starts = [0], steps = [1]}\n return t, u",
    );
    assert_eq!(kernels(&narrow)[0], "conv add");
}

#[test]
fn a_sum_of_products_stays_before_an_update_of_its_argument() {
    let text = |g: &str| {
        format!(
            "graph f() {{\n {STATE} y: f32[16, 16] = dot(x, {g}) {{sum_x = [1], sum_y = [0]}}\n \
             w1: f32[16, 16], m1: f32[16, 16], v1: f32[16, 16] = adam(w, m, v, x, c)\n \
             z: f32[16, 16] = relu(y)\n return z\n}}"
        )
    };
    assert!(!kernels(&text("w")).contains(&"dot relu".to_string()));
    assert!(kernels(&text("x")).contains(&"dot relu".to_string()));
}

/// One row of a product is rotated, stored and encoded where it is made, if that is done some columns at a time.
#[test]
fn one_row_is_finished_where_it_is_made() {
    let text = |rows: &str, table: i64, cache: &str| {
        format!(
            "graph f(T <= 8) {{\n x: f32[{rows}, 64] = input\n w: f32[64, 64]{{f32.tile16}} = input\n \
             t: f32[{rows}, {table}] = input\n k: f32[48, 2, 32]{{{cache}}} = state\n slots: i32[{rows}] = input\n \
             q: f32[{rows}, 64] = matmul(x, w)\n r: f32[{rows}, 64] = rope(q, t) {{head_dim = 32}}\n \
             k1: f32[48, 2, 32]{{{cache}}} = put(k, r, slots)\n \
             g: f32[{rows}, 64] = matmul(x, w)\n u: f32[{rows}, 64] = matmul(x, w)\n \
             s: f32[{rows}, 64] = swiglu(g, u)\n e: f32[{rows}, 64]{{a8.z8}} = encode(s) {{to = \"a8.z8\"}}\n \
             return e, k1\n}}"
        )
    };
    assert_eq!(kernels(&text("1", 32, "keys16")), ["matmul rope put", "matmul matmul swiglu encode"]);
    // Half of a head stays as it is; codes are of more columns than are made at a time; rows are many.
    assert_eq!(kernels(&text("1", 16, "keys16"))[0], "matmul");
    assert_eq!(kernels(&text("1", 32, "keys16.q8")), ["matmul rope", "put", "matmul matmul swiglu encode"]);
    for rows in ["2", "T"] {
        let apart = ["matmul", "rope put", "matmul matmul swiglu", "encode"];
        assert_eq!(kernels(&text(rows, 32, "keys16")), apart);
    }
}
