//! Judges a round by the eight invariants, from the database, the broker, and what shop and subscriber were told.
//! It shares no code with the service.

use std::collections::HashSet;

use anyhow::Result;
use overdue_testkit::shop::Shop;
use sqlx::PgPool;

use crate::shop::letter::Parked;
use crate::shop::script::STOCK;
use crate::shop::{Ledger, Letter, Told};
use overdue_testkit::subscriber::News;

/// What a round has left behind.
#[derive(Debug)]
pub struct Evidence<'a> {
    /// The database.
    pub pool: &'a PgPool,
    /// What the shop was told.
    pub ledger: &'a Ledger,
    /// What the subscriber heard.
    pub news: &'a News,
    /// What is parked.
    pub parked: &'a [Parked],
    /// What was sent and cannot be understood.
    pub rubbish: &'a [Letter],
}

/// What was done in a round, as the database counts it.
#[derive(Clone, Debug, Default, sqlx::FromRow)]
pub struct Tally {
    /// Orders placed.
    pub placed: i64,
    /// Orders paid.
    pub paid: i64,
    /// Orders cancelled.
    pub cancelled: i64,
    /// Orders closed.
    pub closed: i64,
    /// The worst lateness of a close in milliseconds.
    pub latest_ms: f64,
}

/// Every broken promise, in words; empty when all were kept.
pub async fn judge(evidence: &Evidence<'_>) -> Result<Vec<String>> {
    let Evidence { pool, ledger, .. } = evidence;
    let mut broken = Vec::new();

    // 1 and 7: closed only from PENDING, and never before its deadline; and nothing happens to an order afterwards.
    complain(
        &mut broken,
        "closed from a status other than PENDING",
        history(pool, "before <> 'PENDING' AND after = 'CLOSED'").await?,
    );
    complain(&mut broken, "closed early", history(pool, "after = 'CLOSED' AND at < payment_deadline").await?);
    complain(
        &mut broken,
        "changed after it was closed or paid",
        history(pool, "before IN ('CLOSED', 'PAID', 'CANCELLED')").await?,
    );
    complain(
        &mut broken,
        "closed before the deadline it has now",
        orders(pool, "closed_at < payment_deadline").await?,
    );

    // What the shop was told must be so.
    for (told, status) in [(Told::Paid, "PAID"), (Told::Cancelled, "CANCELLED"), (Told::TooLate, "CLOSED")] {
        let ids: Vec<i64> = ledger.iter().filter(|(_, t)| **t == told).map(|(id, _)| *id).collect();
        let others =
            sqlx::query_scalar("SELECT order_id FROM orders WHERE order_id = ANY ($1) AND status <> $2");
        let others: Vec<i64> = others.bind(&ids).bind(status).fetch_all(*pool).await?;
        complain(&mut broken, &format!("of which the shop was told {told:?} is not {status}"), others);
        let found = sqlx::query_scalar("SELECT count(*) FROM orders WHERE order_id = ANY ($1)");
        let found: i64 = found.bind(&ids).fetch_one(*pool).await?;
        if found != i64::try_from(ids.len())? {
            broken.push(format!(
                "{} of {} orders that the shop knows have vanished",
                i64::try_from(ids.len())? - found,
                ids.len()
            ));
        }
    }

    // 3: stock is conserved.
    let unbalanced = Shop { pool: (*pool).clone() }.unbalanced(STOCK).await?;
    if !unbalanced.is_empty() {
        broken.push(format!("stock lost (-) or doubled (+), by product: {unbalanced:?}"));
    }

    // 4: nobody is left overdue.
    complain(
        &mut broken,
        "overdue and PENDING",
        orders(pool, "status = 'PENDING' AND payment_deadline < now()").await?,
    );

    events(evidence, &mut broken).await?;
    messages(evidence, &mut broken);
    Ok(broken)
}

/// 2 and 6: each closed order has its event, one and the same however often it came; nobody else has one.
async fn events(evidence: &Evidence<'_>, broken: &mut Vec<String>) -> Result<()> {
    let News { events, wrong, .. } = evidence.news;
    broken.extend(wrong.iter().map(|wrong| format!("an event: {wrong}")));
    let closed: Vec<i64> = sqlx::query_scalar("SELECT order_id FROM orders WHERE status = 'CLOSED'")
        .fetch_all(evidence.pool)
        .await?;
    let closed: HashSet<i64> = closed.into_iter().collect();
    let (mut told, mut twice, mut orders, mut moments) = (HashSet::new(), Vec::new(), Vec::new(), Vec::new());
    for heard in events.values().filter(|heard| heard.kind == "order.closed") {
        if !told.insert(heard.order_id) {
            twice.push(heard.order_id);
        }
        orders.push(heard.order_id);
        moments.push(heard.body["data"]["closed_at"].as_str().unwrap_or_default().to_owned());
    }
    complain(broken, "closed without an event", closed.difference(&told).copied().collect());
    complain(
        broken,
        "not closed, and yet there is an event that says so",
        told.difference(&closed).copied().collect(),
    );
    complain(broken, "with two different events of its closing", twice);
    let other_moment = sqlx::query_scalar(
        "SELECT order_id FROM unnest($1::bigint[], $2::text[]) AS told (order_id, moment) JOIN orders USING (order_id)
         WHERE closed_at IS DISTINCT FROM nullif(moment, '')::timestamptz",
    );
    let other_moment = other_moment.bind(orders).bind(moments).fetch_all(evidence.pool).await?;
    complain(broken, "closed at another moment than its event says", other_moment);
    Ok(())
}

/// 5: what cannot be understood is parked, every bit of it, with a reason, and nothing else is.
fn messages(evidence: &Evidence<'_>, broken: &mut Vec<String>) {
    let parked: HashSet<&Letter> = evidence.parked.iter().map(|parked| &parked.letter).collect();
    let rubbish: HashSet<&Letter> = evidence.rubbish.iter().collect();
    let shown = |letters: Vec<&&Letter>| -> String {
        let show = |letter: &&&Letter| {
            let Letter { body, message_id, sender } = letter;
            format!("{} (message_id `{message_id}`, by `{sender}`)", String::from_utf8_lossy(body))
        };
        letters.iter().take(5).map(show).collect::<Vec<_>>().join(" | ")
    };
    let lost: Vec<_> = rubbish.difference(&parked).collect();
    if !lost.is_empty() {
        broken.push(format!("{} malformed messages were lost or altered: {}", lost.len(), shown(lost)));
    }
    let innocent: Vec<_> = parked.difference(&rubbish).collect();
    if !innocent.is_empty() {
        broken.push(format!(
            "{} messages were parked that nobody sent so: {}",
            innocent.len(),
            shown(innocent)
        ));
    }
    let mute = evidence.parked.iter().filter(|parked| parked.reason.is_empty()).count();
    if mute > 0 {
        broken.push(format!("{mute} messages were parked without a reason"));
    }
}

fn complain(broken: &mut Vec<String>, what: &str, orders: Vec<i64>) {
    if !orders.is_empty() {
        let first: Vec<_> = orders.iter().take(10).collect();
        broken.push(format!("{} orders {what}: {first:?}", orders.len()));
    }
}

async fn history(pool: &PgPool, condition: &str) -> Result<Vec<i64>> {
    let query =
        format!("SELECT order_id FROM trial_history WHERE before <> after AND {condition} ORDER BY id");
    Ok(sqlx::query_scalar(sqlx::AssertSqlSafe(query)).fetch_all(pool).await?)
}

async fn orders(pool: &PgPool, condition: &str) -> Result<Vec<i64>> {
    let query = format!("SELECT order_id FROM orders WHERE {condition} ORDER BY order_id");
    Ok(sqlx::query_scalar(sqlx::AssertSqlSafe(query)).fetch_all(pool).await?)
}

/// Counts what was done.
pub async fn tally(pool: &PgPool) -> Result<Tally> {
    let tally = sqlx::query_as(
        "SELECT count(*) AS placed, count(*) FILTER (WHERE status = 'PAID') AS paid,
                count(*) FILTER (WHERE status = 'CANCELLED') AS cancelled,
                count(*) FILTER (WHERE status = 'CLOSED') AS closed,
                coalesce(max(extract(epoch FROM closed_at - payment_deadline) * 1000), 0)::float8 AS latest_ms
         FROM orders",
    );
    Ok(tally.fetch_one(pool).await?)
}
