//! The faults, drawn from the seed.

use std::fmt;
use std::time::Duration;

use overdue_testkit::random::{Random, Rng};

/// The other end of a pod's line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Its line to the broker.
    Broker,
    /// Its line to the database.
    Database,
}

/// Something that goes wrong. `pod` and `node` count from 0; what lasts is put right again after `Duration`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    PodKilled(usize, Duration),
    PodFrozen(usize, Duration),
    RollingRestart,
    LineCut(usize, End, Duration),
    LineStalled(usize, End, Duration),
    LineSilenced(usize, End),
    ChannelsClosed(usize),
    BrokerKilled(usize, Duration),
    BrokerRestarted(usize),
    BrokerFrozen(usize, Duration),
    ConnectionsClosed,
    ProcessQueueDeleted,
    MemoryAlarm(usize, Duration),
    DiskAlarm(usize, Duration),
    NodeIsolated(usize, Duration),
    LaneLeaderKilled(Duration),
    ClusterRestarted,
    SubscriberLost(usize, Duration),
    DatabaseKilled(Duration),
    DatabaseFrozen(Duration),
    DatabaseSlow(Duration),
    SessionsTerminated,
    WakesReplayed,
    RubbishSent,
    RowsLocked(Duration),
    LockedTheOtherWayRound(Duration),
    Rush,
    FailingTrigger(Duration),
    BrokenTrigger(Duration),
    MoreTimeByTrigger(Duration),
    EditingShop(Duration),
    OpenSnapshot(Duration),
    SubscriberFull(Duration),
    LogFull(usize, Duration),
}

impl Fault {
    /// Whether wakes may be gone with it, so that only the sweep can find their orders.
    pub fn takes_wakes_along(&self) -> bool {
        matches!(self, Self::ProcessQueueDeleted)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// What there is to break.
#[derive(Clone, Copy, Debug)]
pub struct Targets {
    /// Pods.
    pub pods: usize,
    /// Nodes of the broker.
    pub nodes: usize,
}

/// A fault and when it strikes, from the beginning of the load.
pub type Strike = (Duration, Fault);

/// Draws three to six faults.
pub fn draw(random: &mut Random, load: Duration, targets: Targets) -> Vec<Strike> {
    let count = random.random_range(3..=6);
    let mut strikes: Vec<Strike> =
        (0..count).map(|_| (load.mul_f64(random.random_range(0.05..0.9)), fault(random, targets))).collect();
    strikes.sort_by_key(|(at, _)| *at);
    strikes
}

fn fault(random: &mut Random, Targets { pods, nodes }: Targets) -> Fault {
    let (pod, node) = (random.random_range(0..pods), random.random_range(0..nodes));
    let end = if random.random_bool(0.5) { End::Broker } else { End::Database };
    let mut lasting = |most: u64| Duration::from_millis(random.random_range(50..=most));
    let (short, long) = (lasting(1_500), lasting(4_000));
    let cluster = nodes > 1;
    match random.random_range(0..if cluster { 150 } else { 125 }) {
        0..10 => Fault::PodKilled(pod, short),
        10..17 => Fault::PodFrozen(pod, long),
        17..20 => Fault::RollingRestart,
        20..27 => Fault::LineCut(pod, end, short),
        27..34 => Fault::LineStalled(pod, end, long),
        34..36 => Fault::LineSilenced(pod, end),
        36..42 => Fault::ChannelsClosed(pod),
        42..50 => Fault::BrokerKilled(node, short),
        50..52 => Fault::BrokerRestarted(node),
        52..56 => Fault::BrokerFrozen(node, long),
        56..59 => Fault::ConnectionsClosed,
        59..61 => Fault::ProcessQueueDeleted,
        61..64 => Fault::MemoryAlarm(node, long),
        64..67 => Fault::DiskAlarm(node, long),
        67..72 => Fault::DatabaseKilled(short),
        72..75 => Fault::DatabaseFrozen(long),
        75..78 => Fault::DatabaseSlow(long),
        78..82 => Fault::SessionsTerminated,
        82..87 => Fault::WakesReplayed,
        87..90 => Fault::RubbishSent,
        90..94 => Fault::RowsLocked(long),
        94..97 => Fault::LockedTheOtherWayRound(long),
        97..100 => Fault::Rush,
        100..105 => Fault::FailingTrigger(long),
        105..107 => Fault::BrokenTrigger(short),
        107..111 => Fault::MoreTimeByTrigger(long),
        111..116 => Fault::EditingShop(long),
        116..119 => Fault::OpenSnapshot(long),
        119..123 => Fault::SubscriberFull(long),
        123..125 => Fault::LogFull(pod, long),
        125..135 => Fault::NodeIsolated(node, long),
        135..143 => Fault::LaneLeaderKilled(short),
        143..146 => Fault::SubscriberLost(node, long),
        _ => Fault::ClusterRestarted,
    }
}
