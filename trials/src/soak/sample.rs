//! What is sampled: the panels, and a value for each of their lines.

use anyhow::Result;
use overdue_testkit::process::kib;
use url::Url;

use super::record::{Line, Panel};
use crate::arena::Arena;
use crate::measure::Moment;
use crate::proc;

const MIB: f64 = 1024.0 * 1024.0;

/// The panels, each with how much its lines may grow. Depths and lateness follow the load of the machine, hence their
/// wider limits; a pod that becomes the relay's leader takes some 10 MiB more.
pub fn panels(pods: &[String]) -> Vec<Panel> {
    let each = |share: f64, besides: f64| pods.iter().map(move |pod| Line::flat(pod, share, besides));
    let panel = |title, unit, lines| Panel { title, unit, logarithmic: false, lines };
    vec![
        panel("resident memory", "MiB", each(0.1, 12.0).chain([Line::flat("trial", 0.2, 20.0)]).collect()),
        panel(
            "connections",
            "",
            vec![Line::flat("to PostgreSQL", 0.0, 2.0), Line::flat("to RabbitMQ", 0.0, 1.0)],
        ),
        panel("open files and sockets", "", each(0.0, 4.0).collect()),
        panel(
            "messages ready in queues",
            "",
            vec![
                Line::flat("lanes", 0.25, 50.0),
                Line::flat("intake", 0.25, 50.0),
                Line::flat("process", 0.25, 50.0),
                Line::flat("parked", 0.0, 0.0),
            ],
        ),
        panel("outbox", "rows", vec![Line::flat("waiting", 0.25, 50.0), Line::flat("dead", 0.25, 3_000.0)]),
        Panel {
            logarithmic: true,
            ..panel(
                "lateness of closes",
                "ms",
                vec![Line::flat("p50", 0.5, 20.0), Line::flat("p99", 0.5, 200.0), Line::shown("max")],
            )
        },
        panel(
            "size of tables",
            "MiB",
            vec![
                Line::flat("orders", 0.25, 1.0),
                Line::flat("order_items", 0.25, 1.0),
                Line::flat("outbox", 0.25, 1.0),
            ],
        ),
        panel("orders", "rows", vec![Line::flat("in all", 0.25, 500.0), Line::flat("PENDING", 0.25, 200.0)]),
        panel("done", "orders/s", vec![Line::shown("placed"), Line::shown("closed")]),
    ]
}

#[derive(sqlx::FromRow)]
struct Database {
    connections: i64,
    waiting: i64,
    dead: i64,
    p50: Option<f64>,
    p99: Option<f64>,
    max: Option<f64>,
    orders_size: i64,
    items_size: i64,
    outbox_size: i64,
    orders: i64,
    pending: i64,
    placed: i64,
    closed: i64,
}

/// Of what happened between two moments on the database's clock, where it is about a time and not about a moment.
pub async fn sample(arena: &Arena, from: Moment, until: Moment) -> Result<Vec<f64>> {
    let database: Database = sqlx::query_as(
        "WITH closed AS (
             SELECT extract(epoch FROM closed_at - payment_deadline)::float8 * 1000 AS late FROM orders
             WHERE closed_at > to_timestamp($1) AND closed_at <= to_timestamp($2)
         )
         SELECT (SELECT count(*) FROM pg_stat_activity
                 WHERE application_name = 'overdue' AND datname = current_database()) AS connections,
                (SELECT count(*) FROM outbox) AS waiting,
                (SELECT n_dead_tup FROM pg_stat_user_tables WHERE relid = 'outbox'::regclass) AS dead,
                (SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY late) FROM closed) AS p50,
                (SELECT percentile_cont(0.99) WITHIN GROUP (ORDER BY late) FROM closed) AS p99,
                (SELECT max(late) FROM closed) AS max, (SELECT count(*) FROM closed) AS closed,
                pg_total_relation_size('orders') AS orders_size,
                pg_total_relation_size('order_items') AS items_size,
                pg_total_relation_size('outbox') AS outbox_size,
                count(*) AS orders, count(*) FILTER (WHERE status = 'PENDING') AS pending,
                count(*) FILTER (WHERE created_at > to_timestamp($1) AND created_at <= to_timestamp($2)) AS placed
         FROM orders",
    )
    .bind(from)
    .bind(until)
    .fetch_one(&arena.eyes)
    .await?;

    let (mut memory, mut descriptors, mut broker) = (Vec::new(), Vec::new(), 0);
    for pod in &arena.pods {
        let process = pod.pid().await;
        let gap = |value: f64| if process.is_some() { value } else { f64::NAN };
        memory.push(gap(pod.kib("VmRSS").await.unwrap_or(0) as f64 / 1024.0));
        descriptors.push(gap(process.map_or(0, proc::descriptors) as f64));
        for port in pod.broker.iter().filter_map(|breaker| Url::parse(&breaker.url).ok()?.port()) {
            broker += process.map_or(0, |process| proc::connections(process, port));
        }
    }
    memory.push(kib("self", "VmRSS").unwrap_or(0) as f64 / 1024.0);

    let mut lanes = 0.0;
    for lane in super::LANES.split(',') {
        lanes += depth(arena, &format!("order.delay.{lane}.queue")).await;
    }
    let seconds = (until - from).max(0.001);
    let mut values = memory;
    values.extend([database.connections as f64, broker as f64]);
    values.extend(descriptors);
    values.extend([
        lanes,
        depth(arena, "order.delay.queue").await,
        depth(arena, "order.process.queue").await,
        depth(arena, "order.parked.queue").await,
        database.waiting as f64,
        database.dead as f64,
    ]);
    values.extend([database.p50, database.p99, database.max].map(|late| late.unwrap_or(f64::NAN)));
    values.extend(
        [database.orders_size, database.items_size, database.outbox_size].map(|size| size as f64 / MIB),
    );
    values.extend([database.orders as f64, database.pending as f64]);
    values.extend([database.placed as f64 / seconds, database.closed as f64 / seconds]);
    Ok(values)
}

async fn depth(arena: &Arena, queue: &str) -> f64 {
    arena.till.broker.depth(queue).await.map_or(f64::NAN, f64::from)
}
