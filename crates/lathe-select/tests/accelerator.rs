//! The accelerator: its instructions mean what the description says, programs compute products, and what leaves its memories is
//! refused.

use lathe_ir::Name;
use lathe_ir::tensor::{self, Memory};
use lathe_select::Target;
use lathe_select::accelerator::{Call, Emulator, generate, parse};
use std::collections::HashMap;

fn target() -> Target {
    Target::named("gemm16").expect("it is named")
}

fn noise(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut one = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..n).map(|_| one()).collect()
}

/// The product instruction computes its meaning's loops, bit by bit.
#[test]
fn the_instruction_is_its_meaning() {
    let target = target();
    for steps in [1, 7, 256] {
        let (a, b) = (noise(16 * steps, 1), noise(16 * steps, 2));
        let mut m = Memory::new(&[("k", steps as i64)]);
        m.set_f32("a", &a);
        m.set_f32("b", &b);
        m.set_f32("c", &[0.0; 256]);
        tensor::interpret(&target.instructions[0].meaning, &mut m).expect("it runs");
        let program = format!(
            "load 0 = a + 0, 16 x {steps} by {steps} x 1, zeros to 16 x {steps}
             load 5000 = b + 0, {steps} x 16 by 16 x 1, zeros to {steps} x 16
             clear 3
             matmul 3 += 0 * 5000, {steps} steps
             store c + 0, 16 x 16 by 16 x 1 = 3"
        );
        let mut host: HashMap<Name, Vec<f32>> =
            [("a".into(), a), ("b".into(), b), ("c".into(), vec![0.0; 256])].into();
        let mut emulator = Emulator::new(&target).expect("it is an accelerator");
        for i in parse(&program).expect("it is a program") {
            emulator.step(&i, &mut host).expect("it runs");
        }
        assert_eq!(host["c"], m.f32("c"));
        assert_eq!(emulator.counts().products, 1);
    }
}

#[test]
fn programs_compute_products_of_any_size() {
    let target = target();
    for (batch, [m, k, n]) in [(1, [1, 1, 1]), (2, [17, 300, 33]), (3, [16, 16, 16]), (1, [40, 9, 290])] {
        let (x, y) = (noise(batch * m * k, 3), noise(batch * k * n, 4));
        let mut expected = vec![0f32; batch * m * n];
        for b in 0..batch {
            for i in 0..m {
                for j in 0..n {
                    let sum: f64 = (0..k)
                        .map(|l| f64::from(x[(b * m + i) * k + l]) * f64::from(y[(b * k + l) * n + j]))
                        .sum();
                    expected[(b * m + i) * n + j] = sum as f32;
                }
            }
        }
        let steps = target.instructions[0].product.step(k as i64) as usize;
        let buffers = ["x".into(), "y".into(), "z".into()];
        let call = Call { instruction: "matmul".into(), batch, size: [m, k, n], steps, buffers };
        let mut host: HashMap<Name, Vec<f32>> =
            [("x".into(), x), ("y".into(), y), ("z".into(), vec![f32::NAN; expected.len()])].into();
        let mut emulator = Emulator::new(&target).expect("it is an accelerator");
        let mut text = String::new();
        let made = generate(&call, &target, &mut |i| {
            text += &format!("{i}\n");
            emulator.step(&i, &mut host)
        });
        assert!(made.expect("it runs"));
        for (got, want) in host["z"].iter().zip(&expected) {
            assert!((got - want).abs() <= 1e-4 * want.abs().max(1.0), "{got} {want}");
        }
        let read = parse(&text).expect("what is printed is read");
        assert_eq!(read.len() as u64, emulator.counts().instructions);
        assert_eq!(read.iter().map(|i| format!("{i}\n")).collect::<String>(), text);
    }
}

#[test]
fn what_leaves_the_memories_is_refused() {
    let target = target();
    let cases = [
        ("load 0 = x + 0, 4 x 4 by 4 x 1, zeros to 8 x 4000", "leave the scratchpad"),
        ("load 16000 = x + 0, 16 x 16 by 16 x 1, zeros to 32 x 16", "leave the scratchpad"),
        ("load 0 = x + 1, 16 x 16 by 16 x 1, zeros to 16 x 16", "the tile leaves 'x'"),
        ("load 0 = x + 0, 16 x 16 by 16 x 1, zeros to 8 x 16", "the tile is smaller"),
        ("load 0 = w + 0, 16 x 16 by 16 x 1, zeros to 16 x 16", "there is no such tensor"),
        ("load 0 = x + 18446744073709551615, 2 x 2 by 2 x 1, zeros to 2 x 2", "the tile leaves 'x'"),
        ("clear 16", "there is no accumulator 16"),
        ("clear 0\nmatmul 0 += 0 * 256, 16 steps", "a factor was not loaded"),
        ("matmul 0 += 0 * 0, 300 steps", "a sum of 300 steps"),
        ("gemv 0 += 0 * 0, 3 steps", "there is no such instruction"),
        ("store x + 0, 16 x 16 by 16 x 1 = 2", "holds nothing"),
        ("clear 0\nstore x + 0, 17 x 1 by 1 x 1 = 0", "an accumulator is smaller"),
    ];
    for (program, says) in cases {
        let mut host: HashMap<Name, Vec<f32>> = [("x".into(), vec![0.0; 256])].into();
        let mut emulator = Emulator::new(&target).expect("it is an accelerator");
        let all = parse(program).expect(program);
        let result: Result<Vec<()>, _> = all.iter().map(|i| emulator.step(i, &mut host)).collect();
        let error = result.expect_err(program).to_string();
        assert!(error.contains(says), "{program}: {error}");
    }
    for text in ["load", "load 0 = x", "clear x", "matmul 0 += 0 * 0", "store x + 0, 1 x 1 by 1 = 0", "halt"]
    {
        assert!(parse(text).is_err(), "{text}");
    }
}
