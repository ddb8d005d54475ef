//! Where each part of a layer's experts is computed. Host, link and device work beside each other, so a layer takes as long as
//! the last of them: the least makespan is looked for, exactly where there are few ways.

use super::{ExpertCosts, Latency};

/// One expert that a layer uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job {
    /// Tokens that chose it, at least 1.
    pub tokens: u64,
    /// How many of its parts lie on the device; all lie on the host.
    pub here: u32,
}

/// The experts that a layer uses in a step, and when host, link and device are there for it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LayerWork {
    /// Tokens of the step.
    pub tokens: u64,
    /// The experts that are used.
    pub jobs: Vec<Job>,
    /// When the link is free, seconds after the router chose; before 0 where a part that is used is under way.
    pub link_free: f64,
}

/// When the lanes of a layer are done, seconds after the router chose.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Timing {
    /// The host, and its results are on the device.
    pub host: f64,
    /// The link with all weights.
    pub link: f64,
    /// The device.
    pub device: f64,
    /// The host's memory, where host and link take turns at it.
    pub memory: f64,
    /// Seconds that the host computes.
    pub host_busy: f64,
    /// Seconds that the link carries weights.
    pub link_busy: f64,
    /// Seconds that the device computes.
    pub device_busy: f64,
}

impl Timing {
    /// When the layer is done.
    pub fn seconds(&self) -> f64 {
        self.host.max(self.device).max(self.memory)
    }
}

/// How long a layer takes when of each job so many parts are computed on the host, and the others on the device, to which those
/// that do not lie there are moved. The device begins with what lies there; moved experts come by falling tokens, which is best as all parts take the link
/// equally long (Johnson 1954).
pub fn timing(costs: &ExpertCosts, work: &LayerWork, on_host: &[u32]) -> Timing {
    let mut order: Vec<usize> = (0..work.jobs.len()).collect();
    order.sort_by_key(|i| std::cmp::Reverse(work.jobs[*i].tokens));
    timing_in(costs, work, &Seconds::new(costs, work), on_host, &order)
}

/// What each job takes on either side, by how many of its parts are computed there.
struct Seconds {
    host: Vec<Vec<f64>>,
    device: Vec<Vec<f64>>,
}

impl Seconds {
    fn new(costs: &ExpertCosts, work: &LayerWork) -> Seconds {
        let of = |by: &Latency| {
            let job = |j: &Job| (0..=costs.parts).map(|n| by.seconds(j.tokens, costs.share(n))).collect();
            work.jobs.iter().map(job).collect()
        };
        Seconds { host: of(&costs.host), device: of(&costs.device) }
    }
}

fn timing_in(
    costs: &ExpertCosts,
    work: &LayerWork,
    seconds: &Seconds,
    on_host: &[u32],
    order: &[usize],
) -> Timing {
    let mut t = Timing { link: work.link_free, ..Timing::default() };
    let mut sent = 0;
    // The host reads what it computes, and the link what it moves.
    let read: u32 = work.jobs.iter().zip(on_host).map(|(job, n)| (costs.parts - job.here).max(*n)).sum();
    t.memory = costs.memory.map_or(0.0, |part| part * f64::from(read));
    for (i, (job, parts)) in work.jobs.iter().zip(on_host).enumerate() {
        let here = job.here.min(costs.parts - parts);
        t.host_busy += seconds.host[i][*parts as usize];
        t.device_busy += seconds.device[i][here as usize];
        sent += if *parts > 0 { job.tokens } else { 0 };
    }
    t.device = t.device_busy;
    if costs.together {
        let (mut computed, mut all) = (0.0, 0);
        for (i, (job, on_host)) in work.jobs.iter().zip(on_host).enumerate() {
            let moved = (costs.parts - job.here).saturating_sub(*on_host);
            computed += seconds.device[i][moved as usize];
            all += moved;
        }
        let (link, copy) = (f64::from(all) * costs.part, f64::from(all) * costs.copy);
        (t.link, t.link_busy) = (t.link + link, link);
        t.host_busy += copy;
        t.device_busy += copy + computed;
        t.device = (t.device + copy).max(if all > 0 { t.link } else { 0.0 }) + computed;
    }
    for i in order.iter().filter(|_| !costs.together) {
        let job = &work.jobs[*i];
        let moved = (costs.parts - job.here).saturating_sub(on_host[*i]);
        if moved == 0 {
            continue;
        }
        // Part k is there at link + k * part, and is computed after that and after the part before it.
        let (each, count) = (seconds.device[*i][1], f64::from(moved));
        let (first, last) = (t.link + costs.part, t.link + count * costs.part);
        t.device = (t.device + count * each).max(first + count * each).max(last + each);
        t.device_busy += count * each;
        t.link_busy += count * costs.part;
        t.link = last;
    }
    if sent > 0 {
        let sent = sent.min(work.tokens) as f64;
        let (down, up) = (costs.down.0 + costs.down.1 * sent, costs.up.0 + costs.up.1 * sent);
        t.host = down + t.host_busy + up;
        // Results take the link from weights.
        t.link += up;
    }
    t
}

/// Up to so many ways are all tried.
const WAYS: u64 = 4096;

/// Of each job, how many parts are computed on the host, so that the layer takes the least time; between
/// equal times the one with less work on host and link. Exact where there are up to 4096 ways. Otherwise the host takes parts
/// from the front of an order: least seconds of the host first, less a price times the device's, as the fluid problem has it for
/// one of these prices. Then parts are exchanged until that makes nothing faster.
pub fn choose(costs: &ExpertCosts, work: &LayerWork) -> (Vec<u32>, Timing) {
    let ways = work.jobs.iter().fold(1u64, |ways, _| ways.saturating_mul(u64::from(costs.parts) + 1));
    let mut best = Best::new(costs, work);
    if ways <= WAYS {
        all_ways(&mut best)
    } else {
        by_order(&mut best)
    }
    (best.on_host, best.timing)
}

/// The best way so far.
struct Best<'a> {
    costs: &'a ExpertCosts,
    work: &'a LayerWork,
    seconds: Seconds,
    order: Vec<usize>,
    on_host: Vec<u32>,
    timing: Timing,
}

impl<'a> Best<'a> {
    /// Beginning with everything moved.
    fn new(costs: &'a ExpertCosts, work: &'a LayerWork) -> Best<'a> {
        let mut order: Vec<usize> = (0..work.jobs.len()).collect();
        order.sort_by_key(|i| std::cmp::Reverse(work.jobs[*i].tokens));
        let on_host = vec![0; work.jobs.len()];
        let seconds = Seconds::new(costs, work);
        let timing = timing_in(costs, work, &seconds, &on_host, &order);
        Best { costs, work, seconds, order, on_host, timing }
    }

    /// Takes a way if it is better; whether it is.
    fn offer(&mut self, on_host: &[u32]) -> bool {
        let timing = timing_in(self.costs, self.work, &self.seconds, on_host, &self.order);
        let key = |t: &Timing| (t.seconds(), t.host_busy + t.link_busy);
        let ((a, work), (b, less)) = (key(&timing), key(&self.timing));
        let better = a < b * (1.0 - 1e-9) || (a <= b && work < less * (1.0 - 1e-9));
        if better {
            self.timing = timing;
            self.on_host.copy_from_slice(on_host);
        }
        better
    }
}

fn all_ways(best: &mut Best<'_>) {
    let mut on_host = best.on_host.clone();
    loop {
        best.offer(&on_host);
        // The next number, with a digit for each job.
        let Some(next) = (0..on_host.len()).find(|i| on_host[*i] < best.costs.parts) else { return };
        on_host[next] += 1;
        on_host[..next].fill(0);
    }
}

fn by_order(best: &mut Best<'_>) {
    let (costs, jobs) = (best.costs, &best.work.jobs);
    let part = costs.share(1);
    let host: Vec<f64> = jobs.iter().map(|j| costs.host.seconds(j.tokens, part)).collect();
    let device: Vec<f64> = jobs.iter().map(|j| costs.device.seconds(j.tokens, part)).collect();
    let of = |score: &dyn Fn(usize) -> f64| {
        let mut order: Vec<usize> = (0..jobs.len()).collect();
        order.sort_by(|a, b| score(*a).total_cmp(&score(*b)));
        order
    };
    let mut prices: Vec<f64> = host.iter().zip(&device).map(|(h, d)| h / d.max(f64::MIN_POSITIVE)).collect();
    prices.sort_by(f64::total_cmp);
    let prices = prices.iter().step_by(prices.len().div_ceil(16)).chain([&0.0]);
    let mut orders: Vec<Vec<usize>> = prices.map(|price| of(&|i| host[i] - price * device[i])).collect();
    orders.extend([of(&|i| host[i] / device[i].max(f64::MIN_POSITIVE)), of(&|i| -device[i])]);
    orders.dedup();
    for order in orders {
        let mut on_host = vec![0; jobs.len()];
        best.offer(&on_host);
        // First what would be moved, then what would run where it lies on the device.
        for most in [|parts: u32, here: u32| parts - here, |parts, _| parts] {
            for i in &order {
                while on_host[*i] < most(costs.parts, jobs[*i].here) {
                    on_host[*i] += 1;
                    best.offer(&on_host);
                }
            }
        }
    }
    // Parts change sides, alone or one for another, in smaller and smaller steps.
    let mut step = costs.parts.next_power_of_two();
    while step > 0 {
        let mut found = true;
        while found {
            found = false;
            let before = best.on_host.clone();
            let changed = |i: usize, up: bool| {
                let n = if up { before[i].checked_add(step) } else { before[i].checked_sub(step) };
                n.filter(|n| *n <= costs.parts)
            };
            'tries: for i in 0..jobs.len() {
                for up in [true, false] {
                    let Some(n) = changed(i, up) else { continue };
                    let mut on_host = before.clone();
                    on_host[i] = n;
                    found = best.offer(&on_host);
                    if found {
                        break 'tries;
                    }
                    // In exchange for another; of many experts this takes long, and orders are near the best.
                    for j in (0..jobs.len()).filter(|j| *j != i && jobs.len() <= 16) {
                        let whole = Some(if up { 0 } else { costs.parts });
                        for n in [changed(j, !up), whole].into_iter().flatten() {
                            let mut on_host = on_host.clone();
                            on_host[j] = n;
                            found = best.offer(&on_host);
                            if found {
                                break 'tries;
                            }
                        }
                    }
                }
            }
        }
        step /= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experts::Dense;
    use proptest::prelude::*;

    fn costs(parts: u32, host: (f64, f64), device: (f64, f64), link: f64, fixed: f64) -> ExpertCosts {
        let none = Latency::roofline(0.0, 0.0, 0.0);
        ExpertCosts {
            parts,
            host: Latency::roofline(fixed, host.0, host.1),
            device: Latency::roofline(fixed / 10.0, device.0, device.1),
            part: link / f64::from(parts),
            piece: 0.0,
            together: false,
            copy: 0.0,
            memory: None,
            down: (1e-3, 1e-4),
            up: (1e-3, 1e-4),
            dense: Dense { products: none.clone(), pair: 0.0, position: 0.0, head: none },
        }
    }

    /// A part at a time, event by event.
    fn played(costs: &ExpertCosts, work: &LayerWork, on_host: &[u32]) -> f64 {
        let here = |j: &Job, there: &u32| j.here.min(costs.parts - there);
        let mut after = 0.0;
        let mut device: f64 = (work.jobs.iter().zip(on_host))
            .map(|(j, there)| costs.device.seconds(j.tokens, costs.share(here(j, there))))
            .sum();
        let mut jobs: Vec<(Job, u32)> = work.jobs.iter().copied().zip(on_host.iter().copied()).collect();
        jobs.sort_by_key(|(j, _)| std::cmp::Reverse(j.tokens));
        let mut link = work.link_free;
        let (mut host, mut sent) = (0.0, 0);
        for (job, there) in jobs {
            for _ in 0..(costs.parts - job.here).saturating_sub(there) {
                link += costs.part;
                let seconds = costs.device.seconds(job.tokens, costs.share(1));
                if costs.together {
                    device = device.max(link);
                    after += seconds;
                } else {
                    device = device.max(link) + seconds;
                }
            }
            if there > 0 {
                host += costs.host.seconds(job.tokens, costs.share(there));
                sent += job.tokens;
            }
        }
        if sent > 0 {
            let sent = sent.min(work.tokens) as f64;
            host += costs.down.0 + costs.up.0 + (costs.down.1 + costs.up.1) * sent;
        }
        (device + after).max(host)
    }

    fn work(tokens: &[u64], here: &[u32], parts: u32, link_free: f64) -> LayerWork {
        let jobs = tokens.iter().zip(here).map(|(t, h)| Job { tokens: *t, here: (*h).min(parts) }).collect();
        LayerWork { tokens: tokens.iter().max().copied().unwrap_or(0) * 2, jobs, link_free }
    }

    proptest! {
        /// Costs of all kinds: memory or arithmetic binds on either side, the link is fast or slow.
        #[test]
        fn the_choice_is_the_best_there_is(
            parts in 1u32..4,
            host in (0.1f64..3.0, 0.001f64..0.5),
            device in (0.01f64..0.5, 0.0001f64..0.2),
            link in 0.1f64..4.0,
            fixed in 0.0f64..0.05,
            tokens in prop::collection::vec(1u64..200, 1..7),
            here in prop::collection::vec(0u32..2, 7),
            link_free in -0.02f64..0.3,
            together in any::<bool>(),
        ) {
            // What is computed together is one call, whose fixed seconds the parts that come one by one have each.
            let fixed = if together { 0.0 } else { fixed };
            let costs = ExpertCosts { together, ..costs(parts, host, device, link, fixed) };
            let work = work(&tokens, &here, parts, link_free);
            let (mut least, mut exact, mut ordered) =
                (f64::INFINITY, Best::new(&costs, &work), Best::new(&costs, &work));
            let mut on_host = vec![0; tokens.len()];
            'all: loop {
                let played = played(&costs, &work, &on_host);
                prop_assert!((played - timing(&costs, &work, &on_host).seconds()).abs() < 1e-9 * played.max(1.0));
                least = least.min(played);
                for n in &mut on_host {
                    if *n < parts {
                        *n += 1;
                        continue 'all;
                    }
                    *n = 0;
                }
                break;
            }
            all_ways(&mut exact);
            prop_assert!((exact.timing.seconds() - least).abs() <= 1e-9 * least.max(1.0));
            by_order(&mut ordered);
            // What orders miss is less than a part, which is small where they are used.
            let part = |n: &u64| costs.host.seconds(*n, costs.share(1)).max(costs.device.seconds(*n, costs.share(1)));
            let part = tokens.iter().map(part).fold(costs.part, f64::max);
            prop_assert!(ordered.timing.seconds() <= 1.01 * least + part, "{:?} of {least}", ordered.timing);
            let (_, chosen) = choose(&costs, &work);
            prop_assert!(chosen.seconds() <= least * (1.0 + 1e-9));
        }

        /// No choice is faster than what the lanes could do if work were a fluid, and with many parts the choice is near it.
        #[test]
        fn many_experts_are_near_the_fluid_bound(
            tokens in prop::collection::vec(1u64..64, 8..64),
            host in (0.5f64..3.0, 0.001f64..0.1),
            link in 0.5f64..4.0,
        ) {
            let costs = costs(8, host, (0.01, 0.001), link, 0.0);
            let work = work(&tokens, &vec![0; tokens.len()], 8, 0.0);
            let (_, chosen) = choose(&costs, &work);
            // The host takes experts by rising tokens as long as it is done before the link.
            let mut by: Vec<u64> = tokens.clone();
            by.sort_unstable();
            let (mut on_host, mut on_link, mut bound) = (0.0, link * tokens.len() as f64, 0.0);
            for n in by {
                let seconds = costs.host.seconds(n, 1.0);
                let share = ((on_link - on_host) / (seconds + link)).clamp(0.0, 1.0);
                on_host += share * seconds;
                on_link -= share * link;
                bound = on_host.max(on_link);
                if share < 1.0 {
                    break;
                }
            }
            prop_assert!(chosen.seconds() >= bound * (1.0 - 1e-9));
            prop_assert!(chosen.seconds() <= bound * 1.05 + costs.part + 0.1, "{} of {bound}", chosen.seconds());
        }
    }
}
