//! The record as small multiples in one SVG file, that needs nothing but a browser.

use std::fmt::Write;

use super::record::{Line, Panel, Record};
use super::scale::{decades, number, steps};

const COLUMNS: usize = 3;
/// Of a panel with its margins, in pixels.
const CELL: (f64, f64) = (510.0, 262.0);
/// Within a panel, around the plot: left, top, right, bottom.
const MARGIN: (f64, f64, f64, f64) = (58.0, 62.0, 22.0, 34.0);
/// Above all panels.
const HEAD: f64 = 84.0;
const EDGE: f64 = 18.0;
/// Of Okabe and Ito, who can be told apart by everybody.
const COLOURS: [&str; 5] = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#7A7A7A"];
/// Samples that share so many pixels are drawn as the largest of them: spikes stay.
const PIXELS: f64 = 1.5;

const STYLE: &str = "
    text { font-family: 'Inter', 'Segoe UI', 'Helvetica Neue', 'DejaVu Sans', sans-serif; font-size: 11px; fill: #5b6470 }
    .title { font-size: 20px; font-weight: 600; fill: #1b2430 } .sub { font-size: 13px }
    .panel { font-size: 13px; font-weight: 600; fill: #1b2430 } .card { fill: #fff; stroke: #e1e5ea }
    .grid { stroke: #e9ecf0 } .axis { stroke: #aab2bd } .tick { font-variant-numeric: tabular-nums }
    .line { fill: none; stroke-width: 1.4; stroke-linejoin: round; stroke-linecap: round }
    .stopped { stroke: #b9c2cd } .killed { stroke: #e0655f }
";

/// Draws all panels.
pub fn svg(title: &str, record: &Record) -> String {
    let rows = record.panels.len().div_ceil(COLUMNS);
    let (width, height) = (COLUMNS as f64 * CELL.0 + 2.0 * EDGE, HEAD + rows as f64 * CELL.1 + EDGE);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\">\
         <style>{STYLE}</style><rect width=\"{width}\" height=\"{height}\" fill=\"#f6f7f9\"/>\
         <text class=\"title\" x=\"{x}\" y=\"36\">Overdue under steady load</text>\
         <text class=\"sub\" x=\"{x}\" y=\"58\">{}. Ticks on the time axis: \
         <tspan fill=\"#8a95a3\">▎stopped</tspan> <tspan fill=\"#e0655f\">▎killed</tspan>. \
         Figures: median of the second and of the last quarter.</text>",
        escape(title),
        x = EDGE + 8.0
    );
    let span = record.times.last().copied().unwrap_or(1.0).max(1.0);
    for (n, panel) in record.panels.iter().enumerate() {
        let (x, y) = (EDGE + (n % COLUMNS) as f64 * CELL.0, HEAD + (n / COLUMNS) as f64 * CELL.1);
        let _ = write!(
            svg,
            "<g transform=\"translate({x},{y})\">{}</g>",
            Drawing::new(record, panel, span).draw()
        );
    }
    svg + "</svg>\n"
}

struct Drawing<'a> {
    record: &'a Record,
    panel: &'a Panel,
    span: f64,
    ticks: Vec<f64>,
    svg: String,
}

impl<'a> Drawing<'a> {
    fn new(record: &'a Record, panel: &'a Panel, span: f64) -> Self {
        let values =
            panel.lines.iter().flat_map(|line| &line.values).copied().filter(|value| value.is_finite());
        let (least, most) =
            values.fold((f64::MAX, 0.0), |(least, most), value| (value.min(least), value.max(most)));
        let ticks = if panel.logarithmic { decades(least, most) } else { steps(most) };
        Self { record, panel, span, ticks, svg: String::new() }
    }

    fn draw(mut self) -> String {
        let (right, bottom) = (CELL.0 - MARGIN.2, CELL.1 - MARGIN.3);
        let _ = write!(
            self.svg,
            "<rect class=\"card\" x=\"4\" y=\"4\" width=\"{}\" height=\"{}\" rx=\"6\"/><text class=\"panel\" x=\"18\" y=\"26\">{}{}</text>",
            CELL.0 - 8.0,
            CELL.1 - 8.0,
            self.panel.title,
            if self.panel.unit.is_empty() { String::new() } else { format!(" ({})", self.panel.unit) },
        );
        for tick in self.ticks.clone() {
            let y = self.y(tick);
            let _ = write!(
                self.svg,
                "<line class=\"grid\" x1=\"{}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/><text class=\"tick\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                MARGIN.0,
                MARGIN.0 - 7.0,
                y + 4.0,
                self.digits(tick)
            );
        }
        let minutes: Vec<_> =
            steps(self.span / 60.0).into_iter().filter(|minute| minute * 60.0 <= self.span * 1.01).collect();
        for (n, minute) in minutes.iter().enumerate() {
            let last = n + 1 == minutes.len();
            let (x, unit, anchor) =
                (self.x(minute * 60.0), if last { " min" } else { "" }, if last { "end" } else { "middle" });
            // The last number, not its unit, stands below its minute, unless that is where the plot ends.
            let x = if last { (x + 34.0).min(right + 8.0) } else { x };
            let _ = write!(
                self.svg,
                "<text class=\"tick\" x=\"{x:.1}\" y=\"{}\" text-anchor=\"{anchor}\">{minute}{unit}</text>",
                bottom + 18.0
            );
        }
        for (time, killed) in &self.record.restarts {
            let (x, class) = (self.x(*time), if *killed { "killed" } else { "stopped" });
            let _ = write!(
                self.svg,
                "<line class=\"{class}\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{bottom}\" y2=\"{}\"/>",
                bottom + 5.0
            );
        }
        let _ = write!(
            self.svg,
            "<line class=\"axis\" x1=\"{}\" x2=\"{right}\" y1=\"{bottom}\" y2=\"{bottom}\"/>",
            MARGIN.0
        );
        // The first line is drawn last: it is the one that matters most.
        for (n, line) in self.panel.lines.iter().enumerate().rev() {
            let path = self.path(line);
            let _ = write!(
                self.svg,
                "<path class=\"line\" stroke=\"{}\" d=\"{path}\"/>",
                COLOURS[n % COLOURS.len()]
            );
        }
        self.legend();
        self.svg
    }

    fn legend(&mut self) {
        let mut legend = String::new();
        for (n, line) in self.panel.lines.iter().enumerate() {
            let course = self
                .record
                .course(line)
                .map_or(String::new(), |course| format!(" {}→{}", number(course.from), number(course.to)));
            let space = if n == 0 { "" } else { " dx=\"10\"" };
            let colour = COLOURS[n % COLOURS.len()];
            let _ = write!(
                legend,
                "<tspan fill=\"{colour}\"{space}>● </tspan><tspan>{}{course}</tspan>",
                escape(&line.name)
            );
        }
        let _ = write!(self.svg, "<text class=\"tick\" x=\"18\" y=\"45\">{legend}</text>");
    }

    fn path(&self, line: &Line) -> String {
        let (mut path, mut pen_is_up) = (String::new(), true);
        let mut samples = self.record.times.iter().zip(&line.values).peekable();
        while let Some((time, value)) = samples.next() {
            if !value.is_finite() {
                pen_is_up = true;
                continue;
            }
            let column = (self.x(*time) / PIXELS).floor();
            let mut most = *value;
            let same = |time: f64, value: f64| value.is_finite() && (self.x(time) / PIXELS).floor() <= column;
            while let Some((_, value)) = samples.next_if(|(time, value)| same(**time, **value)) {
                most = most.max(*value);
            }
            let _ = write!(
                path,
                "{}{:.1} {:.1}",
                if pen_is_up { 'M' } else { 'L' },
                column * PIXELS,
                self.y(most)
            );
            pen_is_up = false;
        }
        path
    }

    /// A number of the axis, with as many digits as its steps need.
    fn digits(&self, tick: f64) -> String {
        let step = self.ticks.get(1).map_or(1.0, |second| second - self.ticks[0]);
        if self.panel.logarithmic || step >= 1.0 {
            number(tick)
        } else {
            format!("{0:.1$}", tick, if step < 0.1 { 2 } else { 1 })
        }
    }

    fn x(&self, time: f64) -> f64 {
        MARGIN.0 + time / self.span * (CELL.0 - MARGIN.0 - MARGIN.2)
    }

    fn y(&self, value: f64) -> f64 {
        let (low, high) =
            (self.ticks.first().copied().unwrap_or(0.0), self.ticks.last().copied().unwrap_or(1.0));
        let share = if self.panel.logarithmic {
            (value.max(low).ln() - low.ln()) / (high.ln() - low.ln())
        } else {
            (value - low) / (high - low)
        };
        CELL.1 - MARGIN.3 - share * (CELL.1 - MARGIN.1 - MARGIN.3)
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_lifts_the_pen() {
        let lines = vec![Line::shown("a < b")];
        let mut record = Record::new(vec![Panel { title: "memory", unit: "MiB", logarithmic: false, lines }]);
        for n in 0..30 {
            record.add(f64::from(n), [if n == 15 { f64::NAN } else { 5.0 }]);
        }
        let svg = svg("title", &record);
        assert_eq!(svg.matches('M').count() - svg.matches("MiB").count(), 2, "{svg}");
        assert!(svg.contains("a &lt; b"));
    }
}
