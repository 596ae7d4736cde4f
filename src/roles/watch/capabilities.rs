//! Checks what else Overdue needs of the broker while pods run: a change to a policy, a feature flag or a binding is noticed
//! within a minute.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::broker::live::verify;
use crate::broker::management::Management;
use crate::finding::{Finding, Outcome};
use crate::roles::shared::Shared;
use crate::stats::{Count, Stats};
use crate::topology::verify::NO_OTHER_QUEUE;

/// Longest and shortest time between two looks.
const EVERY: Duration = Duration::from_secs(30);
const LEAST: Duration = Duration::from_secs(1);
/// A new finding is checked again after this time: a declaration may be in progress.
const CONFIRM: Duration = Duration::from_secs(2);
/// Longest wait for an answer of the management API.
const PATIENCE: Duration = Duration::from_secs(10);

/// Looks at the broker periodically, and logs what has begun to differ, what no longer differs, and, once, what cannot be
/// seen. Never ends.
pub(super) async fn keep_looking(shared: &Shared) -> Infallible {
    let gauge = Gauge(Arc::clone(&shared.stats));
    let mut known = Known::default();
    loop {
        let mut seen = look(shared).await;
        if !known.clone().update(&seen).is_empty() {
            sleep(CONFIRM.min(shared.config.probe_every)).await;
            let again = look(shared).await;
            seen = again.into_iter().filter(|found| !found.is_different() || seen.contains(found)).collect();
        }
        for news in known.update(&seen) {
            if matches!(news, News::Began(_)) {
                shared.stats.add(Count::TroublesTotal, 1);
            }
            news.log();
        }
        gauge.0.set(Count::Troubles, known.troubles.len());
        sleep(shared.config.probe_every.clamp(LEAST, EVERY)).await;
    }
}

/// The gauge of differences, set to 0 when the watch ends: the number is unknown then.
struct Gauge(Arc<Stats>);

impl Drop for Gauge {
    fn drop(&mut self) {
        self.0.set(Count::Troubles, 0);
    }
}

/// Everything that verification finds. Runs on a thread of its own, which a stopping pod does not wait for.
async fn look(shared: &Shared) -> Vec<Finding> {
    let management = Management::patient(&shared.config, PATIENCE);
    let (names, topology) = (shared.broker.names.clone(), shared.broker.topology.clone());
    let (answer, answered) = oneshot::channel();
    let looking = std::thread::Builder::new().name("overdue-verify".to_owned()).spawn(move || {
        let _ = answer.send(verify(&management, &names, &topology));
    });
    let why = match (looking, answered.await) {
        (Ok(_), Ok(Ok(found))) => return found,
        (Ok(_), Ok(Err(error))) => error.to_string(),
        (Ok(_), Err(_)) => "the verification thread ended early".to_owned(),
        (Err(error), _) => error.to_string(),
    };
    let remedy =
        "set management_url (OVERDUE_MANAGEMENT_URL) to the management API, with a user that may use it";
    vec![Finding::cannot_tell("broker", "everything in it", why, remedy)]
}

/// The findings that have been logged.
#[derive(Clone, Debug, Default)]
struct Known {
    troubles: BTreeSet<Finding>,
    /// Place and part of what cannot be seen.
    hidden: BTreeSet<(String, String)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum News {
    Began(Finding),
    Ended(Finding),
    /// Why, the remedy, and the parts that are hidden.
    Hidden(String, String, Vec<String>),
    Visible(Vec<String>),
}

impl Known {
    /// Takes in these findings, and returns what is new.
    fn update(&mut self, seen: &[Finding]) -> Vec<News> {
        // The queue of a lane that is not configured does no harm: pods with other lanes may run beside this one.
        let seen: Vec<_> = seen.iter().filter(|found| found.what != NO_OTHER_QUEUE).collect();
        let part = |found: &Finding| (found.place.clone(), found.what.clone());
        let visible: BTreeSet<_> =
            seen.iter().filter(|found| !found.is_hidden()).map(|found| part(found)).collect();
        let mut news = Vec::new();
        for found in seen.iter().filter(|found| found.is_different()) {
            if self.troubles.insert((*found).clone()) {
                news.push(News::Began((*found).clone()));
            }
        }
        // A difference that cannot be seen has not ended.
        let ended: Vec<_> = self
            .troubles
            .iter()
            .filter(|difference| visible.contains(&part(difference)) && !seen.contains(difference))
            .cloned()
            .collect();
        for difference in ended {
            self.troubles.remove(&difference);
            news.push(News::Ended(difference));
        }
        let mut hidden: BTreeMap<(&str, &str), Vec<String>> = BTreeMap::new();
        for found in seen {
            if let Outcome::CannotTell { why, remedy } = &found.outcome
                && self.hidden.insert(part(found))
            {
                hidden.entry((why, remedy)).or_default().push(format!("{}: {}", found.place, found.what));
            }
        }
        for ((why, remedy), parts) in hidden {
            news.push(News::Hidden(why.to_owned(), remedy.to_owned(), parts));
        }
        let everything = visible.len() > 1;
        let shown: Vec<_> = self
            .hidden
            .iter()
            .filter(|part| visible.contains(part) || (everything && part.0 == "broker"))
            .cloned()
            .collect();
        if !shown.is_empty() {
            self.hidden.retain(|part| !shown.contains(part));
            news.push(News::Visible(shown.iter().map(|(place, what)| format!("{place}: {what}")).collect()));
        }
        news
    }
}

impl News {
    fn log(&self) {
        match self {
            Self::Began(Finding { place, what, outcome }) => {
                let (problem, remedy) = problem_and_remedy(outcome);
                tracing::error!(
                    event = "broker_differs",
                    place,
                    what,
                    problem,
                    remedy,
                    "the broker is not as Overdue needs it"
                );
            }
            Self::Ended(Finding { place, what, outcome }) => {
                let (problem, _) = problem_and_remedy(outcome);
                tracing::warn!(
                    event = "broker_recovered",
                    place,
                    what,
                    problem,
                    "a problem with the broker has ended"
                );
            }
            Self::Hidden(why, remedy, parts) => {
                let what = parts.join(", ");
                tracing::warn!(
                    event = "broker_unseen",
                    what,
                    why,
                    remedy,
                    "cannot tell whether the broker is as Overdue needs it"
                );
            }
            Self::Visible(parts) => {
                tracing::info!(
                    event = "broker_seen_again",
                    what = parts.join(", "),
                    "can tell again whether the broker is as Overdue needs it"
                );
            }
        }
    }
}

fn problem_and_remedy(outcome: &Outcome) -> (&str, &str) {
    match outcome {
        Outcome::Fine => ("", ""),
        Outcome::Differs { problem: about, remedy } | Outcome::CannotTell { why: about, remedy } => {
            (about, remedy)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fine() -> Finding {
        Finding::fine("q", "policies")
    }

    fn difference(problem: &str) -> Finding {
        Finding::differs("q", "policies", problem, "mend it")
    }

    fn hidden() -> Finding {
        Finding::cannot_tell("q", "policies", "no answer", "ask again")
    }

    #[test]
    fn a_trouble_is_told_once_when_it_begins_and_once_when_it_is_seen_to_have_ended() {
        let mut known = Known::default();
        assert_eq!(known.update(&[fine()]), []);
        assert_eq!(known.update(&[difference("ttl")]), [News::Began(difference("ttl"))]);
        assert_eq!(known.update(&[difference("ttl")]), []);
        let both = [difference("ttl"), difference("length")];
        assert_eq!(known.update(&both), [News::Began(difference("length"))]);
        assert_eq!(known.update(&[difference("length")]), [News::Ended(difference("ttl"))]);
        let told = |parts: &[&str]| parts.iter().map(|part| (*part).to_owned()).collect::<Vec<_>>();
        let what = told(&["q: policies"]);
        assert_eq!(
            known.update(&[hidden()]),
            [News::Hidden("no answer".into(), "ask again".into(), what.clone())]
        );
        assert_eq!(known.update(&[hidden()]), []);
        assert_eq!(known.update(&[]), [], "not looked at");
        assert_eq!(known.troubles.len(), 1, "what cannot be seen has not ended");
        assert_eq!(known.update(&[fine()]), [News::Ended(difference("length")), News::Visible(what)]);
        let unseen = Finding::cannot_tell("broker", "everything in it", "no answer", "ask again");
        let everything = told(&["broker: everything in it"]);
        assert_eq!(
            known.update(&[unseen]),
            [News::Hidden("no answer".into(), "ask again".into(), everything.clone())]
        );
        assert_eq!(known.update(&[fine(), Finding::fine("q", "arguments")]), [News::Visible(everything)]);
        assert_eq!(known.update(&[Finding::differs("old", NO_OTHER_QUEUE, "left over", "delete it")]), []);
    }
}
