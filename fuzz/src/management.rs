//! What a broker's management API says it has.

use std::time::Duration;

use overdue::lane::Lanes;
use overdue::topology::verify::{Live, differences};
use overdue::topology::{Names, Topology};

/// `input` is JSON: `{"exchanges": […], "queues": […], "bindings": […]}`, each as the API answers.
pub fn holds(input: &[u8]) {
    let Ok(live) = serde_json::from_slice::<Live>(input) else { return };
    let lanes = Lanes::new("1s,15m", Duration::from_millis(250), Duration::from_millis(200)).expect("lanes");
    let names = Names::new("berlin.");
    let topology = Topology::new(&names, &lanes);
    let found = differences(&live, &names, &topology);
    for difference in &found {
        assert!(difference.name.starts_with("berlin.order."), "{difference:?} is nothing of ours");
        assert!(!difference.problem.is_empty() && !difference.remedy.is_empty());
    }
    // Something of ours that the API does not name is always missed.
    let text = String::from_utf8_lossy(input);
    if !text.contains("order.parked.queue") && !text.contains("\\u") {
        assert!(found.iter().any(|difference| difference.name == "berlin.order.parked.queue"));
    }
    serde_json::to_string(&found).expect("it can be printed for scripts");
}
