//! What a broker's management API says it has.

use std::time::Duration;

use overdue::finding::{Finding, Outcome};
use overdue::lanes::Lanes;
use overdue::topology::live::Live;
use overdue::topology::verify::findings;
use overdue::topology::{Names, Topology};
use overdue::verify::Report;

/// `input` is JSON: `{"version": …, "exchanges": […], "queues": […], "bindings": […], …}`, each as the API answers.
pub fn holds(input: &[u8]) {
    let Ok(live) = serde_json::from_slice::<Live>(input) else { return };
    let lanes = Lanes::new("1s,15m", Duration::from_millis(250), Duration::from_millis(200)).expect("lanes");
    let names = Names::new("berlin.");
    let topology = Topology::new(&names, &lanes);
    let found = findings(&live, &names, &topology);
    for finding in &found {
        let ours = finding.place.starts_with("berlin.order.");
        assert!(
            ours || ["RabbitMQ", "feature flags", "bindings"].contains(&finding.place.as_str()),
            "{finding:?}"
        );
        if let Outcome::Differs { problem: about, remedy } | Outcome::CannotTell { why: about, remedy } =
            &finding.outcome
        {
            assert!(!about.is_empty() && !remedy.is_empty());
        }
    }
    // Something of ours that the API does not name is never fine.
    let text = String::from_utf8_lossy(input);
    if !text.contains("order.parked.queue") && !text.contains("\\u") {
        let missed = |finding: &Finding| {
            finding.place == "berlin.order.parked.queue" && finding.outcome != Outcome::Fine
        };
        assert!(found.iter().any(missed));
    }
    let many = found.len();
    let report = Report::new(found);
    assert_eq!(report.fine + report.differs + report.cannot_tell, many);
    serde_json::to_string(&report).expect("it can be printed for scripts");
}
