//! Did it get worse, or was it noise? Pure: samples in, probabilities out.
//!
//! Runs are few (3 to 7 a side), noisy, and not of a known distribution; figures are many, and figures of one run are of the same minutes,
//! so they rise and fall together. That fits a permutation test over whole runs with the greatest statistic of a family (Westfall and Young,
//! *Resampling-Based Multiple Testing*, 1993, the step-down of algorithm 2.8): if nothing had changed, which runs are called old and which
//! new would be arbitrary, so all ways of calling them are tried, each for all figures at once. A figure's probability is the share of ways
//! in which any figure that is not more striking looks at least as bad. No distribution is assumed, and a family of any number of figures
//! raises a false alarm no more often than one figure would.
//!
//! The statistic is the difference of means of logarithms over its standard error, with a hundredth added to the error (Tusher, Tibshirani
//! and Chu, PNAS 98:5116, 2001): three runs that happen to agree to a thousandth prove nothing of a thousandth.

/// What is added to the standard error: differences of this share are not worth a verdict whatever the runs say.
const ERROR_FLOOR: f64 = 0.01;
/// Ways of calling runs old and new that are tried one by one; where there are more, as many are drawn.
const WAYS_MAX: usize = 4000;

/// The runs of a figure on both sides, turned so that greater is worse.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sample {
    old: Vec<f64>,
    new: Vec<f64>,
    is_log: bool,
}

impl Sample {
    /// Of runs where less is better, or more. Values above zero are compared as ratios, others as differences in shares of their mean size.
    pub(super) fn new(old: &[f64], new: &[f64], is_less_better: bool) -> Self {
        let is_log = old.iter().chain(new).all(|value| *value > 0.0);
        let sum: f64 = old.iter().chain(new).map(|value| value.abs()).sum();
        let size = sum / count(old.len() + new.len());
        let unit = if size == 0.0 { 1.0 } else { size };
        let sign = if is_less_better { 1.0 } else { -1.0 };
        let turn = |values: &[f64]| -> Vec<f64> {
            values.iter().map(|value| sign * if is_log { value.ln() } else { value / unit }).collect()
        };
        Self { old: turn(old), new: turn(new), is_log }
    }

    /// The same, where greater is better: for the question whether it got better.
    pub(super) fn turned(&self) -> Self {
        let turn = |values: &[f64]| values.iter().map(|value| -value).collect();
        Self { old: turn(&self.old), new: turn(&self.new), is_log: self.is_log }
    }

    pub(super) fn runs(&self) -> (usize, usize) {
        (self.old.len(), self.new.len())
    }

    /// How much worse the new side is, as a share: the middle of all differences between a new and an old run (Hodges and Lehmann).
    pub(super) fn worse_by(&self) -> f64 {
        let mut shifts: Vec<f64> = self.new.iter().flat_map(|new| self.old.iter().map(move |old| new - old)).collect();
        shifts.sort_by(f64::total_cmp);
        let middle = shifts.len() / 2;
        let shift = match shifts.len() {
            0 => 0.0,
            length if length % 2 == 0 => f64::midpoint(shifts[middle - 1], shifts[middle]),
            _ => shifts[middle],
        };
        if self.is_log { shift.exp_m1() } else { shift }
    }

    /// How striking the difference is when the runs at these places are called new.
    fn statistic(&self, is_new: &[bool]) -> f64 {
        let (mut sums, mut squares, mut counts) = ([0.0; 2], [0.0; 2], [0.0; 2]);
        for (value, is_new) in self.old.iter().chain(&self.new).zip(is_new) {
            let side = usize::from(*is_new);
            sums[side] += value;
            squares[side] += value * value;
            counts[side] += 1.0;
        }
        let (old, new) = (sums[0] / counts[0], sums[1] / counts[1]);
        let scatter = (squares[0] - sums[0] * old).max(0.0) + (squares[1] - sums[1] * new).max(0.0);
        let variance = scatter / (counts[0] + counts[1] - 2.0).max(1.0);
        (new - old) / ((variance * (1.0 / counts[0] + 1.0 / counts[1])).sqrt() + ERROR_FLOOR)
    }
}

/// For each sample of a family, the probability of so bad a difference, or a worse one in any of them, if nothing had changed.
///
/// All samples of a family have the same numbers of runs; those of another shape than the first count as unchanged.
pub(super) fn probabilities(family: &[Sample]) -> Vec<f64> {
    let mut found = vec![1.0; family.len()];
    let Some((old, new)) = family.first().map(Sample::runs) else { return found };
    if old == 0 || new == 0 {
        return found;
    }
    let observed: Vec<bool> = std::iter::repeat_n(false, old).chain(std::iter::repeat_n(true, new)).collect();
    // The most striking first.
    let mut order: Vec<(usize, f64)> = family
        .iter()
        .enumerate()
        .filter(|(_, sample)| sample.runs() == (old, new))
        .map(|(place, sample)| (place, sample.statistic(&observed)))
        .collect();
    order.sort_by(|(_, one), (_, other)| other.total_cmp(one));
    let ways = ways(old, new);
    let mut as_bad = vec![0_usize; order.len()];
    for way in &ways {
        // The greatest of this figure and all that are less striking.
        let mut greatest = f64::NEG_INFINITY;
        for (rank, (place, statistic)) in order.iter().enumerate().rev() {
            greatest = greatest.max(family[*place].statistic(way));
            // Sums in another order differ in the last digits.
            as_bad[rank] += usize::from(greatest >= statistic - 1e-9);
        }
    }
    let mut least = 0.0;
    for ((place, _), as_bad) in order.iter().zip(&as_bad) {
        // A less striking figure is never more probable.
        least = f64::max(least, count(*as_bad) / count(ways.len()));
        found[*place] = least;
    }
    found
}

/// Ways of calling `new` of all runs new, the true one among them: all of them, or [`WAYS_MAX`] drawn always alike.
fn ways(old: usize, new: usize) -> Vec<Vec<bool>> {
    let total = old + new;
    let number = (1..=new).try_fold(1_usize, |product, step| Some(product.checked_mul(old + step)? / step));
    if number.is_some_and(|number| number <= WAYS_MAX) {
        let mut ways = Vec::new();
        let mut way = Vec::new();
        choose(&mut way, total, new, &mut ways);
        return ways;
    }
    let mut way: Vec<bool> = std::iter::repeat_n(false, old).chain(std::iter::repeat_n(true, new)).collect();
    let mut ways = vec![way.clone()];
    let mut random = Random(1);
    while ways.len() < WAYS_MAX {
        for place in (1..total).rev() {
            way.swap(place, random.below(place + 1));
        }
        ways.push(way.clone());
    }
    ways
}

fn choose(way: &mut Vec<bool>, left: usize, new: usize, ways: &mut Vec<Vec<bool>>) {
    if left == 0 {
        ways.push(way.clone());
        return;
    }
    for is_new in [false, true] {
        if if is_new { new > 0 } else { left > new } {
            way.push(is_new);
            choose(way, left - 1, new - usize::from(is_new), ways);
            way.pop();
        }
    }
}

/// The generator of Steele, Lea and Flood (*Fast splittable pseudorandom number generators*, 2014): a verdict does not change by asking twice.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        // The high half of a product: as even as anybody needs for bounds below 2^32.
        usize::try_from((u128::from(self.next()) * bound as u128) >> 64).unwrap_or_default()
    }
}

#[expect(clippy::cast_precision_loss, reason = "runs and ways are thousands at most")]
fn count(number: usize) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests;
