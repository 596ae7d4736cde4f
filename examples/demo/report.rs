//! The summary: what happened, and whether each promise was kept.

use std::fmt::Write as _;

use indicatif::HumanCount;
use time::OffsetDateTime;
use time::macros::format_description;

use crate::findings::{Findings, Parked, Story};
use crate::lives::{End, Life};
use crate::pods::FOLDER;
use crate::script::{Form, Timing};

/// Prints the summary. Returns whether every promise was kept.
pub fn print(findings: &Findings) -> bool {
    let mut text = String::from("\nWhat happened\n");
    for (what, count, remark) in happened(findings) {
        let count = if what.is_empty() { String::new() } else { human(count) };
        text += &row(what, &count, &remark);
    }
    text += "\nWhat was promised\n";
    let promises = promises(findings);
    for Promise { kept, what, found } in &promises {
        let _ = writeln!(text, "  {}  {what:<48} {found}", if *kept { "kept  " } else { "BROKEN" });
    }
    for Parked { reason } in findings.performance.parked.iter().step_by(4).take(3) {
        let _ = writeln!(text, "            {}", shortened(reason));
    }
    text += "\nHow the pods did\n";
    text += &pods(findings);
    if let Some(story) = &findings.extended {
        text += &told(story);
    }
    println!("{text}");
    let broken: Vec<_> =
        promises.iter().filter(|promise| !promise.kept).map(|promise| promise.what).collect();
    if !broken.is_empty() {
        eprintln!("demo: BROKEN: {}; the pods' logs are in {FOLDER}", broken.join("; "));
    }
    broken.is_empty()
}

fn happened(findings: &Findings) -> Vec<(&'static str, u64, String)> {
    let (orders, lives) = (&findings.orders, &findings.performance.lives);
    let count = |wanted: &dyn Fn(&Life) -> bool| lives.iter().filter(|life| wanted(life)).count() as u64;
    let announced = count(&|life| life.announced.is_some());
    let forms = Form::ALL.map(|form| {
        let name = match form {
            Form::Deadline => "with deadline",
            Form::Delay => "with delay",
            Form::Number => "bare number",
            Form::CloudEvent => "CloudEvent",
        };
        format!("{} {name}", count(&|life| life.announced.is_some_and(|(said, _)| said == form)))
    });
    let timed = |timing| count(&|life| life.announced.is_some_and(|(_, when)| when == timing));
    let too_late = count(&|life| matches!(life.end, End::TooLate));
    let number = i64::unsigned_abs;
    vec![
        (
            "orders placed",
            number(orders.placed),
            format!("{} of them by SQL alone", human(number(orders.placed) - announced)),
        ),
        ("  announced by AMQP, too", announced, forms.join(", ")),
        (
            "",
            0,
            format!(
                "{} before the order was committed, {} twice",
                timed(Timing::BeforeCommit),
                timed(Timing::Twice)
            ),
        ),
        ("paid", number(orders.paid), format!("{too_late} more buyers came too late, and got that answer")),
        ("cancelled", number(orders.cancelled), String::new()),
        ("closed", number(orders.closed), String::new()),
        (
            "malformed messages",
            findings.performance.malformed,
            "broken JSON, no id, a Java object, gzip, …".into(),
        ),
        ("forged messages", count(&is_forged), "\"this order is due now\", which was false".into()),
    ]
}

struct Promise {
    kept: bool,
    what: &'static str,
    found: String,
}

fn promises(findings: &Findings) -> Vec<Promise> {
    let Findings { performance, orders, .. } = findings;
    let none = |what, found: &[i64]| {
        let some = found.iter().take(5).map(|id| format!(" {id}")).collect::<Vec<_>>().concat();
        let which = if found.is_empty() { some } else { format!(", for instance{some}") };
        Promise { kept: found.is_empty(), what, found: format!("{}{which}", found.len()) }
    };
    let zero = |what, found: i64| Promise { kept: found == 0, what, found: found.to_string() };
    let forged: Vec<_> = performance.lives.iter().filter(|life| is_forged(life)).collect();
    let withstood = forged.iter().filter(|life| matches!(life.end, End::Forged { withstood: true })).count();
    let (events, ids) = (performance.heard.order.len() as u64, performance.heard.events.len() as u64);
    let (parked, malformed) = (performance.parked.len() as u64, performance.malformed);
    vec![
        none("paid orders closed", &findings.paid_and_closed),
        none("orders not in the status their buyer was told", &findings.lied_about),
        zero("overdue orders left open", orders.overdue),
        zero("orders closed before their deadline", orders.early),
        Promise {
            kept: withstood == forged.len(),
            what: "forged messages without effect",
            found: format!("{withstood} of {}", forged.len()),
        },
        none("products with stock lost or doubled", &findings.unbalanced),
        Promise {
            kept: ids == orders.closed.unsigned_abs()
                && findings.misreported.is_empty()
                && performance.heard.wrong.is_empty(),
            what: "one event for each closed order",
            found: format!(
                "{} distinct for {} closed, {} repeated",
                human(ids),
                human(orders.closed.unsigned_abs()),
                events - ids
            ),
        },
        Promise {
            kept: findings.endings.iter().all(|ending| ending.clean),
            what: "pods working to the end",
            found: findings.endings.iter().map(|ending| ending.state.as_str()).collect::<Vec<_>>().join(", "),
        },
        Promise {
            kept: parked == malformed,
            what: "malformed messages parked, with the reason",
            found: format!("{parked} of {malformed}"),
        },
    ]
}

fn pods(findings: &Findings) -> String {
    let mut text = String::new();
    for (n, ending) in (1..).zip(&findings.endings) {
        text += &row(&format!("pod {n} closed"), &human(ending.closed), "");
    }
    let swept: u64 = findings.endings.iter().map(|ending| ending.swept).sum();
    text += &row("closed by the sweep", &human(swept), "their wakes were lost, or more than 500 ms late");
    if let Some([p50, p99, max]) = findings.orders.lateness_ms.as_deref() {
        let build = if cfg!(debug_assertions) { "a debug build, " } else { "" };
        let remark = format!("p99 {p99:.1}, max {max:.1} ({build}with everything on one machine)");
        text += &row("lateness in ms, p50", &format!("{p50:.1}"), &remark);
    }
    text
}

fn row(what: &str, value: &str, remark: &str) -> String {
    let line = format!("  {what:<26} {value:>6}   {remark}");
    format!("{}\n", line.trim_end())
}

fn told(story: &Story) -> String {
    let Story { order_id, created_at, promised, payment_deadline, closed_at } = story;
    let closed = match closed_at {
        Some(closed_at) => {
            let late = (*closed_at - *payment_deadline).as_seconds_f64() * 1e3;
            format!("it was closed at {}, {late:.1} ms after that.", clock(*closed_at))
        }
        None => "it was not closed.".to_owned(),
    };
    format!(
        "\nOrder {order_id}, placed at {} UTC, was to be paid by {}. While it waited,\nits deadline was moved to {}; {closed}\n",
        clock(*created_at),
        clock(*promised),
        clock(*payment_deadline),
    )
}

fn is_forged(life: &Life) -> bool {
    matches!(life.end, End::Forged { .. })
}

fn human(count: u64) -> String {
    HumanCount(count).to_string()
}

fn clock(at: OffsetDateTime) -> String {
    at.format(format_description!("[hour]:[minute]:[second].[subsecond digits:3]")).unwrap_or_default()
}

/// Shortened to one line of a terminal.
fn shortened(text: &str) -> String {
    const MOST: usize = 104;
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
