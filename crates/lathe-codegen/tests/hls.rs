//! HLS C++: its text, and what it and the C dialects refuse. That it computes what the interpreter does is shown by the
//! canary `hardware`, against the vendor's headers.

use lathe_codegen::{Dialect, emit};
use lathe_ir::tensor::parse;

fn refused(text: &str, dialect: &str) -> String {
    let k = parse(text).unwrap();
    emit(&k, &k.name, Dialect::named(dialect).unwrap()).expect_err(text).to_string()
}

const CHAIN: &str = "kernel chain() {
  in x: fx2p6[4]
  out y: fx2p6[2, 4]
  alloc c: fx2p6[3, 2] on channel
  for last in 1 spatial process {
    for k in 4 scan serial {
      D: y[1, k] = c[2]
    }
  }
  for p in 2 spatial process {
    for j in 4 scan serial {
      alloc t: fx2p6[] on register
      B: t[] = c[p]
      C: c[p + 1] = t[] + 0.25fx2p6
    }
  }
  for first in 1 spatial process {
    for i in 4 scan serial {
      A: c[0] = x[i]
    }
  }
}";

#[test]
fn processes_are_functions_called_in_the_order_of_the_data() {
    let text = CHAIN.replace("[2, 4]", "[4]").replace("y[1, k]", "y[k]");
    let k = parse(&text).unwrap();
    let e = emit(&k, "chain", Dialect::named("hls").unwrap()).unwrap();
    let want = "static void chain_last(ap_fixed<8, 2> y[4], hls::stream<ap_fixed<8, 2> > (&c)[3]) {
  for (i64 k = 0, n_k = 4LL; k < n_k; k++) {
#pragma HLS pipeline II=1
    const ap_fixed<8, 2> t1 = c[2LL].read();
    y[k] = t1;
  }
}
template <int p>
static void chain_p(hls::stream<ap_fixed<8, 2> > (&c)[3]) {
  for (i64 j = 0, n_j = 4LL; j < n_j; j++) {
#pragma HLS pipeline II=1
    ap_fixed<8, 2> t;
    const ap_fixed<8, 2> t2 = c[p].read();
    t = t2;
    const ap_fixed<8, 2> t3 = t;
    const ap_fixed<8, 2> t4 = t3 + ((ap_fixed<8, 2>)0.25);
    c[(p + 1LL)].write(t4);
  }
}
static void chain_first(const ap_fixed<8, 2> x[4], hls::stream<ap_fixed<8, 2> > (&c)[3]) {
  for (i64 i = 0, n_i = 4LL; i < n_i; i++) {
#pragma HLS pipeline II=1
    const ap_fixed<8, 2> t5 = x[i];
    c[0LL].write(t5);
  }
}
void chain(const ap_fixed<8, 2> x[4], ap_fixed<8, 2> y[4]) {
#pragma HLS dataflow
  hls::stream<ap_fixed<8, 2> > c[3];
#pragma HLS stream variable=c depth=2
  chain_first(x, c);
  chain_p<0>(c);
  chain_p<1>(c);
  chain_last(y, c);
}
";
    assert_eq!(e.source, want);
}

#[test]
fn c_has_no_processes_and_no_fixed_point() {
    for d in Dialect::all().iter().filter(|d| d.name != "hls") {
        assert!(refused(CHAIN, d.name).contains("no processes and channels"));
        let plain = "kernel f() {
          in x: fx2p6[4]
          out y: i32[4]
          for i in 4 spatial serial {
            S: y[i] = i32(x[i])
          }
        }";
        assert!(refused(plain, d.name).contains("no fixed point, the type of 'x'"));
        let hidden = "kernel f() {
          in x: i32[4]
          out y: i32[4]
          for i in 4 spatial serial {
            S: y[i] = i32(fx9p3(x[i]) * 0.5fx9p3)
          }
        }";
        assert!(refused(hidden, d.name).contains("no fixed point"));
    }
}

#[test]
fn what_hls_cannot_say_is_refused() {
    let circle = "kernel f() {
      alloc c: i32[2, 1] on channel
      for p in 2 spatial process {
        alloc t: i32[] on register
        A: c[1 - p] = 1i32
        B: t[] = c[p]
      }
    }";
    assert!(refused(circle, "hls").contains("circle of processes"));
    let unknown = "kernel f(n) {
      out y: i32[n]
      for i in n spatial serial {
        S: y[i] = 0i32
      }
    }";
    assert!(refused(unknown, "hls").contains("the extent n, which is not constant"));
    let half = "kernel f() {
      in x: f16[4]
      out y: f32[4]
      for i in 4 spatial serial {
        S: y[i] = f32(x[i])
      }
    }";
    assert!(refused(half, "hls").contains("of the type f16"));
    let nested = "kernel f() {
      out y: i32[2, 2]
      for p in 2 spatial process {
        A: y[p, 0] = 0i32
        for q in 1 spatial process {
          B: y[p, 1] = 1i32
        }
      }
    }";
    assert!(refused(nested, "hls").contains("started inside of another one"));
}
