//! Seconds of each kernel in a prefill and a decode step: `profile MODEL [prompt tokens] [threads] [fast|exact] [batch] [type of
//! keys and values]`.

use lathe_engine::{Batch, Forward, PAGE, Precision, Runner, RunnerOptions};
use lathe_models::{KvType, ModelFile};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().collect();
    let number = |i: usize, d: usize| args.get(i).and_then(|a| a.parse().ok()).unwrap_or(d);
    let (prompt, threads, batch) = (number(2, 512), number(3, 2), number(5, 1));
    let exact = args.get(4).is_some_and(|a| a == "exact");
    let file = ModelFile::open(args.get(1).ok_or("which model?")?)?;
    let options = RunnerOptions {
        precision: if exact { Precision::Exact } else { Precision::Fast },
        threads,
        context: 1024,
        pages: 64 * batch,
        max_tokens: 512.max(batch),
        max_sequences: batch,
        max_rows: batch,
        kv_type: args.get(6).and_then(|a| KvType::ALL.into_iter().find(|t| t.as_str() == a)),
        adapters: None,
        cache: lathe_models::cache_dir()?,
        budget: None,
    };
    let mut r = Runner::load(&file, &options, &mut |_, _, _| {})?;
    let step = |from: usize, n: usize, batch: usize| {
        let mut b = Batch::default();
        for s in 0..batch {
            let pages: Vec<u32> = (0..64).map(|p| (p + 64 * s) as u32).collect();
            for p in from..from + n {
                b.tokens.push((7 + p * 31 % 1000) as u32);
                b.sequence.push(s as u32);
                b.position.push(p as u32);
                b.slot.push(pages[p / PAGE] * PAGE as u32 + (p % PAGE) as u32);
            }
            b.rows.push(b.tokens.len() as u32 - 1);
            b.pages.push(pages);
            b.adapters.push(0);
        }
        b
    };
    let mut logits = vec![];
    for (from, n, k) in [(0, prompt, 1), (prompt, 1, batch)] {
        let b = step(from, n, k);
        let mut best = f64::MAX;
        for _ in 0..5 {
            let start = std::time::Instant::now();
            r.forward(&b, &mut logits)?;
            best = best.min(start.elapsed().as_secs_f64());
        }
        println!(
            "{} tokens: {:.3} ms, {:.1} tokens/s",
            b.tokens.len(),
            best * 1e3,
            b.tokens.len() as f64 / best
        );
        r.profile(&b)?;
        for (name, calls, s) in r.profile(&b)?.into_iter().take(14) {
            println!("  {:9.3} ms {calls:4} x {:8.1} us  {name}", s * 1e3, s / calls as f64 * 1e6);
        }
    }
    Ok(())
}
