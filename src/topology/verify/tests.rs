use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::lanes::Lanes;

/// Answers of these versions about a vhost in which `overdue topology declare --lanes 1s` had run. They are the same
/// where the management plugin keeps no statistics.
const ANSWERS: [&str; 2] = [include_str!("answers/3.10.8.json"), include_str!("answers/4.3.6.json")];

fn answers() -> [Value; 2] {
    ANSWERS.map(|answers| serde_json::from_str(answers).expect("JSON"))
}

/// Place, part and outcome of every finding that is not fine.
fn troubles(answers: &Value) -> Vec<String> {
    let live: Live = serde_json::from_value(answers.clone()).expect("answers");
    let lanes = Lanes::new("1s", Duration::from_millis(250), Duration::ZERO).expect("lanes");
    let names = Names::new("");
    let found = findings(&live, &names, &Topology::new(&names, &lanes));
    let trouble = |finding: &Finding| match &finding.outcome {
        Outcome::Fine => None,
        Outcome::Differs { problem, .. } => Some(format!("{}, {}: {problem}", finding.place, finding.what)),
        Outcome::CannotTell { why, .. } => Some(format!("{}, {}? {why}", finding.place, finding.what)),
    };
    found.iter().filter_map(trouble).collect()
}

/// The entry of this name in this list.
fn entry<'a>(answers: &'a mut Value, list: &str, name: &str) -> &'a mut Value {
    let list = answers[list].as_array_mut().expect("a list");
    list.iter_mut().find(|entry| entry["name"] == name).expect("an entry of this name")
}

/// The findings after this change, which must be the same for both versions.
fn after(change: impl Fn(&mut Value)) -> Vec<String> {
    let [old, new] = answers().map(|mut answers| {
        change(&mut answers);
        troubles(&answers)
    });
    assert_eq!(old, new);
    new
}

fn push(answers: &mut Value, list: &str, more: Value) {
    answers[list].as_array_mut().expect("a list").push(more);
}

const LANE: &str = "order.delay.1s.queue";

#[test]
fn a_broker_with_the_declared_topology_is_fine() {
    assert_eq!(after(|_| {}), Vec::<String>::new());
}

#[test]
fn what_the_broker_does_not_show_is_never_fine() {
    for (list, field, found) in [
        (
            "exchanges",
            "internal",
            "order.exchange, kind and arguments? the management API does not show `internal`",
        ),
        (
            "exchanges",
            "auto_delete",
            "order.exchange, kind and arguments? the management API does not show `auto_delete`",
        ),
        ("exchanges", "type", "order.exchange, kind and arguments? the management API does not show `type`"),
        (
            "exchanges",
            "durable",
            "order.exchange, kind and arguments? the management API does not show `durable`",
        ),
        (
            "exchanges",
            "arguments",
            "order.exchange, kind and arguments? the management API does not show `arguments`",
        ),
        (
            "queues",
            "arguments",
            "order.delay.1s.queue, arguments? the management API does not show `arguments`",
        ),
        ("queues", "durable", "order.delay.1s.queue, arguments? the management API does not show `durable`"),
        ("queues", "members", "order.delay.1s.queue, majority? the management API does not show `members`"),
        ("queues", "online", "order.delay.1s.queue, majority? the management API does not show `online`"),
    ] {
        let name = if list == "queues" { LANE } else { "order.exchange" };
        let removed = after(|answers| {
            entry(answers, list, name).as_object_mut().expect("an object").remove(field);
        });
        assert_eq!(removed, [found]);
        let null = after(|answers| entry(answers, list, name)[field] = Value::Null);
        assert_eq!(null, [found]);
    }
    let without = |list: &str| {
        after(|answers| {
            answers.as_object_mut().expect("an object").remove(list);
        })
    };
    let hidden = |found: Vec<String>, many: usize| {
        assert_eq!(found.len(), many, "{found:?}");
        assert!(
            found.iter().all(|found| found.ends_with("? the management API did not show it")),
            "{found:?}"
        );
    };
    hidden(without("exchanges"), 2);
    hidden(without("queues"), 4);
    hidden(without("bindings"), 1);
    hidden(without("policies"), 6);
    hidden(without("operator_policies"), 4);
    assert_eq!(without("version"), ["RabbitMQ, version? the management API does not show the version"]);
}

#[test]
fn lists_that_somebody_may_not_see_do_not_count_as_empty_ones() {
    let found = after(|answers| answers["queues"] = json!([]));
    assert_eq!(found.len(), 4, "{found:?}");
    let hidden = "? the management API shows its bindings, but not the queue";
    assert!(found.iter().all(|found| found.ends_with(hidden)), "{found:?}");
    let found = after(|answers| answers["bindings"] = json!([]));
    assert_eq!(
        found,
        ["bindings, all of them? the management API shows no binding, though every queue has one"]
    );
    let found = after(|answers| answers["exchanges"] = json!([]));
    let hidden = "kind and arguments? the management API shows no exchange, not even RabbitMQ's own";
    assert_eq!(found, [format!("order.exchange, {hidden}"), format!("order.events, {hidden}")]);
}

#[test]
fn a_feature_flag_matters_where_it_can_be_off() {
    let off = "feature flags, stream_queue: is off: expired messages are dead-lettered at most once, so wakes are lost while their target cannot take them";
    assert_eq!(
        after(|answers| entry(answers, "feature_flags", "stream_queue")["state"] = json!("disabled")),
        [off]
    );
    let [mut old, mut new] = answers();
    for answers in [&mut old, &mut new] {
        answers["feature_flags"] = json!([]);
    }
    let unknown = |flag: &str| format!("feature flags, {flag}? the management API does not show it");
    assert_eq!(troubles(&old), [unknown("quorum_queue"), unknown("stream_queue")]);
    assert_eq!(troubles(&new), Vec::<String>::new(), "they cannot be off in this version");
    for answers in [&mut old, &mut new] {
        answers.as_object_mut().expect("an object").remove("feature_flags");
    }
    assert_eq!(troubles(&old).len(), 2);
    assert_eq!(troubles(&new), Vec::<String>::new());
    for (version, flags) in [("3.11.28", 1), ("3.12.0", 0), ("3.9.29", 3), ("4.0.0-rc.1", 0), ("unknown", 3)]
    {
        new["version"] = json!(version);
        assert_eq!(troubles(&new).len(), flags, "{version}");
    }
}

#[test]
fn policies_are_read_as_the_broker_applies_them() {
    let policy = |name: &str, pattern: &str, to: &str, priority: i64, sets: Value| json!({"name": name, "pattern": pattern, "apply-to": to, "priority": priority, "definition": sets});
    let with = |list: &str, policies: Vec<Value>| {
        after(|answers| {
            for policy in &policies {
                push(answers, list, policy.clone());
            }
        })
    };
    let ttl = || json!({"message-ttl": 1});
    let lane = |problem: &str| vec![format!("{LANE}, policies: {problem}")];
    let one = "the policy p sets message-ttl = 1";
    assert_eq!(with("policies", vec![policy("p", "^order\\.delay\\.1s", "queues", 0, ttl())]), lane(one));
    assert_eq!(with("policies", vec![policy("p", "delay\\.1s", "quorum_queues", 0, ttl())]), lane(one));
    assert_eq!(
        with("policies", vec![policy("p", "^(?!amq\\.|order\\.(p|delay\\.q)).*", "all", 0, ttl())]),
        lane(one)
    );
    assert_eq!(with("policies", vec![policy("p", "", "classic_queues", 0, ttl())]), Vec::<String>::new());
    assert_eq!(with("policies", vec![policy("p", "", "exchanges", 0, ttl())]), Vec::<String>::new());
    assert_eq!(with("policies", vec![policy("p", "^(?!order).*", "queues", 0, ttl())]), Vec::<String>::new());
    assert_eq!(
        with("policies", vec![policy("p", "", "queues", 0, json!({"ha-mode": "all"}))]),
        Vec::<String>::new()
    );
    let higher = policy("h", "1s", "queues", 1, json!({"ha-mode": "all"}));
    assert_eq!(with("policies", vec![policy("p", "1s", "queues", 0, ttl()), higher]), Vec::<String>::new());
    assert_eq!(
        with("operator_policies", vec![policy("o", "1s", "queues", 0, json!({"expires": 9}))]),
        lane("the operator policy o sets expires = 9")
    );
    assert_eq!(
        with(
            "policies",
            vec![policy("p", "exchange$", "exchanges", 0, json!({"alternate-exchange": "lost"}))]
        ),
        ["order.exchange, policies: the policy p sets alternate-exchange = \"lost\""]
    );
    let unread = "? whether the policy p applies cannot be told from its pattern and what it applies to";
    let found = with("policies", vec![policy("p", "order(", "queues", 0, ttl())]);
    assert_eq!(found.len(), 4, "{found:?}");
    assert!(found.iter().all(|found| found.ends_with(unread)), "{found:?}");
    assert_eq!(with("policies", vec![policy("p", "1s", "new kinds", 0, ttl())]).len(), 1);
}

#[test]
fn an_exchange_that_is_not_what_it_must_be_is_told() {
    for (field, value, problem) in [
        ("type", json!("fanout"), "is a durable fanout exchange, not a durable topic exchange"),
        ("internal", json!(true), "is internal: no client may publish to it"),
        ("auto_delete", json!(true), "goes away with its last binding (auto-delete)"),
        (
            "arguments",
            json!({"alternate-exchange": "lost"}),
            "has the argument alternate-exchange = \"lost\", which it must not have",
        ),
    ] {
        for exchange in ["order.exchange", "order.events"] {
            let found = after(|answers| entry(answers, "exchanges", exchange)[field] = value.clone());
            assert_eq!(found, [format!("{exchange}, kind and arguments: {problem}")]);
        }
    }
}

#[test]
fn a_queue_without_majority_is_told() {
    let members = json!(["one", "two", "three"]);
    let with = |online: Value, state: &str| {
        after(|answers| {
            let queue = entry(answers, "queues", LANE);
            (queue["members"], queue["online"], queue["state"]) =
                (members.clone(), online.clone(), json!(state));
        })
    };
    assert_eq!(with(json!(["one", "two"]), "running"), Vec::<String>::new());
    assert_eq!(
        with(json!(["two"]), "running"),
        [format!("{LANE}, majority: 1 of its 3 members run: no majority")]
    );
    assert_eq!(with(json!(["one", "two"]), "down"), [format!("{LANE}, majority: its state is down")]);
}

#[test]
fn bindings_of_others_are_told_where_they_catch_what_is_ours() {
    let with = |source: &str, to: &str, kind: &str, key: &str| {
        after(|answers| {
            let binding =
                json!({"source": source, "destination": to, "destination_type": kind, "routing_key": key});
            push(answers, "bindings", binding);
        })
    };
    let copy = |to: &str, key: &str, own: &str| {
        format!(
            "order.exchange, bindings of others: {to} is bound to it with key {key} and gets a copy of Overdue's own messages ({own}): when it refuses one, the lanes are held up"
        )
    };
    assert_eq!(
        with("order.exchange", "audit", "queue", "order.*"),
        [copy("audit", "order.*", "order.parked")]
    );
    assert_eq!(with("order.exchange", "audit", "exchange", "#"), [copy("audit", "#", "order.parked")]);
    assert_eq!(
        with("order.exchange", "audit", "queue", "order.delay.1s"),
        [copy("audit", "order.delay.1s", "order.delay.1s")]
    );
    assert_eq!(
        with("order.exchange", "mail", "queue", "order.closed"),
        [
            "order.exchange, bindings of others: mail is bound to it with key order.closed; events are published to order.events"
        ]
    );
    assert_eq!(with("order.events", "mail", "queue", "#"), Vec::<String>::new(), "that is what it is for");
    assert_eq!(
        with("order.events", LANE, "queue", "#"),
        [format!("{LANE}, binding: also bound to order.events with key #")]
    );
    assert_eq!(
        with("amq.topic", "order.events", "exchange", "order.closed"),
        ["order.events, bindings of others: also bound to amq.topic with key order.closed"]
    );
    assert_eq!(with("amq.topic", "mail", "queue", "#"), Vec::<String>::new());
}
