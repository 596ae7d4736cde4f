//! Invariant 6, beside subscribers that refuse events: what one of them cannot take reaches all others at once, and itself when it
//! can again. Wakes do not notice.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use lapin::options::{BasicGetOptions, QueueDeclareOptions, QueuePurgeOptions};
use lapin::types::{AMQPValue, FieldTable};
use overdue::roles::Role;
use overdue::stats::Count;
use serde_json::json;

use crate::harness::{World, eventually, order_of};

const SECOND: Duration = Duration::from_secs(1);

/// A subscriber's queue that takes this many events and refuses the next.
async fn full_queue(world: &World, name: &str, key: &str, takes: i64) {
    let (connection, channel) = world.channel().await;
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(takes));
    arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
    let declare = channel.queue_declare(name.into(), QueueDeclareOptions::durable(), arguments);
    declare.await.expect("a queue");
    world.bind(name, &world.names.events(), key).await;
    connection.close(200, "done".into()).await.expect("closed");
}

async fn purge(world: &World, name: &str) {
    let (connection, channel) = world.channel().await;
    channel.queue_purge(name.into(), QueuePurgeOptions::default()).await.expect("emptied");
    connection.close(200, "done".into()).await.expect("closed");
}

/// Orders as the shop's own program cancels them.
async fn cancel(world: &World, orders: &[i64]) {
    let cancel = sqlx::query("UPDATE orders SET status = 'CANCELLED' WHERE order_id = ANY ($1)").bind(orders);
    cancel.execute(&world.pool).await.expect("cancelled");
}

#[tokio::test]
async fn a_full_subscriber_keeps_no_event_from_the_others_and_gets_its_own_when_it_has_room() {
    World::with(async |world| {
        let pod = world.pod(&[]);
        world.ready().await;
        full_queue(world, "full", "order.closed", 1).await;
        let began = Instant::now();
        let mut events = world.subscribe(&["order.closed", "order.cancelled"]).await;
        let closed = world.place_many(500, SECOND, 2 * SECOND, &[]).await;
        world.all_settled().await;
        let kept: HashSet<i64> =
            world.place_many(100, 3_600 * SECOND, 3_600 * SECOND, &[]).await.into_iter().collect();
        cancel(world, &kept.iter().copied().collect::<Vec<_>>()).await;
        // All are heard, and the outbox is empty, while the subscriber is full.
        let heard = events.all(world).await;
        let orders: HashSet<i64> = heard.keys().map(|id| order_of(id)).collect();
        assert_eq!(orders.len(), closed.len() + kept.len());
        let stats = &pod.shared.stats;
        assert!(stats.get(Count::EventsRefused) >= 499, "{}", stats.get(Count::EventsRefused));
        assert_eq!(stats.get(Count::Rebuilt), 0, "no session breaks over it");
        // The first time, the second on another channel, and sixteen a second after that.
        let (copies, later) = (heard.values().sum::<usize>(), 16 * began.elapsed().as_secs() + 16);
        assert!(copies <= 2 * heard.len() + usize::try_from(later).expect("a count"), "{copies} copies");
        let waiting = "SELECT count(*) FROM refused_events";
        assert!(world.number(waiting).await >= 499);
        assert_eq!(world.number("SELECT count(*) FROM refused_events WHERE kind <> 'order.closed'").await, 0);

        // It survives a change of leader.
        pod.stop().await;
        assert!(world.number(waiting).await >= 499);
        let (connection, channel) = world.channel().await;
        channel
            .queue_delete("full".into(), lapin::options::QueueDeleteOptions::default())
            .await
            .expect("gone");
        connection.close(200, "done".into()).await.expect("closed");
        full_queue(world, "full", "order.closed", 100_000).await;
        world.sql("UPDATE refused_events SET next_try_at = now()").await;
        let pod = world.pod(&[]);
        eventually("nothing is refused any more", async || world.number(waiting).await == 0).await;
        assert!(world.depth("full").await >= 499);
        pod.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_full_subscriber_of_every_key_neither_hears_wakes_nor_delays_them() {
    World::with(async |world| {
        let pod = world.pod(&[("sweep_every", "1h")]);
        world.ready().await;
        let everything = ["order.*", "#"];
        for key in everything {
            full_queue(world, key, key, 1).await;
        }
        world.place_many(200, SECOND, 3 * SECOND, &[]).await;
        world.all_settled().await;
        assert_eq!(pod.shared.stats.get(Count::Swept), 0);
        let late = "SELECT count(*) FROM orders WHERE closed_at > payment_deadline + interval '5 s'";
        assert_eq!(world.number(late).await, 0);
        world.outbox_empty().await;
        let (connection, channel) = world.channel().await;
        for queue in everything {
            let heard = channel.basic_get(queue.into(), BasicGetOptions::default()).await.expect("an answer");
            let heard = heard.unwrap_or_else(|| panic!("{queue} hears nothing"));
            assert_eq!(heard.routing_key.as_str(), "order.closed", "{queue}");
            assert_eq!(heard.message_count, 0, "{queue} took more than it may");
        }
        connection.close(200, "done".into()).await.expect("closed");
        pod.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_refused_event_holds_back_the_later_ones_of_its_order_and_no_others() {
    World::with(async |world| {
        let pod = world.pod(&[]);
        world.ready().await;
        full_queue(world, "full", "order.closed", 1).await;
        // Fills it.
        let filler = world.place(Duration::ZERO, &[]).await;
        world.closed(filler).await;
        let mut events = world.subscribe(&["order.cancelled"]).await;
        let refused = world.place(Duration::ZERO, &[]).await;
        world.closed(refused).await;
        eventually("it is refused", async || pod.shared.stats.get(Count::EventsRefused) > 0).await;
        // The shop revives the order and cancels it: that must not be heard before the close.
        world
            .sql("UPDATE orders SET status = 'PENDING', closed_at = NULL, payment_deadline = now() + interval '1 hour'
                  WHERE status = 'CLOSED'")
            .await;
        let other = world.place(3_600 * SECOND, &[]).await;
        cancel(world, &[filler, refused, other]).await;
        let heard = events.all(world).await;
        let orders: HashSet<i64> = heard.keys().map(|id| order_of(id)).collect();
        assert_eq!(orders, HashSet::from([filler, other]));
        purge(world, "full").await;
        let (id, event) = events.next().await;
        assert_eq!((order_of(&id), &event["type"]), (refused, &json!("order.cancelled")));
        eventually("the subscriber has the close", async || world.depth("full").await == 1).await;
        pod.stop().await;
    })
    .await;
}

#[tokio::test]
async fn two_relays_at_once_lose_no_event_and_tell_each_order_s_in_order_first() {
    World::with(async |world| {
        let pods: Vec<_> = [(), ()]
            .iter()
            .map(|()| overdue::roles::shared::Shared::new(world.config(&[("relay_batch", "5")])).expect("a pod"))
            .collect();
        world.declare().await;
        full_queue(world, "full", "order.closed", 30).await;
        let mut events = world.subscribe(&["order.closed", "order.cancelled"]).await;
        let orders = world.place_many(60, Duration::ZERO, Duration::ZERO, &[]).await;
        // What closing, reviving and cancelling record, each event in a row of its own.
        for n in 0..6 {
            let kind = if n % 2 == 0 { "order.closed" } else { "order.cancelled" };
            let record = sqlx::query(
                "INSERT INTO outbox (kind, recorded_at, order_ids, deadlines, user_ids)
                 SELECT $2, now() + make_interval(secs => $3), ARRAY[o], ARRAY[now()], ARRAY[1] FROM unnest($1::bigint[]) AS o",
            );
            let record = record.bind(&orders).bind(kind).bind(f64::from(n));
            record.execute(&world.pool).await.expect("recorded");
        }
        let stop = tokio_util::sync::CancellationToken::new();
        let relays: Vec<_> = pods
            .iter()
            .map(|pod| {
                let (pod, stop) = (std::sync::Arc::clone(pod), stop.clone());
                tokio::spawn(async move { overdue::roles::relay::session(&pod, &stop).await })
            })
            .collect();
        // Half of the closes are refused at first.
        eventually("some are refused", async || {
            pods.iter().any(|pod| pod.stats.get(Count::EventsRefused) > 0)
        })
        .await;
        let mut first_copies: HashMap<i64, Vec<String>> = HashMap::new();
        let mut seen = HashSet::new();
        let (_connection, channel) = world.channel().await;
        while seen.len() < 6 * orders.len() {
            channel.queue_purge("full".into(), QueuePurgeOptions::default()).await.expect("emptied");
            let (id, event) = events.next().await;
            if seen.insert(id.clone()) {
                let time = event["time"].as_str().expect("a time").to_owned();
                first_copies.entry(order_of(&id)).or_default().push(time);
            }
        }
        for (order, times) in first_copies {
            assert!(times.len() == 6 && times.is_sorted(), "order {order}: {times:?}");
        }
        stop.cancel();
        for relay in relays {
            relay.await.expect("no panic").expect("no error");
        }
        drop(pods);
    })
    .await;
}

#[tokio::test]
async fn a_row_that_cannot_be_read_stops_no_other() {
    World::with(async |world| {
        let pod = world.pod_with_roles(&[Role::Relay, Role::Close], &[]);
        world.ready().await;
        let unreadable = ["'[0:0]={1}', '{now}', '{1}'", "'{1}', '{infinity}', '{1}'", "'{1}', '{now}', '{NULL}'", "'{1}', '{now}', '[0:0]={1}'"];
        for row in unreadable {
            world.sql(&format!("INSERT INTO outbox (kind, order_ids, deadlines, user_ids) VALUES ('order.closed', {row})")).await;
        }
        let wakes = ["'[0:0]={1}', '{now}'", "'{{1},{2}}', '{now,now}'", "'{NULL}', '{now}'", "'{1}', '{infinity}'", "'{1}', '[2:2]={now}'"];
        for row in wakes {
            world.sql(&format!("INSERT INTO outbox (kind, order_ids, deadlines) VALUES ('wake', {row})")).await;
        }
        world.sql("INSERT INTO outbox (kind, recorded_at, order_ids, deadlines) VALUES ('wake', 'infinity', '{1}', '{now}')").await;
        let mut events = world.subscribe(&["order.closed"]).await;
        let order = world.place(SECOND, &[]).await;
        assert_eq!(order_of(&events.next().await.0), order);
        assert_eq!(pod.shared.stats.get(Count::Rebuilt), 0);
        // None of them was taken for told: they stay for whoever wants to know.
        eventually("only they are left", async || world.number("SELECT count(*) FROM outbox").await == 10).await;
        pod.stop().await;
    })
    .await;
}
