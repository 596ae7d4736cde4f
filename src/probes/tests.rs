use super::*;

const NOW: DbTime = DbTime(1_767_225_600_000_000);
const SECOND: Duration = Duration::from_secs(1);
const GRACE: Duration = Duration::from_secs(10);

/// A probe that was announced, is due and came back this many seconds before now; after now where negative.
fn probe(number: i64, announced: i64, due: Option<i64>, returned: Option<i64>) -> Probe {
    let ago = |seconds: i64| DbTime(NOW.0 - seconds * 1_000_000);
    Probe {
        number,
        queue: "order.delay.15m.queue".to_owned(),
        announced_at: ago(announced),
        due_at: due.map(ago),
        returned_at: returned.map(ago),
    }
}

fn health_of(probes: &[Probe]) -> Health {
    health(&probes.iter().collect::<Vec<_>>(), NOW, GRACE)
}

/// In how many seconds the next probe is placed.
fn next_in(probes: &[Probe]) -> i64 {
    let next = next_at(&probes.iter().collect::<Vec<_>>(), 900 * SECOND, 30 * SECOND, NOW);
    (next.0 - NOW.0) / 1_000_000
}

#[test]
fn a_lane_is_stuck_when_a_probe_is_not_back_in_time_and_none_after_it_is() {
    assert_eq!(health_of(&[]), Health::Unknown);
    assert_eq!(health_of(&[probe(1, 5, None, None)]), Health::Unknown, "announced, but never published");
    let until = NOW.plus(5 * SECOND);
    assert_eq!(health_of(&[probe(1, 5, Some(-5), None)]), Health::Waiting { until });
    let since = NOW.minus(11 * SECOND);
    assert_eq!(health_of(&[probe(1, 20, Some(11), None)]), Health::Stuck { since });
    assert_eq!(
        health_of(&[probe(1, 20, Some(11), None), probe(2, 5, Some(-5), None)]),
        Health::Stuck { since }
    );
    let at = NOW.minus(2 * SECOND);
    assert_eq!(
        health_of(&[probe(1, 20, Some(11), None), probe(2, 5, Some(1), Some(2))]),
        Health::Well { at },
        "the first was lost: a later one is back"
    );
    assert_eq!(
        health_of(&[probe(1, 20, Some(15), Some(2)), probe(2, 1, Some(-9), None)]),
        Health::Well { at }
    );
    assert_eq!(
        health_of(&[probe(1, 90, Some(60), Some(60)), probe(2, 20, Some(11), None)]),
        Health::Stuck { since }
    );
}

#[test]
fn probes_are_placed_regularly_and_never_become_many() {
    assert_eq!(next_in(&[]), 0);
    assert_eq!(next_in(&[probe(1, 10, Some(5), Some(5))]), 20, "the usual interval after the last one");
    assert_eq!(
        next_in(&[probe(1, 10, Some(-890), None)]),
        112 - 10,
        "an eighth of the lane after one on its way"
    );
    assert_eq!(next_in(&[probe(1, 200, Some(180), None)]), -87, "stuck: soon");
    assert_eq!(
        next_in(&[probe(1, 250, Some(230), None), probe(2, 10, Some(-890), None)]),
        210,
        "stuck: then later"
    );
    assert_eq!(
        next_in(&[probe(1, 90_000, Some(89_000), None), probe(2, 10, None, None)]),
        590,
        "but not too late"
    );
}

#[test]
fn a_lane_into_which_nothing_leads_is_cut_off_until_a_probe_is_placed_again() {
    let since = NOW.minus(11 * SECOND);
    let well = probe(1, 60, Some(59), Some(59));
    let cut = [well.clone(), probe(2, 11, None, None), probe(3, 6, None, None), probe(4, 1, None, None)];
    assert_eq!(health_of(&cut), Health::CutOff { since });
    assert_eq!(next_in(&cut), 4);
    assert_eq!(forgettable(&cut.iter().collect::<Vec<_>>()), [3]);
    let at = NOW.minus(59 * SECOND);
    assert_eq!(health_of(&cut[..2]), Health::Well { at }, "its pod may have died");
    let recent = [well, probe(2, 9, None, None), probe(3, 1, None, None)];
    assert_eq!(health_of(&recent), Health::Well { at }, "not for long enough");
    assert_eq!(health_of(&[&cut[..], &[probe(5, 1, Some(0), None)]].concat()), Health::Well { at });
    assert_eq!(health_of(&cut[1..]), Health::CutOff { since }, "none was ever placed");
}

#[test]
fn only_what_looks_exactly_like_a_probe_is_one() {
    let ours = message("order.delay.1s".to_owned(), "0a1b-2c", SECOND);
    let kind = |properties: &BasicProperties| properties.kind().as_ref().map(ToString::to_string);
    assert_eq!(token(&ours.body, kind(&ours.properties).as_deref()), Some("0a1b-2c".to_owned()));
    assert_eq!(token(&ours.body, Some("overdue.wake")), None);
    assert_eq!(token(&ours.body, None), None);
    for body in [&b""[..], b"{}", b"{\"probe\":\"\0\"}", b"{\"probe\":\"a\",\"b\":\"c\"}", b"{\"probe\":1}"] {
        assert_eq!(token(body, Some(PROBE_TYPE)), None);
    }
    let long = format!(r#"{{"probe":"{}"}}"#, "a".repeat(81));
    assert_eq!(token(long.as_bytes(), Some(PROBE_TYPE)), None);
}
