//! How a figure stands to the limit of the same runs: a ratio, a bound of one, or none with the reason.

use std::fmt;

use super::{Better, Figure, Report, median};
use crate::print::number;
use crate::subject::bare;

/// What can be said of a figure beside its limit, where it has one that is not 0.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Against {
    Ratio(Ratio),
    /// There is a limit, but no ratio to it.
    Unknown {
        why: String,
    },
}

/// The middle of the ratios of runs of the same minute.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Ratio {
    pub(crate) ratio: f64,
    /// The load generator was the bottleneck in one of these runs of the subject: it is at least this good.
    pub(crate) is_bound: bool,
    pub(crate) better: Better,
    /// Pairs of runs that it is of, and how many were left out because the limit itself was not reached in them.
    pub(crate) pairs: usize,
    pub(crate) left_out: usize,
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match (self.is_bound, self.better) {
            (false, _) => "",
            (true, Better::Higher) => "≥ ",
            (true, Better::Lower | Better::Neither) => "≤ ",
        };
        write!(f, "{sign}{} × limit", number(self.ratio))?;
        match self.left_out {
            0 => Ok(()),
            left_out => write!(f, " (of {} runs; in {left_out} the limit was load-bound)", self.pairs),
        }
    }
}

impl fmt::Display for Against {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ratio(ratio) => ratio.fmt(f),
            Self::Unknown { why } => write!(f, "no ratio: {why}"),
        }
    }
}

impl Report {
    /// How a figure stands to its limit; `None` if the report has no such limit.
    pub(crate) fn against(&self, figure: &Figure) -> Option<Against> {
        let limit = self.limit_of(figure).filter(|_| figure.better != Better::Neither)?;
        let paired = figure.paired_with(limit);
        let ratios = paired.ratios();
        if ratios.is_empty() && !paired.of.is_empty() {
            // Nothing is a multiple of 0, such as of no loss.
            return None;
        }
        Some(if ratios.is_empty() {
            let why = if paired.left_out > 0 {
                format!("{} was load-bound in {} of {} runs", bare::NAME, limit.load_bound, limit.runs.len())
            } else {
                format!("no run of {} is of the same minute", bare::NAME)
            };
            Against::Unknown { why }
        } else {
            Against::Ratio(Ratio {
                ratio: median(&ratios),
                is_bound: paired.is_bound,
                better: figure.better,
                pairs: ratios.len(),
                left_out: paired.left_out,
            })
        })
    }
}

/// Values of two subjects that belong together.
struct Paired {
    of: Vec<(f64, f64)>,
    left_out: usize,
    is_bound: bool,
}

impl Paired {
    fn ratios(&self) -> Vec<f64> {
        self.of.iter().filter(|(_, limit)| *limit > 0.0).map(|(own, limit)| own / limit).collect()
    }
}

impl Figure {
    /// Ratios of runs of the same minute, but those in which the limit was not reached; empty if there are none.
    pub(crate) fn ratios_to(&self, limit: &Self) -> Vec<f64> {
        self.paired_with(limit).ratios()
    }

    fn paired_with(&self, limit: &Self) -> Paired {
        if self.numbers.is_empty() || limit.numbers.is_empty() {
            return self.paired_by_place(limit);
        }
        let (mut of, mut left_out, mut is_bound) = (Vec::new(), 0, false);
        for (place, (&own, &number)) in self.runs.iter().zip(&self.numbers).enumerate() {
            let Some(other) = limit.place_of(number, self.occurrence(place)) else { continue };
            if limit.load_bound_in.contains(&number) {
                left_out += 1;
                continue;
            }
            is_bound |= self.load_bound_in.contains(&number);
            of.push((own, limit.runs[other]));
        }
        Paired { of, left_out, is_bound }
    }

    /// As format 1 meant it. Where one side misses a run nobody knows which belong together: then of the medians alone.
    fn paired_by_place(&self, limit: &Self) -> Paired {
        let is_bound = self.load_bound > 0;
        if limit.load_bound > 0 {
            // Which runs these were it does not say.
            return Paired { of: Vec::new(), left_out: limit.runs.len(), is_bound };
        }
        let of = if self.runs.len() == limit.runs.len() {
            self.runs.iter().copied().zip(limit.runs.iter().copied()).collect()
        } else {
            vec![(self.median(), limit.median())]
        };
        Paired { of, left_out: 0, is_bound }
    }

    /// Which of the values of its run the one in this place is.
    fn occurrence(&self, place: usize) -> usize {
        self.numbers[..place].iter().filter(|number| **number == self.numbers[place]).count()
    }

    fn place_of(&self, number: u32, occurrence: usize) -> Option<usize> {
        let places = self.numbers.iter().enumerate().filter(|(_, one)| **one == number);
        places.map(|(place, _)| place).nth(occurrence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{CPU_PER_DELIVERY, Entry, LOST, Metric, SATURATION, example};

    /// A report of one metric: subject, run number, value, load-bound.
    fn report(metric: Metric, values: &[(&str, u32, f64, bool)]) -> Report {
        let mut report = example();
        report.figures.clear();
        for &(subject, number, value, load_bound) in values {
            let entry = Entry { scenario: "x", subject, guarantee: "", point: &[], number, load_bound };
            report.record(&entry, metric, value);
        }
        report
    }

    fn check(metric: Metric, values: &[(&str, u32, f64, bool)], expect: &str) {
        let report = report(metric, values);
        let own = report.figures.iter().find(|figure| figure.subject == "nats").expect("it was measured");
        assert_eq!(report.against(own).expect("there is a limit").to_string(), expect);
    }

    /// The limit's second run failed. By place, each later run of the peer would stand beside another minute's.
    #[test]
    fn a_failed_run_shifts_no_other_pair() {
        let values = [
            ("bare send", 1, 1.0, false),
            ("nats", 1, 2.0, false),
            ("nats", 2, 9.0, false),
            ("bare send", 3, 10.0, false),
            ("nats", 3, 20.0, false),
            ("bare send", 4, 100.0, false),
            ("nats", 4, 200.0, false),
        ];
        check(CPU_PER_DELIVERY, &values, "2 × limit");
        let report = report(CPU_PER_DELIVERY, &values);
        assert_eq!(report.figures[1].ratios_to(&report.figures[0]), [2.0, 2.0, 2.0]);
        let apart = [("bare send", 1, 1.0, false), ("nats", 2, 2.0, false)];
        check(CPU_PER_DELIVERY, &apart, "no ratio: no run of bare send is of the same minute");
    }

    #[test]
    fn nothing_is_a_multiple_of_nothing() {
        let report = report(LOST, &[("bare send", 1, 0.0, false), ("nats", 1, 0.0, false)]);
        assert_eq!(report.against(&report.figures[1]), None);
    }

    #[test]
    fn several_values_of_a_run_pair_in_their_order() {
        let values = [
            ("bare send", 1, 1.0, false),
            ("bare send", 1, 2.0, false),
            ("nats", 1, 3.0, false),
            ("nats", 1, 6.0, false),
            ("nats", 1, 50.0, false),
        ];
        check(CPU_PER_DELIVERY, &values, "3 × limit");
    }

    #[test]
    fn a_limit_that_was_not_reached_gives_no_ratio() {
        let mut values = [
            ("bare send", 1, 1.0, true),
            ("nats", 1, 9.0, false),
            ("bare send", 2, 1.0, false),
            ("nats", 2, 2.0, false),
        ];
        check(CPU_PER_DELIVERY, &values, "2 × limit (of 1 runs; in 1 the limit was load-bound)");
        values[2].3 = true;
        check(CPU_PER_DELIVERY, &values, "no ratio: bare send was load-bound in 2 of 2 runs");
    }

    #[test]
    fn a_subject_that_was_not_at_its_end_has_a_bound() {
        let values = [("bare send", 1, 10.0, false), ("nats", 1, 5.0, true)];
        check(CPU_PER_DELIVERY, &values, "≤ 0.500 × limit");
        check(SATURATION, &values, "≥ 0.500 × limit");
    }
}
