//! A self-contained HTML report: every figure with its goal, and for each workload how late and how fast orders were
//! closed.

use std::fmt::Write;

use plotters::prelude::*;

use super::outcome::{Bin, Figure, Goal, Outcome, Slice};

/// Width and height of a plot, in pixels.
const SIZE: (u32, u32) = (540, 260);
const BLUE: RGBColor = RGBColor(0x00, 0x72, 0xB2);
const ORANGE: RGBColor = RGBColor(0xD5, 0x5E, 0x00);
const GREY: RGBColor = RGBColor(0x5B, 0x64, 0x70);
const PALE: RGBColor = RGBColor(0xE6, 0xE9, 0xED);

const HEAD: &str = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>overdue bench</title><style>
body { font: 15px/1.5 system-ui, sans-serif; color: #1b2430; background: #f6f7f9; margin: 2rem auto; max-width: 1180px; padding: 0 1rem }
section { background: #fff; border: 1px solid #e1e5ea; border-radius: 8px; padding: 1rem 1.5rem; margin: 1.5rem 0 }
h1 { font-size: 1.5rem } h2 { font-size: 1.1rem; margin: .2rem 0 .8rem } p { color: #5b6470 }
table { border-collapse: collapse } td, th { padding: .15rem 1.2rem .15rem 0; text-align: left; font-weight: normal }
td.n { text-align: right; font-variant-numeric: tabular-nums } .ok { color: #00734f } .missed { color: #b3261e; font-weight: 600 }
.plots { display: flex; flex-wrap: wrap; gap: 1rem; margin-top: .8rem } svg { max-width: 100%; height: auto }
</style>";

/// Writes the report of these outcomes.
#[must_use]
pub fn report(about: &str, outcomes: &[Outcome]) -> String {
    let mut page = format!("{HEAD}<h1>overdue bench</h1><p>{}</p>", escaped(about));
    for outcome in outcomes {
        let _ = write!(page, "<section><h2>{}</h2><table>", escaped(&outcome.workload));
        for figure in &outcome.figures {
            let _ = write!(
                page,
                "<tr><td>{}<td class=n>{}<td>{}<td>{}",
                escaped(figure.name),
                figure.shown(),
                figure.unit,
                figure.goal.map(|goal| verdict(figure, goal)).unwrap_or_default()
            );
        }
        page.push_str("</table><div class=plots>");
        // Drawing into a string cannot fail; if a plot failed, only the plot would be missing.
        page.push_str(&lateness(&outcome.lateness).unwrap_or_default());
        page.push_str(&pace(&outcome.pace).unwrap_or_default());
        page.push_str("</div></section>");
    }
    page
}

fn verdict(figure: &Figure, goal: Goal) -> String {
    let (class, word) = if goal.reached(figure.value) { ("ok", "reached") } else { ("missed", "missed") };
    format!("<span class={class}>goal {goal}: {word}</span>")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

type Drawn = Result<String, Box<dyn std::error::Error>>;

/// How many orders were how late, with logarithmic axes.
fn lateness(bins: &[Bin]) -> Drawn {
    let (Some(first), Some(last)) = (bins.first(), bins.last()) else { return Ok(String::new()) };
    let most = bins.iter().map(|bin| bin.orders).max().unwrap_or(1) as f64;
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let mut chart = ChartBuilder::on(&area)
            .caption("Orders by lateness of the close", ("sans-serif", 14, &GREY))
            .margin(8)
            .x_label_area_size(36)
            .y_label_area_size(58)
            .build_cartesian_2d(
                (first.from_ms..last.to_ms.max(first.from_ms * 10.0)).log_scale(),
                (0.5..most * 1.5).log_scale(),
            )?;
        let style = ("sans-serif", 11, &GREY);
        let mut mesh = chart.configure_mesh();
        mesh.light_line_style(TRANSPARENT).bold_line_style(PALE).axis_style(GREY).label_style(style);
        let plain = |n: &f64| format!("{n}");
        mesh.x_desc("ms").x_label_formatter(&plain).y_label_formatter(&plain).draw()?;
        chart.draw_series(bins.iter().map(|bin| {
            Rectangle::new([(bin.from_ms, 0.5), (bin.to_ms, bin.orders as f64)], BLUE.mix(0.75).filled())
        }))?;
        area.present()?;
    }
    Ok(svg)
}

/// How fast orders were closed over time.
fn pace(slices: &[Slice]) -> Drawn {
    let Some(last) = slices.last() else { return Ok(String::new()) };
    let most = slices.iter().map(|slice| slice.closed_per_second).fold(1.0, f64::max);
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let mut chart = ChartBuilder::on(&area)
            .caption("Orders closed per second", ("sans-serif", 14, &GREY))
            .margin(8)
            .x_label_area_size(36)
            .y_label_area_size(58)
            .build_cartesian_2d(0.0..last.at_s.max(0.1), 0.0..most * 1.1)?;
        let style = ("sans-serif", 11, &GREY);
        let mut mesh = chart.configure_mesh();
        mesh.light_line_style(TRANSPARENT).bold_line_style(PALE).axis_style(GREY).label_style(style);
        mesh.x_desc("seconds after the first close").y_label_formatter(&|n| format!("{n:.0}")).draw()?;
        let points = slices.iter().map(|slice| (slice.at_s, slice.closed_per_second));
        chart.draw_series(LineSeries::new(points, ORANGE.stroke_width(2)))?;
        area.present()?;
    }
    Ok(svg)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_shows_each_figure_with_its_goal_and_both_curves() {
        let outcome = Outcome {
            lateness: vec![
                Bin { from_ms: 1.0, to_ms: 1.3, orders: 90 },
                Bin { from_ms: 10.0, to_ms: 13.0, orders: 3 },
            ],
            pace: vec![
                Slice { at_s: 0.0, closed_per_second: 900.0 },
                Slice { at_s: 0.1, closed_per_second: 20.0 },
            ],
            ..Outcome::new("burst <of> 93".to_owned(), vec![("closed per second", 930.0, "/s")])
        };
        let goals = [("closed per second", Goal::AtLeast(1_000.0))];
        let page = report("a & b", &[outcome.clone().held_against(&goals)]);
        for part in
            ["a &amp; b", "burst &lt;of> 93", "closed per second<td class=n>930<td>/s", "≥ 1,000: missed"]
        {
            assert!(page.contains(part), "{part} is missing in {page}");
        }
        assert_eq!(page.matches("<svg").count(), 2);
        let bare = Outcome { lateness: Vec::new(), pace: Vec::new(), ..outcome };
        assert_eq!(report("", &[bare]).matches("<svg").count(), 0);
    }
}
