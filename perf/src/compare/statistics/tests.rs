//! What a perf engineer has to be able to trust: no alarm without a cause, and an alarm with one.

use super::*;

/// Values as benchmarks give them: most near the middle, some far above.
fn noisy(random: &mut Random, median: f64, noise: f64) -> f64 {
    let unit =
        |random: &mut Random| (count(usize::try_from(random.next() >> 11).expect("53 bits")) + 0.5) / 2f64.powi(53);
    // Box and Muller.
    let normal = (-2.0 * unit(random).ln()).sqrt() * (std::f64::consts::TAU * unit(random)).cos();
    median * (noise * normal).exp()
}

/// A family of figures whose runs share what the machine did in their minute. `factor`: by how much the first is worse in the new one.
fn family(seed: u64, figures: usize, runs: usize, noise: f64, factor: f64) -> Vec<Sample> {
    let mut random = Random(seed);
    let minutes: Vec<f64> = (0..2 * runs).map(|_| noisy(&mut random, 1.0, noise)).collect();
    (0..figures)
        .map(|place| {
            let mut side = |minutes: &[f64], factor: f64| -> Vec<f64> {
                minutes.iter().map(|minute| minute * factor * noisy(&mut random, 3.0, noise)).collect()
            };
            let old = side(&minutes[..runs], 1.0);
            let new = side(&minutes[runs..], if place == 0 { factor } else { 1.0 });
            Sample::new(&old, &new, true)
        })
        .collect()
}

fn alarms(seeds: std::ops::Range<u64>, runs: usize, noise: f64, factor: f64) -> u32 {
    seeds
        .map(|seed| {
            let found = probabilities(&family(seed, 30, runs, noise, factor));
            u32::from(found.iter().any(|probability| *probability <= 0.05 + 1e-9))
        })
        .sum()
}

#[test]
fn what_did_not_change_raises_an_alarm_in_one_of_twenty_families_at_most() {
    for (runs, noise) in [(3, 0.02), (3, 0.3), (5, 0.02), (5, 0.3)] {
        let alarms = alarms(0..200, runs, noise, 1.0);
        // 10 are expected at most; 19 would be three standard deviations more.
        assert!(alarms < 19, "{runs} runs, noise {noise}: {alarms} of 200");
    }
}

#[test]
fn fifteen_percent_worse_is_found() {
    for (runs, noise, least) in [(3, 0.01, 45), (5, 0.02, 49), (7, 0.03, 49)] {
        let found = (0..50)
            .filter(|seed| {
                let found = probabilities(&family(*seed, 10, runs, noise, 1.15));
                found[0] <= 0.05 + 1e-9
            })
            .count();
        assert!(found >= least, "{runs} runs, noise {noise}: {found} of 50");
    }
}

#[test]
fn all_ways_are_tried_once_where_they_are_few_and_the_true_one_is_always_among_them() {
    for (old, new, number) in [(3, 3, 20), (5, 5, 252), (7, 7, 3432), (3, 7, 120), (1, 1, 2)] {
        let mut ways = ways(old, new);
        assert_eq!(ways.len(), number);
        assert!(ways.iter().all(|way| way.iter().filter(|is_new| **is_new).count() == new));
        ways.sort();
        ways.dedup();
        assert_eq!(ways.len(), number, "each once");
    }
    let many = ways(50, 50);
    assert_eq!(many.len(), WAYS_MAX);
    assert!(many[0][..50].iter().all(|is_new| !is_new) && many[0][50..].iter().all(|is_new| *is_new));
    assert_eq!(many, ways(50, 50), "the same answer each time");
}

#[test]
fn shifts_are_shares_and_know_which_way_is_worse() {
    let check = |old: &[f64], new: &[f64], is_less_better, expect: f64| {
        let worse = Sample::new(old, new, is_less_better).worse_by();
        assert!((worse - expect).abs() < 1e-9, "{old:?} {new:?}: {worse}");
        let better = Sample::new(old, new, is_less_better).turned().worse_by();
        assert!(worse == 0.0 || better * worse < 0.0, "{worse} and {better}");
    };
    check(&[2.0, 2.0, 2.0], &[3.0, 3.0, 3.0], true, 0.5);
    check(&[2.0, 2.0, 2.0], &[1.0, 1.0, 1.0], false, 1.0);
    check(&[2.0, 2.0], &[2.0, 2.0], true, 0.0);
    // One outlier moves it little.
    check(&[1.0, 1.0, 1.0], &[1.1, 1.1, 90.0], true, 0.1);
    // Zero has no logarithm: shares of the mean size.
    check(&[0.0, 0.0, 0.0], &[1.0, 1.0, 1.0], true, 2.0);
    check(&[0.0, 0.0], &[0.0, 0.0], true, 0.0);
    check(&[], &[], true, 0.0);
}

#[test]
fn odd_families_have_an_answer() {
    assert_eq!(probabilities(&[]), Vec::<f64>::new());
    let empty = Sample::new(&[], &[], true);
    let three = Sample::new(&[1.0, 1.0, 1.0], &[2.0, 2.0, 2.0], true);
    assert_eq!(probabilities(&[empty.clone(), three.clone()]), [1.0, 1.0]);
    let found = probabilities(&[three.clone(), empty, Sample::new(&[1.0], &[2.0], true)]);
    assert_eq!(found, [0.05, 1.0, 1.0]);
    // Nothing moved at all: every way is as bad.
    assert_eq!(probabilities(&[Sample::new(&[1.0; 3], &[1.0; 3], true)]), [1.0]);
    assert_eq!(probabilities(&[three.turned()]), [1.0]);
}
