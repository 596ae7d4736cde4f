//! The protocol on paper, checked: every interleaving of a small instance, with crashes at every point.
//!
//! The model has one order, a shop, the outbox and its relay, delay lanes and process queue with at-least-once delivery,
//! two pods, the sweep, a subscriber that may refuse an event, and a budget of mishaps: pods and relay crash between any two
//! steps, a message is doubled, lost
//! or forged, the order is paid and its deadline moved at any moment. It holds no code of the service, only its rules;
//! [`Rule`] names those rules, and a test for each shows that breaking it is caught.

use stateright::{Checker, HasDiscoveries, Model, Property};

/// A rule of the protocol that can be broken, to see that it is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// A close asks whether the order is still PENDING, in the statement that closes it.
    StatusGuard,
    /// A close asks whether the deadline has passed, in the same statement.
    DeadlineGuard,
    /// Status and stock change in one transaction.
    OneTransaction,
    /// The event is recorded in that transaction, not published by the pod afterwards.
    EventInOutbox,
    /// The wake is recorded in the shop's transaction, not published by the shop afterwards.
    WakeInOutbox,
    /// A message is acknowledged after its work is committed.
    CommitBeforeAck,
    /// What follows from a verdict is published before the message is acknowledged.
    PublishBeforeAck,
    /// The relay deletes a row after the broker has confirmed it.
    ConfirmBeforeDelete,
    /// An event that a subscriber refuses is set aside in the statement that deletes its row.
    SetAsideWithDelete,
    /// The sweep closes what no wake closed.
    Sweep,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Status {
    NotPlaced,
    Pending,
    Paid,
    Closed,
}

/// A row of the outbox; a wake has the moment at which to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Row {
    Wake(u8),
    Event,
}

/// How far a pod is with its message. The message is on the broker, unacknowledged, until it is back to `Idle`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Pod {
    Idle,
    Holding {
        message: u8,
        acked: bool,
    },
    /// Only with broken rules: work that a commit should have held and did not.
    Owing {
        message: u8,
        stock: bool,
        event: bool,
    },
    Settling {
        message: u8,
        again: Option<u8>,
        acked: bool,
    },
}

/// The event, where a subscriber has refused it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Refused {
    Nothing,
    /// Only with a broken rule: deleted from the outbox, and not yet set aside.
    InMemory,
    /// It is tried again later.
    SetAside,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    now: u8,
    status: Status,
    deadline: u8,
    /// How many times the stock was given back.
    restocked: u8,
    closed_at: Option<u8>,
    paid_then_closed: bool,
    /// Sorted, as are lanes and queue: what differs only in order is one state.
    outbox: Vec<Row>,
    /// Published and confirmed, not yet deleted (or, with a broken rule, deleted and not yet published).
    relaying: Option<Row>,
    refused: Refused,
    lanes: Vec<u8>,
    queue: Vec<u8>,
    pods: [Pod; 2],
    /// A wake that the shop has still to publish; only without an outbox for wakes.
    shop_owes: Option<u8>,
    event_told: bool,
    mishaps: Mishaps,
}

/// What may still happen.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Mishaps {
    crashes: u8,
    duplicates: u8,
    forgeries: u8,
    losses: u8,
    moves: u8,
    refusals: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Step {
    Tick,
    Place,
    Pay,
    MoveDeadline(u8),
    ShopPublishes,
    ShopCrashes,
    RelayTakes(usize),
    RelayFinishes,
    RelayIsRefused(usize),
    RelaySetsAside,
    RelayTriesAgain,
    RelayCrashes,
    Expire(usize),
    Deliver(usize, usize),
    Close(usize),
    PayDebt(usize),
    Settle(usize),
    Crash(usize),
    Duplicate(usize),
    Lose(usize),
    Forge,
    Sweep,
}

/// The last moment of the model; deadlines lie before it with room for the sweep.
const END: u8 = 3;
const FIRST_DEADLINE: u8 = 1;

struct Protocol {
    broken: Option<Rule>,
    mishaps: Mishaps,
}

impl Protocol {
    fn keeps(&self, rule: Rule) -> bool {
        self.broken != Some(rule)
    }

    /// The closing statement: one transaction. Returns whether it closed.
    fn close(&self, world: &mut World) -> bool {
        let pending = world.status == Status::Pending
            || (!self.keeps(Rule::StatusGuard) && world.status == Status::Paid);
        let due = world.deadline <= world.now || !self.keeps(Rule::DeadlineGuard);
        if !(pending && due) {
            return false;
        }
        world.paid_then_closed |= world.status == Status::Paid;
        world.status = Status::Closed;
        world.closed_at = Some(world.now);
        if self.keeps(Rule::OneTransaction) {
            world.restocked += 1;
        }
        if self.keeps(Rule::EventInOutbox) {
            put(&mut world.outbox, Row::Event);
        }
        true
    }

    /// A pod runs the closing statement for its message; what follows depends on the rules that are kept.
    fn pod_closes(&self, world: &mut World, pod: usize) -> Option<()> {
        let Pod::Holding { message, acked } = world.pods[pod] else { return None };
        let closed = self.close(world);
        let (stock, event) = (!self.keeps(Rule::OneTransaction), !self.keeps(Rule::EventInOutbox));
        world.pods[pod] = if closed && (stock || event) {
            Pod::Owing { message, stock, event }
        } else {
            let not_due = world.status == Status::Pending;
            let acked = acked || !self.keeps(Rule::PublishBeforeAck);
            Pod::Settling { message, again: not_due.then_some(world.deadline), acked }
        };
        Some(())
    }

    fn record_wake(&self, world: &mut World) {
        if self.keeps(Rule::WakeInOutbox) {
            put(&mut world.outbox, Row::Wake(world.deadline));
        } else {
            world.shop_owes = Some(world.deadline);
        }
    }
}

/// What was set aside stays; what was only in memory does not.
fn relay_crashes(world: &mut World) {
    world.mishaps.crashes -= 1;
    world.relaying = None;
    if world.refused == Refused::InMemory {
        world.refused = Refused::Nothing;
    }
}

/// The broker gives the message of a pod that died to another, unless it was acknowledged.
fn pod_crashes(world: &mut World, pod: usize) -> Option<()> {
    world.mishaps.crashes -= 1;
    let (message, acked) = match world.pods[pod] {
        Pod::Idle => return None,
        Pod::Holding { message, acked } | Pod::Settling { message, acked, .. } => (message, acked),
        Pod::Owing { message, .. } => (message, false),
    };
    if !acked {
        put(&mut world.queue, message);
    }
    world.pods[pod] = Pod::Idle;
    Some(())
}

fn put<T: Ord>(all: &mut Vec<T>, one: T) {
    let at = all.partition_point(|other| *other < one);
    all.insert(at, one);
}

fn publish(world: &mut World, row: Row) {
    match row {
        Row::Wake(due) if due > world.now => put(&mut world.lanes, due),
        Row::Wake(due) => put(&mut world.queue, due),
        Row::Event => world.event_told = true,
    }
}

impl Model for Protocol {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        vec![World {
            now: 0,
            status: Status::NotPlaced,
            deadline: FIRST_DEADLINE,
            restocked: 0,
            closed_at: None,
            paid_then_closed: false,
            outbox: Vec::new(),
            relaying: None,
            refused: Refused::Nothing,
            lanes: Vec::new(),
            queue: Vec::new(),
            pods: [Pod::Idle; 2],
            shop_owes: None,
            event_told: false,
            mishaps: self.mishaps.clone(),
        }]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        let mishaps = &world.mishaps;
        if world.now < END {
            steps.push(Step::Tick);
        }
        match world.status {
            // Only at the beginning: later is the same with less time.
            Status::NotPlaced if world.now == 0 => steps.push(Step::Place),
            Status::Pending => {
                steps.push(Step::Pay);
                if mishaps.moves > 0 {
                    steps.extend([world.deadline - 1, world.deadline + 1].map(Step::MoveDeadline));
                }
                if self.keeps(Rule::Sweep) && world.now > world.deadline {
                    steps.push(Step::Sweep);
                }
            }
            Status::NotPlaced | Status::Paid | Status::Closed => {}
        }
        if world.shop_owes.is_some() {
            steps.push(Step::ShopPublishes);
            if mishaps.crashes > 0 {
                steps.push(Step::ShopCrashes);
            }
        }
        match world.relaying {
            None if world.refused == Refused::InMemory => {
                steps.push(Step::RelaySetsAside);
                if mishaps.crashes > 0 {
                    steps.push(Step::RelayCrashes);
                }
            }
            None => {
                for (n, row) in world.outbox.iter().enumerate() {
                    steps.push(Step::RelayTakes(n));
                    if *row == Row::Event && mishaps.refusals > 0 {
                        steps.push(Step::RelayIsRefused(n));
                    }
                }
            }
            Some(_) => {
                steps.push(Step::RelayFinishes);
                if mishaps.crashes > 0 {
                    steps.push(Step::RelayCrashes);
                }
            }
        }
        if world.refused == Refused::SetAside {
            steps.push(Step::RelayTriesAgain);
        }
        // At any time: a wake that takes several hops comes back early from each of them.
        steps.extend((0..world.lanes.len()).map(Step::Expire));
        for (n, pod) in world.pods.iter().enumerate() {
            match pod {
                Pod::Idle => {
                    // The pods are alike: an idle second one waits for the first to be busy.
                    if n == 0 || world.pods[0] != Pod::Idle {
                        steps.extend((0..world.queue.len()).map(|message| Step::Deliver(n, message)));
                    }
                    continue;
                }
                Pod::Holding { .. } => steps.push(Step::Close(n)),
                Pod::Owing { .. } => steps.push(Step::PayDebt(n)),
                Pod::Settling { .. } => steps.push(Step::Settle(n)),
            }
            if mishaps.crashes > 0 {
                steps.push(Step::Crash(n));
            }
        }
        for message in 0..world.queue.len() {
            if mishaps.duplicates > 0 {
                steps.push(Step::Duplicate(message));
            }
            if mishaps.losses > 0 {
                steps.push(Step::Lose(message));
            }
        }
        if mishaps.forgeries > 0 && world.status != Status::NotPlaced {
            steps.push(Step::Forge);
        }
    }

    fn next_state(&self, last: &World, step: Step) -> Option<World> {
        let mut world = last.clone();
        match step {
            Step::Tick => world.now += 1,
            Step::Place => {
                world.status = Status::Pending;
                self.record_wake(&mut world);
            }
            Step::Pay => world.status = Status::Paid,
            Step::MoveDeadline(deadline) => {
                world.mishaps.moves -= 1;
                world.deadline = deadline;
                self.record_wake(&mut world);
            }
            Step::ShopPublishes => {
                let due = world.shop_owes.take()?;
                publish(&mut world, Row::Wake(due));
            }
            Step::ShopCrashes => {
                world.mishaps.crashes -= 1;
                world.shop_owes = None;
            }
            Step::RelayTakes(n) => {
                let row = world.outbox[n];
                if self.keeps(Rule::ConfirmBeforeDelete) {
                    publish(&mut world, row);
                } else {
                    world.outbox.remove(n);
                }
                world.relaying = Some(row);
            }
            Step::RelayFinishes => {
                let row = world.relaying.take()?;
                if self.keeps(Rule::ConfirmBeforeDelete) {
                    let at = world.outbox.iter().position(|other| *other == row)?;
                    world.outbox.remove(at);
                } else {
                    publish(&mut world, row);
                }
            }
            Step::RelayIsRefused(n) => {
                world.mishaps.refusals -= 1;
                world.outbox.remove(n);
                let kept = self.keeps(Rule::SetAsideWithDelete);
                world.refused = if kept { Refused::SetAside } else { Refused::InMemory };
            }
            Step::RelaySetsAside => world.refused = Refused::SetAside,
            // Published and then deleted; a crash in between tells it twice, which changes nothing.
            Step::RelayTriesAgain => {
                world.refused = Refused::Nothing;
                world.event_told = true;
            }
            Step::RelayCrashes => relay_crashes(&mut world),
            Step::Expire(n) => {
                let message = world.lanes.remove(n);
                put(&mut world.queue, message);
            }
            Step::Deliver(pod, n) => {
                let message = world.queue.remove(n);
                world.pods[pod] = Pod::Holding { message, acked: !self.keeps(Rule::CommitBeforeAck) };
            }
            Step::Close(pod) => self.pod_closes(&mut world, pod)?,
            Step::PayDebt(pod) => {
                let Pod::Owing { message, stock, event } = world.pods[pod] else { return None };
                world.restocked += u8::from(stock);
                world.event_told |= event;
                world.pods[pod] = Pod::Settling { message, again: None, acked: false };
            }
            Step::Settle(pod) => {
                let Pod::Settling { message, again, acked } = world.pods[pod] else { return None };
                world.pods[pod] = match again {
                    Some(due) => {
                        publish(&mut world, Row::Wake(due));
                        Pod::Settling { message, again: None, acked }
                    }
                    None => Pod::Idle,
                };
            }
            Step::Crash(pod) => pod_crashes(&mut world, pod)?,
            Step::Duplicate(n) => {
                world.mishaps.duplicates -= 1;
                let message = world.queue[n];
                put(&mut world.queue, message);
            }
            Step::Lose(n) => {
                world.mishaps.losses -= 1;
                world.queue.remove(n);
            }
            Step::Forge => {
                world.mishaps.forgeries -= 1;
                put(&mut world.queue, 0);
            }
            Step::Sweep => {
                self.close(&mut world);
                if !self.keeps(Rule::OneTransaction) {
                    world.restocked += 1;
                }
                world.event_told |= !self.keeps(Rule::EventInOutbox);
            }
        }
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("1 a paid order is never closed", |_, world: &World| !world.paid_then_closed),
            Property::always("7 no message closes an order early", |_, world: &World| {
                world.closed_at.is_none_or(|at| at >= world.deadline)
            }),
            Property::always("2, 3 stock is given back once, by the close", |_, world: &World| {
                let owing = world.pods.iter().any(|pod| matches!(pod, Pod::Owing { .. }));
                owing || world.restocked == u8::from(world.status == Status::Closed)
            }),
            Property::always("4 an order that stays unpaid is closed", |model: &Self, world: &World| {
                let sweep = model.keeps(Rule::Sweep) && world.now > world.deadline;
                !(quiet(world) && world.status == Status::Pending) || sweep
            }),
            Property::always("5 an order that waits has a wake on its way", |model: &Self, world: &World| {
                let lost = world.mishaps.losses < model.mishaps.losses;
                lost || world.status != Status::Pending || wake_on_its_way(world)
            }),
            Property::always("6 a recorded event is told", |_, world: &World| {
                let coming = world.outbox.contains(&Row::Event)
                    || world.relaying == Some(Row::Event)
                    || world.refused != Refused::Nothing
                    || world.pods.iter().any(|pod| matches!(pod, Pod::Owing { .. }));
                world.event_told == (world.status == Status::Closed) || coming
            }),
            Property::sometimes("an order is closed", |_, world: &World| {
                quiet(world) && world.status == Status::Closed
            }),
            Property::sometimes("an order is paid after its wake came", |_, world: &World| {
                quiet(world) && world.status == Status::Paid && world.now > world.deadline
            }),
        ]
    }
}

/// Nothing is under way and no time is left.
fn quiet(world: &World) -> bool {
    world.now == END
        && world.outbox.is_empty()
        && world.relaying.is_none()
        && world.refused == Refused::Nothing
        && world.lanes.is_empty()
        && world.queue.is_empty()
        && world.pods == [Pod::Idle; 2]
        && world.shop_owes.is_none()
}

fn wake_on_its_way(world: &World) -> bool {
    let by_deadline = |due: &u8| *due <= world.deadline;
    let in_pod = |pod: &Pod| match pod {
        Pod::Idle => false,
        Pod::Holding { .. } | Pod::Owing { .. } => true,
        // Its message comes again if the pod dies; with the next wake published it need not.
        Pod::Settling { again, acked, .. } => again.is_some() || !acked,
    };
    let in_row = |row: &Row| matches!(row, Row::Wake(due) if by_deadline(due));
    world.lanes.iter().any(by_deadline)
        || world.queue.iter().any(by_deadline)
        || world.outbox.iter().any(in_row)
        || world.relaying.is_some_and(|row| in_row(&row))
        || world.shop_owes.is_some()
        || world.pods.iter().any(in_pod)
}

const THREADS: usize = 2;

fn holds(mishaps: Mishaps) {
    let checked = Protocol { broken: None, mishaps }.checker().threads(THREADS).spawn_bfs().join();
    checked.assert_properties();
    assert!(
        checked.unique_state_count() > 10_000,
        "the model explores little: {}",
        checked.unique_state_count()
    );
}

#[test]
fn every_interleaving_with_a_crash_a_moved_deadline_and_a_doubled_message_keeps_the_invariants() {
    holds(Mishaps { crashes: 1, duplicates: 1, forgeries: 0, losses: 0, moves: 1, refusals: 0 });
}

#[test]
fn every_interleaving_with_a_crash_a_moved_deadline_and_a_forged_message_keeps_the_invariants() {
    holds(Mishaps { crashes: 1, duplicates: 0, forgeries: 1, losses: 0, moves: 1, refusals: 0 });
}

#[test]
fn every_interleaving_with_two_crashes_and_a_lost_message_keeps_the_invariants() {
    holds(Mishaps { crashes: 2, duplicates: 0, forgeries: 0, losses: 1, moves: 0, refusals: 0 });
}

#[test]
fn every_interleaving_with_a_crash_a_moved_deadline_and_a_refused_event_keeps_the_invariants() {
    holds(Mishaps { crashes: 1, duplicates: 0, forgeries: 0, losses: 0, moves: 1, refusals: 1 });
}

#[test]
fn breaking_any_rule_of_the_protocol_is_caught_by_the_invariant_that_needs_it() {
    for (rule, invariant) in [
        (Rule::StatusGuard, "1 "),
        (Rule::DeadlineGuard, "7 "),
        (Rule::OneTransaction, "2, 3 "),
        (Rule::EventInOutbox, "6 "),
        (Rule::WakeInOutbox, "5 "),
        (Rule::CommitBeforeAck, "5 "),
        (Rule::PublishBeforeAck, "5 "),
        (Rule::ConfirmBeforeDelete, "5 "),
        (Rule::SetAsideWithDelete, "6 "),
        (Rule::Sweep, "4 "),
    ] {
        let losses = u8::from(rule == Rule::Sweep);
        let refusals = u8::from(rule == Rule::SetAsideWithDelete);
        // Nothing that hides the fault: a second message or deadline would bring another wake.
        let mishaps = Mishaps { crashes: 1, duplicates: 0, forgeries: 1, losses, moves: 0, refusals };
        let broken = Protocol { broken: Some(rule), mishaps }.checker().threads(THREADS);
        let broken = broken.finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
        let found: Vec<_> =
            broken.discoveries().into_keys().filter(|name| !name.starts_with("an order")).collect();
        assert!(found.iter().any(|name| name.starts_with(invariant)), "without {rule:?}: {found:?}");
    }
}
