//! Plots as SVG: lines over an axis and horizontal bars, each with median and spread. What is plotted is decided in `plots`.
//!
//! An SVG carries its own background, words and two sets of colours, so it can be read on any page, light or dark, and without the page.

use maud::{Markup, PreEscaped, html};

use super::scale::{Scale, short, tick_text, with_unit};
use crate::report::Better;

/// Colours and strokes, for the page as for an SVG that stands alone.
pub(crate) const STYLE: &str = include_str!("chart.css");

/// The unit of multiples of the limit.
pub(crate) const LIMITS: &str = "× limit";

const WIDTH: f64 = 620.0;
const LINES_HEIGHT: f64 = 404.0;
/// Under title and subtitle.
const TOP: f64 = 76.0;
/// Under the unit, too, which stands above the axis.
const LINES_TOP: f64 = 94.0;
const BOTTOM: f64 = 54.0;
const LABEL_HEIGHT: f64 = 16.0;

/// A plot.
#[derive(Debug, Clone)]
pub(crate) struct Chart {
    /// Stable from report to report: the name of its file.
    pub(crate) name: String,
    pub(crate) title: String,
    /// What does not vary, and which way is better.
    pub(crate) subtitle: String,
    pub(crate) unit: String,
    pub(crate) better: Better,
    pub(crate) form: Form,
}

#[derive(Debug, Clone)]
pub(crate) enum Form {
    Lines { x_label: String, series: Vec<Series> },
    Bars(Vec<Bar>),
}

#[derive(Debug, Clone)]
pub(crate) struct Series {
    pub(crate) subject: String,
    pub(crate) look: Look,
    pub(crate) points: Vec<(f64, Mark)>,
}

#[derive(Debug, Clone)]
pub(crate) struct Bar {
    pub(crate) subject: String,
    pub(crate) guarantee: String,
    pub(crate) look: Look,
    pub(crate) mark: Mark,
}

/// One figure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Mark {
    pub(crate) median: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
    pub(crate) load_bound: bool,
}

/// How a subject looks, the same in every plot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    Millrace,
    /// The limit that ratios are to.
    Limit,
    /// What batches or another interface would give.
    OtherLimit,
    /// Colour and shape.
    Peer(usize),
}

/// Colours for peers in `chart.css`; as many shapes.
pub(crate) const PEER_LOOKS: usize = 9;

impl Look {
    fn class(self) -> String {
        match self {
            Self::Millrace => "own".to_owned(),
            Self::Limit => "limit".to_owned(),
            Self::OtherLimit => "limit other".to_owned(),
            Self::Peer(number) => format!("peer{}", number % PEER_LOOKS),
        }
    }

    pub(crate) fn is_subject(self) -> bool {
        !matches!(self, Self::Limit | Self::OtherLimit)
    }

    /// The outline of its mark, so that colour is never all that tells subjects apart.
    fn shape(self, x: f64, y: f64) -> Markup {
        let polygon = |corners: &[(f64, f64)]| {
            let corners: Vec<String> =
                corners.iter().map(|(dx, dy)| format!("{},{}", px(x + dx), px(y + dy))).collect();
            html! { polygon points=(corners.join(" ")) {} }
        };
        match self {
            Self::Millrace => html! { circle cx=(px(x)) cy=(px(y)) r="5" {} },
            Self::Limit => polygon(&[(-4.5, -1.5), (4.5, -1.5), (4.5, 1.5), (-4.5, 1.5)]),
            Self::OtherLimit => polygon(&[(-1.5, -4.5), (1.5, -4.5), (1.5, 4.5), (-1.5, 4.5)]),
            Self::Peer(number) => match number % PEER_LOOKS {
                0 => polygon(&[(-4.0, -4.0), (4.0, -4.0), (4.0, 4.0), (-4.0, 4.0)]),
                1 => polygon(&[(0.0, -5.0), (4.8, 3.8), (-4.8, 3.8)]),
                2 => polygon(&[(0.0, -5.4), (5.4, 0.0), (0.0, 5.4), (-5.4, 0.0)]),
                3 => polygon(&[(0.0, 5.0), (4.8, -3.8), (-4.8, -3.8)]),
                4 => polygon(&[(-5.0, 0.0), (3.8, -4.8), (3.8, 4.8)]),
                5 => polygon(&[(5.0, 0.0), (-3.8, -4.8), (-3.8, 4.8)]),
                6 => polygon(&[(0.0, -5.2), (4.9, -1.6), (3.1, 4.2), (-3.1, 4.2), (-4.9, -1.6)]),
                7 => polygon(&[(-5.0, -2.0), (5.0, -2.0), (5.0, 2.0), (-5.0, 2.0)]),
                _ => polygon(&[(-2.2, -5.0), (2.2, -5.0), (5.0, 0.0), (2.2, 5.0), (-2.2, 5.0), (-5.0, 0.0)]),
            },
        }
    }
}

impl Chart {
    /// For a page that has [`STYLE`].
    pub(crate) fn inline(&self) -> Markup {
        self.svg(None)
    }

    /// A file of its own.
    pub(crate) fn file(&self) -> String {
        let style = html! { style { (PreEscaped(STYLE)) } };
        format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{}\n", self.svg(Some(&style)).into_string())
    }

    fn svg(&self, style: Option<&Markup>) -> Markup {
        let (height, drawing) = match &self.form {
            Form::Lines { x_label, series } => (LINES_HEIGHT, self.lines(x_label, series)),
            Form::Bars(bars) => (bars_height(bars.len()), self.bars(bars)),
        };
        let namespace = style.map(|_| "http://www.w3.org/2000/svg");
        let size = style.map(|_| (px(WIDTH), px(height)));
        let (title_id, description_id) = (format!("{}-title", self.name), format!("{}-description", self.name));
        html! {
            svg.chart xmlns=[namespace] viewBox=(format!("0 0 {} {}", px(WIDTH), px(height))) role="img"
                width=[size.as_ref().map(|(width, _)| width)] height=[size.as_ref().map(|(_, height)| height)]
                aria-labelledby={ (title_id) " " (description_id) } {
                title id=(title_id) { (self.title) }
                desc id=(description_id) { (self.description()) }
                @if let Some(style) = style { (style) }
                rect.card x="0.5" y="0.5" width=(px(WIDTH - 1.0)) height=(px(height - 1.0)) rx="10" {}
                text.title x="20" y="31" { (self.title) }
                text.subtitle x="20" y="51" { (self.subtitle) }
                (drawing)
            }
        }
    }

    /// Where the limit is, in a plot of multiples of it.
    fn reference(&self) -> Option<f64> {
        (self.unit == LIMITS).then_some(1.0)
    }

    pub(crate) fn has_load_bound(&self) -> bool {
        match &self.form {
            Form::Lines { series, .. } => {
                series.iter().flat_map(|series| &series.points).any(|(_, mark)| mark.load_bound)
            }
            Form::Bars(bars) => bars.iter().any(|bar| bar.mark.load_bound),
        }
    }

    /// All places along the axis; none of bars.
    pub(crate) fn xs(&self) -> Vec<f64> {
        let Form::Lines { series, .. } = &self.form else { return Vec::new() };
        let mut xs: Vec<f64> = series.iter().flat_map(|series| &series.points).map(|(x, _)| *x).collect();
        xs.sort_by(f64::total_cmp);
        xs.dedup();
        xs
    }

    /// The plot in words: every value.
    fn description(&self) -> String {
        let value = |mark: &Mark| {
            let bound = if mark.load_bound { ", load generator at its limit" } else { "" };
            format!("{} ({} to {}{bound})", with_unit(mark.median, &self.unit), short(mark.low), short(mark.high))
        };
        let parts: Vec<String> = match &self.form {
            Form::Lines { x_label, series } => series
                .iter()
                .map(|series| {
                    let values: Vec<String> =
                        series.points.iter().map(|(x, mark)| format!("at {} {}", short(*x), value(mark))).collect();
                    format!("{}, by {x_label}: {}", series.subject, values.join("; "))
                })
                .collect(),
            Form::Bars(bars) => bars.iter().map(|bar| format!("{}: {}", bar.subject, value(&bar.mark))).collect(),
        };
        format!("{}. {}. Medians, lowest and highest run in brackets.", self.subtitle, parts.join(". "))
    }

    fn lines(&self, x_label: &str, series: &[Series]) -> Markup {
        let (left, right, bottom) = (66.0, WIDTH - 138.0, LINES_HEIGHT - BOTTOM);
        let marks = || series.iter().flat_map(|series| &series.points);
        let xs = self.xs();
        let x_scale = Scale::tight(&xs, left + 14.0, right - 14.0);
        let x_ticks = x_scale.ticks_at(&xs, 34.0);
        let values = marks().flat_map(|(_, mark)| [mark.low, mark.median, mark.high]).chain(self.reference());
        let y_scale = Scale::round(values, bottom, LINES_TOP);
        let mut labels: Vec<(f64, &Series)> =
            series.iter().filter_map(|series| Some((y_scale.place(series.points.last()?.1.median), series))).collect();
        spread_out(&mut labels, LINES_TOP, bottom);
        html! {
            @for tick in y_scale.ticks() {
                @let y = px(y_scale.place(tick));
                line.grid x1=(px(left)) x2=(px(right)) y1=(y) y2=(y) {}
                text.tick x=(px(left - 9.0)) y=(y) dy="4" text-anchor="end" { (tick_text(tick)) }
            }
            @for tick in x_ticks {
                @let x = px(x_scale.place(tick));
                line.grid x1=(x) x2=(x) y1=(px(bottom)) y2=(px(bottom + 5.0)) {}
                text.tick x=(x) y=(px(bottom + 20.0)) text-anchor="middle" { (tick_text(tick)) }
            }
            line.axis x1=(px(left)) x2=(px(right)) y1=(px(bottom)) y2=(px(bottom)) {}
            text.label x=(px(f64::midpoint(left, right))) y=(px(LINES_HEIGHT - 14.0)) text-anchor="middle" { (x_label) }
            text.label x=(px(left - 9.0)) y=(px(LINES_TOP - 13.0)) text-anchor="end" { (self.unit) }
            @if let Some(reference) = self.reference() {
                @let y = px(y_scale.place(reference));
                line.reference x1=(px(left)) x2=(px(right)) y1=(y) y2=(y) {}
            }
            // What the plot is about comes last, on top of the others.
            @for series in series.iter().rev() {
                g class=(series.look.class()) {
                    @let path: Vec<String> = series.points.iter()
                        .map(|(x, mark)| format!("{},{}", px(x_scale.place(*x)), px(y_scale.place(mark.median)))).collect();
                    polyline.path points=(path.join(" ")) {}
                    @for (x, mark) in &series.points {
                        @let (x, y) = (x_scale.place(*x), y_scale.place(mark.median));
                        line.spread x1=(px(x)) x2=(px(x)) y1=(px(y_scale.place(mark.low))) y2=(px(y_scale.place(mark.high))) {}
                        g class=(if mark.load_bound { "mark bound" } else { "mark" }) { (series.look.shape(x, y)) }
                    }
                }
            }
            @for (y, series) in &labels {
                g class=(series.look.class()) {
                    g.mark { (series.look.shape(right + 14.0, *y)) }
                    text.name x=(px(right + 25.0)) y=(px(*y)) dy="4" { (series.subject) }
                }
            }
        }
    }

    fn bars(&self, bars: &[Bar]) -> Markup {
        let (left, right, bottom) = (112.0, WIDTH - 120.0, bars_height(bars.len()) - BOTTOM);
        let values = bars.iter().flat_map(|bar| [bar.mark.low, bar.mark.high]).chain(self.reference());
        let scale = Scale::from_zero(values, left, right);
        let prefix = |mark: &Mark| match (mark.load_bound, self.better) {
            (true, Better::Higher) => "≥ ",
            (true, _) => "≤ ",
            (false, _) => "",
        };
        html! {
            @for tick in scale.ticks() {
                @let x = px(scale.place(tick));
                line.grid x1=(x) x2=(x) y1=(px(TOP)) y2=(px(bottom)) {}
                text.tick x=(x) y=(px(bottom + 18.0)) text-anchor="middle" { (tick_text(tick)) }
            }
            text.label x=(px(f64::midpoint(left, right))) y=(px(bottom + 40.0)) text-anchor="middle" { (if self.unit == "/s" { "per second" } else { &self.unit }) }
            @for (y, bar) in rows(bars) {
                @let (zero, end) = (scale.place(0.0), scale.place(bar.mark.median));
                g class=(bar.look.class()) {
                    text.name x=(px(left - 12.0)) y=(px(y)) dy="-1" text-anchor="end" { (bar.subject) }
                    text.tick x=(px(zero + 1.0)) y=(px(y)) dy="18" { (bar.guarantee) }
                    rect class=(if bar.mark.load_bound { "bar bound" } else { "bar" }) rx="2"
                        x=(px(zero.min(end))) width=(px((end - zero).abs().max(1.0))) y=(px(y - 14.0)) height="19" {}
                    @let (low, high) = (px(scale.place(bar.mark.low)), px(scale.place(bar.mark.high)));
                    line.whisker x1=(low) x2=(high) y1=(px(y - 4.5)) y2=(px(y - 4.5)) {}
                    line.whisker x1=(low) x2=(low) y1=(px(y - 8.5)) y2=(px(y - 0.5)) {}
                    line.whisker x1=(high) x2=(high) y1=(px(y - 8.5)) y2=(px(y - 0.5)) {}
                    text.value x=(px(scale.place(bar.mark.high).max(end) + 10.0)) y=(px(y)) dy="-0.5" {
                        (prefix(&bar.mark)) (with_unit(bar.mark.median, &self.unit))
                    }
                }
            }
            @if let Some(reference) = self.reference() {
                @let x = px(scale.place(reference));
                line.reference x1=(x) x2=(x) y1=(px(TOP)) y2=(px(bottom)) {}
            }
            line.axis x1=(px(scale.place(0.0))) x2=(px(scale.place(0.0))) y1=(px(TOP)) y2=(px(bottom)) {}
        }
    }
}

const ROW: f64 = 44.0;

#[expect(clippy::cast_precision_loss, reason = "a handful of bars")]
fn bars_height(count: usize) -> f64 {
    TOP + ROW * count as f64 + BOTTOM
}

/// Each bar with the middle of its row.
fn rows(bars: &[Bar]) -> impl Iterator<Item = (f64, &Bar)> {
    std::iter::successors(Some(TOP + ROW / 2.0), |y| Some(y + ROW)).zip(bars)
}

/// Moves labels so that none covers another: first down from the top, then up from the bottom.
fn spread_out(labels: &mut [(f64, &Series)], top: f64, bottom: f64) {
    labels.sort_by(|one, other| one.0.total_cmp(&other.0));
    let mut least = top;
    for (y, _) in labels.iter_mut() {
        *y = y.max(least);
        least = *y + LABEL_HEIGHT;
    }
    let mut most = bottom;
    for (y, _) in labels.iter_mut().rev() {
        *y = y.min(most);
        most = *y - LABEL_HEIGHT;
    }
}

/// A length to a tenth of a pixel.
fn px(length: f64) -> String {
    let text = format!("{length:.1}");
    text.strip_suffix(".0").map_or_else(|| text.clone(), str::to_owned)
}
