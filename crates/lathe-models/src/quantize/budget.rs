//! The choice of a type for each tensor under a budget of bytes: the multiple-choice knapsack, by Lagrangian relaxation.
//!
//! A price for each byte makes the tensors independent: each takes what is cheapest at it. The least price under which all fit is
//! found by bisection, and what room is left then goes to the steps that gain the most for each byte. The result costs more than the
//! best there is by less than the room that stays unused is worth at that price.

/// A way to store a tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Way {
    /// The bytes it takes.
    pub bytes: usize,
    /// What it loses; costs of tensors add up.
    pub cost: f64,
}

/// For each tensor the number of one of its ways, so that all together take at most `budget` bytes and lose little;
/// an error with the least bytes that would do where they cannot.
pub fn within_budget(tensors: &[Vec<Way>], budget: usize) -> Result<Vec<usize>, usize> {
    let at = |price: f64| -> Vec<usize> {
        let best = |options: &Vec<Way>| {
            let key = |i: &usize| (options[*i].cost + price * options[*i].bytes as f64, options[*i].bytes);
            let less =
                |a: &usize, b: &usize| key(a).partial_cmp(&key(b)).unwrap_or(std::cmp::Ordering::Equal);
            (0..options.len()).min_by(less).unwrap_or(0)
        };
        tensors.iter().map(best).collect()
    };
    let size = |chosen: &[usize]| -> usize { tensors.iter().zip(chosen).map(|(t, c)| t[*c].bytes).sum() };
    let smallest = |t: &Vec<Way>| (0..t.len()).min_by_key(|i| t[*i].bytes).unwrap_or(0);
    let mut chosen: Vec<usize> = tensors.iter().map(smallest).collect();
    if size(&chosen) > budget {
        return Err(size(&chosen));
    }
    // Costs may have any unit, so prices are tried by their order of magnitude.
    let (mut low, mut high) = (-300.0, 300.0);
    for _ in 0..100 {
        let middle: f64 = (low + high) / 2.0;
        let found = at(10f64.powf(middle));
        match size(&found) <= budget {
            true => (chosen, high) = (found, middle),
            false => low = middle,
        }
    }
    loop {
        let room = budget - size(&chosen);
        let mut best: Option<(f64, usize, usize)> = None;
        for (i, (options, now)) in tensors.iter().zip(&chosen).enumerate() {
            for (j, option) in options.iter().enumerate() {
                let (gain, more) =
                    (options[*now].cost - option.cost, option.bytes.saturating_sub(options[*now].bytes));
                let worth = gain / (more.max(1) as f64);
                if gain > 0.0 && more <= room && best.is_none_or(|b| worth > b.0) {
                    best = Some((worth, i, j));
                }
            }
        }
        match best {
            Some((_, i, j)) => chosen[i] = j,
            None => return Ok(chosen),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn option() -> impl Strategy<Value = Way> {
        (1usize..60, 0u32..1000).prop_map(|(bytes, cost)| Way { bytes, cost: f64::from(cost) * 1e-5 })
    }

    /// The least cost, by trying all.
    fn least(tensors: &[Vec<Way>], budget: usize) -> Option<f64> {
        let Some((first, rest)) = tensors.split_first() else { return Some(0.0) };
        let with = |o: &Way| Some(o.cost + least(rest, budget.checked_sub(o.bytes)?)?);
        first.iter().filter_map(with).min_by(f64::total_cmp)
    }

    proptest! {
        #[test]
        fn it_is_near_the_best(
            tensors in prop::collection::vec(prop::collection::vec(option(), 1..5), 1..6),
            budget in 1usize..250
        ) {
            let cost = |chosen: &[usize]| tensors.iter().zip(chosen).map(|(t, c)| t[*c].cost).sum::<f64>();
            match (within_budget(&tensors, budget), least(&tensors, budget)) {
                (Ok(chosen), Some(least)) => {
                    let size: usize = tensors.iter().zip(&chosen).map(|(t, c)| t[*c].bytes).sum();
                    prop_assert!(size <= budget);
                    // One tensor's choice may be off.
                    let spread = |t: &Vec<Way>| {
                        let costs = || t.iter().map(|o| o.cost);
                        costs().fold(0.0, f64::max) - costs().fold(f64::INFINITY, f64::min)
                    };
                    let most = tensors.iter().map(spread).fold(0.0, f64::max);
                    prop_assert!(cost(&chosen) >= least - 1e-12 && cost(&chosen) <= least + most + 1e-12);
                }
                (Err(needed), None) => prop_assert!(needed > budget),
                (found, least) => prop_assert!(false, "{found:?}, {least:?}"),
            }
        }

        #[test]
        fn more_room_costs_less(
            tensors in prop::collection::vec(prop::collection::vec(option(), 1..5), 40..50),
            budget in 1000usize..2000
        ) {
            let cost = |budget: usize| {
                let chosen = within_budget(&tensors, budget).ok()?;
                Some(tensors.iter().zip(&chosen).map(|(t, c)| t[*c].cost).sum::<f64>())
            };
            if let (Some(less), Some(more)) = (cost(budget), cost(budget + 60)) {
                prop_assert!(more <= less + 1e-12);
            }
        }
    }
}
