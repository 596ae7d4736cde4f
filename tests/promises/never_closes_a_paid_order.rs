//! Invariants 1 and 7: an order is closed only if it was PENDING and its deadline had passed, in the statement that
//! closes it. A payment that races the close wins or loses whole, and no message, whatever it says, closes early.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use lapin::BasicProperties;
use overdue::stats::Count;
use serde_json::json;
use sqlx::PgPool;

use crate::harness::{World, eventually, order_of};

const SECOND: Duration = Duration::from_secs(1);

/// How many orders become due together while they are being paid.
const RACERS: usize = 1_800;

/// Pays these orders one by one, each as near to its deadline as can be (20 ms before to 5 ms after); those that
/// the database says were paid. A payer who has fallen behind, on a slow machine, goes on with the next whose moment is to come.
async fn pay_at_the_last_moment(pool: PgPool, mut orders: Vec<i64>) -> Vec<i64> {
    // The database waits, on the clock that decides. A few times far too long: however slow the machine, somebody is late.
    let next = "SELECT order_id FROM (
                    SELECT order_id, moment FROM orders, LATERAL (SELECT payment_deadline + make_interval(secs =>
                        CASE order_id % 300 WHEN 0 THEN 0.5 ELSE 0.005 * (order_id % 6 - 4) END) AS moment) AS moments
                    WHERE order_id = ANY ($1) AND moment > clock_timestamp() ORDER BY moment LIMIT 1
                ) AS next, LATERAL pg_sleep_until(moment) AS waited";
    let mut paid = Vec::new();
    while let Some(order) =
        sqlx::query_scalar(next).bind(&orders).fetch_optional(&pool).await.expect("an order, or none")
    {
        orders.retain(|other| *other != order);
        let payment = "UPDATE orders SET status = 'PAID', updated_at = now() WHERE order_id = $1 AND status = 'PENDING'";
        if sqlx::query(payment).bind(order).execute(&pool).await.expect("paid or not").rows_affected() == 1 {
            paid.push(order);
        }
    }
    paid
}

#[tokio::test]
async fn a_payment_that_races_the_close_wins_or_loses_whole() {
    World::with(async |world| {
        world.stock(1, 10_000).await;
        let pods = [world.pod(&[]), world.pod(&[])];
        world.ready().await;
        let mut events = world.subscribe(&["order.closed"]).await;
        let orders = world.place_many(RACERS, 2 * SECOND, 6 * SECOND, &[(1, 1)]).await;

        // Each payer takes every sixth order, so that all of them race all the time.
        let payers: Vec<_> = (0..6)
            .map(|payer| orders.iter().copied().skip(payer).step_by(6).collect())
            .map(|orders| tokio::spawn(pay_at_the_last_moment(world.pool.clone(), orders)))
            .collect();
        let mut paid = HashSet::new();
        for payer in payers {
            paid.extend(payer.await.expect("a payer"));
        }
        world.all_settled().await;

        let statuses: Vec<(i64, String)> = sqlx::query_as("SELECT order_id, status FROM orders")
            .fetch_all(&world.pool)
            .await
            .expect("statuses");
        for (order, status) in &statuses {
            let expected = if paid.contains(order) { "PAID" } else { "CLOSED" };
            assert_eq!(status, expected, "order {order}");
        }
        let closed = RACERS - paid.len();
        assert!(
            paid.len() > RACERS / 100 && closed > RACERS / 100,
            "no race: {} of {RACERS} paid",
            paid.len()
        );
        let told: HashSet<_> = events.all(world).await.keys().map(|id| order_of(id)).collect();
        assert_eq!(told.len(), closed, "one event for each closed order");
        assert!(told.is_disjoint(&paid), "a paid order has a closed event");
        world.assert_stock_conserved(10_000).await;
        for pod in pods {
            pod.stop().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_forged_or_stale_or_repeated_message_closes_nothing_early() {
    World::with(async |world| {
        let pod = world.pod(&[]);
        world.declared().await;
        let order = world.place(8 * SECOND, &[]).await;
        let past = "2020-01-01T00:00:00Z";
        let delay = BasicProperties::default().with_expiration("1".into());
        let wake = BasicProperties::default().with_type("overdue.wake".into());
        let plain = BasicProperties::default();
        for (key, body, properties) in [
            ("order.process", json!({"wake": [[order, 0, 0]]}), &wake),
            ("order.process", json!({"wake": [[order, i64::MIN, 1_000]]}), &plain),
            ("order.process", json!({"order_id": order}), &plain),
            ("order.process", json!({"order_id": order, "payment_deadline": past}), &plain),
            ("order.process", json!(order), &plain),
            ("order.delay.1s", json!({"wake": [[order, 0, 0]]}), &delay),
            ("order.delay", json!({"wake": [[order, 0, 0]]}), &plain),
            ("order.delay", json!({"order_id": order, "payment_deadline": past}), &plain),
            ("order.delay", json!({"order_id": order}), &delay),
            ("order.delay", json!(order), &delay),
        ] {
            world.publish_times(50, key, body.to_string().as_bytes(), properties).await;
        }
        // They are looked at and, the order not being due, scheduled again for the real deadline.
        eventually("messages were looked at", async || pod.shared.stats.get(Count::Rescheduled) > 0).await;
        for queue in [world.names.intake(), world.names.process(), "order.delay.1s.queue".to_owned()] {
            eventually("every message was taken", async || world.depth(&queue).await == 0).await;
        }

        // Early, it would have been refused by the schema and counted as failed; late, it would have been lost.
        let late = world.closed(order).await;
        assert!(late < 3 * SECOND, "{late:?} late");
        assert_eq!(pod.shared.stats.get(Count::Failed), 0);
        assert_eq!(pod.shared.stats.get(Count::Swept), 0);
        eventually("it is counted", async || pod.shared.stats.get(Count::Closed) == 1).await;
        // Services may not use the form of our own wakes.
        assert_eq!(world.depth(&world.names.parked()).await, 50);
        pod.stop().await;
    })
    .await;
}

#[tokio::test]
async fn an_order_paid_long_before_its_wake_stays_paid() {
    World::with(async |world| {
        let pod = world.pod(&[]);
        world.ready().await;
        let witness = pod.shared.stats.get(Count::Closed);
        let orders = world.place_many(20, 3 * SECOND, 3 * SECOND, &[]).await;
        for order in &orders[..10] {
            assert!(world.pay(*order).await);
        }
        world.all_settled().await;
        // The wakes of the paid ones came with those of the others, in one message, which is acknowledged.
        eventually("all is acknowledged", async || world.depth(&world.names.process()).await == 0).await;
        assert_eq!(
            world.statuses().await,
            HashMap::from([("PAID".to_owned(), 10), ("CLOSED".to_owned(), 10)])
        );
        eventually("they are counted", async || pod.shared.stats.get(Count::Closed) == witness + 10).await;
        assert_eq!(pod.shared.stats.get(Count::Failed), 0);
        pod.stop().await;
    })
    .await;
}
