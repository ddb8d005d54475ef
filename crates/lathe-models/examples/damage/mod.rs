//! Damaged input for as long as it is told: what the fuzz targets of several crates have in common.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Xorshift, 64 bits.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % n.max(1)
    }
}

/// A few changes: a byte, a bit, a part removed, repeated, taken from elsewhere or replaced by a number at the edge.
fn damage(bytes: &mut Vec<u8>, r: &mut Random) {
    for _ in 0..=r.below(5) {
        // Most of what can go wrong is in the first bytes.
        let reach = if r.below(2) == 0 { bytes.len().min(600) } else { bytes.len() };
        let at = r.below(reach);
        let end = (at + 1 + r.below(24)).min(bytes.len());
        match r.below(7) {
            _ if bytes.is_empty() => bytes.push(b'{'),
            0 => bytes[at] = r.below(256) as u8,
            1 => bytes[at] ^= 1 << r.below(8),
            2 => drop(bytes.drain(at..end)),
            3 => {
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
            4 => {
                let from = r.below(bytes.len());
                let part = bytes[from..(from + 16).min(bytes.len())].to_vec();
                bytes.splice(at..end, part);
            }
            5 => {
                let edges: [&[u8]; 8] =
                    [b"-1", b"4294967296", b"1e999", b"null", b"[]", b"{}", b"\"\"", &[0xff; 8]];
                bytes.splice(at..end, edges[r.below(8)].iter().copied());
            }
            _ if r.below(20) == 0 => bytes.truncate(at),
            _ => bytes.insert(at, b"{}[]()<>\"'%,: \n0"[r.below(16)]),
        }
    }
}

/// Gives damaged `seeds` to `read` for so many seconds.
pub fn fuzz(
    target: &str,
    seeds: &[Vec<u8>],
    seconds: u64,
    read: impl Fn(&[u8]),
) -> Result<(), Box<dyn std::error::Error>> {
    let mut random = Random(SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as u64 | 1);
    let last = std::env::temp_dir().join(format!("lathe-fuzz-{target}"));
    let (start, time) = (Instant::now(), Duration::from_secs(seconds));
    let (mut count, mut slowest) = (0u64, Duration::ZERO);
    while start.elapsed() < time {
        let mut bytes = seeds[random.below(seeds.len())].clone();
        damage(&mut bytes, &mut random);
        let begin = Instant::now();
        // The process may end without a word where a stack overflows: the input is written first.
        std::fs::write(&last, &bytes)?;
        read(&bytes);
        slowest = slowest.max(begin.elapsed());
        count += 1;
    }
    println!("{target}: {count} inputs in {:.0?}, the slowest took {slowest:.1?}", start.elapsed());
    std::fs::remove_file(last)?;
    Ok(())
}
