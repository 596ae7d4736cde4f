//! The consumer's decisions without a broker: tables here, a property over events in any order in `property`.

mod property;

use std::time::Duration;

use tokio::time::Instant;

use super::decide::{Arrival, Effect, Event, Limits, Now, Publication, Report, WakeConsumer};
use super::in_flight::{Ack, Held, Tag};
use crate::clock::DbTime;
use crate::closing::Verdict;
use crate::closing::next_step::RetryPolicy;
use crate::lanes::schedule::Scheduler;
use crate::lanes::{GATHER, Lanes};
use crate::wire::wake::Wake;

const START: DbTime = DbTime(1_767_225_600_000_000);
const LIMITS: Limits =
    Limits { messages: 8, orders: 100, batch: 3, batches: 2, pace: Duration::ZERO, orders_per_wake: 10 };
const RETRY: RetryPolicy =
    RetryPolicy { max_attempts: 3, base: Duration::from_secs(1), shortest_lane: Duration::from_secs(1) };

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A consumer with a clock that the test moves.
struct Desk {
    consumer: WakeConsumer,
    now: Now,
}

impl Desk {
    fn new(limits: Limits) -> Self {
        let lanes = Lanes::new("1s,10s", ms(250), ms(200)).expect("lanes");
        let scheduler = Scheduler::new(lanes, ms(100), limits.orders_per_wake);
        let now = Now { time: START, instant: Instant::now() };
        Self { consumer: WakeConsumer::new(limits, RETRY, scheduler), now }
    }

    fn after(&mut self, wait: Duration, event: Event) -> Vec<Effect> {
        self.now = Now { time: self.now.time.plus(wait), instant: self.now.instant + wait };
        let mut effects = Vec::new();
        self.consumer.decide(event, self.now, &mut effects);
        effects
    }

    fn on(&mut self, event: Event) -> Vec<Effect> {
        self.after(Duration::ZERO, event)
    }

    fn closed(&mut self, batch: &[Held], verdict: &Verdict) -> Vec<Effect> {
        self.on(Event::Closed { apart: false, verdicts: with(batch, verdict) })
    }
}

fn with(batch: &[Held], verdict: &Verdict) -> Vec<(Held, Verdict)> {
    batch.iter().map(|held| (*held, verdict.clone())).collect()
}

fn wake(order_id: i64, millis: u64) -> Wake {
    Wake { due: START.plus(ms(millis)), order_id, attempt: 0, announced: false }
}

/// A message with these orders, each due after this many milliseconds.
fn message(tag: Tag, orders: &[(i64, u64)]) -> Arrival {
    Arrival::Wakes(tag, orders.iter().map(|(order, due)| wake(*order, *due)).collect())
}

fn due(tag: Tag) -> Arrival {
    message(tag, &[(i64::try_from(tag).expect("small"), 0)])
}

fn held(tag: Tag) -> Held {
    Held { wake: wake(i64::try_from(tag).expect("small"), 0), tag, deferrals: 0 }
}

#[test]
fn a_stop_in_a_burst_makes_no_message_come_again() {
    let mut desk = Desk::new(LIMITS);
    let batch = |tags: &[Tag]| Effect::Close(tags.iter().map(|tag| held(*tag)).collect());
    assert_eq!(
        desk.on(Event::Arrived((1..=7).map(due).collect())),
        [batch(&[1, 2, 3]), batch(&[4, 5, 6])],
        "as many batches as may be closed at one time"
    );
    assert_eq!(desk.on(Event::StopRequested), [Effect::Report(Report::Stopping(7))]);
    assert_eq!(
        desk.closed(&[held(1), held(2), held(3)], &Verdict::Closed),
        [batch(&[7])],
        "after an acknowledgement the broker would send more messages, which would be redelivered"
    );
    assert_eq!(
        desk.on(Event::Arrived(vec![due(8)])),
        [Effect::CancelConsumer],
        "everything that the broker sends ahead is here; both slots are taken"
    );
    assert_eq!(desk.closed(&[held(4), held(5), held(6)], &Verdict::Closed), [batch(&[8])]);
    assert_eq!(desk.on(Event::ConsumerEnded), []);
    assert_eq!(desk.closed(&[held(7)], &Verdict::NotPending), []);
    assert!(!desk.consumer.is_done());
    assert_eq!(
        desk.closed(&[held(8)], &Verdict::Closed),
        [Effect::Acknowledge(vec![Ack { tag: 8, multiple: true }])],
        "one acknowledgement for all"
    );
    assert!(desk.consumer.is_done());
}

#[test]
fn with_a_pace_orders_are_closed_together_at_the_end_of_the_step_in_which_they_are_due() {
    let mut desk = Desk::new(Limits { pace: ms(100), batch: 2, ..LIMITS });
    let orders = [(1, 10), (2, 90), (3, 100), (4, 101)];
    assert_eq!(desk.on(Event::Arrived(vec![message(1, &orders)])), []);
    assert_eq!(desk.consumer.next_moments().due, Some(START.plus(ms(100))));
    assert_eq!(desk.after(ms(99), Event::Moment), []);
    let closed = desk.after(ms(1), Event::Moment);
    let ids: Vec<Vec<i64>> = closed
        .iter()
        .map(|effect| match effect {
            Effect::Close(batch) => batch.iter().map(|held| held.wake.order_id).collect(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(ids, [vec![1, 2], vec![3]], "in batches, and what is due in the next step waits");
    assert_eq!(desk.consumer.next_moments().due, None, "both slots are taken");
}

#[test]
fn a_wake_is_held_for_up_to_twenty_seconds_while_half_of_the_room_is_left_and_gathers_otherwise() {
    for (held_before, left, is_held) in
        [(0, 20_000, true), (0, 20_001, false), (3, 20_000, true), (4, 20_000, false)]
    {
        let mut desk = Desk::new(LIMITS);
        let before = (1..=held_before).map(|tag| message(tag, &[(i64::try_from(tag).expect("small"), 900)]));
        assert_eq!(desk.on(Event::Arrived(before.collect())), []);
        assert_eq!(desk.on(Event::Arrived(vec![message(99, &[(99, left)])])), []);
        assert_eq!(desk.after(GATHER.saturating_sub(ms(1)), Event::Moment), [], "more of them may come");
        let effects = desk.after(ms(1), Event::Moment);
        let published = matches!(&effects[..], [Effect::Publish(_)]);
        assert!(if is_held { effects.is_empty() } else { published }, "{held_before}, {left}: {effects:?}");
    }
}

#[test]
fn a_consumer_is_cancelled_when_nothing_has_come_for_a_while_and_at_last_although_something_comes() {
    let mut desk = Desk::new(LIMITS);
    desk.on(Event::StopRequested);
    assert_eq!(desk.after(ms(249), Event::Moment), []);
    assert_eq!(desk.after(ms(1), Event::Moment), [Effect::CancelConsumer]);
    assert_eq!(desk.on(Event::ConsumerEnded), [Effect::Acknowledge(vec![])]);
    assert!(desk.consumer.is_done());

    let mut thin = Desk::new(Limits { messages: 1_000, ..LIMITS });
    thin.on(Event::StopRequested);
    for tag in 1..10 {
        let later = message(tag, &[(i64::try_from(tag).expect("small"), 3_000)]);
        assert_eq!(thin.after(ms(100), Event::Arrived(vec![later])), [], "message {tag}");
    }
    assert_eq!(thin.after(ms(100), Event::Moment), [Effect::CancelConsumer], "a second after the stop");
}

#[test]
fn what_cannot_be_closed_soon_is_handed_over_and_nothing_is_held_any_more() {
    let mut desk = Desk::new(Limits { batches: 1, batch: 1, ..LIMITS });
    let later = message(3, &[(3, 4_000), (4, 4_500)]);
    desk.on(Event::Arrived(vec![due(1), due(2), later]));
    desk.closed(&[held(1)], &Verdict::Slow);
    desk.on(Event::StopRequested);
    desk.after(ms(250), Event::Moment);
    desk.on(Event::ConsumerEnded);
    let effects = desk.after(ms(1_750), Event::Moment);
    let wakes = vec![wake(3, 4_000), wake(4, 4_500)];
    assert_eq!(
        effects,
        [
            Effect::Report(Report::HandingOver(2)),
            Effect::Publish(Publication { wakes, parked: vec![], tags: vec![3, 3] })
        ]
    );
    // Order 2 and the slow order are being closed. Neither gets closed, so both go to a lane.
    let lane = |order_id| Wake { due: desk.now.time.plus(RETRY.shortest_lane), ..wake(order_id, 0) };
    let (first, second) = (lane(1), lane(2));
    desk.closed(&[held(2)], &Verdict::Locked);
    desk.on(Event::Closed { apart: true, verdicts: with(&[held(1)], &Verdict::Slow) });
    let rest = Publication { wakes: vec![second, first], parked: vec![], tags: vec![2, 1] };
    assert_eq!(desk.on(Event::Published(vec![3, 3])), [Effect::Publish(rest)]);
    assert_eq!(
        desk.on(Event::Published(vec![2, 1])),
        [Effect::Acknowledge(vec![Ack { tag: 3, multiple: true }])]
    );
    assert!(desk.consumer.is_done());
}

#[test]
fn a_consumer_that_nobody_asked_to_stop_is_lost_when_it_ends() {
    let mut desk = Desk::new(LIMITS);
    desk.on(Event::Arrived(vec![due(1)]));
    assert_eq!(desk.on(Event::ConsumerEnded), [Effect::ConsumerLost]);
}

#[test]
fn messages_that_are_done_are_acknowledged_together_when_they_are_many_or_have_waited() {
    let mut desk = Desk::new(Limits { messages: 16, batch: 1, batches: 9, ..LIMITS });
    desk.on(Event::Arrived((1..=9).map(due).collect()));
    assert_eq!(desk.closed(&[held(2)], &Verdict::Closed), []);
    assert_eq!(desk.after(ms(19), Event::Moment), []);
    let second = Ack { tag: 2, multiple: false };
    assert_eq!(desk.after(ms(1), Event::Moment), [Effect::Acknowledge(vec![second])], "after 20 ms");
    for tag in [1, 3, 4] {
        assert_eq!(desk.closed(&[held(tag)], &Verdict::Closed), []);
    }
    let quarter = vec![Ack { tag: 5, multiple: true }];
    assert_eq!(desk.closed(&[held(5)], &Verdict::Closed), [Effect::Acknowledge(quarter)]);
    let moments = desk.consumer.next_moments();
    assert_eq!(moments.waited, None, "no message waits to be acknowledged");
}

#[test]
fn a_locked_order_is_deferred_in_the_pod_and_then_in_a_lane() {
    let mut desk = Desk::new(LIMITS);
    let mut effects = desk.on(Event::Arrived(vec![due(1)]));
    for deferrals in 0..6 {
        let [Effect::Close(batch)] = &effects[..] else { panic!("{effects:?} after {deferrals} deferrals") };
        assert_eq!(batch[0].deferrals, deferrals);
        let batch = batch.clone();
        assert_eq!(desk.closed(&batch, &Verdict::Locked), []);
        effects = desk.after(ms(25 << deferrals), Event::Moment);
    }
    let [Effect::Close(batch)] = &effects[..] else { panic!("{effects:?}") };
    let (batch, due) = (batch.clone(), desk.now.time.plus(RETRY.shortest_lane));
    assert_eq!(desk.closed(&batch, &Verdict::Locked), [], "it waits for other wakes of its lane");
    let publication = Publication { wakes: vec![Wake { due, ..wake(1, 0) }], parked: vec![], tags: vec![1] };
    assert_eq!(desk.after(ms(100), Event::Moment), [Effect::Publish(publication)]);
}

#[test]
fn orders_that_failed_and_slow_ones_are_closed_apart_one_batch_at_a_time() {
    let mut desk = Desk::new(LIMITS);
    let failed = Wake { attempt: 1, ..wake(1, 0) };
    let effects = desk.on(Event::Arrived(vec![Arrival::Wakes(1, vec![failed]), due(2), due(3)]));
    let apart = Held { wake: failed, ..held(1) };
    assert_eq!(effects, [Effect::Close(vec![held(2), held(3)]), Effect::CloseApart(vec![apart])]);
    assert_eq!(desk.closed(&[held(2), held(3)], &Verdict::Slow), [], "one at a time");
    let verdicts = with(&[apart], &Verdict::Failed { reason: "x".into() });
    assert_eq!(desk.on(Event::Closed { apart: true, verdicts }), [Effect::CloseAlone(held(2))]);
    let verdicts = with(&[held(2)], &Verdict::Failed { reason: "too slow".into() });
    assert_eq!(desk.on(Event::Closed { apart: true, verdicts }), [Effect::CloseAlone(held(3))]);
}

#[test]
fn orders_that_do_not_exist_are_parked_together_and_others_one_by_one_with_their_reason() {
    let mut desk = Desk::new(LIMITS);
    let last = |order_id| Wake { attempt: 2, announced: true, ..wake(order_id, 0) };
    let wakes = vec![last(1), last(2), last(3)];
    let effects = desk.on(Event::Arrived(vec![Arrival::Wakes(1, wakes)]));
    let [Effect::CloseApart(batch)] = &effects[..] else { panic!("{effects:?}") };
    let mut verdicts = with(batch, &Verdict::Unknown);
    verdicts[2].1 = Verdict::Failed { reason: "a trigger".into() };
    let effects = desk.on(Event::Closed { apart: true, verdicts });
    let reports: Vec<_> = effects.iter().filter(|effect| !matches!(effect, Effect::Publish(_))).collect();
    assert_eq!(
        reports,
        [
            &Effect::Report(Report::ParkingOrder(3, "a trigger (after 3 attempts)".into())),
            &Effect::CountFailed(2),
            &Effect::Report(Report::ParkingUnknown(2, 1))
        ]
    );
    let Some(Effect::Publish(Publication { parked, tags, .. })) = effects.last() else {
        panic!("{effects:?}")
    };
    assert_eq!((parked.len(), tags.as_slice()), (2, &[1, 1, 1][..]));
}
