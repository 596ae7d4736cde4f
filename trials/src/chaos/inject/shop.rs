//! What the shop, and people, do to the service.

use std::sync::PoisonError;
use std::time::Duration;

use anyhow::Result;
use lapin::BasicProperties;
use lapin::types::AMQPValue;
use overdue_testkit::broker::EVENTS;
use sqlx::Executor;
use tokio::time::{Instant, sleep};

use super::{Rubbish, delete_queue};
use crate::arena::{Arena, TAP};
use crate::shop::Letter;

/// Wakes arrive again, twice, as they did the first time: the broker takes the expiration off when it moves a message out
/// of a lane.
pub async fn replay_wakes(arena: &Arena) -> Result<()> {
    let wakes = arena.till.broker.take(TAP, 200).await?;
    arena.timeline.note(format!("replaying {} wakes, twice", wakes.len()));
    for wake in wakes.iter().chain(&wakes) {
        let headers = wake.properties.headers().clone().unwrap_or_default();
        let properties = BasicProperties::default().with_headers(headers);
        arena.till.broker.publish_until_confirmed("order.process", &wake.data, properties).await?;
    }
    Ok(())
}

/// Messages that nobody can understand.
pub async fn send_rubbish(arena: &Arena, rubbish: &Rubbish) -> Result<()> {
    let wrong = [
        r#"{"order_id": "#,
        r#"{"order_id": -1, "n": "#,
        r#"{"payment_deadline": "soon", "n": "#,
        "\u{7f}\u{0}",
    ];
    for (n, beginning) in wrong.iter().enumerate() {
        let letter = Letter::new(format!("{beginning}{n}{}", rand::random::<u64>()).into_bytes());
        rubbish.lock().unwrap_or_else(PoisonError::into_inner).push(letter.clone());
        let key = if n % 2 == 0 { "order.delay" } else { "order.process" };
        arena.till.broker.publish_until_confirmed(key, &letter.body, letter.properties()).await?;
    }
    Ok(())
}

/// Somebody looks at orders that are about to become due, for too long.
pub async fn lock_rows(arena: &Arena, lasting: Duration) -> Result<()> {
    let mut transaction = arena.pool().begin().await?;
    let locked =
        "SELECT order_id FROM orders WHERE status = 'PENDING' ORDER BY payment_deadline LIMIT 60 FOR UPDATE";
    transaction.execute(locked).await?;
    sleep(lasting).await;
    transaction.rollback().await?;
    Ok(())
}

/// A part of the shop that locks products in the wrong order, again and again.
pub async fn lock_the_other_way_round(arena: &Arena, lasting: Duration) {
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
pub async fn rush(arena: &Arena) -> Result<()> {
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

/// A part of the shop that edits orders while they fall due: one piece more, and soon afterwards its stock.
pub async fn edit_orders(arena: &Arena, lasting: Duration) -> Result<()> {
    let until = Instant::now() + lasting;
    while Instant::now() < until {
        // The order may be closed first, and refuses the edit; a database that is away edits nothing.
        let _ = edit(arena).await;
    }
    Ok(())
}

async fn edit(arena: &Arena) -> Result<()> {
    let mut transaction = arena.pool().begin().await?;
    let edited: Option<(i64, i64)> = sqlx::query_as(
        "UPDATE order_items SET quantity = quantity + 1
         WHERE (order_id, product_id) IN (
             SELECT order_id, product_id FROM orders JOIN order_items USING (order_id)
             WHERE status = 'PENDING' ORDER BY payment_deadline, product_id LIMIT 1)
         RETURNING order_id, product_id",
    )
    .fetch_optional(&mut *transaction)
    .await?;
    sleep(Duration::from_millis(rand::random_range(0..60))).await;
    if let Some((_, product)) = edited {
        let stock = sqlx::query("UPDATE inventory SET stock = stock - 1 WHERE product_id = $1").bind(product);
        stock.execute(&mut *transaction).await?;
    }
    transaction.commit().await?;
    Ok(())
}

/// Somebody dumps the database, or has forgotten a transaction.
pub async fn hold_a_snapshot(arena: &Arena, lasting: Duration) -> Result<()> {
    let mut transaction = arena.pool().begin().await?;
    transaction.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ").await?;
    transaction.execute("SELECT count(*) FROM orders").await?;
    sleep(lasting).await;
    transaction.rollback().await?;
    Ok(())
}

/// A subscriber whose queue is full and refuses what comes.
pub async fn fill_a_subscriber(arena: &Arena, lasting: Duration) -> Result<()> {
    let queue = format!("trial.full.{}", rand::random::<u32>());
    let full = [
        ("x-max-length", AMQPValue::LongLongInt(0)),
        ("x-overflow", AMQPValue::LongString("reject-publish".into())),
    ];
    arena.till.broker.subscribe(&queue, EVENTS, &["order.*"], &full).await?;
    sleep(lasting).await;
    delete_queue(arena, &queue).await
}
