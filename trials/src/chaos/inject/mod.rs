//! Makes faults happen, and puts right again what lasts.

mod servers;
mod shop;
mod triggers;

use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::Result;
use rustix::process::Signal;
use tokio::time::sleep;

use super::fault::{End, Fault};
use crate::arena::Arena;
use crate::measure::until;
use crate::shop::Letter;
use overdue_testkit::breaker::{Breaker, Line};

/// What was sent and cannot be understood.
pub type Rubbish = Mutex<Vec<Letter>>;

/// Makes it happen, and returns when it is over.
pub async fn inject(arena: &Arena, fault: Fault, rubbish: &Rubbish) -> Result<()> {
    arena.timeline.note(fault);
    match fault {
        Fault::PodKilled(pod, back_after) => kill_pod(arena, pod, back_after).await?,
        Fault::PodFrozen(pod, lasting) => freeze_pod(arena, pod, lasting).await?,
        Fault::RollingRestart => {
            for pod in &arena.pods {
                pod.stop().await?;
                pod.begin().await?;
            }
        }
        Fault::LineCut(pod, end, lasting) => on_line(arena, pod, end, Line::Cut, lasting).await,
        Fault::LineStalled(pod, end, lasting) => on_line(arena, pod, end, Line::Stalled, lasting).await,
        Fault::LineSilenced(pod, end) => each_line(arena, pod, end, Breaker::silence),
        Fault::ChannelsClosed(pod) => each_line(arena, pod, End::Broker, Breaker::disturb),
        Fault::BrokerKilled(node, back_after) => servers::kill_broker(arena, node, back_after).await?,
        Fault::BrokerRestarted(node) => servers::restart_broker(arena, node).await?,
        Fault::BrokerFrozen(node, lasting) => servers::freeze_broker(arena, node, lasting).await?,
        Fault::ConnectionsClosed => servers::close_connections(arena).await?,
        // Its consumers are cancelled, and its wakes are gone.
        Fault::ProcessQueueDeleted => servers::delete_process_queue(arena).await?,
        Fault::MemoryAlarm(node, lasting) => {
            let (setting, values) = ("set_vm_memory_high_watermark", ["0.0000001", "0.6"]);
            servers::raise_alarm(arena, node, lasting, setting, values).await?;
        }
        Fault::DiskAlarm(node, lasting) => {
            let (setting, values) = ("set_disk_free_limit", ["900000000000000", "100MB"]);
            servers::raise_alarm(arena, node, lasting, setting, values).await?;
        }
        Fault::NodeIsolated(node, lasting) => servers::isolate_node(arena, node, lasting).await?,
        Fault::LaneLeaderKilled(back_after) => servers::kill_lane_leader(arena, back_after).await?,
        Fault::ClusterRestarted => servers::restart_cluster(arena).await?,
        Fault::SubscriberLost(node, lasting) => servers::lose_a_subscriber(arena, node, lasting).await?,
        Fault::DatabaseKilled(back_after) => servers::kill_database(arena, back_after).await?,
        Fault::DatabaseFrozen(lasting) => servers::freeze_database(arena, lasting).await?,
        Fault::DatabaseSlow(lasting) => servers::slow_database(arena, lasting).await?,
        Fault::SessionsTerminated => servers::terminate_sessions(arena).await?,
        Fault::WakesReplayed => shop::replay_wakes(arena).await?,
        Fault::RubbishSent => shop::send_rubbish(arena, rubbish).await?,
        Fault::RowsLocked(lasting) => shop::lock_rows(arena, lasting).await?,
        Fault::LockedTheOtherWayRound(lasting) => shop::lock_the_other_way_round(arena, lasting).await,
        Fault::Rush => shop::rush(arena).await?,
        Fault::FailingTrigger(lasting) => triggers::some_fail(arena, lasting).await?,
        Fault::BrokenTrigger(lasting) => triggers::all_fail(arena, lasting).await?,
        Fault::MoreTimeByTrigger(lasting) => triggers::give_more_time(arena, lasting).await?,
        Fault::EditingShop(lasting) => shop::edit_orders(arena, lasting).await?,
        Fault::OpenSnapshot(lasting) => shop::hold_a_snapshot(arena, lasting).await?,
        Fault::SubscriberFull(lasting) => shop::fill_a_subscriber(arena, lasting).await?,
        Fault::LogFull(pod, lasting) => fill_the_log(arena, pod, lasting).await?,
    }
    arena.timeline.note(format!("over: {fault}"));
    Ok(())
}

/// Deletes a subscriber's queue, and does it again where there was no answer: another fault may strike in the middle.
async fn delete_queue(arena: &Arena, queue: &str) -> Result<()> {
    let deleted = until("the queue is deleted", Duration::from_secs(30), || async {
        arena.till.broker.delete(queue).await.map(|()| true)
    });
    deleted.await.map(drop)
}

async fn kill_pod(arena: &Arena, pod: usize, back_after: Duration) -> Result<()> {
    arena.pods[pod].kill().await?;
    sleep(back_after).await;
    arena.pods[pod].begin().await
}

/// A pod that begins with a log that takes nothing.
async fn fill_the_log(arena: &Arena, pod: usize, lasting: Duration) -> Result<()> {
    let pod = &arena.pods[pod];
    pod.stop().await?;
    pod.begin_with_log(Path::new("/dev/full")).await?;
    sleep(lasting).await;
    pod.stop().await?;
    pod.begin().await
}

async fn freeze_pod(arena: &Arena, pod: usize, lasting: Duration) -> Result<()> {
    arena.pods[pod].signal(Signal::STOP).await?;
    sleep(lasting).await;
    arena.pods[pod].signal(Signal::CONT).await
}

fn each_line(arena: &Arena, pod: usize, end: End, deed: impl Fn(&Breaker)) {
    let pod = &arena.pods[pod];
    match end {
        End::Broker => pod.broker.iter().for_each(deed),
        End::Database => deed(&pod.database),
    }
}

async fn on_line(arena: &Arena, pod: usize, end: End, line: Line, lasting: Duration) {
    each_line(arena, pod, end, |breaker| breaker.set(line));
    sleep(lasting).await;
    each_line(arena, pod, end, |breaker| breaker.set(Line::Up));
}
