//! What was sampled, and its table.

use std::fmt::Write;

use super::trend::{Course, Limit};

/// A series of samples.
#[derive(Clone, Debug)]
pub struct Line {
    /// In the panel's legend.
    pub name: String,
    /// How much it may grow; without one, it is only shown.
    pub limit: Option<Limit>,
    /// One for each time; no number is a gap.
    pub values: Vec<f64>,
}

impl Line {
    /// A series that must not grow.
    pub fn flat(name: impl Into<String>, share: f64, besides: f64) -> Self {
        Self { name: name.into(), limit: Some(Limit { share, besides }), values: Vec::new() }
    }

    /// A series to look at.
    pub fn shown(name: impl Into<String>) -> Self {
        Self { name: name.into(), limit: None, values: Vec::new() }
    }
}

/// Series with a common axis.
#[derive(Clone, Debug)]
pub struct Panel {
    /// What it shows.
    pub title: &'static str,
    /// Of the axis.
    pub unit: &'static str,
    /// Whether equal steps of the axis are equal factors.
    pub logarithmic: bool,
    /// The series.
    pub lines: Vec<Line>,
}

/// Everything that was sampled.
#[derive(Clone, Debug)]
pub struct Record {
    /// Seconds since the beginning.
    pub times: Vec<f64>,
    /// What was sampled.
    pub panels: Vec<Panel>,
    /// Seconds at which a pod was restarted, and whether it was killed.
    pub restarts: Vec<(f64, bool)>,
}

impl Record {
    /// An empty record.
    pub fn new(panels: Vec<Panel>) -> Self {
        Self { times: Vec::new(), panels, restarts: Vec::new() }
    }

    /// Adds a sample: a value for each line, in the order of the panels.
    pub fn add(&mut self, time: f64, values: impl IntoIterator<Item = f64>) {
        self.times.push(time);
        let lines = self.panels.iter_mut().flat_map(|panel| &mut panel.lines);
        for (line, value) in lines.zip(values.into_iter().chain(std::iter::repeat(f64::NAN))) {
            line.values.push(value);
        }
    }

    /// The course of a series.
    pub fn course(&self, line: &Line) -> Option<Course> {
        Course::of(&self.times, &line.values)
    }

    /// Every series that grew, in words.
    pub fn grown(&self) -> Vec<String> {
        let lines = self.panels.iter().flat_map(|panel| panel.lines.iter().map(move |line| (panel, line)));
        let grown = lines.filter_map(|(panel, line)| {
            let (limit, course) = (line.limit?, self.course(line)?);
            let Course { from, to, .. } = course;
            let (share, besides, unit) = (limit.share * 100.0, limit.besides, panel.unit);
            course.exceeds(limit).then(|| {
                format!(
                    "{}, {}: from {from:.1} to {to:.1} {unit}, more than {share:.0} % and {besides} {unit} besides",
                    panel.title, line.name
                )
            })
        });
        grown.collect()
    }

    /// As comma-separated values, one line for each time.
    pub fn csv(&self) -> String {
        let mut csv = String::from("seconds");
        for panel in &self.panels {
            for line in &panel.lines {
                let _ = write!(csv, ",\"{}, {} ({})\"", panel.title, line.name, panel.unit);
            }
        }
        for (n, time) in self.times.iter().enumerate() {
            let _ = write!(csv, "\n{time:.1}");
            for line in self.panels.iter().flat_map(|panel| &panel.lines) {
                match line.values.get(n) {
                    Some(value) if value.is_finite() => drop(write!(csv, ",{value:.3}")),
                    _ => csv.push(','),
                }
            }
        }
        csv.push('\n');
        csv
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_grew_is_named_with_its_figures_and_gaps_stay_empty() {
        let lines = vec![Line::flat("pod-1", 0.1, 1.0), Line::flat("pod-2", 0.1, 1.0), Line::shown("trial")];
        let mut record = Record::new(vec![Panel { title: "memory", unit: "MiB", logarithmic: false, lines }]);
        for n in 0..200 {
            let time = f64::from(n);
            record.add(time, [50.0, 50.0 + time, if n == 0 { f64::NAN } else { time }]);
        }
        assert_eq!(
            record.grown(),
            ["memory, pod-2: from 125.0 to 225.0 MiB, more than 10 % and 1 MiB besides"]
        );
        let csv = record.csv();
        assert!(csv.starts_with(
            "seconds,\"memory, pod-1 (MiB)\",\"memory, pod-2 (MiB)\",\"memory, trial (MiB)\"\n0.0,50.000,50.000,\n"
        ));
    }
}
