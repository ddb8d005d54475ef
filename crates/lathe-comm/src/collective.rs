//! Collectives: steps that all ranks run together.

use lathe_ir::step::{Part, Step};
use lathe_ir::{Bounds, Int, IrError, Name};

/// The steps of `rank` by which the first `bytes` of `data` become the sum of all `ranks`' ones: around a ring, each rank
/// first gets the sum of one chunk, then passes it on.
///
/// The kernel `add` adds its first argument to its second, both of one chunk (`bytes / ranks`, which must be whole).
/// `scratch` is a buffer of a chunk. Tags from `tag` to `tag + 2 * ranks` are used. Each chunk is summed in the order of
/// the ring, so all ranks get the same bits, and every run does.
pub fn all_reduce(
    rank: u32,
    ranks: u32,
    data: u32,
    bytes: i64,
    scratch: u32,
    add: &Name,
    tag: i64,
) -> Result<Vec<Step>, IrError> {
    let (me, n) = (i64::from(rank), i64::from(ranks));
    if me >= n || bytes % n != 0 {
        return Err(IrError::check(
            "all_reduce",
            format!("rank {rank}: {bytes} bytes in {ranks} equal chunks"),
        ));
    }
    let chunk = bytes / n;
    let (var, mut bounds): (Name, Bounds) = ("s".into(), Bounds::new());
    bounds.set(&var, 0, Some(n - 2));
    let s = Int::var(&var);
    // The chunk `first - s`, around the ring.
    let part = |first: i64| Part {
        buffer: data,
        range: Some(((Int::from(first + n) - s.clone()).rem(n, &bounds) * chunk, chunk.into())),
    };
    let send = |from, first: i64| Step::Send { from, rank: ((me + 1) % n).into(), tag: s.clone() + first };
    let receive =
        |to, first: i64| Step::Receive { to, rank: ((me + n - 1) % n).into(), tag: s.clone() + first };
    let reduce = vec![
        send(part(me), tag),
        receive(Part { buffer: scratch, range: Some((0.into(), chunk.into())) }, tag),
        Step::Call {
            kernel: add.clone(),
            args: vec![Part { buffer: scratch, range: Some((0.into(), chunk.into())) }, part(me - 1)],
            writes: vec![false, true],
        },
    ];
    let gather = vec![send(part(me + 1), tag + n), receive(part(me), tag + n)];
    let around = |body| Step::Loop { var: var.clone(), count: (n - 1).into(), body };
    Ok(vec![around(reduce), around(gather)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use lathe_ir::step::{Program, interpret_ranks, parse};
    use lathe_ir::tensor;
    use std::collections::HashMap;

    #[test]
    fn every_rank_has_the_sum() {
        let add = "kernel add() {
          in x: f32[6]
          inout y: f32[6]
          for i in 6 spatial serial { S: y[i] = y[i] + x[i] }
        }";
        let kernels = HashMap::from([(Name::from("add"), tensor::parse(add).unwrap())]);
        for n in [1, 2, 3, 5u32] {
            let bytes = 24 * i64::from(n);
            let program = |rank: u32| -> Program {
                let text = format!(
                    "program p() {{
                       buffer x: {bytes} bytes on host = given
                       buffer c: 24 bytes on host = planned 0
                     }}"
                );
                let mut p = parse(&text).unwrap();
                p.steps = all_reduce(rank, n, 0, bytes, 1, &"add".into(), 10).unwrap();
                assert_eq!(parse(&p.to_string()).unwrap(), p, "{p}");
                p
            };
            let programs: Vec<Program> = (0..n).map(program).collect();
            let value = |rank: u32, i: i64| (i * i64::from(rank + 1)) as f32;
            let bytes_of = |f: &dyn Fn(i64) -> f32| -> Vec<u8> {
                (0..bytes / 4).flat_map(|i| f(i).to_le_bytes()).collect()
            };
            let mut storage: Vec<HashMap<Name, Vec<u8>>> =
                (0..n).map(|r| HashMap::from([("x".into(), bytes_of(&|i| value(r, i)))])).collect();
            let refs: Vec<&Program> = programs.iter().collect();
            interpret_ranks(&refs, &kernels, &HashMap::new(), &mut storage).unwrap();
            let sum = bytes_of(&|i| (0..n).map(|r| value(r, i)).sum());
            assert!(storage.iter().all(|s| s["x"] == sum));
        }
        assert!(all_reduce(0, 2, 0, 25, 1, &"add".into(), 0).is_err());
        assert!(all_reduce(2, 2, 0, 24, 1, &"add".into(), 0).is_err());
    }
}
