//! From values to pixels, with ticks that people can read. Logarithmic where all values are above zero and it was asked for, linear otherwise.

use crate::print::number;

/// One axis.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Scale {
    kind: Kind,
    low: f64,
    high: f64,
    /// Pixels of `low` and `high`.
    from: f64,
    to: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Linear,
    Log,
}

/// More ticks than this are too many.
const TICKS_MAX: usize = 7;

impl Scale {
    /// Logarithmic, from the lowest to the highest value.
    pub(crate) fn tight(values: &[f64], from: f64, to: f64) -> Self {
        let (low, high) = range(values.iter().copied());
        let kind = if low > 0.0 { Kind::Log } else { Kind::Linear };
        Self { kind, low, high, from, to }
    }

    /// Logarithmic with a little room; from round to round numbers where there would be hardly a tick otherwise.
    pub(crate) fn round(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Self {
        let (low, high) = range(values);
        if low <= 0.0 {
            return Self::linear(low.min(0.0), high, from, to);
        }
        // A little room, so that marks do not stand on the edge.
        let roomy = Self { kind: Kind::Log, low: low / 1.2, high: high * 1.2, from, to };
        if roomy.ticks().len() >= 3 {
            return roomy;
        }
        let (low, high) = (step_down(low / 1.05), step_up(high * 1.05));
        Self { kind: Kind::Log, low, high, from, to }
    }

    /// Linear, with zero on it.
    pub(crate) fn from_zero(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Self {
        let (low, high) = range(values);
        Self::linear(low.min(0.0), high.max(0.0), from, to)
    }

    fn linear(low: f64, high: f64, from: f64, to: f64) -> Self {
        let high = if high > low { high } else { low + 1.0 };
        let step = linear_step(high - low);
        Self { kind: Kind::Linear, low: (low / step).floor() * step, high: (high / step).ceil() * step, from, to }
    }

    /// The pixel of a value.
    pub(crate) fn place(&self, value: f64) -> f64 {
        let value = drawable(value);
        let share = match self.kind {
            Kind::Linear => (value - self.low) / (self.high - self.low),
            Kind::Log => (value.max(self.low) / self.low).ln() / (self.high / self.low).ln(),
        };
        // One value alone stands in the middle.
        let share = if share.is_finite() { share } else { 0.5 };
        self.from + share * (self.to - self.from)
    }

    /// Round numbers, at most [`TICKS_MAX`].
    pub(crate) fn ticks(&self) -> Vec<f64> {
        match self.kind {
            Kind::Linear => {
                let step = linear_step(self.high - self.low);
                let count = ((self.high - self.low) / step).round();
                std::iter::successors(Some(0.0), |number| Some(number + 1.0))
                    .take_while(|&number| number <= count)
                    .map(|number| self.low + number * step)
                    .collect()
            }
            Kind::Log => {
                let within = |digits: &[f64]| -> Vec<f64> {
                    decades(self.low, self.high)
                        .flat_map(|decade| digits.iter().map(move |digit| digit * decade))
                        .filter(|tick| *tick >= self.low * 0.999 && *tick <= self.high * 1.001)
                        .collect()
                };
                let ticks = within(&[1.0, 2.0, 5.0]);
                if ticks.len() <= TICKS_MAX {
                    return ticks;
                }
                let decades = within(&[1.0]);
                let every = decades.len().div_ceil(TICKS_MAX);
                decades.into_iter().step_by(every).collect()
            }
        }
    }

    /// The values themselves where they leave room to write them; what comes too close to its neighbour is left out.
    pub(crate) fn ticks_at(&self, values: &[f64], room: f64) -> Vec<f64> {
        let mut last = f64::NEG_INFINITY;
        let mut ticks = Vec::new();
        for &value in values {
            let place = self.place(value);
            if place - last >= room {
                ticks.push(value);
                last = place;
            }
        }
        ticks
    }
}

/// Lowest and highest, as far as an axis can tell them apart; 0 and 0 of none.
fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let range = values.map(drawable).fold(None, |range: Option<(f64, f64)>, value| {
        Some(range.map_or((value, value), |(low, high)| (low.min(value), high.max(value))))
    });
    range.unwrap_or_default()
}

/// Nothing that was measured is smaller or greater; what a file says otherwise is drawn at the edge.
fn drawable(value: f64) -> f64 {
    if value > 0.0 { value.clamp(1e-12, 1e15) } else { value.max(-1e15) }
}

fn decade(value: f64) -> f64 {
    10f64.powf(value.log10().floor())
}

/// Powers of ten from the one below `low` to `high`.
fn decades(low: f64, high: f64) -> impl Iterator<Item = f64> {
    std::iter::successors(Some(decade(low)), |decade| Some(decade * 10.0))
        .take_while(move |decade| *decade <= high * 1.001)
}

/// The greatest of 1, 2, 5, 10, … that is not above `value`.
fn step_down(value: f64) -> f64 {
    let decade = decade(value);
    [5.0, 2.0].iter().map(|digit| digit * decade).find(|step| *step <= value).unwrap_or(decade)
}

/// The least of 1, 2, 5, 10, … that is not below `value`.
fn step_up(value: f64) -> f64 {
    let decade = decade(value);
    [1.0, 2.0, 5.0].iter().map(|digit| digit * decade).find(|step| *step >= value).unwrap_or(decade * 10.0)
}

/// The distance of about five ticks.
fn linear_step(length: f64) -> f64 {
    step_up(length / 5.0)
}

/// A value for a tick: no digits that say nothing.
pub(crate) fn tick_text(value: f64) -> String {
    let size = value.abs();
    let (value, unit) = match size {
        _ if size >= 1e6 => (value / 1e6, "\u{202f}M"),
        _ if size >= 1e4 => (value / 1e3, "\u{202f}k"),
        _ if size >= 1e3 => return number(value),
        _ => (value, ""),
    };
    let text = format!("{value:.4}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    match text {
        "" | "-" | "-0" => "0".to_owned(),
        _ => format!("{text}{unit}"),
    }
}

/// Three significant digits, thousands and millions shortened.
pub(crate) fn short(value: f64) -> String {
    let size = value.abs();
    let (value, unit) = match size {
        _ if size >= 999_500.0 => (value / 1e6, "\u{202f}M"),
        _ if size >= 9_995.0 => (value / 1e3, "\u{202f}k"),
        _ if size >= 999.5 => return number(value.round()),
        _ => (value, ""),
    };
    let text = match value.abs() {
        size if size >= 99.95 => format!("{value:.0}"),
        size if size >= 9.995 => format!("{value:.1}"),
        size if size >= 0.1 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    };
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{}{unit}", if text == "-0" { "0" } else { text })
}

/// A value and its unit: `663 k/s`, `14.1 kB`, `902 B`, `1.2 ms`.
pub(crate) fn with_unit(value: f64, unit: &str) -> String {
    let value = short(value);
    let space = if value.ends_with(['k', 'M']) || unit.starts_with(['/', '%']) { "" } else { " " };
    format!("{value}{space}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_few() {
        let check = |values: &[f64], expect: &[f64]| {
            let ticks = Scale::round(values.iter().copied(), 0.0, 100.0).ticks();
            assert_eq!(ticks.len(), expect.len(), "{values:?}: {ticks:?}");
            for (tick, expect) in ticks.iter().zip(expect) {
                assert!((tick / expect - 1.0).abs() < 1e-9, "{values:?}: {ticks:?}");
            }
        };
        check(&[1.2, 3.0], &[1.0, 2.0, 5.0]);
        check(&[2.0, 9.0], &[2.0, 5.0, 10.0]);
        check(&[0.02, 90.0], &[0.1, 1.0, 10.0, 100.0]);
        check(&[7.0, 7.0], &[5.0, 10.0]);
        let zero = Scale::from_zero([3.0, 4.3e6].into_iter(), 0.0, 100.0);
        assert_eq!(zero.ticks(), [0.0, 1e6, 2e6, 3e6, 4e6, 5e6]);
        for length in -12..12 {
            let high = 3.3 * 10f64.powi(length);
            for scale in [
                Scale::round([high / 1e9, high].into_iter(), 0.0, 100.0),
                Scale::from_zero([high].into_iter(), 0.0, 100.0),
                Scale::from_zero([-high, high].into_iter(), 0.0, 100.0),
            ] {
                let ticks = scale.ticks();
                assert!((2..=11).contains(&ticks.len()), "{scale:?}: {ticks:?}");
            }
        }
    }

    #[test]
    fn values_keep_their_order_and_stay_on_the_axis() {
        let scale = Scale::round([0.5, 20.0, 300.0].into_iter(), 10.0, 210.0);
        let places: Vec<f64> = [0.5, 20.0, 300.0].iter().map(|value| scale.place(*value)).collect();
        assert!(places.is_sorted() && places.iter().all(|place| (10.0..=210.0).contains(place)), "{places:?}");
        assert_eq!(Scale::tight(&[5.0], 0.0, 100.0).place(5.0), 50.0);
        // Zero has no logarithm: such values are drawn on a linear axis.
        let linear = Scale::round([0.0, 10.0].into_iter(), 0.0, 100.0);
        assert_eq!((linear.place(0.0), linear.place(5.0)), (0.0, 50.0));
        assert!(Scale::round(std::iter::empty(), 0.0, 1.0).place(0.0).is_finite());
    }

    #[test]
    fn units_follow_as_people_write_them() {
        for (value, unit, text) in [
            (663e3, "/s", "663\u{202f}k/s"),
            (14_100.0, "B", "14.1\u{202f}kB"),
            (902.0, "B", "902 B"),
            (12.0, "/s", "12/s"),
        ] {
            assert_eq!(with_unit(value, unit), text);
        }
    }

    #[test]
    fn numbers_fit_into_a_plot() {
        for (value, text) in [
            (0.0, "0"),
            (0.012_34, "0.0123"),
            (0.5, "0.5"),
            (1.236, "1.24"),
            (45.67, "45.7"),
            (999.7, "1,000"),
            (12_345.0, "12.3\u{202f}k"),
            (2_600_000.0, "2.6\u{202f}M"),
        ] {
            assert_eq!(short(value), text);
        }
        for (value, text) in
            [(0.0, "0"), (0.05, "0.05"), (200.0, "200"), (20_000.0, "20\u{202f}k"), (5e6, "5\u{202f}M"), (5e3, "5,000")]
        {
            assert_eq!(tick_text(value), text);
        }
    }
}
