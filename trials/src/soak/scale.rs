//! The axes of the plot: round numbers around what there is.

/// From 0 to at least `most`, in four to eight round steps.
pub fn steps(most: f64) -> Vec<f64> {
    let most = if most > 0.0 { most } else { 1.0 };
    let power = 10f64.powf((most / 5.0).log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| most / step <= 6.0);
    let step = step.unwrap_or(10.0 * power);
    let mut ticks = vec![0.0];
    while ticks[ticks.len() - 1] < most * 0.999 {
        ticks.push(ticks.len() as f64 * step);
    }
    ticks
}

/// Powers of ten around what there is.
pub fn decades(least: f64, most: f64) -> Vec<f64> {
    let mut ticks = vec![10f64.powf(least.clamp(0.1, 1e6).log10().floor())];
    while ticks.len() < 2 || ticks[ticks.len() - 1] < most {
        ticks.push(ticks[ticks.len() - 1] * 10.0);
    }
    ticks
}

/// Short: three digits, and thousands as k.
pub fn number(value: f64) -> String {
    let (value, unit) = if value.abs() >= 10_000.0 { (value / 1000.0, "k") } else { (value, "") };
    let digits = if value.abs() >= 100.0 || value.fract().abs() < 0.005 {
        0
    } else if value.abs() >= 10.0 {
        1
    } else {
        2
    };
    format!("{value:.digits$}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_are_round_and_hold_everything() {
        assert_eq!(steps(51.0), [0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0]);
        assert_eq!(steps(0.0).last(), Some(&1.0));
        assert_eq!(decades(0.7, 230.0), [0.1, 1.0, 10.0, 100.0, 1000.0]);
        assert_eq!(
            [number(0.25), number(12.34), number(123.4), number(20_000.0)],
            ["0.25", "12.3", "123", "20k"]
        );
    }
}
