//! Makes faults happen, and puts right again what lasts.

use std::sync::Mutex;
use std::time::Duration;

use anyhow::Result;
use lapin::BasicProperties;
use rustix::process::Signal;
use sqlx::Executor;
use tokio::time::{Instant, sleep};

use super::fault::{End, Fault};
use crate::arena::{Arena, TAP};
use crate::breaker::{Breaker, Line};

/// Bodies of what was sent and cannot be understood.
pub type Rubbish = Mutex<Vec<Vec<u8>>>;

/// Makes it happen, and returns when it is over.
pub async fn inject(arena: &Arena, fault: Fault, rubbish: &Rubbish) -> Result<()> {
    let Arena { servers, pods, timeline, .. } = arena;
    timeline.note(format!("{fault}"));
    match fault {
        Fault::PodKilled(pod, back_after) => {
            pods[pod].kill().await?;
            sleep(back_after).await;
            pods[pod].begin().await?;
        }
        Fault::PodFrozen(pod, lasting) => {
            pods[pod].signal(Signal::STOP).await?;
            sleep(lasting).await;
            pods[pod].signal(Signal::CONT).await?;
        }
        Fault::RollingRestart => {
            for pod in pods {
                pod.stop().await?;
                pod.begin().await?;
            }
        }
        Fault::LineCut(pod, end, lasting) => on_line(arena, pod, end, Line::Cut, lasting).await,
        Fault::LineStalled(pod, end, lasting) => on_line(arena, pod, end, Line::Stalled, lasting).await,
        Fault::LineSilenced(pod, end) => lines(arena, pod, end).into_iter().for_each(Breaker::silence),
        Fault::ChannelsClosed(pod) => pods[pod].broker.iter().for_each(Breaker::disturb),
        Fault::BrokerKilled(node, back_after) => {
            let mut rabbit = servers.rabbit.lock().await;
            rabbit.kill(node).await?;
            sleep(back_after).await;
            rabbit.start(node).await?;
        }
        Fault::BrokerRestarted(node) => {
            let mut rabbit = servers.rabbit.lock().await;
            rabbit.stop(node).await?;
            rabbit.start(node).await?;
        }
        Fault::BrokerFrozen(node, lasting) => {
            let rabbit = servers.rabbit.lock().await;
            rabbit.freeze(node)?;
            sleep(lasting).await;
            rabbit.thaw(node)?;
        }
        Fault::ConnectionsClosed => {
            let rabbit = servers.rabbit.lock().await;
            rabbit.ctl(0, &["close_all_connections", "maintenance"]).await?;
        }
        // Its consumers are cancelled, and its wakes are gone.
        Fault::ProcessQueueDeleted => arena.till.announcer.delete("order.process.queue").await?,
        Fault::MemoryAlarm(node, lasting) => {
            alarm(arena, node, lasting, "set_vm_memory_high_watermark", ["0.0000001", "0.6"]).await?;
        }
        Fault::DiskAlarm(node, lasting) => {
            alarm(arena, node, lasting, "set_disk_free_limit", ["900TB", "100MB"]).await?;
        }
        Fault::NodeIsolated(node, lasting) => {
            let rabbit = servers.rabbit.lock().await;
            rabbit.isolate(node).await?;
            sleep(lasting).await;
            rabbit.reunite(node).await?;
        }
        Fault::LaneLeaderKilled(back_after) => {
            let mut rabbit = servers.rabbit.lock().await;
            let node = rabbit.leader_of(&arena.place.name(&format!("order.delay.{BUSIEST}.queue"))).await?;
            timeline.note(format!("the busiest lane is led by node {node}"));
            rabbit.kill(node).await?;
            sleep(back_after).await;
            rabbit.start(node).await?;
        }
        Fault::ClusterRestarted => {
            let mut rabbit = servers.rabbit.lock().await;
            for node in 0..rabbit.nodes() {
                rabbit.wait_until_dispensable(node).await?;
                timeline.note(format!("restarting node {node}"));
                rabbit.stop(node).await?;
                rabbit.start(node).await?;
            }
        }
        Fault::DatabaseKilled(back_after) => {
            let mut postgres = servers.postgres.lock().await;
            postgres.kill().await?;
            sleep(back_after).await;
            postgres.start().await?;
        }
        Fault::DatabaseFrozen(lasting) => {
            let postgres = servers.postgres.lock().await;
            postgres.freeze()?;
            sleep(lasting).await;
            postgres.thaw()?;
        }
        Fault::SessionsTerminated => {
            let others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                          WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
            arena.pool().execute(others).await?;
        }
        Fault::WakesReplayed => {
            let wakes = arena.till.announcer.take(TAP, 200).await?;
            timeline.note(format!("replaying {} wakes, twice", wakes.len()));
            for wake in wakes.iter().chain(&wakes) {
                // As it arrives: the broker takes the expiration off when it moves a message out of a lane.
                let properties = BasicProperties::default()
                    .with_headers(wake.properties.headers().clone().unwrap_or_default());
                arena.till.announcer.publish("order.process", &wake.data, properties).await?;
            }
        }
        Fault::RubbishSent => send_rubbish(arena, rubbish).await?,
        Fault::RowsLocked(lasting) => lock_rows(arena, lasting).await?,
        Fault::LockedTheOtherWayRound(lasting) => lock_the_other_way_round(arena, lasting).await,
        Fault::Rush => rush(arena).await?,
    }
    timeline.note(format!("over: {fault}"));
    Ok(())
}

/// Windows are drawn evenly, so most wakes take the longest lane.
const BUSIEST: &str = "2s";

fn lines(arena: &Arena, pod: usize, end: End) -> Vec<&Breaker> {
    let pod = &arena.pods[pod];
    match end {
        End::Broker => pod.broker.iter().collect(),
        End::Database => vec![&pod.database],
    }
}

async fn on_line(arena: &Arena, pod: usize, end: End, line: Line, lasting: Duration) {
    lines(arena, pod, end).into_iter().for_each(|breaker| breaker.set(line));
    sleep(lasting).await;
    lines(arena, pod, end).into_iter().for_each(|breaker| breaker.set(Line::Up));
}

async fn alarm(
    arena: &Arena,
    node: usize,
    lasting: Duration,
    setting: &str,
    [on, off]: [&str; 2],
) -> Result<()> {
    let rabbit = arena.servers.rabbit.lock().await;
    let raised = rabbit.ctl(node, &[setting, on]).await;
    sleep(lasting).await;
    // In any case: it may have taken effect although no answer came.
    let cleared = rabbit.ctl(node, &[setting, off]).await;
    raised.and(cleared).map(drop)
}

async fn send_rubbish(arena: &Arena, rubbish: &Rubbish) -> Result<()> {
    let wrong = [
        r#"{"order_id": "#,
        r#"{"order_id": -1, "n": "#,
        r#"{"payment_deadline": "soon", "n": "#,
        "\u{7f}\u{0}",
    ];
    for (n, beginning) in wrong.iter().enumerate() {
        let body = format!("{beginning}{n}{}", rand::random::<u64>()).into_bytes();
        rubbish.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(body.clone());
        let key = if n % 2 == 0 { "order.delay" } else { "order.process" };
        arena.till.announcer.publish(key, &body, BasicProperties::default()).await?;
    }
    Ok(())
}

/// Somebody looks at orders that are about to become due, for too long.
async fn lock_rows(arena: &Arena, lasting: Duration) -> Result<()> {
    let mut transaction = arena.pool().begin().await?;
    let locked =
        "SELECT order_id FROM orders WHERE status = 'PENDING' ORDER BY payment_deadline LIMIT 60 FOR UPDATE";
    transaction.execute(locked).await?;
    sleep(lasting).await;
    transaction.rollback().await?;
    Ok(())
}

/// A part of the shop that locks products in the wrong order, again and again.
async fn lock_the_other_way_round(arena: &Arena, lasting: Duration) {
    let until = Instant::now() + lasting;
    while Instant::now() < until {
        // A deadlock's victim: it is what this is for.
        let _ = wrong_way(arena).await;
    }
}

async fn wrong_way(arena: &Arena) -> Result<()> {
    let mut transaction = arena.pool().begin().await?;
    for product in [7, 3, 2, 1] {
        let touch = sqlx::query("UPDATE inventory SET stock = stock WHERE product_id = $1");
        touch.bind(product).execute(&mut *transaction).await?;
        sleep(Duration::from_millis(20)).await;
    }
    let orders = "UPDATE orders SET updated_at = now() WHERE order_id IN (
        SELECT order_id FROM orders WHERE status = 'PENDING' ORDER BY payment_deadline DESC LIMIT 5)";
    transaction.execute(orders).await?;
    transaction.commit().await?;
    Ok(())
}

/// Many orders in one transaction, all due at one moment.
async fn rush(arena: &Arena) -> Result<()> {
    let mut transaction = arena.pool().begin().await?;
    transaction.execute("UPDATE inventory SET stock = stock - 2000 WHERE product_id = 1").await?;
    let placed = "WITH placed AS (
            INSERT INTO orders (user_id, payment_deadline) SELECT 2, now() + interval '1.5 seconds' FROM generate_series(1, 2000)
            RETURNING order_id)
        INSERT INTO order_items SELECT order_id, 1, 1 FROM placed";
    transaction.execute(placed).await?;
    transaction.commit().await?;
    Ok(())
}
