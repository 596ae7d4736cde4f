//! One bad order never stops another: orders that fail with any code, are slow, or are very large leave the others alone.
//!
//! `MIXES` says how many mixes are drawn (`make mixes`), `SEED` which is the first.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use overdue::closing::sweep::{Look, Pace, sweep};
use overdue::closing::{Closer, Verdict};
use overdue::stats::Count;
use tokio_util::sync::CancellationToken;

use crate::harness::mix::{CODES, HANGS, HUGE, STALLED, draw, is_bad, place};
use crate::harness::{World, eventually, patiently};

const SECOND: Duration = Duration::from_secs(1);

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// Waits until the good orders, and those that are only slow or huge, are closed: within 10 s and within 60 s.
async fn the_good_are_closed(world: &World, what: &str) {
    let good = format!("{what}: every good order is closed within 10 s");
    // The orders' last deadline is the start, on the database's clock.
    eventually(&good, async || {
        world.number("SELECT count(*) FROM orders WHERE user_id IN (0, 4) AND status = 'PENDING'").await == 0
    })
    .await;
    let late = world
        .number("SELECT coalesce(max(extract(epoch FROM closed_at - payment_deadline)), 0)::bigint FROM orders WHERE user_id IN (0, 4)")
        .await;
    assert!(late < 10, "{good}: {late} s");
    patiently(&format!("{what}: what is only slow or huge is closed"), 60 * SECOND, async || {
        world.number("SELECT count(*) FROM orders WHERE user_id IN (2, 3) AND status = 'PENDING'").await == 0
    })
    .await;
}

async fn one_mix(what: String, mix: BTreeMap<usize, i64>) {
    World::with(async |world| {
        let orders = place(world, &mix, Duration::ZERO).await;
        world.sql("UPDATE orders SET payment_deadline = now()").await;
        let config = world.config(&[]);
        let closer =
            Closer::new(&config, world.database(), Arc::default(), Arc::default()).expect("a closer");
        let (done, pace) = (CancellationToken::new(), Pace::of(&config));
        // Again and again, as the role does: a batch that meets a lock is left to the next sweep.
        let sweeping = async {
            loop {
                let (_, outcome) = sweep(&closer, Duration::ZERO, pace, Look::default(), &done, |_| {}).await;
                outcome.expect("the sweep was not ended by any order");
                if done.is_cancelled() {
                    return;
                }
            }
        };
        let watching = async {
            the_good_are_closed(world, &what).await;
            let bad = mix.values().filter(|user| is_bad(**user)).count();
            patiently(&format!("{what}: each bad one is remembered"), 60 * SECOND, async || {
                world.number("SELECT count(*) FROM closing_failures").await
                    == i64::try_from(bad).expect("a count")
            })
            .await;
            done.cancel();
        };
        tokio::join!(sweeping, watching);
        // Each bad one is remembered with its own code and words, and nothing of it has changed.
        let noted: Vec<(i64, String, String)> =
            sqlx::query_as("SELECT order_id, code, reason FROM closing_failures ORDER BY order_id")
                .fetch_all(&world.pool)
                .await
                .expect("the failures");
        let bad: Vec<_> = mix.iter().filter(|(_, user)| is_bad(**user)).collect();
        assert_eq!(noted.len(), bad.len(), "{what}: {noted:?}");
        for ((n, user), (order, code, reason)) in bad.into_iter().zip(noted) {
            assert_eq!(order, orders[*n], "{what}");
            if *user == HANGS {
                assert_eq!(code, "57014", "{what}: {reason}");
            } else {
                assert_eq!(code, CODES[usize::try_from(user - 1_000).expect("a code")], "{what}: {reason}");
                assert!(reason.contains(&format!("order {order} is bad")), "{what}: {reason}");
            }
        }
        world.assert_stock_conserved(1_000).await;
        closer.disconnect().await;
    })
    .await;
}

#[tokio::test]
async fn in_any_mix_the_good_orders_are_closed_and_the_bad_ones_remembered_with_the_true_reason() {
    let (first, mixes) = (number("SEED", 1), number("MIXES", 3));
    // They wait most of the time.
    let mixes = (first..first + mixes).map(|seed| (format!("seed {seed}"), draw(seed)));
    futures_util::stream::iter(mixes).for_each_concurrent(8, |(what, mix)| one_mix(what, mix)).await;
}

#[tokio::test]
async fn an_order_that_hangs_and_one_with_very_many_items_hold_up_nobody() {
    one_mix("one of each".to_owned(), BTreeMap::from([(7, HANGS), (99, HUGE)])).await;
}

#[tokio::test]
async fn three_orders_that_hang_are_each_to_blame_although_none_is_closed_between_their_failures() {
    one_mix("three".to_owned(), BTreeMap::from([(7, HANGS), (8, HANGS), (160, HANGS)])).await;
}

#[tokio::test]
async fn an_order_that_a_stall_makes_slow_does_not_wait_behind_those_that_hang() {
    one_mix("a stall".to_owned(), BTreeMap::from([(7, HANGS), (8, HANGS), (90, STALLED), (99, STALLED)]))
        .await;
}

#[tokio::test]
async fn with_pods_and_broker_the_bad_ones_are_parked_with_the_true_reason() {
    let (first, mixes) = (number("SEED", 1), number("POD_MIXES", 1));
    for seed in first..first + mixes {
        World::with(async |world| {
            let mix = draw(seed);
            let pod = world.pod(&[("max_attempts", "2"), ("retry_base", "100ms")]);
            world.ready().await;
            let orders = place(world, &mix, 2 * SECOND).await;
            the_good_are_closed(world, &format!("seed {seed}")).await;
            let bad: BTreeMap<_, _> =
                mix.iter().filter(|(_, user)| is_bad(**user)).map(|(n, user)| (orders[*n], *user)).collect();
            let queue = world.names.parked();
            patiently("the bad ones are parked", 120 * SECOND, async || {
                world.depth(&queue).await as usize == bad.len()
            })
            .await;
            for parked in world.parked(bad.len()).await {
                let order = parked["order_ids"][0].as_i64().expect("an order");
                let reason = parked["reason"].as_str().expect("a reason");
                let said = match bad[&order] {
                    HANGS => "(SQLSTATE 57014)".to_owned(),
                    code => format!(
                        "order {order} is bad (SQLSTATE {})",
                        CODES[usize::try_from(code - 1_000).expect("a code")]
                    ),
                };
                assert!(reason.contains(&said), "{reason}, not {said}");
            }
            world.assert_stock_conserved(1_000).await;
            pod.stop().await;
        })
        .await;
    }
}

#[tokio::test]
async fn where_no_order_can_be_closed_no_attempt_is_counted_and_all_are_closed_after_the_repair() {
    World::with(async |world| {
        world.stock(1, 1_000).await;
        let pod = world.pod(&[("sweep_grace", "1s"), ("sweep_every", "200ms")]);
        world.ready().await;
        world
            .sql(
                "CREATE FUNCTION broken() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM FROM no_such_table; RETURN NEW; END $$;
                 CREATE TRIGGER broken BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION broken()",
            )
            .await;
        world.place_many(300, SECOND, 2 * SECOND, &[(1, 1)]).await;
        // A pod that starts meanwhile works too, and does not take the trigger's missing table for one of ours.
        let other = world.process(&[]);
        let process = world.names.process();
        eventually("it takes wakes", async || world.consumers(&process).await == 2).await;
        let tried = "all have been tried twice and put off";
        patiently(tried, 60 * SECOND, async || pod.shared.stats.get(Count::Blocked) >= 600).await;
        assert!(pod.shared.stats.get(Count::Failed) <= 2, "{}", pod.shared.stats.get(Count::Failed));
        assert!(world.number("SELECT coalesce(max(attempts), 0)::bigint FROM closing_failures").await <= 1);
        assert_eq!(world.depth(&world.names.parked()).await, 0, "one mistake parks what is due");
        other.stopped().await;
        let log = other.text();
        assert!(!log.contains("database_url") && !log.contains("overdue migrate"), "{log}");
        world.sql("DROP FUNCTION broken CASCADE").await;
        world.all_settled().await;
        assert_eq!(world.depth(&world.names.parked()).await, 0);
        world.assert_stock_conserved(1_000).await;
        let shared = std::sync::Arc::clone(&pod.shared);
        pod.stop().await;
        assert_eq!(shared.stats.get(Count::SweptMissed), 0, "their wakes waited for the repair");
    })
    .await;
}

#[tokio::test]
async fn a_good_order_among_many_that_fail_alike_is_found_and_never_blamed() {
    World::with(async |world| {
        let mix: BTreeMap<_, _> = (0..200).filter(|n| n % 40 != 0).map(|n| (n, 1_001)).collect();
        let orders = place(world, &mix, Duration::ZERO).await;
        world.sql("UPDATE orders SET payment_deadline = now()").await;
        let closer = Closer::new(&world.config(&[]), world.database(), Arc::default(), Arc::default())
            .expect("a closer");
        // Bad ones alone: from now on it is nobody's.
        closer.close(orders[1..20].to_vec()).await.expect("an answer");
        eventually("the five good ones are closed", async || {
            closer.close(orders.clone()).await.expect("an answer");
            world.number("SELECT count(*) FROM orders WHERE user_id = 0 AND status = 'PENDING'").await == 0
        })
        .await;
        let blamed = "SELECT count(*) FROM closing_failures JOIN orders USING (order_id) WHERE user_id = 0";
        assert_eq!(world.number(blamed).await, 0);
        closer.disconnect().await;
    })
    .await;
}

#[tokio::test]
async fn a_batch_that_fails_does_not_meet_its_own_locks() {
    World::with(async |world| {
        let mix: BTreeMap<_, _> = (0..200).step_by(20).map(|n| (n, 1_001)).collect();
        let orders = place(world, &mix, Duration::ZERO).await;
        // Nobody waits for a product either.
        world.sql("DELETE FROM order_items").await;
        let closer = Closer::new(&world.config(&[]), world.database(), Arc::default(), Arc::default())
            .expect("a closer");
        for _ in 0..20 {
            world
                .sql("UPDATE orders SET status = 'PENDING', closed_at = NULL, payment_deadline = now()")
                .await;
            // Connections that are open already are there for the parts at once.
            let open = orders[1..9].iter().map(|order| closer.close(vec![*order]));
            futures_util::future::try_join_all(open).await.expect("answers");
            let batches = orders.chunks(50).map(|batch| closer.close(batch.to_vec()));
            for verdicts in futures_util::future::try_join_all(batches).await.expect("answers") {
                let locked = verdicts.iter().filter(|(_, verdict)| **verdict == Verdict::Locked);
                assert_eq!(locked.count(), 0, "{verdicts:?}");
            }
        }
        closer.disconnect().await;
    })
    .await;
}

#[tokio::test]
async fn the_sweep_looks_again_at_what_was_locked_while_a_batch_of_slow_orders_takes_its_time() {
    World::with(async |world| {
        // The first batch takes 45 s.
        let mix: BTreeMap<_, _> = (0..20).map(|n| (n, HANGS)).collect();
        let orders = place(world, &mix, Duration::ZERO).await;
        world.sql("UPDATE orders SET payment_deadline = now()").await;
        let mut shop = world.pool.begin().await.expect("a transaction");
        let lock = sqlx::query("SELECT FROM orders WHERE order_id = $1 FOR UPDATE").bind(orders[100]);
        lock.execute(&mut *shop).await.expect("locked");
        let config = world.config(&[]);
        let closer =
            Closer::new(&config, world.database(), Arc::default(), Arc::default()).expect("a closer");
        let stop = CancellationToken::new();
        let looking = async {
            world.closed(orders[101]).await;
            shop.rollback().await.expect("released");
            world.closed(orders[100]).await;
        };
        tokio::select! {
            () = looking => {}
            swept = sweep(&closer, Duration::ZERO, Pace::of(&config), Look::default(), &stop, |_| {}) => panic!("{swept:?}"),
        }
        closer.disconnect().await;
    })
    .await;
}
