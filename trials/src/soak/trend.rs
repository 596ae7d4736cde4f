//! Whether a series grows: robust against noise, spikes and gaps, which every long run has.

use crate::measure::median;

/// How much a series may grow over a run: a share of where it began, and so much besides.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// Of the value at the beginning.
    pub share: f64,
    /// In the series' own unit.
    pub besides: f64,
}

/// Where a series was when it was warm, and where it was in the end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Course {
    /// The median of the second quarter; the first is for warming up.
    pub from: f64,
    /// The median of the last quarter.
    pub to: f64,
    /// By how much it grew from the one to the other, if one goes by its slope (Theil and Sen: the median of the slopes
    /// between all pairs of points).
    pub climbed: f64,
}

/// Points of which the slope is made: each is the median of as many samples as are needed.
const POINTS: usize = 120;
/// Fewer samples than this say nothing.
const FEWEST: usize = 16;

impl Course {
    /// The course of a series; a value that is no number is a gap. `None` when there is too little of it.
    pub fn of(times: &[f64], values: &[f64]) -> Option<Self> {
        let samples: Vec<_> = times.iter().copied().zip(values.iter().copied()).collect();
        let (begin, end) = (samples.first()?.0, samples.last()?.0);
        let part = |from: f64, to: f64| -> Vec<(f64, f64)> {
            let (from, to) = (begin + (end - begin) * from, begin + (end - begin) * to);
            let within = |(time, value): &(f64, f64)| *time >= from && *time <= to && value.is_finite();
            samples.iter().copied().filter(within).collect()
        };
        let (second, last, warm) = (part(0.25, 0.5), part(0.75, 1.0), part(0.25, 1.0));
        if second.len() < FEWEST || last.len() < FEWEST {
            return None;
        }
        let value = |part: &[(f64, f64)]| median(&part.iter().map(|(_, value)| *value).collect::<Vec<_>>());
        // From the middle of one quarter to the middle of the other is half the run.
        let climbed = slope(&points(&warm)) * (end - begin) * 0.5;
        Some(Self { from: value(&second), to: value(&last), climbed })
    }

    /// Whether it grew by more than the limit, by both measures: the one alone may be a step or a spike in a quarter, the
    /// other alone a noise that is wide.
    pub fn exceeds(&self, limit: Limit) -> bool {
        let allowed = self.from.abs() * limit.share + limit.besides;
        self.to - self.from > allowed && self.climbed > allowed
    }
}

fn points(samples: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let chunks = samples.chunks(samples.len().div_ceil(POINTS).max(1));
    let middle = |chunk: &[(f64, f64)]| {
        let (times, values): (Vec<f64>, Vec<f64>) = chunk.iter().copied().unzip();
        (median(&times), median(&values))
    };
    chunks.map(middle).collect()
}

fn slope(points: &[(f64, f64)]) -> f64 {
    let pairs =
        points.iter().enumerate().flat_map(|(n, one)| points[n + 1..].iter().map(move |other| (one, other)));
    let slopes: Vec<_> = pairs
        .filter(|(one, other)| other.0 > one.0)
        .map(|(one, other)| (other.1 - one.1) / (other.0 - one.0))
        .collect();
    median(&slopes)
}

#[cfg(test)]
mod tests {
    use overdue_testkit::random::{Random, Rng, seeded};

    use super::*;

    const LIMIT: Limit = Limit { share: 0.1, besides: 3.0 };

    /// Ten minutes of samples, one in each second.
    fn grows(value: impl Fn(f64, &mut Random) -> f64) -> bool {
        let mut random = seeded(7);
        let times: Vec<_> = (0..600).map(f64::from).collect();
        let values: Vec<_> = times.iter().map(|time| value(*time, &mut random)).collect();
        Course::of(&times, &values).expect("long enough").exceeds(LIMIT)
    }

    #[test]
    fn what_is_flat_does_not_grow_however_noisy_it_is() {
        assert!(!grows(|_, _| 50.0));
        assert!(!grows(|_, random| 50.0 + random.random_range(-30.0..30.0)));
        assert!(!grows(|time, _| 50.0 + 20.0 * (time / 30.0).sin()));
    }

    #[test]
    fn a_slow_leak_grows_also_when_it_is_hidden_in_noise() {
        // Two in a minute: ten from the middle of one quarter to the middle of the other.
        assert!(grows(|time, _| 50.0 + time / 30.0));
        assert!(grows(|time, random| 50.0 + time / 30.0 + random.random_range(-10.0..10.0)));
        // Most of the time it is not to be seen at all.
        let gaps = |time: f64| if time % 30.0 < 20.0 { f64::NAN } else { 50.0 + time / 30.0 };
        assert!(grows(|time, _| gaps(time)));
    }

    #[test]
    fn restarts_warming_up_and_going_down_are_no_growth() {
        // Each restart begins low, spikes, and is flat again.
        let restarted = |time: f64| match time % 40.0 {
            0.0..2.0 => f64::NAN,
            2.0..4.0 => 20.0,
            4.0..6.0 => 400.0,
            _ => 50.0,
        };
        assert!(!grows(|time, _| restarted(time)));
        assert!(!grows(|time, _| 50.0 - 40.0 * (-time / 40.0).exp()), "warming up");
        assert!(!grows(|time, _| 200.0 - time / 6.0), "going down");
        assert!(
            !grows(|time, _| if time > 500.0 && time < 560.0 { 400.0 } else { 50.0 }),
            "a busy minute near the end"
        );
    }

    #[test]
    fn of_too_little_nothing_is_said() {
        assert_eq!(Course::of(&[0.0, 1.0], &[1.0, 2.0]), None);
        let times: Vec<_> = (0..600).map(f64::from).collect();
        assert_eq!(Course::of(&times, &vec![f64::NAN; 600]), None);
    }
}
