use super::*;

fn seen(text: &str, work: u64) -> Seen {
    let k = crate::tensor::parse(text).unwrap();
    let mut m = Memory::new(&[]);
    for p in &k.params {
        m.set(&p.name, &vec![0; p.bits.as_const().unwrap() as usize / 8]);
    }
    interpret_watched(&k, &mut m, work).unwrap()
}

#[test]
fn cores_write_whole_bytes() {
    let parallel = |level: &str, block: &str| {
        let text = format!("kernel k() {{ inout y: u4[18] for i in 8 spatial {level} {{ {block} }} }}");
        seen(&text, 1000).parallel.is_some()
    };
    assert!(!parallel("core", "A: y[2 * i] = 1u4 B: y[2 * i + 1] = 2u4"));
    // Two of another iteration, or one each, in a byte.
    assert!(parallel("core", "A: y[2 * i] = 1u4 B: y[2 * i + 3] = 2u4"));
    assert!(parallel("core", "A: y[i] = 1u4"));
    assert!(!parallel("lane", "A: y[i] = 1u4"));
    assert!(!parallel("core", "A: y[2 * i] = y[2 * i + 1]"));
}

#[test]
fn loops_are_watched() {
    let kernel = |kind: &str, block: &str| {
        format!(
            "kernel k() {{\n  in x: f32[8]\n  inout y: f32[9]\n  for i in 8 {kind} serial {{\n    S: {block}\n  }}\n}}"
        )
    };
    let meets = |kind, block| seen(&kernel(kind, block), 1000).meet.is_some();
    assert!(!meets("spatial", "y[i] = x[i] + 1f32"));
    assert!(!meets("spatial", "y[i] = y[i] + 1f32"));
    // Each reads what the next one, or the one before, writes; or all write one element.
    assert!(meets("spatial", "y[i] = y[i + 1]"));
    assert!(meets("spatial", "y[i + 1] = y[i]"));
    assert!(!meets("scan", "y[i + 1] = y[i]"));
    assert!(meets("spatial", "y[i / 2] = x[i]"));
    assert!(!meets("reduce", "y[0] sum = x[i]"));
    assert!(meets("reduce", "y[0] sum = y[1 + i % 2 - 1]"));
    assert!(meets("reduce", "y[0] = x[i]"));
    // Of two loops the one in which accesses are apart counts.
    let two = "kernel k() {
  inout y: f32[9]
  for i in 8 scan serial {
for j in 8 spatial serial {
  S: y[j] = y[7 - j] * 1f32
}
  }
}";
    assert!(seen(two, 1000).meet.is_some());
    assert!(seen(&two.replace("y[7 - j] * 1f32", "y[j] * 1f32"), 1000).meet.is_none());
    assert!(seen(two, 1000).parallel.is_none());
    assert!(seen(&two.replace("spatial serial", "spatial lane"), 1000).parallel.is_some());
}

#[test]
fn arithmetic_and_reads_are_watched() {
    let kernel = |value: &str, given: &str| {
        format!("kernel k() {{\n  {given} x: f32[1]\n  out y: f32[1]\n  S: y[0] = {value}\n}}")
    };
    let exact = |value| seen(&kernel(value, "in"), 100).exact;
    assert!(exact("x[0] + 3f32") && exact("3f32 * 5f32") && exact("6f32 / 3f32") && exact("sqrt(9f32)"));
    assert!(!exact("1f32 / 3f32") && !exact("exp(x[0])") && !exact("1f32 / x[0]"));
    assert!(!exact("16777216f32 + 1f32"));
    let open = |value| seen(&kernel(value, "in"), 100).open.is_some();
    assert!(open("f32(2147483647i32 + 1i32)") && open("f32(1i32 << 32i32)") && open("f32(i32(1e10f32))"));
    assert!(!open("f32(255u8 + 1u8)") && !open("f32(1i32 << 3i32)"));
    assert!(open("f32(u64(-3f32))") && open("f32(u8(-1f32))") && open("f32(u64(2e19f32))"));
    assert!(!open("f32(u64(1e19f32))") && !open("f32(u64(-0.5f32))") && !open("f32(i64(-3f32))"));
    assert!(seen(&kernel("x[0]", "out"), 100).unwritten.is_some());
    assert!(seen(&kernel("x[0]", "inout"), 100).unwritten.is_none());
    assert!(!seen("kernel k() {\n  for i in 1000000000 spatial serial {\n    for j in 0 spatial serial {\n    }\n  }\n}", 50).ended);
}

#[test]
fn words_of_64_bits_are_unsigned() {
    let text = "kernel k() {
  in a: u64[2]
  out y: u64[4]
  q: y[0] = a[0] / a[1]
  r: y[1] = a[0] % a[1]
  s: y[2] = a[0] >> a[1]
  m: y[3] = max(a[0], a[1])
}";
    let kernel = crate::tensor::parse(text).unwrap();
    let bytes = |words: &[u64]| words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<_>>();
    let mut m = Memory::new(&[]);
    m.set("a", &bytes(&[u64::MAX, 10]));
    m.set("y", &bytes(&[0; 4]));
    interpret(&kernel, &mut m).unwrap();
    assert_eq!(m.params["y"], bytes(&[u64::MAX / 10, u64::MAX % 10, u64::MAX >> 10, u64::MAX]));
}
