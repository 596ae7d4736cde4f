//! A flood of bad messages, at the intake and straight in the process queue: each is parked with a reason, or
//! acknowledged because the order that it names needs nothing; and orders are closed on time meanwhile.
//!
//! `make flood MESSAGES=100000` runs the long form.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use overdue_testkit::random::{Random, seeded};
use serde_json::json;

use crate::harness::{CONTENT_TYPE, Hostile, Process, World, eventually, patiently, short};

const SECOND: Duration = Duration::from_secs(1);
/// How late an order may be that a flood meets.
const LATEST_BY_SQL: f64 = 2.0;
/// The same for one that is announced by a message, which stands in line behind the flood.
const LATEST_BY_AMQP: f64 = 10.0;
/// More than any pod needs: 1,200 messages of a mebibyte are on their way to it at most.
const MOST_MEMORY: u64 = 1_500_000;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().expect("a number"))
}

/// Publishes bad messages; how many will be parked.
async fn flood(world: &World, dice: &mut Random, count: usize, settled: i64) -> usize {
    let (connection, channel) = world.channel().await;
    channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
    let mut raw = world.raw().await;
    let exchange = world.names.exchange();
    let (mut parks, mut confirms) = (0, Vec::new());
    for n in 0..count {
        let bad = match n % 500 {
            // What no library sends.
            100 => {
                raw.publish("order.delay", CONTENT_TYPE, &short(b"\xff\xfe"), b"1").await;
                parks += 1;
                continue;
            }
            200 if n < 10_000 => Hostile::large(dice, 1 << 20),
            300 => Hostile::large(dice, 257 * 1024),
            _ => Hostile::new(dice, 1_000_000_000_000 + i64::try_from(n).expect("a number"), settled),
        };
        parks += bad.parks;
        let (options, properties) = (BasicPublishOptions::default(), bad.properties.with_delivery_mode(2));
        let publish =
            channel.basic_publish(exchange.as_str().into(), bad.key.into(), options, &bad.body, properties);
        confirms.push(publish.await.expect("published"));
        if confirms.len() == 500 || n + 1 == count {
            for confirm in confirms.drain(..) {
                confirm.await.expect("confirmed");
            }
        }
    }
    connection.close(200, "done".into()).await.expect("closed");
    parks
}

/// Places orders until it is asked to stop, every second one announced by a message alone.
async fn good_orders(world: &World, stop: &AtomicBool) -> (Vec<i64>, Vec<i64>) {
    let (mut by_sql, mut by_amqp) = (Vec::new(), Vec::new());
    while !stop.load(Ordering::Relaxed) {
        by_sql.extend(world.place_many(10, SECOND, 3 * SECOND, &[(1, 1)]).await);
        let mut shop = world.pool.begin().await.expect("a transaction");
        let insert = "INSERT INTO orders (user_id, payment_deadline) VALUES (1, now() + interval '3 s')
                      RETURNING order_id, to_char(payment_deadline AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";
        let (order, deadline): (i64, String) =
            sqlx::query_as(insert).fetch_one(&mut *shop).await.expect("placed");
        let unsay =
            sqlx::query("DELETE FROM outbox WHERE kind = 'wake' AND $1 = ANY (order_ids)").bind(order);
        unsay.execute(&mut *shop).await.expect("no wake of its own");
        shop.commit().await.expect("committed");
        let body = json!({"order_id": order, "payment_deadline": deadline}).to_string();
        world.publish("order.delay", body.as_bytes(), lapin::BasicProperties::default()).await;
        by_amqp.push(order);
    }
    (by_sql, by_amqp)
}

/// The worst lateness in seconds of orders that are all closed.
async fn worst(world: &World, orders: &[i64]) -> f64 {
    let late = sqlx::query_as(
        "SELECT count(*) FILTER (WHERE status = 'CLOSED'), max(extract(epoch FROM closed_at - payment_deadline))::float8
         FROM orders WHERE order_id = ANY ($1)",
    );
    let (closed, worst): (i64, Option<f64>) =
        late.bind(orders).fetch_one(&world.pool).await.expect("lateness");
    assert_eq!(usize::try_from(closed).expect("a count"), orders.len());
    worst.unwrap_or_default()
}

/// No message broke a session, and the pod stops as if nothing had happened.
async fn unimpressed(pod: Process) {
    assert!(!pod.broke_over_what_it_read(), "{}", pod.text());
    pod.stopped().await;
}

#[tokio::test]
async fn a_flood_of_bad_messages_is_parked_and_orders_are_closed_on_time_meanwhile() {
    World::with(async |world| {
        let count = usize::try_from(number("BAD_MESSAGES", 3_000)).expect("a number");
        let mut dice = seeded(number("BAD_MESSAGES_SEED", 7));
        world.stock(1, 1_000_000).await;
        let quick = ["--sweep-grace", "1h", "--max-attempts", "2", "--retry-base", "50ms"];
        let pods = [world.process(&quick), world.process(&quick)];
        world.ready().await;
        let settled = world.place(3600 * SECOND, &[]).await;
        assert!(world.pay(settled).await);

        let (stop, began) = (AtomicBool::new(false), Instant::now());
        let (queue, intake, process) = (world.names.parked(), world.names.intake(), world.names.process());
        let flooding = async {
            let parks = flood(world, &mut dice, count, settled).await;
            let sent = began.elapsed();
            patiently("all is parked", 10 * 60 * SECOND, async || world.depth(&queue).await as usize >= parks).await;
            let parked = began.elapsed();
            stop.store(true, Ordering::Relaxed);
            (parks, sent, parked)
        };
        let ((parks, sent, parked), (by_sql, by_amqp)) = tokio::join!(flooding, good_orders(world, &stop));
        eventually("no good order is open", async || !world.statuses().await.contains_key("PENDING")).await;
        for left in [&intake, &process] {
            eventually("every message is settled", async || world.depth(left).await == 0).await;
        }
        // Once each, unless a session broke for another reason: then what was being parked is parked again.
        let undisturbed = pods.iter().all(|pod| pod.reported("session_broken") == 0);
        let there = world.depth(&queue).await as usize;
        assert!(there == parks || (!undisturbed && there > parks), "{there} parked, not {parks}");
        assert_eq!(world.status(settled).await, "PAID");
        world.assert_stock_conserved(1_000_000).await;

        let (late_sql, late_amqp) = (worst(world, &by_sql).await, worst(world, &by_amqp).await);
        let memory = [pods[0].peak_memory().await, pods[1].peak_memory().await];
        eprintln!(
            "{count} bad messages sent in {sent:.1?}; {parks} parked in {parked:.1?}, {:.0}/s; worst lateness of {} \
             orders by SQL {late_sql:.3} s, of {} by AMQP {late_amqp:.3} s; peak memory of the pods {memory:?} KiB",
            parks as f64 / parked.as_secs_f64(), by_sql.len(), by_amqp.len()
        );
        assert!(late_sql < LATEST_BY_SQL && late_amqp < LATEST_BY_AMQP, "{late_sql} {late_amqp}");
        assert!(memory.iter().all(|kib| *kib < MOST_MEMORY), "{memory:?} KiB");
        let (code, list, _) = world.run(&["parked", "list", "--limit", "500", "--json"]).await;
        let list: Vec<serde_json::Value> = serde_json::from_str(&list).expect("a list");
        assert!(code == 0 && list.iter().all(|parked| parked["reason"] != ""));
        let (began, discard) = (Instant::now(), ["parked", "discard", "--all", "--json"]);
        assert_eq!(world.run(&discard).await.0, 0);
        eprintln!("all discarded in {:.1?}", began.elapsed());
        assert_eq!(world.depth(&queue).await, 0);
        for pod in pods {
            unimpressed(pod).await;
        }
    })
    .await;
}

#[tokio::test]
async fn large_messages_take_bounded_memory_and_larger_ones_are_refused_where_they_are_sent() {
    const MEBIBYTE: usize = 1 << 20;
    const COUNT: usize = 150;
    World::with(async |world| {
        world.declare().await;
        // Sent while no pod runs, so that the pod that comes takes as many at once as it ever does.
        let large = vec![b'7'; MEBIBYTE];
        world.publish_times(COUNT, "order.delay", &large, &lapin::BasicProperties::default()).await;
        let pod = world.process(&["--sweep-grace", "1h"]);
        world.consumed(&world.names.process(), 1).await;
        let order = world.place(SECOND, &[]).await;
        let parked = world.names.parked();
        eventually("all are parked", async || world.depth(&parked).await as usize == COUNT).await;
        world.closed(order).await;
        let peak = pod.peak_memory().await;
        // A hundred in flight, what is on its way out, and what a pod needs anyway.
        assert!(peak < 250_000, "{peak} KiB");

        let larger = vec![b'7'; MEBIBYTE + 1];
        let (_connection, channel) = world.channel().await;
        channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
        let (options, properties) = (BasicPublishOptions::default(), lapin::BasicProperties::default());
        let exchange = world.names.exchange();
        let publish =
            channel.basic_publish(exchange.into(), "order.delay".into(), options, &larger, properties);
        match publish.await.expect("sent").await {
            Err(refused) => {
                assert!(refused.to_string().contains("larger than configured max size 1048576"), "{refused}");
            }
            // A broker without the project's rabbitmq.conf, whose limit is another.
            Ok(_) => {
                eventually("it is parked", async || world.depth(&parked).await as usize == COUNT + 1).await;
            }
        }
        unimpressed(pod).await;
    })
    .await;
}

#[tokio::test]
async fn a_flood_of_orders_that_do_not_exist_delays_no_good_order_and_is_few_lines() {
    const UNKNOWN: usize = 4_000;
    World::with(async |world| {
        let pod = world.process(&["--sweep-grace", "1h", "--max-attempts", "2", "--retry-base", "50ms"]);
        world.stock(1, 1_000_000).await;
        world.ready().await;
        let (connection, channel) = world.channel().await;
        channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
        let (stop, intake) = (AtomicBool::new(false), world.names.intake());
        let flooding = async {
            let exchange = world.names.exchange();
            for first in (0..UNKNOWN).step_by(500) {
                let mut confirms = Vec::new();
                for n in first..first + 500 {
                    let order = 1_000_000_000_000 + n;
                    let body = format!(r#"{{"order_id":{order},"payment_deadline":"2020-01-01T00:00:00Z"}}"#);
                    let properties = lapin::BasicProperties::default().with_delivery_mode(2);
                    let (exchange, options) = (exchange.as_str().into(), BasicPublishOptions::default());
                    let publish = channel.basic_publish(
                        exchange,
                        "order.delay".into(),
                        options,
                        body.as_bytes(),
                        properties,
                    );
                    confirms.push(publish.await.expect("published"));
                }
                for confirm in confirms {
                    confirm.await.expect("confirmed");
                }
            }
            patiently("all are taken", 120 * SECOND, async || world.depth(&intake).await == 0).await;
            patiently("all are parked", 120 * SECOND, async || {
                let (_, list, _) = world.run(&["parked", "list", "--limit", "1000", "--json"]).await;
                let list: Vec<serde_json::Value> = serde_json::from_str(&list).expect("a list");
                let orders = list.iter().map(|parked| parked["order_ids"].as_array().map_or(0, Vec::len));
                orders.sum::<usize>() >= UNKNOWN
            })
            .await;
            stop.store(true, Ordering::Relaxed);
        };
        let placing = async {
            let mut orders = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                orders.extend(world.place_many(10, SECOND, 3 * SECOND, &[(1, 1)]).await);
                // As many as a shop places, and not as many as a loop can.
                world.closed(orders[orders.len() - 10]).await;
            }
            orders
        };
        let ((), orders) = tokio::join!(flooding, placing);
        eventually("no good order is open", async || !world.statuses().await.contains_key("PENDING")).await;
        let late = worst(world, &orders).await;
        let lines = pod.reported("parking_unknown_orders");
        eprintln!(
            "{UNKNOWN} unknown orders: {} good ones at most {late:.3} s late, {lines} lines",
            orders.len()
        );
        assert!(late < LATEST_BY_SQL, "{late}");
        assert!((1..=UNKNOWN / 20).contains(&lines), "{lines} lines");
        connection.close(200, "done".into()).await.expect("closed");
        unimpressed(pod).await;
    })
    .await;
}

#[tokio::test]
async fn the_form_of_our_own_wakes_is_refused_from_services_however_it_comes() {
    World::with(async |world| {
        world.declare().await;
        let many: Vec<_> = (1..=1_000).map(|n| json!([1_000_000_000_000_i64 + n, 0, 0])).collect();
        let body = json!({"wake": many}).to_string();
        // One expires while it waits at the intake, and goes to the process queue.
        let expires = lapin::BasicProperties::default().with_expiration("1".into());
        world.publish("order.delay", body.as_bytes(), expires).await;
        let process = world.names.process();
        eventually("it has expired", async || world.depth(&process).await == 1).await;
        let pod = world.pod(&[]);
        world.publish("order.delay", body.as_bytes(), lapin::BasicProperties::default()).await;
        for parked in world.parked(2).await {
            let reason = parked["reason"].as_str().unwrap_or_default();
            assert!(reason.contains("Overdue's own messages"), "{reason}");
        }
        pod.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_wake_whose_order_is_gone_is_done_and_one_that_a_message_names_is_parked() {
    World::with(async |world| {
        let pod = world.pod(&[("max_attempts", "2"), ("retry_base", "50ms"), ("sweep_grace", "1h")]);
        world.ready().await;
        // A shop that removes its drafts.
        let drafts = world.place_many(500, SECOND, SECOND, &[]).await;
        world.outbox_empty().await;
        let gone = sqlx::query("DELETE FROM orders WHERE order_id = ANY ($1)").bind(&drafts);
        gone.execute(&world.pool).await.expect("gone");
        world
            .publish(
                "order.delay",
                b"1000000000000",
                lapin::BasicProperties::default().with_expiration("1500".into()),
            )
            .await;
        let parked = world.parked(1).await;
        assert_eq!(parked[0]["order_ids"], json!([1_000_000_000_000_i64]));
        // After a later order, the wakes of the drafts have been looked at.
        let order = world.place(SECOND, &[]).await;
        world.closed(order).await;
        let process = world.names.process();
        eventually("every wake is settled", async || world.depth(&process).await == 0).await;
        pod.stop().await;
        assert_eq!(world.depth(&world.names.parked()).await, 1);
    })
    .await;
}
