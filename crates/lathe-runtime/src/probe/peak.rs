//! How fast the processor multiplies and adds: loops of nothing else, with enough independent sums to hide the latency.

use super::time_passes;
use crate::Pool;
use lathe_machine::Rate;
#[cfg(target_arch = "x86_64")]
use std::arch::is_x86_feature_detected;
use std::hint::black_box;

/// Rounds of one pass: some milliseconds.
const ROUNDS: usize = 1 << 20;

/// One loop: does `rounds` rounds.
type Loop = unsafe fn(usize);

/// A loop with the operations (a multiply and an add are two) of one of its rounds.
#[derive(Clone, Copy)]
struct Unit {
    run: Loop,
    operations: f64,
}

/// Peak f32 operations per second of all threads of `pool` together.
pub fn peak_f32(pool: &Pool) -> Option<Rate> {
    measure(f32_unit(), pool, 9)
}

/// Peak bf16 operations (summed in f32) per second of all threads of `pool` together; `None` without such instructions.
pub fn peak_bf16(pool: &Pool) -> Option<Rate> {
    measure(bf16_unit()?, pool, 9)
}

/// Peak 8-bit integer operations per second (summed in 32 bits, or in 16 where no instruction does more) of all threads of `pool` together.
pub fn peak_int8(pool: &Pool) -> Option<Rate> {
    measure(int8_unit(), pool, 9)
}

/// Every data type's peak.
pub(super) fn all(pool: &Pool, passes: usize) -> Vec<(&'static str, Rate)> {
    let units = [("f32", Some(f32_unit())), ("bf16", bf16_unit()), ("int8", Some(int8_unit()))];
    units.into_iter().filter_map(|(dtype, unit)| Some((dtype, measure(unit?, pool, passes)?))).collect()
}

fn measure(unit: Unit, pool: &Pool, passes: usize) -> Option<Rate> {
    let amount = unit.operations * ROUNDS as f64 * pool.threads() as f64;
    time_passes(pool, passes, amount, &|_| {
        // SAFETY: the function that chose the unit has checked that this processor has its instructions.
        unsafe { (unit.run)(ROUNDS) }
    })
}

fn f32_unit() -> Unit {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            return Unit { run: x86::f32_avx512, operations: (SUMS * 16 * 2) as f64 };
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return Unit { run: x86::f32_avx2, operations: (HALF_SUMS * 8 * 2) as f64 };
        }
    }
    Unit { run: f32_portable, operations: (LANES * 2) as f64 }
}

fn bf16_unit() -> Option<Unit> {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16") {
        return Some(Unit { run: x86::bf16_avx512, operations: (SUMS * 32 * 2) as f64 });
    }
    None
}

fn int8_unit() -> Unit {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni") {
            return Unit { run: x86::int8_avx512vnni, operations: (SUMS * 64 * 2) as f64 };
        }
        if is_x86_feature_detected!("avx512bw") {
            return Unit { run: x86::int8_avx512, operations: (SUMS * 64 * 2) as f64 };
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("avxvnni") {
            return Unit { run: x86::int8_avxvnni, operations: (HALF_SUMS * 32 * 2) as f64 };
        }
        if is_x86_feature_detected!("avx2") {
            return Unit { run: x86::int8_avx2, operations: (HALF_SUMS * 32 * 2) as f64 };
        }
    }
    Unit { run: int8_portable, operations: (LANES * 2) as f64 }
}

/// Independent sums of the vector loops: two instructions a cycle of up to eight cycles latency.
#[cfg(target_arch = "x86_64")]
const SUMS: usize = 16;

/// The same where there are 16 registers: two operands leave room for twelve sums.
#[cfg(target_arch = "x86_64")]
const HALF_SUMS: usize = 12;

/// Independent sums of the portable loops.
const LANES: usize = 64;

fn f32_portable(rounds: usize) {
    let (a, b) = (black_box([1.0f32; LANES]), black_box(1e-9f32));
    let mut sums = [0.0f32; LANES];
    for _ in 0..rounds {
        sums.iter_mut().zip(&a).for_each(|(sum, a)| *sum += *sum * b + a);
    }
    black_box(sums);
}

fn int8_portable(rounds: usize) {
    let (a, b) = (black_box([3i8; LANES]), black_box([5i8; LANES]));
    let mut sums = [0i32; LANES];
    for round in 0..rounds {
        // The round's number keeps the product from being made once for all rounds.
        let turn = round as i8;
        for lane in 0..LANES {
            sums[lane] = sums[lane].wrapping_add(i32::from(a[lane] ^ turn) * i32::from(b[lane]));
        }
    }
    black_box(sums);
}

/// The loops in AVX-512 and AVX2. Sums are named one by one, so that they stay in registers at every optimisation level.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::hint::black_box;

    macro_rules! rounds {
        ($rounds:expr, $zero:expr, |$sum:ident| $step:expr; $($name:ident)*) => {{
            $(let mut $name = $zero;)*
            for _ in 0..$rounds {
                $($name = { let $sum = $name; $step };)*
            }
            $(black_box($name);)*
        }};
    }

    /// # Safety
    /// The processor has AVX-512F.
    #[target_feature(enable = "avx512f")]
    pub unsafe fn f32_avx512(rounds: usize) {
        let (a, b) = (black_box(_mm512_set1_ps(1.5)), black_box(_mm512_set1_ps(0.5)));
        rounds!(rounds, _mm512_setzero_ps(), |sum| _mm512_fmadd_ps(a, b, sum);
            s0 s1 s2 s3 s4 s5 s6 s7 s8 s9 s10 s11 s12 s13 s14 s15);
    }

    /// # Safety
    /// The processor has AVX-512F and AVX-512 BF16.
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub unsafe fn bf16_avx512(rounds: usize) {
        let ones = _mm512_set1_ps(1.5);
        let (a, b) = (black_box(_mm512_cvtne2ps_pbh(ones, ones)), black_box(_mm512_cvtne2ps_pbh(ones, ones)));
        rounds!(rounds, _mm512_setzero_ps(), |sum| _mm512_dpbf16_ps(sum, a, b);
            s0 s1 s2 s3 s4 s5 s6 s7 s8 s9 s10 s11 s12 s13 s14 s15);
    }

    /// # Safety
    /// The processor has AVX-512F and AVX-512 VNNI.
    #[target_feature(enable = "avx512f,avx512vnni")]
    pub unsafe fn int8_avx512vnni(rounds: usize) {
        let (a, b) = (black_box(_mm512_set1_epi8(3)), black_box(_mm512_set1_epi8(5)));
        rounds!(rounds, _mm512_setzero_si512(), |sum| _mm512_dpbusd_epi32(sum, a, b);
            s0 s1 s2 s3 s4 s5 s6 s7 s8 s9 s10 s11 s12 s13 s14 s15);
    }

    /// Two bytes a lane of 16 bits; the sums wrap. The operand changes with each sum, so that no product is made only once.
    ///
    /// # Safety
    /// The processor has AVX-512F and AVX-512BW.
    #[target_feature(enable = "avx512f,avx512bw")]
    pub unsafe fn int8_avx512(rounds: usize) {
        let a = black_box(_mm512_set1_epi8(3));
        rounds!(rounds, _mm512_set1_epi8(5), |sum| _mm512_add_epi16(sum, _mm512_maddubs_epi16(a, sum));
            s0 s1 s2 s3 s4 s5 s6 s7 s8 s9 s10 s11 s12 s13 s14 s15);
    }

    /// # Safety
    /// The processor has AVX2 and FMA.
    #[target_feature(enable = "avx2,fma")]
    pub unsafe fn f32_avx2(rounds: usize) {
        let (a, b) = (black_box(_mm256_set1_ps(1.5)), black_box(_mm256_set1_ps(0.5)));
        rounds!(rounds, _mm256_setzero_ps(), |sum| _mm256_fmadd_ps(a, b, sum);
            s0 s1 s2 s3 s4 s5 s6 s7 s8 s9 s10 s11);
    }

    /// As `int8_avx512`.
    ///
    /// # Safety
    /// The processor has AVX2.
    #[target_feature(enable = "avx2")]
    pub unsafe fn int8_avx2(rounds: usize) {
        let a = black_box(_mm256_set1_epi8(3));
        rounds!(rounds, _mm256_set1_epi8(5), |sum| _mm256_add_epi16(sum, _mm256_maddubs_epi16(a, sum));
            s0 s1 s2 s3 s4 s5 s6 s7 s8 s9 s10 s11);
    }

    /// # Safety
    /// The processor has AVX2 and AVX-VNNI.
    #[target_feature(enable = "avx2,avxvnni")]
    pub unsafe fn int8_avxvnni(rounds: usize) {
        let (a, b) = (black_box(_mm256_set1_epi8(3)), black_box(_mm256_set1_epi8(5)));
        rounds!(rounds, _mm256_setzero_si256(), |sum| _mm256_dpbusd_avx_epi32(sum, a, b);
            s0 s1 s2 s3 s4 s5 s6 s7 s8 s9 s10 s11);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A round hands each of its sums on to the next round, which takes a cycle at least. Other work on the machine only
    /// makes a loop slower, so a loop that is too fast was optimised away, and no load of the machine fails this.
    #[test]
    fn every_loop_does_all_its_rounds() {
        const ROUNDS: usize = 400_000;
        const FASTEST_CYCLE: f64 = 0.1e-9;
        let mut units = vec![f32_unit(), int8_unit()];
        units.extend(bf16_unit());
        units.extend([f32_portable as Loop, int8_portable as Loop].map(|run| Unit { run, operations: 1.0 }));
        for unit in units {
            let start = std::time::Instant::now();
            // SAFETY: the unit was chosen for this processor.
            unsafe { (unit.run)(ROUNDS) };
            let seconds = start.elapsed().as_secs_f64();
            assert!(
                seconds > ROUNDS as f64 * FASTEST_CYCLE,
                "{seconds} s for {ROUNDS} rounds: the loop was optimised away"
            );
        }
    }
}
