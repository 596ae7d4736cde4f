//! In any order of events, no message is acknowledged before it is done, or twice, and in the end all are acknowledged.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use proptest::prelude::*;

use super::{Desk, LIMITS, START, message, ms, with};
use crate::closing::Verdict;
use crate::roles::close::decide::{Arrival, Effect, Event, Publication};
use crate::roles::close::in_flight::{Ack, Held, Tag};
use crate::wire::malformed::Malformed;
use crate::wire::outgoing::Outgoing;

#[derive(Clone, Debug)]
enum Op {
    Message { orders: usize, millis: u64 },
    Probe,
    Malformed,
    Batch(Verdict),
    Apart(Verdict),
    Confirm,
    Record,
    Wait(u64),
}

fn op() -> impl Strategy<Value = Op> {
    let verdict = prop_oneof![
        4 => Just(Verdict::Closed),
        1 => Just(Verdict::NotPending),
        1 => Just(Verdict::Locked),
        1 => Just(Verdict::Slow),
        1 => Just(Verdict::Unknown),
        1 => Just(Verdict::Failed { reason: "x".into() }),
        1 => Just(Verdict::NotDue { deadline: START.plus(Duration::from_secs(3600)) }),
    ];
    prop_oneof![
        4 => (1_usize..5, 0_u64..8_000).prop_map(|(orders, millis)| Op::Message { orders, millis }),
        1 => Just(Op::Probe),
        1 => Just(Op::Malformed),
        4 => verdict.clone().prop_map(Op::Batch),
        2 => verdict.prop_map(Op::Apart),
        3 => Just(Op::Confirm),
        1 => Just(Op::Record),
        3 => (1_u64..3_000).prop_map(Op::Wait),
    ]
}

/// What the broker, the database and the table of probes would know.
#[derive(Default)]
struct World {
    /// Open orders of each unacknowledged message; a probe and a malformed message count as one.
    open: BTreeMap<Tag, usize>,
    last: Tag,
    batches: VecDeque<Vec<Held>>,
    apart: VecDeque<Vec<Held>>,
    publishing: VecDeque<Vec<Tag>>,
    recording: VecDeque<Vec<Tag>>,
    cancelled: bool,
    stopping: bool,
}

impl World {
    fn deliver(&mut self, orders: usize) -> Tag {
        self.last += 1;
        self.open.insert(self.last, orders);
        self.last
    }

    fn all_done(&mut self, tags: &[Tag]) {
        for tag in tags {
            *self.open.get_mut(tag).expect("not acknowledged before it is done") -= 1;
        }
    }

    /// Applies the consumer's effects; panics where one breaks a promise.
    fn carry_out(&mut self, effects: Vec<Effect>, done: bool) {
        for effect in effects {
            match effect {
                Effect::Close(batch) => self.batches.push_back(batch),
                Effect::CloseApart(batch) => self.apart.push_back(batch),
                Effect::CloseAlone(held) => self.apart.push_back(vec![held]),
                Effect::Publish(Publication { tags, .. }) => self.publishing.push_back(tags),
                Effect::RecordProbes(_, tags) => self.recording.push_back(tags),
                Effect::Acknowledge(acks) => {
                    assert!(done || !self.stopping, "while stopping, nothing is acknowledged before the end");
                    for Ack { tag, multiple } in acks {
                        let first = if multiple { 0 } else { tag };
                        let tags: Vec<_> = self.open.range(first..=tag).map(|(tag, _)| *tag).collect();
                        for tag in tags {
                            assert_eq!(self.open.remove(&tag), Some(0), "message {tag} is done");
                        }
                    }
                }
                Effect::CancelConsumer => self.cancelled = true,
                Effect::ConsumerLost => panic!("the consumer has not ended"),
                Effect::CountFailed(_) | Effect::Report(_) => {}
            }
        }
        assert!(self.batches.len() <= LIMITS.batches && self.apart.len() <= 1);
        assert!(self.publishing.len() <= 1 && self.recording.len() <= 1);
    }

    /// The event of an operation, if it can happen now.
    fn event(&mut self, op: Op) -> Option<Event> {
        match op {
            Op::Message { .. } | Op::Probe | Op::Malformed
                if self.cancelled || self.open.len() >= LIMITS.messages =>
            {
                None
            }
            Op::Message { orders, millis } => {
                let tag = self.deliver(orders);
                let first = i64::try_from(tag * 10).expect("small");
                let orders: Vec<_> = (first..).take(orders).map(|order| (order, millis)).collect();
                Some(Event::Arrived(vec![message(tag, &orders)]))
            }
            Op::Probe => Some(Event::Arrived(vec![Arrival::Probe(self.deliver(1), "token".into())])),
            Op::Malformed => {
                let message = Outgoing {
                    key: "order.parked".into(),
                    body: vec![],
                    properties: lapin::BasicProperties::default(),
                    mandatory: true,
                };
                let malformed = Box::new((Malformed::NoDeadline, message));
                Some(Event::Arrived(vec![Arrival::Malformed(self.deliver(1), malformed)]))
            }
            Op::Batch(verdict) => {
                let batch = self.batches.pop_front()?;
                Some(self.verdict(false, &batch, &verdict))
            }
            Op::Apart(verdict) => {
                let batch = self.apart.pop_front()?;
                Some(self.verdict(true, &batch, &verdict))
            }
            Op::Confirm => {
                let tags = self.publishing.pop_front()?;
                self.all_done(&tags);
                Some(Event::Published(tags))
            }
            Op::Record => {
                let tags = self.recording.pop_front()?;
                self.all_done(&tags);
                Some(Event::ProbesRecorded(tags))
            }
            Op::Wait(_) => Some(Event::Moment),
        }
    }

    fn verdict(&mut self, apart: bool, batch: &[Held], verdict: &Verdict) -> Event {
        // No service named these orders, so an order that does not exist has been deleted.
        if matches!(verdict, Verdict::Closed | Verdict::NotPending | Verdict::Unknown) {
            self.all_done(&batch.iter().map(|held| held.tag).collect::<Vec<_>>());
        }
        Event::Closed { apart, verdicts: with(batch, verdict) }
    }
}

proptest! {
    /// In any order of events, and whenever shutdown begins: no message is acknowledged before it is done, or twice, and in
    /// the end all are acknowledged.
    #[test]
    fn every_message_is_acknowledged_once_and_when_it_is_done(
        before in prop::collection::vec(op(), 0..60), after in prop::collection::vec(op(), 0..40),
    ) {
        let (mut desk, mut world) = (Desk::new(LIMITS), World::default());
        let step = |desk: &mut Desk, world: &mut World, op: Op| {
            let wait = if let Op::Wait(millis) = op { ms(millis) } else { Duration::ZERO };
            if let Some(event) = world.event(op) {
                let effects = desk.after(wait, event);
                world.carry_out(effects, desk.consumer.is_done());
            }
        };
        for op in before {
            step(&mut desk, &mut world, op);
        }
        world.stopping = true;
        let effects = desk.on(Event::StopRequested);
        world.carry_out(effects, false);
        for op in after {
            if !desk.consumer.is_done() {
                step(&mut desk, &mut world, op);
            }
        }
        let mut ended = false;
        for _ in 0..200 {
            if world.cancelled && !ended {
                ended = true;
                let effects = desk.on(Event::ConsumerEnded);
                world.carry_out(effects, desk.consumer.is_done());
            }
            for op in [Op::Wait(500), Op::Batch(Verdict::Closed), Op::Apart(Verdict::Closed), Op::Confirm, Op::Record] {
                if !desk.consumer.is_done() {
                    step(&mut desk, &mut world, op);
                }
            }
        }
        prop_assert!(desk.consumer.is_done(), "{} messages are left", world.open.len());
        prop_assert!(world.open.is_empty());
        prop_assert_eq!(desk.consumer.in_flight.orders(), 0);
    }
}
